"""One word per task: each rule at its limit, by hand-made scores and comparisons."""

import pandas as pd
import pytest

from cancerllm_utils.report import summary, verdicts
from cancerllm_utils.results import COMPARISON_COLUMNS
from tests import invented_results

SCORES = invented_results.scores()
RULES = verdicts.rules()
SYSTEM = ("tiny_base", "cpt-sft")


def own(low=60, high=80):
    return pd.Series({"f1": (low + high) / 2, "f1_low": low, "f1_high": high, "n": 100})


def pairs(low=5.0, p=0.001, names=("majority_by_cancer", "tfidf", "rules")):
    return pd.DataFrame([{"name": name, "difference": low + 5, "low": low, "high": low + 10, "p_holm": p} for name in names])


def share(low, high):
    return pd.Series({"kind": "side_flipped", "share": (low + high) / 2, "low": low, "high": high, "n": 4, "of": 100})


def word(score=None, compared=None, false=None, worst=None):
    return verdicts.decide(own() if score is None else score, pairs() if compared is None else compared, false, worst, RULES)[0]


def results(**changes):
    empty = {name: pd.DataFrame(columns=columns) for name, (_, columns) in summary.TABLES.items()}
    return empty | {"scores": SCORES, "asked": pd.DataFrame(columns=["patient_id", "split"]), "silver": False, "synthetic": True} | changes


def test_the_words_at_their_limits():
    assert word() == "useful"
    assert word(own(50, 60)) == "useful" and word(own(49.9, 60)) == "avoid" and word(own(float("nan"), float("nan"))) == "avoid"
    assert word(compared=pairs(0.0)) == "avoid", "not clearly ahead of answering without reading"
    assert word(compared=pairs(5, 0.051)) == "avoid" and word(compared=pairs(5, 0.05)) == "useful"
    one_behind = pd.concat([pairs(names=["majority_by_cancer"]), pairs(-5, names=["rules"])])
    assert word(compared=one_behind) == "simple" and word(compared=pairs().head(0)) == "unknown"


def test_harm_is_kept_only_by_whole_intervals():
    assert word(false=own(0, 20)) == "useful" and word(false=own(0, 21)) == "check" and word(false=own(21, 40)) == "avoid"
    assert word(worst=share(0, 5)) == "useful" and word(worst=share(0, 6)) == "check" and word(worst=share(6, 9)) == "avoid"
    assert word(worst=share(0, float("nan"))) == "check", "a limit that is not known is not kept"


def test_the_reason_names_the_methods_that_are_as_good():
    compared = pd.concat([pairs(names=["majority_by_cancer", "tfidf"]), pairs(-5, names=["rules"])])
    assert verdicts.decide(own(), compared, None, None, RULES)[1] == "not clearly ahead of: Label rules"
    assert "dangerous errors were not counted" in verdicts.decide(own(), pairs(), None, None, RULES)[1]


def test_a_row_per_task_with_values_of_the_tables():
    comparisons = pd.DataFrame([{"a": "tiny_base/cpt-sft", "b": f"{name}/baseline", "task": task, "split": "test", "metric": metric, "difference": 9.0, "low": 5.0, "high": 13.0, "p_holm": p}
                                for name in ["majority_by_cancer", "tfidf", "rules", "nearest"] for task in invented_results.TASKS
                                for metric, p in [("value_accuracy", 0.001), ("average", 0.9)]], columns=COMPARISON_COLUMNS)
    rings = pd.DataFrame([{"model": "tiny_base", "stage": "cpt-sft", "task": "phenotype_extraction", "split": "external", "metric": "value_accuracy", "difference": -10, "low": -14.25, "high": 1, "p_holm": 0.9}])
    rows = verdicts.judge(results(paired=comparisons, rings=rings)).set_index("task")
    row = rows.loc["Phenotype extraction"]
    assert (row["right answers"], row["best simple method"]) == ("63 % (61 to 65), n = 150", "Label rules: 73 %")
    assert row["hospitals never seen"] == "53 % (51 to 55), n = 150; −10.0 points (−14.2 to +1.0)" and row["worst errors"] == "not counted"
    assert (row["word"], row["verdict"]) == ("check", "useful only if every answer is checked"), "false answers 18 to 22 %"
    assert rows.loc["Diagnosis generation", "word"] == "useful"
    short = verdicts.short_sentences(results(paired=comparisons), rows.reset_index(), {"notes": None, "splits": None})
    assert short == ["tiny_base, cpt-sft: “useful” for 1 of 2 tasks, “useful only if every answer is checked” for 1 of 2 tasks."]


