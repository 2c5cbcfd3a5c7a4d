"""How well `scrub` works on 100 real reports, against spans that were marked by hand.

scrub_check.csv holds note ids, character positions and kinds, no text. The 100 are a random draw of the training reports. Two annotators
(two runs of one language model, no pathologist) each read all of them and marked every span without seeing the other's marks, the rules or
what they remove. 375 of their 414 and 413 spans are the same (F1 0.907; 0.978 if an overlap is enough; kappa over characters 0.991); each of
the 43 differences was looked at and settled: 19 as the first had it, 23 as the second, one in between.

The rules were afterwards improved on training and development reports, these 100 among them: what is measured here since is how well they
fit, not how they do on unseen reports. 50 further training reports were read once after that, with the removed pieces in view: 5 of 186
removed pieces were no identifier, code or stamp (one a line of the patient's history); 6 of 39 barcodes, 5 of 29 UUIDs, 11 of 26 stamps and
26 of 27 handwritten ICD-O stamps were left in part or whole. Three rules were mended then.
"""

import hashlib
import re
import sys
from pathlib import Path

import pandas as pd
from scipy.stats import binomtest

from cancerllm_utils.corpus import tcga
from cancerllm_utils.corpus.scrub import removed_spans
from cancerllm_utils.errors import UserError

GOLD_FILE = Path(__file__).with_name("scrub_check.csv")
FOUND_SHARE = 0.9  # of the printed characters of a span
KINDS = ["barcode", "uuid", "barcode_noise", "redaction_mark", "stamp", "icd", "snomed"]  # names and places are for `identifiers`
CLINICAL = {  # what must not be removed
    "size": r"\d[\d.,]*(?:\s?x\s?\d[\d.,]*){0,2}\s?(?:cm|mm)\b",
    "T": r"(?<![A-Za-z0-9-])(?<!GA )[ycra]{0,2}p?T\s?(?:[0-4][a-d]?|is|X)(?=[pc]?N|M|[^A-Za-z0-9]|$)",
    "N": r"(?:(?<![A-Za-z0-9-])(?<!GA )|(?<=T[0-4X])|(?<=T[0-4][a-d]))[ycra]{0,2}(?:pN ?O|p?N ?[0-3][a-c]?|p?NX|NO(?= ?MX))(?=[pc]?M|[^A-Za-z0-9]|$)",
    "grade": r"(?<![A-Za-z0-9-])(?<!GA )G ?[1-4](?![A-Za-z0-9-])|(?i:\bgrade\s?:?\s?(?:[1-4]|I{1,3}|IV)\b|\b(?:well|moderately|poorly)[ -]differentiated\b)",
    "Gleason": r"\b[1-5]\s?\+\s?[1-5]\b(?:\s?=\s?(?:10|[2-9]))?|\b(?i:gleason)\b",
    "node pair": r"(?<![\d./])\d{1,2}\s?/\s?\d{1,2}(?![\d./])",
    "side": r"\b(?i:left|right)\b",
    "malignancy": r"(?i)\b(?:negative|positive|suspicious|evidence)\s(?:for|of)\smalignancy|\bprior malignancy\s?[:-]\s?(?:no|un|yes)",
}


def read_gold() -> pd.DataFrame:
    """The marked spans: note_id, start, end (characters of the text as `tcga.load` gives it), kind ("none": a note without a span), sha256."""
    return pd.read_csv(GOLD_FILE)


def read_texts(data_dir: Path, gold: pd.DataFrame) -> dict[str, str]:
    """note_id -> published text of the marked notes.

    Raises:
        UserError: a note is missing or its text is not the one that was marked, so that the positions would not fit.
    """
    texts = dict(tcga.load(data_dir)["notes"].set_index("note_id")["text"])
    for note_id, sha256 in dict(zip(gold["note_id"], gold["sha256"], strict=True)).items():
        if hashlib.sha256(texts.get(note_id, "").encode()).hexdigest() != sha256:
            raise UserError(f"folder {data_dir}: note {note_id} is not the text that was marked. Get the {tcga.DOWNLOADS['reports']}.")
    return {note_id: texts[note_id] for note_id in dict.fromkeys(gold["note_id"])}


def evaluate(data_dir: Path) -> pd.DataFrame:
    """Precision and recall of the scrubber on the marked reports.

    Returns kind, n, found, missed, false, precision, recall, low, high (95 % Wilson interval of the recall), characters (share of the
    marked ones that are removed), false_characters; a row per kind and one for all of them.

    Found: at least 90 % of the printed characters of a marked span are removed, by whatever rule. False: a removed span with a letter or a
    digit that stands in no marked span; precision is the share of removed spans without one. false_characters counts those letters and
    digits.
    """
    gold = read_gold()
    return score(read_texts(data_dir, gold), gold)


