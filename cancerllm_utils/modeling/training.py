"""Continued pre-training on notes and instruction tuning on examples: the two functions that notebooks 03 and 04 call.

Parameters carry TRL's and PEFT's own names; PAPER.md, sections 1 "Continued pre-training" and "Instruction tuning", has the values.
"""

import fcntl
import json
import os
import shutil
from pathlib import Path

import pandas as pd
from peft import LoraConfig, PeftModel

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import checkpoints, launch, models, training_data
from cancerllm_utils.modeling.perplexity import text_loss
from cancerllm_utils.modeling.trainer import learning_curve, make_trainer, train
from cancerllm_utils.tasks.task import load_task, prompt_hash

# The paper describes a fresh adapter on q and v; in the released script TRL ignores that and goes on training the CPT adapter (PAPER.md).
PRESETS = {
    "paper": {"lora_r": 64, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]},
    "released": {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": "all-linear"},
}


def continue_pretraining(
    run_dir, model: str, stage: str = "cpt", tuning: str = "lora", lora_r: int = 8, lora_alpha: int = 16, lora_dropout: float = 0.05,
    target_modules: str | list[str] = "all-linear", learning_rate: float = 2e-4, num_train_epochs: float = 1.0, max_tokens: int = 0,
    per_device_train_batch_size: int = 4, gradient_accumulation_steps: int = 1, max_length: int = 1024, packing_strategy: str = "bfd_split",
    warmup_ratio: float = 0.05, weight_decay: float = 0.01, max_grad_norm: float = 1.0, lr_scheduler_type: str = "linear",
    optim: str = "adamw_torch", gradient_checkpointing: bool = False, load_in_4bit: bool = False, precision: str = "auto", seed: int = 42,
    save_steps: float = 0.25, logging_steps: int = 10, logging_seconds: float = 5.0, num_processes: int = 1,
    accelerate_config: str = "", eval_splits: list[str] = ("dev",), eval_tokens: int = 40_000, eval_texts: dict[str, list[str]] | None = None,
) -> dict:
    """LoRA (or all weights) on the notes of the `train` patients, with held-out loss before and after.

    max_tokens: about so many note tokens are seen in all, epochs included (0: no limit). packing_strategy: `bfd_split` packs whole notes and
    goes on with a long one in the next row; `bfd` cuts long notes off at max_length; `wrapped`, the paper's, lets notes see each other.
    eval_splits: rings whose notes are scored, about eval_tokens tokens of each, the same ones before and after; eval_texts: further named
    texts, for instance general text to measure forgetting.
    Writes models/<model>/<stage>/ and the rows of this stage in results/cpt.csv (model, stage, when, split, loss in nats per token,
    bits_per_byte, tokens, n_notes). Returns model_dir, trainable_parameters, steps, tokens, seconds, scores (a DataFrame).
    Raises UserError for missing data or weights, and on a non-finite step.
    """
    arguments = dict(locals())
    if launch.needed(num_processes):
        return launch.in_processes("continue_pretraining", num_processes, arguments)
    settings = {k: v for k, v in arguments.items() if k not in ("run_dir", "eval_texts")} | {"packing": True, "eval_splits": list(eval_splits)}
    run_dir, entry, place = Path(run_dir), models.model_entry(model), models.device_and_precision(precision)
    notes, tokenizer = training_data.read_notes(run_dir), models.load_tokenizer(model)
    network = models.load_model(model, precision, load_in_4bit)
    held_out = {split: training_data.of_split(notes, split)["text"] for split in eval_splits} | (eval_texts or {})
    held_out = {name: training_data.sample_texts(texts, tokenizer, eval_tokens, seed) for name, texts in held_out.items() if len(texts)}
    token_file = run_dir / "cache" / f"tokens-{entry['name']}-{stage}-{os.environ.get('RANK', 0)}.arrow"
    rows = training_data.note_rows(training_data.of_split(notes, "train"), tokenizer, int(max_tokens / num_train_epochs), seed, token_file)
    print(f"{stage}: {len(rows)} training notes; held out: " + ", ".join(f"{name} {len(texts)} texts" for name, texts in held_out.items()))

    scores = [score_texts(network, tokenizer, held_out, max_length, "before")]
    config = lora_config(settings)
    run_identity = identify(settings, rows, entry["name"], place)
    trainer = make_trainer(network, tokenizer, rows, [], checkpoint_dir(run_dir, entry, stage), settings, place, f"{entry['name']} {stage}",
                           run_identity, config)
    done = train(trainer, run_identity)
    token_file.unlink()
    scores.append(score_texts(trainer.model, tokenizer, held_out, max_length, "after"))

    table = pd.DataFrame([{"model": entry["name"], "stage": stage, **row} for part in scores for row in part],
                         columns=["model", "stage", "when", "split", "loss", "bits_per_byte", "tokens", "n_notes"])
    done = {**done, "trainable_parameters": count(trainer.model), "train_rows": len(rows)}
    if trainer.is_world_process_zero():
        model_dir = save_stage(trainer.model, run_dir, entry, stage, [], settings, place, done)
        write_rows(run_dir / "results" / "cpt.csv", table)
        write_rows(run_dir / "results" / "learning_curve.csv", curve_table(trainer, entry, stage))
        done["model_dir"] = str(model_dir)
    return {**done, "scores": table}


