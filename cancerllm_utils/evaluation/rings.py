"""What is lost from known hospitals to unknown ones: ring against ring, at an equal mix of cancers, and institution by institution.

The rings hold different patients, so a difference between them is one of independent samples: each mean gets a jackknife standard error over
what is independent in its ring (score.ring_clusters: patients in `test`, institutions outside), the two errors add up as squares, and the
limits are those of the t distribution with Welch's degrees of freedom. Sites of `external_site` may belong to a hospital that `test` knows; that
makes the two alike and the limits a little too wide. tests/evaluation/test_rings.py measures the coverage.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from cancerllm_utils.evaluation import score, stats
from cancerllm_utils.results import METRIC_NAMES, MIN_PATIENTS, main_systems, model_name, ring_name, signed, system_order, task_name

REFERENCE, OUTER = "test", ["external_site", "external"]
METRICS = {"average": ("paper", "average_f1"), "value_accuracy": ("clinical", "value_correct")}  # metric -> its family, its column in examples.parquet
MIN_CELL = 5  # questions of a cancer type that both rings must have before its means are compared
MIN_FOR_SPREAD = 5  # patients of an institution whose mean counts for the spread between institutions
COLUMNS = [
    "model", "stage", "task", "split", "reference", "family", "metric", "f1_reference", "f1", "n_reference", "n", "patients_reference", "clusters", "cluster",
    "difference", "low", "high", "p", "p_holm", "adjusted", "adjusted_low", "adjusted_high", "adjusted_p", "shared", "one_institution",
]  # fmt: skip
INSTITUTION_COLUMNS = ["model", "stage", "task", "split", "family", "metric", "institution", "n", "patients", "f1", "f1_low", "f1_high"]


# ---- the answers of a run --------------------------------------------------------------------------------------------------------


def answers(run_dir: str | Path) -> dict[tuple[str, str], dict]:
    """(task, split) -> the questions that headlines rest on, and how every system answered them. UserError where the run was not scored.

    systems: list of (model, stage); example_id, patient_id, institution, cancer_type: arrays (n,); average, value_accuracy: points (n, systems),
    NaN where a system was not asked.
    """
    examples = score.read_examples(run_dir)
    # value_correct is the same in both families; strings become numbers once, as cutting up strings would take ten times longer
    examples = examples[(examples["family"] == "paper") & (examples["headline"].astype(bool) | (examples["task"] != "phenotype_extraction"))]
    texts = {name: examples[name].to_numpy(dtype=object) for name in ("example_id", "patient_id", "institution", "cancer_type")}
    points = {metric: 100 * examples[column].to_numpy(dtype=float) for metric, (_, column) in METRICS.items()}
    groups = pd.MultiIndex.from_arrays([examples["task"], examples["split"]])
    pairs = pd.MultiIndex.from_arrays([examples["model"], examples["stage"]])
    (group_of, names), (pair_of, all_pairs) = groups.factorize(), pairs.factorize()
    found = {}
    for place, key in enumerate(names):
        rows = np.flatnonzero(group_of == place)
        example, _ = pd.factorize(texts["example_id"][rows])
        system, numbers = pd.factorize(pair_of[rows])
        first = np.unique(example, return_index=True)[1]
        entry = {"systems": [tuple(all_pairs[number]) for number in numbers]} | {name: values[rows][first] for name, values in texts.items()}
        for metric, values in points.items():
            entry[metric] = np.full((len(first), len(numbers)), np.nan)
            entry[metric][example, system] = values[rows]
        found[key] = entry
    return found


# ---- two independent samples ---------------------------------------------------------------------------------------------------


def weighted_mean(values, strata, clusters, weights: dict) -> np.ndarray:
    """Means of stratum means, weighted by `weights` {stratum: weight}: array (3, k) of mean, jackknife standard error over clusters, degrees of freedom.

    values: (n, k) scores; NaN and strata without a weight are left out. A single stratum gives plain means. A stratum that only one cluster
    holds leaves the mean with that cluster in the jackknife.
    """
    values, names = np.asarray(values, dtype=float), list(weights)
    places = pd.Index(names, dtype=object).get_indexer(np.asarray(strata, dtype=object))
    values, clusters, places = values[places >= 0], np.asarray(clusters, dtype=object)[places >= 0], places[places >= 0]
    codes, count = stats.cluster_codes(clusters)
    k, w = values.shape[1], np.array([weights[name] for name in names], dtype=float)[:, None]
    cells = codes * len(names) + places
    counted = ~np.isnan(values)

    def sums_of(column):
        return np.bincount(cells, weights=column, minlength=count * len(names)).reshape(count, len(names))

    totals = np.stack([sums_of(column) for column in np.where(counted, values, 0.0).T], axis=2)  # (clusters, strata, k)
    counts = np.stack([sums_of(column) for column in counted.astype(float).T], axis=2)

    def means(sums):
        total, n = np.split(sums.reshape(len(sums), 2, len(names), k), 2, axis=1)
        total, n = total[:, 0], n[:, 0]
        held = (n > 0.5) * w
        each = np.divide(total, n, out=np.zeros_like(total), where=n > 0.5)
        weight = held.sum(axis=1)
        return np.divide((each * held).sum(axis=1), weight, out=np.full(weight.shape, np.nan), where=weight > 0)

    whole = np.maximum(counts.sum(axis=0), 1)
    return np.array(stats.jackknife(np.stack([totals, counts], axis=1).reshape(count, -1), (counts * (w / whole)).sum(axis=1), means))


def welch(a: np.ndarray, b: np.ndarray) -> pd.DataFrame:
    """Differences a - b of independent estimates, each (3, k) of mean, standard error, degrees of freedom: columns difference, low, high, p.

    Limits and p are NaN where an error is not known (one institution); where nothing varies p is 1 or 0.
    """
    difference, variance = a[0] - b[0], a[1] ** 2 + b[1] ** 2
    error = np.sqrt(variance)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = np.where(error > 1e-9, variance**2 / (a[1] ** 4 / a[2] + b[1] ** 4 / b[2]), 1.0)
        p = np.where(error > 1e-9, 2 * scipy_stats.t.sf(np.abs(difference) / error, freedom), np.abs(difference) < 1e-9)
        reach = scipy_stats.t.ppf(0.975, freedom) * error
    return pd.DataFrame({"difference": difference, "low": difference - reach, "high": difference + reach, "p": np.where(np.isnan(error), np.nan, p)})


def shared_mix(outer: np.ndarray, inner: np.ndarray) -> dict[str, int]:
    """{stratum: its questions in `inner`} of the strata that both hold MIN_CELL times: the mix to which both are standardised."""
    counts = [pd.Series(side, dtype=object).value_counts() for side in (outer, inner)]
    return {name: int(n) for name, n in counts[1].items() if name and n >= MIN_CELL and counts[0].get(name, 0) >= MIN_CELL}


# ---- ring against ring ----------------------------------------------------------------------------------------------------------


def _clusters(entry: dict, split: str) -> tuple[np.ndarray, str]:
    return score.ring_clusters(pd.DataFrame({name: entry[name] for name in ("patient_id", "institution")}, dtype=object), split)


def _drop(inner: dict, outer: dict, split: str, metric: str) -> pd.DataFrame:
    """The rows of COLUMNS of every system that both rings asked, for one task, outer ring and metric, without the names of those three."""
    systems = [pair for pair in inner["systems"] if pair in outer["systems"]]
    at, near = ([side["systems"].index(pair) for pair in systems] for side in (outer, inner))
    (places, method), (patients, _) = _clusters(outer, split), _clusters(inner, REFERENCE)
    values, reference = outer[metric][:, at], inner[metric][:, near]
    sides = [(values, outer["cancer_type"], places), (reference, inner["cancer_type"], patients)]
    plain = welch(*(weighted_mean(scores, np.zeros(len(scores)), clusters, {0.0: 1}) for scores, _, clusters in sides))
    mix = shared_mix(outer["cancer_type"], inner["cancer_type"])
    adjusted = welch(*(weighted_mean(*side, mix) for side in sides)) if mix else plain * np.nan
    hospitals = pd.Series(places, dtype=object).groupby(outer["cancer_type"]).nunique()
    single = sum(n for name, n in mix.items() if hospitals[name] == 1) if method == "t" else 0
    adjusted = adjusted.rename(columns={"difference": "adjusted", "low": "adjusted_low", "high": "adjusted_high", "p": "adjusted_p"})
    return pd.concat([pd.DataFrame(systems, columns=["model", "stage"]), plain, adjusted], axis=1).assign(
        f1_reference=np.nanmean(reference, axis=0), f1=np.nanmean(values, axis=0), n_reference=len(reference), n=len(values), patients_reference=len(set(patients)),
        clusters=len(set(places)), cluster="institution" if method == "t" else "patient", shared=sum(mix.values()) / len(reference), one_institution=single / max(sum(mix.values()), 1))


def drops(run_dir: str | Path, found: dict) -> pd.DataFrame:
    """The change from held-out patients to unseen departments and institutions, for every system, task and metric of METRICS; COLUMNS, in points.

    found: what `answers` returned. difference: outer ring minus `test`, so a loss is negative; low, high: 95 % limits; p_holm: adjusted over the
    systems and tasks of one ring and metric. adjusted: the same with both rings weighted to the cancer types of `test`, over the types that both
    hold; shared: share of the questions of `test` that these are (0-1); one_institution: share of their weight that a single outer institution
    answers for, whose own variation no error can show. Extraction counts its headline items. Writes results/ring_drop.csv; empty where a ring was
    not scored.
    """
    rows = []
    for task in dict.fromkeys(task for task, _ in found):
        for split in OUTER:
            if (task, REFERENCE) in found and (task, split) in found:
                rows += [_drop(found[task, REFERENCE], found[task, split], split, metric).assign(task=task, split=split, reference=REFERENCE, family=family, metric=metric)
                         for metric, (family, _) in METRICS.items()]
    table = (pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()).reindex(columns=COLUMNS)
    for _, places in table.groupby(["split", "metric"]).groups.items():
        table.loc[places, "p_holm"] = stats.holm(table.loc[places, "p"])
    score.write_whole(Path(run_dir) / "results" / "ring_drop.csv", lambda file: table.to_csv(file, index=False, float_format="%.6f"))
    return table


def drop_table(table: pd.DataFrame, metric: str = "average") -> pd.DataFrame:
    """`drops` for the eye, baselines first: task, system, test set, both means, the change with its interval, the change at an equal mix of cancers."""
    rows, order = table[table["metric"] == metric], system_order(table)
    shown = pd.DataFrame({
        "task": rows["task"].map(task_name), "system": [model_name(*pair) for pair in zip(rows["model"], rows["stage"])], "to": rows["split"].map(ring_name),
        f"on {ring_name(REFERENCE)}": [f"{row.f1_reference:.1f}, n = {row.n_reference:,}" for row in rows.itertuples()],
        "there": [f"{row.f1:.1f}, n = {row.n:,} of {row.clusters} {row.cluster}s" for row in rows.itertuples()],
        "change": [_change(row.difference, row.low, row.high) for row in rows.itertuples()], "p (Holm)": rows["p_holm"].round(3),
        "at an equal mix of cancers": [_change(row.adjusted, row.adjusted_low, row.adjusted_high) for row in rows.itertuples()],
        "shared": [f"{100 * row.shared:.0f} %" for row in rows.itertuples()],
    })  # fmt: skip
    position = [order.index(pair) for pair in zip(rows["model"], rows["stage"])]
    return shown.assign(position=position).sort_values(["task", "to", "position"], kind="stable").drop(columns="position").reset_index(drop=True)


def _change(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return "no cancer type in both"
    return f"{signed(value)} ({signed(low)} to {signed(high)})" if pd.notna(low) else f"{signed(value)} (no interval from one institution)"


# ---- institution by institution -----------------------------------------------------------------------------------------------


def by_institution(entry: dict, metric: str, least: int) -> list[tuple[str, int, int, np.ndarray]]:
    """(institution, questions, patients, weighted_mean of its answers over patients) of each institution of a ring with `least` patients or more."""
    names, out = np.asarray(entry["institution"], dtype=object), []
    for name in sorted(set(names) - {""}):
        rows = names == name
        patients = entry["patient_id"][rows]
        if len(set(patients)) >= least:
            values = entry[metric][rows]
            out.append((name, len(values), len(set(patients)), weighted_mean(values, np.zeros(len(values)), patients, {0.0: 1})))
    return out


def institutions(found: dict) -> pd.DataFrame:
    """Every institution of the outer rings with MIN_PATIENTS patients by itself, INSTITUTION_COLUMNS: means in points, 95 % t limits over its patients.

    found: what `answers` returned. Empty where no outer ring was scored, or the institutions are not known.
    """
    rows = []
    for (task, split), entry in found.items():
        for metric, (family, _) in METRICS.items() if split in OUTER else ():
            for name, n, patients, (mean, error, freedom) in by_institution(entry, metric, MIN_PATIENTS):
                reach = scipy_stats.t.ppf(0.975, freedom) * error
                rows += [[model, stage, task, split, family, metric, name, n, patients, mean[i], max(mean[i] - reach[i], 0), min(mean[i] + reach[i], 100)]
                         for i, (model, stage) in enumerate(entry["systems"])]
    return pd.DataFrame(rows, columns=INSTITUTION_COLUMNS)


def next_institution(means) -> dict:
    """What one more institution with about as many patients would be seen to score, from the means of k institutions, each counting once.

    Returns {k, mean, low, high}: 95 % prediction limits (t, k - 1) of its observed mean, chance among its patients included, as splitting that
    off leaves limits that are too narrow where institutions hardly differ; NaN below four institutions.
    """
    k = len(means)
    found = {"k": k, "mean": float(np.mean(means)) if k else np.nan, "low": np.nan, "high": np.nan}
    if k < 4:
        return found
    reach = scipy_stats.t.ppf(0.975, k - 1) * float(np.std(means, ddof=1)) * np.sqrt(1 + 1 / k)
    return found | {"low": found["mean"] - reach, "high": found["mean"] + reach}


def spread(found: dict, metric: str = "average") -> pd.DataFrame:
    """next_institution for every system and task, over the institutions of ring `external` with MIN_FOR_SPREAD patients.

    Columns model, stage, task, metric, institutions (all), shown (with MIN_PATIENTS patients), lowest, highest (of those shown), and those of
    next_institution with its limits clipped to 0-100. found: what `answers` returned.
    """
    rows = []
    for (task, split), entry in found.items():
        chosen = by_institution(entry, metric, MIN_FOR_SPREAD) if split == "external" else []
        for i, (model, stage) in enumerate(entry["systems"] if chosen else []):
            large = [mean[0][i] for _, _, patients, mean in chosen if patients >= MIN_PATIENTS]
            expected = next_institution([mean[0][i] for *_, mean in chosen])
            expected |= {side: float(np.clip(expected[side], 0, 100)) for side in ("low", "high")}
            rows.append({"model": model, "stage": stage, "task": task, "metric": metric, "institutions": len(set(entry["institution"])), "shown": len(large),
                         "lowest": min(large, default=np.nan), "highest": max(large, default=np.nan)} | expected)
    return pd.DataFrame(rows, columns=["model", "stage", "task", "metric", "institutions", "shown", "lowest", "highest", "k", "mean", "low", "high"])


# ---- in words -----------------------------------------------------------------------------------------------------------------


def chosen_systems(scores: pd.DataFrame) -> list[tuple[str, str]]:
    """The systems that sentences and figures speak of: TF-IDF, the trained simple method, and each model's most complete stage."""
    there = set(zip(scores["model"], scores["stage"]))
    return [pair for pair in [("tfidf", "baseline"), *main_systems(scores)] if pair in there]


