"""Radiation oncology: the physics by hand, the regimen table, scores and tests on answers of known worth."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cancerllm_utils.evaluation import plans, radonc


@pytest.mark.parametrize(
    ("gy", "fractions", "ratio", "bed", "eqd2"),
    [
        (60, 30, 10, 72.0, 60.0),  # 2 Gy a fraction is its own EQD2, whatever the tissue
        (60, 30, 1.5, 140.0, 60.0),
        (60, 20, 1.5, 180.0, 180 / (1 + 2 / 1.5)),  # CHHiP: 77.1 Gy for a prostate
        (40, 15, 3.5, 40 * (1 + 40 / 15 / 3.5), 44.85),  # START-B: 44.8 Gy for a breast cancer
        (54, 3, 10, 151.2, 126.0),
        (8, 1, 10, 14.4, 12.0),
    ],
)
def test_bed_and_eqd2_by_hand(gy, fractions, ratio, bed, eqd2):
    assert radonc.bed(gy, fractions, ratio) == pytest.approx(bed)
    assert radonc.eqd2(gy, fractions, ratio) == pytest.approx(eqd2, abs=0.01)


def test_fewer_fractions_of_the_same_dose_never_weigh_less():
    for ratio in (1.5, 3.5, 10):
        effects = [radonc.eqd2(60, n, ratio) for n in range(40, 0, -1)]
        assert effects == sorted(effects)


def test_tissue_decides_alpha_beta():
    assert (radonc.alpha_beta("PRAD"), radonc.alpha_beta("BRCA"), radonc.alpha_beta("GBM")) == (1.5, 3.5, 10)
    assert all(entry["source"] for entry in radonc.rules()["alpha_beta"].values())


@pytest.mark.parametrize(
    ("answer", "eqd2"),
    [
        ("brachytherapy | 21 Gy | 3 fractions | vaginal vault", 21 * 1.7 / 1.2),  # by hand: BED 21 (1 + 7 / 10) = 35.7 Gy
        ("brachytherapy | 27 Gy | 2 fractions | prostate", 27 * 2.35 / 1.2),  # 13.5 Gy, the largest fraction of the table
        ("brachytherapy | 145 Gy | 1 fraction | prostate", None),  # a permanent implant
        ("brachytherapy | 15 Gy | 1 fraction | cervix", None),  # a single application: its dose rate is not known
        ("brachytherapy | 40 Gy | 2 fractions | cervix", None),  # two insertions at a low dose rate
        ("external beam + brachytherapy | 66 Gy | 28 fractions | cervix", None),  # no equal fractions
        ("stereotactic | 54 Gy | 3 fractions | lung", 126.0),
    ],
)
def test_eqd2_of_brachytherapy_only_in_fractions(answer, eqd2):
    numbers = radonc.regimen_numbers(plans.course_of(answer), "UCEC")
    assert np.isnan(numbers["eqd2"]) == np.isnan(numbers["bed"]) == (eqd2 is None)
    assert eqd2 is None or numbers["eqd2"] == pytest.approx(eqd2)


def test_no_eqd2_where_the_model_is_not_trusted_or_no_dose_is_named():
    large = radonc.regimen_numbers({"modality": "stereotactic", "gy": 34.0, "fractions": 1}, "LUAD")
    assert large["fraction_gy"] == 34 and np.isnan(large["eqd2"])
    assert np.isnan(radonc.regimen_numbers(None, "LUAD")["gy"]) and np.isnan(radonc.regimen_numbers({"modality": "", "gy": 60.0, "fractions": 0}, "LUAD")["eqd2"])


@pytest.mark.parametrize(
    ("answer", "cancer", "kind"),
    [
        ("external beam | 60 Gy | 30 fractions | tumor bed of the brain", "GBM", "published for this cancer"),
        ("external beam | 40.05 Gy | 15 fractions | whole breast", "BRCA", "published for this cancer"),  # within a twentieth of START-B's 40
        ("external beam | 60 Gy | 31 fractions | brain", "GBM", "published for this cancer"),  # one fraction off in a long course
        ("external beam | 26 Gy | 6 fractions | whole breast", "BRCA", "possible, not in the table"),  # one off in a short one is another regimen
        ("external beam | 60 Gy | 20 fractions | brain", "GBM", "published for another"),  # a prostate's
        ("external beam | 30 Gy | 10 fractions | spine", "PAAD", "published for this cancer"),  # palliative, any site
        ("brachytherapy | 21 Gy | 3 fractions | vaginal vault", "UCEC", "published for this cancer"),
        ("brachytherapy | 145 Gy | 1 fraction | prostate", "PRAD", "published for this cancer"),
        ("external beam | 60 Gy | 2 fractions | brain", "GBM", "impossible"),
        ("external beam | 48 Gy | 2 fractions | lung", "LUAD", "impossible"),  # within the limits per fraction, and far beyond 34 Gy in so few
        ("external beam | 60 Gy | 3 fractions | brain", "GBM", "impossible"),  # published for the lung; EQD2 150 Gy, the brain is given at most 60
        ("external beam | 60 Gy | 3 fractions | lung", "LUAD", "published for this cancer"),
        ("stereotactic | 50 Gy | 5 fractions | pancreas", "PAAD", "published for another"),  # EQD2 83 Gy of at most 54: less than twice as much
        ("external beam | 600 Gy | 30 fractions | brain", "GBM", "impossible"),
        ("external beam | 3 Gy | 10 fractions | spine", "BRCA", "impossible"),
        ("external beam | 60 Gy | 0 fractions | brain", "GBM", "impossible"),
        ("brachytherapy | 145 Gy | 3 fractions | prostate", "PRAD", "impossible"),
        ("brachytherapy | 36 Gy | 4 fractions | cervix", "CESC", "possible, not in the table"),
        ("external beam | 76 Gy | 25 fractions | liver", "LIHC", "possible, not in the table"),
        ("60 Gy in 30 fractions", "GBM", "published for this cancer"),  # a modality that is not named counts as external beam
        ("a mass of the breast", "BRCA", "no regimen"),
    ],
)
def test_plausibility(answer, cancer, kind):
    assert radonc.plausibility(plans.course_of(answer), cancer)[0] == kind


def test_the_limit_of_a_cancer_by_hand():
    assert radonc.largest_eqd2("GBM") == pytest.approx(60) and radonc.largest_eqd2("ACC") == np.inf
    assert radonc.largest_eqd2("LUAD") == pytest.approx(60 * 3 / 1.2)  # 60 Gy in 3


def test_every_published_regimen_is_possible_and_names_its_source():
    for row in radonc.rules()["regimens"]:
        course = {"modality": "brachytherapy" if row.get("kind") == "brachytherapy" else "external beam", "gy": float(row["gy"]), "fractions": row["fractions"], "target": ""}
        kind, source = radonc.plausibility(course, row["for"][0])
        assert kind == "published for this cancer" and source and len(row["source"]) > 8, row
        assert row["checked"] in radonc.CHECKED and bool(row["against"]) == (row["checked"] != "no"), row


def test_the_table_says_what_it_rests_on():
    table = radonc.published()
    assert len(table) == len(radonc.rules()["regimens"]) and not table.duplicated(["gy", "fractions", "cancers", "kind"]).any()
    assert (table["kind"].eq("permanent implant") == table["gy"].gt(100)).all() and (table.loc[table["kind"].eq("permanent implant"), "fractions"] == 1).all()
    cohort = pd.DataFrame({"cancer_type": ["GBM"] * 3 + ["BRCA"], "radiotherapy": ["external beam | 60 Gy | 30 fractions | primary tumour field"] * 3 + ["external beam | 61 Gy | 10 fractions | regional site"]})
    said = radonc.table_sentences(radonc.review(cohort))
    assert said[0].startswith(f"{len(table)} published regimens") and "Of 4 patients, 75% follow a row of the table: 75% one that was found with dose and fractions" in said[1]


def test_scores_of_one_regimen():
    gold = "external beam | 60 Gy | 30 fractions | brain"
    right = radonc.regimen_scores(gold, gold, "GBM")
    assert all(right[name] == 1 for name in ("dose_within_5", "fractions_exact", "fraction_dose_within_5", "regimen_exact", "eqd2_within_5", "published"))
    near = radonc.regimen_scores(gold, "external beam | 59.4 Gy | 33 fractions | brain", "GBM")
    assert (near["dose_within_5"], near["fractions_exact"], near["fraction_dose_within_5"]) == (1, 0, 0)
    assert near["eqd2"] == pytest.approx(59.4 * 1.18 / 1.2) and near["eqd2_within_5"] == 1
    nothing = radonc.regimen_scores(gold, "unparsed", "GBM")
    assert nothing["dose_within_5"] == nothing["published"] == nothing["impossible"] == 0 and nothing["plausibility"] == "no regimen"
    assert radonc.regimen_scores(gold, "external beam | 60 Gy | 2 fractions | brain", "GBM")["impossible"] == 1


def write_study(folder, n=12):
    """A study of n patients: the tuned model always right, the original never, the majority right for the even ones."""
    regimens = ["external beam | 60 Gy | 30 fractions | brain", "external beam | 40 Gy | 15 fractions | brain"]
    answers = {"radonc_regimen": regimens, "radonc_modality": ["photon", "proton"]}
    for task, values in answers.items():
        rows = [{"example_id": f"{task}|{i}", "patient_id": f"P{i}", "institution": "A", "cancer_type": "GBM", "answers": [values[i % 2]]} for i in range(n)]
        path = folder / "datasets" / task / "test.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for model, stage, said in (("tiny_base", "sft", values), ("tiny_base", "base", ["unparsed"] * 2), ("majority_by_cancer", "baseline", [values[0]] * 2)):
            path = folder / "predictions" / model / stage / f"{task}.test.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps({"example_id": f"{task}|{i}", "prediction": said[i % 2], "parsed": said[i % 2]}) + "\n" for i in range(n)))


@pytest.fixture
def items(tmp_path):
    write_study(tmp_path)
    return radonc.read_items(tmp_path)


def test_scores_of_known_answers(items):
    table = radonc.scores(items, n_resamples=50).set_index(["model", "task", "metric"])["f1"]
    assert sorted(table["tiny_base", "radonc_regimen", "accuracy"]) == [0, 100]
    assert table["majority_by_cancer", "radonc_modality", "accuracy"] == 50
    assert table["majority_by_cancer", "radonc_modality", "macro_f1"] == pytest.approx(100 / 3)  # F1 of 2/3 and of 0
    assert table["majority_by_cancer", "radonc_regimen", "published"] == 100


def test_none_of_twelve_is_no_certainty(items):
    row = radonc.scores(items, n_resamples=50).query("model == 'tiny_base' and stage == 'sft' and metric == 'impossible'").iloc[0]
    assert (row["f1"], row["f1_low"]) == (0, 0) and row["f1_high"] == pytest.approx(100 * (1 - 0.025 ** (1 / 12)))  # Clopper and Pearson, 0 of 12


def test_tests_are_one_sided_and_adjusted(items):
    table = radonc.tests(items, n_resamples=50)
    original = table[table["against"].eq("original") & table["metric"].eq("accuracy")]
    assert (original["difference"] == 100).all() and (original["rank_biserial"] == 1).all() and (original["p"] < 0.001).all()
    assert (original["p_holm"] >= original["p"]).all() and (original["paper_p"] == 0.001).all() and (original["units"] == 12).all()
    simple = table[table["against"].eq("majority_by_cancer") & table["metric"].eq("accuracy")]
    assert (simple["difference"] == 50).all() and simple["paper_p"].isna().all()


def test_distance_counts_only_answers_with_a_dose(items):
    table = radonc.distances(items, n_resamples=50).set_index(["model", "stage"])
    assert table.loc[("tiny_base", "base"), "with_eqd2"] == 0 and np.isnan(table.loc[("tiny_base", "base"), "mean_gy"])
    assert table.loc[("tiny_base", "sft"), "mean_gy"] == 0 and table.loc[("tiny_base", "sft"), "within_2_gy"] == 100
    apart = 60 - radonc.eqd2(40, 15, 10)
    assert table.loc[("majority_by_cancer", "baseline"), "mean_gy"] == pytest.approx(apart / 2)
    assert table.loc[("majority_by_cancer", "baseline"), "higher"] == 50


def test_sentences_and_tables_print(items):
    table, tested = radonc.scores(items, n_resamples=50), radonc.tests(items, n_resamples=50)
    said = radonc.sentences(table, tested, items)
    assert any("the paper: in all" in sentence for sentence in said) and any("impossible" in sentence for sentence in said)
    assert any("Only 12 patients are compared" in sentence for sentence in said) and any("modality, macro F1" in sentence for sentence in said)
    shown = radonc.score_table(table, "radonc_modality")
    assert shown["system"].iloc[0] == "Majority per cancer" and "macro_f1" in shown
    assert radonc.read_items(Path("/nowhere")).empty


def test_review_counts_what_was_given():
    cohort = pd.DataFrame({"cancer_type": ["GBM", "GBM", "BRCA"], "radiotherapy": ["external beam | 60 Gy | 30 fractions | primary tumour field"] * 2 + ["external beam | 61 Gy | 10 fractions | regional site"]})
    table = radonc.review(cohort)
    assert table["patients"].tolist() == [2, 1] and table["eqd2"].iloc[0] == pytest.approx(60)
    assert table["plausibility"].tolist() == ["published for this cancer", "possible, not in the table"]
