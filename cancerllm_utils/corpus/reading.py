"""What one text states about one field: a rule per field, patterns in labels.yaml.

Every rule takes (text, lower, cancer_type) and returns a list of hits (value, start, end), one per mention, value None for a mention that
names the field without a readable answer. `labels.read` turns the hits into stated / uncertain / not_stated.
Rules and their sources: FIELDS.md II.1-II.13 (AJCC/UICC TNM, CAP protocols, WHO and Fuhrman grades).
"""

import re
from collections import Counter
from functools import cache, lru_cache
from pathlib import Path

import yaml

VOCABULARY = yaml.safe_load(Path(__file__).with_name("labels.yaml").read_text(encoding="utf-8"))
ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "l": 1, "ll": 2, "lll": 3, "ill": 3, "iil": 3, "11": 2, "111": 3}
HISTOLOGY = VOCABULARY["histology"]


@cache
def compiled(pattern):
    """One compiled pattern; `re`'s own cache is too small for this vocabulary."""
    return re.compile(pattern)


def lower_keeping_length(text):
    """Lower case with every offset unchanged (a few characters grow when lowered, and would shift all spans)."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def around(lower, start, end, before, after):
    """The text around a span, cut at blank lines: what belongs to one statement."""
    left = lower[max(0, start - before):start].split("\n\n")[-1]
    return left, lower[end:end + after].split("\n\n")[0]


# ------------------------------------------------------------------ TNM
def tnm_hits(text, letter):
    """Mentions of a T or N category as printed; X, T0 and Tis come back as values of that name (labels.read decides)."""
    digits = VOCABULARY["tnm"]["digits"]
    hits = {}
    for entry in VOCABULARY["tnm"][letter]:
        for match in compiled(entry["match"]).finditer(text):
            left = text[max(0, match.start() - 60):match.start()]
            before = compiled(entry["before"]).search(left)
            if not before or (entry.get("not_clinical") and compiled(VOCABULARY["tnm"]["clinical"]).search(left)):
                continue
            digit = entry.get("value") or digits.get(match[1], match[1].upper())
            # the quote holds "yp", not the staging phrase
            prefix = len(before[0]) if len(before[0]) <= 4 else len(compiled(r"(?:(?<![A-Za-z])[pP][ ']?)?$").search(left)[0])
            hits.setdefault(match.start(1) if match.lastindex else match.start(), (f"{letter}{digit}", match.start() - prefix, match.end()))
    return sorted(hits.values(), key=lambda hit: hit[1])


def of_this_tumor(hits, lower, cancer_type):
    """Without the categories of a second tumour (a prostate cancer in a cystoprostatectomy, a thyroid cancer in a laryngectomy).

    A staging line that names the other organ is always left out; a hit that merely stands nearer to the other organ's last mention
    only where the categories contradict each other.
    """
    words = VOCABULARY["tnm"]
    if cancer_type not in words["other_tumor"]:
        return hits
    if cancer_type != "PRAD":
        hits = [hit if not compiled(words["other_tumor_line"]).search(lower[max(0, hit[1] - 90):hit[1]]) else (None, *hit[1:]) for hit in hits]
    if len({value for value, _, _ in hits if value}) < 2:
        return hits
    own = []
    for hit in hits:
        left = lower[max(0, hit[1] - 1500):hit[1]]
        if last_match(left, words["other_tumor"][cancer_type]) <= last_match(left, words["own_tumor"][cancer_type]):
            own.append(hit)
    return own or hits


def last_match(text, pattern):
    """Where the last match of a pattern ends, -1 without one."""
    return max((match.end() for match in compiled(pattern).finditer(text)), default=-1)


def t_category(text, lower, cancer_type):
    """pT as T1-T4; TX, T0 and Tis are no answers of the field. A removed prostate has no pT1 (AJCC): there "pTla" is a damaged pT2a or pT3a."""
    answers = ("T2", "T3", "T4") if cancer_type == "PRAD" else ("T1", "T2", "T3", "T4")
    hits = of_this_tumor(tnm_hits(text, "T"), lower, cancer_type)
    return [(value if value in answers else None, start, end) for value, start, end in hits]


def n_category(text, lower, cancer_type):
    """pN as N0-N3; NX counts as N0 unless another category is printed."""
    hits = of_this_tumor(tnm_hits(text, "N"), lower, cancer_type)
    known = [hit for hit in hits if hit[0] != "NX"]
    return known or [("N0" if value else None, start, end) for value, start, end in hits]


# ------------------------------------------------------------------ laterality
def side_hits(text, lower, cancer_type):
    """Side words; where both sides occur, only those that belong to the organ of the cancer."""
    words = VOCABULARY["side"]
    organ = HISTOLOGY["organs"].get(cancer_type)
    if organ in words["bilateral_organs"]:
        return bilateral_organ_hits(lower, organ)
    hits = [(words["names"][match[1]], match.start(), match.end()) for match in compiled(words["words"]).finditer(lower)]
    values = {value for value, _, _ in hits}
    if values == {"Bilateral"} or values == {"Midline"}:      # "bilateral neck dissection", "midline shift"
        return [(None, start, end) for _, start, end in hits]
    if len(values) < 2:
        return hits
    labelled = [(words["names"][match[1]], match.start(), match.end()) for match in compiled(words["labelled"]).finditer(lower)]
    labelled += [(("Right", "Left")[int(match[1]) - 1], match.start(), match.end()) for match in compiled(words["coded"]).finditer(lower)]
    if len({value for value, _, _ in labelled}) == 1:
        return labelled
    targets = words["organ_words"].get(organ) or "|".join(words["organ_words"].values())
    owned = []
    for value, start, end in hits:
        left, right = around(lower, start, end, 30, 60)
        before = compiled(rf"\b(?:{targets})[\s,:;(-]+(?:\w+[\s,:-]+){{0,1}}$").search(left)
        after = compiled(rf"^(?:[\s,(-]+\w+){{0,2}}?[\s,(-]+(?:{targets})\b").match(right)
        if (before or after) and not compiled(words["not_organ"]).match(right):
            owned.append((value, start, end))
    sided = [hit for hit in owned if hit[0] in ("Right", "Left")]      # a midline or bilateral part of the specimen is not the tumour's side
    if len({value for value, _, _ in sided}) > 1:
        sided = [hit for hit in sided if is_tumor_side(lower, hit, hits)] or sided
    return sided or hits


def is_tumor_side(lower, hit, hits):
    """True where an invasive tumour is named after this side word and before the next one."""
    next_side = min((start for _, start, _ in hits if start >= hit[2]), default=len(lower))
    right = lower[hit[2]:min(next_side, hit[2] + 110)]
    found = compiled(VOCABULARY["side"]["tumor"]).search(right)
    return bool(found) and not compiled(VOCABULARY["side"]["no_tumor"]).search(right[:found.end() + 12])


def bilateral_organ_hits(lower, organ):
    """Prostate and ovary: an explicit statement of one or both sides; other side words leave the side open (None)."""
    words = VOCABULARY["side"]
    hits = [("Bilateral", match.start(), match.end()) for match in compiled(words["bilateral"]).finditer(lower)]
    for match in compiled(words["one_sided"]).finditer(lower):
        hits.append((next(group for group in match.groups() if group).capitalize(), match.start(), match.end()))
    return hits or [(None, match.start(), match.end()) for match in compiled(words["words"]).finditer(lower)]


# ------------------------------------------------------------------ grades
def gleason_hits(text, lower, cancer_type):
    """Gleason sums 6-10, from a + b, a printed score, or primary and secondary pattern."""
    if cancer_type != "PRAD" and "gleason" not in lower:
        return []
    words = VOCABULARY["gleason"]
    hits = []
    for match in compiled(words["pair"]).finditer(lower):
        first, second = (token for token in match.groups() if token)
        hits.append((int(first.replace("l", "1")) + int(second), match.start(), match.end()))
    hits += [(int(match[1]), match.start(), match.end()) for match in compiled(words["sum"]).finditer(lower)]
    hits = [hit for hit in hits if not earlier(lower, hit[1])] or hits
    if len({value for value, _, _ in hits}) > 1:      # several foci or biopsies: the printed total is the report's own
        hits = [(int(match[1]), match.start(), match.end()) for match in compiled(words["total"]).finditer(lower)] or hits
    if not hits:
        first, second = compiled(words["primary"]).search(lower), compiled(words["secondary"]).search(lower)
        if first and second:
            hits = [(int(first[1]) + int(second[1]), min(first.start(), second.start()), max(first.end(), second.end()))]
    return [(str(value) if value >= 6 else None, start, end) for value, start, end in hits]


def earlier(lower, start):
    """True where a grade is told as the patient's history or as that of a biopsy."""
    return compiled(VOCABULARY["grade"]["earlier"]).search(lower[max(0, start - 90):start]) is not None


