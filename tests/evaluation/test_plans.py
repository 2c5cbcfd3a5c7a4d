"""Plan scores by hand: drugs as sets, radiotherapy answers, the gain over the per-cancer majority."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cancerllm_utils.evaluation import classes, plans

NAN = float("nan")


def test_drugs_are_compared_as_sets_of_generics():
    assert plans.drug_set("gemcitabine + cisplatin") == plans.drug_set("Gemzar + cisplatin") == {"cisplatin", "gemcitabine"}
    assert plans.drug_set("cisplatin + dexamethasone") == {"cisplatin"}
    assert plans.drug_set("cisplatin + water") == {"cisplatin", "water"}
    assert plans.drug_set("none") == plans.drug_set("") == frozenset()
    assert plans.drug_set("folfox") == {"fluorouracil", "leucovorin", "oxaliplatin"}


@pytest.mark.parametrize("gold, given_, precision, recall, f1, exact", [
    ({"a", "b"}, {"a", "b"}, 1, 1, 1, 1), ({"a", "b"}, {"a"}, 1, 0.5, 2 / 3, 0), ({"a"}, {"a", "b", "c"}, 1 / 3, 1, 0.5, 0),
    ({"a"}, {"b"}, 0, 0, 0, 0), ({"a"}, set(), 0, 0, 0, 0), (set(), set(), 1, 1, 1, 1), (set(), {"a"}, 0, 0, 0, 0),
])  # fmt: skip
def test_set_scores_by_hand(gold, given_, precision, recall, f1, exact):
    found = plans.set_scores(frozenset(gold), frozenset(given_))
    assert [found[name] for name in plans.SET_METRICS] == pytest.approx([precision, recall, f1, exact])


@given(st.frozensets(st.sampled_from("abcdef")), st.frozensets(st.sampled_from("abcdef")))
def test_set_scores_are_symmetric_and_bounded(one, two):
    here, there = plans.set_scores(one, two), plans.set_scores(two, one)
    assert here["set_f1"] == there["set_f1"] and here["set_precision"] == there["set_recall"]
    assert all(0 <= value <= 1 for value in here.values())
    assert (here["set_exact"] == 1) == (here["set_f1"] == 1) == (one == two)


COURSE = "external beam | 60 Gy | 30 fractions | primary tumour field"


@pytest.mark.parametrize("gold, given_, scores", [
    (COURSE, COURSE, (1, 1, 1, 1)),
    (COURSE, "external beam | 57 Gy | 30 fractions | brain", (1, 1, 1, 0)),
    (COURSE, "external beam | 56.9 Gy | 30 fractions | brain", (1, 0, 1, 0)),
    (COURSE, "stereotactic | 60 Gy | 30 fractions | primary tumour field", (0, 1, 1, 0)),
    (COURSE, "no radiotherapy", (0, 0, 0, 0)), (COURSE, "unparsed", (0, 0, 0, 0)), (COURSE, "sixty gray", (0, 0, 0, 0)),
    ("no radiotherapy", "no radiotherapy", (1, NAN, NAN, NAN)), ("no radiotherapy", COURSE, (0, NAN, NAN, NAN)), ("no radiotherapy", "unparsed", (0, NAN, NAN, NAN)),
])  # fmt: skip
def test_course_scores_by_hand(gold, given_, scores):
    found = plans.example_scores("radiotherapy", gold, given_)
    assert [found[name] for name in plans.COURSE_METRICS] == pytest.approx(scores, nan_ok=True)


def test_a_plan_of_three_parts():
    gold = "curative | surgery + chemotherapy | carboplatin + paclitaxel"
    assert plans.example_scores("treatment_plan", gold, "curative | chemotherapy + surgery | taxol + carboplatin") == {
        "set_precision": 1, "set_recall": 1, "set_f1": 1, "set_exact": 1, "intent": 1, "modalities_exact": 1}  # fmt: skip
    found = plans.example_scores("treatment_plan", gold, "palliative | chemotherapy | carboplatin")
    assert (found["intent"], found["modalities_exact"], found["set_recall"], found["set_precision"]) == (0, 0, 0.5, 1)
    assert not any(plans.example_scores("treatment_plan", "curative | surgery | none", "surgery, then rest").values())
    assert plans.example_scores("treatment_plan", "curative | surgery | none", "curative | surgery | none")["set_exact"] == 1


def test_a_letter_regimen_has_no_modality():
    found = plans.example_scores("radiotherapy_regimen", "60 Gy in 30 fractions", "60 Gy in 25 fractions")
    assert np.isnan(found["modality"]) and (found["dose_within_5"], found["fractions_exact"], found["regimen_exact"]) == (1, 0, 0)


def test_gold_that_is_no_course_is_refused():
    with pytest.raises(ValueError):
        plans.example_scores("radiotherapy", "some radiation", COURSE)


@pytest.fixture
def run(tmp_path):
    """Four patients with one drug question each; the model is right three times, the majority twice; one radiotherapy question each."""
    folder = tmp_path / "run"
    golds = ["cisplatin", "cisplatin", "carboplatin + paclitaxel", "temozolomide"]
    courses = [COURSE, "no radiotherapy", "no radiotherapy", COURSE]
    questions, model, majority = [], [], []
    for i, (gold, course) in enumerate(zip(golds, courses)):
        for field, answer in (("systemic_therapy", gold), ("radiotherapy", course)):
            key = f"treatment_plan|n{i}|{field}|report"
            questions.append({"example_id": key, "patient_id": f"p{i}", "institution": f"h{i % 2}", "cancer_type": "OV", "field": field, "variant": "report", "answers": [answer]})
            right = {"systemic_therapy": ["cisplatin", "cisplatin", "carboplatin", "temozolomide"], "radiotherapy": courses}[field][i]
            usual = {"systemic_therapy": "cisplatin", "radiotherapy": "no radiotherapy"}[field]
            model.append({"example_id": key, "prediction": right, "answers": [answer], "parsed": right})
            majority.append({"example_id": key, "prediction": usual, "answers": [answer], "parsed": usual})
    for path, rows in {
        "datasets/treatment_plan/dev.jsonl": questions, "predictions/tiny/cpt-sft/treatment_plan.dev.jsonl": model,
        "predictions/majority_by_cancer/baseline/treatment_plan.dev.jsonl": majority,
    }.items():  # fmt: skip
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_score_plans_gives_gains_over_the_majority(run):
    table = plans.score_plans(run, n_resamples=200)
    assert list(table.columns) == plans.COLUMNS
    pd.testing.assert_frame_equal(table, pd.read_csv(run / "results" / "plans.csv")[plans.COLUMNS], check_dtype=False, atol=1e-5)
    of = table.set_index(["model", "field", "metric"])
    drug = of.loc["tiny", "systemic_therapy", "set_f1"]
    assert drug["f1"] == pytest.approx(100 * (1 + 1 + 2 / 3 + 1) / 4)
    assert drug["gain"] == pytest.approx(100 * (2 / 3 + 1) / 4)
    assert drug["gain_low"] <= drug["gain"] <= drug["gain_high"] and drug["versus"] == "majority_by_cancer"
    assert of.loc["tiny", "systemic_therapy", "set_exact"]["gain"] == pytest.approx(25)
    assert of.loc["tiny", "radiotherapy", "modality"]["n"] == 4 and of.loc["tiny", "radiotherapy", "dose_within_5"]["n"] == 2
    assert of.loc["majority_by_cancer", "radiotherapy", "modality_macro_f1"]["f1"] == pytest.approx(100 * (2 / 3) / 2)
    assert of.loc["tiny", "radiotherapy", "modality_macro_f1"]["gain"] == pytest.approx(100 * (1 - 1 / 3))
    assert of.loc["majority_by_cancer"]["gain"].isna().all()


def test_the_yardstick_must_have_answered_the_same_questions(run):
    path = run / "predictions/majority_by_cancer/baseline/treatment_plan.dev.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    assert plans.score_plans(run, n_resamples=50)["gain"].isna().all()


def test_without_predictions_there_is_an_empty_table_and_no_file(tmp_path):
    assert plans.score_plans(tmp_path).empty
    assert not (tmp_path / "results" / "plans.csv").exists()


def test_macro_f1_difference_is_the_difference_of_two_macro_f1():
    rng = np.random.default_rng(3)
    gold, a, b = (rng.choice(list("xyz"), 60) for _ in range(3))
    patients = np.repeat(np.arange(20), 3)
    found, low, high = classes.macro_f1_difference(gold, a, b, patients, 300)
    assert found == pytest.approx(classes.macro_f1(gold, a, patients)[0] - classes.macro_f1(gold, b, patients)[0])
    assert low < found < high
