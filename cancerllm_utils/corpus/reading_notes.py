"""The phenotypes of CancerBERT, the diagnosis and the ICD-10 category read from any oncology note: the rules baseline of the synthetic cohort.

Same shape as reading.py (a rule returns hits (value, start, end)), patterns in labels_notes.yaml. Sentences about relatives, other tumours and
what was not found are blanked first, so that spans stay valid; what was known before the operation is read only where nothing else tells.
Answers follow SYNTHETIC_FIELDS of synthetic.py; written from training notes, nothing here was taken from the generator.
"""

import re
from functools import cache, lru_cache
from pathlib import Path

import yaml

from . import reading
from .reading import compiled

WORDS = yaml.safe_load(Path(__file__).with_name("labels_notes.yaml").read_text(encoding="utf-8"))


# ------------------------------------------------------------------ whose, when
def sentences(text, ends=".;"):
    """The note in one line of the same length, cut at the given signs and at list items: list of strings whose lengths add up."""
    flat = re.sub(r"\n(?![ \t]*(?:\n|[-*•]|\(?\d{1,2}[.)]\s|[A-Z][\w ()]{2,40}\s?[:-]))", " ", text)
    return re.split(rf"(?<=[{ends}])(?<!\badj\.)(?<!\bpal\.)(?=\s)|(?=\n)", flat)


def blanked(pieces, pattern):
    """The text with every sentence in which the pattern occurs replaced by blanks."""
    return "".join(" " * len(piece) if compiled(pattern).search(piece.lower()) else piece for piece in pieces)


@lru_cache(maxsize=4)     # all fields of one note are asked for one after the other
def own_text(text):
    """What the note says about this tumour: (text as of the latest findings, the same with what was known before an operation)."""
    valid = blanked(sentences(text, "."), WORDS["not_valid"])
    wide = blanked(sentences(valid), WORDS["not_this_tumor"])
    narrow = blanked(sentences(wide), WORDS["before_operation"])
    return narrow, wide


@lru_cache(maxsize=4)
def organ_of(lower):
    """The organ the note is about, or None: where a tumour 'of the <organ>' is named that one, else the organ named most often."""
    counts = {}
    for organ, words in WORDS["organ"].items():
        named = len(compiled(WORDS["organ_named"] + f"(?:{words})").findall(lower)) + len(compiled(f"(?:{words})" + WORDS["organ_after"]).findall(lower))
        counts[organ] = len(compiled(words).findall(lower)) + 5 * named
    best = max(counts, key=counts.get)
    return best if counts[best] else None


def mentions(lower, words):
    """Hits without a value for words that show that the field is spoken of."""
    return [(None, match.start(), match.end()) for match in compiled(words).finditer(lower)]


def last(text, pattern):
    """End of the last match of a pattern, -1 without one."""
    return max((match.end() for match in compiled(pattern).finditer(text)), default=-1)


def sentence_of(lower, start, end, before, after):
    """Text of the same statement before and after a span."""
    left = re.split(r"[.;\n](?!\d)", lower[max(0, start - before):start])[-1]
    return left, re.split(r"[.;\n](?!\d)", lower[end:end + after])[0]


# ------------------------------------------------------------------ receptors
def receptor_values(lower):
    """{receptor: (status, start, end)} of the receptors that the note reports unambiguously."""
    words = WORDS["receptors"]
    hits = {"ER": [], "PR": [], "HER2": []}
    for match in compiled(words["triple"]).finditer(lower):
        for name in hits:
            hits[name].append(("negative", *match.span()))
    for match in compiled(words["negative_list"]).finditer(lower):
        for name in hits:
            hits[name].append(("negative", *match.span()))
    for match in compiled(words["both"]).finditer(lower):
        for name in ("ER", "PR"):
            hits[name].append((status_of(match[1], name), *match.span()))
    waiting = []      # of "ER and PR positive" the first term waits for the status of the second
    for match in compiled(words["term"]).finditer(lower):
        name = "ER" if match[1] else "PR" if match[2] else "HER2"
        if waiting and not re.fullmatch(r"\s*(?:/|,|and|&)?\s*", lower[waiting[-1][1]:match.start()]):
            waiting = []
        waiting.append((name, match.end(), match.start()))
        status = compiled(words["statuses"]).match(lower, match.end())
        if status:
            resolved = compiled(words["resolved"]).match(lower, status.start(1)) if name == "HER2" else None
            for one, _, start in waiting:
                value = status_of(status[1], one)
                if resolved and one == "HER2":
                    value = "negative" if resolved[1] or resolved[2] else "positive"
                hits[one].append((value, start, (resolved or status).end()))
            waiting = []
    return {name: found[0] for name, found in hits.items() if len({status for status, _, _ in found}) == 1}


