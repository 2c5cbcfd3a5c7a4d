"""Base models and tuned stages: load them safely, in the precision that this machine is good at.

Only safetensors are read and no code from a model folder is ever run. A stage (`runs/<profile>/models/<model>/<stage>/`) is an adapter in
PEFT's own layout, or the whole weights where all of them were trained, beside `cancerllm.json`, which says on which base it sits and which
stages come before it. The second half counts: adapter shapes, memory and hours follow from a model's shape, before anything is downloaded.
"""

import hashlib
import json
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
import transformers
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from cancerllm_utils import paths
from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import machine
from cancerllm_utils.tasks.task import PROMPT_FORMS

# A notebook's log takes neither progress bars nor warnings about names that the libraries pass to one another.
transformers.utils.logging.disable_progress_bar()
warnings.filterwarnings("ignore", message=".*will be removed in v6.*", category=FutureWarning)

CARD = "cancerllm.json"
ADAPTER = "adapter_model.safetensors"
WHOLE = "model.safetensors"  # all weights of a fully tuned stage, in one file

ENTRY_KEYS = {"role", "named_in_paper", "prompt", "licence", "gated", "billion_parameters", "gb"}

GIB = 2**30
NF4_BYTES = 0.516  # 4 bits per weight, plus 0.127 for the scales after double quantisation (QLoRA, arXiv 2305.14314, section 3)
CUDA_GIB = 1.0  # context, library kernels and the allocator's reserve
# Bytes that one layer keeps for the backward pass per token, as (per hidden unit, per intermediate unit): measured on this stack by counting the tensors
# that autograd saves, with LoRA on every linear layer, on some of them, and with all weights trained.
KEPT_BYTES = {("bf16", "every"): (51, 12), ("bf16", "some"): (26, 6), ("bf16", "full"): (32, 8),
              ("fp32", "every"): (70, 20), ("fp32", "some"): (37, 12), ("fp32", "full"): (36, 16)}  # fmt: skip


def all_entries() -> dict[str, dict]:
    """Every entry of models.yaml by name, in the file's order, its keys checked; UserError names a key that is missing or unknown."""
    entries = yaml.safe_load((Path(__file__).parent / "models.yaml").read_text())
    for name, entry in entries.items():
        where = {"path"} if "path" in entry else {"hub_id", "revision", "weights", "config"}
        odd = (where | ENTRY_KEYS) ^ (set(entry) - {"released"})
        if odd:
            raise UserError(f"models.yaml, {name}: the keys {', '.join(sorted(odd))} are missing or unknown. An entry has {', '.join(sorted(where | ENTRY_KEYS))}.")
        if entry["prompt"] not in PROMPT_FORMS:
            raise UserError(f"models.yaml, {name}: prompt {entry['prompt']} is unknown. Use {' or '.join(PROMPT_FORMS)}.")
    return entries


def model_entry(name: str) -> dict:
    """The entry of models.yaml, plus `source`: the local folder or hub id to load from.

    `name` may also be a folder that holds a model (config.json, *.safetensors, tokenizer), `runs/...` being below the runs folder; its own name is the
    model's. Raises UserError for anything else.
    """
    entries = all_entries()
    if name in entries:
        entry = entries[name]
        return {**entry, "name": name, "source": str(paths.PACKAGE / entry["path"]) if "path" in entry else entry["hub_id"]}
    for folder in (Path(name), paths.resolve_run(name)):
        if (folder / "config.json").is_file():
            return {"name": folder.resolve().name, "source": str(folder.resolve()), "prompt": "alpaca"}
    raise UserError(f"model {name}: not an entry of models.yaml ({', '.join(entries)}) nor a folder with a config.json. Correct the name.")


