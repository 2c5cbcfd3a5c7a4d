"""What stops a training run in time, and how it goes on: non-finite steps, memory that does not suffice, SIGTERM, sealed checkpoints."""

import functools
import gc
import inspect
import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from trl import pack_dataset

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import checkpoints

REMEDY = "The last good checkpoint is kept. Lower learning_rate, or look at the named rows."
NAMED = 50  # example ids that a message names
PACKED_AT_ONCE = 1000  # rows that TRL packs together: the batch size of datasets.map
MEMORY_ERRORS = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


class SmallerBatch(Exception):
    """The run must start again with other batch sizes of the same product: `sizes` holds the two parameters, the text says why."""

    def __init__(self, reason: str, sizes: dict):
        super().__init__(reason, sizes)
        self.reason, self.sizes = reason, sizes

    def __str__(self) -> str:
        return f"{self.reason}; going on with " + ", ".join(f"{name} {value}" for name, value in self.sizes.items())


def smaller_batches_if_needed(function):
    """The training function, called again with smaller batches and more accumulation steps when memory ends.

    Everything is built anew, so that nothing of the broken step stays, and the run goes on from its last good checkpoint. In a process that a
    launcher has started, SmallerBatch goes up to the notebook's process, which starts all of them again.
    """

    @functools.wraps(function)
    def run(*args, **kwargs):
        given = inspect.signature(function).bind(*args, **kwargs)
        given.apply_defaults()
        arguments = dict(given.arguments)
        while True:
            try:
                return function(**arguments)
            except SmallerBatch as smaller:
                if "LOCAL_RANK" in os.environ:
                    raise
                print(smaller, flush=True)
                arguments |= smaller.sizes
            gc.collect()  # outside the handler, whose traceback still holds the model
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    return run