def test_without_labels_models_or_comparisons_nothing_is_promised():
    assert set(verdicts.judge(results(silver=True))["word"]) == {"unknown"}
    assert set(verdicts.judge(results())["word"]) == {"unknown"}, "63 % right, but compared with nothing"
    assert verdicts.judge(results(scores=SCORES[SCORES["stage"].eq("baseline")])).empty
    assert "nothing can be said about trust" in verdicts.short_sentences(results(scores=SCORES.head(0)), verdicts.judge(results(scores=SCORES.head(0))), {"notes": None, "splits": None})[0]


def test_plans_are_named_as_historical_practice():
    plans = SCORES.replace({"task": {"diagnosis_generation": "treatment_plan"}})
    rows = verdicts.judge(results(scores=plans)).set_index("key")
    assert rows.loc["treatment_plan", "why"].endswith("historical practice, not guidance") and "historical" not in rows.loc["phenotype_extraction", "why"]


def test_worse_served_patients_are_named_the_largest_difference_first():
    rows = pd.DataFrame([{"model": "tiny_base", "stage": "cpt-sft", "task": "phenotype_extraction", "metric": "value_accuracy", "dimension": "cancer type", "level": level, "n": 30,
                          "patients": 25, "difference": d, "low": d - 3, "high": d + 3, "p_holm": p} for level, d, p in [("LUAD", -9.0, 0.01), ("PRAD", -20.0, 0.01), ("BRCA", -8.0, 0.5)]])
    (said,) = verdicts.worse_sentences(rows, SYSTEM)
    assert "in 2 of 3 comparisons" in said and said.index("PRAD") < said.index("LUAD") and "BRCA" not in said and "\N{MINUS SIGN}20.0 points, 25 patients" in said
    assert "Nobody stands out" in verdicts.worse_sentences(rows.assign(p_holm=0.5), SYSTEM)[0] and verdicts.worse_sentences(rows.head(0), SYSTEM) == []


def test_confidence_stands_beside_what_was_right():
    rows = pd.DataFrame([{"model": "tiny_base", "stage": stage, "task": task, "split": split, "right": 40.2, "confidence": 71.6} for stage in ["sft", "cpt-sft"]
                         for task in ["icd10_coding", "stage_from_tnm"] for split in ["dev", "test"]])
    assert verdicts.confidence_sentences(rows, SYSTEM, "test") == ["Its own confidence, before any correction: ICD-10 coding 72 % sure, 40 % right; Stage group 72 % sure, 40 % right."]
    assert verdicts.confidence_sentences(rows.head(0), SYSTEM, "test") == []


def test_the_page_states_every_word_and_limit():
    said = " ".join(verdicts.rule_sentences())
    assert all(word in said for word in RULES["words"].values())
    assert all(str(RULES[limit]) in said for limit in ["right_at_least", "false_answers_at_most", "dangerous_at_most", "alpha"])


@pytest.mark.parametrize("models, expected", [(1, "1 of this run's language models has"), (2, "2 of this run's language models have"), (3, "rank correlation")])
def test_release_dates_speak_only_of_models_that_have_one(models, expected):
    names = [name for name, _ in sorted(summary.release_dates().items(), key=lambda item: item[1])]
    chosen = [names[0], names[-1], names[len(names) // 2]][:models]
    scores = pd.concat([SCORES[SCORES["stage"].eq("sft")].assign(model=name, f1=20.0 + 10 * names.index(name)) for name in chosen])
    said = summary.release_sentence(scores)
    assert expected in said and ("+1.00" in said) == (models == 3)
    assert summary.release_table(scores)["released"].is_monotonic_increasing and len(summary.release_table(scores)) == models
