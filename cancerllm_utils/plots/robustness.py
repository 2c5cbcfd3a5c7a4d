"""Figures of notebook 07: curves over damage, fields by damage, remedies, answers that flip, altered labels that were learned. Each takes result tables and
returns a Figure in the theme of the package."""

import textwrap

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cancerllm_utils.evaluation.robustness import BLIND, NATURAL
from cancerllm_utils.evaluation.robustness_files import parse_stage, words
from cancerllm_utils.evaluation.robustness_words import FEW, change_name, remedy_short, system_name, testbed_name, testbed_place
from cancerllm_utils.plots import DASHES, HATCHES, MARKERS, PALETTE, empty_figure, legend_handles, n_text, new_figure, system_styles, task_panels
from cancerllm_utils.results import METRIC_NAMES, RINGS, TASKS, altered_labels, model_name, ring_name, system_order, task_name

MAX_DROP = 30  # points at which the colours of the heat map end


def curves(scores: pd.DataFrame, metric: str = "average", split: str = "test") -> Figure:
    """Points against the share that was damaged, a row of panels per kind of damage and a column per task, with 95 % bands; no remedy.

    Systems that read no text are left out: nothing can happen to them; so are stages with altered labels under damage. The last row, where it is
    there, is the notes' own noise: other notes at each point.
    """
    rows = scores[(scores["metric"] == metric) & (scores["split"] == split) & (scores["field"] == "all") & (scores["remedy"] == "") & ~scores["model"].isin(BLIND)
                  & np.array([altered_labels(stage) is None for stage in scores["stage"]], dtype=bool)]
    rows = rows[(rows["testbed"] != NATURAL) | (rows.groupby(["testbed", "task"])["rate"].transform("nunique") > 1)]
    rows = rows[rows["task"].isin(rows.loc[rows["testbed"] != NATURAL, "task"])]  # a run may ask more tasks than it damages
    if rows.empty:
        return empty_figure("no damaged question was scored")
    testbeds, tasks = in_order(rows["testbed"], testbed_place), in_order(rows["task"], list(TASKS).index)
    systems = [pair for pair in system_order(rows) if pair in set(zip(*(rows.loc[rows["testbed"] != NATURAL, name] for name in ("model", "stage"))))]
    style = system_styles(systems)
    fig, axes = grid(len(testbeds), len(tasks), (3.0, 2.3), sharey=True)
    for i, testbed in enumerate(testbeds):
        for ax, task in zip(axes[i], tasks):
            part = rows[(rows["testbed"] == testbed) & (rows["task"] == task)]
            for system in systems:
                line = part[(part["model"] == system[0]) & (part["stage"] == system[1])].sort_values("rate")
                if line.empty:
                    continue
                ax.fill_between(line["rate"].astype(float), line["f1_low"].astype(float), line["f1_high"].astype(float), color=style[system]["color"], alpha=0.07 if system[1] == "baseline" else 0.15, linewidth=0)
                ax.plot(line["rate"].astype(float), line["f1"].astype(float), markersize=4.5, linewidth=1.4, label=model_name(*system), **style[system])
            head = f"{testbed_name(testbed)}\n" if len(tasks) == 1 or ax is axes[i, 0] else "\n"
            ax.set_title(f"{head}{task_name(task)}, {n_text(part['n'])}" if len(part) else f"{head}{task_name(task)}: not asked", fontsize=9)
            ax.set_ylim(-3, 103)
            ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
            ax.set_xlabel(f"% of the {words()['testbeds'].get(testbed, {}).get('of', 'words')}", fontsize=8)
    label_left(axes, f"{METRIC_NAMES[metric]}, points")
    fig.legend(*legend_handles(axes.ravel()), loc="outside upper left", ncols=3 if axes.shape[1] > 2 or len(testbeds) > 2 else 2, fontsize=8)
    return fig


def grid(rows: int, tasks: int, size: tuple[float, float], **kwargs) -> tuple[Figure, np.ndarray]:
    """A figure with a row of panels per kind of damage and a column per task, axes (rows, tasks); of one task the rows stand side by side, at most three."""
    if tasks > 1:
        return new_figure(rows, tasks, size=(0.8 + size[0] * tasks, 0.9 + size[1] * rows), **kwargs)
    fig, axes = task_panels(rows, size, most=3, left=0.8, **kwargs)
    fig.set_size_inches(fig.get_figwidth(), fig.get_figheight() + 0.9)  # room for the legend
    return fig, np.array(axes)[:, None]


def label_left(axes: np.ndarray, text: str) -> None:
    """The label of the vertical axis on the first panel of each row of a `grid`."""
    for row in axes:
        for ax in row:
            if ax.get_subplotspec().is_first_col():
                ax.set_ylabel(text, fontsize=8)


