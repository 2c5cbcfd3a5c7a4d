"""What a model must beat: majority answers, the nearest training example, TF-IDF + logistic regression and the label rules.

All are fitted on the training patients; of TF-IDF the settings are chosen on the development patients. Test sets are only answered.
"""

import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.multiclass import OneVsRestClassifier

from ..tasks.build import REPEATS, read_corpus, read_settings, sample, task_items
from ..tasks.context import findings_of
from ..tasks.counterfactual import corrupt, known_values
from ..tasks.task import NOT_STATED, load_task, read_jsonl, write_jsonl
from .nearest import index_examples, nearest_answers

_MAX_FEATURES = 20_000
STRENGTHS = (1.0, 10.0, 100.0)  # C of the logistic regression, tried on the development patients; without any the middle one stands
MAX_CLASSES = 60        # of a field with more answers (tumor size) TF-IDF learns the most frequent ones
# Letters with digits inside, so that pT2a, 3+4 and ER- are words of the vocabulary.
_TOKEN = r"(?u)[a-zA-Z0-9][a-zA-Z0-9+/.-]*[a-zA-Z0-9+-]|[a-zA-Z0-9]"


def training_items(spec: dict, corpus: str, notes: pd.DataFrame, labels: pd.DataFrame, not_stated_share: float, seed: int) -> pd.DataFrame:
    """The items of the training patients, unbalanced and uncapped, "not stated" ones at the share of the test sets (repeated as in tuning)."""
    items = task_items(spec, corpus, notes, labels)
    items = items[items["split"].eq("train")]
    parts = [sample(part, not_stated_share, seed, None, balance=False, repeats=REPEATS) for _, part in items.groupby("variant")]
    return pd.concat(parts, ignore_index=True) if parts else items


def by_frequency(values: pd.Series) -> list[str]:
    """The values, the most frequent first; equally frequent ones by name."""
    return values.value_counts().sort_index().sort_values(ascending=False, kind="stable").index.tolist()


def most_common(values: pd.Series) -> str:
    """The most frequent value; of equally frequent ones the first by name."""
    return by_frequency(values)[0]


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


def fit_fields(items: pd.DataFrame, rows_of: dict[str, int], matrix, seed: int, strength: float = STRENGTHS[1]) -> dict:
    """field -> one-against-rest LogisticRegression (C = strength) of its MAX_CLASSES most frequent answers, or the only answer (str) where there is nothing to tell apart."""
    models = {}
    for field, part in items.groupby("field"):
        part = part[part["answer"].isin(by_frequency(part["answer"])[:MAX_CLASSES])]
        if part["answer"].nunique() == 1:
            models[field] = part["answer"].iloc[0]
            continue
        model = OneVsRestClassifier(LogisticRegression(solver="liblinear", dual=True, C=strength, tol=0.1, random_state=seed))
        with warnings.catch_warnings():  # at C = 100 the last digits are still moving after 100 rounds, the answers are not
            warnings.simplefilter("ignore", ConvergenceWarning)
            models[field] = model.fit(matrix[[rows_of[note] for note in part["note_id"]]], part["answer"])
    return models


def answer_fields(models: dict, fields: list[str], notes: list[str], rows_of: dict[str, int], matrix, fallbacks: list[str]) -> list[str]:
    """Answers of the models of fit_fields to questions (field, note); a field that training never saw gets the fallback."""
    answers, fields = list(fallbacks), np.asarray(fields, dtype=object)
    for field, model in models.items():
        places = np.flatnonzero(fields == field)
        if len(places):
            found = [model] * len(places) if isinstance(model, str) else model.predict(matrix[[rows_of[notes[place]] for place in places]])
            for place, answer in zip(places, found, strict=True):
                answers[place] = str(answer)
    return answers


def sure_of_fields(models: dict, fields: list[str], notes: list[str], rows_of: dict[str, int], matrix) -> list[float]:
    """How probable each answer of answer_fields is to its model (0 to 1, one-against-rest normalised); NaN where there was nothing to tell apart."""
    sure, fields = [float("nan")] * len(fields), np.asarray(fields, dtype=object)
    for field, model in models.items():
        places = np.flatnonzero(fields == field)
        if len(places) and not isinstance(model, str):
            for place, row in zip(places, model.predict_proba(matrix[[rows_of[notes[place]] for place in places]]), strict=True):
                sure[place] = round(float(row.max()), 6)
    return sure


