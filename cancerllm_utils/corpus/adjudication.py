"""Where a report states one value and the registry another: a table with the likely kind, and the way back from a person's decisions.

The kind is a rule on the text around the quote or on the two values (labels.yaml, `disagreements`), never an opinion on who is right; what no
rule explains stays "unexplained". A person fills in the column adjudicated_value of disagreements.csv with an answer of the field,
`not stated` or `uncertain` (what the *text* states, whatever the registry says) and hands the file back as `adjudicated_csv`.
"""

import csv
import difflib
import io
from pathlib import Path

import pandas as pd

from ..errors import UserError
from . import reading
from .labels import FIELD_VALUES, RULES
from .reading import HISTOLOGY, VOCABULARY, compiled
from .schema import LABEL_COLUMNS

WORDS = VOCABULARY["disagreements"]
KINDS = WORDS["kinds"]      # kind -> its rule in a sentence
COLUMNS = ["note_id", "patient_id", "field", "stated_value", "registry_value", "kind", "quote_start", "quote_end", "split", "adjudicated_value", "comment"]
NO_VALUE = {"not stated": "not_stated", "uncertain": "uncertain"}


def disagreements(labels, notes, splits, patients=None, show_text=False):
    """One row per note and field whose stated value is not the registry's.

    Args: labels, DataFrame[LABEL_COLUMNS]; notes, DataFrame with note_id, cancer_type, text (the text that the quotes refer to); splits,
    DataFrame[patient_id, split]; patients, DataFrame[patient_id, staging_edition, diagnosis_year] or None; show_text adds a last column `quote` with the
    statement in its line: only for synthetic notes or where the institution allows it.
    Returns DataFrame[COLUMNS], sorted by field, cancer and note; adjudicated_value and comment are empty.
    """
    table = labels[(labels["evidence"] == "stated") & labels["registry_value"].notna() & (labels["stated_value"] != labels["registry_value"])]
    table = table.merge(notes[["note_id", "cancer_type", "text"]], on="note_id").merge(splits[["patient_id", "split"]], on="patient_id", how="left")
    editions = {}
    if patients is not None and {"staging_edition", "diagnosis_year"} <= set(patients):
        editions = dict(zip(patients["patient_id"], zip(patients["staging_edition"], patients["diagnosis_year"], strict=True), strict=True))
    table = table.sort_values(["field", "cancer_type", "note_id"], ignore_index=True)
    table["kind"] = [kind_of(row, editions.get(row.patient_id, ("", ""))) for row in table.itertuples()]
    table["adjudicated_value"], table["comment"] = "", ""
    if show_text:
        table["quote"] = [" ".join(row.text[max(0, row.quote_start - 60):row.quote_end + 40].split()) for row in table.itertuples()]
    return table[COLUMNS + ["quote"] * show_text]


def kinds_table(table):
    """Rows of `disagreements` counted: DataFrame[kind, rule, n and one column per field], kinds in the order in which they are tried."""
    counts = pd.crosstab(table["kind"], table["field"]).reindex(list(KINDS), fill_value=0)
    counts.insert(0, "n", counts.sum(axis=1))
    counts.insert(0, "rule", [KINDS[kind] for kind in counts.index])
    return counts.rename_axis(None, axis=1).rename_axis("kind").reset_index()


def write(table, path):
    """Write the table as CSV; decisions that a person already typed into the file at this place are kept.

    Returns the number of decisions kept. UserError if the file there cannot be read as such a table.
    """
    path, kept = Path(path), 0
    if path.is_file():
        decided = {(row["note_id"], row["field"]): row for _, row in read_rows(path) if row["adjudicated_value"]}
        found = [decided.get(key) for key in zip(table["note_id"], table["field"], strict=True)]
        table = table.assign(adjudicated_value=[row["adjudicated_value"] if row else "" for row in found],
                             comment=[row.get("comment", "") if row else "" for row in found])
        kept = sum(row is not None for row in found)
    table.to_csv(path, index=False)
    return kept


# ------------------------------------------------------------------ kinds
def kind_of(row, edition):
    """The first kind of KINDS whose rule fits one row (stated_value, registry_value, text, quote span, field, cancer_type); edition is (name, year)."""
    lower = reading.lower_keeping_length(row.text)
    start, end = int(row.quote_start), int(row.quote_end)
    left, right = reading.around(lower, start, end, 150, 80)
    if compiled(WORDS["clinical"]).search(left[-120:]):
        return "clinical"
    if is_other_tumor(lower, start, row.cancer_type) or compiled(WORDS["second_tumor"]).search(left + " | " + right):
        return "other tumour"
    if is_merge(row, lower[start:end]):
        return "merge"
    if row.field in WORDS["moved"] and is_other_edition(row, lower, *edition):
        return "edition"
    if row.registry_value in values_in(row.text, lower, row.field, row.cancer_type):
        return "two values"
    near = lower[max(0, start - 80):end + 80]
    digit = row.field in ("pT", "pN") and compiled(WORDS["read_digit"]).search(lower[start:end])
    return "damaged OCR" if digit or len(compiled(WORDS["odd"]).findall(near)) >= 4 else "unexplained"


