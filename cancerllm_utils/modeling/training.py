"""Continued pre-training on notes and instruction tuning on examples: the two functions that notebooks 03 and 04 call.

Parameters carry TRL's and PEFT's own names; PAPER.md, sections 1 "Continued pre-training" and "Instruction tuning", has the values.
"""

import gc
import json
import os
import shutil
from pathlib import Path

import pandas as pd
from peft import LoraConfig, PeftModel

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import checkpoints, held_out, label_filter, launch, models, stages, training_data
from cancerllm_utils.modeling.energy import measured_energy
from cancerllm_utils.modeling.general_text import general_texts
from cancerllm_utils.modeling.guards import smaller_batches_if_needed
from cancerllm_utils.modeling.memory import measured_memory
from cancerllm_utils.modeling.trainer import make_trainer, quiet, train
from cancerllm_utils.tasks import counterfactual

# The paper describes a fresh adapter on q and v; in the released script TRL ignores that and goes on training the CPT adapter (PAPER.md).
PRESETS = {
    "paper": {"lora_r": 64, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]},
    "released": {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": "all-linear"},
}
PAPER_BASE = "mistral-7b-instruct-v0.1"


@smaller_batches_if_needed
def continue_pretraining(
    run_dir, model: str, stage: str = "cpt", tuning: str = "lora", lora_r: int = 8, lora_alpha: int = 16, lora_dropout: float = 0.05,
    target_modules: str | list[str] = "all-linear", learning_rate: float = 2e-4, num_train_epochs: float = 1.0, max_tokens: int = 0,
    per_device_train_batch_size: int = 4, gradient_accumulation_steps: int = 1, max_length: int = 1024, packing_strategy: str = "bfd_split",
    warmup_ratio: float = 0.05, weight_decay: float = 0.01, max_grad_norm: float = 1.0, lr_scheduler_type: str = "linear",
    optim: str = "adamw_torch", gradient_checkpointing: bool = False, load_in_4bit: bool = False, precision: str = "auto", seed: int = 42,
    save_steps: float = 0.25, logging_steps: int = 10, logging_seconds: float = 5.0, num_processes: int = 1,
    accelerate_config: str = "", eval_splits: list[str] = ("dev",), eval_tokens: int = 40_000, during_tokens: int = 0,
    general_text: list[str] = (), general_tokens: int = 5000,
) -> dict:
    """LoRA on the notes of the `train` patients (tuning full: all weights), with held-out loss before, during and after.

    max_tokens: about so many note tokens are seen in all, epochs included (0: no limit). packing_strategy: `bfd_split` packs whole notes and
    goes on with a long one in the next row; `bfd` cuts long notes off at max_length; `wrapped`, the paper's, lets notes see each other.
    eval_splits: rings whose notes are scored, about eval_tokens tokens of each, the same ones before and after; during_tokens: as many of
    the first ring and of the general text wherever a checkpoint is saved (0: never); general_text: sources of held-out general text to
    measure forgetting on (general_text.SOURCES), general_tokens of each. accelerate_config: how several processes share the work (launch).
    Writes models/<model>/<stage>/ and the rows of this stage in results/cpt.csv (results.CPT_COLUMNS), learning_curve.csv and training.csv.
    Returns model_dir, trainable_parameters, train_rows, steps, tokens, seconds, scores (rows of cpt.csv), curve and training (DataFrames).
    Raises UserError for missing data or weights, and on a non-finite step.
    """
    arguments = dict(locals())
    if launch.needed(num_processes, accelerate_config):
        return launch.in_processes("continue_pretraining", num_processes, arguments, accelerate_config)
    settings = {k: v for k, v in arguments.items() if k != "run_dir"} | {"packing": True}
    check_tuning(settings)
    run_dir, entry, place = Path(run_dir), models.model_entry(model), models.device_and_precision(precision)
    quiet()
    notes, tokenizer = training_data.read_notes(run_dir), models.load_tokenizer(model)
    network = models.load_model(model, "fp32" if tuning == "full" else precision, load_in_4bit)
    texts = held_out.sampled_notes(notes, eval_splits, tokenizer, eval_tokens, seed)
    general = held_out.sampled_general(general_texts(general_text), tokenizer, general_tokens, seed)
    token_file = run_dir / "cache" / f"tokens-{entry['name']}-{stage}-{os.environ.get('RANK', 0)}.arrow"
    rows = training_data.note_rows(training_data.of_split(notes, "train"), tokenizer, int(max_tokens / num_train_epochs), seed, token_file)
    print(f"{stage}: {len(rows)} training notes; held out: " + ", ".join(f"{name} {len(table)} texts" for name, table in (texts | general).items()))

    run_identity = identify(settings, rows, [], entry["name"], place)
    done = run_stage(network, tokenizer, rows, [], run_dir, entry, stage, [], settings, place, run_identity, None if tuning == "full" else lora_config(settings),
                     texts, general)
    token_file.unlink()
    return done


