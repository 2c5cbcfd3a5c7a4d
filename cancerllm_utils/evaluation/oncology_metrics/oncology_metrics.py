"""The project's metrics as a module of Hugging Face `evaluate`; loads from this folder without a network. See README.md beside this file."""
# ruff: noqa: I001  one import per line: `evaluate` reads them as text

import datasets
import evaluate
import numpy as np

from cancerllm_utils.evaluation import classes
from cancerllm_utils.evaluation import metrics

PAIR_METRICS = {f"{family}_{name}": (family, name) for family in metrics.METRICS for name in (*metrics.METRICS[family], "average")}
EIGHT = [f"{family}_{name}" for family in ("paper", "clinical") for name in (*metrics.AVERAGED, "average")]
VALUE_METRICS = ["value_accuracy", "false_answer", "miss"]
KAPPAS = {f"quadratic_kappa_{field}": order for field, order in metrics.ORDERED_FIELDS.items()}
CONFIG_NAMES = ["default", *PAIR_METRICS, *VALUE_METRICS, "accuracy", "macro_f1", *KAPPAS]

DESCRIPTION = """Scores of short answers from oncology notes. Family `paper` is the evaluator of OpenPI as CancerLLM uses it; family `clinical` keeps
decimal points, signs and units. Precision, recall and F1 are means over examples, in points (0-100). config_name picks the metric: """ + ", ".join(CONFIG_NAMES)

CITATION = """@article{li2024cancerllm, title={CancerLLM: A Large Language Model in Cancer Domain}, journal={arXiv:2406.10459}, year={2024}}"""


class OncologyMetrics(evaluate.Metric):
    def _info(self):
        if self.config_name not in CONFIG_NAMES:
            raise ValueError(f"config_name {self.config_name!r}: no such metric. Choose one of {', '.join(CONFIG_NAMES)}.")
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation=CITATION, inputs_description="predictions: list of str; references: list of lists of str, or list of str",
            features=[datasets.Features({"predictions": text, "references": datasets.Sequence(text)}), datasets.Features({"predictions": text, "references": text})],
        )  # fmt: skip

    def _compute(self, predictions, references):
        answers = [[reference] if isinstance(reference, str) else list(reference) for reference in references]
        if self.config_name == "default" or self.config_name in PAIR_METRICS:
            return pair_scores(answers, predictions, EIGHT if self.config_name == "default" else [self.config_name])
        if self.config_name in VALUE_METRICS:
            return {self.config_name: value_score(answers, predictions, self.config_name)}
        if self.config_name == "accuracy":  # the same, under the name that most people look for
            return {"accuracy": value_score(answers, predictions, "value_accuracy")}
        gold = ["; ".join(items) for items in answers]
        each = np.arange(len(gold))  # this interface knows no patients: intervals come from `cancerllm score` and notebook 06
        if self.config_name == "macro_f1":
            return {"macro_f1": 100 * classes.macro_f1(gold, predictions, each, n_resamples=1)[0]}
        found = classes.quadratic_kappa(gold, predictions, each, KAPPAS[self.config_name], n_resamples=1)
        return {self.config_name: found["kappa"], "answered": 100 * found["answered"]}


def pair_scores(answers, predictions, names) -> dict:
    """name -> F1, name_precision, name_recall, in points."""
    table = 100 * metrics.score_pairs(zip(answers, predictions), tuple(PAIR_METRICS[name] for name in names)).mean(axis=0)
    scores = {}
    for name, (precision, recall, f1) in zip(names, table.tolist()):
        scores |= {name: f1, f"{name}_precision": precision, f"{name}_recall": recall}
    return scores


def value_score(answers, predictions, name) -> float:
    """Share in percent among the examples to which the question applies; NaN where it applies to none."""
    values = [metrics.value_scores(items, prediction)[name] for items, prediction in zip(answers, predictions)]
    values = [value for value in values if value is not None]
    return 100 * float(np.mean(values)) if values else float("nan")