def instruction_tune(
    run_dir, model: str, stage: str = "cpt-sft", tasks: list[str] = ("phenotype_extraction",), preset: str = "paper", tuning: str = "lora", lora_r: int = 0,
    lora_alpha: int = 0, lora_dropout: float = -1.0, target_modules: str | list[str] = "", completion_only_loss: bool = True,
    train_on_eos: bool = True, learning_rate: float = 2e-4, num_train_epochs: float = 5.0, max_examples: int = 0, max_tokens: int = 0,
    max_eval_examples: int = 64, per_device_train_batch_size: int = 1, gradient_accumulation_steps: int = 4, max_length: int = 1024,
    packing: bool = False, warmup_ratio: float = 0.03, weight_decay: float = 0.0, max_grad_norm: float = 0.3,
    lr_scheduler_type: str = "linear", optim: str = "adamw_torch", gradient_checkpointing: bool = False, load_in_4bit: bool = False,
    precision: str = "auto", seed: int = 42, save_steps: float = 0.2, logging_steps: int = 10, logging_seconds: float = 5.0,
    num_processes: int = 1, accelerate_config: str = "", cpt_stage: str = "cpt", train_split: str = "train",
) -> dict:
    """LoRA on prompt/completion examples; the checkpoint with the lowest loss on `dev` examples is kept.

    stage: `sft…` starts from the base; `cpt-sft…` from the CPT stage `cpt_stage` of the same run, merged in fp32 under a fresh adapter
    (preset `paper`) or its adapter continued (preset `released`). lora_r, lora_alpha 0, lora_dropout -1 and target_modules "" mean the
    preset's value. completion_only_loss=False with train_on_eos=False is what the released code trains. max_examples and max_tokens (seen in
    all, epochs included) limit the training rows, 0 is no limit; train_split names another training file, such as train+cf40.
    Writes models/<model>/<stage>/ and the rows of this stage in results/learning_curve.csv (model, stage, step, tokens, loss, dev_loss).
    Returns model_dir, trainable_parameters, train_rows, trained_token_share, steps, tokens, seconds, dev_loss, curve (a DataFrame).
    Raises UserError for missing data, weights or CPT stage, and on a non-finite step.
    """
    arguments = dict(locals())
    if launch.needed(num_processes):
        return launch.in_processes("instruction_tune", num_processes, arguments)
    settings = {k: v for k, v in arguments.items() if k != "run_dir"} | {"tasks": list(tasks), "packing_strategy": "bfd"}
    if preset not in PRESETS:
        raise UserError(f"preset {preset}: unknown. Use one of {', '.join(PRESETS)}.")
    given = {"lora_r": lora_r or None, "lora_alpha": lora_alpha or None, "lora_dropout": None if lora_dropout < 0 else lora_dropout,
             "target_modules": target_modules or None}
    settings |= {name: PRESETS[preset][name] if value is None else value for name, value in given.items()}
    run_dir, entry, place = Path(run_dir), models.model_entry(model), models.device_and_precision(precision)
    tokenizer = models.load_tokenizer(model)
    rows, share = tuning_rows(training_data.read_examples(run_dir, tasks, train_split), tokenizer, settings)
    dev_rows, _ = tuning_rows(training_data.read_examples(run_dir, tasks, "dev"), tokenizer,
                              {**settings, "max_examples": max_eval_examples, "max_tokens": 0})
    print(f"{stage}: {len(rows)} training examples, {100 * share:.1f} % of their tokens trained; {len(dev_rows)} dev examples")

    cpt_dir = models.stage_dir(run_dir, entry, cpt_stage) if stage.startswith("cpt-sft") else None
    network, before, config = start_of_tuning(entry, settings, place, cpt_dir, run_dir)
    run_identity = identify({**settings, "before": [item["sha256"] for item in before]}, rows, entry["name"], place)
    trainer = make_trainer(network, tokenizer, rows, dev_rows, checkpoint_dir(run_dir, entry, stage), settings, place, f"{entry['name']} {stage}",
                           run_identity, config)
    done = train(trainer, run_identity)
    curve = curve_table(trainer, entry, stage)
    done = {**done, "trainable_parameters": count(trainer.model), "train_rows": len(rows), "trained_token_share": share,
            "dev_loss": trainer.state.best_metric, "best_step": trainer.state.best_global_step}
    if trainer.is_world_process_zero():
        model_dir = save_stage(trainer.model, run_dir, entry, stage, before, settings, place, done)
        write_rows(run_dir / "results" / "learning_curve.csv", curve)
        done["model_dir"] = str(model_dir)
    return {**done, "curve": curve}


