"""The public texts: what is read, what is set aside, and what a letter's structured output says, on invented rows; and the real files' counts."""

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cancerllm_utils.corpus import public, public_silver
from cancerllm_utils.corpus.schema import NOTE_COLUMNS
from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import seen_text

DATA = Path(os.environ.get("CANCERLLM_DATA", "/nonexistent"))
LETTER = {
    "file": "data/api/breast_7.json",
    "site_prompt": "breast left",
    "text": "Diagnosis: left breast cancer. Invented for a test.",
    "output": {
        "primary_cancer": {
            "site": "breast, left", "year": 2020, "tnm_stage": "pT2aN1M0", "other_stage": "Stage IIB", "metastases": None,
            "histopathology_status": "Grade 3 invasive ductal carcinoma, 21mm", "biomarker_status": "ER/PR positive, HER2 2+ (FISH negative), Ki67 20%",
            "cancer_timeline": [{"type": "treatment_radiotherapy", "value": "Chest wall 40.05Gy in 15 fractions", "year": 2021}],
        },
        "patient_facts": [{"type": "performance_status", "value": "PS 0"}],
        "status_updates": [{"type": "update_to_treatment", "value": "Start letrozole"}, {"type": "update_to_treatment", "value": "Stop tamoxifen"}],
    },
}  # fmt: skip
ARTICLE = {"pmcid": "PMC1", "licence": "by/4.0", "oncology": False, "text": "TITLE: an invented trial of tea against coffee"}
QUESTION = {
    "url": "https://www.cancer.gov/types/breast/patient/invented-pdq", "source": "CancerGov", "focus": "Breast Cancer", "question_type": "outlook",
    "question": "What is the outlook for Breast Cancer ?", "answer": "An invented answer.",
}  # fmt: skip
EVIDENCE = {
    "gene": "BRAF", "variant": "V600E", "disease": "Skin Melanoma", "drugs": "Drugumab", "evidence_type": "Predictive", "evidence_direction": "Supports",
    "evidence_level": "B", "clinical_significance": "Sensitivity", "evidence_statement": 'An invented statement with a lone " in it.', "evidence_id": "7",
}  # fmt: skip
ROWS = {"letters": LETTER, "literature": ARTICLE, "cancergov": QUESTION, "civic": EVIDENCE}


def as_bytes(name: str, rows: list) -> bytes:
    """The rows as the source publishes them; bytes pass as they are."""
    if name == "civic":
        lines = ["\t".join(EVIDENCE), *("\t".join(row.values()) if isinstance(row, dict) else row for row in rows)]
    else:
        lines = [json.dumps(row) if not isinstance(row, bytes) else row for row in rows]
    return b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)


def write(folder: Path, name: str, content: bytes, zipped: bool = False) -> Path:
    path = folder / public_silver.settings()["sources"][name]["file"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.with_name(path.name + ".gz") if zipped else path
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


def consume(loaded: dict) -> list[dict]:
    """All rows; the sum of the flow must hold."""
    rows = [row for batch in loaded["batches"] for row in batch]
    first, second = loaded["flow"]
    assert first["n_reports"] == len(rows) + len(loaded["quarantined"])
    assert (second["n_reports"], second["dropped"]) == (len(rows), len(loaded["quarantined"]))
    return rows


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ROWS)
def test_a_row_becomes_a_note(tmp_path, name, zipped):
    path = write(tmp_path, name, as_bytes(name, [ROWS[name]]), zipped)
    loaded = public.read(name, tmp_path)
    (row,) = consume(loaded)
    assert set(row) == {*NOTE_COLUMNS, "file", "line"} and all(isinstance(row[column], str) for column in NOTE_COLUMNS)
    assert (row["file"], row["line"]) == (path.name, 2 if name == "civic" else 1)
    assert row["patient_id"] == row["note_id"] and row["note_type"] and row["institution"]
    assert row["cancer_type"] == {"letters": "BRCA", "literature": "", "cancergov": "BRCA", "civic": "SKCM"}[name]
    assert loaded["patients"] is None and "licence" in loaded["flow"][0]["note"]


def test_ids_are_the_texts_own(tmp_path):
    ids = {}
    for name, row in ROWS.items():
        write(tmp_path, name, as_bytes(name, [row]))
        ids[name] = consume(public.read(name, tmp_path))[0]["note_id"]
    assert (ids["letters"], ids["literature"], ids["civic"]) == ("letter-7", "PMC1", "EID7")
    assert ids["cancergov"].startswith("breast-patient-invented-pdq-")
    # a page that asks one question twice, with two answers, gives two notes
    write(tmp_path, "cancergov", as_bytes("cancergov", [QUESTION, QUESTION | {"answer": "Another invented answer."}]))
    assert len(consume(public.read("cancergov", tmp_path))) == 2


