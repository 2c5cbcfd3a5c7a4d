"""What answers and training cost, from what a run stored: time, memory, energy, and quality against cost. Nothing here loads a model or torch.

The paper's fourth claim is about the time and memory of phenotype extraction (npj Digital Medicine 2026, doi 10.1038/s41746-026-02441-8).
"""

import datetime
import json
import struct
from pathlib import Path

import pandas as pd
import yaml

from cancerllm_utils.errors import UserError
from cancerllm_utils.paths import PACKAGE
from cancerllm_utils.results import (
    SCORE_COLUMNS,
    TRAINING_COLUMNS,
    clean_files,
    headline,
    is_hybrid,
    load_paper_values,
    main_split,
    main_systems,
    model_name,
    ring_name,
    system_order,
    task_name,
)

RUN_COLUMNS = ["model", "stage", "task", "split", "n", "seconds", "new_tokens", "prompt_tokens", "batch_size", "precision", "backend", "max_new_tokens",
               "peak_memory_gib", "memory_of", "energy_kwh"]
BYTES = {"fp32": 4, "bf16": 2}
"""Bytes of one number; on a processor bf16 computes from fp32 weights (models.load_model), on a card the weights are bf16 themselves."""


def read_runs(run_dir) -> pd.DataFrame:
    """One row per prediction file (RUN_COLUMNS): n answers, their seconds and new tokens, and how they were made; what was not stored is empty."""
    rows = []
    for path in (path for path in clean_files(run_dir) if not is_hybrid(path.parent.parent.name)):  # it computes nothing
        task, split = path.name.removesuffix(".jsonl").split(".", 1)
        answers = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        beside = path.with_suffix(".run.json")
        stored = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {"settings": {}, "outcome": {}}
        settings, outcome = stored["settings"], stored["outcome"]
        rows.append({
            "model": path.parent.parent.name, "stage": path.parent.name, "task": task, "split": split, "n": len(answers),
            "seconds": sum(answer["seconds"] for answer in answers), "new_tokens": sum(answer["new_tokens"] for answer in answers),
            "backend": settings.get("backend", "transformers") if settings else "",
            **{key: settings.get(key) for key in ("batch_size", "precision", "max_new_tokens")},
            **{key: outcome.get(key) for key in ("prompt_tokens", "peak_memory_gib", "memory_of", "energy_kwh")},
        })  # fmt: skip
    table = pd.DataFrame(rows, columns=RUN_COLUMNS)
    numbers = ["prompt_tokens", "peak_memory_gib", "energy_kwh", "batch_size"]
    return table.astype(dict.fromkeys(numbers, float))


def read_scores(run_dir) -> pd.DataFrame:
    """results/scores.csv; empty, with its columns, where nothing was scored."""
    path = Path(run_dir) / "results" / "scores.csv"
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=SCORE_COLUMNS)


