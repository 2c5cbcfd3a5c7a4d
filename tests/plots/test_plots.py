"""Every figure from invented results: what is drawn, how it is labelled, and that a table with nothing in it does not stop a run."""

import json
import subprocess
import sys
from functools import cache

import pandas as pd
import pytest

from cancerllm_utils import plots
from cancerllm_utils.plots import evaluation, training
from tests import invented_results

SCORES = invented_results.scores()
FIGURES = {
    "cpt_loss": lambda: training.cpt_loss(invented_results.cpt()),
    "learning_curves": lambda: training.learning_curves(invented_results.curve()),
    "leaderboard": lambda: evaluation.leaderboard(SCORES),
    "ring_drop": lambda: evaluation.ring_drop(SCORES),
    "field_accuracy": lambda: evaluation.field_accuracy(SCORES),
    "abstention": lambda: evaluation.abstention(SCORES),
    "abstention_by_field": lambda: evaluation.abstention_by_field(SCORES),
}


@cache
def drawn(name):
    return FIGURES[name]()


def texts(fig) -> str:
    """Every word of a figure: titles, labels, ticks, legends, annotations."""
    out = []
    for ax in fig.axes:
        out += [ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel(), *(t.get_text() for t in ax.texts)]
        out += [t.get_text() for t in [*ax.get_xticklabels(), *ax.get_yticklabels()]]
        out += [t.get_text() for t in ax.get_legend().get_texts()] if ax.get_legend() else []
    out += [t.get_text() for legend in fig.legends for t in legend.get_texts()]
    return "\n".join(out)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_carries_its_n(name):
    assert "n = " in texts(drawn(name))


@pytest.mark.parametrize("name", FIGURES)
def test_no_figure_stays_open(name):
    import matplotlib.pyplot as plt

    drawn(name)
    assert plt.get_fignums() == []  # an open one would be shown a second time by the notebook


@pytest.mark.parametrize("function, columns", [
    (training.cpt_loss, ["when", "split", "loss", "bits_per_byte", "tokens"]),
    (training.learning_curves, ["stage", "step", "tokens", "loss", "dev_loss"]),
    *[(f, invented_results.SCORE_COLUMNS) for f in [evaluation.leaderboard, evaluation.ring_drop, evaluation.field_accuracy, evaluation.abstention, evaluation.abstention_by_field]],
])
def test_an_empty_table_gives_a_figure_that_says_so(function, columns):
    said = texts(function(pd.DataFrame(columns=columns)))
    assert any(word in said for word in ["no ", "nothing", "neither"])


def test_cpt_loss_prints_the_relative_change():
    assert "\N{MINUS SIGN}25.0 %" in texts(drawn("cpt_loss")) and "n = 9,000 tokens" in texts(drawn("cpt_loss"))


def test_leaderboard_draws_the_paper_only_where_it_is_told_to():
    assert "paper" not in texts(evaluation.leaderboard(SCORES))
    fig = evaluation.leaderboard(SCORES, {"diagnosis_generation": 86.81})
    assert ["paper" in "".join(t.get_text() for t in ax.texts) for ax in fig.axes] == [False, True]


def test_leaderboard_shows_every_score():
    said = texts(evaluation.leaderboard(SCORES))
    assert all(f"{value:.1f}" in said for value in invented_results.SYSTEMS.values())


def test_ring_drop_goes_from_patients_to_sites_to_institutions():
    line = next(c for c in drawn("ring_drop").axes[0].containers if c.get_label() == "tiny_base, cpt-sft")
    assert list(line.lines[0].get_ydata()) == [60, 55, 50]


def test_field_accuracy_has_a_cell_per_field_and_system():
    fig = drawn("field_accuracy")
    assert len(fig.axes) == 1 and len(fig.axes[0].texts) == 3 * 7  # diagnosis_generation has one field and no panel


def test_a_task_has_its_panels_one_below_the_other_and_rows_wrap():
    fig, axes = plots.task_panels(6, (2, 2), most=4, lines=2)
    at = [(ax.get_subplotspec().rowspan.start, ax.get_subplotspec().colspan.start) for ax in axes]
    assert at == [(line + 2 * (task // 4), task % 4) for task in range(6) for line in range(2)]
    assert [ax.get_visible() for ax in fig.axes].count(False) == 4 and tuple(fig.get_size_inches()) == (8, 8)
    plots.label_rows(axes, "share")
    assert [place for place, ax in zip(at, axes) if ax.get_ylabel()] == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_the_legend_holds_every_name_once_in_the_order_asked_for():
    fig, axes = plots.task_panels(2, (2, 2))
    for ax, names in zip(axes, (["ring", "b"], ["b", "a"])):
        for name in names:
            ax.plot([0], [0], label=name)
    plots.legend_below(fig, axes, ["a", "not drawn", "b"])
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["a", "b", "ring"]


def test_systems_differ_without_colour():
    styles = plots.system_styles(list(invented_results.SYSTEMS))
    assert len({style["marker"] for style in styles.values()}) == len(styles)


def test_save_writes_both_files_and_keeps_the_other_captions(tmp_path):
    fig = drawn("cpt_loss")
    assert plots.save(fig, tmp_path, "one", "First.") is fig
    svg = (tmp_path / "figures" / "one.svg").read_bytes()
    plots.save(FIGURES["cpt_loss"](), tmp_path, "two", "Second.")
    assert (tmp_path / "figures" / "two.svg").read_bytes() == svg  # equal data, equal file
    assert (tmp_path / "figures" / "one.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "figures" / "captions.json").read_text()) == {"one": "First.", "two": "Second."}


def test_figures_and_report_stay_free_of_torch():
    code = "import sys; import cancerllm_utils.plots.evaluation, cancerllm_utils.plots.corpus, cancerllm_utils.corpus.tables, cancerllm_utils.report.pages; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_abstention_draws_right_values_against_false_answers():
    ax = drawn("abstention").axes[0]
    point = next(c for c in ax.containers if c.get_label() == "tiny_base, cpt-sft")
    assert (point[0].get_xdata()[0], point[0].get_ydata()[0]) == (20, 60)  # 50 - 60 / 2 false answers, 60 right values
    assert "no better than never" in texts(drawn("abstention")) and "stated n = 150, not stated n = 50" in ax.get_title(loc="left")


def test_fields_with_few_questions_of_one_kind_are_not_drawn():
    few = SCORES.copy()
    few.loc[(few["field"] == "grade") & (few["metric"] == "right_stated"), "n"] = 197  # of 200: three not stated
    assert "grade (n = 200)" in texts(drawn("abstention_by_field")) and "grade (n = 200)" not in texts(evaluation.abstention_by_field(few))
    assert "Majority" not in texts(drawn("abstention_by_field"))
