"""Rows of CSV, Parquet, JSON lines and text files as (file, line, record or None, reason, content); record: {column of the project: cell as text}."""

import itertools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from cancerllm_utils.corpus.local import delimited, files
from cancerllm_utils.errors import UserError

COLUMNS = ("note_id", "patient_id", "text", "note_type", "date", "site", "institution", "cancer_type")
NEEDED = {"note_id", "patient_id", "text"}


def columns_of(path: Path, source: dict) -> dict[str, int]:
    """{column of the project: position} in a CSV or Parquet file. A column that the profile names must be there; a default one may be missing."""
    wanted = {name: source[f"column_{name}"] for name in COLUMNS}
    needed = NEEDED | {name for name, column in wanted.items() if column != name}
    names, _, _ = delimited.header_of(path)
    return delimited.find_columns(path, names, wanted, needed, lambda name: f"Set column_{name} to the right one.")


def read_tables(source: dict, found: list[Path], remarks: list) -> Iterator[tuple]:
    """Rows of CSV and Parquet files."""
    columns = {path: columns_of(path, source) for path in found}  # all headers first: a wrong one stops before anything is read
    counts = {}
    for path in found:
        used, n, name = {}, 0, files.shown(path, source["place"])
        for line, record, reason, content in delimited.read_table(path, columns[path], ("note_id", "patient_id"), used):
            n += 1
            yield name, line, record, reason, content
        counts[name] = f"{n:,} rows{delimited.encodings(used)}"
    remarks.append(files.file_remark(counts))


def check_jsonl(path: Path, source: dict) -> dict[str, str]:
    """{column of the project: key} by the first hundred objects; UserError where the file is empty or none of them has a needed key."""
    wanted = {name: source[f"column_{name}"] for name in COLUMNS}
    needed = NEEDED | {name for name, column in wanted.items() if column != name}
    keys, objects = {}, 0
    lines = files.lines(path, jsonl_encoding(path), "\n")
    try:
        for row in map(parse_json, itertools.islice(lines, 1_000)):
            if isinstance(row, dict):
                keys |= row
                objects += 1
            if objects == 100:
                break
    except files.DamagedFile:
        pass
    if not objects:
        raise UserError(f"file {path}: its first lines hold no JSON object. Write one object with the note's keys per line.")
    names = list(keys)
    found = delimited.find_columns(path, names, wanted, needed, lambda name: f"Set column_{name} to the right one.")
    return wanted | {name: names[position] for name, position in found.items()}


def jsonl_encoding(path: Path) -> str:
    """The encoding; UserError where the file is empty or cannot be unzipped."""
    sample = files.beginning(path)
    return files.encoding_of(sample)


def parse_json(line: str) -> object:
    """The line's value, or None where it is no JSON (too deep and too long numbers included)."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def read_jsonl(source: dict, found: list[Path], remarks: list) -> Iterator[tuple]:
    """Rows of JSON lines."""
    counts, wanted = {}, {path: check_jsonl(path, source) for path in found}
    for path in found:
        encoding, used, n, file = jsonl_encoding(path), {}, 0, files.shown(path, source["place"])
        lines = files.lines(path, encoding, "\n")
        for number in itertools.count(1):
            try:
                line = next(lines, None)
            except files.DamagedFile as error:
                n += 1
                yield file, number, None, str(error), file
                break
            if line is None:
                break
            if not line.strip():
                continue
            n += 1
            if len(line) > files.MAX_LINE:
                yield file, number, None, f"the line has more than {files.MAX_LINE} characters", line
                continue
            line, other = files.mend(line)
            row = parse_json(line)
            if not isinstance(row, dict):
                yield file, number, None, "this is no JSON object", line
                continue
            used[other or encoding] = used.get(other or encoding, 0) + 1
            yield file, number, *jsonl_record(row, wanted[path]), line
        counts[file] = f"{n:,} rows{delimited.encodings(used)}"
    remarks.append(files.file_remark(counts))


def jsonl_record(row: dict, wanted: dict[str, str]) -> tuple[dict | None, str]:
    """(record, "") or (None, reason): the text must be text; an id may be a number."""
    record = {}
    for name, key in wanted.items():
        if key not in row:
            if name in NEEDED:
                return None, f"{key} is missing"
            continue
        value = row[key]
        cell = files.as_text(value)
        if cell is None or (name == "text" and not isinstance(value, str)):
            return None, f"{key} is {type(value).__name__}, not text"
        record[name] = cell
    return record, ""


def read_texts(source: dict, found: list[Path], remarks: list) -> Iterator[tuple]:
    """One note per text file."""
    used = {}
    for path in found:
        file = files.shown(path, source["place"])
        try:
            with files.open_bytes(path) as stream:
                content = stream.read(files.MAX_LINE + 1)
        except (EOFError, OSError, zlib.error):
            yield file, 1, None, "the gzip file is damaged or breaks off", file
            continue
        if len(content) > files.MAX_LINE:
            yield file, 1, None, f"the file has more than {files.MAX_LINE} bytes", file
            continue
        text, encoding = files.decode(content)
        used[encoding] = used.get(encoding, 0) + 1
        note_id = re.sub(r"(?i)(\.te?xt)?(\.gz)?$", "", file)
        folder, _, name = note_id.rpartition("/")
        yield file, 1, {"note_id": note_id, "patient_id": folder.rpartition("/")[2] or name.split("_")[0], "text": text}, "", text
    other = f"; {source['other_files']:,} files with other endings were not read" if source["other_files"] else ""
    remarks.append(f"{len(found):,} text files{delimited.encodings(used)}{other}")


READERS = {"csv": read_tables, "parquet": read_tables, "jsonl": read_jsonl, "text": read_texts}
