"""How intake grows: N notes of about 2 kB from a JSONL file through scrubbing, validation, quality, near copies and packed tokens.

`make bench` runs it at 100,000 notes; `.venv/bin/python tests/bench/bench_intake.py 100000 300000 1000000` shows growth up to a million and
projects the paper's 3.2 million. Prints one table: seconds of each stage, notes per second, processor time (which other work on the machine
disturbs less), peak memory of all processes together. Each size is measured in a process of its own, so that none inherits the memory of the
one before.
"""

import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import psutil

from cancerllm_utils import paths
from cancerllm_utils.corpus import build, synthetic

PAPER_NOTES = 3_192_166  # 2,676,642 notes and 515,524 reports, PAPER section 1
POOL = 20_000  # patients whose notes are combined
CHARACTERS = 2_000  # of one note


def write_notes(path: Path, n: int, seed: int = 0) -> None:
    """n notes as JSONL: notes of a synthetic pool joined at random to about 2,000 characters; every hundredth is an edited copy of the one before."""
    rng, pool = random.Random(seed), []
    for batch in synthetic.read(max(200, min(POOL, n // 20)), seed)["batches"]:
        pool += [row["text"] for row in batch]
    with open(path, "w", encoding="utf-8") as file:
        text = ""
        for number in range(n):
            if number % 100 == 99:
                text += " Seen again."
            else:
                parts = []
                while sum(map(len, parts)) < CHARACTERS:
                    parts.append(rng.choice(pool))
                text = "\n\n".join(parts)
            row = {"note_id": f"N{number}", "patient_id": f"P{number // 8}", "institution": f"Hospital {number // 8 % 40}", "site": f"Ward {number // 8 % 160}", "text": text}
            file.write(json.dumps(row) + "\n")


class PeakMemory(threading.Thread):
    """Largest memory of this process and its children in GiB, sampled every half second.

    `peak` is what the processes hold themselves: pages of mapped files, which the system drops when it needs room, are not in it;
    `resident` counts them too.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.resident, self.going = 0.0, 0.0, True

    def run(self):
        me = psutil.Process()
        while self.going:
            own = resident = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    memory = process.memory_info()
                except psutil.NoSuchProcess:
                    continue
                own, resident = own + memory.rss - memory.shared, resident + memory.rss
            self.peak, self.resident = max(self.peak, own / 2**30), max(self.resident, resident / 2**30)
            time.sleep(0.5)


def processor_seconds() -> float:
    """Processor time of this process and of its finished children."""
    return sum(os.times()[:4])


def measure(n: int, folder: Path) -> dict:
    """One row of the table for n notes."""
    from datasets import disable_caching, disable_progress_bars
    from trl import pack_dataset

    from cancerllm_utils.modeling import models, training_data

    disable_progress_bars()
    disable_caching()
    run, source = folder / "run", folder / "notes.jsonl"
    begun = time.monotonic()
    write_notes(source, n)
    written, used = time.monotonic(), processor_seconds()
    memory = PeakMemory()
    memory.start()
    build.build_corpus(run, "local", str(source), source={"data_source": "jsonl"}, read_rules=False)
    built = time.monotonic()
    notes = training_data.read_notes(run)
    rows = training_data.note_rows(training_data.of_split(notes, "train"), models.load_tokenizer("tiny_base"), 0, 42, run / "cache" / "tokens.arrow")
    tokens = int(training_data.token_counts(rows).sum())
    tokenised = time.monotonic()
    packed = pack_dataset(rows.select_columns(["input_ids", "labels"]), 1024, "bfd_split")  # what SFTTrainer does with it
    ended = time.monotonic()
    memory.going = False
    memory.join()
    return {
        "notes": n, "GB of text": source.stat().st_size / 1e9, "writing (not counted), s": written - begun, "intake, s": built - written, "tokenising the training ring, s": tokenised - built,
        "packing, s": ended - tokenised, "all, s": ended - written, "notes/s": n / (ended - written),
        "processor time, s": processor_seconds() - used, "kept": len(notes), "tokens": tokens, "packed rows": len(packed), "peak memory, GiB": memory.peak, "with mapped files, GiB": memory.resident,
    }  # fmt: skip


def main(sizes: list[int]) -> None:
    table = []
    for n in sizes:
        folder = Path(tempfile.mkdtemp(prefix="bench_intake", dir=paths.runs_dir()))
        try:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                table.append(pool.submit(measure, n, folder).result())
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(pd.DataFrame(table).T.to_string(float_format=lambda value: f"{value:,.2f}"), flush=True)
    last = table[-1]
    print(f"The paper's {PAPER_NOTES:,} notes at the last rate: {PAPER_NOTES / last['notes/s'] / 3600:.1f} h.")


if __name__ == "__main__":
    paths.runs_dir().mkdir(parents=True, exist_ok=True)
    main([int(n) for n in sys.argv[1:]] or [100_000])
