"""Fuzzing of the intake: whatever an institution hands over, the only exception is a UserError, every row is accounted for, and no content leaks.

CANCERLLM_CHAOS_ROWS and CANCERLLM_CHAOS_FILES say how many malformed rows and files are tried (500 and 20 unless told).
"""

import base64
import gzip
import json
import os
import random
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cancerllm_utils.corpus import local
from cancerllm_utils.corpus.schema import NOTE_COLUMNS, QUARANTINE_COLUMNS
from cancerllm_utils.errors import UserError

ROWS_PER_FILE = 25
N_ROWS = int(os.environ.get("CANCERLLM_CHAOS_ROWS", "500"))
N_FILES = int(os.environ.get("CANCERLLM_CHAOS_FILES", "20"))
CHAOS = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
SECRET = "quokka"  # stands in every note and must stand in no message, flow or quarantine entry


def read_all(place: Path, source: dict) -> tuple[list[dict], dict] | None:
    """Notes and result, or None where a UserError stopped the reading; asserts what must hold for any input."""
    source = {"data_dir": str(place)} | source
    try:
        local.check_files(source)
        stopped = ""
    except UserError as error:
        stopped = str(error)
    try:
        result = local.read(source)
        notes = [note for batch in result["batches"] for note in batch]
    except UserError as error:
        for message in (str(error), stopped):
            assert SECRET not in message.lower() and "\n" not in message and message.isprintable()
        return None
    flow, entries = result["flow"], result["quarantined"]
    assert not stopped, "check_files stops what read would read"
    assert flow[0]["n_reports"] == len(notes) + sum(step["dropped"] for step in flow)
    of_labels = sum(entry["file"].startswith("labels") for entry in entries)
    assert flow[1]["dropped"] == len(entries) - of_labels
    for entry in entries:
        assert list(entry) == QUARANTINE_COLUMNS and isinstance(entry["line"], int) and entry["reason"] and len(entry["sha256"]) == 64
    assert SECRET not in json.dumps([flow, entries]).lower()
    for note in notes:
        assert all(isinstance(note[name], str) for name in NOTE_COLUMNS) and note["note_id"] and note["patient_id"]
    assert len({note["note_id"] for note in notes}) == len(notes)
    return notes, result


# --- rows ----------------------------------------------------------------------------------------------------------------------------

characters = st.characters(exclude_categories=())  # surrogates and control characters too
words = st.text(characters, max_size=40)
odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**60), st.floats(), words, st.sampled_from(["", " ", "\x00", "\ud800", "\ufeff", "NaN", "null", '"', "\\", "=1+1", "n1", "p1", "0", "31/12/2020", "2020-13-45", "C50", "C34"]),
    st.lists(st.integers(), max_size=3), st.dictionaries(words, words, max_size=2), st.recursive(st.none(), lambda inner: st.lists(inner, max_size=2), max_leaves=20),
)  # fmt: skip
notes = st.one_of(
    words.map(lambda text: f"{SECRET} {text}"), words.map(lambda text: f'"{text}\n{SECRET}, {SECRET}"\r\n'), st.just(f"{SECRET} " * 90_000), st.just(f'{SECRET}\r"\r{SECRET}'), odd
)  # fmt: skip
rows = st.fixed_dictionaries(
    {},
    optional={
        "note_id": st.one_of(st.integers(0, 60).map(lambda n: f"n{n}"), st.integers(0, 99), odd), "patient_id": st.one_of(st.integers(0, 20).map(lambda n: f"p{n}"), odd), "text": notes,
        "date": odd, "note_type": odd, "site": odd, "institution": odd, "cancer_type": odd, "more": odd,
    },
)  # fmt: skip
HEADER = ["note_id", "patient_id", "text", "date", "note_type", "site", "institution", "cancer_type"]


def spelled(value: object) -> str:
    """A cell as a careless exporter would write it."""
    return "" if value is None else value if isinstance(value, str) else str(value)


def quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def write_rows(form: str, content: list[dict], folder: Path) -> int:
    """Write rows as a well-formed file of malformed rows; returns how many rows a reader must account for."""
    if form == "csv":
        lines = [",".join(HEADER), *(",".join(quoted(spelled(row.get(name))) for name in HEADER) for row in content)]
        (folder / "notes.csv").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    elif form == "jsonl":
        lines = [json.dumps(row) if len(json.dumps(row)) % 7 else json.dumps(row)[:-3] for row in content if row]
        first = json.dumps(dict.fromkeys(HEADER, "first"))
        (folder / "notes.jsonl").write_text("\n".join([first, *lines, "[" * 50_000, '{"a": ' * 30_000, "7", "nul", '{"note_id": ' + "9" * 6000 + "}"]))
        return 1 + len(lines) + 5
    elif form == "parquet":
        column = {name: [spelled(row.get(name)).encode("utf-8", "surrogatepass") for row in content] for name in HEADER}
        pd.DataFrame(column).to_parquet(folder / "notes.parquet")
    elif form == "omop":
        names = ["NOTE_ID", "PERSON_ID", "NOTE_TEXT", "NOTE_DATE", "NOTE_TITLE"]
        lines = [
            "\t".join(names),
            *("\t".join(quoted(spelled(row.get(name))) for name in ("note_id", "patient_id", "text", "date", "note_type")) for row in content),
        ]
        (folder / "NOTE.csv").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        lines = [
            "person_id,year_of_birth,gender_concept_id,care_site_id",
            *(",".join(quoted(spelled(row.get(name))) for name in ("patient_id", "date", "site", "more")) for row in content),
        ]
        (folder / "PERSON.csv").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        lines = [
            "person_id,condition_source_value,condition_start_date",
            *(",".join(quoted(spelled(row.get(name))) for name in ("patient_id", "cancer_type", "date")) for row in content),
        ]
        (folder / "CONDITION_OCCURRENCE.csv").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    else:
        lines = [json.dumps(resource) for row in content for resource in resources_of(row)]
        (folder / "export.ndjson").write_text("\n".join(['{"resourceType": "Patient", "id": "p0"}', *lines]))
        return sum(len(resources_of(row)) for row in content) - 2 * len(content)
    return len(content)


def resources_of(row: dict) -> list[dict]:
    """A document, a Patient and a Condition with the row's odd cells in their places."""
    get = row.get
    text = get("text")
    blob = base64.b64encode(text.encode("utf-8", "surrogatepass")).decode() if isinstance(text, str) and len(text) % 3 else text
    part = {"contentType": get("more", "text/plain") if "site" in row else "text/html", "data": blob}
    document = {
        "resourceType": "DocumentReference", "id": get("note_id"), "status": get("site", "current"), "type": {"text": get("note_type", "x")}, "date": get("date", ""),
        "subject": {"reference": get("patient_id", "Patient/p1")}, "content": [{"attachment": part}] if "more" in row or "date" in row else get("cancer_type", []),
    }  # fmt: skip
    if "institution" in row:
        document |= {"resourceType": "DiagnosticReport", "conclusion": text, "presentedForm": [part]}
    return [
        document,
        {"resourceType": "Patient", "id": get("patient_id"), "birthDate": get("date"), "gender": get("site")},
        {"resourceType": "Condition", "subject": {"reference": get("patient_id")}, "code": {"coding": [{"code": get("cancer_type")}]}, "onsetDateTime": get("date", "2020")},
    ]  # fmt: skip


