"""What a changed setting does: every variant of a study beside its reference, from stored results alone.

A variant is read from the jobs' flat parameter files (runs/<profile>/params/): it is what differs from the job of the same model without a
suffix. A variant that changes one setting by a number is a point on that factor's curve; any other is a row of `settings_table`.
"""

from pathlib import Path

import pandas as pd
import yaml

from cancerllm_utils import params
from cancerllm_utils.results import CPT_COLUMNS, SCORE_COLUMNS, TRAINING_COLUMNS, headline, main_split, ring_name, signed, task_name

NAMES = {params.PRETRAINING: "pre-training", params.TUNING: "tuning"}
# Factors that limit the data: what was really read stands in training.csv, and that is the axis.
ROWS = {(params.PRETRAINING, "max_tokens"): "notes read", (params.PRETRAINING, "num_train_epochs"): "passes over the notes",
        (params.TUNING, "max_tokens"): "examples", (params.TUNING, "max_examples"): "examples"}
GENERAL = "general"  # `split` of held-out general text in cpt.csv
SPLITS = ["dev", "test"]  # held-out notes: the first of these that was measured
COLUMNS = ["model", "stage", "notebook", "factor", "setting", "reference", "measure", "split", "value", "low", "high", "n", "difference", "difference_low", "difference_high"]


def trained_stages(run_dir: Path) -> pd.DataFrame:
    """One row per job of 03 and 04: model, stage, root (cpt, sft, cpt-sft), cpt_stage, changes ({(notebook, parameter): value}; {} for the reference)."""
    flat = [(file.stem.partition(".")[0], yaml.safe_load(file.read_text(encoding="utf-8"))) for file in sorted((Path(run_dir) / "params").glob("0[34]_*.yaml"))]
    jobs = {(Path(values["model"]).name, values["stage"]): (notebook, values) for notebook, values in flat}
    rows = []
    for (model, stage), (notebook, values) in jobs.items():
        root = max((name for name in params.STAGES if stage == name or stage.startswith(f"{name}-")), key=len)
        if (model, root) not in jobs:
            continue  # nothing to hold it against
        changes = changed(notebook, values, jobs[model, root][1])
        cpt = (model, values.get("cpt_stage", "cpt"))
        if root == "cpt-sft" and cpt[1] != "cpt" and cpt in jobs and (model, "cpt") in jobs:
            changes = changed(params.PRETRAINING, jobs[cpt][1], jobs[model, "cpt"][1]) | changes
        rows.append({"model": model, "stage": stage, "root": root, "changes": changes})
    return pd.DataFrame(rows, columns=["model", "stage", "root", "changes"])


def changed(notebook: str, values: dict, reference: dict) -> dict:
    """{(notebook, parameter): value} of what differs from the reference, the names of stages apart."""
    return {(notebook, key): value for key, value in values.items() if key not in params.SET_BY_STUDY and value != reference[key]}


def one_factor(changes: dict) -> bool:
    """True where exactly one setting differs, and by a number: a point on a curve."""
    return len(changes) == 1 and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in changes.values())


def points(run_dir: Path, n_resamples: int = 1000, seed: int = 42) -> pd.DataFrame:
    """Every point of every factor's curve (COLUMNS), the references included.

    measure: `bits per byte` on held-out notes and on general text after continued pre-training (interval: of the change since before), or
    `average F1` of a task (95 %, patients resampled). setting: the factor's value, or what was really read for the factors of ROWS, with 0
    for a model that read none. n: tokens or questions. difference: to the reference, paired by patient, for average F1 only.
    """
    run_dir, stages = Path(run_dir), trained_stages(run_dir).to_dict("records")
    tables = {name: read(run_dir, name) for name in ("cpt", "training", "scores")}
    rows = []
    for model, notebook, factor in dict.fromkeys((row["model"], *next(iter(row["changes"]))) for row in stages if one_factor(row["changes"])):
        own = [row for row in stages if row["model"] == model and (not row["changes"] or (one_factor(row["changes"]) and (notebook, factor) in row["changes"]))]
        values = reference_values(run_dir, model, notebook)
        tuned = "cpt-sft" if any(row["root"] == "cpt-sft" for row in own) else "sft"
        for row in own:
            at = {"model": model, "stage": row["stage"], "notebook": notebook, "factor": factor, "reference": not row["changes"],
                  "setting": setting(tables["training"], row, notebook, factor, values)}
            if row["root"] == "cpt" and notebook == params.PRETRAINING:
                rows += [at | loss for loss in losses(tables["cpt"], model, row["stage"], at["reference"] and factor == "max_tokens")]
            if row["root"] == tuned:
                rows += [at | score for score in task_scores(run_dir, tables["scores"], model, row["stage"], tuned, n_resamples, seed)]
        if (notebook, factor) == (params.PRETRAINING, "max_tokens") and tuned == "cpt-sft":
            rows += [{"model": model, "stage": "sft", "notebook": notebook, "factor": factor, "setting": 0, "reference": False, **score}
                     for score in task_scores(run_dir, tables["scores"], model, "sft", tuned, n_resamples, seed)]
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(["model", "notebook", "factor", "measure", "split", "setting"], kind="stable", ignore_index=True)


