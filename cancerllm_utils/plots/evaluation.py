"""Figures of the evaluation. Each takes score tables and returns a Figure in the theme of the package."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cancerllm_utils.plots import GREY, PALETTE, empty_figure, heat_map, label_rows, legend_below, n_text, system_styles, task_panels
from cancerllm_utils.results import headline, main_split, main_systems, model_name, ring_name, system_order, task_name

FEW_QUESTIONS = 5  # a share of fewer is not drawn


def leaderboard(scores: pd.DataFrame, reference: dict[str, float] | None = None, split: str | None = None) -> Figure:
    """Average F1 with 95 % intervals, one panel per task, baselines as squares and models as circles.

    scores: scores.csv rows; reference: summary.paper_references, a line per task where the
    paper's value is comparable.
    """
    split = split or main_split(scores)
    rows = headline(scores, splits=[split])
    tasks, systems = list(dict.fromkeys(rows["task"])), system_order(rows)
    if not tasks:
        return empty_figure("nothing was scored")
    fig, axes = task_panels(len(tasks), (3.1, 1.4 + 0.36 * len(systems)), left=2.2, sharey=True)
    y = {system: len(systems) - 1 - i for i, system in enumerate(systems)}
    for ax, task in zip(axes, tasks):
        part = rows[rows["task"] == task]
        for _, row in part.iterrows():
            at, baseline = y[row["model"], row["stage"]], row["stage"] == "baseline"
            if pd.notna(row["f1_low"]):
                ax.plot([row["f1_low"], row["f1_high"]], [at, at], "|-", color="0.25", linewidth=1.4, markersize=9)
            ax.plot(row["f1"], at, "s" if baseline else "o", color=GREY if baseline else PALETTE[0], markersize=7)
            ax.annotate(f"{row['f1']:.1f}", (row["f1"], at), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        if reference and task in reference:
            ax.axvline(reference[task], color="0.2", linestyle="--", linewidth=1.2)
            ax.annotate(f"paper {reference[task]:.2f}", (reference[task], 0), (-3, 2), xycoords=("data", "axes fraction"),
                        textcoords="offset points", rotation=90, ha="right", va="bottom", fontsize=8)
        ax.set(title=f"{task_name(task)}\n{ring_name(split)}, {n_text(part['n'])}", xlabel="average F1, points", xlim=(-3, 103))
    axes[0].set_yticks(list(y.values()), [model_name(*system) for system in y])
    axes[0].set_ylim(-0.6, len(systems) - 0.2)
    return fig


def ring_drop(scores: pd.DataFrame) -> Figure:
    """Average F1 from held-out patients to held-out sites to held-out institutions, one panel per task, one line per system."""
    rings = ["test", "external_site", "external"]
    rows = headline(scores, splits=rings)
    tasks, systems = list(dict.fromkeys(rows["task"])), system_order(rows)
    if not tasks:
        return empty_figure("neither test nor an external ring was scored")
    fig, axes = task_panels(len(tasks), (3.7, 4), left=0.6, sharey=True)
    style = system_styles(systems)
    for ax, task in zip(axes, tasks):
        part = rows[rows["task"] == task]
        for i, system in enumerate(systems):
            line = part[(part["model"] == system[0]) & (part["stage"] == system[1])].set_index("split").reindex(rings)
            # Side by side rather than on top of each other: the intervals are what the figure is about.
            x = np.arange(3) + (i - (len(systems) - 1) / 2) * 0.06
            errors = np.abs(line[["f1_low", "f1_high"]].astype(float).sub(line["f1"].astype(float), axis=0)).to_numpy().T
            ax.errorbar(x, line["f1"].astype(float), yerr=errors, markersize=5, linewidth=1.4, elinewidth=0.9, label=model_name(*system),
                        **style[system])
        n = part.groupby("split")["n"].max()
        ax.set_xticks(range(3), [f"{ring_name(ring).replace(' ', chr(10), 1)}\nn = {int(n[ring]):,}" if ring in n else f"{ring_name(ring)}\nnot scored"
                                 for ring in rings])
        ax.set(title=task_name(task), ylim=(-3, 103))
    label_rows(axes, "average F1, points (95 % interval)")
    legend_below(fig, axes)
    return fig


def field_accuracy(scores: pd.DataFrame, split: str | None = None) -> Figure:
    """Value accuracy (%) by field and system, one panel per task that asks more than one field."""
    split = split or main_split(scores)
    rows = scores[(scores["metric"] == "value_accuracy") & (scores["split"] == split) & (scores["variant"] == "all") & (scores["subgroup"] == "all")
                  & (scores["field"] != "all")].drop_duplicates(["model", "stage", "task", "field"])
    tasks = [task for task in dict.fromkeys(rows["task"]) if rows.loc[rows["task"] == task, "field"].nunique() > 1]
    if not tasks:
        return empty_figure("no task with several fields was scored")
    systems = system_order(rows)
    height = max(rows.loc[rows["task"] == task, "field"].nunique() for task in tasks)
    fig, axes = task_panels(len(tasks), (2.6 + 0.55 * len(systems), 2.6 + 0.32 * height), most=2)
    for ax, task in zip(axes, tasks):
        part = rows[rows["task"] == task].assign(system=lambda d: [model_name(*pair) for pair in zip(d["model"], d["stage"])])
        wide = part.pivot(index="field", columns="system", values="f1").reindex(columns=[model_name(*s) for s in systems]).dropna(axis=1, how="all")
        n = part.groupby("field", sort=False)["n"].max()
        wide = wide.reindex(n.index)
        wide.index = [f"{field} (n = {int(n[field]):,})" for field in wide.index]
        heat_map(ax, wide, f"{task_name(task)}: right values, %\n{ring_name(split)}")
    return fig


def abstention(scores: pd.DataFrame, split: str | None = None) -> Figure:
    """Right values where the text states one, against values given where it states none, one panel per task, with both 95 % intervals.

    On the diagonal, and in the grey below it, lies whoever answers without telling the two apart: never (lower left), always (right edge), or by lot.
    """
    split = split or main_split(scores)
    found = [headline(scores, metric, "clinical", [split])[["model", "stage", "task", "f1", "f1_low", "f1_high", "n"]] for metric in ["right_stated", "false_answer"]]
    rows = found[0].merge(found[1], on=["model", "stage", "task"], suffixes=("_right", "_false")).dropna(subset=["f1_right", "f1_false"])
    tasks, systems = list(dict.fromkeys(rows["task"])), system_order(rows)
    if not tasks:
        return empty_figure("no task with questions that the note leaves open was scored")
    fig, axes = task_panels(len(tasks), (4.6, 4.4), left=0.6, most=3, sharey=True)
    style = system_styles(systems)
    for ax, task in zip(axes, tasks, strict=True):
        ax.fill_between([0, 100], [0, 100], color="0.9", linewidth=0, zorder=0)
        ax.plot([0, 100], [0, 100], ":", color="0.4", linewidth=1)
        ax.annotate("no better than never\nor always answering", (97, 4), ha="right", va="bottom", fontsize=8, color="0.3")
        part = rows[rows["task"] == task]
        for system in systems:
            row = part[(part["model"] == system[0]) & (part["stage"] == system[1])]
            if row.empty:
                continue
            row = row.iloc[0]
            reach = {axis: np.abs(np.array([[row[f"f1_low_{side}"]], [row[f"f1_high_{side}"]]], dtype=float) - row[f"f1_{side}"]) for axis, side in (("xerr", "false"), ("yerr", "right"))}
            ax.errorbar(row["f1_false"], row["f1_right"], **reach, markersize=8, linewidth=0, elinewidth=0.8, label=model_name(*system), clip_on=False,
                        **(style[system] | {"linestyle": "none"}))
        ax.set(title=f"{task_name(task)}, {ring_name(split)}\nstated {n_text(part['n_right'])}, not stated {n_text(part['n_false'])}",
               xlabel="false answers, % of questions the note leaves open", xlim=(-4, 104), ylim=(-4, 104))
    label_rows(axes, "right values, %\nof questions with a stated value")
    legend_below(fig, axes, most=3)
    return fig


def abstention_by_field(scores: pd.DataFrame, split: str | None = None) -> Figure:
    """Right values minus false answers by field and system with 95 % intervals, one panel per task; 0 is what never or always answering reaches.

    Baselines are hollow; shown are the systems that read the text (no majority), the models' main stages, and fields with FEW_QUESTIONS of either kind.
    """
    split = split or main_split(scores)
    rows = scores[(scores["split"] == split) & (scores["variant"] == "all") & (scores["subgroup"] == "all") & (scores["field"] != "all")]
    stated = rows[rows["metric"] == "right_stated"].groupby(["task", "field"])["n"].max().rename("stated").reset_index()
    rows = rows[rows["metric"] == "value_minus_false"].merge(stated, on=["task", "field"])
    rows = rows[(rows["stated"] >= FEW_QUESTIONS) & (rows["n"] - rows["stated"] >= FEW_QUESTIONS)]
    shown = [pair for pair in system_order(rows) if pair in {("nearest", "baseline"), ("tfidf", "baseline"), ("rules", "baseline"), *main_systems(scores)}]
    rows = rows[np.array([pair in shown for pair in zip(rows["model"], rows["stage"])], dtype=bool)]
    tasks = list(dict.fromkeys(rows["task"]))
    if not tasks:
        return empty_figure(f"no field has {FEW_QUESTIONS} questions with and {FEW_QUESTIONS} without a stated value")
    fields = {task: sorted(rows.loc[rows["task"] == task, "field"].unique()) for task in tasks}
    fig, axes = task_panels(len(tasks), (6, 1.6 + 0.2 * len(shown) * max(map(len, fields.values()))), most=2)
    style = system_styles(shown)
    for ax, task in zip(axes, tasks, strict=True):
        part = rows[rows["task"] == task].set_index(["model", "stage", "field"])
        for i, system in enumerate(shown):
            for y, field in enumerate(fields[task]):
                if (*system, field) not in part.index:
                    continue
                row, at = part.loc[(*system, field)], len(fields[task]) - 1 - y - (i - (len(shown) - 1) / 2) * 0.7 / len(shown)
                ax.plot([row["f1_low"], row["f1_high"]], [at, at], "-", color="0.5", linewidth=0.9)
                ax.plot(row["f1"], at, markersize=6, label=model_name(*system), markerfacecolor="white" if system[1] == "baseline" else style[system]["color"],
                        **(style[system] | {"linestyle": "none"}))
        ax.axvline(0, color="0.3", linewidth=1, linestyle=":")
        n = part.groupby("field")["n"].max()
        ax.set_yticks(range(len(fields[task]))[::-1], [f"{field} (n = {int(n[field]):,})" for field in fields[task]])
        ax.set(title=f"{task_name(task)}, {ring_name(split)}\nfields with {FEW_QUESTIONS} or more questions of either kind", xlabel="right values minus false answers, points (95 % interval)",
               xlim=(-104, 104))
    legend_below(fig, axes, most=3)
    return fig
