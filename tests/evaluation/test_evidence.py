"""Evidence: quotes are found by exact match whatever the line breaks and Unicode form, counted, and held against the gold span; no text leaks."""

import json

import pandas as pd
import pytest

from cancerllm_utils.evaluation import answers, evidence

NOTE = "MACROSCOPY: The specimen is a left kidney of eleven centimetres.\nMICROSCOPY: Sections show a clear cell carcinoma,\nFuhrman grade 3. Margins are free of any tumor growth here."


@pytest.mark.parametrize(("prediction", "expected"), [
    ('Left | "the left kidney"', ("Left", "the left kidney")),
    ('Left|"a \\" bar | in it"', ("Left", 'a \\" bar | in it')),
    ('G3 | "clear cell carcinoma,\nFuhrman grade 3"', ("G3", "clear cell carcinoma,\nFuhrman grade 3")),
    ("Left", ("Left", "")),
    ("curative | surgery + radiotherapy | none", ("curative | surgery + radiotherapy | none", "")),
    ('"left"', ('"left"', "")),
    ('Left | ""', ('Left | ""', "")),
])
def test_a_quote_behind_the_answer(prediction, expected):
    assert evidence.split_quote(prediction) == expected


@pytest.mark.parametrize(("quote", "text", "found"), [
    ("left kidney", NOTE, "left kidney"),
    ("clear cell carcinoma, Fuhrman grade 3", NOTE, "clear cell carcinoma,\nFuhrman grade 3"),
    ("caf\u00e9 au lait", "spots, cafe\u0301 au\u00a0lait, two", "cafe\u0301 au\u00a0lait"),
    ("5 \u00b5m", "width 5\n\u03bcm.", "5\n\u03bcm"),
    ("in\ufb01ltrating", "an infiltrating tumor", "infiltrating"),
    ("a  b", "x a b", "a b"),
])
def test_a_quote_is_found_over_line_breaks_and_unicode_forms(quote, text, found):
    start, end = evidence.locate(quote, text)
    assert text[start:end] == found


@pytest.mark.parametrize("quote", ["right kidney", "Left kidney", "grade 3. Margins were", "", "  "])
def test_what_does_not_stand_there_is_not_found(quote):
    assert evidence.locate(quote, NOTE) is None


def source(gold=None, text=NOTE):
    units = evidence.units_in(f"### Input:\nIn the text: {' '.join(text.split())} What?", text)
    return {"text": text, "units": units, "index": evidence.word_index([text[a:b] for a, b in units]), "query": "fuhrman grade nuclear", "gold": gold}


def test_units_are_those_that_the_prompt_carries_whole():
    spans = evidence.units_in("In the text: MACROSCOPY: The specimen is a left kidney of eleven centimetres. MICROSCOPY: Sections What?", NOTE)
    assert [NOTE[a:b] for a, b in spans] == ["MACROSCOPY: The specimen is a left kidney of eleven centimetres."]


def test_the_sentence_shares_most_with_answer_and_question():
    found = evidence.evidence_of("G3", "G3", source((NOTE.index("Fuhrman"), NOTE.index("Fuhrman") + 15)))
    assert "Fuhrman grade 3" in NOTE[found["quote_start"] : found["quote_end"]] and found["quote"] == NOTE[found["quote_start"] : found["quote_end"]]
    assert found["verified"] and found["holds_gold"] and found["method"] == "words"
    left = evidence.evidence_of("Left", "Left", source((0, 5)) | {"query": "laterality side"})
    assert "left kidney" in left["quote"] and left["holds_gold"]
    apart = evidence.evidence_of("Left", "Left", source((len(NOTE) - 5, len(NOTE))) | {"query": "laterality side"})
    assert apart["holds_gold"] is False


def test_no_shared_word_names_no_sentence():
    found = evidence.evidence_of("zygote", "zygote", source((0, 5)) | {"query": "unknownword"})
    assert (found["quote"], found["quote_start"], found["verified"], found["holds_gold"]) == ("", None, False, False)
    assert evidence.evidence_of("Left", "Left", source(text=" - ; - ") | {"query": "x"})["quote"] == ""


def test_a_written_quote_goes_before_and_is_marked_where_it_is_made_up():
    true = evidence.evidence_of('G3 | "Fuhrman grade 3"', "G3", source((NOTE.index("grade 3"), NOTE.index("grade 3") + 7)))
    false = evidence.evidence_of('G3 | "Fuhrman grade 4"', "G3", source((0, 5)))
    assert (true["method"], true["verified"], true["holds_gold"]) == ("written", True, True)
    assert (false["method"], false["quote"], false["quote_start"], false["verified"], false["holds_gold"]) == ("written", "Fuhrman grade 4", None, False, False)


