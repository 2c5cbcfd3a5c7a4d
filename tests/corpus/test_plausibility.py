"""Is the synthetic cohort medically possible? Rules of medicine, checked on patients and on the printed notes, with the sources in the YAML files."""

import re

import pandas as pd
import pytest

from cancerllm_utils.corpus import synthetic
from cancerllm_utils.corpus.synthetic_patient import make_patient
from cancerllm_utils.corpus.synthetic_treatment import COURSES, DRUGS, MODALITIES
from cancerllm_utils.corpus.synthetic_yaml import CANCERS, LANGUAGE, MEDICINE, STAGE_GROUPS, TREATMENT

PATIENTS = 2500


@pytest.fixture(scope="module")
def patients():
    return [make_patient(synthetic.patient_rng(17, number), f"SYN-{number:06d}") for number in range(PATIENTS)]


@pytest.fixture(scope="module")
def cohort():
    return synthetic.generate(250, 23, noise=0)


def drugs_of(patient):
    return set(patient["plan"]["drugs"])


# ---------------------------------------------------------------- who has what


def test_sex_fits_the_organ(patients, cohort):
    for patient in patients:
        assert patient["sex"] == {"PRAD": "M", "UCEC": "F", "OV": "F"}.get(patient["cancer_type"], patient["sex"])
    assert 0 < sum(patient["sex"] == "M" for patient in patients if patient["cancer_type"] == "BRCA") < 25
    joined = cohort["notes"].groupby("patient_id")["text"].agg(" ".join)
    sex = cohort["patients"].set_index("patient_id")["gender"].str[0].loc[joined.index]
    says_man, says_woman = joined.str.contains(r"\b(?:man|male|he|his)\b", case=False), joined.str.contains(r"\b(?:woman|female|she|her(?!-2))\b", case=False)
    assert not says_woman[sex == "M"].any() and not says_man[sex == "F"].any()
    assert not joined[sex == "M"].str.contains("vagin|hysterect|oophorect", case=False).any() and not joined[sex == "F"].str.contains("prostatect|seminal", case=False).any()


def test_age_is_in_the_range_of_cancer_and_histology(patients):
    for patient in patients:
        cancer = CANCERS[patient["cancer_type"]]
        low, high = cancer["histologies"][patient["tumor"]["histology"]].get("age", cancer["age"]) if patient["operated"] else (18, 90)
        assert low <= patient["age"] <= high
    ages = pd.DataFrame([{"cancer": patient["cancer_type"], "age": patient["age"]} for patient in patients]).groupby("cancer")["age"].mean()
    assert ages["LGG"] < ages["GBM"] < ages["PRAD"] + 8 and ages.between(35, 75).all()


def test_icd10_fits_the_site(patients):
    codes = {"breast": "C50", "lung": "C34", "colon": "C18", "rectum": "C20", "prostate": "C61", "kidney": "C64", "bladder": "C67", "uterine corpus": "C54", "ovary": "C56",
             "larynx": "C32", "tonsil": "C09", "floor of mouth": "C04", "liver": "C22", "pancreas": "C25", "brain": "C71", "skin": "C43", "stomach": "C16"}  # fmt: skip
    seen = set()
    for patient in patients:
        expected = codes.get(patient["organ"]) or {"base of tongue": "C01"}.get(patient["tumor"]["site"], "C02")
        assert patient["truth"]["icd10"] == expected
        seen.add(expected)
    assert seen >= {*codes.values(), "C01", "C02"}


def test_no_code_is_printed(cohort):
    assert not cohort["notes"]["text"].str.contains(r"\bC\d\d\b|ICD", regex=True).any()


def test_only_sided_organs_have_a_side(patients):
    sided = {"breast", "lung", "kidney", "ovary", "tongue", "larynx", "tonsil", "floor of mouth", "brain", "skin"}
    for patient in patients:
        assert ("laterality" in patient["truth"]) <= (patient["organ"] in sided)
        assert patient["truth"].get("laterality") != "Bilateral" or patient["organ"] == "ovary"
        assert not (patient["tumor"].get("site") in ("upper back", "scalp") and "laterality" in patient["truth"])
    assert {patient["organ"] for patient in patients if "laterality" in patient["truth"]} == sided


def test_every_cancer_has_several_histologies_and_fitting_grades(patients):
    for cancer in CANCERS.values():
        assert len(cancer["histologies"]) >= 3
        for kind in cancer["histologies"].values():
            assert set(kind.get("grade", {})) <= set(cancer.get("grade", {}).get("weights", {})) and set(kind.get("T", {})) <= set(cancer.get("T", {}))
            assert set(kind.get("sites", [])) <= set(cancer.get("sites", {}))
    grade_of = {"verrucous carcinoma": {"G1"}, "sarcomatoid renal cell carcinoma": {"G4"}, "multilocular cystic renal cell carcinoma": {"G1", "G2"},
                "medullary carcinoma": {"G3"}, "tubular carcinoma": {"G1", "G2"}}  # fmt: skip
    for patient in patients:
        tumor = patient["tumor"]
        assert tumor.get("grade") in grade_of.get(tumor["histology"], {tumor.get("grade")})
        assert tumor["histology"] != "acral lentiginous melanoma" or tumor["site"] in ("sole of the foot", "palm")


