"""Robustness in tables for the eye and in sentences, every number from the tables of robustness.py and consistency.py."""

from pathlib import Path

import numpy as np
import pandas as pd
from rapidfuzz import fuzz

from cancerllm_utils.evaluation import comparisons
from cancerllm_utils.evaluation.robustness import NATURAL, answers
from cancerllm_utils.evaluation.robustness_files import files, words
from cancerllm_utils.evaluation.score import read_rows
from cancerllm_utils.results import METRIC_NAMES, main_systems, model_name, p_text, ring_name, signed, system_order, task_name
from cancerllm_utils.tasks.task import NOT_STATED, hash_order

FEW = 20  # questions: a field with fewer is not shown
SHIFT = 60  # characters by which damage may move a place of a note
SURVIVES, LOST, OPEN = "survives", "is lost", "open"


def not_run(what: str) -> list[str]:
    """The sentence for a part without results."""
    return [f"{what} was not run in this profile: nothing to show. Profile quick_studies runs it on the synthetic cohort, tcga_studies (text) and tcga_robustness (labels) on public reports."]


def testbed_name(testbed: str) -> str:
    """The testbed in words."""
    return words()["testbeds"].get(testbed, {"name": testbed})["name"]


def remedy_name(remedy: str) -> str:
    """The remedy in words, several joined."""
    return " and ".join(words()["remedies"].get(part, part) for part in remedy.split("+"))


def remedy_short(remedy: str) -> str:
    """The remedy for a legend."""
    return " + ".join(words()["remedies_short"].get(part, part) for part in remedy.split("+"))


def system_name(model: str, stage: str, remedy: str = "") -> str:
    """A system in words, with its remedy where it has one."""
    return model_name(model, stage) + (f" ({remedy_name(remedy)})" if remedy else "")


def limits_text(value: float, low: float, high: float) -> str:
    """A change with its interval."""
    return f"{signed(value)} ({signed(low)} to {signed(high)})" if pd.notna(low) else f"{signed(value)} (no interval)"


def testbed_place(testbed: str) -> int:
    """Where the testbed stands in tables."""
    names = list(words()["testbeds"])
    return names.index(testbed) if testbed in names else len(names)


def at_worst(tests: pd.DataFrame, kind: str = "change") -> pd.DataFrame:
    """Rows of one kind at each curve's highest rate, all fields."""
    rows = tests[(tests["kind"] == kind) & (tests["field"] == "all") & tests["rate"].notna()]
    return rows[rows["rate"] == rows.groupby(["model", "stage", "task", "split", "testbed", "remedy"])["rate"].transform("max")]


# ---- the curves ----------------------------------------------------------------------------------------------------------------------


def curve_table(scores: pd.DataFrame, tests: pd.DataFrame, split: str = "test", metric: str = "average") -> pd.DataFrame:
    """Every curve in one row: damage, task, system, points at each rate, the change at the highest with its interval and p (Holm), what it keeps of its
    clean score there, the area under the curve, n."""
    rows = scores[(scores["metric"] == metric) & (scores["field"] == "all") & (scores["testbed"] != NATURAL) & (scores["split"] == split) & (scores["remedy"] == "")]
    keys, order, out = ["testbed", "task", "model", "stage"], system_order(rows), []
    worst = at_worst(tests[(tests["metric"] == metric) & (tests["split"] == split) & (tests["remedy"] == "")]).set_index(keys)
    areas = tests[(tests["metric"] == metric) & (tests["split"] == split) & (tests["remedy"] == "") & (tests["kind"] == "area")].set_index(keys)
    for key, part in rows.groupby(keys, sort=False):
        line = {"damage": testbed_name(key[0]), "task": task_name(key[1]), "system": system_name(*key[2:])}
        line |= {f"{rate:g} %": f"{value:.1f}" for rate, value in sorted(zip(part["rate"], part["f1"]))}
        if key in worst.index:
            row = worst.loc[key]
            line |= {"change at the highest": limits_text(row["value"], row["low"], row["high"]), "p (Holm)": round(row["p_holm"], 3)}
            last, clean = part.loc[part["rate"].idxmax(), "f1"], part.loc[part["rate"].idxmin(), "f1"]
            line["kept"] = f"{100 * last / clean:.0f} %" if clean > 0 else ""
        if key in areas.index:
            line["area"] = f"{areas.loc[key, 'value']:.1f} ({areas.loc[key, 'low']:.1f} to {areas.loc[key, 'high']:.1f})"
        out.append(line | {"n": int(part["n"].max()), "left out": int(part["left_out"].max()), "place": (testbed_place(key[0]), key[1], order.index(key[2:]))})
    if not out:
        return pd.DataFrame()
    table = pd.DataFrame(out)
    tail = ["change at the highest", "kept", "p (Holm)", "area", "n", "left out"]
    rates = sorted((column for column in table if column.endswith(" %")), key=lambda column: float(column[:-2]))
    table = table.sort_values("place", kind="stable", ignore_index=True)
    return table.reindex(columns=["damage", "task", "system", *rates, *tail]).fillna("")


