"""The figures of the corpus (notebooks 01 and 02): who is in it, what was left out, how long, complete and legible its notes are.

Each function takes frames and returns a closed matplotlib Figure with its n; none shows note text. All of them can be read in a grey print:
series differ by hatch or lightness, and values stand beside the marks.
"""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from cancerllm_utils import paths
from cancerllm_utils.corpus import quality as text_quality
from cancerllm_utils.corpus.tables import word_counts
from cancerllm_utils.plots import HATCHES, PALETTE, RINGS, empty_figure, heat_map, new_figure
from cancerllm_utils.results import ring_name, task_name

ABOUT_PATIENTS = ("age", "sex", "gender", "race", "ethnicity", "ecog", "smoking", "diagnosis_year", "vital_status")  # empty means missing there, not none
MAX_INSTITUTIONS = 25  # rows of the map; the smaller ones share the last row
MAX_TOKENISED, MAX_CHARACTERS = 2000, 4_000_000  # notes whose tokens are counted; a sample says as much
TASKS_PER_ROW = 3
LINE = 0.19  # inches per line of text in the flow diagram


def flow_diagram(flow: list[dict], items: pd.DataFrame | None = None) -> Figure:
    """From the files to the cohort, and on to the scored items: boxes from top to bottom, what was left out at the right (after CONSORT).

    flow: dicts step, n_reports, n_patients, dropped, note; a step that left nothing out is drawn only where it is the first or the last.
    items: task, split, items, patients (the summary of `build_datasets`; variants of a task are added up); one box per task at the bottom.
    """
    if flow and flow[0].get("dropped"):  # what the first step left out needs a box to leave from
        flow = [{"step": "rows of the source", "n_reports": flow[0]["n_reports"] + flow[0]["dropped"], "n_patients": None}, *flow]
    steps = [step for i, step in enumerate(flow) if i in (0, len(flow) - 1) or step.get("dropped")]
    if not steps:
        return empty_figure("no step of a flow")
    main, side = [], []
    for i, step in enumerate(steps):
        main.append(
            [
                *textwrap.wrap(step["step"], 44),
                f"n = {step['n_reports']:,} notes" + (f", {step['n_patients']:,} patients" if step["n_patients"] is not None else ""),
            ]
        )
        dropped = step.get("dropped", 0) or 0
        side.append([f"{dropped:,} left out"] + textwrap.wrap(str(step.get("note") or ""), 42)[:4] if dropped and i else [])
    tasks = task_boxes(items) if items is not None else []
    rows = [tasks[i : i + TASKS_PER_ROW] for i in range(0, len(tasks), TASKS_PER_ROW)]
    bottom = 0.65 + sum(max(map(len, row)) * LINE + 0.2 for row in rows) if rows else 0
    gaps = [max(0.3, len(lines) * LINE + 0.3) for lines in side]  # the box of what was left out stands beside the arrow
    height = sum(len(lines) * LINE + 0.16 for lines in main) + sum(gaps[1:]) + bottom + 0.2
    width = max(7.6, 2.62 * min(len(tasks), TASKS_PER_ROW) + 0.2)
    fig, axes = new_figure(size=(width, height))
    ax = axes[0, 0]
    ax.set_axis_off()
    ax.set_title(f"From {steps[0]['n_reports']:,} notes to {steps[-1]['n_reports']:,} (n = {steps[-1]['n_patients']:,} patients)")
    y, left, middle = height - 0.1, 0.1, 1.85
    for i, lines in enumerate(main):
        if i:
            arrow(ax, (middle, y), (middle, y - gaps[i]))
            if side[i]:
                arrow(ax, (middle, y - gaps[i] / 2), (3.95, y - gaps[i] / 2))
                text_box(ax, 3.95, y - gaps[i] / 2 + len(side[i]) * LINE / 2 + 0.05, 3.55, side[i], "0.93")
            y -= gaps[i]
        y = text_box(ax, left, y, 3.5, lines, "white")
    if rows:
        arrow(ax, (middle, y), (middle, y - 0.3))
        y -= 0.3
        ax.add_patch(
            FancyBboxPatch((left, y - bottom + 0.35), width - 0.2, bottom - 0.35, boxstyle="round,pad=0,rounding_size=0.05", facecolor="0.93", linewidth=0.8)
        )
        ax.text(left + 0.1, y - 0.15, "Examples of each task: items (patients)", va="center", fontsize=9, fontweight="bold")
        y -= 0.28
        for row in rows:
            lowest = min(text_box(ax, 0.2 + 2.6 * i, y, 2.45, lines, "white") for i, lines in enumerate(row))
            y = lowest - 0.1
    ax.set(xlim=(0, width), ylim=(height - fig.get_figheight(), height))
    return fig


