"""Which sentence of the note an extraction rests on: quoted by the model, or found by the words of its answer; verified, and held against the gold span.

A larger model may quote by itself, in one form: the answer, a bar, the quote in double quotes (`Left | "left breast, 2 o'clock"`). For any other answer
the evidence is the sentence of the prompt that shares most with the answer's words and the field's (BM25). That is a reading aid and no proof of what
the model used: for a sample of questions modeling/left_out.py measures that, by how much less likely the answer gets without each sentence.
A quote is verified by exact match against the scrubbed note, up to white space (prompts hold none of the note's line breaks) and Unicode's equal forms.
"""

import re
import unicodedata
from functools import cache
from pathlib import Path

import bm25s
import numpy as np
import pandas as pd

from cancerllm_utils.evaluation import answers as answer_tables
from cancerllm_utils.evaluation import score
from cancerllm_utils.results import model_name, ring_name, task_name
from cancerllm_utils.tasks.context import split_units, terms
from cancerllm_utils.tasks.task import NOT_STATED, UNPARSED, load_task, read_jsonl

# Of the answer's words against the field's: of 0, 0.5, 1, 2, 4 and 8 the best on training questions of the synthetic cohort, by little between 1 and 4.
ANSWER_WEIGHT = 2.0
ITEM_COLUMNS = [*answer_tables.KEYS, "example_id", "method", "quote", "quote_start", "quote_end", "verified", "holds_gold"]
COLUMNS = [*answer_tables.KEYS, "method", "answers", "n", "quoted", "verified", "n_gold", "holds_gold", "low", "high", "reachable", "agree"]
NO_VALUE = ("", NOT_STATED, UNPARSED)
_QUOTED = re.compile(r'(?P<answer>[^\n]*?)\s*\|\s*"(?P<quote>.+)"', re.DOTALL)


# ---- quotes ----------------------------------------------------------------------------------------------------------------------


def split_quote(prediction: str) -> tuple[str, str]:
    """(answer, quote) of a prediction in the form `answer | "quote"`; any other is an answer without a quote ("")."""
    match = _QUOTED.fullmatch(prediction.strip())
    return (match["answer"].strip(), match["quote"].strip()) if match else (prediction, "")


def folded(text: str) -> tuple[str, list[int]]:
    """A text in decomposed Unicode form with white space as single blanks, and the place in `text` of each of its characters."""
    letters, places = [], []
    for place, letter in enumerate(text):
        for piece in unicodedata.normalize("NFKD", letter):
            if not piece.isspace():
                letters.append(piece)
                places.append(place)
            elif letters and letters[-1] != " ":
                letters.append(" ")
                places.append(place)
    return "".join(letters), places


def locate(quote: str, text: str) -> tuple[int, int] | None:
    """(start, end) of a quote's first place in a text, None where it does not stand there."""
    if not quote.strip():
        return None
    start = text.find(quote)
    if start >= 0:
        return start, start + len(quote)
    (wanted, _), (searched, places) = folded(quote), folded(text)
    wanted = wanted.strip()
    start = searched.find(wanted)
    return (places[start], places[start + len(wanted) - 1] + 1) if start >= 0 else None


# ---- sentences -------------------------------------------------------------------------------------------------------------------


def units_in(prompt: str, text: str) -> list[tuple[int, int]]:
    """(start, end) in the note of every unit of its text (context.split_units) that the prompt carries whole."""
    return [(start, end) for start, end in split_units(text) if " ".join(text[start:end].split()) in prompt]


def word_index(units: list[str]) -> bm25s.BM25 | None:
    """BM25 index of the units' words; None where they hold none."""
    corpus = [terms(unit) for unit in units]
    if not any(corpus):
        return None
    index = bm25s.BM25()
    index.index(corpus, show_progress=False)
    return index


