"""What a profile's jobs will need: tokens, memory and hours on a reference card, counted from shapes and settings alone (no network, weights or card)."""

from functools import lru_cache
from pathlib import Path

import pandas as pd

from cancerllm_utils import params, study
from cancerllm_utils.evaluation import perturb

# Half-precision rate that one card reaches in training, in 1e12 operations per second: 40 % of an H100's or H200's dense peak of 989.
CARD, TFLOPS, CARD_GIB = "H100 or H200", 395.0, 80.0
CHARACTERS_PER_TOKEN = 3.6  # of English clinical text under a 32,000-word vocabulary
TRAIN_CHARACTERS = 10.6e6  # of the training ring of the public reports; a corpus of another kind is counted once it was read
SYNTHETIC_CHARACTERS = 1144  # per patient of the synthetic cohort, in the training ring's share
ITEMS = 12_000  # training items of all tasks where nothing limits them, on the public reports
TEST_ITEMS = 1_500  # per task and ring, where nothing limits them
NEW_TOKENS = 10  # of an average answer
PROBED_TOKENS = 250  # of a report in the contamination probes
RADONC_TRAINED, RADONC_ASKED = 450, 150  # patients of the radiation-oncology study in training and in a ring, where nothing limits them
COLUMNS = ["job", "model", "stage", "million_tokens", "gpu_gib", "ram_gib", "hours"]


def amount(job: str, jobs: dict[str, dict]) -> dict:
    """How much a job of 03, 04, 05, 05b, 05c or 09 reads: tokens (seen in training, or read in all prompts), answers (given in all), prompt (tokens of one).

    Counted from the run's own notes and examples where an earlier step has left them, else from the settings and the sizes above.
    """
    notebook, values = job.partition(".")[0], jobs[job]
    run, first, prepared = Path(values["run_dir"]), jobs.get("01_data_exploration", {}), jobs.get("02_dataset_preparation", {})
    prompt = prepared.get("context_tokens", 128) + 100  # the text, the instruction, the question
    if notebook == params.CONTAMINATION:
        reports = values["n_notes"] * len(values["splits"]) * len(values["stages"])
        return {"tokens": reports * (1 + values["copies"]) * PROBED_TOKENS, "answers": reports, "prompt": values["prefix_tokens"]}
    if notebook == params.PRETRAINING:
        limit = values["max_tokens"]
        return {"tokens": limit or values["num_train_epochs"] * note_characters(run, first) / CHARACTERS_PER_TOKEN, "answers": 0, "prompt": 0}
    if notebook == params.TUNING:
        items = lines(run, values["tasks"], ["train"]) or (prepared.get("max_train_items", 0) * len(values["tasks"]) or ITEMS)
        items = min(items, values["max_examples"]) if values["max_examples"] else items
        whole = values["num_train_epochs"] * items * prompt
        whole = min(whole, values["max_tokens"]) if values["max_tokens"] else whole
        # the filter small_loss trains on 30 % of the rows first and then reads all of them, which costs a third of training on them
        more = (0.3 + 1 / 3) / values["num_train_epochs"] if values["label_filter"] == "small_loss" else 0.0
        return {"tokens": whole * (1 + more), "answers": 0, "prompt": prompt}
    asked = lines(run, values["tasks"], values["test_sets"]) or len(values["tasks"]) * len(values["test_sets"]) * (prepared.get("max_test_items") or TEST_ITEMS)
    if notebook == params.RETRIEVAL:  # each question once without examples, and with k of them by every retriever; the texts that are searched, once
        asked = min(asked, (values["max_items"] or asked) * len(values["tasks"]) * len(values["test_sets"]))
        prompts = [prompt] + [prompt * (k + 1) for k in values["ks"] for _ in values["retrievers"]]
        searched = (values["max_examples"] or ITEMS / len(values["tasks"])) * len(values["tasks"]) * prompt
        return {"tokens": (asked * sum(prompts) + searched) * len(values["stages"]), "answers": asked * len(prompts) * len(values["stages"]), "prompt": max(prompts)}
    if notebook == params.PERTURBED:
        asked = min(asked, (values["max_items"] or asked) * len(values["tasks"]) * len(values["test_sets"])) * len(perturb.planned(values["variants"], values["remedies"]))
    return {"tokens": asked * len(values["stages"]) * prompt, "answers": asked * len(values["stages"]), "prompt": prompt}