def of_other(lower, start, end):
    """True where a grade word belongs to dysplasia, fibrosis, inflammation, ... and not to the tumour."""
    left, right = around(lower, start, end, 35, 30)
    return bool(compiled(VOCABULARY["grade"]["other"]).search(left.split(".")[-1] + " | " + right.split(".")[0].split(",")[0]))


def number(token):
    """A grade as an integer, from a digit or a Roman numeral; OCR prints I as l."""
    return ROMAN[token] if token in ROMAN else int(token[0])      # "214" is an OCR of 2/4


def numeric_hits(lower, patterns):
    """Grades printed as numbers; of a range the higher one (the convention of the registry)."""
    hits = []
    for pattern in patterns:
        for match in compiled(pattern).finditer(lower):
            grades = [number(token) for token in match.groups() if token]
            scale = len(grades) == 2 and grades[0] == 1 and grades[1] >= 3        # "grades 1-4" explains the scheme
            if not scale and not of_other(lower, match.start(), match.end()):
                hits.append((f"G{max(grades)}", match.start(), match.end()))
    return hits


def differentiation_hits(text, lower, cancer_type):
    """G1-G4 from words (well, moderately, poorly, un-differentiated) and numbers; 'moderately to poorly' is the higher grade."""
    words = VOCABULARY["grade"]
    hits = []
    for match in compiled(words["words"]).finditer(lower):
        if not of_other(lower, match.start(), match.end()):
            grade = max(words["word_values"][word] for word in match.groups() if word)
            hits.append((f"G{grade}", match.start(), match.end()))
    hits += [hit for hit in numeric_hits(lower, [words["number"]]) if not lower[max(0, hit[1] - 8):hit[1]].startswith("nuclear")]
    hits += [hit for hit in numeric_hits(lower, [words["g_code"]]) if not is_label(lower, hit[1], hit[2])]
    hits = [hit for hit in hits if not earlier(lower, hit[1])] or hits
    worst = [(f"G{number(match[1])}", match.start(), match.end()) for match in compiled(words["worst"]).finditer(lower)]
    return worst or outside_options(hits, lower)


