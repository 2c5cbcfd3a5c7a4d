"""report/answers.html: every question of a run with the gold and the answers of all systems side by side, to filter, search and read.

One self-contained page: the rows stand in it as JSON, a script of this package (allowed by its hash, and nothing else) shows them a hundred at a
time, and nothing is loaded. Text of notes stands in it for the synthetic cohort only, or where report_text is set; without it the page holds field
values: a question's own words, the gold, and answers that were read as a value.
"""

import base64
import hashlib
import json
import math
import os
import re
from pathlib import Path

import jinja2
import pandas as pd

from cancerllm_utils.corpus import identifiers
from cancerllm_utils.corpus.local.cancer_codes import CODES
from cancerllm_utils.evaluation import danger
from cancerllm_utils.evaluation.metrics import value_scores
from cancerllm_utils.paths import PACKAGE
from cancerllm_utils.report.run_facts import commits, read_cohort, read_records
from cancerllm_utils.results import TASKS, clean_files, main_systems, model_name, ring_name, system_order, task_name
from cancerllm_utils.tasks.task import UNPARSED, load_task, read_jsonl, task_names

ASSETS = PACKAGE / "assets" / "report"
RING_ORDER = ("test", "external_site", "external", "dev", "train")  # what headlines speak of comes first
LONGEST = 8  # words of an answer that may repeat a note: as many as the report's own search for note text takes
HIDDEN = "(not shown: it repeats a passage of a note, or looks like an identifier)"
AROUND = 300  # characters of the note on each side of a quote that the model's context does not hold


def build_browser(run_dir: str | Path, report_text: bool = False) -> Path:
    """Write report/answers.html below the run folder and return its path; a run without predictions gets a page that says so.

    report_text puts contexts, questions with their text, raw answers and evidence of real notes in, and the page says that it must not be shared.
    Answers to changed texts (a "+" in the test set's name) are left to their own notebook.
    """
    run_dir = Path(run_dir)
    cohort = read_cohort(run_dir)
    shown = bool(cohort["synthetic"] or report_text)
    found = collect(run_dir, cohort["notes"], shown)
    page = script_page("browser", found, title="The answers one by one", profile=run_dir.name, commit=commits(read_records(run_dir)),
                       contains_text=report_text and not cohort["synthetic"], shown=shown, questions=len(found["items"]), systems=len(found["systems"]),
                       left_out=found["left_out"])
    folder = run_dir / "report"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answers.html.tmp").write_text(page, encoding="utf-8")
    os.replace(folder / "answers.html.tmp", folder / "answers.html")
    return folder / "answers.html"