def curve_sentences(tests: pd.DataFrame, systems: list[tuple[str, str]], split: str = "test", metric: str = "average", alpha: float = 0.05) -> list[str]:
    """For each kind of damage and task what the `systems` lose at its highest rate, and how many of all systems' changes can be told from chance."""
    rows = tests[(tests["metric"] == metric) & (tests["split"] == split) & (tests["remedy"] == "")]
    worst, changes, out = at_worst(rows), rows[(rows["kind"] == "change") & (rows["field"] == "all")], []
    for (testbed, task), part in worst.groupby(["testbed", "task"], sort=False):
        own = [row for row in part.to_dict("records") if (row["model"], row["stage"]) in systems]
        if not own:
            continue
        of = changes[(changes["testbed"] == testbed) & (changes["task"] == task) & changes["p"].notna()]
        text = "; ".join(f"{system_name(row['model'], row['stage'])} {limits_text(row['value'], row['low'], row['high'])}" for row in own)
        lost = (of["p_holm"] <= alpha) & (of["value"] < 0)
        out.append(f"{testbed_name(testbed).capitalize()}, {task_name(task).lower()}: at {own[0]['rate']:g} % of the {words()['testbeds'].get(testbed, {}).get('of', 'words')}, points of "
                   f"{METRIC_NAMES[metric]} against the same questions undamaged: {text} (n = {own[0]['n']:,.0f}). Of {len(of)} changes of all systems and rates that were tested, {lost.sum()} are losses that can be told from chance (Holm).")
    return out or not_run("Damage by rate")


def pretraining_sentences(tests: pd.DataFrame, split: str = "test", metric: str = "average", alpha: float = 0.05) -> list[str]:
    """Does continued pre-training buy robustness? A verdict per kind of damage (all tasks together where there are several), then how the tasks differ."""
    rows = tests[(tests["kind"] == "cpt") & (tests["metric"] == metric) & (tests["split"] == split) & tests["rate"].isna()]
    out = []
    for (model, testbed), part in rows.groupby(["model", "testbed"], sort=False):
        whole = part[part["task"] == "all"] if (part["task"] == "all").any() else part
        row = whole.iloc[0]
        shown = row["p_holm"] <= alpha
        verdict = ("Yes" if row["value"] > 0 else "No, it costs robustness") if shown else "Not shown"
        text = (f"Does continued pre-training make {model} more robust to {testbed_name(testbed)}? {verdict}: on average over the rates cpt-sft changes by {signed(row['value'])} points of "
                f"{METRIC_NAMES[metric]} against the change of sft (above 0: it keeps more; 95 % interval {signed(row['low'])} to {signed(row['high'])}, p after Holm {p_text(row['p_holm'])}, "
                f"n = {row['n']:,.0f} questions of {row['patients']:,.0f} patients). {luck_text(tests, row)}")
        single = part[part["task"] != row["task"]]
        if len(single):
            text += " By task: " + "; ".join(f"{task_name(other['task']).lower()} {limits_text(other['value'], other['low'], other['high'])}" for other in single.to_dict("records")) + "."
        out.append(text)
    return out or not_run("The comparison of sft and cpt-sft under damage")


