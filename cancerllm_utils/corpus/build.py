"""A corpus from its source to the run's folder: read, scrub, check, drop failed texts and copies, split, label. Notebook 01 calls `build_corpus`.

Notes pass in batches, so that memory does not grow with the corpus; only ids, signatures and lengths of all notes are held at once.
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cancerllm_utils import paths
from cancerllm_utils.corpus import adjudication, duplicates, identifiers, local, prepare, public, schema, splits, synthetic, tcga
from cancerllm_utils.errors import UserError

PUBLIC_TEXTS = ("letters", "literature", "cancergov", "civic")
CORPORA = ("synthetic", "tcga", "local", *PUBLIC_TEXTS)
SCRUBBED = ("synthetic", "tcga", "local")  # texts that nobody wrote about a patient name none and give no answer away
READ_BY_RULES = ("tcga", "local", "letters")  # patients' notes without gold spans: what they state is read by the rules of labels.py
NOTES = pa.schema([(name, pa.large_string()) for name in schema.NOTE_COLUMNS])
LABELS = pa.schema([(name, pa.int64() if name.startswith("quote") else pa.large_string()) for name in schema.LABEL_COLUMNS])
SPANS = {"quote_start": "Int64", "quote_end": "Int64"}  # integers with gaps; the file must say so, or they come back as floats
LABELS = pa.Table.from_pandas(pd.DataFrame(columns=schema.LABEL_COLUMNS).astype(SPANS), LABELS, preserve_index=False).schema


def read_source(corpus: str, data_dir: str, n_patients: int, noise: float, seed: int, source: dict) -> dict:
    """What a corpus module's `read` returns: batches, registry, patients, flow, quarantined. UserError for an unknown corpus."""
    if corpus == "synthetic":
        return synthetic.read(n_patients, seed, noise)
    if corpus == "tcga":
        return tcga.read(paths.data_dir(data_dir))
    if corpus == "local":
        return local.read(source | {"data_dir": str(paths.data_dir(data_dir))})
    if corpus in PUBLIC_TEXTS:
        return public.read(corpus, paths.data_dir(data_dir))
    raise UserError(f"corpus {corpus!r} is unknown: choose {', '.join(CORPORA)}.")


