"""The questions of a test set over perturbed notes: same questions, same answers, another text.

A note is perturbed as a whole and its context chosen afterwards, by the run's own settings, so that models and the baselines that read whole notes meet the
same damage. Of a report whose diagnosis is masked (variant `findings`) the masked text is perturbed: a misspelt heading would hide nothing any more.
"""

import json
import os
from pathlib import Path

import pandas as pd

from ..errors import UserError
from ..modeling import baselines, checkpoints, models
from ..tasks import context as ctx
from ..tasks.build import context_of, read_corpus, read_settings
from ..tasks.task import build_prompt, hash_order, load_task, read_jsonl, write_jsonl
from . import abbreviations, perturb, spelling

COLUMNS = ["variant", "testbed", "rate", "remedy", "notes", "changed_notes", "words", "eligible", "hit", "hit_share", "cer", "items", "changed_items",
           "damaged", "restored", "wrong", "intact_changed"]
_CODE = [Path(module.__file__) for module in (perturb, abbreviations, spelling)]  # what a perturbed text looks like, with the word lists of the first two
_CODE += [path.with_suffix(".yaml") for path in _CODE[:2]]


def build_variants(run_dir, variants: list[str], tasks: list[str], splits: list[str], seed: int = 42, remedies: list[str] = (), max_items: int = 0,
                   data_dir: str = "") -> pd.DataFrame:
    """Writes datasets/<task>/<split>+<name>.jsonl for each entry of perturb.planned, and the notes they were made of: corpus/perturbed/<name>.parquet.

    Items keep example_id, question and answers (`quote_seen` is emptied); at most `max_items` per task and split (0: all), drawn by hash, the same for
    every variant. The parquet files hold note_id and text, and `findings` (the masked text) where a task masks. Clean prompts are made again first: where
    one differs from the stored one a UserError says so, since then a difference of scores would not be the damage's. A variant of the same notes, items,
    settings, word lists and code is kept as it is.

    Returns one row per variant (COLUMNS): notes, changed_notes, words (of the clean notes), eligible (places that rate 1 hits), hit, hit_share (of the
    eligible, 0-1), cer (Levenshtein distance per letter, over all notes), items, changed_items (whose prompt differs), and of a remedy damaged (words), restored, wrong
    and intact_changed (shares, spelling.effect).
    """
    run_dir, made = Path(run_dir), perturb.planned(variants, remedies)
    settings = read_settings(run_dir)
    for task in tasks:
        if task not in settings["tasks"]:
            raise UserError(f"tasks: {task} has no data sets in {run_dir}. Name tasks of notebook 02_dataset_preparation: {', '.join(settings['tasks'])}.")
    notes, _ = read_corpus(run_dir)
    texts = dict(zip(notes["note_id"], notes["text"], strict=True))
    items = {(task, split): chosen(read_jsonl(run_dir / "datasets" / task / f"{split}.jsonl"), max_items, seed) for task in tasks for split in splits}
    tokenizer = prompt_tokenizer(run_dir)
    asked = {"full": sorted({row["note_id"] for rows in items.values() for row in rows if row["variant"] != "findings"})}
    asked["findings"] = sorted({row["note_id"] for rows in items.values() for row in rows if row["variant"] == "findings"})
    masking = next((load_task(task) for task in tasks if "findings" in settings["variants"][task]), None)
    clean = {("full", note): texts[note] for note in asked["full"]} | {("findings", note): ctx.findings_of(texts[note], masking) for note in asked["findings"]}
    check_prompts(items, clean, tokenizer, settings)
    known = spelling.vocabulary(notes.loc[notes["split"].eq("train"), "text"], data_dir) if remedies else {}
    # what a variant is made of
    basis = checkpoints.identity({"seed": seed, "settings": settings, "items": {f"{t} {s}": [row["example_id"] for row in rows] for (t, s), rows in items.items()},
                                  "texts": [[*key, text] for key, text in clean.items()], "code": [models.sha256(path) for path in _CODE],
                                  "lists": [abbreviations.inventory(data_dir)["to_long"], perturb.drug_spellings(data_dir)]})
    rows, damaged, sides = [], {}, {}
    for one in made:
        record = run_dir / "corpus" / "perturbed" / f"{one['name']}.json"
        files = [run_dir / "datasets" / task / f"{split}+{one['name']}.jsonl" for task, split in items]
        kept = json.loads(record.read_text(encoding="utf-8")) if record.is_file() and all(file.is_file() for file in files) else {}
        if kept.get("basis") == basis:
            rows.append(kept["row"])
            continue
        source = (one["testbed"], one["rate"])
        if source not in damaged:
            damaged[source], sides[source] = perturbed(clean, *source, seed, data_dir)
        new, row = damaged[source], one | sides[source]
        row["variant"] = row.pop("name")
        if one["remedy"]:
            new = dict(zip(new, spelling.respell(list(new.values()), known), strict=True))
            found = spelling.effect(list(clean.values()), list(damaged[source].values()), list(new.values()))
            row |= {"damaged": found["damaged"] if found["notes"] == len(clean) else None, "restored": found["restored"], "wrong": found["wrong"], "intact_changed": found["changed"]}
        row |= write_items(run_dir, one, items, new, tokenizer, settings, seed)
        write_notes(record.with_suffix(".parquet"), new)
        row["cer"] = sum(perturb.Levenshtein.distance(clean[key], new[key]) for key in clean) / max(1, sum(map(len, clean.values())))
        row["changed_notes"] = sum(new[key] != clean[key] for key in clean)
        draft = record.with_name(f".{record.name}.{os.getpid()}.draft")
        draft.write_text(json.dumps({"basis": basis, "row": row}), encoding="utf-8")
        draft.replace(record)
        rows.append(row)
        print(f"{one['name']}: {row['items']} questions over {row['notes']} texts, {100 * row['cer']:.1f} % of the letters changed", flush=True)
    return pd.DataFrame(rows, columns=COLUMNS)


