"""The tables that notebooks 01 and 02 show; each takes frames and returns a frame."""

import html
import json
import re
import warnings
from itertools import pairwise
from pathlib import Path

import pandas as pd

from cancerllm_utils.corpus.quality import STRATA, several_tumours, strata
from cancerllm_utils.corpus.splits import SPLITS as RINGS
from cancerllm_utils.errors import UserError
from cancerllm_utils.results import ring_name

MARKED = "background:#fff1c2;color:#000;border-bottom:2px solid #000"
CHIP = "border:1px solid #000;border-radius:3px;padding:0 3px;margin:0 2px;font-size:80%;color:#000;background:#fff;display:inline-block;line-height:1.3"
MAX_ANSWERS = 12  # a field with more different values is no line of Table 1
PATIENT_FIELDS = ("sex", "race", "ecog", "smoking")  # of the patient, not of the tumour; registries print some in capitals
TABLE_FIELDS = (
    "stage_group", "stage", "stage T", "stage N", "pT", "pN", "grade", "grade_differentiation", "grade_fuhrman", "grade_who", "grade_bladder", "gleason",
    "receptor_type", "er", "pr", "her2",
)  # fmt: skip


def word_counts(notes: pd.DataFrame, quality: pd.DataFrame | None = None) -> pd.Series:
    """Words of each note, on the index of `notes`: as `quality` measured them, else counted in the text."""
    if quality is not None:
        return notes["note_id"].map(quality.set_index("note_id")["words"])
    return notes["text"].str.count(r"\S+")


def people(corpus: dict) -> pd.DataFrame:
    """One row per patient with notes: patient_id, split, cancer_type, what `patients` knows of them, notes, words per note, and a column for each
    registry field of TABLE_FIELDS with few answers (a category, not a size). Unknown is NaN; the words of a patient's notes are averaged."""
    notes = corpus["notes"]
    words = word_counts(notes, corpus.get("quality")).groupby(notes["patient_id"])
    table = corpus["patients"].drop_duplicates("patient_id").merge(corpus["splits"], on="patient_id")
    table["cancer_type"] = table["cancer_type"].replace("", "not known")
    table = table.rename(columns={"gender": "sex"}).replace("", None).set_index("patient_id", drop=False).rename_axis(None)
    table["notes per patient"], table["words per note"] = words.size().astype(float), words.mean()
    table = table[table["notes per patient"] > 0].copy()
    for name in PATIENT_FIELDS:
        if name in table:
            table[name] = table[name].astype("string").str.lower().replace({"f": "female", "m": "male"})
    if "age" in table:
        table["age"] = pd.to_numeric(table["age"], errors="coerce").astype(float)
    known = corpus["labels"].dropna(subset=["registry_value"]).drop_duplicates(["patient_id", "field"])
    known = known[known["field"].isin(TABLE_FIELDS)]
    for field in sorted(set(known["field"]) - set(table), key=TABLE_FIELDS.index):
        values = known[known["field"] == field].set_index("patient_id")["registry_value"]
        if field == "stage":  # "T2 N1" has too many values for a table
            table["stage T"], table["stage N"] = values.str.extract(r"^(T\w+)")[0], values.str.extract(r"\b(N\w+)$")[0]
        elif values.nunique() <= MAX_ANSWERS:
            table[field] = values
    return table


def table_one(corpus: dict, by: str = "split") -> pd.DataFrame:
    """Table 1 of the patients, by ring (`by="split"`, one column per ring) or by cancer type (`by="cancer_type"`, one row per cancer type).

    Age, notes per patient and words per note: median [quartiles]; sex, race, stage, grade, receptors: n (%), where the corpus knows them, with the
    missing ones as a level of their own. A registry field is counted among the patients of the cancers that have it, which its row names.
    corpus: frames notes, patients, splits, labels.
    """
    table = people(corpus)
    if table.empty:
        return pd.DataFrame(columns=["characteristic", "level"])
    numbers = [name for name in ("age", "notes per patient", "words per note") if name in table and table[name].notna().any()]
    known = [name for name in (*PATIENT_FIELDS, *TABLE_FIELDS) if name in table and table[name].notna().any()]
    if by == "cancer_type":
        made = describe(table, numbers, known[:1] if "sex" in known else [], by, sorted(set(table["cancer_type"])))
        made.index = made["characteristic"].str.removesuffix(", n (%)") + made["level"].where(made["level"] == "", ": " + made["level"])
        made = made.drop(columns=["characteristic", "level"]).T.rename_axis("cancer type").reset_index()
        return made.rename(columns={"n": "patients"}).rename_axis(None, axis=1)
    rings = [ring for ring in RINGS if ring in set(table["split"])]
    parts = [describe(table, numbers, [name for name in known if name in PATIENT_FIELDS], by, rings)]
    for field in known:
        if field not in PATIENT_FIELDS:
            asked = sorted(set(table.loc[table[field].notna(), "cancer_type"]))
            who = ", ".join(asked) if len(asked) <= 3 else f"{len(asked)} cancers"
            part = describe(table[table["cancer_type"].isin(asked)], [], [field], by, rings).iloc[1:]
            parts.append(part.assign(characteristic=part["characteristic"].str.replace(", n (%)", f" ({who}), n (%)")))
    made = pd.concat(parts, ignore_index=True).fillna("")
    missing = {name: int(table[name].isna().sum()) for name in numbers}
    made["missing"] = [missing.get(name.rpartition(", ")[0], "") for name in made["characteristic"]]
    made.loc[made["characteristic"].duplicated(), "characteristic"] = ""
    made.loc[0, "characteristic"] = "patients"
    made["characteristic"] = made["characteristic"].str.replace(r"^(er|pr|her2|ecog)\b", lambda found: found[0].upper(), regex=True).str.replace("_", " ")
    made = made.rename(columns={ring: ring_name(ring) for ring in rings})
    return pd.concat([made.iloc[:1], where_from(corpus, made.columns), made.iloc[1:]], ignore_index=True)


