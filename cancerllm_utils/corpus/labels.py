"""What a report states, beside and apart from what the registry says.

`read` decides for one text and one field: **stated** (one unambiguous value, with the span that says it), **uncertain** (several values,
a check-list, a mention without a readable value) or **not_stated** (a clean absence: not even a word that could hint at the field).
Between a value and a clean absence everything is uncertain; uncertain items are dropped from scoring and counted.
The rules are in reading.py, reading_receptors.py and reading_surgical.py, their patterns and the answer values in labels.yaml and labels_surgical.yaml.
"""

import pandas as pd
from scipy.stats import binomtest

from . import reading, reading_receptors, reading_registry, reading_surgical, reading_treatment
from .reading import HISTOLOGY, VOCABULARY, compiled, lower_keeping_length
from .reading_notes import read_note
from .schema import LABEL_COLUMNS
from .synthetic import SYNTHETIC_FIELDS

FIELDS = VOCABULARY["fields"] | reading_surgical.WORDS["fields"]      # field -> values, cancers
RULES = reading.RULES | reading_receptors.RULES | reading_surgical.RULES
ABSENT_UNLESS = VOCABULARY["absent_unless"] | reading_surgical.WORDS["absent_unless"]
PREDICTED = reading_registry.PREDICTED      # further fields of the registry: predicted or derived, without a row in labels.parquet
FIELD_VALUES = {field: list(entry["values"]) for field, entry in (FIELDS | PREDICTED).items()}
FIELD_VALUES["histology"] = [group for group in HISTOLOGY["groups"] if group not in ("renal cell carcinoma", "mixed carcinoma")]
SYNTHETIC_FIELD_VALUES = {field: list(entry["values"] or []) for field, entry in SYNTHETIC_FIELDS.items()}
RULED = set(RULES) | set(reading_registry.RULES)      # fields on which `read` can tell a value
SYNTHETIC_RULED = set(SYNTHETIC_FIELD_VALUES) | {"stage_ajcc", "stage_figo"}      # the same for `read_synthetic`
SCHEMES = VOCABULARY["grade"]["scheme_names"]


def fields_for(cancer_type):
    """Fields that are read for a TCGA cancer code, in a fixed order; all fields when the code is None or empty."""
    return [field for field, entry in FIELDS.items() if not cancer_type or entry["cancers"] == "all" or cancer_type in entry["cancers"]]


def scheme_applies(field, lower, cancer_type):
    """A grading scheme is read in its own cancers, and elsewhere only where the text names it ('grade III' alone says no scheme)."""
    if not (field.startswith("grade_") or field == "gleason") or cancer_type in FIELDS[field]["cancers"]:
        return True
    if field == "grade_text":
        return False
    if field == "grade_differentiation":
        return not any(compiled(name).search(lower) for name in SCHEMES.values())
    return compiled(SCHEMES[field]).search(lower) is not None


def decide(hits, field, lower):
    """Hits of a rule -> dict(evidence, value, start, end); the quote is the first hit. start and end are None unless stated."""
    values = {value for value, _, _ in hits if value is not None}
    if len(values) == 1:
        value, start, end = min((hit for hit in hits if hit[0] is not None), key=lambda hit: hit[1])
        return {"evidence": "stated", "value": value, "start": start, "end": end}
    absent_unless = ABSENT_UNLESS.get(field, ABSENT_UNLESS["histology"])
    hint = not hits and compiled(absent_unless).search(lower)
    if hint and field in VOCABULARY["absent_ignored"]:
        hint = compiled(absent_unless).search(compiled(VOCABULARY["absent_ignored"][field]).sub(" ", lower))
    clean = not hits and not hint
    return {"evidence": "not_stated" if clean else "uncertain", "value": None, "start": None, "end": None}


def read_field(text, lower, field, cancer_type):
    """`read` with the lower-case text at hand."""
    if not scheme_applies(field, lower, cancer_type):
        return {"evidence": "not_stated", "value": None, "start": None, "end": None}
    return decide(RULES[field](text, lower, cancer_type), field, lower)


def read(text, field, cancer_type=None):
    """What one scrubbed text states about one field.

    Args: text; field id (ARCHITECTURE.md); cancer_type TCGA code or None (then grade schemes count only where they are named).
    Returns dict(evidence: stated | not_stated | uncertain, value: str or None, start, end: int or None, character span in `text`). A field of
    PREDICTED is "stated" where a rule tells or derives one value, else "uncertain". Raises KeyError for an unknown field.
    """
    if field in PREDICTED:
        return read_predicted(text, field, cancer_type)
    return read_field(text, lower_keeping_length(text), field, cancer_type)


