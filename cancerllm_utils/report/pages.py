"""The report of a run: one self-contained page, a page per executed notebook, a reporting checklist, the figures folder. It only reads results.

What was not run is said to be missing; nothing is computed here that a notebook should have computed.
"""

import base64
import html
import io
import json
import os
import platform
import re
import shutil
from pathlib import Path

import jinja2
import pandas as pd
import yaml
from PIL import Image

from cancerllm_utils import paths
from cancerllm_utils.corpus import identifiers
from cancerllm_utils.errors import UserError
from cancerllm_utils.params import NAMED
from cancerllm_utils.paths import FIGURES, PACKAGE
from cancerllm_utils.report import browser, model_card, notebook_pages, results_files, results_json, summary, tripod, verdicts
from cancerllm_utils.report.run_facts import adapters, cohort_sentences, commits, limit_sentences, read_cohort, read_flow, read_records, subject
from cancerllm_utils.results import load_paper_values, main_split, model_name, ring_name

ASSETS = PACKAGE / "assets" / "report"
FIRST = ["first_right_answers", "first_unseen_places", "first_of_100_questions"]  # the figures of the first screen, drawn by notebook 00
OTHER_PAGES = ("answers.html",)  # written by a module of its own, and linked to where it is there
SHINGLE = 8  # words in a row shared with a note: by chance practically impossible, in a shown excerpt certain


