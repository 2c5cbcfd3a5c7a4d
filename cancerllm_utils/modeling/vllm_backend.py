"""vLLM as another engine for 05_prediction on a CUDA card: the same prompts, the same weights, the same rows; imported only when it is asked for.

vLLM puts its own batches together as answers end, so in bf16 an answer can change from run to run as it can with the batch size
(generation.batch_agreement); a comparison of models should use one engine for all. https://docs.vllm.ai, class LLM.
"""

import gc
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoConfig

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import models

BATCH_SIZE = 2048  # prompts handed over at once: vLLM fills its own batches, and a killed run loses one such part at most
MAX_MODEL_LEN = 4096  # tokens of prompt and answer; the longest of the study is the paper's 4,000, and vLLM reserves memory for whatever is allowed


def library():
    """The vllm module; UserError where it is not installed."""
    try:
        import vllm
    except ImportError:
        raise UserError("backend vllm: the library vllm is not installed. Install it in an environment of its own, since it brings its own torch "
                        "(`pip install vllm`, CUDA card needed), or set backend: transformers.") from None
    return vllm


def check(decoding: str, load_in_4bit: bool = False) -> None:
    """UserError where vLLM cannot serve: answers are to be ranked, weights to be quantised, or it is not installed."""
    if decoding != "greedy":
        raise UserError(f"decoding {decoding}: vLLM generates only. Set decoding: greedy, or backend: transformers.")
    if load_in_4bit:
        raise UserError("load_in_4bit: not with backend vllm. Set backend: transformers.")
    library()


def load(entry: dict, network, tokenizer, precision: str, cache: Path) -> SimpleNamespace:
    """The engine that `answer_batch` takes: engine, sampling, precision, limit (tokens of prompt and answer).

    network: a tuned stage as models.load_stage gives it, merged in fp32 and then cast; it is written to the folder `cache`, taken off the card, read by
    vLLM and deleted again. None: the base, which vLLM reads from where it lies. UserError where vLLM is missing.
    """
    vllm = library()
    source, revision = (entry["source"], entry.get("revision")) if network is None else (str(cache), None)
    try:
        if network is not None:
            precision = network.precision
            network.save_pretrained(cache, safe_serialization=True)
            tokenizer.save_pretrained(cache)
            network.to("meta")  # vLLM takes most of the card
            gc.collect()
            torch.cuda.empty_cache()
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        limit = min(MAX_MODEL_LEN, config.max_position_embeddings)
        dtype = {"bf16": "bfloat16", "fp32": "float32"}[models.device_and_precision(precision)["precision"]]
        engine = vllm.LLM(model=source, revision=revision, tokenizer_revision=revision, dtype=dtype, max_model_len=limit, load_format="safetensors",
                          generation_config="vllm", trust_remote_code=False, seed=0)
    finally:
        if network is not None:
            shutil.rmtree(cache, ignore_errors=True)
    return SimpleNamespace(engine=engine, sampling=vllm.SamplingParams, precision=dtype, limit=limit)


def answer_batch(model: SimpleNamespace, tokenizer, prompts: list[str], candidates: list[str], max_new_tokens: int) -> list[dict]:
    """Greedy answers as decoding.greedy_batch gives them: prediction, new_tokens (end token included), stop_reason (eos|length), seconds.

    The prompts are tokenised here, as in training, so that no second start token is added. UserError for a prompt that leaves no room.
    """
    assert not candidates, "vLLM does not rank: see check"
    begun, end = time.monotonic(), tokenizer.eos_token_id
    rows = tokenizer(prompts)["input_ids"]
    longest = max(map(len, rows))
    if longest + max_new_tokens > model.limit:
        raise UserError(f"a prompt of {longest} tokens and {max_new_tokens} for the answer: the model reads {model.limit}. Lower context_tokens.")
    params = model.sampling(temperature=0.0, max_tokens=max_new_tokens, stop_token_ids=[end])
    outputs = model.engine.generate([{"prompt_token_ids": ids} for ids in rows], params, use_tqdm=False)
    answers = []
    for output in outputs:
        ids = list(output.outputs[0].token_ids)
        ended = end in ids or output.outputs[0].finish_reason == "stop"
        ids = ids[: ids.index(end)] if end in ids else ids
        answers.append({"prediction": tokenizer.decode(ids, skip_special_tokens=True).strip(), "new_tokens": len(ids) + ended,
                        "stop_reason": "eos" if ended else "length"})
    seconds = round((time.monotonic() - begun) / len(prompts), 5)
    return [{**answer, "seconds": seconds} for answer in answers]