def note_characters(run: Path, first: dict) -> float:
    """Characters of the training patients' notes: counted where the corpus was built, else the sizes above."""
    notes, splits = run / "corpus" / "notes.parquet", run / "corpus" / "splits.parquet"
    if notes.is_file() and splits.is_file():
        table = pd.read_parquet(notes, columns=["patient_id", "text"]).merge(pd.read_parquet(splits), on="patient_id")
        return float(table.loc[table["split"] == "train", "text"].str.len().sum())
    return SYNTHETIC_CHARACTERS * first["n_patients"] if first.get("corpus") == "synthetic" else TRAIN_CHARACTERS


def lines(run: Path, tasks: list[str], splits: list[str]) -> int:
    """Examples in the run's data sets; 0 where they are not made yet."""
    files = [run / "datasets" / task / f"{split}.jsonl" for task in tasks for split in splits]
    if not all(file.is_file() for file in files):
        return 0
    return sum(1 for file in files for _ in open(file, encoding="utf-8"))


def table(profile: str, tflops: float = TFLOPS) -> pd.DataFrame:
    """One row per job: job, model, stage, million_tokens, gpu_gib (on each card), ram_gib (to merge adapters in fp32), hours.

    The last four are empty for jobs that load no model. Hours are those of one card with full batches: settings with one unpacked example per
    step take longer. gpu_gib does not count what FSDP or ZeRO-3 save by cutting the model.
    """
    from cancerllm_utils.modeling import models

    jobs = study.jobs(profile)
    rows = []
    for job, values in jobs.items():
        notebook = job.partition(".")[0]
        if notebook == params.RADONC:
            rows += [radonc_row(job, values, model, tflops) for model in values["models"]]
            continue
        if notebook not in params.PER_MODEL:
            rows.append({"job": job, "model": "", "stage": ""})
            continue
        entry, much = models.model_entry(values["model"]), amount(job, jobs)
        row = {"job": job, "model": entry["name"], "million_tokens": much["tokens"] / 1e6}
        whole = 4 * models.parameter_count(values["model"]) / models.GIB
        if notebook in (params.PREDICTION, params.CONTAMINATION, params.PERTURBED, params.RETRIEVAL):
            four_bit = values["load_in_4bit"]
            row |= {"stage": ", ".join(values["stages"]), "ram_gib": whole if set(values["stages"]) - {"base"} else 0.0,
                    "gpu_gib": models.generation_memory(entry, four_bit, values["batch_size"], much["prompt"] + values["max_new_tokens"]),
                    "hours": models.generation_hours(entry, much["answers"], much["prompt"], NEW_TOKENS, values["batch_size"], 1e12 * tflops)}
        else:
            rank, targets = adapter(values)
            adapted = 0 if values["tuning"] == "full" else trainable(values["model"], rank, targets)
            row |= {"stage": values["stage"], "ram_gib": whole if notebook == params.TUNING and values["stage"].startswith("cpt") else 0.0,
                    "gpu_gib": models.training_memory(entry, values["tuning"], values["load_in_4bit"], adapted, values["per_device_train_batch_size"],
                                                      values["max_length"], values["gradient_checkpointing"], optim=values["optim"],
                                                      target_modules=targets),
                    "hours": models.training_hours(entry, much["tokens"], values["tuning"], 1e12 * tflops, values["gradient_checkpointing"])}
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def radonc_tokens(values: dict) -> float:
    """Tokens that each model of the radiation-oncology study is tuned on: three tasks."""
    whole = values["num_train_epochs"] * 3 * (values["max_train_items"] or RADONC_TRAINED) * (values["context_tokens"] + 100)
    return min(whole, values["max_tokens"]) if values["max_tokens"] else whole


