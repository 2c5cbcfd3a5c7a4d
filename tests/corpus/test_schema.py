"""Good rows pass unchanged, bad rows are set aside with a reason and without their text."""

import json

from cancerllm_utils.corpus.schema import NOTE_COLUMNS, check_notes


def row(**changes) -> dict:
    good = dict.fromkeys(NOTE_COLUMNS, "") | {"note_id": "N1", "patient_id": "P1", "text": "A small mass, benign."}
    return good | changes


def test_rows_in_equal_rows_kept_plus_quarantined():
    missing = row(note_id="N2")
    del missing["site"]
    rows = [row(), missing, row(note_id="N3", text="  "), row(note_id="N4", date=None), row(note_id="N5", text="NUL \x00 inside")]
    rows += [row(note_id="N6", text="bad byte \udcff"), row(note_id="N7", text="x" * 500_001), row(text="second with this id"), ["no", "dict"]]
    kept, quarantined = check_notes(rows, "made_up.csv")
    assert len(kept) + len(quarantined) == len(rows)
    assert kept["note_id"].tolist() == ["N1"]
    assert list(kept.columns) == NOTE_COLUMNS
    assert [entry["line"] for entry in quarantined] == [2, 3, 4, 5, 6, 7, 8, 9]
    reasons = [entry["reason"] for entry in quarantined]
    assert reasons == [
        "site is missing",
        "text is empty",
        "date is NoneType, not text",
        "text holds a NUL character",
        "text is not valid UTF-8",
        "text has 500001 characters, more than 500000",
        "note_id occurs twice",
        "row is a list, not an object",
    ]


def test_quarantine_never_holds_the_text_but_finds_the_row_again():
    secret = "Zygomatic quokka tumour\x00"
    _, first = check_notes([row(text=secret, line=77)], "made_up.csv")
    _, again = check_notes([row(text=secret, line=77)], "made_up.csv")
    assert first == again and first[0]["line"] == 77 and len(first[0]["sha256"]) == 64
    assert "quokka" not in json.dumps(first)
    assert set(first[0]) == {"file", "line", "reason", "sha256"}


def test_an_empty_source_gives_an_empty_frame():
    kept, quarantined = check_notes([], "made_up.csv")
    assert kept.empty and list(kept.columns) == NOTE_COLUMNS and quarantined == []
