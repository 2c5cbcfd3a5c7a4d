"""Intervals and tests: by hand, against libraries, and by simulation (what an interval covers, how often a test is wrong).

Monte-Carlo error: a coverage of 95 % from 5,000 simulated studies has a standard error of 0.31 points, an error rate of 5 % from 4,000
one of 0.34, from 2,000 one of 0.49; the bounds below leave two of them or more.
"""

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import cohen_kappa_score, f1_score, precision_recall_fscore_support

from cancerllm_utils.evaluation import stats
from cancerllm_utils.evaluation.classes import class_table, macro_f1, quadratic_kappa
from cancerllm_utils.evaluation.stats import CHUNK_CELLS, cluster_bootstrap, cluster_interval, cluster_t, paired_difference


def simulated(n_clusters, n_data_sets, seed):
    """Right/wrong answers (true mean 0.6) that patients share in part: (examples, data sets) and the patient of each example."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(n_clusters), rng.integers(1, 6, n_clusters))
    patient_rate = rng.beta(1.2, 0.8, (n_clusters, n_data_sets))
    return (rng.random((len(clusters), n_data_sets)) < patient_rate[clusters]).astype(float), clusters


def test_intervals_of_patients_cover_the_truth_in_94_to_96_percent_of_simulated_studies():
    for n_clusters, seed in [(200, 1), (400, 2)]:
        values, clusters = simulated(n_clusters, n_data_sets=5000, seed=seed)
        low, high = cluster_bootstrap(values, clusters, n_resamples=1000)
        assert 0.94 <= np.mean((low <= 0.6) & (high >= 0.6)) <= 0.96, n_clusters
    # resampling examples as if they were independent promises too much
    low, high = cluster_bootstrap(values[:, :500], np.arange(len(values)), n_resamples=400)
    assert np.mean((low <= 0.6) & (high >= 0.6)) < 0.92


def institutions(n_institutions, spread, n_data_sets, seed):
    """Mean scores of patients (true mean 2/3) in institutions of unequal size (log-normal) that differ in quality."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(n_institutions), np.maximum(1, rng.lognormal(2.5, spread, n_institutions)).astype(int))
    quality = rng.beta(6, 3, (n_institutions, n_data_sets))
    return (rng.random((len(clusters), n_data_sets)) < quality[clusters]).astype(float), clusters


@pytest.mark.parametrize("n_institutions, percentile_covers", [(6, 0.89), (12, 0.925), (20, 0.94)])
def test_t_limits_cover_where_institutions_are_few_and_percentile_limits_do_not(n_institutions, percentile_covers):
    covered = {"t": [], "percentile": []}
    for seed, spread in enumerate([0.0, 0.5, 0.5, 1.0, 1.0, 1.0]):
        values, clusters = institutions(n_institutions, spread, 800, seed)
        for method, found in covered.items():
            low, high = cluster_interval(values, clusters, method, n_resamples=500)
            found.append(np.mean((low <= 2 / 3) & (high >= 2 / 3)))
    assert 0.935 <= np.mean(covered["t"]) <= 0.965, covered
    assert np.mean(covered["percentile"]) < percentile_covers, covered


def test_matches_a_plain_loop():
    values, clusters = np.array([1.0, 0, 0, 1, 1, 0]), np.array(["b", "b", "a", "c", "c", "c"])
    rng, means = np.random.default_rng(7), []
    members = {c: values[clusters == c] for c in "abc"}
    for _ in range(400):
        means.append(np.mean(np.concatenate([members["abc"[i]] for i in rng.integers(3, size=3)])))
    assert cluster_bootstrap(values, clusters, 400, seed=7) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))


def test_row_order_and_chunking_do_not_matter():
    rng = np.random.default_rng(0)
    n = CHUNK_CELLS // 1000 + 500  # more patients than one block of 1,000 resamples holds
    values, clusters = rng.random(n), rng.permutation(n)
    order = rng.permutation(n)
    assert cluster_bootstrap(values, clusters) == pytest.approx(cluster_bootstrap(values[order], clusters[order]))
    low, high = cluster_bootstrap(values, clusters)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(n), rel=0.1)