def build_corpus(
    run_dir: Path, corpus: str, data_dir: str = "", n_patients: int = 300, external_institutions: list[str] = (), seed: int = 42, source: dict | None = None,
    noise: float = 0.0, copies: str = "keep_one", identifier_sample: int = 300, mask_identifiers: bool = False, adjudicated_csv: str = "",
    read_rules: bool = True,
) -> None:
    """Write corpus/{notes,labels,registry,splits,patients,quality}.parquet, {institutions,duplicates,identifiers,disagreements}.csv, flow.json,
    scrubbed.json and quarantine.jsonl of a run.

    corpus: `synthetic` (n_patients of the seeded cohort), `tcga` (the published files below data_dir), `local` (an institution's own notes:
    `source` says how they are read, see corpus/local.py), or one of the public texts. copies: `keep_one` or `keep_together`
    (duplicates.apply_policy). adjudicated_csv: a disagreements.csv that a person has filled in. read_rules: whether the rules read what the
    notes of patients state, where no gold comes with them.
    Memory does not grow with the text; `read_corpus` gives what was written. Raises UserError for an unknown corpus, missing files, or a corpus
    of which no note is left.
    """
    folder = run_dir / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    if copies not in ("keep_one", "keep_together"):
        raise UserError(f"duplicates: {copies!r} is unknown: choose keep_one or keep_together.")
    loaded = read_source(corpus, data_dir, n_patients, noise, seed, source or {})
    work = folder / ".intake"
    how = {"scrubbed": corpus in SCRUBBED, "mask": mask_identifiers, "read_rules": read_rules and corpus in READ_BY_RULES}
    seen = collect(loaded["batches"], how, work)
    named = {step["step"] for step in loaded["flow"]}
    flow = loaded["flow"] + [step for step in seen["flow"] if step["dropped"] or step["step"] not in named]
    if not len(seen["notes"]):
        raise UserError(f"{corpus} corpus: no note is left of {seen['rows']:,} rows; the steps and reasons are: " + "; ".join(f"{s['step']} {s.get('dropped', 0):,}" for s in flow if s.get("dropped")) + ".")

    groups = duplicates.near_duplicates(seen["notes"]["note_id"].tolist(), seen["signatures"], seen["texts_of"])
    kept_ids, counts, links = duplicates.apply_policy(seen["notes"], groups, copies)
    flow += duplicates.flow_steps(seen["notes"], kept_ids, counts)
    notes = seen["notes"][seen["notes"]["note_id"].isin(set(kept_ids))]
    rings, institutions = splits.assign(notes, seed, list(external_institutions), links)
    write_notes(folder, work, set(kept_ids), loaded["registry"])
    patients = loaded["patients"] if loaded["patients"] is not None else notes[["patient_id", "cancer_type"]].drop_duplicates("patient_id")

    loaded["registry"][loaded["registry"]["patient_id"].isin(set(notes["patient_id"]))].to_parquet(folder / "registry.parquet", index=False)
    rings.to_parquet(folder / "splits.parquet", index=False)
    patients[patients["patient_id"].isin(set(notes["patient_id"]))].to_parquet(folder / "patients.parquet", index=False)
    seen["quality"][seen["quality"]["note_id"].isin(set(kept_ids))].to_parquet(folder / "quality.parquet", index=False)
    groups.to_csv(folder / "duplicates.csv", index=False)
    pd.DataFrame(institutions).to_csv(folder / "institutions.csv", index=False)
    write_json(folder / "flow.json", flow)
    write_json(folder / "scrubbed.json", seen["removed"])
    write_json(folder / "masked.json", seen["masked"])
    quarantined = loaded["quarantined"] + seen["quarantined"]
    with open(folder / "quarantine.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in quarantined)
    adjudicate(folder, rings, patients, adjudicated_csv, corpus in READ_BY_RULES)
    searched = set(notes["note_id"].sample(min(identifier_sample or len(notes), len(notes)), random_state=seed))
    sample = (text for group in read_groups(folder / "notes.parquet", ["note_id", "text"]) for text in group.loc[group["note_id"].isin(searched), "text"])
    identifiers.scan(sample).to_csv(folder / "identifiers.csv", index=False)
    shutil.rmtree(work)
    account(flow, len(notes), seen["rows"], len(quarantined))


def collect(batches, how: dict, work: Path) -> dict:
    """Prepare all batches; texts and gold go to work/notes.parquet and work/gold.parquet, the rest is returned.

    Returns notes (frame without text), quality, signatures, flow (two steps), removed, masked, quarantined, rows, and texts_of (row positions
    -> texts).
    """
    work.mkdir(parents=True, exist_ok=True)
    columns = [name for name in schema.NOTE_COLUMNS if name != "text"]
    frames, tables, signatures, quarantined, dropped = [], [], [], [], Counter()
    removed, masked, ids, everybody, rows = Counter(), Counter(), set(), set(), 0
    with pq.ParquetWriter(work / "notes.parquet", NOTES) as note_file, pq.ParquetWriter(work / "gold.parquet", LABELS) as gold_file:
        for batch in prepare.prepare_all(batches, how, work / "batches"):
            notes = batch["notes"]
            fresh = ~among(notes["note_id"], ids)  # else an id of an earlier batch
            for entry in notes[~fresh].to_dict("records"):
                quarantined.append(schema.quarantine_entry(entry["source"], 0, "note_id occurs twice", entry))
            gold = batch["labels"][~among(batch["labels"]["note_id"], ids)]
            notes = notes[fresh].reset_index(drop=True)
            ids.update(notes["note_id"])
            everybody.update(notes["patient_id"], batch["dropped"]["patient_id"])
            note_file.write_table(pa.Table.from_pandas(notes, NOTES, preserve_index=False), row_group_size=max(1, len(notes)))
            gold_file.write_table(label_table(gold))
            frames.append(notes[columns])
            tables.append(batch["quality"][fresh])
            signatures.append(batch["signatures"][fresh])
            quarantined += batch["quarantined"]
            dropped.update(batch["dropped"]["reason"])
            removed.update(batch["removed"])
            masked.update(batch["masked"])
            rows += batch["rows"]
    notes = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns, dtype=str)
    n_patients = notes["patient_id"].nunique()
    n_dropped = sum(dropped.values())
    flow = [
        {"step": "passes the schema", "n_reports": rows - len(quarantined), "n_patients": len(everybody), "dropped": len(quarantined), "note": "the rest goes to quarantine.jsonl"},
        {"step": "text can be read", "n_reports": len(notes), "n_patients": n_patients, "dropped": n_dropped, "note": ", ".join(f"{n:,} {reason}" for reason, n in sorted(dropped.items()))},
    ]  # fmt: skip
    return {
        "notes": notes, "quality": pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["note_id"]),
        "signatures": np.concatenate(signatures) if signatures else np.zeros((0, 0)), "flow": flow, "removed": dict(sorted(removed.items())),
        "masked": dict(sorted(masked.items())), "quarantined": quarantined, "rows": rows, "texts_of": text_reader(work / "notes.parquet"),
    }  # fmt: skip


def among(ids: pd.Series, known: set) -> np.ndarray:
    """Which of the ids are known. `Series.isin` would copy the whole set for every batch: a million notes would take the square of their time."""
    return np.fromiter((note_id in known for note_id in ids), dtype=bool, count=len(ids))


