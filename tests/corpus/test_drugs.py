"""Typed drug names to generics, in the order of the steps, with the guards; every name here is invented or stands in drugs.yaml."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cancerllm_utils.corpus import drugs


def generics(name):
    return [entry["generic"] for entry in drugs.normalise(name)]


def steps(name):
    return [entry["how"] for entry in drugs.normalise(name)]


@pytest.mark.parametrize("name, generic", [
    ("Taxol", "paclitaxel"), ("CYTOXAN", "cyclophosphamide"), ("Temodar", "temozolomide"), ("Doxil", "liposomal doxorubicin"), ("ccnu", "lomustine"),
    ("gliadel", "carmustine wafer"), ("CPT-11", "irinotecan"), ("VP-16", "etoposide"), ("Xeloda", "capecitabine"), ("navelbine", "vinorelbine"),
    ("Alimta", "pemetrexed"), ("avastin", "bevacizumab"), ("Gemzar", "gemcitabine"), ("Femara", "letrozole"), ("arimidex", "anastrozole"), ("Lupron", "leuprolide"),
    ("  5 -  FU ?", "fluorouracil"), ("cisplatin #1", "cisplatin"), ("carboplatin 6th", "carboplatin"), ("adriamycin.", "doxorubicin"),
])  # fmt: skip
def test_a_brand_or_code_is_exact(name, generic):
    assert generics(name.replace("5 -  FU", "5-FU")) == [generic]
    assert steps(name.replace("5 -  FU", "5-FU")) == ["exact"]


@pytest.mark.parametrize("name, generic, how", [
    ("gemcitabine HCl", "gemcitabine", "salt"), ("pemetrexed disodium", "pemetrexed", "salt"), ("oral etoposide", "etoposide", "salt"),
    ("etoposide (VP-16)", "etoposide", "exact"), ("(study) tarceva", "erlotinib", "exact"), ("protocol drug (sutent)", "sunitinib", "exact"),
    ("Carbobplatin", "carboplatin", "fuzzy"), ("Cyclophospamide", "cyclophosphamide", "fuzzy"), ("doxorubincin hcl", "doxorubicin", "fuzzy"),
    ("tarceva/erlotinib", "erlotinib", "exact"),
])  # fmt: skip
def test_salts_brackets_and_likeness(name, generic, how):
    assert drugs.normalise(name) == [{"generic": generic, "how": how}]


def test_combinations_are_split_before_anything_fuzzy():
    assert drugs.normalise("Oxaliplatinum+5-FU") == [{"generic": "oxaliplatin", "how": "combination"}, {"generic": "fluorouracil", "how": "combination"}]
    assert generics("everolimus, gemcitabine, and cisplatin") == ["everolimus", "gemcitabine", "cisplatin"]
    assert generics("taxol & carboplatin") == generics("taxol_carboplatin") == generics("taxol with carboplatin") == ["paclitaxel", "carboplatin"]
    assert generics("carboplatin paclitaxel") == ["carboplatin", "paclitaxel"]
    assert steps("adriamycn + cytoxan") == ["fuzzy", "combination"]
    assert drugs.normalise("cisplatin + zzqx") == [{"generic": "cisplatin", "how": "combination"}, {"generic": "", "how": "unmapped"}]


def test_regimens_give_their_components():
    assert generics("FOLFOX") == generics("mfolfox6") == ["fluorouracil", "leucovorin", "oxaliplatin"]
    assert steps("FOLFOX-4") == ["regimen"] * 3
    assert generics("FOLFIRI + avastin") == ["fluorouracil", "irinotecan", "leucovorin", "bevacizumab"]


@pytest.mark.parametrize("name", [
    "interleukin-12", "interferon gamma", "platinum", "patrin", "cisplatin or placebo", "avastin vs placebo", "XYZ-4711", "peptide vaccine", "tc",
])  # fmt: skip
def test_guarded_names_stay_unmapped(name):
    assert drugs.normalise(name) == [{"generic": "", "how": "unmapped"}]


def test_likeness_needs_equal_digits_and_five_letters():
    assert generics("interleukin-2") == ["aldesleukin"]
    assert generics("vp-17") == [""] and generics("taxl") == [""]
    assert generics("sirolimus") == ["sirolimus"]


@pytest.mark.parametrize("name", ["", "  ", "[Not Available]", "chemo, NOS", "[Unknown]", "Unknown"])
def test_a_cell_that_says_nothing_names_nothing(name):
    assert drugs.normalise(name) == []


def test_the_fuzzy_step_confuses_no_two_spellings_of_the_list():
    """Every spelling with one letter doubled finds its own drug, an unmapped one, or a spelling of the list: never another drug by likeness."""
    words = drugs.words()
    for spelling, generic in words["names"].items():
        letters = [i for i, letter in enumerate(spelling) if letter.isalpha()]
        if len(spelling) < 8 or not letters:
            continue
        middle = letters[len(letters) // 2]
        typed = spelling[:middle] + spelling[middle] + spelling[middle:]
        found = drugs.normalise(typed)
        assert all(entry["generic"] in (generic, "") for entry in found), (typed, generic, found)


@given(st.text(max_size=40))
def test_any_text_gives_generics_of_the_list_each_once(text):
    found = drugs.normalise(text)
    named = [entry["generic"] for entry in found]
    assert len(named) == len(set(named))
    assert set(named) <= {*drugs.words()["generics"], ""}
    assert all(entry["how"] in drugs.HOW and (entry["how"] == "unmapped") == (entry["generic"] == "") for entry in found)


def test_the_word_list_is_large_and_consistent():
    words = drugs.words()
    assert len(words["generics"]) >= 100
    assert words["supportive"] <= set(words["generics"])
    assert {generic for parts in words["regimens"].values() for generic in parts} <= set(words["generics"])
    assert all(parts == sorted(parts) for parts in words["regimens"].values())
    assert all(name == name.lower() for name in words["names"])


def test_plan_sets_leave_out_supportive_drugs_and_lone_leucovorin():
    assert drugs.plan_set(["oxaliplatin", "leucovorin", "fluorouracil", "dexamethasone", ""]) == ["fluorouracil", "leucovorin", "oxaliplatin"]
    assert drugs.plan_set(["leucovorin", "methotrexate", "mesna"]) == ["methotrexate"]
    assert drugs.plan_set(["denosumab", ""]) == []


def test_find_in_reads_a_sentence():
    assert drugs.find_in("Started FOLFOX with bevacizumab in May.") == ["bevacizumab", "fluorouracil", "leucovorin", "oxaliplatin"]
    assert drugs.find_in("Carboplatin/paclitaxel, then letrozole 2.5mg") == ["carboplatin", "letrozole", "paclitaxel"]
    assert drugs.find_in("No treatment; the patient, an actor, is well.") == []


def test_the_review_lists_every_name_with_its_least_certain_step():
    table = drugs.review(["Taxol", "taxol ", "Carbobplatin", "adriamycn + cytoxan", "[Not Available]", "zzqx"])
    found = {row.name: (row.rows, row.how, row.generics) for row in table.rename(columns={"name": "typed"}).assign(name=table["name"]).itertuples()}
    assert found["taxol"] == (2, "exact", "paclitaxel")
    assert found["carbobplatin"] == (1, "fuzzy", "carboplatin")
    assert found["adriamycn + cytoxan"] == (1, "fuzzy", "doxorubicin + cyclophosphamide")
    assert found["[not available]"] == (1, "missing", "")
    assert found["zzqx"] == (1, "unmapped", "?")
    assert table["rows"].sum() == 6
