"""Addresses for the identifier gate: chains of parts such as a street, a house, a quarter, a town and a post code, and the checks of single patterns."""

import re

from cancerllm_utils.corpus.identifiers_names import known_word, rules

SURE = 0.94  # score of an address in several parts
WEIGHTS = {"sure": 2, "road": 1, "unsure": 1, "bare": 0}
MONTH = re.compile(r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)(?:[a-z]{0,2}ary|ch|il|e|y|ust|tember|ober|ember|t)?\.?$", re.IGNORECASE)
# A street of ordinary words with its number: other words for a street are ordinary words of a report too (view, green, walk).
NUMBERED = re.compile(r"\d{1,5}\w?,? [A-Z][^,\n]* (?i:street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|court|ct|way|close|terrace|parkway|crescent|highway|gardens|circle|grove)\b")
STATE = re.compile(r"[A-Z]{2,3}")
WORD_AND_STATE = re.compile(r"(?:IN|OR|ME|HI|OK|ON|AS)\b(?![.,]?\s+[\dA-Z]*\d|[,.]|\s*$|[ ]*\n)")  # in capitals, words as well
BOXED = re.compile(r"\b(?:box|rr|r\.r\.|route|highway|hwy|rural|delivery)\b", re.IGNORECASE)
PLACE_OF_CARE = re.compile(r"\b(?:hospitals?|clinic|infirmary|medical|cent(?:er|re)|laborator(?:y|ies)|university|health|surgery|practice|institute)\b", re.IGNORECASE)


def addresses(text: str, windows: list[tuple]) -> list[tuple]:
    """(score, start, end, "address") of every chain of parts within the windows that together say where someone lives.

    A sure part (a number and a street, a box, a post code with letters) counts 2, an unsure one (a house or street by its name, a floor, a quarter, a
    county) 1, a town and the number of a door 0; a chain needs 2 and a name.
    """
    parts, found, known = rules()["parts"], [], 0
    for low, high in sorted(windows):
        low = max(low, known)  # no part is read twice
        while low < high and (match := parts.search(text, low, high)):
            if STATE.fullmatch(match[0]) or ordinary(match[0]):  # begins no address
                low = match.end()
                continue
            start, sure, count, road = match.start(), WEIGHTS[match.lastgroup], 1, match.lastgroup == "road"
            last = end = match.end()
            while step := next_part(text, last):
                last, sure, count = step[0], sure + step[1], count + 1
                if step[1] or "\n" not in text[end:last]:  # a town on a line of its own counts when a code or county follows
                    end = last
            low = known = end
            before = rules()["town_before"].search(text, max(0, start - 60), start)
            if before and not known_word(before["town"].split(",")[0].split()[-1]) and not named_person(before["town"]):
                start, count = before.start("town"), count + 1
            if (sure > 1 or (road and count > 1 and not PLACE_OF_CARE.match(text, end + 1))) and placed(text[start:end]) and (count > 1 or not rules()["code_alone"].fullmatch(text[start:end])):
                found.append((SURE, start, end, "address"))
    return found


def named_person(town: str) -> bool:
    """Whether the words before a street are a given name and a family's, not a house or town."""
    words = town.split(",")[0].lower().split()
    return len(words) > 1 and words[0] in rules()["given"]


def next_part(text: str, end: int) -> tuple[int, int] | None:
    """Where the part behind a comma, a dash, a space or a line end ends, and what it counts; None where there is none."""
    between = rules()["between"].match(text, end)
    if not between or ("\n" in between[0] and not all_parts(text, between.end())):
        return None
    if match := rules()["parts"].match(text, between.end()):
        if WORD_AND_STATE.match(text, match.start()) or (len(match[0]) > 2 and ordinary(match[0])):
            return None
        return match.end(), WEIGHTS[match.lastgroup]
    if between[0] != " " and (match := rules()["town"].match(text, between.end())):
        words = list(re.finditer(r"\S+", match[0]))
        while words and known_word(words[-1][0]) and match[0].isupper():
            words.pop()
        if words and (any(not known_word(word[0]) for word in words) or re.match(r"\s*(?:[,.;\n]|$)", text[match.end() :])):
            return match.start() + words[-1].end(), 0
    return None


def ordinary(part: str) -> bool:
    """Whether a part in capitals is nothing but ordinary words: "POST OP", "LONG WAY"."""
    return part.isupper() and not re.search(r"\d", part) and all(map(known_word, re.findall(r"[\w'’]+", part)))


def all_parts(text: str, start: int) -> bool:
    """Whether the line from start on is nothing but parts of an address."""
    end = (text + "\n").index("\n", start)
    if "," in text[start:end] and not any(map(str.isdigit, text[start:end])):  # a name and a degree
        return False
    while start < end:
        match = rules()["parts"].match(text, start) or rules()["town"].match(text, start)
        if not match:
            return False
        between = rules()["between"].match(text, match.end())
        start = between.end() if between and between.end() < end else match.end()
        if start == match.end():
            return text[start:end].strip(" ,.") == ""
    return False