def status_of(word, name):
    """positive, negative or (HER2) equivocal from a status word, a sign or an IHC score."""
    word = word.replace(" ", "")
    if word.endswith("%"):
        return "positive" if int(word[:-1]) >= 1 else "negative"      # ASCO/CAP: from 1 % of the nuclei
    if word.startswith("allred"):
        return "positive" if int(word[-1]) >= 3 else "negative"      # Allred et al., Mod Pathol 1998: more than 2 of 8
    if word.startswith(("equi", "indet", "2")):
        return "equivocal"
    return "negative" if (word.startswith(("neg", "-", "not", "non", "0", "1")) and word != "1+") or (word == "1+" and name == "HER2") else "positive"


def receptor_hits(lower, as_type):
    """The receptors that are tested in the cancer, as one answer: their statuses, or the positive ones."""
    organ, found = organ_of(lower), receptor_values(lower)
    tested = WORDS["receptors"]["tested"].get(organ, []) if organ else list(found)
    if not tested or any(name not in found for name in tested):
        return mentions(lower, WORDS["receptors"]["term"]) if tested else []
    found = {name: found[name] for name in tested}
    value = " ".join(f"{name} {status}" for name, (status, _, _) in found.items())
    if as_type:
        value = " ".join(name for name, (status, _, _) in found.items() if status == "positive") or "none"
    return [(value, min(hit[1] for hit in found.values()), max(hit[2] for hit in found.values()))]


def receptor_status(text, lower):
    """'ER positive PR negative HER2 equivocal', of the receptors tested in the cancer."""
    return receptor_hits(lower, as_type=False)


def receptor_type(text, lower):
    """The positive receptors in the order ER PR HER2, or 'none'."""
    return receptor_hits(lower, as_type=True)


# ------------------------------------------------------------------ size, site, side
def tumor_size(text, lower):
    """Greatest dimension in cm with one decimal, of the tumour and not of a specimen, node or margin."""
    words = WORDS["size"]
    labelled, bare = [], []
    for match in compiled(words["dimensions"]).finditer(lower):
        left, right = sentence_of(lower, match.start(), match.end(), 80, 50)
        tumor, other = last(left, words["of_tumor"]), last(left, words["of_other"])
        if other > tumor or compiled(words["after_other"]).match(right):
            continue
        largest = max(float(group) for group in match.groups()[:3] if group)
        centimetres = largest / 10 if match[4].startswith("m") else largest
        near = tumor >= 0 or last(left, words["of_any"]) >= 0 or last(right, words["of_any"]) >= 0 or last(right, words["of_tumor"]) >= 0
        (labelled if near else bare).append((f"{centimetres:.1f} cm", match.start(), match.end()))
    return labelled or bare


def tumor_site(text, lower):
    """The part of the organ that holds the tumour."""
    claimed, hits = [], []
    for value, pattern in WORDS["site"].get(organ_of(lower), {}).items():
        for match in compiled(pattern).finditer(lower):
            left, right = sentence_of(lower, match.start(), match.end(), 30, 20)
            if any(match.start() < end and match.end() > start for start, end in claimed):
                continue
            claimed.append(match.span())
            if not compiled(WORDS["not_site"]).search(left + " | " + right.split(",")[0]):
                hits.append((value, match.start(), match.end()))
    return hits


def laterality(text, lower):
    """Right, Left or Bilateral, from words and abbreviations."""
    hits, organ = [], organ_of(lower)
    for match in compiled(WORDS["side"]).finditer(text):
        word = match[0].lower()
        both = match[1] or match[4] or match[6]
        part = compiled(WORDS["not_side"]).match(lower, match.end())
        if part and not (organ and compiled(WORDS["organ"][organ]).search(part[0])):
            continue
        hits.append(("Bilateral" if both else "Right" if word.startswith("r") else "Left", match.start(), match.end()))
    return hits


# ------------------------------------------------------------------ grade, histology, stage
def grade(text, lower):
    """G1-G4, High or Low (bladder, ovary), or 'Gleason n'."""
    words, organ = WORDS["grade"], organ_of(lower)
    hits = []
    if organ == "prostate":
        for match in compiled(words["gleason"]).finditer(lower):
            hits.append((f"Gleason {sum(int(group) for group in match.groups() if group)}", match.start(), match.end()))
        return hits
    if organ in words["two_tiers"]:
        for match in compiled(words["high_low"]).finditer(lower):
            word = next(group for group in match.groups() if group)
            hits.append(("High" if word.startswith("h") else "Low", match.start(), match.end()))
        return hits
    for match in compiled(words["words"]).finditer(lower):
        hits.append((f"G{max(words['word_values'][word] for word in match.groups() if word)}", match.start(), match.end()))
    for match in compiled(words["number"]).finditer(lower):
        hits.append((f"G{reading.number(match[1] or match[2])}", match.start(), match.end()))
    return hits


