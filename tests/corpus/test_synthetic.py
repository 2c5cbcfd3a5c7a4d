"""The synthetic cohort: same seed, same text; gold spans are exact and say what this note says; what is not stated is not said; notes are in order."""

import hashlib
import itertools
import re

import pandas as pd
import pytest

from cancerllm_utils.corpus.schema import LABEL_COLUMNS, NOTE_COLUMNS, check_notes
from cancerllm_utils.corpus.scrub import scrub
from cancerllm_utils.corpus.synthetic import SYNTHETIC_FIELDS, generate, read
from cancerllm_utils.corpus.synthetic_grammar import CLOSE, OPEN, add_noise, expand, finish, strip_marks, tidy
from cancerllm_utils.corpus.synthetic_patient import CLINIC, PATHOLOGY
from cancerllm_utils.corpus.synthetic_text import house_style
from cancerllm_utils.corpus.synthetic_yaml import CANCERS, HOSPITALS, LANGUAGE, NOTES
from cancerllm_utils.errors import UserError

FROZEN = "bf0c6200937bb7e98f18458037917784d0b7443f0bfd0ff5d9b81a3da82edecb"  # generator 2.1; a change of this line needs a new GENERATOR_VERSION
NOTE_TYPES = ["referral letter", "radiology report", "operation note", "surgical pathology report", "clinic note", "tumor board note", "radiotherapy summary",
              "chemotherapy summary", "follow-up note"]  # fmt: skip


@pytest.fixture(scope="module")
def cohort():
    return generate(300, 11)


@pytest.fixture(scope="module")
def rows(cohort):
    """Every label row with its note's text, type and cancer, as dicts."""
    return cohort["labels"].merge(cohort["notes"][["note_id", "note_type", "cancer_type", "text"]], on="note_id").to_dict("records")


def fingerprint(cohort):
    return hashlib.sha256((cohort["notes"].to_csv(index=False) + cohort["labels"].to_csv(index=False)).encode()).hexdigest()


def test_the_cohort_is_frozen():
    """Equal to what another process on another day wrote: nothing depends on hash seeds, dates or the order of sets."""
    assert fingerprint(generate(12, 7)) == FROZEN


def test_a_longer_cohort_starts_with_the_shorter_one_and_another_seed_differs():
    short, long, other = generate(5, 3), generate(9, 3), generate(5, 4)
    assert len(short["notes"]) >= 20
    assert long["notes"].head(len(short["notes"])).equals(short["notes"])
    assert long["labels"].head(len(short["labels"])).equals(short["labels"])
    assert set(other["notes"]["text"]).isdisjoint(short["notes"]["text"])


def test_the_stream_is_the_same_cohort_in_bounded_batches():
    source, whole = read(40, 3, progress=False), generate(40, 3)
    assert source["flow"] == [] and len(source["registry"]) == len(whole["registry"])
    batches = list(source["batches"])
    rows = [row for batch in batches for row in batch]
    assert [row["text"] for row in rows] == list(whole["notes"]["text"]) and all(len(batch) <= 5000 for batch in batches)
    assert set(rows[0]) == {*NOTE_COLUMNS, "file", "line", "labels"} and [row["line"] for row in rows] == list(range(1, len(rows) + 1))
    assert source["flow"][0]["n_reports"] == len(rows) and source["flow"][0]["n_patients"] == 40
    labels = [label for row in rows for label in row["labels"]]
    assert list(labels[0]) == [*LABEL_COLUMNS[:3], *list(labels[0])[3:]] and set(labels[0]) == set(LABEL_COLUMNS) and len(labels) == len(whole["labels"])


