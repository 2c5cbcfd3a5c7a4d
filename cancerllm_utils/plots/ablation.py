"""The figure of the ablation: what each varied setting does to the loss and to the scores. It takes result tables and returns a Figure in the theme of the package.

A module of its own: a change here must not train the models of notebook 03 again, which draws with plots_training.
"""

import pandas as pd
from matplotlib.figure import Figure

from cancerllm_utils.evaluation.ablation import GENERAL, factor_name, shown
from cancerllm_utils.plots import DASHES, MARKERS, PALETTE, empty_figure, new_figure
from cancerllm_utils.results import ring_name, task_name


def ablation(found: pd.DataFrame) -> Figure:
    """Loss and scores against each varied setting: a column per factor, bits per byte above, average F1 below. found: ablation.points.

    Settings stand at even steps, not to scale; the reference of all factors is the same run and has a filled mark and a line.
    """
    columns = list(found.groupby(["model", "notebook", "factor"], sort=False))
    if not columns:
        return empty_figure("nothing was varied in this run")
    fig, axes = new_figure(2, len(columns), size=(1.8 + 2.9 * len(columns), 6.2), sharey="row")
    lines = list(dict.fromkeys(zip(found["measure"], found["split"], strict=True)))
    style = {line: {"color": PALETTE[i % len(PALETTE)], "linestyle": DASHES[i % len(DASHES)], "marker": MARKERS[i % len(MARKERS)]} for i, line in enumerate(lines)}
    for column, ((model, notebook, factor), part) in enumerate(columns):
        settings = sorted(set(part["setting"]))
        for ax, loss in zip(axes[:, column], (True, False)):
            rows = part[(part["measure"] == "bits per byte") == loss]
            for line, points in rows.groupby(["measure", "split"], sort=False):
                _setting_line(ax, points.sort_values("setting"), settings, style[line], _measure_name(*line, points["n"]))
            ax.set_xticks(range(len(settings)), [shown(value) for value in settings])
            ax.set_xlim(-0.4, len(settings) - 0.6)
            if rows.empty:
                ax.text(0.5, 0.5, "not changed by tuning" if loss else "not scored", transform=ax.transAxes, ha="center", va="center", color="0.3", backgroundcolor="white")
        own = part[part["reference"].astype(bool)]
        for ax in axes[:, column] if len(own) else ():
            ax.axvline(settings.index(own["setting"].iloc[0]), color="0.6", linewidth=6, alpha=0.35, zorder=0)
        axes[0, column].set_title(f"{model}\n{factor_name(notebook, factor)}" if found["model"].nunique() > 1 else factor_name(notebook, factor))
        axes[1, column].set_xlabel("setting (band: reference)")
    axes[0, 0].set_ylabel("bits per byte, lower is better")
    axes[1, 0].set_ylabel("average F1, points (95 % interval)")
    for row in axes:
        handles = {label: handle for ax in row for handle, label in zip(*ax.get_legend_handles_labels())}
        if handles:
            row[-1].legend(handles.values(), handles, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def _setting_line(ax, points: pd.DataFrame, settings: list, style: dict, label: str) -> None:
    """One measure along one factor, with intervals where there are any; open marks, the reference's filled."""
    x = [settings.index(value) for value in points["setting"]]
    errors = abs(points[["low", "high"]].astype(float).sub(points["value"].astype(float), axis=0)).to_numpy().T
    ax.errorbar(x, points["value"].astype(float), yerr=errors, markersize=6, linewidth=1.4, elinewidth=0.9, capsize=3, markerfacecolor="white", label=label, **style)
    own = points[points["reference"].astype(bool)]
    ax.plot([settings.index(value) for value in own["setting"]], own["value"].astype(float), linestyle="none", marker=style["marker"], color=style["color"], markersize=7, zorder=4)


def _measure_name(measure: str, split: str, n: pd.Series) -> str:
    if measure == "bits per byte":
        return ("general text" if split == GENERAL else ring_name(split)) + f"\n(n = {int(n.max()):,} tokens)"
    return f"{task_name(measure)}\n({ring_name(split)}, n = {int(n.max()):,})"
