"""Tables as streams of records: CSV with any usual delimiter, and Parquet. A damaged record costs itself and never the rows behind it."""

import csv
import re
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path

from cancerllm_utils.corpus.local import files
from cancerllm_utils.errors import UserError

DELIMITERS = ",;\t|"
MAX_RECORD = 2 * files.MAX_LINE  # characters; a longer record is a quote that nobody closed
BATCH = 2_000  # rows of Parquet at a time
LEARN_ROWS = 2_000  # good rows from which the shapes of the ids are learnt

csv.field_size_limit(10**8)


def header_of(path: Path) -> tuple[list[str], str, str]:
    """(column names, delimiter, encoding) of a CSV file; (names, "", "") of a Parquet file. UserError where there is nothing to read."""
    if is_parquet(path):
        return [field.name for field in open_parquet(path).schema_arrow], "", ""
    sample = files.beginning(path)
    if sample.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"%PDF")):
        raise UserError(f"file {path}: this is no CSV but an Excel, ZIP or PDF file. Save it as CSV (UTF-8).")
    encoding = files.encoding_of(sample)
    try:
        first = next(files.lines(path, encoding), "")
    except files.DamagedFile as error:
        raise UserError(f"file {path}: {error}. Export it again.") from None
    delimiter = max(DELIMITERS, key=first.count)
    try:
        names = next(csv.reader([first], delimiter=delimiter, strict=True), [])
    except csv.Error:
        raise UserError(f"file {path}, line 1: the column names cannot be read, a quote is not closed. Put each name on line 1, without line breaks.") from None
    return [files.mend(name)[0].strip().removeprefix("\ufeff") for name in names], delimiter, encoding


def find_columns(path: Path, names: list[str], wanted: dict[str, str], needed: set[str], parameter: Callable[[str], str]) -> dict[str, int]:
    """{key: position} of the wanted columns {key: column name}, in any letter case; those in `needed` must be there.

    parameter: key -> how the profile names the column, for the message. UserError names the file, its columns and the nearest one.
    """
    lower = [name.lower() for name in names]
    found = {}
    for key, name in wanted.items():
        hits = [i for i, candidate in enumerate(names) if candidate == name] or [i for i, candidate in enumerate(lower) if candidate == name.lower()]
        if len(hits) > 1:
            raise UserError(f"file {path}: {len(hits)} columns are named {name!r}. Rename all but one.")
        if hits:
            found[key] = hits[0]
        elif key in needed:
            seen = files.shown_names(names)
            near = get_close_matches(name.lower(), lower, n=1, cutoff=0.4) if seen.startswith("it has ") else []
            hint = f" The nearest is {names[lower.index(near[0])]!r}." if near else ""
            raise UserError(f"file {path}: there is no column {name!r}; {seen}.{hint} {parameter(key)}")
    return found


def read_table(path: Path, columns: dict[str, int], ids: tuple[str, ...], used: dict) -> Iterator[tuple[int, dict | None, str, object]]:
    """(line, record, reason, content) of every row. record: {key: cell as text} or None with the reason why it cannot be read.

    columns: as from find_columns. ids: keys of the id columns, whose shapes tell a row from a fragment of text.
    used: counts how rows were decoded, {"utf-8": n, "cp1252": n, ...}; complete at the end.
    """
    reader = parquet_rows(path, columns) if is_parquet(path) else csv_rows(path, columns, ids, used)
    try:
        yield from reader
    except files.DamagedFile as error:
        yield 0, None, str(error), str(path.name)


def encodings(used: dict[str, int]) -> str:
    """`, read as utf-8` or, for more than one, with counts."""
    names = {"cp1252": "Windows-1252", "utf-8-sig": "UTF-8 with byte order mark"}
    parts = [names.get(name, name.upper()) + (f" {n:,}" if len(used) > 1 else "") for name, n in sorted(used.items())]
    return f", read as {', '.join(parts)}" if parts else ""


