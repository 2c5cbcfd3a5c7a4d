"""Figures of the independent cohort: change from ring to ring, institution by institution, the learning curve over hospitals, subgroups.

Each takes result tables (evaluation/rings.py, institutions_curve.py, subgroups.py) and returns a matplotlib Figure in the theme of the package.
"""

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cancerllm_utils.plots import DASHES, GREY, MARKERS, PALETTE, empty_figure, label_rows, legend_below, task_panels
from cancerllm_utils.results import BASELINES, METRIC_NAMES, model_name, ring_name, system_order, task_name

FORMS = {("external_site", "difference"): ("s", "as it is"), ("external", "difference"): ("o", "as it is"), ("external", "adjusted"): ("D", "at an equal mix of cancers")}
# Dimensions of the subgroup figure, from the top; institutions have a figure of their own, race within cancer types a table.
SUBGROUPS = ["cancer type", "report length", "OCR quality", "age", "sex", "race"]


def _interval(ax, low, high, at, **style) -> None:
    if pd.notna(low):
        ax.plot([low, high], [at, at], "-", linewidth=1.3, **style)


def change(table: pd.DataFrame, metric: str = "average") -> Figure:
    """Change of the score from held-out patients to unseen places, one panel per task, one row per system; a loss lies left of the line.

    table: rings.drops. Squares: departments; circles: institutions; open diamonds: institutions at the mix of cancers of the held-out patients.
    """
    rows = table[table["metric"] == metric]
    tasks, systems = list(dict.fromkeys(rows["task"])), system_order(rows)
    if not tasks:
        return empty_figure("held-out patients and unseen places were not both scored")
    fig, axes = task_panels(len(tasks), (3.1, 1.5 + 0.5 * len(systems)), left=2.2, sharey=True)
    for ax, task in zip(axes, tasks, strict=True):
        part = rows[rows["task"] == task]
        ax.axvline(0, color="0.3", linewidth=1)
        for row in part.to_dict("records"):
            at = len(systems) - 1 - systems.index((row["model"], row["stage"]))
            for place, ((split, kind), (marker, how)) in enumerate(FORMS.items()):
                if row["split"] != split or pd.isna(row[kind]):
                    continue
                low, high = ("low", "high") if kind == "difference" else ("adjusted_low", "adjusted_high")
                colour, y = (PALETTE[0] if split == "external" else GREY), at + 0.22 - 0.22 * place
                _interval(ax, row[low], row[high], y, color=colour)
                ax.plot(row[kind], y, marker, color=colour, markerfacecolor="white" if kind == "adjusted" else colour, markersize=6,
                        label=f"{ring_name(split)}, {how}" if at == 0 else None)
        n = part.drop_duplicates("split").set_index("split")
        known = ", ".join(f"{ring_name(split)} n = {n.loc[split, 'n']:,}" for split in ("external_site", "external") if split in n.index)
        ax.set_title(f"{task_name(task)}\nheld-out patients n = {int(part['n_reference'].iloc[0]):,}\n{known.replace(', ', chr(10))}", fontsize=9.5)
        ax.set_xlabel(f"change of {METRIC_NAMES[metric]}, points")
    axes[0].set_yticks(range(len(systems))[::-1], [model_name(*system) for system in systems])
    axes[0].set_ylim(-0.6, len(systems) - 0.4)
    legend_below(fig, axes)
    return fig


