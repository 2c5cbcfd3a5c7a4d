"""A corpus from its source to the run's folder: nothing is lost, a killed intake goes on, and the number of processes changes nothing."""

import csv
import json
import random

import pandas as pd
import pytest

from cancerllm_utils.corpus import build, prepare
from cancerllm_utils.errors import UserError

WORDS = ["margin", "tissue", "received", "formalin", "sections", "show", "free", "of", "tumor", "node", "lobe", "base", "pleura", "surface", "cut", "firm", "tan", "pale", "grey", "soft"]


def note(rng: random.Random, side: str) -> str:
    return f"Surgical pathology report. Specimen: {side} breast, mastectomy. Final diagnosis: invasive ductal carcinoma. pT{rng.randint(1, 4)} pN{rng.randint(0, 2)}. " + " ".join(rng.choice(WORDS) for _ in range(50)) + "."


@pytest.fixture
def notes_csv(tmp_path):
    """1,200 notes of 400 patients at 8 hospitals: one empty text, one id twice, one copy within a patient, one copy between patients."""
    rng = random.Random(5)
    rows = [{"note_id": f"N{i}", "patient_id": f"P{i // 3}", "text": note(rng, rng.choice(["left", "right"])), "cancer_type": "C50.1",
             "institution": f"H{i // 3 % 8}", "site": f"S{i // 3 % 24}", "note_type": "surgical pathology report"} for i in range(1200)]  # fmt: skip
    rows[10]["text"], rows[20]["note_id"] = "", "N19"
    rows[31]["text"], rows[902]["text"] = rows[30]["text"].upper(), rows[33]["text"]
    path = tmp_path / "notes.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def make(run, path, **more):
    build.build_corpus(run, "local", str(path), identifier_sample=20, **more)
    return build.read_corpus(run)


def test_every_row_is_accounted_for_and_copies_do_not_cross(tmp_path, notes_csv, capsys):
    cohort = make(tmp_path / "run", notes_csv)
    ids = set(cohort["notes"]["note_id"])
    assert len(cohort["notes"]) == 1197 and "N10" not in ids and len(ids & {"N30", "N31"}) == 1 and {"N33", "N902"} <= ids
    assert "1,200 rows in = 1,197 notes kept + 3 left out" in capsys.readouterr().out
    assert sum(step["dropped"] for step in cohort["flow"]) == 3 and cohort["flow"][0]["n_reports"] == 1200
    entries = [json.loads(line) for line in (tmp_path / "run" / "corpus" / "quarantine.jsonl").read_text().splitlines()]
    assert {entry["reason"] for entry in entries} == {"text is empty", "note_id occurs twice"} and not any("breast" in json.dumps(entry) for entry in entries)
    ring = cohort["splits"].set_index("patient_id")["split"]
    assert ring["P11"] == ring["P300"], "patients who share a text stay together"
    stated = cohort["labels"][cohort["labels"]["evidence"] == "stated"]
    text = cohort["notes"].set_index("note_id")["text"]
    row = stated[stated["field"] == "laterality"].iloc[0]
    assert text[row["note_id"]][row["quote_start"]:row["quote_end"]].lower() == row["stated_value"].lower()
    assert cohort["labels"]["registry_value"].isna().all() and set(cohort["quality"]["note_id"]) == ids


def test_a_killed_intake_goes_on_and_processes_change_nothing(tmp_path, notes_csv, monkeypatch):
    whole = make(tmp_path / "whole", notes_csv)
    calls, real = [], prepare.prepare

    def dies_in_the_third(rows, **how):
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(rows, **how)

    def small(batches, how, cache_dir):
        rows = [row for batch in batches for row in batch]
        return prepare_all((rows[i : i + 300] for i in range(0, len(rows), 300)), how, cache_dir, processes=1)

    prepare_all = prepare.prepare_all
    monkeypatch.setattr(prepare, "prepare_all", small)
    monkeypatch.setattr(prepare, "prepare", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "run", notes_csv)
    assert not (tmp_path / "run" / "corpus" / "notes.parquet").exists()
    monkeypatch.setattr(prepare, "prepare", lambda rows, **how: calls.append(len(rows)) or real(rows, **how))
    again = make(tmp_path / "run", notes_csv)
    assert len(calls) == 3 + 2, "the two batches of before are not prepared again"
    for name in ("notes", "labels", "splits", "quality", "duplicates"):
        pd.testing.assert_frame_equal(again[name], whole[name])
    assert not (tmp_path / "run" / "corpus" / ".intake").exists()


def test_a_registry_value_stands_beside_what_is_stated_and_a_decision_comes_back(tmp_path, notes_csv):
    labels = tmp_path / "labels.csv"
    labels.write_text("patient_id,field,value\n" + "".join(f"P{i},laterality,Left\n" for i in range(400)))
    settings = {"labels_file": str(labels)}
    cohort = make(tmp_path / "run", notes_csv, source=settings)
    assert set(cohort["labels"].loc[cohort["labels"]["field"] == "laterality", "registry_value"]) == {"Left"}
    table = pd.read_csv(tmp_path / "run" / "corpus" / "disagreements.csv", dtype=str, keep_default_na=False)
    assert len(table) > 300 and set(table["stated_value"]) == {"Right"} and "quote" not in table
    with pytest.raises(UserError, match="another place"):
        make(tmp_path / "run", notes_csv, source=settings, adjudicated_csv=str(tmp_path / "run" / "corpus" / "disagreements.csv"))
    table.loc[0, "adjudicated_value"] = "Left"
    table.to_csv(tmp_path / "decided.csv", index=False)
    decided = make(tmp_path / "run", notes_csv, source=settings, adjudicated_csv=str(tmp_path / "decided.csv"))["labels"]
    row = decided[(decided["note_id"] == table.loc[0, "note_id"]) & (decided["field"] == "laterality")].iloc[0]
    assert row["stated_value"] == "Left" == row["registry_value"]


def test_what_cannot_be_built_stops_with_a_sentence(tmp_path, notes_csv):
    with pytest.raises(UserError, match="choose synthetic, tcga, local"):
        build.build_corpus(tmp_path / "run", "mimic")
    with pytest.raises(UserError, match="keep_one or keep_together"):
        make(tmp_path / "run", notes_csv, copies="drop")
    empty = tmp_path / "empty.csv"
    empty.write_text("note_id,patient_id,text\n1,P,\n2,P,\n")
    with pytest.raises(UserError, match="no note is left of 2 rows"):
        make(tmp_path / "run", empty)
