"""What the model can be trusted with: one word per task, decided by the rules of verdicts.yaml from the run's tables; nothing is scored here."""

from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from cancerllm_utils.evaluation import comparisons, danger
from cancerllm_utils.results import BASELINES, headline, main_split, main_systems, model_name, one_row, ring_name, signed, task_name

COLUMNS = ["key", "word", "task", "verdict", "right answers", "best simple method", "hospitals never seen", "worst errors", "why"]
METRIC = "value_accuracy"
WORST = 1  # severity of the worst kinds of dangerous errors
SUBGROUPS_NAMED = 3


@cache
def rules() -> dict:
    """verdicts.yaml as a dict, with `simple`: the simple methods that comparisons.yaml names, and `alpha`. It is kept: do not change it."""
    written = comparisons.load()
    trivial = next(entry for entry in written["primary"] if entry["id"] == "trivial")
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")) | {"simple": trivial["b"], "alpha": written["alpha"]}


def study_system(scores: pd.DataFrame) -> tuple[str, str] | None:
    """The (model, stage) that the first page judges: the first language model that read notes and was tuned, else the most complete; None without one."""
    systems = main_systems(scores)
    return next((pair for pair in systems if pair[1].startswith("cpt-sft")), systems[0] if systems else None)


def judge(results: dict) -> pd.DataFrame:
    """One row per scored task of the judged model, as COLUMNS: strings; `key` is the task's name in the files, `word` a key of rules()["words"].

    results: summary.read_results. Right answers are those of the main test set in percent, with their 95 % interval; `why` says which rule decided.
    """
    scores = results["scores"]
    system = study_system(scores)
    if system is None:
        return pd.DataFrame(columns=COLUMNS)
    split, found = main_split(scores), rules()
    right = headline(scores, METRIC, "clinical")
    out = []
    for task in dict.fromkeys(right["task"]):
        own = one_row(right, model=system[0], stage=system[1], task=task, split=split)
        if own is None:
            continue
        pairs = paired(results["paired"], system, task, split)
        worst = worst_errors(results["dangerous"], system, task, split)
        false = one_row(headline(scores, "false_answer", "clinical", [split]), model=system[0], stage=system[1], task=task)
        word, why = ("unknown", "no patient of this corpus has a label") if results["silver"] else decide(own, pairs, false, worst, found)
        why += f"; {found['historical_note']}" if task in found["historical"] else ""
        out.append([task, word, task_name(task), found["words"][word], percent(own), best_simple(right, task, split, found["simple"]), unseen(results, right, system, task),
                    "not counted" if worst is None else f"{kind_name(worst['kind'])}: {percent(worst, 'share', 'of')}", why])
    return pd.DataFrame(out, columns=COLUMNS)


def decide(own: pd.Series, pairs: pd.DataFrame, false: pd.Series | None, worst: pd.Series | None, found: dict) -> tuple[str, str]:
    """(key of the word, which rule decided) of one task. own, false, worst: a score with its interval, in percent; pairs: paired() of the task."""
    ahead = pairs["low"].gt(0) & pairs["p_holm"].le(found["alpha"])
    read = pairs["name"].eq(found["without_reading"])
    if not own["f1_low"] >= found["right_at_least"]:  # an interval that is not known is no interval that keeps the limit
        sure = own["f1_high"] < found["right_at_least"]
        return "avoid", "more answers are wrong than right" if sure else "it is not certain that more answers are right than wrong"
    if worst is not None and worst["low"] > found["dangerous_at_most"]:
        return "avoid", "too many errors of the worst kind"
    if false is not None and false["f1_low"] > found["false_answers_at_most"]:
        return "avoid", "where a note states nothing, it gives a value too often"
    if pairs.empty:
        return "unknown", "it was not compared with a simple method"
    if read.any() and not ahead[read].all():
        return "avoid", "no better than without reading the note"
    if not ahead.all():
        equal = [BASELINES.get(name, name) for name in pairs.loc[~ahead, "name"]]
        return "simple", f"not clearly ahead of: {', '.join(equal)}"
    unsafe = [text for row, high, limit, text in [(false, "f1_high", "false_answers_at_most", "values given where the note states none"),
                                                  (worst, "high", "dangerous_at_most", "errors of the worst kind")]
              if row is not None and not row[high] <= found[limit]]
    if unsafe:
        return "check", f"clearly ahead of every simple method, but not within the limit for {' and '.join(unsafe)}"
    return "useful", "clearly ahead of every simple method" + ("" if worst is not None else "; dangerous errors were not counted")


