"""Sentences and tables about robustness: every number from the tables, every verdict earned, and a word where a part was not run."""

import json

import pandas as pd
import pytest

from cancerllm_utils import study
from cancerllm_utils.evaluation import consistency, robustness, robustness_files
from cancerllm_utils.evaluation import robustness_words as words

MAIN = ("tiny_base", "cpt-sft")


def a_test(kind="change", value=-10.0, low=-15.0, high=-5.0, **more):
    """One row of TEST_COLUMNS."""
    row = {"kind": kind, "model": MAIN[0], "stage": MAIN[1], "task": "phenotype_extraction", "split": "test", "field": "all", "family": "paper", "metric": "average", "testbed": "misspell",
           "rate": 40.0, "remedy": "", "value": value, "low": low, "high": high, "p": 0.01, "p_holm": 0.02, "n": 100, "patients": 80, "seeds": 1}
    return row | more


def table_of(*rows):
    return pd.DataFrame(rows, columns=robustness.TEST_COLUMNS)


def field(name, value, low, high, n=100, **more):
    return a_test(value=value, low=low, high=high, field=name, n=n, patients=n, metric="value_accuracy", p=None, p_holm=None, **more)


def scores_of(*rows):
    """Rows of COLUMNS: (testbed, rate, f1, remedy, subgroup)."""
    shared = {"model": MAIN[0], "stage": MAIN[1], "task": "phenotype_extraction", "variant": "all", "split": "test", "field": "all", "family": "paper", "metric": "average", "n": 100,
              "unparsed": 0, "seed": 42, "seeds": 1, "patients": 80, "left_out": 3}
    return pd.DataFrame([shared | {"testbed": t, "rate": r, "f1": f, "f1_low": f - 4, "f1_high": f + 4, "remedy": m, "subgroup": s} for t, r, f, m, s in rows], columns=robustness.COLUMNS)


def test_a_field_survives_only_where_the_margin_is_excluded():
    changes = words.field_changes(table_of(
        field("laterality", -1, -4.9, 2), field("size", -20, -30, -10), field("grade", -3, -9, 1), field("small_but_certain", -2, -4, -1), field("edge", -3, -5, -1),
        field("few", 0, 0, 0, n=19), field("laterality", -30, -40, -20, rate=20.0), a_test(metric="value_accuracy"),
    ), *MAIN)  # fmt: skip
    assert changes.set_index("field")["verdict"].to_dict() == {"laterality": words.SURVIVES, "size": words.LOST, "grade": words.OPEN, "small_but_certain": words.SURVIVES, "edge": words.LOST}
    (text,) = words.field_sentences(changes, "tiny_base, cpt-sft")
    assert "at 40 %" in text and text.index("excluded: small_but_certain") < text.index("lost for certain: size") < text.index("with so few questions: grade")


@pytest.mark.parametrize(("n", "verdict"), [(20, words.OPEN), (71, words.OPEN), (72, words.SURVIVES)])
def test_no_flip_at_all_is_no_certainty(n, verdict):
    # the exact upper limit of losses of n patients without one is 1 - 0.025 ** (1 / n): 5.06 % for 71, 4.99 % for 72
    (row,) = words.field_changes(table_of(field("laterality", 0, 0, 0, n=n)), *MAIN).itertuples()
    assert row.verdict == verdict and row.low == pytest.approx(-100 * (1 - 0.025 ** (1 / n)))


def test_a_task_with_one_field_is_a_row_of_its_own():
    changes = words.field_changes(table_of(a_test(task="diagnosis_generation", metric="value_accuracy"), a_test(metric="value_accuracy"), field("size", -20, -30, -10)), *MAIN)
    assert set(zip(changes["task"], changes["field"])) == {("diagnosis_generation", "diagnosis generation"), ("phenotype_extraction", "size")}


@pytest.mark.parametrize(("value", "p", "verdict"), [(2.0, 0.01, "? Yes:"), (-2.0, 0.01, "? No, it costs robustness:"), (2.0, 0.2, "? Not shown:")])
def test_does_pretraining_buy_robustness_in_a_sentence(value, p, verdict):
    rows = [a_test("cpt", value, value - 1, value + 1, task="all", rate=None, p_holm=p), a_test("cpt", 9.5, 9, 10, rate=None), a_test("cpt", 77, 70, 80, rate=40.0)]
    (text,) = words.pretraining_sentences(table_of(*rows))
    assert verdict in text and "phenotype extraction +9.5 (+9.0 to +10.0)" in text and "77" not in text and "95 % interval" in text and "n = 100" in text


