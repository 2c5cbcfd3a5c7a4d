"""Terms and abbreviations: the own list, the public list beside it, what is ambiguous, what is left alone."""

import pytest

from cancerllm_utils.evaluation import abbreviations

NOWHERE = "/no/such/folder"


def found(text, to_short, data_dir=NOWHERE):
    return [(text[place["start"]:place["end"]], place["others"], place["ambiguous"]) for place in abbreviations.places(text, to_short, data_dir)]


@pytest.fixture
def public(tmp_path):
    """A data folder with an invented list in the public list's form."""
    (tmp_path / "vocabularies").mkdir()
    (tmp_path / abbreviations.LIST).write_text("ln = lymph node \nln = lower nostril of whales \nbx = biopsy \nxq = invented marker \nall = quite another leukemia \nshort = tiny \nno = number of nodes \n"
                                               "broken line\nqz = single \n9x = number \n")
    return str(tmp_path)


def test_terms_the_longest_first_with_plural_and_capitals():
    assert found("Two lymph nodes; SENTINEL LYMPH NODE", True) == [("lymph nodes", ["LNs"], False), ("SENTINEL LYMPH NODE", ["SLN"], False)]
    assert found("ductal carcinoma in situ", True) == [("ductal carcinoma in situ", ["DCIS"], False)]
    assert [text for text, _, _ in found("lymph, node", True)] == [], "a comma parts the term"
    assert found("Metastases", True) == [("Metastases", ["mets"], False)]


def test_short_forms_with_several_meanings_are_marked():
    assert found("carcinoma", True) == [("carcinoma", ["ca", "CA"], True)]
    assert found("SCC, RT", False) == [("SCC", ["squamous cell carcinoma", "small cell carcinoma"], True), ("RT", ["right", "radiotherapy", "radiation", "radiation therapy"], True)]
    assert found("HCC of the rt lobe", False) == [("HCC", ["hepatocellular carcinoma"], False), ("rt", ["right", "radiotherapy", "radiation", "radiation therapy"], True)]
    assert found("The R side. UP TO us; the criteria are met", False) == [], "single letters and words of English are no abbreviations"


def test_the_public_list_adds_terms_and_meanings_but_never_replaces_ours(public):
    assert found("number of nodes", True, public) == [], "a short form that is a word would say something else"
    assert found("XQ, xq, ALL", False, public) == [("XQ", ["invented marker"], False)], "in capitals only, and no English word"
    assert found("LN", False, public) == [("LN", ["lymph node"], True)] and found("LN", False) == [("LN", ["lymph node"], False)]
    assert found("an Invented marker", True, public) == [("Invented marker", ["XQ"], False)] and found("an invented marker", True) == []
    assert found("single tiny", True, public) == [("single", ["qz"], False)], "as long as its short form twice, and five letters"


def test_the_own_list_is_clean():
    lists = abbreviations.inventory(NOWHERE)
    for term, shorts in lists["to_short"].items():
        assert term == term.lower() and all(short and " " not in short and len(short) < len(term) for short in shorts), term
