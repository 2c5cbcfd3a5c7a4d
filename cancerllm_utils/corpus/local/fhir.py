"""FHIR R4 resources as Bundles (JSON) or lines (ndjson): notes from DocumentReference and DiagnosticReport, people from Patient and Condition.

Definitions: hl7.org/fhir/R4. Attachments of text/plain and text/html are read; what is only linked, or is a PDF, an image or RTF, is set aside.
"""

import itertools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cancerllm_utils.corpus.local import cancer_codes, dates, files
from cancerllm_utils.corpus.local.attachments import text_of
from cancerllm_utils.corpus.local.people import age_at, choose_cancers, note_cancer, people_frame
from cancerllm_utils.errors import UserError

MAX_BUNDLE = 1_000_000_000  # bytes of one Bundle, which is read as a whole; larger exports come as ndjson
DOCUMENTS = ("DocumentReference", "DiagnosticReport")
VOID = {"entered-in-error", "cancelled", "superseded"}
NO_DIAGNOSIS = {"refuted", "entered-in-error"}


# Only what is used is declared; everything else in a resource is ignored. Wrong types set the resource aside with the place and kind of error.
class Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class Coding(Part):
    system: str = ""
    code: str = ""
    display: str = ""


class Concept(Part):
    coding: list[Coding] = []
    text: str = ""


class Reference(Part):
    reference: str = ""
    type: str = ""
    display: str = ""


class Period(Part):
    start: str = ""


class Attachment(Part):
    contentType: str = ""
    data: str = ""
    url: str = ""


class Content(Part):
    attachment: Attachment = Attachment()


class Context(Part):
    period: Period = Period()


class DocumentReference(Part):
    id: str
    status: str = ""
    type: Concept = Concept()
    category: list[Concept] = []
    subject: Reference = Reference()
    date: str = ""
    context: Context = Context()
    custodian: Reference = Reference()
    content: list[Content] = []


class DiagnosticReport(Part):
    id: str
    status: str = ""
    code: Concept = Concept()
    category: list[Concept] = []
    subject: Reference = Reference()
    effectiveDateTime: str = ""
    effectivePeriod: Period = Period()
    issued: str = ""
    performer: list[Reference] = []
    presentedForm: list[Attachment] = []
    conclusion: str = ""


class Condition(Part):
    code: Concept = Concept()
    subject: Reference = Reference()
    onsetDateTime: str = ""
    recordedDate: str = ""
    verificationStatus: Concept = Concept()


class Patient(Part):
    id: str = Field(min_length=1)
    birthDate: str = ""
    gender: str = ""


class Organization(Part):
    id: str
    name: str = ""


MODELS = {
    "DocumentReference": DocumentReference,
    "DiagnosticReport": DiagnosticReport,
    "Condition": Condition,
    "Patient": Patient,
    "Organization": Organization,
}


# --- resources -----------------------------------------------------------------------------------------------------------------------


def check_files(found: list[Path]) -> None:
    """Raise UserError for an empty or unreadable file, from its beginning."""
    for path in found:
        by_line(path)


def by_line(path: Path) -> bool:
    """Whether the file holds one resource per line (ndjson) rather than one JSON value. UserError where it is empty or cannot be unzipped."""
    sample = files.beginning(path)
    first = files.decode(sample, files.encoding_of(sample))[0].lstrip("\ufeff \r\n\t")
    if not first.startswith(("{", "[")) and files.kind_of(path) == "json":
        raise UserError(f"file {path}: this is no JSON. FHIR is read as Bundles (.json) or one resource per line (.ndjson).")
    # A Bundle that is written over several lines opens with a line that is no JSON value by itself; a long first line is told by the ending.
    line, end, _ = first.partition("\n")
    if not end:
        return files.kind_of(path) == "jsonl"
    return isinstance(load(line), dict) or files.kind_of(path) == "jsonl"


