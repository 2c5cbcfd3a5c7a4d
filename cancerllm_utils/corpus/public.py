"""Public texts of the field as corpora: synthetic clinic letters, trial articles, CancerGov answers, CIViC evidence statements.

They serve as the corpus of a profile (pre-training on letters or articles) and as further pre-training or held-out text beside the main corpus
(`texts`). Files, licences and wording are in public.yaml.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import BaseModel, BeforeValidator, StrictBool, StrictStr, StringConstraints, ValidationError

from cancerllm_utils.corpus import public_silver
from cancerllm_utils.corpus.local import files
from cancerllm_utils.corpus.schema import Filled, Text, quarantine_entry, why_bad
from cancerllm_utils.errors import UserError

BATCH_ROWS, BATCH_CHARACTERS = 5_000, 4_000_000  # an article has 29,000 characters
OrEmpty = Annotated[StrictStr, BeforeValidator(lambda value: "" if value is None else value)]


class Article(BaseModel):
    pmcid: Filled
    licence: Text
    oncology: StrictBool
    text: Filled


class Question(BaseModel):
    url: Filled
    focus: Text
    question: Filled
    answer: Filled


class Item(BaseModel):
    type: OrEmpty = ""
    value: OrEmpty = ""


class PrimaryCancer(BaseModel):
    site: OrEmpty = ""
    tnm_stage: OrEmpty = ""
    other_stage: OrEmpty = ""
    histopathology_status: OrEmpty = ""
    biomarker_status: OrEmpty = ""
    cancer_timeline: list[Item] = []


class Output(BaseModel):
    primary_cancer: PrimaryCancer
    status_updates: list[Item] = []


class Letter(BaseModel):
    file: Annotated[Filled, StringConstraints(pattern=r"_\d+\.json$")]  # its name begins with the answer: "breast left_17.json"
    text: Filled
    output: Output


MODELS = {"letters": Letter, "literature": Article, "cancergov": Question}
CIVIC_COLUMNS = [
    "gene", "variant", "disease", "drugs", "evidence_type", "evidence_direction", "evidence_level", "clinical_significance", "evidence_statement", "evidence_id",
]  # fmt: skip


def read(name: str, data_dir: Path) -> dict:
    """One public source as every corpus module offers it.

    There are no patients in these texts: patient_id is the id of the letter, article, question or evidence item itself (equal to note_id),
    so that rings divide texts. institution is the source, note_type what the text is, cancer_type a TCGA code where the letter's output, the
    page's topic or the evidence item's disease names one; site and date are empty.

    Args:
        name: letters, literature, cancergov or civic.
        data_dir: folder above letters/, literature/ and genomics/ (files plain or gzip).

    Returns:
        batches: iterator of lists of rows (NOTE_COLUMNS, file, line), at most 5,000 rows and about 4 million characters each.
        registry: patient_id, field, registry_value: of letters their silver labels (see public_silver), else empty.
        patients: None.
        flow, quarantined: filled while batches are consumed; rows of the file == rows that can be read + quarantined.

    Raises:
        UserError: unknown name, or a file is missing (the sentence names the public download) or has other columns.
    """
    source, path = find(name, data_dir)
    registry = pd.DataFrame(columns=["patient_id", "field", "registry_value"], dtype=str)
    silver = ""
    if name == "letters":
        labels = [(row["patient_id"], label) for _, _, _, row, label in entries(name, path) if label]
        registry = pd.DataFrame([(who, field, value) for who, fields in labels for field, value in fields.items()], columns=registry.columns, dtype=str)
        counts = Counter(registry["field"])
        silver = "; silver labels of a language model, not gold: " + ", ".join(f"{field} {n:,}" for field, n in sorted(counts.items()))
    flow = [
        {"step": f"rows of {path.name}", "n_reports": 0, "n_patients": 0, "dropped": 0, "note": f"{source['about']}; licence: {source['licence']}{silver}"},
        {"step": "rows that can be read", "n_reports": 0, "n_patients": 0, "dropped": 0, "note": "the rest goes to quarantine.jsonl"},
    ]
    quarantined = []
    return {"batches": batches(name, path, flow, quarantined), "registry": registry, "patients": None, "flow": flow, "quarantined": quarantined}


def texts(name: str, data_dir: Path, limit: int = 0, without: Collection[str] = ()) -> list[str]:
    """The first `limit` texts of a source in file order (0: all), as published and not scrubbed.

    without: note ids to leave out, such as tiny_base.seen_notes. Raises UserError as `read` does.
    """
    found = []
    for batch in read(name, data_dir)["batches"]:
        found += [row["text"] for row in batch if row["note_id"] not in without]
        if limit and len(found) >= limit:
            break
    return found[:limit] if limit else found


def find(name: str, data_dir: Path) -> tuple[dict, Path]:
    """The source's entry of public.yaml and its file, gzip or plain."""
    sources = public_silver.settings()["sources"]
    if name not in sources:
        raise UserError(f"public text {name!r} is unknown: choose {', '.join(sources)}.")
    plain_file = Path(data_dir) / sources[name]["file"]
    for path in (plain_file.with_name(f"{plain_file.name}.gz"), plain_file):
        if path.is_file():
            return sources[name], path
    raise UserError(f"file {plain_file}: not found. Get the {sources[name]['download']}, and put the file there, or set CANCERLLM_DATA (data_dir).")


