"""Scores of the radiation-oncology study: accuracy, ROUGE-1, classes, the tests of the paper, and what a physicist asks of a regimen.

BED and EQD2 follow the linear-quadratic model (Fowler 1989): BED = n d (1 + d / (alpha/beta)), EQD2 = BED / (1 + 2 / (alpha/beta)), n fractions of d Gy; overall
time and repopulation are left out. alpha/beta, published regimens, their sources and what of them was checked: radonc.yaml. Numbers are points (0-100) with 95 % intervals
clustered by patient, or by institution in the rings of unseen places (score.ring_clusters). Historical practice, not guidance.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from cancerllm_utils.corpus import radiotherapy
from cancerllm_utils.corpus.radonc import MODALITIES
from cancerllm_utils.evaluation import answers, classes, plans, score, stats
from cancerllm_utils.evaluation.metrics import UNPARSED, score_pairs, value_scores
from cancerllm_utils.results import SCORE_COLUMNS, model_name, ring_name, system_order

TASKS = {"radonc_regimen": "regimen", "radonc_modality": "modality", "radonc_icd10": "ICD-10 code"}
REGIMEN = "radonc_regimen"
SIMPLE = ("majority", "majority_by_cancer", "nearest", "tfidf")  # the label rules are left out: no text states the answers
ITEM_COLUMNS = ["model", "stage", "task", "split", "example_id", "patient_id", "institution", "cancer_type", "gold", "given", "parsed"]
MEANS = ["accuracy", "rouge1"]  # what the paper gives for all three tasks, and what is tested
PHYSICS = ["dose_within_5", "fractions_exact", "fraction_dose_within_5", "regimen_exact", "eqd2_within_5", "published", "impossible"]
KINDS = ("published for this cancer", "published for another", "possible, not in the table", "impossible", "no regimen")
TEST_COLUMNS = ["model", "against", "task", "split", "metric", "n", "units", "difference", "low", "high", "p", "p_holm", "rank_biserial", "dz", "paper_p"]
FEWEST_UNITS = 13  # if all of as many differ in one direction, the signed-rank test with ties reaches p <= 0.001; with fewer it cannot
CHECKED = {"whole": "were found with dose and fractions", "dose": "with the dose alone", "parts": "in parts", "no": "rest on general knowledge"}
DISTANCE_COLUMNS = ["model", "stage", "split", "n", "with_eqd2", "mean_gy", "low", "high", "median_gy", "within_2_gy", "higher", "lower"]


@cache
def rules() -> dict:
    """radonc.yaml."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


# ---- physics ------------------------------------------------------------------------------------------------------------------


def alpha_beta(cancer_type: str) -> float:
    """alpha/beta of a cancer's tumors in Gy."""
    return float(rules()["alpha_beta"].get(cancer_type, rules()["alpha_beta"]["default"])["value"])


def bed(gy: float, fractions: int, ratio: float) -> float:
    """Biologically effective dose (Gy) of `gy` in equal fractions, for an alpha/beta of `ratio` Gy."""
    return gy * (1 + gy / fractions / ratio)


def eqd2(gy: float, fractions: int, ratio: float) -> float:
    """The dose (Gy) that in fractions of 2 Gy has the same effect."""
    return bed(gy, fractions, ratio) / (1 + 2 / ratio)


def has_eqd2(course: dict) -> bool:
    """Whether BED and EQD2 mean something for a course: equal fractions, each given within minutes, and none above `largest_fraction`.

    Of brachytherapy that holds for high-dose-rate courses only. The dose rate is recorded nowhere: a single application counts as an implant at a low dose rate,
    and so does one larger than any fraction of the table. External beam and brachytherapy in one row are no equal fractions.
    """
    gy, n = course["gy"], course["fractions"]
    if not n or gy / n > rules()["largest_fraction"] or "+" in course["modality"]:
        return False
    return class_of(course["modality"]) == "external" or (n > 1 and gy / n <= largest_applied())


