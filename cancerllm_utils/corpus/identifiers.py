"""Identifier gate: finds what names a patient, a clinician or a place in a note, by patterns and word lists, and says how well it does.

This is a screen, not de-identification: it promises nothing, its recall per kind is measured on planted identifiers (`evaluate`), and a text without
a finding is not thereby anonymous. Kinds follow the HIPAA Safe Harbor list (45 CFR 164.514(b)(2)) where it can be read off text: person, date (every
element but the year: a month with its year is one, a bare year is none), age_over_89 (also in words: "aged ninety-two", "in her nineties"), record_number, accession, address, phone (fax, pager),
institution, email, url (and IP). Sizes, T and N categories, grades, node counts, block labels, stains, laboratory values and eponyms are left alone.

Patterns and lists are in identifiers.yaml; identifiers_words.txt holds words that occur in lower case in medical text, so that a capitalised word
outside of it may be a name.
"""

import json
import re
import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from scipy.stats import binomtest

from cancerllm_utils.corpus.identifiers_addresses import addresses, city, led_address, named_parts, named_place, named_street, no_month, street
from cancerllm_utils.corpus.identifiers_names import institutions, named_hospital, rules, windows_by_gate
from cancerllm_utils.corpus.identifiers_persons import persons
from cancerllm_utils.corpus.identifiers_planted import KINDS, planted
from cancerllm_utils.errors import UserError

MASKS = {kind: f"[{kind.upper()}]" for kind in KINDS} | {"person": "[NAME]", "age_over_89": "[AGE OVER 89]"}
REMARK = "A screen with measured recall, not de-identification."
PROGRESS_SECONDS = 5
# Never inside a finding: sizes, T and N categories, Gleason sums, grades.
CLINICAL = re.compile(r"\d\s?(?:cm|mm|Gy)\b|(?<![\w-])(?:[ycpra]{0,3}[TN][0-4]|[ycpra]{1,3}[TN]X)[a-d]?\b(?!-)|\bGleason\b|\bgrade\b", re.IGNORECASE)


BEHIND_NAME = re.compile(r"(?:[ ]{1,4}|,[ ]|[ ]?[-|/][ ]?|\t)[(\[#]?(?P<id>[A-Z]{0,3}-?\d{5,12}|\d{2,3}[- ]\d{2,3}[- ]\d{2,3})(?![\w/.-]*\d)")
# Post codes of Canada and Britain that read like an N category or a size (TN3 7MM).
POST_CODE = re.compile(r"\b(?:[A-Z]\d[A-Z][ -]?\d[A-Z]\d|[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2})\b")


def find(text: str) -> list[dict]:
    """What looks like an identifier.

    Returns:
        dicts of kind (one of KINDS), start, end (characters), score (0-1: how sure the recogniser is; used where two overlap), sorted by start and
        not overlapping. No finding does not mean that the text is anonymous.
    """
    lower = text.lower()
    if len(lower) != len(text):  # a few letters have a longer lower case; positions must hold
        lower = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)
    named = persons(text)
    windows = windows_by_gate(text, lower)
    candidates = pattern_candidates(text, lower, windows) + institutions(text, lower, windows["institution"]) + named
    candidates += addresses(text, windows["parts"] + windows["street"])
    # A number directly behind a name is the person's record: "NAME, GIVEN (1234567)".
    for _, _, end, _ in named:
        if match := BEHIND_NAME.match(text, end):
            candidates.append((0.9, *match.span("id"), "record_number"))
    return without_overlap(text, candidates)


def pattern_candidates(text: str, lower: str, windows: dict) -> list[tuple]:
    """(score, start, end, kind) of every pattern of identifiers.yaml that its check accepts, within the windows of its gate."""
    found, whole = [], [(0, len(text))]
    for rule in rules()["patterns"]:
        near = windows[rule["near"]] if "near" in rule else whole
        if not near or ("needs" in rule and not any(needed in lower for needed in rule["needs"])):
            continue
        for low, high in near:
            for match in rule["compiled"].finditer(text, low, high):
                if "check" in rule and not CHECKS[rule["check"]](match):
                    continue
                groups = match.groupdict()
                name = next((name for name in ("id", "id2", "id3", "id4", "id5") if groups.get(name)), 0)
                found.append((rule["score"], *match.span(name), rule["kind"]))
    return found


