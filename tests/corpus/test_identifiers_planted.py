"""The held-out parts of the planted identifiers: complete, exactly marked, and with words of their own."""

import random
import re

import pytest

from cancerllm_utils.corpus import identifiers_planted
from cancerllm_utils.corpus.identifiers_planted import FINAL, KINDS, fill, final, halves, planted

NAMED = ["given", "female", "male", "family", "second", "particled", "nick", "place", "saint", "host", "building", "house"]


def own_words(words: dict) -> set[str]:
    """Names, places and streets of one part, without case."""
    keys = [key for key in words if key in NAMED or key.startswith(("street", "town"))]
    return {str(value).casefold() for key in keys for value in words[key]}


@pytest.fixture(scope="module", params=FINAL)
def part(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def notes(part) -> list[dict]:
    return planted(200, seed=3, half=part)


def others(part: str) -> dict[str, dict]:
    """The words of every other part, by its name."""
    return halves() | {name: final(name) for name in FINAL if name != part}


def test_at_least_200_of_every_kind(notes):
    made = [kind for note in notes for kind, _, _ in note["spans"]]
    assert {kind: made.count(kind) >= 200 for kind in KINDS} == dict.fromkeys(KINDS, True)


def test_every_kind_of_the_other_parts_is_present_with_many_carriers(part):
    assert all(set(words["carriers"]) == set(final(part)["carriers"]) for words in others(part).values())
    assert all(len(set(carriers)) >= 12 for carriers in final(part)["carriers"].values())


def test_many_shapes_and_decoys(part):
    shapes = [key for key in final(part) if key.endswith(("_forms", "_shapes"))]
    assert len(shapes) == len(KINDS) and all(len(set(final(part)[key])) >= 10 for key in shapes)
    assert len(set(final(part)["decoys"])) >= 30


def test_spans_are_the_planted_values(part, monkeypatch):
    values = []
    make = identifiers_planted.make
    monkeypatch.setattr(identifiers_planted, "make", lambda *given: values.append(make(*given)) or values[-1])
    for kind, carriers in final(part)["carriers"].items():
        for number, carrier in enumerate(carriers):
            values.clear()
            line, spans = fill(carrier, final(part), random.Random(number))
            assert [line[start:end] for _, start, end in spans] == values
            assert kind in [found for found, _, _ in spans]


def test_spans_in_the_notes_hold_whole_values(notes):
    for note in notes:
        for kind, start, end in note["spans"]:
            value = note["text"][start:end]
            assert value and value == value.strip() and not re.search(r"[{}<>#&]|\n", value)
            assert not (note["text"][start - 1 : start].isalnum() or note["text"][end : end + 1].isdigit()), (kind, value)
            if kind == "email":
                assert re.fullmatch(r"[\w.-]+@[\w-]+(?:\.[\w-]+)+", value)


def test_no_word_is_shared_with_another_part(part):
    assert len(own_words(final(part))) > 200
    assert {name: own_words(final(part)) & own_words(words) for name, words in others(part).items()} == {name: set() for name in others(part)}


def test_no_institution_or_place_of_another_part_is_made(part, notes):
    text = "\n".join(note["text"][start:end] for note in notes for kind, start, end in note["spans"] if kind in ("institution", "address")).casefold()
    theirs = {str(place).casefold() for words in others(part).values() for key in ("place", "street") for place in words.get(key, [])}
    assert [place for place in sorted(theirs) if re.search(rf"\b{re.escape(place)}\b", text)] == []
