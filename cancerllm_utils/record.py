"""What a step did: parameters, commit, versions, device, seconds, sha256 of inputs and outputs. The record file is the success mark, written last."""

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from cancerllm_utils import params, paths, study
from cancerllm_utils.errors import UserError

LIBRARIES = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "papermill", "pandas", "scikit-learn")


def start(notebook: str, namespace: dict, part: str = "") -> dict:
    """Begin a step from inside its notebook: take the step's lock, note parameters and surroundings.

    `namespace` is the notebook's globals(): the declared parameters are read from it as they stand. The record's name is the job that the
    notebook runs as (environment variable CANCERLLM_JOB), or, where it is run by hand, the notebook with `part` or with the stage of a variant.
    A second process working on the same step of the same run, an orphan of a killed run for instance, is refused.
    """
    import pandas as pd  # here: `cancerllm check` needs no tables

    pd.set_option("display.max_colwidth", None)  # a table's sentences are shown whole, not cut at 50 characters
    values = {key: namespace[key] for key in params.declared(notebook)}
    run_dir = paths.resolve_run(values["run_dir"])
    job, part = os.environ.get("CANCERLLM_JOB", ""), part or values.get("stage", "")
    name = job if job.partition(".")[0] == notebook else study.job_name(notebook, "" if part == "cpt" else part, "")
    mark = run_dir / "records" / f"{name}.json"
    mark.parent.mkdir(parents=True, exist_ok=True)
    lock = open(mark.with_suffix(".lock"), "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"Step {name} of {run_dir} is being run by another process. Wait for it, or end it, and run again.") from None
    mark.unlink(missing_ok=True)
    return {
        "step": name, "params": values, "commit": commit(), "versions": versions(), "device": device(), "seed": values.get("seed"),
        "started": now(), "_mark": mark, "_lock": lock, "_clock": time.monotonic(),
    }  # fmt: skip


def finish(step: dict, inputs: list[Path] = (), outputs: list[Path] = ()) -> str:
    """Write the step's record, its success mark, as the last thing; returns a sentence for the notebook."""
    mark, lock, clock = step["_mark"], step["_lock"], step["_clock"]
    run_dir = mark.parent.parent
    body = {key: value for key, value in step.items() if not key.startswith("_")}
    body |= {"seconds": round(time.monotonic() - clock, 1), "finished": now(), "inputs": hashes(inputs, run_dir), "outputs": hashes(outputs, run_dir)}
    part = mark.with_suffix(".part")
    with open(part, "w", encoding="utf-8") as file:
        json.dump(body, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, mark)
    fcntl.flock(lock, fcntl.LOCK_UN)
    return f"{step['step']} finished in {body['seconds']:.0f} s (commit {body['commit']}, {len(body['outputs'])} outputs recorded)."


def hashes(files: list[Path], run_dir: Path) -> dict[str, str]:
    """{path, relative to the run where it lies inside it: sha256}; a folder stands for its files."""
    found = {}
    for entry in map(Path, files):
        for file in sorted(p for p in entry.rglob("*") if p.is_file()) if entry.is_dir() else [entry]:
            name = str(file.relative_to(run_dir)) if file.is_relative_to(run_dir) else str(file)
            with open(file, "rb") as handle:
                found[name] = hashlib.file_digest(handle, "sha256").hexdigest()
    return found


def commit() -> str:
    """Short git commit of the checkout, with `+changes` where tracked files differ from it; `no git` outside one."""
    git = ["git", "-C", str(paths.ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no git"
    return head + ("+changes" if changed else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that move results."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = "absent"
    return found


def device() -> str:
    """The processor, its cores, and the graphics card where torch was already loaded and sees one."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        model = next((line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")), model)
    cuda = [sys.modules["torch"].cuda.get_device_name()] if "torch" in sys.modules and sys.modules["torch"].cuda.is_available() else []
    return ", ".join([f"{model}, {os.cpu_count()} cores", *cuda])


def now() -> str:
    """UTC time, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
