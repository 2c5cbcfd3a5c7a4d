"""The figure of notebook 06d: every system's headline by the run's gold standard and by the one that human judges agreed on."""

import pandas as pd
from matplotlib.figure import Figure

from cancerllm_utils.plots import GREY, PALETTE, empty_figure, legend_below, task_panels
from cancerllm_utils.results import model_name, system_order, task_name


def headlines(scores: pd.DataFrame | None) -> Figure:
    """Average F1 of each system on the sampled items, one panel per task: open marks by the run's gold, filled ones by the adjudicated gold, 95 % intervals.

    scores: adjudicated.rescore, or None where nobody has rated; the title says where raters are simulated.
    """
    if scores is None or scores.empty:
        return empty_figure("nobody has rated the items yet")
    rows = scores[scores["metric"] == "average"]
    tasks = list(dict.fromkeys(rows["task"]))
    systems = system_order(rows)[::-1]
    fig, axes = task_panels(len(tasks), (3.4, 1.2 + 0.34 * len(systems)), left=2.2, sharey=True)
    for ax, task in zip(axes, tasks, strict=True):
        for gold, offset, colour, fill in (("run", 0.14, GREY, "white"), ("adjudicated", -0.14, PALETTE[0], PALETTE[0])):
            part = rows[(rows["task"] == task) & (rows["gold"] == gold)].set_index(["model", "stage"]).reindex(systems)
            y = [place + offset for place in range(len(systems))]
            ax.hlines(y, part["f1_low"], part["f1_high"], color=colour, linewidth=1.6)
            ax.plot(part["f1"], y, linestyle="", marker="o" if gold == "run" else "D", markersize=5, markerfacecolor=fill, markeredgecolor=colour,
                    label="gold of the run" if gold == "run" else "adjudicated gold")  # fmt: skip
        n = int(rows.loc[rows["task"] == task, "n"].max())
        ax.set(xlim=(-2, 102), xlabel="average F1, points", title=f"{task_name(task)} (n = {n:,})")
        ax.set_yticks(range(len(systems)), [model_name(*system) for system in systems])
        ax.grid(axis="y", visible=False)
    legend_below(fig, axes)
    raters = rows["raters"].iloc[0]
    fig.suptitle(f"Headlines before and after adjudication{', SIMULATED raters' if raters == 'simulated' else ''}", x=0.01, ha="left", fontsize=11)
    return fig
