"""FHIR R4 Bundles and ndjson, on invented resources."""

import base64
import gzip
import json

import pytest

from cancerllm_utils.corpus import local
from cancerllm_utils.corpus.local import attachments
from cancerllm_utils.errors import UserError


def data(text: str, encoding: str = "utf-8") -> str:
    return base64.b64encode(text.encode(encoding)).decode()


def document(name: str, *attachments: dict, patient: str = "Patient/p1", **more) -> dict:
    return {
        "resourceType": "DocumentReference",
        "id": name,
        "status": "current",
        "subject": {"reference": patient},
        "content": [{"attachment": part} for part in attachments],
    } | more


PATHOLOGY = {"coding": [{"system": "http://loinc.org", "code": "11526-1", "display": "Pathology study"}]}
PLAIN = {"contentType": "text/plain; charset=utf-8", "data": data("Größe 2 cm.\r\nBenign.")}
PAGE = {
    "contentType": "text/html",
    "data": data("<html><head><title>x</title><style>p {}</style><body><p>Left&nbsp;breast</p><table><tr><td>T</td><td>2</td></tr></table>A &lt; B"),
}
RESOURCES = [
    {"resourceType": "Patient", "id": "p1", "birthDate": "1950-06-01", "gender": "female"},
    {"resourceType": "Patient", "id": "p2", "birthDate": "1960", "gender": "unknown", "name": [{"family": "ignored"}]},
    {"resourceType": "Condition", "id": "c1", "subject": {"reference": "Patient/p1"}, "code": {"coding": [{"system": "http://snomed.info/sct", "code": "254837009"}]}, "onsetDateTime": "2020-05-31"},
    {"resourceType": "Condition", "id": "c2", "subject": {"reference": "Patient/p2"}, "code": {"coding": [{"code": "C61"}]}, "verificationStatus": {"coding": [{"code": "refuted"}]}},
    {"resourceType": "Condition", "id": "c3", "subject": {"reference": "urn:uuid:two"}, "code": {"coding": [{"code": "E11"}, {"system": "http://hl7.org/fhir/sid/icd-10", "code": "C64"}]}},
    {"resourceType": "Organization", "id": "o1", "name": "Clinic A"},
    document("d1", {"contentType": "application/pdf", "data": data("%PDF")}, PLAIN, type=PATHOLOGY, date="2020-06-01T10:00:00Z", custodian={"reference": "Organization/o1"}),
    document("d2", PAGE, patient="urn:uuid:two"),
    document("d3", {"contentType": "application/pdf", "data": data("%PDF")}),
    document("d4", {"contentType": "text/plain", "url": "Binary/7"}),
    document("d5", {"contentType": "text/plain", "data": "no base64!"}),
    document("d6", PLAIN, status="entered-in-error"),
    document("d7", {"contentType": "text/plain; charset=iso-8859-1", "data": data("Größe", "latin-1")}, patient=""),
    {"resourceType": "DiagnosticReport", "id": "d1", "status": "final", "subject": {"reference": "Patient/p1"}, "code": {"text": "Histology"}, "conclusion": "Benign.", "effectiveDateTime": "2020-07-01", "performer": [{"reference": "Practitioner/o1", "display": "Dr Quokka"}]},
    {"resourceType": "DocumentReference", "id": "d9", "content": "wrong"},
    {"resourceType": "Observation", "id": "x"},
]  # fmt: skip


def read_all(place, **source):
    result = local.read({"data_dir": str(place)} | source)
    notes = [note for batch in result["batches"] for note in batch]
    assert result["flow"][0]["n_reports"] == len(notes) + sum(step["dropped"] for step in result["flow"])
    return notes, result


def write(path, form: str) -> None:
    urls = {"p2": "urn:uuid:two"}
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"fullUrl": urls.get(resource["id"], ""), "resource": resource} for resource in RESOURCES],
    }
    if form == "bundle":
        (path / "bundle.json").write_text(json.dumps(bundle, indent=1))
    elif form == "one line":
        (path / "bundle.json").write_text(json.dumps(bundle))
    elif form == "bundles per line":
        (path / "bundles.ndjson").write_text(json.dumps(bundle) + "\n")
    else:
        patched = json.dumps(RESOURCES).replace("urn:uuid:two", "Patient/p2/_history/3")
        for kind in ("Patient", "Condition", "Organization", "DocumentReference", "DiagnosticReport", "Observation"):
            lines = [json.dumps(resource) for resource in json.loads(patched) if resource["resourceType"] == kind]
            (path / f"{kind}.ndjson.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


@pytest.mark.parametrize("form", ["bundle", "one line", "bundles per line", "ndjson"])
def test_notes_people_and_reasons(tmp_path, form):
    write(tmp_path, form)
    notes, result = read_all(tmp_path, note_type_pathology=["11526-1", "histology"])
    found = {note["note_id"]: note for note in notes}
    assert set(found) == {"DocumentReference/d1", "DocumentReference/d2", "DiagnosticReport/d1"}
    first, page, report = found["DocumentReference/d1"], found["DocumentReference/d2"], found["DiagnosticReport/d1"]
    assert (first["text"], first["note_type"], first["date"], first["site"], first["cancer_type"]) == (
        "Größe 2 cm.\nBenign.",
        "surgical pathology report",
        "2020-06-01",
        "Clinic A",
        "BRCA",
    )
    assert (page["text"], page["patient_id"], page["cancer_type"], page["note_type"]) == ("Left breast\nT\t2\nA < B", "p2", "KIRC", "note")
    assert (report["text"], report["note_type"], report["site"]) == ("Benign.", "surgical pathology report", "own institution")
    assert sorted(entry["reason"] for entry in result["quarantined"]) == [
        "DocumentReference.content: list_type",
        "patient_id is empty",
        "the attachment is a URL, not data",
        "the attachment is no base64",
        "the attachment is no text/plain or text/html",
    ]
    assert {step["step"]: step["dropped"] for step in result["flow"]}["entered in error, cancelled or superseded"] == 1
    people = result["patients"].set_index("patient_id")
    assert (
        people["gender"].to_dict() == {"p1": "FEMALE", "p2": ""}
        and people.loc["p1", "age"] == 69
        and people["cancer_type"].to_dict() == {"p1": "BRCA", "p2": "KIRC"}
    )


def test_damaged_files(tmp_path):
    write(tmp_path, "bundle")
    path = tmp_path / "bundle.json"
    path.write_text(path.read_text()[:900])
    notes, result = read_all(tmp_path)
    assert not notes and [entry["reason"] for entry in result["quarantined"]] == ["this is no whole JSON value: the file may be cut off"]
    path.unlink()
    (tmp_path / "a.ndjson").write_text('{"resourceType": "Patient"\n' + json.dumps(document("d1", PLAIN)) + "\n[]\n7\n" + json.dumps({"id": "x"}) + "\n")
    notes, result = read_all(tmp_path)
    assert [note["line"] for note in notes] == [2] and [entry["line"] for entry in result["quarantined"]] == [1, 3, 4, 5]
    (tmp_path / "a.ndjson").write_text("")
    with pytest.raises(UserError, match="is empty"):
        local.check_files({"data_dir": str(tmp_path), "data_source": "fhir"})
    (tmp_path / "a.ndjson").unlink()
    path.write_text("no json")
    with pytest.raises(UserError, match="this is no JSON"):
        local.check_files({"data_dir": str(tmp_path), "data_source": "fhir"})


def test_html_keeps_words_apart():
    assert attachments.strip_html("<script>x</script>a<br/>b<p>c  d</p>&amp;<b>e</b>f") == "a\nb\nc d\n&ef"
