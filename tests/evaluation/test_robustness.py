"""Curves over damage by hand: which file is which point, the same questions at every rate, areas, changes, interaction, remedies, seeds."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from cancerllm_utils.evaluation import robustness, robustness_files, robustness_seeds, score, stats
from cancerllm_utils.report import results_files

SIDES = ["Left", "Right"]


@pytest.mark.parametrize(("split", "expected"), [
    ("test", ("test", "", 0, "")),
    ("test+misspell20", ("test", "misspell", 20, "")),
    ("test+misspell_attack5+respelled", ("test", "misspell_attack", 5, "respelled")),
    ("external+respelled", ("external", "", 0, "respelled")),
    ("test+upper", ("test", "upper", np.nan, "")),
    ("train+corrupted", ("train", "corrupted", np.nan, "")),
])  # fmt: skip
def test_names_of_test_sets(split, expected):
    found = robustness_files.parse_split(split)
    np.testing.assert_equal((found["split"], found["testbed"], found["rate"], found["remedy"]), expected)


@pytest.mark.parametrize(("stage", "expected"), [
    ("base", ("base", "", 0, "", "")),
    ("cpt-sft", ("cpt-sft", "", 0, "", "")),
    ("cpt-sft-s7", ("cpt-sft", "", 0, "", "s7")),
    ("sft-cf40-s7", ("sft", "labels", 40, "", "s7")),
    ("cpt-sft-cfnear40-filtered", ("cpt-sft", "labels_near", 40, "filtered", "")),
    ("cpt-sft-augmented", ("cpt-sft", "", 0, "augmented", "")),
    ("cpt-sft-lora_r2-s7", ("cpt-sft-lora_r2", "", 0, "", "s7")),
    ("cpt-sft-no-eos", ("cpt-sft-no-eos", "", 0, "", "")),
    ("baseline-cf80", ("baseline", "labels", 80, "", "")),
])  # fmt: skip
def test_names_of_stages(stage, expected):
    found = robustness_files.parse_stage(stage)
    assert (found["stage"], found["labels"], found["label_rate"], found["remedy"], found["seed"]) == expected


class Study:
    """A run folder of one task with questions of one per patient; an answer is right or wrong as its file says."""

    def __init__(self, run, n=8, task="t", fields=("laterality",)):
        self.run, self.task = run, task
        self.gold = {f"e{i}": SIDES[i % 2] for i in range(n)}
        for ring in ("test", "external"):
            self.write(f"datasets/{task}/{ring}", [{"example_id": name, "patient_id": f"p{i}", "note_id": f"n{i}", "field": fields[i % len(fields)], "answers": [gold], "headline": True,
                                                    "institution": f"h{i % 4}"} for i, (name, gold) in enumerate(self.gold.items())])

    def write(self, place, rows):
        path = self.run / f"{place}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def predict(self, stage, split, right, model="m"):
        """right: one character per question, 1 right, 0 the other side, - no answer in the file, ? unreadable."""
        rows = []
        for (name, gold), mark in zip(self.gold.items(), right):
            given = {"1": gold, "0": SIDES[gold == "Left"], "?": "unparsed"}.get(mark)
            if given:
                rows.append({"example_id": name, "prediction": given, "answers": [gold], "parsed": given})
        self.write(f"predictions/{model}/{stage}/{self.task}.{split}", rows)

    def notes(self, noise, train=()):
        """Corpus files for the notes' own noise; train: noise of training notes."""
        names = [f"n{i}" for i in range(len(noise))] + [f"t{i}" for i in range(len(train))]
        people = [f"p{i}" for i in range(len(noise))] + [f"q{i}" for i in range(len(train))]
        (self.run / "corpus").mkdir(exist_ok=True)
        pd.DataFrame({"note_id": names, "ocr_noise": [*noise, *train]}).to_parquet(self.run / "corpus" / "quality.parquet")
        pd.DataFrame({"note_id": names, "patient_id": people}).to_parquet(self.run / "corpus" / "notes.parquet")
        pd.DataFrame({"patient_id": people, "split": ["test"] * len(noise) + ["train"] * len(train)}).to_parquet(self.run / "corpus" / "splits.parquet")


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


