"""A corpus from its source to the run's folder: load, scrub, check, split, label. Notebook 01 calls `build_corpus`."""

import json
import time
from collections import Counter
from pathlib import Path

import pandas as pd

from cancerllm_utils import paths
from cancerllm_utils.corpus import labels, schema, scrub, splits, synthetic, tcga
from cancerllm_utils.errors import UserError


def build_corpus(run_dir: Path, corpus: str, data_dir: str = "", n_patients: int = 300, external_institutions: list[str] = (), seed: int = 42) -> dict:
    """Write corpus/{notes,labels,splits,patients}.parquet, institutions.csv, flow.json, scrubbed.json and quarantine.jsonl of a run.

    corpus: `synthetic` (n_patients of the seeded cohort) or `tcga` (the published files below data_dir).
    Returns notes, labels, splits, patients, institutions (DataFrames), flow (list), scrubbed (removals by kind), quarantined (list).
    Raises UserError for an unknown corpus or missing files.
    """
    folder = run_dir / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    if corpus == "synthetic":
        loaded = synthetic.generate(n_patients, seed)
    elif corpus == "tcga":
        loaded = tcga.load(paths.data_dir(data_dir))
    else:
        raise UserError(f"corpus {corpus!r} is unknown: choose synthetic or tcga.")
    notes, removed = scrub_notes(loaded["notes"])
    if corpus == "synthetic":  # gold spans refer to the text as generated, so scrubbing must not move it
        assert not removed, f"the generator wrote what scrubbing removes: {removed}"
    notes, quarantined = schema.check_notes(notes.to_dict("records"), f"{corpus} corpus")
    quarantined = loaded["quarantined"] + quarantined
    note_labels = loaded["labels"] if "labels" in loaded else labels.label_notes(notes, loaded["registry"])
    rings, institutions = splits.assign(notes, seed, list(external_institutions))
    patients = loaded.get("patients", notes[["patient_id", "cancer_type"]].drop_duplicates("patient_id"))
    flow = loaded["flow"]

    notes.to_parquet(folder / "notes.parquet", index=False)
    note_labels.to_parquet(folder / "labels.parquet", index=False)
    rings.to_parquet(folder / "splits.parquet", index=False)
    patients.to_parquet(folder / "patients.parquet", index=False)
    institutions = pd.DataFrame(institutions)
    institutions.to_csv(folder / "institutions.csv", index=False)
    (folder / "flow.json").write_text(json.dumps(flow, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "scrubbed.json").write_text(json.dumps(removed, indent=1), encoding="utf-8")
    with open(folder / "quarantine.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in quarantined)
    left_out = sum(step.get("dropped", 0) for step in flow)  # damaged rows of the source stand in its flow and in the quarantine
    print(f"{len(loaded['notes']) + left_out:,} rows in = {len(notes):,} notes kept + {left_out:,} left out by a step of the flow"
          f" + {len(loaded['notes']) - len(notes):,} quarantined after loading; {len(quarantined):,} entries in quarantine.jsonl")  # fmt: skip
    return {
        "notes": notes, "labels": note_labels, "splits": rings, "patients": patients, "institutions": institutions,
        "flow": flow, "scrubbed": removed, "quarantined": quarantined,
    }  # fmt: skip


def scrub_notes(notes: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """The notes with scrubbed text, and how often each kind of identifier or answer was removed; a line every five seconds."""
    counts, texts, last = Counter(), [], time.monotonic()
    started = last
    for done, text in enumerate(notes["text"], 1):
        clean, removed = scrub.scrub(text)
        texts.append(clean)
        counts.update(removed)
        if time.monotonic() - last > 5:
            last = time.monotonic()
            print(f"scrubbing: {done:,} of {len(notes):,} notes, {done / (last - started):,.0f} notes/s", flush=True)
    return notes.assign(text=texts), {kind: n for kind, n in sorted(counts.items()) if n}


def read_corpus(run_dir: Path) -> dict:
    """The frames that `build_corpus` wrote, by name: notes, labels, splits, patients, institutions; and flow."""
    folder = run_dir / "corpus"
    if not (folder / "notes.parquet").is_file():
        raise UserError(f"{folder} holds no corpus yet: run notebook 01_data_exploration first.")
    frames = {name: pd.read_parquet(folder / f"{name}.parquet") for name in ("notes", "labels", "splits", "patients")}
    return frames | {"institutions": pd.read_csv(folder / "institutions.csv"), "flow": json.loads((folder / "flow.json").read_text(encoding="utf-8"))}