def read(run_dir: Path, name: str) -> pd.DataFrame:
    """A result table, empty with the columns that are used here where its step was not run."""
    columns = {"cpt": CPT_COLUMNS, "training": TRAINING_COLUMNS, "scores": SCORE_COLUMNS}
    file = Path(run_dir) / "results" / f"{name}.csv"
    return pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=columns[name])


def reference_values(run_dir: Path, model: str, notebook: str) -> dict:
    """Parameters of the reference job of 03 or 04."""
    for file in sorted((Path(run_dir) / "params").glob(f"{notebook}*.yaml")):
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        if Path(values["model"]).name == model and values["stage"] in params.STAGES:
            return values
    return {}


def setting(training: pd.DataFrame, row: dict, notebook: str, factor: str, reference: dict):
    """Where a stage stands on a factor's axis: the parameter's value, or the rows that it was trained on where the factor limits the data."""
    if ROWS.get((notebook, factor)) in ("notes read", "examples"):
        stage = row["stage"] if notebook == params.TUNING or row["root"] == "cpt" else "cpt" + row["stage"].removeprefix("cpt-sft")
        found = training.loc[(training["model"] == row["model"]) & (training["stage"] == stage), "train_rows"]
        if len(found):
            return int(found.iloc[0])
    return row["changes"].get((notebook, factor), reference[factor])


def losses(cpt: pd.DataFrame, model: str, stage: str, with_before: bool) -> list[dict]:
    """Bits per byte of one stage after training, on held-out notes and on general text; before it as setting 0 if asked."""
    whole = cpt[(cpt["model"] == model) & (cpt["stage"] == stage) & (cpt["subgroup"] == "all")]
    out = []
    for split in [next((split for split in SPLITS if split in set(whole["split"])), ""), GENERAL]:
        part = whole[whole["split"] == split]
        for after in part[part["when"] == "after"].to_dict("records"):
            per_nat = after["bits_per_byte"] / after["loss"]
            before = part.loc[part["when"] == "before", "bits_per_byte"].iloc[0]
            interval = {name: before + per_nat * after[f"change_{name}"] for name in ("low", "high") if f"change_{name}" in after}
            base = {"measure": "bits per byte", "split": split, "n": int(after["tokens"])}
            out.append(base | {"value": after["bits_per_byte"], **interval})
            if with_before:
                out.append(base | {"value": before, "setting": 0, "stage": "base", "reference": False})
    return out


def task_scores(run_dir: Path, scores: pd.DataFrame, model: str, stage: str, root: str, n_resamples: int, seed: int) -> list[dict]:
    """Average F1 of one stage on every task of the main test set, and its difference to the reference `root`, paired by patient."""
    from cancerllm_utils.evaluation.score import compare

    split = main_split(scores)
    rows = headline(scores, splits=[split])
    out = []
    for row in rows[(rows["model"] == model) & (rows["stage"] == stage)].to_dict("records"):
        point = {"measure": row["task"], "split": split, "value": row["f1"], "low": row["f1_low"], "high": row["f1_high"], "n": int(row["n"])}
        if stage != root and (Path(run_dir) / "results" / "examples.parquet").is_file() and ((rows["model"] == model) & (rows["stage"] == root)).any():
            subgroup = "headline" if row["task"] == "phenotype_extraction" else "all"
            pair = compare(run_dir, (model, stage), (model, root), row["task"], split, subgroup=subgroup, n_resamples=n_resamples, seed=seed)
            point |= {"difference": pair["difference"], "difference_low": pair["low"], "difference_high": pair["high"]}
        out.append(point)
    return out


def factor_name(notebook: str, factor: str) -> str:
    """What a reader sees: the parameter's own name, or what it limits, and whose it is."""
    return f"{ROWS.get((notebook, factor), factor)} ({NAMES[notebook]})"


def shown(value) -> str:
    """A setting as a reader writes it: 2, 0.05, 1e-3, 12,345."""
    if isinstance(value, float) and value and abs(value) < 0.01:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,g}" if isinstance(value, float) and not value.is_integer() else f"{int(value):,}"


