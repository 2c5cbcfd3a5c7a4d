"""Copies and near copies: hand-computed similarities, planted pairs, and results that do not depend on the order of the rows."""

import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cancerllm_utils.corpus import duplicates
from cancerllm_utils.corpus.screening import apply_policy, fingerprint, flow_steps, near_duplicates, signatures

VOCABULARY = ["".join(random.Random(number).choices("abcdeilmnorstu", k=2 + number % 9)) for number in range(6000)]


def invented(rng: random.Random, n_words: int = 200) -> str:
    return " ".join(rng.choices(VOCABULARY, k=n_words))


def with_changes(text: str, rng: random.Random, changes: int) -> str:
    """The text with some words, evenly spread, replaced by words that it does not hold."""
    words = text.split()
    for number in range(changes):
        words[(2 * number + 1) * len(words) // (2 * changes)] = f"new{rng.randrange(10**6)}"
    return " ".join(words)


def found_in(texts: dict, threshold: float = 0.8) -> pd.DataFrame:
    ids, values = list(texts), list(texts.values())
    return near_duplicates(ids, signatures(values), lambda rows: [values[row] for row in rows], threshold)


def jaccard(first: str, second: str) -> float:
    return duplicates.jaccards(lambda rows: [(first, second)[row] for row in rows], np.array([[0, 1]]))[0]


def true_jaccard(first: str, second: str) -> float:
    """The same with sets of words, written out."""
    a, b = (set(zip(words, words[1:], words[2:])) for words in (first.split(), second.split()))
    return len(a & b) / len(a | b)


def test_hand_computed_jaccard_of_word_3_grams():
    # 3-grams: (no residual tumor)(residual tumor is)(tumor is seen) and (no residual tumor)(residual tumor was)(tumor was seen): 1 of 5
    assert jaccard("No residual tumor is seen.", "NO residual tumor\nwas seen") == pytest.approx(1 / 5)
    # One word after another four: 3 shared of 4.
    assert jaccard("one two three four five", "one two three four five six") == pytest.approx(3 / 4)
    assert jaccard("one two", "one two three") == 0  # two words are one shingle of their own
    assert jaccard("One, two", "one two") == 1
    # A repeated 3-gram counts once: {aaa} and {aaa, aab}
    assert jaccard("a a a a", "a a a b") == pytest.approx(1 / 2)


def test_jaccard_agrees_with_sets_of_words():
    rng = random.Random(5)
    for changes in (1, 4, 9, 30):
        text = invented(rng)
        other = with_changes(text, rng, changes)
        assert jaccard(text, other) == pytest.approx(true_jaccard(text, other))


def test_words_are_hashed_alike_wherever_they_stand():
    words, offsets = duplicates.word_hashes([duplicates.normalise(text) for text in ("node, Node", "", "no tumor; nODe", "...", "tumor")])
    assert offsets.tolist() == [0, 2, 2, 5, 5, 6]
    assert words[0] == words[1] == words[4] and words[3] == words[5] and len(set(words.tolist())) == 3


def test_a_million_words_have_a_million_hashes():
    words = [f"{number:x}" for number in range(10**6)]
    hashes = np.concatenate([duplicates.word_hashes([" ".join(words[i : i + 10_000]).encode()])[0] for i in range(0, 10**6, 10_000)])
    assert len(np.unique(hashes)) == len(words)


def test_grams_do_not_depend_on_the_chunk_and_long_notes_are_read_whole():
    rng = random.Random(6)
    texts = [duplicates.normalise(invented(rng, n)) for n in (3, 0, 1, 250_000, 2, 40)]  # one longer than two chunks
    hashes, offsets = duplicates.grams(texts, 3, short=True)
    assert np.diff(offsets).tolist() == [1, 0, 1, 249_998, 1, 38]
    alone = [duplicates.grams([text], 3, short=True)[0] for text in texts]
    assert (np.concatenate(alone) == hashes).all()
    assert np.diff(duplicates.grams(texts, 13)[1]).tolist() == [0, 0, 0, 249_988, 0, 28]


def test_fingerprint_ignores_layout_only():
    assert fingerprint("pT2, N0\n(0/12)") == fingerprint("PT2 n0 012") != fingerprint("pT3 N0 012")
    assert fingerprint("Größe – 3 cm") == fingerprint("größe 3 CM") != fingerprint("gr e 3 cm")


def test_exact_near_and_neither():
    rng = random.Random(1)
    text, other = invented(rng), invented(rng)
    texts = {"c": text, "a": text.upper().replace(" ", "\n"), "d": with_changes(text, rng, 3), "b": other, "e": with_changes(other, rng, 30)}
    texts |= {"f": "", "g": "--"}
    found = found_in(texts)
    assert found["note_id"].tolist() == ["a", "c", "d"] and found["kept"].tolist() == [True, False, False]
    assert found["kind"].tolist() == ["exact", "exact", "near"] and found["copy_of"].tolist() == ["a", "a", "d"]
    assert found["jaccard"].tolist() == pytest.approx([1, 1, true_jaccard(text, texts["d"])])


def test_short_notes_have_copies_too():
    found = found_in({"1": "No change.", "2": "no  change", "3": "no", "4": "no", "5": "no change today", "6": "stable"})
    assert found.groupby("group")["note_id"].agg(list).tolist() == [["1", "2"], ["3", "4"]]


def test_a_group_is_a_connected_component():
    rng = random.Random(2)
    first = invented(rng)
    second = with_changes(first, rng, 6)
    third = second.split()
    third[5], third[50], third[100], third[150], third[190] = ["va", "vb", "vc", "vd", "ve"]
    third = " ".join(third)
    assert true_jaccard(first, second) >= 0.8 and true_jaccard(second, third) >= 0.8 > true_jaccard(first, third)
    found = found_in({"a": first, "b": second, "c": third})
    assert found["group"].tolist() == [0, 0, 0] and found["jaccard"].iloc[2] == pytest.approx(true_jaccard(first, third))


def test_recall_at_the_threshold_and_precision():
    """2,000 pairs just above Jaccard 0.8: the bands promise 99.15 %; 1,000 pairs just below it: none may be found."""
    assert 1 - (1 - 0.8**duplicates.ROWS) ** duplicates.BANDS >= 0.99
    rng, texts, wanted, not_wanted = random.Random(3), {}, [], []
    for number in range(3000):
        text = invented(rng, 110 if number < 2000 else 108)  # 108 3-grams less 12 of 120 together: 0.8; with 106 it is 0.797
        other = with_changes(text, rng, 4)
        texts[f"{number:04}a"], texts[f"{number:04}b"] = text, other
        (wanted if number < 2000 else not_wanted).append(true_jaccard(text, other))
    assert min(wanted) >= 0.8 == np.median(wanted) and 0.79 < max(not_wanted) < 0.8
    found = found_in(texts)
    assert (found["jaccard"] >= 0.8).all() and found["note_id"].max() < "2000"
    pairs = found.groupby("group")["note_id"].agg(list)
    assert all(a[:4] == b[:4] for a, b in pairs)
    assert len(pairs) >= 0.99 * len(wanted)


def test_boilerplate_notes_cost_no_quadratic_number_of_pairs():
    """50,000 identical notes, and 5,000 that differ in a number: every one is found, and few pairs are compared."""
    rng = random.Random(4)
    form = invented(rng, 120)
    texts = ["Follow-up as planned."] * 50_000 + [f"{form} {number}" for number in range(5000)]
    asked = []

    def texts_of(rows):
        asked.append(len(rows))
        return [texts[row] for row in rows]

    found = near_duplicates([f"{number:06}" for number in range(len(texts))], signatures(texts), texts_of)
    assert found.groupby("group").size().tolist() == [50_000, 5000]
    assert sum(asked) < 5 * 5000


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_groups_do_not_depend_on_the_order_of_the_rows(rng, choices):
    base = [invented(random.Random(number), 30) for number in range(6)]
    texts = {f"n{number}": with_changes(base[choice], random.Random(number), number % 2) for number, choice in enumerate(choices)}
    shuffled = dict(rng.sample(list(texts.items()), len(texts)))
    pd.testing.assert_frame_equal(found_in(texts), found_in(shuffled))


# ---------------------------------------------------------------- policy


def cohort(rows: list[tuple[str, str, str]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    notes = pd.DataFrame(rows, columns=["note_id", "patient_id", "text"])
    return notes, found_in(dict(zip(notes["note_id"], notes["text"])))


def test_policy_within_and_between_patients():
    rng = random.Random(7)
    text, letter = invented(rng), "You missed your visit."
    notes, found = cohort([
        ("n1", "P1", text), ("n2", "P1", text.upper()), ("n3", "P1", with_changes(text, rng, 2)), ("n4", "P2", text), ("n5", "P2", invented(rng)),
        *[(f"m{number}", f"P{number}", letter) for number in range(1, 7)],
    ])  # fmt: skip
    kept, counts, links = apply_policy(notes, found, "keep_one")
    assert kept == ["n1", "n4", "n5", "m1"] and links == [("P1", "P2")]
    assert dict(zip(counts["reason"], counts["dropped"])) == {
        "without all but one of each form letter": 5, "without exact copies within a patient": 1, "without near copies within a patient": 1,
        "copies between patients, kept in one split": 0,
    }  # fmt: skip
    steps = flow_steps(notes, kept, counts)
    assert [(step["n_reports"], step["n_patients"], step["dropped"]) for step in steps] == [(6, 2, 5), (5, 2, 1), (4, 2, 1), (4, 2, 0)]

    kept, counts, links = apply_policy(notes, found, "keep_together")
    assert kept == notes["note_id"].tolist() and links == [("P1", f"P{number}") for number in range(2, 7)]
    assert flow_steps(notes, kept, counts)[0]["dropped"] == 0


def test_the_policy_applied_twice_changes_nothing_more():
    rng = random.Random(8)
    base = [invented(rng, 40) for _ in range(10)]
    rows = [(f"n{number:03}", f"P{rng.randrange(20)}", with_changes(rng.choice(base), rng, rng.randrange(3))) for number in range(120)]
    notes, found = cohort(rows)
    kept, counts, links = apply_policy(notes, found, "keep_one")
    assert 0 < counts["dropped"].sum() == len(notes) - len(kept) and links
    left = [row for row in rows if row[0] in set(kept)]
    again, counts, links_again = apply_policy(*cohort(left), "keep_one")
    assert again == kept and counts["dropped"].sum() == 0 and set(links_again) <= {tuple(sorted(pair)) for pair in every_pair(links)}


def every_pair(links: list) -> set:
    """All pairs of patients that the links keep together."""
    together = {}
    for a, b in links:
        joined = together.setdefault(a, {a}) | together.setdefault(b, {b})
        together.update(dict.fromkeys(joined, joined))
    return {(a, b) for joined in together.values() for a in joined for b in joined if a != b}


def test_no_copies_no_table():
    notes, found = cohort([("a", "P1", "one note of this patient"), ("b", "P1", "and quite another one")])
    assert found.empty and list(found.columns) == ["note_id", "group", "kept", "jaccard", "kind", "copy_of"]
    kept, counts, links = apply_policy(notes, found, "keep_one")
    assert kept == ["a", "b"] and not links and flow_steps(notes, kept, counts) == [] and counts["dropped"].sum() == 0
    assert found_in({}).empty
