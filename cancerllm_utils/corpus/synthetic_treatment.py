"""The treatment plan of a synthetic patient: the usual plan by the facts of the tumor, then the departures from it for a stated reason.

Rules, drugs, doses and their sources: synthetic_treatments.yaml. Simplified, not a guideline, and not for use with patients.
"""

from cancerllm_utils.corpus.synthetic_yaml import TREATMENT

DRUGS, COURSES = TREATMENT["drugs"], TREATMENT["courses"]
# The order of modalities in the answer.
MODALITIES = ["surgery", "chemoembolization", "radiotherapy", "chemotherapy", "hormone therapy", "targeted therapy", "immunotherapy", "surveillance",
              "best supportive care"]  # fmt: skip
NAMED = {tuple(sorted(drugs)): name for name, drugs in TREATMENT["named_regimens"].items()}


def holds(when: dict, facts: dict) -> bool:
    """Whether every condition of a rule holds; `x_from` and `x_below` compare numbers, a list means one of."""
    for key, wanted in when.items():
        if key.endswith("_from"):
            if facts[key[:-5]] < wanted:
                return False
        elif key.endswith("_below"):
            if facts[key[:-6]] >= wanted:
                return False
        elif (facts[key] not in wanted) if isinstance(wanted, list) else facts[key] != wanted:
            return False
    return True


def first_match(rules: list[dict], facts: dict) -> dict:
    return next((rule for rule in rules if holds(rule["when"], facts)), {})


def usual_plan(cancer_type: str, facts: dict) -> dict:
    """What is given where nothing speaks against it: intent, operated, local, drugs (list), course (name or None), palliative."""
    rule = first_match(TREATMENT["systemic"][cancer_type], facts)
    drugs = list(rule.get("drugs", []))
    if "hormone" in rule and facts["er"] == "positive":
        drugs.append("tamoxifen" if facts["age"] < 52 or facts["sex"] == "M" else "anastrozole")
    course = first_match(TREATMENT["radiotherapy"].get(cancer_type, []), facts).get("course", "none")
    palliative = facts["m"] == "M1" or rule.get("palliative", False)
    return {"drugs": drugs, "course": None if course == "none" else course, "operated": facts["operated"], "local": rule.get("local"), "palliative": palliative}


def depart(plan: dict, flags: set) -> tuple[dict, list[str]]:
    """The plan after every departure that the patient's flags ask for, and the flags that changed it."""
    plan, reasons = plan | {"drugs": list(plan["drugs"])}, []
    for departure in TREATMENT["departures"]:
        if departure["if"] not in flags:
            continue
        before = (list(plan["drugs"]), plan["course"])
        for kind in departure["do"].get("drop_kind", []):
            if kind == "radiotherapy":
                plan["course"] = None
            plan["drugs"] = [drug for drug in plan["drugs"] if DRUGS[drug]["kind"] != kind]
        for drug, instead in departure["do"].get("replace", {}).items():
            drug, _, only_with = drug.partition("+")
            if drug in plan["drugs"] and (not only_with or only_with in before[0]):
                plan["drugs"] = [name for name in plan["drugs"] if name != drug] + [name for name in instead if name not in plan["drugs"]]
        if (plan["drugs"], plan["course"]) != before:
            reasons.append(departure["if"])
    return plan, reasons


def modalities_of(plan: dict) -> list[str]:
    """The modalities of a plan in the order of MODALITIES; what remains when nothing is given is surveillance or best supportive care."""
    found = {DRUGS[drug]["kind"] for drug in plan["drugs"]}
    found |= {"surgery"} if plan["operated"] else set()
    found |= ({"radiotherapy"} if plan["course"] else set()) | ({plan["local"]} if plan["local"] else set())
    if not found:
        found = {"surveillance"} if plan.get("watchful") else {"best supportive care"}
    return [modality for modality in MODALITIES if modality in found]


def answer_of(plan: dict) -> str:
    """The plan as an answer: "<curative or palliative> | <modalities joined by +> | <drugs in alphabetical order joined by +, or none>"."""
    modalities = modalities_of(plan)
    intent = "palliative" if plan["palliative"] or modalities == ["best supportive care"] else "curative"
    return f"{intent} | {' + '.join(modalities)} | {' + '.join(sorted(plan['drugs'])) or 'none'}"


