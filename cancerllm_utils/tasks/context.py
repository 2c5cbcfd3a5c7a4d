"""Which sentences of a note a prompt carries: its head, then what BM25 finds for the question. The answer plays no part."""

import logging
import re
from functools import cache

import bm25s
from rapidfuzz import fuzz

logging.getLogger("bm25s").setLevel(logging.WARNING)     # it logs a line per note at its own DEBUG level

# A unit ends at a line break or after . ; : ! ? before white space; "5.5 cm" and "pT2.N0" stay whole.
_UNIT_END = re.compile(r"\n+|(?<=[.;!?])\s+(?=[A-Z0-9(])")
_TERM = re.compile(r"[a-z]+|\d+")
_MIN_WORDS = 6       # OCR breaks lines anywhere: shorter pieces join the next, so that a label keeps its value
_MAX_WORDS = 30      # longer pieces (breast reports have no punctuation at all) are cut into windows
_WINDOW_WORDS = 25


def split_units(text: str) -> list[tuple[int, int]]:
    """Cuts a note into units of about a sentence.

    Returns (start, end) character spans in order; together they hold every non-blank character once.
    """
    cuts, position = [], 0
    for match in _UNIT_END.finditer(text):
        cuts.append((position, match.start()))
        position = match.end()
    cuts.append((position, len(text)))

    units: list[tuple[int, int]] = []
    open_words = 0                                    # words in the last unit while it may still grow
    for start, end in cuts:
        words = [(start + m.start(), start + m.end()) for m in re.finditer(r"\S+", text[start:end])]
        if not words:
            continue
        if units and open_words and open_words + len(words) <= _MAX_WORDS:
            units[-1] = (units[-1][0], words[-1][1])
            open_words += len(words)
        else:
            size = _WINDOW_WORDS if len(words) > _MAX_WORDS else len(words)
            units += [(words[i][0], words[min(i + size, len(words)) - 1][1]) for i in range(0, len(words), size)]
            open_words = len(words)
        if open_words >= _MIN_WORDS:
            open_words = 0
    return units


def terms(text: str) -> list[str]:
    """Lower-case search terms, letters and digits apart ("pT2aN0" -> pt 2 an 0), so a glued category is found by its letters."""
    return _TERM.findall(text.lower())


def count_tokens(texts: list[str], tokenizer) -> list[int]:
    """Number of tokens of each text, special tokens not counted."""
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []


def index_note(text: str, tokenizer) -> dict:
    """Everything about a note that does not depend on the question: units, their tokens and the BM25 index (None for a blank note)."""
    spans = split_units(text)
    units = [" ".join(text[start:end].split()) for start, end in spans]
    index = None
    corpus = [terms(unit) for unit in units]
    if any(corpus):
        index = bm25s.BM25()
        index.index(corpus, show_progress=False)
    return {"spans": spans, "units": units, "tokens": count_tokens([" " + unit for unit in units], tokenizer), "bm25": index}


def rank_units(note: dict, query: str) -> list[tuple[float, int]]:
    """(score, unit number) of the units that match the query, best first, ties in the note's order.

    Half of a unit's score is handed to the next one: a heading or label often stands on the line before its value.
    """
    known = [term for term in dict.fromkeys(terms(query)) if note["bm25"] is not None and term in note["bm25"].vocab_dict]
    if not known:
        return []
    scores = note["bm25"].get_scores(known)
    scores[1:] = scores[1:] + 0.5 * scores[:-1]
    return sorted(((float(score), number) for number, score in enumerate(scores) if score > 0), key=lambda pair: (-pair[0], pair[1]))


def select_units(note: dict, query: str, max_tokens: int, head_tokens: int) -> list[int]:
    """Numbers of the chosen units in the note's order: all if they fit, else the head, then the best matches that still fit.

    What does not match stays out even if there is room: filling up was tried and brought no more answers, only distractors.
    """
    if sum(note["tokens"]) <= max_tokens:
        return list(range(len(note["units"])))
    chosen, used = [], 0
    for number, tokens in enumerate(note["tokens"]):
        if used + tokens > min(head_tokens, max_tokens):
            break
        chosen.append(number)
        used += tokens
    matches = [number for _, number in rank_units(note, query)]
    for number in matches:
        if number not in chosen and used + note["tokens"][number] <= max_tokens:
            chosen.append(number)
            used += note["tokens"][number]
    return sorted(chosen or matches[:1] or [0])      # even a budget below one unit gets words to cut down to


