import pytest

from cancerllm_utils.tasks.parse import parse
from cancerllm_utils.tasks.task import allowed_values, load_task, task_names

CASES = [
    ("pT", "pT2a", "T2"), ("pT", "T2", "T2"), ("pT", " t 3 ", "T3"), ("pT", "ypT4b.", "T4"), ("pT", "T2 or T3", "unparsed"), ("pT", "T0", "unparsed"),
    ("pT", "T5", "unparsed"), ("pT", "the tumor is T2", "unparsed"), ("pT", "Answer: T1", "T1"), ("pT", "Not Stated.", "not stated"), ("pT", "", "unparsed"),
    ("pT", "T2\n\n### Instruction:\nT3", "T2"), ("pT", "2", "unparsed"), ("pN", "pN1mi", "N1"), ("pN", "NX", "N0"), ("pN", "pN0 (i+)", "N0"), ("pN", "N4", "unparsed"),
    ("laterality", "RIGHT", "Right"), ("laterality", "left-sided", "Left"), ("laterality", "right and left", "unparsed"), ("laterality", "Rt.", "Right"),
    ("gleason", "7", "7"), ("gleason", "3+4=7", "7"), ("gleason", "Gleason score 9", "9"), ("gleason", "5", "unparsed"), ("gleason", "3+4", "unparsed"),
    ("grade_fuhrman", "Fuhrman grade 3", "G3"), ("grade_fuhrman", "2/4", "G2"), ("grade_fuhrman", "grade III", "G3"), ("grade_who", "G1", "unparsed"),
    ("grade_who", "II", "G2"), ("grade_differentiation", "moderately differentiated", "G2"), ("grade_differentiation", "G2-3", "unparsed"),
    ("grade_bladder", "high-grade", "High"), ("er", "ER positive", "Positive"), ("her2", "equivocal", "Equivocal"), ("pr", "not positive", "unparsed"),
    ("stage_ajcc", "Stage IIIB", "III"), ("stage_ajcc", "IIIB", "III"), ("stage_ajcc", "3", "III"), ("stage_ajcc", "AJCC stage group: iv", "IV"), ("stage_ajcc", "1A", "I"),
    ("stage_figo", "FIGO IIIC1", "III"), ("stage_figo", "IC2", "I"), ("stage_figo", "Stage IVB", "IV"), ("stage_figo", "0", "unparsed"), ("stage_ajcc", "I or II", "unparsed"),
    ("stage_ajcc", "T2 N1", "unparsed"), ("icd10", "C34.1", "C34"), ("icd10", "ICD-10: C18.7", "C18"), ("icd10", "C34 lung", "unparsed"), ("icd10", "34", "unparsed"),
    ("pM", "pMX", "MX"), ("pM", "m1b", "M1"), ("pM", "M2", "unparsed"), ("node_status", "nodes positive", "Positive"), ("node_status", "neg.", "Negative"),
    ("lung_lobe", "right upper lobe", "Upper"), ("colon_segment", "sigmoid", "Sigmoid colon"), ("colon_segment", "caecum", "Cecum"),
    ("colon_segment", "recto-sigmoid", "Rectosigmoid junction"), ("colon_segment", "colon", "unparsed"), ("lymphovascular_invasion", "not identified", "Absent"),
    ("perineural_invasion", "present", "Present"), ("margin", "R1", "Positive"), ("margin", "free", "Negative"), ("residual_tumor", "0", "R0"), ("residual_tumor", "RX", "unparsed"),
    ("histology", "Squamous  Cell Carcinoma", "squamous cell carcinoma"), ("histology", "squamous", "unparsed"),
    ("diagnosis", "squamous cell carcinoma of the lung", "squamous cell carcinoma of the lung"), ("diagnosis", "lung cancer", "unparsed"),
    ("diagnosis", "of the " * 30, "unparsed"), ("diagnosis", "squamous cell carcinoma of the head and neck", "squamous cell carcinoma of the head and neck"),
]
SYNTHETIC = [
    ("stage", "pT2 pN1", "T2 N1"), ("stage", "T2a, N0", "T2 N0"), ("stage", "II", "unparsed"), ("tumor_size", "2.5 cm", "2.5 cm"), ("tumor_size", "large", "unparsed"), ("tumor_size", "2" * 50, "unparsed"), ("tumor_size", "25 x 12 mm", "25 x 12 mm"),
    ("tumor_site", "lung " * 20, "unparsed"), ("tumor_site", "22", "unparsed"),
    ("tumor_site", "upper outer quadrant", "upper outer quadrant"),
    ("grade", "gleason 7", "Gleason 7"), ("grade", "3+4=7", "Gleason 7"), ("grade", "high grade", "High"), ("grade", "grade 2", "G2"), ("laterality", "left", "Left"),
    ("receptor_type", "er pr", "ER PR"), ("receptor_type", "ER or PR", "unparsed"), ("receptor_status", "er positive pr negative her2 negative", "ER positive PR negative HER2 negative"),
]


