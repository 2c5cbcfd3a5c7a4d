"""Rules for further fields of a resection report: nodes, invasion, margin, lobe, size, and grades that no registry column records.

Same shape as reading.py: a rule takes (text, lower, cancer_type) and returns hits (value, start, end); patterns in labels_surgical.yaml.
The tasks name their fields, so a field here enters none by itself.
"""

from pathlib import Path

import yaml

from .reading import around, compiled, differentiation_hits, fuhrman_hits

WORDS = yaml.safe_load(Path(__file__).with_name("labels_surgical.yaml").read_text(encoding="utf-8"))


# ------------------------------------------------------------------ nodes
def count_of(token):
    """A number in digits or words."""
    return int(token) if token.isdigit() else WORDS["nodes"]["numbers"][token]


def node_hits(text, lower, cancer_type):
    """Positive and examined nodes of the whole report, "2/14": a printed total, else the pair at the pN category, else the only pair."""
    words = WORDS["nodes"]
    if "node" not in lower and "pn" not in lower:
        return []
    totals = [(match[2], match[1], match) for pattern in words["examined_positive"] for match in compiled(pattern).finditer(lower)]
    totals += [(match[1], match[2], match) for pattern in words["positive_examined"] for match in compiled(pattern).finditer(lower)]
    hits = node_pairs(totals)
    if hits or cancer_type not in words["one_specimen"]:
        return hits or [(None, match.start(), match.end()) for match in compiled(words["pair"]).finditer(lower)]
    near = [(match[1], match[2], match) for match in compiled(words["pair"]).finditer(lower)
            if compiled(words["near"]).search(" ".join(around(lower, match.start(), match.end(), 90, 40)))
            and not compiled(words["not_nodes"]).search(lower[max(0, match.start() - 20):match.start()])]
    near += [(match[1], match[2], match) for match in compiled(words["in_words"]).finditer(lower)]
    return node_pairs(near)


def node_pairs(found):
    """Hits of pairs whose first number is not the larger one."""
    pairs = [(count_of(positive), count_of(examined), match.start(), match.end()) for positive, examined, match in found]
    return [(f"{positive}/{examined}", start, end) for positive, examined, start, end in pairs if positive <= examined and examined]


# ------------------------------------------------------------------ invasion, margin
def invasion_hits(text, lower, field, cancer_type):
    """Present or Absent, from the words after the term, before it, or the L and Pn categories."""
    words, own = WORDS["invasion"], WORDS["invasion"][field]
    hits = []
    for match in compiled(own["term"]).finditer(lower):
        left, right = around(lower, match.start(), match.end(), 60, 60)
        if compiled(words["open"]).match(right):
            value = None
        elif compiled(words["after_absent"]).match(right) or compiled(words["before_absent"]).search(left):
            value = "Absent"
        elif compiled(words["after_present"]).match(right) or compiled(words["before_present"]).search(left):
            value = "Present"
        else:
            value = None
        if value == "Absent" and cancer_type in words["separate_items"] and compiled(words["plain_vascular"]).match(match[0]):
            value = None
        hits.append((value, match.start(), match.end()))
    return hits + [("Present" if match[1] == "1" else "Absent", match.start(), match.end()) for match in compiled(own["category"]).finditer(text)]


def lymphovascular_hits(text, lower, cancer_type):
    """Invasion of lymphatic or blood vessels."""
    return invasion_hits(text, lower, "lymphovascular_invasion", cancer_type)


def perineural_hits(text, lower, cancer_type):
    """Invasion along nerves."""
    return invasion_hits(text, lower, "perineural_invasion", cancer_type)


def margin_hits(text, lower, cancer_type):
    """Positive or Negative resection margin (R1, R2 or R0); margins of a carcinoma in situ or a frozen section are left out."""
    hits = [("Negative" if match[1] == "0" else "Positive", match.start(), match.end()) for match in compiled(WORDS["margin"]["category"]).finditer(text)]
    for value in ("positive", "negative"):
        for match in compiled(WORDS["margin"][value]).finditer(lower):
            left, right = around(lower, match.start(), match.end(), 50, 40)
            if not compiled(WORDS["margin"]["other"]).search(left.split(".")[-1] + " | " + right.split(".")[0]):
                hits.append((value.capitalize(), match.start(), match.end()))
    return hits


# ------------------------------------------------------------------ lobe
def lobe_hits(text, lower, cancer_type):
    """Lobe of the lung that holds the tumour: of several those on a tumour-site line or before the operation's or the tumour's name."""
    strong, named, other = [], [], []
    for value, pattern in WORDS["lobe"].items():
        for match in compiled(pattern).finditer(lower):
            left, right = around(lower, match.start(), match.end(), 70, 70)
            if compiled(WORDS["lobe_not"]).search(left.split(".")[-1][-25:] + " | " + right[:20].split(".")[0]):
                other.append((None, match.start(), match.end()))
                continue
            named.append((value, match.start(), match.end()))
            if compiled(WORDS["lobe_line"]).search(left) or compiled(WORDS["lobe_after"]).match(right):
                strong.append(named[-1])
    return strong or named or other


# ------------------------------------------------------------------ size, grade
def size_hits(text, lower, cancer_type):
    """Greatest dimension of the tumour where the text labels it as such, in cm with one decimal."""
    hits = []
    for match in compiled(WORDS["size"]["label"] + WORDS["size"]["value"]).finditer(lower):
        if compiled(WORDS["size"]["not_tumor"]).search(lower[max(0, match.start() - 60):match.start()]):
            continue
        number = float(match[1].replace(",", ".").replace(" ", ""))
        hits.append((f"{number / 10 if match[2] == 'mm' else number:.1f} cm", match.start(), match.end()))
    return hits


def grade_text_hits(text, lower, cancer_type):
    """Differentiation G1-G4, in kidney tumours the nuclear grade, of cancers whose registry has no grade."""
    return (fuhrman_hits if cancer_type in ("KIRP", "KICH") else differentiation_hits)(text, lower, cancer_type)


RULES = {"nodes": node_hits, "lymphovascular_invasion": lymphovascular_hits, "perineural_invasion": perineural_hits, "margin": margin_hits,
         "lung_lobe": lobe_hits, "tumor_size": size_hits, "grade_text": grade_text_hits}
