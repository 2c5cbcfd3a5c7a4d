"""Every gold quote of the synthetic cohort, plain or composed, can be read back to its value by a second way."""

import re

import pandas as pd
import pytest

from cancerllm_utils.corpus import synthetic_hard
from cancerllm_utils.corpus.synthetic import SYNTHETIC_FIELDS, generate
from cancerllm_utils.corpus.synthetic_patient import CLINIC
from cancerllm_utils.corpus.synthetic_treatment import DRUGS, MODALITIES
from cancerllm_utils.corpus.synthetic_yaml import CANCERS, TREATMENT


def rows_at(share, n_patients, seed):
    """Label rows as `rows`, of a cohort with this share of hard statements."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_hard, "HARD_SHARE", share)
        cohort = generate(n_patients, seed)
    return cohort["labels"].merge(cohort["notes"][["note_id", "note_type", "cancer_type", "text"]], on="note_id").to_dict("records")


def read_size(quote):
    numbers, unit = re.findall(r"\d+\.?\d*", quote), re.search(r"[cm]m", quote.lower())[0]
    return f"{max(map(float, numbers)) / (10 if unit == 'mm' else 1):.1f} cm"


def read_side(quote):
    return {"r": "Right", "l": "Left", "b": "Bilateral"}["b" if re.match(r"bi|r\s+and\s+l", quote.lower()) else quote.lower()[0]]


def read_stage(quote):
    return "T{} N{}".format(*re.search(r"t(\d).*?n(\d)", quote.lower(), re.DOTALL).groups())


def read_grade(quote, value):
    text = " ".join(quote.lower().split())
    if value.startswith("Gleason"):
        pair = re.search(r"(\d)\+(\d)", text)
        return f"Gleason {int(pair[1]) + int(pair[2])}" if pair else "Gleason " + re.search(r"\d+", text)[0]
    if value in ("High", "Low"):
        return "High" if text[0] == "h" else "Low"
    for number, words in enumerate(["well", "mod", "poor"], start=1):
        if text.startswith(words) or text == ["wd", "md", "pd"][number - 1]:
            return f"G{number}"
    if text == "pd":
        return "G3"
    roman = re.search(r"\b(iii|ii|i)\b", text)
    return f"G{len(roman[1])}" if roman else "G" + re.search(r"[1-4]", text)[0]


def read_receptors(quote, names):
    """Results of the named receptors in the order ER PR HER2, from a phrase; knows the grammar of such phrases, not the generator's lists."""
    text = " ".join(quote.lower().split()).replace("her-2/neu", "her2")
    if "triple" in text or "tnbc" in text or text.startswith("negative for"):
        return "ER negative PR negative HER2 negative"
    text = re.sub(r"both hormone receptors|estrogen and progesterone receptors|er and pr|er/pr", "er=pr", text)
    text = text.replace("estrogen receptor", "er").replace("progesterone receptor", "pr")
    results = {}
    for name in [name for name in ("er", "pr", "her2") if name.upper() in names]:
        where = re.search(rf"(?<![a-z]){name}(=pr)?(?![a-z])|=pr(?![a-z])" if name == "pr" else rf"(?<![a-z]){name}(?![a-z0-9])", text)
        if name == "her2" and "by fish" in text:
            results[name] = "negative" if "not amplified by fish" in text else "positive"
            continue
        tail = re.split(r"[;,]|(?<=[^a-z])(?:pr|her2)\b", text[where.end() :].replace("=pr", ""), maxsplit=1)[0]
        if re.search(r"equivocal|indeterminate|(?<!\d)2\+", tail):
            results[name] = "equivocal"
        elif re.search(r"neg|not ampl|-|(?<![\d(])0(?!\d)", tail):
            results[name] = "negative"
        else:
            assert re.search(r"pos|\+|amplified|[1-9]\d %|allred [3-8]", tail), (name, tail)
            results[name] = "positive"
    return " ".join(f"{name.upper()} {result}" for name, result in results.items())


