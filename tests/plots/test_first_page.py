"""The first page's figures: what is drawn, with which n, and what is said where there is nothing to draw."""

import pandas as pd
import pytest

from cancerllm_utils.plots import first_page
from tests import invented_results
from tests.plots.test_plots import texts

SCORES = invented_results.scores()
SYSTEM = ("tiny_base", "cpt-sft")
SIMPLE = ["majority_by_cancer", "tfidf", "rules"]


def points(ax, label):
    return [round(float(line.get_xdata()[0]), 6) for line in ax.get_lines() if line.get_label() == label]


def test_the_model_stands_beside_the_best_simple_method_and_a_blind_answer():
    fig = first_page.right_answers(SCORES, SYSTEM, SIMPLE, "majority_by_cancer")
    ax = fig.axes[0]
    assert points(ax, "the model") == [63, 63] and points(ax, "best simple method") == [73, 73] and points(ax, "answer without reading") == [33, 33]
    assert "n = 150" in texts(fig) and "held-out patients" in texts(fig)


def test_unseen_places_have_a_mark_each():
    ax = first_page.unseen_places(SCORES, SYSTEM).axes[0]
    assert [points(ax, ring) for ring in ("held-out patients", "held-out sites", "held-out institutions")] == [[63, 63], [58, 58], [53, 53]]


def test_of_100_questions_adds_up_to_100():
    fig = first_page.of_100_questions(SCORES, SYSTEM)
    bars = [(patch.get_y(), patch.get_width()) for patch in fig.axes[0].patches]
    stated, open_ = sorted({y for y, _ in bars}, reverse=True)
    assert [width for y, width in bars if y == stated] == pytest.approx([60, 12, 28]) and [width for y, width in bars if y == open_] == pytest.approx([80, 0, 20])
    assert "n = 150" in texts(fig) and "n = 50" in texts(fig)


def test_many_tasks_carry_their_n_in_the_title():
    many = pd.concat([SCORES[SCORES["task"].eq("diagnosis_generation")].assign(task=f"task_{i}") for i in range(6)])
    assert "n = 150 each" in texts(first_page.right_answers(many, SYSTEM, SIMPLE, "majority_by_cancer"))


def test_models_stand_in_the_order_of_their_release():
    models = {"new": "2024-04", "old": "2023-07", "undated": ""}
    scores = pd.concat([SCORES[SCORES["stage"].eq("sft")].assign(model=name) for name in models] + [SCORES[SCORES["stage"].eq("baseline")]])
    fig = first_page.by_release(scores, {name: month for name, month in models.items() if month})
    labels = [tick.get_text() for tick in fig.axes[-1].get_xticklabels()]
    assert labels == ["2023-07  old", "2024-04  new"] and "Label rules 70" in texts(fig)
    assert "fewer than two models" in texts(first_page.by_release(SCORES, {"new": "2024-04"}))


@pytest.mark.parametrize("draw", [lambda s: first_page.right_answers(s, None, SIMPLE, "majority_by_cancer"), lambda s: first_page.unseen_places(s, None), lambda s: first_page.of_100_questions(s, None)])
def test_without_a_language_model_a_figure_says_so(draw):
    assert any(word in texts(draw(SCORES.head(0))) for word in ("no language model", "no unseen place", "no task"))
    assert draw(SCORES[SCORES["stage"].eq("baseline")])
