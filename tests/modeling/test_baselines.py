import json

import numpy as np
import pandas as pd
import pytest

from cancerllm_utils.modeling import baselines, hybrid, nearest
from cancerllm_utils.tasks.task import alpaca_prompt

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
                                    "answers": [value], "cancer_type": cancer, "prompt": alpaca_prompt("Answer.", f"In the text: {text} What is the {field}?")})
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
    assert set(table["model"]) == {"majority", "majority_by_cancer", "nearest", "tfidf", "rules"}
    for model in table["model"].unique():
        rows = [json.loads(line) for line in (run / "predictions" / model / "baseline" / "registry_prediction.test.jsonl").read_text().splitlines()]
        assert [list(row) for row in rows] == [PREDICTION_KEYS + ["sure"] * (model == "rules") + ["confidence"] * (model == "tfidf")] * 48
    assert accuracy(run, "tfidf", "registry_prediction", "test", "laterality") == 1.0
    assert accuracy(run, "rules", "registry_prediction", "test", "laterality") == 1.0
    assert accuracy(run, "nearest", "registry_prediction", "test", "laterality") > 0.9
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
        vocabulary = (folder / "tfidf" / "baseline" / "vocabulary.txt").read_text()
        names = ("majority", "majority_by_cancer", "nearest", "tfidf")
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


# ---- the nearest training example -------------------------------------------------------------------------------------------------


def example(number, patient, text, answer, field="laterality", variant=""):
    return {"example_id": f"e{number}", "patient_id": patient, "field": field, "variant": variant, "answers": [answer],
            "prompt": alpaca_prompt("Answer the question.", f"In the text: {text} What is the {field}?")}


def test_the_nearest_example_of_the_same_field_and_another_patient_answers():
    train = [example(1, "A", "nodule of the upper lobe", "Left"), example(2, "B", "kidney with hilar cyst", "Right"),
             example(3, "C", "kidney with hilar cyst", "G2", field="grade"), example(4, "D", "kidney with hilar cyst and stone", "Midline", variant="findings")]
    index = nearest.index_examples(train)
    asked = [example(5, "E", "a cyst in the kidney", "?"), example(6, "E", "the upper nodule", "?"), example(7, "B", "kidney with hilar cyst", "?"),
             example(8, "E", "kidney with hilar cyst", "?", field="grade"), example(9, "E", "kidney with hilar cyst", "?", variant="findings"),
             example(10, "E", "kidney with hilar cyst", "?", field="gleason")]
    # number 7 is the patient of example 2, so the other example answers (what both hold: the words of the question); no example of gleason
    assert nearest.nearest_answers(index, asked, ["fallback"] * 6) == ["Right", "Left", "Left", "G2", "Midline", "fallback"]


def test_the_query_is_what_the_model_sees_and_no_more():
    assert nearest.seen_text(alpaca_prompt("instruction words", "the context {with braces}")) == "the context {with braces}"


def test_copies_of_a_training_example_count_once_and_an_empty_training_set_answers_nothing():
    rows = [example(1, "A", "right kidney", "Right")] + [example(f"2#{copy}", "B", "left kidney", "Left") for copy in (2, 3)]
    assert len(nearest.index_examples(rows)[("laterality", "")]["answers"]) == 2
    assert nearest.nearest_answers(nearest.index_examples([]), rows, ["x", "y", "z"]) == ["x", "y", "z"]


# ---- TF-IDF: settings chosen on the development patients ---------------------------------------------------------------------------


def test_settings_are_chosen_on_dev_and_written_down(run):
    splits = pd.read_parquet(run / "corpus" / "splits.parquet")
    splits.loc[splits["split"].eq("external"), "split"] = "dev"
    splits.to_parquet(run / "corpus" / "splits.parquet")
    baselines.predict_baselines(run, ["registry_prediction"], ["test"])
    tuning = pd.read_csv(run / "predictions" / "tfidf" / "baseline" / "tuning.csv")
    assert tuning["chosen"].sum() == 1 and len(tuning) == len(baselines.STRENGTHS) + 1 and set(tuning["dev_items"]) == {48}
    chosen = tuning[tuning["chosen"]].iloc[0]
    assert chosen["dev_accuracy"] == tuning["dev_accuracy"].max()


def test_the_best_setting_wins_and_the_first_of_equals():
    """A pair of words tells the classes apart, neither word alone does: words and pairs must win."""
    texts = {f"n{i}": text for i, text in enumerate(["alpha beta gamma delta", "alpha gamma beta delta", "gamma beta delta alpha", "gamma alpha delta beta"] * 10)}
    items = pd.DataFrame({"note_id": list(texts), "field": "f", "answer": ["X", "Y", "Y", "Y"] * 10})
    vectors = baselines.vectors_of(texts, list(texts))
    assert set(vectors["words"][vectors["single"]]) == {"alpha", "beta", "gamma", "delta"}
    _, tried = baselines.tune_tfidf(items, items, vectors, seed=1)
    best = tried[tried["chosen"]].iloc[0]
    assert best["features"] == "words and pairs" and best["dev_accuracy"] == 1.0 and tried.loc[tried["features"].eq("words"), "dev_accuracy"].item() < 1.0
    assert tried.index[tried["chosen"]].tolist() == [int(np.argmax(tried["dev_accuracy"]))]
    nobody = baselines.tune_tfidf(items, items.head(0), vectors, seed=1)[1]
    assert nobody["C"].tolist() == [10.0] and nobody["chosen"].tolist() == [True]


# ---- the hybrid --------------------------------------------------------------------------------------------------------------------


def answer(number, parsed, **more):
    return {"example_id": f"e{number}", "prediction": parsed, "answers": ["Left"], "parsed": parsed, "new_tokens": 3, "stop_reason": "eos", "seconds": 0.1} | more


def test_rules_answer_where_they_are_sure_and_the_model_elsewhere():
    rules = [answer(1, "Left", sure=True), answer(2, "Right", sure=False), answer(3, "not stated", sure=False)]
    rows = hybrid.hybrid_rows(rules, [answer(2, "Left"), answer(1, "Right"), answer(3, "Midline")])
    assert [(row["example_id"], row["parsed"], row["source"]) for row in rows] == [("e2", "Left", "model"), ("e1", "Left", "rules"), ("e3", "Midline", "model")]
    assert [list(row) for row in rows] == [PREDICTION_KEYS + ["source"]] * 3


def test_hybrids_are_made_where_rules_and_a_tuned_model_answered(run):
    baselines.predict_baselines(run, ["registry_prediction", "phenotype_extraction"], ["test"])
    gold = [json.loads(line) for line in (run / "datasets" / "registry_prediction" / "test.jsonl").read_text().splitlines()]
    for stage in ("base", "sft", "cpt-sft"):
        for task in ("registry_prediction", "phenotype_extraction"):
            path = run / "predictions" / "tiny_base" / stage / f"{task}.test.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(answer(0, "Midline") | {"example_id": row["example_id"], "answers": row["answers"]}) + "\n" for row in gold))
    table = hybrid.predict_hybrid(run, "tiny_base", ["base", "sft", "cpt-sft"], ["registry_prediction", "phenotype_extraction"], ["test", "external"])
    assert table[["model", "stage", "task", "split"]].to_numpy().tolist() == [["hybrid", stage, "registry_prediction", "test"] for stage in ("sft", "cpt-sft")]
    rows = [json.loads(line) for line in (run / "predictions" / "hybrid" / "sft" / "registry_prediction.test.jsonl").read_text().splitlines()]
    assert {row["parsed"] for row in rows if row["source"] == "model"} <= {"Midline"} and all(row["parsed"] == row["answers"][0] for row in rows if row["source"] == "rules")
    assert table["from_rules"].iloc[0] == np.mean([row["source"] == "rules" for row in rows]) > 0.4 and table["right_rules"].iloc[0] == 1.0
    assert hybrid.predict_hybrid(run, "another", ["sft"], ["registry_prediction"], ["test"]).empty


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


def test_of_too_many_answers_tfidf_learns_the_most_frequent(monkeypatch):
    monkeypatch.setattr(baselines, "MAX_CLASSES", 2)
    items = pd.DataFrame({"note_id": list("abcdefg"), "field": "f", "answer": ["one", "one", "two", "two", "rare", "three", "three"]})
    texts = dict(zip("abcdefg", ["alpha", "alpha", "beta", "beta", "gamma", "delta", "delta"]))
    vectors = baselines.vectors_of(texts, list(texts))
    models = baselines.fit_fields(items, vectors["rows_of"], vectors["matrix"], seed=1)
    assert set(models["f"].classes_) == {"one", "three"}, "of equally frequent answers the first by name"
    assert baselines.answer_fields(models, ["f"], ["d"], vectors["rows_of"], vectors["matrix"], ["?"])[0] in ("one", "three")


