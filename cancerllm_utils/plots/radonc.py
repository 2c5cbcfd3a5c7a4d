"""The figures of the radiation-oncology study (notebook 10): scores, dose against dose, plausibility. They show no note text."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cancerllm_utils.evaluation.plans import course_of
from cancerllm_utils.evaluation.radonc import KINDS, REGIMEN, TASKS, alpha_beta, class_of, plausibility, rules
from cancerllm_utils.plots import HATCHES, PALETTE, empty_figure, new_figure, system_styles
from cancerllm_utils.results import model_name, ring_name, system_order

SHOWN = {"accuracy": "accuracy", "macro_f1": "macro F1", "rouge1": "ROUGE-1"}
MARKS = {"external": ("o", PALETTE[0]), "brachytherapy": ("^", PALETTE[2]), "impossible": ("X", PALETTE[1])}
GREYS = ["0.85", "0.7", "0.5", "0.1", "1.0"]


def study_scores(scores: pd.DataFrame, split: str) -> Figure:
    """Accuracy, macro F1 and ROUGE-1 of each system, a panel per task, with 95 % intervals. scores: evaluation.radonc.scores."""
    rows = scores[scores["split"].eq(split) & scores["metric"].isin(SHOWN)]
    if rows.empty:
        return empty_figure("nothing was answered")
    systems = system_order(rows)
    styles = system_styles(systems)
    tasks = [task for task in TASKS if task in set(rows["task"])]
    fig, axes = new_figure(1, len(tasks), size=(4.0 * len(tasks), 1.6 + 0.42 * len(systems)), sharex=True, sharey=True)
    places = {system: len(systems) - 1 - number for number, system in enumerate(systems)}
    for ax, task in zip(axes[0], tasks):
        part = rows[rows["task"].eq(task)]
        metrics = [metric for metric in SHOWN if metric in set(part["metric"])]
        for number, metric in enumerate(metrics):
            for row in part[part["metric"].eq(metric)].itertuples():
                y = places[row.model, row.stage] + 0.24 * (len(metrics) - 1) / 2 - 0.24 * number
                ax.errorbar(row.f1, y, xerr=[[row.f1 - row.f1_low], [row.f1_high - row.f1]], fmt="os^"[list(SHOWN).index(metric)], markersize=5, capsize=2, linewidth=1,
                            color=styles[row.model, row.stage]["color"], markerfacecolor="white" if row.stage == "baseline" else None)  # fmt: skip
        ax.set(title=f"{TASKS[task]} (n = {int(part['n'].max()):,})", xlim=(-3, 103), xlabel="points (95 % interval)")
        ax.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(list(places.values()), [model_name(*system) for system in places])
    marks = [axes[0, -1].plot([], [], marker, color="0.3", linestyle="", label=label)[0] for marker, label in zip("os^", SHOWN.values())]
    axes[0, -1].legend(handles=marks, loc="upper left", bbox_to_anchor=(1, 1))
    fig.suptitle(ring_name(split), x=0.01, ha="left")
    return fig


def doses(items: pd.DataFrame, split: str) -> Figure:
    """Fractions against total dose of the right regimens and of each model's answers, the area of a mark its number of patients, with lines of equal EQD2.

    items: evaluation.radonc.read_items. The lines are those of the default alpha/beta, for external beam: brachytherapy has a mark of its own.
    """
    asked = items[items["split"].eq(split) & items["task"].eq(REGIMEN)]
    named = asked.dropna(subset=["fraction_gy"]) if len(asked) else asked
    systems = [system for system in system_order(named) if system[1] != "baseline"] if len(named) else []
    if not systems:
        return empty_figure("no model named a regimen")
    right = asked.drop_duplicates("example_id")
    panels = [("what was given" if items["gold"].str.contains("primary tumour field").any() else "the right regimen", list(zip(right["gold"], right["cancer_type"])))]
    for model, stage in systems:
        part = asked[asked["model"].eq(model) & asked["stage"].eq(stage)]
        panels.append((model_name(model, stage), list(zip(part["parsed"], part["cancer_type"]))))
    fig, axes = new_figure(1, len(panels), size=(3.7 * len(panels) + 2.8, 4.1), sharex=True, sharey=True)
    ratio, n = alpha_beta("default"), np.linspace(1, 46, 200)
    for ax, (name, answers) in zip(axes[0], panels):
        for level in (30, 50, 60, 70):
            gy = n * (np.sqrt(ratio**2 + 4 * ratio * level * (1 + 2 / ratio) / n) - ratio) / 2
            ax.plot(n, gy, color="0.75", linewidth=0.8, zorder=1)
            ax.annotate(f"{level}", (46.5, gy[-1]), fontsize=7, color="0.4", va="center")
        courses = [(course_of(answer), cancer) for answer, cancer in answers]
        courses = [(course, cancer) for course, cancer in courses if course and course["gy"] is not None and course["fractions"]]
        counts = pd.Series([(course["fractions"], course["gy"], mark_of(course, cancer)) for course, cancer in courses], dtype=object).value_counts()
        for kind, (marker, colour) in MARKS.items():
            part = [(*key[:2], count) for key, count in counts.items() if key[2] == kind]
            ax.scatter([x for x, _, _ in part], [y for _, y, _ in part], s=[16 + 250 * count / len(answers) for _, _, count in part], marker=marker, facecolor=colour, edgecolor="0.1",
                       linewidth=0.6, alpha=0.75, zorder=2)  # fmt: skip
        ax.set(title=f"{name}\n(n = {len(courses):,} of {len(answers):,} name a dose)", xlabel="fractions", xlim=(0, 50))
    axes[0, 0].set_ylabel("total dose, Gy")
    axes[0, 0].set_ylim(0)
    handles = [axes[0, 0].scatter([], [], s=30, marker=marker, facecolor=colour, edgecolor="0.1", linewidth=0.6, label=kind.replace("external", "external beam, stereotactic")) for kind, (marker, colour) in MARKS.items()]
    handles += [axes[0, 0].scatter([], [], s=16 + 250 * share, marker="o", facecolor="white", edgecolor="0.1", linewidth=0.6, label=f"{share:.0%} of the panel") for share in (0.02, 0.3)]
    handles += axes[0, 0].plot([], [], color="0.75", linewidth=0.8, label=f"equal EQD2, Gy (alpha/beta {ratio:g} Gy)")
    axes[0, -1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1))
    fig.suptitle(ring_name(split), x=0.01, ha="left")
    return fig


def mark_of(course: dict, cancer_type: str) -> str:
    """The mark of a course in `doses`: a key of MARKS."""
    kind, _ = plausibility(course, cancer_type)
    return kind if kind == "impossible" else class_of(course["modality"])


def plausibilities(items: pd.DataFrame, split: str) -> Figure:
    """Share of each system's regimens, and of the right ones, that are published, possible or impossible. items: evaluation.radonc.read_items."""
    rows = items[items["split"].eq(split) & items["task"].eq(REGIMEN)]
    if rows.empty:
        return empty_figure("no regimen was asked for")
    right = rows.drop_duplicates("example_id")
    found = {"the right regimens": pd.Series([plausibility(course_of(gold), cancer)[0] for gold, cancer in zip(right["gold"], right["cancer_type"])])}
    found |= {model_name(*system): rows.loc[rows["model"].eq(system[0]) & rows["stage"].eq(system[1]), "plausibility"] for system in system_order(rows)}
    names = list(found)[::-1]
    fig, axes = new_figure(size=(8.5, 1.5 + 0.4 * len(names)))
    ax, left, known = axes[0, 0], np.zeros(len(names)), sum(row["checked"] != "no" for row in rules()["regimens"])
    for kind, grey, hatch in zip(KINDS, GREYS, ["", HATCHES[1], HATCHES[2], "", "xx"]):
        values = np.array([100 * found[name].eq(kind).mean() for name in names])
        bars = ax.barh(range(len(names)), values, left=left, color=grey, edgecolor="0.2", linewidth=0.6, hatch=hatch, label=kind)
        for bar, value in zip(bars, values):
            if value >= 4:
                ax.text(bar.get_x() + value / 2, bar.get_y() + bar.get_height() / 2, f"{value:.0f}", ha="center", va="center", fontsize=8,
                        color="white" if kind == "impossible" else "black", bbox={"facecolor": grey, "edgecolor": "none", "pad": 1})  # fmt: skip
        left += values
    ax.set_yticks(range(len(names)), [f"{name} (n = {len(found[name]):,})" for name in names])
    ax.set(xlim=(0, 100), xlabel="% of the regimens", title=f"{ring_name(split)}: against {len(rules()['regimens'])} published regimens, {known} of them found in a source")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig
