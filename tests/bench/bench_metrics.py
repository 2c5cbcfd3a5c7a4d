"""How fast pairs are scored: `python tests/bench/bench_metrics.py` prints microseconds per pair, `... memory` the memory of a million pairs.

Three arms take turns on the same pairs and the median of the rounds counts, so that a busy machine slows all alike: the package, the plain
Python evaluator (tests/evaluation/plain_metrics.py: every comparison normalises both texts anew, as the released code does), and the same
with stems and words remembered (a careful plain program). Both kinds of answers are timed: all pairs distinct with empty caches, the worst
case, and answers as a field has them, where few distinct pairs come back again and again. Texts are invented.
"""

import random
import resource
import statistics
import sys
import time
from functools import lru_cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cancerllm_utils.evaluation import metrics, score
from tests.evaluation import plain_metrics

HISTOLOGY = ["adenocarcinoma", "squamous cell carcinoma", "invasive ductal carcinoma", "infiltrating lobular carcinoma", "clear cell carcinoma", "glioblastoma",
             "papillary carcinoma", "serous cystadenocarcinoma", "malignant melanoma", "hepatocellular carcinoma"]
ORGANS = ["lung", "left breast", "right kidney", "ascending colon", "stomach", "urinary bladder", "thyroid gland", "prostate", "ovary", "liver"]
VALUES = ["T1", "T2", "T3", "T4", "N0", "N1", "N2", "G1", "G2", "G3", "Left", "Right", "Positive", "Negative", "ER+", "ER-", "not stated", "7", "8", "9"]
WORDS = sorted({word for text in HISTOLOGY + ORGANS for word in text.split()}) + ["of", "the", "with", "moderately", "differentiated", "grade", "metastatic", "in", "situ"]


def distinct_pairs(n: int, seed: int = 0) -> list:
    """n pairs, no two alike: sizes, diagnoses and free phrases, a third right."""
    rng, seen = random.Random(seed), {}
    while len(seen) < n:
        kind = rng.random()
        if kind < 0.3:
            gold, other = (f"{rng.randrange(2000) / 100} {rng.choice(['cm', 'mm'])}" for _ in range(2))
        elif kind < 0.6:
            gold, other = (f"{rng.choice(HISTOLOGY)} of the {rng.choice(ORGANS)}, {rng.randrange(10**5)}" for _ in range(2))
        else:
            gold, other = (" ".join(rng.choices(WORDS, k=rng.randint(2, 6))) for _ in range(2))
        seen[gold, gold if rng.random() < 0.33 else other] = None
    return [([gold], predicted) for gold, predicted in seen]


def repeated_pairs(n: int, seed: int = 0) -> list:
    """n pairs as a test set holds them: values of fields and diagnoses, two thirds right."""
    rng = random.Random(seed)
    texts = VALUES + [f"{histology} of the {organ}" for histology, organ in zip(HISTOLOGY, ORGANS)] + ["2.5 cm", "1.2 cm", "30 mm"]
    golds = [rng.choice(texts) for _ in range(n)]
    return [([gold], gold if rng.random() < 0.66 else rng.choice(texts)) for gold in golds]


def forget() -> None:
    for cached in (metrics._flat, metrics._similarities, metrics.paper_words, metrics.clinical_words, metrics._stem):
        cached.cache_clear()


def plain_words(text: str) -> tuple:
    return plain_metrics.clinical_words(text, metrics.SETTINGS["clinical_rewrites"])


def package(pairs, families) -> None:
    metrics.score_pairs(pairs, tuple(pair for pair in score.EIGHT if pair[0] in families))


def plain(pairs, families) -> None:
    for answers, prediction in pairs:
        if "paper" in families:
            plain_metrics.plain_scores(answers, prediction)
        if "clinical" in families:
            plain_metrics.plain_clinical_scores(answers, prediction, plain_words)


def careful(pairs, families) -> None:
    kept = plain_metrics.normalised, plain_metrics.without_punctuation
    plain_metrics.normalised, plain_metrics.without_punctuation = (lru_cache(maxsize=None)(function) for function in kept)
    words = lru_cache(maxsize=None)(plain_words)
    try:
        for answers, prediction in pairs:
            if "paper" in families:
                plain_metrics.plain_scores(answers, prediction)
            if "clinical" in families:
                plain_metrics.plain_clinical_scores(answers, prediction, words)
    finally:
        plain_metrics.normalised, plain_metrics.without_punctuation = kept


def seconds(arm, pairs, families) -> float:
    forget()
    begun = time.process_time()
    arm(pairs, families)
    return time.process_time() - begun


def times(rounds: int = 7, n: int = 2000) -> None:
    print(f"{'pairs':<20} {'families':<15} {'package':>9} {'careful':>9} {'plain':>9}   microseconds per pair; times faster than careful, plain")
    # The repeated answers get more pairs: 2,000 would mostly time the first meetings.
    for name, make, few, many in [("all distinct", distinct_pairs, n, n), ("repeated answers", repeated_pairs, n, 20 * n)]:
        for families in [("paper",), ("clinical",), ("paper", "clinical")]:
            found = {package: [], careful: [], plain: []}
            for round_number in range(rounds):
                for arm in found:
                    pairs = make(many if arm is package else few, round_number)
                    found[arm].append(1e6 * seconds(arm, pairs, families) / len(pairs))
            ours, middle, slow = (statistics.median(values) for values in found.values())
            print(f"{name:<20} {'+'.join(families):<15} {ours:>9.1f} {middle:>9.1f} {slow:>9.1f}   {middle / ours:.1f}x, {slow / ours:.1f}x")


def memory(n: int = 1_000_000) -> None:
    """Peak memory of a stream of n distinct pairs; the result itself is 24 numbers per pair."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rng = random.Random(0)
    stream = (([f"{rng.randrange(10**7) / 1000} cm"], f"{' '.join(rng.choices(WORDS, k=4))} {number}") for number in range(n))
    begun = time.process_time()
    table = metrics.score_pairs(stream, tuple(score.EIGHT))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{n:,} distinct pairs: {time.process_time() - begun:.0f} s of processor time; memory {before:.0f} MiB before, {peak:.0f} MiB at the peak, "
          f"of which the result {table.nbytes / 2**20:.0f} MiB")


if __name__ == "__main__":
    memory() if "memory" in sys.argv[1:] else times()
