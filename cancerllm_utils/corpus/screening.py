"""Does anything of the held-out rings stand in the training text? Patients, copies, edited copies, passages and 13-grams.

`dev` is compared with train, as models are chosen on it; `test`, `external_site` and `external` with train and dev together. Five nets, each
for what slips through the others:

- patient: the same patient id in both;
- exact: the same letters and digits, whatever the layout;
- near: Jaccard similarity of the word 3-grams of 0.8 or more (duplicates.py);
- edited: a quarter or more of the note's word 13-grams, boilerplate apart, stand in one and the same note of the other side; or it shares one
  with it, and the Jaccard similarity of their 3-grams is 0.6 or more. A copy with one word in twenty changed keeps half of its 13-grams
  (0.95^13), at least one if it has 60 words, and a similarity of about 0.73;
- passage: 60 words in a row (48 13-grams) that also stand in one note of the other side, half of them or more no boilerplate; or, with words
  changed, 48 such 13-grams in any place. A paragraph pasted into another note, or a form that few patients have.

13 words are the usual length of contamination checks (Brown et al. 2020, arXiv:2005.14165, appendix C). Hospitals write with templates, so
many 13-grams are shared by people who have nothing in common: a 13-gram in the notes of BOILERPLATE_PATIENTS or more patients is called
boilerplate. It alone makes no edited copy and no passage and is left out of the second rate, but it is measured and named (`boilerplate`); the
first rate counts it, and copies and near copies are found whatever their words are. A passage cannot be told from a form that two to four
patients share: in the published TCGA reports 5 % of the test notes have one. So passages stop a run only where a ring has more of them than
a stated share; the same holds for the second rate, which rises with the size of a corpus, as rare phrases find their like.
"""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from cancerllm_utils.corpus.duplicates import (  # noqa: F401 (screening is where the other rooms look for them)
    apply_policy,
    distinct,
    fetch,
    fingerprint,
    flow_steps,
    grams,
    jaccards,
    near_duplicates,
    normalise,
    signatures,
)  # fmt: skip
from cancerllm_utils.errors import UserError

RINGS = ("train", "dev", "test", "external_site", "external")
AGAINST = {"dev": ("train",), "test": ("train", "dev"), "external_site": ("train", "dev"), "external": ("train", "dev")}
HELD_OUT = ("test", "external_site", "external")
WORDS = 13
BOILERPLATE_PATIENTS = 5
PASSAGE_GRAMS = 60 - WORDS + 1  # the 13-grams of 60 unbroken words
EDITED_SHARE, EDITED_GRAMS, EDITED_JACCARD = 0.25, 12, 0.6  # a quarter of the note's 13-grams and at least those of a note of 60 words
COMPARED = 3  # notes of the other side with which a note is compared: those that share most 13-grams with it
MAX_SHARED_13GRAMS = 0.1  # of a ring's 13-grams, boilerplate apart; clean rings: TCGA 0.2 to 3.8 %, synthetic 0.6 to 6.7 % (60 to 10,000 patients)
MAX_PASSAGES = 0.1  # of a ring's notes; clean rings: TCGA 0.1 to 7.2 %, synthetic cohort 0
STOPPING = ("patient", "exact", "near", "edited")
GRAMS_AT_ONCE = 20_000_000  # 0.7 GB of work space; larger corpora are read in several passes, a part of the 13-grams in each
LEAK_COLUMNS = ["ring", "kind", "note_id", "other_note_id", "other_ring", "measure"]
LARGEST, PASSAGES = 20, 3  # the table of boilerplate: institutions, and passages of each
PLACES, READ = 200, 2000  # 13-grams kept per institution to choose its passages from, and notes in which they are looked up
SHOWN = 5  # ids in the message of a stopped run