def closest(index: bm25s.BM25 | None, answer: str, query: str) -> int | None:
    """Number of the unit that shares most with an answer's words and a field's search words; None where it shares none. The first of equals."""
    known = [[term for term in dict.fromkeys(terms(words)) if index is not None and term in index.vocab_dict] for words in (answer, query)]
    if not any(known):
        return None
    scores = sum(weight * index.get_scores(words) for weight, words in zip((ANSWER_WEIGHT, 1.0), known, strict=True) if words)
    best = int(np.argmax(scores))
    return best if scores[best] > 0 else None


@cache
def is_extraction(task: str) -> bool:
    """Whether a task asks what the text states."""
    return load_task(task)["gold"] == "stated_value"


def gives_value(parsed: str) -> bool:
    """Whether a parsed answer names a value."""
    return parsed not in NO_VALUE


# ---- a run -----------------------------------------------------------------------------------------------------------------------


def material(run_dir: Path, tasks: list[str], splits: list[str]) -> dict[str, dict]:
    """Per question of the tasks and test sets, by example_id: text (the note), units (spans in it), index (of their words), query (the field's search
    words), gold ((start, end) of the gold quote or None)."""
    notes = pd.read_parquet(run_dir / "corpus" / "notes.parquet", columns=["note_id", "text"]).set_index("note_id")["text"]
    labels = pd.read_parquet(run_dir / "corpus" / "labels.parquet", columns=["note_id", "field", "quote_start", "quote_end"]).dropna()
    gold = {(row.note_id, row.field): (int(row.quote_start), int(row.quote_end)) for row in labels.itertuples()}
    found = {}
    for task in tasks:
        fields = load_task(task)["fields"]
        for split in splits:
            path = run_dir / "datasets" / task / f"{split}.jsonl"
            for row in read_jsonl(path) if path.is_file() else []:
                text = notes[row["note_id"]]
                stated = row["answers"] != [NOT_STATED]
                units = units_in(row["prompt"], text)
                found[row["example_id"]] = {"text": text, "units": units, "index": word_index([text[start:end] for start, end in units]),
                                            "query": fields[row["field"]]["query"], "gold": gold.get((row["note_id"], row["field"])) if stated else None}
    return found


def holds(span: tuple[int, int] | None, gold: tuple[int, int] | None) -> bool | None:
    """Whether a quote holds the whole gold quote; None without a gold quote."""
    return None if gold is None else span is not None and span[0] <= gold[0] and gold[1] <= span[1]


def evidence_of(prediction: str, parsed: str, source: dict) -> dict:
    """Evidence of one answer: method (written or words), quote, quote_start, quote_end, verified, holds_gold; no quote where nothing fits."""
    written = split_quote(prediction)[1]
    if written:
        span, method, quote = locate(written, source["text"]), "written", written
    else:
        best = closest(source["index"], parsed, source["query"])
        span, method = (None if best is None else source["units"][best]), "words"
        quote = source["text"][span[0] : span[1]] if span else ""
    return {"method": method, "quote": quote, "quote_start": span[0] if span else None, "quote_end": span[1] if span else None,
            "verified": span is not None, "holds_gold": holds(span, source["gold"])}


