"""What a run's files say about it, as records, tables and sentences: read by the report, the model cards and the checklist, computed nowhere else."""

import json
import re
from pathlib import Path

import pandas as pd

from cancerllm_utils.results import RINGS, headline, is_hybrid, ring_name


def read_records(run_dir: Path) -> list[dict]:
    """The steps' records (records/*.json), in the order in which they started; an unreadable record is left out."""
    records = []
    for path in sorted((run_dir / "records").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        records.append({"step": path.stem, **record})
    return sorted(records, key=lambda record: str(record.get("started", "")))


def read_cohort(run_dir: Path) -> dict:
    """notes and splits as DataFrames or None; synthetic: True only when every note comes from the generator; corpus: its name, "" if not known."""
    settings = run_dir / "datasets" / "settings.json"
    notes, splits = run_dir / "corpus" / "notes.parquet", run_dir / "corpus" / "splits.parquet"
    notes = pd.read_parquet(notes) if notes.is_file() else None
    return {
        "notes": notes,
        "splits": pd.read_parquet(splits) if splits.is_file() else None,
        "synthetic": notes is not None and len(notes) > 0 and notes["source"].str.startswith("synthetic").all(),
        "corpus": json.loads(settings.read_text(encoding="utf-8")).get("corpus", "") if settings.is_file() else "",
    }


def read_flow(run_dir: Path) -> pd.DataFrame | None:
    """Steps from the files read to the notes kept: step, reports, patients, note; None where the cohort was not built."""
    path = run_dir / "corpus" / "flow.json"
    if not path.is_file():
        return None
    rows = [[row["step"], _count(row.get("n_reports")), _count(row.get("n_patients")), row.get("note") or ""] for row in json.loads(path.read_text())]
    return pd.DataFrame(rows, columns=["step", "reports", "patients", "note"])


def _count(value) -> str:
    return "" if value is None or pd.isna(value) else f"{int(value):,}"


def anchor(heading: str) -> str:
    """The id of a heading in the report's pages: its letters and digits in lower case, joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def commits(records: list[dict]) -> str:
    """The commits that the steps ran from, each once, in words where there is none."""
    return ", ".join(dict.fromkeys(record["commit"] for record in records if record.get("commit"))) or "not recorded"


def subject(cohort: dict) -> str:
    """What the notes are, in a sentence or two."""
    if cohort["notes"] is None:
        return "The notes of this run are not there, so the report cannot say what they are."
    if cohort["synthetic"]:
        return "The notes of this run are synthetic, written by a seeded generator: its scores show that the method works from end to end, and say nothing about patients."
    if cohort["corpus"] == "local":
        return "The notes of this run are an institution's own. Its patients stand behind these numbers: keep the report where their records may be kept."
    return "The notes of this run are public, de-identified texts; nothing in this report describes a patient of today."


def cohort_sentences(cohort: dict, paper: dict | None) -> list[str]:
    """How many notes, patients and places, how they are split, and the paper's cohort beside it where it is given; [] without notes."""
    notes, splits = cohort["notes"], cohort["splits"]
    if notes is None:
        return []
    kind = "synthetic notes" if cohort["synthetic"] else "notes"
    out = [f"{len(notes):,} {kind} of {notes['patient_id'].nunique():,} patients with {notes['cancer_type'].nunique()} cancer types, "
           f"from {notes['site'].nunique()} sites of {notes['institution'].nunique()} institutions."]
    if splits is not None:
        n = splits["split"].value_counts()
        rings = [ring for ring in RINGS if ring in n]
        out.append("Patients by ring: " + ", ".join(f"{ring_name(ring)} {n[ring]:,}" for ring in rings) + ". No patient is in two rings.")
    if paper is not None:
        out.append(f"The paper had {paper['clinical_notes']:,} clinical notes and {paper['pathology_reports']:,} pathology reports of "
                   f"{paper['patients']:,} patients with {paper['cancer_types']} cancer types ({paper['note']}).")
    return out


def limit_sentences(scores: pd.DataFrame, cohort: dict, uncertain: pd.Series | None) -> list[str]:
    """What the run cannot say; uncertain: one truth value per pair of note and field, None where labels were not read."""
    out = ["Reading what a note says is not deciding what is true: a right answer here agrees with a record, it is not a diagnosis.",
           "The intervals cover the choice of patients only; training again with another seed moves the scores as well."]
    if cohort["synthetic"]:
        out.append("Generated notes are more regular than real ones: expect other scores, and other errors, on the notes of a hospital.")
    elif cohort["notes"] is not None:
        if cohort["corpus"] != "local":
            out.append("The text is old scans read by machine, with errors; institutions that gave many reports weigh more, and the patients are not a sample of today's.")
        out.append("What a report states was decided by rules, with a registry beside them; both contain errors, and a silent registry does not mean a silent report.")
    if uncertain is not None:
        out.append(f"{uncertain.sum():,} of {len(uncertain):,} pairs of note and field could not be decided and are left out of the extraction scores.")
    if not scores.empty:
        rows = headline(scores)
        answers = rows[rows["stage"].ne("baseline") & ~rows["model"].map(is_hybrid).astype(bool)]
        out.append(f"{int(answers['unparsed'].sum()):,} of {int(answers['n'].sum()):,} answers of the language models could not be read; they count as wrong.")
    return out


def adapters(run_dir: Path) -> list[tuple[str, str]]:
    """(model, stage) of every trained stage of the run: the folders models/<model>/<stage>/ that hold a cancerllm.json."""
    return [(path.parent.parent.name, path.parent.name) for path in sorted((Path(run_dir) / "models").glob("*/*/cancerllm.json"))]
