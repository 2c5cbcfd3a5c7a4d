"""Training: clean packing, which tokens train, and what stops a run (kills, torn checkpoints and NaN: tests/chaos)."""

import json
import tempfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import generation, launch, models, trainer, training, training_data
from cancerllm_utils.modeling.perplexity import text_loss, text_windows

SMALL = {"precision": "fp32", "learning_rate": 1e-2, "max_length": 256}


@pytest.fixture
def tokenizer(tiny_model_dir):
    return models.load_tokenizer(tiny_model_dir)


@pytest.fixture
def examples(tiny_run):
    return training_data.read_examples(tiny_run, ["phenotype_extraction"], "train")


def notes_trainer(tiny_model_dir, rows, folder, **changed):
    """A trainer over `rows` as continue_pretraining makes it."""
    settings = {"num_train_epochs": 1.0, "learning_rate": 1e-2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "max_length": 64,
                "packing": True, "packing_strategy": "bfd_split", "warmup_ratio": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0,
                "lr_scheduler_type": "linear", "optim": "adamw_torch", "gradient_checkpointing": False, "load_in_4bit": False, "seed": 1,
                "save_steps": 100, "logging_steps": 1, "logging_seconds": 60.0, "num_processes": 1, "lora_r": 4, "lora_alpha": 16,
                "lora_dropout": 0.0, "target_modules": "all-linear"} | changed
    place = {"device": "cpu", "precision": "fp32"}
    return trainer.make_trainer(models.load_model(tiny_model_dir, "fp32"), models.load_tokenizer(tiny_model_dir), rows, [], folder, settings, place,
                                "test", "identity", training.lora_config(settings))


def text_rows(tokenizer, texts, max_tokens=0):
    notes = Dataset.from_dict({"note_id": [f"n{i}" for i in range(len(texts))], "text": texts})
    return training_data.note_rows(notes, tokenizer, max_tokens, 0, Path(tempfile.mkdtemp()) / "tokens.arrow")


def test_note_rows_stop_at_the_budget_and_hold_every_token(tokenizer):
    texts = [f"Right lung {i} removed." for i in range(2500)]  # more than two chunks
    rows = text_rows(tokenizer, texts)
    whole = {f"n{i}": [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id] for i, ids in enumerate(tokenizer(texts, add_special_tokens=False)["input_ids"])}
    assert {row["example_id"]: row["input_ids"] for row in rows} == whole and list(rows["row"]) == list(range(2500))
    assert all(row["labels"] == [-100, *row["input_ids"][1:]] for row in rows.select(range(50)))
    few = text_rows(tokenizer, texts, max_tokens=3000)
    assert few["input_ids"][:] == rows["input_ids"][:len(few)] and 2900 < training_data.token_counts(few).sum() <= 3000
    assert training_data.digest(few) == training_data.digest(text_rows(tokenizer, texts, max_tokens=3000)) != training_data.digest(rows)


# Packing

def test_a_packed_documents_logits_are_those_of_the_document_alone(tiny_model_dir, tokenizer, tmp_path):
    rows = text_rows(tokenizer, ["Right lung removed.", "A tumor of the left kidney was found.", "Margins are clear."])
    packed = notes_trainer(tiny_model_dir, rows, tmp_path)
    batch = packed.data_collator([packed.train_dataset[0]])
    lengths = packed.train_dataset[0]["seq_lengths"]
    assert len(lengths) >= 2 and batch["input_ids"].shape[0] == 1
    start, stop = lengths[0], lengths[0] + lengths[1]
    second = batch["input_ids"][:, start:stop]
    model = packed.model.eval()
    with torch.no_grad():
        together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[:, start:stop]
        alone = model(input_ids=second, use_cache=False).logits
        contaminated = model(input_ids=batch["input_ids"], use_cache=False).logits[:, start:stop]
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(contaminated, alone, atol=1e-3)  # without position_ids the documents see each other


def test_bfd_split_keeps_every_token_and_bfd_says_what_it_cuts(tiny_model_dir, tokenizer, tmp_path, capsys):
    rows = text_rows(tokenizer, ["A tumor was found and removed. " * 20, "Right lung."])
    kept = notes_trainer(tiny_model_dir, rows, tmp_path / "a")
    assert sum(map(len, kept.train_dataset["input_ids"])) == sum(len(row["input_ids"]) for row in rows)
    assert "100.0 % of the tokens kept" in capsys.readouterr().out
    notes_trainer(tiny_model_dir, rows, tmp_path / "b", packing_strategy="bfd")
    assert "100.0 %" not in capsys.readouterr().out