@pytest.mark.parametrize(("own", "other", "said"), [
    (1, 1, "Each was trained once: the interval knows nothing of the luck of training"),
    (3, 1, "(cpt-sft was trained 3 times, sft 1); what was trained once is taken to be as lucky as the other."),
    (3, 3, "(cpt-sft was trained 3 times, sft 3)."),
])  # fmt: skip
def test_a_verdict_on_pretraining_names_the_trainings_behind_it(own, other, said):
    of = {"testbed": "labels", "rate": None}
    (text,) = words.pretraining_sentences(table_of(a_test("cpt", 2, 1, 3, **of), a_test("area", 50, 40, 60, seeds=own, **of), a_test("area", 50, 40, 60, seeds=other, stage="sft", **of)))
    assert said in text


def test_fields_are_summed_over_all_kinds_of_damage():
    rows = [field(name, value, low, high, testbed=testbed) for testbed, change in {"misspell": (0, -2, 2), "ocr": (-1, -3, 2)}.items() for name, (value, low, high) in
            {"laterality": change, "size": (-20, -30, -10) if testbed == "ocr" else change, "grade": (-3, -9, 1) if testbed == "ocr" else change}.items()]
    (text,) = words.survival_sentences(words.field_changes(table_of(*rows), *MAIN), "m")
    survived, lost, untold = text.split(". ")[1:]
    assert survived.endswith("by: laterality (phenotype extraction) (2)") and text.startswith("m, 2 kinds of damage")
    assert lost.endswith("size (phenotype extraction) under 1 of 2, worst scanner errors −20.0 (−30.0 to −10.0)") and untold.endswith("grade (phenotype extraction) under 1 of 2.")
    assert words.survival_sentences(words.field_changes(table_of(), *MAIN), "m") == []


def test_what_the_corrector_repaired_and_broke(tmp_path):
    (tmp_path / "results").mkdir()
    assert words.repair_sentences(tmp_path) == []
    table = pd.DataFrame([["misspell", 0.4, "", None, None, None, None], ["misspell", 0.4, "respelled", 200, 0.8, 0.05, 0.002], [None, 0, "respelled", 0, None, None, 0.003]],
                         columns=["testbed", "rate", "remedy", "damaged", "restored", "wrong", "intact_changed"])  # fmt: skip
    table.to_csv(tmp_path / "results" / "perturbed_text.csv", index=False)
    assert words.repair_sentences(tmp_path) == ["Spelling corrector, misspellings at 40 %: of 200 damaged words 80.0 % were given back and 5.0 % made another word; 0.20 % of the words without "
                                                "damage were changed. words of the clean notes: 0.30 % of the words without damage were changed."]


def test_curves_name_the_change_at_the_highest_rate_and_count_what_was_tested():
    tests = table_of(a_test(), a_test(value=-3, rate=10.0, p_holm=0.4), a_test(value=-6, rate=None, p=None, p_holm=None), a_test("area", 55, 50, 60, rate=None, p=None))
    (text,) = words.curve_sentences(tests, [MAIN])
    assert "at 40 % of the words" in text and "−10.0 (−15.0 to −5.0)" in text and "Of 2 changes" in text and "1 are losses" in text
    table = words.curve_table(scores_of(("misspell", 0, 60, "", "all"), ("misspell", 10, 57, "", "all"), ("misspell", 40, 45, "", "all"), ("misspell", 40, 99, "respelled", "all")), tests)
    (row,) = table.to_dict("records")
    assert row["0 %"] == "60.0" and row["40 %"] == "45.0" and row["kept"] == "75 %" and row["area"] == "55.0 (50.0 to 60.0)" and row["left out"] == 3


def test_a_remedy_is_praised_and_priced_only_for_what_is_no_chance():
    remedy = {"kind": "remedy", "remedy": "respelled"}
    tests = table_of(a_test(**remedy, value=6, low=3, high=9, rate=40.0), a_test(**remedy, value=-2, low=-3, high=-1, rate=0.0, p_holm=0.3))
    (text,) = words.remedy_sentences(tests, [MAIN])
    assert "it helps: +6.0 (+3.0 to +9.0)" in text and "undamaged" not in text and "on clean text −2.0 (−3.0 to −1.0), no price that can be told from chance" in text
    (row,) = words.remedy_table(scores_of(), tests).to_dict("records")
    assert row["undamaged"] == "−2.0 (−3.0 to −1.0)" and row["at 40 %"].endswith("*") and row["n"] == 100
    worse = tests.assign(value=-tests["value"], low=-tests["high"], high=-tests["low"], p_holm=[0.9, 0.001])
    assert "its effect cannot be told from chance" in words.remedy_sentences(worse, [MAIN])[0]
    priced = tests.assign(p_holm=0.001)
    assert "a price that is no chance" in words.remedy_sentences(priced, [MAIN])[0]


