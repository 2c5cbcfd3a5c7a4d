"""A seeded cohort of 17 cancers with exact gold: patients are sampled from plausible joint distributions, notes are written by a small grammar.

Facts are in synthetic_cancers.yaml, treatment in synthetic_treatments.yaml, notes in synthetic_notes.yaml and synthetic_language.yaml, hospitals in
synthetic_hospitals.yaml; statements that need reading and not pattern matching in synthetic_hard.yaml. A patient has two to ten notes over time, of nine kinds. What a note states is what was known then: a referral gives the grade of
the biopsy and the clinical stage, which the pathology of the operation may correct; the gold of each note is what it says, and `registry_value` is the
patient's final truth. Gold spans come from marks carried through the grammar, not from searching.

Raise GENERATOR_VERSION when any output moves (a test holds the fingerprint), and freeze it before models are compared.
"""

import datetime
import time
from collections.abc import Iterator
from random import Random

import pandas as pd

from cancerllm_utils.corpus.schema import LABEL_COLUMNS, NOTE_COLUMNS
from cancerllm_utils.corpus.synthetic_facts import patient_slots
from cancerllm_utils.corpus.synthetic_grammar import GOLD
from cancerllm_utils.corpus.synthetic_patient import make_patient
from cancerllm_utils.corpus.synthetic_text import is_early, view_of, write_note
from cancerllm_utils.corpus.synthetic_treatment import particle_of
from cancerllm_utils.corpus.synthetic_yaml import CANCERS, MEDICINE, STAGE_GROUPS
from cancerllm_utils.errors import UserError

GENERATOR_VERSION = "2.1"
NOISE = 0.01  # typing errors, see synthetic_grammar.add_noise
BATCH = 5000  # notes

# field -> question (wording hint, without question mark), definition, values (allowed answers; None: open)
SYNTHETIC_FIELDS = MEDICINE["fields"]
PAIRS = {(histology, organ) for cancer in CANCERS.values() for histology in cancer["histologies"] for organ in cancer["organs"]}
SYNTHETIC_FIELDS["histology"]["values"] = sorted({histology for histology, _ in PAIRS})
SYNTHETIC_FIELDS["diagnosis"]["values"] = sorted(f"{histology} of the {organ}" for histology, organ in PAIRS)
CODES = [cancer["icd10"] if isinstance(cancer["icd10"], dict) else {"": cancer["icd10"]} for cancer in CANCERS.values()]
SYNTHETIC_FIELDS["icd10"]["values"] = sorted({code for codes in CODES for code in codes.values()})
NEVER_PRINTED = {"icd10"}
FIGO = ("UCEC", "OV")
GENDER = {"F": "FEMALE", "M": "MALE"}


def generate(n_patients: int, seed: int, noise: float = NOISE) -> dict:
    """Write the cohort; patient number i is the same for every n_patients above i.

    Args:
        noise: share of words that typing errors try to hit, outside of gold spans and headings; 0 writes without errors.

    Returns:
        notes: frame of NOTE_COLUMNS, about six notes per patient in the order of time. Texts hold nothing that corpus.scrub removes.
        labels: frame of LABEL_COLUMNS, one row per note and applicable field. `stated` rows have the exact span of the first mention;
            `not_stated` notes do not state the field, though they often name it; `uncertain` are the histology of a clinic note that describes it only
            (there `diagnosis` is stated, and its quote is the description) and icd10, which is implied and never printed.
            stated_value is what this note says; registry_value is the patient's final truth. They differ where an early note was wrong.
        registry: frame patient_id, field, registry_value; besides the labels' fields the stage group (stage_ajcc, stage_figo) that follows from T, N and M.
        patients: frame patient_id, cancer_type, gender (MALE, FEMALE), age, smoking, ecog, creatinine_clearance, comorbidities, operated, departure (reasons why the plan
            is not the usual one, empty if it is).
        flow, quarantined: as for other corpora.

    Raises:
        UserError: n_patients below 1, or noise outside 0 to 1.
    """
    source = read(n_patients, seed, noise, progress=False)
    notes, labels = [], []
    for batch in source["batches"]:
        notes += batch
        labels += [label for row in batch for label in row["labels"]]
    notes = pd.DataFrame(notes, columns=NOTE_COLUMNS, dtype=str)
    labels = pd.DataFrame(labels, columns=LABEL_COLUMNS).astype({"quote_start": "Int64", "quote_end": "Int64"})
    return {name: source[name] for name in ("registry", "patients", "flow", "quarantined")} | {"notes": notes, "labels": labels}


def read(n_patients: int, seed: int, noise: float = NOISE, progress: bool = True) -> dict:
    """The cohort as a stream: batches of at most 5,000 note rows, each with its labels, so that memory does not grow with the notes.

    Returns `batches` (iterator of lists of dicts: NOTE_COLUMNS, file, line, labels), `registry` and `patients` (DataFrames, some hundred bytes per
    patient), `flow` and `quarantined` (lists; flow is complete when the batches are consumed). Raises UserError as generate.
    """
    if n_patients < 1:
        raise UserError(f"synthetic cohort: n_patients is {n_patients}. Ask for at least 1.")
    if not 0 <= noise <= 1:
        raise UserError(f"synthetic cohort: noise is {noise}. Give a share from 0 to 1.")
    flow = []
    registry, patients = tables(make_patient(patient_rng(seed, number), patient_id(number)) for number in range(n_patients))
    return {"batches": batches(n_patients, seed, noise, flow, progress), "registry": registry, "patients": patients, "flow": flow, "quarantined": []}


