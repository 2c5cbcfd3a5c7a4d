"""The luck of training in a curve: how far a point, a change or a comparison would move if the same model were trained again.

Three trainings tell little of their spread: with 2 degrees of freedom an interval is three times as wide as with many. Where every rate of a curve was
trained by itself with the same seeds (altered labels), all its rates are used together, as in a randomised block design (rates x seeds, no replicates):
that needs the spread to be the same at every rate, and for single points the trainings at different rates to be independent. Where one training is read
at every rate (damaged text) there is nothing to pool.
"""

import numpy as np
from scipy import stats as scipy_stats

Curve = dict[float, dict[str, np.ndarray]]  # rate -> seed -> (examples, k) points, as robustness.curves makes them


def seed_means(by_rate: Curve, mask: np.ndarray) -> np.ndarray | None:
    """Mean of each rate and seed over the examples of `mask`, NaN left out: (rates, seeds, k); None unless every rate has the same seeds, and several."""
    names = [sorted(seeds) for _, seeds in sorted(by_rate.items())]
    if len(names[0]) < 2 or any(other != names[0] for other in names):
        return None
    values = np.stack([np.stack([by_rate[rate][name][mask] for name in names[0]]) for rate in sorted(by_rate)])  # rates, seeds, examples, k
    counts = (~np.isnan(values)).sum(axis=2)
    return np.divide(np.nansum(values, axis=2), counts, out=np.full(counts.shape, np.nan), where=counts > 0)


def of_points(by_rate: Curve, mask: np.ndarray) -> tuple[np.ndarray, int] | None:
    """Standard error by luck of any point of the curve, the mean over its seeds, (k,), and its degrees of freedom rates x (seeds - 1): the spread between
    seeds at one rate, the same at all. For curves whose rates were trained separately; None with one seed."""
    means = seed_means(by_rate, mask)
    if means is None:
        return None
    rates, seeds = means.shape[:2]
    freedom = rates * (seeds - 1)
    variance = ((means - means.mean(axis=1, keepdims=True)) ** 2).sum(axis=(0, 1)) / freedom
    return np.sqrt(variance / seeds), freedom


def of_contrast(by_rate: Curve, weights: dict[float, float], mask: np.ndarray, trained: bool) -> tuple[np.ndarray, int, int] | None:
    """Standard error by luck of one training's weighted sum of points, (k,), its degrees of freedom, and the number of seeds; None with one seed.

    weights: rate -> weight; they add up to 0, so that what a seed does at all rates alike drops out. trained: each rate was trained by itself; then what
    is left beside rates and seeds is pooled, (rates - 1) x (seeds - 1) degrees of freedom. Else the seeds' own sums, seeds - 1.
    """
    means = seed_means(by_rate, mask)
    if means is None:
        return None
    assert abs(sum(weights.values())) < 1e-9, "a contrast has weights that add up to 0"
    rates, seeds = means.shape[:2]
    factors = np.array([weights.get(rate, 0.0) for rate in sorted(by_rate)])
    if not trained:
        return np.tensordot(factors, means, axes=1).std(axis=0, ddof=1), seeds - 1, seeds
    rest = means - means.mean(axis=1, keepdims=True)
    rest = rest - rest.mean(axis=0, keepdims=True)
    freedom = (rates - 1) * (seeds - 1)
    return np.sqrt((rest**2).sum(axis=(0, 1)) / freedom * (factors**2).sum()), freedom, seeds


def of_difference(own: tuple | None, other: tuple | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Standard error by luck, (k,), and degrees of freedom of the mean contrast of one system minus that of another (of_contrast of both).

    A system that was trained once is taken to be as lucky as the other; None where both were. Degrees of freedom after Welch and Satterthwaite.
    """
    if own is None and other is None:
        return None
    parts = [luck for luck in (own, other) if luck]
    if len(parts) == 1:  # the same spread on both sides, estimated once
        error, freedom, seeds = parts[0]
        return error * np.sqrt(1 / seeds + 1), np.full(len(error), float(freedom))
    squares = [error**2 / seeds for error, _, seeds in parts]
    both = squares[0] + squares[1]
    below = squares[0] ** 2 / parts[0][1] + squares[1] ** 2 / parts[1][1]
    return np.sqrt(both), np.divide(both**2, below, out=np.full(len(both), float(parts[0][1] + parts[1][1])), where=below > 0)


def reach(luck: tuple) -> np.ndarray:
    """How far luck reaches to either side of a mean, 95 %, (k,); luck: standard errors and degrees of freedom."""
    return scipy_stats.t.ppf(0.975, luck[1]) * luck[0]


def p_value(value: float, patients: tuple[float, float], luck: tuple[float, float]) -> float:
    """Two-sided p of no difference where both the choice of patients and the luck of training moved the value; each a standard error and its degrees of
    freedom (t test, Welch and Satterthwaite)."""
    error = np.hypot(patients[0], luck[0])
    if not error > 0:
        return 1.0 if value == 0 else 0.0
    freedom = error**4 / (patients[0] ** 4 / patients[1] + luck[0] ** 4 / luck[1])
    return float(2 * scipy_stats.t.sf(abs(value) / error, freedom))
