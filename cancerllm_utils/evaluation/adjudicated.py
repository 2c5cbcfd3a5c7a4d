"""A run's gold standard before human judges: which items they are shown, what they make of the gold, and what every headline would then be.

The sample has equal chances for every question and follows the run's strata in proportion, so plain means over it estimate those of the whole test set.
The form, its way back and the raters' agreement are in rating.py. Simulated raters are for showing the kit: what follows from them says nothing.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import answers as answer_tables
from cancerllm_utils.evaluation import comparisons, rating, score, stats
from cancerllm_utils.evaluation.metrics import clinical_words, score_pairs, value_scores
from cancerllm_utils.results import METRIC_NAMES, SCORE_COLUMNS, main_split, main_systems, model_name, points_text, signed, system_order, task_name
from cancerllm_utils.tasks.task import NOT_STATED, UNPARSED, hash_order, read_jsonl

QUESTION = "Which answer is right, given the text?"
SIMULATED, PEOPLE = "simulated", "people"
MOST_OPTIONS = 20  # letters are left for the two fixed choices
KEY_COLUMNS = ["item", "example_id", "patient_id", "institution", "note_id", "task", "split", "field", "stratum", "answers"]
VERDICTS = ("confirmed", "another answer", rating.NONE, NOT_STATED)
AGREEMENT_COLUMNS = ["raters", "task", "split", "metric", "value", "low", "high", "n"]
SCORED = {"average": "paper", "value_accuracy": "clinical"}  # the headlines scored again, and their families
COLUMNS = [*SCORE_COLUMNS, "gold", "raters", "change", "change_low", "change_high"]


# ---- the sample --------------------------------------------------------------------------------------------------------------------


def candidates(run_dir: str | Path, tasks: list[str]) -> pd.DataFrame:
    """The answers of answers.read_answers that a sample is drawn from: what headlines count of these tasks in the main test set; may be empty."""
    found = answer_tables.counted(answer_tables.read_answers(run_dir))
    found = found[found["task"].isin(tasks)]
    return found[found["split"] == main_split(found)] if len(found) else found


def sample(run_dir: str | Path, found: pd.DataFrame, n_items: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(items for rating.form, their key) of n_items questions of `candidates`, or of all where there are fewer.

    Every k-th question is drawn, from a random start, of all questions ordered by task, field, whether the main model is right, and whether all systems
    gave the same answer: so each stratum has its share. The options are the gold and every system's readable answer, without names, in random
    order; "not stated" is always offered and so no option. Text is the whole note. The key has KEY_COLUMNS and never goes to a rater.
    """
    model, stage = (main_systems(found) or system_order(found))[0]
    groups = found.groupby(["task", "example_id"], sort=True)
    questions = groups.first().reset_index()
    main = found[(found["model"] == model) & (found["stage"] == stage)].set_index(["task", "example_id"])["right"]
    index = pd.MultiIndex.from_frame(questions[["task", "example_id"]])
    right = main.reindex(index).fillna(False).to_numpy(dtype=bool)
    agree = groups["parsed"].nunique().reindex(index).eq(1).to_numpy()
    questions["stratum"] = [f"{task}, {field}, {'right' if r else 'wrong'}, {'agree' if a else 'differ'}" for task, field, r, a in zip(questions["task"], questions["field"], right, agree)]
    questions["given"] = list(groups["parsed"].agg(list).reindex(index))
    order = [(stratum, hash_order(seed, example)) for stratum, example in zip(questions["stratum"], questions["example_id"])]
    questions = questions.iloc[sorted(range(len(questions)), key=order.__getitem__)]
    n = min(n_items, len(questions))
    start = np.random.default_rng(seed).random()
    chosen = questions.iloc[((np.arange(n) + start) * len(questions) / n).astype(int)]
    chosen = chosen.iloc[sorted(range(n), key=[hash_order(seed, f"order {example}") for example in chosen["example_id"]].__getitem__)]
    chosen = chosen.assign(item=[f"{i:04d}" for i in range(1, n + 1)])
    notes = pd.read_parquet(Path(run_dir) / "corpus" / "notes.parquet", columns=["note_id", "text"]).drop_duplicates("note_id").set_index("note_id")["text"]
    asked = asked_of(run_dir, chosen)
    items = pd.DataFrame({
        "item": chosen["item"], "task": chosen["task"].map(task_name), "field": chosen["field"].str.replace("_", " "), "question": [asked[example] for example in chosen["example_id"]],
        "options": [options_of(answers, given, f"{seed} {example}") for answers, given, example in zip(chosen["answers"], chosen["given"], chosen["example_id"])],
        "text": chosen["note_id"].map(notes).fillna("").to_numpy(),
    })  # fmt: skip
    return items.reset_index(drop=True), chosen[KEY_COLUMNS].reset_index(drop=True)


