"""Counterfactual labels: a share of the training answers replaced by another value of the same field, to see what false labels teach a model.

Only answers that the text states are replaced, since only there it is known for certain what would have been right; "not stated" items and items
that the text does not settle stay as they are. Prompts, development and test items are never touched (PAPER.md, "Robustness": the paper's
counterfactual testbed; 80 % is the only rate it names).
"""

import itertools
from collections import Counter
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from ..errors import UserError
from .task import NOT_STATED, hash_order

MODES = ("random", "confusable")
COLUMNS = ["example_id", "patient_id", "task", "field", "old", "new", "how"]
FILE = "corrupted.csv"  # in a tuned stage's folder: COLUMNS, and whether the item was trained on (read_corrupted)


def check(rate: float, mode: str) -> None:
    """Raise UserError for a rate outside of 0 to 1 or an unknown mode."""
    if not 0 <= rate <= 1:
        raise UserError(f"counterfactual_rate {rate}: is a share of the answers. Set a number from 0 to 1.")
    if mode not in MODES:
        raise UserError(f"counterfactual_mode {mode}: unknown. Use {' or '.join(MODES)}.")


def may_be_corrupted(row: dict) -> bool:
    """Whether the text states the row's answer, so that the truth is known."""
    return row["evidence"] == "stated" and row["answers"][0] != NOT_STATED


def known_values(rows: list[dict]) -> dict[tuple[str, str], dict[str, Counter]]:
    """(task, field) -> {answer: how often in each kind of cancer}, of the answers that may be corrupted: what false answers are drawn from."""
    known: dict[tuple[str, str], dict[str, Counter]] = {}
    for row in filter(may_be_corrupted, rows):
        known.setdefault((row["task"], row["field"]), {}).setdefault(row["answers"][0], Counter())[row["cancer_type"]] += 1
    return known


def corrupt(rows: list[dict], rate: float, mode: str = "random", seed: int = 42, known: dict | None = None) -> tuple[list[dict], pd.DataFrame]:
    """Training rows with about a share `rate` of the stated answers replaced, and the table of what was replaced (COLUMNS; one row per item).

    random: another value of the same field, as often as training patients have it. confusable: one of those that the value is mistaken for
    (counterfactual.yaml), and random where the field names none that training knows; `how` says which it was. A field with a single value keeps it.
    Whether an item is hit, and what it becomes, depends on seed and example_id alone: what is hit at one rate is hit at every higher one, with the
    same false answer. known: known_values of the training file, where `rows` are not all of it. Rows are not changed in place.
    Raises UserError for a rate outside of 0 to 1 or an unknown mode.
    """
    check(rate, mode)
    known = known_values(rows) if known is None else known
    changed, table = [], []
    for row in rows:
        if not (may_be_corrupted(row) and chance(seed, f"hit {row['example_id']}") < rate):
            changed.append(row)
            continue
        old, values = row["answers"][0], known.get((row["task"], row["field"]), {})
        others = {value: counts.total() for value, counts in values.items() if value != old}
        near = {value: others[value] for value in neighbours(row["field"], old, values, row["cancer_type"])} if mode == "confusable" else {}
        new = draw(near or others, chance(seed, f"answer {row['example_id']}")) if others else old
        if new != old:
            row = row | {"answers": [new], "completion": new}
            table.append({"example_id": row["example_id"], "patient_id": row["patient_id"], "task": row["task"], "field": row["field"], "old": old, "new": new,
                          "how": "confusable" if near else "random"})
        changed.append(row)
    return changed, pd.DataFrame(table, columns=COLUMNS)


def read_corrupted(stage_dir: Path) -> pd.DataFrame:
    """The stage's corrupted.csv: COLUMNS as text and trained (bool); no row where its answers were left as they are."""
    path = Path(stage_dir) / FILE
    if not path.is_file():
        return pd.DataFrame(columns=[*COLUMNS, "trained"])
    return pd.read_csv(path, dtype=dict.fromkeys(COLUMNS, str), keep_default_na=False)  # a Gleason score is text, and so is the answer "none"


def suffix(rate: float, mode: str = "random") -> str:
    """What ends the name of a stage that learned such answers: cf40, cfnear40; "" at rate 0."""
    return f"cf{'near' if mode == 'confusable' else ''}{round(100 * rate)}" if rate else ""


def chance(seed: int, key: str) -> float:
    """A number from 0 to 1, by hash: the same on every machine, whatever the order of the rows."""
    return int(hash_order(seed, key), 16) / 2**64


def draw(weights: dict[str, int], at: float) -> str:
    """The value at the share `at` of the weights' sum, values in the order of their names."""
    reach = at * sum(weights.values())
    for value in sorted(weights):
        reach -= weights[value]
        if reach < 0:
            return value
    return max(weights)  # rounding


@cache
def _mistaken() -> dict[str, dict]:
    """counterfactual.yaml as field -> {swaps: {answer or word: set of others}, families, same_cancer}; steps are swaps with both sides."""
    fields = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))["fields"]
    found = {}
    for field, how in fields.items():
        swaps = {value: set(others) for value, others in how.get("swaps", {}).items()}
        for steps in how.get("steps", []):
            for low, high in itertools.pairwise(steps):
                swaps.setdefault(low, set()).add(high)
                swaps.setdefault(high, set()).add(low)
        found[field] = {"swaps": swaps, "families": how.get("families", []), "same_cancer": how.get("same_cancer", False)}
    return found


def neighbours(field: str, answer: str, known: dict[str, Counter], cancer_type: str = "") -> list[str]:
    """The answers of `known` (answer -> count per kind of cancer) that `answer` is mistaken for, sorted; [] where the field has no neighbours."""
    how = _mistaken().get(field, {"swaps": {}, "families": [], "same_cancer": False})
    words, histology, organ = answer.split(" "), *answer.partition(" of the ")[::2]
    found = set(how["swaps"].get(answer, ()))
    if answer not in how["swaps"]:
        found |= {" ".join([*words[:place], other, *words[place + 1 :]]) for place, word in enumerate(words) for other in how["swaps"].get(word, ())}
    for family in (family for family in how["families"] if histology in family):
        found |= {f"{other} of the {organ}" if organ else other for other in family}
    if how["same_cancer"]:
        found |= {value for value, counts in known.items() if counts[cancer_type]}
    return sorted((found & set(known)) - {answer})
