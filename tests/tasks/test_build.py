import json

import pandas as pd
import pytest

from cancerllm_utils.errors import UserError
from cancerllm_utils.tasks.build import SPLITS, build_datasets, check_boundary, field_table, has_registry, read_corpus, sample, take_order, task_items
from cancerllm_utils.tasks.task import NOT_STATED, load_task, read_jsonl

TASKS = ["phenotype_extraction", "registry_prediction", "diagnosis_generation"]


@pytest.fixture(scope="module")
def built(invented_run_of_the_module, tokenizer_dir):
    run = invented_run_of_the_module
    summary = build_datasets(run, "tcga", TASKS, str(tokenizer_dir), context_tokens=160, head_tokens=40)
    return run, summary, {(task, split): read_jsonl(run / "datasets" / task / f"{split}.jsonl") for task in TASKS for split in SPLITS}


def test_every_row_has_the_contracts_keys_and_a_whole_prompt(built):
    _, _, rows = built
    for (task, split), part in rows.items():
        assert part and len({row["example_id"] for row in part}) == len(part)
        for row in part:
            assert {"example_id", "patient_id", "note_id", "task", "field", "prompt", "completion", "answers", "cancer_type", "institution", "variant",
                    "headline", "evidence"} <= set(row)
            assert row["task"] == task and row["answers"] == [row["completion"]] and row["institution"] == f"hospital {split}"
            assert row["prompt"].startswith("Below is an instruction") and row["prompt"].endswith("\n\n### Response:\n") and "### Input:\n" in row["prompt"]


def test_no_patient_is_in_two_splits(built):
    _, _, rows = built
    seen = {}
    for (_, split), part in rows.items():
        for row in part:
            assert seen.setdefault(row["patient_id"], split) == split


def test_extraction_is_what_the_text_states(built):
    run, summary, rows = built
    labels = pd.read_parquet(run / "corpus" / "labels.parquet").set_index(["note_id", "field"])
    for split in SPLITS:
        for row in rows["phenotype_extraction", split]:
            label = labels.loc[(row["note_id"], row["field"])]
            assert label["evidence"] == row["evidence"] != "uncertain" and row["field"] in ("pT", "laterality")
            expected = label["stated_value"] if label["evidence"] == "stated" else NOT_STATED
            assert row["answers"] == [expected]
            assert row["headline"] == (row["evidence"] == "not_stated" or label["stated_value"] == label["registry_value"])
    counted = summary[summary["task"].eq("phenotype_extraction")]
    assert counted["uncertain"].sum() == (labels["evidence"] == "uncertain").sum() > 0


def test_prediction_takes_the_registry_whatever_the_text_says(built):
    _, _, rows = built
    part = [row for split in SPLITS for row in rows["registry_prediction", split]]
    assert not any(row["answers"] == [NOT_STATED] for row in part) and all(row["headline"] for row in part)
    assert {row["evidence"] for row in part} == {"stated", "not_stated", "uncertain"}
    assert sum(row["field"] == "pT" for row in part) == 54        # 6 of 60 patients have no pT in the invented registry
    assert sum(row["field"] == "laterality" for row in part) == 60


def test_findings_hide_the_diagnosis_and_full_does_not(built):
    _, summary, rows = built
    for row in rows["diagnosis_generation", "test"]:
        assert ("carcinoma" in row["prompt"].split("### Input:")[1]) == (row["variant"] == "full")
    findings = summary[summary["variant"].eq("findings")]
    assert (findings["leak"] == 0).all() and findings["items"].sum() == 60


def test_not_stated_items_are_a_quarter(built):
    _, _, rows = built
    for split in SPLITS:
        part = rows["phenotype_extraction", split]
        assert 0.20 <= sum(row["answers"] == [NOT_STATED] for row in part) / len(part) <= 0.30, split
        if split != "train":
            assert not any("#" in row["example_id"] for row in part), "only training may show an item twice"


def test_settings_say_how_the_prompts_were_made(built):
    run, summary, _ = built
    settings = json.loads((run / "datasets" / "settings.json").read_text())
    assert settings["tasks"] == TASKS and settings["context_tokens"] == 160 and settings["head_tokens"] == 40 and settings["corpus"] == "tcga"
    assert settings["fields"]["phenotype_extraction"] == ["pT", "laterality"] and settings["values"]["pT"] == ["T1", "T2", "T3", "T4"]
    assert settings["variants"]["diagnosis_generation"] == ["full", "findings"] and settings["max_tokens"] == summary["max_tokens"].max()


