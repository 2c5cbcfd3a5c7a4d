"""The figures of the corpus from invented notes: what is drawn, its n, that a grey print reads the same, and that nothing stops a run."""

from functools import cache
from itertools import combinations

import matplotlib.colors
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import PathPatch, Rectangle

from cancerllm_utils.plots import corpus as plots_corpus
from tests import invented_results
from tests.plots.test_plots import texts

NOTES, SPLITS, LABELS = invented_results.notes(), invented_results.splits(), invented_results.labels()
DATED = NOTES.assign(date=["2020-01-01", "2020-07-01"] * 60)
PATIENTS = pd.DataFrame({"patient_id": [f"p{i}" for i in range(60)], "cancer_type": ["BRCA", "LUAD", "PRAD"] * 20, "age": ["61", ""] * 30, "icd_10": "C50"})
FLOW = [
    {"step": "rows of the files", "n_reports": 130, "n_patients": 66, "dropped": 0, "note": ""},
    {"step": "with a patient", "n_reports": 125, "n_patients": 62, "dropped": 5, "note": "a row without a patient cannot be joined"},
    {"step": "passes a check", "n_reports": 125, "n_patients": 62, "dropped": 0, "note": ""},
    {"step": "can be read", "n_reports": 120, "n_patients": 60, "dropped": 5, "note": "failed OCR"},
    {"step": "kept", "n_reports": 120, "n_patients": 60, "dropped": 0, "note": ""},
]
ITEMS = pd.DataFrame(
    {
        "task": ["phenotype_extraction"] * 3,
        "variant": ["note", "findings", "note"],
        "split": ["train", "train", "test"],
        "items": [300, 50, 77],
        "patients": [30, 20, 9],
    }
)
FOUND = pd.DataFrame({"kind": ["person", "age_over_89", "url"], "found": [12, 3, 0], "notes": [9, 3, 0]})
QUALITY = pd.DataFrame({"note_id": range(90), "ocr_noise": [i / 250 for i in range(90)], "organs": 1, "t_categories": 1, "language": "en"})
FIGURES = {
    "flow_diagram": lambda: plots_corpus.flow_diagram(FLOW),
    "flow_to_items": lambda: plots_corpus.flow_diagram(FLOW, ITEMS),
    "cohort": lambda: plots_corpus.cohort(NOTES, SPLITS),
    "timeline": lambda: plots_corpus.timeline(DATED),
    "note_lengths": lambda: plots_corpus.note_lengths(NOTES),
    "coverage": lambda: plots_corpus.coverage(LABELS, NOTES),
    "missingness": lambda: plots_corpus.missingness(PATIENTS, LABELS),
    "institutions": lambda: plots_corpus.institutions(NOTES, SPLITS),
    "identifiers": lambda: plots_corpus.identifiers(FOUND, 120),
    "ocr_quality": lambda: plots_corpus.ocr_quality(QUALITY),
}


@cache
def drawn(name):
    return FIGURES[name]()


def luminance(colour) -> float:
    red, green, blue = matplotlib.colors.to_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_carries_its_n_is_labelled_and_closed(name):
    fig = drawn(name)
    assert "n = " in texts(fig)
    for ax in fig.axes:
        assert ax.get_title(loc="left") or ax.get_title()
        if ax.axison and not ax.collections:  # heat maps name their rows and columns
            assert ax.get_xlabel()
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", FIGURES)
def test_a_grey_print_reads_the_same(name):
    for ax in drawn(name).axes:
        looks = {(luminance(p.get_facecolor()[:3]), p.get_hatch() or "") for p in ax.patches if isinstance(p, (Rectangle, PathPatch)) and p.get_facecolor()[3]}
        for (one, hatch), (other, other_hatch) in combinations(looks, 2):
            assert hatch != other_hatch or abs(one - other) > 0.15, f"two series of {name} differ by colour alone"
        for collection in ax.collections:  # a heat map: lightness must rise with the value
            shades = [luminance(collection.cmap(i / 10)) for i in range(11)]
            assert shades == sorted(shades) or shades == sorted(shades, reverse=True)
            assert len(ax.texts) > 0, "and the value stands in the cell"


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_smaller_than_six_points_or_overlaps_its_neighbour(name):
    fig = drawn(name)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    renderer = canvas.get_renderer()
    for ax in fig.axes:
        labels = [t for t in [*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels()] if t.get_text() and t.get_visible()]
        assert all(t.get_fontsize() >= 6 for t in labels)
        for group in (ax.get_xticklabels(), ax.get_yticklabels(), ax.texts):
            extents = [t.get_window_extent(renderer) for t in group if t.get_text()]
            assert not any(a.overlaps(b) and a.shrunk(0.9, 0.9).overlaps(b.shrunk(0.9, 0.9)) for a, b in combinations(extents, 2)), f"labels of {name} overlap"


