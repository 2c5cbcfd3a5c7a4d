"""Figures of training: what happens to the loss on the way, and for whom. Each takes result tables and returns a Figure, as those of plots.py."""

import pandas as pd
from matplotlib.figure import Figure

from cancerllm_utils.plots import DASHES, MARKERS, PALETTE, empty_figure, new_figure
from cancerllm_utils.summary import ring_name


def loss_during(scores: pd.DataFrame) -> Figure:
    """Bits per byte on a small fixed sample by optimizer step, one line per ring or general text. scores: rows of results/cpt.csv of one stage."""
    points = scores[(scores["when"] == "during") & (scores["subgroup"] == "all")]
    names = list(dict.fromkeys(points["split"]))
    if not names:
        return empty_figure("no loss was measured during training")
    fig, axes = new_figure(size=(7.5, 3.4))
    ax = axes[0, 0]
    for i, name in enumerate(names):
        line = points[points["split"] == name].sort_values("step")
        ax.plot(line["step"], line["bits_per_byte"], linestyle=DASHES[i % len(DASHES)], marker=MARKERS[i % len(MARKERS)], color=PALETTE[i % len(PALETTE)], markersize=5,
                label=f"{ring_name(name)} (n = {int(line['tokens'].iloc[0]):,} tokens)")
    ax.set(title="Loss on held-out text during training", xlabel="optimizer step", ylabel="bits per byte")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def loss_by_cancer(scores: pd.DataFrame) -> Figure:
    """Change of the loss per cancer type with its 95 % interval, the largest gain on top. scores: rows of results/cpt.csv of one stage."""
    rows = scores[(scores["when"] == "after") & (scores["subgroup"] != "all")].sort_values("change", ascending=False)
    if rows.empty:
        return empty_figure("no cancer type has enough held-out notes")
    fig, axes = new_figure(size=(7.5, 1.3 + 0.32 * len(rows)))
    ax, y = axes[0, 0], range(len(rows))
    ax.hlines(y, rows["change_low"], rows["change_high"], color="0.5", linewidth=1.4)
    ax.plot(rows["change"], y, "o", color=PALETTE[0], markersize=6)
    ax.axvline(0, color="0.2", linewidth=1, linestyle="--")
    ax.set_yticks(y, [f"{row.subgroup} (n = {int(row.n_notes):,} notes)" for row in rows.itertuples()])
    ax.set(title="Change of the loss on notes of held-out patients, by cancer type", xlabel="change of the loss, nats per token (95 % interval)", ylim=(-0.7, len(rows) - 0.3))
    return fig
