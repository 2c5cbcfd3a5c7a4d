"""Tuning on false answers and damaged contexts: only what was asked for changes, and the filter leaves out what it found."""

import hashlib
import json

import pandas as pd
import pytest
import torch

from cancerllm_utils import plan, study
from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import label_filter, models, training, training_data
from cancerllm_utils.tasks import counterfactual
from cancerllm_utils.tasks.task import build_prompt, load_task

PLAIN = {"tasks": ["phenotype_extraction"], "max_institutions": 0, "counterfactual_rate": 0.0, "counterfactual_mode": "random", "augment": [], "augment_rate": 0.0, "seed": 1}
HOW = {"stage": "sft", "precision": "fp32", "learning_rate": 1e-2, "max_length": 300, "num_train_epochs": 1.0, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
       "save_steps": 0.5, "seed": 1}


def sha(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@pytest.fixture
def run(tiny_run):
    """Forty training and eight development items whose prompts are the task's own; the last five training items are not stated."""
    spec = load_task("phenotype_extraction")
    for split, numbers in (("train", range(40)), ("dev", range(100, 108))):
        rows = []
        for number in numbers:
            side, stated = ("Right", "Left")[number % 2], split == "dev" or number < 35
            context = f"Specimen {number} of the {side.lower() if stated else 'removed'} breast. A tumor was found in the specimen and margins are clear of tumor."
            answer = side if stated else "not stated"
            rows.append({"example_id": f"e{number}", "patient_id": f"p{number // 2}", "note_id": f"n{number}", "task": "phenotype_extraction", "field": "laterality",
                         "prompt": build_prompt(spec, "laterality", context), "completion": answer, "answers": [answer], "cancer_type": "BRCA", "institution": "A",
                         "variant": "", "evidence": "stated" if stated else "not_stated"})
        (tiny_run / "datasets" / "phenotype_extraction" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tiny_run


def files(run):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (run / "datasets").rglob("*.jsonl")}


# What the data become

def test_only_the_training_answers_change(run):
    before, (plain, _) = files(run), training_data.tuning_examples(run, "train", PLAIN)
    (altered, table) = training_data.tuning_examples(run, "train", PLAIN | {"counterfactual_rate": 0.5})
    plain, altered = plain["phenotype_extraction"], altered["phenotype_extraction"]
    assert sha([row["prompt"] for row in plain]) == sha([row["prompt"] for row in altered]) and [row["example_id"] for row in plain] == [row["example_id"] for row in altered]
    hit = set(table["example_id"])
    assert sha([row for row in plain if row["example_id"] not in hit]) == sha([row for row in altered if row["example_id"] not in hit]) and 8 < len(hit) < 28
    assert all(old["completion"] != new["completion"] == new["answers"][0] for old, new in zip(plain, altered, strict=True) if old["example_id"] in hit)
    assert files(run) == before, "no file is rewritten"


def test_augmentation_damages_contexts_and_nothing_else(run):
    plain = training_data.read_examples(run, ["phenotype_extraction"], "train")
    half = training_data.augmented(plain, ["misspell"], 0.5, 1)
    every = training_data.augmented(plain, ["misspell"], 1.0, 1)
    hit_half, hit_all = ({old["example_id"] for old, new in zip(plain, rows, strict=True) if old != new} for rows in (half, every))
    assert hit_half < hit_all and 10 < len(hit_half) < 30 and len(hit_all) > 25
    question = build_prompt(load_task("phenotype_extraction"), "laterality", "|").partition("|")
    for old, new in zip(plain, every, strict=True):
        assert {key for key in old if old[key] != new[key]} <= {"prompt"} and new["prompt"].startswith(question[0]) and new["prompt"].endswith(question[2])
    assert training_data.augmented(plain, [], 1.0, 1) is plain and training_data.augmented(plain, ["misspell"], 0.0, 1) is plain
    assert half == training_data.augmented(plain, ["misspell"], 0.5, 1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"counterfactual_rate": 1.5}, "counterfactual_rate 1.5"), ({"counterfactual_mode": "near"}, "counterfactual_mode near"), ({"label_filter": "loss"}, "small_loss or agreement"),
     ({"label_filter": "small_loss", "label_filter_share": 1.0}, "label_filter_share"), ({"label_filter": "small_loss", "num_processes": 2}, "one process"),
     ({"augment": ["mispell"], "augment_rate": 0.5}, "did you mean 'misspell'"), ({"augment": ["misspell"]}, "nothing would be damaged"),
     ({"augment_rate": 0.5}, "nothing would be damaged"), ({"augment": ["misspell"], "augment_rate": 2.0}, "augment_rate 2.0")],
)
def test_wrong_settings_stop_before_anything_is_read(tmp_path, tiny_model_dir, monkeypatch, wrong, words):
    monkeypatch.setattr(models, "load_tokenizer", lambda name: pytest.fail("something was loaded"))
    with pytest.raises(UserError, match=words):
        training.instruction_tune(tmp_path, tiny_model_dir, **HOW | wrong)


