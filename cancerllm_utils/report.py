"""The report of a run: one self-contained page, a page per executed notebook, the figures folder, a model card. It only reads results.

What was not run is said to be missing; nothing is computed here that a notebook should have computed.
"""

import base64
import html
import json
import os
import platform
import re
import shutil
import sys
from pathlib import Path

import jinja2
import pandas as pd
import yaml

from cancerllm_utils import paths, summary
from cancerllm_utils.corpus import identifiers
from cancerllm_utils.errors import UserError
from cancerllm_utils.paths import FIGURES, PACKAGE

ASSETS = PACKAGE / "assets" / "report"
SHINGLE = 8  # words in a row shared with a note: by chance practically impossible, in a shown excerpt certain


def build_report(run_dir: str | Path, report_text: bool = False) -> Path:
    """Write report/index.html and report/<notebook>.html below the run folder; returns the path of index.html.

    The pages load nothing and run nothing (Content-Security-Policy), so they open from disk without a network. Unless the notes are synthetic or
    report_text is set, a notebook's page that would show a passage of a note is left out, and the index says so.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise UserError(f"folder {run_dir}: no such run. Start it with `make run`.")
    records, results = read_records(run_dir), summary.read_results(run_dir)
    cohort, scores = read_cohort(run_dir), results["scores"]
    labels = run_dir / "corpus" / "labels.parquet"
    uncertain = pd.read_parquet(labels, columns=["evidence"])["evidence"].eq("uncertain") if labels.is_file() else None
    commits = list(dict.fromkeys(record["commit"] for record in records if record.get("commit")))
    shared = {
        "css": (ASSETS / "report.css").read_text(encoding="utf-8"), "profile": run_dir.name, "commit": ", ".join(commits),
        "contains_text": report_text and not cohort["synthetic"],
    }
    pages = jinja2.Environment(loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True)
    notebooks, written = read_notebooks(run_dir, records), {}
    for notebook in notebooks:
        written[notebook["page"]] = pages.get_template("notebook.html.j2").render(shared, title=notebook["title"], body=notebook["body"])
    left_out = []
    if not cohort["synthetic"] and not report_text and cohort["notes"] is not None:
        for page in pages_with_note_text(written, cohort["notes"]["text"]):
            left_out.append(f"{page}: it shows a passage of a note. Set report_text: true to include it, and then do not share the report.")
            del written[page]
            next(notebook for notebook in notebooks if notebook["page"] == page)["page"] = ""
    paper = summary.load_paper_values()
    written["index.html"] = pages.get_template("index.html.j2").render(
        shared,
        subject=_subject(cohort),
        sentences=summary.sentences(scores, results["cpt"], results["comparisons"], results["silver"]),
        scored=not scores.empty,
        paper=paper["sources"]["both"],
        headlines=_table(summary.headline_table(scores, paper, cohort["synthetic"])),
        cohort=_cohort_sentences(cohort, paper["cohort"]),
        flow=_table(read_flow(run_dir)),
        phenotypes=_table(summary.phenotype_sources(paper)),
        figures=read_figures(run_dir),
        limits=_limits(scores, cohort, uncertain),
        notebooks=notebooks,
        steps=_table(_steps(records)),
        parameters=[{"name": record["step"], "params": record.get("params", {})} for record in records],
        versions=_versions(records),
        notes=left_out,
    )
    folder = run_dir / "report"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.html"):
        if old.name not in written:
            old.unlink()
    for name, page in written.items():
        (folder / f"{name}.tmp").write_text(page, encoding="utf-8")
        os.replace(folder / f"{name}.tmp", folder / name)
    return folder / "index.html"


def read_records(run_dir: Path) -> list[dict]:
    """The steps' records (records/*.json), in the order in which they started; an unreadable record is left out."""
    records = []
    for path in sorted((run_dir / "records").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        records.append({"step": path.stem, **record})
    return sorted(records, key=lambda record: str(record.get("started", "")))


def read_cohort(run_dir: Path) -> dict:
    """notes and splits as DataFrames or None; synthetic: True only when every note comes from the generator; corpus: its name, "" if not known."""
    settings = run_dir / "datasets" / "settings.json"
    notes, splits = run_dir / "corpus" / "notes.parquet", run_dir / "corpus" / "splits.parquet"
    notes = pd.read_parquet(notes) if notes.is_file() else None
    return {
        "notes": notes,
        "splits": pd.read_parquet(splits) if splits.is_file() else None,
        "synthetic": notes is not None and len(notes) > 0 and notes["source"].str.startswith("synthetic").all(),
        "corpus": json.loads(settings.read_text(encoding="utf-8")).get("corpus", "") if settings.is_file() else "",
    }


def read_figures(run_dir: Path) -> list[dict]:
    """Figures that plots.save wrote, as name, file, alt, caption, notebook, uri; by notebook, then in the order in which they were drawn.

    The notebook is the executed one whose code saves the figure, "" where there is none.
    """
    path = run_dir / "figures" / "captions.json"
    captions = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    code = {notebook.stem: notebook.read_text(encoding="utf-8") for notebook in sorted((run_dir / "notebooks").glob("*.ipynb"))}
    out = []
    for name, caption in captions.items():
        path = next((p for ending in ["svg", "png"] if (p := run_dir / "figures" / f"{name}.{ending}").is_file()), None)
        if path is None:
            continue
        kind = "image/svg+xml" if path.suffix == ".svg" else "image/png"
        out.append({
            "name": name, "file": path.name, "caption": caption, "notebook": next((stem for stem, text in code.items() if saves(stem, text, name)), ""),
            "alt": f"Figure: {name.replace('_', ' ')}", "uri": f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}",
        })
    return sorted(out, key=lambda figure: figure["notebook"])


