"""Scores of closed fields as a classification: accuracy, precision, recall and F1 per class, macro F1, quadratic kappa of ordered values.

None of them is a mean of examples, but all follow from counts, and counts add up over patients: intervals come from stats.limits_of_sums,
with patients (or institutions) as clusters.
"""

import numpy as np
import pandas as pd

from cancerllm_utils.evaluation import stats

CLASS_COLUMNS = ["class", "precision", "recall", "f1", "f1_low", "f1_high", "n", "predicted"]


def _class_counts(gold, predicted, clusters) -> tuple[np.ndarray, np.ndarray]:
    """Classes of gold (k,), and counts (clusters, 3k): right answers, gold items and claims of each class. Other predictions are claims of none."""
    gold, predicted = np.asarray(gold), np.asarray(predicted)
    classes, gold_class = np.unique(gold, return_inverse=True)
    k = len(classes)
    predicted_class = np.searchsorted(classes, predicted).clip(max=k - 1)
    claims = classes[predicted_class] == predicted
    codes, n_clusters = stats.cluster_codes(clusters)

    def counts(rows, of_class):
        return np.bincount(codes[rows] * k + of_class[rows], minlength=n_clusters * k).reshape(n_clusters, k)

    hits, support, claimed = counts(gold == predicted, gold_class), counts(np.arange(len(gold)), gold_class), counts(claims, predicted_class)
    return classes, np.hstack([hits, support, claimed]).astype(float)


