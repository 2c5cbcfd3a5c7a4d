"""What finding examples costs by the size of the store: seconds to build an index, its size, memory, and milliseconds a question.

Texts are invented, 60 words each (what a prompt shows of a note), drawn with Zipf's frequencies from 30,000 words. `vectors` are random unit vectors of 384
numbers, as dense makes them, in the exact index of faiss; `hnsw` the same in its graph index, with the share of the exact ten that it finds. Times are
those of one processor core at work (CPU time), so that other programs on the machine do not count. Making the vectors of texts is not counted here.
"""

import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import retrieval_index

KINDS = (*retrieval_index.BY_WORDS, "vectors", "hnsw")
COLUMNS = ["kind", "notes", "build_seconds", "milliseconds", "milliseconds_guarded", "index_megabytes", "memory_gigabytes", "found_percent"]
WORDS, VOCABULARY, QUESTIONS, SIZE, DEPTH = 60, 30_000, 50, 384, 10
GUARDED = 0.1  # share of the store that is shut out of a guarded search
BLOCK = 100_000  # texts drawn together
LINKS, SEARCHED = 32, 64  # neighbours of a node in the graph, and nodes looked at in a search


def texts(n: int, seed: int = 0) -> list[str]:
    """n invented texts of WORDS words."""
    sums = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    names = np.array(["".join(chr(97 + (number // 20**place) % 20) for place in range(4)) for number in range(VOCABULARY)])
    rng, made = np.random.default_rng(seed), []
    for begin in range(0, n, BLOCK):
        drawn = np.searchsorted(sums, rng.random((min(BLOCK, n - begin), WORDS)) * sums[-1], side="right")
        made += [" ".join(names[row]) for row in drawn]
    return made


def unit_vectors(n: int, seed: int = 0) -> np.ndarray:
    """n random vectors of length one, (n, SIZE), float32."""
    vectors = np.random.default_rng(seed).standard_normal((n, SIZE), dtype=np.float32)
    for begin in range(0, n, BLOCK):
        vectors[begin : begin + BLOCK] /= np.linalg.norm(vectors[begin : begin + BLOCK], axis=1, keepdims=True)
    return vectors


def median_milliseconds(work, queries) -> float:
    """Median CPU milliseconds of work(query)."""
    taken = []
    for query in queries:
        begun = time.thread_time()
        work(query)
        taken.append(1000 * (time.thread_time() - begun))
    return float(np.median(taken))


def index_of(kind: str, store) -> dict:
    """The index of texts or vectors; hnsw is faiss' graph (hierarchical navigable small world, Malkov and Yashunin 2018, doi 10.1109/TPAMI.2018.2889473)."""
    if kind in retrieval_index.BY_WORDS:
        return retrieval_index.build(kind, store)
    if kind == "vectors":
        return retrieval_index.build("dense", [""] * len(store), store)
    import faiss

    faiss.omp_set_num_threads(1)
    graph = faiss.IndexHNSWFlat(SIZE, LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efSearch = SEARCHED
    graph.add(store)
    return {"kind": "dense", "n": len(store), "faiss": graph}


def measure(kind: str, n: int) -> dict:
    """One row of COLUMNS, measured in this process. memory_gigabytes is the most that the process ever held, the store itself included."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read where an index of vectors is built
    store, queries = (texts(n), texts(QUESTIONS, seed=1)) if kind in retrieval_index.BY_WORDS else (unit_vectors(n), list(unit_vectors(QUESTIONS, seed=1)))
    begun = time.process_time()
    index = index_of(kind, store)
    found = {"kind": kind, "notes": n, "build_seconds": time.process_time() - begun}
    found["milliseconds"] = median_milliseconds(lambda query: retrieval_index.search(index, query, DEPTH), queries)
    if kind != "hnsw":
        allowed = np.random.default_rng(1).random(n) >= GUARDED
        found["milliseconds_guarded"] = median_milliseconds(lambda query: retrieval_index.search(index, query, DEPTH, allowed), queries)
    with tempfile.TemporaryDirectory() as folder:
        retrieval_index.save(index, folder, "costs")
        found["index_megabytes"] = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 1e6
    found["memory_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if kind == "hnsw":
        exact = index_of("vectors", store)
        same = [len({*retrieval_index.search(index, query, DEPTH).tolist()} & {*retrieval_index.search(exact, query, DEPTH).tolist()}) for query in queries]
        found["found_percent"] = 100 * float(np.mean(same)) / DEPTH
    return found


def check(sizes: list[int], kinds: list[str] = KINDS) -> None:
    """UserError for an unknown kind, or a size below DEPTH."""
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UserError(f"kinds: {unknown[0]} is unknown. Choose some of {', '.join(KINDS)}.")
    if few := [n for n in sizes if n < DEPTH]:
        raise UserError(f"store_sizes: {few[0]} notes are too few to search. Give {DEPTH} at least.")


def table(sizes: list[int], kinds: list[str] = KINDS, say=None) -> pd.DataFrame:
    """COLUMNS for every kind and size, each measured in a process of its own, so that rows do not add up. say(row) is called after each.

    Vectors are left out where faiss is not installed. Raises UserError as `check` does.
    """
    check(sizes, kinds)
    absent, rows = retrieval_index.missing_libraries(["hidden"]), []
    for kind in kinds:
        for n in sizes if kind in retrieval_index.BY_WORDS or not absent else []:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(measure, (kind, n)))
            if say:
                say(rows[-1])
    return pd.DataFrame(rows, columns=COLUMNS)
