"""The tables and figures of notebook 02b, from an invented run and invented registry tables."""

import pandas as pd
import pytest

from cancerllm_utils.corpus import plan_review
from cancerllm_utils.evaluation import plans
from cancerllm_utils.plots import plans as plots_plans


def write_run(folder, registry, labels):
    (folder / "corpus").mkdir(parents=True)
    patients = sorted({row[0] for row in registry})
    pd.DataFrame(registry, columns=["patient_id", "field", "registry_value"]).to_parquet(folder / "corpus" / "registry.parquet")
    pd.DataFrame({"patient_id": patients, "cancer_type": "OV"}).to_parquet(folder / "corpus" / "patients.parquet")
    pd.DataFrame(labels, columns=["note_id", "field", "evidence", "note_type"]).to_parquet(folder / "corpus" / "labels.parquet")
    pd.DataFrame(labels, columns=["note_id", "field", "evidence", "note_type"]).drop_duplicates("note_id").to_parquet(folder / "corpus" / "notes.parquet")
    return folder


@pytest.fixture
def synthetic(tmp_path):
    registry = [(f"P{i}", "treatment_plan", "curative | surgery | none") for i in range(10)] + [("P0", "radiotherapy", None), ("P1", "stage", "T1 N0")]
    return write_run(tmp_path / "run", registry, [("a", "treatment_plan", "stated", "tumor board note"), ("b", "treatment_plan", "not_stated", "tumor board note"),
                                                  ("c", "treatment_plan", "not_stated", "pathology report"), ("c", "stage", "stated", "pathology report")])  # fmt: skip


def test_a_cohort_whose_notes_state_the_plan(synthetic):
    found = plan_review.of_run(synthetic, "synthetic")
    assert set(found) == {"labels", "majority", "stated"}
    assert found["stated"].to_numpy().tolist() == [["treatment_plan", "tumor board note", 2, 1], ["treatment_plan", "pathology report", 1, 0]]
    assert found["majority"].iloc[-1][["n", "share"]].tolist() == [10, 1.0]
    assert any("stated in 1 of 3 notes" in sentence for sentence in plan_review.sentences(found))
    assert [path.name for path in plan_review.write(synthetic, found)] == ["plan_majority.csv"]
    assert plots_plans.majority_share(found["majority"]).axes[0].get_title(loc="left").startswith("treatment plan (n = 10")


def test_a_corpus_without_plans_says_so(tmp_path):
    run = write_run(tmp_path / "run", [("P1", "stage", "T1 N0")], [("a", "stage", "stated", "pathology report")])
    found = plan_review.of_run(run, "local")
    assert plan_review.sentences(found) == ["The corpus holds no treatment plan."]
    assert plots_plans.majority_share(found["majority"]).axes[0].texts[0].get_text() == "no cancer with 10 plans or more"


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(rows[0])
    path.write_text("\n".join("\t".join(line) for line in [names, names, ["CDE_ID:"] * len(names), *[list(row.values()) for row in rows]]) + "\n")


def test_registry_tables_of_tcga(tmp_path):
    folder = tmp_path / "data" / "tcga" / "clinical"
    drug = [{"bcr_patient_barcode": f"TCGA-ZZ-000{i}", "pharmaceutical_therapy_drug_name": name, "pharmaceutical_tx_started_days_to": "10"}
            for i, name in enumerate(["Taxol", "taxol", "paclitaxl", "vaccine X1", "[Not Available]"])]  # fmt: skip
    table(folder / "nationwidechildrens.org_clinical_drug_ov.txt", drug)
    table(folder / "nationwidechildrens.org_clinical_patient_ov.txt", [{"bcr_patient_barcode": "TCGA-ZZ-0000", "radiation_treatment_adjuvant": "NO"}])
    course = {"bcr_patient_barcode": "TCGA-ZZ-0001", "radiation_therapy_type": "External", "radiation_therapy_site": "Primary Tumor Field", "radiation_total_dose": "45",
              "radiation_adjuvant_units": "cGy", "radiation_adjuvant_fractions_total": "25", "radiation_therapy_started_days_to": "30", "radiation_therapy_ended_days_to": "60"}  # fmt: skip
    table(folder / "nationwidechildrens.org_clinical_radiation_ov.txt", [course])
    run = write_run(tmp_path / "run", [("TCGA-ZZ-0000", "systemic_therapy", "paclitaxel")], [("a", "pT", "stated", "report")])
    found = plan_review.of_run(run, "tcga", str(tmp_path / "data"))
    assert found["flow"]["patients"].tolist() == [1, 1], "of the run's one patient: a drug, and no radiotherapy"
    steps = plan_review.steps_table(found["drugs"]).set_index("step")
    assert steps.loc[["exact", "fuzzy", "unmapped", "missing"], "rows"].tolist() == [2, 1, 1, 1]
    assert steps.loc["exact", "share (%)"] == 50
    assert set(plan_review.to_check(found["drugs"])["name"]) == {"paclitaxl", "vaccine x1"}
    assert plan_review.changes_table(found["radiotherapy"]).to_numpy().tolist() == [["dose", "rescaled", 1]]
    assert [path.name for path in plan_review.write(run, found)] == ["plan_majority.csv", "drug_review.csv", "radiotherapy_review.csv"]


def test_the_figure_of_scores_draws_gains_or_says_that_there_are_none():
    rows = [{"model": model, "stage": stage, "split": "dev", "field": "systemic_therapy", "metric": "set_f1", "n": 9, "f1": 50, "f1_low": 40, "f1_high": 60, "gain": gain,
             "gain_low": gain, "gain_high": gain} for model, stage, gain in (("tiny_base", "sft", 5.0), ("majority_by_cancer", "baseline", float("nan")))]  # fmt: skip
    scores = pd.DataFrame(rows).reindex(columns=plans.COLUMNS)
    assert plots_plans.plan_scores(scores, "dev", True).axes[0].get_legend_handles_labels()[1] == ["tiny_base, sft"]
    assert plots_plans.plan_scores(scores, "dev", True).axes[0].get_yticklabels()[0].get_text() == "drugs, F1 (n = 9)"
    assert plots_plans.plan_scores(scores, "test", True).axes[0].texts[0].get_text() == "no treatment plan was predicted"
    table = plans.table(scores, gain=True)
    assert table["system"].tolist() == ["tiny_base, sft"] and table["set_f1"].tolist() == ["+5.0 [+5.0, +5.0]"]
    assert plans.table(scores.head(0), gain=False).empty and plans.splits(scores) == ["dev"]
