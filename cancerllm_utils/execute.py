"""Run one notebook as one job: the package's thin call of papermill, and which files a notebook's result depends on."""

import ast
import hashlib
import os
import sys
import tempfile
from pathlib import Path

import psutil
import yaml

from cancerllm_utils import paths
from cancerllm_utils.errors import UserError


def run_notebook(job: str, profile_run: Path) -> Path:
    """Execute the notebook of `job` with runs/<profile>/params/<job>.yaml and return the executed copy under runs/<profile>/notebooks/.

    The kernel talks over a private IPC path (papermill's default is plain text over TCP; IPC without a path of its own collides between kernels).
    What the notebook prints is streamed to the terminal. Raises UserError with one sentence when the notebook fails or its kernel dies.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    parameters = yaml.safe_load((profile_run / "params" / f"{job}.yaml").read_text(encoding="utf-8"))
    source = paths.NOTEBOOKS / f"{job.partition('.')[0]}.ipynb"
    target = profile_run / "notebooks" / f"{job}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    os.environ["CANCERLLM_JOB"] = job  # the kernel inherits it: the record that it writes is this job's
    with tempfile.TemporaryDirectory(prefix="cllm") as folder:
        try:
            papermill.execute_notebook(
                source, target, parameters=parameters, kernel_name="python3", progress_bar=False, cwd=paths.NOTEBOOKS, shutdown_kernel="immediate",
                stdout_file=sys.stdout, stderr_file=sys.stderr, config=Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/k"}}),
            )  # fmt: skip
        except PapermillExecutionError as error:
            if error.ename in ("UserError", "KeyboardInterrupt"):
                raise UserError(f"{job}: {error.evalue}") from None
            # the error's own text may quote data: the executed notebook, which stays in the run's folder, has it in full
            raise UserError(f"{job} stopped with {error.ename}. The executed notebook has the full message: {target}") from None
        except DeadKernelError:
            raise UserError(f"The kernel of {job} died (killed, or out of memory). Nothing is lost: run the same command again and it continues.") from None
    return target


def let_threads_sleep(busy: float) -> None:
    """Where other programs use more than a third of a core (`busy`, in cores), let OpenMP's waiting threads sleep; a user's own OMP_WAIT_POLICY stays.

    By default they spin. Of a small model's two threads one is then pushed off its core while the other spins: beside one other program training of the
    embedded model fell from 2,400 to between 100 and 650 tokens a second, and with sleeping threads to 1,250. Alone, sleeping costs two fifths.
    """
    if busy > 1 / 3 and os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE") == "PASSIVE":
        print(f"other programs use {busy:.1f} cores: threads sleep while they wait", flush=True)


def modules_used(notebook: str) -> list[Path]:
    """The package files that a notebook's result depends on: modules it imports, directly or through others, and the word lists and tables that they name or share a name with."""
    import nbformat

    code = "\n".join(cell.source for cell in nbformat.read(paths.NOTEBOOKS / f"{notebook}.ipynb", 4).cells if cell.cell_type == "code")
    found, waiting = set(), imported(code, None)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting |= imported(module.read_text(encoding="utf-8"), module)
    # what runs a notebook does not change what it finds
    found -= {paths.PACKAGE / f"{name}.py" for name in ("cli", "execute", "params", "study", "record", "paths", "errors", "__init__")}
    lists = {
        y for m in found for y in [*m.parent.iterdir(), *(paths.PARAMS / "shared").iterdir()] if y.suffix in (".yaml", ".txt", ".csv")
        and (y.stem == m.stem or y.name in m.read_text(encoding="utf-8") or m.parent.name == "tasks")
    }  # fmt: skip
    return sorted(found | lists)


def data_fingerprint(values: dict) -> str:
    """Names, sizes and times of the files that a step reads from outside: new data reruns it. Empty where a step reads none."""
    sources = [Path(values[name]) for name in ("labels_file", "adjudicated_csv", "gpu_table") if values.get(name)] + [Path(name) for name in values.get("ratings", [])]
    if (values.get("corpus", "synthetic") != "synthetic" and "data_dir" in values) or values.get("train_base"):
        sources.append(paths.data_dir(values.get("data_dir", "")))
    files = [file for source in sources for file in (sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]) if file.is_file()]
    state = "\n".join(f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files)
    return hashlib.sha256(state.encode()).hexdigest() if sources else ""


def imported(code: str, module: Path | None) -> set[Path]:
    """Files of this package that a piece of Python imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module.relative_to(paths.ROOT).parent.parts if module and node.level else ()  # `from .task import x`
            name = ".".join([*above[: len(above) + 1 - node.level], *([node.module] if node.module else [])])
            names |= {name} | {f"{name}.{alias.name}" for alias in node.names}
    files = set()
    for name in names:
        if name.split(".")[0] == paths.PACKAGE.name:
            path = paths.ROOT / Path(*name.split("."))
            files |= {candidate for candidate in (path.with_suffix(".py"), path / "__init__.py") if candidate.is_file()}
    return files


def main(job: str, profile_run: str) -> int:
    """Entry point of a Snakemake job: 0, or 2 with one sentence on stderr."""
    let_threads_sleep(psutil.cpu_percent(interval=0.5) / 100 * psutil.cpu_count())
    try:
        run_notebook(job, Path(profile_run))
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