def tuning_rows(examples: list[dict], tokenizer, settings: dict) -> tuple[list[dict], float]:
    """Token rows of the examples within the settings' budget, checked row by row, and the share of their tokens that is trained."""
    by_id = {example["example_id"]: example for example in examples}
    assert len(by_id) == len(examples), "duplicate example ids"
    how = {"completion_only_loss": settings["completion_only_loss"], "train_on_eos": settings["train_on_eos"]}
    rows = training_data.example_rows(examples, tokenizer, settings["max_length"], **how)
    rows = training_data.take_budget(rows, settings["max_examples"], int(settings["max_tokens"] / settings["num_train_epochs"]), settings["seed"])
    return rows, training_data.check_rows(rows, by_id, tokenizer, **how)


def start_of_tuning(entry: dict, settings: dict, place: dict, cpt_dir: Path | None, run_dir: Path):
    """(model to train, adapters merged before it, LoraConfig or None): where `stage` and `preset` say that tuning starts."""
    name, four_bit = settings["model"], settings["load_in_4bit"]
    if cpt_dir is None:
        return models.load_model(name, settings["precision"], four_bit), [], lora_config(settings)
    card = models.read_card(cpt_dir)
    if settings["preset"] == "released":
        base = models.load_model(name, settings["precision"], four_bit)
        return PeftModel.from_pretrained(base, str(cpt_dir), is_trainable=True), [], None
    before = [{"path": os.path.relpath(cpt_dir, cpt_dir.parent / settings["stage"]), "sha256": card["adapter_sha256"]}]
    merged = models.merged_model(name, [cpt_dir], [card["adapter_sha256"]])
    if place["device"] == "cuda":
        merged = models.to_card(merged, place["precision"], four_bit, run_dir / "cache" / f"merged-{entry['name']}-{os.environ.get('LOCAL_RANK', 0)}")
    return merged, before, lora_config(settings)


def lora_config(settings: dict) -> LoraConfig:
    """PEFT's configuration from the settings' own names."""
    return LoraConfig(r=settings["lora_r"], lora_alpha=settings["lora_alpha"], lora_dropout=settings["lora_dropout"],
                      target_modules=settings["target_modules"], bias="none", task_type="CAUSAL_LM")


