"""How far do scores fall when the notes are damaged, or when the training labels were wrong? Curves over the damage, and what holds of them.

Reads prediction files, scores them with the scorer of notebook 06 and answers no question anew. Every point of a curve is the score of the same
questions: those that every system answered at every rate; the others are left out at all of them, and counted. Rate 0 is their clean score. Intervals
are 95 %, patients resampled (institutions outside, score.ring_clusters). Where a stage was trained with several seeds, the mean over them is scored, and
the luck of training widens the interval: both half widths add as squares (Zou and Donner 2008, doi 10.1002/sim.3095), the seeds' from the t
distribution. One seed says nothing about that luck.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from cancerllm_utils.corpus import quality
from cancerllm_utils.evaluation import rings, score, stats
from cancerllm_utils.results import RINGS, SCORE_COLUMNS, STAGES, TASKS, altered_labels

METRICS = {"average": "paper", "value_accuracy": "clinical", "false_answer": "clinical", "miss": "clinical"}  # metric -> its family
TESTED = ["average", "value_accuracy"]  # changes of these are tested
NATURAL, BASELINE = "natural", "baseline"
BLIND = ("majority", "majority_by_cancer")  # they read no text: damage to it cannot change them, and a test of that would only cost the others power
COLUMNS = [*SCORE_COLUMNS, "testbed", "rate", "remedy", "seeds", "seed_sd", "patients", "left_out"]
TEST_COLUMNS = ["kind", "model", "stage", "task", "split", "field", "family", "metric", "testbed", "rate", "remedy", "value", "low", "high", "p", "p_holm",
                "n", "patients", "seeds"]  # fmt: skip


@cache
def words() -> dict:
    """robustness.yaml: testbeds, training, meaning_kept, any, remedies, paper, source. It is kept: do not change it."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


# ---- which file is which point ---------------------------------------------------------------------------------------------------


def parse_split(split: str) -> dict:
    """`test+misspell20+respelled` as {split: test, testbed: misspell, rate: 20.0, remedy: respelled}; testbed "" for a clean set, rate NaN without one."""
    ring, *parts = split.split("+")
    found = {"split": ring, "testbed": "", "rate": 0.0, "remedy": ""}
    for part in parts:
        name, rate = re.fullmatch(r"(.*?)(\d*)", part).groups()
        found |= {"remedy": part} if part in words()["remedies"] else {"testbed": name, "rate": float(rate) if rate else float("nan")}
    return found


def parse_stage(stage: str) -> dict:
    """`cpt-sft-cf40-filtered-s7` as {stage: cpt-sft, labels: labels, label_rate: 40.0, remedy: filtered, seed: s7}; other endings stay with the stage."""
    root = max((name for name in (*STAGES, BASELINE) if stage == name or stage.startswith(name + "-")), key=len, default=stage)
    found, kept = {"labels": "", "label_rate": 0.0, "remedy": "", "seed": ""}, [root]
    for part in stage[len(root) :].split("-")[1:]:
        altered = altered_labels(f"-{part}")
        if altered:
            found |= {"labels": "labels_near" if altered[0] else "labels", "label_rate": altered[1]}
        elif re.fullmatch(r"s\d+", part):
            found["seed"] = part
        elif part in words()["remedies"]:
            found["remedy"] = part
        else:
            kept.append(part)
    return {"stage": "-".join(kept)} | found


def files(run_dir: str | Path) -> list[dict]:
    """Every prediction file as a point of a curve: model, stage, labels, label_rate, seed, task, split, testbed, rate, remedy, path; those of training items are none."""
    found = []
    for path in sorted(Path(run_dir).glob("predictions/*/*/*.jsonl")):
        task, split = path.name.removesuffix(".jsonl").split(".", 1)
        of_split, of_stage = parse_split(split), parse_stage(path.parent.name)
        remedy = "+".join(filter(None, (of_stage["remedy"], of_split["remedy"])))
        if of_split["split"] != "train" and path.stat().st_size:
            found.append(of_stage | of_split | {"model": path.parent.parent.name, "task": task, "remedy": remedy, "path": path})
    return found