def in_order(values: pd.Series, place) -> list:
    """The different values, sorted by `place`; what it does not know comes last."""
    found = list(dict.fromkeys(values))

    def at(value):
        try:
            return place(value)
        except ValueError:
            return len(found) + 99

    return sorted(found, key=at)


def field_heat(changes: pd.DataFrame, system: str) -> Figure:
    """Change of each field under each kind of damage at its highest rate, one system: colour and number are points, below them n.

    A thick frame means that the interval lies below 0; a cell without a number was not asked, or has fewer than FEW questions. changes: robustness_words.field_changes.
    """
    if changes.empty:
        return empty_figure(f"no field has {FEW} questions under damage")
    fields = [(task, field) for task in in_order(changes["task"], list(TASKS).index) for field in sorted(set(changes.loc[changes["task"] == task, "field"]))]
    testbeds = in_order(changes["testbed"], testbed_place)
    values = pd.DataFrame(np.nan, index=range(len(fields)), columns=range(len(testbeds)))
    fig, axes = new_figure(1, 1, size=(3.6 + 1.25 * len(testbeds), 1.9 + 0.42 * len(fields)))
    ax = axes[0, 0]
    found = {(row.task, row.field, row.testbed): row for row in changes.itertuples()}
    for y, (task, field) in enumerate(fields):
        for x, testbed in enumerate(testbeds):
            row = found.get((task, field, testbed))
            if row is None:
                ax.text(x, y, "-", ha="center", va="center", color="0.45")
                continue
            values.loc[y, x] = row.value
            dark = abs(row.value) > 0.6 * MAX_DROP
            ax.text(x, y, f"{row.value:+.0f}\nn = {row.n:,.0f}".replace("-", "\N{MINUS SIGN}"), ha="center", va="center", fontsize=7.5, color="white" if dark else "black")
            if row.high < 0:
                ax.add_patch(matplotlib.patches.Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor="black", linewidth=1.6))
    image = ax.imshow(values.to_numpy(dtype=float), cmap="PuOr", vmin=-MAX_DROP, vmax=MAX_DROP, aspect="auto")
    rate = changes.groupby("testbed")["rate"].max()
    several = changes["task"].nunique() > 1
    ax.set_xticks(range(len(testbeds)), ["\n".join([*textwrap.wrap(testbed_name(name), 15), f"{rate[name]:g} %"]) for name in testbeds], fontsize=8)
    ax.set_yticks(range(len(fields)), [f"{field} ({task_name(task).lower()})" if several and field != task_name(task).lower() else field for task, field in fields], fontsize=8)
    ax.set_title(f"{system}: right values with damage minus without, points of 100\nframe: the 95 % interval lies below 0; fields with fewer than {FEW} questions: no number", fontsize=9)
    ax.grid(False)
    fig.colorbar(image, ax=ax, shrink=0.8, label="points", extend="both")
    return fig


def remedies(scores: pd.DataFrame, systems: list[tuple[str, str]], metric: str = "average", split: str = "test") -> Figure:
    """Curves with and without each remedy for the given systems: a row per damage and system, a column per task, 95 % bars; rate 0 shows the price without damage."""
    rows = scores[(scores["metric"] == metric) & (scores["split"] == split) & (scores["field"] == "all") & (scores["testbed"] != NATURAL)]
    rows = rows[np.array([pair in systems for pair in zip(rows["model"], rows["stage"])], dtype=bool)]
    keys = [(testbed, model, stage) for testbed in in_order(rows["testbed"], testbed_place) for model, stage in system_order(rows)]
    shown = {key: rows[(rows["testbed"] == key[0]) & (rows["model"] == key[1]) & (rows["stage"] == key[2])] for key in keys}
    shown = {key: part for key, part in shown.items() if part["remedy"].nunique() > 1}
    if not shown:
        return empty_figure("no remedy was tried")
    tasks = in_order(pd.concat(shown.values())["task"], list(TASKS).index)
    names = sorted({remedy for part in shown.values() for remedy in part["remedy"]})
    style = {name: {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)], "linestyle": DASHES[i % len(DASHES)]} for i, name in enumerate(names)}
    fig, axes = grid(len(shown), len(tasks), (3.2, 2.4), sharey="row" if len(tasks) > 1 else False)
    for row_axes, ((testbed, model, stage), part) in zip(axes, shown.items()):
        for ax, task in zip(row_axes, tasks):
            of_task = part[part["task"] == task]
            for i, name in enumerate(names):
                line = of_task[of_task["remedy"] == name].sort_values("rate")
                if line.empty:
                    continue
                reach = np.abs(line[["f1_low", "f1_high"]].astype(float).sub(line["f1"].astype(float), axis=0)).to_numpy().T
                ax.errorbar(line["rate"].astype(float) + 0.5 * (i - (len(names) - 1) / 2), line["f1"].astype(float), yerr=reach, markersize=4.5, linewidth=1.4, elinewidth=0.8, capsize=2, label=remedy_short(name), **style[name])
            ax.set_title(f"{testbed_name(testbed)}, {system_name(model, stage)}\n{task_name(task)}, {n_text(of_task['n'])}" if len(of_task) else task_name(task), fontsize=8)
            ax.set_xlabel(f"% of the {words()['testbeds'].get(testbed, {}).get('of', 'words')}", fontsize=8)
            ax.set_ylim(0, 1.06 * part["f1_high"].max())
    label_left(axes, f"{METRIC_NAMES[metric]}, points")
    fig.legend(*legend_handles(axes.ravel()), loc="outside upper left", ncols=2, title="remedy", title_fontsize=8, fontsize=8, alignment="left")
    return fig


