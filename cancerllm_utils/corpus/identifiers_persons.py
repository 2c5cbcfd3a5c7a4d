"""Persons for the identifier gate, told from ordinary words by name lists and by what stands around them."""

import re
from functools import lru_cache

from cancerllm_utils.corpus.identifiers_names import known_word, misread_word, mostly_capitals, rules

TITLED = 0.93  # score of a name behind a title
WEAK_LABEL = re.compile(r"(?:to|from|by|with|seeing|re|pa|np|i)\b", re.IGNORECASE)
# What ends a field that holds "Family, Given": the end of the line, two spaces, a bar, a bracket, an initial, a number.
FIELD_END = re.compile(r"\s*(?:\n|$|[|;()\"”’'])|\s{2,}|[ ][A-Z]\b\.?(?![\w-])|[ ,]{1,2}\d|,[ ](?:MD|DO|PhD|M\.D)")
# Words before a name, of which one single unknown word is enough; what stands behind a name that is no person's.
STRONG = re.compile(
    r"(?:dear|[wsd]/o|pp|p\.p\.|cns|cnm|anp|nurse|midwife|chaplain|matron|interpreter|nok|next of kin"
    r"|(?:wife|husband|son|daughter|sister|brother|mother|father|partner|niece|nephew)\s*,)\W*$",
    re.IGNORECASE,
)
PLACE_BEHIND = re.compile(
    r"\s(?:Family|Medical|General|Community|Regional|Memorial|District|University|Hospitals?|Clinic|Surgery|Practice"
    r"|Health|Cent(?:er|re)|Infirmary|Hospice|Laborator|Street|Road|Avenue|Lane|Drive|Way|Close|Crescent)\b",
    re.IGNORECASE,
)
# A person is spoken of: what stands behind, or before, a given name alone; who did something, before a family's name alone.
ACTS = re.compile(
    r"(?<=['’]s)\s(?:mother|father|husband|wife|son|daughter|sister|brother|partner|family|carer|GP|case|care|symptoms|pain|notes)\b"
    r"|,?\s\(?(?:her\s|his\s|the\s)?(?:mother|father|husband|wife|son|daughter|sister|brother|partner|niece|nephew|carer)\)"
    r"|\s(?:looked|looks|tells|told|says|said|reports|reported|feels|felt|denies|denied|understands|understood|agreed|agrees|lives|works|enjoys|attended|attends|came|comes|remains"
    r"|presented|was|is|has|had|will|would|wishes|declined|continues|tolerated|returns|returned|walks|complains|complained|states|stated|describes|described|wants|asked|thinks"
    r"|smokes|drinks|sleeps|eats|manages|knows|rang|phoned|called|completed|remembers|wondered|seems|seemed|appears|appeared)\b",
    re.IGNORECASE,
)
ACTED_ON = re.compile(r"\b(?:reviewed|saw|met|examined|seeing|meeting|telephoned|rang|phoned|told|asked|advised|counsel+ed|reassured|consented|referring|hi|hello|(?:spoke|spoken|speaking)\s(?:to|with)|(?:sons|daughters|sisters|brothers|children|siblings),?|(?:thanks|regards|wishes),?)[\s:]+$", re.IGNORECASE)
DONE_BY = re.compile(
    r"(?:\b(?:[a-z]{3,}ed|seen|read|taken|done|drawn|written|given|sent)\sby|(?:call|phon|fax|relay|report|communicat|convey|handed over|giv)\w*\sto|d/w|s/w|discussed\swith"
    r"|\b(?:fellow|operator|assistant|surgeon|registrar|anaesthetist|in charge:?))\s$",
    re.IGNORECASE,
)
LISTED_WITH = re.compile(
    r"(?:^|\n|\s)(?:present|attendees|in attendance|apologies|cc|c\.c\.|cop(?:y|ies)(?: to)?|(?:surgeon|assistant|operator|pathologist|radiologist|oncologist)s?)\s*:[^\n:]{0,60}[,;/&]\s$",
    re.IGNORECASE,
)
SUFFIX = re.compile(r",?\s(?:Jr|Sr|JR|SR)\b\.?|,?\s(?:II|III|IV)\b")
SUBTYPE = re.compile(r"(?:luminal|type|group|class|hepatitis|vitamin|block|slide|part|specimen|level|cell|stage|grade|panel|figure|table)\s$", re.IGNORECASE)
STREET = {"road", "rd", "street", "avenue", "ave", "drive", "terrace", "crescent", "boulevard", "blvd", "highway", "parkway"}  # no family's name
RECORD_BEHIND = re.compile(
    r"(?:[ ]{1,4}|,[ ]?|[ ]?[-|(][ ]?)"
    r"(?:\(?[A-Z]{0,3}-?\d{5,}|\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}|\(?(?:DOB|D\.O\.B|dob|b\.|born|MRN|aged?\b|\d\d\s?(?:[FMfm]\b|y)))"
)
ADDRESS_BELOW = re.compile(
    r"[ ]*,?\n[ ]*(?:\d{1,5}[a-zA-Z/]?\d*[, ]|(?:(?:G?P\.?O\.? ?|Postf|Flat|Unit|Apt|Plot|House|D\. ?No)|c/o)|[A-ZÄÖÜ][\w.-]+(?:[ ][A-ZÄÖÜ][\w.-]+){0,2}[ ]\d{1,4}[,\n])",
    re.IGNORECASE,
)
ROLE_BELOW = re.compile(
    r"[ ]*(?:,[ ]|,?\n[ ]*)(?:(?:Specialty|Specialist|Trainee)[ ])?(?:Consultant|Professor|Department|Attending|Specialist|Registrar|Staff|Chief|Director"
    r"|Senior|Clinical|Oncolog|Pathologist|Surgeon|Nurse|Fellow|Resident|Secretary|Oberarzt|Chefarzt)",
    re.IGNORECASE,
)
# One capital per part, or all in capitals: "McCoy", "O'Neill", "Al-Rashid", "SMITH", but not "PathNoted".
PART = r"(?:(?:Mc|Mac|Fitz|De|Di|Van|[OD]['’])?[A-ZÀ-ÖØ-Þ]['’a-zß-öø-ÿ]+|[A-ZÀ-ÖØ-Þ'’]+)"
SHAPE = re.compile(rf"{PART}(?:-{PART})*")
WORD = re.compile(r"[A-ZÀ-ÖØ-Þ](?:[\w'’]|-(?=\w))*")


