"""Loss on texts that a stage was not trained on, before, during and after: notes of other patients, and general text for forgetting.

Rows of results/cpt.csv: model, stage, when (before | during | after), step, split, subgroup, loss (nats per token), bits_per_byte, tokens,
n_notes, and in the rows `after` the change of the loss since `before` with its 95 % interval (change, change_low, change_high).
"""

import time

import numpy as np
import pandas as pd
from transformers import TrainerCallback

from cancerllm_utils.evaluation import stats
from cancerllm_utils.modeling import launch, machine, training_data
from cancerllm_utils.modeling.general_text import NAMES
from cancerllm_utils.modeling.perplexity import mean_loss, text_losses
from cancerllm_utils.results import CPT_COLUMNS

POOLED = "held out"  # `split` of the rows per cancer type: the notes of all measured rings together, or hardly a type would have enough
MIN_NOTES, MIN_TOKENS = 5, 2000  # a cancer type with fewer is not shown: its loss would say more about single notes


def sampled_notes(notes, splits: list[str], tokenizer, max_tokens: int, seed: int) -> dict[str, pd.DataFrame]:
    """{ring: table (text, group, cancer_type)} of about `max_tokens` tokens of each ring that has notes; group is the patient."""
    found = {}
    for split in splits:
        ring = training_data.of_split(notes, split)
        if len(ring):
            chosen = ring.select(training_data.sample(ring["text"], tokenizer, max_tokens, seed))
            found[split] = pd.DataFrame({"text": chosen["text"], "group": chosen["patient_id"], "cancer_type": chosen["cancer_type"]})
    return found


def sampled_general(tables: dict[str, pd.DataFrame], tokenizer, max_tokens: int, seed: int) -> dict[str, pd.DataFrame]:
    """The same for general texts (general_text.general_texts)."""
    return {name: table.iloc[training_data.sample(table["text"].tolist(), tokenizer, max_tokens, seed)].reset_index(drop=True) for name, table in tables.items()}


def measure(model, tokenizer, held_out: dict[str, pd.DataFrame], max_length: int, label: str) -> dict[str, dict]:
    """{name: losses per text}, a printed line per name. Of several processes only the main one measures, unless each holds a part of the weights."""
    if not (launch.main_process() or machine.sharded()):
        return {}
    found = {}
    for name, table in held_out.items():
        found[name] = text_losses(model, tokenizer, table["text"].tolist(), max_length)
        mean = mean_loss(found[name])
        print(f"{label}: {name} loss {mean['loss']:.3f}, {mean['bits_per_byte']:.3f} bits per byte ({mean['n']} texts, {mean['tokens']:,} tokens)", flush=True)
    return found


class MeasureDuring(TrainerCallback):
    """Measures a small fixed sample wherever a checkpoint is about to be saved; `small` is {name: table}.

    The numbers are put into the Trainer's own history, which every checkpoint holds, so that a resumed run has them all, each once.
    """

    def __init__(self, small: dict[str, pd.DataFrame], tokenizer, max_length: int):
        self.small, self.tokenizer, self.max_length = small, tokenizer, max_length

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % state.save_steps == 0 and state.global_step < state.max_steps:  # the end is measured on the whole sample
            begun = time.monotonic()
            found = measure(model, self.tokenizer, self.small, self.max_length, f"step {state.global_step}")
            spent = (time.monotonic() - begun) / max(1, len(found))
            state.log_history += [{"step": state.global_step, "held_out": name, "seconds": spent, **mean_loss(losses)} for name, losses in found.items()]


def small_samples(held_out: dict[str, pd.DataFrame], before: dict[str, dict], max_tokens: int) -> dict[str, pd.DataFrame]:
    """The first texts of each sample, about `max_tokens` tokens: what is measured during training (0: nothing)."""
    if not max_tokens:
        return {}
    return {name: held_out[name].iloc[: n_first(losses, max_tokens)] for name, losses in before.items()}


def n_first(losses: dict, max_tokens: int) -> int:
    """How many of the first texts hold about `max_tokens` tokens, at least one."""
    return max(1, int(np.searchsorted(np.cumsum(losses["tokens"]), max_tokens, side="right")))


