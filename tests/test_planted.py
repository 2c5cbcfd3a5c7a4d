"""Planted identifiers, printed answers and words of a held-out institution: none may reach a prompt, a packed row or a fitted vocabulary."""

import json
import random
import re

import pytest

from cancerllm_utils import paths
from cancerllm_utils.corpus.build import build_corpus, read_corpus
from cancerllm_utils.modeling.baselines import predict_baselines
from cancerllm_utils.tasks.build import build_datasets

TASKS = ["phenotype_extraction", "registry_prediction", "diagnosis_generation"]
PLANTED = {
    "barcode": "TCGA-{site}-{number:04d}-01Z-00-DX1",
    "uuid": "UUID:3F2504E0-4F89-11D3-9A0C-{number:012d}",
    "stamp": "Criteria Yes No\nDiagnosis Discrepancy\nPrimary Tumor Site Discrepancy\nHIPAA Discrepancy\nPrior Malignancy History\nDual/Synchronous Primary\nCase is (circle): QUALIFIED / DISQUALIFIED\nReviewer Initials Date Reviewed",
    "icd": "ICD-O-3\nAdenocarcinoma, NOS 8140/3\nSite: lung C34.1",
    "snomed": "SNOMED: M-81403 T-28000",
}
SURVIVORS = re.compile(r"TCGA-\w\w-\d{4}|[0-9a-f]{8}-[0-9a-f]{4}-|hipaa|disqualified|8140\s?/\s?3|c34\.1|m-81403|t-28000", re.IGNORECASE)
MARKER = "zyxomarker"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    data, rng = folder / "data" / "tcga", random.Random(0)
    (data / "reports").mkdir(parents=True)
    (data / "clinical").mkdir()
    sites = {f"S{letter}": f"Clinic {letter}" for letter in "ABCDEFGHIX"}
    (data / "tissue_source_sites.tsv").write_text("tss_code\tsource_site\tinstitution\n" + "".join(f"{code}\t{name}\t{name}\n" for code, name in sites.items()))
    header = ["bcr_patient_barcode", "ajcc_tumor_pathologic_pt", "ajcc_nodes_pathologic_pn", "anatomic_organ_subdivision", "icd_o_3_histology", "icd_o_3_site"]
    table, reports = ["\t".join(header)] * 3, ["pdf_file_name_path,ocr_text"]
    for number in range(100):
        site = rng.choice([*sites, "SX"])
        patient, side, t, n = f"TCGA-{site}-{number:04d}", rng.choice(["Right", "Left"]), rng.randint(1, 4), rng.randint(0, 2)
        table.append("\t".join([patient, f"T{t}", f"N{n}", f"{side[0]}-Upper", "8140/3", "C34.1"]))
        words = " ".join(rng.choice(["margin", "tissue", "received", "formalin", "sections", "show", "pleura", "bronchus", "free", "of"]) for _ in range(60))
        planted = "\n".join(text.format(site=site, number=number) for text in PLANTED.values())
        marker = f"Seen at the {MARKER} desk. " if site == "SX" else ""
        text = f"{planted}\nFINAL DIAGNOSIS: {side} upper lobe of lung, lobectomy: adenocarcinoma. pT{t} pN{n}. {marker}{words}.\nGross description: a {side.lower()} lobe, {marker}{words}.\n{planted}"
        reports.append(f'{patient}.{number:08d}.PDF,"{text}"')
    (data / "clinical" / "nationwidechildrens.org_clinical_patient_luad.txt").write_text("\n".join(table) + "\n")
    (data / "reports" / "LUNG.csv").write_text("\n".join(reports) + "\n")
    (data / "breast_reports.csv").write_text("bcr_patient_barcode,text\n")
    build_corpus(folder / "run", "tcga", str(data.parent), external_institutions=["Clinic X"], seed=1)
    build_datasets(folder / "run", "tcga", TASKS, str(paths.TINY_BASE), context_tokens=160, seed=1)
    predict_baselines(folder / "run", TASKS, ["test", "external"], 1)
    return folder / "run"


def prompts(run, splits):
    return [json.loads(line)["prompt"] for task in TASKS for split in splits for line in open(run / "datasets" / task / f"{split}.jsonl")]


def packed_rows(run):
    from cancerllm_utils.modeling import models, training_data

    notes, tokenizer = training_data.read_notes(run), models.load_tokenizer("tiny_base")
    rows = training_data.note_rows(training_data.of_split(notes, "train"), tokenizer, 0, 1, run / "cache" / "tokens.arrow")
    return [tokenizer.decode(ids) for ids in rows["input_ids"]]


def vocabularies(run):
    files = sorted((run / "predictions" / "tfidf" / "baseline").glob("vocabulary*.txt"))
    assert files
    return [line for file in files for line in file.read_text().splitlines()]


def test_no_planted_identifier_or_answer_reaches_what_learns(run):
    texts = prompts(run, ["train", "dev", "test", "external_site", "external"])
    assert len(texts) > 100
    for text in [*texts, *packed_rows(run), *vocabularies(run)]:
        assert not SURVIVORS.search(text)
    assert any("adenocarcinoma" in text for text in texts), "scrubbing must leave the report"


def test_nothing_of_the_external_institution_reaches_what_learns(run):
    assert any(MARKER in text for text in prompts(run, ["external"])), "the control: the marker does stand in external prompts"
    for text in [*prompts(run, ["train", "dev", "test", "external_site"]), *packed_rows(run), *vocabularies(run)]:
        assert MARKER not in text


def test_the_rings_are_whole(run):
    cohort = read_corpus(run)
    ring = cohort["notes"].merge(cohort["splits"], on="patient_id").groupby("institution")["split"].agg(set)
    assert ring["Clinic X"] == {"external"} and all("external" not in rings for name, rings in ring.items() if name != "Clinic X")