def task_boxes(items: pd.DataFrame) -> list[list[str]]:
    """Lines of one box per task: its name, and items and patients of each ring."""
    boxes = []
    for task, part in items.groupby("task", sort=False):
        rings = part.groupby("split", sort=False).agg(items=("items", "sum"), patients=("patients", "max"))
        rows = [
            f"{ring_name(ring)}: {rings.loc[ring, 'items']:,} ({rings.loc[ring, 'patients']:,})"
            for ring in RINGS
            if ring in rings.index and rings.loc[ring, "items"]
        ]
        boxes.append([task_name(task), f"n = {rings['items'].sum():,} items", *rows])
    return boxes


def arrow(ax, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow between two points of the flow diagram."""
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0})


def text_box(ax, x: float, top: float, width: float, lines: list[str], colour: str) -> float:
    """One box with left-aligned lines, the first in bold; returns the y of its lower edge."""
    height = len(lines) * LINE + 0.1
    ax.add_patch(
        FancyBboxPatch((x, top - height), width, height, boxstyle="round,pad=0,rounding_size=0.05", facecolor=colour, edgecolor="black", linewidth=0.8)
    )
    for i, line in enumerate(lines):
        ax.text(x + 0.1, top - 0.06 - LINE * (i + 0.5), line, va="center", fontsize=9, fontweight="bold" if i == 0 else "normal")
    return top - height


def cohort(notes: pd.DataFrame, splits: pd.DataFrame) -> Figure:
    """Patients by cancer type, stacked by ring. notes: patient_id, cancer_type; splits: patient_id, split."""
    patients = notes.drop_duplicates("patient_id")[["patient_id", "cancer_type"]].merge(splits[["patient_id", "split"]], on="patient_id")
    if patients.empty:
        return empty_figure("no patients")
    counts = patients.replace({"cancer_type": {"": "not known"}}).groupby(["cancer_type", "split"]).size().unstack(fill_value=0)
    counts = counts[[ring for ring in RINGS if ring in counts]]
    counts = counts.loc[counts.sum(axis=1).sort_values(kind="stable").index]
    fig, axes = new_figure(size=(8, 1.4 + 0.27 * len(counts)))
    ax, left = axes[0, 0], np.zeros(len(counts))
    labels = [f"{cancer} (n = {n:,})" for cancer, n in counts.sum(axis=1).items()]
    for ring in counts:
        ax.barh(
            labels,
            counts[ring],
            left=left,
            color=PALETTE[RINGS.index(ring)],
            hatch=HATCHES[RINGS.index(ring)],
            edgecolor="white",
            linewidth=0.5,
            label=f"{ring_name(ring)} (n = {counts[ring].sum():,})",
        )
        left += counts[ring].to_numpy()
    ax.margins(y=0.01)
    ax.set(xlabel="patients", title=f"Patients by cancer type and ring (n = {len(patients):,})")
    ax.grid(axis="y", visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def timeline(notes: pd.DataFrame) -> Figure:
    """Notes per patient, and when each type of note is written, in months since the patient's first dated note. notes: patient_id, note_type, date."""
    if notes.empty:
        return empty_figure("no notes")
    dated = notes.assign(day=pd.to_datetime(notes["date"], errors="coerce", format="ISO8601")).dropna(subset=["day"])
    months = (dated["day"] - dated.groupby("patient_id")["day"].transform("min")).dt.days / 30.44
    dated["note_type"] = dated["note_type"].replace("", "not known")
    kinds = months.groupby(dated["note_type"]).median().sort_values(kind="stable").index[::-1]
    fig, axes = new_figure(1, 2 if len(kinds) else 1, size=(10.5 if len(kinds) else 5, 1.8 + 0.32 * max(len(kinds), 5)))
    counts = notes.groupby("patient_id").size().clip(upper=10).value_counts().sort_index()
    ax = axes[0, 0]
    bars = ax.bar([f"{n}" if n < 10 else "10+" for n in counts.index], counts, color=PALETTE[0])
    ax.bar_label(bars, [f"{n:,}" for n in counts], fontsize=8)
    ax.set(xlabel="notes per patient", ylabel="patients", title=f"Notes per patient (n = {notes['patient_id'].nunique():,} patients)")
    ax.grid(axis="x", visible=False)
    if len(kinds):
        rows = [(kind.replace("_", " "), months[dated["note_type"] == kind]) for kind in kinds]
        boxes(axes[0, 1], rows, "{:.1f} months")
        axes[0, 1].set(xlabel="months since the patient's first note", title=f"When notes are written (n = {len(dated):,} dated notes)")
    return fig


def boxes(ax, rows: list[tuple[str, pd.Series]], form: str) -> None:
    """Horizontal boxes, quartiles with whiskers from the 5th to the 95th percentile, each named with its n and followed by its median."""
    ax.boxplot([values.to_numpy() for _, values in rows], orientation="horizontal", whis=(5, 95), showfliers=False, widths=0.6, patch_artist=True,
               tick_labels=[f"{name} (n = {len(values):,})" for name, values in rows], boxprops={"facecolor": "0.85", "edgecolor": "black"},
               medianprops={"color": "black", "linewidth": 2.5})  # fmt: skip
    for at, (_, values) in enumerate(rows, 1):
        if len(values):  # a rare type of note may miss a sample
            ax.annotate(form.format(values.median()), (values.quantile(0.95), at), (5, 0), textcoords="offset points", va="center", fontsize=8)
    ax.grid(axis="y", visible=False)


def note_lengths(notes: pd.DataFrame, quality: pd.DataFrame | None = None) -> Figure:
    """Words and tokens per note, one box per type of note. notes: note_id, note_type, text; quality: note_id, words (else they are counted).

    Tokens are those of the embedded model, of a seeded sample of at most MAX_TOKENISED notes and about MAX_CHARACTERS characters.
    """
    from tokenizers import Tokenizer

    if notes.empty:
        return empty_figure("no notes")
    notes = notes.assign(note_type=notes["note_type"].replace("", "not known"))
    fitting = int(MAX_CHARACTERS / max(notes["text"].str.len().mean(), 1)) + 1
    sample = notes.sample(min(len(notes), MAX_TOKENISED, fitting), random_state=0)
    tokenizer = Tokenizer.from_file(str(paths.TINY_BASE / "tokenizer.json"))
    tokenizer.no_truncation()
    tokens = pd.Series([len(encoded.ids) for encoded in tokenizer.encode_batch(sample["text"].tolist(), add_special_tokens=False)], index=sample.index)
    words = word_counts(notes, quality).clip(lower=1)
    kinds = words.groupby(notes["note_type"]).median().sort_values(kind="stable").index
    fig, axes = new_figure(1, 2, size=(11, 1.6 + 0.34 * len(kinds)))
    shown = f", a sample of {len(sample):,}" if len(sample) < len(notes) else ""
    for ax, what, lengths, source in ((axes[0, 0], "words", words, notes), (axes[0, 1], "tokens", tokens.clip(lower=1), sample)):
        boxes(ax, [(kind.replace("_", " "), lengths[source["note_type"] == kind]) for kind in kinds], "{:,.0f}")
        ax.set(xlabel=f"{what} per note", title=f"Length in {what} (n = {len(notes):,} notes{shown if what == 'tokens' else ''})")
        if lengths.quantile(0.95) > 10 * lengths.quantile(0.05):
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_minor_locator(NullLocator())
        else:
            ax.set_xlim(left=0)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        ax.margins(x=0.12)
    axes[0, 1].set_yticklabels([])  # the same rows as at the left
    return fig


def coverage(labels: pd.DataFrame, notes: pd.DataFrame) -> Figure:
    """What the text states (above) and what the registry records (below), % of notes by field and cancer type. Uncertain notes count as not stated.

    labels: note_id, field, evidence, registry_value; notes: note_id, cancer_type.
    """
    data = labels[["note_id", "field", "evidence", "registry_value"]].merge(notes[["note_id", "cancer_type"]], on="note_id")
    if data.empty:
        return empty_figure("no labels")
    n_cancer = notes.groupby("cancer_type").size().sort_values(ascending=False, kind="stable")
    n_field = data.groupby("field", sort=False).size()
    panels = [("stated in the text", data["evidence"].eq("stated")), ("recorded in the registry", data["registry_value"].notna())]
    fig, axes = new_figure(2, 1, size=(3.2 + 0.42 * len(n_cancer), 2.4 + 0.5 * len(n_field)), sharex=True)
    for ax, (what, hit) in zip(axes[:, 0], panels):
        share = 100 * hit.groupby([data["field"], data["cancer_type"]]).mean().unstack()
        share = share.reindex(index=n_field.index, columns=[c for c in n_cancer.index if c in share])
        share.index = [f"{field} (n = {n_field[field]:,})" for field in share.index]
        share.columns = [f"{cancer} (n = {n_cancer[cancer]:,})" for cancer in share.columns]
        heat_map(ax, share, f"Value {what}, % of notes")
    return fig


def missingness(patients: pd.DataFrame, labels: pd.DataFrame) -> Figure:
    """Which registry values are missing: % of patients by field and cancer type; blank where no patient of that cancer has such a value.

    patients: patient_id, cancer_type and what is known of them; labels: patient_id, field, registry_value.
    """
    if patients.empty:
        return empty_figure("no patients")
    patients = patients.drop_duplicates("patient_id").replace({"cancer_type": {"": "not known"}})
    cancer_of = patients.set_index("patient_id")["cancer_type"]
    known = patients[["cancer_type", *(name for name in ABOUT_PATIENTS if name in patients)]].set_index("cancer_type").replace("", None).notna()
    about = 100 - 100 * known.groupby(level=0).mean().T
    asked = labels.groupby(["field", "patient_id"], sort=False)["registry_value"].count().gt(0).reset_index()
    asked["cancer_type"] = asked["patient_id"].map(cancer_of)
    of_tumour = 100 - 100 * asked.groupby(["field", "cancer_type"], sort=False)["registry_value"].mean().unstack()
    n = cancer_of.value_counts()
    recorded = of_tumour.where(of_tumour < 100).dropna(how="all")  # a field that no patient of a cancer has is none that the registry keeps for it
    share = pd.concat([about, recorded]).reindex(columns=n.index)
    if share.empty:
        return empty_figure("no registry value is known of these patients")
    share.columns = [f"{cancer} (n = {n[cancer]:,})" for cancer in share.columns]
    share.index = [str(field).replace("_", " ") for field in share.index]
    fig, axes = new_figure(size=(2.6 + 0.42 * share.shape[1], 2 + 0.27 * len(share)))
    heat_map(
        axes[0, 0], share, f"Missing in the registry, % of patients (n = {len(patients):,}); blank: never recorded for that cancer", cmap="Greys", vmin=-20
    )
    return fig


def institutions(notes: pd.DataFrame, splits: pd.DataFrame) -> Figure:
    """Patients by institution and cancer type; institutions held out of everything carry a star. notes: patient_id, institution, cancer_type."""
    named = notes[["patient_id", "institution", "cancer_type"]].replace({"institution": {"": "not known"}, "cancer_type": {"": "not known"}})
    patients = named.drop_duplicates(["patient_id", "institution"]).merge(splits, on="patient_id")
    if patients.empty:
        return empty_figure("no patients")
    sizes = patients["institution"].value_counts()
    shown = sizes.index[:MAX_INSTITUTIONS]
    rest = f"{len(sizes) - len(shown):,} more institutions"
    external = patients.groupby("institution")["split"].agg(lambda split: (split == "external").all())
    row = patients["institution"].where(patients["institution"].isin(shown), rest)
    counts = patients.groupby([row, patients["cancer_type"]]).size().unstack(fill_value=0)
    order = [*shown, *([rest] if len(sizes) > len(shown) else [])]
    counts = counts.reindex(order)[patients["cancer_type"].value_counts().index]
    labels = [textwrap.shorten(name, 42, placeholder="...") + (" *" if name != rest and external[name] else "") for name in order]
    counts.index = [f"{name} (n = {n:,})" for name, n in zip(labels, counts.sum(axis=1))]
    counts.columns = [f"{cancer} (n = {n:,})" for cancer, n in counts.sum().items()]
    fig, axes = new_figure(size=(4.4 + 0.4 * counts.shape[1], 1.9 + 0.24 * len(counts)))
    ax = axes[0, 0]
    shade = np.log1p(counts.where(counts > 0))  # a few large cells would leave all others in one shade
    heat_map(
        ax,
        100 * shade / shade.max().max(),
        f"Patients by institution and cancer type (n = {patients['patient_id'].nunique():,}); * held out of everything",
        annot=counts,
    )
    return fig


def identifiers(found: pd.DataFrame, n_notes: int | None = None) -> Figure:
    """What looks like an identifier, by class, after scrubbing. found: kind, found (places), notes (notes with at least one); n_notes: notes searched."""
    if found.empty or not found["found"].sum():
        return empty_figure("no place that looks like an identifier")
    found = found.sort_values("found", kind="stable")
    fig, axes = new_figure(size=(8, 1.5 + 0.3 * len(found)))
    ax = axes[0, 0]
    bars = ax.barh(found["kind"].str.replace("_", " "), found["found"], color=PALETTE[0])
    ax.bar_label(bars, [f" {n:,} in {notes:,} notes" if n else " none" for n, notes in zip(found["found"], found["notes"])], fontsize=9)
    searched = f", {n_notes:,} notes searched" if n_notes else ""
    ax.set(xlabel="places found", title=f"What looks like an identifier (n = {found['found'].sum():,} places{searched})")
    ax.margins(x=0.22)
    ax.grid(axis="y", visible=False)
    return fig


def ocr_quality(quality: pd.DataFrame) -> Figure:
    """OCR noise of the notes (share of damaged pieces), the strata clean, some and heavy, and the cut above which a note is left out. quality: ocr_noise."""
    if quality.empty:
        return empty_figure("no notes")
    noise, cut = quality["ocr_noise"], text_quality.rules()["max_noise"]
    names, cuts = text_quality.strata(quality)
    top = max(0.1, min(1.0, max(float(noise.max()), cut) * 1.05))
    fig, axes = new_figure(size=(8, 3.8))
    ax, bins = axes[0, 0], np.linspace(0, top, 61)
    spans = [f"up to {cuts[0]:.3f}", f"up to {cuts[1]:.3f}", f"above {cuts[1]:.3f}"]
    parts = [noise[names == name] for name in text_quality.STRATA]
    _, _, bars = ax.hist(parts, bins=bins, stacked=True, color=["0.9", "0.65", "0.35"], edgecolor="black", linewidth=0.5,
                         label=[f"{name}: {span} (n = {len(part):,})" for name, span, part in zip(text_quality.STRATA, spans, parts)])  # fmt: skip
    for group, hatch in zip(bars, ("", "//", "xx")):
        for bar in group:
            bar.set_hatch(hatch)
    ax.axvline(cut, color="black", linestyle="--", linewidth=1.6)
    here = f"\n(n = {(noise > cut).sum():,} of these)" if (noise > cut).any() else ""
    ax.annotate(f"notes above {cut}\nare left out{here}", (cut, ax.get_ylim()[1]), (-5, -4), textcoords="offset points", ha="right", va="top", fontsize=9)
    ax.set(
        xlabel="OCR noise: share of the words that look damaged",
        ylabel="notes",
        title=f"How legible the notes are (n = {len(quality):,}, median {noise.median():.3f})",
    )
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), title="OCR noise", alignment="left")
    return fig
