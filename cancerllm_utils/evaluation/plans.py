"""Scores of treatment plans: drugs as sets, radiotherapy by modality, dose and fractions, and the gain over each cancer's most common plan.

Exact match and the token metrics of scores.csv see a plan as text; here "gemcitabine + cisplatin" is "cisplatin + gemcitabine", and a brand is its generic.
All numbers are points (0-100) with 95 % intervals, clustered as everywhere (score.ring_clusters).
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from cancerllm_utils.corpus import drugs, radiotherapy
from cancerllm_utils.evaluation import classes, score, stats
from cancerllm_utils.evaluation.metrics import UNPARSED
from cancerllm_utils.results import RINGS, SCORE_COLUMNS, clean_files, model_name, ring_name, system_order

TASK, YARDSTICK = "treatment_plan", "majority_by_cancer"
COLUMNS = [*SCORE_COLUMNS, "gain", "gain_low", "gain_high", "versus"]
DOSE_TOLERANCE = 0.05
NO_DRUG = ("none", "no systemic therapy")
SET_METRICS = ("set_precision", "set_recall", "set_f1", "set_exact")
COURSE_METRICS = ("modality", "dose_within_5", "fractions_exact", "regimen_exact")


def drug_set(answer: str) -> frozenset[str]:
    """The drugs of an answer such as "cisplatin + gemcitabine": generics, leaving out supportive ones; a word that is no known drug stays as it is written."""
    answer = " ".join(answer.lower().split())
    if answer in NO_DRUG:
        return frozenset()
    named = [(part, drugs.normalise(part)) for part in answer.split(" + ") if part]
    known = [entry["generic"] for _, found in named for entry in found if entry["generic"]]
    strange = [part for part, found in named if not found or any(not entry["generic"] for entry in found)]
    return frozenset([*drugs.plan_set(known), *strange])


def set_scores(gold: frozenset, given: frozenset) -> dict[str, float]:
    """Precision, recall, F1 and exact match of two sets, 0-1; two empty sets agree, an empty one against another scores 0."""
    if not gold and not given:
        return dict.fromkeys(SET_METRICS, 1.0)
    both = len(gold & given)
    precision, recall = both / len(given) if given else 0.0, both / len(gold) if gold else 0.0
    return {"set_precision": precision, "set_recall": recall, "set_f1": 2 * both / (len(gold) + len(given)), "set_exact": float(gold == given)}


def course_scores(gold: dict, given: dict | None) -> dict[str, float]:
    """Modality, dose within 5 %, fractions and the whole regimen (the three together) of a radiotherapy answer, 0-1 (radiotherapy.parse_answer).

    Dose, fractions and regimen are NaN where gold is "no radiotherapy": there only the modality is asked.
    """
    if gold["gy"] is None:
        return {"modality": float(given is not None and given["modality"] == gold["modality"])} | dict.fromkeys(COURSE_METRICS[1:], np.nan)
    if given is None or given["gy"] is None:
        return dict.fromkeys(COURSE_METRICS, 0.0)
    found = {
        "modality": float(given["modality"] == gold["modality"]),
        "dose_within_5": float(abs(given["gy"] - gold["gy"]) <= DOSE_TOLERANCE * gold["gy"] + 1e-9),
        "fractions_exact": float(given["fractions"] == gold["fractions"]),
    }
    exact = found["modality"] and given["gy"] == gold["gy"] and found["fractions_exact"]
    return found | {"regimen_exact": float(exact)}


def course_of(answer: str) -> dict | None:
    """radiotherapy.parse_answer, also of a letter's "60 Gy in 30 fractions", whose modality is not asked."""
    regimen = re.fullmatch(r"\s*(\d+(?:\.\d+)?) gy in (\d+) fractions?\s*", answer.lower())
    return {"modality": "", "gy": float(regimen[1]), "fractions": int(regimen[2]), "target": ""} if regimen else radiotherapy.parse_answer(answer)