@pytest.mark.parametrize("function, frames", [
    (plots_corpus.flow_diagram, [[]]), (plots_corpus.cohort, [NOTES[:0], SPLITS]), (plots_corpus.timeline, [NOTES[:0]]), (plots_corpus.note_lengths, [NOTES[:0]]),
    (plots_corpus.coverage, [LABELS[:0], NOTES]), (plots_corpus.missingness, [PATIENTS[:0], LABELS]), (plots_corpus.institutions, [NOTES[:0], SPLITS]),
    (plots_corpus.identifiers, [FOUND[:0]]), (plots_corpus.ocr_quality, [QUALITY[:0]]),
])  # fmt: skip
def test_an_empty_table_gives_a_figure_that_says_so(function, frames):
    assert "no " in texts(function(*frames))


def test_flow_shows_every_exclusion_once_and_sums_the_variants_of_a_task():
    said = texts(drawn("flow_to_items"))
    assert said.count("left out") == 2 and said.count("5 left out") == 2 and "passes a check" not in said
    assert "rows of the files" in said and "n = 120 notes, 60 patients" in said
    assert "training patients: 350 (30)" in said and "held-out patients: 77 (9)" in said and "n = 427 items" in said
    assert "items" not in texts(drawn("flow_diagram"))
    early = texts(plots_corpus.flow_diagram(FLOW[1:]))
    assert "n = 130 notes\n" in early and early.count("5 left out") == 2, "nor is what the first step left out hidden"


def test_cohort_counts_patients_once():
    fig = drawn("cohort")
    assert sum(patch.get_width() for patch in fig.axes[0].patches) == 60  # 120 notes of 60 patients
    assert "BRCA (n = 20)" in texts(fig) and "training patients (n = 30)" in texts(fig)


def test_timeline_counts_from_the_first_note_and_does_without_dates():
    assert "6.0 months" in texts(drawn("timeline")) and "0.0 months" in texts(drawn("timeline"))
    assert len(plots_corpus.timeline(NOTES.assign(date="")).axes) == 1


def test_note_lengths_in_words_and_tokens_of_the_embedded_model():
    words, tokens = drawn("note_lengths").axes
    assert "120 notes" in words.get_title(loc="left")
    measured = plots_corpus.note_lengths(NOTES, pd.DataFrame({"note_id": NOTES["note_id"], "words": 7}))
    assert [t.get_text() for t in measured.axes[0].texts] == ["7", "7"]
    counted = [float(t.get_text().replace(",", "")) for ax in (words, tokens) for t in ax.texts]
    assert counted[2:] == pytest.approx([2 * n for n in counted[:2]], rel=0.6), "a word has one to three tokens"


def test_coverage_counts_uncertain_as_not_stated_and_keeps_registry_apart():
    stated, registry = [[t.get_text() for t in ax.texts] for ax in drawn("coverage").axes[:2]]
    assert stated[:3] == ["75"] * 3 and stated[3:] == ["100"] * 3  # rows: grade, laterality
    assert registry == ["100"] * 3 + ["0"] * 3


def test_missingness_leaves_blank_what_a_cancer_does_not_record():
    labels = LABELS[(LABELS["field"] == "grade") & LABELS["patient_id"].isin(PATIENTS.loc[PATIENTS["cancer_type"] != "LUAD", "patient_id"])]
    labels = pd.concat([labels, LABELS[LABELS["field"] == "laterality"]])  # the text is asked for it, the registry never has it
    fig = plots_corpus.missingness(PATIENTS, labels)
    assert [t.get_text() for t in fig.axes[0].texts] == ["50", "50", "50", "0", "0"]  # age of three cancers, grade of two
    assert "icd" not in texts(fig)


def test_a_corpus_that_knows_neither_cancer_nor_institution_nor_registry():
    bare = NOTES.assign(cancer_type="", institution="", note_type="")
    assert "not known (n = 60)" in texts(plots_corpus.cohort(bare, SPLITS)) and "not known (n = 60)" in texts(plots_corpus.institutions(bare, SPLITS))
    assert "not known (n = 120)" in texts(plots_corpus.note_lengths(bare))
    assert "no registry value" in texts(plots_corpus.missingness(PATIENTS[["patient_id", "cancer_type"]], LABELS[:0]))


def test_institutions_mark_the_held_out_ones_and_join_the_small_ones(monkeypatch):
    monkeypatch.setattr(plots_corpus, "MAX_INSTITUTIONS", 2)
    splits = SPLITS.assign(split=["external" if i % 2 else "train" for i in range(60)])
    notes = NOTES.assign(institution=["Ayton" if int(p[1:]) % 2 else f"Beeford {int(p[1:]) % 6}" for p in NOTES["patient_id"]])
    said = texts(plots_corpus.institutions(notes, splits))
    assert "Ayton * (n = 30)" in said and "2 more institutions (n = 20)" in said


def test_identifiers_name_places_and_notes():
    said = texts(drawn("identifiers"))
    assert "12 in 9 notes" in said and "none" in said and "120 notes searched" in said


def test_ocr_quality_counts_what_lies_above_the_cut():
    cut = plots_corpus.text_quality.rules()["max_noise"]
    assert f"n = {(QUALITY['ocr_noise'] > cut).sum()} of these" in texts(drawn("ocr_quality"))
