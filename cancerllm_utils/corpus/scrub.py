"""Takes out of a note what names the patient's sample or gives its label away; everything clinical stays.

Removed: sample barcodes and UUIDs, bar-code noise, the tissue bank's check stamp and discrepancy form, "Redacted" marks, printed ICD,
ICD-O and SNOMED codes. Kept: sizes, T and N categories, grades, block labels. This is no de-identification: names and dates that a
hospital left in a report are not looked for. How well it works is measured in `scrub_check`.
"""

import re
from functools import cache, partial
from pathlib import Path

import yaml
from rapidfuzz import fuzz

MAX_ROUNDS = 10  # every round only shortens the text, so that it ends; a note needs two or three
NEARBY_LINES = 4  # a stamp has nine lines
TAKEN = "\0"  # stands for a letter of a phrase that was found
CONTROL = re.compile("[\\t\\x0b\\x0c\\x85\\xa0\\u1680\\u2000-\\u200b\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff\\x00-\\x08\\x0e-\\x1f\\x7f]+")
PRINTED = re.compile(r"[^\s\x00-\x08\x0e-\x1f\x7f\u200b\ufeff]")  # what `tidy` leaves where it is


def scrub(text: str) -> tuple[str, dict[str, int]]:
    """The note without identifiers and printed codes, and how many pieces were removed by kind.

    Kinds: uuid, barcode, barcode_noise, redaction_mark, stamp, form, icd, snomed (absent when 0). Line breaks stay, other white space
    is collapsed. scrub(scrub(text)[0]) changes nothing more.
    """
    text, pieces = run(text)
    removed = {}
    for rule in pieces:
        removed[rule["kind"]] = removed.get(rule["kind"], 0) + 1
    return text, removed


def removed_spans(text: str) -> list[dict]:
    """Where `scrub` removes something: a list of {start, end, kind, rule}, in the order of the text, without overlaps.

    start and end count characters of `text` as given. A span holds no character that stays, except white space; collapsed white space
    alone is no span. rule is the rule's name in scrub.yaml, or "stamp" or "form".
    """
    rule_at = {}
    run(text, rule_at)
    spans = []
    for position in sorted(rule_at):
        rule = rule_at[position]
        if spans and spans[-1]["rule"] == rule["name"] and not text[spans[-1]["end"] : position].strip():
            spans[-1]["end"] = position + 1
        else:
            spans.append({"start": position, "end": position + 1, "kind": rule["kind"], "rule": rule["name"]})
    return spans


def run(text: str, rule_at: dict | None = None) -> tuple[str, list[dict]]:
    """The scrubbed text and the rule of every piece; with a dict rule_at, the rule of every removed character's position is put there."""
    origin = None if rule_at is None else list(range(len(text)))  # position in the given text of every character that is left
    text, origin = tidy_with(text, origin)
    pieces = []
    for _ in range(MAX_ROUNDS):
        n_before = len(pieces)
        lower = text.lower()
        for rule in rules()["in_order"]:
            spans = rule["find"](text, lower)
            if not spans:
                continue
            pieces += [rule] * len(spans)
            if origin is not None:
                rule_at.update({at: rule for start, end in spans for at in origin[start:end] if at >= 0})
                origin = without(origin, spans, [-1])
            text = "".join(without(text, spans, rule["filler"]))
            lower = text.lower()
        if len(pieces) == n_before:
            break
        text, origin = tidy_with(text, origin)
    return text, pieces


def without(sequence, spans: list[tuple[int, int]], filler) -> list:
    """The characters (or their positions) outside the spans, which are in order, with the filler in place of each span."""
    kept, last = [], 0
    for start, end in spans:
        kept += sequence[last:start]
        kept += filler
        last = end
    kept += sequence[last:]
    return kept