def test_the_files_do_not_depend_on_row_order(built, tokenizer_dir, invented_run):
    run, rows = invented_run, built[2]
    for name in ("notes", "labels", "splits"):
        path = run / "corpus" / f"{name}.parquet"
        pd.read_parquet(path).sample(frac=1, random_state=3).to_parquet(path)
    build_datasets(run, "tcga", TASKS, str(tokenizer_dir), context_tokens=160, head_tokens=40)
    assert rows == {key: read_jsonl(run / "datasets" / key[0] / f"{key[1]}.jsonl") for key in rows}


def test_caps_hold_and_variants_keep_the_same_notes(invented_run, tokenizer_dir):
    build_datasets(invented_run, "tcga", TASKS, str(tokenizer_dir), context_tokens=160, max_train_items=20, max_dev_items=6, max_test_items=4)
    for task in TASKS:
        sizes = [len(read_jsonl(invented_run / "datasets" / task / f"{split}.jsonl")) for split in SPLITS]
        assert sizes[0] <= 20 and sizes[1] <= 6 and max(sizes[2:]) <= 4 and min(sizes) > 0
    test = read_jsonl(invented_run / "datasets" / "diagnosis_generation" / "test.jsonl")
    notes = {variant: {row["note_id"] for row in test if row["variant"] == variant} for variant in ("full", "findings")}
    assert notes["full"] == notes["findings"] and len(notes["full"]) == 2


def test_training_leaves_out_what_its_context_does_not_show(invented_run, tokenizer_dir):
    kept = build_datasets(invented_run, "tcga", TASKS[:1], str(tokenizer_dir), context_tokens=60, drop_unseen_quotes=True)
    train = read_jsonl(invented_run / "datasets" / "phenotype_extraction" / "train.jsonl")
    assert all(row["quote_seen"] for row in train if row["evidence"] == "stated")
    assert kept.loc[kept["split"].ne("train"), "unseen_quotes"].eq(0).all()


def test_balanced_order_takes_a_rare_value_early():
    items = pd.DataFrame({"note_id": [f"n{i}" for i in range(20)], "field": "pT", "answer": ["T4"] + ["T1"] * 19, "patient_id": [f"p{i}" for i in range(20)],
                          "example_id": [f"e{i}" for i in range(20)]})
    assert set(take_order(items, 1, balance=True)["answer"][:2]) == {"T1", "T4"}


def test_a_small_sample_comes_from_many_patients():
    items = pd.DataFrame([{"note_id": f"n{p}", "patient_id": f"p{p}", "field": f"f{f}", "answer": "x", "example_id": f"{p}|{f}"} for p in range(10) for f in range(8)])
    assert sample(items, 0.25, 0, 10, balance=False)["patient_id"].nunique() == 10


def test_real_tasks_keep_the_prompts_tokens_a_prefix(built, tokenizer):
    _, _, rows = built
    for part in rows.values():
        assert max(check_boundary(part, tokenizer)) < 700
    broken = [{"example_id": "e", "prompt": "### Response:", "completion": "x"}]
    with pytest.raises(AssertionError, match="lost its end"):
        check_boundary(broken, tokenizer)


def test_items_of_a_corpus_without_the_variant_are_none(invented_run):
    notes, labels = read_corpus(invented_run)
    assert len(task_items(load_task("diagnosis_generation"), "synthetic", notes, labels)) == 0      # no clinic notes here


def with_registry(run):
    """The invented run with a registry: a stage for every patient, C64 and C61 by cancer, and one patient of a rare category."""
    notes = pd.read_parquet(run / "corpus" / "notes.parquet")
    rows = [(note.patient_id, "stage_ajcc", "II" if number % 2 else "III") for number, note in enumerate(notes.itertuples())]
    rows += [(note.patient_id, "icd10", "C99" if note.patient_id == "P000" else "C64" if note.cancer_type == "KIRC" else "C61") for note in notes.itertuples()]
    rows += [(patient, "laterality", "Midline") for patient in notes["patient_id"]]
    pd.DataFrame(rows, columns=["patient_id", "field", "registry_value"]).to_parquet(run / "corpus" / "registry.parquet", index=False)
    return run