def pick(table, **where):
    for column, value in where.items():
        table = table[table[column].isna() if value is None else table[column] == value]
    assert len(table) == 1, table
    return table.iloc[0]


def scored(study):
    found = robustness.curves(study.run)
    return found, robustness.scores(found, n_resamples=200), robustness.effects(found, n_resamples=200)


def test_the_area_is_the_trapezoids_over_the_width():
    assert robustness.area_weights([0, 10, 20, 40]).tolist() == [5 / 40, 10 / 40, 15 / 40, 10 / 40]
    assert robustness.area_weights([0, 80]).sum() == 1


def test_one_curve_by_hand(study):
    study.predict("sft", "test", "11111111")
    study.predict("sft", "test+misspell10", "11110000")
    study.predict("sft", "test+misspell20", "1111000?")
    study.predict("sft", "test+misspell40", "00000000")
    _, scores, tests = scored(study)
    line = scores[(scores["metric"] == "value_accuracy") & (scores["field"] == "all")].sort_values("rate")
    assert list(zip(line["rate"], line["f1"])) == [(0, 100), (10, 50), (20, 50), (40, 0)] and set(line["n"]) == {8} and set(line["left_out"]) == {0}
    assert line["unparsed"].tolist() == [0, 0, 1, 0] and set(line["split"]) == {"test"} and set(line["testbed"]) == {"misspell"}
    area = pick(tests, kind="area", metric="value_accuracy")
    assert area["value"] == pytest.approx(43.75) and area["low"] < 43.75 < area["high"]
    assert pick(tests, kind="change", rate=None, metric="value_accuracy")["value"] == pytest.approx(-56.25)
    worst = pick(tests, kind="change", rate=40, field="all", metric="value_accuracy")
    assert (worst["value"], worst["n"], worst["patients"]) == (-100, 8, 8)
    assert worst["p"] == pytest.approx(2 / 2**8)  # all eight patients lose: of 256 flips of their signs two are as extreme
    assert worst["p_holm"] == pytest.approx(3 * worst["p"]), "three rates were tested"


def test_a_question_that_one_system_lacks_at_one_rate_counts_nowhere(study):
    study.predict("sft", "test", "11111110")
    study.predict("sft", "test+misspell20", "1110----")
    study.predict("base", "test", "00001111")
    study.predict("base", "test+misspell20", "-0000000")
    _, scores, _ = scored(study)
    rows = scores[scores["metric"] == "value_accuracy"].set_index(["stage", "rate"])
    assert rows.loc[("sft", 0), ["f1", "n", "left_out"]].tolist() == [100, 3, 5] and rows.loc[("sft", 20), "f1"] == pytest.approx(200 / 3)
    assert rows.loc[("base", 0), ["f1", "n"]].tolist() == [0, 3]


def test_what_changes_nothing_has_no_effect_and_a_flat_curve(study):
    for split in ("test", "test+ocr10", "test+ocr40"):
        study.predict("cpt-sft", split, "11010011")
        study.predict("sft", split, "11000011")
    _, _, tests = scored(study)
    assert set(tests.loc[tests["kind"].isin(["change", "cpt"]), "value"]) == {0} and set(tests["p"].dropna()) == {1}
    assert pick(tests, kind="area", stage="sft", metric="value_accuracy")["value"] == 50


def test_does_pretraining_keep_more_by_hand(study):
    for stage, damaged in (("sft", "11000000"), ("cpt-sft", "11111100")):
        study.predict(stage, "test", "11111111")
        study.predict(stage, "test+ocr20", damaged)
    _, _, tests = scored(study)
    kept = pick(tests, kind="cpt", rate=20, metric="value_accuracy")
    assert kept["value"] == 50 and kept["n"] == 8 and pd.isna(kept["p"])  # -25 against -75
    over = pick(tests, kind="cpt", rate=None, metric="value_accuracy")
    assert over["value"] == 25 and over["p"] == pytest.approx(2 / 2**4) and over["low"] < 25 < over["high"]  # half of it under the trapezoid
    study.predict("cpt-sft", "test+ocr40", "11000000")
    assert "cpt" not in set(scored(study)[2]["kind"]), "curves with other rates have no common area"


