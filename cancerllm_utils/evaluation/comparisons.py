"""The comparisons of params/shared/comparisons.yaml: two primary endpoints fixed beforehand, everything else secondary, each with a verdict in words.

Tests are permutation tests over patients, or over institutions in the rings of unseen places; p values are adjusted by Holm, the primary endpoints
and the secondary comparisons each as a family. Reads results/examples.parquet and datasets/, scores nothing.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from cancerllm_utils import paths
from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import score, stats
from cancerllm_utils.results import hybrid_name, is_hybrid, signed, task_name

FILE = paths.PARAMS / "shared" / "comparisons.yaml"
COLUMNS = [
    "kind", "endpoint", "a", "b", "task", "split", "family", "metric", "n", "clusters", "cluster", "difference", "low", "high", "dz", "p", "p_holm",
    "p_wilcoxon", "smallest_detectable", "range", "verdict",
]  # fmt: skip
METRICS = {"average": ("average_f1", "average F1"), "value_accuracy": ("value_correct", "value accuracy"), "exact_match": ("exact", "exact match")}
PLURAL = {"patient": "patients", "institution": "institutions"}


def load(path: str | Path = FILE) -> dict:
    """The comparisons as written down: alpha, power, assumed_spread, primary (list), secondary. Raises UserError where a key is missing."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"file {path}: not there. Restore it from the repository.")
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    missing = [key for key in ("alpha", "power", "assumed_spread", "primary", "secondary") if key not in found]
    for entry in found.get("primary", []):
        missing += [f"{key} of a primary endpoint" for key in ("id", "question", "a", "b", "task", "split", "family", "metric") if key not in entry]
    if missing:
        raise UserError(f"file {path}: {missing[0]} is missing. Restore it from the repository.")
    return found


def is_synthetic(run_dir: str | Path) -> bool:
    """Whether the run's questions come from the synthetic cohort (datasets/settings.json)."""
    settings = Path(run_dir) / "datasets" / "settings.json"
    return settings.is_file() and json.loads(settings.read_text(encoding="utf-8")).get("corpus") == "synthetic"


def _subgroup(task: str) -> str:
    return "headline" if task == "phenotype_extraction" else "all"


def _answers(examples: pd.DataFrame) -> dict[tuple, pd.DataFrame]:
    """(model, stage, task, split, family) -> its scored examples in points, indexed by example, extraction reduced to its headline items.

    Cut up once, with plain columns: a hundred comparisons of string columns in the whole table took longer than all tests together.
    """
    kept = examples[examples["headline"].astype(bool) | (examples["task"] != "phenotype_extraction")]
    columns = {"patient_id": object, "institution": object, "average_f1": float, "exact": float, "value_correct": float}
    parts = {}
    for key, part in kept.groupby(["model", "stage", "task", "split", "family"], sort=True):
        plain = {name: part[name].to_numpy(dtype=kind) * (100 if kind is float else 1) for name, kind in columns.items()}
        parts[key] = pd.DataFrame(plain, index=part["example_id"].to_numpy(dtype=object)).sort_index()
    return parts


def _systems(answers: dict) -> dict[str, list[str]]:
    """Language model -> its scored stages. Baselines and hybrids are no models: they are what a model is compared with."""
    models = {}
    for model, stage, *_ in answers:
        if stage != "baseline" and not is_hybrid(model):
            models.setdefault(model, {})[stage] = None
    return {model: list(stages) for model, stages in models.items()}


def _pair_of(model: str, name: str, stage: str = "") -> tuple[str, str]:
    """(model, stage) of a name in the file: a stage of the model, its hybrid with the rules at `stage`, or a baseline."""
    if name == "hybrid":
        return hybrid_name(model), stage
    return (model, name) if name == "base" or re.match(r"(cpt|sft)", name) else (name, "baseline")


