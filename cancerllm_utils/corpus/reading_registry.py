"""What rules can tell of fields that are predicted or derived, never extracted: stage group, M, node status, bowel segment, residual tumour.

Same shape as reading.py: a rule takes (text, lower, cancer_type) and returns hits (value, start, end). They are baselines: no label comes from them.
A stage group follows from the categories by the published tables in stage_groups.yaml, where these decide it.
"""

import re
from pathlib import Path

import yaml

from . import reading
from .reading import compiled

FOLDER = Path(__file__).parent
WORDS = yaml.safe_load((FOLDER / "labels_registry.yaml").read_text(encoding="utf-8"))
TABLES = yaml.safe_load((FOLDER / "stage_groups.yaml").read_text(encoding="utf-8"))
PREDICTED = WORDS["fields"]
LETTER = re.compile(r"t\s?[1-4li!|]\s?([a-d])", re.IGNORECASE)


# ------------------------------------------------------------------ stage group
def allows(wanted: str, category: str) -> bool:
    """Whether a category as told ("T2", "T2a", "" for unknown) may be the table's ("T2", "T2a", "*")."""
    return wanted == "*" or not category or wanted.startswith(category) or category.startswith(wanted)


def stage_group(cancer_type: str, t: str = "", n: str = "", m: str = "") -> str:
    """Stage group "I" to "IV" that the categories decide by stage_groups.yaml, "" where they leave it open.

    t: "T2" or "T2a", n: "N1", m: "M1"; "" is unknown. No M1 is read as M0: a stage group is given where no distant metastasis was found.
    """
    table = TABLES["groups"].get(cancer_type)
    if not table:
        return ""
    if m.startswith("M1"):
        return "IV"
    if f"{t} {n}" in TABLES["without_letter"].get(cancer_type, {}):
        return TABLES["without_letter"][cancer_type][f"{t} {n}"]
    possible = {group for group, pairs in table.items() for pair in pairs if allows(pair.split()[0], t) and allows(pair.split()[1], n)}
    return possible.pop() if len(possible) == 1 else ""


def t_with_letter(text: str, lower: str, cancer_type: str) -> str:
    """The stated T category with its letter where one is printed, "" where none or several are stated."""
    hits = [hit for hit in reading.t_category(text, lower, cancer_type) if hit[0]]
    if len({value for value, _, _ in hits}) != 1:
        return ""
    letters = {match[1].lower() for _, start, end in hits if (match := LETTER.search(text[start:end]))}
    return hits[0][0] + (letters.pop() if len(letters) == 1 else "")


def only_value(hits: list[tuple]) -> str:
    """The one value of the hits, "" for none or several."""
    values = {value for value, _, _ in hits if value}
    return values.pop() if len(values) == 1 else ""


def stage_hits(text: str, lower: str, cancer_type: str) -> list[tuple]:
    """The stage group that the stated T, N and M decide; its place is that of the first category."""
    n_hits = reading.n_category(text, lower, cancer_type)
    group = stage_group(cancer_type, t_with_letter(text, lower, cancer_type), only_value(n_hits), only_value(m_hits(text, lower, cancer_type)))
    if not group:
        return []
    places = [hit for hit in reading.t_category(text, lower, cancer_type) + n_hits + m_hits(text, lower, cancer_type) if hit[0]]
    return [(group, *min(place[1:] for place in places))]


def stage_of_synthetic(categories: str, icd10: str, lower: str) -> str:
    """The stage group of a synthetic note from "T2 N1" and the ICD-10 category that were read in it, "" where they leave it open."""
    t, _, n = categories.partition(" ")
    return stage_group(TABLES["by_icd10"].get(icd10, ""), t, n, only_value(m_hits("", lower, "")))


# ------------------------------------------------------------------ M, nodes, segment, residual tumour
def m_hits(text: str, lower: str, cancer_type: str) -> list[tuple]:
    """M0, M1 or MX as printed (a form that prints them all gives them all); M1 also where a distant metastasis is told."""
    hits = [("M" + next(group for group in match.groups() if group).replace("o", "0").upper(), match.start(), match.end())
            for match in compiled(WORDS["metastasis"]["category"]).finditer(lower)]
    return hits + [("M1", match.start(), match.end()) for match in compiled(WORDS["metastasis"]["present"]).finditer(lower)]


def metastasis_hits(text: str, lower: str, cancer_type: str) -> list[tuple]:
    """M0 or M1. A printed MX says nothing: registries code most of them as M0."""
    hits = m_hits(text, lower, cancer_type)
    return [] if only_value(hits) == "MX" else hits


def node_status_hits(text: str, lower: str, cancer_type: str) -> list[tuple]:
    """Positive for N1 to N3, Negative for a printed N0; NX says nothing of the nodes."""
    known = [hit for hit in reading.of_this_tumor(reading.tnm_hits(text, "N"), lower, cancer_type) if hit[0] and hit[0] != "NX"]
    return [("Negative" if value == "N0" else "Positive", start, end) for value, start, end in known]


def segment_hits(text: str, lower: str, cancer_type: str) -> list[tuple]:
    """The named segments of the bowel; of several those on a tumour-site line."""
    hits = [(value, match.start(), match.end()) for value, pattern in WORDS["segment"].items() for match in compiled(pattern).finditer(lower)]
    inside = [hit for hit in hits if hit[0] == "Rectosigmoid junction"]      # holds the word sigmoid
    hits = [hit for hit in hits if hit in inside or not any(start <= hit[1] < end for _, start, end in inside)]
    on_line = [hit for hit in hits if compiled(WORDS["segment_line"]).search(lower[max(0, hit[1] - 60):hit[1]])]
    return on_line or hits


def residual_hits(text: str, lower: str, cancer_type: str) -> list[tuple]:
    """R0, R1 or R2 as printed."""
    return [(f"R{match[1]}", match.start(), match.end()) for match in compiled(WORDS["residual"]).finditer(text)]


RULES = {"stage_ajcc": stage_hits, "stage_figo": stage_hits, "pM": metastasis_hits, "node_status": node_status_hits, "colon_segment": segment_hits,
         "residual_tumor": residual_hits}
