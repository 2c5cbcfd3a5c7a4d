"""The report's pages in a real browser, from disk: filters, search, evidence, the rating form, keyboard only, labels and contrast (axe), no error, no request.

Needs Debian's chromium and the packages playwright and axe-playwright-python. Without them these tests are skipped and say how to get them; where CI is set
in the environment that is a failure.
"""

import importlib.util
import json
import os
import shutil

import pandas as pd
import pytest

from cancerllm_utils.evaluation import rating
from cancerllm_utils.report import browser, pages
from tests import invented_answers, invented_results

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
GET = "apt-get install chromium; .venv/bin/pip install playwright axe-playwright-python"
QUESTION = "Which answer is right, given the text?"
SIZES = {"desk": (1280, 900), "phone": (390, 800)}
PAGES = ["index.html", "answers.html", "01_data_exploration.html", "tripod_llm.html", "form.html", "scale.html"]


def items():
    return pd.DataFrame({
        "item": ["0001", "0002", "0003"], "field": ["laterality", "grade", "stage"], "question": "What is it?", "options": [["Left", "Right"], ["G1", "G2", "G3"], []],
        "text": ["The specimen is from\nthe left side.", f"It is graded G2. {invented_answers.PLANTED}", "Nothing is said."],
    })  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The report of an invented run, with its answers, and two rating forms, in one folder."""
    run = invented_results.write_run(tmp_path_factory.mktemp("runs") / "quick")
    invented_answers.write_answers(run, n=240)
    browser.build_browser(run)
    pages.build_report(run)
    rating.form(items(), [], QUESTION, run / "report" / "form.html", run / "form.csv", contains_text=False)
    plans = pd.DataFrame({"item": ["a", "b"], "text": "A made-up case.", "answer": ["50 Gy in 25", "no radiotherapy"]})
    rating.form(plans, ["acceptable", "minor change", "not acceptable"], "Clinically acceptable?", run / "report" / "scale.html", run / "scale.csv", contains_text=False)
    return run / "report"


@pytest.fixture(scope="module")
def chromium():
    missing = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None] + ([] if os.path.exists(CHROMIUM) else ["chromium"])
    if missing:
        said = f"{', '.join(missing)} not found: {GET}"
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture
def visit(chromium, folder):
    """A function that opens one of the pages; at the end no console message, error or request to anything but the disk was seen."""
    wrong, opened = [], []

    def open_page(name, size="desk", **options):
        width, height = SIZES[size]
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda request: None if request.url.split(":")[0] in ("file", "data", "blob") else wrong.append(f"request: {request.url}"))
        page.goto((folder / name).as_uri())
        opened.append(context)
        return page

    yield open_page
    for context in opened:
        context.close()
    assert wrong == []


def numbers(page):
    """What the list holds, as the page says: questions that pass, right answers, answers."""
    words = page.inner_text("#status").replace(",", "").split()
    return int(words[0]), int(words[-5]), int(words[-3])


@pytest.mark.parametrize("name, size", [*[(name, "desk") for name in PAGES], *[(name, "phone") for name in PAGES[:2]], ("form.html", "phone")])
def test_pages_pass_axe_and_fit_the_screen(visit, name, size):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(name, size)
    found = Axe().run(page).response["violations"]
    assert [(rule["id"], [node["html"][:120] for node in rule["nodes"]][:3]) for rule in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]


def test_filters_narrow_the_list_and_the_counts_follow(visit, folder):
    page = visit("answers.html")
    assert numbers(page)[0] == 240 and page.locator("#rows tr").count() == 100 and page.inner_text("#page") == "1 to 100 of 240"
    page.click("#next")
    assert page.inner_text("#page") == "101 to 200 of 240" and page.evaluate("document.activeElement.dataset.item") == "100"
    whole = {}
    for result in ("right", "wrong"):
        page.select_option("[name=result]", result)
        whole[result] = numbers(page)
    assert whole["right"][0] + whole["wrong"][0] == 240 and whole["right"][0] == whole["right"][1] and whole["wrong"][1] == 0
    page.select_option("[name=severity]", "1")
    dangers = pd.read_parquet(folder.parent / "results" / "dangerous_items.parquet").query("stage == 'cpt-sft' and severity == 1")
    assert numbers(page)[0] == len(dangers) > 0 and set(page.locator("#rows .judged").all_inner_texts()) == {"wrong, severity 1 (worst)"}
    page.click("button[type=reset]")
    page.select_option("[name=ring]", label="held-out institutions")
    page.select_option("[name=field]", label="grade")
    page.select_option("[name=cancer]", label="PRAD (prostate)")
    assert 0 < numbers(page)[0] < 40 and set(page.locator("#rows th").all_inner_texts()) <= {f"{i}: grade" for i in range(1, 241)}
    page.select_option("[name=system]", label="Majority answer")
    assert "Majority answer" in page.inner_text("#of-system") and numbers(page)[2] == numbers(page)[0]
    page.select_option("[name=field]", label="laterality")
    page.select_option("[name=severity]", "3")
    page.select_option("[name=result]", "right")
    assert numbers(page)[0] == 0 and "no question passes" in page.inner_text("#page") and page.is_disabled("#next")


def test_search_finds_words_anywhere_in_a_question(visit):
    page = visit("answers.html")
    page.fill("[name=search]", "SPECIMEN 239 fresh")
    assert numbers(page)[0] == 1
    page.fill("[name=search]", "no such words")
    assert numbers(page)[0] == 0 and page.inner_text("#of-system") == "answer of tiny_base, cpt-sft"


def test_detail_shows_text_label_and_answers_with_the_differing_words_marked(visit):
    page = visit("answers.html")
    page.fill("[name=search]", "specimen 3 was")
    page.click("#rows button")
    assert page.evaluate("document.activeElement.id") == "detail" and invented_answers.PLANTED in page.inner_text("#text")  # as text
    page.click("button[type=reset]")
    page.select_option("[name=field]", label="stage")
    page.select_option("[name=result]", "wrong")
    page.click("#rows button")
    gold = page.inner_text("#detail tbody tr:nth-child(1) td:nth-child(2)")
    row = page.locator("#detail tbody tr", has_text="tiny_base, cpt-sft")
    marked, missing = row.locator("mark").all_inner_texts(), row.locator("del").all_inner_texts()
    answer = page.inner_text("#rows .chosen td:nth-child(3)")
    assert answer != gold and marked and set(" ".join(marked).split()) == set(answer.split()) - set(gold.split())
    assert not missing or set(missing) == set(gold.split()) - set(answer.split())
    assert row.locator(".number").inner_text().endswith("%")


def test_a_quote_opens_in_the_text_and_a_false_one_is_called_so(visit):
    page = visit("answers.html")
    row = page.locator("#detail tbody tr", has_text="tiny_base, cpt-sft")
    quote = row.locator("button.quote").inner_text().strip("“”")
    row.locator("button.quote").click()
    assert page.inner_text("#text mark") == quote and page.evaluate("document.activeElement.tagName") == "MARK"
    assert page.locator("#text mark").is_visible() and "found in the note" not in row.inner_text()
    assert "not found in the note" in page.inner_text("#detail tbody tr:has-text('TF-IDF')")


def test_the_answers_are_read_with_the_keyboard_alone(visit):
    page = visit("answers.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "search":
            break
    page.keyboard.type("grade")
    assert numbers(page)[0] == 81
    for _ in range(6):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.item"):
            break
    first = page.evaluate("document.activeElement.dataset.item")
    page.keyboard.press("ArrowDown")
    second = page.evaluate("document.activeElement.dataset.item")
    assert int(second) > int(first) and page.inner_text("#detail-name").startswith(f"Question {int(second) + 1}:")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "detail"
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "quote":
            break
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.tagName") == "MARK"


def test_on_a_phone_a_button_leads_back_to_the_list(visit):
    page = visit("answers.html", "phone")
    page.click("#rows tr:nth-child(3) button")
    page.click("button.back")
    assert page.evaluate("document.activeElement.dataset.item") == "2"


def test_a_link_may_bring_filters_along(visit, folder):
    page = visit("answers.html")
    page.goto(f"{(folder / 'answers.html').as_uri()}#result=wrong&field=grade&system=Majority+answer&search=specimen&nothing=1")
    page.reload()
    assert page.input_value("[name=result]") == "wrong" and page.input_value("[name=search]") == "specimen" and numbers(page)[1] == 0
    assert page.inner_text("#of-system") == "answer of Majority answer" and page.locator("#rows button").first.inner_text().endswith(": grade")


def test_without_javascript_a_page_says_so(visit):
    for name in ("answers.html", "form.html"):
        assert "needs JavaScript" in visit(name, java_script_enabled=False).inner_text("main")


def test_the_form_is_filled_and_saved_with_the_keyboard_alone(visit, tmp_path):
    page = visit("form.html", accept_downloads=True)
    page.focus("[name=rater]")
    page.keyboard.type("A B")
    page.keyboard.press("Enter")  # into the choices, not on to the next item
    page.keyboard.press("b")
    assert page.inner_text("#item-name") == "Item 1 of 3: laterality" and page.inner_text("#status") == "1 of 3 rated"
    page.keyboard.press("Enter")
    assert invented_answers.PLANTED in page.inner_text("#text")
    page.keyboard.press("d")  # none of these
    page.focus("[name=comment]")
    page.keyboard.type("not b, \"clear\"")  # letters in a comment choose nothing
    page.focus("#forward")
    page.keyboard.press("Enter")
    page.keyboard.press("b")
    assert page.inner_text("#status").startswith("All 3 rated")
    expected = {"0001": "Right", "0002": "none of these", "0003": "not stated"}
    for kind in ("json", "csv"):
        page.focus(f"#{kind}")
        with page.expect_download() as saved:
            page.keyboard.press("Enter")
        assert saved.value.suggested_filename.endswith(f"_AB.{kind}")
        saved.value.save_as(tmp_path / f"a.{kind}")
        found = rating.read_ratings(tmp_path / f"a.{kind}", items(), [], QUESTION)
        assert found["choice"].to_dict() == expected and found.loc["0002", "comment"] == 'not b, "clear"'
    page.keyboard.press("Shift+Tab")
    page.reload()
    assert page.input_value("[name=rater]") == "A B" and page.inner_text("#status").startswith("All 3 rated")


def test_the_form_continues_from_a_file_and_refuses_another_s(visit, tmp_path):
    page = visit("form.html")
    (tmp_path / "other.json").write_text(json.dumps({"form": "other", "rater": "X", "ratings": []}))
    page.set_input_files("#load", tmp_path / "other.json")
    page.locator("#message", has_text="not saved by this form").wait_for()
    rows = [{"item": "0002", "choice": "G2", "comment": ""}]
    (tmp_path / "a.json").write_text(json.dumps({"form": rating.form_id(items(), [], QUESTION), "rater": "CD", "ratings": rows}))
    page.set_input_files("#load", tmp_path / "a.json")
    page.locator("#message", has_text="Loaded.").wait_for()
    assert page.inner_text("#status") == "1 of 3 rated" and page.input_value("[name=rater]") == "CD"
    page.click("#open")
    assert page.inner_text("#item-name") == "Item 3 of 3: stage"
    page.click("#open")
    page.fill("[name=go]", "2")
    page.press("[name=go]", "Tab")
    assert page.is_checked("input[value=G2]")
    page.click("#clear")
    assert page.inner_text("#status") == "0 of 3 rated"


def test_a_scale_is_rated_by_digits(visit, tmp_path):
    page = visit("scale.html", accept_downloads=True)
    page.focus("input[name=choice]")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    assert page.inner_text(".answer") == "no radiotherapy"
    page.keyboard.press("3")
    with page.expect_download() as saved:
        page.click("#json")
    saved.value.save_as(tmp_path / "a.json")
    assert [row["choice"] for row in json.loads((tmp_path / "a.json").read_text())["ratings"]] == ["minor change", "not acceptable"]
