"""`cancerllm predict`: a tuned model applied to anybody's notes, with the prompts it was trained on."""

import difflib
import json
import os
from pathlib import Path

from .corpus.scrub import scrub
from .errors import UserError
from .evaluation.evidence import split_quote
from .tasks.build import context_of
from .tasks.context import findings_of, index_note
from .tasks.parse import parse
from .tasks.task import GRADE_SCHEMES, NOT_STATED, build_prompt, load_task, prompt_hash, write_jsonl


def read_input(path: Path) -> list[dict]:
    """Notes of a JSON-lines file ({note_id, text}, optional cancer_type), a .txt file or a folder of .txt files (note_id = file stem).

    Returns rows note_id, text, cancer_type ("" if unknown) in the order of the file, of a folder by file name. Raises UserError with
    file, line and reason for the first bad row: the whole input is checked before any model is loaded.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".txt" and file.is_file())
        if not files:
            raise UserError(f"folder {path}: no .txt files in it. Give a folder of .txt files, a .txt file or a .jsonl file.")
        numbered = [(file, 1, {"note_id": file.stem, "text": _decoded(file)}) for file in files]
    elif not path.is_file():
        raise UserError(f"file {path}: not found. Check the path.")
    elif path.suffix.lower() == ".txt":
        numbered = [(path, 1, {"note_id": path.stem, "text": _decoded(path)})]
    else:
        lines = _decoded(path).split("\n")
        numbered = [(path, number, _json_row(path, number, line)) for number, line in enumerate(lines, start=1) if line.strip()]
        if not numbered:
            raise UserError(f"file {path}, line 1: no rows. Write one JSON object per line: {{\"note_id\": ..., \"text\": ...}}.")
    first_seen: dict[str, str] = {}
    for file, number, row in numbered:
        place = f"file {file}, line {number}"
        reason = _fault(row)
        if reason:
            raise UserError(f"{place}: {reason}. Correct the row; nothing was written.")
        if row["note_id"] in first_seen:
            raise UserError(f"{place}: the note_id is already used in {first_seen[row['note_id']]}. Give every note its own note_id.")
        first_seen[row["note_id"]] = place
    return [{"note_id": row["note_id"], "text": row["text"], "cancer_type": (row.get("cancer_type") or "").strip().upper()} for _, _, row in numbered]


def _decoded(path: Path) -> str:
    """The file as text; a byte order mark is skipped, Windows line ends are taken."""
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"file {path}, line {line}: not UTF-8. Save the file as UTF-8.") from None
    except OSError as error:
        raise UserError(f"file {path}: cannot be read ({error.strerror}). Check the file and its permissions.") from None


def _json_row(path: Path, number: int, line: str):
    try:
        return json.loads(line)
    except (ValueError, RecursionError):        # the parser's own message may quote the line, and the line is note text
        raise UserError(f"file {path}, line {number}: not valid JSON. Write one JSON object per line; nothing was written.") from None


def _fault(row) -> str:
    """What is wrong with a row, "" if nothing."""
    if not isinstance(row, dict):
        return "not a JSON object"
    for key in ("note_id", "text"):
        if key not in row:
            return f"the key {key} is missing"
        if not isinstance(row[key], str):
            return f"{key} is not a string"
        if not row[key].strip():
            return f"{key} is empty"
        if any("\ud800" <= letter <= "\udfff" for letter in row[key]):
            return f"{key} holds half a surrogate pair"
    if row.get("cancer_type") is not None and not isinstance(row["cancer_type"], str):
        return "cancer_type is not a string"
    return ""


def chosen_fields(spec: dict, trained: list[str], asked: list[str] | None) -> list[str]:
    """The fields to ask: those asked for, else all that the model was trained on. UserError for a field that the model does not know."""
    known = trained or list(spec["fields"])
    for field in asked or []:
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(f"field {field!r}: not one that the model answers in {spec['task']}.{hint} Fields: {', '.join(known)}.")
    return list(dict.fromkeys(asked)) if asked else known


def fields_of_note(fields: list[str], cancer_type: str, asked: bool) -> list[str]:
    """A known cancer type leaves out what only other cancers have (grading schemes, FIGO stages, lobes), unless it was asked for by name."""
    from .corpus.labels import FIELDS, PREDICTED, VOCABULARY  # compiles the label rules: only here

    entries = FIELDS | PREDICTED
    known = {cancer for entry in entries.values() if entry["cancers"] != "all" for cancer in entry["cancers"]}
    if asked or cancer_type not in known:
        return fields
    bound = set(GRADE_SCHEMES) | (set(entries) - set(VOCABULARY["fields"]))
    return [field for field in fields if field not in bound or entries[field]["cancers"] == "all" or cancer_type in entries[field]["cancers"]]


def prompts_of(notes: list[dict], task: str, settings: dict, fields: list[str], asked: bool, tokenizer) -> list[dict]:
    """One item per note and field with its prompt, made as in training: same scrubbing, same budgets, same choice of sentences.

    `settings` is datasets/settings.json of the run that trained the model. A diagnosis prompt takes the first variant of the training
    corpus (the whole report, or the six-section note).
    """
    spec = load_task(task)
    variant = settings.get("variants", {}).get(task, [""])[0]
    items = []
    for note in notes:
        text = scrub(note["text"])[0]
        index = index_note(findings_of(text, spec) if variant == "findings" else text, tokenizer)
        for field in fields_of_note(fields, note["cancer_type"], asked):
            context = context_of(spec, field, variant, index, tokenizer, settings["context_tokens"], settings["head_tokens"])
            items.append({"note_id": note["note_id"], "field": field, "prompt": build_prompt(spec, field, context)})
    return items


def predict_main(model_dir: str, task: str, in_path: str, out_path: str, fields: list[str] | str | None = None, batch_size: int = 16) -> int:
    """Writes OUT.jsonl, one row per note and field: note_id, field, prediction (an answer of the field, "not stated" or "unparsed"), raw.

    Rows keep the input's order, fields the task's. OUT appears whole or not at all. Returns the number of rows.
    Raises UserError, before the model is loaded, for a bad row, an unknown task or field, or a model that was not trained on the task.
    """
    spec = load_task(task)
    asked = [field.strip() for field in (fields.split(",") if isinstance(fields, str) else fields or []) if field.strip()]
    out_path = Path(out_path)
    if out_path.is_dir() or not os.access(out_path.absolute().parent, os.W_OK):
        raise UserError(f"file {out_path}: cannot be written there. Name a file in a folder that exists and is writable.")
    if out_path.resolve() == Path(in_path).resolve():
        raise UserError(f"file {out_path}: input and output are the same file. Name another output.")
    notes = read_input(in_path)

    from .modeling import generation, models  # torch and transformers: only after the input has been found good

    card = models.read_card(model_dir)
    settings = card.get("datasets")
    if not settings or task not in card.get("tasks", []):
        raise UserError(f"model folder {model_dir}: not tuned on {task}. Its tasks: {', '.join(card.get('tasks', [])) or 'none'}.")
    if card.get("prompt_hash", {}).get(task, prompt_hash(spec)) != prompt_hash(spec):
        raise UserError(f"model folder {model_dir}: the prompts of {task} have changed since it was tuned. Tune it again.")
    names = chosen_fields(spec, card.get("fields", {}).get(task, []), asked)
    model, tokenizer, _ = models.load_stage(model_dir)
    items = prompts_of(notes, task, settings, names, bool(asked), tokenizer)
    answers = generation.generate(model, tokenizer, [item["prompt"] for item in items], max_new_tokens=spec["generation_kwargs"]["max_new_tokens"],
                                  batch_size=batch_size)
    values = settings.get("values", {})
    rows = [{"note_id": item["note_id"], "field": item["field"],
             "prediction": parse(split_quote(answer["prediction"])[0], task, item["field"], [v for v in values.get(item["field"]) or [] if v != NOT_STATED]),
             "raw": answer["prediction"]} for item, answer in zip(items, answers, strict=True)]
    write_jsonl(out_path, rows)
    return len(rows)
