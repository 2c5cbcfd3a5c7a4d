"""Finding training answers that are probably false, without knowing which are: two simple remedies against label noise, and how well they find it.

agreement: patients are halved; a linear classifier on the words of the contexts learns one half and reads the other, and an answer is dropped where it
finds another one several times as likely. small_loss: the model is tuned for a short while, and of each field the answers that it then finds least likely are
dropped: a model learns what is regular before it learns single false answers (Arpit et al. 2017, arXiv 1706.05394; Han et al. 2018, arXiv 1804.06872).
"""

import contextlib
from collections.abc import Collection

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import stats
from cancerllm_utils.modeling.baselines import fit_fields, fit_tfidf
from cancerllm_utils.modeling.nearest import seen_text
from cancerllm_utils.modeling.training_data import IGNORED
from cancerllm_utils.tasks.task import hash_order

METHODS = ("small_loss", "agreement")
WARM_UP = 0.3  # share of the training rows that the model has seen when small_loss asks it
LIKELIER = 3.0  # times as likely must another answer be; on public training reports twice took out a fifth of the right answers, five times found half as many false ones
COLUMNS = ["model", "stage", "task", "split", "field", "label_filter", "label_filter_share", "counterfactual_rate", "counterfactual_mode", "n", "corrupted", "dropped",
           "recall", "recall_low", "recall_high", "precision", "precision_low", "precision_high", "clean_dropped", "seed"]


def check(method: str, share: float, num_processes: int) -> None:
    """Raise UserError for an unknown method, a share that is none, and for small_loss in several processes, which might not agree on what to drop."""
    if method and method not in METHODS:
        raise UserError(f"label_filter {method}: unknown. Use {' or '.join(METHODS)}, or leave it empty.")
    if not 0 <= share < 1:
        raise UserError(f"label_filter_share {share}: is the share of the answers that small_loss drops. Set a number from 0 to below 1.")
    if method == "small_loss" and num_processes > 1:
        raise UserError(f"label_filter small_loss: works in one process, not in num_processes {num_processes}. Set num_processes: 1, or label_filter: agreement.")


def agreement(examples: list[dict], seed: int) -> set[str]:
    """Ids of the examples (rows of a training file) whose answer the other half of the patients speaks against.

    One classifier per task, field and variant and half, on words and word pairs of what a model sees of the note. An answer that the other half does
    not know is left alone, and so is a field of which it knows one answer only.
    """
    items = pd.DataFrame({"field": [f"{row['task']}|{row['field']}|{row['variant']}" for row in examples], "answer": [row["answers"][0] for row in examples],
                          "note_id": [row["example_id"] for row in examples], "half": [int(hash_order(seed, row["patient_id"]), 16) % 2 for row in examples]})
    texts = [seen_text(row["prompt"]) for row in examples]
    matrix, rows_of = fit_tfidf(texts).transform(texts), {row["example_id"]: place for place, row in enumerate(examples)}
    found = set()
    for half in (0, 1):
        for field, model in fit_fields(items[items["half"].ne(half)], rows_of, matrix, seed).items():
            asked = items[items["half"].eq(half) & items["field"].eq(field)]
            if isinstance(model, str) or asked.empty:
                continue
            likely = model.predict_proba(matrix[[rows_of[name] for name in asked["note_id"]]])
            own = asked["answer"].to_numpy()[:, None] == np.asarray(model.classes_)[None, :]
            given, other = np.where(own, likely, 0.0).sum(axis=1), np.where(own, 0.0, likely).max(axis=1)
            found |= set(asked["note_id"].to_numpy()[own.any(axis=1) & (other >= LIKELIER * given)])
    return found


def small_loss(losses: dict[str, float], examples: dict[str, dict], share: float) -> set[str]:
    """Ids of the `share` of each task's and field's examples with the highest loss (losses: id -> loss of the answer; equal ones by id)."""
    groups: dict[tuple, list[str]] = {}
    for name in losses:
        groups.setdefault((examples[name]["task"], examples[name]["field"]), []).append(name)
    return {name for names in groups.values() for name in sorted(names, key=lambda name: (-losses[name], name))[: int(share * len(names) + 1e-9)]}


