"""From prediction files to tables: `cancerllm score` for anyone's predictions, `score_run` for a whole run.

All numbers are points (0-100) with 95 % intervals: a bootstrap clustered by patient, and for the rings of unseen places t limits clustered by
institution (stats.py). Precision, recall and F1 are plain means
over examples, as in the paper, so that F1 is not the harmonic mean of the precision and recall beside it.
"""

import csv
import json
import os
import re
from array import array
from pathlib import Path

import numpy as np
import pandas as pd

from cancerllm_utils import record
from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import classes, groups, stats
from cancerllm_utils.evaluation.metrics import AVERAGED, METRICS, UNPARSED, numbers, score_pairs, value_scores
from cancerllm_utils.results import MIN_PATIENTS, SCORE_COLUMNS, clean_files

# The eight numbers of `cancerllm score`, in this order; a further metric in METRICS appears in scores.csv only.
EIGHT = tuple((family, metric) for family in ("paper", "clinical") for metric in (*AVERAGED, "average"))
ALL_METRICS = groups.ALL_METRICS
VALUE_METRICS = groups.VALUE_METRICS
CLASS_KEYS = ["model", "stage", "task", "split", "field"]
PREDICTION_KEYS = {"example_id": str, "prediction": str, "answers": list, "parsed": str}
DATASET_KEYS = {"example_id": str, "patient_id": str, "field": str, "answers": list}


# ---- reading -------------------------------------------------------------------------------------------------------------------


def read_rows(path):
    """Yield (line number, object) for each non-blank line of a JSONL file (UTF-8, with or without BOM, any of \\n and \\r\\n).

    Raises UserError naming file and line: file missing or unreadable, not UTF-8, not JSON, not an object, no row at all.
    """
    empty = True
    try:
        with open(path, "rb") as file:
            for line, raw in enumerate(file, 1):
                if line == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                if not raw.strip():
                    continue
                try:
                    row = json.loads(raw.decode("utf-8"))
                except UnicodeDecodeError:
                    raise UserError(f"file {path}, line {line}: not UTF-8 text. Save the file as UTF-8.") from None
                except (ValueError, RecursionError):
                    raise UserError(f"file {path}, line {line}: not valid JSON. Write one JSON object per line.") from None
                if not isinstance(row, dict):
                    raise UserError(f"file {path}, line {line}: not a JSON object. Write one {{...}} per line.")
                empty = False
                yield line, row
    except OSError as error:
        raise UserError(f"file {path}: cannot be read ({error.strerror or type(error).__name__}). Check the path.") from None
    if empty:
        raise UserError(f"file {path}, line 1: the file holds no row. Write one JSON object per line.")


def _is_text_list(value) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _identifier(value):
    """An id as text: strings as they are, whole numbers written out, None for anything else (also for a blank)."""
    if isinstance(value, str):
        return value if value.strip() else None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _checked(path, rows):
    """Check the rows of `cancerllm score` one by one; yields (cluster, answers, prediction)."""
    seen = {}
    for line, row in rows:
        where = f"file {path}, line {line}"
        for key in ("id", "answers", "prediction"):
            if key not in row:
                raise UserError(f'{where}: the key "{key}" is missing. A row is {{"id": .., "answers": [..], "prediction": ".."}}.')
        identifier = _identifier(row["id"])
        if identifier is None:
            raise UserError(f'{where}: "id" is neither text nor a whole number. Give each row its own id.')
        if identifier in seen:
            raise UserError(f"{where}: this id was used in line {seen[identifier]}. Give each row its own id.")
        seen[identifier] = line
        if not _is_text_list(row["answers"]):
            raise UserError(f'{where}: "answers" is not a list of strings. Write ["..", ".."], or [] for no answer.')
        if not isinstance(row["prediction"], str):
            raise UserError(f'{where}: "prediction" is not a string. Write "" for an empty answer.')
        patient = _identifier(row.get("patient_id"))
        if patient is None and row.get("patient_id") not in (None, ""):
            raise UserError(f'{where}: "patient_id" is neither text nor a whole number. Leave it out to use the id.')
        yield f"id {identifier}" if patient is None else f"patient {patient}", row["answers"], row["prediction"]


# ---- one file of any system --------------------------------------------------------------------------------------------------


