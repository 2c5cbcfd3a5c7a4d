"""The examples of README, `Your own notes`, are run as they stand there: files written, profile checked, notes read."""

import re

import pytest

from cancerllm_utils import params, paths, study
from cancerllm_utils.corpus import local
from cancerllm_utils.corpus.schema import NOTE_COLUMNS

SECTION = re.search(r"^## Your own notes\n(.*?)^## ", (paths.ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE).group(1)
EXAMPLES = {name: block for name, block in re.findall(r"<details><summary>(\w+).*?</summary>\n(.*?)</details>", SECTION, re.DOTALL)}
# name -> what the notes must be: (note_id, patient_id, note_type, cancer_type, date)
EXPECTED = {
    "CSV": [
        ("1", "P01", "surgical pathology report", "BRCA", "2021-02-03"),
        ("2", "P01", "VISIT", "BRCA", "2021-02-17"),
        ("3", "P02", "surgical pathology report", "PRAD", "2021-03-05"),
    ],
    "JSON": [("1", "P01", "note", "BRCA", "2021-02-03"), ("2", "P02", "note", "", "")],
    "Parquet": [("1", "P01", "note", "BRCA", ""), ("2", "P02", "note", "PRAD", "")],
    "Text": [("P01/pathology", "P01", "note", "BRCA", ""), ("P02_visit", "P02", "note", "", "")],
    "OMOP": [("1", "11", "surgical pathology report", "BRCA", "2021-02-03"), ("2", "12", "follow-up note", "PRAD", "2021-03-05")],
    "FHIR": [("DiagnosticReport/1", "11", "surgical pathology report", "BRCA", ""), ("DocumentReference/2", "11", "follow-up note", "BRCA", "2021-02-17")],
}


def test_every_format_has_an_example():
    assert set(EXAMPLES) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name, tmp_path):
    (tmp_path / "hospital").mkdir()
    blocks = re.findall(r"^`([\w./]+)`\n```\w*\n(.*?)^```$", EXAMPLES[name], re.DOTALL | re.MULTILINE)
    for place, content in blocks:
        content = content.replace("/data/", f"{tmp_path}/")
        if place == "write.py":
            exec(content, {})
            continue
        path = tmp_path / place.removeprefix("/data/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    profile = params.load_profile(str(tmp_path / "hospital.yaml"))
    assert profile["shared"]["corpus"] == "local" and blocks[-1][1].count("\n") <= 10
    source = study.jobs(str(tmp_path / "hospital.yaml"), profile)["01_data_exploration"]
    local.check_files(source)
    result = local.read(source)
    notes = [note for batch in result["batches"] for note in batch]
    assert [tuple(note[key] for key in ("note_id", "patient_id", "note_type", "cancer_type", "date")) for note in notes] == EXPECTED[name]
    assert all(set(NOTE_COLUMNS) <= set(note) and note["text"].strip() for note in notes) and not result["quarantined"]
    if name == "Text":
        assert result["registry"].values.tolist() == [["P01", "laterality", "Left"]]
    if name in ("OMOP", "FHIR"):
        people = result["patients"].set_index("patient_id")
        assert (people.loc["11", "age"], people.loc["11", "gender"], people.loc["11", "cancer_type"]) == (62, "FEMALE", "BRCA")