@pytest.fixture
def run(tmp_path):
    """Four questions about one invented note: grade right with the gold span, a made-up quote, a refusal, and one whose text states nothing."""
    (tmp_path / "corpus").mkdir()
    pd.DataFrame({"note_id": ["n1"], "text": [NOTE]}).to_parquet(tmp_path / "corpus" / "notes.parquet")
    start = NOTE.index("Fuhrman")
    pd.DataFrame({"note_id": ["n1"], "field": ["grade"], "quote_start": [start], "quote_end": [start + 15]}).to_parquet(tmp_path / "corpus" / "labels.parquet")
    folder = tmp_path / "datasets" / "phenotype_extraction"
    folder.mkdir(parents=True)
    asked = [("e0", "grade", "G3"), ("e1", "grade", "G3"), ("e2", "grade", "G3"), ("e3", "laterality", "not stated")]
    rows = [{"example_id": e, "patient_id": f"p{e}", "note_id": "n1", "field": field, "answers": [gold], "prompt": " ".join(NOTE.split())} for e, field, gold in asked]
    for split in ("test", "dev"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def given(split="test"):
    said = [("e0", "grade", "G3", "G3"), ("e1", "grade", "G2", 'G2 | "grade 2 of 4"'), ("e2", "grade", "not stated", "not stated"), ("e3", "laterality", "Left", "Left")]
    return pd.DataFrame([{"model": "tiny_base", "stage": "sft", "task": "phenotype_extraction", "split": split, "example_id": e, "patient_id": f"p{e}", "institution": "", "field": field,
                          "parsed": parsed, "prediction": prediction, "right": e == "e0"} for e, field, parsed, prediction in said])


def test_tables_of_a_run(run):
    table = evidence.run(run, given(), show_text=True, n_resamples=50)
    items = pd.read_parquet(run / "results" / "evidence.parquet").set_index("example_id")
    assert list(items.index) == ["e0", "e1", "e3"], "a refusal rests on nothing"
    assert items["holds_gold"].tolist()[:2] == [True, False] and pd.isna(items.loc["e3", "holds_gold"]) and items["verified"].tolist() == [True, False, True]
    assert NOTE[items.loc["e0", "quote_start"] : items.loc["e0", "quote_end"]] == items.loc["e0", "quote"]
    rows = table.set_index(["method", "answers"])
    assert (rows.loc[("words", "all"), ["n", "quoted", "verified", "n_gold", "holds_gold", "reachable"]] == [2, 100, 100, 1, 100, 100]).all()
    assert (rows.loc[("written", "all"), ["n", "quoted", "verified", "holds_gold"]] == [1, 100, 0, 0]).all()
    text = "\n".join(evidence.sentences(table, [("tiny_base", "sft")], "test"))
    assert "of 2 answers that give a value 100.0 % name a sentence (found by its words)" in text and "quoted by the model" in text


def test_text_of_real_reports_stays_out(run):
    evidence.run(run, given(), show_text=False, n_resamples=20)
    items = pd.read_parquet(run / "results" / "evidence.parquet")
    assert set(items["quote"]) == {""} and items["quote_start"].notna().sum() == 2
    shown = evidence.examples_table(run, given(), ("tiny_base", "sft"), "test")
    assert "kidney" not in shown.to_string() and "characters" in shown["sentence"].iloc[0]


def test_the_measured_sample_is_held_against_the_words(run):
    """The sentence with the largest drop counts; both ways stand beside each other on the same answers."""
    folder = run / "predictions" / "tiny_base" / "sft" / answers.DEV_FOLDER
    folder.mkdir(parents=True)
    units = [list(unit) for unit in source()["units"]]
    rows = [{"example_id": "e0", "units": units, "drops": [0.1 + (i == 0) for i in range(len(units))]}]
    (folder / "phenotype_extraction.left_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = evidence.run(run, given("dev"), n_resamples=20).query("answers == 'sample'").set_index("method")
    assert (table["n"] == 1).all() and (table["agree"] == 0).all() and table.loc["left out", "holds_gold"] == 0 and table.loc["words", "holds_gold"] == 100
    text = evidence.sentences(pd.read_csv(run / "results" / "evidence.csv"), [], "test")
    assert "measured on 1 answers" in text[0] and "0.0 %" in text[0]


def test_a_run_without_an_extraction_answer_gives_empty_tables(run):
    for part in (given().assign(task="diagnosis_generation"), given().assign(parsed="not stated", prediction="not stated"), given().head(0)):
        table = evidence.run(run, part, n_resamples=20)
        assert table.empty and list(pd.read_parquet(run / "results" / "evidence.parquet")) == evidence.ITEM_COLUMNS
        assert evidence.sentences(table, [("tiny_base", "sft")], "test") == ["No extraction answer of this run gives a value."]
        assert evidence.examples_table(run, part, ("tiny_base", "sft"), "test").empty
