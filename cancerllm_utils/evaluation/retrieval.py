"""Retrieval-augmented answering: the training examples nearest to a question are put before it as worked examples.

The store holds the training examples of a task; a question may find those of its own field. It never finds itself, its own patient, a near-duplicate
of its note or of the text it shows (corpus/duplicates.py) or, if wished, its own institution. The query is what the model sees of the note, so it
holds no answer that the model does not see as well. What the answers are worth is worked out in retrieval_results.py.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd

from cancerllm_utils.corpus import duplicates
from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import retrieval_index, score
from cancerllm_utils.modeling import generation, models
from cancerllm_utils.modeling.nearest import seen_text
from cancerllm_utils.tasks.task import hash_order, model_prompt, read_jsonl, write_jsonl

INPUT, RESPONSE = "\n\n### Input:\n", "\n\n### Response:\n"
DEPTH = 10  # candidates that are ranked for a question
GUARDS = ("item", "patient", "copy", "institution")  # why a candidate is shut out
COLUMNS = ["example_id", "patient_id", "note_id", "institution", "field", "variant", "text", "answer", "prompt", "answers"]


# ---- the store and the questions ---------------------------------------------------------------------------------------------------


def read_examples(run_dir: str | Path, task: str, split: str) -> pd.DataFrame:
    """The examples of one data set, each once (tuning repeats rare ones): COLUMNS, text being what a model sees of the note."""
    path = Path(run_dir) / "datasets" / task / f"{split}.jsonl"
    if not path.is_file():
        raise UserError(f"file {path}: missing. Run notebook 02_dataset_preparation with this task first.")
    once = {}
    for row in read_jsonl(path):
        once.setdefault(row["example_id"].partition("#")[0], row)
    rows = [{"institution": "", "variant": ""} | row | {"example_id": name, "text": seen_text(row["prompt"]), "answer": row["answers"][0]} for name, row in once.items()]
    return pd.DataFrame(rows, columns=[*COLUMNS, "headline"]).fillna({"institution": "", "variant": ""})


def read_store(run_dir: str | Path, task: str, max_examples: int = 0, seed: int = 42) -> pd.DataFrame:
    """The training examples that may be found (0: all, else so many drawn by hash), COLUMNS."""
    found = read_examples(run_dir, task, "train")
    return drawn(found, max_examples, seed)[COLUMNS]


def read_questions(run_dir: str | Path, task: str, split: str, max_items: int = 0, seed: int = 42) -> pd.DataFrame:
    """The questions of a test set that count in its headline (0: all, else so many drawn by hash), COLUMNS."""
    found = read_examples(run_dir, task, split)
    if task == "phenotype_extraction" and len(found):
        found = found[found["headline"].eq(True)]
    return drawn(found, max_items, seed)[COLUMNS]


def drawn(table: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """`most` rows (0: all) drawn by hash of their example_id, in the table's order."""
    chosen = sorted(table["example_id"], key=lambda name: hash_order(seed, name))[: most or None]
    return table[table["example_id"].isin(set(chosen))].reset_index(drop=True)


def copy_groups(names: list[str], texts: list[str]) -> dict[str, int]:
    """{name: group} of the texts that have an exact or near copy among the others (word 3-grams, Jaccard 0.8)."""
    table = duplicates.near_duplicates(names, duplicates.signatures(texts), lambda rows: [texts[row] for row in rows]) if names else pd.DataFrame()
    return dict(zip(table["note_id"], table["group"], strict=True)) if len(table) else {}


