"""What a store costs: the same texts every time, one row per kind and size, each from a process of its own, and sizes that make no sense are refused."""

import numpy as np
import pytest

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import retrieval_costs
from cancerllm_utils.report import results_files


def test_texts_are_drawn_with_zipfs_frequencies_and_the_same_every_time():
    texts = retrieval_costs.texts(400)
    assert texts == retrieval_costs.texts(400) and len(texts) == 400 and {len(text.split()) for text in texts} == {retrieval_costs.WORDS}
    words, counts = np.unique(" ".join(texts).split(), return_counts=True)
    share = 1 / (1 / np.arange(1, retrieval_costs.VOCABULARY + 1)).sum()  # of the first word
    assert words[counts.argmax()] == "aaaa" and counts.max() / counts.sum() == pytest.approx(share, rel=0.1)


def test_larger_stores_go_on_where_smaller_ones_end(monkeypatch):
    monkeypatch.setattr(retrieval_costs, "BLOCK", 10)
    assert retrieval_costs.texts(25)[:20] == retrieval_costs.texts(20)
    vectors = retrieval_costs.unit_vectors(25)
    assert vectors.shape == (25, retrieval_costs.SIZE) and vectors.dtype == np.float32 and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_every_kind_and_size_is_a_row_and_every_column_is_described():
    said = []
    table = retrieval_costs.table([20, 200], ["bm25"], said.append)
    assert list(table.columns) == retrieval_costs.COLUMNS and table["notes"].tolist() == [20, 200] and [row["notes"] for row in said] == [20, 200]
    assert all(results_files.meaning("retrieval_costs.csv", column) for column in table)
    assert table["index_megabytes"].is_monotonic_increasing and table[["milliseconds", "milliseconds_guarded", "memory_gigabytes"]].gt(0).all(axis=None) and table["found_percent"].isna().all()


def test_the_graph_finds_nearly_all_of_a_small_store():
    pytest.importorskip("faiss")
    row = retrieval_costs.measure("hnsw", 300)
    assert row["found_percent"] > 95 and "milliseconds_guarded" not in row and row["index_megabytes"] > 300 * retrieval_costs.SIZE * 4 / 1e6


def test_what_cannot_be_measured_is_refused_or_left_out(monkeypatch):
    with pytest.raises(UserError, match="bm26 is unknown"):
        retrieval_costs.table([100], ["bm26"])
    with pytest.raises(UserError, match="too few"):
        retrieval_costs.table([3])
    monkeypatch.setattr(retrieval_costs.retrieval_index, "missing_libraries", lambda kinds: {"hidden": "pip install faiss-cpu"})
    assert retrieval_costs.table([100], ["vectors", "hnsw"]).empty
