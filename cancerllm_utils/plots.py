"""The theme of all figures, `save`, and the figures of training and evaluation; those of the corpus are in plots_corpus.py.

Each figure is one function that takes result tables and returns a matplotlib Figure; none shows note text.
Marks differ by shape, dash or hatch as well as by colour (seaborn's colour-blind palette), so that a grey print reads the same, and every
label carries its n. A Figure is closed before it is returned: a notebook shows it once, by returning it from the cell.
"""

import fcntl
import json
import os
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from cancerllm_utils.summary import headline, main_split, main_systems, model_name, ring_name, system_order, task_name

RINGS = ["train", "dev", "test", "external_site", "external"]
_COLOURS = sns.color_palette("colorblind", 10)
PALETTE = [_COLOURS[i] for i in (0, 3, 2, 4, 1, 9, 5)]  # without the pink and the yellow, which are too pale on white
HATCHES = ["", "//", "..", "xx", "\\\\"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "*"]
DASHES = ["-", "--", "-.", ":"]
GREY = "0.5"
FEW_QUESTIONS = 5  # a share of fewer is not drawn


def use_theme() -> None:
    """Set the one theme of all figures; fixed ids, so that equal data gives an equal SVG file."""
    sns.set_theme(style="whitegrid", palette="colorblind", rc={
        "figure.dpi": 100, "savefig.dpi": 150, "font.size": 10, "axes.titlesize": 11, "axes.labelsize": 10, "legend.fontsize": 9,
        "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "hatch.linewidth": 0.6,
        "svg.hashsalt": "cancerllm", "figure.constrained_layout.use": True,
    })


def save(fig: Figure, run_dir: str | Path, name: str, caption: str) -> Figure:
    """Write figures/<name>.svg and .png below the run folder and enter the caption in figures/captions.json; returns the figure."""
    folder = Path(run_dir) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "cancerllm"}):
        fig.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
        fig.savefig(folder / f"{name}.png", bbox_inches="tight", dpi=150)
    # Notebooks of one run may work side by side: without the lock one of two captions would be lost.
    with open(folder / ".captions.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / "captions.json"
        captions = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        captions[name] = caption
        new = path.with_suffix(".tmp")
        new.write_text(json.dumps(captions, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(new, path)
    return fig


def new_figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (7, 4), **kwargs) -> tuple[Figure, np.ndarray]:
    """A figure in the theme and its axes (rows x columns), already closed; size in inches."""
    use_theme()
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **kwargs)
    plt.close(fig)  # else a notebook would show the figure a second time at the end of the cell
    return fig, axes


def empty_figure(reason: str) -> Figure:
    """A figure that only says why there is nothing to draw."""
    fig, axes = new_figure(size=(6, 1.2))
    axes[0, 0].set_axis_off()
    axes[0, 0].text(0.5, 0.5, reason, ha="center", va="center")
    return fig


def _style(systems: list[tuple[str, str]]) -> dict[tuple[str, str], dict]:
    """Colour, marker and dash of each system: baselines grey, models in colour, and no two with the same marker."""
    models = [system for system in systems if system[1] != "baseline"]
    return {
        system: {"color": GREY if system[1] == "baseline" else PALETTE[models.index(system) % len(PALETTE)],
                 "marker": MARKERS[i % len(MARKERS)], "linestyle": DASHES[i % len(DASHES)]}
        for i, system in enumerate(systems)
    }


def heat_map(ax, values: pd.DataFrame, title: str, annot: pd.DataFrame | bool = True, cmap: str = "cividis", vmin: float = 0) -> None:
    """One heat map of percentages, annotated with them or with `annot`; an empty cell means that there is nothing to measure."""
    size = 8 if values.shape[1] <= 12 else 7
    sns.heatmap(values.astype(float), ax=ax, vmin=vmin, vmax=100, cmap=cmap, annot=annot, fmt=".0f", annot_kws={"size": size},
                linewidths=0.5, cbar=False)
    ax.set(title=title, xlabel="", ylabel="")
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=90)
    ax.grid(False)


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


