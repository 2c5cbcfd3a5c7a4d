"""Constrained decoding: corrections by hand, the choice on development patients, and answers that follow from it."""

import json

import numpy as np
import pandas as pd
import pytest

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import constrained, generation, models

SIDES = ["Right", "Left"]


def ranked(*log_probs, tokens=(1, 2)):
    return [{"prediction": SIDES[int(np.argmax(row))], "new_tokens": 0, "log_probs": list(row), "candidate_tokens": list(tokens)} for row in log_probs]


def example(i, answer, patient=None):
    return {"example_id": f"e{i}", "patient_id": patient or f"p{i}", "field": "laterality", "answers": [answer]}


def test_corrections_by_hand():
    answer = ranked((-2.0, -3.0))[0]
    assert answer["prediction"] == "Right"
    pick = [constrained.corrected(answer, SIDES, {"prior": prior, "length": length}) for prior, length in (([0, 0], 0), ([0, 0], 1), ([-1.0, -4.0], 0), ([-1.0, -1.5], 1))]
    # -2 > -3; -2/1 < -3/2; -1 < 1; -1/1 < -1.5/2
    assert [p["prediction"] for p in pick] == ["Right", "Left", "Left", "Left"] and [p["new_tokens"] for p in pick] == [1, 2, 2, 2]
    assert constrained.corrected(answer, SIDES, None) is answer


def test_priors_by_hand():
    examples = [example(0, "Right"), example(1, "Left")]
    notes, empty = ranked(np.log([0.2, 0.2]), np.log([0.6, 0.2])), ranked(np.log([0.5, 0.1]), np.log([0.3, 0.3]))
    found = constrained.priors(examples, notes, [{"field": "laterality"}] * 2, empty)["laterality"]
    assert found["nothing"] == [0.0, 0.0]
    assert np.exp(found["empty text"]) == pytest.approx([0.4, 0.2]), "mean probability after the two empty texts"
    assert np.exp(found["mean answer"]) == pytest.approx([(0.5 + 0.75) / 2, (0.5 + 0.25) / 2]), "mean share of each value over the notes"


def study_of(log_probs, gold, greedy, empty=((-1.0, -1.0),)):
    examples = [example(i, answer) for i, answer in enumerate(gold)]
    return constrained.study("phenotype_extraction", examples, {"laterality": SIDES}, [{"prediction": text} for text in greedy], ranked(*log_probs),
                             [{"field": "laterality"}] * len(empty), ranked(*empty), n_resamples=200)


def test_a_model_that_prefers_one_value_is_set_right_by_its_mean_answer():
    """Right is always likelier, by more where it is true: only what the model says on average brings Left back."""
    gold = SIDES * 20
    table, corrections = study_of([(-1.0, -4.0) if side == "Right" else (-1.0, -2.0) for side in gold], gold, ["somewhere"] * 40, [(-2.0, -2.0)])
    rows = table.set_index("decoding")
    assert rows.loc["greedy", ["value_accuracy", "unparsed"]].tolist() == [0.0, 40]
    assert rows.loc[["prior", "prior and length"], "value_accuracy"].tolist() == [50.0, 50.0]
    assert rows.loc["likelihood", "value_accuracy"] == 50.0 and rows.loc["mean answer", "value_accuracy"] == 100.0
    assert corrections["laterality"]["name"] == "mean answer" and rows.loc["constrained", "value_accuracy"] == 100.0
    assert rows["chosen"].sum() == 1 and rows.loc["mean answer", "chosen"] and (rows["n"] == 40).all() and (rows["patients"] == 40).all()
    assert "better than greedy" in constrained.sentences(table.assign(model="m", stage="sft", task="t"))[0]


def test_of_equal_corrections_the_simplest_is_chosen():
    table, corrections = study_of([(-1.0, -9.0)] * 10, ["Right"] * 10, ["Right"] * 10)
    assert corrections["laterality"] == {"name": "likelihood", "prior": [0.0, 0.0], "length": 0.0}
    assert table.set_index("decoding").loc["constrained", ["difference", "difference_low", "difference_high"]].tolist() == [0.0, 0.0, 0.0]


