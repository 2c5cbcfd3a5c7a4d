"""The identifier gate: what must be found, what must be left alone, and its recall on planted identifiers."""

import itertools
import json

import pytest

from cancerllm_utils.corpus import identifiers, synthetic
from cancerllm_utils.corpus.identifiers_planted import KINDS, halves, planted
from cancerllm_utils.errors import UserError


def found(text: str) -> dict:
    """kind -> list of what was found."""
    kinds = {}
    for hit in identifiers.find(text):
        kinds.setdefault(hit["kind"], []).append(text[hit["start"] : hit["end"]])
    return kinds


@pytest.mark.parametrize(("text", "kind", "value"), [
    ("Seen with Dr. Hollowby today.", "person", "Hollowby"),
    ("PATIENT: OSTERVELD, GRETA M", "person", "OSTERVELD, GRETA M"),
    ("Electronically signed by Tobias Q. Farnhurst, MD", "person", "Tobias Q. Farnhurst"),
    ("Operated on 3/4/2011.", "date", "3/4/2011"),
    ("Reported 04MAR2011", "date", "04MAR2011"),
    ("on the 4th of March she bled", "date", "the 4th of March"),
    ("first in March 2011", "date", "March 2011"),
    ("A 93-year-old woman", "age_over_89", "93"),
    ("from 3-5 March 2012 on", "date", "3-5 March 2012"),
    ("Underwent surgery 1/17.", "date", "1/17"),
    ("seen 04/03/2011 at 08:15", "date", "04/03/2011 at 08:15"),
    ("am 3. Oktober 2011", "date", "3. Oktober 2011"),
    ("Originally from Quillham, MD.", "address", "Quillham, MD"),
    ("wohnt Lindenstrasse 14, 69120 Quillheim", "address", "Lindenstrasse 14, 69120 Quillheim"),
    ("sent from Quillham Hospital for Women", "institution", "Quillham Hospital for Women"),
    ("her husband Brannagh drove her", "person", "Brannagh"),
    ("Surgeon: Oduyal TR", "person", "Oduyal TR"),
    ("to see Devota \"Bim\" Oduyal, who", "person", "Devota \"Bim\" Oduyal"),
    ("OVERSTELL, YSOLDE (4471208)", "record_number", "4471208"),
    ("Policy no. QR 551209/2", "record_number", "QR 551209/2"),
    ("Study subject ONC-0042-117", "record_number", "ONC-0042-117"),
    ("She lives alone at 12a Fenner Park, Quillham, Co. Norl, H91 X2Y3.", "address", "12a Fenner Park, Quillham, Co. Norl, H91 X2Y3"),
    ("Flat No. 12, Sona Towers, Lake Marg, Quillpur - 560012", "address", "Flat No. 12, Sona Towers, Lake Marg, Quillpur - 560012"),
    ("Home address Postfach 10 22 33, 69120 Quillheim", "address", "Postfach 10 22 33, 69120 Quillheim"),
    ("In view of his age (93) we waited", "age_over_89", "93"),
    ("a man aged ninety-two", "age_over_89", "ninety-two"),
    ("in her 92nd year of life", "age_over_89", "92nd"),
    ("this frail nonagenarian", "age_over_89", "nonagenarian"),
    ("brought in: 97F with a fall", "age_over_89", "97"),
    ("her husband, 95, drives", "age_over_89", "95"),
    ("Age at diagnosis (years): 93", "age_over_89", "93"),
    ("one hundred and two years old", "age_over_89", "one hundred and two"),
    ("Rural Route 3, Box 17B", "address", "Rural Route 3, Box 17B"),
    ("B-204, Sona Apartments, Lake Road, Quillbad 400064", "address", "B-204, Sona Apartments, Lake Road, Quillbad 400064"),
    ("The Elms, Osmund Road, Quillham", "address", "The Elms, Osmund Road, Quillham"),
    ("Blk 12 Jalan Quill 3, Quillpur", "address", "Blk 12 Jalan Quill 3, Quillpur"),
    ("14 Alder Street\nQuillham\nQU3 4RT", "address", "14 Alder Street\nQuillham\nQU3 4RT"),
    ("found at the corner of Larkin Ave and Fen Road", "address", "Larkin Ave and Fen Road"),
    ("Telefon 06221 / 551234-17", "phone", "06221 / 551234-17"),
    ("bleep 4471", "phone", "4471"),
    ("MRN: 00812345", "record_number", "00812345"),
    ("SSN 123-45-6789", "record_number", "123-45-6789"),
    ("see S11-12345 for the biopsy", "accession", "S11-12345"),
    ("Accession No. 11-S-4321", "accession", "11-S-4321"),
    ("lives at 14 Alder Street, Quillham, OH 44107", "address", "14 Alder Street, Quillham, OH 44107"),
    ("call (415) 555-0123", "phone", "(415) 555-0123"),
    ("sent from Quillham General Hospital", "institution", "Quillham General Hospital"),
    ("write to lab@quillham.org", "email", "lab@quillham.org"),
    ("MARRISH, BLAKE     WARD: 7", "person", "MARRISH, BLAKE"),
    ("Reporting: Marrish PQ\nblocks kept", "person", "Marrish PQ"),
    ("Mr Roland Marrish III was seen", "person", "Roland Marrish III"),
    ("PID|1||OSTERVELD^GRETA^M||F", "person", "OSTERVELD^GRETA^M"),
    ("his wife Ana was with him", "person", "Ana"),
    ("On examination Nadia looked tired", "person", "Nadia"),
    ("She prefers to be called Bunny.", "person", "Bunny"),
    ("INR checked 6/12", "date", "6/12"),
    ("seen in clinic on Oct 4", "date", "Oct 4"),
    ("since mid-June 2014", "date", "mid-June 2014"),
    ("Now 92, she still drives.", "age_over_89", "92"),
    ("a man in his mid-nineties", "age_over_89", "mid-nineties"),
    ("RAMQ: OSTG 5408 1234", "record_number", "OSTG 5408 1234"),
    ("U.R. No. 551209", "record_number", "551209"),
    ("HPE No. HPE/3502/2009", "accession", "HPE/3502/2009"),
    ("outside number 9525669-K", "accession", "9525669-K"),
    ("lives at Oakfell, Church Lane, Little Quillham.", "address", "Oakfell, Church Lane, Little Quillham"),
    ("12 M.G. ROAD, QUILLMANGAL 434636", "address", "12 M.G. ROAD, QUILLMANGAL 434636"),
    ("found outside 82 Station Approach", "address", "82 Station Approach"),
    ("Mob.: 081 7861612", "phone", "081 7861612"),
    ("transferred from Quillham General with sepsis", "institution", "Quillham General"),
    ("seen at University Hospital Quillham today", "institution", "University Hospital Quillham"),
    ("GP: The Quillham Heath Surgery", "institution", "The Quillham Heath Surgery"),
    ("enrolled through Quillham Cancer Network", "institution", "Quillham Cancer Network"),
    ("see https://quillham.org/x?id=1 for it", "url", "https://quillham.org/x?id=1"),
])  # fmt: skip
def test_finds(text, kind, value):
    assert found(text).get(kind) == [value]


