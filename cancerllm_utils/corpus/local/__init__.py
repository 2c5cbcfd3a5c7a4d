"""An institution's own notes: CSV, JSON lines, Parquet, a folder of text files, OMOP CDM tables or FHIR R4 resources, read as a stream.

Nothing is repaired in silence: a row that cannot be read is set aside with file, line and reason, what was read in another encoding or left
empty is counted in the flow, and rows in == notes handed on + rows dropped by a step of the flow. No message holds a cell's content.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from cancerllm_utils import paths
from cancerllm_utils.corpus.labels import FIELD_VALUES
from cancerllm_utils.corpus.local import cancer_codes, dates, delimited, fhir, files, omop
from cancerllm_utils.corpus.local.readers import COLUMNS, READERS, check_jsonl, columns_of
from cancerllm_utils.corpus.schema import quarantine_entry
from cancerllm_utils.errors import UserError

BATCH = 5_000
# data_source -> kinds of file (files.kind_of) that are read
KINDS = {"csv": ["csv"], "jsonl": ["jsonl", "json"], "parquet": ["parquet"], "text": ["text"], "omop": ["csv", "parquet"], "fhir": ["json", "jsonl"]}
SOURCES = tuple(KINDS)
NO_DATA = (".", "~$", "_SUCCESS", "_metadata", "_common_metadata")  # hidden, lock and bookkeeping files
OWN_INSTITUTION = "own institution"
NOTE_TYPES = {"note_type_pathology": "surgical pathology report", "note_type_clinic": "clinic note", "note_type_follow_up": "follow-up note"}


def read(source: dict) -> dict:
    """The notes of an institution as a stream, with what is known of the patients.

    Args:
        source: the parameters of notebook 01 by name: data_dir (a file or folder), data_source (one of SOURCES, "" = told from the files),
            column_*, note_type_*, labels_file. Missing ones take the notebook's defaults. Text files: note_id is the path below data_dir
            without its ending; the patient is the name of the folder that holds the file, or, where the file lies in data_dir
            itself, its name up to the first `_`.

    Returns:
        batches: iterator of lists of at most 5,000 dicts with NOTE_COLUMNS (all str), file and line. Line is the line in the file (the row
            number of a Parquet file, 1 for a text file). Texts are as they were, with line ends as LF.
        registry: patient_id, field, registry_value: the rows of labels_file that name a known field and an allowed answer.
        patients: None, or (OMOP, FHIR) patient_id, cancer_type, age (years at the first diagnosis of a cancer, Int64, above 89 as 90),
            gender (MALE, FEMALE or ""), of every patient of the source.
        flow: steps {step, n_reports, n_patients, dropped, note}; quarantined: entries {file, line, reason, sha256}. Both are complete when
            batches ends. The first step's n_reports == notes handed on + the sum of dropped; quarantined also holds rows of the
            labels file and of tables beside the notes, and each such count stands in a note.

    Raises:
        UserError: nothing to read, an unknown data_source, a missing column, a file that cannot be read at all.
    """
    source, kind, found = prepare(source)
    quarantined, flow, remarks = [], [], []
    registry, cancers = read_labels(source, quarantined, remarks)
    patients = None
    if kind == "omop":
        tables = omop.find_tables(found)
        omop.check_tables(tables)
        people = omop.read_people(tables, source["place"], quarantined, remarks)
        records = omop.read_notes(tables, source["place"], people, remarks)
    elif kind == "fhir":
        people = fhir.read_people(found, remarks)
        records = fhir.read_notes(found, source["place"], people, remarks)
    else:
        people = {"cancers": {}, "patients": None}
        records = READERS[kind](source, found, remarks)
    if people["patients"] is not None:
        patients = people["patients"]
        named = patients["patient_id"].map(cancers)
        patients = patients.assign(cancer_type=named.fillna(patients["cancer_type"]))
    batches = make_batches(records, source, people["cancers"] | cancers, quarantined, flow, remarks)
    return {"batches": batches, "registry": registry, "patients": patients, "flow": flow, "quarantined": quarantined}


def check_files(source: dict) -> None:
    """Raise the UserError that `read` would raise first, after reading no more than the beginning of each file."""
    source, kind, found = prepare(source)
    read_labels(source, [], [])
    if kind == "omop":
        omop.check_tables(omop.find_tables(found))
    elif kind == "fhir":
        fhir.check_files(found)
    elif kind in ("csv", "parquet"):
        for path in found:
            columns_of(path, source)
    elif kind == "jsonl":
        for path in found:
            check_jsonl(path, source)


# --- what there is -------------------------------------------------------------------------------------------------------------------


def parameters() -> dict:
    """The parameters of notebook 01 that say how an institution's notes are read, with their defaults."""
    return {"data_dir": "", "data_source": "", "labels_file": ""} | {f"column_{name}": name for name in COLUMNS} | {name: [] for name in NOTE_TYPES}


