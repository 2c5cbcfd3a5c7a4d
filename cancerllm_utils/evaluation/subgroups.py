"""For whom are the answers worse? Scores by cancer type, institution, report length, OCR quality, age, sex and race, with what is told from chance.

All held-out rings are taken together, as a single ring holds too few patients of most kinds. What varies here is the sample of patients, so
patients are the clusters; how far hospitals differ is asked in rings.py. A kind with fewer than MIN_PATIENTS patients is named and not shown.
Each shown kind is held against all other patients whose kind is known, once as they are and once within cancer types: a difference between the
sexes may be one between breast and prostate cancer.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from cancerllm_utils.corpus import quality
from cancerllm_utils.evaluation import rings, score, stats
from cancerllm_utils.evaluation.rings import METRICS, MIN_CELL, MIN_PATIENTS
from cancerllm_utils.results import METRIC_NAMES, model_name, signed, task_name

HELD_OUT = "held_out"  # the split column of rows that rest on all held-out rings
CANCER, RACE, RACE_WITHIN = "cancer type", "race", "race within cancer type"
DIMENSIONS = [CANCER, "institution", "report length", "OCR quality", "age", "sex", RACE, RACE_WITHIN]
AGES = [0, 50, 65, 75, 200]
AGE_NAMES = ["under 50", "50 to 64", "65 to 74", "75 and over"]
UNKNOWN = "not known"
COLUMNS = [
    "model", "stage", "task", "split", "family", "metric", "dimension", "level", "shown", "n", "patients", "f1", "f1_low", "f1_high",
    "difference", "low", "high", "p", "p_holm", "within_cancer", "within_low", "within_high", "within_p",
]  # fmt: skip


# ---- who is asked -----------------------------------------------------------------------------------------------------------------


def held_out_answers(found: dict) -> dict[str, dict]:
    """task -> its questions of all held-out rings together, as an entry of rings.answers with `split` (n,); the development patients where no
    other ring was scored."""
    together = {}
    for task in dict.fromkeys(task for task, _ in found):
        splits = [split for split in (rings.REFERENCE, *rings.OUTER) if (task, split) in found] or [split for of, split in found if of == task and split == "dev"]
        entries = [found[task, split] for split in splits]
        if not entries:
            continue
        systems = [pair for pair in entries[0]["systems"] if all(pair in entry["systems"] for entry in entries)]
        together[task] = {"systems": systems, "split": np.repeat(np.array(splits, dtype=object), [len(entry["example_id"]) for entry in entries])}
        for name in ("example_id", "patient_id", "institution", "cancer_type"):
            together[task][name] = np.concatenate([entry[name] for entry in entries])
        for metric in METRICS:
            together[task][metric] = np.concatenate([entry[metric][:, [entry["systems"].index(pair) for pair in systems]] for entry in entries])
    return together


def note_of(run_dir: Path, task: str, splits: list[str]) -> dict[str, str]:
    """example_id -> note_id of a task's test sets."""
    return {row["example_id"]: row["note_id"] for split in splits for _, row in score.read_rows(run_dir / "datasets" / task / f"{split}.jsonl")}


def traits(run_dir: str | Path, together: dict[str, dict]) -> dict[str, pd.DataFrame]:
    """task -> a frame with one row per question and a column per dimension that this corpus records: the level's name, UNKNOWN where it is not known.

    Thirds of length and OCR quality are those of the notes that are asked about, over all tasks; their cut points stand in the names.
    """
    run_dir = Path(run_dir)
    notes = {task: pd.Series(entry["example_id"], dtype=object).map(note_of(run_dir, task, list(dict.fromkeys(entry["split"])))) for task, entry in together.items()}
    people = pd.read_parquet(run_dir / "corpus" / "patients.parquet").drop_duplicates("patient_id").set_index("patient_id")
    texts = pd.read_parquet(run_dir / "corpus" / "quality.parquet").set_index("note_id")
    texts = texts[texts.index.isin(set().union(*(set(values) for values in notes.values())))]
    of_note = {"report length": lengths(texts["words"]), "OCR quality": damage(texts)}
    of_patient = {"age": age_bands(people["age"])} if "age" in people else {}
    of_patient |= {name: plain_words(people[column]) for name, column in (("sex", "gender"), (RACE, "race")) if column in people}
    found = {}
    for task, entry in together.items():
        table = {CANCER: pd.Series(entry["cancer_type"]), "institution": pd.Series(entry["institution"])}
        table |= {name: notes[task].map(values) for name, values in of_note.items()}
        table |= {name: pd.Series(entry["patient_id"]).map(values) for name, values in of_patient.items()}
        frame = pd.DataFrame(table, dtype=object)
        frame = frame.mask(frame.isna() | frame.eq(""), UNKNOWN)
        found[task] = frame.loc[:, frame.ne(UNKNOWN).any()]
    return found


