"""The store of public knowledge: passages, who answers a question by hand, what the base has read stays out, and missing files are said. All texts are invented."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import torch

from cancerllm_utils.evaluation import knowledge
from cancerllm_utils.report import results_files
from cancerllm_utils.tasks.task import read_jsonl

PAGES = {"thumb": "Thumb growths are removed with one small spoon. Nothing further follows.", "toe": "Toe growths are frozen. They come back in winter.",
         "ear": "Ear growths are painted blue every second day until they are gone."}  # fmt: skip


@pytest.fixture
def data(tmp_path):
    """Three questions on three pages, one of which other pages ask too (so the base has read it), one oncology article, one other, one evidence statement."""
    folder = tmp_path / "data"
    (folder / "literature").mkdir(parents=True)
    (folder / "genomics").mkdir()
    rows = [{"url": f"https://www.cancer.gov/types/{name}", "source": "CancerGov", "focus": name, "question_type": "treatment", "question": f"How is a growth of the {name} treated ?", "answer": text}
            for name, text in PAGES.items()]  # fmt: skip
    (folder / "literature" / "medquad_cancergov.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = [{"url": f"https://elsewhere.org/{i}", "question": "How is a growth of the ear treated?", "answer": "Invented."} for i in range(8)]
    articles = [{"pmcid": "PMC1", "licence": "CC BY", "oncology": True, "text": "Sixty thumbs were divided at random. " * 40}, {"pmcid": "PMC2", "licence": "CC BY", "oncology": False, "text": "Toes in sports."}]
    for name, lines in (("medquad_other", other), ("pmc_trial_articles", articles)):
        write_gzip(folder / "literature" / f"{name}.jsonl.gz", lines)
    header = ["gene", "variant", "disease", "drugs", "evidence_type", "evidence_direction", "evidence_level", "clinical_significance", "evidence_statement", "evidence_id"]
    values = ["ABC1", "X1Y", "Nail rash", "", "Predictive", "Supports", "B", "Sensitivity", "Patches with this variant shrink.", "77"]
    (folder / "genomics" / "civic_evidence_2018.tsv").write_text("\t".join(header) + "\n" + "\t".join(values) + "\n")
    return folder


def write_gzip(path, rows):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def test_passages_end_with_sentences_and_lose_no_word():
    text = " ".join(f"Sentence number {i} has exactly eight words here." for i in range(60))
    passages = knowledge.passages_of(text)
    assert " ".join(passages) == text and len(passages) == 4
    assert all(knowledge.PASSAGE_WORDS <= len(passage.split()) < knowledge.PASSAGE_WORDS + 30 for passage in passages[:-1]) and knowledge.passages_of(" ") == []


def test_the_store_holds_answers_oncology_articles_and_statements_each_with_its_reference(data):
    store = knowledge.read_store(str(data))
    assert store.groupby("source")["cite"].first().to_dict() == {"cancergov": "https://www.cancer.gov/types/thumb", "literature": "PMC1", "civic": "CIViC EID77"}
    assert "PMC2" not in set(store["cite"]) and store["text"].is_unique
    assert not store["text"].str.contains("How is a growth").any()  # a question in its own passage would find itself


def test_questions_that_the_base_has_read_are_left_out(data):
    questions, counts = knowledge.read_questions(str(data))
    assert counts == {"asked": 3, "seen": 1, "kept": 2} and set(questions["page"].str.rsplit("/").str[-1]) == {"thumb", "toe"}
    assert len(knowledge.read_questions(str(data), 1)[0]) == 1


def test_ranks_and_measures_by_hand():
    store = pd.DataFrame({"text": [PAGES["thumb"], PAGES["toe"], PAGES["ear"]], "cite": ["a", "b", "c"], "source": "cancergov"})
    questions = pd.DataFrame({"answer": [PAGES["toe"], PAGES["ear"], "An answer that is not in the store."], "page": ["b", "c", "d"], "question": ["toe?", "ear?", "else?"], "item": ["1", "2", "3"]})
    ranked = [np.array([1, 0]), np.array([0, 1, 2]), np.array([0, 1])]
    assert knowledge.first_ranks(store, questions, ranked).tolist() == [1, 3, np.inf]
    found = knowledge.measures(store, questions, ranked)
    assert found["recall_1"].tolist() == [100, 0, 0] and found["recall_5"].tolist() == [100, 100, 0] and found["page_1"].tolist() == [100, 0, 0]
    assert found["mrr"].tolist() == pytest.approx([100, 100 / 3, 0])
    table = knowledge.quality(store, questions, {"bm25": ranked}, 50).set_index("metric")
    assert table.loc["recall_5", "value"] == pytest.approx(200 / 3) and set(table["n"]) == {3} and set(table["passages"]) == {3}
    references = knowledge.cited(store, questions, ranked, k=2)
    assert references["passages"].tolist() == ["[1] b, [2] a", "[1] a, [2] b", "[1] a, [2] b"] and references["own answer"].tolist() == [1, 3, ""]


def test_ways_of_searching_are_compared_on_the_same_questions_by_hand():
    """Six questions on six pages: the second way has all first, the first none, so that of 2 ^ 6 sign flips only two are as extreme."""
    texts = [f"Answer number {i} stands alone." for i in range(6)]
    store = pd.DataFrame({"text": texts, "cite": [f"p{i}" for i in range(6)], "source": "cancergov"})
    questions = pd.DataFrame({"answer": texts, "page": store["cite"], "question": "?", "item": store["cite"]})
    right, wrong = [np.array([i]) for i in range(6)], [np.array([(i + 1) % 6]) for i in range(6)]
    said = knowledge.compared(store, questions, {"bm25": wrong, "tfidf": right, "dense": wrong}, 50)
    assert said[0] == "TF-IDF against BM25, a passage of the answer first: +100.0 points (95 % interval +100.0 to +100.0, p 0.062, n = 6)."  # 2 x 2 / 64
    assert "sentence vectors against BM25" in said[1] and "+0.0 points" in said[1] and "p 1.000" in said[1] and knowledge.compared(store, questions, {"bm25": right}) == []


def test_the_whole_study_finds_the_source_and_answers_carry_their_passages(data, tmp_path):
    torch.set_num_threads(1)
    found = knowledge.study(tmp_path / "run", "tiny_base", "base", ["bm25", "tfidf", "rrf"], str(data), n_answers=2, n_resamples=20)
    table = found["table"]
    assert list(table.columns) == knowledge.COLUMNS and all(results_files.meaning("knowledge_retrieval.csv", column) for column in table)
    assert table.query("retriever == 'bm25' and metric == 'recall_1'")["value"].tolist() == [100.0]
    assert set(table.loc[table["metric"] == "rouge_l", "k"]) == {0, 3} and table["value"].between(0, 100).all()
    rows = read_jsonl(tmp_path / "run" / "retrieval" / "knowledge" / "tiny_base-base.jsonl")
    assert len(rows) == 2 and all(set(passage) == {"source", "cite", "text"} for row in rows for passage in row["passages"])
    assert rows[0]["passages"][0]["cite"].startswith("https://www.cancer.gov/types/") and "1 stand in the embedded base" in found["said"][0]
    assert len(found["compared"]) == 2 + 2 and all("p " in line for line in found["compared"]) and "https://www.cancer.gov/types/" in found["cited"]["passages"][0]


def test_passages_leave_out_the_last_ones_and_never_the_question():
    from cancerllm_utils.modeling import models

    tokenizer = models.load_tokenizer("tiny_base")
    passages = [{"text": "first " * 20}, {"text": "second " * 20}]
    whole, kept = knowledge.passage_prompt("Who?", passages, tokenizer, 2048)
    assert len(kept) == 2 and "[2] second" in whole
    less, kept = knowledge.passage_prompt("Who?", passages, tokenizer, len(tokenizer(whole)["input_ids"]) - 1)
    assert [passage["text"] for passage in kept] == [passages[0]["text"]] and "Question: Who?" in less
    assert knowledge.passage_prompt("Who?", passages, tokenizer, 1)[1] == []


def test_missing_files_are_named_and_the_study_is_empty(tmp_path, data, capsys):
    found = knowledge.study(tmp_path, "tiny_base", "base", ["bm25"], str(tmp_path))
    assert found["table"].empty and list(found["table"].columns) == knowledge.COLUMNS and "medquad_cancergov" in found["said"][0]
    (data / "genomics" / "civic_evidence_2018.tsv").unlink()
    assert set(knowledge.read_store(str(data))["source"]) == {"cancergov", "literature"} and "civic_evidence_2018" in capsys.readouterr().out
