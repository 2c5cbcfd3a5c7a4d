"""What is measured beside the training: loss per text, per cancer type, on the way, and what is forgotten; that measuring changes nothing."""

import gzip
import json
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import energy, general_text, held_out, models, trainer, training
from cancerllm_utils.modeling.perplexity import mean_loss, text_loss, text_losses
from cancerllm_utils.plots import training as plots_training
from cancerllm_utils.results import CPT_COLUMNS

CPT = {"precision": "fp32", "learning_rate": 1e-2, "max_length": 96, "lora_dropout": 0.2, "per_device_train_batch_size": 2, "num_train_epochs": 2.0,
       "save_steps": 4, "logging_steps": 3, "seed": 3}


def losses(nats, tokens):
    return {"nats": np.array(nats, dtype=float), "tokens": np.array(tokens), "bytes": np.array(tokens) * 4}


# Loss per text

def test_each_text_has_its_own_loss_whatever_it_is_computed_with(tiny_model_dir):
    model, tokenizer = models.load_model(tiny_model_dir, "fp32").train(), models.load_tokenizer(tiny_model_dir)
    texts = ["A tumor of the left lung was found.", "Margins are clear.", "The colon was removed. " * 9]
    together = text_losses(model, tokenizer, texts, 40)
    assert model.training  # put back as it was
    alone = [text_loss(model, tokenizer, [text], 40) for text in texts]
    assert together["tokens"].tolist() == [one["tokens"] for one in alone] and together["bytes"].tolist() == [35, 18, 207]
    assert together["nats"] == pytest.approx([one["loss"] * one["tokens"] for one in alone], rel=1e-5)
    assert text_losses(model, tokenizer, texts, 40, batch_tokens=1)["nats"] == pytest.approx(together["nats"], rel=1e-5)
    assert mean_loss(together)["loss"] == pytest.approx(together["nats"].sum() / together["tokens"].sum())


# Change and its interval

def test_the_change_is_a_ratio_of_sums_with_an_interval_over_groups():
    before, after = losses([30, 10, 40], [10, 10, 20]), losses([20, 15, 20], [10, 10, 20])
    found = held_out.change(before, after, ["p1", "p1", "p2"])
    assert found["change"] == pytest.approx((-10 + 5 - 20) / 40)
    # two patients with -5/20 and -20/20: the ends of the interval are one patient drawn twice
    assert (found["change_low"], found["change_high"]) == pytest.approx((-1.0, -0.25))
    same = held_out.change(before, after, ["p1"] * 3)
    assert same["change_low"] == same["change"] == same["change_high"]


@pytest.mark.parametrize(("split", "ends", "words"), [
    ("general", (0.1, 0.3), "has forgotten"), ("general", (-0.3, -0.1), "no forgetting"), ("general", (-0.1, 0.1), "cannot tell"),
    ("dev", (-0.3, -0.1), "better"), ("dev", (0.1, 0.3), "worse"),
])
def test_the_sentence_follows_the_interval(split, ends, words):
    row = {"split": split, "loss": 4.0, "tokens": 5000, "change": sum(ends) / 2, "change_low": ends[0], "change_high": ends[1]}
    assert words in held_out.sentence(row, {"loss": 4.1})


def test_a_cancer_type_with_little_text_is_left_out_and_counted(capsys):
    types = ["BRCA"] * 6 + ["LUAD"] * 4 + ["COAD"] * 6 + ["", ""]
    tokens = [400] * 6 + [900] * 4 + [300] * 6 + [900] * 2  # LUAD: too few notes; COAD: too few tokens
    table = pd.DataFrame({"text": "", "group": [f"p{i}" for i in range(18)], "cancer_type": types})
    first, last = losses(np.array(tokens) * 3.0, tokens), losses(np.array(tokens) * 2.0, tokens)
    cut = slice(9)  # two rings, pooled
    held = {"dev": table.iloc[:9], "external": table.iloc[9:], "general": pd.DataFrame({"text": [""], "group": ["x"]})}
    split = [{name: held_out.part(found, which) for name, which in (("dev", cut), ("external", slice(9, 18)))} | {"general": losses([1], [1])} for found in (first, last)]
    rows = held_out.cancer_rows(held, *split, steps=7)
    assert [(row["when"], row["subgroup"], row["step"], row["n"], row["tokens"]) for row in rows] == [("before", "BRCA", 0, 6, 2400), ("after", "BRCA", 7, 6, 2400)]
    assert rows[1]["change"] == pytest.approx(-1.0) and "1 of 3 types shown, 2 left out" in capsys.readouterr().out


