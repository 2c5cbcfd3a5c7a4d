"""The learning curve over institutions: which patients each draw trains on, answers by hand, models of a sweep, runs without unseen institutions."""

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import institutions_curve as curve
from cancerllm_utils.modeling import training_data
from cancerllm_utils.results import SCORE_COLUMNS
from cancerllm_utils.study import jobs

PATIENTS = {"a": [f"a{i}" for i in range(8)], "b": [f"b{i}" for i in range(4)], "c": [f"c{i}" for i in range(2)], "d": ["d0"]}


def row(institution: str, patient: str, answer: str, text: str, cancer: str = "BRCA") -> dict:
    prompt = f"Preamble.\n\n### Input:\n{text}\n\n### Response:\n"
    return {"example_id": f"diagnosis_generation|{patient}|diagnosis", "patient_id": patient, "note_id": patient, "field": "diagnosis", "variant": "", "cancer_type": cancer,
            "institution": institution, "answers": [answer], "prompt": prompt, "headline": True}


def scored(task: str = "diagnosis_generation", split: str = "external", systems=(("tfidf", "baseline", 50.0),)) -> pd.DataFrame:
    rows = [{"model": model, "stage": stage, "task": task, "variant": "all", "split": split, "field": "all", "subgroup": "all", "family": family, "metric": metric, "f1": f1, "n": 2, "seed": 0}
            for model, stage, f1 in systems for family, metric in (("paper", "average"), ("clinical", "value_accuracy"))]
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