# --- CSV -----------------------------------------------------------------------------------------------------------------------------


def csv_rows(path: Path, columns: dict[str, int], ids: tuple[str, ...], used: dict) -> Iterator[tuple]:
    """Rows of a CSV file below its header."""
    names, delimiter, encoding = header_of(path)
    source = files.lines(path, encoding)
    next(source, None)
    picks = list(columns.items())
    positions = [columns[key] for key in ids if key in columns]
    for line, values, reason, content in csv_records(source, delimiter, len(names), positions):
        if not reason and values[0] == names[0] and values == names:
            reason = "the column names stand here again"
        if reason:
            yield line, None, reason, content
            continue
        record, how = {}, encoding
        for key, position in picks:
            value = values[position]
            if not value.isascii():
                value, other = files.mend(value)
                how = other or how
            record[key] = value
        used[how] = used.get(how, 0) + 1
        yield line, record, "", values


def csv_records(source: Iterator[str], delimiter: str, width: int, id_positions: list[int]) -> Iterator[tuple[int, list, str, object]]:
    """(first line, values, reason, content) of each record; the header line has been taken from `source`.

    A quote that is not closed swallows rows until the parser notices: the record's first line is then set aside and reading starts
    again on the next one. Up to the first line that parses and whose ids look like those of good rows, lines are fragments of the damaged
    record. A record that parses but holds a line which by itself would be a row is set aside too, with one entry for each such line.
    """
    again, taken, shapes, lost = deque(), [], set(), []
    line, learnt, size = 2, 0, 0

    def supply() -> Iterator[str]:
        nonlocal size
        while True:
            text = again.popleft() if again else next(source, None)
            if text is None:
                return
            taken.append(text)
            size += len(text)
            if len(text) > files.MAX_LINE or size > MAX_RECORD:
                raise csv.Error("too long")
            yield text

    def plausible(values: list[str]) -> bool:
        shape = shape_of(values, id_positions)
        return shape in shapes if shapes else bool(re.search("[9x]", shape)) and " " not in shape

    def damaged() -> tuple:
        first, fragments, why = lost[0][0], [text for _, text, _ in lost], lost[0][2]
        more = f"; with it {len(lost) - 1} lines up to the next row that can be read" if len(lost) > 1 else ""
        return first, [], why + more, "".join(fragments)

    reader = csv.reader(supply(), delimiter=delimiter, strict=True)
    while True:
        taken.clear()
        size = 0
        try:
            values = next(reader)
            why = ""
        except StopIteration:
            break
        except csv.Error:
            why = (
                f"the line has more than {files.MAX_LINE} characters"
                if len(taken[0]) > files.MAX_LINE
                else "a quote is not closed, or stands inside a quoted value without being doubled"
            )
        except files.DamagedFile:
            if lost:
                yield damaged()
            if taken:
                yield line, [], "the file breaks off inside this row", "".join(taken)
            raise
        if not why and len(taken) > 1 and len(values) != width:
            why = f"{len(values)} values under {width} column names, over more than one line: a quote is not closed"
        if why or (lost and (len(values) != width or not plausible(values))):
            lost.append((line, taken[0], why))
            again.extendleft(reversed(taken[1:]))
            reader = csv.reader(supply(), delimiter=delimiter, strict=True)
            line += 1
            continue
        if lost:
            yield damaged()
            lost.clear()
        if not values:  # an empty line
            pass
        elif len(values) != width:
            yield line, values, f"{len(values)} values under {width} column names", values
        elif len(taken) > 1 and (rows := swallowed(taken, delimiter, width, id_positions, shapes)):
            yield line, values, "a quoted value holds what looks like other rows: a quote is not closed", values
            for offset in rows:
                yield line + offset, [], f"swallowed by the quote that is not closed on line {line}", taken[offset]
        else:
            if learnt < LEARN_ROWS:
                learnt += 1
                shapes.add(shape_of(values, id_positions))
            yield line, values, "", values
        line += len(taken)
    if lost:
        yield damaged()