def read_plan(quote):
    """(modalities, drugs) that a phrase names; drugs by any of their names."""
    flat = f" {' '.join(re.sub('[^a-z0-9-]+', ' ', quote.lower()).split())} "
    drugs = {name for name, drugs in TREATMENT["named_regimens"].items() if f" {name.lower()} " in flat}
    drugs = {drug for name in drugs for drug in TREATMENT["named_regimens"][name]}
    for name, drug in DRUGS.items():
        if any(f" {word.lower()} " in flat for word in drug["long"] + drug["short"]):
            drugs.add(name)
    drugs -= {"paclitaxel"} if "nab-paclitaxel" in drugs else set()
    found = {DRUGS[drug]["kind"] for drug in drugs}
    if re.search(r" (xrt|rt|ebrt|sbrt|vbt|radiotherapy|radiation|brachytherapy) ", flat):
        found.add("radiotherapy")
    if re.search(r"surgery|resection|ectomy|excision|craniotomy|laryngect|dissection|lumpectomy|nephrectomy", flat) and not re.search(r"(no|without) surgery", flat):
        found.add("surgery")
    if "chemoembol" in flat or "tace" in flat:
        found.add("chemoembolization")
    if "supportive" in flat or " bsc " in flat:
        found = {"best supportive care"}
    if "active surveillance" in flat or " as " in flat:
        found = {"surveillance"}
    return found, drugs


def spellings(entry):
    return {text.lower() for kind in ("long", "short") for text in entry[kind]}


def test_every_plain_quote_says_its_value():
    """Read each quoted span back into the value of this note by a second way."""
    rows = rows_at(0, 300, 11)
    checked = dict.fromkeys(SYNTHETIC_FIELDS, 0)
    for row in rows:
        if row["evidence"] != "stated":
            assert pd.isna(row["stated_value"]) and pd.isna(row["quote_start"])
            assert row["evidence"] == "not_stated" or row["field"] == "icd10" or (row["field"] == "histology" and row["note_type"] == CLINIC)
            continue
        field, value, cancer = row["field"], row["stated_value"], CANCERS[row["cancer_type"]]
        quote = row["text"][int(row["quote_start"]) : int(row["quote_end"])]
        flat = " ".join(quote.lower().split()).replace("tumour", "tumor")
        assert quote == quote.strip() != ""
        if field == "tumor_size":
            assert read_size(quote) == value
        elif field == "laterality":
            sides = [side for by_site in cancer.get("side_site", {}).items() for side, word in by_site[1].items() if word.lower() == flat]
            assert (sides or [read_side(quote)])[0] == value
        elif field == "stage":
            assert read_stage(quote) == value
        elif field == "grade":
            assert read_grade(quote, value) == value
        elif field == "receptor_status":
            assert read_receptors(quote, value.split()[::2]) == value
        elif field == "receptor_type":
            assert (" ".join(re.findall(r"(\w+) positive", read_receptors(quote, cancer["receptors"]))) or "none") == value
        elif field == "histology":
            assert flat in spellings(cancer["histologies"][value])
        elif field == "tumor_site":
            sites = {site: names for key, names in cancer["sites"].items() for site, names in ([(key, names)] if "long" in names else names.items())}
            assert flat in spellings(sites[value]) or flat.upper() in cancer.get("side_site", {}).get(value, {}).values()
        elif field == "treatment_plan":
            intent, modalities, drugs = value.split(" | ")
            assert read_plan(quote) == (set(modalities.split(" + ")), set(drugs.split(" + ")) - {"none"}), quote
            assert set(modalities.split(" + ")) <= set(MODALITIES) and intent in ("curative", "palliative")
        elif field == "radiotherapy":
            dose, fractions = re.fullmatch(r"[a-z ]+ \| ([0-9.]+) Gy \| (\d+) fractions? \| [a-z ]+", value).groups()
            assert fractions in re.findall(r"\d+", quote) and (f"{float(dose):g} Gy" in " ".join(quote.split()) or f"{float(dose) * 100:.0f} cGy" in " ".join(quote.split()))
            assert value.split(" | ")[3] in flat
        checked[field] += 1
    del checked["icd10"]
    assert min(checked.values()) > 40, checked


WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen",
         "seventeen", "eighteen", "nineteen"]  # fmt: skip
TENS = dict(zip(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], range(20, 100, 10), strict=True))


def number(words):
    """A number in words, or in figures."""
    parts = words.replace("-", " ").split()
    if parts[0].isdigit():
        return int(parts[0])
    if len(parts) > 1 and parts[1] == "hundred":
        return 100 * WORDS.index(parts[0]) + (number(" ".join(parts[3:])) if len(parts) > 3 else 0)
    return sum(TENS[part] if part in TENS else WORDS.index(part) for part in parts)


def hard_size(text):
    if found := re.fullmatch(r"([a-z -]+) millimeters", text):
        return number(found[1]) / 10
    if found := re.fullmatch(r"([a-z-]+)(?: point ([a-z]+))? centimeters", text):
        return number(found[1]) + (number(found[2]) / 10 if found[2] else 0)
    if found := re.search(r"([a-z-]+) (?:consecutive|contiguous) slices of (\d) mm", text):
        return number(found[1]) * int(found[2]) / 10
    if found := re.search(r"of ([\d.]+) cm of tissue .* all but ([\d.]+) cm", text):
        return float(found[1]) - float(found[2])
    if found := re.search(r"as ([\d.]+) cm;.* (\d+) mm (more|less)", text):
        return float(found[1]) + int(found[2]) / 10 * (1 if found[3] == "more" else -1)
    if found := re.search(r"is ([\d.]+) cm;.* by (\d+) mm", text):
        return float(found[1]) + int(found[2]) / 10
    found = re.search(r"slip of the pen for ([\d.]+) cm", text)
    return found and float(found[1])


def hard_stage(text):
    if found := re.search(r"[cp]t(\d) [cp]n(\d).*(one t category|by one t category|one t category lower)", text):
        return int(found[1]) + (-1 if "lower" in text else 1), int(found[2])
    if found := re.search(r"above the [cp]t(\d).*now n(\d)", text):
        return int(found[1]) + 1, int(found[2])
    if found := re.search(r"is [cp]t(\d)\. .* nodes are [cp]n(\d)", text):
        return int(found[1]), int(found[2])
    if found := re.fullmatch(r"t (\w+), n (\w+)", text):
        return number(found[1]), number(found[2])
    if found := re.search(r"read t(\d), .* read n(\d)", text) or re.search(r"[cp]t(\d), nodes not .* but n(\d)", text):
        return int(found[1]), int(found[2])
    found = re.search(r"pt(\d); .*\bn(\d)", text)
    return found and (int(found[1]), int(found[2]))


def hard_grade(text):
    if found := re.search(r"tubules (\d), nuclei (\d), mitoses (\d), together (\d) of 9", text):
        total = sum(int(score) for score in found.groups()[:3])
        assert total == int(found[4])
        return "G1" if total < 6 else "G2" if total < 8 else "G3"
    if found := re.search(r"pattern (\d) throughout", text):
        return f"Gleason {2 * int(found[1])}"
    if found := re.search(r"(\d+) % pattern (\d), (?:all )?the rest pattern (\d)", text):
        return f"Gleason {int(found[2]) + int(found[3])}"
    if found := re.search(r"one step (above|below) the grade (\d)", text):
        return f"G{int(found[2]) + (1 if found[1] == 'above' else -1)}"
    if found := re.search(r"slip, read (\d)", text):
        return f"G{found[1]}"
    if found := re.search(r"first called (low|high) grade", text):
        return {"low": "High", "high": "Low"}[found[1]]
    if found := re.search(r"two tiers, (\w+) and (\w+), it is the (first|second)", text):
        return found[1 if found[3] == "first" else 2].capitalize()
    found = re.search(r"the (.+) of the (three|four) grades", text)
    return found and {"lowest": "G1", "middle one": "G2", "second lowest": "G2", "second highest": "G3", "highest": "G3" if found[2] == "three" else "G4"}[found[1]]


