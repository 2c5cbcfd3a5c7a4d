"""Damage to the text of a note, by rate: what misspellings, scanning, abbreviations or another layout do to a reader.

One function and one line in PERTURBATIONS per testbed. Each takes (text, rate, seed, note_id, data_dir) and returns its edits (start, end, replacement,
kind) in the order of the text; `text` applies them. Every place of a text has its own random numbers, drawn from a hash of seed, testbed and note and from
the place's number, so that the places hit at 5 % are among those hit at 10 % and get the same edit, on every machine.

The misspellings are those of the CancerLLM paper (arXiv 2406.10459, which does not print its rates): insertion, deletion, transposition, a neighbouring
key; beside them doubled letters and the confusions of optical character recognition (OCR). By default what carries a
value is protected (`protected` of perturb.yaml: categories, stages, grades, all numbers, negations, results of receptors); `misspell_attack` hits those too,
and then a value may really be another one: its curve says what is read, not what is understood.

Natural noise. A note's own OCR damage needs no function here: `quality.strata(pd.read_parquet(run / "corpus" / "quality.parquet").set_index("note_id"))`
gives clean | some | heavy by note_id and the two cut points; `ocr_noise` there is the score itself.
"""

import difflib
import hashlib
import re
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from rapidfuzz.distance import Levenshtein

from ..corpus import drugs
from ..errors import UserError
from . import abbreviations

KINDS = ("insertion", "deletion", "substitution", "transposition", "doubled", "ocr")
WIDTHS = (45, 80)  # characters of a rewrapped line, drawn per note
LOOKS_ALIKE = 0.6  # of the longer name's letters, after the same first one: a spelling of a drug's name, and no brand
_TOKEN = re.compile(r"[^\W_]+")
_GAP = re.compile(r"\s*$")


@cache
def rules() -> dict:
    """perturb.yaml with its patterns compiled: protected, heading."""
    raw = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    words = "|".join(raw["headings"])
    # at the start of a line or after a sentence: a number, at most six words of which one is a heading's, then a colon or a dash
    raw["heading"] = re.compile(rf"(?:^|(?<=[.;:]\s))[ \t]*(?:\(?\d{{1,2}}[.)][ \t]*)?(?=[A-Z])(?:[\w/&,()-]+[ \t]+){{0,5}}?(?i:{words})\b(?:[ \t]+[\w/&,()-]+){{0,4}}[ \t]*(?::|[ \t]-[ \t])", re.MULTILINE)
    raw["protected"] = re.compile("|".join(f"(?:{pattern})" for pattern in raw["protected"]), re.IGNORECASE)
    return raw