def persons(text: str) -> list[tuple]:
    """(score, start, end, "person"): runs of capitalised words that are no ordinary words, with evidence around them."""
    lists = rules()
    tokens = list(WORD.finditer(text))
    titles = any(token[0] in lists["titles"] for token in tokens)
    found, number = [], 0
    while number < len(tokens):
        token = tokens[number]
        word = token[0]
        title = title_before(text, tokens, number, found) if titles and len(word) > 1 else ""
        if not (
            name_like(word)
            or (title == "sure" and named_by_title(text, tokens, number, lists))
            or ((word.lower() in lists["not_names"] or "-" in word) and follows_given(text, tokens, number, lists))
        ):
            number += 1
            continue
        run = name_run(text, tokens, number, lists, title)
        start, end = run[0].start(), run[-1].end()
        if particle := lists["particle"].search(text[max(0, start - 12) : start]):
            start -= len(particle[0])
        score = evidence(text, start, end, run, title, lists)
        if not score:
            number += 1
            continue
        if (len(run) > 1 or title) and (suffix := SUFFIX.match(text, end)):
            end = suffix.end()
        found.append((score, start, end, "person"))
        while number < len(tokens) and tokens[number].start() < end:
            number += 1
    return found


@lru_cache(maxsize=100_000)
def name_like(word: str) -> bool:
    """Could be a name: in the name lists, or no ordinary word, no eponym, no acronym with digits."""
    lists, lower = rules(), re.sub("['’]s$", "", word.lower())
    if word.lower() in lists["not_names"] or word in lists["titles"] or len(word) < 2:
        return False
    if lower in lists["given"] or lower in lists["family"]:
        return True
    if "-" in lower and all(part in lists["not_names"] for part in lower.split("-")):
        return False
    if re.search(r"(.)\1\1", lower) or not re.search(r"[aeiouyà-ÿ]", lower):  # print noise
        return False
    return len(word) > 2 and bool(SHAPE.fullmatch(word)) and not known_word(word)


