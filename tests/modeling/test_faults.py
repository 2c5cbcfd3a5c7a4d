"""Guards of training: what stops a run, what a stop names, how memory that ends is met, and that nothing is counted wrong."""

import json
import os
import signal
import threading

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import pack_dataset

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import guards, launch, models, trainer, training, training_data

SIZES = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}


@pytest.fixture
def tokenizer(tiny_model_dir):
    return models.load_tokenizer(tiny_model_dir)


def note_trainer(tiny_model_dir, texts, tmp_path, **changed):
    """A trainer over notes n0, n1 ... as continue_pretraining makes it."""
    settings = {**SIZES, "num_train_epochs": 1.0, "learning_rate": 1e-2, "max_length": 64, "packing": True, "packing_strategy": "bfd_split", "warmup_ratio": 0.0,
                "weight_decay": 0.0, "max_grad_norm": 1.0, "lr_scheduler_type": "linear", "optim": "adamw_torch", "gradient_checkpointing": False, "load_in_4bit": False,
                "seed": 1, "save_steps": 100, "logging_steps": 1, "logging_seconds": 60.0, "num_processes": 1, "tuning": "lora", "lora_r": 4, "lora_alpha": 16,
                "lora_dropout": 0.0, "target_modules": "all-linear"} | changed
    notes = Dataset.from_dict({"note_id": [f"n{i}" for i in range(len(texts))], "text": texts})
    tokenizer = models.load_tokenizer(tiny_model_dir)
    rows = training_data.note_rows(notes, tokenizer, 0, 0, tmp_path / "tokens.arrow")
    return trainer.make_trainer(models.load_model(tiny_model_dir, "fp32"), tokenizer, rows, [], tmp_path / "checkpoints", settings, {"device": "cpu", "precision": "fp32"},
                                "test", {"seed": settings["seed"]}, training.lora_config(settings))


# What a stop names

@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
def test_the_documents_of_a_packed_row_are_those_whose_tokens_stand_in_it(strategy):
    """More than TRL packs at once; every token tells its document. Documents longer than a row among them."""
    lengths = np.random.default_rng(0).integers(1, 90, 2300)
    packed = pack_dataset(Dataset.from_dict({"input_ids": [[i] * n for i, n in enumerate(lengths)]}), 64, strategy)
    expected = {row: list(dict.fromkeys(packed[row]["input_ids"])) for row in range(0, len(packed), 53)}
    assert max(map(len, expected.values())) > 1
    assert guards.documents_of(lengths, strategy, 64, set(expected)) == expected


def test_a_bad_note_within_packed_rows_is_named(tiny_model_dir, tokenizer, tmp_path, monkeypatch):
    texts = [f"A tumor of {i} cm was found and removed." for i in range(30)]
    bad, real = tokenizer(texts[17], add_special_tokens=False)["input_ids"], trainer.answer_loss
    made = note_trainer(tiny_model_dir, texts, tmp_path, gradient_accumulation_steps=2)

    def poisoned(model, inputs, n=None):
        flat = inputs["input_ids"][0].tolist()
        there = any(flat[at : at + len(bad)] == bad for at in range(len(flat)))
        return real(model, inputs, n) * (float("nan") if there else 1.0)

    monkeypatch.setattr(trainer, "answer_loss", poisoned)
    with pytest.raises(UserError, match="the loss is not finite in examples ") as stopped:
        made.train()
    named = str(stopped.value).split(" in examples ")[1].split(". The")[0].split(", ")
    row = next(row for row in range(len(made.train_dataset)) if "n17" in made.ids_of([row]))
    assert named == made.ids_of([row]) and 1 < len(named) < 8  # the row of that note, not the four rows of its step
    assert not guards.not_finite(made.model)


def test_a_long_list_of_rows_is_cut(tiny_model_dir, tmp_path):
    made = note_trainer(tiny_model_dir, ["Right lung."] * 60, tmp_path, packing=False)
    assert made.guard.name_rows([torch.arange(60)]).count(", ") == guards.NAMED - 1 and made.guard.name_rows([torch.arange(60)]).endswith(" and 10 more")
    assert made.guard.name_rows([torch.tensor([3]), None]).startswith(" in examples n") and made.guard.name_rows([]) == ""


