"""Notes and labels -> the examples of each task, one JSONL file per split."""

import json
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from ..errors import UserError
from . import context as ctx
from .task import NOT_STATED, allowed_values, build_prompt, hash_order, label_source, load_task, prompt_hash, write_jsonl

SPLITS = ["train", "dev", "test", "external_site", "external"]
_MIN_FINDINGS_WORDS = 8     # less than a sentence is no description to reason from
UNKNOWN_TYPE = "note"      # what corpus/local.py writes where there is no note type
NOT_READ = "not_read"      # evidence of a registry value that no rule looks for in the text
REPEATS = 3                # training may show a clean "not stated" item this often to reach its share


def read_corpus(run_dir: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Notes (with their split) and labels of a run, with `registry_rows`; a UserError names the step that is missing."""
    folder = Path(run_dir) / "corpus"
    for name in ("notes", "labels", "splits"):
        if not (folder / f"{name}.parquet").is_file():
            raise UserError(f"file {folder / name}.parquet is missing: run notebook 02_dataset_preparation of this profile first.")
    notes = pd.read_parquet(folder / "notes.parquet").merge(pd.read_parquet(folder / "splits.parquet"), on="patient_id", how="left")
    assert notes["split"].notna().all(), f"{notes['split'].isna().sum()} notes have no split"
    labels, registry = pd.read_parquet(folder / "labels.parquet"), folder / "registry.parquet"
    return notes, registry_rows(notes, labels, pd.read_parquet(registry)) if registry.is_file() else labels


def registry_rows(notes: pd.DataFrame, labels: pd.DataFrame, registry: pd.DataFrame) -> pd.DataFrame:
    """The labels and, with evidence "not_read", a row for each registry value of a note's patient that they do not hold (a stage, a plan)."""
    rows = notes[["patient_id", "note_id"]].merge(registry.drop_duplicates(["patient_id", "field"]), on="patient_id")
    held = pd.MultiIndex.from_frame(labels[["note_id", "field"]])
    rows = rows[~pd.MultiIndex.from_frame(rows[["note_id", "field"]]).isin(held)]
    if rows.empty:
        return labels
    rows = rows.assign(evidence=NOT_READ, stated_value=None, quote_start=pd.NA, quote_end=pd.NA)[list(labels.columns)]
    return pd.concat([labels, rows.astype(labels.dtypes.to_dict())], ignore_index=True)


def read_settings(run_dir: Path) -> dict:
    """datasets/settings.json of a run: how its prompts were made."""
    path = Path(run_dir) / "datasets" / "settings.json"
    if not path.is_file():
        raise UserError(f"file {path} is missing: run notebook 02_dataset_preparation of this profile first.")
    return json.loads(path.read_text(encoding="utf-8"))


def variants_of(spec: dict, corpus: str) -> dict[str, dict]:
    """Input variants of a task in this corpus; a task without variants has one, named ""."""
    variants = spec.get("variants") or {"": {"note_types": spec["note_types"], "corpora": [corpus]}}
    return {name: variant for name, variant in variants.items() if corpus in variant["corpora"]}


def has_registry(labels: pd.DataFrame) -> bool:
    """Whether any patient has a registry value of a field that rules read; without one the labels are what the reading rules find."""
    return bool(labels.loc[labels["evidence"].ne(NOT_READ), "registry_value"].notna().any())


def task_items(spec: dict, corpus: str, notes: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """The items of a task that may be asked: `all_items` without the answers that too few patients of the training set have.

    How few is the task's `min_train_patients`, by corpus; a task or corpus without it keeps every answer.
    """
    items = all_items(spec, corpus, notes, labels)
    least = spec.get("min_train_patients", {}).get(corpus, 0)
    patients = items[items["split"].eq("train")].groupby("answer")["patient_id"].nunique()
    return items[items["answer"].isin(patients.index[patients >= least])] if least else items


def all_items(spec: dict, corpus: str, notes: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """All items of a task, before any sampling and without prompts.

    Gold is `stated_value` or `registry_value`, as the task's `gold` says. Extraction leaves out uncertain items and keeps clean "not
    stated" ones; headline are items where rule and registry agree, and clean "not stated" ones. A prediction task takes every registry
    value whatever the text says; all its items are headline. In the synthetic cohort every extraction item is headline; so
    it is where no patient has a registry value, and there the gold is silver: what the reading rules find.
    Returns example_id, patient_id, note_id, task, field, variant, answer, evidence, headline, cancer_type, institution, split,
    quote_start, quote_end.
    """
    rows = labels[labels["field"].isin(list(spec["fields"]))]
    if spec["gold"] == "stated_value":
        rows = rows[rows["evidence"].isin(["stated", "not_stated"])]
        stated = rows["evidence"].eq("stated")
        by_rules = corpus != "synthetic" and has_registry(labels)  # the synthetic gold is exact, also where a note errs about the patient
        confirmed = rows["stated_value"].eq(rows["registry_value"]) if by_rules else True
        rows = rows.assign(answer=rows["stated_value"].where(stated, NOT_STATED), headline=~stated | confirmed)
    else:
        rows = rows[rows["registry_value"].notna()]
        rows = rows.assign(answer=rows["registry_value"], headline=True)
    rows = rows.drop(columns="patient_id").merge(notes.drop(columns="text"), on="note_id", how="inner")
    parts = []
    for variant, setting in variants_of(spec, corpus).items():
        # an institution that does not say what kind its notes are is asked about all of them
        kind = rows["note_type"].map(lambda name, kinds=setting["note_types"]: name == UNKNOWN_TYPE or any(word in name for word in kinds))
        suffix = f"|{variant}" if variant else ""
        part = rows[kind.to_numpy(dtype=bool) & rows["field"].isin(setting.get("fields", spec["fields"])).to_numpy(dtype=bool)]
        if setting.get("says") == "stated":  # a note that states the value, and what it states, whatever the task's gold is elsewhere
            part = part[part["evidence"].eq("stated")].assign(answer=lambda part: part["stated_value"])
        parts.append(part.assign(variant=variant, example_id=lambda part, end=suffix: f"{spec['task']}|" + part["note_id"] + "|" + part["field"] + end))
    columns = ["example_id", "patient_id", "note_id", "task", "field", "variant", "answer", "evidence", "headline", "cancer_type", "institution", "split",
               "quote_start", "quote_end"]
    items = pd.concat(parts, ignore_index=True) if parts else rows.head(0).assign(variant="", example_id="")
    return items.assign(task=spec["task"])[columns]


def field_table(run_dir: Path, corpus: str, tasks: list[str]) -> pd.DataFrame:
    """Before any sampling, per task and field: what the labels are (kind), how many answers it has, items per ring, its most common answer in training
    and that answer's share (0-1): what a guess gets. A field of which the training patients have no value is left out."""
    notes, labels = read_corpus(run_dir)
    rows = []
    for name in tasks:
        spec = load_task(name)
        items = task_items(spec, corpus, notes, labels)
        kind = label_source(spec, corpus, not has_registry(labels)).split(" are ")[1].split(":")[0]
        items = items[items["variant"].eq(items["variant"].iloc[0])] if len(items) else items
        for field, part in items.groupby("field", sort=False):
            train = part.loc[part["split"].eq("train"), "answer"].value_counts()
            if len(train):
                rows.append({"task": name, "field": field, "labels": kind, "answers": len(train)}
                            | {split: int(part["split"].eq(split).sum()) for split in SPLITS}
                            | {"most common": train.index[0], "share": train.iloc[0] / train.sum()})
    return pd.DataFrame(rows)


def take_order(items: pd.DataFrame, seed: int, balance: bool) -> pd.DataFrame:
    """Items in the order in which they are taken, by hash and so the same on every machine.

    Turns go round: if `balance`, by field and within a field by answer, so that a rare value is taken as early as a common one and an open
    field, whose values are all rare, does not crowd out the others; else by patient, so that a few hundred items come from as many patients
    as possible.
    """
    items = items.assign(order=[hash_order(seed, f"{note}|{field}") for note, field in zip(items["note_id"], items["field"], strict=True)],
                         patient_order=[hash_order(seed, patient) for patient in items["patient_id"]])
    items = items.sort_values(["order", "example_id"])
    turn = items.groupby(["field", "answer"] if balance else "patient_id").cumcount()
    if balance:
        turn = items.assign(turn=turn).sort_values(["turn", "order"]).groupby("field").cumcount()
    return items.assign(turn=turn).sort_values(["turn", "patient_order", "order", "example_id"])


def not_stated_order(items: pd.DataFrame, stated: pd.DataFrame, seed: int, repeats: int) -> pd.DataFrame:
    """"Not stated" items in an order whose every beginning follows the fields' shares among the stated items.

    A field asked mostly where it is absent would give its answer away. With `repeats` > 1 every item comes that often, copies last.
    """
    items = take_order(items, seed, balance=False)
    copies = [items.assign(example_id=items["example_id"] + f"#{copy}") for copy in range(2, repeats + 1)]
    items = pd.concat([items, *copies], ignore_index=True)
    rank = items.groupby("field").cumcount() + 0.5
    n_stated = stated["field"].value_counts().to_dict()
    return items.assign(position=rank / [n_stated.get(field, 0.1) for field in items["field"]]).sort_values(["position", "patient_order", "example_id"])


def sample(items: pd.DataFrame, not_stated_share: float, seed: int, max_items: int | None, balance: bool, repeats: int = 1,
           usable=lambda item: True) -> pd.DataFrame:
    """Takes up to `max_items` items (None: as many as the share allows) of which `not_stated_share` are "not stated" ones.

    A corpus without any gives stated items only; else too few of them limit the sample.

    `repeats`: how often a "not stated" item may come (training only: clean absences are rarer than the share asks for).
    `usable(item)` may refuse an item; the next one is tried in its place.
    """
    absent = items["answer"].eq(NOT_STATED)
    share = not_stated_share if absent.any() else 0.0
    assert 0 <= share < 1, f"share of not stated items: {share}"
    room = len(items) * repeats if max_items is None else max_items
    room = min(room, int(absent.sum() * repeats / share)) if share else room
    stated = _take(take_order(items[~absent], seed, balance), round(room * (1 - share)), usable)
    missing = not_stated_order(items[absent], stated, seed, repeats)
    return pd.concat([stated, _take(missing, round(len(stated) * share / (1 - share)), usable)], ignore_index=True)[list(items.columns)]


def _take(items: pd.DataFrame, n: int, usable) -> pd.DataFrame:
    kept = []
    for item in items.itertuples():
        if len(kept) >= n:
            break
        if usable(item):
            kept.append(item.Index)
    return items.loc[kept]


def context_of(spec: dict, field: str, variant: str, note: dict, tokenizer, context_tokens: int, head_tokens: int) -> str:
    """The context of one item from an indexed note, for building examples and for `cancerllm predict` alike; "" for a blank note."""
    query = spec["variants"][variant]["query"] if variant else spec["fields"][field]["query"]
    numbers = ctx.select_units(note, query, context_tokens, head_tokens)
    return ctx.context_of(note, numbers, context_tokens, tokenizer)


def examples_of(spec: dict, items: pd.DataFrame, texts: dict[str, str], indexes: dict, tokenizer, context_tokens: int, head_tokens: int,
                not_stated_share: float, seed: int, max_items: int | None, balance: bool, repeats: int, drop_unseen_quotes: bool) -> tuple[list[dict], dict]:
    """Samples the items of one task, split and variant and writes their prompts.

    `indexes` keeps what `index_note` found, by (note_id, masked), from one call to the next.
    Returns the rows of the JSONL file and counts: unseen_quotes (stated items refused because the chosen sentences do not hold the
    quoted words), no_findings (reports in which masking left nothing), leak (findings only: share that still names the histology).
    """
    counts = {"unseen_quotes": 0, "no_findings": 0, "leak": None}
    contexts: dict[str, str] = {}
    quote_seen: dict[str, bool] = {}

    def usable(item) -> bool:
        masked = item.variant == "findings"
        text = texts[item.note_id]
        if (item.note_id, masked) not in indexes:
            indexes[item.note_id, masked] = ctx.index_note(ctx.findings_of(text, spec) if masked else text, tokenizer)
        context = context_of(spec, item.field, item.variant, indexes[item.note_id, masked], tokenizer, context_tokens, head_tokens)
        if masked and len(context.split()) < _MIN_FINDINGS_WORDS:
            counts["no_findings"] += 1
            return False
        if item.evidence == "stated" and pd.notna(item.quote_start) and not masked:
            quote_seen[item.example_id] = " ".join(text[item.quote_start:item.quote_end].split()) in context
            if drop_unseen_quotes and not quote_seen[item.example_id]:
                counts["unseen_quotes"] += 1
                return False
        contexts[item.example_id] = context
        return True

    chosen = sample(items, not_stated_share, seed, max_items, balance, repeats, usable)
    rows = [
        {
            "example_id": item.example_id, "patient_id": item.patient_id, "note_id": item.note_id, "task": item.task, "field": item.field,
            "prompt": build_prompt(spec, item.field, contexts[item.example_id]), "completion": item.answer, "answers": [item.answer],
            "cancer_type": item.cancer_type, "institution": item.institution, "variant": item.variant, "headline": bool(item.headline),
            "evidence": item.evidence, "quote_seen": quote_seen.get(item.example_id),
        }
        for item in chosen.itertuples()
    ]
    if len(items) and items["variant"].iloc[0] == "findings":
        named = [ctx.names_histology(contexts[row["example_id"]], row["answers"][0], spec) for row in rows]
        counts["leak"] = sum(named) / len(named) if named else None
    return rows, counts


def check_boundary(rows: list[dict], tokenizer) -> list[int]:
    """Token count of each prompt + completion; stops if a prompt's tokens are not the beginning of those of prompt + completion."""
    prompts = tokenizer([row["prompt"] for row in rows], add_special_tokens=False)["input_ids"] if rows else []
    wholes = tokenizer([row["prompt"] + row["completion"] for row in rows], add_special_tokens=False)["input_ids"] if rows else []
    for row, prompt, whole in zip(rows, prompts, wholes, strict=True):
        assert row["prompt"].endswith("### Response:\n"), f"{row['example_id']}: the prompt lost its end"
        assert whole[: len(prompt)] == prompt, f"{row['example_id']}: prompt and completion merge into one token"
    return [len(whole) for whole in wholes]


def answers_of(spec: dict, field: str, corpus: str, items: pd.DataFrame) -> list[str]:
    """The allowed answers of a field of this data set: of a task that drops rare ones those that are left, else allowed_values."""
    if corpus in spec.get("min_train_patients", {}):
        return sorted(items.loc[items["field"].eq(field), "answer"].unique())
    return allowed_values(field, corpus)


def build_datasets(run_dir: Path, corpus: str, tasks: list[str], tokenizer_dir: str, context_tokens: int = 192, head_tokens: int = 32,
                   not_stated_share: float = 0.25, max_train_items: int | None = None, max_dev_items: int | None = None,
                   max_test_items: int | None = None, balance: bool = True, drop_unseen_quotes: bool = True, seed: int = 42,
                   excluded: Collection[str] = ()) -> pd.DataFrame:
    """Writes datasets/<task>/<split>.jsonl of a run, and datasets/settings.json, from which a tuned model learns how its prompts were made.

    Args: tokenizer_dir, the tokenizer of the model to be tuned (the token budgets are its own); the caps count items per task and split,
    a task's variants share them, and a task with `share_of_caps` (training: `share_of_train`) takes that share of them; balance, whether training items go round the values of each field;
    drop_unseen_quotes, whether extraction trains only on items whose quoted words stand in the chosen sentences, so that a model is not
    taught to answer from nothing (test items stay as they are); excluded, ids of notes that no item is made of.
    Returns one row per task, variant and split: items, patients, not_stated, uncertain (dropped from extraction), unseen_quotes,
    no_findings, quote_seen (share of stated items whose quote is in the context), leak (share of masked contexts that still name the
    histology), max_tokens (longest prompt + completion).
    """
    from transformers import AutoTokenizer  # seconds of import that the other functions here do not need

    run_dir = Path(run_dir)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    notes, labels = read_corpus(run_dir)
    notes = notes[~notes["note_id"].isin(set(excluded))]
    texts = dict(zip(notes["note_id"], notes["text"], strict=True))
    uncertain = labels[labels["evidence"].eq("uncertain")].merge(notes[["note_id", "split"]], on="note_id").groupby(["field", "split"]).size()
    caps = {"train": max_train_items, "dev": max_dev_items} | dict.fromkeys(SPLITS[2:], max_test_items)
    summary, fields, values, indexes = [], {}, {}, {}
    for name in tasks:
        spec = load_task(name)
        items, every = task_items(spec, corpus, notes, labels), all_items(spec, corpus, notes, labels)
        if len(items) < len(every):
            print(f"{name}: {items['answer'].nunique()} answers kept; {every['answer'].nunique() - items['answer'].nunique()} that fewer than "
                  f"{spec['min_train_patients'][corpus]} training patients have dropped with their {len(every) - len(items)} of {len(every)} items", flush=True)
        fields[name] = [field for field in spec["fields"] if field in set(items.loc[items["split"].eq("train"), "field"])]
        variants = list(variants_of(spec, corpus))
        share = spec.get("share_of_caps", 1)
        shares = dict.fromkeys(SPLITS, share) | {"train": spec.get("share_of_train", share)}
        capped = {split: None if cap is None else max(1, round(cap * shares[split])) for split, cap in caps.items()}
        values |= {field: answers_of(spec, field, corpus, items) for field in fields[name]}
        for split in SPLITS:
            rows = []
            for variant in variants:
                part = items[items["split"].eq(split) & items["variant"].eq(variant)]
                cap = None if capped[split] is None else capped[split] // len(variants)
                training, extraction = split == "train", spec["gold"] == "stated_value"
                made, counts = examples_of(spec, part, texts, indexes, tokenizer, context_tokens, head_tokens, not_stated_share, seed, cap,
                                           balance and training, REPEATS if training else 1, drop_unseen_quotes and training and extraction)
                seen = [row["quote_seen"] for row in made if row["quote_seen"] is not None]
                summary.append({
                    "task": name, "variant": variant, "split": split, "items": len(made), "patients": len({row["patient_id"] for row in made}),
                    "not_stated": sum(row["answers"] == [NOT_STATED] for row in made),
                    "uncertain": int(sum(uncertain.get((field, split), 0) for field in fields[name])) if extraction else 0,
                    "quote_seen": sum(seen) / len(seen) if seen else None, **counts,
                    "max_tokens": max(check_boundary(made, tokenizer), default=0),
                })
                rows += made
            write_jsonl(run_dir / "datasets" / name / f"{split}.jsonl", rows)
            n_patients, of = len({row["patient_id"] for row in rows}), items.loc[items["split"].eq(split), "patient_id"].nunique()
            how = "all items" if capped[split] is None else f"at most {capped[split]} items, sampled {'by value' if balance and split == 'train' else 'by patient'}, seed {seed}"
            print(f"{name} {split}: {len(rows)} items of {n_patients} of {of} patients ({how})", flush=True)
    table = pd.DataFrame(summary)
    for name in [name for name in tasks if not table.loc[table["task"].eq(name), "items"].any()]:
        print(f"{name}: no item. It needs {'what the text states' if load_task(name)['gold'] == 'stated_value' else 'labels (labels_file)'}.")
    if not table.loc[table["split"].eq("train"), "items"].any():
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in notes["note_type"].value_counts().head(8).items())
        raise UserError(f"there is nothing to tune on: no training note of a kind that the tasks ask about holds an answer. The kinds of note are: {kinds}. "
                        "Set note_type_pathology or note_type_clinic to yours, give the cancer of each patient (column_cancer_type), or give labels (labels_file).")
    settings = {
        "corpus": corpus, "tasks": list(tasks), "fields": fields, "context_tokens": context_tokens, "head_tokens": head_tokens,
        "variants": {name: list(variants_of(load_task(name), corpus)) for name in tasks},
        "values": values,
        "prompt_hash": {name: prompt_hash(load_task(name)) for name in tasks},
        "silver": not has_registry(labels), "not_stated_share": not_stated_share, "balance": balance, "seed": seed, "max_tokens": int(table["max_tokens"].max()),
    }
    (run_dir / "datasets" / "settings.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return table
