"""Kinds of answers that cannot be read."""

import json

import pandas as pd
import pytest

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import unparsed

SIDES = ["Right", "Left"]
TYPES = ["invasive lobular carcinoma", "lobular carcinoma", "adenocarcinoma"]


@pytest.mark.parametrize(("prediction", "stop", "allowed", "kind"), [
    ("", "eos", SIDES, "empty"),
    (" \n*.\n", "eos", SIDES, "empty"),
    ("right and left", "eos", SIDES, "several values"),
    ("the right breast of the patient", "length", SIDES, "value among other words"),
    ("it is not stated here", "eos", SIDES, "value among other words"),
    ("an invasive lobular carcinoma of the breast", "eos", TYPES, "value among other words"),
    ("lobular carcinoma and adenocarcinoma", "eos", TYPES, "several values"),
    ("rightful", "eos", SIDES, "other words"),
    ("T2", "eos", SIDES, "value of another field"),
    ("adenocarcinma", "eos", TYPES, "misspelt value"),
    ("the specimen was received in formalin and", "length", SIDES, "not ended"),
    ("unknown", "eos", SIDES, "other words"),
    ("12 12 12 12", "eos", [], "other words"),
])  # fmt: skip
def test_kinds_by_hand(prediction, stop, allowed, kind):
    assert unparsed.kind_of(prediction, stop, allowed, ["T1", "T2"]) == kind and kind in unparsed.KINDS


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_unparsed_answer_of_a_run_is_counted_once(tmp_path):
    for split in ("dev", "test"):
        write(tmp_path / "datasets" / "t" / f"{split}.jsonl", [{"example_id": f"{split}{i}", "field": ("laterality", "pT")[i % 2]} for i in range(4)])
    answers = [("Right", "Right"), ("T1 or T2", "unparsed"), ("T1", "unparsed"), ("", "unparsed")]
    write(tmp_path / "predictions" / "m" / "sft" / "t.test.jsonl",
          [{"example_id": f"test{i}", "prediction": text, "parsed": parsed, "stop_reason": "eos"} for i, (text, parsed) in enumerate(answers)])
    write(tmp_path / "predictions" / "m" / "sft" / "t.dev.jsonl", [{"example_id": "dev0", "prediction": "Left", "parsed": "Left"}])
    (tmp_path / "datasets" / "settings.json").write_text(json.dumps({"values": {"laterality": SIDES, "pT": ["T1", "T2"]}}))
    table = unparsed.unparsed_kinds(tmp_path)
    assert {(row.split, row.kind): (row.n, row.share) for row in table.itertuples()} == {
        ("dev", "none"): (0, 0.0), ("test", "empty"): (1, 25.0), ("test", "several values"): (1, 25.0), ("test", "value of another field"): (1, 25.0)}
    wide = unparsed.by_kind(table)
    assert wide.drop(columns=["model", "stage", "task"]).iloc[0].to_dict() == {"answers": 5, "unparsed": 3, "empty": 1, "several values": 1, "value of another field": 1}
    clean = unparsed.by_kind(table[table["split"] == "dev"])
    assert clean[["answers", "unparsed"]].to_numpy().tolist() == [[1, 0]] and isinstance(clean, pd.DataFrame)
    with pytest.raises(UserError, match="05_prediction"):
        unparsed.unparsed_kinds(tmp_path / "none")
