"""A byte-level BPE tokenizer in the shape of the embedded base's, trained on invented sentences, and a small invented corpus."""

import pandas as pd
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "Specimen: right kidney, radical nephrectomy.", "The tumor measures 4.5 x 3.2 x 3.0 cm.", "Clear cell carcinoma, Fuhrman grade 2.",
    "Below is an instruction that describes a task, paired with an input that provides further context.", "### Response:\n", "### Input:\n",
    "not stated", "What is the pT category in the given context?",
]


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory):
    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(SENTENCES * 20, trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_dir)


@pytest.fixture
def invented_run(tmp_path):
    return write_invented_run(tmp_path)


@pytest.fixture(scope="module")
def invented_run_of_the_module(tmp_path_factory):
    """The same, written once; its tests only read it."""
    return write_invented_run(tmp_path_factory.mktemp("run"))


def write_invented_run(tmp_path):
    """A run folder with 60 patients of two cancers: pT in half of the reports, laterality in all, histology as the registry has it."""
    notes, labels, splits = [], [], []
    rings = ["train"] * 6 + ["dev", "test", "external_site", "external"]
    for number in range(60):
        patient, cancer = f"P{number:03d}", ["KIRC", "PRAD"][number % 2]
        side, stage = ["Right", "Left"][(number // 2) % 2], f"T{1 + number % 4}"
        stated = (number // 3) % 2 == 1
        text = (f"Specimen: {side.lower()} organ, resection.\nGross description: A firm mass of {number % 7 + 1}.5 cm bulges from the cut surface of the organ.\n"
                f"Microscopic: {'clear cell renal cell carcinoma' if cancer == 'KIRC' else 'acinar adenocarcinoma'} with necrosis.\n"
                + (f"Pathologic category p{stage}.\n" if stated else "Margins are free.\n") + "The cassettes are listed below for the file. " * 6)
        notes.append({"note_id": f"{patient}-r1", "patient_id": patient, "site": "S1", "institution": f"hospital {rings[number % 10]}",
                      "note_type": "surgical pathology report", "cancer_type": cancer, "date": "", "text": text, "source": "invented"})
        splits.append({"patient_id": patient, "split": rings[number % 10]})
        diagnosis = "clear cell renal cell carcinoma of the kidney" if cancer == "KIRC" else "acinar adenocarcinoma of the prostate"

        def label(field, evidence, value, quote, registry, patient=patient, text=text):
            start = text.find(quote) if quote else None
            labels.append({"patient_id": patient, "note_id": f"{patient}-r1", "field": field, "evidence": evidence, "stated_value": value, "quote_start": start,
                           "quote_end": None if start is None else start + len(quote), "registry_value": registry})
        label("pT", "stated" if stated else "not_stated", stage if stated else None, f"p{stage}" if stated else None, stage if number % 10 else None)
        label("laterality", "uncertain" if number % 5 == 4 else "stated", side, side.lower(), side)
        label("diagnosis", "stated", diagnosis, diagnosis.split(" of the ")[0], diagnosis)
    folder = tmp_path / "corpus"
    folder.mkdir()
    pd.DataFrame(notes).to_parquet(folder / "notes.parquet")
    pd.DataFrame(labels).astype({"quote_start": "Int64", "quote_end": "Int64"}).to_parquet(folder / "labels.parquet")
    pd.DataFrame(splits).to_parquet(folder / "splits.parquet")
    return tmp_path