def is_other_tumor(lower, start, cancer_type):
    """True where the last organ named before the quote is not the cancer's own."""
    words, left = VOCABULARY["tnm"], lower[max(0, start - 400):start]
    if cancer_type not in words["other_tumor"]:
        return False
    return reading.last_match(left, words["other_tumor"][cancer_type]) > reading.last_match(left, words["own_tumor"][cancer_type])


def is_other_edition(row, lower, edition, year):
    """True where the registry staged by another edition (such as "6th") than the one named in the text or in force that year."""
    edition, year = str(edition or "")[:1], str(year or "")
    if not edition or edition not in "5678":
        return False
    named = {group for match in compiled(WORDS["edition"]).finditer(lower) for group in match.groups() if group}
    if named or not year.isdigit():
        return bool(named) and edition not in named
    in_force = {str(number) for number, (first, last) in WORDS["in_force"].items() if first <= int(year) <= last}
    step = abs(int(row.stated_value[1]) - int(row.registry_value[1]))
    return bool(in_force) and edition not in in_force and step == 1 and row.cancer_type in WORDS["moved"][row.field]


def is_merge(row, quote):
    """True where the two values differ only by a merge that the rules make."""
    if row.field == "pN":
        return row.stated_value == "N0" and "x" in quote.split("n")[-1]
    if row.field.startswith("grade_"):
        return compiled(WORDS["range"]).search(quote) is not None
    if row.field in ("histology", "diagnosis"):
        stated, registry = row.stated_value.split(" of the ")[0], row.registry_value.split(" of the ")[0]
        parents = {name: HISTOLOGY["groups"].get(name, {}).get("kind_of", name) for name in (stated, registry)}
        return stated != registry and parents[stated] == parents[registry]
    return False


def values_in(text, lower, field, cancer_type):
    """Every value of the field that the text mentions anywhere, before the rules choose: a set."""
    if field in ("pT", "pN"):
        return {value for value, _, _ in reading.tnm_hits(text, field[1])}
    if field == "laterality":
        names = VOCABULARY["side"]["names"]
        return {names[match[1]] for match in compiled(VOCABULARY["side"]["words"]).finditer(lower)}
    if field == "gleason":
        pairs = [[int(group.replace("l", "1")) for group in match.groups() if group] for match in compiled(VOCABULARY["gleason"]["pair"]).finditer(lower)]
        return {str(sum(pair)) for pair in pairs} | {match[1] for match in compiled(VOCABULARY["gleason"]["sum"]).finditer(lower)}
    if field.startswith("grade_") and field != "grade_bladder":
        words = VOCABULARY["grade"]
        found = {value for value, _, _ in reading.numeric_hits(lower, [words["number"], words["who_number"], words["g_code"]])}
        return found | {f"G{words['word_values'][word]}" for match in compiled(words["words"]).finditer(lower) for word in match.groups() if word}
    if field in ("histology", "diagnosis"):
        groups = {group for group, _, _ in reading.histology_mentions(lower, cancer_type)}
        return groups if field == "histology" else {f"{group} of the {reading.organ_of(lower, cancer_type, group)}" for group in groups}
    return {value for value, _, _ in RULES[field](text, lower, cancer_type)}


