"""Errors that could hurt a patient, by kind and severity: params/shared/severities.yaml says what they are, here they are counted.

A share is told of the questions in which the error was possible: of a side only where there is one.
"""

import re
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from cancerllm_utils import paths
from cancerllm_utils.evaluation import answers as answer_tables
from cancerllm_utils.evaluation import score
from cancerllm_utils.results import model_name, ring_name, task_name
from cancerllm_utils.tasks.task import NOT_STATED, UNPARSED, read_jsonl

FILE = paths.PARAMS / "shared" / "severities.yaml"
CONDITIONS = ("swapped", "called", "steps", "ratio", "members", "groups", "invented")
COLUMNS = [*answer_tables.KEYS, "kind", "severity", "n", "of", "given", "patients", "share", "low", "high"]
ITEM_COLUMNS = ["example_id", *answer_tables.KEYS, "kind", "severity"]
_NUMBER = re.compile(r"(\d+(?:[.,]\d+)?)\s*(mm)?")


@cache
def definitions() -> dict:
    """severities.yaml: kinds (name -> name, severity, why, fields, one of CONDITIONS) and histology_groups. It is kept: do not change it."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def kinds_table() -> pd.DataFrame:
    """What is counted, for readers: severity, error, what it could do, fields; the worst first."""
    return pd.DataFrame([{"severity": kind["severity"], "error": kind["name"], "what it could do": kind["why"],
                          "fields": "all" if kind["fields"] == "all" else ", ".join(kind["fields"])} for kind in definitions()["kinds"].values()])


# ---- one answer ------------------------------------------------------------------------------------------------------------------


def part(pattern: str, text: str) -> str:
    """What a pattern's group finds in a text, in lower case; "" where it finds nothing."""
    match = re.search(pattern, text, re.IGNORECASE)
    return match[1].strip().lower() if match else ""


def centimetres(text: str) -> float:
    """The largest number of a size, in cm ("25 mm" is 2.5); 0.0 without one."""
    return max((float(number.replace(",", ".")) / (10 if unit else 1) for number, unit in _NUMBER.findall(text)), default=0.0)


def group_of(text: str) -> str:
    """The histology group of an answer: malignant, benign, neither, or "" for words that tell nothing."""
    return next((group for group, pattern in definitions()["histology_groups"].items() if re.search(pattern, text, re.IGNORECASE)), "")


def lowered(values: list) -> list[str]:
    return [str(value).lower() for value in values]


def judge_part(kind: dict, gold: str, given: str) -> tuple[bool, bool]:
    """(could the error happen, did it) for one compared part of the truth and of the answer, both as `part` gives them."""
    if "swapped" in kind:
        pairs = [lowered(pair) for pair in kind["swapped"]]
        return any(gold in pair for pair in pairs), any({gold, given} == set(pair) for pair in pairs)
    if "called" in kind:
        possible = gold in lowered(kind["called"]["gold"])
        return possible, possible and given in lowered(kind["called"]["answered"])
    if "steps" in kind:
        order = next((order for order in map(lowered, kind["steps"]["order"]) if gold in order), [])
        least, place = kind["steps"]["at_least"], order.index(gold) if gold in order else 0
        return max(place, len(order) - 1 - place) >= least, given in order and abs(order.index(given) - place) >= least
    if "ratio" in kind:
        true, said = centimetres(gold), centimetres(given)
        return true > 0, true > 0 and said > 0 and max(true / said, said / true) >= kind["ratio"] * (1 - 1e-9)
    if "members" in kind:
        words = set(lowered(kind["members"]))
        return bool(gold), bool(gold and given) and words & set(gold.split()) != words & set(given.split())
    possible = group_of(gold) == kind["groups"]["gold"]
    return possible, possible and group_of(given) == kind["groups"]["answered"]


