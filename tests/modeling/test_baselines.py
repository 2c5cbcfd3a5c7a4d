import json

import pandas as pd
import pytest

from cancerllm_utils.modeling import baselines

PREDICTION_KEYS = ["example_id", "prediction", "answers", "parsed", "new_tokens", "stop_reason", "seconds"]


@pytest.fixture
def run(tmp_path):
    """120 patients: the side stands in the text and follows no cancer; histology follows the cancer; one word is known to `external` only."""
    notes, labels, splits, examples = [], [], [], {"train": [], "test": [], "external": []}
    for number in range(120):
        split = ["train", "train", "train", "test", "external"][number % 5]
        patient, cancer, side = f"P{number:03d}", ["KIRC", "LUSC", "LUSC"][number % 3], ["Right", "Left"][(number // 7) % 2]
        text = f"Specimen: {side.lower()} {'kidney' if cancer == 'KIRC' else 'lung'}, resection. Word{number % 11}. " + ("Externalword here. " if split == "external" else "")
        notes.append({"note_id": f"{patient}-r1", "patient_id": patient, "site": "S", "institution": split, "note_type": "surgical pathology report",
                      "cancer_type": cancer, "date": "", "text": text, "source": "invented"})
        splits.append({"patient_id": patient, "split": split})
        histology = {"KIRC": "clear cell renal cell carcinoma", "LUSC": "squamous cell carcinoma"}[cancer]
        for field, value in (("laterality", side), ("histology", histology)):
            labels.append({"patient_id": patient, "note_id": f"{patient}-r1", "field": field, "evidence": "stated", "stated_value": value, "quote_start": 0,
                           "quote_end": 8, "registry_value": value})
            examples[split].append({"example_id": f"{patient}-r1|{field}", "note_id": f"{patient}-r1", "patient_id": patient, "field": field, "variant": "",
                                    "answers": [value], "cancer_type": cancer})
    (tmp_path / "corpus").mkdir()
    pd.DataFrame(notes).to_parquet(tmp_path / "corpus" / "notes.parquet")
    pd.DataFrame(labels).astype({"quote_start": "Int64", "quote_end": "Int64"}).to_parquet(tmp_path / "corpus" / "labels.parquet")
    pd.DataFrame(splits).to_parquet(tmp_path / "corpus" / "splits.parquet")
    for task in ("registry_prediction", "phenotype_extraction"):
        for split, rows in examples.items():
            path = tmp_path / "datasets" / task / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "datasets" / "settings.json").write_text(json.dumps({"corpus": "tcga", "not_stated_share": 0.25}))
    return tmp_path


def accuracy(run, model, task, split, field):
    rows = [json.loads(line) for line in (run / "predictions" / model / "baseline" / f"{task}.{split}.jsonl").read_text().splitlines()]
    part = [row for row in rows if row["example_id"].endswith(field)]
    return sum(row["parsed"] == row["answers"][0] for row in part) / len(part)


def test_predictions_follow_the_contract_and_the_text(run):
    table = baselines.predict_baselines(run, ["registry_prediction"], ["test", "external"])
    assert set(table["model"]) == {"majority", "majority_by_cancer", "tfidf", "rules"}
    for model in table["model"].unique():
        rows = [json.loads(line) for line in (run / "predictions" / model / "baseline" / "registry_prediction.test.jsonl").read_text().splitlines()]
        assert [list(row) for row in rows] == [PREDICTION_KEYS] * 48
    assert accuracy(run, "tfidf", "registry_prediction", "test", "laterality") == 1.0
    assert accuracy(run, "rules", "registry_prediction", "test", "laterality") == 1.0
    assert accuracy(run, "majority_by_cancer", "registry_prediction", "test", "histology") == 1.0
    assert accuracy(run, "majority", "registry_prediction", "test", "laterality") < 0.8
    shares = pd.read_parquet(run / "corpus" / "notes.parquet").query("institution == 'test'")["cancer_type"].eq("LUSC").mean()
    assert accuracy(run, "majority", "registry_prediction", "test", "histology") == pytest.approx(shares)


def test_rules_are_not_ranked_where_they_made_the_labels(run):
    table = baselines.predict_baselines(run, ["phenotype_extraction"], ["test"])
    assert table.set_index("model")["remark"]["rules"] == "the labels' source, not ranked"
    assert not (run / "predictions" / "rules").exists()


def test_nothing_outside_train_touches_a_fit(run):
    """Other answers, other words and more notes outside train leave every fitted baseline and its answers as they were."""
    def answers():
        baselines.predict_baselines(run, ["registry_prediction"], ["test"])
        folder = run / "predictions"
        vocabulary = (folder / "tfidf" / "baseline" / "vocabulary.registry_prediction.txt").read_text()
        names = ("majority", "majority_by_cancer", "tfidf")
        found = {name: [json.loads(line)["parsed"] for line in (folder / name / "baseline" / "registry_prediction.test.jsonl").read_text().splitlines()] for name in names}
        return vocabulary, found
    before = answers()
    assert "externalword" not in before[0] and "specimen" in before[0]
    notes, labels = pd.read_parquet(run / "corpus" / "notes.parquet"), pd.read_parquet(run / "corpus" / "labels.parquet")
    outside = set(notes.loc[notes["institution"].eq("external"), "note_id"])
    notes.loc[notes["note_id"].isin(outside), "text"] = "left left left zebra"
    labels.loc[labels["note_id"].isin(outside), "registry_value"] = "Midline"
    notes.to_parquet(run / "corpus" / "notes.parquet")
    labels.to_parquet(run / "corpus" / "labels.parquet")
    assert answers() == before


def test_most_common_breaks_ties_by_name():
    assert baselines.most_common(pd.Series(["b", "a", "b", "a", "c"])) == "a"


def test_cancer_alone_tells_stated_where_absence_follows_the_cancer(run):
    labels = pd.read_parquet(run / "corpus" / "labels.parquet")
    cancer = pd.read_parquet(run / "corpus" / "notes.parquet").set_index("note_id")["cancer_type"]
    absent = labels["field"].eq("laterality") & labels["note_id"].map(cancer).eq("KIRC")
    labels.loc[absent, "evidence"] = "not_stated"
    labels.to_parquet(run / "corpus" / "labels.parquet")
    path = run / "datasets" / "phenotype_extraction" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["field"] == "laterality" and row["cancer_type"] == "KIRC":
            row["answers"] = ["not stated"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = baselines.stated_or_not_by_cancer(run, ["test"]).set_index("field")
    assert table.loc["laterality", "balanced_accuracy"] == 1.0 and table.loc["laterality", "accuracy"] == 1.0
    assert table.loc["laterality", "not_stated"] == pytest.approx(1 / 3, abs=0.1) and pd.isna(table.loc["histology", "balanced_accuracy"])
