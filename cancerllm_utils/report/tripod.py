"""The TRIPOD-LLM checklist filled from a run: each item's answer is a sentence from the run's files, and its status follows from which of them are there.

Items, facts and reasons stand in tripod.yaml (source there). No item is ticked by hand: an answer whose files are missing turns to "not reported".
"""

import json
import string
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from cancerllm_utils.corpus import datasheet
from cancerllm_utils.evaluation import comparisons
from cancerllm_utils.evaluation.answers import of_systems
from cancerllm_utils.paths import PACKAGE
from cancerllm_utils.report import run_facts, summary
from cancerllm_utils.results import METRIC_NAMES, RINGS, headline, load_paper_values, main_split, main_systems, model_name, ring_name, system_order, task_name
from cancerllm_utils.tasks import task

REPORTED, PARTLY, NOT_REPORTED, NOT_APPLICABLE = "reported", "reported in part", "not reported", "not applicable"
COLUMNS = ["item", "section", "asks", "status", "answer", "where"]


@cache
def described() -> dict:
    """tripod.yaml as a dict: source, facts, items. It is kept: do not change it."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def checklist(run_dir: str | Path) -> pd.DataFrame:
    """The items as strings, COLUMNS; `where` holds places as in tripod.yaml, separated by blanks."""
    run_dir = Path(run_dir)
    found = facts(run_dir)
    return pd.DataFrame([answered(item, found, run_dir) for item in described()["items"]], columns=COLUMNS)


def write(run_dir: str | Path, table: pd.DataFrame) -> Path:
    """results/tripod_llm.csv; returns its path."""
    path = Path(run_dir) / "results" / "tripod_llm.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    return path


def sentence(table: pd.DataFrame) -> str:
    """How many items have which status."""
    counts = table["status"].value_counts()
    return f"TRIPOD-LLM, {len(table)} items: " + ", ".join(f"{counts[status]} {status}" for status in (REPORTED, PARTLY, NOT_REPORTED, NOT_APPLICABLE) if status in counts) + "."


def answered(item: dict, found: dict[str, str], run_dir: Path) -> list[str]:
    """One row of the checklist. Facts that the run lacks are left out of the answer and named by their files."""
    asked = [name for _, name, _, _ in string.Formatter().parse(item.get("answer", "")) if name]
    absent, also = [name for name in asked if not found.get(name)], {name: place for name, place in item.get("also", {}).items() if found.get(name)}
    gone = [file for file in [*item.get("files", []), *(file for name in absent for file in described()["facts"][name])] if not (run_dir / file).exists()]
    if asked and len(absent) == len(asked) and not also:
        fallback = {NOT_REPORTED: f"not in this run: {', '.join(dict.fromkeys(gone)) or ', '.join(absent)}"}
        item = {key: value for key, value in item.items() if key != "answer"} | {key.replace("_", " "): reason for key, reason in item.get("without", fallback).items()}
    status = next((status for status in (NOT_APPLICABLE, NOT_REPORTED) if status in item or status.replace(" ", "_") in item), "")
    if status:
        text = item.get(status) or item[status.replace(" ", "_")]
    else:
        text = " ".join([item["answer"].format_map({name: found.get(name, "") for name in asked}), *(found[name] for name in also)])
        text = " ".join(text.split())
        lacks = [*([item["lacks"]] if "lacks" in item else []), *([f"not in this run: {', '.join(dict.fromkeys(gone)) or ', '.join(absent)}"] if gone or absent else [])]
        status, text = (PARTLY, f"{text} Missing: {'; '.join(lacks)}.") if lacks else (REPORTED, text)
    return [item["id"], item["section"], item["asks"], status, text, " ".join([*item.get("where", []), *also.values()])]


def facts(run_dir: Path) -> dict[str, str]:
    """Every fact that the run's files give, as sentences: name -> text. A fact whose files are not all there is left out."""
    records, cohort, results = run_facts.read_records(run_dir), run_facts.read_cohort(run_dir), summary.read_results(run_dir)
    written = comparisons.load()
    found = {
        "questions": " ".join(entry["question"] for entry in written["primary"]), "written": str(written["written"]),
        "paper": f"CancerLLM ({load_paper_values()['sources']['both']})",
    }  # fmt: skip
    found |= of_corpus(run_dir, cohort, records) | of_labels(run_dir) | of_questions(run_dir, cohort) | of_models(run_dir, records)
    found |= of_scores(run_dir, results, cohort) | of_studies(run_dir / "results", results["scores"]) | of_records(records)
    needed = described()["facts"]
    return {name: text for name, text in found.items() if text and all((run_dir / file).exists() for file in needed[name])}