def run(run_dir: str | Path, answers: pd.DataFrame, show_text: bool = False, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Write results/evidence.parquet (ITEM_COLUMNS, one row per extraction answer that gives a value) and results/evidence.csv (COLUMNS); returns the second.

    answers: answers.read_answers. show_text: keep the quotes' text, which is the note's; without it the places stand alone. Shares are in %.
    """
    run_dir = Path(run_dir)
    asked = answers[answers["task"].isin([task for task in dict.fromkeys(answers["task"]) if is_extraction(task)])]
    sources = material(run_dir, list(dict.fromkeys(asked["task"])), list(dict.fromkeys(asked["split"])))
    given = asked[~asked["parsed"].isin(NO_VALUE) & asked["example_id"].isin(sources)].reset_index(drop=True)
    known, found = {}, []
    for row in given.itertuples():
        case = (row.example_id, row.prediction, row.parsed)
        if case not in known:  # systems agree
            known[case] = evidence_of(row.prediction, row.parsed, sources[row.example_id])
        found.append(known[case])
    items = given.join(pd.DataFrame(found, columns=ITEM_COLUMNS[5:], index=given.index))
    items = items.assign(**{column: items[column].astype("Int64") for column in ("quote_start", "quote_end")},
                         verified=items["verified"].astype(bool), holds_gold=items["holds_gold"].astype("boolean"),
                         reachable=[any(holds(unit, sources[example]["gold"]) or False for unit in sources[example]["units"]) for example in items["example_id"]])
    table = pd.DataFrame([*summaries(items, n_resamples, seed), *left_out(run_dir, answers, sources, n_resamples, seed)], columns=COLUMNS)
    kept = items[ITEM_COLUMNS] if show_text else items[ITEM_COLUMNS].assign(quote="")
    results = run_dir / "results"
    results.mkdir(parents=True, exist_ok=True)
    score.write_whole(results / "evidence.parquet", lambda file: kept.to_parquet(file, index=False))
    score.write_whole(results / "evidence.csv", lambda file: table.to_csv(file, index=False, float_format="%.6f"))
    return table


def summaries(items: pd.DataFrame, n_resamples: int, seed: int):
    """Yield the rows of evidence.csv: per system, test set and method for all answers, the right and the wrong ones."""
    for key, group in items.groupby([*answer_tables.KEYS, "method"], sort=False):
        for name, part in [("all", group), ("right", group[group["right"]]), ("wrong", group[~group["right"]])]:
            if len(part):
                yield dict(zip([*answer_tables.KEYS, "method"], key)) | {"answers": name} | summary(part, key[3], n_resamples, seed)


def summary(part: pd.DataFrame, split: str, n_resamples: int, seed: int) -> dict:
    """n, quoted, verified (% of the answers), n_gold and of these holds_gold with low and high, reachable (% for which any sentence of the prompt would do)."""
    with_gold = part[part["holds_gold"].notna()]
    held = with_gold["holds_gold"].astype(float)
    low, high = answer_tables.share_interval(held, with_gold, split, n_resamples, seed)
    quoted = part["verified"] | (part["method"] == "written")
    return {"n": len(part), "quoted": 100 * quoted.mean(), "verified": 100 * part["verified"].sum() / quoted.sum() if quoted.any() else np.nan,
            "n_gold": len(with_gold), "holds_gold": 100 * held.mean(), "low": low, "high": high, "reachable": 100 * with_gold["reachable"].mean()}


def left_out(run_dir: Path, answers: pd.DataFrame, sources: dict, n_resamples: int, seed: int) -> list[dict]:
    """Rows of evidence.csv for the sample that modeling/left_out.py measured: the sentence that the answer rests on (method "left out") and the one that
    its words find (method "words"), on the same answers; agree: how often both are the same sentence, in %."""
    rows = []
    for path in sorted(run_dir.glob(f"predictions/*/*/{answer_tables.DEV_FOLDER}/*.left_out.jsonl")):
        (model, stage), task = path.parts[-4:-2], path.name.removesuffix(".left_out.jsonl")
        measured = [row for row in read_jsonl(path) if row["example_id"] in sources]
        mine = answers[(answers["model"] == model) & (answers["stage"] == stage) & (answers["task"] == task) & (answers["split"] == "dev")].set_index("example_id")
        measured = [row for row in measured if row["example_id"] in mine.index]
        if not measured:
            continue
        part = mine.loc[[row["example_id"] for row in measured]].reset_index()
        golds = [sources[row["example_id"]]["gold"] for row in measured]
        felt = [tuple(row["units"][int(np.argmax(row["drops"]))]) for row in measured]
        spans = [evidence_of("", parsed, sources[example]) for example, parsed in zip(part["example_id"], part["parsed"], strict=True)]
        spans = [(found["quote_start"], found["quote_end"]) for found in spans]
        agree = 100 * np.mean([a == b for a, b in zip(felt, spans, strict=True)])
        reachable = [any(holds(unit, gold) or False for unit in sources[example]["units"]) for example, gold in zip(part["example_id"], golds, strict=True)]
        for method, chosen in (("left out", felt), ("words", spans)):
            table = part.assign(method=method, verified=[span[0] is not None for span in chosen], reachable=reachable,
                                holds_gold=pd.array([holds(span if span[0] is not None else None, gold) for span, gold in zip(chosen, golds, strict=True)], dtype="boolean"))
            rows.append({"model": model, "stage": stage, "task": task, "split": "dev", "method": method, "answers": "sample", "agree": agree} | summary(table, "dev", n_resamples, seed))
    return rows


# ---- for readers -----------------------------------------------------------------------------------------------------------------


def sentences(table: pd.DataFrame, systems: list[tuple[str, str]], split: str) -> list[str]:
    """What the evidence is worth, per system of one test set and for the sample that was measured sentence by sentence. table: evidence.csv."""
    found = []
    rows = table[(table["split"] == split) & (table["answers"] != "sample")].set_index(["model", "stage", "task", "method", "answers"])
    for key in [key for system in systems for key in dict.fromkeys(index[:4] for index in rows.index) if key[:2] == system]:
        all_, right = rows.loc[(*key, "all")], rows.loc[(*key, "right")] if (*key, "right") in rows.index else None
        how = "quoted by the model" if key[3] == "written" else "found by its words"
        text = f"{model_name(*key[:2])}, {task_name(key[2])}, {ring_name(split)}: of {all_['n']:.0f} answers that give a value {all_['quoted']:.1f} % name a sentence ({how}); "
        text += f"{all_['verified']:.1f} % of these stand in the note. "
        if right is not None and right["n_gold"]:
            text += f"Of {right['n_gold']:.0f} right answers {right['holds_gold']:.1f} % ({right['low']:.1f} to {right['high']:.1f}) name the sentence that holds the value; one that does stood in the prompt in {right['reachable']:.1f} %."
        found.append(text)
    for (model, stage, task), part in table[table["answers"] == "sample"].groupby(["model", "stage", "task"], sort=False):
        both = part.set_index("method")
        text = f"{model_name(model, stage)}, {task_name(task)}, measured on {both['n'].iloc[0]:.0f} answers to development questions: the sentence without which the answer is least likely is the one found by its words in {both['agree'].iloc[0]:.1f} %. "
        if both["n_gold"].iloc[0]:
            text += "The gold quote stands in " + " and in ".join(f"{row.holds_gold:.1f} % ({row.low:.1f} to {row.high:.1f}) of the sentences {'that the answer rests on' if method == 'left out' else 'found by words'}" for method, row in zip(both.index, both.itertuples())) + f" (n = {both['n_gold'].iloc[0]:.0f})."
        found.append(text)
    return found or ["No extraction answer of this run gives a value."]


def examples_table(run_dir: str | Path, answers: pd.DataFrame, system: tuple[str, str], split: str, n: int = 5, show_text: bool = False) -> pd.DataFrame:
    """The first `n` extraction answers of one system by id, of each field one in turn: question, answer, right, the sentence it rests on, whether it holds the
    gold quote. show_text False (a corpus of real reports): the places in the note instead of its words. Reads results/evidence.parquet."""
    items = pd.read_parquet(Path(run_dir) / "results" / "evidence.parquet")
    items = items.merge(answers[[*answer_tables.KEYS, "example_id", "field", "parsed", "right"]], on=[*answer_tables.KEYS, "example_id"])
    items = items[(items["model"] == system[0]) & (items["stage"] == system[1]) & (items["split"] == split)].sort_values("example_id")
    items = items.assign(turn=items.groupby("field").cumcount()).sort_values(["turn", "field"], kind="stable").head(n)
    return pd.DataFrame([{"question": row.field, "answer": row.parsed, "right": row.right,
                          "sentence": row.quote if show_text else "no sentence" if pd.isna(row.quote_start) else f"characters {row.quote_start} to {row.quote_end} of the note",
                          "holds the gold quote": "" if pd.isna(row.holds_gold) else "yes" if row.holds_gold else "no"} for row in items.itertuples()],
                        columns=["question", "answer", "right", "sentence", "holds the gold quote"])