def device_and_precision(precision: str = "auto") -> dict:
    """Where and how to compute here: `device` (cuda|cpu), `precision` (bf16|fp32), `threads` (torch is set to it).

    `auto` takes bf16 where the processor has instructions for it (a CUDA card that supports it; AMX or AVX512-BF16, as autocast over fp32
    weights) and fp32 elsewhere, where bf16 would be emulated. Threads: machine.set_threads.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        processor = torch.cpu.get_capabilities()
        fast = torch.cuda.is_bf16_supported() if device == "cuda" else bool(processor.get("amx_bf16") or processor.get("avx512_bf16"))
        precision = "bf16" if fast else "fp32"
    if precision not in ("bf16", "fp32"):
        raise UserError(f"precision {precision}: unknown. Use auto, bf16 or fp32.")
    return {"device": device, "precision": precision, "threads": machine.set_threads()}


def load_tokenizer(name: str):
    """The model's tokenizer, padding on the left (as generation needs it) with a pad token that is not the end token.

    A pad token equal to EOS would be masked out of the labels and the model would never learn to stop. Mistral has none: it gets `<unk>`,
    and a tokenizer without `<unk>` gets a new token, for which `load_model` makes room.
    """
    entry = model_entry(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(entry["source"], revision=entry.get("revision"), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(missing_weights(entry, error)) from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"model {name}: its tokenizer has no end token. Use a tokenizer with eos_token set.")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id != tokenizer.eos_token_id:
            tokenizer.pad_token = tokenizer.unk_token
        else:
            tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.padding_side = "left"
    tokenizer.init_kwargs["prompt_form"] = entry["prompt"]  # read by tasks.task.model_prompt
    if entry["prompt"] == "chat" and not tokenizer.chat_template:
        raise UserError(f"model {name}: models.yaml asks for the chat form and its tokenizer has no chat template. Write prompt: alpaca.")
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True  # long notes are cut into rows here, so the warning would mislead
    return tokenizer


def load_model(name: str, precision: str = "auto", load_in_4bit: bool = False):
    """The base model on this machine's device, in evaluation mode.

    bf16 on a CUDA card casts the weights; on a CPU the weights stay fp32 and the caller runs under autocast. `load_in_4bit` is NF4 with
    double quantisation (PAPER.md, instruction tuning) and needs bitsandbytes; it also works on a CPU, more slowly than without.
    Raises UserError where the weights or the library are missing.
    """
    entry, place = model_entry(name), device_and_precision(precision)
    quantization = quantization_config(place["device"], place["precision"]) if load_in_4bit else None
    dtype = torch.bfloat16 if place["device"] == "cuda" and place["precision"] == "bf16" else torch.float32
    model = read_weights(entry, dtype, quantization)
    tokenizer = load_tokenizer(name)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    agree_on_special_tokens(model, tokenizer)
    model.precision = place["precision"]  # read by generation: on a CPU bf16 means autocast over fp32 weights
    return model.eval() if load_in_4bit else model.to(place["device"]).eval()


def read_weights(entry: dict, dtype: torch.dtype, quantization=None):
    """from_pretrained with the project's safety settings; the one place that reads base weights."""
    card = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    try:
        return AutoModelForCausalLM.from_pretrained(
            entry["source"], revision=entry.get("revision"), dtype=dtype, use_safetensors=True, trust_remote_code=False,
            attn_implementation="sdpa", quantization_config=quantization, device_map={"": card} if quantization else None,
        )
    except (OSError, ValueError) as error:
        raise UserError(missing_weights(entry, error)) from None


def agree_on_special_tokens(model, tokenizer) -> None:
    """Model and generation config stop, start and pad where the tokenizer does; sampling settings of a base's generation config are dropped."""
    for config in (model.config, model.generation_config):
        config.pad_token_id, config.bos_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id
    model.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None)


