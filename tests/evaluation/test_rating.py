"""The rating form: what stands in it, what comes back and what is refused, Cohen's kappa by hand and against scikit-learn, consensus of two and of three."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import rating

ASK = "Which answer is right, given the text?"
SCALE = ["acceptable", "minor change", "not acceptable"]


def items():
    return pd.DataFrame({
        "item": ["0001", "0002", "0003"], "task": "Phenotype extraction", "field": ["laterality", "grade", "stage"], "question": "What is it?",
        "options": [["Left", "Right"], ["7", "8", "9"], []], "text": ["The left one,\nor so.", "Gleason </script> 3 + 4, \"clear\"", "No stage is given."],
    })  # fmt: skip


def plans():
    return pd.DataFrame({"item": ["0001", "0002"], "text": ["One text.", "Another text."], "answer": ["surgery;\n50 Gy in 25", "no radiotherapy"]})


@pytest.fixture
def written(tmp_path):
    rating.form(items(), [], ASK, tmp_path / "form.html", tmp_path / "form.csv")
    return tmp_path


def fill(folder, choices, name="a.csv", **options):
    """The table as a rater hands it back: {item: choice}."""
    typed = pd.read_csv(folder / "form.csv", dtype=str, keep_default_na=False)
    typed["choice"] = [choices.get(item, "") for item in typed["item"]]
    typed.to_csv(folder / name, index=False, **options)
    return folder / name


def read(path):
    return rating.read_ratings(path, items(), [], ASK)


def test_page_and_table_hold_the_same_items_and_no_markup_of_theirs(written):
    page = (written / "form.html").read_text()
    data = json.loads(re.search(r'(?s)<script type="application/json" id="data">(.*?)</script>', page)[1])
    assert data["items"][1] == items().to_dict("records")[1] and data["fixed"] == ["none of these", "not stated"] and data["scale"] == []
    assert page.count("</script>") == 2 and "do not share" in page
    table = pd.read_csv(written / "form.csv", dtype=str, keep_default_na=False)
    assert list(table) == ["item", "form", "choice", "comment", "task", "field", "question", "option_A", "option_B", "option_C", "text"]
    assert table["text"].tolist() == items()["text"].tolist() and table["option_C"].tolist() == ["", "9", ""] and set(table["form"]) == {data["form"]}


def test_a_form_s_number_follows_from_what_it_asks():
    other = items().assign(options=[["Left", "Right"], ["7", "8"], []])
    assert rating.form_id(items(), [], ASK) == rating.form_id(items(), [], ASK) != rating.form_id(other, [], ASK)


@pytest.mark.parametrize("options", [{}, {"sep": ";", "encoding": "utf-8-sig", "lineterminator": "\r\n"}, {"sep": "\t"}])
def test_choices_come_back_from_the_table_by_letter_or_words(written, options):
    found = read(fill(written, {"0001": "b", "0002": "7", "0003": " Not_Stated "}, **options))
    assert found["choice"].to_dict() == {"0001": "Right", "0002": "7", "0003": "not stated"}
    assert read(fill(written, {"0002": "NONE OF THESE"}))["choice"].to_dict() == {"0002": "none of these"}


def test_choices_come_back_from_the_page_s_files(written):
    number = rating.form_id(items(), [], ASK)
    rows = [{"item": "0001", "choice": "Left", "comment": "clear"}, {"item": "0002", "choice": "", "comment": "later"}]
    (written / "a.json").write_text(json.dumps({"form": number, "rater": "AB", "ratings": rows}))
    found = read(written / "a.json")
    assert found["choice"].to_dict() == {"0001": "Left"} and found.loc["0001", "comment"] == "clear"
    (written / "b.csv").write_text(f'\ufeff"item","form","choice","comment"\r\n"0001","{number}","Left","he said ""yes"""\r\n"0002","{number}","",""\r\n', encoding="utf-8")
    assert read(written / "b.csv").loc["0001"].tolist() == ["Left", 'he said "yes"']


WRONG = [
    ("item,choice\n0001,Left\n0009,Left\n", "line 3", "not in the form"),
    ("item,choice\n0001,Upper\n", "line 2", "a letter from A to B"),
    ("item,choice\n0001,C\n", "line 2", "none of these or not stated"),
    ("item,choice\n0001,A\n0001,B\n", "line 3", "Keep one"),
    ("item,form,choice\n0001,abc,A\n", "line 2", "another form (abc"),
    ("item,choice\n0001,\n", "", "no item has a choice"),
    ("item,comment\n0001,\n", "line 1", "column choice is missing"),
    ("", "", "is empty"),
    ('item,choice\n"0001,A\n', "line 2", "Save the table"),
]


@pytest.mark.parametrize("content, line, remedy", WRONG)
def test_a_file_that_is_wrong_is_named_with_row_and_remedy(tmp_path, content, line, remedy):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UserError) as error:
        read(tmp_path / "a.csv")
    assert str(tmp_path / "a.csv") in str(error.value) and line in str(error.value) and remedy in str(error.value) and str(error.value).endswith(".")
    assert "Upper" not in str(error.value)  # what was typed is never repeated


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"ratings": 3}', '{"ratings": [3]}', "\x00"])
def test_a_json_file_that_is_no_export(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=r"a\.json"):
        read(tmp_path / "a.json")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "none.json")


