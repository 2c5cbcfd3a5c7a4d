"""TCGA: published pathology report texts and registry tables, read as they are into notes, registry values and patients.

Sources are named in DOWNLOADS. The traps of these files (three header lines, doubled and renamed columns, `None` as a value, rows
without a barcode) are handled here and nowhere else.
"""

import csv
import gzip
import re
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from cancerllm_utils.corpus import plans
from cancerllm_utils.corpus.schema import NOTE_COLUMNS, check_notes, is_utf8, quarantine_entry
from cancerllm_utils.errors import UserError

MIN_WORDS = 51  # a report of 50 words or fewer is a failed OCR
BARCODE = re.compile(r"TCGA-([A-Z0-9]{2})-[A-Z0-9]{4}")
REPORT_COLUMNS = ["pdf_file_name_path", "ocr_text"]
BREAST_COLUMNS = ["bcr_patient_barcode", "text"]
# A line that can only be the start of a record; met inside a record, it shows that an unclosed quote has swallowed rows.
ROW_START = re.compile(r'"?[^",\r\n]{1,150}\.pdf"?,|"?TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}"?,', re.IGNORECASE)
DOWNLOADS = {
    "reports": "organ files (BLADDER.csv ...) of github.com/grasool/tcga-path-report, folder Reports",
    "breast_reports.csv": "breast report texts of github.com/HakanKiymaz/thesis (columns bcr_patient_barcode, text)",
    "clinical": "clinical biotab tables nationwidechildrens.org_clinical_patient_*.txt of the GDC open tier, portal.gdc.cancer.gov",
    "tissue_source_sites.tsv": "GDC code table of tissue source sites, gdc.cancer.gov/resources-tcga-users/tcga-code-tables",
}

csv.field_size_limit(10**8)


def load(data_dir: Path) -> dict:
    """All TCGA reports that can be used, with what the registry says about their patients.

    Args:
        data_dir: folder with tcga/reports/, tcga/breast_reports.csv, tcga/clinical/ and tcga/tissue_source_sites.tsv (gzip or plain).

    Returns:
        notes: NOTE_COLUMNS, one row per report; `text` is as published, **not yet scrubbed**; `site` is the tissue source site code,
            `date` is empty (reports are redacted), `cancer_type` comes from the patient table, not from the organ file.
        registry: patient_id, field, registry_value; only values that exist, normalised as in registry.yaml.
        patients: patient_id, cancer_type, age (years, Int64), gender, race, ethnicity, diagnosis_year, vital_status, ICD codes.
        flow: list of {step, n_reports, n_patients, dropped, note}; rows of the files == kept + sum of dropped.
        quarantined: list of {file, line, reason, sha256}.

    Raises:
        UserError: a file is missing (the sentence names the public download) or unreadable.
    """
    folder = Path(data_dir) / "tcga"
    sites = read_sites(find(folder, "tissue_source_sites.tsv"))
    tables, quarantined = read_patient_tables(folder)
    patients, registry = registry_frames(tables)
    registry = pd.concat([registry, plans.make(treatment_tables(folder) | {"patient": tables})["labels"]], ignore_index=True)
    rows, damaged = read_reports(folder)
    n_damaged_tables = len(quarantined)
    quarantined += damaged
    if not rows and not damaged:
        raise UserError(f"folder {folder / 'reports'}: the report files hold no row. Get {DOWNLOADS['reports']}.")

    flow = []

    def step(name: str, kept: list[dict], dropped: int, note: str = "") -> list[dict]:
        n_patients = len({row["patient_id"] for row in kept if row["patient_id"]})
        flow.append({"step": name, "n_reports": len(kept), "n_patients": n_patients, "dropped": dropped, "note": note})
        return kept

    per_file = pd.Series([row["source"] for row in rows]).value_counts(sort=False)
    rows = step("rows of the published files", rows + damaged_rows(damaged), 0, ", ".join(f"{k} {n}" for k, n in per_file.items()))
    good = [row for row in rows if row["text"] is not None]
    rows = step("rows that can be read", good, len(rows) - len(good), "damaged rows go to quarantine.jsonl")
    good = [row for row in rows if row["patient_id"]]
    rows = step("with a patient barcode", good, len(rows) - len(good), "file names without a barcode cannot be joined")
    cancer_of = patients.set_index("patient_id")["cancer_type"].to_dict()
    good = [row for row in rows if row["patient_id"] in cancer_of]
    note = f"{n_damaged_tables} damaged rows of patient tables are in quarantine.jsonl" if n_damaged_tables else ""
    rows = step("patient stands in a registry table", good, len(rows) - len(good), note)
    rows = number_reports(rows)
    good = [row for row in rows if len(row["text"].split()) >= MIN_WORDS]
    rows = step("more than 50 words", good, len(rows) - len(good), "shorter ones are failed OCR")
    good = drop_same_text(rows)
    note = "the same text of one patient is kept once; of two patients it is dropped, because whose it is cannot be told"
    rows = step("text is not a copy", good, len(rows) - len(good), note)

    for row in rows:
        row["cancer_type"] = cancer_of[row["patient_id"]]
        row["institution"] = sites.get(row["site"], f"unknown site {row['site']}")
        row |= {"note_type": "surgical pathology report", "date": ""}
    frames = []
    for source in dict.fromkeys(row["source"] for row in rows):
        frame, bad = check_notes((row for row in rows if row["source"] == source), source)
        frames.append(frame)
        quarantined += bad
    notes = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=NOTE_COLUMNS, dtype=str)
    step("passes the schema", notes.to_dict("records"), len(rows) - len(notes), "the rest goes to quarantine.jsonl")

    used = set(notes["patient_id"])
    return {
        "notes": notes,
        "registry": registry[registry["patient_id"].isin(used)].reset_index(drop=True),
        "patients": patients[patients["patient_id"].isin(used)].reset_index(drop=True),
        "flow": flow,
        "quarantined": quarantined,
    }