def without_overlap(text: str, candidates: list[tuple]) -> list[dict]:
    """The surest candidates first; of a later one only what is still free; findings of one kind that touch become one."""
    taken, kept = [], []
    for score, start, end, kind in sorted(candidates, key=lambda found: (-found[0], found[1] - found[2])):
        whole = end - start
        for low, high, other in taken:
            if start < high and low < end:
                if kind != other and start < low and end > high:
                    end = low  # the part in front
                elif start < low:
                    end = low
                else:
                    start = high
        piece = text[start:end] if start < end else ""
        if kind == "address" and len(piece) < whole and re.fullmatch(r"[ ,.]*[A-Z]{2}[ ,.]*", piece):  # "Dr. Name, MS" is no town and state
            continue
        if sum(map(str.isalnum, piece)) < 2 or CLINICAL.search(POST_CODE.sub("", piece) if kind == "address" else piece):
            continue
        start, end = start + len(piece) - len(piece.lstrip(" ,\n")), end - (len(piece) - len(piece.rstrip(" ,\n")))
        taken.append((start, end, kind))
        kept.append({"kind": kind, "start": start, "end": end, "score": score})
    joined = []
    for found in sorted(kept, key=lambda found: found["start"]):
        if (
            joined
            and joined[-1]["kind"] == found["kind"]
            and not text[joined[-1]["end"] : found["start"]].strip(" ,")
            and "\n" not in text[joined[-1]["end"] : found["start"]]
        ):
            joined[-1]["end"], joined[-1]["score"] = found["end"], max(found["score"], joined[-1]["score"])
        else:
            joined.append(found)
    return joined


# ---------------------------------------------------------------- checks that a pattern alone cannot make


def numeric_date(match: re.Match) -> bool:
    """A day and a month in either order; with points or hyphens and a short year only where all parts have two digits."""
    first, second, year = match["a"], match["b"], match["c"]
    if len(year.lstrip("'")) == 3 or not (1 <= int(first) <= 31 and 1 <= int(second) <= 31 and min(int(first), int(second)) <= 12):
        return False
    if len(year) == 4:
        return year[:2] in ("19", "20")
    return match["sep"] == "/" or len(first) == len(second) == 2 or (match["sep"] == "-" and len(first + second) == 3)


def numeric_date_in_context(match: re.Match) -> bool:
    """A day and a month in either order; the words before say that it is a date."""
    first, second = int(match["a"]), int(match["b"])
    return 1 <= min(first, second) <= 12 and 1 <= max(first, second) <= 31


def no_years(match: re.Match) -> bool:
    """A year and a month, not two years that follow each other (2011-12)."""
    return int(match[0][5:]) != (int(match[0][2:4]) + 1) % 100


def spelled_date(match: re.Match) -> bool:
    """Not the verb "may" or "march", not the stain Oct-4, not the edition of a protocol."""
    found = match[0]
    before = match.string[max(0, match.start() - 30) : match.start()]
    if re.search(r"(?:protocol|edition|\bed\.?|version|revised|revision|guidelines?|approved|effective)\W{0,3}(?:\w+\W)?$", before, re.IGNORECASE):
        return False
    if (re.search(r"(?:19|20)\d\d\W{0,2}$", before) or re.match(r"(?:19|20)\d\d", found)) and re.match(r"\s?;", match.string[match.end() :]):  # a journal's
        return False
    stain = not re.search(r"\b(?:on|visit|seen|since|until|till|dated?|from|to|by|clinic|appt|appointment|admitted|discharged|ct|mri)\s$", before, re.IGNORECASE) or "-" in found
    return not re.search(r"\bmay\b|\bmarch\b|\bmar\b|\bdec\b", found) and not re.match(
        (r"oct\W?[34]\b(?!\W*\d)|" if stain else "") + r"(?:[1-4]\W)?sec|\d+\W?mar\b(?!\W*\d)", found, re.IGNORECASE
    )


def ip_address(match: re.Match) -> bool:
    """Four octets; not the version of a protocol or program."""
    octets = [int(octet) for octet in match[0].split(".")]
    if re.search(r"(?:version|ver|v|release|rev\w*|build|edition|software|protocol)\W{0,2}$", match.string[max(0, match.start() - 12) : match.start()], re.IGNORECASE):
        return False
    return max(octets) <= 255 and max(octets) >= 10 and octets[0] > 0


def digits(match: re.Match) -> int:
    groups = match.groupdict()
    return sum(map(str.isdigit, groups.get("id") or match[0]))


def number(match: re.Match) -> bool:
    """Four digits or more, and neither a measure (490.0) nor a date nor a range of blocks (E12-E14)."""
    return digits(match) >= 4 and not re.fullmatch(r"\d+\.\d+|(?:0?[1-9]|[12]\d|3[01])([/-])(?:0?[1-9]|[12]\d|3[01])\1(?:19|20)\d\d|[A-Z]\d{1,2}-[A-Z]?\d{1,2}|CA[- ]?\d.*", match["id"], re.IGNORECASE)