def build_report(run_dir: str | Path, report_text: bool = False) -> Path:
    """Write report/index.html, tripod_llm.html and <notebook>.html below the run folder, and results/tripod_llm.csv; returns the path of index.html.

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
    shared = {
        "css": (ASSETS / "report.css").read_text(encoding="utf-8"), "profile": run_dir.name, "commit": commits(records),
        "contains_text": report_text and not cohort["synthetic"],
    }
    pages = jinja2.Environment(loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True)
    notebooks, written = notebook_pages.read_notebooks(run_dir, records), {}
    for notebook in notebooks:
        written[notebook["page"]] = pages.get_template("notebook.html.j2").render(shared, notebook=notebook)
    left_out = []
    if not cohort["synthetic"] and not report_text and cohort["notes"] is not None:
        for page in pages_with_note_text(written, cohort["notes"]["text"]):
            left_out.append(f"{page}: it shows a passage of a note. Set report_text: true to include it, and then do not share the report.")
            del written[page]
            next(notebook for notebook in notebooks if notebook["page"] == page)["page"] = ""
    paper, figures = load_paper_values(), read_figures(run_dir)
    asked = tripod.checklist(run_dir)
    tripod.write(run_dir, asked)
    judged = verdicts.judge(results)
    sections, not_run = read_sections(run_dir, figures, notebooks)
    written["index.html"] = pages.get_template("index.html.j2").render(
        shared,
        subject=subject(cohort),
        short=verdicts.short_sentences(results, judged, cohort),
        verdicts=_table(judged.drop(columns=["key", "word"]), "verdicts"),
        words=judged["word"].tolist(),
        ring=ring_name(main_split(scores)),
        rules=verdicts.rule_sentences(),
        first=[figure for name in FIRST for figure in figures if figure["name"] == name],
        answers=(run_dir / "report" / "answers.html").is_file(),
        sentences=summary.sentences(scores, results["cpt"], results["comparisons"], results["silver"]),
        scored=not scores.empty,
        release=summary.release_sentence(scores),
        paper=paper["sources"]["both"],
        headlines=_table(summary.headline_table(scores, paper, cohort["synthetic"]), "headlines"),
        cohort=cohort_sentences(cohort, paper["cohort"]),
        flow=_table(read_flow(run_dir), "flow"),
        phenotypes=_table(summary.phenotype_sources(paper), "phenotypes"),
        dangerous=_table(verdicts.dangerous_table(results), "dangerous", "dangerous.csv"),
        figures=figures,
        sections=sections,
        not_run=not_run,
        limits=limit_sentences(scores, cohort, uncertain),
        notebooks=notebooks,
        steps=_table(_steps(records), "steps"),
        versions=_versions(records),
        files=files_for_others(run_dir),
        notes=left_out,
    )
    items = [row | {"places": places(row["where"], run_dir, written)} for row in asked.to_dict("records")]
    written["tripod_llm.html"] = pages.get_template("tripod_llm.html.j2").render(shared, items=items, summary=tripod.sentence(asked), source=tripod.described()["source"])
    folder = run_dir / "report"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.html"):
        if old.name not in written and old.name not in OTHER_PAGES:
            old.unlink()
    for name, page in written.items():
        (folder / f"{name}.tmp").write_text(page, encoding="utf-8")
        os.replace(folder / f"{name}.tmp", folder / name)
    return folder / "index.html"


def read_sections(run_dir: Path, figures: list[dict], notebooks: list[dict]) -> tuple[list[dict], list[str]]:
    """The first page's sections (sections.yaml) with what this run has of each: open and folded figures, pages of notebooks, files of results/; and what
    was not part of the run, in words."""
    written_by = {file: entry["by"] for file, entry in results_files.described()["files"].items() if (run_dir / "results" / file).is_file()}
    sections, not_run = [], []
    for section in yaml.safe_load((Path(__file__).parent / "sections.yaml").read_text(encoding="utf-8")):
        def of(name, numbers=section["notebooks"]):
            return name.partition("_")[0] in numbers

        drawn = [figure for figure in figures if of(figure["notebook"]) and figure["name"] not in FIRST]
        found = {
            "open": sorted((figure for figure in drawn if figure["name"] in section["show"]), key=lambda figure: section["show"].index(figure["name"])),
            "folded": [figure for figure in drawn if figure["name"] not in section["show"]],
            "pages": [notebook for notebook in notebooks if of(notebook["name"]) and notebook["page"]],
            "tables": [file for file, by in written_by.items() if of(by) and file.endswith(".csv")],
        }
        if "missing" in section and not any(found.values()):
            not_run.append(section["missing"])
        else:
            sections.append(section | found)
    return sections, not_run


def read_figures(run_dir: Path) -> list[dict]:
    """Figures that plots.save wrote, as name, title, files, alt, caption, notebook, uri, width, height (pixels); by notebook, then in the order drawn.

    The notebook is the executed one whose code saves the figure, "" where there is none. uri holds a picture of few colours for the screen; the
    files themselves lie in figures/.
    """
    path = run_dir / "figures" / "captions.json"
    captions = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    code = {notebook.stem: notebook.read_text(encoding="utf-8") for notebook in sorted((run_dir / "notebooks").glob("*.ipynb"))}
    out = []
    for name, caption in captions.items():
        files = [f"{name}.{ending}" for ending in ("svg", "png") if (run_dir / "figures" / f"{name}.{ending}").is_file()]
        if f"{name}.png" not in files:
            continue
        uri, width, height = small_picture(run_dir / "figures" / f"{name}.png")
        out.append({
            "name": name, "title": name.replace("_", " "), "files": files, "caption": caption, "alt": f"Figure: {name.replace('_', ' ')}",
            "notebook": next((stem for stem, text in code.items() if saves(stem, text, name)), ""), "uri": uri, "width": width, "height": height,
        })
    return sorted(out, key=lambda figure: figure["notebook"])


def small_picture(path: Path) -> tuple[str, int, int]:
    """A PNG as data URI with 128 colours, a third of its size, and its width and height at 100 dots per inch (saved at 150)."""
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.putpalette([255 if level > 250 else level for level in few.getpalette()])  # the fast method leaves white a shade too dark
    file = io.BytesIO()
    few.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", *(round(side / 1.5) for side in few.size)


def saves(stem: str, notebook: str, figure: str) -> bool:
    """Whether the code of an executed notebook saves the figure: by its name, where a part of the name is filled in ({split}) by any such name, and with
    the job's part at its end ({part}) where a notebook runs as several jobs."""
    part = stem.partition(".")[2].replace(".", "-")
    names = re.findall(r"plots\.save\(.*?\\\"([\w{}.-]+)\\\",", notebook)  # the file is JSON: quotes in code are escaped
    patterns = [re.sub(r"\\{\w+\\}", ".+", re.escape(name.replace("{part}", part))) for name in names]
    return any(re.fullmatch(pattern, figure) or (part and re.fullmatch(f"{pattern}_{re.escape(part)}", figure)) for pattern in patterns)


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

    A run of further studies (params.NAMED) gives only their figures, to a folder there with the run's name: the rest is the reference run's.
    Raises UserError when the run has no figure. Figures there that this run does not have are removed.
    """
    run_dir = Path(run_dir)
    records, figures = read_records(run_dir), read_figures(run_dir)
    if not figures:
        raise UserError(f"folder {run_dir / 'figures'}: no figure with a caption. Finish the run first.")
    studies = [figure for figure in figures if figure["notebook"].partition(".")[0] in NAMED]
    if studies:
        figures, target = studies, target / run_dir.name
    target.mkdir(parents=True, exist_ok=True)
    for old in [*target.glob("*.svg"), *target.glob("*.png")]:
        old.unlink()
    lines = [f"# Figures of the run `{run_dir.name}`" if studies else "# Figures of the reference run", "", f"Generated by `make figures` from run `{run_dir.name}`, commit `{commits(records)}`. Do not edit by hand.",
             "Research on historical data, not guidance. Not for clinical use."]
    for figure in figures:
        for ending in [".svg", ".png"]:
            if (run_dir / "figures" / (figure["name"] + ending)).is_file():
                shutil.copyfile(run_dir / "figures" / (figure["name"] + ending), target / (figure["name"] + ending))
        lines += ["", f"## {figure['name']}", "", f"![{figure['title']}]({figure['files'][0]})", "", figure["caption"], "",
                  f"Notebook: {'`' + figure['notebook'] + '`' if figure['notebook'] else 'not recorded'}"]
    (target / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target / "README.md"


def _table(frame: pd.DataFrame | None, name: str, file: str = "") -> dict | None:
    """A table for the page, with a link that saves it as <name>.csv, or `file` of results/ where it stands there."""
    if frame is None:
        return None
    columns, rows = list(frame.columns), frame.astype(str).to_numpy().tolist()
    return {"columns": columns, "rows": rows, "file": file, "csv": notebook_pages.csv_link([columns, *rows], name, name)}


def files_for_others(run_dir: Path) -> list[dict]:
    """What the run offers to other programs and people, as href (from report/), text; only what is there."""
    cards = [(f"models/{model}/{stage}/README.md", f"model card of {model_name(model, stage)}, Hugging Face format") for model, stage in adapters(run_dir)]
    found = [
        ("results/README.md", "what every table and column of results/ means, with units"),
        ("results/scores.csv", "every score, one number per row"),
        ("results/lm_eval", "scores in the layout of lm-evaluation-harness, one file per system"),
        ("report/tripod_llm.html", "the TRIPOD-LLM checklist, filled from this run"),
        ("results/tripod_llm.csv", "the same as a table"),
        ("DATASHEET.md", "datasheet of the corpus"),
        ("adjudication/form.html", "rating form: sampled questions with whole notes, for two people to judge"),
        *cards,
    ]
    return [{"href": f"../{path}".removeprefix("../report/"), "name": path, "text": text} for path, text in found if path.startswith("report/") or (run_dir / path).exists()]


def places(where: str, run_dir: Path, pages: dict[str, str]) -> list[dict]:
    """Places of a checklist's item (`notebook#heading`, `index#figure` or a file of the run) as name and href; "" where there is no such page."""
    found = []
    for place in where.split():
        name, _, part = place.partition("#")
        page = next((page for page in pages if page == f"{name}.html" or page.startswith(f"{name}.")), "")
        if page:
            target = re.search(rf'id="({re.escape(part)}[^"]*)"', pages[page]) if part else None  # a heading is named by its beginning
            label = page.removesuffix(".html") + (f": {part.replace('-', ' ').replace('_', ' ')}" if len(part) < 40 else "")
            found.append({"name": label.removesuffix(": "), "href": f"{page}#{target[1]}" if target else page})
        else:
            found.append({"name": name, "href": f"../{name}" if (run_dir / name).is_file() else ""})
    return found


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
    model_card.write_all(run_dir)
    results_json.write_all(run_dir)
    results_files.write(run_dir)  # so that the page can link to it
    report_text = any(record["params"].get("report_text") is True for record in summary_step)
    browser.build_browser(run_dir, report_text)  # so that the page can link to it
    page = build_report(run_dir, report_text)
    print(search_identifiers(run_dir))
    results_files.write(run_dir)  # again, with the tables that came since
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