def context_of(note: dict, numbers: list[int], max_tokens: int, tokenizer) -> str:
    """The chosen units as one line of at most `max_tokens` tokens, counted by the tokenizer itself and not by sums."""
    context = " ".join(note["units"][number] for number in numbers)
    while context and count_tokens([context], tokenizer)[0] > max_tokens:
        words = context.split(" ")
        context = " ".join(words[: min(len(words) - 1, int(len(words) * 0.95))])
    return context


def select_context(text: str, query: str, max_tokens: int, tokenizer, head_tokens: int = 0) -> str:
    """The part of a note that a prompt carries.

    Args: query, the field's search words; max_tokens, budget in the model's own tokens; head_tokens, how much of the note's beginning
    (specimen, diagnosis heading) is taken whatever the query says.
    Returns one line of text, at most `max_tokens` long, sentences in the note's order; the whole note where it fits.
    """
    assert max_tokens > 0, f"no room for a context: {max_tokens} tokens"
    note = index_note(text, tokenizer)
    return context_of(note, select_units(note, query, max_tokens, head_tokens), max_tokens, tokenizer)


def _spaced(words: str) -> str:
    """A pattern for words that OCR may have split ("gro ss descrip tion")."""
    return r"[ \t]?".join(re.escape(letter) for letter in words.replace(" ", "")) + r"(?![ \t]?[a-z])"


@cache
def _headings(kept: tuple[str, ...], dropped: tuple[str, ...]) -> re.Pattern:
    """Section headings at the start of a line or sentence, followed by a colon, a dash or the end of the line; longest first."""
    def either(names):
        return "|".join(_spaced(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"(?:^|(?<=[.;:]\s))[ \t]*(?:[A-Z0-9][.)][ \t]*)?(?:(?P<kept>{either(kept)})|(?P<dropped>{either(dropped)}))"
                      r"[ \t]*(?:\([^)\n]{0,40}\)[ \t]*)?(?::|-|$)", re.IGNORECASE | re.MULTILINE)


def findings_of(text: str, spec: dict) -> str:
    """The gross description of a report with the diagnosis masked ("" where nothing is left).

    Sections under a diagnosis-like heading go; where a report has a gross section, only that stays; then every unit that names a
    histology goes. `spec` is the task's YAML (headings_kept, headings_dropped, histology_stems, histology_words). One unit a line.
    """
    sections, kind, position = [], "", 0
    for match in _headings(tuple(spec["headings_kept"]), tuple(spec["headings_dropped"])).finditer(text):
        sections.append((kind, text[position:match.start()]))
        kind, position = ("kept" if match["kept"] else "dropped"), match.end()
    sections.append((kind, text[position:]))
    gross = [body for kind, body in sections if kind == "kept"]
    bodies = gross or [body for kind, body in sections if kind != "dropped"]
    units = [" ".join(body[start:end].split()) for body in bodies for start, end in split_units(body)]
    return "\n".join(unit for unit in units if not _names_histology(unit, spec))


def _names_histology(text: str, spec: dict) -> bool:
    """A histology stem among the letters alone (so a word split by OCR counts), or one of the abbreviations as a word."""
    letters = re.sub(r"[^a-z]", "", text.lower())
    return any(stem in letters for stem in spec["histology_stems"]) or not set(spec["histology_words"]).isdisjoint(re.findall(r"[a-z]+", text.lower()))


def names_histology(context: str, diagnosis: str, spec: dict) -> bool:
    """Whether a masked context still names the gold histology: any of its telling words, OCR damage included (rapidfuzz ratio >= 80).

    "capillary" counts as "papillary", so rather too much than too little. Used to measure the leak, never to choose the context.
    """
    telling = [word for word in diagnosis.lower().split(" of the ")[0].split() if _names_histology(word, spec)]
    letters = re.sub(r"[^a-z]", "", context.lower())
    words = [word for word in re.findall(r"[a-z]+", context.lower()) if len(word) >= 5]
    return any(word in letters for word in telling) or any(fuzz.ratio(word, other) >= 80 for word in telling for other in words)
