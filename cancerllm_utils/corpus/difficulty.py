"""How hard is the synthetic cohort, and how varied? What a guess, a word count and plain rules reach on it, field by field.

A cohort is worth training on when the majority answer of a cancer is mostly wrong, when words alone do not tell whether a field is stated, and when fair
rules stay clearly below 100. All classifiers learn on the train ring and are measured on the other rings, so on other patients.
"""

import random
import re
from hashlib import blake2b

import numpy as np
import pandas as pd

from cancerllm_utils.corpus.labels import read_synthetic

MAX_NOTES = 800  # of the notes that are measured, sampled by hash: enough for shares good to about 2 points
WORD = re.compile(r"[a-z0-9]+")


def difficulty(notes: pd.DataFrame, labels: pd.DataFrame, splits: pd.DataFrame, seed: int = 0, max_notes: int = MAX_NOTES) -> pd.DataFrame:
    """One row per field, accuracies from 0 to 1, NaN where nothing can be measured.

    Columns: field; patients (measured), values (distinct in the registry); majority, majority_per_cancer (the commonest registry value of the train ring,
    over all and of the patient's cancer, on the other rings' patients); n_stated, n_not_stated (notes of the other rings); stated_share (of both);
    stated_base (always the commoner of the two), stated_by_cancer (the commoner of each cancer type and kind of note), stated_by_words (TF-IDF and logistic
    regression on the note's text); rules_value (labels.read_synthetic gives the stated value), rules_refusal (it says "not stated" where nothing is),
    rules (both together), rules_notes (notes it was measured on).

    notes: note_id, patient_id, note_type, cancer_type, text. labels: LABEL_COLUMNS. splits: patient_id, split. max_notes: how many notes words and rules
    are measured on (words learn from twice as many).
    """
    split = splits.set_index("patient_id")["split"]
    kinds = notes.set_index("note_id")[["note_type", "cancer_type"]]
    labels = labels.join(kinds, on="note_id").assign(train=lambda table: table["patient_id"].map(split).eq("train"))
    sampled = set(sample_notes(notes[notes["patient_id"].map(split).ne("train")], max_notes, seed)["note_id"])
    learning = set(sample_notes(notes[notes["patient_id"].map(split).eq("train")], 2 * max_notes, seed)["note_id"])
    texts = notes.set_index("note_id")["text"]
    vectors = word_vectors(texts, learning, sampled)
    rows = []
    for field, table in labels.groupby("field", sort=False):
        people = table.drop_duplicates("patient_id")
        told = table[table["evidence"].isin(["stated", "not_stated"])].assign(stated=lambda part: part["evidence"].eq("stated"))
        train, test = told[told["train"]], told[~told["train"]]
        row = {"field": field, "patients": int((~people["train"]).sum()), "values": people["registry_value"].nunique()}
        row |= majorities(people[people["train"]], people[~people["train"]], "registry_value")
        row |= {"n_stated": int(test["stated"].sum()), "n_not_stated": int((~test["stated"]).sum()), "stated_share": test["stated"].mean()}
        if len(test) and train["stated"].nunique() == 2:
            row["stated_base"] = float((test["stated"] == train["stated"].mode()[0]).mean())
            keys = ["cancer_type", "note_type"]
            common = train.groupby(keys)["stated"].mean().rename("chance")
            row["stated_by_cancer"] = float((test["stated"] == (test.join(common, on=keys)["chance"].fillna(0.5) >= 0.5)).mean())
            row["stated_by_words"] = by_words(vectors, train[train["note_id"].isin(learning)], test[test["note_id"].isin(sampled)])
        rows.append(row | by_rules(texts, test[test["note_id"].isin(sampled)], field))
    return pd.DataFrame(rows)


def sample_notes(notes: pd.DataFrame, number: int, seed: int) -> pd.DataFrame:
    """Up to `number` notes, the same for any order of the rows."""
    order = [blake2b(f"{seed}|{note_id}".encode(), digest_size=8).hexdigest() for note_id in notes["note_id"]]
    return notes.assign(order=order).sort_values("order").head(number)


def majorities(train: pd.DataFrame, test: pd.DataFrame, column: str) -> dict:
    """Accuracy on test of the commonest value of train, and of the commonest of each cancer."""
    if not len(train) or not len(test):
        return {"majority": np.nan, "majority_per_cancer": np.nan}
    overall = train[column].mode()[0]
    per_cancer = train.groupby("cancer_type")[column].agg(lambda values: values.mode()[0])
    guess = test["cancer_type"].map(per_cancer).fillna(overall)
    return {"majority": float((test[column] == overall).mean()), "majority_per_cancer": float((test[column] == guess).mean())}