def drop_sentences(table: pd.DataFrame, systems: list[tuple[str, str]], metric: str = "average", split: str = "external") -> list[str]:
    """What `drops` says of each system and task in one outer ring; a single sentence where it was not scored."""
    rows = table[(table["metric"] == metric) & (table["split"] == split)]
    if rows.empty:
        return [f"{ring_name(REFERENCE).capitalize()} and {ring_name(split)} were not both scored in this run (test_sets): nothing can be said of a loss between them."]
    out = []
    for task in dict.fromkeys(rows["task"]):
        for model, stage in systems:
            for row in rows[(rows["model"] == model) & (rows["stage"] == stage) & (rows["task"] == task)].to_dict("records"):
                text = (f"{task_name(task)}, {model_name(model, stage)}: from {row['f1_reference']:.1f} points of {METRIC_NAMES[metric]} on {ring_name(REFERENCE)} to {row['f1']:.1f} "
                        f"on {ring_name(split)} ({row['clusters']} {row['cluster']}s), a change of {_change(row['difference'], row['low'], row['high'])}. ")
                out.append(text + _verdict(row) + _at_equal_mix(row))
    return out


def _verdict(row: dict) -> str:
    if pd.isna(row["low"]):
        return "One institution cannot show whether that is more than chance."
    if row["low"] > 0 or row["high"] < 0:
        told = "shown" if row["p_holm"] <= 0.05 else "likely, but not shown"
        return f"A {'gain' if row['low'] > 0 else 'loss'} is {told} when all systems and tasks are counted (p after Holm {row['p_holm']:.3f})."
    return f"No change is shown; a loss of up to {max(-row['low'], 0):.1f} points is not ruled out."


