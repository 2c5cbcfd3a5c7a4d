"""Answers of a model: batched greedy decoding, or ranking of a field's allowed answers, written so that a killed run goes on where it stopped.

Prompts are sorted by length into batches whose composition is fixed by the data set alone: in bf16 the neighbours in a batch can change an answer,
so a resumed run must meet the same neighbours. `batch_agreement` counts how many. How one batch is answered is in decoding.py.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation.answers import DEV_FOLDER
from cancerllm_utils.evaluation.evidence import is_extraction, split_quote
from cancerllm_utils.modeling import checkpoints, constrained, left_out, models
from cancerllm_utils.modeling.decoding import greedy_batch, rank_batch
from cancerllm_utils.modeling.energy import measured_energy
from cancerllm_utils.modeling.memory import measured_memory
from cancerllm_utils.tasks.parse import parse
from cancerllm_utils.tasks.task import NOT_STATED, UNPARSED, load_task, model_prompt, read_jsonl

BACKENDS = ("transformers", "vllm")
DECODINGS = ("greedy", "rank", "constrained")
SURENESS = ("logprob", "confidence")  # what decoding.sureness adds to a row; vLLM's rows lack it


def length_batches(prompts: list[str], tokenizer, batch_size: int) -> list[list[int]]:
    """Positions of `prompts` in batches of `batch_size`, longest first, so that a batch holds little padding and too little memory shows at once."""
    lengths = [len(ids) for ids in tokenizer(prompts)["input_ids"]] if prompts else []
    order = sorted(range(len(prompts)), key=lambda i: (-lengths[i], prompts[i], i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def generate(model, tokenizer, prompts: list[str], max_new_tokens: int = 50, batch_size: int = 16) -> list[dict]:
    """Greedy answers to `prompts` (as data sets store them), in their order: dicts as decoding.greedy_batch gives them."""
    answers, prompts = [None] * len(prompts), [model_prompt(prompt, tokenizer) for prompt in prompts]
    for batch in length_batches(prompts, tokenizer, batch_size):
        for i, answer in zip(batch, greedy_batch(model, tokenizer, [prompts[i] for i in batch], max_new_tokens), strict=True):
            answers[i] = answer
    return answers


def rank_answers(model, tokenizer, prompts: list[str], candidates: list[str], batch_size: int = 16) -> list[dict]:
    """`rank_batch` over any number of prompts with the same candidates, in their order."""
    answers = [None] * len(prompts)
    for batch in length_batches(prompts, tokenizer, batch_size):
        for i, answer in zip(batch, rank_batch(model, tokenizer, [prompts[i] for i in batch], candidates), strict=True):
            answers[i] = answer
    return answers


def batch_agreement(model, tokenizer, prompts: list[str], batch_sizes: list[int] = (16,), max_new_tokens: int = 50,
                    energy: bool = False) -> pd.DataFrame:
    """How many greedy answers differ from those decoded one by one, one row per size, 1 included: batch_size, n, changed, new_tokens, seconds,
    peak_memory_gib, memory_of, energy_kwh (None unless `energy` and codecarbon is installed)."""
    rows, alone = [], None
    for size in [1, *(size for size in batch_sizes if size != 1)]:
        with measured_memory() as memory, measured_energy() if energy else contextlib.nullcontext({"kwh": None}) as used:
            begun = time.monotonic()
            answers = generate(model, tokenizer, prompts, max_new_tokens, size)
            seconds = round(time.monotonic() - begun, 2)
        texts = [answer["prediction"] for answer in answers]
        alone = texts if alone is None else alone
        changed = sum(a != b for a, b in zip(alone, texts, strict=True))
        rows.append({"batch_size": size, "n": len(prompts), "changed": changed, "new_tokens": sum(answer["new_tokens"] for answer in answers),
                     "seconds": seconds, **memory, "energy_kwh": used["kwh"]})
    return pd.DataFrame(rows)


def plan(examples: list[dict], tokenizer, values: dict[str, list[str]], decoding: str, batch_size: int) -> list[tuple[list[int], list[str]]]:
    """(positions of a batch's examples, candidates) in a fixed order; no candidates means greedy decoding.

    `decoding` is greedy, rank or constrained (ranked, then corrected: constrained.py); a field without allowed values is decoded greedily under all.
    """
    if decoding not in DECODINGS:
        raise UserError(f"decoding {decoding}: unknown. Use greedy or rank, or constrained.")
    groups: dict[tuple, list[int]] = {}
    for position, example in enumerate(examples):
        groups.setdefault(() if decoding == "greedy" else tuple(values.get(example["field"]) or ()), []).append(position)
    return [([group[i] for i in batch], list(candidates)) for candidates, group in sorted(groups.items(), key=lambda item: item[0])
            for batch in length_batches([examples[i]["prompt"] for i in group], tokenizer, batch_size)]


def answer_batch(model, tokenizer, prompts: list[str], candidates: list[str], max_new_tokens: int) -> list[dict]:
    """One batch of a plan: ranked if it has candidates, decoded greedily if not. UserError where the card's memory ends."""
    try:
        return rank_batch(model, tokenizer, prompts, candidates) if candidates else greedy_batch(model, tokenizer, prompts, max_new_tokens)
    except torch.OutOfMemoryError:
        # not halved here: other batches would mean other answers in bf16, and a run must say with which batches it was made
        raise UserError(f"batch_size {len(prompts)}: the card has too little memory for so many prompts at once. Set batch_size: {max(1, len(prompts) // 2)}.") from None


def backend_of(name: str) -> Callable:
    """The function that answers a batch of a plan: this module's own, or vLLM's."""
    if name == "transformers":
        return answer_batch
    from cancerllm_utils.modeling import vllm_backend  # only where it is asked for

    return vllm_backend.answer_batch


def prompt_form(tokenizer) -> str:
    """How the model reads prompts: alpaca, as data sets store them, or chat (models.yaml)."""
    return tokenizer.init_kwargs.get("prompt_form", "alpaca")


def in_models_form(examples: list[dict], tokenizer) -> list[dict]:
    """Examples whose prompts are as the model reads them: as stored, or in its own chat template (models.yaml, prompt)."""
    return [{**example, "prompt": model_prompt(example["prompt"], tokenizer)} for example in examples]


def answer_examples(model, tokenizer, examples: list[dict], values: dict[str, list[str]], decoding: str = "greedy", max_new_tokens: int = 50,
                    batch_size: int = 16) -> list[dict]:
    """Answers to examples (dicts with prompt and field), in their order, as `predict_file` would give them; `values` as there."""
    answers, examples = [None] * len(examples), in_models_form(examples, tokenizer)
    for batch, candidates in plan(examples, tokenizer, values, decoding, batch_size):
        for i, answer in zip(batch, answer_batch(model, tokenizer, [examples[i]["prompt"] for i in batch], candidates, max_new_tokens), strict=True):
            answers[i] = answer
    return answers


def read_partial(path: Path, fingerprint: str) -> dict[str, dict]:
    """Finished rows by example_id of a run that was killed; a torn last line is cut off the file, and a file of another run is removed."""
    if not path.is_file():
        return {}
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    if not whole or json.loads(whole[0]) != {"fingerprint": fingerprint}:
        print(f"predictions: {path.name} is of other parameters, data or model, starting afresh")
        path.unlink()
        return {}
    os.truncate(path, sum(map(len, whole)))
    return {row["example_id"]: row for row in map(json.loads, whole[1:])}


def append_rows(path: Path, rows: list[dict]) -> None:
    """Append rows as one write and flush them to the disk."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        stream.flush()
        os.fsync(stream.fileno())


def predict_file(model, tokenizer, in_path, out_path, model_identity: str, values: dict[str, list[str]] | None = None, decoding: str = "greedy",
                 max_new_tokens: int = 50, batch_size: int = 16, logging_seconds: float = 5.0, label: str = "",
                 after_batch: Callable[[int], None] | None = None, backend: str = "transformers", energy: bool = False,
                 corrections: dict[str, dict] | None = None) -> dict:
    """Answers of a model to one data set file, in the file's order, one JSONL row each (ARCHITECTURE.md, predictions).

    values: the allowed answers per field, for parsing and for ranking. corrections: {field: {prior, length}} for `decoding="constrained"`
    (decoding_study chooses them). Rows are appended batch by batch to OUT.partial, which a later call with the same model_identity, data, prompt form
    and parameters continues; OUT itself appears whole. An OUT of the same run is kept as it is.
    after_batch is called with the number of batches done. With backend vllm `model` is what vllm_backend.load gives. Returns n, prompt_tokens,
    seconds, eos_share (of the greedy answers, None without), unparsed, peak_memory_gib, memory_of and energy_kwh (None where it was not asked for, not measured, or the file
    was continued from an earlier call).
    """
    in_path, out_path, values = Path(in_path), Path(out_path), values or {}
    if not in_path.is_file():
        raise UserError(f"file {in_path}: missing. Run notebook 02_dataset_preparation with this task first.")
    examples = in_models_form([json.loads(line) for line in in_path.read_text(encoding="utf-8").splitlines()], tokenizer)
    settings = {"model": model_identity, "data": models.sha256(in_path), "values": values, "decoding": decoding, "max_new_tokens": max_new_tokens,
                "batch_size": batch_size, "precision": model.precision, "versions": models.library_versions(), "prompt_form": prompt_form(tokenizer),
                "prompts": checkpoints.identity({"read": [example["prompt"] for example in examples]})}
    settings |= {} if backend == "transformers" else {"backend": backend, "backend_version": version(backend)}
    settings |= {"corrections": corrections} if corrections else {}
    settings |= {"also": SURENESS} if backend == "transformers" else {}
    fingerprint, record = checkpoints.identity(settings), out_path.with_suffix(".run.json")
    if out_path.is_file() and record.is_file() and json.loads(record.read_text())["fingerprint"] == fingerprint:
        return json.loads(record.read_text())["outcome"]
    out_path.parent.mkdir(parents=True, exist_ok=True)
    partial = out_path.with_name(out_path.name + ".partial")
    done = read_partial(partial, fingerprint)
    continued = bool(done)
    if not partial.is_file():
        append_rows(partial, [{"fingerprint": fingerprint}])
    batches, answer = plan(examples, tokenizer, values, decoding, batch_size), backend_of(backend)
    with measured_memory() as memory, measured_energy() if energy else contextlib.nullcontext({"kwh": None}) as used:
        begun = last = time.monotonic()
        at_start = len(done)
        for number, (positions, candidates) in enumerate(batches, 1):
            batch = [examples[i] for i in positions]
            missing = {example["example_id"] for example in batch} - set(done)
            if missing:
                answers = answer(model, tokenizer, [example["prompt"] for example in batch], candidates, max_new_tokens)
                if candidates and corrections:
                    answers = [constrained.corrected(found, candidates, corrections.get(e["field"])) for e, found in zip(batch, answers, strict=True)]
                rows = [finished_row(e, found, values) for e, found in zip(batch, answers, strict=True) if e["example_id"] in missing]
                append_rows(partial, rows)
                done |= {row["example_id"]: row for row in rows}
            if after_batch:
                after_batch(number)
            now = time.monotonic()
            if missing and (now - last >= logging_seconds or number == len(batches)):
                rate = (len(done) - at_start) / max(now - begun, 1e-9)
                print(f"{label or out_path.name}: {len(done)}/{len(examples)} answers  {rate:.1f}/s  {(len(examples) - len(done)) / rate:.0f} s left", flush=True)
                last = now
    rows = [done[example["example_id"]] for example in examples]
    greedy = [row["stop_reason"] for row in rows if row["stop_reason"]]
    prompt_tokens = sum(len(tokenizer(example["prompt"])["input_ids"]) for example in examples)
    outcome = {"n": len(rows), "prompt_tokens": prompt_tokens, "seconds": round(sum(row["seconds"] for row in rows), 2), "unparsed": sum(row["parsed"] == UNPARSED for row in rows),
               "eos_share": greedy.count("eos") / len(greedy) if greedy else None, **memory, "energy_kwh": None if continued else used["kwh"]}
    draft = out_path.with_name(f".{out_path.name}.draft")
    draft.unlink(missing_ok=True)
    append_rows(draft, rows)
    draft.replace(out_path)
    record.write_text(json.dumps({"fingerprint": fingerprint, "settings": settings, "outcome": outcome}, indent=1) + "\n")
    partial.unlink()
    return outcome


def finished_row(example: dict, answer: dict, values: dict[str, list[str]]) -> dict:
    """The prediction row of one example (the contract's keys and no others: the prompt holds note text); a quote behind the answer is not parsed."""
    parsed = parse(split_quote(answer["prediction"])[0], example["task"], example["field"], [v for v in values.get(example["field"]) or [] if v != NOT_STATED])
    return {"example_id": example["example_id"], "prediction": answer["prediction"], "answers": example["answers"], "parsed": parsed,
            "new_tokens": answer["new_tokens"], "stop_reason": answer["stop_reason"], "seconds": answer["seconds"],
            **{key: answer[key] for key in SURENESS if key in answer}}


def allowed_answers(run_dir, task: str) -> dict[str, list[str]]:
    """Allowed answers per closed field of a task in this run (datasets/settings.json), with "not stated" where the task asks what the text states."""
    path = Path(run_dir) / "datasets" / "settings.json"
    if not path.is_file():
        raise UserError(f"file {path}: missing. Run notebook 02_dataset_preparation first.")
    values, refusal = json.loads(path.read_text())["values"], [NOT_STATED] if load_task(task)["gold"] == "stated_value" else []
    return {field: values[field] + refusal for field in load_task(task)["fields"] if values.get(field)}


def load_network(run_dir, model: str, stage: str, precision: str = "auto", backend: str = "transformers", load_in_4bit: bool = False) -> tuple:
    """(network, tokenizer, identity of its weights, 4-bit loading included) of one stage, `base` or a tuned one; with backend vllm the network is
    vllm_backend's engine."""
    entry, network = models.model_entry(model), None
    if stage == "base":
        tokenizer, identity = models.load_tokenizer(model), models.base_revision(model)
        if backend == "transformers":
            network = models.load_model(model, precision, load_in_4bit)
    else:
        network, tokenizer, card = models.load_stage(models.stage_dir(run_dir, entry, stage), precision, load_in_4bit)
        identity = " ".join([card["base_revision"], *(item["sha256"] for item in card["adapters_before"]), card["adapter_sha256"]])
    if backend == "vllm":
        from cancerllm_utils.modeling import vllm_backend

        network = vllm_backend.load(entry, network, tokenizer, precision, Path(run_dir) / "cache" / f"vllm-{entry['name']}-{stage}")
    return network, tokenizer, f"{identity} nf4" if load_in_4bit else identity


def predict_stage(run_dir, model: str, stage: str, tasks: list[str], test_sets: list[str], decoding: str = "greedy", max_new_tokens: int = 50,
                  batch_size: int = 16, precision: str = "auto", logging_seconds: float = 5.0, backend: str = "transformers",
                  energy: bool = False, load_in_4bit: bool = False, decoding_items: int = 0, seed: int = 0, answer_dev: bool = False, evidence_items: int = 0) -> pd.DataFrame:
    """Predictions of one stage (`base` or a tuned one) for every task and test set: predictions/<model>/<stage>/<task>.<test set>.jsonl.

    backend vllm needs that library and a CUDA card, decodes greedily only and puts its own batches together (batch_size is not used); energy asks
    codecarbon, where it is installed. load_in_4bit: NF4 weights, a quarter of the memory (a model of 70B on one card of 80 GB). decoding_items: so many
    development questions per task are answered greedily and by ranking first, and compared (`decoding_study`); decoding constrained rests on that.
    answer_dev: the development patients are answered too, into the folder dev/ beside the others, which no score counts: confidence is calibrated on them
    (a base model is left out). evidence_items: for so many of those answers left_out.py measures which sentence they rest on.
    Returns one row per file: model, stage, task, split and what predict_file returns. Files of the same model, data and parameters are kept.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend {backend}: unknown. Use {' or '.join(BACKENDS)}.")
    if decoding == "constrained" and not decoding_items:
        raise UserError("decoding constrained: development questions choose its correction, and decoding_items is 0. Set decoding_items: 150.")
    if backend == "vllm":
        from cancerllm_utils.modeling import vllm_backend

        vllm_backend.check(decoding, load_in_4bit)
        batch_size, decoding_items = vllm_backend.BATCH_SIZE, 0
    entry = models.model_entry(model)
    network, tokenizer, identity = load_network(run_dir, model, stage, precision, backend, load_in_4bit)
    rows = []
    for task in tasks:
        values, corrections = allowed_answers(run_dir, task), None
        if decoding_items and values:
            corrections = decoding_study(network, tokenizer, identity, run_dir, entry["name"], stage, task, values, decoding_items, max_new_tokens, batch_size, seed)
        for split in test_sets:
            name = f"{task}.{split}.jsonl"
            outcome = predict_file(network, tokenizer, Path(run_dir) / "datasets" / task / f"{split}.jsonl",
                                   Path(run_dir) / "predictions" / entry["name"] / stage / name, identity, values, decoding, max_new_tokens, batch_size,
                                   logging_seconds, f"{entry['name']} {stage} {task}.{split}", backend=backend, energy=energy,
                                   corrections=corrections if decoding == "constrained" else None)
            rows.append({"model": entry["name"], "stage": stage, "task": task, "split": split, **outcome})
        apart, dev = Path(run_dir) / "predictions" / entry["name"] / stage / DEV_FOLDER, Path(run_dir) / "datasets" / task / "dev.jsonl"
        if answer_dev and stage != "base" and dev.is_file():
            predict_file(network, tokenizer, dev, apart / f"{task}.dev.jsonl", identity, values, decoding, max_new_tokens, batch_size, logging_seconds,
                         f"{entry['name']} {stage} {task}.dev", backend=backend, corrections=corrections if decoding == "constrained" else None)
            if evidence_items and backend == "transformers" and is_extraction(task):
                left_out.measure(network, tokenizer, run_dir, task, apart, evidence_items, batch_size, seed)
    return pd.DataFrame(rows)


def decoding_study(network, tokenizer, identity: str, run_dir, model: str, stage: str, task: str, values: dict[str, list[str]], max_items: int, max_new_tokens: int = 50,
                   batch_size: int = 16, seed: int = 0) -> dict[str, dict]:
    """Greedy against ranked and corrected answers to development questions of closed fields (constrained.study): its rows in results/constrained.csv.

    Returns the correction of each field that did best there, {} where the development set has no closed question. A study of the same model, data and
    settings is read from cache/ instead of being made again.
    """
    from cancerllm_utils.modeling import stages  # only here: it brings the training libraries, which `cancerllm predict` does without

    path = Path(run_dir) / "datasets" / task / "dev.jsonl"
    if not path.is_file():
        raise UserError(f"file {path}: missing. Run notebook 02_dataset_preparation with this task first.")
    examples = constrained.sampled(read_jsonl(path), values, max_items, seed)
    if not examples:
        print(f"{model} {stage} {task}: no closed development question, so decodings are not compared")
        return {}
    made = checkpoints.identity({"model": identity, "examples": [(e["example_id"], e["prompt"], e["answers"]) for e in examples], "values": values, "seed": seed,
                                 "max_new_tokens": max_new_tokens, "batch_size": batch_size, "precision": network.precision, "versions": models.library_versions(),
                                 "prompt_form": prompt_form(tokenizer), "corrections": constrained.CORRECTIONS, "empty texts": constrained.EMPTY_TEXTS})
    kept = Path(run_dir) / "cache" / "constrained" / f"{model}-{stage}-{task}.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if found.get("made") != made:
        empty = constrained.empty_examples(task, list(dict.fromkeys(e["field"] for e in examples)))
        answers = [answer_examples(network, tokenizer, asked, values, how, max_new_tokens, batch_size)
                   for asked, how in ((examples, "greedy"), (examples, "rank"), (empty, "rank"))]
        table, corrections = constrained.study(task, examples, values, answers[0], answers[1], empty, answers[2], seed=seed)
        found = {"made": made, "rows": table.to_dict("records"), "corrections": corrections}
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found), encoding="utf-8")
    table = pd.DataFrame(found["rows"]).assign(model=model, stage=stage, task=task, split="dev")
    stages.write_rows(Path(run_dir) / "results" / "constrained.csv", table[constrained.COLUMNS], ["model", "stage", "task"])
    return found["corrections"]