def test_a_packed_batch_on_a_cpu_becomes_accumulation_of_the_same_rows(tiny_model_dir, tokenizer, tmp_path):
    made = notes_trainer(tiny_model_dir, text_rows(tokenizer, ["Right lung."] * 20), tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert made.args.per_device_train_batch_size * made.args.gradient_accumulation_steps == 8 and made.args.per_device_train_batch_size == 1


# Which tokens train

def test_rows_are_those_that_trl_makes_itself(examples, tokenizer, tiny_model_dir, tmp_path):
    ours = training_data.example_rows(examples, tokenizer, 256)
    raw = Dataset.from_list([{"prompt": e["prompt"], "completion": e["completion"]} for e in examples])
    args = SFTConfig(output_dir=str(tmp_path), max_length=256, bf16=False, use_cpu=True, report_to="none")
    theirs = trainer.NotesTrainer(models.load_model(tiny_model_dir, "fp32"), args, train_dataset=raw, processing_class=tokenizer).train_dataset
    assert [row["input_ids"] for row in ours] == list(theirs["input_ids"]) and [row["labels"] for row in ours] == list(theirs["labels"])


def test_loss_is_on_the_answer_and_the_end_token(examples, tokenizer):
    for example, row in zip(examples, training_data.example_rows(examples, tokenizer, 256), strict=True):
        trained = [token for token in row["labels"] if token != -100]
        assert trained[-1] == tokenizer.eos_token_id and row["input_ids"][0] == tokenizer.bos_token_id != row["input_ids"][1]
        assert example["completion"].startswith(tokenizer.decode(trained[0])) and tokenizer.decode(trained[:-1]) == example["completion"]
        prompt = tokenizer(example["prompt"])["input_ids"]
        assert row["input_ids"][: len(prompt)] == prompt and row["labels"][: len(prompt)] == [-100] * len(prompt)


def test_the_released_loss_covers_the_prompt_and_teaches_no_end(examples, tokenizer):
    rows = training_data.example_rows(examples, tokenizer, 256, completion_only_loss=False, train_on_eos=False)
    assert all(row["labels"] == [-100, *row["input_ids"][1:]] and tokenizer.eos_token_id not in row["input_ids"] for row in rows)


@pytest.mark.parametrize("fault", ["end token", "answer", "nothing"])
def test_check_rows_sees_a_fault(examples, tokenizer, fault):
    rows, by_id = training_data.example_rows(examples, tokenizer, 256), {e["example_id"]: e for e in examples}
    tokens, trained = training_data.check_rows(rows, by_id, tokenizer, True, True)
    assert trained == sum(len([t for t in row["labels"] if t != -100]) for row in rows) and tokens == sum(len(row["labels"]) for row in rows) > 5 * trained > 0
    labels = rows[3]["labels"]
    if fault == "end token":
        labels[-1] = -100
    elif fault == "answer":
        labels[labels.index(-100) + 5] = 7
    else:
        rows[3]["labels"] = [-100] * len(labels)
    with pytest.raises(AssertionError, match="e3"):
        training_data.check_rows(rows, by_id, tokenizer, True, True)


def test_a_prompt_that_does_not_end_on_a_token_boundary_is_refused(tokenizer):
    with pytest.raises(AssertionError, match="prefix"):
        training_data.example_rows([{"example_id": "e", "prompt": "The tum", "completion": "or"}], tokenizer, 256)


def test_examples_longer_than_max_length_are_counted_and_many_stop_the_run(examples, tokenizer, capsys):
    longest = {**examples[0], "prompt": "lung " * 300 + examples[0]["prompt"]}
    assert len(training_data.example_rows([*examples * 2, longest], tokenizer, 256)) == 48
    assert "1 of 49" in capsys.readouterr().out
    with pytest.raises(UserError, match="max_length"):
        training_data.example_rows([*examples[:10], longest], tokenizer, 256)


def test_budgets(examples, tokenizer):
    rows = training_data.example_rows(examples, tokenizer, 256)
    assert len(training_data.take_budget(rows, 7, 0, 1)) == 7 and len(training_data.take_budget(rows, 0, 0, 1)) == len(rows)
    few = training_data.take_budget(rows, 0, 500, 1)
    assert 500 - 110 < sum(len(row["input_ids"]) for row in few) <= 500


# Loss

@pytest.mark.parametrize("packing", [True, False])
def test_the_cpu_loss_and_its_gradient_are_trls(tiny_model_dir, tokenizer, examples, tmp_path, packing):
    rows = training_data.example_rows(examples, tokenizer, 256)
    ours = notes_trainer(tiny_model_dir, rows, tmp_path, packing=packing, max_length=256)
    batch = ours.data_collator([ours.train_dataset[i] for i in range(1 if packing else 3)])
    batch.pop("row", None)
    ours.model.train()
    found = []
    for compute in (lambda b: trainer.answer_loss(ours.model, b), lambda b: SFTTrainer.compute_loss(ours, ours.model, b)):
        ours.model.zero_grad()
        loss = compute(dict(batch))
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in ours.model.parameters() if p.grad is not None])))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5) and torch.allclose(found[0][1], found[1][1], atol=1e-6) and found[0][1].abs().max() > 1e-4


