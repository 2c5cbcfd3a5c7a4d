"""The cohort of radiation oncology: who gets in, what a note says, and that neither particle nor regimen stands in it."""

import pandas as pd
import pytest

from cancerllm_utils.corpus import radonc, synthetic
from cancerllm_utils.corpus.synthetic_treatment import particle_of
from cancerllm_utils.errors import UserError


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    return run, radonc.prepare(run, "synthetic", n_patients=150, seed=42)


def test_flow_only_falls_and_ends_with_the_cohort(cohort):
    run, found = cohort
    flow = found["flow"]
    assert flow["patients"].is_monotonic_decreasing and flow["patients"].iloc[0] == 150 and flow["patients"].iloc[-1] == len(found["cohort"])
    assert (flow["patients"].shift(fill_value=150) - flow["dropped"]).tolist() == flow["patients"].tolist()
    notes = pd.read_parquet(run / "radonc" / "corpus" / "notes.parquet")
    assert notes["patient_id"].is_unique and set(notes["patient_id"]) == set(found["cohort"]["patient_id"])


def test_a_note_states_the_facts_and_not_the_answer(cohort):
    run, found = cohort
    notes = pd.read_parquet(run / "radonc" / "corpus" / "notes.parquet").set_index("patient_id")["text"]
    for row in found["cohort"].to_dict("records"):
        text = notes[row["patient_id"]]
        assert text.startswith("Diagnosis: ") and " Age: " in text.splitlines()[0]
        assert "Gy" not in text and " fractions" not in text and row["icd10"] not in text
        assert not any(word in text.lower() for word in ("photon", "proton", "electron", "brachytherapy"))


def test_registry_holds_one_answer_per_patient_and_field(cohort):
    run, found = cohort
    registry = pd.read_parquet(run / "radonc" / "corpus" / "registry.parquet")
    assert not registry.duplicated(["patient_id", "field"]).any() and set(registry["field"]) == set(radonc.FIELDS) and registry["registry_value"].notna().all()
    counted = radonc.counts(found["cohort"])
    assert counted.groupby("field")["patients"].sum().eq(len(found["cohort"])).all()
    assert set(found["cohort"][radonc.MODALITY]) <= {"photon", "proton", "electron", "brachytherapy"}


@pytest.mark.parametrize(
    ("course", "facts", "particle"),
    [
        ("vaginal vault", {}, "brachytherapy"),
        ("lung stereotactic", {"t": "T1"}, "photon"),
        ("chest wall", {"n": "N2", "t": "T1", "side": "Left"}, "proton"),  # the first rule wins over electrons
        ("chest wall", {"n": "N2", "t": "T1", "side": "Right"}, "electron"),
        ("chest wall", {"n": "N2", "t": "T4", "side": "Right"}, "photon"),
        ("glioma grade 2", {"age": 49}, "proton"),
        ("glioma grade 2", {"age": 50}, "photon"),
        ("head and neck", {"organ": "tonsil"}, "proton"),
        ("nodal basin", {}, "electron"),
    ],
)
def test_particle_by_the_rules(course, facts, particle):
    assert particle_of(course, {"n": None, "t": None, "side": None, "age": 80, "organ": None} | facts) == particle


def test_a_summary_names_the_particle_only_where_it_is_asked_for():
    found = 0
    for number in range(250):
        patient = synthetic.make_patient(synthetic.patient_rng(42, number), synthetic.patient_id(number))
        if not patient["course"] or synthetic.particle(patient) not in ("proton", "electron"):
            continue
        plain, asked = ([note["text"] for note in synthetic.notes_of(42, number, 0, 0, particles=asked) if note["note_type"] == "radiotherapy summary"] for asked in (False, True))
        assert not any("proton" in text.lower() or "electron" in text.lower() for text in plain)
        found += any(synthetic.particle(patient) in text.lower() for text in asked)
    assert found >= 3


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(rows[0])
    path.write_text("\n".join("\t".join(line) for line in [names, names, ["CDE_ID:"] * len(names), *[list(row.values()) for row in rows]]) + "\n")


def course(patient, dose="60", fractions="30", kind="External", regimen="ADJUVANT", start="30"):
    return {"bcr_patient_barcode": patient, "radiation_therapy_type": kind, "radiation_therapy_site": "Primary Tumor Field", "radiation_total_dose": dose, "radiation_adjuvant_units": "Gy",
            "radiation_adjuvant_fractions_total": fractions, "therapy_regimen": regimen, "radiation_therapy_started_days_to": start, "radiation_therapy_ended_days_to": "70"}  # fmt: skip