@smaller_batches_if_needed
def instruction_tune(
    run_dir, model: str, stage: str = "cpt-sft", tasks: list[str] = ("phenotype_extraction",), preset: str = "paper", tuning: str = "lora", lora_r: int = 0,
    lora_alpha: int = 0, lora_dropout: float = -1.0, target_modules: str | list[str] = "", completion_only_loss: bool = True,
    train_on_eos: bool = True, learning_rate: float = 2e-4, num_train_epochs: float = 5.0, max_examples: int = 0, max_tokens: int = 0, max_institutions: int = 0,
    max_eval_examples: int = 64, per_device_train_batch_size: int = 1, gradient_accumulation_steps: int = 4, max_length: int = 1024,
    packing: bool = False, warmup_ratio: float = 0.03, weight_decay: float = 0.0, max_grad_norm: float = 0.3,
    lr_scheduler_type: str = "linear", optim: str = "adamw_torch", gradient_checkpointing: bool = False, load_in_4bit: bool = False,
    precision: str = "auto", seed: int = 42, save_steps: float = 0.2, logging_steps: int = 10, logging_seconds: float = 5.0,
    num_processes: int = 1, accelerate_config: str = "", cpt_stage: str = "cpt", train_split: str = "train", general_text: list[str] = (),
    general_tokens: int = 5000, counterfactual_rate: float = 0.0, counterfactual_mode: str = "random", label_filter: str = "", label_filter_share: float = 0.3,
    augment: list[str] = (), augment_rate: float = 0.0,
) -> dict:
    """LoRA on prompt/completion examples (tuning full: all weights); the checkpoint with the lowest loss on `dev` examples is kept.

    stage: `sft…` starts from the base; `cpt-sft…` from the CPT stage `cpt_stage` of the same run, merged in fp32 under a fresh adapter
    (preset `paper`) or its adapter continued (preset `released`); with tuning full the preset only names the run. lora_r, lora_alpha 0,
    lora_dropout -1 and target_modules "" mean the preset's value. completion_only_loss=False with train_on_eos=False is what the released
    code trains. max_examples and max_tokens (seen in all, epochs included) limit the training rows, 0 is no limit; max_institutions:
    examples of so many training institutions only (training_data.of_first_institutions); train_split names another
    training file. general_text, general_tokens: general text whose loss is measured before and after, for forgetting.
    counterfactual_rate, counterfactual_mode: a share of the stated training answers is replaced (tasks.counterfactual); label_filter takes out
    training answers that look false (label_filter.METHODS, small_loss the share label_filter_share of each field); what it takes out is not made up
    for. augment: testbeds of evaluation.perturb, one of which damages the context of about a share augment_rate of the training items. Development
    examples, which choose the checkpoint, stay as they are.
    Writes models/<model>/<stage>/ (corrupted.csv in it where answers were replaced) and the rows of this stage in results/learning_curve.csv (model, stage,
    step, tokens, loss, dev_loss), training.csv, for the general text cpt.csv, and with a filter label_filter.csv.
    Returns model_dir, trainable_parameters, train_rows, trained_token_share, steps, tokens, seconds, dev_loss, adapter (its four settings), data
    (rows and tokens per data set), corrupted (number of replaced answers), filtered (label_filter.COLUMNS), curve, scores, training (DataFrames).
    Raises UserError for missing data, weights or CPT stage, for settings that cannot be, and on a non-finite step.
    """
    arguments = dict(locals())
    settings = {k: v for k, v in arguments.items() if k != "run_dir"} | {"packing_strategy": "bfd"} | adapter_settings(arguments)
    check_tuning(settings)
    if launch.needed(num_processes, accelerate_config):
        return launch.in_processes("instruction_tune", num_processes, arguments, accelerate_config)
    run_dir, entry, place = Path(run_dir), models.model_entry(model), models.device_and_precision(precision)
    tokenizer = models.load_tokenizer(model)
    examples, corrupted = training_data.tuning_examples(run_dir, train_split, settings)
    fitting, rows = tuning_rows(examples, tokenizer, settings)
    dev_examples = {task: training_data.read_examples(run_dir, [task], "dev") for task in tasks}
    dev_fitting, dev_rows = tuning_rows(dev_examples, tokenizer, {**settings, "max_examples": max_eval_examples, "max_tokens": 0})
    general = held_out.sampled_general(general_texts(general_text), tokenizer, general_tokens, seed)

    cpt_dir = models.stage_dir(run_dir, entry, cpt_stage) if stage.startswith("cpt-sft") else None
    if cpt_dir and preset == "released" and tuning == "lora":
        settings |= continued_adapter(cpt_dir)
    starting = {**settings, "starts from": models.read_card(cpt_dir)["adapter_sha256"] if cpt_dir else "base"}
    dropped, filtered = suspects(rows, examples, corrupted, tokenizer, starting, place, entry, cpt_dir, run_dir)
    rows = [row for row in rows if row["example_id"] not in dropped]
    data = pd.concat([data_table(examples, fitting, rows, dropped, tokenizer, settings, train_split),
                      data_table(dev_examples, dev_fitting, dev_rows, set(), tokenizer, settings, "dev")], ignore_index=True)
    network, before, config = start_of_tuning(entry, settings, place, cpt_dir, run_dir)
    run_identity = identify(starting, rows, dev_rows, entry["name"], place)
    done = run_stage(network, tokenizer, rows, dev_rows, run_dir, entry, stage, before, settings, place, run_identity, config, {}, general)
    if len(corrupted) and launch.main_process():
        corrupted.assign(trained=corrupted["example_id"].isin({row["example_id"] for row in rows})).to_csv(Path(done["model_dir"]) / counterfactual.FILE, index=False)
    share = float(data["trained tokens"][: len(tasks)].sum() / data["tokens"][: len(tasks)].sum())
    return {**done, "trained_token_share": share, "data": data, "corrupted": len(corrupted), "filtered": filtered,
            "adapter": {name: settings[name] for name in PRESETS["paper"]}}


