"""Rules where they are sure, the model elsewhere: what a careful hospital would build, each answer marked with its source.

Sure means that the label rules found one unambiguous value in the text; what they call uncertain or absent is left to the model. Both sides were
answered before, so nothing is computed here. Where the rules made the gold (extraction from real reports) there is no hybrid, as there are no rules.
"""

from pathlib import Path

import pandas as pd

from cancerllm_utils.results import hybrid_name

from ..tasks.task import read_jsonl, write_jsonl


def hybrid_rows(rules: list[dict], model: list[dict]) -> list[dict]:
    """Prediction rows of a model, replaced by the rules' where those are `sure`; `source` says whose each answer is: rules or model."""
    of_rules = {row["example_id"]: row for row in rules}
    rows = []
    for row in model:
        rule = of_rules[row["example_id"]]
        chosen, source = (rule, "rules") if rule["sure"] else (row, "model")
        rows.append({key: chosen[key] for key in ("example_id", "prediction", "answers", "parsed", "new_tokens", "stop_reason", "seconds")} | {"source": source})
    return rows


def predict_hybrid(run_dir: str | Path, model: str, stages: list[str], tasks: list[str], splits: list[str]) -> pd.DataFrame:
    """Writes predictions/hybrid/<stage>/<task>.<split>.jsonl for every tuned stage, task and test set that model and rules both answered.

    For another model than the embedded tiny_base the folder is hybrid-<model>. Returns one row per file: model, stage, task, split, n, from_rules (share
    of the answers, 0-1), right_rules and right_model (share right of each part, 0-1, empty where it has none).
    """
    predictions, table = Path(run_dir) / "predictions", []
    for stage in [stage for stage in stages if "sft" in stage]:
        for task in tasks:
            for split in splits:
                name = f"{task}.{split}.jsonl"
                sides = [predictions / "rules" / "baseline" / name, predictions / model / stage / name]
                if not all(path.is_file() for path in sides):
                    continue
                rows = hybrid_rows(*(read_jsonl(path) for path in sides))
                write_jsonl(predictions / hybrid_name(model) / stage / name, rows)
                right = pd.DataFrame([(row["source"], row["parsed"] == row["answers"][0]) for row in rows], columns=["source", "right"])
                table.append({"model": hybrid_name(model), "stage": stage, "task": task, "split": split, "n": len(rows), "from_rules": right["source"].eq("rules").mean(),
                              **{f"right_{source}": right.loc[right["source"].eq(source), "right"].mean() for source in ("rules", "model")}})
    return pd.DataFrame(table, columns=["model", "stage", "task", "split", "n", "from_rules", "right_rules", "right_model"])