def points(found: list[dict]) -> dict[tuple, list[dict]]:
    """(task, split, testbed) -> its points with `rate`, the clean ones (rate 0) of the same systems among them. Variants without a rate belong to consistency.py.

    A damaged test set: a stage that learned altered labels is a system of its own there (stage sft-cf40). Altered labels: clean questions, and the
    stage without them is rate 0; how the text was damaged or mended has no part in it.
    """
    out = {}
    for row in found:
        if row["testbed"] and not np.isnan(row["rate"]):
            out.setdefault((row["task"], row["split"], row["testbed"]), []).append(whole_stage(row))
        elif row["labels"] and not row["testbed"] and "respelled" not in row["remedy"]:
            out.setdefault((row["task"], row["split"], row["labels"]), []).append(row | {"rate": row["label_rate"]})
    for (task, split, testbed), members in out.items():
        trained = testbed in words()["training"]
        curves = {(row["model"], row["stage"], row["remedy"]) for row in members}
        systems = {(model, stage) for model, stage, _ in curves}
        clean = [row if trained else whole_stage(row) for row in found if (row["task"], row["split"], row["testbed"]) == (task, split, "") and not (trained and row["labels"])]
        members += [row for row in clean if (row["model"], row["stage"], row["remedy"]) in curves or ((row["model"], row["stage"]) in systems and not row["remedy"])]
    return out


def whole_stage(row: dict) -> dict:
    """The point with its altered labels as part of the stage's name."""
    ending = f"-cf{'near' if row['labels'] == 'labels_near' else ''}{row['label_rate']:g}" if row["labels"] else ""
    return row | {"stage": row["stage"] + ending}


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