def load(text: str) -> object:
    """The JSON value, or None where there is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def resources(path: Path, kinds: str = "") -> Iterator[tuple[int, object, str, str]]:
    """(line or number of the entry, resource, its fullUrl, reason) of a file; a Bundle's entries one by one.

    kinds: a regular expression; lines of an ndjson file that it does not match are passed over unparsed.
    """
    if not by_line(path):
        yield from whole_file(path)
        return
    pattern = re.compile(kinds)
    lines = files.lines(path, files.encoding_of(files.head(path)), "\n")
    for number in itertools.count(1):
        try:
            line = next(lines, None)
        except files.DamagedFile as error:
            yield number, path.name, "", str(error)
            return
        if line is None:
            return
        if not line.strip() or not pattern.search(line):
            continue
        if len(line) > files.MAX_LINE * 5:
            yield number, line, "", f"the line has more than {files.MAX_LINE} characters"
            continue
        value = load(line)
        if not isinstance(value, dict):
            yield number, line, "", "this is no JSON object"
        else:
            for _, resource, url in unpacked(value):
                yield number, resource, url, ""


def whole_file(path: Path) -> Iterator[tuple[int, object, str, str]]:
    """The resources of a file with one JSON value."""
    try:
        with files.open_bytes(path) as stream:
            content = stream.read(MAX_BUNDLE + 1)
    except (EOFError, OSError, zlib.error):
        yield 1, path.name, "", "the gzip file is damaged or breaks off"
        return
    if len(content) > MAX_BUNDLE:
        raise UserError(f"file {path}: the Bundle has more than {MAX_BUNDLE:,} bytes. Export it as ndjson, one resource per line.")
    value = load(files.decode(content)[0].lstrip("\ufeff"))
    if not isinstance(value, (dict, list)):
        yield 1, path.name, "", "this is no whole JSON value: the file may be cut off"
        return
    for number, resource, url in unpacked(value):
        yield number, resource, url, ""


def unpacked(value: object) -> Iterator[tuple[int, object, str]]:
    """(number, resource, fullUrl) of a Bundle's entries, a list's members, or the one resource itself."""
    if isinstance(value, list):
        for number, resource in enumerate(value, 1):
            yield number, resource, ""
    elif isinstance(value, dict) and value.get("resourceType") == "Bundle" and isinstance(value.get("entry"), list):
        for number, entry in enumerate(value["entry"], 1):
            entry = entry if isinstance(entry, dict) else {"resource": entry}
            url = entry.get("fullUrl")
            yield number, entry.get("resource"), url if isinstance(url, str) else ""
    else:
        yield 1, value, ""


def parse(resource: object) -> tuple[BaseModel | None, str]:
    """(the resource as a model, "") or (None, reason). The reason names places and kinds of error, never values."""
    kind = resource.get("resourceType") if isinstance(resource, dict) else None
    if not isinstance(kind, str):
        return None, "this is no FHIR resource: resourceType is missing"
    try:
        return MODELS[kind].model_validate(resource), ""
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        return None, f"{kind}.{'.'.join(map(str, first['loc']))}: {first['type']}"


# --- people --------------------------------------------------------------------------------------------------------------------------


def read_people(found: list[Path], remarks: list) -> dict:
    """What Patient, Condition and Organization say: cancers {patient: code}, patients (frame of `local.read`), ids {fullUrl: id}, organizations."""
    persons, seen, ids, organizations, cancers_of, n_conditions, bad = {}, {}, {}, {}, [], 0, 0
    for path in found:
        for _, resource, url, reason in files.told(path.name, resources(path, r'"resourceType"\s*:\s*"(Patient|Condition|Organization|Bundle)"')):
            kind = resource.get("resourceType") if isinstance(resource, dict) and not reason else None
            if kind not in ("Patient", "Condition", "Organization"):
                continue
            model, reason = parse(resource)
            if reason:
                bad += 1
            elif kind == "Condition":
                n_conditions += 1
                cancers_of += filter(None, [condition_of(model)])
            else:
                (persons if kind == "Patient" else organizations)[model.id] = model
                if url:
                    ids[url] = model.id
    for subject, code, undecided, day in cancers_of:
        note_cancer(seen, id_of(subject, ids), code, day, undecided)
    cancers, firsts = choose_cancers(seen, remarks)
    rows = [
        (key, cancers.get(key, ""), age_at(dates.iso_date(person.birthDate, None), firsts.get(key, "")), gender_of(person)) for key, person in persons.items()
    ]
    remarks.append(f"{len(persons):,} Patient, {n_conditions:,} Condition" + (f", {bad:,} more of a form that is not FHIR R4 and not used" if bad else ""))
    return {"cancers": cancers, "patients": people_frame(rows), "ids": ids, "organizations": {key: model.name for key, model in organizations.items()}}


def gender_of(person: Patient) -> str:
    """MALE, FEMALE or ""."""
    return person.gender.upper() if person.gender in ("male", "female") else ""


def condition_of(condition: Condition) -> tuple | None:
    """(subject, cancer code, histology left open, ISO date or "9999"), or None where it is no known cancer or is refuted."""
    if NO_DIAGNOSIS & {coding.code for coding in condition.verificationStatus.coding}:
        return None
    code, undecided = next((found for coding in condition.code.coding if (found := cancer_codes.cancer_of(coding.code))[0]), ("", False))
    if not code:
        return None
    return condition.subject.reference, code, undecided, dates.iso_date(condition.onsetDateTime or condition.recordedDate, None) or "9999"


def id_of(reference: str, ids: dict[str, str]) -> str:
    """The id that a reference points to: `Patient/7`, a full URL, or `urn:uuid:...` by the entry that carries it."""
    reference = reference.partition("/_history")[0]
    return ids.get(reference) or reference.removeprefix("urn:uuid:").rpartition("/")[2]


# --- notes ---------------------------------------------------------------------------------------------------------------------------


def read_notes(found: list[Path], top: Path, people: dict, remarks: list) -> Iterator[tuple]:
    """(file, line, record, reason, content) of every DocumentReference and DiagnosticReport, and of what is no resource at all."""
    other, n = 0, 0
    for path in found:
        for line, resource, _, reason in resources(path):
            kind = resource.get("resourceType") if isinstance(resource, dict) else None
            if not reason and isinstance(kind, str) and kind not in DOCUMENTS:
                other += 1
                continue
            n += 1
            record = None
            if not reason:
                model, reason = parse(resource)
                if not reason and model.status in VOID:
                    reason = "dropped: entered in error, cancelled or superseded"
                if not reason:
                    record, reason = record_of(model, people)
            yield files.shown(path, top), line, record, reason, resource
    remarks.append(f"{len(found):,} files: {n:,} documents and reports, {other:,} other resources")


def record_of(model: DocumentReference | DiagnosticReport, people: dict) -> tuple[dict | None, str]:
    """(record of `readers`, "") or (None, reason)."""
    if isinstance(model, DocumentReference):
        kind, names, keepers = "DocumentReference", [model.type, *model.category], [model.custodian]
        day = model.date or model.context.period.start
        attachments, spare = [part.attachment for part in model.content], ""
    else:
        kind, names, keepers = "DiagnosticReport", [model.code, *model.category], model.performer
        day = model.effectiveDateTime or model.effectivePeriod.start or model.issued
        attachments, spare = model.presentedForm, model.conclusion
    text, reason = text_of(attachments)
    if reason and spare.strip():
        text, reason = spare, ""
    if reason:
        return None, reason
    return {
        "note_id": f"{kind}/{model.id}" if model.id.strip() else "", "patient_id": id_of(model.subject.reference, people["ids"]), "text": text, "date": day,
        "note_type": [name for concept in names for name in (concept.text, *(part for coding in concept.coding for part in (coding.display, coding.code)))],
        "site": next(filter(None, (organization_of(keeper, people) for keeper in keepers)), ""),
    }, ""  # fmt: skip


def organization_of(reference: Reference, people: dict) -> str:
    """Name of the organization that is referred to; "" for a person, whose name must not become a site."""
    if "Organization" in f"{reference.type} {reference.reference}" or reference.reference in people["ids"]:
        return people["organizations"].get(id_of(reference.reference, people["ids"])) or reference.display
    return ""