def largest_applied() -> float:
    """The largest dose per fraction (Gy) of the published brachytherapy in more than one fraction."""
    return max(row["gy"] / row["fractions"] for row in table_of("brachytherapy") if row["fractions"] > 1)


def regimen_numbers(course: dict | None, cancer_type: str) -> dict[str, float]:
    """gy, fractions, fraction_gy, bed, eqd2 (Gy, tumor of this cancer) of a parsed answer; NaN where it names no dose, and for the last two where not `has_eqd2`."""
    if course is None or course["gy"] is None:
        return dict.fromkeys(("gy", "fractions", "fraction_gy", "bed", "eqd2"), np.nan)
    gy, n, ratio = course["gy"], course["fractions"], alpha_beta(cancer_type)
    each = gy / n if n else np.nan
    trusted = has_eqd2(course)
    return {"gy": gy, "fractions": n, "fraction_gy": each, "bed": bed(gy, n, ratio) if trusted else np.nan, "eqd2": eqd2(gy, n, ratio) if trusted else np.nan}


def table_of(kind: str) -> list[dict]:
    """The published regimens of one class, external or brachytherapy."""
    return [row for row in rules()["regimens"] if row.get("kind", "external") == kind]


def class_of(modality: str) -> str:
    """The class of the table that a modality belongs to; a mixed one counts as brachytherapy, whose limits are wider, and a modality that is not named as external."""
    return "brachytherapy" if "brachytherapy" in modality else "external"


def matching(course: dict, cancer_type: str) -> list[dict]:
    """The published regimens that a course follows, those of its own cancer first (dose_within, many)."""
    found = []
    for row in table_of(class_of(course["modality"])):
        apart = abs(course["fractions"] - row["fractions"])
        if abs(course["gy"] - row["gy"]) <= rules()["dose_within"] * row["gy"] + 1e-9 and apart <= (1 if row["fractions"] > rules()["many"] else 0):
            found.append(row)
    return sorted(found, key=lambda row: cancer_type not in row["for"] and "any" not in row["for"])


def is_impossible(course: dict) -> bool:
    """Whether nobody would give what no regimen of the table is like: a dose or dose per fraction out of the limits of radiotherapy.yaml, or far more than any published regimen in so few fractions."""
    gy, n, modality = course["gy"], course["fractions"], course["modality"]
    limits = radiotherapy.rules()["dose"].get(modality, radiotherapy.rules()["dose"]["external beam"])
    if not 1 <= n <= max(radiotherapy.rules()["most_fractions"], max(row["fractions"] for row in rules()["regimens"])) or not limits[0] <= gy <= limits[1]:
        return True
    if None in radiotherapy.checked(gy, n, modality)[:2]:
        return True
    if class_of(modality) == "brachytherapy":
        return n > 1 and gy / n > rules()["beyond"] * largest_applied()
    return gy > rules()["beyond"] * max(row["gy"] for row in table_of("external") if row["fractions"] <= n)


@cache
def largest_eqd2(cancer_type: str) -> float:
    """The largest EQD2 (Gy) of external beam that the table holds for a cancer; infinite where it holds none."""
    return max((eqd2(row["gy"], row["fractions"], alpha_beta(cancer_type)) for row in table_of("external") if cancer_type in row["for"]), default=np.inf)


def is_overdose(course: dict, cancer_type: str) -> bool:
    """Whether a course of external beam has more than `overdose` times the largest published EQD2 of this cancer; as a bound it is taken for large fractions too."""
    if class_of(course["modality"]) != "external" or not course["fractions"]:
        return False
    return eqd2(course["gy"], course["fractions"], alpha_beta(cancer_type)) > rules()["overdose"] * largest_eqd2(cancer_type)


