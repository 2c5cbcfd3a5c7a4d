"""The TRIPOD-LLM checklist: the published items, statuses that follow the files, links that lead somewhere."""

import json
import re
import shutil
import string

import nbformat
import pandas as pd
import pytest

from cancerllm_utils import paths
from cancerllm_utils.report import model_card, pages, results_files, run_facts, tripod
from tests import invented_results

# Items of the main checklist and, for item 2, of the checklist for abstracts (Nature Medicine 2025;31:60-69, tables 2 and 3).
LETTERED = {3: "ab", 5: "abcde", 6: "abcde", 7: "abcde", 8: "abc", 9: "ab", 14: "abcdef", 16: "abcd", 19: "abcdefg", 2: "abcdefghijkl"}
PUBLISHED = [f"{number}{letter}" for number in range(1, 20) for letter in LETTERED.get(number, [""])]
SETTINGS = {"corpus": "synthetic", "tasks": ["phenotype_extraction"], "fields": {"phenotype_extraction": ["grade", "laterality"]}, "balance": True, "not_stated_share": 0.25,
            "prompt_hash": {"phenotype_extraction": "0123456789ab"}}  # fmt: skip
CARD = {"base": "tiny_base", "base_revision": "sha256:abc", "training": {"tuning": "lora", "lora_r": 16, "learning_rate": 0.001, "seed": 42}, "outcome": {"steps": 50, "tokens": 9000}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = invented_results.write_run(tmp_path_factory.mktemp("runs") / "quick")
    (run / "datasets").mkdir()
    (run / "datasets" / "settings.json").write_text(json.dumps(SETTINGS))
    (run / "DATASHEET.md").write_text("# Datasheet")
    (run / "models" / "tiny_base" / "cpt-sft" / "cancerllm.json").write_text(json.dumps(CARD))
    patients = pd.DataFrame({"patient_id": [f"p{i}" for i in range(60)], "cancer_type": ["BRCA", "LUAD", "PRAD"] * 20, "age": range(30, 90), "sex": ["female", "male"] * 30})
    patients.to_parquet(run / "corpus" / "patients.parquet")
    return run


@pytest.fixture(scope="module")
def whole(finished):
    return tripod.checklist(finished)


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "quick")


def of(table, item):
    return table.set_index("item").loc[item]


def test_the_items_are_the_published_ones_in_their_order():
    assert [item["id"] for item in tripod.described()["items"]] == PUBLISHED and len(PUBLISHED) == 60


def test_every_item_is_answered_or_says_why_not_and_every_fact_is_used():
    used = set()
    for item in tripod.described()["items"]:
        assert set(item) <= {"id", "section", "asks", "answer", "also", "files", "where", "lacks", "without", "not_reported", "not_applicable"}, item["id"]
        assert sum(key in item for key in ("answer", "not_reported", "not_applicable")) == 1, item["id"]
        used |= {name for _, name, _, _ in string.Formatter().parse(item.get("answer", "")) if name} | set(item.get("also", {}))
    assert used == set(tripod.described()["facts"])


def test_answers_are_sentences_from_the_run(whole):
    table = whole
    assert list(table.columns) == tripod.COLUMNS == list(results_files.described()["files"]["tripod_llm.csv"]["own"])
    assert "120 synthetic notes of 60 patients" in of(table, "2d")["answer"] and of(table, "2d")["status"] == "reported"
    assert of(table, "16c")["answer"].startswith("Most frequent cancers, training patients: BRCA 33 %")
    assert "Median age 60 (known for 60). Women 50 %" in of(table, "5b")["answer"]
    assert "development 2020 to 2020, evaluation 2020 to 2020" in of(table, "5c")["answer"]
    assert "50 steps over 9,000 tokens" in of(table, "6b")["answer"] and "mistral architecture, 4 layers" in of(table, "6b")["answer"]
    assert "reaches an average F1 of 60.0 (58.0 to 62.0)" in of(table, "17")["answer"]
    assert "the text states 210, does not state 0; 30 are uncertain" in of(table, "16a")["answer"]
    assert of(table, "10")["status"] == "not applicable" and of(table, "14a")["status"] == "not reported"
    assert all(table["answer"].str.len() > 0) and not table["answer"].str.contains("[{}]").any()


