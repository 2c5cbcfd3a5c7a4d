"""A whole run folder with invented results, small and seeded, for the tests of figures and report."""

import json

import nbformat
import numpy as np
import pandas as pd

from cancerllm_utils.results import SCORE_COLUMNS

SYSTEMS = {("majority", "baseline"): 20, ("majority_by_cancer", "baseline"): 30, ("tfidf", "baseline"): 45, ("rules", "baseline"): 70,
           ("tiny_base", "base"): 4, ("tiny_base", "sft"): 55, ("tiny_base", "cpt-sft"): 60}
TASKS = {"phenotype_extraction": ["tumor_size", "grade", "laterality"], "diagnosis_generation": ["diagnosis"]}
SECRET = "the left breast lumpectomy specimen arrives fresh with a long lateral suture and measures about nine centimetres"


def scores() -> pd.DataFrame:
    """scores.csv of seven systems, two tasks, three rings; the average F1 of held-out patients is SYSTEMS[...], other rings 5 and 10 lower."""
    rows = []

    def add(system, task, split, field, subgroup, family, metric, f1, n=200):
        f1 = float(np.clip(f1, 0, 100))
        rows.append([*system, task, "all", split, field, subgroup, family, metric, f1, f1, f1, max(f1 - 2, 0), min(f1 + 2, 100), n, 3, 1])

    for system, level in SYSTEMS.items():
        for task, fields in TASKS.items():
            for drop, split in [(0, "test"), (5, "external_site"), (10, "external")]:
                for subgroup in ["all", "headline"] if task == "phenotype_extraction" else ["all"]:
                    for family in ["paper", "clinical"]:
                        for metric in ["exact_match", "bleu2", "rougeL", "average"]:
                            add(system, task, split, "all", subgroup, family, metric, level - drop)
                    add(system, task, split, "all", subgroup, "clinical", "value_accuracy", level - drop + 3, 150)
                    add(system, task, split, "all", subgroup, "clinical", "miss", 12, 150)
                    add(system, task, split, "all", subgroup, "clinical", "eos_share", 99.5)
                    if task == "phenotype_extraction":
                        add(system, task, split, "all", subgroup, "clinical", "false_answer", 50 - level / 2, 50)
                        add(system, task, split, "all", subgroup, "clinical", "right_stated", level - drop, 150)
                        for field in ["all", *fields]:
                            for metric, f1, n in [("value_minus_false", level - 30, 200), ("miss", 12, 150), ("false_answer", 50 - level / 2, 50), ("right_stated", level - drop, 150)]:
                                if field != "all" or metric == "value_minus_false":
                                    add(system, task, split, field, subgroup, "clinical", metric, f1, n)
                    for i, field in enumerate(fields):
                        add(system, task, split, field, subgroup, "clinical", "value_accuracy", level - drop + 7 * i, 60)
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


def cpt() -> pd.DataFrame:
    """cpt.csv: loss 4.0 to 3.0 on dev (-25 %), 4.2 to 3.5 on external; a cancer type and a tuned stage, of which no sentence speaks."""
    rows = [["cpt", "before", "dev", "all", 4.0, 1.6, 9000], ["cpt", "during", "dev", "all", 3.9, 1.5, 900], ["cpt", "after", "dev", "all", 3.0, 1.2, 9000],
            ["cpt", "before", "external", "all", 4.2, 1.7, 8000], ["cpt", "after", "external", "all", 3.5, 1.4, 8000], ["cpt", "before", "held out", "BRCA", 4.7, 1.9, 700],
            ["cpt", "after", "held out", "BRCA", 3.7, 1.5, 700], ["sft", "before", "general", "all", 5.7, 2.1, 600], ["sft", "after", "general", "all", 5.9, 2.2, 600]]
    return pd.DataFrame(rows, columns=["stage", "when", "split", "subgroup", "loss", "bits_per_byte", "tokens"]).assign(model="tiny_base")


def curve() -> pd.DataFrame:
    """learning_curve.csv of two stages."""
    steps = np.arange(10, 110, 10)
    parts = [pd.DataFrame({"stage": stage, "step": steps, "tokens": steps * 900, "loss": 3 * np.exp(-steps / scale) + 0.3,
                           "dev_loss": np.where(steps % 50 == 0, 3 * np.exp(-steps / scale) + 0.5, np.nan)})
             for stage, scale in [("sft", 40), ("cpt-sft", 30)]]
    return pd.concat(parts, ignore_index=True)