# ---------------------------------------------------------------- stage and size


def test_size_fits_the_t_category(patients):
    for patient in patients:
        for tumor in (patient["tumor"], patient["early_tumor"]):
            low, high = CANCERS[patient["cancer_type"]]["size"][tumor.get("t", "any")]
            assert low <= tumor["cm"] <= high
    # tumors that the T category defines by size (AJCC: breast 2 and 5 cm, lung 3, 5 and 7 cm, kidney 7 cm)
    for patient in patients:
        tumor, code = patient["tumor"], patient["cancer_type"]
        limit = {"BRCA": {"T1": 2.0, "T2": 5.0}, "LUAD": {"T1": 3.0, "T2": 5.0, "T3": 7.0}, "LUSC": {"T1": 3.0, "T2": 5.0, "T3": 7.0}, "KIRC": {"T1": 7.0}}
        assert tumor["cm"] <= limit.get(code, {}).get(tumor.get("t"), 99)


def test_more_nodes_are_involved_in_advanced_tumors(patients):
    table = pd.DataFrame([{"t": patient["tumor"]["t"], "involved": patient["tumor"]["n"] != "N0"} for patient in patients if "t" in patient["tumor"]])
    shares = table.groupby("t")["involved"].mean()
    assert shares["T1"] < shares["T2"] < shares["T4"]


def test_the_printed_stage_group_fits_t_n_and_m(cohort):
    labels = cohort["labels"][cohort["labels"]["field"] == "stage"].set_index("note_id")
    checked = 0
    for note in cohort["notes"].itertuples():
        found = re.search(r"Stage\s+group\s+(IV|I{1,3})\b", note.text, re.IGNORECASE)
        if not found or found[1].upper() == "IV":
            continue
        pair = labels.loc[note.note_id, "stated_value"] or labels.loc[note.note_id, "registry_value"]
        pair = labels.loc[note.note_id, "registry_value"] if pd.isna(pair) else pair
        assert STAGE_GROUPS[note.cancer_type][pair] == found[1].upper()
        checked += 1
    assert checked > 20
    # hand-checked pairs: AJCC breast IIA, IIIA; colon IIIB; lung IIIA; pancreas III; FIGO uterus III
    for cancer, pair, group in [("BRCA", "T1 N1", "II"), ("BRCA", "T3 N1", "III"), ("COAD", "T3 N1", "III"), ("LUAD", "T1 N2", "III"), ("PAAD", "T2 N2", "III"), ("UCEC", "T1 N1", "III"),
                                ("COAD", "T2 N0", "I"), ("KIRC", "T3 N0", "III"), ("STAD", "T3 N0", "II")]:  # fmt: skip
        assert STAGE_GROUPS[cancer][pair] == group


def test_m_agrees_with_the_metastases_told(cohort, patients):
    assert 0.03 < sum(patient["m"] == "M1" for patient in patients) / PATIENTS < 0.15
    plan = cohort["registry"][cohort["registry"]["field"] == "treatment_plan"].set_index("patient_id")["registry_value"]
    for note in cohort["notes"].itertuples():
        says_m1 = re.search(r"Distant metastases are present|Distant spread on imaging|\dM1\b", " ".join(note.text.split()))
        says_m0 = re.search(r"No distant metastasis|No metastases seen|No evidence of distant spread|[Nn]\dM0\b", " ".join(note.text.split()))
        assert not (says_m1 and says_m0)
        assert not says_m1 or plan[note.patient_id].startswith("palliative")


def test_node_counts_fit_the_n_category(cohort):
    labels = cohort["labels"][(cohort["labels"]["field"] == "stage")].set_index("note_id")
    checked = 0
    for note in cohort["notes"][cohort["notes"]["note_type"] == "surgical pathology report"].itertuples():
        found = re.search(r"(\d+)\s+of\s+(\d+)\s+lymph\s+nodes|in\s+(\d+)/(\d+)\s+nodes|Nodes:\s+(\d+)/(\d+)", note.text, re.IGNORECASE)
        if found:
            positive, examined = [int(number) for number in found.groups() if number]
            assert 0 < positive <= examined and labels.loc[note.note_id, "registry_value"][-2:] != "N0"
            checked += 1
        if re.search(r"lymph\s+nodes\s+are\s+free|(?<!\d)0/\d+", note.text):
            assert labels.loc[note.note_id, "registry_value"].endswith("N0")
    assert checked > 15