def _at_equal_mix(row: dict) -> str:
    if pd.isna(row["adjusted"]):
        return f" No cancer type has {MIN_CELL} questions in both rings, so the mix of cancers cannot be made equal."
    text = f" At the same mix of cancers ({100 * row['shared']:.0f} % of the questions there are of a type that both have): {_change(row['adjusted'], row['adjusted_low'], row['adjusted_high'])}."
    return text + (f" For {100 * row['one_institution']:.0f} % of that weight a single institution answers." if row["one_institution"] > 0 else "")


def spread_sentences(table: pd.DataFrame, systems: list[tuple[str, str]]) -> list[str]:
    """How far institutions lie apart, and where the next one would be expected."""
    out = []
    for row in table.to_dict("records"):
        if (row["model"], row["stage"]) not in systems:
            continue
        text = f"{task_name(row['task'])}, {model_name(row['model'], row['stage'])}: "
        if row["shown"]:
            text += f"the {row['shown']} unseen institutions with {MIN_PATIENTS} patients or more run from {row['lowest']:.1f} to {row['highest']:.1f} points. "
        else:
            text += f"none of the {row['institutions']} unseen institutions brings {MIN_PATIENTS} patients. "
        if pd.isna(row["low"]):
            text += f"{row['k']} institutions with {MIN_FOR_SPREAD} patients are too few to say what the next one would see."
        else:
            text += f"Over the {row['k']} with {MIN_FOR_SPREAD} or more, the next one like them would be expected between {row['low']:.1f} and {row['high']:.1f}."
        out.append(text)
    return out or [f"No unseen institution with {MIN_FOR_SPREAD} patients or more was scored in this run."]
