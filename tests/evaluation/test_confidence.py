"""Confidence: calibration error, area under the risk-coverage curve, temperature and threshold by hand; nothing depends on the order of the rows."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import confidence


def test_calibration_error_by_hand():
    """Two bins of two: |0.5 - 0.15| and |1 - 0.85| of two answers each: (2 * 0.35 + 2 * 0.15) / 4."""
    sure, right = [0.1, 0.2, 0.8, 0.9], [0, 1, 1, 1]
    found = confidence.calibration_error(sure, right, n_bins=2)
    assert found["ece"] == pytest.approx(25.0) and found["low"] <= 25 <= found["high"]
    backwards = confidence.calibration_error(sure[::-1], right[::-1], n_bins=2)
    assert backwards["ece"] == pytest.approx(found["ece"])


def test_a_perfect_system_has_no_error_but_a_finite_sample_shows_one():
    assert confidence.calibration_error([0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1], n_bins=2) == {"ece": 0.0, "low": 0.0, "high": 0.0, "if_perfect": 0.0}
    one = confidence.calibration_error([0.5] * 100, [1, 0] * 50, n_bins=5, n_draws=4000)
    assert one["ece"] == 0 and one["if_perfect"] == pytest.approx(100 * np.sqrt(0.25 / 100 * 2 / np.pi), rel=0.05), "the mean absolute deviation of a share of 100"


def test_equal_probabilities_share_a_bin():
    assert len(set(confidence.bins(np.array([0.5] * 7 + [0.9]), 4)[:7])) == 1
    assert set(confidence.bins(np.array([0.3] * 5), 5)) == {0}
    assert np.bincount(confidence.bins(np.arange(20) / 20, 5)).tolist() == [4] * 5


def test_the_interval_holds_the_true_error_of_a_system_that_is_a_little_too_sure():
    """Simulated systems of 140 answers, two per patient, right with p ** 1.3 instead of p: about 95 of 100 jackknife intervals hold the true error."""
    rng, inside = np.random.default_rng(0), 0
    p = np.sort(rng.beta(1, 1.2, 100_000))
    truth = 100 * np.mean([abs((part**1.3 - part).mean()) for part in np.array_split(p, 5)])
    for _ in range(150):
        sure = rng.beta(1, 1.2, 140)
        found = confidence.calibration_error(sure, rng.random(140) < sure**1.3, np.arange(140) // 2, n_draws=1)
        inside += found["low"] <= truth <= found["high"]
    assert inside / 150 >= 0.88


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_a_made_up_set_is_found_again(temperature):
    """Answers are right with the probability p; what the system says is p at 1 / temperature, so the temperature brings p back."""
    rng = np.random.default_rng(1)
    p = rng.beta(5, 5, 20_000)
    says = expit(logit(p) * temperature)
    found = confidence.fit_temperature(says, rng.random(len(p)) < p)
    assert found == pytest.approx(temperature, rel=0.06)
    assert confidence.scaled(says, temperature) == pytest.approx(p, abs=1e-3)


def test_no_temperature_from_few_answers_or_from_answers_that_are_all_alike():
    assert np.isnan(confidence.fit_temperature([0.5] * 5, [0, 1, 0, 1, 1])) and np.isnan(confidence.fit_temperature([0.5] * 50, [1] * 50))


def test_area_by_hand():
    """The surest is right, the second wrong, the third right: risks 0, 1/2, 1/3."""
    assert confidence.area_under_risk([0.9, 0.8, 0.7], [1, 0, 1]) == pytest.approx(100 * (0 + 1 / 2 + 1 / 3) / 3)
    assert confidence.area_under_risk([0.7, 0.9, 0.8], [1, 1, 0]) == pytest.approx(100 * (0 + 1 / 2 + 1 / 3) / 3), "the order of the rows does not matter"
    assert confidence.area_under_risk([0.5] * 4, [1, 0, 0, 1]) == pytest.approx(50.0), "equally sure: the overall error"
    assert confidence.area_under_risk([1, 1, 0, 0], [1, 1, 0, 0]) == pytest.approx(100 * (0 + 0 + 1 / 3 + 1 / 2) / 4)


def test_the_areas_interval_is_around_it():
    rng = np.random.default_rng(2)
    sure = rng.random(300)
    right = rng.random(300) < sure
    for method in ("percentile", "t"):
        low, high = confidence.area_interval(sure, right, np.arange(300) // 3, method, 300, 0)
        assert low < confidence.area_under_risk(sure, right) < high and high - low < 25


def test_threshold_by_hand():
    sure, right = np.arange(1, 21) / 20, np.array([0] * 10 + [1, 0] * 2 + [1] * 6)
    assert confidence.threshold(sure, right, 0.25) == pytest.approx(np.quantile(sure, 0.25))
    # from the surest on: 6 right, wrong, right, wrong, right: at 10 answers 2 are wrong, at 11 three
    assert confidence.threshold(sure, right, 0.25, target_error=0.2) == pytest.approx(0.55)
    assert confidence.threshold(sure, np.zeros(20), 0.25, target_error=0.2) == float("inf") and np.isnan(confidence.threshold(sure[:5], right[:5], 0.25))
    tied = np.array([0.9] * 10 + [0.1] * 10)
    assert confidence.threshold(tied, np.array([1] * 9 + [0] * 11), 0.2, target_error=0.05) == float("inf"), "equally sure answers are kept all or none"


def rows(n: int, split: str = "test", **columns) -> pd.DataFrame:
    return pd.DataFrame({"model": "tiny_base", "stage": "sft", "task": "diagnosis_generation", "split": split, "patient_id": [f"p{i}" for i in range(n)], "institution": "", "headline": True} | columns)


def test_what_a_threshold_does_by_hand():
    """Six answers, cut 0.5: four are kept, three of these right; one of the two wrong ones is sent."""
    found = confidence.review([0.9, 0.8, 0.7, 0.6, 0.3, 0.2], [1, 1, 0, 1, 0, 1], rows(6), "test", 0.5, 100)
    assert found["sent"] == pytest.approx(100 * 2 / 6) and found["right_kept"] == 75 and found["errors_left"] == pytest.approx(100 / 6) and found["errors_caught"] == 50
    assert confidence.review([0.9], [1], rows(1), "test", float("nan")) == {} and "right_kept" not in confidence.review([0.9], [1], rows(1), "test", float("inf"))


def answers(seed: int = 0) -> pd.DataFrame:
    """A system that is right as often as it says, 120 answers on dev and on test; and one without probabilities."""
    rng, parts = np.random.default_rng(seed), []
    for split in ("dev", "test"):
        sure = rng.beta(1.5, 1.5, 120)
        parts.append(rows(120, split, probability=sure, confidence=sure**0.3, right=rng.random(120) < sure))
    return pd.concat([*parts, parts[1].assign(model="rules", stage="baseline", probability=np.nan, confidence=np.nan)], ignore_index=True)


def test_tables_of_a_run(tmp_path):
    tables = confidence.run(tmp_path, answers(), n_resamples=200)
    table = tables["calibration"].set_index("split")
    assert set(tables["calibration"]["model"]) == {"tiny_base"} and list(tables["calibration"]) == confidence.COLUMNS
    test = table.loc["test"]
    assert test["n"] == test["patients"] == 120 and test["dev_items"] == 120 and test["temperature"] == pytest.approx(1, abs=0.45)
    assert test["ece"] < 15 < test["ece_per_token"] and test["aurc_best"] < test["aurc"] < 100 - test["right"]
    assert table.loc["dev", "sent"] == pytest.approx(20, abs=1) and 5 < test["sent"] < 40 and test["right_kept"] > test["right"]
    # every wrong answer is either sent or left
    assert test["errors_left"] + (100 - test["right"]) * test["errors_caught"] / 100 == pytest.approx(100 - test["right"])
    curve = tables["curve"].query("split == 'test'").set_index("coverage")
    assert list(curve.index) == confidence.CURVE and curve.loc[100, "right"] == pytest.approx(test["right"]) and curve.loc[20, "right"] > curve.loc[100, "right"]
    assert tables["bins"].groupby(["split", "scaled"])["n"].sum().eq(120).all()
    for name in ("calibration", "risk_coverage", "reliability"):
        assert len(pd.read_csv(tmp_path / "results" / f"{name}.csv"))
    shuffled = confidence.run(tmp_path, answers().sample(frac=1, random_state=3), n_resamples=200)["calibration"].set_index("split")
    numbers = table.select_dtypes("number").columns
    assert shuffled.loc[["dev", "test"], numbers].to_numpy() == pytest.approx(table.loc[["dev", "test"], numbers].to_numpy(), nan_ok=True)
    (text,) = confidence.sentences(tables, [("tiny_base", "sft")], "test", 80)
    assert "surest 80 %" in text and "sends" in text and "nan" not in text


def test_without_development_answers_nothing_is_chosen(tmp_path):
    tables = confidence.run(tmp_path, answers().query("split == 'test'"), n_resamples=50)
    row = tables["calibration"].iloc[0]
    assert row[["temperature", "threshold", "ece_scaled", "sent"]].isna().all() and not tables["bins"]["scaled"].any()
    assert "Too few development answers" in confidence.sentences(tables, [("tiny_base", "sft")], "test", 80)[0]


def test_a_target_that_no_answer_meets_sends_all(tmp_path):
    given = answers().query("model == 'tiny_base'").assign(right=lambda table: table.index % 2 == 0, probability=0.5)
    tables = confidence.run(tmp_path, given, target_error=0.05, n_resamples=50)
    assert (tables["calibration"]["sent"] == 100).all() and "every answer to a human" in confidence.sentences(tables, [("tiny_base", "sft")], "test", 80)[0]


def test_no_system_with_probabilities_gives_empty_tables(tmp_path):
    tables = confidence.run(tmp_path, answers().query("model == 'rules'"))
    assert all(table.empty for table in tables.values()) and confidence.sentences(tables, [("rules", "baseline")], "test", 80) == ["No system of this run gives probabilities."]


@pytest.mark.parametrize(("wrong", "name"), [((0.0, 0.0, 5), "review_share"), ((1.0, 0.0, 5), "review_share"), ((0.2, 1.0, 5), "target_error"), ((0.2, 0.0, 1), "n_bins")])
def test_senseless_parameters_stop_with_the_remedy(wrong, name):
    with pytest.raises(UserError, match=f"{name}.*set"):
        confidence.check(*wrong)


@pytest.mark.filterwarnings("error")
def test_a_single_unseen_institution_has_scores_and_no_limits(tmp_path):
    given = answers().query("model == 'tiny_base' and split == 'test'").assign(split="external", institution="Larkmoor")
    row = confidence.run(tmp_path, given, n_resamples=50)["calibration"].iloc[0]
    assert row["ece"] > 0 and row[["ece_low", "ece_high", "aurc_low", "aurc_high"]].isna().all()
