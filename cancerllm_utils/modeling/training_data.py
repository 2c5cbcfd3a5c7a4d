"""From notes and from prompt/completion rows to the token rows that SFTTrainer trains on, with the checks that training cannot be trusted without.

Rows are tokenised here and not by TRL, which does the same (a test compares them) but drops a prompt that fills `max_length` silently, cannot
leave out the end token, and loses the example ids that name a bad batch.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from cancerllm_utils.errors import UserError
from cancerllm_utils.tasks import counterfactual
from cancerllm_utils.tasks.task import build_prompt, hash_order, load_task, model_prompt

IGNORED = -100  # the label of a token that carries no loss
CHUNK = 1000  # notes that are tokenised at once
DAMAGED_WORDS = 0.4  # an augmented context has between none and so many of its words damaged
ROWS = pa.schema([("example_id", pa.string()), ("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32())), ("row", pa.int64())])


def read_notes(run_dir: Path) -> Dataset:
    """patient_id, note_id, cancer_type, text, split of every note of the run's corpus, mapped from disk: a million notes need no memory."""
    corpus = Path(run_dir) / "corpus"
    for name in ("notes.parquet", "splits.parquet"):
        if not (corpus / name).is_file():
            raise UserError(f"file {corpus / name}: missing. Run notebook 02_dataset_preparation first.")
    notes = Dataset.from_parquet(str(corpus / "notes.parquet"), columns=["patient_id", "note_id", "cancer_type", "text"], cache_dir=str(Path(run_dir) / "cache" / "notes"))
    ring = dict(pd.read_parquet(corpus / "splits.parquet").itertuples(index=False))
    return notes.add_column("split", [ring[patient] for patient in notes["patient_id"]])


def of_split(notes: Dataset, split: str) -> Dataset:
    """The notes of one ring."""
    return notes.select(np.flatnonzero(np.array(notes["split"]) == split))


def shuffled(rows: list, seed: int) -> list:
    """The rows in an order that depends on the seed alone."""
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def sample(texts: Sequence[str], tokenizer, max_tokens: int, seed: int) -> list[int]:
    """Positions of a seeded sample of texts of about `max_tokens` tokens (at least one text; 0 takes all): the same before and after training."""
    order, chosen, total = np.random.default_rng(seed).permutation(len(texts)).tolist(), [], 0
    if not max_tokens:
        return order
    for start in range(0, len(order), CHUNK):
        chunk = order[start : start + CHUNK]
        for position, ids in zip(chunk, tokenizer([texts[i] for i in chunk], add_special_tokens=False)["input_ids"], strict=True):
            total += len(ids)
            if total > max_tokens and chosen:
                return chosen
            chosen.append(position)
    return chosen


def note_rows(notes: Dataset, tokenizer, max_tokens: int, seed: int, path: Path) -> Dataset:
    """One row per note: bos + text + eos, every token trained, notes in seeded order; stops at about `max_tokens` tokens (0: all).

    The rows (example_id, input_ids, labels, row) are written to `path`, an Arrow stream, and mapped from there; a line every five seconds.
    """
    order, total, row = np.random.default_rng(seed).permutation(len(notes)), 0, 0
    begun = last = time.monotonic()
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, ROWS) as stream:
        for start in range(0, len(order), CHUNK):
            chunk = notes[order[start : start + CHUNK]]
            batch = {"example_id": [], "input_ids": [], "labels": [], "row": []}
            for note_id, ids in zip(chunk["note_id"], tokenizer(chunk["text"], add_special_tokens=False)["input_ids"], strict=True):
                ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
                if max_tokens and total + len(ids) > max_tokens:
                    break
                for name, value in (("example_id", note_id), ("input_ids", ids), ("labels", [IGNORED, *ids[1:]]), ("row", row)):
                    batch[name].append(value)
                total, row = total + len(ids), row + 1
            stream.write_table(pa.Table.from_pydict(batch, ROWS))
            if len(batch["row"]) < len(chunk["text"]):
                break
            if time.monotonic() - last > 5:
                last = time.monotonic()
                print(f"tokenising: {row:,} of {len(notes):,} notes, {total:,} tokens, {total / (last - begun):,.0f} tokens/s", flush=True)
    if not row:
        raise UserError(f"max_tokens {max_tokens}: not one training note fits. Raise max_tokens.")
    return Dataset.from_file(str(path))


def read_examples(run_dir: Path, tasks: list[str], split: str) -> list[dict]:
    """The rows of datasets/<task>/<split>.jsonl of all `tasks`, in file order."""
    rows = []
    for task in tasks:
        path = Path(run_dir) / "datasets" / task / f"{split}.jsonl"
        if not path.is_file():
            raise UserError(f"file {path}: missing. Run notebook 02_dataset_preparation with task {task} first.")
        rows += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return rows