def lengths(words: pd.Series) -> pd.Series:
    """Third of each note by its number of words, named with the cut points."""
    low, high = (int(cut) for cut in np.quantile(words, [1 / 3, 2 / 3], method="lower")) if len(words) else (0, 0)
    names = [f"short (up to {low:,} words)", f"middle (up to {high:,})", f"long (over {high:,})"]
    return pd.Series(np.array(names, dtype=object)[np.searchsorted([low, high], words, side="left")], index=words.index, dtype=object)


def damage(texts: pd.DataFrame) -> pd.Series:
    """Third of each note by its OCR noise (quality.strata), named with the cut points."""
    strata, (low, high) = quality.strata(texts)
    names = {"clean": f"clean (up to {100 * low:.1f} % damaged words)", "some": f"some damage (up to {100 * high:.1f} %)", "heavy": f"heavy damage (over {100 * high:.1f} %)"}
    return strata.map(names).astype(object)


def age_bands(ages: pd.Series) -> pd.Series:
    """Band of each age in years; UNKNOWN where it is missing."""
    numbers = pd.to_numeric(ages, errors="coerce").astype(float)
    return pd.cut(numbers, AGES, right=False, labels=AGE_NAMES).astype(object).where(numbers.notna(), UNKNOWN)


def plain_words(values: pd.Series) -> pd.Series:
    """Registry words in lower case, f and m written out, UNKNOWN for a blank."""
    words = values.astype(object).where(values.notna(), "").astype(str).str.strip().str.lower().astype(object)
    return words.replace({"f": "female", "m": "male", "": UNKNOWN, "unknown": UNKNOWN})


def groups(frame: pd.DataFrame, patients: np.ndarray) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """(dimension, level, its questions, those it is held against) of every level.

    The others are all whose level is known; nobody for an unknown level, and for the second of two levels, as one difference says all. Race
    within a cancer type stands there only where two races of it have MIN_PATIENTS patients.
    """
    nobody = np.zeros(len(frame), dtype=bool)

    def levels(dimension: str, values: np.ndarray, asked: np.ndarray, prefix: str = "") -> list:
        known = asked & (values != UNKNOWN)
        names = sorted(set(values[asked]), key=level_order)
        single = len(set(names) - {UNKNOWN}) == 2
        return [(dimension, prefix + name, asked & (values == name), nobody if name == UNKNOWN or (single and place) else known & (values != name)) for place, name in enumerate(names)]

    out = []
    for dimension in [name for name in DIMENSIONS if name in frame]:
        out += levels(dimension, frame[dimension].to_numpy(dtype=object), ~nobody)
    if RACE in frame:
        race, cancer = frame[RACE].to_numpy(dtype=object), frame[CANCER].to_numpy(dtype=object)
        for kind in sorted(set(cancer) - {UNKNOWN}):
            of_kind = (cancer == kind) & (race != UNKNOWN)
            if sum(len(set(patients[of_kind & (race == name)])) >= MIN_PATIENTS for name in set(race[of_kind])) > 1:
                out += levels(RACE_WITHIN, race, of_kind, f"{kind}, ")
    return out


