"""TRL's SFTTrainer with what a run on patient notes needs beside it: a fast loss on CPUs, counted rows and tokens, a guard, plain progress lines."""

import os
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
import transformers
from peft import prepare_model_for_kbit_training
from torch.distributed.tensor import DTensor
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import checkpoints
from cancerllm_utils.modeling.guards import REMEDY, Guard, SmallerBatch, agreed, documents_of, halved, is_memory_error, not_finite, sigterm_noted
from cancerllm_utils.modeling.training_data import IGNORED, as_dataset, token_counts


class NotesTrainer(SFTTrainer):
    """SFTTrainer that hands every step to its guard and, on a CPU, computes logits for trained positions only.

    TRL's own loss is built for GPUs: on a CPU it projects every prompt token onto the vocabulary, and tuning the tiny base on short answers
    took two and a half times as long. A test holds both losses and gradients together.
    """

    def _send_telemetry(self):
        """TRL reports every training run to huggingface.co; nothing about a run on patient notes leaves this machine."""

    def create_model_card(self, *args, **kwargs):
        """TRL would write one beside every checkpoint; the project writes its own for finished stages."""

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
        if self.model.training:
            self.guard.note_batch(rows, loss[0] if return_outputs else loss)
        return loss

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, trained_tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.guard.trained_tokens = self.guard.trained_tokens + trained_tokens  # over all processes; a tensor, so that no step waits for it
        return batches, trained_tokens

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        self.guard.norm = norm.full_tensor() if isinstance(norm, DTensor) else norm  # of sharded weights each process knows a part
        return norm

    def _run_epoch(self, **kwargs):
        if self.state.global_step >= self.state.max_steps:  # resumed from the last step of a part of an epoch: the Trainer would add a step
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**kwargs)

    def ids_of(self, rows: list[int]) -> list[str]:
        """Example ids of training rows; for packed rows those of all documents in them."""
        if self.args.packing and rows:
            documents = documents_of(self.document_lengths, self.args.packing_strategy, self.args.max_length, set(rows))
            rows = [document for row in rows for document in documents[row]]
        return [self.example_ids[row] for row in dict.fromkeys(rows)]


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


def make_trainer(model, tokenizer, rows: list[dict] | datasets.Dataset, dev_rows: list[dict], folder: Path, settings: dict, place: dict, label: str, run_identity: dict,
                 peft_config=None) -> NotesTrainer:
    """SFTTrainer over token rows. `settings` holds TRL's parameter names; checkpoints go to `folder`.

    On a CPU a packed batch becomes accumulation steps of one row: TRL flattens a packed batch into one long row, whose masked attention
    costs the square of its length, and the sum over the trained tokens is the same either way. Rows in and rows trained must agree.
    `run_identity`: what decides the run (checkpoints.seal), to be the same in a run that resumes.
    """
    quiet()
    transformers.set_seed(settings["seed"])  # TRL makes the adapter before it seeds: its start would depend on what this process did before
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
        callbacks=[ProgressLines(label, settings["logging_seconds"])],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.label, trainer.guard = label, Guard(trainer, run_identity, bool(dev_rows))
    trainer.add_callback(trainer.guard)
    trainer.example_ids = list(rows["example_id"]) if isinstance(rows, datasets.Dataset) else [row["example_id"] for row in rows]
    trainer.document_lengths = token_counts(as_dataset(rows))
    trainer.data_collator = keep_rows(trainer.data_collator)
    trainer.trained_tokens_per_epoch = check_kept(trainer.train_dataset, rows, settings)
    if settings["packing"]:
        trainer.train_dataset = trainer.train_dataset.add_column("row", np.arange(len(trainer.train_dataset)))
    return trainer


def keep_rows(collate):
    """The collator, passing on each example's `row` number."""

    def collate_with_rows(examples):
        batch = collate(examples)
        return {**batch, "row": torch.tensor([e["row"] for e in examples])} if "row" in examples[0] else batch

    return collate_with_rows


def check_kept(dataset, rows: list[dict] | datasets.Dataset, settings: dict) -> int:
    """Count rows, tokens and trained tokens after TRL's preparation: it may only do what was asked for, and what `bfd` cuts off is printed.

    Returns the tokens that one epoch trains. The first token of a row or packed document has nothing before it and trains nothing.
    """
    given = as_dataset(rows)
    tokens, kept = int(token_counts(given).sum()), int(token_counts(dataset).sum())
    trained_before, trained = trained_tokens(given), trained_tokens(dataset)
    if not settings["packing"]:
        assert len(dataset) == len(rows) and kept == tokens, f"{len(rows)} rows of {tokens} tokens became {len(dataset)} rows of {kept}"
        assert trained == trained_before > 0, f"{trained_before} trained tokens became {trained}"
    else:
        pieces = len(dataset) if settings["packing_strategy"] == "wrapped" else int(token_counts(dataset, "seq_lengths").sum())
        assert settings["packing_strategy"] == "wrapped" or pieces >= len(rows), "packing lost documents"
        assert kept == tokens or settings["packing_strategy"] == "bfd", f"packing lost {tokens - kept} of {tokens} tokens"
        assert 0 < trained <= trained_before and (kept < tokens or trained_before - trained <= pieces), f"{trained_before} trained tokens became {trained}"
        print(f"data: {len(rows)} texts packed into {len(dataset)} rows of {settings['max_length']} tokens, {100 * kept / tokens:.1f} % of the tokens kept")
    print(f"data: {len(rows)} texts, {kept:,} tokens, {trained:,} of them trained ({100 * trained / kept:.1f} %)")
    return trained


