"""Scores in the layout of EleutherAI's lm-evaluation-harness, one file per system, so that its tables and other people's converters read them.

Layout checked against version 0.4.13 (`lm_eval/result_schema.py`, https://github.com/EleutherAI/lm-evaluation-harness). What differs in meaning: a task is
asked on several test sets, so each stands as `<task>_<test set>`; the filter behind the comma is the family of metrics; values are shares from 0 to 1;
standard errors are taken from the 95 % interval. Nothing is computed from answers here.
"""

import json
import os
import platform
import shutil
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from cancerllm_utils.paths import PACKAGE
from cancerllm_utils.report import results_files, run_facts, summary
from cancerllm_utils.results import headline, is_hybrid, ring_name, system_order, task_name
from cancerllm_utils.tasks import task

LAYOUT = "0.4.13"
NOT_GIVEN = "N/A"  # what the harness writes where there is no standard error


def write_all(run_dir: str | Path) -> list[Path]:
    """Write results/lm_eval/<model>__<stage>/results_<date>.json for every scored system, in place of older ones; returns their paths, [] without scores."""
    run_dir = Path(run_dir)
    folder = run_dir / "results" / "lm_eval"
    if folder.is_dir():
        shutil.rmtree(folder)
    written = []
    for (model, stage), found in headlines(summary.read_results(run_dir)["scores"]).items():
        body = system_json(run_dir, found, model, stage)
        date = datetime.fromtimestamp(body["date"], UTC).strftime("%Y-%m-%dT%H-%M-%S")
        path = folder / f"{model}__{stage}" / f"results_{date}.json"
        path.parent.mkdir(parents=True)
        path.with_suffix(".tmp").write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(path.with_suffix(".tmp"), path)
        written.append(path)
    return written


def headlines(scores: pd.DataFrame) -> dict:
    """(model, stage) -> (task, test set) -> (metric, family) -> its row of scores.csv as a dict, for every number that stands for a whole task."""
    found: dict = {system: {} for system in system_order(scores)}
    for family, metric in dict.fromkeys(zip(scores["family"], scores["metric"])):
        for row in headline(scores, metric, family).to_dict("records"):
            if pd.notna(row["f1"]):
                found[row["model"], row["stage"]].setdefault((row["task"], row["split"]), {})[metric, family] = row
    return found


