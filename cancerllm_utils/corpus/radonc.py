"""The cohort of the radiation-oncology study: patients with one diagnosis and one clear primary radiotherapy plan, with what their plan was.

The study has a folder of its own in the run (FOLDER), laid out like a run, so that examples, tuning, predictions and baselines are made by the same functions
as everywhere and no score of the main study moves. Doses and plans are those of radiotherapy.py and plans.py; historical practice, not guidance.
"""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from cancerllm_utils import paths
from cancerllm_utils.corpus import build, plans, radiotherapy, schema, screening, splits, synthetic, tcga
from cancerllm_utils.corpus.synthetic_patient import PATHOLOGY
from cancerllm_utils.corpus.synthetic_treatment import COURSES
from cancerllm_utils.errors import UserError

FOLDER = "radonc"
REGIMEN, MODALITY, ICD10 = "radiotherapy", "radiotherapy_modality", "icd10"
FIELDS = (REGIMEN, MODALITY, ICD10)
TARGETS = ("primary tumour field", "regional site")  # of a primary plan; a metastasis or a recurrence is another one
MODALITIES = ("external beam", "brachytherapy", "stereotactic")  # of the registry; other ones are counted and not scored
OTHER_TUMOR = ("history_other_malignancy", "other_dx")  # line 1 and line 2 of the patient tables
STAGES = ("stage_ajcc", "stage_figo")
UNCLEAR = ("first", "other")  # purposes of a further plan that leave open which one was the primary plan; one for a relapse or of palliative intent does not
LATE_DAYS = 365


def prepare(run_dir: Path, corpus: str, n_patients: int = 2000, noise: float = synthetic.NOISE, data_dir: str = "", seed: int = 42) -> dict[str, pd.DataFrame]:
    """Write the study's corpus/{notes,labels,registry,splits,patients}.parquet below run_dir/radonc.

    corpus: `synthetic` (n_patients of the generator are looked at) or `tcga` (the patients of the run, which notebooks 01 and 02 prepared, keep their ring).
    One note per patient: a head with the facts of `head`, then the pathology report. Returns flow (step, patients, dropped), cohort (patient_id, cancer_type, split, FIELDS; synthetic also schedules, the usual ones
    that the patient's was drawn from), other (modality, patients: counted, not scored) and, for TCGA, doses (radiotherapy.review of the courses of the patients looked at: what was changed or implausible) and
    late (patients of the cohort whose course began more than LATE_DAYS after the diagnosis).
    Raises UserError for another corpus, or where nobody is left.
    """
    if corpus not in ("synthetic", "tcga"):
        raise UserError(f"corpus {corpus}: the study of radiation oncology knows synthetic and tcga only. Name one of them.")
    found = from_generator(n_patients, noise, seed) if corpus == "synthetic" else from_registry(Path(run_dir), paths.data_dir(data_dir) / "tcga")
    if not found["patients"]:
        raise UserError(f"corpus {corpus}: none of the patients has one clear radiotherapy plan and a pathology report. Raise n_patients, or add patients to the run.")
    cohort = pd.DataFrame(found["patients"])
    notes = pd.DataFrame(found["notes"])[schema.NOTE_COLUMNS].astype(str)
    rings = found["splits"] if corpus == "tcga" else splits.assign(notes, seed, [])[0]
    notes, cohort = without_copies(notes, cohort.merge(rings, on="patient_id"), rings, found["flow"])
    folder = Path(run_dir) / FOLDER / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    notes.to_parquet(folder / "notes.parquet", index=False)
    pq.write_table(build.label_table(pd.DataFrame(columns=schema.LABEL_COLUMNS)), folder / "labels.parquet")
    cohort.melt(["patient_id"], FIELDS, "field", "registry_value").to_parquet(folder / "registry.parquet", index=False)
    cohort[["patient_id", "split"]].to_parquet(folder / "splits.parquet", index=False)
    cohort[["patient_id", "cancer_type", "age", "gender"]].to_parquet(folder / "patients.parquet", index=False)
    flow = pd.DataFrame(found["flow"], columns=["step", "patients"])
    flow["dropped"] = -flow["patients"].diff().fillna(0).astype(int)
    other = pd.Series(found["other"], dtype=object).value_counts().rename_axis("modality").rename("patients").reset_index()
    columns = ["patient_id", "cancer_type", "split", *FIELDS, *(["schedules"] if corpus == "synthetic" else [])]
    of_registry = {"doses": found["doses"], "late": int(cohort["start"].gt(LATE_DAYS).sum())} if corpus == "tcga" else {}
    return {"flow": flow, "cohort": cohort[columns], "other": other} | of_registry