def of_first_institutions(read: dict[str, list[dict]], max_institutions: int) -> dict[str, list[dict]]:
    """The examples of each task that come from the first institutions (0: all), in an order that their names alone decide: fewer are part of more.

    Raises UserError where the examples name fewer institutions.
    """
    if not max_institutions:
        return read
    names = sorted({row["institution"] for rows in read.values() for row in rows if row["institution"]}, key=lambda name: hash_order(0, f"institution {name}"))
    if len(names) < max_institutions:
        raise UserError(f"max_institutions {max_institutions}: the training examples come from {len(names)} institutions. Lower it, or set 0 for all.")
    chosen = set(names[:max_institutions])
    return {task: [row for row in rows if row["institution"] in chosen] for task, rows in read.items()}


def tuning_examples(run_dir: Path, split: str, settings: dict) -> tuple[dict[str, list[dict]], pd.DataFrame]:
    """The training examples of each task as the settings want them, and the table of corrupted answers (counterfactual.COLUMNS).

    max_institutions leaves examples out; counterfactual_rate and counterfactual_mode replace answers; augment and augment_rate damage contexts. The
    files themselves stay as they are. Raises UserError for missing files and settings that cannot be.
    """
    read = {task: read_examples(run_dir, [task], split) for task in settings["tasks"]}
    read, tables = of_first_institutions(read, settings["max_institutions"]), []
    for task, rows in read.items():
        if settings["counterfactual_rate"]:
            rows, table = counterfactual.corrupt(rows, settings["counterfactual_rate"], settings["counterfactual_mode"], settings["seed"])
            tables.append(table)
        read[task] = augmented(rows, settings["augment"], settings["augment_rate"], settings["seed"])
        if settings["augment"]:
            damaged = sum(old["prompt"] != new["prompt"] for old, new in zip(rows, read[task], strict=True))
            print(f"data: {task} {split}: {damaged:,} of {len(rows):,} texts damaged by {', '.join(settings['augment'])}")
    return read, pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=counterfactual.COLUMNS)


def check_augment(testbeds: list[str], share: float) -> None:
    """Raise UserError for an unknown testbed of perturb, a share outside of 0 to 1, and one of the two without the other."""
    if not 0 <= share <= 1:
        raise UserError(f"augment_rate {share}: is a share of the training items. Set a number from 0 to 1.")
    if bool(testbeds) != bool(share):
        raise UserError(f"augment {list(testbeds)} with augment_rate {share}: nothing would be damaged. Set both, or neither.")
    if testbeds:
        from cancerllm_utils.evaluation import perturb  # only where it is asked for: it reads word lists

        for testbed in testbeds:
            perturb.check(testbed, DAMAGED_WORDS)


def augmented(rows: list[dict], testbeds: list[str], share: float, seed: int) -> list[dict]:
    """The rows, about a `share` of them with a damaged context (perturb.augment, at most DAMAGED_WORDS of its words); question and answer stay."""
    if not testbeds or not share:
        return rows
    from cancerllm_utils.evaluation import perturb

    changed = []
    for row in rows:
        if counterfactual.chance(seed, f"augment {row['example_id']}") < share:
            before, _, after = build_prompt(load_task(row["task"]), row["field"], "\0").partition("\0")
            assert row["prompt"].startswith(before) and row["prompt"].endswith(after), f"{row['example_id']}: the prompt is not the task's"
            context = row["prompt"][len(before) : len(row["prompt"]) - len(after)]
            row = row | {"prompt": before + perturb.augment(context, testbeds, DAMAGED_WORDS, seed, row["example_id"]) + after}
        changed.append(row)
    return changed


def example_rows(examples: list[dict], tokenizer, max_length: int, completion_only_loss: bool = True, train_on_eos: bool = True) -> list[dict]:
    """One row per prompt/completion example: `input_ids`, `labels` (-100 where no loss), `example_id`.

    The prompt is put into the form that the model reads (tasks.task.model_prompt), the whole is tokenised as one string, as at generation,
    and the prompt's tokens must be its beginning. `train_on_eos=False` and `completion_only_loss=False` together are the released code's
    behaviour. A row longer than `max_length` would lose its answer, so it is left out and counted; more than 5 % of them is an error of the
    data set and stops the run.
    """
    if not examples:
        return []
    forms = [model_prompt(e["prompt"], tokenizer) for e in examples]
    prompts = tokenizer(forms)["input_ids"]
    wholes = tokenizer([form + e["completion"] for form, e in zip(forms, examples, strict=True)])["input_ids"]
    rows = []
    for example, prompt, whole in zip(examples, prompts, wholes, strict=True):
        assert tokenizer.eos_token_id not in whole, f"{example['example_id']}: an end token inside the text, or added by the tokenizer"
        assert whole.count(tokenizer.bos_token_id) <= 1, f"{example['example_id']}: more than one start token"
        assert whole[: len(prompt)] == prompt, f"{example['example_id']}: the prompt's tokens are not a prefix of prompt + completion"
        whole = whole + [tokenizer.eos_token_id] if train_on_eos else whole
        trained_from = len(prompt) if completion_only_loss else 1
        rows.append({"example_id": example["example_id"], "input_ids": whole, "labels": [IGNORED] * trained_from + whole[trained_from:]})
    fitting = [row for row in rows if len(row["input_ids"]) <= max_length]
    if len(fitting) < 0.95 * len(rows):
        raise UserError(f"max_length {max_length}: {len(rows) - len(fitting)} of {len(rows)} examples are longer. Raise max_length or lower context_tokens.")
    if len(fitting) < len(rows):
        print(f"data: {len(rows) - len(fitting)} of {len(rows)} examples are longer than {max_length} tokens and left out")
    return fitting