def plausibility(course: dict | None, cancer_type: str) -> tuple[str, str]:
    """One of KINDS, and the source of the published regimen that it follows ("" where it follows none)."""
    if course is None or course["gy"] is None:
        return "no regimen", ""
    found = matching(course, cancer_type)
    if found and (cancer_type in found[0]["for"] or "any" in found[0]["for"]):
        return "published for this cancer", found[0]["source"]
    if is_overdose(course, cancer_type) or (not found and is_impossible(course)):
        return "impossible", ""
    return ("published for another", found[0]["source"]) if found else ("possible, not in the table", "")


def review(cohort: pd.DataFrame) -> pd.DataFrame:
    """The regimens that the patients got against the table, most frequent first: cancer_type, regimen, patients, fraction_gy, bed, eqd2, plausibility, source,
    checked (of the table's row, "" where there is none).

    cohort: corpus.radonc.prepare. What the registry says and nothing publishes is for a person to look at, not wrong by itself.
    """
    rows = []
    for (cancer, regimen), part in cohort.groupby(["cancer_type", "radiotherapy"]):
        course = plans.course_of(regimen)
        numbers = regimen_numbers(course, cancer)
        kind, source = plausibility(course, cancer)
        followed = matching(course, cancer) if source else []
        rows.append({"cancer_type": cancer, "regimen": regimen, "patients": len(part), **{name: numbers[name] for name in ("fraction_gy", "bed", "eqd2")},
                     "plausibility": kind, "source": source, "checked": followed[0]["checked"] if followed else ""})  # fmt: skip
    return pd.DataFrame(rows).sort_values(["patients", "cancer_type", "regimen"], ascending=[False, True, True], ignore_index=True)


def published() -> pd.DataFrame:
    """The table of published regimens: gy, fractions, fraction_gy (Gy), cancers, kind, source, checked (a key of CHECKED), against (where it was read)."""
    rows = [{"gy": row["gy"], "fractions": row["fractions"], "fraction_gy": row["gy"] / row["fractions"], "cancers": " ".join(row["for"]),
             "kind": "permanent implant" if row.get("permanent") else row.get("kind", "external"), **{name: row[name] for name in ("source", "checked", "against")}}
            for row in rules()["regimens"]]  # fmt: skip
    return pd.DataFrame(rows)


def table_sentences(reviewed: pd.DataFrame) -> list[str]:
    """What the table of published regimens rests on, and how many of the cohort's patients follow a row of each kind. reviewed: review."""
    table, patients = published(), reviewed["patients"].sum()
    counts = table["checked"].value_counts()
    said = ", ".join(f"{counts.get(name, 0)} {words}" for name, words in CHECKED.items())
    share = {name: reviewed.loc[reviewed["checked"].eq(name), "patients"].sum() / patients for name in CHECKED}
    followed = reviewed["checked"].ne("")
    return [f"{len(table)} published regimens were compared with abstracts, protocols, registrations and guidelines that could be read: {said}.",
            f"Of {patients:,} patients, {reviewed.loc[followed, 'patients'].sum() / patients:.0%} follow a row of the table: {share['whole']:.0%} one that was found with dose and fractions, "
            f"{share['dose'] + share['parts']:.0%} one found with the dose alone or in parts, {share['no']:.0%} one that rests on general knowledge."]  # fmt: skip


# ---- scores -------------------------------------------------------------------------------------------------------------------


