"""The spelling normaliser: what it repairs, what it leaves alone, and what its own table says of it."""

import pytest

from cancerllm_utils.evaluation import perturb, spelling

TRAIN = ["The specimen shows invasive carcinoma of the sigmoid colon. Margins are free. Lymph nodes were examined, two with metastasis."] * 6 + ["A carcinomb was typed once."]
NOTE = "The specimen shows invasive carcinoma of the colon. Lymph nodes were examined. Stage IIIB, pT3N1, 4.2 cm, not HER2 positive."


@pytest.fixture(scope="module")
def known():
    return spelling.vocabulary(TRAIN, "/no/such/folder")


def test_known_words_are_those_of_training_notes_seen_twice_and_of_the_lists(known):
    assert known["specimen"] == 6 and "carcinomb" not in known and known["cyclophosphamide"] == 0


@pytest.mark.parametrize(("word", "right"), [("speciemn", "specimen"), ("Carcinomb", "Carcinoma"), ("CARCINMA", "CARCINOMA"), ("co1on", "colon"), ("invasivve", "invasive"), ("m3tastasis", "m3tastasis"),
                                             ("nodees", "nodes"), ("metastassi", "metastasis"), ("co1xny", "co1xny"), ("nodes5", "nodes5"), ("xxyyzz", "xxyyzz"), ("teh", "teh")])
def test_words_become_the_nearest_known_one(known, word, right):
    assert spelling.respell([f"A {word}, here."], known) == [f"A {right}, here."]


def test_protected_values_and_known_words_are_left_alone(known):
    assert spelling.respell([NOTE, "", "pT2aN0 G2 stagee IIIB 3.5cm ypTis NX"], known) == [NOTE, "", "pT2aN0 G2 stagee IIIB 3.5cm ypTis NX"]
    assert spelling.respell(["cyclophosphamide"], known) == ["cyclophosphamide"]


def test_the_table_counts_by_hand():
    clean, damaged, respelt = ["node colon wall the"], ["nods colno walll the"], ["nods colon ball they"]
    found = spelling.effect(clean, damaged, respelt)
    assert (found["damaged"], found["intact"]) == (3, 1)
    assert found["restored"] == pytest.approx(1 / 3) and found["wrong"] == pytest.approx(1 / 3) and found["changed"] == 1.0
    parted = spelling.effect([*clean, "two words"], [*damaged, "twowords"], [*respelt, "twowords"])
    assert parted["notes"] == 1 and parted["restored"] is None and parted["changed"] == 1.0
    assert spelling.effect(clean, clean, clean)["restored"] is None


def test_it_restores_most_of_what_misspelling_breaks(known):
    damaged = [perturb.text(NOTE, "misspell", 0.5, seed, "n")[0] for seed in range(30)]
    found = spelling.effect([NOTE] * 30, damaged, spelling.respell(damaged, known))
    assert found["damaged"] > 100 and found["restored"] > 0.6 and found["changed"] == 0
