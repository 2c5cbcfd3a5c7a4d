"""What a finished stage leaves behind: its weights with a card, and its rows in the result files."""

import fcntl
import json
import shutil
from pathlib import Path

import pandas as pd

from cancerllm_utils.modeling import checkpoints, launch, models
from cancerllm_utils.modeling.trainer import learning_curve
from cancerllm_utils.results import TRAINING_COLUMNS
from cancerllm_utils.tasks.task import load_task, prompt_hash


def checkpoint_dir(run_dir: Path, entry: dict, stage: str) -> Path:
    """Folder of a stage's checkpoints: apart from models/, which holds finished stages only, and emptied when the stage is finished."""
    return Path(run_dir) / "checkpoints" / entry["name"] / stage


def save_stage(trainer, run_dir: Path, entry: dict, stage: str, before: list[dict], settings: dict, place: dict, done: dict) -> Path:
    """Weights and cancerllm.json into models/<model>/<stage>/, as a whole or not at all.

    An adapter in PEFT's layout, or with tuning full the whole weights as model.safetensors. Weights that several processes hold in parts are
    gathered first, so every process must call this; the main one writes.
    """
    target = models.stage_dir(run_dir, entry, stage)
    gathered = launch.whole_weights(trainer)
    if not trainer.is_world_process_zero():
        return target
    model, full = trainer.model, settings["tuning"] == "full"
    draft = target.with_name(f".{stage}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(str(draft), safe_serialization=True, state_dict=gathered, **({"max_shard_size": "1TB"} if full else {}))
    (draft / "README.md").unlink(missing_ok=True)  # PEFT's empty model card; the project writes its own
    made = run_dir / "datasets" / "settings.json"
    data = json.loads(made.read_text()) if made.is_file() and "tasks" in settings else {}
    tasks = settings.get("tasks", [])
    card = {
        "format": 1, "model": entry["name"], "stage": stage, "tuning": settings["tuning"], "base": settings["model"],
        "base_revision": models.base_revision(settings["model"], model), "adapters_before": [] if full else before, "trained_from": before,
        "adapter_sha256": models.sha256(draft / (models.WHOLE if full else models.ADAPTER)), "precision": place["precision"],
        "load_in_4bit": settings["load_in_4bit"], "prompt": entry["prompt"], "prompt_hash": {task: prompt_hash(load_task(task)) for task in tasks},
        "tasks": tasks, "fields": {task: data.get("fields", {}).get(task, []) for task in tasks},
        "context_tokens": data.get("context_tokens"), "corpus": data.get("corpus"), "datasets": data,
        "training": settings, "outcome": done, "versions": models.library_versions(),
    }
    (draft / models.CARD).write_text(json.dumps(card, indent=1, default=str) + "\n")
    for file in [*draft.iterdir(), draft]:
        checkpoints.flush_to_disk(file)
    shutil.rmtree(target, ignore_errors=True)
    draft.replace(target)
    return target


def forget_checkpoints(run_dir: Path, entry: dict, stage: str) -> None:
    """Remove a finished stage's checkpoints: the last thing to do, or a run killed before its results are written would train again."""
    shutil.rmtree(checkpoint_dir(run_dir, entry, stage), ignore_errors=True)


def write_rows(path: Path, table: pd.DataFrame, by: list[str] = ("model", "stage")) -> None:
    """Put `table` into a results file in place of its rows with the same `by`; safe when two jobs write at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.is_file():
            old = pd.read_csv(path)
            keys = set(table[list(by)].itertuples(index=False, name=None))
            old = old[[key not in keys for key in old[list(by)].itertuples(index=False, name=None)]]
            table = pd.concat([old, table], ignore_index=True) if len(old) else table
        draft = path.with_name(f".{path.name}.draft")
        table.to_csv(draft, index=False)
        draft.replace(path)


def write_results(run_dir: Path, scores: pd.DataFrame, curve: pd.DataFrame, training: pd.DataFrame) -> None:
    """The rows of one stage into results/cpt.csv, learning_curve.csv and training.csv."""
    for name, table in (("cpt", scores), ("learning_curve", curve), ("training", training)):
        if len(table):
            write_rows(run_dir / "results" / f"{name}.csv", table)


def curve_table(trainer, entry: dict, stage: str) -> pd.DataFrame:
    """The learning curve with model and stage: step, tokens, loss, dev_loss."""
    columns = ["model", "stage", "step", "tokens", "loss", "dev_loss"]
    return pd.DataFrame([{"model": entry["name"], "stage": stage, **point} for point in learning_curve(trainer)], columns=columns)


def training_table(trainer, entry: dict, stage: str, settings: dict, place: dict, done: dict, memory: dict, energy_kwh) -> pd.DataFrame:
    """The stage's one row of results/training.csv (TRAINING_COLUMNS).

    tokens: all that were seen, padding apart, of which trained_tokens carried loss; peak_memory_gib: of the main process, as `memory_of` says; energy_kwh: empty without codecarbon.
    """
    adapter = None if settings["tuning"] == "full" else trainer.accelerator.unwrap_model(trainer.model).peft_config["default"]
    row = {"model": entry["name"], "stage": stage, "tuning": settings["tuning"], "preset": settings.get("preset", "") if adapter else "", "lora_r": adapter and adapter.r,
           "device": place["device"], "precision": place["precision"],
           "num_processes": settings["num_processes"], "energy_kwh": energy_kwh, **memory}
    return pd.DataFrame([row | {key: done[key] for key in TRAINING_COLUMNS if key in done}], columns=TRAINING_COLUMNS)


def count(model) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
