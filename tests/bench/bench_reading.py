"""What it takes to read a note: `python tests/bench/bench_reading.py [notes]`: notes a second of processor time of the label rules and of the quality of the text.

The notes are invented: 4,000 characters for the rules, 2,000 for the quality, none like another. Goal of the quality: 3,000 notes a second.
"""

import sys
import time

import pandas as pd

from cancerllm_utils.corpus import labels, quality

REPORT = "Right kidney, nephrectomy {number}. Renal cell carcinoma, clear cell type. Fuhrman grade 2. pT1a pN0. "


def rate(work, n: int) -> float:
    """Notes a second of processor time."""
    begun = time.process_time()
    work()
    return n / (time.process_time() - begun)


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    texts = ["".join(REPORT.format(number=f"{note}-{part}") for part in range(40)) for note in range(n)]
    notes = pd.DataFrame({"note_id": [f"n{note}" for note in range(n)], "patient_id": [f"p{note}" for note in range(n)], "cancer_type": "KIRC", "note_type": "pathology", "text": texts})
    registry = pd.DataFrame(columns=["patient_id", "field", "registry_value"])
    print(f"label rules: {rate(lambda: labels.label_notes(notes, registry), n):,.0f} notes/s of {len(texts[0]):,} characters")
    print(f"quality: {rate(lambda: [quality.assess(text[:2000]) for text in texts], n):,.0f} notes/s of 2,000 characters")


if __name__ == "__main__":
    main()