@cache
def histology_pattern(words):
    """A vocabulary entry with its short forms spelled out: A an adenocarcinoma, C a carcinoma."""
    either = f"(?:{WORDS['adenocarcinoma']}|{WORDS['carcinoma']})"
    spelled = {"[CA]": either, "[AC]": either, "A": WORDS["adenocarcinoma"], "C": WORDS["carcinoma"]}
    return re.compile(re.sub(r"\[CA\]|\[AC\]|\bA\b|\bC\b", lambda match: spelled[match[0]], words))


@lru_cache(maxsize=4)
def histology_hits(lower):
    """Names of a tumour type of the organ; the more specific entry claims its stretch of text first, and the general name beside it."""
    claimed, hits, same = [], [], WORDS["same_name"]
    for value, words in WORDS["histology"].get(organ_of(lower), {}).items():
        for match in histology_pattern(words).finditer(lower):
            if any(match.start() < end and match.end() > start for start, end in claimed):
                continue
            if any(compiled(same["after"]).fullmatch(lower, end, match.start()) if end <= match.start() else
                   compiled(same["before"]).fullmatch(lower, match.end(), start) for start, end in claimed):
                continue
            claimed.append(match.span())
            if not compiled(WORDS["not_histology"]).search(lower[max(0, match.start() - 30):match.start()]):
                hits.append((value, match.start(), match.end()))
    return hits


def histology(text, lower):
    """The tumour type by the cohort's names."""
    return histology_hits(lower)


def diagnosis(text, lower):
    """'<histology> of the <organ>'."""
    return [(f"{group} of the {organ_of(lower)}", start, end) for group, start, end in histology_hits(lower)]


def stage(text, lower):
    """T and N without sub-letters, 'T2 N1': pathological, or clinical where there is no other."""
    found = [(bool(match[1]), f"T{match[2]} N{match[3]}", match.start(), match.end()) for match in re.finditer(WORDS["stage"]["tn"], text, re.IGNORECASE)]
    return [hit[1:] for hit in found if not hit[0]] or [hit[1:] for hit in found]


def icd10(text, lower):
    """ICD-10 category that organ and part imply; no note prints it."""
    organ = organ_of(lower)
    if not organ:
        return []
    start = compiled(WORDS["organ"][organ]).search(lower).span()
    parts = {WORDS["icd10_parts"][value] for value, _, _ in tumor_site(text, lower) if value in WORDS["icd10_parts"]}
    return [(parts.pop() if len(parts) == 1 else WORDS["icd10"][organ], *start)]


# field -> rule, and the words without which the field is cleanly absent
RULES = {"receptor_type": receptor_type, "receptor_status": receptor_status, "tumor_size": tumor_size, "tumor_site": tumor_site, "grade": grade,
         "histology": histology, "laterality": laterality, "stage": stage, "diagnosis": diagnosis, "icd10": icd10}
MENTIONED = {"receptor_type": WORDS["receptors"]["term"], "receptor_status": WORDS["receptors"]["term"], "tumor_size": WORDS["size"]["labelled"],
             "tumor_site": r"\btumou?r site\b[^.\n]{0,3}:", "grade": WORDS["grade"]["mention"], "histology": r"\b(?:adeno|histolog\w+:|tumou?r type:)",
             "laterality": r"\blaterality\b[^.\n]{0,3}:", "stage": r"\b(?:tnm|stage)\b[^.\n]{0,12}\bt ?[0-4]",
             "diagnosis": r"\b(?:adeno|histolog\w+:|tumou?r type:)", "icd10": r"\bicd"}
NO_TOXICITY = ("grade",)


def read_note(text, field):
    """What a note states about one field of RULES: dict(evidence, value, start, end) as in labels.read."""
    hits, lower = [], ""
    for own in own_text(text):
        if field in NO_TOXICITY:
            own = blanked(sentences(own), WORDS["toxicity"])
        lower = reading.lower_keeping_length(own)
        hits = [hit for hit in RULES[field](own, lower) if hit[0]]
        if hits:
            break
    if len({value for value, _, _ in hits}) == 1:
        value, start, end = min(hits, key=lambda hit: hit[1])
        return {"evidence": "stated", "value": value, "start": start, "end": end}
    hint = hits or compiled(MENTIONED[field]).search(reading.lower_keeping_length(blanked(sentences(lower), WORDS["deferred"])))
    return {"evidence": "uncertain" if hint else "not_stated", "value": None, "start": None, "end": None}