def of_corpus(run_dir: Path, cohort: dict, records: list[dict]) -> dict[str, str]:
    """Notes, patients, splits, dates, quality, and what is known of the corpus beyond its counts."""
    notes, splits = cohort["notes"], cohort["splits"]
    sentences = run_facts.cohort_sentences(cohort, None)
    found = dict(zip(("cohort", "rings"), sentences, strict=False)) | ({"subject": run_facts.subject(cohort)} if sentences else {})
    flow = run_facts.read_flow(run_dir)
    if flow is not None and len(flow):
        found["flow"] = f"Of {flow['reports'].iloc[0]} texts read, {flow['reports'].iloc[-1]} of {flow['patients'].iloc[-1]} patients were kept, in {len(flow)} counted steps."
    prose = datasheet.prose()["corpora"].get("synthetic" if cohort["synthetic"] else cohort["corpus"])
    if prose:
        found |= {"source": f"{prose['collected']} Why: {prose['why']}", "sharing": f"{prose['licence']} {prose['share']}", "gold": prose["gold"], "data_limits": prose["limits"],
                  "not_for": f"Not for: {datasheet.prose()['any']['not_for']}", "ethics": "" if cohort["corpus"] == "local" else prose["people"]}
    patients = run_dir / "corpus" / "patients.parquet"
    if notes is not None and splits is not None and patients.is_file():
        known = pd.read_parquet(patients).merge(splits, on="patient_id")
        found |= {"mix": mix(known), "characteristics": characteristics(notes, known), "dates": dates(notes.merge(splits, on="patient_id"), known)}
    if (run_dir / "corpus" / "quality.parquet").is_file():
        quality = pd.read_parquet(run_dir / "corpus" / "quality.parquet")
        found["quality"] = (f"Every note went through the same steps: scrubbing, copies, language, damage by scanning. Median share of damaged words {quality['ocr_noise'].median():.3f}; "
                            f"{(quality['language'] != 'en').sum():,} notes are not, or not surely, in English.")
    if any(record.get("params", {}).get("adjudicated_csv") for record in records):
        found["adjudicated"] = "A person decided where text and registry differ (adjudicated_csv)."
    return found


def mix(patients: pd.DataFrame) -> str:
    """Shares of the three most frequent cancers of the training patients, ring by ring."""
    shares = pd.crosstab(patients["split"], patients["cancer_type"], normalize="index")
    if "train" not in shares.index:
        return ""
    top = shares.loc["train"].sort_values(ascending=False).index[:3]
    rings = [ring for ring in RINGS if ring in shares.index]
    return "Most frequent cancers, " + "; ".join(f"{ring_name(ring)}: " + ", ".join(f"{name} {100 * shares.loc[ring, name]:.0f} %" for name in top) for ring in rings) + "."


def characteristics(notes: pd.DataFrame, patients: pd.DataFrame) -> str:
    """Kinds of note, age and sex where they are known."""
    kinds = notes["note_type"].value_counts()
    out = "Kinds of note: " + ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in kinds.items()) + "."
    if "age" in patients and (age := pd.to_numeric(patients["age"], errors="coerce").dropna()).size:
        out += f" Median age {age.median():.0f} (known for {len(age):,})."
    sex = next((patients[name].replace("", None).dropna().str.lower() for name in ("sex", "gender") if name in patients), pd.Series(dtype=str))
    return out + (f" Women {100 * sex.str.startswith('f').mean():.0f} % (known for {len(sex):,})." if len(sex) else "")


