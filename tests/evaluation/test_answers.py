"""All answers of a run in one table: gold, score and probability beside each, development answers from their own folder, variants left out."""

import json
import math

import pandas as pd
import pytest

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import answers, score

QUESTIONS = [("e0", "laterality", "Right"), ("e1", "laterality", "Left"), ("e2", "grade", "not stated")]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def predicted(said, **more):
    return [{"example_id": e, "prediction": text, "answers": [gold], "parsed": text, "new_tokens": 2, "stop_reason": "eos", "seconds": 0.1, **more}
            for (e, _, gold), text in zip(QUESTIONS, said, strict=True)]


@pytest.fixture
def run(tmp_path):
    for split in ("dev", "test"):
        write(tmp_path / "datasets" / "phenotype_extraction" / f"{split}.jsonl",
              [{"example_id": e, "patient_id": f"p{e}", "note_id": "n", "field": field, "answers": [gold], "headline": e != "e2", "prompt": "x"} for e, field, gold in QUESTIONS])
    model = tmp_path / "predictions" / "tiny_base" / "sft"
    write(model / "phenotype_extraction.test.jsonl", predicted(["Right", "Right", "not stated"], logprob=-0.5, confidence=0.8))
    write(model / "phenotype_extraction.test+misspell20.jsonl", predicted(["Left", "Right", "G2"], logprob=-0.5, confidence=0.8))
    write(model / "dev" / "phenotype_extraction.dev.jsonl", predicted(["Right", "Left", "G1"], logprob=-1.0, confidence=0.7))
    write(tmp_path / "predictions" / "tfidf" / "baseline" / "phenotype_extraction.test.jsonl", predicted(["Left", "Left", "G1"], stop_reason="", confidence=0.6))
    write(tmp_path / "predictions" / "rules" / "baseline" / "phenotype_extraction.test.jsonl", predicted(["Right", "Left", "not stated"], stop_reason="", sure=True))
    score.score_run(tmp_path, n_resamples=10)
    return tmp_path


def test_every_answer_stands_beside_its_score(run):
    table = answers.read_answers(run).set_index(["model", "split", "example_id"]).sort_index()
    assert list(table.reset_index()[answers.COLUMNS]) == answers.COLUMNS and len(table) == 12
    assert table.loc[("tiny_base", "test"), "right"].tolist() == [True, False, True] and table.loc[("tiny_base", "dev"), "right"].tolist() == [True, True, False]
    assert table.loc[("tfidf", "test"), "right"].tolist() == [False, True, False] and table.loc[("rules", "test"), "right"].all()
    assert table.loc[("tiny_base", "test", "e2"), "patient_id"] == "pe2" and not table.loc[("tiny_base", "test", "e2"), "headline"]


def test_the_probability_is_of_the_whole_answer(run):
    """exp of the sum where a model wrote token by token; the share among the allowed values where one was chosen; none for rules."""
    table = answers.read_answers(run).groupby(["model", "split"])["probability"].first()
    assert table["tiny_base", "test"] == pytest.approx(math.exp(-0.5)) and table["tiny_base", "dev"] == pytest.approx(math.exp(-1.0))
    assert table["tfidf", "test"] == pytest.approx(0.6) and pd.isna(table["rules", "test"])


def test_variants_and_development_answers_are_not_scored(run):
    assert not any("+" in split for split in answers.read_answers(run)["split"])
    scores = pd.read_csv(run / "results" / "scores.csv")
    assert "dev" not in set(scores["split"])


def test_headlines_count_agreed_items_of_extraction_only():
    table = pd.DataFrame({"task": ["phenotype_extraction", "phenotype_extraction", "icd10_coding"], "headline": [True, False, False]})
    assert answers.counted(table).index.tolist() == [0, 2]


def test_the_systems_that_are_shown():
    pairs = [("majority", "baseline"), ("rules", "baseline"), ("tiny_base", "base"), ("tiny_base", "sft"), ("tiny_base", "cpt-sft"), ("tiny_base", "cpt-sft-cf40"), ("hybrid", "sft"), ("hybrid", "cpt-sft")]
    assert answers.shown_systems(pd.DataFrame(pairs, columns=["model", "stage"])) == [("rules", "baseline"), ("tiny_base", "sft"), ("tiny_base", "cpt-sft"), ("hybrid", "cpt-sft")]
    assert answers.shown_systems(pd.DataFrame([("m", "base")], columns=["model", "stage"])) == [("m", "base")]


def test_a_run_without_scores_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="06_evaluation"):
        answers.read_answers(tmp_path)
