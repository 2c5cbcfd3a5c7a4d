"""Figures of robustness from invented tables: labelled with n, closed, and a word where there is nothing to draw."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from cancerllm_utils.evaluation import consistency, label_noise, robustness
from cancerllm_utils.plots import robustness as figures

MAIN = ("tiny_base", "cpt-sft")


def scores():
    """Two tasks, three testbeds, two rings for labels, one remedy; the score falls with the rate."""
    rows = []
    for testbed, rates in {"misspell": (0, 10, 40), "labels": (0, 80), robustness.NATURAL: (1.0, 9.0)}.items():
        for model, stage in [("majority", "baseline"), ("rules", "baseline"), MAIN, ("tiny_base", "cpt-sft-cf40")]:
            for task in ("phenotype_extraction", "diagnosis_generation"):
                for split in ("test", "external") if testbed == "labels" else ("test",):
                    for remedy in ("", "respelled") if testbed == "misspell" else ("",):
                        rows += [{"model": model, "stage": stage, "task": task, "variant": "all", "split": split, "field": "all", "subgroup": "all", "family": "paper", "metric": "average", "f1": 90 - rate,
                                  "f1_low": 85 - rate, "f1_high": min(95 - rate, 100), "n": 77, "testbed": testbed, "rate": rate, "remedy": remedy} for rate in rates]
    return pd.DataFrame(rows, columns=robustness.COLUMNS)


def flips():
    rows = [{"model": model, "stage": stage, "task": "phenotype_extraction", "split": "test", "field": "all", "change": change, "n": 55, "patients": 50, "flips": 20.0, "low": 12.0, "high": 28.0,
             "right_to_wrong": 5.0, "wrong_to_right": 5.0, "wrong_to_wrong": 10.0}
            for model, stage in [("rules", "baseline"), MAIN, ("tiny_base", "cpt-sft-s7")] for change in ("upper", "wording", "any")]
    return pd.DataFrame(rows, columns=consistency.COLUMNS)


def changes():
    return pd.DataFrame([["misspell", "phenotype_extraction", "laterality", 40.0, -1.0, -3.0, 2.0, 60, "survives"], ["misspell", "phenotype_extraction", "tumor_size", 40.0, -25.0, -30.0, -9.0, 40, "is lost"],
                         ["labels", "phenotype_extraction", "laterality", 80.0, -12.0, -20.0, 0.0, 60, "open"]],
                        columns=["testbed", "task", "field", "rate", "value", "low", "high", "n", "verdict"])  # fmt: skip


def learned():
    rows = [{"model": "tiny_base", "stage": "cpt-sft-cf40", "task": "all", "field": "all", "trained": trained, "n": 50, "memorised": share, "memorised_low": share - 5, "memorised_high": share + 5,
             "resisted": 20.0} for trained, share in ((True, 60.0), (False, 10.0))]
    return pd.DataFrame(rows, columns=label_noise.COLUMNS)


FIGURES = {
    "curves": (lambda: figures.curves(scores()), lambda: figures.curves(scores()[:0])),
    "field_heat": (lambda: figures.field_heat(changes(), "tiny_base"), lambda: figures.field_heat(changes()[:0], "tiny_base")),
    "remedies": (lambda: figures.remedies(scores(), [MAIN]), lambda: figures.remedies(scores()[:0], [MAIN])),
    "label_rings": (lambda: figures.label_rings(scores(), [MAIN]), lambda: figures.label_rings(scores()[:0], [MAIN])),
    "consistency": (lambda: figures.consistency(flips()), lambda: figures.consistency(flips()[:0])),
    "memorised": (lambda: figures.memorised(learned()), lambda: figures.memorised(learned()[:0])),
}


def texts(fig) -> str:
    out = [text.get_text() for legend in fig.legends for text in legend.get_texts()]
    for ax in fig.axes:
        out += [ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel(), *(t.get_text() for t in ax.texts), *(t.get_text() for t in [*ax.get_xticklabels(), *ax.get_yticklabels()])]
        out += [t.get_text() for t in ax.get_legend().get_texts()] if ax.get_legend() else []
    return "\n".join(out)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_carries_its_n_is_closed_and_says_where_there_is_nothing(name):
    fig = FIGURES[name][0]()
    assert "n = " in texts(fig) and plt.get_fignums() == []
    assert len(texts(FIGURES[name][1]()).strip()) > 15


def test_curves_leave_out_who_reads_no_text_and_stages_of_altered_labels():
    fig = figures.curves(scores())
    assert len(fig.axes) == 6
    assert {text.get_text() for text in fig.legends[0].get_texts()} == {"Label rules", "tiny_base, cpt-sft"}
    line = fig.axes[0].lines[0]
    assert line.get_xdata().tolist() == [0, 10, 40] and line.get_ydata().tolist() == [90, 80, 50]
    assert len(figures.curves(scores()[lambda d: d["testbed"] != robustness.NATURAL]).axes) == 4
    only_natural = scores()[lambda d: d["testbed"] == robustness.NATURAL].assign(task="icd10_coding")  # asked, but not damaged: no column of its own
    assert len(figures.curves(pd.concat([scores(), only_natural])).axes) == len(fig.axes)


def test_the_heat_map_frames_what_is_lost_and_hides_what_was_not_asked():
    fig = figures.field_heat(changes(), "tiny_base")
    ax = fig.axes[0]
    assert sorted(text.get_text() for text in ax.texts) == sorted(["-", "\N{MINUS SIGN}1\nn = 60", "\N{MINUS SIGN}25\nn = 40", "\N{MINUS SIGN}12\nn = 60"])
    frames = [patch for patch in ax.patches if patch.get_linewidth() > 1]
    assert len(frames) == 1 and frames[0].get_xy() == pytest.approx((-0.46, 0.54))  # tumor_size under misspellings


def test_a_seed_of_a_stage_has_no_bars_of_its_own():
    labels = [tick.get_text() for tick in figures.consistency(flips()).axes[0].get_yticklabels()]
    assert labels == ["Label rules", "tiny_base, cpt-sft"] * 2


def test_the_parts_of_a_bar_add_up():
    fig = figures.memorised(learned())
    trained, aside = ([patch.get_width() for patch in ax.patches] for ax in fig.axes)
    assert trained == [60, 20, 20] and aside == [10, 20, 70]
    assert "tiny_base, cpt-sft, 40 %" in texts(fig)


def test_rows_of_false_answers_go_by_rate_and_say_what_was_not_asked():
    table = learned()
    fig = figures.memorised(pd.concat([table.assign(stage="cpt-sft-cf80-small_loss"), table, table[table["trained"]].assign(stage="cpt-sft-cf20"), table.assign(stage="cpt-sft-cfnear20")]))
    names = [tick.get_text() for tick in fig.axes[0].get_yticklabels()]
    assert names == [f"tiny_base, cpt-sft, {rest}" for rest in ("20 %", "40 %", "80 %, label filter by loss", "20 % confusable")]
    assert [text.get_text() for text in fig.axes[1].texts].count("not asked") == 1


def test_kinds_of_damage_to_one_task_stand_side_by_side():
    one = scores()[lambda d: d["task"] == "phenotype_extraction"]
    fig = figures.curves(one)
    assert [ax.get_subplotspec().get_position(fig).x0 for ax in fig.axes[:3]] == sorted({ax.get_subplotspec().get_position(fig).x0 for ax in fig.axes})
    assert [bool(ax.get_ylabel()) for ax in fig.axes[:3]] == [True, False, False]
    assert "no model was trained" in texts(figures.label_rings(one[one["testbed"] == "misspell"], [MAIN]))
