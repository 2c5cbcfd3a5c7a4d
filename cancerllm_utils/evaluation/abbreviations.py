"""Clinical terms and their abbreviations: where a text could be shortened, or written out.

The terms are those of abbreviations.yaml, and after them those of J. J. Berman's list of pathology abbreviations (12,000 lines "short = long", free to
copy) where the data folder holds vocabularies/pathology_abbreviations.txt; it is read there and never copied. In tissue reports most abbreviations have
several meanings (Berman, Arch Pathol Lab Med 2004;128:347): such ones are included, and marked.
"""

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import yaml
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from .. import paths
from ..corpus import quality

LIST = Path("vocabularies") / "pathology_abbreviations.txt"
LONGEST = 5  # words of a term
_WORD = re.compile(r"[A-Za-z]+(?:[-/&][A-Za-z]+)*/?")
_TERM = re.compile(r"[a-z][a-z-]*(?: [a-z][a-z-]*){0,4}")


@cache
def inventory(data_dir: str = "") -> dict[str, dict[str, list[str]]]:
    """{to_short: term -> short forms, to_long: short form in lower case -> terms, own: short forms of abbreviations.yaml in lower case -> as written,
    ambiguous: short forms with several meanings in either list}.

    Of the public list come terms of letters alone that are at least twice as long as their short form; what abbreviations.yaml has a meaning for is
    written out in that meaning (CT is no cerebral thrombosis here), but counts as ambiguous where the public list has others.
    """
    own = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))["terms"]
    to_short: dict[str, list[str]] = {term: list(shorts) for term, shorts in own.items()}
    to_long: dict[str, list[str]] = {}
    written: dict[str, list[str]] = {}
    for term, shorts in own.items():
        for short in shorts:
            written.setdefault(short.lower(), []).append(short)
            if term not in to_long.setdefault(short.lower(), []):
                to_long[short.lower()].append(term)
    meanings = {short: set(terms) for short, terms in to_long.items()}
    for short, term in public_list(paths.data_dir(data_dir) / LIST):
        meanings.setdefault(short, set()).add(term)
        if term not in own:
            to_short.setdefault(term, []).append(as_written(short, term))
        if short not in written and term not in to_long.setdefault(short, []):
            to_long[short].append(term)
    return {"to_short": to_short, "to_long": to_long, "own": written, "ambiguous": {short for short, terms in meanings.items() if len(terms) > 1}}


def public_list(path: Path) -> list[tuple[str, str]]:
    """(short form, term) of the lines of the public list that a note could hold; [] where there is no such file. A short form that is a word of English
    ("no" for number) is left out: it would say something else."""
    if not path.is_file():
        return []
    pairs = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        short, _, term = (part.strip().lower() for part in line.partition(" = "))
        if re.fullmatch(r"[a-z]{2,6}", short) and not english(short) and _TERM.fullmatch(term) and len(term) >= max(5, 2 * len(short)):
            pairs.append((short, term))
    return pairs


def english(word: str) -> bool:
    """Whether a word in small letters is one of English."""
    return word in quality.rules()["words"] or word in ENGLISH_STOP_WORDS


def as_written(short: str, term: str) -> str:
    """The list is all in small letters: the first letters of several words are written in capitals (LN), the rest as it is (dx)."""
    return short.upper() if len(term.split()) > 1 else short


def places(text: str, to_short: bool, data_dir: str = "") -> list[dict]:
    """Where a text holds a term that has a short form, or (to_short False) a short form: {start, end, others (what may stand there), ambiguous}, in order.

    Terms: the longest first, plural s and spelling in capitals kept. Short forms: as abbreviations.yaml writes them, or in capitals; one that is also a
    word of English (quality_words.yaml) only in the capitals of abbreviations.yaml. A single letter is never written out. ambiguous: the short form has
    several meanings.
    """
    return _terms(text, data_dir) if to_short else _shorts(text, data_dir)


def _terms(text: str, data_dir: str) -> list[dict]:
    lists = inventory(data_dir)
    words = list(_WORD.finditer(text))
    lower = [word[0].lower() for word in words]
    joined = [not text[a.end():b.start()].strip() for a, b in pairwise(words)] + [False]  # only blanks to the next word
    found, at = [], 0
    while at < len(words):
        size = 1
        while size < LONGEST and at + size < len(words) and joined[at + size - 1]:
            size += 1
        for n in range(size, 0, -1):
            term = " ".join(lower[at:at + n])
            plural = term not in lists["to_short"] and term.endswith("s")
            shorts = lists["to_short"].get(term[:-1] if plural else term)
            if shorts:
                start, end = words[at].start(), words[at + n - 1].end()
                capitals = text[start:end].isupper()
                others = [(short.upper() if capitals else short) + ("S" if capitals else "s") * plural for short in shorts]
                found.append({"start": start, "end": end, "others": others, "ambiguous": any(short.lower() in lists["ambiguous"] for short in shorts)})
                break
        at += n if shorts else 1
    return found


def _shorts(text: str, data_dir: str) -> list[dict]:
    lists = inventory(data_dir)
    found = []
    for match in _WORD.finditer(text):
        short = match[0].lower()
        meanings = lists["to_long"].get(short, ())
        if not meanings or len(short) < 2:
            continue
        own, capitals = match[0] in lists["own"].get(short, ()), match[0].isupper()
        if own and capitals if english(short) else own or capitals:
            found.append({"start": match.start(), "end": match.end(), "others": list(meanings), "ambiguous": short in lists["ambiguous"]})
    return found
