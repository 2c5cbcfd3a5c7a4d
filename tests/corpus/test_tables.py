"""The tables of notebooks 01 and 02 from invented notes, counted by hand."""

from functools import cache

import pandas as pd
import pytest

from cancerllm_utils.corpus import tables
from cancerllm_utils.errors import UserError
from tests import invented_results

TEXT = "Left breast <tumor> of 2 cm, grade 2."


def corpus() -> dict:
    notes, splits, labels = invented_results.notes(), invented_results.splits(), invented_results.labels()
    known = pd.DataFrame({
        "patient_id": [f"p{i}" for i in range(60)], "cancer_type": ["BRCA", "LUAD", "PRAD"] * 20, "age": [str(40 + i % 40) if i else "" for i in range(60)],
        "gender": ["FEMALE", "MALE"] * 30, "race": ["WHITE", ""] * 30,
    })  # fmt: skip
    more = [
        [f"p{i}", f"n{2 * i}", field, "stated", None, value]
        for i in range(60)
        for field, value in (("er", "Positive"), ("stage", "T2 N10"), ("tumor_size", f"{i} cm"))
    ]
    labels = pd.concat([labels, pd.DataFrame(more, columns=labels.columns)], ignore_index=True)
    labels.loc[(labels["field"] == "grade") & ~labels["patient_id"].isin(known.loc[known["cancer_type"] == "BRCA", "patient_id"]), "registry_value"] = None
    labels.loc[(labels["patient_id"] == "p0") & (labels["field"] == "grade"), "registry_value"] = None
    return {"notes": notes, "splits": splits, "labels": labels, "patients": known}


@cache
def by_ring() -> pd.DataFrame:
    return tables.table_one(corpus())


def row(table: pd.DataFrame, characteristic: str, level: str = "") -> pd.Series:
    start = table.index[table["characteristic"].str.startswith(characteristic)][0]
    part = table.loc[start:]
    return part[part["level"] == level].iloc[0]


def test_table_one_by_ring_counts_patients_notes_and_what_is_missing():
    table = by_ring()
    assert list(table.columns[:4]) == ["characteristic", "level", "overall", "training patients"] and table.columns[-1] == "missing"
    assert list(row(table, "patients")[["overall", "training patients", "held-out institutions"]].astype(int)) == [60, 30, 9]
    assert row(table, "notes")["overall"] == "120" and row(table, "institutions")["overall"] == 4 and row(table, "cancer types")["development patients"] == 3
    assert row(table, "age, median")["overall"].startswith("55 [") and row(table, "age, median")["missing"] == 1
    assert row(table, "notes per patient")["overall"] == "2 [2,2]"
    assert row(table, "sex, n (%)", "female")["overall"] == "30 (50.0)"
    assert row(table, "race, n (%)", "missing")["overall"] == "30 (50.0)"


def test_a_registry_field_is_counted_among_the_cancers_that_have_it():
    table = by_ring()
    grade = table[table["characteristic"] == "grade (BRCA), n (%)"]
    assert len(grade) == 1
    assert row(table, "grade (BRCA)", "G2")["overall"] == "19 (95.0)" and row(table, "grade (BRCA)", "missing")["overall"] == "1 (5.0)"


def test_codes_are_spelled_as_clinicians_do_and_open_fields_stay_out():
    table = by_ring()
    assert row(table, "ER (BRCA, LUAD, PRAD)", "Positive")["overall"] == "60 (100.0)"
    assert row(table, "stage T (", "T2")["overall"] == "60 (100.0)" and row(table, "stage N (", "N10")["overall"] == "60 (100.0)"
    assert not table["characteristic"].str.contains("size").any()
    assert not table.isna().any().any()


def test_table_one_by_cancer_type_has_a_row_each():
    table = tables.table_one(corpus(), by="cancer_type")
    assert list(table["cancer type"]) == ["overall", "BRCA", "LUAD", "PRAD"] and list(table["patients"].astype(int)) == [60, 20, 20, 20]
    assert list(table["sex: female"]) == ["30 (50.0)", "10 (50.0)", "10 (50.0)", "10 (50.0)"]


