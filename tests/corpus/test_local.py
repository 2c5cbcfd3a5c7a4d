"""Each format is read with its traps, every row is accounted for, and no message or quarantine entry holds a cell's content."""

import gzip
import json
import os

import pandas as pd
import pytest

from cancerllm_utils.corpus import local
from cancerllm_utils.corpus.local import cancer_codes, dates
from cancerllm_utils.corpus.schema import NOTE_COLUMNS
from cancerllm_utils.errors import UserError

HEADER = "note_id,patient_id,text,note_type,date,cancer_type\n"


def read_all(place, **source) -> tuple[list[dict], dict]:
    """Every note and the result, after checking that every row is accounted for."""
    result = local.read({"data_dir": str(place)} | source)
    notes = [note for batch in result["batches"] for note in batch]
    assert result["flow"][0]["n_reports"] == len(notes) + sum(step["dropped"] for step in result["flow"])
    assert all(set(NOTE_COLUMNS) <= set(note) and all(isinstance(note[name], str) for name in NOTE_COLUMNS) for note in notes)
    return notes, result


def reasons(result: dict) -> list[tuple]:
    return [(entry["line"], entry["reason"]) for entry in result["quarantined"]]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("zipped", [False, True])
def test_csv_in_every_usual_form(tmp_path, delimiter, encoding, zipped):
    rows = ["NOTE_ID|patient_id|text|date", 'n1|p1|"Größe 2,5 cm;\r\nzweite ""Zeile"""|2020-01-31', "n2|p2|x|1.2.2020", "", "n3|p3|y|20200301"]
    content = "\r\n".join(row.replace("|", delimiter) for row in rows).encode(encoding)
    path = tmp_path / ("notes.csv.gz" if zipped else "notes.csv")
    path.write_bytes(gzip.compress(content) if zipped else content)
    notes, result = read_all(path)
    assert [note["text"] for note in notes] == ['Größe 2,5 cm;\nzweite "Zeile"', "x", "y"]
    assert [note["date"] for note in notes] == ["2020-01-31", "2020-02-01", "2020-03-01"]
    assert [note["line"] for note in notes] == [2, 4, 6]
    assert notes[0]["site"] == notes[0]["institution"] == "own institution" and notes[0]["note_type"] == "note"
    used = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8 with byte order mark", "utf-16": "UTF-16", "cp1252": "Windows-1252 1"}[encoding]
    assert used in result["flow"][0]["note"] and not result["quarantined"]


def test_an_unclosed_quote_costs_its_own_row(tmp_path):
    good = "".join(f"n{i},p{i},all well,,,\n" for i in range(3, 9))
    path = tmp_path / "notes.csv"
    path.write_text(HEADER + 'n1,p1,"never closed,,,\nn2,p2,"closed",,,\n' + good)
    notes, result = read_all(path)
    assert [note["note_id"] for note in notes] == ["n2", *(f"n{i}" for i in range(3, 9))]
    assert [line for line, _ in reasons(result)] == [2]


def test_rows_swallowed_by_a_quote_that_closes_by_chance_are_counted(tmp_path):
    # the inch mark at the end of n4 closes the quote of n3: the record parses, with another patient's row inside
    path = tmp_path / "notes.csv"
    path.write_text('note_id,patient_id,text\nn1,p1,one\nn2,p2,two\nn3,p3,"never closed\nn4,p4,a needle of 5"\nn5,p5,five\n')
    notes, result = read_all(path)
    assert [note["note_id"] for note in notes] == ["n1", "n2", "n5"]
    assert [line for line, _ in reasons(result)] == [4, 5] and result["flow"][0]["n_reports"] == 5