def vectors_of(documents: dict[str, str], fitted_on: list[str]) -> dict:
    """TF-IDF of documents (note_id -> text), the vocabulary from those in `fitted_on`: {words, matrix, rows_of (note_id -> row), single (columns of one word)}."""
    vectorizer = fit_tfidf([documents[note] for note in fitted_on])
    words = vectorizer.get_feature_names_out()
    return {"words": words, "matrix": vectorizer.transform(documents.values()), "rows_of": {note: row for row, note in enumerate(documents)},
            "single": np.flatnonzero([" " not in word for word in words])}


def tune_tfidf(train: pd.DataFrame, dev: pd.DataFrame, vectors: dict, seed: int) -> tuple[dict, pd.DataFrame]:
    """The best of four settings on the development items: C of STRENGTHS on words and pairs, then the best C on words alone.

    Returns {models, matrix} of the chosen one (the first of equally good ones) and a table: features, C, dev_items, dev_accuracy (0-1), chosen.
    """
    tried, fitted = [], []

    def attempt(features: str, strength: float) -> float:
        matrix = vectors["matrix"] if features == "words and pairs" else vectors["matrix"][:, vectors["single"]]
        models = fit_fields(train, vectors["rows_of"], matrix, seed, strength)
        answers = answer_fields(models, dev["field"].tolist(), dev["note_id"].tolist(), vectors["rows_of"], matrix, [""] * len(dev))
        accuracy = float((dev["answer"].to_numpy() == np.asarray(answers, dtype=object)).mean()) if len(dev) else float("nan")
        tried.append({"features": features, "C": strength, "dev_items": len(dev), "dev_accuracy": accuracy})
        fitted.append({"models": models, "matrix": matrix})
        return accuracy

    if len(dev):
        scores = [attempt("words and pairs", strength) for strength in STRENGTHS]
        scores.append(attempt("words", STRENGTHS[int(np.argmax(scores))]))
        best = int(np.argmax(scores))
    else:
        attempt("words and pairs", STRENGTHS[1])
        best = 0
    return fitted[best], pd.DataFrame(tried).assign(chosen=[number == best for number in range(len(tried))])


