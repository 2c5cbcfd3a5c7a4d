"""How fast a card trains a 7B model, and in how much memory: `python tests/bench/bench_gpu.py --out bench_gpu.csv` on a machine with a CUDA card.

The weights are random and of Mistral-7B's shape, the tokens too: both time the same as real ones and nothing is downloaded. The training step is the study's own
(modeling/trainer.py); the rows of the table differ in checkpointing, packing, attention and in how the loss is computed:
- `chunked`: TRL's loss, which never holds all logits at once (the study's on a card);      - `whole logits`: the model's own loss;
- `trained positions`: only positions that carry loss meet the vocabulary;                  - `liger`: the fused kernels of liger-kernel.
Flash attention needs `flash-attn` (or `kernels`, which fetches it from the hub), fused kernels `liger-kernel`; what is not installed is left out and named.

Share of peak counts 4 FLOP for each weight that multiplies (the input embedding does not) and token that is no padding: what training an adapter needs without
recomputation. Counting 6 would overstate it by half. `--tiny` runs the same path on a toy model, on any machine, to show that the script works.
"""

import argparse
import datetime
import gc
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, MistralConfig, TrainerCallback

from cancerllm_utils.modeling import models, trainer, training, training_data

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12, "A10": 125e12}  # dense bf16 FLOP/s, from the vendor's data sheets
CPT = {"workload": "CPT", "packing": "wrapped", "batch": 4, "accumulation": 1, "lora": (8, "all-linear")}
SFT = {"workload": "SFT", "packing": "bfd", "batch": 1, "accumulation": 4, "lora": (64, ["q_proj", "v_proj"])}
PLAIN = {"attention": "sdpa", "checkpointing": False, "loss": "chunked"}
FLASH = "flash_attention_2" if find_spec("flash_attn") else "kernels-community/flash-attn2"
ROWS = [
    CPT | PLAIN, CPT | PLAIN | {"checkpointing": True}, CPT | PLAIN | {"loss": "whole logits"}, CPT | PLAIN | {"loss": "liger"},
    CPT | PLAIN | {"attention": FLASH}, CPT | PLAIN | {"attention": FLASH, "packing": "bfd_split"}, CPT | PLAIN | {"attention": FLASH, "loss": "liger"},
    CPT | PLAIN | {"batch": 1, "accumulation": 4}, SFT | PLAIN | {"packing": ""}, SFT | PLAIN | {"packing": "", "checkpointing": True}, SFT | PLAIN,
    SFT | PLAIN | {"loss": "trained positions"}, SFT | PLAIN | {"attention": FLASH}, SFT | PLAIN | {"attention": FLASH, "loss": "trained positions"},
]


class StepTimes(TrainerCallback):
    """Seconds, and tokens that are no padding, of the steps after the warm-up."""

    def __init__(self, warm_up: int):
        self.warm_up, self.begun, self.tokens = warm_up, 0.0, 0

    def on_step_end(self, args, state, control, **kwargs):
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        if state.global_step == self.warm_up:
            self.begun, self.tokens = time.perf_counter(), state.num_input_tokens_seen
        if state.global_step == state.max_steps:
            self.seconds, self.tokens = time.perf_counter() - self.begun, int(state.num_input_tokens_seen - self.tokens)


def missing(row: dict, device: str) -> str:
    """Why a row of the table cannot run here, or ""."""
    if row["attention"] != "sdpa" and device != "cuda":
        return "flash attention needs a CUDA card"
    if row["attention"] != "sdpa" and not find_spec("flash_attn") and not find_spec("kernels"):
        return "flash-attn is not installed"
    if row["loss"] == "liger" and (device != "cuda" or not find_spec("liger_kernel")):
        return "liger-kernel is not installed" if device == "cuda" else "liger-kernel needs a CUDA card"
    return ""


def token_rows(row: dict, length: int, vocabulary: int, steps: int, seed: int = 0) -> list[dict]:
    """Random tokens for `steps` steps and some more: CPT, notes all of whose tokens train; SFT, prompts up to a third of the row, answers of 3 to 12 tokens."""
    random, rows, total = np.random.default_rng(seed), [], 0
    wanted = (steps + 1) * row["batch"] * row["accumulation"]  # rows of `length` when packed, else examples
    while (total < wanted * length) if row["packing"] else (len(rows) < wanted):
        size = int(np.clip(random.lognormal(np.log(length / 4), 0.5), 16, length - 1))
        ids = random.integers(3, vocabulary, size).tolist()
        answer = size - 1 if row["workload"] == "CPT" else int(random.integers(3, 13))
        rows.append({"example_id": str(len(rows)), "input_ids": ids, "labels": [training_data.IGNORED] * (size - answer) + ids[size - answer:]})
        total += size
    return rows


def own_loss(model, inputs, return_outputs=False, num_items_in_batch=None):
    """The model's own loss, over whole logits, or fused where liger has been applied to the model."""
    inputs.pop("row", None)
    return model(**inputs, use_cache=False, num_items_in_batch=num_items_in_batch).loss


def positions_loss(model, inputs, return_outputs=False, num_items_in_batch=None):
    """Loss at the trained positions alone, as the study computes it on a CPU."""
    inputs.pop("row", None)
    return trainer.answer_loss(model, inputs, num_items_in_batch)