def chosen(rows: list[dict], max_items: int, seed: int) -> list[dict]:
    """At most `max_items` items (0: all) by hash of their ids, in the file's order."""
    if not max_items or len(rows) <= max_items:
        return rows
    kept = set(sorted((row["example_id"] for row in rows), key=lambda name: hash_order(seed, name))[:max_items])
    return [row for row in rows if row["example_id"] in kept]


def prompt_tokenizer(run_dir: Path):
    """The tokenizer with which notebook 02 measured the prompts of this run (its record names the model)."""
    from transformers import AutoTokenizer  # seconds of import that the other functions here do not need

    record = Path(run_dir) / "records" / "02_dataset_preparation.json"
    if not record.is_file():
        raise UserError(f"file {record} is missing: run notebook 02_dataset_preparation of this profile first.")
    return AutoTokenizer.from_pretrained(models.model_entry(json.loads(record.read_text(encoding="utf-8"))["params"]["model"])["source"])


def side(row: dict) -> str:
    """Which text of its note an item reads: findings (the masked one) or full."""
    return "findings" if row["variant"] == "findings" else "full"


def prompts(rows: list[dict], texts: dict, tokenizer, settings: dict, reworded: int | None = None) -> list[str]:
    """The prompts of items over `texts` ((full or findings, note_id) -> text), as tasks/build.py makes them; `reworded`: the seed of another wording."""
    indexes, made = {}, []
    for row in rows:
        key, spec = (side(row), row["note_id"]), load_task(row["task"])
        if key not in indexes:
            indexes[key] = ctx.index_note(texts[key], tokenizer)
        context = context_of(spec, row["field"], row["variant"], indexes[key], tokenizer, settings["context_tokens"], settings["head_tokens"])
        spec = spec if reworded is None else perturb.reworded(spec, reworded, row["example_id"])
        made.append(build_prompt(spec, row["field"], context))
    return made


def check_prompts(items: dict, clean: dict, tokenizer, settings: dict) -> None:
    """UserError where the stored prompts cannot be made again from the clean notes."""
    for (task, split), rows in items.items():
        other = sum(row["prompt"] != again for row, again in zip(rows, prompts(rows, clean, tokenizer, settings), strict=True))
        if other:
            raise UserError(f"datasets/{task}/{split}.jsonl: {other} of {len(rows)} prompts cannot be made again from the notes. Run notebook 02_dataset_preparation again.")


def perturbed(clean: dict, testbed: str, rate: float, seed: int, data_dir: str) -> tuple[dict, dict]:
    """The texts of `clean` under a testbed ("": as they are), and what was hit: {notes, words, eligible, hit, hit_share}."""
    new, hit, eligible = {}, 0, 0
    for (which, note), text in clean.items():
        if not testbed:
            new[which, note] = text
            continue
        new[which, note], hits = perturb.text(text, testbed, rate, seed, f"{note}|findings" if which == "findings" else note, data_dir)
        hit += len(hits)
        eligible += len(hits) if rate == 1 else len(perturb.PERTURBATIONS[testbed](text, 1.0, seed, note, data_dir))
    words = sum(len(text.split()) for text in clean.values())
    counted = testbed and testbed not in perturb.CONSISTENCY  # these change a text as a whole
    return new, {"notes": len(clean), "words": words, "eligible": eligible if counted else None, "hit": hit if counted else None,
                 "hit_share": hit / eligible if counted and eligible else None}


def write_items(run_dir: Path, one: dict, items: dict, texts: dict, tokenizer, settings: dict, seed: int) -> dict:
    """The data sets of one variant; {items, changed_items}."""
    n = changed = 0
    for (task, split), rows in items.items():
        made = prompts(rows, texts, tokenizer, settings, seed if one["testbed"] == "wording" else None)
        write_jsonl(run_dir / "datasets" / task / f"{split}+{one['name']}.jsonl", [{**row, "prompt": prompt, "quote_seen": None} for row, prompt in zip(rows, made, strict=True)])
        n, changed = n + len(rows), changed + sum(row["prompt"] != prompt for row, prompt in zip(rows, made, strict=True))
    return {"items": n, "changed_items": changed}