def text_reader(path: Path):
    """A function row positions -> their texts, which opens each row group at most once per call."""
    file = pq.ParquetFile(path)
    starts = np.cumsum([0] + [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])

    def texts_of(positions: list[int]) -> list[str]:
        positions = np.asarray(positions)
        groups = np.searchsorted(starts, positions, side="right") - 1
        texts = np.empty(len(positions), dtype=object)
        for group in np.unique(groups):
            column = file.read_row_group(int(group), columns=["text"])["text"]
            chosen = np.flatnonzero(groups == group)
            texts[chosen] = column.take(positions[chosen] - starts[group]).to_pylist()
        return texts.tolist()

    return texts_of


def write_notes(folder: Path, work: Path, kept: set[str], registry: pd.DataFrame) -> None:
    """notes.parquet and labels.parquet of the kept notes, group by group; a registry value is put where the gold brought none."""
    truth = registry.drop_duplicates(["patient_id", "field"]).rename(columns={"registry_value": "known"})
    with pq.ParquetWriter(folder / "notes.parquet", NOTES) as file:
        for notes in read_groups(work / "notes.parquet"):
            notes = notes[among(notes["note_id"], kept)]
            if len(notes):
                file.write_table(pa.Table.from_pandas(notes, NOTES, preserve_index=False))
    with pq.ParquetWriter(folder / "labels.parquet", LABELS) as file:
        for gold in read_groups(work / "gold.parquet"):
            gold = gold[among(gold["note_id"], kept)].merge(truth, on=["patient_id", "field"], how="left")
            file.write_table(label_table(gold.assign(registry_value=gold["registry_value"].fillna(gold["known"]))))


def label_table(frame: pd.DataFrame) -> pa.Table:
    """Labels as Arrow; what is not known is null, whatever it was in the frame."""
    return pa.Table.from_pandas(frame.astype(SPANS), LABELS, preserve_index=False)


def adjudicate(folder: Path, rings: pd.DataFrame, patients: pd.DataFrame, adjudicated_csv: str, by_rules: bool) -> None:
    """Put a person's decisions into labels.parquet, then list what text and registry still disagree on in disagreements.csv.

    Where gold came with the notes there is nothing to decide: a note that errs says what it says.
    """
    labels, target = pd.read_parquet(folder / "labels.parquet"), folder / "disagreements.csv"
    if adjudicated_csv:
        if Path(adjudicated_csv).resolve() == target.resolve():
            raise UserError(f"adjudicated_csv {adjudicated_csv}: the run writes this file anew. Copy it to another place, and name the copy.")
        labels, counts = adjudication.apply_adjudicated(labels, Path(adjudicated_csv))
        pq.write_table(label_table(labels), folder / "labels.parquet")
        print(f"{adjudicated_csv}: " + ", ".join(f"{name} {n:,}" for name, n in counts.items()))
    apart = labels[by_rules & labels["evidence"].eq("stated") & labels["registry_value"].notna() & labels["stated_value"].ne(labels["registry_value"])]
    wanted = set(apart["note_id"])
    notes = pd.concat([group[group["note_id"].isin(wanted)] for group in read_groups(folder / "notes.parquet")], ignore_index=True)
    kept = adjudication.write(adjudication.disagreements(apart, notes, rings, patients), target)
    if by_rules:
        print(f"disagreements.csv: {len(apart):,} items where text and registry differ" + (f", {kept:,} decisions in it kept" if kept else ""))


def account(flow: list[dict], kept: int, read: int, quarantined: int) -> None:
    """Print, and assert, that no row is lost: rows in = notes kept + left out by a step of the flow."""
    left_out = sum(step.get("dropped", 0) for step in flow)
    rows_in = flow[0]["n_reports"]
    assert rows_in == kept + left_out, f"{rows_in} rows in, {kept} kept, {left_out} left out: {flow}"
    print(f"{rows_in:,} rows in = {kept:,} notes kept + {left_out:,} left out by a step of the flow, of which {quarantined:,} stand in quarantine.jsonl")


def write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def read_groups(path: Path, columns: list[str] | None = None):
    """The row groups of a parquet file as frames, one after the other."""
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        yield file.read_row_group(group, columns=columns).to_pandas()


def read_corpus(run_dir: Path) -> dict:
    """The frames that `build_corpus` wrote, by name: notes, labels, splits, patients, quality, institutions, duplicates, identifiers; and
    flow, scrubbed, masked. All texts are held in memory, at the peak twice: 5 GiB for a million notes of 2.5 kB."""
    folder = run_dir / "corpus"
    if not (folder / "notes.parquet").is_file():
        raise UserError(f"{folder} holds no corpus yet: run notebook 01_data_exploration first.")
    frames = {name: pd.read_parquet(folder / f"{name}.parquet") for name in ("notes", "labels", "splits", "patients", "quality")}
    frames |= {name: pd.read_csv(folder / f"{name}.csv") for name in ("institutions", "duplicates", "identifiers")}
    return frames | {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("flow", "scrubbed", "masked")}
