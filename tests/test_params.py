"""Profiles: every one in params/ loads; typos, text that should be a number, and wrong types stop with the remedy."""

import pytest
import yaml

from cancerllm_utils import params, paths, plan, preflight, record, study
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
    jobs = study.jobs(name)
    study.write_flat(name, jobs)
    for job, values in jobs.items():
        flat = yaml.safe_load((tmp_path / name / "params" / f"{job}.yaml").read_text())
        assert flat == values and {k: type(v) for k, v in flat.items()} == {k: type(v) for k, v in values.items()}, job


def test_quick_is_the_notebooks_own_default():
    for job, values in study.jobs("quick").items():
        defaults = {key: default for key, (_, default, _) in params.declared(job.partition(".")[0]).items()}
        assert {k for k in values if values[k] != defaults[k]} <= {"run_dir", "stage"}


def test_tuning_runs_once_per_stage():
    jobs = study.jobs("quick")
    assert jobs["04_instruction_tuning.sft"]["stage"] == "sft" and jobs["04_instruction_tuning.cpt-sft"]["stage"] == "cpt-sft"


def test_paper_profile_holds_the_papers_values():
    jobs = study.jobs("paper")
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
        ("study: {steps: [07_robust]}", ["07_robust"]),
        ("study: {stages: [cpt_sft]}", ["stages", "cpt-sft"]),
        ("study: {like: papr}", ["no profile 'papr'"]),
        ("study: {like: 3}", ["like must be text"]),
        ("study: {stages: sft}", ["stages must be a list"]),
        ("study: {models: [tiny_bace]}", ["did you mean 'tiny_base'"]),
        ("study: {models: [tiny_base, tiny_base]}", ["'tiny_base' stands twice"]),
        ("study: {models: {tiny_base: [stf]}}", ["stages must be a list of cpt, sft, cpt-sft"]),
        ("shared: {model: tiny_bas}", ["did you mean 'tiny_base'"]),
        ("10_radiation_oncology: {models: [tiny_base, tiny_lama]}", ["did you mean 'tiny_llama'"]),
        ("study: {sweep: {03_continued_pretraning: {lora_r: [2]}}}", ["cannot be varied", "did you mean '03_continued_pretraining'"]),
        ("study: {sweep: {05_prediction: {batch_size: [2]}}}", ["'05_prediction' cannot be varied"]),
        ("study: {sweep: {03_continued_pretraining: {lora_rank: [2]}}}", ["lora_rank", "did you mean 'lora_"]),
        ("study: {sweep: {03_continued_pretraining: {lora_r: [2, 8.5]}}}", ["lora_r must be int"]),
        ("study: {sweep: {03_continued_pretraining: {learning_rate: [1e-5]}}}", ["write 1.0e-5"]),
        ("study: {sweep: {03_continued_pretraining: {lora_r: 2}}}", ["as a list"]),
        ("study: {sweep: {03_continued_pretraining: {lora_r: [2, 2]}}}", ["2 stands twice"]),
        ("study: {sweep: {03_continued_pretraining: {eval_splits: [[dev]]}}}", ["Name them under"]),
        ("study: {sweep: {04_instruction_tuning: {stage: [sft]}}}", ["stage is set by the study"]),
        ("study: {variants: {no.dot: {04_instruction_tuning: {preset: released}}}}", ["letters, digits, _ and -"]),
        ("study: {variants: {sft: {03_continued_pretraining: {lora_r: 2}}}}", ["does not begin with sft"]),
        ("study: {variants: {a: {04_instruction_tuning: {preste: released}}}}", ["did you mean 'preset'"]),
        ("study: {variants: {a: {}}}", ["write what changes"]),
        ("study: {variants: {a: {04_instruction_tuning: {counterfactual_rate: 40}}}}", ["counterfactual_rate", "from 0 to 1", "40"]),
        ("04_instruction_tuning: {counterfactual_mode: near}", ["counterfactual_mode", "'confusable'"]),
        ("04_instruction_tuning: {label_filter: loss}", ["label_filter", "'small_loss', 'agreement'"]),
        ("study: {variants: {a: {04_instruction_tuning: {lora_r: 2}, stages: [cptsft]}}}", ["a: stages must be a list of cpt, sft, cpt-sft"]),
        ("04_instruction_tuning: {cpt_stage: cpt-a}", ["cpt_stage is set by the study"]),
        ("shared: {seed: 1, seed: 2}", ["line 1", "'seed' stands twice"]),
        ("05c_perturbed_prediction: {variants: ['mispell:20']}", ["05c_perturbed_prediction", "did you mean 'misspell'"]),
        ("05c_perturbed_prediction: {variants: ['misspell:120']}", ["0 to 100"]),
        ("05c_perturbed_prediction: {remedies: [spelled]}", ["remedies: 'spelled'"]),
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
    values = study.jobs(str(own))["01_data_exploration"]
    assert values["data_dir"] == str(tmp_path / "notes" / "all.csv") and values["labels_file"] == "/elsewhere/labels.csv" and values["adjudicated_csv"] == ""


