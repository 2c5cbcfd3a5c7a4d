"""A small grammar for synthetic notes: patterns with free choices `<a|b>` and slots `{name}`, and marks that keep the span of every gold slot.

Marks are private-use characters around the filled slot. They travel with the text through joining, respelling and upper-casing, so that the
gold span is what was written and not what a search found afterwards. Patterns are parsed once, as a million notes use the same few hundred.
"""

import re
from random import Random

# A slot of the grammar that carries gold -> the fields it states.
GOLD = {
    "histology": ["histology", "diagnosis"],
    "findings": ["diagnosis"],
    "grade": ["grade"],
    "size": ["tumor_size"],
    "site": ["tumor_site"],
    "side": ["laterality"],
    "side_site": ["laterality", "tumor_site"],
    "stage": ["stage"],
    "receptors": ["receptor_type", "receptor_status"],
    "plan": ["treatment_plan"],
    "course": ["radiotherapy"],
}
# Slots that only some patients have; a pattern with one of them is used for these patients alone. The second line has flags that print nothing.
OPTIONAL = (
    "procedure", "nodes_found", "nodes_examined", "nodes_positive", "invasion", "stage_group", "other_grade", "other_site", "early_grade", "early_size", "early_stage", "early_histology",
    "early_receptors", "other_receptors", "gy", "other_gy", "other_plan", "if_nodes", "cycles", "drugs", "reasons", "course_short", "untreated", "exam", "biopsy_numbers",
    "if_operated", "if_unoperated", "if_curative", "if_palliative", "if_paired", "if_nodes_free", "if_smoker", "if_never_smoked", "if_early", "if_final", "if_family", "if_no_family",
    "if_paired_organ", "contrast_scan", "if_skin", "if_benign", "if_polyp", "if_second",
)  # fmt: skip
BITS = {name: 1 << number for number, name in enumerate([*GOLD, *OPTIONAL])}
GOLD_BITS = sum(BITS[name] for name in GOLD)
OPEN = {slot: chr(0xE000 + number) for number, slot in enumerate(GOLD)}
CLOSE = {slot: chr(0xE100 + number) for number, slot in enumerate(GOLD)}
KEEP, KEPT = "\ue0ff", "\ue1ff"  # around what typing noise must not touch and no field states: headings
MARKED = {OPEN[slot]: (slot, True) for slot in GOLD} | {CLOSE[slot]: (slot, False) for slot in GOLD} | {KEEP: ("", True), KEPT: ("", False)}
MARK = re.compile("([\ue000-\ue1ff])")
ARTICLE = re.compile(r"\b([Aa])( [\ue000-\ue1ff]*)(?=[aeioAEIO]|[uU](?:l|n[cdu]|p)|8|11\b|18\b)")
SPACES = re.compile(" +(?=[ .,;:])")
FIRST_WORD = re.compile(r"[\ue000-\ue1ff]*[a-z](?=[a-z]*\b(?![+]))")

_PARSED: dict[str, tuple] = {}


def parse(pattern: str) -> tuple[list, int]:
    """A pattern as a list of parts, and the bits of all gold and optional slots in it.

    A part is text, a list (a choice of part lists) or a tuple (a slot: name, whether its name is capitalised, opening mark, closing mark).
    """
    if pattern not in _PARSED:
        parts, end = _parse_until(pattern, 0, "")
        assert end == len(pattern), f"unbalanced choice in pattern: {pattern}"
        names = re.findall(r"{([^{}]+)}", pattern.lower())
        _PARSED[pattern] = (parts, sum({BITS[name] for name in names if name in BITS}))
    return _PARSED[pattern]


def _parse_until(pattern: str, position: int, stops: str) -> tuple[list, int]:
    parts, text = [], ""
    while position < len(pattern) and pattern[position] not in stops:
        letter = pattern[position]
        if letter not in "<{":
            text, position = text + letter, position + 1
            continue
        if text:
            parts.append(text)
            text = ""
        if letter == "{":
            end = pattern.index("}", position)
            name = pattern[position + 1 : end]
            low = name.lower()
            parts.append((low, name[0].isupper(), OPEN.get(low, ""), CLOSE.get(low, "")))
            position = end + 1
        else:
            options = []
            while pattern[position] != ">":
                option, position = _parse_until(pattern, position + 1, "|>")
                options.append(option)
            parts.append(options)
            position += 1
    return parts + [text] if text else parts, position


