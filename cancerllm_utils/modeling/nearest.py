"""The nearest training example as an answer: what retrieval alone can do, without any learning.

The query is what a model gets to see of the note, its chosen sentences; BM25 (bm25s) finds the training example of the same field, and variant,
whose sentences are most like it, and that example's answer is given. A sceptic's question: does the model do more than look up a similar note?
"""

import bm25s

from ..tasks.context import terms


def seen_text(prompt: str) -> str:
    """What a model sees of the note, without preamble and instruction; the question in it is the same for all examples of a field."""
    return prompt.split("\n\n### Input:\n", 1)[1].removesuffix("\n\n### Response:\n")


def index_examples(rows: list[dict]) -> dict[tuple, dict]:
    """(field, variant) -> {bm25, answers, patients} of training examples (rows of datasets/<task>/train.jsonl), copies of one example once."""
    groups: dict[tuple, dict] = {}
    for row in rows:
        groups.setdefault((row["field"], row["variant"]), {})[row["example_id"].partition("#")[0]] = row
    indexes = {}
    for key, examples in groups.items():
        examples = list(examples.values())
        corpus = [terms(seen_text(row["prompt"])) for row in examples]
        if any(corpus):
            bm25 = bm25s.BM25()
            bm25.index(corpus, show_progress=False)
            indexes[key] = {"bm25": bm25, "answers": [row["answers"][0] for row in examples], "patients": [row["patient_id"] for row in examples]}
    return indexes


def nearest_answers(indexes: dict[tuple, dict], rows: list[dict], fallbacks: list[str]) -> list[str]:
    """The answer of each row's nearest example of another patient, the first of equally near ones; the fallback where no example shares a word."""
    answers = []
    for row, fallback in zip(rows, fallbacks, strict=True):
        index = indexes.get((row["field"], row["variant"]))
        known = [term for term in dict.fromkeys(terms(seen_text(row["prompt"]))) if index and term in index["bm25"].vocab_dict]
        if not known:
            answers.append(fallback)
            continue
        scores = index["bm25"].get_scores(known)
        scores[[number for number, patient in enumerate(index["patients"]) if patient == row["patient_id"]]] = 0
        best = int(scores.argmax())
        answers.append(index["answers"][best] if scores[best] > 0 else fallback)
    return answers