def saves(stem: str, notebook: str, figure: str) -> bool:
    """Whether the code of an executed notebook saves the figure: by its name, or with the job's part at its end where a notebook runs as several jobs."""
    part = stem.partition(".")[2].replace(".", "-")
    names = [figure] + ([figure.replace(part, "{part}"), figure.removesuffix(f"_{part}")] if part and figure.endswith(f"_{part}") else [])
    return any(re.search(rf"plots\.save\(.*\\\"{re.escape(name)}\\\"", notebook) for name in names)  # the file is JSON: quotes in code are escaped


def read_flow(run_dir: Path) -> pd.DataFrame | None:
    """Steps from the files read to the notes kept: step, reports, patients, note; None where the cohort was not built."""
    path = run_dir / "corpus" / "flow.json"
    if not path.is_file():
        return None
    rows = [[row["step"], _count(row.get("n_reports")), _count(row.get("n_patients")), row.get("note") or ""] for row in json.loads(path.read_text())]
    return pd.DataFrame(rows, columns=["step", "reports", "patients", "note"])


def read_notebooks(run_dir: Path, records: list[dict]) -> list[dict]:
    """Executed notebooks as name, title, page, body (HTML without code), status. Success is what the record says, never the notebook."""
    import nbformat
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    # `basic` is a fragment without any address; the default template loads MathJax, require.js and mermaid from a network.
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True, exclude_anchor_links=True)
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # the lines of a long step as one block
    finished = {record["step"] for record in records if record.get("finished")}
    out = []
    for path in sorted((run_dir / "notebooks").glob("*.ipynb")):
        try:
            notebook = nbformat.read(path, as_version=4)
        except Exception:  # a notebook cut off by a crash: nbformat raises several unrelated types
            out.append({"name": path.stem, "title": path.stem, "page": f"{path.stem}.html", "status": "unreadable", "body": "<p>This notebook cannot be read.</p>"})
            continue
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        heading = re.search(r"^#\s+(.+?)\s*$", text, re.MULTILINE)
        title = heading.group(1) if heading else path.stem
        body, _ = exporter.from_notebook_node(notebook)
        out.append({
            "name": path.stem,
            "title": title.replace("`", "").replace("*", ""),
            "page": f"{path.stem}.html",
            "status": "finished" if path.stem in finished else "no record of success",
            "body": ("" if heading else f"<h1>{html.escape(title)}</h1>") + _accessible(body, title),
        })
    return out


def _accessible(body: str, title: str) -> str:
    """Alternative texts for a notebook's images, which nbconvert leaves without, and header cells that say what they head."""
    body = re.sub(r'<img(?![^>]*\balt="(?!No description))(?P<rest>[^>]*?)(?:\s*alt="[^"]*")?(?P<end>[^>]*)>',
                  lambda m: f'<img alt="Figure in {html.escape(title)}; the text around it describes it"{m["rest"]}{m["end"]}>', body)
    header = r"<th(?![^>]*\bscope=)(?=[\s>])"
    body = re.sub(r"(?s)<thead>.*?</thead>", lambda m: re.sub(header, '<th scope="col"', m[0]), body)
    return re.sub(header, '<th scope="row"', body)


def pages_with_note_text(pages: dict[str, str], texts) -> list[str]:
    """Names of the pages (name -> HTML) that share eight words in a row with any of the texts; images are not looked into."""
    def shingles(text):
        words = re.findall(r"[a-z]{3,}", text.lower())  # letters only: tables of numbers meet by chance
        return zip(*(words[i:] for i in range(SHINGLE)))

    where: dict[tuple, set[str]] = {}
    for name, page in pages.items():
        plain = html.unescape(re.sub(r"(?s)<style.*?</style>|<[^>]*>", " ", page))
        for shingle in shingles(plain):
            where.setdefault(shingle, set()).add(name)
    found: set[str] = set()
    for text in texts:
        for shingle in shingles(text):
            if shingle in where:
                found |= where[shingle]
    return sorted(found)


