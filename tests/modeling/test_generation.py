"""Files of answers: a killed run that goes on, what is kept and what is answered again, vLLM in place of transformers."""

import copy
import json
import sys
import types
from pathlib import Path

import pandas as pd
import pytest
import torch

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import decoding, generation, models, vllm_backend
from tests.modeling.test_decoding import PROMPTS, summed_log_prob

LONG_NOTE = "The {side} lung was taken out with number {i}. Margins are clear and nothing else was found."


class Killed(Exception):
    pass


def predict(tiny, run: Path, name: str, after_batch=None, **settings) -> dict:
    return generation.predict_file(*tiny, run / "datasets" / "phenotype_extraction" / "train.jsonl", run / name, settings.pop("identity", "m1"),
                                   {"laterality": ["Right", "Left"]}, max_new_tokens=3, batch_size=5, after_batch=after_batch, **settings)


def stop_after(n: int):
    def after_batch(done: int) -> None:
        if done == n:
            raise Killed

    return after_batch


def without_seconds(path: Path) -> list[dict]:
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


def test_a_killed_prediction_goes_on_and_equals_one_that_was_not(tiny, tiny_run):
    whole = predict(tiny, tiny_run, "whole.jsonl")
    with pytest.raises(Killed):
        predict(tiny, tiny_run, "torn.jsonl", stop_after(2))
    assert not (tiny_run / "torn.jsonl").exists()
    with open(tiny_run / "torn.jsonl.partial", "a") as stream:
        stream.write('{"example_id": "e1", "predic')  # the crash came in the middle of a write
    batches = []
    resumed = predict(tiny, tiny_run, "torn.jsonl", batches.append)
    assert without_seconds(tiny_run / "torn.jsonl") == without_seconds(tiny_run / "whole.jsonl")
    assert resumed["n"] == whole["n"] == 24 and not (tiny_run / "torn.jsonl.partial").exists() and batches == [1, 2, 3, 4, 5]


def test_a_quote_behind_the_answer_is_kept_and_not_parsed():
    example = {"example_id": "e", "task": "phenotype_extraction", "field": "laterality", "answers": ["Left"]}
    answer = {"prediction": 'left | "the left breast"', "new_tokens": 9, "stop_reason": "eos", "seconds": 0.1}
    row = generation.finished_row(example, answer, {"laterality": ["Right", "Left", "not stated"]})
    assert row["parsed"] == "Left" and row["prediction"] == answer["prediction"] and "confidence" not in row


def test_development_answers_lie_apart_and_carry_the_sentences_they_rest_on(tiny, tiny_run, tiny_model_dir, monkeypatch):
    """They stand in a folder that no score reads; what an answer loses without each sentence is measured for those that give a value."""
    notes = pd.DataFrame({"note_id": [f"n{i}" for i in range(40)], "text": [LONG_NOTE.format(side=("right", "left")[i % 2], i=i) for i in range(40)]})
    notes.to_parquet(tiny_run / "corpus" / "notes.parquet")
    pd.DataFrame({"note_id": ["n31"], "field": ["laterality"], "quote_start": [0], "quote_end": [9]}).to_parquet(tiny_run / "corpus" / "labels.parquet")
    path = tiny_run / "datasets" / "phenotype_extraction" / "dev.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row | {"prompt": f"### Input:\nIn the text: {notes['text'][int(row['note_id'][1:])]} What is the laterality?\n\n### Response:\n"} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tiny_run / "datasets" / "settings.json").write_text(json.dumps({"values": {"laterality": ["Right", "Left"]}}))
    monkeypatch.setattr(generation, "load_network", lambda *_: (*tiny, "identity"))
    table = generation.predict_stage(tiny_run, tiny_model_dir, "sft", ["phenotype_extraction"], [], "rank", 3, answer_dev=True, evidence_items=5)
    assert table.empty, "a development answer is no test answer"
    (folder,) = tiny_run.glob("predictions/*/sft/dev")
    assert not list(tiny_run.glob("predictions/*/*/*.jsonl"))
    answers = [json.loads(line) for line in (folder / "phenotype_extraction.dev.jsonl").read_text().splitlines()]
    measured = [json.loads(line) for line in (folder / "phenotype_extraction.left_out.jsonl").read_text().splitlines()]
    assert len(answers) == 8 and len(measured) == min(5, sum(a["parsed"] in ("Right", "Left") for a in answers)) > 0
    by_id = {row["example_id"]: row for row in rows}
    for found in measured:
        text = notes["text"][int(by_id[found["example_id"]]["note_id"][1:])]
        assert len(found["units"]) == len(found["drops"]) == 2 and " ".join(text[start:end] for start, end in found["units"]) == text
        answer = next(a["prediction"] for a in answers if a["example_id"] == found["example_id"])
        prompt = by_id[found["example_id"]]["prompt"]
        first = text[slice(*found["units"][0])]
        drop = summed_log_prob(*tiny, prompt, answer)[0] - summed_log_prob(*tiny, prompt.replace(first + " ", ""), answer)[0]
        assert found["drops"][0] == pytest.approx(drop, abs=1e-3)


