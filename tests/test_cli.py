"""The commands as other programs call them: exit codes, one sentence, nothing else on stdout."""

import json
import subprocess
import sys

import pytest

from cancerllm_utils import cli, preflight
from cancerllm_utils.modeling import models


def test_score_prints_eight_json_rows_and_nothing_else(tmp_path):
    file = tmp_path / "predictions.jsonl"
    file.write_text('{"id": 1, "answers": ["lung cancer"], "prediction": "lung carcinoma"}\n{"id": 2, "answers": ["2.5"], "prediction": "25", "patient_id": "p"}\n')
    result = subprocess.run([sys.executable, "-m", "cancerllm_utils.cli", "score", str(file), "--json"], capture_output=True, text=True)
    rows = json.loads(result.stdout)
    assert result.returncode == 0 and [(row["family"], row["metric"]) for row in rows] == [(f, m) for f in ("paper", "clinical") for m in ("exact_match", "bleu2", "rougeL", "average")]
    assert all(list(row) == ["family", "metric", "precision", "recall", "f1", "f1_low", "f1_high", "n"] and row["n"] == 2 for row in rows)
    by_name = {(row["family"], row["metric"]): row["f1"] for row in rows}
    assert by_name["paper", "exact_match"] == pytest.approx(50.0), "the paper's metric cannot tell 2.5 from 25"
    assert by_name["clinical", "exact_match"] == pytest.approx(0.0)
    assert by_name["paper", "rougeL"] == pytest.approx(75.0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no row"),
        ('{"id": 1, "answers": ["a"], "prediction": "a"}\n{"id": 1, "answers": ["a"], "prediction": "a"}\n', "line 2"),
        ('{"id": 1, "answers": "a", "prediction": "a"}\n', "line 1"),
        ('{"id": 1, "answers": ["a"]}\n', "prediction"),
        ("{id: 1}\n", "line 1"),
    ],
)
def test_score_refuses_bad_files_with_one_sentence(tmp_path, capsys, content, words):
    file = tmp_path / "bad.jsonl"
    file.write_text(content)
    assert cli.main(["score", str(file), "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and str(file) in err and "Traceback" not in err


def test_check_names_what_is_missing_and_how_to_mend_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CANCERLLM_DATA", str(tmp_path))
    assert cli.main(["check", "tcga"]) == 2
    out = capsys.readouterr().out
    assert "MISSING" in out and "CANCERLLM_DATA" in out and str(tmp_path) in out


def test_check_of_paper_counts_the_adapters_without_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("CANCERLLM_DATA", str(tmp_path))
    text = " ".join(finding["text"] for finding in preflight.check("paper"))
    assert "trains 20,971,520 parameters" in text and "trains 27,262,976 parameters" in text and text.count(": equal") == 2


def test_quick_needs_nothing_that_the_checkout_does_not_hold():
    assert not [finding for finding in preflight.check("quick") if finding["missing"]]
    assert 6e6 < models.parameter_count("tiny_base") < 8e6


def test_unknown_profile_and_missing_file_are_sentences(tmp_path, capsys):
    assert cli.main(["run", "quik"]) == 2
    assert "did you mean 'quick'" in capsys.readouterr().err
    assert cli.main(["score", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err
