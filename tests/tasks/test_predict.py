import json
import sys
from types import SimpleNamespace

import pytest

from cancerllm_utils import predict
from cancerllm_utils.errors import UserError
from cancerllm_utils.tasks.build import build_datasets
from cancerllm_utils.tasks.task import load_task, prompt_hash, read_jsonl

FIELDS = ["pT", "laterality", "grade_fuhrman", "grade_who"]


def card(**changes):
    settings = {"corpus": "tcga", "context_tokens": 120, "head_tokens": 20, "values": {"pT": ["T1", "T2", "T3", "T4"], "laterality": ["Right", "Left"]},
                "variants": {"phenotype_extraction": [""], "diagnosis_generation": ["full", "findings"]}}
    return {"tasks": ["phenotype_extraction"], "fields": {"phenotype_extraction": FIELDS}, "datasets": settings,
            "prompt_hash": {"phenotype_extraction": prompt_hash(load_task("phenotype_extraction"))}} | changes


@pytest.fixture
def model(monkeypatch, tokenizer):
    """Modelling replaced by an echo: `calls` keeps the prompts; a pT question is answered pT2b, every other one with something unparsable."""
    calls = SimpleNamespace(prompts=[], loaded=0, card=card())

    def load_stage(_):
        calls.loaded += 1
        return "model", tokenizer, calls.card

    def generate(_model, _tokenizer, prompts, max_new_tokens, batch_size):
        calls.prompts += prompts
        return [{"prediction": "pT2b" if "pT category" in prompt else "hm"} for prompt in prompts]
    # stand-ins for modules that load torch; predict imports them inside predict_main
    models = SimpleNamespace(read_card=lambda _: calls.card, load_stage=load_stage)
    generation = SimpleNamespace(generate=generate)
    import cancerllm_utils.modeling as package
    monkeypatch.setattr(package, "models", models, raising=False)
    monkeypatch.setattr(package, "generation", generation, raising=False)
    monkeypatch.setitem(sys.modules, "cancerllm_utils.modeling.models", models)
    monkeypatch.setitem(sys.modules, "cancerllm_utils.modeling.generation", generation)
    return calls


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def test_rows_fields_and_order(model, tmp_path):
    source = write(tmp_path / "in.jsonl", {"note_id": "b", "text": "Right kidney, pT2b."}, {"note_id": "a", "text": "Left lung.", "cancer_type": "kirc", "extra": 1})
    n = predict.predict_main("m", "phenotype_extraction", source, tmp_path / "out.jsonl")
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [(row["note_id"], row["field"]) for row in rows] == [("b", field) for field in FIELDS] + [("a", "pT"), ("a", "laterality"), ("a", "grade_fuhrman")]
    assert n == 7 and [list(row) for row in rows] == [["note_id", "field", "prediction", "raw"]] * 7
    assert rows[0]["prediction"] == "T2" and rows[0]["raw"] == "pT2b" and rows[1]["prediction"] == "unparsed"


