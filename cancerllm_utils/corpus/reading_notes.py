"""The eight phenotypes of CancerBERT read from any oncology note: the rules baseline of the synthetic cohort.

Same shape as reading.py (a rule returns hits (value, start, end)), patterns in labels_notes.yaml. Sentences about relatives and earlier cancers
are blanked first, so that spans stay valid. Answers follow SYNTHETIC_FIELDS of synthetic.py; nothing here was written from its templates.
"""

import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import yaml

from . import reading
from .reading import compiled

WORDS = yaml.safe_load(Path(__file__).with_name("labels_notes.yaml").read_text(encoding="utf-8"))


@lru_cache(maxsize=2)     # all fields of one note are asked for one after the other
def own_text(text):
    """The note in one line of the same length, with sentences about relatives or earlier cancers blanked."""
    flat = re.sub(r"\n(?![ \t]*(?:\n|[-*•]|\d+[.)]|[A-Z][\w ()]{2,40}\s?[:-]))", " ", text)
    pieces = re.split(r"(?<=[.;])(?=\s)|(?=\n)", flat)
    return "".join(" " * len(piece) if compiled(WORDS["not_this_tumor"]).search(piece.lower()) else piece for piece in pieces)


def organ_of(lower):
    """The organ the note is about, or None: the one named most often."""
    counts = {organ: len(compiled(words).findall(lower)) for organ, words in WORDS["organ"].items()}
    best = max(counts, key=counts.get)
    return best if counts[best] else None


def receptor_values(lower):
    """{ER, PR, HER2} -> (status, start, end) where all three have one status; else {}."""
    found = {}
    for name, field in (("ER", "er"), ("PR", "pr"), ("HER2", "her2")):
        hits = reading.receptor_hits(lower, field)
        if len({status for status, _, _ in hits}) != 1 or hits[0][0] is None:
            return {}
        found[name] = hits[0]
    return found


def receptor_status(text, lower):
    """'ER positive PR negative HER2 equivocal'."""
    found = receptor_values(lower)
    value = " ".join(f"{name} {status.lower()}" for name, (status, _, _) in found.items())
    return [(value, min(hit[1] for hit in found.values()), max(hit[2] for hit in found.values()))] if found else mentions(lower, "er|pr|her2|estrogen|receptor")


def receptor_type(text, lower):
    """The positive receptors in the order ER PR HER2, or 'none'."""
    found = receptor_values(lower)
    value = " ".join(name for name, (status, _, _) in found.items() if status == "Positive") or "none"
    return [(value, min(hit[1] for hit in found.values()), max(hit[2] for hit in found.values()))] if found else mentions(lower, "er|pr|her2|estrogen|receptor")


def mentions(lower, words):
    """Hits without a value for words that show that the field is spoken of."""
    return [(None, match.start(), match.end()) for match in re.finditer(rf"\b(?:{words})\b", lower)]


def last(text, pattern):
    """End of the last match of a pattern, -1 without one."""
    return max((match.end() for match in compiled(pattern).finditer(text)), default=-1)


def tumor_size(text, lower):
    """Greatest dimension in cm with one decimal, of the tumour and not of a specimen, node or margin."""
    words = WORDS["size"]
    hits = []
    for match in compiled(words["dimensions"]).finditer(lower):
        left = re.split(r"[.;\n](?!\d)", lower[max(0, match.start() - 80):match.start()])[-1]
        right = re.split(r"[.;\n](?!\d)", lower[match.end():match.end() + 50])[0]
        tumor, other = last(left, words["of_tumor"]), last(left, words["of_other"])
        if other > tumor or compiled(r"^\s*(?:from|away|clear|below|above)").match(right):
            continue
        largest = max(float(group) for group in match.groups()[:3] if group)
        centimetres = largest / 10 if match[4].startswith("m") else largest
        near = tumor >= 0 or last(left, words["of_any"]) >= 0 or last(right, words["of_any"]) >= 0 or last(right, words["of_tumor"]) >= 0
        hits.append((near, f"{centimetres:.1f} cm", match.start(), match.end()))
    best = [hit[1:] for hit in hits if hit[0]] or [hit[1:] for hit in hits]
    return best or mentions(lower, r"\d+(?:\.\d+)? ?[cm]m")


def tumor_site(text, lower):
    """The part of the organ that holds the tumour."""
    hits = []
    for value, pattern in WORDS["site"].items():
        for match in compiled(pattern).finditer(lower):
            left = re.split(r"[.;\n]", lower[max(0, match.start() - 40):match.start()])[-1]
            right = re.split(r"[.;,\n]", lower[match.end():match.end() + 25])[0]
            if not compiled(WORDS["not_site"]).search(left + " | " + right):
                hits.append((value, match.start(), match.end()))
    return hits