def follows_given(text: str, tokens: list[re.Match], number: int, lists: dict) -> bool:
    """Whether an eponym stands as a name: a given name behind a comma ("Pratt, Heike"), or a credential behind and an initial before it."""
    end, behind = tokens[number].end(), tokens[number + 1] if number + 1 < len(tokens) else None
    if behind and text[end : behind.start()] == ", " and behind[0].lower() in lists["given"]:
        return True
    return bool(number and len(tokens[number - 1][0]) == 1 and lists["credential"].match(text[end : end + 14]))


def initials(word: str) -> bool:
    """Two or three capitals that may be the initials of given names."""
    return 2 <= len(word) <= 3 and word.isupper() and word.isalpha() and word not in rules()["titles"]


def named_by_title(text: str, tokens: list[re.Match], number: int, lists: dict) -> bool:
    """Whether a word that is no name elsewhere is one behind a title: an eponym, or an ordinary word with a name directly behind (Dr. Lan Ko)."""
    if tokens[number][0].lower() in lists["not_names"]:
        return True
    behind = tokens[number + 1] if number + 1 < len(tokens) else None
    return bool(behind) and text[tokens[number].end() : behind.start()] == " " and name_like(behind[0]) and (tokens[number][0][1:].islower() or (initials(tokens[number][0]) and behind[0][1:].islower()))


def title_before(text: str, tokens: list[re.Match], number: int, found: list[tuple]) -> str:
    """Whether Dr., Mrs. or the like stands directly before, initials and particles between, or "and" behind another titled name.

    Returns "sure" where even an ordinary word must be a name (Mr. Brown), "maybe" in capitals without a point (MR BRAIN), else "".
    """
    lists, start, back = rules(), tokens[number].start(), number - 1
    while back >= 0 and (len(tokens[back][0]) == 1 or tokens[back][0].lower() in lists["particle_words"]) and start - tokens[back].end() <= 2:
        start, back = tokens[back].start(), back - 1
    if particle := lists["particle"].search(text[max(0, start - 9) : start]):
        start -= len(particle[0])
    if back >= 0 and tokens[back][0] in lists["titles"] and re.fullmatch(r"\.\s*|\s+", gap := text[tokens[back].end() : start]):
        if ("." in gap and len(tokens[back][0]) > 4) or ("\n" in gap and tokens[back][0] in lists["unsure_titles"]):
            return ""
        return "maybe" if "\n" in gap or (tokens[back][0] in lists["unsure_titles"] and "." not in gap) else "sure"
    chained = found and found[-1][0] == TITLED and 0 < start - found[-1][2] <= 6 and lists["more"].fullmatch(gap := text[found[-1][2] : start]) and "\n" not in gap
    return "maybe" if chained else ""


def name_run(text: str, tokens: list[re.Match], number: int, lists: dict, title: str) -> list[re.Match]:
    """The tokens of one name from tokens[number] on: words and initials with single spaces, one comma between family and given name."""
    run, commas = [tokens[number]], 0
    # Initials in front: "J. Smith", "K.B. Dubois".
    back = number - 1
    first = run[0].start()
    while back >= 0 and len(run) < 4 and re.fullmatch(r"\.\s?| ", text[tokens[back].end() : first]):
        if len(tokens[back][0]) == 1:
            run.insert(0, tokens[back])
        elif tokens[back][0].lower() not in lists["particle_words"]:
            break
        first, back = tokens[back].start(), back - 1
    field = re.search(r"[:|\"“'(\n]\s*$|^\s*$", text[max(0, run[0].start() - 4) : run[0].start()])
    for token in tokens[number + 1 : number + 7]:
        word, gap = token[0], text[run[-1].end() : token.start()]
        if len(run) >= 5 or len(gap) > 12:
            break
        last = initials(word) and re.match(r"\s*(?:[;,.)|\n]|$)|\s{2}", text[token.end() :])
        if word.lower() in lists["particle_words"] and not last and not re.search(r"[\"“'(]$", gap):
            continue
        initial = len(word) == 1 and not re.match(r"[-:/)\d]", text[token.end() : token.end() + 1])
        listed = run[0][0].lower() in lists["given"] and word.lower() in lists["not_names"]
        joins = gap == " " or (gap in (". ", ".") and len(run[-1][0]) == 1) or (gap.startswith(" ") and lists["particle"].fullmatch(gap[1:]))
        if gap in (", ", ",") and not commas and not title and not lists["credential"].match(text[run[-1].end() :]) and name_like(word):
            commas, joins = 1, True
        # "Family, Given" fills a field: the word behind the comma is a name, be it an ordinary word elsewhere.
        if gap == ", " and not commas and not title and field and len(word) > 1 and FIELD_END.match(text, token.end()) and not lists["credential"].match(text[run[-1].end() :]):
            commas, joins, listed = 1, True, not known_word(run[0][0]) and (word.lower() not in lists["not_names"] or word.lower() in lists["given"])
        family = gap == ", " and not commas and not title and field and not lists["credential"].match(text[run[-1].end() :])
        if family and len(word) == 1 and re.match(r"\.?\s*(?:[A-Z]\.?\s*)?(?:\n|$|[|;)])", text[token.end() :]):
            commas, joins = 1, True  # "Family, G"
        quoted = re.fullmatch(r"\s[\"“”'(]|[\"“”')]\s", gap) and len(word) > 2 and word[1:].islower() and not title  # a pet name: Given "Pet" Family
        if quoted and (gap[0] != " " or re.match(r"[\"”')]\s[A-ZÀ-Þ]", text[token.end() : token.end() + 3])):
            joins, listed = True, True
        if joins and last and (title or field) and len(run) == 1:
            listed = True
        if not joins or not (initial or listed or name_like(word)):
            break
        run.append(token)
    return run