def dates(notes: pd.DataFrame, patients: pd.DataFrame) -> str:
    """Years of the oldest and newest text in development and evaluation: of the notes, else of the patients' diagnoses; "" where neither is known."""
    known, what = notes.assign(year=notes["date"].str[:4]), "Notes"
    if not known["year"].str.isdigit().any() and "diagnosis_year" in patients:
        known, what = patients.assign(year=patients["diagnosis_year"].astype("string").str[:4].fillna("")), "Notes carry no date; diagnoses"
    known = known[known["year"].str.isdigit()]
    parts = {name: known.loc[known["split"].isin(["train", "dev"]) == develop, "year"] for name, develop in (("development", True), ("evaluation", False))}
    return f"{what}: " + ", ".join(f"{name} {years.min()} to {years.max()}" for name, years in parts.items() if len(years)) + "." if len(known) else ""


def of_labels(run_dir: Path) -> dict[str, str]:
    """Pairs of note and field with and without a label."""
    path = run_dir / "corpus" / "labels.parquet"
    labels = pd.read_parquet(path, columns=["evidence", "registry_value"]) if path.is_file() else pd.DataFrame()
    if labels.empty:
        return {}
    n = labels["evidence"].value_counts()
    return {
        "label_counts": f"Of {len(labels):,} pairs of note and field the text states {n.get('stated', 0):,}, does not state {n.get('not_stated', 0):,}; {n.get('uncertain', 0):,} are uncertain.",
        "missing": f"A registry value is missing for {labels['registry_value'].isna().mean():.0%} of the pairs; it never counts as \"not stated\". Uncertain pairs are left out and counted.",
    }  # fmt: skip


def of_questions(run_dir: Path, cohort: dict) -> dict[str, str]:
    """Tasks, their labels, balance and wording, from datasets/settings.json."""
    path = run_dir / "datasets" / "settings.json"
    if not path.is_file():
        return {}
    settings = json.loads(path.read_text(encoding="utf-8"))
    names = settings.get("tasks", [])
    retrieved = (run_dir / "results" / "retrieval.csv").is_file()
    hashes = ", ".join(f"{name} {value}" for name, value in settings.get("prompt_hash", {}).items())
    sources = [task.label_source(task.load_task(name), settings.get("corpus", ""), settings.get("silver", False)) for name in names if name in task.task_names()]
    return {
        "tasks": "Tasks: " + ", ".join(f"{task_name(name)} ({len(settings.get('fields', {}).get(name, []))} fields)" for name in names) + "." if names else "",
        "balance": f"Training questions are {'balanced over' if settings.get('balance') else 'drawn without balancing'} answers; share of \"not stated\" {settings.get('not_stated_share', 0):.0%}.",
        "prompts": f"No example is given in a prompt{' outside the study of retrieval' * retrieved}. Prompt hashes: {hashes}." if hashes else "", "outcome": " ".join(sources),
    }  # fmt: skip


def of_models(run_dir: Path, records: list[dict]) -> dict[str, str]:
    """Base, training and decoding of the trained stages."""
    cards = {pair: json.loads((run_dir / "models" / pair[0] / pair[1] / "cancerllm.json").read_text(encoding="utf-8")) for pair in run_facts.adapters(run_dir)}
    found = {}
    if cards:
        found["models"] = " ".join(f"{model_name(*pair)}: base {card.get('base', pair[0])}, revision {str(card.get('base_revision', 'not recorded'))[:19]}." for pair, card in cards.items())
        found["architecture"] = " ".join(dict.fromkeys(architecture(model) for model, _ in cards))
        found["training"] = " ".join(trained(pair, card) for pair, card in cards.items() if card.get("training"))
        found["tuning"] = " ".join(trained(pair, card) for pair, card in cards.items() if card.get("training") and "sft" in pair[1])
        ends = [record["finished"] for record in records if record["step"].startswith(("03_continued_pretraining", "04_instruction_tuning")) and record.get("finished")]
        found["trained_on"] = f"Last training ended {max(ends)}." if ends else ""
    settings = [json.loads(path.read_text(encoding="utf-8")).get("settings", {}) for path in sorted((run_dir / "predictions").glob("*/*/*.run.json"))]
    ways = dict.fromkeys((entry.get("decoding"), entry.get("max_new_tokens"), entry.get("precision")) for entry in settings)
    found["decoding"] = " ".join(f"Decoding: {way}, at most {limit} new tokens, {precision}." for way, limit, precision in ways)
    return found