def shape_of(values: list[str], positions: list[int]) -> str:
    """What the ids look like: digits 9, words a, mixed x. `TCGA-AA-1234` and `ABCD-XY-9` are both a-a-9."""
    return "\t".join(re.sub(r"[^\W_]+", class_of, values[i][:100]) for i in positions if i < len(values))


def class_of(match: re.Match) -> str:
    """9 for digits, a for letters, x for both."""
    word = match.group()
    return "9" if word.isdigit() else "a" if word.isalpha() else "x"


def swallowed(taken: list[str], delimiter: str, width: int, positions: list[int], shapes: set[str]) -> list[int]:
    """Positions of the record's inner lines that would be rows by themselves: as many values, and ids like those of good rows."""
    found = []
    for offset, text in enumerate(taken[1:], 1):
        if text.count(delimiter) < width - 1:
            continue
        try:
            values = next(csv.reader([text], delimiter=delimiter), [])
        except csv.Error:
            continue
        if len(values) == width and shape_of(values, positions) in shapes:
            found.append(offset)
    return found


# --- Parquet -------------------------------------------------------------------------------------------------------------------------


def is_parquet(path: Path) -> bool:
    """Whether the file is Parquet by its first four bytes, or by its ending."""
    try:
        return files.head(path, 4) == b"PAR1" or files.kind_of(path) == "parquet"
    except files.DamagedFile:
        return files.kind_of(path) == "parquet"


def open_parquet(path: Path):
    """The file, read in pages so that a large row group does not fill the memory. UserError where it is no whole Parquet file."""
    import pyarrow
    import pyarrow.parquet

    try:
        source = path
        with path.open("rb") as stream:
            zipped = stream.read(2) == b"\x1f\x8b"
        if zipped:  # Parquet is read from its end, so a gzip file is unpacked first
            source = tempfile.TemporaryFile()
            with files.open_bytes(path) as stream:
                while block := stream.read(1 << 20):
                    source.write(block)
            source.seek(0)
        return pyarrow.parquet.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
    except (pyarrow.ArrowException, OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is empty, cut off or no Parquet file"
        raise UserError(f"file {path}: it cannot be read as Parquet ({reason}). Export it again.") from None


def parquet_rows(path: Path, columns: dict[str, int]) -> Iterator[tuple]:
    """Rows of a Parquet file; `line` is the row's number, from 1. DamagedFile where a page is broken."""
    import pyarrow

    table = open_parquet(path)
    names = [field.name for field in table.schema_arrow]
    wanted = {key: names[position] for key, position in columns.items()}
    line = 0
    try:
        for batch in table.iter_batches(batch_size=BATCH, columns=list(wanted.values()), use_threads=False):
            cells = {key: column_cells(batch.column(name)) for key, name in wanted.items()}
            for row in zip(*cells.values(), strict=True):
                line += 1
                record, reason = {}, ""
                for key, value in zip(cells, row, strict=True):
                    text = files.as_text(value)
                    if text is None:
                        reason = f"{key} is {type(value).__name__}, not text"
                        break
                    record[key] = text if text.isascii() else files.mend(text)[0]
                yield line, None if reason else record, reason, row
    except (pyarrow.ArrowException, OSError):
        raise files.DamagedFile(f"the Parquet file is damaged after row {line}: what follows is lost") from None


def column_cells(column) -> list:
    """The column's values; text as bytes first, because Parquet may hold text that is no UTF-8."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pyarrow.types.is_string(kind):
        column = column.cast(pyarrow.binary())
    elif pyarrow.types.is_large_string(kind):
        column = column.cast(pyarrow.large_binary())
    elif pyarrow.types.is_timestamp(kind):
        column = column.cast(pyarrow.timestamp("us"), safe=False)
    return column.to_pylist()