def outside_options(hits, lower):
    """Without the hits in a list that prints every option, where another place of the text names a grade."""
    spans = [match.span() for match in compiled(VOCABULARY["grade"]["options"]).finditer(lower)]
    return [hit for hit in hits if not any(start <= hit[1] < end for start, end in spans)] or hits


def is_label(lower, start, end):
    """True where 'G2' is one of a row of block or slide labels."""
    words = VOCABULARY["grade"]
    return bool(compiled(words["label_before"]).search(lower[max(0, start - 14):start]) or compiled(words["label_after"]).match(lower[end:end + 10]))


def fuhrman_hits(text, lower, cancer_type):
    """Fuhrman or ISUP nuclear grade G1-G4."""
    words = VOCABULARY["grade"]
    hits = numeric_hits(lower, [words["number"]]) + [hit for hit in numeric_hits(lower, [words["g_code"]]) if not is_label(lower, hit[1], hit[2])]
    if len({value for value, _, _ in hits}) > 1:     # a TNM histologic grade beside the nuclear one
        hits = [hit for hit in hits if compiled(words["own_scheme"]).search(lower[max(0, hit[1] - 14):hit[2]])] or hits
    return hits


def who_hits(text, lower, cancer_type):
    """WHO grade of a glioma as printed; G1 and G4 are no answers of the field."""
    words = VOCABULARY["grade"]
    hits = numeric_hits(lower, [words["who_number"]])
    hits = [hit for hit in hits if not compiled(words["earlier_who"]).search(lower[max(0, hit[1] - 60):hit[1]])]
    return [(value if value in ("G2", "G3") else None, start, end) for value, start, end in hits]


def bladder_hits(text, lower, cancer_type):
    """High or low grade of a urothelial tumour."""
    words = VOCABULARY["grade"]
    hits = []
    for match in compiled(words["high_low"]).finditer(lower):
        right = around(lower, match.start(), match.end(), 30, 30)[1]
        if not compiled(words["not_bladder"]).search(right.split(".")[0].split(",")[0]):
            word = next(group for group in match.groups() if group)
            hits.append(("Low" if word == "low" else "High", match.start(), match.end()))
    return hits


