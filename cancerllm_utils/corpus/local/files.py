"""Files as institutions hand them over: plain or gzip, UTF-8 or not, cut off or not. Read as a stream, in bounded memory."""

import codecs
import gzip
import io
import re
import time
import zlib
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path

from cancerllm_utils.errors import UserError

MAX_LINE = 4_000_000  # characters; a longer line is a binary file or a broken export, and must not fill the memory
SAMPLE = 65_536  # bytes that are looked at to tell an encoding or a format
SUFFIXES = {
    ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet", ".pq": "parquet", ".txt": "text",
    ".text": "text",
}  # fmt: skip


class DamagedFile(Exception):
    """The file ends or breaks in the middle. Never leaves the corpus package: readers turn it into a quarantine entry or a UserError."""


# A byte pair that is no UTF-16 becomes a lone surrogate, so that its row is set aside and the rows around it are read.
codecs.register_error("mark", lambda error: ("\udc00", error.end))


def kind_of(path: Path) -> str:
    """csv, jsonl, json, parquet or text by the ending (a .gz behind it does not count); "" for any other."""
    name = path.name.lower().removesuffix(".gz")
    return SUFFIXES.get(Path(name).suffix, "")


def head(path: Path, size: int = SAMPLE) -> bytes:
    """The first bytes, unzipped. Raises UserError where the file cannot be opened, DamagedFile where not even they can be unzipped."""
    with open_bytes(path) as stream:
        try:
            return stream.read(size)
        except (EOFError, OSError, zlib.error):
            pass
        stream.seek(0)
        try:
            return stream.read1(size)  # a file that is cut off still has what stands before the cut
        except (EOFError, OSError, zlib.error) as error:
            raise DamagedFile(f"the gzip file is damaged ({type(error).__name__})") from None


def beginning(path: Path) -> bytes:
    """The first bytes of a file that is to be read; UserError where it is empty or cannot be unzipped."""
    try:
        sample = head(path)
    except DamagedFile as error:
        raise UserError(f"file {path}: {error}. Export it again.") from None
    if not sample.strip():
        raise UserError(f"file {path}: it is empty. Leave it out, or export it again.")
    return sample


def open_bytes(path: Path) -> io.BufferedIOBase:
    """The file's bytes, unzipped where they are gzip by their first two bytes, whatever the ending says."""
    try:
        stream = open(path, "rb")
        zipped = stream.peek(2)[:2] == b"\x1f\x8b"
    except OSError as error:
        raise UserError(f"file {path}: it cannot be opened ({error.strerror}). Check the path and its permissions.") from None
    return gzip.GzipFile(fileobj=stream) if zipped else stream


def shown(path: Path, top: Path) -> str:
    """The file's path below the folder of the notes, as flow and quarantine name it; bytes of the name that are no UTF-8 as ?."""
    return path.relative_to(top).as_posix().encode("utf-8", "replace").decode()


def file_remark(counts: dict[str, str]) -> str:
    """The remark of the flow on {file: what was read}: the first five files, and how many more there are."""
    more = [f"and {len(counts) - 5:,} more files"] if len(counts) > 5 else []
    return "; ".join([f"{name}: {read}" for name, read in list(counts.items())[:5]] + more)


def told(name: str, rows: Iterator) -> Iterator:
    """The rows, with a line every five seconds on how many have been read."""
    begun = last = time.monotonic()
    for done, row in enumerate(rows, 1):
        yield row
        if done % 1_000 == 0 and time.monotonic() - last > 5:
            last = time.monotonic()
            print(f"reading {name}: {done:,} rows, {done / (last - begun):,.0f} rows/s", flush=True)


def encoding_of(sample: bytes) -> str:
    """Encoding by the byte order mark, or by every second byte being NUL; else UTF-8, whose bad bytes are dealt with row by row (`mend`)."""
    for mark, name in ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if sample.startswith(mark):
            return name
    even, odd = sample[0:2000:2], sample[1:2000:2]
    for first, second, name in ((even, odd, "utf-16-le"), (odd, even, "utf-16-be")):
        if len(sample) > 7 and second.count(0) > 0.9 * len(second) and first.count(0) < 0.1 * len(first):
            return name
    return "utf-8"


def lines(path: Path, encoding: str, newline: str = "") -> Iterator[str]:
    """Lines with their ends. A line above MAX_LINE comes cut to MAX_LINE + 1 characters. DamagedFile where a gzip file breaks off.

    newline as for `open`: "" also ends a line at a lone CR (and keeps every end as it is), "\\n" does not.
    """
    errors = "surrogateescape" if encoding.startswith("utf-8") else "mark"
    stream = io.TextIOWrapper(open_bytes(path), encoding=encoding, errors=errors, newline=newline)
    try:
        while line := stream.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                while (rest := stream.readline(MAX_LINE)) and not rest.endswith(("\n", "\r")):
                    pass
            yield line
    except (EOFError, OSError, zlib.error):
        raise DamagedFile("the file breaks off here (damaged gzip): what follows is lost") from None
    finally:
        stream.close()


def mend(text: str) -> tuple[str, str]:
    """(text, "cp1252" where it was read so, else ""). A text with bad bytes is Windows-1252 if all its other characters are ASCII;
    where valid UTF-8 stands beside bad bytes the text stays as it is, and the schema sets it aside."""
    if text.isascii():
        return text, ""
    try:
        text.encode("utf-8")
        return text, ""
    except UnicodeEncodeError:
        pass
    if any("\x7f" < character < "\udc80" or character > "\udcff" for character in text):
        return text, ""
    try:
        return text.encode("ascii", "surrogateescape").decode("cp1252"), "cp1252"
    except UnicodeDecodeError:
        return text, ""


def decode(content: bytes, charset: str = "") -> tuple[str, str]:
    """(text, encoding used) of a whole small file or attachment; bad bytes stay as lone surrogates, for the schema to find."""
    encoding = charset or encoding_of(content[:SAMPLE])
    try:
        text = content.decode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "mark")
    except (LookupError, UnicodeError):
        text, encoding = content.decode("utf-8", "surrogateescape"), "utf-8"
    text, other = mend(text)
    return text, other or encoding


def clean_text(text: str) -> str:
    """The note with line ends as LF and without a byte order mark: nothing else is touched."""
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff") if "\r" in text or "\ufeff" in text else text


def as_text(value: object) -> str | None:
    """A cell as text: numbers without a trailing `.0` (how pandas writes an id beside missing ones), dates as ISO, nothing as "".
    None for what no cell can be (a list, an object, true or false)."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return str(value) if abs(value) < 10**40 else None
    if isinstance(value, float):
        return "" if value != value else str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return None


HEADER_WORD = re.compile(
    r"(?i)id\b|_id|id_|text|note|patient|person|pat|date|datum|report|befund|type|site|mrn|document|body|content|name|field|value|code|source|author|dept"
)


def shown_names(names: list[str]) -> str:
    """Column names for a message, or a sentence without them where they look like a row of data: a file without a header must not print a patient."""
    short = [name for name in names if re.match(r"[^\W\d]", name) and len(name) <= 40 and len(name.split()) <= 3 and name.isprintable()]
    if len(short) < len(names) or 3 * sum(bool(HEADER_WORD.search(name)) for name in short) < len(names):
        return f"its first row has {len(names)} columns that do not look like column names"
    return "it has " + ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
