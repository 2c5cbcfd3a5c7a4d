"""Every answer of a run beside its gold and its score, one row each: what dangerous errors, evidence and confidence are counted from."""

from pathlib import Path

import numpy as np
import pandas as pd

from cancerllm_utils.evaluation import score, stats
from cancerllm_utils.evaluation.metrics import value_scores
from cancerllm_utils.results import is_hybrid, main_systems, system_order
from cancerllm_utils.tasks.task import read_jsonl

KEYS = ["model", "stage", "task", "split"]
DEV_FOLDER = "dev"  # predictions/<model>/<stage>/dev/: answers to development patients that no score counts; thresholds and temperatures are chosen on them
COLUMNS = [*KEYS, "example_id", "patient_id", "note_id", "institution", "cancer_type", "field", "variant", "headline", "answers", "prediction", "parsed", "right",
           "logprob", "confidence", "probability"]  # fmt: skip


def prediction_rows(path: Path, model: str, stage: str, task: str, split: str) -> pd.DataFrame:
    """One prediction file; logprob, confidence and probability are NaN where the system gives none."""
    table = pd.DataFrame(read_jsonl(path)).reindex(columns=["example_id", "answers", "prediction", "parsed", "stop_reason", "logprob", "confidence"])
    generated = table["stop_reason"].isin(["eos", "length"])
    return table.assign(probability=np.exp(table["logprob"].astype(float)).where(generated, table["confidence"]), model=model, stage=stage, task=task, split=split)


def questions(run_dir: Path, task: str, split: str) -> pd.DataFrame:
    """The examples of one data set without their prompts: task, split, example_id, patient_id, note_id, institution, cancer_type, field, variant, headline."""
    rows = [{"institution": "", "cancer_type": "", "variant": "", "headline": False} | row for row in read_jsonl(run_dir / "datasets" / task / f"{split}.jsonl")]
    return pd.DataFrame(rows, columns=["example_id", "patient_id", "note_id", "institution", "cancer_type", "field", "variant", "headline"]).assign(task=task, split=split)


def read_answers(run_dir: str | Path) -> pd.DataFrame:
    """All answers of the run as COLUMNS, one row each: the scored test sets without their variants (test+misspell20), and answers to development patients.

    right: whether the value is the gold value (clinical value accuracy, as in results/examples.parquet). logprob (nats) and confidence (0 to 1) are NaN
    for systems that have none, and so is probability: that of the whole answer where a model wrote it (exp of logprob; confidence is its mean per token),
    of the chosen value among the allowed ones elsewhere. Raises UserError where nothing was scored.
    """
    run_dir, found, asked = Path(run_dir), [], {}
    scored = score.read_examples(run_dir)
    scored = scored.loc[scored["family"] == "clinical", [*KEYS, "example_id", "value_correct"]]
    paths = [(path, False) for path in sorted(run_dir.glob("predictions/*/*/*.jsonl"))] + [(path, True) for path in sorted(run_dir.glob(f"predictions/*/*/{DEV_FOLDER}/*.dev.jsonl"))]
    for path, apart in paths:
        model, stage = path.parts[-4:-2] if apart else path.parts[-3:-1]
        task, split = path.name.removesuffix(".jsonl").split(".", 1)
        if "+" in split or not path.stat().st_size:
            continue
        asked.setdefault((task, split), None)
        found.append(prediction_rows(path, model, stage, task, split).assign(apart=apart))
    if not found:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.concat(found, ignore_index=True).merge(pd.concat([questions(run_dir, *key) for key in asked], ignore_index=True), on=["task", "split", "example_id"])
    table = table.merge(scored, on=[*KEYS, "example_id"], how="left")
    table = table[table["apart"] | table["value_correct"].notna()].drop_duplicates([*KEYS, "example_id"])  # where dev is a test set, a model answered it in both places
    right = [value == 1 if value == value else value_scores(answers, parsed)["value_accuracy"] == 1 for value, answers, parsed in zip(table["value_correct"], table["answers"], table["parsed"])]
    return table.assign(right=np.array(right, dtype=bool), headline=table["headline"].fillna(False).astype(bool)).reset_index(drop=True)[COLUMNS]


def counted(answers: pd.DataFrame) -> pd.DataFrame:
    """The rows that headlines count: in extraction those where text and registry agree and clean "not stated" ones, elsewhere all."""
    return answers[answers["headline"] | (answers["task"] != "phenotype_extraction")]


def share_interval(hits, rows: pd.DataFrame, split: str, n_resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval, in %, of the mean of `hits` (0 to 1) over the clusters of score.ring_clusters of `rows`; (NaN, NaN) of nothing.

    Where all hits are 0, or all 1, a bootstrap would give an interval of no width: there the limits are the exact binomial ones (Clopper and Pearson 1934)
    for as many trials as there are clusters.
    """
    hits = np.asarray(hits, dtype=float)
    if not len(hits):
        return float("nan"), float("nan")
    clusters, method = score.ring_clusters(rows, split)
    if (hits == 0).all() or (hits == 1).all():
        reach = 100 * 0.025 ** (1 / len(set(clusters)))  # alpha / 2 to the power of 1 / n
        return (reach, 100.0) if hits[0] else (0.0, 100 - reach)
    low, high = stats.cluster_interval(100 * hits, clusters, method, n_resamples, seed)
    return max(low, 0.0), min(high, 100.0)


def shown_systems(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The systems that figures and sentences are about: simple methods that read the text, each model's plain tuned stages (else its most complete one), and
    the hybrids of the latter. table: any with the columns model and stage."""
    main = main_systems(table)
    return [(model, stage) for model, stage in system_order(table)
            if (model in ("tfidf", "rules") and stage == "baseline") or (model, stage) in main or (stage in ("sft", "cpt-sft") and not is_hybrid(model))
            or (is_hybrid(model) and stage in dict.fromkeys(stage for _, stage in main))]


def of_systems(table: pd.DataFrame, systems: list[tuple[str, str]], split: str) -> pd.DataFrame:
    """The rows of one test set that belong to these systems."""
    return table[(table["split"] == split) & pd.Series(list(zip(table["model"], table["stage"])), index=table.index, dtype=object).isin(systems)]


def shown_context(prompt: str) -> str:
    """The input of a prompt, as a reader may see it."""
    return prompt.split("### Input:\n", 1)[-1].rsplit("\n\n### Response:", 1)[0]
