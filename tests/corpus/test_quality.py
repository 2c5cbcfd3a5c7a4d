"""The measures of a note's text against notes with planted damage, other languages, and two tumours."""

import random
from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cancerllm_utils.corpus import quality, synthetic

REPORT = "Received fresh is a mastectomy specimen. Invasive ductal carcinoma of the breast, grade 2, measuring 2.5 cm. Margins are free of tumor. pT2 pN0."
GERMAN = (
    "Das Präparat zeigt ein mäßig differenziertes Karzinom der linken Brust mit einem Durchmesser von zwei Zentimetern, die Schnittränder sind frei von Tumor."
)


@pytest.fixture(scope="module")
def notes() -> list[str]:
    return list(synthetic.generate(60, 5)["notes"]["text"])


def planted(text: str, rate: float, seed: int) -> str:
    """The text with a share of its words damaged the way OCR does it: look-alike letters, a lost or split word, a stray symbol."""
    rng, out = random.Random(seed), []
    for word in text.split():
        if rng.random() >= rate or len(word) < 4:
            out.append(word)
            continue
        i = rng.randrange(1, len(word) - 1)
        alike = {"l": "1", "i": "!", "e": "c", "o": "0", "m": "rn", "n": "ri", "t": "f", "a": "^", "s": "5", "c": "(", "r": "v"}
        out.append(rng.choice([
            word[:i] + alike.get(word[i].lower(), "~") + word[i + 1 :], word[:i] + " " + word[i:], " ".join(word), word[:i] + word[i + 1 :] + " ^",
        ]))  # fmt: skip
    return " ".join(out)


def test_noise_rises_with_planted_errors(notes):
    means = []
    for rate in (0, 0.02, 0.05, 0.1, 0.2):
        scores = [quality.assess(planted(text, rate, seed))["ocr_noise"] for seed, text in enumerate(notes)]
        means.append(sum(scores) / len(scores))
        assert all(0 <= score <= 1 for score in scores)
    assert means == sorted(means)
    assert means[0] < 0.03, "clean notes must look clean"
    assert means[-1] > means[0] + 0.12
    gains = [after - before for before, after in pairwise(means)]
    assert min(gains) > 0.008, "a step of 2 % more damaged words must be seen"


@pytest.mark.parametrize("piece, kind", [
    ("carcinoma", quality.TUMOUR), ("margins,", quality.FINE), ("pT2a", quality.FINE), ("2.5", quality.FINE), ("3cm", quality.FINE), ("A12", quality.FINE),
    ("HER2/neu", quality.FINE), ("pink-tan", quality.FINE), ("(2/14)", quality.FINE), ("TTF-1", quality.FINE), ("IDH1", quality.FINE), ("-----", quality.FINE),
    ("car1noma", quality.DAMAGED), ("tum^r", quality.DAMAGED), ("^", quality.DAMAGED), ("qwrtpsd", quality.DAMAGED), ("rnargins", quality.UNKNOWN),
    ("zzogram", quality.UNKNOWN), ("c", quality.LETTER), ("A.", quality.FINE),
])  # fmt: skip
def test_what_a_piece_is(piece, kind):
    assert quality.mark(piece) == kind


def test_letter_spaced_words_count_and_block_labels_do_not():
    assert quality.assess("the c a r c i n o m a is present")["ocr_noise"] == pytest.approx(9 / 12, abs=1e-4)
    assert quality.assess("blocks A B and C are in toto")["ocr_noise"] == 0


def test_another_language_is_named_and_not_taken_for_damage():
    found = quality.assess(GERMAN)
    assert found["language"] == "de" and found["ocr_noise"] < 0.1 and not quality.why_dropped(found)
    assert quality.assess(REPORT)["language"] == "en"


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300))
def test_any_text_has_a_quality_and_damage_never_passes_for_a_foreign_language(text):
    found = quality.assess(text)
    assert 0 <= found["ocr_noise"] <= 1 and found["words"] == len(text.split()) and found["characters"] == len(text)
    assert isinstance(quality.why_dropped(found), str)
    if found["words"] and found["language"] == "und":
        marks = [quality.mark(piece) for piece in text.split()]
        assert found["ocr_noise"] >= round((marks.count(quality.UNKNOWN) + marks.count(quality.DAMAGED)) / len(marks), 4)


def test_every_synthetic_note_is_english_clean_and_kept(notes):
    found = pd.DataFrame([quality.assess(text) for text in notes])
    assert set(found["language"]) == {"en"} and found["ocr_noise"].max() < 0.1
    assert not any(quality.why_dropped(row) for row in found.to_dict("records"))


@pytest.mark.parametrize("text, reason", [
    ("", "words"), ("only three words", "words"), (" ".join(["^"] * 40), "noise"), (planted(" ".join([REPORT] * 3), 1.0, 1), "noise"), (REPORT, ""),
])  # fmt: skip
def test_failed_ocr_has_a_reason(text, reason):
    said = quality.why_dropped(quality.assess(text))
    assert (reason in said) if reason else said == ""
    assert "mastectomy" not in said


@pytest.mark.parametrize("text, organs", [
    (REPORT, 1),
    ("Kidney, nephrectomy: renal cell carcinoma. Prostate: adenocarcinoma.", 2),
    ("Invasive carcinoma of the breast. Her mother had lung cancer.", 1),
    ("Invasive carcinoma of the breast. History of colon cancer.", 1),
    ("Adenocarcinoma of the lung. No carcinoma in the liver.", 1),
    ("Adenocarcinoma of the sigmoid colon and a second carcinoma of the rectum.", 1),
    ("The kidney and the prostate are normal.", 0),
])  # fmt: skip
def test_organs_named_as_the_seat_of_a_tumour(text, organs):
    assert quality.assess(text)["organs"] == organs


def test_several_tumours_by_organs_or_by_two_pt():
    texts = [REPORT, "Kidney: carcinoma pT1a. Prostate: carcinoma pT2.", "Two carcinomas of the colon, pT1 and pT3.", "One carcinoma, pT2, again pT2a."]
    frame = pd.DataFrame([quality.assess(text) for text in texts])
    assert list(quality.several_tumours(frame)) == [False, True, True, False]


def test_strata_are_thirds_unless_hardly_a_word_is_damaged():
    frame = pd.DataFrame({"ocr_noise": [0.0, 0.01, 0.04, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5]})
    names, cuts = quality.strata(frame)
    assert list(names) == ["clean"] * 3 + ["some"] * 3 + ["heavy"] * 3 and cuts == [0.04, 0.2]
    names, cuts = quality.strata(pd.DataFrame({"ocr_noise": [0.0] * 5 + [0.02, 0.03, 0.2]}, index=range(10, 18)))
    assert list(names) == ["clean"] * 6 + ["some", "heavy"] and list(names.index) == list(range(10, 18))
    assert quality.strata(frame.iloc[:0])[1] == cuts