def test_all_tasks_are_taken_together_question_by_question(tmp_path):
    for task, damaged in (("a", "11110000"), ("b", "11111111")):
        study = Study(tmp_path, task=task)
        for stage in ("sft", "cpt-sft"):
            study.predict(stage, "test", "11111111")
            study.predict(stage, "test+ocr20", damaged if stage == "sft" else "11111111")
    _, _, tests = scored(study)
    together = pick(tests, kind="cpt", task="all", metric="value_accuracy")
    assert together["value"] == pytest.approx(12.5) and (together["n"], together["patients"]) == (16, 8)


def test_a_remedy_has_a_gain_and_a_price(study):
    for name, right in {"test": "11111111", "test+misspell20": "11000000", "test+misspell20+respelled": "11111000", "test+respelled": "11111110"}.items():
        study.predict("sft", name, right)
    study.predict("sft-augmented", "test", "11111100")
    study.predict("sft-augmented", "test+misspell20", "11110000")
    _, scores, tests = scored(study)
    gain = tests[(tests["kind"] == "remedy") & (tests["metric"] == "value_accuracy")].set_index(["remedy", "rate"])["value"]
    assert gain.to_dict() == {("respelled", 0): -12.5, ("respelled", 20): 37.5, ("augmented", 0): -25, ("augmented", 20): 25}
    assert pick(tests, kind="change", remedy="respelled", rate=20, field="all", metric="value_accuracy")["value"] == -25, "against the clean text through the same remedy"
    assert set(scores["stage"]) == {"sft"} and set(scores["remedy"]) == {"", "respelled", "augmented"}


def test_altered_labels_are_a_curve_over_the_training_on_clean_questions_of_every_ring(study):
    for ring in ("test", "external"):
        for stage, right in {"sft": "11111111", "sft-cf40": "11110000", "sft-cf40-filtered": "11111100", "sft-cfnear40": "11111000", "cpt": "00000000"}.items():
            study.predict(stage, ring, right)
        study.predict("sft-cf40", f"{ring}+respelled", "00000000")  # a mended text has no part in it
        study.predict("baseline", ring, "11111111", model="tfidf")
        study.predict("baseline-cf40", ring, "11111110", model="tfidf")
    found, _, tests = scored(study)
    assert list(found) == [("t", "test", "labels"), ("t", "test", "labels_near"), ("t", "external", "labels"), ("t", "external", "labels_near")]
    assert set(found["t", "test", "labels"]["points"]) == {("m", "sft", ""), ("m", "sft", "filtered"), ("tfidf", "baseline", "")}
    change = tests[(tests["kind"] == "change") & tests["rate"].notna() & (tests["metric"] == "value_accuracy") & (tests["split"] == "test")]
    assert change.set_index(["stage", "testbed"])["value"].to_dict() == {("sft", "labels"): -50, ("baseline", "labels"): -12.5, ("sft", "labels_near"): -37.5}
    assert pick(tests, kind="remedy", split="external", metric="value_accuracy", rate=40)["value"] == 25


def test_a_stage_of_altered_labels_under_damage_is_a_system_of_its_own(study):
    for split, right in (("test", "11110000"), ("test+ocr20", "11000000")):
        study.predict("sft-cf40", split, right)
        study.predict("sft", split, "11111111")
    found = robustness.curves(study.run)
    assert set(found["t", "test", "ocr"]["points"]) == {("m", "sft", ""), ("m", "sft-cf40", "")}
    assert sorted(found["t", "test", "ocr"]["points"]["m", "sft-cf40", ""]) == [0, 20]


