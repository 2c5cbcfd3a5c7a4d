"""Answers that are no allowed value, by kind: what a reader of the answers would have to do about them."""

import re
from pathlib import Path

import pandas as pd
from rapidfuzz.distance import OSA

from cancerllm_utils.errors import UserError
from cancerllm_utils.results import clean_files
from cancerllm_utils.tasks.build import read_settings
from cancerllm_utils.tasks.task import NOT_STATED, UNPARSED, read_jsonl

# In this order: an answer is of the first kind that fits.
KINDS = ("empty", "several values", "value among other words", "value of another field", "misspelt value", "not ended", "other words")
COLUMNS = ["model", "stage", "task", "split", "kind", "n", "share", "answers"]
MISSPELT = 0.2  # edits per letter of the value, at most


def kind_of(prediction: str, stop_reason: str, allowed: list[str], others: list[str]) -> str:
    """One of KINDS for an answer that could not be read. allowed: values of its field ([]: open); others: values of the task's other fields."""
    line = " ".join(next((line for line in prediction.splitlines() if line.strip()), "").split()).casefold().strip(" \"'`*.;:")
    if not line:
        return "empty"
    named = [value for value in longest_first([*allowed, NOT_STATED] if allowed else []) if re.search(rf"(?<!\w){re.escape(value.casefold())}(?!\w)", line)]
    named = [value for i, value in enumerate(named) if not any(value.casefold() in longer.casefold() for longer in named[:i])]  # carcinoma in lobular carcinoma
    if named:
        return "several values" if len(named) > 1 else "value among other words"
    if line in {value.casefold() for value in others}:
        return "value of another field"
    if any(len(value) > 3 and OSA.distance(line, value.casefold()) <= MISSPELT * len(value) for value in allowed):
        return "misspelt value"
    return "not ended" if stop_reason == "length" else "other words"


def longest_first(values: list[str]) -> list[str]:
    """The values by falling length."""
    return sorted(values, key=len, reverse=True)


def unparsed_kinds(run_dir) -> pd.DataFrame:
    """How many answers of each predictions/<model>/<stage>/<task>.<split>.jsonl are unparsed, by kind: COLUMNS, share in percent of all `answers`.

    Files without an unparsed answer have one row, kind "none". UserError without predictions or data sets.
    """
    run_dir, rows, fields = Path(run_dir), [], {}
    paths = clean_files(run_dir)
    if not paths:
        raise UserError(f"folder {run_dir / 'predictions'}: there are no predictions. Run 05_prediction first.")
    values = read_settings(run_dir)["values"]
    for path in paths:
        model, stage = path.parts[-3:-1]
        task, split = path.name.removesuffix(".jsonl").split(".", 1)
        if (task, split) not in fields:
            asked = run_dir / "datasets" / task / f"{split}.jsonl"
            fields[task, split] = {row["example_id"]: row["field"] for row in read_jsonl(asked)}
        of_task, answers = fields[task, split], read_jsonl(path)
        kinds = []
        for row in answers:
            if row["parsed"] == UNPARSED:
                field = of_task[row["example_id"]]
                others = [value for name in set(of_task.values()) - {field} for value in values.get(name) or []]
                kinds.append(kind_of(row["prediction"], row.get("stop_reason", ""), values.get(field) or [], others))
        counts = pd.Series(kinds, dtype=object).value_counts()
        for kind in [kind for kind in KINDS if kind in counts] or ["none"]:
            n = int(counts.get(kind, 0))
            rows.append({"model": model, "stage": stage, "task": task, "split": split, "kind": kind, "n": n, "share": 100 * n / max(1, len(answers)), "answers": len(answers)})
    return pd.DataFrame(rows, columns=COLUMNS)


def by_kind(table: pd.DataFrame) -> pd.DataFrame:
    """One row per model, stage and task over all its test sets: answers, unparsed, and the number of each kind that occurs."""
    keys = ["model", "stage", "task"]
    wide = table[table["kind"] != "none"].pivot_table(index=keys, columns="kind", values="n", aggfunc="sum", fill_value=0)
    wide = wide.reindex(columns=[kind for kind in KINDS if kind in wide])
    answers = table.drop_duplicates([*keys, "split"]).groupby(keys)["answers"].sum()
    wide = wide.reindex(answers.index, fill_value=0).astype(int)
    return pd.concat([answers, wide.sum(axis=1).rename("unparsed"), wide], axis=1).reset_index()
