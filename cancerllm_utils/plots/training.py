"""Figures of training: what happens to the loss on the way, and for whom. Each takes result tables and returns a Figure in the theme of the package."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cancerllm_utils.plots import DASHES, MARKERS, PALETTE, empty_figure, new_figure
from cancerllm_utils.results import ring_name


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


def cpt_loss(cpt: pd.DataFrame) -> Figure:
    """Loss per token on held-out notes (and general text) before and after continued pre-training. cpt: when, split, loss, bits_per_byte, tokens."""
    wide = cpt.pivot_table(index="split", columns="when", values="loss", sort=False)
    if wide.empty or not {"before", "after"} <= set(wide):
        return empty_figure("no loss before and after continued pre-training")
    tokens = cpt[cpt["when"] == "after"].set_index("split")["tokens"]
    fig, axes = new_figure(size=(8.5, 1.4 + 0.55 * len(wide)))
    ax, y = axes[0, 0], np.arange(len(wide))[::-1]
    ax.hlines(y, wide["after"], wide["before"], color="0.6", linewidth=2)
    ax.plot(wide["before"], y, "o", markerfacecolor="white", markeredgewidth=1.8, color=PALETTE[1], markersize=8, label="before")
    ax.plot(wide["after"], y, "o", color=PALETTE[0], markersize=8, label="after")
    for at, (_, row) in zip(y, wide.iterrows()):
        ax.annotate(f"{100 * (row['after'] - row['before']) / row['before']:+.1f} %".replace("-", "\N{MINUS SIGN}"), ((row["before"] + row["after"]) / 2, at), (0, 6),
                    textcoords="offset points", ha="center", fontsize=9)
    ax.set_yticks(y, [f"{ring_name(split)} (n = {int(tokens[split]):,} tokens)" for split in wide.index])
    ax.set(xlabel="loss, nats per token", title="Loss on held-out text before and after continued pre-training", ylim=(-0.6, len(wide) - 0.3))
    ax.margins(x=0.12)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def learning_curves(curve: pd.DataFrame) -> Figure:
    """Loss on training and development examples by step, one panel per stage. curve: stage, step, tokens, loss, dev_loss."""
    stages = list(dict.fromkeys(curve["stage"]))
    if not stages:
        return empty_figure("no learning curve")
    fig, axes = new_figure(1, len(stages), size=(1.2 + 3.6 * len(stages), 3.4), sharey=True)
    for ax, stage in zip(axes[0], stages):
        part = curve[curve["stage"] == stage].sort_values("step")
        train, dev = part.dropna(subset=["loss"]), part.dropna(subset=["dev_loss"])
        ax.plot(train["step"], train["loss"], "-", color=PALETTE[0], linewidth=1.4, label="training")
        ax.plot(dev["step"], dev["dev_loss"], "--o", color=PALETTE[1], markersize=4, label="development patients")
        n = part["tokens"].max()
        ax.set(title=f"{stage} (n = {n:,.0f} tokens)" if pd.notna(n) else stage, xlabel="optimizer step")
    axes[0, 0].set_ylabel("loss, nats per trained token")
    axes[0, 0].legend()
    return fig
