"""The score rows of one group of examples: every metric with its interval, the single values, and what abstention is worth.

Abstention. A system that always answers never misses, and one that never answers is never wrong, so neither rate is worth anything alone. Three numbers
are: `right_stated`, right values among the questions whose text states one (SQuAD 2.0's HasAns accuracy, Rajpurkar et al. 2018, doi
10.18653/v1/P18-2124); `value_f1`, precision and recall of the values given, as in slot filling (a refusal is no claim); and `value_minus_false` =
right_stated - false_answer, which is Youden's J (1950) of answering: 0 for whoever never answers, at most 0 for whoever always answers, 100 for
whoever answers rightly where there is a value and only there.
"""

import numpy as np
import pandas as pd

from cancerllm_utils.evaluation import classes, stats
from cancerllm_utils.evaluation.metrics import METRICS, ORDERED_FIELDS

ALL_METRICS = tuple((family, metric) for family in METRICS for metric in (*METRICS[family], "average"))
VALUE_METRICS = ["value_accuracy", "false_answer", "miss", "eos_share"]
ABSTENTION_METRICS = ["right_stated", "value_f1", "value_minus_false"]
MAX_CLASSES = 12  # a closed field has fewer values; an open one is no classification


def _points_interval(values: np.ndarray, clusters: np.ndarray, method: str, n_resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    low, high = stats.cluster_interval(values, clusters, method, n_resamples, seed)
    return np.clip(low, 0, 100), np.clip(high, 0, 100)


def group_rows(group: dict, field: str, method: str, n_resamples: int, seed: int) -> list[dict]:
    """All score rows of one group of examples (arrays of score.scored_examples), without the columns that name the group."""
    clusters, shared = group["cluster"], {"n": len(group["cluster"]), "unparsed": int(group["unparsed"].sum())}
    means = group["numbers"].mean(axis=0)
    low, high = _points_interval(group["numbers"][:, :, 2], clusters, method, n_resamples, seed)
    rows = [
        {"family": f, "metric": m, "precision": p, "recall": r, "f1": f1, "f1_low": low[i], "f1_high": high[i], **shared}
        for i, ((f, m), (p, r, f1)) in enumerate(zip(ALL_METRICS, means))
    ]
    low, high = _points_interval(group["values"], clusters, method, n_resamples, seed)
    for i, metric in enumerate(VALUE_METRICS):
        asked = group["values"][~np.isnan(group["values"][:, i]), i]  # false_answer: gold "not stated" only; miss: gold values only
        if len(asked):
            row = {"family": "clinical", "metric": metric, "f1": asked.mean(), "f1_low": low[i], "f1_high": high[i]}
            rows.append(row | shared | {"n": len(asked)})
    rows += abstention_rows(group, method, n_resamples, seed)
    f1, low, high = (100 * x for x in classes.macro_f1(group["gold"], group["predicted"], clusters, n_resamples, seed, method))
    rows.append({"family": "clinical", "metric": "macro_f1", "f1": f1, "f1_low": max(low, 0), "f1_high": min(high, 100), **shared})
    if field in ORDERED_FIELDS:
        found = classes.quadratic_kappa(group["answer"], group["parsed"], clusters, ORDERED_FIELDS[field], n_resamples, seed, method)
        if not np.isnan(found["kappa"]):  # times 100, as every number of the table; n: the items that got a value of the scale
            row = {"f1": 100 * found["kappa"], "f1_low": 100 * found["low"], "f1_high": 100 * found["high"], "n": found["n"]}
            rows.append({"family": "clinical", "metric": "kappa_quadratic", **shared} | row)
    return rows


def abstention_rows(group: dict, method: str, n_resamples: int, seed: int) -> list[dict]:
    """Rows of ABSTENTION_METRICS in points; none where the group has not both questions with a value and questions without (see the module's text)."""
    accuracy, false, miss = (group["values"][:, VALUE_METRICS.index(name)] / 100 for name in ("value_accuracy", "false_answer", "miss"))
    stated = ~np.isnan(miss)
    if stated.all() or not stated.any():
        return []
    columns = [accuracy * stated, stated, np.nan_to_num(false), ~stated, np.where(stated, 1 - np.nan_to_num(miss), np.nan_to_num(false))]
    codes, count = stats.cluster_codes(group["cluster"])
    sums = np.column_stack([np.bincount(codes, weights=column, minlength=count) for column in columns])

    def numbers(sums):
        right, n_stated, wrongly, n_absent, given = sums.T
        share = [np.divide(a, b, out=np.full(len(sums), np.nan), where=b > 0.5) for a, b in ((right, n_stated), (2 * right, n_stated + given), (wrongly, n_absent))]
        return 100 * np.column_stack([share[0], share[1], share[0] - share[2]])

    low, high = stats.limits_of_sums(sums, np.column_stack([sums[:, 1], sums[:, 1], sums[:, 1] + sums[:, 3]]), numbers, method, n_resamples, seed)
    whole, values = sums.sum(axis=0), numbers(sums.sum(axis=0, keepdims=True))[0]
    rows = [{"family": "clinical", "metric": metric, "f1": value, "f1_low": max(a, -100 if metric == "value_minus_false" else 0), "f1_high": min(b, 100),
             "n": int(whole[1]) if metric == "right_stated" else len(stated), "unparsed": int(group["unparsed"].sum())}
            for metric, value, a, b in zip(ABSTENTION_METRICS, values, low, high)]  # fmt: skip
    rows[1] |= {"precision": 100 * whole[0] / whole[4] if whole[4] else np.nan, "recall": 100 * whole[0] / whole[1]}
    return rows


def class_rows(group: dict, method: str, n_resamples: int, seed: int) -> pd.DataFrame:
    """classes.class_table of one field in points, for a field with 2 to MAX_CLASSES answers, else empty (a size or a diagnosis is no class)."""
    if not 2 <= len(set(group["answer"])) <= MAX_CLASSES:
        return pd.DataFrame()
    table = classes.class_table(group["answer"].astype(str), group["parsed"].astype(str), group["cluster"], n_resamples, seed, method)
    return table.assign(**{column: 100 * table[column] for column in ("precision", "recall", "f1", "f1_low", "f1_high")})


def groups(frame: pd.DataFrame):
    """Yield (variant, field, subgroup, mask) for everything, then each variant, field and the headline items of each."""
    headline = frame.headline.to_numpy(dtype=bool)
    for variant in ["all", *sorted(v for v in frame.variant.unique() if v)]:
        of_variant = np.ones(len(frame), dtype=bool) if variant == "all" else (frame.variant == variant).to_numpy()
        for field in ["all", *sorted(frame.field[of_variant].unique())]:
            mask = of_variant if field == "all" else of_variant & (frame.field == field).to_numpy()
            yield variant, field, "all", mask
            if (mask & headline).any():
                yield variant, field, "headline", mask & headline