def predict_baselines(run_dir: Path, tasks: list[str], splits: list[str], seed: int = 42, other_texts: dict[str, dict] | None = None,
                      false_answers: dict | None = None) -> pd.DataFrame:
    """Fits the baselines on the training patients and answers every data set: predictions/<baseline>/baseline/<task>.<split>.jsonl.

    false_answers ({rate, mode, seed, stage}): the training answers are corrupted first, as a model's are (tasks.counterfactual), and the predictions go to the
    named stage; the rules, which learn nothing, are left out. TF-IDF's settings are chosen on clean development answers all the same.

    majority (per field), majority_by_cancer (per field and cancer type), nearest (the answer of the most similar training example, nearest.py), tfidf
    (the whole scrubbed note; for `findings` the masked note) and rules (what the text states, majority_by_cancer where silent; `sure` marks the rows
    where the text states one value). Rules write no predictions where they made the labels (extraction from real reports) or read none of the
    fields. predictions/tfidf/baseline/ also gets the fitted vocabulary and tuning.csv: which settings were tried on the development patients, and
    which was chosen. Returns one row per file: model, task, split, n, value_accuracy (0-1), seconds, remark.
    """
    run_dir, settings = Path(run_dir), read_settings(run_dir)
    corpus, share = settings["corpus"], settings["not_stated_share"]
    notes, labels = read_corpus(run_dir)
    texts = dict(zip(notes["note_id"], notes["text"], strict=True))
    specs = {name: load_task(name) for name in tasks}
    files = {(name, split): run_dir / "datasets" / name / f"{split}.jsonl" for name in tasks for split in splits}
    sets = {name: {split: read_jsonl(files[name, split]) for split in splits if not other_texts or files[name, split].is_file()} for name in tasks}
    for split, found in (other_texts or {}).items():  # such a note goes by a name of its own, since the corpus has another text under its id
        texts |= {other_id(note, split, which == "findings"): text for (which, note), text in found.items()}
        for row in (row for name in tasks for row in sets[name].get(split, ())):
            row["note_id"] = other_id(row["note_id"], split, row["variant"] == "findings")
    trains = {name: training_items(spec, corpus, notes, labels, share, seed) for name, spec in specs.items()}
    stage = false_answers["stage"] if false_answers else "baseline"
    shown = {name: read_jsonl(run_dir / "datasets" / name / "train.jsonl") for name in tasks}  # what a model is tuned on, and the nearest example comes from
    if false_answers:
        for name in tasks:
            trains[name], shown[name] = with_false_answers(trains[name], shown[name], **{key: false_answers[key] for key in ("rate", "mode", "seed")})
    devs = {name: tuning_items(spec, corpus, notes, labels, share, seed) for name, spec in specs.items()}
    vectors, table, tuned = vectors_of_tasks(run_dir, specs, trains, devs, sets, texts), [], []
    for name, spec in specs.items():
        started, train = time.monotonic(), trains[name]
        by_field, by_cancer = majority(train, ["field"]), majority(train, ["field", "cancer_type"])
        common = {split: [majority_answer(row, by_cancer, by_field) for row in rows] for split, rows in sets[name].items()}
        plain = {split: [by_field.get((row["field"],), NOT_STATED) for row in rows] for split, rows in sets[name].items()}
        answered, total = [("majority", plain, 0.0), ("majority_by_cancer", common, 0.0)], max(1, sum(map(len, sets[name].values())))
        begun = time.monotonic()
        indexes = index_examples(shown[name])
        nearest = {split: nearest_answers(indexes, rows, common[split]) for split, rows in sets[name].items()}
        answered.append(("nearest", nearest, (time.monotonic() - begun) / total))
        begun = time.monotonic()
        tfidf, probable, trials = tfidf_answers(spec, train, devs[name], sets[name], common, vectors, seed)
        tuned.append(trials)
        answered.append(("tfidf", tfidf, (time.monotonic() - begun) / total))
        begun = time.monotonic()
        rules, sure, remark = rule_answers(spec, sets[name], common, texts, corpus) if not false_answers else ({}, {}, "rules learn no answers")
        if remark:
            table.append({"model": "rules", "task": name, "remark": remark})
        else:
            answered.append(("rules", rules, (time.monotonic() - begun) / total))
        print(f"baselines: {name} fitted on {len(train)} items and answered in {time.monotonic() - started:.0f} s", flush=True)
        for model, answers, each in answered:
            for split, rows in sets[name].items():
                write_jsonl(run_dir / "predictions" / model / stage / f"{name}.{split}.jsonl", [
                    {"example_id": row["example_id"], "prediction": answer, "answers": row["answers"], "parsed": answer, "new_tokens": 0,
                     "stop_reason": "", "seconds": round(each, 5)} | ({"sure": sure[split][place]} if model == "rules" else {})
                    | ({"confidence": probable[split][place]} if model == "tfidf" and probable[split][place] == probable[split][place] else {})
                    for place, (row, answer) in enumerate(zip(rows, answers[split], strict=True))])
                right = [answer == row["answers"][0] for row, answer in zip(rows, answers[split], strict=True)]
                table.append({"model": model, "task": name, "split": split, "n": len(rows), "value_accuracy": np.mean(right) if right else None,
                              "seconds": each * len(rows), "remark": ""})
    pd.concat(tuned, ignore_index=True).to_csv(run_dir / "predictions" / "tfidf" / stage / "tuning.csv", index=False, float_format="%.4f")
    return pd.DataFrame(table)


def with_false_answers(items: pd.DataFrame, shown: list[dict], rate: float, mode: str, seed: int) -> tuple[pd.DataFrame, list[dict]]:
    """Training items (training_items) and the training file's rows with corrupted answers; an item that stands in both has the same answer in both."""
    known, rows = known_values(shown), items.assign(answers=[[answer] for answer in items["answer"]]).to_dict("records")
    changed, _ = corrupt(rows, rate, mode, seed, known)
    return items.assign(answer=[row["answers"][0] for row in changed]), corrupt(shown, rate, mode, seed, known)[0]


def other_id(note: str, split: str, masked: bool) -> str:
    """The name of a note's other text (other_texts of predict_baselines) in a split."""
    return f"{note}\n{split}\n{'masked' if masked else ''}"


def text_read(texts: dict[str, str], note: str, masked: bool, spec: dict) -> str:
    """What a question reads of a note: its text, or that with the diagnosis masked; other texts come masked."""
    return findings_of(texts[note], spec) if masked and not note.endswith("\nmasked") else texts[note]


def tuning_items(spec: dict, corpus: str, notes: pd.DataFrame, labels: pd.DataFrame, not_stated_share: float, seed: int) -> pd.DataFrame:
    """All items of the development patients, not only the few hundred that models answer; "not stated" ones at the share of the test sets."""
    items = task_items(spec, corpus, notes, labels)
    items = items[items["split"].eq("dev")]
    parts = [sample(part, not_stated_share, seed, None, balance=False) for _, part in items.groupby("variant")]
    return pd.concat(parts, ignore_index=True) if parts else items