def grade(text, lower):
    """G1-G4, High or Low (bladder, ovary), or 'Gleason n'."""
    words = WORDS["grade"]
    gleason = []
    for match in compiled(words["gleason"]).finditer(lower):
        numbers = [int(group) for group in match.groups() if group]
        gleason.append((f"Gleason {sum(numbers)}", match.start(), match.end()))
    if gleason or "gleason" in lower:
        return [hit for hit in gleason if not reading.earlier(lower, hit[1])] or gleason or mentions(lower, "gleason")
    hits = []
    if compiled(words["two_tiers"]).search(lower):
        for match in compiled(words["high_low"]).finditer(lower):
            word = next(group for group in match.groups() if group)
            hits.append(("High" if word.startswith("h") else "Low", match.start(), match.end()))
    else:
        for match in compiled(words["words"]).finditer(lower):
            value = max(reading.VOCABULARY["grade"]["word_values"][word] for word in match.groups() if word)
            hits.append((f"G{value}", match.start(), match.end()))
        for match in compiled(words["number"]).finditer(lower):
            hits.append((f"G{reading.number(match[1] or match[2])}", match.start(), match.end()))
        for pattern, value in words["short"].items():
            hits += [(value, match.start(), match.end()) for match in compiled(pattern).finditer(lower)]
    hits = [hit for hit in hits if not reading.of_other(lower, hit[1], hit[2])]
    return [hit for hit in hits if not reading.earlier(lower, hit[1])] or hits or mentions(lower, "grade|differentiated|gr|diff")


def laterality(text, lower):
    """Right, Left or Bilateral, from words and abbreviations."""
    kept = "".join(" " * len(piece) if compiled(WORDS["size"]["other_side"]).search(piece) else piece for piece in re.split(r"(?<=[.;])(?=\s)|(?=\n)", lower))
    hits = [hit for hit in reading.side_hits(text, kept, None) if hit[0]]
    for match in compiled(WORDS["abbreviations"]["side"]).finditer(text):
        if kept[match.start()] == " ":
            continue
        word = match[0].lower()
        value = "Bilateral" if match[3] or match[4] else "Right" if word.startswith("r") else "Left"
        hits.append((value, match.start(), match.end()))
    return hits or [("Bilateral", match.start(), match.end()) for match in re.finditer(r"\bbilateral\b", kept)]


def histology(text, lower):
    """The tumour type by the cohort's names."""
    organ = organ_of(lower)
    named = [(group, match.start(), match.end()) for group, pattern in WORDS["histology"].items() for match in compiled(pattern).finditer(lower)]
    named = [hit for hit in named if not compiled(reading.HISTOLOGY["negated"]).search(lower[max(0, hit[1] - 45):hit[1]])]
    if named:
        return named
    rename = WORDS["rename"].get(organ, {})
    hits = [(rename.get(group, group) if group else None, start, end) for group, start, end in reading.histology_hits(text, lower, None)]
    if any(group for group, _, _ in hits):
        return hits
    short = [(rename.get(group, group), match.start(), match.end()) for group, pattern in WORDS["abbreviated"].items() for match in compiled(pattern).finditer(lower)]
    return short or hits


def diagnosis(text, lower):
    """'<histology> of the <organ>'."""
    organ = organ_of(lower)
    return [(f"{group} of the {organ}" if group and organ else None, start, end) for group, start, end in histology(text, lower)]


def stage(text, lower):
    """Pathological T and N without sub-letters, 'T2 N1'."""
    t_hits, n_hits = reading.t_category(text, lower, None), reading.n_category(text, lower, None)
    t_values, n_values = {hit[0] for hit in t_hits}, {hit[0] for hit in n_hits}
    if len(t_values) == 1 and len(n_values) == 1 and None not in t_values:
        start, end = min(t_hits[0][1], n_hits[0][1]), max(t_hits[0][2], n_hits[0][2])
        return [(f"{t_hits[0][0]} {n_hits[0][0]}", start, end)]
    return [(None, start, end) for _, start, end in t_hits + n_hits]


# field -> rule, and the words without which the field is cleanly absent
RULES = {"receptor_type": receptor_type, "receptor_status": receptor_status, "tumor_size": tumor_size, "tumor_site": tumor_site, "grade": grade,
         "histology": histology, "laterality": laterality, "stage": stage, "diagnosis": diagnosis}
MENTIONED = {"receptor_type": r"receptor|\ber\b|her-?2|triple", "receptor_status": r"receptor|\ber\b|her-?2|triple", "tumor_size": r"\d ?[cm]m\b",
             "tumor_site": r"\bsite\b[^.\n]{0,3}:", "grade": WORDS["grade"]["mention"], "histology": r"carcinoma|\bca\b|tumou?r type|sarcoma|melanoma|lymphoma|\w+cytoma|glioma",
             "laterality": r"\b(?:right|left|rt|lt|bilat\w*|sided?)\b", "stage": r"\bstage|tnm|\bp?t ?[0-4]|\bn ?[0-3]\b", "diagnosis": r"carcinoma|\bca\b|cancer|sarcoma|melanoma|lymphoma|\w+cytoma|glioma"}


def read_note(text, field):
    """What a note states about one of the eight phenotypes or the diagnosis: dict(evidence, value, start, end) as in labels.read."""
    own = own_text(text)
    lower = reading.lower_keeping_length(own)
    hits = RULES[field](own, lower)
    values = Counter(value for value, _, _ in hits if value)
    if len(values) == 1:
        value, start, end = min((hit for hit in hits if hit[0]), key=lambda hit: hit[1])
        return {"evidence": "stated", "value": value, "start": start, "end": end}
    clean = not values and not compiled(MENTIONED[field]).search(lower)
    return {"evidence": "not_stated" if clean else "uncertain", "value": None, "start": None, "end": None}
