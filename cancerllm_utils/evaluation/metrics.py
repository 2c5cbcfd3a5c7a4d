"""Scores of one prediction against its gold answers, in two families that always stand side by side.

`paper` is the evaluator of OpenPI (Tandon et al., EMNLP 2020, github.com/allenai/openpi-dataset) as the CancerLLM release uses it,
written anew from its definition; BLEU and ROUGE-L are those of coco-caption (github.com/tylin/coco-caption). It deletes all
punctuation, so that "2.5" equals "25" and "ER+" equals "ER-", and gives a correct one-word answer a BLEU-2 of 0.001.
`clinical` repairs this: decimal points, signs and units count, and BLEU's order never exceeds the answer's length.
What each of these choices does to a headline: sensitivity.py.

A new metric is one function of (gold words, predicted words) -> [0, 1] and one line in METRICS.
"""

import math
import re
import string
import unicodedata
from collections import Counter
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import yaml
from nltk.stem.porter import PorterStemmer
from rapidfuzz.distance import LCSseq

NOT_STATED = "not stated"
UNPARSED = "unparsed"

# Answers repeat (a field has a handful of values), so a small cache catches most pairs and memory stays bounded on any file.
CACHE_SIZE = 2**15
DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
LETTERS = frozenset(string.ascii_lowercase)
STEMMER = PorterStemmer()  # default mode, NLTK_EXTENSIONS
SETTINGS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
REWRITES = [(re.compile(rule["find"]), rule["replace"], frozenset(rule.get("needs", ""))) for rule in SETTINGS["clinical_rewrites"]]
ORDERED_FIELDS = SETTINGS["ordered_fields"]  # field -> its values from low to high


# ---- words -----------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=CACHE_SIZE)
def _stem(word: str) -> str:
    # Every rule of the stemmer takes off a suffix of ASCII letters: "2a" and "25" leave it as they came.
    return STEMMER.stem(word).strip() if word[-1] in LETTERS else word


@lru_cache(maxsize=CACHE_SIZE)
def paper_words(text: str) -> tuple[str, ...]:
    """Stems of a text as OpenPI compares them: lower case, ASCII punctuation deleted, articles kept. Empty for punctuation only."""
    stems = (_stem(word) for word in text.strip().lower().translate(DELETE_PUNCTUATION).split())
    return tuple(stem for stem in stems if stem)


@lru_cache(maxsize=CACHE_SIZE)
def clinical_words(text: str) -> tuple[str, ...]:
    """Words of a text for the clinical family: decimal points, units, + and - kept, nothing stemmed (rules: metrics.yaml)."""
    text = (text if text.isascii() else unicodedata.normalize("NFC", text)).casefold().strip()
    if not text.replace(" ", "").isalpha():  # plain words, the common case, need no rewriting
        signs = set(text)
        for pattern, replacement, needs in REWRITES:
            if not needs or not needs.isdisjoint(signs):
                changed = pattern.sub(replacement, text)
                if changed is not text:
                    text, signs = changed, set(changed)
    return tuple(text.split())


def split_paper(prediction: str) -> list[str]:
    """Items of a predicted string: cut at every comma, stripped, de-duplicated; empty pieces stay, a blank string has no items."""
    return list(dict.fromkeys(piece.strip() for piece in prediction.split(","))) if prediction.strip() else []


def split_clinical(prediction: str) -> list[str]:
    """As split_paper, but a comma between two digits belongs to the number."""
    pieces = re.split(r"(?<!\d),|,(?!\d)", prediction)
    return list(dict.fromkeys(piece.strip() for piece in pieces)) if prediction.strip() else []


# ---- similarity of two answers: (gold words, predicted words) -> [0, 1] ---------------------------------------------------------


def exact_match(gold: tuple, predicted: tuple) -> float:
    """1.0 when both answers have the same words in the same order, else 0.0."""
    return float(gold == predicted)


