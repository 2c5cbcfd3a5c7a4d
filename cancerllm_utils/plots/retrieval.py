"""Figures of retrieval-augmented answering. Each takes rows of a result table and returns a Figure in the theme of the package."""

import pandas as pd
from matplotlib.figure import Figure

from cancerllm_utils.evaluation.retrieval_index import NAMES, NONE, ORACLE, RANDOM
from cancerllm_utils.plots import MARKERS, PALETTE, empty_figure, new_figure
from cancerllm_utils.results import ring_name, task_name


def panels(table: pd.DataFrame) -> list[tuple[tuple, pd.DataFrame]]:
    """((task, split, stage), its rows), in the table's order."""
    return list(table.groupby(["task", "split", "stage"], sort=False))


def with_examples(scores: pd.DataFrame) -> Figure:
    """Average F1 by retriever and number of worked examples, one panel per task, test set and stage; the line is the score without examples, the band its interval.

    scores: results/retrieval.csv of one model.
    """
    rows = scores[scores["metric"].eq("average") & scores["family"].eq("paper")]
    if rows.empty:
        return empty_figure("nothing was answered with worked examples")
    shown = panels(rows)
    order = [name for name in NAMES if name != NONE and name in set(rows["retriever"])]
    fig, axes = new_figure(1, len(shown), size=(2.4 + 3.4 * len(shown), 1.9 + 0.5 * len(order)), sharey=True)
    ks = sorted(set(rows.loc[rows["k"] > 0, "k"]))
    for ax, ((task, split, stage), part) in zip(axes[0], shown, strict=True):
        without = part[part["retriever"] == NONE].iloc[0]
        ax.axvspan(without["f1_low"], without["f1_high"], color="0.9", linewidth=0, zorder=0)
        ax.axvline(without["f1"], color="0.25", linestyle="--", linewidth=1.2, label="no example (band: its interval)")
        for name in order:
            found = part[part["retriever"] == name]
            for row in found.itertuples():
                number = ks.index(row.k) if row.k else 0
                at = order.index(name) + (0.16 * (2 * number - len(ks) + 1) if row.k else 0)
                style = {"color": PALETTE[number], "marker": MARKERS[number], "label": f"{row.k} example{'s' if row.k > 1 else ''}"}
                if name == ORACLE:
                    style = {"color": "0.25", "marker": "D", "markerfacecolor": "white", "label": "upper bound"}
                ax.plot([row.f1_low, row.f1_high], [at, at], color="0.45", linewidth=1.2)
                ax.plot(row.f1, at, linestyle="none", markersize=7, **style)
        ax.set(title=f"{task_name(task)}\n{ring_name(split)}, {stage}, n = {int(part['n'].max())}", xlabel="average F1, points (95 % interval)", xlim=(-3, 103))
    axes[0, 0].set_yticks(range(len(order)), [NAMES[name] for name in order])
    axes[0, 0].set_ylim(len(order) - 0.5, -0.5)
    handles = {label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return fig


def wrong_examples(copies: pd.DataFrame) -> Figure:
    """Change in right answers by worked examples, where the nearest example has the right answer and where it has a wrong one, with 95 % intervals.

    copies: results/retrieval_copies.csv of one model; the smallest k is drawn. Beside each row: how many questions, and the share answered with the nearest
    example's answer, with it and (in brackets) without having seen it.
    """
    rows = copies[copies["k"].eq(copies["k"].min())]
    if rows.empty:
        return empty_figure("nothing was answered with worked examples")
    shown, k = panels(rows), int(rows["k"].iloc[0])
    order = [name for name in NAMES if name in set(rows["retriever"])]
    fig, axes = new_figure(1, len(shown), size=(2.6 + 4.6 * len(shown), 2.2 + 0.62 * len(order)), sharey=True)
    for ax, ((task, split, stage), part) in zip(axes[0], shown, strict=True):
        for number, retrieved in enumerate(("right", "wrong")):
            found = part[part["retrieved"] == retrieved]
            y = [order.index(name) + 0.36 * (number - 0.5) for name in found["retriever"]]
            ax.hlines(y, found["low"], found["high"], color="0.5", linewidth=1.2)
            ax.plot(found["difference"], y, MARKERS[number], color=PALETTE[number], markersize=7, linestyle="none", label=f"nearest example's answer is {retrieved}")
            for at, row in zip(y, found.itertuples(), strict=True):
                ax.text(1.02, at, f"{row.n}", transform=ax.get_yaxis_transform(), va="center", fontsize=8)
                ax.text(1.12, at, f"{row.copied:.0f} ({row.agreed_without:.0f})", transform=ax.get_yaxis_transform(), va="center", fontsize=8)
        for x, text in ((1.02, "n"), (1.12, "% repeating it\n(unseen)")):
            ax.text(x, 1.0, text, transform=ax.transAxes, va="bottom", fontsize=8)
        ax.axvline(0, color="0.3", linewidth=1, linestyle=":")
        ax.set(title=f"{task_name(task)}\n{ring_name(split)}, {stage}, k = {k}", xlabel="change in right answers, points (95 % interval)", xlim=(-103, 103))
    axes[0, 0].set_yticks(range(len(order)), [NAMES[name] for name in order])
    axes[0, 0].set_ylim(len(order) - 0.5, -0.5)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def neighbours(quality: pd.DataFrame) -> Figure:
    """How like the question what was retrieved is: same histology, same answer and nDCG by retriever, one panel per task, test set and stage.

    quality: results/retrieval_quality.csv of one model.
    """
    named = {"same_histology_1": "nearest has the same histology", "same_answer_1": "nearest has the question's answer", "ndcg_10": "shared labels among ten (nDCG)"}
    rows = quality[quality["metric"].isin(list(named))]
    if rows.empty:
        return empty_figure("nothing was retrieved")
    shown = panels(rows)
    order = [name for name in NAMES if name in set(rows["retriever"])]
    fig, axes = new_figure(1, len(shown), size=(2.4 + 3.4 * len(shown), 1.9 + 0.5 * len(order)), sharey=True)
    for ax, ((task, split, stage), part) in zip(axes[0], shown, strict=True):
        for number, (metric, label) in enumerate(named.items()):
            found = part[part["metric"] == metric]
            y = [order.index(name) + 0.22 * (number - 1) for name in found["retriever"]]
            ax.hlines(y, found["low"], found["high"], color="0.5", linewidth=1.2)
            ax.plot(found["value"], y, MARKERS[number], color=PALETTE[number], markersize=7, linestyle="none", label=label)
        lot = part[(part["retriever"] == RANDOM) & (part["metric"] == "same_histology_1")]
        ax.set(title=f"{task_name(task)}\n{ring_name(split)}, {stage}, n = {int(part['n'].max())}", xlabel="% (95 % interval)", xlim=(-3, 103))
        if len(lot):
            ax.axhspan(order.index(RANDOM) - 0.45, order.index(RANDOM) + 0.45, color="0.93", linewidth=0, zorder=0)
    axes[0, 0].set_yticks(range(len(order)), [NAMES[name] for name in order])
    axes[0, 0].set_ylim(len(order) - 0.5, -0.5)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig
