"""From what a model wrote to an answer of the field, or to "unparsed": tolerant of case and spacing, never a guess."""

import re
from functools import cache
from pathlib import Path

import yaml

from .task import NOT_STATED, UNPARSED


@cache
def _rules() -> dict:
    """parse.yaml with its patterns compiled."""
    raw = yaml.safe_load((Path(__file__).with_suffix(".yaml")).read_text(encoding="utf-8"))
    compiled = {field: [(re.compile(pattern, re.IGNORECASE), template) for pattern, template in pairs] for field, pairs in raw["fields"].items()}
    for field, others in raw["also"].items():
        compiled[field] = compiled[field] + [pair for other in others for pair in compiled[other]]
    return {
        "lead_in": re.compile("(?:" + "|".join(raw["lead_ins"]) + ")", re.IGNORECASE),
        "not_stated": {_fold(text) for text in raw["not_stated"]},
        "fields": compiled,
        "open": {field: re.compile(pattern, re.IGNORECASE) for field, pattern in raw["open"].items()},
    }


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()


def parse(raw: str, task: str, field: str, allowed: list[str] | None) -> str:
    """The answer in a raw generation.

    `allowed` holds the field's values (FIELD_VALUES); empty or None makes the field open. `task` decides nothing today: every task
    words its answers alike; it stands here because the contract between the rooms names it.
    Returns one of `allowed`, the cleaned text of an open field, "not stated" or "unparsed". Only the first non-blank line counts, and
    it must be the answer as a whole: two values, or a value inside a sentence, are "unparsed".
    """
    line = next((line for line in raw.splitlines() if line.strip()), "")
    line = " ".join(line.split())
    lead_in = _rules()["lead_in"].match(line)
    line = line[lead_in.end():] if lead_in else line
    line = line.strip(" \t\"'`*.;:")
    if not line:
        return UNPARSED
    if _fold(line) in _rules()["not_stated"]:
        return NOT_STATED
    spelled = {_fold(value): value for value in allowed or []}
    if _fold(line) in spelled:
        return spelled[_fold(line)]
    for pattern, template in _rules()["fields"].get(field, []):
        match = pattern.fullmatch(line)
        value = template.format(**match.groupdict()) if match else ""
        if value and (not allowed or _fold(value) in spelled):
            return spelled.get(_fold(value), value)
    form = _rules()["open"].get(field, _rules()["open"]["any"])
    return line if not allowed and form.fullmatch(line) else UNPARSED