def asked_of(run_dir: str | Path, chosen: pd.DataFrame) -> dict[str, str]:
    """example_id -> the question in words, without the text."""
    from cancerllm_utils.report.browser import split_prompt

    found = {}
    for (task, split), part in chosen.groupby(["task", "split"]):
        wanted = set(part["example_id"])
        rows = read_jsonl(Path(run_dir) / "datasets" / task / f"{split}.jsonl")
        found |= {row["example_id"]: split_prompt(task, row["field"], row["prompt"])[1] for row in rows if row["example_id"] in wanted}
    return found


def options_of(answers: list[str], given: list[str], salt: str) -> list[str]:
    """The gold and the given values, each once (as the clinical metrics compare them), shuffled; without "not stated" and what could not be read."""
    different = {}
    for value in ["; ".join(answers), *given]:
        if value not in (UNPARSED, NOT_STATED, ""):
            different.setdefault(clinical_words(value), value)
    return sorted(list(different.values())[:MOST_OPTIONS], key=lambda value: hash_order(0, f"{salt} {value}"))


# ---- raters ------------------------------------------------------------------------------------------------------------------------


def collect(items: pd.DataFrame, key: pd.DataFrame, files: list[str], simulate: bool, errors: list[float], planted: float, seed: int) -> tuple[str, list[pd.DataFrame]]:
    """(who rated: people, simulated or "", their ratings). People's files come first; without them, and with `simulate`, two made-up raters."""
    if items.empty:
        return "", []
    if files:
        return PEOPLE, [rating.read_ratings(path, items, [], QUESTION) for path in files]
    return (SIMULATED, simulated(items, key, errors, planted, seed)) if simulate else ("", [])


def simulated(items: pd.DataFrame, key: pd.DataFrame, errors: list[float], planted: float, seed: int) -> list[pd.DataFrame]:
    """Made-up raters: in a share `planted` of the items another choice than the gold counts as true; rater i takes another choice with chance errors[i]."""
    if any(not 0 <= rate <= 1 for rate in [*errors, planted]) or len(errors) != 2:
        raise UserError(f"rater_errors {errors}, planted_errors {planted}: shares from 0 to 1, rater_errors two of them. Write [0.05, 0.1] and 0.05, say.")
    random = np.random.default_rng([seed, 1])
    offered = [[*options, *rating.FIXED] for options in items["options"]]
    truth = ["; ".join(answers) for answers in key["answers"]]
    truth = [other(choices, gold, random) if random.random() < planted else gold for choices, gold in zip(offered, truth)]
    return [pd.DataFrame({"choice": [other(choices, true, random) if random.random() < rate else true for choices, true in zip(offered, truth)], "comment": ""},
                         index=pd.Index(items["item"], name="item")) for rate in errors]  # fmt: skip


def other(choices: list[str], but: str, random: np.random.Generator) -> str:
    """One of the choices, `but` excepted."""
    rest = [choice for choice in choices if choice != but]
    return rest[int(random.integers(len(rest)))]


