"""OMOP CDM tables in the forms that exports take, on tiny invented tables."""

import pandas as pd
import pytest

from cancerllm_utils.corpus import local
from cancerllm_utils.errors import UserError

TABLES = {
    "NOTE": pd.DataFrame(
        {
            "NOTE_ID": [11, 12, 13, 14],
            "PERSON_ID": [1, 2, 2, 9],
            "NOTE_DATE": ["2020-03-01", "2020-04-01", "2020-05-01", "2020-06-01"],
            "NOTE_CLASS_CONCEPT_ID": [500, 0, 501, 0],
            "NOTE_TITLE": ["", "Tumour clinic", "", ""],
            "NOTE_TEXT": ["A mass.\nIt is benign.", "Seen today.", "Seen again.", "Nobody knows."],
        }
    ),
    "PERSON": pd.DataFrame({"person_id": [1, 2, 3], "year_of_birth": [1950, 1920, 1980], "gender_concept_id": [8507, 8532, 0], "gender_source_value": ["", "", "F"], "care_site_id": [7, None, None]}),
    "CONDITION_OCCURRENCE": pd.DataFrame(
        {
            "person_id": [1, 1, 2, 2, 2, 3],
            "condition_concept_id": [0, 0, 0, 0, 0, 900],
            "condition_source_value": ["E11.9", "C61", "C50.911", "C34.1", "C50.911", ""],
            "condition_start_date": ["2015-01-01", "2019-08-01", "2019-01-01", "2018-01-01", "2020-01-01", "2020-09-01"],
        }
    ),
    "CARE_SITE": pd.DataFrame({"care_site_id": [7], "care_site_name": ["Urology"]}),
    "CONCEPT": pd.DataFrame(
        {"concept_id": [500, 501, 900], "concept_name": ["Pathology report", "Progress note", "Malignant neoplasm of breast"], "vocabulary_id": ["LOINC", "LOINC", "SNOMED"], "concept_code": ["11526-1", "11506-3", "254837009"], "domain_id": ["Note", "Note", "Condition"]}
    ),
}  # fmt: skip


def write(folder, form: str) -> None:
    for name, table in TABLES.items():
        if form == "csv":
            table.to_csv(folder / f"{name}.csv", index=False)
        elif form == "tsv.gz":
            table.to_csv(folder / f"{name.lower()}.csv.gz", sep="\t", index=False)
        else:
            (folder / name.lower()).mkdir()
            table.iloc[:2].to_parquet(folder / name.lower() / "part-0.parquet")
            table.iloc[2:].to_parquet(folder / name.lower() / "part-1.parquet")


@pytest.mark.parametrize("form", ["csv", "tsv.gz", "parquet"])
def test_notes_people_and_cancers(tmp_path, form):
    write(tmp_path, form)
    result = local.read(
        {"data_dir": str(tmp_path), "note_type_pathology": ["pathology report"], "note_type_clinic": ["TUMOUR CLINIC"], "note_type_follow_up": ["501"]}
    )
    notes = [note for batch in result["batches"] for note in batch]
    assert [(note["note_id"], note["patient_id"], note["date"], note["cancer_type"], note["site"]) for note in notes] == [
        ("11", "1", "2020-03-01", "PRAD", "Urology"),
        ("12", "2", "2020-04-01", "BRCA", "own institution"),
        ("13", "2", "2020-05-01", "BRCA", "own institution"),
        ("14", "9", "2020-06-01", "", "own institution"),
    ]
    assert [note["note_type"] for note in notes] == ["surgical pathology report", "clinic note", "follow-up note", "note"]
    assert notes[0]["text"] == "A mass.\nIt is benign."
    people = result["patients"].set_index("patient_id")
    assert people["cancer_type"].to_dict() == {"1": "PRAD", "2": "BRCA", "3": "BRCA"}
    assert people["gender"].to_dict() == {"1": "MALE", "2": "FEMALE", "3": "FEMALE"}
    assert people["age"].to_dict() == {"1": 69, "2": 90, "3": 40}  # at the first record of the cancer; 98 is written as 90
    remarks = result["flow"][0]["note"] + result["flow"][-1]["note"]
    assert result["flow"][0]["n_reports"] == 4 and not result["quarantined"]
    assert "1 patients have codes of more than one cancer" in remarks


def test_damaged_rows_of_every_table_are_counted(tmp_path):
    write(tmp_path, "csv")
    for name in ("NOTE", "PERSON"):
        with open(tmp_path / f"{name}.csv", "a") as file:
            file.write('77,"never closed\n')
    result = local.read({"data_dir": str(tmp_path)})
    notes = [note for batch in result["batches"] for note in batch]
    assert len(notes) == 4 and sorted(entry["file"] for entry in result["quarantined"]) == ["NOTE.csv", "PERSON.csv"]
    assert result["flow"][0]["n_reports"] == 5 and result["flow"][1]["dropped"] == 1
    assert "PERSON: 4 rows, 1 of them in quarantine.jsonl" in result["flow"][0]["note"]


def test_missing_tables_and_columns(tmp_path):
    with pytest.raises(UserError, match="holds no file"):
        local.read({"data_dir": str(tmp_path), "data_source": "omop"})
    TABLES["PERSON"].to_csv(tmp_path / "person.csv", index=False)
    with pytest.raises(UserError, match="no OMOP table NOTE"):
        local.check_files({"data_dir": str(tmp_path), "data_source": "omop"})
    TABLES["NOTE"].drop(columns="NOTE_TEXT").to_csv(tmp_path / "note.csv", index=False)
    with pytest.raises(UserError, match=r"note\.csv: there is no column 'note_text'; it has NOTE_ID"):
        local.check_files({"data_dir": str(tmp_path)})
    TABLES["NOTE"].to_csv(tmp_path / "note.csv", index=False)
    (tmp_path / "person.csv").unlink()
    (tmp_path / "note_nlp.csv").write_text("note_nlp_id\n1\n")  # a table that is not used
    result = local.read({"data_dir": str(tmp_path), "data_source": "omop"})
    assert len([note for batch in result["batches"] for note in batch]) == 4 and "no CONDITION_OCCURRENCE" in result["flow"][0]["note"]
