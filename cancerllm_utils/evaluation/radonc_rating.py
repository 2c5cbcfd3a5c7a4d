"""The clinicians' rating of regimens: a blinded form for two raters, and what comes back beside the paper's share of acceptable regimens.

A rater sees the case and one regimen, not where it comes from: answers of the models and the right regimens stand in one shuffled list, and a regimen that several
systems named for a patient is asked once. Without ratings, simulated raters show what the tables will look like; every row and sentence then says "simulated".
"""

import hashlib
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd

from cancerllm_utils.evaluation import answers, plans, radonc, rating
from cancerllm_utils.modeling.nearest import seen_text
from cancerllm_utils.results import model_name, ring_name
from cancerllm_utils.tasks.task import read_jsonl

SCALE = ["acceptable", "acceptable after a minor change", "not acceptable"]  # the paper's scale is not known
QUESTION = "Is this regimen clinically acceptable for this patient?"
RIGHT = ("right regimen", "gold")
COLUMNS = ["model", "stage", "split", "rater", "n", "acceptable", "low", "high", "with_change", "kappa", "kappa_low", "kappa_high", "paper_above", "simulated"]
# Of a simulated rater: how often a regimen of each kind is acceptable, and acceptable after a minor change; how often one rater sees it as the other does.
SIMULATED = {"published for this cancer": (0.85, 0.1), "published for another": (0.3, 0.4), "possible, not in the table": (0.15, 0.4), "impossible": (0.0, 0.02), "no regimen": (0.0, 0.0)}
ALIKE = 0.85


