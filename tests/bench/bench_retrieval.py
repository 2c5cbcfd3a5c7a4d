"""What retrieval costs by the size of the store: `python tests/bench/bench_retrieval.py 1000 10000 100000 [1000000] [--kinds bm25 vectors]`.

Prints the rows of evaluation/retrieval_costs.py (CPU time of one core, each row in a process of its own), then what it takes to make vectors of 200 texts.
At a million notes vectors need a minute or two, bm25 and tfidf several, hnsw far longer.
"""

import argparse
import time

from cancerllm_utils.evaluation import retrieval_costs, retrieval_index


def embed() -> list[dict]:
    """Texts a second of the two embedders on one thread."""
    import torch

    from cancerllm_utils.modeling import models

    torch.set_num_threads(1)
    some, rows = retrieval_costs.texts(200), []
    network, tokenizer = models.load_model("tiny_base"), models.load_tokenizer("tiny_base")
    makers = {"hidden, tiny_base": lambda: retrieval_index.hidden_vectors(network, tokenizer, some)}
    if not retrieval_index.missing_libraries(["dense"]):
        sentences = retrieval_index.dense_model()
        makers[f"dense, {retrieval_index.PACKAGED}"] = lambda: retrieval_index.dense_vectors(sentences, some)
    for name, make in makers.items():
        begun = time.process_time()
        make()
        rows.append({"kind": name, "texts": len(some), "texts per CPU second": len(some) / (time.process_time() - begun)})
    return rows


def show(row: dict) -> None:
    print("  ".join(f"{key} {value:,.2f}" if isinstance(value, float) else f"{key} {value:,}" if isinstance(value, int) else f"{value:<24}" for key, value in row.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", type=int, nargs="*", default=[1000, 10000, 100000])
    parser.add_argument("--kinds", nargs="*", default=[*retrieval_costs.KINDS, "embed"])
    asked = parser.parse_args()
    retrieval_costs.table(asked.sizes, [kind for kind in asked.kinds if kind != "embed"], show)
    for row in embed() if "embed" in asked.kinds else []:
        show(row)


if __name__ == "__main__":
    main()