@pytest.fixture
def registry_run(tmp_path):
    """Twelve invented patients: 0-2 and 9 clear (2 late, 9 with a later course for a relapse), 3 another tumor, 4 palliative, 5 two courses, 6 no dose, 7 an isotope,
    8 no radiotherapy row, 10 a second adjuvant course a year later, 11 one of unknown date beside the first."""
    ids = [f"TCGA-ZZ-00{i:02d}" for i in range(12)]
    clinical = tmp_path / "data" / "tcga" / "clinical"
    table(clinical / "nationwidechildrens.org_clinical_patient_gbm.txt", [{"bcr_patient_barcode": p, "other_dx": "Yes" if p == ids[3] else "No"} for p in ids])
    rows = [course(ids[0]), course(ids[1], "6000"), course(ids[2], "59.4", "33", start="400"), course(ids[3]), course(ids[4], regimen="PALLIATIVE"), course(ids[5]), course(ids[5], "9", "5"),
            course(ids[6], "[Not Available]"), course(ids[7], kind="OTHER") | {"radiation_type_other": "I-131"}, course(ids[9], "45", "25"),
            course(ids[9], "20", "5", regimen="RECURRENCE", start="500"), course(ids[10]), course(ids[10], "54", "30", start="430"), course(ids[11]), course(ids[11], "20", "10", start="[Not Available]")]  # fmt: skip
    table(clinical / "nationwidechildrens.org_clinical_radiation_gbm.txt", [{"radiation_type_other": "", **row} for row in rows])
    folder = tmp_path / "run" / "corpus"
    folder.mkdir(parents=True)
    pd.DataFrame({"patient_id": ids, "cancer_type": "GBM", "age": pd.array([60, None] * 6, dtype="Int64"), "gender": "MALE"}).to_parquet(folder / "patients.parquet")
    pd.DataFrame({"patient_id": ids, "split": ["train"] * 5 + ["test"] * 7}).to_parquet(folder / "splits.parquet")
    facts = [(p, field, value) for p in ids for field, value in (("diagnosis", "glioblastoma of the brain"), ("icd10", "C71"))]
    pd.DataFrame(facts, columns=["patient_id", "field", "registry_value"]).to_parquet(folder / "registry.parquet")
    words = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo", "lima"]
    notes = [{"note_id": f"{p}-r1", "patient_id": p, "site": "brain", "institution": "A", "note_type": "pathology report", "cancer_type": "GBM", "date": "", "text": f"Invented {word} report.",
              "source": "test"} for p, word in zip(ids, words)]  # fmt: skip
    pd.DataFrame(notes).to_parquet(folder / "notes.parquet")
    return tmp_path


def test_every_patient_of_the_registry_ends_in_one_step(registry_run):
    found = radonc.prepare(registry_run / "run", "tcga", data_dir=str(registry_run / "data"))
    steps = found["flow"].set_index("step")["patients"]
    assert steps.tolist() == [12, 11, 10, 9, 8, 6, 5, 5, 4, 4, 4] and steps["no further plan of the same or an unclear purpose"] == 6
    assert found["other"].to_numpy().tolist() == [["radioisotope", 1]]
    assert len(found["cohort"]) == 4 and set(found["cohort"]["radiotherapy"]) == {
        "external beam | 60 Gy | 30 fractions | primary tumour field", "external beam | 59.4 Gy | 33 fractions | primary tumour field", "external beam | 45 Gy | 25 fractions | primary tumour field"}  # fmt: skip
    assert found["cohort"].set_index("patient_id")["split"].to_dict() == {"TCGA-ZZ-0000": "train", "TCGA-ZZ-0001": "train", "TCGA-ZZ-0002": "train", "TCGA-ZZ-0009": "test"}
    assert found["doses"]["dose_flag"].tolist() == ["rescaled"] and found["late"] == 1


def test_another_corpus_and_an_empty_cohort_stop(tmp_path):
    with pytest.raises(UserError, match="synthetic and tcga only"):
        radonc.prepare(tmp_path, "letters")
    with pytest.raises(UserError, match="Raise n_patients"):
        radonc.prepare(tmp_path, "synthetic", n_patients=1, seed=1)
    with pytest.raises(UserError, match="01_data_exploration"):
        radonc.prepare(tmp_path, "tcga", data_dir=str(tmp_path))


def test_a_schedule_is_drawn_from_the_usual_ones(cohort):
    _, found = cohort
    named = found["cohort"].groupby("schedules")[radonc.REGIMEN].nunique()
    assert found["cohort"]["schedules"].between(1, 4).all() and len(named) > 1