def sample(study: Path, items: pd.DataFrame, split: str, n_patients: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is to be rated (item, patient_id, cancer_type, text, answer: one row per patient and different regimen, shuffled), and the key: model, stage, patient_id, item.

    n_patients of the test set, drawn by the seed. In the key item is "" where a system named no regimen: that is not asked, and counts as not acceptable.
    """
    asked = items[items["task"].eq(radonc.REGIMEN) & items["split"].eq(split) & items["stage"].ne("baseline")]
    patients = sorted(asked["patient_id"].unique())
    chosen = set(Random(f"rating|{seed}").sample(patients, min(n_patients, len(patients))))
    asked = asked[asked["patient_id"].isin(chosen)]
    texts = {row["patient_id"]: case_of(row["prompt"]) for row in read_jsonl(study / "datasets" / radonc.REGIMEN / f"{split}.jsonl")}
    rows, key = {}, []
    for row in asked.to_dict("records"):
        for system, answer in (((row["model"], row["stage"]), row["parsed"]), (RIGHT, row["gold"])):
            named = plans.course_of(answer) is not None
            item = hashlib.sha256(f"{seed}|{row['patient_id']}|{answer}".encode()).hexdigest()[:8] if named else ""
            key.append({"model": system[0], "stage": system[1], "patient_id": row["patient_id"], "institution": row["institution"], "item": item})
            if named:
                rows[item] = {"item": item, "patient_id": row["patient_id"], "cancer_type": row["cancer_type"], "text": texts[row["patient_id"]], "answer": answer}
    form = pd.DataFrame(list(rows.values()), columns=["item", "patient_id", "cancer_type", "text", "answer"]).sort_values("item", ignore_index=True)  # by hash: shuffled
    return form, pd.DataFrame(key).drop_duplicates(ignore_index=True)


def case_of(prompt: str) -> str:
    """The case as the model read it, without the question."""
    return seen_text(prompt).removeprefix("In the text: ").rpartition(" What is the ")[0]


def write_form(study: Path, form: pd.DataFrame, key: pd.DataFrame, contains_text: bool) -> list[Path]:
    """Write rating/form.html and form.csv for the raters, and key.csv, which they do not get; returns the three paths."""
    folder = study / "rating"
    folder.mkdir(parents=True, exist_ok=True)
    rating.form(form[["item", "text", "answer"]], SCALE, QUESTION, folder / "form.html", folder / "form.csv", title="Rating of radiotherapy regimens", contains_text=contains_text)
    key.to_csv(folder / "key.csv", index=False)
    return [folder / name for name in ("form.html", "form.csv", "key.csv")]


def simulate(form: pd.DataFrame, seed: int) -> list[pd.DataFrame]:
    """Choices of two raters who are no persons, in the form of rating.read_ratings: they judge by the table of published regimens, and now and then otherwise."""
    raters = []
    for number in (1, 2):
        chosen = []
        for row in form.itertuples():
            shared, own = Random(f"{seed}|{row.item}"), Random(f"{seed}|{row.item}|{number}")
            point = shared.random() if own.random() < ALIKE else own.random()
            good, change = SIMULATED[radonc.plausibility(plans.course_of(row.answer), row.cancer_type)[0]]
            chosen.append(SCALE[0] if point < good else SCALE[1] if point < good + change else SCALE[2])
        raters.append(pd.DataFrame({"choice": chosen, "comment": ""}, index=pd.Index(form["item"], name="item")))
    return raters


def read(files: list[str], form: pd.DataFrame, seed: int) -> tuple[list[pd.DataFrame], bool]:
    """The ratings of two files (or three: a third decides where two differ), or of simulated raters where there is none; and whether they are simulated."""
    if not files:
        return simulate(form, seed), True
    return [rating.read_ratings(file, form, SCALE, QUESTION) for file in files], False


def shares(form: pd.DataFrame, key: pd.DataFrame, ratings: list[pd.DataFrame], simulated: bool, split: str, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Share of acceptable regimens of each system, in points with its interval, by each rater and by both together (COLUMNS).

    Together: what both chose or a third decided, else the worse of the two. A regimen that nobody rated is left out; no regimen counts as not acceptable. with_change: acceptable as it is or
    after a minor change. kappa: of the two raters over all items (quadratic weights), the same in every row. paper_above: the paper's share is above this.
    """
    together = rating.consensus(form, ratings).set_index("item")
    open_ = together["consensus"].eq("") & together["first"].ne("") & together["second"].ne("")
    worse = together[open_].apply(lambda row: max(row["first"], row["second"], key=SCALE.index), axis=1) if open_.any() else pd.Series(dtype=object)
    together.loc[worse.index, "consensus"] = worse
    both = form.merge(together.reset_index()[["item", "first", "second"]], on="item")
    both = both[both["first"].ne("") & both["second"].ne("")]
    agreed = rating.kappa(both["first"], both["second"], both["patient_id"], SCALE, n_resamples, seed) if len(both) else {"kappa": np.nan, "low": np.nan, "high": np.nan}
    rows = []
    for (model, stage), part in key.groupby(["model", "stage"], sort=False):
        for name, column in (("first", "first"), ("second", "second"), ("together", "consensus")):
            choice = part["item"].map(together[column]).where(part["item"].ne(""), SCALE[2]).fillna("")
            rated = choice.ne("").to_numpy()
            if rated.any():
                good = choice[rated].eq(SCALE[0])
                low, high = answers.share_interval(good, part[rated], split, n_resamples, seed)
                rows.append({"model": model, "stage": stage, "split": split, "rater": name, "n": int(rated.sum()), "acceptable": 100 * good.mean(), "low": low, "high": high,
                             "with_change": 100 * choice[rated].isin(SCALE[:2]).mean(), "kappa": agreed["kappa"], "kappa_low": agreed["low"], "kappa_high": agreed["high"],
                             "paper_above": radonc.rules()["paper"]["acceptable_above"], "simulated": simulated})  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def sentences(table: pd.DataFrame) -> list[str]:
    """What the raters said, beside the paper; a sentence about simulated raters says so first."""
    if table.empty:
        return ["No regimen was rated."]
    first = table.iloc[0]
    who = "SIMULATED raters, no person: " if first["simulated"] else ""
    said = [f"{who}agreement of the two raters: kappa {first['kappa']:.2f} (95 % interval {first['kappa_low']:.2f} to {first['kappa_high']:.2f})."]
    for row in table[table["rater"].eq("together")].itertuples():
        name = "the right regimens" if (row.model, row.stage) == RIGHT else model_name(row.model, row.stage)
        said.append(f"{who}{name}, {ring_name(row.split)}: {row.acceptable:.0f} % acceptable (95 % interval {row.low:.0f} to {row.high:.0f}, n = {row.n}), {row.with_change:.0f} % with a minor "
                    f"change; the paper's radiation oncologists: above {row.paper_above:.0f} %.")  # fmt: skip
    return said
