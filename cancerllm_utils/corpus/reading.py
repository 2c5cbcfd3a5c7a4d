"""What one text states about one field: a rule per field, patterns in labels.yaml.

Every rule takes (text, lower, cancer_type) and returns a list of hits (value, start, end), one per mention, value None for a mention that
names the field without a readable answer. `labels.read` turns the hits into stated / uncertain / not_stated.
Rules and their sources: FIELDS.md II.1-II.13 (AJCC/UICC TNM, CAP protocols, WHO and Fuhrman grades, ASCO/CAP receptor guidelines).
"""

import re
from collections import Counter
from functools import cache, lru_cache
from pathlib import Path

import yaml

VOCABULARY = yaml.safe_load(Path(__file__).with_name("labels.yaml").read_text(encoding="utf-8"))
ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "l": 1, "ll": 2, "lll": 3, "ill": 3, "iil": 3}
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
            digit = digits.get(match[1], match[1].upper())
            prefix = len(before[0]) if len(before[0]) <= 4 else 0        # the quote holds "yp", not the staging phrase
            hits.setdefault(match.start(1), (f"{letter}{digit}", match.start() - prefix, match.end()))
    return sorted(hits.values(), key=lambda hit: hit[1])


def t_category(text, lower, cancer_type):
    """pT as T1-T4; TX, T0 and Tis are no answers of the field. A removed prostate has no pT1 (AJCC): there "pTla" is a damaged pT2a or pT3a."""
    answers = ("T2", "T3", "T4") if cancer_type == "PRAD" else ("T1", "T2", "T3", "T4")
    return [(value if value in answers else None, start, end) for value, start, end in tnm_hits(text, "T")]


def n_category(text, lower, cancer_type):
    """pN as N0-N3; NX counts as N0 unless another category is printed."""
    hits = tnm_hits(text, "N")
    known = [hit for hit in hits if hit[0] != "NX"]
    return known or [("N0", start, end) for _, start, end in hits]


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
    return sided or hits


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
    return int(token[0]) if token.isdigit() else ROMAN[token]      # "214" is an OCR of 2/4


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
    return [hit for hit in hits if not earlier(lower, hit[1])] or hits


def is_label(lower, start, end):
    """True where 'G2' is one of a row of block or slide labels."""
    words = VOCABULARY["grade"]
    return bool(compiled(words["label_before"]).search(lower[max(0, start - 14):start]) or compiled(words["label_after"]).match(lower[end:end + 10]))


def fuhrman_hits(text, lower, cancer_type):
    """Fuhrman or ISUP nuclear grade G1-G4."""
    words = VOCABULARY["grade"]
    return numeric_hits(lower, [words["number"]]) + [hit for hit in numeric_hits(lower, [words["g_code"]]) if not is_label(lower, hit[1], hit[2])]


def who_hits(text, lower, cancer_type):
    """WHO grade of a glioma as printed; G1 and G4 are no answers of the field."""
    return [(value if value in ("G2", "G3") else None, start, end) for value, start, end in numeric_hits(lower, [VOCABULARY["grade"]["who_number"]])]


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


# ------------------------------------------------------------------ receptors
def receptor_mentions(lower):
    """Receptor terms in reading order, terms of one phrase ('estrogen and progesterone receptors') joined: [(set of fields, start, end)]."""
    words = VOCABULARY["receptors"]
    found = sorted((match.start(), match.end(), field) for field, pattern in words["terms"].items() for match in compiled(pattern).finditer(lower))
    groups = []
    for start, end, field in found:
        if groups and start >= groups[-1][2] and compiled(words["joined"]).match(lower[groups[-1][2]:start]):
            fields, first, _ = groups.pop()
            groups.append((fields | {field}, first, end))
        elif not groups or start >= groups[-1][2]:
            groups.append(({field}, start, end))
    return groups


def statuses_in(window, her2):
    """Status words of a stretch of text in reading order: [(start, status, end)]; for HER2 also the IHC scores 0-1, 2, 3."""
    words = VOCABULARY["receptors"]
    found = []
    sign = compiled(words["sign"]).match(window)
    if sign:
        found.append((sign.start(), "Positive" if sign[1] == "+" else "Negative", sign.end()))
    for status, pattern in words["status"].items():
        found += [(match.start(), status, match.end()) for match in compiled(pattern).finditer(window)]
    if her2:
        for match in compiled(words["her2_score"]).finditer(window):
            score = next(int(group) for group in match.groups() if group)
            found.append((match.start(), ("Negative", "Negative", "Equivocal", "Positive")[score], match.end()))
    # "not overexpressed" holds "overexpressed": of overlapping words the one that starts first counts
    kept = []
    for start, status, end in sorted(found):
        if not kept or start >= kept[-1][2]:
            kept.append((start, status, end))
    return kept


