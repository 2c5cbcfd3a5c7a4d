"""TRL's SFTTrainer with what a run on patient notes needs beside it: a guard against non-finite steps, sealed checkpoints, plain progress lines."""

import os
import time
from pathlib import Path

import datasets
import torch
import torch.nn.functional as F
import transformers
from peft import prepare_model_for_kbit_training
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import checkpoints
from cancerllm_utils.modeling.training_data import IGNORED, as_dataset, token_counts

REMEDY = "The last good checkpoint is kept. Lower learning_rate, or look at the named rows."


class NotesTrainer(SFTTrainer):
    """SFTTrainer that stops on a non-finite loss and, on a CPU, computes logits for trained positions only.

    TRL's own loss is built for GPUs: on a CPU it projects every prompt token onto the vocabulary, and tuning the tiny base on short answers
    took two and a half times as long. A test holds both losses and gradients together.
    """

    def _send_telemetry(self):
        """TRL reports every training run to huggingface.co; nothing about a run on patient notes leaves this machine."""

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if "row" not in self._signature_columns:
            self._signature_columns.append("row")

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        rows = inputs.pop("row", None)
        if self.args.device.type != "cpu" or return_outputs:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        else:
            loss = answer_loss(model, inputs, num_items_in_batch)
            if num_items_in_batch is not None:  # counts the tokens of every process, whose gradients are then averaged
                loss = loss * self.accelerator.num_processes
        value = loss[0] if return_outputs else loss
        if not torch.isfinite(value):
            raise UserError(f"training step {self.state.global_step + 1}: the loss is not finite{self.name_rows(rows)}. {REMEDY}")
        return loss

    def name_rows(self, rows) -> str:
        """" in examples a, b, c" where the batch can be named (packed rows hold many notes and cannot)."""
        return "" if rows is None or not self.model.training else " in examples " + ", ".join(self.example_ids[i] for i in rows.tolist())


def answer_loss(model, inputs: dict, num_items_in_batch=None) -> torch.Tensor:
    """Cross-entropy over the trained positions, summed and divided by their number (`num_items_in_batch` under accumulation).

    Only positions at which some row of the batch has a label are projected onto the vocabulary (`logits_to_keep`, the model's own argument).
    """
    labels = inputs["labels"][:, 1:]
    keep = (labels != IGNORED).any(dim=0).nonzero().flatten()
    wanted = {key: inputs[key] for key in ("input_ids", "attention_mask", "position_ids") if key in inputs}
    logits = model(**wanted, use_cache=False, logits_to_keep=keep).logits
    total = F.cross_entropy(logits.flatten(0, 1).float(), labels[:, keep].flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum().clamp(min=1))


class FiniteStep(TrainerCallback):
    """Stops before the optimizer step when the gradient norm is not finite: without it the Trainer logs loss 0.0 from then on and "succeeds"."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if not torch.isfinite(norm):
            raise UserError(f"training step {state.global_step + 1}: the gradient norm is not finite. {REMEDY}")


class SealedCheckpoints(TrainerCallback):
    """Writes each checkpoint's manifest after everything else in it, and scores the last step like the others."""

    def __init__(self, run_identity: str, evaluate: bool):
        self.run_identity, self.evaluate = run_identity, evaluate

    def on_step_end(self, args, state, control, **kwargs):
        if self.evaluate and state.global_step >= state.max_steps:
            control.should_evaluate = True  # the Trainer saves the last step but would not evaluate it

    def on_save(self, args, state, control, **kwargs):
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every process has written its random state
        if state.is_world_process_zero:
            checkpoints.seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.run_identity)


class ProgressLines(TrainerCallback):
    """One line every few seconds: step, loss, tokens per second, time left. Progress bars flood a notebook's log."""

    def __init__(self, label: str, seconds: float):
        self.label, self.seconds, self.loss, self.dev_loss = label, seconds, None, None

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun = self.last = time.monotonic()
        self.first_step, self.first_tokens = state.global_step, state.num_input_tokens_seen

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.loss, self.dev_loss = (logs or {}).get("loss", self.loss), (logs or {}).get("eval_loss", self.dev_loss)

    def on_step_end(self, args, state, control, **kwargs):
        now, last_step = time.monotonic(), state.global_step >= state.max_steps
        if not state.is_world_process_zero or (now - self.last < self.seconds and not last_step):
            return
        self.last, spent = now, max(now - self.begun, 1e-9)
        left = spent / max(1, state.global_step - self.first_step) * (state.max_steps - state.global_step)
        loss = "" if self.loss is None else f"  loss {self.loss:.3f}"
        dev_loss = "" if self.dev_loss is None else f"  dev {self.dev_loss:.3f}"
        speed = (state.num_input_tokens_seen - self.first_tokens) / spent
        print(f"{self.label}: step {state.global_step}/{state.max_steps}{loss}{dev_loss}  {speed:,.0f} tokens/s  {left:.0f} s left", flush=True)