@settings(max_examples=-(-N_ROWS // ROWS_PER_FILE), **CHAOS)
@given(form=st.sampled_from(["csv", "jsonl", "parquet", "omop", "fhir"]), content=st.lists(rows, min_size=ROWS_PER_FILE, max_size=ROWS_PER_FILE))
def test_malformed_rows(form, content):
    with tempfile.TemporaryDirectory() as folder:
        n = write_rows(form, content, Path(folder))
        found = read_all(Path(folder), {"note_type_pathology": ["path", 7]})
        assert found is not None, "rows alone never stop a file whose head is right"
        assert found[1]["flow"][0]["n_reports"] == n


# --- files ---------------------------------------------------------------------------------------------------------------------------

TOKENS = [f"{SECRET}{chr(97 + i // 26)}{chr(97 + i % 26)}z" for i in range(60)]


def good_file(form: str, rng: random.Random) -> tuple[str, bytes]:
    """(file name, content) of 60 good notes, each with a token of its own."""
    texts = [
        rng.choice(["{} is well", "{}, then;\nmore, of it\n1,2,3 things", 'a "{}" by mouth', "{} of 5 cm", "{} größer", 'needle of 5" {}', '{} of 5"']).format(
            token
        )
        for token in TOKENS
    ]
    ids = [(f"n{i}", f"p{i // 3}") for i in range(60)]
    if form == "csv":
        plain = [
            f"{note},{patient},{text}" if not set(text) & set(",\n") and text[0] != '"' and rng.random() < 0.7 else f"{note},{patient},{quoted(text)}"
            for (note, patient), text in zip(ids, texts)
        ]
        return "notes.csv", "\n".join(["note_id,patient_id,text", *plain, ""]).encode()
    if form == "jsonl":
        return "notes.jsonl", "\n".join(
            json.dumps({"note_id": note, "patient_id": patient, "text": text}) for (note, patient), text in zip(ids, texts)
        ).encode()
    if form == "parquet":
        frame = pd.DataFrame({"note_id": [note for note, _ in ids], "patient_id": [patient for _, patient in ids], "text": texts})
        with tempfile.NamedTemporaryFile() as file:
            frame.to_parquet(file.name, row_group_size=7)
            return "notes.parquet", Path(file.name).read_bytes()
    if form == "text":
        return "p1_note.txt", "\n".join(texts).encode()
    documents = [
        resources_of({"note_id": note, "patient_id": f"Patient/{patient}", "text": text + "." * (len(text) % 3 == 0), "date": "2020-01-01"})[0]
        for (note, patient), text in zip(ids, texts)
    ]
    if form == "fhir":
        return "bundle.json", json.dumps(
            {"resourceType": "Bundle", "entry": [{"resource": document} for document in documents]}, indent=rng.choice([None, 1])
        ).encode()
    return "export.ndjson", "\n".join(map(json.dumps, documents)).encode()


def damage(kind: str, name: str, content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """The file after one accident."""
    at = rng.randrange(len(content))
    lines = content.split(b"\n")
    if kind == "gzip cut off":
        packed = gzip.compress(content)
        return f"{name}.gz", packed[: rng.randrange(len(packed))]
    if kind == "gzip with a wrong byte":
        packed = bytearray(gzip.compress(content))
        packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
        return name, bytes(packed)
    if kind == "two gzip files in one":
        return f"{name}.gz", gzip.compress(content) + gzip.compress(content[:at])
    if kind == "wrong ending":
        return rng.choice(["notes.csv", "notes.jsonl", "notes.json", "notes.parquet", "p_1.txt", "notes.tsv.gz", "notes.xlsx", "notes"]), content
    if kind == "another encoding":
        return name, content.decode("utf-8", "replace").encode(
            rng.choice(["cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7"]), "replace"
        )
    if kind == "encodings mixed by line":
        return name, b"\n".join(line.decode("utf-8", "replace").encode(rng.choice(["utf-8", "cp1252", "utf-16-le"]), "replace") for line in lines)
    changed = {
        "cut in half": content[:at], "head lost": content[at:], "first line lost": b"\n".join(lines[1:]), "empty": b"", "white space": b" \r\n\t\n", "binary": rng.randbytes(rng.randrange(5000)),
        "quote put in": content[:at] + b'"' + content[at:], "bytes put in": content[:at] + rng.randbytes(9) + content[at:], "marks put in": content[:at] + b"\xef\xbb\xbf" + content[at:], "NULs put in": content[:at] + b"\x00" * 5 + content[at:],
        "a byte changed": content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :], "quotes lost": content.replace(b'"', b"", rng.randrange(9)), "lines doubled": b"\n".join(lines + lines[3:]),
        "lines of CR": content.replace(b"\n", b"\r"), "lines of CRLF": content.replace(b"\n", b"\r\n"), "no line ends": content.replace(b"\n", b" "), "one huge line": content + b"x" * 9_000_000, "lines shuffled": b"\n".join(rng.sample(lines, len(lines))),
    }  # fmt: skip
    return name, changed[kind]


KINDS = [
    "gzip cut off", "gzip with a wrong byte", "two gzip files in one", "wrong ending", "another encoding", "encodings mixed by line", "cut in half", "head lost", "first line lost", "empty", "white space", "binary",
    "quote put in", "bytes put in", "marks put in", "NULs put in", "a byte changed", "quotes lost", "lines doubled", "lines of CR", "lines of CRLF", "no line ends", "one huge line", "lines shuffled",
]  # fmt: skip
FORMS = ["csv", "jsonl", "parquet", "text", "fhir", "ndjson"]
seen = Counter()


@settings(max_examples=N_FILES, **CHAOS)
@given(form=st.sampled_from(FORMS), kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6), named=st.booleans())
@example(form="csv", kind="quote put in", seed=1, named=False)
@example(form="csv", kind="quotes lost", seed=2, named=False)
@example(form="parquet", kind="cut in half", seed=3, named=True)
@example(form="ndjson", kind="gzip cut off", seed=4, named=False)
def test_malformed_files(form, kind, seed, named):
    rng = random.Random(f"{form} {kind} {seed}")
    name, content = damage(kind, *good_file(form, rng), rng)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        found = read_all(Path(folder), {"data_source": form.replace("ndjson", "fhir") if named else ""})
    seen["stopped" if found is None else "read"] += 1
    if found is None or form == "text" or name.endswith(".txt") or kind in ("no line ends", "head lost"):
        return
    for note in found[0]:
        own = [token for token in TOKENS if token in note["text"]]
        assert len(own) <= 1, "a note holds another patient's text"


def test_one_quote_too_many_never_mixes_patients():
    """Every position of a small file: a quote put in, and a byte taken out."""
    rng = random.Random(5)
    _, content = good_file("csv", rng)
    content = b"\n".join(content.split(b"\n")[:25])
    step = max(1, len(content) * 2 // N_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notes.csv"
        for at in range(content.index(b"\n") + 1, len(content), step):
            for changed in (content[:at] + b'"' + content[at:], content[:at] + content[at + 1 :]):
                path.write_bytes(changed)
                notes, _ = read_all(Path(folder), {})
                assert all(sum(token in note["text"] for token in TOKENS) <= 1 for note in notes), "a note holds another patient's text"