# The filters

def test_agreement_finds_answers_that_the_text_speaks_against():
    rows = [{"example_id": f"e{n}", "patient_id": f"p{n}", "task": "t", "field": "f", "variant": "", "answers": [("Right", "Left")[n % 2]],
             "prompt": f"x\n\n### Input:\nword{n % 7} {('right', 'left')[n % 2]} breast word{n % 5}\n\n### Response:\n"} for n in range(120)]
    false = {f"e{n}" for n in (0, 6, 14, 26, 38, 44, 58, 70, 82, 92, 104, 118)}  # all of them right-sided
    noisy = [row | {"answers": ["Left"]} if row["example_id"] in false else row for row in rows]
    found = label_filter.agreement(noisy, 1)
    assert found >= false and len(found - false) <= 8, "of 108 right answers"
    assert not label_filter.agreement(rows, 1) and found == label_filter.agreement(noisy[::-1], 1)
    assert label_filter.agreement([row | {"answers": ["Right"]} for row in rows], 1) == set(), "a field with one answer is left alone"


def test_small_loss_takes_the_share_of_each_field_with_the_highest_loss():
    examples = {f"{field}{n}": {"task": "t", "field": field} for field in "ab" for n in range(10)}
    losses = {name: float(name[1:]) + 100 * (name[0] == "b") for name in examples}
    assert label_filter.small_loss(losses, examples, 0.3) == {"a7", "a8", "a9", "b7", "b8", "b9"}
    assert label_filter.small_loss(losses, examples, 0.0) == set()
    assert label_filter.small_loss(dict.fromkeys(examples, 1.0), examples, 0.1) == {"a0", "b0"}