def test_frames_follow_the_contract(cohort):
    notes, labels, registry = cohort["notes"], cohort["labels"], cohort["registry"]
    assert list(notes.columns) == NOTE_COLUMNS and list(labels.columns) == LABEL_COLUMNS
    kept, quarantined = check_notes(notes.to_dict("records"), "synthetic")
    assert len(kept) == len(notes) and quarantined == cohort["quarantined"] == []
    assert cohort["flow"][0]["n_reports"] == len(notes) and cohort["flow"][0]["n_patients"] == 300
    assert notes["note_id"].is_unique and not labels.duplicated(["note_id", "field"]).any()
    assert set(labels["field"]) == set(SYNTHETIC_FIELDS) == set(registry["field"]) - {"stage_ajcc", "stage_figo"}
    assert set(notes["note_type"]) == set(NOTES) == set(NOTE_TYPES)
    assert list(cohort["patients"]["patient_id"]) == list(dict.fromkeys(notes["patient_id"]))
    merged = labels.merge(registry, on=["patient_id", "field"], suffixes=("", "_truth"))
    assert len(merged) == len(labels) and (merged["registry_value"] == merged["registry_value_truth"]).all()
    for field, facts in SYNTHETIC_FIELDS.items():
        if facts["values"]:
            said = set(registry["registry_value"][registry["field"] == field]) | set(labels["stated_value"][labels["field"] == field].dropna())
            assert said <= set(facts["values"])


@pytest.mark.parametrize(("n_patients", "noise", "reason"), [(0, 0, "at least 1"), (-3, 0, "at least 1"), (3, 1.5, "share from 0 to 1"), (3, -0.1, "share from 0 to 1")])
def test_impossible_cohorts_are_refused(n_patients, noise, reason):
    with pytest.raises(UserError, match=reason):
        generate(n_patients, 0, noise)
    with pytest.raises(UserError, match=reason):
        read(n_patients, 0, noise)


def test_marked_text_is_read_only_where_it_is_stated(rows):
    """A note that does not state a field holds no spelling of its value where only the value could be meant."""
    for row in rows:
        if row["evidence"] == "stated" or row["field"] not in ("histology", "stage", "grade", "receptor_status", "tumor_site"):
            continue
        flat, cancer = " ".join(row["text"].split()), CANCERS[row["cancer_type"]]
        relatives = "|".join(LANGUAGE["relatives"])
        flat = re.sub(rf"\b({relatives}) had .{{0,110}}|\([^()]*\) in \d{{4}}", "", flat, flags=re.IGNORECASE)  # other people, other tumors
        if row["field"] == "histology":
            words = [word for histology in cancer["histologies"].values() for word in histology["long"]]
            assert not any(re.search(rf"\b{re.escape(word)}\b", flat, re.IGNORECASE) for word in words if word != "squamous cell carcinoma"), row["note_id"]
        if row["field"] == "stage":
            assert not re.search(r"\b[cp]?T[1-4][a-d]?[ ,/]*[cp]?N[0-3]", flat), row["note_id"]
        if row["field"] == "receptor_status":
            assert not re.search(r"\b(ER|PR)\b ?[:+-]|triple|HER2 (pos|neg|equi|[0-3]\+)", flat, re.IGNORECASE), row["note_id"]
        if row["field"] == "grade" and row["cancer_type"] == "PRAD":
            assert not re.search(r"gleason|\b[3-5]\+[3-5]\b", flat, re.IGNORECASE), row["note_id"]
        if row["field"] == "tumor_site" and row["cancer_type"] in ("BRCA", "KIRC"):
            assert not re.search(rf"\b{row['registry_value']}\b", flat, re.IGNORECASE), row["note_id"]


def test_the_words_of_a_field_do_not_tell_whether_it_is_stated(rows):
    """Its keyword stands in many notes that do not state the field, and is missing in many that do."""
    words = {"grade": r"grade|differentiat", "tumor_size": r"size|dimension|\d ?[cm]m\b", "laterality": r"\b(left|right|lt|rt|side|laterality)\b", "stage": r"stag|\bTNM",
             "receptor_status": r"receptor|HER2", "histology": r"carcinoma|histolog|\btype\b", "radiotherapy": r"radiotherapy|radiation|\bGy"}  # fmt: skip
    for field, pattern in words.items():
        of_field = [row for row in rows if row["field"] == field]
        unsaid = [bool(re.search(pattern, row["text"], re.IGNORECASE)) for row in of_field if row["evidence"] == "not_stated"]
        assert sum(unsaid) / len(unsaid) > 0.3, (field, sum(unsaid) / len(unsaid))