def test_edges():
    assert cluster_bootstrap([0.25, 0.75], ["p", "p"]) == (0.5, 0.5)
    assert np.isnan(cluster_bootstrap([], [])).all()
    assert cluster_bootstrap([1, 1, 1], ["p", "q", "q"]) == (1, 1)
    assert cluster_bootstrap([0.0, 1.0], ["p", "q"], seed=3) == cluster_bootstrap([0.0, 1.0], ["p", "q"], seed=3)
    with pytest.raises(AssertionError):
        cluster_bootstrap([1.0, 0.0], ["p", None])


def test_pairing_narrows_the_interval():
    values, clusters = simulated(200, 2, seed=2)
    better = np.clip(values[:, 0] + (np.random.default_rng(0).random(len(values)) < 0.1), 0, 1)
    paired = paired_difference(better, values[:, 0], clusters)
    assert paired["difference"] == pytest.approx((better - values[:, 0]).mean()) and paired["n"] == len(values)
    low, high = cluster_bootstrap(values[:, 0], clusters)
    assert 0 < paired["low"] < paired["difference"] < paired["high"] and paired["high"] - paired["low"] < (high - low) / 2
    assert paired_difference(better, better, clusters)["high"] == 0


def test_scores_that_do_not_apply_are_left_out():
    values = np.array([[1, np.nan, np.nan], [0, 1, np.nan], [1, 0, np.nan], [1, np.nan, np.nan]])
    low, high = cluster_bootstrap(values, ["p", "q", "r", "s"])
    assert (low[0], high[0]) == cluster_bootstrap(values[:, 0], ["p", "q", "r", "s"])
    assert (low[1], high[1]) == (0, 1) and np.isnan(low[2]) and np.isnan(high[2])


def test_macro_f1_by_hand():
    # class a: 1 hit, 2 gold, 1 claimed: 2/3; class b: 1 hit, 1 gold, 1 claimed: 1; "unparsed" is no class, only a lost hit
    assert macro_f1(["a", "a", "b"], ["a", "unparsed", "b"], [1, 2, 3])[0] == pytest.approx((2 / 3 + 1) / 2)


def test_macro_f1_agrees_with_scikit_learn_on_each_resample():
    def by_sklearn(rows):
        return f1_score(gold[rows], predicted[rows], labels=["x", "y"], average="macro")

    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(30), 3)
    gold = rng.choice(["x", "y"], 90)
    predicted = np.where(rng.random(90) < 0.7, gold, "unparsed")
    draws = np.random.default_rng(0).integers(30, size=(200, 30))
    scores = [by_sklearn(np.concatenate([np.flatnonzero(clusters == c) for c in drawn])) for drawn in draws]
    expected = (by_sklearn(np.arange(90)), *np.percentile(scores, [2.5, 97.5]))
    assert macro_f1(gold, predicted, clusters, 200, 0) == pytest.approx(expected)


def test_t_limits_by_hand():
    # four institutions of one patient each: the classical interval, mean +- t(0.975, 3) * sd / 2
    values = np.array([0.2, 0.5, 0.6, 0.9])
    reach = scipy_stats.t.ppf(0.975, 3) * values.std(ddof=1) / 2
    assert cluster_t(values, list("abcd")) == pytest.approx((values.mean() - reach, values.mean() + reach))
    assert stats.standard_error(values, list("abcd")) == pytest.approx((values.std(ddof=1) / 2, 3))
    # sizes 1 and 3: leaving one out gives 1 and 0; error sqrt(1/2 (0.75^2 + 0.25^2)); 16/10 effective clusters, at least one degree of freedom
    error, freedom = stats.standard_error([0, 1, 1, 1], ["p", "q", "q", "q"])
    assert (error, freedom) == (pytest.approx(np.sqrt((0.25**2 + 0.75**2) / 2)), 1)


def test_t_limits_need_two_institutions_and_leave_out_what_does_not_apply():
    assert np.isnan(cluster_t([0.2, 0.4], ["p", "p"])).all() and np.isnan(cluster_t([], [])).all()
    low, high = cluster_t(np.array([[0.2, np.nan], [0.6, 0.5], [0.7, np.nan]]), ["p", "q", "r"])
    assert low[0] < 0.5 < high[0] and np.isnan([low[1], high[1]]).all()


def test_range_of_institutions():
    table = stats.by_cluster([1, 0, 0.5, np.nan], ["b", "b", "a", "c"])
    assert table.to_dict("records") == [{"cluster": "a", "mean": 0.5, "n": 1}, {"cluster": "b", "mean": 0.5, "n": 2}]


# ---- paired tests ----------------------------------------------------------------------------------------------------------------