def test_the_loss_of_an_answer_is_the_models_own(tiny_model_dir, run):
    tokenizer, network = models.load_tokenizer(tiny_model_dir), models.load_model(tiny_model_dir, "fp32")
    rows = training_data.example_rows(training_data.read_examples(run, ["phenotype_extraction"], "train")[30:], tokenizer, 300)
    network.train()
    losses = label_filter.answer_losses(network, rows, tokenizer.pad_token_id, batch_size=4)
    assert network.training and set(losses) == {row["example_id"] for row in rows}
    network.eval()
    for row in rows[:3] + rows[-3:]:
        with torch.no_grad():
            alone = network(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss.item()
        assert losses[row["example_id"]] == pytest.approx(alone, rel=1e-4)


def test_the_report_counts_by_hand():
    examples = {f"e{n}": {"task": "t", "field": "ab"[n % 2], "patient_id": f"p{n}"} for n in range(10)}
    where = {"model": "m", "stage": "sft", "label_filter": "agreement", "label_filter_share": 0.3, "counterfactual_rate": 0.4, "counterfactual_mode": "random", "seed": 1}
    table = label_filter.report(list(examples), examples, {"e0", "e1", "e2", "e9"}, {"e0", "e1", "e3", "e4"}, where).set_index("field")
    assert table.loc["all", "task"].tolist() == ["all", "t"]
    row, table = table[table["task"].eq("all")].loc["all"], table[table["task"].eq("t")]  # found e0 and e1 of four; e2 and e9 are two of six right ones
    assert (row["n"], row["corrupted"], row["dropped"]) == (10, 4, 4)
    assert (row["recall"], row["precision"], row["clean_dropped"]) == (50.0, 50.0, pytest.approx(100 / 3))
    assert 0 <= row["recall_low"] <= 50 <= row["recall_high"] <= 100 and table.loc["a", "recall"] == 50.0 and table.loc["b", "precision"] == 50.0
    clean = label_filter.report(list(examples), examples, {"e0"}, set(), where | {"counterfactual_rate": 0.0}).set_index("field")[lambda table: table["task"].eq("all")]
    assert clean.loc["all", "clean_dropped"] == 10.0 and clean[["recall", "precision"]].isna().all(axis=None)
    assert "Of the right answers 10 % were lost" in label_filter.sentences(clean.reset_index())[0] and "found 50 %" in label_filter.sentences(pd.DataFrame([row]).assign(field="all"))[0]


def test_the_plan_counts_the_warm_up():
    jobs = study.jobs("quick")
    values = jobs["04_instruction_tuning.sft"] | {"run_dir": "nowhere", "max_tokens": 3000, "num_train_epochs": 1.0}
    counted = [plan.amount("04_instruction_tuning.sft", jobs | {"04_instruction_tuning.sft": values | {"label_filter": name}})["tokens"] for name in ("", "agreement", "small_loss")]
    assert counted == [3000, 3000, pytest.approx(3000 * (1 + label_filter.WARM_UP + 1 / 3))]


# Whole stages

def test_a_stage_on_corrupted_answers_says_which(tiny_model_dir, run):
    before = files(run)
    done = training.instruction_tune(run, tiny_model_dir, counterfactual_rate=0.4, max_examples=30, **HOW)
    written = counterfactual.read_corrupted(done["model_dir"])
    expected = counterfactual.corrupt(training_data.read_examples(run, ["phenotype_extraction"], "train"), 0.4, "random", 1)[1]
    assert written[counterfactual.COLUMNS].equals(expected) and done["corrupted"] == len(expected)
    assert 0 < written["trained"].sum() < len(written), "the budget leaves some out"
    assert done["data"].loc[0, ["examples", "used", "over budget", "filtered out"]].tolist() == [40, 30, 10, 0] and files(run) == before
    assert models.load_stage(done["model_dir"])[2]["training"]["counterfactual_rate"] == 0.4
    again = training.instruction_tune(run, tiny_model_dir, max_examples=30, **HOW)
    assert counterfactual.read_corrupted(again["model_dir"]).empty and again["dev_loss"] != done["dev_loss"]


@pytest.mark.parametrize("method", label_filter.METHODS)
def test_a_filtered_stage_trains_without_what_was_found(tiny_model_dir, run, monkeypatch, method):
    trained, real = [], training.make_trainer
    monkeypatch.setattr(training, "make_trainer", lambda network, tokenizer, rows, *rest: trained.append(rows) or real(network, tokenizer, rows, *rest))
    done = training.instruction_tune(run, tiny_model_dir, counterfactual_rate=0.3, label_filter=method, label_filter_share=0.25, **HOW)
    row, table = done["data"].iloc[0], pd.read_csv(run / "results" / "label_filter.csv")
    assert row["filtered out"] == 40 - len(trained[-1]) == table.loc[table["task"].eq("all"), "dropped"].sum() and row["used"] == len(trained[-1])
    assert set(table["stage"]) == {"sft"} and set(table["label_filter"]) == {method} and table["corrupted"].max() > 0
    if method == "small_loss":
        assert row["filtered out"] == 10 and len(trained) == 2 and len(trained[0]) == round(label_filter.WARM_UP * 40)
        assert not list((run / "checkpoints").rglob("checkpoint-*"))
        trained.clear()  # what was found is kept: a run that goes on does not warm up anew
        training.instruction_tune(run, tiny_model_dir, counterfactual_rate=0.3, label_filter=method, label_filter_share=0.25, **HOW)
        assert len(trained) == 1