def chosen_baselines(answers: dict, entry: dict, task: str) -> tuple[list[str], str]:
    """Baselines that the entry's model must beat, and how they were chosen: the best on `chosen_on`, else all that were scored on the test set."""
    there = [name for name in entry["b"] if (name, "baseline", task, entry["split"], entry["family"]) in answers]
    on_dev = {name: answers.get((name, "baseline", task, entry["chosen_on"], entry["family"])) for name in there}
    means = {name: float(part[METRICS[entry["metric"]][0]].mean()) for name, part in on_dev.items() if part is not None}
    if there and len(means) == len(there):
        best = max(means, key=means.get)
        return [best], f"{best}, the best of {len(there)} on {entry['chosen_on']} ({means[best]:.1f})"
    return there, f"the hardest to beat of {', '.join(there)}; not all were scored on {entry['chosen_on']}, so each must be beaten"


def one(answers: dict, a: tuple, b: tuple, task: str, split: str, metric: str, family: str, written: dict, n_resamples: int, seed: int) -> dict | None:
    """One comparison as a row of COLUMNS without kind, endpoint, p_holm and verdict; None where the two share no example."""
    sides = [answers.get((*system, task, split, family)) for system in (a, b)]
    if sides[0] is None or sides[1] is None:
        return None
    column = METRICS[metric][0]
    both = sides[0][["patient_id", "institution", column]].join(sides[1][column], how="inner", lsuffix="_a", rsuffix="_b", validate="one_to_one")
    if both.empty:
        return None
    both = both.rename(columns={f"{column}_a": "a", f"{column}_b": "b"})
    clusters, method = score.ring_clusters(both, split)
    found = stats.paired_difference(both["a"], both["b"], clusters, n_resamples, seed, method)
    count = len(set(clusters))
    error, _ = stats.standard_error(both["a"] - both["b"], clusters)
    places = stats.by_cluster(both["a"] - both["b"], clusters) if method == "t" and count < stats.FEW else pd.DataFrame()
    return found | {
        "a": "/".join(a), "b": "/".join(b), "task": task, "split": split, "family": family, "metric": metric,
        "clusters": count, "cluster": "institution" if method == "t" else "patient",
        "dz": stats.cohens_dz(both["a"], both["b"], clusters), "p": stats.permutation_test(both["a"], both["b"], clusters),
        "p_wilcoxon": stats.wilcoxon_test(both["a"], both["b"], clusters)["p"],
        "smallest_detectable": stats.smallest_detectable(error * np.sqrt(count), count, written["alpha"], written["power"]),
        "range": f"{signed(places['mean'].iloc[0])} to {signed(places['mean'].iloc[-1])}" if len(places) else "",
    }  # fmt: skip


def _primary_rows(answers: dict, written: dict, synthetic: bool, n_resamples: int, seed: int) -> list[dict]:
    rows = []
    for model in _systems(answers):
        for entry in written["primary"]:
            task = entry["task"]["synthetic" if synthetic else "real"]
            names, how = chosen_baselines(answers, entry, task) if isinstance(entry["b"], list) else ([entry["b"]], "")
            compared = [one(answers, (model, entry["a"]), _pair_of(model, name), task, entry["split"], entry["metric"], entry["family"], written, n_resamples, seed)
                        for name in names]
            compared = [row for row in compared if row]
            missing = {"a": f"{model}/{entry['a']}", "b": " or ".join("/".join(_pair_of(model, name)) for name in names or entry["b"]), "task": task, "split": entry["split"],
                       "family": entry["family"], "metric": entry["metric"]}
            rows.append({"kind": "primary", "endpoint": entry["id"], "question": entry["question"], "how": how} | (_hardest(compared) if compared else missing))
    return rows


def _hardest(compared: list[dict]) -> dict:
    """Of several comparisons that must all be won the one that decides.

    To be better than all, the largest p counts (intersection-union test, Berger 1982), so that no choice made on the test set makes the
    verdict kinder. To be worse than any, the smallest of several was picked, so it is multiplied by their number (Bonferroni).
    """
    row = max(compared, key=lambda row: row["p"] if row["difference"] > 0 else 2 - row["p"])
    return row if row["difference"] > 0 else row | {"p": min(1.0, row["p"] * len(compared))}