# What stops a run

def test_weights_that_are_not_finite_are_never_saved(tiny_model_dir, tmp_path):
    made = note_trainer(tiny_model_dir, ["Right lung removed."] * 30, tmp_path, save_steps=2)

    class Breaks(guards.TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                next(p for p in model.parameters() if p.requires_grad).data[0, 0] = float("inf")

    made.add_callback(Breaks())
    with pytest.raises(UserError, match="step 2: the weights are no longer finite, so they are not saved"):
        made.train()
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))


def test_a_dev_loss_that_is_not_finite_stops(tiny_model_dir, tmp_path):
    guard = note_trainer(tiny_model_dir, ["Right lung."] * 4, tmp_path).guard
    with pytest.raises(UserError, match="the loss on dev examples is not finite"):
        guard.on_evaluate(None, guard.trainer.state, None, metrics={"eval_loss": float("nan")})
    guard.on_evaluate(None, guard.trainer.state, None, metrics={"eval_loss": 1.0})


def test_sigterm_is_noted_once_and_the_handler_is_put_back():
    met, guard = [], type("Guard", (), {"stop_asked": False})
    before = signal.signal(signal.SIGTERM, lambda number, frame: met.append(number))
    try:
        own = signal.getsignal(signal.SIGTERM)
        with guards.sigterm_noted(guard):
            os.kill(os.getpid(), signal.SIGTERM)
            assert guard.stop_asked and met == []
            os.kill(os.getpid(), signal.SIGTERM)  # who asks twice does not want to wait for the step
            assert met == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is own
        in_thread = threading.Thread(target=lambda: guards.sigterm_noted(guard).__enter__())
        in_thread.start()
        in_thread.join()
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


# Memory

@pytest.mark.parametrize("batch, accumulation, smaller", [(2, 1, (1, 2)), (4, 3, (2, 6)), (6, 2, (3, 4)), (3, 2, (1, 6)), (5, 1, (1, 5)), (9, 1, (3, 3))])
def test_a_smaller_batch_keeps_the_product(batch, accumulation, smaller):
    found = guards.halved(batch, accumulation)
    assert tuple(found.values()) == smaller and smaller[0] * smaller[1] == batch * accumulation


