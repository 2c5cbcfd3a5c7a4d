"""A data dictionary for results/: results/README.md says what every file and column there means, in which unit. Descriptions stand in results_files.yaml."""

from functools import cache
from pathlib import Path

import pandas as pd
import pyarrow.parquet
import yaml


@cache
def described() -> dict:
    """results_files.yaml as a dict: columns (of several tables), metrics, files. It is kept: do not change it."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def tables(run_dir: str | Path) -> dict[str, tuple[list[str], int]]:
    """File name -> (columns, rows) of every table of results/, by name."""
    found = {}
    for path in sorted((Path(run_dir) / "results").glob("*.csv")):
        table = pd.read_csv(path, dtype=str)
        found[path.name] = (list(table.columns), len(table))
    for path in sorted((Path(run_dir) / "results").glob("*.parquet")):
        file = pyarrow.parquet.ParquetFile(path)
        found[path.name] = (file.schema_arrow.names, file.metadata.num_rows)
    return found


def meaning(file: str, column: str) -> tuple[str, str] | None:
    """(what, unit) of a column of a file, None where nobody has described it."""
    entry = described()["files"].get(file)
    if entry is None:
        return None
    if column in entry.get("own", {}):
        return tuple(entry["own"][column].split(" | "))
    return tuple(described()["columns"][column].split(" | ")) if column in entry["columns"] else None


def undescribed(run_dir: str | Path) -> list[str]:
    """`file: column` of every column of the run's results that the dictionary does not know; [] when it is complete."""
    return [f"{file}: {column}" for file, (columns, _) in tables(run_dir).items() for column in columns if meaning(file, column) is None]


def write(run_dir: str | Path) -> Path:
    """Write results/README.md, the dictionary of the tables that this run has; returns its path. An undescribed column is listed as such."""
    folder, found = Path(run_dir) / "results", tables(run_dir)
    order = [file for file in described()["files"] if file in found] + [file for file in found if file not in described()["files"]]
    lines = ["# Results of this run", "", "Tidy tables, UTF-8, comma, one header line. Written by the report from results_files.yaml; do not edit by hand.",
             "Research on historical data, not guidance. Not for clinical use."]
    if (folder / "lm_eval").is_dir():
        lines += ["", "`lm_eval/<model>__<stage>/results_<date>.json`: the same headline scores in the layout of EleutherAI's lm-evaluation-harness, one file per system, values from 0 to 1."]
    for file in order:
        columns, rows = found[file]
        entry = described()["files"].get(file, {"what": "Not described.", "by": "not recorded"})
        lines += ["", f"## {file}", "", f"{entry['what']} Written by {entry['by']}; {rows:,} rows.", "", "| column | meaning | unit |", "|---|---|---|"]
        lines += ["| " + " | ".join(cell.replace("|", "/") for cell in (column, *(meaning(file, column) or ("not described", "")))) + " |" for column in columns]
    lines += ["", "## Metrics", "", "| metric | meaning | unit | better |", "|---|---|---|---|"]
    lines += [f"| {name} | {about} |" for name, about in described()["metrics"].items()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "README.md"