def with_copies(run_dir: str | Path, store: pd.DataFrame, questions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Store and questions with two columns more, copies of the note and copies of the text shown: a group number, or -1 where there is no copy."""
    notes = pd.read_parquet(Path(run_dir) / "corpus" / "notes.parquet", columns=["note_id", "text"])
    notes = notes[notes["note_id"].isin({*store["note_id"], *questions["note_id"]})]
    of_note = copy_groups(notes["note_id"].tolist(), notes["text"].tolist())
    both = pd.concat([store, questions]).drop_duplicates("text")  # equal texts share a group: the first stands for all
    of_text = copy_groups(both["example_id"].tolist(), both["text"].tolist())
    first = dict(zip(both["text"], both["example_id"], strict=True))
    numbers = {name: number for number, name in enumerate(both["example_id"])}

    def marked(table: pd.DataFrame) -> pd.DataFrame:
        names = table["text"].map(first)
        text_copies = [of_text[name] if name in of_text else len(both) + numbers[name] for name in names]  # a text of its own still equals itself
        return table.assign(note_copies=[of_note.get(note, -1) for note in table["note_id"]], text_copies=text_copies)

    return marked(store), marked(questions)


def coded(store: pd.DataFrame, questions: pd.DataFrame) -> tuple[dict[str, np.ndarray], list[dict]]:
    """What the guards compare, as numbers, which are compared a hundred times as fast as words: (columns of the store, one dict a question); "" is -1."""
    columns, rows = {}, {}
    for name in ("example_id", "note_id", "patient_id", "institution", "field", "variant"):
        both = pd.concat([store[name], questions[name]], ignore_index=True)
        numbers = pd.factorize(both.where(both.ne("")))[0]  # missing is -1
        columns[name], rows[name] = numbers[: len(store)], numbers[len(store) :]
    for name in ("note_copies", "text_copies"):
        columns[name], rows[name] = store[name].to_numpy(), questions[name].to_numpy()
    return columns, pd.DataFrame(rows).to_dict("records")


def shut_out(store: dict[str, np.ndarray], question: dict, other_institution: bool = False) -> dict[str, np.ndarray]:
    """For one question, which examples of the store each of GUARDS shuts out: {guard: bool (n,)}. Both as `coded` gives them."""
    return {
        "item": (store["example_id"] == question["example_id"]) | (store["note_id"] == question["note_id"]),
        "patient": store["patient_id"] == question["patient_id"],
        "copy": ((store["note_copies"] == question["note_copies"]) & (question["note_copies"] >= 0)) | (store["text_copies"] == question["text_copies"]),
        "institution": (store["institution"] == question["institution"]) & bool(other_institution and question["institution"] >= 0),
    }


# ---- ranking -----------------------------------------------------------------------------------------------------------------------


def indexes(run_dir: str | Path, task: str, store: pd.DataFrame, kinds: list[str], embedders: dict) -> dict[str, dict]:
    """{kind: index} of the store's texts, read from retrieval/<task>/ where it was made of the same texts and model, else built and saved there.

    embedders: {kind: (name of the model and its weights, function texts -> vectors)} for dense and hidden.
    """
    found = {}
    for kind in kinds:
        who = embedders[kind][0] if kind in embedders else ""
        made = retrieval_index.digest(kind, who, models.library_versions() if who else "", store["example_id"].tolist(), store["text"].tolist())
        folder = Path(run_dir) / "retrieval" / task / (f"{kind}-{retrieval_index.digest(who)}" if who else kind)
        index = retrieval_index.load(folder, made)
        if index is None:
            texts = store["text"].tolist()
            begun = time.monotonic()
            index = retrieval_index.build(kind, texts, embedders[kind][1](texts) if kind in embedders else None)
            index["seconds"] = time.monotonic() - begun
            retrieval_index.save(index, folder, made)
        index["bytes"] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        found[kind] = index
    return found


def rank(store: pd.DataFrame, questions: pd.DataFrame, found: dict[str, dict], retrievers: list[str], embedders: dict, other_institution: bool = False,
         seed: int = 42) -> dict:  # fmt: skip
    """Candidates of every question by every retriever, at most DEPTH, best first, guards applied.

    Returns {ranked: {retriever: list of position arrays}, allowed: list of bool arrays, guarded: {retriever: list of the guards that shut out the
    candidate that would have come first, "" where none did}, seconds: {retriever: seconds a question}}. rrf fuses the other retrievers named.
    """
    columns, rows = coded(store, questions)
    names, asked_names = store["example_id"].tolist(), questions["example_id"].tolist()
    out = {"ranked": {name: [] for name in retrievers}, "allowed": [], "guarded": {name: [] for name in retrievers}, "seconds": dict.fromkeys(retrievers, 0.0)}
    queries = {}
    for kind in found:
        begun = time.monotonic()
        queries[kind] = embedders[kind][1](questions["text"].tolist()) if kind in embedders else questions["text"].tolist()
        out["seconds"][kind] = time.monotonic() - begun
    for number, row in enumerate(rows):
        asked = (columns["field"] == row["field"]) & (columns["variant"] == row["variant"])
        guards = shut_out(columns, row, other_institution)
        allowed = asked & ~np.logical_or.reduce(list(guards.values()))
        out["allowed"].append(allowed)
        for kind, index in found.items():
            begun = time.monotonic()
            out["ranked"][kind].append(retrieval_index.search(index, queries[kind][number], DEPTH, allowed))
            out["seconds"][kind] += time.monotonic() - begun
            first = retrieval_index.search(index, queries[kind][number], 1, asked)
            out["guarded"][kind].append(next((name for name in GUARDS if len(first) and guards[name][first[0]]), ""))
        if "rrf" in retrievers:
            out["ranked"]["rrf"].append(retrieval_index.fuse([out["ranked"][kind][-1] for kind in found], DEPTH))
            out["guarded"]["rrf"].append("")
        if "random" in retrievers:
            out["ranked"]["random"].append(retrieval_index.by_lot(names, DEPTH, allowed, seed, asked_names[number]))
            out["guarded"]["random"].append("")
    out["seconds"] = {name: total / max(1, len(rows)) for name, total in out["seconds"].items()}
    return out


def usable(retrievers: list[str]) -> list[str]:
    """The retrievers that can run here; a line for each that cannot says what to install. UserError for an unknown name, or where none is left."""
    for name in retrievers:
        if name not in retrieval_index.RETRIEVERS:
            raise UserError(f"retrievers: {name} is unknown. Choose some of {', '.join(retrieval_index.RETRIEVERS)}.")
    absent = retrieval_index.missing_libraries(retrievers)
    for name, remedy in absent.items():
        print(f"retriever {name} is left out, its library is not installed: .venv/bin/{remedy}")
    left = [name for name in retrievers if name not in absent]
    if "rrf" in left and sum(name in left for name in (*retrieval_index.BY_WORDS, *retrieval_index.BY_VECTORS)) < 2:
        print("retriever rrf is left out: it fuses two retrievers at least")
        left.remove("rrf")
    if not left:
        raise UserError("retrievers: none of them can run here. Add bm25, which needs nothing further.")
    return left


# ---- prompts and answers -----------------------------------------------------------------------------------------------------------


def worked_prompt(prompt: str, examples: list[tuple[str, str]], tokenizer, room: int) -> tuple[str, int]:
    """The prompt with worked examples (text, answer; nearest first) before the question, and how many of them it holds.

    Each stands as an input and a response of its own, the nearest last, next to the question. Where they do not fit into `room` tokens the farthest are
    left out, one by one; the question and the instruction are never cut.
    """
    head, question = prompt.split(INPUT, 1)
    kept = list(examples)
    while kept:
        whole = head + "".join(INPUT + text + RESPONSE + answer for text, answer in reversed(kept)) + INPUT + question
        if len(tokenizer(model_prompt(whole, tokenizer))["input_ids"]) <= room:
            return whole, len(kept)
        kept.pop()
    return prompt, 0


def conditions(retrievers: list[str], ks: list[int]) -> list[tuple[str, int]]:
    """(retriever, k) of everything that is answered, no example first."""
    return [(retrieval_index.NONE, 0), *((name, k) for name in retrievers for k in ks)]


def asked_prompts(store: pd.DataFrame, questions: pd.DataFrame, ranked: dict[str, list], ks: list[int], tokenizer, room: int) -> tuple[list[dict], pd.DataFrame]:
    """Every distinct prompt as a row to answer, and which question and condition it belongs to.

    Returns (rows with a prompt_id as example_id; table of example_id, retriever, k, used, nearest (answer of the nearest example used, "" without), prompt_id).
    """
    texts, answers = store["text"].tolist(), store["answer"].tolist()
    rows, belongs = {}, []
    for number, question in enumerate(questions.to_dict("records")):
        for retriever, k in conditions(list(ranked), ks):
            places = ranked[retriever][number][:k].tolist() if k else []
            prompt, used = worked_prompt(question["prompt"], [(texts[place], answers[place]) for place in places], tokenizer, room)
            name = f"{question['example_id']}@{retrieval_index.digest(prompt)}"
            rows.setdefault(name, {"example_id": name, "task": question["task"], "field": question["field"], "prompt": prompt, "answers": question["answers"]})
            belongs.append({"example_id": question["example_id"], "retriever": retriever, "k": k, "used": used, "nearest": answers[places[0]] if used else "", "prompt_id": name})
    return list(rows.values()), pd.DataFrame(belongs)


def answer_folder(run_dir: str | Path, model: str, stage: str) -> Path:
    """retrieval/<model>/<stage>/ of a run: prompts, what was retrieved, answers."""
    return Path(run_dir) / "retrieval" / models.model_entry(model)["name"] / stage


def split_answers(folder: Path, task: str, split: str, belongs: pd.DataFrame) -> None:
    """One prediction file per condition, <task>.<split>+<retriever>_k<k>.jsonl, from the answers to the distinct prompts."""
    answered = {row["example_id"]: row for row in read_jsonl(folder / "answers" / f"{task}.{split}.jsonl")}
    for (retriever, k), part in belongs.groupby(["retriever", "k"], sort=False):
        rows = [answered[row.prompt_id] | {"example_id": row.example_id, "nearest": row.nearest, "used": row.used} for row in part.itertuples()]
        write_jsonl(folder / "predictions" / f"{task}.{split}+{retriever}_k{k}.jsonl", rows)


def run_stage(run_dir: str | Path, model: str, stage: str, tasks: list[str], test_sets: list[str], retrievers: list[str], ks: list[int], max_items: int = 0,
              max_examples: int = 0, other_institution: bool = False, dense_name: str = retrieval_index.PACKAGED, max_prompt_tokens: int = 0, max_new_tokens: int = 24,
              batch_size: int = 32, precision: str = "auto", load_in_4bit: bool = False, why: str = "09_retrieval", seed: int = 42) -> list[dict]:  # fmt: skip
    """Retrieve for every question of the tasks and test sets, and answer it without and with worked examples, with one stage of a model.

    max_prompt_tokens: longest prompt, 0 for what the model reads. Everything goes below retrieval/ of the run; a call that was killed goes on where it
    stopped. Returns per task and test set {model, stage, task, split, store, questions, ks, ranked, allowed, guarded, seconds, indexes, folder, left_out},
    left_out being the examples that found no room or were not there. A test set without questions is left out. Each set outside train and dev gets a line in results/ledger.csv.
    """
    if not ks or min(ks) < 1 or max(ks) > DEPTH:
        raise UserError(f"ks {ks}: numbers of worked examples, 1 to {DEPTH} each. Set ks: [1, 3].")
    retrievers, name = usable(retrievers), models.model_entry(model)["name"]
    network, tokenizer, identity = generation.load_network(run_dir, model, stage, precision, load_in_4bit=load_in_4bit)
    room = min(max_prompt_tokens or network.config.max_position_embeddings, network.config.max_position_embeddings) - max_new_tokens
    embedders = {}
    if "dense" in retrievers:
        sentences = retrieval_index.dense_model(dense_name)
        embedders["dense"] = (dense_name, lambda texts: retrieval_index.dense_vectors(sentences, texts))
    if "hidden" in retrievers:
        embedders["hidden"] = (f"{name} {identity} {network.precision}", lambda texts: retrieval_index.hidden_vectors(network, tokenizer, texts))
    kinds = [kind for kind in retrievers if kind in (*retrieval_index.BY_WORDS, *retrieval_index.BY_VECTORS)]
    found, folder = [], answer_folder(run_dir, model, stage)
    for task in tasks:
        plain = read_store(run_dir, task, max_examples, seed)
        built = indexes(run_dir, task, plain, kinds, embedders)
        for split in test_sets:
            questions = read_questions(run_dir, task, split, max_items, seed)
            if questions.empty or plain.empty:
                print(f"{task}, {split}: no question, or no training example to find")
                continue
            questions["task"] = task
            store, questions = with_copies(run_dir, plain, questions)
            result = rank(store, questions, built, retrievers, embedders, other_institution, seed)
            rows, belongs = asked_prompts(store, questions, result["ranked"], ks, tokenizer, room)
            asked = folder / "prompts" / f"{task}.{split}.jsonl"
            write_jsonl(asked, rows)
            write_jsonl(folder / "retrieved" / f"{task}.{split}.jsonl", retrieved_rows(store, questions, result["ranked"]))
            generation.predict_file(network, tokenizer, asked, folder / "answers" / f"{task}.{split}.jsonl", identity, generation.allowed_answers(run_dir, task),
                                    max_new_tokens=max_new_tokens, batch_size=batch_size, label=f"{name} {stage} {task}.{split} with worked examples")
            split_answers(folder, task, split, belongs)
            wanted = belongs["k"].sub(belongs["used"])[belongs["k"] > 0]
            found.append({"model": name, "stage": stage, "task": task, "split": split, "store": store, "questions": questions, "ks": ks, "folder": folder,
                          "indexes": built, "left_out": int(wanted.sum()), **result})  # fmt: skip
    for split in dict.fromkeys(one["split"] for one in found):
        score.append_ledger(run_dir, split, why)
    return found


def retrieved_rows(store: pd.DataFrame, questions: pd.DataFrame, ranked: dict[str, list]) -> list[dict]:
    """What each retriever found for each question, by id and without any text: {example_id, retriever, candidates}."""
    names = store["example_id"].tolist()
    return [{"example_id": question, "retriever": retriever, "candidates": [names[place] for place in places]}
            for retriever, lists in ranked.items() for question, places in zip(questions["example_id"], lists, strict=True)]


def described(found: list[dict]) -> pd.DataFrame:
    """One row per task and test set: questions, patients, training examples in the store, candidates a question may find, worked examples not shown (no room, or none found)."""
    return pd.DataFrame([
        {"task": one["task"], "split": one["split"], "questions": len(one["questions"]), "patients": one["questions"]["patient_id"].nunique(), "store": len(one["store"]),
         "candidates a question (median)": int(np.median([allowed.sum() for allowed in one["allowed"]])), "worked examples not shown": one["left_out"]}
        for one in found
    ])  # fmt: skip