def luck_text(tests: pd.DataFrame, row: pd.Series) -> str:
    """How often the two stages of a comparison of kind cpt were trained, and whether the luck of training is in its interval."""
    areas = tests[(tests["kind"] == "area") & (tests["remedy"] == "") & (tests["model"] == row["model"]) & (tests["testbed"] == row["testbed"]) & (tests["split"] == row["split"])]
    own, other = (areas.loc[areas["stage"] == stage, "seeds"].max() for stage in ("cpt-sft", "sft"))
    if not max(own, other) > 1:
        return "Each was trained once: the interval knows nothing of the luck of training and is too narrow by it."
    text = f"The interval holds the luck of training (cpt-sft was trained {own:.0f} times, sft {other:.0f})"
    return text + ("; what was trained once is taken to be as lucky as the other." if min(own, other) == 1 else ".")


# ---- field by field --------------------------------------------------------------------------------------------------------------------


def field_changes(tests: pd.DataFrame, model: str, stage: str, margin: float = 5.0, split: str = "test", metric: str = "value_accuracy") -> pd.DataFrame:
    """Change of each field at the highest rate of each testbed, one system without a remedy: testbed, task, field, rate, value, low, high, n, verdict.

    verdict: survives where the whole interval lies above -margin points, is lost where it lies below 0, open where it does neither (a loss that is certain
    and small survives). Where nothing changed at all, the lower limit is the exact binomial one of as many patients without a loss, not 0. Fields with
    fewer than FEW questions are left out.
    """
    rows = tests[(tests["kind"] == "change") & (tests["model"] == model) & (tests["stage"] == stage) & (tests["remedy"] == "") & (tests["split"] == split) & (tests["metric"] == metric)
                 & tests["rate"].notna() & (tests["n"] >= FEW)]
    single = rows[rows["field"] != "all"]
    whole = rows[(rows["field"] == "all") & ~rows["task"].isin(single["task"])]  # a task with one field
    rows = pd.concat([single, whole.assign(field=whole["task"].map(task_name).str.lower())], ignore_index=True)
    rows = rows[rows["rate"] == rows.groupby(["testbed", "task"])["rate"].transform("max")]
    nothing = (rows["high"] - rows["low"]).abs() < 1e-9
    rows["low"] = rows["low"].where(~nothing, rows["value"] - 100 * (1 - 0.025 ** (1 / rows["patients"].astype(float))))
    verdict = [SURVIVES if row.low > -margin else LOST if row.high < 0 else OPEN for row in rows.itertuples()]
    return rows.assign(verdict=verdict)[["testbed", "task", "field", "rate", "value", "low", "high", "n", "verdict"]].reset_index(drop=True)


def field_sentences(changes: pd.DataFrame, system: str, margin: float = 5.0) -> list[str]:
    """Which fields survive each kind of damage, which are lost, and of which nothing can be told (field_changes)."""
    out = []
    for (testbed, task), part in changes.groupby(["testbed", "task"], sort=False):
        parts = []
        for verdict, reads in ((SURVIVES, f"a loss of {margin:g} points is excluded"), (LOST, "right values are lost for certain"), (OPEN, "cannot be told with so few questions")):
            named = [f"{row.field} {limits_text(row.value, row.low, row.high)}, n = {row.n:,.0f}" for row in part[part["verdict"] == verdict].sort_values("value").itertuples()]
            parts += [f"{reads}: {'; '.join(named)}"] if named else []
        out.append(f"{system}, {testbed_name(testbed)} at {part['rate'].iloc[0]:g} %, {task_name(task).lower()}. {'. '.join(text[0].upper() + text[1:] for text in parts)}.")
    return out or [f"No field under damage has {FEW} questions that all systems answered, so no field is shown by itself."]