def expand(pattern: str, slots: dict, short: float, random) -> str:
    """Fill a pattern. `short` is the chance of an abbreviation where a slot has one; `random` is the method random() of a generator."""
    out = []
    _expand(parse(pattern)[0], slots, short, random, out.append)
    return "".join(out)


def _expand(parts: list, slots: dict, short: float, random, write) -> None:
    for part in parts:
        kind = type(part)
        if kind is str:
            write(part)
        elif kind is list:
            _expand(part[int(random() * len(part))], slots, short, random, write)
        else:
            name, capital, opening, closing = part
            entry = slots[name]
            kind = type(entry)
            if kind is dict:
                entry = entry["short" if random() < short else "long"]
                kind = type(entry)
            if kind is list:
                entry = entry[int(random() * len(entry))]
            elif kind is tuple:  # a number: lowest, highest, decimals
                low, high, decimals = entry
                entry = f"{low + random() * (high - low):.{decimals}f}"
            if opening:
                write(opening)
            if capital:
                text = expand(entry, slots, short, random)
                write(text[:1].upper() + text[1:])
            elif "{" in entry or "<" in entry:
                _expand(parse(entry)[0], slots, short, random, write)
            else:
                write(entry)
            if closing:
                write(closing)


def finish(sentence: str) -> str:
    """Start with a capital unless the first word is an abbreviation such as pT2 or ccRCC."""
    sentence = sentence.strip()
    start = FIRST_WORD.match(sentence)
    return sentence[: start.end() - 1] + sentence[start.end() - 1].upper() + sentence[start.end() :] if start else sentence


def tidy(marked: str) -> str:
    """The article before a vowel, and no space before a stop."""
    return ARTICLE.sub(r"\1n\2", SPACES.sub("", marked))


def strip_marks(marked: str) -> tuple[str, list[tuple]]:
    """Text without marks, and (slot, start, end) of everything marked, in the order in which it ends; "" is the slot of protected text."""
    pieces, opened, spans, position = MARK.split(marked), {}, [], 0
    for number in range(1, len(pieces), 2):  # text, mark, text, mark, ..., text
        position += len(pieces[number - 1])
        slot, opens = MARKED[pieces[number]]
        if opens:
            opened[slot] = position
        else:
            spans.append((slot, opened[slot], position))
    return "".join(pieces[::2]), spans


# ---------------------------------------------------------------- typing noise

NEIGHBORS = dict(zip("abcdefghijklmnopqrstuvwxyz", "svxfrghjoklknbpowtdyicezux", strict=True))
CHARACTERS_PER_WORD = 6.4


def add_noise(text: str, spans: list[tuple], noise: float, rng: Random) -> tuple[str, list[tuple]]:
    """Typing errors outside of every span: a letter dropped, doubled, swapped with the next one or hit on a neighboring key.

    noise: share of words to try, 0 to 1. Only words of five and more small letters are hit, so that numbers, units, abbreviations, "no" and "not" stay;
    the others are tried in vain, so that noise=0.01 leaves an error in about 0.4 of 100 words. Returns the text and the spans moved along.
    """
    edits = {}
    for _ in range(int(len(text) / CHARACTERS_PER_WORD * noise + rng.random())):
        start = end = int(rng.random() * len(text))
        while start > 0 and text[start - 1].isalpha():
            start -= 1
        while end < len(text) and text[end].isalpha():
            end += 1
        word = text[start:end]
        if len(word) < 5 or not (word.islower() and word.isascii()) or any(low - 1 <= end and start <= high + 1 for _, low, high in spans):
            continue
        at = 1 + int(rng.random() * (len(word) - 2))  # the first letter stays, as most typists get it right
        kind = int(rng.random() * 4)
        changed = [word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:], word[:at] + word[at + 1] + word[at] + word[at + 2 :],
                   word[:at] + NEIGHBORS[word[at]] + word[at + 1 :]][kind]  # fmt: skip
        edits[start] = (end, changed)
    for start in sorted(edits, reverse=True):
        end, changed = edits[start]
        text = text[:start] + changed + text[end:]
        moved = len(changed) - (end - start)
        if moved:
            spans = [(slot, low + moved, high + moved) if low >= end else (slot, low, high) for slot, low, high in spans]
    return text, spans
