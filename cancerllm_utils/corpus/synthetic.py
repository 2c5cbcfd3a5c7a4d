"""A seeded cohort of 17 cancers with exact gold: patients are sampled from plausible joint distributions, notes are written by a small grammar.

Facts are in synthetic_cancers.yaml, language in synthetic_language.yaml, hospitals in synthetic_hospitals.yaml. The grammar chooses, independently of
each other: which fields a note states, which sentence states each one, the words of that sentence, the spelling of the value, the order, the
distractors, and (fixed per hospital) headings, layout and abbreviations. Gold spans come from marks carried through all of this, not from searching.

Raise GENERATOR_VERSION when any output moves (a test holds the fingerprint), and freeze it before models are compared.
"""

import datetime
import random

import pandas as pd

from cancerllm_utils.corpus.schema import LABEL_COLUMNS, NOTE_COLUMNS
from cancerllm_utils.corpus.synthetic_grammar import GOLD
from cancerllm_utils.corpus.synthetic_text import CANCERS, CLINIC, FOLLOW_UP, MEDICINE, PATHOLOGY, write_note, yaml_of
from cancerllm_utils.errors import UserError

GENERATOR_VERSION = "1.0"

HOSPITALS = yaml_of("hospitals")
# field -> question (wording hint, without question mark), definition, values (allowed answers; None: open)
SYNTHETIC_FIELDS = MEDICINE["fields"]
PAIRS = {(histology, organ) for cancer in CANCERS.values() for histology in cancer["histologies"] for organ in cancer["organs"]}
SYNTHETIC_FIELDS["histology"]["values"] = sorted({histology for histology, _ in PAIRS})
SYNTHETIC_FIELDS["diagnosis"]["values"] = sorted(f"{histology} of the {organ}" for histology, organ in PAIRS)


def generate(n_patients: int, seed: int) -> dict:
    """Write the cohort; patient number i is the same for every n_patients above i.

    Returns:
        notes: frame of NOTE_COLUMNS, three or four notes per patient. Texts hold nothing that corpus.scrub removes.
        labels: frame of LABEL_COLUMNS, one row per note and applicable field. `stated` rows have the exact span of the first mention;
            `not_stated` notes hold no spelling of the field; `uncertain` is the histology of a clinic note that describes it only
            (there `diagnosis` is stated, and its quote is the description). registry_value is always the patient's truth.
        registry: frame patient_id, field, registry_value.
        flow, quarantined: as for other corpora.

    Raises:
        UserError: n_patients below 1.
    """
    if n_patients < 1:
        raise UserError(f"synthetic cohort: n_patients is {n_patients}. Ask for at least 1.")
    notes, labels, registry = [], [], []
    for number in range(n_patients):
        rng = random.Random(f"{GENERATOR_VERSION}|{seed}|{number}")
        patient = make_patient(rng, f"SYN-{number:06d}")
        registry += [{"patient_id": patient["patient_id"], "field": field, "registry_value": value} for field, value in patient["truth"].items()]
        for suffix, note_type, days in visits(rng):
            note, spans = write_note(rng, patient, note_type)
            note |= {"note_id": f"{patient['patient_id']}-{suffix}", "date": (patient["surgery"] + datetime.timedelta(days)).isoformat()}
            notes.append(note)
            labels += label_rows(note["note_id"], patient, spans)
    notes = pd.DataFrame(notes, columns=NOTE_COLUMNS, dtype=str)
    labels = pd.DataFrame(labels, columns=LABEL_COLUMNS).astype({"quote_start": "Int64", "quote_end": "Int64"})
    registry = pd.DataFrame(registry, columns=["patient_id", "field", "registry_value"], dtype=str)
    remark = f"generator {GENERATOR_VERSION}, seed {seed}"
    flow = [{"step": "synthetic notes written", "n_reports": len(notes), "n_patients": n_patients, "note": remark}]
    return {"notes": notes, "labels": labels, "registry": registry, "flow": flow, "quarantined": []}


def visits(rng: random.Random) -> list[tuple]:
    """(suffix of the note id, note type, days after surgery) for each note of one patient."""
    plan = [("PATH", PATHOLOGY, rng.randint(1, 6)), ("CLINIC", CLINIC, rng.randint(14, 60)), ("FU1", FOLLOW_UP, rng.randint(90, 200))]
    if rng.random() < 0.4:
        plan.append(("FU2", FOLLOW_UP, rng.randint(210, 420)))
    return plan


# ---------------------------------------------------------------- patients


