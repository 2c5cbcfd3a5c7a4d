"""Result tables: the columns of the files that several rooms write or read, the names of what stands in them, and the rows that stand for a whole task."""

import re
from pathlib import Path

import pandas as pd
import yaml

from cancerllm_utils.paths import PACKAGE

SCORE_COLUMNS = ["model", "stage", "task", "variant", "split", "field", "subgroup", "family", "metric", "precision", "recall", "f1",
                 "f1_low", "f1_high", "n", "unparsed", "seed"]
CPT_COLUMNS = ["model", "stage", "when", "step", "split", "subgroup", "loss", "bits_per_byte", "tokens", "n_notes", "change", "change_low", "change_high"]
TRAINING_COLUMNS = ["model", "stage", "tuning", "preset", "lora_r", "trainable_parameters", "train_rows", "tokens", "trained_tokens", "steps", "seconds",
                    "tokens_per_second", "peak_memory_gib", "memory_of", "device", "precision", "num_processes", "energy_kwh"]
COMPARISON_COLUMNS = ["kind", "a", "b", "task", "split", "metric", "difference", "low", "high", "n", "p_holm", "verdict"]

PAPER_VALUES = PACKAGE / "evaluation" / "paper_values.yaml"
STAGES = ["base", "cpt", "sft", "cpt-sft"]
BASELINES = {
    "majority": "Majority answer",
    "majority_by_cancer": "Majority per cancer",
    "nearest": "Nearest training example",
    "tfidf": "TF-IDF + logistic regression",
    "rules": "Label rules",
}
TASKS = {
    "phenotype_extraction": "Phenotype extraction",
    "diagnosis_generation": "Diagnosis generation",
    "registry_prediction": "Registry prediction",
    "registry_details": "Registry details",
    "stage_from_tnm": "Stage group",
    "icd10_coding": "ICD-10 coding",
    "treatment_plan": "Treatment plan",
    "radonc_regimen": "Radiotherapy regimen",
    "radonc_modality": "Radiotherapy modality",
    "radonc_icd10": "ICD-10 code, radiation oncology",
}
RINGS = {
    "train": "training patients",
    "dev": "development patients",
    "test": "held-out patients",
    "external_site": "held-out sites",
    "external": "held-out institutions",
    "general": "general text",
}
METRIC_NAMES = {
    "average": "average F1",
    "exact_match": "exact match F1",
    "bleu2": "BLEU-2 F1",
    "rougeL": "ROUGE-L F1",
    "rouge1": "ROUGE-1 F1",
    "kappa_quadratic": "quadratic kappa (x 100)",
    "value_accuracy": "value accuracy",
    "false_answer": "false answers",
    "miss": "missed values",
    "right_stated": "right values where one is stated",
    "value_f1": "F1 of the values given",
    "value_minus_false": "right values minus false answers",
    "macro_f1": "macro F1",
    "eos_share": "answers ended by the model",
    "time": "time",
    "memory": "memory",
}
MIN_PATIENTS = 20  # an institution or subgroup with fewer patients is not shown by itself
EMBEDDED, HYBRID = "tiny_base", "hybrid"


def load_paper_values() -> dict:
    """The paper's known values as a dict: sources, requires, values (list), cohort, phenotypes (list); see the comments in paper_values.yaml."""
    return yaml.safe_load(PAPER_VALUES.read_text(encoding="utf-8"))


def altered_labels(stage: str) -> tuple[str, float] | None:
    """(mode, percent) of the false answers that a stage was trained on: ("", 40.0) of cpt-sft-cf40-s7, ("near", 40.0) of cpt-sft-cfnear40; None of all other stages."""
    found = re.search(r"-cf(near)?(\d+)(?=-|$)", stage)
    return (found[1] or "", float(found[2])) if found else None


def clean_files(run_dir: str | Path, task: str = "*") -> list[Path]:
    """The prediction files of a run that answer its test sets as they are, task by task: what leaderboards, plans and times are made of.

    Left out are the variants of a test set (test+misspell20, train+corrupted) and what was trained on false answers (cpt-sft-cf40, baseline-cf40), except
    where a model has no other stage: they belong to the study of robustness, which reads them itself.
    """
    found = [path for path in Path(run_dir).glob(f"predictions/*/*/{task}.*.jsonl") if "+" not in path.name]
    honest = {path.parent.parent for path in found if not altered_labels(path.parent.name)}
    return sorted((path for path in found if not altered_labels(path.parent.name) or path.parent.parent not in honest), key=lambda path: (path.name, path))


