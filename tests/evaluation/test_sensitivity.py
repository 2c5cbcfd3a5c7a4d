"""Headlines under every choice of metric, on two systems whose scores are known by hand."""

import json

import pandas as pd
import pytest

from cancerllm_utils.evaluation import metrics, score, sensitivity


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Sizes: one system drops the decimal point (right for the paper, wrong for the clinic), the other is right every second time."""
    folder = tmp_path_factory.mktemp("run")
    rows = [{"example_id": f"e{i}", "patient_id": f"P{i}", "field": "tumor_size", "answers": [f"{i}.5 cm"], "headline": i < 8} for i in range(10)]
    (folder / "datasets" / "phenotype_extraction").mkdir(parents=True)
    (folder / "datasets" / "phenotype_extraction" / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for stage, answer in {"sft": lambda i: f"{i}5 cm", "cpt-sft": lambda i: f"{i}.5 cm" if i % 2 else "left"}.items():
        path = folder / "predictions" / "tiny_base" / stage / "phenotype_extraction.dev.jsonl"
        path.parent.mkdir(parents=True)
        given = [{"example_id": row["example_id"], "answers": row["answers"], "prediction": answer(i), "parsed": answer(i)} for i, row in enumerate(rows)]
        given[0] |= {"prediction": "0.5 cm", "parsed": metrics.UNPARSED}
        path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return folder


def test_pairs_are_those_of_the_headline_as_they_are_scored(run):
    pairs = sensitivity.run_pairs(run, "tiny_base", "sft", "phenotype_extraction", "dev")
    assert len(pairs) == 8 and pairs[0] == (["0.5 cm"], "0.5 cm") and pairs[3] == (["3.5 cm"], "35 cm")


def test_the_headline_of_the_scores_stands_in_the_first_row_and_choices_change_it(run):
    scores = score.score_run(run, n_resamples=20)
    choices = sensitivity.headline_choices(run, scores)
    assert len(pd.read_csv(run / "results" / "metric_choices.csv")) == len(choices) == 2 * len(sensitivity.CHOICES)
    headline = scores[(scores.family == "paper") & (scores.metric == "average") & (scores.field == "all") & (scores.subgroup == "headline")].set_index("stage")["f1"]
    usual = choices[choices["choice"].str.startswith("paper") & choices["metric"].eq("exact_match")].set_index("stage")["average with it"]
    assert usual["sft"] == pytest.approx(headline["sft"]) and usual["cpt-sft"] == pytest.approx(headline["cpt-sft"])
    exact = choices[choices["metric"].eq("exact_match")].set_index(["stage", "choice"])["points"]
    assert exact["sft", "paper: no punctuation, stems"] == 100 and exact["sft", "clinical: points, signs and units count"] == 12.5  # the one that kept its point
    table = sensitivity.choices_table(choices, [("tiny_base", "sft")]).set_index("choice")
    assert table.loc["paper: no punctuation, stems", "ahead in phenotype extraction"] == "tiny_base, sft"
    assert table.loc["clinical: points, signs and units count", "Phenotype extraction: tiny_base, sft"] == f"{headline['sft'] - 87.5 / 3:.1f} (\N{MINUS SIGN}29.2)"
    assert set(table["metric"]) == set(metrics.AVERAGED)
