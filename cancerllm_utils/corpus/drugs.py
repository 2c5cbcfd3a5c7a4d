"""Drug names as people type them -> generic names. Word lists and regimens: drugs.yaml.

The order of the steps and the guards follow what was measured on the drug tables of TCGA, where 1,010 spellings stand for some hundred drugs: a
cell is cleaned, looked up whole, without salt and route, split into its parts, looked up as a regimen, and only then matched by likeness. Every
match that is not exact goes into a review table (`review`).
"""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pandas as pd
import yaml
from rapidfuzz import fuzz, process

HOW = ("exact", "salt", "combination", "regimen", "fuzzy", "unmapped")
LIKENESS = 82  # rapidfuzz ratio, 0-100: below, "cisplatin" takes "carboplatin"
SHORTEST = 5  # letters of a name that likeness is asked for
UNMAPPED = {"generic": "", "how": "unmapped"}


@cache
def words() -> dict:
    """drugs.yaml; `names` is every spelling -> its generic."""
    raw = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    names = {generic: generic for generic in raw["generics"]}
    for generic, spellings in raw["generics"].items():
        for spelling in spellings:
            assert names.get(spelling, generic) == generic, f"drugs.yaml: {spelling} stands for {names[spelling]} and {generic}"
            names[spelling] = generic
    cut = "|".join(re.escape(word) for word in sorted(raw["salts"] + raw["routes"], key=len, reverse=True))
    return raw | {
        "names": names, "trial": re.compile("|".join(raw["trial"])), "between": re.compile(raw["between"]), "cut": re.compile(rf"(?<!\S)(?:{cut})(?!\S)"),
        "long": [name for name in names if len(name) >= SHORTEST], "supportive": set(raw["supportive"]),
    }  # fmt: skip


def clean(name: str) -> str:
    """Lower case, single spaces, without what trails a name: "?", ".", "#1", "6th"; empty where the cell says nothing ("[Not Available]", "chemo, nos")."""
    name = " ".join(name.lower().split())
    name = re.sub(r"(?:[\s?.,;:-]|#\s*[\d-]+|\b\d+(?:st|nd|rd|th)\b)+$", "", name)
    return "" if name.startswith("[") or name in words()["missing"] else name


def look_up(name: str) -> list[dict]:
    """Steps 2, 3 and 5 on one name: exact, without salts and routes, or a regimen; [] where it is none of these."""
    names, regimens = words()["names"], words()["regimens"]
    if name in names:
        return [{"generic": names[name], "how": "exact"}]
    bare = without_salt(name)
    if bare in names:
        return [{"generic": names[bare], "how": "salt"}]
    regimen = re.sub(r"[\s-]?\d+$", "", bare)  # FOLFOX-6, folfox 4
    return [{"generic": generic, "how": "regimen"} for generic in regimens.get(bare, regimens.get(regimen, []))]


def without_salt(name: str) -> str:
    """The name without words of salts and routes."""
    return " ".join(words()["cut"].sub(" ", name).split())


def alike(name: str) -> list[dict]:
    """Step 6: the one generic whose spelling is most alike; [] below LIKENESS, with other digits, denied, or where two generics are equally alike."""
    denied = words()["deny"]
    if len(name) < SHORTEST or name in denied["names"]:
        return []
    found = process.extract(name, words()["long"], scorer=fuzz.ratio, score_cutoff=LIKENESS, limit=5)
    digits = re.findall(r"\d+", name)
    found = [(words()["names"][spelling], score) for spelling, score, _ in found if re.findall(r"\d+", spelling) == digits]
    best = {generic for generic, score in found if score == found[0][1]}
    if len(best) != 1 or denied["pairs"].get(name) in best:
        return []
    return [{"generic": best.pop(), "how": "fuzzy"}]


