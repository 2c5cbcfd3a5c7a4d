"""The paper's settings: every number of PAPER.md stands in params/paper.yaml, reaches the trainer, and the presets train what they say; full fine-tuning."""

import json

import pandas as pd
import pytest
import torch

from cancerllm_utils import study
from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import models, trainer, training, training_data

# The paper's and its released code's own numbers, written down here a second time on purpose.
CPT = {"model": "mistral-7b-instruct-v0.1", "tuning": "lora", "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": "all-linear", "learning_rate": 2e-4,
       "lr_scheduler_type": "linear", "warmup_ratio": 0.05, "weight_decay": 0.01, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
       "num_processes": 2, "max_length": 3000, "packing_strategy": "wrapped", "num_train_epochs": 0.5, "precision": "bf16", "gradient_checkpointing": True,
       "load_in_4bit": False, "seed": 42, "max_tokens": 0}
SFT = {"model": "mistral-7b-instruct-v0.1", "tuning": "lora", "preset": "paper", "lora_r": 0, "lora_alpha": 0, "lora_dropout": -1.0, "target_modules": "",
       "load_in_4bit": True, "precision": "bf16", "learning_rate": 2e-4, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "num_processes": 1,
       "num_train_epochs": 5.0, "max_grad_norm": 0.3, "warmup_ratio": 0.03, "max_length": 4000, "optim": "paged_adamw_8bit", "packing": False,
       "gradient_checkpointing": True, "completion_only_loss": True, "train_on_eos": True, "max_examples": 0, "max_tokens": 0, "seed": 42, "cpt_stage": "cpt"}
