"""Which job must run. A job is a notebook, per stage, variant and model where the study says so; its only output is the record that its notebook writes last."""

import sys

from cancerllm_utils import execute, params, paths

PROFILE = config.get("profile", "quick")
RUN = params.run_dir(PROFILE)
JOBS = params.jobs(PROFILE)
PYTHON = sys.executable
# The summary reads every other step's results and writes the report from the executed notebooks.
THEN = {"00_summary": f" && {PYTHON} -m cancerllm_utils.report {RUN}"}


def mark(job):
    return str(RUN / "records" / f"{job}.json")


def sources(notebook):
    return [str(paths.NOTEBOOKS / f"{notebook}.ipynb"), *map(str, execute.modules_used(notebook))]


def base_card(values):
    """An embedded model's card holds the checksum of its weights: a new base reruns what uses it."""
    card = paths.PACKAGE / "assets" / values.get("model", "") / "README.md"
    return [str(card)] if values.get("model") and card.is_file() else []


def cards(job, values):
    """Graphics cards to ask of a cluster (local runs take what is there): one per training process of a model that is not embedded."""
    embedded = (paths.PACKAGE / "assets" / values.get("model", "")).is_dir()
    return values.get("num_processes", 1) if job.startswith(params.PER_MODEL) and not embedded else 0


def reads_only(notebook, values):
    """Steps that only read what others made run side by side; one that trains, answers, or measures the machine has it to itself."""
    return notebook in params.READING or (notebook.startswith("A") and not values["train_base"])


rule all:
    input: [mark(job) for job in JOBS]

for JOB, VALUES in JOBS.items():
    NOTEBOOK = JOB.partition(".")[0]
    rule:
        name: f"notebook_{JOB}"
        input: [mark(other) for other in params.needs(JOB, JOBS)], sources(NOTEBOOK), base_card(VALUES)
        output: mark(JOB)
        params: job=JOB, values=VALUES, data=execute.data_fingerprint(VALUES), then=THEN.get(NOTEBOOK, "")
        log: str(RUN / "notebooks" / f"{JOB}.ipynb")
        threads: 1 if reads_only(NOTEBOOK, VALUES) else workflow.cores
        priority: -1 if NOTEBOOK.startswith("A") else 0  # an appendix waits until a core is free beside another step
        resources: gpu=cards(JOB, VALUES)
        shell: "{PYTHON} -m cancerllm_utils.execute {params.job} {RUN}{params.then}"  # read when a job runs: the loop's own names hold the last job then
