"""Stage groups against the printed tables, and the rules for fields that are predicted, never extracted; all sentences are invented."""

import re

import pytest

from cancerllm_utils.corpus import labels, reading_registry
from cancerllm_utils.corpus.reading_registry import TABLES, stage_group


@pytest.mark.parametrize(
    ("cancer", "t", "n", "m", "group"),
    [
        ("LUAD", "T1", "N0", "", "I"), ("LUAD", "T2a", "N0", "M0", "I"), ("LUAD", "T2b", "N0", "", "II"), ("LUAD", "T2", "N0", "", "I"), ("LUSC", "T4", "N1", "", "III"),
        ("LUSC", "T1", "N3", "", "III"), ("LUAD", "T1", "N0", "M1", "IV"),
        ("COAD", "T2", "N0", "", "I"), ("COAD", "T4a", "N0", "", "II"), ("READ", "", "N1", "", "III"), ("READ", "T3", "", "", ""), ("COAD", "", "N0", "", ""),
        ("BRCA", "T2", "N1", "", "II"), ("BRCA", "T3", "N1", "", "III"), ("BRCA", "T1", "N3", "", "III"), ("BRCA", "T4", "N0", "", "III"),
        ("BLCA", "T4a", "N0", "", "III"), ("BLCA", "T4b", "N0", "", "IV"), ("BLCA", "T4", "N0", "", ""), ("BLCA", "T1", "N2", "", "IV"),
        ("KIRC", "T3a", "N0", "MX", "III"), ("KIRP", "T2", "N1", "", "III"), ("KICH", "T4", "", "", "IV"), ("HNSC", "T4a", "N0", "", "IV"), ("HNSC", "T2", "N1", "", "III"),
        ("LIHC", "T3b", "N0", "", "III"), ("LIHC", "T1", "N1", "", ""), ("PAAD", "T3", "N1", "", "II"), ("PAAD", "T3", "N0", "", "II"), ("PAAD", "T4", "N0", "", "III"),
        ("CESC", "T1b", "N1", "", "I"), ("UCEC", "T1a", "N0", "", "I"), ("UCEC", "T1a", "N1", "", "III"), ("OV", "T3c", "", "", "III"), ("OV", "T1c", "N0", "", "I"),
        ("PRAD", "T2", "N0", "", ""), ("GBM", "", "", "M1", ""), ("LUAD", "", "", "", ""),
    ],
)  # fmt: skip
def test_stage_groups_are_those_of_the_manual(cancer, t, n, m, group):
    assert stage_group(cancer, t, n, m) == group


def test_the_tables_are_well_formed_and_every_plain_pair_has_a_group():
    """Every T and N category is decided or named by at least one entry: no pair falls through the table."""
    assert set(TABLES["groups"]) == set(labels.PREDICTED["stage_ajcc"]["cancers"]) | set(labels.PREDICTED["stage_figo"]["cancers"])
    for cancer, table in TABLES["groups"].items():
        assert set(table) <= {"I", "II", "III", "IV"}
        for pairs in table.values():
            assert all(re.fullmatch(r"(?:\*|T[1-4][ab]?) (?:\*|N[0-3])", pair) for pair in pairs), cancer
        highest = max(pair.split()[1] for pairs in table.values() for pair in pairs)
        for t in ("T1", "T2", "T3", "T4"):
            for n in ("N0", "N1", "N2", "N3"):
                reached = [group for group, pairs in table.items() for pair in pairs if reading_registry.allows(pair.split()[0], t) and reading_registry.allows(pair.split()[1], n)]
                assert reached or n > highest or cancer == "OV", (cancer, t, n)
    assert set(TABLES["by_icd10"].values()) <= {"", *TABLES["groups"]}


@pytest.mark.parametrize(
    ("text", "field", "cancer", "value"),
    [
        ("Lobectomy. pT2b pN0.", "stage_ajcc", "LUAD", "II"), ("Lobectomy. pT1a pN0 pMX.", "stage_ajcc", "LUAD", "I"), ("Lobectomy. pT1a pN0 pM1.", "stage_ajcc", "LUAD", "IV"),
        ("Lobectomy. pT1a pN0, block M1.", "stage_ajcc", "LUAD", "I"), ("Two tumors: pT1 and pT3, pN0.", "stage_ajcc", "LUAD", None), ("A lobe.", "stage_ajcc", "LUAD", None),
        ("Uterus: pT1a pN0.", "stage_figo", "UCEC", "I"), ("pT3 pN1 pM0", "pM", "COAD", "M0"), ("pT3N1M1", "pM", "COAD", "M1"), ("pT3 pN1 pMX", "pM", "COAD", None),
        ("Slides M1 and M2.", "pM", "COAD", None), ("pT3 pN1.", "node_status", "COAD", "Positive"), ("pT3 pN0.", "node_status", "COAD", "Negative"),
        ("pT3 pNX.", "node_status", "COAD", None), ("A tumor of the cecum.", "colon_segment", "COAD", "Cecum"),
        ("Cecum and ascending colon received. Tumor site: ascending colon.", "colon_segment", "COAD", "Ascending colon"), ("The rectosigmoid.", "colon_segment", "READ", "Rectosigmoid junction"),
        ("Resection R1.", "residual_tumor", "PAAD", "R1"), ("Blocks R0 and R1.", "residual_tumor", "PAAD", None), ("Right lung.", "icd10", "LUAD", None),
    ],
)  # fmt: skip
def test_what_rules_tell_of_a_predicted_field(text, field, cancer, value):
    read = labels.read(text, field, cancer)
    assert read["value"] == value and read["evidence"] == ("stated" if value else "uncertain")
    assert (read["start"] is None) == (value is None)


@pytest.mark.parametrize(
    ("text", "group"),
    [("Right breast carcinoma, pT2 pN1.", "II"), ("Right breast carcinoma, pT2 pN1. Distant metastases are present.", "IV"), ("Right breast carcinoma.", None)],
)
def test_a_synthetic_note_finds_its_table_by_the_organ(text, group):
    assert labels.read_synthetic(text, "stage_ajcc")["value"] == group


def test_predicted_fields_are_no_labels():
    assert {"stage_ajcc", "pM", "pT"} <= labels.RULED and "icd10" not in labels.RULED and {"stage_figo", "icd10"} <= labels.SYNTHETIC_RULED
    assert not set(labels.PREDICTED) & set(labels.FIELDS) and set(reading_registry.RULES) <= set(labels.PREDICTED)
    assert "stage_ajcc" not in labels.read_all("pT1 pN0", "LUAD") and labels.FIELD_VALUES["stage_figo"] == ["I", "II", "III", "IV"]
