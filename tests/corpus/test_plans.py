"""First-line plans from invented registry tables."""

import pandas as pd
import pytest

from cancerllm_utils.corpus import plans

NAN = float("nan")


@pytest.mark.parametrize("rows, chosen, why", [
    ([(("cisplatin",), "first", 30.0), (("gemcitabine",), "first", 44.0)], ["cisplatin", "gemcitabine"], ""),
    ([(("cisplatin",), "first", 30.0), (("docetaxel",), "first", 200.0)], ["cisplatin"], ""),
    ([(("docetaxel",), "later", 5.0), (("cisplatin",), "first", 30.0)], ["cisplatin"], ""),
    ([(("dexamethasone",), "first", 1.0), (("cisplatin",), "first", 50.0)], ["cisplatin"], ""),
    ([(("leucovorin",), "first", 1.0), (("fluorouracil",), "first", 10.0)], ["fluorouracil"], ""),
    ([(("leucovorin",), "first", 10.0), (("fluorouracil",), "first", 10.0), (("oxaliplatin",), "first", 10.0)], ["fluorouracil", "leucovorin", "oxaliplatin"], ""),
    ([(("temozolomide",), "first", NAN), (("bevacizumab",), "first", NAN)], ["bevacizumab", "temozolomide"], ""),
    ([(("temozolomide",), "first", 20.0), (("bevacizumab",), "first", NAN)], ["temozolomide"], ""),
    ([(("cisplatin",), "first", 30.0), (("",), "first", 31.0)], [], "a part could not be named"),
    ([((), "first", 30.0), (("mesna",), "first", 30.0)], [], "no drug of a first line"),
    ([(("docetaxel",), "later", 5.0)], [], "no drug of a first line"),
])  # fmt: skip
def test_the_first_line_by_date(rows, chosen, why):
    assert plans.first_drugs(rows) == (chosen, why)


def tables():
    drug = pd.DataFrame(
        [("TCGA-ZZ-0001", "Temodar", "30", "ADJUVANT"), ("TCGA-ZZ-0001", "Avastin", "400", "RECURRENCE"), ("TCGA-ZZ-0002", "Temodal + CCNU", "20", "[Not Available]"),
         ("TCGA-ZZ-0003", "temozolomide or placebo", "20", "ADJUVANT"), ("TCGA-ZZ-0004", "Decadron", "1", "ADJUVANT")],
        columns=["bcr_patient_barcode", "pharmaceutical_therapy_drug_name", "pharmaceutical_tx_started_days_to", "therapy_regimen"],
    )  # fmt: skip
    names = ["bcr_patient_barcode", "radiation_therapy_type", "radiation_total_dose", "radiation_adjuvant_units", "radiation_adjuvant_fractions_total",
             "radiation_therapy_site", "radiation_therapy_started_days_to", "radiation_therapy_ended_days_to", "therapy_regimen"]  # fmt: skip
    first = ["EXTERNAL BEAM", "60", "cGy", "30", "Primary Tumor Field", "40", "80", "ADJUVANT"]
    radiation = pd.DataFrame(
        [["TCGA-ZZ-0001", *first], ["TCGA-ZZ-0002", *first], ["TCGA-ZZ-0002", "External", "900", "cGy", "5", "Primary Tumor Field", "82", "88", "ADJUVANT"],
         ["TCGA-ZZ-0003", "External", "3000", "cGy", "10", "Distant Recurrence", "300", "312", "PALLIATIVE"],
         ["TCGA-ZZ-0005", "External", "[Not Available]", "cGy", "30", "Primary Tumor Field", "40", "80", "ADJUVANT"]], columns=names,
    )  # fmt: skip
    patient = pd.DataFrame([("TCGA-ZZ-0001", "NO"), ("TCGA-ZZ-0004", "NO"), ("TCGA-ZZ-0006", "YES"), ("TCGA-ZZ-0007", "[Unknown]")],
                           columns=["bcr_patient_barcode", "radiation_treatment_adjuvant"])  # fmt: skip
    return {"drug": {"GBM": drug}, "radiation": {"GBM": radiation}, "patient": {"GBM": patient}}


def test_plans_of_invented_tables():
    made = plans.make(tables())
    found = {(row.patient_id, row.field): row.registry_value for row in made["labels"].itertuples()}
    assert found == {
        ("TCGA-ZZ-0001", "systemic_therapy"): "temozolomide",
        ("TCGA-ZZ-0002", "systemic_therapy"): "lomustine + temozolomide",
        ("TCGA-ZZ-0001", "radiotherapy"): "external beam | 60 Gy | 30 fractions | primary tumour field",
        ("TCGA-ZZ-0004", "radiotherapy"): "no radiotherapy",  # and not 0001, who has a row whatever the flag says
    }
    steps = {(row.field, row.step): row.patients for row in made["flow"].itertuples()}
    assert sum(n for (field, _), n in steps.items() if field == "systemic_therapy") == 4
    assert sum(n for (field, _), n in steps.items() if field == "radiotherapy") == 5
    assert steps["radiotherapy", "several courses in the first plan"] == 1
    assert steps["radiotherapy", "the first plan is palliative or for a recurrence"] == 1
    assert steps["systemic_therapy", "a part could not be named"] == 1


def test_the_order_of_the_rows_does_not_matter():
    mixed = {kind: {cancer: table.iloc[::-1].reset_index(drop=True) for cancer, table in part.items()} for kind, part in tables().items()}
    one, two = (plans.make(part)["labels"].sort_values(["patient_id", "field"], ignore_index=True) for part in (tables(), mixed))
    pd.testing.assert_frame_equal(one, two)


def test_without_tables_there_are_no_plans():
    assert plans.make({"drug": {}, "radiation": {}, "patient": {}})["labels"].empty


def test_the_majority_share_of_each_cancer():
    labels = pd.DataFrame([(f"P{i}", "systemic_therapy", plan) for i, plan in enumerate(["a", "a", "b", "b + c", "d"])], columns=plans.LABEL_COLUMNS)
    patients = pd.DataFrame({"patient_id": [f"P{i}" for i in range(5)], "cancer_type": ["OV", "OV", "OV", "GBM", "GBM"]})
    table = plans.majority(labels, patients)
    assert table["cancer_type"].tolist() == ["OV", "GBM", "all"]
    assert table["most_common"].tolist() == ["a", "b + c", ""]
    assert table["share"].tolist() == pytest.approx([2 / 3, 1 / 2, 3 / 5])
