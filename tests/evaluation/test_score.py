import json

import numpy as np
import pandas as pd
import pytest

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import efficiency, groups, metrics, score
from cancerllm_utils.evaluation.score import SCORE_COLUMNS, append_ledger, compare, institution_table, main_score, score_file, score_run

ROW = {"id": "1", "answers": ["left"], "prediction": "left"}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lines(*rows))


# ---- cancerllm score -------------------------------------------------------------------------------------------------------------


def test_eight_rows_in_points(tmp_path):
    write(tmp_path / "f.jsonl", {"id": 1, "answers": ["a", "b"], "prediction": "a"}, {"id": 2, "answers": ["lung cancer"], "prediction": "lung cancer"})
    rows = score_file(tmp_path / "f.jsonl")
    assert [(r["family"], r["metric"]) for r in rows] == [
        (f, m) for f in ("paper", "clinical") for m in ("exact_match", "bleu2", "rougeL", "average")
    ]
    assert all(list(r) == ["family", "metric", "precision", "recall", "f1", "f1_low", "f1_high", "n"] for r in rows)
    exact = rows[0]
    assert (exact["precision"], exact["recall"], exact["n"]) == (100, 75, 2)
    assert exact["f1"] == pytest.approx(100 * (2 / 3 + 1) / 2)  # a mean of F1, not the F1 of the means (85.7)
    assert (exact["f1_low"], exact["f1_high"]) == pytest.approx((200 / 3, 100))
    assert rows[3]["f1"] == pytest.approx(sum(r["f1"] for r in rows[:3]) / 3)


def test_patient_is_the_cluster(tmp_path):
    rows = [{"id": i, "answers": ["left"], "prediction": "left" if i < 20 else "right"} for i in range(40)]
    write(tmp_path / "ids.jsonl", *rows)
    write(tmp_path / "two.jsonl", *({**row, "patient_id": "P" if row["id"] < 20 else "Q"} for row in rows))
    alone, paired = score_file(tmp_path / "ids.jsonl")[0], score_file(tmp_path / "two.jsonl")[0]
    assert alone["f1"] == paired["f1"] == 50
    assert (paired["f1_low"], paired["f1_high"]) == (0, 100) and alone["f1_low"] > 25


def test_bom_crlf_and_blank_lines_are_fine(tmp_path):
    content = lines(ROW, {**ROW, "id": "2", "prediction": "größer"})
    (tmp_path / "f.jsonl").write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n") + b"\r\n  \n")
    assert score_file(tmp_path / "f.jsonl")[0]["n"] == 2
    (tmp_path / "f.jsonl").write_bytes(content.rstrip())
    assert score_file(tmp_path / "f.jsonl")[0]["n"] == 2


