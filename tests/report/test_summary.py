"""Headlines beside the paper and the run's sentences: hand-computed values from invented results."""

import re

import pandas as pd

from cancerllm_utils import results
from cancerllm_utils.report import summary
from tests import invented_results

SCORES = invented_results.scores()
# Every number that may be printed as the paper's (its cohort included); a new one needs a source first.
KNOWN = {91.78, 86.81, 83.50, 89.30, 85.08, 31.7, 17.92, 9.23, "1:14:12", "5,550"}


def test_only_known_values_of_the_paper_are_listed():
    values = results.load_paper_values()["values"]
    assert {entry["value"] for entry in values} == KNOWN
    assert all(isinstance(entry["comparable"], bool) and entry["why"] and entry["source"] in results.load_paper_values()["sources"] for entry in values)


def test_headline_takes_only_whole_task_rows():
    rows = results.headline(SCORES, splits=["test"])
    assert len(rows) == 7 * 2
    assert set(rows.loc[rows["task"] == "phenotype_extraction", "subgroup"]) == {"headline"}
    assert set(rows.loc[rows["task"] == "diagnosis_generation", "subgroup"]) == {"all"}


def test_systems_come_from_plain_to_tuned():
    shuffled = SCORES.sample(frac=1, random_state=0)
    assert results.system_order(shuffled) == list(invented_results.SYSTEMS)
    assert results.main_systems(shuffled) == [("tiny_base", "cpt-sft")]


def table(scores, **kwargs):
    return summary.headline_table(scores, **kwargs).set_index(["what", "test set", "metric"])


def test_headline_table_puts_run_beside_paper():
    rows = table(SCORES)
    row = rows.loc[("Phenotype extraction", "held-out patients", "average F1")]
    assert (row["this run"], row["n"], row["paper"], row["comparable"]) == ("60.0 (58.0 to 62.0)", "200", "91.78", "no")
    assert rows.loc[("Mean of both tasks", "held-out patients", "average F1"), "this run"] == "60.0"
    gain = rows.loc[("Gain over the base model, diagnosis generation", "held-out patients", "average F1")]
    assert (gain["this run"], gain["paper"]) == ("+56.0", "+31.7")  # 60 - 4
    assert rows.loc[("Independent patient cohort", "held-out institutions", "average F1"), "this run"] == "50.0 (48.0 to 52.0)"
    assert rows.loc[("Phenotype extraction", "held-out sites", "average F1"), "paper"] == "not known"


def test_a_value_is_comparable_only_with_the_papers_base_on_real_notes():
    mistral = SCORES.replace({"model": {"tiny_base": "mistral-7b-instruct-v0.1"}})

    def comparable(scores, synthetic):
        rows = summary.headline_table(scores, synthetic=synthetic)
        return set(rows.loc[rows["comparable"] == "yes", "paper"])

    assert comparable(SCORES, False) == set()
    assert comparable(mistral, True) == set()
    assert comparable(mistral, False) == {"91.78", "86.81", "83.50", "89.30"}
    assert summary.paper_references("tiny_base", False) == {}
    assert summary.paper_references("mistral-7b-instruct-v0.1", True) == {}
    assert summary.paper_references("mistral-7b-instruct-v0.1", False) == {"phenotype_extraction": 91.78, "diagnosis_generation": 86.81}


def test_what_was_not_run_is_said_and_never_comparable():
    rows = summary.headline_table(SCORES[:0])
    assert set(rows["this run"]) == {"not run", "no counterpart"} and set(rows["comparable"]) == {"no"}
    without_base = summary.headline_table(SCORES[SCORES["stage"] != "base"])
    assert without_base.set_index("what").loc["Gain over the base model, diagnosis generation", "this run"] == "not run"


def test_every_number_of_a_sentence_comes_from_the_tables():
    said = " ".join(summary.sentences(SCORES, invented_results.cpt()))
    numbers = set(re.findall(r"\d+\.\d+|\d[\d,]+", re.sub(r"F1|BLEU-2|95 %", "", said)))
    levels = [60.0, 58.0, 62.0, 30.0, 28.0, 32.0, 45.0, 43.0, 47.0, 15.0, 4.0, 2.0, 6.0, 56.0, 55.0, 53.0, 57.0, 5.0, 63.0, 20.0, 12.0, 99.5, 50.0, 48.0, 52.0, 10.0, 25.0, 16.7]
    losses = ["4.00", "3.00", "4.20", "3.50", "1.60", "1.20", "1.70", "1.40", "9,000", "8,000", "200"]
    assert numbers <= {f"{level:.1f}" for level in levels} | set(losses)
    assert "from 4.00 to 3.00 (\N{MINUS SIGN}25.0 %" in said


def test_continued_pretraining_is_judged_by_the_paired_interval():
    def verdict(low, high):
        pair = {"kind": "secondary", "verdict": "", "a": "tiny_base/cpt-sft", "b": "tiny_base/sft", "task": "phenotype_extraction", "split": "test", "difference": 5.0, "low": low, "high": high, "n": 200}
        said = summary.sentences(SCORES, comparisons=pd.DataFrame([pair]))
        return next(s for s in said if s.startswith("Does continued pre-training help phenotype"))

    assert "+5.0 points (95 % interval +1.0 to +9.0, paired by patient: ahead)" in verdict(1.0, 9.0)
    assert "no difference that can be told from chance" in verdict(-1.0, 9.0)
    assert "behind" in verdict(-9.0, -1.0)


