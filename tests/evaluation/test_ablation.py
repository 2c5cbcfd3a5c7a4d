"""The ablation reads stored results: factors found from the jobs' parameters, numbers by hand, one figure, one sentence per factor."""

import pandas as pd
import pytest
import yaml

from cancerllm_utils import params, study
from cancerllm_utils.evaluation import ablation
from cancerllm_utils.plots import ablation as plots_ablation
from cancerllm_utils.results import SCORE_COLUMNS

CPT = {"model": "tiny_base", "lora_r": 8, "max_tokens": 4000, "learning_rate": 1e-3, "packing_strategy": "bfd"}
SFT = {"model": "tiny_base", "lora_r": 16, "completion_only_loss": True, "preset": "paper"}
STAGES = {  # stage: (its own settings, bits per byte after reading, average F1)
    "cpt": ({}, 2.5, None), "cpt-lora_r2": ({"lora_r": 2}, 2.75, None), "cpt-max_tokens2000": ({"max_tokens": 2000}, 2.625, None),
    "sft": ({}, None, 40.0), "cpt-sft": ({}, None, 50.0), "cpt-sft-lora_r2": ({}, None, 45.0), "cpt-sft-max_tokens2000": ({}, None, 50.0),
    "cpt-sft-tuning_lora_r4": ({"lora_r": 4}, None, 30.0), "cpt-sft-released": ({"preset": "released", "completion_only_loss": False}, None, 20.0),
}
NOTES = {"cpt": 30, "cpt-lora_r2": 30, "cpt-max_tokens2000": 15}


@pytest.fixture
def run(tmp_path):
    """A run of one model: eight questions of eight patients, scored per question so that every paired difference is known."""
    (tmp_path / "params").mkdir()
    (tmp_path / "results").mkdir()
    losses, training, scores, examples = [], [], [], []
    for stage, (own, bits, score) in STAGES.items():
        tuned = bits is None
        variant = stage.removeprefix("cpt-sft")
        cpt_stage = f"cpt{variant}" if tuned and f"cpt{variant}" in STAGES and variant else "cpt"
        values = (SFT | {"cpt_stage": cpt_stage} if tuned else CPT) | {"stage": stage} | own
        job = study.job_name(params.TUNING if tuned else params.PRETRAINING, "" if stage == "cpt" else stage, "")
        (tmp_path / "params" / f"{job}.yaml").write_text(yaml.safe_dump(values))
        training.append({"model": "tiny_base", "stage": stage, "train_rows": 100 if tuned else NOTES[stage], "trainable_parameters": 1000})
        if not tuned:
            for split, before in (("dev", 3.0), ("general", 4.0)):
                row = {"model": "tiny_base", "stage": stage, "split": split, "subgroup": "all", "tokens": 500, "step": 0}
                losses.append(row | {"when": "before", "loss": 2 * before, "bits_per_byte": before})
                losses.append(row | {"when": "after", "loss": 2 * (bits + before - 3), "bits_per_byte": bits + before - 3,
                                     "change": 2 * (bits - 3), "change_low": 2 * (bits - 3) - 0.5, "change_high": 2 * (bits - 3) + 0.25})
            losses.append(row | {"subgroup": "BRCA", "when": "after", "loss": 9.0, "bits_per_byte": 9.0})
            continue
        row = {"model": "tiny_base", "stage": stage, "task": "diagnosis_generation", "variant": "all", "split": "dev", "field": "all", "subgroup": "all", "n": 8, "seed": 42}
        scores.append(row | {"family": "paper", "metric": "average", "f1": score, "f1_low": score - 5, "f1_high": score + 5, "unparsed": 1})
        scores.append(row | {"family": "clinical", "metric": "eos_share", "f1": 0.0 if stage.endswith("released") else 100.0, "unparsed": 1})
        for i in range(8):
            examples.append({"example_id": i, "patient_id": f"p{i}", "field": "diagnosis", "variant": "", "headline": True, "cancer_type": "BRCA", "model": "tiny_base", "stage": stage,
                             "task": "diagnosis_generation", "split": "dev", "family": "paper", "average_f1": score / 100, "exact": 0.0, "value_correct": 0.0})
    pd.DataFrame(losses).to_csv(tmp_path / "results" / "cpt.csv", index=False)
    pd.DataFrame(training).to_csv(tmp_path / "results" / "training.csv", index=False)
    pd.DataFrame(scores, columns=SCORE_COLUMNS).to_csv(tmp_path / "results" / "scores.csv", index=False)
    pd.DataFrame(examples).to_parquet(tmp_path / "results" / "examples.parquet")
    return tmp_path


def test_changes_are_read_from_the_jobs_parameters(run):
    stages = ablation.trained_stages(run).set_index("stage")
    assert stages.loc["cpt-sft", "changes"] == {} and stages.loc["sft", "changes"] == {}
    assert stages.loc["cpt-sft-lora_r2", "changes"] == {(params.PRETRAINING, "lora_r"): 2}, "what the stage under it changed is its own change"
    assert stages.loc["cpt-sft-tuning_lora_r4", "changes"] == {(params.TUNING, "lora_r"): 4}
    assert [stages.loc[stage, "root"] for stage in ("cpt-lora_r2", "cpt-sft-lora_r2", "sft")] == ["cpt", "cpt-sft", "sft"]


