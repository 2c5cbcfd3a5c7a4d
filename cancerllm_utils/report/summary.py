"""What a run shows, as tables and sentences: functions of result tables, used by the summary notebook and by the report."""

import json
from pathlib import Path

import pandas as pd
import yaml

from cancerllm_utils.paths import PACKAGE
from cancerllm_utils.results import (
    BASELINES,
    COMPARISON_COLUMNS,
    CPT_COLUMNS,
    METRIC_NAMES,
    SCORE_COLUMNS,
    headline,
    is_hybrid,
    load_paper_values,
    main_split,
    main_systems,
    model_name,
    one_row,
    points_text,
    ring_name,
    signed,
    system_order,
    task_name,
)
from cancerllm_utils.tasks.task import label_source, load_task, task_names

NOT_RUN = "not run"
# Tables that the report reads, with the columns that it needs of each; all but the first three are written by notebooks that a run may leave out.
TABLES = {
    "scores": ("scores.csv", SCORE_COLUMNS),
    "cpt": ("cpt.csv", CPT_COLUMNS),
    "paired": ("comparisons.csv", COMPARISON_COLUMNS),
    "rings": ("ring_drop.csv", ["model", "stage", "task", "split", "metric", "difference", "low", "high", "p_holm"]),
    "subgroups": ("subgroups.csv", ["model", "stage", "task", "metric", "dimension", "level", "n", "patients", "difference", "low", "high", "p_holm"]),
    "dangerous": ("dangerous.csv", ["model", "stage", "task", "split", "kind", "severity", "n", "of", "share", "low", "high"]),
    "calibration": ("calibration.csv", ["model", "stage", "task", "split", "right", "confidence"]),
}
FEW_MODELS = 3  # fewer have no order worth a correlation
ALPHA = 0.05  # as in comparisons.yaml
SILVER = ("No patient of this corpus has a label: the models were tuned on what the reading rules find in the text, and every score below is agreement "
          "with those rules. It is not accuracy, and no system can be ranked by it.")


def read_results(run_dir: str | Path) -> dict:
    """A run's result tables as scores, cpt, paired (comparisons.csv), comparisons (those of average F1), rings (ring_drop.csv), subgroups, dangerous, calibration,
    asked (patient_id and split of whoever was asked about);
    synthetic: True only when every note comes from the generator; silver: True when no patient of the corpus has a label, so that the gold of
    extraction is what the reading rules find.

    A table whose step was not run is empty but has its columns.
    """
    folder, notes = Path(run_dir) / "results", Path(run_dir) / "corpus" / "notes.parquet"
    results = {name: pd.read_csv(folder / file) if (folder / file).is_file() else pd.DataFrame(columns=columns) for name, (file, columns) in TABLES.items()}
    results["comparisons"] = results["paired"].query("metric == 'average'")
    examples = folder / "examples.parquet"
    results["asked"] = pd.read_parquet(examples, columns=["patient_id", "split"]).drop_duplicates() if examples.is_file() else pd.DataFrame(columns=["patient_id", "split"])
    source = pd.read_parquet(notes, columns=["source"])["source"] if notes.is_file() else pd.Series(dtype=str)
    settings = Path(run_dir) / "datasets" / "settings.json"
    silver = settings.is_file() and json.loads(settings.read_text(encoding="utf-8")).get("silver", False)
    return results | {"synthetic": len(source) > 0 and bool(source.str.startswith("synthetic").all()), "silver": silver}


def paper_references(model: str, synthetic: bool, values: dict | None = None) -> dict[str, float]:
    """Task -> the paper's average F1, only where a run of this base model on this kind of notes may be held against it; else empty."""
    values = values or load_paper_values()
    return {
        entry["tasks"][0]: entry["value"]
        for entry in values["values"]
        if entry.get("metric") == "average" and entry.get("split") == "test" and len(entry.get("tasks", [])) == 1
        and "minus_stage" not in entry and _comparable(entry, model, synthetic, values["requires"])[0] == "yes"
    }


def _comparable(entry: dict, model: str, synthetic: bool, requires: dict) -> tuple[str, str]:
    if not entry["comparable"]:
        return "no", entry["why"]
    if synthetic:
        return "no", f"synthetic notes here; {entry['why']}"
    if model != requires["base_model"]:
        return "no", f"another base model here; {entry['why']}"
    return "yes", f"with care: {entry['why']}"


