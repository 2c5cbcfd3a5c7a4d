"""Results for others: the harness's layout by hand-computed values, and a dictionary in which no column is missing."""

import json
import shutil

import pandas as pd
import pytest

from cancerllm_utils import results
from cancerllm_utils.evaluation import comparisons, consistency, plans, rings, robustness, subgroups, unparsed
from cancerllm_utils.report import results_files, results_json
from cancerllm_utils.tasks import task
from tests import invented_results

SETTINGS = {"corpus": "synthetic", "prompt_hash": {"phenotype_extraction": task.prompt_hash(task.load_task("phenotype_extraction")), "diagnosis_generation": "of another day"}}
DECODING = {"settings": {"decoding": "greedy", "max_new_tokens": 24, "batch_size": 32, "precision": "fp32", "values": {"er": ["Positive"]}, "data": "abc", "model": "def"}}
# What a reader of the harness's files relies on (lm_eval/result_schema.py, 0.4.13).
KEYS = {"results", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config", "git_hash", "date", "pretty_env_info", "transformers_version",
        "lm_eval_version", "model_source", "model_name", "model_name_sanitized", "task_hashes", "group_subtasks", "total_evaluation_time_seconds"}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = invented_results.write_run(tmp_path_factory.mktemp("runs") / "quick")
    (run / "datasets" / "phenotype_extraction").mkdir(parents=True)
    (run / "datasets" / "settings.json").write_text(json.dumps(SETTINGS))
    (run / "datasets" / "phenotype_extraction" / "test.jsonl").write_text("{}\n" * 260)
    (run / "predictions" / "tiny_base" / "cpt-sft").mkdir(parents=True)
    (run / "predictions" / "tiny_base" / "cpt-sft" / "phenotype_extraction.test.run.json").write_text(json.dumps(DECODING))
    record = json.loads((run / "records" / "06_evaluation.json").read_text())
    record |= {"finished": "2026-01-03T00:00:00+00:00", "inputs": {"predictions/tiny_base/cpt-sft/phenotype_extraction.test.jsonl": "f00d"}}
    (run / "records" / "06_evaluation.json").write_text(json.dumps(record))
    results_json.write_all(run)
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "quick")


@pytest.fixture(scope="module")
def tuned(finished):
    (path,) = (finished / "results" / "lm_eval" / "tiny_base__cpt-sft").glob("*")
    assert path.name == "results_2026-01-03T00-00-00.json"
    return json.loads(path.read_text())


def test_every_system_has_one_file(finished):
    assert {path.parent.name for path in (finished / "results" / "lm_eval").glob("*/results_*.json")} == {f"{model}__{stage}" for model, stage in invented_results.SYSTEMS}


def test_values_are_shares_with_errors_from_the_interval(tuned):
    assert set(tuned) >= KEYS
    assert set(tuned["results"]) == {f"{name}_{ring}" for name in invented_results.TASKS for ring in ("test", "external_site", "external")}
    one = tuned["results"]["phenotype_extraction_test"]
    assert one["average,paper"] == 0.6 and one["average_stderr,paper"] == pytest.approx(0.02 / 1.96, abs=1e-8)  # 60 points, 58 to 62
    assert one["false_answer,clinical"] == 0.2 and one["miss,clinical"] == 0.12 and one["sample_len"] == 200
    assert tuned["confidence_intervals"]["phenotype_extraction_test"]["average,paper"] == [0.58, 0.62]
    better = tuned["higher_is_better"]["phenotype_extraction_test"]
    assert better["average"] and better["value_accuracy"] and not better["false_answer"] and not better["miss"]
    for name, metrics in tuned["results"].items():
        numbers = {key: value for key, value in metrics.items() if "," in key}
        assert len(numbers) == 2 * sum("_stderr," not in key for key in numbers) and all(0 <= value <= 1 for value in numbers.values()), name


def test_provenance_stands_beside_the_numbers(tuned):
    assert tuned["git_hash"] == "abcdef1234+changes" and tuned["date"] == 1767398400.0 and tuned["config"]["bootstrap_iters"] is None
    assert tuned["n-shot"]["phenotype_extraction_test"] == 0 and tuned["task_hashes"]["phenotype_extraction_test"] == "f00d"
    assert tuned["n-samples"]["phenotype_extraction_test"] == {"original": 260, "effective": 200}
    config = tuned["configs"]["phenotype_extraction_test"]
    assert config["instruction"] == task.load_task("phenotype_extraction")["instruction"] and config["metadata"]["prompt_hash"] == SETTINGS["prompt_hash"]["phenotype_extraction"]
    assert config["generation_kwargs"] == {"decoding": "greedy", "max_new_tokens": 24, "batch_size": 32, "precision": "fp32"}
    assert tuned["config"]["model_args"] == "pretrained=tiny_base" and tuned["config"]["gen_kwargs"]["decoding"] == "greedy"