def paired(comparisons_table: pd.DataFrame, system: tuple[str, str], task: str, split: str) -> pd.DataFrame:
    """The paired differences in right answers of a system to the simple methods that it was tested against: name, difference, low, high, p_holm."""
    rows = comparisons_table[comparisons_table["a"].eq("/".join(system)) & comparisons_table["task"].eq(task) & comparisons_table["split"].eq(split)
                             & comparisons_table["metric"].eq(METRIC)].dropna(subset=["difference"])
    rows = rows.assign(name=rows["b"].astype(str).str.removesuffix("/baseline")).drop_duplicates("name")
    return rows.loc[rows["name"].isin(rules()["simple"]), ["name", "difference", "low", "high", "p_holm"]].reset_index(drop=True)


def worst_errors(dangerous: pd.DataFrame, system: tuple[str, str], task: str, split: str) -> pd.Series | None:
    """Of the kinds of the worst severity the one with the largest share: share, low, high (%), n, of; None where dangerous errors were not counted."""
    rows = dangerous[dangerous["model"].eq(system[0]) & dangerous["stage"].eq(system[1]) & dangerous["task"].eq(task) & dangerous["split"].eq(split)]
    rows = rows[rows["severity"].eq(WORST)]
    return None if rows.empty else rows.loc[rows["share"].idxmax()]


def dangerous_table(results: dict) -> pd.DataFrame:
    """Dangerous errors of the judged model on the main test set, the worst first: severity, error, task, errors, possible in, share with its interval."""
    system, rows = study_system(results["scores"]), results["dangerous"]
    columns = ["severity", "error", "task", "errors", "possible in", "share"]
    if system is None or rows.empty:
        return pd.DataFrame(columns=columns)
    rows = rows[rows["model"].eq(system[0]) & rows["stage"].eq(system[1]) & rows["split"].eq(main_split(results["scores"])) & rows["of"].gt(0)]
    rows = rows.sort_values(["severity", "share"], ascending=[True, False])
    return pd.DataFrame([[f"{int(row['severity'])}{' (worst)' if row['severity'] == WORST else ''}", kind_name(row["kind"]), task_name(row["task"]), f"{int(row['n']):,}", f"{int(row['of']):,}",
                          percent(row, "share", "of")] for _, row in rows.iterrows()], columns=columns)


def kind_name(kind: str) -> str:
    """What a reader sees for a kind of dangerous error: its name in severities.yaml."""
    return danger.definitions()["kinds"].get(kind, {"name": kind.replace("_", " ")})["name"]


def best_simple(right: pd.DataFrame, task: str, split: str, simple: list[str]) -> str:
    """The simple method with the most right answers on a test set, with that share; "not run" without one."""
    rows = right[right["stage"].eq("baseline") & right["model"].isin(simple) & right["task"].eq(task) & right["split"].eq(split)]
    if rows.empty:
        return "not run"
    best = rows.loc[rows["f1"].idxmax()]
    return f"{BASELINES.get(best['model'], best['model'])}: {best['f1']:.0f} %"


def unseen(results: dict, right: pd.DataFrame, system: tuple[str, str], task: str) -> str:
    """Right answers in institutions that nothing has seen, and the difference to the patients of the main test set with its 95 % interval.

    Without a correction for many tests, which would make a loss look like none.
    """
    row = one_row(right, model=system[0], stage=system[1], task=task, split="external")
    if row is None:
        return "not tested"
    change = one_row(results["rings"], model=system[0], stage=system[1], task=task, split="external", metric=METRIC)
    text = percent(row)
    if change is None or pd.isna(change["difference"]):
        return text
    return f"{text}; {signed(change['difference'])} points ({signed(change['low'])} to {signed(change['high'])})"


def percent(row: pd.Series, value: str = "f1", count: str = "n") -> str:
    """A share with its interval and n: "61 % (54 to 68), n = 140"."""
    low, high = ("f1_low", "f1_high") if value == "f1" else ("low", "high")
    interval = f" ({row[low]:.0f} to {row[high]:.0f})" if pd.notna(row[low]) else ""
    return f"{row[value]:.0f} %{interval}, n = {int(row[count]):,}"