def prepare(source: dict) -> tuple[dict, str, list[Path]]:
    """The parameters with defaults, the kind of source, and its files. Raises UserError."""
    source = parameters() | source
    for name in COLUMNS:
        if not source[f"column_{name}"].strip():
            raise UserError(f"column_{name} is empty. Name the column, or leave the parameter out.")
    if source["data_source"] not in ("", *SOURCES):
        raise UserError(f"data_source {source['data_source']!r} is unknown: choose one of {', '.join(SOURCES)}, or leave it empty.")
    place = paths.data_dir(source["data_dir"])
    if not place.exists():
        raise UserError(f"data_dir {place} does not exist. Set data_dir to the file or folder of your notes, as a full path.")
    labels_file = find_labels(source["labels_file"], place)
    source["labels_file"] = labels_file
    every = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file() and not path.name.startswith(NO_DATA))
    every = [path for path in every if labels_file is None or path.resolve() != labels_file]
    kind = source["data_source"] or told_from(place, every)
    found = [path for path in every if files.kind_of(path) in KINDS[kind]]
    if kind == "csv" and not found:  # a table named .txt or .dat
        found = [path for path in every if files.kind_of(path) in ("text", "")]
    if place.is_file():
        found = every
    if not found:
        raise UserError(f"data_dir {place} holds no file for data_source {kind}: none of {len(every)} ends in what is read, see the README, your own notes.")
    if kind in ("csv", "jsonl", "fhir", "text"):
        for path in found:
            refuse_other_format(path, kind)
    source["data_source"] = kind
    source["other_files"] = len(every) - len(found)
    source["place"] = place if place.is_dir() else place.parent
    return source, kind, found


def told_from(place: Path, every: list[Path]) -> str:
    """The kind of source by the files' names and, for JSON, by the first bytes. UserError where it cannot be told."""
    kinds = {files.kind_of(path) for path in every} - {""}
    stems = {path.name.lower().split(".")[0] for path in every} | {path.parent.name.lower() for path in every}
    if {"note", "person"} <= stems and kinds & {"csv", "parquet"}:
        return "omop"
    if kinds & {"json", "jsonl"}:
        path = next(path for path in every if files.kind_of(path) in ("json", "jsonl"))
        try:
            is_fhir = b'"resourceType"' in files.head(path)
        except files.DamagedFile:
            is_fhir = files.kind_of(path) == "json"
        kinds = (kinds - {"json", "jsonl"}) | {"fhir" if is_fhir else "jsonl"}
    if len(kinds) == 1:
        return kinds.pop()
    if not kinds:
        raise UserError(
            f"data_dir {place} holds no notes ({len(every)} files): it must hold CSV, JSON lines, Parquet, text, OMOP or FHIR files, see the README, your own notes."
        )
    raise UserError(f"data_dir {place} holds files of several kinds ({', '.join(sorted(kinds))}). Say in data_source which of them are the notes.")


def refuse_other_format(path: Path, kind: str) -> None:
    """UserError where the file's first bytes are plainly another format."""
    try:
        first = files.head(path, 8)
    except files.DamagedFile as error:
        if kind != "text":  # one broken text file is set aside, the others are read
            raise UserError(f"file {path}: {error}. Export it again.") from None
        return
    if first.startswith(b"PAR1") and kind != "csv":
        raise UserError(f"file {path}: this is a Parquet file, not {kind}. Set data_source: parquet.")