def test_civic_text_says_what_it_is_about(tmp_path):
    write(tmp_path, "civic", as_bytes("civic", [EVIDENCE, EVIDENCE | {"evidence_id": "8", "drugs": "", "clinical_significance": "", "evidence_direction": ""}]))
    first, second = consume(public.read("civic", tmp_path))
    assert first["text"].startswith("BRAF V600E in Skin Melanoma (Drugumab). Predictive evidence, level B, supports sensitivity.\nAn invented")
    assert second["text"].startswith("BRAF V600E in Skin Melanoma. Predictive evidence, level B.\nAn invented")


@pytest.mark.parametrize(
    "name, bad, reason",
    [
        ("literature", b"{not json", "not valid JSON"),
        ("literature", b"[" * 100_000, "not valid JSON"),
        ("literature", b"[1, 2]", "Input should be"),
        ("literature", {"pmcid": "PMC9", "text": "no licence"}, "licence Field required"),
        ("literature", ARTICLE | {"pmcid": "PMC9", "text": " "}, "text is empty"),
        ("literature", ARTICLE | {"pmcid": "PMC9", "text": 3}, "text Input should be a valid string"),
        ("literature", ARTICLE | {"pmcid": "PMC9", "text": "NUL \x00 inside"}, "text holds a NUL character"),
        ("literature", b'{"pmcid": "PMC9", "licence": "by", "oncology": false, "text": "latin \xe9 byte"}', "text is not valid UTF-8"),
        ("literature", ARTICLE, "note_id occurs twice"),
        ("letters", LETTER | {"file": "x/other_1.json", "output": []}, "output Input should be"),
        ("letters", LETTER | {"file": "x/other_1.json", "output": {"primary_cancer": {"site": ["breast"]}}}, "output.primary_cancer.site Input should be"),
        ("letters", LETTER | {"file": "x/other.json"}, "file String should match pattern"),
        ("cancergov", QUESTION | {"answer": ""}, "answer is empty"),
        ("civic", "one\ttoo few", "2 values under 10 column names"),
        ("civic", EVIDENCE | {"evidence_id": ""}, "evidence_id is empty"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_reason(tmp_path, name, bad, reason):
    path = write(tmp_path, name, as_bytes(name, [ROWS[name], bad]))
    loaded = public.read(name, tmp_path)
    assert len(consume(loaded)) == 1
    (entry,) = loaded["quarantined"]
    assert entry["reason"].startswith(reason) and set(entry) == {"file", "line", "reason", "sha256"}
    assert (entry["file"], entry["line"]) == (path.name, 3 if name == "civic" else 2)
    assert not {"tea", "invented", "latin", "breast"} & set(entry["reason"].split())


def test_a_file_that_breaks_off_gives_what_stands_before(tmp_path):
    path = write(tmp_path, "literature", as_bytes("literature", [ARTICLE | {"pmcid": f"PMC{i}", "text": os.urandom(3000).hex()} for i in range(100)]), zipped=True)
    path.write_bytes(path.read_bytes()[:150_000])
    loaded = public.read("literature", tmp_path)
    assert 10 < len(consume(loaded)) < 100 and "breaks off" in loaded["quarantined"][-1]["reason"]


def test_batches_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(public, "BATCH_ROWS", 3)
    monkeypatch.setattr(public, "BATCH_CHARACTERS", 5_000)
    long = [ARTICLE | {"pmcid": f"PMC{i}", "text": "word " * (1_200 if i == 5 else 2)} for i in range(10)]
    write(tmp_path, "literature", as_bytes("literature", long))
    assert [len(batch) for batch in public.read("literature", tmp_path)["batches"]] == [3, 3, 3, 1]


@pytest.mark.parametrize("name", ROWS)
def test_a_missing_file_names_the_public_download(tmp_path, name):
    with pytest.raises(UserError, match=r"not found\. Get the .*(github\.com|civicdb\.org)"):
        public.read(name, tmp_path)


def test_other_names_and_columns_are_refused(tmp_path):
    with pytest.raises(UserError, match="choose letters, literature, cancergov, civic"):
        public.read("pubmed", tmp_path)
    write(tmp_path, "civic", b"gene\tvariant\n")
    with pytest.raises(UserError, match="line 1: no column disease"):
        list(public.read("civic", tmp_path)["batches"])


def test_texts_are_limited_and_can_leave_out_what_the_tiny_base_has_read(tmp_path):
    articles = [ARTICLE | {"pmcid": f"PMC{i}", "oncology": i % 4 == 0, "text": f"Invented trial {i}"} for i in range(200)]
    write(tmp_path, "literature", as_bytes("literature", articles), zipped=True)
    asked_elsewhere = {"url": "https://x.org/1", "question": "what is the outlook for breast cancer?", "answer": "Another page."}
    (tmp_path / "literature" / "medquad_other.jsonl.gz").write_bytes(gzip.compress(json.dumps(asked_elsewhere).encode()))
    write(tmp_path, "cancergov", as_bytes("cancergov", [QUESTION, QUESTION | {"question": "What is nowhere else ?"}]))
    assert public.texts("literature", tmp_path, 3) == ["Invented trial 0", "Invented trial 1", "Invented trial 2"]
    seen = seen_text.seen_notes("literature", tmp_path)
    unseen = public.texts("literature", tmp_path, without=seen)
    assert len(seen) + len(unseen) == 200 and len(unseen) > 50  # the 50 of oncology and the held-out ones
    assert not any(f"PMC{i}" in seen for i in range(0, 200, 4))
    assert public.texts("cancergov", tmp_path, without=seen_text.seen_notes("cancergov", tmp_path)) == ["What is nowhere else ?\nAn invented answer."]
    write(tmp_path, "letters", as_bytes("letters", [LETTER]))
    assert seen_text.seen_notes("letters", tmp_path) == set()


def test_letters_carry_silver_labels(tmp_path):
    write(tmp_path, "letters", as_bytes("letters", [LETTER]))
    loaded = public.read("letters", tmp_path)
    assert dict(zip(loaded["registry"]["field"], loaded["registry"]["registry_value"], strict=True)) == {
        "pT": "T2", "pN": "N1", "stage_ajcc": "II", "laterality": "Left", "er": "Positive", "pr": "Positive", "her2": "Negative",
        "histology": "invasive ductal carcinoma", "diagnosis": "invasive ductal carcinoma of the breast", "tumor_site": "breast, left",
        "treatment_plan": "Start letrozole; Stop tamoxifen", "radiotherapy_regimen": "40.05 Gy in 15 fractions",
    }  # fmt: skip
    assert set(loaded["registry"]["patient_id"]) == {"letter-7"} and "not gold" in loaded["flow"][0]["note"]


def labels_of(cancer: str, **said: str) -> dict:
    primary = dict.fromkeys(["site", "tnm_stage", "other_stage", "histopathology_status", "biomarker_status"], "") | {"cancer_timeline": []}
    return public_silver.letter_labels(cancer, primary | said, [])


@pytest.mark.parametrize(
    "cancer, said, expected",
    [
        ("BRCA", {"tnm_stage": "T2N1M0"}, {}),  # without the p it may be clinical
        ("BRCA", {"tnm_stage": "ypT0N1mi(sn)M0"}, {"pN": "N1"}),
        ("BRCA", {"tnm_stage": "pT3a pN2 M0"}, {"pT": "T3", "pN": "N2"}),
        ("PRAD", {"histopathology_status": "Acinar adenocarcinoma, Gleason 3 + 4=7"}, {"gleason": "7", "histology": "acinar adenocarcinoma", "diagnosis": "acinar adenocarcinoma of the prostate"}),
        ("PRAD", {"histopathology_status": "adenocarcinoma, Gleason 3+3=6 and Gleason 4+4=8"}, {}),
        ("KIRC", {"histopathology_status": "clear cell renal cell carcinoma, Fuhrman grade 2", "site": "kidney, right"},
         {"grade_fuhrman": "G2", "histology": "clear cell renal cell carcinoma", "diagnosis": "clear cell renal cell carcinoma of the kidney", "laterality": "Right", "tumor_site": "kidney, right"}),
        ("LGG", {"other_stage": "WHO grade II"}, {"grade_who": "G2"}),
        ("HNSC", {"histopathology_status": "moderately to poorly differentiated squamous cell carcinoma"}, {}),
        ("OV", {"other_stage": "FIGO stage IIIC1"}, {"stage_figo": "III"}),
        ("LIHC", {"other_stage": "BCLC stage B"}, {}),
        ("LUAD", {"site": "right upper lobe and left lower lobe"}, {"laterality": "Bilateral", "tumor_site": "right upper lobe and left lower lobe"}),
        ("COAD", {"histopathology_status": "mixed adenocarcinoma and squamous cell carcinoma"}, {}),
        ("", {"tnm_stage": "pT2N0", "biomarker_status": "ER positive"}, {}),
    ],
)  # fmt: skip
def test_a_silver_label_is_given_where_the_letter_says_one_value(cancer, said, expected):
    assert labels_of(cancer, **said) == expected


@pytest.mark.parametrize(
    "said, er, pr, her2",
    [
        ("triple negative, pdl1 90%", "Negative", "Negative", "Negative"),
        ("er 8/8, pr 2/8, her2 3+", "Positive", "Negative", "Positive"),
        ("er positive/pr negative/her2 negative, esr1 mutation positive", "Positive", "Negative", "Negative"),
        ("er 95% pr 0% her2 2+ (fish pending)", "Positive", "Negative", "Equivocal"),
        ("androgen receptor positive, oestrogen receptor negative, her2 1+", "Negative", None, "Negative"),
        ("ar positive, her2 low", None, None, None),
        ("right: er 8/8, her2 negative; left: er 0/8, her2 negative", None, None, None),
        ("er positive, recurrence er negative", {"Positive", "Negative"}, None, None),
    ],
)
def test_receptors_are_read_from_a_list(said, er, pr, her2):
    expected = {name: value if isinstance(value, set) else {value} - {None} for name, value in {"er": er, "pr": pr, "her2": her2}.items()}
    assert public_silver.receptors(said) == expected


@pytest.mark.parametrize(
    "name, code",
    [
        ("Lung Adenocarcinoma", "LUAD"), ("Non-small Cell Lung Carcinoma", ""), ("Non-small cell lung adenocarcinoma", "LUAD"), ("lung | small cell carcinoma", ""),
        ("Colorectal Cancer", ""), ("sigmoid colon | adenocarcinoma", "COAD"), ("rectosigmoid junction | adenocarcinoma", "READ"), ("Renal Cell Cancer", ""),
        ("Ovarian Germ Cell Tumors", ""), ("ovary | high grade serous carcinoma", "OV"), ("pancreas | gastrinoma", ""), ("Pancreatic Cancer", "PAAD"),
        ("Intraocular (Uveal) Melanoma", "UVM"), ("Mucosal Melanoma", ""), ("Childhood Acute Myeloid Leukemia and Other Myeloid Malignancies", ""),
        ("endometrium | carcinosarcoma", "UCS"), ("prostate | sarcomatoid carcinoma", "PRAD"), ("gallbladder | adenocarcinoma", ""), ("Cancer", ""), ("", ""),
    ],
)  # fmt: skip
def test_a_cancer_name_has_a_code_only_where_it_names_one_study(name, code):
    assert public_silver.cancer_type(name) == code


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(list(ROWS)), junk=st.lists(st.binary(max_size=60) | st.recursive(st.none() | st.text(max_size=9) | st.floats(), lambda x: st.dictionaries(
    st.sampled_from(["file", "text", "output", "primary_cancer", "pmcid", "site"]), x) | st.lists(x, max_size=3), max_leaves=9).map(lambda x: json.dumps(x).encode()), max_size=8))  # fmt: skip
def test_no_junk_is_lost_or_breaks_the_reading(tmp_path_factory, name, junk):
    folder = tmp_path_factory.mktemp("junk")
    rows = [b"".join(line.split(b"\n")) for line in junk]
    write(folder, name, as_bytes(name, [ROWS[name], *rows]))
    loaded = public.read(name, folder)
    assert len(consume(loaded)) == 1
    assert len(loaded["quarantined"]) == sum(bool(row.decode("utf-8", "surrogateescape").strip()) for row in rows)


@pytest.mark.skipif(not (DATA / "letters").is_dir(), reason="CANCERLLM_DATA holds no public texts")
@pytest.mark.parametrize("name, kept, set_aside, coded", [("letters", 666, 0, 420), ("literature", 2537, 1, 0), ("cancergov", 729, 0, 200), ("civic", 2525, 0, 1077)])
def test_the_published_files(name, kept, set_aside, coded):
    loaded = public.read(name, DATA)
    rows = consume(loaded)
    assert (len(rows), len(loaded["quarantined"])) == (kept, set_aside)
    assert sum(bool(row["cancer_type"]) for row in rows) == coded


def test_a_letters_first_systemic_treatment_counts_where_the_letter_names_its_drugs():
    timeline = [{"type": "treatment_surgery", "value": "hemicolectomy"}, {"type": "treatment_systemic_start", "value": "started ondansetron"},
                {"type": "treatment_systemic_start", "value": "commenced adjuvant FOLFOX"}, {"type": "treatment_systemic_start", "value": "started nivolumab"}]  # fmt: skip
    assert public_silver.first_drugs(timeline, "He began FOLFOX in May.") == "fluorouracil + leucovorin + oxaliplatin"
    assert public_silver.first_drugs(timeline, "He began chemotherapy in May.") == ""
    assert public_silver.first_drugs(timeline[:2], "Ondansetron was given.") == ""
