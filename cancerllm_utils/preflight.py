"""What a profile needs and what this machine has: said in plain words before anything runs, with the remedy."""

import importlib.util
import shutil
import time
from pathlib import Path

import pandas as pd
import psutil

from cancerllm_utils import params, paths, plan, study
from cancerllm_utils.errors import UserError

# Trainable parameters that the paper's settings must give on Mistral-7B (counted from the paper's code): LoRA r 8 on all linear layers, r 64 on q and v.
PAPER_BASE = "mistral-7b-instruct-v0.1"
PAPER_COUNTS = {params.PRETRAINING: 20_971_520, params.TUNING: 27_262_976}
GIB = 2**30


def check(profile: str) -> list[dict]:
    """Findings about a profile on this machine: {missing: bool, text: one sentence, with the remedy where something is missing}."""
    jobs = study.jobs(profile)
    findings = [{"missing": False, "text": f"profile {profile}: {len(jobs)} steps, every parameter name and type is right"}]
    for part in (check_data, check_model, check_processes, check_space):
        findings += part(profile, jobs)
    return findings


def check_data(profile: str, jobs: dict) -> list[dict]:
    """Are the files there that the corpus and the tiny base are made from?"""
    findings = []
    first = jobs.get("01_data_exploration", {})
    folder = paths.data_dir(first.get("data_dir", ""))
    if first.get("corpus") == "tcga":
        try:
            from cancerllm_utils.corpus import tcga

            tcga.check_files(folder)
            findings.append({"missing": False, "text": f"public TCGA files found in {folder / 'tcga'}"})
        except UserError as error:
            findings.append({"missing": True, "text": f"{error} Then set CANCERLLM_DATA to the folder that holds tcga/ (now {folder})."})
    if first.get("corpus") == "local":
        try:
            from cancerllm_utils.corpus import local

            local.check_files(first | {"data_dir": str(folder)})
            findings.append({"missing": False, "text": f"your notes found in {folder}"})
        except UserError as error:
            findings.append({"missing": True, "text": str(error)})
    if jobs.get("A1_tiny_base", {}).get("train_base"):
        there = (paths.data_dir(jobs["A1_tiny_base"]["data_dir"]) / "literature" / "pmc_trial_articles.jsonl.gz").is_file()
        findings.append({"missing": not there, "text": "literature articles found" if there else f"{folder / 'literature'} lacks the articles that the tiny base is trained on: set CANCERLLM_DATA to the folder above literature/"})
    return findings


def check_model(profile: str, jobs: dict) -> list[dict]:
    """Are the weights there, is there a card that can hold them, do the adapters have the sizes that the paper's settings give?"""
    from cancerllm_utils.modeling import models

    findings, wanted = [], plan.table(profile)
    asked = {name for job, values in jobs.items() for name in ([values["model"]] if job.startswith(params.PER_MODEL) else values["models"] if job == params.RADONC else [])}
    for name in sorted(asked):
        entry = models.model_entry(name)
        of_model = {job: values for job, values in jobs.items() if values.get("model") == name or (job == params.RADONC and name in values["models"])}
        if "hub_id" in entry:
            findings += check_hub_model(entry, wanted[wanted["model"] == entry["name"]], any(values.get("load_in_4bit") for values in of_model.values()))
            findings += check_adapters(name, of_model)
        else:
            there = any(Path(entry["source"]).glob("*.safetensors"))
            remedy = "" if there else f": make run PROFILE={name}, then adopt it (see A1)" if "path" in entry else ": put them there"
            findings.append({"missing": not there, "text": f"weights of {name} found" if there else f"{entry['source']} holds no weights as safetensors{remedy}"})
    return findings


def check_hub_model(entry: dict, wanted: pd.DataFrame, wants_4bit: bool) -> list[dict]:
    """Weights in the local cache or a way to fetch them; a CUDA card with enough memory for the model's largest job (`wanted`: rows of plan.table)."""
    import torch
    from huggingface_hub import try_to_load_from_cache

    findings = []
    cached = try_to_load_from_cache(entry["hub_id"], "config.json", revision=entry["revision"])
    text = f"weights of {entry['hub_id']} found in the local cache" if isinstance(cached, str) else (
        f"the weights of {entry['hub_id']} ({entry['gb']} GB) are not in the local cache: " + ("accept the licence on its page, log in with `hf auth login`, then " if entry["gated"] else "")
        + f"`hf download {entry['hub_id']}` where there is a network"
    )  # fmt: skip
    findings.append({"missing": not isinstance(cached, str), "text": text})
    largest = wanted.loc[wanted["gpu_gib"].idxmax()]
    needs = f"{largest['job']} needs {largest['gpu_gib']:.0f} GiB of GPU memory"
    if not torch.cuda.is_available():
        findings.append({"missing": True, "text": f"no CUDA graphics card is visible: {needs}, and the torch build for the card (see README, your own GPU)"})
    else:
        total = torch.cuda.get_device_properties(0).total_memory / GIB
        small = total < largest["gpu_gib"]
        remedy = ": set load_in_4bit: true or gradient_checkpointing: true, lower the batch, or share the model among cards (accelerate_config: fsdp)" if small else ""
        findings.append({"missing": small, "text": f"graphics card {torch.cuda.get_device_name()} has {total:.0f} GiB, {needs}{remedy}"})
    if wants_4bit:
        there = importlib.util.find_spec("bitsandbytes") is not None
        findings.append({"missing": not there, "text": "bitsandbytes found" if there else "bitsandbytes is not installed, and 4-bit weights need it: .venv/bin/pip install bitsandbytes, or set load_in_4bit: false"})
    return findings