def run_stage(network, tokenizer, rows, dev_rows, run_dir, entry, stage, before, settings, place, run_identity, config, notes, general) -> dict:
    """What both kinds of stage share: measure, train, measure again, write the stage and its rows in the result files."""
    texts, max_length, during = notes | general, settings["max_length"], settings.get("during_tokens", 0)
    first = held_out.measure(network, tokenizer, texts, max_length, "before")
    trainer = make_trainer(network, tokenizer, rows, dev_rows, stages.checkpoint_dir(run_dir, entry, stage), settings, place, f"{entry['name']} {stage}",
                           run_identity, config)
    watched = [*list(notes)[:1], *general]
    trainer.add_callback(held_out.MeasureDuring(held_out.small_samples(texts, {name: first[name] for name in watched if name in first}, during), tokenizer, max_length))
    with measured_energy() as energy, measured_memory(0.2) as memory:
        done = train(trainer, run_identity)
    last = held_out.measure(trainer.model, tokenizer, texts, max_length, "after")

    history = [point for point in trainer.state.log_history if "held_out" in point]
    scores = held_out.score_table(entry["name"], stage, texts, first, last, history, done["steps"], during, watched)
    done["seconds"] = round(done["seconds"] - sum(point["seconds"] for point in history), 1)  # training alone
    done |= {"trainable_parameters": stages.count(trainer.model), "train_rows": len(rows), "tokens_per_second": round(done["tokens"] / max(done["seconds"], 0.1), 1)}
    if dev_rows:
        done |= {"dev_loss": trainer.state.best_metric, "best_step": trainer.state.best_global_step}
    tables = {"scores": scores, "curve": stages.curve_table(trainer, entry, stage),
              "training": stages.training_table(trainer, entry, stage, settings, place, done, memory, energy["kwh"])}
    done["model_dir"] = str(stages.save_stage(trainer, run_dir, entry, stage, before, settings, place, done))
    if trainer.is_world_process_zero():
        stages.write_results(run_dir, **tables)
        stages.forget_checkpoints(run_dir, entry, stage)
    return {**done, **tables}