def test_text_loss_is_the_mean_over_every_token_whatever_the_windows(tiny_model_dir, tokenizer):
    model, texts = models.load_model(tiny_model_dir, "fp32"), ["A tumor of the left lung was found.", "Margins are clear."]
    total = count = 0
    for text in texts:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            total += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    scores = text_loss(model, tokenizer, texts)
    assert scores["loss"] == pytest.approx(total / count, rel=1e-5) and scores["tokens"] == count
    assert scores["bits_per_byte"] == pytest.approx(total / 0.693147 / sum(len(t.encode()) for t in texts), rel=1e-4)
    windows = text_windows(texts, tokenizer, 5)
    assert sum(len(window) - 1 for _, window in windows) == count and max(len(window) for _, window in windows) == 5


# Guards

def test_a_nan_loss_stops_before_the_optimizer_and_names_the_rows(tiny_model_dir, tiny_run, monkeypatch):
    real, calls = trainer.answer_loss, []

    def third_step_is_nan(model, inputs, n=None):
        calls.append(model)
        return real(model, inputs, n) * (float("nan") if len(calls) == 11 else 1.0)  # 4 dev batches, 2 steps, 4 dev batches before

    monkeypatch.setattr(trainer, "answer_loss", third_step_is_nan)
    with pytest.raises(UserError, match=r"not finite in examples e\d+.*last good checkpoint"):
        training.instruction_tune(tiny_run, tiny_model_dir, stage="sft", per_device_train_batch_size=2, gradient_accumulation_steps=1, num_train_epochs=1.0,
                                  save_steps=2, **SMALL)
    assert all(torch.isfinite(p).all() for p in calls[-1].parameters())
    assert not (tiny_run / "models").exists() and list((tiny_run / "checkpoints").rglob("manifest.json"))


def test_an_infinite_gradient_stops_before_the_optimizer(tiny_model_dir, tokenizer, tmp_path):
    made = notes_trainer(tiny_model_dir, text_rows(tokenizer, ["Right lung removed."] * 8), tmp_path)
    weight = next(p for name, p in made.model.named_parameters() if "lora_B" in name)
    weight.register_hook(lambda grad: grad + float("inf"))
    with pytest.raises(UserError, match="gradient norm"):
        made.train()
    assert all(torch.isfinite(p).all() for p in made.model.parameters()) and made.state.global_step == 0


def test_too_long_rows_wrong_world_size_and_unknown_preset_are_refused(tiny_model_dir, tiny_run, monkeypatch):
    with pytest.raises(UserError, match="512"):
        training.continue_pretraining(tiny_run, tiny_model_dir, max_length=600, eval_tokens=100)
    monkeypatch.setattr(training.launch, "needed", lambda *given: False)  # as if a launcher had started this process, but alone
    with pytest.raises(UserError, match="num_processes 2: 1 started"):
        training.continue_pretraining(tiny_run, tiny_model_dir, max_length=64, eval_tokens=100, num_processes=2)
    with pytest.raises(UserError, match="paper, released"):
        training.instruction_tune(tiny_run, tiny_model_dir, preset="papers")
    with pytest.raises(UserError, match="cpt"):
        training.instruction_tune(tiny_run, tiny_model_dir, stage="cpt-sft", **SMALL)