def test_fields_asked_by_name(model, tmp_path):
    source = write(tmp_path / "in.jsonl", {"note_id": "a", "text": "Left lung.", "cancer_type": "KIRC"})
    predict.predict_main("m", "phenotype_extraction", source, tmp_path / "out.jsonl", "grade_who, pT")
    assert [row["field"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["grade_who", "pT"]
    with pytest.raises(UserError, match="Did you mean laterality"):
        predict.predict_main("m", "phenotype_extraction", source, tmp_path / "out2.jsonl", ["lateralty"])


def test_text_files_and_folders(model, tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    for name in ("n2", "n1"):
        (folder / f"{name}.txt").write_bytes(b"\xef\xbb\xbfRight lung.\r\nT2.")
    (folder / "readme.md").write_text("not a note")
    predict.predict_main("m", "phenotype_extraction", folder, tmp_path / "out.jsonl", ["pT"])
    assert [row["note_id"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["n1", "n2"]
    predict.predict_main("m", "phenotype_extraction", folder / "n2.txt", tmp_path / "out.jsonl", ["pT"])
    assert [row["note_id"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["n2"]


GOOD = {"note_id": "a", "text": "Right lung."}


@pytest.mark.parametrize("rows, line, reason", [
    ([GOOD, "{broken"], 2, "not valid JSON"), ([GOOD, "[1]"], 2, "not a JSON object"), ([{"note_id": "a"}], 1, "key text is missing"),
    ([GOOD, "", {"text": "x"}], 3, "key note_id is missing"), ([{"note_id": 5, "text": "x"}], 1, "note_id is not a string"),
    ([{"note_id": "a", "text": None}], 1, "text is not a string"), ([{"note_id": "a", "text": " \n"}], 1, "text is empty"),
    ([{"note_id": "", "text": "x"}], 1, "note_id is empty"), ([GOOD, {"note_id": "b", "text": "x"}, GOOD], 3, "already used in .*line 1"),
    ([{"note_id": "a", "text": "x", "cancer_type": 3}], 1, "cancer_type is not a string"), (["", ""], 1, "no rows"),
])
def test_a_bad_row_stops_before_the_model_with_file_line_and_reason(model, tmp_path, rows, line, reason):
    source = write(tmp_path / "in.jsonl", *rows)
    with pytest.raises(UserError, match=rf"in\.jsonl, line {line}: .*{reason}"):
        predict.predict_main("m", "phenotype_extraction", source, tmp_path / "out.jsonl")
    assert model.loaded == 0 and [file.name for file in tmp_path.iterdir()] == ["in.jsonl"]


def test_note_text_never_reaches_the_message(tmp_path):
    for row in ('{"note_id": "a", "text": "SECRET" ', '{"note_id": "a", "texts": "SECRET"}', '"SECRET"'):
        with pytest.raises(UserError) as error:
            predict.read_input(write(tmp_path / "in.jsonl", row))
        assert "SECRET" not in str(error.value)


def test_encoding_and_missing_files(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(json.dumps(GOOD).encode() + b"\n\xff\xfe\n")
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        predict.read_input(tmp_path / "in.jsonl")
    with pytest.raises(UserError, match="not found"):
        predict.read_input(tmp_path / "none.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \.txt files"):
        predict.read_input(tmp_path / "empty")
    (tmp_path / "crlf.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert predict.read_input(tmp_path / "crlf.jsonl") == [{"note_id": "a", "text": "Right lung.", "cancer_type": ""}]


def test_output_must_be_writable_and_another_file(model, tmp_path):
    source = write(tmp_path / "in.jsonl", GOOD)
    for target in (source, tmp_path, tmp_path / "no" / "out.jsonl"):
        with pytest.raises(UserError, match="Name a"):
            predict.predict_main("m", "phenotype_extraction", source, target)
    assert read_jsonl(source) == [GOOD] and model.loaded == 0


def test_a_model_of_another_task_or_other_prompts_is_refused(model, tmp_path):
    source = write(tmp_path / "in.jsonl", GOOD)
    with pytest.raises(UserError, match="not tuned on registry_prediction"):
        predict.predict_main("m", "registry_prediction", source, tmp_path / "out.jsonl")
    model.card = card(prompt_hash={"phenotype_extraction": "0"})
    with pytest.raises(UserError, match="have changed"):
        predict.predict_main("m", "phenotype_extraction", source, tmp_path / "out.jsonl")


def test_a_failed_generation_leaves_no_output(model, tmp_path, monkeypatch):
    source = write(tmp_path / "in.jsonl", GOOD)
    monkeypatch.setattr(sys.modules["cancerllm_utils.modeling.generation"], "generate", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict.predict_main("m", "phenotype_extraction", source, tmp_path / "out.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["in.jsonl"]


def test_prompts_are_those_of_training(invented_run, tokenizer_dir, tokenizer):
    """The same note gives the same prompt through build_datasets and through predict, for every task and field."""
    import pandas as pd

    tasks = ["phenotype_extraction", "registry_prediction", "diagnosis_generation"]
    build_datasets(invented_run, "tcga", tasks, str(tokenizer_dir), context_tokens=90, head_tokens=30)
    settings = json.loads((invented_run / "datasets" / "settings.json").read_text())
    texts = pd.read_parquet(invented_run / "corpus" / "notes.parquet").set_index("note_id")["text"]
    for task in tasks:
        rows = [row for row in read_jsonl(invented_run / "datasets" / task / "test.jsonl") if row["variant"] != "findings"][:6]
        for row in rows:
            note = {"note_id": row["note_id"], "text": texts[row["note_id"]], "cancer_type": ""}
            made = predict.prompts_of([note], task, settings, [row["field"]], True, tokenizer)
            assert [item["prompt"] for item in made] == [row["prompt"]]


def test_a_known_cancer_leaves_out_what_only_others_have():
    stages, details = ["stage_ajcc", "stage_figo"], ["pM", "lung_lobe", "colon_segment", "margin"]
    assert predict.fields_of_note(stages, "OV", False) == ["stage_figo"] and predict.fields_of_note(stages, "KIRC", False) == ["stage_ajcc"]
    assert predict.fields_of_note(stages, "", False) == stages and predict.fields_of_note(stages, "OV", True) == stages
    assert predict.fields_of_note(details, "LUAD", False) == ["pM", "lung_lobe"] and predict.fields_of_note(["icd10"], "LUAD", False) == ["icd10"]
    assert predict.fields_of_note(["pT", "laterality", "grade_who"], "BLCA", False) == ["pT", "laterality"], "extraction asks every cancer, but for the grading schemes"


@pytest.mark.parametrize("task, values, answers", [
    ("stage_from_tnm", {"stage_ajcc": ["I", "II", "III", "IV"], "stage_figo": ["I", "II", "III", "IV"]}, {"stage_ajcc": "III", "stage_figo": "III"}),
    ("icd10_coding", {"icd10": ["C34", "C64"]}, {"icd10": "C34"}),
    ("registry_details", {"lung_lobe": ["Upper", "Middle", "Lower"], "margin": ["Positive", "Negative"]}, {"lung_lobe": "Upper", "margin": "unparsed"}),
])
def test_the_further_tasks_are_answered(model, tmp_path, monkeypatch, task, values, answers):
    said = {"stage": "Stage IIIB", "ICD-10": "C34.1", "lobe": "right upper lobe"}
    monkeypatch.setattr(sys.modules["cancerllm_utils.modeling.generation"], "generate", lambda _m, _t, prompts, **_: [
        {"prediction": next((answer for word, answer in said.items() if word in prompt.rsplit("In the text", 1)[1]), "hm")} for prompt in prompts])
    settings = card()["datasets"] | {"values": values, "variants": {task: [""]}}
    model.card = {"tasks": [task], "fields": {task: list(values)}, "datasets": settings, "prompt_hash": {task: prompt_hash(load_task(task))}}
    predict.predict_main("m", task, write(tmp_path / "in.jsonl", {"note_id": "a", "text": "Specimen: right lung."}), tmp_path / "out.jsonl")
    assert {row["field"]: row["prediction"] for row in read_jsonl(tmp_path / "out.jsonl")} == answers


def test_what_gives_answers_away_is_scrubbed_first(tokenizer):
    note = {"note_id": "a", "text": "TCGA-AB-1234-01A kidney. UUID:12345678-1234-1234-1234-123456789ABC ICD-O-3 8310/3 C64.9", "cancer_type": ""}
    prompt = predict.prompts_of([note], "phenotype_extraction", card()["datasets"], ["pT"], False, tokenizer)[0]["prompt"]
    assert "kidney" in prompt and not any(part in prompt for part in ("TCGA", "1234", "8310", "C64"))