def leakage(notes: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """The table of `screen`: one row per held-out ring."""
    return screen(notes, splits)["leakage"]


def boilerplate(notes: pd.DataFrame, splits: pd.DataFrame, show_text: bool = False) -> pd.DataFrame:
    """The boilerplate of `screen`; with the passages themselves where show_text is true (synthetic notes only)."""
    return screen(notes, splits, show_text=show_text)["boilerplate"]


def screen(
    notes: pd.DataFrame, splits: pd.DataFrame, duplicates: pd.DataFrame | None = None, texts_of: Callable | None = None, show_text: bool = False
) -> dict:
    """Everything that the rings share.

    Args:
        notes: note_id, patient_id, site, institution, text. splits: patient_id, split. duplicates: from `near_duplicates` over these notes
        (computed here if None). texts_of: function of a sorted list of rows of `notes` that returns their texts, for corpora that do not fit in
        memory (then `notes` needs no text). show_text: the boilerplate table shows its passages; never for real notes.

    Returns:
        leakage: DataFrame, a row per ring of AGAINST: notes, patients, and how many of its patients, sites and institutions, exact copies,
            near copies, edited copies and passages stand on the other side, each note under its strongest kind (sharing sites and
            institutions is what dev and test are; for `external` institutions must be 0, for `external_site` sites); `13-grams` (distinct
            per note, summed), `shared` and `shared, no boilerplate` (shares of these, 0-1), `notes sharing any` and `notes sharing half`
            (shares of the notes with any, with half or more of their 13-grams shared, boilerplate apart).
        leaks: DataFrame[LEAK_COLUMNS], a row per note and kind, and the note of the other side that it shares most with (for copies, the first);
            measure is 1 for patient and exact, the Jaccard similarity with the first note of the group for near, the number of 13-grams
            shared with that note for edited and passage.
        boilerplate: DataFrame, see `boilerplate_table`.
    """
    texts_of = texts_of or (lambda rows: notes["text"].iloc[rows].tolist())
    if duplicates is None:
        sketches = [signatures(texts_of(list(range(start, min(start + 5000, len(notes)))))) for start in range(0, len(notes), 5000)]
        duplicates = near_duplicates(notes["note_id"].tolist(), np.concatenate(sketches or [signatures([])]), texts_of)
    table = notes[["note_id", "patient_id", "site", "institution"]].assign(row=np.arange(len(notes))).merge(splits, on="patient_id")
    table = table.sort_values(["patient_id", "note_id"], ignore_index=True)  # a patient in two rings is there twice

    def texts_at(places: np.ndarray) -> list[str]:
        return fetch(texts_of, table["row"].to_numpy()[places])

    counts = shared_grams(table, texts_at)
    known = pd.concat([patient_leaks(table), copy_leaks(table, duplicates)], ignore_index=True)
    leaks = pd.concat([known, passage_leaks(table, counts, known, texts_at)], ignore_index=True)
    rows = []
    for ring, against in AGAINST.items():
        part, other = table["split"] == ring, table["split"].isin(against)
        names = ("patient_id", "site", "institution")
        shared = {name: table.loc[part & table[name].isin(set(table.loc[other, name])), name].nunique() for name in names}
        kinds = leaks[leaks["ring"] == ring].groupby("kind")["note_id"].nunique()
        total, seen, fresh = (counts[name][part].sum() for name in ("grams", "shared", "fresh"))
        share = counts["fresh"][part] / np.maximum(counts["grams"][part], 1)
        rows.append({
            "ring": ring, "against": " + ".join(against), "notes": int(part.sum()), "patients": table.loc[part, "patient_id"].nunique(),
            "patients shared": shared["patient_id"], "sites shared": shared["site"], "institutions shared": shared["institution"],
            "exact copies": int(kinds.get("exact", 0)), "near copies": int(kinds.get("near", 0)),
            "edited copies": int(kinds.get("edited", 0)), "passages": int(kinds.get("passage", 0)),
            "13-grams": int(total), "shared": seen / max(total, 1), "shared, no boilerplate": fresh / max(total, 1),
            "notes sharing any": (share > 0).mean() if part.any() else 0.0, "notes sharing half": (share >= 0.5).mean() if part.any() else 0.0,
        })  # fmt: skip
    return {"leakage": pd.DataFrame(rows), "leaks": leaks, "boilerplate": boilerplate_table(table, counts, texts_at, show_text)}


def check_leakage(screened: dict, max_shared_13grams: float = MAX_SHARED_13GRAMS, max_passages: float = MAX_PASSAGES) -> None:
    """Stop the run if a held-out ring (test, external_site, external) leaks; `dev` is reported only.

    Args: what `screen` returned; the highest share of a ring's 13-grams, boilerplate apart, that may stand in train and dev; the highest share
    of its notes that may hold a passage of train or dev.
    Raises UserError, one sentence with ring, kind and at most five note ids, for a patient, an exact, near or edited copy, or a higher share.
    """
    leaks, said = screened["leaks"], []
    for (ring, kind), part in leaks[leaks["ring"].isin(HELD_OUT) & leaks["kind"].isin(STOPPING)].groupby(["ring", "kind"], sort=False):
        said.append(f"{ring}, {kind}: {named(part['note_id'])}")
    for row in screened["leakage"].query("ring in @HELD_OUT").to_dict("records"):
        if row["shared, no boilerplate"] > max_shared_13grams:
            said.append(f"{row['ring']}, 13-grams: {row['shared, no boilerplate']:.1%} of them, more than max_shared_13grams = {max_shared_13grams:.1%}")
        if row["passages"] > max_passages * row["notes"]:
            part = leaks[(leaks["ring"] == row["ring"]) & (leaks["kind"] == "passage")]
            said.append(f"{row['ring']}, passage: {named(part['note_id'])}, more than max_passages = {max_passages:.1%} of its {row['notes']:,} notes")
    if said:
        raise UserError(
            f"the held-out rings share patients or text with train and dev: {'; '.join(said)}. "
            "Drop these notes or keep them in one split with their copies; raise a maximum only where the table of boilerplate explains it."
        )


def gate(notes: pd.DataFrame, screened: dict, on_leak: str, max_shared_13grams: float = MAX_SHARED_13GRAMS, max_passages: float = MAX_PASSAGES) -> tuple[set, list[dict]]:
    """What notebook 02 does about leaks: `stop` is `check_leakage`; `drop` leaves held-out copies out and stops for what remains.

    Returns the ids of the notes to leave out of every task, and their step of the flow (a list, empty where nothing is dropped).
    Raises UserError as `check_leakage` does, and for an unknown on_leak.
    """
    if on_leak not in ("stop", "drop"):
        raise UserError(f"on_leak: {on_leak!r} is unknown: choose stop or drop.")
    if on_leak == "stop":
        check_leakage(screened, max_shared_13grams, max_passages)
        return set(), []
    kept, step = drop_leaks(notes, screened)
    dropped = set(notes["note_id"]) - set(kept["note_id"])
    leaks = screened["leaks"]
    check_leakage(screened | {"leaks": leaks[(leaks["kind"] == "patient") | ~leaks["note_id"].isin(dropped)]}, max_shared_13grams, max_passages)
    return dropped, [step] if dropped else []


def named(note_ids: pd.Series) -> str:
    """"7 notes (a, b, c, d, e, ...)"."""
    ids = sorted(set(note_ids))
    return f"{len(ids):,} note{'s' * (len(ids) > 1)} ({', '.join(ids[:SHOWN])}{', ...' * (len(ids) > SHOWN)})"


def drop_leaks(notes: pd.DataFrame, screened: dict) -> tuple[pd.DataFrame, dict]:
    """The notes without those of the held-out rings that are a copy (exact, near, edited) of a note of train or dev, and the flow's step.

    For copies that no split can keep together, as edited copies are found only after the split. The notes of train and dev stay. A patient
    in two rings is no matter of notes and stays a stop.
    """
    leaks = screened["leaks"]
    leaks = leaks[leaks["ring"].isin(HELD_OUT) & leaks["kind"].isin(STOPPING[1:])]
    kept = notes[~notes["note_id"].isin(leaks["note_id"])]
    counts = leaks.groupby(["ring", "kind"], sort=False)["note_id"].nunique()
    note = ", ".join(f"{n} {kind} in {ring}" for (ring, kind), n in counts.items())
    step = {"step": "without held-out copies of train and dev notes", "n_reports": len(kept), "n_patients": kept["patient_id"].nunique(),
            "dropped": len(notes) - len(kept), "note": note}  # fmt: skip
    return kept, step


# ---------------------------------------------------------------- the nets


def patient_leaks(table: pd.DataFrame) -> pd.DataFrame:
    """Notes of patients who are in a held-out ring and on the other side too."""
    rows = []
    for ring, against in AGAINST.items():
        other = table[table["split"].isin(against)].drop_duplicates("patient_id").set_index("patient_id")
        part = table[(table["split"] == ring) & table["patient_id"].isin(other.index)]
        for note_id, patient_id in zip(part["note_id"], part["patient_id"]):
            rows.append((ring, "patient", note_id, other.at[patient_id, "note_id"], other.at[patient_id, "split"], 1.0))
    return pd.DataFrame(rows, columns=LEAK_COLUMNS)


def copy_leaks(table: pd.DataFrame, duplicates: pd.DataFrame) -> pd.DataFrame:
    """Notes with an exact or near copy on the other side; a note with an exact copy there is not counted as near too."""
    copies, rows = duplicates.merge(table[["note_id", "split"]], on="note_id"), []
    for ring, against in AGAINST.items():
        found = set()
        for kind, same in (("exact", "copy_of"), ("near", "group")):
            other = copies[copies["split"].isin(against)].drop_duplicates(same).set_index(same)
            part = copies[(copies["split"] == ring) & copies[same].isin(other.index) & ~copies["note_id"].isin(found)]
            for row in part.to_dict("records"):
                there = other.loc[row[same]]
                jaccard = there["jaccard"] if row["kept"] else row["jaccard"]
                rows.append((ring, kind, row["note_id"], there["note_id"], there["split"], 1.0 if kind == "exact" else jaccard))
            found |= set(part["note_id"])
    return pd.DataFrame(rows, columns=LEAK_COLUMNS)


def passage_leaks(table: pd.DataFrame, counts: dict, known: pd.DataFrame, texts_at: Callable) -> pd.DataFrame:
    """Edited copies and passages, each with the one note of the other side that it shares most 13-grams with; notes of `known` left out."""
    ids, rings = table["note_id"].to_numpy(), table["split"].to_numpy()
    known = set(zip(known["note_id"], known["ring"]))
    pairs = counts["pairs"].sort_values(["note", "grams", "other"], ascending=[True, False, True])
    new = np.array([(ids[note], rings[note]) not in known for note in pairs["note"]], dtype=bool)
    pairs = pairs[new].groupby("note").head(COMPARED)
    size, other_size = counts["grams"][pairs["note"]], counts["grams"][pairs["other"]]
    edited = np.array(pairs["grams"] >= np.maximum(EDITED_SHARE * size, EDITED_GRAMS))
    close = np.flatnonzero(~edited & (np.minimum(size, other_size) >= EDITED_JACCARD / 2 * np.maximum(size, other_size)))  # others cannot be alike
    edited[close] = jaccards(texts_at, pairs[["note", "other"]].to_numpy()[close]) >= EDITED_JACCARD
    kind = np.where(edited, "edited", np.where(pairs["grams"] >= PASSAGE_GRAMS, "passage", ""))
    long = np.flatnonzero((kind == "") & (2 * pairs["grams"] >= PASSAGE_GRAMS))
    for start in range(0, len(long), 5000):
        texts = texts_at(pairs[["note", "other"]].to_numpy()[long[start : start + 5000]].ravel())
        for place, text, other in zip(long[start:], texts[0::2], texts[1::2]):
            if longest_run(text, other) >= PASSAGE_GRAMS:
                kind[place] = "passage"
    best = pairs.assign(kind=kind)[kind != ""].sort_values(["note", "kind"], kind="stable").drop_duplicates("note")  # edited before passage
    return pd.DataFrame({
        "ring": rings[best["note"]], "kind": best["kind"].to_numpy(), "note_id": ids[best["note"]], "other_note_id": ids[best["other"]],
        "other_ring": rings[best["other"]], "measure": best["grams"].to_numpy(dtype=float),
    }, columns=LEAK_COLUMNS)  # fmt: skip


def longest_run(text: str, other: str) -> int:
    """Most 13-grams in a row of one text that all stand in the other."""
    mine, theirs = (grams([normalise(one)], WORDS)[0] for one in (text, other))
    missing = np.flatnonzero(~np.isin(mine, theirs))
    return int(np.diff(np.concatenate([[-1], missing, [len(mine)]])).max() - 1)


# ---------------------------------------------------------------- 13-grams


def entries(table: pd.DataFrame, texts_at: Callable, passes: int, number: int) -> Iterator[np.ndarray]:
    """Sorted distinct (13-gram, note) entries of pass `number`: the hash in the high bits of a uint64, the note's place in the low ones."""
    bits = np.uint64(len(table).bit_length())
    places = np.argsort(table["row"].to_numpy(), kind="stable")  # texts are read in their own order
    for start in range(0, len(places), 2000):
        chunk = places[start : start + 2000]
        hashes, offsets = grams([normalise(text) for text in texts_at(chunk)], WORDS)
        note = np.repeat(chunk.astype(np.uint64), np.diff(offsets))
        chosen = hashes % np.uint64(passes) == number
        yield distinct((hashes[chosen] >> bits << bits) | note[chosen])


def shared_grams(table: pd.DataFrame, texts_at: Callable) -> dict:
    """Counts of 13-grams per note and pair of notes; rows of `table` must be in the order of the patients.

    Returns, per row: `grams` (distinct 13-grams), `common` (of these, boilerplate), `shared` (in the notes of the other side), `fresh` (shared
    and no boilerplate); `pairs`, DataFrame[note, other, grams] of rows that share 13-grams across the rings, boilerplate apart; `places`,
    DataFrame[gram, institution, patients, everywhere, institutions], the boilerplate that most patients of each institution have.

    The hash keeps 64 bits less those that number the notes (44 for a million notes): of 300 million different 13-grams 2 in 100,000 collide.
    """
    n = len(table)
    some = texts_at(np.linspace(0, n - 1, min(n, 500)).astype(np.int64))
    passes = int(n * np.mean([len(text) for text in some] or [0]) / 6 // GRAMS_AT_ONCE) + 1
    bits = np.uint64(n.bit_length())
    patient, institution = pd.factorize(table["patient_id"])[0], pd.factorize(table["institution"], sort=True)[0]
    ring = table["split"].map(RINGS.index).to_numpy(dtype=np.int8)
    counts = {name: np.zeros(n, dtype=np.int64) for name in ("grams", "common", "shared", "fresh")}
    pairs, places = [pd.DataFrame({"key": np.empty(0, dtype=np.int64), "grams": np.empty(0, dtype=np.int64)})], []
    for number in range(passes):
        packed = np.concatenate([np.empty(0, dtype=np.uint64), *entries(table, texts_at, passes, number)])
        packed.sort()
        note = (packed & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int32)
        packed >>= bits
        new_gram = changes(packed)
        gram_of = packed[new_gram]  # the hash of each group of equal 13-grams
        del packed
        group = np.cumsum(new_gram, dtype=np.int32) - np.int32(1)
        new_patient = new_gram | changes(patient[note])
        common = (np.bincount(group[new_patient], minlength=len(gram_of)) >= BOILERPLATE_PATIENTS)[group]
        in_train, in_dev = (np.bincount(group[ring[note] == side], minlength=len(gram_of)) > 0 for side in (0, 1))
        shared = (ring[note] >= 1) & (in_train[group] | ((ring[note] >= 2) & in_dev[group]))
        for name, chosen in (("grams", slice(None)), ("common", common), ("shared", shared), ("fresh", shared & ~common)):
            counts[name] += np.bincount(note[chosen], minlength=n)
        pairs.append(pairs_of(note, group, ring, shared & ~common))
        places.append(places_of(gram_of, group, institution[note], new_patient & common))
        if passes > 1:
            print(f"13-grams: part {number + 1} of {passes}", flush=True)
    summed = pd.concat(pairs).groupby("key")["grams"].sum()
    counts["pairs"] = pd.DataFrame({"note": summed.index.to_numpy() // n, "other": summed.index.to_numpy() % n, "grams": summed.to_numpy()})
    counts["places"] = pd.concat(places, ignore_index=True)
    return counts


def changes(values: np.ndarray) -> np.ndarray:
    """True where a value differs from the one before it, and for the first."""
    return np.concatenate([np.ones(min(len(values), 1), dtype=bool), values[1:] != values[:-1]])


def pairs_of(note: np.ndarray, group: np.ndarray, ring: np.ndarray, fresh: np.ndarray) -> pd.DataFrame:
    """How many of the chosen 13-grams each note shares with each note of the other side, as DataFrame[key, grams], key = note * n + other.

    Of the notes that hold a 13-gram the first four are taken: a patient's hundred letters with one letterhead would make a hundred pairs each.
    """
    found = []
    for readers, sources in ((ring[note] == 1, ring[note] == 0), (ring[note] >= 2, ring[note] <= 1)):
        mine, theirs = np.flatnonzero(fresh & readers), np.flatnonzero(sources)
        start, stop = (np.searchsorted(group[theirs], group[mine], side=side) for side in ("left", "right"))
        number = np.minimum(stop - start, BOILERPLATE_PATIENTS - 1)
        place = np.arange(number.sum()) + np.repeat(start - np.cumsum(number) + number, number)
        found.append(note[np.repeat(mine, number)].astype(np.int64) * len(ring) + note[theirs[place]])
    key, grams_shared = np.unique(np.concatenate(found), return_counts=True)
    return pd.DataFrame({"key": key, "grams": grams_shared})


# ---------------------------------------------------------------- boilerplate


def places_of(gram_of: np.ndarray, group: np.ndarray, institution: np.ndarray, chosen: np.ndarray) -> pd.DataFrame:
    """The PLACES commonest of the chosen 13-grams of each institution; `chosen` are entries that stand for one patient each."""
    n_institutions = int(institution.max(initial=0)) + 1
    key, patients = np.unique(group[chosen].astype(np.int64) * n_institutions + institution[chosen], return_counts=True)
    frame = pd.DataFrame({"gram": gram_of[key // n_institutions], "institution": key % n_institutions, "patients": patients})
    by_gram = frame.groupby("gram")["patients"]
    frame = frame.assign(everywhere=by_gram.transform("sum"), institutions=by_gram.transform("size"))
    return frame.sort_values(["institution", "patients", "gram"], ascending=[True, False, True]).groupby("institution").head(PLACES)


def boilerplate_table(table: pd.DataFrame, counts: dict, texts_at: Callable, show_text: bool = False) -> pd.DataFrame:
    """The passages that most patients of an institution have in common, for the 20 institutions with most patients, three each.

    Returns DataFrame: institution, its patients, `boilerplate` (share of its 13-grams), `passage` (12 digits of the sha256 of its words), `words`,
    `patients with it`, `patients anywhere`, `institutions with it`; with show_text also `text`. A passage grows from the commonest 13-gram over its
    neighbours as long as half as many patients have them.
    """
    bits = np.uint64(len(table).bit_length())
    names, rows = sorted(set(table["institution"])), []
    largest = table.groupby("institution")["patient_id"].nunique().sort_values(ascending=False, kind="stable")
    for name, n_patients in largest.head(LARGEST).items():
        mine = np.flatnonzero(table["institution"] == name)
        share = counts["common"][mine].sum() / max(counts["grams"][mine].sum(), 1)
        best = counts["places"][counts["places"]["institution"] == names.index(name)]
        best = best.sort_values(["patients", "gram"], ascending=[False, True]).head(PLACES)
        notes = [normalise(text) for text in texts_at(mine[:READ])]
        hashes, offsets = grams(notes, WORDS)
        hashes, known, covered = hashes >> bits, best.set_index("gram")["patients"], set()
        patients_with = known.reindex(hashes, fill_value=0).to_numpy()
        for row in best.itertuples(index=False):
            at = np.flatnonzero(hashes == row.gram)[:1]
            if row.gram in covered or not len(at):
                continue
            note = int(np.searchsorted(offsets, at[0], side="right")) - 1
            low = high = int(at[0])
            while low > offsets[note] and 2 * patients_with[low - 1] >= row.patients:
                low -= 1
            while high + 1 < offsets[note + 1] and 2 * patients_with[high + 1] >= row.patients:
                high += 1
            covered.update(hashes[low : high + 1])
            words = notes[note].split()[low - offsets[note] : high - offsets[note] + WORDS]
            rows.append({
                "institution": name, "patients": n_patients, "boilerplate": share, "passage": hashlib.sha256(b" ".join(words)).hexdigest()[:12],
                "words": len(words), "patients with it": row.patients, "patients anywhere": row.everywhere, "institutions with it": row.institutions,
            } | ({"text": b" ".join(words).decode()} if show_text else {}))  # fmt: skip
            if sum(found["institution"] == name for found in rows) == PASSAGES:
                break
    columns = ["institution", "patients", "boilerplate", "passage", "words", "patients with it", "patients anywhere", "institutions with it"]
    return pd.DataFrame(rows, columns=columns + ["text"] * show_text)