def score(texts: dict[str, str], gold: pd.DataFrame) -> pd.DataFrame:
    """`evaluate` for any texts and marked spans (note_id, start, end, kind)."""
    marked, removed = [], []
    for note_id, text in texts.items():
        spans = removed_spans(text)
        of_note = gold[(gold["note_id"] == note_id) & (gold["kind"] != "none")]
        gone = {at for span in spans for at in range(span["start"], span["end"])}
        inside = {at for start, end in zip(of_note["start"], of_note["end"], strict=True) for at in range(start, end)}
        for start, end, kind in zip(of_note["start"], of_note["end"], of_note["kind"], strict=True):
            printed = [at for at in range(start, end) if not text[at].isspace()]
            n_gone = sum(at in gone for at in printed)
            marked.append({"kind": kind, "found": n_gone >= FOUND_SHARE * len(printed), "n": len(printed), "gone": n_gone})
        for span in spans:
            outside = sum(text[at].isalnum() and at not in inside for at in range(span["start"], span["end"]))
            removed.append({"kind": "stamp" if span["kind"] == "form" else span["kind"], "outside": outside})
    marked = pd.DataFrame(marked, columns=["kind", "found", "n", "gone"])
    removed = pd.DataFrame(removed, columns=["kind", "outside"])
    rows = []
    for kind in [*KINDS, "all"]:
        of_kind = marked[marked["kind"].isin(KINDS if kind == "all" else [kind])]
        outside = removed[removed["kind"].isin(KINDS if kind == "all" else [kind])]["outside"]
        n, n_found, n_false = len(of_kind), int(of_kind["found"].sum()), int((outside > 0).sum())
        interval = binomtest(n_found, n).proportion_ci(method="wilson") if n else None
        rows.append({
            "kind": kind, "n": n, "found": n_found, "missed": n - n_found, "false": n_false,
            "precision": 1 - n_false / len(outside) if len(outside) else float("nan"), "recall": n_found / n if n else float("nan"),
            "low": interval.low if n else float("nan"), "high": interval.high if n else float("nan"), "characters": of_kind["gone"].sum() / of_kind["n"].sum() if n else float("nan"), "false_characters": int(outside.sum()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def rules_table(texts: dict[str, str]) -> pd.DataFrame:
    """What each rule removes: kind, rule, notes (with at least one), spans, characters (printed ones)."""
    rows = []
    for note_id, text in texts.items():
        for span in removed_spans(text):
            characters = sum(not character.isspace() for character in text[span["start"] : span["end"]])
            rows.append({"kind": span["kind"], "rule": span["rule"], "note_id": note_id, "characters": characters})
    frame = pd.DataFrame(rows, columns=["kind", "rule", "note_id", "characters"])
    grouped = frame.groupby(["kind", "rule"], sort=False)
    return grouped.agg(notes=("note_id", "nunique"), spans=("note_id", "size"), characters=("characters", "sum")).reset_index()


def kept_table(texts: dict[str, str], gold: pd.DataFrame | None = None) -> pd.DataFrame:
    """What must not be removed: kind, n, lost (a removed character in it), and in `by` the rules that did it.

    With marked spans, only what stands outside of them counts; without, the discrepancy form does not count, which repeats a diagnosis.
    """
    rows = []
    for note_id, text in texts.items():
        rule_at = {at: span["rule"] for span in removed_spans(text) for at in range(span["start"], span["end"])}
        inside = set()
        if gold is not None:
            of_note = gold[gold["note_id"] == note_id]
            inside = {at for start, end in zip(of_note["start"], of_note["end"], strict=True) for at in range(start, end)}
        for kind, pattern in CLINICAL.items():
            for match in re.finditer(pattern, text):
                places = [at for at in range(*match.span()) if not text[at].isspace()]
                rules = {rule_at[at] for at in places if at in rule_at}
                if not inside.intersection(places) and rules != {"form"}:
                    rows.append({"kind": kind, "lost": bool(rules), "rules": rules})
    frame = pd.DataFrame(rows, columns=["kind", "lost", "rules"])
    table = []
    for kind in CLINICAL:
        of_kind = frame[frame["kind"] == kind]
        by = pd.Series([rule for rules in of_kind["rules"] for rule in rules], dtype=str).value_counts()
        table.append({"kind": kind, "n": len(of_kind), "lost": int(of_kind["lost"].sum()), "by": ", ".join(f"{rule} {n}" for rule, n in by.items())})
    return pd.DataFrame(table)


def main(arguments: list[str]) -> None:
    """DATA_DIR [SPLITS]: the tables of the marked reports; with a run's corpus/splits.parquet, also those of all its train and dev reports."""
    if not 1 <= len(arguments) <= 2:
        raise UserError("scrub_check: 1 or 2 arguments are needed: DATA_DIR [RUN/corpus/splits.parquet].")
    gold = read_gold()
    texts = read_texts(Path(arguments[0]), gold)
    show("Precision and recall on the marked reports", score(texts, gold))
    show("What each rule removed from them", rules_table(texts))
    show("What must stay, outside of the marked spans", kept_table(texts, gold))
    if len(arguments) == 2:
        splits = pd.read_parquet(arguments[1])
        patients = set(splits["patient_id"][splits["split"].isin(["train", "dev"])])
        notes = tcga.load(Path(arguments[0]))["notes"]
        texts = dict(notes[notes["patient_id"].isin(patients)].set_index("note_id")["text"])
        show(f"What each rule removed from all {len(texts):,} train and dev reports", rules_table(texts))
        show("What must stay in them", kept_table(texts))


def show(title: str, table: pd.DataFrame) -> None:
    """Print a table under its title."""
    print(f"\n{title}\n{table.to_string(index=False, float_format=lambda value: f'{value:.3f}')}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
