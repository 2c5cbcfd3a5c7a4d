"""OMOP Common Data Model v5 tables as CSV or Parquet: NOTE, and where they are there PERSON, CONDITION_OCCURRENCE, CARE_SITE and CONCEPT.

Column names are those of the CDM (ohdsi.github.io/CommonDataModel/cdm54.html), in any letter case. A table is a file (note.csv, NOTE_001.parquet.gz)
or a folder of files named like the table.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from cancerllm_utils.corpus.local import cancer_codes, dates, delimited, files
from cancerllm_utils.corpus.local.people import age_at, choose_cancers, note_cancer, people_frame
from cancerllm_utils.corpus.schema import quarantine_entry
from cancerllm_utils.errors import UserError

# table -> (columns that must be there, columns that are used where they are there)
TABLES = {
    "note": (["note_id", "person_id", "note_text"], ["note_date", "note_datetime", "note_class_concept_id", "note_title", "note_source_value"]),
    "person": (
        ["person_id"],
        ["birth_datetime", "year_of_birth", "month_of_birth", "day_of_birth", "gender_concept_id", "gender_source_value", "care_site_id"],
    ),
    "condition_occurrence": (
        ["person_id"],
        ["condition_source_value", "condition_concept_id", "condition_source_concept_id", "condition_start_date", "condition_start_datetime"],
    ),
    "care_site": (["care_site_id", "care_site_name"], []),
    "concept": (["concept_id", "concept_name"], ["concept_code", "vocabulary_id", "domain_id"]),
}
GENDERS = {"8507": "MALE", "8532": "FEMALE", "m": "MALE", "f": "FEMALE", "male": "MALE", "female": "FEMALE"}
NAMED_VOCABULARIES = {"loinc", "note type", "document type"}  # vocabularies of note classes


def find_tables(found: list[Path]) -> dict[str, list[Path]]:
    """{table: its files}. UserError where there is no NOTE."""
    tables = {}
    for path in found:
        stem = path.name.lower().split(".")[0]
        for table in TABLES:
            if re.fullmatch(rf"{table}([-_]?(part)?[-_]?\d+)*", stem) or path.parent.name.lower() == table:
                tables.setdefault(table, []).append(path)
    if "note" not in tables:
        raise UserError(f"folder {found[0].parent}: there is no OMOP table NOTE (note.csv or note.parquet). Export NOTE, PERSON and CONDITION_OCCURRENCE.")
    return tables


def columns_of(path: Path, table: str) -> dict[str, int]:
    """{column: position} of the columns that are used. UserError where a needed one is missing."""
    needed, used = TABLES[table]
    names, _, _ = delimited.header_of(path)
    return delimited.find_columns(path, names, {name: name for name in needed + used}, set(needed), lambda name: f"OMOP CDM v5 calls it {name}.")


def check_tables(tables: dict[str, list[Path]]) -> None:
    """Raise the UserError of the first table without its columns; reads the headers only."""
    for table, found in tables.items():
        for path in found:
            columns_of(path, table)


def rows_of(tables: dict[str, list[Path]], table: str, top: Path, quarantined: list, remarks: list) -> Iterator[dict]:
    """Records of a table beside the notes; damaged rows go to quarantined and are counted in remarks. top: the folder of all tables."""
    bad, n = 0, 0
    for path in tables.get(table, []):
        for line, record, reason, content in files.told(path.name, delimited.read_table(path, columns_of(path, table), (TABLES[table][0][0],), {})):
            n += 1
            if reason:
                bad += 1
                quarantined.append(quarantine_entry(files.shown(path, top), line, reason, content))
            else:
                yield {name: whole(value) for name, value in record.items()}
    remarks.append(f"{table.upper()}: {n:,} rows" + (f", {bad:,} of them in quarantine.jsonl" if bad else "") if table in tables else f"no {table.upper()}")


def whole(value: str) -> str:
    """An id without the `.0` that spreadsheets and pandas add."""
    value = value.strip()
    return value[:-2] if value.endswith(".0") and value[:-2].isdigit() else value


def read_people(tables: dict[str, list[Path]], top: Path, quarantined: list, remarks: list) -> dict:
    """What the tables beside NOTE say: cancers {person: code}, sites {person: name}, types {concept: name}, patients (frame of `local.read`).

    A person's cancer is the one recorded most often, of equals the earliest. Reads every table but NOTE, holds persons in memory.
    """
    types, concept_cancers = {}, {}
    for row in rows_of(tables, "concept", top, quarantined, remarks):
        vocabulary = row.get("vocabulary_id", "").lower()
        if vocabulary in NAMED_VOCABULARIES or row.get("domain_id", "").lower() in ("note", "type concept"):
            types[row["concept_id"]] = row["concept_name"]
        elif vocabulary.startswith(("icd", "snomed")) and cancer_codes.cancer_of(row.get("concept_code", ""))[0]:
            concept_cancers[row["concept_id"]] = row["concept_code"]
    care_sites = {row["care_site_id"]: row["care_site_name"] for row in rows_of(tables, "care_site", top, quarantined, remarks)}
    persons = {row["person_id"]: row for row in rows_of(tables, "person", top, quarantined, remarks) if row["person_id"]}
    seen = {}  # person -> {code: [times, first date, undecided]}
    for row in rows_of(tables, "condition_occurrence", top, quarantined, remarks):
        codes = [
            row.get("condition_source_value", ""),
            concept_cancers.get(row.get("condition_source_concept_id", ""), ""),
            concept_cancers.get(row.get("condition_concept_id", ""), ""),
        ]
        code, undecided = next((found for found in map(cancer_codes.cancer_of, codes) if found[0]), ("", False))
        if code:
            day = dates.iso_date(row.get("condition_start_date") or row.get("condition_start_datetime", ""), None) or "9999"
            note_cancer(seen, row["person_id"], code, day, undecided)
    cancers, firsts = choose_cancers(seen, remarks)
    sites = {person: care_sites[row["care_site_id"]] for person, row in persons.items() if row.get("care_site_id") in care_sites}
    rows = [(person, cancers.get(person, ""), age_at(birth_date(row), firsts.get(person, "")), gender_of(row)) for person, row in persons.items()]
    return {"cancers": cancers, "sites": sites, "types": types, "persons": persons.keys(), "patients": people_frame(rows)}


def birth_date(row: dict) -> str:
    """ISO date of birth; of a year alone its middle; "" where it is not known."""
    whole_date = dates.iso_date(row.get("birth_datetime", ""), None)
    year, month, day = (row.get(name, "") for name in ("year_of_birth", "month_of_birth", "day_of_birth"))
    return whole_date or dates.iso_date(f"{year}-{(month or '7').zfill(2)}-{(day or '1').zfill(2)}", None)


def gender_of(row: dict) -> str:
    """MALE, FEMALE or "" where it is not known."""
    return GENDERS.get(row.get("gender_concept_id", "")) or GENDERS.get(row.get("gender_source_value", "").lower(), "")


def read_notes(tables: dict[str, list[Path]], top: Path, people: dict, remarks: list) -> Iterator[tuple]:
    """(file, line, record, reason, content) of every row of NOTE."""
    used, n, strangers = {}, 0, 0
    for path in tables["note"]:
        name = files.shown(path, top)
        for line, row, reason, content in delimited.read_table(path, columns_of(path, "note"), ("note_id", "person_id"), used):
            n += 1
            if reason:
                yield name, line, None, reason, content
                continue
            person, concept = whole(row["person_id"]), whole(row.get("note_class_concept_id", ""))
            strangers += bool(people["persons"]) and person not in people["persons"]
            record = {
                "note_id": whole(row["note_id"]), "patient_id": person, "text": row["note_text"], "date": row.get("note_date") or row.get("note_datetime", ""),
                "note_type": [people["types"].get(concept, ""), row.get("note_title", ""), row.get("note_source_value", ""), concept if concept != "0" else ""],
                "site": people["sites"].get(person, ""),
            }  # fmt: skip
            yield name, line, record, "", content
    remarks.append(f"NOTE: {n:,} rows{delimited.encodings(used)}" + (f", {strangers:,} of persons that PERSON does not list" if strangers else ""))