def no_citation(match: re.Match) -> bool:
    """Not volume, page and year of a journal: three groups with spaces, the last one a year, and no word for a phone before."""
    if not re.fullmatch(r"\d{3}\s\d{3}\s(?:19|20)\d\d", match[0]):
        return True
    return bool(
        re.search(r"phone|tel|ph\b|fax|call|contact|reach|office|home|mobile|cell", match.string[max(0, match.start() - 25) : match.start()], re.IGNORECASE)
    )


def accession_shape(match: re.Match) -> bool:
    """Not a gene or an antibody or its clone, nor one with its CPT code (88342)."""
    if re.search(r"\bclone\W{0,3}$", match.string[max(0, match.start() - 10) : match.start()], re.IGNORECASE):
        return False
    return (not re.search(r"-88\d{3}$", match[0]) and match["p"] not in ("CD", "CK", "ICD", "TNM", "HPV", "PMID", "NCT", "CT", "AE", "L", "T", "C")) or digits(
        match
    ) >= 7


def mixed_code(match: re.Match) -> bool:
    """Letters and five digits or more; not a SNOMED or ICD-O code, a CPT code, a date or a trial."""
    if re.search(r"\bclone\W{0,3}$", match.string[max(0, match.start() - 10) : match.start()], re.IGNORECASE):
        return False
    return digits(match) >= 5 and not re.search(
        r"-88\d{3}$|^[TMPE]-?\d{4,5}(?:/\d)?$|^(?:NCT|PMC|PMID|RTOG|NSABP|ISRCTN|DOI|ISBN)|(?:JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)", match[0]
    )


def no_span(match: re.Match) -> bool:
    """Years that are an age, not a time that passed, a survival, or the years of smoking."""
    behind = match.string[match.end() : match.end() + 16]
    return not re.match(r"[\s-]*(?:ago|pack|surviv|follow|earlier|later|before|history|of\s+(?!age)\w|event|smok|disease|overall)", behind, re.IGNORECASE)


def no_degrees(match: re.Match) -> bool:
    """A number and M or F, without a word for a temperature before it."""
    before = match.string[max(0, match.start() - 30) : match.start()]
    return not re.search(r"(?:\bT(?:emp\w*|max|c|m)?\b|febrile|fever\w*|vitals?|degrees|\bto|\bat|\bof|°|oral|warm\w*|[<>≥≤=])[^.\n]{0,14}$", before, re.IGNORECASE)


CHECKS = {
    "no_span": no_span,
    "no_degrees": no_degrees,
    "numeric_date": numeric_date,
    "numeric_date_in_context": numeric_date_in_context,
    "no_years": no_years,
    "spelled_date": spelled_date,
    "ip_address": ip_address,
    "number": number,
    "long_enough": lambda match: number(match) and digits(match) >= 5 - bool(re.search(r"[A-Z]", match["id"])),
    "no_citation": no_citation,
    "four_digits": lambda match: digits(match) >= 4,
    "seven_digits": lambda match: 7 - 3 * (match["id"][0] in "xX") <= digits(match) <= 15,
    "long_number": lambda match: 8 <= digits(match) <= 15,
    "accession_shape": accession_shape,
    "mixed_code": mixed_code,
    "no_month": no_month,
    "named_street": named_street,
    "street": street,
    "city": city,
    "named_parts": named_parts,
    "led_address": led_address,
    "named_place": named_place,
    "named_hospital": named_hospital,
}


# ---------------------------------------------------------------- uses


def scan(texts: Iterable[str], sample: int = 0, seed: int = 0) -> pd.DataFrame:
    """How many identifiers of each kind the notes hold: frame kind, found, notes (notes with at least one).

    Args:
        texts: the notes; sample: how many of them to read, drawn by seed (0: all).
    """
    if sample:
        texts = list(texts)
        texts = pd.Series(texts).sample(min(sample, len(texts)), random_state=seed).tolist()
    found, notes = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    began = said = time.monotonic()
    number = 0
    for number, text in enumerate(texts, 1):
        kinds = [hit["kind"] for hit in find(text)]
        for kind in kinds:
            found[kind] += 1
        for kind in set(kinds):
            notes[kind] += 1
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            print(f"identifiers: {number:,} notes, {number / (said - began):,.0f} notes/s", flush=True)
    print(f"identifiers: {sum(found.values()):,} found in {number:,} notes. {REMARK}")
    return pd.DataFrame({"kind": KINDS, "found": [found[kind] for kind in KINDS], "notes": [notes[kind] for kind in KINDS]})