def _matches(gold, predicted) -> int:
    """How many items of `predicted` also stand in `gold`, each gold item serving once (the clipped count of BLEU and ROUGE-N)."""
    if gold == predicted:
        return len(gold)
    if len(gold) * len(predicted) > 64:  # counting pays only for long answers
        return (Counter(gold) & Counter(predicted)).total()
    left, matches = list(gold), 0
    for item in predicted:
        if item in left:
            left.remove(item)
            matches += 1
    return matches


def _bleu(gold: tuple, predicted: tuple, order: int, tiny: float, small: float) -> float:
    """Geometric mean of the clipped n-gram precisions up to `order` (1 or 2) times the brevity penalty, `tiny` and `small` as in coco-caption."""
    possible = len(predicted) + small
    product = (_matches(gold, predicted) + tiny) / possible
    if order == 2:
        possible = max(0, len(predicted) - 1) + small
        product *= (_matches(list(pairwise(gold)), list(pairwise(predicted))) + tiny) / possible if possible else 0.0
    ratio = (len(predicted) + tiny) / (len(gold) + small)
    return product ** (1 / order) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0)


def paper_bleu2(gold: tuple, predicted: tuple) -> float:
    """BLEU-2 of coco-caption: 1e-15 on the numerators, 1e-9 on the denominators, also those of the brevity penalty."""
    return _bleu(gold, predicted, order=2, tiny=1e-15, small=1e-9)


def clinical_bleu2(gold: tuple, predicted: tuple) -> float:
    """BLEU of order min(2, length of the gold answer), unsmoothed, so that a correct one-word answer scores 1."""
    return _bleu(gold, predicted, order=min(2, len(gold)), tiny=0.0, small=0.0)


def rouge_1(gold: tuple, predicted: tuple) -> float:
    """F1 of the clipped word overlap (ROUGE-1, Lin 2004)."""
    return 2 * _matches(gold, predicted) / (len(gold) + len(predicted))


def rouge_l(gold: tuple, predicted: tuple, beta: float = 1.2) -> float:
    """F-beta of the longest common subsequence of words (Lin and Hovy 2004; beta 1.2 as in coco-caption)."""
    if gold == predicted:
        return 1.0
    ids = {}  # rapidfuzz hashes strings; numbers are compared exactly
    numbered = [ids.setdefault(w, len(ids)) for w in gold], [ids.setdefault(w, len(ids)) for w in predicted]
    common = LCSseq.similarity(*numbered) if len(ids) < len(gold) + len(predicted) else 0
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(gold)
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


METRICS = {
    "paper": {"exact_match": exact_match, "bleu2": paper_bleu2, "rougeL": rouge_l, "rouge1": rouge_1},
    "clinical": {"exact_match": exact_match, "bleu2": clinical_bleu2, "rougeL": rouge_l, "rouge1": rouge_1},
}
AVERAGED = ("exact_match", "bleu2", "rougeL")  # the paper's headline is the mean of exactly these three


@lru_cache(maxsize=CACHE_SIZE)
def _similarities(family: str, gold: tuple, predicted: tuple) -> tuple[float, ...]:
    """Similarity of two answers under every metric of the family; two empty answers are equal, one empty answer matches nothing."""
    if not gold or not predicted:
        return (float(gold == predicted),) * len(METRICS[family])
    return tuple(metric(gold, predicted) for metric in METRICS[family].values())


# ---- one prediction against its gold list --------------------------------------------------------------------------------------


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _best(similarities) -> tuple:
    """The highest similarity under each metric."""
    return similarities[0] if len(similarities) == 1 else tuple(map(max, *similarities))


