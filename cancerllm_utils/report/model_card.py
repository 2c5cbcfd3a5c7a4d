"""Model cards in the Hugging Face format, one in each adapter's folder, written from the run's files alone.

Front matter and model index follow https://huggingface.co/docs/hub/model-cards; sections follow Mitchell et al., Model Cards for Model Reporting
(arXiv:1810.03993). Nobody outside the project has checked a number: the model index says `verified: false` everywhere.
"""

from pathlib import Path

import pandas as pd
import yaml

from cancerllm_utils.corpus import datasheet
from cancerllm_utils.errors import UserError
from cancerllm_utils.paths import PACKAGE, ROOT
from cancerllm_utils.report import run_facts, summary
from cancerllm_utils.results import METRIC_NAMES, RINGS, headline, ring_name, task_name
from cancerllm_utils.tasks import task

# The hub's own names of the licences in models.yaml; any other stands as `other` with its name. https://huggingface.co/docs/hub/repositories-licenses
LICENCES = {"Apache-2.0": "apache-2.0", "CC BY 4.0": "cc-by-4.0", "CC": "cc", "OpenRAIL": "openrail", "Llama 2 Community License": "llama2",
            "Llama 3 Community License": "llama3"}
IN_INDEX = [("paper", "average"), ("paper", "exact_match"), ("clinical", "value_accuracy"), ("clinical", "false_answer"), ("clinical", "miss")]
SETTINGS = ["tuning", "preset", "lora_r", "lora_alpha", "lora_dropout", "target_modules", "learning_rate", "num_train_epochs", "per_device_train_batch_size",
            "gradient_accumulation_steps", "max_length", "packing", "precision", "seed"]


def write_all(run_dir: str | Path) -> list[Path]:
    """Write the card of every trained stage of the run; returns their paths, [] where nothing was trained."""
    return [write(run_dir, model, stage) for model, stage in run_facts.adapters(run_dir)]


def write(run_dir: str | Path, model: str, stage: str) -> Path:
    """Write models/<model>/<stage>/README.md and return its path. Raises UserError where the stage was not trained."""
    run_dir = Path(run_dir)
    folder = run_dir / "models" / model / stage
    if not folder.is_dir():
        raise UserError(f"folder {folder}: no such adapter. Train the stage first.")
    card = yaml.safe_load((folder / "cancerllm.json").read_text(encoding="utf-8")) if (folder / "cancerllm.json").is_file() else {}
    # Read here rather than through modeling.models, which imports torch.
    entry = yaml.safe_load((PACKAGE / "modeling" / "models.yaml").read_text(encoding="utf-8")).get(model, {})
    cohort, results = run_facts.read_cohort(run_dir), summary.read_results(run_dir)
    scores = results["scores"][(results["scores"]["model"] == model) & (results["scores"]["stage"] == stage)]
    lines = ["---", front_matter(model, stage, entry, cohort, scores, card.get("tuning") == "full"), "---", "", f"# {model}, {stage}", "",
             "Research on historical data, not guidance. Not for clinical use.", ""]
    for title, paragraphs in [
        ("Model", about(run_dir, model, stage, entry, card)),
        ("Intended use", ["Research on extracting phenotypes and diagnoses from oncology notes, and as a starting point for tuning on notes of one's own. "
                          "Meant for researchers who can read a result table; a person must check every answer that anything depends on."]),
        ("Out of scope", [f"{datasheet.prose()['any']['not_for']} Notes in languages other than English, and questions other than those of the tasks below."]),
        ("Training data", training_data(run_dir, cohort, results["silver"], card.get("tasks", []))),
        ("Training procedure", procedure(card, entry)),
        ("Energy and time", [energy(run_dir, model, stage)]),
        ("Evaluation", evaluation(results, scores, model, stage)),
        ("Limits", limits(cohort, scores)),
        ("Citation", citation()),
    ]:
        lines += [f"## {title}", "", *[line for paragraph in paragraphs for line in (paragraph, "")]]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
    return folder / "README.md"