def rule_sentences() -> list[str]:
    """How each word is given, from the safest to the most favourable, with the limits of verdicts.yaml."""
    found = rules()
    words, simple = found["words"], ", ".join(BASELINES.get(name, name) for name in found["simple"])
    return [
        f"“{words['avoid']}”: it is not certain that at least {found['right_at_least']} % of the answers are right; or the model is not clearly ahead of "
        f"{BASELINES[found['without_reading']]}, which answers without reading the note; or more than {found['false_answers_at_most']} % of the questions that the note leaves "
        f"open get a value, or more than {found['dangerous_at_most']} % of the answers are errors of one of the worst kinds (whole interval above the limit).",
        f"“{words['simple']}”: not clearly ahead of every simple method that was tested ({simple}).",
        f"“{words['check']}”: clearly ahead of every simple method, but it is not certain that false answers and errors of the worst kinds stay within these limits.",
        f"“{words['useful']}”: clearly ahead of every simple method, and the whole intervals stay within the limits.",
        f"“{words['unknown']}”: not compared with any simple method, or no patient has a label.",
        f"Clearly ahead means: the 95 % interval of the paired difference in right answers lies above 0, and its test stays below {found['alpha']:g} after Holm's correction "
        "for all comparisons. The rules are this report's own, the same for every run; they are no clinical standard.",
    ]


def short_sentences(results: dict, verdicts: pd.DataFrame, cohort: dict) -> list[str]:
    """The first page in a few sentences: what can be trusted, on which patients, for whom it is worse, and how sure it is. cohort: run_facts.read_cohort."""
    system, split, words = study_system(results["scores"]), main_split(results["scores"]), rules()["words"]
    if system is None or verdicts.empty:
        return ["No language model was scored in this run, so nothing can be said about trust."]
    given = [f"“{word}” for {verdicts['word'].eq(key).sum()} of {len(verdicts)} {'task' if len(verdicts) == 1 else 'tasks'}" for key, word in words.items() if verdicts["word"].eq(key).any()]
    text = f"{model_name(*system)}: {', '.join(given)}."
    notes = cohort["notes"]
    if notes is not None and not results["asked"].empty:
        asked = results["asked"]
        of = {ring: notes[notes["patient_id"].isin(asked.loc[asked["split"].eq(ring), "patient_id"])] for ring in (split, "external")}
        text += f" Tested on {of[split]['patient_id'].nunique():,} {ring_name(split)} with {of[split]['cancer_type'].nunique()} cancer types, from hospitals that also trained the model, and "
        text += f"on {of['external']['patient_id'].nunique():,} patients of {of['external']['institution'].nunique()} hospitals that nothing had seen." if len(of["external"]) else "in no unseen hospital."
    return [text, *worse_sentences(results["subgroups"], system), *confidence_sentences(results["calibration"], system, split)]


def confidence_sentences(calibration: pd.DataFrame, system: tuple[str, str], split: str) -> list[str]:
    """Whether the system is as sure as it is right, task by task, in one sentence; [] where no confidence was looked at."""
    rows = calibration[calibration["model"].eq(system[0]) & calibration["stage"].eq(system[1]) & calibration["split"].eq(split)].dropna(subset=["right", "confidence"])
    told = [f"{task_name(row.task)} {row.confidence:.0f} % sure, {row.right:.0f} % right" for row in rows.itertuples()]
    return [f"Its own confidence, before any correction: {'; '.join(told)}."] if told else []


def worse_sentences(subgroups: pd.DataFrame, system: tuple[str, str]) -> list[str]:
    """Kinds of patients with clearly fewer right answers than the others, the largest differences by name; [] where nothing was compared."""
    rows = subgroups[subgroups["model"].eq(system[0]) & subgroups["stage"].eq(system[1]) & subgroups["metric"].eq(METRIC) & subgroups["difference"].notna()]
    if rows.empty:
        return []
    worse = rows[rows["p_holm"].le(rules()["alpha"]) & rows["high"].lt(0)].sort_values("difference")
    tested = f"{len(rows):,} comparisons of kinds of patients"
    if worse.empty:
        return [f"Nobody stands out as served worse: in {tested} no kind had clearly fewer right answers than the others."]
    named = [f"{task_name(row.task)} by {row.dimension}, {row.level} ({signed(row.difference)} points, {int(row.patients):,} patients)" for row in worse.head(SUBGROUPS_NAMED).itertuples()]
    return [f"Clearly fewer right answers than among the other patients in {len(worse):,} of {tested}; the largest: {'; '.join(named)}."]