def test_a_scale_is_rated_by_its_words(tmp_path):
    rating.form(plans(), SCALE, "Clinically acceptable?", tmp_path / "form.html", tmp_path / "form.csv", contains_text=False)
    table = pd.read_csv(tmp_path / "form.csv", dtype=str, keep_default_na=False)
    assert table["answer"].tolist() == ["surgery; 50 Gy in 25", "no radiotherapy"] and "do not share" not in (tmp_path / "form.html").read_text()
    path = fill(tmp_path, {"0001": "Minor  change", "0002": "acceptable"})
    assert rating.read_ratings(path, plans(), SCALE, "Clinically acceptable?")["choice"].tolist() == ["minor change", "acceptable"]
    with pytest.raises(UserError, match="acceptable or minor change or not acceptable"):
        rating.read_ratings(fill(tmp_path, {"0001": "a"}), plans(), SCALE, "Clinically acceptable?")


# ---- agreement ----


def test_kappa_by_hand():
    # 2 x 2 table 20, 5, 10, 15: agreement 0.7, by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5, kappa 0.4 (the textbook's example)
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = rating.kappa(first, second, range(50))
    assert found["kappa"] == pytest.approx(0.4) and found["agreement"] == pytest.approx(70) and found["n"] == 50
    assert 0.1 < found["low"] < 0.4 < found["high"] < 0.7 and found["agreement_low"] < 70 < found["agreement_high"]


@pytest.mark.parametrize("scale", [None, SCALE])
def test_kappa_s_interval_is_that_of_resampled_patients(scale):
    random = np.random.default_rng(3)
    first = random.choice(SCALE, 120)
    second = np.where(random.random(120) < 0.6, first, random.choice(SCALE, 120))
    clusters = np.arange(120) // 2
    found = rating.kappa(first, second, clusters, scale, n_resamples=400, seed=1)
    weights = "quadratic" if scale else None
    assert found["kappa"] == pytest.approx(cohen_kappa_score(first, second, labels=SCALE, weights=weights))
    again = []
    for drawn in np.random.default_rng(1).integers(60, size=(400, 60)):
        rows = np.concatenate([np.flatnonzero(clusters == cluster) for cluster in drawn])
        again.append(cohen_kappa_score(first[rows], second[rows], labels=SCALE, weights=weights))
    assert [found["low"], found["high"]] == pytest.approx(np.percentile(again, [2.5, 97.5]))


def test_kappa_counts_a_step_less_than_two_only_on_a_scale():
    first, near, far = ["acceptable", "not acceptable"] * 20, ["minor change", "not acceptable"] * 20, ["not acceptable", "not acceptable"] * 20
    on_scale = [rating.kappa(first, other, range(40), SCALE)["kappa"] for other in (near, far)]
    assert on_scale[0] > on_scale[1] == 0.0


def test_kappa_of_one_single_choice_is_undefined_and_full_agreement_is_one():
    same = rating.kappa(["a"] * 5, ["a"] * 5, range(5))
    assert np.isnan(same["kappa"]) and np.isnan(same["low"]) and same["agreement"] == 100
    assert rating.kappa(["a", "b", "c"], ["a", "b", "c"], range(3))["kappa"] == 1.0


def ratings(**choices):
    return pd.DataFrame({"choice": choices, "comment": ""}).rename_axis("item")


def test_consensus_is_what_two_say_or_a_third_decides():
    asked = pd.DataFrame({"item": list("abcd")})
    two = [ratings(a="Left", b="Left", c="Left"), ratings(a="Left", b="Right", d="Left")]
    assert rating.consensus(asked, two)["consensus"].tolist() == ["Left", "", "", ""]
    three = rating.consensus(asked, [*two, ratings(a="Right", b="Right", c="Left")])
    assert three["consensus"].tolist() == ["Left", "Right", "", ""] and three["agreed"].tolist() == [True, False, False, False]
    for wrong in ([], two[:1], two * 2):
        with pytest.raises(UserError, match="two raters"):
            rating.consensus(asked, wrong)


def test_disagreements_go_to_a_third_whose_decisions_stay(written):
    together = rating.consensus(items(), [read(fill(written, {"0001": "A", "0002": "A"})), read(fill(written, {"0001": "B", "0002": "7"}, "b.csv"))])
    path = written / "out" / "disagreements.csv"
    assert rating.write_disagreements(items(), [], ASK, together, path) == 1
    typed = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert typed[["item", "first", "second", "choice"]].to_numpy().tolist() == [["0001", "Left", "Right", ""]] and typed.columns[-1] == "text"
    typed.assign(choice="B", comment="see line two").to_csv(path, index=False)
    assert rating.write_disagreements(items(), [], ASK, together, path) == 1
    third = read(path)
    assert third.loc["0001"].tolist() == ["Right", "see line two"]
    assert rating.consensus(items(), [ratings(**{"0001": "Left"}), ratings(**{"0001": "Right"}), third])["consensus"][0] == "Right"
