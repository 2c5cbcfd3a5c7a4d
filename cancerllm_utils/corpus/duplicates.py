"""Exact and near duplicates among notes, in memory that grows with the number of notes and not with their text.

Two notes are **exact** copies when their letters and digits are the same (case, spacing and punctuation apart), and **near** copies when the
Jaccard similarity of their sets of word 3-grams is at least 0.8. Why words by three: two reports written in the same house style share under
2 % of their 3-grams (6 % of character 5-grams, which would call two forms with other values a copy), and a copy in which 3 % of the words were
changed still has a Jaccard similarity of 0.82 (0.73 with the usual 5-grams). Copies that were changed more are found by their shared
13-grams, see screening.py. A note of one or two words is one shingle.

Candidates come from MinHash with banding (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3) and each is then
verified on its text, so that precision is 1 and only recall is a matter of chance. The sketches are those of `rensa` (Fast Similarity
Sketching, Dahlgaard et al. 2017, arXiv:1704.04370), which takes hashed tokens of a whole batch; `datasketch` took 30 times as long.
"""

import hashlib
import itertools
import re
import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from rensa import RMinHash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

WORDS_PER_SHINGLE = 3
PERMUTATIONS, BANDS, ROWS = 64, 12, 5  # a pair of Jaccard 0.8 becomes a candidate with chance 1 - (1 - 0.8^5)^12 = 0.9915
PRINT_COLUMNS = 4  # the exact copy's fingerprint: 128 bits beside the sketch
WINDOW = 32  # a bucket's note is compared with so many that follow it: a bucket costs 32 n, never n squared
FORM_LETTER_PATIENTS = 5  # one and the same text in the records of so many patients is a form letter
PAIRS_AT_ONCE = 20_000

SEPARATOR = 32
ASCII_WORDS = bytes(ord(chr(b).lower()) if chr(b).isalnum() else SEPARATOR for b in range(128)) + bytes(range(128, 256))
CHUNK = 1 << 18  # characters hashed at once: a few arrays of this length stay in the processor's cache
MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64)  # the first n of eight bytes
GRAM_CODES = np.random.default_rng(21).integers(2**63, size=32, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


# ---------------------------------------------------------------- words and their n-grams, as numbers


def normalise(text: str) -> bytes:
    """The text's words in lower case between spaces; everything but letters and digits is a space."""
    if text.isascii():
        return text.encode().translate(ASCII_WORDS)
    return re.sub(r"[\W_]+", " ", text.lower()).encode("utf-8", errors="surrogatepass")


def fingerprint(text: str) -> str:
    """sha256 of the text's letters and digits in lower case: equal for copies that differ in layout only."""
    return hashlib.sha256(normalise(text).replace(b" ", b"")).hexdigest()


def mix(hashes: np.ndarray) -> np.ndarray:
    """Scatter uint64 values over the whole range, one to one (the finaliser of splitmix64, Steele et al. 2014)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def word_hashes(normalised: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (uint64) of all words of a few notes in order, and offsets (one more than notes) of each note's first word.

    Words are read eight bytes at a time as one number each, so that a chunk costs a few passes of numpy and no loop over words.
    """
    buffer = np.frombuffer(b" " + b" ".join(normalised) + b" " * 9, dtype=np.uint8)
    inside = buffer != SEPARATOR
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    starts, lengths = edges[0::2], edges[1::2] - edges[0::2]
    eights = np.ndarray(len(buffer) - 7, dtype="<u8", buffer=buffer, strides=(1,))  # the eight bytes from every byte on
    hashes = mix(eights[starts] & MASKS[np.minimum(lengths, 8)])
    done, longer = 8, np.flatnonzero(lengths > 8)
    while len(longer):
        hashes[longer] = mix(hashes[longer] + (eights[starts[longer] + done] & MASKS[np.minimum(lengths[longer] - done, 8)]))
        done += 8
        longer = longer[lengths[longer] > done]
    first_byte = np.cumsum([1] + [len(note) + 1 for note in normalised])
    return hashes, np.searchsorted(starts, first_byte)


def chunks(normalised: list[bytes]) -> Iterator[list[bytes]]:
    """Consecutive notes of together at most CHUNK bytes (a longer note comes alone)."""
    ends = np.cumsum([len(note) + 1 for note in normalised])
    start = 0
    while start < len(normalised):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + CHUNK, side="right")))
        yield normalised[start:stop]
        start = stop