def draw_course(random, name: str) -> dict:
    """One schedule of a course: type, gy (text), fractions, target, answer "<type> | <gy> Gy | <fractions> fractions | <target>" (FIELDS.md II.11)."""
    course = COURSES[name]
    gy, fractions = course["schedules"][int(random() * len(course["schedules"]))]
    return {"type": course["type"], "gy": f"{gy:g}", "fractions": fractions, "target": course["target"],
            "answer": f"{course['type']} | {gy:g} Gy | {fractions} fraction{'s' if fractions > 1 else ''} | {course['target']}"}  # fmt: skip


def particle_of(course: str, facts: dict) -> str:
    """What a course is given with, by the facts of the tumor (`particles` of the YAML, first match wins): photon, proton, electron or brachytherapy."""
    if COURSES[course]["type"] == "brachytherapy":
        return "brachytherapy"
    return next((rule["particle"] for rule in TREATMENT["particles"] if course in rule["course"] and holds(rule["when"], facts)), "photon")


def words_of_plan(plan: dict, course: dict | None, procedure: str | None) -> dict:
    """Spellings of a plan as patterns for the grammar: long and short lists. Every modality and drug stands in each of them."""
    drugs = plan["drugs"]
    medicine = join_drugs(drugs)
    named = NAMED.get(tuple(sorted(drug for drug in drugs if DRUGS[drug]["kind"] == "chemotherapy")))
    rest = [drug for drug in drugs if DRUGS[drug]["kind"] != "chemotherapy"]
    brief = " + ".join([named, *(slot_of(drug) for drug in rest)]) if named else medicine["short"]
    radio = {"external beam": "<external beam radiotherapy|radiotherapy|radiation>", "stereotactic": "<stereotactic body radiotherapy|stereotactic radiotherapy>",
             "brachytherapy": "<vaginal brachytherapy|vault brachytherapy>"}[course["type"]] if course else ""  # fmt: skip
    radio_short = {"external beam": "<RT|EBRT|XRT>", "stereotactic": "SBRT", "brachytherapy": "<VBT|HDR brachytherapy>"}[course["type"]] if course else ""
    together = f"{radio} <with|and|plus> {medicine['long']}" if radio and drugs else radio or medicine["long"]
    together_short = f"{radio_short} + {brief}" if radio and drugs else radio_short or brief
    modalities, aim = modalities_of(plan), "palliative" if plan["palliative"] else "adjuvant"
    if modalities == ["best supportive care"]:
        return {"long": ["best supportive care", "supportive care only, no cancer-directed treatment"], "short": ["BSC", "BSC only"]}
    if modalities == ["surveillance"]:
        return {"long": ["active surveillance", "active surveillance with repeat biopsy"], "short": ["AS", "active surveillance"]}
    if "chemoembolization" in modalities:
        return {
            "long": ["palliative chemoembolization", "transarterial chemoembolization with palliative intent"],
            "short": ["TACE (palliative)", "palliative TACE"],
        }
    if plan["operated"]:
        operation = "<{procedure}|surgery|resection>" if procedure else "<surgery|resection>"
        if not together:
            after = "palliative " if plan["palliative"] else ""
            return {
                "long": [
                    f"{after}{operation} <alone|only>, no further treatment<| at present>",
                    f"{after}{operation} without adjuvant treatment, then surveillance",
                ],
                "short": [f"{after}{operation} alone, f/u", f"{after}{operation} only, no adj tx"],
            }
        return {
            "long": [f"{operation} followed by {aim} {together}", f"{operation}, then {aim} {together}", f"{aim} {together} after {operation}"],
            "short": [f"{operation} + {aim[:3]}. {together_short}", f"{operation}, {aim} {together_short}", f"s/p {operation}; {aim} {together_short}"],
        }
    aim = "palliative" if plan["palliative"] else "<definitive|radical>"
    return {
        "long": [f"{aim} {together}<|, no operation>", f"{aim} {together} without surgery"],
        "short": [f"{aim} {together_short}", f"{aim} {together_short}, no surgery"],
    }


def slot_of(drug: str) -> str:
    return "{" + drug + "}"


def join_drugs(drugs: list[str]) -> dict:
    """Drug names as slots of the grammar, spelled out in a sentence or joined by signs."""
    slots = [slot_of(drug) for drug in drugs]
    long = slots[0] if len(slots) == 1 else ", ".join(slots[:-1]) + " and " + slots[-1] if slots else ""
    return {"long": long, "short": "<" + " + ".join(slots) + "|" + "/".join(slots) + ">" if slots else ""}
