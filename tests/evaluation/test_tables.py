"""Tables of notebook 06 from invented results."""

import pandas as pd

from cancerllm_utils.evaluation import tables
from tests import invented_results

SCORES = invented_results.scores()


def test_abstention_by_system_then_by_field_of_the_tuned_model():
    table = tables.abstention_table(SCORES)
    whole = table[table["field"] == "all"]
    assert len(whole) == len(invented_results.SYSTEMS) and set(table["task"]) == {"Phenotype extraction"}
    row = whole[whole["system"] == "tiny_base, cpt-sft"].iloc[0]
    assert (row["right values where one is stated"], row["false answers"], row["right values minus false answers"]) == ("60.0 (58.0 to 62.0)", "20.0 (18.0 to 22.0)", "30.0 (28.0 to 32.0)")
    assert (row["stated"], row["not stated"]) == (150, 50)
    rest = table.iloc[len(whole):]
    assert rest["field"].tolist() == ["grade", "laterality", "tumor_size"] and set(rest["system"]) == {"tiny_base, cpt-sft"}
    assert set(tables.abstention_table(SCORES, [("tfidf", "baseline")])["system"].iloc[-3:]) == {"TF-IDF + logistic regression"}
    assert tables.abstention_table(SCORES.head(0)).empty


def test_each_closed_field_names_its_weakest_class(tmp_path):
    rows = [("High", 90, 95, 92, 100, 110), ("Low", 50, 20, 28.6, 10, 4), ("accuracy", None, None, 88, 110, 114), ("macro", 70, 57.5, 60.3, 110, 114), ("weighted", 86, 88, 86, 110, 114)]
    table = pd.DataFrame([{"model": "tiny_base", "stage": stage, "task": "phenotype_extraction", "split": "test", "field": "grade", "class": name, "precision": p, "recall": r, "f1": f,
                           "f1_low": f - 5, "f1_high": f + 5, "n": n, "predicted": k} for stage in ("sft", "cpt-sft") for name, p, r, f, n, k in rows])
    (tmp_path / "results").mkdir()
    table.to_csv(tmp_path / "results" / "classes.csv", index=False)
    kappa = SCORES.iloc[[0]].assign(model="tiny_base", stage="cpt-sft", task="phenotype_extraction", split="test", field="grade", variant="all", subgroup="all", metric="kappa_quadratic",
                                    f1=61.0, f1_low=50.0, f1_high=70.0, n=108)
    found = tables.class_overview(tmp_path, pd.concat([SCORES, kappa]))
    assert found.to_dict("records") == [{"task": "Phenotype extraction", "field": "grade", "system": "tiny_base, cpt-sft", "n": 110, "accuracy": 88.0, "macro F1": "60.3 (55.3 to 65.3)",
                                         "weakest class": "Low: 20 % of 10 found", "kappa": "61.0 (50.0 to 70.0), n = 108"}]