def hard_fractions(text):
    if found := re.search(r"^([a-z-]+) daily", text):
        return number(found[1])
    if found := re.search(r"(\d+) fractions of [\d.]+ gy prescribed at first, (\w+) fewer", text):
        return int(found[1]) - number(found[2])
    if found := re.search(r": (\d+) fractions, then (\d+) more", text):
        return int(found[1]) + int(found[2])
    if found := re.search(r"over (\w+) weeks, five", text):
        return 5 * number(found[1])
    if "single sitting" in text:
        return 1
    found = re.search(r"into (\w+) equal parts", text)
    return found and number(found[1])


def hard_side(text):
    if "neither side" in text or "as well" in text:
        return "Bilateral"
    turn = {"left": "Right", "right": "Left"}
    if found := re.search(r" on the (left|right) in \d+; .* (same|opposite) side", text):
        return found[1].capitalize() if found[2] == "same" else turn[found[1]]
    if found := re.search(r"form says (left|right)|the (left|right) .*counterpart", text):
        return turn[found[1] or found[2]]
    found = re.search(r"scar on the (left|right) and a benign cyst on the (left|right); .* side of the (scar|cyst)", text)
    return found and found[1 if found[3] == "scar" else 2].capitalize()


def test_every_hard_quote_can_be_read_to_its_value():
    """Composed and corrected statements hold all that the answer needs; read here by the rules of arithmetic and of each form."""
    checked = dict.fromkeys(["tumor_size", "stage", "grade", "laterality", "radiotherapy", "histology"], 0)
    for row in rows_at(1, 150, 11):
        if row["evidence"] != "stated" or row["field"] not in checked:
            continue
        field, value = row["field"], row["stated_value"]
        flat = " ".join(row["text"][int(row["quote_start"]) : int(row["quote_end"])].lower().split())
        if field == "histology":
            kinds = CANCERS[row["cancer_type"]]["histologies"]
            assert any(name in flat for name in spellings(kinds[value])), flat
            checked[field] += len(flat) > 40
            continue
        found = {"tumor_size": hard_size, "stage": hard_stage, "grade": hard_grade, "laterality": hard_side, "radiotherapy": hard_fractions}[field](flat)
        assert found is not None, flat
        if field == "radiotherapy":
            found, value = str(found), re.search(r"(\d+) fraction", value)[1]
        checked[field] += 1
        assert (f"{found:.1f} cm" if field == "tumor_size" else "T{} N{}".format(*found) if field == "stage" else found) == value, flat
    assert min(checked.values()) > 40, checked


def hard_receptor(text, name):
    """The result of one receptor in a composed statement."""
    name = name.lower()
    if found := re.search(r"(all receptors positive|triple negative) except for (\w+), which is (\w+)", text):
        return found[3] if found[2] == name else "positive" if "all" in found[1] else "negative"
    if "neither of the two" in text:
        return "positive" if "lacking" in text else "negative"
    if "one is positive and one negative" in text:
        return "positive" if name == "er" else "negative"
    part = next(part for part in re.split(r"[;,] (?=er|pr|her2|the lab)", text) if part.startswith(name))
    if found := re.search(r"in ([\d.]+) % of nuclei", part):
        return "positive" if float(found[1]) >= 1 else "negative"
    if found := re.search(r"fish ratio of ([\d.]+) \(amplified from 2.0 on\)", part):
        return "positive" if float(found[1]) >= 2 else "negative"
    if "by fish" in part:
        return "negative" if "not amplified" in part else "positive"
    return re.search(r".*\b(positive|negative|equivocal)", part)[1]


