"""What a profile needs and what this machine has: said in plain words before anything runs, with the remedy."""

import importlib.util
import shutil
import time
from pathlib import Path

import psutil

from cancerllm_utils import params, paths
from cancerllm_utils.errors import UserError

# Trainable parameters that the paper's settings must give on Mistral-7B (counted from the paper's code): LoRA r 8 on all linear layers, r 64 on q and v.
PAPER_COUNTS = {"03_continued_pretraining": 20_971_520, "04_instruction_tuning": 27_262_976}
GIB = 2**30


def check(profile: str) -> list[dict]:
    """Findings about a profile on this machine: {missing: bool, text: one sentence, with the remedy where something is missing}."""
    jobs = params.jobs(profile)
    findings = [{"missing": False, "text": f"profile {profile}: {len(jobs)} steps, every parameter name and type is right"}]
    for part in (check_data, check_model, check_space):
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

    findings = []
    names = {values["model"] for values in jobs.values() if "model" in values}
    for name in sorted(names):
        entry = models.model_entry(name)
        if "hub_id" in entry:
            findings += check_hub_model(entry, any(values.get("load_in_4bit") for values in jobs.values()))
            findings += check_adapters(name, jobs)
        else:
            there = (Path(entry["source"]) / "model.safetensors").is_file()
            findings.append({"missing": not there, "text": f"weights of {name} found" if there else f"{entry['source']} holds no model.safetensors: make run PROFILE=tiny_base, then make adopt-base"})
    return findings


def check_hub_model(entry: dict, wants_4bit: bool) -> list[dict]:
    """Weights in the local cache or a way to fetch them; a CUDA card with enough memory."""
    import torch
    from huggingface_hub import try_to_load_from_cache

    findings = []
    cached = try_to_load_from_cache(entry["hub_id"], "config.json", revision=entry["revision"])
    text = f"weights of {entry['hub_id']} found in the local cache" if isinstance(cached, str) else (
        f"the weights of {entry['hub_id']} ({entry['gb']} GB) are not in the local cache: " + ("accept the licence on its page, log in with `hf auth login`, then " if entry["gated"] else "")
        + f"`hf download {entry['hub_id']}` where there is a network"
    )  # fmt: skip
    findings.append({"missing": not isinstance(cached, str), "text": text})
    needed = 1.25 * entry["gb"]
    if not torch.cuda.is_available():
        findings.append({"missing": True, "text": f"no CUDA graphics card is visible: {entry['name']} needs one with at least 16 GB (4-bit weights) or {needed:.0f} GB (bf16), and the torch build for it (see README, your own GPU)"})
    else:
        total = torch.cuda.get_device_properties(0).total_memory / 1e9
        findings.append({"missing": total < 15.5, "text": f"graphics card {torch.cuda.get_device_name()} has {total:.0f} GB" + ("" if total >= needed else f"; bf16 weights want {needed:.0f} GB: set load_in_4bit: true" if total >= 15.5 else ": at least 16 GB are needed")})
    if wants_4bit:
        there = importlib.util.find_spec("bitsandbytes") is not None
        findings.append({"missing": not there, "text": "bitsandbytes found" if there else "bitsandbytes is not installed, and 4-bit weights need it: .venv/bin/pip install bitsandbytes, or set load_in_4bit: false"})
    return findings


def check_adapters(name: str, jobs: dict) -> list[dict]:
    """Count the trainable parameters of the profile's adapters on the meta device, without weights; compare with the paper's where the settings are the paper's."""
    from cancerllm_utils.modeling import models, training

    findings = []
    for job, values in jobs.items():
        notebook = job.partition(".")[0]
        if notebook not in PAPER_COUNTS or (notebook == params.PER_STAGE and job != next(j for j in jobs if j.startswith(notebook))):
            continue
        preset = training.PRESETS[values["preset"]] if "preset" in values else {"lora_r": 8, "target_modules": "all-linear"}
        rank, targets = values["lora_r"] or preset["lora_r"], values.get("target_modules") or preset["target_modules"]
        counted = models.count_trainable(name, rank, targets)
        expected = PAPER_COUNTS[notebook]
        findings.append({"missing": False, "text": f"{notebook}: LoRA r {rank} on {targets if isinstance(targets, str) else ', '.join(targets)} trains {counted:,} parameters; the paper's settings give {expected:,}: {'equal' if counted == expected else 'DIFFERENT'}"})
    return findings


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
    """GiB that a run takes: checkpoints of the adapters and the text, larger for larger models."""
    from cancerllm_utils.modeling import models

    names = {values["model"] for values in jobs.values() if "model" in values}
    return 0.5 + sum(2.0 * models.model_entry(name).get("gb", 0) for name in names)


def estimate(profile: str, due: list[str]) -> str:
    """A sentence on time and disk: floating-point work of the due steps over this machine's measured rate, plus the start of each kernel."""
    from cancerllm_utils.modeling import models

    jobs = params.jobs(profile)
    rate = matrix_rate()
    prepared = jobs.get("02_dataset_preparation", {})
    prompt_tokens = prepared.get("context_tokens", 128) + 100  # the text, the instruction, the question
    seconds = 0.0
    for job in due:
        values = jobs[job]
        seconds += 12  # kernel, imports, tables
        size = models.parameter_count(values["model"]) if "model" in values else 7.3e6
        if job.startswith("03"):
            tokens = values["max_tokens"] or values["num_train_epochs"] * 3e6  # the notes of the public training ring
            seconds += 4 * size * (tokens + values["eval_tokens"] * len(values["eval_splits"])) / rate
        elif job.startswith("04"):
            seconds += 4 * size * (values["max_tokens"] or values["num_train_epochs"] * 12_000 * prompt_tokens) / rate
        elif job.startswith("05"):
            items = len(values["tasks"]) * len(values["test_sets"]) * len(values["stages"]) * (prepared.get("max_test_items") or 1500)
            seconds += items * 2 * size * prompt_tokens / rate + 30
        elif job.startswith("A1") and values["train_base"]:
            seconds += values["max_seconds"] or 6 * size * values["max_tokens"] / rate
        elif job.startswith("01") and values["corpus"] == "tcga":
            seconds += 120
    return f"About {max(1, round(seconds / 60))} min on this machine when it is otherwise idle, and {disk_needed(jobs):.1f} GiB of disk."


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
