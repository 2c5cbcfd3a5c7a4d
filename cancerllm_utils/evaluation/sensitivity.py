"""What the choice of a metric does to a headline: every usual way to compute exact match, BLEU-2 and ROUGE on the same answers.

"BLEU-2" or "ROUGE-L" in a paper is a name for several formulas that differ by tokenisation, stemming and smoothing. A correct one-word answer scores
0, 0.001, 0.32, 0.58, 0.71 or 1 in BLEU-2, and ROUGE tokenisers that drop signs call "ER+" and "ER-" equal. The tables here show by how much.
"""

import re
import warnings
from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from cancerllm_utils.evaluation import metrics
from cancerllm_utils.results import headline, main_split, model_name, signed, task_name

SMOOTHING = SmoothingFunction()
ARTICLES = re.compile(r"\b(?:a|an|the)\b")
NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")
COLUMNS = ["metric", "choice", "points", "minus paper", "average with it"]


# ---- words -------------------------------------------------------------------------------------------------------------------


def plain_words(text: str) -> tuple[str, ...]:
    """The paper's words without its stemmer."""
    return tuple(text.lower().translate(metrics.DELETE_PUNCTUATION).split())


def squad_words(text: str) -> tuple[str, ...]:
    """SQuAD's words: lower case, punctuation and articles deleted."""
    return tuple(ARTICLES.sub(" ", text.lower().translate(metrics.DELETE_PUNCTUATION)).split())


def rouge_words(text: str) -> tuple[str, ...]:
    """Words of the rouge_score library: lower case, everything but a-z and 0-9 separates, so that signs, points and accents are lost."""
    return tuple(NOT_ALPHANUMERIC.sub(" ", text.lower()).split())


def raw_words(text: str) -> tuple[str, ...]:
    """The text as it is, cut at white space."""
    return tuple(text.split())


def rouge_stems(text: str) -> tuple[str, ...]:
    """As rouge_words with use_stemmer=True: words of more than three letters stemmed."""
    return tuple(metrics._stem(word) if len(word) > 3 else word for word in rouge_words(text))


# ---- similarities ------------------------------------------------------------------------------------------------------------


def nltk_bleu2(gold: tuple, predicted: tuple, smoothing) -> float:
    """nltk's sentence BLEU-2; its smoothing methods cover those of sacrebleu ("floor" is method 1, "add-k" is method 2, "exp" is method 3)."""
    with warnings.catch_warnings():  # without smoothing it warns at every answer that shares no pair of words
        warnings.simplefilter("ignore")
        score = sentence_bleu([gold], predicted, weights=(0.5, 0.5), smoothing_function=smoothing)
    return float(score) if score > 1e-9 else 0.0