def placed(found: str) -> bool:
    """Whether a chain holds a name: a word that is in no list of ordinary words, or, outside of capitals, a street with its number."""
    words = re.findall(r"(?<!\w)[^\W\d_][^\W\d_'’-]{2,}", found)
    if PLACE_OF_CARE.search(found) or re.search(r"\d\s?(?:mm|cm|mg|ml|Gy)\b", found, re.IGNORECASE) or any(map(MONTH.match, words)):
        return False
    return any(not known_word(word) for word in words) or bool(BOXED.search(found)) or (not found.isupper() and bool(NUMBERED.match(found)))


# ---------------------------------------------------------------- checks that a pattern alone cannot make


def named_street(match: re.Match) -> bool:
    """A street or house without a number: it has a name that is no ordinary word, or a numeral."""
    words = re.findall(r"[\w'’-]+", match["id"].split(",")[0])
    return any(len(word) > 2 and not known_word(word) for word in words[:-1][:3]) or (match["id"][0].isupper() and not match["id"].isupper() and len(words) > 1)


def street(match: re.Match) -> bool:
    """A street has a name: no measure and, outside of capitals, no lower-case word."""
    # What stands behind the name of the street, a town and a state, is not asked.
    line = re.match(rules()["street_line"], match[0])[0].removeprefix("c/o ")
    words = re.findall(r"(?<!\w)(?:[A-Za-z]|\d+(?:st|nd|rd|th)\b)[\w'.-]*", line, re.IGNORECASE)
    known = rules()["words"]
    if any(
        word.lower().strip(".") in ("cm", "mm", "x", "gm", "grams", "ml", "of", "and", "the", "with", "to", "from", "is", "are", "in") for word in words[:-1]
    ):
        return False
    named = words[:3]
    if not any(len(word) > 2 for word in words[:-1]) and not any(map(str.isdigit, line[5:])):
        return False
    if line.isupper():
        sure = re.search(r"\b(?:STREET|AVENUE|AVE|ROAD|LANE|BOULEVARD|BLVD|DRIVE|PARKWAY|TERRACE|HIGHWAY)\b", line) and re.match(r"\d\d", line)
        return bool(sure) or any(word.lower().strip(".") not in known for word in named[:-1]) or (len(words) > 3 and "," in line)
    return all(word[0].isupper() or word[0].isdigit() for word in named[:2])


def named_parts(match: re.Match) -> bool:
    """A house number and a name in front of a post code: neither a dose nor a month."""
    words = re.findall(r"[^\W\d_][^\W\d_'’]+", match["name"])
    if not words or any(map(MONTH.match, re.findall(r"\w+", match[0]))) or max(map(len, words)) < 3:
        return False
    return not re.search(r"\b(?:mg|ml|cm|mm|Gy|LN|HPF|x|days?|weeks?|months?|years?)\b", match[0], re.IGNORECASE) and (
        any(word.lower() not in rules()["words"] for word in words) or not (match["name"].isupper() or re.search(r"\s\d{4}$", match[0]))
    )


def no_month(match: re.Match) -> bool:
    """Not a month, its day and a year in a line of capitals."""
    return not any(map(MONTH.match, re.findall(r"[^\W\d]{3,}", match[0])))


def led_address(match: re.Match) -> bool:
    """Behind words that lead to an address: a number, and a word of three letters that is neither a month nor the name of an institution."""
    words = re.findall(r"[^\W\d_][\w'’-]{2,}", match["id"])
    if not words or not re.search(r"\d", match["id"]) or re.search(r"\b(?:Hospital|Clinic|Cent(?:er|re)|Infirmary|mg|Gy|cm)\b", match["id"], re.IGNORECASE):
        return False
    if MONTH.match(words[0]) or re.search(r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.? \d{1,2},? (?:19|20)\d\d", match["id"], re.IGNORECASE) or re.match(r"(?:day|cycle|stage|grade|level|room|bed|ward)\b", words[0], re.IGNORECASE) or "year" in match["id"].lower():
        return False
    return any(word.lower() not in rules()["words"] for word in words) or bool(re.search(r"\b\d{1,5}[a-z]?\s[A-Z][a-z]", match["id"]))


def named_place(match: re.Match) -> bool:
    """A town by a word that is in no list; a state or a country alone is no identifier."""
    words = re.findall(r"[^\W\d][\w'’-]+", match["id"])
    if re.fullmatch(rules()["larger"], match["id"]):
        return False
    return not known_word(words[0]) or (not match["id"].isupper() and any(not known_word(word) for word in words))


def city(match: re.Match) -> bool:
    """No ordinary clinical word in front of the state."""
    words = re.findall(r"[\w'-]+", match["city"].lower())
    if re.match(r"\s?(?:\(ASCP|-C\b)", match.string[match.end() : match.end() + 7]):  # PA(ASCP), PA-C: a degree
        return False
    if (match["city"].isupper() and "," not in match[0] and not (re.search(r"\d{5}", match[0]) and not known_word(words[-1]))) or max(map(len, words)) < 3:
        return False
    state = match[0][match.end("city") - match.start() :]
    if re.match(r"\W*(?:ID|IN|OR|ME|HI|OK)\b", state) and (match["city"].isupper() or "," not in state or "ID" in state):  # ordinary words and labels too
        return False
    if re.search(r"\d{5}", state):
        return not all(word in rules()["words"] for word in words) or match["city"][0].isupper()
    return not (
        all(word in rules()["words"] for word in words)
        and len(words) > 0
        and words[-1] not in ("springs", "falls", "city", "beach", "lake", "park", "rock", "river", "bay", "grove", "heights")
    )
