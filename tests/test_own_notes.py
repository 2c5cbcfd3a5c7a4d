"""An institution's notes, one hospital, no labels, no kinds of note: the run still pre-trains, tunes on what the rules read, predicts and reports."""

import csv
import os
import random
import subprocess
import sys

import pandas as pd
import yaml

from cancerllm_utils import paths

WORDS = ["margin", "tissue", "received", "formalin", "sections", "show", "free", "of", "tumor", "node", "lobe", "base", "surface", "firm", "tan", "pale"]
SMALL = {
    "study": {"stages": ["cpt-sft"], "steps": ["01_data_exploration", "02_dataset_preparation", "03_continued_pretraining", "04_instruction_tuning", "05_prediction", "06_evaluation", "00_summary"]},
    "shared": {"corpus": "local", "tasks": ["phenotype_extraction", "diagnosis_generation"]},
    "01_data_exploration": {"data_dir": "notes.csv", "column_note_id": "NoteID", "column_patient_id": "MRN", "column_text": "Body", "column_cancer_type": "Dx", "identifier_sample": 10},
    "02_dataset_preparation": {"max_train_items": 20, "max_dev_items": 6, "max_test_items": 6, "context_tokens": 64, "head_tokens": 8},
    "03_continued_pretraining": {"max_tokens": 3000, "max_length": 256, "eval_tokens": 600},
    "04_instruction_tuning": {"max_tokens": 3000, "max_length": 256, "max_eval_examples": 4},
    "05_prediction": {"max_new_tokens": 6},
    "06_evaluation": {"n_resamples": 50},
}


def run(profile, folder, *more):
    environment = os.environ | {"CANCERLLM_RUNS": str(folder / "runs"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-m", "cancerllm_utils.cli", *more, str(profile)], cwd=paths.ROOT, env=environment, capture_output=True, text=True)


def test_one_hospital_without_labels_gets_a_report_that_says_what_its_numbers_are(tmp_path):
    rng, rows = random.Random(3), []
    for number in range(90):
        side, text = rng.choice(["left", "right"]), " ".join(rng.choice(WORDS) for _ in range(25))
        body = f"Specimen: {side} breast, mastectomy. Diagnosis: invasive ductal carcinoma, pT{rng.randint(1, 4)} pN{rng.randint(0, 2)}. {text}."
        rows.append({"NoteID": f"n{number}", "MRN": f"m{number // 2}", "Body": body, "Dx": "C50.9"})
    rows[7]["Body"] = ""
    with open(tmp_path / "notes.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    profile = tmp_path / "own.yaml"
    profile.write_text(yaml.safe_dump(SMALL))
    checked = run(profile, tmp_path, "check")
    assert checked.returncode == 0 and "your notes found" in checked.stdout, checked.stdout + checked.stderr
    finished = run(profile, tmp_path, "run")
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    assert "90 rows in = 89 notes kept + 1 left out" in finished.stdout and "diagnosis_generation: no item. It needs labels" in finished.stdout
    here = tmp_path / "runs" / "own"
    page = (here / "report" / "index.html").read_text()
    assert "It is not accuracy" in page and "an institution&#39;s own" in page and "mastectomy" not in page
    scores = pd.read_csv(here / "results" / "scores.csv")
    assert set(scores["split"]) == {"test", "dev"} and {"base", "cpt-sft"} <= set(scores["stage"])
    assert set(scores.loc[scores["split"] == "dev", "stage"]) == {"baseline"}, "the development patients choose the simple method to beat, no more"
    assert (here / "DATASHEET.md").is_file() and (here / "results" / "identifiers_in_report.csv").is_file()


def test_a_wrong_column_stops_with_its_name_and_the_nearest(tmp_path):
    (tmp_path / "notes.csv").write_text("NoteID,MRN,Bodytext,Dx\n1,2,A mass.,C50\n")
    profile = tmp_path / "own.yaml"
    profile.write_text(yaml.safe_dump(SMALL))
    for command in ("check", "run"):
        refused = run(profile, tmp_path, command)
        said = refused.stdout + refused.stderr
        assert refused.returncode == 2 and "column_text" in said and "Bodytext" in said and "Traceback" not in said