def export_figures(run_dir: str | Path, target: Path = FIGURES) -> Path:
    """Copy the run's figures to the top-level figures/ and write its README.md (run, commit, notebook, caption); returns the README's path.

    Raises UserError when the run has no figure. Figures there that this run does not have are removed.
    """
    run_dir = Path(run_dir)
    records, figures = read_records(run_dir), read_figures(run_dir)
    if not figures:
        raise UserError(f"folder {run_dir / 'figures'}: no figure with a caption. Finish the run first.")
    target.mkdir(parents=True, exist_ok=True)
    for old in [*target.glob("*.svg"), *target.glob("*.png")]:
        old.unlink()
    commits = ", ".join(dict.fromkeys(record["commit"] for record in records if record.get("commit"))) or "not recorded"
    lines = ["# Figures of the reference run", "", f"Generated by `make figures` from run `{run_dir.name}`, commit `{commits}`. Do not edit by hand.",
             "Research on historical data, not guidance. Not for clinical use."]
    for figure in figures:
        for ending in [".svg", ".png"]:
            if (run_dir / "figures" / (figure["name"] + ending)).is_file():
                shutil.copyfile(run_dir / "figures" / (figure["name"] + ending), target / (figure["name"] + ending))
        lines += ["", f"## {figure['name']}", "", f"![{figure['alt']}]({figure['file']})", "", figure["caption"], "",
                  f"Notebook: {'`' + figure['notebook'] + '`' if figure['notebook'] else 'not recorded'}"]
    (target / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target / "README.md"


def model_card(run_dir: str | Path, model: str, stage: str) -> Path:
    """Write models/<model>/<stage>/README.md, a Hugging Face model card with base, licence, data, use, limits, scores; returns its path."""
    run_dir = Path(run_dir)
    folder = run_dir / "models" / model / stage
    if not folder.is_dir():
        raise UserError(f"folder {folder}: no such adapter. Train the stage first.")
    # Read here rather than through modeling.models, which imports torch.
    entry = yaml.safe_load((PACKAGE / "modeling" / "models.yaml").read_text(encoding="utf-8")).get(model, {})
    cohort, records, scores = read_cohort(run_dir), read_records(run_dir), summary.read_results(run_dir)["scores"]
    front = {
        "base_model": entry.get("hub_id", model),
        "library_name": "peft", "pipeline_tag": "text-generation", "language": "en",
        "license": entry.get("licence", "other").lower().replace(" ", "-"),
        "tags": ["oncology", "lora", "research-only"],
    }
    commits = ", ".join(dict.fromkeys(record["commit"] for record in records if record.get("commit"))) or "not recorded"
    lines = ["---", yaml.safe_dump(front, sort_keys=False).strip(), "---", "", f"# {model}, {stage}", "",
             "Research on historical data, not guidance. Not for clinical use.", "",
             f"Adapter of run `{run_dir.name}`, commit `{commits}`.", "", "## Data", "",
             *_cohort_sentences(cohort, None), "", "## Intended use", "",
             "Research on extracting phenotypes and diagnoses from oncology notes, and as a starting point for tuning on notes of one's own.", "",
             "## Limits", "", *(f"- {sentence}" for sentence in _limits(scores, cohort, None))]
    if not cohort["synthetic"]:
        lines.append("- Trained on report text: an adapter can repeat passages of its training notes. Share it only as you would share the notes.")
    lines += ["", "## Scores", ""]
    rows = list(summary.headline(scores[(scores["model"] == model) & (scores["stage"] == stage)]).itertuples())
    lines += ["| task | test set | average F1 (95 % interval) | n |", "|---|---|---|---|"] if rows else ["Not scored yet."]
    lines += [f"| {summary.task_name(r.task)} | {summary.ring_name(r.split)} | {r.f1:.1f} ({r.f1_low:.1f} to {r.f1_high:.1f}) | {int(r.n):,} |" for r in rows]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "README.md"


def _table(frame: pd.DataFrame | None) -> dict | None:
    return None if frame is None else {"columns": list(frame.columns), "rows": frame.astype(str).to_numpy().tolist()}


def _count(value) -> str:
    return "" if value is None or pd.isna(value) else f"{int(value):,}"


def _subject(cohort: dict) -> str:
    if cohort["notes"] is None:
        return "The notes of this run are not there, so the report cannot say what they are."
    if cohort["synthetic"]:
        return "The notes of this run are synthetic, written by a seeded generator: its scores show that the method works from end to end, and say nothing about patients."
    if cohort["corpus"] == "local":
        return "The notes of this run are an institution's own. Its patients stand behind these numbers: keep the report where their records may be kept."
    return "The notes of this run are public, de-identified texts; nothing in this report describes a patient of today."


def _cohort_sentences(cohort: dict, paper: dict | None) -> list[str]:
    notes, splits = cohort["notes"], cohort["splits"]
    if notes is None:
        return []
    kind = "synthetic notes" if cohort["synthetic"] else "notes"
    out = [f"{len(notes):,} {kind} of {notes['patient_id'].nunique():,} patients with {notes['cancer_type'].nunique()} cancer types, "
           f"from {notes['site'].nunique()} sites of {notes['institution'].nunique()} institutions."]
    if splits is not None:
        n = splits["split"].value_counts()
        rings = [ring for ring in summary.RINGS if ring in n]
        out.append("Patients by ring: " + ", ".join(f"{summary.ring_name(ring)} {n[ring]:,}" for ring in rings) + ". No patient is in two rings.")
    if paper is not None:
        out.append(f"The paper had {paper['clinical_notes']:,} clinical notes and {paper['pathology_reports']:,} pathology reports of "
                   f"{paper['patients']:,} patients with {paper['cancer_types']} cancer types ({paper['note']}).")
    return out


def _limits(scores: pd.DataFrame, cohort: dict, uncertain: pd.Series | None) -> list[str]:
    out = ["Reading what a note says is not deciding what is true: a right answer here agrees with a record, it is not a diagnosis.",
           "The intervals cover the choice of patients only; training again with another seed moves the scores as well."]
    if cohort["synthetic"]:
        out.append("Generated notes are more regular than real ones: expect other scores, and other errors, on the notes of a hospital.")
    elif cohort["notes"] is not None:
        if cohort["corpus"] != "local":
            out.append("The text is old scans read by machine, with errors; institutions that gave many reports weigh more, and the patients are not a sample of today's.")
        out.append("What a report states was decided by rules, with a registry beside them; both contain errors, and a silent registry does not mean a silent report.")
    if uncertain is not None:
        out.append(f"{uncertain.sum():,} of {len(uncertain):,} pairs of note and field could not be decided and are left out of the extraction scores.")
    if not scores.empty:
        rows = summary.headline(scores)
        answers = rows[rows["stage"] != "baseline"]
        out.append(f"{int(answers['unparsed'].sum()):,} of {int(answers['n'].sum()):,} answers of the language models could not be read; they count as wrong.")
    return out


def _steps(records: list[dict]) -> pd.DataFrame:
    rows = []
    for record in records:
        seconds = record.get("seconds")
        rows.append([record["step"], str(record.get("started", "")), "" if seconds is None else f"{seconds:,.0f}", str(record.get("seed", "")), str(record.get("device", "")),
                     str(record.get("commit", "")), "finished" if record.get("finished") else "did not finish"])
    return pd.DataFrame(rows, columns=["step", "started", "seconds", "seed", "device", "commit", "state"])


def _versions(records: list[dict]) -> str:
    versions: dict[str, str] = {}
    for record in records:
        versions |= record.get("versions") or {}
    if not versions:
        return ""
    return "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + f". Report written with Python {platform.python_version()}."


def main(arguments: list[str]) -> Path:
    """`RUN_DIR` writes that run's report, showing note text only where notebook 00 was run with report_text; `--figures PROFILE` copies its figures."""
    if arguments[:1] == ["--figures"] and len(arguments) == 2:
        return export_figures(paths.run_dir(arguments[1]))
    if len(arguments) != 1:
        raise UserError("Usage: python -m cancerllm_utils.report RUN_DIR, or --figures PROFILE.")
    run_dir = Path(arguments[0])
    summary_step = [record for record in read_records(run_dir) if record["step"] == "00_summary"]
    page = build_report(run_dir, any(record["params"].get("report_text") is True for record in summary_step))
    print(search_identifiers(run_dir))
    return page


def search_identifiers(run_dir: Path) -> str:
    """Search the report's pages and the executed notebooks for what looks like an identifier: results/identifiers_in_report.csv and one sentence."""
    files = sorted((run_dir / "report").glob("*.html")) + sorted((run_dir / "notebooks").glob("*.ipynb"))
    found = identifiers.scan_files(files)
    (run_dir / "results").mkdir(exist_ok=True)
    found.assign(file=[Path(file).name for file in found["file"]]).to_csv(run_dir / "results" / "identifiers_in_report.csv", index=False)
    kinds = found[found["found"] > 0].groupby("kind")["found"].sum()
    seen = ", ".join(f"{kind} {n:,}" for kind, n in kinds.items()) or "nothing"
    return f"What looks like an identifier in {len(files)} pages and notebooks: {seen} (results/identifiers_in_report.csv; a search with measured recall, no proof of absence)."


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