def by_institution(table: pd.DataFrame, systems: list[tuple[str, str]], metric: str = "average", split: str = "external") -> Figure:
    """Score of each unseen institution with its interval over patients, one panel per task, lowest first; n is its number of patients.

    table: rings.institutions, which leaves out institutions of fewer than 20 patients.
    """
    rows = table[(table["metric"] == metric) & (table["split"] == split)]
    rows = rows[np.array([pair in systems for pair in zip(rows["model"], rows["stage"])], dtype=bool)]
    tasks = list(dict.fromkeys(rows["task"]))
    if not tasks:
        return empty_figure("no unseen institution with 20 patients was scored")
    most = max(rows.loc[rows["task"] == task, "institution"].nunique() for task in tasks)
    fig, axes = task_panels(len(tasks), (4.1, 1.3 + 0.17 * most * len(systems)))
    for ax, task in zip(axes, tasks, strict=True):
        part = rows[rows["task"] == task]
        own = part[(part["model"] == systems[-1][0]) & (part["stage"] == systems[-1][1])].sort_values("f1", ascending=False)
        names = own["institution"].tolist()
        for row in part.to_dict("records"):
            place = systems.index((row["model"], row["stage"]))
            y = names.index(row["institution"]) + 0.2 * (place - (len(systems) - 1) / 2)
            colour = GREY if row["stage"] == "baseline" else PALETTE[0]
            _interval(ax, row["f1_low"], row["f1_high"], y, color=colour)
            ax.plot(row["f1"], y, MARKERS[place], color=colour, markersize=5.5, label=model_name(row["model"], row["stage"]))
        n = own.set_index("institution")["patients"]
        ax.set_yticks(range(len(names)), [f"{_short(name)}\nn = {n[name]:,}" for name in names], fontsize=8)
        ax.set(title=task_name(task), xlabel=f"{METRIC_NAMES[metric]}, points", xlim=(-3, 103), ylim=(-0.6, len(names) - 0.4))
    legend_below(fig, axes)
    return fig


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else name[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def learning_curve(curve: pd.DataFrame, metric: str = "average") -> Figure:
    """Score on unseen institutions by the number of training institutions: one panel per task and design, band from lowest to highest draw.

    curve: institutions_curve.run. The percentages name the share of the questions whose cancer type the training hospitals had seen.
    """
    rows = curve[(curve["metric"] == metric) & (curve["subgroup"] == "all")]
    tasks, designs = list(dict.fromkeys(rows["task"])), list(dict.fromkeys(rows["design"]))
    if not tasks:
        return empty_figure("no learning curve: unseen institutions were not scored")
    systems = system_order(rows)
    fig, axes = task_panels(len(tasks), (3.6, 3.1), left=0.6, lines=len(designs))
    for upper, lower in ((i - i % len(designs), i) for i in range(len(axes)) if i % len(designs)):
        axes[lower].sharey(axes[upper])  # the designs of one task are compared with each other
    for ax, (task, design) in zip(axes, product(tasks, designs), strict=True):
        part = rows[(rows["task"] == task) & (rows["design"] == design)]
        for place, (model, stage) in enumerate(systems):
            own = part[(part["model"] == model) & (part["stage"] == stage)]
            steps = own.groupby("n_institutions")["f1"].agg(["mean", "min", "max"])
            colour = PALETTE[place % len(PALETTE)]
            ax.fill_between(steps.index, steps["min"], steps["max"], color=colour, alpha=0.15, linewidth=0)
            ax.plot(steps.index, steps["mean"], marker=MARKERS[place], linestyle=DASHES[place % len(DASHES)], color=colour, markersize=5, linewidth=1.4,
                    label=BASELINES.get(model, model_name(model, stage)))
        steps = sorted(set(part["n_institutions"]))
        seen, patients = (part.groupby("n_institutions")[name].mean() for name in ("seen", "patients"))
        if steps:
            ax.set_xscale("log", base=2)
            ax.set_xticks(steps, [f"{k}\n{100 * seen[k]:.0f} %" + (f"\n{patients[k]:,.0f}" if design != "equal patients" else "") for k in steps], fontsize=8)
            ax.minorticks_off()
        n = f", n = {part['n'].max():,.0f}" if len(part) else ""
        many = f": {patients.iloc[0]:,.0f}" if design == "equal patients" and len(part) else ""
        ax.set_title(f"{task_name(task)}{n}\n{design}{many}", fontsize=10)
        ax.set_xlabel("training institutions; questions of a cancer seen" + ("; patients" if design != "equal patients" else ""), fontsize=8.5)
    label_rows(axes, f"{METRIC_NAMES[metric]}, points")
    legend_below(fig, axes)
    return fig


def subgroups(table: pd.DataFrame, systems: list[tuple[str, str]], metric: str = "average") -> Figure:
    """Score of each shown subgroup with its 95 % interval over patients, one panel per task; n is the number of patients of the first task that shows it.

    table: subgroups.run; subgroups of fewer than 20 patients have no mark.
    """
    rows = table[(table["metric"] == metric) & table["shown"].astype(bool) & table["dimension"].isin(SUBGROUPS)]
    rows = rows[np.array([pair in systems for pair in zip(rows["model"], rows["stage"])], dtype=bool)]
    tasks = list(dict.fromkeys(rows["task"]))
    if not tasks:
        return empty_figure("no subgroup of 20 patients was scored")
    levels = {}
    for row in rows.to_dict("records"):
        levels.setdefault((row["dimension"], row["level"]), row["patients"])
    order = [pair for name in SUBGROUPS for pair in levels if pair[0] == name]
    heights, at = {}, 0.0
    for before, pair in zip([None, *order], order):
        at += 1.0 if before is None or before[0] == pair[0] else 1.7  # a gap between dimensions
        heights[pair] = -at
    fig, axes = task_panels(len(tasks), (2.7, 1.2 + 0.24 * at), left=3.4, sharey=True)
    for ax, task in zip(axes, tasks, strict=True):
        for row in rows[rows["task"] == task].to_dict("records"):
            place = systems.index((row["model"], row["stage"]))
            y, colour = heights[row["dimension"], row["level"]] + 0.18 * ((len(systems) - 1) / 2 - place), GREY if row["stage"] == "baseline" else PALETTE[0]
            _interval(ax, row["f1_low"], row["f1_high"], y, color=colour)
            ax.plot(row["f1"], y, MARKERS[place], color=colour, markersize=5, label=model_name(row["model"], row["stage"]))
        ax.set(title=task_name(task), xlabel=f"{METRIC_NAMES[metric]}, points", xlim=(-3, 103), ylim=(-at - 0.8, -0.2))
    axes[0].set_yticks([heights[pair] for pair in order], [f"{pair[1]} (n = {levels[pair]:,.0f})" for pair in order])
    for ax in axes:
        ax.tick_params(axis="y", labelsize=8)
    for name in dict.fromkeys(pair[0] for pair in order):
        top = max(height for pair, height in heights.items() if pair[0] == name)
        for ax in axes:
            if (last := ax.get_subplotspec().is_last_col()) or ax is axes[-1]:
                text = ax.annotate(name, (1.02, top), xycoords=("axes fraction", "data"), fontsize=9, va="center", fontweight="bold", annotation_clip=False)
                text.set_in_layout(last)  # in an unfinished row the names stand in the empty place
    legend_below(fig, axes)
    return fig