# ---- what they say of the gold --------------------------------------------------------------------------------------------------------


def corrected(items: pd.DataFrame, key: pd.DataFrame, ratings: list[pd.DataFrame]) -> pd.DataFrame:
    """The key with the raters' choices: KEY_COLUMNS, first, second, decided, consensus, verdict (one of VERDICTS, "" where it is open), adjudicated.

    adjudicated is the list of right answers by consensus: that of the gold where it is confirmed, [""] (which no answer equals) where none of the offered
    answers is right, None where the item is open.
    """
    table = key.merge(rating.consensus(items, ratings), on="item", validate="one_to_one")
    gold = table["answers"].map("; ".join)
    table["first_verdict"], table["second_verdict"], table["verdict"] = ([verdict_of(choice, g) for choice, g in zip(table[name], gold)] for name in ("first", "second", "consensus"))
    table["adjudicated"] = [answers if verdict == "confirmed" else None if not verdict else [""] if verdict == rating.NONE else [choice]
                            for answers, verdict, choice in zip(table["answers"], table["verdict"], table["consensus"])]  # fmt: skip
    return table


def verdict_of(choice: str, gold: str) -> str:
    """One of VERDICTS for a choice, "" for none."""
    if choice == "" or clinical_words(choice) == clinical_words(gold):
        return "confirmed" if choice else ""
    return choice if choice in rating.FIXED else "another answer"


