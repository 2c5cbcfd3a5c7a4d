"""Memorised against resisted, counted by hand; the simple methods learn the same false answers."""

import json

import pandas as pd
import pytest

from cancerllm_utils.evaluation import label_noise
from cancerllm_utils.report import results_files
from cancerllm_utils.tasks import counterfactual
from cancerllm_utils.tasks.task import write_jsonl


def stage_folder(run, rows, stage="sft-cf40", rate=0.4, seed=42, mode="random"):
    """A tuned stage's folder as notebook 04 leaves it: the card and corrupted.csv."""
    folder = run / "models" / "tiny_base" / stage
    folder.mkdir(parents=True)
    (folder / "cancerllm.json").write_text(json.dumps({"training": {"counterfactual_rate": rate, "counterfactual_mode": mode, "seed": seed}}))
    if rows:
        pd.DataFrame(rows).to_csv(folder / counterfactual.FILE, index=False)


def corrupted(number, trained=True, task="phenotype_extraction", old="Right", new="Left"):
    return {"example_id": f"{task}|N{number}", "patient_id": f"P{number // 2}", "task": task, "field": "laterality", "old": old, "new": new, "how": "random", "trained": trained}


def test_memorised_and_resisted_are_counted_per_stage_task_and_field(tmp_path):
    rows = [corrupted(number) for number in range(10)] + [corrupted(number, trained=False) for number in range(10, 14)]
    rows += [corrupted(number, task="diagnosis_generation", old="a of the b", new="c of the b") for number in range(20, 22)]
    stage_folder(tmp_path, rows)
    said = ["Left"] * 6 + ["Right"] * 3 + ["unparsed"] + ["Left", "Right", "right", "Bilateral"] + ["C of the b", "a of the b"]
    for task in ("phenotype_extraction", "diagnosis_generation"):
        of_task = [{"example_id": row["example_id"], "parsed": parsed} for row, parsed in zip(rows, said, strict=True) if row["task"] == task]
        write_jsonl(tmp_path / "predictions" / "tiny_base" / "sft-cf40" / f"{task}.train+corrupted.jsonl", of_task)
    write_jsonl(tmp_path / "predictions" / "tiny_base" / "sft-cf40" / "phenotype_extraction.test.jsonl", [])
    table = label_noise.memorised(tmp_path)
    whole = table[table["task"].eq("all")].set_index("trained")
    assert whole.loc[True, ["n", "patients"]].tolist() == [12, 6] and whole.loc[True, "memorised"] == pytest.approx(100 * 7 / 12) and whole.loc[True, "resisted"] == pytest.approx(100 * 4 / 12)
    assert whole.loc[False, ["n", "memorised", "resisted"]].tolist() == [4, 25.0, 50.0]
    field = table[table["task"].eq("phenotype_extraction") & table["field"].eq("laterality") & table["trained"]].iloc[0]
    assert (field["memorised"], field["resisted"], field["counterfactual_rate"], field["seed"]) == (60.0, 30.0, 0.4, 42)
    assert (table["memorised_low"] <= table["memorised"]).all() and (table["memorised"] <= table["memorised_high"]).all()
    assert list(table) == label_noise.COLUMNS
    (sentence,) = label_noise.sentences(table)
    assert "of 12 corrupted training items it gives the false answer to 58 %" in sentence and "of 4 items that were corrupted as well but never trained on" in sentence


def test_trainings_with_several_seeds_are_one_row(tmp_path):
    for seed, said in (("", ["Left", "Left"]), ("-s7", ["Left", "Right"])):
        stage_folder(tmp_path, [corrupted(0), corrupted(1)], f"sft-cf40{seed}")
        write_jsonl(tmp_path / f"predictions/tiny_base/sft-cf40{seed}/phenotype_extraction.train+corrupted.jsonl",
                    [{"example_id": f"phenotype_extraction|N{i}", "parsed": parsed} for i, parsed in enumerate(said)])
    table = label_noise.run(tmp_path)
    row = table[table["task"].eq("all")].iloc[0]
    assert row[["stage", "n", "patients", "memorised", "resisted", "seeds"]].tolist() == ["sft-cf40", 4, 1, 75, 25, 2]
    assert list(pd.read_csv(tmp_path / "results" / "memorised.csv")) == label_noise.COLUMNS and results_files.undescribed(tmp_path) == []
    assert "sft-cf40, 2 trainings together: of 4 corrupted training items" in label_noise.sentences(table)[0]
    assert label_noise.memorised(tmp_path, [("tiny_base", "sft-cf40-s7")])["n"].iloc[0] == 2, "one training by itself, as notebook 04 shows it"


def test_a_run_without_false_answers_has_an_empty_table(tmp_path):
    stage_folder(tmp_path, [], "sft", 0.0)
    assert label_noise.memorised(tmp_path).empty and label_noise.sentences(label_noise.memorised(tmp_path)) == []
    assert label_noise.ask_corrupted(tmp_path, "tiny_base", "sft").empty, "no model is loaded"
    assert label_noise.predict_noisy_baselines(tmp_path, "tiny_base", ["base", "sft"], ["phenotype_extraction"], ["test"]).empty


def test_the_sample_of_a_lower_rate_comes_first_at_a_higher_one():
    few = pd.DataFrame([corrupted(number) for number in range(50)])
    more = pd.DataFrame([corrupted(number) for number in range(80)] + [corrupted(number, trained=False) for number in range(80, 200)])
    asked = label_noise.sampled(more, 60)
    assert asked["trained"].sum() == 30 and len(asked) == 60
    assert len(label_noise.sampled(few, 200)) == 50 and len(label_noise.sampled(few, 20)) == 20
    first = [name for name in label_noise.sampled(more[more["trained"]], 80)["example_id"] if name in set(few["example_id"])]
    assert first == label_noise.sampled(few, 50)["example_id"].tolist()


def test_simple_methods_are_fitted_once_per_rate_mode_and_seed(tmp_path, monkeypatch):
    for stage, rate, seed, mode in (("sft-cf40", 0.4, 42, "random"), ("cpt-sft-cf40", 0.4, 42, "random"), ("sft-cf40-s7", 0.4, 7, "random"), ("sft-cfnear40", 0.4, 42, "confusable"), ("sft", 0.0, 42, "random")):
        stage_folder(tmp_path, [], stage, rate, seed, mode)
    asked = []
    made = pd.DataFrame({"model": ["tfidf", "rules"], "task": ["t", "t"]})
    monkeypatch.setattr("cancerllm_utils.modeling.baselines.predict_baselines", lambda *given, false_answers: asked.append(false_answers) or made)
    table = label_noise.predict_noisy_baselines(tmp_path, "tiny_base", ["base", "sft", "sft-cf40", "cpt-sft-cf40", "sft-cf40-s7", "sft-cfnear40"], ["t"], ["test"])
    assert [false["stage"] for false in asked] == ["baseline-cf40", "baseline-cf40-s7", "baseline-cfnear40"] == table["stage"].tolist()
    assert asked[1] == {"rate": 0.4, "mode": "random", "seed": 7, "stage": "baseline-cf40-s7"}
