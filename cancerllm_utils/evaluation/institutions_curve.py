"""How many other hospitals are needed? Simple systems are trained on the patients of 1, 2, 4, ... training institutions and scored on unseen ones.

Two designs, since more hospitals mostly bring more patients too. `equal patients`: the same number of patients at each step, in equal parts from
institutions drawn among those that have enough, so that only the number of hospitals changes. `all patients`: every patient of the drawn
institutions, as a project would grow. Everything is trained on the questions and chosen sentences that a model is tuned on
(datasets/<task>/train.jsonl); the TF-IDF here therefore reads less than the one of the leaderboard. Models tuned with 04's `max_institutions`
join the table from their own scores.
"""

import re
import time
from pathlib import Path

import numpy as np
import pandas as pd

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import score
from cancerllm_utils.evaluation.metrics import score_pairs, value_scores
from cancerllm_utils.modeling import baselines, nearest
from cancerllm_utils.results import BASELINES, METRIC_NAMES, headline, model_name, ring_name, signed, task_name

EQUAL, ALL = "equal patients", "all patients"
SYSTEMS = ("majority_by_cancer", "nearest", "tfidf")
LARGE = 4  # with `patients` 0, the patients of so many institutions are asked for at one hospital: the 4th largest still serves
COLUMNS = ["model", "stage", "task", "design", "n_institutions", "repeat", "split", "subgroup", "family", "metric", "f1", "n", "items", "patients", "seen"]
SWEPT = re.compile(r"^(?P<root>.+?)-tuning_max_institutions(?P<k>\d+)$")


# ---- draws -----------------------------------------------------------------------------------------------------------------------


def patients_of(rows: list[dict]) -> dict[str, list[str]]:
    """institution -> its patients in sorted order, from training rows; a patient seen at two belongs to the first by name."""
    first = {}
    for institution, patient in sorted({(row["institution"], row["patient_id"]) for row in rows}):
        first.setdefault(patient, institution)
    found = {}
    for patient, institution in sorted(first.items()):
        found.setdefault(institution, []).append(patient)
    return found


def steps(n_institutions: int) -> list[int]:
    """1, 2, 4, ... and all; a power of two that is nearly all is left out."""
    powers = [2**power for power in range(n_institutions.bit_length())]
    return [k for k in powers if 1.5 * k <= n_institutions] + [n_institutions] * (n_institutions > 0)