def find_labels(name: str, place: Path) -> Path | None:
    """The labels file: a full path, or a name beside the notes (not beside where a command happens to be given)."""
    if not name:
        return None
    path = (place if place.is_dir() else place.parent) / Path(name).expanduser()  # a full path stays itself behind the /
    if not path.is_file():
        raise UserError(f"labels_file {path} does not exist. Give its full path, or its name in the folder of the notes.")
    return path.resolve()


def read_labels(source: dict, quarantined: list, remarks: list) -> tuple[pd.DataFrame, dict[str, str]]:
    """(registry frame, {patient: cancer code}) from the labels file; bad rows go to quarantined. Field `cancer_type` is read too."""
    path, rows, cancers = source["labels_file"], {}, {}
    if path is None:
        return pd.DataFrame(columns=["patient_id", "field", "registry_value"], dtype=str), cancers
    names, _, _ = delimited.header_of(path)
    wanted = {name: name for name in ("patient_id", "field", "value")}
    columns = delimited.find_columns(path, names, wanted, set(wanted), lambda _: "A labels file has the columns patient_id, field, value.")
    spelled = {field.lower(): field for field in [*FIELD_VALUES, "cancer_type"]}
    read_in, bad = 0, 0
    for line, record, reason, content in delimited.read_table(path, columns, ("patient_id",), {}):
        read_in += 1
        patient, field, value = (record[name].strip() for name in wanted) if record else ("", "", "")
        field = spelled.get(field.lower(), "")
        if not reason:
            value, reason = label_value(patient, field, value, spelled)
        if not reason and rows.get((patient, field), value) != value:
            reason = f"the patient has another value of {field} on an earlier line"
        if reason:
            bad += 1
            quarantined.append(quarantine_entry(path.name, line, reason, content))
        else:
            rows[patient, field] = value
    cancers = {patient: value for (patient, field), value in rows.items() if field == "cancer_type"}
    registry = [(patient, field, value) for (patient, field), value in rows.items() if field != "cancer_type"]
    remarks.append(f"labels file: {read_in:,} rows, {bad:,} of them in quarantine.jsonl, {len(registry):,} registry values")
    return pd.DataFrame(registry, columns=["patient_id", "field", "registry_value"], dtype=str), cancers


def label_value(patient: str, field: str, value: str, spelled: dict) -> tuple[str, str]:
    """(the answer as the project spells it, "") or ("", reason). Only letter case is normalised."""
    if not patient or "\x00" in patient or not patient.isprintable():
        return "", "patient_id is empty or not text"
    if not field:
        return "", f"field is none of {', '.join(sorted(spelled.values()))}"
    if field == "cancer_type":
        code = cancer_codes.cancer_of(value)[0]
        return code, "" if code else "value is no cancer that is known: write an ICD-10 or TCGA code"
    allowed = FIELD_VALUES[field]
    if not allowed:
        return value, "" if value and len(value) <= 200 and value.isprintable() else f"value of {field} is empty, too long or not text"
    answer = {answer.lower(): answer for answer in allowed}.get(value.lower(), "")
    return answer, "" if answer else f"value is no answer of {field}: " + (
        ", ".join(allowed) if len(allowed) <= 12 else "see cancerllm_utils/corpus/labels.yaml"
    )


# --- from records to notes -----------------------------------------------------------------------------------------------------------


