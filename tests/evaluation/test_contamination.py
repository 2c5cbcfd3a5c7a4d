"""Contamination probes: rewordings, runs, the AUC by hand, and planted reports that are found while others are not."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import contamination
from cancerllm_utils.modeling import models

WORDS = re.findall(r"\w+", """vessel margin nodule capsule stroma duct lobe crypt septum fascia cortex hilum serosa mucosa lumen polyp cyst fold wall edge
grey firm soft pale tan dark smooth rough dense loose thin thick small large upper lower inner outer near far""")


def report(rng) -> str:
    """An invented report of six sentences without sense: what follows cannot be guessed."""
    return " ".join(" ".join(["The", *rng.choice(WORDS, 6)]) + "." for _ in range(6))


@pytest.fixture
def probe_run(tmp_path):
    rng = np.random.default_rng(3)
    (tmp_path / "corpus").mkdir()
    rows = [{"patient_id": f"p{i // 2}", "note_id": f"n{i}", "cancer_type": ("BRCA", "LUAD")[i % 3 == 0], "text": report(rng) if i else "Too short."} for i in range(60)]
    pd.DataFrame(rows).to_parquet(tmp_path / "corpus" / "notes.parquet")
    pd.DataFrame({"patient_id": [f"p{i}" for i in range(30)], "split": ["train"] * 6 + ["dev"] * 24}).to_parquet(tmp_path / "corpus" / "splits.parquet")
    return tmp_path


def test_one_long_report_per_patient_and_the_same_ones_again(probe_run):
    table = contamination.probe_notes(probe_run, ["train", "dev"], 10, 40)
    assert table["group"].value_counts().to_dict() == {"train": 6, "dev": 10} and table["patient_id"].is_unique
    assert table["text"].str.split().str.len().min() >= 40 and table.equals(contamination.probe_notes(probe_run, ["train", "dev"], 10, 40))
    with pytest.raises(UserError, match="fewer than two patients"):
        contamination.probe_notes(probe_run, ["dev"], 10, 1000)


def test_a_rewording_keeps_sentences_values_and_line_breaks():
    text = "Tumor measuring 2.5 x 2 x 1.5 cm, pT2 N1, grade 3.\nThe specimen consists of 3 nodes. Negative for carcinoma in 10 of 12."
    copies = {contamination.reworded(text, np.random.default_rng(seed)) for seed in range(40)}
    assert len(copies) > 20
    for copy in copies:
        assert copy.count("\n") == 1 and "2.5 x 2 x 1.5 cm" in copy and "pT2 N1" in copy and copy.count(".") == text.count(".")
        assert ("3 nodes" in copy) != ("three nodes" in copy) and ("Tumor" in copy) != ("Tumour" in copy)
    assert any(copy.startswith("Negative for") or copy.startswith("Free of") for copy in copies), "sentences change places"


def test_runs_and_partners_by_hand():
    assert contamination.longest_run([1, 2, 3, 9, 4, 5], [7, 2, 3, 9, 8, 4, 5]) == 3 and contamination.longest_run([1], [2]) == 0
    table = pd.DataFrame({"group": ["a", "a", "b", "a", "b"], "cancer_type": ["X", "Y", "X", "X", "Y"]})
    assert contamination.partners_of(table) == [3, 3, 4, 0, 2], "same group, the same cancer type first, never the report itself"


def test_auc_and_its_limits_by_hand():
    found = contamination.auc([3, 4, 5], [1, 2, 3])
    assert found["value"] == pytest.approx(8.5 / 9) and found["n"] == 6
    assert found["p"] == scipy_stats.mannwhitneyu([3, 4, 5], [1, 2, 3], alternative="greater").pvalue
    perfect = contamination.auc(range(20, 40), range(20))
    assert perfect["value"] == perfect["high"] == 1.0 and 0.8 < perfect["low"] < 0.95, "an interval also where nothing overlaps"
    mirrored = contamination.auc(range(20), range(20, 40))
    assert mirrored["value"] == mirrored["low"] == 0.0 and mirrored["high"] == pytest.approx(1 - perfect["low"])


def test_limits_of_the_auc_cover_the_truth():
    """Normal scores a standard deviation apart: the true AUC is known."""
    rng, truth, inside = np.random.default_rng(0), scipy_stats.norm.cdf(1 / np.sqrt(2)), 0
    for _ in range(400):
        found = contamination.auc(rng.normal(1, 1, 25), rng.normal(0, 1, 25))
        inside += found["low"] <= truth <= found["high"]
    assert 0.92 <= inside / 400 <= 0.985


def test_what_a_model_repeats_is_counted(probe_run, monkeypatch):
    """A model that writes the report down scores full marks against it, and little against another."""
    tokenizer, table = models.load_tokenizer("tiny_base"), contamination.probe_notes(probe_run, ["dev"], 6, 40)
    ids = tokenizer(table["text"].tolist())["input_ids"]
    known = {tuple(row[:16]): row[16:40] for row in ids}
    monkeypatch.setattr(contamination, "greedy_tokens", lambda model, tokenizer, rows, n: [known[tuple(row)][:n] for row in rows])
    found = contamination.completions(None, tokenizer, table["text"].tolist(), contamination.partners_of(table), 16, 24, 4)
    assert (found["own_run"] == 24).all() and (found["exact"] == 1).all() and (found["other_run"] < 10).all()
    rows = contamination.summary(pd.concat([table, found], axis=1).assign(loss=1.0, gap=0.0, min_k=-1.0), n_resamples=100).set_index("measure")
    assert rows.loc["reproduced", "value"] == rows.loc["exact", "value"] == 100 and rows.loc["run_gain", "low"] > 12 and rows.loc["run_gain", "p"] < 0.05
    assert rows.loc["gap", "value"] == 0 and rows.loc["gap", "p"] == 1.0


def test_planted_reports_are_found_and_others_are_not(probe_run):
    """The embedded base reads six of twelve held-out reports 20 times: the probes tell them from the other six afterwards, not before."""
    reports = contamination.probe_notes(probe_run, ["train", "dev"], 12, 40)
    table, background = contamination.planted_sample(reports, ["train", "dev"], 12, 4)
    assert len(table) == 12 and set(table["group"]) == {"dev"} and set(background["group"]) == {"train"}
    found = contamination.plant(probe_run, "tiny_base", table, background, [20], precision="fp32", prefix_tokens=16, new_tokens=24, copies=2).set_index(["repeats", "measure"])
    after = found.loc[20]
    assert (after.loc[["rewording", "min-k"], "value"] > 0.95).all() and after.loc["completion", "value"] > 0.7, found  # so short a beginning fits several reports
    assert (found.loc[0, "low"] < 0.5).all() and (found.loc[0, "high"] > 0.5).all(), found
    assert not list((probe_run / "cache").glob("planted-*")), "what was trained and the texts are gone"
    sentence = contamination.planted_sentences(found.reset_index())
    assert len(sentence) == 3 and sum("from 20 repeats on" in text for text in sentence) >= 2