def label_rings(scores: pd.DataFrame, systems: list[tuple[str, str]], metric: str = "average") -> Figure:
    """Points of clean questions against the share of altered training answers, by test set: a row per kind of label noise, a column per system, a line per task and ring."""
    rows = scores[(scores["metric"] == metric) & (scores["field"] == "all") & (scores["remedy"] == "") & scores["testbed"].isin(words()["training"])]
    rows = rows[np.array([pair in systems for pair in zip(rows["model"], rows["stage"])], dtype=bool)]
    if rows.empty:
        return empty_figure("no model was trained on altered answers")
    if rows["split"].nunique() < 2:
        return empty_figure("models with altered training answers were not scored on unseen institutions")
    testbeds, tasks, columns = in_order(rows["testbed"], testbed_place), in_order(rows["task"], list(TASKS).index), system_order(rows)
    rings = in_order(rows["split"], list(RINGS).index)
    fig, axes = new_figure(len(testbeds), len(columns), size=(1.8 + 3.2 * len(columns), 1.2 + 0.2 * len(tasks) * len(rings) + 2.4 * len(testbeds)), sharey=True)
    for row_axes, testbed in zip(axes, testbeds):
        for ax, (model, stage) in zip(row_axes, columns):
            part = rows[(rows["testbed"] == testbed) & (rows["model"] == model) & (rows["stage"] == stage)]
            for i, task in enumerate(tasks):
                for j, ring in enumerate(rings):
                    line = part[(part["task"] == task) & (part["split"] == ring)].sort_values("rate")
                    if line.empty:
                        continue
                    reach = np.abs(line[["f1_low", "f1_high"]].astype(float).sub(line["f1"].astype(float), axis=0)).to_numpy().T
                    ax.errorbar(line["rate"].astype(float) + 1.2 * (j - (len(rings) - 1) / 2), line["f1"].astype(float), yerr=reach, color=PALETTE[i % len(PALETTE)], linestyle=DASHES[j % len(DASHES)],
                                marker=MARKERS[j % len(MARKERS)], markersize=4.5, linewidth=1.3, elinewidth=0.8, label=f"{task_name(task)}, {ring_name(ring)} ({n_text(line['n'])})")
            ax.set_title(f"{testbed_name(testbed)}\n{system_name(model, stage)}", fontsize=9)
            ax.set_xlabel("% of the training answers", fontsize=8)
            ax.set_ylim(-3, 103)
        row_axes[0].set_ylabel(f"{METRIC_NAMES[metric]}, points", fontsize=8)
    fig.legend(*legend_handles(axes.ravel()), loc="outside upper left", fontsize=8)
    return fig


