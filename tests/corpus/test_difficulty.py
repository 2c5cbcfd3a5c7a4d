"""Difficulty, variety and the hospital classifier, on cohorts whose answers are known in advance."""

import pandas as pd
import pytest

from cancerllm_utils.corpus import splits, synthetic
from cancerllm_utils.corpus.difficulty import difficulty, hospital_classifier, majorities, sample_notes, variety


@pytest.fixture(scope="module")
def measured():
    cohort = synthetic.generate(100, 8)
    rings, _ = splits.assign(cohort["notes"], 1, [])
    return cohort, difficulty(cohort["notes"], cohort["labels"], rings, max_notes=90).set_index("field")


def test_every_field_is_measured_on_other_patients_than_it_learns_from(measured):
    _, table = measured
    assert set(table.index) == set(synthetic.SYNTHETIC_FIELDS)
    shares = table.drop(columns=["patients", "values", "n_stated", "n_not_stated", "rules_notes"]).to_numpy(dtype=float)
    assert ((shares >= 0) | pd.isna(shares)).all() and ((shares <= 1) | pd.isna(shares)).all()
    assert (table["patients"] < 100).all() and (table["patients"] > 5).all()


def test_no_field_is_told_by_the_cancer_alone(measured):
    """The yardsticks of a cohort worth training on: loose bounds, as 100 patients are few."""
    _, table = measured
    assert table.loc["histology", "majority_per_cancer"] < 0.8
    assert table.loc["treatment_plan", "majority_per_cancer"] < 0.65
    assert table.loc["icd10", "majority_per_cancer"] > 0.6  # the code follows the site
    eight = ["tumor_size", "tumor_site", "grade", "laterality", "stage", "histology", "receptor_status"]
    assert (table.loc[eight, "stated_by_words"] < 0.99).all()


def test_majorities_by_hand():
    train = pd.DataFrame({"cancer_type": ["A", "A", "A", "B"], "value": ["x", "x", "y", "z"]})
    test = pd.DataFrame({"cancer_type": ["A", "B", "B", "C"], "value": ["x", "z", "x", "x"]})
    assert majorities(train, test, "value") == {"majority": 0.75, "majority_per_cancer": 0.75}
    assert pd.isna(majorities(train, test.head(0), "value")["majority"])


def test_variety_by_hand_and_at_equal_words():
    same, different = ["a b c d e f"] * 4, ["a b c d e f", "g h i j k l", "m n o p q r", "s t u v w x", "y z 1 2 3 4"]
    table = variety({"same": same, "different": different}, n=5).set_index("source")
    assert list(table["words"]) == [24, 24] and list(table["ngrams"]) == [8, 8]
    assert table.loc["same", "distinct"] == 2 and table.loc["different", "distinct"] == 8
    assert table.loc["same", "distinct_share"] == 0.25 and table.loc["different", "distinct_per_1000_notes"] == 2000
    assert variety({"x": ["A-B c."], "y": ["one two"]}, n=2)["ngrams"].tolist() == [1, 1]


def test_the_sample_does_not_follow_the_order_of_the_rows():
    notes = pd.DataFrame({"note_id": [f"n{number}" for number in range(50)]})
    assert set(sample_notes(notes, 10, 0)["note_id"]) == set(sample_notes(notes[::-1], 10, 0)["note_id"])
    assert len(sample_notes(notes, 80, 0)) == 50


def test_hospitals_are_told_apart_by_their_style_and_not_where_there_is_none(measured):
    cohort, _ = measured
    found = hospital_classifier(cohort["notes"], max_notes=500)
    assert found["accuracy"] > found["majority"] + 0.2 and found["hospitals"] == cohort["notes"]["institution"].nunique()
    flat = cohort["notes"].assign(text="the same text in every hospital of this test")
    assert hospital_classifier(flat, max_notes=300)["accuracy"] < 0.3


def test_one_hospital_cannot_be_told_from_others():
    notes = pd.DataFrame({"note_id": list("abcdef"), "patient_id": list("abcdef"), "institution": "one", "text": "A mass is seen."})
    found = hospital_classifier(notes)
    assert found["hospitals"] == 1 and found["accuracy"] != found["accuracy"]
