"""Doses by the rule, fraction checks, modalities and plans, on invented registry rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cancerllm_utils.corpus import radiotherapy as rt


@pytest.mark.parametrize("dose, unit, gy, flag", [
    ("6000", "cGy", 60.0, ""), ("60", "Gy", 60.0, ""), ("50.4", "Gy", 50.4, ""),
    ("60", "cGy", 60.0, "rescaled"), ("6000", "Gy", 60.0, "rescaled"),
    ("4500", "[Not Available]", 45.0, "unit inferred"), ("45", "", 45.0, "unit inferred"),
    ("4,500 cGy", "cGy", 45.0, "thousands comma"), ("4,500 cGy", "[Not Available]", 45.0, "thousands comma"), ("59,4", "Gy", 59.4, "decimal comma"),
    ("20,000", "cGy", None, "thousands comma; implausible"), ("12000", "cGy", None, "implausible"), ("150", "Gy", None, "implausible"), ("0", "cGy", None, "implausible"),
    ("42.5+10", "Gy", None, "several numbers"), ("40/48", "Gy", None, "several numbers"), ("boost", "Gy", None, "not a number"),
    ("150", "mCi", None, "activity"), ("[Not Available]", "cGy", None, "missing"), ("", "", None, "missing"),
])  # fmt: skip
def test_the_rule_to_gy(dose, unit, gy, flag):
    assert rt.to_gy(dose, unit) == (gy, flag)


def test_an_implant_may_give_more_and_an_isotope_has_no_gray():
    assert rt.to_gy("14500", "cGy", "brachytherapy") == (145.0, "")
    assert rt.to_gy("14500", "cGy", "external beam")[0] is None
    assert rt.to_gy("100", "Gy", "radioisotope") == (None, "activity")


@given(st.floats(0, 1e6), st.sampled_from(["cGy", "Gy", "[Not Available]", ""]))
def test_a_dose_is_plausible_or_dropped_and_a_change_is_flagged(value, unit):
    gy, flag = rt.to_gy(f"{value:.2f}", unit)
    assert gy is None or 1 <= gy <= 90
    if gy is None or unit == "":
        assert flag
    if flag == "":
        assert gy == pytest.approx(float(f"{value:.2f}") / (100 if unit == "cGy" else 1), abs=0.006)


@pytest.mark.parametrize("text, n, flag", [
    ("30", 30, ""), ("030", 30, ""), ("30 fr", 30, "text removed"), ("one", 1, "in words"), ("2 Gy", None, "a dose"), ("25+1 boost", None, "several numbers"),
    ("5000", None, "implausible"), ("0", None, "implausible"), ("1.8", None, "not a whole number"), ("[Not Available]", None, "missing"),
])  # fmt: skip
def test_fractions(text, n, flag):
    assert rt.fractions_of(text) == (n, flag)


def test_dose_and_fractions_must_fit():
    assert rt.checked(60, 30) == (60, 30, "")
    assert rt.checked(60, 2) == (60, None, "implausible: too few for the dose")
    assert rt.checked(3, 10) == (None, 10, "implausible: too low for the fractions")
    assert rt.checked(25, 1, "stereotactic") == (25, 1, "")
    assert rt.checked(None, 30) == (None, 30, "")


@pytest.mark.parametrize("kind, notes, modality", [
    ("EXTERNAL BEAM", "", "external beam"), ("External", "", "external beam"), ("IMPLANTS", "", "brachytherapy"), ("Internal", "", "brachytherapy"),
    ("RADIOISOTOPE", "", "radioisotope"), ("COMBINATION", "", "external beam + brachytherapy"), ("OTHER", "Gamma knife", "stereotactic"),
    ("OTHER", "Sterotactic Radiosurgery", "stereotactic"), ("OTHER", "HDR Brachytherapy", "brachytherapy"), ("OTHER", "IMRT", "external beam"),
    ("OTHER", "[Not Available]", "other"), ("[Unknown]", "", ""), ("", "", ""),
])  # fmt: skip
def test_modality(kind, notes, modality):
    assert rt.modality_of(kind, notes) == modality


def row(**cells):
    return {
        "bcr_patient_barcode": "TCGA-ZZ-0001", "radiation_therapy_type": "External", "radiation_total_dose": "6000", "radiation_adjuvant_units": "cGy",
        "radiation_adjuvant_fractions_total": "30", "radiation_therapy_site": "Primary Tumor Field", "radiation_therapy_started_days_to": "40",
        "radiation_therapy_ended_days_to": "82", "therapy_regimen": "ADJUVANT",
    } | cells  # fmt: skip


def table(*rows):
    return rt.plans(rt.courses({"GBM": pd.DataFrame(rows, dtype=str)}))


def test_the_answer_of_a_course_and_back():
    course = table(row()).iloc[0].to_dict()
    assert rt.answer_of(course) == "external beam | 60 Gy | 30 fractions | primary tumour field"
    assert rt.parse_answer(rt.answer_of(course)) == {"modality": "external beam", "gy": 60.0, "fractions": 30, "target": "primary tumour field"}
    assert rt.parse_answer("No radiotherapy")["modality"] == rt.NONE
    assert rt.parse_answer("60 Gy please") is None
    assert rt.answer_of(table(row(radiation_adjuvant_fractions_total="1", radiation_total_dose="8", radiation_adjuvant_units="Gy")).iloc[0].to_dict()).endswith("8 Gy | 1 fraction | primary tumour field")
    assert rt.answer_of(table(row(radiation_adjuvant_fractions_total="")).iloc[0].to_dict()) == ""


def test_rows_of_one_indication_within_sixty_days_are_one_plan_and_are_never_added():
    found = table(row(), row(radiation_therapy_started_days_to="90", radiation_total_dose="900", radiation_adjuvant_fractions_total="5"), row(radiation_therapy_started_days_to="150"),
                  row(therapy_regimen="RECURRENCE", radiation_therapy_started_days_to="60"), row(radiation_therapy_started_days_to=""))  # fmt: skip
    by_start = dict(zip(found["start"].fillna(-1), found["plan"]))
    assert by_start[40] == by_start[90] == 1
    assert len({by_start[40], by_start[60], by_start[150], by_start[-1]}) == 4
    assert sorted(found["gy"]) == [9, 60, 60, 60, 60]
    assert found.loc[found["start"].eq(60), "indication"].item() == "later"


def test_a_table_without_optional_columns_is_read():
    plain = pd.DataFrame([{key: value for key, value in row().items() if key != "therapy_regimen"}])
    course = rt.courses({"PAAD": plain}).iloc[0]
    assert course["indication"] == "first" and course["modality"] == "external beam"


def test_every_change_stands_in_the_review_and_plain_rows_do_not():
    frame = rt.courses({"GBM": pd.DataFrame([row(), row(radiation_total_dose="60"), row(radiation_total_dose="60"), row(radiation_total_dose="66", radiation_adjuvant_units="Gy",
        radiation_adjuvant_fractions_total="2"), row(radiation_total_dose=""), row(radiation_therapy_type="Systemic", radiation_adjuvant_units="mCi")])})  # fmt: skip
    found = rt.review(frame)
    assert found["rows"].tolist() == [2, 1]
    assert found["dose_flag"].tolist() == ["rescaled", ""]
    assert found["fractions_flag"].tolist() == ["", "implausible: too few for the dose"]
    assert np.isnan(found["fractions"].iloc[1])
