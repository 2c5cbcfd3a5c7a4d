"""Figures of trust draw what the tables hold, with intervals and n, and say so where there is nothing."""

import pandas as pd

from cancerllm_utils.evaluation import danger
from cancerllm_utils.plots import trust

SYSTEMS = [("tfidf", "baseline"), ("tiny_base", "cpt-sft")]
KEYS = {"task": "phenotype_extraction", "split": "test"}


def texts(fig) -> str:
    return "\n".join(text.get_text() for text in fig.findobj(lambda artist: hasattr(artist, "get_text")))


def counts() -> pd.DataFrame:
    return pd.DataFrame([{"model": model, "stage": stage, **KEYS, "kind": kind, "severity": severity, "n": 1, "of": of, "given": of, "patients": of, "share": 10.0, "low": 0.0, "high": 30.0}
                         for model, stage in SYSTEMS for kind, severity, of in [("side_flipped", 1, 10), ("receptor_flipped", 2, 3), ("value_invented", 3, 40)]])


def test_dangerous_errors_are_drawn_the_worst_on_top_and_few_questions_are_named():
    fig = trust.dangerous_errors(counts(), danger.definitions()["kinds"], SYSTEMS, "test")
    labels = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert labels == ["1  wrong side (n = 10)", "3  value given where none is stated (n = 40)"]
    assert "receptor result turned round" in fig.axes[0].get_xlabel() and "95 % interval" in fig.axes[0].get_xlabel()
    assert len(fig.axes[0].containers) == 4, "an interval per kind and system"
    assert "no dangerous error was possible" in texts(trust.dangerous_errors(counts().query("of < 5"), danger.definitions()["kinds"], SYSTEMS, "test"))


def test_reliability_has_a_row_for_the_temperature_only_where_one_was_found():
    bins = pd.DataFrame([{"model": "tiny_base", "stage": "cpt-sft", **KEYS, "scaled": scaled, "bin": i, "n": 20, "confidence": 20.0 * i, "right": 25.0 * i, "low": 10.0 * i, "high": 30.0 * i}
                         for scaled in (False, True) for i in range(4)])
    assert len(trust.reliability(bins, SYSTEMS, "test").axes) == 2 and len(trust.reliability(bins[~bins["scaled"]], SYSTEMS, "test").axes) == 1
    assert "n = 80" in texts(trust.reliability(bins, SYSTEMS, "test"))
    assert "no system gives probabilities" in texts(trust.reliability(bins, SYSTEMS, "external"))


def test_risk_coverage_marks_the_threshold_where_there_is_one():
    curve = pd.DataFrame([{"model": "tiny_base", "stage": "cpt-sft", **KEYS, "coverage": at, "n": at, "right": 100 - at / 2, "low": 90 - at / 2, "high": 100.0} for at in range(10, 101, 10)])
    chosen = pd.DataFrame([{"model": "tiny_base", "stage": "cpt-sft", **KEYS, "sent": 20.0, "right_kept": 60.0}])
    assert "threshold chosen on dev" in texts(trust.risk_coverage(curve, chosen, SYSTEMS, "test"))
    assert "threshold chosen on dev" not in texts(trust.risk_coverage(curve, chosen.assign(right_kept=float("nan")), SYSTEMS, "test"))
    assert "n = 100" in texts(trust.risk_coverage(curve, chosen, SYSTEMS, "test"))
    assert "no system gives probabilities" in texts(trust.risk_coverage(curve, chosen, [("other", "sft")], "test"))