def test_shares_of_evidence(cohort):
    labels = cohort["labels"].merge(cohort["notes"][["note_id", "note_type"]], on="note_id")
    eight = labels[~labels["field"].isin(["icd10", "treatment_plan", "radiotherapy", "diagnosis"])]
    reports = eight[eight["note_type"] == PATHOLOGY]
    assert 0.2 <= (reports["evidence"] == "not_stated").mean() <= 0.42
    assert 0.3 <= (eight["evidence"] == "stated").mean() <= 0.75
    clinic = labels[labels["note_type"] == CLINIC].pivot(index="note_id", columns="field", values="evidence")
    assert (clinic["diagnosis"] == "stated").all() and (clinic["treatment_plan"] == "not_stated").all()
    assert 0.18 <= (clinic["histology"] == "uncertain").mean() <= 0.32
    assert (labels["evidence"][labels["field"] == "icd10"] == "uncertain").all()
    pair = labels[labels["field"].isin(["receptor_type", "receptor_status"])].pivot(index="note_id", columns="field", values="evidence").dropna()
    assert len(pair) > 100 and (pair["receptor_type"] == pair["receptor_status"]).all()
    assert 0.3 <= cohort["registry"]["field"].eq("receptor_status").sum() / 300 <= 0.5


def test_early_notes_err_and_later_ones_do_not(cohort):
    labels = cohort["labels"].merge(cohort["notes"][["note_id", "note_type"]], on="note_id")
    stated = labels[labels["evidence"] == "stated"]
    differs = stated["stated_value"] != stated["registry_value"]
    early = stated["note_type"].map(lambda kind: NOTES[kind]["view"] == "early")
    assert not differs[~early].any()
    for field, low in {"grade": 0.05, "stage": 0.15, "tumor_size": 0.5, "histology": 0.02}.items():
        assert differs[early & (stated["field"] == field)].mean() > low, field


# ---------------------------------------------------------------- notes


def test_notes_are_in_order_and_dated_sensibly(cohort):
    notes = cohort["notes"]
    assert all(list(group["date"]) == sorted(group["date"]) for _, group in notes.groupby("patient_id"))
    counts = notes.groupby("patient_id").size()
    assert 5 <= counts.mean() <= 8 and counts.min() >= 1 and counts.max() <= 10
    day = notes.assign(day=pd.to_datetime(notes["date"])).pivot_table(index="patient_id", columns="note_type", values="day", aggfunc="first")
    order = ["referral letter", "radiology report", "operation note", "tumor board note", "clinic note", "radiotherapy summary", "follow-up note"]
    for before, after in itertools.pairwise(order):
        both = day[[before, after]].dropna()
        assert len(both) > 20 and (both[before] < both[after]).all()


def test_hospitals_can_be_held_out(cohort):
    notes = cohort["notes"]
    sites = {site for hospital in HOSPITALS.values() for site in hospital["sites"]}
    assert notes["institution"].nunique() == len(HOSPITALS) >= 12 and set(notes["site"]) == sites and len(sites) >= 25
    assert (notes.groupby("patient_id")["institution"].nunique() == 1).all()
    shares = [hospital["share"] for hospital in HOSPITALS.values()]
    small = [share / sum(shares) for share in shares if share / sum(shares) <= 0.05]
    assert sum(small) > 0.3  # enough small ones for the external ring of about a fifth
    styles = [house_style(name) for name in HOSPITALS]
    assert len({(s["heading"], s["capitals"], s["heading_end"], s["format"], s["bullets"], s["between"], s["number"]) for s in styles}) > 12


