"""Figures of retrieval: one panel per task, one mark per condition, every interval drawn, and a sentence where there is nothing."""

import itertools

import pandas as pd
import pytest

from cancerllm_utils.evaluation.retrieval_index import NAMES
from cancerllm_utils.plots import retrieval

TASKS = ["phenotype_extraction", "diagnosis_generation"]
KEYS = [{"task": task, "split": "dev", "stage": "cpt-sft"} for task in TASKS]


@pytest.fixture
def scores() -> pd.DataFrame:
    shared = {"metric": "average", "family": "paper", "n": 60}
    conditions = [("none", 0), *itertools.product(["bm25", "dense", "random"], [1, 3]), ("oracle", 0)]
    return pd.DataFrame([key | shared | {"retriever": name, "k": k, "f1": 40.0 + 3 * i, "f1_low": 30.0 + 3 * i, "f1_high": 50.0 + 3 * i} for key in KEYS for i, (name, k) in enumerate(conditions)])


def labels(ax) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def test_every_condition_is_a_mark_with_its_interval_and_none_is_the_line(scores):
    fig = retrieval.with_examples(scores)
    assert len(fig.axes) == 2 and labels(fig.axes[0]) == [NAMES[name] for name in ("bm25", "dense", "random", "oracle")]
    for ax in fig.axes:
        marks = [line for line in ax.lines if line.get_marker() not in ("None", "")]
        spans = [line.get_xdata() for line in ax.lines if line.get_marker() in ("None", "") and len(set(line.get_xdata())) == 2]
        assert len(marks) == len(spans) == 7 and [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"] == [40.0]
        assert len({(line.get_marker(), line.get_color()) for line in marks}) == 3 and "n = 60" in ax.get_title(loc="left")
    assert {text.get_text() for text in fig.legends[0].get_texts()} == {"no example (band: its interval)", "1 example", "3 examples", "upper bound"}


def test_wrong_neighbours_stand_beside_right_ones_with_what_was_repeated():
    rows = [key | {"retriever": name, "k": k, "retrieved": retrieved, "n": 20 + k, "difference": -5.0 if retrieved == "wrong" else 2.0, "low": -12.0, "high": 4.0, "copied": 33.3, "agreed_without": 8.0}
            for key in KEYS for name in ("bm25", "random") for k in (1, 3) for retrieved in ("right", "wrong")]  # fmt: skip
    fig = retrieval.wrong_examples(pd.DataFrame(rows))
    for ax in fig.axes:
        texts = [text.get_text() for text in ax.texts]
        assert texts.count("21") == 4 and texts.count("33 (8)") == 4 and "23" not in texts  # the smallest k alone
        assert [line.get_xdata().tolist() for line in ax.lines[:2]] == [[2.0, 2.0], [-5.0, -5.0]] and ax.lines[0].get_marker() != ax.lines[1].get_marker()


def test_neighbours_show_three_measures_and_what_chance_gives():
    rows = [key | {"retriever": name, "metric": metric, "value": 50.0, "low": 40.0, "high": 60.0, "n": 60}
            for key in KEYS for name in ("bm25", "random") for metric in ("same_histology_1", "same_answer_1", "ndcg_10", "milliseconds")]  # fmt: skip
    fig = retrieval.neighbours(pd.DataFrame(rows))
    assert labels(fig.axes[0]) == [NAMES["bm25"], NAMES["random"]] and len(fig.legends[0].get_texts()) == 3 and all(len(ax.lines) == 3 for ax in fig.axes)


@pytest.mark.parametrize(("figure", "columns"), [("with_examples", ["metric", "family"]), ("wrong_examples", ["k"]), ("neighbours", ["metric"])])
def test_nothing_to_draw_is_said(figure, columns):
    make = {"with_examples": retrieval.with_examples, "wrong_examples": retrieval.wrong_examples, "neighbours": retrieval.neighbours}[figure]
    assert "nothing was" in make(pd.DataFrame(columns=columns)).axes[0].texts[0].get_text()