# ------------------------------------------------------------------ the way back
def apply_adjudicated(labels, csv_path):
    """Labels with a person's decisions from an adjudicated disagreements.csv.

    Every row with an adjudicated_value replaces stated_value and evidence of its note and field; registry_value is never touched. The quote
    stays only where the decision confirms the value that the rules read. Commas, semicolons or tabs, with or without byte-order mark.
    Returns (new DataFrame, counts {rows, undecided, confirmed, changed, not_stated, uncertain}). Raises UserError that names file and line.
    """
    path = Path(csv_path)
    position = {key: place for place, key in enumerate(zip(labels["note_id"], labels["field"], strict=True))}
    notes = set(labels["note_id"])
    result = labels.copy()
    columns = {name: result[name].tolist() for name in ("evidence", "stated_value", "quote_start", "quote_end")}
    counts = dict.fromkeys(("rows", "undecided", "confirmed", "changed", "not_stated", "uncertain"), 0)
    decided = {}
    for line, row in read_rows(path):
        counts["rows"] += 1
        if not row["adjudicated_value"]:
            counts["undecided"] += 1
            continue
        key = (row["note_id"], row["field"])
        if key[0] not in notes:
            raise UserError(f"file {path}, line {line}: this note_id is not in the corpus. Hand back the table of this run, note_id unchanged.")
        if key not in position:
            fields = sorted({field for note, field in position if note == key[0]})
            raise UserError(f"file {path}, line {line}: the note has no such field. The nearest of its fields is '{nearest(key[1], fields)}'.")
        value = allowed(row["adjudicated_value"], key[1], labels)
        if value is None:
            answers = [*answers_of(key[1], labels), *NO_VALUE]
            raise UserError(f"file {path}, line {line}: adjudicated_value is no answer of {key[1]}."
                            f" The nearest allowed one is '{nearest(row['adjudicated_value'], answers)}'.")
        if decided.setdefault(key, value) != value:
            raise UserError(f"file {path}, line {line}: this note and field were decided otherwise on an earlier line. Keep one of the two.")
        place = position[key]
        if value == columns["stated_value"][place] and columns["evidence"][place] == "stated":
            counts["confirmed"] += 1
            continue
        counts[NO_VALUE.get(value, "changed")] += 1
        columns["evidence"][place] = NO_VALUE.get(value, "stated")
        columns["stated_value"][place] = None if value in NO_VALUE else value
        columns["quote_start"][place] = columns["quote_end"][place] = pd.NA
    result = result.assign(**columns).astype({"quote_start": "Int64", "quote_end": "Int64"})
    return result[[*LABEL_COLUMNS, *[name for name in result.columns if name not in LABEL_COLUMNS]]], counts


def read_rows(path, needed=("note_id", "field", "adjudicated_value"), table="disagreements.csv", parameter="adjudicated_csv", single=8):
    """Rows of an adjudicated table as (line, dict), cells stripped; whatever Excel makes of a CSV. UserError where it is no such table.

    needed: columns that it must have; table, parameter: its name and the parameter that named it, for the messages; single: how many first cells hold no line break.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"file {path}: cannot be read ({error.strerror}). Check {parameter}.") from None
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        content = raw.decode("cp1252", errors="replace")      # what Excel writes unless told "CSV UTF-8"
    lines = content.splitlines(keepends=True)
    skipped = 1 if lines and lines[0].lower().startswith("sep=") else 0
    header = lines[skipped] if len(lines) > skipped else ""
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO("".join(lines[skipped:]).replace("\x00", ""), newline=""), delimiter=delimiter, strict=True)
    names, rows, last = [], [], skipped
    try:
        for cells in reader:
            line, last = last + 1, skipped + reader.line_num
            cells = [cell.strip() for cell in cells]
            if not names:
                names = [cell.lower() for cell in cells]
                lacking = [name for name in needed if name not in names]
                if lacking:
                    raise UserError(f"file {path}, line {line}: column {lacking[0]} is missing. Hand back {table} with its first line unchanged.")
            elif any(cells):
                if any("\n" in cell or "\r" in cell for cell in cells[:single]):
                    raise UserError(f"file {path}, line {line}: a quotation mark is not closed. Save the table as CSV again.")
                rows.append((line, dict.fromkeys(names, "") | dict(zip(names, cells, strict=False))))
    except csv.Error as error:
        raise UserError(f"file {path}, line {last + 1}: {error}. Save the table as CSV again.") from None
    if not names:
        raise UserError(f"file {path}: is empty. Hand back {table} with its first line unchanged.")
    return rows


def answers_of(field, labels):
    """Allowed answers of a field; for the open ones what the registry and the texts of this corpus hold, for diagnosis also every pair."""
    if FIELD_VALUES.get(field):
        return FIELD_VALUES[field]
    rows = labels[labels["field"] == field]
    seen = set(rows["registry_value"].dropna()) | set(rows["stated_value"].dropna())
    if field == "diagnosis":
        seen |= {f"{group} of the {organ}" for group in FIELD_VALUES["histology"] for organ in set(HISTOLOGY["organs"].values())}
    return sorted(seen)


def allowed(typed, field, labels):
    """The answer that a cell means (case, spaces and underscores aside), or None."""
    answers = {" ".join(answer.lower().split()): answer for answer in [*answers_of(field, labels), *NO_VALUE]}
    return answers.get(" ".join(typed.lower().replace("_", " ").split()))


def nearest(typed, answers):
    """The most similar of the allowed words."""
    by_lower = {answer.lower(): answer for answer in answers}
    return by_lower[(difflib.get_close_matches(typed.lower(), by_lower, n=1, cutoff=0) or sorted(by_lower))[0]]