def survival_sentences(changes: pd.DataFrame, system: str, margin: float = 5.0) -> list[str]:
    """Over all kinds of damage: which fields survive every one, which are lost under some, of which nothing can be told (field_changes)."""
    kinds, fields = changes["testbed"].nunique(), {SURVIVES: [], LOST: [], OPEN: []}
    for (task, field), part in changes.groupby(["task", "field"], sort=False):
        name = f"{field} ({task_name(task).lower()})" if field != task_name(task).lower() else field
        lost, open_to = part[part["verdict"] == LOST], part[part["verdict"] == OPEN]
        if len(lost):
            worst = lost.loc[lost["value"].idxmin()]
            fields[LOST].append(f"{name} under {len(lost)} of {len(part)}, worst {testbed_name(worst['testbed'])} {limits_text(worst['value'], worst['low'], worst['high'])}")
        elif len(open_to):
            fields[OPEN].append(f"{name} under {len(open_to)} of {len(part)}")
        else:
            fields[SURVIVES].append(f"{name} ({len(part)})")
    if not kinds:
        return []
    said = [f"every kind that it was asked under (how many) is survived, a loss of {margin:g} points excluded, by: {'; '.join(fields[SURVIVES]) or 'no field'}",
            f"right values are lost for certain in: {'; '.join(fields[LOST]) or 'no field'}"]
    said += [f"cannot be told, with so few questions, in: {'; '.join(fields[OPEN])}"] if fields[OPEN] else []
    return [f"{system}, {kinds} kind{'s' if kinds > 1 else ''} of damage at the highest rate. " + ". ".join(text[0].upper() + text[1:] for text in said) + "."]


# ---- the notes' own noise ----------------------------------------------------------------------------------------------------------------


def natural_sentences(scores: pd.DataFrame, tests: pd.DataFrame, systems: list[tuple[str, str]], metric: str = "average") -> list[str]:
    """Scores of clean and of damaged notes as they came, beside what synthetic damage of words does to the same systems."""
    rows = scores[(scores["testbed"] == NATURAL) & (scores["metric"] == metric)]
    changes = tests[(tests["kind"] == NATURAL) & (tests["metric"] == metric)]
    out = []
    for (task, model, stage), part in rows.groupby(["task", "model", "stage"], sort=False):
        if (model, stage) not in systems:
            continue
        text = f"{task_name(task)}, {system_name(model, stage)}: " + ", ".join(
            f"{row.f1:.1f} points ({row.f1_low:.1f} to {row.f1_high:.1f}) on {row.subgroup} notes ({row.rate:.1f} % of their words damaged, n = {row.n:,.0f})" for row in part.itertuples())
        change = changes[(changes["task"] == task) & (changes["model"] == model) & (changes["stage"] == stage)]
        if len(change):
            row = change.iloc[0]
            text += f"; from clean to {part['subgroup'].iloc[-1]} {limits_text(row['value'], row['low'], row['high'])}, p after Holm {p_text(row['p_holm'])}"
        else:
            text += "; all notes are of one kind, so there is nothing to compare"
        out.append(text + ".")
    return out or ["No clean answers were scored: nothing can be said of the notes' own damage."]