def score_file(path, n_resamples: int = 1000, seed: int = 0) -> list[dict]:
    """Score a JSONL file of rows {id, answers: [str], prediction: str, patient_id (optional: the cluster, else id)}.

    Returns exactly eight rows {family, metric, precision, recall, f1, f1_low, f1_high, n}: paper and clinical x exact_match, bleu2,
    rougeL, average; points 0-100. Raises UserError with file, line and reason for a file that is not as described.
    """
    scored, clusters = array("d"), []  # 24 numbers and one key per row are all that is kept of a file
    for cluster, answers, prediction in _checked(path, read_rows(path)):
        scored.extend(numbers(answers, prediction, EIGHT))
        clusters.append(cluster)
    table = np.frombuffer(scored).reshape(len(clusters), len(EIGHT), 3)
    table *= 100  # in place: a million rows are 192 MB
    means = table.mean(axis=0)
    low, high = stats.cluster_bootstrap(table[:, :, 2], clusters, n_resamples, seed)
    return [
        {
            "family": family, "metric": metric, "precision": float(means[i, 0]), "recall": float(means[i, 1]), "f1": float(means[i, 2]),
            "f1_low": float(low[i]), "f1_high": float(high[i]), "n": len(clusters),
        }
        for i, (family, metric) in enumerate(EIGHT)
    ]  # fmt: skip


def main_score(path, as_json: bool) -> None:
    """Print the eight rows of score_file: one JSON list and nothing else, or a table for the eye."""
    rows = score_file(path)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'family':<9} {'metric':<12} {'precision':>9} {'recall':>7} {'F1':>7}  95 % interval   n = {rows[0]['n']}")
    for row in rows:
        interval = f"{row['f1_low']:.2f} to {row['f1_high']:.2f}"
        print(f"{row['family']:<9} {row['metric']:<12} {row['precision']:>9.2f} {row['recall']:>7.2f} {row['f1']:>7.2f}  {interval}")


# ---- a whole run ---------------------------------------------------------------------------------------------------------------


def _table(path, keys: dict) -> pd.DataFrame:
    """A contract file as a frame with one row per example_id, its keys and their types checked."""
    rows, seen = [], set()
    for line, row in read_rows(path):
        for key, kind in keys.items():
            fits = _is_text_list(row.get(key)) if kind is list else isinstance(row.get(key), kind)
            if not fits:
                raise UserError(f'file {path}, line {line}: "{key}" is missing or of the wrong type. Run the step that wrote the file again.')
        if row["example_id"] in seen:
            raise UserError(f"file {path}, line {line}: this example_id occurs twice. Run the step that wrote the file again.")
        seen.add(row["example_id"])
        rows.append(row)
    return pd.DataFrame(rows)


def read_dataset(run_dir: Path, task: str, split: str) -> pd.DataFrame:
    """Examples of a test set; one that is a variant of another (test+misspell20) may share that one's file."""
    path = run_dir / "datasets" / task / f"{split}.jsonl"
    path = path if path.is_file() else path.with_name(f"{split.split('+')[0]}.jsonl")
    data = _table(path, DATASET_KEYS)
    for column, default in {"variant": "", "headline": False, "cancer_type": "", "institution": ""}.items():
        data[column] = data[column].fillna(default) if column in data else default
    return data[["example_id", "patient_id", "field", "variant", "headline", "cancer_type", "institution", "answers"]]


def ring_clusters(examples: pd.DataFrame, split: str) -> tuple[np.ndarray, str]:
    """What is independent in a test set, and how its intervals are made: (cluster of each example, "percentile" or "t").

    Patients; in the rings of unseen places (external, external_site) the institutions, where all are known: those rings speak of other
    institutions, and patients of one institution are alike.
    """
    if split.startswith("external") and (examples["institution"] != "").all():
        return examples["institution"].to_numpy(), "t"
    return examples["patient_id"].to_numpy(), "percentile"


