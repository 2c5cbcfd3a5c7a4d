import itertools
import random
import re

import pytest

from cancerllm_utils.tasks.context import count_tokens, findings_of, index_note, names_histology, rank_units, select_context, split_units, terms
from cancerllm_utils.tasks.task import load_task

QUERY = load_task("phenotype_extraction")["fields"]["pT"]["query"]
REPORT = ("Specimen: left kidney, nephrectomy.\n" + "The capsule is smooth and the fat is unremarkable throughout. " * 8
          + "\nPathologic staging: pT3a N0.\n" + "Cassettes are labelled in order of sampling by the prosector. " * 8)


def squashed(text):
    return re.sub(r"\s", "", text)


@pytest.mark.parametrize("text", [REPORT, "", "  \n ", "one", "a" * 500, "no punctuation at all " * 80, "1. A.\n2. B.\n\n3. C.", "x.\n" * 200])
def test_units_hold_every_letter_once_and_in_order(text):
    spans = split_units(text)
    assert squashed("".join(text[start:end] for start, end in spans)) == squashed(text)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_text_without_sentence_ends_is_cut_into_windows():
    text = "word " * 130
    assert [len(text[start:end].split()) for start, end in split_units(text)] == [25, 25, 25, 25, 25, 5]


def test_short_lines_join_the_next_and_decimals_stay_whole():
    text = "pT:\n2a\nSize\n5.5 cm in greatest dimension today"
    assert [text[start:end] for start, end in split_units(text)] == [text]


def test_glued_categories_are_found_by_their_letters():
    assert terms("pT2aN0(sn) 5.5cm") == ["pt", "2", "an", "0", "sn", "5", "5", "cm"]


def test_the_context_holds_the_staging_line_within_the_budget(tokenizer):
    for budget in (100, 130, 200, 300):
        context = select_context(REPORT, QUERY, budget, tokenizer)
        assert "pT3a N0" in context and count_tokens([context], tokenizer)[0] <= budget


def test_order_is_the_notes_and_the_head_is_kept(tokenizer):
    context = select_context(REPORT, QUERY, 260, tokenizer, head_tokens=130)
    assert context.startswith("Specimen: left kidney") and context.index("Specimen") < context.index("pT3a")


def test_a_note_that_fits_is_given_whole(tokenizer):
    assert select_context("Right lung.\nNothing else is said.", QUERY, 200, tokenizer) == "Right lung. Nothing else is said."


@pytest.mark.parametrize("text", ["", "....", "Ünïcödé ☃ " * 100, "x" * 3000, "word " * 1000])
@pytest.mark.parametrize("budget", [1, 7, 64])
def test_the_budget_holds_for_odd_text(tokenizer, text, budget):
    assert count_tokens([select_context(text, QUERY, budget, tokenizer)], tokenizer)[0] <= budget


def test_selection_is_deterministic_and_blind_to_other_values(tokenizer):
    """The same note with another category gives the same sentences: the answer plays no part."""
    other = REPORT.replace("pT3a", "pT1a")
    assert select_context(other, QUERY, 120, tokenizer) == select_context(REPORT, QUERY, 120, tokenizer).replace("pT3a", "pT1a")


def test_ranking_agrees_with_a_count_of_matches(tokenizer):
    """On units of equal length and one query word, BM25 must rank by occurrence; neighbours get half a score."""
    filler = "alpha beta gamma delta epsilon zeta. "
    note = index_note("Stage one two three four five. " + filler.capitalize() * 3 + "Eta theta iota kappa lambda mu.", tokenizer)
    ranked = rank_units(note, "stage")
    assert [number for _, number in ranked] == [0, 1] and ranked[1][0] == pytest.approx(0.5 * ranked[0][0])


def test_an_unknown_query_or_blank_note_ranks_nothing(tokenizer):
    assert rank_units(index_note("Right lung is here today again.", tokenizer), "zzz") == []
    assert rank_units(index_note("", tokenizer), "pt") == []


DIAGNOSIS = load_task("diagnosis_generation")


def test_findings_are_the_gross_section_without_histology():
    text = ("FINAL DIAGNOSIS:\nKidney, left: clear cell renal cell carcinoma.\nGROSS DESCRIPTION:\nA yellow mass of 4 cm bulges from the upper pole. "
            "It is thought to be a renal cell car cinoma by the surgeon here.\nThe ureter is patent and the vein is free of any clot.\n"
            "MICROSCOPIC DESCRIPTION:\nNests of clear cells.\nCOMMENT: See above.")
    findings = findings_of(text, DIAGNOSIS)
    assert "yellow mass of 4 cm" in findings and "ureter is patent" in findings
    assert not re.search("carcinoma|car cinoma|Nests|above", findings)


def test_findings_without_headings_keep_what_names_no_histology():
    text = "A firm white mass is seen in the upper lobe. Squamous cell carcinoma is present in the sections. The pleura is puckered over the mass."
    assert findings_of(text, DIAGNOSIS) == "A firm white mass is seen in the upper lobe.\nThe pleura is puckered over the mass."


def test_abbreviations_are_masked_as_words_only():
    assert findings_of("Frozen section shows RCC of the left side.", DIAGNOSIS) == ""
    assert "forceps" in findings_of("It was held with a forceps and calcified at the rim.", DIAGNOSIS)


def test_the_leak_is_seen_through_ocr_damage():
    gold = "squamous cell carcinoma of the lung"
    assert names_histology("a squarnous lesion", gold, DIAGNOSIS) and names_histology("squam ous", gold, DIAGNOSIS)
    assert not names_histology("a white cell rich mass of the lung", gold, DIAGNOSIS)


def test_random_text_never_breaks_the_splitter():
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(rng.choice("aB1 .\n;:!?(x") for _ in range(rng.randrange(200)))
        assert squashed("".join(text[start:end] for start, end in split_units(text))) == squashed(text)
