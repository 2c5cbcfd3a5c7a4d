"""Rings: nobody in two, nothing of an external institution elsewhere, and nobody moves when others come."""

import random

import pandas as pd
import pytest

from cancerllm_utils.corpus.splits import SPLITS, assign, fraction, leaders
from cancerllm_utils.errors import UserError


def cohort(n_patients: int = 2000, n_institutions: int = 60) -> pd.DataFrame:
    """Institutions of unequal size, one to four sites each, every tenth patient with two notes."""
    rng = random.Random(1)
    rows = []
    for i in range(n_patients):
        institution = min(int(rng.paretovariate(0.7)), n_institutions)
        rows.append({"patient_id": f"P{i:05}", "institution": f"Hospital {institution}", "site": f"{institution}-{rng.randrange(4)}"})
        if i % 10 == 0:
            rows.append(rows[-1])
    return pd.DataFrame(rows)


def test_every_patient_is_in_one_ring_and_external_institutions_nowhere_else():
    notes = cohort()
    splits, table = assign(notes, seed=0, external_institutions=[])
    assert splits["patient_id"].is_unique and set(splits["patient_id"]) == set(notes["patient_id"])
    merged = notes.merge(splits)
    external = {row["institution"] for row in table if row["external"]}
    assert external and set(merged["institution"][merged["split"] == "external"]) == external
    assert not set(merged["institution"][merged["split"] != "external"]) & external
    sites = set(merged["site"][merged["split"] == "external_site"])
    assert sites and not sites & set(merged["site"][merged["split"].isin(["train", "dev", "test"])])


def test_shares_and_the_size_limit_of_external_institutions():
    notes = cohort()
    splits, table = assign(notes, seed=3, external_institutions=[])
    share = splits["split"].value_counts(normalize=True)
    assert 0.18 <= share["external"] <= 0.22
    assert max(row["share"] for row in table if row["external"]) <= 0.06
    inner = splits["split"][splits["split"].isin(["train", "dev", "test"])].value_counts(normalize=True)
    assert inner["train"] == pytest.approx(0.7, abs=0.05) and inner["dev"] == pytest.approx(0.1, abs=0.04)


def test_order_of_rows_does_not_matter_and_the_seed_does():
    notes = cohort(600)
    first, table = assign(notes, 0, [])
    again, shuffled_table = assign(notes.sample(frac=1, random_state=5), 0, [])
    assert first.equals(again) and table == shuffled_table
    assert not first.equals(assign(notes, 1, [])[0])


def test_an_added_patient_moves_nobody():
    notes = cohort(600)
    names = ["Hospital 2", "Hospital 3"]
    before, _ = assign(notes, 0, names)
    new = pd.DataFrame([{"patient_id": "NEW", "institution": "Hospital 1", "site": "1-0"}])
    after, _ = assign(pd.concat([new, notes]), 0, names)
    assert before.equals(after[after["patient_id"] != "NEW"].reset_index(drop=True))


def test_named_institutions_are_taken_whatever_their_size():
    splits, table = assign(cohort(600), 0, ["Hospital 1"])
    assert [row["institution"] for row in table if row["external"]] == ["Hospital 1"]
    assert (splits["split"] == "external").sum() == table[0]["n_patients"] > 100


def test_a_patient_of_two_institutions_is_external_with_all_notes():
    notes = pd.concat([cohort(300), pd.DataFrame([{"patient_id": "P00001", "institution": "Other", "site": "o"}])])
    splits, _ = assign(notes, 0, ["Other"])
    assert splits.set_index("patient_id")["split"]["P00001"] == "external"


def test_an_unknown_name_stops_with_the_nearest_one():
    with pytest.raises(UserError, match=r"'Hospitl 7' is not an institution.*'Hospital 7'"):
        assign(cohort(600), 0, ["Hospitl 7"])


def test_a_cohort_of_few_institutions_still_gets_an_external_ring():
    notes = pd.DataFrame([{"patient_id": f"P{i}", "institution": f"I{i % 8}", "site": f"S{i % 16}"} for i in range(400)])
    splits, _ = assign(notes, 0, [])
    counts = splits["split"].value_counts()
    assert set(counts.index) == set(SPLITS) and counts["external"] == 50  # a second eighth would pass 22 %


def test_table_counts_patients_per_ring_and_marks_suppliers():
    notes = cohort(300).replace({"institution": {"Hospital 1": "Asterand"}})
    splits, table = assign(notes, 0, [])
    assert sum(row[split] for row in table for split in SPLITS) == len(splits)
    assert [row["tissue_supplier"] for row in table if row["institution"] == "Asterand"] == [True]
    assert sum(row["tissue_supplier"] for row in table) == 1


def test_fraction_is_fixed():
    assert fraction(0, "patient", "P1") == pytest.approx(0.09554774640587649)  # sha256 of "0|patient|P1"; a change moves every patient


def test_linked_patients_stay_together():
    notes = cohort()
    patients = sorted(set(notes["patient_id"]))
    links = [(patients[i], patients[i + 7]) for i in range(0, 400, 9)] + [(patients[7], patients[90])]
    splits, _ = assign(notes, 1, [], links)
    ring = splits.set_index("patient_id")["split"]
    assert all(ring[a] == ring[b] for a, b in links)
    apart = assign(notes, 1, [])[0].set_index("patient_id")["split"]
    assert any(apart[a] != apart[b] for a, b in links), "the control: without links some pairs are torn apart"


def test_leaders_are_the_first_of_their_group():
    assert leaders([("b", "c"), ("a", "c"), ("x", "y")]) == {"a": "a", "b": "a", "c": "a", "x": "x", "y": "x"}