def effective_bleu2(gold: tuple, predicted: tuple) -> float:
    """sacrebleu's effective order with its "exp" smoothing: orders beyond the predicted answer's length do not count."""
    order = min(2, len(predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(sentence_bleu([gold], predicted, weights=(1 / order,) * order, smoothing_function=SMOOTHING.method3))


rouge_l_f1 = partial(metrics.rouge_l, beta=1.0)

# (metric, what a reader is told, words, similarity, items of a prediction). The first of each metric is the paper's.
CHOICES = [
    ("exact_match", "paper: no punctuation, stems", metrics.paper_words, metrics.exact_match, metrics.split_paper),
    ("exact_match", "clinical: points, signs and units count", metrics.clinical_words, metrics.exact_match, metrics.split_clinical),
    ("exact_match", "no punctuation, no stems", plain_words, metrics.exact_match, metrics.split_paper),
    ("exact_match", "SQuAD: no punctuation, no articles", squad_words, metrics.exact_match, metrics.split_paper),
    ("exact_match", "the very string", raw_words, metrics.exact_match, metrics.split_paper),
    ("bleu2", "paper: coco-caption, not smoothed", metrics.paper_words, metrics.paper_bleu2, metrics.split_paper),
    ("bleu2", "clinical: order of the answer's length", metrics.clinical_words, metrics.clinical_bleu2, metrics.split_clinical),
    ("bleu2", "nltk, not smoothed", metrics.paper_words, partial(nltk_bleu2, smoothing=SMOOTHING.method0), metrics.split_paper),
    ("bleu2", "nltk method 1 (sacrebleu floor 0.1)", metrics.paper_words, partial(nltk_bleu2, smoothing=SMOOTHING.method1), metrics.split_paper),
    ("bleu2", "nltk method 2 (sacrebleu add 1)", metrics.paper_words, partial(nltk_bleu2, smoothing=SMOOTHING.method2), metrics.split_paper),
    ("bleu2", "nltk method 3 (sacrebleu exp)", metrics.paper_words, partial(nltk_bleu2, smoothing=SMOOTHING.method3), metrics.split_paper),
    ("bleu2", "sacrebleu effective order", metrics.paper_words, effective_bleu2, metrics.split_paper),
    ("rougeL", "paper: beta 1.2, stems", metrics.paper_words, metrics.rouge_l, metrics.split_paper),
    ("rougeL", "clinical: beta 1.2, points and signs count", metrics.clinical_words, metrics.rouge_l, metrics.split_clinical),
    ("rougeL", "beta 1, stems", metrics.paper_words, rouge_l_f1, metrics.split_paper),
    ("rougeL", "rouge_score: a-z and 0-9 only", rouge_words, rouge_l_f1, metrics.split_paper),
    ("rougeL", "rouge_score with its stemmer", rouge_stems, rouge_l_f1, metrics.split_paper),
    ("rouge1", "paper's words", metrics.paper_words, metrics.rouge_1, metrics.split_paper),
    ("rouge1", "clinical words", metrics.clinical_words, metrics.rouge_1, metrics.split_clinical),
    ("rouge1", "rouge_score: a-z and 0-9 only", rouge_words, metrics.rouge_1, metrics.split_paper),
]


@lru_cache(maxsize=2**16)  # systems give the same answers to the same questions
def _f1(answers: tuple, prediction: str, words, similarity, split) -> float:
    """F1 of the best matches, as the metric families compute it, for one way to read words and to compare them."""
    gold, predicted = [words(answer) for answer in answers], [words(piece) for piece in split(prediction)]
    if not gold or not predicted:
        return float(not gold and not predicted)
    table = [[similarity(g, p) if g and p else float(g == p) for p in predicted] for g in gold]
    precision, recall = sum(map(max, zip(*table))) / len(predicted), sum(map(max, table)) / len(gold)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def metrics_sensitivity(pairs: Iterable) -> pd.DataFrame:
    """Mean F1 of (answers, prediction) pairs under every choice, in points: columns COLUMNS.

    "average with it": the paper's headline (mean of exact match, BLEU-2 and ROUGE-L) had this one metric been computed in this way; empty
    for ROUGE-1, which the headline does not hold. Pairs that repeat are computed once.
    """
    counts = pd.Series([(tuple(answers), prediction) for answers, prediction in pairs], dtype=object).value_counts(sort=False)
    if counts.empty:
        return pd.DataFrame(columns=COLUMNS)
    points = [100 * float(np.average([_f1(*pair, *how) for pair in counts.index], weights=counts.to_numpy())) for _, _, *how in CHOICES]
    paper = {metric: value for (metric, *_), value in reversed(list(zip(CHOICES, points)))}
    headline = sum(paper[metric] for metric in metrics.AVERAGED) / len(metrics.AVERAGED)
    rows = []
    for (metric, choice, *_), value in zip(CHOICES, points):
        changed = value - paper[metric]
        rows.append([metric, choice, value, changed, headline + changed / len(metrics.AVERAGED) if metric in metrics.AVERAGED else np.nan])
    return pd.DataFrame(rows, columns=COLUMNS)


def order_of_systems(pairs_of: dict) -> pd.DataFrame:
    """Does the choice change who is ahead? system -> pairs; one row per choice of an averaged metric: metric, choice, one column of headline points
    per system, and `order`: the systems from best to worst under it."""
    tables = {system: metrics_sensitivity(pairs).dropna(subset="average with it") for system, pairs in pairs_of.items()}
    first = next(iter(tables.values()))
    wide = pd.DataFrame({"metric": first["metric"], "choice": first["choice"], **{system: table["average with it"] for system, table in tables.items()}})
    wide["order"] = [" > ".join(row.sort_values(ascending=False, kind="stable").index) for _, row in wide[list(tables)].iterrows()]
    return wide.reset_index(drop=True)


def run_pairs(run_dir: str | Path, model: str, stage: str, task: str, split: str) -> list[tuple]:
    """(answers, prediction) behind a headline as they are scored: the parsed answer, or what the model wrote where nothing could be read; of extraction the headline items."""
    from cancerllm_utils.evaluation.score import read_rows

    path = Path(run_dir) / "datasets" / task / f"{split.partition('+')[0]}.jsonl"
    kept = {row["example_id"] for _, row in read_rows(path) if row.get("headline") or task != "phenotype_extraction"}
    rows = read_rows(Path(run_dir) / "predictions" / model / stage / f"{task}.{split}.jsonl")
    return [(row["answers"], row["prediction"] if row["parsed"] == metrics.UNPARSED else row["parsed"]) for _, row in rows if row["example_id"] in kept]


def headline_choices(run_dir: str | Path, scores: pd.DataFrame) -> pd.DataFrame:
    """Every headline of the main test set under every choice: model, stage, task, split, and COLUMNS of metrics_sensitivity. Writes results/metric_choices.csv."""
    from cancerllm_utils.evaluation.score import write_whole

    tables = []
    for row in headline(scores, splits=[main_split(scores)]).itertuples():
        table = metrics_sensitivity(run_pairs(run_dir, row.model, row.stage, row.task, row.split))
        tables.append(table.assign(model=row.model, stage=row.stage, task=row.task, split=row.split))
    keys = ["model", "stage", "task", "split"]
    found = pd.concat(tables, ignore_index=True)[[*keys, *COLUMNS]] if tables else pd.DataFrame(columns=[*keys, *COLUMNS])
    write_whole(Path(run_dir) / "results" / "metric_choices.csv", lambda file: found.to_csv(file, index=False, float_format="%.6f"))
    return found


def choices_table(choices: pd.DataFrame, systems: list[tuple[str, str]]) -> pd.DataFrame:
    """headline_choices for a reader: one row per choice of an averaged metric; per task the headline of each of `systems` had it been computed so, in
    brackets what the choice changed, and which system would lead."""
    rows, out = choices.dropna(subset=["average with it"]), []
    for (metric, choice), part in rows.groupby(["metric", "choice"], sort=False):
        line = {"metric": metric, "choice": choice}
        for task, of_task in part.groupby("task", sort=False):
            by_system = of_task.set_index(["model", "stage"])
            for system in [system for system in systems if system in by_system.index]:
                points, changed = by_system.loc[system, "average with it"], by_system.loc[system, "minus paper"] / len(metrics.AVERAGED)
                line[f"{task_name(task)}: {model_name(*system)}"] = f"{points:.1f} ({signed(changed)})"
            line[f"ahead in {task_name(task).lower()}"] = model_name(*by_system["average with it"].idxmax())
        out.append(line)
    return pd.DataFrame(out)


def disagreements(pairs: Iterable | None = None, at_least: float = 1.0) -> pd.DataFrame:
    """Distinct pairs whose average F1 differs between the families by `at_least` points, largest first: gold, prediction, paper, clinical, times, why.

    Without pairs, the invented ones of metrics.yaml with the reason of each. Pairs hold text of notes: show those of the synthetic cohort only.
    """
    if pairs is None:
        examples = metrics.SETTINGS["disagreements"]
        counts = {((row["gold"],), row["prediction"]): (1, row["why"]) for row in examples}
    else:
        found = pd.Series([(tuple(answers), prediction) for answers, prediction in pairs], dtype=object).value_counts(sort=False)
        counts = {pair: (int(times), "") for pair, times in found.items()}
    table = 100 * metrics.score_pairs(counts, (("paper", "average"), ("clinical", "average")))[:, :, 2]
    rows = [["; ".join(gold), prediction, *scores, times, why] for ((gold, prediction), (times, why)), scores in zip(counts.items(), table.tolist())]
    frame = pd.DataFrame(rows, columns=["gold", "prediction", "paper", "clinical", "times", "why"])
    gap = (frame["paper"] - frame["clinical"]).abs()
    return frame.assign(gap=gap)[gap >= at_least].sort_values("gap", ascending=False, kind="stable").drop(columns="gap").reset_index(drop=True).round(4)