def _class_f1(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F1 of each class (rows, k), 0 where nothing is right, and which classes the rows hold at all."""
    hits, support, claimed = np.hsplit(sums, 3)
    return np.divide(2 * hits, support + claimed, out=np.zeros_like(hits), where=support + claimed > 0.5), support > 0.5


def _macro(sums: np.ndarray) -> np.ndarray:
    f1, held = _class_f1(sums)
    number = held.sum(axis=1)
    return np.divide((f1 * held).sum(axis=1), number, out=np.full(len(sums), np.nan), where=number > 0)[:, None]


def macro_f1(gold, predicted, clusters, n_resamples: int = 1000, seed: int = 0, method: str = "percentile") -> tuple[float, float, float]:
    """Macro F1 in [0, 1] with its 95 % interval over clusters: (F1, low, high).

    The unweighted mean of the F1 of each class that occurs in gold (scikit-learn's f1_score with these labels; a prediction outside
    them is a lost hit). A class that a resample does not hold is left out of that resample's mean.
    """
    _, table = _class_counts(gold, predicted, clusters)
    size = np.hsplit(table, 3)[1].sum(axis=1)
    low, high = stats.limits_of_sums(table, size, _macro, method, n_resamples, seed)
    return float(_macro(table.sum(axis=0, keepdims=True))[0, 0]), float(low[0]), float(high[0])


def macro_f1_difference(gold, predicted_a, predicted_b, clusters, n_resamples: int = 1000, seed: int = 0, method: str = "percentile") -> tuple[float, float, float]:
    """Macro F1 of a minus that of b on the same examples, in [-1, 1], with its 95 % interval over clusters: (difference, low, high)."""
    gold = np.asarray(gold, dtype=str)
    tables = [_class_counts(gold, np.asarray(predicted, dtype=str), clusters)[1] for predicted in (predicted_a, predicted_b)]
    k = tables[0].shape[1]

    def difference(sums):
        return _macro(sums[:, :k]) - _macro(sums[:, k:])

    both = np.hstack(tables)
    low, high = stats.limits_of_sums(both, np.hsplit(tables[0], 3)[1].sum(axis=1), difference, method, n_resamples, seed)
    return float(difference(both.sum(axis=0, keepdims=True))[0, 0]), float(low[0]), float(high[0])


def class_table(gold, predicted, clusters, n_resamples: int = 1000, seed: int = 0, method: str = "percentile") -> pd.DataFrame:
    """Precision, recall and F1 of each class of gold, and as rows "accuracy", "macro", "weighted" over all; CLASS_COLUMNS, shares in [0, 1].

    n: gold items of the class; predicted: how often it was answered. f1 holds the accuracy in that row. A class never answered has precision 0.
    """
    classes, table = _class_counts(gold, predicted, clusters)
    k = len(classes)

    def numbers(sums):
        f1, held = _class_f1(sums)
        hits, support, _ = np.hsplit(sums, 3)
        total = np.maximum(support.sum(axis=1, keepdims=True), 1e-9)
        return np.hstack([np.where(held, f1, np.nan), hits.sum(axis=1, keepdims=True) / total, _macro(sums), (f1 * support).sum(axis=1, keepdims=True) / total])

    whole = table.sum(axis=0, keepdims=True)
    hits, support, claimed = np.hsplit(whole[0], 3)
    sizes = np.hsplit(table, 3)[1]
    low, high = stats.limits_of_sums(table, np.hstack([sizes, np.repeat(sizes.sum(axis=1, keepdims=True), 3, axis=1)]), numbers, method, n_resamples, seed)
    precision = np.divide(hits, claimed, out=np.zeros(k), where=claimed > 0)
    recall = hits / support
    share = support / support.sum()
    rows = pd.DataFrame({
        "class": [*classes.tolist(), "accuracy", "macro", "weighted"],
        "precision": [*precision, np.nan, precision.mean(), precision @ share],
        "recall": [*recall, np.nan, recall.mean(), recall @ share],
        "f1": numbers(whole)[0], "f1_low": low.clip(0, 1), "f1_high": high.clip(0, 1),
        "n": [*support, *[support.sum()] * 3], "predicted": [*claimed, *[claimed.sum()] * 3],
    })  # fmt: skip
    return rows.astype({"n": int, "predicted": int})[CLASS_COLUMNS]


def quadratic_kappa(gold, predicted, clusters, order: list, n_resamples: int = 1000, seed: int = 0, method: str = "percentile") -> dict:
    """Cohen's kappa with quadratic weights over the ordered values `order`, with its 95 % interval over clusters.

    An answer that is none of the values has no place on the scale: kappa is over the items that got one, and `answered` says their share, so
    that silence cannot pass for agreement. Returns {kappa, low, high, n, answered}; NaN where nothing was answered or only one value occurs.
    """
    gold, predicted, k = pd.Categorical(gold, order).codes, pd.Categorical(predicted, order).codes, len(order)
    asked = gold >= 0
    rows = asked & (predicted >= 0)
    result = {"n": int(rows.sum()), "answered": float(rows.sum() / max(asked.sum(), 1))}
    if not rows.any():
        return {"kappa": np.nan, "low": np.nan, "high": np.nan} | result
    codes, n_clusters = stats.cluster_codes(np.asarray(clusters, dtype=object)[rows])
    cells = codes * k * k + gold[rows].astype(int) * k + predicted[rows]
    table = np.bincount(cells, minlength=n_clusters * k * k).reshape(n_clusters, k * k).astype(float)
    weights = (np.arange(k)[:, None] - np.arange(k)) ** 2

    def kappa(sums):
        square = sums.reshape(-1, k, k)
        total = np.maximum(square.sum(axis=(1, 2)), 1e-9)
        seen = (square * weights).sum(axis=(1, 2))
        by_chance = np.einsum("ri,ij,rj->r", square.sum(axis=2), weights, square.sum(axis=1)) / total
        return np.where(by_chance > 1e-9, 1 - seen / np.maximum(by_chance, 1e-9), np.nan)[:, None]

    low, high = stats.limits_of_sums(table, table.sum(axis=1), kappa, method, n_resamples, seed)
    return {"kappa": float(kappa(table.sum(axis=0, keepdims=True))[0, 0]), "low": float(low[0]), "high": float(min(high[0], 1.0))} | result