def evidence(text: str, start: int, end: int, run: list[re.Match], title: bool, lists: dict) -> float:
    """How sure a run is a person, 0 for not at all."""
    words = [token[0] for token in run if len(token[0]) > 1]
    acronym = len(words) == 1 and words[0].isupper() and len(words[0]) < 5 and words[0].lower() not in lists["family"]  # "MR ALT"
    if title == "sure" or (title and not known_word(words[0]) and not acronym):
        return TITLED
    lower = [re.sub("['’]s$", "", word.lower()) for word in words]
    known = [known_word(word) for word in words]
    listed = sum((word in lists["given"] or word in lists["family"]) and not common for word, common in zip(lower, known))
    unknown = len(words) - sum(known)
    capitals = mostly_capitals(text, start)
    comma = "," in text[start:end]
    if not listed and all(word.isupper() and len(word) < 5 for word in words):  # acronyms
        return 0.0
    if comma and lists["state"].match(text[text.index(",", start) : text.index(",", start) + 24]):  # "Greenville, Texas"
        return 0.0
    if lower[-1] in STREET and len(words) > 1:
        return 0.0
    misread = not listed and any(map(misread_word, words))
    if misread and not clean_around(text, start, end):
        return 0.0
    before = text[max(0, start - 60) : start]
    if len(run) == 2 and len(run[0][0]) == 1 and SUBTYPE.search(text[max(0, start - 12) : start]):  # "luminal B. Lane 4"
        return 0.0
    if PLACE_BEHIND.match(text, end) and not lists["credential"].match(text[end : end + 14]):
        return 0.0
    plain = unknown and not misread and not all(word.isupper() and len(word) < 4 for word in words)
    alone = re.search(r"(?:^|\n)[ ]*$", before)
    if plain and STRONG.search(before) and "\n" not in before[-2:]:
        return 0.85
    if plain and comma and len(words) > 1 and RECORD_BEHIND.match(text, end) and not known[0]:
        return 0.85
    if plain and len(run) > 1 and not (known[0] if initials(words[-1]) else any(known)) and alone and (ADDRESS_BELOW.match(text, end) or ROLE_BELOW.match(text, end)):
        return 0.8
    if plain and len(run) > 1 and comma and not any(known) and re.search(r"[\"“'‘]$", before):
        return 0.8
    if plain and len(run[0][0]) == 1 and "." in text[start:end] and not any(known) and re.search(r"[A-ZÀ-Þ]\.[ ]?(?:[A-ZÀ-Þ]\.[ ]?)*[A-ZÀ-Þ][\w'’-]{2,}(?:,|;|[ ]and|[ ]&)[ ]$", before):
        return 0.75  # one of a list of initials and names
    credential = lists["credential"].match(text[end : end + 14])
    # One word and a bare "PA", "MD" behind it is as likely a town and its state.
    if credential and unknown and (len(run) > 1 or not re.fullmatch(r"\s*,\s*(?:PA|MD)", credential[0]) or listed):
        return 0.9
    place = bool(lists["state"].match(text[end : end + 20]))  # "Greenville, SC"
    if (match := lists["label"].search(before)) and not (place and not match["colon"]):
        wrapped = "\n" in match[0].lstrip()
        if (match["colon"] or wrapped) and (listed or (unknown and not wrapped)):
            return 0.85 if listed or len(run) > 1 else 0.6
        if (
            (listed and (len(run) > 1 or not WEAK_LABEL.match(match[0])))
            or (
                len(words) > 1
                and not any(known)
                and not (capitals and WEAK_LABEL.match(match[0]))
                and (clean_around(text, start, end) or (not capitals and not misread and not WEAK_LABEL.match(match[0])))
            )
            or (len(run[0][0]) == 1 and "." in text[start:end] and unknown)
        ):
            return 0.8
    given = lower[0] in lists["given"] and run[0][0][1:].islower()
    if given and lists["relative"].search(before):  # "his wife Ana"
        return 0.8
    if given and len(words) == 1 and not any(known) and (ACTS.match(text, end) or ACTED_ON.search(before)):
        return 0.7
    if capitals and len(run) == 1 and lower[0] in lists["given"] and not any(known) and ACTS.match(text, end) and clean_around(text, start, end):
        return 0.65
    if plain and not capitals and not any(known) and (DONE_BY.search(before) or LISTED_WITH.search(before)) and clean_around(text, start, end):
        return 0.65
    if plain and not any(known) and len(words) == 1 and re.search(r"(?:^|[.\n]\s*|\bthe\s)(?:patient|pt\.?)\s$", before, re.IGNORECASE) and ACTS.match(text, end) and not capitals:
        return 0.65
    if plain and len(words) > 1 and listed and not any(known) and RECORD_BEHIND.match(text, end):
        return 0.8
    if lists["relative"].search(before) and unknown and (listed or len(words) > 1 or (plain and clean_around(text, start, end))):
        return 0.8
    given_first = lower[0] in lists["given"] and len(words) > 1 and not comma
    family_first = comma and len(words) > 1 and lower[1] in lists["given"]
    if (given_first or family_first) and unknown and (listed > 1 or clean_around(text, start, end)) and (not capitals or listed > 1 or not any(known)):
        return 0.75
    if len(run) > len(words) == 1 and "." in text[start:end] and not comma and len(run[0][0]) == 1 and (listed or (unknown and not capitals and len(run) > 2)):
        return 0.7
    if len(words) > 1 and not any(known) and not misread and not place and (capitals or not any(word.isupper() for word in words)):
        marked = set_off(text, start, end)
        if clean_around(text, start, end) and (marked or not (comma or capitals)):
            return 0.5
    return 0.0


