"""Every path of the project, absolute. No other module spells one out."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Right only for an editable install or a checkout: an installed copy without the study around it cannot run, so fail loudly.
if not (ROOT / "Snakefile").is_file():
    raise RuntimeError(f"{ROOT} holds no Snakefile: install the project in place (pip install -e .) from a checkout.")

NOTEBOOKS = ROOT / "notebooks"
PARAMS = ROOT / "params"
FIGURES = ROOT / "figures"
PACKAGE = ROOT / "cancerllm_utils"
SNAKEFILE = ROOT / "Snakefile"
TINY_BASE = PACKAGE / "assets" / "tiny_base"


def data_dir(value: str = "") -> Path:
    """Folder of the public data: the parameter if given, else CANCERLLM_DATA, else data/ in the checkout."""
    return Path(value or os.environ.get("CANCERLLM_DATA") or ROOT / "data").expanduser().resolve()


def runs_dir() -> Path:
    """Folder of all runs: CANCERLLM_RUNS, else runs/ in the checkout."""
    return Path(os.environ.get("CANCERLLM_RUNS") or ROOT / "runs").expanduser().resolve()


def run_dir(profile: str) -> Path:
    """Folder in which everything of one profile's run lies."""
    return runs_dir() / profile


def resolve_run(folder: str) -> Path:
    """Absolute folder of a run from a notebook's `run_dir`: absolute as it is, `runs/x` below the runs folder, so that it does not depend on where Jupyter was started."""
    path = Path(folder).expanduser()
    if path.is_absolute():
        return path
    return runs_dir() / path.relative_to("runs") if path.parts[:1] == ("runs",) else ROOT / path