def leaderboard(scores: pd.DataFrame, reference: dict[str, float] | None = None, split: str | None = None) -> Figure:
    """Average F1 with 95 % intervals, one panel per task, baselines as squares and models as circles.

    scores: scores.csv rows that may be ranked (summary.without_label_source); reference: summary.paper_references, a line per task where the
    paper's value is comparable.
    """
    split = split or main_split(scores)
    rows = headline(scores, splits=[split])
    tasks, systems = list(dict.fromkeys(rows["task"])), system_order(rows)
    if not tasks:
        return empty_figure("nothing was scored")
    fig, axes = new_figure(1, len(tasks), size=(2.2 + 3.1 * len(tasks), 1.4 + 0.36 * len(systems)), sharey=True)
    y = {system: len(systems) - 1 - i for i, system in enumerate(systems)}
    for ax, task in zip(axes[0], tasks):
        part = rows[rows["task"] == task]
        for _, row in part.iterrows():
            at, baseline = y[row["model"], row["stage"]], row["stage"] == "baseline"
            if pd.notna(row["f1_low"]):
                ax.plot([row["f1_low"], row["f1_high"]], [at, at], "|-", color="0.25", linewidth=1.4, markersize=9)
            ax.plot(row["f1"], at, "s" if baseline else "o", color=GREY if baseline else PALETTE[0], markersize=7)
            ax.annotate(f"{row['f1']:.1f}", (row["f1"], at), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        if reference and task in reference:
            ax.axvline(reference[task], color="0.2", linestyle="--", linewidth=1.2)
            ax.annotate(f"paper {reference[task]:.2f}", (reference[task], 0), (-3, 2), xycoords=("data", "axes fraction"),
                        textcoords="offset points", rotation=90, ha="right", va="bottom", fontsize=8)
        ax.set(title=f"{task_name(task)}\n{ring_name(split)}, {_n(part['n'])}", xlabel="average F1, points", xlim=(-3, 103))
    axes[0, 0].set_yticks(list(y.values()), [model_name(*system) for system in y])
    axes[0, 0].set_ylim(-0.6, len(systems) - 0.2)
    return fig


def ring_drop(scores: pd.DataFrame) -> Figure:
    """Average F1 from held-out patients to held-out sites to held-out institutions, one panel per task, one line per system."""
    rings = ["test", "external_site", "external"]
    rows = headline(scores, splits=rings)
    tasks, systems = list(dict.fromkeys(rows["task"])), system_order(rows)
    if not tasks:
        return empty_figure("neither test nor an external ring was scored")
    fig, axes = new_figure(1, len(tasks), size=(2.6 + 3.7 * len(tasks), 4), sharey=True)
    style = _style(systems)
    for ax, task in zip(axes[0], tasks):
        part = rows[rows["task"] == task]
        for i, system in enumerate(systems):
            line = part[(part["model"] == system[0]) & (part["stage"] == system[1])].set_index("split").reindex(rings)
            # Side by side rather than on top of each other: the intervals are what the figure is about.
            x = np.arange(3) + (i - (len(systems) - 1) / 2) * 0.06
            errors = np.abs(line[["f1_low", "f1_high"]].astype(float).sub(line["f1"].astype(float), axis=0)).to_numpy().T
            ax.errorbar(x, line["f1"].astype(float), yerr=errors, markersize=5, linewidth=1.4, elinewidth=0.9, label=model_name(*system),
                        **style[system])
        n = part.groupby("split")["n"].max()
        ax.set_xticks(range(3), [f"{ring_name(ring).replace(' ', chr(10), 1)}\nn = {int(n[ring]):,}" if ring in n else f"{ring_name(ring)}\nnot scored"
                                 for ring in rings])
        ax.set(title=task_name(task), ylim=(-3, 103))
    axes[0, 0].set_ylabel("average F1, points (95 % interval)")
    axes[0, -1].legend(*_handles(axes[0]), loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def _handles(axes) -> tuple[list, list]:
    """One legend for a row of panels, although a system may stand in some of them only."""
    found = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels())}
    return list(found.values()), list(found)