def adapter_settings(given: dict) -> dict:
    """The adapter's four settings: what was given, the preset's value where 0, -1 or "" stands. Raises UserError for an unknown preset."""
    if given["preset"] not in PRESETS:
        raise UserError(f"preset {given['preset']}: unknown. Use one of {', '.join(PRESETS)}.")
    own = {"lora_r": given["lora_r"] or None, "lora_alpha": given["lora_alpha"] or None, "target_modules": given["target_modules"] or None,
           "lora_dropout": None if given["lora_dropout"] < 0 else given["lora_dropout"]}
    return {name: PRESETS[given["preset"]][name] if value is None else value for name, value in own.items()}


def preset_table(model: str, **given) -> pd.DataFrame:
    """What each preset and this run train: settings and number of trained parameters, on `model` and (presets) on the paper's base, from shapes.

    `given`: preset, tuning, lora_r, lora_alpha, lora_dropout, target_modules of this run. No weights are read.
    """
    rows = {name: {**settings, "tuning": "lora"} for name, settings in PRESETS.items()}
    none = {"lora_r": None, "lora_alpha": None, "lora_dropout": None, "target_modules": "all"}
    rows["this run"] = (none if given["tuning"] == "full" else adapter_settings(given)) | {"tuning": given["tuning"]}
    table = []
    for name, chosen in rows.items():
        modules = chosen["target_modules"]
        counts = {base: models.parameter_count(base) if chosen["tuning"] == "full" else models.count_trainable(base, chosen["lora_r"], modules)
                  for base in ([model] if name == "this run" else dict.fromkeys([model, PAPER_BASE]))}
        table.append({"": name, "tuning": chosen["tuning"], "r": chosen["lora_r"], "alpha": chosen["lora_alpha"], "dropout": chosen["lora_dropout"],
                      "layers": modules if isinstance(modules, str) else ", ".join(modules), **{f"trained on {Path(base).name}": n for base, n in counts.items()}})
    return pd.DataFrame(table).set_index("").convert_dtypes()


def preset_shapes(model: str) -> pd.DataFrame:
    """The matrices of both presets on `model`: preset, module, A shape, B shape, parameters per layer, layers, total."""
    parts = [models.adapter_shapes(model, chosen["lora_r"], chosen["target_modules"]).assign(preset=name) for name, chosen in PRESETS.items()]
    return pd.concat(parts, ignore_index=True).set_index(["preset", "module"])


