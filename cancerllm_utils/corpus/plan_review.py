"""What notebook 02b shows of a run's treatment plans: how many there are, what became of typed names and doses, and how far each cancer's most common plan goes.

Review tables hold strings of the registry tables and counts, never text of a report and no patient.
"""

from pathlib import Path

import pandas as pd

from cancerllm_utils import paths
from cancerllm_utils.corpus import drugs, plans, radiotherapy, tcga

FIELDS = {"synthetic": ["treatment_plan", "radiotherapy"], "letters": ["systemic_therapy", "radiotherapy_regimen"]}
REGISTRY_FIELDS = ["systemic_therapy", "radiotherapy"]


def of_run(run_dir: Path, corpus: str, data_dir: str = "") -> dict[str, pd.DataFrame]:
    """Tables of a run's plans: labels (patient_id, field, registry_value), majority (plans.majority), stated (field, note_type, notes, stated), and for
    TCGA flow (plans.make, of the run's patients), drugs (drugs.review of the whole tables), radiotherapy (radiotherapy.review of the whole tables).

    data_dir: folder of the data, as in notebook 01. Raises UserError where the TCGA files are not there.
    """
    folder, fields = Path(run_dir) / "corpus", FIELDS.get(corpus, REGISTRY_FIELDS)
    labels = pd.read_parquet(folder / "registry.parquet").dropna(subset=["registry_value"])
    labels = labels[labels["field"].isin(fields)].drop_duplicates(["patient_id", "field"])
    patients = pd.read_parquet(folder / "patients.parquet")[["patient_id", "cancer_type"]]
    kinds = pd.read_parquet(folder / "notes.parquet", columns=["note_id", "note_type"])
    asked = pd.read_parquet(folder / "labels.parquet", columns=["note_id", "field", "evidence"]).query("field in @fields").merge(kinds, on="note_id")
    stated = asked.assign(stated=asked["evidence"].eq("stated")).groupby(["field", "note_type"])["stated"].agg(notes="size", stated="sum").reset_index()
    found = {"labels": labels, "majority": plans.majority(labels, patients), "stated": stated.sort_values(["field", "stated"], ascending=[True, False], ignore_index=True)}
    if corpus != "tcga":
        return found
    source = paths.data_dir(data_dir) / "tcga"
    tables = tcga.treatment_tables(source) | {"patient": tcga.read_patient_tables(source)[0]}
    known = set(patients["patient_id"])
    of_run = {kind: {cancer: table[table["bcr_patient_barcode"].isin(known)] for cancer, table in part.items()} for kind, part in tables.items()}
    names = (name for table in tables["drug"].values() for name in table["pharmaceutical_therapy_drug_name"])
    return found | {"flow": plans.make(of_run)["flow"], "drugs": drugs.review(names), "radiotherapy": radiotherapy.review(radiotherapy.courses(tables["radiation"]))}


def steps_table(review: pd.DataFrame) -> pd.DataFrame:
    """How the typed names were read: step, different names, rows, share of the rows that name something (%)."""
    table = review.groupby("how").agg(names=("name", "size"), rows=("rows", "sum")).reindex([*drugs.HOW, "missing"]).fillna(0).astype(int)
    named = table.loc[list(drugs.HOW), "rows"].sum()
    return table.assign(**{"share (%)": (100 * table["rows"] / named).round(1).where(table.index != "missing", "")}).rename_axis("step").reset_index()


def changes_table(review: pd.DataFrame) -> pd.DataFrame:
    """What was done to doses and fractions: what, flag, rows."""
    parts = [review[review[column].ne("")].groupby(column)["rows"].sum().rename_axis("flag").reset_index().assign(what=name)
             for name, column in (("dose", "dose_flag"), ("fractions", "fractions_flag"))]  # fmt: skip
    table = pd.concat(parts, ignore_index=True)[["what", "flag", "rows"]]
    return table[table["flag"].ne("missing")].sort_values(["what", "rows"], ascending=[True, False], ignore_index=True)


def to_check(review: pd.DataFrame, n: int = 15) -> pd.DataFrame:
    """The most frequent names that a person should look at: the n first of each step fuzzy, combination, regimen and unmapped."""
    chosen = review[review["how"].isin(["fuzzy", "combination", "regimen", "unmapped"])]
    return chosen.groupby("how", sort=False).head(n).sort_values(["how", "rows"], ascending=[True, False], ignore_index=True)


def write(run_dir: Path, found: dict[str, pd.DataFrame]) -> list[Path]:
    """Write the review tables and plan_majority.csv of `of_run` into results/; returns their paths."""
    results = Path(run_dir) / "results"
    results.mkdir(parents=True, exist_ok=True)
    names = {"majority": "plan_majority", "drugs": "drug_review", "radiotherapy": "radiotherapy_review"}
    for table, name in names.items():
        if table in found:
            found[table].to_csv(results / f"{name}.csv", index=False, float_format="%.6g")
    return [results / f"{name}.csv" for table, name in names.items() if table in found]


def sentences(found: dict[str, pd.DataFrame]) -> list[str]:
    """What the tables say, in words."""
    said = []
    for row in found["majority"].query("cancer_type == 'all'").itertuples():
        name = row.field.replace("_", " ")
        said.append(f"{name}: {row.n:,} patients, {row.plans:,} different plans; whoever always names the cancer's most common one is right in {100 * row.share:.0f} %.")
    if found["majority"].empty:
        said.append("The corpus holds no treatment plan.")
    for row in found["stated"].groupby("field")[["notes", "stated"]].sum().reset_index().itertuples():
        said.append(f"{row.field.replace('_', ' ')}: stated in {row.stated:,} of {row.notes:,} notes of patients who have one.")
    if "drugs" in found and len(found["drugs"]):
        rows = found["drugs"].groupby("how")["rows"].sum()
        named = rows.drop("missing", errors="ignore").sum()
        said.append(f"{named:,} typed drug names, {len(found['drugs']):,} spellings: {100 * rows.get('exact', 0) / named:.1f} % found exactly, "
                    f"{100 * rows.get('fuzzy', 0) / named:.1f} % by likeness, {100 * rows.get('unmapped', 0) / named:.1f} % not at all.")  # fmt: skip
    return said
