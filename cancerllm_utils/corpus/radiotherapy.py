"""Radiotherapy rows of a cancer registry -> modality, dose in Gy, fractions and target, with a flag for every change; and courses -> plans.

Doses are typed by hand in cGy, Gy or mCi, with the wrong unit or none. The rule (`to_gy`) keeps a dose as it is where that is plausible, rescales it where
only another unit makes it so, and drops it otherwise; activities (mCi) are never converted. Word lists and limits: radiotherapy.yaml.
"""

import re
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

GAP_DAYS = 60  # rows of one indication that start within so many days of the first are one plan (phase and boost)
NONE = "no radiotherapy"
COURSE_COLUMNS = [
    "patient_id", "cancer_type", "modality", "gy", "fractions", "target", "indication", "start", "end", "dose_flag", "fractions_flag",
    "raw_type", "raw_dose", "raw_unit", "raw_fractions", "raw_site",
]  # fmt: skip


@cache
def rules() -> dict:
    """radiotherapy.yaml."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def modality_of(kind: str, notes: str = "") -> str:
    """Modality of a row's type and its free text; "other" where neither says, empty where the type is missing."""
    kind, notes = kind.strip().lower(), notes.strip().lower()
    if kind in rules()["types"]:
        return rules()["types"][kind]
    named = next((entry["modality"] for entry in rules()["other"] if not notes.startswith("[") and re.search(entry["says"], notes)), "")
    return named or ("other" if kind and not kind.startswith("[") else "")


def number_in(text: str) -> tuple[float | None, str]:
    """The one number of a cell and how it was read: "", "text removed", "thousands comma", "decimal comma", "several numbers", "missing"."""
    text = text.strip()
    if not text or text.startswith("["):
        return None, "missing"
    found = re.findall(r"\d*[.,]?\d+(?:[.,]\d+)*", text)
    if not found:
        return None, "not a number"
    if len(found) > 1:
        return None, "several numbers"
    number = found[0]
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", number):
        return float(number.replace(",", "")), "thousands comma"
    if re.fullmatch(r"\d+,\d{1,2}", number):
        return float(number.replace(",", ".")), "decimal comma"
    if not re.fullmatch(r"\d*\.?\d+", number):
        return None, "not a number"
    return float(number), "" if number == text else "text removed"


def to_gy(dose: str, unit: str, modality: str = "external beam") -> tuple[float | None, str]:
    """Total dose in Gy of a dose and a unit cell, and what was done to it.

    Flags: "" (as stated), "rescaled" (the unit was wrong: 60 cGy in 30 fractions is 60 Gy), "unit inferred" (none was given), "implausible" and "activity"
    (dose dropped), "missing", and how the number was read (`number_in`), joined by "; ". A unit typed in the dose cell counts where its own is missing.
    """
    value, how = number_in(dose)
    unit = unit.strip().lower()
    if unit.startswith("[") or not unit:
        typed = re.search(r"c?gy|mci", dose.lower())
        unit = typed[0] if typed and not dose.startswith("[") else ""
    if unit == "mci" or modality == "radioisotope":
        return None, "activity" if value is not None else how
    if value is None:
        return None, how
    low, high = rules()["dose"].get(modality, rules()["dose"]["external beam"])
    steps = {"cgy": [(value / 100, ""), (value, "rescaled")], "gy": [(value, ""), (value / 100 if value >= 200 else 0, "rescaled")]}
    for gy, flag in steps.get(unit, [(value / 100 if value >= 200 else value, "unit inferred")]):
        if low <= gy <= high:
            return round(gy, 2), "; ".join(part for part in (how, flag) if part)
    return None, "; ".join(part for part in (how, "implausible") if part)


def fractions_of(text: str) -> tuple[int | None, str]:
    """Number of fractions of a cell and how it was read (flags of `number_in`, "in words", "a dose"); only whole numbers from 1 to 60 count."""
    word = text.strip().lower()
    if word in rules()["numbers"]:
        return rules()["numbers"][word], "in words"
    if re.search(r"\bc?gy\b", word):
        return None, "a dose"
    value, how = number_in(text)
    if value is None:
        return None, how
    if value != int(value):
        return None, "not a whole number"
    if not 1 <= value <= rules()["most_fractions"]:
        return None, "implausible"
    return int(value), how


def checked(gy: float | None, fractions: int | None, modality: str = "external beam") -> tuple[float | None, int | None, str]:
    """Dose, fractions and a flag: a dose per fraction out of the limits drops the fractions if it is too large, the dose if it is too small."""
    if gy is None or not fractions:
        return gy, fractions, ""
    low, high = rules()["per_fraction"].get(modality, rules()["per_fraction"]["external beam"])
    if gy / fractions > high:
        return gy, None, "implausible: too few for the dose"
    if gy / fractions < low:
        return None, fractions, "implausible: too low for the fractions"
    return gy, fractions, ""