def test_the_row_of_the_choice_does_not_flatter_itself():
    """On noise the best of five corrections looks better than it is; chosen on other patients it does not."""
    rng, inner, outer = np.random.default_rng(0), [], []
    for _ in range(30):
        gold = rng.choice(SIDES, 60).tolist()
        table, _ = study_of(rng.normal(-2, 1, (60, 2)), gold, ["Right"] * 60, [tuple(rng.normal(-2, 1, 2))])
        inner.append(table.loc[table["chosen"], "value_accuracy"].iloc[0])
        outer.append(table.loc[table["decoding"] == "constrained", "value_accuracy"].iloc[0])
    assert np.mean(inner) > 52 and np.mean(outer) < np.mean(inner) - 2 and abs(np.mean(outer) - 50) < 2.5


def test_the_questions_are_the_same_for_every_model_and_of_closed_fields_only():
    examples = [{"example_id": str(i), "field": ("laterality", "tumor_size")[i % 2]} for i in range(40)]
    chosen = constrained.sampled(examples, {"laterality": SIDES, "tumor_size": []}, 5, 0)
    assert len(chosen) == 5 and {e["field"] for e in chosen} == {"laterality"}
    assert constrained.sampled(examples[::-1], {"laterality": SIDES}, 5, 0) == chosen != constrained.sampled(examples, {"laterality": SIDES}, 5, 1)


@pytest.fixture
def closed_run(tiny_run):
    (tiny_run / "datasets" / "settings.json").write_text(json.dumps({"values": {"laterality": SIDES}}))
    return tiny_run


def test_a_stage_answers_constrained_and_leaves_the_gain(closed_run, tiny_model_dir, monkeypatch):
    def answer(**settings):
        return generation.predict_stage(closed_run, tiny_model_dir, "base", ["phenotype_extraction"], ["dev"], max_new_tokens=3, precision="fp32", **settings)

    answer(decoding="constrained", decoding_items=8)
    name = models.model_entry(tiny_model_dir)["name"]
    file = closed_run / "predictions" / name / "base" / "phenotype_extraction.dev.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 8 and {row["prediction"] for row in rows} <= {*SIDES, "not stated"} and {row["stop_reason"] for row in rows} == {""}
    settings = json.loads(file.with_suffix(".run.json").read_text())["settings"]
    assert settings["corrections"]["laterality"]["name"] in constrained.CORRECTIONS and settings["prompt_form"] == "alpaca"
    table = pd.read_csv(closed_run / "results" / "constrained.csv")
    assert table["decoding"].tolist() == ["greedy", *constrained.CORRECTIONS, "constrained"] and set(table["stage"]) == {"base"}
    monkeypatch.setattr(constrained, "study", None)  # kept: not made twice
    answer(decoding_items=8)
    assert len(pd.read_csv(closed_run / "results" / "constrained.csv")) == len(table)
    with pytest.raises(UserError, match="decoding_items"):
        answer(decoding="constrained")


def test_another_prompt_form_is_another_prediction(closed_run, tiny_model_dir):
    """models.yaml may turn a model from the Alpaca to the chat form: kept answers would then be those to other prompts."""
    network, tokenizer = models.load_model(tiny_model_dir, "fp32"), models.load_tokenizer(tiny_model_dir)
    tokenizer.chat_template = "{{ messages[0]['content'] }} [/INST]"
    answered = []
    for form in ("alpaca", "alpaca", "chat"):
        tokenizer.init_kwargs["prompt_form"] = form
        path = closed_run / "datasets" / "phenotype_extraction" / "dev.jsonl"
        if form == "chat":
            from cancerllm_utils.tasks.task import alpaca_prompt

            rows = [json.loads(line) | {"prompt": alpaca_prompt("Answer.", "Right lung.")} for line in path.read_text().splitlines()]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        generation.predict_file(network, tokenizer, path, closed_run / "out.jsonl", "m", {"laterality": SIDES}, max_new_tokens=2, after_batch=answered.append)
    assert answered == [1, 1]
    assert json.loads((closed_run / "out.run.json").read_text())["settings"]["prompt_form"] == "chat"
