"""Every answer of a run beside its gold and its score, one row each: what dangerous errors, evidence and confidence are counted from."""

from pathlib import Path

import pandas as pd

from cancerllm_utils.evaluation import score
from cancerllm_utils.evaluation.metrics import value_scores
from cancerllm_utils.tasks.task import read_jsonl

KEYS = ["model", "stage", "task", "split"]
DEV_FOLDER = "dev"  # predictions/<model>/<stage>/dev/: answers to development patients that no score counts; thresholds and temperatures are chosen on them
COLUMNS = [*KEYS, "example_id", "patient_id", "note_id", "institution", "cancer_type", "field", "variant", "headline", "answers", "prediction", "parsed", "right",
           "logprob", "confidence"]  # fmt: skip


def prediction_rows(path: Path, model: str, stage: str, task: str, split: str) -> pd.DataFrame:
    """One prediction file; logprob and confidence are NaN where the system gives none."""
    rows = [{"logprob": float("nan"), "confidence": float("nan")} | row for row in read_jsonl(path)]
    return pd.DataFrame(rows, columns=["example_id", "answers", "prediction", "parsed", "logprob", "confidence"]).assign(model=model, stage=stage, task=task, split=split)


def questions(run_dir: Path, task: str, split: str) -> pd.DataFrame:
    """The examples of one data set without their prompts: example_id, patient_id, note_id, institution, cancer_type, field, variant, headline."""
    rows = [{"institution": "", "cancer_type": "", "variant": "", "headline": False} | row for row in read_jsonl(run_dir / "datasets" / task / f"{split}.jsonl")]
    return pd.DataFrame(rows, columns=["example_id", "patient_id", "note_id", "institution", "cancer_type", "field", "variant", "headline"])


def read_answers(run_dir: str | Path) -> pd.DataFrame:
    """All answers of the run as COLUMNS, one row each: the scored test sets without their variants (test+misspell20), and answers to development patients.

    right: whether the value is the gold value (clinical value accuracy, as in results/examples.parquet). logprob (nats) and confidence (0 to 1) are NaN
    for systems that have none. Raises UserError where nothing was scored.
    """
    run_dir, found, asked = Path(run_dir), [], {}
    scored = score.read_examples(run_dir)
    scored = scored[scored["family"] == "clinical"].set_index([*KEYS, "example_id"])["value_correct"]
    paths = [(path, False) for path in sorted(run_dir.glob("predictions/*/*/*.jsonl"))] + [(path, True) for path in sorted(run_dir.glob(f"predictions/*/*/{DEV_FOLDER}/*.dev.jsonl"))]
    for path, apart in paths:
        model, stage = path.parts[-4:-2] if apart else path.parts[-3:-1]
        task, split = path.name.removesuffix(".jsonl").split(".", 1)
        if "+" in split or not path.stat().st_size:
            continue
        if (task, split) not in asked:
            asked[task, split] = questions(run_dir, task, split)
        rows = prediction_rows(path, model, stage, task, split).merge(asked[task, split], on="example_id", validate="one_to_one")
        if apart:
            rows["right"] = [bool(value_scores(answers, parsed)["value_accuracy"]) for answers, parsed in zip(rows["answers"], rows["parsed"], strict=True)]
        else:
            rows = rows.join(scored.rename("right"), on=[*KEYS, "example_id"], how="inner")
        found.append(rows)
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=COLUMNS)
    return table.assign(right=table["right"].astype(bool), headline=table["headline"].fillna(False).astype(bool))[COLUMNS]


def counted(answers: pd.DataFrame) -> pd.DataFrame:
    """The rows that headlines count: in extraction those where text and registry agree and clean "not stated" ones, elsewhere all."""
    return answers[answers["headline"] | (answers["task"] != "phenotype_extraction")]