def continued_adapter(cpt_dir: Path) -> dict:
    """The settings of the adapter that preset `released` goes on training: whatever else was asked for does not apply, as in the released code."""
    if models.read_card(cpt_dir).get("tuning", "lora") == "full":
        raise UserError(f"preset released: it goes on training the adapter of {cpt_dir.name}, which has none (tuning full). Use preset paper, or tuning: full.")
    config = LoraConfig.from_pretrained(str(cpt_dir))
    print(f"preset released: the adapter of {cpt_dir.name} is trained on (r {config.r}, alpha {config.lora_alpha}); lora_r, lora_alpha, lora_dropout, target_modules do not apply")
    return {"lora_r": config.r, "lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout, "target_modules": sorted(config.target_modules)}


def check_tuning(settings: dict) -> None:
    """Raise UserError for an unknown `tuning`, one that cannot be (4-bit weights do not move), and for labels to be altered or filtered in a way that cannot be."""
    if "counterfactual_rate" in settings:
        counterfactual.check(settings["counterfactual_rate"], settings["counterfactual_mode"])
        label_filter.check(settings["label_filter"], settings["label_filter_share"], settings["num_processes"])
        training_data.check_augment(settings["augment"], settings["augment_rate"])
    if settings["tuning"] not in ("lora", "full"):
        raise UserError(f"tuning {settings['tuning']}: unknown. Use lora or full.")
    if settings["tuning"] == "full" and settings["load_in_4bit"]:
        raise UserError("tuning full: weights loaded in 4 bits cannot be trained. Set load_in_4bit: false, or tuning: lora.")


def tuning_rows(examples: dict[str, list[dict]], tokenizer, settings: dict) -> tuple[set[str], list[dict]]:
    """From the examples of each task: the ids of those that fit a row, and the token rows within the settings' budget."""
    every = [example for rows in examples.values() for example in rows]
    assert len({example["example_id"] for example in every}) == len(every), "duplicate example ids"
    fitting = training_data.example_rows(every, tokenizer, settings["max_length"], settings["completion_only_loss"], settings["train_on_eos"])
    rows = training_data.take_budget(fitting, settings["max_examples"], int(settings["max_tokens"] / settings["num_train_epochs"]), settings["seed"])
    return {row["example_id"] for row in fitting}, rows


def data_table(examples: dict[str, list[dict]], fitting: set[str], rows: list[dict], dropped: set[str], tokenizer, settings: dict, split: str) -> pd.DataFrame:
    """What became of the examples of each task; the rows that are trained on are checked one by one.

    Returns task, split, examples, too long, over budget, filtered out, used, tokens, trained tokens, trained %; it is also printed in short. Every example
    is in one of the four columns.
    """
    table, of_id = [], {row["example_id"]: row for row in rows}
    for task, of_task in examples.items():
        by_id = {example["example_id"]: example for example in of_task}
        used = [of_id[name] for name in by_id if name in of_id]
        fit, out = len(fitting & set(by_id)), len(dropped & set(by_id))
        tokens, trained = training_data.check_rows(used, by_id, tokenizer, settings["completion_only_loss"], settings["train_on_eos"])
        table.append({"task": task, "split": split, "examples": len(of_task), "too long": len(of_task) - fit, "over budget": fit - out - len(used), "filtered out": out,
                      "used": len(used), "tokens": tokens, "trained tokens": trained, "trained %": round(100 * trained / max(1, tokens), 1)})
        print(f"data: {task} {split}: {len(of_task):,} examples = {len(used):,} used + {len(of_task) - fit:,} too long + {fit - out - len(used):,} over the budget"
              f"{f' + {out:,} filtered out' * bool(out)}; {trained:,} of {tokens:,} tokens carry loss")
    assert sum(row["used"] for row in table) == len(rows), "an example of no task"
    return pd.DataFrame(table)


def suspects(rows: list[dict], examples: dict[str, list[dict]], corrupted: pd.DataFrame, tokenizer, settings: dict, place: dict, entry: dict, cpt_dir: Path | None,
             run_dir: Path) -> tuple[set[str], pd.DataFrame]:
    """Ids of the rows that the label filter takes out, and how well it did (label_filter.report), which also goes to results/label_filter.csv.

    Nothing without a filter. What it found is kept in cache/, so that a run that goes on after a stop leaves out the same rows.
    """
    if not settings["label_filter"]:
        return set(), pd.DataFrame(columns=label_filter.COLUMNS)
    by_id = {example["example_id"]: example for of_task in examples.values() for example in of_task}
    made = checkpoints.identity(identify(settings, rows, [], entry["name"], place))
    kept = run_dir / "cache" / "label_filter" / f"{entry['name']}-{settings['stage']}.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if found.get("made") != made:
        if settings["label_filter"] == "agreement":
            dropped = label_filter.agreement(list(by_id.values()), settings["seed"]) & {row["example_id"] for row in rows}
        else:
            losses = losses_after_warm_up(rows, tokenizer, settings, place, entry, cpt_dir, run_dir)
            dropped = label_filter.small_loss(losses, by_id, settings["label_filter_share"])
        found = {"made": made, "dropped": sorted(dropped)}
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = kept.with_name(f".{kept.name}.{os.getpid()}")
        draft.write_text(json.dumps(found), encoding="utf-8")
        draft.replace(kept)
    where = {"model": entry["name"]} | {name: settings[name] for name in ("stage", "label_filter", "label_filter_share", "counterfactual_rate", "counterfactual_mode", "seed")}
    report = label_filter.report([row["example_id"] for row in rows], by_id, set(found["dropped"]), set(corrupted["example_id"]), where)
    if launch.main_process():
        stages.write_rows(run_dir / "results" / "label_filter.csv", report)
    return set(found["dropped"]), report


def losses_after_warm_up(rows: list[dict], tokenizer, settings: dict, place: dict, entry: dict, cpt_dir: Path | None, run_dir: Path) -> dict[str, float]:
    """example_id -> loss of its answer under a model that was tuned once on the share label_filter.WARM_UP of the rows, and is then forgotten."""
    settings = settings | {"num_train_epochs": 1.0}
    part = training_data.take_budget(rows, max(1, round(label_filter.WARM_UP * len(rows))), 0, settings["seed"])
    network, _, config = start_of_tuning(entry, settings, place, cpt_dir, run_dir)
    folder, run_identity = stages.checkpoint_dir(run_dir, entry, f"{settings['stage']}-warmup"), identify(settings, part, [], entry["name"], place)
    trainer = make_trainer(network, tokenizer, part, [], folder, settings, place, f"{entry['name']} {settings['stage']} warm-up", run_identity, config)
    train(trainer, run_identity)
    losses = label_filter.answer_losses(trainer.model, rows, tokenizer.pad_token_id, autocast=trainer.compute_loss_context_manager)
    shutil.rmtree(folder, ignore_errors=True)
    del trainer, network
    gc.collect()
    return losses


def start_of_tuning(entry: dict, settings: dict, place: dict, cpt_dir: Path | None, run_dir: Path):
    """(model to train, stages merged before it, LoraConfig or None): where `stage`, `preset` and `tuning` say that tuning starts.

    All weights are trained in fp32 (under bf16 autocast on a card): steps of this size would be lost in the rounding of bf16 weights.
    """
    name, four_bit, full = settings["model"], settings["load_in_4bit"], settings["tuning"] == "full"
    config, precision = None if full else lora_config(settings), "fp32" if full else settings["precision"]
    if cpt_dir is None:
        return models.load_model(name, precision, four_bit), [], config
    card = models.read_card(cpt_dir)
    if settings["preset"] == "released" and not full:
        return PeftModel.from_pretrained(models.load_model(name, precision, four_bit), str(cpt_dir), is_trainable=True), [], None
    before = [{"path": os.path.relpath(cpt_dir, cpt_dir.parent / settings["stage"]), "sha256": card["adapter_sha256"]}]
    merged = models.merged_model(name, [cpt_dir], [card["adapter_sha256"]])
    merged = models.to_card(merged, "fp32" if full else place["precision"], four_bit, run_dir / "cache" / f"merged-{entry['name']}-{os.environ.get('LOCAL_RANK', 0)}")
    merged.requires_grad_(full)  # PEFT froze what an adapter was merged into; a fresh adapter on top freezes it again
    merged.name_or_path = entry["source"]  # not the folder it was quantised through, which PEFT would look for and write down
    return merged, before, config


def lora_config(settings: dict) -> LoraConfig:
    """PEFT's configuration from the settings' own names."""
    return LoraConfig(r=settings["lora_r"], lora_alpha=settings["lora_alpha"], lora_dropout=settings["lora_dropout"],
                      target_modules=settings["target_modules"], bias="none", task_type="CAUSAL_LM")


def identify(settings: dict, rows: list[dict], dev_rows: list[dict], model_name: str, place: dict) -> dict:
    """What decides the run, for its checkpoints: parameters (but those that only print or measure), token rows, base weights, versions, device.

    Batch size and accumulation count by their product: memory may force other factors (guards.SmallerBatch).
    """
    batch = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    aside = ("logging_seconds", "logging_steps", "eval_splits", "eval_tokens", "during_tokens", "general_text", "general_tokens", "per_device_train_batch_size", "gradient_accumulation_steps")
    return {"settings": {k: v for k, v in settings.items() if k not in aside} | {"per_device_train_batch_size x gradient_accumulation_steps": batch},
            "training data": training_data.digest(rows), "dev data": training_data.digest(dev_rows) if dev_rows else "none",
            "base weights": models.base_revision(settings["model"]), "name": model_name, "versions": models.library_versions(),
            "device": place["device"], "precision": place["precision"]}