def test_notes_are_different_whole_and_of_the_planned_length(cohort):
    notes = cohort["notes"]
    assert notes["text"].is_unique
    assert not notes["text"].str.contains(r"[{}<>|\ue000-\ue1ff]|  | \.(?!\d)| ,|\.\.|\bNone\b").any()
    words = notes["text"].str.split().str.len().groupby(notes["note_type"])
    assert words.min().min() >= 30 and words.max().max() <= 320
    assert words.mean().between(60, 190).all()


def test_clinic_notes_have_the_six_sections_in_order(cohort):
    titles = LANGUAGE["headings"]["six"]
    for text in cohort["notes"]["text"][cohort["notes"]["note_type"] == CLINIC]:
        flat = " ".join(text.lower().split())
        positions = [flat.find(title.lower()) for title in titles]
        assert -1 not in positions and positions == sorted(positions)


def test_scrubbing_changes_nothing(cohort):
    """The spans are those of the scrubbed text, because there is nothing to scrub."""
    for text in cohort["notes"]["text"][::5]:
        assert scrub(text) == (text, {})


# ---------------------------------------------------------------- typing noise


def test_the_noise_dial_moves_letters_and_nothing_else():
    clean, noisy = generate(25, 5, noise=0), generate(25, 5, noise=0.2)
    columns = ["note_id", "field", "evidence", "stated_value", "registry_value"]
    assert clean["labels"][columns].equals(noisy["labels"][columns])
    quotes = []
    for cohort in (clean, noisy):
        text = cohort["notes"].set_index("note_id")["text"]
        stated = cohort["labels"][cohort["labels"]["evidence"] == "stated"]
        quotes.append([" ".join(text[row.note_id][row.quote_start : row.quote_end].split()) for row in stated.itertuples()])
    assert quotes[0] == quotes[1]
    pairs = [(a.split(), b.split()) for a, b in zip(clean["notes"]["text"], noisy["notes"]["text"], strict=True)]
    assert all(len(a) == len(b) for a, b in pairs)
    changed = [(x, y) for a, b in pairs for x, y in zip(a, b, strict=True) if x != y]
    assert 0.04 < len(changed) / sum(len(a) for a, _ in pairs) < 0.2
    assert all(re.sub(r"\D", "", x) == re.sub(r"\D", "", y) and abs(len(x) - len(y)) <= 2 for x, y in changed)


def test_noise_leaves_spans_and_short_words_alone():
    import random

    text, spans = add_noise("no absent " * 40 + "tumor", [("size", 3, 9), ("side", 400, 405)], 1.0, random.Random(1))
    assert text[spans[0][1] : spans[0][2]] == "absent" and text[spans[1][1] : spans[1][2]] == "tumor" and text.split().count("no") == 40


# ---------------------------------------------------------------- the grammar


def test_marks_give_the_spans_of_every_mention():
    marked = f"A {OPEN['side']}left{CLOSE['side']} {OPEN['side_site']}LUL{CLOSE['side_site']}, {OPEN['side']}L{CLOSE['side']}"
    assert strip_marks(marked) == ("A left LUL, L", [("side", 2, 6), ("side_site", 7, 10), ("side", 12, 13)])


def test_patterns_expand_choices_slots_and_ranges():
    slots = {"size": {"long": ["{cm} cm"], "short": ["x"]}, "cm": "2.5", "mass": ["tumor", "mass"], "pulse": (60, 60, 0)}
    last = lambda: 0.999  # noqa: E731 - a generator that always takes the last choice and never abbreviates
    text, spans = strip_marks(tidy(finish(expand("a <small|<firm|oval>> {mass} of {size} <, seen|>, pulse {pulse}.", slots, 0.5, last))))
    assert text == "An oval mass of 2.5 cm, pulse 60." and text[slice(*spans[0][1:])] == "2.5 cm"


@pytest.mark.parametrize(("raw", "neat"), [("pT2 N1 is seen", "pT2 N1 is seen"), ("a 8 cm mass", "An 8 cm mass"), ("ccRCC seen", "ccRCC seen")])
def test_sentences_start_with_a_capital_but_abbreviations_stay(raw, neat):
    assert tidy(finish(raw)) == neat
