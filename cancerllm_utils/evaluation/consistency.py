"""Answers that flip although nothing was said differently: capitals, line breaks, the order of the sections, the wording of the question.

A flip is another answer to the same question: another value, or a value where there was none. Two right answers in other words are one answer, and so
are two wrong ones that differ in case or blanks alone. Whether the answer was right has no part in it: who is always wrong in the same way never flips.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from cancerllm_utils.evaluation import robustness, robustness_files, score, stats
from cancerllm_utils.evaluation import robustness_words as words
from cancerllm_utils.results import system_order, task_name

COLUMNS = ["model", "stage", "task", "split", "field", "change", "n", "patients", "flips", "low", "high", "right_to_wrong", "wrong_to_right", "wrong_to_wrong"]
KINDS = ["right_to_wrong", "wrong_to_right", "wrong_to_wrong"]
ANY = "any"


def same_answer(parsed: pd.Series) -> pd.Series:
    """Answers as they are compared: without case and with single blanks."""
    return parsed.astype(str).str.casefold().str.split().str.join(" ")


def flips(clean: pd.DataFrame, changed: pd.DataFrame) -> pd.DataFrame:
    """One row per question that both answered, by example_id: flip and KINDS, each True or False. Frames: robustness.answers."""
    both = clean[["parsed", "value_accuracy"]].join(changed[["parsed", "value_accuracy"]], how="inner", lsuffix="_clean", validate="one_to_one")
    was, now = both["value_accuracy_clean"] == 100, both["value_accuracy"] == 100
    flip = (same_answer(both["parsed_clean"]) != same_answer(both["parsed"])) & ~(was & now)
    return pd.DataFrame({"flip": flip, "right_to_wrong": flip & was, "wrong_to_right": flip & now, "wrong_to_wrong": flip & ~was & ~now})


def run(run_dir: str | Path, n_resamples: int = 1000, seed: int = 42) -> pd.DataFrame:
    """Flips of every system, task and field under each change that keeps the meaning, and under any of them: COLUMNS, shares of the questions in %.

    low, high: 95 % limits of `flips`, patients resampled (institutions outside); where no answer or every one flips, the exact binomial limit of as many
    patients, since resampling would promise certainty. change `any`: at least one of the changes flips the answer; its three
    kinds stay empty, since one question may flip in several ways. Writes results/consistency.csv; empty where no such question was asked.
    """
    run_dir, known, rows = Path(run_dir), {}, []
    found = [row | {"stage": row["path"].parent.name} for row in robustness_files.files(run_dir)]
    clean = {(row["model"], row["stage"], row["task"], row["split"]): row for row in found if not row["testbed"] and "+" not in row["path"].name}
    changed = {}
    for row in found:
        key = (row["model"], row["stage"], row["task"], row["split"])
        if row["testbed"] in robustness_files.words()["meaning_kept"] and "respelled" not in row["remedy"] and key in clean:
            changed.setdefault(key, {})[row["testbed"]] = row
    for key, by_change in changed.items():
        own = robustness.answers(clean[key], run_dir, known)
        tables = {change: flips(own, robustness.answers(by_change[change], run_dir, known)) for change in robustness_files.words()["meaning_kept"] if change in by_change}
        shared = sorted(set.intersection(*(set(table.index) for table in tables.values())))
        if len(tables) > 1 and shared:
            tables[ANY] = pd.DataFrame({"flip": np.any([table.loc[shared, "flip"] for table in tables.values()], axis=0)}, index=shared)
        for change, table in tables.items():
            items = own.loc[table.index]
            clusters, method = score.ring_clusters(items, key[3])
            for field, mask in robustness.field_masks(items).items():
                low, high = stats.cluster_interval(100 * table["flip"][mask].to_numpy(dtype=float), clusters[mask], method, n_resamples, seed)
                share, reach = table["flip"][mask].mean(), 100 * (1 - 0.025 ** (1 / items["patient_id"][mask].nunique()))
                low, high = (0, reach) if share == 0 else (100 - reach, 100) if share == 1 else (low, high)
                rows.append(dict(zip(["model", "stage", "task", "split"], key)) | {
                    "field": field, "change": change, "n": int(mask.sum()), "patients": items["patient_id"][mask].nunique(), "low": max(low, 0), "high": min(high, 100),
                    "flips": 100 * table["flip"][mask].mean(), **{kind: 100 * table[kind][mask].mean() for kind in KINDS if kind in table}})  # fmt: skip
    table = pd.DataFrame(rows, columns=COLUMNS)
    results = run_dir / "results"
    results.mkdir(parents=True, exist_ok=True)
    score.write_whole(results / "consistency.csv", lambda file: table.to_csv(file, index=False, float_format="%.6f"))
    return table


def shown(table: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Flips of all fields in %: change, task, system, flips with interval, right to wrong, wrong to right, wrong to another wrong, n."""
    rows = table[(table["field"] == "all") & (table["split"] == split)]
    order = system_order(rows)
    made = pd.DataFrame({
        "change": rows["change"].map(words.change_name), "task": rows["task"].map(task_name), "system": [words.system_name(*pair) for pair in zip(rows["model"], rows["stage"])],
        "answers that flip, %": [f"{row.flips:.1f} ({row.low:.1f} to {row.high:.1f})" for row in rows.itertuples()],
        **{kind.replace("_", " "): rows[kind].map("{:.1f}".format).replace("nan", "") for kind in ("right_to_wrong", "wrong_to_right", "wrong_to_wrong")},
        "n": rows["n"], "place": [order.index(pair) for pair in zip(rows["model"], rows["stage"])],
    })  # fmt: skip
    return made.sort_values(["task", "place"], kind="stable", ignore_index=True).drop(columns="place")