def front_matter(model: str, stage: str, entry: dict, cohort: dict, scores: pd.DataFrame, full: bool) -> str:
    """The card's YAML block, without its --- lines; model-index only where the stage was scored. full: whole weights, no adapter."""
    from huggingface_hub import EvalResult, ModelCardData  # here: a second of import that the tables of a report do not need

    licence, name = LICENCES.get(entry.get("licence", ""), "other"), entry.get("licence", "not recorded").lower().replace(" ", "-")
    if not cohort["synthetic"]:  # an adapter can repeat what it read, so the base's licence alone would promise too much
        licence, name = "other", f"{name}-and-terms-of-the-notes"
    corpus = "synthetic" if cohort["synthetic"] else cohort["corpus"] or "not-recorded"
    shown = [(row, metric) for family, metric in IN_INDEX for _, row in by_ring(headline(scores, metric, family)).iterrows() if pd.notna(row["f1"])]
    index = [
        EvalResult(
            task_type="text-generation", task_name=task_name(row["task"]), dataset_type=corpus, dataset_config=row["task"], dataset_split=row["split"],
            dataset_name=f"{corpus}, {task_name(row['task'])}, {ring_name(row['split'])}", metric_type=metric, metric_value=round(float(row["f1"]), 2),
            metric_name=f"{METRIC_NAMES.get(metric, metric)}, {row['family']} family, 0 to 100", metric_config=row["family"], metric_args=interval_of(row), verified=False,
        )
        for row, metric in shown
    ]  # fmt: skip
    return ModelCardData(
        base_model=entry.get("hub_id", model), library_name="transformers" if full else "peft", pipeline_tag="text-generation", language="en", license=licence,
        license_name=name if licence == "other" else None, datasets=[corpus],
        metrics=list(dict.fromkeys(metric for _, metric in shown)) or None,
        tags=["oncology", *([] if full else ["lora"]), "research-only", "not-for-clinical-use"], model_name=f"{model}-{stage}" if index else None, eval_results=index or None,
    ).to_yaml()  # fmt: skip