# ---- from a study to jobs --------------------------------------------------------------------------------------------------------

JOBS = ["01_data_exploration", "02_dataset_preparation", "03_continued_pretraining", "04_instruction_tuning.sft", "04_instruction_tuning.cpt-sft",
        "05_prediction", "02b_treatment_plans", "06_evaluation", "06b_independent_cohort", "06c_trust", "06d_adjudication", "00_summary", "A1_tiny_base"]


@pytest.mark.parametrize("name", ["quick", "tcga", "paper"])
def test_a_profile_without_a_study_runs_each_notebook_once_and_04_per_stage(name):
    jobs = study.jobs(name)
    assert [job for job in jobs if job != "08_efficiency"] == JOBS, "the names of the success marks of existing runs"
    assert jobs["05_prediction"]["stages"] == ["base", "sft", "cpt-sft"]
    assert study.needs("04_instruction_tuning.sft", jobs) == ["02_dataset_preparation"]
    assert study.needs("04_instruction_tuning.cpt-sft", jobs) == ["02_dataset_preparation", "03_continued_pretraining"]
    assert study.needs("06_evaluation", jobs) == ["05_prediction"] and set(study.needs("00_summary", jobs)) == set(jobs) - {"00_summary"}


def made(tmp_path, text):
    """The jobs of a profile written as text."""
    (tmp_path / "mine.yaml").write_text(text)
    return study.jobs(str(tmp_path / "mine.yaml"))


SWEEP = """
study:
  stages: [sft, cpt-sft]
  sweep:
    03_continued_pretraining: {lora_r: [2, 8, 32], learning_rate: [3.0e-4, 1.0e-3]}
    04_instruction_tuning: {lora_r: [4, 16]}
  variants:
    both: {03_continued_pretraining: {lora_r: 4}, 04_instruction_tuning: {seed: 7}}
"""


def test_a_sweep_varies_one_factor_at_a_time_around_the_profiles_own_values(tmp_path):
    jobs = made(tmp_path, SWEEP)
    assert [job for job in jobs if job.startswith("03_")] == [
        "03_continued_pretraining", "03_continued_pretraining.cpt-lora_r2", "03_continued_pretraining.cpt-lora_r32",
        "03_continued_pretraining.cpt-learning_rate3e-4", "03_continued_pretraining.cpt-both"], "8 and 1.0e-3 are the profile's own: no second job"
    assert [job.partition(".")[2] for job in jobs if job.startswith("04_")] == [
        "sft", "cpt-sft", "cpt-sft-lora_r2", "cpt-sft-lora_r32", "cpt-sft-learning_rate3e-4", "cpt-sft-tuning_lora_r4",
        "sft-both", "cpt-sft-both"], "what reads the notes anew changes no sft; a sweep varies the last stage"
    two, tuned = jobs["03_continued_pretraining.cpt-lora_r2"], jobs["04_instruction_tuning.cpt-sft-lora_r2"]
    assert (two["lora_r"], two["learning_rate"], two["stage"]) == (2, 1e-3, "cpt-lora_r2")
    assert (tuned["stage"], tuned["cpt_stage"], tuned["lora_r"]) == ("cpt-sft-lora_r2", "cpt-lora_r2", 16)
    assert jobs["04_instruction_tuning.cpt-sft-tuning_lora_r4"]["cpt_stage"] == "cpt"
    both = jobs["04_instruction_tuning.cpt-sft-both"]
    assert (both["cpt_stage"], both["seed"], jobs["04_instruction_tuning.sft-both"]["seed"]) == ("cpt-both", 7, 7)
    assert jobs["05_prediction"]["stages"] == ["base", *(job.partition(".")[2] for job in jobs if job.startswith("04_"))]
    assert study.needs("04_instruction_tuning.cpt-sft-lora_r2", jobs) == ["02_dataset_preparation", "03_continued_pretraining.cpt-lora_r2"]
    assert set(study.needs("03b_ablation", jobs)) == {job for job in jobs if job.startswith(("03_", "04_"))} | {"06_evaluation"}


