"""How far do scores fall when the notes are damaged, or when the training labels were wrong? Curves over the damage, and what holds of them.

Reads prediction files, scores them with the scorer of notebook 06 and answers no question anew. Every point of a curve is the score of the same
questions: those that every system answered at every rate; the others are left out at all of them, and counted. Rate 0 is their clean score. Intervals
are 95 %, patients resampled (institutions outside, score.ring_clusters). Where a stage was trained with several seeds, the mean over them is scored, and
the luck of training (robustness_seeds.py) widens the interval: both half widths add as squares (Zou and Donner 2008, doi 10.1002/sim.3095), the seeds'
from the t distribution. One seed says nothing about that luck.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from cancerllm_utils.corpus import quality
from cancerllm_utils.evaluation import rings, robustness_seeds, score, stats
from cancerllm_utils.evaluation.robustness_files import files, points, words
from cancerllm_utils.results import RINGS, SCORE_COLUMNS, TASKS

METRICS = {"average": "paper", "value_accuracy": "clinical", "false_answer": "clinical", "miss": "clinical"}  # metric -> its family
TESTED = ["average", "value_accuracy"]  # changes of these are tested
NATURAL = "natural"
BLIND = ("majority", "majority_by_cancer")  # they read no text: damage to it cannot change them, and a test of that would only cost the others power
COLUMNS = [*SCORE_COLUMNS, "testbed", "rate", "remedy", "seeds", "seed_sd", "patients", "left_out"]
TEST_COLUMNS = ["kind", "model", "stage", "task", "split", "field", "family", "metric", "testbed", "rate", "remedy", "value", "low", "high", "p", "p_holm",
                "n", "patients", "seeds"]  # fmt: skip


# ---- scores --------------------------------------------------------------------------------------------------------------------


def answers(row: dict, run_dir: Path, known: dict) -> pd.DataFrame:
    """One row per scored answer of a prediction file, by example_id: patient_id, institution, field, METRICS in points, unparsed, parsed, gold.

    Extraction counts its headline items, as everywhere. known: what was read before, by path.
    """
    path = row["path"]
    if path not in known:
        task, split = path.name.removesuffix(".jsonl").split(".", 1)
        if (task, split) not in known:
            known[task, split] = score.read_dataset(run_dir, task, split)
        frame, arrays = score.scored_examples(path, known[task, split])
        table = frame[["example_id", "patient_id", "institution", "field"]].assign(
            average=arrays["numbers"][:, score.ALL_METRICS.index(("paper", "average")), 2],
            **{metric: arrays["values"][:, score.VALUE_METRICS.index(metric)] for metric in METRICS if metric != "average"},
            unparsed=arrays["unparsed"], parsed=arrays["parsed"], gold=arrays["answer"],
        )  # fmt: skip
        keep = frame["headline"].astype(bool) if task == "phenotype_extraction" else slice(None)
        known[path] = table[keep].set_index("example_id")
    return known[path]


def curves(run_dir: str | Path, known: dict | None = None) -> dict[tuple, dict]:
    """(task, split, testbed) -> what every system scored on the questions that all of them answered at every rate.

    items: frame (n) of example_id, patient_id, institution, field; left_out: questions that some file lacks; points: {(model, stage, remedy): {rate:
    {seed: (n, len(METRICS) + 1) points, unparsed last}}}, of the seeds that a curve has at every rate, where there are any. Sets in which no question is shared by all are not there. known: files that were read before.
    """
    run_dir, known, out = Path(run_dir), {} if known is None else known, {}
    for key, members in points(files(run_dir)).items():
        tables = [answers(row, run_dir, known) for row in members]
        shared = sorted(set.intersection(*(set(table.index) for table in tables)))
        if not shared:
            continue
        entry = {"items": tables[0].loc[shared, ["patient_id", "institution", "field"]].reset_index(), "left_out": len(set().union(*(table.index for table in tables))) - len(shared), "points": {}}
        for row, table in zip(members, tables):
            by_rate = entry["points"].setdefault((row["model"], row["stage"], row["remedy"]), {})
            by_rate.setdefault(row["rate"], {})[row["seed"]] = table.loc[shared, [*METRICS, "unparsed"]].to_numpy(dtype=float)
        for curve, by_rate in entry["points"].items():
            everywhere = set.intersection(*(set(seeds) for seeds in by_rate.values()))  # else a point would differ by its trainings too
            if everywhere:
                entry["points"][curve] = {rate: {seed: seeds[seed] for seed in seeds if seed in everywhere} for rate, seeds in by_rate.items()}
        out[key] = entry
    testbeds, tasks, rings_in_order = ([*known, *sorted({key[i] for key in out} - set(known))] for i, known in ((2, words()["testbeds"]), (0, TASKS), (1, RINGS)))
    return dict(sorted(out.items(), key=lambda pair: (rings_in_order.index(pair[0][1]), testbeds.index(pair[0][2]), tasks.index(pair[0][0]))))


def stacked(seeds: dict[str, np.ndarray]) -> np.ndarray:
    """{seed: (n, k)} as (n, seeds, k)."""
    return np.stack([seeds[name] for name in sorted(seeds)], axis=1)


def difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> np.ndarray:
    """a - b of two points, seed by seed where both were trained with the same ones, else of their means over seeds: (n, seeds, k)."""
    both = sorted(set(a) & set(b))
    if both:
        return np.stack([a[name] - b[name] for name in both], axis=1)
    return (stacked(a).mean(axis=1) - stacked(b).mean(axis=1))[:, None]


def estimate(values: np.ndarray, clusters: np.ndarray, method: str, n_resamples: int, seed: int, luck: tuple | None = None) -> list[dict]:
    """Means over examples and seeds with 95 % limits, one row per column of values (n, seeds, k): {value, low, high, n, seeds, seed_sd}, points.

    luck: standard errors (k,) and degrees of freedom of the luck of training (robustness_seeds.py); None takes the seeds' own spread, where there are several.
    """
    average, seeds = values.mean(axis=1), values.shape[1]
    low, high = stats.cluster_interval(average, clusters, method, n_resamples, seed)
    counted = ~np.isnan(average)
    reach = np.zeros(values.shape[2]) if luck is None else robustness_seeds.reach(luck)
    rows = []
    for column in range(values.shape[2]):
        asked = counted[:, column]
        row = {"value": np.nan, "low": np.nan, "high": np.nan, "n": int(asked.sum()), "seeds": seeds, "seed_sd": np.nan}
        if asked.any():
            spread = stats.seed_spread(values[asked, :, column].mean(axis=0))
            wide, mean = spread["high"] - spread["mean"] if luck is None and seeds > 1 else reach[column], spread["mean"]
            row |= {"value": mean, "low": mean - np.hypot(mean - low[column], wide), "high": mean + np.hypot(high[column] - mean, wide), "seed_sd": spread["sd"]}
        rows.append(row)
    return rows


def field_masks(items: pd.DataFrame) -> dict[str, np.ndarray]:
    """Field -> its questions; "all" first, and a single field only once."""
    fields = sorted(set(items["field"]))
    return {"all": np.ones(len(items), dtype=bool)} | ({field: (items["field"] == field).to_numpy() for field in fields} if len(fields) > 1 else {})


def scores(found: dict[tuple, dict], n_resamples: int = 1000, seed: int = 42) -> pd.DataFrame:
    """Every point of every curve, all fields and field by field: COLUMNS, points 0 to 100. found: what `curves` returned."""
    rows = []
    for (task, split, testbed), entry in found.items():
        clusters, method = score.ring_clusters(entry["items"], split)
        masks = field_masks(entry["items"])
        shared = {"task": task, "split": split, "testbed": testbed, "variant": "all", "subgroup": subgroup(task), "seed": seed, "left_out": entry["left_out"]}
        for (model, stage, remedy), by_rate in entry["points"].items():
            for rate, seeds in sorted(by_rate.items()):
                values = stacked(seeds)
                for field, mask in masks.items():
                    luck = robustness_seeds.of_points(by_rate, mask) if testbed in words()["training"] else None
                    part = estimate(values[mask][:, :, :-1], clusters[mask], method, n_resamples, seed, luck)
                    for metric, row in zip(METRICS, part):
                        if row["n"]:
                            rows.append(shared | {"model": model, "stage": stage, "remedy": remedy, "rate": rate, "field": field, "family": METRICS[metric], "metric": metric,
                                                  "f1": row["value"], "f1_low": max(row["low"], 0), "f1_high": min(row["high"], 100), "n": row["n"], "seeds": row["seeds"],
                                                  "seed_sd": row["seed_sd"], "unparsed": round(values[mask][:, :, -1].mean(axis=1).sum()),
                                                  "patients": entry["items"]["patient_id"][mask].nunique()})  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def subgroup(task: str) -> str:
    """The items that a task's headline rests on."""
    return "headline" if task == "phenotype_extraction" else "all"