def write_notes(path: Path, texts: dict) -> None:
    """corpus/perturbed/<name>.parquet, whole or not at all: note_id, text (None where only the masked text is read), findings where there is any."""
    found: dict[str, dict] = {}
    for (which, note), text in texts.items():
        found.setdefault(note, {"note_id": note, "text": None})["text" if which == "full" else "findings"] = text
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    pd.DataFrame(list(found.values())).to_parquet(draft, index=False)
    draft.replace(path)


def perturbed_notes(run_dir, name: str) -> dict[tuple[str, str], str]:
    """(full or findings, note_id) -> text of corpus/perturbed/<name>.parquet."""
    table = pd.read_parquet(Path(run_dir) / "corpus" / "perturbed" / f"{name}.parquet")
    return {(which, note): text for which, column in (("full", "text"), ("findings", "findings")) if column in table
            for note, text in zip(table["note_id"], table[column], strict=True) if isinstance(text, str)}


def predict_baselines(run_dir, tasks: list[str], names: list[str], seed: int = 42) -> pd.DataFrame:
    """The baselines' answers to perturbed test sets (`names` of perturb.set_names), as baselines.predict_baselines gives them: fitted on the clean training notes.

    They are fitted on all tasks to which 05_prediction has their answers, so that a clean and a perturbed answer come from the same fit.
    """
    run_dir = Path(run_dir)
    fitted = [task for task in read_settings(run_dir)["tasks"] if task in tasks or any((run_dir / "predictions" / "tfidf" / "baseline").glob(f"{task}.*.jsonl"))]
    texts = {name: perturbed_notes(run_dir, name.partition("+")[2]) for name in names}
    return baselines.predict_baselines(run_dir, fitted, names, seed, texts)


def check_clean_answers(run_dir, model: str, stages: list[str], tasks: list[str], test_sets: list[str], decoding: str, max_new_tokens: int) -> None:
    """UserError where the clean answers, against which the perturbed ones will be held, are missing or were made with other settings."""
    name = models.model_entry(model)["name"]
    for path in (Path(run_dir) / "predictions" / name / stage / f"{task}.{split}.run.json" for stage in stages for task in tasks for split in test_sets):
        if not path.is_file():
            raise UserError(f"file {path} is missing: the clean answers come first. Run notebook 05_prediction with this stage, task and test set.")
        made = json.loads(path.read_text(encoding="utf-8"))["settings"]
        for key, value in (("decoding", decoding), ("max_new_tokens", max_new_tokens)):
            if made[key] != value:
                raise UserError(f"{key}: {value}, but the clean answers of {path} were made with {made[key]}. Give 05c_perturbed_prediction the settings of 05_prediction.")


def examples(run_dir, variants: list[str], seed: int = 42, n: int = 6, data_dir: str = "") -> pd.DataFrame:
    """Some changed words of each variant with a rate: variant, kind, examples ("tumor > tumro", at most n). Of the synthetic cohort alone, else no row."""
    run_dir, rows = Path(run_dir), []
    if read_settings(run_dir)["corpus"] != "synthetic":
        return pd.DataFrame(columns=["variant", "kind", "examples"])
    texts = pd.read_parquet(run_dir / "corpus" / "notes.parquet", columns=["note_id", "text"]).set_index("note_id")["text"]
    for variant in variants:
        testbed, rate, name = perturb.parse_variant(variant)
        notes = pd.read_parquet(run_dir / "corpus" / "perturbed" / f"{name}.parquet", columns=["note_id"])["note_id"].head(50) if testbed not in perturb.CONSISTENCY else []
        found: dict[str, list] = {}
        for note in notes:
            for hit in perturb.text(texts[note], testbed, rate, seed, note, data_dir)[1]:
                found.setdefault(hit["kind"], []).append(f"{hit['before']} > {hit['after']}")
        rows += [{"variant": name, "kind": kind, "examples": "; ".join(list(dict.fromkeys(pairs))[:n])} for kind, pairs in sorted(found.items())]
    return pd.DataFrame(rows, columns=["variant", "kind", "examples"])


def sentences(table: pd.DataFrame) -> list[str]:
    """What each row of `build_variants` did to the notes, in words."""
    out = []
    for row in table.itertuples():
        text = f"{row.variant}: {100 * row.cer:.1f} % of the letters differ from the clean notes, in {row.changed_notes} of {row.notes} notes"
        if pd.notna(row.hit_share):
            text += f"; {row.hit:,.0f} of {row.eligible:,.0f} places that this testbed can change were hit ({100 * row.hit_share:.1f} %, in {row.words:,} words)"
        elif row.eligible == 0:
            text += "; these notes hold nothing that this testbed can change"
        text += f"; {row.changed_items} of {row.items} questions have another prompt"
        if pd.notna(row.restored):
            text += f"; of the {row.damaged:,.0f} damaged words the remedy gave back {100 * row.restored:.1f} % and made another word of {100 * row.wrong:.1f} %"
        if pd.notna(row.intact_changed):
            text += f"; it changed {100 * row.intact_changed:.2f} % of the words without damage"
        out.append(text + ".")
    return out