def read(data_dir: Path) -> dict:
    """`load` as every corpus module offers it: the notes as batches of rows; the flow and the quarantine are complete at once."""
    loaded = load(data_dir)
    rows = loaded["notes"].to_dict("records")
    batches = ([row | {"file": row["source"], "line": 0} for row in rows[start : start + 1000]] for start in range(0, len(rows), 1000))
    return {"batches": batches, "registry": loaded["registry"], "patients": loaded["patients"], "flow": loaded["flow"], "quarantined": loaded["quarantined"]}


def check_files(data_dir: Path) -> None:
    """Raise the UserError that `load` would raise for the first missing file, without reading any."""
    folder = Path(data_dir) / "tcga"
    find(folder, "tissue_source_sites.tsv")
    find_all(folder / "clinical", "nationwidechildrens.org_clinical_patient_*.txt")
    find_all(folder / "reports", "*.csv")
    find(folder, "breast_reports.csv")


def find(folder: Path, name: str) -> Path:
    """The file, plain or with .gz; UserError with its public source when there is neither."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(f"file {folder / name}: not found. Get the {DOWNLOADS[name]}, and put it there, or set CANCERLLM_DATA (data_dir).")


def find_all(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder that match the pattern, with or without .gz, sorted, each once; UserError when there are none."""
    paths = {path.name.removesuffix(".gz"): path for path in sorted(folder.glob(pattern + ".gz")) + sorted(folder.glob(pattern))}
    if not paths:
        source = DOWNLOADS[folder.name]
        raise UserError(f"folder {folder}: no {pattern} found. Get the {source}, and put them there, or set CANCERLLM_DATA (data_dir).")
    return [paths[name] for name in sorted(paths)]


def read_text(path: Path) -> str:
    """File content; a byte that is not UTF-8 stays as a lone surrogate, so that only its row is quarantined."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:  # gzip.BadGzipFile is an OSError
        raise UserError(f"file {path}: cannot be read ({type(error).__name__}). Download it again.") from error
    return raw.decode("utf-8-sig", errors="surrogateescape")


def read_sites(path: Path) -> dict[str, str]:
    """Site code -> institution. `NA` is a code. The table as GDC publishes it has no column institution: then the site's own name."""
    lines = [line.split("\t") for line in read_text(path).splitlines()]
    header = [name.strip().lower().replace(" ", "_") for name in lines[0]]
    column = "institution" if "institution" in header else "source_site"
    if "tss_code" not in header or column not in header:
        raise UserError(f"file {path}, line 1: no columns tss_code and institution or source_site. Get the {DOWNLOADS[path.name]}.")
    code, name = header.index("tss_code"), header.index(column)
    return {line[code]: line[name] for line in lines[1:] if len(line) > max(code, name)}