def measure(row: dict, config: MistralConfig, length: int, device: str, warm_up: int, steps: int, peak: float, tokenizer, folder: Path) -> dict:
    """One row of the table: tokens_per_second, share_of_peak_4n, peak_memory_gib, or a note that says why not."""
    reason = missing(row, device)
    if reason:
        return {"note": reason}
    precision = "bf16" if device == "cuda" else "fp32"
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if precision == "bf16" else torch.float32, attn_implementation=row["attention"])
    weights = model.num_parameters() - model.get_input_embeddings().weight.numel()
    if row["loss"] == "liger":
        from liger_kernel.transformers import apply_liger_kernel_to_mistral

        apply_liger_kernel_to_mistral(model=model)
    rank, modules = row["lora"]
    settings = {"num_train_epochs": 1.0, "learning_rate": 1e-5, "per_device_train_batch_size": row["batch"], "gradient_accumulation_steps": row["accumulation"],
                "max_length": length, "packing": bool(row["packing"]), "packing_strategy": row["packing"] or "bfd", "warmup_ratio": 0.0, "weight_decay": 0.0,
                "max_grad_norm": 1.0, "lr_scheduler_type": "constant", "optim": "adamw_torch", "gradient_checkpointing": row["checkpointing"], "load_in_4bit": False,
                "seed": 0, "save_steps": 10**6, "logging_steps": 10**6, "logging_seconds": 1e6, "num_processes": 1,
                "lora_r": rank, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": modules}
    made = trainer.make_trainer(model, tokenizer, token_rows(row, length, config.vocab_size, warm_up + steps), [], folder, settings,
                                {"device": device, "precision": precision}, row["workload"], {}, training.lora_config(settings))
    made.args.max_steps, made.args.save_strategy = warm_up + steps, "no"
    if row["loss"] in ("whole logits", "liger"):
        made.compute_loss = own_loss
    if row["loss"] == "trained positions":
        made.compute_loss = positions_loss
    times = StepTimes(warm_up)
    made.add_callback(times)
    try:
        made.train()
    except torch.cuda.OutOfMemoryError:
        return {"note": "out of memory"}
    speed = times.tokens / times.seconds
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    return {"tokens_per_second": round(speed), "share_of_peak_4n": round(4 * weights * speed / peak, 3), "peak_memory_gib": memory and round(memory, 1),
            "seconds_per_step": round(times.seconds / steps, 3), "note": ""}


def product_rate(device: str, size: int, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product on the device: the best of ten."""
    a, b, best = torch.randn(size, size, device=device, dtype=dtype), torch.randn(size, size, device=device, dtype=dtype), 0.0
    for _ in range(10):
        begun = time.perf_counter()
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - begun))
    return best


def main() -> int:
    """Prints the table and writes it to --out. Exit code 2 without a CUDA card."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="", help="CSV file for the table")
    parser.add_argument("--model", default="mistral-7b-instruct-v0.1", help="entry of models.yaml whose shape is taken")
    parser.add_argument("--length", type=int, default=3000, help="tokens per row")
    parser.add_argument("--steps", type=int, default=10, help="timed steps, after three for warming up")
    parser.add_argument("--peak", type=float, default=0, help="the card's dense bf16 FLOP/s, if it is not known here")
    parser.add_argument("--tiny", action="store_true", help="a toy model, on any machine")
    asked = parser.parse_args()
    if not torch.cuda.is_available() and not asked.tiny:
        print("No CUDA card here: run it on a GPU machine, or with --tiny to see that the script works.", file=sys.stderr)
        return 2
    trainer.quiet()
    tokenizer = models.load_tokenizer("tiny_base")
    if asked.tiny:
        device, name, length, warm_up, steps = "cpu", "toy on a CPU", 96, 1, 2
        config = MistralConfig(vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=32)
        rate = product_rate(device, 256, torch.float32)
        peak = asked.peak or rate
    else:
        device, name, length, warm_up, steps = "cuda", torch.cuda.get_device_name(), asked.length, 3, asked.steps
        config = models.meta_model(asked.model).config
        rate = product_rate(device, 8192, torch.bfloat16)
        peak = asked.peak or next((flops for part, flops in PEAKS.items() if part in name), rate)
    print(f"{datetime.date.today()}, {name}, torch {torch.__version__}: peak {peak / 1e12:,.2f} TFLOP/s, {rate / 1e12:,.2f} in a large product; rows of {length} tokens")
    table = []
    for number, row in enumerate(ROWS, 1):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(row, config, length, device, warm_up, steps, peak, tokenizer, Path(folder))
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
        shown = {key: value for key, value in row.items() if key != "lora"} | {"lora_r": row["lora"][0]}
        table.append({"date": str(datetime.date.today()), "device": name, "torch": torch.__version__, "length": length, **shown, **found})
        print(f"{number} of {len(ROWS)}: {found['note'] or '{tokens_per_second:,} tokens/s'.format(**found)}", flush=True)
    table = pd.DataFrame(table)
    print(table.drop(columns=["date", "device", "torch", "length"]).to_string(index=False, na_rep=""))
    best = table.get("share_of_peak_4n", pd.Series([float("nan")])).max()
    print(f"best share of peak, counted as 4N: {100 * best:.1f} % (goal 46 %)")
    if asked.out:
        table.to_csv(asked.out, index=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