def radonc_row(job: str, values: dict, model: str, tflops: float) -> dict:
    """One model of the radiation-oncology study, which is tuned and answers twice within its job; columns as in `table`."""
    from cancerllm_utils.modeling import models

    entry, tokens, prompt = models.model_entry(model), radonc_tokens(values), values["context_tokens"] + 100
    adapted = 0 if values["tuning"] == "full" else trainable(model, values["lora_r"], "all-linear")
    trained = models.training_memory(entry, values["tuning"], values["load_in_4bit"], adapted, values["per_device_train_batch_size"], values["max_length"],
                                     values["gradient_checkpointing"], optim=values["optim"], target_modules="all-linear")  # fmt: skip
    answers = 6 * len(values["test_sets"]) * (values["max_test_items"] or RADONC_ASKED)
    hours = models.training_hours(entry, tokens, values["tuning"], 1e12 * tflops, values["gradient_checkpointing"])
    return {"job": job, "model": entry["name"], "stage": "base, sft", "million_tokens": (tokens + answers * prompt) / 1e6, "ram_gib": 4 * models.parameter_count(model) / models.GIB,
            "gpu_gib": max(trained, models.generation_memory(entry, values["load_in_4bit"], values["batch_size"], prompt + values["max_new_tokens"])),
            "hours": hours + models.generation_hours(entry, answers, prompt, NEW_TOKENS, values["batch_size"], 1e12 * tflops)}  # fmt: skip


def adapter(values: dict) -> tuple[int, str | tuple[str, ...]]:
    """(rank, target modules) of a training job: its own values, or its preset's where they are 0 and empty."""
    from cancerllm_utils.modeling import training

    preset = training.PRESETS[values["preset"]] if "preset" in values else {"lora_r": 8, "target_modules": "all-linear"}
    targets = values["target_modules"] or preset["target_modules"]
    return values["lora_r"] or preset["lora_r"], targets if isinstance(targets, str) else tuple(targets)


@lru_cache
def trainable(model: str, rank: int, targets: str | tuple[str, ...]) -> int:
    """Number of parameters that LoRA would train; counted once, since jobs share their settings."""
    from cancerllm_utils.modeling import models

    return models.count_trainable(model, rank, targets if isinstance(targets, str) else list(targets))


def text(profile: str, tflops: float = TFLOPS, gpu_memory: float = CARD_GIB) -> str:
    """The plan as a person reads it: one aligned table, the hours in all, and the jobs that do not fit a card of `gpu_memory` GiB."""
    plan = table(profile, tflops)
    shown = plan.assign(stage=plan["stage"].map(few_stages), million_tokens=plan["million_tokens"].map(number("{:,.1f}")), gpu_gib=plan["gpu_gib"].map(number("{:,.1f}")),
                        ram_gib=plan["ram_gib"].map(number("{:,.0f}")), hours=plan["hours"].map(number("{:,.2f}")))
    shown = shown.rename(columns={"million_tokens": "M tokens", "gpu_gib": "GPU GiB", "ram_gib": "RAM GiB"})
    width = {column: max(len(column), *shown[column].fillna("").str.len()) for column in shown}
    out = [f"Profile {profile}: {len(plan)} jobs. Hours on one {CARD} that reaches {tflops:g} TFLOP/s with full batches.", ""]
    for row in [dict(zip(shown, shown, strict=True)), *shown.fillna("").to_dict("records")]:
        out.append("  ".join(f"{row[column]:<{width[column]}}" if column in ("job", "model", "stage") else f"{row[column]:>{width[column]}}" for column in shown).rstrip())
    large = plan[plan["gpu_gib"] > gpu_memory]
    out += ["", f"In all {plan['hours'].sum():,.1f} hours of one card, {plan['million_tokens'].sum():,.1f} million tokens."]
    if large.empty:
        out.append(f"Every job fits a card of {gpu_memory:g} GiB; the largest takes {plan['gpu_gib'].max() if plan['gpu_gib'].notna().any() else 0:.1f}.")
    else:
        out.append(f"{len(large)} jobs do not fit a card of {gpu_memory:g} GiB: {', '.join(large['job'])}. Remedy: load_in_4bit, gradient_checkpointing, "
                   "a smaller batch, or several cards that share the model (accelerate_config: fsdp).")
    return "\n".join(out)


def few_stages(stages: str) -> str:
    """The stages of a job for one cell: the first two, and how many more."""
    names = stages.split(", ")
    return stages if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2} more"


def number(form: str):
    """A function that prints a number by `form`, and nothing where there is none."""
    return lambda value: "" if pd.isna(value) else form.format(value)
