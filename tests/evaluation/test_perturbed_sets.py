"""Perturbed test sets: same questions and answers over another text, made by the run's own settings; the simple methods read the same damage."""

import json
import shutil

import pandas as pd
import pytest

from cancerllm_utils import paths
from cancerllm_utils.corpus import labels, synthetic
from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import perturb, perturbed_sets
from cancerllm_utils.modeling import baselines
from cancerllm_utils.tasks.build import build_datasets
from cancerllm_utils.tasks.task import read_jsonl
from tests.tasks.conftest import write_invented_run

TASKS = ["registry_prediction", "diagnosis_generation"]
NOWHERE = "/no/such/folder"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A run of invented reports with data sets, clean answers of the simple methods and the record of notebook 02."""
    run = write_invented_run(tmp_path_factory.mktemp("perturbed"))
    build_datasets(run, "tcga", TASKS, str(paths.TINY_BASE), context_tokens=64, head_tokens=16)
    (run / "records").mkdir()
    (run / "records" / "02_dataset_preparation.json").write_text(json.dumps({"params": {"model": "tiny_base"}}))
    baselines.predict_baselines(run, TASKS, ["dev"])
    return run


@pytest.fixture
def run(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "run")


def rows_of(run, task, split):
    return read_jsonl(run / "datasets" / task / f"{split}.jsonl")


def test_same_questions_and_answers_over_another_text(run):
    table = perturbed_sets.build_variants(run, ["misspell:0", "misspell:40", "upper", "wording"], TASKS, ["dev"], 1, ["respelled"], data_dir=NOWHERE).set_index("variant")
    assert list(table.index) == ["misspell0", "misspell40", "upper", "wording", "misspell0+respelled", "misspell40+respelled", "respelled"]
    for task in TASKS:
        clean = rows_of(run, task, "dev")
        for name in table.index:
            for row, other in zip(clean, rows_of(run, task, f"dev+{name}"), strict=True):
                assert {key: value for key, value in row.items() if key not in ("prompt", "quote_seen")} == {key: value for key, value in other.items() if key not in ("prompt", "quote_seen")}
        assert [row["prompt"] for row in rows_of(run, task, "dev+misspell0")] == [row["prompt"] for row in clean]
        assert all(row["prompt"] != other["prompt"] for row, other in zip(clean, rows_of(run, task, "dev+misspell40"), strict=True))
        assert all(other["prompt"].split("### Instruction:")[1].split("###")[0] == row["prompt"].split("### Instruction:")[1].split("###")[0]
                   for row, other in zip(clean, rows_of(run, task, "dev+upper"), strict=True)), "the question is not shouted"
    assert table.loc["misspell0", "changed_items"] == 0 and table.loc["misspell0", "cer"] == 0 and table.loc["wording", "changed_items"] == table.loc["wording", "items"]
    row = table.loc["misspell40"]
    assert row["hit"] / row["eligible"] == row["hit_share"] == pytest.approx(0.4, abs=0.06) and 0 < row["cer"] < 0.2 and row["damaged"] != row["damaged"]
    cured = table.loc["misspell40+respelled"]
    assert cured["damaged"] == row["hit"] and cured["restored"] > 0.5 and cured["cer"] < row["cer"] and cured["wrong"] < 0.2
    assert any("gave back" in sentence for sentence in perturbed_sets.sentences(table.reset_index())) and len(perturbed_sets.sentences(table.reset_index())) == len(table)


def test_the_masked_text_is_perturbed_after_masking(run):
    perturbed_sets.build_variants(run, ["misspell:40"], ["diagnosis_generation"], ["dev"], 1, data_dir=NOWHERE)
    notes = pd.read_parquet(run / "corpus" / "perturbed" / "misspell40.parquet")
    assert list(notes.columns) == ["note_id", "text", "findings"] and notes["findings"].notna().all()
    masked = [row for row in rows_of(run, "diagnosis_generation", "dev+misspell40") if row["variant"] == "findings"]
    assert masked and not any("Micro" in row["prompt"] or "ecrosis" in row["prompt"] for row in masked), "a damaged heading hides as a clean one does"
    texts = perturbed_sets.perturbed_notes(run, "misspell40")
    assert texts["full", notes["note_id"][0]] == notes["text"][0] and texts["findings", notes["note_id"][0]] == notes["findings"][0]


def test_fewer_items_are_the_same_ones_for_every_variant(run):
    table = perturbed_sets.build_variants(run, ["misspell:20", "sections"], ["registry_prediction"], ["dev"], 1, max_items=4, data_dir=NOWHERE)
    ids = [[row["example_id"] for row in rows_of(run, "registry_prediction", f"dev+{name}")] for name in table["variant"]]
    clean = [row["example_id"] for row in rows_of(run, "registry_prediction", "dev")]
    assert len(ids[0]) == 4 < len(clean) and ids[0] == ids[1] == [name for name in clean if name in ids[0]]


def test_a_finished_variant_is_kept_and_another_seed_makes_it_again(run):
    def build(seed):
        table = perturbed_sets.build_variants(run, ["misspell:20"], TASKS, ["dev"], seed, data_dir=NOWHERE)
        return table, [file.stat().st_mtime_ns for file in sorted(run.glob("datasets/*/*+*.jsonl"))], rows_of(run, TASKS[0], "dev+misspell20")

    first, again, other = build(1), build(1), build(2)
    assert first[1] == again[1] != other[1] and first[2] != other[2]
    pd.testing.assert_frame_equal(first[0], again[0], check_dtype=False)
    (run / "datasets" / TASKS[0] / "dev+misspell20.jsonl").unlink()
    assert build(2)[2] == other[2], "a lost file is made again"
    assert not list(run.rglob("*.draft")) and not list(run.rglob("*.tmp"))


def test_what_cannot_be_compared_stops(run):
    def build(tasks=TASKS, variants=("misspell:20",)):
        perturbed_sets.build_variants(run, list(variants), tasks, ["dev"], 1, data_dir=NOWHERE)

    for words, arguments in (("did you mean 'misspell'", {"variants": ["mispell:20"]}), ("icd10_coding has no data sets", {"tasks": ["icd10_coding"]})):
        with pytest.raises(UserError, match=words):
            build(**arguments)
    assert not (run / "corpus" / "perturbed").exists()
    rows = rows_of(run, TASKS[0], "dev")
    (run / "datasets" / TASKS[0] / "dev.jsonl").write_text("".join(json.dumps(row | {"prompt": row["prompt"].replace("Specimen", "Sample")}) + "\n" for row in rows))
    with pytest.raises(UserError, match="cannot be made again"):
        build()
    (run / "records" / "02_dataset_preparation.json").unlink()
    with pytest.raises(UserError, match="02_dataset_preparation"):
        build()


def test_the_simple_methods_read_the_damage_with_their_clean_fit(run):
    variants = ["misspell:0", "misspell_attack:100", "upper"]
    perturbed_sets.build_variants(run, variants, TASKS, ["dev"], 1, data_dir=NOWHERE)
    clean = {path.relative_to(run): path.read_bytes() for path in (run / "predictions").rglob("*.dev.jsonl")}
    table = perturbed_sets.predict_baselines(run, TASKS, perturb.set_names(["dev"], perturb.planned(variants)))
    assert all((run / name).read_bytes() == text for name, text in clean.items()), "clean answers are not written again"
    assert {"majority", "majority_by_cancer", "nearest", "tfidf", "rules"} == set(table.loc[table["remark"].eq(""), "model"])

    def answers(model, task, split):
        return [row["prediction"] for row in read_jsonl(run / "predictions" / model / "baseline" / f"{task}.{split}.jsonl")]

    for model in ("majority", "majority_by_cancer", "nearest", "tfidf", "rules"):
        for task in TASKS:
            assert answers(model, task, "dev+misspell0") == answers(model, task, "dev"), (model, task)
    assert answers("tfidf", TASKS[0], "dev+upper") == answers("tfidf", TASKS[0], "dev"), "it reads in small letters"
    assert any(answers(model, task, "dev+misspell_attack100") != answers(model, task, "dev") for model in ("tfidf", "rules") for task in TASKS)


def test_clean_answers_come_first_and_with_the_same_settings(run):
    folder = run / "predictions" / "tiny_base" / "sft"
    folder.mkdir(parents=True)
    arguments = (run, "tiny_base", ["sft"], ["registry_prediction"], ["dev"])
    with pytest.raises(UserError, match="clean answers come first"):
        perturbed_sets.check_clean_answers(*arguments, "greedy", 24)
    (folder / "registry_prediction.dev.run.json").write_text(json.dumps({"settings": {"decoding": "greedy", "max_new_tokens": 24}}))
    perturbed_sets.check_clean_answers(*arguments, "greedy", 24)
    for decoding, tokens, words in (("rank", 24, "decoding: rank"), ("greedy", 50, "made with 24")):
        with pytest.raises(UserError, match=words):
            perturbed_sets.check_clean_answers(*arguments, decoding, tokens)


def test_examples_are_of_the_synthetic_cohort_alone(run):
    perturbed_sets.build_variants(run, ["misspell:40", "upper"], TASKS, ["dev"], 1, data_dir=NOWHERE)
    assert perturbed_sets.examples(run, ["misspell:40"], 1).empty
    settings = json.loads((run / "datasets" / "settings.json").read_text())
    (run / "datasets" / "settings.json").write_text(json.dumps(settings | {"corpus": "synthetic"}))
    shown = perturbed_sets.examples(run, ["misspell:40", "upper"], 1, n=2, data_dir=NOWHERE)
    assert set(shown["variant"]) == {"misspell40"} and set(shown["kind"]) <= set(perturb.KINDS) and all(len(text.split("; ")) <= 2 for text in shown["examples"])


def test_the_reading_rules_survive_capitals_and_line_breaks():
    """Meaning is kept, so the rules read the same; of capitals all but the side, whose short forms ("lt") the rules of the synthetic cohort read as written only."""
    notes = synthetic.generate(10, 3)["notes"]
    same = {}
    for note, text in zip(notes["note_id"], notes["text"], strict=True):
        for testbed in ("upper", "linebreaks"):
            new = perturb.text(text, testbed, 1.0, 1, note)[0]
            for field in ("stage", "tumor_size", "laterality"):
                before, after = labels.read_synthetic(text, field), labels.read_synthetic(new, field)
                same.setdefault((testbed, field), []).append((before["evidence"], before["value"]) == (after["evidence"], after["value"]))
    shares = {key: sum(values) / len(values) for key, values in same.items()}
    assert 0.75 < shares.pop(("upper", "laterality")) < 1 and min(shares.values()) == 1, shares
    report = "Left colon, resection.\nInvasive carcinoma of 4.2 cm, high grade; the tumor grows through the wall. Stage: pT3 pN1a.\nTwo nodes with metastases."
    for testbed in ("upper", "linebreaks"):
        new = perturb.text(report, testbed, 1.0, 1, "n")[0]
        read = {field: labels.read(new, field, "COAD")["value"] for field in ("pT", "pN")}
        assert new != report and read == {"pT": "T3", "pN": "N1"} and labels.read(new, "laterality", "LUSC")["value"] == "Left"
