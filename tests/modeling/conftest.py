"""A tiny random Mistral with its own byte-level tokenizer, and a run folder of invented notes and examples: no network, no embedded weights."""

import json

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

SITES = ["breast", "lung", "colon", "kidney", "bladder", "prostate"]
SIDES = ["Right", "Left"]


def note_text(i: int) -> str:
    return f"Specimen {i}: {SIDES[i % 2].lower()} {SITES[i % 6]}. A tumor of {i % 9 + 1}.{i % 7} cm was found in the {SITES[i % 6]} and removed. Margins are clear. " * (i % 3 + 1)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory):
    """Folder of a 2-layer Mistral (hidden 32, vocabulary 400) and its tokenizer; pad, bos and eos differ."""
    folder = tmp_path_factory.mktemp("tiny_model")
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    raw.train_from_iterator([note_text(i) for i in range(60)] + ["### Response:\nRight", "not stated"], trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        max_position_embeddings=512, sliding_window=None, tie_word_embeddings=True, initializer_range=0.1, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )
    MistralForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tiny_model_dir):
    """Model and tokenizer with weights large enough that greedy answers are neither all alike nor at a tie."""
    from cancerllm_utils.modeling.models import load_model, load_tokenizer

    model, tokenizer = load_model(tiny_model_dir, "fp32"), load_tokenizer(tiny_model_dir)
    torch.manual_seed(1)
    for weight in model.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    return model, tokenizer


def write_examples(path, n: int, start: int) -> None:
    rows = []
    for i in range(start, start + n):
        prompt = f"### Instruction:\nAnswer.\n\n### Input:\nIn the text: {note_text(i)[:80]} What is the laterality?\n\n### Response:\n"
        rows.append({"example_id": f"e{i}", "patient_id": f"p{i // 2}", "note_id": f"n{i}", "task": "phenotype_extraction", "field": "laterality",
                     "prompt": prompt, "completion": SIDES[i % 2], "answers": [SIDES[i % 2]]})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def tiny_run(tmp_path):
    """A run folder: 40 invented notes of 20 patients (15 train, 5 dev) and laterality examples."""
    (tmp_path / "corpus").mkdir()
    pd.DataFrame({"patient_id": [f"p{i // 2}" for i in range(40)], "note_id": [f"n{i}" for i in range(40)], "cancer_type": [("BRCA", "LUAD")[i % 2] for i in range(40)], "text": [note_text(i) for i in range(40)]}).to_parquet(tmp_path / "corpus" / "notes.parquet")
    pd.DataFrame({"patient_id": [f"p{i}" for i in range(20)], "split": ["train"] * 15 + ["dev"] * 5}).to_parquet(tmp_path / "corpus" / "splits.parquet")
    write_examples(tmp_path / "datasets" / "phenotype_extraction" / "train.jsonl", 24, 0)
    write_examples(tmp_path / "datasets" / "phenotype_extraction" / "dev.jsonl", 8, 30)
    return tmp_path
