"""The comparisons that were written down beforehand, on invented scores whose answer is known."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import comparisons, metrics, stats

LEVELS = {("tiny", "cpt-sft"): 0.9, ("tiny", "sft"): 0.5, ("tiny", "base"): 0.1, ("majority_by_cancer", "baseline"): 0.3, ("tfidf", "baseline"): 0.6, ("rules", "baseline"): 0.4}
TASKS = ["phenotype_extraction", "registry_prediction"]


def examples(levels, splits=("test", "dev"), n_patients=60, seed=0, n_institutions=12):
    """examples.parquet of invented right and wrong answers, two per patient; `levels`: (model, stage) -> share right, or split -> share right."""
    rng, parts = np.random.default_rng(seed), []
    patients = np.repeat(np.arange(n_patients), 2)
    for (model, stage), level in levels.items():
        for task in TASKS:
            for split in splits:
                share = level.get(split) if isinstance(level, dict) else level
                if share is None:
                    continue
                right = (rng.random(len(patients)) < share).astype(float)
                parts.append(pd.DataFrame({
                    "example_id": [f"{task}|{i}" for i in range(len(patients))], "patient_id": [f"P{p:03}" for p in patients],
                    "institution": [f"Hospital {p % n_institutions:02}" for p in patients], "field": "pT", "variant": "", "headline": True, "cancer_type": "X",
                    "model": model, "stage": stage, "task": task, "split": split, "family": "paper", "average_f1": right, "exact": right, "value_correct": right}))
    return pd.concat(parts, ignore_index=True)


def a_run(folder, frame, corpus="tcga"):
    (folder / "results").mkdir()
    (folder / "datasets").mkdir()
    frame.to_parquet(folder / "results" / "examples.parquet", index=False)
    (folder / "datasets" / "settings.json").write_text(json.dumps({"corpus": corpus}))
    return folder


def primary(table):
    return table[table.kind == "primary"].set_index("endpoint")


def test_the_two_primary_endpoints_are_those_of_the_file():
    written = comparisons.load()
    assert [entry["id"] for entry in written["primary"]] == ["cpt", "trivial"]
    assert [entry["a"] for entry in written["primary"]] == ["cpt-sft", "cpt-sft"] and written["primary"][0]["b"] == "sft"
    assert written["primary"][1]["chosen_on"] == "dev" and all(entry["split"] == "test" for entry in written["primary"])


def test_differences_that_are_there_are_found_and_said(tmp_path):
    table = comparisons.run(a_run(tmp_path, examples(LEVELS)))
    first, second = (primary(table).loc[name] for name in ("cpt", "trivial"))
    assert (first.a, first.b, first.task) == ("tiny/cpt-sft", "tiny/sft", "phenotype_extraction") and 25 < first.difference < 55
    assert first.low < first.difference < first.high and first.p_holm <= 0.05 and (first.n, first.clusters, first.cluster) == (120, 60, "patient")
    assert first.verdict.startswith("Does continued pre-training help? Yes: tiny/cpt-sft minus tiny/sft is +")
    assert (second.task, second.b) == ("registry_prediction", "tfidf/baseline") and "tfidf, the best of 3 on dev" in second.verdict
    # Holm over the two, the rest by itself
    assert sorted(primary(table).p_holm) == sorted(stats.holm(primary(table).p))
    rest = table[table.kind == "secondary"]
    assert rest.p_holm.tolist() == pytest.approx(stats.holm(rest.p).tolist()) and not rest.duplicated(["a", "b", "task", "split", "metric"]).any()
    assert ((rest.b == "tiny/sft") & (rest.task == "phenotype_extraction") & (rest.metric == "average") & (rest.split == "test")).sum() == 0  # primary, so not secondary
    written = pd.read_csv(tmp_path / "results" / "comparisons.csv")
    assert list(written.columns) == comparisons.COLUMNS and len(written) == len(table)
    assert comparisons.sentences(table) == primary(table).verdict.tolist()


def test_a_verdict_that_nobody_hoped_for_is_printed_too(tmp_path):
    levels = LEVELS | {("tiny", "cpt-sft"): 0.3}
    table = primary(comparisons.run(a_run(tmp_path, examples(levels))))
    assert "No, the opposite" in table.verdict["cpt"] and table.difference["cpt"] < 0 and "No, the opposite" in table.verdict["trivial"]


def test_what_cannot_be_told_names_what_could_have_been_found(tmp_path):
    levels = LEVELS | {("tiny", "cpt-sft"): 0.5}
    first = primary(comparisons.run(a_run(tmp_path, examples(levels, seed=4)))).loc["cpt"]
    assert "Not shown" in first.verdict and f"A true difference of {first.smallest_detectable:.1f} points would be found in 80 %" in first.verdict
    spread = (first.high - first.low) / (2 * 1.96)
    assert first.smallest_detectable == pytest.approx(2.8 * spread, rel=0.15)


def test_the_simple_method_is_chosen_on_dev_and_not_on_test(tmp_path):
    levels = LEVELS | {("tfidf", "baseline"): {"dev": 0.2, "test": 0.95}, ("rules", "baseline"): {"dev": 0.8, "test": 0.4}}
    assert primary(comparisons.run(a_run(tmp_path, examples(levels)))).b["trivial"] == "rules/baseline"


def test_without_dev_scores_each_simple_method_must_be_beaten(tmp_path):
    levels = LEVELS | {("tfidf", "baseline"): {"test": 0.88}}
    second = primary(comparisons.run(a_run(tmp_path, examples(levels)))).loc["trivial"]
    assert second.b == "tfidf/baseline" and "each must be beaten" in second.verdict and "Not shown" in second.verdict


def test_an_endpoint_that_was_not_scored_keeps_its_row(tmp_path):
    levels = {system: level for system, level in LEVELS.items() if system != ("tiny", "sft")}
    table = primary(comparisons.run(a_run(tmp_path, examples(levels))))
    assert table.verdict["cpt"] == "Does continued pre-training help? No verdict: tiny/cpt-sft and tiny/sft were not both scored on phenotype_extraction, test."
    assert table.p_holm["trivial"] == table.p["trivial"]  # only what was tested counts
    only_baselines = {system: level for system, level in LEVELS.items() if system[1] == "baseline"}
    (tmp_path / "other").mkdir()
    assert comparisons.run(a_run(tmp_path / "other", examples(only_baselines))).empty


def test_synthetic_cohorts_meet_the_simple_methods_on_extraction(tmp_path):
    assert primary(comparisons.run(a_run(tmp_path, examples(LEVELS), corpus="synthetic"))).task["trivial"] == "phenotype_extraction"


def test_rings_of_unseen_places_rest_on_institutions(tmp_path):
    table = comparisons.run(a_run(tmp_path, examples(LEVELS, splits=("test", "external"), n_institutions=4)))
    outer = table[(table.split == "external") & (table.b == "tiny/base")].iloc[0]
    assert (outer.clusters, outer.cluster) == (4, "institution") and " to +" in outer.range and outer.p == 2 / 2**4
    assert "With 4 institutions no difference could be shown, however large." in outer.verdict and "From institution to institution" in outer.verdict


def test_before_scoring_the_plan_says_what_can_be_found(tmp_path):
    rows = [{"example_id": str(i), "patient_id": f"P{i // 2}", "field": "pT", "answers": ["T2"], "headline": i < 100} for i in range(120)]
    for task in TASKS:
        (tmp_path / "datasets" / task).mkdir(parents=True)
        (tmp_path / "datasets" / task / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = comparisons.planned(tmp_path).set_index("endpoint")
    assert plan.patients.to_dict() == {"cpt": 50, "trivial": 60} and plan.questions.to_dict() == {"cpt": 100, "trivial": 120}
    assert plan.smallest_detectable["cpt"] == pytest.approx(stats.smallest_detectable(40, 50))


def test_a_hybrid_is_compared_but_is_no_model_of_its_own(tmp_path):
    levels = LEVELS | {("hybrid", "cpt-sft"): 0.95, ("hybrid-other", "cpt-sft"): 0.2, ("nearest", "baseline"): 0.2}
    table = comparisons.run(a_run(tmp_path, examples(levels, splits=("test",))))
    assert len(primary(table)) == 2 and set(table[table.kind == "primary"].a) == {"tiny/cpt-sft"}
    # the hybrid of another model than the embedded one carries that model's name
    assert not table.b.str.startswith("hybrid").any() and "nearest/baseline" in set(table.b)
    frame = examples(levels, splits=("test",)).replace({"model": {"tiny": "tiny_base"}})
    (tmp_path / "embedded").mkdir()
    table = comparisons.run(a_run(tmp_path / "embedded", frame))
    one = table[(table.a == "hybrid/cpt-sft") & (table.b == "rules/baseline") & (table.metric == "average")]
    assert len(one) == 2 and (one.difference > 30).all() and ((table.a == "tiny_base/cpt-sft") & (table.b == "hybrid/cpt-sft")).any()


def test_continued_pretraining_gets_a_sentence_per_task(tmp_path):
    said = comparisons.cpt_sentences(comparisons.run(a_run(tmp_path, examples(LEVELS, splits=("test",)))))
    assert len(said) == 2 and said[0].startswith("Does continued pre-training help? Yes: ") and "phenotype_extraction, test" in said[0]
    assert said[1].startswith("Does it help registry prediction? tiny/cpt-sft is ahead of tiny/sft: +")


def test_equal_systems_get_a_primary_verdict_in_at_most_5_percent_of_studies():
    rng, alpha, wrong = np.random.default_rng(1), 0.05, 0
    for _ in range(300):
        p = [stats.permutation_test(*rng.integers(0, 2, (2, 40)), np.arange(40) // 2) for _ in range(2)]
        wrong += stats.holm(p).min() <= alpha
    assert wrong / 300 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)


def test_seed_table_by_hand():
    rows = [("tiny", stage, f1) for stage, f1 in [("sft", 60), ("sft-s7", 62), ("sft-s8", 64), ("cpt-sft", 70), ("sft-cf40-s7", 50), ("sft-cf40", 52)]]
    scores = pd.DataFrame([{"model": m, "stage": s, "task": "registry_prediction", "variant": "all", "split": "test", "field": "all", "subgroup": "all", "family": "paper",
                            "metric": "average", "f1": f1, "f1_low": f1 - 3, "f1_high": f1 + 3} for m, s, f1 in rows])
    table = comparisons.seed_table(scores).set_index("stage")
    assert table.loc["sft", ["n", "mean", "sd", "lowest", "highest", "patients_half_width"]].tolist() == [3, 62, 2, 60, 64, 3]
    assert set(table.index) == {"sft", "sft-cf40"} and table.n["sft-cf40"] == 2
    said = comparisons.seed_sentences(scores, comparisons.seed_table(scores))
    assert said[0].startswith("Registry prediction, test, tiny/sft: 3 seeds reach 62.0 points on average (standard deviation 2.0, 60.0 to 64.0)") and len(said) == 2
    alone = scores[scores.stage == "cpt-sft"]
    assert comparisons.seed_table(alone).empty and comparisons.seed_sentences(alone, comparisons.seed_table(alone)) == [
        "Each stage (cpt-sft) was trained with one seed: the luck of a training run is in no interval here."]


def test_a_file_with_a_piece_missing_is_refused(tmp_path):
    written = yaml.safe_load(comparisons.FILE.read_text(encoding="utf-8"))
    del written["primary"][0]["b"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(written))
    with pytest.raises(UserError, match=r"c\.yaml: b of a primary endpoint is missing"):
        comparisons.load(tmp_path / "c.yaml")
    with pytest.raises(UserError, match="not there"):
        comparisons.load(tmp_path / "none.yaml")


def test_every_field_with_an_order_is_scored_in_that_order():
    assert metrics.ORDERED_FIELDS["pT"] == ["T1", "T2", "T3", "T4"] and metrics.ORDERED_FIELDS["gleason"][-1] == "10"
