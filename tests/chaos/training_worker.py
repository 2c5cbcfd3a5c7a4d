"""Tiny trainings, each in a process of its own that may be killed, beside one process that has imported everything once and forks them.

    python training_worker.py FOLDER < cases.jsonl    (answers each case before it reads the next)

FOLDER/base holds a random model of 2 layers and a run folder of invented notes and questions. A case is a dictionary:
  name     folder of the run below FOLDER; a run that is there goes on
  copy     run folder to start from, copied first
  stage    cpt (packing, dropout, accumulation; two and a half epochs) or sft (the same with dev examples and the best checkpoint)
  changed  parameters of the training function that differ
  kill     {"at": n, "how": before | torn | unsynced}: SIGKILL before the n-th event; torn halves the file that was last written,
           unsynced empties every file that was written and not flushed since (what a power cut may leave)
  signal   n: SIGTERM at the n-th event
  memory   rows of a batch at which memory ends
  workers  number of data loading processes
  processes  2: two processes over gloo; a kill, signal or poison meets the second one
  poison   {"what": loss | gradient, "step": n}: not a number in that step
An event is a file below the run folder opened for writing, made, renamed or deleted, or the beginning or end of a step or micro-batch.
Printed: one line of JSON per case: name, codes (exit codes, or minus the signal), adapter (sha256 of the trained weights, "" if there are
none), curve (sha256 of the learning curve), kept (sealed checkpoints), events, message (last line), log.
"""

import gc
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import datasets
import pandas as pd
import peft.peft_model
import torch
import torch.distributed
import transformers.modeling_utils
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import guards, trainer, training

SIDES, ORGANS = ["Right", "Left"], ["breast", "lung", "colon", "kidney", "bladder", "prostate"]
SETTINGS = {
    "cpt": {"num_train_epochs": 2.5, "per_device_train_batch_size": 2, "eval_splits": [], "max_length": 96},
    "sft": {"num_train_epochs": 3.0, "per_device_train_batch_size": 2, "packing": True, "max_length": 128, "lora_r": 4, "lr_scheduler_type": "constant",
            "learning_rate": 1.0, "weight_decay": 0.1},  # so high that the last checkpoint is not the best
}
BOTH = {"gradient_accumulation_steps": 2, "lora_dropout": 0.2, "save_steps": 3, "logging_steps": 2, "learning_rate": 1e-2, "precision": "fp32", "seed": 3}


def note_text(i: int) -> str:
    return f"Specimen {i}: {SIDES[i % 2].lower()} {ORGANS[i % 6]}. A tumor of {i % 9 + 1}.{i % 7} cm was found in the {ORGANS[i % 6]} and removed. " * (i % 3 + 1)


