"""The check of the scrubber counts what it says, and its file holds positions, no text. All texts here are invented."""

import hashlib
import os
from pathlib import Path

import pandas as pd
import pytest

from cancerllm_utils.corpus import scrub_check, tcga
from cancerllm_utils.errors import UserError

DATA = Path(os.environ.get("CANCERLLM_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not (DATA / "tcga" / "reports").is_dir(), reason="CANCERLLM_DATA holds no TCGA files")

TEXT = "Lung, left: adenocarcinoma, 2.3 cm, pT1c N0. TCGA-AB-1Z9Y-01A-PR Margins are free. Seen by Zzyq 8140/3 and 8070/3, G2."
MARKS = [("TCGA-AB-1Z9Y-01A-PR", "barcode"), ("Zzyq", "person"), ("8140/3", "icd"), ("Margins", "stamp")]
OTHERS = ["accession", "address", "age_over_89", "date", "institution", "person", "phone", "record_number"]


def gold_of(text: str) -> pd.DataFrame:
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    rows = [("n1", text.index(quote), text.index(quote) + len(quote), kind, sha256) for quote, kind in MARKS]
    return pd.DataFrame([*rows, ("n2", 0, 0, "none", hashlib.sha256(b"").hexdigest())], columns=["note_id", "start", "end", "kind", "sha256"])


def test_gold_file_is_well_formed_and_holds_no_text():
    gold = scrub_check.read_gold()
    assert list(gold.columns) == ["note_id", "start", "end", "kind", "sha256"]
    assert gold["note_id"].nunique() == 100 and (gold.groupby("note_id")["sha256"].nunique() == 1).all()
    assert gold["note_id"].str.fullmatch(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}-r\d").all()
    assert gold["sha256"].str.fullmatch("[0-9a-f]{64}").all()
    assert set(gold["kind"]) <= {*scrub_check.KINDS, *OTHERS, "none"}
    assert gold["start"].dtype.kind == gold["end"].dtype.kind == "i"
    marked = gold[gold["kind"] != "none"].sort_values(["note_id", "start"])
    assert (marked["start"] >= 0).all() and (marked["start"] < marked["end"]).all()
    overlaps = (marked["note_id"] == marked["note_id"].shift()) & (marked["start"] < marked["end"].shift())
    assert not overlaps.any()


def test_score_counts_found_missed_and_false():
    table = scrub_check.score({"n1": TEXT, "n2": ""}, gold_of(TEXT)).set_index("kind")
    assert table.loc["barcode", ["n", "found", "missed", "false"]].tolist() == [1, 1, 0, 0]
    assert table.loc["stamp", ["n", "found", "missed", "false"]].tolist() == [1, 0, 1, 0]
    assert table.loc["icd", ["n", "found", "false", "false_characters"]].tolist() == [1, 1, 1, 5]  # 8070/3 was not marked
    assert table.loc["icd", "precision"] == 0.5 and table.loc["barcode", "precision"] == 1
    assert table.loc["all", ["n", "found", "missed", "false"]].tolist() == [3, 2, 1, 1]  # the person is not the scrubber's
    assert 0.2 < table.loc["all", "low"] < 2 / 3 < table.loc["all", "high"] < 1
    assert table.loc["snomed", "n"] == 0 and pd.isna(table.loc["snomed", "recall"])


def test_a_span_of_which_less_than_nine_tenths_go_is_missed():
    gold = gold_of(TEXT)
    gold.loc[0, "end"] += 5
    table = scrub_check.score({"n1": TEXT, "n2": ""}, gold).set_index("kind")
    assert table.loc["barcode", "missed"] == 1 and 0.7 < table.loc["barcode", "characters"] < 0.9


def test_rules_table_names_what_each_rule_removed():
    table = scrub_check.rules_table({"n1": TEXT, "n2": "TCGA-AB-1Z9Y and TCGA-AB-1Z9Z"}).set_index("rule")
    assert table.loc["barcode", ["kind", "notes", "spans"]].tolist() == ["barcode", 2, 3]
    assert table.loc["icd-o morphology slash", ["notes", "spans", "characters"]].tolist() == [1, 2, 12]


def test_kept_table_counts_what_must_stay_and_who_took_it(monkeypatch):
    assert scrub_check.kept_table({"n1": TEXT}).set_index("kind")["n"].loc[["size", "T", "N", "grade", "side"]].tolist() == [1, 1, 1, 1, 1]
    assert scrub_check.kept_table({"n1": TEXT})["lost"].sum() == 0
    start = TEXT.index("2.3 cm")
    monkeypatch.setattr(scrub_check, "removed_spans", lambda text: [{"start": start, "end": start + 3, "kind": "icd", "rule": "clumsy"}])
    table = scrub_check.kept_table({"n1": TEXT}).set_index("kind")
    assert table.loc["size", "lost"] == 1 and table.loc["size", "by"] == "clumsy 1" and table["lost"].sum() == 1
    marked = pd.DataFrame([("n1", start, start + 6, "icd")], columns=["note_id", "start", "end", "kind"])
    assert scrub_check.kept_table({"n1": TEXT}, marked).set_index("kind").loc["size", "n"] == 0


def test_another_text_than_the_marked_one_is_one_sentence(monkeypatch):
    notes = pd.DataFrame({"note_id": ["n1", "n2"], "text": [TEXT + " ", ""]})
    monkeypatch.setattr(tcga, "load", lambda data_dir: {"notes": notes})
    with pytest.raises(UserError, match="note n1 is not the text that was marked"):
        scrub_check.read_texts(Path("data"), gold_of(TEXT))


def test_main_prints_the_tables_without_text(monkeypatch, capsys, tmp_path):
    notes = pd.DataFrame({"note_id": ["n1", "n2"], "patient_id": ["p1", "p2"], "text": [TEXT, ""]})
    monkeypatch.setattr(tcga, "load", lambda data_dir: {"notes": notes})
    monkeypatch.setattr(scrub_check, "read_gold", lambda: gold_of(TEXT))
    pd.DataFrame({"patient_id": ["p1", "p2"], "split": ["train", "test"]}).to_parquet(tmp_path / "splits.parquet")
    scrub_check.main(["data", str(tmp_path / "splits.parquet")])
    printed = capsys.readouterr().out
    assert "all 1 train and dev reports" in printed and "icd-o morphology slash" in printed and "Zzyq" not in printed and "Lung" not in printed
    with pytest.raises(UserError, match="1 or 2 arguments"):
        scrub_check.main([])


@needs_data
def test_real_reports_are_scrubbed_as_well_as_stated():
    gold = scrub_check.read_gold()
    texts = scrub_check.read_texts(DATA, gold)
    table = scrub_check.score(texts, gold).set_index("kind")
    assert table["n"].loc["all"] == 406 and table.loc["all", "recall"] >= 0.76 and table.loc["all", "precision"] >= 0.97
    assert (table.loc[["barcode", "uuid", "redaction_mark", "snomed"], "recall"] >= 0.97).all()
    assert scrub_check.kept_table(texts, gold)["lost"].sum() == 0