def test_a_variant_may_be_made_of_some_stages_only(tmp_path):
    jobs = made(tmp_path, "study: {stages: [sft, cpt-sft], variants: {a: {04_instruction_tuning: {lora_r: 4}, stages: [cpt-sft]}, b: {04_instruction_tuning: {lora_r: 2}}}}\n")
    assert [job.partition(".")[2] for job in jobs if job.startswith("04_")] == ["sft", "cpt-sft", "cpt-sft-a", "sft-b", "cpt-sft-b"]
    with pytest.raises(UserError, match="a makes no job"):
        made(tmp_path, "study: {stages: [sft], variants: {a: {04_instruction_tuning: {lora_r: 4}, stages: [cpt-sft]}}}\n")


def test_a_profile_like_another_takes_its_parameters_but_not_its_study(tmp_path):
    jobs = made(tmp_path, "study: {like: tiny_base, stages: [sft]}\nA1_tiny_base: {max_tokens: 5}\n")
    own, other = jobs["A1_tiny_base"], study.jobs("tiny_base")["A1_tiny_base"]
    assert own["max_tokens"] == 5 and {key for key in own if own[key] != other[key]} == {"max_tokens", "run_dir"} and own["train_base"]
    assert "06_evaluation" in jobs and "04_instruction_tuning.cpt-sft" not in jobs, "the steps of the other profile are its study"
    (tmp_path / "second.yaml").write_text(f"study: {{like: {tmp_path / 'mine.yaml'}}}\n")
    with pytest.raises(UserError, match="itself be like another one"):
        params.load_profile(str(tmp_path / "second.yaml"))
    (tmp_path / "second.yaml").write_text(f"study: {{like: {tmp_path / 'second.yaml'}}}\n")
    with pytest.raises(UserError, match="itself be like"):
        params.load_profile(str(tmp_path / "second.yaml"))


def test_baselines_have_the_papers_settings_and_only_the_papers_model_reads_notes():
    baselines, paper = study.jobs("baselines"), study.jobs("paper")
    mistral = {job.removesuffix(".mistral-7b-instruct-v0.1"): values for job, values in baselines.items()}
    for job in ("04_instruction_tuning.sft", "04_instruction_tuning.cpt-sft", "05_prediction", "02_dataset_preparation"):
        assert mistral[job] == paper[job] | {"run_dir": mistral[job]["run_dir"]}, job
    assert [job for job in baselines if job.startswith("03_")] == ["03_continued_pretraining.cpt.mistral-7b-instruct-v0.1"]
    known = yaml.safe_load((paths.PACKAGE / "modeling" / "models.yaml").read_text())
    asked = {values["model"] for job, values in baselines.items() if job.startswith("05_")}
    assert asked == {name for name, entry in known.items() if entry["role"] in ("base", "baseline")} and len(asked) == 15, "CancerLLM's base and 14 baselines"
    assert all(baselines[job]["stages"][:2] == ["base", "sft"] for job in baselines if job.startswith("05_"))


