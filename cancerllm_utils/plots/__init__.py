"""The theme of all figures, `save`, and what figures share; the figures themselves are in the modules of this folder, one function each.

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

RINGS = ["train", "dev", "test", "external_site", "external"]
_COLOURS = sns.color_palette("colorblind", 10)
PALETTE = [_COLOURS[i] for i in (0, 3, 2, 4, 1, 9, 5)]  # without the pink and the yellow, which are too pale on white
HATCHES = ["", "//", "..", "xx", "\\\\"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "*"]
DASHES = ["-", "--", "-.", ":"]
GREY = "0.5"


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


def task_panels(n: int, size: tuple[float, float], most: int = 4, left: float = 0.0, lines: int = 1, **kwargs) -> tuple[Figure, list]:
    """A figure of n tasks, at most `most` in a row, each with `lines` panels one below the other, and its axes: task by task, the upper panel first.

    size: inches of a panel, left: inches for the labels before each row.
    """
    rows, columns = -(-n // most), min(n, most)
    fig, axes = new_figure(rows * lines, columns, size=(left + size[0] * columns, size[1] * rows * lines), **kwargs)
    by_task = axes.reshape(rows, lines, columns).transpose(0, 2, 1).reshape(-1, lines)
    for ax in by_task[n:].flat:
        ax.set_visible(False)
    return fig, list(by_task[:n].flat)


def label_rows(axes: list, text: str) -> None:
    """The name of the y axis, once in each row of panels."""
    for ax in axes:
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel(text)


def empty_figure(reason: str) -> Figure:
    """A figure that only says why there is nothing to draw."""
    fig, axes = new_figure(size=(6, 1.2))
    axes[0, 0].set_axis_off()
    axes[0, 0].text(0.5, 0.5, reason, ha="center", va="center")
    return fig


def system_styles(systems: list[tuple[str, str]]) -> dict[tuple[str, str], dict]:
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


def legend_handles(axes) -> tuple[list, list]:
    """One legend for a row of panels, although a system may stand in some of them only."""
    found = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels())}
    return list(found.values()), list(found)


def legend_below(fig: Figure, axes, order: list[str] | None = None, most: int = 4) -> None:
    """One legend below all panels, at most `most` names in a row; order: names that come first, those that were not drawn are left out."""
    found = dict(zip(*reversed(legend_handles(axes)), strict=True))
    names = [*(name for name in order or [] if name in found), *(name for name in found if name not in (order or []))]
    fig.legend([found[name] for name in names], names, loc="outside lower center", ncols=min(most, len(names)))


def n_text(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"n = {low:,}" if low == high else f"n = {low:,} to {high:,}"