def test_seeds_are_averaged_and_their_luck_widens_the_interval(study):
    for seed, right in (("", "11110000"), ("-s7", "11111111"), ("-s9", "11111100")):
        study.predict(f"sft{seed}", "test", "11111111")
        study.predict(f"sft{seed}", "test+ocr20", right)
    _, scores, tests = scored(study)
    row = pick(scores, rate=20, field="all", metric="value_accuracy")
    assert row["f1"] == 75 and row["seeds"] == 3 and row["seed_sd"] == 25
    # seeds: t(0.975, 2) * 25 / sqrt(3) = 62.1 points either way, patients: about 17; as squares 64.3
    assert row["f1_low"] == pytest.approx(75 - 64.3, abs=3) and row["f1_high"] == 100
    change = pick(tests, kind="change", rate=20, field="all", metric="value_accuracy")
    alone = robustness.estimate(np.array([[[-50.0]], [[0.0]]] * 4), np.arange(8), "percentile", 200, 0)[0]
    assert change["value"] == -25 and change["seeds"] == 3 and change["high"] - change["low"] > 2 * (alone["high"] - alone["low"])


def test_the_luck_of_training_is_pooled_over_rates_that_were_trained_separately():
    shared = {0.0: (60, 66, 72), 40.0: (50, 56, 62), 80.0: (30, 33, 48)}  # seeds' scores at each rate, of one question
    curve = {rate: {f"s{i}": np.array([[value]], dtype=float) for i, value in enumerate(values)} for rate, values in shared.items()}
    everything = np.array([True])
    error, freedom = robustness_seeds.of_points(curve, everything)
    assert freedom == 6 and error[0] == pytest.approx(np.sqrt((72 + 72 + 186) / 6 / 3))  # squares about the rates' means 66, 56, 37
    table = np.array(list(shared.values()), dtype=float)
    rest = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    error, freedom, seeds = robustness_seeds.of_contrast(curve, {80.0: 1.0, 0.0: -1.0}, everything, trained=True)
    assert (freedom, seeds) == (4, 3) and error[0] == pytest.approx(np.sqrt(2 * (rest**2).sum() / 4))
    error, freedom, _ = robustness_seeds.of_contrast(curve, {80.0: 1.0, 0.0: -1.0}, everything, trained=False)
    assert freedom == 2 and error[0] == pytest.approx(np.std([-30, -33, -24], ddof=1))
    assert robustness_seeds.of_points({0.0: {"": np.ones((1, 1))}, 40.0: {"": np.ones((1, 1))}}, everything) is None, "one seed tells nothing"


def test_with_two_rates_a_pooled_change_is_the_paired_one():
    curve = {0.0: {"a": np.array([[60.0]]), "b": np.array([[66.0]])}, 40.0: {"a": np.array([[50.0]]), "b": np.array([[40.0]])}}
    pooled, paired = (robustness_seeds.of_contrast(curve, {40.0: 1.0, 0.0: -1.0}, np.array([True]), trained) for trained in (True, False))
    assert pooled[0][0] == pytest.approx(paired[0][0]) == pytest.approx(np.sqrt(128)) and pooled[1:] == paired[1:] == (1, 2)


def test_a_system_trained_once_is_taken_to_be_as_lucky_as_the_other():
    own = (np.array([6.0]), 8, 3)
    error, freedom = robustness_seeds.of_difference(own, None)
    assert error[0] == pytest.approx(6 * np.sqrt(1 / 3 + 1)) and freedom[0] == 8
    error, freedom = robustness_seeds.of_difference(own, (np.array([6.0]), 8, 3))
    assert error[0] == pytest.approx(6 * np.sqrt(2 / 3)) and freedom[0] == pytest.approx(16)
    assert robustness_seeds.of_difference(None, None) is None


def test_intervals_of_points_and_changes_with_pooled_luck_cover():
    rng, rates, hit = np.random.default_rng(5), [0.0, 20.0, 40.0, 60.0, 80.0], np.zeros(2)
    for _ in range(400):  # one question, three seeds: a seed moves all rates by 2 points, each training by 4
        seeds = {name: rng.normal(0, 2) for name in "abc"}
        curve = {rate: {name: np.array([[50 - rate / 4 + seeds[name] + rng.normal(0, 4)]]) for name in seeds} for rate in rates}
        point, change = (np.mean([values[0, 0] for values in curve[rate].values()]) for rate in (0.0, 80.0))
        reach = robustness_seeds.reach(robustness_seeds.of_points(curve, np.array([True])))[0]
        wide = robustness_seeds.reach(robustness.mean_luck(robustness_seeds.of_contrast(curve, {80.0: 1.0, 0.0: -1.0}, np.array([True]), True)))[0]
        hit += abs(point - 50) <= reach, abs(change - point + 20) <= wide
    assert 0.91 <= hit[0] / 400 <= 0.975, "trainings of one seed are not quite independent"
    assert 0.925 <= hit[1] / 400 <= 0.975


