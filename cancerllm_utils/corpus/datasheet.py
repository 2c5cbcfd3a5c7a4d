"""A datasheet for the corpus of a run, after Gebru et al., Datasheets for Datasets (arXiv:1803.09010): every number is counted from the run's files."""

import json
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from cancerllm_utils.corpus.quality import STRATA, several_tumours, strata
from cancerllm_utils.corpus.splits import SPLITS
from cancerllm_utils.errors import UserError


@cache
def prose() -> dict:
    """datasheet.yaml: what is known of each corpus beyond its counts."""
    return yaml.safe_load(Path(__file__).with_name("datasheet.yaml").read_text(encoding="utf-8"))


def write(run_dir: Path, corpus: str, params: dict | None = None) -> Path:
    """Write DATASHEET.md into the run's folder and return its path. It holds counts and no text of any note.

    Args: run_dir, a run with corpus/{notes,labels,splits,patients}.parquet and flow.json; quality.parquet, duplicates.csv, identifiers.csv, scrubbed.json
    and quarantine.jsonl are used where they are there. corpus, its name (a public text such as civic counts as literature); params, the notebook's parameters.
    Raises UserError where notebook 01 has not run.
    """
    folder = Path(run_dir) / "corpus"
    if not (folder / "notes.parquet").is_file():
        raise UserError(f"{folder} holds no corpus yet: run notebook 01_data_exploration first.")
    about = prose()["corpora"].get(corpus, prose()["corpora"]["literature"])
    lines = [
        f"# Datasheet: {about['title']}",
        "",
        "Sections follow Gebru et al., Datasheets for Datasets (2018). Written by notebook 01 from the files of this run.",
        "",
    ]
    for title, paragraphs in (
        ("Motivation", [about["why"], f"Made by: {about['who']}"]),
        ("Composition", composition(folder, about)),
        ("Collection", [about["collected"], about["people"], source_of(corpus, params or {})]),
        ("Preprocessing, cleaning, labelling", preprocessing(folder, about)),
        ("Uses", [prose()["any"]["uses"], f"Not for: {prose()['any']['not_for']}", f"Limits: {about['limits']}"]),
        ("Distribution", [f"Licence: {about['licence']}", about["share"]]),
        ("Maintenance", [prose()["any"]["maintenance"]]),
    ):
        lines += [f"## {title}", "", *[line for paragraph in paragraphs if paragraph for line in (paragraph, "")]]
    path = Path(run_dir) / "DATASHEET.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def composition(folder: Path, about: dict) -> list[str]:
    """What the corpus is made of: counts of notes, patients, institutions, types, years, rings, registry values."""
    notes = pd.read_parquet(folder / "notes.parquet", columns=["note_id", "patient_id", "site", "institution", "note_type", "cancer_type", "date"])
    splits, labels = (pd.read_parquet(folder / f"{name}.parquet") for name in ("splits", "labels"))
    years = sorted(year for year in notes["date"].str[:4].unique() if year.isdigit())
    rings = (
        notes.merge(splits, on="patient_id")
        .groupby("split")
        .agg(notes=("note_id", "size"), patients=("patient_id", "nunique"), institutions=("institution", "nunique"))
    )
    paragraphs = [
        about["instances"],
        f"{len(notes):,} notes of {notes['patient_id'].nunique():,} patients, {notes['institution'].nunique():,} institutions, "
        f"{notes['site'].nunique():,} sites, {notes['cancer_type'].replace('', None).nunique():,} cancer types; {dates_of(notes, years)}.",
        table(["type of note", "notes"], notes["note_type"].value_counts().items()),
        table(
            ["cancer type", "notes", "patients"],
            [(name or "not known", len(part), part["patient_id"].nunique()) for name, part in notes.groupby("cancer_type")],
        ),
        f"Splits. {prose()['any']['splits']}",
        table(["ring", "notes", "patients", "institutions"], [(ring, *rings.loc[ring]) for ring in SPLITS if ring in rings.index]),
        patients_known(folder),
    ]
    if len(labels):
        by_field = labels.groupby("field", sort=False)
        rows = [
            (field, len(part), *(part["evidence"].eq(kind).sum() for kind in ("stated", "not_stated", "uncertain")), part["registry_value"].notna().sum())
            for field, part in by_field
        ]
        paragraphs += [f"Labels. {about['gold']}", table(["field", "notes asked", "stated", "not stated", "uncertain", "with a registry value"], rows)]
    else:
        paragraphs.append("Labels. None.")
    return paragraphs


