"""Perturbations: by rate, monotone, seeded, with values protected or attacked; changes that keep the meaning; wrong parameters."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import perturb
from cancerllm_utils.tasks.task import load_task, task_names

NOTE = ("Diagnosis: Infiltrating adenocarcinoma of the sigmoid colon, moderately differentiated, stage IIIB, pT3N1. The tumor measures 4.2 x 3.0 cm and grows "
        "through the muscular wall; no lymphovascular invasion. Estrogen receptor positive, HER2 not amplified. Gleason 3+4. Margins are free of tumor.\n\n"
        "Gross description: The specimen is a segment of bowel. Twelve lymph nodes were found, two with metastases. Grade II.\n\nComment: The patient received "
        "carboplatin and paclitaxel before the operation. LVI and PNI were looked for in the rt colon.")
NOWHERE = "/no/such/folder"
RATED = [name for name in perturb.PERTURBATIONS if name not in perturb.CONSISTENCY]
PROTECTED = ["moderately differentiated", "stage IIIB", "pT3N1", "4.2", "3.0 cm", "no", "positive", "not", "amplified", "Gleason", "3+4", "free", "Grade II", "HER2"]


def hits(testbed, rate, note=NOTE, seed=1, note_id="n1"):
    return perturb.text(note, testbed, rate, seed, note_id, NOWHERE)[1]


@pytest.mark.parametrize("testbed", RATED)
def test_the_places_hit_at_a_low_rate_are_hit_alike_at_a_higher_one(testbed):
    for low, high in ((0.0, 0.05), (0.05, 0.2), (0.2, 0.4), (0.4, 1.0)):
        for note_id in ("a", "b", "c"):
            less, more = hits(testbed, low, note_id=note_id), hits(testbed, high, note_id=note_id)
            assert all(hit in more for hit in less)
    assert hits(testbed, 0.0) == [] and perturb.text(NOTE, testbed, 0.0, 1, "n1", NOWHERE)[0] == NOTE
    assert hits(testbed, 1.0)


@pytest.mark.parametrize("testbed", perturb.PERTURBATIONS)
def test_seed_and_note_decide_and_nothing_else(testbed):
    texts = [perturb.text(NOTE, testbed, 0.5, seed, note, NOWHERE)[0] for seed, note in ((1, "a"), (1, "a"), (2, "a"), (1, "b"))]
    assert texts[0] == texts[1]
    if testbed in ("misspell", "misspell_attack", "ocr", "abbreviate"):
        assert texts[0] != texts[2] and texts[0] != texts[3]


@pytest.mark.parametrize("testbed", RATED)
def test_hits_tell_the_new_text(testbed):
    new, found = perturb.text(NOTE, testbed, 0.5, 3, "n1", NOWHERE)
    again, shift = NOTE, 0
    for hit in found:
        assert NOTE[hit["start"]:hit["end"]] == hit["before"] != hit["after"]
        again = again[:hit["start"] + shift] + hit["after"] + again[hit["end"] + shift:]
        shift += len(hit["after"]) - len(hit["before"])
    assert again == new


def test_a_share_of_the_words_is_hit():
    note = " ".join(["specimen margin node colon tissue"] * 400)
    for rate in (0.05, 0.1, 0.2, 0.4):
        assert len(hits("misspell", rate, note)) / 2000 == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 2000) ** 0.5)
    kinds = [hit["kind"] for hit in hits("misspell", 1.0, note)]
    assert len(kinds) == 2000 and all(kinds.count(kind) > 200 for kind in perturb.KINDS)


def test_values_are_protected_and_the_attack_hits_them():
    protected = [(match.start(), match.end()) for word in PROTECTED for match in re.finditer(rf"\b{re.escape(word)}(?!\w)", NOTE)]
    for testbed in RATED:
        if testbed not in ("misspell_attack", "drugnames"):
            assert not [hit for hit in hits(testbed, 1.0) for start, end in protected if start < hit["end"] and hit["start"] < end], testbed
    attacked = hits("misspell_attack", 1.0)
    assert all(any(start < hit["end"] and hit["start"] < end for hit in attacked) for start, end in protected)
    plain = hits("misspell", 0.3)
    assert plain and all(hit in hits("misspell_attack", 0.3) for hit in plain), "the attack hits what the plain testbed hits"


VALUES = st.sampled_from(["pT2a", "ypN1", "pTis", "NX", "T4bN2Mx", "3.5 cm", "12 mm", "not", "without", "negative", "equivocal", "3+4=7", "G2", "stage IV", "grade III",
                          "HER2 2+", "60 Gy", "poorly differentiated", "high grade", "2/14"])
WORDS = st.sampled_from(["tumor", "margin", "the", "left", "breast", "shows", "Specimen", "UTERUS", "with", "an", "of", "nodes;", "(colon)", "carcinoma,", "\n"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(WORDS, VALUES), min_size=1, max_size=40), st.integers(0, 5))
def test_no_invented_note_loses_a_value(pieces, seed):
    note = " ".join(pieces)
    for testbed in ("misspell", "ocr"):
        new, _ = perturb.text(note, testbed, 1.0, seed, "n", NOWHERE)
        values = [piece for piece in pieces if piece not in ("\n",) and perturb.rules()["protected"].search(piece)]
        at = 0
        for value in values:
            assert value in new[at:]
            at = new.index(value, at) + len(value)


def test_one_edit_of_each_kind_by_hand():
    assert perturb.one_edit("node", "deletion", 0.3) == "nde" and perturb.one_edit("node", "doubled", 0.0) == "nnode"
    assert perturb.one_edit("node", "transposition", 0.99) == "noed" and perturb.one_edit("aa", "transposition", 0.5) == "aa"
    assert perturb.one_edit("Qat", "substitution", 0.0) == "Wat" and perturb.one_edit("Qat", "insertion", 0.0) == "QWat"
    assert perturb.one_edit("xyz", "ocr", 0.5) == "xyz" and perturb.one_edit("BZ", "ocr", 0.0) == "8Z" and perturb.one_edit("BZ", "ocr", 0.9) == "B2"
    assert perturb.misspelt("xyz", 0.99, 0.5)[1] != "ocr", "a kind without a place in the word gives way to the next"


def test_scanning_errors_are_those_of_the_list():
    pairs = {tuple(pair) for pair in perturb.rules()["ocr"]}
    for hit in hits("ocr", 1.0):
        assert any(hit["before"].replace(a, "\0", 1).count("\0") and hit["after"] in
                   {hit["before"][:i] + b + hit["before"][i + len(a):] for i in range(len(hit["before"])) if hit["before"].startswith(a, i)} for a, b in pairs if a in hit["before"])


def test_character_error_rate_by_hand():
    assert perturb.character_error_rate("tumor", "tumor") == 0 and perturb.character_error_rate("tumor", "tmor") == 0.2
    assert perturb.character_error_rate("abcd", "bacd") == 0.5 and perturb.character_error_rate("", "") == 0


def test_drug_names_become_spellings_of_the_same_drug(tmp_path):
    found = {hit["before"]: hit["after"] for hit in hits("drugnames", 1.0)}
    assert set(found) <= {"carboplatin", "paclitaxel"} and found.get("carboplatin") == "carboplatinum"
    folder = tmp_path / "tcga" / "clinical"
    folder.mkdir(parents=True)
    lines = ["bcr_patient_barcode\tpharmaceutical_therapy_drug_name"] * 3 + ["P1\tPaclitaxle", "P2\tpaclitaxel", "P3\tCarbplatin", "P4\t[Not Available]", "P5\tTaxol", "P6\tParaplatine"]
    (folder / "nationwidechildrens.org_clinical_drug_ov.txt").write_text("\n".join(lines) + "\n")
    assert perturb.drug_spellings(str(tmp_path)) == {"paclitaxel": ["paclitaxle"], "carboplatin": ["carbplatin"]}, "only likeness makes a misspelling, no brand"
    assert perturb.text("CARBOPLATIN, then Paclitaxel", "drugnames", 1.0, 1, "n", str(tmp_path))[0] == "CARBPLATIN, then Paclitaxle"


def test_capitals_line_breaks_and_sections_keep_the_words():
    shouted = perturb.text(NOTE, "upper", 1.0, 1, "n")[0]
    assert shouted.lower() == NOTE.lower() and shouted.isupper() and perturb.text("Maß 3", "upper", 1.0, 1, "n")[0] == "MAß 3"
    wrapped = perturb.text(NOTE, "linebreaks", 1.0, 1, "n")[0]
    assert wrapped.split() == NOTE.split() and wrapped != NOTE and wrapped.count("\n\n") == NOTE.count("\n\n")
    assert max(map(len, wrapped.split("\n"))) <= perturb.WIDTHS[1]
    assert perturb.text("The tumor lies\nin the colon.\nGrade: 2", "linebreaks", 1.0, 1, "n")[0] == "The tumor lies in the colon.\nGrade: 2"
    moved = perturb.text("Mr. A\n\n" + NOTE, "sections", 1.0, 1, "n")[0]
    assert sorted(moved.split()) == sorted(("Mr. A " + NOTE).split()) and moved.startswith("Mr. A\n\n") and moved != "Mr. A\n\n" + NOTE
    assert sorted(part.partition(":")[0] for part in moved.split("\n\n")[1:]) == ["Comment", "Diagnosis", "Gross description"]
    assert hits("sections", 1.0, "A text without any heading. It has two sentences.") == []


@pytest.mark.parametrize("task", task_names())
def test_every_task_has_two_other_wordings_that_ask_for_the_same_field(task):
    spec = load_task(task)
    made = [perturb.reworded(spec, seed, "e1") for seed in range(20)]
    assert len({(spec["doc_to_text"], spec["instruction"]) for spec in made}) >= 2
    for other in made:
        assert (other["doc_to_text"], other["instruction"]) != (spec["doc_to_text"], spec["instruction"]) and other["fields"] == spec["fields"]
        assert other["doc_to_text"].count("{context}") == 1 and ("{name}" in other["doc_to_text"]) == ("{name}" in spec["doc_to_text"])
    with pytest.raises(UserError, match="no other wording of task nothing"):
        perturb.reworded({"task": "nothing"}, 1, "e1")


def test_augmentation_leaves_some_texts_clean_and_goes_up_to_the_rate():
    made = [perturb.augment(NOTE, ["misspell", "abbreviate"], 0.3, 1, f"i{i}", NOWHERE) for i in range(60)]
    rates = [perturb.character_error_rate(NOTE, text) for text in made]
    assert made[0] == perturb.augment(NOTE, ["misspell", "abbreviate"], 0.3, 1, "i0", NOWHERE) and len(set(made)) > 40 and min(rates) < 0.01 < 0.02 < max(rates)
    assert perturb.augment(NOTE, [], 0.3, 1, "i") == NOTE and perturb.augment(NOTE, ["misspell"], 0.0, 1, "i") == NOTE
    with pytest.raises(UserError, match="did you mean 'misspell'"):
        perturb.augment(NOTE, ["mispell"], 0.0, 1, "i")


@pytest.mark.parametrize(("testbed", "rate", "words"), [("mispell", 0.1, "did you mean 'misspell'"), ("misspell", 20, "0 to 1, not 20"), ("misspell", -0.1, "0 to 1"),
                                                        ("misspell", "0.1", "0 to 1"), ("misspell", True, "0 to 1"), ("misspell", float("nan"), "0 to 1")])
def test_wrong_testbeds_and_rates_stop(testbed, rate, words):
    with pytest.raises(UserError, match=words):
        perturb.text(NOTE, testbed, rate, 1, "n")


@pytest.mark.parametrize(("variant", "words"), [("misspell", "such as misspell:20"), ("misspell:200", "0 to 100"), ("misspell:0.2", "whole percentage"), ("misspell:", "such as"),
                                                ("upper:20", "has no rate"), ("uper", "did you mean 'upper'"), ("", "unknown")])
def test_wrong_variants_stop(variant, words):
    with pytest.raises(UserError, match=words):
        perturb.planned([variant])


def test_variants_and_remedies_name_test_sets():
    made = perturb.planned(["misspell:20", "upper"], ["respelled"])
    assert perturb.set_names(["test"], made) == ["test+misspell20", "test+upper", "test+misspell20+respelled", "test+respelled"]
    assert [(one["testbed"], one["rate"], one["remedy"]) for one in made] == [("misspell", 0.2, ""), ("upper", 1.0, ""), ("misspell", 0.2, "respelled"), ("", 0.0, "respelled")]
    for variants, remedies, words in ((["upper", "upper"], [], "stands twice"), ([], ["respeled"], "remedies: 'respeled'")):
        with pytest.raises(UserError, match=words):
            perturb.planned(variants, remedies)