def _secondary_rows(answers: dict, written: dict, primary: list[dict], n_resamples: int, seed: int) -> list[dict]:
    plan, rows = written["secondary"], []
    fixed = {(row["a"], row["b"], row["task"], row["split"], row["metric"]) for row in primary}
    pairs = [(plan["a"], name) for name in plan["b"]] + [(pair["a"], pair["b"]) for pair in plan.get("also", [])]
    for model, stages in _systems(answers).items():
        if plan["a"] not in stages:
            continue
        for task in sorted({key[2] for key in answers}):
            for split in plan["splits"]:
                for metric in plan["metrics"]:
                    for first, second in pairs:
                        a, b = _pair_of(model, first, plan["a"]), _pair_of(model, second, plan["a"])
                        if ("/".join(a), "/".join(b), task, split, metric) in fixed:
                            continue
                        row = one(answers, a, b, task, split, metric, plan["family"], written, n_resamples, seed)
                        if row:
                            rows.append({"kind": "secondary", "endpoint": f"{first} against {second}", "question": "", "how": ""} | row)
    return rows


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def verdict(row: dict, alpha: float, power: float) -> str:
    """One comparison in a sentence, whatever it says; a row without a difference says why there is none."""
    a, b, where = row["a"], row["b"], f"{row['task']}, {row['split']}"
    if pd.isna(row.get("difference", np.nan)):
        return f"{row['question']} No verdict: {a} and {b} were not both scored on {where}."
    shown = row["p_holm"] <= alpha
    if row["question"]:
        text = f"{row['question']} {('Yes' if row['difference'] > 0 else 'No, the opposite') if shown else 'Not shown'}: {a} minus {b} is "
    else:
        text = f"{a} {('is ahead of' if row['difference'] > 0 else 'is behind') if shown else 'cannot be told from'} {b}: "
    limits = f"95 % interval {signed(row['low'])} to {signed(row['high'])}" if not pd.isna(row["low"]) else f"no interval from one {row['cluster']}"
    text += (f"{signed(row['difference'])} points of {METRICS[row['metric']][1]} on {where} ({limits}; {_p(row['p'])}, after Holm {_p(row['p_holm'])}; "
             f"n = {row['n']:,.0f} questions of {row['clusters']:,.0f} {PLURAL[row['cluster']]}).")
    if row["how"]:
        text += f" The simple method is {row['how']}."
    if not shown and row["smallest_detectable"] > 0:
        text += f" A true difference of {row['smallest_detectable']:.1f} points would be found in {100 * power:.0f} % of such studies; a smaller one may be there."
    if row["range"]:
        text += f" From institution to institution it runs from {row['range']}."
    if 2.0 ** (1 - row["clusters"]) > alpha:
        text += f" With {row['clusters']:.0f} {PLURAL[row['cluster']]} no difference could be shown, however large."
    return text


def run(run_dir: str | Path, n_resamples: int = 1000, seed: int = 0, path: str | Path = FILE) -> pd.DataFrame:
    """All comparisons of a scored run, primary endpoints first: columns COLUMNS, differences in points, one `verdict` sentence per row.

    Writes results/comparisons.csv. An endpoint whose systems were not scored keeps its row, with the reason as its verdict. clusters: how many
    patients (or institutions) the interval and the tests rest on; dz: Cohen's dz; p: permutation test, two-sided; p_wilcoxon: one-sided
    signed-rank test "a is better", as in the radiation-oncology paper, not used for verdicts; smallest_detectable: from the spread observed.
    """
    written, answers = load(path), _answers(score.read_examples(run_dir))
    primary = _primary_rows(answers, written, is_synthetic(run_dir), n_resamples, seed)
    rows = primary + _secondary_rows(answers, written, primary, n_resamples, seed)
    if not rows:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.DataFrame(rows).reindex(columns=[*COLUMNS, "question", "how"])
    for _, places in table.groupby("kind").groups.items():
        table.loc[places, "p_holm"] = stats.holm(table.loc[places, "p"])
    table["verdict"] = [verdict(row, written["alpha"], written["power"]) for row in table.to_dict("records")]
    results = Path(run_dir) / "results"
    score.write_whole(results / "comparisons.csv", lambda file: table[COLUMNS].to_csv(file, index=False, float_format="%.6f"))
    return table[COLUMNS]


