"""Which prediction file is which point of a curve over damage: read from the names of stages and test sets."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from cancerllm_utils.results import STAGES, altered_labels

BASELINE = "baseline"


@cache
def words() -> dict:
    """robustness.yaml: testbeds, training, meaning_kept, any, remedies, paper, source. It is kept: do not change it."""
    return yaml.safe_load(Path(__file__).with_name("robustness.yaml").read_text(encoding="utf-8"))


def parse_split(split: str) -> dict:
    """`test+misspell20+respelled` as {split: test, testbed: misspell, rate: 20.0, remedy: respelled}; testbed "" for a clean set, rate NaN without one."""
    ring, *parts = split.split("+")
    found = {"split": ring, "testbed": "", "rate": 0.0, "remedy": ""}
    for part in parts:
        name, rate = re.fullmatch(r"(.*?)(\d*)", part).groups()
        found |= {"remedy": part} if part in words()["remedies"] else {"testbed": name, "rate": float(rate) if rate else float("nan")}
    return found


def parse_stage(stage: str) -> dict:
    """`cpt-sft-cf40-filtered-s7` as {stage: cpt-sft, labels: labels, label_rate: 40.0, remedy: filtered, seed: s7}; other endings stay with the stage."""
    root = max((name for name in (*STAGES, BASELINE) if stage == name or stage.startswith(name + "-")), key=len, default=stage)
    found, kept = {"labels": "", "label_rate": 0.0, "remedy": "", "seed": ""}, [root]
    for part in stage[len(root) :].split("-")[1:]:
        altered = altered_labels(f"-{part}")
        if altered:
            found |= {"labels": "labels_near" if altered[0] else "labels", "label_rate": altered[1]}
        elif re.fullmatch(r"s\d+", part):
            found["seed"] = part
        elif part in words()["remedies"]:
            found["remedy"] = part
        else:
            kept.append(part)
    return {"stage": "-".join(kept)} | found


def files(run_dir: str | Path) -> list[dict]:
    """Every prediction file as a point of a curve: model, stage, labels, label_rate, seed, task, split, testbed, rate, remedy, path; those of training items are none."""
    found = []
    for path in sorted(Path(run_dir).glob("predictions/*/*/*.jsonl")):
        task, split = path.name.removesuffix(".jsonl").split(".", 1)
        of_split, of_stage = parse_split(split), parse_stage(path.parent.name)
        remedy = "+".join(filter(None, (of_stage["remedy"], of_split["remedy"])))
        if of_split["split"] != "train" and path.stat().st_size:
            found.append(of_stage | of_split | {"model": path.parent.parent.name, "task": task, "remedy": remedy, "path": path})
    return found


def points(found: list[dict]) -> dict[tuple, list[dict]]:
    """(task, split, testbed) -> its points with `rate`, the clean ones (rate 0) of the same systems among them. Variants without a rate belong to consistency.py.

    A damaged test set: a stage that learned altered labels is a system of its own there (stage sft-cf40). Altered labels: clean questions, and the
    stage without them is rate 0; how the text was damaged or mended has no part in it.
    """
    out = {}
    for row in found:
        if row["testbed"] and not np.isnan(row["rate"]):
            out.setdefault((row["task"], row["split"], row["testbed"]), []).append(whole_stage(row))
        elif row["labels"] and not row["testbed"] and "respelled" not in row["remedy"]:
            out.setdefault((row["task"], row["split"], row["labels"]), []).append(row | {"rate": row["label_rate"]})
    for (task, split, testbed), members in out.items():
        trained = testbed in words()["training"]
        curves = {(row["model"], row["stage"], row["remedy"]) for row in members}
        systems = {(model, stage) for model, stage, _ in curves}
        clean = [row if trained else whole_stage(row) for row in found if (row["task"], row["split"], row["testbed"]) == (task, split, "") and not (trained and row["labels"])]
        members += [row for row in clean if (row["model"], row["stage"], row["remedy"]) in curves or ((row["model"], row["stage"]) in systems and not row["remedy"])]
    return out


def whole_stage(row: dict) -> dict:
    """The point with its altered labels as part of the stage's name."""
    ending = f"-cf{'near' if row['labels'] == 'labels_near' else ''}{row['label_rate']:g}" if row["labels"] else ""
    return row | {"stage": row["stage"] + ending}