def quantization_config(device: str, precision: str = "bf16") -> BitsAndBytesConfig:
    """NF4, double quantisation, bf16 compute: the 4-bit loading of the released code. On a CPU it computes in `precision`, which is fp32 on most.

    In a process that holds only a part of the weights they are stored in the type that computes (https://huggingface.co/docs/peft/accelerate/fsdp).
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise UserError("load_in_4bit: the library bitsandbytes is not installed. Run `pip install bitsandbytes`, or set load_in_4bit: false.") from None
    compute = torch.bfloat16 if device == "cuda" or precision == "bf16" else torch.float32
    # FSDP cuts flat tensors of one floating type: packed as bytes, the library's default, the 4-bit weights would not be cut at all
    storage = compute if machine.sharded() else torch.uint8
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute, bnb_4bit_quant_storage=storage)


def missing_weights(entry: dict, error: Exception) -> str:
    """The sentence for weights that cannot be read; the library's own text is cut to its first line."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    if "hub_id" not in entry:
        return f"model {entry['name']}: {entry['source']} cannot be read as safetensors ({reason}). Restore the folder."
    if entry.get("weights") == "pickle" and "safetensors" in reason:
        return (f"model {entry['name']}: {entry['hub_id']} offers pickled weights only, which are never opened here. "
                "Have https://huggingface.co/spaces/safetensors/convert convert it and set `revision` in models.yaml to the pull request it opens.")
    accept = f"accept the licence on https://huggingface.co/{entry['hub_id']}, run `hf auth login`, then " if entry.get("gated") else ""
    return f"model {entry['name']}: the weights are not on this machine ({reason}). Remedy: {accept}`hf download {entry['hub_id']}` ({entry['gb']} GB)."


def sha256(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def base_revision(name: str, model=None) -> str:
    """What pins the base: the digest of a local folder's weights, or the hub commit that `model` was loaded from (models.yaml's without one)."""
    entry = model_entry(name)
    if Path(entry["source"]).is_dir():
        digests = "".join(sha256(file) for file in sorted(Path(entry["source"]).glob("*.safetensors")))
        return "sha256:" + hashlib.sha256(digests.encode()).hexdigest()
    commit = None if model is None else model.config._commit_hash
    return commit or entry["revision"]


def stage_dir(run_dir: Path, entry: dict, stage: str) -> Path:
    """Folder of a finished stage."""
    return Path(run_dir) / "models" / entry["name"] / stage


def library_versions() -> dict:
    """Versions of the libraries that decide what training computes."""
    return {name: version(name) for name in ("torch", "transformers", "trl", "peft")}


def weights_file(stage_dir: Path) -> Path:
    """The file of a stage's own weights: an adapter, or all weights of a fully tuned one; UserError if there is neither."""
    for name in (ADAPTER, WHOLE):
        if (Path(stage_dir) / name).is_file():
            return Path(stage_dir) / name
    raise UserError(f"stage {stage_dir}: neither {ADAPTER} nor {WHOLE} is in it. Train that stage first.")


def read_card(model_dir) -> dict:
    """`cancerllm.json` of a stage; UserError if the folder is not a finished stage."""
    path = Path(model_dir) / CARD
    if not path.is_file():
        raise UserError(f"model folder {model_dir}: no {CARD} in it. Name a finished stage such as runs/<profile>/models/<model>/cpt-sft.")
    weights_file(model_dir)
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"file {path}, line {error.lineno}: not JSON. Train the stage again.") from None


def load_stage(model_dir, precision: str = "auto", load_in_4bit: bool = False):
    """(model, tokenizer, card) of a tuned stage, ready for generation: every adapter merged in order, or the whole weights of a fully tuned one.

    Merging happens in fp32 and the result is cast or quantised afterwards: merged in bf16, 2 % of the top tokens change. Raises UserError when
    the base or an earlier stage is not the one this stage was trained on.
    """
    model_dir, card = Path(model_dir), read_card(model_dir)
    revision = base_revision(card["base"])
    if revision.startswith("sha256:") and revision != card["base_revision"]:
        raise UserError(f"model folder {model_dir}: the base {card['base']} has changed since this stage was trained. Train it again.")
    place = device_and_precision(precision)
    model = merged_model(card["base"], [model_dir / before["path"] for before in card["adapters_before"]] + [model_dir],
                         [before["sha256"] for before in card["adapters_before"]] + [card["adapter_sha256"]])
    model = to_card(model, place["precision"], load_in_4bit, model_dir.with_name(f".{model_dir.name}.merged"))
    model.precision = place["precision"]
    return model.eval(), load_tokenizer(card["base"]), card


