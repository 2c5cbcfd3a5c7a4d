"""Treatment plan and radiotherapy course read from an oncology note, for the rules baseline of the synthetic cohort (patterns in labels_notes.yaml).

The plan is the statement that holds an intent ("adjuvant", "palliative", "radical", "alone") together with what is done; drugs are
normalised to generic names, regimens such as FOLFOX are spelled out. Answers follow SYNTHETIC_FIELDS of synthetic.py.
"""

import re

from . import reading
from .reading import compiled
from .reading_notes import WORDS, blanked, sentences

ABSENT = {"evidence": "not_stated", "value": None, "start": None, "end": None}


def drugs_in(statement):
    """Generic names of the drugs of a statement, with those of named regimens, in alphabetical order."""
    found = {name for name, (_, pattern) in WORDS["drugs"].items() if compiled(pattern).search(statement)}
    for pattern, names in WORDS["regimens"].items():
        if compiled(rf"\b{pattern}\b").search(statement):
            found |= set(names)
    return sorted(found)


def plan_of(statement):
    """'<intent> | <modalities> | <drugs>' of one statement, or None where it names no treatment."""
    words = WORDS["plan"]
    drugs = drugs_in(statement)
    modalities = {name for name, pattern in WORDS["modalities"].items() if compiled(pattern).search(statement)}
    modalities |= {WORDS["classes"][WORDS["drugs"][drug][0]] for drug in drugs}
    if compiled(words["no_surgery"]).search(statement):
        modalities.discard("surgery")
    if "surgery" in modalities:      # what follows an operation, and no treatment of its own
        modalities.discard("surveillance")
    if not modalities:
        return None
    intent = "palliative" if compiled(words["palliative"]).search(statement) else "curative"
    ordered = [name for name in WORDS["modalities"] if name in modalities]
    return f"{intent} | {' + '.join(ordered)} | {' + '.join(drugs) or 'none'}"


def treatment_plan(text):
    """Hits of statements that name an intent and a treatment."""
    hits, start = [], 0
    for piece in sentences(text, "."):
        statement = reading.lower_keeping_length(piece)
        match = compiled(WORDS["plan"]["intent"]).search(statement)
        plan = plan_of(statement) if match and not compiled(WORDS["plan"]["not_plan"]).search(statement) else None
        if plan:
            hits.append((plan, start, start + len(piece.rstrip())))
        start += len(piece)
    return hits


def radiotherapy(text):
    """Hits of '<modality> | <dose> Gy | <n> fractions | <target>' for every dose that is printed with its fractions."""
    words, hits = WORDS["radiotherapy"], []
    own = reading.lower_keeping_length(blanked(sentences(text), words["not_course"]))
    for match in compiled(words["dose"]).finditer(own):
        left, right = own[max(0, match.start() - 110):match.start()], own[match.end():match.end() + 80]
        left, right = re.split(r"[.;\n](?!\d)", left)[-1], re.split(r"[.;\n](?!\d)", right)[0]
        if compiled(words["per_fraction"] + r"[^\d]{0,12}$").search(left):
            continue
        fractions = compiled(words["fractions"]).search(right) or compiled(words["fractions"]).search(left)
        if not fractions:
            continue
        around = left + " " + right
        modality = next((name for name, pattern in words["modality"].items() if compiled(pattern).search(around)), "external beam")
        target = next((name for name, pattern in words["target"].items() if compiled(pattern).search(around)), None)
        number = float(match[1]) / (100 if match[2] == "cgy" else 1)
        count = int(fractions[1])
        value = f"{modality} | {number:g} Gy | {count} fraction{'s' * (count > 1)} | {target}" if target else None
        hits.append((value, match.start(), match.end()))
    return hits


RULES = {"treatment_plan": treatment_plan, "radiotherapy": radiotherapy}


def read_plan(text, field):
    """What a note states about its treatment plan or radiotherapy, as labels.read."""
    hits = RULES[field](text)
    values = {value for value, _, _ in hits}
    if len(values) == 1 and None not in values:
        value, start, end = hits[0]
        return {"evidence": "stated", "value": value, "start": start, "end": end}
    return ABSENT | {"evidence": "uncertain" if hits else "not_stated"}
