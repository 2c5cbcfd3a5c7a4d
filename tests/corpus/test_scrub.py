"""What names a sample or gives a label away is gone, what is clinical stays. All texts here are invented."""

import itertools
import os
import random
import re
from pathlib import Path

import pytest

from cancerllm_utils.corpus import tcga
from cancerllm_utils.corpus.scrub import removed_spans, scrub, tidy

DATA = Path(os.environ.get("CANCERLLM_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not (DATA / "tcga" / "reports").is_dir(), reason="CANCERLLM_DATA holds no TCGA files")

REMOVED = [
    ("barcode", "TCGA-AB-1Z9Y-01A-PR"),
    ("barcode", "TCGA-AB-1Z9Y"),
    ("barcode", "TCGA -AB- 1Z9Y -91A -PR"),
    ("barcode", "TOGA-AB-1Z9]-61A-PR"),
    ("barcode", "TCGA AB 1Z9Y 01A PR"),
    ("barcode", "TCGA-AB-\n1Z9Y"),
    ("barcode", "CGA-AB-1234"),
    ("barcode", "TeGA -AB -1234"),
    ("barcode", "-07-1234"),
    ("barcode", "TOGA 07 A1Z9 S1A PR"),
    ("uuid", "UUID:01234567-89AB-4CDE-8F01-23456789ABCD"),
    ("uuid", "QUID:O1234567 -89AB-4CDE -8FO1-23456789A8CD"),
    ("uuid", "UUID 01234567 89AB 4CDE 8F01 23456789ABCD"),
    ("uuid", "01234567-89ab-4cde-8f01-23456789abcd"),
    ("uuid", "89AB-4CDE-8F01-23456789ABCD"),
    ("redaction_mark", "Redacted"),
    ("barcode_noise", "III IIIIII 11111 IIIlIII I II"),
    ("barcode_noise", "IIIIIIIHIIIIUIIIIIII"),
    ("icd", "8140/3"),
    ("icd", "M-8140/3"),
    ("icd", "M 814013"),
    ("icd", "C34.1"),
    ("icd", "C 67.9"),
    ("icd", "ICD-9(s): 174.9 174.8"),
    ("icd", "ICD-O-3"),
    ("icd", "ICD-9 CODES:\n174.9"),
    ("icd", "/Cb-o -3"),
    ("icd", "c34.1"),
    ("icd", "[185.1]"),
    ("snomed", "T-61000 M-81413"),
    ("snomed", "M-Y1234"),
    ("snomed", "P3-12345"),
    ("snomed", "SNOMED CODES"),
    ("snomed", "T 61000 M 81413"),
    ("snomed", "T61000, P10, M81413"),
]

KEPT = [
    "tumor 5.5 x 4.0 x 3.2 cm, pT2a pN0 (0/14), G2, R0",
    "T2N1MX, stage IIIA, Gleason 3 + 4 = 7, WHO grade III",
    "Block summary: A1-A3 margin, C43,44 prostate, C10 node, T2-5 lesion x 4",
    "Vertebra C3 and C4, T-cells, E-cadherin, P-53, CD10 and CD31 positive, block 1 CD10",
    "spleen 165.0 grams; uterus weighing 182.0 g; CPT 88305 and 88309/2",
    "Metastatic carcinoma in 3/17 nodes; fragments 1.1 x 0.9 cm; grade I, II or III",
    "These are two synchronous primaries, a discrepancy with the frozen section is noted.",
    "A qualified nurse saw her; the date was reviewed with her; 10/1 and 1111",
    "ER 90 % positive, PR negative, HER2 2+, Ki-67 30 to 35 %",
    "STAGE: RIGHT - T3N0M0, free; cT-2N0MX; M - T3 N0",
    "PRIOR MALIGNANCY: No.",
    "PRIOR MALIGNANCY- no, as she says. Rim negative for malignancy. Pattern: tubular.",
    "Both kidneys hold a mass, read here as synchronous primary tumors",
    "AORTOCAVAL LYMPHATICS open; CA 0 3 cm, block C-0-4",
    "No lymph node (0/1). II. Colon, right: adenocarcinoma.",
]

STAMP = """Criteria Yes No
Diagnosis Discrepancy
Primary Tumor Site Discrepancy
HIPAA Discrepancy
Prior Malignancy History
Dual/Synchronous Primary Noted
Case is (circle): QUALIFIED / DISQUALIFIED
Reviewer Initials ZZ Date Reviewed: 1/1"""

DAMAGED_STAMP = """Criter ia
D1agnosis Disrepancv
Prirnary Tum0r Site Discrepanry
HlPAA Dlscrepancy
Pri0r Malignancv Hist0ry
Duai/Synchronou5 Prirnary
Case is (circ1e ): UALIFIED / DISQUAL1FIED
Revlewer lnitials   te Reviewed:"""

FORM = """Pathologic Diagnosis Discrepancy Form V4
Tissue Source Site (TSS): TSS Identifier: Completed Date:
Pathologic Diagnosis Purple quokkoma
Provided on Initial Pathology Report provide all listed subtypes
Histologic features of purple quokkoma, striped
the sample provided as reflected on the CQCF Case Quality Control Form completed for this case
I acknowledge that the above is quality controlled
Principal Investigator Signature Date"""


@pytest.mark.parametrize(("kind", "text"), REMOVED)
def test_identifiers_and_codes_are_removed_and_counted(kind, text):
    scrubbed, removed = scrub(f"Mass of the lung. {text} Margins are free.")
    assert removed.get(kind, 0) >= 1
    assert scrubbed.replace("\n", " ").startswith("Mass of the lung.") and scrubbed.endswith("Margins are free.")
    left = scrubbed.removeprefix("Mass of the lung.").removesuffix("Margins are free.")
    assert not re.search(r"[0-9A-Za-z]{2}", left), left


@pytest.mark.parametrize("text", KEPT)
def test_clinical_text_is_unchanged(text):
    assert scrub(text) == (text, {})


@pytest.mark.parametrize("stamp", [STAMP, DAMAGED_STAMP, " ".join(STAMP.replace("/", " ").split())])
def test_check_stamp_is_removed_and_its_neighbours_stay(stamp):
    scrubbed, removed = scrub(f"Ovary, left: serous carcinoma, 4 cm.\n{stamp}\nLymph nodes: 2/11 positive.")
    assert removed["stamp"] >= 1
    assert scrubbed.startswith("Ovary, left: serous carcinoma, 4 cm.") and scrubbed.endswith("Lymph nodes: 2/11 positive.")
    for word in ("iscrep", "HIPAA", "ynchron", "QUAL", "nitials", "Malignan"):
        assert word not in scrubbed


def test_worse_damage_than_the_phrases_allow_goes_where_the_rest_of_the_stamp_stands():
    stamp = "Kriterja Z^ qq\nDiagnosis Discrepancy\nPr!mary Tumr S1te Dis^p\nXz~Rn ^y lMsm\nHIPAA Discrepancy\nC^se is (::c|r~)"
    head, tail = "Ovary, left: serous carcinoma, 4 cm.\n2.5 x 2.4 cm\n", "\nLymph nodes: 2/11 positive.\nNO TUMOR SEEN."
    assert scrub(head + stamp + tail)[0] == head.strip() + "\n\n" + tail.strip()


def test_handwriting_below_the_damaged_name_of_a_code_goes_and_the_report_stays():
    scrubbed, removed = scrub("Margins are free.\n(c8-O-3\nQ^w zz^ ~Nos ^8z0/3\nDIAGNOSIS:\nLung, T2 N1; 2.5 cm")
    assert removed == {"icd": 1} and scrubbed == "Margins are free.\n\nDIAGNOSIS:\nLung, T2 N1; 2.5 cm"


def test_removed_spans_and_what_stays_are_the_whole_text():
    rng = random.Random(1)
    pieces = [text for _, text in REMOVED] + KEPT + STAMP.split("\n") + DAMAGED_STAMP.split("\n") + FORM.split("\n") + ["\xad", "\x00", "\u200b", "\r\n"]
    for _ in range(200):
        text = "".join(rng.choice(pieces) + rng.choice([" ", "\n", "\t", "", "  "]) for _ in range(rng.randrange(2, 14)))
        spans = removed_spans(text)
        assert all(one["end"] <= two["start"] for one, two in itertools.pairwise(spans))
        gone = {at for span in spans for at in range(span["start"], span["end"])}
        left = "".join(character for at, character in enumerate(text) if at not in gone)
        assert "".join(tidy(left).split()) == "".join(scrub(text)[0].split())


def test_removed_span_names_kind_and_rule():
    text = "Lung.\t\tTCGA-AB-1Z9Y-01A-PR  free"
    assert removed_spans(text) == [{"start": 7, "end": 26, "kind": "barcode", "rule": "barcode"}]


def test_finding_on_a_line_of_the_stamp_stays():
    scrubbed, _ = scrub("HIPAA Discrepancy pT3 N1\nReviewer Initials 8. Left kidney: free")
    assert "pT3 N1" in scrubbed and "8. Left kidney: free" in scrubbed


def test_discrepancy_form_with_the_registry_diagnosis_is_removed():
    scrubbed, removed = scrub(f"Kidney, right: oncocytoma.\n{FORM}\nEnd of report")
    assert removed["form"] == 1 and "quokkoma" not in scrubbed
    assert scrubbed.startswith("Kidney, right: oncocytoma.") and scrubbed.endswith("End of report")


def test_white_space_is_collapsed_and_lines_stay():
    assert tidy("a \t b  \r\n\r\n\r\n\n c\xad\nd ") == "a b\n\nc-\nd"
    assert scrub("") == ("", {})


def test_scrubbing_twice_changes_nothing_more():
    rng = random.Random(0)
    pieces = [text for _, text in REMOVED] + KEPT + STAMP.split("\n") + DAMAGED_STAMP.split("\n") + FORM.split("\n") + ["III", "1", "TCGA", "C", "/3"]
    for _ in range(300):
        text = "".join(rng.choice(pieces) + rng.choice([" ", "\n", "\n\n", "", "  "]) for _ in range(rng.randrange(2, 14)))
        once, _ = scrub(text)
        assert scrub(once) == (once, {}), text


# Written apart from scrub.yaml: what a reader would search for to find a survivor.
INDEPENDENT = {
    "barcode": r"TCGA\W{0,3}\w{2}\W{1,3}\w{4}|TCGA",
    "uuid": r"(?i)[0-9a-f]{8}\W[0-9a-f]{4}\W[0-9a-f]{4}\W[0-9a-f]{4}\W[0-9a-f]{12}|\bUUID\b",
    "stamp": r"(?i)HIPAA Discrepancy|Primary Tumor Site Discrepancy|Dual/Synchronous Primary|Case is \(circle\)|Reviewer Initials|\bDISQUALIFIED\b",
    "form": r"Discrepancy Form|reflected on the CQCF",
    "icd_o": r"(?<!\d)[89]\d{3}/[0-9](?!\d)",
    "topography": r"\bC[0-7]\d\.\d\b",
    "snomed": r"\b[TM]-\d{5}\b|(?i:SNOMED)",
    "redacted": r"\bRedacted\b",
}


@needs_data
def test_nothing_survives_in_the_real_reports():
    survivors = dict.fromkeys(INDEPENDENT, 0)
    for text in tcga.load(DATA)["notes"]["text"]:  # all of them: about half a minute, only where the files are present
        scrubbed, _ = scrub(text)
        for kind, pattern in INDEPENDENT.items():
            survivors[kind] += bool(re.search(pattern, scrubbed))
    assert survivors == dict.fromkeys(INDEPENDENT, 0)  # counts only: no text of a report may reach a log