def check_adapters(name: str, jobs: dict) -> list[dict]:
    """Count the trainable parameters of one model's adapters on the meta device, without weights; on the paper's base compare with the paper's."""
    findings, counted = [], set()
    for job, values in jobs.items():
        notebook = job.partition(".")[0]
        if notebook not in PAPER_COUNTS or values["tuning"] == "full":
            continue
        rank, targets = plan.adapter(values)
        if (notebook, rank, targets) in counted:  # the stages of one setting
            continue
        counted.add((notebook, rank, targets))
        number = plan.trainable(name, rank, targets)
        expected = PAPER_COUNTS[notebook]
        paper = f"; the paper's settings give {expected:,}: {'equal' if number == expected else 'DIFFERENT'}" if name == PAPER_BASE else ""
        findings.append({"missing": False, "text": f"{job}: LoRA r {rank} on {targets if isinstance(targets, str) else ', '.join(targets)} trains {number:,} parameters{paper}"})
    return findings


def check_processes(profile: str, jobs: dict) -> list[dict]:
    """Can the training processes that the jobs ask for be started: does the accelerate configuration exist, are its library and its cards there?"""
    from cancerllm_utils.modeling import launch

    findings = {}
    for job, values in jobs.items():
        asked = (values.get("num_processes", 1), values.get("accelerate_config", ""))
        if asked in findings or asked == (1, ""):
            continue
        try:
            file, _ = launch.read_config(*asked)
            findings[asked] = {"missing": False, "text": f"{job}: {asked[0]} training processes by {file.relative_to(paths.ROOT)}"}
        except UserError as error:
            findings[asked] = {"missing": True, "text": f"{job}: {error}"}
    return list(findings.values())


def check_space(profile: str, jobs: dict) -> list[dict]:
    """Enough disk and memory?"""
    folder = paths.runs_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / GIB
    needed = disk_needed(jobs)
    memory = psutil.virtual_memory().total / GIB
    return [
        {"missing": free < needed, "text": f"{free:.1f} GiB free on the disk of {paths.runs_dir()}, about {needed:.1f} needed" + ("" if free >= needed else ": free some or set CANCERLLM_RUNS to another disk")},
        {"missing": memory < 5.5, "text": f"{memory:.1f} GiB of memory" + ("" if memory >= 5.5 else ": about 6 are needed")},
    ]


def disk_needed(jobs: dict) -> float:
    """GiB that a run takes: checkpoints of the adapters and the text, larger for larger models; where all weights are trained, each stage's in fp32."""
    from cancerllm_utils.modeling import models

    names = {name for values in jobs.values() for name in [*values.get("models", []), *([values["model"]] if "model" in values else [])]}
    whole = sum(models.parameter_count(name) for values in jobs.values() if values.get("tuning") == "full" for name in values.get("models") or [values["model"]])
    return 0.5 + sum(2.0 * models.model_entry(name).get("gb", 0) for name in names) + 4 * whole / 2**30


def estimate(profile: str, due: list[str]) -> str:
    """A sentence on time and disk: floating-point work of the due steps over this machine's measured rate, plus the start of each kernel."""
    from cancerllm_utils.modeling import models

    jobs, rate, seconds = study.jobs(profile), matrix_rate(), 0.0
    for job in due:
        values, notebook = jobs[job], job.partition(".")[0]
        seconds += 12  # kernel, imports, tables
        if notebook in params.PER_MODEL:
            size, much = models.parameter_count(values["model"]), plan.amount(job, jobs)
            measured = values.get("eval_tokens", 0) * len(values.get("eval_splits", []))
            answers = notebook in (params.PREDICTION, params.PERTURBED, params.RETRIEVAL)
            seconds += (2 if answers else 4) * size * (much["tokens"] + measured) / rate + 30 * answers
        elif notebook == params.RADONC:
            seconds += 60 + sum(6 * models.parameter_count(name) * plan.radonc_tokens(values) / rate for name in values["models"])
        elif notebook == "A1_tiny_base" and values["train_base"]:
            seconds += values["max_seconds"] or 6 * 7.3e6 * values["max_tokens"] / rate  # the tiny base has 7.3 million parameters
        elif notebook == "01_data_exploration" and values["corpus"] == "tcga":
            seconds += 120
    length = f"{max(1, round(seconds / 60))} min" if seconds < 2 * 3600 else f"{seconds / 3600:,.0f} h"
    return f"About {length} on this machine when it is otherwise idle, and {disk_needed(jobs):.1f} GiB of disk."


def matrix_rate() -> float:
    """FLOP/s that work on a model is likely to reach here: four fifths of what a matrix product reaches now (measured with the tiny base on two cores)."""
    import torch

    from cancerllm_utils.modeling import models

    place = models.device_and_precision()
    kind = torch.bfloat16 if place["precision"] == "bf16" else torch.float32
    a = torch.randn(2048, 1024, device=place["device"]).to(kind)
    a @ a.T
    started, n = time.perf_counter(), 0
    while time.perf_counter() - started < 0.3:
        (a @ a.T)[0, 0].item()
        n += 1
    return 0.8 * n * 2 * 2048 * 2048 * 1024 / (time.perf_counter() - started)