def test_training_reports_to_nobody(tiny_model_dir, tokenizer, tmp_path, monkeypatch):
    sent = []
    monkeypatch.delenv("CI", raising=False)  # TRL itself reports nothing where CI is set: the test would prove nothing there
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *args, **kwargs: sent.append(args))
    made = notes_trainer(tiny_model_dir, text_rows(tokenizer, ["Right lung."] * 4), tmp_path)
    assert sent == [] and made.args.report_to == []
    SFTTrainer._send_telemetry(made)
    assert sent  # the method that is switched off is the one that would report


# Whole stages

def test_cpt_lowers_the_held_out_loss_and_both_presets_start_from_it(tiny_model_dir, tiny_run):
    cpt = training.continue_pretraining(tiny_run, tiny_model_dir, per_device_train_batch_size=2, num_train_epochs=2.0, **SMALL | {"max_length": 128})
    table = pd.read_csv(tiny_run / "results" / "cpt.csv")
    dev = table[(table["split"] == "dev") & (table["subgroup"] == "all")].set_index("when")["loss"]
    assert dev["after"] < dev["before"] - 0.1 and set(table["split"]) == {"dev"} and table.loc[0, "n_notes"] == 10
    assert cpt["train_rows"] == 30
    sizes = {}
    for preset in ("paper", "released"):
        done = training.instruction_tune(tiny_run, tiny_model_dir, stage=f"cpt-sft-{preset}", preset=preset, lora_r=0 if preset == "paper" else 5, per_device_train_batch_size=4,
                                         gradient_accumulation_steps=1, num_train_epochs=2.0, save_steps=0.5, **SMALL)
        card = models.load_stage(done["model_dir"])[2]
        assert done["adapter"]["lora_r"] == card["training"]["lora_r"]  # the adapter that is trained on keeps its rank, and the card says so
        sizes[preset] = (done["trainable_parameters"], len(card["adapters_before"]), card["training"]["lora_r"])
        curve = pd.read_csv(tiny_run / "results" / "learning_curve.csv").query("stage == @card['stage']")
        assert curve["dev_loss"].dropna().min() == pytest.approx(done["dev_loss"]) and curve["step"].max() == 12
    assert sizes == {"paper": (14_336, 1, 64), "released": (8_192, 0, 8)}
    assert not list((tiny_run / "checkpoints").rglob("checkpoint-*"))


def test_a_tuned_model_answers_and_stops(tiny_model_dir, tiny_run):
    """From training rows to parsed answers: what was tuned is what decodes, and every answer ends with the end token."""
    done = training.instruction_tune(tiny_run, tiny_model_dir, stage="sft", preset="released", lora_r=16, lora_dropout=0.0, num_train_epochs=10.0,
                                     per_device_train_batch_size=8, gradient_accumulation_steps=1, max_grad_norm=1.0, save_steps=0.5, packing=True,
                                     **SMALL | {"learning_rate": 2e-2})
    model, tokenizer, card = models.load_stage(done["model_dir"], "fp32")
    examples = training_data.read_examples(tiny_run, ["phenotype_extraction"], "dev")
    answers = generation.generate(model, tokenizer, [example["prompt"] for example in examples], max_new_tokens=12)
    assert {answer["stop_reason"] for answer in answers} == {"eos"} and {answer["prediction"] for answer in answers} <= {"Right", "Left"}
    assert card["tasks"] == ["phenotype_extraction"] and card["prompt_hash"] and card["adapters_before"] == []


# Several processes

def test_several_processes_are_started_once(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert launch.needed(2) and not launch.needed(1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not launch.needed(2)


def test_a_process_hands_back_its_result_or_its_error(tiny_model_dir, tiny_run, tmp_path):
    call, answer = tmp_path / "call.json", tmp_path / "answer.json"
    arguments = {"run_dir": str(tiny_run), "model": tiny_model_dir, "max_tokens": 300, "max_length": 64, "eval_tokens": 100, "precision": "fp32"}
    call.write_text(json.dumps({"function": "continue_pretraining", "arguments": arguments}))
    assert launch.main(str(call), str(answer)) == 0
    result = json.loads(answer.read_text())
    assert result["steps"] >= 1 and json.loads(result["scores"]["table"])["columns"][0] == "model"
    call.write_text(json.dumps({"function": "continue_pretraining", "arguments": arguments | {"model": "no such model"}}))
    assert launch.main(str(call), str(answer)) == 2 and json.loads(answer.read_text())["steps"] == result["steps"], "the first outcome stays"
    answer.unlink()
    assert launch.main(str(call), str(answer)) == 2 and "no such model" in json.loads(answer.read_text())["error"]
