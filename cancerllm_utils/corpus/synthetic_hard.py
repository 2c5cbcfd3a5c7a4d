"""Statements of the synthetic notes that need reading and not pattern matching: composed, corrected, by exclusion, by reference or by arithmetic.

A hard statement takes the place of every plain one of its fact in the note. Its span covers the words that decide, see synthetic_hard.yaml.
"""

import re
from random import Random

from cancerllm_utils.corpus.synthetic_grammar import BITS, CLOSE, OPEN, parse
from cancerllm_utils.corpus.synthetic_patient import between, pick
from cancerllm_utils.corpus.synthetic_treatment import COURSES, DRUGS, words_of_plan
from cancerllm_utils.corpus.synthetic_yaml import CANCERS, yaml_of

HARD_SHARE = 0.15  # of the statements, fact by fact; some have no hard form for this patient, so that fewer remain
UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen",
         "sixteen", "seventeen", "eighteen", "nineteen"]  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
# Nodes and N category. AJCC Cancer Staging Manual, 7th edition 2010: breast, colon and rectum, stomach, melanoma; 8th edition 2017: pancreas.
FEW = {"N1": "one to three make it N1", "N2": "N2 begins at four"}
NODE_RULES = {"BRCA": FEW | {"N2": "four to nine make it N2", "N3": "N3 begins at ten"}, "COAD": FEW, "READ": FEW, "PAAD": FEW,
              "STAD": {"N1": "one or two make it N1", "N2": "three to six make it N2", "N3": "N3 begins at seven"},
              "SKCM": {"N1": "a single one makes it N1", "N2": "two or three make it N2", "N3": "N3 begins at four"}}  # fmt: skip
NOTTINGHAM = {"G1": [(1, 1, 1), (1, 2, 1), (2, 2, 1)], "G2": [(2, 2, 2), (3, 2, 1), (3, 2, 2), (2, 3, 2)], "G3": [(3, 3, 2), (3, 2, 3), (3, 3, 3)]}
RANKS = {3: ["lowest", "middle one", "highest"], 4: ["lowest", "second lowest", "second highest", "highest"]}
# Drugs of one class that stand in for each other.
SWAPS = {"cisplatin": "carboplatin", "carboplatin": "cisplatin", "paclitaxel": "docetaxel", "docetaxel": "paclitaxel", "anastrozole": "letrozole", "letrozole": "anastrozole",
         "nivolumab": "pembrolizumab", "pembrolizumab": "nivolumab", "capecitabine": "fluorouracil", "fluorouracil": "capecitabine", "sunitinib": "sorafenib"}  # fmt: skip
# The clock face seen from the front: the right breast has its outer half at the reader's left.
CLOCK = {("upper outer quadrant", "Right"): ("ten", "eleven"), ("upper inner quadrant", "Right"): ("one", "two"), ("lower inner quadrant", "Right"): ("four", "five"),
         ("lower outer quadrant", "Right"): ("seven", "eight"), ("upper outer quadrant", "Left"): ("one", "two"), ("upper inner quadrant", "Left"): ("ten", "eleven"),
         ("lower inner quadrant", "Left"): ("seven", "eight"), ("lower outer quadrant", "Left"): ("four", "five")}  # fmt: skip
OTHER = {"Right": "left", "Left": "right"}


def marked_patterns(slot: str, texts: list[str]) -> list[tuple]:
    """(pattern with gold marks, bits of its gold and optional slots, names of all its other slots)."""
    patterns = [text.replace("[[", OPEN[slot]).replace("]]", CLOSE[slot]) for text in texts]
    return [(pattern, parse(pattern)[1], {name.lower() for name in re.findall(r"{([^{}]+)}", pattern)} - set(BITS)) for pattern in patterns]


PATTERNS = {slot: marked_patterns(slot, texts) for slot, texts in yaml_of("hard").items()}


