"""One batch of prompts through a model: read once, then decoded greedily or ranked on the shared key-value cache.

What every prompt of a batch begins with (the preamble and the instruction, a third of a prompt of the embedded model) is read once; finished answers
leave the batch; keys and values lie in buffers with room for the answer. None of it changes an answer in fp32, and all of it follows from the batch's
own prompts alone, so that a resumed run, which meets the same batches, meets the same arithmetic. tests/bench/bench_generation.py measures the gain.
"""

import contextlib
import math
import time

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from cancerllm_utils.errors import UserError

# Prompt tokens that go through the model together: on a processor as many as its cache holds between two layers (more were no faster), on a card enough to fill it.
CHUNK_TOKENS = {"cpu": 1024, "cuda": 16384}


class Shelf(DynamicLayer):
    """One layer's keys and values in buffers [batch, heads, columns, size] of which `used` columns are filled; a new token is written in its place.

    transformers' growing cache copies every key and value for every token: of a decoding step on a processor that was 42 %.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, used: int):
        super().__init__()
        self.buffers, self.dtype, self.device, self.is_initialized = (keys, values), keys.dtype, keys.device, True
        self.show(used)

    def show(self, used: int) -> None:
        """Let the first `used` columns be the cache."""
        self.keys, self.values = (buffer[:, :, :used] for buffer in self.buffers)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new columns behind the filled ones; returns all filled columns."""
        used = self.keys.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, used : used + states.shape[-2]] = states
        self.show(used + key_states.shape[-2])
        return self.keys, self.values

    def kept(self, rows: torch.Tensor) -> "Shelf":
        """A shelf of the given rows only."""
        return Shelf(*(buffer[rows] for buffer in self.buffers), self.keys.shape[-2])


def arithmetic(model):
    """bf16 autocast for a model that was loaded so on a CPU, nothing elsewhere (on a card the weights themselves are bf16)."""
    return torch.autocast("cpu", torch.bfloat16) if model.device.type == "cpu" and model.precision == "bf16" else contextlib.nullcontext()


def shared_beginning(token_rows: list[list[int]], most: int) -> int:
    """How many first tokens all rows have in common, at most `most`; 0 for a single row, which shares with nobody."""
    if len(token_rows) < 2:
        return 0
    first = token_rows[0]
    return next((i for i in range(most) if any(row[i] != first[i] for row in token_rows)), most)


def token_rows(model, tokenizer, prompts: list[str], room: int) -> list[list[int]]:
    """The prompts' tokens; UserError if one leaves no room for `room` more."""
    assert tokenizer.padding_side == "left" and tokenizer.pad_token_id != tokenizer.eos_token_id
    rows = tokenizer(prompts)["input_ids"]
    longest, limit = max(map(len, rows)), model.config.max_position_embeddings
    if longest + room > limit:
        raise UserError(f"a prompt of {longest} tokens and {room} for the answer: the model reads {limit}. Lower context_tokens.")
    return rows


