"""A second store, of public knowledge: which passage answers a question of CancerGov, and answers that carry the passages they rest on.

Passages come from CancerGov's answers (their questions taken off), oncology trial articles under CC BY or CC0, and CIViC's evidence statements
(corpus/public.py). Measured on CancerGov's own questions: does a passage of the answer to that very question come first? Questions that stand in
the embedded base's training text are left out (modeling/seen_text.py).
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from cancerllm_utils import paths
from cancerllm_utils.corpus import public
from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import retrieval, retrieval_index, stats
from cancerllm_utils.evaluation.metrics import clinical_words, rouge_l
from cancerllm_utils.evaluation.retrieval_index import NAMES
from cancerllm_utils.results import p_text, signed
from cancerllm_utils.tasks.context import split_units
from cancerllm_utils.tasks.task import alpaca_prompt, hash_order, model_prompt, write_jsonl

SOURCES = ("cancergov", "literature", "civic")
PASSAGE_WORDS = 150  # a passage ends with the sentence that reaches so many
DEPTH = 100  # ranks beyond count as not found
INSTRUCTION = "Answer the question about cancer by the given passages."
COLUMNS = ["model", "stage", "retriever", "k", "metric", "value", "low", "high", "n", "pages", "passages"]


def passages_of(text: str) -> list[str]:
    """A text cut into passages of about PASSAGE_WORDS words, at the ends of sentences, each one line."""
    found, words = [], []
    for start, end in split_units(text):
        words += text[start:end].split()
        if len(words) >= PASSAGE_WORDS:
            found.append(" ".join(words))
            words = []
    return found + ([" ".join(words)] if words else [])


def items(data_dir: Path, name: str) -> list[dict]:
    """The texts of one public source: {item, source, cite, page, question ("" without one), text}. cite: the page's address, PMCID or evidence number.

    Of the articles those on oncology. Raises UserError naming the download where the file is missing.
    """
    found, path = [], public.find(name, data_dir)[1]
    for _, content, reason, row, _ in public.entries(name, path):
        if reason:
            continue
        if name == "civic":
            found.append({"item": row["note_id"], "cite": f"CIViC {row['note_id']}", "page": row["note_id"], "question": "", "text": row["text"]})
            continue
        fields = json.loads(content)
        if name == "literature" and fields["oncology"]:
            found.append({"item": row["note_id"], "cite": row["note_id"], "page": row["note_id"], "question": "", "text": row["text"]})
        if name == "cancergov":
            found.append({"item": row["note_id"], "cite": fields["url"], "page": fields["url"], "question": fields["question"], "text": fields["answer"]})
    return [item | {"source": name} for item in {item["item"]: item for item in found}.values()]


def read_store(data_dir: str = "", max_articles: int = 0) -> pd.DataFrame:
    """All passages: source, cite, text, in the order of SOURCES; a passage that stands word for word in two places stands once, under its first source.

    max_articles: at most so many articles (0: all), drawn by hash. Sources whose file is missing are left out with a line; UserError where CancerGov is.
    """
    folder, rows = paths.data_dir(data_dir), []
    for name in SOURCES:
        try:
            texts = items(folder, name)
        except UserError as error:
            if name == "cancergov":
                raise
            print(f"left out: {error}")
            continue
        if name == "literature" and max_articles:
            texts = sorted(texts, key=lambda item: hash_order(0, item["item"]))[:max_articles]
        rows += [{"source": name, "cite": item["cite"], "text": text} for item in texts for text in passages_of(item["text"])]
    return pd.DataFrame(rows).drop_duplicates("text", ignore_index=True)


def read_questions(data_dir: str = "", max_questions: int = 0, seed: int = 42) -> tuple[pd.DataFrame, dict]:
    """CancerGov's questions that the embedded base has not read: (table of item, page, question, answer; counts {asked, seen, kept}).

    max_questions: at most so many (0: all), drawn by hash. A question that two pages ask in the same words stands once per page, as it is asked there.
    """
    from cancerllm_utils.modeling.seen_text import seen_notes  # brings torch

    folder = paths.data_dir(data_dir)
    table = pd.DataFrame(items(folder, "cancergov")).rename(columns={"text": "answer"})
    seen = seen_notes("cancergov", folder)
    fresh = table[~table["item"].isin(seen)]
    chosen = sorted(fresh["item"], key=lambda name: hash_order(seed, name))[: max_questions or None]
    kept = fresh[fresh["item"].isin(set(chosen))].reset_index(drop=True)
    return kept[["item", "page", "question", "answer"]], {"asked": len(table), "seen": int(table["item"].isin(seen).sum()), "kept": len(kept)}


def rank(run_dir: str | Path, store: pd.DataFrame, questions: pd.DataFrame, retrievers: list[str], embedders: dict) -> dict[str, list[np.ndarray]]:
    """{retriever: positions of the DEPTH nearest passages of each question}; indexes are kept in retrieval/knowledge/ of the run. rrf fuses the others."""
    kinds = [name for name in retrievers if name in (*retrieval_index.BY_WORDS, *retrieval_index.BY_VECTORS)]
    built = retrieval.indexes(run_dir, "knowledge", store.assign(example_id=store["cite"]), kinds, embedders)
    ranked = {}
    for kind, index in built.items():
        asked = embedders[kind][1](questions["question"].tolist()) if kind in embedders else questions["question"].tolist()
        ranked[kind] = [retrieval_index.search(index, query, DEPTH) for query in asked]
    if "rrf" in retrievers:
        ranked["rrf"] = [retrieval_index.fuse([ranked[kind][number] for kind in kinds], DEPTH) for number in range(len(questions))]
    return {name: ranked[name] for name in retrievers}


def first_ranks(store: pd.DataFrame, questions: pd.DataFrame, ranked: list[np.ndarray]) -> np.ndarray:
    """Rank (from 1) of the first passage of each question's own answer, infinity where none is among those ranked."""
    place = {text: number for number, text in enumerate(store["text"])}
    ranks = []
    for answer, found in zip(questions["answer"], ranked, strict=True):
        own = {place[text] for text in passages_of(answer) if text in place}
        ranks.append(next((rank for rank, number in enumerate(found.tolist(), 1) if number in own), np.inf))
    return np.array(ranks, dtype=float)