def scored_examples(path: Path, data: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
    """Predictions of one file joined with their examples, and what is computed from them, as arrays with one row per prediction.

    numbers (n, metrics, 3): precision, recall, F1 of ALL_METRICS; values (n, VALUE_METRICS), NaN where not asked; both in points.
    gold, predicted: class numbers; answer, parsed: the values as text; cluster: numbers of ring_clusters in the order of the names; unparsed: flags.
    """
    frame = _table(path, PREDICTION_KEYS)
    frame = frame[[c for c in (*PREDICTION_KEYS, "stop_reason") if c in frame]]
    frame = frame.merge(data, on="example_id", how="left", suffixes=("", "_data"), validate="one_to_one")
    strangers = frame.patient_id.isna() | (frame.answers != frame.answers_data)
    if strangers.any():
        raise UserError(
            f"file {path}, line {int(np.argmax(strangers)) + 1}: the example is not, or has other answers, in datasets/. "
            "Predict again: run 05_prediction."
        )
    # A parsed answer is the answer; what could not be parsed is scored as the model wrote it.
    scored = frame.prediction.where(frame.parsed == UNPARSED, frame.parsed)
    values = pd.DataFrame([value_scores(a, p) for a, p in zip(frame.answers, frame.parsed)], dtype=float)
    # Only a model that generates stops: for a baseline or a ranking every stop_reason is "" and the share is undefined.
    reasons = frame.stop_reason.fillna("") if "stop_reason" in frame else pd.Series("", index=frame.index)
    values["eos_share"] = (reasons == "eos").astype(float).where(reasons != "")
    # A class is a value of one field. A right answer in other words ("2.5cm") belongs to its gold class.
    gold = frame.field + "=" + frame.answers.map("; ".join)
    predicted = gold.where(values.value_accuracy == 1, frame.field + "=" + frame.parsed)
    classes = pd.factorize(pd.concat([gold, predicted]))[0].reshape(2, -1)
    return frame, {
        "numbers": 100 * score_pairs(zip(frame.answers, scored), ALL_METRICS),
        "values": 100 * values[VALUE_METRICS].to_numpy(),
        "gold": classes[0],
        "predicted": classes[1],
        "answer": frame.answers.map("; ".join).to_numpy(dtype=object),
        "parsed": frame.parsed.where(values.value_accuracy != 1, frame.answers.map("; ".join)).to_numpy(dtype=object),
        "unparsed": (frame.parsed == UNPARSED).to_numpy(),
    }


def score_run(run_dir, n_resamples: int = 1000, seed: int = 0, why: str = "") -> pd.DataFrame:
    """Score every predictions/<model>/<stage>/<task>.<split>.jsonl of a run (clean_files) against datasets/<task>/<split>.jsonl.

    Writes results/scores.csv (SCORE_COLUMNS, points 0-100; single-value metrics stand in f1), results/classes.csv (precision, recall and F1
    of each answer of each closed field), results/institutions.csv (each institution of a ring of unseen places: n and mean scores) and
    results/examples.parquet (one row per prediction and family: average_f1, exact, value_correct in 0-1), adds a line to results/ledger.csv for each test set outside
    train and dev, and returns the scores. `seed` is the bootstrap's; the column `seed` is that of the tuning (stage suffix -s7).
    Raises UserError when there is nothing to score or a file breaks its contract; then nothing is written.
    """
    run_dir = Path(run_dir)
    paths = clean_files(run_dir)
    if not paths:
        raise UserError(f"folder {run_dir / 'predictions'}: there are no predictions. Run 05_prediction first.")
    datasets, rows, examples, splits, of_classes = {}, [], [], [], []
    for path in paths:
        model, stage = path.parts[-3:-1]
        task, split = path.name.removesuffix(".jsonl").split(".", 1)
        asked = run_dir / "datasets" / task / f"{split}.jsonl"
        if asked.is_file() and not asked.stat().st_size:  # a small corpus has no patients in some rings
            continue
        if (task, split) not in datasets:
            datasets[task, split] = read_dataset(run_dir, task, split)
        frame, arrays = scored_examples(path, datasets[task, split])
        clusters, method = ring_clusters(frame, split)
        arrays["cluster"] = pd.factorize(clusters, sort=True)[0]
        suffix = re.search(r"-s(\d+)(?:-|$)", stage)
        key = {"model": model, "stage": stage, "task": task, "split": split, "seed": int(suffix[1]) if suffix else seed}
        for variant, field, subgroup, mask in groups.groups(frame):
            group = {name: array[mask] for name, array in arrays.items()}
            where = key | {"variant": variant, "field": field, "subgroup": subgroup}
            rows += [where | row for row in groups.group_rows(group, field, method, n_resamples, seed)]
            if variant == subgroup == "all" and field != "all":
                of_classes.append(groups.class_rows(group, method, n_resamples, seed).assign(**{name: where[name] for name in CLASS_KEYS}))
        for family in METRICS:
            f1 = {metric: arrays["numbers"][:, ALL_METRICS.index((family, metric)), 2] / 100 for metric in ("average", "exact_match")}
            examples.append(
                frame[["example_id", "patient_id", "institution", "field", "variant", "headline", "cancer_type"]].assign(
                    model=model, stage=stage, task=task, split=split, family=family,
                    average_f1=f1["average"], exact=f1["exact_match"], value_correct=arrays["values"][:, 0] / 100,
                )
            )  # fmt: skip
        splits.append(split)
    if not rows:
        raise UserError(f"folder {run_dir / 'datasets'}: no held-out ring holds a question, so there is nothing to score. Give more patients, or labels.")
    scores = pd.DataFrame(rows)[SCORE_COLUMNS]
    results = run_dir / "results"
    results.mkdir(parents=True, exist_ok=True)
    table = pd.concat(examples, ignore_index=True)
    write_whole(results / "examples.parquet", lambda file: table.to_parquet(file, index=False))
    closed = pd.concat(of_classes, ignore_index=True).reindex(columns=[*CLASS_KEYS, *classes.CLASS_COLUMNS])
    write_whole(results / "classes.csv", lambda file: closed.to_csv(file, index=False, float_format="%.6f"))
    write_whole(results / "institutions.csv", lambda file: institution_table(table).to_csv(file, index=False, float_format="%.6f"))
    write_whole(results / "scores.csv", lambda file: scores.to_csv(file, index=False, float_format="%.6f"))
    for split in sorted(set(splits)):
        append_ledger(run_dir, split, why or "score_run")
    return scores


def institution_table(examples: pd.DataFrame) -> pd.DataFrame:
    """Every institution of the rings of unseen places by itself, from rows of examples.parquet: model, stage, task, split, family, institution, n,
    patients, average_f1, value_accuracy (points, empty for fewer than MIN_PATIENTS patients). Extraction counts its headline items."""
    chosen = examples[examples["split"].str.startswith("external") & (examples["institution"] != "")]
    chosen = chosen[chosen["headline"].astype(bool) | (chosen["task"] != "phenotype_extraction")]
    keys = ["model", "stage", "task", "split", "family", "institution"]
    table = chosen.groupby(keys).agg(n=("example_id", "size"), patients=("patient_id", "nunique"), average_f1=("average_f1", "mean"), value_accuracy=("value_correct", "mean"))
    scores = (100 * table[["average_f1", "value_accuracy"]]).where(table["patients"] >= MIN_PATIENTS)
    return table.assign(**scores).reset_index()


def write_whole(path: Path, write) -> None:
    """Write through a temporary name, so that a reader never meets half a file."""
    part = path.with_name(path.name + ".part")
    write(part)
    os.replace(part, path)


# ---- after scoring ---------------------------------------------------------------------------------------------------------------


def compare(
    run_dir, a: tuple, b: tuple, task: str, split: str, metric: str = "average", family: str = "paper", field: str = "all",
    variant: str = "all", subgroup: str = "all", n_resamples: int = 1000, seed: int = 0,
) -> dict:  # fmt: skip
    """Difference a - b of two (model, stage) on the examples both answered, in points, with its interval over ring_clusters.

    metric: average, exact_match or value_accuracy. Returns {difference, low, high, n}; reads results/examples.parquet, scores nothing.
    """
    both = paired_scores(read_examples(run_dir), a, b, task, split, metric, family, field, variant, subgroup)
    if both.empty:
        raise UserError(f"folder {run_dir}: {'/'.join(a)} and {'/'.join(b)} share no example of {task}.{split}. Predict with both first.")
    clusters, method = ring_clusters(both, split)
    return stats.paired_difference(both["a"], both["b"], clusters, n_resamples, seed, method)


def read_examples(run_dir) -> pd.DataFrame:
    """results/examples.parquet of a run that was scored; one scored before institutions were kept has blanks there."""
    path = Path(run_dir) / "results" / "examples.parquet"
    if not path.is_file():
        raise UserError(f"file {path}: not there. Run 06_evaluation first.")
    examples = pd.read_parquet(path)
    return examples if "institution" in examples else examples.assign(institution="")


def paired_scores(
    examples: pd.DataFrame, a: tuple, b: tuple, task: str, split: str, metric: str = "average", family: str = "paper", field: str = "all",
    variant: str = "all", subgroup: str = "all",
) -> pd.DataFrame:  # fmt: skip
    """The examples that two (model, stage) both answered: example_id, patient_id, institution, a, b (points); empty where they share none."""
    column = {"average": "average_f1", "exact_match": "exact", "value_accuracy": "value_correct"}.get(metric)
    if column is None:
        raise UserError(f"metric {metric}: not stored per example. Choose average, exact_match or value_accuracy.")
    chosen = (examples.task == task) & (examples.split == split) & (examples.family == family)
    for name, value in {"field": field, "variant": variant}.items():
        chosen &= (examples[name] == value) | (value == "all")
    if subgroup == "headline":
        chosen &= examples.headline.astype(bool)
    sides = [
        examples[chosen & (examples.model == model) & (examples.stage == stage)][["example_id", "patient_id", "institution", column]]
        for model, stage in (a, b)
    ]
    both = sides[0].merge(sides[1], on=["example_id", "patient_id", "institution"], suffixes=("_a", "_b"), validate="one_to_one")
    return both.assign(a=100 * both[f"{column}_a"], b=100 * both[f"{column}_b"])[["example_id", "patient_id", "institution", "a", "b"]]


def append_ledger(run_dir, split: str, why: str) -> bool:
    """Note in results/ledger.csv (date, commit, split, why) that a set meant for the last word was looked at.

    Train and dev, whatever their suffix, are for looking at: no line. Returns whether a line was written.
    """
    if split.split("+")[0] in ("train", "dev"):
        return False
    path = Path(run_dir) / "results" / "ledger.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if file.tell() == 0:
            writer.writerow(["date", "commit", "split", "why"])
        writer.writerow([record.now(), record.commit(), split, why])
    return True
