"""The page of an executed notebook: what it ran with, its table of contents, its outputs; code folded, tables to be taken along as CSV."""

import base64
import csv
import html
import io
import os
import re
from pathlib import Path

from cancerllm_utils import paths
from cancerllm_utils.report.run_facts import anchor

# `basic` is a fragment without any address; the default template loads MathJax, require.js and mermaid from a network. Parameters have a table of their own.
FOLDED = """{%- extends 'basic/index.html.j2' -%}
{% block input %}{% if 'parameters' not in cell.metadata.get('tags', []) and 'injected-parameters' not in cell.metadata.get('tags', []) %}
<details class="code"><summary>Code</summary>{{ super() }}</details>
{% endif %}{% endblock input %}"""


def read_notebooks(run_dir: Path, records: list[dict]) -> list[dict]:
    """Executed notebooks as name, title, page, body (HTML), contents (id and text of each part), facts, parameters, status.

    Success is what the record says, never the notebook. facts: run_of; parameters: name, value, meaning of each.
    """
    import nbformat
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    exporter = HTMLExporter(raw_template=FOLDED, exclude_input_prompt=True, exclude_output_prompt=True, exclude_anchor_links=True)
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # the lines of a long step as one block
    of_step = {record["step"]: record for record in records if record.get("finished")}
    out = []
    for path in sorted((run_dir / "notebooks").glob("*.ipynb")):
        record = of_step.get(path.stem)
        entry = {"name": path.stem, "title": path.stem, "page": f"{path.stem}.html", "contents": [], "facts": run_of(run_dir, path, record), "parameters": []}
        try:
            notebook = nbformat.read(path, as_version=4)
        except Exception:  # a notebook cut off by a crash: nbformat raises several unrelated types
            out.append(entry | {"status": "unreadable", "head": f"<h1>{html.escape(path.stem)}</h1>", "body": "<p>This notebook cannot be read.</p>"})
            continue
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        heading = re.search(r"^#\s+(.+?)\s*$", text, re.MULTILINE)
        title = heading.group(1) if heading else path.stem
        body, contents = with_anchors(accessible(exporter.from_notebook_node(notebook)[0], title))
        head, _, rest = body.partition("</h1>") if heading else (f"<h1>{html.escape(title)}", "", body)
        out.append(entry | {
            "title": title.replace("`", "").replace("*", ""),
            "status": "finished" if record else "no record of success",
            "head": re.search(r"(?s)<h1.*", head)[0] + "</h1>",
            "body": with_csv(re.sub(r"(?s)<h1.*", "", head) + rest, path.stem),
            "contents": contents,
            "parameters": parameters(notebook, record),
        })
    return out


def run_of(run_dir: Path, path: Path, record: dict | None) -> dict:
    """What a reader needs to find and repeat a step: source (path in the repository), source_href (from report/; "" outside the checkout), executed
    (from report/), seconds, commit, device; "" where nothing is recorded."""
    source = f"notebooks/{path.stem.partition('.')[0]}.ipynb"
    near = run_dir.resolve().is_relative_to(paths.ROOT) and (paths.ROOT / source).is_file()
    facts = {"source": source, "source_href": os.path.relpath(paths.ROOT / source, run_dir.resolve() / "report") if near else "", "executed": f"../notebooks/{path.name}",
             "flat": f"params/{path.stem}.yaml" if (run_dir / "params" / f"{path.stem}.yaml").is_file() else ""}
    record = record or {}
    seconds = record.get("seconds")
    return facts | {"seconds": "" if seconds is None else f"{seconds:,.0f}", **{key: str(record.get(key) or "") for key in ("commit", "device")}}


def parameters(notebook, record: dict | None) -> list[dict]:
    """The step's parameters as name, value, meaning: values of the record, or the notebook's defaults without one; meanings are the notebook's comments."""
    cell = next((cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])), "")
    declared = re.findall(r"^(\w+)[^=\n]*=\s*(.*?)(?:\s{2}#\s*(.*))?$", cell, re.MULTILINE)
    used = (record or {}).get("params", {})
    known = [{"name": name, "value": str(used.get(name, default)), "meaning": meaning} for name, default, meaning in declared]
    return known + [{"name": name, "value": str(value), "meaning": ""} for name, value in used.items() if name not in {name for name, *_ in declared}]


def accessible(body: str, title: str) -> str:
    """Alternative texts for a notebook's images, which nbconvert leaves without, images read when they are reached, header
    cells that say what they head."""
    body = re.sub(r'<img(?![^>]*\balt="(?!No description))(?P<rest>[^>]*?)(?:\s*alt="[^"]*")?(?P<end>[^>]*)>',
                  lambda m: f'<img alt="Figure in {html.escape(title)}; the text around it describes it"{m["rest"]}{m["end"]}>', body)
    body = body.replace("<img ", '<img loading="lazy" decoding="async" ')
    body = re.sub(r"<th[^>]*></th>", "<td></td>", body)  # pandas heads its index with an empty cell, which heads nothing for a reader by ear
    header = r"<th(?![^>]*\bscope=)(?=[\s>])"
    body = re.sub(r"(?s)<thead>.*?</thead>", lambda m: re.sub(header, '<th scope="col"', m[0]), body)
    return re.sub(header, '<th scope="row"', body)


def with_anchors(body: str) -> tuple[str, list[dict]]:
    """The body with an id and a link to itself at every heading, no id twice; and its parts (h2) as id, text."""
    seen, contents = set(), []

    def one(match):
        text = html.unescape(re.sub(r"<[^>]*>", "", match[2])).strip()
        name = base = anchor(text)
        while name in seen:
            name = f"{base}-{sum(n == base or n.startswith(base + '-') for n in seen) + 1}"
        seen.add(name)
        if match[1] == "2":
            contents.append({"id": name, "text": text})
        link = "" if match[1] == "1" else f' <a class="anchor" href="#{name}" aria-label="Link to: {html.escape(text)}">#</a>'
        return f'<h{match[1]} id="{name}">{match[2]}{link}</h{match[1]}>'

    return re.sub(r"(?s)<h([1-4])>(.*?)</h\1>", one, body), contents


def with_csv(body: str, name: str) -> str:
    """The body with a link below each table that saves it as CSV; the file travels in the link, so that it needs neither network nor folder."""
    from bs4 import BeautifulSoup

    count = 0

    def one(match):
        nonlocal count
        count += 1
        rows = [[text for cell in row.find_all(["th", "td"]) for text in [cell.get_text(" ", strip=True), *[""] * (int(cell.get("colspan", 1)) - 1)]]
                for row in BeautifulSoup(match[0], "html.parser").find_all("tr")]
        return match[0] + csv_link(rows, f"{name}-table-{count}", f"table {count}")

    return re.sub(r'(?s)<table[^>]*class="dataframe".*?</table>', one, body)


def csv_link(rows: list[list[str]], name: str, what: str) -> str:
    """A link that saves rows of strings as <name>.csv (UTF-8 with a mark at its beginning, which spreadsheets need)."""
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    data = base64.b64encode(file.getvalue().encode("utf-8-sig")).decode()
    return f'<a class="csv" download="{html.escape(name)}.csv" href="data:text/csv;base64,{data}" aria-label="Save {html.escape(what)} as CSV">CSV</a>'