def script_page(name: str, data: dict, **values) -> str:
    """assets/report/<name>.html.j2 with <name>.css, <name>.js and `data` inlined; its policy allows this one script and no address."""
    script = (ASSETS / f"{name}.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    css = "\n".join((ASSETS / file).read_text(encoding="utf-8") for file in ("report.css", f"{name}.css"))
    # No "<" in the data: nothing that a note says can end the element that holds it.
    inlined = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    pages = jinja2.Environment(loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True)
    return pages.get_template(f"{name}.html.j2").render(values, css=css, script=script, script_hash=f"sha256-{digest}", data=inlined)


def collect(run_dir: Path, notes: pd.DataFrame | None, shown: bool) -> dict:
    """What the page holds, as plain lists; a name or text that occurs often stands once and is counted to.

    systems: names; start: number of the system shown first; tasks, fields, rings, cancers, kinds, strings, contexts: lists of text;
    items: [task, field, ring, cancer, line of the data set, question, context or -1, gold, answers], and answers [system, text, right (0 or 1),
    probability of the answer in % or null, kind of danger or -1, severity (0: none), evidence or null]; evidence {"v": found in the note, "q": the quote,
    "c": [start, end] in the context, or "n": a passage of the note with "p": [start, end] in it}. left_out: test sets not listed.
    """
    kept, left_out = predictions(run_dir)
    order = system_order(pd.DataFrame([key[:2] for key in kept], columns=["model", "stage"]))
    dangers = optional(run_dir / "results" / "dangerous_items.parquet", ["kind", "severity"])
    evidence = optional(run_dir / "results" / "evidence.parquet", ["quote", "quote_start", "quote_end", "verified"])
    kinds = danger.definitions()["kinds"]
    texts = dict(zip(notes["note_id"], notes["text"], strict=True)) if notes is not None and shown else {}
    lists = {name: {} for name in ("tasks", "fields", "rings", "cancers", "kinds", "strings", "contexts")}

    def number(name: str, text: str) -> int:
        return lists[name].setdefault(text, len(lists[name]))

    items = []
    for task, split in sorted({key[2:] for key in kept}, key=lambda pair: [(*known, name).index(name) for known, name in zip((TASKS, RING_ORDER), pair, strict=True)]):
        answered = {system: {row["example_id"]: row for row in read_jsonl(kept[*system, task, split])} for system in order if (*system, task, split) in kept}
        for line, example in enumerate(read_jsonl(run_dir / "datasets" / task / f"{split}.jsonl"), 1):
            context, question = split_prompt(task, example["field"], example["prompt"])
            rows = []
            for system, answers in answered.items():
                if row := answers.get(example["example_id"]):
                    key = (*system, task, split, example["example_id"])
                    kind, severity = dangers.get(key, ("", 0))
                    answer = (row["prediction"] if shown else UNPARSED) if row["parsed"] == UNPARSED else row["parsed"]
                    # of the whole answer where a model wrote it: the mean per token is often near 1 for wrong answers
                    sure = math.exp(row["logprob"]) if row.get("stop_reason") and "logprob" in row else row.get("confidence")
                    rows.append([order.index(system), number("strings", answer), int(value_scores(example["answers"], row["parsed"])["value_accuracy"]),
                                 None if sure is None else round(100 * sure), number("kinds", kinds.get(kind, {"name": kind})["name"]) if kind else -1, int(severity),
                                 place_of(evidence[key], context, texts.get(example["note_id"], ""), shown) if key in evidence else None])
            if rows:
                items.append([number("tasks", task_name(task)), number("fields", example["field"].replace("_", " ")), number("rings", ring_name(split)),
                              number("cancers", cancer_name(example.get("cancer_type"))), line, number("strings", question),
                              number("contexts", context) if shown else -1, number("strings", "; ".join(example["answers"])), rows])
    out = {name: list(numbered) for name, numbered in lists.items()}
    if not shown and notes is not None:
        out["strings"] = hide_passages(out["strings"], notes["text"])
    models = main_systems(pd.DataFrame(order, columns=["model", "stage"]))
    start = order.index(models[0]) if models else 0
    return out | {"systems": [model_name(*system) for system in order], "start": start, "items": items, "left_out": left_out}


def cancer_name(code: str | None) -> str:
    """A cancer's code with a plain word for it: "COAD (colon)"."""
    names = CODES["names"].get(code)
    return f"{code} ({names[0]})" if names else code or "not known"


def predictions(run_dir: Path) -> tuple[dict[tuple, Path], list[str]]:
    """{(model, stage, task, split): file} of the answers whose data set is there and holds a question, and sentences on what was left out."""
    kept, changed, lost, known, clean = {}, set(), 0, task_names(), set(clean_files(run_dir))
    for path in sorted(run_dir.glob("predictions/*/*/*.jsonl")):
        task, split = path.name.removesuffix(".jsonl").split(".", 1)
        asked = run_dir / "datasets" / task / f"{split}.jsonl"
        if path not in clean:
            changed.add(split if "+" in split else path.parent.name)
        elif task in known and asked.is_file() and asked.stat().st_size:
            kept[(*path.parts[-3:-1], task, split)] = path
        else:
            lost += 1
    said = [f"Answers to changed texts, and of systems that learned from altered answers ({', '.join(sorted(changed))}) are not listed here."] if changed else []
    return kept, said + ([f"{lost} files of answers are not listed: their questions are not there."] if lost else [])


def optional(path: Path, columns: list[str]) -> dict[tuple, tuple]:
    """Rows of a table of results as (model, stage, task, split, example_id) -> the columns' values; {} where the table was not made.

    Of several rows for one answer the first counts (of dangers the worst, as they are sorted by severity).
    """
    if not path.is_file():
        return {}
    table = pd.read_parquet(path)
    if "severity" in table:
        table = table.sort_values("severity", kind="stable")
    keys = zip(*(table[name] for name in ("model", "stage", "task", "split", "example_id")), strict=True)
    found = {}
    for key, values in zip(keys, zip(*(table[name] for name in columns), strict=True), strict=True):
        found.setdefault(key, values)
    return found


def split_prompt(task: str, field: str, prompt: str) -> tuple[str, str]:
    """(text, question) of a prompt: what the task's YAML puts around the text is the question; a task that asks nothing else has its instruction there."""
    spec = load_task(task)
    context = prompt.split("### Input:\n", 1)[-1].rsplit("\n\n### Response:", 1)[0]
    name = spec["fields"].get(field, {}).get("name", field.replace("_", " "))
    before, after = spec["doc_to_text"].replace("{name}", name).split("{context}")
    return context.removeprefix(before).removesuffix(after), after.strip() or spec["instruction"]


def place_of(evidence: tuple, context: str, note: str, shown: bool) -> dict:
    """One answer's evidence for the page (see collect): in the model's context where the quote stands there, else with its surroundings in the note."""
    quote, start, end, verified = evidence
    quote = quote if isinstance(quote, str) else ""
    if not shown or not quote:
        return {"v": int(bool(verified))}
    found = {"v": int(bool(verified)), "q": " ".join(quote.split())}
    words = re.search(r"\s+".join(map(re.escape, quote.split())), context)  # the context has no line breaks, the note may
    if words:
        return found | {"c": list(words.span())}
    if not verified or not note or pd.isna(start):
        return found
    start, end = int(start), int(end)
    first = max(0, start - AROUND)
    return found | {"n": note[first : end + AROUND], "p": [start - first, end - first]}


def hide_passages(strings: list[str], texts) -> list[str]:
    """The strings, those replaced that share LONGEST words in a row with a note or hold what looks like an identifier: a model may know a report by heart."""
    from cancerllm_utils.report import pages  # which itself calls this module

    long = {str(i): text for i, text in enumerate(strings) if len(re.findall(r"[A-Za-z]{3,}", text)) >= LONGEST}
    repeats = set(pages.pages_with_note_text(long, texts)) if long else set()
    return [HIDDEN if str(i) in repeats or identifiers.find(text) else text for i, text in enumerate(strings)]