# ---------------------------------------------------------------- treatment


def test_answers_of_plans_are_well_formed(patients):
    for patient in patients:
        intent, modalities, drugs = patient["truth"]["treatment_plan"].split(" | ")
        names = modalities.split(" + ")
        assert intent in ("curative", "palliative") and names == [name for name in MODALITIES if name in names]
        assert drugs == "none" or drugs.split(" + ") == sorted(drugs_of(patient))
        assert ("surgery" in names) == patient["operated"] and ("radiotherapy" in names) == ("radiotherapy" in patient["truth"])
        assert {DRUGS[drug]["kind"] for drug in drugs_of(patient)} <= set(names)


def test_receptors_open_the_door_to_their_drugs(patients):
    for patient in patients:
        receptors = patient["tumor"].get("receptors") or {}
        hormone = [drug for drug in drugs_of(patient) if DRUGS[drug]["kind"] == "hormone therapy"]
        if hormone:
            assert patient["cancer_type"] == "PRAD" or (patient["cancer_type"] == "BRCA" and receptors["ER"] == "positive")
        if drugs_of(patient) & {"trastuzumab", "pertuzumab"}:
            assert receptors["HER2"] == "positive"
        assert receptors.get("PR") != "positive" or receptors["ER"] == "positive"
        assert not (patient["sex"] == "M" and "anastrozole" in drugs_of(patient)) or "thrombosis" in patient["reasons"]


def test_what_speaks_against_a_drug_keeps_it_out(patients):
    seen = dict.fromkeys(["clearance", "performance", "heart", "refusal", "radiation"], 0)
    for patient in patients:
        drugs, flags = drugs_of(patient), patient["flags"]
        if patient["crcl"] < 50:
            assert "cisplatin" not in drugs and "capecitabine" not in drugs and "pemetrexed" not in drugs
            seen["clearance"] += 1
        else:
            assert patient["crcl"] >= 60
        if patient["ecog"] >= 3:
            assert not {DRUGS[drug]["kind"] for drug in drugs} & {"chemotherapy", "immunotherapy", "targeted therapy"}
            seen["performance"] += 1
        if patient["lvef"] < 50:
            assert not drugs & {"doxorubicin", "trastuzumab", "sunitinib"}
            seen["heart"] += 1
        if "refuses_chemotherapy" in flags:
            assert "chemotherapy" not in {DRUGS[drug]["kind"] for drug in drugs}
            seen["refusal"] += 1
        if flags & {"prior_radiation", "refuses_radiotherapy"}:
            assert "radiotherapy" not in patient["truth"]
            seen["radiation"] += 1
        assert not ("thrombosis" in flags and drugs & {"tamoxifen", "bevacizumab"} and "osteoporosis" not in flags)
    assert min(seen.values()) > 50


def test_a_departure_has_its_reason_in_the_notes_before_the_plan(cohort):
    """Whoever is not treated as usual has a note that says why, and in board notes it stands before the plan."""
    cues = {"low_clearance": r"clearance|CrCl", "poor_performance": r"ECOG|Performance|light|chair", "low_ejection_fraction": r"LVEF|ejection", "hearing_loss": r"hear|Audiogram|ear ",
            "refuses_chemotherapy": r"chemotherapy", "refuses_radiotherapy": r"radiotherapy|radiation", "refuses_hormone_therapy": r"hormone|Endocrine", "prior_radiation": r"irradiated|Earlier radiotherapy|Received 40",
            "prior_anthracycline": r"anthracycline", "neuropathy": r"neuropathy", "thrombosis": r"thrombos|embolism", "osteoporosis": r"[Oo]steoporosis", "autoimmune_disease": r"colitis|lupus|Autoimmune",
            "liver_failure": r"Child", "frail": r"[Ff]rail|[Gg]eriatric"}  # fmt: skip
    departures = cohort["patients"].set_index("patient_id")["departure"]
    plans = cohort["labels"][(cohort["labels"]["field"] == "treatment_plan") & (cohort["labels"]["evidence"] == "stated")].set_index("note_id")
    boards = 0
    for note in cohort["notes"][cohort["notes"]["note_type"].isin(["tumor board note", "clinic note"])].itertuples():
        for reason in filter(None, departures[note.patient_id].split(", ")):
            places = [found.start() for found in re.finditer(cues[reason].replace(" ", r"\s+"), note.text, re.IGNORECASE)]
            assert places, (note.note_id, reason)
            if note.note_id in plans.index:
                assert places[0] < plans.loc[note.note_id, "quote_start"]
                boards += 1
    assert boards > 10 and 0.12 < (departures != "").mean() < 0.5