def without_copies(notes: pd.DataFrame, cohort: pd.DataFrame, rings: pd.DataFrame, flow: list) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables without held-out patients whose text is a copy, also an edited one, of a text of train or dev; their number is added to the flow."""
    dropped, _ = screening.gate(notes, screening.screen(notes, rings[rings["patient_id"].isin(notes["patient_id"])]), "drop", 1.0, 1.0)
    kept = notes[~notes["note_id"].isin(dropped)].reset_index(drop=True)
    flow.append(("no copy of a training text among the held-out ones", len(kept)))
    return kept, cohort[cohort["patient_id"].isin(kept["patient_id"])].reset_index(drop=True)


def head(facts: dict) -> str:
    """The facts of a plan as the first line of a note: `Diagnosis: ... Stage: ... Age ...`; a fact that is not known is left out."""
    return " ".join(f"{name}: {value}." for name, value in facts.items() if value)


def from_generator(n_patients: int, noise: float, seed: int) -> dict:
    """Synthetic patients with a curative course and a pathology report; they may be given protons and electrons, and their radiotherapy summary says so."""
    patients, notes, steps = [], [], dict.fromkeys(("patients of the generator", "radiotherapy planned", "with curative intent", "a pathology report"), 0)
    for number in range(n_patients):
        patient = synthetic.make_patient(synthetic.patient_rng(seed, number), synthetic.patient_id(number))
        course = patient["course"]
        passed = [True, course is not None, course is not None and not patient["plan"]["palliative"]]
        passed.append(passed[-1] and any(kind == PATHOLOGY for _, kind, _ in patient["visits"]))
        steps = {step: n + ok for (step, n), ok in zip(steps.items(), passed, strict=True)}
        if not passed[-1]:
            continue
        report = next(note for note in synthetic.notes_of(seed, number, noise, 0, particles=True) if note["note_type"] == PATHOLOGY)
        truth = patient["truth"]
        facts = {"Diagnosis": truth["diagnosis"], "Stage": " ".join(filter(None, [truth.get("stage"), patient["m"]])), "Grade": truth.get("grade"), "Age": patient["age"],
                 "Sex": {"F": "female", "M": "male"}[patient["sex"]], "Side": truth.get("laterality"), "Operation": patient["procedure"] or "none", "ECOG": f"{patient['ecog']}"}  # fmt: skip
        notes.append({name: report[name] for name in schema.NOTE_COLUMNS} | {"text": f"{head(facts)}\n\n{report['text']}"})
        patients.append({"patient_id": patient["patient_id"], "cancer_type": patient["cancer_type"], "age": patient["age"], "gender": synthetic.GENDER[patient["sex"]],
                         REGIMEN: course["answer"], MODALITY: synthetic.particle(patient), ICD10: truth["icd10"],
                         "schedules": len(COURSES[patient["plan"]["course"]]["schedules"])})  # fmt: skip
    return {"patients": patients, "notes": notes, "flow": list(steps.items()), "other": []}


def from_registry(run_dir: Path, source: Path) -> dict:
    """Patients of a TCGA run with one diagnosis and one clear first plan; every patient with a radiotherapy row ends in one step of the flow."""
    folder = run_dir / "corpus"
    if not (folder / "registry.parquet").is_file():
        raise UserError(f"file {folder / 'registry.parquet'}: missing. Run notebook 01_data_exploration of this profile first.")
    people = pd.read_parquet(folder / "patients.parquet").drop_duplicates("patient_id").set_index("patient_id")
    registry = pd.read_parquet(folder / "registry.parquet").dropna(subset=["registry_value"]).drop_duplicates(["patient_id", "field"])
    known = {patient: dict(zip(part["field"], part["registry_value"])) for patient, part in registry.groupby("patient_id")}
    notes = pd.read_parquet(folder / "notes.parquet")
    reports = notes[notes["note_type"].str.contains("pathology")].sort_values("note_id").drop_duplicates("patient_id").set_index("patient_id")
    several = other_tumor(tcga.read_patient_tables(source)[0])
    courses = radiotherapy.courses(tcga.treatment_tables(source)["radiation"])
    courses = radiotherapy.plans(courses[courses["patient_id"].isin(people.index)])
    steps = ["with a radiotherapy row", "one diagnosis", "the first plan neither palliative nor for a recurrence", "one course in it", "no further plan of the same or an unclear purpose", " or ".join(MODALITIES), "of the primary tumor or its region",
             "dose and fractions recorded", "a pathology report, a diagnosis and an ICD-10 code"]  # fmt: skip
    reached, other, patients, texts = dict.fromkeys(steps, 0), [], [], []
    for patient, rows in plans.by_patient(courses.to_dict("records")).items():
        answer, why = plans.first_course(rows)
        modality, values = rows[0]["modality"], known.get(patient, {})
        further = any(row["plan"] > 1 and row["indication"] in UNCLEAR for row in rows)
        passed = [True, patient not in several, not why.startswith("the first plan"), not why.startswith("several"), not further, modality in MODALITIES, rows[0]["target"] in TARGETS, bool(answer),
                  patient in reports.index and "diagnosis" in values and ICD10 in values]  # fmt: skip
        if all(passed[:5]) and not passed[5]:
            other.append(modality or "not recorded")
        whole = [all(passed[: i + 1]) for i in range(len(passed))]
        reached = {step: n + ok for (step, n), ok in zip(reached.items(), whole, strict=True)}
        if not whole[-1]:
            continue
        age, sex = people.loc[patient, "age"], people.loc[patient, "gender"]
        facts = {"Diagnosis": values["diagnosis"], "Stage": next((values[name] for name in STAGES if name in values), ""),
                 "T and N": " ".join(values[name] for name in ("pT", "pN") if name in values), "Age": "" if pd.isna(age) else f"{int(age)}",
                 "Sex": "" if pd.isna(sex) else sex.lower()}  # fmt: skip
        report = reports.loc[patient].to_dict() | {"patient_id": patient}
        texts.append(report | {"note_type": "surgical pathology report", "text": f"{head(facts)}\n\n{report['text']}"})
        patients.append({"patient_id": patient, "cancer_type": people.loc[patient, "cancer_type"], "age": facts["Age"], "gender": sex, REGIMEN: answer, MODALITY: modality, ICD10: values[ICD10],
                         "start": rows[0]["start"]})  # fmt: skip
    flow = [("patients of the run", len(people)), *reached.items()]
    return {"patients": patients, "notes": texts, "flow": flow, "other": other, "doses": radiotherapy.review(courses), "splits": pd.read_parquet(folder / "splits.parquet")}


def other_tumor(tables: dict[str, pd.DataFrame]) -> set[str]:
    """Patients of whom the registry says that they have, or had, another malignancy; who is not said to have one counts as one diagnosis."""
    found = set()
    for table in tables.values():
        column = next((name for name in OTHER_TUMOR if name in table), None)
        if column:
            found |= set(table.loc[table[column].str.lower().str.startswith("yes"), "bcr_patient_barcode"])
    return found


def counts(cohort: pd.DataFrame) -> pd.DataFrame:
    """Patients of each answer of modality and ICD-10 code, by ring: field, answer, patients, and a column per ring."""
    parts = []
    for field in (MODALITY, ICD10):
        table = cohort.pivot_table(index=field, columns="split", values="patient_id", aggfunc="size", fill_value=0)
        table = table.reindex(columns=[name for name in splits.SPLITS if name in table]).rename_axis(None, axis=1)
        table.insert(0, "patients", table.sum(axis=1))
        parts.append(table.rename_axis("answer").reset_index().assign(field=field).sort_values("patients", ascending=False))
    table = pd.concat(parts, ignore_index=True)
    return table[["field", *[name for name in table if name != "field"]]]
