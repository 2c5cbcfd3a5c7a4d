"""Can a note be read? Length, damage by optical character recognition (OCR), language, and how many organs or tumours it speaks of.

The OCR noise score is the share of damaged pieces among the pieces between blanks. A piece is damaged when it is
- a symbol on its own (ordinary punctuation, bullets and lines apart),
- a word with a digit or a symbol inside ("carc1noma"), unless it is a block label, a TNM category, a marker or a number with its unit,
- one letter of a letter-spaced word ("c a r c i n o m a", four or more letters in a row),
- a word of three letters or more that does not stand in the word list, abbreviations in capitals apart; in a text that is surely not English
  only one with five consonants in a row, because the list is English.
A score of 0.1 says that one piece in ten looks damaged; names and rare terms leave clean notes a little above 0.
Patterns and cut points are in quality.yaml, the words in quality_words.yaml.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

STRATA = ("clean", "some", "heavy")
FINE, DAMAGED, UNKNOWN, LETTER, TUMOUR = range(5)
MAX_REMEMBERED = 500_000  # distinct pieces whose mark is kept; a million notes hold millions


@cache
def rules() -> dict:
    """quality.yaml with its patterns compiled, and the word list as a set."""
    here = Path(__file__)
    raw = yaml.safe_load(here.with_name("quality.yaml").read_text(encoding="utf-8"))
    raw["words"] = frozenset(yaml.safe_load(here.with_name("quality_words.yaml").read_text(encoding="utf-8"))["words"].split())
    for name in ("parts", "consonants", "tumour", "not_primary", "t_category"):
        raw[name] = re.compile(raw[name])
    raw["codes"] = re.compile("|".join(f"(?:{pattern})" for pattern in raw["codes"]))
    raw["letter_runs"] = re.compile(b"%c{%d,}" % (LETTER, raw["letters_in_a_row"]))  # over the marks of the pieces
    raw["ordinary_symbols"] = frozenset(raw["ordinary_symbols"])
    together = {organ: group[0] for group in raw["one_organ"] for organ in group}
    organs = yaml.safe_load(here.with_name("labels.yaml").read_text(encoding="utf-8"))["histology"]["organ_words"]
    raw["organs"] = re.compile("|".join(rf"(?P<{organ.replace(' ', '_')}>{words})" for organ, words in organs.items()))
    raw["organ_of"] = {organ.replace(" ", "_"): together.get(organ, organ) for organ in organs}
    return raw


@cache
def language_model():
    """py3langid restricted to the languages of quality.yaml, with probabilities."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=rules()["language_confidence"])
    model.set_languages(rules()["languages"])
    return model