def two_equal_systems(n_clusters, n_data_sets, seed, levels):
    """Scores 0 to 1 in steps of 1 / levels of two systems that are equally good, on examples that patients share: two (examples, data sets), patients."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(n_clusters), rng.integers(1, 5, n_clusters))
    shared = rng.random((n_clusters, n_data_sets))[clusters]
    quality = [(0.3 * shared + 0.7 * rng.random((n_clusters, n_data_sets))[clusters]) for _ in range(2)]
    return [np.round(levels * (0.8 * q + 0.2 * rng.random(q.shape))) / levels for q in quality] + [clusters]


@pytest.mark.parametrize("n_clusters", [12, 60])
def test_permutation_test_is_wrong_in_at_most_5_percent(n_clusters):
    a, b, clusters = two_equal_systems(n_clusters, 2000, seed=n_clusters, levels=50)
    for alternative in ("two-sided", "greater"):
        p = stats.permutation_test(a, b, clusters, alternative=alternative)
        assert 0.035 <= np.mean(p <= 0.05) <= 0.06, alternative
    # flipping examples instead of patients finds differences that are not there
    assert np.mean(stats.permutation_test(a[:, :1000], b[:, :1000], np.arange(len(clusters))) <= 0.05) > 0.08


def test_permutation_test_by_hand():
    # three patients with differences 3, 1, -1: sums of the 8 flips are +-5, +-3 (twice), +-1 (twice) and so on; |sum| >= 3 in 6 of 8
    assert stats.permutation_test([3, 1, 0], [0, 0, 1], [1, 2, 3]) == pytest.approx(sum(abs(s + t + u) >= 3 for s in (3, -3) for t in (1, -1) for u in (1, -1)) / 8)
    assert stats.permutation_test([1, 1, 1, 1], [0, 0, 0, 0], [1, 2, 3, 4], alternative="greater") == 1 / 16
    assert stats.permutation_test([1, 0], [1, 0], [1, 2]) == 1.0
    assert stats.permutation_test([1, 1], [0, 0], ["p", "p"]) == 1.0  # one patient proves nothing


@pytest.mark.parametrize("values", [[100, -50, 100 / 3, 0, 200, 50, -100 / 3, 100, 50], [0.3, -1.7, 2.2, 0.4, 0.1, -0.9, 1.3]])
def test_permutation_test_counts_every_flip(values):
    flips = np.array(list(itertools.product([-1, 1], repeat=len(values)))) @ np.array(values)
    zero, patients = np.zeros(len(values)), np.arange(len(values))
    assert stats.permutation_test(values, zero, patients) == np.mean(np.abs(flips) >= abs(sum(values)) - 1e-9)
    assert stats.permutation_test(values, zero, patients, "greater") == np.mean(flips >= sum(values) - 1e-9)


def test_permutation_test_has_no_floor_that_a_correction_lifts_above_5_percent():
    assert stats.permutation_test(np.ones(30), np.zeros(30), np.arange(30)) == 2.0**-29
    rng = np.random.default_rng(4)
    difference = rng.normal(0.45, 1, 150)
    p = stats.permutation_test(difference, np.zeros(150), np.arange(150))
    normal = 2 * scipy_stats.norm.sf(difference.sum() / np.sqrt((difference**2).sum()))  # what the distribution over flips tends to
    assert 1e-9 < p < 1e-5 and 0.1 < p / normal < 1.1  # the flips' tail is thinner
    assert stats.holm([p, *np.full(499, 0.5)])[0] < 0.05


def test_permutation_test_refuses_a_missing_score():
    with pytest.raises(AssertionError, match="missing"):
        stats.permutation_test([1, np.nan], [0, 0], [1, 2])


def test_permutation_test_agrees_with_scipy():
    rng = np.random.default_rng(3)
    a, b = rng.random(40), rng.random(40) - 0.1
    ours = stats.permutation_test(a, b, np.arange(40))
    theirs = scipy_stats.permutation_test((a, b), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", n_resamples=20000, vectorized=True, rng=1).pvalue
    assert ours == pytest.approx(theirs, abs=0.012)


def test_wilcoxon_is_wrong_in_at_most_5_percent_with_ties_and_zeros():
    a, b, clusters = two_equal_systems(60, 400, seed=5, levels=2)
    p = np.array([stats.wilcoxon_test(a[:, i], b[:, i], clusters)["p"] for i in range(400)])
    assert np.mean(p <= 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean(p <= 0.5) > 0.4  # and it is no test that never speaks


def test_wilcoxon_by_hand():
    # differences of four patients 4, 3, 2, -1, one without any: favourable ranks 2+3+4 of 10 without the zero
    result = stats.wilcoxon_test([4, 3, 2, 0, 5], [0, 0, 0, 1, 5], [1, 2, 3, 4, 5])
    assert (result["n"], result["zeros"], result["rank_biserial"]) == (5, 1, pytest.approx((9 - 1) / 10))
    # without ties and zeros exact: ranks below the observed sum of 9 or 10 of 16 sign patterns
    assert stats.wilcoxon_test([4, 3, 2, 0], [0, 0, 0, 1], [1, 2, 3, 4])["p"] == pytest.approx(2 / 16)
    assert stats.wilcoxon_test([1, 2], [1, 2], [1, 2]) == {"p": 1.0, "n": 2, "zeros": 2, "rank_biserial": 0.0}
    # several questions of a patient are one difference
    assert stats.wilcoxon_test([1, 0, 1, 1], [0, 0, 0, 0], ["p", "p", "q", "q"])["n"] == 2


def test_mcnemar_by_hand():
    right_a, right_b = [1] * 8 + [0] * 2 + [1] * 30, [0] * 8 + [1] * 2 + [1] * 30
    result = stats.mcnemar_test(right_a, right_b)
    tail = sum(scipy_stats.binom.pmf(k, 10, 0.5) for k in (0, 1, 2))
    assert (result["a_only"], result["b_only"], result["odds_ratio"]) == (8, 2, 4)
    assert result["p_exact"] == pytest.approx(2 * tail) and result["p_mid"] == pytest.approx(2 * tail - scipy_stats.binom.pmf(2, 10, 0.5))
    share = scipy_stats.binomtest(8, 10).proportion_ci(0.95, method="exact")
    assert (result["or_low"], result["or_high"]) == pytest.approx((share.low / (1 - share.low), share.high / (1 - share.high)))
    assert stats.mcnemar_test(right_a, right_b, "greater")["p_exact"] == pytest.approx(tail)
    assert stats.mcnemar_test([1, 0], [1, 0])["p_exact"] == 1 and stats.mcnemar_test([1], [0])["or_high"] == np.inf
    assert stats.mcnemar_test([1, 0], [0, 1])["p_mid"] == pytest.approx(1 - 0.5 * 0.5)


def test_mcnemar_is_wrong_in_at_most_5_percent():
    # no simulation: the chance of each table of n differing questions is known, and n itself is binomial among the questions asked
    exact, mid = np.zeros(51), np.zeros(51)
    for n in range(1, 51):
        tests = [stats.mcnemar_test([1] * k + [0] * (n - k), [0] * k + [1] * (n - k)) for k in range(n + 1)]
        chance = scipy_stats.binom.pmf(np.arange(n + 1), n, 0.5)
        exact[n], mid[n] = (sum(chance[[test[kind] <= 0.05 for test in tests]]) for kind in ("p_exact", "p_mid"))
    assert exact.max() <= 0.05 and (mid >= exact).all()
    for share in (0.05, 0.1, 0.2):  # of 120 questions, those that only one of the two gets right
        differing = scipy_stats.binom.pmf(np.arange(51), 120, share)
        assert differing @ exact <= 0.04 and differing @ exact < differing @ mid <= 0.052


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.9, 0.6]).tolist() == [1, 1] and stats.holm([]).tolist() == []
    assert stats.holm([0.02, np.nan, 0.01])[[0, 2]].tolist() == pytest.approx([0.02, 0.02])


def test_holm_keeps_the_chance_of_any_false_finding_at_5_percent():
    p = np.random.default_rng(0).random((4000, 8))
    assert np.mean([stats.holm(row).min() <= 0.05 for row in p]) <= 0.057


def test_cohens_dz_by_hand():
    assert stats.cohens_dz([2, 4, 6], [1, 1, 1], [1, 2, 3]) == pytest.approx(3 / 2)  # differences 1, 3, 5
    assert np.isnan(stats.cohens_dz([1, 1], [0, 0], [1, 2]))


def test_smallest_detectable_difference_is_found_with_the_promised_power():
    rng = np.random.default_rng(0)
    smallest = stats.smallest_detectable(spread=40, n=50)
    studies = rng.normal(smallest, 40, (6000, 50))
    assert 0.78 <= np.mean(scipy_stats.ttest_1samp(studies, 0, axis=1).pvalue <= 0.05) <= 0.82
    assert smallest == pytest.approx((2.0096 + 0.8487) * 40 / np.sqrt(50), rel=1e-3) and np.isnan(stats.smallest_detectable(40, 1))


def test_seed_spread_by_hand():
    spread = stats.seed_spread([60, 62, 64])
    reach = scipy_stats.t.ppf(0.975, 2) * 2 / np.sqrt(3)
    assert spread == pytest.approx({"n": 3, "mean": 62, "sd": 2, "low": 62 - reach, "high": 62 + reach, "lowest": 60, "highest": 64})
    assert stats.seed_spread([50])["mean"] == 50 and np.isnan(stats.seed_spread([50])["sd"])


# ---- classes ---------------------------------------------------------------------------------------------------------------------


def answers(n, seed):
    rng = np.random.default_rng(seed)
    gold = rng.choice(["T1", "T2", "T3", "T4"], n, p=[0.4, 0.3, 0.2, 0.1])
    return gold, np.where(rng.random(n) < 0.6, gold, rng.choice(["T1", "T2", "T3", "T4", "unparsed"], n)), np.arange(n) // 2


def test_class_table_agrees_with_scikit_learn():
    gold, predicted, patients = answers(300, 0)
    table = class_table(gold, predicted, patients, n_resamples=200).set_index("class")
    precision, recall, f1, support = precision_recall_fscore_support(gold, predicted, labels=["T1", "T2", "T3", "T4"], zero_division=0)
    for column, values in {"precision": precision, "recall": recall, "f1": f1, "n": support}.items():
        assert table[column].iloc[:4].tolist() == pytest.approx(values.tolist())
    assert table.f1["accuracy"] == pytest.approx((gold == predicted).mean()) and table.f1["macro"] == pytest.approx(f1.mean())
    assert table.f1["weighted"] == pytest.approx(f1 @ support / 300) and (table.f1_low <= table.f1).all() and (table.f1 <= table.f1_high).all()
    assert table.f1["macro"] == pytest.approx(macro_f1(gold, predicted, patients)[0])


def test_a_class_that_is_never_answered_counts_as_nothing_right():
    table = class_table(["a", "b"], ["a", "a"], [1, 2], n_resamples=20).set_index("class")
    assert table.loc["b", ["precision", "recall", "f1", "predicted"]].tolist() == [0, 0, 0, 0] and table.f1["macro"] == pytest.approx(1 / 3)


def test_quadratic_kappa_agrees_with_scikit_learn():
    gold, predicted, patients = answers(300, 1)
    order = ["T1", "T2", "T3", "T4"]
    known = predicted != "unparsed"
    result = quadratic_kappa(gold, predicted, patients, order, n_resamples=300)
    expected = cohen_kappa_score(gold[known], predicted[known], labels=order, weights="quadratic")
    assert result["kappa"] == pytest.approx(expected) and result["low"] < expected < result["high"]
    assert result["n"] == known.sum() and result["answered"] == pytest.approx(known.mean())
    near, far = (quadratic_kappa(["T1", "T4"] * 5, [wrong, "T4"] * 5, np.arange(10), order)["kappa"] for wrong in ("T2", "T4"))
    assert near > far
    assert np.isnan(quadratic_kappa(["T1"], ["unparsed"], [1], order)["kappa"])


def test_intervals_of_kappa_and_macro_f1_cover_the_truth():
    truth = cohen_kappa_score(*answers(400_000, 9)[:2], labels=["T1", "T2", "T3", "T4", "unparsed"][:4], weights="quadratic")
    gold, predicted, _ = answers(400_000, 9)
    macro = f1_score(gold, predicted, labels=["T1", "T2", "T3", "T4"], average="macro")
    covered = {"kappa": [], "macro": []}
    for study in range(200):
        gold, predicted, patients = answers(400, 100 + study)
        found = quadratic_kappa(gold, predicted, patients, ["T1", "T2", "T3", "T4"], n_resamples=300)
        covered["kappa"].append(found["low"] <= truth <= found["high"])
        _, low, high = macro_f1(gold, predicted, patients, n_resamples=300)
        covered["macro"].append(low <= macro <= high)
    assert all(0.91 <= np.mean(hits) <= 0.985 for hits in covered.values()), {name: np.mean(hits) for name, hits in covered.items()}
