"""The tables that notebooks 01 and 02 show; each takes frames and returns a frame."""

import json
from pathlib import Path

import pandas as pd

from cancerllm_utils.corpus.screening import RINGS


def flow_table(flow: list[dict]) -> pd.DataFrame:
    """From the files to the cohort: one row per step, with what was dropped and why."""
    return pd.DataFrame(flow).fillna("")


def table_one(corpus: dict) -> pd.DataFrame:
    """Patients, notes, institutions, sites, cancer types, words per note (median, quartiles), age and sex where known, by split ring."""
    notes = corpus["notes"].merge(corpus["splits"], on="patient_id")
    notes["words"] = notes["text"].str.split().str.len()
    patients = corpus["patients"].merge(corpus["splits"], on="patient_id")
    columns = {}
    for ring in ("all", *RINGS):
        part = notes if ring == "all" else notes[notes["split"] == ring]
        people = patients if ring == "all" else patients[patients["split"] == ring]
        people = people[people["patient_id"].isin(part["patient_id"])]
        low, middle, high = part["words"].quantile([0.25, 0.5, 0.75]) if len(part) else (0, 0, 0)
        column = {
            "patients": f"{part['patient_id'].nunique():,}", "notes": f"{len(part):,}", "cancer types": part["cancer_type"].nunique(),
            "institutions": part["institution"].nunique(), "sites": part["site"].nunique(),
            "words per note, median (quartiles)": f"{middle:.0f} ({low:.0f}-{high:.0f})",
        }  # fmt: skip
        if "age" in people:
            age = pd.to_numeric(people["age"], errors="coerce").dropna()
            column["age, median (n known)"] = f"{age.median():.0f} ({len(age):,})" if len(age) else "unknown"
        if "gender" in people:
            sex = people["gender"].dropna().str.upper()
            column["women, % (n known)"] = f"{100 * (sex == 'FEMALE').mean():.0f} ({len(sex):,})" if len(sex) else "unknown"
        columns[ring] = column
    return pd.DataFrame(columns).fillna("")


def scrubbed_table(removed: dict[str, int]) -> pd.DataFrame:
    """What scrubbing took out, by kind."""
    return pd.DataFrame([{"kind": kind, "removed": n} for kind, n in sorted(removed.items(), key=lambda item: -item[1])], columns=["kind", "removed"])


def evidence_table(labels: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Per field: in how many notes the text states it, clearly does not, or leaves it uncertain; and how many have a registry value."""
    table = labels.merge(splits, on="patient_id")
    counts = table.pivot_table(index="field", columns="evidence", values="note_id", aggfunc="count", fill_value=0)
    counts["registry value"] = table[table["registry_value"].notna()].groupby("field").size()
    return counts.reset_index().fillna(0)


def examples_table(run_dir: Path, tasks: list[str], corpus: str, report_text: bool = False) -> pd.DataFrame:
    """One training example of each task and input; note text is shown for the synthetic cohort only, unless `report_text` allows it."""
    rows = []
    for task in tasks:
        seen = set()
        with open(run_dir / "datasets" / task / "train.jsonl", encoding="utf-8") as lines:
            for line in lines:
                example = json.loads(line)
                if (example["variant"], example["field"]) not in seen and len(seen) < 4:
                    seen.add((example["variant"], example["field"]))
                    shown = example["prompt"] if corpus == "synthetic" or report_text else "(text of a real report: not shown)"
                    rows.append({"task": task, "input": example["variant"], "field": example["field"], "prompt": shown, "answer": example["completion"]})
    return pd.DataFrame(rows)
