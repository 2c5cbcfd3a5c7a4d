"""Held-out loss and bits per byte of a causal language model on whole texts."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

# Tokens computed at once. On a CPU the logits of a larger batch leave the cache: 4,096 tokens took twice as long as 1,024.
BATCH_TOKENS = {"cpu": 1024, "cuda": 8192}


def text_windows(texts: Sequence[str], tokenizer, max_length: int) -> list[tuple[int, list[int]]]:
    """(text number, token window of at most `max_length`) that predict every token of every text (and its end) exactly once.

    A text longer than a window goes on in the next, which starts with the last token of the one before, so no token is left unpredicted.
    """
    windows = []
    for number, ids in enumerate(tokenizer(list(texts), add_special_tokens=False)["input_ids"]):
        ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        windows += [(number, ids[i : i + max_length]) for i in range(0, len(ids) - 1, max_length - 1)]
    return windows


@torch.inference_mode()
def token_losses(model, tokenizer, texts: Sequence[str], max_length: int = 1024, batch_tokens: int = 0) -> list[np.ndarray]:
    """Negative log-likelihood in nats of every token of each text (end token included), one array per text.

    Runs in evaluation mode without touching a random state, and puts the model back into the mode it was in: a training run that is
    measured in between goes on as if it had not been. `batch_tokens` 0 takes what suits the device.
    """
    was_training = model.training
    model.eval()
    windows = text_windows(texts, tokenizer, max_length)
    order = sorted(range(len(windows)), key=lambda i: len(windows[i][1]))
    found = [None] * len(windows)
    while order:
        size = max(1, (batch_tokens or BATCH_TOKENS[model.device.type]) // len(windows[order[-1]][1]))
        batch, order = order[-size:], order[:-size]
        rows = [windows[i][1] for i in batch]
        width = max(map(len, rows))
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(rows):
            ids[row, : len(window)], mask[row, : len(window)] = torch.tensor(window), 1
        ids, mask = ids.to(model.device), mask.to(model.device)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none").view(targets.shape).double().cpu().numpy()
        for i, window, row in zip(batch, rows, losses, strict=True):
            found[i] = row[: len(window) - 1]
    model.train(was_training)
    of_text = [[] for _ in texts]
    for (number, _), row in zip(windows, found, strict=True):
        of_text[number].append(row)
    return [np.concatenate(rows) for rows in of_text]


def text_losses(model, tokenizer, texts: Sequence[str], max_length: int = 1024, batch_tokens: int = 0) -> dict[str, np.ndarray]:
    """`token_losses` summed: arrays `nats` and `tokens` (predicted, end token included) per text, and `bytes` (UTF-8)."""
    losses = token_losses(model, tokenizer, texts, max_length, batch_tokens)
    return {"nats": np.array([row.sum() for row in losses]), "tokens": np.array([len(row) for row in losses], dtype=int),
            "bytes": np.array([len(text.encode()) for text in texts], dtype=int)}


def mean_loss(losses: dict[str, np.ndarray]) -> dict:
    """loss (nats per token), bits_per_byte, tokens, bytes, n (texts) over the texts of `text_losses`.

    Bits per byte compares models with different tokenizers.
    """
    nats, tokens, size = losses["nats"].sum(), int(losses["tokens"].sum()), int(losses["bytes"].sum())
    return {"loss": float(nats / tokens), "bits_per_byte": float(nats / math.log(2) / size), "tokens": tokens, "bytes": size, "n": len(losses["nats"])}


def text_loss(model, tokenizer, texts: Sequence[str], max_length: int = 1024) -> dict:
    """`mean_loss` of a list of texts."""
    return mean_loss(text_losses(model, tokenizer, texts, max_length))