def level_order(level: str) -> tuple:
    """Bands and thirds in their own order, other levels by name, UNKNOWN last."""
    ordered = [*AGE_NAMES, "short", "middle", "long", "clean", "some damage", "heavy damage"]
    return level == UNKNOWN, next((place for place, name in enumerate(ordered) if level.startswith(name)), len(ordered)), level


# ---- scores --------------------------------------------------------------------------------------------------------------------


def estimate(values: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Means in points with their errors over patients, (3, k) as rings.weighted_mean gives them.

    Where all patients score the same, the jackknife's error of 0 would promise certainty: it becomes the one that reaches the exact binomial
    limit of as many patients that are all right, 100 * 0.025 ** (1 / n).
    """
    found, number = rings.weighted_mean(values, np.zeros(len(values)), patients, {0.0: 1}), len(set(patients))
    least = (100 - 100 * 0.025 ** (1 / number)) / scipy_stats.t.ppf(0.975, found[2])
    found[1] = np.where(found[1] < 1e-6, least, found[1])
    return found


def within_cancer(values: np.ndarray, entry: dict, group: np.ndarray, rest: np.ndarray) -> pd.DataFrame:
    """Difference between two groups of questions within cancer types (rings.welch), each type weighted by how much it can tell: n1 n2 / (n1 + n2)."""
    cancers = entry["cancer_type"]
    counts = [pd.Series(cancers[side], dtype=object).value_counts() for side in (group, rest)]
    weights = {name: n * counts[1][name] / (n + counts[1][name]) for name, n in counts[0].items() if n >= MIN_CELL and counts[1].get(name, 0) >= MIN_CELL}
    if not weights:
        return pd.DataFrame(np.nan, index=range(values.shape[1]), columns=["difference", "low", "high", "p"])
    return rings.welch(*(rings.weighted_mean(values[side], cancers[side], entry["patient_id"][side], weights) for side in (group, rest)))


def _task_rows(entry: dict, frame: pd.DataFrame) -> pd.DataFrame:
    """All rows of one task, without task, split and p_holm."""
    patients, values, parts = entry["patient_id"], np.hstack([entry[metric] for metric in METRICS]), []
    columns = pd.DataFrame([(*pair, family, metric) for metric, (family, _) in METRICS.items() for pair in entry["systems"]], columns=["model", "stage", "family", "metric"])
    for dimension, level, group, rest in groups(frame, patients):
        number, others = len(set(patients[group])), len(set(patients[rest]))
        row = columns.assign(dimension=dimension, level=level, shown=number >= MIN_PATIENTS)
        if number >= MIN_PATIENTS:
            mean, error, freedom = own = estimate(values[group], patients[group])
            reach = scipy_stats.t.ppf(0.975, freedom) * error
            row = row.assign(n=int(group.sum()), patients=number, f1=mean, f1_low=np.clip(mean - reach, 0, 100), f1_high=np.clip(mean + reach, 0, 100))
            if others >= MIN_PATIENTS:  # a difference to fewer would tell what they score
                row = pd.concat([row, rings.welch(own, estimate(values[rest], patients[rest]))], axis=1)
                if dimension not in (CANCER, RACE_WITHIN):
                    within = within_cancer(values, entry, group, rest).rename(columns={"difference": "cancer"})
                    row = pd.concat([row, within.add_prefix("within_")], axis=1)
        parts.append(row)
    return pd.concat(parts, ignore_index=True)


def run(run_dir: str | Path, found: dict) -> pd.DataFrame:
    """Every subgroup of every task, system and metric of METRICS: COLUMNS, in points. found: what rings.answers returned.

    shown: False where a level has fewer than MIN_PATIENTS patients; its numbers are then empty. difference: the level minus all other patients
    whose level is known, with low, high (95 %), p; p_holm: adjusted over all differences of one system, task and metric. within_cancer: the same
    within cancer types, by itself. Writes results/subgroups.csv.
    """
    together = held_out_answers(found)
    frames, parts = traits(run_dir, together) if together else {}, []
    for task, entry in together.items():
        parts.append(_task_rows(entry, frames[task]).assign(task=task, split="dev" if set(entry["split"]) == {"dev"} else HELD_OUT))
    table = (pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()).reindex(columns=COLUMNS)
    for _, places in table.groupby(["model", "stage", "task", "metric"]).groups.items():
        table.loc[places, "p_holm"] = stats.holm(table.loc[places, "p"])
    score.write_whole(Path(run_dir) / "results" / "subgroups.csv", lambda file: table.to_csv(file, index=False, float_format="%.6f"))
    return table


# ---- in words -----------------------------------------------------------------------------------------------------------------


def shown_table(table: pd.DataFrame, systems: list[tuple[str, str]], metric: str = "average") -> pd.DataFrame:
    """For the eye: task, dimension, level, patients, questions, and the score with its interval of each system; "fewer than 20" where it is not shown.

    Institutions that are not shown have no row here.
    """
    rows = table[(table["metric"] == metric) & np.array([pair in systems for pair in zip(table["model"], table["stage"])], dtype=bool)]
    out = {}
    for row in rows[rows["shown"].astype(bool) | (rows["dimension"] != "institution")].to_dict("records"):
        line = out.setdefault((row["task"], row["dimension"], row["level"]), {"task": task_name(row["task"]), "subgroup": row["dimension"], "level": row["level"]})
        line["patients"] = f"{row['patients']:,.0f}" if row["shown"] else f"fewer than {MIN_PATIENTS}"
        line["questions"] = f"{row['n']:,.0f}" if row["shown"] else ""
        line[model_name(row["model"], row["stage"])] = f"{row['f1']:.1f} ({row['f1_low']:.1f} to {row['f1_high']:.1f})" if row["shown"] else ""
    return pd.DataFrame(list(out.values()))


def sentences(table: pd.DataFrame, systems: list[tuple[str, str]], metric: str = "average", alpha: float = 0.05) -> list[str]:
    """For each system and task: the range over cancer types, the differences that hold after Holm (and whether they hold within cancer types), and
    which dimensions the corpus does not record."""
    out = []
    for (task, model, stage), rows in table[table["metric"] == metric].groupby(["task", "model", "stage"], sort=False):
        if (model, stage) not in systems:
            continue
        cancers = rows[(rows["dimension"] == CANCER) & rows["shown"]].sort_values("f1")
        text = f"{task_name(task)}, {model_name(model, stage)}: "
        if len(cancers) > 1:
            worst, best = cancers.iloc[0], cancers.iloc[-1]
            text += f"from {worst['f1']:.1f} points of {METRIC_NAMES[metric]} in {worst['level']} to {best['f1']:.1f} in {best['level']}. "
        tested = rows[rows["p_holm"].notna()]
        told = tested[tested["p_holm"] <= alpha]
        text += f"Of {len(tested)} differences between subgroups and all other patients, {len(told)} can be told from chance (Holm)"
        text += ": " + "; ".join(_difference(row) for row in told.to_dict("records")) + "." if len(told) else "."
        out.append(text)
    hidden = table.loc[~table["shown"].astype(bool), ["task", "dimension", "level"]].drop_duplicates()
    if len(table):
        out.append(f"{len(hidden)} subgroups have fewer than {MIN_PATIENTS} patients and are not shown.")
        out += [f"Nothing is known of {name}." for name in DIMENSIONS[:-1] if name not in set(table["dimension"])]
        if RACE in set(table["dimension"]) and RACE_WITHIN not in set(table["dimension"]):
            out.append(f"No cancer type has {MIN_PATIENTS} patients of two races among those asked about, so race within cancer type cannot be shown.")
    return out or ["Nothing was scored: there are no subgroups to show."]


def _difference(row: dict) -> str:
    text = f"{row['dimension']} {row['level']} {signed(row['difference'])} ({signed(row['low'])} to {signed(row['high'])})"
    if row["dimension"] in (CANCER, RACE_WITHIN):
        return text
    if pd.isna(row["within_cancer"]):
        return text + ", within cancer types not known"
    return text + f", within cancer types {signed(row['within_cancer'])} ({signed(row['within_low'])} to {signed(row['within_high'])})"