def read_items(study: Path) -> pd.DataFrame:
    """Every answer of the study with its question and what it is worth: ITEM_COLUMNS, MEANS and PHYSICS (0-1, NaN where not asked), and for regimens
    plausibility, fraction_gy, eqd2, gold_eqd2 (Gy). Empty without predictions."""
    frames = []
    for path in sorted((study / "predictions").glob("*/*/radonc_*.jsonl")):
        task, split = path.name.removesuffix(".jsonl").split(".", 1)
        asked = study / "datasets" / task / f"{split}.jsonl"
        if (path.parts[-2] == "baseline" and path.parts[-3] not in SIMPLE) or not path.stat().st_size or not asked.is_file() or not asked.stat().st_size:
            continue
        questions = pd.DataFrame([row for _, row in score.read_rows(asked)])[["example_id", "patient_id", "institution", "cancer_type", "answers"]]
        answers = pd.DataFrame([row for _, row in score.read_rows(path)])[["example_id", "parsed", "prediction"]]
        frame = questions.merge(answers, on="example_id", validate="one_to_one").rename(columns={"prediction": "given"})
        frames.append(frame.assign(gold=frame["answers"].str[0], model=path.parts[-3], stage=path.parts[-2], task=task, split=split)[ITEM_COLUMNS])
    if not frames:
        return pd.DataFrame(columns=[*ITEM_COLUMNS, *MEANS, *PHYSICS])
    items = pd.concat(frames, ignore_index=True)
    items["accuracy"] = [value_scores([gold], parsed)["value_accuracy"] for gold, parsed in zip(items["gold"], items["parsed"])]
    words = items["given"].where(items["parsed"].eq(UNPARSED), items["parsed"])  # what cannot be read is compared as the model wrote it, as everywhere
    items["rouge1"] = score_pairs((([gold], given) for gold, given in zip(items["gold"], words)), [("paper", "rouge1")])[:, 0, 2]
    known: dict[tuple, dict] = {}
    keys = list(zip(items["gold"], items["parsed"], items["cancer_type"]))
    for key in dict.fromkeys(key for key, task in zip(keys, items["task"]) if task == REGIMEN):
        known[key] = regimen_scores(*key)
    return pd.concat([items, pd.DataFrame([known.get(key, {}) for key in keys], index=items.index)], axis=1)


def regimen_scores(gold: str, parsed: str, cancer_type: str) -> dict:
    """PHYSICS of one regimen (0-1), its plausibility, fraction_gy, eqd2 and gold_eqd2 in Gy. eqd2_within_5 is NaN where the right answer has no EQD2."""
    wanted, said = plans.course_of(gold), plans.course_of("" if parsed == UNPARSED else parsed)
    right, ours = regimen_numbers(wanted, cancer_type), regimen_numbers(said, cancer_type)
    kind, _ = plausibility(said, cancer_type)

    def near(name: str) -> float:
        if np.isnan(right[name]):
            return np.nan
        return float(not np.isnan(ours[name]) and abs(ours[name] - right[name]) <= plans.DOSE_TOLERANCE * right[name] + 1e-9)

    found = plans.course_scores(wanted, said)
    return {
        "dose_within_5": found["dose_within_5"], "fractions_exact": found["fractions_exact"], "fraction_dose_within_5": near("fraction_gy"), "regimen_exact": found["regimen_exact"],
        "eqd2_within_5": near("eqd2"), "published": float(kind == KINDS[0]), "impossible": float(kind == "impossible"), "plausibility": kind,
        "fraction_gy": ours["fraction_gy"], "eqd2": ours["eqd2"], "gold_eqd2": right["eqd2"],
    }  # fmt: skip


