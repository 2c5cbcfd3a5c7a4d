"""Intervals for scores of examples that belong to patients.

Examples of one patient are not independent, so patients are resampled, not examples (cluster bootstrap; Field and Welsh 2007,
doi 10.1111/j.1467-9868.2007.00593.x). All functions work on stored per-example scores: nothing is ever scored twice.
"""

from functools import lru_cache

import numpy as np
import pandas as pd

CHUNK_CELLS = 4_000_000  # resamples x patients held at once: 32 MB
CACHED_CELLS = 500_000  # kept for the next group with as many patients: 32 x 4 MB at most


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


def _codes(clusters) -> tuple[np.ndarray, int]:
    """Number the clusters 0, 1, ... in sorted order, so that the order of the rows does not matter: (code of each row, how many)."""
    clusters = np.asarray(clusters) if np.asarray(clusters).dtype.kind == "i" else pd.Series(clusters, dtype=object)
    codes, names = pd.factorize(clusters, sort=True)
    assert (codes >= 0).all(), "an example without a cluster"
    return codes, len(names)


def _cluster_sums(columns: np.ndarray, clusters) -> np.ndarray:
    """Sum the rows of each cluster: (n, k) -> (clusters, k)."""
    codes, count = _codes(clusters)
    return np.column_stack([np.bincount(codes, weights=column, minlength=count) for column in columns.T])


def cluster_bootstrap(values, clusters, n_resamples: int = 1000, seed: int = 0):
    """95 % percentile interval of the mean of `values`, resampling clusters.

    values: (n,) scores, or (n, k) for k scores of the same examples, NaN where a score does not apply (left out of its mean);
    clusters: (n,) patient of each example. Returns (low, high) in the unit of the values, floats or arrays of length k: NaN where no
    example counts, the mean itself with one cluster.
    """
    table = np.asarray(values, dtype=float)
    single = table.ndim == 1
    table = table[:, None] if single else table
    counted = ~np.isnan(table)
    if not len(table):
        low = high = np.full(table.shape[1], np.nan)
    elif counted.all():
        sums = _resampled_sums(_cluster_sums(np.column_stack([table, np.ones(len(table))]), clusters), n_resamples, seed)
        low, high = np.percentile(sums[:, :-1] / sums[:, -1:], [2.5, 97.5], axis=0)
    else:
        sums = _resampled_sums(_cluster_sums(np.column_stack([np.nan_to_num(table), counted]), clusters), n_resamples, seed)
        total, count = np.hsplit(sums, 2)
        means = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        means[:, ~counted.any(axis=0)] = 0  # spares nanpercentile its warning; NaN again below
        low, high = np.where(counted.any(axis=0), np.nanpercentile(means, [2.5, 97.5], axis=0), np.nan)
    return (float(low[0]), float(high[0])) if single else (low, high)


def paired_difference(values_a, values_b, clusters, n_resamples: int = 1000, seed: int = 0) -> dict:
    """Mean of a - b over the same examples with its 95 % interval, resampling patients: {difference, low, high, n}, unit of the values."""
    difference = np.asarray(values_a, dtype=float) - np.asarray(values_b, dtype=float)
    low, high = cluster_bootstrap(difference, clusters, n_resamples, seed)
    return {"difference": float(difference.mean()) if len(difference) else float("nan"), "low": low, "high": high, "n": len(difference)}


def macro_f1(gold, predicted, clusters, n_resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """Macro F1 in [0, 1] with its 95 % percentile interval, resampling clusters: (F1, low, high).

    The unweighted mean of the F1 of each class that occurs in gold (scikit-learn's f1_score with these labels; a prediction outside
    them is a lost hit). It is no mean of examples, but it follows from counts per class, and counts add up over patients. A class
    that a resample does not hold is left out of that resample's mean.
    """
    gold, predicted = np.asarray(gold), np.asarray(predicted)
    classes, gold_class = np.unique(gold, return_inverse=True)
    k = len(classes)
    predicted_class = np.searchsorted(classes, predicted).clip(max=k - 1)
    claims = classes[predicted_class] == predicted
    codes, n_clusters = _codes(clusters)

    def counts(rows, of_class):
        return np.bincount(codes[rows] * k + of_class[rows], minlength=n_clusters * k).reshape(n_clusters, k)

    hits, support, claimed = counts(gold == predicted, gold_class), counts(np.arange(len(gold)), gold_class), counts(claims, predicted_class)
    table = np.hstack([hits, support, claimed]).astype(float)

    def macro(sums):
        hits, support, claimed = np.hsplit(sums, 3)
        f1 = np.divide(2 * hits, support + claimed, out=np.zeros_like(hits), where=support + claimed > 0)
        return (f1 * (support > 0)).sum(axis=1) / (support > 0).sum(axis=1)

    low, high = np.percentile(macro(_resampled_sums(table, n_resamples, seed)), [2.5, 97.5])
    return float(macro(table.sum(axis=0, keepdims=True))[0]), float(low), float(high)
