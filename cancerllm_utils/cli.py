"""The commands: `cancerllm run | check | predict | score`. Exit code 2 and one sentence for anything a user can mend."""

import argparse
import fcntl
import os
import shlex
import subprocess
import sys
from pathlib import Path

from cancerllm_utils import paths
from cancerllm_utils.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, run the command, return the exit code."""
    parser = argparse.ArgumentParser(prog="cancerllm", description="The open, re-runnable CancerLLM. Research on historical data, not for clinical use.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run every notebook of a profile that is not up to date")
    run.add_argument("profile", nargs="?", default="quick", help="a file of params/ by name, or the path of a .yaml file of your own")
    run.add_argument("--dry-run", action="store_true", help="say what would run, run nothing")
    run.add_argument("--cores", type=int, default=0, help="cores to use, on a cluster per job (default: all)")
    run.add_argument("--snakemake", default="", metavar="OPTIONS", help="further options for Snakemake in one string, such as '--executor slurm --jobs 8'")
    check = commands.add_parser("check", help="say what a profile lacks on this machine")
    check.add_argument("profile", nargs="?", default="quick")
    check.add_argument("--dry-run", action="store_true", help="also print every job with its tokens, memory and hours on a reference card")
    for command in (run, check):
        command.add_argument("--tflops", type=float, default=395.0, help="rate of the dry run's card, 1e12 operations per second (default: 395, an H100 at 40 %% of its peak)")
        command.add_argument("--gpu-memory", type=float, default=80.0, help="GiB of the dry run's card (default: 80)")
    predict = commands.add_parser("predict", help="apply a tuned model to notes")
    predict.add_argument("--model", required=True, metavar="DIR", help="folder of a tuned stage, such as runs/tcga/models/tiny_base/cpt-sft")
    predict.add_argument("--task", required=True)
    predict.add_argument("--fields", default="", help="comma-separated; default: all fields of the task that the model was tuned on")
    predict.add_argument("input", metavar="IN", help="JSON lines {note_id, text}, a .txt file, or a folder of .txt files")
    predict.add_argument("output", metavar="OUT.jsonl")
    score = commands.add_parser("score", help="score predictions of any system in both metric families")
    score.add_argument("file", metavar="FILE.jsonl", help="rows {id, answers: [..], prediction: '..'}, optional patient_id")
    score.add_argument("--json", action="store_true", help="print eight JSON rows and nothing else")
    arguments = parser.parse_args(argv)
    try:
        return COMMANDS[arguments.command](arguments)
    except UserError as error:
        print(f"cancerllm {arguments.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command continues where it was", file=sys.stderr)
        return 130


def run_command(arguments) -> int:
    """Check the profile, say what is to come, hand over to Snakemake, say where the report is."""
    from cancerllm_utils import params, study

    profile = arguments.profile if not arguments.profile.endswith((".yaml", ".yml")) else str(params.profile_path(arguments.profile))
    jobs = study.jobs(profile)
    run_dir = params.run_dir(profile)
    run_dir.mkdir(parents=True, exist_ok=True)
    study.write_flat(profile, jobs)
    lock = open(run_dir / ".lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another run of profile {profile} is at work in {run_dir}. Wait for it or stop it.") from None
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(paths.SNAKEFILE), "--directory", str(run_dir), "--config", f"profile={profile}",
        "--cores", str(arguments.cores or os.cpu_count()), "--nolock", "--rerun-incomplete",
    ]  # fmt: skip
    environment = os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    due = due_jobs(command, environment)
    if not due:
        print(f"Nothing to do: every step of {profile} is up to date. The report: {report_of(run_dir)}")
        return 0
    from cancerllm_utils import plan, preflight  # seconds of imports that a run with nothing to do is spared

    if arguments.dry_run:
        print(f"Profile {profile}: {len(due)} of {len(jobs)} steps to run: {', '.join(due)}")
        print(plan.text(profile, arguments.tflops, arguments.gpu_memory))
        return 0
    problems = [finding for finding in preflight.check(profile) if finding["missing"]]
    if problems:
        raise UserError(f"profile {profile} cannot run here:\n" + "\n".join(f"  - {finding['text']}" for finding in problems))
    print(f"Profile {profile}: {len(due)} of {len(jobs)} steps to run: {', '.join(due)}")
    print(preflight.estimate(profile, due))
    sys.stdout.flush()
    # Snakemake inherits the lock, so a run whose parent was killed still keeps a second one out.
    code = subprocess.run([*command, "--quiet", "all", *shlex.split(arguments.snakemake)], env=environment, pass_fds=[lock.fileno()]).returncode
    if code:
        raise UserError(f"the run stopped before its end (see above). What is finished is kept: `make run PROFILE={profile}` continues.")
    print(f"Done. The report: {report_of(run_dir)}")
    return 0


def due_jobs(command: list[str], environment: dict) -> list[str]:
    """Names of the jobs that Snakemake would run now, in order."""
    result = subprocess.run([*command, "--dry-run", "--quiet", "progress"], env=environment, capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"Snakemake refused the workflow: {result.stderr.strip()[-2000:]}")
    lines = (result.stdout + result.stderr).splitlines()
    return sorted({line.split()[-1].rstrip(":").removeprefix("notebook_") for line in lines if line.startswith(("rule ", "localrule "))} - {"all"})


def report_of(run_dir: Path) -> str:
    """Address of the run's report, if there is one."""
    page = run_dir / "report" / "index.html"
    return f"file://{page}" if page.is_file() else f"none yet in {run_dir}"


def check_command(arguments) -> int:
    """Print every finding, after the plan of all jobs if asked; exit code 2 when something is missing and the plan was not asked for."""
    from cancerllm_utils import plan, preflight

    if arguments.dry_run:
        print(plan.text(arguments.profile, arguments.tflops, arguments.gpu_memory) + "\n")
    findings = preflight.check(arguments.profile)
    for finding in findings:
        print(f"{'MISSING' if finding['missing'] else 'ok     '}  {finding['text']}")
    return 2 if any(finding["missing"] for finding in findings) and not arguments.dry_run else 0


def predict_command(arguments) -> int:
    """Apply a tuned model to notes."""
    from cancerllm_utils import predict

    predict.predict_main(arguments.model, arguments.task, arguments.input, arguments.output, arguments.fields)
    return 0


def score_command(arguments) -> int:
    """Score a file of predictions."""
    from cancerllm_utils.evaluation import score

    score.main_score(arguments.file, arguments.json)
    return 0


COMMANDS = {"run": run_command, "check": check_command, "predict": predict_command, "score": score_command}

if __name__ == "__main__":
    sys.exit(main())
