"""Base models and stages: trainable parameters, safe loading, special tokens, merging."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from cancerllm_utils import paths
from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import models

ENTRIES = yaml.safe_load(Path(models.__file__).with_name("models.yaml").read_text())


@pytest.mark.parametrize(("lora_r", "target_modules", "expected"), [(8, "all-linear", 20_971_520), (64, ["q_proj", "v_proj"], 27_262_976)])
def test_trainable_parameters_of_mistral_7b_are_the_papers(lora_r, target_modules, expected):
    assert models.count_trainable("mistral-7b-instruct-v0.1", lora_r, target_modules) == expected


def test_mistral_7b_has_its_published_number_of_parameters():
    assert models.parameter_count("mistral-7b-instruct-v0.1") == 7_241_732_096


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_says_where_it_is_and_under_what_licence(name):
    entry = models.model_entry(name)
    assert entry["licence"] and entry["gb"] > 0 and entry["prompt"] == "alpaca" and isinstance(entry["gated"], bool)
    assert ("path" in entry) != ("hub_id" in entry)
    assert "path" in entry or (entry["revision"] and entry["config"])


@pytest.mark.skipif(not (paths.TINY_BASE / "config.json").is_file(), reason="the embedded base is not in this checkout")
def test_the_embedded_base_loads_and_its_special_tokens_differ():
    tokenizer = models.load_tokenizer("tiny_base")
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert models.load_model("tiny_base").get_input_embeddings().num_embeddings >= len(tokenizer)


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(UserError, match="tiny_base"):
        models.model_entry("mistral")


def test_missing_weights_name_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sentence = models.missing_weights(models.model_entry("mistral-7b-instruct-v0.1"), OSError("no such file\nmore"))
    assert "accept the licence" in sentence and "hf download mistralai/Mistral-7B-Instruct-v0.1" in sentence and "more" not in sentence
    (tmp_path / "config.json").write_text('{"model_type": "mistral"}')
    with pytest.raises(UserError, match="safetensors"):
        models.load_model(str(tmp_path))


def test_pickled_weights_are_not_read(tiny_model_dir, tmp_path):
    shutil.copytree(tiny_model_dir, tmp_path / "pickled")
    model = models.load_model(tiny_model_dir, "fp32")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        models.load_model(str(tmp_path / "pickled"), "fp32")


@pytest.mark.parametrize("pad", [None, "</s>"])
def test_a_base_without_a_pad_token_gets_one_that_is_not_the_end_token(tiny_model_dir, tmp_path, pad):
    shutil.copytree(tiny_model_dir, tmp_path / "unpadded")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.pad_token = pad
    tokenizer.save_pretrained(tmp_path / "unpadded")
    loaded = models.load_tokenizer(str(tmp_path / "unpadded"))
    assert loaded.pad_token_id not in (None, loaded.eos_token_id) and loaded.padding_side == "left"
    model = models.load_model(str(tmp_path / "unpadded"), "fp32")
    assert model.get_input_embeddings().num_embeddings > loaded.pad_token_id == model.config.pad_token_id


def test_without_a_cuda_card_4_bit_loading_is_refused(tiny_model_dir):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA card")
    with pytest.raises(UserError, match="CUDA"):
        models.load_model(tiny_model_dir, load_in_4bit=True)


def test_bf16_is_chosen_only_where_the_processor_has_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for capabilities, expected in (({"avx2": True}, "fp32"), ({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert models.device_and_precision() == {"device": "cpu", "precision": expected, "threads": 1}
    assert models.device_and_precision("fp32")["precision"] == "fp32"


def adapter(tiny_model_dir: str, folder: Path, seed: int) -> Path:
    """A random adapter that changes the answers, saved in PEFT's layout."""
    torch.manual_seed(seed)
    network = get_peft_model(models.load_model(tiny_model_dir, "fp32"), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            weight.data = 0.1 * torch.randn_like(weight)
    network.save_pretrained(folder)
    return folder


def card(folder: Path, tiny_model_dir: str, before: list[dict]) -> None:
    text = {"base": tiny_model_dir, "base_revision": models.base_revision(tiny_model_dir), "adapters_before": before,
            "adapter_sha256": models.sha256(folder / models.ADAPTER)}
    (folder / models.CARD).write_text(json.dumps(text))


@pytest.fixture
def two_stages(tiny_model_dir, tmp_path):
    """A stage on top of another: (folder of the upper, folder of the lower)."""
    lower, upper = adapter(tiny_model_dir, tmp_path / "cpt", 1), adapter(tiny_model_dir, tmp_path / "cpt-sft", 2)
    card(lower, tiny_model_dir, [])
    card(upper, tiny_model_dir, [{"path": "../cpt", "sha256": models.sha256(lower / models.ADAPTER)}])
    return upper, lower


def test_a_stage_is_its_base_with_every_adapter_merged(two_stages, tiny_model_dir):
    model, tokenizer, _ = models.load_stage(two_stages[0], "fp32")
    base = dict(models.load_model(tiny_model_dir, "fp32").named_parameters())
    merged = dict(model.named_parameters())
    name = "model.layers.0.self_attn.q_proj.weight"
    expected = base[name].detach().clone()
    for folder in two_stages:
        tensors = models_adapter(folder)
        stem = "base_model.model.model.layers.0.self_attn.q_proj."
        expected += tensors[stem + "lora_B.weight"] @ tensors[stem + "lora_A.weight"] * 8 / 4  # PEFT's default alpha is 8
    assert torch.allclose(merged[name], expected, atol=1e-6) and merged[name].dtype == torch.float32
    assert model.config.pad_token_id == tokenizer.pad_token_id and not model.training


def models_adapter(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / models.ADAPTER)


def test_a_changed_earlier_adapter_or_base_is_refused(two_stages, tiny_model_dir):
    upper, lower = two_stages
    adapter(tiny_model_dir, lower, 3)
    with pytest.raises(UserError, match="changed"):
        models.load_stage(upper)
    text = json.loads((lower / models.CARD).read_text())
    (lower / models.CARD).write_text(json.dumps({**text, "base_revision": "sha256:0"}))
    with pytest.raises(UserError, match="base"):
        models.load_stage(lower)


def test_a_folder_that_is_no_stage_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cancerllm\.json"):
        models.load_stage(tmp_path)
