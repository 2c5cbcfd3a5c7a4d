"""Decoding: left padding, batches, the end token, ranking, and a killed run that goes on."""

import copy
import json
import math
import sys
import types
from pathlib import Path

import pandas as pd
import pytest
import torch

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import decoding, generation, models, vllm_backend

LONG_NOTE = "The {side} lung was taken out with number {i}. Margins are clear and nothing else was found."
PROMPTS = [f"Specimen {i}: {'right ' * (i % 5)}lung. " * (1 + i % 4) + "### Response:\n" for i in range(10)]


@pytest.fixture(scope="module")
def tiny(tiny_model_dir):
    """Model and tokenizer with weights large enough that greedy answers are neither all alike nor at a tie."""
    model, tokenizer = models.load_model(tiny_model_dir, "fp32"), models.load_tokenizer(tiny_model_dir)
    torch.manual_seed(1)
    for weight in model.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    return model, tokenizer


def naive_greedy(model, tokenizer, prompt, n):
    """One token at a time, no cache, no padding."""
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    for _ in range(n):
        with torch.no_grad():
            following = model(input_ids=ids, use_cache=False).logits[0, -1].argmax()
        if following == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, following.view(1, 1)], dim=1)
    return tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()


def test_batched_left_padded_answers_equal_those_without_cache_or_padding(tiny):
    answers = generation.generate(*tiny, PROMPTS, max_new_tokens=6, batch_size=4)
    assert [a["prediction"] for a in answers] == [naive_greedy(*tiny, p, 6) for p in PROMPTS]
    assert len({a["prediction"] for a in answers}) > 1  # the test could not fail on one answer for all


def released_loop(model, tokenizer, prompts, n):
    """One prompt at a time through transformers' own generate; the text up to the end token and whether it came."""
    answers = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        ids = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=n, do_sample=False,
                             eos_token_id=tokenizer.eos_token_id)[0, inputs["input_ids"].shape[1] :].tolist()
        ended = tokenizer.eos_token_id in ids
        answers.append((tokenizer.decode(ids[: len(ids) - ended], skip_special_tokens=True).strip(), len(ids), "eos" if ended else "length"))
    return answers


@pytest.fixture(scope="module")
def stopping(tiny):
    """The model with an end token made likely enough that answers end anywhere between the first and the last token, or not at all; and 40 prompts."""
    model = copy.deepcopy(tiny[0])
    head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size, bias=True)
    head.weight.data, head.bias.data = model.lm_head.weight.data.clone(), torch.zeros(model.config.vocab_size)
    head.bias.data[tiny[1].eos_token_id] = 3.5
    model.lm_head = head
    prompts = [f"Read the note.\n\n### Input:\nSpecimen {i}: {'left lung, ' * (i % 7)}{i * i} cm. {'Margins clear. ' * (i % 5)}\n\n### Response:\n" for i in range(40)]
    return model, tiny[1], prompts


def test_answers_equal_those_of_the_one_prompt_loop_also_where_rows_end_early(stopping):
    """Shared beginning, chunks, buffers and rows that leave the batch change no answer."""
    model, tokenizer, prompts = stopping
    expected = released_loop(model, tokenizer, prompts, 8)
    assert {stop for _, _, stop in expected} == {"eos", "length"} and len({n for _, n, _ in expected}) > 4
    for size in (1, 7, 40):
        found = generation.generate(model, tokenizer, prompts, 8, size)
        assert [(a["prediction"], a["new_tokens"], a["stop_reason"]) for a in found] == expected


def test_finished_rows_leave_the_batch(stopping, monkeypatch):
    model, tokenizer, prompts = stopping
    sizes, kept = [], decoding.Shelf.kept
    monkeypatch.setattr(decoding.Shelf, "kept", lambda shelf, rows: sizes.append((len(rows), int(rows.sum()))) or kept(shelf, rows))
    generation.generate(model, tokenizer, prompts, 8, 40)
    assert sizes and all(after <= before / 2 for before, after in sizes)


def test_chunks_do_not_change_answers(tiny, monkeypatch):
    whole = generation.generate(*tiny, PROMPTS, 6, 10)
    monkeypatch.setattr(decoding, "CHUNK_TOKENS", {"cpu": 1, "cuda": 1})
    assert [a["prediction"] for a in generation.generate(*tiny, PROMPTS, 6, 10)] == [a["prediction"] for a in whole]


