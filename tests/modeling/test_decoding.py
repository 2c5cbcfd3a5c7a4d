"""Decoding: left padding, batches, the end token, ranking, and how sure an answer is."""

import copy
import math

import pytest
import torch

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import decoding, generation, models

PROMPTS = [f"Specimen {i}: {'right ' * (i % 5)}lung. " * (1 + i % 4) + "### Response:\n" for i in range(10)]


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
