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
        marks = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_marker() not in ("None", "")]
        assert [line.get_xdata().tolist() for line in marks] == [[2.0, 2.0], [-5.0, -5.0]] and marks[0].get_marker() != marks[1].get_marker()


def test_a_row_without_any_changed_answer_is_hollow_not_certain():
    row = KEYS[0] | {"retriever": "bm25", "k": 1, "n": 9, "copied": 70.0, "agreed_without": 70.0}
    fig = retrieval.wrong_examples(pd.DataFrame([row | {"retrieved": "right", "difference": 0.0, "low": 0.0, "high": 0.0}, row | {"retrieved": "wrong", "difference": 0.0, "low": -9.0, "high": 9.0}]))
    hollow = [line for line in fig.axes[0].lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert len(hollow) == 1 and "hollow: no answer changed" in {text.get_text() for text in fig.legends[0].get_texts()}


def test_many_panels_are_wrapped_and_name_their_rows_once(scores):
    fig = retrieval.with_examples(pd.concat([scores, scores.assign(split="external")]))
    assert len({ax.get_subplotspec().rowspan.start for ax in fig.axes}) == 2 and fig.get_figwidth() < 14
    assert [ax.yaxis.get_tick_params()["labelleft"] for ax in fig.axes[:4]] == [True, False, False, True]


def test_costs_are_two_panels_with_a_line_per_kind():
    table = pd.DataFrame([{"kind": kind, "notes": n, "milliseconds": n / 1000, "index_megabytes": n / 500} for kind in ("vectors", "bm25") for n in (10000, 1000)])
    fig = retrieval.costs(table)
    assert [line.get_xdata().tolist() for line in fig.axes[0].lines] == [[1000, 10000]] * 2 and fig.axes[1].get_yscale() == "log"
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["BM25", "vectors, exact"] and "measured" in retrieval.costs(table[:0]).axes[0].texts[0].get_text()


def test_neighbours_show_three_measures_and_what_chance_gives():
    rows = [key | {"retriever": name, "metric": metric, "value": 50.0, "low": 40.0, "high": 60.0, "n": 60}
            for key in KEYS for name in ("bm25", "random") for metric in ("same_histology_1", "same_answer_1", "ndcg_10", "milliseconds")]  # fmt: skip
    fig = retrieval.neighbours(pd.DataFrame(rows))
    assert labels(fig.axes[0]) == [NAMES["bm25"], NAMES["random"]] and len(fig.legends[0].get_texts()) == 3 and all(len(ax.lines) == 3 for ax in fig.axes)


@pytest.mark.parametrize(("figure", "columns"), [("with_examples", ["metric", "family"]), ("wrong_examples", ["k"]), ("neighbours", ["metric"])])
def test_nothing_to_draw_is_said(figure, columns):
    make = {"with_examples": retrieval.with_examples, "wrong_examples": retrieval.wrong_examples, "neighbours": retrieval.neighbours}[figure]
    assert "nothing was" in make(pd.DataFrame(columns=columns)).axes[0].texts[0].get_text()
