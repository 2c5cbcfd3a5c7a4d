"""Disagreements of text and registry, and a person's decisions handed back. Every text here is invented."""

import pandas as pd
import pytest

from cancerllm_utils.corpus import adjudication, labels
from cancerllm_utils.errors import UserError

# text, cancer, field, registry value, expected kind
CASES = [
    ("Clinical history: biopsy showed moderately differentiated carcinoma. Tongue with carcinoma.", "HNSC", "grade_differentiation", "G3", "clinical"),
    ("Synoptic report. Second tumor in the same lung. Stage pT1a N0.", "LUAD", "pT", "T2", "other tumour"),
    ("The colon shows diverticula. Stage pT1a.", "KIRC", "pT", "T3", "other tumour"),
    ("Stage: pT2 pNX.", "LUAD", "pN", "N2", "merge"),
    ("Adenocarcinoma, grade 2-3.", "PAAD", "grade_differentiation", "G2", "merge"),
    ("Mucinous adenocarcinoma of the cecum.", "COAD", "histology", "adenocarcinoma", "merge"),
    ("Stage (AJCC 6th edition): pT2.", "LUAD", "pT", "T3", "edition"),
    ("Stage: pT2a.", "LUAD", "pT", "T3", "edition"),                       # diagnosed in 2005, staged by the registry with the 7th edition
    ("Laterality: right. The left kidney is not included.", "KIRC", "laterality", "Left", "two values"),
    ("Stage: pTlb.", "HNSC", "pT", "T4", "damaged OCR"),
    ("S~age^ re|ort: p§ pT3 st^ge", "HNSC", "pT", "T4", "damaged OCR"),
    ("Stage: pT3.", "HNSC", "pT", "T1", "unexplained"),
]


def corpus(cases=CASES):
    """Notes, labels, splits and patients of the cases, one patient each."""
    notes = pd.DataFrame([{"patient_id": f"p{i:02}", "note_id": f"p{i:02}-r1", "cancer_type": case[1], "text": case[0]} for i, case in enumerate(cases)])
    registry = pd.DataFrame([(f"p{i:02}", case[2], case[3]) for i, case in enumerate(cases)], columns=["patient_id", "field", "registry_value"])
    splits = pd.DataFrame({"patient_id": notes["patient_id"], "split": "train"})
    patients = pd.DataFrame({"patient_id": notes["patient_id"], "staging_edition": "7th", "diagnosis_year": "2005"})
    return notes, labels.label_notes(notes, registry), splits, patients


def table(**options):
    notes, rows, splits, patients = corpus()
    return adjudication.disagreements(rows, notes, splits, patients, **options)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_each_kind_by_its_rule(number):
    _, _, field, registry_value, kind = CASES[number]
    found = table().set_index("note_id").loc[[f"p{number:02}-r1"]]
    row = found[found["field"] == field].iloc[0]
    assert (row["kind"], row["registry_value"], row["split"]) == (kind, registry_value, "train")


def test_table_holds_disagreements_only_and_no_text_unless_asked():
    notes, rows, splits, patients = corpus([*CASES, ("Stage: pT2.", "HNSC", "pT", "T2", "")])
    found = adjudication.disagreements(rows, notes, splits, patients)
    assert list(found.columns) == adjudication.COLUMNS
    assert len(found) == len(CASES) and (found["stated_value"] != found["registry_value"]).all()
    texts = " ".join(notes["text"])
    cells = found.drop(columns=["registry_value", "stated_value"]).to_numpy().ravel()
    assert not any(isinstance(cell, str) and len(cell) > 12 and cell in texts for cell in cells)
    quoted = adjudication.disagreements(rows, notes, splits, patients, show_text=True)
    assert list(quoted.columns) == [*adjudication.COLUMNS, "quote"] and "pTlb" in " ".join(quoted["quote"])


def test_every_kind_is_a_rule_and_counted():
    counts = adjudication.kinds_table(table()).set_index("kind")
    assert list(counts.index) == list(adjudication.KINDS) and counts["n"].sum() == len(CASES)
    assert {case[4] for case in CASES} == set(adjudication.KINDS)
    assert counts.loc["edition", "pT"] == 2


def decide(path, decisions, sep=",", encoding="utf-8", end="\n", head=""):
    """The table as a person returns it: {row number: adjudicated value}."""
    typed = table()
    typed["adjudicated_value"] = [decisions.get(i, "") for i in range(len(typed))]
    text = head + typed.to_csv(index=False, sep=sep, lineterminator=end)
    path.write_bytes(text.encode(encoding))
    return typed