@pytest.fixture
def study(tmp_path):
    """Three training hospitals that each know one cancer, and two unseen questions of two of these cancers."""
    folder = tmp_path / "datasets" / "diagnosis_generation"
    folder.mkdir(parents=True)
    (tmp_path / "results").mkdir()
    words = {"a": ("ductal", "BRCA"), "b": ("serous", "OV"), "c": ("clear", "KIRC")}
    train = [row(name, f"{name}{i}", answer, f"invented {answer} words {i}", cancer) for name, (answer, cancer) in words.items() for i in range(4)]
    test = [row("z", "z1", "ductal", "invented ductal words", "BRCA"), row("z", "z2", "serous", "invented serous words", "OV")]
    for split, rows in (("train", train), ("external", test)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def test_steps_double_and_end_with_all():
    assert curve.steps(1) == [1] and curve.steps(2) == [1, 2] and curve.steps(11) == [1, 2, 4, 11] and curve.steps(16) == [1, 2, 4, 8, 16] and curve.steps(0) == []


def test_the_equal_design_takes_the_same_number_in_equal_parts():
    rng = np.random.default_rng(0)
    for k, allowed in ((1, {"a", "b"}), (2, {"a", "b", "c"}), (4, set(PATIENTS))):
        chosen = curve.draw(PATIENTS, k, curve.EQUAL, 4, rng)
        counts = pd.Series([name[0] for name in chosen]).value_counts()
        assert len(chosen) == len(set(chosen)) == 4 and len(counts) == k and counts.nunique() == 1 and set(counts.index) <= allowed
    assert curve.draw(PATIENTS, 2, curve.EQUAL, 10, rng) is None, "only one institution has five patients"
    uneven = curve.draw(PATIENTS, 3, curve.EQUAL, 4, rng)
    assert len(uneven) == 4 and {name[0] for name in uneven} == {"a", "b", "c"}, "parts are rounded up and cut to the number asked for"


def test_the_other_design_takes_everybody_and_the_whole_once():
    drawn = list(curve.draws(PATIENTS, 4, 3, 0))
    whole = [chosen for design, k, _, chosen in drawn if design == curve.ALL and k == 4]
    assert len(whole) == 1 and sorted(whole[0]) == sorted(patient for own in PATIENTS.values() for patient in own)
    assert len({tuple(chosen) for design, k, _, chosen in drawn if design == curve.EQUAL and k == 4}) > 1, "patients are drawn anew"
    assert drawn == list(curve.draws(PATIENTS, 4, 3, 0)) and not list(curve.draws(PATIENTS, 4, 0, 0))


def test_a_patient_of_two_institutions_counts_once():
    rows = [row("b", "p1", "x", "t"), row("a", "p1", "x", "t"), row("b", "p2", "x", "t")]
    assert curve.patients_of(rows) == {"a": ["p1"], "b": ["p2"]}


def test_the_curve_by_hand(study):
    table = curve.run(study, scored(), list(curve.SYSTEMS), repeats=2)
    assert list(table.columns) == curve.COLUMNS and set(table["model"]) == set(curve.SYSTEMS) and table["n"].max() == 2
    whole = table[(table["design"] == curve.ALL) & (table["n_institutions"] == 3) & (table["metric"] == "value_accuracy") & (table["subgroup"] == "all")]
    assert whole["f1"].tolist() == [100.0, 100.0, 100.0] and whole["patients"].tolist() == [12.0] * 3 and whole["seen"].tolist() == [1.0] * 3
    one = table[(table["design"] == curve.ALL) & (table["n_institutions"] == 1) & (table["metric"] == "value_accuracy")]
    # One hospital knows one answer: right for the question of its own cancer, wrong for the other.
    assert set(one.loc[one["subgroup"] == "all", "f1"]) <= {0.0, 50.0} and (one.loc[one["subgroup"] == "cancers seen", "f1"].dropna() == 100).all()
    assert (study / "results" / "institution_curve.csv").is_file() and "learning curve" in (study / "results" / "ledger.csv").read_text()
    assert any("all patients" in text and "100.0 from 3" in text for text in curve.sentences(table, "value_accuracy"))


def test_models_of_a_sweep_join_with_their_reference(study):
    systems = [("tiny_base", "sft", 60.0), ("tiny_base", "sft-tuning_max_institutions2", 40.0), ("tiny_base", "cpt-sft", 70.0)]
    table = curve.run(study, scored(systems=systems), [])
    found = table[table["metric"] == "average"].set_index("n_institutions")["f1"]
    assert found.to_dict() == {2: 40.0, 3: 60.0} and set(table["stage"]) == {"sft"} and set(table["design"]) == {curve.ALL}


def test_without_unseen_institutions_or_with_one_hospital_there_is_no_curve(study):
    assert curve.run(study, scored(split="dev")).empty and not (study / "results" / "ledger.csv").exists()
    assert "No learning curve" in curve.sentences(pd.DataFrame(columns=curve.COLUMNS))[0]
    file = study / "datasets" / "diagnosis_generation" / "train.jsonl"
    file.write_text("".join(json.dumps(json.loads(line) | {"institution": "a"}) + "\n" for line in file.read_text().splitlines()))
    assert curve.run(study, scored()).empty


def test_tfidf_is_left_out_where_it_cannot_tell_the_answers_apart(study, monkeypatch):
    monkeypatch.setattr(curve.baselines, "MAX_CLASSES", 2)
    assert set(curve.run(study, scored(), ["tfidf", "majority_by_cancer"])["model"]) == {"majority_by_cancer"}


def test_a_curve_that_falls_or_hardly_moves_names_no_number():
    def table(one, two):
        rows = [(k, repeat, f1) for k, values in ((1, one), (2, two)) for repeat, f1 in enumerate(values)]
        return pd.DataFrame([{"model": "tfidf", "stage": "baseline", "task": "diagnosis_generation", "design": curve.ALL, "n_institutions": k, "repeat": repeat, "split": "external",
                              "subgroup": "all", "metric": "average", "f1": f1, "n": 9, "patients": 5, "seen": 1.0} for k, repeat, f1 in rows], columns=curve.COLUMNS)
    assert "bring no gain" in curve.sentences(table([50, 60], [40, 40]))[0]
    assert "no number of hospitals" in curve.sentences(table([50, 60], [58, 60]))[0]
    assert "reached with 2" in curve.sentences(table([50, 52], [70, 71]))[0]


def test_an_unknown_system(study):
    with pytest.raises(UserError, match="curve_systems: 'rules' is unknown"):
        curve.run(study, scored(), ["rules"])


def test_fewer_institutions_of_a_tuning_are_part_of_more():
    read = {"one": [{"institution": name} for name in "abcd" for _ in range(3)], "two": [{"institution": name} for name in "de"]}
    assert training_data.of_first_institutions(read, 0) is read
    sets = [{row["institution"] for rows in training_data.of_first_institutions(read, k).values() for row in rows} for k in range(1, 6)]
    assert [len(names) for names in sets] == [1, 2, 3, 4, 5] and all(small < large for small, large in pairwise(sets))
    with pytest.raises(UserError, match="max_institutions 6: the training examples come from 5 institutions"):
        training_data.of_first_institutions(read, 6)


def test_the_profile_sweeps_what_the_curve_reads():
    made = jobs("institutions")
    stages = made["05_prediction"]["stages"]
    assert "sft" in stages and sorted(int(curve.SWEPT.match(stage)["k"]) for stage in stages if curve.SWEPT.match(stage)) == [4, 8, 16, 32]
    assert "03_continued_pretraining" not in made and made["02_dataset_preparation"]["corpus"] == "tcga" and "06b_independent_cohort" in made