def _n(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"n = {low:,}" if low == high else f"n = {low:,} to {high:,}"


def field_accuracy(scores: pd.DataFrame, split: str | None = None) -> Figure:
    """Value accuracy (%) by field and system, one panel per task that asks more than one field."""
    split = split or main_split(scores)
    rows = scores[(scores["metric"] == "value_accuracy") & (scores["split"] == split) & (scores["variant"] == "all") & (scores["subgroup"] == "all")
                  & (scores["field"] != "all")].drop_duplicates(["model", "stage", "task", "field"])
    tasks = [task for task in dict.fromkeys(rows["task"]) if rows.loc[rows["task"] == task, "field"].nunique() > 1]
    if not tasks:
        return empty_figure("no task with several fields was scored")
    systems = system_order(rows)
    height = max(rows.loc[rows["task"] == task, "field"].nunique() for task in tasks)
    fig, axes = new_figure(1, len(tasks), size=(len(tasks) * (2.6 + 0.55 * len(systems)), 2.6 + 0.32 * height))
    for ax, task in zip(axes[0], tasks):
        part = rows[rows["task"] == task].assign(system=lambda d: [model_name(*pair) for pair in zip(d["model"], d["stage"])])
        wide = part.pivot(index="field", columns="system", values="f1").reindex(columns=[model_name(*s) for s in systems]).dropna(axis=1, how="all")
        n = part.groupby("field", sort=False)["n"].max()
        wide = wide.reindex(n.index)
        wide.index = [f"{field} (n = {int(n[field]):,})" for field in wide.index]
        heat_map(ax, wide, f"{task_name(task)}: right values, %\n{ring_name(split)}")
    return fig


def abstention(scores: pd.DataFrame, split: str | None = None) -> Figure:
    """Right values where the text states one, against values given where it states none, one panel per task, with both 95 % intervals.

    On the diagonal, and in the grey below it, lies whoever answers without telling the two apart: never (lower left), always (right edge), or by lot.
    """
    split = split or main_split(scores)
    found = [headline(scores, metric, "clinical", [split])[["model", "stage", "task", "f1", "f1_low", "f1_high", "n"]] for metric in ["right_stated", "false_answer"]]
    rows = found[0].merge(found[1], on=["model", "stage", "task"], suffixes=("_right", "_false")).dropna(subset=["f1_right", "f1_false"])
    tasks, systems = list(dict.fromkeys(rows["task"])), system_order(rows)
    if not tasks:
        return empty_figure("no task with questions that the note leaves open was scored")
    fig, axes = new_figure(1, len(tasks), size=(3.6 + 4 * len(tasks), 4.4), sharey=True)
    style = _style(systems)
    for ax, task in zip(axes[0], tasks):
        ax.fill_between([0, 100], [0, 100], color="0.9", linewidth=0, zorder=0)
        ax.plot([0, 100], [0, 100], ":", color="0.4", linewidth=1)
        ax.annotate("no better than never\nor always answering", (97, 4), ha="right", va="bottom", fontsize=8, color="0.3")
        part = rows[rows["task"] == task]
        for system in systems:
            row = part[(part["model"] == system[0]) & (part["stage"] == system[1])]
            if row.empty:
                continue
            row = row.iloc[0]
            reach = {axis: np.abs(np.array([[row[f"f1_low_{side}"]], [row[f"f1_high_{side}"]]], dtype=float) - row[f"f1_{side}"]) for axis, side in (("xerr", "false"), ("yerr", "right"))}
            ax.errorbar(row["f1_false"], row["f1_right"], **reach, markersize=8, linewidth=0, elinewidth=0.8, label=model_name(*system), clip_on=False,
                        **(style[system] | {"linestyle": "none"}))
        ax.set(title=f"{task_name(task)}, {ring_name(split)}\nstated {_n(part['n_right'])}, not stated {_n(part['n_false'])}",
               xlabel="false answers, % of questions the note leaves open", xlim=(-4, 104), ylim=(-4, 104))
    axes[0, 0].set_ylabel("right values, % of questions with a stated value")
    axes[0, -1].legend(*_handles(axes[0]), loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def abstention_by_field(scores: pd.DataFrame, split: str | None = None) -> Figure:
    """Right values minus false answers by field and system with 95 % intervals, one panel per task; 0 is what never or always answering reaches.

    Baselines are hollow; shown are the systems that read the text (no majority), the models' main stages, and fields with FEW_QUESTIONS of either kind.
    """
    split = split or main_split(scores)
    rows = scores[(scores["split"] == split) & (scores["variant"] == "all") & (scores["subgroup"] == "all") & (scores["field"] != "all")]
    stated = rows[rows["metric"] == "right_stated"].groupby(["task", "field"])["n"].max().rename("stated").reset_index()
    rows = rows[rows["metric"] == "value_minus_false"].merge(stated, on=["task", "field"])
    rows = rows[(rows["stated"] >= FEW_QUESTIONS) & (rows["n"] - rows["stated"] >= FEW_QUESTIONS)]
    shown = [pair for pair in system_order(rows) if pair in {("nearest", "baseline"), ("tfidf", "baseline"), ("rules", "baseline"), *main_systems(scores)}]
    rows = rows[np.array([pair in shown for pair in zip(rows["model"], rows["stage"])], dtype=bool)]
    tasks = list(dict.fromkeys(rows["task"]))
    if not tasks:
        return empty_figure(f"no field has {FEW_QUESTIONS} questions with and {FEW_QUESTIONS} without a stated value")
    fields = {task: sorted(rows.loc[rows["task"] == task, "field"].unique()) for task in tasks}
    fig, axes = new_figure(1, len(tasks), size=(3.6 + 4 * len(tasks), 1.6 + 0.2 * len(shown) * max(map(len, fields.values()))))
    style = _style(shown)
    for ax, task in zip(axes[0], tasks):
        part = rows[rows["task"] == task].set_index(["model", "stage", "field"])
        for i, system in enumerate(shown):
            for y, field in enumerate(fields[task]):
                if (*system, field) not in part.index:
                    continue
                row, at = part.loc[(*system, field)], len(fields[task]) - 1 - y - (i - (len(shown) - 1) / 2) * 0.7 / len(shown)
                ax.plot([row["f1_low"], row["f1_high"]], [at, at], "-", color="0.5", linewidth=0.9)
                ax.plot(row["f1"], at, markersize=6, label=model_name(*system), markerfacecolor="white" if system[1] == "baseline" else style[system]["color"],
                        **(style[system] | {"linestyle": "none"}))
        ax.axvline(0, color="0.3", linewidth=1, linestyle=":")
        n = part.groupby("field")["n"].max()
        ax.set_yticks(range(len(fields[task]))[::-1], [f"{field} (n = {int(n[field]):,})" for field in fields[task]])
        ax.set(title=f"{task_name(task)}, {ring_name(split)}\nfields with {FEW_QUESTIONS} or more questions of either kind", xlabel="right values minus false answers, points (95 % interval)",
               xlim=(-104, 104))
    axes[0, -1].legend(*_handles(axes[0]), loc="center left", bbox_to_anchor=(1, 0.5))
    return fig
