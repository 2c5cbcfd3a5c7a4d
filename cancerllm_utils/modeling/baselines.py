"""What a model must beat: majority answers, TF-IDF + logistic regression and the label rules, fitted on the training patients only."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from ..tasks.build import REPEATS, read_corpus, read_settings, sample, task_items
from ..tasks.context import findings_of
from ..tasks.task import NOT_STATED, load_task, read_jsonl, write_jsonl

_MAX_FEATURES = 20_000
_MAX_CLASSES = 60       # a field with more answers than this (tumor size) is not a classification: TF-IDF answers with the majority there
# Letters with digits inside, so that pT2a, 3+4 and ER- are words of the vocabulary.
_TOKEN = r"(?u)[a-zA-Z0-9][a-zA-Z0-9+/.-]*[a-zA-Z0-9+-]|[a-zA-Z0-9]"


def training_items(spec: dict, corpus: str, notes: pd.DataFrame, labels: pd.DataFrame, not_stated_share: float, seed: int) -> pd.DataFrame:
    """The items of the training patients, unbalanced and uncapped, "not stated" ones at the share of the test sets (repeated as in tuning)."""
    items = task_items(spec, corpus, notes, labels)
    items = items[items["split"].eq("train")]
    parts = [sample(part, not_stated_share, seed, None, balance=False, repeats=REPEATS) for _, part in items.groupby("variant")]
    return pd.concat(parts, ignore_index=True) if parts else items


def most_common(values: pd.Series) -> str:
    """The most frequent value; of equally frequent ones the first by name."""
    return values.value_counts().sort_index().sort_values(ascending=False, kind="stable").index[0]


def majority(items: pd.DataFrame, columns: list[str]) -> dict:
    """The most common training answer for each combination of `columns` (a tuple of values -> answer)."""
    return {key: most_common(part["answer"]) for key, part in items.groupby(columns)}


def majority_answer(row: dict, by_cancer: dict, by_field: dict) -> str:
    """Majority of the field within the cancer, of the field where training never saw that pair, else "not stated"."""
    return by_cancer.get((row["field"], row["cancer_type"]), by_field.get((row["field"],), NOT_STATED))


def fit_tfidf(texts: list[str], max_features: int = _MAX_FEATURES) -> TfidfVectorizer:
    """Words and word pairs of at least two training texts, the most frequent `max_features`, sublinear counts."""
    vectorizer = TfidfVectorizer(lowercase=True, token_pattern=_TOKEN, ngram_range=(1, 2), min_df=2 if len(texts) > 50 else 1,
                                 max_features=max_features, sublinear_tf=True, dtype=np.float32)
    return vectorizer.fit(texts)


def fit_fields(items: pd.DataFrame, rows_of: dict[str, int], matrix, seed: int) -> dict:
    """field -> fitted LogisticRegression, or the only / most common answer (str) where there is nothing to tell apart or too much."""
    models = {}
    for field, part in items.groupby("field"):
        answers = part["answer"].value_counts()
        if len(answers) == 1 or len(answers) > _MAX_CLASSES:
            models[field] = most_common(part["answer"])
            continue
        model = LogisticRegression(C=10.0, max_iter=100, tol=1e-3, random_state=seed)
        models[field] = model.fit(matrix[[rows_of[note] for note in part["note_id"]]], part["answer"])
    return models


def predict_baselines(run_dir: Path, tasks: list[str], splits: list[str], seed: int = 42) -> pd.DataFrame:
    """Fits the baselines on the training patients and answers every data set: predictions/<baseline>/baseline/<task>.<split>.jsonl.

    majority (per field), majority_by_cancer (per field and cancer type), tfidf (the whole scrubbed note; for `findings` the masked note)
    and rules (what the text states, majority_by_cancer where silent). In extraction from real reports the rules made the labels, so they
    write no predictions there. The fitted vocabulary goes to predictions/tfidf/baseline/vocabulary.txt.
    Returns one row per file: model, task, split, n, value_accuracy (0-1), seconds, remark.
    """
    run_dir, settings = Path(run_dir), read_settings(run_dir)
    corpus = settings["corpus"]
    notes, labels = read_corpus(run_dir)
    table = []
    for name in tasks:
        started, spec = time.monotonic(), load_task(name)
        train = training_items(spec, corpus, notes, labels, settings["not_stated_share"], seed)
        sets = {split: read_jsonl(run_dir / "datasets" / name / f"{split}.jsonl") for split in splits}
        by_field, by_cancer = majority(train, ["field"]), majority(train, ["field", "cancer_type"])
        common = {split: [majority_answer(row, by_cancer, by_field) for row in rows] for split, rows in sets.items()}
        plain = {split: [by_field.get((row["field"],), NOT_STATED) for row in rows] for split, rows in sets.items()}
        begun = time.monotonic()
        tfidf = tfidf_answers(run_dir, spec, train, sets, common, notes, seed)
        seconds = (time.monotonic() - begun) / max(1, sum(map(len, sets.values())))
        answered = [("majority", plain, 0.0), ("majority_by_cancer", common, 0.0), ("tfidf", tfidf, seconds)]
        if spec["gold"] == "stated_value" and corpus != "synthetic":
            table.append({"model": "rules", "task": name, "remark": "the labels' source, not ranked"})
        else:
            begun = time.monotonic()
            rules = rule_answers(spec, sets, common, notes, corpus)
            answered.append(("rules", rules, (time.monotonic() - begun) / max(1, sum(map(len, sets.values())))))
        print(f"baselines: {name} fitted on {len(train)} items and answered in {time.monotonic() - started:.0f} s", flush=True)
        for model, answers, each in answered:
            for split, rows in sets.items():
                write_jsonl(run_dir / "predictions" / model / "baseline" / f"{name}.{split}.jsonl", [
                    {"example_id": row["example_id"], "prediction": answer, "answers": row["answers"], "parsed": answer, "new_tokens": 0,
                     "stop_reason": "", "seconds": round(each, 5)} for row, answer in zip(rows, answers[split], strict=True)])
                right = [answer == row["answers"][0] for row, answer in zip(rows, answers[split], strict=True)]
                table.append({"model": model, "task": name, "split": split, "n": len(rows), "value_accuracy": np.mean(right) if right else None,
                              "seconds": each * len(rows), "remark": ""})
    return pd.DataFrame(table)


def tfidf_answers(run_dir: Path, spec: dict, train: pd.DataFrame, sets: dict, common: dict, notes: pd.DataFrame, seed: int) -> dict[str, list[str]]:
    """TF-IDF answers per split; a field (or variant) that training never saw gets the majority."""
    texts = dict(zip(notes["note_id"], notes["text"], strict=True))
    answers = {split: list(values) for split, values in common.items()}
    for variant, part in train.groupby("variant"):
        def read(note_id, masked=variant == "findings"):
            return findings_of(texts[note_id], spec) if masked else texts[note_id]
        fitted_on = sorted(set(part["note_id"]))
        documents = [read(note_id) for note_id in fitted_on]
        vectorizer = fit_tfidf(documents)
        models = fit_fields(part, {note_id: row for row, note_id in enumerate(fitted_on)}, vectorizer.transform(documents), seed)
        vocabulary = run_dir / "predictions" / "tfidf" / "baseline" / f"vocabulary.{spec['task']}{'.' * bool(variant)}{variant}.txt"
        vocabulary.parent.mkdir(parents=True, exist_ok=True)
        vocabulary.write_text("\n".join(sorted(vectorizer.vocabulary_)) + "\n", encoding="utf-8")
        for split, rows in sets.items():
            for field, model in models.items():
                places = [place for place, row in enumerate(rows) if row["variant"] == variant and row["field"] == field]
                if not places:
                    continue
                found = [model] * len(places) if isinstance(model, str) else model.predict(vectorizer.transform([read(rows[place]["note_id"]) for place in places]))
                for place, answer in zip(places, found, strict=True):
                    answers[split][place] = str(answer)
    return answers


def rule_answers(spec: dict, sets: dict, common: dict, notes: pd.DataFrame, corpus: str) -> dict[str, list[str]]:
    """What the rules read in the text; the majority where they read nothing, and "not stated" where extraction finds a clean absence."""
    from ..corpus import labels as rules  # compiles every pattern: only where rules are asked

    texts = dict(zip(notes["note_id"], notes["text"], strict=True))
    answers = {}
    for split, rows in sets.items():
        answers[split] = []
        for row, fallback in zip(rows, common[split], strict=True):
            text = findings_of(texts[row["note_id"]], spec) if row["variant"] == "findings" else texts[row["note_id"]]
            found = rules.read_synthetic(text, row["field"]) if corpus == "synthetic" else rules.read(text, row["field"], row["cancer_type"])
            absent = spec["gold"] == "stated_value" and found["evidence"] == "not_stated"
            answers[split].append(found["value"] if found["evidence"] == "stated" else NOT_STATED if absent else fallback)
    return answers


def stated_or_not_by_cancer(run_dir: Path, splits: list[str] = ("dev", "test", "external_site", "external"), seed: int = 42) -> pd.DataFrame:
    """How far the cancer type alone tells "stated" from "not stated" in extraction: the score of a guesser that never reads the text.

    Per field the guesser says "not stated" in the cancers where most training items are. Returns one row per split and field ("all"
    included): split, field, n, not_stated (share), accuracy and balanced_accuracy (0-1; 0.5 is chance, None where only one class is).
    """
    run_dir, settings = Path(run_dir), read_settings(run_dir)
    notes, labels = read_corpus(run_dir)
    train = training_items(load_task("phenotype_extraction"), settings["corpus"], notes, labels, settings["not_stated_share"], seed)
    train = train.assign(answer=np.where(train["answer"].eq(NOT_STATED), NOT_STATED, "stated"))
    by_field, by_cancer = majority(train, ["field"]), majority(train, ["field", "cancer_type"])
    table = []
    for split in splits:
        rows = read_jsonl(run_dir / "datasets" / "phenotype_extraction" / f"{split}.jsonl")
        frame = pd.DataFrame({"field": [row["field"] for row in rows], "absent": [row["answers"] == [NOT_STATED] for row in rows],
                              "guess": [majority_answer(row, by_cancer, by_field) == NOT_STATED for row in rows]})
        for field, part in [("all", frame), *frame.groupby("field")]:
            both = part["absent"].nunique() == 2
            table.append({"split": split, "field": field, "n": len(part), "not_stated": part["absent"].mean(), "accuracy": (part["absent"] == part["guess"]).mean(),
                          "balanced_accuracy": balanced_accuracy_score(part["absent"], part["guess"]) if both else None})
    return pd.DataFrame(table)
