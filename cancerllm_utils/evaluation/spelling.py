"""A spelling normaliser in front of a model: unknown words become the nearest known one.

Known are the words of the training patients' notes, the English and medical word list of corpus/quality.py, clinical terms, their abbreviations, and drug names. An unknown word
of four letters or more becomes the known word at the smallest distance (optimal string alignment, so that a transposition is one step; rapidfuzz), of
equally near ones the most frequent in the training notes. What perturb.yaml protects is never touched, with one exception: a word in which a digit stands
for the letter that it looks like ("carc1noma"), where reading it so gives a known word.
"""

import re
from collections import Counter

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import OSA

from ..corpus import drugs, quality
from . import abbreviations, perturb

SHORTEST = 4  # letters of a word that is corrected: shorter ones are near to too many others
LONG = 7  # letters from which two steps are allowed
SEEN = 2  # times that a word of the training notes must stand there to count as known: OCR damage mostly stands once
FREQUENT = 5  # times that it must stand there to be what others are corrected to
_DIGITS = str.maketrans("01589", "olsbg")
_DAMAGED = re.compile(r"(?=(?:\d*[a-zA-Z]){3})[a-zA-Z01589]*\d[a-zA-Z01589]*(?<![589])")  # "node5" is a number glued to a word, "protoco1" is none
_CHUNK = 500  # unknown words compared at once: with 20,000 known ones 10 million distances of a byte


def vocabulary(texts, data_dir: str = "") -> dict[str, int]:
    """Known word (lower case) -> how often it stands in `texts`, the notes of the training patients; 0 for words of the lists alone."""
    counts = Counter(text_word for text in texts for text_word in re.findall(r"[a-z]{3,}", text.lower()))
    lists = {word for word in quality.rules()["words"] if word.isalpha()}
    known = abbreviations.inventory(data_dir)
    lists |= {word for term in [*known["to_short"], *known["to_long"]] for word in term.split() if word.isalpha()}
    lists |= {name for name in drugs.words()["names"] if name.isalpha()}
    return {word: counts[word] for word in sorted(lists | {word for word, n in counts.items() if n >= SEEN})}


def respell(texts: list[str], vocabulary: dict[str, int]) -> list[str]:
    """The texts with unknown words corrected to those that stand FREQUENT times in the training notes, capitals kept; `vocabulary` as of the function of
    that name. To offer the words of the lists too was tried: on development notes it repairs no more and puts more wrong words in."""
    found = [[(start, end, text[start:end]) for start, end, protected in perturb.tokens(text) if unknown(text[start:end], protected, vocabulary)] for text in texts]
    offered = [word for word, n in vocabulary.items() if n >= FREQUENT]
    better = corrections(sorted({word.lower() for words in found for _, _, word in words}), offered, vocabulary)
    out = []
    for text, words in zip(texts, found, strict=True):
        parts, at = [], 0
        for start, end, word in words:
            parts += [text[at:start], perturb.like(better[word.lower()], word) if word.lower() in better else word]
            at = end
        out.append("".join([*parts, text[at:]]))
    return out


def unknown(word: str, protected: bool, vocabulary: dict[str, int]) -> bool:
    """Whether a word may be corrected: letters alone, or digits that look like letters; long enough, not protected, not in the vocabulary."""
    if len(word) < SHORTEST:
        return False
    if not word.isalpha():
        return bool(_DAMAGED.fullmatch(word)) and word.lower().translate(_DIGITS) in vocabulary
    return not protected and word.isascii() and word.lower() not in vocabulary


def corrections(words: list[str], offered: list[str], vocabulary: dict[str, int]) -> dict[str, str]:
    """word -> the offered word nearest to it, where one is near enough: one step, from LONG letters on two."""
    better = {word: word.translate(_DIGITS) for word in words if not word.isalpha()}
    asked, counts = [word for word in words if word.isalpha()], np.array([vocabulary[word] for word in offered])
    for start in range(0, len(asked), _CHUNK):
        part = asked[start:start + _CHUNK]
        distances = process.cdist(part, offered, scorer=OSA.distance, score_cutoff=2, dtype=np.uint8)
        for word, row in zip(part, distances, strict=True):
            nearest = row.min(initial=9)
            if nearest <= (2 if len(word) >= LONG else 1):
                alike = np.flatnonzero(row == nearest)
                better[word] = offered[alike[counts[alike].argmax()]]
    return better


def effect(clean: list[str], damaged: list[str], respelt: list[str]) -> dict:
    """What respelling repaired and what it broke, in words: notes (those compared), damaged, restored (share of the damaged words that are as before),
    wrong (share of them that became another word), intact, changed (share of the words without damage that respelling changed).

    Words are compared place by place, so a note of which damage joined or parted words is left out; restored and wrong are None where that is any
    (abbreviations), and every share is without words to count.
    """
    n = Counter()
    for before, worse, after in zip(clean, damaged, respelt, strict=True):
        words = [[text[start:end] for start, end, _ in perturb.tokens(text)] for text in (before, worse, after)]
        if len({len(part) for part in words}) > 1:
            continue
        n["notes"] += 1
        for was, became, now in zip(*words, strict=True):
            n["damaged" if was != became else "intact"] += 1
            n["restored"] += was != became and now.lower() == was.lower()
            n["wrong"] += was != became and now not in (was, became) and now.lower() != was.lower()
            n["changed"] += was == became and now != was
    share = {name: n[name] / n[of] if n[of] and (name == "changed" or n["notes"] == len(clean)) else None
             for name, of in (("restored", "damaged"), ("wrong", "damaged"), ("changed", "intact"))}
    return {"notes": n["notes"], "damaged": n["damaged"], "intact": n["intact"], **share}
