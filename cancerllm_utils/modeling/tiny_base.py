"""How the embedded base models are made (tiny_base, tiny_llama, larger ones of the same kind): tokenizer, text, recall rows, one plain training loop
that survives kill -9."""

import gzip
import hashlib
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedTokenizerFast

from cancerllm_utils import paths
from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import recall
from cancerllm_utils.modeling.models import model_entry

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
UPPER_SHARE = 0.08  # many pathology reports are typed in capitals, articles never are: this share of the training articles is put in capitals


def read_texts(data_dir: Path) -> list[tuple[str, str]]:
    """(id, text) of every non-oncology CC BY / CC0 article and every NIH question-answer pair outside CancerGov, in file order."""
    folder, texts = data_dir / "literature", []
    for name in ("pmc_trial_articles.jsonl.gz", "medquad_other.jsonl.gz"):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is not there: the tiny base is trained on it. Put the file there or set CANCERLLM_DATA to the folder above literature/.")
        with gzip.open(folder / name, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if name.startswith("pmc") and not row["oncology"]:
                    texts.append((row["pmcid"], row["text"]))
                elif name.startswith("medquad") and row["answer"].strip():
                    texts.append((row["url"], f"{row['question']}\n{row['answer']}"))
    return texts


def split_texts(texts: list[tuple[str, str]], held_out: float = 0.02) -> tuple[list[str], list[str]]:
    """Train and held-out texts, divided by a hash of the article or page id (question pairs of one page stay together)."""
    train, dev = [], []
    for key, text in texts:
        share = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32
        (dev if share < held_out else train).append(text)
    return train, dev


def in_capitals(texts: list[str], seed: int) -> list[str]:
    """The same texts, a seeded UPPER_SHARE of them in capitals."""
    chosen = np.random.default_rng(seed).random(len(texts)) < UPPER_SHARE
    return [text.upper() if c else text for text, c in zip(texts, chosen, strict=True)]


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE; digits stand alone, so that a size or a T category is copied figure by figure; BOS is added, EOS is not."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL.values()), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=2048, padding_side="left", clean_up_tokenization_spaces=False, **SPECIAL)


def encode(tokenizer, texts: list[str]) -> np.ndarray:
    """All texts as one uint16 stream, each ended by EOS and begun by BOS."""
    eos, stream = tokenizer.eos_token_id, []
    for start in range(0, len(texts), 256):
        for ids in tokenizer(texts[start : start + 256])["input_ids"]:
            stream.append(np.array([*ids, eos], dtype=np.uint16))
    return np.concatenate(stream)


def make_config(
    tokenizer, architecture: str = "mistral", hidden_size: int = 256, intermediate_size: int = 768, num_hidden_layers: int = 4, num_attention_heads: int = 4,
    num_key_value_heads: int = 2,
) -> MistralConfig | LlamaConfig:  # fmt: skip
    """Mistral or Llama architecture, by default tiny_base's 7.3 M parameters: SiLU, RMSNorm, heads of 64, an output head of its own, rotary base 1e6."""
    if architecture not in ("mistral", "llama"):
        raise UserError(f"architecture {architecture}: unknown. Use mistral or llama.")
    kind, own = (MistralConfig, {"sliding_window": None}) if architecture == "mistral" else (LlamaConfig, {})
    return kind(
        vocab_size=len(tokenizer), hidden_size=hidden_size, intermediate_size=intermediate_size, num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads, num_key_value_heads=num_key_value_heads, head_dim=recall.HEAD_DIM, max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, tie_word_embeddings=False, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, initializer_range=0.02, **own,
    )  # fmt: skip


def make_batch(step: int, seed: int, stream: np.ndarray, tokenizer, words: list[str], n_rows: int, length: int, recall_share: float, dense: bool):
    """One batch (ids, labels, rows that train recall), a pure function of its arguments, so that a resumed run sees what an unbroken one would have seen.

    `dense`: short passages and a question about every planted value.
    """
    rng = np.random.default_rng([seed, step])
    ids, labels = np.zeros((n_rows, length), dtype=np.int64), np.full((n_rows, length), -100, dtype=np.int64)
    is_recall = torch.zeros(n_rows, dtype=torch.bool)
    for row in range(n_rows):
        kind = rng.random()
        is_recall[row] = kind < recall_share
        if kind >= recall_share:
            start = rng.integers(0, len(stream) - length)
            ids[row] = labels[row] = stream[start : start + length]
        elif kind < 0.3 * recall_share:
            symbols = np.arange(4, len(tokenizer))
            if rng.random() < 0.3:
                symbols = rng.choice(symbols, size=64, replace=False)
            ids[row], labels[row] = recall.repeated_row(rng, length, symbols)
        else:
            at = 0
            while at < length:
                start = rng.integers(0, len(stream) - 400)
                passage = tokenizer.decode(stream[start : start + rng.integers(10, 80 if dense else 240)], skip_special_tokens=True).split()
                pieces, is_answer = recall.planted_row(rng, words, passage, 6 if dense else 3)
                tokens, flags = [tokenizer.bos_token_id], [False]
                for encoded, answer in zip(tokenizer(pieces, add_special_tokens=False)["input_ids"], is_answer, strict=True):
                    tokens += encoded
                    flags += [answer] * len(encoded)
                n = min(len(tokens), length - at)
                ids[row, at : at + n] = tokens[:n]
                labels[row, at : at + n] = np.where(flags[:n], tokens[:n], -100)
                at += n
    return torch.from_numpy(ids), torch.from_numpy(labels), is_recall


@torch.no_grad()
def held_out_loss(model, stream: np.ndarray, n_bytes: int, length: int = 512, max_rows: int = 128) -> dict:
    """Mean loss (nats per token) on held-out text in rows of `length` and bits per byte (from the stream's own bytes per token)."""
    rows = min(len(stream) // length, max_rows)
    ids = torch.from_numpy(stream[: rows * length].astype(np.int64).reshape(rows, length))
    total = 0.0
    for batch in ids.split(8):
        total += model(input_ids=batch.to(model.device), labels=batch.to(model.device)).loss.item() * len(batch)
    loss = total / rows
    return {"loss": loss, "bits_per_byte": loss / math.log(2) * len(stream) / n_bytes, "tokens": rows * length}


def train(
    data_dir: Path, out_dir: Path, max_tokens: int, tokens_per_step: int, learning_rate: float, recall_share: float, vocab_size: int = 8192,
    long_share: float = 0.15, recall_from: float = 0.4, eval_every: int = 100, save_every: int = 100, max_seconds: int = 0, seed: int = 42,
    shape: dict | None = None, name: str = "model",
) -> dict:  # fmt: skip
    """Train (or go on training) a small base into `out_dir/name`; returns the card's numbers. Everything that varies is a function of step and seed.

    `shape`: the arguments of `make_config` other than the tokenizer (none: tiny_base's).
    Rows are 256 tokens long at first, then 512, and 1,024 in the last `long_share` of the steps. `max_seconds` ends the run early with a full decay
    planned by the clock (0: train `max_tokens`). After the share `recall_from` of the run, recall rows are denser and weigh more.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train_texts, dev_texts = split_texts(read_texts(data_dir))
    if (out_dir / "tokenizer.json").is_file():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out_dir)
    else:
        tokenizer = train_tokenizer(in_capitals(train_texts, seed), vocab_size)
        tokenizer.save_pretrained(out_dir)
    cache = out_dir / "stream.npy"
    if not cache.is_file():
        np.save(cache, encode(tokenizer, in_capitals(train_texts, seed)))
    stream = np.load(cache, mmap_mode="r")
    dev_stream, dev_bytes = encode(tokenizer, dev_texts), sum(len(t.encode()) for t in dev_texts)
    words = sorted({w.strip(".,;:()") for t in train_texts[:300] for w in t.split() if w.isascii() and 3 < len(w) < 14})
    passages = [t.split() for t in dev_texts[:100]]
    print(f"tiny base: {len(train_texts):,} training texts, {len(stream):,} tokens; {len(dev_texts):,} held-out texts; {device}", flush=True)

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(make_config(tokenizer, **(shape or {})))
    recall.wire_induction_heads(model, seed)
    model.to(device)
    # token vectors move at half the rate: the wired heads read them, and copying was lost within 200 steps where they moved fast
    groups = [
        {"params": [p for n, p in model.named_parameters() if "embed" in n], "scale": 0.5},
        {"params": [p for n, p in model.named_parameters() if "embed" not in n], "scale": 1.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    step, seen, history, spent = 0, 0, [], 0.0
    state_file = out_dir / "training_state.pt"
    if state_file.is_file():
        state = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, seen, history, spent = state["step"], state["seen"], state["history"], state["spent"]
        print(f"tiny base: resumed at step {step}, {seen:,} tokens", flush=True)
    started, last_line, done = time.time() - spent, 0.0, 0.0

    def evaluate() -> dict:
        model.eval()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            row = {"step": step, "tokens": seen, "seconds": round(time.time() - started)} | {
                f"held_out_{k}": v for k, v in held_out_loss(model, dev_stream, dev_bytes, max_rows=32 if done < 1 else 512).items()}
            row |= {f"induction_{k}": v for k, v in recall.induction_score(model, np.arange(4, len(tokenizer))).items()}
            row["planted_recall"] = recall.planted_recall(model, tokenizer, words, passages, n=40)["exact"]
        history.append(row)
        model.train()
        print("tiny base: " + "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v:,}" for k, v in row.items()), flush=True)
        return row

    if not history:
        evaluate()
    model.train()
    while True:
        # Share of the work done: by tokens, or by the clock where a time limit is set.
        done = max(seen / max_tokens, (time.time() - started) / max_seconds if max_seconds else 0.0)
        if done >= 1:
            break
        length = 1024 if done > 1 - long_share else 256 if done < 0.3 else 512
        n_rows = max(1, tokens_per_step // length)
        rate = min(1.0, (step + 1) / 50) * min(1.0, 0.02 + (1 - done) / 0.45)  # short warm-up, flat, then linear decay over the last 45 %
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate * group["scale"]
        dense = done > recall_from
        ids, labels, is_recall = make_batch(step, seed, stream, tokenizer, words, n_rows, length, 1.5 * recall_share if dense else recall_share, dense)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            states = model.model(input_ids=ids.to(device), use_cache=False)[0][:, :-1]
            target = labels[:, 1:].to(device)
            known = target != -100  # recall rows train their answers only: no logits for the rest
            losses = torch.nn.functional.cross_entropy(model.lm_head(states[known]).float(), target[known], reduction="none")
            # Answers are a hundredth of the tokens: once language has come, they count as half of the text does, or copying by question never comes.
            share = is_recall[:, None].expand_as(target)[known].to(device)
            loss = losses[~share].sum() / (~share).sum().clamp(min=1) + 0.5 * losses[share].sum() / share.sum().clamp(min=1) if dense else losses.mean()
        if not torch.isfinite(loss):
            raise UserError(f"The loss of the tiny base became {loss.item()} at step {step}. Lower learning_rate; the last good state is {state_file}.")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + ids.numel()
        if time.time() - last_line > 10:
            last_line = time.time()
            speed = seen / (time.time() - started)
            print(f"tiny base: step {step}  loss {loss.item():.3f}  {seen / 1e6:.2f} M tokens  {speed:,.0f} tokens/s  {100 * done:.1f} % done", flush=True)
        if step % eval_every == 0:
            evaluate()
        if step % save_every == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seen": seen, "history": history, "spent": time.time() - started}
            torch.save(state, f"{state_file}.part")
            os.replace(f"{state_file}.part", state_file)
            save_model(model, tokenizer, out_dir / name, history)
    last = evaluate()
    save_model(model, tokenizer, out_dir / name, history)
    return last


def save_model(model, tokenizer, folder: Path, history: list[dict]) -> None:
    """bf16 safetensors, configuration, tokenizer, training history and model card; the caller's model stays in fp32."""
    weights = {k: v.detach().to("cpu", torch.bfloat16) for k, v in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict() | {"dtype": "bfloat16", "architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(folder)
    (folder / "history.json").write_text(json.dumps(history, indent=1) + "\n")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    parameters = sum(p.numel() for p in model.parameters())
    kind = model.config.model_type
    text = CARD.format(digest=digest, parameters=parameters, kind=kind, Kind=kind.capitalize(), **model.config.to_dict(), **history[-1])
    (folder / "README.md").write_text(text, encoding="utf-8")


CARD = """---
license: cc-by-4.0
language: en
library_name: transformers
tags: [{kind}, biomedical, tiny]
---
# A small {Kind} base model

A {Kind}-architecture language model of {parameters:,} parameters ({num_hidden_layers} layers, hidden size {hidden_size}, {num_attention_heads} query and
{num_key_value_heads} key-value heads, SiLU, RMSNorm, rotary positions, context {max_position_embeddings:,} tokens) with its own byte-level BPE tokenizer
({vocab_size:,} entries; pad, bos and eos differ). It stands in for a 7-billion-parameter model so that the whole study runs on a laptop. Not for clinical use.

**Data.** Full text of clinical-trial articles under CC BY or CC0 (github.com/jayded/evidence-inference), oncology articles left out, and NIH question-answer
pairs (MedQuAD, CC BY 4.0, github.com/abachaa/MedQuAD) without those of CancerGov. Texts are held out by article. No hospital note and no pathology report.
A share of the texts is put in capitals; a share of the rows trains copying: repeated random sequences, and values planted in a passage and asked for.

**Start.** Heads of the first two layers start wired as an induction circuit (see `cancerllm_utils/modeling/recall.py`), because a model of this size
learns to copy from its context only after far more tokens; everything else starts at random or at zero, and everything is trained.

| measured at the end | |
|---|---|
| tokens seen | {tokens:,} |
| held-out loss, nats per token | {held_out_loss:.3f} (on {held_out_tokens:,} tokens) |
| held-out bits per byte | {held_out_bits_per_byte:.3f} |
| induction: loss on the second copy of a random sequence | {induction_loss:.3f} (chance {induction_chance_loss:.2f}) |
| induction: top-1 accuracy on the second copy | {induction_accuracy:.3f} |
| planted value given back exactly | {planted_recall:.3f} |

**Licence.** Weights CC BY 4.0. sha256 of `model.safetensors`: `{digest}`
"""


def make_or_read(run_dir: Path, embedded: str, train_base: bool, data_dir: str, **how) -> Path:
    """Folder of a small base: trained into run_dir/base/<the run's name> if asked for (`how`: the arguments of `train`), else the embedded one of that name."""
    if not train_base:
        return embedded_dir(embedded)
    train(paths.data_dir(data_dir), run_dir / "base", name=run_dir.name, **how)
    return run_dir / "base" / run_dir.name


def embedded_dir(name: str) -> Path:
    """Folder of an embedded model; UserError if models.yaml has none of that name."""
    entry = model_entry(name)
    if "path" not in entry:
        raise UserError(f"model {name}: not an embedded one. Name an entry of models.yaml that has a path.")
    return Path(entry["source"])


def card_text(folder: Path) -> str:
    """The model card without its front matter."""
    return (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]


def training_history(folder: Path) -> pd.DataFrame:
    """One row per evaluation during training: step, tokens, held-out loss, induction and recall scores."""
    return pd.DataFrame(json.loads((folder / "history.json").read_text())).round(3)


def adopt(name: str = "tiny_base") -> None:
    """Copy the model trained by the profile `name` over the embedded one of that name (`make adopt-base`)."""
    trained, target = paths.run_dir(name) / "base" / name, embedded_dir(name)
    if not (trained / "model.safetensors").is_file():
        raise UserError(f"{trained} holds no model. Run `make run PROFILE={name}` first.")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(trained, target)
    print(f"{target} now holds the model of {trained}.")


if __name__ == "__main__":
    try:
        adopt(*sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
