"""First-line treatment plans from a cancer registry's drug and radiotherapy tables: what was given first, in normalised words.

Historical practice, not guidance. A pathology report seldom names a treatment, so predicting a plan from it is prior knowledge of the cancer: what counts is
the gain over each cancer's most common plan (`majority`). Names are normalised by drugs.py, doses by radiotherapy.py.
"""

from collections import Counter

import pandas as pd

from cancerllm_utils.corpus import drugs, radiotherapy

WINDOW_DAYS = 30  # drugs that start within so many days of the first one are the first line
NO_FLAG = ("radiation_treatment_adjuvant", "radiation_therapy")  # line 1 and line 2 of the patient tables: adjuvant radiotherapy given?
DRUG_COLUMNS = ["patient_id", "cancer_type", "name", "generics", "indication", "start"]
LABEL_COLUMNS = ["patient_id", "field", "registry_value"]


def drug_rows(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Every row of the drug tables (cancer -> table): DRUG_COLUMNS.

    generics: tuple of generic names, "" for what could not be named, () for a cell that says nothing; indication as in radiotherapy.py; start: days from diagnosis.
    """
    named: dict[str, tuple] = {}
    rows = []
    for cancer, table in tables.items():
        blank = pd.Series("", index=table.index)
        regimen, other = (table.get(name, blank) for name in ("therapy_regimen", "therapy_regimen_other"))
        starts = pd.to_numeric(table["pharmaceutical_tx_started_days_to"], errors="coerce")
        for patient, name, indication, notes, start in zip(table["bcr_patient_barcode"], table["pharmaceutical_therapy_drug_name"], regimen, other, starts, strict=True):
            if name not in named:
                named[name] = tuple(entry["generic"] for entry in drugs.normalise(name))
            rows.append((patient, cancer, name, named[name], radiotherapy.indication_of(indication, notes), start))
    return pd.DataFrame(rows, columns=DRUG_COLUMNS).astype({"start": float})


def first_drugs(rows: list[tuple]) -> tuple[list[str], str]:
    """The drugs of one patient's first line, and "" or why there are none. rows: (generics, indication, start in days or NaN).

    Rows given at progression or recurrence do not count. The line begins with the first dated row that names a drug of a plan; what starts within WINDOW_DAYS
    belongs to it. Without any date all rows do. A line of which a part could not be named is no plan.
    """
    rows = [row for row in rows if row[1] != "later"]
    counted = [row for row in rows if "" in row[0] or drugs.plan_set(row[0])]  # leucovorin begins no line, but may belong to it
    if not counted:
        return [], "no drug of a first line"
    dates = [start for _, _, start in counted if start == start]
    if dates:
        rows = [row for row in rows if min(dates) <= row[2] <= min(dates) + WINDOW_DAYS]
    generics = [generic for row in rows for generic in row[0]]
    return (drugs.plan_set(generics), "") if "" not in generics else ([], "a part could not be named")


def first_course(rows: list[dict]) -> tuple[str, str]:
    """The answer of one patient's first radiotherapy plan, and "" or why there is none. rows: the patient's courses with their `plan`."""
    first = [row for row in rows if row["plan"] == 1]
    if first[0]["indication"] in ("later", "palliative"):
        return "", "the first plan is palliative or for a recurrence"
    if len(first) > 1:
        return "", "several courses in the first plan"
    answer = radiotherapy.answer_of(first[0])
    return answer, "" if answer else "type, dose, fractions or target missing"


def by_patient(rows: list[dict]) -> dict[str, list[dict]]:
    """The rows of each patient, in their order."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["patient_id"], []).append(row)
    return found


def make(tables: dict[str, dict[str, pd.DataFrame]]) -> dict:
    """Plans of all patients from tcga.treatment_tables: {drug: {cancer: table}, radiation: ..., patient: ...}.

    Returns labels (LABEL_COLUMNS: fields systemic_therapy "cisplatin + gemcitabine" and radiotherapy), drug_rows, courses (with plan), flow (field, step,
    patients: every patient with a row, or with a "no radiotherapy", ends in one step).
    """
    given, courses = drug_rows(tables["drug"]), radiotherapy.plans(radiotherapy.courses(tables["radiation"]))
    labels, flow = [], Counter()
    for patient, rows in by_patient(given.to_dict("records")).items():
        chosen, why = first_drugs([(row["generics"], row["indication"], row["start"]) for row in rows])
        flow["systemic_therapy", why or "labelled"] += 1
        if chosen:
            labels.append((patient, "systemic_therapy", " + ".join(chosen)))
    for patient, rows in by_patient(courses.to_dict("records")).items():
        answer, why = first_course(rows)
        flow["radiotherapy", why or "labelled"] += 1
        if answer:
            labels.append((patient, "radiotherapy", answer))
    irradiated = set(courses["patient_id"])
    for table in tables["patient"].values():
        column = next((name for name in NO_FLAG if name in table), None)
        for patient in table.loc[table[column].str.upper() == "NO", "bcr_patient_barcode"] if column else []:
            if patient not in irradiated:
                flow["radiotherapy", "labelled: no radiotherapy"] += 1
                labels.append((patient, "radiotherapy", radiotherapy.NONE))
    table = pd.DataFrame([(field, step, n) for (field, step), n in flow.items()], columns=["field", "step", "patients"])
    table = table.sort_values(["field", "patients", "step"], ascending=[False, False, True], ignore_index=True)
    return {"labels": pd.DataFrame(labels, columns=LABEL_COLUMNS, dtype=str), "drug_rows": given, "courses": courses, "flow": table}


def majority(labels: pd.DataFrame, patients: pd.DataFrame) -> pd.DataFrame:
    """Per field and cancer type the most common plan and its share (0-1): field, cancer_type, n, plans (different ones), most_common, share, largest n first.

    labels: LABEL_COLUMNS of plan fields; patients: patient_id, cancer_type. A row "all" gives the share of patients whose plan is their cancer's most common.
    """
    known = labels.merge(patients[["patient_id", "cancer_type"]].drop_duplicates("patient_id"), on="patient_id")
    rows = []
    for field, part in known.groupby("field"):
        found = []
        for cancer, group in part.groupby("cancer_type"):
            counts = group["registry_value"].value_counts()
            best = min(counts[counts == counts.iloc[0]].index)
            found.append((field, cancer, len(group), len(counts), best, counts.iloc[0] / len(group)))
        found.sort(key=lambda row: (-row[2], row[1]))
        n = sum(row[2] for row in found)
        rows += [*found, (field, "all", n, part["registry_value"].nunique(), "", sum(row[2] * row[5] for row in found) / n)]
    return pd.DataFrame(rows, columns=["field", "cancer_type", "n", "plans", "most_common", "share"])