def examples(run_dir: str | Path, model: str, stage: str, split: str = "test", per_testbed: int = 2) -> pd.DataFrame:
    """Questions that one system answered rightly and no longer does at the highest rate of a testbed: damage, field, the note says, damaged, answer before, after.

    The first by hash of each testbed and task, so none is chosen for effect. the note says: the words that state the answer (of a diagnosis, its
    histology), damaged: what became of them. Of the synthetic cohort alone, else no row.
    """
    run_dir, known, rows = Path(run_dir), {}, []
    columns = ["damage", "field", "the note says", "damaged", "answer before", "after"]
    if not comparisons.is_synthetic(run_dir):
        return pd.DataFrame(columns=columns)
    found = [row for row in files(run_dir) if (row["model"], row["path"].parent.name, row["split"], row["remedy"]) == (model, stage, split, "")]
    notes = pd.read_parquet(run_dir / "corpus" / "notes.parquet", columns=["note_id", "text"]).set_index("note_id")["text"]
    labels = pd.read_parquet(run_dir / "corpus" / "labels.parquet", columns=["note_id", "field", "quote_start", "quote_end"]).drop_duplicates(["note_id", "field"]).set_index(["note_id", "field"])
    for testbed in words()["testbeds"]:
        of_testbed = [row for row in found if row["testbed"] == testbed]
        for row in [row for row in of_testbed if row["rate"] == max(other["rate"] for other in of_testbed)]:
            clean = next((other for other in found if other["task"] == row["task"] and not other["testbed"]), None)
            text = run_dir / "corpus" / "perturbed" / f"{row['path'].stem.partition('+')[2]}.parquet"
            if clean is None or not text.is_file():
                continue
            both = answers(clean, run_dir, known).join(answers(row, run_dir, known)[["parsed", "value_accuracy"]], how="inner", rsuffix="_now")
            lost = both[(both["value_accuracy"] == 100) & (both["value_accuracy_now"] == 0) & (both["gold"] != NOT_STATED)]
            damaged = pd.read_parquet(text).set_index("note_id")["text"]
            asked = {item["example_id"]: item["note_id"] for _, item in read_rows(run_dir / "datasets" / row["task"] / f"{split}.jsonl")}
            for name in sorted(lost.index, key=lambda name: hash_order(0, name))[:per_testbed]:
                quote, now = quoted(notes, damaged, labels, asked[name], lost.loc[name, "field"])
                rows.append([f"{testbed_name(testbed)} {row['rate']:g} %", lost.loc[name, "field"], quote, now, lost.loc[name, "gold"], lost.loc[name, "parsed_now"]])
    return pd.DataFrame(rows, columns=columns)


def quoted(notes: pd.Series, damaged: pd.Series, labels: pd.DataFrame, note: str, field: str) -> tuple[str, str]:
    """The words of a note that state a field, and what the damage made of them; empty where no single place states it."""
    if (note, field) not in labels.index or pd.isna(labels.loc[(note, field), "quote_start"]) or not isinstance(damaged.get(note), str):
        return "", ""
    start, end = (int(labels.loc[(note, field), name]) for name in ("quote_start", "quote_end"))
    quote = notes[note][start:end]
    around = damaged[note][max(0, start - SHIFT) : end + SHIFT]
    near = fuzz.partial_ratio_alignment(quote, around)
    return quote, around[near.dest_start : near.dest_end] if near else ""


# ---- remedies and the paper ----------------------------------------------------------------------------------------------------------------


def remedy_table(scores: pd.DataFrame, tests: pd.DataFrame, split: str = "test", metric: str = "average") -> pd.DataFrame:
    """Each remedy of each system: remedy, damage, task, system, price on clean text, and at each rate what it brings (paired, interval; * where p after Holm is at most 0.05), n."""
    rows = tests[(tests["kind"] == "remedy") & (tests["metric"] == metric) & (tests["split"] == split)]
    out, order = [], system_order(rows)
    for (remedy, testbed, task, model, stage), part in rows.groupby(["remedy", "testbed", "task", "model", "stage"], sort=False):
        line = {"remedy": remedy_name(remedy), "damage": testbed_name(testbed), "task": task_name(task), "system": system_name(model, stage), "undamaged": "not measured"}
        for row in part.sort_values("rate").itertuples():
            line["undamaged" if row.rate == 0 else f"at {row.rate:g} %"] = limits_text(row.value, row.low, row.high) + ("*" if row.p_holm <= 0.05 else "")
        out.append(line | {"n": int(part["n"].max()), "place": (remedy, testbed_place(testbed), task, order.index((model, stage)))})
    if not out:
        return pd.DataFrame()
    table = pd.DataFrame(out).sort_values("place", kind="stable", ignore_index=True)
    rates = sorted((column for column in table if column.startswith("at ")), key=lambda column: float(column[3:-2]))
    return table[["remedy", "damage", "task", "system", "undamaged", *rates, "n"]].fillna("")


