"""Model cards: what the hub's own reader finds in them, and that they say nothing that the run's files do not."""

import json
import shutil

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from cancerllm_utils.errors import UserError
from cancerllm_utils.report import model_card
from tests import invented_results

CARD = {
    "base_revision": "sha256:abc", "adapter_sha256": "def", "tuning": "lora", "adapters_before": [{"path": "../cpt", "sha256": "x"}], "prompt": "alpaca",
    "tasks": ["phenotype_extraction"], "prompt_hash": {"phenotype_extraction": "0123456789ab"}, "versions": {"peft": "0.21.0"},
    "training": {"tuning": "lora", "lora_r": 16, "learning_rate": 0.0015, "seed": 42}, "outcome": {"steps": 50, "tokens": 9000, "trained_tokens": 700, "trainable_parameters": 311296},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = invented_results.write_run(tmp_path_factory.mktemp("runs") / "quick")
    (run / "models" / "tiny_base" / "cpt-sft" / "cancerllm.json").write_text(json.dumps(CARD))
    training = {"model": "tiny_base", "stage": "cpt-sft", "seconds": 90, "num_processes": 1, "device": "cpu", "peak_memory_gib": 1.5, "memory_of": "whole process", "energy_kwh": None}
    pd.DataFrame([training]).to_csv(run / "results" / "training.csv", index=False)
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "quick")


def test_the_hubs_reader_takes_the_card_and_finds_every_score(run):
    (path,) = model_card.write_all(run)
    card = ModelCard.load(path)
    assert path == run / "models" / "tiny_base" / "cpt-sft" / "README.md" and "# tiny_base, cpt-sft" in card.text
    assert (card.data.base_model, card.data.library_name, card.data.license, card.data.datasets) == ("tiny_base", "peft", "cc-by-4.0", ["synthetic"])
    found = {(r.dataset_config, r.dataset_split, r.metric_config, r.metric_type): r for r in card.data.eval_results}
    # two tasks, three rings; the paper's two metrics, value accuracy and misses for both tasks, false answers for extraction alone
    assert len(found) == len(card.data.eval_results) == 2 * 3 * 4 + 3
    one = found["phenotype_extraction", "external", "paper", "average"]
    assert one.metric_value == 50.0 and one.metric_args == {"n": 200, "ci95_low": 48.0, "ci95_high": 52.0}
    assert all(r.verified is False and r.verify_token is None for r in card.data.eval_results)
    assert [r.dataset_split for r in card.data.eval_results if r.metric_type == "miss"] == ["test", "external_site", "external"] * 2


def test_body_says_data_procedure_energy_scores_limits(run):
    text = model_card.write(run, "tiny_base", "cpt-sft").read_text()
    for expected in ["Not for clinical use", "120 synthetic notes of 60 patients", "| learning_rate | 0.0015 |", "50 steps over 9,000 tokens", "`0123456789ab`", "took 1.5 minutes",
                     "energy was not measured", "Merge `cpt` into the base first", "| Phenotype extraction | held-out patients | 60.0 (58.0 to 62.0) | 63.0 | 20.0 | 200 |",
                     "Nobody outside the project has verified", "- phenotype_extraction: labels are ", "commit `abcdef1234+changes`", "10.1038/s41746-026-02441-8"]:
        assert expected in text, expected
    assert [line for line in text.splitlines() if line.startswith("## ")] == [f"## {name}" for name in (
        "Model", "Intended use", "Out of scope", "Training data", "Training procedure", "Energy and time", "Evaluation", "Limits", "Citation")]  # fmt: skip
    assert "can repeat passages" not in text


def test_measured_energy_is_stated_without_carbon(run):
    training = pd.read_csv(run / "results" / "training.csv").assign(energy_kwh=0.0123)
    training.to_csv(run / "results" / "training.csv", index=False)
    text = model_card.write(run, "tiny_base", "cpt-sft").read_text()
    assert "Energy: 0.0123 kWh" in text and "not measured" not in text and "No carbon is derived" in text


def test_whole_weights_are_not_called_an_adapter(run):
    (run / "models" / "tiny_base" / "cpt-sft" / "cancerllm.json").write_text(json.dumps({**CARD, "tuning": "full", "adapters_before": []}))
    card = ModelCard.load(model_card.write(run, "tiny_base", "cpt-sft"))
    assert card.data.library_name == "transformers" and "lora" not in card.data.tags and "All weights, stage `cpt-sft`" in card.text


def test_a_card_of_real_notes_promises_no_licence_and_warns(run):
    invented_results.notes("organ_reports.csv").to_parquet(run / "corpus" / "notes.parquet")
    path = model_card.write(run, "tiny_base", "cpt-sft")
    card = ModelCard.load(path)
    assert card.data.license == "other" and card.data.license_name == "cc-by-4.0-and-terms-of-the-notes"
    assert "can repeat passages" in card.text and invented_results.SECRET not in path.read_text()


def test_a_run_without_results_has_a_card_that_says_so(run):
    shutil.rmtree(run / "results")
    (run / "models" / "tiny_base" / "cpt-sft" / "cancerllm.json").write_text("{}")
    card = ModelCard.load(model_card.write(run, "tiny_base", "cpt-sft"))
    assert card.data.eval_results is None and "Not scored yet." in card.text and card.text.count("Not recorded.") == 2


def test_a_stage_that_was_not_trained_is_refused(run):
    with pytest.raises(UserError, match="no such adapter"):
        model_card.write(run, "tiny_base", "sft")