def is_memory_error(error: Exception) -> bool:
    """True for a CUDA card or a machine that has no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in MEMORY_ERRORS)


def halved(batch: int, accumulation: int) -> dict:
    """The two parameters with the largest smaller batch that keeps their product: 4 x 1 -> 2 x 2, 3 x 2 -> 1 x 6."""
    smaller = max(n for n in range(1, batch // 2 + 1) if batch % n == 0)
    return {"per_device_train_batch_size": smaller, "gradient_accumulation_steps": accumulation * batch // smaller}


@contextmanager
def sigterm_noted(guard):
    """Within it SIGTERM sets `guard.stop_asked`, a second one acts at once. Only Python's main thread may set handlers; elsewhere nothing happens."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def note(number, frame):
        guard.stop_asked = True
        signal.signal(signal.SIGTERM, previous)

    signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def agreed(flags: list[bool], device: torch.device) -> list[bool]:
    """The flags that are set in any process: all must stop at the same step, or one waits for the others forever."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return flags
    shared = torch.tensor(flags, dtype=torch.float32, device=device)
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    return (shared > 0).tolist()


def documents_of(lengths: np.ndarray, strategy: str, max_length: int, wanted: set[int]) -> dict[int, list[int]]:
    """Which documents stand in the packed rows `wanted`: row -> document numbers, in order.

    TRL's packing drops every column but tokens and labels, so it is done again with each token replaced by its document's number. Its layout
    depends on the lengths alone and is made PACKED_AT_ONCE documents at a time. Only a run that stops pays for this.
    """
    found, done = {}, 0
    for start in range(0, len(lengths), PACKED_AT_ONCE):
        part = lengths[start : start + PACKED_AT_ONCE]
        numbers = np.repeat(np.arange(start, start + len(part), dtype=np.int64), part)
        offsets = np.concatenate([[0], np.cumsum(part)]).astype(np.int32)
        rows = Dataset(pa.table({"input_ids": pa.ListArray.from_arrays(offsets, numbers)}))
        packed = pack_dataset(rows, max_length, strategy).with_format(None)
        found |= {row: list(dict.fromkeys(packed[row - done]["input_ids"])) for row in wanted if done <= row < done + len(packed)}
        done += len(packed)
        if len(found) == len(wanted):
            break
    return found


class Guard(TrainerCallback):
    """Watches each step of `trainer`: stops before the optimizer moves on a number that is not finite, seals checkpoints, heeds SIGTERM.

    Without it the Trainer logs loss 0.0 from a non-finite step on and "succeeds". Loss and norm stay on the device until the step is
    complete, so that the check costs one synchronisation per step, and all processes stop together, each naming the rows of all.
    """

    def __init__(self, trainer, run_identity: dict, evaluate: bool):
        self.trainer, self.run_identity, self.evaluate = trainer, run_identity, evaluate
        self.batches, self.norm = [], None  # (rows, loss) of the micro-batches since the last step, and their gradient norm
        self.stop_asked = self.stopped = False
        self.seconds_before, self.trained_tokens, self.begun = 0.0, 0, time.monotonic()

    def note_batch(self, rows: torch.Tensor | None, loss: torch.Tensor) -> None:
        """Remember a micro-batch until its step is complete. DeepSpeed steps within backward, so there it is judged at once."""
        self.batches.append((rows, loss.detach()))
        if self.trainer.is_deepspeed_enabled:
            self.judge(self.trainer.state.global_step + 1)
            self.batches.pop()

    def judge(self, step: int) -> bool:
        """Stop on a number of this step that is not finite; returns whether SIGTERM has come, to any process."""
        device = self.trainer.args.device
        losses = torch.stack([loss for _, loss in self.batches]) if self.batches else torch.zeros(1, device=device)
        norm = torch.as_tensor(0.0 if self.norm is None else self.norm, device=device)
        finite = torch.isfinite(torch.cat([losses.float().to(device), norm.float().reshape(1)])).tolist()
        bad_loss, bad_norm, stop = agreed([not all(finite[:-1]), not finite[-1], self.stop_asked], device)
        if bad_loss or bad_norm:
            which = [rows for (rows, _), good in zip(self.batches, finite, strict=False) if not (bad_loss and good)]
            what = "the loss" if bad_loss else "the gradient norm"
            raise UserError(f"training step {step}: {what} is not finite{self.name_rows(which)}. {REMEDY}")
        return stop

    def name_rows(self, batches: list) -> str:
        """" in examples a, b, c": ids of the given micro-batches of every process; for packed rows the ids of all documents in them."""
        rows = [row for batch in batches if batch is not None for row in batch.tolist()]
        ids = self.trainer.ids_of(rows)
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            everyone = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(everyone, ids)
            ids = list(dict.fromkeys(i for one in everyone for i in one))
        more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
        return f" in examples {', '.join(ids[:NAMED])}{more}" if ids else ""

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun = time.monotonic()
        if state.best_global_step:  # the saved path is of the place where the run began, which may have moved since
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.best_global_step}")

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.stopped = self.judge(state.global_step + 1)
        self.batches, self.norm = [], None

    def on_step_end(self, args, state, control, **kwargs):
        last = state.global_step >= state.max_steps
        if self.evaluate and last:
            control.should_evaluate = True  # the Trainer saves the last step but would not evaluate it
        if self.stopped:
            control.should_save = control.should_training_stop = True
        if control.should_save:
            control.should_log = True  # the Trainer forgets the losses since the last line when it resumes
            bad = agreed([bool(not_finite(self.trainer.model))], args.device)[0]
            if bad:
                raise UserError(f"training step {state.global_step}: the weights are no longer finite, so they are not saved. {REMEDY}")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if not np.isfinite(metrics.get("eval_loss", 0.0)):
            raise UserError(f"training step {state.global_step}: the loss on dev examples is not finite. {REMEDY}")

    def on_save(self, args, state, control, **kwargs):
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every process has written its random state
        if state.is_world_process_zero:
            progress = {"step": state.global_step, "seconds": self.seconds(), "trained_tokens": int(self.trained_tokens),
                        "per_device_train_batch_size": args.per_device_train_batch_size, "gradient_accumulation_steps": args.gradient_accumulation_steps}
            checkpoints.seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.run_identity, progress)

    def seconds(self) -> float:
        """Seconds of training so far, those before an interruption included (up to the checkpoint it went on from)."""
        return round(self.seconds_before + time.monotonic() - self.begun, 1)


def not_finite(model) -> list[str]:
    """Names of the trained weight tensors that hold a number which is not finite, as far as this process holds them."""
    held = {name: p.to_local() if isinstance(p, DTensor) else p for name, p in model.named_parameters() if p.requires_grad}
    return [name for name, p in held.items() if not torch.isfinite(p).all()]
