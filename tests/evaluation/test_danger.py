"""Dangerous errors: each kind by hand, shares with their limits, and tables that hold no text."""

import re

import pandas as pd
import pytest

from cancerllm_utils.evaluation import answers as answer_tables
from cancerllm_utils.evaluation import danger
from cancerllm_utils.tasks.task import load_task, task_names

KINDS = danger.definitions()["kinds"]


def test_the_definitions_are_whole_and_the_worst_come_first():
    fields = {field for name in task_names() for field in load_task(name)["fields"]}
    severities = [kind["severity"] for kind in KINDS.values()]
    assert severities == sorted(severities) and set(severities) == {1, 2, 3}
    for name, kind in KINDS.items():
        assert set(kind) - set(danger.CONDITIONS) == {"name", "severity", "why", "fields"} and len(set(kind) & set(danger.CONDITIONS)) == 1, name
        assert kind["why"].endswith(".")
        for field, patterns in ({} if kind["fields"] == "all" else kind["fields"]).items():
            assert field in fields, f"{name}: no task asks {field}"
            assert all(re.compile(pattern).groups == 1 for pattern in ([patterns] if isinstance(patterns, str) else patterns))
    assert list(danger.kinds_table()["severity"]) == severities


# kind, field, truth, answer, was it possible, did it happen
CASES = [
    ("side_flipped", "laterality", "Right", "Left", True, True),
    ("side_flipped", "laterality", "Right", "Bilateral", True, False),
    ("side_flipped", "laterality", "Bilateral", "Left", False, False),
    ("side_flipped", "laterality", "not stated", "Left", False, False),
    ("side_flipped", "tumor_site", "Right", "Left", False, False),
    ("nodes_called_negative", "pN", "N2", "N0", True, True),
    ("nodes_called_negative", "pN", "N2", "N1", True, False),
    ("nodes_called_negative", "stage", "T1 N1", "T1 N0", True, True),
    ("nodes_called_negative", "node_status", "Positive", "Negative", True, True),
    ("nodes_called_negative", "stage", "T1 N0", "T1 N1", False, False),
    ("nodes_called_positive", "stage", "T1 N0", "T1 N1", True, True),
    ("metastasis_called_absent", "pM", "M1", "M0", True, True),
    ("metastasis_called_absent", "pM", "M1", "MX", True, False),
    ("malignant_called_benign", "diagnosis", "adenocarcinoma of the colon", "tubular adenoma of the colon", True, True),
    ("malignant_called_benign", "diagnosis", "adenocarcinoma of the colon", "squamous cell carcinoma of the colon", True, False),
    ("malignant_called_benign", "histology", "invasive ductal carcinoma", "ductal carcinoma in situ", True, False),
    ("benign_called_malignant", "histology", "fibroadenoma", "medullary carcinoma", True, True),
    ("benign_called_malignant", "histology", "leiomyosarcoma", "adenocarcinoma", False, False),
    ("margin_called_clear", "margin", "Positive", "Negative", True, True),
    ("margin_called_clear", "residual_tumor", "R1", "R0", True, True),
    ("margin_called_clear", "residual_tumor", "R1", "R2", True, False),
    ("stage_off_by_two", "pT", "T1", "T3", True, True),
    ("stage_off_by_two", "pT", "T2", "T1", True, False),
    ("stage_off_by_two", "stage", "T4 N0", "T1 N0", True, True),
    ("stage_off_by_two", "stage_figo", "IV", "II", True, True),
    ("stage_off_by_two", "stage_figo", "IV", "III", True, False),
    ("receptor_flipped", "her2", "Positive", "Negative", True, True),
    ("receptor_flipped", "her2", "Equivocal", "Negative", False, False),
    ("receptor_flipped", "receptor_status", "ER positive PR negative HER2 equivocal", "ER positive PR positive HER2 equivocal", True, True),
    ("receptor_flipped", "receptor_status", "ER positive PR negative", "ER positive PR negative HER2 negative", True, False),
    ("receptor_flipped", "receptor_status", "HER2 negative", "HER2 positive", True, True),
    ("receptor_type_wrong", "receptor_type", "ER PR", "ER PR HER2", True, True),
    ("receptor_type_wrong", "receptor_type", "none", "none", True, False),
    ("receptor_type_wrong", "receptor_type", "none", "HER2", True, True),
    ("size_off_tenfold", "tumor_size", "2.5 cm", "25 cm", True, True),
    ("size_off_tenfold", "tumor_size", "2.5 cm", "25 mm", True, False),
    ("size_off_tenfold", "tumor_size", "2.5 cm", "0.25 x 0.1 cm", True, True),
    ("size_off_tenfold", "tumor_size", "2.5 cm", "2.4 cm", True, False),
    ("value_invented", "grade", "not stated", "G2", True, True),
    ("value_invented", "grade", "not stated", "not stated", True, False),
    ("value_invented", "grade", "G2", "G3", False, False),
]


@pytest.mark.parametrize(("kind", "field", "gold", "given", "possible", "wrong"), CASES)
def test_each_kind_by_hand(kind, field, gold, given, possible, wrong):
    assert danger.judge(KINDS[kind], field, gold, given, given) == (possible, wrong)


def test_every_kind_has_a_case_that_happens():
    assert {case[0] for case in CASES if case[5]} == set(KINDS)


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if "invented" not in kind])
def test_a_refusal_is_no_dangerous_error(kind):
    _, field, gold, *_ = next(case for case in CASES if case[0] == kind and case[5])
    assert danger.judge(KINDS[kind], field, gold, "not stated", "not stated") == (True, False)