def test_the_notes_own_noise_in_words():
    scores = scores_of((robustness.NATURAL, 1.1, 60, "", "clean"), (robustness.NATURAL, 9.0, 40, "", "heavy"))
    (text,) = words.natural_sentences(scores, table_of(a_test("natural", -20, -30, -10, testbed="natural", p_holm=0.0004)), [MAIN])
    assert "60.0 points (56.0 to 64.0) on clean notes (1.1 % of their words damaged, n = 100)" in text and "from clean to heavy −20.0 (−30.0 to −10.0), p after Holm < 0.001" in text
    assert "nothing to compare" in words.natural_sentences(scores[:1], table_of(), [MAIN])[0]


def test_the_paper_is_quoted_only_for_what_is_certain():
    table = words.paper_table(table_of(a_test(), a_test(testbed="labels", rate=80.0, value=-7, low=-9, high=-5)), [MAIN])
    claims = " ".join(table["the paper"])
    assert [number for number in claims.replace(".", " ").split() if number.isdigit()] == ["80"], "a number of the paper that is not certain"
    ours = table.set_index("the paper").iloc[:, 0].tolist()
    assert "wrong training labels 80 %" in ours[0] and "−10.0" in ours[1] and ours[2] == "was not run in this profile"


def test_what_was_run_is_counted_and_the_luck_of_training_named():
    scores = scores_of(("misspell", 0, 60, "", "all"), ("misspell", 40, 45, "", "all"), (robustness.NATURAL, 1, 45, "", "clean"))
    text, missing = words.coverage_sentences(scores, pd.DataFrame({"change": ["upper", "wording"]}))
    assert text == "Misspellings, held-out patients: 0, 40 % of the words; systems: 1, tasks: 1, questions that all systems answered: 100 (left out: 3), training seeds: 1."
    assert "scanner errors" in missing and "other line breaks" in missing and "capitals" not in missing
    several = words.coverage_sentences(scores.assign(seeds=3, seed_sd=[1.0, 2.0, 9.0]), pd.DataFrame({"change": []}))[0]
    assert "training seeds: 3, between which a point varies by 1.5 points" in several
    assert not any("taken" in text or "takes it" in text for text in words.coverage_sentences(scores.assign(seeds=3), pd.DataFrame({"change": []})))
    assert "to be the same at every rate" in words.coverage_sentences(scores.assign(seeds=3, testbed="labels"), pd.DataFrame({"change": []}))[1]


def test_flips_in_words():
    row = {"model": MAIN[0], "stage": MAIN[1], "task": "phenotype_extraction", "split": "test", "field": "all", "change": "upper", "n": 50, "patients": 40, "flips": 20.0, "low": 10.0,
           "high": 30.0, "right_to_wrong": 5.0, "wrong_to_right": 1.0, "wrong_to_wrong": 14.0}
    none = dict.fromkeys(consistency.KINDS)
    rows = [row, row | {"change": "wording", "flips": 4.0}, row | {"change": "any", "flips": 22.0} | none, row | {"change": "any", "field": "pT", "flips": 8.0, "n": 25} | none,
            row | {"change": "any", "field": "pN", "flips": 31.0, "n": 25} | none, row | {"change": "any", "field": "few", "flips": 99.0, "n": 19} | none]
    table = pd.DataFrame(rows, columns=consistency.COLUMNS)
    (text,) = consistency.sentences(table, [MAIN])
    assert "capitals only does most, 20.0 %" in text and "22.0 % flip under at least one change" in text and "most steady is pT (8.0 %" in text and "least pN (31.0 %" in text and "99" not in text
    assert "no answer flips under any of the changes (10.0 to 30.0 %, n = 50)" in consistency.sentences(table.assign(flips=0.0), [MAIN])[0]
    assert consistency.by_field(table, *MAIN).to_numpy().tolist() == [["Phenotype extraction", "all", "20 (n = 50)", "4 (n = 50)", "22 (n = 50)"],
                                                                          ["Phenotype extraction", "pN", "", "", "31 (n = 25)"], ["Phenotype extraction", "pT", "", "", "8 (n = 25)"]]
    shown = consistency.shown(table)
    assert len(shown) == 3 and shown["right to wrong"].tolist() == ["5.0", "5.0", ""]