def test_only_missing_memory_is_met_with_smaller_batches():
    assert guards.is_memory_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert guards.is_memory_error(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"))
    assert guards.is_memory_error(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")) and guards.is_memory_error(MemoryError())
    assert not guards.is_memory_error(RuntimeError("size mismatch"))
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**46)
    assert guards.is_memory_error(error.value)  # what this version of torch says on a CPU


def test_a_function_is_called_again_with_the_smaller_sizes(capsys, monkeypatch):
    called = []

    @guards.smaller_batches_if_needed
    def tune(run_dir, per_device_train_batch_size: int = 4, gradient_accumulation_steps: int = 1, seed: int = 0):
        called.append((run_dir, per_device_train_batch_size, gradient_accumulation_steps, seed))
        if per_device_train_batch_size > 1:
            raise guards.SmallerBatch("out of memory", guards.halved(per_device_train_batch_size, gradient_accumulation_steps))
        return "done"

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert tune("a", seed=7) == "done" and called == [("a", 4, 1, 7), ("a", 2, 2, 7), ("a", 1, 4, 7)]
    assert "out of memory; going on with per_device_train_batch_size 2, gradient_accumulation_steps 2" in capsys.readouterr().out
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(guards.SmallerBatch):
        tune("a")


def test_a_process_tells_the_notebook_that_memory_ended(tmp_path, monkeypatch):
    def ends(**arguments):
        raise guards.SmallerBatch("out of memory", {**SIZES})

    monkeypatch.setattr(training, "continue_pretraining", ends)
    call, answer = tmp_path / "call.json", tmp_path / "answer.json"
    call.write_text(json.dumps({"function": "continue_pretraining", "num_processes": 1, "arguments": {}}))
    assert launch.main(str(call), str(answer)) == 2
    again = guards.SmallerBatch(*json.loads(answer.read_text())["smaller"])
    assert again.sizes == SIZES and str(again).startswith("out of memory; going on with per_device_train_batch_size 2")


# What is counted, and where a run begins

@pytest.mark.parametrize("strategy, lost", [("bfd_split", 0), ("bfd", 5), ("wrapped", 0)])
def test_tokens_and_trained_tokens_are_counted_by_hand(strategy, lost, capsys):
    """Documents of 4, 9 and 3 tokens in rows of 4: the first token of each piece trains nothing."""
    rows = [{"example_id": f"n{i}", "input_ids": list(range(n)), "labels": [-100, *range(1, n)]} for i, n in enumerate((4, 9, 3))]
    packed = pack_dataset(training_data.as_dataset(rows).select_columns(["input_ids", "labels"]), 4, strategy)
    trained = {"bfd_split": 3 + (3 + 3 + 0) + 2, "bfd": 3 + 3 + 2, "wrapped": 3 + 3 + 3 + 2}[strategy]  # the last row of wrapped: the end of the second document, then the third
    assert trainer.check_kept(packed, rows, {"packing": True, "packing_strategy": strategy, "max_length": 4}) == trained
    assert f"3 texts, {16 - lost} tokens, {trained} of them trained ({100 * trained / (16 - lost):.1f} %)" in capsys.readouterr().out


def test_rows_or_labels_that_went_missing_are_noticed():
    rows = [{"example_id": f"e{i}", "input_ids": [1, 5, 6, 2], "labels": [-100, -100, 6, 2]} for i in range(4)]
    whole, settings = training_data.as_dataset(rows), {"packing": False, "packing_strategy": "bfd", "max_length": 8}
    assert trainer.check_kept(whole, rows, settings) == 8
    with pytest.raises(AssertionError, match="4 rows of 16 tokens became 3 rows"):
        trainer.check_kept(training_data.as_dataset(rows[:3]), rows, settings)
    with pytest.raises(AssertionError, match="8 trained tokens became 7"):
        trainer.check_kept(training_data.as_dataset([{**rows[0], "labels": [-100, -100, -100, 2]}, *rows[1:]]), rows, settings)


def test_a_run_that_trained_another_number_of_tokens_is_stopped(tiny_model_dir, tmp_path):
    made = note_trainer(tiny_model_dir, ["Right lung removed."] * 8, tmp_path)
    made.trained_tokens_per_epoch += 1
    with pytest.raises(AssertionError, match=r"\d+ tokens were trained, \d+ should have been"):
        trainer.train(made, {"seed": 1})


def test_the_adapter_begins_the_same_whatever_the_process_did_before(tiny_model_dir, tmp_path):
    def start(seed):
        torch.rand(torch.randint(1, 50, (1,)).item())
        return torch.cat([p.flatten() for p in note_trainer(tiny_model_dir, ["Right lung."] * 4, tmp_path, seed=seed).model.parameters() if p.requires_grad])

    assert torch.equal(start(1), start(1)) and not torch.equal(start(1), start(2))


def test_the_identity_sees_what_decides_the_run_and_nothing_else(tiny_model_dir):
    rows = [{"example_id": "e", "input_ids": [1, 5, 2], "labels": [-100, 5, 2]}]
    settings = {**SIZES, "model": tiny_model_dir, "learning_rate": 1e-3, "logging_steps": 10, "eval_tokens": 100}
    place = {"device": "cpu", "precision": "fp32"}
    one = training.identify(settings, rows, rows, "tiny", place)
    same = [{"logging_steps": 1}, {"eval_tokens": 5}, {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}]
    assert all(training.identify(settings | change, rows, rows, "tiny", place) == one for change in same)
    other = [{"learning_rate": 2e-3}, {"per_device_train_batch_size": 4}, {"num_processes": 2}]
    assert all(training.identify(settings | change, rows, rows, "tiny", place) != one for change in other)
    changed = [{**rows[0], "labels": [-100, -100, 2]}]
    assert training.identify(settings, changed, rows, "tiny", place) != one != training.identify(settings, rows, changed, "tiny", place)
    assert training.identify(settings, rows, rows, "tiny", {**place, "device": "cuda"}) != one
    json.dumps(one)
