"""What a name is told by: the gate's rules and word lists, ordinary and misread words, and the names of institutions."""

import re
from functools import cache, lru_cache
from pathlib import Path

import yaml

WEAK_HEAD = re.compile(
    r"\b(?:laborator(?:y|ies)|labs|diagnostics|health|institute|bank|pathologists|oncology|imaging|radiology|pathology|dermatology|urology|gastroenterology"
    r"|pharmacy|care|surgery|unit|living|klinik|spital)$",
    re.IGNORECASE,
)
# A department's name is an institution's only behind words that are all names, and not in capitals.
SPECIALTY = re.compile(r"(?:oncology|imaging|radiology|pathology|dermatology|urology|gastroenterology|care|(?:care )?unit|living|surgery|rehab(?:ilitation)?|dialysis|women's health|(?:family|internal) medicine)", re.IGNORECASE)
# Before the name of a general practice.
PRACTICE = re.compile(r"(?:\bGP|hospital|practice|registered (?:at|with)|patient (?:at|of)|referred (?:by|from)|attends|letter (?:to|from)|copy to|cc)\s*:?\s+(?:the\s)?$", re.IGNORECASE)
LED, ENDED = re.compile(r"(?:^|\n|[|:]|\b(?:at|from|The|THE|AT|FROM))[ ]*$"), re.compile(r"[ ]*(?:[.,;|)\n]|-[ ]|$)")


