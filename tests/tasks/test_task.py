import pytest

from cancerllm_utils.errors import UserError
from cancerllm_utils.tasks.task import (
    LABEL_KINDS,
    NOT_STATED,
    alpaca_prompt,
    build_prompt,
    hash_order,
    label_source,
    load_task,
    prompt_hash,
    question_context,
    read_jsonl,
    task_names,
    write_jsonl,
)

TASKS = task_names()


def test_the_tasks_are_those_of_the_design():
    assert {"diagnosis_generation", "phenotype_extraction", "registry_prediction", "registry_details", "stage_from_tnm", "icd10_coding"} <= set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_task_has_the_keys(name):
    spec = load_task(name)
    for key in ("task", "version", "description", "access", "instruction", "doc_to_text", "doc_to_target", "fields", "generation_kwargs", "metric_list"):
        assert spec[key], key
    assert spec["task"] == name and spec["access"] in ("public", "gated", "private")
    assert spec["generation_kwargs"] == {"do_sample": False, "max_new_tokens": 50}       # PAPER.md, Decoding
    assert spec["refusal"] == NOT_STATED
    assert spec["metric_list"][0] == ("average" if not name.startswith("radonc") else "exact_match" if name == "radonc_regimen" else "value_accuracy")  # as each paper judges
    assert set(spec["labels"]) >= {"tcga", "synthetic", "local"} and 0 < spec.get("share_of_caps", 1) <= 1
    assert "{context}" in spec["doc_to_text"] and spec["gold"] in ("stated_value", "registry_value")
    assert all(entry["name"] for entry in spec["fields"].values())
    for entry in (spec.get("variants") or spec["fields"]).values():
        assert entry["query"] == entry["query"].lower() and len(entry["query"].split()) >= 6


def test_the_prompt_is_alpacas_letter_by_letter():
    assert alpaca_prompt("Do it.", "A note.") == (
        "Below is an instruction that describes a task, paired with an input that provides further context.\n\n"
        "### Instruction:\nDo it.\n\n### Input:\nA note.\n\n### Response:\n")


def test_the_phenotype_context_is_the_papers():
    spec = load_task("phenotype_extraction")
    prompt = build_prompt(spec, "tumor_size", "A mass of 2.5 cm.")
    context = "In the text: A mass of 2.5 cm. What is the tumor size in the given context?"
    assert question_context("A mass of 2.5 cm.", "What is the tumor size in the given context?") == context
    assert prompt == alpaca_prompt("You are an excellent linguist. The task is to answer the question by given the context or text", context)


def test_a_note_with_braces_is_left_alone():
    assert "In the text: {name} and {context} {0} What is the pT category" in build_prompt(load_task("phenotype_extraction"), "pT", "{name} and {context} {0}")


def test_registry_prediction_asks_the_same_fields_in_other_words():
    extraction, registry = load_task("phenotype_extraction"), load_task("registry_prediction")
    assert registry["fields"] == extraction["fields"]
    assert build_prompt(registry, "pT", "x") != build_prompt(extraction, "pT", "x")
    assert prompt_hash(registry) != prompt_hash(extraction)


@pytest.mark.parametrize("name", TASKS)
def test_the_sentence_on_labels_names_their_kind(name):
    for corpus in ("tcga", "synthetic", "local", "letters"):
        for silver in (False, True):
            sentence = label_source(load_task(name), corpus, silver)
            assert sentence.startswith(f"{name}: labels are ") and sentence.split(" are ")[1].split(":")[0] in LABEL_KINDS
    assert ("silver" in label_source(load_task(name), "local", True)) == (load_task(name)["gold"] == "stated_value")
    assert "synthetic gold" in label_source(load_task(name), "synthetic", False)


def test_details_leave_the_headline_task_as_it_is():
    """registry_details has none of registry_prediction's fields, so that the average of that task stays comparable."""
    assert not set(load_task("registry_details")["fields"]) & set(load_task("registry_prediction")["fields"])
    assert load_task("registry_details")["doc_to_text"] == load_task("registry_prediction")["doc_to_text"]


def test_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean phenotype_extraction"):
        load_task("phenotype_extracton")
    with pytest.raises(UserError, match="Tasks:"):
        load_task("../../etc/passwd")


def test_hash_order_is_frozen():
    assert hash_order(42, "a") == hash_order(42, "a") != hash_order(43, "a")
    assert hash_order(42, "patient 1") == "ea8daeef7007e60e"


def test_a_failed_write_leaves_nothing(tmp_path):
    path = tmp_path / "out.jsonl"
    write_jsonl(path, [{"a": "é"}])
    with pytest.raises(TypeError):
        write_jsonl(path, [{"a": 1}, {"a": object()}])
    assert read_jsonl(path) == [{"a": "é"}] and [file.name for file in tmp_path.iterdir()] == ["out.jsonl"]
