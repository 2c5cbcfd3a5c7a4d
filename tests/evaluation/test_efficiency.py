"""Cost tables from an invented run whose every number can be worked out by hand; the machine's limits; the Pareto front."""

import json
import struct

import pandas as pd
import pytest

from cancerllm_utils import plots
from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import efficiency
from cancerllm_utils.plots import efficiency as plots_efficiency
from cancerllm_utils.results import SCORE_COLUMNS
from tests.plots.test_plots import texts

TASK = "phenotype_extraction"
LIMITS = pd.DataFrame([["GEMM", "fp32", 10.0, "GFLOP/s"], ["GEMM", "bf16", 1.0, "GFLOP/s"], ["copy", "fp32", 20.0, "GB/s"]],
                      columns=["what", "precision", "value", "unit"])


def write_predictions(run, model, stage, split, n, seconds, new_tokens, **outcome):
    folder = run / "predictions" / model / stage
    folder.mkdir(parents=True, exist_ok=True)
    row = {"example_id": "e", "prediction": "Right", "answers": ["Right"], "parsed": "Right", "new_tokens": new_tokens, "stop_reason": "eos", "seconds": seconds}
    (folder / f"{TASK}.{split}.jsonl").write_text("".join(json.dumps(row | {"example_id": f"e{i}"}) + "\n" for i in range(n)))
    if outcome:
        settings = {"batch_size": 32, "precision": "fp32", "max_new_tokens": 24}
        (folder / f"{TASK}.{split}.run.json").write_text(json.dumps({"fingerprint": "x", "settings": settings, "outcome": outcome}))


@pytest.fixture
def run(tmp_path):
    """TF-IDF and two stages of the embedded model: 100 answers of test and 50 of external each."""
    for split, n in (("test", 100), ("external", 50)):
        write_predictions(tmp_path, "tfidf", "baseline", split, n, 0.001, 0)
        write_predictions(tmp_path, "tiny_base", "base", split, n, 0.04, 20, prompt_tokens=200 * n, peak_memory_gib=0.5 if split == "test" else 0.6, memory_of="whole process", energy_kwh=None)
        write_predictions(tmp_path, "tiny_base", "sft", split, n, 0.02, 5, prompt_tokens=200 * n, peak_memory_gib=0.5, memory_of="whole process", energy_kwh=n * 1e-6)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "05_prediction.json").write_text(json.dumps({"device": "a processor, 2 cores"}))
    return tmp_path


def scores(quality: dict) -> pd.DataFrame:
    rows = [[model, stage, TASK, "all", "test", "all", "headline", "paper", "average", f1, f1, f1, f1 - 2, f1 + 2, 90, 0, 1] for (model, stage), f1 in quality.items()]
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


SCORES = scores({("tfidf", "baseline"): 60, ("tiny_base", "base"): 5, ("tiny_base", "sft"): 70})


def test_cost_of_answers_by_hand(run):
    table = efficiency.answers_table(efficiency.read_runs(run)).set_index(["model", "stage"])
    sft = table.loc[("tiny_base", "sft")]
    assert sft["answers"] == 150 and sft["seconds"] == pytest.approx(3.0) and sft["answers_per_second"] == pytest.approx(50)
    assert sft["seconds_per_1000"] == pytest.approx(20) and sft["new_tokens_per_second"] == pytest.approx(250) and sft["tokens_per_answer"] == 5
    assert sft["watt_hours_per_1000"] == pytest.approx(1.0)  # 150 times 1e-6 kWh for 150 answers
    assert table.loc[("tiny_base", "base"), "peak_memory_gib"] == 0.6 and pd.isna(table.loc[("tiny_base", "base"), "watt_hours_per_1000"])
    assert pd.isna(table.loc[("tfidf", "baseline"), "new_tokens_per_second"]) and next(iter(table.index)) == ("tfidf", "baseline")


def test_answers_that_took_no_measurable_time_have_no_rate(tmp_path):
    write_predictions(tmp_path, "majority", "baseline", "test", 10, 0.0, 0)
    row = efficiency.answers_table(efficiency.read_runs(tmp_path)).iloc[0]
    assert row["answers_per_second"] is None and row["seconds_per_1000"] == 0


def test_energy_of_a_part_of_the_answers_is_no_energy(run):
    write_predictions(run, "tiny_base", "sft", "external", 50, 0.02, 5, prompt_tokens=1, energy_kwh=None)
    table = efficiency.answers_table(efficiency.read_runs(run)).set_index(["model", "stage"])
    assert pd.isna(table.loc[("tiny_base", "sft"), "watt_hours_per_1000"])


