"""Held-out loss and bits per byte of a causal language model on whole texts."""

import math

import torch
import torch.nn.functional as F


def text_windows(texts: list[str], tokenizer, max_length: int) -> list[list[int]]:
    """Token windows of at most `max_length` that predict every token of every text (and its end) exactly once.

    A text longer than a window goes on in the next, which starts with the last token of the one before, so no token is left unpredicted.
    """
    windows = []
    for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        windows += [ids[i : i + max_length] for i in range(0, len(ids) - 1, max_length - 1)]
    return windows


@torch.inference_mode()
def text_loss(model, tokenizer, texts: list[str], max_length: int = 1024, batch_tokens: int = 4096) -> dict:
    """Mean negative log-likelihood per token (nats) and bits per UTF-8 byte of `texts`.

    Returns loss, bits_per_byte, tokens (predicted, end tokens included), bytes, n (texts). Bits per byte compares models with different
    tokenizers. Runs in evaluation mode and puts the model back into the mode it was in.
    """
    was_training = model.training
    model.eval()
    windows = sorted(text_windows(texts, tokenizer, max_length), key=len)
    total, count = 0.0, 0
    while windows:
        size = max(1, batch_tokens // len(windows[-1]))
        batch, windows = windows[-size:], windows[:-size]
        width = max(map(len, batch))
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(batch):
            ids[row, : len(window)], mask[row, : len(window)] = torch.tensor(window), 1
        ids, mask = ids.to(model.device), mask.to(model.device)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum").item()
        count += int(mask[:, 1:].sum())
    model.train(was_training)
    size = sum(len(text.encode()) for text in texts)
    return {"loss": total / count, "bits_per_byte": total / math.log(2) / size, "tokens": count, "bytes": size, "n": len(texts)}