def plan_parts(answer: str) -> dict:
    """Intent, modalities (set) and drugs (set) of "curative | surgery + chemotherapy | carboplatin + paclitaxel"; intent "" where it is no such answer."""
    parts = [part.strip() for part in answer.lower().split("|")]
    if len(parts) != 3:
        return {"intent": "", "modalities": frozenset(), "drugs": frozenset()}
    return {"intent": parts[0], "modalities": frozenset(part.strip() for part in parts[1].split("+")), "drugs": drug_set(parts[2])}


def example_scores(field: str, gold: str, given: str) -> dict[str, float]:
    """The scores of one answer, 0-1, NaN where one is not asked: SET_METRICS of drugs, COURSE_METRICS of a course, both with intent and modalities of a plan.

    An unparsed answer names nothing. Raises ValueError for a gold course that is none.
    """
    given = "" if given == UNPARSED else given
    if field in ("radiotherapy", "radiotherapy_regimen"):
        course = course_of(gold)
        if course is None:
            raise ValueError(f"gold of {field} is no radiotherapy answer")
        found = course_scores(course, course_of(given))
        return found if field == "radiotherapy" else found | {"modality": np.nan}
    if field == "systemic_therapy":
        return set_scores(drug_set(gold), drug_set(given) if given else frozenset())
    wanted, said = plan_parts(gold), plan_parts(given)
    whole = {"intent": float(wanted["intent"] == said["intent"]), "modalities_exact": float(wanted["modalities"] == said["modalities"])}
    return set_scores(wanted["drugs"], said["drugs"]) | whole if said["intent"] else dict.fromkeys((*SET_METRICS, *whole), 0.0)


def modality_class(answer: str) -> str:
    """The modality of a radiotherapy answer as a class: "no radiotherapy", "external beam" ..., or "unparsed"."""
    found = course_of(answer)
    return found["modality"] if found else UNPARSED


