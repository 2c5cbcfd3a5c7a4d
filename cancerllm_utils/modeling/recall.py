"""Copying from the context: how the tiny base gets it, and how it is measured.

Extraction is copying. A small model learns the circuit for it (a "previous token" head below an "induction" head, Olsson et al. 2022,
https://arxiv.org/abs/2209.11895) only after very many tokens, so the tiny base starts with the two heads already wired
(`wire_induction_heads`, in the spirit of mimetic initialisation, Trockman & Kolter 2023, https://arxiv.org/abs/2305.09828) and sees recall
lines beside its text. Both are ordinary weights and ordinary text afterwards: training may keep, change or drop them.
"""

import numpy as np
import torch

HEAD_DIM = 64  # the wiring is written for heads of this size
HEAD_SCALE = 0.05


@torch.no_grad()
def wire_induction_heads(model, seed: int = 0) -> None:
    """Set layer 0 (its first head) to look one token back and layer 1 (each group's first head) to look up and copy what followed the same token before.

    For Mistral and Llama of any width and depth with head size 64, two or more key-value heads, a head of its own and rotary base 1e6: the upper half of
    the rotary frequencies turn by less than a radian within 1,000 tokens and can hold content, the lower six hold relative position.
    """
    config = model.config
    assert config.head_dim == HEAD_DIM and config.num_key_value_heads >= 2 and config.num_hidden_layers >= 2 and not config.tie_word_embeddings, "no room to wire"
    # The residual stream at the start: the token, then 64 dims of scratch space for the previous token, then a constant (at width 256: 0-190, 191-254, 255).
    n_token = config.hidden_size - HEAD_DIM - 1
    token_dims, scratch, constant = slice(0, n_token), slice(n_token, n_token + HEAD_DIM), config.hidden_size - 1
    generator = torch.Generator().manual_seed(seed)
    per_group = config.num_attention_heads // config.num_key_value_heads
    for layer in model.model.layers:  # every other head and MLP starts silent, or its noise would drown the sketches
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    # Tokens at scale 1, so that a training step moves them little; the output head starts as a faint copy, so that a copied token is predicted.
    embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
    embedding.normal_(generator=generator)
    embedding[:, scratch] = 0.0
    embedding[:, constant] = 4.0
    head.zero_()
    head[:, token_dims] = HEAD_SCALE * embedding[:, token_dims]
    basis = torch.linalg.qr(torch.randn(n_token, n_token, generator=generator))[0]  # rows: orthonormal directions of the token space
    half = config.head_dim // 2
    frequencies = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(half) / half)

    # Layer 0: the score of a key d tokens back is sum_i a^2 cos(f_i (d - 1)), largest at d = 1; the value is a 64-dim sketch of the token.
    first = model.model.layers[0].self_attn
    rotary = torch.arange(6)
    amplitude = 3.0
    key, query = torch.zeros(config.head_dim), torch.zeros(config.head_dim)
    key[rotary] = amplitude
    query[rotary], query[rotary + half] = amplitude * torch.cos(frequencies[rotary]), -amplitude * torch.sin(frequencies[rotary])
    first.q_proj.weight[:64] = 0.0
    first.k_proj.weight[:64] = 0.0
    first.v_proj.weight[:64] = 0.0
    first.q_proj.weight[:64, constant] = query
    first.k_proj.weight[:64, constant] = key
    first.v_proj.weight[:64, token_dims] = basis[:64]
    first.o_proj.weight[scratch, :64] = torch.eye(64)

    # Layer 1: query = sketch of this token, key = sketch of the token before the other position, value = the other token, copied back.
    second = model.model.layers[1].self_attn
    content = torch.cat([torch.arange(16, 32), torch.arange(48, 64)])  # slow rotary dims only
    for group in range(min(config.num_key_value_heads, n_token // HEAD_DIM)):
        q_rows = slice(group * per_group * 64, group * per_group * 64 + 64)
        kv_rows = slice(group * 64, group * 64 + 64)
        for weight in (second.q_proj.weight[q_rows], second.k_proj.weight[kv_rows], second.v_proj.weight[kv_rows]):
            weight.zero_()
        sketch = torch.arange(32) + 32 * (group % 2)  # each group matches by one half of the sketch and copies a block of its own
        second.q_proj.weight[q_rows][content[:, None], torch.arange(n_token)[None]] = 2.0 * basis[sketch]
        second.k_proj.weight[kv_rows][content, n_token + sketch] = 2.0
        block = basis[64 * group : 64 * group + 64]
        second.v_proj.weight[kv_rows, token_dims] = block
        second.o_proj.weight[token_dims, q_rows] = 4 * block.T


def repeated_row(rng: np.random.Generator, length: int, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A row of random segments, each written twice or more: (input ids, labels), -100 where a token cannot be known from what stands before it."""
    ids, labels = [], []
    while len(ids) < length:
        segment = rng.choice(symbols, size=rng.integers(3, 60))
        for repeat in range(rng.integers(2, 4)):
            ids.extend(segment)
            labels.extend([-100] * len(segment) if repeat == 0 else [-100, *segment[1:]])
    return np.array(ids[:length]), np.array(labels[:length])


NAMES = ("value", "code", "result", "name", "type", "size", "site", "side", "status", "group", "date", "colour", "level", "number", "class", "label")
STATEMENTS = (" The {key} is {value}.", " {key}: {value}.", " {key} was {value}.", " ({key} {value})", " {key} = {value},", "\n{key}: {value}\n")
QUESTIONS = ("\nWhat is the {key}?\n{value}\n", "\nQ: {key}? A: {value}\n", "\nThe {key} in the text is: {value}\n", "\n{key}: {value}\n", "\nIn the text, what is the {key} in the given context?\nAnswer:\n{value}\n")


def planted_row(rng: np.random.Generator, words: list[str], passage: list[str], n_questions: int = 3) -> tuple[list[str], list[bool]]:
    """A passage of real words with 1-6 planted key-value statements, then questions about them: text pieces, and which pieces are the answers."""
    keys, statements = {}, []
    for _ in range(rng.integers(1, 7)):
        key = f"{words[rng.integers(len(words))].strip()} {NAMES[rng.integers(len(NAMES))]}"
        value = " ".join(words[rng.integers(len(words))].strip() for _ in range(rng.integers(1, 4)))
        if rng.random() < 0.3:
            value = f"{rng.integers(0, 100)}" if rng.random() < 0.5 else f"{rng.integers(0, 20)}.{rng.integers(0, 10)}"
        value = value.upper() if rng.random() < 0.15 else value
        keys[key] = value
        statements.append(STATEMENTS[rng.integers(len(STATEMENTS))].format(key=key, value=value))
    cuts = sorted(rng.integers(0, len(passage) + 1, size=len(statements)))
    pieces, start = [], 0
    for cut, statement in zip(cuts, statements, strict=True):
        pieces += [" " + " ".join(passage[start:cut]) if cut > start else "", statement]
        start = cut
    pieces.append(" " + " ".join(passage[start:]))
    is_answer = [False] * len(pieces)
    for key in rng.permutation(list(keys))[:n_questions]:
        before, after = QUESTIONS[rng.integers(len(QUESTIONS))].format(key=key, value="\0").split("\0")
        pieces += [before, keys[key], after]
        is_answer += [False, True, False]
    return pieces, is_answer


@torch.no_grad()
def induction_score(model, vocabulary: np.ndarray, n: int = 64, length: int = 64, seed: int = 1) -> dict:
    """Loss (nats) and top-1 accuracy on the second half of random sequences of `length` tokens written twice; chance is ln(len(vocabulary))."""
    rng = np.random.default_rng(seed)
    half = torch.tensor(rng.choice(vocabulary, size=(n, length)))
    logits = model(input_ids=torch.cat([half, half], 1).to(model.device)).logits[:, length:-1].float().cpu()
    target = half[:, 1:]
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1)).item()
    return {"loss": loss, "accuracy": (logits.argmax(-1) == target).float().mean().item(), "chance_loss": float(np.log(len(vocabulary)))}


@torch.no_grad()
def planted_recall(model, tokenizer, words: list[str], passages: list[list[str]], n: int = 100, seed: int = 2) -> dict:
    """Share of planted values that greedy decoding gives back exactly (teacher-forced: every token of the value is the top choice)."""
    rng = np.random.default_rng(seed)
    hits = total = 0
    for i in range(n):
        pieces, is_answer = planted_row(rng, words, passages[i % len(passages)][:120])
        ids, answer = [tokenizer.bos_token_id], [False]
        for piece, flag in zip(pieces, is_answer, strict=True):
            tokens = tokenizer(piece, add_special_tokens=False)["input_ids"]
            ids += tokens
            answer += [flag] * len(tokens)
        top = model(input_ids=torch.tensor([ids]).to(model.device)).logits[0].argmax(-1).tolist()
        right = [a and top[t - 1] == ids[t] for t, a in enumerate(answer)]
        starts = [t for t in range(1, len(ids)) if answer[t] and not answer[t - 1]]
        for start in starts:
            end = next(t for t in range(start, len(ids) + 1) if t == len(ids) or not answer[t])
            hits += all(right[start:end])
            total += 1
    return {"exact": hits / total, "n": total}
