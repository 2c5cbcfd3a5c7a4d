"""The rating of regimens: what is asked is blinded and asked once, and shares follow from the choices by hand."""

import json

import pandas as pd
import pytest

from cancerllm_utils.evaluation import radonc_rating

A, B = "external beam | 60 Gy | 30 fractions | brain", "external beam | 60 Gy | 2 fractions | brain"


@pytest.fixture
def sampled(tmp_path):
    """Two patients: the tuned model names the right regimen for one and an impossible one for the other; the original names none."""
    study = tmp_path / "radonc"
    path = study / "datasets" / "radonc_regimen" / "test.jsonl"
    path.parent.mkdir(parents=True)
    prompt = "x\n\n### Input:\nIn the text: Diagnosis: a tumor. What is the radiotherapy course of this patient?\n\n### Response:\n"
    path.write_text("".join(json.dumps({"patient_id": patient, "prompt": prompt}) + "\n" for patient in ("P1", "P2")))
    rows = [{"model": "tiny_base", "stage": stage, "task": "radonc_regimen", "split": "test", "patient_id": patient, "institution": "H", "cancer_type": "GBM", "gold": A, "parsed": answer}
            for stage, answers in (("sft", (A, B)), ("base", ("unparsed", "unparsed"))) for patient, answer in zip(("P1", "P2"), answers)]  # fmt: skip
    return study, *radonc_rating.sample(study, pd.DataFrame(rows), "test", 5, 0)


def test_a_regimen_is_asked_once_and_says_not_where_it_is_from(sampled):
    study, form, key = sampled
    assert sorted(form["answer"]) == sorted([A, A, B]) and form["item"].is_unique  # P1: model and right regimen are one item
    assert set(form["text"]) == {"Diagnosis: a tumor."}
    html, table, _ = radonc_rating.write_form(study, form, key, contains_text=False)
    for path in (html, table):
        assert "tiny_base" not in path.read_text() and "gold" not in path.read_text()
    assert (key.loc[key["stage"].eq("base"), "item"] == "").all() and len(key) == 6


def test_shares_by_hand(sampled):
    _, form, key = sampled
    good, bad = radonc_rating.SCALE[0], radonc_rating.SCALE[2]
    first = pd.DataFrame({"choice": [good if answer == A else bad for answer in form["answer"]], "comment": ""}, index=form["item"])
    second = pd.DataFrame({"choice": good, "comment": ""}, index=form["item"])
    table = radonc_rating.shares(form, key, [first, second], False, "test", n_resamples=50).set_index(["stage", "rater"])
    assert table.loc[("sft", "first"), "acceptable"] == 50 and table.loc[("sft", "second"), "acceptable"] == 100
    assert table.loc[("sft", "together"), "acceptable"] == 50  # where two differ and nobody decided, the worse counts
    assert table.loc[("gold", "together"), "acceptable"] == 100 and table.loc[("base", "together"), "acceptable"] == 0
    assert not table["simulated"].any() and (table["paper_above"] == 60).all()


def test_simulated_raters_say_so_and_never_accept_what_is_impossible(sampled):
    _, form, key = sampled
    raters, simulated = radonc_rating.read([], form, 3)
    assert simulated and len(raters) == 2
    worst = form.loc[form["answer"].eq(B), "item"].iloc[0]
    assert all(rater.loc[worst, "choice"] != radonc_rating.SCALE[0] for rater in raters)
    said = radonc_rating.sentences(radonc_rating.shares(form, key, raters, simulated, "test", n_resamples=20))
    assert all(sentence.startswith("SIMULATED raters, no person") for sentence in said) and "above 60 %" in said[-1]


def test_ratings_come_back_from_the_forms_table(sampled):
    study, form, key = sampled
    table = pd.read_csv(radonc_rating.write_form(study, form, key, contains_text=False)[1], dtype=str).fillna("")
    files = []
    for rater in ("a", "b"):
        table.assign(choice=radonc_rating.SCALE[1]).to_csv(study / f"{rater}.csv", index=False)
        files.append(str(study / f"{rater}.csv"))
    choices, simulated = radonc_rating.read(files, form, 0)
    shares = radonc_rating.shares(form, key, choices, simulated, "test", n_resamples=20).set_index(["stage", "rater"])
    assert not simulated and shares.loc[("sft", "together"), "acceptable"] == 0 and shares.loc[("sft", "together"), "with_change"] == 100
