"""The report from an invented run: it opens without a network, invents nothing, shows no real note text, and survives missing steps."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise

import pandas as pd
import pytest

from cancerllm_utils.errors import UserError
from cancerllm_utils.report import pages
from tests import invented_results

EMPTY = {"meta", "img", "br", "hr", "link", "input"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return invented_results.write_run(tmp_path_factory.mktemp("runs") / "quick")


@pytest.fixture(scope="module")
def built(finished):
    pages.build_report(finished)
    return finished / "report"


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "quick")
    return tmp_path / "quick"


def as_real(run):
    invented_results.notes("organ_reports.csv").to_parquet(run / "corpus" / "notes.parquet")
    return run


class Page(HTMLParser):
    """Collects tags with attributes, and fails on tags that close in the wrong order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_pages_load_nothing_from_anywhere(built):
    for path in built.glob("*.html"):
        page = Page(path.read_text())
        assert not page.all("script") and not page.all("link") and not page.all("iframe")
        assert all(image["src"].startswith("data:") for image in page.all("img"))
        assert all(not link["href"].startswith("http") for link in page.all("a"))
        assert "url(" not in path.read_text() and "@import" not in path.read_text()
        policy = next(meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
        assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_pages_are_accessible(built):
    for path in built.glob("*.html"):
        page = Page(path.read_text())
        assert page.all("html")[0]["lang"] == "en" and page.all("title") and len(page.all("h1")) == 1
        assert all(image["alt"] for image in page.all("img")) and all("scope" in cell for cell in page.all("th"))
    index = Page((built / "index.html").read_text())
    assert len(index.all("caption")) == len(index.all("table"))
    anchors = {attributes["id"] for _, attributes in index.tags if "id" in attributes}
    assert all(link["href"][1:] in anchors for link in index.all("a") if link["href"].startswith("#"))


def test_links_lead_to_pages_whose_code_is_folded(built):
    links = [link["href"] for link in Page((built / "index.html").read_text()).all("a") if link["href"].endswith(".html")]
    assert set(links) == {"01_data_exploration.html", "04_instruction_tuning.cpt-sft.html", "tripod_llm.html"} and all((built / link).is_file() for link in links)
    for link in set(links) - {"tripod_llm.html"}:
        text = (built / link).read_text()
        assert "hidden_code" in re.search(r'(?s)<details class="code">.*?</details>', text)[0] and text.count("hidden_code") == 1 and "not guidance" in text


def test_no_id_stands_twice_and_headings_leave_no_level_out(built):
    for path in built.glob("*.html"):
        page = Page(path.read_text())
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes and not attributes["id"].startswith("cell-id")]
        assert len(ids) == len(set(ids)), path.name
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels)), (path.name, levels)


def test_links_to_files_of_the_run_lead_somewhere(built):
    for path in built.glob("*.html"):
        for link in Page(path.read_text()).all("a"):
            if link["href"].startswith("../"):
                assert (path.parent / link["href"]).exists(), (path.name, link["href"])


def test_every_table_can_be_saved_as_csv(built):
    text = (built / "index.html").read_text()
    page = Page(text)
    assert len(page.all("table")) == sum("download" in link or (link["href"].startswith("../results/") and "aria-label" in link) for link in page.all("a"))
    saved = next(link["href"] for link in page.all("a") if link.get("download") == "flow.csv")
    assert base64.b64decode(saved.partition(",")[2]).decode("utf-8-sig").splitlines() == ["step,reports,patients,note", "read,125,62,", "kept,120,60,short notes dropped"]


def test_sections_hold_what_the_run_has_and_name_what_it_has_not(built, run):
    text = (built / "index.html").read_text()
    assert "Dangerous errors were not counted" in text and "robustness (07_robustness)" in text and 'id="robust"' not in text
    pd.DataFrame([{"model": "tiny_base", "stage": "cpt-sft", "task": "phenotype_extraction", "split": "test", "kind": kind, "severity": severity, "n": n, "of": 40,
                   "share": n / 0.4, "low": 1.0, "high": 30.0} for kind, severity, n in [("given_where_none", 3, 9), ("side_flipped", 1, 4)]]).to_csv(run / "results" / "dangerous.csv", index=False)
    text = pages.build_report(run).read_text()
    table = text[text.index("Errors that could hurt a patient") :]
    assert table.index("wrong side") < table.index("given where none") and "10 % (1 to 30), n = 40" in table and "../results/dangerous.csv" in table


def test_the_answers_are_linked_to_where_their_page_is_there(built, run):
    assert "Read the answers one by one" not in (built / "index.html").read_text()
    (run / "report").mkdir(exist_ok=True)
    (run / "report" / "answers.html").write_text("<p>answers</p>")
    assert 'href="answers.html"' in pages.build_report(run).read_text() and (run / "report" / "answers.html").is_file()


def test_index_prints_results_and_provenance(built):
    text = (built / "index.html").read_text()
    for expected in ["Research on historical data, not guidance. Not for clinical use.", "60.0 (58.0 to 62.0)", "91.78", "abcdef1234+changes", "cpu, 2 cores", "torch 2.13.0",
                     "Patients by cancer type &amp; ring.", "(Notebook 01_data_exploration; ", "synthetic", "120 synthetic notes of 60 patients", "30 of 240 pairs"]:
        assert expected in text, expected
    assert text.index('id="cohort"') < text.index('id="leaderboard"')  # by notebook, although drawn the other way round


def test_success_is_what_the_record_says(built):
    text = (built / "index.html").read_text()
    assert "01_data_exploration; finished" in text and "04_instruction_tuning.cpt-sft; no record of success" in text


def test_real_note_text_is_left_out_and_said(run):
    text = pages.build_report(as_real(run)).read_text()
    assert not (run / "report" / "04_instruction_tuning.cpt-sft.html").exists() and (run / "report" / "01_data_exploration.html").exists()
    assert "shows a passage of a note" in text and "share the report" in text
    assert all(invented_results.SECRET not in path.read_text() for path in (run / "report").glob("*"))


def test_report_text_shows_it_with_a_warning(run):
    text = pages.build_report(as_real(run), report_text=True).read_text()
    assert "contains patient text, do not share" in text
    assert invented_results.SECRET in (run / "report" / "04_instruction_tuning.cpt-sft.html").read_text()


def test_passages_are_found_across_markup_but_not_in_tables_of_numbers():
    note = "One two three four five six seven eight nine ten words 1 2 3 4 5 6 7 8 9 10."
    html_pages = {"a": "<p>two <b>three</b> four, five six\nseven eight nine</p>", "b": "<td>1</td> 2 3 4 5 6 7 8 9 10", "c": "three four five six seven eight nine"}
    assert pages.pages_with_note_text(html_pages, [note]) == ["a"]


@pytest.mark.parametrize("missing", ["results", "records", "notebooks", "figures", "corpus"])
def test_a_missing_step_is_said(built, run, missing):
    assert 'class="missing"' not in (built / "index.html").read_text()
    shutil.rmtree(run / missing)
    assert pages.build_report(run).read_text().count('class="missing"') == 1


def test_an_empty_run_gives_a_page(tmp_path):
    assert "nothing to say about its answers yet" in pages.build_report(tmp_path).read_text()


def test_no_run_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="no such run"):
        pages.build_report(tmp_path / "none")


def test_broken_notebook_and_record_do_not_stop_the_report(run):
    (run / "notebooks" / "05_prediction.ipynb").write_text('{"cells": [')
    (run / "records" / "05_prediction.json").write_text("{")
    assert "05_prediction; unreadable" in pages.build_report(run).read_text()


def test_a_second_report_drops_stale_pages(run):
    pages.build_report(run)
    (run / "notebooks" / "01_data_exploration.ipynb").unlink()
    pages.build_report(run)
    assert not (run / "report" / "01_data_exploration.html").exists()


def test_export_figures_names_run_commit_notebook_caption(run, tmp_path):
    target = tmp_path / "figures"
    target.mkdir()
    (target / "gone.svg").write_text("<svg/>")
    text = pages.export_figures(run, target).read_text()
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "cohort.png", "cohort.svg", "leaderboard.png", "leaderboard.svg"]
    for expected in ["run `quick`", "commit `abcdef1234+changes`", "Notebook: `01_data_exploration`", "Notebook: `04_instruction_tuning.cpt-sft`", "Average F1 by task.", "](cohort.svg)"]:
        assert expected in text
    shutil.rmtree(run / "figures")
    with pytest.raises(UserError, match="no figure"):
        pages.export_figures(run, target)
    assert (target / "cohort.svg").is_file()  # refused before anything was removed


def test_a_run_of_studies_gives_only_their_figures_to_a_folder_of_its_own(run, tmp_path):
    (run / "notebooks" / "04_instruction_tuning.cpt-sft.ipynb").rename(run / "notebooks" / "09_retrieval.ipynb")
    path = pages.export_figures(run, tmp_path / "figures")
    assert path == tmp_path / "figures" / "quick" / "README.md" and "# Figures of the run `quick`" in path.read_text()
    assert sorted(file.name for file in (tmp_path / "figures").rglob("*.svg")) == ["leaderboard.svg"]


def test_command_follows_the_summary_notebooks_report_text(run):
    as_real(run)
    secret_page = run / "report" / "04_instruction_tuning.cpt-sft.html"
    for allowed in [True, False]:
        record = {"step": "00_summary", "params": {"report_text": allowed}, "started": "2026-01-09", "finished": "2026-01-09"}
        (run / "records" / "00_summary.json").write_text(json.dumps(record))
        assert pages.main([str(run)]) == run / "report" / "index.html"
        assert secret_page.exists() == allowed
    with pytest.raises(UserError, match="Usage"):
        pages.main([])