def trained_tokens(dataset: datasets.Dataset) -> int:
    """Tokens with a label that follow another token of their row or packed document, counted a thousand rows at a time."""
    total, tables = 0, dataset.with_format("arrow")
    for start in range(0, len(dataset), 1000):
        part = tables[start : start + 1000]
        trained = part["labels"].combine_chunks().flatten().to_numpy() != IGNORED
        pieces = part["seq_lengths"].combine_chunks().flatten() if "seq_lengths" in part.column_names else pc.list_value_length(part["labels"])
        trained[np.concatenate([[0], np.cumsum(pieces.to_numpy())[:-1]])] = False
        total += int(trained.sum())
    return total


def quiet() -> None:
    """No progress bars and no advice in a notebook's log; errors stay."""
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def train(trainer: NotesTrainer, run_identity: dict) -> dict:
    """Train, from the newest whole checkpoint of the same run if there is one; the best model is loaded.

    Returns steps, tokens, trained_tokens, seconds (of all sittings). Raises UserError on a non-finite step, on SIGTERM, where memory does not
    suffice for one row and where checkpoints of another run lie; SmallerBatch where memory does not suffice for the batch.
    """
    args, guard = trainer.args, trainer.guard
    with args.main_process_first(local=False):
        found = checkpoints.newest(Path(args.output_dir), run_identity)
    if found:
        go_on_from(trainer, checkpoints.progress(found), found.name)
    memory = ""
    try:
        with sigterm_noted(guard):
            trainer.train(resume_from_checkpoint=str(found) if found else None)
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        memory = f"{trainer.label}: out of memory at step {trainer.state.global_step + 1} with a batch of {args.per_device_train_batch_size}"
    if memory and args.per_device_train_batch_size == 1:
        raise UserError(f"{memory}. Lower max_length, or set gradient_checkpointing: true.")
    if memory:
        raise SmallerBatch(memory, halved(args.per_device_train_batch_size, args.gradient_accumulation_steps))
    if agreed([guard.stop_asked or guard.stopped], args.device)[0]:
        raise UserError(f"{trainer.label}: stopped by SIGTERM at step {trainer.state.global_step} of {trainer.state.max_steps}. Run the same command to go on from there.")
    trainer.accelerator.wait_for_everyone()  # the best checkpoint has been read by every process before the main one removes it
    if agreed([bool(not_finite(trainer.model))], args.device)[0]:
        raise UserError(f"{trainer.label}: the weights are not finite at the end. {REMEDY}")
    trained = int(guard.trained_tokens)
    if args.num_train_epochs == int(args.num_train_epochs):  # several processes see some rows twice, so that each has as many
        expected = int(args.num_train_epochs) * trainer.trained_tokens_per_epoch
        assert trained == expected or (args.world_size > 1 and trained > expected), f"{trained} tokens were trained, {expected} should have been"
    return {"steps": trainer.state.global_step, "tokens": trainer.state.num_input_tokens_seen, "trained_tokens": trained, "seconds": guard.seconds()}


def go_on_from(trainer: NotesTrainer, progress: dict, name: str) -> None:
    """Take over what an interrupted run had done and how it ran.

    Batches of another size give the same sums but other rounding and other dropout draws. So a run that was cut to smaller batches goes on
    with them, also after a restart with the larger ones: the steps that follow are those of the run that was interrupted, and what did not
    fit is not tried again. Batches made smaller on purpose stay as given.
    """
    trainer.guard.seconds_before, trainer.guard.trained_tokens = progress["seconds"], progress["trained_tokens"]
    sizes = {size: progress[size] for size in ("per_device_train_batch_size", "gradient_accumulation_steps")}
    if sizes["per_device_train_batch_size"] < trainer.args.per_device_train_batch_size:
        raise SmallerBatch(f"{trainer.label}: {name} was made with a batch of {sizes['per_device_train_batch_size']}", sizes)


def learning_curve(trainer: NotesTrainer) -> list[dict]:
    """step, tokens, loss, dev_loss at every logged or evaluated step (None where not measured there)."""
    points = {}
    for entry in (entry for entry in trainer.state.log_history if "held_out" not in entry):  # those are held_out.MeasureDuring's
        point = points.setdefault(entry["step"], {"step": entry["step"], "tokens": None, "loss": None, "dev_loss": None})
        for source, target in (("loss", "loss"), ("eval_loss", "dev_loss"), ("num_input_tokens_seen", "tokens")):
            if source in entry:
                point[target] = entry[source]
    return [points[step] for step in sorted(points) if points[step]["loss"] is not None or points[step]["dev_loss"] is not None]
