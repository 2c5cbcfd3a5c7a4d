"""Base models and stages: trainable parameters, safe loading, special tokens, merging."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from cancerllm_utils import paths
from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import models
from cancerllm_utils.modeling.training import PRESETS

ENTRIES = models.all_entries()
MISTRAL = "mistral-7b-instruct-v0.1"


@pytest.mark.parametrize(("lora_r", "target_modules", "expected"), [(8, "all-linear", 20_971_520), (64, ["q_proj", "v_proj"], 27_262_976)])
def test_trainable_parameters_of_mistral_7b_are_the_papers(lora_r, target_modules, expected):
    assert models.count_trainable("mistral-7b-instruct-v0.1", lora_r, target_modules) == expected


def test_mistral_7b_has_its_published_number_of_parameters():
    assert models.parameter_count("mistral-7b-instruct-v0.1") == 7_241_732_096


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_says_what_it_is_and_its_shape_has_its_published_size(name):
    entry = models.model_entry(name)
    assert entry["licence"] and entry["gb"] > 0 and entry["prompt"] in ("alpaca", "chat") and isinstance(entry["gated"], bool)
    assert entry["role"] in ("base", "baseline", "stand-in") and entry["named_in_paper"] in ("yes", "likely", "no")
    assert ("path" in entry) or (entry["revision"] and entry["weights"] in ("safetensors", "pickle", "unknown"))
    assert models.parameter_count(name) / 1e9 == pytest.approx(entry["billion_parameters"], rel=0.03)
    assert entry["gb"] >= 0.99 * 2 * entry["billion_parameters"], "fewer bytes than two per parameter"


def test_the_paper_compares_with_fourteen_models_of_which_it_names_seven():
    roles = [entry["role"] for entry in ENTRIES.values()]
    named = [name for name, entry in ENTRIES.items() if entry["role"] == "baseline" and entry["named_in_paper"] == "yes"]
    assert roles.count("base") == 1 and roles.count("baseline") == 14 and len(named) == 7
    assert {round(ENTRIES[name]["billion_parameters"]) for name in named} == {7, 8, 13, 69, 71}


@pytest.mark.parametrize(("change", "word"), [({"licence": None}, "licence"), ({"licens": "x"}, "licens"), ({"prompt": "vicuna"}, "vicuna")])
def test_an_entry_with_a_missing_or_unknown_key_is_refused(monkeypatch, change, word):
    entry = {k: v for k, v in (ENTRIES["tiny_base"] | change).items() if v is not None}
    monkeypatch.setattr(models.yaml, "safe_load", lambda text: {"mine": entry})
    with pytest.raises(UserError, match=word):
        models.model_entry("mine")


def test_the_presets_train_different_adapters():
    # by hand: Mistral-7B has hidden size 4096, 8 key-value heads of 128 (1024) and 14336 inside its feed-forward blocks; A is r x in, B is out x r
    paper, released = (models.adapter_shapes(MISTRAL, PRESETS[name]["lora_r"], PRESETS[name]["target_modules"]).set_index("module") for name in ("paper", "released"))
    assert list(paper.index) == ["q_proj", "v_proj"] and set(released.index) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert paper["A shape"].to_dict() == {"q_proj": "64 x 4096", "v_proj": "64 x 4096"} and paper["B shape"].to_dict() == {"q_proj": "4096 x 64", "v_proj": "1024 x 64"}
    assert (released.loc["down_proj", "A shape"], released.loc["down_proj", "B shape"]) == ("8 x 14336", "4096 x 8")
    assert paper.loc["v_proj", "parameters per layer"] == 64 * (4096 + 1024) and released.loc["gate_proj", "total"] == 32 * 8 * (4096 + 14336)
    assert paper["total"].sum() == 27_262_976 and released["total"].sum() == 20_971_520 and set(paper["layers"]) | set(released["layers"]) == {32}


def test_memory_is_the_sum_of_its_terms():
    entry, n = models.model_entry(MISTRAL), 7_241_732_096
    alone = models.training_memory(entry, batch=0)
    assert alone == pytest.approx(2 * n / 2**30 + 1)  # weights in bf16, and CUDA
    assert models.training_memory(entry, trainable=10**9, batch=0) - alone == pytest.approx(16e9 / 2**30)  # weights, gradients, two states in fp32
    assert models.training_memory(entry, trainable=10**9, batch=0, optim="paged_adamw_8bit") - alone == pytest.approx(10e9 / 2**30)
    assert models.training_memory(entry, "full", batch=0) == pytest.approx(16 * n / 2**30 + 1)
    # 4 bits: 32 layers of q, k, v, o (41.9 M) and gate, up, down (176.2 M) are quantised, the rest stays in bf16
    linear = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    assert models.weight_bytes(entry, load_in_4bit=True) == pytest.approx(0.516 * linear + 2 * (n - linear))
    tokens = 4 * 1024
    assert models.training_memory(entry) - alone == pytest.approx(tokens * (32 * (51 * 4096 + 12 * 14336) + 14 * 32000) / 2**30)
    checkpointed = models.training_memory(entry, gradient_checkpointing=True) - alone
    assert checkpointed == pytest.approx(tokens * (32 * 2 * 4096 + 51 * 4096 + 12 * 14336 + 14 * 32000) / 2**30)


def test_the_bytes_kept_for_the_backward_pass_are_those_that_autograd_saves():
    def saved(n_tokens, layers):
        torch.manual_seed(0)
        config = MistralConfig(vocab_size=64, hidden_size=128, intermediate_size=256, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2, sliding_window=None)
        network = get_peft_model(MistralForCausalLM(config), LoraConfig(r=8, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")).train()
        weights, kept = {p.untyped_storage().data_ptr() for p in network.parameters()}, {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor is held, or its address would be used again
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = network(input_ids=torch.zeros(1, n_tokens, dtype=torch.long), use_cache=False).logits
        return sum(size for size, _ in kept.values()) + 0 * logits.shape[0]

    per_token_and_layer = (saved(128, 3) - saved(64, 3) - saved(128, 1) + saved(64, 1)) / 64 / 2
    by_hidden, by_intermediate = models.KEPT_BYTES["fp32", "every"]
    assert per_token_and_layer == pytest.approx(by_hidden * 128 + by_intermediate * 256, rel=0.05)


def test_hours_count_four_operations_per_parameter_and_token_with_lora():
    entry, n = models.model_entry(MISTRAL), 7_241_732_096
    assert models.training_hours(entry, 3.6e6, flops_per_second=1e12) == pytest.approx(4 * n / 1e9)
    assert models.training_hours(entry, 3.6e6, "full", 1e12, gradient_checkpointing=True) == pytest.approx(8 * n / 1e9)
    # 16 answers of one token each: 16 prompts of 100 tokens at 2N operations each, then all weights once
    assert models.generation_hours(entry, 16, 100, 1, 16, 1e12, 1e12) * 3600 == pytest.approx((16 * 100 * 2 * n + 2 * n) / 1e12)
    # 32 layers x 2 x 8 heads x 128 dims x 2 bytes are 131,072 bytes per token
    assert models.generation_memory(entry, batch=2, length=100) == pytest.approx((2 * n + 200 * 131_072) / 2**30 + 1)


@pytest.mark.skipif(not (paths.TINY_BASE / "config.json").is_file(), reason="the embedded base is not in this checkout")
def test_the_embedded_base_loads_and_its_special_tokens_differ():
    tokenizer = models.load_tokenizer("tiny_base")
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert models.load_model("tiny_base").get_input_embeddings().num_embeddings >= len(tokenizer)


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(UserError, match="tiny_base"):
        models.model_entry("mistral")


def test_a_model_of_another_run_is_named_by_its_folder(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("CANCERLLM_RUNS", str(tmp_path))
    shutil.copytree(tiny_model_dir, tmp_path / "larger" / "base" / "larger")
    entry = models.model_entry("runs/larger/base/larger")
    assert entry["name"] == "larger" and entry["source"] == str((tmp_path / "larger" / "base" / "larger").resolve())


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


def test_4_bit_loading_without_its_library_names_the_remedy(tiny_model_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        models.load_model(tiny_model_dir, load_in_4bit=True)


@pytest.mark.parametrize(("fsdp", "precision", "storage"), [("", "bf16", torch.uint8), ("true", "bf16", torch.bfloat16), ("true", "fp32", torch.float32)])
def test_4_bit_weights_that_are_cut_over_cards_are_stored_in_the_type_that_computes(monkeypatch, fsdp, precision, storage):
    """FSDP cuts tensors of one floating type only: bytes would stay whole on every card."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", object())
    monkeypatch.setattr(models, "BitsAndBytesConfig", dict)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", fsdp)
    config = models.quantization_config("cpu", precision)
    assert config["bnb_4bit_quant_storage"] == storage and config["bnb_4bit_quant_type"] == "nf4"
    assert config["bnb_4bit_compute_dtype"] == {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def test_pickled_weights_on_the_hub_name_the_converter():
    entry = models.model_entry("pmc-llama-13b")
    assert "safetensors/convert" in models.missing_weights(entry, OSError("does not appear to have a file named model.safetensors"))
    assert "hf download axiong/PMC_LLaMA_13B" in models.missing_weights(entry, OSError("couldn't connect"))


def test_4_bit_weights_compute_on_a_cpu_as_their_dequantised_values_and_train(two_stages, tiny_model_dir):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model, _, _ = models.load_stage(two_stages[0], "fp32", load_in_4bit=True)
    layer = model.model.layers[0].self_attn.q_proj
    assert isinstance(layer, bitsandbytes.nn.Linear4bit) and layer.weight.dtype == torch.uint8
    assert not list(two_stages[0].parent.glob(".*.merged")), "the copy to quantise from must go"
    weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    x = torch.randn(3, layer.in_features, device=model.device)
    assert torch.allclose(layer(x), x @ weight.reshape(layer.out_features, -1).T, atol=1e-5)
    network = get_peft_model(models.load_model(tiny_model_dir, "fp32", load_in_4bit=True), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = torch.arange(10, 40)[None].to(model.device)
    optimizer, losses = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2), []
    for _ in range(5):
        losses.append(network(input_ids=ids, labels=ids).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]


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
        tensors = load_file(folder / models.ADAPTER)
        stem = "base_model.model.model.layers.0.self_attn.q_proj."
        expected += tensors[stem + "lora_B.weight"] @ tensors[stem + "lora_A.weight"] * 8 / 4  # PEFT's default alpha is 8
    assert torch.allclose(merged[name], expected, atol=1e-6) and merged[name].dtype == torch.float32
    assert model.config.pad_token_id == tokenizer.pad_token_id and not model.training


def test_a_changed_earlier_adapter_or_base_is_refused(two_stages, tiny_model_dir):
    upper, lower = two_stages
    adapter(tiny_model_dir, lower, 3)
    with pytest.raises(UserError, match="changed"):
        models.load_stage(upper)
    text = json.loads((lower / models.CARD).read_text())
    (lower / models.CARD).write_text(json.dumps({**text, "base_revision": "sha256:0"}))
    with pytest.raises(UserError, match="base"):
        models.load_stage(lower)


@pytest.fixture
def whole_stage(tiny_model_dir, tmp_path):
    """A fully tuned stage: other weights than the base's, and a card."""
    torch.manual_seed(5)
    network = models.load_model(tiny_model_dir, "fp32")
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    network.save_pretrained(tmp_path / "cpt-all")
    text = {"base": tiny_model_dir, "base_revision": models.base_revision(tiny_model_dir), "tuning": "full", "adapters_before": [],
            "adapter_sha256": models.sha256(tmp_path / "cpt-all" / models.WHOLE)}
    (tmp_path / "cpt-all" / models.CARD).write_text(json.dumps(text))
    return tmp_path / "cpt-all"


def test_a_fully_tuned_stage_takes_the_bases_place(whole_stage, tiny_model_dir):
    model, tokenizer, card = models.load_stage(whole_stage, "fp32")
    saved, base = load_file(whole_stage / models.WHOLE), models.load_model(tiny_model_dir, "fp32").state_dict()
    name = "model.layers.1.mlp.up_proj.weight"
    assert card["tuning"] == "full" and torch.equal(model.state_dict()[name], saved[name]) and not torch.equal(saved[name], base[name])
    assert model.config.pad_token_id == tokenizer.pad_token_id and not model.training


def test_an_adapter_on_a_fully_tuned_stage_is_merged_into_its_weights(whole_stage, tiny_model_dir, tmp_path):
    upper = adapter(tiny_model_dir, tmp_path / "cpt-sft-all", 2)
    card(upper, tiny_model_dir, [{"path": "../cpt-all", "sha256": models.sha256(whole_stage / models.WHOLE)}])
    merged, added = dict(models.load_stage(upper, "fp32")[0].named_parameters()), load_file(upper / models.ADAPTER)
    name, stem = "model.layers.0.self_attn.q_proj.weight", "base_model.model.model.layers.0.self_attn.q_proj."
    expected = load_file(whole_stage / models.WHOLE)[name] + added[stem + "lora_B.weight"] @ added[stem + "lora_A.weight"] * 2
    assert torch.allclose(merged[name], expected, atol=1e-6)
    (whole_stage / models.WHOLE).write_bytes(b"other")
    with pytest.raises(UserError, match="changed"):
        models.load_stage(upper)


def test_a_folder_that_is_no_stage_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cancerllm\.json"):
        models.load_stage(tmp_path)