def test_p_with_luck_is_a_t_test_of_both_errors():
    assert robustness_seeds.p_value(10, (3, 20), (4, 8)) == pytest.approx(2 * scipy_stats.t.sf(2, 625 / (81 / 20 + 256 / 8)))
    assert robustness_seeds.p_value(0, (0, 20), (0, 8)) == 1


def test_trainings_that_disagree_take_the_certainty_from_a_loss(study):
    for seed, right in (("", "11110000"), ("-s7", "11111111"), ("-s9", "00000000")):
        study.predict(f"sft{seed}", "test", "11111111")
        study.predict(f"sft-cf40{seed}", "test", right)
    _, _, tests = scored(study)
    change = pick(tests, kind="change", rate=40, field="all", metric="value_accuracy")
    values = [-100 / 3] * 4 + [-200 / 3] * 4  # of each question, mean over the trainings
    assert change["value"] == -50 and change["seeds"] == 3 and change["low"] < -100 < 0 < change["high"], "three trainings lose 50, 0 and 100"
    assert change["p"] > 0.2 > stats.permutation_test(values, [0] * 8, range(8))


def test_pretraining_with_three_seeds_against_one_holds_the_luck_of_both(study):
    for seed, right in (("", "11111100"), ("-s7", "11111110"), ("-s9", "11110000")):
        study.predict(f"cpt-sft{seed}", "test", "11111111")
        study.predict(f"cpt-sft-cf40{seed}", "test", right)
    study.predict("sft", "test", "11111111")
    study.predict("sft-cf40", "test", "11000000")
    _, _, tests = scored(study)
    row = pick(tests, kind="cpt", rate=40, metric="value_accuracy")
    losses = [-25, -12.5, -50]
    reach = scipy_stats.t.ppf(0.975, 2) * np.std(losses, ddof=1) * np.sqrt(1 / 3 + 1)
    assert row["value"] == pytest.approx(np.mean(losses) + 75) and row["seeds"] == 3 and row["high"] - row["value"] >= reach


def test_a_seed_that_one_rate_lacks_counts_at_none(study):
    for seed, right in (("", "11111111"), ("-s7", "00000000")):
        study.predict(f"sft{seed}", "test", right)
    study.predict("sft", "test+ocr20", "11110000")
    _, scores, tests = scored(study)
    assert scores[scores["metric"] == "value_accuracy"].set_index("rate")[["f1", "seeds"]].to_numpy().tolist() == [[100, 1], [50, 1]]
    assert pick(tests, kind="change", rate=20, field="all", metric="value_accuracy")["value"] == -50


def test_unequal_seeds_are_compared_by_their_means(study):
    study.predict("sft", "test", "11111111")
    study.predict("sft-cf40-s7", "test", "11110000")
    study.predict("sft-cf40-s9", "test", "11111100")
    _, _, tests = scored(study)
    assert pick(tests, kind="change", rate=40, field="all", metric="value_accuracy")["value"] == -37.5
    assert pick(tests, kind="area", metric="value_accuracy")["value"] == pytest.approx((100 + 62.5) / 2)


def test_fields_have_limits_and_no_test(tmp_path):
    study = Study(tmp_path, fields=("laterality", "side"))
    study.predict("sft", "test", "11111111")
    study.predict("sft", "test+ocr20", "10101010")
    _, scores, tests = scored(study)
    single = tests[(tests["kind"] == "change") & (tests["field"] != "all") & (tests["metric"] == "value_accuracy")].set_index("field")
    assert single["value"].to_dict() == {"laterality": 0, "side": -100} and single["p"].isna().all() and set(single["n"]) == {4}
    assert set(scores["field"]) == {"all", "laterality", "side"}


