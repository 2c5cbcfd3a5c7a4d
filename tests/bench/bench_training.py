"""How fast training is beside two other ways of running it, on the embedded tiny base: `python tests/bench/bench_training.py` (minutes, one core).

Every arm trains the same adapter of the same model on the same token rows, so that the useful tokens (no padding) and the trained ones (those that
carry loss) are the same; what differs is how they are laid out and computed:
- `ours`: the settings of notebooks 03 and 04: packed rows, no recomputation, only trained positions projected onto the vocabulary;
- `released`: the released script's settings, batch 1 x accumulation 4, no packing, gradient checkpointing. At batch 1 TRL pads nothing;
- `released, padded`: the same where the script pads every row to max_length, as scripts with padding="max_length" do;
- `TRL defaults`: a plain SFTTrainer, batch 8, gradient checkpointing, no packing, in fp32;
- `TRL defaults, bf16`: the same with bf16=True, which is TRL's own default: on a processor without bf16 instructions it is emulated.
The released script's 4-bit weights and paged 8-bit optimizer need a CUDA card: all arms have fp32 weights and AdamW.

The arms take turns within every repeat. Times are of the training loop alone (batches, forward, backward, optimizer; no setup, no saving), on the wall and
of the processor; the ratio is taken repeat by repeat, in processor time, so that other work on the machine moves it little. Learning rate 0 keeps the weights,
so that before the first repeat loss and gradient of all arms can be compared: those in fp32 must agree to 1e-4.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import torch
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from cancerllm_utils.corpus import synthetic
from cancerllm_utils.modeling import models, trainer, training_data
from cancerllm_utils.tasks import context, task

LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
RELEASED = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "bf16": False}
ARMS = {"ours": None, "released": RELEASED, "released, padded": RELEASED | {"pad_to_multiple_of": 0}, "TRL defaults": {"bf16": False}, "TRL defaults, bf16": {"bf16": True}}
GOALS = {"released": 5.0, "released, padded": 5.0, "TRL defaults": 1.5}


class LoopTime(TrainerCallback):
    """Wall and processor seconds from the first step's beginning to the last step's end."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.begun = time.perf_counter(), time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        self.spent = time.perf_counter() - self.begun[0], time.process_time() - self.begun[1]