def dates_of(notes: pd.DataFrame, years: list[str]) -> str:
    """In which years the notes were written."""
    if not years:
        return "no note carries a date"
    return f"{notes['date'].ne('').sum():,} notes carry a date, from {years[0]} to {years[-1]}"


def patients_known(folder: Path) -> str:
    """A table of what is known of the patients: filled and empty cells."""
    patients = pd.read_parquet(folder / "patients.parquet").drop(columns=["patient_id", "cancer_type"]).replace("", None)
    if not len(patients.columns):
        return "Of the patients nothing but the cancer type is known."
    return table(
        ["column of patients", "filled", "empty"], [(name.replace("_", " "), patients[name].notna().sum(), patients[name].isna().sum()) for name in patients]
    )


def source_of(corpus: str, params: dict) -> str:
    """The parameters that chose the data, without folders: a path may name an institution's server."""
    chosen = {
        name: value
        for name, value in params.items()
        if name in ("corpus", "n_patients", "seed", "external_institutions", "data_source") and value not in ("", [])
    }
    return "Parameters: " + ", ".join(f"{name} = {value}" for name, value in ({"corpus": corpus} | chosen).items()) + "."


def preprocessing(folder: Path, about: dict) -> list[str]:
    """What was left out, removed, found and flagged, each with its count."""
    flow = json.loads((folder / "flow.json").read_text(encoding="utf-8"))
    paragraphs = [
        "From the source to the cohort:",
        table(
            ["step", "notes", "patients", "left out", "why"],
            [(s["step"], s["n_reports"], s["n_patients"], s.get("dropped", 0) or 0, s.get("note") or "") for s in flow],
        ),
    ]
    if (folder / "quarantine.jsonl").is_file():
        with open(folder / "quarantine.jsonl", encoding="utf-8") as rows:
            paragraphs.append(f"{sum(1 for _ in rows):,} damaged rows are listed in quarantine.jsonl by file, line, reason and fingerprint, without text.")
    if (folder / "scrubbed.json").is_file():
        removed = json.loads((folder / "scrubbed.json").read_text(encoding="utf-8"))
        paragraphs.append("Removed from the text (identifiers, and codes that give an answer away):" if removed else "Nothing had to be removed from the text.")
        paragraphs.append(table(["kind", "places"], sorted(removed.items(), key=lambda item: -item[1])) if removed else "")
    if (folder / "identifiers.csv").is_file():
        found = pd.read_csv(folder / "identifiers.csv")
        paragraphs += [
            f"Identifiers found after that. {prose()['any']['identifiers']}",
            table(["class", "places", "notes"], found[["kind", "found", "notes"]].itertuples(index=False)),
        ]
    else:
        paragraphs.append(f"No search for identifiers was run. {prose()['any']['identifiers']}")
    if (folder / "duplicates.csv").is_file():
        copies = pd.read_csv(folder / "duplicates.csv")
        paragraphs.append(
            f"Copies: {copies['group'].nunique():,} groups of equal or nearly equal notes hold {len(copies):,} notes; "
            f"{(~copies['kept'].astype(bool)).sum():,} are marked as copies of another."
        )
    if (folder / "quality.parquet").is_file():
        quality = pd.read_parquet(folder / "quality.parquet")
        names, cuts = strata(quality)
        paragraphs.append(
            f"Text quality: OCR noise (share of damaged words) has a median of {quality['ocr_noise'].median():.3f}; strata are cut at {cuts[0]:.3f} "
            f"and {cuts[1]:.3f} ({', '.join(f'{name} {(names == name).sum():,}' for name in STRATA)}). "
            f"{(quality['language'] != 'en').sum():,} notes are not, or not surely, in English. "
            f"{several_tumours(quality).sum():,} notes name two organs as the seat of a tumour or two pT, and are flagged, not left out."
        )
    return paragraphs


def table(head: list[str], rows) -> str:
    """A Markdown table; numbers with thousands separators, and no bar of a name may break it."""
    cells = [[f"{value:,}" if isinstance(value, int) or hasattr(value, "dtype") else str(value).replace("|", "/") for value in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *cells])