def system_json(run_dir: Path, found: dict, model: str, stage: str) -> dict:
    """The harness's dict of one system; found: its part of `headlines`.

    Beside the harness's own keys it holds `confidence_intervals` (95 %, shares), `prompt_hashes` (as in datasets/settings.json, the wording that was asked)
    and `stderr_from`.
    """
    record = next((r for r in run_facts.read_records(run_dir) if r["step"].startswith("06_evaluation")), {})
    settings = read_json(run_dir / "datasets" / "settings.json")
    card, decoding = read_json(run_dir / "models" / model / stage / "cancerllm.json"), read_decoding(run_dir, model, stage)
    better = results_files.described()["metrics"]
    body = {key: {} for key in ("results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "task_hashes", "confidence_intervals", "prompt_hashes")}
    for (name, split), rows in found.items():
        key = f"{name}_{split}"
        body["results"][key] = values(rows, key, f"{task_name(name)}, {ring_name(split)}")
        body["confidence_intervals"][key] = {",".join(pair): [share(row["f1_low"]), share(row["f1_high"])] for pair, row in rows.items() if pd.notna(row["f1_low"])}
        body["group_subtasks"][key] = []
        body["configs"][key] = task_config(name, split, settings, decoding.get((name, split), {}))
        body["versions"][key] = body["configs"][key]["metadata"]["version"]
        body["n-shot"][key] = 0
        body["higher_is_better"][key] = {metric: not better.get(metric, "").endswith("| lower") for metric, _ in rows}
        body["n-samples"][key] = samples(run_dir, name, split, body["results"][key]["sample_len"])
        body["task_hashes"][key] = record.get("inputs", {}).get(f"predictions/{model}/{stage}/{name}.{split}.jsonl", "")
        body["prompt_hashes"][key] = settings.get("prompt_hash", {}).get(name, "")
    versions = record.get("versions", {})
    return body | {
        "config": model_config(model, stage, card, record, list(decoding.values())),
        "git_hash": record.get("commit", ""), "date": moment(record), "pretty_env_info": environment(record), "transformers_version": versions.get("transformers", ""),
        "lm_eval_version": f"layout of {LAYOUT}; scored by cancerllm_utils, not by the harness", "upper_git_hash": None,
        "model_source": kind(model, stage), "model_name": f"{model}/{stage}", "model_name_sanitized": f"{model}__{stage}",
        "system_instruction": None, "system_instruction_sha": None, "fewshot_as_multiturn": None, "chat_template": None, "chat_template_sha": None,
        "total_evaluation_time_seconds": str(record.get("seconds", "")), "stderr_from": "half the width of the 95 % interval, divided by 1.96",
    }  # fmt: skip


def read_json(path: Path) -> dict:
    """The file's dict, {} where it is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_decoding(run_dir: Path, model: str, stage: str) -> dict[tuple[str, str], dict]:
    """(task, test set) -> how the answers were made: the plain settings of predictions/<model>/<stage>/<task>.<test set>.run.json."""
    found = {}
    for path in sorted((run_dir / "predictions" / model / stage).glob("*.run.json")):
        name, _, split = path.name.removesuffix(".run.json").partition(".")
        settings = read_json(path).get("settings", {})
        found[name, split] = {key: value for key, value in settings.items() if key not in ("model", "data", "values", "versions")}
    return found


def share(points: float) -> float:
    """Points as a share."""
    return round(float(points) / 100, 8)


def values(rows: dict, name: str, alias: str) -> dict:
    """One entry of `results`: "metric,family" and "metric_stderr,family" for each number; sample_len is the largest n, as some metrics ask a part of the items."""
    out = {"name": name, "alias": alias, "sample_len": max(int(row["n"]) for row in rows.values())}
    for (metric, family), row in rows.items():
        out[f"{metric},{family}"] = share(row["f1"])
        out[f"{metric}_stderr,{family}"] = round(float(row["f1_high"] - row["f1_low"]) / 2 / 1.96 / 100, 8) if pd.notna(row["f1_low"]) else NOT_GIVEN
    return out


@cache
def task_spec(name: str) -> dict:
    """The task's YAML in this checkout, {} where there is none of this name."""
    return task.load_task(name) if name in task.task_names() else {}


@cache
def prompt_hash(name: str) -> str:
    """The hash of the wording that this checkout would ask."""
    return task.prompt_hash(task_spec(name))


def task_config(name: str, split: str, settings: dict, decoding: dict) -> dict:
    """The task's YAML with the test set and the decoding that was used; without the wording where it has changed since the questions were made."""
    spec, asked = task_spec(name), settings.get("prompt_hash", {}).get(name)
    same = bool(spec) and asked in (None, prompt_hash(name))
    out = spec if same else {"task": name, "description": "The task's YAML in this checkout is not the one that was asked; prompt_hash names that one."}
    return out | {
        "task": f"{name}_{split}", "dataset_path": f"datasets/{name}", "test_split": split, "output_type": "generate_until", "num_fewshot": 0, "repeats": 1,
        "generation_kwargs": decoding or spec.get("generation_kwargs"), "metadata": {"version": spec.get("version") if same else None, "prompt_hash": asked},
    }  # fmt: skip


def samples(run_dir: Path, name: str, split: str, scored: int) -> dict:
    """Questions in the test set's file and questions that were scored; extraction's headline leaves out those where text and registry disagree."""
    path = run_dir / "datasets" / name / f"{split}.jsonl"
    with open(path if path.is_file() else os.devnull, encoding="utf-8") as rows:
        return {"original": sum(1 for _ in rows) or scored, "effective": scored}


@cache
def models() -> dict:
    """models.yaml as it stands; read here rather than through modeling.models, which imports torch."""
    return yaml.safe_load((PACKAGE / "modeling" / "models.yaml").read_text(encoding="utf-8"))


def kind(model: str, stage: str) -> str:
    """What answered: hf (a language model), baseline, or hybrid (rules where they are sure, the model elsewhere)."""
    return "baseline" if stage == "baseline" else "hybrid" if is_hybrid(model) else "hf"


def model_config(model: str, stage: str, card: dict, record: dict, decodings: list[dict]) -> dict:
    """The harness's `config`: which weights, how they were asked, with which seed and how many resamples."""
    entry = models().get(model, {})
    parts = [] if kind(model, stage) != "hf" else [f"pretrained={entry.get('hub_id', model)}", *([f"peft=models/{model}/{stage}"] if card else [])]
    common = {key: value for key, value in (decodings[0] if decodings else {}).items() if all(other.get(key) == value for other in decodings)}
    seed = record.get("seed")
    return {
        "model": kind(model, stage), "model_args": ",".join(parts), "model_dtype": card.get("precision", common.get("precision", "")),
        "model_revision": card.get("base_revision", entry.get("revision", "")), "model_sha": card.get("adapter_sha256", ""), "batch_size": str(common.get("batch_size", "")),
        "batch_sizes": [], "device": record.get("device", ""), "use_cache": None, "limit": None, "bootstrap_iters": record.get("params", {}).get("n_resamples"),
        "gen_kwargs": common, "random_seed": seed, "numpy_seed": seed, "torch_seed": seed, "fewshot_seed": None,
    }  # fmt: skip


def moment(record: dict) -> float:
    """When scoring finished, seconds since 1970; 0 where no record says so."""
    return datetime.fromisoformat(record["finished"]).replace(tzinfo=UTC).timestamp() if record.get("finished") else 0.0


def environment(record: dict) -> str:
    """Machine and versions that the scoring step recorded, a line each."""
    lines = [f"{name}: {version}" for name, version in record.get("versions", {}).items()]
    return "\n".join([f"device: {record.get('device', 'not recorded')}", f"system: {platform.system()}", *lines])
