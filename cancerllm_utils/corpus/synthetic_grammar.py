"""A small grammar for synthetic notes: patterns with free choices `<a|b>` and slots `{name}`, and marks that keep the span of every gold slot.

Marks are private-use characters around the filled slot. They travel with the text through joining, respelling and upper-casing, so that the
gold span is what was written and not what a search found afterwards.
"""

import functools
import random
import re

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
}
OPEN = {slot: chr(0xE000 + number) for number, slot in enumerate(GOLD)}
CLOSE = {slot: chr(0xE100 + number) for number, slot in enumerate(GOLD)}
MARKED = {OPEN[slot]: (slot, True) for slot in GOLD} | {CLOSE[slot]: (slot, False) for slot in GOLD}
MARK = re.compile("[\ue000-\ue1ff]")
CHOICE = re.compile(r"<([^<>]*)>")
SLOT = re.compile(r"{(\w+)}")


def expand(pattern: str, slots: dict, short: float, rng: random.Random) -> str:
    """Fill a pattern: choices first, then slots, recursively. `short` is the chance of an abbreviation where a slot has one."""
    while "<" in pattern:  # innermost first
        pattern = CHOICE.sub(lambda choice: rng.choice(choice[1].split("|")), pattern)
    return SLOT.sub(lambda slot: fill(slot[1], slots, short, rng), pattern)


def fill(name: str, slots: dict, short: float, rng: random.Random) -> str:
    """One spelling of a slot; marked if it carries gold, capitalised if the name is."""
    entry = slots[name.lower()]
    if isinstance(entry, dict):
        entry = entry["short" if rng.random() < short else "long"]
    text = expand(entry if isinstance(entry, str) else rng.choice(entry), slots, short, rng)
    if name[0].isupper():
        text = text[0].upper() + text[1:]
    return f"{OPEN[name]}{text}{CLOSE[name]}" if name in GOLD else text


@functools.cache
def slots_in(pattern: str) -> frozenset:
    """Names of the slots of a pattern, lower case."""
    return frozenset(name.lower() for name in SLOT.findall(pattern))


@functools.cache
def gold_in(pattern: str) -> frozenset:
    """The gold slots of a pattern."""
    return slots_in(pattern) & GOLD.keys()


def said_by(pattern: str) -> set:
    """The gold slots that a pattern covers: {side_site} ("RUL") says both side and site."""
    return set(gold_in(pattern)) | ({"side", "site"} if "side_site" in gold_in(pattern) else set())


def finish(sentence: str) -> str:
    """Tidy spaces and articles, and start with a capital unless the first word is an abbreviation such as pT2 or ccRCC."""
    sentence = re.sub(" +(?=[ .,;])", "", sentence).strip()
    sentence = re.sub(r"\b([Aa])( [\ue000-\ue1ff]*)(?=[aeioAEIO]|8|11\b|18\b)", r"\1n\2", sentence)
    return re.sub(r"^[\ue000-\ue1ff]*[a-z](?=[a-z]*\b)", lambda start: start[0].upper(), sentence)


def strip_marks(marked: str) -> tuple[str, dict]:
    """Text without marks, and slot -> (start, end) of its first mention in that text."""
    opened, spans = {}, {}
    for number, mark in enumerate(MARK.finditer(marked)):
        position = mark.start() - number  # the marks before it are gone from the text
        slot, opens = MARKED[mark[0]]
        if opens:
            opened[slot] = position
        else:
            spans.setdefault(slot, (opened[slot], position))
    return MARK.sub("", marked), spans