def test_several_models_name_their_jobs_and_need_only_their_own(tmp_path):
    jobs = made(tmp_path, "study: {models: {tiny_base: [cpt, sft, cpt-sft], mistral-7b-instruct-v0.1: [sft]}}\nshared: {model: tiny_base}\n")
    mine = [job for job in jobs if job.startswith(params.PER_MODEL)]
    assert mine == ["03_continued_pretraining.cpt.tiny_base", "04_instruction_tuning.sft.tiny_base", "04_instruction_tuning.cpt-sft.tiny_base",
                    "04_instruction_tuning.sft.mistral-7b-instruct-v0.1", "05_prediction.tiny_base", "05_prediction.mistral-7b-instruct-v0.1"]
    assert [jobs[job]["model"] for job in mine] == ["tiny_base"] * 3 + ["mistral-7b-instruct-v0.1", "tiny_base", "mistral-7b-instruct-v0.1"]
    assert jobs["05_prediction.tiny_base"]["stages"] == ["base", "cpt", "sft", "cpt-sft"]
    assert jobs["05_prediction.mistral-7b-instruct-v0.1"]["stages"] == ["base", "sft"]
    assert study.needs("05_prediction.mistral-7b-instruct-v0.1", jobs) == ["02_dataset_preparation", "04_instruction_tuning.sft.mistral-7b-instruct-v0.1"]
    assert study.needs("06_evaluation", jobs) == mine[-2:]
    assert study.jobs(str(tmp_path / "mine.yaml"), {"study": {"models": ["tiny_base"]}})["03_continued_pretraining.cpt.tiny_base"]["stage"] == "cpt"


def test_the_contamination_probe_runs_where_it_is_named_and_once_per_model(tmp_path):
    assert not [job for job in study.jobs("quick") if job.startswith(params.CONTAMINATION)] and not [job for job in study.jobs("ablation") if job.startswith(params.CONTAMINATION)]
    jobs = study.jobs("contamination")
    assert jobs["05b_contamination"]["stages"] == ["base", "cpt"] and study.needs("05b_contamination", jobs) == ["02_dataset_preparation", "03_continued_pretraining"]
    steps = "steps: [02_dataset_preparation, 03_continued_pretraining, 05b_contamination]"
    jobs = made(tmp_path, f"study: {{{steps}, models: {{tiny_base: [cpt-sft], tiny_llama: [sft]}}}}\n")
    assert jobs["05b_contamination.tiny_base"]["stages"] == ["base", "cpt"] and jobs["05b_contamination.tiny_llama"]["stages"] == ["base"]
    assert study.needs("05b_contamination.tiny_base", jobs) == ["02_dataset_preparation", "03_continued_pretraining.cpt.tiny_base"]
    assert study.needs("05b_contamination.tiny_llama", jobs) == ["02_dataset_preparation"]


def test_perturbed_notes_are_asked_about_where_it_is_named_and_of_the_stages_that_answered_the_clean_ones(tmp_path):
    assert not [job for job in study.jobs("quick") if job.startswith(params.PERTURBED)]
    steps = "steps: [02_dataset_preparation, 03_continued_pretraining, 04_instruction_tuning, 05_prediction, 05c_perturbed_prediction]"
    jobs = made(tmp_path, f"study: {{{steps}, stages: [sft]}}\n")
    assert jobs["05c_perturbed_prediction"]["stages"] == jobs["05_prediction"]["stages"] == ["base", "sft"]
    assert study.needs("05c_perturbed_prediction", jobs) == ["02_dataset_preparation", "05_prediction"]
    planned = jobs | {"05c_perturbed_prediction": jobs["05c_perturbed_prediction"] | {"variants": ["misspell:10", "upper"], "remedies": ["respelled"], "max_items": 60}}
    assert plan.amount("05c_perturbed_prediction", planned)["answers"] == 60 * 2 * 4 * 2, "items of 2 tasks; misspell10, upper, misspell10+respelled, respelled; 2 stages"
    jobs = made(tmp_path, f"study: {{{steps}, models: {{tiny_base: [sft, cpt-sft], tiny_llama: [sft]}}}}\n05_prediction: {{stages: [sft]}}\n")
    assert jobs["05c_perturbed_prediction.tiny_base"]["stages"] == ["sft"] and study.needs("05c_perturbed_prediction.tiny_llama", jobs) == ["02_dataset_preparation", "05_prediction.tiny_llama"]


