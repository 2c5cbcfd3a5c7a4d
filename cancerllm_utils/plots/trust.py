"""Figures of trust: dangerous errors, calibration, and what answering only the surest questions gives. Each takes result tables and returns a Figure."""

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cancerllm_utils.evaluation.answers import of_systems
from cancerllm_utils.plots import empty_figure, label_rows, legend_below, legend_handles, n_text, new_figure, system_styles, task_panels
from cancerllm_utils.results import model_name, ring_name, task_name

FEW_QUESTIONS = 5  # a share of fewer is not drawn


def dangerous_errors(counts: pd.DataFrame, kinds: dict, systems: list[tuple[str, str]], split: str) -> Figure:
    """Share of each kind of dangerous error with its 95 % interval, one row per kind (the worst on top) and one mark per system, one panel per task.

    counts: dangerous.csv; kinds: danger.definitions()["kinds"]; systems: those that are drawn, in this order.
    """
    rows = of_systems(counts, systems, split)
    few = rows["of"] < FEW_QUESTIONS
    left_out, rows = sorted({kinds[kind]["name"] for kind in rows.loc[few, "kind"]} - {kinds[kind]["name"] for kind in rows.loc[~few, "kind"]}), rows[~few]
    tasks = list(dict.fromkeys(rows["task"]))
    if not tasks:
        return empty_figure(f"no dangerous error was possible in {FEW_QUESTIONS} questions or more")
    shown = {task: [kind for kind in kinds if kind in set(rows.loc[rows["task"] == task, "kind"])] for task in tasks}
    heights = [len(shown[task]) * (0.2 + 0.14 * len(systems)) + 0.75 for task in tasks]
    fig, axes = new_figure(len(tasks), 1, size=(9.5, sum(heights) + 0.6), height_ratios=heights)
    style = system_styles(systems)
    for ax, task in zip(axes[:, 0], tasks):
        part = rows[rows["task"] == task]
        for place, kind in enumerate(shown[task]):
            if place % 2:
                ax.axhspan(-place - 0.5, -place + 0.5, color="0.95", zorder=0)
            for i, system in enumerate(systems):
                found = part[(part["kind"] == kind) & (part["model"] == system[0]) & (part["stage"] == system[1])]
                if len(found):
                    row, at = found.iloc[0], -place + 0.36 - 0.72 * (i + 0.5) / len(systems)
                    ax.errorbar(row["share"], at, xerr=[[max(row["share"] - row["low"], 0)], [max(row["high"] - row["share"], 0)]], markersize=6, elinewidth=1,
                                capsize=2, clip_on=False, label=model_name(*system), **(style[system] | {"linestyle": "none"}))
        of = part.groupby("kind")["of"].agg(["min", "max"])
        labels = [f"{kinds[kind]['severity']}  {kinds[kind]['name']} (n = {of.loc[kind, 'max']:,})" for kind in shown[task]]
        ax.set_yticks([-place for place in range(len(labels))], labels)
        ax.set(title=f"{task_name(task)}, {ring_name(split)}", xlim=(-2, 102), ylim=(-len(labels) + 0.45, 0.55))
        ax.grid(axis="y", visible=False)
    note = f"\nnot drawn, fewer than {FEW_QUESTIONS} questions: {', '.join(left_out)}" if left_out else ""
    axes[-1, 0].set_xlabel(f"% of the questions in which the error was possible (95 % interval)\nbefore each name its severity, 1 is the worst{note}")
    handles, labels = legend_handles(axes[:, 0])
    order = [labels.index(model_name(*system)) for system in systems if model_name(*system) in labels]
    fig.legend([handles[i] for i in order], [labels[i] for i in order], loc="outside upper center", ncols=min(3, len(order)))
    return fig


def reliability(bins: pd.DataFrame, systems: list[tuple[str, str]], split: str) -> Figure:
    """Share of right answers against the mean probability of each bin, with 95 % intervals: above as the system gives it, below at the temperature of the
    development patients; two panels per task. On the line a system is as sure as it is right. bins: reliability.csv."""
    rows = of_systems(bins, systems, split)
    tasks, scales = list(dict.fromkeys(rows["task"])), [value for value in (False, True) if (rows["scaled"] == value).any()]
    if not tasks:
        return empty_figure("no system gives probabilities")
    fig, axes = task_panels(len(tasks), (3.5, 3.3), left=0.6, lines=len(scales), sharey=True)
    style = system_styles(systems)
    for ax, (task, is_scaled) in zip(axes, product(tasks, scales), strict=True):
        ax.plot([0, 100], [0, 100], color="0.4", linewidth=1, linestyle=":")
        part = rows[(rows["task"] == task) & (rows["scaled"] == is_scaled)]
        for system in systems:
            own = part[(part["model"] == system[0]) & (part["stage"] == system[1])].sort_values("confidence")
            if len(own):
                ax.errorbar(own["confidence"], own["right"], yerr=[(own["right"] - own["low"]).clip(lower=0), (own["high"] - own["right"]).clip(lower=0)], markersize=6, linewidth=1.2,
                            elinewidth=0.9, capsize=2, clip_on=False, label=model_name(*system), **style[system])
        n = part.groupby(["model", "stage"])["n"].sum()
        how = "corrected" if is_scaled else f"{ring_name(split)}, as given"
        ax.set(title=f"{task_name(task)}\n{how}, {n_text(n) if len(n) else 'nothing'}", xlabel="probability of the answer, %", xlim=(-3, 103), ylim=(-3, 103))
    label_rows(axes, "right, %")
    legend_below(fig, axes)
    return fig


def risk_coverage(curve: pd.DataFrame, calibration: pd.DataFrame, systems: list[tuple[str, str]], split: str) -> Figure:
    """Share of right answers among the surest, by how many are answered, with 95 % bands; one panel per task. The ring marks where the threshold of the
    development patients ends up. curve: risk_coverage.csv; calibration: calibration.csv."""
    rows = of_systems(curve, systems, split)
    tasks = list(dict.fromkeys(rows["task"]))
    if not tasks:
        return empty_figure("no system gives probabilities")
    fig, axes = task_panels(len(tasks), (3.5, 3.6), left=0.6, sharey=True)
    style = system_styles(systems)
    for ax, task in zip(axes, tasks, strict=True):
        part = rows[rows["task"] == task]
        for system in systems:
            own = part[(part["model"] == system[0]) & (part["stage"] == system[1])].sort_values("coverage")
            if own.empty:
                continue
            ax.fill_between(own["coverage"], own["low"], own["high"], color=style[system]["color"], alpha=0.13, linewidth=0)
            ax.plot(own["coverage"], own["right"], markersize=4, linewidth=1.5, markevery=2, label=model_name(*system), **style[system])
            chosen = calibration[(calibration["split"] == split) & (calibration["task"] == task) & (calibration["model"] == system[0]) & (calibration["stage"] == system[1])].iloc[0]
            if np.isfinite(chosen["right_kept"]):
                ax.plot(100 - chosen["sent"], chosen["right_kept"], "o", markersize=12, markerfacecolor="none", markeredgecolor="0.1", markeredgewidth=1.4, linestyle="none",
                        clip_on=False, label="threshold chosen on dev")
        n = part.loc[part["coverage"] == 100, "n"]
        ax.set(title=f"{task_name(task)}\n{ring_name(split)}, {n_text(n)}", xlabel="answered, % (the surest first)", xlim=(0, 103), ylim=(-3, 103))
    label_rows(axes, "right among the answered,\n% (95 % band)")
    legend_below(fig, axes, [model_name(*system) for system in systems])
    return fig