def make_patient(rng: random.Random, patient_id: str) -> dict:
    """One patient: who, where, and `truth`, field -> value for the fields that apply to this cancer and site."""
    code = weighted(rng, {code: cancer["weight"] for code, cancer in CANCERS.items()})
    cancer = CANCERS[code]
    institution = weighted(rng, {name: hospital["share"] for name, hospital in HOSPITALS.items()})
    organ = weighted(rng, cancer["organs"])
    sites = cancer.get("sites", {})
    sites = sites.get(organ, sites)  # head and neck: the parts of the organ that was drawn
    procedures = cancer["procedures"]
    patient = {
        "patient_id": patient_id,
        "institution": institution,
        "site": rng.choice(HOSPITALS[institution]["sites"]),
        "cancer_type": code,
        "organ": organ,
        "sites": sites,
        "procedure": rng.choice(procedures[organ] if isinstance(procedures, dict) else procedures),
        "presentation": rng.choice(cancer["presentation"]),
        "sex": weighted(rng, cancer["sexes"]),
        "age": rng.randint(*cancer["age"]),
        "surgery": datetime.date(2008, 1, 1) + datetime.timedelta(rng.randrange(3600)),
    }

    truth = {"histology": weighted(rng, {name: histology["weight"] for name, histology in cancer["histologies"].items()})}
    if "grade" in cancer:
        truth["grade"] = weighted(rng, cancer["grade"]["weights"])
        patient["patterns"] = rng.choice(MEDICINE["gleason_patterns"].get(truth["grade"], [[0, 0]]))
    t_stage = "any"
    if "T" in cancer:
        t_stage = weighted(rng, cancer["T"])
        # The more advanced the primary tumor, the rarer are free nodes.
        free = cancer["N"]["N0"] * {"T1": 1.6, "T2": 1.0, "T3": 0.7, "T4": 0.5}[t_stage]
        n_stage = weighted(rng, cancer["N"] | {"N0": free})
        truth["stage"] = f"{t_stage} {n_stage}"
        patient["t"], patient["n"] = spell_category(rng, cancer, "sub_t", t_stage), spell_category(rng, cancer, "sub_n", n_stage)
        positive = cancer.get("nodes_positive", {"N1": [1, 3], "N2": [4, 9], "N3": [10, 18]})
        patient["nodes_positive"] = 0 if n_stage == "N0" else rng.randint(*positive[n_stage])
        patient["nodes_examined"] = patient["nodes_positive"] + rng.randint(*cancer["nodes"])
    low, high = cancer["size"][t_stage]
    patient["cm"] = round(rng.triangular(low, high), 1)
    patient["second_cm"], patient["third_cm"] = patient["cm"] * rng.uniform(0.6, 0.9), patient["cm"] * rng.uniform(0.35, 0.6)
    truth["tumor_size"] = f"{patient['cm']} cm"
    if sites:
        truth["tumor_site"] = rng.choice(list(sites))
    if "sides" in cancer and truth.get("tumor_site") not in cancer.get("no_side_sites", []):
        truth["laterality"] = weighted(rng, cancer["sides"])
    if code == "BRCA":
        patient["receptors"] = draw_receptors(rng, truth)
        positive = [name for name, result in patient["receptors"].items() if result == "positive"]
        truth["receptor_type"] = " ".join(positive) or "none"
        truth["receptor_status"] = " ".join(f"{name} {result}" for name, result in patient["receptors"].items())
    truth["diagnosis"] = f"{truth['histology']} of the {organ}"
    return patient | {"truth": {field: truth[field] for field in SYNTHETIC_FIELDS if field in truth}}


def weighted(rng: random.Random, weights: dict) -> str:
    """One key, drawn by its weight."""
    return rng.choices(list(weights), list(weights.values()))[0]


def spell_category(rng: random.Random, cancer: dict, subs: str, category: str) -> list[str]:
    """A T or N category as this patient's notes may write it: bare, and with the patient's sub-letter where the cancer has one."""
    letters = cancer.get(subs, {}).get(category, [])
    return [category, category + rng.choice(letters)] if letters else [category]


def draw_receptors(rng: random.Random, truth: dict) -> dict:
    """ER, PR and HER2 results; PR follows ER, and both are rarer and HER2 commoner in high-grade tumors."""
    er_chance = 0.94 if truth["histology"] != "invasive ductal carcinoma" else {"G1": 0.95, "G2": 0.88, "G3": 0.55}[truth["grade"]]
    er = rng.random() < er_chance
    pr = er and rng.random() < 0.8
    her2 = weighted(rng, {"positive": 28 if truth["grade"] == "G3" else 13, "equivocal": 12, "negative": 65})
    return {"ER": "positive" if er else "negative", "PR": "positive" if pr else "negative", "HER2": her2}


def label_rows(note_id: str, patient: dict, spans: dict) -> list[dict]:
    """One row of LABEL_COLUMNS per applicable field; spans is slot -> (start, end) of what the note states."""
    rows = []
    for field, value in patient["truth"].items():
        row = {"patient_id": patient["patient_id"], "note_id": note_id, "field": field, "registry_value": value}
        quotes = sorted(span for slot, span in spans.items() if field in GOLD[slot])
        if quotes:
            row |= {"evidence": "stated", "stated_value": value, "quote_start": quotes[0][0], "quote_end": quotes[0][1]}
        else:
            described = field == "histology" and "findings" in spans
            row |= {"evidence": "uncertain" if described else "not_stated", "stated_value": None, "quote_start": None, "quote_end": None}
        rows.append(row)
    return rows
