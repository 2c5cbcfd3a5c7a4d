"""Intervals for scores of examples that belong to patients.

Examples of one patient are not independent, so patients are resampled, not examples (cluster bootstrap; Field and Welsh 2007,
doi 10.1111/j.1467-9868.2007.00593.x). All functions work on stored per-example scores: nothing is ever scored twice.
"""

from functools import lru_cache

import numpy as np
import pandas as pd

CHUNK_CELLS = 4_000_000  # resamples x patients held at once: 32 MB


@lru_cache(maxsize=8)
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
    if n_clusters * n_resamples <= CHUNK_CELLS:  # many small groups have the same number of patients
        return _cached_weights(n_clusters, n_resamples, seed) @ sums
    chunk = max(1, CHUNK_CELLS // n_clusters)
    return np.concatenate([weights @ sums for weights in _weights(n_clusters, n_resamples, seed, chunk)])


def _cluster_sums(columns: np.ndarray, clusters) -> np.ndarray:
    """Sum the rows of each cluster: (n, k) -> (clusters, k). Clusters are sorted, so that the order of the rows does not matter."""
    codes, names = pd.factorize(pd.Series(clusters), sort=True)
    assert (codes >= 0).all(), "an example without a cluster"
    return np.column_stack([np.bincount(codes, weights=column, minlength=len(names)) for column in columns.T])


def cluster_bootstrap(values, clusters, n_resamples: int = 1000, seed: int = 0):
    """95 % percentile interval of the mean of `values`, resampling clusters.

    values: (n,) scores, or (n, k) for k scores of the same examples; clusters: (n,) patient of each example.
    Returns (low, high) in the unit of the values, floats or arrays of length k; NaN without values, the mean itself with one cluster.
    """
    table = np.asarray(values, dtype=float)
    single = table.ndim == 1
    table = table[:, None] if single else table
    if len(table) == 0:
        low = high = np.full(table.shape[1], np.nan)
    else:
        sums = _resampled_sums(_cluster_sums(np.column_stack([table, np.ones(len(table))]), clusters), n_resamples, seed)
        low, high = np.percentile(sums[:, :-1] / sums[:, -1:], [2.5, 97.5], axis=0)
    return (float(low[0]), float(high[0])) if single else (low, high)


def paired_difference(values_a, values_b, clusters, n_resamples: int = 1000, seed: int = 0) -> dict:
    """Mean of a - b over the same examples with its 95 % interval, resampling patients: {difference, low, high, n}, unit of the values."""
    difference = np.asarray(values_a, dtype=float) - np.asarray(values_b, dtype=float)
    low, high = cluster_bootstrap(difference, clusters, n_resamples, seed)
    return {"difference": float(difference.mean()) if len(difference) else float("nan"), "low": low, "high": high, "n": len(difference)}


def macro_f1_interval(gold, predicted, clusters, n_resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of metrics.macro_f1 (in [0, 1]), resampling clusters.

    Macro F1 is no mean of examples, but it follows from counts per class, and counts add up over patients. A class that a resample
    does not hold is left out of that resample's mean.
    """
    classes = pd.Index(sorted(set(gold)))
    k = len(classes)
    gold_codes = classes.get_indexer(pd.Index(gold, dtype=object))
    predicted_codes = classes.get_indexer(pd.Index(predicted, dtype=object))  # -1: no class of the gold
    codes, names = pd.factorize(pd.Series(clusters), sort=True)

    def counts(rows, class_codes):
        return np.bincount(codes[rows] * k + class_codes[rows], minlength=len(names) * k).reshape(len(names), k)

    everything = np.ones(len(codes), dtype=bool)
    hits, support = counts(gold_codes == predicted_codes, gold_codes), counts(everything, gold_codes)
    claimed = counts(predicted_codes >= 0, predicted_codes)
    sums = _resampled_sums(np.hstack([hits, support, claimed]).astype(float), n_resamples, seed)
    hits, support, claimed = sums[:, :k], sums[:, k : 2 * k], sums[:, 2 * k :]
    f1 = np.divide(2 * hits, support + claimed, out=np.zeros_like(hits), where=support + claimed > 0)
    macro = (f1 * (support > 0)).sum(axis=1) / (support > 0).sum(axis=1)
    low, high = np.percentile(macro, [2.5, 97.5])
    return float(low), float(high)