def test_an_unclosed_quote_at_the_end_of_a_long_file_loses_nothing_else(tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text(
        HEADER
        + "".join(f"n{i},p{i},all well,,,\n" for i in range(500))
        + 'n500,p500,"open,,,\n'
        + "".join(f"n{i},p{i},all well,,,\n" for i in range(501, 9000))
    )
    notes, result = read_all(path)
    assert len(notes) == 8999 and reasons(result)[0][0] == 502 and len(result["quarantined"]) == 1


def test_column_names_in_the_middle_are_no_note(tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text(HEADER + "n1,p1,x,,,\n" + HEADER + "n2,p2,x,,,\n")
    notes, result = read_all(path)
    assert len(notes) == 2 and reasons(result) == [(3, "the column names stand here again")]


def test_bad_rows_are_set_aside_with_line_and_reason(tmp_path):
    rows = [
        "n1,p1,fine,,,",
        "n2,p2,too,many,values,here,really",
        "n3",
        "n4,,no patient,,,",
        ",p5,no note,,,",
        "n1,p6,twice,,,",
        "n8,p8,N\x00UL,,,",
        "n7,p7,end,,not a date,",
    ]
    path = tmp_path / "notes.csv"
    path.write_text(HEADER + "\n".join(rows))
    notes, result = read_all(path)
    assert [note["note_id"] for note in notes] == ["n1", "n7"]
    assert reasons(result) == [
        (3, "7 values under 6 column names"),
        (4, "1 values under 6 column names"),
        (5, "patient_id is empty"),
        (6, "note_id is empty"),
        (7, "note_id occurs twice"),
        (8, "text holds a NUL character"),
    ]
    assert "1 dates are not read and left empty (first: notes.csv line 9)" in result["flow"][-1]["note"]


def test_a_long_line_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(local.files, "MAX_LINE", 1000)
    path = tmp_path / "notes.csv"
    path.write_text(HEADER + "n1,p1,fine,,,\nn2,p2," + "x" * 5000 + ",,,\nn3,p3,fine,,,\n")
    notes, result = read_all(path)
    assert [note["note_id"] for note in notes] == ["n1", "n3"] and reasons(result) == [(3, "the line has more than 1000 characters")]


def test_a_truncated_gzip_keeps_what_stands_before_the_cut(tmp_path):
    import random

    rng = random.Random(0)
    rows = "".join(f"n{i},p{i},{rng.getrandbits(400):x},,,\n" for i in range(3000))
    whole = gzip.compress((HEADER + rows).encode())
    path = tmp_path / "notes.csv.gz"
    path.write_bytes(whole[: len(whole) // 2])
    notes, result = read_all(path)
    assert 500 < len(notes) < 2500 and "breaks off" in result["quarantined"][-1]["reason"]
    path.write_bytes(whole[:12])
    with pytest.raises(UserError, match=r"notes\.csv\.gz"):
        read_all(path)


def test_a_missing_column_names_file_columns_nearest_and_parameter(tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text("note_id,patient_id,report_text\nn1,p1,x\n")
    with pytest.raises(UserError, match=r"no column 'text'; it has note_id, patient_id, report_text\. The nearest is 'report_text'\. Set column_text"):
        local.check_files({"data_dir": str(path)})
    notes, _ = read_all(path, column_text="Report_Text")
    assert notes[0]["text"] == "x"
    with pytest.raises(UserError, match="no column 'ward'"):
        local.read({"data_dir": str(path), "column_text": "report_text", "column_site": "ward"})["batches"].__next__()


def test_a_file_without_a_header_does_not_print_its_first_row(tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text("17,Jane Quokka,a zygomatic tumour\n")
    with pytest.raises(UserError) as caught:
        local.check_files({"data_dir": str(path)})
    assert "Quokka" not in str(caught.value) and "zygomatic" not in str(caught.value) and "do not look like column names" in str(caught.value)


def test_jsonl(tmp_path):
    rows = [
        {"note_id": 1, "patient_id": 7.0, "text": "a\r\nb", "date": "2020-02-03T10:00:00Z", "cancer_type": "Colon cancer"},
        {"note_id": 2, "patient_id": 7, "text": 5},
        {"note_id": 3, "patient_id": ["p"], "text": "x"},
        {"patient_id": 7, "text": "x"},
    ]
    path = tmp_path / "notes.jsonl"
    path.write_text(
        "\n".join(map(json.dumps, rows))
        + '\n\n{"half": "an obj\n[1]\n'
        + "[" * 100_000
        + "\n"
        + json.dumps({"note_id": "last", "patient_id": "p", "text": "\ud800"})
    )
    notes, result = read_all(path)
    assert [notes[0][name] for name in ("note_id", "patient_id", "text", "date", "cancer_type")] == ["1", "7", "a\nb", "2020-02-03", "COAD"]
    assert notes[1]["note_id"] == "last"  # the schema sets the lone surrogate aside
    assert reasons(result) == [
        (2, "text is int, not text"),
        (3, "patient_id is list, not text"),
        (4, "note_id is missing"),
        (6, "this is no JSON object"),
        (7, "this is no JSON object"),
        (8, "this is no JSON object"),
    ]


def test_jsonl_keys_are_found_in_any_case_and_a_bad_first_row_stops_nothing(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text('{"NOTE_ID": 1, "Patient_ID": 2}\n{"NOTE_ID": 2, "Patient_ID": 2, "Text": "x"}\n')
    notes, result = read_all(path)
    assert [note["note_id"] for note in notes] == ["2"] and reasons(result) == [(1, "Text is missing")]
    with pytest.raises(UserError, match=r"no column 'report'; it has NOTE_ID, Patient_ID, Text"):
        local.check_files({"data_dir": str(path), "column_text": "report"})


def test_parquet_with_odd_types(tmp_path):
    frame = pd.DataFrame(
        {
            "note_id": [1, 2, 3],
            "patient_id": [10.0, None, 12.0],
            "text": ["a", "b", "ü"],
            "date": pd.to_datetime(["2020-01-02", None, "2021-03-04"]),
            "more": [[1], [2], [3]],
        }
    )
    frame.to_parquet(tmp_path / "notes.parquet")
    notes, result = read_all(tmp_path)
    assert [(note["note_id"], note["patient_id"], note["text"], note["date"]) for note in notes] == [
        ("1", "10", "a", "2020-01-02"),
        ("3", "12", "ü", "2021-03-04"),
    ]
    assert reasons(result) == [(2, "patient_id is empty")]
    packed = tmp_path / "packed.parquet.gz"
    packed.write_bytes(gzip.compress((tmp_path / "notes.parquet").read_bytes()))
    assert len(read_all(packed)[0]) == 2
    broken = tmp_path / "broken.parquet"
    broken.write_bytes((tmp_path / "notes.parquet").read_bytes()[:300])
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        local.check_files({"data_dir": str(broken)})


def test_text_files(tmp_path):
    (tmp_path / "P2").mkdir()
    (tmp_path / "P1_first.txt").write_bytes("\ufeffGröße\r\n".encode())
    (tmp_path / "P1_second.txt.gz").write_bytes(gzip.compress("Größe".encode("cp1252")))
    (tmp_path / "P2" / "report.txt").write_text("x")
    (tmp_path / "P2" / "broken.txt.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    (tmp_path / "P2" / "scan.pdf").write_text("x")
    notes, result = read_all(tmp_path)
    assert [(note["note_id"], note["patient_id"], note["text"]) for note in notes] == [
        ("P1_first", "P1", "Größe\n"),
        ("P1_second", "P1", "Größe"),
        ("P2/report", "P2", "x"),
    ]
    assert reasons(result) == [(1, "the gzip file is damaged or breaks off")]
    assert "1 files with other endings were not read" in result["flow"][0]["note"]


def test_a_file_name_that_is_no_utf8_can_be_written_down(tmp_path):
    (tmp_path / os.fsdecode(b"p1_Gr\xf6\xdfe.txt")).write_text("x\x00")
    _, result = read_all(tmp_path)
    assert [entry["file"] for entry in result["quarantined"]] == ["p1_Gr??e.txt"]


def test_labels_file_gives_registry_values_and_cancer_types(tmp_path):
    (tmp_path / "notes.csv").write_text("note_id,patient_id,text\nn1,p1,x\n")
    rows = "patient_id,field,value\np1,PT,t2\np1,laterality,left\np1,cancer_type,C61\np1,pT,T3\np1,size,2\np1,pN,N9\n,pN,N1\n"
    (tmp_path / "labels.csv").write_text(rows)
    notes, result = read_all(tmp_path, labels_file="labels.csv")
    assert result["registry"].to_dict("records") == [
        {"patient_id": "p1", "field": "pT", "registry_value": "T2"},
        {"patient_id": "p1", "field": "laterality", "registry_value": "Left"},
    ]
    assert notes[0]["cancer_type"] == "PRAD"
    assert [entry["line"] for entry in result["quarantined"]] == [5, 6, 7, 8] and {entry["file"] for entry in result["quarantined"]} == {"labels.csv"}
    with pytest.raises(UserError, match="does not exist"):
        local.check_files({"data_dir": str(tmp_path), "labels_file": "lables.csv"})


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ({}, {}, "holds no notes"),
        ({"a.csv": b""}, {}, "is empty"),
        ({"a.jsonl": b" \n"}, {}, "is empty"),
        ({"a.csv": b"x", "b.txt": b"x"}, {}, "several kinds"),
        ({"a.csv": b"PK\x03\x04"}, {}, "Excel"),
        ({"a.csv": b"x"}, {"data_source": "excel"}, "is unknown"),
        ({"a.csv": b"x"}, {"data_source": "fhir"}, "holds no file for data_source fhir"),
        ({"a.jsonl": b"PAR1...."}, {}, "data_source: parquet"),
        ({"a.csv": b"note_id,text,text,patient_id\n"}, {}, "2 columns are named 'text'"),
        ({"a.csv": b"x"}, {"column_text": ""}, "column_text is empty"),
    ],
)
def test_what_cannot_be_read_stops_with_one_sentence(tmp_path, files, source, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for act in (local.check_files, lambda source: list(local.read(source)["batches"])):
        with pytest.raises(UserError, match=message):
            act({"data_dir": str(tmp_path)} | source)


@pytest.mark.parametrize(
    ("written", "code", "undecided"),
    [
        ("BRCA", "BRCA", False), ("c50.911", "BRCA", False), ("C504", "BRCA", False), ("ICD-10: C61", "PRAD", False), ("C22.1", "CHOL", False), ("C22.0", "LIHC", False),
        ("C34.1", "LUAD", True), ("8070/3-C34.1", "LUSC", False), ("8140/3-C34.1", "LUAD", False), ("Breast cancer", "BRCA", False), ("Carcinoma of the prostate", "PRAD", False),
        ("kidney cancer", "KIRC", True), ("254837009", "BRCA", False), ("E11.9", "", False), ("C50 and C61 both", "BRCA", False), ("", "", False), ("C5", "", False), ("unknown", "", False),
    ],
)  # fmt: skip
def test_cancer_codes(written, code, undecided):
    assert cancer_codes.cancer_of(written) == (code, undecided)


def test_cancer_lists_do_not_contradict_each_other():
    codes = cancer_codes.CODES
    assert set(codes["snomed"].values()) - {""} <= cancer_codes.OWN and set(codes["snomed_undecided"]) <= set(codes["snomed"])
    for lists in (codes["icd10"], codes["names"]):
        every = [entry for entries in lists.values() for entry in entries]
        assert len(every) == len(set(every))
    for category, choices in codes["undecided"].items():
        assert cancer_codes.BY_ICD10[category] in choices


@pytest.mark.parametrize(
    ("written", "order", "iso"),
    [
        ("2020-02-30", None, ""), ("2020-2-3", None, ""), ("20200203", None, "2020-02-03"), ("3.2.2020 10:00", None, "2020-02-03"), ("3/4/2020", None, ""), ("3/3/2020", None, "2020-03-03"),
        ("3/4/2020", "month", "2020-03-04"), ("3/4/2020", "day", "2020-04-03"), ("13/4/2020", "month", "2020-04-13"), ("4/13/2020", "day", "2020-04-13"), ("1850-01-01", None, ""), ("soon", None, ""),
    ],
)  # fmt: skip
def test_dates(written, order, iso):
    assert dates.iso_date(written, order) == iso


def test_the_order_of_day_and_month_is_told_by_the_other_dates():
    assert dates.day_or_month(["1/2/2020", "1/13/2020"]) == "month"
    assert dates.day_or_month(["13/1/2020"]) == "day"
    assert dates.day_or_month(["13/1/2020", "1/13/2020"]) is None and dates.day_or_month(["1/2/2020"]) is None