def draw(patients: dict[str, list[str]], k: int, design: str, budget: int, rng) -> list[str] | None:
    """The training patients of one draw of k institutions; None where fewer than k institutions have their equal part of `budget` patients."""
    part = -(-budget // k) if design == EQUAL else 1
    names = sorted(name for name, own in patients.items() if len(own) >= part)
    if len(names) < k:
        return None
    chosen = [names[i] for i in sorted(rng.choice(len(names), k, replace=False))]
    if design == ALL:
        return [patient for name in chosen for patient in patients[name]]
    mixed = [[patients[name][i] for i in rng.permutation(len(patients[name]))[:part]] for name in chosen]
    return [own[turn] for turn in range(part) for own in mixed][:budget]


def draws(patients: dict[str, list[str]], budget: int, repeats: int, seed: int):
    """Yield (design, k, repeat, patients) of every draw; all institutions with all their patients are drawn once, as there is one way."""
    for design in (EQUAL, ALL):
        for k in steps(len(patients)):
            for repeat in range(min(repeats, 1) if design == ALL and k == len(patients) else repeats):
                chosen = draw(patients, k, design, budget, np.random.default_rng([seed, k, repeat]))
                if chosen is not None:
                    yield design, k, repeat, chosen


# ---- training and answers ----------------------------------------------------------------------------------------------------------


def answers_of(train: list[dict], test: list[dict], systems: list[str], closed: set[str], seed: int) -> dict[str, list[str]]:
    """System -> its answers to the rows `test` after training on the rows `train`; TF-IDF learns the `closed` fields, of others it gives the majority."""
    items = pd.DataFrame([{"field": row["field"], "cancer_type": row["cancer_type"], "answer": row["answers"][0], "note_id": _key(row)} for row in train])
    by_field, by_cancer = baselines.majority(items, ["field"]), baselines.majority(items, ["field", "cancer_type"])
    common = [baselines.majority_answer(row, by_cancer, by_field) for row in test]
    answers = {"majority_by_cancer": common}
    if "nearest" in systems:
        answers["nearest"] = nearest.nearest_answers(nearest.index_examples(train), test, common)
    if "tfidf" in systems:
        documents = {_key(row): nearest.seen_text(row["prompt"]) for row in [*test, *train]}
        vectors = baselines.vectors_of(documents, sorted({_key(row) for row in train}))
        models = baselines.fit_fields(items[items["field"].isin(closed)], vectors["rows_of"], vectors["matrix"], seed)
        answers["tfidf"] = baselines.answer_fields(models, [row["field"] for row in test], [_key(row) for row in test], vectors["rows_of"], vectors["matrix"], common)
    return {name: answers[name] for name in systems}


def _key(row: dict) -> str:
    return row["example_id"].partition("#")[0]


def _scores(test: list[dict], given: list[str], seen: np.ndarray) -> list[dict]:
    """Rows subgroup, family, metric, f1 (points), n: over all questions, and over those whose cancer type training held."""
    average = 100 * score_pairs([(row["answers"], answer) for row, answer in zip(test, given, strict=True)], [("paper", "average")])[:, 0, 2]
    right = 100 * np.array([value_scores(row["answers"], answer)["value_accuracy"] for row, answer in zip(test, given, strict=True)], dtype=float)
    return [{"subgroup": subgroup, "family": family, "metric": metric, "f1": values[mask].mean() if mask.any() else np.nan, "n": int(mask.sum())}
            for subgroup, mask in (("all", np.ones(len(test), dtype=bool)), ("cancers seen", seen)) for family, metric, values in (("paper", "average", average), ("clinical", "value_accuracy", right))]


def rows_of(run_dir: Path, task: str, split: str) -> list[dict]:
    """The examples of a task's data set; of extraction the headline items, as everywhere. Empty where the set is."""
    path = run_dir / "datasets" / task / f"{split}.jsonl"
    rows = [row for _, row in score.read_rows(path)] if path.is_file() and path.stat().st_size else []
    return [row for row in rows if split == "train" or row.get("headline") or task != "phenotype_extraction"]


def run(run_dir: str | Path, scores: pd.DataFrame, systems: list[str] = SYSTEMS, repeats: int = 3, patients: int = 0, split: str = "external", seed: int = 42) -> pd.DataFrame:
    """The learning curve over training institutions of every task that was scored on `split`: COLUMNS, f1 in points.

    scores: scores.csv. systems: names of SYSTEMS, empty for none; TF-IDF is left out where every field has more answers than it tells apart. repeats:
    random draws of institutions per step. patients: how many the design `equal patients` trains on (0: as many as the LARGE-th largest
    institution has). items, patients: training questions and patients; seen: share (0-1) of the scored questions whose cancer type training held.
    Rows of tuned models (stages ...-tuning_max_institutions<k> and their reference) stand under `all patients`. Writes
    results/institution_curve.csv and a line in the ledger; where `split` was not scored, or training knows fewer than two institutions, the
    table is empty. Raises UserError for an unknown system.
    """
    run_dir = Path(run_dir)
    unknown = [name for name in systems if name not in SYSTEMS]
    if unknown:
        raise UserError(f"curve_systems: {unknown[0]!r} is unknown. Choose from {', '.join(SYSTEMS)}.")
    rows = []
    for task in dict.fromkeys(scores.loc[scores["split"] == split, "task"]):
        train, test = rows_of(run_dir, task, "train"), rows_of(run_dir, task, split)
        everybody = patients_of([row for row in train if row["institution"]])
        if len(everybody) < 2 or not test:
            continue
        # A field with too many answers is no classification (baselines): what is one in a small draw only would make a curve that falls.
        classes = pd.DataFrame([(row["field"], row["answers"][0]) for row in train]).groupby(0)[1].nunique()
        closed = set(classes.index[classes <= baselines.MAX_CLASSES])
        asked = [name for name in systems if name != "tfidf" or closed]
        sizes = sorted((len(own) for own in everybody.values()), reverse=True)
        budget, begun = patients or sizes[min(LARGE, len(sizes)) - 1], time.monotonic()
        for design, k, repeat, chosen in draws(everybody, budget, repeats if asked else 0, seed):
            among = set(chosen)
            part = [row for row in train if row["patient_id"] in among]
            cancers = {row["cancer_type"] for row in part}
            seen = np.array([row["cancer_type"] in cancers for row in test])
            about = {"task": task, "design": design, "n_institutions": k, "repeat": repeat, "split": split, "items": len(part), "patients": len(among), "seen": seen.mean()}
            for name, given in answers_of(part, test, asked, closed, seed).items():
                rows += [about | {"model": name, "stage": "baseline"} | found for found in _scores(test, given, seen)]
        rows += model_rows(scores, task, split, len(everybody))
        print(f"learning curve: {task} in {time.monotonic() - begun:.0f} s", flush=True)
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    score.write_whole(run_dir / "results" / "institution_curve.csv", lambda file: table.to_csv(file, index=False, float_format="%.6f"))
    if len(table):
        score.append_ledger(run_dir, split, "learning curve over institutions")
    return table


def model_rows(scores: pd.DataFrame, task: str, split: str, n_institutions: int) -> list[dict]:
    """The points of models that were tuned on fewer institutions, and of the same stage tuned on all; empty where no study swept them."""
    found = pd.concat([headline(scores, "average", "paper", [split]), headline(scores, "value_accuracy", "clinical", [split])], ignore_index=True)
    found = found[found["task"] == task]
    swept = found.assign(root=found["stage"].str.extract(SWEPT)["root"], k=found["stage"].str.extract(SWEPT)["k"]).dropna(subset=["root"])
    whole = found.merge(swept[["model", "root"]].drop_duplicates(), left_on=["model", "stage"], right_on=["model", "root"]).assign(k=n_institutions)
    return [{"model": row.model, "stage": row.root, "task": task, "design": ALL, "n_institutions": int(row.k), "repeat": 0, "split": split, "subgroup": "all",
             "family": row.family, "metric": row.metric, "f1": row.f1, "n": row.n} for row in pd.concat([swept, whole]).itertuples()]


# ---- in words -----------------------------------------------------------------------------------------------------------------


def summary_table(curve: pd.DataFrame, metric: str = "average", subgroup: str = "all") -> pd.DataFrame:
    """Over the draws of each step: model, stage, task, design, n_institutions, mean, lowest, highest, draws, patients, seen (means)."""
    rows = curve[(curve["metric"] == metric) & (curve["subgroup"] == subgroup)]
    made = rows.groupby(["model", "stage", "task", "design", "n_institutions"], sort=False).agg(
        mean=("f1", "mean"), lowest=("f1", "min"), highest=("f1", "max"), draws=("f1", "size"), patients=("patients", "mean"), seen=("seen", "mean"), n=("n", "max"))
    return made.reset_index()


def sentences(curve: pd.DataFrame, metric: str = "average") -> list[str]:
    """What one hospital gives, what all give, and from how many on nine tenths of the gain are reached, for each task and system."""
    if curve.empty:
        return ["No learning curve: unseen institutions were not scored, or training knows fewer than two institutions."]
    table, out = summary_table(curve, metric), []
    for (task, model, stage), of_system in table.groupby(["task", "model", "stage"], sort=False):
        for design, part in of_system.groupby("design", sort=False):
            part = part.sort_values("n_institutions")
            if len(part) < 2:
                continue
            first, last = part.iloc[0], part.iloc[-1]
            gain = last["mean"] - first["mean"]
            text = (f"{task_name(task)}, {BASELINES.get(model, model_name(model, stage))}, {design}"
                    + (f" ({first['patients']:,.0f} at every step)" if design == EQUAL else "") + f": {first['mean']:.1f} points of {METRIC_NAMES[metric]} on "
                    f"{ring_name(curve['split'].iloc[0])} from {first['n_institutions']} training institution{'' if first['n_institutions'] == 1 else 's'}, "
                    f"{last['mean']:.1f} from {last['n_institutions']} ({signed(gain)}). ")
            spread = float((part["highest"] - part["lowest"]).max())
            if gain <= 0:
                text += "More hospitals bring no gain here."
            elif gain <= spread:
                text += f"That is no more than draws of one step differ among themselves ({spread:.1f}), so no number of hospitals can be read from it."
            else:
                enough = part[part["mean"] >= first["mean"] + 0.9 * gain].iloc[0]["n_institutions"]
                text += f"Nine tenths of the gain are reached with {enough}."
            out.append(text)
    return out
