"""What false training answers leave behind: does a model give the false answer back, or the true one all the same? And what do simple methods learn from them?"""

import json
import re
from pathlib import Path

import pandas as pd

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import score, stats
from cancerllm_utils.tasks import counterfactual
from cancerllm_utils.tasks.task import hash_order, read_jsonl, write_jsonl

SPLIT = "train+corrupted"
COLUMNS = ["model", "stage", "task", "split", "field", "trained", "counterfactual_rate", "counterfactual_mode", "n", "patients", "memorised", "memorised_low",
           "memorised_high", "resisted", "resisted_low", "resisted_high", "seed", "seeds"]


def settings_of(stage_dir: Path) -> dict:
    """counterfactual_rate, counterfactual_mode and seed of a tuned stage's card; rate 0 for a stage that was tuned on clean answers."""
    path = Path(stage_dir) / "cancerllm.json"
    training = json.loads(path.read_text(encoding="utf-8"))["training"] if path.is_file() else {}
    return {"counterfactual_rate": training.get("counterfactual_rate", 0.0), "counterfactual_mode": training.get("counterfactual_mode", "random"), "seed": training.get("seed", 0)}


def sampled(corrupted: pd.DataFrame, max_items: int) -> pd.DataFrame:
    """Up to max_items corrupted items by hash, so that those of a lower rate come first at every rate: up to half of them were not trained on."""
    order = corrupted.assign(order=[hash_order(0, name) for name in corrupted["example_id"]]).sort_values("order").drop(columns="order")
    aside = order[~order["trained"]][: max_items // 2]
    return pd.concat([order[order["trained"]][: max_items - len(aside)], aside])


def ask_corrupted(run_dir, model: str, stage: str, max_items: int = 200, max_new_tokens: int = 50, batch_size: int = 16, precision: str = "auto",
                  load_in_4bit: bool = False) -> pd.DataFrame:
    """Asks a stage about up to max_items of the training items whose answers were corrupted (`sampled`): predictions/<model>/<stage>/<task>.train+corrupted.jsonl.

    The prompts are those of the training file, `answers` holds the true answer. Returns `memorised` of this stage; an empty table, at once, for a stage that
    was tuned on clean answers.
    """
    from cancerllm_utils.modeling import generation, models  # torch only where a model answers

    run_dir, name = Path(run_dir), models.model_entry(model)["name"]
    corrupted = counterfactual.read_corrupted(run_dir / "models" / name / stage)
    if corrupted.empty:
        return pd.DataFrame(columns=COLUMNS)
    network, tokenizer, _ = generation.load_network(run_dir, model, stage, precision, load_in_4bit=load_in_4bit)
    for task, part in sampled(corrupted, max_items).groupby("task", sort=False):
        examples = {row["example_id"]: row for row in read_jsonl(run_dir / "datasets" / task / "train.jsonl")}
        if not set(part["example_id"]) <= set(examples):
            raise UserError(f"file {run_dir / 'datasets' / task / 'train.jsonl'}: is not the one that {stage} was tuned on. Run notebook 04_instruction_tuning again.")
        asked, values = [examples[name] for name in part["example_id"]], generation.allowed_answers(run_dir, task)
        answers = generation.answer_examples(network, tokenizer, asked, values, "greedy", max_new_tokens, batch_size)
        write_jsonl(run_dir / "predictions" / name / stage / f"{task}.{SPLIT}.jsonl", [generation.finished_row(example, answer, values) for example, answer in zip(asked, answers, strict=True)])
    return memorised(run_dir, [(name, stage)])


def memorised(run_dir, systems: list[tuple[str, str]] | None = None) -> pd.DataFrame:
    """How often each stage gives corrupted training answers back, from its predictions and corrupted.csv (COLUMNS); no model is loaded.

    One row per stage, task ("all": together), field ("all": together) and `trained`: True for items that the stage was tuned on, False for items whose
    answer was corrupted too but which it never saw (over the budget, or filtered out): what it says there is no memory. memorised: share of the items on
    which the false answer comes back; resisted: share on which the true one comes all the same; in percent, with 95 % limits over patients; what is left
    is another answer. Trainings of a stage with several seeds, each with false answers of its own, are one row: n counts the items of all, seed is the
    first one's. systems: (model, stage) pairs; None takes every stage that was asked.
    """
    run_dir, rows, trainings = Path(run_dir), [], {}
    pairs = systems if systems is not None else sorted({path.parent.parts[-2:] for path in run_dir.glob(f"predictions/*/*/*.{SPLIT}.jsonl")})
    for model, stage in pairs:
        trainings.setdefault((model, re.sub(r"-s\d+(?=-|$)", "", stage) if systems is None else stage), []).append(stage)
    for (model, stage), seeds in trainings.items():
        table = pd.concat([given_back(run_dir, model, name) for name in seeds], ignore_index=True)
        settings = settings_of(run_dir / "models" / model / seeds[0])
        for trained, part in table.groupby("trained", sort=False):
            groups = [("all", "all", part)]
            for task, of_task in part.groupby("task", sort=False):
                groups += [(task, "all", of_task), *((task, field, of_field) for field, of_field in of_task.groupby("field", sort=False))]
            for task, field, group in groups:
                row = {"model": model, "stage": stage, "task": task, "split": SPLIT, "field": field, "trained": bool(trained), "n": len(group), "patients": group["patient_id"].nunique(),
                       "seeds": len(seeds)}
                for name in ("memorised", "resisted"):
                    low, high = stats.cluster_bootstrap(group[name].to_numpy(float), group["patient_id"].to_numpy())
                    row |= {name: 100 * group[name].mean(), f"{name}_low": 100 * low, f"{name}_high": 100 * high}
                rows.append(row | settings)
    return pd.DataFrame(rows, columns=COLUMNS)


def given_back(run_dir: Path, model: str, stage: str) -> pd.DataFrame:
    """One row per corrupted item that a stage was asked: corrupted.csv, and whether it gave the false answer (memorised) or the true one (resisted)."""
    files = sorted((run_dir / "predictions" / model / stage).glob(f"*.{SPLIT}.jsonl"))
    given = pd.DataFrame([{"example_id": row["example_id"], "parsed": row["parsed"]} for path in files for row in read_jsonl(path)], columns=["example_id", "parsed"])
    table = counterfactual.read_corrupted(run_dir / "models" / model / stage).merge(given, on="example_id")
    said = table["parsed"].str.casefold()
    return table.assign(memorised=said.eq(table["new"].str.casefold()), resisted=said.eq(table["old"].str.casefold()))


def run(run_dir) -> pd.DataFrame:
    """`memorised` of every stage that was asked, written to results/memorised.csv where there is any."""
    table = memorised(run_dir)
    if len(table):
        (Path(run_dir) / "results").mkdir(exist_ok=True)
        score.write_whole(Path(run_dir) / "results" / "memorised.csv", lambda file: table.to_csv(file, index=False, float_format="%.6f"))
    return table


def sentences(table: pd.DataFrame) -> list[str]:
    """What a `memorised` table says of each stage, one sentence."""
    out = []
    for (model, stage), part in table[table["task"].eq("all")].groupby(["model", "stage"], sort=False):
        text = ""
        for row in part.sort_values("trained", ascending=False).itertuples():
            which = "corrupted training items" if row.trained else "items that were corrupted as well but never trained on"
            name = f"{model}, {stage}" + (f", {row.seeds} trainings together" if row.seeds > 1 else "")
            text += (f"{'; of ' if text else f'{name}: of '}{row.n} {which} it gives the false answer to {row.memorised:.0f} % ({row.memorised_low:.0f} to "
                     f"{row.memorised_high:.0f}) and the true one all the same to {row.resisted:.0f} % ({row.resisted_low:.0f} to {row.resisted_high:.0f})")
        out.append(text + ".")
    return out


def predict_noisy_baselines(run_dir, model: str, stages: list[str], tasks: list[str], splits: list[str], seed: int = 42) -> pd.DataFrame:
    """The simple methods, fitted on the same false answers as the stages: predictions/<baseline>/baseline-cf40/<task>.<split>.jsonl, once per rate, mode and seed.

    Rates and modes are read from the stages' cards; a seed other than `seed` ends the name (baseline-cf40-s7). Returns the rows of
    baselines.predict_baselines with the stage; an empty table, at once, where all stages learned from clean answers. The rules learn nothing: their curve is flat.
    """
    from cancerllm_utils.modeling import baselines

    folder, done, tables = Path(run_dir) / "models" / Path(model).name, set(), []
    for stage in stages:
        how = settings_of(folder / stage)
        name = counterfactual.suffix(how["counterfactual_rate"], how["counterfactual_mode"])
        name += f"-s{how['seed']}" if name and how["seed"] != seed else ""
        if name and name not in done:
            done.add(name)
            false = {"rate": how["counterfactual_rate"], "mode": how["counterfactual_mode"], "seed": how["seed"], "stage": f"baseline-{name}"}
            table = baselines.predict_baselines(run_dir, tasks, splits, seed, false_answers=false)
            tables.append(table[table["model"].ne("rules")].assign(stage=false["stage"]))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["model", "task", "split", "n", "value_accuracy", "seconds", "remark", "stage"])