def consistency(table: pd.DataFrame, split: str = "test") -> Figure:
    """Share of answers that flip under each change that keeps the meaning, a panel per task: bars by what the flip did, with the 95 % interval of all flips."""
    plain = [parse_stage(stage)["stage"] == stage for stage in table["stage"]]  # without seeds, altered labels and remedies, which would be many bars
    rows = table[(table["field"] == "all") & (table["split"] == split) & ~table["model"].isin(BLIND) & np.array(plain, dtype=bool)]
    changes = [name for name in words()["meaning_kept"] if name in set(rows["change"])]
    if not changes:
        return empty_figure("no change that keeps the meaning was tried")
    tasks, systems = in_order(rows["task"], list(TASKS).index), system_order(rows)
    height = 0.9 + 0.2 * len(changes) * len(systems) + 0.25 * len(changes)
    fig, axes = new_figure(1, len(tasks), size=(4.2 + 3.2 * len(tasks), max(2.4, height)), sharey=True)
    kinds = [("right_to_wrong", "right to wrong", PALETTE[1]), ("wrong_to_wrong", "wrong to another wrong", "0.75"), ("wrong_to_right", "wrong to right", PALETTE[0])]
    step = len(systems) + 1.2
    for ax, task in zip(axes[0], tasks):
        for c, change in enumerate(changes):
            for s, (model, stage) in enumerate(systems):
                part = rows[(rows["task"] == task) & (rows["change"] == change) & (rows["model"] == model) & (rows["stage"] == stage)]
                if part.empty:
                    ax.text(0.3, c * step + s, "not asked", fontsize=6.5, color="0.4", va="center")
                    continue
                row, at, left = part.iloc[0], c * step + s, 0.0
                for (kind, _, colour), hatch in zip(kinds, HATCHES):
                    ax.barh(at, row[kind], left=left, height=0.8, color=colour, hatch=hatch, edgecolor="0.25", linewidth=0.4)
                    left += row[kind]
                ax.plot([row["low"], row["high"]], [at, at], "|-", color="black", linewidth=1, markersize=5)
        of_task = rows[rows["task"] == task]
        ax.set_title(f"{task_name(task)}, {ring_name(split)}\n{n_text(of_task['n'])}", fontsize=9)
        ax.set_xlabel("answers that flip, % (bar: 95 % interval)", fontsize=8)
        ax.set_xlim(left=0)
        for c in range(1, len(changes)):
            ax.axhline(c * step - 1.1, color="0.6", linewidth=0.6)
        ax.grid(axis="y", visible=False)
    ticks = [(c * step + s, f"{system_name(*pair)}") for c in range(len(changes)) for s, pair in enumerate(systems)]
    axes[0, 0].set_yticks([at for at, _ in ticks], [name for _, name in ticks], fontsize=7.5)
    axes[0, 0].set_ylim(len(changes) * step - 0.6, -1.4)
    for c, change in enumerate(changes):
        axes[0, 0].text(0.01, c * step - 0.85, change_name(change), transform=axes[0, 0].get_yaxis_transform(), fontsize=8, fontweight="bold", va="center")
    axes[0, -1].legend(handles=[Patch(facecolor=colour, hatch=hatch, edgecolor="0.25", label=name) for (_, name, colour), hatch in zip(kinds, HATCHES)], loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def memorised(table: pd.DataFrame) -> Figure:
    """What each stage says to training questions whose answers were altered: the false answer, the true one, another. table: label_noise.memorised.

    A row per stage and share of false answers; left what it was tuned on, right what was altered too but never trained on; the line is the interval of the
    false answers.
    """
    rows = table[table["task"].eq("all")]
    if rows.empty:
        return empty_figure("no model with altered training answers was asked about them")
    rows = rows.assign(**pd.DataFrame([parse_stage(stage) for stage in rows["stage"]], index=rows.index)[["labels", "label_rate", "remedy"]], root=[parse_stage(stage)["stage"] for stage in rows["stage"]])
    keys = list(rows.sort_values(["model", "root", "labels", "remedy", "label_rate"]).groupby(["model", "root", "labels", "remedy", "label_rate"], sort=False).groups)
    fig, axes = new_figure(1, 2, size=(9.6, 1.7 + 0.3 * len(keys)), sharey=True)
    for ax, trained in zip(axes[0], (True, False)):
        part = rows[rows["trained"].eq(trained)].set_index(["model", "root", "labels", "remedy", "label_rate"])
        for at, key in enumerate(keys):
            if key not in part.index:
                ax.text(1, at, "not asked", fontsize=7, color="0.4", va="center")
                continue
            row = part.loc[key]
            parts = [row["memorised"], row["resisted"], 100 - row["memorised"] - row["resisted"]]
            for value, left, colour, hatch in zip(parts, np.cumsum([0, *parts]), (PALETTE[1], PALETTE[2], "0.9"), HATCHES):
                ax.barh(at, value, left=left, height=0.75, color=colour, hatch=hatch, edgecolor="0.25", linewidth=0.4)
            ax.plot([row["memorised_low"], row["memorised_high"]], [at, at], "|-", color="black", linewidth=1, markersize=6)
            ax.text(99, at, f"n = {row['n']:,.0f}", fontsize=7, ha="right", va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        ax.set(xlim=(0, 100), ylim=(len(keys) - 0.4, -0.6))
        ax.set_title("questions that it was trained on" if trained else "altered too, but never trained on", fontsize=9)
        ax.set_xlabel("% of these questions", fontsize=8)
        ax.grid(axis="y", visible=False)
    names = [f"{system_name(model, root)}, {rate:g} %{' confusable' if labels == 'labels_near' else ''}{f', {remedy_short(remedy)}' if remedy else ''}" for model, root, labels, remedy, rate in keys]
    axes[0, 0].set_yticks(range(len(keys)), names, fontsize=8)
    kinds = [("the false answer (line: 95 % interval)", PALETTE[1]), ("the true one all the same", PALETTE[2]), ("another answer", "0.9")]
    fig.legend(handles=[Patch(facecolor=colour, hatch=hatch, edgecolor="0.25", label=name) for (name, colour), hatch in zip(kinds, HATCHES)], loc="outside upper center", ncols=3, fontsize=8)
    return fig
