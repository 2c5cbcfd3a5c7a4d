"""Worked examples: every leak is planted and must be shut out, the question keeps its room, and the numbers follow by hand."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import retrieval, retrieval_results, stats
from cancerllm_utils.modeling import models
from cancerllm_utils.report import results_files
from cancerllm_utils.tasks.task import alpaca_prompt, read_jsonl, write_jsonl

WORDS = re.findall(r"\w+", "specimen margin nodule capsule stroma duct lobe fascia cortex hilum serosa mucosa lumen polyp cyst fold wall edge grey firm pale tan rough dense thin")
SIDES = ["Right", "Left"]


def text_of(i: int) -> str:
    return f"{SIDES[i % 2].lower()} side. " + " ".join(np.random.default_rng(i).permutation(WORDS)[:14])


def example(i: int, name: str = "", patient: str = "", text: str = "", answer: str = "") -> dict:
    context = f"In the text: {text or text_of(i)} What is the laterality in the given context?"
    answer = answer or SIDES[i % 2]
    return {"example_id": f"phenotype_extraction|{name or f'n{i}'}|laterality", "patient_id": patient or f"p{i}", "note_id": name or f"n{i}", "task": "phenotype_extraction",
            "field": "laterality", "prompt": alpaca_prompt("Answer.", context), "completion": answer, "answers": [answer], "cancer_type": "BRCA", "institution": f"h{i % 4}",
            "variant": "", "headline": True}  # fmt: skip


def write_run(folder, train: list[dict], dev: list[dict]):
    """A run of invented notes whose text is what its example shows."""
    for split, rows in (("train", train), ("dev", dev)):
        write_jsonl(folder / "datasets" / "phenotype_extraction" / f"{split}.jsonl", rows)
    (folder / "datasets" / "settings.json").write_text(json.dumps({"corpus": "synthetic", "values": {"laterality": SIDES}}))
    once = {row["note_id"]: row for row in [*train, *dev]}
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    pd.DataFrame([{"note_id": note, "text": retrieval.seen_text(row["prompt"])} for note, row in once.items()]).to_parquet(folder / "corpus" / "notes.parquet")
    labels = [{"note_id": note, "field": field, "stated_value": None, "registry_value": value}
              for note, row in once.items() for field, value in (("laterality", row["answers"][0]), ("histology", f"type {int(row['institution'][1])}"))]  # fmt: skip
    pd.DataFrame(labels).to_parquet(folder / "corpus" / "labels.parquet")
    return folder


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path, [example(i) for i in range(24)], [example(i) for i in range(30, 36)])


def ranked(run, retrievers=("bm25", "tfidf", "rrf", "random"), other_institution=False):
    """(store, questions, retrieval.rank's result) of the run's dev questions."""
    store, questions = retrieval.with_copies(run, retrieval.read_store(run, "phenotype_extraction"), retrieval.read_questions(run, "phenotype_extraction", "dev"))
    built = retrieval.indexes(run, "phenotype_extraction", store, ["bm25", "tfidf"], {})
    return store, questions, retrieval.rank(store, questions, built, list(retrievers), {}, other_institution)


LEAKS = {
    "item": example(30),  # the question itself stands in the store
    "item, another question of its note": example(30) | {"example_id": "phenotype_extraction|n30|laterality2"},
    "patient": example(30, name="n900", patient="p30", text=text_of(30) + " and a few words more than the other note of this patient has"),
    "copy": example(30, name="n901", patient="p901", text=text_of(30).replace("pale", "dark")),
    "copy, exact, of another patient": example(30, name="n902", patient="p902"),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_planted_leak_would_come_first_and_is_shut_out(leak, tmp_path):
    run = write_run(tmp_path, [*(example(i) for i in range(24)), LEAKS[leak]], [example(30), example(31)])
    store, questions, result = ranked(run)
    planted, first = len(store) - 1, questions["example_id"].tolist().index(example(30)["example_id"])
    for retriever, lists in result["ranked"].items():
        assert planted not in lists[first] and len(lists[first]) == 10, retriever
    assert result["guarded"]["bm25"][first] == result["guarded"]["tfidf"][first] == leak.split(",")[0]  # without the guard it was the first
    assert result["guarded"]["bm25"][1 - first] == ""


def bags(texts: list[str]) -> np.ndarray:
    """Vectors of texts, made by hand: how often each word of the invented texts occurs, at length one."""
    counts = np.array([[text.lower().split().count(word) for word in [*WORDS, "left", "right"]] for text in texts], dtype=np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["dense", "hidden"])
def test_a_planted_leak_is_shut_out_of_vectors_too_and_out_of_their_fusion(kind, tmp_path):
    pytest.importorskip("faiss")
    embedders = {kind: ("bags", bags)}
    for number, (leak, planted_row) in enumerate(LEAKS.items()):
        run = write_run(tmp_path / str(number), [*(example(i) for i in range(24)), planted_row], [example(30)])
        store, questions = retrieval.with_copies(run, retrieval.read_store(run, "phenotype_extraction"), retrieval.read_questions(run, "phenotype_extraction", "dev"))
        built = retrieval.indexes(run, "phenotype_extraction", store, ["bm25", kind], embedders)
        result = retrieval.rank(store, questions, built, ["bm25", kind, "rrf"], embedders)
        assert all(len(store) - 1 not in lists[0] and len(lists[0]) == 10 for lists in result["ranked"].values()), leak
        assert result["guarded"][kind] == [leak.split(",")[0]]


def test_the_guards_compare_numbers_that_stand_for_the_same_words(run):
    store, questions, _ = ranked(run)
    columns, rows = retrieval.coded(store.assign(institution=["", "h1", *store["institution"][2:]]), questions.assign(institution=["", *questions["institution"][1:]]))
    assert columns["institution"][0] == rows[0]["institution"] == -1 and columns["field"][0] == rows[3]["field"] >= 0
    assert not retrieval.shut_out(columns, rows[0], other_institution=True)["institution"].any()  # an unknown institution is nobody's
    by_words = [[own == theirs for own in store["institution"][2:]] for theirs in questions["institution"][1:]]
    assert [(columns["institution"][2:] == row["institution"]).tolist() for row in rows[1:]] == by_words


def test_a_near_copy_of_the_whole_note_is_shut_out_although_the_sentences_shown_differ(tmp_path):
    run = write_run(tmp_path, [*(example(i) for i in range(24)), example(99)], [example(30)])
    notes = pd.read_parquet(run / "corpus" / "notes.parquet").set_index("note_id")["text"]
    long = " ".join(np.random.default_rng(1).permutation(WORDS * 4))
    notes[["n30", "n99"]] = [long, long + " end"]
    notes.reset_index().to_parquet(run / "corpus" / "notes.parquet")
    store, _, result = ranked(run)
    assert store["note_id"].iat[-1] == "n99" and not result["allowed"][0][-1] and result["allowed"][0].sum() == 24


def test_the_same_institution_is_shut_out_only_if_wished(run):
    store, questions, result = ranked(run)
    theirs = [set(store["institution"].to_numpy()[places]) for places in result["ranked"]["bm25"]]
    assert any(own in found for own, found in zip(questions["institution"], theirs, strict=True))
    _, _, other = ranked(run, other_institution=True)
    for own, places in zip(questions["institution"], other["ranked"]["random"], strict=True):
        assert own not in set(store["institution"].to_numpy()[places]) and len(places)


def test_only_questions_of_the_same_field_are_found(tmp_path):
    others = [example(i) | {"field": "grade", "example_id": f"phenotype_extraction|n{i}|grade"} for i in range(30, 36)]
    run = write_run(tmp_path, [*(example(i) for i in range(12)), *others], [example(40)])
    store, _, result = ranked(run)
    assert {field for places in result["ranked"]["bm25"] for field in store["field"].to_numpy()[places]} == {"laterality"}


def test_the_query_holds_no_answer(tmp_path):
    """The gold of another run changes nothing that is searched for, and a gold value that the note does not say stands in no query."""
    rows = [example(i) for i in range(12)]
    run = write_run(tmp_path, rows, [example(30, answer="Zebra side")])
    questions = retrieval.read_questions(run, "phenotype_extraction", "dev")
    assert questions["answer"].tolist() == ["Zebra side"] and "zebra" not in questions["text"].iat[0].lower() and "Response" not in questions["text"].iat[0]
    found = [places.tolist() for places in ranked(run)[2]["ranked"]["bm25"]]
    write_run(tmp_path, rows, [example(30, answer="Left")])
    assert [places.tolist() for places in ranked(run)[2]["ranked"]["bm25"]] == found


def test_repeated_training_rows_are_found_once_and_draws_are_by_hash(tmp_path):
    rows = [example(i) | {"example_id": example(i)["example_id"] + ending} for i in range(10) for ending in ("", "#2", "#3")]
    run = write_run(tmp_path, rows, [example(30), example(31) | {"headline": False}])
    assert len(retrieval.read_store(run, "phenotype_extraction")) == 10 and len(retrieval.read_questions(run, "phenotype_extraction", "dev")) == 1
    some = retrieval.read_store(run, "phenotype_extraction", 4)
    assert len(some) == 4 and set(some["example_id"]) <= set(retrieval.read_store(run, "phenotype_extraction", 7)["example_id"])
    with pytest.raises(UserError, match="02_dataset_preparation"):
        retrieval.read_store(run, "diagnosis_generation")


def test_examples_stand_before_the_question_nearest_last_and_never_cost_it_a_word():
    tokenizer = models.load_tokenizer("tiny_base")
    question = example(30)["prompt"]
    tail = question.split(retrieval.INPUT, 1)[1]
    examples = [("In the text: nearest one", "Left"), ("In the text: " + "word " * 40, "Right"), ("In the text: third", "Left")]
    length = len(tokenizer(question)["input_ids"])
    for room in range(length - 2, length + 160, 3):
        prompt, used = retrieval.worked_prompt(question, examples, tokenizer, room)
        assert prompt.endswith(retrieval.INPUT + tail) and prompt.startswith(question.split(retrieval.INPUT)[0])
        assert prompt.count(retrieval.RESPONSE) == used + 1 and (used == 0 or len(tokenizer(prompt)["input_ids"]) <= room)
        if used == 0:
            assert prompt == question
    assert used == 3 and prompt.index("third") < prompt.index("word word") < prompt.index("nearest one") < prompt.rindex(tail)
    assert retrieval.INPUT + "In the text: nearest one" + retrieval.RESPONSE + "Left" + retrieval.INPUT + tail in prompt
    alone = retrieval.worked_prompt(question, examples[:1], tokenizer, 2048)[0]
    exactly = len(tokenizer(alone)["input_ids"])
    assert retrieval.worked_prompt(question, examples, tokenizer, exactly) == (alone, 1)  # the farthest go first
    assert retrieval.worked_prompt(question, examples, tokenizer, exactly - 1) == (question, 0)
    assert retrieval.worked_prompt(question, [], tokenizer, 10) == (question, 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    torch.set_num_threads(1)
    run = write_run(tmp_path_factory.mktemp("run"), [example(i) for i in range(24)], [example(i) for i in range(30, 36)])
    found = retrieval.run_stage(run, "tiny_base", "base", ["phenotype_extraction"], ["dev"], ["bm25", "tfidf", "rrf", "random"], [1, 3], max_new_tokens=4, batch_size=8)
    return run, found, retrieval_results.tables(run, found, n_resamples=50)


def test_a_stage_answers_every_condition_once_and_a_second_call_repeats_nothing(finished, monkeypatch):
    run, found, _ = finished
    folder = run / "retrieval" / "tiny_base" / "base"
    files = sorted(path.name for path in (folder / "predictions").glob("*_k[013].jsonl"))
    assert len(files) == 1 + 4 * 2 + 1 and "phenotype_extraction.dev+none_k0.jsonl" in files and "phenotype_extraction.dev+oracle_k0.jsonl" in files
    assert all([row["example_id"] for row in read_jsonl(folder / "predictions" / name)] == found[0]["questions"]["example_id"].tolist() for name in files)
    prompts = [row["prompt"] for row in read_jsonl(folder / "prompts" / "phenotype_extraction.dev.jsonl")]
    assert len(prompts) == len(set(prompts)) < 6 * 9  # a prompt that two retrievers share is answered once
    retrieved = read_jsonl(folder / "retrieved" / "phenotype_extraction.dev.jsonl")
    assert len(retrieved) == 4 * 6 and set(retrieved[0]) == {"example_id", "retriever", "candidates"}
    assert not (run / "results" / "ledger.csv").exists()  # development patients
    monkeypatch.setattr(retrieval.generation, "answer_batch", lambda *args: pytest.fail("answered again"))
    monkeypatch.setattr(retrieval.retrieval_index, "build", lambda *args: pytest.fail("built again"))
    again = retrieval.run_stage(run, "tiny_base", "base", ["phenotype_extraction"], ["dev"], ["bm25", "tfidf", "rrf", "random"], [1, 3], max_new_tokens=4, batch_size=8)
    assert [places.tolist() for places in again[0]["ranked"]["rrf"]] == [places.tolist() for places in found[0]["ranked"]["rrf"]]


def test_all_tables_have_their_columns_and_the_oracle_bounds_the_retrievers(finished):
    _, found, tables = finished
    columns = {"retrieval": retrieval_results.COLUMNS, "retrieval_tests": retrieval_results.TEST_COLUMNS, "retrieval_copies": retrieval_results.COPY_COLUMNS,
               "retrieval_quality": retrieval_results.QUALITY_COLUMNS}  # fmt: skip
    for name, wanted in columns.items():
        assert list(tables[name].columns) == wanted and all(results_files.meaning(f"{name}.csv", column) for column in wanted)
    average = tables["retrieval"].query("metric == 'average' and family == 'paper'").set_index("retriever")["f1"]
    assert average["oracle"] >= average[["bm25", "tfidf", "rrf"]].max() - 1e-9
    tests = tables["retrieval_tests"]
    assert len(tests) == 8 + 6 and set(tests["against"]) == {"none", "random"} and "oracle" not in set(tests["retriever"])
    assert np.allclose(tests["p_holm"], stats.holm(tests["p"]))
    assert len(retrieval_results.shown_scores(tables["retrieval"])) == 10 and len(retrieval_results.shown_quality(tables["retrieval_quality"])) == 4
    shown = retrieval_results.shown_quality(tables["retrieval_quality"])
    assert shown["examples from"].tolist() == ["BM25", "TF-IDF", "rank fusion", "random example"] and "nearest has the answer, %" in shown
    assert len(retrieval_results.guard_sentences(tables["retrieval_quality"])) == 1
    assert len(retrieval_results.sentences(tests)) == 2 and retrieval_results.copy_sentences(tables["retrieval_copies"])
    assert retrieval.described(found)["candidates a question (median)"].tolist() == [24]


def test_copying_is_counted_apart_for_right_and_wrong_neighbours_by_hand(tmp_path):
    """Four questions, all gold Right; two neighbours say Right, two say Left; with them the model repeats three of the four."""
    questions = [example(i, answer="Right") for i in range(40, 44)]
    run = write_run(tmp_path, [example(0)], questions)
    folder = run / "retrieval" / "m" / "s"
    answers = {"none_k0": ["Right", "Left", "Right", "Right"], "bm25_k1": ["Right", "Right", "Left", "Right"]}
    nearest = {"none_k0": [""] * 4, "bm25_k1": ["Right", "right", "Left", "Left"]}
    for name, given in answers.items():
        rows = [{"example_id": q["example_id"], "prediction": a, "answers": q["answers"], "parsed": a, "nearest": near, "used": int(near != "")}
                for q, a, near in zip(questions, given, nearest[name], strict=True)]  # fmt: skip
        write_jsonl(folder / "predictions" / f"phenotype_extraction.dev+{name}.jsonl", rows)
    one = {"model": "m", "stage": "s", "task": "phenotype_extraction", "split": "dev", "folder": folder, "ranked": {"bm25": []}, "ks": [1]}
    read = retrieval_results.read_all(run, one)
    table = retrieval_results.copy_table(one, read).set_index("retrieved")
    assert table.loc["right", ["n", "right_without", "right_with", "copied", "agreed_without", "difference"]].tolist() == [2, 50, 100, 100, 50, 50]
    assert table.loc["wrong", ["n", "right_without", "right_with", "copied", "agreed_without", "difference"]].tolist() == [2, 100, 50, 50, 0, -50]
    tests = retrieval_results.test_table(one, read)
    assert tests["difference"].tolist() == [0.0] and tests["against"].tolist() == ["none"] and tests["clusters"].tolist() == [4]
    assert read["oracle", 0][1]["right"].tolist() == read["bm25", 1][1]["right"].tolist()  # one retriever: the best of one


def test_quality_by_hand(tmp_path):
    """The question's histology is type 2; the candidates in their found order share both labels, none, and one."""
    train = [example(2, answer="Right"), example(3, answer="Left"), example(4, answer="Right")]  # institutions h2, h3, h0, so types 2, 3, 0
    run = write_run(tmp_path, train, [example(30, answer="Right")])  # h2: type 2
    store, questions = retrieval.read_store(run, "phenotype_extraction"), retrieval.read_questions(run, "phenotype_extraction", "dev")
    one = {"model": "m", "stage": "s", "task": "phenotype_extraction", "split": "dev", "store": store, "questions": questions, "ranked": {"bm25": [np.array([1, 0, 2])]},
           "allowed": [np.ones(3, dtype=bool)], "guarded": {"bm25": [""]}, "indexes": {"bm25": {"bytes": 2_000_000}}, "seconds": {"bm25": 0.004}}  # fmt: skip
    table = retrieval_results.quality_table(run, one).set_index("metric")["value"]
    gains = {0: 1.0, 1: 0.0, 2: 0.5}
    dcg, ideal = gains[1] / np.log2(2) + gains[0] / np.log2(3) + gains[2] / np.log2(4), 1.0 / np.log2(2) + 0.5 / np.log2(3)
    assert table["ndcg_10"] == pytest.approx(100 * dcg / ideal)
    assert table[["same_histology_1", "same_answer_1", "same_answer_3"]].tolist() == [0, 0, 100] and table["same_histology_3"] == pytest.approx(100 / 3)
    assert table["milliseconds"] == pytest.approx(4) and table["index_megabytes"] == pytest.approx(2) and table["guarded_patient"] == 0


def test_what_was_not_found_adds_no_gain_and_a_share_that_nothing_moves_has_wilsons_limits():
    gains = np.array([1.0, 0.5, 0.5, 0.0])
    assert retrieval_results.ndcg(np.array([1.0, 0.5, 0.5]), gains) == pytest.approx(1) and retrieval_results.ndcg(np.array([]), gains) == 0
    assert retrieval_results.ndcg(np.array([0.5]), gains) == pytest.approx(0.5 / (1 + 0.5 / np.log2(3) + 0.5 / 2))
    low, high = retrieval_results.share_limits(np.zeros(40), np.arange(40), "percentile", 100, 0)
    z = 1.959964
    assert low == 0 and high == pytest.approx(100 * z**2 / (40 + z**2), abs=1e-3)  # 8.8 %
    assert retrieval_results.share_limits(np.ones(40), np.arange(40) // 4, "percentile", 100, 0) == pytest.approx((100 * 10 / (10 + z**2), 100), abs=1e-3)  # ten patients
    some = retrieval_results.share_limits(np.arange(40) % 2, np.arange(40), "percentile", 200, 0)
    assert 30 < some[0] < 45 and 55 < some[1] < 70


def test_a_loss_is_no_gain_in_words_and_guards_are_counted():
    row = {"task": "phenotype_extraction", "split": "dev", "stage": "sft", "against": "none", "retriever": "bm25", "k": 1, "difference": -2.0, "low": -5.0, "high": 1.0, "n": 40, "p_holm": 0.4,
           "smallest_detectable": 6.0}  # fmt: skip
    said = retrieval_results.sentences(pd.DataFrame([row, row | {"difference": -4.0, "k": 3}]))[0]
    assert "None gained; nearest to it comes BM25, k = 1" in said and "6.0 points" in said
    assert "The largest gain is BM25, k = 1" in retrieval_results.sentences(pd.DataFrame([row | {"difference": 2.0}]))[0]
    shared = {"task": "phenotype_extraction", "split": "dev", "stage": "sft", "n": 40}
    rows = [shared | {"retriever": name, "metric": f"guarded_{guard}", "value": value} for name in ("bm25", "tfidf") for guard, value in zip(retrieval.GUARDS, (0, 5.0, 2.5, 0), strict=True)]
    assert "in 6 of 80 searches the first find was shut out (the question's own note 0, its patient 4, a near copy 2, its institution 0)" in retrieval_results.guard_sentences(pd.DataFrame(rows))[0]


def test_what_cannot_run_is_said_and_left_out(monkeypatch, capsys):
    monkeypatch.setattr(retrieval.retrieval_index, "missing_libraries", lambda kinds: {"dense": "pip install this"})
    assert retrieval.usable(["bm25", "dense", "rrf", "random"]) == ["bm25", "random"]
    assert "dense is left out" in (text := capsys.readouterr().out) and "pip install this" in text and "rrf is left out" in text
    with pytest.raises(UserError, match="bm25, tfidf, dense"):
        retrieval.usable(["bm26"])
    with pytest.raises(UserError, match="none of them can run"):
        retrieval.usable(["dense"])
    with pytest.raises(UserError, match="ks"):
        retrieval.run_stage("nowhere", "tiny_base", "base", [], [], ["bm25"], [0])
