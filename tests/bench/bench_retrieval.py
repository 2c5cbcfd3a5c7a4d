"""What retrieval costs by the size of the store: `python tests/bench/bench_retrieval.py 1000 10000 100000 [1000000] [--kinds bm25 vectors]`.

Prints a table: seconds to build an index, its megabytes on disk, the highest memory of the process (each row is a process of its own, so that rows do
not add up), milliseconds a question without and with a mask of what is shut out (median of 50, one thread). Texts are invented, 60 words each (what a
prompt shows of a note), words drawn with Zipf's frequencies from 30,000. `vectors` are random unit vectors of 384 numbers, as dense makes them, in the
exact index; `hnsw` the same in faiss' graph index, with the share of the exact ten that it finds. `embed` is what it takes to make vectors of 200 texts.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from cancerllm_utils.evaluation import retrieval_index

WORDS, VOCABULARY, QUESTIONS, SIZE, DEPTH = 60, 30_000, 50, 384, 10


def texts(n: int, seed: int = 0) -> list[str]:
    """n invented texts of WORDS words."""
    weights = 1 / np.arange(1, VOCABULARY + 1)
    names = np.array(["".join(chr(97 + (number // 20**place) % 20) for place in range(4)) for number in range(VOCABULARY)])
    drawn = np.random.default_rng(seed).choice(VOCABULARY, size=(n, WORDS), p=weights / weights.sum())
    return [" ".join(names[row]) for row in drawn]


def unit_vectors(n: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, SIZE)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def median_ms(work, queries) -> float:
    """Median milliseconds of work(query)."""
    taken = []
    for query in queries:
        begun = time.perf_counter()
        work(query)
        taken.append(1000 * (time.perf_counter() - begun))
    return float(np.median(taken))


def row(kind: str, n: int) -> dict:
    """One line of the table."""
    allowed = np.random.default_rng(1).random(n) < 0.9
    if kind in retrieval_index.BY_WORDS:
        store, queries = texts(n), texts(QUESTIONS, seed=1)
        begun = time.perf_counter()
        index = retrieval_index.build(kind, store)
    else:
        import faiss

        vectors, queries = unit_vectors(n), list(unit_vectors(QUESTIONS, seed=1))
        begun = time.perf_counter()
        if kind == "hnsw":
            faiss.omp_set_num_threads(1)
            graph = faiss.IndexHNSWFlat(SIZE, 32, faiss.METRIC_INNER_PRODUCT)
            graph.add(vectors)
            index = {"kind": "dense", "n": n, "faiss": graph}
        else:
            index = retrieval_index.build("dense", [""] * n, vectors)
    built = time.perf_counter() - begun
    found = {"kind": kind, "n": n, "build s": built, "ms": median_ms(lambda query: retrieval_index.search(index, query, DEPTH), queries)}
    if kind == "hnsw":
        exact = retrieval_index.build("dense", [""] * n, vectors)
        graph.hnsw.efSearch = 64
        found["ms"] = median_ms(lambda query: graph.search(query[None], DEPTH), queries)
        same = [len(set(graph.search(query[None], DEPTH)[1][0].tolist()) & set(retrieval_index.search(exact, query, DEPTH).tolist())) for query in queries]
        found["recall"] = float(np.mean(same)) / DEPTH
    else:
        found["ms with guards"] = median_ms(lambda query: retrieval_index.search(index, query, DEPTH, allowed), queries)
    with tempfile.TemporaryDirectory() as folder:
        if kind == "hnsw":
            faiss.write_index(graph, f"{folder}/index.faiss")
        else:
            retrieval_index.save(index, folder, "bench")
        found["MB on disk"] = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 1e6
    return found | {"GiB at most": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def embed() -> list[dict]:
    """Texts a second of the two embedders on one thread."""
    import torch

    from cancerllm_utils.modeling import models

    torch.set_num_threads(1)
    some, rows = texts(200), []
    network, tokenizer = models.load_model("tiny_base"), models.load_tokenizer("tiny_base")
    makers = {"hidden, tiny_base": lambda: retrieval_index.hidden_vectors(network, tokenizer, some)}
    if not retrieval_index.missing_libraries(["dense"]):
        sentences = retrieval_index.dense_model()
        makers[f"dense, {retrieval_index.PACKAGED}"] = lambda: retrieval_index.dense_vectors(sentences, some)
    for name, make in makers.items():
        begun = time.process_time()
        make()
        rows.append({"kind": name, "n": len(some), "texts per CPU second": len(some) / (time.process_time() - begun)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", type=int, nargs="*", default=[1000, 10000, 100000])
    parser.add_argument("--kinds", nargs="*", default=["bm25", "tfidf", "vectors", "hnsw", "embed"])
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for kind in asked.kinds:
        for n in asked.sizes if kind != "embed" else [0]:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                for found in pool.apply(embed) if kind == "embed" else [pool.apply(row, (kind, n))]:
                    print("  ".join(f"{key} {value:,.2f}" if isinstance(value, float) else f"{key} {value:,}" if isinstance(value, int) else f"{value:<24}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