def test_registry_values_that_no_rule_reads_become_items(invented_run, tokenizer_dir, monkeypatch):
    run = with_registry(invented_run)
    labels = read_corpus(run)[1]
    assert set(labels.loc[labels["evidence"].eq("not_read"), "field"]) == {"stage_ajcc", "icd10"}, "laterality has labels, which the registry must not touch"
    assert len(labels) == len(pd.read_parquet(run / "corpus" / "labels.parquet")) + 120 and labels["quote_start"].dtype == "Int64"
    assert not has_registry(labels[labels["evidence"].eq("not_read")]), "such values say nothing of what is read"
    monkeypatch.setitem(load_task("icd10_coding")["min_train_patients"], "tcga", 3)
    build_datasets(run, "tcga", ["stage_from_tnm", "icd10_coding"], str(tokenizer_dir), context_tokens=100, max_train_items=40, max_dev_items=40, max_test_items=8)
    stages = read_jsonl(run / "datasets" / "stage_from_tnm" / "train.jsonl")
    assert len(stages) == 8 == round(40 * 0.2) and {row["answers"][0] for row in stages} == {"II", "III"} and all(row["headline"] for row in stages)
    assert len(read_jsonl(run / "datasets" / "stage_from_tnm" / "external.jsonl")) == 3 == round(8 * 0.375)
    codes = {row["answers"][0] for split in SPLITS for row in read_jsonl(run / "datasets" / "icd10_coding" / f"{split}.jsonl")}
    settings = json.loads((run / "datasets" / "settings.json").read_text())
    assert codes == {"C64", "C61"} and settings["values"]["icd10"] == ["C61", "C64"] and settings["values"]["stage_ajcc"] == ["I", "II", "III", "IV"]


def test_the_field_table_counts_before_sampling(invented_run, monkeypatch):
    monkeypatch.setitem(load_task("icd10_coding")["min_train_patients"], "tcga", 3)
    table = field_table(with_registry(invented_run), "tcga", ["phenotype_extraction", "icd10_coding", "stage_from_tnm"]).set_index("field")
    code = table.loc["icd10"]
    # 36 training patients, of whom P000 has a rare category: 17 with kidney, 18 with prostate
    assert (code["labels"], code["answers"], code["train"], code["external"], code["most common"]) == ("registry", 2, 35, 6, "C61") and code["share"] == pytest.approx(18 / 35)
    assert table.loc["laterality", "labels"] == "stated" and table.loc["stage_ajcc", SPLITS].tolist() == [36, 6, 6, 6, 6]


def test_a_missing_corpus_names_the_step(tmp_path):
    with pytest.raises(UserError, match="02_dataset_preparation"):
        read_corpus(tmp_path)


def test_a_variant_asks_its_own_fields_and_a_stated_one_what_the_note_says():
    spec = load_task("treatment_plan")
    notes = pd.DataFrame({"note_id": ["a", "b", "c"], "patient_id": ["p", "p", "q"], "note_type": ["tumor board note", "tumor board note", "pathology report"],
                          "cancer_type": "OV", "institution": "h", "split": "train", "text": "x"})  # fmt: skip
    rows = [("p", "a", "treatment_plan", "stated", "curative | surgery | none", 0, 1, "palliative | chemotherapy | carboplatin"),
            ("p", "b", "treatment_plan", "not_stated", None, None, None, "palliative | chemotherapy | carboplatin"),
            ("q", "c", "systemic_therapy", "not_read", None, None, None, "carboplatin + paclitaxel"),
            ("q", "c", "treatment_plan", "not_read", None, None, None, "the letter's own words")]  # fmt: skip
    labels = pd.DataFrame(rows, columns=["patient_id", "note_id", "field", "evidence", "stated_value", "quote_start", "quote_end", "registry_value"])
    stated = task_items(spec, "synthetic", notes, labels)
    assert stated[["note_id", "field", "answer"]].to_numpy().tolist() == [["a", "treatment_plan", "curative | surgery | none"]]
    predicted = task_items(spec, "tcga", notes, labels)
    assert predicted[["note_id", "field", "answer", "variant"]].to_numpy().tolist() == [["c", "systemic_therapy", "carboplatin + paclitaxel", "report"]]