def notes(source: str = "synthetic") -> pd.DataFrame:
    """120 notes of 60 patients; the first note holds SECRET."""
    random, rows = np.random.default_rng(1), []
    for i in range(120):
        text = " ".join(["word"] * int(random.integers(40, 300)))
        rows.append([f"n{i}", f"p{i // 2}", f"s{i % 6}", f"Hospital {i % 4}", ["pathology_report", "clinic_note"][i % 2], ["BRCA", "LUAD", "PRAD"][i // 2 % 3],
                     "2020", SECRET if i == 0 else text, source])
    return pd.DataFrame(rows, columns=["note_id", "patient_id", "site", "institution", "note_type", "cancer_type", "date", "text", "source"])


def splits() -> pd.DataFrame:
    """60 patients: 30 train and some in each other ring."""
    rings = ["train"] * 30 + ["dev"] * 6 + ["test"] * 9 + ["external_site"] * 6 + ["external"] * 9
    return pd.DataFrame({"patient_id": [f"p{i}" for i in range(60)], "split": rings})


def labels() -> pd.DataFrame:
    """One row per note and field; of grade three of four are stated, of laterality every one; the registry has grade only."""
    rows = []
    for i, note in notes().iterrows():
        for field in ["grade", "laterality"]:
            stated = field == "laterality" or i % 4
            rows.append([note["patient_id"], note["note_id"], field, "stated" if stated else "uncertain", "G2" if stated else None, "G2" if field == "grade" else None])
    return pd.DataFrame(rows, columns=["patient_id", "note_id", "field", "evidence", "stated_value", "registry_value"])


def notebook(title: str, output: str, figure: str) -> nbformat.NotebookNode:
    """An executed notebook: a heading, one code cell with an HTML table and a stream output."""
    code = nbformat.v4.new_code_cell(f'hidden_code = 1\nplots.save(plots.one(scores), run, "{figure}", "A caption.")', outputs=[
        nbformat.v4.new_output("display_data", data={"text/html": '<table class="dataframe"><thead><tr><th>a</th></tr></thead></table>', "text/plain": "a"}),
        nbformat.v4.new_output("display_data", data={"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"}),
        nbformat.v4.new_output("stream", name="stdout", text=output),
    ])
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {title}\n\nText with $x$."), code])


def write_run(run_dir, source: str = "synthetic"):
    """Write everything above as a run folder; returns it."""
    from cancerllm_utils import plots
    from cancerllm_utils.plots import corpus, evaluation  # seaborn takes a second, and the tests of tables and sentences draw nothing

    for folder in ["corpus", "results", "records", "notebooks", "figures", "models/tiny_base/cpt-sft"]:
        (run_dir / folder).mkdir(parents=True)
    notes(source).to_parquet(run_dir / "corpus" / "notes.parquet")
    splits().to_parquet(run_dir / "corpus" / "splits.parquet")
    labels().to_parquet(run_dir / "corpus" / "labels.parquet")
    (run_dir / "corpus" / "flow.json").write_text(json.dumps([{"step": "read", "n_reports": 125, "n_patients": 62, "note": ""},
                                                               {"step": "kept", "n_reports": 120, "n_patients": 60, "note": "short notes dropped"}]))
    scores().to_csv(run_dir / "results" / "scores.csv", index=False)
    cpt().to_csv(run_dir / "results" / "cpt.csv", index=False)
    curve().to_csv(run_dir / "results" / "learning_curve.csv", index=False)
    nbformat.write(notebook("Who is in the cohort?", "a table", "cohort"), run_dir / "notebooks" / "01_data_exploration.ipynb")
    nbformat.write(notebook("Instruction tuning", f"an excerpt: {SECRET}", "leaderboard"), run_dir / "notebooks" / "04_instruction_tuning.cpt-sft.ipynb")
    for i, step in enumerate(["01_data_exploration", "06_evaluation"]):
        record = {"step": step, "params": {"seed": 1, "run_dir": "runs/x"}, "commit": "abcdef1234+changes", "versions": {"torch": "2.13.0"}, "device": "cpu, 2 cores",
                  "seed": 1, "seconds": 12.4, "inputs": {}, "outputs": {}, "started": f"2026-01-0{i + 1}T10:00:00", "finished": "2026-01-03"}
        (run_dir / "records" / f"{step}.json").write_text(json.dumps(record))
    plots.save(evaluation.leaderboard(scores()), run_dir, "leaderboard", "Average F1 by task.")
    plots.save(corpus.cohort(notes(), splits()), run_dir, "cohort", "Patients by cancer type & ring.")
    return run_dir
