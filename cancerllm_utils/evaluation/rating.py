"""People as judges: a form that opens from disk, the way back of what they chose, their agreement, and where they do not agree.

Two uses of one form. With options of its own an item asks which answer is right (adjudication of a gold standard); with a scale it asks how good one
answer is (such as acceptable / minor change / not acceptable). No item names the system that an answer comes from.
"""

import hashlib
import json
import re
import string
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from cancerllm_utils.corpus import adjudication
from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import stats
from cancerllm_utils.tasks.task import NOT_STATED

NONE = "none of these"
FIXED = (NONE, NOT_STATED)  # choices that every item without a scale has
LETTERS = string.ascii_uppercase
FIRST_COLUMNS = ["item", "form", "choice", "comment"]  # of the CSV: what comes back stands first
ASKED = ["task", "field", "question"]


# ---- the form -------------------------------------------------------------------------------------------------------------------


def form(items: pd.DataFrame, scale: list[str], question: str, out_html: str | Path, out_csv: str | Path, title: str = "Rating form", contains_text: bool = True) -> str:
    """Write the form as one self-contained page and as a table with the same items; returns its id, twelve digits that follow from what it asks.

    items: one row each, in the order in which they are asked: item (its id, not telling the system), text, and `options` (list of answers to choose
    from) where `scale` is empty, else `answer` (what is rated); optional task, field, question (the item's own). scale: the ratings from best to worst,
    or [] to choose among the item's options, NONE and NOT_STATED. question: asked of every item. contains_text: the page warns of patient text.
    Choices come back by read_ratings, from the page's JSON or CSV or from the table.
    """
    from cancerllm_utils.report import browser  # jinja2 and its templates are the report's

    number = form_id(items, scale, question)
    answer = "answer" if scale else "options"
    columns = [name for name in ("item", *ASKED, answer, "text") if name in items]
    data = {"form": number, "scale": list(scale), "asks": question, "fixed": list(FIXED), "items": items[columns].to_dict("records")}
    page = browser.script_page("rating", data, title=title, asks=question, questions=len(items), scale=list(scale), contains_text=contains_text, profile="", commit="")
    for path in (out_html, out_csv):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(out_html).write_text(page, encoding="utf-8")
    table(items, scale, number).to_csv(out_csv, index=False)
    return number


def form_id(items: pd.DataFrame, scale: list[str], question: str) -> str:
    """Twelve hex digits over what is asked: ratings of another sample, or of other options, are not taken for these."""
    asked = [items["item"].astype(str).tolist(), items["answer" if scale else "options"].tolist(), items["text"].tolist(), list(scale), question]
    return hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).hexdigest()[:12]


def table(items: pd.DataFrame, scale: list[str], number: str) -> pd.DataFrame:
    """The form as rows for a spreadsheet: FIRST_COLUMNS (choice and comment empty), what is asked, the options by letter or the answer, the text."""
    out = pd.DataFrame({"item": items["item"].astype(str), "form": number, "choice": "", "comment": ""})
    out = out.join(items[[name for name in ASKED if name in items]])
    if scale:
        out["answer"] = items["answer"].map(lambda text: " ".join(text.split()))
    else:
        for i in range(items["options"].map(len).max()):
            out[f"option_{LETTERS[i]}"] = items["options"].map(lambda options, i=i: options[i] if i < len(options) else "")
    return out.assign(text=items["text"])


# ---- the way back ---------------------------------------------------------------------------------------------------------------


def read_ratings(path: str | Path, items: pd.DataFrame, scale: list[str], question: str) -> pd.DataFrame:
    """One rater's choices, from the form's JSON or CSV or the filled-in table: choice and comment, indexed by item; items left open are not in it.

    A choice is one of the scale, or of the item's options (or its letter), NONE or NOT_STATED; case and spaces do not matter. Raises UserError with
    file, row and remedy: another form's file, an item that is not in it or occurs twice with two choices, a choice that is not offered.
    """
    path, number = Path(path), form_id(items, scale, question)
    answers = dict(zip(items["item"].astype(str), [list(scale)] * len(items) if scale else items["options"], strict=True))
    found = {}
    for where, row in rows_of(path):
        if row.get("form") and row["form"] != number:
            raise UserError(f"file {path}, {where}: it was filled in for another form ({row['form']}, not {number}). Hand back the ratings of this run's form.")
        item, typed = row["item"], row["choice"]
        if item not in answers:
            raise UserError(f"file {path}, {where}: this item is not in the form. Hand back the form's own rows, the column item unchanged.")
        if not typed:
            continue
        choice = choice_of(typed, answers[item], bool(scale))
        if choice is None:
            letters = "" if scale else f"a letter from A to {LETTERS[len(answers[item]) - 1]}, "
            raise UserError(f"file {path}, {where}: the choice is not offered there. Write {letters}{' or '.join(scale or FIXED)}, or leave it empty.")
        if found.setdefault(item, (choice, row.get("comment", "")))[0] != choice:
            raise UserError(f"file {path}, {where}: this item was rated otherwise in an earlier row. Keep one of the two.")
    if not found:
        raise UserError(f"file {path}: no item has a choice. Rate the items in the form, then export.")
    return pd.DataFrame.from_dict(found, orient="index", columns=["choice", "comment"]).rename_axis("item")