def judge(kind: dict, field: str, gold: str, parsed: str, prediction: str) -> tuple[bool, bool]:
    """(could this kind of error happen in a question, did it); gold and parsed as data set and prediction file hold them."""
    if kind["fields"] != "all" and field not in kind["fields"]:
        return False, False
    if "invented" in kind:
        return gold == NOT_STATED, gold == NOT_STATED and parsed.strip() not in ("", NOT_STATED, UNPARSED)
    if gold == NOT_STATED:
        return False, False
    given = prediction if parsed == UNPARSED and "groups" in kind else "" if parsed in (NOT_STATED, UNPARSED) else parsed
    patterns = kind["fields"][field]
    parts = [judge_part(kind, part(pattern, gold), part(pattern, given)) for pattern in ([patterns] if isinstance(patterns, str) else patterns)]
    return any(possible for possible, _ in parts), any(wrong for _, wrong in parts)


# ---- tables ----------------------------------------------------------------------------------------------------------------------


def judged(examples: pd.DataFrame) -> pd.DataFrame:
    """One row per question and kind of error that was possible in it: the row's number in `examples` (`row`), example_id, kind, severity, wrong (bool).

    examples: example_id, field, answers (list; several are judged joined), parsed, prediction.
    """
    found, known = [], {}
    columns = zip(examples["example_id"], examples["field"], examples["answers"], examples["parsed"], examples["prediction"], strict=True)
    for row, (example, field, answers, parsed, prediction) in enumerate(columns):
        case = (field, "; ".join(answers), parsed, prediction if parsed == UNPARSED else "")
        if case not in known:  # answers repeat
            verdicts = [(name, kind["severity"], judge(kind, *case)) for name, kind in definitions()["kinds"].items()]
            known[case] = [(name, severity, wrong) for name, severity, (possible, wrong) in verdicts if possible]
        found += [(row, example, *verdict) for verdict in known[case]]
    return pd.DataFrame(found, columns=["row", "example_id", "kind", "severity", "wrong"])


def classify(examples: pd.DataFrame) -> pd.DataFrame:
    """The dangerous errors among answers: example_id, kind, severity, one row per error; an answer may hold several. Columns of `examples` as in `judged`."""
    table = judged(examples)
    return table.loc[table["wrong"].astype(bool), ["example_id", "kind", "severity"]].reset_index(drop=True)


def share_of(wrong: pd.Series, rows: pd.DataFrame, split: str, n_resamples: int, seed: int) -> dict:
    """{n, of, given, patients, share, low, high} of one kind in one test set, share and limits in %; rows: patient_id, institution and parsed of the questions."""
    low, high = answer_tables.share_interval(wrong, rows, split, n_resamples, seed)
    given = ~rows["parsed"].isin(["", NOT_STATED, UNPARSED]) | wrong
    return {"n": int(wrong.sum()), "of": len(wrong), "given": int(given.sum()), "patients": rows["patient_id"].nunique(), "share": 100 * wrong.mean(), "low": low, "high": high}


