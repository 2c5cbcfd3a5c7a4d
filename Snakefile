"""Which job must run. A job is a notebook, per stage, variant and model where the study says so; its only output is the record that its notebook writes last."""

import sys

import psutil

from cancerllm_utils import execute, params, paths, study

PROFILE = config.get("profile", "quick")
RUN = params.run_dir(PROFILE)
JOBS = study.jobs(PROFILE)
PYTHON = sys.executable
# The summary reads every other step's results and writes the report from the executed notebooks.
THEN = {"00_summary": f" && {PYTHON} -m cancerllm_utils.report {RUN}"}


def mark(job):
    return str(RUN / "records" / f"{job}.json")


def sources(notebook):
    return [str(paths.NOTEBOOKS / f"{notebook}.ipynb"), *map(str, execute.modules_used(notebook))]


def models_of(values):
    """The models that a step trains or asks: most have one, a study of several names them."""
    return [name for name in [values.get("model", ""), *values.get("models", [])] if name]


def base_card(values):
    """An embedded model's card holds the checksum of its weights: a new base reruns what uses it."""
    files = [paths.PACKAGE / "assets" / name / "README.md" for name in models_of(values)]
    return [str(card) for card in files if card.is_file()]


def embedded(values):
    return all((paths.PACKAGE / "assets" / name).is_dir() for name in models_of(values))


def cards(job, values):
    """Graphics cards to ask of a cluster (local runs take what is there): one per training process of a model that is not embedded."""
    return values.get("num_processes", 1) if job.startswith((*params.PER_MODEL, params.RADONC)) and not embedded(values) else 0


def halved(notebook, values):
    """Trainings of an embedded model run side by side, each on half of the cores: nearly twice as fast as one after the other on all of them."""
    return notebook in (params.PRETRAINING, params.TUNING) and embedded(values)


def cores_of(notebook, values):
    """Steps that only read what others made take one core; what answers, or measures the machine, has it to itself."""
    if notebook in params.READING or (notebook.startswith("A") and not values["train_base"]):
        return 1
    return max(1, workflow.cores // 2) if halved(notebook, values) or notebook == "02_dataset_preparation" else workflow.cores


def fewer_threads(notebook, values):
    """As many threads as a halved step has physical cores, where the user set no number; elsewhere the step decides."""
    n = max(1, min(workflow.cores, psutil.cpu_count(logical=False) or 1) // 2)
    return f"OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{n}}} " if halved(notebook, values) else ""


rule all:
    input: [mark(job) for job in JOBS]

for JOB, VALUES in JOBS.items():
    NOTEBOOK = JOB.partition(".")[0]
    rule:
        name: f"notebook_{JOB}"
        input: [mark(other) for other in study.needs(JOB, JOBS)], sources(NOTEBOOK), base_card(VALUES)
        output: mark(JOB)
        params: job=JOB, values=VALUES, data=execute.data_fingerprint(VALUES), then=THEN.get(NOTEBOOK, ""), threads=fewer_threads(NOTEBOOK, VALUES)
        log: str(RUN / "notebooks" / f"{JOB}.ipynb")
        threads: cores_of(NOTEBOOK, VALUES)
        priority: -1 if NOTEBOOK.startswith("A") else 0  # an appendix waits until a core is free beside another step
        resources: gpu=cards(JOB, VALUES)
        shell: "{params.threads}{PYTHON} -m cancerllm_utils.execute {params.job} {RUN}{params.then}"  # read when a job runs: the loop's own names hold the last job then