def architecture(model: str) -> str:
    """Architecture and size of a base that is known: of models.yaml, or of the embedded model's own configuration."""
    # Read here rather than through modeling.models, which imports torch.
    entry = yaml.safe_load((PACKAGE / "modeling" / "models.yaml").read_text(encoding="utf-8")).get(model, {})
    config = json.loads((PACKAGE / entry["path"] / "config.json").read_text(encoding="utf-8")) if "path" in entry else entry.get("config")
    if not config:
        return ""
    return (f"{model}: {config['model_type']} architecture, {config['num_hidden_layers']} layers, hidden size {config['hidden_size']}, vocabulary {config['vocab_size']:,}, "
            f"{entry['billion_parameters']:g} billion parameters.")


def trained(pair: tuple[str, str], card: dict) -> str:
    """One stage's training in a sentence."""
    settings, outcome = card["training"], card.get("outcome", {})
    rank = f", LoRA rank {settings['lora_r']}" if settings.get("tuning") == "lora" else ", all weights"
    return (f"{model_name(*pair)}: {outcome.get('steps', 0):,} steps over {outcome.get('tokens', 0):,} tokens, learning rate {settings.get('learning_rate')}{rank}, "
            f"seed {settings.get('seed')}.")


def of_scores(run_dir: Path, results: dict, cohort: dict) -> dict[str, str]:
    """Metrics, systems, results, verdicts, subgroups, ledger."""
    scores, folder = results["scores"], run_dir / "results"
    found = {}
    if len(scores):
        systems = main_systems(scores)
        names = [model_name(*pair) for pair in system_order(scores) if pair[1] == "baseline"]
        split, rows = main_split(scores), headline(scores)
        first = rows.drop_duplicates(["task", "split"])
        answers = rows[rows["stage"] != "baseline"]
        shown = list(dict.fromkeys(METRIC_NAMES.get(metric, metric) for metric in scores["metric"]))
        found = {
            "metrics": f"Metrics: {', '.join(shown)}, in two families (paper, clinical), each with 95 % intervals over patients or institutions.",
            "baselines": ", ".join(names), "performance": " ".join(line for system in systems for line in summary.system_sentences(scores, system)),
            "items": "Questions scored: " + "; ".join(f"{task_name(row.task)}, {ring_name(row.split)} {int(row.n):,}" for row in first.itertuples()) + ".",
            "unparsed": f"{int(answers['unparsed'].sum()):,} of {int(answers['n'].sum()):,} answers of the language models could not be read." if len(answers) else "",
            "refusal": " ".join(line for system in systems for line in summary.refusal_sentences(scores, system)),
            "drop": " ".join(line for system in systems for line in summary.ring_sentences(scores, system)),
            "limits": " ".join(run_facts.limit_sentences(scores, cohort, None)),
        }  # fmt: skip
        if split == "dev":
            found["metrics"] += " Development patients alone were scored."
    if (folder / "comparisons.csv").is_file():
        table = pd.read_csv(folder / "comparisons.csv")
        primary = table[table["kind"] == "primary"]
        found["comparisons"] = f"{len(primary)} primary and {len(table) - len(primary)} secondary comparisons, tested by permutation under Holm. " + " ".join(primary["verdict"].astype(str))
    if (folder / "subgroups.csv").is_file():
        groups = pd.read_csv(folder / "subgroups.csv").query("metric == 'average'")
        systems = set(main_systems(scores)) if len(scores) else set()
        groups = groups[[pair in systems for pair in zip(groups["model"], groups["stage"])]]
        kinds, shown = ", ".join(dict.fromkeys(groups["dimension"])), groups["shown"].astype(bool)
        found["subgroups"] = (f"By {kinds}: {shown.sum():,} groups shown, {(~shown).sum():,} too small; "
                              f"{(groups['p_holm'] < 0.05).sum():,} differ from the other patients beyond chance (Holm).") if len(groups) else ""
    if (folder / "ledger.csv").is_file():
        ledger = pd.read_csv(folder / "ledger.csv")["split"].value_counts()
        found["ledger"] = "Scorings of held-out test sets in the ledger: " + ", ".join(f"{ring_name(name)} {n}" for name, n in ledger.items()) + "."
    return found