def make_batches(records: Iterator[tuple], source: dict, cancers: dict, quarantined: list, flow: list, remarks: list) -> Iterator[list[dict]]:
    """Lists of notes; fills quarantined while it is consumed, and flow at the end.

    records: (file, line, record, reason, content). A reason that starts with "dropped: " is a step of the flow, not a quarantine.
    """
    types = {value.strip().lower(): note_type for name, note_type in NOTE_TYPES.items() for value in map(str, source[name])}
    seen, patients, dropped, batch = set(), set(), {}, []
    count = {"in": 0, "out": 0, "bad": 0, "date": 0, "cancer": 0, "undecided": 0}
    first, order = {}, None

    def finish(notes: list[dict]) -> list[dict]:
        nonlocal order
        if not order:
            order = dates.day_or_month(note["date"] for note in notes)
        for note in notes:
            written = note["date"]
            note["date"] = dates.iso_date(written, order) if written else ""
            if written.strip() and not note["date"]:
                count["date"] += 1
                first.setdefault("date", f"{note['file']} line {note['line']}")
        return notes

    for file, line, record, reason, content in records:
        count["in"] += 1
        if reason.startswith("dropped: "):
            dropped[reason[9:]] = dropped.get(reason[9:], 0) + 1
            continue
        if not reason:
            note = make_note(record, types, cancers)
            reason = why_bad(note) or ("note_id occurs twice" if note["note_id"] in seen else "")
        if reason:
            count["bad"] += 1
            quarantined.append(quarantine_entry(file, line, reason, content))
            continue
        seen.add(note["note_id"])
        patients.add(note["patient_id"])
        if note.pop("undecided"):
            count["undecided"] += 1
        if not note["cancer_type"]:
            count["cancer"] += 1
            if record.get("cancer_type", "").strip():
                first.setdefault("cancer", f"{file} line {line}")
        note |= {"source": source["data_source"], "file": file, "line": line}
        batch.append(note)
        if len(batch) == BATCH:
            count["out"] += BATCH
            yield finish(batch)
            batch = []
    if batch:
        count["out"] += len(batch)
        yield finish(batch)
    fill_flow(flow, count, dropped, len(patients), first, remarks)


def make_note(record: dict, types: dict[str, str], cancers: dict[str, str]) -> dict:
    """A record as a note. note_type may be a list of names of one type, of which the first that the profile maps decides."""
    get = record.get
    patient = get("patient_id", "").strip()
    names = get("note_type", "")
    names = [name.strip() for name in ([names] if isinstance(names, str) else names) if name.strip()]
    note_type = next((types[name.lower()] for name in names if name.lower() in types), names[0] if names else "note")
    written = get("cancer_type", "").strip()
    cancer, undecided = cancer_codes.cancer_of(written) if written else ("", False)
    if not cancer or undecided:
        known = cancers.get(patient, "")
        cancer, undecided = known or cancer, undecided and not known
    institution = get("institution", "").strip() or OWN_INSTITUTION
    return {
        "note_id": get("note_id", "").strip(), "patient_id": patient, "site": get("site", "").strip() or institution, "institution": institution,
        "note_type": note_type, "cancer_type": cancer, "date": get("date", ""), "text": files.clean_text(get("text", "")), "undecided": undecided,
    }  # fmt: skip


def why_bad(note: dict) -> str:
    """What this reader alone can tell of a note before it is scrubbed; the schema checks the rest."""
    for name in ("patient_id", "note_id", "text"):
        if not note[name] and name != "text":
            return f"{name} is empty"
        if "\x00" in note[name]:
            return f"{name} holds a NUL character"
    return ""


def fill_flow(flow: list, count: dict, dropped: dict[str, int], n_patients: int, first: dict, remarks: list) -> None:
    """The steps, each with what it left out; the remarks of the readers stand beside the first."""
    left = count["in"]
    flow.append({"step": "rows of the source", "n_reports": left, "n_patients": n_patients, "dropped": 0, "note": "; ".join(remarks)})
    left -= count["bad"]
    note = "the others are in quarantine.jsonl" if count["bad"] else ""
    flow.append({"step": "rows that can be read", "n_reports": left, "n_patients": n_patients, "dropped": count["bad"], "note": note})
    for step, n in dropped.items():
        left -= n
        flow.append({"step": step, "n_reports": left, "n_patients": n_patients, "dropped": n, "note": ""})
    notes = []
    if count["date"]:
        notes.append(f"{count['date']:,} dates are not read and left empty (first: {first['date']}): write them as 2020-01-31")
    if count["cancer"]:
        unknown = f"; the first that is written but not known: {first['cancer']}" if "cancer" in first else ""
        notes.append(f"{count['cancer']:,} notes are of no known cancer type{unknown}")
    if count["undecided"]:
        notes.append(f"{count['undecided']:,} notes have a code that leaves the histology open (lung, kidney, brain, uterus): the commonest TCGA type is taken")
    assert left == count["out"], f"{left} rows should be left, {count['out']} were handed on"
    flow.append({"step": "notes handed on", "n_reports": left, "n_patients": n_patients, "dropped": 0, "note": "; ".join(notes)})
