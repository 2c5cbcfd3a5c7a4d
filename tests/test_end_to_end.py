"""The whole study on a handful of patients, as a user runs it: killed once, continued, nothing run twice, one step reproduced by plain papermill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from cancerllm_utils import paths
from cancerllm_utils.report import results_files

STEPS = ["01_data_exploration", "02_dataset_preparation", "02b_treatment_plans", "03_continued_pretraining", "04_instruction_tuning", "05_prediction", "06_evaluation",
         "06b_independent_cohort", "06c_trust", "06d_adjudication", "08_efficiency", "00_summary"]
TASKS = ["phenotype_extraction", "registry_prediction", "diagnosis_generation", "stage_from_tnm", "icd10_coding", "treatment_plan"]
SMALL = {
    "study": {"steps": STEPS},
    "shared": {"tasks": TASKS},
    "01_data_exploration": {"n_patients": 90},
    "02_dataset_preparation": {"max_train_items": 40, "max_dev_items": 8, "max_test_items": 6, "context_tokens": 64, "head_tokens": 8},
    "03_continued_pretraining": {"max_tokens": 12000, "max_length": 256, "eval_tokens": 1500, "eval_splits": ["dev"]},
    "04_instruction_tuning": {"max_tokens": 6000, "max_length": 256, "max_eval_examples": 4},
    "05_prediction": {"max_new_tokens": 8},
    "06_evaluation": {"n_resamples": 50},
}


def cancerllm(profile: Path, *more: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "cancerllm_utils.cli", "run", str(profile), *more], cwd=paths.ROOT, capture_output=True, text=True, **options)


def kernels_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children(recursive=True) if "ipykernel_launcher" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    profile = folder / "small.yaml"
    profile.write_text(yaml.safe_dump(SMALL))
    environment = os.environ | {"CANCERLLM_RUNS": str(folder / "runs"), "HF_HUB_OFFLINE": "1"}
    run = folder / "runs" / "small"

    # First try: the kernel of 03 is killed while it trains.
    process = subprocess.Popen(
        [sys.executable, "-m", "cancerllm_utils.cli", "run", str(profile)], cwd=paths.ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output = []
    for line in process.stdout:
        output.append(line)
        if "cpt: step" in line:
            for kernel in kernels_of(psutil.Process(process.pid)):
                kernel.send_signal(signal.SIGKILL)
            break
    output += process.stdout.readlines()
    killed = {"code": process.wait(), "output": "".join(output), "mark": (run / "records" / "03_continued_pretraining.json").exists()}
    again = cancerllm(profile, env=environment)
    return {"run": run, "profile": profile, "environment": environment, "killed": killed, "again": again}


def test_a_killed_kernel_leaves_the_run_visibly_failed(finished):
    killed = finished["killed"]
    assert killed["code"] == 2 and not killed["mark"], killed["output"][-2000:]
    assert "03_continued_pretraining died" in killed["output"] and "Traceback" not in killed["output"]


def test_the_same_command_continues_and_ends_with_a_report(finished):
    again = finished["again"]
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "01_data_exploration" not in again.stdout.split("steps to run:")[1].splitlines()[0], "what was finished is not run again"
    assert "The report: file://" in again.stdout and (finished["run"] / "report" / "index.html").stat().st_size > 10_000
    assert again.stdout.count("What looks like an identifier in") == 1, "the report is written once, after the summary"


def test_results_can_be_read_by_others(finished):
    run = finished["run"]
    assert results_files.undescribed(run) == [], "describe new columns in results_files.yaml"
    assert (run / "results" / "README.md").is_file() and (run / "report" / "tripod_llm.html").is_file() and (run / "models" / "tiny_base" / "cpt-sft" / "README.md").is_file()
    body = json.loads(next((run / "results" / "lm_eval" / "tiny_base__cpt-sft").glob("results_*.json")).read_text())
    assert body["results"]["phenotype_extraction_test"]["average,paper"] >= 0 and all(body["task_hashes"].values()) and all(body["prompt_hashes"].values())


def test_every_system_is_scored_on_every_ring_and_task(finished):
    scores = pd.read_csv(finished["run"] / "results" / "scores.csv")
    systems = {("tiny_base", "base"), ("tiny_base", "sft"), ("tiny_base", "cpt-sft"), ("hybrid", "sft"), ("hybrid", "cpt-sft"),
               *((name, "baseline") for name in ("majority", "majority_by_cancer", "nearest", "tfidf", "rules"))}
    assert systems <= set(zip(scores["model"], scores["stage"]))
    for ring in ("test", "external_site", "external"):
        assert set(TASKS) == set(scores.loc[scores["split"] == ring, "task"])
    limits = scores.dropna(subset=["f1_low", "f1_high", "f1"])
    assert len(limits) and ((limits["f1_low"] <= limits["f1"] + 1e-6) & (limits["f1"] <= limits["f1_high"] + 1e-6)).all()


def test_continued_pretraining_lowers_the_held_out_loss_even_here(finished):
    loss = pd.read_csv(finished["run"] / "results" / "cpt.csv").query("split == 'dev'").set_index("when")["loss"]
    assert loss["after"] < loss["before"]


def test_no_patient_and_no_external_institution_in_training(finished):
    corpus = finished["run"] / "corpus"
    notes = pd.read_parquet(corpus / "notes.parquet").merge(pd.read_parquet(corpus / "splits.parquet"), on="patient_id")
    outside = set(notes.loc[notes["split"] == "external", "institution"])
    assert outside and not outside & set(notes.loc[notes["split"] != "external", "institution"])
    for task in TASKS:
        rows = [json.loads(line) for line in open(finished["run"] / "datasets" / task / "train.jsonl")]
        assert rows and not outside & {row["institution"] for row in rows}


def test_second_run_does_nothing_and_one_parameter_reruns_what_follows(finished):
    second = cancerllm(finished["profile"], env=finished["environment"])
    assert second.returncode == 0 and "Nothing to do" in second.stdout, second.stdout + second.stderr
    changed = yaml.safe_load(finished["profile"].read_text()) | {"06_evaluation": {"n_resamples": 60}}
    finished["profile"].write_text(yaml.safe_dump(changed))
    due = cancerllm(finished["profile"], "--dry-run", env=finished["environment"])
    assert "6 of 13 steps to run: 00_summary, 06_evaluation, 06b_independent_cohort, 06c_trust, 06d_adjudication, 08_efficiency" in due.stdout, due.stdout + due.stderr


def test_plain_papermill_reproduces_a_step(finished, tmp_path):
    scores = (finished["run"] / "results" / "scores.csv").read_bytes()
    flat = yaml.safe_load((finished["run"] / "params" / "06_evaluation.yaml").read_text()) | {"n_resamples": SMALL["06_evaluation"]["n_resamples"]}
    (tmp_path / "06.yaml").write_text(yaml.safe_dump(flat))
    command = ["-m", "papermill", str(paths.NOTEBOOKS / "06_evaluation.ipynb"), str(tmp_path / "out.ipynb"), "-f", str(tmp_path / "06.yaml"), "--no-progress-bar", "-k", "python3"]
    result = subprocess.run([sys.executable, *command], env=finished["environment"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (finished["run"] / "results" / "scores.csv").read_bytes() == scores


def test_a_second_run_of_the_same_profile_is_refused(finished):
    import fcntl

    with open(finished["run"] / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = cancerllm(finished["profile"], env=finished["environment"])
    assert refused.returncode == 2 and "another run" in refused.stderr


def test_the_tuned_model_answers_notes_from_outside(finished, tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(json.dumps({"note_id": f"n{i}", "text": f"Right breast, excision: invasive ductal carcinoma, {i}.5 cm, grade 2. pT2 N1."}) for i in range(1, 4)))
    model = finished["run"] / "models" / "tiny_base" / "cpt-sft"
    command = [sys.executable, "-m", "cancerllm_utils.cli", "predict", "--model", str(model), "--task", "phenotype_extraction", "--fields", "laterality,stage", str(source), str(target)]
    result = subprocess.run(command, cwd=tmp_path, env=finished["environment"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(row["note_id"], row["field"]) for row in rows] == [(f"n{i}", field) for i in range(1, 4) for field in ("laterality", "stage")]
    assert all(set(row) == {"note_id", "field", "prediction", "raw"} for row in rows)
