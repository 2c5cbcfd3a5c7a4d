"""The shape of notes and labels, and the gate that every corpus passes: a bad row is set aside with its reason, never repaired."""

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated

import pandas as pd
from pydantic import AfterValidator, BaseModel, StrictStr, ValidationError
from pydantic_core import PydanticCustomError

MAX_CHARACTERS = 500_000  # the longest published report has under 100,000; more is a binary file or a broken quote


def is_utf8(text: str) -> bool:
    """False when the text holds a lone surrogate, which is how `errors="surrogateescape"` keeps a byte that was not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def clean(value: str) -> str:
    if "\x00" in value:
        raise PydanticCustomError("nul", "holds a NUL character")
    if not is_utf8(value):
        raise PydanticCustomError("utf8", "is not valid UTF-8")
    return value


def filled(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("empty", "is empty")
    return value


def not_too_long(value: str) -> str:
    if len(value) > MAX_CHARACTERS:
        raise PydanticCustomError("long", "has {length} characters, more than {limit}", {"length": len(value), "limit": MAX_CHARACTERS})
    return value


Text = Annotated[StrictStr, AfterValidator(clean)]
Filled = Annotated[Text, AfterValidator(filled)]


class Note(BaseModel):
    """One row of notes.parquet. Every column is text; a date is ISO 8601 or empty; what is not known is empty."""

    note_id: Filled
    patient_id: Filled
    site: Text
    institution: Text
    note_type: Text
    cancer_type: Text
    date: Text
    text: Annotated[Filled, AfterValidator(not_too_long)]
    source: Text


NOTE_COLUMNS = list(Note.model_fields)
LABEL_COLUMNS = [
    "patient_id", "note_id", "field", "evidence", "stated_value", "quote_start", "quote_end", "registry_value",
]  # fmt: skip
QUARANTINE_COLUMNS = ["file", "line", "reason", "sha256"]


def check_notes(rows: Iterable[dict], source_file: str, seen: set | None = None) -> tuple[pd.DataFrame, list[dict]]:
    """Split rows into good notes and quarantined ones; len(rows) == len(kept) + len(quarantined).

    Args:
        rows: dicts with the keys NOTE_COLUMNS; the optional keys `file` and `line` say where the row comes from (else source_file and the
            row's number, from 1).
        source_file: file name for the quarantine entries.
        seen: note ids of earlier batches; the kept ids of this one are added.

    Returns:
        A frame with exactly NOTE_COLUMNS, all str, in the order given, and a list of {file, line, reason, sha256}. An entry holds
        a fingerprint of the row and never its text. Of rows that share a note_id the first is kept.
    """
    kept, quarantined, seen = [], [], set() if seen is None else seen
    for number, row in enumerate(rows, start=1):
        reason = why_bad(row) or ("note_id occurs twice" if row["note_id"] in seen else "")
        if reason:
            place = row if isinstance(row, dict) else {}
            quarantined.append(quarantine_entry(place.get("file", source_file), place.get("line", number), reason, row))
        else:
            seen.add(row["note_id"])
            kept.append({column: row[column] for column in NOTE_COLUMNS})
    return pd.DataFrame(kept, columns=NOTE_COLUMNS, dtype=str), quarantined


def why_bad(row: dict) -> str:
    """The reason why a note row cannot be used, or an empty string. Names columns and counts, never content."""
    if not isinstance(row, dict):
        return f"row is a {type(row).__name__}, not an object"
    try:
        Note.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        column = first["loc"][0]
        if first["type"] == "missing":
            return f"{column} is missing"
        if first["type"] == "string_type":
            return f"{column} is {type(first['input']).__name__}, not text"
        return f"{column} {first['msg']}"
    return ""


def quarantine_entry(file: str, line: int, reason: str, content: object) -> dict:
    """One line of quarantine.jsonl: {file, line, reason, sha256}; the fingerprint finds the row again without showing it."""
    raw = content if isinstance(content, str) else json.dumps(content, sort_keys=True, default=str)
    digest = hashlib.sha256(raw.encode("utf-8", errors="surrogatepass")).hexdigest()
    return {"file": file, "line": int(line), "reason": reason, "sha256": digest}