def remedy_sentences(tests: pd.DataFrame, systems: list[tuple[str, str]], split: str = "test", metric: str = "average", alpha: float = 0.05) -> list[str]:
    """What each remedy brings at the highest rate and what it costs on clean text, for the given systems, and whether either can be told from chance."""
    rows = tests[(tests["kind"] == "remedy") & (tests["metric"] == metric) & (tests["split"] == split)]
    out = []
    for (remedy, testbed, task, model, stage), part in rows.groupby(["remedy", "testbed", "task", "model", "stage"], sort=False):
        if (model, stage) not in systems or part["rate"].max() == 0:
            continue
        best, clean = part.loc[part["rate"].idxmax()], part[part["rate"] == 0]
        verdict = ("it helps" if best["value"] > 0 else "it harms") if best["p_holm"] <= alpha else "its effect cannot be told from chance"
        text = (f"{remedy_name(remedy).capitalize()}: against {testbed_name(testbed)} at {best['rate']:g} %, {task_name(task).lower()}, {system_name(model, stage)}, {verdict}: "
                f"{limits_text(best['value'], best['low'], best['high'])} points (n = {best['n']:,.0f})")
        if len(clean):
            row = clean.iloc[0]
            price = "a price that is no chance" if row["p_holm"] <= alpha and row["value"] < 0 else "no price that can be told from chance"
            clean_of = "clean labels" if testbed in words()["training"] else "clean text"
            text += f"; on {clean_of} {limits_text(row['value'], row['low'], row['high'])}, {price}"
        out.append(text + ".")
    return out or not_run("A remedy")


def repair_sentences(run_dir: str | Path) -> list[str]:
    """What the spelling corrector repaired and what it broke, from results/perturbed_text.csv; none where it was not tried."""
    path = Path(run_dir) / "results" / "perturbed_text.csv"
    table = pd.read_csv(path).dropna(subset=["intact_changed"]) if path.is_file() else pd.DataFrame()
    out = []
    for row in table.to_dict("records"):
        of = f"{testbed_name(row['testbed'])} at {100 * row['rate']:g} %: of {row['damaged']:,.0f} damaged words {100 * row['restored']:.1f} % were given back and {100 * row['wrong']:.1f} % made another word; " \
            if pd.notna(row["restored"]) else "words of the clean notes: " if pd.isna(row["testbed"]) else f"{testbed_name(row['testbed'])} at {100 * row['rate']:g} %: "
        out.append(f"{of}{100 * row['intact_changed']:.2f} % of the words without damage were changed")
    return [f"Spelling corrector, {'. '.join(out)}."] if out else []


def filter_sentences(table: pd.DataFrame) -> list[str]:
    """How well the label filters found the altered answers, from rows of results/label_filter.csv that hold all fields of all tasks."""
    out = []
    for row in table[(table["task"] == "all") & (table["field"] == "all")].to_dict("records"):
        text = f"{row['model']}, {row['stage']}, filter {row['label_filter']}: of {row['n']:,.0f} training answers {row['dropped']:,.0f} were thrown out"
        if row["corrupted"]:
            text += (f"; of the {row['corrupted']:,.0f} altered ones {row['recall']:.1f} % were found ({row['recall_low']:.1f} to {row['recall_high']:.1f}), and "
                     f"{row['precision']:.1f} % of what was thrown out was altered ({row['precision_low']:.1f} to {row['precision_high']:.1f})")
        out.append(text + ".")
    return out or not_run("A label filter")


