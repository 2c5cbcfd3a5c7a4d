"""How the embedded base is made: recall rows by hand, the wired copying circuit, a resumed training equal to an unbroken one, the card's claims."""

import gzip
import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cancerllm_utils import paths
from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import models, recall, tiny_base


def test_repeated_rows_train_only_what_stood_there_before():
    ids, labels = recall.repeated_row(np.random.default_rng(3), 400, np.arange(10, 20))
    known = labels != -100
    assert len(ids) == len(labels) == 400 and 0.3 < known.mean() < 0.7 and (labels[known] == ids[known]).all()
    bigrams = set()
    for position in range(1, 400):
        if known[position]:
            assert (ids[position - 1], ids[position]) in bigrams, "a trained token must follow a pair seen before"
        bigrams.add((ids[position - 1], ids[position]))


def test_planted_answers_stand_in_the_text_before_them():
    words = ["margin", "tumour", "renal", "colon", "dose"]
    for seed in range(20):
        pieces, is_answer = recall.planted_row(np.random.default_rng(seed), words, ["some"] * 30)
        assert len(pieces) == len(is_answer) and any(is_answer)
        for number, piece in enumerate(pieces):
            if is_answer[number]:
                assert piece in "".join(pieces[: number - 1])


def shape(vocab_size, **how):
    class Tokenizer:
        pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

        def __len__(self):
            return vocab_size

    return tiny_base.make_config(Tokenizer(), **how)


@pytest.mark.parametrize("how", [{}, {"architecture": "llama", "intermediate_size": 208, "num_hidden_layers": 3, "num_attention_heads": 2},
                                 {"hidden_size": 384, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 3}])  # fmt: skip
def test_the_wired_circuit_copies_and_an_unwired_model_does_not(how):
    vocabulary = np.arange(4, 2000)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(shape(2000, **how)).eval()
    assert recall.induction_score(model, vocabulary, n=4)["accuracy"] < 0.05
    recall.wire_induction_heads(model, 0)
    assert recall.induction_score(model, vocabulary, n=4)["accuracy"] > 0.85


def test_an_unknown_architecture_is_refused():
    with pytest.raises(UserError, match="mistral or llama"):
        shape(400, architecture="gpt")


@pytest.fixture
def literature(tmp_path):
    folder, rng = tmp_path / "literature", np.random.default_rng(0)
    folder.mkdir()
    words = ["trial", "patients", "dose", "control", "weeks", "group", "mean", "placebo", "outcome", "safety", "bladder", "asthma"]
    with gzip.open(folder / "pmc_trial_articles.jsonl.gz", "wt") as file:
        for number in range(600):
            file.write(json.dumps({"pmcid": f"PMC{number}", "oncology": number % 10 == 0, "text": " ".join(rng.choice(words, 80))}) + "\n")
    with gzip.open(folder / "medquad_other.jsonl.gz", "wt") as file:
        file.write(json.dumps({"url": "u", "question": "What is asthma?", "answer": "A disease."}) + "\n" + json.dumps({"url": "v", "question": "q", "answer": " "}) + "\n")
    return tmp_path


def test_only_non_oncology_texts_are_read_and_split_by_article(literature):
    texts = tiny_base.read_texts(literature)
    assert len(texts) == 541 and not {f"PMC{n}" for n in range(0, 600, 10)} & {key for key, _ in texts}
    train, dev = tiny_base.split_texts(texts, held_out=0.2)
    assert len(train) + len(dev) == 541 and 60 < len(dev) < 160
    with pytest.raises(UserError, match="CANCERLLM_DATA"):
        tiny_base.read_texts(literature / "nowhere")


def test_a_broken_off_training_goes_on_to_the_same_weights(literature, tmp_path, monkeypatch):
    how = {"max_tokens": 6 * 512, "tokens_per_step": 512, "learning_rate": 1e-3, "recall_share": 0.3, "vocab_size": 400, "eval_every": 50, "save_every": 2,
           "shape": {"architecture": "llama", "num_hidden_layers": 2, "intermediate_size": 64}}
    monkeypatch.setattr(recall, "planted_recall", lambda *_, **__: {"exact": 0.0, "n": 1})
    tiny_base.train(literature, tmp_path / "whole", **how)
    save = tiny_base.save_model
    monkeypatch.setattr(tiny_base, "save_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tiny_base.train(literature, tmp_path / "broken", **how)
    monkeypatch.setattr(tiny_base, "save_model", save)
    tiny_base.train(literature, tmp_path / "broken", **how)
    assert (tmp_path / "whole" / "model" / "README.md").read_text().count("Llama") >= 2
    whole, resumed = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "broken"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)


EMBEDDED = {"tiny_base": (8192, "mistral"), "tiny_llama": (4096, "llama")}


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_model_is_what_its_card_says(name):
    tokenizer, model, folder = models.load_tokenizer(name), models.load_model(name, "fp32").eval(), tiny_base.embedded_dir(name)
    card, last = (folder / "README.md").read_text(), json.loads((folder / "history.json").read_text())[-1]
    assert (len(tokenizer), model.config.model_type) == EMBEDDED[name] and len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert model.config.hidden_act == "silu" and f"{model.num_parameters():,} parameters" in card
    assert f"{last['held_out_loss']:.3f}" in card and f"{last['tokens']:,}" in card and "CC BY 4.0" in card
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in card
    measured = recall.induction_score(model, np.arange(4, len(tokenizer)), n=8)
    assert measured["accuracy"] == pytest.approx(last["induction_accuracy"], abs=0.06)
    assert tokenizer.decode(tokenizer("pT2 N1, 2.5 cm ER+")["input_ids"], skip_special_tokens=True) == "pT2 N1, 2.5 cm ER+"


def test_mistrals_stand_in_shares_key_value_heads_and_llamas_does_not():
    heads = {name: models.meta_model(name).config for name in EMBEDDED}
    assert heads["tiny_base"].num_key_value_heads < heads["tiny_base"].num_attention_heads
    assert heads["tiny_llama"].num_key_value_heads == heads["tiny_llama"].num_attention_heads


def test_the_two_embedded_models_have_no_weights_in_common():
    tensors = {name: load_file(tiny_base.embedded_dir(name) / "model.safetensors") for name in EMBEDDED}
    rows = {name: {row.tobytes() for tensor in found.values() if tensor.dim() == 2 and tensor.shape[1] == 256 for row in tensor.float().numpy()} for name, found in tensors.items()}
    assert all(len(found) > 5000 for found in rows.values())
    assert not rows["tiny_base"] & rows["tiny_llama"], "the same row of weights in both: one is made from the other"
    assert sum(tensor.numel() for tensor in tensors["tiny_llama"].values()) <= 3_000_000


def test_the_embedded_models_stay_small():
    sizes = [file.stat().st_size for entry in models.all_entries().values() if "path" in entry for file in (paths.PACKAGE / entry["path"]).iterdir()]
    assert len(sizes) >= 12 and sum(sizes) <= 24_000_000
    assert sum(file.stat().st_size for file in tiny_base.embedded_dir("tiny_llama").iterdir()) <= 6_500_000


def test_only_embedded_models_are_adopted(tmp_path, monkeypatch):
    monkeypatch.setenv("CANCERLLM_RUNS", str(tmp_path))
    with pytest.raises(UserError, match="PROFILE=tiny_llama"):
        tiny_base.adopt("tiny_llama")
    with pytest.raises(UserError, match="not an embedded one"):
        tiny_base.adopt("mistral-7b-instruct-v0.1")