def _beside(entry: dict, scores: pd.DataFrame, system: tuple[str, str], split: str) -> tuple[str, str]:
    """This run's number beside one of the paper's, and n: the mean over the entry's tasks, minus the other stage for a gain."""
    model, stage = system
    rows = headline(scores, entry["metric"], splits=[split])
    found = [one_row(rows, model=model, stage=stage, task=task) for task in entry["tasks"]]
    other = [one_row(rows, model=model, stage=entry["minus_stage"], task=task) for task in entry["tasks"]] if "minus_stage" in entry else []
    if any(row is None for row in found + other) or (other and entry["minus_stage"] == stage):
        return NOT_RUN, ""
    n = f"{sum(int(row['n']) for row in found):,}"
    if len(found) == 1 and not other:
        return points_text(found[0]), n
    value = sum(row["f1"] for row in found) / len(found) - sum(row["f1"] for row in other) / max(len(other), 1)
    return (signed(value) if other else f"{value:.1f}"), n


def headline_table(scores: pd.DataFrame, paper_values: dict | None = None, synthetic: bool = False) -> pd.DataFrame:
    """Every headline of the paper beside this run's own number, then this run's headlines that the paper does not have.

    scores: scores.csv, empty when nothing was scored. Returns strings: what, test set, metric, system, this run (95 % interval), n, paper,
    comparable (yes | no), why. Points from 0 to 100; a number that was not computed reads "not run".
    """
    values = paper_values or load_paper_values()
    systems = main_systems(scores) or [("", "")]
    split = main_split(scores)
    rows, shown = [], set()
    for system in systems:
        for entry in values["values"]:
            here, n = NOT_RUN, ""
            ring = {"test": split}.get(entry.get("split"), entry.get("split", ""))
            if "tasks" not in entry:
                here = "no counterpart"
            elif system[0]:
                here, n = _beside(entry, scores, system, ring)
                shown |= {(task, ring, entry["metric"]) for task in entry["tasks"] if len(entry["tasks"]) == 1 and "minus_stage" not in entry}
            comparable, why = _comparable(entry, system[0], synthetic, values["requires"])
            if here == NOT_RUN:
                comparable, why = "no", "nothing to compare: the step that computes it was not run"
            paper = {"points": "{:.2f}", "points gained": "{:+g}"}.get(entry["unit"], "{} " + entry["unit"]).format(entry["value"])
            rows.append([entry["what"], ring_name(ring) if ring else "", METRIC_NAMES.get(entry["metric"], entry["metric"]),
                         model_name(*system) if system[0] and n else "", here, n, paper, comparable, why])
        for _, row in headline(scores).iterrows():
            if (row["model"], row["stage"]) == system and (row["task"], row["split"], "average") not in shown:
                rows.append([task_name(row["task"]), ring_name(row["split"]), METRIC_NAMES["average"], model_name(*system), points_text(row), f"{int(row['n']):,}",
                             "not known", "no", "the paper gives no such number"])
    return pd.DataFrame(rows, columns=["what", "test set", "metric", "system", "this run", "n", "paper", "comparable", "why"])


def label_sentences(run_dir: str | Path, scores: pd.DataFrame) -> list[str]:
    """Where the right answers of each scored task come from in this run (stated in the text, registry, silver, synthetic gold), one sentence per task."""
    path = Path(run_dir) / "datasets" / "settings.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known = [task for task in dict.fromkeys(scores["task"]) if task in task_names()]
    return [label_source(load_task(task), settings.get("corpus", ""), settings.get("silver", False)) for task in known]


