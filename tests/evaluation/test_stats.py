import numpy as np
import pytest
from sklearn.metrics import f1_score

from cancerllm_utils.evaluation.stats import CHUNK_CELLS, cluster_bootstrap, macro_f1, paired_difference


def simulated(n_clusters, n_data_sets, seed):
    """Right/wrong answers (true mean 0.6) that patients share in part: (examples, data sets) and the patient of each example."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(n_clusters), rng.integers(1, 6, n_clusters))
    patient_rate = rng.beta(1.2, 0.8, (n_clusters, n_data_sets))
    return (rng.random((len(clusters), n_data_sets)) < patient_rate[clusters]).astype(float), clusters


def test_interval_covers_the_truth_in_95_percent_of_simulated_studies():
    values, clusters = simulated(n_clusters=200, n_data_sets=2000, seed=1)
    low, high = cluster_bootstrap(values, clusters)
    assert 0.93 <= np.mean((low <= 0.6) & (high >= 0.6)) <= 0.97
    # resampling examples as if they were independent promises too much
    low, high = cluster_bootstrap(values[:, :500], np.arange(len(values)))
    assert np.mean((low <= 0.6) & (high >= 0.6)) < 0.92


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
