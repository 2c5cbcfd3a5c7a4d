"""How fast duplicates are found, stage by stage: `python tests/bench/bench_duplicates.py 20000 100000` prints a table per number of notes.

The notes are invented (300 words of a vocabulary of 8,000, about 2 kB), each written anew from its number whenever it is asked for, so that a
million of them need no disk and no memory. Of every 100, two are copies in another layout, three are copies with three words changed, one is a
form letter, one a form with a number. The writing of the notes is not timed.
"""

import itertools
import random
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from datasketch import MinHash
from rensa import RMinHash

from cancerllm_utils.corpus import duplicates

BATCH, WORDS = 5000, 300
letters = random.Random(0)
VOCABULARY = ["".join(letters.choices("abcdefghiklmnoprstuvy", k=letters.randint(2, 10))) for _ in range(8000)]
FORM = " ".join(letters.choices(VOCABULARY, k=120))


def note(number: int) -> str:
    """The invented note of that number."""
    kind = number % 100
    source = number - kind + 20 + kind  # notes 20 to 24 of each hundred are copied by 0 to 4
    rng = random.Random(source if kind < 5 else number)
    words = rng.choices(VOCABULARY, k=WORDS)
    if kind < 2:
        return " ".join(words).upper().replace(" b", ",\nb")
    if kind < 5:
        for place in (50, 150, 250):
            words[place] = f"changed{number}"
    if kind == 5:
        return "Seen in clinic. No change."
    return f"{FORM} {number}" if kind == 6 else " ".join(words)


def note_ids(numbers: range) -> list[str]:
    return [f"{number:08}" for number in numbers]


def seconds(work, *arguments, clock=time.perf_counter) -> tuple[float, object]:
    started = clock()
    result = work(*arguments)
    return clock() - started, result


def stages(n: int = BATCH) -> None:
    """What each stage of a signature costs in processor time, the best of three, and the two libraries beside each other."""
    texts = [note(number) for number in range(n)]
    normalised = [duplicates.normalise(text) for text in texts]
    chunks = list(duplicates.chunks(normalised))
    hashed = [(hashes, offsets.astype(np.uint64)) for hashes, offsets in map(duplicates.shingles, chunks)]
    few = duplicates.shingles(normalised[:500])
    work = {
        "normalise": lambda: [duplicates.normalise(text) for text in texts],
        "hash the words": lambda: [duplicates.word_hashes(chunk) for chunk in chunks],
        "hash the words and shingle": lambda: [duplicates.shingles(chunk) for chunk in chunks],
        "MinHash by rensa": lambda: [RMinHash.digest_matrix_from_flat_token_hashes(*one, duplicates.PERMUTATIONS, 42).to_rows() for one in hashed],
        "all of `signatures`": lambda: duplicates.signatures(texts),
        "MinHash by datasketch": lambda: datasketch(*few),
    }
    for name, call in work.items():
        took = min(seconds(call, clock=time.process_time)[0] for _ in range(3)) / (500 if "datasketch" in name else n)
        print(f"  {name:28} {1e6 * took:8.1f} us a note {1 / took:10,.0f} notes/s")


def datasketch(hashes: np.ndarray, offsets: np.ndarray) -> list[MinHash]:
    first = MinHash(duplicates.PERMUTATIONS, hashfunc=lambda token: token, scheme="affine64")
    sketches = []
    for a, b in itertools.pairwise(offsets):
        sketch = MinHash(duplicates.PERMUTATIONS, hashfunc=lambda token: token, scheme="affine64", permutations=first.permutations)
        sketch.update_batch(hashes[a:b])
        sketches.append(sketch)
    return sketches


def whole(n: int, workers: int) -> None:
    """All stages over n notes; the signatures in `workers` processes, ten batches in memory at a time."""
    sketches, signing, last = [], 0.0, time.monotonic()
    with ProcessPoolExecutor(workers) as pool:
        pool.submit(duplicates.signatures, ["warm"]).result()
        for start in range(0, n, 10 * BATCH):
            batches = [[note(number) for number in range(a, min(a + BATCH, n))] for a in range(start, min(start + 10 * BATCH, n), BATCH)]
            took, found = seconds(lambda batches=batches: list((pool.map if workers > 1 else map)(duplicates.signatures, batches)))
            signing += took
            sketches += found
            if time.monotonic() - last > 5:
                last = time.monotonic()
                print(f"  signed {start:,} of {n:,}, {start / max(signing, 1e-9):,.0f} notes/s", flush=True)
    sketches = np.concatenate(sketches)
    writing, asked = 0.0, 0

    def texts_of(rows: list[int]) -> list[str]:
        nonlocal writing, asked
        took, texts = seconds(lambda: [note(row) for row in rows])
        writing, asked = writing + took, asked + len(rows)
        return texts

    took, found = seconds(duplicates.near_duplicates, note_ids(range(n)), sketches, texts_of)
    took -= writing
    planted = {(number, number + 20) for number in range(n) if number % 100 < 5 and number + 20 < n}
    group_of = dict(zip(found["note_id"].astype(int), found["group"], strict=True))
    hits = sum(group_of.get(a, -1) == group_of.get(b, -2) for a, b in planted)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1e6
    print(f"  {n:,} notes, {workers} process(es): signatures {signing:.1f} s ({n / signing:,.0f}/s), group and verify {took:.1f} s ({n / took:,.0f}/s; "
          f"{asked:,} texts read again), together {n / (signing + took):,.0f} notes/s; planted copies {hits:,} of {len(planted):,}; "
          f"{found['group'].nunique():,} groups; peak {peak:.2f} GB", flush=True)  # fmt: skip


if __name__ == "__main__":
    print(f"stages of a signature, processor time of one core, {BATCH:,} notes:")
    stages()
    for size in [int(argument) for argument in sys.argv[1:]] or [20_000]:
        for processes in (1, 2):
            whole(size, processes)