def normalise(name: str) -> list[dict]:
    """The generics of one typed name, each {generic, how}, in the order in which they are typed and each once.

    how: exact, salt (exact without salt or route), combination (a part of several), regimen (a component of FOLFOX and the like), fuzzy (also a part of
    a combination that only likeness finds), unmapped (generic ""). [] where the cell names nothing. Trial arms ("x or placebo") are unmapped.
    """
    typed = clean(name)
    if not typed:
        return []
    if words()["trial"].search(typed):
        return [UNMAPPED]
    outside, inside = without_brackets(typed)
    for candidate in (typed, outside, inside):
        if candidate and (found := look_up(candidate)):
            return unique(found)
    parts = [part for part in words()["between"].split(outside or typed) if clean(part)]
    if len(parts) > 1 and (found := join(parts)):
        return found
    for candidate in (outside, without_salt(outside), inside):
        if found := alike(candidate):
            return found
    parts = outside.split()  # "carboplatin paclitaxel"
    return join(parts) if len(parts) > 1 and all(look_up(part) or alike(part) for part in parts) else [UNMAPPED]


def without_brackets(name: str) -> tuple[str, str]:
    """What stands outside of brackets, and what inside."""
    inside = " ".join(re.findall(r"\(([^()]*)\)?", name))
    return " ".join(re.sub(r"\([^()]*\)?", " ", name).split()), " ".join(inside.split())


def join(parts: list[str]) -> list[dict]:
    """Step 4: the drugs of the parts of a name; [] where none of them is known.

    A part is looked up exactly, as a regimen, and then by likeness; of a combination with an unknown part the known ones are kept beside an unmapped one.
    """
    found = [entry for part in parts for entry in look_up(clean(part)) or alike(clean(part)) or [UNMAPPED]]
    if all(entry["generic"] == "" for entry in found):
        return []
    several = len({entry["generic"] for entry in found}) > 1  # "tarceva/erlotinib" is one drug
    return unique([entry | {"how": "combination"} if several and entry["how"] in ("exact", "salt", "regimen") else entry for entry in found])


def unique(found: list[dict]) -> list[dict]:
    return list({entry["generic"]: entry for entry in reversed(found)}.values())[::-1]


def plan_set(generics: Iterable[str]) -> list[str]:
    """The drugs of a plan in alphabetical order: without unmapped and supportive ones; leucovorin only together with fluorouracil."""
    kept = {generic for generic in generics if generic} - words()["supportive"]
    return sorted(generic for generic in kept if words()["only_with"].get(generic, generic) in kept)


@cache
def printed() -> re.Pattern:
    """Spellings and regimens of three letters and more, the longest first, as they may stand in a sentence."""
    spellings = {name for name in [*words()["names"], *words()["regimens"]] if len(name) > 2}
    spellings -= {name for name in spellings if re.fullmatch(r"[a-z]{3}", name) and name not in words()["regimens"]}  # "ifn", "bev", "epo" are too short to trust
    return re.compile(r"(?<![\w-])(?:" + "|".join(re.escape(name) for name in sorted(spellings, key=len, reverse=True)) + r"|5-?fu)(?![\w])")


def find_in(text: str) -> list[str]:
    """Generics that a sentence names, exactly spelt, with the components of named regimens; in alphabetical order, supportive ones included."""
    return sorted({entry["generic"] for match in printed().finditer(text.lower()) for entry in look_up(match[0])})


def review(names: Iterable[str]) -> pd.DataFrame:
    """What was made of every typed name: name (lower case, single spaces), rows, how, generics; the most frequent first.

    how is the least certain step that its drugs needed (HOW is in that order); names that say nothing have how "missing".
    """
    counts = pd.Series([" ".join(name.lower().split()) for name in names], dtype=object).value_counts()
    rows = []
    for name, n in counts.items():
        found = normalise(name)
        how = max((entry["how"] for entry in found), key=HOW.index, default="missing")
        rows.append((name, int(n), how, " + ".join(entry["generic"] or "?" for entry in found)))
    return pd.DataFrame(rows, columns=["name", "rows", "how", "generics"]).sort_values(["rows", "name"], ascending=[False, True], ignore_index=True)