def of_studies(folder: Path, scores: pd.DataFrame) -> dict[str, str]:
    """What calibration, raters and the further studies add, where the run has their tables."""
    table = {name: pd.read_csv(folder / f"{name}.csv") for name in ("calibration", "robustness_tests", "retrieval_tests", "radonc_scores", "radonc_tests", "adjudication", "radonc_ratings")
             if (folder / f"{name}.csv").is_file()}
    found, judged = {}, []
    if "calibration" in table and len(scores):
        rows = of_systems(table["calibration"], main_systems(scores), main_split(scores))
        found["calibration"] = " ".join(
            f"Calibration error of {model_name(*pair)}, points: " + ", ".join(f"{task_name(row.task)} {row.ece:.1f} ({row.ece_low:.1f} to {row.ece_high:.1f})" for row in part.itertuples())
            + f". A threshold chosen on development patients sends {part['sent'].min():.0f} to {part['sent'].max():.0f} % of the answers to a human." for pair, part in rows.groupby(["model", "stage"]))
    if "robustness_tests" in table:
        rows = table["robustness_tests"]
        rows = rows[(rows["kind"] == "change") & rows["p_holm"].notna()]
        found["robustness"] = f"Damaged notes and wrong labels: {len(rows):,} changes of a score were tested, {(rows['p_holm'] < 0.05).sum():,} are beyond chance (Holm)."
    if "retrieval_tests" in table:
        rows = table["retrieval_tests"].query("against == 'none'")
        sure = rows["p_holm"] < 0.05
        found["retrieval"] = (f"Similar training patients before the question: {len(rows):,} comparisons with none, "
                              f"{(sure & (rows['difference'] > 0)).sum():,} better and {(sure & (rows['difference'] < 0)).sum():,} worse beyond chance (Holm).")
    if "radonc_scores" in table and "radonc_tests" in table:
        rows, tests = table["radonc_scores"], table["radonc_tests"].query("metric == 'accuracy'")
        better = tests.assign(sure=tests["p_holm"] < 0.05, simple=tests["against"] != "original").groupby("simple")["sure"].agg(["sum", "size"])
        found["radonc"] = f"Radiation oncology, {rows['task'].nunique()} tasks with {rows['n'].max():,.0f} patients at most: tuned is better beyond chance (one-sided, Holm) than " + " and ".join(
            f"{'a simple method' if simple else 'original'} in {row['sum']} of {row['size']} comparisons" for simple, row in better.iterrows()) + "."
    if "adjudication" in table:
        rows = table["adjudication"].query("raters == 'people' and task == 'all' and metric == 'kappa_answer'")
        judged += [f"Two people judged {row.n:,.0f} sampled answers, kappa {row.value:.2f} ({row.low:.2f} to {row.high:.2f})." for row in rows.head(1).itertuples()]
    if "radonc_ratings" in table:
        rows = table["radonc_ratings"].query("not simulated")
        judged += [f"People rated {rows['n'].max():,.0f} regimens of each system, kappa {row.kappa:.2f} ({row.kappa_low:.2f} to {row.kappa_high:.2f})." for row in rows.head(1).itertuples()]
    return found | {"judged": " ".join(judged)}


def of_records(records: list[dict]) -> dict[str, str]:
    """Time, machine, commit, versions, date of inference."""
    timed = [record for record in records if record.get("seconds") is not None]
    if not timed:
        return {}
    devices = ", ".join(dict.fromkeys(str(record.get("device", "")) for record in timed))
    longest = max(timed, key=lambda record: record["seconds"])
    answered_on = max((record["finished"] for record in timed if record["step"].startswith("05_prediction") and record.get("finished")), default="")
    return {
        "compute": f"{sum(record['seconds'] for record in timed) / 60:,.1f} minutes for {len(timed)} steps on {devices}; the longest, {longest['step']}, took {longest['seconds'] / 60:,.1f}.",
        "code": f"Open code (Apache-2.0), commit {run_facts.commits(records)}; parameters of every step in params/ and records/ of the run.",
        "inferred_on": f"Answers were computed on {answered_on[:10]} with local weights." if answered_on else "",
    }  # fmt: skip