@cache
def rules() -> dict:
    """identifiers.yaml with compiled patterns and lists as sets, and `words` of identifiers_words.txt."""
    here = Path(__file__)
    raw = yaml.load(here.with_name("identifiers.yaml").read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    for rule in [*raw["patterns"], *raw["gates"].values()]:
        if "words" in rule:
            rule["words"] = re.compile(with_fragments(rule["words"], raw["fragments"]))
        if "pattern" not in rule:
            continue
        flags = re.IGNORECASE if rule.get("flags") == "i" else 0
        rule["compiled"] = re.compile(with_fragments(rule["pattern"], raw["fragments"]), flags)
        if "unless" in rule:
            rule["unless"] = re.compile(with_fragments(rule["unless"], raw["fragments"]))
    person, institution = raw["person"], raw["institution"]
    raw["heads"] = re.compile(rf"\b{institution['heads']}(?!\w)", re.IGNORECASE)
    raw["of"] = re.compile(rf"\b{institution['of']}", re.IGNORECASE)
    raw["whole"] = re.compile(rf"(?<!\w)(?:{institution['before']}|{institution['known']})")
    raw["titles"], raw["unsure_titles"] = set(person["titles"]), set(person["unsure_titles"])
    raw["more"] = re.compile(r"(?:,|,?\s?(?:and|&|AND)|/|,?\s?or)\s*$")
    raw["label"] = re.compile(rf"(?<!\w){person['labels']}\s*(?:\([^)\n]{{0,20}}\))?(?P<colon>\s*[:\-–|=]+)?[\s(\"“\']*$", re.IGNORECASE)
    raw["relative"] = re.compile(rf"(?<!\w){person['kin']}(?:['’]s)?(?:\s+name)?(?:\s*[,:]\s+|\s*\(\s?|\s+(?:(?:is|named|called|was)\s+)?)$", re.IGNORECASE)
    raw["credential"] = re.compile(rf"[ ]*,?[ ]*{person['credentials']}(?!\.?\w|\s?:)")
    raw["state"] = re.compile(rf",?\s(?:(?i:{raw['fragments']['states']})|{raw['fragments']['state_dotted']}|(?!MD|PA|DO){raw['fragments']['state_short']})(?!\w)")
    parts = raw["fragments"] | raw["address_parts"]
    kinds = "|".join(f"(?P<{name}>{with_fragments('{' + name + '}', parts)})" for name in ("sure", "road", "unsure", "bare"))
    raw["parts"] = re.compile(rf"(?<![\w/.-])(?:{kinds})(?!\w)")
    raw["between"], raw["town"] = re.compile(parts["between"]), re.compile(with_fragments(r"(?:(?i:the|near|nr\.?|opp\.?|opposite|behind|next[ ]to|beside|adjacent[ ]to)[ ])?{ns}(?:[ ](?:\d{4,5}(?:-\d{4})?|\d{1,2}[A-Z]?(?=\s*(?:[,.;\n]|$))))?(?!\w)", parts))
    raw["town_before"] = re.compile(with_fragments(r"(?:(?<![\w.,-] )|(?<=\b(?i:of|at|to|in) )|(?<=\b(?i:from|home) )|(?<=\b(?i:address) )|(?<=: ))(?<!\w)(?P<town>(?:(?i:the)[ ])?{n}(?:[ ]{n})?(?:,[ ]{n}(?:[ ]{n})?)?),[ ]$", parts))
    raw["code_alone"] = re.compile(r"(?:[A-Z][\w'’-]+,?[ ])*[A-Z]\w{1,3}[ -]?\w{3,4}")
    raw["street_line"] = re.compile(rf".*?\b(?:{raw['fragments']['street_word']}|St|Dr|Ct|Route|Rte)\b|.*", re.IGNORECASE | re.DOTALL)
    raw["larger"] = re.compile(rf"(?:{raw['fragments']['states']}|{raw['countries']})", re.IGNORECASE)
    raw["particle"] = re.compile(rf"(?<!\w)(?i:{person['particles']})+$")
    raw["particle_words"] = {"van", "von", "de", "la", "le", "del", "della", "di", "da", "dos", "el", "al", "bin", "der", "den", "st", "ter", "ten", "mac", "ní", "ó", "zu", "zur", "af", "ibn", "abu", "san", "santa"}
    raw["place_prefixes"] = set(institution["place_prefixes"])
    raw["not_names"], raw["generic"] = set(person["not_names"]), set(institution["generic"])
    raw["given"], raw["family"] = set(raw["given"].split()), set(raw["family"].split())
    raw["words"] = set(here.with_name("identifiers_words.txt").read_text(encoding="utf-8").split())
    return raw


def with_fragments(pattern: str, fragments: dict) -> str:
    """The pattern with every {name} replaced by the fragment of that name."""
    for _ in range(4):  # fragments may hold fragments
        for name, fragment in fragments.items():
            pattern = pattern.replace("{" + name + "}", fragment)
    return pattern


WORD = re.compile(r"[^\W\d_]+")


@lru_cache(maxsize=200_000)
def gates_of(word: str) -> tuple[str, ...]:
    """The gates that a word in lower case opens."""
    return tuple(name for name, gate in rules()["gates"].items() if "words" in gate and gate["words"].match(word))


def windows_by_gate(text: str, lower: str) -> dict[str, list[tuple]]:
    """For every gate, (start, end) of the stretches around what opens it. The words of a note are looked up once for all gates: that is the gate's speed."""
    opened = {}
    for match in WORD.finditer(lower):
        for name in gates_of(match[0]):
            opened.setdefault(name, []).append(match)
    return {name: windows_of(gate, opened.get(name, []), text, lower) for name, gate in rules()["gates"].items()}


def windows_of(gate: dict, opened: list[re.Match], text: str, lower: str) -> list[tuple]:
    """(start, end) of the stretches around the words and the matches of the pattern that open a gate, joined where they touch."""
    windows = []
    if "pattern" in gate and ("needs" not in gate or any(needed in lower for needed in gate["needs"])):
        matches = gate["compiled"].finditer(lower if "lower" in gate else text)
        opened = sorted([*opened, *matches], key=re.Match.start) if opened else matches
    for match in opened:
        low, high = max(0, match.start() - gate["before"]), match.end() + gate["behind"]
        if "capital" in gate and not text[match.start()].isupper():
            continue
        if "wants" in gate and not re.search(gate["wants"], text[low : match.start()]):
            continue
        if "unless" in gate and any(
            other.start() <= match.start() < other.end() for other in gate["unless"].finditer(text, max(0, match.start() - 16), match.end() + 8)
        ):
            continue
        while high < len(text) and text[high].isalnum():  # no word is cut
            high += 1
        if windows and low <= windows[-1][1]:
            windows[-1] = (windows[-1][0], high)
        else:
            windows.append((low, high))
    return windows


# ---------------------------------------------------------------- institutions


def institutions(text: str, lower: str, windows: list[tuple]) -> list[tuple]:
    """(score, start, end, "institution") within the windows: a proper name with a head such as Hospital behind it, or "University of" before it."""
    found = []
    for low, high in windows:
        for match in rules()["heads"].finditer(text, low, high):
            if (
                (match[0][0].isupper() or match[0].lower().startswith("and p"))
                and not any(body in lower[max(0, match.start() - 30) : match.end()] for body in rules()["institution"]["bodies"])
                and (start := proper_name_before(text, match.start())) is not None
            ):
                # "Tissue Procurement Laboratory" is a part of every hospital: a laboratory needs a name of its own.
                own = [
                    word
                    for word in re.findall(r"[\w'-]+", text[start : match.start()])
                    if not known_word(word) and word.lower() not in rules()["not_names"] and (len(word) > 2 or word.lower() in rules()["family"])
                ]
                before = [word for word in text[start : match.start()].split() if word not in ("and", "AND", "&", "The", "THE", "the")]
                practice = match[0].lower() == "surgery" and PRACTICE.search(text[max(0, start - 30) : start])
                if match[0].lower() == "surgery" and not practice and not (LED.search(text[max(0, start - 8) : start]) and ENDED.match(text, match.end())):
                    continue
                if not practice and SPECIALTY.fullmatch(match[0]) and (mostly_capitals(text, start) or len(own) < len(before) or any(map(misread_word, own))):
                    continue
                if match[0].lower().startswith("and p"):  # the partners before: "Smith, Jones and Partners"
                    start = re.search(r"(?:[A-ZÀ-Þ][\w'’-]+(?:[ ][A-ZÀ-Þ][\w'’-]+)?, )*$", text[max(0, start - 60) : start]).start() + max(0, start - 60)
                if own or practice or not WEAK_HEAD.search(match[0]):
                    found.append((0.82, start, match.end(), "institution"))
        found += [(0.82, *match.span(), "institution") for match in rules()["whole"].finditer(text, low, high)]
        for match in rules()["of"].finditer(text, low, high):
            if match[0][0].isupper() and (end := proper_name_behind(text, match.end())):
                found.append((0.82, match.start(), end, "institution"))
    return found


def proper_name_before(text: str, position: int) -> int | None:
    """Where the capitalised words before a head begin; None when they are all generic ("outside hospital", "Breast Clinic")."""
    line = text[max(0, position - 70, text.rfind("\n", 0, position) + 1) : position]
    words = re.search(r"(?:(?:[A-ZÀ-Þ][\w'’.&-]*|and|of|the|&|at|de|la|del|van|von|der|den)\s+){1,6}$", line)
    if not words:
        return None
    capitals = mostly_capitals(text, position)
    start = position - len(line) + words.start()
    parts = list(re.finditer(r"\S+", words[0]))
    # A sentence that ends inside is cut off, but "St." and initials are not.
    for number, part in enumerate(parts):
        if part[0].endswith(".") and len(part[0]) > 3:
            parts = parts[number + 1 :]
            return (
                proper_name_before(text[start + part.end() :], position - start - part.end()) + start + part.end()
                if parts and proper_name_before(text[start + part.end() :], position - start - part.end()) is not None
                else None
            )
    while parts and parts[0][0].lower().strip(".,:;") in rules()["generic"] and not (len(parts) > 1 and parts[1][0].lower() == "lady"):
        parts = parts[1:]
    if capitals:
        breaks = [
            place
            for place, part in enumerate(parts)
            if part[0].lower() in ("in", "at", "from", "to", "by", "was", "is", "with", "for", "on", "were", "this", "that", "a", "an")
        ]
        parts = parts[breaks[-1] + 1 :] if breaks else parts
        while parts and known_word(parts[0][0]) and parts[0][0].lower().strip(".") not in rules()["place_prefixes"]:
            parts = parts[1:]
    proper = [part for part in parts if part[0].lower() not in rules()["generic"] and (len(part[0]) > 2 or part[0].lower() in rules()["family"])]
    if not proper:
        return None
    first = start + parts[0].start()
    return first - 4 if text[max(0, first - 4) : first] in ("The ", "THE ") else first


def proper_name_behind(text: str, position: int) -> int | None:
    """Where the one to three capitalised words behind "University of" end; None when there are none."""
    words = re.match(r"[A-ZÀ-Þ][\w'’-]+(?:[ ](?:(?:of|am|an der|upon)[ ])?[A-ZÀ-Þ][\w'’-]+){0,2}", text[position : position + 60])
    if not words:
        return None
    end, university = 0, text[max(0, position - 16) : position].lower().rstrip().endswith("university of")
    for word in re.finditer(r"\S+", words[0]):
        if word[0] in ("of", "am", "an", "der", "upon"):  # "Vale of Corran"
            continue
        if word[0].lower() in rules()["generic"]:
            break
        if not known_word(word[0]) or (university and not mostly_capitals(text, position)):
            end = word.end()
    return position + end if end else None


def named_hospital(match: re.Match) -> bool:
    """Whether "Quillham General" or "Royal Quillham" has a word that is in no list and stands in no line of capitals."""
    words = re.findall(r"[^\W\d_][\w'’-]{2,}", match["id"])
    return any(not known_word(word) and word.lower() not in rules()["not_names"] and not misread_word(word) for word in words)


# ---------------------------------------------------------------- persons


@lru_cache(maxsize=100_000)
def known_word(word: str) -> bool:
    """An ordinary word of medical text, whatever its case; of a hyphenated word, all parts."""
    words = rules()["words"]
    word = word.lower().strip(".,:;()'’")
    return (
        word in words
        or word.removesuffix("s") in words
        or word.removesuffix("'s") in words
        or ("-" in word and all(part in words or len(part) < 2 for part in word.split("-")))
    )


@cache
def one_letter_off() -> set:
    """Every listed word of seven letters or more with one letter left out."""
    return {word[:place] + word[place + 1 :] for word in rules()["words"] if len(word) > 6 for place in range(len(word))}


def misread_word(word: str) -> bool:
    """An ordinary long word with one letter wrong, missing or too many, as OCR leaves it."""
    word = word.lower()
    if len(word) < 7:
        return False
    shorter = [word[:place] + word[place + 1 :] for place in range(len(word))]
    return word in one_letter_off() or any(piece in rules()["words"] or piece in one_letter_off() for piece in shorter)


def mostly_capitals(text: str, position: int) -> bool:
    """Whether the line around is printed in capitals."""
    line = text[max(text.rfind("\n", 0, position) + 1, position - 80) : position + 60].split("\n")[0]
    lower = sum(map(str.islower, line))
    return lower < 0.2 * max(1, sum(map(str.isalpha, line)))