def tuning_rows(cohort: dict, tokenizer, count: int, context_tokens: int, max_length: int) -> list[dict]:
    """Token rows of `count` phenotype questions on invented notes: prompts as in the study, loss on the answer and its end."""
    spec, texts = task.load_task("phenotype_extraction"), dict(zip(cohort["notes"]["note_id"], cohort["notes"]["text"], strict=True))
    items = [item for item in cohort["labels"].itertuples() if item.field in spec["fields"] and item.evidence == "stated"]
    examples = []
    for item in random.Random(0).sample(items, count):
        sentences = context.select_context(texts[item.note_id], spec["fields"][item.field]["query"], context_tokens, tokenizer, context_tokens // 6)
        examples.append({"example_id": f"{item.note_id}-{item.field}", "prompt": task.build_prompt(spec, item.field, sentences), "completion": item.stated_value})
    return training_data.example_rows(examples, tokenizer, max_length)


def note_rows(cohort: dict, tokenizer, count: int, max_length: int) -> list[dict]:
    """Token rows of `count` whole invented notes, every token trained, none longer than a row so that no arm cuts one off."""
    rows = []
    for note_id, ids in zip(cohort["notes"]["note_id"], tokenizer(cohort["notes"]["text"].tolist(), add_special_tokens=False)["input_ids"], strict=True):
        ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        if len(ids) <= max_length and len(rows) < count:
            rows.append({"example_id": note_id, "input_ids": ids, "labels": [training_data.IGNORED, *ids[1:]]})
    return rows


def make_arm(arm: str, rows: list[dict], tokenizer, max_length: int, folder: Path) -> SFTTrainer:
    """The trainer of an arm, its adapter filled with the same random numbers in every arm."""
    model = models.load_model("tiny_base", "fp32")
    if arm == "ours":
        settings = {"num_train_epochs": 1.0, "learning_rate": 0.0, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "max_length": max_length,
                    "packing": True, "packing_strategy": "bfd_split", "warmup_ratio": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0, "lr_scheduler_type": "linear",
                    "optim": "adamw_torch", "gradient_checkpointing": False, "load_in_4bit": False, "seed": 1, "save_steps": 10**6, "logging_steps": 10**6,
                    "logging_seconds": 1e6, "num_processes": 1}
        made = trainer.make_trainer(model, tokenizer, rows, [], folder, settings, {"device": "cpu", "precision": "fp32"}, arm, "bench", LoraConfig(**LORA))
    else:
        changed = {name: value or max_length for name, value in ARMS[arm].items() if name == "pad_to_multiple_of"}
        args = SFTConfig(output_dir=str(folder), num_train_epochs=1.0, learning_rate=0.0, max_length=max_length, use_cpu=True, report_to="none", save_strategy="no",
                         disable_tqdm=True, logging_steps=10**6, dataloader_pin_memory=False, seed=1, **ARMS[arm] | changed)
        dataset = training_data.as_dataset(rows).select_columns(["input_ids", "labels"])
        made = SFTTrainer(model=model, args=args, train_dataset=dataset, processing_class=tokenizer, peft_config=LoraConfig(**LORA))
    made.remove_callback(PrinterCallback)
    made.loop = LoopTime()
    made.add_callback(made.loop)
    torch.manual_seed(0)
    for _, weights in sorted((name, p) for name, p in made.model.named_parameters() if p.requires_grad):
        torch.nn.init.normal_(weights, std=0.02)
    return made


def loss_and_gradient(made: SFTTrainer) -> tuple[float, torch.Tensor, int, int]:
    """(summed loss, its gradient, trained tokens, positions computed) of an arm over all its batches, by the arm's own loss."""
    made.model.train()
    made.model.zero_grad()
    total, trained, positions = 0.0, 0, 0
    for batch in made.get_train_dataloader():
        trained += int((batch["labels"] != training_data.IGNORED).sum())
        positions += batch["input_ids"].numel()
        with torch.autocast("cpu", torch.bfloat16, enabled=made.args.bf16):  # as accelerate does once training begins
            loss = made.compute_loss(made.model, dict(batch), num_items_in_batch=torch.tensor(1))
        loss.backward()
        total += loss.item()
    gradient = torch.cat([p.grad.flatten() for _, p in sorted(made.model.named_parameters()) if p.requires_grad])
    made.model.zero_grad()
    return total, gradient, trained, positions


def bf16_instructions() -> bool:
    """Whether the processor multiplies in bf16 itself."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def gemm_rate(seconds: float = 1.0) -> float:
    """Multiply-adds, as 2 FLOP each, that one thread makes a second in a large fp32 matrix product: the best of many, in processor time."""
    a, b, best, end = torch.randn(768, 768), torch.randn(768, 768), 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.process_time()
        for _ in range(10):
            torch.mm(a, b)
        best = max(best, 10 * 2 * 768**3 / max(time.process_time() - begun, 1e-9))
    return best


def needed_flop(model, useful: int, trained: int) -> float:
    """FLOP that training an adapter cannot do without: 4 for each frozen weight and token (forward, and back to the inputs), 6 for each adapter weight;
    the vocabulary is needed at trained tokens only. Attention, under 5 % here, is left out."""
    head = sum(p.numel() for name, p in model.named_parameters() if "lm_head" in name)
    table = sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" in name)
    adapter = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - adapter - head - table
    return useful * (4 * frozen + 6 * adapter) + trained * 4 * head


def spread(values: list[float], form: str) -> str:
    """Median (smallest to largest)."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def compare(name: str, rows: list[dict], tokenizer, max_length: int, repeats: int, folder: Path) -> None:
    """Prints the table of one workload (SFT, instruction tuning; CPT, continued pre-training)."""
    arms = {arm: make_arm(arm, rows, tokenizer, max_length, folder / arm.replace(" ", "_")) for arm in ARMS}
    useful, trained = sum(len(row["input_ids"]) for row in rows), sum(label != training_data.IGNORED for row in rows for label in row["labels"])
    print(f"\n{name}: {len(rows)} rows, {useful:,} useful tokens, {trained:,} of them trained, max_length {max_length}")
    reference, gradient, _, _ = loss_and_gradient(arms["ours"])
    positions = {}
    for arm, made in arms.items():
        total, found, count, positions[arm] = loss_and_gradient(made)
        apart, turned = abs(total - reference) / trained, float((found - gradient).norm() / gradient.norm())
        print(f"  {arm:20} loss {total / trained:.6f} a trained token, {apart:.1e} from ours; gradient {turned:.1e} from ours; {100 * useful / positions[arm]:.0f} % of the positions useful")
        assert count == trained and ("bf16" in arm or (apart < 1e-4 and turned < 1e-3)), f"{arm}: it does not train the same"
    wall, processor = {arm: [] for arm in arms}, {arm: [] for arm in arms}
    slow = "TRL defaults, bf16" if not bf16_instructions() else ""  # an emulated arm takes one turn only
    for repeat in range(repeats):
        for arm in sorted(set(arms) - {slow if repeat else ""}, key=lambda arm: random.Random(f"{repeat} {arm}").random()):
            arms[arm].train()
            wall[arm].append(arms[arm].loop.spent[0])
            processor[arm].append(arms[arm].loop.spent[1])
    rate = gemm_rate()
    limit = rate / needed_flop(arms["ours"].model, useful, trained) * useful
    for arm in arms:
        ratios = [theirs / ours for theirs, ours in zip(processor[arm], processor["ours"], strict=False)]
        goal, median = GOALS.get(arm), statistics.median(ratios)
        verdict = "" if goal is None else f"  goal {goal:g}x {'reached' if median >= goal else 'MISSED'}"
        print(f"  {arm:20} {spread([useful / s for s in processor[arm]], ',.0f'):24} useful tokens/s, {statistics.median(trained / s for s in processor[arm]):8,.0f} trained; on the wall "
              f"{statistics.median(useful / s for s in wall[arm]):,.0f}; ours is {spread(ratios, '.2f')} times as fast{verdict}", flush=True)
    best = statistics.median(useful / s for s in processor["ours"])
    print(f"  limit: {rate / 1e9:.0f} GFLOP/s in a large product would be {limit:,.0f} useful tokens/s; ours reaches {100 * best / limit:.0f} % of it")


def main() -> None:
    """Both workloads; exit code 0 whatever the goals say, they are printed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=32, help="examples, and notes")
    parser.add_argument("--repeats", type=int, default=5, help="times that every arm runs")
    parser.add_argument("--context", type=int, default=96, help="tokens of note text per prompt")
    parser.add_argument("--max_length", type=int, default=512, help="tokens of a packed or padded row")
    parser.add_argument("--only", default="", choices=["", "sft", "cpt"], help="one of the two workloads")
    asked = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    trainer.quiet()
    print(f"{', '.join(f'{name} {version(name)}' for name in ('torch', 'transformers', 'trl', 'peft'))}; {torch.get_num_threads()} thread(s); load {os.getloadavg()[0]:.1f} "
          f"on {os.cpu_count()} cores; bf16 instructions: {'yes' if bf16_instructions() else 'none'}")
    cohort, tokenizer = synthetic.generate(2 * asked.rows, 7), models.load_tokenizer("tiny_base")
    for name, make in (("sft", lambda: tuning_rows(cohort, tokenizer, asked.rows, asked.context, asked.max_length)), ("cpt", lambda: note_rows(cohort, tokenizer, asked.rows, asked.max_length))):
        if asked.only in ("", name):
            with tempfile.TemporaryDirectory() as folder:
                compare(name.upper(), make(), tokenizer, asked.max_length, asked.repeats, Path(folder))
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
