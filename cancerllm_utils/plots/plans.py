"""The figures of treatment plans (notebook 02b): how far each cancer's most common plan goes, and what a system adds to it. They show no note text."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cancerllm_utils.plots import HATCHES, MARKERS, PALETTE, empty_figure, new_figure
from cancerllm_utils.results import model_name, ring_name

LEAST = 10  # patients of a cancer that a bar is drawn for
METRICS = {"set_f1": "drugs, F1", "set_exact": "drugs, all right", "intent": "intent", "modalities_exact": "modalities, all right", "modality": "modality",
           "modality_macro_f1": "modality, macro F1", "dose_within_5": "dose within 5 %", "fractions_exact": "fractions", "regimen_exact": "whole regimen"}  # fmt: skip


def majority_share(majority: pd.DataFrame) -> Figure:
    """Share of patients who got their cancer's most common plan, one panel per field, the plan written beside its bar. majority: plans.majority."""
    rows = majority[majority["cancer_type"].ne("all") & majority["n"].ge(LEAST)]
    if rows.empty:
        return empty_figure(f"no cancer with {LEAST} plans or more")
    fields = list(dict.fromkeys(rows["field"]))
    longest = max(rows.groupby("field").size())
    fig, axes = new_figure(1, len(fields), size=(6.4 * len(fields), 1.2 + 0.3 * longest))
    for ax, field in zip(axes[0], fields):
        part = rows[rows["field"] == field].iloc[::-1]
        bars = ax.barh(range(len(part)), 100 * part["share"], color="0.75", edgecolor="0.2", linewidth=0.6, hatch=HATCHES[0])
        for bar, plan, share in zip(bars, part["most_common"], part["share"]):
            ax.text(1.5, bar.get_y() + bar.get_height() / 2, textwrap.shorten(plan, 62, placeholder=" ..."), va="center", fontsize=7.5)
            ax.text(100.5, bar.get_y() + bar.get_height() / 2, f"{100 * share:.0f} %", va="center", fontsize=8)
        whole = majority[majority["field"].eq(field) & majority["cancer_type"].eq("all")].iloc[0]
        ax.set_yticks(range(len(part)), [f"{cancer} ({n:,})" for cancer, n in zip(part["cancer_type"], part["n"])], fontsize=8)
        ax.set(xlim=(0, 112), xlabel="patients with the cancer's most common plan, %", title=f"{field.replace('_', ' ')} (n = {whole['n']:,}; all: {100 * whole['share']:.0f} %)")
        ax.grid(axis="y", visible=False)
    return fig


def plan_scores(scores: pd.DataFrame, split: str, gain: bool) -> Figure:
    """Scores of each system by field, or, with gain, the paired difference to the per-cancer majority, with 95 % intervals. scores: evaluation.plans.score_plans."""
    rows = scores[scores["split"].eq(split) & scores["metric"].isin(METRICS)]
    value, low, high = ("gain", "gain_low", "gain_high") if gain else ("f1", "f1_low", "f1_high")
    rows = rows.dropna(subset=[value])
    if rows.empty:
        return empty_figure("no treatment plan was predicted")
    fields = list(dict.fromkeys(rows["field"]))
    systems = list(dict.fromkeys(zip(rows["model"], rows["stage"])))
    counts = [rows.loc[rows["field"] == field, "metric"].nunique() for field in fields]
    height = 1.2 + sum(counts) * (0.22 + 0.13 * len(systems))
    fig, axes = new_figure(len(fields), 1, size=(8.5, height), sharex=True, gridspec_kw={"height_ratios": counts})
    for ax, field in zip(axes[:, 0], fields):
        part = rows[rows["field"] == field]
        metrics = [metric for metric in METRICS if metric in set(part["metric"])][::-1]
        for i, system in enumerate(systems):
            own = part[part["model"].eq(system[0]) & part["stage"].eq(system[1])].set_index("metric").reindex(metrics)
            y = np.arange(len(metrics)) + (len(systems) - 1) / 2 * 0.8 / len(systems) - i * 0.8 / len(systems)
            reach = np.abs(own[[low, high]].sub(own[value], axis=0).to_numpy(dtype=float)).T
            grey = system[1] == "baseline"
            ax.errorbar(own[value], y, xerr=reach, fmt=MARKERS[i % len(MARKERS)], color="0.45" if grey else PALETTE[i % len(PALETTE)], markersize=5, capsize=2,
                        linewidth=1, markerfacecolor="white" if grey else None, label=model_name(*system))  # fmt: skip
        asked = part.drop_duplicates("metric").set_index("metric")["n"]
        ax.set_yticks(range(len(metrics)), [f"{METRICS[metric]} (n = {int(asked[metric]):,})" for metric in metrics])
        ax.set_title(f"{field.replace('_', ' ')}, {ring_name(split)}")
        if gain:
            ax.axvline(0, color="0.2", linewidth=1)
    axes[-1, 0].set_xlabel("gain over the cancer's most common plan, points (95 % interval)" if gain else "points (95 % interval)")
    handles = {label: handle for ax in axes[:, 0] for handle, label in zip(*ax.get_legend_handles_labels())}
    axes[0, 0].legend(handles.values(), handles, loc="upper left", bbox_to_anchor=(1, 1))
    return fig