def test_hard_receptors_sites_and_plans_can_be_read():
    checked = dict.fromkeys(["receptor_status", "tumor_site", "treatment_plan"], 0)
    for row in rows_at(1, 250, 12):
        if row["evidence"] != "stated" or row["field"] not in checked:
            continue
        field, value, cancer = row["field"], row["stated_value"], CANCERS[row["cancer_type"]]
        flat = " ".join(row["text"][int(row["quote_start"]) : int(row["quote_end"])].lower().replace("tumour", "tumor").split())
        checked[field] += 1
        if field == "receptor_status" and not re.match(r"er[: +]*(pos|neg)", flat):
            names = value.split()[::2]
            assert " ".join(f"{name} {hard_receptor(flat, name)}" for name in names) == value, flat
        elif field == "tumor_site" and "o'clock" not in flat:
            sites = {site: names for key, names in cancer["sites"].items() for site, names in ([(key, names)] if "long" in names else names.items())}
            pattern = r"of the (?P<first>.+) and the (?P<second>.+) it is the (?P<which>latter|former)|first the (?P<a>.+), then the (?P<b>.+); tumor .* in the (?P<w>first|second) only"
            found = re.search(pattern, flat)
            if found:
                which = found["which"] or found["w"]
                said = (found["first"] or found["a"]) if which in ("former", "first") else found["second"] or found["b"]
            else:
                said = re.sub("^that is a mistake for the ", "", flat)
            assert said in spellings(sites[value]), flat
        elif field == "treatment_plan" and (found := re.search(r"(.*): so the proposal, which stands with (.+) in place of (.+)", flat)):
            modalities, drugs = read_plan(found[1])
            assert (drugs - {found[3]}) | {found[2]} == set(value.split(" | ")[2].split(" + ")), flat
            assert modalities == set(value.split(" | ")[1].split(" + "))
        elif field == "treatment_plan" and "radiotherapy added" in flat:
            modalities, drugs = read_plan(flat.split(": so the")[0])
            assert "radiotherapy" not in modalities and modalities | {"radiotherapy"} == set(value.split(" | ")[1].split(" + "))
            assert drugs == set(value.split(" | ")[2].split(" + "))
    assert min(checked.values()) > 80, checked


def test_a_share_of_the_statements_is_hard():
    """Enough to need reading, and not so many that plain statements are rare; a note with a hard statement has no plain one of the same fact."""
    plain, mixed = rows_at(0, 120, 6), rows_at(synthetic_hard.HARD_SHARE, 120, 6)
    long = [sum(row["field"] in ("stage", "laterality") and row["evidence"] == "stated" and row["quote_end"] - row["quote_start"] > 35 for row in rows) for rows in (plain, mixed)]
    stated = sum(row["field"] in ("stage", "laterality") and row["evidence"] == "stated" for row in mixed)
    assert long[0] == 0 and 0.08 < long[1] / stated < 0.2


def test_the_task_is_neither_given_away_nor_lost():
    """The first side word, or the first length, of a note is often right and far from always."""
    rows = rows_at(synthetic_hard.HARD_SHARE, 300, 11)

    def first(pattern, field, read):
        stated = [row for row in rows if row["field"] == field and row["evidence"] == "stated"]
        found = [(re.search(pattern, row["text"], re.IGNORECASE), row["stated_value"]) for row in stated]
        return sum(match is not None and read(match[0]) == value for match, value in found) / len(stated)

    assert 0.6 < first(r"\b(right|left|rt|lt|bilateral|bilat|r|l)\b", "laterality", read_side) < 0.95
    assert 0.3 < first(r"\d+(\.\d)?( x \d+\.\d){0,2} ?[cm]m", "tumor_size", read_size) < 0.95
    assert 0.5 < first(r"t\d[a-c]?[ ,/pc]*n\d", "stage", read_stage) < 0.99