BAD = {
    "not JSON": (lines(ROW) + b"{oops}\n", 2),
    "torn": (lines(ROW)[:-9], 1),
    "not an object": (lines(ROW, ["left"]), 2),
    "no id": (lines({"answers": [], "prediction": ""}), 1),
    "no answers": (lines(ROW, {"id": "2", "prediction": ""}), 2),
    "no prediction": (lines({"id": "2", "answers": []}), 1),
    "null id": (lines({**ROW, "id": None}), 1),
    "answers a string": (lines({**ROW, "answers": "left"}), 1),
    "answers with a number": (lines({**ROW, "answers": ["left", 2]}), 1),
    "answers null": (lines({**ROW, "answers": None}), 1),
    "prediction a list": (lines({**ROW, "prediction": ["left"]}), 1),
    "prediction null": (lines({**ROW, "prediction": None}), 1),
    "patient a list": (lines({**ROW, "patient_id": ["x"]}), 1),
    "duplicate id": (lines(ROW, {**ROW, "id": "2"}, {**ROW, "id": 1}), 3),
    "empty": (b"", 1),
    "blank": (b"\n \n", 1),
    "latin-1": (lines(ROW) + '{"id": "2", "answers": [], "prediction": "größer"}'.encode("latin-1"), 2),
    "utf-16": (lines(ROW).decode().encode("utf-16"), 1),
    "nested too deep": (b"[" * 200_000, 1),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_name_file_line_and_reason_but_no_content(tmp_path, name):
    content, line = BAD[name]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"bad\.jsonl, line {line}: ") as error:
        score_file(path)
    assert "left" not in str(error.value) and "\n" not in str(error.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(UserError, match="cannot be read"):
            score_file(path)


def test_only_json_on_stdout(tmp_path, capsys):
    write(tmp_path / "f.jsonl", ROW)
    main_score(tmp_path / "f.jsonl", as_json=True)
    out = capsys.readouterr()
    assert len(json.loads(out.out)) == 8 and out.err == ""
    main_score(tmp_path / "f.jsonl", as_json=False)
    assert "clinical" in capsys.readouterr().out


# ---- a run ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """Two models on four examples of three patients: stated T2, T3 (headline), one "not stated", one free text."""
    examples = [
        ("e1", "A", "pT", ["T2"], True),
        ("e2", "A", "laterality", ["Left"], True),
        ("e3", "B", "pT", ["not stated"], True),
        ("e4", "C", "tumor_size", ["2.5 cm"], False),
    ]
    write(
        tmp_path / "datasets/extraction/test.jsonl",
        *(
            {"example_id": e, "patient_id": p, "field": f, "answers": a, "headline": h, "variant": "full" if f == "pT" else "", "cancer_type": "KIRC"}
            for e, p, f, a, h in examples
        ),
    )
    gold = {e: a for e, _, _, a, _ in examples}

    def predict(stage, split, **parsed):
        write(
            tmp_path / f"predictions/tiny/{stage}/extraction.{split}.jsonl",
            *(
                {"example_id": e, "prediction": raw, "answers": gold[e], "parsed": value, "new_tokens": 3, "stop_reason": reason, "seconds": 0.1}
                for e, (raw, value, reason) in parsed.items()
            ),
        )

    predict("cpt-sft-s7", "test", e1=("it is pT2a", "T2", "eos"), e2=("Left", "Left", "eos"), e3=("T3", "T3", "eos"), e4=("2.5 cm", "unparsed", "length"))
    predict("base", "test", e1=("x", "unparsed", "eos"), e2=("no", "not stated", "eos"), e3=("none", "not stated", "eos"), e4=("2.5", "2.5", "eos"))
    predict("base", "dev", e1=("x", "unparsed", ""), e2=("Left", "Left", ""))
    (tmp_path / "datasets/extraction/dev.jsonl").write_bytes((tmp_path / "datasets/extraction/test.jsonl").read_bytes())
    return tmp_path


def pick(scores, **where):
    for column, value in where.items():
        scores = scores[scores[column] == value]
    assert len(scores) == 1, scores
    return scores.iloc[0]


def test_score_run_by_hand(run):
    scores = score_run(run, n_resamples=50)
    assert list(scores.columns) == SCORE_COLUMNS
    assert not scores.duplicated(["model", "stage", "task", "variant", "split", "field", "subgroup", "family", "metric"]).any()
    whole = {"stage": "cpt-sft-s7", "split": "test", "variant": "all", "field": "all", "subgroup": "all"}
    accuracy = pick(scores, **whole, metric="value_accuracy")
    assert (accuracy.f1, accuracy.n, accuracy.unparsed, accuracy.seed) == (50, 4, 1, 7) and pd.isna(accuracy.precision)
    # scored is the parsed value; the unparsed one as the model wrote it
    assert pick(scores, **whole, family="clinical", metric="exact_match").f1 == 75
    assert pick(scores, **whole, metric="eos_share").f1 == 75
    assert (pick(scores, **whole, metric="false_answer").f1, pick(scores, **whole, metric="false_answer").n) == (100, 1)
    miss = pick(scores, **whole, metric="miss")
    assert (miss.f1, miss.n) == (pytest.approx(100 / 3), 3)
    # classes pT=T2 1, laterality=Left 1, pT=not stated 0, tumor_size=2.5 cm 0
    assert pick(scores, **whole, metric="macro_f1").f1 == 50
    base = whole | {"stage": "base"}
    assert pick(scores, **base, metric="value_accuracy").f1 == 25
    assert pick(scores, **base, metric="miss").f1 == pytest.approx(200 / 3)
    assert pick(scores, **base, metric="false_answer").f1 == 0
    headline = pick(scores, **{**whole, "subgroup": "headline"}, metric="value_accuracy")
    assert headline.n == 3 and headline.f1 == pytest.approx(200 / 3)
    assert pick(scores, **{**whole, "variant": "full", "field": "pT"}, metric="value_accuracy").n == 2
    # nothing that stops, no share of stops
    dev = scores[scores.split == "dev"]
    assert set(dev.n) == {1, 2} and "eos_share" not in set(dev.metric)


def test_score_run_writes_its_files(run):
    scores = score_run(run, n_resamples=50, why="first look")
    read = pd.read_csv(run / "results/scores.csv", keep_default_na=False, na_values=[""])
    assert list(read.columns) == SCORE_COLUMNS and len(read) == len(scores)
    examples = pd.read_parquet(run / "results/examples.parquet")
    assert len(examples) == 2 * (4 + 4 + 2)
    assert {"model", "stage", "task", "split", "example_id", "patient_id", "field", "variant", "headline", "family", "average_f1", "exact", "value_correct"} <= set(
        examples.columns
    )
    ledger = pd.read_csv(run / "results/ledger.csv")
    assert ledger.split.tolist() == ["test"] and set(ledger.why) == {"first look"}
    assert not list(run.glob("results/*.part"))


def test_damaged_questions_and_altered_teachers_stay_out_of_every_table(run):
    answers = (run / "predictions/tiny/base/extraction.test.jsonl").read_bytes()
    write(run / "predictions/tfidf/baseline/extraction.test.jsonl", *map(json.loads, answers.splitlines()))
    clean = score_run(run, n_resamples=50)
    for other in ("tiny/base/extraction.test+misspell20", "tiny/base/extraction.test+misspell20+respelled", "tiny/base/extraction.test+respelled", "tiny/base/extraction.test+upper",
                  "tiny/base/extraction.train+corrupted", "tfidf/baseline-cf40/extraction.test", "tiny/sft-cf40-s7/extraction.test", "tiny/cpt-sft-cfnear40/extraction.test"):
        path = run / "predictions" / f"{other}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(answers)
    pd.testing.assert_frame_equal(score_run(run, n_resamples=50), clean)
    write(run / "predictions/other/sft-cf40/extraction.test.jsonl", *map(json.loads, answers.splitlines()))
    again = score_run(run, n_resamples=50)
    pd.testing.assert_frame_equal(again[again.model != "other"].reset_index(drop=True), clean)
    assert set(again.loc[again.model == "other", "stage"]) == {"sft-cf40"}, "a model that has no other stage is shown with what it has"
    assert set(pd.read_parquet(run / "results/examples.parquet").split) == {"dev", "test"}
    assert set(efficiency.read_runs(run).split) == {"dev", "test"} and "baseline-cf40" not in set(efficiency.read_runs(run).stage)


def test_compare_is_paired(run):
    score_run(run, n_resamples=50)
    sides = ("tiny", "cpt-sft-s7"), ("tiny", "base")
    result = compare(run, *sides, "extraction", "test", "value_accuracy", n_resamples=50)
    assert (result["difference"], result["n"]) == (25, 4) and result["low"] <= 25 <= result["high"]
    assert compare(run, *sides, "extraction", "test", "value_accuracy", field="laterality", n_resamples=50)["difference"] == 100
    assert compare(run, *sides, "extraction", "test", "value_accuracy", subgroup="headline", n_resamples=50)["n"] == 3
    with pytest.raises(UserError, match="share no example"):
        compare(run, ("tiny", "cpt-sft-s7"), ("tiny", "nobody"), "extraction", "test", "average")
    with pytest.raises(UserError, match="not stored"):
        compare(run, *sides, "extraction", "test", "macro_f1")


def test_rings_of_unseen_places_count_institutions_not_patients(tmp_path):
    rows = [{"example_id": f"e{i}", "patient_id": f"P{i}", "field": "pT", "answers": ["T2"], "institution": f"Hospital {i // 20}", "headline": True} for i in range(80)]
    for ring in ("test", "external"):
        write(tmp_path / f"datasets/phenotype_extraction/{ring}.jsonl", *rows)
        for stage, right in (("sft", 20), ("cpt-sft", 40)):  # whole hospitals are right or wrong
            given = [{"example_id": row["example_id"], "prediction": "", "answers": ["T2"], "parsed": "T2" if i < right else "T4"} for i, row in enumerate(rows)]
            write(tmp_path / f"predictions/tiny/{stage}/phenotype_extraction.{ring}.jsonl", *given)
    scores = score_run(tmp_path, n_resamples=200)
    whole = {"stage": "cpt-sft", "field": "all", "subgroup": "all", "variant": "all", "metric": "value_accuracy"}
    inner, outer = (pick(scores, **whole, split=ring) for ring in ("test", "external"))
    assert inner.f1 == outer.f1 == 50 and inner.f1_high - inner.f1_low < 40
    assert (outer.f1_low, outer.f1_high) == (0, 100)  # two of four hospitals, t limits clipped to the scale
    assert compare(tmp_path, ("tiny", "cpt-sft"), ("tiny", "sft"), "phenotype_extraction", "external")["low"] < 0
    assert compare(tmp_path, ("tiny", "cpt-sft"), ("tiny", "sft"), "phenotype_extraction", "test")["low"] > 0
    places = pd.read_csv(tmp_path / "results/institutions.csv")
    places = places[(places.stage == "cpt-sft") & (places.family == "clinical")]
    assert places.institution.tolist() == [f"Hospital {i}" for i in range(4)] and places.value_accuracy.tolist() == [100, 100, 0, 0] and set(places.patients) == {20}


def test_an_institution_of_few_patients_shows_no_score():
    rows = [{"model": "tiny", "stage": "sft", "task": "x", "split": "external", "family": "paper", "headline": True, "example_id": f"{name}{i}", "patient_id": f"{name}{i}",
             "institution": name, "average_f1": 1.0, "value_correct": 0.5} for name, n in (("large", 20), ("small", 19)) for i in range(n)]
    table = institution_table(pd.DataFrame(rows)).set_index("institution")
    assert table.loc["large", ["average_f1", "value_accuracy"]].tolist() == [100, 50] and table.loc["small", ["average_f1", "value_accuracy"]].isna().all()
    assert table["patients"].to_dict() == {"large": 20, "small": 19}


def test_classes_and_kappa_of_a_closed_field(tmp_path):
    answers = ["T1", "T1", "T2", "T2", "T3", "not stated"]
    parsed = ["T1", "T2", "T2", "T2", "unparsed", "T1"]
    write(tmp_path / "datasets/x/dev.jsonl", *({"example_id": str(i), "patient_id": f"P{i}", "field": "pT", "answers": [a]} for i, a in enumerate(answers)))
    write(tmp_path / "predictions/tiny/sft/x.dev.jsonl",
          *({"example_id": str(i), "prediction": "?", "answers": [a], "parsed": p} for i, (a, p) in enumerate(zip(answers, parsed))))
    scores = score_run(tmp_path, n_resamples=50)
    table = pd.read_csv(tmp_path / "results/classes.csv").set_index("class")
    assert set(table.index) == {"T1", "T2", "T3", "not stated", "accuracy", "macro", "weighted"} and set(table.field) == {"pT"}
    assert table.loc["T1", ["precision", "recall", "f1", "n"]].tolist() == [50, 50, 50, 2] and table.f1["T3"] == 0
    assert table.f1["T2"] == pytest.approx(80) and table.f1["accuracy"] == 50
    kappa = pick(scores, field="pT", metric="kappa_quadratic", subgroup="all")
    # answered on the scale: T1-T1, T1-T2, T2-T2, T2-T2; seen 1 of 4 steps, by chance (2 x 3 + 2 x 1) / 4 = 2
    assert kappa.f1 == pytest.approx(100 * (1 - 1 / 2)) and kappa.n == 4


# ---- abstention ------------------------------------------------------------------------------------------------------------------


def abstention(gold, parsed, **more):
    """metric -> row of abstention_rows for one question per patient."""
    values = pd.DataFrame([metrics.value_scores([g], p) for g, p in zip(gold, parsed)], dtype=float).reindex(columns=groups.VALUE_METRICS) * 100
    group = {"values": values.to_numpy(), "cluster": np.arange(len(gold)), "unparsed": np.array([p == "unparsed" for p in parsed])}
    return {row["metric"]: row for row in groups.abstention_rows(group, "percentile", 200, 0)}


GOLD = ["T1", "T2", "T3", "T4", "not stated", "not stated"]


def test_abstention_by_hand():
    found = abstention(GOLD, ["T1", "T2", "T1", "not stated", "not stated", "T4"])
    # four stated: two right, one wrong, one missed; two not stated: one value given. Four values given, two right.
    assert (found["right_stated"]["f1"], found["right_stated"]["n"]) == (50, 4)
    assert found["value_minus_false"]["f1"] == 50 - 50 and found["value_minus_false"]["n"] == 6
    row = found["value_f1"]
    assert (row["precision"], row["recall"], row["f1"]) == (50, 50, 50)
    assert all(row["f1_low"] <= row["f1"] <= row["f1_high"] for row in found.values())


@pytest.mark.parametrize(("parsed", "expected"), [
    (["not stated"] * 6, 0),  # never answers
    (["T1", "T2", "T3", "T4", "T1", "T1"], 0),  # always answers, and always rightly where there is a value
    (["T2"] * 6, 25 - 100),  # always the same answer
    (["unparsed"] * 6, 0),  # nothing readable is as good as silence
    (["T1", "T2", "T3", "T4", "not stated", "not stated"], 100),
])
def test_who_always_or_never_answers_gains_nothing(parsed, expected):
    assert abstention(GOLD, parsed)["value_minus_false"]["f1"] == expected


def test_abstention_is_asked_only_where_both_kinds_of_question_are():
    assert abstention(["T1", "T2"], ["T1", "T1"]) == {} and abstention(["not stated"] * 2, ["T1", "not stated"]) == {}
    never = abstention(GOLD, ["not stated"] * 6)["value_f1"]
    assert never["f1"] == never["recall"] == 0 and np.isnan(never["precision"])


def test_predictions_of_another_data_set_are_refused_and_nothing_is_written(run):
    path = run / "predictions/tiny/base/extraction.test.jsonl"
    path.write_text(path.read_text().replace('"e2"', '"e9"'))
    with pytest.raises(UserError, match=r"extraction\.test\.jsonl, line 2"):
        score_run(run, n_resamples=10)
    assert not (run / "results/scores.csv").exists()


def test_no_predictions(tmp_path):
    with pytest.raises(UserError, match="05_prediction"):
        score_run(tmp_path)


def test_ledger_is_for_the_last_word_only(tmp_path):
    assert not append_ledger(tmp_path, "dev", "x") and not append_ledger(tmp_path, "dev+misspell20", "x")
    assert not (tmp_path / "results/ledger.csv").exists()
    assert append_ledger(tmp_path, "external", "why, not") and append_ledger(tmp_path, "test", "again")
    ledger = pd.read_csv(tmp_path / "results/ledger.csv")
    assert list(ledger.columns) == ["date", "commit", "split", "why"] and ledger.why.tolist() == ["why, not", "again"]


def test_a_new_metric_shows_in_the_run_but_not_in_the_eight(run, monkeypatch):
    monkeypatch.setitem(score.METRICS["clinical"], "one_metric", lambda gold, predicted: 1.0)
    for module in (score, groups):
        monkeypatch.setattr(module, "ALL_METRICS", [(f, m) for f in score.METRICS for m in (*score.METRICS[f], "average")])
    metrics._similarities.cache_clear()
    scores = score_run(run, n_resamples=10)
    assert "one_metric" in set(scores.metric) and scores[scores.metric == "one_metric"].f1.min() == 100
    metrics._similarities.cache_clear()