def grams(normalised: list[bytes], n: int, short: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (uint64) of the word n-grams inside each note, in order and with repetitions, and offsets (one more than notes).

    A note of fewer than n words has none; with `short` it has one, of all its words. A note without words has none.
    """
    hashes, counts = [np.empty(0, dtype=np.uint64)], [np.zeros(1, dtype=np.int64)]
    for chunk in chunks(normalised):
        words, offsets = word_hashes(chunk)
        if short and (np.diff(offsets) < n).any():
            words, offsets = fill_short(words, offsets, n)
        number = np.maximum(np.diff(offsets) - n + 1, 0)
        counts.append(number)
        if number.any():
            last = len(words) - n + 1
            sums = words[:last] * GRAM_CODES[0]
            for place in range(1, n):
                sums += words[place : last + place] * GRAM_CODES[place]
            inside = np.arange(number.sum()) + np.repeat(offsets[:-1] - np.cumsum(number) + number, number)  # grams that cross no border
            hashes.append(mix(sums[inside]))
    return np.concatenate(hashes), np.cumsum(np.concatenate(counts))


def fill_short(words: np.ndarray, offsets: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Notes of one to n-1 words filled with zeros to n words."""
    lengths = np.diff(offsets)
    filled_offsets = np.concatenate([[0], np.cumsum(np.where(lengths > 0, np.maximum(lengths, n), 0))])
    filled = np.zeros(filled_offsets[-1], dtype=np.uint64)
    filled[np.arange(len(words)) + np.repeat(filled_offsets[:-1] - offsets[:-1], lengths)] = words
    return filled, filled_offsets


def shingles(normalised: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the word 3-grams of each note, with offsets; a note of one or two words is one shingle."""
    return grams(normalised, WORDS_PER_SHINGLE, short=True)


# ---------------------------------------------------------------- signatures and groups


def signatures(texts: list[str]) -> np.ndarray:
    """One row per text, uint32 (n, 68): the MinHash sketch (64) and a 128-bit fingerprint of the letters and digits (4); 272 bytes a note.

    A text without letters and digits has fingerprint 0 and is nobody's copy.
    """
    rows = np.zeros((len(texts), PERMUTATIONS + PRINT_COLUMNS), dtype=np.uint32)
    done = 0
    for batch in chunks([normalise(text) for text in texts]):
        hashes, offsets = shingles(batch)
        part = rows[done : done + len(batch)]
        done += len(batch)
        sketches = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), PERMUTATIONS, 42).to_rows()
        part[:, :PERMUTATIONS] = np.array(sketches, dtype=np.uint32)
        prints = b"".join(hashlib.blake2b(note.translate(None, b" "), digest_size=16).digest() for note in batch)
        part[:, PERMUTATIONS:] = np.frombuffer(prints, dtype=np.uint32).reshape(-1, PRINT_COLUMNS)
        part[np.diff(offsets) == 0] = 0
    return rows


def jaccards(texts_of: Callable, pairs: np.ndarray) -> np.ndarray:
    """True Jaccard similarity of the shingle sets for each pair of row positions (m, 2); texts are fetched for 20,000 pairs at a time."""
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        chunk = pairs[start : start + PAIRS_AT_ONCE]
        rows, places = np.unique(chunk, return_inverse=True)
        hashes, offsets = shingles([normalise(text) for text in texts_of(rows.tolist())])
        sets = [distinct(hashes[a:b]) for a, b in itertools.pairwise(offsets)]
        for number, (i, j) in enumerate(places.reshape(-1, 2).tolist(), start):
            both = np.concatenate((sets[i], sets[j]))
            both.sort()
            shared = np.count_nonzero(both[1:] == both[:-1])
            found[number] = shared / (len(both) - shared)
    return found


def fetch(texts_of: Callable, rows: np.ndarray) -> list[str]:
    """Texts of rows in any order, with repetitions; each is asked for once, in the order of the rows."""
    once, places = np.unique(rows, return_inverse=True)
    texts = texts_of(once.tolist())
    return [texts[place] for place in places]


def distinct(values: np.ndarray) -> np.ndarray:
    """Sorted distinct values; many times as fast as the hash table of np.unique."""
    values = np.sort(values)
    return values[np.concatenate([np.ones(min(len(values), 1), dtype=bool), values[1:] != values[:-1]])]


def buckets_of(sketches: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per band the rows that share a bucket with another row, ordered by bucket and then by row, and each one's bucket key."""
    found = []
    for band in range(BANDS):
        keys = np.zeros(len(sketches), dtype=np.uint64)
        for column in range(band * ROWS, (band + 1) * ROWS):
            keys = mix(keys + sketches[:, column] + np.uint64(1))
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        same, crowded = keys[1:] == keys[:-1], np.zeros(len(keys), dtype=bool)
        crowded[1:] |= same
        crowded[:-1] |= same
        found.append((order[crowded], keys[crowded]))
    return found


def near_pairs(sketches: np.ndarray, texts_of: Callable, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Verified pairs of rows (m, 2), smaller row first, that connect all near copies, and their Jaccard similarities.

    In each bucket a note is compared with the 32 that follow it, nearest first. What a round has connected is not compared again:
    50,000 nearly identical notes cost 50,000 comparisons.
    """
    n, buckets = len(sketches), buckets_of(sketches)
    estimate_floor = threshold - 4 * np.sqrt(threshold * (1 - threshold) / PERMUTATIONS)  # four standard errors: 1 in 30,000 is lost here
    linked, similarity, tested, component = np.empty((0, 2), dtype=np.int64), np.empty(0), np.empty(0, dtype=np.int64), np.arange(n)
    last = time.monotonic()
    for distance in range(1, WINDOW + 1):
        keys_of_pairs, any_left = [np.empty(0, dtype=np.int64)], False
        for rows, keys in buckets:
            together = keys[distance:] == keys[:-distance]
            any_left |= bool(together.any())
            i, j = rows[:-distance][together], rows[distance:][together]
            apart = component[i] != component[j]
            i, j = i[apart], j[apart]
            for start in range(0, len(i), 100_000):
                a, b = i[start : start + 100_000], j[start : start + 100_000]
                alike = (sketches[a] == sketches[b]).mean(axis=1) >= estimate_floor
                keys_of_pairs.append(np.minimum(a, b)[alike] * n + np.maximum(a, b)[alike])
        if not any_left:
            break
        candidates = np.setdiff1d(np.unique(np.concatenate(keys_of_pairs)), tested)
        pairs = np.stack([candidates // n, candidates % n], axis=1)
        found = jaccards(texts_of, pairs)
        good = found >= threshold
        tested = np.union1d(tested, candidates[~good])
        if good.any():
            linked, similarity = np.concatenate([linked, pairs[good]]), np.concatenate([similarity, found[good]])
            component = components(linked, n)
        if time.monotonic() - last > 5:
            last = time.monotonic()
            print(f"near-duplicates: neighbour {distance} of {WINDOW}, {len(tested) + len(linked):,} pairs verified", flush=True)
    further = WINDOW + 1
    unseen = sum(int(((keys[further:] == keys[:-further]) & (component[rows[further:]] != component[rows[:-further]])).sum()) for rows, keys in buckets)
    if unseen:
        print(f"near-duplicates: in buckets of more than {WINDOW + 1} notes {unseen:,} were compared with the {WINDOW} that follow only", flush=True)
    return linked, similarity


def components(pairs: np.ndarray, n: int) -> np.ndarray:
    """Number of the connected component of each of n nodes."""
    return connected_components(coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n)), directed=False)[1]


def near_duplicates(note_ids: list[str], signatures: np.ndarray, texts_of: Callable, threshold: float = 0.8) -> pd.DataFrame:
    """The notes that have a copy among the others.

    Args:
        note_ids: one id per note, unique. signatures: rows of `signatures`, in the same order.
        texts_of: function of a sorted list of row positions that returns their texts (at most 40,000 at a time).
        threshold: least Jaccard similarity of the word 3-gram sets of a near copy; the bands are made for 0.8 and above.

    Returns:
        DataFrame[note_id, group, kept, jaccard, kind, copy_of], by group and note_id, of notes in a group of two or more. Groups are
        connected components: A and C may stand together because both are copies of B. `kept` is the group's smallest note_id, whatever
        the order of the rows. `jaccard` is the similarity with that note (below the threshold where a chain ties it in). `kind` is exact
        when another note has the same letters and digits, else near; `copy_of` is the smallest note_id with the same letters and digits.
    """
    assert len(note_ids) == len(signatures) == len(set(note_ids)), "note ids must be unique, one per signature"
    order = np.argsort(np.asarray(note_ids, dtype=object), kind="stable")  # all that follows is in the order of the ids
    prints = np.ascontiguousarray(signatures[order, PERMUTATIONS:]).view(np.uint64)
    order = order[prints.any(axis=1)]  # without notes that hold no word
    prints = prints[prints.any(axis=1)]
    copies = pd.DataFrame(prints).groupby([0, 1], sort=False).ngroup().to_numpy()  # numbered by first, so smallest, note id
    first = np.unique(copies, return_index=True)[1]  # exact copies collapse into their first note before anything is compared
    n_copies = np.bincount(copies, minlength=len(first))

    def texts_of_first(rows: list[int]) -> list[str]:
        return fetch(texts_of, order[first[rows]])

    pairs, similarities = near_pairs(signatures[order[first], :PERMUTATIONS], texts_of_first, threshold)
    component = components(pairs, len(first))
    group_first = np.unique(component, return_index=True)[1][component]  # smallest row of the component of each distinct text
    grouped = np.bincount(component[copies], minlength=component.max(initial=0) + 1)[component] > 1
    similarity = np.ones(len(first))
    similarity[group_first != np.arange(len(first))] = np.nan
    with_first = pairs[:, 0] == group_first[pairs[:, 1]]
    similarity[pairs[with_first, 1]] = similarities[with_first]
    chained = np.flatnonzero(np.isnan(similarity))  # tied in by another note of the group than its first
    similarity[chained] = jaccards(texts_of_first, np.stack([group_first[chained], chained], axis=1))

    rows = np.flatnonzero(grouped[copies])
    texts = copies[rows]
    table = pd.DataFrame({
        "note_id": np.asarray(note_ids, dtype=object)[order[rows]],
        "group": np.unique(group_first[texts], return_inverse=True)[1].astype(np.int64),
        "kept": rows == first[group_first[texts]],
        "jaccard": similarity[texts],
        "kind": np.where(n_copies[texts] > 1, "exact", "near"),
        "copy_of": np.asarray(note_ids, dtype=object)[order[first[texts]]],
    })  # fmt: skip
    return table.sort_values(["group", "note_id"], ignore_index=True)


# ---------------------------------------------------------------- what is done with them


def apply_policy(notes: pd.DataFrame, duplicates: pd.DataFrame, policy: str) -> tuple[list[str], pd.DataFrame, list[tuple[str, str]]]:
    """Which notes stay, and which patients must stay in one split.

    Within one patient a copy is the same observation twice (a report filed again, a note carried forward): `keep_one` leaves the note with
    the smallest id of each group, `keep_together` leaves all, as one patient is in one split anyhow. Between two patients nobody can tell
    whose note it is, or whether the two are one person under two ids: both keep theirs, and the pair is *linked*, so that a split never
    parts them. A text that stands unchanged in the records of five or more patients is a form letter, which says nothing of any of them and
    would tie a whole institution into one split: `keep_one` leaves a single note of it and links nobody for it; `keep_together` links them all.

    Args:
        notes: DataFrame with note_id and patient_id. duplicates: from `near_duplicates`. policy: keep_one or keep_together.

    Returns:
        The ids of the kept notes in the order of `notes`; a table DataFrame[reason, groups, notes, patients, dropped]; the links, pairs of
        patient ids in sorted order, enough of them that their connected components are the patients to keep together.
    """
    assert policy in ("keep_one", "keep_together"), f"policy {policy!r} is unknown: keep_one or keep_together"
    table = duplicates.merge(notes[["note_id", "patient_id"]], on="note_id").sort_values(["group", "note_id"])
    dropped, counted = set(), []

    def drop(reason: str, part: pd.DataFrame, ids: pd.Series) -> None:
        sizes = {"groups": part["group"].nunique(), "notes": len(part), "patients": part["patient_id"].nunique()}
        counted.append({"reason": reason} | sizes | {"dropped": len(ids)})
        dropped.update(ids)

    if policy == "keep_one":
        letters = table[table.groupby("copy_of")["patient_id"].transform("nunique") >= FORM_LETTER_PATIENTS]
        drop("without all but one of each form letter", letters, letters.loc[letters["copy_of"] != letters["note_id"], "note_id"])
        for reason, same in (("without exact copies within a patient", "copy_of"), ("without near copies within a patient", "group")):
            table = table[~table["note_id"].isin(dropped)]
            part = table[table.groupby([same, "patient_id"])["note_id"].transform("size") > 1]
            drop(reason, part, part.loc[part.duplicated([same, "patient_id"]), "note_id"])
        table = table[~table["note_id"].isin(dropped)]
    across = table[table.groupby("group")["patient_id"].transform("nunique") > 1]
    drop("copies between patients, kept in one split", across, across["note_id"][:0])
    first = across.groupby("group")["patient_id"].transform("min")
    links = sorted({(a, b) for a, b in zip(first, across["patient_id"]) if a != b})
    kept = notes.loc[~notes["note_id"].isin(dropped), "note_id"].tolist()
    return kept, pd.DataFrame(counted, columns=["reason", "groups", "notes", "patients", "dropped"]), links


def flow_steps(notes: pd.DataFrame, kept: list[str], counts: pd.DataFrame) -> list[dict]:
    """The flow's steps {step, n_reports, n_patients, dropped, note} of what `apply_policy` did: notes before it, its kept ids, its table.

    Only the first step, form letters, can cost a patient's last note, so the number of patients is the same after every step.
    """
    steps, left, n_patients = [], len(notes), notes.loc[notes["note_id"].isin(set(kept)), "patient_id"].nunique()
    for row in counts[counts["groups"] > 0].itertuples(index=False):
        left -= row.dropped
        note = f"{row.groups:,} groups, {row.notes:,} notes of {row.patients:,} patients"
        steps.append({"step": row.reason, "n_reports": left, "n_patients": n_patients, "dropped": int(row.dropped), "note": note})
    assert left == len(kept), "the dropped notes do not add up"
    return steps
