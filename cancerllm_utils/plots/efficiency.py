"""Figures of efficiency: quality against cost, and what a larger batch brings. Each takes result tables and returns a Figure in the theme of the package."""

import pandas as pd
from matplotlib.figure import Figure

from cancerllm_utils.plots import DASHES, MARKERS, PALETTE, empty_figure, label_rows, legend_below, n_text, new_figure, system_styles, task_panels
from cancerllm_utils.results import model_name, ring_name, system_order, task_name

FLOOR = 0.01  # seconds per 1,000 answers: what is below it was not measurable and is drawn there


def quality_against_cost(front: pd.DataFrame) -> Figure:
    """Average F1 against seconds per 1,000 answers, one panel per task; systems that no other beats in both are ringed and joined by a line.

    front: efficiency.pareto. Baselines are grey, models coloured, every system has its own marker and stands in the legend, so that a grey print reads the same.
    """
    tasks, systems = list(dict.fromkeys(front["task"])), system_order(front)
    if not tasks:
        return empty_figure("no system was both scored and timed")
    fig, axes = task_panels(len(tasks), (3.5, 3.8), left=0.6, sharey=True)
    style = system_styles(systems)
    for ax, task in zip(axes, tasks, strict=True):
        part = front[front["task"] == task].assign(cost=lambda rows: rows["seconds_per_1000"].clip(lower=FLOOR))
        line = part[part["front"]].sort_values("cost")
        ax.step(line["cost"], line["quality"], where="post", color="0.4", linewidth=1, linestyle="--", zorder=1)
        ax.plot(line["cost"], line["quality"], "o", markersize=15, markerfacecolor="none", markeredgecolor="0.2", markeredgewidth=1, zorder=2,
                label="not beaten in both")
        for row in part.itertuples():
            own = style[row.model, row.stage] | {"linestyle": "none"}
            bars = [[row.quality - row.low], [row.high - row.quality]] if pd.notna(row.low) else None
            ax.errorbar(row.cost, row.quality, yerr=bars, markersize=8, elinewidth=0.9, capsize=2, label=model_name(row.model, row.stage), zorder=3, **own)
        too_fast = f"\n({FLOOR:g}: too fast to time)" if (part["seconds_per_1000"] < FLOOR).any() else ""
        ax.set(title=f"{task_name(task)}\n{ring_name(part['split'].iloc[0])}, {n_text(part['n'])}", xscale="log", ylim=(-3, 103),
               xlabel=f"seconds per 1,000 answers{too_fast}")
        ax.margins(x=0.15)
    label_rows(axes, "average F1, points (95 % interval)")
    legend_below(fig, axes, [model_name(*system) for system in systems])
    return fig


def batch_sizes(batches: pd.DataFrame) -> Figure:
    """Answers per second and peak memory by batch size, one line per model and stage. batches: efficiency.batch_sizes_table."""
    if batches.empty:
        return empty_figure("no batch sizes were measured (batch_sizes)")
    fig, axes = new_figure(1, 2, size=(8.5, 3.4))
    for i, ((model, stage), part) in enumerate(batches.groupby(["model", "stage"], sort=False)):
        part, own = part.sort_values("batch_size"), {"marker": MARKERS[i], "linestyle": DASHES[i % len(DASHES)], "color": PALETTE[i % len(PALETTE)]}
        axes[0, 0].plot(part["batch_size"], part["answers_per_second"], label=f"{model_name(model, stage)} (n = {part['n'].iloc[0]:,})", **own)
        axes[0, 1].plot(part["batch_size"], part["peak_memory_gib"], **own)
    ticks = sorted(set(batches["batch_size"]))
    for ax in axes[0]:
        ax.set_xscale("log", base=2)
        ax.set_xticks(ticks, [str(size) for size in ticks])
        ax.set(xlabel="questions answered together")
        ax.set_ylim(bottom=0)
    axes[0, 0].set(title="Answers per second", ylabel="answers per second")
    axes[0, 1].set(title=f"Peak memory, {batches['memory_of'].iloc[0]}", ylabel="GiB")
    axes[0, 0].legend()
    return fig