def hard_statements(rng: Random, patient: dict, tumor: dict, slots: dict, sayable: int, allowed: int, early: bool) -> dict:
    """Slot -> (pattern, slots to fill it with) of the facts that this note states the hard way; the other facts stay as they are."""
    random = rng.random
    drawn = [slot for slot in PATTERNS if sayable & BITS[slot] and random() < HARD_SHARE]
    plain, found = sayable & ~sum(BITS[slot] for slot in drawn), {}
    for slot in drawn:
        filled = slots | MAKERS[slot](random, patient, tumor, slots, early)
        options = [pattern for pattern, bits, names in PATTERNS[slot] if not bits & ~(plain | allowed) and names <= filled.keys()]
        if options:
            found[slot] = (pick(random, options), filled)
    return found


def in_words(number: int) -> str:
    """A number below 1,000 as words: thirty-two, one hundred and five."""
    if number >= 100:
        return f"{UNITS[number // 100]} hundred" + (f" and {in_words(number % 100)}" if number % 100 else "")
    return UNITS[number] if number < 20 else TENS[number // 10 - 2] + (f"-{UNITS[number % 10]}" if number % 10 else "")


def stage_slots(random, patient: dict, tumor: dict, slots: dict, early: bool) -> dict:
    t, n, cancer = tumor["t"], tumor["n"], CANCERS[patient["cancer_type"]]
    steps, nodes = list(cancer["T"]), list(cancer["N"])
    found = {"pc": "c" if early or not patient["operated"] else "p", "t_bare": t, "n_bare": n, "t_word": UNITS[int(t[1])], "n_word": UNITS[int(n[1])],
             "t_wrong": pick(random, [step for step in steps if step != t]), "n_wrong": pick(random, [node for node in nodes if node != n]),
             "other_pair": pick(random, [pair for pair in ("T1 N0", "T2 N0", "T2 N1", "T3 N1") if pair != f"{t} {n}"])}  # fmt: skip
    at = steps.index(t)
    found |= {"t_low": steps[at - 1]} if at and int(t[1]) - int(steps[at - 1][1]) == 1 else {}
    found |= {"t_high": steps[at + 1]} if at + 1 < len(steps) and int(steps[at + 1][1]) - int(t[1]) == 1 else {}
    if "nodes_positive" in slots and n in NODE_RULES.get(patient["cancer_type"], {}):
        count = int(slots["nodes_positive"])
        found |= {"nodes_words": f"{in_words(count)} node{'s' if count > 1 else ''}", "node_rule": NODE_RULES[patient["cancer_type"]][n]}
    return found


def receptor_slots(random, patient: dict, tumor: dict, slots: dict, early: bool) -> dict:
    results, found = tumor["receptors"], {}
    for name in [name for name in ("ER", "PR") if name in results]:
        positive = results[name] == "positive"
        percent = between(random, 4, 95) if positive else pick(random, ["0.2", "0.4", "0.5"])
        found[f"{name.lower()}_percent"] = f"{name} in {percent} % of nuclei"
        stays = f"{name} as on the core, where it was {results[name]}"
        found[f"{name.lower()}_before"] = pick(random, [stays, f"{name}, read as {'negative' if positive else 'positive'} at first, is {results[name]} on the repeat stain"])
    if "HER2" in results:
        ratio = f"{2.2 + 4 * random():.1f}" if results["HER2"] == "positive" else f"{1 + 0.6 * random():.1f}"
        story = {"positive": ["HER2, equivocal at first, is amplified by FISH", f"HER2, 2+ at first, has a FISH ratio of {ratio} (amplified from 2.0 on)"],
                 "negative": ["HER2, equivocal at first, is not amplified by FISH", f"HER2, 2+ at first, has a FISH ratio of {ratio} (amplified from 2.0 on)"],
                 "equivocal": ["HER2, called positive at first, is equivocal on repeat", "HER2, called negative at first, turned out equivocal"]}  # fmt: skip
        found["her2_story"] = pick(random, story[results["HER2"]])
    if len(results) == 3:
        for rest, words in (("positive", "all receptors positive"), ("negative", "triple negative")):
            odd = [name for name in results if results[name] != rest]
            if len(odd) == 1:
                found["exception"] = f"{words} except for {odd[0]}, which is {results[odd[0]]}"
    elif "ER" in results:
        same = results["ER"] == results["PR"]
        both = {"positive": "neither of the two hormone receptors is lacking", "negative": "neither of the two hormone receptors is expressed"}
        found["hormone_only"], found["two_receptors"] = "", both[results["ER"]] if same else "of the two hormone receptors one is positive and one negative, ER being the positive one"
    else:
        found["her2_alone"] = found["her2_story"]
    return found


def size_slots(random, patient: dict, tumor: dict, slots: dict, early: bool) -> dict:
    mm, small = round(tumor["cm"] * 10), between(random, 3, 8)
    found = {"mm_words": in_words(mm), "cm_words": f"{in_words(mm // 10)}" + (f" point {UNITS[mm % 10]}" if mm % 10 else ""), "cm_bare": f"{mm / 10:.1f}"}
    thick = [step for step in (3, 4, 5, 6) if mm % step == 0 and 3 <= mm // step <= 30]
    if thick:
        step = pick(random, thick)
        found |= {"slices": in_words(mm // step), "slice_mm": str(step)}
    rest = between(random, 12, 60)
    found |= {"length": f"{(mm + rest) / 10:.1f}", "rest": f"{rest / 10:.1f}"}
    diff = between(random, 2, 6)
    more = mm - diff < 3 or random() < 0.5
    before = mm + diff if more else mm - diff
    found |= {"size_before": f"{before / 10:.1f}", "diff_mm": str(diff), "more_less": "less" if more else "more"}
    if mm > small + 3:
        found |= {"focus_small": f"{small / 10:.1f}", "focus_diff": str(mm - small)}
    swapped = (mm % 10) * 10 + mm // 10
    if 10 < mm < 100 and mm % 10 and swapped != mm:
        found["size_swapped"] = f"{swapped / 10:.1f}"
    return found


def site_slots(random, patient: dict, tumor: dict, slots: dict, early: bool) -> dict:
    site = tumor["site"]
    others = [name for name in patient["sites"] if name != site]
    found = {"site_bare": patient["sites"][site]}
    found |= {"site_other": patient["sites"][pick(random, others)]} if others else {}
    hours = CLOCK.get((site, tumor.get("side"))) if patient["cancer_type"] == "BRCA" else None
    return found | ({"clock": pick(random, hours)} if hours else {})


def side_slots(random, patient: dict, tumor: dict, slots: dict, early: bool) -> dict:
    side = tumor["side"]
    if side not in OTHER:
        return {"any_side_bare": pick(random, ["left", "right"]), "both_sides": ""}
    return {"side_bare": side.lower(), "side_wrong": OTHER[side], "same_as_joint": "same" if slots["joint_side"] == side.lower() else "opposite"}


def histology_slots(random, patient: dict, tumor: dict, slots: dict, early: bool) -> dict:
    kinds = CANCERS[patient["cancer_type"]]["histologies"]
    # a name that is part of the other one ("adenocarcinoma") would not be told apart
    others = [name for name in kinds if name != tumor["histology"] and name not in tumor["histology"] and tumor["histology"] not in name]
    return {"hist_bare": kinds[tumor["histology"]]} | ({"hist_other": kinds[pick(random, others)]} if others else {})


def grade_slots(random, patient: dict, tumor: dict, slots: dict, early: bool) -> dict:
    grade, scheme, grades = tumor["grade"], CANCERS[patient["cancer_type"]]["grade"]["scheme"], list(CANCERS[patient["cancer_type"]]["grade"]["weights"])
    if scheme == "gleason":
        first, second = tumor["patterns"]
        share = 10 * between(random, 6, 9)
        return {"gleason_parts": f"pattern {first} throughout, no second pattern" if first == second else pick(random, [
            f"{share} % pattern {first}, the rest pattern {second}", f"{100 - share} % pattern {second}, all the rest pattern {first}"])}  # fmt: skip
    if scheme == "two_tier":
        first = random() < 0.5
        order = [grade.lower(), OTHER_TIER[grade]] if first else [OTHER_TIER[grade], grade.lower()]
        return {"tier_other": OTHER_TIER[grade], "tier_word": f"{order[0]} and {order[1]}", "tier_place": "first" if first else "second"}
    number, numbers = int(grade[1]), sorted(int(name[1]) for name in grades)
    found = {"grade_number": str(number), "grade_far": str(pick(random, [x for x in numbers if x != number]))}
    found |= {"grade_low": str(number - 1)} if number - 1 in numbers else {}
    found |= {"grade_high": str(number + 1)} if number + 1 in numbers else {}
    if numbers[0] == 1 and len(numbers) in RANKS:
        found |= {"grade_rank": RANKS[len(numbers)][number - 1], "grade_count": UNITS[len(numbers)]}
    if scheme == "nottingham":
        points = pick(random, NOTTINGHAM[grade])
        found |= dict(zip(["tubules", "nuclei", "mitotic"], map(str, points), strict=True)) | {"nottingham_sum": str(sum(points))}
    return found


OTHER_TIER = {"High": "low", "Low": "high"}


def plan_slots(random, patient: dict, tumor: dict, slots: dict, early: bool) -> dict:
    plan, procedure = (patient["usual_plan"], None) if early else (patient["plan"], patient["procedure"])
    course = patient["course"] if not early else COURSES[plan["course"]] if plan["course"] else None
    option = "the trial of the university clinic" if random() < 0.5 else "<two|three> months of waiting and a new scan"
    found = {"plan_bare": words_of_plan(plan, course, procedure), "plan_option": option}
    swaps = [drug for drug in plan["drugs"] if drug in SWAPS and SWAPS[drug] not in plan["drugs"] and (drug != "fluorouracil" or "leucovorin" not in plan["drugs"])]
    if swaps:
        new = pick(random, swaps)
        old = SWAPS[new]
        swapped = plan | {"drugs": [old if drug == new else drug for drug in plan["drugs"]]}
        found |= {"plan_swapped": words_of_plan(swapped, course, procedure)["long"], "drug_new": DRUGS[new]["long"][0], "drug_old": DRUGS[old]["long"][0]}
    if course and course["type"] == "external beam" and plan["drugs"]:
        found["plan_less"] = words_of_plan(plan | {"course": None}, None, procedure)["long"]
    return found


def course_slots(random, patient: dict, tumor: dict, slots: dict, early: bool) -> dict:
    gy, fractions = float(slots["gy"]), int(slots["fractions"])
    each = f"{gy / fractions:g}"
    exact = len(each) <= 4 and abs(float(each) * fractions - gy) < 1e-6
    found = {}
    if exact and fractions > 1:
        found |= {"fractions_words": in_words(fractions), "gy_exact": each}
        if fractions >= 10:
            fewer = between(random, 1, 3)
            found |= {"planned": str(fractions + fewer), "stopped": in_words(fewer)}
    if fractions >= 8:
        first = between(random, 3, fractions - 3)
        found |= {"first_part": str(first), "second_part": str(fractions - first)}
    if fractions >= 10 and fractions % 5 == 0:
        found["course_weeks"] = in_words(fractions // 5)
    if 2 <= fractions <= 6:
        found["few_words"] = in_words(fractions)
    return found if fractions > 1 else {"one_fraction": ""}


MAKERS = {"stage": stage_slots, "receptors": receptor_slots, "size": size_slots, "site": site_slots, "side": side_slots, "histology": histology_slots, "grade": grade_slots,
          "plan": plan_slots, "course": course_slots}  # fmt: skip