@pytest.mark.parametrize("file, item, before, after", [
    ("results/scores.csv", "2j", "reported", "not reported"), ("results/scores.csv", "17", "reported in part", "not reported"),
    ("results/scores.csv", "3a", "reported", "reported in part"), ("corpus/notes.parquet", "2d", "reported", "not reported"),
    ("corpus/labels.parquet", "8a", "reported", "not reported"), ("corpus/patients.parquet", "16c", "reported", "not reported"),
    ("DATASHEET.md", "5a", "reported", "reported in part"), ("DATASHEET.md", "14e", "reported", "not reported"),
    ("models/tiny_base/cpt-sft/cancerllm.json", "2f", "reported", "not reported"), ("datasets/settings.json", "9a", "reported", "not reported"),
])  # fmt: skip
def test_a_status_follows_its_file(whole, run, file, item, before, after):
    assert of(whole, item)["status"] == before
    (run / file).unlink()
    row = of(tripod.checklist(run), item)
    assert row["status"] == after and "not in this run:" in row["answer"], row["answer"]
    assert file in row["answer"] or file.startswith("models/")


def test_an_empty_run_ticks_only_what_no_run_is_needed_for(tmp_path):
    table = tripod.checklist(tmp_path)
    assert set(table.loc[table["status"] == "reported", "item"]) == {"2c", "2l", "4", "14c", "14d"}
    assert "of 95" not in tripod.sentence(table) and tripod.sentence(table).startswith("TRIPOD-LLM, 60 items: 5 reported")


def test_an_institutions_ethics_are_its_own_to_state(run):
    invented_results.notes("clinic.csv").to_parquet(run / "corpus" / "notes.parquet")
    (run / "datasets" / "settings.json").write_text(json.dumps(SETTINGS | {"corpus": "local"}))
    row = of(tripod.checklist(run), "13")
    assert row["status"] == "not reported" and "institution's to state" in row["answer"]


def test_a_person_who_adjudicated_is_said(whole, run):
    assert of(whole, "8b")["status"] == "not applicable"
    record = json.loads((run / "records" / "01_data_exploration.json").read_text())
    record["params"]["adjudicated_csv"] = "decided.csv"
    (run / "records" / "01_data_exploration.json").write_text(json.dumps(record))
    row = of(tripod.checklist(run), "8b")
    assert row["status"] == "reported in part" and "A person decided" in row["answer"] and "is not recorded" in row["answer"]


def test_fairness_is_reported_where_subgroups_were_scored(whole, run):
    assert of(whole, "19a")["status"] == "reported in part" and "results/subgroups.csv" in of(whole, "19a")["answer"]
    rows = [["tiny_base", "cpt-sft", "average", "sex", True, 0.01], ["tiny_base", "cpt-sft", "average", "age", True, 0.6], ["tiny_base", "cpt-sft", "average", "age", False, None],
            ["tiny_base", "cpt-sft", "value_accuracy", "sex", True, 0.01], ["tfidf", "baseline", "average", "sex", True, 0.01]]  # fmt: skip
    pd.DataFrame(rows, columns=["model", "stage", "metric", "dimension", "shown", "p_holm"]).to_csv(run / "results" / "subgroups.csv", index=False)
    row = of(tripod.checklist(run), "19a")
    assert row["status"] == "reported" and "By sex, age: 2 groups shown, 1 too small; 1 differ from the other patients" in row["answer"]


STUDIES = {
    "calibration": ["model,stage,task,split,ece,ece_low,ece_high,sent", "tiny_base,cpt-sft,phenotype_extraction,test,4.04,1,9,20", "tiny_base,cpt-sft,phenotype_extraction,dev,7,1,9,20",
                    "tfidf,baseline,phenotype_extraction,test,8,1,9,20"],
    "robustness_tests": ["kind,p_holm", "change,0.01", "change,0.4", "change,", "area,0.01"],
    "retrieval_tests": ["against,difference,p_holm", "none,3.0,0.01", "none,-3.0,0.02", "none,-1.0,0.03", "none,5.0,0.2", "random,5.0,0.01"],
    "radonc_scores": ["task,n", "radonc_icd10,70", "radonc_modality,90"],
    "radonc_tests": ["metric,against,p_holm", "accuracy,original,0.01", "accuracy,tfidf,0.9", "accuracy,majority,0.01", "rouge1,original,0.01"],
}  # fmt: skip