def hybrid_name(model: str) -> str:
    """The name of a model's hybrid with the rules (modeling/hybrid.py): "hybrid" for the embedded model, else "hybrid-<model>"."""
    return HYBRID if model == EMBEDDED else f"{HYBRID}-{model}"


def is_hybrid(model: str) -> bool:
    """Whether a model of a score table is a hybrid with the rules, and so no language model by itself."""
    return model.partition("-")[0] == HYBRID


def model_name(model: str, stage: str) -> str:
    """What a reader sees for one system: the baseline's name, or "model, stage"."""
    if is_hybrid(model):
        return f"Rules, else {model.partition('-')[2] or EMBEDDED}, {stage}"
    return BASELINES.get(model, model) if stage == "baseline" else f"{model}, {stage}"


def task_name(task: str) -> str:
    """The task's name in words."""
    return TASKS.get(task, task.replace("_", " ").capitalize())


def ring_name(split: str) -> str:
    """The test set in words; a variant such as "test+misspell20" keeps its ending."""
    ring, _, variant = split.partition("+")
    return RINGS.get(ring, ring) + (f" ({variant})" if variant else "")


def system_order(scores: pd.DataFrame) -> list[tuple[str, str]]:
    """All (model, stage) pairs of a score table: baselines first, from plain to strong, then models from base to fully tuned, then the hybrids."""
    pairs = list(dict.fromkeys(zip(scores["model"], scores["stage"])))

    def position(pair):
        model, stage = pair
        if stage == "baseline":
            return (0, "", list(BASELINES).index(model) if model in BASELINES else len(BASELINES), model)
        root = max((s for s in STAGES if stage == s or stage.startswith(s + "-")), key=len, default="")
        return (2 if is_hybrid(model) else 1, model, STAGES.index(root) if root else len(STAGES), stage)

    return sorted(pairs, key=position)


def headline(scores: pd.DataFrame, metric: str = "average", family: str = "paper", splits: list[str] | None = None) -> pd.DataFrame:
    """The rows that stand for a whole task: all fields, all variants, and for extraction only the items where text and registry agree.

    Returns one row per model, stage, task and split (the first seed where several were run), all columns of scores.csv.
    """
    subgroup = scores["task"].map(lambda task: "headline" if task == "phenotype_extraction" else "all")
    keep = (
        (scores["field"] == "all") & (scores["variant"] == "all") & (scores["subgroup"] == subgroup)
        & (scores["family"] == family) & (scores["metric"] == metric)
    )
    if splits is not None:
        keep &= scores["split"].isin(splits)
    rows = scores[keep].sort_values("seed", kind="stable")
    return rows.drop_duplicates(["model", "stage", "task", "split"]).reset_index(drop=True)


def main_split(scores: pd.DataFrame) -> str:
    """The test set that headlines speak of: `test` where it was scored, else `dev` (an experiment), else whatever is there."""
    present = list(dict.fromkeys(scores["split"]))
    return next((s for s in ["test", "dev", *present] if s in present), "test")


def main_systems(scores: pd.DataFrame) -> list[tuple[str, str]]:
    """For each language model its most complete stage: cpt-sft, else sft, cpt, base (suffixes such as -released only where nothing else ran)."""
    pairs = [pair for pair in system_order(scores) if pair[1] != "baseline" and not is_hybrid(pair[0])]
    rank = {stage: i for i, stage in enumerate(STAGES)}
    best = {}
    for model, stage in pairs:
        if model not in best or rank.get(stage, -1) > rank.get(best[model], -1):
            best[model] = stage
    return list(best.items())


def points_text(row: pd.Series, brackets: str = "()") -> str:
    """A score with its interval, where it has one: "60.0 (58.0 to 62.0)"."""
    interval = f" {brackets[0]}{row['f1_low']:.1f} to {row['f1_high']:.1f}{brackets[1]}" if pd.notna(row["f1_low"]) else ""
    return f"{row['f1']:.1f}{interval}"


def one_row(rows: pd.DataFrame, **where) -> pd.Series | None:
    """The first row with these values, None without one."""
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return None if rows.empty else rows.iloc[0]


def p_text(p: float) -> str:
    """A p value with three decimals, small ones as a bound; the words before it (p, p after Holm) are the caller's."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def signed(value: float) -> str:
    """A difference with its sign, one decimal."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")  # + 0.0: no minus before zero