def draws(n: int, seed: int, name: str, note_id: str) -> np.ndarray:
    """n rows of three numbers in [0, 1): row i belongs to place i and does not depend on n."""
    key = hashlib.blake2b(f"{seed}:{name}:{note_id}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(key, "big")).random((n, 3))


def choice(values, number: float):
    """The value at `number` (0-1) of a sequence."""
    return values[int(number * len(values))]


# ---- misspellings ----------------------------------------------------------------------------------------------------------------------


def tokens(text: str) -> list[tuple[int, int, bool]]:
    """(start, end, protected) of every run of letters and digits."""
    spans = [match.span() for match in rules()["protected"].finditer(text)]
    found, at = [], 0
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        while at < len(spans) and spans[at][1] <= start:
            at += 1
        found.append((start, end, at < len(spans) and spans[at][0] < end))
    return found


def one_edit(word: str, kind: str, number: float) -> str:
    """The word with one edit of this kind, its place and letter chosen by `number` (0-1); the word itself where the kind has no place in it."""
    if kind == "ocr":
        found = [(at, read, printed) for printed, read in rules()["ocr"] for at in range(len(word)) if word.startswith(printed, at)]
        if not found:
            return word
        at, read, printed = choice(found, number)
        return word[:at] + read + word[at + len(printed):]
    if kind == "transposition":
        places = [i for i in range(len(word) - 1) if word[i] != word[i + 1]]
        if not places:
            return word
        i = choice(places, number)
        return word[:i] + word[i + 1] + word[i] + word[i + 2:]
    i = int(number * len(word))
    if kind == "deletion":
        return word[:i] + word[i + 1:] if len(word) > 1 else word
    if kind == "doubled":
        return word[:i + 1] + word[i:]
    keys = rules()["keyboard"].get(word[i].lower())
    if not keys:
        return word
    key = choice(keys, number * len(word) % 1)
    key = key.upper() if word[i].isupper() else key
    return word[:i] + key + word[i + 1:] if kind == "substitution" else word[:i + 1] + key + word[i + 1:]


def misspelt(word: str, kind_number: float, number: float) -> tuple[str, str]:
    """(the word with one edit, its kind): the drawn kind, or the next one that has a place in this word."""
    first = int(kind_number * len(KINDS))
    for kind in (*KINDS[first:], *KINDS[:first]):
        if (new := one_edit(word, kind, number)) != word:
            return new, kind
    return word, ""


def misspell(text, rate, seed, note_id, data_dir="", attack=False):
    """One edit in a share of the words of three letters or more; what is protected stays. Of words that are hit, a sixth gets each of KINDS."""
    found = tokens(text)
    numbers = draws(len(found), seed, "misspell", note_id)
    edits = []
    for (start, end, protected), (hit, kind, place) in zip(found, numbers, strict=True):
        word = text[start:end]
        if hit < rate and (attack if protected else len(word) >= 3 and word.isalpha()):
            new, named = misspelt(word, kind, place)
            if named:
                edits.append((start, end, new, f"protected {named}" if protected else named))
    return edits


def misspell_attack(text, rate, seed, note_id, data_dir=""):
    """The words that `misspell` hits, and the same share of what it protects."""
    return misspell(text, rate, seed, note_id, data_dir, attack=True)


def ocr(text, rate, seed, note_id, data_dir=""):
    """One OCR confusion in a share of the words of three letters or more that hold a shape which is confused."""
    found = tokens(text)
    edits = []
    for (start, end, protected), (hit, _, place) in zip(found, draws(len(found), seed, "ocr", note_id), strict=True):
        word = text[start:end]
        if hit < rate and not protected and len(word) >= 3 and word.isalpha() and (new := one_edit(word, "ocr", place)) != word:
            edits.append((start, end, new, "ocr"))
    return edits


# ---- names of drugs --------------------------------------------------------------------------------------------------------------------


@cache
def drug_spellings(data_dir: str = "") -> dict[str, list[str]]:
    """generic -> other spellings that look like it, as people typed them into the drug tables of TCGA (names that only likeness maps to one drug, drugs.py;
    misspelt brands are left out); where these tables are absent, the endings and spellings of drugs.yaml."""
    from .. import paths
    from ..corpus import tcga

    typed = set()
    for table in tcga.treatment_tables(paths.data_dir(data_dir) / "tcga")["drug"].values():
        typed |= {" ".join(name.lower().split()) for name in table["pharmaceutical_therapy_drug_name"]}
    found: dict[str, list[str]] = {}
    for name in sorted(typed):
        read = drugs.normalise(name) if re.fullmatch(r"[a-z]{5,}", name) else []
        if len(read) == 1 and read[0]["how"] == "fuzzy":
            found.setdefault(read[0]["generic"], []).append(name)
    found = found or {generic: [name for name in spellings if name.isalpha()] for generic, spellings in drugs.words()["generics"].items()}
    found = {generic: [name for name in names if name[0] == generic[0] and Levenshtein.normalized_similarity(name, generic) >= LOOKS_ALIKE] for generic, names in found.items()}
    return {generic: names for generic, names in found.items() if names}


def drugnames(text, rate, seed, note_id, data_dir=""):
    """A share of the drug names of the text in a spelling that somebody typed."""
    spellings, lower, names = drug_spellings(data_dir), text.lower(), drugs.words()["names"]
    if len(lower) != len(text):
        return []
    found = [match for match in drugs.printed().finditer(lower) if spellings.get(names.get(match[0]))]
    edits = []
    for match, (hit, which, _) in zip(found, draws(len(found), seed, "drugnames", note_id), strict=True):
        others = [name for name in spellings[names[match[0]]] if name != match[0]]
        if hit < rate and others:
            edits.append((*match.span(), like(choice(others, which), text[match.start():match.end()]), "drug name"))
    return edits


def like(word: str, model: str) -> str:
    """The word in capitals or with a capital, as the model is written."""
    return word.upper() if model.isupper() else word[:1].upper() + word[1:] if model[:1].isupper() else word


# ---- abbreviations ---------------------------------------------------------------------------------------------------------------------


def shortened(text, rate, seed, note_id, data_dir="", to_short=True):
    """A share of the places that `abbreviations.places` finds, outside of what is protected."""
    spans = [match.span() for match in rules()["protected"].finditer(text)]
    found = [place for place in abbreviations.places(text, to_short, data_dir) if not any(start < place["end"] and place["start"] < end for start, end in spans)]
    numbers = draws(len(found), seed, "abbreviate" if to_short else "expand", note_id)
    return [(place["start"], place["end"], choice(place["others"], which), "ambiguous" if place["ambiguous"] else "clear")
            for place, (hit, which, _) in zip(found, numbers, strict=True) if hit < rate]


def abbreviate(text, rate, seed, note_id, data_dir=""):
    """A share of the clinical terms in the short form of people in a hurry."""
    return shortened(text, rate, seed, note_id, data_dir)


def expand(text, rate, seed, note_id, data_dir=""):
    """A share of the abbreviations written out; one with several meanings as a careless reader would, marked ambiguous."""
    return shortened(text, rate, seed, note_id, data_dir, to_short=False)


# ---- changes that keep the meaning: no rate, the whole text -------------------------------------------------------------------------------


def whole(text: str, new: str, kind: str) -> list[tuple]:
    """One edit of the whole text, none where nothing changed."""
    return [(0, len(text), new, kind)] if new != text else []


def upper(text, rate=1.0, seed=0, note_id="", data_dir=""):
    """The text in capitals, letters that would grow left as they are."""
    return whole(text, "".join(c.upper() if len(c.upper()) == 1 else c for c in text), "upper")


def linebreaks(text, rate=1.0, seed=0, note_id="", data_dir=""):
    """Sentences wrapped at another width: breaks within a sentence are undone, then long lines are broken; blank lines and labelled lines stay."""
    width = int(WIDTHS[0] + draws(1, seed, "linebreaks", note_id)[0][0] * (WIDTHS[1] - WIDTHS[0]))
    joined = re.sub(r"(?<=[^\s.:;])[ \t]*\n[ \t]*(?=[a-z])", " ", text)
    lines = []
    for line in joined.split("\n"):
        while len(line) > width and (cut := line.rfind(" ", 1, width + 1)) > 0:
            lines.append(line[:cut])
            line = line[cut + 1:]
        lines.append(line)
    return whole(text, "\n".join(lines), "linebreaks")


def sections(text, rate=1.0, seed=0, note_id="", data_dir=""):
    """The sections of the note in another order: what stands before the first heading stays first, a note with fewer than two headings stays as it is."""
    starts = [match.start() for match in rules()["heading"].finditer(text)]
    if len(starts) < 2:
        return []
    parts = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    bodies, gaps = [part.rstrip() for part in parts], [_GAP.search(part)[0] for part in parts]
    order = np.argsort(draws(len(parts), seed, "sections", note_id)[:, 0])
    if (order == np.arange(len(parts))).all():
        order = np.roll(order, 1)
    return whole(text, text[:starts[0]] + "".join(bodies[i].lstrip() + gap for i, gap in zip(order, gaps, strict=True)), "sections")


def wording(text, rate=1.0, seed=0, note_id="", data_dir=""):
    """The note stays as it is: the question is asked in other words (`reworded`)."""
    return []


def reworded(spec: dict, seed: int, example_id: str) -> dict:
    """The task (a dict of tasks/*.yaml) with one of the other wordings of its question, drawn per example."""
    others = rules()["wording"].get(spec["task"])
    if not others:
        raise UserError(f"wording: perturb.yaml has no other wording of task {spec['task']}. Add two or three there.")
    return spec | choice(others, draws(1, seed, "wording", example_id)[0][0])


PERTURBATIONS = {
    "misspell": misspell, "misspell_attack": misspell_attack, "ocr": ocr, "abbreviate": abbreviate, "expand": expand, "drugnames": drugnames,
    "upper": upper, "linebreaks": linebreaks, "sections": sections, "wording": wording,
}  # fmt: skip
CONSISTENCY = ("upper", "linebreaks", "sections", "wording")  # keep the meaning, have no rate
REMEDIES = ("respelled",)  # spelling.py


def check(testbed: str, rate: float) -> None:
    """UserError for an unknown testbed, naming the nearest one, and for a rate outside of 0 to 1."""
    if testbed not in PERTURBATIONS:
        near = difflib.get_close_matches(str(testbed), PERTURBATIONS, n=1)
        raise UserError(f"testbed {testbed!r}: unknown{f': did you mean {near[0]!r}?' if near else '.'} Testbeds: {', '.join(PERTURBATIONS)}.")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
        raise UserError(f"testbed {testbed}: the rate is a share from 0 to 1, not {rate!r}. For 20 percent write 0.2.")


def text(text: str, testbed: str, rate: float, seed: int, note_id: str, data_dir: str = "") -> tuple[str, list[dict]]:
    """A note under a testbed at a rate (0-1; testbeds of CONSISTENCY have none): (the new text, its hits in order).

    A hit is {start, end, before, after, kind}: where in the old text, the words there and their replacement. The same arguments give the same text; hits
    at a rate are hits at every higher one. data_dir: folder of the public data, empty as in paths.data_dir. UserError as in `check`.
    """
    check(testbed, rate)
    parts, hits, at = [], [], 0
    for start, end, new, kind in PERTURBATIONS[testbed](text, rate, seed, note_id, data_dir):
        parts += [text[at:start], new]
        hits.append({"start": start, "end": end, "before": text[start:end], "after": new, "kind": kind})
        at = end
    return "".join([*parts, text[at:]]), hits


def augment(original: str, testbeds: list[str], rate: float, seed: int, item_id: str, data_dir: str = "") -> str:
    """A training text under one of `testbeds`, drawn per item, at a rate drawn evenly between 0 and `rate`: so that clean texts stay among them.

    `rate` 0 or no testbed returns the text. UserError as in `check`.
    """
    for testbed in testbeds:
        check(testbed, rate)
    if not testbeds or not rate:
        return original
    which, share, _ = draws(1, seed, "augment", item_id)[0]
    return text(original, choice(testbeds, which), share * rate, seed, item_id, data_dir)[0]


def character_error_rate(before: str, after: str) -> float:
    """Letters to insert, delete or replace (Levenshtein, rapidfuzz) per letter of the old text."""
    return Levenshtein.distance(before, after) / max(1, len(before))


def parse_variant(variant: str) -> tuple[str, float, str]:
    """("misspell", 0.2, "misspell20") of "misspell:20"; testbeds of CONSISTENCY are written without a rate ("upper"). UserError for anything else."""
    testbed, _, percent = str(variant).partition(":")
    if testbed in CONSISTENCY:
        if percent:
            raise UserError(f"variants: {variant}: {testbed} has no rate. Write {testbed}.")
        return testbed, 1.0, testbed
    check(testbed, 0)
    if not re.fullmatch(r"\d{1,3}", percent) or int(percent) > 100:
        raise UserError(f"variants: {variant}: write the testbed and a whole percentage from 0 to 100, such as {testbed}:20.")
    return testbed, int(percent) / 100, f"{testbed}{int(percent)}"


def planned(variants: list[str], remedies: list[str] = ()) -> list[dict]:
    """What variants ("misspell:20", "upper") and remedies make: [{name, testbed, rate, remedy}], the name as it ends a test set's name.

    Each testbed with a rate comes also with each remedy, and so does the clean text (testbed ""). UserError as in parse_variant, for an unknown
    remedy and for a variant that stands twice.
    """
    for remedy in remedies:
        if remedy not in REMEDIES:
            raise UserError(f"remedies: {remedy!r} is unknown. Remedies: {', '.join(REMEDIES)}.")
    found = []
    for variant in variants:
        testbed, rate, name = parse_variant(variant)
        if name in [made["name"] for made in found]:
            raise UserError(f"variants: {variant} stands twice. Keep one.")
        found.append({"name": name, "testbed": testbed, "rate": rate, "remedy": ""})
    with_rate = [made for made in found if made["testbed"] not in CONSISTENCY]
    for remedy in remedies:
        found += [{**made, "name": f"{made['name']}+{remedy}", "remedy": remedy} for made in with_rate]
        found.append({"name": remedy, "testbed": "", "rate": 0.0, "remedy": remedy})
    return found


def set_names(test_sets: list[str], made: list[dict]) -> list[str]:
    """test+misspell20, ...: every test set with the name of every entry of `planned`."""
    return [f"{split}+{one['name']}" for split in test_sets for one in made]