EXCEL = [{}, {"sep": ";", "encoding": "utf-8-sig", "end": "\r\n"}, {"sep": "\t", "end": "\r\n"}, {"sep": ";", "head": "sep=;\r\n", "end": "\r\n"}]


@pytest.mark.parametrize("options", EXCEL)
def test_round_trip(tmp_path, options):
    _, rows, _, _ = corpus()
    typed = table()
    by_field = {field: list(group.index) for field, group in typed.groupby("field")}
    same, other, nothing, unsure = by_field["pT"][:4]
    decisions = {same: f" {typed.stated_value[same].lower()} ", other: typed.registry_value[other], nothing: "Not stated", unsure: "UNCERTAIN"}
    decide(tmp_path / "back.csv", decisions, **options)
    result, counts = adjudication.apply_adjudicated(rows, tmp_path / "back.csv")
    assert counts == {"rows": 12, "undecided": 8, "confirmed": 1, "changed": 1, "not_stated": 1, "uncertain": 1}
    after = result.set_index(["note_id", "field"])
    label = {number: after.loc[(typed.note_id[number], "pT")] for number in decisions}
    assert label[same].stated_value == typed.stated_value[same] and label[same].quote_start == typed.quote_start[same]
    assert (label[other].evidence, label[other].stated_value) == ("stated", typed.registry_value[other]) and pd.isna(label[other].quote_start)
    assert label[nothing].evidence == "not_stated" and pd.isna(label[nothing].stated_value)
    assert label[unsure].evidence == "uncertain" and pd.isna(label[unsure].quote_end)
    pd.testing.assert_series_equal(result["registry_value"], rows["registry_value"])
    untouched = ~result["note_id"].isin(typed.note_id[list(decisions)])
    pd.testing.assert_frame_equal(result[untouched], rows[untouched])
    assert list(result.dtypes) == list(rows.dtypes)


def test_an_untouched_table_changes_nothing(tmp_path):
    _, rows, _, _ = corpus()
    decide(tmp_path / "back.csv", {})
    result, counts = adjudication.apply_adjudicated(rows, tmp_path / "back.csv")
    pd.testing.assert_frame_equal(result, rows)
    assert counts["undecided"] == counts["rows"] == len(CASES)


WRONG = [
    ("p99-r1,pT,T1", "line 2", "not in the corpus"),
    ("p06-r1,pTT,T1", "line 2", "'pT'"),
    ("p06-r1,pT,T33", "line 2", "'T3'"),
    ("p06-r1,pT,not statd", "line 2", "'not stated'"),
    ("p06-r1,pT,T1\np06-r1,pT,T2", "line 3", "earlier line"),
]


@pytest.mark.parametrize("rows, line, hint", WRONG)
def test_a_wrong_cell_stops_with_file_line_and_the_nearest_answer(tmp_path, rows, line, hint):
    path = tmp_path / "back.csv"
    path.write_text("note_id,field,adjudicated_value\n" + rows + "\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        adjudication.apply_adjudicated(corpus()[1], path)
    message = str(error.value)
    assert str(path) in message and line in message and hint in message and message.endswith(".")
    assert rows.split(",")[-1] not in message or rows.endswith("T2")       # what was typed is never repeated: it may be patient text


@pytest.mark.parametrize("content", [b"", b"note_id;field\r\n", b"\xff\xfe\x00", b'note_id,field,adjudicated_value\n"p06-r1,pT',
                                     b'note_id,field,adjudicated_value\n"p06-r1,pT,T1\np07-r1,pT,T1\n",pT,T1\n'])
def test_a_file_that_is_no_such_table(tmp_path, content):
    path = tmp_path / "back.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"back\.csv"):
        adjudication.apply_adjudicated(corpus()[1], path)
    with pytest.raises(UserError, match=r"missing\.csv"):
        adjudication.apply_adjudicated(corpus()[1], tmp_path / "missing.csv")


def test_writing_again_keeps_what_a_person_typed(tmp_path):
    path = tmp_path / "disagreements.csv"
    assert adjudication.write(table(), path) == 0
    typed = pd.read_csv(path, dtype=str, keep_default_na=False)
    typed.loc[3, ["adjudicated_value", "comment"]] = ["uncertain", "see the addendum"]
    typed.to_csv(path, index=False)
    assert adjudication.write(table(), path) == 1
    again = pd.read_csv(path, dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(again, typed)
