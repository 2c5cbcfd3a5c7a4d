"""Each trap of the published TCGA files, on tiny invented tables; and the counts of the real ones where they are present."""

import gzip
import os
from pathlib import Path

import pytest

from cancerllm_utils.corpus import tcga
from cancerllm_utils.errors import UserError

DATA = Path(os.environ.get("CANCERLLM_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not (DATA / "tcga" / "reports").is_dir(), reason="CANCERLLM_DATA holds no TCGA files")
LONG = " ".join(f"word{i}" for i in range(60))


def write_table(folder: Path, cancer: str, columns: list[tuple[str, str]], rows: list[list[str]], extra: str = "") -> None:
    """A patient table as the GDC publishes it: short names, long names, CDE ids, then data."""
    columns = [("bcr_patient_barcode", "bcr_patient_barcode"), *columns]
    lines = ["\t".join(name for name, _ in columns), "\t".join(name for _, name in columns), "\t".join("CDE_ID:" for _ in columns)]
    text = "\n".join(lines + ["\t".join(row) for row in rows]) + "\n" + extra
    (folder / f"nationwidechildrens.org_clinical_patient_{cancer}.txt").write_text(text)


@pytest.fixture
def data_dir(tmp_path):
    folder = tmp_path / "tcga"
    (folder / "reports").mkdir(parents=True)
    (folder / "clinical").mkdir()
    (folder / "tissue_source_sites.tsv").write_text("tss_code\tsource_site\tstudy_name\tbcr\tinstitution\nAA\tA Clinic\tLung\tX\tClinic A\nNA\tN Clinic\tLung\tX\tClinic N\n")
    write_table(
        folder / "clinical",
        "luad",
        [
            ("histologic_diagnosis", "histologic_diagnosis"),
            ("ajcc_tumor_pathologic_pt", "pathologic_T"),
            ("ajcc_nodes_pathologic_pn", "pathologic_N"),
            ("histologic_diagnosis", "histologic_diagnosis"),
            ("anatomic_organ_subdivision", "anatomic_neoplasm_subdivision"),
            ("icd_o_3_histology", "icd_o_3_histology"),
            ("icd_o_3_site", "icd_o_3_site"),
            ("icd_10", "icd_10"),
            ("age_at_initial_pathologic_diagnosis", "age_at_initial_pathologic_diagnosis"),
        ],
        [
            ["TCGA-AA-0001", "general", "T2a", "NX", "specific", "R-Upper", "8255/3", "C34.1", "C34.1", "61"],
            ["TCGA-NA-0002", "general", "TX", "[Not Available]", "specific", "Bronchial", "9999/3", "C34.1", "C34.1", "[Unknown]"],
            ["TCGA-ZZ-0003", "general", "Tis", "", "specific", "L-Lower", "[Not Available]", "", "", ""],
            ["TCGA-AA-0004", "too", "few"],
        ],
    )
    write_table(
        folder / "clinical",
        "brca",
        [("er_status_by_ihc", "x"), ("anatomic_neoplasm_subdivision", "y"), ("icd_o_3_histology", "z"), ("icd_o_3_site", "w")],
        [["TCGA-AA-0010", "Indeterminate", "Left|Left Upper Outer Quadrant", "8500/3", "C50.9"]],
    )
    (folder / "breast_reports.csv").write_text(f"bcr_patient_barcode,text\nTCGA-AA-0010,{LONG} breast\n")
    with gzip.open(folder / "reports" / "LUNG.csv.gz", "wt", newline="") as stream:
        stream.write("pdf_file_name_path,ocr_text\r\n")
        stream.write(f'TCGA-AA-0001.11111111-2222.PDF,"{LONG}\nsecond line, with ""quotes"""\r\n')
        stream.write(f'TCGA-AA-0001.01111111-2222.PDF,"{LONG} other report"\r\n')
        stream.write("TCGA-NA-0002.pdf,only a few words\r\n")
        stream.write(f"ER-NOBARCODE.pdf,{LONG}\r\n")
        stream.write(f"TCGA-ZZ-0003.pdf,{LONG} third\r\n")
    return tmp_path


def registry_of(loaded: dict, patient: str) -> dict:
    rows = loaded["registry"]
    return rows[rows["patient_id"] == patient].set_index("field")["registry_value"].to_dict()


def add_report(data_dir: Path, name: str, content: bytes) -> None:
    (data_dir / "tcga" / "reports" / name).write_bytes(b"pdf_file_name_path,ocr_text\n" + content)


def test_every_row_is_kept_or_dropped_with_a_reason(data_dir):
    loaded = tcga.load(data_dir)
    flow = loaded["flow"]
    assert flow[0]["n_reports"] == 6
    assert flow[0]["n_reports"] == flow[-1]["n_reports"] + sum(step["dropped"] for step in flow)
    assert {step["step"]: step["dropped"] for step in flow if step["dropped"]} == {"with a patient barcode": 1, "more than 50 words": 1}
    assert flow[-1]["n_reports"] == len(loaded["notes"]) == 4


def test_notes_have_site_institution_and_an_id_without_the_file_name(data_dir):
    notes = tcga.load(data_dir)["notes"].set_index("note_id")
    assert sorted(notes.index) == ["TCGA-AA-0001-r1", "TCGA-AA-0001-r2", "TCGA-AA-0010-r1", "TCGA-ZZ-0003-r1"]
    assert notes.loc["TCGA-AA-0001-r1", "text"].endswith("other report")  # numbered by file name, not by row
    assert notes.loc["TCGA-AA-0001-r2", "text"].endswith('second line, with "quotes"')
    assert notes.loc["TCGA-AA-0001-r1", ["site", "institution", "cancer_type", "source"]].tolist() == ["AA", "Clinic A", "LUAD", "LUNG.csv.gz"]
    assert notes.loc["TCGA-ZZ-0003-r1", "institution"] == "unknown site ZZ"


def test_registry_values_are_normalised_and_missing_ones_absent(data_dir):
    loaded = tcga.load(data_dir)
    first = registry_of(loaded, "TCGA-AA-0001")
    assert first == {
        "pT": "T2", "pN": "N0", "laterality": "Right", "histology": "adenocarcinoma", "diagnosis": "adenocarcinoma of the lung", "icd10": "C34",
        "lung_lobe": "Upper", "pT_sub": "T2a",
    }  # fmt: skip
    assert registry_of(loaded, "TCGA-ZZ-0003") == {"laterality": "Left", "lung_lobe": "Lower"}
    breast = registry_of(loaded, "TCGA-AA-0010")
    assert breast == {
        "laterality": "Left", "histology": "invasive ductal carcinoma", "diagnosis": "invasive ductal carcinoma of the breast",
    }  # fmt: skip
    patients = loaded["patients"].set_index("patient_id")
    assert patients.loc["TCGA-AA-0001", "age"] == 61


def test_further_registry_fields_are_read_as_the_tables_write_them(data_dir):
    """Metastasis, nodes, invasion, bowel segment, residual tumour and stage, with the tables' words for missing and two columns of one name."""
    clinical = data_dir / "tcga" / "clinical"
    columns = ["history_other_malignancy", "ajcc_metastasis_pathologic_pm", "lymph_nodes_examined_count", "lymph_nodes_examined_he_count", "perineural_invasion",
               "lymphovascular_invasion_indicator", "anatomic_neoplasm_subdivision", "residual_tumor", "ajcc_pathologic_tumor_stage", "clinical_stage", "history_other_malignancy"]
    write_table(clinical, "coad", [(name, name) for name in columns], [
        ["TCGA-AA-0031", "No", "M1a", "12", "03", "YES", "NO", "Sigmoid Colon", "R2", "Stage IVA", "[Not Applicable]", "Yes"],
        ["TCGA-AA-0032", "No", "[Not Available]", "0", "0", "[Unknown]", "[Not Available]", "Cecum|Ascending Colon", "RX", "[Discrepancy]", "[Not Applicable]", "No"],
        ["TCGA-AA-0033", "No", "cM0 (i+)", "7", "0", "NO", "YES", "Rectosigmoid Junction", "R0", "Stage IIIC", "[Not Applicable]", "No"],
    ])
    figo = ["lymphovascular_invasion", "lymphovascular_invasion_indicator", "clinical_stage", "ajcc_pathologic_tumor_stage"]
    write_table(clinical, "cesc", [(name, name) for name in figo], [["TCGA-AA-0041", "PRESENT", "PRESENT", "Stage IB1", "[Not Available]"]])
    write_table(clinical, "hnsc", [("clinical_stage", "c"), ("ajcc_pathologic_tumor_stage", "p")], [["TCGA-AA-0051", "Stage IVA", "Stage II"]])
    _, registry = tcga.registry_frames(tcga.read_patient_tables(data_dir / "tcga")[0])
    read = {patient: rows.set_index("field")["registry_value"].to_dict() for patient, rows in registry.groupby("patient_id")}
    assert read["TCGA-AA-0031"] == {"pM": "M1", "nodes": "3/12", "node_status": "Positive", "perineural_invasion": "Present", "lymphovascular_invasion": "Absent",
                                    "colon_segment": "Sigmoid colon", "residual_tumor": "R2", "stage_ajcc": "IV"}
    assert "TCGA-AA-0032" not in read, "no value: none examined, two segments, RX and the words for missing"
    assert read["TCGA-AA-0033"] == {"pM": "M0", "nodes": "0/7", "node_status": "Negative", "perineural_invasion": "Absent", "lymphovascular_invasion": "Present",
                                    "colon_segment": "Rectosigmoid junction", "residual_tumor": "R0", "stage_ajcc": "III"}
    assert read["TCGA-AA-0041"] == {"lymphovascular_invasion": "Present", "stage_figo": "I"}
    assert read["TCGA-AA-0051"] == {"stage_ajcc": "II"}, "a clinical stage is not the pathologic one"


def test_table_traps(data_dir):
    folder = data_dir / "tcga"
    write_table(folder / "clinical", "lihc", [("vascular_invasion", "v"), ("x", "pathologic_T")], [["TCGA-AA-0020", "None", "T3b"]])
    tables, quarantined = tcga.read_patient_tables(folder)
    assert tables["LUAD"]["histologic_diagnosis"].tolist() == ["specific"] * 3  # the second of two equal names
    assert tables["LUAD"]["pathologic_T"].tolist() == ["T2a", "TX", "Tis"]  # known by its name on line 2
    assert tables["LIHC"]["vascular_invasion"].tolist() == ["None"]  # a word, not a missing value
    assert tables["LIHC"]["pathologic_T"].tolist() == ["T3b"]
    assert [(q["line"], q["reason"]) for q in quarantined] == [(7, "3 values under 10 column names")]
    assert tcga.read_sites(folder / "tissue_source_sites.tsv")["NA"] == "Clinic N"


def test_site_table_as_the_gdc_publishes_it(tmp_path):
    path = tmp_path / "tissue_source_sites.tsv"
    path.write_text("TSS Code\tSource Site\tStudy Name\tBCR\nAA\tA Clinic\tLung\tX\n")
    assert tcga.read_sites(path) == {"AA": "A Clinic"}


def test_damaged_rows_go_to_quarantine_and_cost_only_themselves(data_dir):
    body = f"TCGA-AA-0001.pdf,{LONG} one,too many\n".encode()
    body += f'TCGA-AA-0001.pdf,"{LONG} a quote that never ends\nmore text\n'.encode()
    body += f'TCGA-ZZ-0003.pdf,"{LONG} after the damage\nsecond, line"\n'.encode()
    body += b"TCGA-ZZ-0003.pdf,bad byte \xff " + LONG.encode() + b"\n"
    body += f"TCGA-ZZ-0003.pdf,one NUL \x00 {LONG}\n".encode()
    add_report(data_dir, "BAD.csv", body)
    loaded = tcga.load(data_dir)
    bad = [(entry["line"], entry["reason"]) for entry in loaded["quarantined"] if entry["file"] == "BAD.csv"]
    assert bad == [(2, "3 values under 2 column names"), (3, "a quote is not closed"), (7, "not valid UTF-8"), (8, "NUL character")]
    assert loaded["notes"]["text"].str.contains("after the damage").sum() == 1
    flow = loaded["flow"]
    assert flow[0]["n_reports"] == 11 == flow[-1]["n_reports"] + sum(step["dropped"] for step in flow)


def test_a_report_in_utf16_is_read(data_dir):
    text = f"{LONG} wide"
    add_report(data_dir, "WIDE.csv", b'TCGA-ZZ-0003.pdf,"' + text.encode("utf-16-be") + b'"\n')
    notes = tcga.load(data_dir)["notes"]
    assert text in notes["text"].tolist()


def test_copies_are_dropped(data_dir):
    same = f"{LONG} third"
    add_report(data_dir, "COPY.csv", f'TCGA-ZZ-0003.pdf,"{same.upper()}"\n'.encode())
    assert len(tcga.load(data_dir)["notes"]) == 4  # the same patient: kept once
    add_report(data_dir, "COPY.csv", f"TCGA-AA-0001.pdf,{same}\n".encode())
    assert "TCGA-ZZ-0003" not in set(tcga.load(data_dir)["notes"]["patient_id"])  # two patients: whose it is cannot be told


@pytest.mark.parametrize("missing", ["reports", "clinical", "breast_reports.csv", "tissue_source_sites.tsv"])
def test_a_missing_file_is_named_with_its_download(data_dir, missing):
    path = data_dir / "tcga" / missing
    path.rename(data_dir / "elsewhere")
    with pytest.raises(UserError, match="CANCERLLM_DATA") as error:
        tcga.load(data_dir)
    assert missing in str(error.value) and ("github.com" in str(error.value) or "gdc.cancer.gov" in str(error.value))


def test_a_broken_gzip_file_and_a_wrong_header_are_named(data_dir):
    path = data_dir / "tcga" / "reports" / "LUNG.csv.gz"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"LUNG\.csv\.gz: cannot be read"):
        tcga.load(data_dir)
    path.unlink()
    (data_dir / "tcga" / "reports" / "OTHER.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"OTHER\.csv, line 1: the columns are not pdf_file_name_path, ocr_text"):
        tcga.load(data_dir)


@pytest.mark.parametrize(
    ("raw", "rule", "expected"),
    [
        ("T1b1", "t_category", "T1"), ("T4a", "t_category", "T4"), ("TX", "t_category", ""), ("Tis", "t_category", ""),
        ("N0 (i+)", "n_category", "N0"), ("N1mi", "n_category", "N1"), ("NX", "n_category", "N0"), ("N3b", "n_category", "N3"),
        ("L-Upper", "side", "Left"), ("Bilateral", "side", "Bilateral"), ("Right|Left", "side", "Bilateral"), ("Other", "side", ""),
        ("10", "gleason_sum", "10"), ("5", "gleason_sum", ""), ("GX", "grade", ""), ("G3", "grade", "G3"),
        ("High Grade", "high_low", "High"), ("Equivocal", "receptor", "Equivocal"), ("Indeterminate", "receptor", ""),
        ("T2a", "t_letter", "T2a"), ("T2", "t_letter", ""), ("M1b", "m_category", "M1"), ("MX", "m_category", "MX"), ("RX", "residual", ""), ("R1", "residual", "R1"),
        ("0/5", "any_positive", "Negative"), ("02/5", "any_positive", "Positive"), ("0/0", "any_positive", ""), ("Hepatic Flexure", "segment", "Hepatic flexure"),
        ("Other (please specify)", "segment", ""), ("Stage IIIC2", "stage_group", "III"), ("Stage IVB", "stage_group", "IV"), ("I/II NOS", "stage_group", ""), ("Stage X", "stage_group", ""),
    ],
)  # fmt: skip
def test_normalise(raw, rule, expected):
    assert tcga.normalise(raw, rule) == expected


@pytest.mark.parametrize(
    ("morphology", "site", "cancer", "expected"),
    [
        ("8140/3", "C61.9", "PRAD", "acinar adenocarcinoma"), ("8140/3", "C25.0", "PAAD", "ductal adenocarcinoma"),
        ("8140/3", "C18.7", "COAD", "adenocarcinoma"), ("8260/3", "C64.9", "KIRP", "papillary renal cell carcinoma"),
        ("8260/3", "C34.1", "LUAD", "adenocarcinoma"), ("8310/3", "C64.9", "KIRC", "clear cell renal cell carcinoma"),
        ("8310/3", "C34.1", "LUAD", ""), ("8083/3", "C02.9", "HNSC", "squamous cell carcinoma"), ("[Unknown]", "", "LUAD", ""),
    ],
)  # fmt: skip
def test_histology_group(morphology, site, cancer, expected):
    assert tcga.histology_group(morphology, site, cancer) == expected


@needs_data
def test_counts_of_the_published_files():
    loaded = tcga.load(DATA)
    flow = {step["step"]: step for step in loaded["flow"]}
    assert flow["rows of the published files"]["n_reports"] == 5598 + 844
    assert flow["rows that can be read"]["dropped"] == 0
    assert flow["with a patient barcode"]["dropped"] == 52
    assert flow["patient stands in a registry table"]["dropped"] == 0
    assert flow["more than 50 words"]["n_reports"] == 5118 + 841
    assert flow["more than 50 words"]["n_patients"] == 5107 + 841
    notes = loaded["notes"]
    assert not notes["institution"].str.startswith("unknown site").any()
    assert notes["note_id"].is_unique and not notes.duplicated("text").any()
    assert not loaded["registry"].duplicated(["patient_id", "field"]).any()
    counts = loaded["registry"].merge(loaded["patients"]).groupby(["field", "cancer_type"]).size()
    assert counts["gleason", "PRAD"] == pytest.approx(393, abs=5)
    assert ("gleason", "BLCA") not in counts.index


def test_plans_come_from_the_drug_and_radiation_tables_where_there_are_any(data_dir):
    folder = data_dir / "tcga" / "clinical" if (data_dir / "tcga").is_dir() else data_dir / "clinical"
    assert "systemic_therapy" not in set(tcga.load(data_dir)["registry"]["field"])
    names = ["bcr_patient_barcode", "pharmaceutical_therapy_drug_name", "pharmaceutical_tx_started_days_to"]
    rows = [["TCGA-AA-0010", "Taxol", "20"], ["TCGA-AA-0010", "carboplatin", "20"], ["TCGA-AA-0010", "Femara", "300"], ["TCGA-AA-9999", "Taxol", "1"]]
    text = "\n".join("\t".join(row) for row in [names, names, ["CDE_ID:"] * 3, *rows]) + "\n"
    (folder / "nationwidechildrens.org_clinical_drug_brca.txt").write_text(text)
    registry = tcga.load(data_dir)["registry"]
    assert registry[registry["field"] == "systemic_therapy"].to_numpy().tolist() == [["TCGA-AA-0010", "systemic_therapy", "carboplatin + paclitaxel"]]