@pytest.mark.parametrize("text", [
    "The tumor is 2.5 x 1.3 cm, pT2 N1 M0, 3/12 nodes positive, Fuhrman grade 2, Gleason 3+4=7.",
    "Cassettes A1-A4, blocks E12-E14; Ki-67 95%, HER2/neu 2+, D2-40, S-100 and CD117.",
    "Barrett esophagus; Hodgkin lymphoma; Whipple; Gerota fascia; Pfannenstiel incision; Bloom-Richardson and Nottingham 7/9.",
    "60 Gy in 30 fractions, cisplatin 40 mg/m2, hemoglobin 12.4, PSA 94.2, BP 128/90, weight 92 kg.",
    "A 67-year-old man, 90 pack-years, appendectomy in 1987; may march on in May; the outside hospital called the clinic.",
    "Seen with 3/12 nodes positive; wait 5/7 days; LN 2/14; scan 1/3 of cores; block A1-A3; 2 Pelvic LN; RTOG 0815; 2011-12.",
    "CAP protocol, June 2012; J Clin 2006 Sep 1;24:4170.",
    "Temp 99F, pulse 96, sats 94 on air; 95 Gy; over 90 pack-years; in the late nineties; at 92 days; turned 90 degrees; H-score 101.",
    "A1, B2; block A12, level 3; Level 2, 12 nodes; junction of upper and inner quadrants; 6 minute walk; 12 Lead ECG; route: oral; ward 7, bed 4.",
    "GATA3 clone L50-823; luminal B. Lane 4 of the gel; Warthin-Starry; thoracic surgery; under general anaesthesia; CT of the chest is compared.",
    "CAP protocol version 4.10.0.0; LDH 950, CA-125 1203 U/mL; R/O HCC; the patient's husband agreed.",
])  # fmt: skip
def test_leaves_alone(text):
    assert found(text) == {}


