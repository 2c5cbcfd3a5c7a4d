"""Figures of retrieval-augmented answering. Each takes rows of a result table and returns a Figure in the theme of the package."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cancerllm_utils.evaluation.retrieval_index import NAMES, NONE, ORACLE, RANDOM
from cancerllm_utils.plots import DASHES, MARKERS, PALETTE, empty_figure, legend_below, new_figure, task_panels
from cancerllm_utils.results import ring_name, task_name


def panels(table: pd.DataFrame) -> list[tuple[tuple, pd.DataFrame]]:
    """((task, split, stage), its rows), in the table's order."""
    return list(table.groupby(["task", "split", "stage"], sort=False))


def name_rows(axes: list, order: list[str]) -> None:
    """The retrievers as rows, the first one on top, named once in each row of panels."""
    for ax in axes:
        ax.set_yticks(range(len(order)), [NAMES[name] for name in order])
        ax.set_ylim(len(order) - 0.5, -0.5)
        ax.tick_params(labelleft=ax.get_subplotspec().is_first_col())


def with_examples(scores: pd.DataFrame) -> Figure:
    """Average F1 by retriever and number of worked examples, one panel per task, test set and stage; the line is the score without examples, the band its interval.

    scores: results/retrieval.csv of one model.
    """
    rows = scores[scores["metric"].eq("average") & scores["family"].eq("paper")]
    if rows.empty:
        return empty_figure("nothing was answered with worked examples")
    shown = panels(rows)
    order = [name for name in NAMES if name != NONE and name in set(rows["retriever"])]
    fig, axes = task_panels(len(shown), (3.4, 1.6 + 0.5 * len(order)), most=3, left=2.4)
    ks = sorted(set(rows.loc[rows["k"] > 0, "k"]))
    for ax, ((task, split, stage), part) in zip(axes, shown, strict=True):
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
    name_rows(axes, order)
    legend_below(fig, axes)
    return fig


def wrong_examples(copies: pd.DataFrame) -> Figure:
    """Change in right answers by worked examples, where the nearest example has the right answer and where it has a wrong one, with 95 % intervals.

    copies: results/retrieval_copies.csv of one model; the smallest k is drawn. Beside each row: how many questions, and the share answered with the nearest
    example's answer, with it and (in brackets) without having seen it. A hollow mark: no answer changed from right to wrong or back.
    """
    rows = copies[copies["k"].eq(copies["k"].min())]
    if rows.empty:
        return empty_figure("nothing was answered with worked examples")
    shown, k = panels(rows), int(rows["k"].iloc[0])
    order = [name for name in NAMES if name in set(rows["retriever"])]
    fig, axes = task_panels(len(shown), (4.6, 1.9 + 0.62 * len(order)), most=2, left=2.6)
    for ax, ((task, split, stage), part) in zip(axes, shown, strict=True):
        for number, retrieved in enumerate(("right", "wrong")):
            found = part[part["retrieved"] == retrieved]
            y = [order.index(name) + 0.36 * (number - 0.5) for name in found["retriever"]]
            ax.hlines(y, found["low"], found["high"], color="0.5", linewidth=1.2)
            ax.plot(found["difference"], y, MARKERS[number], color=PALETTE[number], markersize=7, linestyle="none", label=f"nearest example's answer is {retrieved}")
            still = (found["low"].eq(0) & found["high"].eq(0)).to_numpy()
            ax.plot(found["difference"][still], np.array(y)[still], MARKERS[number], color=PALETTE[number], markersize=7, markerfacecolor="white", linestyle="none")
            for at, row in zip(y, found.itertuples(), strict=True):
                ax.text(1.02, at, f"{row.n}", transform=ax.get_yaxis_transform(), va="center", fontsize=8)
                ax.text(1.12, at, f"{row.copied:.0f} ({row.agreed_without:.0f})", transform=ax.get_yaxis_transform(), va="center", fontsize=8)
        for x, text in ((1.02, "n"), (1.12, "% repeating it\n(unseen)")):
            ax.text(x, 1.0, text, transform=ax.transAxes, va="bottom", fontsize=8)
        ax.axvline(0, color="0.3", linewidth=1, linestyle=":")
        ax.set(title=f"{task_name(task)}\n{ring_name(split)}, {stage}, k = {k}", xlabel="change in right answers, points (95 % interval)", xlim=(-103, 103))
    name_rows(axes, order)
    axes[0].plot([], [], "o", color="0.3", markerfacecolor="white", linestyle="none", label="hollow: no answer changed")
    legend_below(fig, axes)
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
    fig, axes = task_panels(len(shown), (3.4, 1.6 + 0.5 * len(order)), most=3, left=2.4)
    for ax, ((task, split, stage), part) in zip(axes, shown, strict=True):
        for number, (metric, label) in enumerate(named.items()):
            found = part[part["metric"] == metric]
            y = [order.index(name) + 0.22 * (number - 1) for name in found["retriever"]]
            ax.hlines(y, found["low"], found["high"], color="0.5", linewidth=1.2)
            ax.plot(found["value"], y, MARKERS[number], color=PALETTE[number], markersize=7, linestyle="none", label=label)
        lot = part[(part["retriever"] == RANDOM) & (part["metric"] == "same_histology_1")]
        ax.set(title=f"{task_name(task)}\n{ring_name(split)}, {stage}, n = {int(part['n'].max())}", xlabel="% (95 % interval)", xlim=(-3, 103))
        if len(lot):
            ax.axhspan(order.index(RANDOM) - 0.45, order.index(RANDOM) + 0.45, color="0.93", linewidth=0, zorder=0)
    name_rows(axes, order)
    legend_below(fig, axes)
    return fig


def costs(table: pd.DataFrame) -> Figure:
    """Milliseconds a question and size of the index by the number of notes, both axes in powers of ten, one line per kind of index.

    table: results/retrieval_costs.csv.
    """
    if table.empty:
        return empty_figure("nothing was measured")
    names = {"bm25": "BM25", "tfidf": "TF-IDF", "vectors": "vectors, exact", "hnsw": "vectors, graph (not exact)"}
    fig, axes = new_figure(1, 2, size=(8.6, 3.6))
    for ax, (column, label) in zip(axes[0], {"milliseconds": "milliseconds a question, one core", "index_megabytes": "index, MB"}.items(), strict=True):
        for number, kind in enumerate(kind for kind in names if kind in set(table["kind"])):
            part = table[table["kind"] == kind].sort_values("notes")
            ax.plot(part["notes"], part[column], marker=MARKERS[number], linestyle=DASHES[number], color=PALETTE[number], label=names[kind])
        ax.set(xscale="log", yscale="log", xlabel="notes in the store", ylabel=label)
    legend_below(fig, list(axes[0]))
    return fig
