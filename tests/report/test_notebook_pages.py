"""The page of an executed notebook: parameters with their meaning, anchors, tables as files, code folded."""

import base64
import re

import nbformat

from cancerllm_utils.report import notebook_pages
from tests.report.test_pages import Page

SOURCE = 'run_dir: str = "runs/quick"  # Folder of the run\nlevels: list = [1, 2]  # Levels to try\nbare: int = 3'


def notebook():
    cell = nbformat.v4.new_code_cell(SOURCE)
    cell.metadata["tags"] = ["parameters"]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), cell])


def test_images_get_a_text_and_keep_their_own():
    body = notebook_pages.accessible('<img src="a"/><img alt="mine" src="b"/><img alt="No description has been provided for this image" src="c"/>', "A & B")
    assert re.findall(r'alt="([^"]*)"', body) == ["Figure in A &amp; B; the text around it describes it", "mine", "Figure in A &amp; B; the text around it describes it"]
    images = Page(body).all("img")
    assert images[2]["src"] == "c" and all(image["loading"] == "lazy" for image in images)


def test_header_cells_say_what_they_head():
    table = '<table><thead><tr><th></th><th class="x">a</th></tr></thead><tbody><tr><th>1</th><th scope="row">2</th></tr></tbody></table>'
    page = Page(notebook_pages.accessible(table, ""))
    assert [cell["scope"] for cell in page.all("th")] == ["col", "row", "row"] and len(page.all("td")) == 1, "an empty cell heads nothing"


def test_parameters_have_the_values_of_the_record_and_the_notebooks_words():
    found = notebook_pages.parameters(notebook(), {"params": {"run_dir": "runs/x", "levels": [4], "later": True}})
    assert found == [{"name": "run_dir", "value": "runs/x", "meaning": "Folder of the run"}, {"name": "levels", "value": "[4]", "meaning": "Levels to try"},
                     {"name": "bare", "value": "3", "meaning": ""}, {"name": "later", "value": "True", "meaning": ""}]
    assert notebook_pages.parameters(notebook(), None)[0]["value"] == '"runs/quick"'


def test_every_heading_has_an_anchor_of_its_own():
    body, contents = notebook_pages.with_anchors("<h1>A</h1><h2>What <em>it</em> is</h2><h3>Limits</h3><h2>Limits</h2><h2>Limits</h2>")
    assert contents == [{"id": "what-it-is", "text": "What it is"}, {"id": "limits-2", "text": "Limits"}, {"id": "limits-3", "text": "Limits"}]
    page = Page(body)
    assert [link["href"] for link in page.all("a")] == ["#what-it-is", "#limits", "#limits-2", "#limits-3"]


def test_a_table_travels_as_csv_with_the_cells_that_its_headers_span():
    table = '<table border="1" class="dataframe"><thead><tr><th colspan="2">a, b</th><th>c</th></tr></thead><tbody><tr><th>0</th><td>1 &lt; 2</td><td>\N{MINUS SIGN}3</td></tr></tbody></table>'
    body = notebook_pages.with_csv(f"<p>{table}</p><table><tr><td>no frame</td></tr></table>", "06")
    link = Page(body).all("a")
    assert len(link) == 1 and link[0]["download"] == "06-table-1.csv"
    data = base64.b64decode(link[0]["href"].removeprefix("data:text/csv;base64,"))
    assert data.startswith(b"\xef\xbb\xbf") and data.decode("utf-8-sig").splitlines() == ['"a, b",,c', "0,1 < 2,\N{MINUS SIGN}3"]


def test_source_commit_and_time_are_named(tmp_path):
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook(), tmp_path / "notebooks" / "06_evaluation.cpt-sft.ipynb")
    record = {"step": "06_evaluation.cpt-sft", "finished": "yes", "params": {}, "seconds": 1234.4, "commit": "abc", "started": "2026-01-01T10:00:00", "device": "cpu"}
    (page,) = notebook_pages.read_notebooks(tmp_path, [record])
    facts = page["facts"]
    assert (facts["source"], facts["executed"], facts["seconds"], facts["commit"]) == ("notebooks/06_evaluation.ipynb", "../notebooks/06_evaluation.cpt-sft.ipynb", "1,234", "abc")
    assert facts["source_href"] == "" and facts["flat"] == "" and page["status"] == "finished" and page["head"] == '<h1 id="title">Title</h1>'
    (page,) = notebook_pages.read_notebooks(tmp_path, [record | {"finished": None}])
    assert page["facts"]["commit"] == "" and page["status"] == "no record of success"
