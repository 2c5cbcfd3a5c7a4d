"""The commands as other programs call them: exit codes, one sentence, nothing else on stdout."""

import json
import subprocess
import sys

import pytest

from cancerllm_utils import cli, params, plan, preflight, study
from cancerllm_utils.modeling import models


def test_score_prints_eight_json_rows_and_nothing_else(tmp_path):
    file = tmp_path / "predictions.jsonl"
    file.write_text('{"id": 1, "answers": ["lung cancer"], "prediction": "lung carcinoma"}\n{"id": 2, "answers": ["2.5"], "prediction": "25", "patient_id": "p"}\n')
    result = subprocess.run([sys.executable, "-m", "cancerllm_utils.cli", "score", str(file), "--json"], capture_output=True, text=True)
    rows = json.loads(result.stdout)
    assert result.returncode == 0 and [(row["family"], row["metric"]) for row in rows] == [(f, m) for f in ("paper", "clinical") for m in ("exact_match", "bleu2", "rougeL", "average")]
    assert all(list(row) == ["family", "metric", "precision", "recall", "f1", "f1_low", "f1_high", "n"] and row["n"] == 2 for row in rows)
    by_name = {(row["family"], row["metric"]): row["f1"] for row in rows}
    assert by_name["paper", "exact_match"] == pytest.approx(50.0), "the paper's metric cannot tell 2.5 from 25"
    assert by_name["clinical", "exact_match"] == pytest.approx(0.0)
    assert by_name["paper", "rougeL"] == pytest.approx(75.0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no row"),
        ('{"id": 1, "answers": ["a"], "prediction": "a"}\n{"id": 1, "answers": ["a"], "prediction": "a"}\n', "line 2"),
        ('{"id": 1, "answers": "a", "prediction": "a"}\n', "line 1"),
        ('{"id": 1, "answers": ["a"]}\n', "prediction"),
        ("{id: 1}\n", "line 1"),
    ],
)
def test_score_refuses_bad_files_with_one_sentence(tmp_path, capsys, content, words):
    file = tmp_path / "bad.jsonl"
    file.write_text(content)
    assert cli.main(["score", str(file), "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and str(file) in err and "Traceback" not in err


def test_check_names_what_is_missing_and_how_to_mend_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CANCERLLM_DATA", str(tmp_path))
    assert cli.main(["check", "tcga"]) == 2
    out = capsys.readouterr().out
    assert "MISSING" in out and "CANCERLLM_DATA" in out and str(tmp_path) in out


def test_check_of_paper_counts_the_adapters_without_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("CANCERLLM_DATA", str(tmp_path))
    text = " ".join(finding["text"] for finding in preflight.check("paper"))
    assert "trains 20,971,520 parameters" in text and "trains 27,262,976 parameters" in text and text.count(": equal") == 2


def test_quick_needs_nothing_that_the_checkout_does_not_hold():
    assert not [finding for finding in preflight.check("quick") if finding["missing"]]
    assert 6e6 < models.parameter_count("tiny_base") < 8e6


def test_unknown_profile_and_missing_file_are_sentences(tmp_path, capsys):
    assert cli.main(["run", "quik"]) == 2
    assert "did you mean 'quick'" in capsys.readouterr().err
    assert cli.main(["score", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err


TWO_MODELS = """
study: {models: {tiny_base: [sft], mistral-7b-instruct-v0.1: [cpt-sft]}}
shared: {model: mistral-7b-instruct-v0.1, tasks: [diagnosis_generation], precision: bf16}
02_dataset_preparation: {context_tokens: 1500, max_train_items: 1000, max_test_items: 100}
03_continued_pretraining: {max_tokens: 2000000, num_processes: 2, accelerate_config: fsdp}
04_instruction_tuning: {max_tokens: 0, num_train_epochs: 2.0}
05_prediction: {test_sets: [test, external]}
"""


@pytest.fixture
def two_models(tmp_path, monkeypatch):
    monkeypatch.setenv("CANCERLLM_RUNS", str(tmp_path / "runs"))
    (tmp_path / "two.yaml").write_text(TWO_MODELS)
    return tmp_path / "two.yaml"


def test_a_dry_run_prints_every_job_with_what_it_needs_and_runs_nothing(two_models, capsys):
    assert cli.main(["check", str(two_models), "--dry-run", "--gpu-memory", "10", "--tflops", "100"]) == 0
    out = capsys.readouterr().out
    jobs = study.jobs(str(two_models))
    table = out.splitlines()[2 : 3 + len(jobs)]
    assert [line.split()[0] for line in table] == ["job", *jobs] and table[0].split()[1:3] == ["model", "stage"]
    at = table[0].index("model")
    assert all(line[at:].startswith(values.get("model", "")) for line, values in zip(table[1:], jobs.values()) if line.startswith(params.PER_MODEL)), "aligned"
    assert "do not fit a card of 10 GiB" in out and "05_prediction.mistral-7b-instruct-v0.1" in out.split("do not fit")[1].splitlines()[0]
    assert "reaches 100 TFLOP/s" in out and not (two_models.parent / "runs" / "two" / "records").exists()
    assert "MISSING  03_continued_pretraining.cpt.mistral-7b-instruct-v0.1: accelerate_config fsdp" in out, "no card here that a model could be cut over"


def test_many_stages_of_a_job_are_counted_in_the_plan():
    assert plan.few_stages("") == "" and plan.few_stages("base, cpt, sft") == "base, cpt, sft"
    assert plan.few_stages("base, sft, sft-s1, sft-s2") == "base, sft and 2 more"


def test_the_plan_counts_tokens_and_hours_from_the_settings(two_models):
    rows = plan.table(str(two_models), tflops=100).set_index("job")
    cpt, sft = rows.loc["03_continued_pretraining.cpt.mistral-7b-instruct-v0.1"], rows.loc["04_instruction_tuning.cpt-sft.mistral-7b-instruct-v0.1"]
    assert cpt["million_tokens"] == 2.0 and sft["million_tokens"] == pytest.approx(2 * 1000 * 1600 / 1e6), "epochs x items x (text and question)"
    assert cpt["hours"] == pytest.approx(4 * 7_241_732_096 * 2e6 / 100e12 / 3600), "4N operations per token"
    asked = rows.loc["05_prediction.mistral-7b-instruct-v0.1"]
    assert asked["stage"] == "base, cpt-sft" and asked["million_tokens"] == pytest.approx(2 * 2 * 100 * 1600 / 1e6)
    assert asked["gpu_gib"] > 2 * 7_241_732_096 / 2**30 and asked["ram_gib"] == pytest.approx(4 * 7_241_732_096 / 2**30), "bf16 on the card, fp32 to merge"
    assert rows.loc["04_instruction_tuning.sft.tiny_base", "ram_gib"] == 0 and rows.loc["01_data_exploration", ["hours", "gpu_gib"]].isna().all()
    assert plan.table(str(two_models), tflops=200)["hours"].sum() < rows["hours"].sum()


def test_the_plan_counts_what_the_chosen_layers_keep(tmp_path, monkeypatch):
    """An adapter on two kinds of layers keeps about half of the activations that one on all layers keeps."""
    monkeypatch.setenv("CANCERLLM_RUNS", str(tmp_path / "runs"))
    (tmp_path / "layers.yaml").write_text("study: {stages: [sft], steps: [04_instruction_tuning], variants: {all: {04_instruction_tuning: {target_modules: all-linear}}}}\n"
                                          "04_instruction_tuning: {lora_r: 8, target_modules: '.*q_proj', per_device_train_batch_size: 64}\n")
    memory = plan.table(str(tmp_path / "layers.yaml")).set_index("stage")["gpu_gib"]
    entry, batch, length = models.model_entry("tiny_base"), 64, params.declared("04_instruction_tuning")["max_length"][1]
    kept = {name: models.training_memory(entry, trainable=0, batch=batch, max_length=length, target_modules=name) for name in (".*q_proj", "all-linear")}
    assert memory["sft-all"] - memory["sft"] == pytest.approx(kept["all-linear"] - kept[".*q_proj"], rel=0.05) and kept["all-linear"] > kept[".*q_proj"]


def test_the_plan_counts_the_runs_own_examples_once_they_are_there(two_models):
    jobs = study.jobs(str(two_models))
    folder = two_models.parent / "runs" / "two" / "datasets" / "diagnosis_generation"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("{}\n" * 7)
    for ring in ("test", "external"):
        (folder / f"{ring}.jsonl").write_text("{}\n" * 3)
    assert plan.amount("04_instruction_tuning.sft.tiny_base", jobs)["tokens"] == 2 * 7 * 1600
    assert plan.amount("05_prediction.tiny_base", jobs) == {"tokens": 2 * 6 * 1600, "answers": 12, "prompt": 1600}


def test_adapters_are_held_against_the_paper_on_its_own_base_only(two_models):
    text = " ".join(finding["text"] for finding in preflight.check_adapters("tiny_base", {
        job: values for job, values in study.jobs(str(two_models)).items() if values.get("model") == "tiny_base"}))
    assert "trains" in text and "paper" not in text


def test_further_options_reach_snakemake_as_they_are_written(two_models, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(cli, "due_jobs", lambda command, environment: ["A1_tiny_base"])
    monkeypatch.setattr(preflight, "check", lambda profile: [])
    monkeypatch.setattr(preflight, "estimate", lambda profile, due: "")
    monkeypatch.setattr(cli.subprocess, "run", lambda command, **options: calls.append(command) or subprocess.CompletedProcess(command, 0))
    assert cli.main(["run", str(two_models), "--snakemake", "--executor slurm --jobs 8 --default-resources 'slurm_extra=--exclusive'"]) == 0
    assert calls[0][-6:] == ["--executor", "slurm", "--jobs", "8", "--default-resources", "slurm_extra=--exclusive"] and "snakemake" in calls[0]
