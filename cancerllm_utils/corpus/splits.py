"""Rings around one training set: whole institutions never seen, then whole sites never seen, then train, dev and test by patient.

Every choice is a sha256 of a name and the seed, so that rows may come in any order and a new patient moves no other one; only the
automatic choice of external institutions depends on the counts.
"""

import difflib
import hashlib

import pandas as pd

from cancerllm_utils.corpus.tcga import settings
from cancerllm_utils.errors import UserError

SPLITS = ["train", "dev", "test", "external_site", "external"]
TRAIN_SHARE, DEV_SHARE = 0.7, 0.1  # the rest is test
SITE_SHARE = 0.2  # of the sites outside the external institutions
EXTERNAL_LOW, EXTERNAL_HIGH = 0.18, 0.22  # of all patients
LARGEST_EXTERNAL = 0.06  # one larger institution would make the ring a test of its house style alone


def assign(notes: pd.DataFrame, seed: int, external_institutions: list[str], links: list[tuple[str, str]] = ()) -> tuple[pd.DataFrame, list[dict]]:
    """Assign every patient to one ring.

    Args:
        notes: needs patient_id, site, institution; a patient may have many rows, also from several sites.
        seed: another seed gives other rings.
        external_institutions: names to hold out; if empty they are chosen (see choose_external).
        links: pairs of patients that must stay together, because they share a text: they are treated as one patient.

    Returns:
        A frame patient_id, split (one of SPLITS), sorted by patient_id; and the table of institutions, largest first: institution,
        n_notes, n_patients, share (of all patients), held_out (bool), tissue_supplier (bool), and patients per split.

    Raises:
        UserError: a name in external_institutions does not occur; the sentence gives the nearest one.
    """
    leader = leaders(links)
    original, notes = notes, notes.assign(patient_id=notes["patient_id"].map(lambda patient: leader.get(patient, patient)))
    patients_of = notes.groupby("institution")["patient_id"].agg(set).to_dict()
    n_patients = notes["patient_id"].nunique()
    if external_institutions:
        check_names(external_institutions, list(patients_of))
        external = set(external_institutions)
    else:
        external = choose_external(patients_of, n_patients, seed)

    # A patient seen at two institutions, one of them external, is external with all notes.
    external_patients = set().union(*(patients_of[name] for name in external))
    inside = notes[~notes["patient_id"].isin(external_patients)]
    held_out_sites = choose_sites(sorted(set(inside["site"])), seed)
    site_patients = set(inside["patient_id"][inside["site"].isin(held_out_sites)])

    rows = []
    for patient_id in sorted(set(original["patient_id"])):
        group = leader.get(patient_id, patient_id)
        if group in external_patients:
            split = "external"
        elif group in site_patients:
            split = "external_site"
        else:
            position = fraction(seed, "patient", group)
            split = "train" if position < TRAIN_SHARE else "dev" if position < TRAIN_SHARE + DEV_SHARE else "test"
        rows.append({"patient_id": patient_id, "split": split})
    splits = pd.DataFrame(rows, columns=["patient_id", "split"], dtype=str)
    return splits, institution_table(original, splits, external)


def leaders(links: list[tuple[str, str]]) -> dict[str, str]:
    """Patient -> the first of the patients that it is linked with, directly or over others."""
    leader = {}

    def first(patient: str) -> str:
        while leader.setdefault(patient, patient) != patient:
            patient = leader[patient]
        return patient

    for one, other in links:
        low, high = sorted((first(one), first(other)))
        leader[high] = low
    return {patient: first(patient) for patient in list(leader)}


def fraction(seed: int, kind: str, name: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{seed}|{kind}|{name}".encode()).hexdigest()
    return int(digest[:13], 16) / 16**13


def check_names(wanted: list[str], known: list[str]) -> None:
    """UserError with the nearest institution for the first name that does not occur."""
    for name in wanted:
        if name not in known:
            by_lower = {candidate.lower(): candidate for candidate in sorted(known)}
            near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0)
            hint = f"The nearest name is '{by_lower[near[0]]}'." if near else "The notes name no institution."
            raise UserError(f"external_institutions: '{name}' is not an institution of this corpus. {hint}")


def choose_external(patients_of: dict[str, set], n_patients: int, seed: int) -> set[str]:
    """Institutions in hash order until 18-22 % of the patients, passing over what would go beyond 22 %.

    Institutions above 6 % are taken only where all smaller ones together stay below 18 % (cohorts of few institutions).
    """
    chosen, patients = set(), set()
    order = sorted(patients_of, key=lambda name: (len(patients_of[name]) > LARGEST_EXTERNAL * n_patients, fraction(seed, "institution", name)))
    for name in order:
        if len(patients) >= EXTERNAL_LOW * n_patients:
            break
        if len(patients | patients_of[name]) <= EXTERNAL_HIGH * n_patients:
            chosen.add(name)
            patients |= patients_of[name]
    return chosen


def choose_sites(sites: list[str], seed: int) -> set[str]:
    """About a fifth of the sites, each by its own hash; of two or more sites at least one, and never all."""
    if len(sites) < 2:
        return set()
    by_hash = sorted(sites, key=lambda site: fraction(seed, "site", site))
    chosen = {site for site in sites if fraction(seed, "site", site) < SITE_SHARE} or {by_hash[0]}
    return chosen - {by_hash[-1]}


def institution_table(notes: pd.DataFrame, splits: pd.DataFrame, external: set[str]) -> list[dict]:
    """One dict per institution, largest first; see assign."""
    split_of = splits.set_index("patient_id")["split"]
    suppliers = set(settings()["tissue_suppliers"])
    table = []
    for name, group in notes.groupby("institution"):
        patients = group["patient_id"].unique()
        per_split = split_of.loc[patients].value_counts()
        table.append(
            {
                "institution": name,
                "n_notes": len(group),
                "n_patients": len(patients),
                "share": len(patients) / len(splits),
                "held_out": name in external,
                "tissue_supplier": name in suppliers,
            }
            | {split: int(per_split.get(split, 0)) for split in SPLITS}
        )
    return sorted(table, key=lambda row: (-row["n_patients"], row["institution"]))