def test_an_unreadable_answer_counts_only_where_it_calls_a_cancer_benign():
    """The allowed histologies hold no benign tumor, so such an answer can never be parsed; any other unreadable answer is no answer."""
    assert danger.judge(KINDS["malignant_called_benign"], "histology", "adenocarcinoma", "unparsed", "a benign polyp") == (True, True)
    assert danger.judge(KINDS["side_flipped"], "laterality", "Right", "unparsed", "Left") == (True, False)
    assert danger.judge(KINDS["value_invented"], "histology", "not stated", "unparsed", "a polyp") == (True, False)


def table(rows, **columns) -> pd.DataFrame:
    """Answers from (patient, field, truth, answer); every row a headline item of one system unless `columns` say otherwise."""
    base = {"model": "tiny_base", "stage": "sft", "task": "phenotype_extraction", "split": "test", "institution": "", "headline": True, "right": False} | columns
    return pd.DataFrame([{"example_id": f"e{i}", "patient_id": patient, "field": field, "answers": [truth], "parsed": answer, "prediction": answer, **base}
                         for i, (patient, field, truth, answer) in enumerate(rows)])


def test_one_answer_can_hold_two_errors():
    found = danger.classify(table([("p1", "stage", "T4 N2", "T1 N0"), ("p2", "stage", "T4 N2", "T3 N2")]))
    assert found.to_dict("list") == {"example_id": ["e0", "e0"], "kind": ["nodes_called_negative", "stage_off_by_two"], "severity": [1, 2]}


def test_shares_are_of_the_questions_in_which_the_error_was_possible(tmp_path):
    sides = [(f"p{i}", "laterality", "Right", "Left" if i < 2 else "not stated" if i == 7 else "Right") for i in range(8)] + [("p9", "laterality", "not stated", "not stated")]
    counts = danger.run(tmp_path, pd.concat([table(sides), table([("p1", "laterality", "Right", "Left")], headline=False)]), n_resamples=200).set_index("kind")
    row = counts.loc["side_flipped"]
    assert (row["n"], row["of"], row["given"], row["patients"], row["share"], row["severity"]) == (2, 8, 7, 8, 25.0, 1) and 0 <= row["low"] < 25 < row["high"] < 80
    assert (counts.loc["value_invented", ["n", "of"]] == [0, 1]).all() and list(counts.index) == ["side_flipped", "value_invented"]
    assert pd.read_csv(tmp_path / "results" / "dangerous.csv")["kind"].tolist() == list(counts.index)
    items = pd.read_parquet(tmp_path / "results" / "dangerous_items.parquet")
    assert items["example_id"].tolist() == ["e0", "e1"] and list(items) == danger.ITEM_COLUMNS


@pytest.mark.parametrize(("answer", "share", "low", "high"), [("Right", 0.0, 0.0, 30.8), ("Left", 100.0, 69.2, 100.0)])
def test_never_or_always_seen_has_the_exact_binomial_limits(tmp_path, answer, share, low, high):
    """0 of 10 patients: the upper limit is 30.8 % (Clopper and Pearson's table), where a bootstrap would say 0; two questions of one patient count once."""
    rows = [(f"p{i}", "laterality", "Right", answer) for i in range(10)] * 2
    row = danger.run(tmp_path, table(rows)).iloc[0]
    assert (row["share"], row["of"]) == (share, 20) and (row["low"], row["high"]) == pytest.approx((low, high), abs=0.05)


def test_sentences_and_overview_say_what_happened_and_what_may_still():
    counts = pd.DataFrame([["m", "sft", "phenotype_extraction", "test", "side_flipped", 1, 1, 4, 3, 4, 25.0, 0.0, 75.0], ["m", "sft", "phenotype_extraction", "test", "value_invented", 3, 0, 10, 2, 10, 0.0, 0.0, 30.8]],
                          columns=danger.COLUMNS)
    (text,) = danger.sentences(counts, ("m", "sft"), "test")
    assert "Happened: wrong side 1 of 4 (25.0 %, 0.0 to 75.0; severity 1)" in text and "Never seen: value given where none is stated 0 of 10 (2 got a value; up to 30.8 % is possible)" in text
    assert danger.sentences(counts, ("m", "base"), "test") == ["No question in which a dangerous error was possible was answered."]
    shown = danger.overview(counts, [("m", "sft")], "test")
    assert shown.iloc[:, 0].tolist() == ["1 of 4: 25.0 % (0.0 to 75.0)", "0 of 10: 0.0 % (0.0 to 30.8)"]
    assert danger.overview(counts, [("m", "sft")], "external").empty


def test_examples_show_text_only_where_allowed(tmp_path):
    folder = tmp_path / "datasets" / "phenotype_extraction"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text('{"example_id": "e0", "prompt": "### Instruction:\\nx\\n\\n### Input:\\nAn invented sentence.\\n\\n### Response:\\n"}\n')
    rows = table([("p1", "laterality", "Right", "Left")])
    shown, hidden = (danger.examples_table(tmp_path, rows, ("tiny_base", "sft"), "test", show_text=allowed) for allowed in (True, False))
    assert shown["what the model read"].tolist() == ["An invented sentence."] and shown["error"].tolist() == ["wrong side"]
    assert "invented" not in hidden["what the model read"][0]
    assert answer_tables.shown_context("### Input:\nA note.\n\n### Response:\n") == "A note."