def test_rows_are_the_contract_in_the_files_order(tiny, tiny_run):
    outcome = predict(tiny, tiny_run, "out.jsonl")
    rows = [json.loads(line) for line in (tiny_run / "out.jsonl").read_text().splitlines()]
    assert [row["example_id"] for row in rows] == [f"e{i}" for i in range(24)]
    assert set(rows[0]) == {"example_id", "prediction", "answers", "parsed", "new_tokens", "stop_reason", "seconds", "logprob", "confidence"}
    assert outcome["unparsed"] == sum(row["parsed"] == "unparsed" for row in rows)


def test_a_partial_of_another_model_is_not_continued(tiny, tiny_run, capsys):
    with pytest.raises(Killed):
        predict(tiny, tiny_run, "out.jsonl", stop_after(2), identity="another model")
    predict(tiny, tiny_run, "out.jsonl")
    assert "starting afresh" in capsys.readouterr().out


def test_finished_files_are_kept_until_something_changes(tiny, tiny_run):
    predict(tiny, tiny_run, "out.jsonl")
    batches = []
    predict(tiny, tiny_run, "out.jsonl", batches.append)
    assert batches == []
    predict(tiny, tiny_run, "out.jsonl", batches.append, decoding="rank")
    assert len(batches) == 5
    assert {json.loads(line)["prediction"] for line in (tiny_run / "out.jsonl").read_text().splitlines()} <= {"Right", "Left"}


def test_4_bit_weights_reach_the_loading_and_the_identity_of_the_answers(tiny_run, tiny_model_dir, monkeypatch):
    """A model of 70B answers on one card of 80 GB in 4 bits only; its answers are not those of the same weights in bf16."""
    asked, load_model = [], models.load_model
    monkeypatch.setattr(models, "load_model", lambda name, precision, four_bit: asked.append(four_bit) or load_model(name, precision))
    identities = [generation.load_network(tiny_run, tiny_model_dir, "base", "fp32", load_in_4bit=four_bit)[2] for four_bit in (False, True)]
    assert asked == [False, True] and identities[1] == f"{identities[0]} nf4"
    monkeypatch.setattr(models, "load_stage", lambda folder, precision, four_bit: asked.append(four_bit) or (None, None, {"base_revision": "r", "adapters_before": [], "adapter_sha256": "a"}))
    assert generation.load_network(tiny_run, tiny_model_dir, "sft", "fp32", load_in_4bit=True)[2] == "r a nf4" and asked[-1] is True
    with pytest.raises(UserError, match="load_in_4bit"):
        generation.predict_stage(tiny_run, tiny_model_dir, "base", [], [], backend="vllm", load_in_4bit=True)


def test_examples_are_answered_as_in_a_file(tiny, tiny_run):
    predict(tiny, tiny_run, "out.jsonl", decoding="rank")
    rows = [json.loads(line) for line in (tiny_run / "out.jsonl").read_text().splitlines()]
    examples = [json.loads(line) for line in (tiny_run / "datasets" / "phenotype_extraction" / "train.jsonl").read_text().splitlines()]
    answers = generation.answer_examples(*tiny, examples, {"laterality": ["Right", "Left"]}, "rank", batch_size=5)
    assert [answer["prediction"] for answer in answers] == [row["prediction"] for row in rows]


def test_unknown_decoding_is_refused(tiny, tiny_run):
    with pytest.raises(UserError, match="greedy or rank"):
        predict(tiny, tiny_run, "out.jsonl", decoding="beam")


@pytest.fixture
def fake_vllm(tiny, monkeypatch):
    """A module with the two classes of vLLM that are used, answering with this project's own model; what it was called with is kept."""
    model = tiny[0]
    calls = []

    class SamplingParams:
        def __init__(self, temperature, max_tokens, stop_token_ids):
            assert temperature == 0.0
            self.max_tokens, self.stop = max_tokens, stop_token_ids

    class LLM:
        def __init__(self, **settings):
            calls.append(settings)

        def generate(self, prompts, params, use_tqdm):
            outputs = []
            for prompt in prompts:
                ids = torch.tensor([prompt["prompt_token_ids"]])
                new = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=params.max_tokens, do_sample=False, eos_token_id=params.stop)[0, ids.shape[1] :].tolist()
                reason = "stop" if new[-1] in params.stop else "length"
                outputs.append(types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=tuple(new), finish_reason=reason)]))
            return outputs

    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=LLM, SamplingParams=SamplingParams))
    monkeypatch.setattr(generation, "version", lambda name: "0.0")
    return calls