def answers_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Cost of answering per model, stage and task, over all test sets: answers, seconds, answers_per_second, seconds_per_1000, new_tokens_per_second,
    tokens_per_answer, batch_size, precision, peak_memory_gib, watt_hours_per_1000 (empty where no energy was measured)."""
    rows = []
    for (model, stage) in system_order(runs):
        of_system = runs[(runs["model"] == model) & (runs["stage"] == stage)]
        for task, part in of_system.groupby("task", sort=False):
            n, seconds, tokens = part["n"].sum(), part["seconds"].sum(), part["new_tokens"].sum()
            rows.append({
                "model": model, "stage": stage, "task": task, "answers": n, "seconds": seconds, "answers_per_second": ratio(n, seconds),
                "seconds_per_1000": ratio(1000 * seconds, n), "new_tokens_per_second": ratio(tokens, seconds) if tokens else None,
                "tokens_per_answer": ratio(tokens, n) if tokens else None, "batch_size": part["batch_size"].max(), "precision": part["precision"].iloc[0],
                "peak_memory_gib": part["peak_memory_gib"].max(), "watt_hours_per_1000": ratio(1e6 * part["energy_kwh"].sum(min_count=len(part)), n),
            })  # fmt: skip
    columns = ["model", "stage", "task", "answers", "seconds", "answers_per_second", "seconds_per_1000", "new_tokens_per_second", "tokens_per_answer",
               "batch_size", "precision", "peak_memory_gib", "watt_hours_per_1000"]
    return pd.DataFrame(rows, columns=columns)


def ratio(a: float, b: float) -> float | None:
    """a / b; None where b is 0 or either is missing (the majority answer takes no measurable time)."""
    return None if pd.isna(a) or pd.isna(b) or b == 0 else a / b


def training_cost(run_dir) -> pd.DataFrame:
    """results/training.csv (one row per trained stage) with gpu_hours: seconds times processes, in hours; empty where nothing was trained."""
    path = Path(run_dir) / "results" / "training.csv"
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=TRAINING_COLUMNS)
    return table.assign(process_hours=table["seconds"].astype(float) * table["num_processes"].astype(float) / 3600)


def tensors(path: Path) -> dict[str, int]:
    """{name: number of parameters} of a safetensors file, from its header alone (https://huggingface.co/docs/safetensors)."""
    with open(path, "rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    found = {}
    for name, tensor in header.items():
        if name != "__metadata__":
            found[name] = 1
            for size in tensor["shape"]:
                found[name] *= size
    return found


def sizes(run_dir, runs: pd.DataFrame) -> pd.DataFrame:
    """Per language model of the run: parameters; moved_parameters, read for every new token (all but the input embedding, of which a token reads one row);
    disk_gb; weights_gib, in memory at the run's precision; adapter_mb, the largest of its stages.

    An embedded model is read from its file; of one from the hub only the published size of models.yaml is known here.
    """
    entries, rows = yaml.safe_load((PACKAGE / "modeling" / "models.yaml").read_text(encoding="utf-8")), []
    models = runs[runs["stage"] != "baseline"]
    for model, part in models.groupby("model", sort=False):
        entry = entries.get(model, {})
        counts = {}
        for file in sorted((PACKAGE / entry["path"]).glob("*.safetensors")) if "path" in entry else []:
            counts |= tensors(file)
        parameters = sum(counts.values()) or entry.get("billion_parameters", float("nan")) * 1e9
        moved = sum(n for name, n in counts.items() if "embed_tokens" not in name or "lm_head.weight" not in counts) or parameters
        adapters = [file.stat().st_size for file in (Path(run_dir) / "models" / model).glob("*/adapter_model.safetensors")]
        width = BYTES.get(part["precision"].iloc[0], 4) if (part["memory_of"] == "tensors on the card").any() else 4
        rows.append({"model": model, "parameters": parameters, "moved_parameters": moved, "disk_gb": entry.get("gb"), "bytes_per_weight": width,
                     "weights_gib": parameters * width / 2**30, "adapter_mb": max(adapters) / 1e6 if adapters else None})
    columns = ["model", "parameters", "moved_parameters", "disk_gb", "bytes_per_weight", "weights_gib", "adapter_mb"]
    return pd.DataFrame(rows, columns=columns)


def against_limit(runs: pd.DataFrame, size: pd.DataFrame, limits: pd.DataFrame) -> pd.DataFrame:
    """Tokens per second reached, beside what the machine's memory and arithmetic allow; one row per model and stage.

    one_by_one_limit: new tokens/s when a single answer is written and every weight is read from memory for every token: bandwidth / bytes of weights.
    A batch reads them once for all its answers and may pass it, as may a model that fits into the processor's cache. reached: new_tokens_per_second,
    with the reading of the prompts counted in. arithmetic_share: 2 operations per weight and token, prompts included, against the measured GEMM rate.
    """
    copy = limits.loc[limits["what"] == "copy", "value"].iloc[0] * 1e9
    rows = []
    for model, stage in system_order(runs[runs["stage"] != "baseline"]):
        part = runs[(runs["model"] == model) & (runs["stage"] == stage)]
        own = size[size["model"] == model].iloc[0]
        gemm = limits[(limits["what"] == "GEMM") & (limits["precision"] == part["precision"].iloc[0])]["value"]
        tokens, read, seconds = part["new_tokens"].sum(), part["prompt_tokens"].sum(min_count=len(part)), part["seconds"].sum()
        limit, reached = copy / (own["moved_parameters"] * own["bytes_per_weight"]), ratio(tokens, seconds)
        arithmetic = ratio(2 * own["moved_parameters"] * (tokens + read), seconds)
        rows.append({"model": model, "stage": stage, "batch_size": part["batch_size"].max(), "reached": reached, "one_by_one_limit": limit,
                     "times_limit": ratio(reached, limit), "arithmetic_gflops": None if arithmetic is None else arithmetic / 1e9,
                     "arithmetic_share": None if arithmetic is None or gemm.empty else 100 * arithmetic / 1e9 / gemm.iloc[0]})
    columns = ["model", "stage", "batch_size", "reached", "one_by_one_limit", "times_limit", "arithmetic_gflops", "arithmetic_share"]
    return pd.DataFrame(rows, columns=columns)


def pareto(scores: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Quality against cost of every system, one row per task and system: task, model, stage, split, quality (headline average F1, points) with low and
    high, n (questions scored), seconds_per_1000 (answers of that test set), front: no other system of the task is both cheaper or equal and better or equal.
    """
    split = main_split(scores)
    rows = headline(scores, splits=[split]).merge(runs[["model", "stage", "task", "split", "n", "seconds"]], on=["model", "stage", "task", "split"], suffixes=("", "_answers"))
    table = pd.DataFrame({"task": rows["task"], "model": rows["model"], "stage": rows["stage"], "split": rows["split"], "quality": rows["f1"], "low": rows["f1_low"],
                          "high": rows["f1_high"], "n": rows["n"], "seconds_per_1000": 1000 * rows["seconds"] / rows["n_answers"]})
    return table.assign(front=[not dominated(row, table[table["task"] == row.task]) for row in table.itertuples()])


def dominated(row, others: pd.DataFrame) -> bool:
    """True if another system is no dearer and no worse, and one of the two strictly."""
    no_worse = (others["seconds_per_1000"] <= row.seconds_per_1000) & (others["quality"] >= row.quality)
    return bool((no_worse & ((others["seconds_per_1000"] < row.seconds_per_1000) | (others["quality"] > row.quality))).any())


def beside_paper(runs: pd.DataFrame, scores: pd.DataFrame, device: str) -> pd.DataFrame:
    """The paper's time and memory of phenotype extraction beside this run's: what, paper, this run, how it was made here, comparable, why (strings)."""
    split = main_split(scores) if len(scores) else next(iter(runs["split"]), "test")
    systems = main_systems(scores) or main_systems(runs)
    rows = []
    for model, stage in systems:
        part = runs[(runs["model"] == model) & (runs["stage"] == stage) & (runs["task"] == "phenotype_extraction") & (runs["split"] == split)]
        for entry in load_paper_values()["values"]:
            if entry["metric"] not in ("time", "memory"):
                continue
            here, how = "not run", ""
            if len(part):
                row = part.iloc[0]
                how = f"{model_name(model, stage)}: {row['n']:,} questions ({ring_name(split)}), {row['batch_size']:.0f} together, {row['precision']}, on {device}"
                if entry["metric"] == "time":
                    here = f"{datetime.timedelta(seconds=round(row['seconds']))} h:min:s"
                else:
                    here = "not stored" if pd.isna(row["peak_memory_gib"]) else f"{row['peak_memory_gib'] * 2**30 / 1e6:,.0f} MB ({row['memory_of']})"
            rows.append([entry["what"], f"{entry['value']} {entry['unit']}", here, how, "yes" if entry["comparable"] else "no", entry["why"]])
    return pd.DataFrame(rows, columns=["what", "paper", "this run", "how it was made here", "comparable", "why"])


def device_of(run_dir) -> str:
    """The machine that answered, from the records of 05_prediction; "machine not recorded" without one."""
    found = {json.loads(path.read_text(encoding="utf-8"))["device"] for path in sorted((Path(run_dir) / "records").glob("05_prediction*.json"))}
    return " / ".join(sorted(found)) or "machine not recorded"


def batch_sizes_table(run_dir, model: str, stage: str, task: str, split: str, batch_sizes: list[int], n_prompts: int, max_new_tokens: int,
                      precision: str = "auto", energy: bool = False) -> pd.DataFrame:
    """Generation time and peak memory by batch size on the first n_prompts questions of a data set, one by one as the first row.

    Columns: model, stage, batch_size, n, changed (answers that differ from one by one), new_tokens, seconds, answers_per_second, speed_up, peak_memory_gib,
    memory_of, energy_kwh. Empty where batch_sizes is. Nothing is scored, so that the answers of a held-out ring are looked at by nobody.
    """
    columns = ["model", "stage", "batch_size", "n", "changed", "new_tokens", "seconds", "answers_per_second", "speed_up", "peak_memory_gib", "memory_of", "energy_kwh"]
    if not batch_sizes:
        return pd.DataFrame(columns=columns)
    from cancerllm_utils.modeling import generation  # torch and transformers: only where something is measured

    path = Path(run_dir) / "datasets" / task / f"{split}.jsonl"
    if not path.is_file():
        raise UserError(f"file {path}: missing. Run notebook 02_dataset_preparation with this task first, or set batch_sizes: [].")
    prompts = [json.loads(line)["prompt"] for line in path.read_text(encoding="utf-8").splitlines()[:n_prompts]]
    network, tokenizer, _ = generation.load_network(run_dir, model, stage, precision)
    table = generation.batch_agreement(network, tokenizer, prompts, batch_sizes, max_new_tokens, energy)
    table = table.assign(model=model, stage=stage, answers_per_second=table["n"] / table["seconds"], speed_up=table["seconds"].iloc[0] / table["seconds"])
    return table[columns]


def card_table(path: str) -> tuple[pd.DataFrame, str]:
    """(the table of a GPU benchmark, a sentence that dates it); an empty table and a sentence that says so without one. UserError for a missing file."""
    if not path:
        return pd.DataFrame(), "No table of a card was given (gpu_table): tests/bench/bench_gpu.py writes one where there is a card."
    if not Path(path).is_file():
        raise UserError(f"gpu_table {path}: no such file. Name a CSV that tests/bench/bench_gpu.py wrote, or set gpu_table: \"\".")
    table = pd.read_csv(path)
    dated = str(table["date"].iloc[0]) if "date" in table and len(table) else datetime.date.fromtimestamp(Path(path).stat().st_mtime).isoformat()
    return table, f"Measured on {dated}: {Path(path).name}, {len(table)} rows."


UNITS = {"seconds": "s", "answers_per_second": "1/s", "seconds_per_1000": "s", "new_tokens_per_second": "tokens/s", "tokens_per_answer": "tokens",
         "peak_memory_gib": "GiB", "watt_hours_per_1000": "Wh", "tokens_per_second": "tokens/s", "trainable_parameters": "parameters", "process_hours": "h",
         "energy_kwh": "kWh", "parameters": "parameters", "weights_gib": "GiB", "adapter_mb": "MB", "reached": "tokens/s", "one_by_one_limit": "tokens/s",
         "arithmetic_share": "%", "speed_up": "times", "changed": "answers"}


def tidy(answers: pd.DataFrame, training: pd.DataFrame, size: pd.DataFrame, against: pd.DataFrame, limits: pd.DataFrame, batches: pd.DataFrame) -> pd.DataFrame:
    """Everything as one long table for results/efficiency.csv: model, stage, task, what, value, unit, n (answers, training rows or questions)."""
    parts = [(answers, "answering", "answers"), (training, "training", "train_rows"), (size, "size", None), (against, "limit", None), (batches, "batches of", "n")]
    rows = []
    for table, about, counted in parts:
        for _, row in table.iterrows():
            name = f"{about} {row['batch_size']:.0f}" if about == "batches of" else about
            rows += [{"model": row["model"], "stage": row.get("stage", ""), "task": row.get("task", ""), "what": f"{name}: {column}", "value": row[column], "unit": UNITS[column],
                      "n": row[counted] if counted else None} for column in table.columns if column in UNITS and pd.notna(row[column])]
    rows += [{"model": "", "stage": "", "task": "", "what": f"machine: {row.what} {row.precision}", "value": row.value, "unit": row.unit, "n": None}
             for row in limits.itertuples()]
    return pd.DataFrame(rows, columns=["model", "stage", "task", "what", "value", "unit", "n"])


def write(run_dir, table: pd.DataFrame) -> Path:
    """results/efficiency.csv, as a whole or not at all; returns its path."""
    path = Path(run_dir) / "results" / "efficiency.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    table.to_csv(draft, index=False)
    draft.replace(path)
    return path


def sentences(front: pd.DataFrame, training: pd.DataFrame) -> list[str]:
    """What the tables say, in words with numbers: the best and the cheapest system of each task, and what training took."""
    found = []
    for task, part in front.groupby("task", sort=False):
        best = part.sort_values("quality", ascending=False).iloc[0]
        on_front = [model_name(row.model, row.stage) for row in part[part["front"]].sort_values("seconds_per_1000").itertuples()]
        found.append(f"{task_name(task)} ({ring_name(best['split'])}): {model_name(best['model'], best['stage'])} is best with {best['quality']:.1f} points at "
                     f"{best['seconds_per_1000']:.3g} s per 1,000 answers. No other system is better and as cheap as {', '.join(on_front)}.")
    if len(training):
        found.append(f"Training of {len(training)} stages took {training['process_hours'].sum() * 60:.1f} minutes of one process in all; "
                     f"it is paid once, answering every time.")
    return found
