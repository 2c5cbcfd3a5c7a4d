"""Adjudication of a run: a sample that follows the strata and tells no system, what raters make of the gold, and headlines scored again, by hand."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import adjudicated, rating, score
from cancerllm_utils.plots import adjudication as plots_adjudication
from cancerllm_utils.report import results_files
from cancerllm_utils.tasks.task import read_jsonl
from tests import invented_answers

TASKS = ["phenotype_extraction"]
N = 150  # questions in three test sets; 3 of 4 count for headlines


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = invented_answers.write_answers(tmp_path_factory.mktemp("runs") / "quick", n=N)
    score.score_run(folder, n_resamples=10)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "quick")


@pytest.fixture(scope="module")
def found(finished):
    return adjudicated.candidates(finished, TASKS)


def people(drawn, *files, form=True):
    """Two raters who confirm every gold, with the given exceptions {item: choice} of each, read back from files."""
    out = []
    for exceptions in files:
        choices = {item: "; ".join(answers) for item, answers in zip(drawn["key"]["item"], drawn["key"]["answers"])} | exceptions
        out.append(pd.DataFrame({"choice": choices, "comment": ""}).rename_axis("item").query("choice != ''"))
    return out


def test_the_sample_follows_the_strata_and_every_question_may_be_drawn(finished, found):
    items, key = adjudicated.sample(finished, found, 20, seed=1)
    assert len(items) == len(key) == 20 and set(key["split"]) == {"test"} and list(key) == adjudicated.KEY_COLUMNS
    questions = found.drop_duplicates("example_id")
    shares = questions.groupby("field").size() / len(questions)
    assert (key.groupby("field").size() - 20 * shares).abs().max() <= 1  # every k-th of an ordered list
    seen = {example for seed in range(15) for example in adjudicated.sample(finished, found, 20, seed)[1]["example_id"]}
    assert seen == set(questions["example_id"])
    again = adjudicated.sample(finished, found.sample(frac=1, random_state=3), 20, seed=1)
    pd.testing.assert_frame_equal(again[0], items)
    whole = adjudicated.sample(finished, found, 9999, seed=1)[1]
    assert sorted(whole["example_id"]) == sorted(questions["example_id"])


def test_a_rater_sees_the_note_and_the_answers_and_not_whose_they_are(run, finished):
    drawn = adjudicated.prepare(run, TASKS, 20, seed=1)
    data = {row["example_id"]: row for row in read_jsonl(run / "datasets" / "phenotype_extraction" / "test.jsonl")}
    first_is_gold = 0
    for item, key in zip(drawn["items"].itertuples(), drawn["key"].itertuples()):
        gold = data[key.example_id]["answers"][0]
        assert item.text.startswith("Specimen") and "\n" in item.text and key.answers == [gold] and "unparsed" not in item.options and "not stated" not in item.options
        assert (gold in item.options) == (gold != "not stated") and len(set(item.options)) == len(item.options)
        first_is_gold += bool(item.options) and item.options[0] == gold
    assert 2 < first_is_gold < 18  # not always at the same place
    for name in ("form.html", "form.csv"):
        text = (run / "adjudication" / name).read_text()
        assert not any(word in text for word in ("tiny_base", "cpt-sft", "majority", "tfidf", "example_id", "|laterality", "stratum", "headline"))
    assert "do not share" not in (run / "adjudication" / "form.html").read_text()
    assert len(pd.read_csv(run / "adjudication" / "key.csv")) == 20


def test_verdicts_and_the_corrected_gold(finished, found):
    items, key = adjudicated.sample(finished, found, 20, seed=1)
    stated = [i for i, answers in enumerate(key["answers"]) if answers != ["not stated"] and len(items["options"][i]) > 1]
    a, b, c, d, e = key["item"].iloc[stated[:5]]
    other = next(option for option in items["options"][stated[0]] if option != key["answers"][stated[0]][0])
    drawn = {"items": items, "key": key}
    table = adjudicated.corrected(items, key, people(drawn, {a: other, b: rating.NONE, c: "not stated", d: other, e: ""}, {a: other, b: rating.NONE, c: "not stated", e: ""})).set_index("item")
    assert [table.loc[item, "verdict"] for item in (a, b, c, d, e)] == ["another answer", "none of these", "not stated", "", ""]
    assert [table.loc[item, "adjudicated"] for item in (a, b, c, d, e)] == [[other], [""], ["not stated"], None, None]
    rest = table.drop(index=[a, b, c, d, e])
    assert set(rest["verdict"]) == {"confirmed"} and rest["adjudicated"].tolist() == rest["answers"].tolist()
    agreed = adjudicated.agreement(table.reset_index(), "people", 50).set_index("metric")
    assert agreed.loc["agreement", ["value", "n"]].tolist() == pytest.approx([100 * 18 / 19, 19])
    assert agreed.loc["overturned", ["value", "n"]].tolist() == pytest.approx([100 * 3 / 18, 18]) and agreed.loc["open", ["value", "n"]].tolist() == pytest.approx([100 / 19, 19])
    assert agreed.loc["kappa_gold", "value"] < agreed.loc["kappa_answer", "value"] < 1


def test_a_share_of_none_or_all_has_the_exact_limits():
    patients = pd.Series(["a", "b", "c", "c"])
    assert adjudicated.share(np.array([False] * 4), patients, 50, 0) == pytest.approx((0, 0, 100 - 100 * 0.025 ** (1 / 3)))
    assert adjudicated.share(np.array([True] * 4), patients, 50, 0) == pytest.approx((100, 100 * 0.025 ** (1 / 3), 100))
    value, low, high = adjudicated.share(np.array([True, False, False, False]), patients, 200, 0)
    assert value == 25 and low < 25 < high


@pytest.mark.parametrize("n", [3, 6])
def test_a_handful_of_questions_is_enough(tmp_path, n):
    folder = invented_answers.write_answers(tmp_path / "quick", n=n)
    score.score_run(folder, n_resamples=10)
    drawn = adjudicated.prepare(folder, TASKS, 200, seed=1)
    for errors in ([0.0, 0.0], [1.0, 0.0]):
        judged = adjudicated.judge(folder, drawn, *adjudicated.collect(drawn["items"], drawn["key"], [], True, errors, 0.0, 1), 20)
        assert adjudicated.sentences(judged, "simulated") and len(adjudicated.agreement_table(judged["agreement"])) >= 3
        assert plots_adjudication.headlines(judged["scores"]) is not None and len(adjudicated.headline_table(judged["scores"])) in (0, len(invented_answers.SYSTEMS))


def test_headlines_again_by_hand(finished, found):
    items, key = adjudicated.sample(finished, found, 20, seed=1)
    drawn, flipped = {"items": items, "key": key}, {}
    for item, options, answers in zip(key["item"], items["options"], key["answers"]):
        others = [option for option in options if option != answers[0]]
        if others and len(flipped) < 4:
            flipped[item] = others[0]
    table = adjudicated.corrected(items, key, people(drawn, flipped, flipped))
    scores = adjudicated.rescore(found, table, "people", 50)
    assert list(scores) == adjudicated.COLUMNS
    gold = dict(zip(key["example_id"], key["answers"].map(lambda answers: answers[0])))
    new = gold | {key.set_index("item").loc[item, "example_id"]: choice for item, choice in flipped.items()}
    for (model, stage), part in found[found["example_id"].isin(gold)].groupby(["model", "stage"]):
        rows = scores[(scores["model"] == model) & (scores["stage"] == stage) & (scores["metric"] == "value_accuracy")].set_index("gold")
        old, changed = (np.mean([parsed == truth[example] for example, parsed in zip(part["example_id"], part["parsed"])]) * 100 for truth in (gold, new))
        assert (rows.loc["run", "f1"], rows.loc["adjudicated", "f1"], rows.loc["adjudicated", "change"]) == pytest.approx((old, changed, changed - old)) and set(rows["n"]) == {20}
    same = adjudicated.rescore(found, adjudicated.corrected(items, key, people(drawn, {}, {})), "people", 50)
    assert same["change"].dropna().eq(0).all()


def test_none_of_these_makes_every_answer_wrong(finished, found):
    items, key = adjudicated.sample(finished, found, 20, seed=1)
    everything = dict.fromkeys(key["item"], rating.NONE)
    scores = adjudicated.rescore(found, adjudicated.corrected(items, key, people({"key": key}, everything, everything)), "people", 20)
    assert scores[scores["gold"] == "adjudicated"]["f1"].eq(0).all() and scores[scores["gold"] == "run"]["f1"].max() > 50


def test_simulated_raters_find_what_was_planted_and_are_always_called_so(run):
    drawn = adjudicated.prepare(run, TASKS, 9999, seed=2)
    raters, rated = adjudicated.collect(drawn["items"], drawn["key"], [], True, [0.0, 0.0], 0.3, 2)
    judged = adjudicated.judge(run, drawn, raters, rated, 50)
    whole = judged["agreement"].set_index("metric")
    assert raters == "simulated" and whole.loc["agreement", "value"] == 100 and whole.loc["kappa_answer", "value"] == 1.0
    assert 0.1 < whole.loc["overturned", "value"] / 100 < 0.5
    raters, rated = adjudicated.collect(drawn["items"], drawn["key"], [], True, [0.1, 0.3], 0.0, 2)
    judged = adjudicated.judge(run, drawn, raters, rated, 50)
    assert 45 < judged["agreement"]["value"].iloc[0] < 85
    tables = [judged["agreement"], judged["scores"], adjudicated.agreement_table(judged["agreement"]), adjudicated.headline_table(judged["scores"])]
    assert all(set(table["raters"]) == {"simulated"} for table in tables)
    said = adjudicated.sentences(judged, raters)
    assert len(said) == 3 and all(sentence.startswith("Simulated raters, which say nothing") for sentence in said) and "simulated" in adjudicated.warning(raters)
    assert "SIMULATED" in plots_adjudication.headlines(judged["scores"]).get_suptitle()
    assert not (run / "results" / "ledger.csv").is_file() or "06d" not in (run / "results" / "ledger.csv").read_text()
    assert not [column for column in results_files.undescribed(run) if column.startswith("adjudicat")]
    with pytest.raises(UserError, match="shares from 0 to 1"):
        adjudicated.collect(drawn["items"], drawn["key"], [], True, [0.1, 5], 0.0, 2)


def test_people_s_files_are_read_written_down_and_noted_in_the_ledger(run):
    drawn = adjudicated.prepare(run, TASKS, 20, seed=1)
    files = []
    for name, ratings in zip("ab", people(drawn, {}, {"0002": rating.NONE})):
        rows = [{"item": item, "choice": row["choice"], "comment": ""} for item, row in ratings.iterrows()]
        files.append(str(run / f"{name}.json"))
        (run / f"{name}.json").write_text(json.dumps({"form": drawn["form"], "rater": name, "ratings": rows}))
    raters, rated = adjudicated.collect(drawn["items"], drawn["key"], files, True, [0.5, 0.5], 0.5, 1)
    judged = adjudicated.judge(run, drawn, raters, rated, 50)
    assert raters == "people" and set(pd.read_csv(run / "results" / "adjudicated_scores.csv")["raters"]) == {"people"}
    said = adjudicated.sentences(judged, raters)
    assert said[0].startswith("The two raters chose the same for 95.0 %") and "imulated" not in " ".join(said) + adjudicated.warning(raters)
    assert "06d_adjudication" in (run / "results" / "ledger.csv").read_text()
    assert pd.read_csv(run / "adjudication" / "disagreements.csv", dtype=str)["item"].tolist() == ["0002"]
    assert {path.name for path in adjudicated.outputs(run)} >= {"form.html", "corrected_gold.csv", "adjudication.csv", "adjudicated_scores.csv"}
    assert adjudicated.disagreement_table(judged["table"], raters)["items"].tolist() == [1]
    with pytest.raises(UserError, match="no item was rated by both"):
        adjudicated.judge(run, drawn, raters, people(drawn, dict.fromkeys(drawn["key"]["item"], ""), {}), 50)


def test_without_raters_old_results_go_and_the_notebook_says_what_to_do(run):
    drawn = adjudicated.prepare(run, TASKS, 20, seed=1)
    (run / "results" / "adjudication.csv").write_text("old")
    raters, rated = adjudicated.collect(drawn["items"], drawn["key"], [], False, [0.1, 0.1], 0.1, 1)
    judged = adjudicated.judge(run, drawn, raters, rated)
    assert (raters, rated) == ("", []) and not (run / "results" / "adjudication.csv").exists()
    assert "Nobody has rated" in adjudicated.sentences(judged, raters)[0] and adjudicated.headline_table(None).empty and adjudicated.agreement_table(None).empty
    assert plots_adjudication.headlines(None) is not None and adjudicated.disagreement_table(None, "").empty


def test_a_run_without_these_tasks_has_nothing_to_judge(run):
    drawn = adjudicated.prepare(run, ["diagnosis_generation"], 20, seed=1)
    assert adjudicated.collect(drawn["items"], drawn["key"], [], True, [0.1, 0.1], 0.1, 1) == ("", [])
    assert "nothing to judge" in adjudicated.form_sentence(drawn) and adjudicated.strata_table(drawn["key"], drawn["found"]).empty
    with pytest.raises(UserError, match="at least 2"):
        adjudicated.prepare(run, TASKS, 1, seed=1)
