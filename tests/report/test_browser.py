"""The page of single answers from invented ones: what stands in it, what must not, and what is said where something is missing."""

import json
import re

import pandas as pd
import pytest

from cancerllm_utils.report import browser, pages
from cancerllm_utils.tasks.task import read_jsonl, write_jsonl
from tests import invented_answers


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return invented_answers.write_answers(tmp_path_factory.mktemp("runs") / "quick")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = invented_answers.write_answers(tmp_path_factory.mktemp("runs") / "own", source="reports.csv")
    learnt = invented_answers.text_of(0, "laterality", "Left").replace("\n", " ")  # a model that repeats a note
    path = folder / "predictions" / "tiny_base" / "cpt-sft" / "phenotype_extraction.test.jsonl"
    write_jsonl(path, [row | ({"prediction": learnt, "parsed": learnt} if i == 0 else {}) for i, row in enumerate(read_jsonl(path))])
    return folder


def data_of(page: str) -> dict:
    return json.loads(re.search(r'(?s)<script type="application/json" id="data">(.*?)</script>', page)[1])


def test_items_hold_question_gold_answers_and_what_is_known_of_them(run):
    data = data_of(browser.build_browser(run).read_text())
    assert data["systems"] == ["Majority answer", "TF-IDF + logistic regression", "Label rules", "tiny_base, base", "tiny_base, cpt-sft"]
    assert data["start"] == 4 and len(data["items"]) == 60 and data["rings"][0] == "held-out patients"
    example = read_jsonl(run / "datasets" / "phenotype_extraction" / "test.jsonl")[1]
    task, field, ring, cancer, line, question, context, gold, answers = data["items"][1]
    assert (data["tasks"][task], data["fields"][field], data["rings"][ring], data["cancers"][cancer], line) == ("Phenotype extraction", "grade", "held-out patients", "BRCA (breast)", 2)
    assert data["strings"][question] == "What is the cancer grade in the given context?" and data["strings"][gold] == example["answers"][0]
    assert data["contexts"][context] in example["prompt"] and "What is" not in data["contexts"][context] and "In the text" not in data["contexts"][context]
    for system, (model, stage) in enumerate([("majority", "baseline"), ("tfidf", "baseline"), ("rules", "baseline"), ("tiny_base", "base"), ("tiny_base", "cpt-sft")]):
        row = read_jsonl(run / "predictions" / model / stage / "phenotype_extraction.test.jsonl")[1]
        number, text, right, sure, _, _, evidence = answers[system]
        assert number == system and data["strings"][text] == row["prediction"] and right == int(row["parsed"] == example["answers"][0])
        assert sure == (round(100 * row["confidence"]) if "confidence" in row else None)
        assert (evidence is None) == (model == "rules")
        if evidence:
            assert evidence["v"] == int(model != "tfidf") and ("c" in evidence) == (model != "tfidf")
        if evidence and "c" in evidence:
            assert data["contexts"][context][slice(*evidence["c"])] == evidence["q"]


def test_dangers_are_those_of_the_table(run):
    data = data_of(browser.build_browser(run).read_text())
    table = pd.read_parquet(run / "results" / "dangerous_items.parquet")
    found = [(data["kinds"][answer[4]], answer[5]) for item in data["items"] for answer in item[8] if answer[5]]
    assert sorted(found) == sorted(({"side_flipped": "wrong side"}.get(kind, kind), severity) for kind, severity in zip(table["kind"], table["severity"])) and len(found) > 3


def test_a_quote_outside_of_the_context_comes_with_its_surroundings():
    note = "x" * 500 + "the grade is G2" + "y" * 500
    found = browser.place_of(("the grade is G2", 500, 515, True), "another part", note, True)
    assert len(found["n"]) == 615 and found["n"][slice(*found["p"])] == "the grade is G2"
    broken = browser.place_of(("the  grade\nis G2", 0, 0, True), "so the grade is G2.", "", True)
    assert broken == {"v": 1, "q": "the grade is G2", "c": [3, 18]}
    assert browser.place_of(("made up", 0, 7, False), "text", "text", True) == {"v": 0, "q": "made up"}


def test_a_note_cannot_leave_the_data_and_the_script_is_the_only_one_allowed(run):
    page = browser.build_browser(run).read_text()
    assert page.count("</script>") == 2 and "<b>Left" not in page
    assert any(invented_answers.PLANTED in context for context in data_of(page)["contexts"])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-") and policy.count("script-src") == 1
    assert "http" not in re.sub(r"(?s)<script type=.*?</script>|http-equiv", "", page)


def test_a_real_note_stays_out_and_the_page_says_so(real):
    page = browser.build_browser(real).read_text()
    data, notes = data_of(page), pd.read_parquet(real / "corpus" / "notes.parquet")
    assert data["contexts"] == [] and "shows no text of a note" in page and "do not share" not in page
    assert "received fresh" not in page and browser.HIDDEN in data["strings"] and "unparsed" in data["strings"]
    assert pages.pages_with_note_text({"answers.html": page}, notes["text"]) == []
    assert not any(key in page for key in ("p1\"", "|n1|"))  # nor a patient or note by number
    assert all(set(answer[6] or {"v": 0}) == {"v"} for item in data["items"] for answer in item[8])


def test_what_looks_like_an_identifier_stays_out_and_values_stay_in():
    values = ["T2 N1", "Left", "2.4 cm", "mucinous adenocarcinoma of the colon", "What is the cancer grade in the given context?", "curative; surgery; paclitaxel"]
    assert browser.hide_passages([*values, "Dr. Anna Example, MRN 4471203"], []) == [*values, browser.HIDDEN]


def test_report_text_puts_it_in_with_a_warning(real):
    page = browser.build_browser(real, report_text=True).read_text()
    assert "contains patient text, do not share" in page and "received fresh" in page and len(data_of(page)["contexts"]) == 60


def test_changed_texts_and_lost_questions_are_counted_not_listed(run, tmp_path):
    folder = invented_answers.write_answers(tmp_path / "quick", n=6)
    answers = folder / "predictions" / "tfidf" / "baseline"
    for name in ("phenotype_extraction.test+ocr20", "phenotype_extraction.dev", "no_task.test"):
        (answers / f"{name}.jsonl").write_text((answers / "phenotype_extraction.test.jsonl").read_text())
    for name in ("dangerous_items", "evidence"):
        (folder / "results" / f"{name}.parquet").unlink()
    page = browser.build_browser(folder).read_text()
    assert "(test+ocr20) are not listed" in page and "2 files of answers are not listed" in page
    assert len(data_of(page)["items"]) == 6 and all(answer[5] == 0 and answer[6] is None for item in data_of(page)["items"] for answer in item[8])


def test_a_run_without_answers_gives_a_page(tmp_path):
    assert "Nothing was answered in this run" in browser.build_browser(tmp_path).read_text()


def test_every_task_s_question_is_split_from_its_text():
    from cancerllm_utils.tasks.task import build_prompt, load_task, task_names

    for name in task_names():
        spec = load_task(name)
        for field in spec["fields"]:
            context, question = browser.split_prompt(name, field, build_prompt(spec, field, "Some text {with} braces. What is it?"))
            assert context == "Some text {with} braces. What is it?" and len(question) > 10 and "{" not in question