def test_the_shared_beginning_leaves_every_row_a_token():
    assert decoding.shared_beginning([[1, 2, 3], [1, 2, 4]], 2) == 2
    assert decoding.shared_beginning([[1, 2], [1, 2]], 1) == 1
    assert decoding.shared_beginning([[1, 2], [5, 2]], 1) == 0
    assert decoding.shared_beginning([[1, 2, 3]], 2) == 0


def test_a_sliding_window_shorter_than_the_prompt_keeps_its_reach(tiny):
    """With a window the batch must answer like one prompt without cache or padding; a shared beginning before padding would shift the window."""
    model, tokenizer = tiny
    model.config.sliding_window = 24
    try:
        prompts = ["Read the note. " + p for p in PROMPTS]
        assert max(len(ids) for ids in tokenizer(prompts)["input_ids"]) > 40
        assert [a["prediction"] for a in generation.generate(model, tokenizer, prompts, 6, 10)] == [naive_greedy(model, tokenizer, p, 6) for p in prompts]
    finally:
        model.config.sliding_window = None


def test_a_full_card_is_reported_with_a_smaller_batch_size(tiny, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(generation, "greedy_batch", full)
    with pytest.raises(UserError, match="Set batch_size: 2"):
        generation.answer_batch(*tiny, PROMPTS[:4], [], 3)


def test_right_padding_is_refused(tiny):
    model, tokenizer = tiny
    tokenizer.padding_side = "right"
    try:
        with pytest.raises(AssertionError):
            generation.generate(model, tokenizer, PROMPTS[:2])
    finally:
        tokenizer.padding_side = "left"


def test_decoding_stops_at_the_end_token_and_says_why(tiny_model_dir):
    model, tokenizer = models.load_model(tiny_model_dir, "fp32"), models.load_tokenizer(tiny_model_dir)
    hidden = model.config.hidden_size
    head = torch.nn.Linear(hidden, model.config.vocab_size, bias=True)
    torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
    model.lm_head = head
    head.bias.data[tokenizer.eos_token_id] = 1.0
    assert [(a["stop_reason"], a["new_tokens"], a["prediction"]) for a in generation.generate(model, tokenizer, PROMPTS[:3], 5)] == [("eos", 1, "")] * 3
    head.bias.data[tokenizer.eos_token_id] = -1.0
    head.bias.data[tokenizer.convert_tokens_to_ids("a")] = 1.0
    assert [(a["stop_reason"], a["new_tokens"], a["prediction"]) for a in generation.generate(model, tokenizer, PROMPTS[:3], 5)] == [("length", 5, "aaaaa")] * 3


def test_a_prompt_that_leaves_no_room_is_refused(tiny):
    with pytest.raises(UserError, match="512"):
        generation.generate(*tiny, ["lung " * 600], max_new_tokens=5)


@pytest.mark.parametrize(("chunk", "window"), [(1024, None), (60, None), (1, None), (1024, 24)], ids=["side by side", "some at a time", "one at a time", "sliding window"])
def test_ranking_equals_the_likelihood_of_each_whole_sequence(tiny, monkeypatch, chunk, window):
    model, tokenizer = tiny
    monkeypatch.setattr(decoding, "CHUNK_TOKENS", {"cpu": chunk, "cuda": chunk})
    monkeypatch.setattr(model.config, "sliding_window", window)
    candidates = ["Right", "Left", "not stated", "a tumor of the right lung"]
    answers = generation.rank_answers(model, tokenizer, PROMPTS[:5], candidates, batch_size=5)
    for prompt, answer in zip(PROMPTS[:5], answers, strict=True):
        expected, lengths = [], []
        for candidate in candidates:
            ids = tokenizer(prompt + candidate)["input_ids"] + [tokenizer.eos_token_id]
            n = len(tokenizer(prompt)["input_ids"])
            with torch.no_grad():
                log_probs = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
            expected.append(sum(log_probs[i - 1, ids[i]].item() for i in range(n, len(ids))))
            lengths.append(len(ids) - n)
        assert answer["log_probs"] == pytest.approx(expected, abs=1e-3) and answer["candidate_tokens"] == lengths
        assert answer["prediction"] == candidates[expected.index(max(expected))]


def test_candidates_are_packed_whole_and_in_order():
    tails = [[1] * n for n in (4, 4, 9, 2, 2, 2)]
    assert decoding.packed(tails, 6) == [[0, 1], [2], [3, 4, 5]] and decoding.packed(tails, 1) == [[0], [1], [2], [3], [4], [5]]


def test_fp32_answers_do_not_change_with_the_batch_size(tiny):
    table = generation.batch_agreement(*tiny, PROMPTS, batch_sizes=[3, 10], max_new_tokens=4)
    assert table["batch_size"].tolist() == [1, 3, 10] and table["changed"].tolist() == [0, 0, 0] and set(table["n"]) == {10}


def test_batches_are_fixed_by_length_whatever_the_order(tiny):
    tokenizer = tiny[1]
    batches = generation.length_batches(PROMPTS, tokenizer, 3)
    assert sorted(i for batch in batches for i in batch) == list(range(10)) and [len(b) for b in batches] == [3, 3, 3, 1]
    lengths = [len(tokenizer(PROMPTS[i])["input_ids"]) for batch in batches for i in batch]
    assert lengths == sorted(lengths, reverse=True)
    backwards = generation.length_batches(PROMPTS[::-1], tokenizer, 3)
    assert [[PROMPTS[i] for i in b] for b in batches] == [[PROMPTS[::-1][i] for i in b] for b in backwards]


def test_bf16_on_a_cpu_is_autocast_and_only_where_it_was_asked_for(tiny_model_dir):
    model, tokenizer = models.load_model(tiny_model_dir, "bf16"), models.load_tokenizer(tiny_model_dir)
    if model.device.type != "cpu":
        pytest.skip("there is a CUDA card")
    with decoding.arithmetic(model):
        assert model(**tokenizer("Right lung", return_tensors="pt")).logits.dtype == torch.bfloat16
    with decoding.arithmetic(models.load_model(tiny_model_dir, "fp32")):
        assert model(**tokenizer("Right lung", return_tensors="pt")).logits.dtype == torch.float32


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


def summed_log_prob(model, tokenizer, prompt: str, answer: str) -> tuple[float, int]:
    """Log-probability of an answer and the end token after a prompt, by one plain reading of the whole, and the number of its tokens."""
    ids, n = tokenizer(prompt + answer)["input_ids"] + [tokenizer.eos_token_id], len(tokenizer(prompt)["input_ids"])
    with torch.no_grad():
        log_probs = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
    return sum(log_probs[i - 1, ids[i]].item() for i in range(n, len(ids))), len(ids) - n


def naive_log_probs(model, tokenizer, prompt: str, n: int) -> list[float]:
    """Log-probability of each token of the greedy answer, the end token included, one token at a time without cache or padding."""
    ids, found = tokenizer(prompt, return_tensors="pt")["input_ids"], []
    while len(found) < n and (not found or ids[0, -1] != tokenizer.eos_token_id):
        with torch.no_grad():
            log_probs = model(input_ids=ids, use_cache=False).logits[0, -1].log_softmax(-1)
        found.append(log_probs.max().item())
        ids = torch.cat([ids, log_probs.argmax().view(1, 1)], dim=1)
    return found


def test_confidence_is_that_of_the_whole_sequence_whatever_the_batch(stopping):
    """logprob against one plain reading, confidence as the geometric mean of the tokens' probabilities; in batches as one by one."""
    model, tokenizer, prompts = stopping
    alone, together = (generation.generate(model, tokenizer, prompts, 8, size) for size in (1, 40))
    assert [a["confidence"] for a in together] == pytest.approx([a["confidence"] for a in alone], abs=1e-4)
    assert [a["logprob"] for a in together] == pytest.approx([a["logprob"] for a in alone], abs=1e-4)
    for prompt, answer in list(zip(prompts, together, strict=True))[:12]:
        expected = naive_log_probs(model, tokenizer, prompt, 8)
        assert answer["new_tokens"] == len(expected) and answer["logprob"] == pytest.approx(sum(expected), abs=1e-3)
        assert answer["confidence"] == pytest.approx(math.exp(sum(expected) / len(expected)), abs=1e-4)
    assert len({a["confidence"] for a in together}) > 10


def test_a_ranked_answers_confidence_is_its_share_of_the_likelihood(tiny):
    for answer in generation.rank_answers(*tiny, PROMPTS[:4], ["Right", "Left", "not stated"], batch_size=4):
        shares = torch.tensor(answer["log_probs"]).softmax(0)
        assert answer["confidence"] == pytest.approx(shares.max().item(), abs=1e-5) and answer["logprob"] == pytest.approx(max(answer["log_probs"]), abs=1e-5)


def test_the_likelihood_of_given_answers_is_that_of_each_sequence_alone(tiny):
    answers = ["Right", "not stated", "a tumor of the right lung", "Left"]
    found = decoding.answer_log_probs(*tiny, PROMPTS[:4], answers)
    assert found == pytest.approx([summed_log_prob(*tiny, prompt, answer)[0] for prompt, answer in zip(PROMPTS[:4], answers, strict=True)], abs=1e-3)


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