def test_points_are_the_stored_numbers(run):
    found = ablation.points(run)
    factors = {(row.notebook, row.factor) for row in found.itertuples()}
    assert factors == {(params.PRETRAINING, "lora_r"), (params.PRETRAINING, "max_tokens"), (params.TUNING, "lora_r")}, "released changes two settings: no point"
    rank = found[(found["factor"] == "lora_r") & (found["notebook"] == params.PRETRAINING)]
    bits = rank[(rank["measure"] == "bits per byte") & (rank["split"] == "dev")]
    assert list(zip(bits["setting"], bits["value"], bits["reference"])) == [(2, 2.75, False), (8, 2.5, True)]
    assert tuple(bits[["low", "high"]].iloc[0]) == pytest.approx((3.0 + 0.5 * (-0.5 - 0.5), 3.0 + 0.5 * (-0.5 + 0.25))), "nats are bits per byte times bytes per token and ln 2"
    assert set(rank["split"]) == {"dev", "general"} and 9.0 not in set(found["value"]), "rows of one cancer type are not the whole"
    score = rank[rank["measure"] == "diagnosis_generation"].set_index("setting")
    assert (score.loc[2, "value"], score.loc[2, "difference"], score.loc[8, "value"]) == (45.0, pytest.approx(-5.0), 50.0)
    assert (score.loc[2, "difference_low"], score.loc[2, "difference_high"]) == pytest.approx((-5.0, -5.0)), "every question lost five points"
    assert pd.isna(score.loc[8, "difference"]) and set(rank["stage"]) == {"cpt", "cpt-lora_r2", "cpt-sft", "cpt-sft-lora_r2"}


def test_the_axis_of_a_limit_is_what_was_really_read(run):
    found = ablation.points(run)
    notes = found[found["factor"] == "max_tokens"]
    bits = notes[(notes["measure"] == "bits per byte") & (notes["split"] == "dev")].set_index("setting")["value"]
    assert dict(bits) == {0: 3.0, 15: 2.625, 30: 2.5}, "no note read: the loss before training"
    score = notes[notes["measure"] == "diagnosis_generation"].set_index("setting")
    assert dict(score["value"]) == {0: 40.0, 15: 50.0, 30: 50.0} and score.loc[0, "stage"] == "sft"
    assert score.loc[0, "difference"] == pytest.approx(-10.0) and score.loc[15, "difference"] == pytest.approx(0.0)
    assert not score.loc[0, "reference"] and score.loc[30, "reference"]


def test_sentences_say_what_the_points_say(run):
    text = ablation.sentences(ablation.points(run))
    rank = next(line for line in text if line.startswith("lora_r (pre-training)") and "held" not in line and "Diagnosis" in line)
    assert "50.0 points at 8 (reference, n = 8)" in rank and "\N{MINUS SIGN}5.0 at 2 (\N{MINUS SIGN}5.0 to \N{MINUS SIGN}5.0)" in rank and "told apart from the reference by this sample: 2" in rank
    notes = next(line for line in text if line.startswith("notes read") and "development patients" in line)
    assert "2.500 bits per byte at 30 (reference)" in notes and "3.000 at 0" in notes and "lowest at 30" in notes and "n = 500 tokens" in notes
    assert len(text) == 3 * 2 + 3 - 2, "notes, general text and one task for two factors of 03; one task for the factor of 04"
    assert "Nothing was varied" in ablation.sentences(ablation.points(run).iloc[:0])[0]


def test_settings_that_are_no_number_stand_in_the_table_beside_their_reference(run):
    table = ablation.settings_table(run)
    assert list(table["stage"]) == ["cpt-sft", "cpt-sft-released"]
    assert list(table["what differs"]) == ["reference", "completion_only_loss False, preset 'released'"]
    assert list(table["against the reference"]) == ["", "\N{MINUS SIGN}30.0 (\N{MINUS SIGN}30.0 to \N{MINUS SIGN}30.0)"]
    assert list(table["ended by itself, %"]) == ["100.0", "0.0"] and list(table["unparsed"]) == ["1", "1"] and list(table["n"]) == ["8", "8"]
    sentence = ablation.settings_sentences(table)[0]
    assert "20.0 (15.0 to 25.0)" in sentence and "0.0 % of the answers ended by themselves" in sentence


def test_the_figure_has_a_column_per_factor_and_marks_the_reference(run):
    found = ablation.points(run)
    fig = plots_ablation.ablation(found)
    above, below = fig.axes[:3], fig.axes[3:]
    assert [ax.get_title(loc="left") for ax in above] == ["lora_r (pre-training)", "notes read (pre-training)", "lora_r (tuning)"]
    assert [label.get_text() for label in below[1].get_xticklabels()] == ["0", "15", "30"]
    assert any("not changed by tuning" in text.get_text() for text in above[2].texts)
    drawn = next(line for line in above[0].lines if len(line.get_xdata()) == 2 and list(line.get_ydata()) == [2.75, 2.5])
    assert list(drawn.get_xdata()) == [0, 1]
    labels = [text.get_text() for text in below[2].get_legend().get_texts()]
    assert labels == ["Diagnosis generation\n(development patients, n = 8)"]
    assert plots_ablation.ablation(found.iloc[:0]).axes[0].texts[0].get_text() == "nothing was varied in this run"


def test_a_run_without_scores_still_shows_its_losses(run):
    for name in ("scores.csv", "examples.parquet"):
        (run / "results" / name).unlink()
    found = ablation.points(run)
    assert set(found["measure"]) == {"bits per byte"} and len(ablation.settings_table(run)) == 0
    assert "No variant" in ablation.settings_sentences(ablation.settings_table(run))[0]
    plots_ablation.ablation(found)


@pytest.mark.parametrize(("value", "text"), [(2, "2"), (12345, "12,345"), (0.05, "0.05"), (1e-3, "1e-3"), (2.5e-4, "2.5e-4"), (0.0, "0"), (2.0, "2")])
def test_a_setting_is_shown_as_it_is_written(value, text):
    assert ablation.shown(value) == text
