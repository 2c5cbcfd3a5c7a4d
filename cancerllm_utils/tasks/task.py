"""Tasks as YAML, and the one place where a prompt is put together: training, prediction and tests all come here."""

import difflib
import hashlib
import json
import os
from functools import cache
from pathlib import Path

import yaml

from ..errors import UserError

TASK_DIR = Path(__file__).resolve().parent
NOT_STATED = "not stated"
UNPARSED = "unparsed"
GRADE_SCHEMES = ("gleason", "grade_differentiation", "grade_fuhrman", "grade_who", "grade_bladder")

# Alpaca's wording as the released CancerLLM code uses it; data sets store it, and models.yaml says which models read it as it is.
_ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further context.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{context}\n\n### Response:\n"
)

PROMPT_FORMS = ("alpaca", "chat")  # as data sets store it; or the same words in the model's own chat template


def task_names() -> list[str]:
    """Names of all tasks: the YAML files of this folder that have a `task` key and may be loaded."""
    return sorted(path.stem for path in TASK_DIR.glob("*.yaml") if "doc_to_text" in yaml.safe_load(path.read_text(encoding="utf-8")))


@cache
def load_task(name: str) -> dict:
    """The task's YAML as a dict, `include:` resolved (own keys win). The dict is shared: do not change it.

    Raises UserError for an unknown name, naming the nearest one.
    """
    if name not in task_names():
        near = difflib.get_close_matches(str(name), task_names(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"There is no task {name!r}.{hint} Tasks: {', '.join(task_names())}.")
    spec = yaml.safe_load((TASK_DIR / f"{name}.yaml").read_text(encoding="utf-8"))
    if "include" in spec:
        spec = yaml.safe_load((TASK_DIR / spec.pop("include")).read_text(encoding="utf-8")) | spec
    return spec


def alpaca_prompt(instruction: str, context: str) -> str:
    """The Alpaca prompt, ending in "### Response:" and a line break (so the answer's first token never merges with the prompt's last)."""
    return _ALPACA.format(instruction=instruction, context=context)


def model_prompt(prompt: str, tokenizer) -> str:
    """A data set's Alpaca prompt in the form that the model reads: the one function for training and generation.

    models.load_tokenizer notes the form in the tokenizer: alpaca, also where nothing is noted, leaves the prompt as it is; chat puts instruction and
    input into the user's turn of the tokenizer's own chat template, up to where the assistant speaks. A start token that the template writes is taken off where the tokenizer
    adds one itself, or there would be two.
    """
    if tokenizer.init_kwargs.get("prompt_form", "alpaca") == "alpaca":
        return prompt
    before, between, after = (_ALPACA.split("{instruction}")[0], "\n\n### Input:\n", "\n\n### Response:\n")
    assert prompt.startswith(before) and prompt.endswith(after), "not a prompt in Alpaca form"
    instruction, context = prompt[len(before) : -len(after)].split(between, 1)
    turn = [{"role": "user", "content": f"{instruction}\n\n{context}"}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    adds_start = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return text.removeprefix(tokenizer.bos_token) if adds_start else text


def question_context(sentences: str, question: str) -> str:
    """The paper's phenotype context: "In the text: {sentences} {question}"."""
    return f"In the text: {sentences} {question}"


def build_prompt(spec: dict, field: str, context: str) -> str:
    """The whole prompt of one item of a task.

    `context` is put in by replacement, not by str.format: a note may hold braces.
    """
    text = spec["doc_to_text"].replace("{name}", spec["fields"][field]["name"]).replace("{context}", context)
    return alpaca_prompt(spec["instruction"], text)


SILVER = "silver: what the reading rules find; no registry confirms it, so every score is agreement with these rules"
LABEL_KINDS = ("stated", "registry", "silver", "synthetic gold")


def label_source(spec: dict, corpus: str, silver: bool = False) -> str:
    """One sentence on what the task's labels are in a corpus; it begins with the task's name and one of LABEL_KINDS.

    silver: the corpus has no registry value (datasets/settings.json says so), so what is extracted is what the rules find. A corpus that the YAML
    does not name is an institution's own (local).
    """
    source = spec["labels"].get(corpus, spec["labels"]["local"])
    return f"{spec['task']}: labels are {SILVER if silver and spec['gold'] == 'stated_value' and corpus != 'synthetic' else source}."


def allowed_values(field: str, corpus: str) -> list[str]:
    """The answers of a field ([] where it is open), by corpus: the synthetic cohort has fields of its own, the others those of the registry."""
    # imported here, so that reading a task does not compile every label rule
    if corpus == "synthetic":
        from ..corpus.synthetic import SYNTHETIC_FIELDS

        if field in SYNTHETIC_FIELDS:
            return list(SYNTHETIC_FIELDS[field]["values"] or [])
    from ..corpus.labels import FIELD_VALUES

    return list(FIELD_VALUES.get(field) or [])


def prompt_hash(spec: dict) -> str:
    """Twelve hex digits over everything that shapes the task's prompts; stored with models and results."""
    shaping = {key: spec.get(key) for key in ("task", "version", "instruction", "doc_to_text", "doc_to_target", "refusal", "fields", "variants")}
    return hashlib.sha256(json.dumps([_ALPACA, shaping], sort_keys=True).encode()).hexdigest()[:12]


def hash_order(seed: int, key: str) -> str:
    """A sort key that shuffles by content: the same for any row order, machine and process."""
    return hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).hexdigest()


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """Writes rows to `path` whole or not at all (temporary file beside it, flushed, then renamed)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as handle:
            for row in rows:
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_jsonl(path: Path) -> list[dict]:
    """Rows of a JSON-lines file that this project wrote."""
    with open(path, encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]
