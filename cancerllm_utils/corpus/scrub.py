"""Takes out of a note what names the patient's sample or gives its label away; everything clinical stays.

Removed: sample barcodes and UUIDs, bar-code noise, the tissue bank's check stamp and discrepancy form, "Redacted" marks, printed ICD,
ICD-O and SNOMED codes. Kept: sizes, T and N categories, grades, block labels. This is no de-identification: names and dates that a
hospital left in a report are not looked for.
"""

import re
from functools import cache
from pathlib import Path

import yaml
from rapidfuzz import fuzz

MAX_ROUNDS = 10  # every round only shortens the text, so that it ends; a note needs two or three
NEARBY_LINES = 4  # a stamp has nine lines


def scrub(text: str) -> tuple[str, dict[str, int]]:
    """The note without identifiers and printed codes, and how many pieces were removed by kind.

    Kinds: uuid, barcode, barcode_noise, redaction_mark, stamp, form, icd, snomed (absent when 0). Line breaks stay, other white space
    is collapsed. scrub(scrub(text)[0]) changes nothing more.
    """
    removed = {}
    text = tidy(text)
    for _ in range(MAX_ROUNDS):
        text, n_forms = remove_form(text)
        text, n_stamps = remove_stamp(text)
        text, found = remove_patterns(text)
        found += [("form", n_forms), ("stamp", n_stamps)]
        if not any(count for _, count in found):
            break
        for kind, count in found:
            if count:
                removed[kind] = removed.get(kind, 0) + count
        text = tidy(text)
    return text, removed


def tidy(text: str) -> str:
    """White space collapsed to single spaces and at most one empty line; soft hyphens become hyphens, control characters spaces."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\xad", "-")
    text = re.sub(r"[^\S\n ]+|[\x00-\x08\x0e-\x1f\x7f\u200b\ufeff]+", " ", text)
    text = re.sub(r" +\n *|\n +", "\n", re.sub(r" {2,}", " ", text))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


@cache
def rules() -> dict:
    """scrub.yaml with its patterns compiled."""
    raw = yaml.safe_load(Path(__file__).with_name("scrub.yaml").read_text(encoding="utf-8"))
    for rule in raw["patterns"]:
        pattern = rule["pattern"]
        for name, fragment in raw["fragments"].items():
            pattern = pattern.replace("{" + name + "}", fragment)
        rule["compiled"] = re.compile(pattern, re.IGNORECASE if rule.get("flags") == "i" else 0)
    raw["stamp"]["finding"] = re.compile(raw["stamp"]["finding"])
    raw["form"]["must"] = re.compile(raw["form"]["must"], re.IGNORECASE)
    raw["form"]["phrases"] = re.compile(raw["form"]["phrases"], re.IGNORECASE)
    return raw


def remove_patterns(text: str) -> tuple[str, list[tuple[str, int]]]:
    """The text without matches of the patterns, each replaced by a space, and (kind, count) of every pattern that was tried."""
    found = []
    for rule in rules()["patterns"]:
        if "needs" in rule:
            lower = text.lower()  # anew, because an earlier pattern has often taken the reason away
            if not any(needed in lower for needed in rule["needs"]):
                continue
        text, count = rule["compiled"].subn(" ", text)
        found.append((rule["kind"], count))
    return text, found


def remove_form(text: str) -> tuple[str, int]:
    """The text without the discrepancy form: from its first to its last phrase, where several stand close together."""
    form = rules()["form"]
    if not form["must"].search(text):
        return text, 0
    groups = []
    for match in form["phrases"].finditer(text):
        if groups and match.start() - groups[-1][-1][1] <= form["max_gap"]:
            groups[-1].append(match.span())
        else:
            groups.append([match.span()])
    removed = 0
    for group in reversed(groups):
        start, end = group[0][0], group[-1][1]
        if len(group) >= form["min_hits"] and form["must"].search(text[start:end]):
            text = text[:start] + "\n" + text[end:]
            removed += 1
    return text, removed


def remove_stamp(text: str) -> tuple[str, int]:
    """The text without the check stamp: lines that resemble its phrases, then damaged remains on the lines around them."""
    stamp = rules()["stamp"]
    lines = text.split("\n")
    touched, removed = [], 0
    for number, line in enumerate(lines):
        lower = line.lower()
        if not any(cue in lower for cue in stamp["cues"]):
            continue
        for phrase, score in stamp["phrases"].items():
            while span := find_phrase(phrase, line, score):
                line = cut(line, *span)
                removed += 1
                touched.append(number)
        lines[number] = line
    near = {number + offset for number in touched for offset in range(-NEARBY_LINES, NEARBY_LINES + 1)}
    for number in sorted(near & set(range(len(lines)))):
        for phrase in [*stamp["nearby"], *stamp["phrases"]]:
            line = lines[number].strip()
            if not line or len(line) > 2 * len(phrase) + 10 or stamp["finding"].search(line):
                continue
            if fuzz.ratio(phrase, line.lower()) >= stamp["nearby_score"]:
                lines[number] = ""
                removed += 1
    return "\n".join(lines), removed


def find_phrase(phrase: str, line: str, score: float) -> tuple[int, int] | None:
    """Where the phrase stands in the line, misread letters allowed; None when nothing is as similar as `score`."""
    if len(line) < 0.7 * len(phrase):
        return None
    if len(line) <= len(phrase):
        return (0, len(line)) if fuzz.ratio(phrase, line.lower()) >= score else None
    found = fuzz.partial_ratio_alignment(phrase, line.lower(), score_cutoff=score)
    return (found.dest_start, found.dest_end) if found else None


def cut(line: str, start: int, end: int) -> str:
    """The line without the phrase, and without the few characters behind it unless they look like a finding."""
    head, tail = line[:start], line[end:]
    if len(tail) <= 30 and not rules()["stamp"]["finding"].search(tail):
        tail = ""
    return head + " " + tail if tail else head
