"""The shape of notes and labels, and the gate that every corpus passes: a bad row is set aside with its reason, never repaired."""

import hashlib
import json
from collections.abc import Iterable

import pandas as pd

NOTE_COLUMNS = ["note_id", "patient_id", "site", "institution", "note_type", "cancer_type", "date", "text", "source"]
LABEL_COLUMNS = [
    "patient_id", "note_id", "field", "evidence", "stated_value", "quote_start", "quote_end", "registry_value",
]  # fmt: skip
QUARANTINE_COLUMNS = ["file", "line", "reason", "sha256"]
NEVER_EMPTY = ("note_id", "patient_id", "text")
MAX_CHARACTERS = 500_000  # the longest published report has under 100,000; more is a binary file or a broken quote


def check_notes(rows: Iterable[dict], source_file: str) -> tuple[pd.DataFrame, list[dict]]:
    """Split rows into good notes and quarantined ones; len(rows) == len(kept) + len(quarantined).

    Args:
        rows: dicts with the keys NOTE_COLUMNS; an optional key `line` is the line in the source file (else the row's number, from 1).
        source_file: file name for the quarantine entries.

    Returns:
        A frame with exactly NOTE_COLUMNS, all str, in the order given, and a list of {file, line, reason, sha256}. An entry holds
        a fingerprint of the row and never its text. Of rows that share a note_id the first is kept.
    """
    kept, quarantined, seen = [], [], set()
    for number, row in enumerate(rows, start=1):
        reason = why_bad(row) or ("note_id occurs twice" if row["note_id"] in seen else "")
        if reason:
            line = row.get("line", number) if isinstance(row, dict) else number
            quarantined.append(quarantine_entry(source_file, line, reason, row))
        else:
            seen.add(row["note_id"])
            kept.append({column: row[column] for column in NOTE_COLUMNS})
    return pd.DataFrame(kept, columns=NOTE_COLUMNS, dtype=str), quarantined


def why_bad(row: dict) -> str:
    """The reason why a note row cannot be used, or an empty string. Names columns and counts, never content."""
    if not isinstance(row, dict):
        return f"row is a {type(row).__name__}, not an object"
    for column in NOTE_COLUMNS:
        if column not in row:
            return f"{column} is missing"
        value = row[column]
        if not isinstance(value, str):
            return f"{column} is {type(value).__name__}, not text"
        if column in NEVER_EMPTY and not value.strip():
            return f"{column} is empty"
        if "\x00" in value:
            return f"{column} holds a NUL character"
        if not is_utf8(value):
            return f"{column} is not valid UTF-8"
    if len(row["text"]) > MAX_CHARACTERS:
        return f"text has {len(row['text'])} characters, more than {MAX_CHARACTERS}"
    return ""


def is_utf8(text: str) -> bool:
    """False when the text holds a lone surrogate, which is how `errors="surrogateescape"` keeps a byte that was not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def quarantine_entry(file: str, line: int, reason: str, content: object) -> dict:
    """One line of quarantine.jsonl: {file, line, reason, sha256}; the fingerprint finds the row again without showing it."""
    raw = content if isinstance(content, str) else json.dumps(content, sort_keys=True, default=str)
    digest = hashlib.sha256(raw.encode("utf-8", errors="surrogatepass")).hexdigest()
    return {"file": file, "line": int(line), "reason": reason, "sha256": digest}