def tidy(text: str) -> str:
    """White space collapsed to single spaces and at most one empty line; soft hyphens become hyphens, control characters spaces."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\xad", "-")
    text = re.sub("  +", " ", CONTROL.sub(" ", text))
    text = "\n".join([line.strip(" ") for line in text.split("\n")])
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def tidy_with(text: str, origin: list[int] | None) -> tuple[str, list[int] | None]:
    """`tidy`, and the positions moved along: it only changes white space, so that the printed characters stay in their order."""
    clean = tidy(text)
    if origin is None:
        return clean, None
    printed = (at for at, character in zip(origin, text, strict=True) if PRINTED.match(character))
    return clean, [-1 if character.isspace() else next(printed) for character in clean]


@cache
def rules() -> dict:
    """scrub.yaml with its patterns compiled; `in_order` lists all rules, each with find(text, text in lower case) -> list of (start, end)."""
    raw = yaml.safe_load(Path(__file__).with_name("scrub.yaml").read_text(encoding="utf-8"))
    raw["stamp"]["finding"] = re.compile(raw["stamp"]["finding"])
    raw["stamp"]["medical"] = re.compile(raw["stamp"]["medical"])
    raw["form"]["must"] = re.compile(raw["form"]["must"], re.IGNORECASE)
    raw["form"]["phrases"] = re.compile(raw["form"]["phrases"], re.IGNORECASE)
    raw["in_order"] = [{"name": "form", "kind": "form", "find": find_forms, "filler": "\n"}]
    for rule in raw["patterns"]:
        pattern = rule["pattern"]
        for name, fragment in raw["fragments"].items():
            pattern = pattern.replace("{" + name + "}", fragment)
        compiled = re.compile(pattern, re.IGNORECASE if rule.get("flags") == "i" else 0)
        screen = re.compile(rule["screen"]) if "screen" in rule else None
        find = partial(find_pattern, compiled, rule.get("needs", []), screen)
        if rule["kind"] == "stamp":  # the whole stamp before its single words, and behind the noise that stands on its lines
            raw["in_order"].append({"name": "stamp", "kind": "stamp", "find": find_stamps, "filler": " "})
        raw["in_order"].append({"name": rule["name"], "kind": rule["kind"], "find": find, "filler": " "})
    return raw


def find_pattern(pattern: re.Pattern, needs: list[str], screen: re.Pattern | None, text: str, lower: str) -> list[tuple[int, int]]:
    """Matches of a pattern; none where no needed substring or no match of the screen occurs, which is cheaper to look for."""
    if needs and not any(needed in lower for needed in needs):
        return []
    if screen and not screen.search(text):
        return []
    return [match.span() for match in pattern.finditer(text)]


def find_forms(text: str, lower: str) -> list[tuple[int, int]]:
    """The discrepancy form: from its first to its last phrase, where several stand close together."""
    form = rules()["form"]
    if not any(cue in lower for cue in form["cues"]) or not form["must"].search(text):
        return []
    groups = []
    for match in form["phrases"].finditer(text):
        if groups and match.start() - groups[-1][-1][1] <= form["max_gap"]:
            groups[-1].append(match.span())
        else:
            groups.append([match.span()])
    spans = [(group[0][0], group[-1][1]) for group in groups if len(group) >= form["min_hits"]]
    return [(start, end) for start, end in spans if form["must"].search(text[start:end])]


def find_stamps(text: str, lower: str) -> list[tuple[int, int]]:
    """The check stamp: stretches that resemble its phrases, and where three phrases stand together, the damaged remains among them."""
    stamp = rules()["stamp"]
    if not any(cue in lower for cue in stamp["cues"]):
        return []
    lower = lower if len(lower) == len(text) else text  # a letter whose lower case is two characters would move the positions
    lines = [match.span() for match in re.finditer(r"[^\n]+", text)]
    hits = [hit for start, end in lines for hit in find_phrases(text, lower, start, end)]
    spans = [(start, end) for start, end, _ in hits]
    if not any(cue in lower for cue in stamp["block_cues"]):
        return merged(spans)

    flat = lower.replace("\n", " ")
    for phrase in stamp["phrases"]:
        found = fuzz.partial_ratio_alignment(phrase, flat, score_cutoff=stamp["block_score"])
        if found:
            start, end = whole_words(flat, found.dest_start, found.dest_end)
            if not stamp["finding"].search(text[start:end]) and not stamp["medical"].search(flat[start:end]):
                hits.append((start, end, phrase))
    sure, block = set(spans), []
    for hit in [*sorted(hits), (len(text) + 10**6, 0, "")]:
        if block and hit[0] - max(end for _, end, _ in block) > stamp["block_gap"]:
            places = merged([(start, end) for start, end, _ in block])
            n_sure = sum((start, end) in sure for start, end, _ in block)
            if len(places) + n_sure >= stamp["block_phrases"] and any("discr" in phrase for _, _, phrase in block):
                spans += block_spans(text, lower, lines, places[0][0], places[-1][1])
            elif n_sure:
                spans += nearby_lines(text, lower, lines, places[0][0], places[-1][1], stamp["nearby_score"])
            block = []
        block.append(hit)
    return merged(spans)


def whole_words(flat: str, start: int, end: int) -> tuple[int, int]:
    """The stretch without the last one to three letters of the word before it or the first of the word behind it."""
    if start and flat[start - 1].isalnum() and " " in flat[start : start + 4]:
        start += flat[start : start + 4].index(" ") + 1
    if end < len(flat) and flat[end].isalnum() and " " in flat[end - 4 : end]:
        end = end - 4 + flat[end - 4 : end].rindex(" ")
    return start, end


def find_phrases(text: str, lower: str, start: int, end: int) -> list[tuple[int, int, str]]:
    """(start, end, phrase) of the stamp's phrases in one line, misread letters allowed, with up to 30 characters of a phrase's own tail."""
    stamp = rules()["stamp"]
    line = lower[start:end]
    if not any(cue in line for cue in stamp["cues"]):
        return []
    hits = []
    for phrase, score in stamp["phrases"].items():
        while found := find_phrase(phrase, line, score):
            at, to = found
            if stamp["medical"].search(line, max(0, at - 25), to + 12) or not line[at:to].strip(TAKEN):
                break
            tail = text[start + to : end]
            if len(tail) <= 30 and not stamp["finding"].search(tail):
                to = len(line)
            hits.append((start + at, start + to, phrase))
            line = line[:at] + TAKEN * (to - at) + line[to:]
    return hits


def block_spans(text: str, lower: str, lines: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """What belongs to a stamp between its first and its last phrase, and right around them: everything short without a finding."""
    stamp = rules()["stamp"]
    spans = nearby_lines(text, lower, lines, start, end, stamp["block_nearby_score"])
    touched = [(at, to) for at, to in lines if at < end and to > start]
    for at, to in touched:
        at, to = max(at, start), min(to, end)
        if is_remains(text[at:to], stamp["block_gap"] * stamp["block_phrases"]):
            spans.append((at, to))
    if is_remains(text[end : touched[-1][1]], 60):
        spans.append((end, touched[-1][1]))
    before = lower[max(touched[0][0], start - 12) : start]
    word = re.search(r"\S+\s*$", before)
    if word and (resembles(word[0], stamp["block_nearby_score"]) or (len(before) < 12 and is_remains(before, 12))):
        spans.append((start - len(word[0]), start))
    return spans


def nearby_lines(text: str, lower: str, lines: list[tuple[int, int]], start: int, end: int, score: float) -> list[tuple[int, int]]:
    """Lines right above and below a stamp that look like one of its lines; at a whole block also noise on the two next lines."""
    block = score < rules()["stamp"]["nearby_score"]
    first = next(number for number, (_, to) in enumerate(lines) if to > start)
    last = next(number for number in reversed(range(len(lines))) if lines[number][0] < end)
    spans = []
    for number in range(max(0, first - NEARBY_LINES), min(len(lines), last + NEARBY_LINES + 1)):
        at, to = lines[number]
        line = text[at:to].strip()
        adjacent = block and (first - 2 <= number < first or last < number <= last + 2)
        if is_remains(line, 45) and (resembles(lower[at:to], score) or (adjacent and is_noise(line))):
            spans.append((at, to))
    return spans


def is_remains(piece: str, length: int) -> bool:
    """Whether a piece is short enough, and without anything that looks like a finding, to be a damaged part of the stamp."""
    stamp = rules()["stamp"]
    return len(piece.strip()) <= length and not stamp["finding"].search(piece) and not stamp["medical"].search(piece.lower())


def is_noise(line: str) -> bool:
    """Whether a line of some length holds no readable word, or a fifth of it is signs that no text has so many of."""
    printed = "".join(line.split())
    signs = sum(not (character.isalnum() or character in ".,:;()-") for character in printed)
    return len(printed) > 5 and (signs >= 0.2 * len(printed) or not re.search(r"[A-Za-z]{4}|\d", line))


def resembles(piece: str, score: float) -> bool:
    """Whether a piece in lower case is as similar to a line of the stamp; to a line of one word it must be more so."""
    stamp = rules()["stamp"]
    piece = piece.strip(" .,:;-_^")
    phrases = [*stamp["nearby"], *stamp["phrases"]]
    return any(fuzz.ratio(phrase, piece) >= (max(score, stamp["word_score"]) if len(phrase) < 12 else score) for phrase in phrases)


def merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans in order, overlapping ones as one."""
    result = []
    for start, end in sorted(spans):
        if result and start < result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        elif end > start:
            result.append((start, end))
    return result


def find_phrase(phrase: str, line: str, score: float) -> tuple[int, int] | None:
    """Where the phrase stands in the line, misread letters allowed; None when nothing is as similar as `score`."""
    if len(line) < 0.7 * len(phrase):
        return None
    if len(line) <= len(phrase):
        return (0, len(line)) if fuzz.ratio(phrase, line.lower()) >= score else None
    found = fuzz.partial_ratio_alignment(phrase, line.lower(), score_cutoff=score)
    return (found.dest_start, found.dest_end) if found else None