def batches(name: str, path: Path, flow: list[dict], quarantined: list[dict]) -> Iterator[list[dict]]:
    """The batches of `read`; counts go into flow, damaged rows into quarantined."""
    batch, characters, seen, before = [], 0, set(), len(quarantined)
    for line, raw, reason, row, _ in entries(name, path):
        reason = reason or ("note_id occurs twice" if row["note_id"] in seen else "")
        flow[0]["n_reports"] += 1
        if reason:
            quarantined.append(quarantine_entry(path.name, line, reason, raw))
        else:
            seen.add(row["note_id"])
            batch.append(row | {"file": path.name, "line": line})
            characters += len(row["text"])
        if len(batch) == BATCH_ROWS or characters > BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
    flow[0]["n_patients"] = flow[0]["n_reports"]
    flow[1] |= {"n_reports": len(seen), "n_patients": len(seen), "dropped": len(quarantined) - before}


def entries(name: str, path: Path) -> Iterator[tuple[int, str, str, dict | None, dict | None]]:
    """(line, content, why it cannot be used or "", note row, silver labels) of every row of the file; labels of letters only."""
    header, line = [], 0
    try:
        for line, content in enumerate(files.lines(path, "utf-8", newline="\n"), start=1):
            content = content.rstrip("\r\n").removeprefix("\ufeff" if line == 1 else "")
            if name == "civic" and line == 1:
                header = civic_header(content, path)
            elif content.strip():
                reason, row, labels = civic_row(content, header) if name == "civic" else json_row(name, content)
                yield line, content, reason or why_bad(row), row, labels
    except files.DamagedFile as error:
        yield line + 1, "", str(error), None, None


def json_row(name: str, content: str) -> tuple[str, dict | None, dict | None]:
    """(reason, note row, silver labels) of one line of JSON."""
    try:
        fields = MODELS[name].model_validate(json.loads(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place} {first['msg']}".strip(), None, None
    except (ValueError, RecursionError):
        return "not valid JSON", None, None
    if name == "letters":
        primary = fields.output.primary_cancer
        cancer = public_silver.cancer_type(f"{primary.site} | {primary.histopathology_status}")
        labels = public_silver.letter_labels(cancer, primary.model_dump(), [item.model_dump() for item in fields.output.status_updates])
        given = public_silver.first_drugs([item.model_dump() for item in primary.cancer_timeline], fields.text)
        labels |= {"systemic_therapy": given} if given else {}
        return "", note(name, f"letter-{fields.file.rpartition('_')[2].removesuffix('.json')}", cancer, fields.text), labels
    if name == "literature":
        return "", note(name, fields.pmcid, "", fields.text), None
    digest = hashlib.sha256(f"{fields.question}\n{fields.answer}".encode("utf-8", errors="surrogatepass")).hexdigest()[:8]  # a page asks a question twice
    page = re.sub(r"\W+", "-", fields.url.removeprefix("https://www.cancer.gov/types/")).strip("-")
    return "", note(name, f"{page}-{digest}", public_silver.cancer_type(fields.focus), f"{fields.question}\n{fields.answer}"), None


def civic_header(content: str, path: Path) -> list[str]:
    header = content.split("\t")
    missing = [column for column in CIVIC_COLUMNS if column not in header]
    if missing:
        download = public_silver.settings()["sources"]["civic"]["download"]
        raise UserError(f"file {path}, line 1: no column {', '.join(missing)}. Get the {download}.")
    return header


def civic_row(content: str, header: list[str]) -> tuple[str, dict | None, None]:
    """(reason, note row, None) of one line: the statement, after a line that says what it is about."""
    values = content.split("\t")
    if len(values) != len(header):
        return f"{len(values)} values under {len(header)} column names", None, None
    said = {column: " ".join(value.split()) for column, value in zip(header, values, strict=True)}
    for column in ("evidence_id", "evidence_statement"):
        if not said[column]:
            return f"{column} is empty", None, None
    drugs = f" ({said['drugs']})" if said["drugs"] else ""
    about = f"{said['gene']} {said['variant']} in {said['disease']}{drugs}. {said['evidence_type']} evidence, level {said['evidence_level']}"
    verdict = f"{said['evidence_direction']} {said['clinical_significance']}".strip().lower()
    text = f"{about}{', ' + verdict if verdict else ''}.\n{said['evidence_statement']}"
    return "", note("civic", f"EID{said['evidence_id']}", public_silver.cancer_type(said["disease"]), text), None


def note(name: str, note_id: str, cancer: str, text: str) -> dict:
    """A row with the NOTE_COLUMNS."""
    source = public_silver.settings()["sources"][name]
    row = {"note_id": note_id, "patient_id": note_id, "site": "", "institution": source["institution"], "note_type": source["note_type"]}
    return row | {"cancer_type": cancer, "date": "", "text": text, "source": Path(source["file"]).name}
