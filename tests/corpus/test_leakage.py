"""Leakage between the rings: counts by hand, 50 planted leaks of five kinds, none where there is none, and boilerplate named."""

import random

import numpy as np
import pandas as pd
import pytest

from cancerllm_utils.corpus import screening, synthetic
from cancerllm_utils.corpus.screening import BOILERPLATE_PATIENTS, check_leakage, drop_leaks, screen
from cancerllm_utils.corpus.splits import assign
from cancerllm_utils.errors import UserError

VOCABULARY = ["".join(random.Random(number).choices("abcdeilmnorstu", k=2 + number % 9)) for number in range(6000)]
RING_OF = ["train", "train", "train", "dev", "test", "external_site", "external"]


def invented(rng: random.Random, n_words: int) -> str:
    return " ".join(rng.choices(VOCABULARY, k=n_words))


def frames(rows: list[tuple]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """rows of (note_id, patient_id, ring, text); the institution is the ring's."""
    notes = pd.DataFrame(rows, columns=["note_id", "patient_id", "split", "text"])
    notes = notes.assign(site=notes["split"] + " ward", institution=notes["split"] + " hospital")
    return notes.drop(columns="split"), notes[["patient_id", "split"]].drop_duplicates()


def clean_cohort(rng: random.Random, n_patients: int = 140) -> list[tuple]:
    """Two notes a patient, 90 to 260 words, of which each holds one of the hospital's four forms of 20 to 35 words."""
    forms = [invented(rng, rng.randint(20, 35)) for _ in range(4)]
    rows = []
    for number in range(n_patients):
        for visit in (1, 2):
            text = f"{invented(rng, rng.randint(30, 100))}. {rng.choice(forms).capitalize()}. {invented(rng, rng.randint(30, 115))}."
            rows.append((f"P{number:03}-{visit}", f"P{number:03}", RING_OF[number % len(RING_OF)], text))
    return rows


def changed_words(text: str, rng: random.Random, share: float) -> str:
    words = text.split()
    for place in rng.sample(range(len(words)), round(share * len(words))):
        words[place] = f"altered{rng.randrange(10**6)}"
    return " ".join(words)


def other_layout(text: str, rng: random.Random) -> str:
    """Other case, line breaks and punctuation."""
    words = [rng.choice([str.upper, str.title, str.lower])(word) for word in text.replace(".", " ").split()]
    return "".join(word + rng.choice([" ", "\n", ", ", "; ", " - ", ".\r\n\r\n"]) for word in words)


def planted(rng: random.Random, rows: list[tuple]) -> tuple[list[tuple], dict]:
    """50 notes of held-out patients with a leak each, ten of a kind: {note_id: kinds that count as found}."""
    sources = rng.sample([row for row in rows if row[2] in ("train", "dev")], 50)
    added, expected = [], {}
    for number, (_, _, _, text) in enumerate(sources):
        kind, ring = number % 5, rng.choice(["test", "external_site", "external"])
        words = text.split()
        start = rng.randrange(len(words) - 60)
        leak = [
            text,
            changed_words(text, rng, 0.05),
            text,
            other_layout(text, rng),
            f"{invented(rng, rng.randint(40, 300))} {' '.join(words[start : start + 60])} {invented(rng, rng.randint(40, 300))}",
        ][kind]
        patient = f"X{number:03}"
        if kind == 2:  # one person under two ids: all that this patient has is a copy, and there is a note besides
            added.append((f"{patient}-0", patient, ring, invented(rng, 100)))
        added.append((f"{patient}-1", patient, ring, leak))
        expected[f"{patient}-1"] = [("exact",), ("near", "edited"), ("exact",), ("exact",), ("edited", "passage")][kind]
    return rows + added, expected


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_fifty_of_fifty_planted_leaks_and_no_false_alarm(seed):
    rng = random.Random(seed)
    rows = clean_cohort(rng)
    clean = screen(*frames(rows))
    assert clean["leaks"].empty
    check_leakage(clean)

    leaky, expected = planted(rng, rows)
    found = screen(*frames(leaky))["leaks"]
    kind_of = dict(zip(found["note_id"], found["kind"]))
    assert {note_id for note_id, kinds in expected.items() if kind_of.get(note_id) in kinds} == set(expected)
    assert set(kind_of) == set(expected), "a clean note was taken for a leak"
    assert len(found) == 50


def test_the_synthetic_cohort_is_clean():
    notes = synthetic.generate(80, 42)["notes"]
    screened = screen(notes, assign(notes, 42, [])[0])
    assert screened["leaks"].empty and 0 < screened["leakage"]["shared"].max() < 0.1
    check_leakage(screened)


def test_ten_edited_copies_of_short_notes_are_found_by_their_words():
    """30 words and one of them changed: Jaccard (28 - 3) / (28 + 3) = 0.81."""
    rng = random.Random(4)
    rows = [(f"T{number}-1", f"T{number}", "train", invented(rng, 30)) for number in range(10)]
    rows += [(f"E{number}-1", f"E{number}", "test", changed_words(rows[number][3], rng, 0.03)) for number in range(10)]
    leaks = screen(*frames(rows))["leaks"]
    assert sorted(leaks["note_id"]) == [f"E{number}-1" for number in range(10)] and set(leaks["kind"]) <= {"near", "edited"}


def test_hand_counted_13_grams():
    words = [f"word{number}" for number in range(40)]
    rows = [
        ("t", "T", "train", " ".join(words[:14])),  # 2 13-grams
        ("d", "D", "dev", " ".join(words[1:15])),  # 2, of which 1 in train
        ("e", "E", "test", " ".join(words[:16]) + "."),  # 4, of which 2 in train and 1 more in dev
        ("f", "F", "test", " ".join(words[:12])),  # too short for one
        ("g", "G", "external", " ".join(words[20:40])),  # 8 of its own
        ("h", "H", "external", " ".join([*words[2:15], *words[2:15]])),  # 14 of 26 words; the last equals the first
    ]
    table = screen(*frames(rows))["leakage"].set_index("ring")
    assert table["13-grams"].to_dict() == {"dev": 2, "test": 4, "external_site": 0, "external": 8 + 13}
    assert table.loc["dev", "shared"] == 1 / 2 and table.loc["test", "shared"] == 3 / 4 and table.loc["external", "shared"] == 1 / 21
    assert (table["shared"] == table["shared, no boilerplate"]).all()
    assert table.loc["test", "notes sharing any"] == table.loc["test", "notes sharing half"] == 1 / 2
    assert table.loc["external_site", "notes"] == 0 and table.loc["external_site", "shared"] == 0


def test_boilerplate_is_counted_named_and_left_out_of_the_second_rate():
    rng = random.Random(5)
    form = invented(rng, 70)
    rows = [(f"T{number}", f"T{number}", "train", f"{invented(rng, 40)} {form}") for number in range(BOILERPLATE_PATIENTS - 1)]
    own = f"{form.upper()} {invented(rng, 40)}"
    rows_with = [*rows, ("E1", "E1", "test", own)]
    screened = screen(*frames(rows_with), show_text=True)
    test = screened["leakage"].set_index("ring").loc["test"]
    assert test["13-grams"] == 98 and test["shared"] == 58 / 98 and test["shared, no boilerplate"] == 0 and screened["leaks"].empty
    named = screened["boilerplate"].set_index("institution")
    assert named["words"].tolist() == [70, 70] and named["text"].tolist() == [form, form]
    assert named.loc["train hospital", "patients with it"] == BOILERPLATE_PATIENTS - 1 and named.loc["test hospital", "patients with it"] == 1
    assert set(named["patients anywhere"]) == {BOILERPLATE_PATIENTS} and set(named["institutions with it"]) == {2}
    assert named.loc["test hospital", "boilerplate"] == 58 / 98
    assert "text" not in screen(*frames(rows_with))["boilerplate"]

    # In one patient fewer it is no boilerplate: the same note is an edited copy of a train note.
    rare = screen(*frames(rows_with[1:]))
    assert rare["leaks"]["kind"].tolist() == ["edited"] and rare["leaks"]["measure"].tolist() == [58] and rare["boilerplate"].empty


def test_many_notes_of_one_patient_are_no_boilerplate():
    rng = random.Random(6)
    form = invented(rng, 70)
    rows = [(f"T{number}", "T", "train", f"{invented(rng, 300)} {form}") for number in range(20)] + [("E1", "E1", "test", f"{form} {invented(rng, 300)}")]
    screened = screen(*frames(rows))
    assert screened["boilerplate"].empty and screened["leaks"][["kind", "measure"]].values.tolist() == [["passage", 58.0]]


def test_a_patient_in_two_rings_and_shared_institutions():
    rng = random.Random(7)
    notes, splits = frames([("a1", "A", "train", invented(rng, 60)), ("b1", "B", "external", invented(rng, 60)), ("b2", "B", "external", invented(rng, 60))])
    notes["institution"] = "one hospital"
    splits = pd.concat([splits, pd.DataFrame({"patient_id": ["B"], "split": ["dev"]})])
    screened = screen(notes, splits)
    assert set(screened["leaks"]["kind"]) == {"patient"}
    external = screened["leakage"].set_index("ring").loc["external"]
    assert external["patients shared"] == 1 and external["institutions shared"] == 1 and external["sites shared"] == 1
    with pytest.raises(UserError, match=r"external, patient: 2 notes \(b1, b2\)"):
        check_leakage(screened)


def test_the_run_stops_with_ids_and_without_text():
    rng = random.Random(8)
    rows = clean_cohort(rng, 70)
    copies = [(f"Z{number}", f"Z{number}", "external", rows[2 * number][3]) for number in (0, 1, 2, 7, 8, 9)]
    with pytest.raises(UserError) as stopped:
        check_leakage(screen(*frames(rows + copies)))
    message = str(stopped.value)
    assert "external, exact: 6 notes (Z0, Z1, Z2, Z7, Z8, ...)" in message and "Z9" not in message
    assert not any(word in message.split() for row in copies for word in row[3].split() if len(word) > 5)


def test_the_stated_rates_stop_the_run():
    rng = random.Random(9)
    rows = [("T1", "T1", "train", invented(rng, 2000)), ("E1", "E1", "test", invented(rng, 435))]
    rows[1] = (*rows[1][:3], " ".join(rows[0][3].split()[:65]) + " " + rows[1][3])  # 500 words: 488 13-grams, 53 of them shared
    screened = screen(*frames(rows))
    assert screened["leakage"].set_index("ring").loc["test", "shared"] == 53 / 488
    check_leakage(screened, max_shared_13grams=0.11, max_passages=1)
    with pytest.raises(UserError, match=r"test, 13-grams: 10.9% of them, more than max_shared_13grams = 10.0%"):
        check_leakage(screened, max_passages=1)
    with pytest.raises(UserError, match=r"test, passage: 1 note \(E1\), more than max_passages = 10.0% of its 1 notes"):
        check_leakage(screened, max_shared_13grams=0.11)


def test_leaking_notes_can_be_dropped_and_are_counted():
    rng = random.Random(10)
    leaky, expected = planted(rng, clean_cohort(rng))
    notes, splits = frames(leaky)
    kept, step = drop_leaks(notes, screen(notes, splits))
    assert step["dropped"] == len(notes) - len(kept) >= 40 and step["n_reports"] == len(kept) and step["n_patients"] == kept["patient_id"].nunique()
    assert set(notes["note_id"]) - set(kept["note_id"]) <= set(expected)
    again = screen(kept, splits)
    assert set(again["leaks"]["kind"]) <= {"passage"} and drop_leaks(kept, again)[1]["dropped"] == 0
    check_leakage(again, max_passages=1)


def test_order_of_rows_and_number_of_passes_do_not_matter(monkeypatch):
    rng = random.Random(11)
    leaky, _ = planted(rng, clean_cohort(rng, 70))
    notes, splits = frames(leaky)
    once = screen(notes, splits, show_text=True)
    again = screen(notes.sample(frac=1, random_state=1), splits.sample(frac=1, random_state=2), show_text=True)
    monkeypatch.setattr(screening, "GRAMS_AT_ONCE", 10_000)
    texts = notes["text"].tolist()
    parts = screen(notes.drop(columns="text"), splits, texts_of=lambda rows: [texts[row] for row in rows])
    for name in ("leakage", "leaks"):
        pd.testing.assert_frame_equal(once[name], again[name])
        pd.testing.assert_frame_equal(once[name], parts[name])
    pd.testing.assert_frame_equal(once["boilerplate"], again["boilerplate"])


def test_sharing_is_symmetric():
    """What test shares with train, train shares with test, when the rings change names."""
    rng = random.Random(12)
    rows = clean_cohort(rng, 70)
    rows = [row[:2] + ("train" if row[2] in ("train", "dev") else "test",) + row[3:] for row in planted(rng, rows)[0]]
    turned = [row[:2] + ({"train": "test", "test": "train"}[row[2]],) + row[3:] for row in rows]
    one, other = screen(*frames(rows)), screen(*frames(turned))
    pairs = [{frozenset(pair) for pair in zip(found["leaks"]["note_id"], found["leaks"]["other_note_id"])} for found in (one, other)]
    exact = [set(found["leaks"].query("kind == 'exact'")[["note_id", "other_note_id"]].to_numpy().ravel()) for found in (one, other)]
    assert exact[0] == exact[1] and len(pairs[0] & pairs[1]) >= 48


def test_no_notes():
    notes, splits = frames([])
    screened = screen(notes, splits)
    assert screened["leakage"]["notes"].sum() == 0 and screened["leaks"].empty and screened["boilerplate"].empty
    check_leakage(screened)
    assert np.isfinite(screened["leakage"].select_dtypes("number").to_numpy()).all()