def _family_scores(family: str, gold: list[tuple], predicted: list[tuple]) -> dict:
    """Best-match precision, recall and F1 of two lists of answers, for every metric of the family and their average."""
    names = list(METRICS[family])
    if not gold or not predicted:
        scores = dict.fromkeys(names, (float(not predicted), float(not gold), float(not gold and not predicted)))
    elif len(gold) == len(predicted) == 1:  # the common case: precision, recall and F1 are the similarity itself
        scores = {name: (value, value, value) for name, value in zip(names, _similarities(family, gold[0], predicted[0]))}
    else:
        table = [[_similarities(family, g, p) for p in predicted] for g in gold]
        precision = [sum(best) / len(predicted) for best in zip(*(_best(column) for column in zip(*table)))]
        recall = [sum(best) / len(gold) for best in zip(*(_best(row) for row in table))]
        scores = {name: (p, r, _f1(p, r)) for name, p, r in zip(names, precision, recall)}
    (p1, r1, f1), (p2, r2, f2), (p3, r3, f3) = (scores[name] for name in AVERAGED)
    scores["average"] = ((p1 + p2 + p3) / 3, (r1 + r2 + r3) / 3, (f1 + f2 + f3) / 3)
    return scores


def paper_scores(answers: list[str], prediction: str) -> dict:
    """OpenPI scores of one prediction: metric -> (precision, recall, F1), each in [0, 1]; `average` is the mean of AVERAGED."""
    gold = [paper_words(a.replace(" .", "") if i == 0 else a) for i, a in enumerate(answers)]  # the evaluator does so, to the first only
    return _family_scores("paper", gold, [paper_words(p) for p in split_paper(prediction)])


def clinical_scores(answers: list[str], prediction: str) -> dict:
    """As paper_scores with the same lists, but with words that keep decimals, signs and units, and BLEU of at most the answer's length."""
    return _family_scores("clinical", [clinical_words(a) for a in answers], [clinical_words(p) for p in split_clinical(prediction)])


SCORERS = {"paper": paper_scores, "clinical": clinical_scores}


@lru_cache(maxsize=CACHE_SIZE)
def _flat(answers: tuple, prediction: str, wanted: tuple) -> tuple[float, ...]:
    scores = {family: SCORERS[family](answers, prediction) for family in dict(wanted)}
    return tuple(number for family, metric in wanted for number in scores[family][metric])


def numbers(answers, prediction: str, wanted: tuple) -> tuple[float, ...]:
    """Precision, recall, F1 (0-1) of one prediction for each wanted (family, metric), in one flat tuple; a pair seen before costs a look-up."""
    return _flat(tuple(answers), prediction, wanted)


def score_pairs(pairs, wanted) -> np.ndarray:
    """Score (answers, prediction) pairs, a list or a stream: array (n, len(wanted), 3) of precision, recall, F1 in [0, 1].

    wanted: (family, metric) each, metric a name of METRICS[family] or "average". Memory is the result, 24 bytes per pair and metric,
    and caches of CACHE_SIZE entries.
    """
    wanted = tuple(wanted)
    flat = np.fromiter((number for answers, prediction in pairs for number in _flat(tuple(answers), prediction, wanted)), dtype=float)
    return flat.reshape(-1, len(wanted), 3)


# ---- single values ---------------------------------------------------------------------------------------------------------------


def value_scores(answers: list[str], parsed: str) -> dict:
    """What a parsed answer is worth at the bedside, each 0.0 or 1.0, None where the question does not arise.

    value_accuracy: the parsed answer is the gold value ("not stated" included); several gold answers must all be given, in any order.
    false_answer: a value was given where the text states none (only where the gold is "not stated").
    miss: "not stated" or nothing readable was given where the text states a value.
    """
    if len(answers) == 1:  # compared whole: a diagnosis may hold a comma
        correct = clinical_words(answers[0]) == clinical_words(parsed)
    else:
        correct = {clinical_words(a) for a in answers} == {clinical_words(p) for p in split_clinical(parsed)}
    stated = list(answers) != [NOT_STATED]
    gives_value = parsed.strip() not in ("", NOT_STATED, UNPARSED)
    return {
        "value_accuracy": float(correct),
        "false_answer": None if stated else float(gives_value),
        "miss": float(not gives_value) if stated else None,
    }