def test_methods_that_read_no_text_are_not_tested(study):
    for split in ("test", "test+ocr20"):
        study.predict("baseline", split, "11110000", model="majority")
        study.predict("sft", split, "11110000" if split == "test" else "00000000")
    _, _, tests = scored(study)
    assert tests.loc[tests["model"] == "majority", "p"].isna().all()
    own = pick(tests, model="m", kind="change", rate=20, field="all", metric="average")
    assert own["p_holm"] == own["p"], "the only one that was tested"


def test_rate_zero_is_the_score_of_notebook_06(study):
    study.predict("sft", "test", "1110?000")
    study.predict("sft", "test+ocr20", "00000000")
    table = score.score_run(study.run, n_resamples=200, seed=42)
    _, scores, _ = scored(study)
    for metric in ("average", "value_accuracy"):
        mine, theirs = pick(scores, rate=0, metric=metric), pick(table, variant="all", field="all", subgroup="all", metric=metric, family=robustness.METRICS[metric])
        assert mine[["f1", "f1_low", "f1_high", "n", "unparsed"]].tolist() == pytest.approx(theirs[["f1", "f1_low", "f1_high", "n", "unparsed"]].tolist())


def test_extraction_counts_its_headline_items(tmp_path):
    study = Study(tmp_path, task="phenotype_extraction")
    path = tmp_path / "datasets/phenotype_extraction/test.jsonl"
    rows = [json.loads(line) | {"headline": i < 3} for i, line in enumerate(path.read_text().splitlines())]
    study.write("datasets/phenotype_extraction/test", rows)
    study.predict("sft", "test", "11100000")
    study.predict("sft", "test+ocr20", "00011111")
    _, scores, _ = scored(study)
    rows = scores[scores["metric"] == "value_accuracy"].set_index("rate")
    assert rows["f1"].to_dict() == {0: 100, 20: 0} and set(rows["n"]) == {3} and set(rows["subgroup"]) == {"headline"}


def test_the_notes_own_noise_is_cut_on_training_notes(study):
    study.predict("sft", "test", "11110000")
    study.notes([0.01] * 4 + [0.15] * 4, train=[0.0] * 3 + [0.1] * 3 + [0.2] * 3)  # cut at 0.1; all notes together would be cut at 0.15
    rows, changes = robustness.natural(study.run, "test", n_resamples=200)
    accuracy = rows[rows["metric"] == "value_accuracy"].set_index("subgroup")
    assert accuracy["f1"].to_dict() == {"clean": 100, "heavy": 0} and accuracy["n"].to_dict() == {"clean": 4, "heavy": 4}
    assert accuracy["rate"].to_dict() == {"clean": pytest.approx(1), "heavy": pytest.approx(15)}
    assert pick(changes, metric="value_accuracy")["value"] == -100
    study.notes([0.0] * 8, train=[0.0] * 3)
    assert len(robustness.natural(study.run, "test")[1]) == 0, "all notes are clean"


def test_a_whole_run_writes_described_tables_and_one_line_of_the_ledger_per_ring(study):
    study.notes([0.0] * 4 + [0.3] * 4, train=[0.0, 0.0])
    for split in ("test", "test+ocr20", "test+upper", "train+corrupted"):
        study.predict("sft", split, "11110000")
    both = robustness.run(study.run, n_resamples=50, why="a look")
    assert list(both["scores"]) == robustness.COLUMNS and list(both["tests"]) == robustness.TEST_COLUMNS
    for name in ("robustness", "robustness_tests"):
        assert list(pd.read_csv(study.run / "results" / f"{name}.csv")) == list(both["scores" if name == "robustness" else "tests"])
    assert set(both["scores"]["testbed"]) == {"ocr", "natural"}
    ledger = pd.read_csv(study.run / "results" / "ledger.csv")
    assert ledger[["split", "why"]].to_numpy().tolist() == [["test", "a look"]]
    assert results_files.undescribed(study.run) == []


def test_a_run_without_damage_gives_empty_tables(study):
    study.notes([0.0] * 8)
    study.predict("sft", "test", "11110000")
    both = robustness.run(study.run)
    assert set(both["scores"]["testbed"]) == {"natural"} and both["tests"].empty and list(both["tests"]) == robustness.TEST_COLUMNS
    assert not (study.run / "results" / "ledger.csv").exists()
