"""The three figures of the report's first page, and the scores of models by the date of their release. Each takes result tables and returns a Figure."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cancerllm_utils.plots import GREY, PALETTE, empty_figure, new_figure
from cancerllm_utils.results import headline, main_split, model_name, one_row, ring_name, task_name

SIZE = (4.6, 2.9)  # inches; three stand side by side on a screen, so that letters must stay large


def right_answers(scores: pd.DataFrame, system: tuple[str, str] | None, simple: list[str], without_reading: str) -> Figure:
    """Share of right answers by task on the main test set with 95 % intervals: the model, the best simple method, and answering without reading.

    system: (model, stage), None without a language model; simple: names of simple methods, the one with the most right answers is drawn; without_reading: a baseline's name.
    """
    split = main_split(scores)
    rows = headline(scores, "value_accuracy", "clinical", [split])
    tasks = list(dict.fromkeys(rows.loc[_is(rows, *system or ()), "task"]))
    if not tasks:
        return empty_figure("no language model was scored")
    fig, axes = new_figure(size=SIZE)
    ax = axes[0, 0]
    for y, task in enumerate(reversed(tasks)):
        part = rows[rows["task"].eq(task)]
        baselines = part[part["stage"].eq("baseline")].set_index("model")
        best = baselines["f1"].reindex([name for name in simple if name in baselines.index]).idxmax() if baselines.index.isin(simple).any() else None
        drawn = [(0.22, one_row(part, model=system[0], stage=system[1]), "o", PALETTE[0], "the model")]
        drawn += [(0, baselines.loc[best], "s", GREY, "best simple method")] if best is not None else []
        drawn += [(-0.22, baselines.loc[without_reading], "D", "white", "answer without reading")] if without_reading in baselines.index and best != without_reading else []
        for shift, row, marker, colour, label in drawn:
            _dot(ax, row, y + shift, marker, colour, label)
    own = rows[_is(rows, *system or ())]
    _task_axis(ax, tasks, [own.loc[own["task"].eq(task), "n"] for task in tasks], f"The model against simple methods\n{ring_name(split)}")
    return fig


def unseen_places(scores: pd.DataFrame, system: tuple[str, str] | None) -> Figure:
    """Share of right answers of one system by task, from held-out patients to held-out sites and institutions, with 95 % intervals and n."""
    rings = ["test", "external_site", "external"]
    rows = headline(scores, "value_accuracy", "clinical", rings)
    rows = rows[_is(rows, *system or ())]
    tasks = list(dict.fromkeys(rows["task"]))
    if not tasks or rows["split"].nunique() < 2:
        return empty_figure("no unseen place was scored")
    fig, axes = new_figure(size=SIZE)
    for y, task in enumerate(reversed(tasks)):
        for shift, ring, marker, colour in zip((0.22, 0, -0.22), rings, "o^s", (PALETTE[0], "white", PALETTE[1])):
            row = one_row(rows, task=task, split=ring)
            if row is not None:
                _dot(axes[0, 0], row, y + shift, marker, colour, ring_name(ring))
    _task_axis(axes[0, 0], tasks, [rows.loc[rows["task"].eq(task), "n"] for task in tasks], "In places that nothing had seen\nthree groups of patients")
    return fig


def of_100_questions(scores: pd.DataFrame, system: tuple[str, str] | None) -> Figure:
    """What becomes of 100 questions whose note states a value, and of 100 whose note states none, for each task that has both; intervals at the
    share of right values and of values made up. Main test set."""
    split = main_split(scores)
    found = {metric: headline(scores, metric, "clinical", [split]) for metric in ("right_stated", "miss", "false_answer")}
    found = {metric: rows[_is(rows, *system or ())].dropna(subset=["f1"]).set_index("task") for metric, rows in found.items()}
    tasks = [task for task in found["right_stated"].index if task in found["false_answer"].index]
    if not tasks:
        return empty_figure("no task leaves questions open")
    fig, axes = new_figure(size=SIZE)
    ax, ticks, labels = axes[0, 0], [], []
    kinds = {"right": (PALETTE[0], ""), "none given": ("0.85", ".."), "wrong value": (PALETTE[1], "//")}
    for i, task in enumerate(reversed(tasks)):
        right, miss, false = (found[metric].loc[task] for metric in ("right_stated", "miss", "false_answer"))
        wrong = max(0.0, 100 - right["f1"] - miss["f1"])
        for y, parts, text in [(2.6 * i + 1, {"right": right["f1"], "none given": miss["f1"], "wrong value": wrong}, f"value stated\nn = {int(right['n']):,}"),
                               (2.6 * i, {"right": 100 - false["f1"], "none given": 0, "wrong value": false["f1"]}, f"none stated\nn = {int(false['n']):,}")]:
            left = 0.0
            for kind, width in parts.items():
                colour, hatch = kinds[kind]
                ax.barh(y, width, left=left, height=0.8, color=colour, hatch=hatch, edgecolor="white", label=kind)
                if width >= 8:
                    ax.text(left + width / 2, y, f"{width:.0f}", ha="center", va="center", fontsize=9, color="white" if kind == "right" else "black",
                            bbox=None if kind == "right" else {"facecolor": "white", "edgecolor": "none", "pad": 1})
                left += width
            ticks.append(y)
            labels.append(f"{text}" if len(tasks) == 1 else f"{task_name(task)}: {text}")
        ax.plot([right["f1_low"], right["f1_high"]], [2.6 * i + 0.5] * 2, "|-", color="black", linewidth=1.2)
        ax.plot([100 - false["f1_high"], 100 - false["f1_low"]], [2.6 * i - 0.5] * 2, "|-", color="black", linewidth=1.2)
    ax.set_yticks(ticks, labels, fontsize=9)
    ax.set(title=f"Of 100 questions\n{task_name(tasks[0]) if len(tasks) == 1 else ring_name(split)}", xlim=(0, 100), xlabel="questions of 100 (95 % interval below the bar)")
    ax.grid(False)
    _legend(ax)
    return fig


def by_release(scores: pd.DataFrame, released: dict[str, str]) -> Figure:
    """Average F1 of each model on the main test set, the models in the order of their release, one panel per task, with 95 % intervals.

    released: model -> "YYYY-MM"; models without a date are not drawn. Dotted: the simple method with the highest score, which has no date.
    """
    rows = headline(scores, splits=[main_split(scores)])
    dated = rows[rows["model"].isin(list(released)) & ~rows["stage"].eq("baseline")]
    tasks, models = list(dict.fromkeys(dated["task"])), sorted(dated["model"].unique(), key=lambda model: (released[model], model))
    if len(models) < 2:
        return empty_figure("fewer than two models with a known release date were scored")
    fig, axes = new_figure(len(tasks), 1, size=(2.6 + 0.5 * len(models), 1.6 + 2.3 * len(tasks)), sharex=True)
    kinds = {"untuned": ("o", "white"), "tuned": ("o", PALETTE[0]), "read notes, then tuned": ("D", PALETTE[1])}
    for ax, task in zip(axes[:, 0], tasks):
        part = dated[dated["task"].eq(task)]
        for _, row in part.iterrows():
            kind = "read notes, then tuned" if row["stage"].startswith("cpt-sft") else "tuned" if "sft" in row["stage"] else "untuned"
            x = models.index(row["model"]) + 0.12 * (kind == "read notes, then tuned")
            ax.plot([x, x], [row["f1_low"], row["f1_high"]], "-", color="0.35", linewidth=1.2)
            ax.plot(x, row["f1"], kinds[kind][0], markersize=6.5, color="0.2", markerfacecolor=kinds[kind][1], label=kind, linestyle="none")
        simple = rows[rows["task"].eq(task) & rows["stage"].eq("baseline")]
        if len(simple):
            best = simple.loc[simple["f1"].idxmax()]
            ax.axhline(best["f1"], color="0.3", linewidth=1, linestyle=":")
            ax.annotate(f"{model_name(best['model'], 'baseline')} {best['f1']:.0f}", (0, best["f1"]), (3, 2), xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8)
        ax.set(title=f"{task_name(task)}, {ring_name(main_split(scores))}, n = {_range(part['n'])}", ylabel="average F1, points", ylim=(-3, 105))
    axes[-1, 0].set_xticks(range(len(models)), [f"{released[model]}  {model}" for model in models], rotation=50, ha="right", fontsize=8)
    found = {label: handle for ax in axes[:, 0] for handle, label in zip(*ax.get_legend_handles_labels())}
    axes[0, 0].legend(found.values(), found.keys(), loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return fig


def _is(rows: pd.DataFrame, model: str = "", stage: str = "") -> pd.Series:
    return rows["model"].eq(model) & rows["stage"].eq(stage)


def _dot(ax, row: pd.Series, y: float, marker: str, colour, label: str) -> None:
    if pd.notna(row["f1_low"]):
        ax.plot([row["f1_low"], row["f1_high"]], [y, y], "-", color="0.35", linewidth=1.3, zorder=2)
    ax.plot(row["f1"], y, marker, markersize=7, color="0.2" if colour == "white" else colour, markerfacecolor=colour, label=label, linestyle="none", zorder=3)


def _task_axis(ax, tasks: list[str], counts: list[pd.Series], title: str) -> None:
    """The tasks from top to bottom, with their n; of more than four it stands in the title, as there is no room for two lines each."""
    few = len(tasks) <= 4
    ax.set_yticks(np.arange(len(tasks))[::-1], [f"{task_name(task)}\nn = {_range(n)}" if few else task_name(task) for task, n in zip(tasks, counts)], fontsize=9)
    ax.set(xlim=(-3, 103), ylim=(-0.5, len(tasks) - 0.5), title=title if few else f"{title}, n = {_range(pd.concat(counts))} each", xlabel="right answers, % (95 % interval)")
    _legend(ax)


def _legend(ax) -> None:
    """One entry per label, below the panel, where nothing is hidden by it."""
    found = {label: handle for handle, label in zip(*ax.get_legend_handles_labels())}
    ax.legend(found.values(), found.keys(), loc="upper center", bbox_to_anchor=(0.4, -0.25), ncols=3, frameon=False, fontsize=8, handletextpad=0.3, columnspacing=1)


def _range(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