def test_false_answers_reach_every_method_that_learns_and_no_test_set(run):
    """All answers of the training patients become the other value: what learns them says the opposite, and the clean predictions stay."""
    for path in (run / "datasets").rglob("*.jsonl"):
        rows = [json.loads(line) | {"evidence": "stated", "task": "registry_prediction", "example_id": f"registry_prediction|{json.loads(line)['example_id']}"} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    baselines.predict_baselines(run, ["registry_prediction"], ["test"])
    before = {path: path.read_bytes() for path in (run / "predictions").rglob("baseline/*.jsonl")}
    false = {"rate": 1.0, "mode": "random", "seed": 1, "stage": "baseline-cf100"}
    table = baselines.predict_baselines(run, ["registry_prediction"], ["test"], false_answers=false)
    assert set(table.loc[table["remark"].eq(""), "model"]) == {"majority", "majority_by_cancer", "nearest", "tfidf"}
    assert {path: path.read_bytes() for path in (run / "predictions").rglob("baseline/*.jsonl")} == before
    other = {"Right": "Left", "Left": "Right", "clear cell renal cell carcinoma": "squamous cell carcinoma", "squamous cell carcinoma": "clear cell renal cell carcinoma"}
    for model in ("nearest", "majority_by_cancer"):
        clean, noisy = ([json.loads(line) for line in (run / "predictions" / model / stage / "registry_prediction.test.jsonl").read_text().splitlines()] for stage in ("baseline", "baseline-cf100"))
        assert [row["answers"] for row in clean] == [row["answers"] for row in noisy]
        if model == "nearest":
            assert [row["parsed"] for row in noisy] == [other[row["parsed"]] for row in clean]
    tfidf = [json.loads(line) for line in (run / "predictions" / "tfidf" / "baseline-cf100" / "registry_prediction.test.jsonl").read_text().splitlines()]
    assert sum(row["parsed"] == row["answers"][0] for row in tfidf) < 5


def test_an_item_has_the_same_false_answer_for_the_model_and_for_tfidf(run):
    shown = [row | {"evidence": "stated", "task": "registry_prediction"} for row in map(json.loads, (run / "datasets" / "registry_prediction" / "train.jsonl").read_text().splitlines())]
    items = pd.DataFrame([{key: row[key] for key in ("example_id", "patient_id", "task", "field", "evidence", "cancer_type")} | {"answer": row["answers"][0]} for row in shown[::2]])
    altered, of_file = baselines.with_false_answers(items, shown, 0.5, "random", 1)
    said = {row["example_id"]: row["answers"][0] for row in of_file}
    assert altered["answer"].tolist() == [said[name] for name in altered["example_id"]] and (altered["answer"] != items["answer"]).any()


def test_tfidf_says_how_probable_its_answer_is(run):
    """The largest probability of the classifier, that of the answer it gives; a field with a single answer has none."""
    items = pd.DataFrame({"note_id": list("abcd"), "field": ["f", "f", "f", "single"], "answer": ["one", "two", "three", "only"]})
    texts = dict(zip("abcd", ["alpha", "beta", "gamma", "delta"]))
    vectors = baselines.vectors_of(texts, list(texts))
    models = baselines.fit_fields(items, vectors["rows_of"], vectors["matrix"], seed=1)
    asked = (["f", "f", "single", "unseen"], ["a", "b", "d", "a"], vectors["rows_of"], vectors["matrix"])
    sure, answers = baselines.sure_of_fields(models, *asked), baselines.answer_fields(models, *asked, ["?"] * 4)
    table = models["f"].predict_proba(vectors["matrix"][[0, 1]])
    for row, value, answer in zip(table, sure, answers):
        assert value == pytest.approx(row.max(), abs=1e-6) and answer == models["f"].classes_[row.argmax()] and 1 / 3 < value < 1
    assert np.isnan(sure[2:]).all()
    baselines.predict_baselines(run, ["registry_prediction"], ["test"])
    rows = [json.loads(line) for line in (run / "predictions" / "tfidf" / "baseline" / "registry_prediction.test.jsonl").read_text().splitlines()]
    assert all(0.5 <= row["confidence"] <= 1 for row in rows)