def read_answers(run_dir: Path) -> pd.DataFrame:
    """Every prediction of the task with its question: model, stage, split, field, variant, example_id, patient_id, institution, cancer_type, gold, given."""
    frames, run_dir = [], Path(run_dir)
    for path in clean_files(run_dir, TASK):
        split = path.name.removesuffix(".jsonl").split(".", 1)[1]
        asked = run_dir / "datasets" / TASK / f"{split}.jsonl"
        if not path.stat().st_size or not asked.is_file() or not asked.stat().st_size:
            continue
        questions = pd.DataFrame([row for _, row in score.read_rows(asked)])[["example_id", "patient_id", "institution", "cancer_type", "field", "variant", "answers"]]
        answers = pd.DataFrame([row for _, row in score.read_rows(path)])[["example_id", "parsed"]]
        frame = questions.merge(answers, on="example_id", validate="one_to_one").rename(columns={"parsed": "given"})
        frames.append(frame.assign(gold=frame["answers"].str[0], model=path.parts[-3], stage=path.parts[-2], split=split).drop(columns="answers"))
    columns = ["model", "stage", "split", "field", "variant", "example_id", "patient_id", "institution", "cancer_type", "gold", "given"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def score_plans(run_dir: str | Path, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Scores of every prediction of treatment_plan, written to results/plans.csv and returned: COLUMNS, one row per system, ring, field and metric.

    Metrics: see example_scores, and modality_macro_f1. gain is the paired difference to majority_by_cancer on the same examples (points, interval over
    patients, or institutions in their rings), NaN for that baseline itself and where it did not answer. Empty, and no file, without predictions.
    """
    run_dir = Path(run_dir)
    answers = read_answers(run_dir)
    if answers.empty:
        return pd.DataFrame(columns=COLUMNS)
    known: dict[tuple, dict] = {}
    for key in zip(answers["field"], answers["gold"], answers["given"]):
        if key not in known:
            known[key] = example_scores(*key)
    scored = pd.DataFrame([known[key] for key in zip(answers["field"], answers["gold"], answers["given"])], index=answers.index)
    rows = []
    for (split, field), part in answers.groupby(["split", "field"]):
        yardstick = part[part["model"].eq(YARDSTICK)].set_index("example_id")
        for (model, stage), own in part.groupby(["model", "stage"]):
            clusters, method = score.ring_clusters(own, split)
            common = {"model": model, "stage": stage, "task": TASK, "variant": own["variant"].iloc[0], "split": split, "field": field, "subgroup": "all",
                      "family": "clinical", "n": len(own), "unparsed": int(own["given"].eq(UNPARSED).sum()), "seed": seed}  # fmt: skip
            compared = len(yardstick) and model != YARDSTICK and set(own["example_id"]) <= set(yardstick.index)
            other = scored.loc[part.index[part["model"].eq(YARDSTICK)]].set_axis(yardstick.index) if compared else None
            for metric in scored.columns[scored.loc[own.index].notna().any()]:
                values = 100 * scored.loc[own.index, metric].to_numpy(dtype=float)
                asked = ~np.isnan(values)
                low, high = stats.cluster_interval(values[asked], clusters[asked], method, n_resamples, seed)
                row = {"metric": metric, "f1": values[asked].mean(), "f1_low": low, "f1_high": high, "n": int(asked.sum())}
                if compared:
                    against = 100 * other.loc[own["example_id"], metric].to_numpy(dtype=float)
                    found = stats.paired_difference(values[asked], against[asked], clusters[asked], n_resamples, seed, method)
                    row |= {"gain": found["difference"], "gain_low": found["low"], "gain_high": found["high"], "versus": YARDSTICK}
                rows.append(common | row)
            if field == "radiotherapy":
                gold, given = own["gold"].map(modality_class), own["given"].map(modality_class)
                f1, low, high = (100 * value for value in classes.macro_f1(gold.to_numpy(str), given.to_numpy(str), clusters, n_resamples, seed, method))
                row = {"metric": "modality_macro_f1", "f1": f1, "f1_low": max(low, 0), "f1_high": min(high, 100)}
                if compared:
                    usual = yardstick.loc[own["example_id"], "given"].map(modality_class)
                    found = [100 * value for value in classes.macro_f1_difference(gold, given, usual, clusters, n_resamples, seed, method)]
                    row |= {"gain": found[0], "gain_low": found[1], "gain_high": found[2], "versus": YARDSTICK}
                rows.append(common | row)
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    (run_dir / "results").mkdir(parents=True, exist_ok=True)
    score.write_whole(run_dir / "results" / "plans.csv", lambda file: table.to_csv(file, index=False, float_format="%.6f"))
    for split in splits(table):
        score.append_ledger(run_dir, split, "score_plans")
    return table


def splits(scores: pd.DataFrame) -> list[str]:
    """The test sets of a score table, in the order of the rings."""
    return sorted(set(scores["split"]), key=lambda split: (list(RINGS).index(split.split("+")[0]), split))


def table(scores: pd.DataFrame, gain: bool) -> pd.DataFrame:
    """For the eye: a row per test set, field and system, a column per metric, "score [95 % interval]"; with gain the difference to majority_by_cancer instead."""
    value, low, high = ("gain", "gain_low", "gain_high") if gain else ("f1", "f1_low", "f1_high")
    rows = scores.dropna(subset=[value])
    sign = "+" if gain else ""
    cells = [f"{a:{sign}.1f} [{b:{sign}.1f}, {c:{sign}.1f}]" for a, b, c in zip(rows[value], rows[low], rows[high])]
    order = {system: place for place, system in enumerate(system_order(rows))} if len(rows) else {}
    rows = rows.assign(cell=cells, place=[order[system] for system in zip(rows["model"], rows["stage"])], ring=[splits(rows).index(split) for split in rows["split"]])
    wide = rows.pivot_table(index=["ring", "split", "field", "place", "model", "stage"], columns="metric", values="cell", aggfunc="first", sort=False)
    wide = wide.sort_index(level=["ring", "field", "place"]).reset_index()
    wide.insert(0, "test set", wide["split"].map(ring_name))
    wide.insert(2, "system", [model_name(*system) for system in zip(wide["model"], wide["stage"])])
    named = rows.groupby(["split", "field"])["n"].max()
    wide.insert(3, "n", [named[key] for key in zip(wide["split"], wide["field"])])
    return wide.drop(columns=["ring", "split", "place", "model", "stage"]).fillna("").rename_axis(None, axis=1)