def sentences(found: pd.DataFrame) -> list[str]:
    """One sentence per factor and measure, every number from `points`."""
    out = []
    for (model, notebook, factor), part in found.groupby(["model", "notebook", "factor"], sort=False):
        for (measure, split), line in part.groupby(["measure", "split"], sort=False):
            reference = line[line["reference"].astype(bool)]
            others = line[~line["reference"].astype(bool)]
            if reference.empty or others.empty:
                continue
            own, name = reference.iloc[0], f"{factor_name(notebook, factor)}, {model}"
            if measure == "bits per byte":
                text = "general text" if split == GENERAL else f"notes of {ring_name(split)}"
                best = line.loc[line["value"].idxmin()]
                out.append(f"{name}: on {text} the loss is {own['value']:.3f} bits per byte at {shown(own['setting'])} (reference), "
                           f"{', '.join(f'{row.value:.3f} at {shown(row.setting)}' for row in others.itertuples())}; lowest at {shown(best['setting'])} (n = {int(own['n']):,} tokens).")
            else:
                moves = [f"{signed(row.difference)} at {shown(row.setting)} ({signed(row.difference_low)} to {signed(row.difference_high)})"
                         for row in others.itertuples() if pd.notna(row.difference)]
                apart = [shown(row.setting) for row in others.itertuples() if row.difference_low > 0 or row.difference_high < 0]
                verdict = f"told apart from the reference by this sample: {', '.join(apart)}" if apart else "no setting can be told from the reference by this sample"
                out.append(f"{name}: {task_name(measure)} reaches {own['value']:.1f} points at {shown(own['setting'])} (reference, n = {int(own['n']):,}); "
                           + (f"against it {', '.join(moves)}, 95 % intervals paired by patient; {verdict}." if moves else "nothing else was scored."))
    return out or ["Nothing was varied in this run: no factor to show. Profile ablation varies rank, learning rate and number of notes."]


def settings_table(run_dir: Path, n_resamples: int = 1000, seed: int = 42) -> pd.DataFrame:
    """One row per tuned stage and task: the reference of each model, then every variant that changes more than one number.

    Columns: model, stage, what differs, trained parameters, task, average F1 with its interval, against the reference (paired by patient), ended
    by itself % (answers that stop by EOS), unparsed (answers that are no allowed one), n. Empty where no such variant was trained.
    """
    run_dir, stages = Path(run_dir), trained_stages(run_dir)
    training, scores = read(run_dir, "training"), read(run_dir, "scores")
    tuned = [row for row in stages.sort_values(["model", "root", "stage"]).itertuples() if row.root != "cpt" and not one_factor(row.changes)]
    with_variants = {(row.model, row.root) for row in tuned if row.changes}
    split, rows = main_split(scores), []
    ended, read_ones = headline(scores, "eos_share", "clinical", [split]), headline(scores, splits=[split])
    for row in [row for row in tuned if (row.model, row.root) in with_variants]:
        size = training.loc[(training["model"] == row.model) & (training["stage"] == row.stage), "trainable_parameters"]
        for score in task_scores(run_dir, scores, row.model, row.stage, row.root, n_resamples, seed):
            this = {"model": row.model, "stage": row.stage, "task": score["measure"]}
            of = {name: table[(table[list(this)] == pd.Series(this)).all(axis=1)] for name, table in (("ended", ended), ("unparsed", read_ones))}
            rows.append({
                "model": row.model, "stage": row.stage, "what differs": differences(row.changes), "trained parameters": f"{int(size.iloc[0]):,}" if len(size) else "",
                "task": task_name(score["measure"]), "average F1": f"{score['value']:.1f} ({score['low']:.1f} to {score['high']:.1f})",
                "against the reference": f"{signed(score['difference'])} ({signed(score['difference_low'])} to {signed(score['difference_high'])})" if "difference" in score else "",
                "ended by itself, %": f"{of['ended']['f1'].iloc[0]:.1f}" if len(of["ended"]) else "", "unparsed": f"{int(of['unparsed']['unparsed'].iloc[0]):,}", "n": f"{score['n']:,}",
            })  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "stage", "what differs", "trained parameters", "task", "average F1", "against the reference", "ended by itself, %", "unparsed", "n"])


def differences(changes: dict) -> str:
    """The changed settings in one line; `reference` for none."""
    return ", ".join(f"{name} {value!r}" if isinstance(value, str) else f"{name} {value}" for (_, name), value in changes.items()) or "reference"


def settings_sentences(table: pd.DataFrame) -> list[str]:
    """One sentence per variant and task of `settings_table`."""
    out = []
    for row in table[table["what differs"] != "reference"].to_dict("records"):
        out.append(f"{row['model']}, {row['stage']} ({row['what differs']}): {row['task'].lower()} {row['average F1']}, {row['against the reference']} points against the reference; "
                   f"{row['ended by itself, %']} % of the answers ended by themselves, {row['unparsed']} of {row['n']} could not be read.")
    return out or ["No variant of this kind was trained in this run. Profile quick_studies trains them."]