def paper_table(tests: pd.DataFrame, systems: list[tuple[str, str]], split: str = "test", metric: str = "average") -> pd.DataFrame:
    """What is known of the paper's testbeds, and beside it this run's change at the highest rate for `systems`; no number of the paper that is not certain."""
    worst, out = at_worst(tests[(tests["metric"] == metric) & (tests["split"] == split) & (tests["remedy"] == "")]), []
    for entry in words()["paper"]:
        rows = worst[worst["testbed"].isin(entry["testbeds"]) & np.array([pair in systems for pair in zip(worst["model"], worst["stage"])], dtype=bool)]
        ours = [f"{testbed_name(row.testbed)} {row.rate:g} %, {task_name(row.task).lower()}, {row.stage}: {limits_text(row.value, row.low, row.high)}, n = {row.n:,.0f}" for row in rows.itertuples()]
        out.append({"the paper": entry["claim"], "here, points of average F1 at the highest rate": "; ".join(ours) or "was not run in this profile"})
    return pd.DataFrame(out)


# ---- what was run and who is spoken of -----------------------------------------------------------------------------------------------------


def change_name(change: str) -> str:
    """A meaning-preserving change in words."""
    return words()["any"] if change == "any" else words()["meaning_kept"].get(change, change)


def main_system(scores: pd.DataFrame) -> tuple[str, str]:
    """The system whose fields are shown one by one: the first model's most complete stage; ("", "") where no model was scored."""
    return next(iter(main_systems(scores)), ("", ""))


def shown_systems(scores: pd.DataFrame) -> list[tuple[str, str]]:
    """The systems that sentences speak of: the models' most complete stages, and the simple methods that read the text."""
    there = set(zip(scores["model"], scores["stage"]))
    return [pair for pair in [("rules", "baseline"), ("tfidf", "baseline"), *main_systems(scores)] if pair in there]


def coverage_sentences(scores: pd.DataFrame, consistency: pd.DataFrame) -> list[str]:
    """Which damage was scored, at which rates, on which questions, and what was not run."""
    out, rows = [], scores[(scores["metric"] == "average") & (scores["field"] == "all") & (scores["testbed"] != NATURAL)]
    for (testbed, split), part in rows.groupby(["testbed", "split"], sort=False):
        luck = f", between which a point varies by {part['seed_sd'].median():.1f} points (median standard deviation)" if part["seed_sd"].notna().any() else ""
        first = part.drop_duplicates("task")
        out.append(f"{testbed_name(testbed).capitalize()}, {ring_name(split)}: {', '.join(f'{rate:g}' for rate in sorted(set(part['rate'])))} % of the "
                   f"{words()['testbeds'].get(testbed, {}).get('of', 'words')}; systems: {len(set(zip(part['model'], part['stage'])))}, tasks: {len(first)}, questions that all systems answered: "
                   f"{first['n'].sum():,.0f} (left out: {first['left_out'].sum():,.0f}), training seeds: {int(part['seeds'].max())}{luck}.")
    missing = [testbed_name(name) for name in words()["testbeds"] if name != NATURAL and name not in set(rows["testbed"])]
    missing += [change_name(name) for name in words()["meaning_kept"] if name not in set(consistency["change"])]
    if len(rows) and rows.loc[rows["testbed"].isin(words()["training"]), "seeds"].max() > 1:
        out.append("Where altered labels were trained with several seeds, the luck of training is estimated from all rates of a curve together: that takes it to be the same at every rate, "
                   "and the trainings at different rates to be independent. The area under such a curve rests on its seeds alone.")
    return out + ([f"Was not run in this profile: {', '.join(missing)}."] if missing else [])