def read_predicted(text, field, cancer_type):
    """`read` of a field of PREDICTED; one without a rule is always uncertain."""
    rule = reading_registry.RULES.get(field)
    hits = [hit for hit in rule(text, lower_keeping_length(text), cancer_type) if hit[0]] if rule else []
    if len({value for value, _, _ in hits}) != 1:
        return {"evidence": "uncertain", "value": None, "start": None, "end": None}
    value, start, end = min(hits, key=lambda hit: hit[1])
    return {"evidence": "stated", "value": value, "start": start, "end": end}


def read_all(text, cancer_type=None, fields=None):
    """What one text states about many fields: dict field -> dict as from `read`. Default: the fields of the cancer type."""
    lower = lower_keeping_length(text)
    return {field: read_field(text, lower, field, cancer_type) for field in fields or fields_for(cancer_type)}


def read_synthetic(text, field):
    """What one synthetic note states about a field of SYNTHETIC_FIELDS, as from `read`; the icd10 category is derived from organ and part.

    The cancer type is not given: the rules are a baseline and must find it in the text. A stage group is derived. KeyError for an unknown field."""
    if field in ("stage_ajcc", "stage_figo"):
        stated, code = read_note(text, "stage"), read_note(text, "icd10")
        group = reading_registry.stage_of_synthetic(stated["value"] or "", code["value"] or "", lower_keeping_length(text))
        return {"evidence": "stated" if group else "uncertain", "value": group or None, "start": stated["start"], "end": stated["end"]}
    return reading_treatment.read_plan(text, field) if field in reading_treatment.RULES else read_note(text, field)


def label_notes(notes, registry):
    """Labels of a corpus: one row per note and field that is read for its cancer.

    Args: notes, DataFrame with patient_id, note_id, cancer_type, text (scrubbed); registry, DataFrame[patient_id, field, registry_value].
    Returns DataFrame[LABEL_COLUMNS]; quote_start and quote_end (Int64) are spans in `text`; registry_value is None where the registry is
    silent, which never means "not stated".
    """
    truth = dict(zip(zip(registry["patient_id"], registry["field"]), registry["registry_value"]))
    rows = []
    for note in notes[["patient_id", "note_id", "cancer_type", "text"]].itertuples(index=False):
        for field, label in read_all(note.text, note.cancer_type).items():
            rows.append((note.patient_id, note.note_id, field, label["evidence"], label["value"], label["start"], label["end"],
                         truth.get((note.patient_id, field))))
    return pd.DataFrame(rows, columns=LABEL_COLUMNS).astype({"quote_start": "Int64", "quote_end": "Int64"})


def coverage_table(labels, notes):
    """Table of notebook 02: per field and cancer type (and 'all') how often the text states the field, and agreement with the registry.

    Returns DataFrame[field, cancer_type, n, stated, not_stated, uncertain, agree, agreement, low, high, registry]: counts over notes whose
    patient has a registry value; agreement = agree / stated, in 0-1, over the stated ones, low and high its 95 % Wilson interval (Wilson,
    JASA 1927), NaN where nothing is stated. A field that the registry of a cancer never records is counted over all its notes,
    registry False, agree 0 and agreement NaN; such rows stay out of 'all' unless the field is recorded nowhere.
    """
    table = labels.merge(notes[["note_id", "cancer_type"]], on="note_id")
    table["registry"] = table.groupby(["field", "cancer_type"])["registry_value"].transform("count") > 0
    table["in_all"] = table["registry"] | ~table.groupby("field")["registry"].transform("any")
    table = table[table["registry_value"].notna() | ~table["registry"]]
    table = pd.concat([table, table[table["in_all"]].assign(cancer_type="all")])
    for evidence in ("stated", "not_stated", "uncertain"):
        table[evidence] = (table["evidence"] == evidence).astype(int)
    table["agree"] = ((table["stated_value"] == table["registry_value"]) & (table["stated"] == 1)).astype(int)
    counts = table.groupby(["field", "cancer_type"], sort=True)[["stated", "not_stated", "uncertain", "agree"]].sum()
    counts.insert(0, "n", table.groupby(["field", "cancer_type"]).size())
    registry = table.groupby(["field", "cancer_type"])["registry"].any()
    compared = counts["stated"].where((counts["stated"] > 0) & registry)
    counts["agreement"] = counts["agree"] / compared
    intervals = [binomtest(int(agree), int(n)).proportion_ci(method="wilson") if n > 0 else (float("nan"), float("nan")) for agree, n in zip(counts["agree"], compared)]
    counts["low"], counts["high"] = [low for low, _ in intervals], [high for _, high in intervals]
    return counts.assign(registry=registry).reset_index()