@torch.no_grad()
def answer_losses(network, rows: list[dict], pad: int, batch_size: int = 16, autocast=contextlib.nullcontext) -> dict[str, float]:
    """example_id -> mean loss in nats of the trained tokens of each token row (training_data.example_rows); the network's mode is put back.

    autocast: a function that returns the context in which the network was trained.
    """
    was_training, losses = network.training, {}
    network.eval()
    order = sorted(rows, key=lambda row: len(row["input_ids"]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = max(len(row["input_ids"]) for row in batch)
        ids, labels = torch.full((len(batch), width), pad), torch.full((len(batch), width), IGNORED)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(batch):
            length = len(row["input_ids"])
            ids[place, :length], labels[place, :length], mask[place, :length] = torch.tensor(row["input_ids"]), torch.tensor(row["labels"]), 1
        targets = labels[:, 1:]
        keep = (targets != IGNORED).any(dim=0).nonzero().flatten().to(network.device)
        targets = targets.to(network.device)[:, keep]
        with autocast():
            logits = network(input_ids=ids.to(network.device), attention_mask=mask.to(network.device), use_cache=False, logits_to_keep=keep).logits
        each = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none").view(targets.shape)
        means = each.sum(dim=1) / (targets != IGNORED).sum(dim=1)
        losses |= dict(zip([row["example_id"] for row in batch], means.tolist(), strict=True))
    network.train(was_training)
    return losses


def report(names: list[str], examples: dict[str, dict], dropped: set[str], corrupted: Collection[str], where: dict) -> pd.DataFrame:
    """How well the filter found the corrupted ones among the examples `names`: per task and field, for all fields of a task, and for all tasks (COLUMNS).

    where: the values of model, stage, label_filter, label_filter_share, counterfactual_rate, counterfactual_mode and seed. recall: share of the corrupted
    answers that were dropped; precision: share of the dropped ones that were corrupted; clean_dropped: share of the right answers that were lost; all in
    percent with 95 % limits over patients, empty where there is nothing to count (at rate 0 only clean_dropped is left: what the filter costs).
    """
    corrupted = set(corrupted)
    table = pd.DataFrame({"task": [examples[name]["task"] for name in names], "field": [examples[name]["field"] for name in names],
                          "patient": [examples[name]["patient_id"] for name in names], "hit": [name in corrupted for name in names], "out": [name in dropped for name in names]})
    rows = []
    for task, of_task in [("all", table), *table.groupby("task", sort=False)]:
        for field, part in [("all", of_task), *(of_task.groupby("field", sort=False) if task != "all" else ())]:
            row = where | {"task": task, "split": "train", "field": field, "n": len(part), "corrupted": part["hit"].sum(), "dropped": part["out"].sum()}
            clean = part[~part["hit"]]
            row["clean_dropped"] = 100 * clean["out"].mean() if len(clean) else None
            for name, of, counted in (("recall", part[part["hit"]], "out"), ("precision", part[part["out"]], "hit")):
                if len(of) and part["hit"].any():
                    low, high = stats.cluster_bootstrap(of[counted].to_numpy(float), of["patient"].to_numpy())
                    row |= {name: 100 * of[counted].mean(), f"{name}_low": 100 * low, f"{name}_high": 100 * high}
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def sentences(found: pd.DataFrame) -> list[str]:
    """One sentence about each report: what was dropped, how much of it was corrupted, and what it cost."""
    out = []
    for row in found[found["task"].eq("all")].itertuples():
        text = f"{row.label_filter} took out {row.dropped:,} of {row.n:,} training answers"
        if row.corrupted and row.dropped:
            text += (f". Of the {row.corrupted:,} corrupted ones it found {row.recall:.0f} % ({row.recall_low:.0f} to {row.recall_high:.0f}); of what it took out "
                     f"{row.precision:.0f} % ({row.precision_low:.0f} to {row.precision_high:.0f}) was corrupted, where taking out at random would give {100 * row.corrupted / row.n:.0f} %")
        out.append(f"{text}. Of the right answers {row.clean_dropped:.0f} % were lost.")
    return out
