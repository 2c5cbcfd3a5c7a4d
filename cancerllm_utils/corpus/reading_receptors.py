"""ER, PR and HER2 status from running text, synoptic lines and forms scanned as a list of keys and a list of values (ASCO/CAP guidelines).

Same shape as reading.py: a rule takes (text, lower, cancer_type) and returns hits (value, start, end); patterns in labels.yaml, `receptors`.
"""

import re
from functools import lru_cache

from .reading import VOCABULARY, compiled


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
        found += [(match.start(), "Equivocal", match.end()) for match in compiled(words["her2_weak"]).finditer(window)]
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


@lru_cache(maxsize=4)     # of one note it is asked for by three fields
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
    if wanted == "her2":
        hits += [("Negative", match.start(), match.end()) for match in compiled(VOCABULARY["receptors"]["her2_none"]).finditer(lower)]
        if hits:
            return hits
    else:
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


RULES = {"er": er_hits, "pr": pr_hits, "her2": her2_hits}