def test_what_was_not_run_is_said_and_nothing_breaks():
    scores, tests, flips = (pd.DataFrame(columns=columns) for columns in (robustness.COLUMNS, robustness.TEST_COLUMNS, consistency.COLUMNS))
    for sentences in (words.curve_sentences(tests, []), words.pretraining_sentences(tests), words.remedy_sentences(tests, []), consistency.sentences(flips, []),
                      words.filter_sentences(pd.DataFrame(columns=["task", "field"]))):
        assert len(sentences) == 1 and "was not run in this profile" in sentences[0]
    assert "No field under damage has 20 questions" in words.field_sentences(words.field_changes(tests, *words.main_system(scores)), "")[0]
    assert "No clean answers" in words.natural_sentences(scores, tests, [])[0]
    (missing,) = words.coverage_sentences(scores, flips)
    assert all(name in missing for name in ("misspellings", "abbreviations", "wrong training labels", "capitals only")) and "own OCR" not in missing
    assert words.curve_table(scores, tests).empty and words.remedy_table(scores, tests).empty and consistency.shown(flips).empty
    assert set(words.paper_table(tests, []).iloc[:, 1]) == {"was not run in this profile"}


def test_examples_are_lost_answers_of_synthetic_notes_with_what_became_of_the_words(tmp_path):
    notes = [f"{'Filler. ' * 9}The tumour lies in the {side} lobe." for side in ("left", "right", "left")]
    items = [{"example_id": f"e{i}", "patient_id": f"p{i}", "note_id": f"n{i}", "field": "laterality", "answers": [side]} for i, side in enumerate(("Left", "Right", "Left"))]
    for name, given in {"test": ["Left", "Right", "Right"], "test+misspell10": ["Right", "Right", "Right"], "test+misspell40": ["Left", "not stated", "Right"]}.items():
        path = tmp_path / "predictions" / MAIN[0] / MAIN[1] / f"t.{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"example_id": item["example_id"], "prediction": value, "parsed": value, "answers": item["answers"]}) + "\n" for item, value in zip(items, given)))
    (tmp_path / "datasets" / "t").mkdir(parents=True)
    (tmp_path / "datasets" / "t" / "test.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "corpus" / "perturbed").mkdir(parents=True)
    start = notes[1].index("right")
    pd.DataFrame({"note_id": ["n0", "n1", "n2"], "text": notes}).to_parquet(tmp_path / "corpus" / "notes.parquet")
    pd.DataFrame({"note_id": ["n0", "n1", "n2"], "text": [note.replace("Filler", "Fillre").replace("right", "rigth") for note in notes]}).to_parquet(tmp_path / "corpus/perturbed/misspell40.parquet")
    pd.DataFrame({"note_id": ["n1"], "field": ["laterality"], "quote_start": [start], "quote_end": [start + 5]}).to_parquet(tmp_path / "corpus" / "labels.parquet")
    assert words.examples(tmp_path, *MAIN).empty, "no word of a note that is not known to be synthetic"
    (tmp_path / "datasets" / "settings.json").write_text('{"corpus": "synthetic"}')
    assert words.examples(tmp_path, *MAIN).to_numpy().tolist() == [["misspellings 40 %", "laterality", "right", "rigth", "Right", "not stated"]]
    (tmp_path / "datasets" / "settings.json").write_text('{"corpus": "tcga"}')
    assert words.examples(tmp_path, *MAIN).empty


def test_every_testbed_and_change_that_can_be_made_has_a_name():
    from cancerllm_utils.evaluation import perturb

    known = robustness_files.words()
    assert set(perturb.PERTURBATIONS) == set(known["testbeds"]) - {*known["training"], robustness.NATURAL} | set(known["meaning_kept"])
    assert set(perturb.REMEDIES) <= set(known["remedies"])
    assert all(name in known["testbeds"] for entry in known["paper"] for name in entry["testbeds"])


def test_the_notebook_runs_where_it_is_named():
    assert not [job for job in study.jobs("quick") if job.startswith("07")]
    before = study.needs("07_robustness", {"07_robustness": {}, "06_evaluation": {}, "05c_perturbed_prediction": {}, "05_prediction": {}})
    assert set(before) == {"06_evaluation", "05c_perturbed_prediction"}
