"""Figures of the contamination probes. Each takes rows of a result table and returns a Figure in the theme of the package."""

import pandas as pd
from matplotlib.figure import Figure

from cancerllm_utils.plots import DASHES, MARKERS, PALETTE, empty_figure, new_figure
from cancerllm_utils.results import ring_name


def continuations(table: pd.DataFrame) -> Figure:
    """Longest run of tokens that a continuation shares with its own report and with another patient's, per stage and group. table: results/contamination.csv."""
    rows = list(table[table["measure"] == "run_own"].itertuples())
    if not rows:
        return empty_figure("no report was probed")
    fig, axes = new_figure(size=(8.5, 1.8 + 0.42 * len(rows)))
    ax = axes[0, 0]
    for offset, measure, label, fill in ((-0.13, "run_own", "its own report", PALETTE[0]), (0.13, "run_other", "another patient's report (control)", "white")):
        found = table[table["measure"] == measure]
        y = [i + offset for i in range(len(found))]
        ax.hlines(y, found["low"], found["high"], color="0.4", linewidth=1.3)
        ax.plot(found["value"], y, "o" if measure == "run_own" else "s", markerfacecolor=fill, markeredgecolor=PALETTE[0], markersize=6, linestyle="none", label=label)
    ax.set_yticks(range(len(rows)), [f"{row.model} {row.stage}, {ring_name(row.group)} (n = {int(row.n)})" for row in rows])
    ax.invert_yaxis()
    ax.set(title="What a continuation shares word for word", xlabel="longest run, tokens (mean and 95 % interval)")
    ax.set_xlim(left=0)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return fig


def planted(table: pd.DataFrame) -> Figure:
    """AUC of planted against other reports by how often they were read, one line per probe. table: results/contamination_planted.csv of one model."""
    if table.empty:
        return empty_figure("no reports were planted")
    repeats = sorted(set(table["repeats"]))
    fig, axes = new_figure(size=(7, 3.6))
    ax, measures = axes[0, 0], list(dict.fromkeys(table["measure"]))
    for i, measure in enumerate(measures):
        line = table[table["measure"] == measure].sort_values("repeats")
        x = [repeats.index(value) + 0.08 * (i - (len(measures) - 1) / 2) for value in line["repeats"]]
        errors = [line["value"] - line["low"], line["high"] - line["value"]]
        ax.errorbar(x, line["value"], yerr=errors, color=PALETTE[i], marker=MARKERS[i], linestyle=DASHES[i], capsize=3, linewidth=1.4, elinewidth=0.9, markersize=6, label=measure)
    ax.axhline(0.5, color="0.2", linewidth=1, linestyle=":")
    ax.text(len(repeats) - 0.55, 0.5, "chance", va="bottom", ha="right", color="0.2")
    ax.set_xticks(range(len(repeats)), ["not read" if value == 0 else str(value) for value in repeats])
    ax.set(title=f"Does the probe find planted reports? (n = {int(table['n'].iloc[0])} reports, half of them planted)", xlabel="times that the planted reports were read",
           ylabel="AUC (95 % interval)", ylim=(0, 1.03), xlim=(-0.45, len(repeats) - 0.5))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), title="probe")
    return fig
