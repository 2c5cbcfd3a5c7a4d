"""The figures of radiation oncology, from invented answers."""

import json

import pytest

from cancerllm_utils.evaluation import radonc
from cancerllm_utils.plots import radonc as plots_radonc


@pytest.fixture
def items(tmp_path):
    gold = ["external beam | 60 Gy | 30 fractions | brain", "external beam | 40 Gy | 15 fractions | brain"] * 5
    said = {"tiny_base/sft": [gold[0]] * 9 + ["external beam | 60 Gy | 2 fractions | brain"], "tiny_base/base": ["unparsed"] * 10, "majority/baseline": [gold[0]] * 10}
    path = tmp_path / "datasets" / "radonc_regimen" / "test.jsonl"
    path.parent.mkdir(parents=True)
    rows = [{"example_id": str(i), "patient_id": str(i), "institution": "A", "cancer_type": "GBM", "answers": [answer]} for i, answer in enumerate(gold)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for system, answers in said.items():
        path = tmp_path / "predictions" / system / "radonc_regimen.test.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps({"example_id": str(i), "prediction": answer, "parsed": answer}) + "\n" for i, answer in enumerate(answers)))
    return radonc.read_items(tmp_path)


def test_figures_say_how_many_and_mark_what_is_impossible(items):
    scores = plots_radonc.study_scores(radonc.scores(items, n_resamples=20), "test")
    assert scores.axes[0].get_title(loc="left") == "regimen (n = 10)"
    doses = plots_radonc.doses(items, "test")
    assert [ax.get_title(loc="left").split("\n")[1] for ax in doses.axes] == ["(n = 10 of 10 name a dose)"] * 2
    shown = [[len(ax.collections[number].get_offsets()) for number in range(3)] for ax in doses.axes]
    assert shown == [[2, 0, 0], [1, 0, 1]]  # external beam, brachytherapy, impossible
    bars = plots_radonc.plausibilities(items, "test").axes[0]
    widths = {label.get_text(): sum(bar.get_width() for bar in bars.patches if abs(bar.get_y() + bar.get_height() / 2 - y) < 0.1) for y, label in enumerate(bars.get_yticklabels())}
    assert all(width == pytest.approx(100) for width in widths.values()) and "the right regimens (n = 10)" in widths


def test_no_answers_no_panels(items):
    for figure in (plots_radonc.study_scores(radonc.scores(items, n_resamples=20), "dev"), plots_radonc.doses(items, "dev"), plots_radonc.plausibilities(items, "dev")):
        assert figure.axes[0].texts