def word_vectors(texts: pd.Series, learning: set, sampled: set) -> dict:
    """TF-IDF rows of the learning and of the measured notes: matrix, and note_id -> row."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # a second of import that the other functions do not need

    ids = [*sorted(learning), *sorted(sampled)]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, max_features=20_000, sublinear_tf=True, token_pattern=r"(?u)[\w+]+")
    vectorizer.fit(texts[sorted(learning)])
    return {"matrix": vectorizer.transform(texts[ids]), "row": {note_id: number for number, note_id in enumerate(ids)}}


def by_words(vectors: dict, train: pd.DataFrame, test: pd.DataFrame) -> float:
    """Accuracy of a linear classifier of stated or not on the words of the note; NaN where one of the two is missing."""
    from sklearn.linear_model import LogisticRegression

    if not len(test) or train["stated"].nunique() < 2:
        return np.nan
    rows_of = lambda table: vectors["matrix"][[vectors["row"][note_id] for note_id in table["note_id"]]]  # noqa: E731
    model = LogisticRegression(C=10, max_iter=300).fit(rows_of(train), train["stated"])
    return float(model.score(rows_of(test), test["stated"]))


def by_rules(texts: pd.Series, test: pd.DataFrame, field: str) -> dict:
    """How often the fair rules give the stated value, and how often they say "not stated" where nothing is; nothing for a field they do not know."""
    value, refusal = [], []
    try:
        for row in test.itertuples():
            found = read_synthetic(texts[row.note_id], field)
            if row.stated:
                value.append(found["value"] == row.stated_value)
            else:
                refusal.append(found["evidence"] == "not_stated")
    except KeyError:
        return {}
    mean = lambda answers: float(np.mean(answers)) if answers else np.nan  # noqa: E731
    return {"rules_value": mean(value), "rules_refusal": mean(refusal), "rules": mean(value + refusal), "rules_notes": len(value + refusal)}


def variety(texts_by_source: dict[str, list[str]], n: int = 5, seed: int = 0) -> pd.DataFrame:
    """How often sources repeat themselves: distinct word n-grams at an equal number of words.

    A larger text repeats itself more, so every source is cut to the words of the smallest: its notes in a seeded random order until that number is
    reached, the last one cut. Words are runs of small letters and digits; n-grams do not cross notes.

    Returns source, notes (read), words, ngrams, distinct, distinct_share (of the n-grams), distinct_per_1000_notes, words_per_note.
    """
    shuffled = {}
    for source, texts in texts_by_source.items():
        order = list(range(len(texts)))
        random.Random(seed).shuffle(order)
        shuffled[source] = [WORD.findall(texts[number].lower()) for number in order]
    limit = min(sum(map(len, notes)) for notes in shuffled.values())
    rows = []
    for source, notes in shuffled.items():
        left, read, total, distinct = limit, 0, 0, set()
        for words in notes:
            if left <= 0:
                break
            words = words[:left]
            left, read = left - len(words), read + 1
            grams = [hash(tuple(words[start : start + n])) for start in range(len(words) - n + 1)]
            total += len(grams)
            distinct.update(grams)
        rows.append({"source": source, "notes": read, "words": limit - max(left, 0), "ngrams": total, "distinct": len(distinct),
                     "distinct_share": len(distinct) / max(total, 1), "distinct_per_1000_notes": 1000 * len(distinct) / max(read, 1),
                     "words_per_note": (limit - max(left, 0)) / max(read, 1)})  # fmt: skip
    return pd.DataFrame(rows)


def hospital_classifier(notes: pd.DataFrame, seed: int = 0, max_notes: int = 4000) -> dict:
    """How well words and layout tell the hospitals apart: TF-IDF of words, line breaks and signs with logistic regression, patients split 70 to 30.

    notes: note_id, patient_id, institution, text. Returns accuracy, majority (accuracy of the largest hospital), hospitals, n_train, n_test;
    accuracy and majority are NaN where there are not two hospitals to tell apart.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    notes = sample_notes(notes, max_notes, seed)
    position = [int(blake2b(f"{seed}|{patient}".encode(), digest_size=4).hexdigest(), 16) / 16**8 for patient in notes["patient_id"]]
    train, test = notes[np.array(position) < 0.7], notes[np.array(position) >= 0.7]
    counts = {"hospitals": int(notes["institution"].nunique()), "n_train": len(train), "n_test": len(test)}
    if train["institution"].nunique() < 2 or test.empty:
        return {"accuracy": float("nan"), "majority": float("nan"), **counts}
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), min_df=3 if len(train) > 50 else 1, max_features=20_000, lowercase=False, token_pattern=r"[A-Za-z]+|\n+|[^\sA-Za-z]+"
    )
    model = LogisticRegression(C=10, max_iter=200).fit(vectorizer.fit_transform(train["text"]), train["institution"])
    largest = train["institution"].mode()[0]
    return {
        "accuracy": float(model.score(vectorizer.transform(test["text"]), test["institution"])),
        "majority": float((test["institution"] == largest).mean()),
        **counts,
    }  # fmt: skip
