"""Intervals, paired tests and effect sizes for scores of examples that belong to patients, and of patients who belong to institutions.

Examples of one patient are not independent, so patients are resampled, not examples (cluster bootstrap; Field and Welsh 2007,
doi 10.1111/j.1467-9868.2007.00593.x). A ring of a few institutions is a sample of institutions: there the percentile and the BCa bootstrap
cover 80 to 92 % instead of 95 %, so the limits are those of the t distribution around a jackknife over institutions (`cluster_t`).
All functions work on stored per-example scores: nothing is ever scored twice. tests/evaluation/test_stats.py measures coverage and errors.
"""

from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

CHUNK_CELLS = 4_000_000  # resamples x patients held at once: 32 MB
CACHED_CELLS = 500_000  # kept for the next group with as many patients: 32 x 4 MB at most
FEW = 20  # with fewer institutions their range is printed beside every interval
GRID = 2**14  # steps in which the sums of a permutation test are counted


# ---- clusters ------------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _cached_weights(n_clusters: int, n_resamples: int, seed: int) -> np.ndarray:
    return next(_weights(n_clusters, n_resamples, seed, n_resamples))


def _weights(n_clusters: int, n_resamples: int, seed: int, chunk: int):
    """Yield blocks (resamples, clusters): how often each cluster was drawn when n_clusters are drawn with replacement."""
    rng = np.random.default_rng(seed)
    for start in range(0, n_resamples, chunk):
        rows = min(chunk, n_resamples - start)
        drawn = rng.integers(n_clusters, size=(rows, n_clusters)) + np.arange(rows)[:, None] * n_clusters
        yield np.bincount(drawn.ravel(), minlength=rows * n_clusters).reshape(rows, n_clusters).astype(float)