def test_the_endpoints_written_down_before_come_first_in_their_own_words(tmp_path):
    (tmp_path / "results").mkdir()
    SCORES.to_csv(tmp_path / "results" / "scores.csv", index=False)
    pair = {"kind": "primary", "a": "tiny_base/cpt-sft", "b": "tiny_base/sft", "task": "phenotype_extraction", "split": "test", "difference": 5.0, "low": 1.0, "high": 9.0,
            "n": 200, "p_holm": 0.01, "verdict": "Does it help? Yes."}
    pd.DataFrame([{**pair, "metric": metric} for metric in ("average", "value_accuracy")]).to_csv(tmp_path / "results" / "comparisons.csv", index=False)
    results = summary.read_results(tmp_path)
    said = summary.sentences(results["scores"], results["cpt"], results["comparisons"])
    assert said[0] == "Does it help? Yes." and len(results["comparisons"]) == 1
    assert not any(sentence.startswith("Does continued pre-training help phenotype") for sentence in said), "said once"


def test_without_scores_the_sentences_say_so():
    assert "nothing to say" in summary.sentences(SCORES[:0])[0]
    assert "baselines" in summary.sentences(SCORES[SCORES["stage"] == "baseline"])[0]


def test_leaderboard_table_has_every_system_and_ring():
    rows = summary.leaderboard_table(SCORES, synthetic=True).set_index(["task", "system"])
    assert len(rows) == 2 * 7
    row = rows.loc[("Phenotype extraction", "tiny_base, cpt-sft")]
    assert row.to_dict() == {"held-out patients": "60.0 (58.0 to 62.0), n = 200", "held-out sites": "55.0 (53.0 to 57.0), n = 200",
                             "held-out institutions": "50.0 (48.0 to 52.0), n = 200", "value accuracy": "63.0", "false answers": "20.0"}
    assert rows.loc[("Diagnosis generation", "tiny_base, cpt-sft"), "false answers"] == ""


def test_rules_are_named_but_not_ranked_where_they_made_the_labels():
    without = SCORES[~((SCORES["model"] == "rules") & (SCORES["task"] == "phenotype_extraction"))]  # as the baselines write it for real reports
    rows = summary.leaderboard_table(without, synthetic=False).set_index(["task", "system"])
    assert rows.loc[("Phenotype extraction", "Label rules"), "held-out patients"] == "the labels' source, not ranked"
    assert rows.loc[("Diagnosis generation", "Label rules"), "held-out patients"].startswith("70.0")


def test_field_table_holds_value_accuracy():
    rows = summary.field_table(SCORES).set_index("field")
    assert rows.loc["grade", "tiny_base, cpt-sft"] == 67 and rows.loc["laterality", "Majority answer"] == 34 and set(rows["n"]) == {60}


def test_results_of_an_empty_run_are_empty_tables(tmp_path):
    results = summary.read_results(tmp_path)
    assert results["synthetic"] is False and all(results[name].empty for name in ["scores", "cpt", "comparisons"])
    assert summary.sentences(results["scores"], results["cpt"], results["comparisons"]) == [
        "No predictions were scored in this run: there is nothing to say about its answers yet."]
    assert summary.leaderboard_table(results["scores"]).empty and summary.field_table(results["scores"]).empty


def test_the_eight_phenotypes_all_have_synthetic_gold():
    sources = summary.phenotype_sources()
    assert len(sources) == 8 and sources["field there"].is_unique
    assert sources.set_index("phenotype").loc["tumour size", "fields there"] == "none"


def test_leaderboard_says_how_the_tuned_model_stands_to_each_system():
    pairs = [("tiny_base/cpt-sft", "tfidf/baseline", 15.0, 10.0, 20.0, 0.01), ("hybrid/cpt-sft", "tfidf/baseline", 30.0, 25.0, 35.0, 0.01), ("tiny_base/cpt-sft", "tiny_base/sft", 5.0, -1.0, 11.0, 0.2)]
    paired = pd.DataFrame([{"a": a, "b": b, "task": "phenotype_extraction", "split": "test", "metric": "average", "difference": d, "low": low, "high": high, "p_holm": p}
                           for a, b, d, low, high, p in pairs])
    rows = summary.leaderboard_table(SCORES, True, paired).set_index(["task", "system"])["the tuned model against it"]
    assert rows["Phenotype extraction", "TF-IDF + logistic regression"] == "+15.0 (+10.0 to +20.0)"
    assert rows["Phenotype extraction", "tiny_base, sft"] == "+5.0 (\N{MINUS SIGN}1.0 to +11.0, not told apart)"
    assert rows["Diagnosis generation", "tiny_base, sft"] == "" and (summary.leaderboard_table(SCORES, True, paired.head(0))["the tuned model against it"] == "").all()
    several = pd.concat([paired, paired.head(1).assign(a="other/cpt-sft")])
    assert summary.leaderboard_table(SCORES, True, several).iloc[2]["the tuned model against it"].startswith("tiny_base/cpt-sft: +15.0 (+10.0 to +20.0); other/cpt-sft: ")


def test_a_hybrid_has_a_name_and_is_no_language_model():
    assert results.hybrid_name("tiny_base") == "hybrid" and results.hybrid_name("mistral-7b-v0.1") == "hybrid-mistral-7b-v0.1"
    assert results.model_name("hybrid", "sft") == "Rules, else tiny_base, sft" and results.model_name("hybrid-mistral-7b-v0.1", "sft") == "Rules, else mistral-7b-v0.1, sft"
    scores = pd.concat([SCORES[SCORES["stage"].eq("cpt-sft")].assign(model="hybrid"), SCORES])
    assert results.main_systems(scores) == [("tiny_base", "cpt-sft")] and results.system_order(scores)[-1] == ("hybrid", "cpt-sft")
