"""Ring against ring: hand-computed differences, the equal mix of cancers, coverage of the limits by simulation, and runs that lack a ring."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import rings, stats
from cancerllm_utils.results import SCORE_COLUMNS


def column(values) -> np.ndarray:
    return np.asarray(values, dtype=float)[:, None]


def examples(rows: list[tuple]) -> pd.DataFrame:
    """Rows (model, stage, split, patient, institution, cancer, points) of one task, as results/examples.parquet holds them, both families."""
    frame = pd.DataFrame(rows, columns=["model", "stage", "split", "patient_id", "institution", "cancer_type", "points"])
    frame["example_id"] = frame.groupby(["model", "stage", "split"]).cumcount().astype(str)
    frame = frame.assign(task="diagnosis_generation", field="diagnosis", variant="", headline=True, average_f1=frame["points"] / 100, exact=0.0, value_correct=frame["points"] / 100)
    return pd.concat([frame.assign(family=family) for family in ("paper", "clinical")], ignore_index=True).drop(columns="points")


def write(folder, rows):
    (folder / "results").mkdir()
    examples(rows).to_parquet(folder / "results" / "examples.parquet")
    return folder


def test_weighted_mean_of_one_stratum_is_the_plain_mean_with_its_jackknife_error():
    values, patients = [0.0, 100.0, 50.0, 50.0, 100.0], ["a", "a", "b", "c", "c"]
    mean, error, freedom = rings.weighted_mean(column(values), np.zeros(5), patients, {0.0: 1})[:, 0]
    assert mean == 60.0
    assert (error, freedom) == pytest.approx(stats.standard_error(values, patients))


def test_weighted_mean_of_two_cancers_by_hand():
    values = column([100.0, 0.0, 50.0, 40.0, 60.0])
    cancers, patients = ["X", "X", "Y", "Y", "Z"], ["a", "b", "c", "d", "e"]
    mean, error, freedom = rings.weighted_mean(values, cancers, patients, {"X": 3, "Y": 1})[:, 0]
    assert mean == pytest.approx((3 * 50 + 45) / 4), "Z has no weight"
    # Without a: X is 0; without b: X is 100; without c: Y is 40; without d: Y is 50.
    without = np.array([45 / 4, (300 + 45) / 4, (150 + 40) / 4, (150 + 50) / 4])
    assert error == pytest.approx(np.sqrt(3 / 4 * ((without - mean) ** 2).sum()))
    # Shares of the weight: a and b 1.5 of 4 each, c and d 0.5 of 4.
    assert freedom == pytest.approx(4**2 / (1.5**2 * 2 + 0.5**2 * 2) - 1)


def test_weighted_mean_leaves_out_what_a_system_was_not_asked():
    values = np.array([[100.0, np.nan], [0.0, 0.0], [50.0, 50.0]])
    found = rings.weighted_mean(values, np.zeros(3), ["a", "b", "c"], {0.0: 1})
    assert found[0].tolist() == [50.0, 25.0]


def test_welch_agrees_with_scipy_where_every_cluster_is_one_value():
    rng = np.random.default_rng(0)
    a, b = rng.normal(50, 10, 12), rng.normal(60, 25, 30)
    sides = [rings.weighted_mean(column(values), np.zeros(len(values)), range(len(values)), {0.0: 1}) for values in (a, b)]
    ours, theirs = rings.welch(*sides).iloc[0], scipy_stats.ttest_ind(a, b, equal_var=False)
    interval = theirs.confidence_interval()
    assert ours["difference"] == pytest.approx(a.mean() - b.mean())
    assert (ours["p"], ours["low"], ours["high"]) == pytest.approx((theirs.pvalue, interval.low, interval.high))


def test_welch_says_nothing_of_one_institution_and_is_sure_where_nothing_varies():
    one = rings.weighted_mean(column([10.0, 20.0]), np.zeros(2), ["h", "h"], {0.0: 1})
    flat = rings.weighted_mean(column([10.0, 10.0]), np.zeros(2), ["p", "q"], {0.0: 1})
    assert np.isnan(rings.welch(one, flat)[["low", "high", "p"]].to_numpy(dtype=float)).all()
    assert rings.welch(flat, flat)["p"].tolist() == [1.0] and rings.welch(flat + [[5], [0], [0]], flat)["p"].tolist() == [0.0]


@pytest.mark.parametrize("spread", [0.0, 8.0])
def test_limits_between_patients_and_a_dozen_institutions_cover_what_they_promise(spread):
    """95 % limits of the change from 300 patients to 14 institutions of unequal size that differ by `spread` points: 2,000 simulated studies."""
    rng, n_studies, loss = np.random.default_rng(1), 2000, -6.0
    sizes = np.array([60, 45, 40, 30, 30, 25, 20, 20, 15, 12, 10, 10, 8, 5])
    patients = np.repeat(np.arange(300), rng.integers(1, 4, 300))
    places = np.repeat(np.arange(len(sizes)), sizes)
    inner = 60 + rng.normal(0, 15, (300, n_studies))[patients] + rng.normal(0, 30, (len(patients), n_studies))
    outer = 60 + loss + rng.normal(0, spread, (len(sizes), n_studies))[places] + rng.normal(0, 33, (len(places), n_studies))
    found = rings.welch(rings.weighted_mean(outer, np.zeros(len(places)), places, {0.0: 1}), rings.weighted_mean(inner, np.zeros(len(patients)), patients, {0.0: 1}))
    covered = ((found["low"] <= loss) & (loss <= found["high"])).mean()
    assert 0.935 <= covered <= 0.975, covered


@pytest.mark.parametrize(("k", "spread"), [(8, 10.0), (15, 4.0), (15, 0.0)])
def test_prediction_limits_hold_the_next_institution(k, spread):
    rng, n_studies = np.random.default_rng(2), 1500
    seen = 60 + rng.normal(0, spread, (n_studies, k + 1)) + rng.normal(0, 30 / np.sqrt(rng.integers(8, 60, (n_studies, k + 1))))
    found = [rings.next_institution(means[:k]) for means in seen]
    inside = np.mean([limits["low"] <= means[k] <= limits["high"] for limits, means in zip(found, seen)])
    assert 0.93 <= inside <= 0.97, inside


def test_next_institution_needs_four():
    assert np.isnan(rings.next_institution([50, 60, 70])["low"])
    found = rings.next_institution([40.0, 60.0, 50.0, 50.0])
    assert found["high"] - found["mean"] == pytest.approx(scipy_stats.t.ppf(0.975, 3) * np.sqrt(np.var([40, 60, 50, 50], ddof=1) * 1.25))


def mixed_run(folder):
    """A system that is right for X (80) and weak for Y (20) everywhere: the rings differ in their mix of cancers alone."""
    rows = []
    for split, x, y in (("test", 60, 20), ("external", 20, 60)):
        for number in range(x + y):
            cancer = "X" if number < x else "Y"
            points = (80 if cancer == "X" else 20) + 5 * (-1) ** number
            rows.append(("m", "sft", split, f"{split}{number}", f"h{number % 5}", cancer, points))
    return write(folder, rows)


def test_a_loss_that_is_the_mix_of_cancers_goes_away_at_an_equal_mix(tmp_path):
    run = mixed_run(tmp_path)
    found = rings.answers(run)
    table = rings.drops(run, found)
    row = table[(table["metric"] == "average") & (table["split"] == "external")].iloc[0]
    assert row["f1_reference"] == pytest.approx(65) and row["f1"] == pytest.approx(35)
    assert row["difference"] == pytest.approx(-30) and row["high"] < -20 and row["cluster"] == "institution" and row["clusters"] == 5
    assert row["adjusted"] == pytest.approx(0, abs=1e-9) and row["adjusted_low"] < 0 < row["adjusted_high"]
    assert row["shared"] == 1 and row["one_institution"] == 0
    assert list(pd.read_csv(run / "results" / "ring_drop.csv").columns) == rings.COLUMNS
    text = rings.drop_sentences(table, [("m", "sft")])[0]
    assert "from 65.0" in text and "to 35.0" in text and "A loss is shown" in text and "At the same mix of cancers (100 %" in text


def test_cancers_of_a_single_institution_and_of_one_ring_are_counted(tmp_path):
    rows = [("m", "sft", "test", f"t{i}", "h", "X" if i < 10 else "Y" if i < 20 else "Z", 50 + i % 3) for i in range(40)]
    rows += [("m", "sft", "external", f"e{i}", "a" if i < 10 else f"b{i % 3}", "X" if i < 10 else "Y", 50 + i % 3) for i in range(20)]
    run = write(tmp_path, rows)
    row = rings.drops(run, rings.answers(run)).iloc[0]
    assert row["shared"] == 0.5 and row["one_institution"] == 0.5


def test_a_run_without_outer_rings_says_so(tmp_path):
    run = write(tmp_path, [("m", "sft", "dev", f"p{i}", "h", "X", 50) for i in range(5)])
    found = rings.answers(run)
    table = rings.drops(run, found)
    assert table.empty and list(table.columns) == rings.COLUMNS and rings.drop_table(table).empty
    assert "not both scored" in rings.drop_sentences(table, [("m", "sft")])[0]
    assert rings.institutions(found).empty and "No unseen institution" in rings.spread_sentences(rings.spread(found), [("m", "sft")])[0]


def test_one_institution_has_a_change_and_no_interval(tmp_path):
    rows = [("m", "sft", split, f"{split}{i}", "h", "X", 40 + i) for split in ("test", "external") for i in range(30)]
    run = write(tmp_path, rows)
    table = rings.drops(run, rings.answers(run))
    assert table["low"].isna().all() and "One institution cannot show" in rings.drop_sentences(table, [("m", "sft")])[0]


def test_without_known_institutions_patients_are_the_clusters(tmp_path):
    rows = [("m", "sft", split, f"{split}{i}", "", "X", 40 + i) for split in ("test", "external") for i in range(30)]
    run = write(tmp_path, rows)
    assert set(rings.drops(run, rings.answers(run))["cluster"]) == {"patient"}


def test_institutions_are_shown_from_twenty_patients_on(tmp_path):
    rows = [("m", "sft", "external", f"{name}{i}", name, "X", 50 + i) for name, n in (("large", 20), ("small", 19)) for i in range(n)]
    table = rings.institutions(rings.answers(write(tmp_path, rows)))
    assert set(table["institution"]) == {"large"} and table["patients"].eq(20).all()
    assert table["f1"].iloc[0] == pytest.approx(59.5) and table["f1_low"].iloc[0] < 59.5 < table["f1_high"].iloc[0]


def test_a_run_that_was_not_scored(tmp_path):
    with pytest.raises(UserError, match="Run 06_evaluation first"):
        rings.answers(tmp_path)


def test_systems_that_are_spoken_of():
    scores = pd.DataFrame([{"model": m, "stage": s} for m, s in (("majority", "baseline"), ("tfidf", "baseline"), ("tiny_base", "sft"), ("tiny_base", "cpt-sft"))], columns=SCORE_COLUMNS)
    assert rings.chosen_systems(scores) == [("tfidf", "baseline"), ("tiny_base", "cpt-sft")]
