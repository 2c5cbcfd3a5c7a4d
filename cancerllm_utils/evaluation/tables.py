"""Tables of notebook 06 for a reader at the bedside: abstention by field, and classes by field."""

from pathlib import Path

import pandas as pd

from cancerllm_utils.results import METRIC_NAMES, main_split, main_systems, model_name, one_row, points_text, system_order, task_name

TOTALS = ["accuracy", "macro", "weighted"]  # rows of classes.csv that are no class


def abstention_table(scores: pd.DataFrame, systems: list[tuple[str, str]] | None = None) -> pd.DataFrame:
    """What each system does with questions that the text answers and with those it leaves open, by task and field, on the main test set.

    Columns: task, field, system, right values where one is stated, missed values, false answers, right values minus false answers (%, 95 % intervals),
    stated and not stated (questions). Rows: "all" fields of each task for every system, then each field for `systems` (default: the language models' main
    stages). Fields without both kinds of question have no row.
    """
    metrics = ["right_stated", "miss", "false_answer", "value_minus_false"]
    rows = scores[scores["metric"].isin(metrics) & scores["split"].eq(main_split(scores)) & scores["variant"].eq("all") & scores["subgroup"].eq("all")]
    chosen = main_systems(scores) if systems is None else systems
    out = []
    for task, of_task in rows.groupby("task", sort=False):
        for field, part in of_task.groupby("field", sort=True):
            for model, stage in system_order(part):
                if field != "all" and (model, stage) not in chosen:
                    continue
                of_system = part[part["model"].eq(model) & part["stage"].eq(stage)]
                found = {metric: one_row(of_system, metric=metric) for metric in metrics}
                if found["value_minus_false"] is None:
                    continue
                out.append({"task": task_name(task), "field": field, "system": model_name(model, stage), **{METRIC_NAMES[metric]: points_text(row) for metric, row in found.items()},
                            "stated": int(found["miss"]["n"]), "not stated": int(found["false_answer"]["n"])})
    columns = ["task", "field", "system", *(METRIC_NAMES[metric] for metric in metrics), "stated", "not stated"]
    table = pd.DataFrame(out, columns=columns)
    return table.iloc[table["field"].ne("all").to_numpy().argsort(kind="stable")].reset_index(drop=True)


def class_overview(run_dir: str | Path, scores: pd.DataFrame) -> pd.DataFrame:
    """Closed fields as classifications, the models' main stages on the main test set, one row per task and field, from results/classes.csv.

    Columns: task, field, system, n, accuracy, macro F1 (95 % interval), weakest class (that with the lowest F1, with its recall and n), kappa (quadratic,
    times 100, with interval and how many answers lie on the scale; ordered fields only).
    """
    found = pd.read_csv(Path(run_dir) / "results" / "classes.csv", keep_default_na=False, na_values=[""])
    out = []
    for model, stage in main_systems(scores):
        part = found[found["model"].eq(model) & found["stage"].eq(stage) & found["split"].eq(main_split(scores))]
        for (task, field), rows in part.groupby(["task", "field"], sort=False):
            rows = rows.drop_duplicates("class").set_index("class")
            single = rows.drop(index=TOTALS)
            weakest = single["f1"].idxmin()
            kappa = one_row(scores, model=model, stage=stage, task=task, split=main_split(scores), field=field, variant="all", subgroup="all", metric="kappa_quadratic")
            out.append({
                "task": task_name(task), "field": field, "system": model_name(model, stage), "n": int(rows.loc["accuracy", "n"]), "accuracy": round(rows.loc["accuracy", "f1"], 1),
                "macro F1": points_text(rows.loc["macro"]), "weakest class": f"{weakest}: {single.loc[weakest, 'recall']:.0f} % of {int(single.loc[weakest, 'n'])} found",
                "kappa": "" if kappa is None else f"{points_text(kappa)}, n = {int(kappa['n']):,}",
            })  # fmt: skip
    return pd.DataFrame(out, columns=["task", "field", "system", "n", "accuracy", "macro F1", "weakest class", "kappa"])