def status_before(lower, start, floor, pattern):
    """(status, start of quote) from 'negative for ER', or None. Text before `floor` belongs to another receptor."""
    left = max(floor, start - 50)
    match = compiled(pattern).search(lower[left:start])
    if not match:
        return None
    word = match[1]
    return ("Equivocal" if word in ("equivocal", "indeterminate") else "Negative" if word.startswith("n") else "Positive"), left + match.start()


def receptor_statuses(lower):
    """Every receptor phrase with its status: [(fields, status or None, start, end)].

    The status stands before the term ('negative for ER'), after it ('ER: negative'), or, where a form was scanned as a list of keys and
    a list of values, in the same place of the second list.
    """
    words = VOCABULARY["receptors"]
    groups = receptor_mentions(lower)
    found, floor, position = [], 0, 0
    while position < len(groups):
        run = [groups[position]]
        while position + len(run) < len(groups) and lower[run[-1][2]:groups[position + len(run)][1]].strip() == "":
            run.append(groups[position + len(run)])
        position += len(run)
        stop = groups[position][1] if position < len(groups) else len(lower)
        fields, start, end = run[-1]
        window = lower[end:min(stop, end + words["window"] * (2 if len(run) > 1 else 1))].split("\n\n")[0]
        if len(run) == 1:
            window = re.split(r"[.;](?=\s+[a-z]{2})", window)[0]
        values = statuses_in(window, any("her2" in group[0] for group in run))
        before = status_before(lower, run[0][1], floor, words["before"])
        if len(run) > 1 and not before and len(values) >= len(run):
            found += [(group[0], value[1], group[1], end + value[2]) for group, value in zip(run, values)]
            floor = end + values[len(run) - 1][2]
        elif len(run) > 1 and not before:
            shared = values[0] if values and run[-1][2] - run[0][1] < 20 else None     # "er pr positive" says it of both
            found += [(group[0], shared and shared[1], group[1], end + shared[2] if shared else group[2]) for group in run]
        elif before:
            found += [(group[0], before[0], before[1], end) for group in run]
            floor = end
        elif values:
            # an equivocal stain that a gene test resolves: which of the two is meant stays open
            resolved = "her2" in fields and values[0][1] == "Equivocal" and len({status for _, status, _ in values}) > 1
            found.append((fields, None if resolved else values[0][1], start, end + values[0][2]))
            floor = end + values[0][2]
        else:
            bare = status_before(lower, start, floor, words["before_bare"])
            found.append((fields, bare[0], bare[1], end) if bare else (fields, None, start, end))
            floor = end
    return found


def receptor_hits(lower, wanted):
    """Statuses of one receptor; a mention without a status counts only where no other mention has one."""
    hits = [("Negative", match.start(), match.end()) for match in compiled(VOCABULARY["receptors"]["triple_negative"]).finditer(lower)]
    if wanted != "her2":
        hits += [((match[1] or match[2]).capitalize(), match.start(), match.end()) for match in compiled(VOCABULARY["receptors"]["hormone"]).finditer(lower)]
        absent = [match for match in compiled(VOCABULARY["receptors"]["none_found"]).finditer(lower) if match[1].startswith("p") == (wanted == "pr")]
        if absent:
            return [("Negative", match.start(), match.end()) for match in absent]
    hits += [(status, start, end) for fields, status, start, end in receptor_statuses(lower) if wanted in fields]
    return [hit for hit in hits if hit[0]] or hits


def er_hits(text, lower, cancer_type):
    """Estrogen receptor status."""
    return receptor_hits(lower, "er")


def pr_hits(text, lower, cancer_type):
    """Progesterone receptor status."""
    return receptor_hits(lower, "pr")


def her2_hits(text, lower, cancer_type):
    """HER2 status."""
    return receptor_hits(lower, "her2")


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
        for pattern in entry["words"]:
            for match in histology_pattern(pattern).finditer(lower):
                start, end = match.span()
                if any(start < last and end > first for first, last in claimed):
                    continue
                claimed.append((start, end))
                if cancer_type in HISTOLOGY["organs"] and cancer_type not in entry["cancers"]:
                    continue
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
         "grade_fuhrman": fuhrman_hits, "grade_who": who_hits, "grade_bladder": bladder_hits, "er": er_hits, "pr": pr_hits, "her2": her2_hits,
         "histology": histology_hits, "diagnosis": diagnosis_hits}