# ---- damage that the notes came with ------------------------------------------------------------------------------------------------


def natural(run_dir: str | Path, split: str, n_resamples: int = 1000, seed: int = 42, known: dict | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores by the notes' own OCR noise (corpus/quality.py), and the change from clean to heavily damaged notes: rows of COLUMNS and of TEST_COLUMNS.

    Thirds are cut on the training patients' notes; subgroup is clean, some or heavy, rate the mean share of damaged words of its notes (%). Other
    notes are other patients and other cancers, so the change (kind natural, jackknife over patients, Welch's t) is no effect of the scanner alone. known: files that were read before.
    """
    run_dir, known = Path(run_dir), {} if known is None else known
    noise = pd.read_parquet(run_dir / "corpus" / "quality.parquet").set_index("note_id")["ocr_noise"]
    place = pd.read_parquet(run_dir / "corpus" / "notes.parquet", columns=["note_id", "patient_id"]).merge(pd.read_parquet(run_dir / "corpus" / "splits.parquet"), on="patient_id")
    train = noise[noise.index.isin(place.loc[place["split"] == "train", "note_id"])]
    _, cuts = quality.strata(train.to_frame())
    names, rows, changes = np.array(quality.STRATA, dtype=object), [], []
    for row in files(run_dir):
        if row["split"] != split or row["testbed"] or row["labels"] or row["remedy"] or row["seed"]:
            continue
        table = answers(row, run_dir, known)
        note = {line["example_id"]: line["note_id"] for _, line in score.read_rows(run_dir / "datasets" / row["task"] / f"{split}.jsonl")}
        damage = table.index.map(note).map(noise).to_numpy(dtype=float)
        stratum = names[np.searchsorted(cuts, damage, side="left")]
        values, clusters = table[list(METRICS)].to_numpy(dtype=float), table["patient_id"].to_numpy(dtype=object)
        shared = {name: row[name] for name in ("model", "stage", "task", "split")} | {"field": "all", "testbed": NATURAL, "remedy": "", "seeds": 1}
        for name in quality.STRATA:
            mask = stratum == name
            if not mask.any():
                continue
            of_name = shared | {"variant": "all", "subgroup": name, "rate": 100 * damage[mask].mean(), "seed": seed, "left_out": 0, "unparsed": int(table["unparsed"][mask].sum()),
                                "patients": len(set(clusters[mask]))}
            for metric, found in zip(METRICS, estimate(values[mask][:, None], clusters[mask], "percentile", n_resamples, seed)):
                if found["n"]:
                    rows.append(of_name | {"family": METRICS[metric], "metric": metric, "f1": found["value"], "f1_low": found["low"], "f1_high": found["high"], "n": found["n"]})
        worst = [name for name in quality.STRATA if (stratum == name).any()][-1]
        if worst != quality.STRATA[0] and (stratum == quality.STRATA[0]).any():
            sides = [rings.weighted_mean(values[mask], np.zeros(mask.sum()), clusters[mask], {0.0: 1}) for mask in (stratum == worst, stratum == quality.STRATA[0])]
            for metric, change in zip(METRICS, rings.welch(*sides).to_dict("records")):
                if metric in TESTED:
                    changes.append(shared | {"kind": NATURAL, "family": METRICS[metric], "metric": metric, "rate": 100 * damage[stratum == worst].mean(), "value": change["difference"],
                                             "low": change["low"], "high": change["high"], "p": change["p"], "n": int((stratum == worst).sum()),
                                             "patients": len(set(clusters[stratum == worst]))})  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame(changes, columns=TEST_COLUMNS)


# ---- what holds of the curves ------------------------------------------------------------------------------------------------------


def area_weights(rates: list[float]) -> np.ndarray:
    """Weights of the points of a curve whose sum is the area under it (trapezoids), divided by its width: they add up to 1."""
    steps = np.diff(np.asarray(rates, dtype=float))
    return (np.append(steps, 0) + np.append(0, steps)) / (2 * steps.sum())


def over_all_rates(by_rate: dict[float, dict]) -> dict[str, np.ndarray]:
    """The area under a system's curve as scores of its examples, by seed; of the seeds that every rate has, else of the means over seeds."""
    rates = sorted(by_rate)
    names = sorted(set.intersection(*(set(by_rate[rate]) for rate in rates)))
    sides = [{name: by_rate[rate][name] for name in names} if names else {"": stacked(by_rate[rate]).mean(axis=1)} for rate in rates]
    return {name: sum(weight * side[name] for weight, side in zip(area_weights(rates), sides)) for name in sides[0]}


def effects(found: dict[tuple, dict], n_resamples: int = 1000, seed: int = 42) -> pd.DataFrame:
    """What holds of the curves, TEST_COLUMNS, one number in `value` (points) with its limits. found: what `curves` returned. By kind:

    area: the area under a curve, divided by its width, so 0 to 100 (rate empty). change: score at this rate minus the same curve's rate 0, for all fields
    and each field; a loss is negative; without a rate: area minus rate 0, the mean change over the rates. cpt: the change of cpt-sft minus that of sft, so above 0 where
    continued pre-training keeps more; task "all" holds every question of all tasks. remedy: with the remedy minus without it at the same rate; rate 0 is its price on clean text.
    p: permutation of patients, of the mean over seeds, of changes and remedies at each rate, all fields, and of cpt over the rates; with several seeds the
    larger of that and of a t test which knows the luck of training too. p_holm within a kind, testbed, test set and metric. Everything else has limits
    alone, and so have methods that read no text where the text is damaged.
    """
    rows = []
    for (task, split, testbed), entry in found.items():
        clusters, method = score.ring_clusters(entry["items"], split)
        place, masks = {"task": task, "split": split, "testbed": testbed}, field_masks(entry["items"])
        for (model, stage, remedy), by_rate in entry["points"].items():
            of = place | {"model": model, "stage": stage, "remedy": remedy}
            plain = entry["points"].get((model, stage, ""), {})
            trained = testbed in words()["training"]
            reads = model not in BLIND or trained
            if remedy:
                for rate in sorted(set(by_rate) & set(plain)):
                    rows += tested(of | {"kind": "remedy", "rate": rate}, difference(by_rate[rate], plain[rate]), clusters, method, n_resamples, seed, test=reads)
            if 0.0 not in by_rate or len(by_rate) < 2:
                continue
            area = over_all_rates(by_rate)
            rows += tested(of | {"kind": "area"}, stacked(area), clusters, method, n_resamples, seed, test=False)
            for rate, weights in changes_of(by_rate).items():
                change = difference(area if np.isnan(rate) else by_rate[rate], by_rate[0.0])
                for field, mask in masks.items() if not np.isnan(rate) else [("all", masks["all"])]:
                    luck = mean_luck(robustness_seeds.of_contrast(by_rate, weights, mask, trained))
                    rows += tested(of | {"kind": "change", "rate": rate, "field": field}, change[mask], clusters[mask], method, n_resamples, seed, luck,
                                   test=reads and field == "all" and not np.isnan(rate))
    rows += pretraining(found, n_resamples, seed)
    table = pd.DataFrame(rows, columns=TEST_COLUMNS)
    for _, places in table.groupby(["kind", "testbed", "split", "metric"], sort=False).groups.items():
        table.loc[places, "p_holm"] = stats.holm(table.loc[places, "p"].to_numpy(dtype=float))
    return table


def changes_of(by_rate: dict[float, dict]) -> dict[float, dict[float, float]]:
    """The changes of a curve, by rate, as weights of its points: NaN is the area less rate 0, each other rate that rate less rate 0."""
    rates = sorted(by_rate)
    area = dict(zip(rates, area_weights(rates)))
    return {np.nan: area | {0.0: area[0.0] - 1}} | {rate: {rate: 1.0, 0.0: -1.0} for rate in rates[1:]}


def mean_luck(luck: tuple | None) -> tuple | None:
    """Luck of the mean over seeds, from that of one training (robustness_seeds.of_contrast)."""
    return (luck[0] / np.sqrt(luck[2]), luck[1]) if luck else None


def tested(of: dict, values: np.ndarray, clusters: np.ndarray, method: str, n_resamples: int, seed: int, luck: tuple | None = None, test: bool = True) -> list[dict]:
    """Rows of TEST_COLUMNS for TESTED: mean of values (n, seeds, len(METRICS) + 1) with limits, and where `test` the p value of no difference.

    luck: as in `estimate`, for all columns of values but the last, or for all.
    """
    at = [list(METRICS).index(metric) for metric in TESTED]
    values = values[:, :, at]
    if luck is None and values.shape[1] > 1:
        luck = values.mean(axis=0).std(axis=0, ddof=1) / np.sqrt(values.shape[1]), values.shape[1] - 1
    elif luck is not None:
        luck = luck[0][at], luck[1][at] if np.ndim(luck[1]) else luck[1]
    average = values.mean(axis=1)
    p = stats.permutation_test(average, np.zeros_like(average), clusters) if test else np.full(len(TESTED), np.nan)
    if test and luck is not None:
        freedom = np.broadcast_to(luck[1], len(at))
        p = [max(p[i], robustness_seeds.p_value(average[:, i].mean(), stats.standard_error(average[:, i], clusters), (luck[0][i], freedom[i]))) for i in range(len(at))]
    shared = {"field": "all", "rate": np.nan, "patients": len(set(clusters))}
    part = estimate(values, clusters, method, n_resamples, seed, luck)
    return [shared | {"metric": metric, "family": METRICS[metric], "p": p[i]} | part[i] | of for i, metric in enumerate(TESTED)]


def pretraining(found: dict[tuple, dict], n_resamples: int, seed: int) -> list[dict]:
    """Rows of kind cpt (see `effects`): every model and testbed whose sft and cpt-sft curves have the same rates, each task and all tasks together.

    seeds: those of cpt-sft. With other seeds on the two sides their means are compared, and a side that was trained once is taken to be as lucky as the other.
    """
    rows, together = [], {}
    for (task, split, testbed), entry in found.items():
        clusters, method = score.ring_clusters(entry["items"], split)
        for model in dict.fromkeys(model for model, stage, remedy in entry["points"] if (stage, remedy) == ("cpt-sft", "")):
            own, other = entry["points"][model, "cpt-sft", ""], entry["points"].get((model, "sft", ""), {})
            if sorted(other) == sorted(own) and 0.0 in own and len(own) > 1:
                of = {"kind": "cpt", "model": model, "stage": "cpt-sft", "remedy": "", "task": task, "split": split, "testbed": testbed}
                rows += spared(of, own, other, clusters, method, n_resamples, seed)
                together.setdefault((model, split, testbed), []).append((of | {"task": "all"}, own, other, clusters, method))
    for parts in together.values():
        same = all(shape(part[side]) == shape(parts[0][side]) for part in parts for side in (1, 2))
        if len(parts) > 1 and same:  # the same rates and seeds in all tasks
            own, other = ({rate: {name: np.concatenate([part[side][rate][name] for part in parts]) for name in seeds} for rate, seeds in parts[0][side].items()} for side in (1, 2))
            rows += [row for row in spared(parts[0][0], own, other, np.concatenate([part[3] for part in parts]), parts[0][4], n_resamples, seed) if np.isnan(row["rate"])]
    return rows


def shape(by_rate: dict[float, dict]) -> dict[float, list]:
    """The rates of a curve and the seeds of each."""
    return {rate: sorted(seeds) for rate, seeds in sorted(by_rate.items())}


def spared(of: dict, own: dict, other: dict, clusters: np.ndarray, method: str, n_resamples: int, seed: int) -> list[dict]:
    """Rows of one kind cpt: the change of one curve minus that of another, example by example, of means over seeds; over all rates, then at each."""
    rows, everywhere, trained = [], np.ones(len(clusters), dtype=bool), of["testbed"] in words()["training"]
    sides = [(curve, over_all_rates(curve)) for curve in (own, other)]
    for rate, weights in changes_of(own).items():
        changes = [difference(area if np.isnan(rate) else curve[rate], curve[0.0]).mean(axis=1) for curve, area in sides]
        luck = robustness_seeds.of_difference(*(robustness_seeds.of_contrast(curve, weights, everywhere, trained) for curve, _ in sides))
        seeds = min(len(seeds) for seeds in own.values())
        rows += tested(of | {"rate": rate, "seeds": seeds}, (changes[0] - changes[1])[:, None], clusters, method, n_resamples, seed, luck, test=np.isnan(rate))
    return rows


def run(run_dir: str | Path, split: str = "test", n_resamples: int = 1000, seed: int = 42, why: str = "") -> dict[str, pd.DataFrame]:
    """All of it for a run: {"scores": COLUMNS, "tests": TEST_COLUMNS}; writes results/robustness.csv and robustness_tests.csv, and one line of the ledger
    for each ring whose damaged questions were scored. split: the test set whose own OCR noise is looked at. Both are empty without such predictions."""
    known = {}
    found = curves(run_dir, known)
    own, change = natural(run_dir, split, n_resamples, seed, known)
    both = {"scores": joined(COLUMNS, scores(found, n_resamples, seed), own), "tests": joined(TEST_COLUMNS, effects(found, n_resamples, seed), change)}
    both["tests"] = holm_natural(both["tests"])
    results = Path(run_dir) / "results"
    results.mkdir(parents=True, exist_ok=True)
    for name, table in (("robustness", both["scores"]), ("robustness_tests", both["tests"])):
        score.write_whole(results / f"{name}.csv", lambda file, table=table: table.to_csv(file, index=False, float_format="%.6f"))
    for ring in dict.fromkeys(key[1] for key in found):
        score.append_ledger(run_dir, ring, why or "07_robustness")
    return both


def joined(columns: list[str], *tables: pd.DataFrame) -> pd.DataFrame:
    """The tables that hold something, one below the other, with these columns."""
    there = [table.dropna(axis=1, how="all") for table in tables if len(table)]
    return (pd.concat(there, ignore_index=True) if there else pd.DataFrame()).reindex(columns=columns)


def holm_natural(table: pd.DataFrame) -> pd.DataFrame:
    """The table with p_holm of the changes by the notes' own noise, over the systems and tasks of one metric."""
    for metric in TESTED:
        places = table.index[(table["kind"] == NATURAL) & (table["metric"] == metric)]
        table.loc[places, "p_holm"] = stats.holm(table.loc[places, "p"].to_numpy(dtype=float))
    return table