def leaderboard_table(scores: pd.DataFrame, synthetic: bool = False, comparisons: pd.DataFrame | None = None) -> pd.DataFrame:
    """Average F1 with its 95 % interval by task and system, one column per test set, n in its head; then value accuracy and false answers (%).

    With `comparisons` (comparisons.run) a last column says how the tuned model stands to the system on the first test set: the paired difference, its
    interval, and whether the test tells them apart after Holm. On real reports the label rules made the gold of extraction: they stand there as the
    labels' source, without a score.
    """
    rings = [ring for ring in [main_split(scores), "external_site", "external"] if ring in set(scores["split"])]
    rows = headline(scores, splits=rings)
    extra = {metric: headline(scores, metric, "clinical", rings[:1]) for metric in ["value_accuracy", "false_answer"]}
    out = []
    for task, part in rows.groupby("task", sort=False):
        for model, stage in system_order(part):
            line = {"task": task_name(task), "system": model_name(model, stage)}
            for ring in rings:
                row = one_row(part, model=model, stage=stage, split=ring)
                line[ring_name(ring)] = "" if row is None else f"{points_text(row)}, n = {int(row['n']):,}"
            for metric, table in extra.items():
                row = one_row(table, model=model, stage=stage, task=task)
                line[METRIC_NAMES[metric]] = "" if row is None or pd.isna(row["f1"]) else f"{row['f1']:.1f}"
            if comparisons is not None:
                line["the tuned model against it"] = _paired(comparisons, (model, stage), task, rings[0])
            out.append(line)
        if task == "phenotype_extraction" and not synthetic:
            out.append({"task": task_name(task), "system": BASELINES["rules"], **{ring_name(ring): "the labels' source, not ranked" for ring in rings}})
    columns = ["task", "system", *(ring_name(ring) for ring in rings), *(METRIC_NAMES[metric] for metric in extra), *(["the tuned model against it"] * (comparisons is not None))]
    return pd.DataFrame(out, columns=columns).fillna("")


def _paired(comparisons: pd.DataFrame, system: tuple[str, str], task: str, split: str) -> str:
    """The paired differences in average F1 of the language models to one system, in words, the model named where there are several; "" where none was tested."""
    rows = comparisons[comparisons["b"].eq("/".join(system)) & comparisons["task"].eq(task) & comparisons["split"].eq(split) & comparisons["metric"].eq("average")]
    rows = rows[~rows["a"].astype(str).str.split("/").str[0].map(is_hybrid).astype(bool)].dropna(subset=["difference"]).drop_duplicates("a")
    several = rows["a"].nunique() > 1
    return "; ".join(f"{row.a + ': ' if several else ''}{signed(row.difference)} ({signed(row.low)} to {signed(row.high)}{'' if row.p_holm <= ALPHA else ', not told apart'})" for row in rows.itertuples())


def field_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Value accuracy (%) by task and field, one column per system, on the main test set; n is the number of questions."""
    rows = scores[(scores["metric"] == "value_accuracy") & (scores["split"] == main_split(scores)) & (scores["variant"] == "all")
                  & (scores["subgroup"] == "all") & (scores["field"] != "all")]
    rows = rows.assign(system=[model_name(*pair) for pair in zip(rows["model"], rows["stage"])], task=rows["task"].map(task_name))
    wide = rows.pivot_table(index=["task", "field"], columns="system", values="f1", sort=False)
    wide.insert(0, "n", rows.groupby(["task", "field"])["n"].max())
    systems = dict.fromkeys(model_name(*system) for system in system_order(rows))
    return wide.reindex(columns=["n", *systems]).reset_index().rename_axis(columns=None).round(1)


def _apart(a: pd.Series, b: pd.Series) -> str:
    if pd.isna([a["f1_low"], b["f1_low"]]).any():
        return "no interval from one institution"
    return "intervals apart" if a["f1_low"] > b["f1_high"] or b["f1_low"] > a["f1_high"] else "intervals overlap"


def _against(rows: pd.DataFrame, system: tuple[str, str], other: tuple[str, str], comparisons: pd.DataFrame | None) -> str:
    """How one system stands to another on one task: the paired difference where there is one, else the plain one and whether the intervals overlap."""
    a, b = one_row(rows, model=system[0], stage=system[1]), one_row(rows, model=other[0], stage=other[1])
    if a is None or b is None or system == other:
        return ""
    pair = None if comparisons is None else one_row(comparisons, a="/".join(system), b="/".join(other), task=a["task"], split=a["split"])
    if pair is None:
        return f"{signed(a['f1'] - b['f1'])} points (it reaches {points_text(b, '[]')}; {_apart(a, b)})"
    verdict = "ahead" if pair["low"] > 0 else "behind" if pair["high"] < 0 else "no difference that can be told from chance"
    return f"{signed(pair['difference'])} points (95 % interval {signed(pair['low'])} to {signed(pair['high'])}, paired by patient: {verdict})"


def sentences(scores: pd.DataFrame, cpt: pd.DataFrame | None = None, comparisons: pd.DataFrame | None = None, silver: bool = False) -> list[str]:
    """The run's findings, every number printed from the tables that `read_results` returns; without scores one sentence says so."""
    out = [SILVER] if silver else []
    if scores.empty:
        out.append("No predictions were scored in this run: there is nothing to say about its answers yet.")
    elif not main_systems(scores):
        out.append("No language model was scored in this run: the numbers are those of the baselines.")
    else:
        out += [] if comparisons is None else comparisons.loc[comparisons["kind"] == "primary", "verdict"].tolist()
        for system in main_systems(scores):
            out += system_sentences(scores, system, comparisons) + refusal_sentences(scores, system) + ring_sentences(scores, system)
    if cpt is not None and not cpt.empty:
        out += cpt_sentences(cpt)
    return out