# --- registry tables -----------------------------------------------------------------------------------------------------------------


@cache
def settings() -> dict:
    """registry.yaml."""
    return yaml.safe_load(Path(__file__).with_name("registry.yaml").read_text(encoding="utf-8"))


def is_missing(value: str) -> bool:
    """Missing is the empty string and whatever starts with a square bracket; the word None is a value."""
    return not value.strip() or value.startswith("[")


def treatment_tables(folder: Path) -> dict[str, dict[str, pd.DataFrame]]:
    """The tables drug and radiation, each cancer -> table as text; empty where the folder has none (they are not needed for anything else)."""
    kinds = [kind for kind in ("drug", "radiation") if any((folder / "clinical").glob(f"*clinical_{kind}_*"))]
    return {"drug": {}, "radiation": {}} | {kind: read_patient_tables(folder, kind)[0] for kind in kinds}


def read_patient_tables(folder: Path, kind: str = "patient") -> tuple[dict[str, pd.DataFrame], list[dict]]:
    """Cancer -> patient table (or drug, radiation: several rows per patient) as text, and quarantine entries of damaged rows.

    Columns carry the name of line 1; a column that is called otherwise on line 2 stands under that name too. Of two columns with one
    name the last is used: in LUAD and LUSC that is the specific histology.
    """
    tables, quarantined = {}, []
    for path in find_all(folder / "clinical", f"*clinical_{kind}_*.txt"):
        cancer = re.search(rf"clinical_{kind}_(\w+)\.txt", path.name).group(1).upper()
        lines = read_text(path).split("\n")
        if len(lines) < 4 or "bcr_patient_barcode" not in lines[0].split("\t"):
            raise UserError(f"file {path}, line 1: no column bcr_patient_barcode. Get the {DOWNLOADS['clinical']}.")
        names = [line.rstrip("\r").split("\t") for line in lines[:2]]
        rows = []
        for number, line in enumerate(lines[3:], start=4):
            values = line.rstrip("\r").split("\t")
            if not line.strip():
                continue
            if len(values) == len(names[0]) and is_utf8(line):
                rows.append([value.strip() for value in values])
                continue
            reason = "not valid UTF-8" if not is_utf8(line) else f"{len(values)} values under {len(names[0])} column names"
            quarantined.append(quarantine_entry(path.name, number, reason, line))
        by_name = {}
        for header in reversed(names):  # line 1 has the last word where both lines use a name
            by_name |= {name: position for position, name in enumerate(header)}
        tables[cancer] = pd.DataFrame({name: [row[i] for row in rows] for name, i in by_name.items()}, dtype=str)
    return tables, quarantined