def test_retrieval_runs_where_it_is_named_on_the_last_tuned_stage(tmp_path):
    assert not any(job.startswith("09_retrieval") for job in study.jobs("quick"))
    steps = "steps: [02_dataset_preparation, 03_continued_pretraining, 04_instruction_tuning, 09_retrieval]"
    jobs = made(tmp_path, f"study: {{stages: [sft, cpt-sft], {steps}}}\n")
    assert jobs["09_retrieval"]["stages"] == ["cpt-sft"] and "04_instruction_tuning.cpt-sft" in study.needs("09_retrieval", jobs)
    assert made(tmp_path, f"study: {{stages: [sft, cpt-sft], {steps}}}\n09_retrieval: {{stages: [base, sft]}}\n")["09_retrieval"]["stages"] == ["base", "sft"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("study: {variants: {a: {03_continued_pretraining: {lora_r: 8}}}}", ["a changes nothing"]),
        ("study: {sweep: {03_continued_pretraining: {lora_r: [2]}}, variants: {a: {03_continued_pretraining: {lora_r: 2}}}}", ["lora_r2 and a have the same settings"]),
        ("study: {sweep: {03_continued_pretraining: {lora_r: [2]}}, variants: {lora_r2: {03_continued_pretraining: {lora_r: 4}}}}", ["same name"]),
        ("study: {stages: [sft], sweep: {03_continued_pretraining: {lora_r: [2]}}}", ["lora_r2 makes no job"]),
        ("study: {steps: [03_continued_pretraining], variants: {a: {04_instruction_tuning: {lora_r: 2}}}}", ["a makes no job"]),
    ],
)
def test_a_variant_that_is_none_is_refused(tmp_path, text, words):
    with pytest.raises(UserError) as caught:
        made(tmp_path, text)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [("lora_r", 2, "lora_r2"), ("learning_rate", 2.5e-4, "learning_rate2_5e-4"), ("learning_rate", 1.0, "learning_rate1"), ("lora_dropout", 0.05, "lora_dropout0_05"),
     ("packing_strategy", "bfd/x", "packing_strategy_bfd_x"), ("gradient_checkpointing", True, "gradient_checkpointing_True"), ("seed", 7, "s7")],
)
def test_the_name_of_a_swept_value_is_fit_for_a_folder(key, value, name):
    assert study.variant_name(params.PRETRAINING, key, value) == name


def test_flat_files_of_former_jobs_go(tmp_path, monkeypatch):
    monkeypatch.setenv("CANCERLLM_RUNS", str(tmp_path))
    study.write_flat("quick", {"03_continued_pretraining.cpt-old": {"seed": 1}})
    study.write_flat("quick", {"06_evaluation": {"seed": 1}})
    assert [file.stem for file in (tmp_path / "quick" / "params").iterdir()] == ["06_evaluation"]


@pytest.mark.parametrize(
    ("stage", "job", "mark"),
    [("cpt", "", "03_continued_pretraining"), ("cpt-a", "", "03_continued_pretraining.cpt-a"),
     ("cpt-a", "03_continued_pretraining.cpt-a.tiny_base", "03_continued_pretraining.cpt-a.tiny_base"), ("cpt", "06_evaluation", "03_continued_pretraining")],
)
def test_the_record_is_that_of_the_job_that_the_notebook_runs_as(tmp_path, monkeypatch, stage, job, mark):
    monkeypatch.setenv("CANCERLLM_JOB", job)
    values = {key: default for key, (_, default, _) in params.declared(params.PRETRAINING).items()} | {"run_dir": str(tmp_path), "stage": stage}
    record.finish(record.start(params.PRETRAINING, values))
    assert [file.stem for file in (tmp_path / "records").glob("*.json")] == [mark]


@pytest.mark.parametrize("name", params.profiles())
def test_every_profile_knows_its_time_and_disk(name, monkeypatch):
    monkeypatch.setattr(preflight, "matrix_rate", lambda: 1e11)
    jobs = study.jobs(name)
    assert preflight.disk_needed(jobs) >= 0.5 and preflight.estimate(name, list(jobs)).startswith("About ")
