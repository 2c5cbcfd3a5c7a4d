"""Which notebook must run. One job per notebook (04: per stage); a job's only output is the record that its notebook writes last."""

import sys

from cancerllm_utils import execute, params, paths

PROFILE = config.get("profile", "quick")
RUN = params.run_dir(PROFILE)
JOBS = params.jobs(PROFILE)
PYTHON = sys.executable


def mark(job):
    return str(RUN / "records" / f"{job}.json")


def needs(*jobs):
    """Marks of those of the named jobs that this profile runs (04 stands for all its stages)."""
    return [mark(job) for job in JOBS if job in jobs or job.partition(".")[0] in jobs]


def sources(notebook):
    return [str(paths.NOTEBOOKS / f"{notebook}.ipynb"), *map(str, execute.modules_used(notebook))]


def base_card(notebook):
    """The embedded model's card holds the checksum of its weights: a new base reruns what uses it."""
    return [str(paths.TINY_BASE / "README.md")] if JOBS[notebook].get("model") == "tiny_base" and (paths.TINY_BASE / "README.md").is_file() else []


RUN_JOB = "{PYTHON} -m cancerllm_utils.execute {params.job} {RUN}"

rule all:
    input: [mark(job) for job in JOBS]

ORDER = {
    "01_data_exploration": (),
    "02_dataset_preparation": ("01_data_exploration",),
    "03_continued_pretraining": ("01_data_exploration",),
    "05_prediction": ("02_dataset_preparation", "03_continued_pretraining", "04_instruction_tuning"),
    "06_evaluation": ("05_prediction",),
    "A1_tiny_base": (),
}

for NOTEBOOK, BEFORE in ORDER.items():
    if NOTEBOOK in JOBS:
        rule:
            name: f"notebook_{NOTEBOOK}"
            input: needs(*BEFORE), sources(NOTEBOOK), base_card(NOTEBOOK)
            output: mark(NOTEBOOK)
            params: job=NOTEBOOK, values=JOBS[NOTEBOOK], data=execute.data_fingerprint(JOBS[NOTEBOOK])
            log: str(RUN / "notebooks" / f"{NOTEBOOK}.ipynb")
            threads: workflow.cores
            shell: RUN_JOB

for JOB in [job for job in JOBS if job.startswith(params.PER_STAGE)]:
    rule:
        name: f"notebook_{JOB}"
        input:
            needs("02_dataset_preparation", *(["03_continued_pretraining"] if JOBS[JOB]["stage"].startswith("cpt") else [])),
            sources(params.PER_STAGE), base_card(JOB)
        output: mark(JOB)
        params: job=JOB, values=JOBS[JOB]
        log: str(RUN / "notebooks" / f"{JOB}.ipynb")
        threads: workflow.cores
        shell: RUN_JOB

# The summary reads every other step's results and writes the report from the executed notebooks, so it runs last.
if "00_summary" in JOBS:
    rule notebook_00_summary:
        input: [mark(job) for job in JOBS if job != "00_summary"], sources("00_summary")
        output: mark("00_summary")
        params: job="00_summary", values=JOBS["00_summary"]
        log: str(RUN / "notebooks" / "00_summary.ipynb")
        threads: workflow.cores
        shell: RUN_JOB + " && {PYTHON} -m cancerllm_utils.report {RUN}"