PRESETS = {"paper": {"lora_r": 64, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]},
           "released": {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": "all-linear"}}
SMALL = {"precision": "fp32", "learning_rate": 1e-2, "max_length": 256}


@pytest.fixture(scope="module")
def jobs():
    return study.jobs("paper")


def test_the_profile_holds_every_number_of_the_paper(jobs):
    cpt, sft = jobs["03_continued_pretraining"], jobs["04_instruction_tuning.cpt-sft"]
    assert {name: cpt[name] for name in CPT} == CPT
    assert {name: sft[name] for name in SFT} == SFT
    assert training.PRESETS == PRESETS


def test_every_setting_reaches_the_trainer(jobs, tiny_model_dir, tiny_run, monkeypatch):
    """What the notebooks hand over arrives in TRL's configuration; on this machine without bf16, 4 bits and a second process, and with shorter rows."""
    here = {"model": tiny_model_dir, "precision": "fp32", "load_in_4bit": False, "num_processes": 1, "max_length": 500, "optim": "adamw_torch"}
    seen = []

    class Stop(Exception):
        pass

    def stop(network, tokenizer, rows, dev_rows, run_dir, entry, stage, before, settings, place, identity, config, notes, general):
        made = trainer.make_trainer(network, tokenizer, rows, dev_rows, tiny_run / "checkpoints", settings, place, "x", identity, config)
        seen.append((made, settings))
        raise Stop

    monkeypatch.setattr(training, "run_stage", stop)
    known = {"03_continued_pretraining": training.continue_pretraining, "04_instruction_tuning.sft": training.instruction_tune}
    for job, function in known.items():
        given = {name: value for name, value in jobs[job].items() if name in function.__wrapped__.__code__.co_varnames} | here | {"run_dir": tiny_run}
        given |= {"tasks": ["phenotype_extraction"]} if job.startswith("04") else {}
        with pytest.raises(Stop):
            function(**given)
    (cpt, _), (sft, tuning) = seen
    a, b = cpt.args, sft.args
    # on a CPU a packed batch of 4 rows is 4 steps of one row that are gathered
    assert (a.learning_rate, a.lr_scheduler_type.value, a.warmup_steps, a.weight_decay, a.num_train_epochs) == (2e-4, "linear", 0.05, 0.01, 0.5)
    assert (a.per_device_train_batch_size * a.gradient_accumulation_steps, a.packing, a.packing_strategy, a.gradient_checkpointing, a.seed) == (4, True, "wrapped", True, 42)
    assert (b.learning_rate, b.warmup_steps, b.max_grad_norm, b.num_train_epochs, b.per_device_train_batch_size, b.gradient_accumulation_steps) == (2e-4, 0.03, 0.3, 5.0, 1, 4)
    assert (b.packing, b.load_best_model_at_end, b.metric_for_best_model, b.greater_is_better, b.gradient_checkpointing) == (False, True, "eval_loss", False, True)
    assert {name: tuning[name] for name in PRESETS["paper"]} == PRESETS["paper"]
    adapters = [made.model.peft_config["default"] for made, _ in seen]
    assert [(c.r, c.lora_alpha, c.lora_dropout) for c in adapters] == [(8, 16, 0.05), (64, 16, 0.1)]
    layers = [{name.rpartition(".")[2] for name in c.target_modules} for c in adapters]
    assert layers == [{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, {"q_proj", "v_proj"}]


def test_the_table_of_presets_counts_what_the_paper_says(tiny_model_dir):
    given = {"preset": "paper", "tuning": "lora", "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": ""}
    table = training.preset_table(training.PAPER_BASE, **given)
    assert table[f"trained on {training.PAPER_BASE}"].to_dict() == {"paper": 27_262_976, "released": 20_971_520, "this run": 27_262_976 // 4}
    full = training.preset_table(tiny_model_dir, **given | {"tuning": "full"})
    column = next(name for name in full if name.startswith("trained on"))
    assert full.loc["this run", column] == models.parameter_count(tiny_model_dir) > full.loc["released", column] == 8_192
    shapes = training.preset_shapes(tiny_model_dir)
    assert shapes.loc["paper"].index.tolist() == ["q_proj", "v_proj"] and len(shapes.loc["released"]) == 7
    assert shapes.groupby("preset")["total"].sum().to_dict() == {"paper": 14_336, "released": 8_192}


# What is trained on

def test_the_switches_are_shown_as_they_train(tiny_model_dir):
    tokenizer = models.load_tokenizer(tiny_model_dir)
    table = training_data.switch_table("### Input:\nright lung\n\n### Response:\n", "Right", tokenizer)
    assert table["text"].tolist() == [
        "<s>### Input:\nright lung\n\n### Response:\n[Right</s>]", "<s>### Input:\nright lung\n\n### Response:\n[Right]",
        "<s>[### Input:\nright lung\n\n### Response:\nRight</s>]", "<s>[### Input:\nright lung\n\n### Response:\nRight]"]
    assert (table["tokens"] - table["trained_tokens"]).tolist()[2:] == [1, 1] and table["trained_tokens"].iloc[0] == table["trained_tokens"].iloc[1] + 1


def test_every_example_is_used_too_long_or_over_the_budget(tiny_model_dir, tiny_run, capsys):
    tokenizer = models.load_tokenizer(tiny_model_dir)
    settings = {"tasks": ["phenotype_extraction"], "completion_only_loss": True, "train_on_eos": True, "max_examples": 0, "max_tokens": 0, "num_train_epochs": 1.0, "max_institutions": 0, "seed": 1}
    file = tiny_run / "datasets" / "phenotype_extraction" / "train.jsonl"
    long = json.loads(file.read_text().splitlines()[0]) | {"example_id": "long", "prompt": "In the text: " + "a tumor was found " * 60}
    file.write_text(file.read_text() + json.dumps(long) + "\n")
    settings |= {"max_length": 200, "max_examples": 20, "counterfactual_rate": 0.0, "augment": [], "augment_rate": 0.0}
    examples, _ = training_data.tuning_examples(tiny_run, "train", settings)
    fitting, rows = training.tuning_rows(examples, tokenizer, settings)
    row = training.data_table(examples, fitting, rows, set(), tokenizer, settings, "train").iloc[0]
    assert row[["examples", "too long", "over budget", "used"]].tolist() == [25, 1, 4, 20] and len(rows) == 20 and "long" not in {r["example_id"] for r in rows}
    assert row["tokens"] == sum(len(r["input_ids"]) for r in rows) and "over the budget" in capsys.readouterr().out


# Full fine-tuning

def test_full_tuning_trains_and_saves_every_weight_and_tuning_goes_on_from_it(tiny_model_dir, tiny_run):
    cpt = training.continue_pretraining(tiny_run, tiny_model_dir, tuning="full", per_device_train_batch_size=4, max_tokens=1500, **SMALL)
    assert cpt["trainable_parameters"] == models.parameter_count(tiny_model_dir)
    base = models.load_model(tiny_model_dir, "fp32").state_dict()
    model, _, card = models.load_stage(cpt["model_dir"], "fp32")
    assert card["tuning"] == "full" and all(not torch.equal(value, base[name]) for name, value in model.state_dict().items())
    kept = {name: value.clone() for name, value in model.state_dict().items()}

    how = {"num_train_epochs": 1.0, "max_examples": 8, "save_steps": 0.5, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, **SMALL}
    on_top = training.instruction_tune(tiny_run, tiny_model_dir, stage="cpt-sft", **how)
    model, _, card = models.load_stage(on_top["model_dir"], "fp32")
    assert card["adapters_before"][0]["path"] == "../cpt" and on_top["trainable_parameters"] == 14_336
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, kept[name])}
    assert changed and all("q_proj" in name or "v_proj" in name for name in changed)  # the rest is the fully tuned stage's, not the base's

    whole = training.instruction_tune(tiny_run, tiny_model_dir, stage="cpt-sft-full", tuning="full", **how)
    model, _, card = models.load_stage(whole["model_dir"], "fp32")
    assert card["adapters_before"] == [] and card["trained_from"][0]["path"] == "../cpt" and (models.Path(whole["model_dir"]) / models.WHOLE).is_file()
    assert any(not torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    table = pd.read_csv(tiny_run / "results" / "training.csv").set_index("stage")
    assert table["tuning"].to_dict() == {"cpt": "full", "cpt-sft": "lora", "cpt-sft-full": "full"} and table["lora_r"].isna().tolist() == [True, False, True]
    with pytest.raises(UserError, match="preset released: it goes on training the adapter of cpt, which has none"):
        training.instruction_tune(tiny_run, tiny_model_dir, stage="cpt-sft", preset="released", **how)


def test_all_weights_are_tuned_on_top_of_an_adapter(tiny_model_dir, tiny_run):
    """PEFT freezes the model that it merges an adapter into: without thawing there would be nothing to train."""
    training.continue_pretraining(tiny_run, tiny_model_dir, per_device_train_batch_size=4, max_tokens=800, **SMALL)
    whole = training.instruction_tune(tiny_run, tiny_model_dir, stage="cpt-sft", tuning="full", num_train_epochs=1.0, max_examples=8, save_steps=0.5,
                                      per_device_train_batch_size=4, gradient_accumulation_steps=1, **SMALL)
    assert whole["trainable_parameters"] == models.parameter_count(tiny_model_dir)


@pytest.mark.parametrize(("given", "words"), [({"tuning": "ful"}, "Use lora or full"), ({"tuning": "full", "load_in_4bit": True}, "cannot be trained")])
def test_a_tuning_that_cannot_be_is_refused(tiny_model_dir, tiny_run, given, words):
    with pytest.raises(UserError, match=words):
        training.continue_pretraining(tiny_run, tiny_model_dir, **given)