def test_parameters_are_read_from_a_header_alone(tmp_path):
    header = json.dumps({"__metadata__": {"format": "pt"}, "a.weight": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
                         "b.bias": {"dtype": "F32", "shape": [], "data_offsets": [48, 52]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 52)
    assert efficiency.tensors(tmp_path / "x.safetensors") == {"a.weight": 12, "b.bias": 1}


def test_size_of_the_embedded_model(run):
    row = efficiency.sizes(run, efficiency.read_runs(run)).iloc[0]
    assert row["model"] == "tiny_base" and 7e6 < row["parameters"] < 8e6
    assert row["parameters"] - row["moved_parameters"] == 8192 * 256  # its input embedding, of which a token reads one row
    assert row["weights_gib"] == pytest.approx(4 * row["parameters"] / 2**30) and pd.isna(row["adapter_mb"])


def test_a_model_from_the_hub_has_its_published_size(tmp_path):
    write_predictions(tmp_path, "mistral-7b-instruct-v0.1", "base", "test", 2, 0.5, 5, prompt_tokens=9, peak_memory_gib=15.0, memory_of="tensors on the card", energy_kwh=None)
    path = tmp_path / "predictions" / "mistral-7b-instruct-v0.1" / "base" / f"{TASK}.test.run.json"
    path.write_text(path.read_text().replace("fp32", "bf16"))
    row = efficiency.sizes(tmp_path, efficiency.read_runs(tmp_path)).iloc[0]
    assert row["parameters"] == pytest.approx(7.24e9, rel=0.01) and row["bytes_per_weight"] == 2 and row["weights_gib"] == pytest.approx(13.5, rel=0.01)


def test_share_of_the_limit_by_hand(run):
    runs = efficiency.read_runs(run)
    size = pd.DataFrame([{"model": "tiny_base", "parameters": 6e6, "moved_parameters": 5e6, "bytes_per_weight": 4}])
    table = efficiency.against_limit(runs, size, LIMITS).set_index("stage")
    assert table.loc["sft", "one_by_one_limit"] == pytest.approx(1000)  # 20e9 bytes/s over 5e6 weights of 4 bytes
    assert table.loc["sft", "reached"] == pytest.approx(250) and table.loc["sft", "times_limit"] == pytest.approx(0.25)
    # 205 tokens per answer, 50 answers per second, 2 * 5e6 operations each: 102.5 GFLOP/s of 10
    assert table.loc["sft", "arithmetic_gflops"] == pytest.approx(102.5) and table.loc["sft", "arithmetic_share"] == pytest.approx(1025)
    assert "tfidf" not in set(table["model"])


def test_without_prompt_tokens_there_is_no_arithmetic(run):
    for path in run.glob("predictions/tiny_base/*/*.run.json"):
        path.write_text(path.read_text().replace("prompt_tokens", "something_else"))
    runs = efficiency.read_runs(run)
    table = efficiency.against_limit(runs, efficiency.sizes(run, runs), LIMITS)
    assert table["arithmetic_share"].isna().all() and table["reached"].notna().all()


def test_the_front_holds_what_no_other_system_beats(run):
    front = efficiency.pareto(SCORES, efficiency.read_runs(run)).set_index(["model", "stage"])
    assert front["front"].to_dict() == {("tfidf", "baseline"): True, ("tiny_base", "base"): False, ("tiny_base", "sft"): True}
    assert front.loc[("tiny_base", "sft"), "seconds_per_1000"] == pytest.approx(20) and front.loc[("tiny_base", "sft"), "n"] == 90


@pytest.mark.parametrize("points, on_front", [
    ([(1, 50), (1, 50)], [True, True]),  # equals do not beat each other
    ([(1, 50), (1, 60)], [False, True]),  # as cheap and better
    ([(1, 50), (2, 50)], [True, False]),  # as good and cheaper
    ([(1, 50), (2, 60), (3, 55)], [True, True, False]),
])
def test_who_is_beaten(points, on_front):
    table = pd.DataFrame(points, columns=["seconds_per_1000", "quality"])
    assert [not efficiency.dominated(row, table) for row in table.itertuples()] == on_front


def test_beside_the_paper_nothing_is_called_comparable(run):
    table = efficiency.beside_paper(efficiency.read_runs(run), SCORES, efficiency.device_of(run))
    assert list(table["paper"]) == ["1:14:12 h:min:s", "5,550 MB"] and set(table["comparable"]) == {"no"}
    assert list(table["this run"]) == ["0:00:02 h:min:s", "537 MB (whole process)"]
    assert "100 questions (held-out patients), 32 together, fp32, on a processor, 2 cores" in table["how it was made here"].iloc[0]


def test_a_run_without_predictions_scores_or_training_gives_empty_tables(tmp_path):
    runs, scored = efficiency.read_runs(tmp_path), efficiency.read_scores(tmp_path)
    answers, training, size = efficiency.answers_table(runs), efficiency.training_cost(tmp_path), efficiency.sizes(tmp_path, runs)
    against, front = efficiency.against_limit(runs, size, LIMITS), efficiency.pareto(scored, runs)
    batches = efficiency.batch_sizes_table(tmp_path, "tiny_base", "sft", TASK, "dev", [], 4, 4)
    assert all(table.empty for table in (answers, training, size, against, front, batches))
    assert efficiency.sentences(front, training) == [] and efficiency.device_of(tmp_path) == "machine not recorded"
    assert efficiency.beside_paper(runs, scored, "").empty
    assert list(efficiency.tidy(answers, training, size, against, LIMITS, batches)["what"]) == ["machine: GEMM fp32", "machine: GEMM bf16", "machine: copy fp32"]


def test_training_cost_counts_every_process(tmp_path):
    (tmp_path / "results").mkdir()
    row = {"model": "tiny_base", "stage": "cpt", "tuning": "lora", "seconds": 1800, "num_processes": 2, "train_rows": 10, "tokens": 100}
    pd.DataFrame([row]).to_csv(tmp_path / "results" / "training.csv", index=False)
    assert efficiency.training_cost(tmp_path)["process_hours"].tolist() == [1.0]


def test_the_long_table_holds_each_number_once_with_its_unit(run):
    runs = efficiency.read_runs(run)
    size = efficiency.sizes(run, runs)
    batches = pd.DataFrame([{"model": "tiny_base", "stage": "sft", "batch_size": 8, "n": 64, "seconds": 2.0, "peak_memory_gib": 0.4}])
    table = efficiency.tidy(efficiency.answers_table(runs), efficiency.training_cost(run), size, efficiency.against_limit(runs, size, LIMITS), LIMITS, batches)
    assert list(table) == ["model", "stage", "task", "what", "value", "unit", "n"] and not table.duplicated(["model", "stage", "task", "what"]).any()
    found = table[(table["stage"] == "sft") & (table["what"] == "answering: answers_per_second")].iloc[0]
    assert (found["value"], found["unit"], found["n"]) == (pytest.approx(50), "1/s", 150)
    assert table.loc[table["what"] == "batches of 8: seconds", "value"].tolist() == [2.0]
    path = efficiency.write(run, table)
    assert len(pd.read_csv(path)) == len(table) and not list(path.parent.glob(".*"))


def test_sentences_name_the_best_and_the_front(run):
    said = efficiency.sentences(efficiency.pareto(SCORES, efficiency.read_runs(run)), efficiency.training_cost(run))
    assert "tiny_base, sft is best with 70.0 points at 20 s per 1,000 answers" in said[0] and "TF-IDF" in said[0]


def test_a_cards_table_is_shown_with_its_date(tmp_path):
    assert "No table" in efficiency.card_table("")[1]
    with pytest.raises(UserError, match="no such file"):
        efficiency.card_table(str(tmp_path / "none.csv"))
    pd.DataFrame([{"date": "2026-01-02", "tokens_per_second": 1.0}]).to_csv(tmp_path / "card.csv", index=False)
    table, dated = efficiency.card_table(str(tmp_path / "card.csv"))
    assert len(table) == 1 and "2026-01-02" in dated


def test_figures_name_every_system_and_n(run):
    said = texts(plots_efficiency.quality_against_cost(efficiency.pareto(SCORES, efficiency.read_runs(run))))
    assert all(name in said for name in ("tiny_base, sft", "TF-IDF", "not beaten in both", "n = 90")) and "too fast" not in said
    assert "no system" in texts(plots_efficiency.quality_against_cost(efficiency.pareto(scores({}), efficiency.read_runs(run))))
    batches = pd.DataFrame({"model": "m", "stage": "sft", "batch_size": [1, 8], "n": 64, "answers_per_second": [5.0, 30.0], "peak_memory_gib": [0.3, 0.4], "memory_of": "whole process"})
    assert "m, sft (n = 64)" in texts(plots_efficiency.batch_sizes(batches)) and "no batch sizes" in texts(plots_efficiency.batch_sizes(batches.iloc[:0]))


def test_systems_too_fast_to_time_stand_at_the_floor_of_the_figure(run):
    write_predictions(run, "majority", "baseline", "test", 100, 0.0, 0)
    fig = plots_efficiency.quality_against_cost(efficiency.pareto(scores({("majority", "baseline"): 20, ("tiny_base", "sft"): 70}), efficiency.read_runs(run)))
    assert "too fast to time" in texts(fig) and plots.GREY in {line.get_color() for line in fig.axes[0].lines}


def test_the_machine_is_measured(monkeypatch):
    from cancerllm_utils.modeling import machine

    monkeypatch.setattr(machine, "SIZES", {"cpu": (32, 64, 2**16), "cuda": (32, 64, 2**16)})
    table = machine.limits(0.01)
    assert list(table["what"]) == ["GEMM", "GEMM", "copy"] and (table["value"] > 0).all() and set(table["unit"]) == {"GFLOP/s", "GB/s"}
    assert (table["threads"] >= 1).all()


def test_the_fastest_repeat_counts_and_the_first_does_not(monkeypatch):
    from cancerllm_utils.modeling import machine

    times = iter([0, 1, 2, 11, 16, 22, 25, 33, 40, 100])  # begun, then four repeats of 1, 5, 3 and 7, then the time is up
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(times))
    assert machine.best(lambda: None, 1.0, "cpu") == 3