def course_of(row: dict) -> dict:
    """One registry row (line-1 names of the TCGA radiation tables) as a course: COURSE_COLUMNS without patient_id and cancer_type. Units: Gy, days."""
    cell = {name: str(row.get(name) or "") for name in (
        "radiation_therapy_type", "radiation_type_other", "radiation_total_dose", "radiation_adjuvant_units", "radiation_adjuvant_fractions_total",
        "radiation_therapy_site", "therapy_regimen", "therapy_regimen_other")}  # fmt: skip
    modality = modality_of(cell["radiation_therapy_type"], cell["radiation_type_other"])
    gy, dose_flag = to_gy(cell["radiation_total_dose"], cell["radiation_adjuvant_units"], modality)
    fractions, fractions_flag = fractions_of(cell["radiation_adjuvant_fractions_total"])
    before = gy, fractions
    gy, fractions, odd = checked(gy, fractions, modality)
    if before[0] is not None and gy is None:
        dose_flag = odd
    if before[1] is not None and fractions is None:
        fractions_flag = odd
    return {
        "modality": modality, "gy": gy, "fractions": fractions, "target": rules()["targets"].get(cell["radiation_therapy_site"].lower(), ""),
        "indication": indication_of(cell["therapy_regimen"], cell["therapy_regimen_other"]), "start": row.get("radiation_therapy_started_days_to"),
        "end": row.get("radiation_therapy_ended_days_to"), "dose_flag": dose_flag, "fractions_flag": fractions_flag, "raw_type": cell["radiation_therapy_type"],
        "raw_dose": cell["radiation_total_dose"], "raw_unit": cell["radiation_adjuvant_units"], "raw_fractions": cell["radiation_adjuvant_fractions_total"],
        "raw_site": cell["radiation_therapy_site"],
    }  # fmt: skip


def indication_of(regimen: str, notes: str = "") -> str:
    """first | later | palliative | other of a therapy_regimen cell; a missing one is first, an "other" one follows its free text."""
    found = rules()["indications"].get(regimen.strip().lower(), "first" if regimen.startswith("[") or not regimen.strip() else "other")
    return "first" if found == "other" and re.search(rules()["first_notes"], notes.strip().lower()) else found


def courses(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Every row of the radiation tables (cancer -> table, line-1 names) as a course, COURSE_COLUMNS; start and end are days from diagnosis (float, NaN unknown)."""
    rows = [{"patient_id": row["bcr_patient_barcode"], "cancer_type": cancer} | course_of(row) for cancer, table in tables.items() for row in table.to_dict("records")]
    frame = pd.DataFrame(rows, columns=COURSE_COLUMNS)
    for name in ("start", "end", "gy", "fractions"):
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
    return frame


def plans(frame: pd.DataFrame) -> pd.DataFrame:
    """The courses with column `plan`: numbers from 1 per patient by time. Rows are never added up.

    A plan is the rows of one indication that start within GAP_DAYS of its first; rows without a start form one plan per indication, after the dated ones.
    """
    frame = frame.sort_values(["patient_id", "start"], na_position="last", kind="stable").reset_index(drop=True)
    numbers, open_plans, patient = [], {}, None
    for row in frame.itertuples():
        if row.patient_id != patient:
            patient, open_plans, count = row.patient_id, {}, 0
        dated = not pd.isna(row.start)
        number, begun = open_plans.get((row.indication, dated), (0, None))
        if not number or (dated and row.start - begun > GAP_DAYS):
            count += 1
            number, begun = count, row.start
            open_plans[row.indication, dated] = number, begun
        numbers.append(number)
    return frame.assign(plan=numbers)


def answer_of(course: dict) -> str:
    """`external beam | 60 Gy | 30 fractions | primary tumour field`; empty where modality, dose, fractions or target is not known."""
    if not course["modality"] or not course["target"] or pd.isna(course["gy"]) or pd.isna(course["fractions"]):
        return ""
    n = int(course["fractions"])
    return f"{course['modality']} | {course['gy']:g} Gy | {n} fraction{'s' if n > 1 else ''} | {course['target']}"


def parse_answer(answer: str) -> dict | None:
    """{modality, gy, fractions, target} of an answer as `answer_of` writes it; modality alone for "no radiotherapy"; None where it is no such answer."""
    if answer.strip().lower() == NONE:
        return {"modality": NONE, "gy": None, "fractions": None, "target": ""}
    parts = re.fullmatch(r"\s*([a-z +]+?) \| (\d+(?:\.\d+)?) gy \| (\d+) fractions? \| (.+?)\s*", answer.lower())
    return {"modality": parts[1], "gy": float(parts[2]), "fractions": int(parts[3]), "target": parts[4]} if parts else None


def review(frame: pd.DataFrame) -> pd.DataFrame:
    """What was made of the typed doses and fractions: one row per cancer and combination of cells that was changed or dropped, with its number of rows.

    Columns cancer_type, raw_type, raw_dose, raw_unit, raw_fractions, modality, gy, fractions, dose_flag, fractions_flag, rows. Cells that were taken as they
    are, or are simply empty, are left out, and so are radioisotopes, whose activity is never converted.
    """
    plain = ["", "missing"]
    changed = frame[~(frame["dose_flag"].isin(plain) & frame["fractions_flag"].isin(plain)) & frame["modality"].ne("radioisotope")]
    keys = ["cancer_type", "raw_type", "raw_dose", "raw_unit", "raw_fractions", "modality", "gy", "fractions", "dose_flag", "fractions_flag"]
    counts = changed.groupby(keys, dropna=False).size().rename("rows").reset_index()
    return counts.sort_values(["rows", *keys[:5]], ascending=[False, *[True] * 5], ignore_index=True)