def _resampled_sums(sums: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Sums over resampled clusters: (clusters, columns) -> (resamples, columns). The same seed draws the same patients."""
    n_clusters = len(sums)
    if n_clusters * n_resamples <= CACHED_CELLS:  # many small groups have the same number of patients
        return _cached_weights(n_clusters, n_resamples, seed) @ sums
    chunk = max(1, CHUNK_CELLS // n_clusters)
    return np.concatenate([weights @ sums for weights in _weights(n_clusters, n_resamples, seed, chunk)])


def cluster_codes(clusters) -> tuple[np.ndarray, int]:
    """Number the clusters 0, 1, ... in sorted order, so that the order of the rows does not matter: (code of each row, how many)."""
    clusters = np.asarray(clusters) if np.asarray(clusters).dtype.kind == "i" else pd.Series(clusters, dtype=object)
    codes, names = pd.factorize(clusters, sort=True)
    assert (codes >= 0).all(), "an example without a cluster"
    return codes, len(names)


def _cluster_sums(columns: np.ndarray, clusters) -> np.ndarray:
    """Sum the rows of each cluster: (n, k) -> (clusters, k)."""
    codes, count = cluster_codes(clusters)
    return np.column_stack([np.bincount(codes, weights=column, minlength=count) for column in columns.T])


# ---- intervals -----------------------------------------------------------------------------------------------------------------


def limits_of_sums(sums: np.ndarray, sizes: np.ndarray, statistic, method: str, n_resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % limits of a statistic that follows from sums over clusters, such as a mean or an F1.

    sums: (clusters, columns); sizes: (clusters,) or (clusters, k), how many examples each cluster brings to each of the k numbers;
    statistic: (rows, columns) -> (rows, k). method "percentile": resampled clusters. "t": the variance of a jackknife over clusters, t
    quantiles whose degrees of freedom are the effective number of clusters 1 / sum(share^2) (Kish) less one, since one large cluster
    makes the others count less. Returns (low, high), each (k,); with "t" NaN for a single cluster, of which nothing can be told.
    """
    assert method in ("percentile", "t"), method
    if method == "percentile":
        values = statistic(_resampled_sums(sums, n_resamples, seed))
        low, high = np.full((2, values.shape[1]), np.nan)
        known = ~np.isnan(values).all(axis=0)
        if known.any():
            percentile = np.nanpercentile if np.isnan(values).any() else np.percentile  # the first is slow
            low[known], high[known] = percentile(values[:, known], [2.5, 97.5], axis=0)
        return low, high
    middle, error, freedom = jackknife(sums, sizes, statistic)
    reach = scipy_stats.t.ppf(0.975, freedom) * error
    return middle - reach, middle + reach


def jackknife(sums: np.ndarray, sizes: np.ndarray, statistic) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The statistic of all clusters together, its jackknife standard error and its degrees of freedom, each (k,); arguments as in limits_of_sums."""
    whole = sums.sum(axis=0, keepdims=True)
    middle = statistic(whole)[0]
    return middle, *_jackknife(statistic(whole - sums), middle, np.asarray(sizes, dtype=float).reshape(len(sums), -1))


def _jackknife(without: np.ndarray, middle: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard error and degrees of freedom of each column, from the estimates `without` each cluster; NaN where fewer than two clusters count."""
    sizes = np.broadcast_to(sizes, without.shape)
    counts = (sizes > 0).sum(axis=0)
    spread = np.where((sizes > 0) & ~np.isnan(without), without - middle, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.where(counts > 1, np.sqrt((counts - 1) / counts * (spread**2).sum(axis=0)), np.nan)
        effective = sizes.sum(axis=0) ** 2 / (sizes**2).sum(axis=0)
    return error, np.maximum(effective - 1, 1.0)


def _sums_and_means(values: np.ndarray, clusters) -> tuple[np.ndarray, np.ndarray, object]:
    """For scores (n, k), NaN where one does not apply: their sums over clusters, the examples behind them, and the means as a function of the sums."""
    k, counted = values.shape[1], ~np.isnan(values)
    counts = counted[:, :1] if counted.all() else counted  # one count serves all columns
    sums = _cluster_sums(np.column_stack([np.nan_to_num(values), counts]).astype(float), clusters)

    def means(sums):
        total, count = sums[:, :k], np.broadcast_to(sums[:, k:], (len(sums), k))
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0.5)

    return sums, sums[:, k:], means


def cluster_interval(values, clusters, method: str = "percentile", n_resamples: int = 1000, seed: int = 0):
    """95 % interval of the mean of `values` over clusters, method "percentile" (bootstrap) or "t" (few clusters); see limits_of_sums.

    values: (n,) scores, or (n, k) for k scores of the same examples, NaN where a score does not apply (left out of its mean);
    clusters: (n,) patient or institution of each example. Returns (low, high) in the unit of the values, floats or arrays of length k:
    NaN where no example counts.
    """
    table = np.asarray(values, dtype=float)
    single = table.ndim == 1
    table = table[:, None] if single else table
    if not len(table):
        low = high = np.full(table.shape[1], np.nan)
    else:
        low, high = limits_of_sums(*_sums_and_means(table, clusters), method, n_resamples, seed)
    return (float(low[0]), float(high[0])) if single else (low, high)


def cluster_bootstrap(values, clusters, n_resamples: int = 1000, seed: int = 0):
    """95 % percentile interval, resampling clusters (cluster_interval): for patients. One cluster gives the mean itself, twice."""
    return cluster_interval(values, clusters, "percentile", n_resamples, seed)


def cluster_t(values, clusters):
    """95 % t interval from a jackknife over clusters (cluster_interval): for institutions. One cluster gives NaN."""
    return cluster_interval(values, clusters, "t")


def standard_error(values, clusters) -> tuple[float, float]:
    """Jackknife standard error of the mean of `values` (n,) over clusters, in their unit, and its degrees of freedom."""
    _, error, freedom = jackknife(*_sums_and_means(np.asarray(values, dtype=float)[:, None], clusters))
    return float(error[0]), float(freedom[0])


def by_cluster(values, clusters) -> pd.DataFrame:
    """Mean and number of examples of each cluster, lowest mean first: columns cluster, mean, n. What is printed where there are fewer than FEW."""
    table = pd.DataFrame({"cluster": np.asarray(clusters, dtype=object), "value": np.asarray(values, dtype=float)}).dropna()
    table = table.groupby("cluster")["value"].agg(mean="mean", n="size").reset_index()
    return table.sort_values(["mean", "cluster"], ignore_index=True)


# ---- paired comparisons -----------------------------------------------------------------------------------------------------------


def paired_difference(values_a, values_b, clusters, n_resamples: int = 1000, seed: int = 0, method: str = "percentile") -> dict:
    """Mean of a - b over the same examples with its 95 % interval over clusters: {difference, low, high, n}, unit of the values."""
    difference = np.asarray(values_a, dtype=float) - np.asarray(values_b, dtype=float)
    low, high = cluster_interval(difference, clusters, method, n_resamples, seed)
    return {"difference": float(difference.mean()) if len(difference) else float("nan"), "low": low, "high": high, "n": len(difference)}


def permutation_test(values_a, values_b, clusters, alternative: str = "two-sided"):
    """p value of a mean difference a - b: under "no difference" each cluster's whole difference could as well have the other sign.

    values: (n,) or (n, k) scores of the same examples; clusters (n,). Exact: all sign flips are counted (`flips_as_extreme`), so that p has no floor but
    2^-clusters and needs no seed, and a correction for hundreds of tests cannot hide what is certain. alternative "greater": a is better. Returns a
    float, or (k,); 1.0 where nothing differs.
    """
    assert alternative in ("two-sided", "greater"), alternative
    difference = np.asarray(values_a, dtype=float) - np.asarray(values_b, dtype=float)
    assert not np.isnan(difference).any(), "a score is missing"
    single = difference.ndim == 1
    sums = _cluster_sums(difference[:, None] if single else difference, clusters)
    p = np.array([flips_as_extreme(column, alternative) for column in sums.T])
    return float(p[0]) if single else p


def flips_as_extreme(sums: np.ndarray, alternative: str = "two-sided") -> float:
    """Share of all 2^n sign flips of `sums` (n,) whose total is as large as the observed one ("greater"), or as far from 0.

    The distribution of the total is built up one cluster at a time (Pagano and Tritchler 1983, doi 10.1080/01621459.1983.10477990), which needs whole
    numbers: sums count in steps of at most 1 / GRID of their absolute total. The step depends on nothing that a flip changes, so the test of the rounded
    sums is exact too. It divides the smallest sum, by a multiple of 12 where the grid is fine enough, so that scores which are multiples of one number,
    or of its thirds or quarters, are not rounded at all and equal totals tie.
    """
    sums = sums[np.abs(sums) > 1e-9 * np.abs(sums).max(initial=0)]  # clusters that do not differ keep their sum whatever the sign
    if not len(sums):
        return 1.0
    total = np.abs(sums).sum()
    parts = np.ceil(GRID * np.abs(sums).min() / total)  # steps of the smallest sum
    parts = 12 * np.ceil(parts / 12) if parts > 12 else parts
    step = np.abs(sums).min() / parts if parts > 1 else total / GRID
    steps = np.rint(sums / step).astype(int)
    share, reach = np.zeros(np.abs(steps).sum() + 1), 1  # of the flips by the sum of the clusters with a plus: place i is a total of 2 i - sum(|steps|)
    share[0] = 1.0
    for size in np.sort(np.abs(steps)):
        share[size : reach + size] += share[:reach].copy()
        reach += size
        share[:reach] *= 0.5
    observed = steps.sum() if alternative == "greater" else abs(steps.sum())
    tail = float(share[(observed + len(share) - 1) // 2 :].sum())  # the distribution is symmetric
    return tail if alternative == "greater" else min(1.0, 2 * tail)


def cluster_means(values, clusters) -> np.ndarray:
    """Mean of each cluster, (clusters,): one independent number per patient. Rounded to 1e-9, so that equal scores tie."""
    sums, _, means = _sums_and_means(np.asarray(values, dtype=float)[:, None], clusters)
    return np.round(means(sums)[:, 0], 9)


def wilcoxon_test(values_a, values_b, clusters, alternative: str = "greater") -> dict:
    """Wilcoxon signed-rank test on each patient's mean difference a - b, one-sided "a is better" unless told otherwise.

    Ties share the mean of their ranks and the variance is corrected for them; patients without any difference are ranked, then left out
    (Pratt 1959, scipy's zero_method "pratt"). Exact below 50 patients without ties, else normal with continuity correction.
    Returns {p, n, zeros, rank_biserial}: rank_biserial in [-1, 1], the favourable minus the unfavourable share of the ranks of the patients
    who differ (Kerby 2014). p is 1.0 and rank_biserial 0.0 where nobody differs.
    """
    difference = cluster_means(np.asarray(values_a, dtype=float) - np.asarray(values_b, dtype=float), clusters)
    zeros = int((difference == 0).sum())
    result = {"p": 1.0, "n": len(difference), "zeros": zeros, "rank_biserial": 0.0}
    if zeros == len(difference):
        return result
    moved = difference[difference != 0]
    ranks = scipy_stats.rankdata(np.abs(moved))
    tied = zeros or len(np.unique(np.abs(moved))) < len(moved)
    method = "asymptotic" if tied or len(moved) > 50 else "exact"
    p = scipy_stats.wilcoxon(difference, zero_method="pratt", alternative=alternative, correction=method == "asymptotic", method=method).pvalue
    return result | {"p": float(p), "rank_biserial": float((ranks * np.sign(moved)).sum() / ranks.sum())}


def mcnemar_test(right_a, right_b, alternative: str = "two-sided") -> dict:
    """McNemar's test of two systems' right answers to the same questions, one question per patient (else use permutation_test).

    Returns {a_only, b_only, p_exact, p_mid, odds_ratio, or_low, or_high}: questions that only one got right, the exact binomial p, the less
    conservative mid-p (Fagerland, Lydersen and Laake 2013, doi 10.1186/1471-2288-13-91), a_only / b_only with exact 95 % limits.
    """
    assert alternative in ("two-sided", "greater"), alternative
    right_a, right_b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    a_only, b_only = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    counts = {"a_only": a_only, "b_only": b_only}
    if a_only + b_only == 0:
        return counts | {"p_exact": 1.0, "p_mid": 1.0, "odds_ratio": float("nan"), "or_low": 0.0, "or_high": float("inf")}
    n, fewer = a_only + b_only, min(a_only, b_only)
    # Of the observed table only half counts (mid-p): in the one tail, or in both, which are one table where the two counts are equal.
    exact = scipy_stats.binom.sf(a_only - 1, n, 0.5) if alternative == "greater" else min(1.0, 2 * scipy_stats.binom.cdf(fewer, n, 0.5))
    mid = exact - scipy_stats.binom.pmf(a_only, n, 0.5) * (0.5 if alternative == "greater" or a_only == b_only else 1.0)
    low = scipy_stats.beta.ppf(0.025, a_only, b_only + 1) if a_only else 0.0  # Clopper and Pearson's limits of the share a_only / n
    high = scipy_stats.beta.ppf(0.975, a_only + 1, b_only) if b_only else 1.0
    return counts | {
        "p_exact": float(exact), "p_mid": float(mid), "odds_ratio": a_only / b_only if b_only else float("inf"),
        "or_low": float(low / (1 - low)), "or_high": float(high / (1 - high)) if high < 1 else float("inf"),
    }  # fmt: skip


def cohens_dz(values_a, values_b, clusters) -> float:
    """Mean over patients of their mean difference a - b, in standard deviations of that difference (Cohen's dz); NaN where it does not vary."""
    difference = cluster_means(np.asarray(values_a, dtype=float) - np.asarray(values_b, dtype=float), clusters)
    spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
    return float(difference.mean() / spread) if spread > 0 else float("nan")


def holm(p_values) -> np.ndarray:
    """p values adjusted for their number (Holm 1979), in the order given; NaN stays NaN and does not count."""
    p = np.asarray(p_values, dtype=float)
    adjusted, known = np.full(len(p), np.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def smallest_detectable(spread: float, n: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The mean paired difference that n patients find with this power in a two-sided test at alpha, in the unit of `spread`.

    spread: standard deviation of a patient's difference, or standard_error * sqrt(n) where patients bring unequal numbers of examples.
    """
    if n < 2:
        return float("nan")
    return float((scipy_stats.t.ppf(1 - alpha / 2, n - 1) + scipy_stats.t.ppf(power, n - 1)) * spread / np.sqrt(n))


def seed_spread(values) -> dict:
    """One score per training seed: {n, mean, sd, low, high, lowest, highest}. low and high are 95 % t limits of the mean over seeds (NaN for one)."""
    values = np.asarray(values, dtype=float)
    n, mean = len(values), float(values.mean())
    sd = float(values.std(ddof=1)) if n > 1 else float("nan")
    reach = float(scipy_stats.t.ppf(0.975, n - 1)) * sd / np.sqrt(n) if n > 1 else float("nan")
    return {"n": n, "mean": mean, "sd": sd, "low": mean - reach, "high": mean + reach, "lowest": float(values.min()), "highest": float(values.max())}