def check_rows(rows: list[dict], examples: dict[str, dict], tokenizer, completion_only_loss: bool, train_on_eos: bool) -> tuple[int, int]:
    """Assert what a tuning run rests on, for every row, and return (tokens, tokens that are trained).

    With completion-only loss the trained tokens decode to the answer, so the first of them is the answer's first token and no prompt token
    is among them; with `train_on_eos` the last label is the end token.
    """
    trained = total = 0
    for row in rows:
        labels = [token for token in row["labels"] if token != IGNORED]
        assert labels, f"{row['example_id']}: no token of it is trained"
        assert (labels[-1] == tokenizer.eos_token_id) == train_on_eos, f"{row['example_id']}: the end token's label is wrong"
        if completion_only_loss:
            answer = tokenizer.decode(labels[:-1] if train_on_eos else labels).strip()
            assert answer == examples[row["example_id"]]["completion"].strip(), f"{row['example_id']}: the trained tokens are not the answer"
        trained, total = trained + len(labels), total + len(labels) + row["labels"].count(IGNORED)
    return total, trained


def marked(row: dict, tokenizer) -> str:
    """The row's text with [ ] around what carries loss: what a reader can check by eye."""
    text, open_now = "", False
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        trained = label != IGNORED
        text += ("[" if trained and not open_now else "]" if open_now and not trained else "") + tokenizer.decode([token])
        open_now = trained
    return text + ("]" if open_now else "")


def switch_table(prompt: str, completion: str, tokenizer) -> pd.DataFrame:
    """What each setting of the two switches trains on one example: completion_only_loss, train_on_eos, tokens, trained_tokens, text (`marked`)."""
    found = []
    for answer_only, end in ((True, True), (True, False), (False, True), (False, False)):
        row = example_rows([{"example_id": "example", "prompt": prompt, "completion": completion}], tokenizer, 10_000, answer_only, end)[0]
        found.append({"completion_only_loss": answer_only, "train_on_eos": end, "tokens": len(row["input_ids"]),
                      "trained_tokens": sum(label != IGNORED for label in row["labels"]), "text": marked(row, tokenizer)})
    return pd.DataFrame(found)


def take_budget(rows: list[dict], max_examples: int, max_tokens: int, seed: int) -> list[dict]:
    """Rows in seeded order up to `max_examples` rows and `max_tokens` tokens (0: no limit)."""
    rows = shuffled(rows, seed)
    rows = rows[:max_examples] if max_examples else rows
    if not max_tokens:
        return rows
    return rows[: max(1, int(np.searchsorted(np.cumsum([len(r["input_ids"]) for r in rows]), max_tokens, side="right")))]


def as_dataset(rows: list[dict] | Dataset) -> Dataset:
    """Token rows as the Dataset that SFTTrainer takes; `row` points back to the list, so that a bad batch can be named."""
    if isinstance(rows, Dataset):
        return rows.select_columns(["input_ids", "labels", "row"])
    return Dataset.from_dict({"input_ids": [r["input_ids"] for r in rows], "labels": [r["labels"] for r in rows], "row": list(range(len(rows)))})


def token_counts(dataset: Dataset, column: str = "input_ids") -> np.ndarray:
    """Length of every list of a column, without reading the lists."""
    return pc.list_value_length(dataset.data[column]).to_numpy()


def digest(rows: list[dict] | Dataset) -> str:
    """sha256 over ids, tokens and labels: what a checkpoint must have been trained on to be resumed."""
    found = hashlib.sha256(json.dumps(list(rows["example_id"]) if isinstance(rows, Dataset) else [row["example_id"] for row in rows]).encode())
    dataset = as_dataset(rows)
    for column in ("input_ids", "labels"):
        found.update(token_counts(dataset, column).tobytes())
        for chunk in dataset.data[column].iterchunks():
            found.update(chunk.flatten().to_numpy().astype(np.int32).tobytes())
    return found.hexdigest()