def system_sentences(scores: pd.DataFrame, system: tuple[str, str], comparisons: pd.DataFrame | None = None) -> list[str]:
    """One sentence per task: the headline, and how it stands to the plain baselines and the untuned base; one more on continued pre-training."""
    out = []
    for task, rows in headline(scores, splits=[main_split(scores)]).groupby("task", sort=False):
        row = one_row(rows, model=system[0], stage=system[1])
        if row is None:
            continue
        text = f"{task_name(task)}, {ring_name(row['split'])}: {model_name(*system)} reaches an average F1 of {points_text(row)}, n = {int(row['n']):,}."
        for other in [("majority_by_cancer", "baseline"), ("tfidf", "baseline"), (system[0], "base")]:
            if against := _against(rows, system, other, comparisons):
                text += f" Against {model_name(*other)}: {against}."
        out.append(text + (f" {int(row['unparsed']):,} answers could not be read." if row["unparsed"] > 0 else ""))
        decided = comparisons is not None and one_row(comparisons, kind="primary", a="/".join(system), b=f"{system[0]}/sft", task=task) is not None
        if system[1] == "cpt-sft" and not decided and (against := _against(rows, system, (system[0], "sft"), comparisons)):
            out.append(f"Does continued pre-training help {task_name(task).lower()}? Tuned with it, against tuned without it: {against}.")
    return out


def cpt_sentences(cpt: pd.DataFrame) -> list[str]:
    """How continued pre-training moved the loss per token, one sentence per ring of notes (and general text) that it was measured on."""
    out = []
    for (model, split), part in cpt[cpt["subgroup"].eq("all") & cpt["stage"].eq("cpt")].groupby(["model", "split"], sort=False):
        before, after = one_row(part, when="before"), one_row(part, when="after")
        if before is None or after is None:
            continue
        change = 100 * (after["loss"] - before["loss"]) / before["loss"]
        of = ring_name(split) if split == "general" else f"notes of {ring_name(split)}"
        out.append(f"Continued pre-training moved the loss of {model} per token on {of} from {before['loss']:.2f} to {after['loss']:.2f} "
                   f"({signed(change)} %; bits per byte from {before['bits_per_byte']:.2f} to {after['bits_per_byte']:.2f}; n = {int(after['tokens']):,} tokens).")
    return out


def refusal_sentences(scores: pd.DataFrame, system: tuple[str, str]) -> list[str]:
    """Extraction as a reader of notes would ask: right values, values given though the note states none, values missed, answers cut off."""
    row = {metric: one_row(headline(scores, metric, "clinical", [main_split(scores)]), model=system[0], stage=system[1], task="phenotype_extraction")
           for metric in ["value_accuracy", "false_answer", "miss", "eos_share"]}
    parts = {
        "value_accuracy": "the answer was right for {:.1f} % of all questions",
        "false_answer": "where the note states no answer, one was given all the same for {:.1f} % of the questions",
        "miss": "where it states one, none was given for {:.1f} %",
        "eos_share": "{:.1f} % of the answers ended by themselves rather than at the length limit",
    }
    found = [text.format(row[metric]["f1"]) for metric, text in parts.items() if row[metric] is not None and pd.notna(row[metric]["f1"])]
    return [f"Extraction by {model_name(*system)}, as a reader would ask: {'; '.join(found)}."] if found else []


