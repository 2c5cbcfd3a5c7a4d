"""What every note goes through, batch by batch and on every core: scrubbing, the schema, text quality, the signature that finds near copies.

A prepared batch depends on its rows and on nothing else, so it is kept under the fingerprint of its rows: an intake that was killed goes on
where it was, with the same result.
"""

import hashlib
import json
import multiprocessing
import os
import pickle
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from cancerllm_utils.corpus import identifiers, labels, quality, schema, screening, scrub

BATCH = 5_000  # rows; a corpus module's batches are no larger
SMALL = 500  # notes
NO_REGISTRY = pd.DataFrame(columns=["patient_id", "field", "registry_value"])


def prepare(rows: list[dict], scrubbed: bool, mask: bool, read_rules: bool) -> dict:
    """One batch: rows of a corpus module in, what is kept of them out.

    scrubbed: whether texts pass corpus/scrub.py; mask: whether what the identifier gate finds is replaced; read_rules: whether the label rules
    read the notes. Returns notes (DataFrame, NOTE_COLUMNS), labels (DataFrame, LABEL_COLUMNS, of the kept notes: the gold that came with them, or, with
    read_rules, what the rules read), quality (DataFrame: note_id and what quality.assess measures), dropped (DataFrame note_id, patient_id,
    reason: failed texts), signatures (array, a row per kept note), quarantined (list), removed and masked (counts by kind), rows (int).
    """
    removed, masked, clean = Counter(), Counter(), []
    for row in rows:
        if isinstance(row.get("text"), str) and "\x00" not in row["text"] and schema.is_utf8(row["text"]):
            text = row["text"]
            if scrubbed:
                text, counts = scrub.scrub(text)
                removed.update(counts)
            if mask:
                text, counts = identifiers.mask(text)
                masked.update(counts)
            assert "labels" not in row or text == row["text"], f"note {row['note_id']}: scrubbing would move its gold spans"
            row = row | {"text": text}
        clean.append(row)
    notes, quarantined = schema.check_notes(clean, "")
    measured = [quality.assess(text) for text in notes["text"]]
    reasons = [quality.why_dropped(values) for values in measured]
    good = np.array([not reason for reason in reasons], dtype=bool)
    table = pd.concat([notes[["note_id"]], pd.DataFrame(measured, index=notes.index)], axis=1)
    dropped = notes[["note_id", "patient_id"]].assign(reason=reasons)[~good]
    notes = notes[good].reset_index(drop=True)
    kept = set(notes["note_id"])
    if read_rules:
        known = labels.label_notes(notes, NO_REGISTRY)
    else:
        known = pd.DataFrame([label for row in clean if row.get("note_id") in kept for label in row.get("labels", [])], columns=schema.LABEL_COLUMNS)
    return {
        "notes": notes, "labels": known, "quality": table[good].reset_index(drop=True), "dropped": dropped,
        "signatures": screening.signatures(notes["text"].tolist()), "quarantined": quarantined,
        "removed": dict(removed), "masked": dict(masked), "rows": len(rows),
    }  # fmt: skip


def prepare_all(batches: Iterator[list[dict]], how: dict, cache_dir: Path, processes: int = 0) -> Iterator[dict]:
    """Prepared batches in order, with a line every five seconds; a few batches are in memory at a time.

    how: the arguments of `prepare` by name. processes: 0 takes every core as soon as there is a second batch. cache_dir keeps finished batches; the caller removes it at the end.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    processes = processes or os.cpu_count() or 1
    begun = last = time.monotonic()
    done = resumed = 0
    pool, waiting, exhausted = None, deque(), False
    batches = iter(batches)
    try:
        while waiting or not exhausted:
            while not exhausted and len(waiting) <= processes:
                rows = next(batches, None)
                if rows is None:
                    exhausted = True
                    break
                path = cache_dir / f"{fingerprint(rows, how)}.pickle"
                if path.is_file():
                    waiting.append(path)
                    resumed += len(rows)
                elif processes == 1 or (not waiting and done == 0 and len(rows) < SMALL):  # a small corpus is done before a pool has started
                    waiting.append(prepare_into(path, rows, how))
                else:
                    pool = pool or ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))  # a forked child can inherit a held lock of Arrow's threads
                    waiting.append(pool.submit(prepare_into, path, rows, how))
            if not waiting:
                break
            first = waiting.popleft()
            path = first if isinstance(first, Path) else first.result()  # an error in a worker is raised here
            result = pickle.loads(path.read_bytes())  # a file that this run wrote
            done += result["rows"]
            yield result
            if time.monotonic() - last > 5:
                last = time.monotonic()
                kept = f", {resumed:,} of them from before" if resumed else ""
                print(f"intake: {done:,} rows prepared{kept}, {(done - resumed) / (last - begun):,.0f} rows/s", flush=True)
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def prepare_into(path: Path, rows: list[dict], how: dict) -> Path:
    """Prepare a batch and keep it whole or not at all."""
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(pickle.dumps(prepare(rows, **how)))
    os.replace(part, path)
    return path


def fingerprint(rows: list[dict], how: dict) -> str:
    """sha256 of the rows, of what is done to them and of the code that does it."""
    content = json.dumps([how, code_version(), rows], sort_keys=True, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


@cache
def code_version() -> str:
    """sha256 of this package's modules and word lists."""
    files = sorted(p for p in Path(__file__).parent.rglob("*") if p.suffix in (".py", ".yaml"))
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()