def test_vllm_gives_the_same_rows(tiny, tiny_run, tiny_model_dir, fake_vllm):
    engine = vllm_backend.load({"source": tiny_model_dir}, None, tiny[1], "fp32", tiny_run / "cache")
    assert fake_vllm[0]["dtype"] == "float32" and fake_vllm[0]["trust_remote_code"] is False and engine.limit == 512
    predict(tiny, tiny_run, "ours.jsonl")
    predict((engine, tiny[1]), tiny_run, "theirs.jsonl", backend="vllm")
    ours = [{k: v for k, v in row.items() if k not in generation.SURENESS} for row in without_seconds(tiny_run / "ours.jsonl")]
    assert without_seconds(tiny_run / "theirs.jsonl") == ours, "vLLM's rows are the same without confidence"
    settings = json.loads((tiny_run / "theirs.run.json").read_text())["settings"]
    assert settings["backend"] == "vllm" and "backend" not in json.loads((tiny_run / "ours.run.json").read_text())["settings"]


def test_vllm_reads_a_tuned_stage_merged_and_leaves_no_copy(tiny, tmp_path, fake_vllm):
    network = copy.deepcopy(tiny[0])
    vllm_backend.load({"source": "not used"}, network, tiny[1], "auto", tmp_path / "cache" / "merged")
    assert fake_vllm[0]["model"] == str(tmp_path / "cache" / "merged") and not (tmp_path / "cache" / "merged").exists()
    assert next(network.parameters()).device.type == "meta"


def test_vllm_says_when_a_prompt_leaves_no_room(tiny, tmp_path, tiny_model_dir, fake_vllm):
    engine = vllm_backend.load({"source": tiny_model_dir}, None, tiny[1], "fp32", tmp_path)
    with pytest.raises(UserError, match="Lower context_tokens"):
        vllm_backend.answer_batch(engine, tiny[1], ["lung " * 600], [], 5)


def test_what_vllm_cannot_do_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it fails as where it is not installed
    with pytest.raises(UserError, match="pip install vllm"):
        generation.predict_stage(tmp_path, "tiny_base", "base", [], [], backend="vllm")
    with pytest.raises(UserError, match="decoding rank"):
        generation.predict_stage(tmp_path, "tiny_base", "base", [], [], decoding="rank", backend="vllm")
    with pytest.raises(UserError, match="transformers or vllm"):
        generation.predict_stage(tmp_path, "tiny_base", "base", [], [], backend="llama.cpp")


def test_a_models_own_chat_form_reaches_the_model(tiny, tiny_run, monkeypatch):
    """models.yaml may ask for the tokenizer's chat template: then the batch holds prompts in that form and the rows stay the same."""
    model, tokenizer = tiny
    seen = []
    monkeypatch.setattr(generation, "model_prompt", lambda prompt, tokenizer: "asked: " + prompt)
    monkeypatch.setattr(generation, "greedy_batch", lambda m, t, prompts, n: seen.extend(prompts) or decoding.greedy_batch(m, t, prompts, n))
    predict(tiny, tiny_run, "out.jsonl")
    generation.generate(model, tokenizer, PROMPTS[:2], 2)
    assert len(seen) == 26 and all(prompt.startswith("asked: ") for prompt in seen)


def test_memory_and_energy_of_a_file_are_written_beside_it(tiny, tiny_run, monkeypatch):
    class Meter:
        def __enter__(self):
            return {"kwh": 0.25}

        def __exit__(self, *_):
            return False

    monkeypatch.setattr(generation, "measured_energy", Meter)
    outcome = predict(tiny, tiny_run, "out.jsonl", energy=True)
    assert outcome["energy_kwh"] == 0.25 and outcome["peak_memory_gib"] > 0.05 and outcome["memory_of"] in ("whole process", "tensors on the card")
    assert json.loads((tiny_run / "out.run.json").read_text())["outcome"] == outcome
    with pytest.raises(Killed):
        predict(tiny, tiny_run, "torn.jsonl", stop_after(2))
    assert predict(tiny, tiny_run, "torn.jsonl", energy=True)["energy_kwh"] is None  # of a part only: no number rather than a wrong one
    assert predict(tiny, tiny_run, "plain.jsonl")["energy_kwh"] is None