def test_table_one_of_a_corpus_that_knows_nothing_of_its_patients():
    bare = corpus()
    bare |= {"patients": bare["patients"][["patient_id", "cancer_type"]], "labels": bare["labels"][:0]}
    table = tables.table_one(bare)
    assert list(table["characteristic"].str.partition(",")[0]) == [
        "patients",
        "notes",
        "institutions",
        "sites",
        "cancer types",
        "notes per patient",
        "words per note",
    ]
    assert int(row(table, "patients")["overall"]) == 60
    empty = corpus()
    empty |= {name: empty[name][:0] for name in ("notes", "patients", "splits", "labels")}
    assert tables.table_one(empty).empty


def test_duplicates_by_kind_and_across_rings():
    copies = pd.DataFrame({"note_id": ["n0", "n1", "n2", "n60", "n61"], "group": [1, 1, 2, 2, 2], "kept": [True, False, True, False, False],
                           "jaccard": [1, 1, 1, 0.9, 1], "kind": ["exact", "exact", "near", "near", "exact"]})  # fmt: skip
    table = tables.duplicates_table(copies, invented_results.splits(), invented_results.notes()).set_index("kind")
    assert list(table.loc["exact"]) == [1, 2, 1, 0]
    assert list(table.loc["near"]) == [1, 3, 2, 1]  # n2 is of a training patient, n60 of a development patient
    none = tables.duplicates_table(copies[:0], invented_results.splits(), invented_results.notes())
    assert none["groups"].sum() == 0 and len(none) == 2


def test_quality_table_counts_flags():
    quality = pd.DataFrame({"ocr_noise": [0.0, 0.03, 0.2], "organs": [1, 2, 0], "t_categories": [2, 1, 1], "language": ["en", "de", "en"]})
    table = tables.quality_table(quality).set_index("measure")["value"]
    assert table["notes"] == "3" and table["flagged for several tumours (either)"] == "2" and table["not in English, or undecided"] == "1"
    assert list(table.filter(like=": noise")) == ["1", "1", "1"] and table["some: noise up to 0.050"] == "1"


def reader_corpus() -> dict:
    notes = pd.DataFrame(
        [["n1", "p1", "pathology_report", "BRCA", "Ayton", "2020-01-02", TEXT]],
        columns=["note_id", "patient_id", "note_type", "cancer_type", "institution", "date", "text"],
    )
    labels = pd.DataFrame([
        ["n1", "laterality", "stated", "Left", 0, 4], ["n1", "diagnosis", "stated", "tumor of the breast", 5, 19], ["n1", "tumor_site", "stated", "breast", 5, 11],
        ["n1", "grade", "uncertain", None, None, None],
    ], columns=["note_id", "field", "evidence", "stated_value", "quote_start", "quote_end"])  # fmt: skip
    return {"notes": notes, "labels": labels.astype({"quote_start": "Int64", "quote_end": "Int64"})}


def test_the_reader_names_every_span_in_words_and_loses_no_character():
    shown = tables.note_reader(reader_corpus(), "synthetic").data
    for said in ("laterality = Left", "diagnosis = tumor of the breast", "tumor site = breast"):
        assert f">{said}</b>" in shown
    assert "grade =" not in shown and "&lt;tumor&gt;" in shown and "<tumor>" not in shown
    import html
    import re

    body = shown[shown.index("<div") :]
    assert html.unescape(re.sub(r"<b .*?</b>|<[^>]+>", "", body)) == TEXT
    marked = html.unescape("".join(re.findall(r"<mark[^>]*>(.*?)</mark>", body)))
    assert marked == TEXT[0:4] + TEXT[5:19]


def test_the_reader_shows_no_real_note_unless_it_is_told_to():
    assert "breast" not in tables.note_reader(reader_corpus(), "tcga").data
    assert "breast" in tables.note_reader(reader_corpus(), "local", report_text=True).data
    with pytest.raises(UserError, match="note n9 is not in the corpus"):
        tables.note_reader(reader_corpus(), "synthetic", note_id="n9")


def test_the_reader_of_a_corpus_that_states_nothing():
    silent = reader_corpus()
    silent["labels"] = silent["labels"].iloc[3:]
    assert "0 stated values" in tables.note_reader(silent, "synthetic").data