def describe(table: pd.DataFrame, numbers: list[str], groups: list[str], by: str, columns: list[str]) -> pd.DataFrame:
    """tableone's summary as a plain frame: characteristic, level, overall, one column per value of `by`; missing categories are a level."""
    from tableone import TableOne  # half a second of import that the other tables do not need

    table = table.assign(**{name: table[name].fillna("missing") for name in groups})
    order = {
        name: sorted(set(table[name]), key=lambda value: (value == "missing", re.sub(r"\d+", lambda number: number[0].zfill(3), value))) for name in groups
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas announces a change that tableone has still to follow
        made = TableOne(table[[*numbers, *groups, by]], columns=numbers + groups, categorical=groups, continuous=numbers, nonnormal=numbers, groupby=by,
                        order=order | {by: columns}, missing=False, decimals=dict.fromkeys(numbers, 0)).tableone  # fmt: skip
    made.columns = ["overall" if name == "Overall" else name for _, name in made.columns]
    made = made.reset_index(names=["characteristic", "level"])
    return made[["characteristic", "level", "overall", *[name for name in columns if name in made]]]


def where_from(corpus: dict, columns: list[str]) -> pd.DataFrame:
    """Rows for Table 1: notes, institutions, sites and cancer types of each ring."""
    notes = corpus["notes"][["patient_id", "institution", "site", "cancer_type"]].merge(corpus["splits"], on="patient_id")
    parts = {"overall": notes} | {ring_name(ring): notes[notes["split"] == ring] for ring in RINGS}
    parts = {name: part for name, part in parts.items() if name in columns}
    rows = [{"characteristic": "notes"} | {name: f"{len(part):,}" for name, part in parts.items()}]
    for column, name in (("institution", "institutions"), ("site", "sites"), ("cancer_type", "cancer types")):
        rows.append({"characteristic": name} | {ring: part[column].nunique() for ring, part in parts.items()})
    return pd.DataFrame(rows).assign(level="", missing="")


def duplicates_table(duplicates: pd.DataFrame, splits: pd.DataFrame | None = None, notes: pd.DataFrame | None = None) -> pd.DataFrame:
    """What the search for copies found: one row per kind (exact, near) with groups, notes in them, and copies (all but one of each group).

    duplicates: note_id, group, kind. With splits and notes also the groups whose kept notes stand in more than one ring; it must be 0.
    """
    rings = None
    if splits is not None and notes is not None:
        ring_of = notes[["note_id", "patient_id"]].merge(splits, on="patient_id").set_index("note_id")["split"]
        rings = duplicates.assign(split=duplicates["note_id"].map(ring_of)).groupby("group")["split"].nunique()
    near = set(duplicates.loc[duplicates["kind"] == "near", "group"])  # a group with one near copy is a near group
    rows = []
    for kind in ("exact", "near"):
        part = duplicates[duplicates["group"].isin(near) == (kind == "near")]
        row = {"kind": kind, "groups": part["group"].nunique(), "notes in them": len(part), "copies": len(part) - part["group"].nunique()}
        if rings is not None:
            row["groups across rings"] = int((rings.reindex(part["group"].unique()) > 1).sum())
        rows.append(row)
    return pd.DataFrame(rows)


def quality_table(quality: pd.DataFrame) -> pd.DataFrame:
    """Text quality in one column of numbers: notes, OCR noise (median, 95 %), cut points of the thirds, language, several organs or tumours."""
    names, cuts = strata(quality)
    counts = names.value_counts()
    rows = [
        ("notes", f"{len(quality):,}"),
        ("OCR noise, median", f"{quality['ocr_noise'].median():.3f}" if len(quality) else ""),
        ("OCR noise, 95 % of the notes below", f"{quality['ocr_noise'].quantile(0.95):.3f}" if len(quality) else ""),
        *(
            (f"{name}: noise {span}", f"{counts.get(name, 0):,}")
            for name, span in zip(STRATA, (f"up to {cuts[0]:.3f}", f"up to {cuts[1]:.3f}", f"above {cuts[1]:.3f}"))
        ),
        ("not in English, or undecided", f"{(quality['language'] != 'en').sum():,}"),
        ("two or more organs named as the seat of a tumour", f"{(quality['organs'] > 1).sum():,}"),
        ("two or more different pT", f"{(quality['t_categories'] > 1).sum():,}"),
        ("flagged for several tumours (either)", f"{several_tumours(quality).sum():,}"),
    ]
    return pd.DataFrame(rows, columns=["measure", "value"])


def scrubbed_table(removed: dict[str, int]) -> pd.DataFrame:
    """What scrubbing took out, by kind."""
    return pd.DataFrame([{"kind": kind, "removed": n} for kind, n in sorted(removed.items(), key=lambda item: -item[1])], columns=["kind", "removed"])


def evidence_table(labels: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Per field: in how many notes the text states it, clearly does not, or leaves it uncertain; and how many have a registry value."""
    table = labels.merge(splits, on="patient_id")
    counts = table.pivot_table(index="field", columns="evidence", values="note_id", aggfunc="count", fill_value=0)
    counts["registry value"] = table[table["registry_value"].notna()].groupby("field").size()
    return counts.reset_index().fillna(0)


def coverage_by_cancer(coverage: pd.DataFrame) -> pd.DataFrame:
    """`labels.coverage_table` as field x cancer type: "stated % (agreement %; n)", without agreement where the registry has no value, blank where
    the field is not read."""
    def cell(row):
        agreement = "" if pd.isna(row.agreement) else f"{100 * row.agreement:.0f}; "
        return f"{100 * row.stated / row.n:.0f} ({agreement}{row.n})"

    rows = coverage[coverage["n"] > 0]
    return rows.assign(cell=[cell(row) for row in rows.itertuples()]).pivot(index="field", columns="cancer_type", values="cell").fillna("")


def examples_table(run_dir: Path, tasks: list[str], corpus: str, report_text: bool = False) -> pd.DataFrame:
    """One training example of each task and input; note text is shown for the synthetic cohort only, unless `report_text` allows it."""
    rows = []
    for task in tasks:
        seen = set()
        with open(run_dir / "datasets" / task / "train.jsonl", encoding="utf-8") as lines:
            for line in lines:
                example = json.loads(line)
                if (example["variant"], example["field"]) not in seen and len(seen) < 4:
                    seen.add((example["variant"], example["field"]))
                    shown = example["prompt"] if corpus == "synthetic" or report_text else "(text of a real report: not shown)"
                    rows.append({"task": task, "input": example["variant"], "field": example["field"], "prompt": shown, "answer": example["completion"]})
    return pd.DataFrame(rows)


def note_reader(corpus: dict, name: str, report_text: bool = False, note_id: str = ""):
    """One note with what it states marked in place, as HTML: every span carries its field and value in words, so that no colour is needed.

    Args: corpus, frames notes and labels; name, the corpus ("synthetic" is shown, any other only where report_text allows it); note_id, which note
    (empty: the note with most stated values). Returns IPython HTML; of a real corpus without report_text a sentence that says so.
    """
    from IPython.display import HTML

    if name != "synthetic" and not report_text:
        return HTML("<p>(text of a real note: not shown)</p>")
    stated = corpus["labels"][corpus["labels"]["evidence"] == "stated"].dropna(subset=["quote_start", "quote_end"])
    note_id = note_id or (stated["note_id"].value_counts(sort=False).sort_index().idxmax() if len(stated) else corpus["notes"]["note_id"].min())
    if not len(found := corpus["notes"].query("note_id == @note_id")):
        raise UserError(f"note {note_id} is not in the corpus. Take a note_id of corpus/notes.parquet.")
    note, spans = found.iloc[0], stated[stated["note_id"] == note_id].sort_values(["quote_start", "quote_end"])
    ends = {}
    for span in spans.itertuples():
        ends.setdefault(int(span.quote_end), []).append(f"{span.field.replace('_', ' ')} = {span.stated_value}")
    marked = [(int(span.quote_start), int(span.quote_end)) for span in spans.itertuples()]
    edges = sorted({0, len(note["text"]), *(edge for span in marked for edge in span)})
    parts = []
    for start, end in pairwise(edges):
        piece = html.escape(note["text"][start:end])
        inside = any(low <= start and end <= high for low, high in marked)
        parts.append(f'<mark style="{MARKED}">{piece}</mark>' if inside else piece)
        parts += [f'<b style="{CHIP}">{html.escape(said)}</b>' for said in ends.get(end, [])]
    head = f"{note['note_type']} of {note['patient_id']}, {note['cancer_type']}, {note['institution']}{', ' + note['date'] if note['date'] else ''}"
    return HTML(
        f'<p><b>{html.escape(head)}</b> ({len(spans)} stated values)</p><div style="white-space:pre-wrap;line-height:1.8;max-width:60em">{"".join(parts)}</div>'
    )
