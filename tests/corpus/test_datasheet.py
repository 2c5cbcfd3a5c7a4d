"""The datasheet of an invented run: the sections of Gebru et al., counts from the files, no word of a note."""

import json

import pandas as pd
import pytest

from cancerllm_utils.corpus import datasheet
from cancerllm_utils.errors import UserError
from tests import invented_results

SECTIONS = ["Motivation", "Composition", "Collection", "Preprocessing, cleaning, labelling", "Uses", "Distribution", "Maintenance"]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    notes = invented_results.notes().assign(date=["2019-05-01", ""] * 60)
    notes.to_parquet(folder / "notes.parquet")
    invented_results.splits().to_parquet(folder / "splits.parquet")
    invented_results.labels().to_parquet(folder / "labels.parquet")
    pd.DataFrame({"patient_id": [f"p{i}" for i in range(60)], "cancer_type": "BRCA", "age": ["61", ""] * 30}).to_parquet(folder / "patients.parquet")
    (folder / "flow.json").write_text(
        json.dumps(
            [
                {"step": "rows | read", "n_reports": 131, "n_patients": 61, "note": ""},
                {"step": "kept", "n_reports": 120, "n_patients": 60, "dropped": 11, "note": "too short"},
            ]
        )
    )
    (folder / "scrubbed.json").write_text(json.dumps({"uuid": 7, "stamp": 1900}))
    (folder / "quarantine.jsonl").write_text('{"file": "a", "line": 1, "reason": "no text", "sha256": "0"}\n' * 3)
    pd.DataFrame({"kind": ["person", "date"], "found": [4, 0], "notes": [3, 0]}).to_csv(folder / "identifiers.csv", index=False)
    pd.DataFrame({"note_id": ["n0", "n1"], "group": [1, 1], "kept": [True, False], "jaccard": [1.0, 1.0], "kind": "exact"}).to_csv(
        folder / "duplicates.csv", index=False
    )
    quality = pd.DataFrame(
        {"note_id": notes["note_id"], "words": 90, "ocr_noise": [0.01, 0.03, 0.2] * 40, "language": "en", "organs": [1, 1, 2] * 40, "t_categories": 1}
    )
    quality.to_parquet(folder / "quality.parquet")
    return tmp_path


def test_sections_and_counts(run):
    path = datasheet.write(run, "synthetic", {"seed": 7, "data_dir": "/somewhere/private", "n_patients": 60})
    text = path.read_text(encoding="utf-8")
    assert path.name == "DATASHEET.md" and [line[3:] for line in text.splitlines() if line.startswith("## ")] == SECTIONS
    for said in ("120 notes of 60 patients, 4 institutions, 6 sites, 3 cancer types", "60 notes carry a date, from 2019 to 2019", "| train | 60 | 30 | 4 |", "| age | 30 | 30 |",
                 "| grade | 120 | 90 | 0 | 30 | 120 |", "| kept | 120 | 60 | 11 | too short |", "rows / read", "3 damaged rows", "| stamp | 1,900 |", "| person | 4 | 3 |",
                 "no claim of de-identification", "1 groups of equal or nearly equal notes hold 2 notes; 1 are marked", "clean 40, some 40, heavy 40", "40 notes name two organs",
                 "seed = 7", "Apache-2.0"):  # fmt: skip
        assert said in text, said
    assert "private" not in text, "a folder may name an institution's server"


def test_no_text_of_a_note(run):
    text = datasheet.write(run, "local").read_text(encoding="utf-8").lower()
    words = invented_results.SECRET.split()
    assert not any(" ".join(words[i : i + 4]) in text for i in range(len(words) - 3))


@pytest.mark.parametrize("corpus", [*datasheet.prose()["corpora"], "civic"])
def test_every_corpus_states_licence_and_limits(run, corpus):
    text = datasheet.write(run, corpus).read_text(encoding="utf-8")
    assert (
        "Licence: " in text
        and "Limits: " in text
        and "Not for: " in text
        and "None" not in text.replace("Labels. None.", "").replace("None stated by the authors", "")
    )


def test_the_prose_types_no_count():
    said = json.dumps(datasheet.prose()).replace("notebook 01", "")
    assert not any(word.strip(".,;").isdigit() for word in said.split())


def test_a_corpus_with_the_bare_minimum(run):
    for name in ("quality.parquet", "duplicates.csv", "identifiers.csv", "scrubbed.json", "quarantine.jsonl"):
        (run / "corpus" / name).unlink()
    invented_results.labels().iloc[:0].to_parquet(run / "corpus" / "labels.parquet")
    text = datasheet.write(run, "local").read_text(encoding="utf-8")
    assert "Labels. None." in text and "No search for identifiers was run" in text


def test_a_run_without_corpus(tmp_path):
    with pytest.raises(UserError, match="run notebook 01"):
        datasheet.write(tmp_path, "synthetic")
