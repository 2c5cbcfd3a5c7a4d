"""Which sentence an answer rests on, measured: how much less likely the model's own answer gets when a sentence is left out of the prompt.

Leave-one-out over sentences is the plainest of the perturbation methods (Li et al. 2016, https://arxiv.org/abs/1612.08220); it takes one reading of the
prompt per sentence, so it is done for a sample. Two sentences that say the same hide each other: without one the model reads the other.
"""

from pathlib import Path

from cancerllm_utils.evaluation.evidence import gives_value, material
from cancerllm_utils.modeling.decoding import answer_log_probs
from cancerllm_utils.tasks.task import hash_order, model_prompt, read_jsonl, write_jsonl


def without(prompt: str, unit: str) -> str:
    """A prompt without one of its sentences (a unit of the note, its white space as single blanks)."""
    return prompt.replace(f"{unit} ", "", 1) if f"{unit} " in prompt else prompt.replace(unit, "", 1)


def measure(network, tokenizer, run_dir: str | Path, task: str, folder: Path, max_items: int, batch_size: int = 16, seed: int = 0) -> list[dict]:
    """Measure `max_items` of the answers that give a value in `folder`/<task>.dev.jsonl, taken by the hash of their ids, with two sentences or more.

    Writes `folder`/<task>.left_out.jsonl and returns its rows: example_id, units (the sentences' [start, end] in the note), drops (per sentence: nats
    by which the answer's log-probability falls without it). No text is written.
    """
    sources = material(Path(run_dir), [task], ["dev"])
    prompts = {row["example_id"]: row["prompt"] for row in read_jsonl(Path(run_dir) / "datasets" / task / "dev.jsonl")}
    answers = [row for row in read_jsonl(folder / f"{task}.dev.jsonl") if gives_value(row["parsed"]) and len(sources[row["example_id"]]["units"]) > 1]
    answers = sorted(answers, key=lambda row: hash_order(seed, row["example_id"]))[:max_items]
    asked = []
    for row in answers:
        prompt, source = prompts[row["example_id"]], sources[row["example_id"]]
        cut = [without(prompt, " ".join(source["text"][start:end].split())) for start, end in source["units"]]
        asked += [(model_prompt(text, tokenizer), row["prediction"]) for text in (prompt, *cut)]
    order = sorted(range(len(asked)), key=lambda i: -len(asked[i][0]))
    found = [0.0] * len(asked)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        for i, log_prob in zip(batch, answer_log_probs(network, tokenizer, *zip(*(asked[i] for i in batch), strict=True)), strict=True):
            found[i] = log_prob
    rows, place = [], 0
    for row in answers:
        units = sources[row["example_id"]]["units"]
        whole, parts = found[place], found[place + 1 : place + 1 + len(units)]
        rows.append({"example_id": row["example_id"], "units": [list(unit) for unit in units], "drops": [round(whole - part, 5) for part in parts]})
        place += 1 + len(units)
    write_jsonl(folder / f"{task}.left_out.jsonl", rows)
    return rows
