"""How fast the synthetic cohort is written, and in how much memory: `python tests/bench/bench_synthetic.py 20000 100000` prints a row per number of notes.

Notes are consumed batch by batch and thrown away, as an intake does that writes each batch to disk. Seconds are processor time of one core; memory is the
peak of the process so far, so that a number that grows with the notes would show.
"""

import resource
import sys
import time

from cancerllm_utils.corpus import synthetic

NOTES_PER_PATIENT = 6.6


def main(sizes: list[int]) -> None:
    print(f"{'notes':>10} {'patients':>9} {'million characters':>19} {'seconds':>8} {'notes/s':>8} {'of which registry':>18} {'peak MB':>8}")
    for size in sizes:
        n_patients = round(size / NOTES_PER_PATIENT)
        started = time.process_time()
        source = synthetic.read(n_patients, seed=1, progress=False)
        registry = time.process_time() - started
        notes = characters = 0
        for batch in source["batches"]:
            notes += len(batch)
            characters += sum(len(row["text"]) for row in batch)
        seconds = time.process_time() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{notes:>10,} {n_patients:>9,} {characters / 1e6:>19.1f} {seconds:>8.1f} {notes / seconds:>8,.0f} {registry:>16.1f} s {peak:>8,.0f}", flush=True)


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [20_000, 100_000])