def run(run_dir: str | Path, answers: pd.DataFrame, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Write results/dangerous.csv (COLUMNS) and results/dangerous_items.parquet (ITEM_COLUMNS) from answers.read_answers; returns the first.

    The table has a row for every kind that was possible, also where it never happened; the items are the errors. In extraction the headline items count.
    """
    answers = answer_tables.counted(answers).reset_index(drop=True)
    table = judged(answers)
    table = table.join(answers[[*answer_tables.KEYS, "patient_id", "institution", "parsed"]], on="row")
    rows = [dict(zip(answer_tables.KEYS, key[:4])) | {"kind": key[4], "severity": group["severity"].iloc[0]} | share_of(group["wrong"].astype(bool), group, key[3], n_resamples, seed)
            for key, group in table.groupby([*answer_tables.KEYS, "kind"], sort=False)]  # fmt: skip
    order = {kind: place for place, kind in enumerate(definitions()["kinds"])}
    counts = pd.DataFrame(rows, columns=COLUMNS).sort_values("kind", key=lambda kinds: kinds.map(order), kind="stable").sort_values(answer_tables.KEYS, kind="stable")
    results = Path(run_dir) / "results"
    results.mkdir(parents=True, exist_ok=True)
    items = table.loc[table["wrong"].astype(bool), ITEM_COLUMNS]
    score.write_whole(results / "dangerous_items.parquet", lambda file: items.to_parquet(file, index=False))
    score.write_whole(results / "dangerous.csv", lambda file: counts.to_csv(file, index=False, float_format="%.6f"))
    return counts.reset_index(drop=True)


# ---- for readers -----------------------------------------------------------------------------------------------------------------


def overview(counts: pd.DataFrame, systems: list[tuple[str, str]], split: str) -> pd.DataFrame:
    """One row per task and kind, one column per system: "errors of questions: share (low to high)"; empty where the error was not possible."""
    rows = answer_tables.of_systems(counts, systems, split)
    texts = rows.assign(text=[f"{row.n} of {row.of}: {row.share:.1f} % ({row.low:.1f} to {row.high:.1f})" for row in rows.itertuples()],
                        system=[model_name(*pair) for pair in zip(rows["model"], rows["stage"])], task=rows["task"].map(task_name),
                        error=rows["kind"].map(lambda kind: definitions()["kinds"][kind]["name"]))
    order = list(dict.fromkeys(zip(texts["task"], texts["severity"], texts["error"])))
    wide = texts.pivot(index=["task", "severity", "error"], columns="system", values="text").reindex(order) if len(texts) else pd.DataFrame()
    return wide.reindex(columns=[model_name(*system) for system in systems if model_name(*system) in wide]).fillna("").rename_axis(columns=None)


def sentences(counts: pd.DataFrame, system: tuple[str, str], split: str) -> list[str]:
    """Per task of one system and test set: which errors happened, the worst first, and how rare those that did not happen may still be."""
    found = []
    rows = counts[(counts["split"] == split) & (counts["model"] == system[0]) & (counts["stage"] == system[1])]
    for task, part in rows.groupby("task", sort=False):
        names = part["kind"].map(lambda kind: definitions()["kinds"][kind]["name"])
        seen = [f"{name} {row.n} of {row.of} ({row.share:.1f} %, {row.low:.1f} to {row.high:.1f}; severity {row.severity})" for name, row in zip(names, part.itertuples()) if row.n]
        never = [f"{name} 0 of {row.of} ({row.given} got a value; up to {row.high:.1f} % is possible)" for name, row in zip(names, part.itertuples()) if not row.n]
        found.append(f"{model_name(*system)}, {task_name(task)}, {ring_name(split)}. " + (f"Happened: {'; '.join(seen)}. " if seen else "No dangerous error happened. ")
                     + (f"Never seen: {'; '.join(never)}." if never else ""))
    return found or ["No question in which a dangerous error was possible was answered."]


def examples_table(run_dir: str | Path, answers: pd.DataFrame, system: tuple[str, str], split: str, n: int = 6, show_text: bool = False) -> pd.DataFrame:
    """Up to `n` dangerous errors of one system, the worst first and of each kind the first by name: severity, error, what the model read, truth, answer.

    answers: answers.read_answers. show_text False (a corpus of real reports): the text is left out, and so is an answer that could not be read.
    """
    rows = answers[(answers["model"] == system[0]) & (answers["stage"] == system[1]) & (answers["split"] == split)]
    rows = answer_tables.counted(rows).sort_values("example_id").drop_duplicates("example_id")
    found = classify(rows).merge(rows, on="example_id")
    order = {kind: place for place, kind in enumerate(definitions()["kinds"])}
    found = found.assign(turn=found.groupby("kind").cumcount(), place=found["kind"].map(order)).sort_values(["turn", "place"]).head(n).sort_values(["place", "turn"])
    prompts = {row["example_id"]: answer_tables.shown_context(row["prompt"]) for task in dict.fromkeys(found["task"])
               for row in read_jsonl(Path(run_dir) / "datasets" / task / f"{split.split('+')[0]}.jsonl")} if show_text else {}
    return pd.DataFrame([{"severity": row.severity, "error": definitions()["kinds"][row.kind]["name"], "question": row.field,
                          "what the model read": prompts.get(row.example_id, "(text of a real report: not shown)"), "truth": "; ".join(row.answers),
                          "answer": row.parsed if row.parsed != UNPARSED or not show_text else row.prediction} for row in found.itertuples()],
                        columns=["severity", "error", "question", "what the model read", "truth", "answer"])