def estimate(values: np.ndarray, clusters: np.ndarray, method: str, n_resamples: int, seed: int) -> list[dict]:
    """Means over examples and seeds with 95 % limits, one row per column of values (n, seeds, k): {value, low, high, n, seeds, seed_sd}, points."""
    average = values.mean(axis=1)
    low, high = stats.cluster_interval(average, clusters, method, n_resamples, seed)
    counted = ~np.isnan(average)
    rows = []
    for column in range(values.shape[2]):
        asked = counted[:, column]
        row = {"value": np.nan, "low": np.nan, "high": np.nan, "n": int(asked.sum()), "seeds": values.shape[1], "seed_sd": np.nan}
        if asked.any():
            spread = stats.seed_spread(values[asked, :, column].mean(axis=0))
            reach = spread["high"] - spread["mean"] if values.shape[1] > 1 else 0.0
            mean = spread["mean"]
            row |= {"value": mean, "low": mean - np.hypot(mean - low[column], reach), "high": mean + np.hypot(high[column] - mean, reach), "seed_sd": spread["sd"]}
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
                    part = estimate(values[mask][:, :, :-1], clusters[mask], method, n_resamples, seed)
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
    p: permutation of patients, of the mean over seeds: of changes and remedies at each rate, all fields, and of cpt over the rates; p_holm within a kind,
    testbed, test set and metric. Everything else has limits alone, and so have methods that read no text where the text is damaged.
    """
    rows = []
    for (task, split, testbed), entry in found.items():
        clusters, method = score.ring_clusters(entry["items"], split)
        place, masks = {"task": task, "split": split, "testbed": testbed}, field_masks(entry["items"])
        for (model, stage, remedy), by_rate in entry["points"].items():
            of = place | {"model": model, "stage": stage, "remedy": remedy}
            plain = entry["points"].get((model, stage, ""), {})
            reads = model not in BLIND or testbed in words()["training"]
            if remedy:
                for rate in sorted(set(by_rate) & set(plain)):
                    rows += tested(of | {"kind": "remedy", "rate": rate}, difference(by_rate[rate], plain[rate]), clusters, method, n_resamples, seed, test=reads)
            if 0.0 not in by_rate or len(by_rate) < 2:
                continue
            area = over_all_rates(by_rate)
            rows += tested(of | {"kind": "area"}, stacked(area), clusters, method, n_resamples, seed, test=False)
            rows += tested(of | {"kind": "change"}, difference(area, by_rate[0.0]), clusters, method, n_resamples, seed, test=False)
            for rate in sorted(set(by_rate) - {0.0}):
                change = difference(by_rate[rate], by_rate[0.0])
                for field, mask in masks.items():
                    rows += tested(of | {"kind": "change", "rate": rate, "field": field}, change[mask], clusters[mask], method, n_resamples, seed, test=reads and field == "all")
    rows += pretraining(found, n_resamples, seed)
    table = pd.DataFrame(rows, columns=TEST_COLUMNS)
    for _, places in table.groupby(["kind", "testbed", "split", "metric"], sort=False).groups.items():
        table.loc[places, "p_holm"] = stats.holm(table.loc[places, "p"].to_numpy(dtype=float))
    return table


def tested(of: dict, values: np.ndarray, clusters: np.ndarray, method: str, n_resamples: int, seed: int, test: bool = True) -> list[dict]:
    """Rows of TEST_COLUMNS for TESTED: mean of values (n, seeds, len(METRICS) + 1) with limits, and where `test` the p value of no difference."""
    at = [list(METRICS).index(metric) for metric in TESTED]
    values = values[:, :, at]
    average = values.mean(axis=1)
    p = stats.permutation_test(average, np.zeros_like(average), clusters) if test else [np.nan] * len(TESTED)
    shared = {"field": "all", "rate": np.nan, "patients": len(set(clusters))} | of
    part = estimate(values, clusters, method, n_resamples, seed)
    return [shared | {"metric": metric, "family": METRICS[metric], "p": p[i]} | part[i] for i, metric in enumerate(TESTED)]


def pretraining(found: dict[tuple, dict], n_resamples: int, seed: int) -> list[dict]:
    """Rows of kind cpt (see `effects`): every model and testbed whose sft and cpt-sft curves have the same rates."""
    rows, together = [], {}
    for (task, split, testbed), entry in found.items():
        clusters, method = score.ring_clusters(entry["items"], split)
        for model in dict.fromkeys(model for model, stage, remedy in entry["points"] if (stage, remedy) == ("cpt-sft", "")):
            own, other = entry["points"][model, "cpt-sft", ""], entry["points"].get((model, "sft", ""), {})
            rates = sorted(own)
            if sorted(other) != rates or 0.0 not in rates or len(rates) < 2:
                continue
            of = {"kind": "cpt", "model": model, "stage": "cpt-sft", "remedy": "", "task": task, "split": split, "testbed": testbed}
            kept = {np.nan: spared(over_all_rates(own), own[0.0], over_all_rates(other), other[0.0])}
            kept |= {rate: spared(own[rate], own[0.0], other[rate], other[0.0]) for rate in rates[1:]}
            for rate, values in kept.items():
                rows += tested(of | {"rate": rate}, values, clusters, method, n_resamples, seed, test=np.isnan(rate))
            together.setdefault((model, split, testbed), []).append((kept[np.nan].mean(axis=1)[:, None], clusters, method))
    for (model, split, testbed), parts in together.items():
        if len(parts) > 1:
            values, clusters = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
            rows += tested({"kind": "cpt", "model": model, "stage": "cpt-sft", "remedy": "", "task": "all", "split": split, "testbed": testbed}, values, clusters, parts[0][2], n_resamples, seed)
    return rows


def spared(own: dict, own_clean: dict, other: dict, other_clean: dict) -> np.ndarray:
    """The change of one system minus that of another, example by example, means over seeds: (n, 1, k)."""
    return (difference(own, own_clean).mean(axis=1) - difference(other, other_clean).mean(axis=1))[:, None]


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