def ring_sentences(scores: pd.DataFrame, system: tuple[str, str]) -> list[str]:
    """How far the average F1 moves from held-out patients to sites and to whole institutions that nothing has seen, one sentence per task."""
    rows = headline(scores, splits=["test", "external_site", "external"])
    rows = rows[(rows["model"] == system[0]) & (rows["stage"] == system[1])]
    out = []
    for task, part in rows.groupby("task", sort=False):
        inner = one_row(part, split="test")
        outer = [row for ring in ["external_site", "external"] if (row := one_row(part, split=ring)) is not None]
        if inner is None or not outer:
            continue
        moves = [f"{signed(row['f1'] - inner['f1'])} points on {ring_name(row['split'])} ({points_text(row, '[]')}, n = {int(row['n']):,}; {_apart(row, inner)})"
                 for row in outer]
        out.append(f"{task_name(task)}, from {ring_name('test')} to unseen places: {', '.join(moves)}.")
    return out


def release_dates() -> dict[str, str]:
    """Model -> the month in which its weights were released, "YYYY-MM", of the entries of models.yaml that have one."""
    entries = yaml.safe_load((PACKAGE / "modeling" / "models.yaml").read_text(encoding="utf-8"))
    return {name: entry["released"] for name, entry in entries.items() if "released" in entry}


def release_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Every language model with its release date and, on the main test set, the average F1 of each task, untuned and tuned; the oldest model first."""
    dates, rows = release_dates(), headline(scores, splits=[main_split(scores)])
    rows = rows[rows["stage"].ne("baseline") & ~rows["model"].map(is_hybrid).astype(bool)]
    out = []
    for model, stage in system_order(rows):
        found = {task_name(task): one_row(rows, model=model, stage=stage, task=task) for task in dict.fromkeys(rows["task"])}
        out.append({"released": dates.get(model, "no date"), "system": model_name(model, stage), **{task: "" if row is None else f"{points_text(row)}, n = {int(row['n']):,}" for task, row in found.items()}})
    return pd.DataFrame(out).sort_values(["released", "system"]).reset_index(drop=True) if out else pd.DataFrame(columns=["released", "system"])


def release_sentence(scores: pd.DataFrame) -> str:
    """Whether newer models answer better: the rank correlation of release date and best score per task, or why it cannot be said."""
    dates, rows = release_dates(), headline(scores, splits=[main_split(scores)])
    best = rows[rows["model"].isin(list(dates)) & rows["stage"].ne("baseline")].groupby(["task", "model"], sort=False)["f1"].max().reset_index()
    models = best["model"].nunique()
    if models < FEW_MODELS:
        return f"Performance by release date: {models} of this run's language models {'has' if models == 1 else 'have'} a known release date; {FEW_MODELS} are needed to say whether newer ones answer better."
    best["released"] = best["model"].map(dates).map(lambda month: pd.Period(month, "M").ordinal)
    said = [f"{task_name(task)} {part['released'].corr(part['f1'], method='spearman'):+.2f}".replace("-", "\N{MINUS SIGN}") for task, part in best.groupby("task", sort=False)]
    return f"Performance by release date, {models} models: rank correlation of date and score {', '.join(said)} (1: every newer model is better; 0: no relation)."


def phenotype_sources(paper_values: dict | None = None) -> pd.DataFrame:
    """Where gold for each of the paper's eight phenotypes comes from: phenotype, real reports, fields there, synthetic cohort, field there."""
    entries = (paper_values or load_paper_values())["phenotypes"]
    return pd.DataFrame({
        "phenotype": [e["phenotype"] for e in entries],
        "real reports (TCGA)": [e["real"] for e in entries],
        "fields there": [", ".join(e["real_fields"]) or "none" for e in entries],
        "synthetic cohort": ["exact gold" for _ in entries],
        "field there": [e["synthetic_field"] for e in entries],
    })