def mask(text: str) -> tuple[str, dict[str, int]]:
    """The text with every finding replaced by its kind, such as [NAME] or [DATE], and how many of each kind. What was not found stays."""
    counts, pieces, last = {}, [], 0
    for hit in find(text):
        pieces += [text[last : hit["start"]], MASKS[hit["kind"]]]
        last = hit["end"]
        counts[hit["kind"]] = counts.get(hit["kind"], 0) + 1
    return "".join([*pieces, text[last:]]), counts


def scan_files(paths: Iterable[Path]) -> pd.DataFrame:
    """Identifiers in executed notebooks (sources and text outputs) and HTML pages (visible text): frame file, kind, found, one row per file and kind.

    Raises:
        UserError: a file is neither .ipynb nor .html, or cannot be read.
    """
    rows = []
    for path in map(Path, paths):
        kinds = [hit["kind"] for text in texts_of(path) for hit in find(text)]
        rows += [{"file": path.name, "kind": kind, "found": kinds.count(kind)} for kind in KINDS]
    return pd.DataFrame(rows, columns=["file", "kind", "found"])


def texts_of(path: Path) -> list[str]:
    """The texts that a reader of a notebook or page sees: cell sources, outputs, visible text."""
    try:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".html":
            return [visible_text(content)]
        if path.suffix != ".ipynb":
            raise UserError(f"{path.name}: only executed notebooks (.ipynb) and pages (.html) are scanned. Leave it out.")
        cells = json.loads(content)["cells"]
        texts = []
        for cell in cells:
            texts.append(joined(cell["source"]))
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                # A table is shown once: its HTML where there is one, else its plain text.
                shown = [visible_text(joined(data["text/html"]))] if "text/html" in data else [joined(data.get("text/plain", ""))]
                texts += [*shown, joined(data.get("text/markdown", "")), joined(output.get("text", "")), joined(output.get("evalue", ""))]
        return [text for text in texts if text.strip()]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path.name}: cannot be read as a notebook or page ({type(error).__name__}). Write it anew.") from error


def joined(text: str | list[str]) -> str:
    """A notebook stores a text as one string or as a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def visible_text(page: str) -> str:
    """The text of a page without scripts, styles and tags."""
    from bs4 import BeautifulSoup  # here, because the gate itself needs no parser

    soup = BeautifulSoup(page, "html.parser")
    for tag in soup(["script", "style", "template", "noscript"]):
        tag.decompose()
    return soup.get_text("\n")


def evaluate(n: int = 200, seed: int = 0, half: str = "final4") -> pd.DataFrame:
    """The gate on planted identifiers in synthetic notes, per kind.

    A planted identifier counts as found when a finding of its kind overlaps it and findings of any kind cover all of its letters and digits. A finding
    is false when it overlaps nothing planted of its kind, be it a decoy, the note's own words or another kind.

    Returns:
        frame kind, n (planted), found, false, precision, recall, f1, recall_low, recall_high (Wilson 95 % interval; all four 0-1).
    """
    counts = {kind: {"n": 0, "found": 0, "findings": 0, "false": 0} for kind in KINDS}
    for note in planted(n, seed, half):
        text, hits = note["text"], find(note["text"])
        covered = set()
        for hit in hits:
            covered.update(range(hit["start"], hit["end"]))
            counts[hit["kind"]]["findings"] += 1
            counts[hit["kind"]]["false"] += not any(kind == hit["kind"] and start < hit["end"] and hit["start"] < end for kind, start, end in note["spans"])
        for kind, start, end in note["spans"]:
            counts[kind]["n"] += 1
            same = any(hit["kind"] == kind and start < hit["end"] and hit["start"] < end for hit in hits)
            counts[kind]["found"] += same and all(place in covered for place in range(start, end) if text[place].isalnum())
    rows = []
    for kind, count in counts.items():
        recall = count["found"] / count["n"]
        precision = 1 - count["false"] / count["findings"] if count["findings"] else float("nan")
        low, high = binomtest(count["found"], count["n"]).proportion_ci(method="wilson")
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        rows.append(
            {
                "kind": kind,
                "n": count["n"],
                "found": count["found"],
                "false": count["false"],
                "precision": precision,
                "recall": recall,
                "f1": f1,
                "recall_low": low,
                "recall_high": high,
            }
        )
    return pd.DataFrame(rows)
