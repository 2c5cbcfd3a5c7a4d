"""Profiles: every one in params/ loads; typos, text that should be a number, and wrong types stop with the remedy."""

import pytest
import yaml

from cancerllm_utils import params, paths, record
from cancerllm_utils.errors import UserError


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PARAMS", tmp_path)

    def write(text):
        (tmp_path / "mine.yaml").write_text(text)
        return params.load_profile("mine")

    return write


@pytest.mark.parametrize("name", params.profiles())
def test_every_profile_loads_and_round_trips(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CANCERLLM_RUNS", str(tmp_path))
    jobs = params.jobs(name)
    params.write_flat(name, jobs)
    for job, values in jobs.items():
        flat = yaml.safe_load((tmp_path / name / "params" / f"{job}.yaml").read_text())
        assert flat == values and {k: type(v) for k, v in flat.items()} == {k: type(v) for k, v in values.items()}, job


def test_quick_is_the_notebooks_own_default():
    for job, values in params.jobs("quick").items():
        defaults = {key: default for key, (_, default, _) in params.declared(job.partition(".")[0]).items()}
        assert {k for k in values if values[k] != defaults[k]} <= {"run_dir", "stage"}


def test_tuning_runs_once_per_stage():
    jobs = params.jobs("quick")
    assert jobs["04_instruction_tuning.sft"]["stage"] == "sft" and jobs["04_instruction_tuning.cpt-sft"]["stage"] == "cpt-sft"


def test_paper_profile_holds_the_papers_values():
    jobs = params.jobs("paper")
    cpt, sft = jobs["03_continued_pretraining"], jobs["04_instruction_tuning.cpt-sft"]
    assert (cpt["lora_r"], cpt["lora_alpha"], cpt["lora_dropout"], cpt["learning_rate"], cpt["warmup_ratio"], cpt["weight_decay"]) == (8, 16, 0.05, 2e-4, 0.05, 0.01)
    assert (cpt["per_device_train_batch_size"], cpt["num_processes"], cpt["max_length"], cpt["num_train_epochs"], cpt["seed"]) == (4, 2, 3000, 0.5, 42)
    assert cpt["gradient_checkpointing"] and cpt["lr_scheduler_type"] == "linear" and cpt["precision"] == "bf16"
    assert (sft["preset"], sft["load_in_4bit"], sft["learning_rate"], sft["num_train_epochs"], sft["max_length"]) == ("paper", True, 2e-4, 5.0, 4000)
    assert (sft["per_device_train_batch_size"], sft["gradient_accumulation_steps"], sft["max_grad_norm"], sft["warmup_ratio"], sft["optim"]) == (1, 4, 0.3, 0.03, "paged_adamw_8bit")
    assert jobs["05_prediction"]["max_new_tokens"] == 50 and jobs["05_prediction"]["decoding"] == "greedy"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("03_continued_pretraining: {learning_rat: 1.0e-3}", ["learning_rat", "did you mean 'learning_rate'"]),
        ("03_continued_pretraining: {learning_rate: 1e-5}", ["learning_rate", "write 1.0e-5"]),
        ("03_continued_pretraining: {lora_r: '8'}", ["lora_r", "without quotes"]),
        ("03_continued_pretraining: {lora_r: 8.5}", ["lora_r must be int"]),
        ("03_continued_pretraining: {gradient_checkpointing: 1}", ["gradient_checkpointing must be bool"]),
        ("03_continued_pretraining: {lora_r: true}", ["lora_r must be int"]),
        ("05_prediction: {stages: sft}", ["stages must be list"]),
        ("shared: {sed: 1}", ["sed", "did you mean 'seed'"]),
        ("03_pretraining: {seed: 1}", ["no notebook '03_pretraining'"]),
        ("study: {stagse: [sft]}", ["stagse", "did you mean 'stages'"]),
        ("study: {steps: [07_robustness]}", ["07_robustness"]),
        ("shared: [1, 2]", ["blocks"]),
        ("shared: {seed: 1", ["line", "not valid YAML"]),
    ],
)
def test_bad_profile_stops_with_the_remedy(profile, text, words):
    with pytest.raises(UserError) as caught:
        profile(text)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_unknown_profile_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'quick'"):
        params.load_profile("quik")


def test_an_int_may_stand_for_a_float(profile):
    assert profile("03_continued_pretraining: {num_train_epochs: 2}")


def test_record_is_written_last_and_locks_the_step(tmp_path):
    values = {key: default for key, (_, default, _) in params.declared("06_evaluation").items()} | {"run_dir": str(tmp_path)}
    mark = tmp_path / "records" / "06_evaluation.json"
    step = record.start("06_evaluation", values)
    assert not mark.exists(), "an unfinished step must not look finished"
    with pytest.raises(UserError, match="another process"):
        record.start("06_evaluation", values)
    output = tmp_path / "results" / "scores.csv"
    output.parent.mkdir()
    output.write_text("abc")
    record.finish(step, outputs=[output])
    body = yaml.safe_load(mark.read_text())
    assert body["outputs"] == {"results/scores.csv": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert body["params"]["n_resamples"] == values["n_resamples"] and body["seed"] == 42 and body["versions"]["pandas"]
    again = record.start("06_evaluation", values)
    assert not mark.exists(), "starting again takes the mark away"
    record.finish(again)


def test_a_path_in_a_profile_counts_from_the_profiles_folder(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("01_data_exploration: {corpus: local, data_dir: notes/all.csv, labels_file: /elsewhere/labels.csv}\n")
    values = params.jobs(str(own))["01_data_exploration"]
    assert values["data_dir"] == str(tmp_path / "notes" / "all.csv") and values["labels_file"] == "/elsewhere/labels.csv" and values["adjudicated_csv"] == ""