def vectors_of_tasks(run_dir: Path, specs: dict, trains: dict, devs: dict, sets: dict, texts: dict[str, str]) -> dict[bool, dict]:
    """vectors_of the whole notes of all tasks together (False) and of the masked ones (True); writes the vocabularies."""
    notes = {False: (set(), set()), True: (set(), set())}  # masked -> (notes to fit on, all notes)
    masking = next((spec for spec in specs.values() if "findings" in (spec.get("variants") or {})), None)
    for name in specs:
        for variant, part in trains[name].groupby("variant"):
            notes[variant == "findings"][0].update(part["note_id"])
        for variant, part in [*trains[name].groupby("variant"), *devs[name].groupby("variant")]:
            notes[variant == "findings"][1].update(part["note_id"])
        for row in (row for rows in sets[name].values() for row in rows):
            notes[row["variant"] == "findings"][1].add(row["note_id"])
    vectors = {}
    for masked, (fitted_on, asked) in notes.items():
        if fitted_on:
            vectors[masked] = vectors_of({note: text_read(texts, note, masked, masking) for note in sorted(asked)}, sorted(fitted_on))
            vocabulary = run_dir / "predictions" / "tfidf" / "baseline" / f"vocabulary{'.findings' * masked}.txt"
            vocabulary.parent.mkdir(parents=True, exist_ok=True)
            vocabulary.write_text("\n".join(sorted(vectors[masked]["words"])) + "\n", encoding="utf-8")
    return vectors


def tfidf_answers(spec: dict, train: pd.DataFrame, dev: pd.DataFrame, sets: dict, common: dict, vectors: dict, seed: int) -> tuple[dict[str, list[str]], dict[str, list[float]], pd.DataFrame]:
    """TF-IDF answers per split, tuned per variant; a field (or variant) that training never saw gets the majority. Their probabilities (sure_of_fields),
    and the table of tune_tfidf."""
    answers, sure, trials = {split: list(values) for split, values in common.items()}, {split: [float("nan")] * len(values) for split, values in common.items()}, []
    for variant, part in train.groupby("variant"):
        of_variant = vectors[variant == "findings"]
        chosen, tried = tune_tfidf(part, dev[dev["variant"].eq(variant)], of_variant, seed)
        trials.append(tried.assign(task=spec["task"], variant=variant))
        for split, rows in sets.items():
            places = [place for place, row in enumerate(rows) if row["variant"] == variant]
            asked = ([rows[place]["field"] for place in places], [rows[place]["note_id"] for place in places], of_variant["rows_of"], chosen["matrix"])
            found = answer_fields(chosen["models"], *asked, [common[split][place] for place in places])
            for place, answer, probable in zip(places, found, sure_of_fields(chosen["models"], *asked), strict=True):
                answers[split][place], sure[split][place] = answer, probable
    return answers, sure, pd.concat(trials, ignore_index=True)[["task", "variant", "features", "C", "dev_items", "dev_accuracy", "chosen"]] if trials else pd.DataFrame()


def rule_answers(spec: dict, sets: dict, common: dict, texts: dict[str, str], corpus: str) -> tuple[dict[str, list[str]], dict[str, list[bool]], str]:
    """What the rules read in the text; the majority where they read nothing, and "not stated" where extraction finds a clean absence.

    Returns answers and, per answer, whether the text states it in one unambiguous value, by split; and why the rules are not ranked here, else "".
    """
    from ..corpus import labels as rules  # compiles every pattern: only where rules are asked

    known = rules.SYNTHETIC_RULED if corpus == "synthetic" else rules.RULED
    if spec["gold"] == "stated_value" and corpus != "synthetic":
        return {}, {}, "the labels' source, not ranked"
    if not known & set(spec["fields"]):
        return {}, {}, "no rule reads these fields"
    answers, sure = {split: [] for split in sets}, {split: [] for split in sets}
    for split, rows in sets.items():
        for row, fallback in zip(rows, common[split], strict=True):
            text = text_read(texts, row["note_id"], row["variant"] == "findings", spec)
            found = {"evidence": "uncertain", "value": None}
            if row["field"] in known:
                found = rules.read_synthetic(text, row["field"]) if corpus == "synthetic" else rules.read(text, row["field"], row["cancer_type"])
            absent = spec["gold"] == "stated_value" and found["evidence"] == "not_stated"
            sure[split].append(found["evidence"] == "stated")
            answers[split].append(found["value"] if sure[split][-1] else NOT_STATED if absent else fallback)
    return answers, sure, ""


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