def by_ring(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a headline table by task, then from near patients to far ones."""
    rings = list(RINGS)
    return rows.sort_values(["task", "split"], key=lambda column: column.map(lambda name: (rings.index(name) if name in rings else len(rings)) if column.name == "split" else name))


def interval_of(row: pd.Series) -> dict:
    """n, and the 95 % interval where there is one, as plain numbers."""
    limits = {"ci95_low": round(float(row["f1_low"]), 2), "ci95_high": round(float(row["f1_high"]), 2)} if pd.notna(row["f1_low"]) else {}
    return {"n": int(row["n"]), **limits}


def about(run_dir: Path, model: str, stage: str, entry: dict, card: dict) -> list[str]:
    """Where the weights come from, what must be merged first, how the model is asked."""
    base = entry.get("hub_id", f"{model}, embedded in the project" if "path" in entry else model)
    before = [Path(part["path"]).name for part in card.get("adapters_before", [])]
    kind = "All weights" if card.get("tuning") == "full" else "A LoRA adapter in PEFT's layout"
    out = [f"{kind}, stage `{stage}`, of run `{run_dir.name}`, commit `{run_facts.commits(run_facts.read_records(run_dir))}`. "
           f"Base model: {base}, revision `{card.get('base_revision', 'not recorded')}`. SHA-256 of the weights: `{card.get('adapter_sha256', 'not recorded')}`."]
    if before:
        out.append(f"Merge {', '.join(f'`{name}`' for name in before)} into the base first, in that order and in fp32: `AutoPeftModel` alone would leave it out. The command below does it.")
    if card.get("tasks"):
        out.append(f"```\ncancerllm predict --model models/{model}/{stage} --task {card['tasks'][0]} notes.jsonl answers.jsonl\n```")
    return out


def training_data(run_dir: Path, cohort: dict, silver: bool, tasks: list[str]) -> list[str]:
    """What the notes are, how many, under which terms, what the labels are."""
    prose = datasheet.prose()["corpora"].get("synthetic" if cohort["synthetic"] else cohort["corpus"])
    counted = run_facts.cohort_sentences(cohort, None)
    if prose is None:
        return counted or ["Not recorded."]
    labels = [task.label_source(task.load_task(name), cohort["corpus"], silver) for name in tasks if name in task.task_names()]
    out = [f"{prose['instances']} {prose['why']}", *counted, "\n".join(f"- {line}" for line in labels) or f"Labels: {prose['gold']}", f"Licence of the notes: {prose['licence']} {prose['share']}"]
    if (run_dir / "DATASHEET.md").is_file():
        out.append("The run's `DATASHEET.md` has every count.")
    return out


def procedure(card: dict, entry: dict) -> list[str]:
    """The stage's settings and outcome as recorded beside the weights."""
    settings, outcome = card.get("training", {}), card.get("outcome", {})
    if not settings:
        return ["Not recorded."]
    rows = [(name, settings[name]) for name in SETTINGS if settings.get(name) not in (None, "")]
    out = ["\n".join(["| setting | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])]
    if outcome:
        out.append(f"{outcome.get('steps', 0):,} steps over {outcome.get('tokens', 0):,} tokens, of which {outcome.get('trained_tokens', 0):,} carried loss; "
                   f"{outcome.get('trainable_parameters', 0):,} trainable parameters.")
    if card.get("prompt_hash"):
        out.append(f"Prompts: form `{card.get('prompt', entry.get('prompt', ''))}`; hash of each task's wording: "
                   + ", ".join(f"{task} `{value}`" for task, value in card["prompt_hash"].items()) + ".")
    out.append("Versions: " + ", ".join(f"{name} {version}" for name, version in card.get("versions", {}).items()) + ".")
    return out


def energy(run_dir: Path, model: str, stage: str) -> str:
    """Time and device of the training and its energy, where codecarbon measured it; CO2 is not derived, because the grid is not known."""
    path = run_dir / "results" / "training.csv"
    rows = pd.read_csv(path).query("model == @model and stage == @stage") if path.is_file() else pd.DataFrame()
    if rows.empty:
        return "Not recorded."
    row = rows.iloc[-1]
    memory = f", peak memory {row['peak_memory_gib']:.2f} GiB ({row['memory_of']})" if pd.notna(row["peak_memory_gib"]) else ""
    took = f"This stage took {row['seconds'] / 60:,.1f} minutes in {row['num_processes']:.0f} process(es) on device {row['device']}{memory}."
    if pd.isna(row["energy_kwh"]):
        return f"{took} Its energy was not measured (codecarbon was not installed), so no carbon is stated."
    return f"{took} Energy: {row['energy_kwh']:.4f} kWh (codecarbon). No carbon is derived from it: the mix of the grid is not known."


def evaluation(results: dict, scores: pd.DataFrame, model: str, stage: str) -> list[str]:
    """Scores with intervals per ring, how they stand to simple methods, and the change of the loss where the stage read notes."""
    out = []
    if len(scores):
        extra = {metric: headline(scores, metric, "clinical") for metric in ("value_accuracy", "false_answer")}
        lines = ["| task | test set | average F1 (95 % interval) | value accuracy | false answers | n |", "|---|---|---|---|---|---|"]
        for _, row in by_ring(headline(scores)).iterrows():
            cells = [row_of(table, row) for table in extra.values()]
            lines.append(f"| {task_name(row['task'])} | {ring_name(row['split'])} | {points(row)} | {' | '.join(cells)} | {int(row['n']):,} |")
        out += ["Points from 0 to 100. Average F1 is the paper's headline, the mean of exact match, BLEU-2 and ROUGE-L; intervals resample patients, or institutions where these were held "
                "out. Nobody outside the project has verified these numbers.", "\n".join(lines)]
        if results["silver"]:
            out.append(summary.SILVER)
        out += summary.system_sentences(results["scores"], (model, stage), results["comparisons"]) + summary.ring_sentences(scores, (model, stage))
    rows = results["cpt"]
    out += summary.cpt_sentences(rows[(rows["model"] == model) & (rows["stage"] == stage)])
    return out or ["Not scored yet."]


def points(row: pd.Series) -> str:
    """A score with its interval, where it has one."""
    return f"{row['f1']:.1f} ({row['f1_low']:.1f} to {row['f1_high']:.1f})" if pd.notna(row["f1_low"]) else f"{row['f1']:.1f}"


def row_of(table: pd.DataFrame, like: pd.Series) -> str:
    """The score of the same task and test set in another table, blank where it was not computed."""
    found = table[(table["task"] == like["task"]) & (table["split"] == like["split"])]
    return "" if found.empty or pd.isna(found.iloc[0]["f1"]) else f"{found.iloc[0]['f1']:.1f}"


def limits(cohort: dict, scores: pd.DataFrame) -> list[str]:
    """The run's limits as a list, and what an adapter trained on notes may give away."""
    out = run_facts.limit_sentences(scores, cohort, None)
    if not cohort["synthetic"]:
        out.append("Trained on report text: an adapter can repeat passages of its training notes. Share it only as you would share the notes.")
    return ["\n".join(f"- {sentence}" for sentence in out)]


def citation() -> list[str]:
    """CITATION.cff as BibTeX: the project, then what it re-implements."""
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    entries = [f"@software{{open_cancerllm, title = {{{cff['title']}}}, author = {{{' and '.join(a['name'] for a in cff['authors'])}}}, "
               f"version = {{{cff['version']}}}, year = {{{str(cff['date-released'])[:4]}}}}}"]
    for number, work in enumerate(cff.get("references", []), 1):
        entries.append(f"@article{{reimplemented_{number}, title = {{{work['title']}}}, author = {{{' and '.join(a['name'] for a in work['authors'])}}}, "
                       f"journal = {{{work['journal']}}}, year = {{{work['year']}}}, doi = {{{work['doi']}}}, url = {{{work['url']}}}}}")
    return ["\n".join(["```bibtex", *entries, "```"])]