def merged_model(base: str, stages: list[Path], digests: list[str] | None = None):
    """The base in fp32 on the CPU with `stages` laid on one after another: an adapter is merged, a fully tuned stage's weights take the base's place.

    `digests` (sha256 of each stage's weights file) are checked if given. The base is not read where the first stage is a fully tuned one.
    """
    tokenizer, model = load_tokenizer(base), None
    for stage, digest in zip(stages, digests or [None] * len(stages), strict=True):
        file = weights_file(stage)
        if digest and sha256(file) != digest:
            raise UserError(f"stage {stage}: its weights have changed since it was trained, or since the stage on top was. Train both again.")
        if file.name == WHOLE:
            model = read_weights({"name": stage.name, "source": str(stage)}, torch.float32)
        else:
            model = PeftModel.from_pretrained(base_in_fp32(base, tokenizer) if model is None else model, str(stage)).merge_and_unload()
    model = base_in_fp32(base, tokenizer) if model is None else model
    agree_on_special_tokens(model, tokenizer)
    return model


def base_in_fp32(base: str, tokenizer):
    """The base's weights in fp32 on the CPU, with room for every token of its tokenizer."""
    model = read_weights(model_entry(base), torch.float32)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    return model


def to_card(model, precision: str, load_in_4bit: bool, cache: Path):
    """A merged fp32 model where it is to compute: cast onto the CUDA card if there is one, in fp32 on a CPU, or quantised to 4 bits.

    Quantising goes by way of a copy in the folder `cache`, which is deleted again.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(torch.bfloat16 if device == "cuda" and precision == "bf16" else torch.float32)
    if not load_in_4bit:
        return model.to(device)
    quantization, dtype = quantization_config(device, precision), model.dtype
    try:
        model.save_pretrained(cache, safe_serialization=True)
        return read_weights({"name": cache.name, "source": str(cache)}, dtype, quantization)
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def meta_model(name: str):
    """The model's shape on the meta device: no weights, no memory, no network."""
    entry = model_entry(name)
    try:
        config = AutoConfig.for_model(**entry["config"]) if "config" in entry else AutoConfig.from_pretrained(entry["source"], trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(missing_weights(entry, error)) from None
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def parameter_count(name: str) -> int:
    """Number of parameters of a base model."""
    return meta_model(name).num_parameters()


def count_trainable(name: str, lora_r: int, target_modules: str | list[str]) -> int:
    """Number of parameters that LoRA would train.

    Mistral-7B gives 20,971,520 at r 8 on all linear layers and 27,262,976 at r 64 on q and v (PAPER.md).
    """
    return sum(p.numel() for p in meta_adapter(name, lora_r, target_modules).parameters() if p.requires_grad)


def meta_adapter(name: str, lora_r: int, target_modules: str | list[str]) -> PeftModel:
    """The model with a fresh LoRA adapter, on the meta device."""
    with torch.device("meta"):
        return get_peft_model(meta_model(name), LoraConfig(r=lora_r, target_modules=target_modules, task_type="CAUSAL_LM"))


def adapter_shapes(name: str, lora_r: int, target_modules: str | list[str]) -> pd.DataFrame:
    """One row per kind of adapted layer: module, A shape, B shape, parameters per layer, layers, total. The totals add up to `count_trainable`."""
    rows = {}
    for path, module in meta_adapter(name, lora_r, target_modules).named_modules():
        if hasattr(module, "lora_A") and module.lora_A:
            a, b = tuple(module.lora_A["default"].weight.shape), tuple(module.lora_B["default"].weight.shape)
            rows.setdefault((path.rpartition(".")[2], a, b), []).append(a[0] * a[1] + b[0] * b[1])
    return pd.DataFrame(
        [{"module": module, "A shape": f"{a[0]} x {a[1]}", "B shape": f"{b[0]} x {b[1]}", "parameters per layer": sizes[0], "layers": len(sizes), "total": sum(sizes)}
         for (module, a, b), sizes in rows.items()]
    )  # fmt: skip


def weight_bytes(entry: dict, load_in_4bit: bool = False, precision: str = "bf16") -> float:
    """Bytes of the base weights: 2 each in bf16, 4 in fp32; in NF4 the linear layers take 0.516 each, embeddings, norms and head stay in bf16."""
    network = meta_model(entry["name"])
    total = network.num_parameters()
    if not load_in_4bit:
        return total * (2 if precision == "bf16" else 4)
    linear = sum(p.numel() for n, p in network.named_parameters() if n.endswith("_proj.weight"))
    return NF4_BYTES * linear + 2 * (total - linear)


def training_memory(entry: dict, tuning: str = "lora", load_in_4bit: bool = False, trainable: int = 0, batch: int = 4, max_length: int = 1024,
                    gradient_checkpointing: bool = False, precision: str = "bf16", optim: str = "adamw_torch",
                    target_modules: str | list[str] = "all-linear") -> float:  # fmt: skip
    """GiB of GPU memory that training takes on one card, an estimate good to about a fifth: the sum of

    weights: `weight_bytes` and 4 bytes per LoRA parameter (PEFT keeps adapters in fp32); all in fp32 where tuning is full.
    gradients: 4 bytes per trained parameter. optimizer: two states of 4 bytes per trained parameter, of 1 byte with an 8-bit optimizer.
    activations, per token (batch x max_length): KEPT_BYTES for every layer; with gradient checkpointing only each layer's input and one layer in
    full; and 14 bytes per vocabulary entry for the logits (bf16, fp32 and their gradients). CUDA itself: 1 GiB.
    entry: of `model_entry`; trainable: LoRA's parameters (`count_trainable`), ignored where tuning is full.
    """
    config, full = meta_model(entry["name"]).config, tuning == "full"
    trainable = parameter_count(entry["name"]) if full else trainable
    weights = 4 * trainable if full else weight_bytes(entry, load_in_4bit, precision) + 4 * trainable
    states = trainable * 2 * (1 if "8bit" in optim else 4)
    by_hidden, by_intermediate = KEPT_BYTES[precision, "full" if full else "every" if target_modules == "all-linear" else "some"]
    layer = by_hidden * config.hidden_size + by_intermediate * config.intermediate_size
    inputs = config.num_hidden_layers * config.hidden_size * (2 if precision == "bf16" else 4)
    kept = inputs + layer if gradient_checkpointing else config.num_hidden_layers * layer
    activations = batch * max_length * (kept + 14 * config.vocab_size)
    return (weights + 4 * trainable + states + activations) / GIB + CUDA_GIB


def training_hours(entry: dict, tokens: float, tuning: str = "lora", flops_per_second: float = 4e14, gradient_checkpointing: bool = False) -> float:
    """Hours to train on `tokens` tokens: N parameters cost 4N floating-point operations per token with LoRA (forward 2N, gradients of activations 2N),
    6N where all weights are trained, 2N more where activations are computed twice.

    flops_per_second: what is reached, not the card's peak (4e14 is 40 % of an H100's dense bf16).
    """
    per_token = (4 if tuning == "lora" else 6) + (2 if gradient_checkpointing else 0)
    return per_token * parameter_count(entry["name"]) * tokens / flops_per_second / 3600


def generation_memory(entry: dict, load_in_4bit: bool = False, batch: int = 16, length: int = 1600, precision: str = "bf16") -> float:
    """GiB of GPU memory to generate: weights, the key-value cache of `batch` sequences of `length` tokens (2 x layers x key-value width x 2 bytes), 1 GiB for CUDA."""
    config = meta_model(entry["name"]).config
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * (2 if precision == "bf16" else 4)
    return (weight_bytes(entry, load_in_4bit, precision) + batch * length * cache) / GIB + CUDA_GIB


def generation_hours(entry: dict, answers: int, prompt_tokens: float = 600, new_tokens: float = 10, batch: int = 16, flops_per_second: float = 4e14,
                     bytes_per_second: float = 1.5e12) -> float:  # fmt: skip
    """Hours for greedy answers: reading the prompts costs 2N operations per token, each further token of a batch reads all weights once.

    flops_per_second and bytes_per_second: what is reached, not the card's peak (the defaults are about half an H100's).
    """
    prompts = 2 * parameter_count(entry["name"]) * prompt_tokens * answers / flops_per_second
    return (prompts + weight_bytes(entry) * new_tokens * answers / batch / bytes_per_second) / 3600