def test_findings_are_sorted_and_do_not_overlap():
    for note in planted(20, seed=3, half="dev"):
        hits = identifiers.find(note["text"])
        assert all(before["end"] <= after["start"] for before, after in itertools.pairwise(hits))
        assert all(hit["kind"] in KINDS and 0 < hit["score"] <= 1 and hit["start"] < hit["end"] for hit in hits)


def test_planted_spans_are_exact_and_parts_share_no_name():
    notes = planted(20, seed=1, half="test")
    counts = {kind: sum(kind == span[0] for note in notes for span in note["spans"]) for kind in KINDS}
    assert min(counts.values()) >= 20
    for note in notes:
        assert all(note["text"][start:end].strip() == note["text"][start:end] != "" for _, start, end in note["spans"])
    parts = halves()
    for key in ("family", "place", "street"):
        names = [name for part in parts.values() for name in part[key]]
        assert len(names) == len(set(names))
    carriers = [(kind, carrier) for part in parts.values() for kind, lines in part["carriers"].items() for carrier in lines if carrier.count("<") and len(carrier) > 24]
    assert len(carriers) == len(set(carriers))


def test_recall_on_the_parts_that_rules_were_tuned_on_holds():
    for half in ("dev", "final", "final3"):
        table = identifiers.evaluate(40, seed=5, half=half).set_index("kind")
        assert (table["recall"] >= 0.95).all(), table
        assert (table["precision"] >= 0.95).all(), table


def test_mask_replaces_findings_and_keeps_gold():
    text, counts = identifiers.mask("Dr. Hollowby saw her on 3/4/2011: pT2 N1, 2.5 cm.")
    assert text == "Dr. [NAME] saw her on [DATE]: pT2 N1, 2.5 cm." and counts == {"person": 1, "date": 1}
    cohort = synthetic.generate(40, 11)
    texts = cohort["notes"].set_index("note_id")["text"]
    for label in cohort["labels"].query("evidence == 'stated'").itertuples():
        hits = identifiers.find(texts[label.note_id])
        quote = (int(label.quote_start), int(label.quote_end))
        touching = [hit for hit in hits if hit["start"] < quote[1] and quote[0] < hit["end"]]
        assert not touching, (label.field, [hit["kind"] for hit in touching])


def test_scan_counts_findings_and_notes():
    table = identifiers.scan(["on 3/4/2011 and 5/6/2011", "on 7/8/2012", "nothing"]).set_index("kind")
    assert (table.loc["date", "found"], table.loc["date", "notes"]) == (3, 2)
    assert table["found"].sum() == 3 and list(table.index) == KINDS
    assert identifiers.scan(["on 3/4/2011"] * 10, sample=4, seed=0).set_index("kind").loc["date", "notes"] == 4


def test_scan_files_reads_what_a_reader_sees(tmp_path):
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["seen on 3/4/2011\n"]},
        {"output_type": "display_data", "metadata": {}, "data": {"text/html": "<style>5/6/2011</style><td>MRN: 00812345</td>", "text/plain": "MRN: 00812345"}},
    ]
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code", "id": "a", "metadata": {}, "source": "x = 1", "outputs": outputs, "execution_count": 1}]}
    (tmp_path / "run.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    (tmp_path / "page.html").write_text("<html><script>var a = '7/8/2012'</script><p>Dr. Hollowby</p></html>", encoding="utf-8")
    table = identifiers.scan_files([tmp_path / "run.ipynb", tmp_path / "page.html"])
    assert {(row.file, row.kind): row.found for row in table.itertuples() if row.found} == {("run.ipynb", "date"): 1, ("run.ipynb", "record_number"): 1, ("page.html", "person"): 1}
    for name, content in (("bad.ipynb", "{"), ("notes.csv", "a,b")):
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=name):
            identifiers.scan_files([tmp_path / name])
