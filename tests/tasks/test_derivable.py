"""The share of stage groups that published tables decide, on four invented reports."""

import pandas as pd
import pytest

from cancerllm_utils.tasks import derivable

PATIENTS = [  # text, pT, pT_sub, pN, pM, recorded group
    ("Lobectomy of the right upper lobe. pT1a pN0.", "T1", "T1a", "N0", "M0", "I"),          # decided by both, both right
    ("Lobectomy of the left upper lobe. pT1a pN1.", "T1", "T1a", "N1", "M1", "IV"),          # the text does not tell the metastasis: II
    ("Lobectomy, categories are not given.", "T2", "T2b", "N0", "", "II"),                   # the registry alone
    ("Lobectomy of the right lower lobe. pT3 pN0.", "", "", "", "", "II"),                   # the text alone
]


def write_run(folder, stage_field="stage_ajcc"):
    notes = pd.DataFrame([{"note_id": f"p{i}-r1", "patient_id": f"p{i}", "site": "S", "institution": "H", "note_type": "surgical pathology report", "cancer_type": "LUAD",
                           "date": "", "text": row[0], "source": "invented"} for i, row in enumerate(PATIENTS)])
    known = [(f"p{i}", field, value) for i, row in enumerate(PATIENTS) for field, value in zip(("pT", "pT_sub", "pN", "pM", stage_field), row[1:], strict=True) if value]
    labels = pd.DataFrame([(f"p{i}", f"p{i}-r1", field, "uncertain", None, None, None, dict(zip(("pT", "pN"), (row[1], row[3]), strict=True))[field] or None)
                           for i, row in enumerate(PATIENTS) for field in ("pT", "pN")],
                          columns=["patient_id", "note_id", "field", "evidence", "stated_value", "quote_start", "quote_end", "registry_value"])
    (folder / "corpus").mkdir()
    notes.to_parquet(folder / "corpus" / "notes.parquet")
    labels.astype({"quote_start": "Int64", "quote_end": "Int64", "stated_value": "str"}).to_parquet(folder / "corpus" / "labels.parquet")
    pd.DataFrame(known, columns=["patient_id", "field", "registry_value"]).to_parquet(folder / "corpus" / "registry.parquet")
    pd.DataFrame({"patient_id": notes["patient_id"], "split": ["train", "train", "dev", "dev"]}).to_parquet(folder / "corpus" / "splits.parquet")
    return folder


def test_the_shares_are_those_counted_by_hand(tmp_path):
    table = derivable.stage_table(write_run(tmp_path), "tcga")
    assert list(table.columns) == derivable.COLUMNS and table["cancer_type"].tolist() == ["LUAD", "all"]
    row = table.iloc[1]
    assert (row["n"], row["most common"], row["share"]) == (4, "II", 0.5)
    assert (row["registry: decided"], row["registry: agree"]) == (0.75, 1.0)
    assert row["text: decided"] == 0.75 and row["text: agree"] == pytest.approx(2 / 3)


def test_a_corpus_without_stage_groups_has_an_empty_table(tmp_path):
    assert derivable.stage_table(write_run(tmp_path, "stage_of_nothing"), "tcga").empty
