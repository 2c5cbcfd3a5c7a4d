"""Invented questions and answers, as many as wanted, written into a run folder: for the tests of the answers' page and of the adjudication kit."""

import json

import numpy as np
import pandas as pd

from cancerllm_utils.tasks.task import alpaca_prompt, load_task, write_jsonl

SYSTEMS = [("majority", "baseline"), ("rules", "baseline"), ("tfidf", "baseline"), ("tiny_base", "base"), ("tiny_base", "cpt-sft")]
VALUES = {"laterality": ["Left", "Right", "not stated"], "grade": ["G1", "G2", "G3"], "stage": ["T1 N0", "T2 N1", "T3 N0"]}
RINGS = ["test", "external_site", "external"]
PLANTED = "</script><b>Left & right</b>"  # what a note may hold and a page must show as text


def text_of(i: int, field: str, value: str) -> str:
    """A made-up note in two lines that states the value."""
    return f"Specimen {i} was received fresh {PLANTED if i == 3 else ''}.\nOn reading, the {field} is {value}; margins are free."


def write_answers(run_dir, n: int = 60, source: str = "synthetic", seed: int = 0):
    """Write notes, datasets/phenotype_extraction, predictions of SYSTEMS (each right more often than the one before), dangerous_items.parquet and
    evidence.parquet for `n` questions in three test sets; returns the folder. The last system has confidences; the second answers without evidence."""
    random, spec = np.random.default_rng(seed), load_task("phenotype_extraction")
    notes, dangers, evidence = [], [], []
    for ring_number, ring in enumerate(RINGS):
        examples, answers = [], {system: [] for system in SYSTEMS}
        for i in range(ring_number, n, len(RINGS)):
            field = list(VALUES)[i // len(RINGS) % len(VALUES)]
            gold = VALUES[field][int(random.integers(3))]
            note, context = text_of(i, field, gold), " ".join(text_of(i, field, gold).split())
            example_id = f"phenotype_extraction|n{i}|{field}"
            prompt = alpaca_prompt(spec["instruction"], spec["doc_to_text"].replace("{name}", spec["fields"][field]["name"]).replace("{context}", context))
            examples.append({"example_id": example_id, "patient_id": f"p{i // 2}", "note_id": f"n{i}", "task": "phenotype_extraction", "field": field, "prompt": prompt,
                             "completion": gold, "answers": [gold], "cancer_type": ["BRCA", "LUAD", "PRAD"][i % 3], "institution": "", "variant": "", "headline": i % 4 > 0})
            notes.append([f"n{i}", f"p{i // 2}", "s", "h", "clinic note", ["BRCA", "LUAD", "PRAD"][i % 3], "2020", note, source])
            for rank, system in enumerate(SYSTEMS):
                right = random.random() < 0.3 + 0.13 * rank
                value = gold if right else VALUES[field][(VALUES[field].index(gold) + 1) % 3]
                raw = value if rank != 3 or right else "it says that the specimen was received fresh"
                row = {"example_id": example_id, "prediction": raw, "answers": [gold], "parsed": value if raw == value else "unparsed"}
                answers[system].append(row | ({"confidence": round(float(random.uniform(0.3, 1)), 3), "stop_reason": "eos"} if rank == 4 else {}))
                where = [*system, "phenotype_extraction", ring, example_id]
                if {value, gold} == {"Left", "Right"}:
                    dangers.append([*where, "side_flipped", 1])
                elif gold == "not stated" and not right:
                    dangers.append([*where, "invented", 3])
                if rank != 1:
                    quote = f"the {field} is {gold}"
                    evidence.append([*where, quote if rank != 2 else "no such words", note.index(quote), note.index(quote) + len(quote), rank != 2, True])
        write_jsonl(run_dir / "datasets" / "phenotype_extraction" / f"{ring}.jsonl", examples)
        for (model, stage), rows in answers.items():
            write_jsonl(run_dir / "predictions" / model / stage / f"phenotype_extraction.{ring}.jsonl", rows)
    for folder in ("corpus", "results"):
        (run_dir / folder).mkdir(parents=True, exist_ok=True)
    (run_dir / "datasets" / "settings.json").write_text(json.dumps({"corpus": "synthetic" if source == "synthetic" else "tcga", "values": {}}))
    columns = ["note_id", "patient_id", "site", "institution", "note_type", "cancer_type", "date", "text", "source"]
    pd.DataFrame(notes, columns=columns).to_parquet(run_dir / "corpus" / "notes.parquet")
    keys = ["model", "stage", "task", "split", "example_id"]
    pd.DataFrame(dangers, columns=[*keys, "kind", "severity"]).to_parquet(run_dir / "results" / "dangerous_items.parquet")
    pd.DataFrame(evidence, columns=[*keys, "quote", "quote_start", "quote_end", "verified", "holds_gold"]).to_parquet(run_dir / "results" / "evidence.parquet")
    return run_dir