def score_table(model: str, stage: str, held_out: dict, before: dict, after: dict, history: list[dict], steps: int, during_tokens: int, watched: list[str]) -> pd.DataFrame:
    """All rows of a stage (CPT_COLUMNS). `history` is the Trainer's, `before` and `after` are what `measure` returned.

    The rows `during` are of the small sample of the `watched` names; at the first and last step they are computed from the losses of the whole one.
    Cancer types with too few notes or tokens are left out, and a line says how many.
    """
    rows = []
    for name in before:
        rows.append({"when": "before", "step": 0, "split": name, "subgroup": "all", **mean_loss(before[name])})
        if during_tokens and name in watched:
            first = slice(n_first(before[name], during_tokens))
            rows.append({"when": "during", "step": 0, "split": name, "subgroup": "all", **mean_loss(part(before[name], first))})
            rows += [{"when": "during", "split": name, "subgroup": "all", **point} for point in history if point.get("held_out") == name]
            rows.append({"when": "during", "step": steps, "split": name, "subgroup": "all", **mean_loss(part(after[name], first))})
        rows.append({"when": "after", "step": steps, "split": name, "subgroup": "all", **mean_loss(after[name]),
                     **change(before[name], after[name], held_out[name]["group"])})
    rows += cancer_rows(held_out, before, after, steps)
    table = pd.DataFrame(rows, columns=[*CPT_COLUMNS, "n"])
    return table.assign(model=model, stage=stage, n_notes=table["n"])[CPT_COLUMNS]


def cancer_rows(held_out: dict, before: dict, after: dict, steps: int) -> list[dict]:
    """Rows `before` and `after` of each cancer type over the notes of all rings together; types with too little text are counted in a line."""
    rings = [name for name in before if "cancer_type" in held_out[name]]
    if not rings:
        return []
    notes = pd.concat([held_out[name] for name in rings], ignore_index=True)
    losses = {when: {key: np.concatenate([found[name][key] for name in rings]) for key in found[rings[0]]} for when, found in (("before", before), ("after", after))}
    rows, left_out, types = [], 0, sorted(set(notes["cancer_type"]) - {""})
    for cancer in types:
        of_type = np.flatnonzero(notes["cancer_type"] == cancer)
        first, last = part(losses["before"], of_type), part(losses["after"], of_type)
        if len(of_type) < MIN_NOTES or first["tokens"].sum() < MIN_TOKENS:
            left_out += 1
            continue
        rows.append({"when": "before", "step": 0, "split": POOLED, "subgroup": cancer, **mean_loss(first)})
        rows.append({"when": "after", "step": steps, "split": POOLED, "subgroup": cancer, **mean_loss(last), **change(first, last, notes["group"].iloc[of_type])})
    print(f"per cancer type: {len(types) - left_out} of {len(types)} types shown, {left_out} left out with fewer than {MIN_NOTES} notes or {MIN_TOKENS:,} tokens")
    return rows


def part(losses: dict, which) -> dict:
    """The losses of some of the texts."""
    return {key: values[which] for key, values in losses.items()}


def change(before: dict, after: dict, groups, n_resamples: int = 1000, seed: int = 0) -> dict:
    """Change of the loss in nats per token, with its 95 % percentile interval by resampling groups (patients, chapters).

    A ratio of sums, nats over tokens, in every resample; with one group the interval is the change itself.
    """
    codes, count = stats.cluster_codes(groups)
    sums = np.column_stack([np.bincount(codes, weights=column, minlength=count) for column in (after["nats"] - before["nats"], after["tokens"])])
    low, high = stats.limits_of_sums(sums, sums[:, 1], lambda sums: sums[:, :1] / sums[:, 1:], "percentile", n_resamples, seed)
    nats, tokens = sums.sum(axis=0)
    return {"change": float(nats / tokens), "change_low": float(low[0]), "change_high": float(high[0])}


def sentence(row: dict, before: dict) -> str:
    """What an `after` row says beside its `before` row: by how much the loss moved, and whether the sample can tell it from chance."""
    name = NAMES.get(row["split"], f"held-out notes ({row['split']})")
    moved = f"from {before['loss']:.3f} to {row['loss']:.3f} nats per token ({row['change']:+.3f}, 95 % interval {row['change_low']:+.3f} to {row['change_high']:+.3f}; " \
            f"{int(row['tokens']):,} tokens)"
    words = {"worse": "the model predicts it worse than before, it has forgotten some of it" if row["split"] in NAMES else "the model predicts them worse than before",
             "better": "no forgetting, the model predicts it better than before" if row["split"] in NAMES else "the model predicts them better than before",
             "same": "this sample cannot tell the change from chance"}
    verdict = "worse" if row["change_low"] > 0 else "better" if row["change_high"] < 0 else "same"
    return f"On {name} the loss went {moved}: {words[verdict]}."


def sentences(scores: pd.DataFrame) -> str:
    """One sentence per ring and general text of a stage's rows."""
    whole = scores[scores["subgroup"] == "all"]
    before = {row["split"]: row for row in whole[whole["when"] == "before"].to_dict("records")}
    return "\n".join(sentence(row, before[row["split"]]) for row in whole[whole["when"] == "after"].to_dict("records"))
