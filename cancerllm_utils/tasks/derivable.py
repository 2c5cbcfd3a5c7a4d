"""How much of a stage group is a matter of published tables: what follows from the registry's own categories, and from those that the text states."""

from pathlib import Path

import pandas as pd

from ..corpus import labels as rules
from ..corpus.reading_registry import stage_group
from .build import read_corpus, task_items
from .task import load_task

COLUMNS = ["field", "cancer_type", "n", "most common", "share", "registry: decided", "registry: agree", "text: decided", "text: agree"]


def stage_table(run_dir: Path, corpus: str) -> pd.DataFrame:
    """How far corpus/stage_groups.yaml gets on the items of stage_from_tnm of the training and development patients.

    Returns COLUMNS, one row per field and cancer type, and "all" of a field: n items; the most common group and its share; of the items, the share
    whose group is decided by the registry's T, N and M (and by those stated in the text), and how often that is the recorded group. Shares in 0-1; agree
    is NaN where nothing is decided. A missing M counts as M0. Empty where the corpus records no stage group.
    """
    notes, labels = read_corpus(run_dir)
    notes = notes[notes["split"].isin(["train", "dev"])]
    items = task_items(load_task("stage_from_tnm"), corpus, notes, labels)
    if items.empty:
        return pd.DataFrame(columns=COLUMNS)
    wanted = labels[labels["field"].isin(["pT", "pT_sub", "pN", "pM", "stage"]) & labels["note_id"].isin(set(items["note_id"]))]
    known = wanted.pivot(index="note_id", columns="field", values="registry_value").fillna("").to_dict("index")
    texts = dict(zip(notes["note_id"], notes["text"], strict=True))
    items = items.assign(cancer_type=items["cancer_type"].replace("", "not known"))
    from_registry = [of_categories(known.get(item.note_id, {}), item.cancer_type) for item in items.itertuples()]
    from_text = [read(texts[item.note_id], item.field, item.cancer_type, corpus) for item in items.itertuples()]
    items = pd.concat([items.assign(registry=from_registry, text=from_text), items.assign(registry=from_registry, text=from_text, cancer_type="all")])
    rows = []
    for (field, cancer), part in items.groupby(["field", "cancer_type"]):
        counts = part["answer"].value_counts()
        row = {"field": field, "cancer_type": cancer, "n": len(part), "most common": counts.index[0], "share": counts.iloc[0] / len(part)}
        for source in ("registry", "text"):
            decided = part[part[source] != ""]
            row |= {f"{source}: decided": len(decided) / len(part), f"{source}: agree": (decided[source] == decided["answer"]).mean()}
        rows.append(row)
    return pd.DataFrame(rows)[COLUMNS]


def of_categories(values: dict, cancer_type: str) -> str:
    """The group of a patient's registry categories; the synthetic registry writes T and N in one field, "T2 N1"."""
    t, _, n = values.get("stage", "").partition(" ")
    return stage_group(cancer_type, values.get("pT_sub") or values.get("pT") or t, values.get("pN") or n, values.get("pM", ""))


def read(text: str, field: str, cancer_type: str, corpus: str) -> str:
    """The group that follows from what the text states, "" where it is open."""
    found = rules.read_synthetic(text, field) if corpus == "synthetic" else rules.read(text, field, cancer_type)
    return found["value"] or ""