def rows_of(path: Path) -> list[tuple[str, dict]]:
    """(place in words, {item, form, choice, comment}) of each row of a file of ratings, a spreadsheet's CSV or the form's JSON."""
    if path.suffix.lower() != ".json":
        return [(f"line {line}", row) for line, row in adjudication.read_rows(path, ("item", "choice"), "the form's table", "ratings", single=3)]
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
        rows = [{name: str(row.get(name, "")).strip() for name in ("item", "choice", "comment")} | {"form": str(found.get("form", ""))} for row in found["ratings"]]
    except OSError as error:
        raise UserError(f"file {path}: cannot be read ({error.strerror}). Check ratings.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f'file {path}: not an export of the form. Press "Save as JSON" in the form again and hand back that file unchanged.') from None
    return [(f"rating {i}", row) for i, row in enumerate(rows, 1)]


def choice_of(typed: str, answers: list[str], scaled: bool) -> str | None:
    """The offered choice that a cell means, or None."""
    words = " ".join(typed.lower().replace("_", " ").split())
    offered = {" ".join(answer.lower().replace("_", " ").split()): answer for answer in ([*answers] if scaled else [*answers, *FIXED])}
    if not scaled and re.fullmatch("[a-z]", words) and words not in offered and ord(words) - ord("a") < len(answers):
        return answers[ord(words) - ord("a")]
    return offered.get(words)


# ---- agreement ------------------------------------------------------------------------------------------------------------------


def kappa(first, second, clusters, scale: list[str] | None = None, n_resamples: int = 1000, seed: int = 0) -> dict:
    """Cohen's kappa of two raters' choices (n,) of the same items: {kappa, low, high, agreement, agreement_low, agreement_high, n}, agreement in percent.

    With a `scale` its ratings have an order and kappa has quadratic weights (a step apart counts less than two). Intervals are 95 %, clusters (the
    items' patients) resampled. NaN where both raters always chose the same one thing: then nothing is left to be agreed on by chance.
    """
    first, second = np.asarray(first, dtype=object), np.asarray(second, dtype=object)
    assert len(first) == len(second) > 0, "two raters of the same items"
    names = list(scale) if scale else sorted(set(first) | set(second))
    codes = {name: i for i, name in enumerate(names)}
    a, b = (np.array([codes[choice] for choice in side]) for side in (first, second))
    steps = np.abs(np.subtract.outer(np.arange(len(names)), np.arange(len(names)))).astype(float)
    apart = steps**2 if scale else (steps > 0).astype(float)  # what a disagreement costs
    one = np.eye(len(names))
    columns = np.column_stack([apart[a, b], np.ones(len(a)), one[a], one[b]])
    cluster, count = stats.cluster_codes(clusters)
    sums = np.column_stack([np.bincount(cluster, weights=column, minlength=count) for column in columns.T])

    def statistic(sums):
        n = sums[:, 1]
        chance = np.einsum("ri,ij,rj->r", sums[:, 2 : 2 + len(names)], apart, sums[:, 2 + len(names) :]) / n  # how far apart by chance, as a sum over items
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(chance > 0, 1 - sums[:, 0] / chance, np.nan)[:, None]

    low, high = stats.limits_of_sums(sums, sums[:, 1], statistic, "percentile", n_resamples, seed)
    value = cohen_kappa_score(a, b, labels=range(len(names)), weights="quadratic" if scale else None) if len(set(a) | set(b)) > 1 else float("nan")
    same = stats.cluster_bootstrap(100.0 * (a == b), clusters, n_resamples, seed)
    return {"kappa": float(value), "low": float(low[0]), "high": float(high[0]), "agreement": float(100 * (a == b).mean()), "agreement_low": same[0], "agreement_high": same[1],
            "n": len(a)}


def consensus(items: pd.DataFrame, ratings: list[pd.DataFrame]) -> pd.DataFrame:
    """What the raters say together: item, first, second, decided ("" where nothing was chosen), agreed, consensus ("" where it is open).

    ratings: those of two raters, and of a third who decides where these two differ, if there is one. UserError for fewer than two or more than three.
    """
    if len(ratings) not in (2, 3):
        raise UserError(f"ratings: {len(ratings)} files. Give the files of two raters, and of a third who decides where they differ if there is one.")
    out = pd.DataFrame({"item": items["item"].astype(str)})
    for name, rating in zip(("first", "second", "decided"), [*ratings, pd.DataFrame({"choice": []})], strict=False):
        out[name] = out["item"].map(rating["choice"]).fillna("")
    out["agreed"] = (out["first"] == out["second"]) & (out["first"] != "")
    both = (out["first"] != "") & (out["second"] != "")
    out["consensus"] = out["first"].where(out["agreed"], out["decided"].where(both, ""))
    return out


def write_disagreements(items: pd.DataFrame, scale: list[str], question: str, together: pd.DataFrame, path: str | Path) -> int:
    """Write the items on which two raters differ, in the form's columns with both choices, for a third who decides; returns how many.

    A decision that was typed into the file at this place is kept.
    """
    path, number = Path(path), form_id(items, scale, question)
    typed = {row["item"]: row for _, row in rows_of(path) if row.get("form") == number} if path.is_file() else {}
    rows = table(items, scale, number).merge(together[["item", "first", "second"]][(together["first"] != together["second"]) & (together["first"] != "") & (together["second"] != "")], on="item")
    for name in ("choice", "comment"):
        rows[name] = [typed.get(item, {}).get(name, "") for item in rows["item"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = rows.pop("text")
    rows.assign(text=text).to_csv(path, index=False)
    return len(rows)