def patient_id(number: int) -> str:
    return f"SYN-{number:06d}"


def patient_rng(seed: int, number: int) -> Random:
    return Random(f"{GENERATOR_VERSION}|{seed}|{number}")


def particle(patient: dict) -> str:
    """What the patient's course is given with (synthetic_treatment.particle_of)."""
    return particle_of(patient["plan"]["course"], patient["facts"] | {"side": patient["tumor"].get("side")})


def tables(everybody: Iterator[dict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The registry and the patient table."""
    ids, fields, values, patients = [], [], [], []
    for patient in everybody:
        for field, value in patient["truth"].items():
            ids.append(patient["patient_id"])
            fields.append(field)
            values.append(value)
        if group := stage_group(patient):
            ids.append(patient["patient_id"])
            fields.append("stage_figo" if patient["cancer_type"] in FIGO else "stage_ajcc")
            values.append(group)
        patients.append(
            (patient["patient_id"], patient["cancer_type"], GENDER[patient["sex"]], patient["age"], patient["smoking"], patient["ecog"], patient["crcl"],
             ", ".join(patient["illnesses"]), patient["operated"], ", ".join(patient["reasons"]))
        )  # fmt: skip
    columns = ["patient_id", "cancer_type", "gender", "age", "smoking", "ecog", "creatinine_clearance", "comorbidities", "operated", "departure"]
    return pd.DataFrame({"patient_id": ids, "field": fields, "registry_value": values}, dtype=str), pd.DataFrame(patients, columns=columns)


def stage_group(patient: dict) -> str:
    """The patient's stage group by synthetic_cancers.yaml, IV for M1; "" where the pair needs a sub-letter. It is no field of a note."""
    if "stage" not in patient["truth"]:
        return ""
    pathological_only = patient["cancer_type"] == "STAD" and not patient["operated"]
    group = "" if pathological_only else STAGE_GROUPS.get(patient["cancer_type"], {}).get(patient["truth"]["stage"], "")
    return "IV" if patient["m"] == "M1" else group


def batches(n_patients: int, seed: int, noise: float, flow: list, progress: bool) -> Iterator[list[dict]]:
    """Note rows of one patient after the other; a line every five seconds."""
    rows, written, started, last = [], 0, time.monotonic(), time.monotonic()
    for number in range(n_patients):
        rows += notes_of(seed, number, noise, written + len(rows))
        if len(rows) >= BATCH - 10:  # a patient has at most ten notes
            yield rows
            written, rows = written + len(rows), []
            if progress and time.monotonic() - last > 5:
                last = time.monotonic()
                print(f"synthetic notes: {number + 1:,} of {n_patients:,} patients, {written:,} notes, {written / (last - started):,.0f} notes/s", flush=True)
    written += len(rows)
    remark = f"generator {GENERATOR_VERSION}, seed {seed}, noise {noise:g}"
    flow.append({"step": "synthetic notes written", "n_reports": written, "n_patients": n_patients, "dropped": 0, "note": remark})
    if rows:
        yield rows


def notes_of(seed: int, number: int, noise: float, before: int, particles: bool = False) -> list[dict]:
    """The notes of one patient with their labels. particles: radiotherapy may be given with protons or electrons, and its summary says so."""
    rng = patient_rng(seed, number)
    patient = make_patient(rng, patient_id(number))
    if particles and patient["course"] and particle(patient) in ("proton", "electron"):
        patient["course"]["machine"] = particle(patient)
    noise_rng = Random(f"noise|{seed}|{number}")  # its own generator, so that the dial moves nothing but letters
    base, rows = patient_slots(rng, patient), []
    views = {early: view_of(rng, patient, base, early) for early in (True, False)}
    for suffix, kind, day in patient["visits"]:
        text, spans = write_note(rng, patient, kind, day, views[is_early(kind)], noise, noise_rng)
        note_id = f"{patient['patient_id']}-{suffix}"
        rows.append(
            {
                "note_id": note_id,
                "patient_id": patient["patient_id"],
                "site": patient["site"],
                "institution": patient["institution"],
                "note_type": kind,
                "cancer_type": patient["cancer_type"],
                "date": (patient["surgery"] + datetime.timedelta(day)).isoformat(),
                "text": text,
                "source": "synthetic",
                "file": "synthetic",
                "line": before + len(rows) + 1,
                "labels": label_rows(note_id, patient, spans, is_early(kind)),
            }
        )
    return rows


def label_rows(note_id: str, patient: dict, spans: dict, early: bool) -> list[dict]:
    """One row of LABEL_COLUMNS per applicable field; spans is slot -> (start, end) of what the note states."""
    quotes = {}
    for slot, span in spans.items():
        for field in GOLD[slot]:
            if field not in quotes or span < quotes[field]:
                quotes[field] = span
    says, rows = patient["early" if early else "truth"], []
    for field, value in patient["truth"].items():
        row = {"patient_id": patient["patient_id"], "note_id": note_id, "field": field, "evidence": "not_stated", "stated_value": None, "quote_start": None,
               "quote_end": None, "registry_value": value}  # fmt: skip
        if field in quotes:
            row |= {"evidence": "stated", "stated_value": says[field], "quote_start": quotes[field][0], "quote_end": quotes[field][1]}
        elif field in NEVER_PRINTED or (field == "histology" and "findings" in spans):
            row["evidence"] = "uncertain"
        rows.append(row)
    return rows
