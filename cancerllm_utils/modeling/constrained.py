"""Constrained decoding of closed fields: the answer is one of the allowed values, ranked by likelihood, with a correction that development patients chose.

The likelihood of a whole answer favours short answers and those that the model likes to give whatever the note says ("surface form competition").
Known corrections: likelihood per token; less the likelihood after a text without content, which is domain-conditional PMI (Holtzman et al. 2021, EMNLP,
https://aclanthology.org/2021.emnlp-main.564) and, averaged over several such texts, contextual calibration (Zhao et al. 2021, ICML,
https://proceedings.mlr.press/v139/zhao21c.html); less the mean probability over many notes, which is batch calibration (Zhou et al. 2024, ICLR,
https://arxiv.org/abs/2309.17249). What they gain is measured against greedy answers to the same prompts, paired by patient, on development patients alone.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import log_softmax, logsumexp

from cancerllm_utils.evaluation import stats
from cancerllm_utils.evaluation.metrics import value_scores
from cancerllm_utils.tasks.parse import parse
from cancerllm_utils.tasks.task import NOT_STATED, UNPARSED, build_prompt, hash_order, load_task

# Texts without content: nothing, the usual abbreviation, and a sentence that says so.
EMPTY_TEXTS = ("", "N/A", "No text.")
# name: (what is taken off the log-probability of a value, power of its number of tokens by which the rest is divided), simplest first: ties go there
CORRECTIONS = {"likelihood": ("nothing", 0.0), "length": ("nothing", 1.0), "prior": ("empty text", 0.0), "prior and length": ("empty text", 1.0), "mean answer": ("mean answer", 0.0)}
FOLDS = 5
COLUMNS = ["model", "stage", "task", "split", "decoding", "chosen", "value_accuracy", "low", "high", "difference", "difference_low", "difference_high", "false_answer", "miss",
           "unparsed", "n", "patients"]


def sampled(examples: list[dict], values: dict[str, list[str]], max_items: int, seed: int) -> list[dict]:
    """At most `max_items` examples of closed fields, taken by the hash of their ids: the same for every model."""
    closed = [example for example in examples if values.get(example["field"])]
    return sorted(closed, key=lambda example: hash_order(seed, example["example_id"]))[:max_items]


def empty_examples(task: str, fields: list[str]) -> list[dict]:
    """The question of every field after each of EMPTY_TEXTS: dicts with field and prompt, as data sets store it."""
    return [{"field": field, "prompt": build_prompt(load_task(task), field, text)} for field in fields for text in EMPTY_TEXTS]


def priors(examples: list[dict], ranked: list[dict], empty: list[dict], ranked_empty: list[dict]) -> dict[str, dict[str, list[float]]]:
    """{field: {what: one number per value, in nats}} that a correction takes off; ranked: what decoding.rank_batch says of each example."""
    found = {}
    for field in dict.fromkeys(example["field"] for example in examples):
        notes = np.array([answer["log_probs"] for example, answer in zip(examples, ranked, strict=True) if example["field"] == field])
        nothing = np.array([answer["log_probs"] for example, answer in zip(empty, ranked_empty, strict=True) if example["field"] == field])
        found[field] = {"nothing": [0.0] * notes.shape[1], "empty text": (logsumexp(nothing, axis=0) - np.log(len(nothing))).tolist(),
                        "mean answer": (logsumexp(log_softmax(notes, axis=1), axis=0) - np.log(len(notes))).tolist()}
    return found


def corrected(answer: dict, candidates: list[str], correction: dict | None) -> dict:
    """The answer of decoding.rank_batch with the value that is best after a correction ({prior: one number per candidate, length: power}); as it is
    where there is none, for a field of which no development question is left."""
    if correction is None:
        return answer
    tokens = np.array(answer["candidate_tokens"])
    scores = (np.array(answer["log_probs"]) - correction["prior"]) / tokens ** correction["length"]
    best = int(np.argmax(scores))
    return {**answer, "prediction": candidates[best], "new_tokens": int(tokens[best]), "logprob": round(answer["log_probs"][best], 6),
            "confidence": round(float(np.exp(log_softmax(scores)[best])), 6)}


def correction_of(name: str, field_priors: dict[str, list[float]]) -> dict:
    """One of CORRECTIONS for a field: {name, prior, length}."""
    what, power = CORRECTIONS[name]
    return {"name": name, "prior": field_priors[what], "length": power}


def study(task: str, examples: list[dict], values: dict[str, list[str]], greedy: list[dict], ranked: list[dict], empty: list[dict], ranked_empty: list[dict],
          n_resamples: int = 1000, seed: int = 0) -> tuple[pd.DataFrame, dict[str, dict]]:
    """What each correction gains over greedy answers on the same examples, and the correction of each field ({name, prior, length}) that did best.

    examples: of one task (example_id, patient_id, field, answers); greedy and ranked: their answers. The table has one row per decoding (COLUMNS from
    `decoding` on; points, 95 % intervals over patients, difference to greedy). Its row `constrained` is what a choice gives on patients that did not take
    part in it (FOLDS parts): the best of several on the same patients would flatter itself.
    """
    fields, known = [example["field"] for example in examples], priors(examples, ranked, empty, ranked_empty)
    chosen_by = {name: [corrected(answer, values[field], correction_of(name, known[field]))["prediction"] for answer, field in zip(ranked, fields, strict=True)]
                 for name in CORRECTIONS}
    texts = {"greedy": [answer["prediction"] for answer in greedy], **chosen_by}
    scored = {name: scores_of(task, examples, values, answers) for name, answers in texts.items()}
    patients = np.array([example["patient_id"] for example in examples])
    fold = np.array([int(hash_order(seed, patient), 16) % FOLDS for patient in patients])
    mixed = scored["likelihood"].copy()
    for part in set(fold):
        here, others = fold == part, fold != part
        mixed[here] = scored[best_of(scored, others if others.any() else here)][here]
    scored["constrained"], best, rows = mixed, best_of(scored, np.full(len(examples), True)), []
    for name, table in scored.items():
        low, high = stats.cluster_bootstrap(table["value_accuracy"], patients, n_resamples, seed)
        gain = stats.paired_difference(table["value_accuracy"], scored["greedy"]["value_accuracy"], patients, n_resamples, seed)
        rows.append({"decoding": name, "chosen": name == best, "value_accuracy": table["value_accuracy"].mean(), "low": low, "high": high, "difference": gain["difference"],
                     "difference_low": gain["low"], "difference_high": gain["high"], "false_answer": table["false_answer"].mean(), "miss": table["miss"].mean(),
                     "unparsed": int(table["unparsed"].sum()), "n": len(table), "patients": len(set(patients))})
    return pd.DataFrame(rows), {field: correction_of(best, known[field]) for field in known}


def scores_of(task: str, examples: list[dict], values: dict[str, list[str]], answers: list[str]) -> pd.DataFrame:
    """One row per example: value_accuracy, false_answer, miss (points, NaN where the question does not arise), unparsed (0 or 1)."""
    rows = []
    for example, answer in zip(examples, answers, strict=True):
        parsed = parse(answer, task, example["field"], [value for value in values[example["field"]] if value != NOT_STATED])
        rows.append({name: None if score is None else 100 * score for name, score in value_scores(example["answers"], parsed).items()} | {"unparsed": float(parsed == UNPARSED)})
    return pd.DataFrame(rows, dtype=float)


def best_of(scored: dict[str, pd.DataFrame], which: np.ndarray) -> str:
    """The correction with the most right answers on some of the examples; of equals the simplest."""
    return max(CORRECTIONS, key=lambda name: scored[name].loc[which, "value_accuracy"].mean())


def read_table(run_dir, model: str) -> pd.DataFrame:
    """The rows of one model in results/constrained.csv (COLUMNS); none where nothing was compared."""
    file = Path(run_dir) / "results" / "constrained.csv"
    table = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=COLUMNS)
    return table[table["model"] == model].reset_index(drop=True)


def sentences(table: pd.DataFrame) -> list[str]:
    """One sentence per model, stage and task: what constraining gives on development patients, with its interval, and which correction was chosen."""
    out = []
    for (model, stage, task), part in table.groupby(["model", "stage", "task"], sort=False):
        rows = part.set_index("decoding")
        own, best = rows.loc["constrained"], rows.index[rows["chosen"].astype(bool)][0]
        verdict = "better than" if own["difference_low"] > 0 else "worse than" if own["difference_high"] < 0 else "not to be told from"
        out.append(f"{model}, {stage}, {task}: constrained answers are right in {own['value_accuracy']:.1f} of 100 closed questions, {verdict} greedy ones "
                   f"({rows.loc['greedy', 'value_accuracy']:.1f}; difference {own['difference']:+.1f}, 95 % interval {own['difference_low']:+.1f} to {own['difference_high']:+.1f}, "
                   f"n = {int(own['n'])} of {int(own['patients'])} development patients). Correction chosen: {best}.")
    return out or ["No closed question was compared."]
