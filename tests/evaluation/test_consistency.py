"""Flips by hand: what is another answer, what is not, and what became of it."""

import json

import pandas as pd
import pytest

from cancerllm_utils.evaluation import consistency
from cancerllm_utils.report import results_files

GOLD = {"e0": "Left", "e1": "Left", "e2": "2.5 cm", "e3": "T2", "e4": "T2", "e5": "T2"}


def write(run, stage, split, given):
    path = run / f"predictions/m/{stage}/t.{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"example_id": name, "prediction": value, "answers": [GOLD[name]], "parsed": value}) + "\n" for name, value in zip(GOLD, given) if value))


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "datasets/t/test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps({"example_id": name, "patient_id": f"p{i // 2}", "field": "stage" if value == "T2" else "other", "answers": [value]}) + "\n"
                            for i, (name, value) in enumerate(GOLD.items())))
    return tmp_path


def rows_of(run):
    return consistency.run(run, n_resamples=50).set_index(["change", "field"])


def test_kinds_of_flips_by_hand(run):
    write(run, "sft", "test", ["Left", "Right", "2.5 cm", "T2", "T1", "T1"])
    write(run, "sft", "test+upper", ["Right", "RIGHT", "2.5cm", "T2", "T2", "T3"])
    row = rows_of(run).loc[("upper", "all")]
    # e0 right to wrong, e1 the same but for case, e2 right in other words, e4 wrong to right, e5 wrong to another wrong
    assert row["flips"] == 50 and row[["right_to_wrong", "wrong_to_right", "wrong_to_wrong"]].tolist() == [pytest.approx(100 / 6)] * 3
    assert (row["n"], row["patients"]) == (6, 3) and row["low"] <= 50 <= row["high"]
    assert rows_of(run).loc[("upper", "stage"), "flips"] == pytest.approx(200 / 3)


def test_any_change_counts_a_question_once_and_only_those_that_all_asked(run):
    write(run, "sft", "test", ["Left", "Left", "2.5 cm", "T2", "T2", "T2"])
    write(run, "sft", "test+upper", ["Right", "Left", "2.5 cm", "T2", "T2", "T1"])
    write(run, "sft", "test+wording", ["Right", "Right", "2.5 cm", "T2", "T2", ""])
    table = rows_of(run)
    assert table.loc[("any", "all"), ["n", "flips"]].tolist() == [5, 40] and pd.isna(table.loc[("any", "all"), "right_to_wrong"])
    assert table.loc[("upper", "all"), "n"] == 6 and table.loc[("wording", "all"), "n"] == 5


@pytest.mark.parametrize(("given", "flips", "low", "high"), [("Left", 0, 0, 100 * (1 - 0.025 ** (1 / 3))), ("T9", 100, 100 * 0.025 ** (1 / 3), 100)])
def test_none_or_all_of_three_patients_is_no_certainty(run, given, flips, low, high):
    write(run, "sft", "test", ["Left"] * 6)
    write(run, "sft", "test+upper", [given] * 6)
    row = rows_of(run).loc[("upper", "all")]
    assert row[["flips", "low", "high"]].tolist() == pytest.approx([flips, low, high])


def test_an_unreadable_answer_is_one_answer_and_another_than_a_value(run):
    write(run, "sft", "test", ["unparsed", "unparsed", "2.5 cm", "T2", "T2", "T2"])
    write(run, "sft", "test+linebreaks", ["unparsed", "Left", "2.5 cm", "unparsed", "T2", "T2"])
    row = rows_of(run).loc[("linebreaks", "all")]
    assert row["flips"] == pytest.approx(100 / 3) and row["wrong_to_right"] == row["right_to_wrong"] == pytest.approx(100 / 6)


def test_damage_and_remedies_are_no_changes_that_keep_the_meaning(run):
    write(run, "sft", "test", ["Left"] * 6)
    for split in ("test+misspell20", "test+respelled", "test+misspell20+respelled"):
        write(run, "sft", split, ["Right"] * 6)
    table = consistency.run(run)
    assert table.empty and list(table) == consistency.COLUMNS and list(pd.read_csv(run / "results/consistency.csv")) == consistency.COLUMNS


def test_every_stage_is_held_against_its_own_clean_answers(run):
    write(run, "sft", "test", ["Left"] * 6)
    write(run, "sft-cf40", "test", ["Right"] * 6)
    write(run, "sft-cf40", "test+upper", ["Right"] * 6)
    table = consistency.run(run)
    assert set(table["stage"]) == {"sft-cf40"} and set(table["flips"]) == {0}
    assert results_files.undescribed(run) == []