def sentences(table: pd.DataFrame, kind: str = "primary") -> list[str]:
    """The verdicts of the primary endpoints, or of the secondary comparisons, as run returned them."""
    return table.loc[table["kind"] == kind, "verdict"].tolist()


def cpt_sentences(table: pd.DataFrame) -> list[str]:
    """Does continued pre-training help? One sentence per task and test set that was tested (average F1), the primary endpoint first."""
    asked = table["endpoint"].isin(["cpt", "cpt-sft against sft"]) & table["metric"].eq("average") & table["difference"].notna()
    rows = table[asked]
    return [row.verdict if row.kind == "primary" else f"Does it help {task_name(row.task).lower()}? {row.verdict}" for row in rows.itertuples()]


def planned(run_dir: str | Path, path: str | Path = FILE) -> pd.DataFrame:
    """Before anything is scored: what each primary endpoint could find with the patients that its test set holds and the spread assumed in the file.

    Returns endpoint, question, task, split, questions, patients, assumed_spread, smallest_detectable (points).
    """
    written, rows, synthetic = load(path), [], is_synthetic(run_dir)
    for entry in written["primary"]:
        task = entry["task"]["synthetic" if synthetic else "real"]
        file = Path(run_dir) / "datasets" / task / f"{entry['split']}.jsonl"
        items = [row for _, row in score.read_rows(file)] if file.is_file() and file.stat().st_size else []
        items = [row for row in items if _subgroup(task) == "all" or row.get("headline")]
        patients = len({row["patient_id"] for row in items})
        smallest = stats.smallest_detectable(written["assumed_spread"], patients, written["alpha"], written["power"])
        rows.append([entry["id"], entry["question"], task, entry["split"], len(items), patients, written["assumed_spread"], smallest])
    return pd.DataFrame(rows, columns=["endpoint", "question", "task", "split", "questions", "patients", "assumed_spread", "smallest_detectable"])


def seed_table(scores: pd.DataFrame, metric: str = "average", family: str = "paper") -> pd.DataFrame:
    """Between-seed spread of each stage that was trained with several seeds (stages -s<seed>), from scores.csv; empty where none was.

    One row per model, stage (without the seed), task and split: n seeds, mean, sd, low and high (95 % t limits of the mean over seeds), lowest,
    highest, and patients_half_width: half the mean width of the interval over patients, to hold the two uncertainties side by side. Points.
    """
    subgroup = scores["task"].map(_subgroup)
    rows = scores[(scores["metric"] == metric) & (scores["family"] == family) & (scores["field"] == "all") & (scores["variant"] == "all") & (scores["subgroup"] == subgroup)]
    rows = rows.assign(root=rows["stage"].str.replace(r"-s\d+(?=-|$)", "", regex=True))
    out = []
    for keys, part in rows.groupby(["model", "root", "task", "split"], sort=False):
        part = part.drop_duplicates("stage")
        if len(part) > 1:
            half = float((part["f1_high"] - part["f1_low"]).mean() / 2)
            out.append(dict(zip(["model", "stage", "task", "split"], keys)) | stats.seed_spread(part["f1"]) | {"patients_half_width": half})
    return pd.DataFrame(out, columns=["model", "stage", "task", "split", "n", "mean", "sd", "low", "high", "lowest", "highest", "patients_half_width"])


def seed_sentences(scores: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """What the luck of a training run is worth, one sentence per row of seed_table; where no stage was trained twice, that one seed says nothing about it."""
    if table.empty:
        tuned = sorted({stage for stage in scores["stage"] if "sft" in stage})
        return [f"Each stage ({', '.join(tuned)}) was trained with one seed: the luck of a training run is in no interval here."] if tuned else []
    return [f"{task_name(row.task)}, {row.split}, {row.model}/{row.stage}: {row.n} seeds reach {row.mean:.1f} points on average (standard deviation {row.sd:.1f}, {row.lowest:.1f} to {row.highest:.1f}); "
            f"the choice of patients alone moves a score by {row.patients_half_width:.1f} points either way." for row in table.itertuples()]