def scores(items: pd.DataFrame, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """One row per system, test set, task and metric, SCORE_COLUMNS in points: MEANS, for modality and ICD-10 macro_f1 (precision and recall are macro too), for regimens
    PHYSICS. items: read_items. Where every value is 0, or every one 1, the interval is the exact binomial one (answers.share_interval)."""
    rows = []
    for (model, stage, task, split), part in items.groupby(["model", "stage", "task", "split"], sort=False):
        common = {"model": model, "stage": stage, "task": task, "variant": "all", "split": split, "field": "all", "subgroup": "all", "family": "clinical", "n": len(part),
                  "unparsed": int(part["parsed"].eq(UNPARSED).sum()), "seed": seed}  # fmt: skip
        for metric in [*MEANS, *(PHYSICS if task == REGIMEN else [])]:
            asked = part[part[metric].notna()]
            if len(asked):
                low, high = answers.share_interval(asked[metric], asked, split, n_resamples, seed)
                rows.append(common | {"metric": metric, "f1": 100 * asked[metric].astype(float).mean(), "f1_low": low, "f1_high": high, "n": len(asked)}
                            | ({"family": "paper"} if metric == "rouge1" else {}))  # fmt: skip
        if task != REGIMEN:
            clusters, method = score.ring_clusters(part, split)
            table = classes.class_table(part["gold"].to_numpy(str), part["parsed"].to_numpy(str), clusters, n_resamples, seed, method).set_index("class")
            macro = 100 * table.loc["macro", ["precision", "recall", "f1", "f1_low", "f1_high"]]
            rows.append(common | {"metric": "macro_f1"} | macro.to_dict())
    return pd.DataFrame(rows).reindex(columns=SCORE_COLUMNS)


def tests(items: pd.DataFrame, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Fine-tuned against the original model, and against each simple method, on the same patients: TEST_COLUMNS, one row per model, task, test set and metric of MEANS.

    difference and its limits in points; units: patients, or institutions, that the tests count; p: Wilcoxon signed-rank on each patient's difference, one-sided "fine-tuned is better" as in the paper (of
    institutions' means in the rings of unseen places); p_holm over the comparisons with the original, or with the simple methods, of one test set; rank_biserial
    and dz are effect sizes (stats.wilcoxon_test, stats.cohens_dz); paper_p is what the paper gives for fine-tuned against original.
    """
    tuned = items[items["stage"].str.startswith("sft")]
    rows = []
    for (model, task, split), own in tuned.groupby(["model", "task", "split"], sort=False):
        own = own.set_index("example_id")
        others = items[items["task"].eq(task) & items["split"].eq(split)]
        others = others[(others["model"].eq(model) & others["stage"].eq("base")) | others["stage"].eq("baseline")]
        for (name, stage), other in others.groupby(["model", "stage"], sort=False):
            other = other.set_index("example_id").reindex(own.index)
            clusters, method = score.ring_clusters(own, split)
            for metric in MEANS:
                a, b = 100 * own[metric].to_numpy(dtype=float), 100 * other[metric].to_numpy(dtype=float)
                if np.isnan(b).any():
                    continue
                found, signed = stats.paired_difference(a, b, clusters, n_resamples, seed, method), stats.wilcoxon_test(a, b, clusters)
                rows.append({"model": model, "against": "original" if stage == "base" else name, "task": task, "split": split, "metric": metric, **found, "units": signed["n"], "p": signed["p"],
                             "rank_biserial": signed["rank_biserial"], "dz": stats.cohens_dz(a, b, clusters),
                             "paper_p": rules()["paper"]["p_at_most"] if stage == "base" else np.nan})  # fmt: skip
    table = pd.DataFrame(rows).reindex(columns=TEST_COLUMNS)
    for _, part in table.groupby(["split", table["against"].eq("original")]):
        table.loc[part.index, "p_holm"] = stats.holm(part["p"])
    return table


def distances(items: pd.DataFrame, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """How far regimens lie from the right ones in EQD2: DISTANCE_COLUMNS, one row per system and test set.

    with_eqd2: answers of which both sides have an EQD2; mean_gy of the absolute distance with its interval (score.ring_clusters), and median_gy; within_2_gy, higher,
    lower: shares (points) of with_eqd2, the last two by more than 2 Gy. An answer without a dose has no distance: read with_eqd2 beside n.
    """
    rows = []
    for (model, stage, split), part in items[items["task"].eq(REGIMEN)].groupby(["model", "stage", "split"], sort=False):
        known = part[part[["eqd2", "gold_eqd2"]].notna().all(axis=1)]
        row = {"model": model, "stage": stage, "split": split, "n": len(part), "with_eqd2": len(known)}
        if len(known):
            apart = (known["eqd2"] - known["gold_eqd2"]).to_numpy(dtype=float)
            clusters, method = score.ring_clusters(known, split)
            low, high = stats.cluster_interval(np.abs(apart), clusters, method, n_resamples, seed)
            row |= {"mean_gy": np.abs(apart).mean(), "low": max(low, 0), "high": high, "median_gy": np.median(np.abs(apart)), "within_2_gy": 100 * (np.abs(apart) <= 2).mean(),
                    "higher": 100 * (apart > 2).mean(), "lower": 100 * (apart < -2).mean()}  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows).reindex(columns=DISTANCE_COLUMNS)


# ---- for the reader -----------------------------------------------------------------------------------------------------------


def cohort_sentences(corpus: str, found: dict) -> list[str]:
    """What the tables of corpus.radonc.prepare say of the cohort, in words."""
    n, treated, paper = len(found["cohort"]), found["flow"]["patients"].iloc[1], rules()["paper"]
    said = [f"{n:,} of {treated:,} patients with radiotherapy are in the cohort, {n / treated:.0%} (the paper: {paper['cohort']:,} of {paper['cases']:,} cases, "
            f"{paper['cohort'] / paper['cases']:.0%})."]  # fmt: skip
    cancers = found["cohort"]["cancer_type"].value_counts()
    said.append("By cancer: " + ", ".join(f"{name} {count}" for name, count in cancers.items()) + ".")
    if corpus == "tcga":
        other = ", ".join(f"{row.modality} {row.patients}" for row in found["other"].itertuples()) or "none"
        given = found["cohort"]["radiotherapy_modality"].value_counts()
        scored = ", ".join(f"{name} {given.get(name, 0)}" for name in MODALITIES)
        said += [f"Without breast cancer, whose reports come from a file of their own, they are {n - cancers.get('BRCA', 0):,}.",
                 f"The course of {found['late']} patients began more than a year after the diagnosis: it may belong to a relapse that the registry does not call one.",
                 f"Modalities that are asked for: {scored}. The registry does not record the particle: photons, protons and electrons are all external beam there.",
                 f"Other modalities of one clear course, counted and not scored: {other}."]  # fmt: skip
    else:
        said.append("Invented patients: the course follows from the facts of the tumor, its schedule is drawn from the usual ones, the particle follows from site, stage, age and side. "
                    f"So whoever knows every course, and names one of its schedules, has the whole regimen right in {(1 / found['cohort']['schedules']).mean():.0%} of the patients.")  # fmt: skip
    return said


def score_table(table: pd.DataFrame, task: str) -> pd.DataFrame:
    """Scores of one task for the eye: a row per test set and system, a column per metric, "score [95 % interval]", macro F1 with precision and recall."""
    rows = table[table["task"].eq(task)].copy()
    rows["cell"] = [f"{a:.1f} [{b:.1f}, {c:.1f}]" + (f" (P {p:.1f}, R {r:.1f})" if p == p else "")
                    for a, b, c, p, r in zip(rows["f1"], rows["f1_low"], rows["f1_high"], rows["precision"], rows["recall"])]  # fmt: skip
    place = {system: number for number, system in enumerate(system_order(rows))}
    rows["place"] = [place[system] for system in zip(rows["model"], rows["stage"])]
    wide = rows.pivot_table(index=["split", "place", "model", "stage"], columns="metric", values="cell", aggfunc="first", sort=False).reset_index()
    wide = wide.sort_values(["split", "place"], ignore_index=True)
    wide.insert(0, "test set", wide["split"].map(ring_name))
    wide.insert(1, "system", [model_name(*system) for system in zip(wide["model"], wide["stage"])])
    counts = rows.groupby(["split", "model", "stage"])["n"].max()
    wide.insert(2, "n", [counts[key] for key in zip(wide["split"], wide["model"], wide["stage"])])
    return wide.drop(columns=["split", "place", "model", "stage"]).fillna("").rename_axis(None, axis=1)


def sentences(table: pd.DataFrame, tested: pd.DataFrame, items: pd.DataFrame) -> list[str]:
    """What was found, in words, per test set: tuned against original beside the paper's p, tuned against the best simple method, impossible regimens."""
    said, limit = [], rules()["paper"]["p_at_most"]
    for (split, model), part in tested[tested["against"].eq("original")].groupby(["split", "model"], sort=False):
        small, units = part["p"].le(limit), int(part["units"].min())
        place = "institutions" if split.startswith("external") else "patients"
        few = f" Only {units} {place} are compared: such a p is hardly within reach, whatever the models do." if units < FEWEST_UNITS else ""
        said.append(f"{ring_name(split)}: fine-tuned {model} against the original, one-sided Wilcoxon: p <= {limit:g} in {small.sum()} of {len(small)} comparisons (the paper: in all); "
                    f"largest p {part['p'].max():.2g}, rank-biserial {part['rank_biserial'].min():.2f} to {part['rank_biserial'].max():.2f}.{few}")  # fmt: skip
    for (split, model, task), part in tested[tested["against"].ne("original") & tested["metric"].eq("accuracy")].groupby(["split", "model", "task"], sort=False):
        row = part.loc[part["difference"].idxmin()]
        same = row["difference"] == row["low"] == row["high"] == 0
        word = "above" if row["low"] > 0 else "below" if row["high"] < 0 else "right for the same patients as" if same else "not told apart from"
        said.append(f"{ring_name(split)}, {TASKS[task]}: fine-tuned {model} is {word} {model_name(row['against'], 'baseline')}, the best simple method ({row['difference']:+.1f} points, "
                    f"95 % interval {row['low']:+.1f} to {row['high']:+.1f}, n = {row['n']}).")  # fmt: skip
    said += modality_sentences(table)
    dangerous = table[table["metric"].eq("impossible")]
    for row in dangerous[dangerous["stage"].str.startswith("sft")].itertuples():
        said.append(f"{ring_name(row.split)}: impossible regimens, a dangerous error, among the answers of {model_name(row.model, row.stage)}: {row.f1:.1f} % (95 % interval {row.f1_low:.1f} to "
                    f"{row.f1_high:.1f}, n = {row.n}).")  # fmt: skip
    if not len(items):
        said.append("Nothing was answered.")
    return said


def modality_sentences(table: pd.DataFrame) -> list[str]:
    """The modality of each tuned model by macro F1, beside whoever always names the most frequent one: most patients get that, so accuracy says little."""
    rows, said = table[table["task"].eq("radonc_modality") & table["metric"].eq("macro_f1")], []
    for split, part in rows.groupby("split", sort=False):
        always = part[part["model"].eq("majority")]
        for row in part[part["stage"].str.startswith("sft")].itertuples():
            beside = f"; whoever always names the most frequent one: {always['f1'].iloc[0]:.1f}" if len(always) else ""
            said.append(f"{ring_name(split)}, modality, macro F1: {model_name(row.model, row.stage)} {row.f1:.1f} (95 % interval {row.f1_low:.1f} to {row.f1_high:.1f}, n = {row.n}){beside}.")
    return said


def write(run_dir: Path, tables: dict[str, pd.DataFrame]) -> list[Path]:
    """Write results/radonc_<name>.csv of the run (`items` as .parquet, answers without text of a note), and a line of the ledger per held-out test set; returns the paths."""
    folder = Path(run_dir) / "results"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, table in tables.items():
        path = folder / f"radonc_{name}.{'parquet' if name == 'items' else 'csv'}"
        if name == "items":
            score.write_whole(path, lambda file, table=table: table.to_parquet(file, index=False))
        else:
            score.write_whole(path, lambda file, table=table: table.to_csv(file, index=False, float_format="%.6g"))
        written.append(path)
    for split in dict.fromkeys(tables["scores"]["split"]):
        score.append_ledger(run_dir, split, "radiation oncology")
    return written
