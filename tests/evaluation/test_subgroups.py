"""Subgroups: who is in which, small ones hidden, differences by hand and within cancer types, and corpora that record little of their patients."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from cancerllm_utils.evaluation import rings, subgroups


def study(folder, people: list[dict], record: tuple = ("age", "gender", "race"), split: str = "test"):
    """A scored run of one task and system: each person (cancer, points, words, noise, age, gender, race, hospital) has one note and one question."""
    for name in ("corpus", "results", "datasets/diagnosis_generation"):
        (folder / name).mkdir(parents=True)
    people = [{"cancer": "X", "points": 50.0, "words": 100, "noise": 0.0, "hospital": "h", "age": 60, "gender": "F", "race": "WHITE"} | person for person in people]
    frame = pd.DataFrame(people).assign(patient_id=[f"p{i}" for i in range(len(people))], note_id=[f"n{i}" for i in range(len(people))])
    frame.assign(cancer_type=frame["cancer"])[["patient_id", "cancer_type", *record]].to_parquet(folder / "corpus" / "patients.parquet")
    pd.DataFrame({"note_id": frame["note_id"], "words": frame["words"], "ocr_noise": frame["noise"]}).to_parquet(folder / "corpus" / "quality.parquet")
    rows = [json.dumps({"example_id": f"e{i}", "note_id": f"n{i}"}) for i in range(len(people))]
    (folder / "datasets" / "diagnosis_generation" / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    examples = pd.DataFrame({"example_id": [f"e{i}" for i in range(len(people))], "patient_id": frame["patient_id"], "institution": frame["hospital"], "cancer_type": frame["cancer"],
                             "average_f1": frame["points"] / 100, "value_correct": frame["points"] / 100, "exact": 0.0})
    examples = examples.assign(task="diagnosis_generation", split=split, model="m", stage="sft", field="diagnosis", variant="", headline=True)
    pd.concat([examples.assign(family=name) for name in ("paper", "clinical")], ignore_index=True).to_parquet(folder / "results" / "examples.parquet")
    return folder


def level(table, dimension, name, metric="average"):
    rows = table[(table["dimension"] == dimension) & (table["level"] == name) & (table["metric"] == metric)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_score_its_interval_and_its_difference_by_hand(tmp_path):
    people = [{"gender": "FEMALE", "points": points} for points in [100.0, 0.0] * 15] + [{"gender": "MALE", "points": points} for points in [40.0, 60.0] * 10]
    table = subgroups.run(study(tmp_path, people), rings.answers(tmp_path))
    row = level(table, "sex", "female")
    error = np.std([100.0, 0.0] * 15, ddof=1) / np.sqrt(30)
    assert (row["n"], row["patients"], row["f1"]) == (30, 30, 50.0)
    assert row["f1_high"] - row["f1"] == pytest.approx(scipy_stats.t.ppf(0.975, 29) * error)
    theirs = scipy_stats.ttest_ind([100.0, 0.0] * 15, [40.0, 60.0] * 10, equal_var=False)
    assert row["difference"] == pytest.approx(0) and row["p"] == pytest.approx(theirs.pvalue)
    assert np.isnan(level(table, "sex", "male")["difference"]), "of two levels one difference says all"
    assert list(pd.read_csv(tmp_path / "results" / "subgroups.csv").columns) == subgroups.COLUMNS


def test_fewer_than_twenty_patients_are_named_and_hidden(tmp_path):
    people = [{"gender": "FEMALE"}] * 20 + [{"gender": "MALE", "points": 77.0}] * 19
    table = subgroups.run(study(tmp_path, people), rings.answers(tmp_path))
    hidden = level(table, "sex", "male")
    assert not hidden["shown"] and hidden[["n", "patients", "f1", "f1_low", "difference"]].isna().all()
    assert np.isnan(level(table, "sex", "female")["difference"]), "it would tell what the hidden ones score"
    shown = subgroups.shown_table(table, [("m", "sft")])
    assert shown.loc[shown["level"] == "male", "patients"].tolist() == ["fewer than 20"]
    assert "77" not in (tmp_path / "results" / "subgroups.csv").read_text()
    assert any("fewer than 20 patients and are not shown" in text for text in subgroups.sentences(table, [("m", "sft")]))


def test_a_difference_between_cancers_is_none_within_them(tmp_path):
    # Women have mostly cancer X, which is easy; within each cancer the sexes score alike.
    people = [{"gender": sex, "cancer": cancer, "points": (90.0 if cancer == "X" else 30.0) + 4 * (-1) ** i}
              for sex, cancer, n in (("F", "X", 40), ("F", "Y", 10), ("M", "X", 10), ("M", "Y", 40)) for i in range(n)]
    table = subgroups.run(study(tmp_path, people), rings.answers(tmp_path))
    row = level(table, "sex", "female")
    assert row["difference"] == pytest.approx(36) and row["p_holm"] < 0.001
    assert row["within_cancer"] == pytest.approx(0, abs=1e-9) and row["within_low"] < 0 < row["within_high"]
    text = subgroups.sentences(table, [("m", "sft")])[0]
    assert "sex female +36.0" in text and "within cancer types +0.0" in text


def test_all_right_is_not_certainty(tmp_path):
    table = subgroups.run(study(tmp_path, [{"points": 100.0}] * 25), rings.answers(tmp_path))
    row = level(table, "cancer type", "X")
    assert row["f1_low"] == pytest.approx(100 * 0.025 ** (1 / 25)) and row["f1_high"] == 100


def test_holm_counts_every_difference_of_a_system(tmp_path):
    rng = np.random.default_rng(0)
    people = [{"age": int(age), "words": int(words), "points": float(points)} for age, words, points in zip(rng.integers(30, 90, 200), rng.integers(50, 900, 200), rng.uniform(0, 100, 200))]
    table = subgroups.run(study(tmp_path, people), rings.answers(tmp_path)).query("metric == 'average'")
    tested = table.dropna(subset=["p"])
    assert set(tested["dimension"]) == {"age", "report length"} and len(tested) == 7
    assert (tested["p_holm"] >= tested["p"]).all() and tested["p_holm"].min() == pytest.approx(min(1, 7 * tested["p"].min()))


def test_bands_thirds_and_missing_values():
    assert subgroups.age_bands(pd.Series([49, 50, 64.9, 65, 75, None])).tolist() == ["under 50", "50 to 64", "50 to 64", "65 to 74", "75 and over", "not known"]
    names = subgroups.lengths(pd.Series([10, 20, 30, 40, 50, 60]))
    assert names.tolist() == ["short (up to 20 words)"] * 2 + ["middle (up to 40)"] * 2 + ["long (over 40)"] * 2
    assert subgroups.plain_words(pd.Series(["FEMALE", "m", "", None, "Unknown"])).tolist() == ["female", "male", "not known", "not known", "not known"]
    noise = subgroups.damage(pd.DataFrame({"ocr_noise": [0.0] * 4 + [0.3] * 2}))
    assert noise.str.split(" ").str[0].tolist() == ["clean"] * 4 + ["heavy"] * 2
    order = sorted(["not known", "long (over 40)", "75 and over", "short (up to 20 words)", "under 50", "middle (up to 40)"], key=subgroups.level_order)
    assert order == ["under 50", "75 and over", "short (up to 20 words)", "middle (up to 40)", "long (over 40)", "not known"]


def test_race_within_a_cancer_needs_twenty_patients_of_two_races(tmp_path):
    people = [{"cancer": cancer, "race": race, "points": 50.0 + i % 3} for cancer, race, n in (("X", "WHITE", 30), ("X", "ASIAN", 20), ("X", "OTHER", 3), ("Y", "WHITE", 30), ("Y", "ASIAN", 19)) for i in range(n)]
    table = subgroups.run(study(tmp_path, people), rings.answers(tmp_path)).query("metric == 'average' and dimension == 'race within cancer type'")
    assert table["level"].tolist() == ["X, asian", "X, other", "X, white"] and table["shown"].tolist() == [True, False, True]
    assert table["within_cancer"].isna().all()


def test_a_corpus_that_knows_neither_age_nor_sex_nor_race(tmp_path):
    table = subgroups.run(study(tmp_path, [{}] * 30, record=()), rings.answers(tmp_path))
    assert set(table["dimension"]) == {"cancer type", "institution", "report length", "OCR quality"}
    told = " ".join(subgroups.sentences(table, [("m", "sft")]))
    assert "Nothing is known of age." in told and "Nothing is known of race." in told


def test_development_patients_alone_and_nobody(tmp_path):
    found = rings.answers(study(tmp_path, [{}] * 30, split="dev"))
    assert set(subgroups.run(tmp_path, found)["split"]) == {"dev"}
    nothing = subgroups.run(tmp_path, {})
    assert nothing.empty and "Nothing was scored" in subgroups.sentences(nothing, [])[0] and subgroups.shown_table(nothing, []).empty