class Remembered(dict):
    """piece -> what `function` says of it, worked out once per distinct piece: notes repeat their words."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def __missing__(self, piece: str):
        if len(self) >= MAX_REMEMBERED:
            self.clear()
        self[piece] = value = self.function(piece)
        return value


def mark(piece: str) -> int:
    """What one piece between blanks is: DAMAGED (whatever the language), UNKNOWN (no word of the list), LETTER (one letter), TUMOUR (names one) or FINE."""
    rule = rules()
    core = piece.strip(rule["edge"])
    lower = core.lower()
    if not core:
        return FINE if set(piece) <= rule["ordinary_symbols"] else DAMAGED
    if len(core) == 1:
        return LETTER if piece.isalpha() else FINE if core.isalnum() else DAMAGED
    if lower in rule["words"]:
        return TUMOUR if rule["tumour"].fullmatch(lower) else FINE
    worst = FINE
    for part in rule["parts"].split(lower):
        if part.isalpha() and len(part) > 2 and part not in rule["words"] and not (core.isupper() and len(part) <= 4):
            if rule["consonants"].search(part):
                return DAMAGED
            worst = UNKNOWN
    if any(part and not part.isalpha() and not part.isdigit() and not rule["codes"].fullmatch(part) for part in rule["parts"].split(core)):
        return DAMAGED
    return worst


def organ(piece: str) -> str:
    """The organ that a piece names, organs of one operation under one name; empty where it names none."""
    found = rules()["organs"].match(piece.strip(rules()["edge"]).lower())
    return rules()["organ_of"][found.lastgroup] if found else ""


_MARKS, _ORGANS = Remembered(mark), Remembered(organ)


def assess(text: str) -> dict:
    """What can be said of a note without reading it.

    Returns dict: words (int, pieces between blanks), characters (int), ocr_noise (float 0-1, see above; 1 for an empty text), language
    (ISO 639-1, "und" where undecided), organs (int, distinct organs named as the seat of a tumour), t_categories (int, distinct pT).
    """
    rule = rules()
    pieces = text.split()
    marks = [_MARKS[piece] for piece in pieces]
    damaged, unknown = marks.count(DAMAGED), marks.count(UNKNOWN)
    damaged += sum(map(len, rule["letter_runs"].findall(bytes(marks))))
    language = "en" if pieces and damaged + unknown < rule["english_share"] * len(pieces) else language_of(text)
    if language in ("en", "und"):  # a text too damaged to tell its language must not pass as foreign
        damaged += unknown
    t_categories = len(set(rule["t_category"].findall(text))) if "pT" in text or "PT" in text else 0
    return {
        "words": len(pieces), "characters": len(text), "ocr_noise": round(damaged / len(pieces), 4) if pieces else 1.0,
        "language": language, "organs": len(organs_named(pieces, marks)), "t_categories": t_categories,
    }  # fmt: skip


def language_of(text: str) -> str:
    """Language of a sample from the middle of the text, ISO 639-1, or "und"."""
    size = rules()["sample_characters"]
    start = max(0, (len(text) - size) // 2)
    return language_model().classify(text[start : start + size].lower())[0]


def organs_named(pieces: list[str], marks: list[int]) -> set[str]:
    """Organs that stand beside the name of a tumour in one sentence, unless that is denied, past, secondary or another person's."""
    rule, found, at = rules(), set(), -1
    for _ in range(marks.count(TUMOUR)):
        at = marks.index(TUMOUR, at + 1)
        start, end = max(0, at - rule["window"]), min(len(pieces), at + rule["window"] + 1)
        for i in range(at - 1, start - 1, -1):
            if pieces[i][-1] in ".;":
                start = i + 1
                break
        for i in range(at, end):
            if pieces[i][-1] in ".;":
                end = i + 1
                break
        organs = {_ORGANS[piece] for piece in pieces[start:end]} - {""}
        if organs - found and not rule["not_primary"].search(" ".join(pieces[start:end]).lower()):
            found |= organs
    return found


def why_dropped(quality: dict) -> str:
    """The reason why a note of this quality (from `assess`) cannot be used, or an empty string; names measures, never content."""
    rule = rules()
    if quality["words"] < rule["min_words"]:
        return f"failed OCR: {rule['min_words'] - 1} words or fewer"
    if quality["ocr_noise"] > rule["max_noise"]:
        return f"failed OCR: noise above {rule['max_noise']}"
    return ""


def several_tumours(quality: pd.DataFrame) -> pd.Series:
    """True for notes that name two organs as the seat of a tumour, or two different pT: flagged, because a label may belong to the other one."""
    return (quality["organs"] > 1) | (quality["t_categories"] > 1)


def strata(quality: pd.DataFrame) -> tuple[pd.Series, list[float]]:
    """Thirds of the notes by OCR noise: a Series clean | some | heavy on the frame's index, and the two cut points (upper ends, inclusive).

    A cut point is never below `least_cuts` of quality.yaml: in a typed corpus, where hardly a word is damaged, all notes are clean.
    """
    least = rules()["least_cuts"]
    cuts = np.maximum(np.quantile(quality["ocr_noise"], [1 / 3, 2 / 3], method="lower"), least).tolist() if len(quality) else list(least)
    names = np.array(STRATA)
    return pd.Series(names[np.searchsorted(cuts, quality["ocr_noise"], side="left")], index=quality.index, dtype=str), cuts