def make_base(folder: Path) -> None:
    """folder/model and folder/run: everything that a run starts from."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    raw.train_from_iterator([note_text(i) for i in range(60)] + ["### Response:\nRight"], trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>").save_pretrained(folder / "model")
    torch.manual_seed(0)
    MistralForCausalLM(MistralConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        max_position_embeddings=512, sliding_window=None, tie_word_embeddings=True, initializer_range=0.1, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )).save_pretrained(folder / "model")
    corpus, rows = folder / "run" / "corpus", range(40)
    corpus.mkdir(parents=True)
    pd.DataFrame({"patient_id": [f"p{i // 2}" for i in rows], "note_id": [f"n{i}" for i in rows], "site": "s", "institution": "i", "note_type": "pathology",
                  "cancer_type": [("BRCA", "LUAD")[i % 2] for i in rows], "text": [note_text(i) for i in rows]}).to_parquet(corpus / "notes.parquet")
    pd.DataFrame({"patient_id": [f"p{i}" for i in range(20)], "split": ["train"] * 15 + ["dev"] * 5}).to_parquet(corpus / "splits.parquet")
    for split, numbers in (("train", range(30)), ("dev", range(30, 36))):
        path = folder / "run" / "datasets" / "phenotype_extraction" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({
            "example_id": f"e{i}", "patient_id": f"p{i // 2}", "note_id": f"n{i}", "task": "phenotype_extraction", "field": "laterality",
            "prompt": f"### Input:\n{note_text(i)[:80]} What is the laterality?\n\n### Response:\n", "completion": SIDES[i % 2], "answers": [SIDES[i % 2]],
        }) + "\n" for i in numbers))


class Events:
    """Counts what a run does to its folder and which steps it takes, and ends the process, or signals it, at one of them."""

    def __init__(self, folder: Path, kill: dict, signal_at: int):
        self.folder, self.kill, self.signal_at, self.seen, self.written, self.flushed = f"{folder}/", kill, signal_at, [], [], set()

    def add(self, label: str) -> None:
        self.seen.append(label)
        if len(self.seen) == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if len(self.seen) == self.kill.get("at"):
            self.kill = {**self.kill, "at": 0}
            self.damage(self.kill["how"])
            os.kill(os.getpid(), signal.SIGKILL)

    def damage(self, how: str) -> None:
        there = [Path(name) for name in dict.fromkeys(self.written) if Path(name).is_file()]
        if how == "torn" and there:
            os.truncate(there[-1], there[-1].stat().st_size // 2)
        if how == "unsynced":
            for file in there:
                if (file.stat().st_ino, file.stat().st_mtime_ns) not in self.flushed:
                    os.truncate(file, 0)

    def audit(self, event: str, args: tuple) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree") or not isinstance(args[0], str | Path):
            return
        path = os.path.abspath(args[0])
        if not path.startswith(self.folder) or path.endswith((".lock", "events.json")) or (event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if event == "os.mkdir" and os.path.isdir(path):
            return  # made with exist_ok: nothing happens
        self.add(f"{event} {path.removeprefix(self.folder)}")
        self.written.append(os.path.abspath(args[1]) if event == "os.rename" else path)

    def native(self, write, position: int):
        """torch.save and safetensors write from C and Rust, which no audit hook sees."""

        def counted(*args, **kwargs):
            path = os.path.abspath(args[position])
            self.add(f"write {path.removeprefix(self.folder)}")
            write(*args, **kwargs)
            self.written.append(path)
            self.add(f"written {path.removeprefix(self.folder)}")

        return counted

    def fsync(self, flush):
        def noted(handle):
            flush(handle)
            state = os.fstat(handle)
            self.flushed.add((state.st_ino, state.st_mtime_ns))

        return noted

    def install(self) -> None:
        torch.save = self.native(torch.save, 1)
        peft.peft_model.safe_save_file = self.native(peft.peft_model.safe_save_file, 1)
        transformers.modeling_utils.safe_save_file = self.native(transformers.modeling_utils.safe_save_file, 1)
        os.fsync = self.fsync(os.fsync)
        ended = guards.Guard.on_step_end

        def on_step_end(guard, args, state, control, **kwargs):
            self.add(f"step {state.global_step}")
            ended(guard, args, state, control, **kwargs)

        guards.Guard.on_step_end = on_step_end
        guards.Guard.on_step_begin = lambda guard, args, state, control, **kwargs: self.add(f"begin {state.global_step + 1}")
        guards.Guard.on_substep_end = lambda guard, args, state, control, **kwargs: self.add("micro-batch")
        sys.addaudithook(self.audit)


def poison(what: str, step: int) -> None:
    """Make the loss, or a gradient alone, not a number in the second micro-batch of that step."""
    real, calls = trainer.NotesTrainer.compute_loss, [0, 0]

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = real(self, model, inputs, *args, **kwargs)
        if not self.model.training or self.state.global_step + 1 != step:
            return loss
        calls[0] += 1
        if calls[0] != 2:
            return loss
        if what == "gradient":
            next(p for p in self.model.parameters() if p.requires_grad).register_hook(lambda grad: grad * float("nan"))
            return loss
        self.guard.batches[-1] = (self.guard.batches[-1][0], loss.detach() * float("nan"))
        return loss * float("nan")

    trainer.NotesTrainer.compute_loss = compute_loss


def memory_ends_at(rows: int) -> None:
    """As if memory did not suffice for a batch of so many rows, from the fifth step on."""
    real = trainer.NotesTrainer.compute_loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        if self.model.training and self.state.global_step >= 4 and self.args.per_device_train_batch_size >= rows:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")
        return real(self, model, inputs, *args, **kwargs)

    trainer.NotesTrainer.compute_loss = compute_loss


def run(case: dict, base: Path, folder: Path, rank: int) -> int:
    """One training in this process; returns its exit code."""
    meant = case if rank == case.get("processes", 1) - 1 else {}
    events = Events(folder, meant.get("kill", {}), meant.get("signal", 0))
    events.install()
    if "poison" in meant:
        poison(**meant["poison"])
    if "memory" in meant:
        memory_ends_at(meant["memory"])
    if "workers" in case:
        config = trainer.SFTConfig
        trainer.SFTConfig = lambda **settings: config(**settings, dataloader_num_workers=case["workers"])
    function = {"cpt": training.continue_pretraining, "sft": training.instruction_tune}[case["stage"]]
    settings = {**BOTH, **SETTINGS[case["stage"]], **case.get("changed", {}), "num_processes": case.get("processes", 1)}
    try:
        function(str(folder), str(base / "model"), stage=case["stage"], **settings)
    except (UserError, guards.SmallerBatch) as error:
        print(f"{type(error).__name__}: {error}")
        return 2
    finally:
        if rank == 0:
            (folder / "events.json").write_text(json.dumps(events.seen))
    return 0


def forked(work, log: Path, environment: dict) -> int:
    """work() in a child process that writes to `log`; returns its process id."""
    child = os.fork()
    if child:
        return child
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    code = 1
    try:
        code = work()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(child: int) -> int:
    """Exit code of a child, or minus the signal that ended it; one that hangs for ten minutes is killed (-9)."""
    for _ in range(6000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def outcome(case: dict, folder: Path, base: Path) -> dict:
    """Run a case to its end, killing what hangs for a minute, and say how it ended."""
    if "copy" in case:
        shutil.copytree(folder.parent / case["copy"], folder)
    elif not folder.exists():
        shutil.copytree(base / "run", folder)
    processes, port = case.get("processes", 1), str(free_port())
    places = [{} if processes == 1 else {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                                         "ACCELERATE_USE_CPU": "true"} for rank in range(processes)]
    logs = [folder.parent / f"{folder.name}.{rank}.log" for rank in range(processes)]
    children = [forked(lambda rank=rank: run(case, base, folder, rank), logs[rank], places[rank]) for rank in range(processes)]
    codes = [ended(child) for child in reversed(children)][::-1]  # the last is the one that something happens to
    text = "".join(log.read_text(errors="replace") for log in logs)
    weights = "model.safetensors" if case.get("changed", {}).get("tuning") == "full" else "adapter_model.safetensors"
    adapter = folder / "models" / "model" / case["stage"] / weights
    curve = folder / "results" / "learning_curve.csv"
    digests = {name: hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "" for name, file in (("adapter", adapter), ("curve", curve))}
    kept = [path.parent.name for path in folder.rglob("manifest.json")]
    seen = json.loads((folder / "events.json").read_text()) if (folder / "events.json").is_file() else []
    return {"name": case["name"], "codes": codes, **digests, "kept": sorted(kept), "events": seen, "message": (text.strip().splitlines() or [""])[-1], "log": text}


def main(root: str) -> None:
    root = Path(root)
    base = root / "base"
    if not base.exists():
        make_base(base)
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    MistralForCausalLM.from_pretrained(base / "model")  # fills the library's caches, which every fork inherits
    gc.freeze()
    for line in sys.stdin:
        case = json.loads(line)
        print(json.dumps(outcome(case, root / case["name"], base)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