def test_further_studies_are_told_where_the_run_has_them_and_are_no_gap_elsewhere(whole, run):
    items = ("6e", "17", "19e")
    for name, lines in STUDIES.items():
        (run / "results" / f"{name}.csv").write_text("\n".join(lines) + "\n")
    table = tripod.checklist(run)
    assert all(of(table, item)["status"] == of(whole, item)["status"] == "reported in part" for item in ("17", "19e")), "what is missing is the same"
    assert (of(whole, "6e")["status"], of(table, "6e")["status"]) == ("not reported", "reported in part")
    assert "Calibration error of tiny_base, cpt-sft, points: Phenotype extraction 4.0 (1.0 to 9.0). A threshold chosen on development patients sends 20 to 20 %" in of(table, "6e")["answer"]
    assert "TF-IDF" not in of(table, "6e")["answer"]
    assert "2 changes of a score were tested, 1 are beyond chance" in of(table, "19e")["answer"] and of(table, "19e")["where"].endswith("07_robustness#the-curves")
    assert "4 comparisons with none, 1 better and 2 worse beyond chance" in of(table, "17")["answer"]
    assert "2 tasks with 90 patients at most" in of(table, "17")["answer"] and "original in 1 of 1 comparisons and a simple method in 1 of 2" in of(table, "17")["answer"]
    assert not any(name in "".join(of(whole, item)["where"]) for item in items for name in ("06c_trust", "07_robustness", "09_retrieval", "10_radiation"))


def test_an_example_in_a_prompt_is_said(whole, run):
    assert "No example is given in a prompt." in of(whole, "9a")["answer"]
    (run / "results" / "retrieval.csv").write_text("model\n")
    assert "No example is given in a prompt outside the study of retrieval." in of(tripod.checklist(run), "9a")["answer"]


@pytest.mark.parametrize("raters, status, answer", [("simulated", "not applicable", "no person judges"), ("people", "reported in part", "Two people judged 200 sampled answers, kappa 0.82 (0.77 to 0.87).")])
def test_only_people_count_as_assessors(whole, run, raters, status, answer):
    assert of(whole, "7d")["status"] == "not applicable"
    (run / "results" / "adjudication.csv").write_text(f"raters,task,metric,value,low,high,n\n{raters},all,agreement,80,70,90,200\n{raters},all,kappa_answer,0.82,0.77,0.87,200\n")
    (run / "results" / "radonc_ratings.csv").write_text(f"n,kappa,kappa_low,kappa_high,simulated\n30,0.7,0.6,0.8,{raters == 'simulated'}\n")
    row = of(tripod.checklist(run), "7d")
    assert row["status"] == status and answer in row["answer"] and ("30 regimens of each system, kappa 0.70 (0.60 to 0.80)" in row["answer"]) == (raters == "people")


def test_every_place_is_a_heading_of_a_notebook_or_a_part_of_the_report():
    template = (pages.ASSETS / "index.html.j2").read_text()
    sections = re.findall(r"(?m)^- id: ([a-z]+)", (pages.PACKAGE / "report" / "sections.yaml").read_text())
    parts = {*re.findall(r'<h2 id="([a-z]+)"', template), *sections, "content"}
    notebooks = {path.stem: path.read_text() for path in paths.NOTEBOOKS.glob("*.ipynb")}
    for item in tripod.described()["items"]:
        for place in [*item.get("where", []), *item.get("also", {}).values()]:
            name, _, part = place.partition("#")
            if name == "index":
                assert part in parts or any(pages.saves(stem, text, part) for stem, text in notebooks.items()), (item["id"], place)
            elif not name.endswith(".md"):
                cells = [cell.source for cell in nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", 4).cells if cell.cell_type == "markdown"]
                headings = {run_facts.anchor(line.lstrip("# ")) for cell in cells for line in cell.splitlines() if line.startswith("#")}
                assert not part or any(heading.startswith(part) for heading in headings), (item["id"], place)


def test_links_of_the_page_lead_to_something(run):
    model_card.write_all(run)
    pages.build_report(run)
    page = (run / "report" / "tripod_llm.html").read_text()
    assert len(re.findall(r'<tr id="item-', page)) == 60 and "Nature Medicine" in page and "wording here is ours" in page
    links = re.findall(r'<td><a href="([^"]+)"', page)
    assert len(links) > 20
    for link in links:
        file, _, part = link.partition("#")
        target = run / "report" / file
        assert target.is_file() and (not part or f'id="{part}"' in target.read_text()), link
    assert (run / "results" / "tripod_llm.csv").is_file() and 'href="tripod_llm.html"' in (run / "report" / "index.html").read_text()