def agreement(table: pd.DataFrame, raters: str, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """AGREEMENT_COLUMNS of `corrected`, over all tasks and for each: agreement (same choice, %), kappa_answer (on the answers themselves), kappa_gold (on
    whether the gold stands), overturned (gold not confirmed, % of the items with a consensus), open (rated by both and without consensus, %)."""
    both = table[(table["first"] != "") & (table["second"] != "")]
    split, rows = table["split"].iloc[0], []
    for task in ["all", *(sorted(both["task"].unique()) if both["task"].nunique() > 1 else [])]:
        part = both if task == "all" else both[both["task"] == task]
        if part.empty:
            continue

        def add(metric, n, value, low, high, task=task):
            rows.append({"raters": raters, "task": task, "split": split, "metric": metric, "value": value, "low": low, "high": high, "n": n})

        answer = rating.kappa(part["field"] + "=" + part["first"], part["field"] + "=" + part["second"], part["patient_id"], None, n_resamples, seed)
        stands = rating.kappa(part["first_verdict"], part["second_verdict"], part["patient_id"], None, n_resamples, seed)
        add("agreement", answer["n"], answer["agreement"], answer["agreement_low"], answer["agreement_high"])
        add("kappa_answer", answer["n"], answer["kappa"], answer["low"], answer["high"])
        add("kappa_gold", stands["n"], stands["kappa"], stands["low"], stands["high"])
        judged = part[part["verdict"] != ""]
        for metric, rows_of, flags in (("overturned", judged, judged["verdict"] != "confirmed"), ("open", part, part["verdict"] == "")):
            if len(rows_of):
                add(metric, len(rows_of), *share(flags.to_numpy(), rows_of["patient_id"], n_resamples, seed))
    return pd.DataFrame(rows, columns=AGREEMENT_COLUMNS)


def share(flags: np.ndarray, patients, n_resamples: int, seed: int) -> tuple[float, float, float]:
    """Share of the flags that are set, in %, with its 95 % limits, patients resampled; where none or all are set, which leaves a bootstrap without any
    width, the exact limits for as many patients (Clopper and Pearson 1934)."""
    low, high = stats.cluster_bootstrap(100.0 * flags, patients, n_resamples, seed)
    if flags.all() or not flags.any():
        reach = 100 * 0.025 ** (1 / patients.nunique())
        low, high = (reach, 100.0) if flags.all() else (0.0, 100 - reach)
    return float(100 * flags.mean()), low, high


# ---- headlines again ---------------------------------------------------------------------------------------------------------------


def rescore(found: pd.DataFrame, table: pd.DataFrame, raters: str, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Every system's headline on the sampled items with a consensus, by the run's gold and by the adjudicated one: COLUMNS, points, two rows per
    system, task and metric. change (of the second row) is paired, item by item, patients resampled."""
    judged = table[table["verdict"] != ""][["task", "example_id", "adjudicated"]]
    rows = []
    for (model, stage, task, split), part in found.merge(judged, on=["task", "example_id"]).groupby(["model", "stage", "task", "split"], sort=False):
        clusters, given = part["patient_id"].to_numpy(), part["prediction"].where(part["parsed"] == UNPARSED, part["parsed"])
        values = {}
        for gold, answers in (("run", part["answers"]), ("adjudicated", part["adjudicated"])):
            triples = 100 * score_pairs(zip(answers, given), [("paper", "average")])[:, 0]
            right = np.array([100 * value_scores(a, p)["value_accuracy"] for a, p in zip(answers, part["parsed"])])
            values[gold] = {"average": triples, "value_accuracy": np.column_stack([right] * 3)}
        for metric, family in SCORED.items():
            for gold in ("run", "adjudicated"):
                points = values[gold][metric]
                low, high = stats.cluster_bootstrap(points[:, 2], clusters, n_resamples, seed)
                row = {"model": model, "stage": stage, "task": task, "variant": "all", "split": split, "field": "all", "subgroup": "adjudicated sample", "family": family,
                       "metric": metric, "precision": points[:, 0].mean(), "recall": points[:, 1].mean(), "f1": points[:, 2].mean(), "f1_low": low, "f1_high": high,
                       "n": len(part), "unparsed": int((part["parsed"] == UNPARSED).sum()), "seed": seed, "gold": gold, "raters": raters}
                if gold == "adjudicated":
                    change = stats.paired_difference(points[:, 2], values["run"][metric][:, 2], clusters, n_resamples, seed)
                    row |= {"change": change["difference"], "change_low": change["low"], "change_high": change["high"]}
                rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


# ---- a whole run -----------------------------------------------------------------------------------------------------------------------


def prepare(run_dir: str | Path, tasks: list[str], n_items: int, seed: int) -> dict:
    """Draw the sample and write adjudication/form.html, form.csv and key.csv below the run folder: {found, items, key, form}.

    A run that answered none of these tasks has nothing to judge: then form is "" and the tables are empty.
    """
    if n_items < 2:
        raise UserError(f"n_items {n_items}: at least 2 items are needed. Write 200, say.")
    found = candidates(run_dir, tasks)
    if found.empty:
        return {"found": found, "items": pd.DataFrame(), "key": pd.DataFrame(columns=KEY_COLUMNS), "form": ""}
    items, key = sample(run_dir, found, n_items, seed)
    folder = Path(run_dir) / "adjudication"
    number = rating.form(items, [], QUESTION, folder / "form.html", folder / "form.csv", "Which answer is right?", not comparisons.is_synthetic(run_dir))
    key.assign(form=number, answers=key["answers"].map(json.dumps)).to_csv(folder / "key.csv", index=False)
    return {"found": found, "items": items, "key": key, "form": number}


def judge(run_dir: str | Path, drawn: dict, raters: str, ratings: list[pd.DataFrame], n_resamples: int = 1000, seed: int = 0) -> dict:
    """What follows from the ratings, written below the run folder: {table, agreement, scores}, all None without ratings.

    adjudication/disagreements.csv and corrected_gold.csv, results/adjudication.csv and adjudicated_scores.csv; the ledger notes where people's ratings
    scored a held-out set again.
    """
    run_dir, results = Path(run_dir), Path(run_dir) / "results"
    if not ratings:
        for name in ("adjudication", "adjudicated_scores"):  # an earlier run's must not speak for this one
            (results / f"{name}.csv").unlink(missing_ok=True)
        return {"table": None, "agreement": None, "scores": None}
    table = corrected(drawn["items"], drawn["key"], ratings)
    if not ((table["first"] != "") & (table["second"] != "")).any():
        raise UserError("ratings: no item was rated by both raters. Hand back two files in which the same items have a choice.")
    folder = run_dir / "adjudication"
    rating.write_disagreements(drawn["items"], [], QUESTION, table, folder / "disagreements.csv")
    table.assign(raters=raters, answers=table["answers"].map(json.dumps), adjudicated=table["adjudicated"].map(json.dumps)).to_csv(folder / "corrected_gold.csv", index=False)
    agreed = agreement(table, raters, n_resamples, seed)
    scores = rescore(drawn["found"], table, raters, n_resamples, seed)
    agreed.to_csv(results / "adjudication.csv", index=False, float_format="%.6f")
    scores.to_csv(results / "adjudicated_scores.csv", index=False, float_format="%.6f")
    if raters == PEOPLE:
        score.append_ledger(run_dir, table["split"].iloc[0], "06d_adjudication: headlines on the adjudicated gold")
    return {"table": table, "agreement": agreed, "scores": scores}


# ---- for readers -------------------------------------------------------------------------------------------------------------------------


def strata_table(key: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """How many questions of each task and field there are, and how many were drawn."""
    questions = found.drop_duplicates(["task", "example_id"]).groupby(["task", "field"]).size().rename("questions")
    table = pd.concat([questions, key.groupby(["task", "field"]).size().rename("drawn")], axis=1).fillna(0).astype(int).reset_index()
    return table.assign(task=table["task"].map(task_name), field=table["field"].str.replace("_", " "))


METRIC_WORDS = {"agreement": "same choice, %", "kappa_answer": "kappa, which answer", "kappa_gold": "kappa, whether the gold stands", "overturned": "gold overturned, %", "open": "without consensus, %"}


def agreement_table(agreed: pd.DataFrame | None) -> pd.DataFrame:
    """`agreement` in words, one row per task and measure; empty without ratings."""
    if agreed is None:
        return pd.DataFrame()
    digits = agreed["metric"].map(lambda metric: 2 if metric.startswith("kappa") else 1)
    cells = [f"{value:.{d}f} ({low:.{d}f} to {high:.{d}f})" if pd.notna(value) else "undefined: always the same one choice"
             for value, low, high, d in zip(agreed["value"], agreed["low"], agreed["high"], digits)]  # fmt: skip
    return pd.DataFrame({"raters": agreed["raters"], "task": [task if task == "all" else task_name(task) for task in agreed["task"]],
                         "measure": agreed["metric"].map(METRIC_WORDS), "value (95 %)": cells, "items": agreed["n"]})  # fmt: skip


def disagreement_table(table: pd.DataFrame | None, raters: str) -> pd.DataFrame:
    """Where two raters differ, counted: raters, task, field, what each said of the gold, items. No text and no answer; empty without ratings."""
    if table is None:
        return pd.DataFrame()
    differ = table[(table["first"] != table["second"]) & (table["first"] != "") & (table["second"] != "")]
    rows = differ.groupby(["task", "field", "first_verdict", "second_verdict"]).size().rename("items").reset_index()
    rows = rows.assign(task=rows["task"].map(task_name), field=rows["field"].str.replace("_", " "))
    rows.insert(0, "raters", raters)
    return rows.rename(columns={"first_verdict": "first rater", "second_verdict": "second rater"}).sort_values("items", ascending=False, ignore_index=True, kind="stable")


def headline_table(scores: pd.DataFrame | None, metric: str = "average") -> pd.DataFrame:
    """Each system's headline by the run's gold and by the adjudicated one, in points with 95 % intervals, and the paired change; empty without scores."""
    if scores is None:
        return pd.DataFrame()
    scores, rows = scores[scores["metric"] == metric], []
    for _, task_rows in scores.groupby("task", sort=False):
        for model, stage in system_order(task_rows):
            part = task_rows[(task_rows["model"] == model) & (task_rows["stage"] == stage)].set_index("gold")
            old, new = part.loc["run"], part.loc["adjudicated"]
            rows.append({"raters": new["raters"], "task": task_name(new["task"]), "system": model_name(model, stage), "metric": METRIC_NAMES[metric],
                         "gold of the run": points_text(old), "adjudicated gold": points_text(new),
                         "change": f"{signed(new['change'])} ({signed(new['change_low'])} to {signed(new['change_high'])})", "items": new["n"]})  # fmt: skip
    return pd.DataFrame(rows)


def form_sentence(drawn: dict) -> str:
    """Where the form lies, or why there is none."""
    if not drawn["form"]:
        return "This run scored no answer to a question of these tasks, so there is nothing to judge: name tasks that notebook 05 answered."
    return f"Form {drawn['form']}: {len(drawn['items'])} items, in adjudication/form.html of the run's folder."


def sentences(judged: dict, raters: str) -> list[str]:
    """What the ratings say, in words; each sentence of simulated raters begins with that."""
    if judged["agreement"] is None:
        return ["Nobody has rated the items: open adjudication/form.html in the run's folder, and hand back two files in `ratings`."]
    start = "Simulated raters, which say nothing about this gold standard: " if raters == SIMULATED else ""
    whole = judged["agreement"][judged["agreement"]["task"] == "all"].set_index("metric")

    def value(metric, digits, unit=""):
        row = whole.loc[metric]
        return "undefined" if pd.isna(row["value"]) else f"{row['value']:.{digits}f}{unit} ({row['low']:.{digits}f} to {row['high']:.{digits}f}{unit})"

    said = [f"the two raters chose the same for {value('agreement', 1, ' %')} of {int(whole.loc['agreement', 'n'])} items; Cohen's kappa is {value('kappa_answer', 2)} on which answer "
            f"is right and {value('kappa_gold', 2)} on whether the run's gold stands."]  # fmt: skip
    if "overturned" in whole.index:
        said.append(f"of {int(whole.loc['overturned', 'n'])} items with a consensus the gold is overturned in {value('overturned', 1, ' %')}; {value('open', 1, ' %')} of the rated items are open.")
    else:
        said.append("no item has a consensus, so nothing can be scored again.")
    for task, rows in judged["scores"][judged["scores"]["metric"] == "average"].groupby("task", sort=False):
        best = {gold: part.loc[part["f1"].idxmax()] for gold, part in rows.groupby("gold")}
        names = {gold: model_name(row["model"], row["stage"]) for gold, row in best.items()}
        largest = rows.loc[rows["change"].abs().idxmax()]
        same = f"{names['run']} stays the best system" if names["run"] == names["adjudicated"] else f"the best system is then {names['adjudicated']} and no longer {names['run']}"
        said.append(f"{task_name(task)}: {same}; the largest change of an average F1 is {signed(largest['change'])} points "
                    f"({signed(largest['change_low'])} to {signed(largest['change_high'])}), of {model_name(largest['model'], largest['stage'])}.")  # fmt: skip
    return [start + text if start else text[0].upper() + text[1:] for text in said]


def warning(raters: str) -> str:
    """The end of a caption: what simulated raters are worth, "" for people."""
    return " Raters are simulated: this shows the kit and is no finding." if raters == SIMULATED else ""


def outputs(run_dir: str | Path) -> list[Path]:
    """The files of a run's adjudication that are there, for its record."""
    run_dir = Path(run_dir)
    files = [*sorted((run_dir / "adjudication").glob("*.*")), run_dir / "results" / "adjudication.csv", run_dir / "results" / "adjudicated_scores.csv"]
    return [path for path in files if path.is_file()]