def read_prompts(model, tokenizer, rows: list[list[int]], room: int) -> dict:
    """Run a batch of prompts (their tokens) through the model, in chunks, with `room` free columns behind them.

    Columns of the cache: the shared beginning, then padding, then the rest of each prompt, so that all prompts end in the same column (on the right the
    padding would stand between a prompt and its answer). Returns cache, mask [batch, columns + room], lengths [batch, 1] (tokens of each prompt),
    columns (filled ones) and logits [batch, vocabulary] of each prompt's last token.
    """
    device, pad = model.device, tokenizer.pad_token_id
    lengths = torch.tensor([[len(row)] for row in rows], device=device)
    columns = int(lengths.max())
    window = model.config.get_text_config().to_dict().get("sliding_window")
    # a window counts columns: with padding between the shared beginning and the rest it would reach less far back than it should
    shared = 0 if window and columns + room > window else shared_beginning(rows, min(map(len, rows)) - 1)
    mask = torch.zeros(len(rows), columns + room, dtype=torch.long, device=device)
    mask[:, :shared], mask[:, columns:] = 1, 1
    beginning = DynamicCache()
    if shared:
        model(input_ids=torch.tensor([rows[0][:shared]], device=device), past_key_values=beginning, use_cache=True, logits_to_keep=1)
    buffers, logits = [], []
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    while order:
        width = len(rows[order[0]]) - shared
        size = max(1, CHUNK_TOKENS[device.type] // width)
        chunk, order = order[:size], order[size:]
        ids = torch.tensor([[pad] * (width - len(rows[i]) + shared) + rows[i][shared:] for i in chunk], device=device)
        real = torch.tensor([[0] * (width - len(rows[i]) + shared) + [1] * (len(rows[i]) - shared) for i in chunk], device=device)
        cache = DynamicCache()
        for number, layer in enumerate(beginning.layers):
            cache.update(layer.keys.expand(len(chunk), -1, -1, -1), layer.values.expand(len(chunk), -1, -1, -1), number)
        out = model(input_ids=ids, attention_mask=torch.cat([real.new_ones(len(chunk), shared), real], 1), past_key_values=cache, use_cache=True,
                    position_ids=(real.cumsum(1) - 1).clamp(min=0) + shared, logits_to_keep=1)
        if not buffers:
            buffers = [[x.new_zeros(len(rows), x.shape[1], columns + room, x.shape[3]) for x in (layer.keys, layer.values)] for layer in cache.layers]
        for pair, layer in zip(buffers, cache.layers, strict=True):
            for buffer, states in zip(pair, (layer.keys, layer.values), strict=True):
                buffer[chunk, :, :shared], buffer[chunk, :, columns - width : columns] = states[:, :, :shared], states[:, :, shared:]
        mask[chunk, columns - width : columns] = real
        logits.append((chunk, out.logits[:, -1]))
    last = torch.empty(len(rows), logits[0][1].shape[1], dtype=logits[0][1].dtype, device=device)
    for chunk, values in logits:
        last[chunk] = values
    return {"cache": Cache(layers=[Shelf(*pair, columns) for pair in buffers]), "mask": mask, "lengths": lengths, "columns": columns, "logits": last}


def likeliest(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest token of each row and its log-probability in nats, in fp32; logits: [batch, vocabulary]."""
    token, logits = logits.argmax(-1), logits.float()
    return token, logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(-1)


@torch.inference_mode()
def greedy(model, tokenizer, rows: list[list[int]], max_new_tokens: int) -> tuple[list[list[int]], list[list[float]]]:
    """The likeliest continuation of each row of tokens, `max_new_tokens` tokens each, and each token's log-probability in nats; from the end token on
    only end tokens, with 0.0."""
    end = tokenizer.eos_token_id
    with arithmetic(model):
        read = read_prompts(model, tokenizer, rows, max_new_tokens)
        cache, mask, lengths = read["cache"], read["mask"], read["lengths"]
        token, log_prob = likeliest(read["logits"])
        tokens, alive = torch.full((len(rows), max_new_tokens), end, device=model.device), torch.arange(len(rows), device=model.device)
        log_probs = torch.zeros(len(rows), max_new_tokens, device=model.device)
        for step in range(max_new_tokens):
            tokens[alive, step], log_probs[alive, step] = token, log_prob
            going = token != end
            left = int(going.sum())
            if not left or step + 1 == max_new_tokens:
                break
            if left <= len(going) / 2:  # the finished half leaves; one by one the copies would cost more than they save
                cache = Cache(layers=[layer.kept(going) for layer in cache.layers])
                alive, mask, lengths, token, going = alive[going], mask[going], lengths[going], token[going], going[going]
            out = model(input_ids=token[:, None], attention_mask=mask[:, : read["columns"] + step + 1], position_ids=lengths + step, past_key_values=cache,
                        use_cache=True)
            token, log_prob = likeliest(out.logits[:, -1])
            token, log_prob = torch.where(going, token, end), torch.where(going, log_prob, 0.0)
    return tokens.tolist(), log_probs.tolist()


def greedy_tokens(model, tokenizer, rows: list[list[int]], max_new_tokens: int) -> list[list[int]]:
    """The tokens of `greedy` alone."""
    return greedy(model, tokenizer, rows, max_new_tokens)[0]


def sureness(log_prob: float, tokens: int) -> dict:
    """What an answer's row says of how sure the model was: logprob (its sum over the answer's tokens, in nats) and confidence (exp of their mean, 0 to 1)."""
    return {"logprob": round(log_prob, 6), "confidence": round(math.exp(log_prob / tokens), 6)}


def greedy_batch(model, tokenizer, prompts: list[str], max_new_tokens: int) -> list[dict]:
    """Greedy answers of one batch: prediction, new_tokens (end token included), stop_reason (eos|length), logprob and confidence (`sureness`, end token
    included), seconds (the batch's, shared out)."""
    begun, end, answers = time.monotonic(), tokenizer.eos_token_id, []
    for ids, log_probs in zip(*greedy(model, tokenizer, token_rows(model, tokenizer, prompts, max_new_tokens), max_new_tokens), strict=True):
        ended = end in ids
        ids = ids[: ids.index(end)] if ended else ids
        answers.append({"prediction": tokenizer.decode(ids, skip_special_tokens=True).strip(), "new_tokens": len(ids) + ended,
                        "stop_reason": "eos" if ended else "length", **sureness(sum(log_probs[: len(ids) + ended]), len(ids) + ended)})
    seconds = round((time.monotonic() - begun) / len(prompts), 5)
    return [{**answer, "seconds": seconds} for answer in answers]


def candidate_tokens(tokenizer, prompt: str, candidate: str) -> list[int]:
    """Tokens that `candidate` adds to `prompt`, as in training: the whole is tokenised as one string and ends with the end token."""
    before, whole = tokenizer(prompt)["input_ids"], tokenizer(prompt + candidate)["input_ids"]
    assert whole[: len(before)] == before, "the prompt's tokens are not a prefix of prompt + answer"
    return whole[len(before) :] + [tokenizer.eos_token_id]


def packed(tails: list[list[int]], room: int) -> list[list[int]]:
    """Numbers of the candidates that go through the model together, side by side behind every prompt: up to `room` tokens, at least one candidate."""
    groups, used = [], 0
    for number, tail in enumerate(tails):
        used += len(tail) - 1
        if not groups or used > room:
            groups.append([])
            used = len(tail) - 1
        groups[-1].append(number)
    return groups


def side_by_side(mask: torch.Tensor, tails: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """For candidates in one row: (who may look at whom [batch, 1, tokens, columns + tokens], steps after the prompt [tokens]).

    mask: [batch, columns] of the prompts. Every candidate sees the prompt and its own tokens up to each of them, and no other candidate.
    """
    lengths = torch.tensor([len(tail) - 1 for tail in tails], device=mask.device)
    of = torch.repeat_interleave(torch.arange(len(tails), device=mask.device), lengths)
    steps = torch.cat([torch.arange(len(tail) - 1, device=mask.device) for tail in tails])
    own = (of[:, None] == of) & (steps[:, None] >= steps)
    batch = mask.bool()[:, None, None, :].expand(-1, 1, len(of), -1)
    return torch.cat([batch, own.expand(len(mask), 1, -1, -1)], -1), steps


@torch.inference_mode()
def rank_batch(model, tokenizer, prompts: list[str], candidates: list[str]) -> list[dict]:
    """The likeliest of `candidates` after each prompt of one batch, by summed log-probability of its tokens and the end token.

    The prompts run through the model once; the candidates are scored on their shared key-value cache, several at a time. Returns prediction, new_tokens
    (tokens of that candidate), stop_reason "" (nothing was generated), seconds, logprob (of that candidate), confidence (its share of the candidates'
    likelihood), log_probs (one per candidate, in nats), candidate_tokens (end token included).
    """
    begun = time.monotonic()
    # "### Response:\n" closes every prompt, so the candidates' tokens are the same after each of them
    tails = [candidate_tokens(tokenizer, prompts[0], candidate) for candidate in candidates]
    rows, device = token_rows(model, tokenizer, prompts, max(map(len, tails))), model.device
    window = model.config.get_text_config().to_dict().get("sliding_window")
    # a model with a window takes one candidate at a time: the mask of several would hide the window from it
    groups = [[number] for number in range(len(tails))] if window else packed(tails, max(1, CHUNK_TOKENS[device.type] // len(prompts)))
    scores = torch.empty(len(prompts), len(candidates))
    with arithmetic(model):
        read = read_prompts(model, tokenizer, rows, max(sum(len(tails[i]) - 1 for i in group) for group in groups))
        first, columns = read["logits"].float().log_softmax(-1), read["columns"]
        prompt_mask = read["mask"][:, :columns]
        for group in groups:
            ids = torch.tensor([token for i in group for token in tails[i][:-1]], device=device)
            targets = torch.tensor([token for i in group for token in tails[i][1:]], device=device)
            mask, steps = side_by_side(prompt_mask, [tails[i] for i in group])
            mask = torch.cat([prompt_mask, prompt_mask.new_ones(len(prompts), len(ids))], 1) if window else mask
            out = model(input_ids=ids.expand(len(prompts), -1), attention_mask=mask, position_ids=read["lengths"] + steps, past_key_values=read["cache"], use_cache=True)
            for layer in read["cache"].layers:
                layer.show(columns)
            logits = out.logits.float()
            found = logits.gather(2, targets.expand(len(prompts), -1)[..., None])[..., 0] - logits.logsumexp(-1)
            for i, part in zip(group, found.split([len(tails[i]) - 1 for i in group], dim=1), strict=True):
                scores[:, i] = (first[:, tails[i][0]] + part.sum(1)).cpu()
    seconds = round((time.monotonic() - begun) / len(prompts), 5)
    lengths, shares = list(map(len, tails)), scores.softmax(dim=1).max(dim=1).values.tolist()
    return [{"prediction": candidates[best], "new_tokens": lengths[best], "stop_reason": "", "seconds": seconds, "logprob": round(scores[i, best].item(), 6),
             "confidence": round(shares[i], 6), "log_probs": scores[i].tolist(), "candidate_tokens": lengths}
            for i, best in enumerate(scores.argmax(dim=1).tolist())]


@torch.inference_mode()
def answer_log_probs(model, tokenizer, prompts: list[str], answers: list[str]) -> list[float]:
    """Log-probability in nats of each answer, end token included, after its own prompt; one batch."""
    tails = [candidate_tokens(tokenizer, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    rows, longest = token_rows(model, tokenizer, prompts, max(map(len, tails))), max(map(len, tails))
    whole = [row + tail[:-1] for row, tail in zip(rows, tails, strict=True)]
    width = max(map(len, whole))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in whole], device=model.device)
    real = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in whole], device=model.device)
    with arithmetic(model):
        out = model(input_ids=ids, attention_mask=real, position_ids=(real.cumsum(1) - 1).clamp(min=0), use_cache=False, logits_to_keep=longest)
    log_probs = out.logits.float().log_softmax(-1)
    return [log_probs[i, -len(tail) :].gather(1, torch.tensor(tail, device=model.device)[:, None]).sum().item() for i, tail in enumerate(tails)]