def make_trainer(model, tokenizer, rows: list[dict] | datasets.Dataset, dev_rows: list[dict], folder: Path, settings: dict, place: dict, label: str, run_identity: str,
                 peft_config=None) -> NotesTrainer:
    """SFTTrainer over token rows. `settings` holds TRL's parameter names; checkpoints go to `folder`.

    On a CPU a packed batch becomes accumulation steps of one row: TRL flattens a packed batch into one long row, whose masked attention
    costs the square of its length, and the sum over the trained tokens is the same either way. Rows in and rows trained must agree.
    """
    quiet()
    batch, accumulation = settings["per_device_train_batch_size"], settings["gradient_accumulation_steps"]
    if place["device"] == "cpu" and settings["packing"]:
        batch, accumulation = 1, batch * accumulation
    if settings["max_length"] > model.config.max_position_embeddings:
        raise UserError(f"max_length {settings['max_length']}: the model reads {model.config.max_position_embeddings} tokens at most. Lower max_length.")
    if settings["load_in_4bit"]:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=settings["gradient_checkpointing"])
    args = SFTConfig(
        output_dir=str(folder), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, per_device_eval_batch_size=4,
        num_train_epochs=settings["num_train_epochs"], learning_rate=settings["learning_rate"], warmup_steps=settings["warmup_ratio"],
        weight_decay=settings["weight_decay"], max_grad_norm=settings["max_grad_norm"], lr_scheduler_type=settings["lr_scheduler_type"],
        optim=settings["optim"], seed=settings["seed"], data_seed=settings["seed"], max_length=settings["max_length"],
        packing=settings["packing"], packing_strategy=settings["packing_strategy"], eval_packing=False,
        gradient_checkpointing=settings["gradient_checkpointing"], bf16=place["precision"] == "bf16", use_cpu=place["device"] == "cpu",
        dataloader_pin_memory=place["device"] == "cuda", logging_steps=settings["logging_steps"], save_strategy="steps",
        save_steps=settings["save_steps"], save_total_limit=3, eval_strategy="steps" if dev_rows else "no",
        eval_steps=settings["save_steps"] if dev_rows else None, eval_on_start=bool(dev_rows), load_best_model_at_end=bool(dev_rows),
        metric_for_best_model="eval_loss" if dev_rows else None, greater_is_better=False if dev_rows else None,
        logging_nan_inf_filter=False, include_num_input_tokens_seen="non_padding", ddp_find_unused_parameters=False,
        disable_tqdm=True, report_to="none",
    )
    if args.world_size != settings["num_processes"]:
        raise UserError(f"num_processes {settings['num_processes']}: {args.world_size} started. Start the run without another launcher around it.")
    dev = as_dataset(sorted(dev_rows, key=lambda row: len(row["input_ids"]))) if dev_rows else None
    trainer = NotesTrainer(
        model=model, args=args, train_dataset=as_dataset(rows), eval_dataset=dev, processing_class=tokenizer, peft_config=peft_config,
        callbacks=[FiniteStep(), SealedCheckpoints(run_identity, bool(dev_rows)), ProgressLines(label, settings["logging_seconds"])],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.example_ids = list(rows["example_id"]) if isinstance(rows, datasets.Dataset) else [row["example_id"] for row in rows]
    trainer.data_collator = keep_rows(trainer.data_collator)
    check_kept(trainer.train_dataset, rows, settings)
    return trainer


def keep_rows(collate):
    """The collator, passing on each example's `row` number."""

    def collate_with_rows(examples):
        batch = collate(examples)
        return {**batch, "row": torch.tensor([e["row"] for e in examples])} if "row" in examples[0] else batch

    return collate_with_rows


def check_kept(dataset, rows: list[dict] | datasets.Dataset, settings: dict) -> None:
    """Count rows and tokens after TRL's preparation: it may only do what was asked for, and the share that `bfd` cuts off is printed."""
    tokens, kept = int(token_counts(as_dataset(rows)).sum()), int(token_counts(dataset).sum())
    if not settings["packing"]:
        assert len(dataset) == len(rows) and kept == tokens, f"{len(rows)} rows of {tokens} tokens became {len(dataset)} rows of {kept}"
        return
    if settings["packing_strategy"] != "wrapped":
        assert token_counts(dataset, "seq_lengths").sum() >= len(rows), "packing lost documents"
    assert kept == tokens or settings["packing_strategy"] == "bfd", f"packing lost {tokens - kept} of {tokens} tokens"
    print(f"data: {len(rows)} texts packed into {len(dataset)} rows of {settings['max_length']} tokens, {100 * kept / tokens:.1f} % of the tokens kept")


def quiet() -> None:
    """No progress bars and no advice in a notebook's log; errors stay."""
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def train(trainer: NotesTrainer, run_identity: str) -> dict:
    """Train, from the newest whole checkpoint of the same run if there is one. Returns steps, tokens, seconds; the best model is loaded."""
    begun = time.monotonic()
    with trainer.args.main_process_first(local=False):
        found = checkpoints.newest(Path(trainer.args.output_dir), run_identity)
    trainer.train(resume_from_checkpoint=str(found) if found else None)
    trainer.accelerator.wait_for_everyone()  # the best checkpoint has been read by every process before the main one removes it
    bad = [name for name, p in trainer.model.named_parameters() if p.requires_grad and not torch.isfinite(p).all()]
    if bad:
        raise UserError(f"training: {len(bad)} weight tensors are not finite at the end. {REMEDY}")
    return {"steps": trainer.state.global_step, "tokens": trainer.state.num_input_tokens_seen, "seconds": round(time.monotonic() - begun, 1)}


def learning_curve(trainer: NotesTrainer) -> list[dict]:
    """step, tokens, loss, dev_loss at every logged or evaluated step (None where not measured there)."""
    points = {}
    for entry in trainer.state.log_history:
        point = points.setdefault(entry["step"], {"step": entry["step"], "tokens": None, "loss": None, "dev_loss": None})
        for source, target in (("loss", "loss"), ("eval_loss", "dev_loss"), ("num_input_tokens_seen", "tokens")):
            if source in entry:
                point[target] = entry[source]
    return [points[step] for step in sorted(points) if points[step]["loss"] is not None or points[step]["dev_loss"] is not None]