# A whole stage

def test_measuring_on_the_way_changes_nothing_and_survives_an_interruption(tiny_model_dir, tiny_run, monkeypatch):
    """The same adapter with and without it, and a run that stops and goes on has every point once."""
    measured = {"during_tokens": 300, "general_text": ["python"], "general_tokens": 600}
    plain = training.continue_pretraining(tiny_run, tiny_model_dir, stage="cpt-plain", **CPT)
    real = trainer.ProgressLines.on_step_end

    def interrupt(self, args, state, control, **kwargs):
        if state.global_step == 6:
            raise KeyboardInterrupt
        return real(self, args, state, control, **kwargs)

    monkeypatch.setattr(trainer.ProgressLines, "on_step_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        training.continue_pretraining(tiny_run, tiny_model_dir, stage="cpt", **CPT, **measured)
    monkeypatch.setattr(trainer.ProgressLines, "on_step_end", real)
    done = training.continue_pretraining(tiny_run, tiny_model_dir, stage="cpt", **CPT, **measured)
    assert models.sha256(f"{done['model_dir']}/{models.ADAPTER}") == models.sha256(f"{plain['model_dir']}/{models.ADAPTER}")

    table = pd.read_csv(tiny_run / "results" / "cpt.csv").query("stage == 'cpt'")
    during = table[table["when"] == "during"]
    expected = [0, *range(4, done["steps"], 4), done["steps"]]
    assert {split: part["step"].tolist() for split, part in during.groupby("split")} == {"dev": expected, "general": expected} and len(expected) > 4
    assert during.groupby("split")["tokens"].nunique().eq(1).all() and during["tokens"].max() < 300 < table[table["when"] == "after"]["tokens"].max()
    whole = table[table["subgroup"] == "all"].set_index(["when", "split"])
    assert whole.loc[("after", "dev"), "change"].item() == pytest.approx(whole.loc[("after", "dev"), "loss"].item() - whole.loc[("before", "dev"), "loss"].item(), abs=1e-4)
    assert (whole.loc["after", "change_low"] <= whole.loc["after", "change"]).all() and (whole.loc["after", "change"] <= whole.loc["after", "change_high"]).all()
    assert list(table.columns) == CPT_COLUMNS

    cost = pd.read_csv(tiny_run / "results" / "training.csv").set_index("stage").loc["cpt"]
    assert (cost["tuning"], cost["lora_r"], cost["train_rows"], cost["steps"], cost["num_processes"]) == ("lora", 8, 30, done["steps"], 1)
    assert 0.9 * cost["tokens"] < cost["trained_tokens"] == done["trained_tokens"] <= cost["tokens"] - 2 * 30  # two epochs, in which no text's start is predicted
    assert cost["peak_memory_gib"] > 0.1 and cost["memory_of"] == "whole process"


# General text

def test_pythons_reference_gives_prose_without_code():
    table = general_text.python_texts()
    words = sum(len(text.split()) for text in table["text"])
    assert len(table) > 100 and table["group"].nunique() > 40 and words > 10_000 and not table["text"].duplicated().any()
    assert not any(mark in text for text in table["text"] for mark in (">>>", "::=", "**", "``", "  "))
    assert table["text"].str.len().between(120, 2500).all() and table.equals(general_text.python_texts())


def test_articles_are_those_that_the_base_has_not_read(tmp_path, capsys):
    assert general_text.general_texts(["articles"], str(tmp_path)) == {} and "left out" in capsys.readouterr().out
    folder = tmp_path / "literature"
    folder.mkdir()
    articles = [{"pmcid": f"PMC{i}", "oncology": False, "text": f"Article {i} about walking. " + "It was a long walk. " * 80} for i in range(200)]
    with gzip.open(folder / "pmc_trial_articles.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in articles))
    with gzip.open(folder / "medquad_other.jsonl.gz", "wt") as file:
        file.write("")
    found = general_text.general_texts(["python", "articles"], str(tmp_path))
    trained, kept = general_text.tiny_base.split_texts([(row["pmcid"], row["text"]) for row in articles])
    texts = found["general articles"]["text"].tolist()
    assert set(found) == {"general", "general articles"} and 0 < len(texts) == len(kept) < 20
    assert all(any(whole.startswith(text) for whole in kept) and not any(whole.startswith(text) for whole in trained) for text in texts)
    assert all(800 <= len(text) < 900 and text.endswith(".") for text in texts)
    with pytest.raises(UserError, match=r"general_text pyton: unknown\. Use some of python, articles"):
        general_text.general_texts(["pyton"])


# Energy

def fake_codecarbon(monkeypatch, fails=""):
    made = []

    class Tracker:
        def __init__(self, **given):
            self.given, self.calls = given, []
            made.append(self)

        def start(self):
            if fails == "start":
                raise OSError("no meter")
            self.calls.append("start")

        def stop(self):
            self.calls.append("stop")
            if fails != "stop":
                self.final_emissions_data = types.SimpleNamespace(energy_consumed=0.25)

    monkeypatch.setitem(sys.modules, "codecarbon", types.SimpleNamespace(OfflineEmissionsTracker=Tracker))
    return made


def test_energy_is_read_from_the_offline_tracker_and_nothing_is_sent(monkeypatch):
    made = fake_codecarbon(monkeypatch)
    with energy.measured_energy("DEU") as found:
        assert found == {"kwh": None}
    assert found == {"kwh": 0.25} and made[0].calls == ["start", "stop"]
    assert made[0].given["country_iso_code"] == "DEU" and made[0].given["save_to_file"] is False and made[0].given["save_to_api"] is False
    with pytest.raises(ZeroDivisionError), energy.measured_energy():
        raise ZeroDivisionError
    assert made[1].calls == ["start", "stop"]  # an error of the work passes, and the tracker does not run on


@pytest.mark.parametrize("fails", ["start", "stop", "absent"])
def test_without_a_working_tracker_the_work_goes_on(monkeypatch, fails, capsys):
    fake_codecarbon(monkeypatch, fails)
    if fails == "absent":
        monkeypatch.setitem(sys.modules, "codecarbon", None)
    with energy.measured_energy() as found:
        worked = torch.ones(2).sum().item()
    assert worked == 2 and found == {"kwh": None} and ("codecarbon" in capsys.readouterr().out) == (fails != "absent")


# Figures

def words_of(fig):
    ax = fig.axes[0]
    legend = ax.get_legend().get_texts() if ax.get_legend() else []
    return "\n".join([ax.get_title(loc="left"), ax.get_xlabel(), *(t.get_text() for t in [*ax.texts, *ax.get_yticklabels(), *legend])])


def test_figures_carry_their_n_and_say_when_there_is_nothing():
    rows = [{"when": "during", "split": split, "subgroup": "all", "step": step, "bits_per_byte": 3 - step / 10, "tokens": 4000} for split in ("dev", "general") for step in (0, 5)]
    rows += [{"when": "after", "split": "held out", "subgroup": cancer, "step": 5, "change": value, "change_low": value - 0.1, "change_high": value + 0.1, "n_notes": 9}
             for cancer, value in (("BRCA", -1.0), ("LUAD", -1.5))]
    table = pd.DataFrame(rows)
    assert "n = 4,000 tokens" in words_of(plots_training.loss_during(table)) and "general text" in words_of(plots_training.loss_during(table))
    said = words_of(plots_training.loss_by_cancer(table))
    assert said.index("BRCA (n = 9 notes)") < said.index("LUAD (n = 9 notes)")  # ticks from below: the largest gain on top
    assert "no " in words_of(plots_training.loss_during(table[:0])) and "no " in words_of(plots_training.loss_by_cancer(table[:0]))