def clean_around(text: str, start: int, end: int) -> bool:
    """Whether the words around are ordinary ones, so that a word in no list is a name and not damaged print."""
    line = max(text.rfind("\n", 0, start) + 1, start - 70), min(text.find("\n", end) % (len(text) + 1), end + 70)
    if line[1] - line[0] - (end - start) < 12:  # the name stands nearly alone: the lines before and behind it
        line = max(0, start - 50), end + 50
    around = text[line[0] : start] + " " + text[end : line[1]]
    if re.search(r"[\^~_{}|\\<>`•]", around):
        return False
    words = re.findall(r"(?<!\w)[A-Za-z]{3,}(?!\w)", around)
    return bool(words) and sum(known_word(word) or (name_like(word) and word.lower() in rules()["given"]) for word in words) >= 0.7 * len(words)


def set_off(text: str, start: int, end: int) -> bool:
    """Whether something marks the run off: it ends a "Label: ..." line, stands on a line of its own, or between commas, brackets or quotes."""
    before, behind = text[max(0, start - 40) : start], text[end : end + 3]
    labelled = re.search(r"(?:^|\n)[^\n:]{2,32}:\s*$", before) and re.match(r"\s*(?:\n|$|,|\.\s)", behind)
    alone = re.search(r"(?:^|\n) *$", before) and re.match(r" *(?:\n|$)|,", behind)
    return bool(labelled or alone or (re.search(r"[,(\"“/]\s?$", before) and re.match(r"[,)\"”]|\s?\n|$", behind)))