# ------------------------------------------------------------------ histology
@cache
def histology_pattern(words):
    """A vocabulary entry as a pattern in which every space also matches a line break or several spaces, and 'carcinoma' also 'ca'."""
    return re.compile(re.sub(r"(?<!^)carcinoma", r"(?:carcinoma|ca\\b)", words).replace("[ ", r"[\s").replace(" ", r"\s+"))


@lru_cache(maxsize=4)     # histology and diagnosis of one note are asked for one after the other
def histology_mentions(lower, cancer_type):
    """Named tumour types in reading order [(group, start, end)]; negated, in-situ and past ones are left out."""
    claimed, mentions = [], []
    for group, entry in HISTOLOGY["groups"].items():
        if cancer_type in HISTOLOGY["organs"] and cancer_type not in entry["cancers"]:
            continue      # "papillary adenocarcinoma" is a kidney's name only in a kidney
        for pattern in entry["words"]:
            for match in histology_pattern(pattern).finditer(lower):
                start, end = match.span()
                if any(start < last and end > first for first, last in claimed):
                    continue
                claimed.append((start, end))
                if compiled(HISTOLOGY["negated"]).search(lower[max(0, start - 45):start]) or compiled(HISTOLOGY["not_after"]).match(lower[end:end + 30]):
                    continue
                mentions.append((group, start, end))
    return sorted(mentions, key=lambda mention: mention[1])


def histology_hits(text, lower, cancer_type):
    """The tumour type. An unspecific name gives way to a specific one; of several types the one on a 'Histologic type:' line counts, else one
    that is named at least three times as often as all others together."""
    mentions = histology_mentions(lower, cancer_type)
    groups = {group for group, _, _ in mentions}
    entries = {group: HISTOLOGY["groups"][group] for group in groups}
    if any(entry.get("open") for entry in entries.values()):
        return [(None, start, end) for _, start, end in mentions]
    weaker = {group for group, entry in entries.items() if entry.get("unspecific") or groups & set(entry.get("gives_way_to", []))}
    mentions = [mention for mention in mentions if mention[0] not in weaker] or mentions
    if len({group for group, _, _ in mentions}) > 1:
        labelled = [mention for mention in mentions if compiled(HISTOLOGY["type_line"] + r"[^\n.;:]{0,25}$").search(lower[max(0, mention[1] - 90):mention[1]])]
        mentions = labelled or mentions
    counts = Counter(group for group, _, _ in mentions)
    top, count = counts.most_common(1)[0] if counts else (None, 0)
    if count >= 3 * (len(mentions) - count):
        mentions = [mention for mention in mentions if mention[0] == top]
    reads_as = HISTOLOGY["reads_as"].get(cancer_type, {})
    return [(None if group == "renal cell carcinoma" else reads_as.get(group, group), start, end) for group, start, end in mentions]


def organ_of(lower, cancer_type, histology):
    """Organ of the diagnosis: of the cancer type if known, else of the entity, else the organ named most often; None if nothing tells."""
    if cancer_type in HISTOLOGY["organs"]:
        return HISTOLOGY["organs"][cancer_type]
    entity_organ = HISTOLOGY["groups"].get(histology, {}).get("organ")
    if entity_organ:
        return entity_organ
    counts = {organ: len(compiled(words).findall(lower)) for organ, words in HISTOLOGY["organ_words"].items()}
    best = max(counts, key=counts.get)
    return best if counts[best] else None


def diagnosis_hits(text, lower, cancer_type):
    """'<histology> of the <organ>', read wherever the histology is."""
    hits = []
    for group, start, end in histology_hits(text, lower, cancer_type):
        organ = organ_of(lower, cancer_type, group) if group else None
        hits.append((f"{group} of the {organ}" if organ else None, start, end))
    return hits


RULES = {"pT": t_category, "pN": n_category, "laterality": side_hits, "gleason": gleason_hits, "grade_differentiation": differentiation_hits,
         "grade_fuhrman": fuhrman_hits, "grade_who": who_hits, "grade_bladder": bladder_hits, "histology": histology_hits,
         "diagnosis": diagnosis_hits}