@pytest.mark.parametrize("field, raw, answer", CASES)
def test_registry_fields(field, raw, answer):
    assert parse(raw, "phenotype_extraction", field, allowed_values(field, "tcga")) == answer


@pytest.mark.parametrize("field, raw, answer", SYNTHETIC)
def test_the_papers_eight(field, raw, answer):
    assert parse(raw, "phenotype_extraction", field, allowed_values(field, "synthetic")) == answer


@pytest.mark.parametrize("corpus, fields", [
    ("tcga", ["pT", "pN", "laterality", "gleason", "grade_differentiation", "grade_fuhrman", "grade_who", "grade_bladder", "er", "pr", "her2", "histology",
              "stage_ajcc", "stage_figo", "pM", "node_status", "lung_lobe", "colon_segment", "lymphovascular_invasion", "perineural_invasion", "margin", "residual_tumor"]),
    ("synthetic", ["receptor_type", "receptor_status", "grade", "laterality", "icd10", "stage_ajcc", "stage_figo"]),
])
def test_every_allowed_answer_parses_to_itself_in_any_case(corpus, fields):
    for field in fields:
        assert allowed_values(field, corpus), field
        for value in allowed_values(field, corpus):
            for written in (value, value.upper(), f" {value.lower()}. "):
                assert parse(written, "phenotype_extraction", field, allowed_values(field, corpus)) == value


def test_plans_parse_in_their_own_form_only():
    assert parse("No radiotherapy.", "treatment_plan", "radiotherapy", []) == "No radiotherapy"
    assert parse("external beam + brachytherapy | 45 Gy | 25 fractions | primary tumour field", "treatment_plan", "radiotherapy", []).startswith("external beam + brachy")
    assert parse("60 Gy", "treatment_plan", "radiotherapy", []) == parse("none, as far as I can see", "treatment_plan", "systemic_therapy", []) == "unparsed"


def test_every_field_of_every_task_has_answers_or_an_open_form():
    """A closed field has allowed answers in TCGA or in the synthetic cohort; an open one parses an example of its form."""
    example = {"diagnosis": "adenocarcinoma of the lung", "icd10": "C34", "tumor_size": "2.5 cm", "tumor_site": "left upper lobe", "treatment_plan": "curative | chemotherapy | 4 cycles",
               "radiotherapy": "external beam | 50.4 Gy | 28 fractions | regional site", "radiotherapy_regimen": "20 Gy in 5 fractions", "systemic_therapy": "cisplatin + gemcitabine"}  # fmt: skip
    for name in task_names():
        for field in load_task(name)["fields"]:
            if not (allowed_values(field, "tcga") or allowed_values(field, "synthetic")):
                assert parse(example.get(field, "some words"), name, field, []) == example.get(field, "some words"), (name, field)


def test_only_allowed_values_or_the_two_words_come_back():
    for field, raw, _ in CASES:
        values = allowed_values(field, "tcga")
        assert not values or parse(raw, "x", field, values) in [*values, "not stated", "unparsed"]