def by_field(table: pd.DataFrame, model: str, stage: str, split: str = "test") -> pd.DataFrame:
    """Flips of each field of one system in %, with n: a row per task and field, a column per change; fields with fewer than words.FEW questions are left out."""
    rows = table[(table["model"] == model) & (table["stage"] == stage) & (table["split"] == split) & (table["n"] >= words.FEW)]
    if rows.empty:
        return pd.DataFrame()
    cells = [f"{row.flips:.0f} (n = {row.n:,})" for row in rows.itertuples()]
    made = pd.DataFrame({"task": rows["task"].map(task_name), "field": rows["field"], "change": rows["change"].map(words.change_name), "cell": cells})
    return made.pivot(index=["task", "field"], columns="change", values="cell").reindex(columns=list(dict.fromkeys(made["change"]))).fillna("").rename_axis(columns=None).reset_index()


def sentences(table: pd.DataFrame, systems: list[tuple[str, str]], split: str = "test") -> list[str]:
    """For each task and system: how often an answer flips under any change, which change does most, and the least and most consistent field."""
    rows, out = table[table["split"] == split], []
    for (task, model, stage), part in rows.groupby(["task", "model", "stage"], sort=False):
        if (model, stage) not in systems:
            continue
        whole = part[part["field"] == "all"]
        single = whole[whole["change"] != "any"]
        worst = single.loc[single["flips"].idxmax()]
        text = (f"{task_name(task)}, {words.system_name(model, stage)}: {words.change_name(worst['change'])} does most, {worst['flips']:.1f} % of the answers flip ({worst['low']:.1f} to {worst['high']:.1f}, "
                f"n = {worst['n']:,}), {worst['right_to_wrong']:.1f} % from right to wrong and {worst['wrong_to_right']:.1f} % from wrong to right")
        if worst["flips"] == 0:
            out.append(f"{task_name(task)}, {words.system_name(model, stage)}: no answer flips under any of the changes ({worst['low']:.1f} to {worst['high']:.1f} %, n = {worst['n']:,}).")
            continue
        together = whole[whole["change"] == "any"]
        if len(together):
            row = together.iloc[0]
            text += f"; {row['flips']:.1f} % flip under at least one change ({row['low']:.1f} to {row['high']:.1f})"
        fields = part[(part["field"] != "all") & (part["change"] == ("any" if len(together) else worst["change"])) & (part["n"] >= words.FEW)].sort_values("flips")
        if len(fields) > 1:
            best, least = fields.iloc[0], fields.iloc[-1]
            text += f"; most steady is {best['field']} ({best['flips']:.1f} %, n = {best['n']}), least {least['field']} ({least['flips']:.1f} %, n = {least['n']})"
        out.append(text + ".")
    return out or words.not_run("Changes that keep the meaning")
