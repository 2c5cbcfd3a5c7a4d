"""Invented identifiers planted into synthetic notes, with exact spans: what the identifier gate is measured on.

Carrier phrases, names, number shapes and decoys are in identifiers_planted.yaml, in parts for tuning (dev, round1 to round4, test). The parts `final`
to `final4` are by authors who had not read the recognisers; each was first scored untouched. `final` and `final3` were then tuned on, `final2` and
`final4` never.
Decoys (sizes, grades, node counts, eponyms, stains, doses) carry no identifier: whatever is flagged in them counts as false.
"""

import random
import re
from functools import cache
from pathlib import Path

import yaml

KINDS = ["person", "date", "age_over_89", "record_number", "accession", "address", "phone", "institution", "email", "url"]
FINAL = ["final", "final2", "final3", "final4"]  # parts by other authors, each in a file of its own
PER_NOTE = 5  # planted lines in one note
DECOYS_PER_NOTE = 3
UPPER_CASE = 0.15  # share of notes in capitals, as many pathology systems print them
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]

# Lines of the cohort's own notes that bear a date are left out, so that every date in a planted note is a planted one.
DATED = re.compile(r"\b(?:\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{4}-\d\d|(?:" + "|".join(month[:3] for month in MONTHS) + r")[a-z]*\.?\b)", re.IGNORECASE)


@cache
def halves() -> dict:
    """identifiers_planted.yaml: part -> its words, carriers and decoys."""
    return yaml.safe_load(Path(__file__).with_name("identifiers_planted.yaml").read_text(encoding="utf-8"))


@cache
def final(part: str = "final") -> dict:
    """identifiers_planted_final.yaml, _final2.yaml and so on: kept out of halves(), so that nothing which sweeps the parts tunes on them."""
    return yaml.safe_load(Path(__file__).with_name(f"identifiers_planted_{part}.yaml").read_text(encoding="utf-8"))[part]


def planted(n: int, seed: int, half: str = "final4") -> list[dict]:
    """Notes with at least n planted identifiers of every kind.

    Args:
        n: of every kind, at least; seed: of all choices and of the cohort; half: part of identifiers_planted.yaml, or one of FINAL.

    Returns:
        dicts of text (the note) and spans (list of (kind, start, end), in the order of the text).
    """
    from cancerllm_utils.corpus import synthetic  # here, so that the gate itself starts without the cohort

    words = final(half) if half in FINAL else halves()[half]
    rng = random.Random(f"planted|{half}|{seed}")
    lines = []
    for kind, carriers in words["carriers"].items():
        count = 0
        while count < n:
            line, spans = fill(rng.choice(carriers), words, rng)
            count += sum(found == kind for found, _, _ in spans)
            lines.append((line, spans))
    rng.shuffle(lines)
    n_notes = -(-len(lines) // PER_NOTE)
    texts = synthetic.generate(max(1, n_notes // 3), seed)["notes"]["text"].tolist()
    return [compose(texts[number % len(texts)], lines[number * PER_NOTE : (number + 1) * PER_NOTE], words["decoys"], rng) for number in range(n_notes)]


def compose(text: str, lines: list[tuple], decoys: list[str], rng: random.Random) -> dict:
    """The note with planted lines and decoys put between its own lines, or behind one of its sentences."""
    own = [line for line in text.split("\n") if not DATED.search(line)]
    extra = lines + [(shape(decoy, rng), []) for decoy in rng.sample(decoys, DECOYS_PER_NOTE)]
    places = {}
    for piece in extra:
        place = rng.choice([0, len(own), rng.randrange(len(own) + 1), rng.randrange(len(own) + 1)])
        places.setdefault(place, []).append(piece)
    out, spans = "", []
    for number in range(len(own) + 1):
        for line, found in places.get(number, []):
            # Behind a sentence where the line before ends one, else on a line of its own.
            out += " " if out.endswith(".\n") and rng.random() < 0.4 else ""
            if out.endswith(".\n "):
                out = out[:-2] + " "
            spans += [(kind, len(out) + start, len(out) + end) for kind, start, end in found]
            out += line + "\n"
        out += own[number] + "\n" if number < len(own) else ""
    if rng.random() < UPPER_CASE:
        out = "".join(letter.upper() if len(letter.upper()) == 1 else letter for letter in out)
    return {"text": out, "spans": spans}


def fill(carrier: str, words: dict, rng: random.Random) -> tuple[str, list[tuple]]:
    """The carrier with a value in every slot, and the (kind, start, end) of each."""
    line, spans = "", []
    for piece in re.split(r"(<\w+(?::[^>]+)?>)", carrier):
        if slot := re.fullmatch(r"<(\w+)(?::([^>]+))?>", piece):
            value = make(slot[1], slot[2], words, rng)
            spans.append((slot[1], len(line), len(line) + len(value)))
            line += value
        else:
            line += piece
    return line, spans


def make(kind: str, form: str | None, words: dict, rng: random.Random) -> str:
    """One invented value of the kind; form names a person form or is itself a shape."""
    if kind == "person":
        return compound(words["person_forms"][form], words, rng)
    if kind == "date":
        return date(form or rng.choice(words["date_forms"]), rng)
    if kind == "age_over_89":
        return form or rng.choice(words["age_forms"])
    lists = {
        "record_number": "record_shapes",
        "accession": "accession_shapes",
        "phone": "phone_shapes",
        "address": "address_forms",
        "institution": "institution_forms",
    }
    form = form or rng.choice(words[lists.get(kind, f"{kind}_forms")])
    return compound(form, words, rng)


def compound(form: str, words: dict, rng: random.Random) -> str:
    """A form such as "{given} {family}" with new words in every slot, then its shape characters."""

    def word(match: re.Match) -> str:
        name = match[1]
        if name in ("initial", "initial_"):
            letter = rng.choice("ABCDEFGHJKLMNPRSTW")
            return letter.lower() if name.endswith("_") else letter
        if name == "number":
            return str(rng.randint(2, 9900))
        value = rng.choice(words[name.lower().rstrip("_")])
        if name.endswith("_"):
            return re.sub(r"[^a-z]", "", value.lower())
        return value.upper() if name.isupper() else value

    return shape(re.sub(r"\{(\w+)\}", word, form), rng)


def shape(form: str, rng: random.Random) -> str:
    """# becomes a digit, & a digit from 1 to 9, @ between or before digits and shapes a capital letter."""
    form = re.sub(r"&", lambda _: rng.choice("123456789"), re.sub(r"#", lambda _: rng.choice("0123456789"), form))
    # An @ with letters on both sides is the one of an e-mail address.
    return re.sub(r"@(?![a-z])", lambda _: rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ"), form)


def date(form: str, rng: random.Random) -> str:
    """One date between 1994 and 2023 in the form."""
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1994, 2023)
    ending = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd"}.get(day, "th")
    name = MONTHS[month - 1]
    short = name[:3]
    parts = {"d": day, "dd": f"{day:02}", "m": month, "mm": f"{month:02}", "y": f"{year % 100:02}", "Y": year}
    return shape(form.format(**parts, b=short, B=name, o=f"{day}{ending}", U=short.upper()), rng)