def registry_frames(tables: dict[str, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Patients and their registry values (see load) from the raw patient tables."""
    patients, registry = [], []
    for cancer, table in tables.items():
        ids = table["bcr_patient_barcode"].tolist()
        columns = {name: column_of(table, wanted) for name, wanted in settings()["patient_columns"].items()}
        for position, patient_id in enumerate(ids):
            values = {name: "" if is_missing(column[position]) else column[position] for name, column in columns.items()}
            patients.append({"patient_id": patient_id, "cancer_type": cancer} | values)
            registry += coded_values(patient_id, cancer, values)
        for name, field in settings()["fields"].items():
            if cancer not in field["cancers"]:
                continue
            cells = column_of(table, field["columns"])
            if "of" in field:
                cells = [f"{part}/{whole}" for part, whole in zip(cells, column_of(table, field["of"]), strict=True)]
            for patient_id, raw in zip(ids, cells, strict=True):
                value = "" if is_missing(raw) else normalise(raw, field["rule"])
                if value and value in field.get("values", [value]):
                    registry.append({"patient_id": patient_id, "field": field.get("field", name), "registry_value": value})
    patients = pd.DataFrame(patients, dtype=str)
    twice = patients["patient_id"][patients["patient_id"].duplicated()]
    if len(twice):
        raise UserError(f"clinical tables: {len(twice)} patients stand in two rows or tables. Download the tables again.")
    patients["age"] = pd.to_numeric(patients["age"], errors="coerce").astype("Int64")
    return patients, pd.DataFrame(registry, columns=["patient_id", "field", "registry_value"], dtype=str)


def column_of(table: pd.DataFrame, names: list[str]) -> list[str]:
    """Values of the first of these columns that the table has; empty strings when it has none."""
    name = next((name for name in names if name in table.columns), None)
    return table[name].tolist() if name else [""] * len(table)


def normalise(raw: str, rule: str) -> str:
    """A registry cell as an answer value of its field, or an empty string when it is none (TX, GX, "Stage X", "Bronchial").

    Rules and merges: N0 with additions and NX are N0; a sub-letter is cut; several sub-sites in one cell are separated by `|`.
    """
    value = raw.strip()
    if rule == "t_category":
        match = re.fullmatch(r"[pyrma]*T([1-4])[a-d]?\d?", value)
        return f"T{match.group(1)}" if match else ""
    if rule == "t_letter":
        match = re.fullmatch(r"[pyrma]*(T[1-4][a-d])\d?", value)
        return match.group(1) if match else ""
    if rule == "m_category":
        match = re.match(r"[pc]*M([01X])", value)
        return f"M{match.group(1)}" if match else ""
    if rule == "n_category":
        match = re.match(r"[pyrma]*N([0-3X])", value)
        return "N0" if match and match.group(1) == "X" else f"N{match.group(1)}" if match else ""
    if rule == "side":
        sides = {side for part in value.split("|") for side in [side_of(part.strip())] if side}
        return "Bilateral" if len(sides) > 1 else sides.pop() if sides else ""
    if rule == "gleason_sum":
        return str(int(value)) if value.isdigit() and 6 <= int(value) <= 10 else ""
    if rule == "grade":
        return value if re.fullmatch(r"G[1-4]", value) else ""
    if rule == "high_low":
        return {"high grade": "High", "low grade": "Low"}.get(value.lower(), "")
    if rule == "receptor":
        return value if value in ("Positive", "Negative", "Equivocal") else ""  # Indeterminate: the test failed
    if rule == "stage_group":
        match = re.fullmatch(r"Stage (IV|I{1,3})[A-D]?\d?", value)
        return match.group(1) if match else ""
    if rule == "present":
        return {"yes": "Present", "present": "Present", "no": "Absent", "absent": "Absent"}.get(value.lower(), "")
    if rule == "margin":
        return {"negative": "Negative", "positive": "Positive", "r0": "Negative", "r1": "Positive", "r2": "Positive"}.get(value.lower(), "")
    if rule == "residual":
        return value if value in ("R0", "R1", "R2") else ""
    if rule == "segment":  # the form prints some names with a capital in the second word
        return "" if "|" in value or value.startswith("Other") else value.capitalize()
    if rule == "lobe":
        match = re.fullmatch(r"[RL]-(Upper|Middle|Lower)", value)
        return match.group(1) if match else ""
    if rule == "centimetres":
        return f"{float(value):.1f} cm" if re.fullmatch(r"\d{1,2}(\.\d+)?", value) else ""
    if rule == "pair":
        part, _, whole = value.partition("/")
        return f"{int(part)}/{int(whole)}" if part.isdigit() and whole.isdigit() and 0 < int(whole) >= int(part) else ""
    if rule == "any_positive":
        pair = normalise(value, "pair")
        return pair and ("Negative" if pair.startswith("0/") else "Positive")
    raise ValueError(f"registry.yaml names an unknown rule: {rule}")


def side_of(value: str) -> str:
    """Side of one sub-site: "Left Upper Outer Quadrant", "R-Upper", "Midline"; empty for "Bronchial" and the like."""
    match = re.match(r"(Right|Left|Bilateral|Midline)\b|([RL])-", value)
    if not match:
        return ""
    return match.group(1) or {"R": "Right", "L": "Left"}[match.group(2)]


def coded_values(patient_id: str, cancer: str, values: dict) -> list[dict]:
    """Registry rows histology, diagnosis ("<histology> of the <organ>") and icd10 (three characters) from the ICD codes."""
    organ = settings()["organ_by_cancer"].get(cancer) or settings()["organ_by_topography"].get(values["icd_o_3_site"][:3], "")
    histology = histology_group(values["icd_o_3_histology"], values["icd_o_3_site"], cancer)
    found = {"histology": histology, "diagnosis": f"{histology} of the {organ}" if histology and organ else "", "icd10": values["icd_10"][:3]}
    return [{"patient_id": patient_id, "field": field, "registry_value": value} for field, value in found.items() if value]


def histology_group(morphology: str, topography: str, cancer: str) -> str:
    """Group name of an ICD-O-3 code such as 8140/3 at C61.9; empty when no group of registry.yaml fits."""
    code, site = morphology[:4], topography[:3]
    for group in settings()["histology_groups"]:
        if not code.isdigit() or int(code) not in group["codes"]:
            continue
        if site in group.get("sites", [site]) and cancer in group.get("cancers", [cancer]):
            return group["name"]
    return ""


# --- reports -------------------------------------------------------------------------------------------------------------------------


def read_reports(folder: Path) -> tuple[list[dict], list[dict]]:
    """Rows {patient_id, site, text, source, line, name} of all report files, and quarantine entries of damaged rows."""
    rows, quarantined = [], []
    organ_files = [(path, REPORT_COLUMNS, "reports") for path in find_all(folder / "reports", "*.csv")]
    breast_file = find(folder, "breast_reports.csv")
    for path, columns, source in [*organ_files, (breast_file, BREAST_COLUMNS, "breast_reports.csv")]:
        records = read_records(read_text(path))
        if not records or records[0][1] != columns:
            raise UserError(f"file {path}, line 1: the columns are not {', '.join(columns)}. Get the {DOWNLOADS[source]}.")
        for line, values, reason in records[1:]:
            name, text = values if len(values) == 2 else ("", "")
            if not reason and len(values) != 2:
                reason = f"{len(values)} values under 2 column names"
            if not reason and not is_utf8(name + text):
                reason = "not valid UTF-8"
            text = undo_utf16(text)
            if not reason and "\x00" in name + text:
                reason = "NUL character"
            if reason:
                quarantined.append(quarantine_entry(path.name, line, reason, values))
                continue
            match = BARCODE.search(name)
            patient_id, site = (match.group(0), match.group(1)) if match else ("", "")
            rows.append({"patient_id": patient_id, "site": site, "text": text, "source": path.name, "line": line, "name": name})
    return rows, quarantined


def read_records(content: str) -> list[tuple[int, list[str], str]]:
    """CSV records as (first line, values, reason why damaged or ""). A record with an unclosed quote costs only itself: reading starts
    again at the line inside it that can only be a record's start."""
    lines = content.splitlines(keepends=True)
    records, start = [], 0
    while start < len(lines):
        reader = csv.reader(lines[start:])
        values = next(reader)
        end = start + reader.line_num
        restart = next((i for i in range(start + 1, end) if starts_row(lines[i])), None)
        if restart is not None:
            records.append((start + 1, lines[start:restart], "a quote is not closed"))
        elif values:
            records.append((start + 1, values, ""))
        start = restart if restart is not None else end
    return records


def starts_row(line: str) -> bool:
    """Whether the line can only be the start of a record; the cheap tests come first, because there are 600,000 lines."""
    return (".pdf" in line.lower() or "TCGA-" in line) and ROW_START.match(line) is not None


def undo_utf16(text: str) -> str:
    """14 kidney reports are UTF-16 inside a UTF-8 file: every other character is a NUL. Without the NULs they read normally."""
    return text.replace("\x00", "") if 3 * text.count("\x00") > len(text) else text


def damaged_rows(quarantined: list[dict]) -> list[dict]:
    """Stand-ins for unreadable rows, so that the flow starts with every row of the files."""
    return [{"patient_id": "", "text": None, "source": entry["file"]} for entry in quarantined]


def number_reports(rows: list[dict]) -> list[dict]:
    """The rows with note_id `<patient>-r<n>`, n counting the patient's reports by file name (which itself holds an identifier)."""
    counts = {}
    for row in sorted(rows, key=lambda row: (row["patient_id"], row["name"], row["line"])):
        counts[row["patient_id"]] = counts.get(row["patient_id"], 0) + 1
        row["note_id"] = f"{row['patient_id']}-r{counts[row['patient_id']]}"
    return rows


def drop_same_text(rows: list[dict]) -> list[dict]:
    """Rows without exact copies (ignoring case and white space): within a patient the first stays, across patients none does."""
    owners, kept, seen = {}, [], set()
    keys = [" ".join(row["text"].lower().split()) for row in rows]
    for key, row in zip(keys, rows, strict=True):
        owners.setdefault(key, set()).add(row["patient_id"])
    for key, row in zip(keys, rows, strict=True):
        if len(owners[key]) == 1 and key not in seen:
            seen.add(key)
            kept.append(row)
    return kept