def score_texts(model, tokenizer, held_out: dict[str, list[str]], max_length: int, when: str) -> list[dict]:
    """Loss and bits per byte of each named list of texts, a row each; prints one line per list. Only the main process of several measures."""
    rows = []
    for name, texts in held_out.items() if launch.main_process() else ():
        scores = text_loss(model, tokenizer, texts, max_length)
        rows.append({"when": when, "split": name, "loss": scores["loss"], "bits_per_byte": scores["bits_per_byte"],
                     "tokens": scores["tokens"], "n_notes": len(texts)})
        print(f"{when}: {name} loss {scores['loss']:.3f}, {scores['bits_per_byte']:.3f} bits per byte ({len(texts)} texts, "
              f"{scores['tokens']:,} tokens)", flush=True)
    return rows


def count(model) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def checkpoint_dir(run_dir: Path, entry: dict, stage: str) -> Path:
    """Folder of a stage's checkpoints: apart from models/, which holds finished stages only, and emptied when the stage is finished."""
    return Path(run_dir) / "checkpoints" / entry["name"] / stage


def identify(settings: dict, rows: list[dict], model_name: str, place: dict) -> str:
    """The run's identity for its checkpoints: parameters (but those that only print), token rows, base weights, versions, device."""
    settings = {k: v for k, v in settings.items() if k not in ("logging_seconds", "eval_splits", "eval_tokens")}
    return checkpoints.identity({"settings": settings, "data": training_data.digest(rows), "base": models.base_revision(settings["model"]),
                                 "name": model_name, "versions": models.library_versions(), "device": place["device"], "precision": place["precision"]})


def curve_table(trainer, entry: dict, stage: str) -> pd.DataFrame:
    """The learning curve with model and stage."""
    columns = ["model", "stage", "step", "tokens", "loss", "dev_loss"]
    return pd.DataFrame([{"model": entry["name"], "stage": stage, **point} for point in learning_curve(trainer)], columns=columns)


def save_stage(model, run_dir: Path, entry: dict, stage: str, before: list[dict], settings: dict, place: dict, done: dict) -> Path:
    """Adapter and cancerllm.json into models/<model>/<stage>/, as a whole or not at all; the stage's checkpoints are removed."""
    target = models.stage_dir(run_dir, entry, stage)
    draft = target.with_name(f".{stage}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(str(draft), safe_serialization=True)
    (draft / "README.md").unlink(missing_ok=True)  # PEFT's empty model card; the project writes its own
    made = run_dir / "datasets" / "settings.json"
    data = json.loads(made.read_text()) if made.is_file() and "tasks" in settings else {}
    tasks = settings.get("tasks", [])
    card = {
        "format": 1, "model": entry["name"], "stage": stage, "base": settings["model"], "base_revision": models.base_revision(settings["model"], model),
        "adapters_before": before, "adapter_sha256": models.sha256(draft / models.ADAPTER), "precision": place["precision"],
        "load_in_4bit": settings["load_in_4bit"], "prompt": entry["prompt"], "prompt_hash": {task: prompt_hash(load_task(task)) for task in tasks},
        "tasks": tasks, "fields": {task: data.get("fields", {}).get(task, []) for task in tasks},
        "context_tokens": data.get("context_tokens"), "corpus": data.get("corpus"), "datasets": data,
        "training": settings, "outcome": done, "versions": models.library_versions(),
    }
    (draft / models.CARD).write_text(json.dumps(card, indent=1, default=str) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    draft.replace(target)
    shutil.rmtree(checkpoint_dir(run_dir, entry, stage), ignore_errors=True)
    return target


def write_rows(path: Path, table: pd.DataFrame) -> None:
    """Put `table` into a results file in place of its rows of the same model and stage; safe when two jobs write at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.is_file():
            old = pd.read_csv(path)
            keys = set(zip(table["model"], table["stage"], strict=True))
            old = old[[key not in keys for key in zip(old["model"], old["stage"], strict=True)]]
            table = pd.concat([old, table], ignore_index=True) if len(old) else table
        draft = path.with_name(f".{path.name}.draft")
        table.to_csv(draft, index=False)
        draft.replace(path)