def test_a_wording_that_changed_since_is_not_passed_off_as_the_one_asked(tuned):
    config = tuned["configs"]["diagnosis_generation_test"]
    assert "instruction" not in config and config["metadata"] == {"version": None, "prompt_hash": "of another day"} and tuned["versions"]["diagnosis_generation_test"] is None


def test_who_answered_is_said():
    assert [results_json.kind(*pair) for pair in [("tiny_base", "base"), ("tiny_base", "sft"), ("tfidf", "baseline"), ("hybrid", "cpt-sft")]] == ["hf", "hf", "baseline", "hybrid"]
    assert results_json.model_config("hybrid", "cpt-sft", {}, {}, [])["model_args"] == ""


def test_no_interval_is_said_as_the_harness_says_it(run):
    scores = pd.read_csv(run / "results" / "scores.csv").assign(f1_low=None, f1_high=None)
    scores.to_csv(run / "results" / "scores.csv", index=False)
    for path in results_json.write_all(run):
        body = json.loads(path.read_text())
        assert body["results"]["phenotype_extraction_test"]["average_stderr,paper"] == "N/A" and body["confidence_intervals"]["phenotype_extraction_test"] == {}


def test_a_run_without_scores_leaves_no_file_of_an_older_one(run):
    (run / "results" / "scores.csv").unlink()
    assert results_json.write_all(run) == [] and not (run / "results" / "lm_eval").exists()


def test_every_description_has_what_and_unit_and_every_shared_column_is_used():
    found = results_files.described()
    own = [text for entry in found["files"].values() for text in entry.get("own", {}).values()]
    assert all(len(text.split(" | ")) == 2 for text in [*found["columns"].values(), *own])
    assert all(len(text.split(" | ")) == 3 and text.split(" | ")[2] in ("higher", "lower", "neither") for text in found["metrics"].values())
    used = {column for entry in found["files"].values() for column in entry["columns"]}
    assert used == set(found["columns"]), "a column of one table alone stands there"
    for entry in found["files"].values():
        assert set(entry) <= {"what", "by", "columns", "own"} and not set(entry["columns"]) & set(entry.get("own", {}))


@pytest.mark.parametrize("file, columns", [
    ("scores.csv", results.SCORE_COLUMNS), ("cpt.csv", results.CPT_COLUMNS), ("training.csv", results.TRAINING_COLUMNS), ("comparisons.csv", comparisons.COLUMNS),
    ("ring_drop.csv", rings.COLUMNS), ("subgroups.csv", subgroups.COLUMNS), ("plans.csv", plans.COLUMNS), ("unparsed.csv", unparsed.COLUMNS), ("robustness.csv", robustness.COLUMNS),
    ("robustness_tests.csv", robustness.TEST_COLUMNS), ("consistency.csv", consistency.COLUMNS),
])  # fmt: skip
def test_no_more_and_no_less_than_a_tables_columns_are_described(file, columns):
    assert all(results_files.meaning(file, column) for column in columns)
    entry = results_files.described()["files"][file]
    assert set(entry["columns"]) | set(entry.get("own", {})) == set(columns)


def test_the_dictionary_lists_what_is_there_and_owns_up_to_what_is_not_described(run):
    assert results_files.undescribed(run) == []
    pd.DataFrame({"model": ["a"], "surprise": [1]}).to_csv(run / "results" / "new.csv", index=False)
    pd.read_csv(run / "results" / "scores.csv").assign(extra=1).to_csv(run / "results" / "scores.csv", index=False)
    assert results_files.undescribed(run) == ["new.csv: model", "new.csv: surprise", "scores.csv: extra"]
    text = results_files.write(run).read_text()
    assert "## scores.csv" in text and "| f1_low | lower 95 % limit" in text and "| extra | not described |  |" in text and "Not described." in text
    assert "## training.csv" not in text and "| miss | " in text and "lm_eval/<model>__<stage>" in text