def test_the_mutation_that_decides_is_the_one_the_notes_tell(cohort):
    plans = cohort["registry"][cohort["registry"]["field"] == "treatment_plan"].set_index("patient_id")["registry_value"]
    told = {}
    for note in cohort["notes"][cohort["notes"]["cancer_type"] == "SKCM"].itertuples():
        for found in re.finditer(r"BRAF\b.{0,22}?\bmutation\s+(?:was\s+)?(not\s+)?detected", note.text, re.IGNORECASE | re.DOTALL):
            told.setdefault(note.patient_id, set()).add(not found[1])
    assert len(told) > 5 and all(len(answers) == 1 for answers in told.values())
    assert all(True in told[patient] for patient in told if "dabrafenib" in plans[patient])


def test_a_plan_cannot_be_guessed_from_the_cancer(patients):
    table = pd.DataFrame([{"cancer": patient["cancer_type"], "stage": patient["truth"].get("stage", ""), "plan": patient["truth"]["treatment_plan"]} for patient in patients])
    top = lambda group: group.value_counts().iloc[0]  # noqa: E731
    assert 0.25 <= table.groupby("cancer")["plan"].agg(top).sum() / PATIENTS <= 0.65
    assert table.groupby(["cancer", "stage"])["plan"].agg(top).sum() / PATIENTS <= 0.7
    assert table["plan"].nunique() > 100


def test_every_radiotherapy_schedule_is_within_its_published_range():
    for name, course in COURSES.items():
        published = course["published"]
        assert course["source"] in TREATMENT["sources"], name
        for gy, fractions in course["schedules"]:
            assert published["gy"][0] <= gy <= published["gy"][1], name
            assert published["fractions"][0] <= fractions <= published["fractions"][1], name
            assert published["per_fraction"][0] - 0.01 <= gy / fractions <= published["per_fraction"][1] + 0.01, name
        limits = {"external beam": (1.6, 8), "stereotactic": (7, 26), "brachytherapy": (3, 8)}[course["type"]]
        assert all(limits[0] <= gy / fractions <= limits[1] for gy, fractions in course["schedules"]), name


def test_printed_courses_are_those_of_the_table(patients):
    schedules = {(name, f"{gy:g}", fractions) for name, course in COURSES.items() for gy, fractions in course["schedules"]}
    drawn = {(patient["plan"]["course"], patient["course"]["gy"], patient["course"]["fractions"]) for patient in patients if patient["course"]}
    assert drawn <= schedules and len({name for name, _, _ in drawn}) >= 18


def test_every_printed_drug_dose_is_within_its_published_range(cohort):
    checked = 0
    for name, drug in DRUGS.items():
        low, high, unit = drug["published"]
        assert all(low <= dose <= high for dose in drug["dose"]) and unit, name
    words = {word: name for name, drug in DRUGS.items() for word in drug["long"] + drug["short"]}
    pattern = re.compile(rf"(?<![\w-])({'|'.join(sorted(map(re.escape, words), key=len, reverse=True))})\s+(?:AUC\s+)?(\d+(?:\.\d+)?)(?=\s+(?:mg|million)|[,.]? Cycles)")
    for text in cohort["notes"]["text"][cohort["notes"]["note_type"] == "chemotherapy summary"]:
        for word, dose in pattern.findall(text):
            low, high, _ = DRUGS[words[word]]["published"]
            assert low <= float(dose) <= high
            checked += 1
    assert checked > 60


def test_rules_name_only_what_exists():
    codes = set(CANCERS)
    assert set(TREATMENT["systemic"]) == codes and set(TREATMENT["radiotherapy"]) <= codes and set(STAGE_GROUPS) <= codes
    for rules in TREATMENT["systemic"].values():
        assert rules[-1]["when"] == {}  # every patient has a plan
        assert {drug for rule in rules for drug in rule.get("drugs", [])} <= set(DRUGS)
    assert {rule["course"] for rules in TREATMENT["radiotherapy"].values() for rule in rules} <= {*COURSES, "none"}
    assert {departure["if"] for departure in TREATMENT["departures"]} == set(LANGUAGE["flags"]) - {"braf"}
    assert set(MEDICINE["flags"]) <= set(LANGUAGE["flags"])
    assert all(re.search(r"(19|20)\d\d", source) or name == "drugs" for name, sources in TREATMENT["sources"].items() for source in sources)


def test_clearance_agrees_with_creatinine_age_and_weight(patients):
    """Cockcroft and Gault, Nephron 1976."""
    for patient in patients[:300]:
        clearance = (140 - patient["age"]) * patient["weight"] / (72 * patient["creatinine"]) * (0.85 if patient["sex"] == "F" else 1)
        assert clearance <= patient["crcl"] + 0.01 and (patient["creatinine"] == 0.4 or abs(clearance - patient["crcl"]) < 0.01)
