"""Does anything of the held-out rings stand in the training text? Patients and exact copies (case, spacing and punctuation apart)."""

import hashlib
import re

import pandas as pd

RINGS = ("train", "dev", "test", "external_site", "external")


def fingerprint(text: str) -> str:
    """sha256 of the text's letters and digits in lower case: equal for copies that differ in layout only."""
    return hashlib.sha256(re.sub(r"[\W_]+", "", text.lower()).encode()).hexdigest()


def leakage(notes: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """One row per held-out ring: patients, institutions and sites it shares with `train`, and notes whose text also stands in `train`.

    Sharing institutions and sites with train is what `dev` and `test` are; for `external` institutions, and for `external_site` sites, must be 0.
    """
    table = notes.merge(splits, on="patient_id")
    table["fingerprint"] = table["text"].map(fingerprint)
    train, rows = table[table["split"] == "train"], []
    for ring in RINGS[1:]:
        part = table[table["split"] == ring]
        shared = {name: part.loc[part[name].isin(set(train[name])), name].nunique() for name in ("patient_id", "site", "institution")}
        rows.append({
            "ring": ring, "notes": len(part), "patients": part["patient_id"].nunique(), "patients also in train": shared["patient_id"],
            "sites also in train": shared["site"], "institutions also in train": shared["institution"],
            "copies of a train note": int(part["fingerprint"].isin(set(train["fingerprint"])).sum()),
        })  # fmt: skip
    return pd.DataFrame(rows)