def measures(store: pd.DataFrame, questions: pd.DataFrame, ranked: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Per question, in percent: recall_1, recall_5 (a passage of its answer is first, or among five), mrr (100 / rank, 0 beyond DEPTH) and page_1 (the first passage is of the page that asks)."""
    ranks, cites = first_ranks(store, questions, ranked), store["cite"].tolist()
    page = [bool(len(found)) and cites[int(found[0])] == page for found, page in zip(ranked, questions["page"], strict=True)]
    return {"recall_1": 100.0 * (ranks <= 1), "recall_5": 100.0 * (ranks <= 5), "mrr": 100.0 / ranks, "page_1": 100.0 * np.array(page)}


def quality(store: pd.DataFrame, questions: pd.DataFrame, ranked: dict[str, list], n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """How well each retriever finds a question's own answer: COLUMNS but model, stage and k; percent, intervals over pages (a page asks several questions)."""
    rows = []
    for retriever, lists in ranked.items():
        for metric, values in measures(store, questions, lists).items():
            low, high = stats.cluster_bootstrap(values, questions["page"], n_resamples, seed)
            rows.append({"retriever": retriever, "metric": metric, "value": values.mean(), "low": low, "high": high, "n": len(questions), "pages": questions["page"].nunique(),
                         "passages": len(store)})  # fmt: skip
    return pd.DataFrame(rows)


def passage_prompt(question: str, passages: list[dict], tokenizer, room: int) -> tuple[str, list[dict]]:
    """(prompt with numbered passages before the question, the passages that found room), the last ones left out first; the question is never cut."""
    kept = list(passages)
    while True:
        numbered = "".join(f"[{number}] {passage['text']}\n" for number, passage in enumerate(kept, 1))
        prompt = alpaca_prompt(INSTRUCTION, f"{numbered}Question: {question}")
        if not kept or len(tokenizer(model_prompt(prompt, tokenizer))["input_ids"]) <= room:
            return prompt, kept
        kept.pop()


def answer(network, tokenizer, store: pd.DataFrame, questions: pd.DataFrame, ranked: list[np.ndarray], k: int = 3, max_new_tokens: int = 64, batch_size: int = 16,
           n_resamples: int = 1000, seed: int = 0) -> tuple[pd.DataFrame, list[dict], list[str]]:  # fmt: skip
    """A model's answers to the questions with the first k passages before them, and without, against CancerGov's own.

    Returns (COLUMNS but model, stage and retriever; rows of item, question, answer and the passages it rests on, each with source, cite and text; what the
    passages changed, in words, paired by question, Holm over both measures).
    rouge_l: F1 of the longest common word sequence; words_from_passages: share of the answer's words that stand in the question's first k passages, for the
    answers without passages too, so that what exceeds it comes from reading them. Percent, intervals over pages.
    """
    from cancerllm_utils.modeling import generation

    room, rows, table, kept = network.config.max_position_embeddings - max_new_tokens, store.to_dict("records"), [], []
    asked, measured = questions["question"].tolist(), {}
    given = [passage_prompt(question, [rows[place] for place in places[:k]], tokenizer, room) for question, places in zip(asked, ranked, strict=True)]
    for count, prompts in ((k, [prompt for prompt, _ in given]), (0, [passage_prompt(question, [], tokenizer, room)[0] for question in asked])):
        texts = [found["prediction"] for found in generation.generate(network, tokenizer, prompts, max_new_tokens, batch_size)]
        found = {"rouge_l": [], "words_from_passages": []}
        for text, reference, (_, passages) in zip(texts, questions["answer"], given, strict=True):
            words, known = clinical_words(text), {word for passage in passages for word in clinical_words(passage["text"])}
            found["rouge_l"].append(100 * rouge_l(clinical_words(reference), words) if words else 0.0)
            found["words_from_passages"].append(100 * float(np.mean([word in known for word in words])) if words else 0.0)
        for metric, values in found.items():
            low, high = stats.cluster_bootstrap(np.array(values), questions["page"], n_resamples, seed)
            measured[metric, count > 0] = np.array(values)
            table.append({"k": count, "metric": metric, "value": float(np.mean(values)), "low": low, "high": high, "n": len(questions), "pages": questions["page"].nunique(), "passages": len(store)})
        if count:
            kept = [{"item": item, "question": question, "answer": text, "passages": passages}
                    for item, question, text, (_, passages) in zip(questions["item"], asked, texts, given, strict=True)]  # fmt: skip
    tests = {metric: paired(measured[metric, True], measured[metric, False], questions["page"], n_resamples, seed) for metric in ("rouge_l", "words_from_passages")}
    words = {"rouge_l": "likeness to CancerGov's answer (ROUGE-L)", "words_from_passages": "words that stand in the passages"}
    said = [f"Passages in sight against none, {words[metric]}: {in_words(tests[metric], p)}." for metric, p in zip(tests, stats.holm([test["p"] for test in tests.values()]), strict=True)]
    return pd.DataFrame(table), kept, said


def compared(store: pd.DataFrame, questions: pd.DataFrame, ranked: dict[str, list], n_resamples: int = 1000, seed: int = 0) -> list[str]:
    """Each further retriever against the first one on the same questions, in words: a passage of the answer first, paired, Holm over these tests."""
    values = {name: measures(store, questions, lists)["recall_1"] for name, lists in ranked.items()}
    first, *others = values
    tests = [paired(values[name], values[first], questions["page"], n_resamples, seed) for name in others]
    return [f"{NAMES[name]} against {NAMES[first]}, a passage of the answer first: {in_words(test, p)}." for name, test, p in zip(others, tests, stats.holm([test["p"] for test in tests]), strict=True)]


def paired(a: np.ndarray, b: np.ndarray, pages: pd.Series, n_resamples: int, seed: int) -> dict:
    """a - b over the same questions: difference, low, high, n and p, pages being resampled and permuted."""
    return stats.paired_difference(a, b, pages, n_resamples, seed) | {"p": stats.permutation_test(a, b, pages)}


def in_words(test: dict, p: float) -> str:
    """One paired test in words, p being corrected for the others."""
    return f"{signed(test['difference'])} points (95 % interval {signed(test['low'])} to {signed(test['high'])}, p {p_text(p)}, n = {test['n']})"


def cited(store: pd.DataFrame, questions: pd.DataFrame, ranked: list[np.ndarray], k: int = 3, n: int = 5) -> pd.DataFrame:
    """The references of the first k passages of the first n questions: question, passages (address, PMCID or evidence number, in order), own answer (rank of the first passage of it, "" beyond DEPTH)."""
    ranks, cites = first_ranks(store, questions, ranked), store["cite"].tolist()
    return pd.DataFrame([{"question": question, "passages": ", ".join(f"[{number}] {cites[place]}" for number, place in enumerate(places[:k].tolist(), 1)), "own answer": int(rank) if rank < np.inf else ""}
                         for question, places, rank in zip(questions["question"][:n], ranked[:n], ranks[:n], strict=False)])  # fmt: skip


def study(run_dir: str | Path, model: str, stage: str, retrievers: list[str], data_dir: str = "", max_articles: int = 0, max_questions: int = 0, n_answers: int = 0, k: int = 3,
          dense_name: str = retrieval_index.PACKAGED, precision: str = "auto", load_in_4bit: bool = False, n_resamples: int = 1000, seed: int = 42) -> dict:  # fmt: skip
    """The whole study: {table (COLUMNS), cited, said (lines), compared (paired tests in words), answers (rows of `answer`)}; empty, with a line that says
    which file is missing, without CancerGov's file.

    n_answers: so many of the questions are answered by the model from the first retriever's first k passages; 0: none. The answers with their passages
    also go to retrieval/knowledge/<model>-<stage>.jsonl of the run.
    """
    from cancerllm_utils.modeling import generation, models

    name, found = models.model_entry(model)["name"], {"table": pd.DataFrame(columns=COLUMNS), "cited": pd.DataFrame(), "said": [], "compared": [], "answers": []}
    try:
        store = read_store(data_dir, max_articles)
    except UserError as error:
        return found | {"said": [f"Left out, as it needs public files: {error}"]}
    questions, counts = read_questions(data_dir, max_questions, seed)
    retrievers = [kind for kind in retrieval.usable(retrievers) if kind != "random"]
    embedders, network, tokenizer = {}, None, None
    if "hidden" in retrievers or n_answers:
        network, tokenizer, identity = generation.load_network(run_dir, model, stage, precision, load_in_4bit=load_in_4bit)
    if "hidden" in retrievers:
        embedders["hidden"] = (f"{name} {identity} {network.precision}", lambda texts: retrieval_index.hidden_vectors(network, tokenizer, texts))
    if "dense" in retrievers:
        sentences = retrieval_index.dense_model(dense_name)
        embedders["dense"] = (dense_name, lambda texts: retrieval_index.dense_vectors(sentences, texts))
    ranked = rank(run_dir, store, questions, retrievers, embedders)
    tables, serving = [quality(store, questions, ranked, n_resamples, seed)], next(iter(ranked))
    found["compared"] = compared(store, questions, ranked, n_resamples, seed)
    if n_answers:
        some = questions.head(n_answers)
        table, found["answers"], changed = answer(network, tokenizer, store, some, ranked[serving][: len(some)], k, n_resamples=n_resamples, seed=seed)
        found["compared"] += changed
        tables.append(table.assign(retriever=[serving if count else "none" for count in table["k"]]))
        write_jsonl(Path(run_dir) / "retrieval" / "knowledge" / f"{name}-{stage}.jsonl", found["answers"])
    by_source = store["source"].value_counts()
    found["said"] = [f"{counts['asked']} questions; {counts['seen']} stand in the embedded base's training text and are left out; {counts['kept']} are asked, of {questions['page'].nunique()} pages.",
                     f"{len(store):,} passages: {', '.join(f'{n:,} of {source}' for source, n in by_source.items())}."]  # fmt: skip
    table = pd.concat(tables, ignore_index=True).assign(model=name, stage=stage)
    return found | {"table": table.reindex(columns=COLUMNS), "cited": cited(store, questions, ranked[serving], k)}
