"""One synthetic patient: who, the tumor as it was thought to be before treatment and as it turned out, health, treatment and visits.

Distributions are invented and plausible (synthetic_cancers.yaml), dependent where medicine is: grade, stage and receptors follow the histology, nodes
follow the primary tumor, fitness and other illnesses follow age, the plan follows all of them (synthetic_treatment.py).
"""

import datetime
from random import Random

from cancerllm_utils.corpus.synthetic_treatment import DRUGS, answer_of, depart, draw_course, modalities_of, usual_plan
from cancerllm_utils.corpus.synthetic_yaml import CANCERS, HOSPITALS, LANGUAGE, MEDICINE

PATHOLOGY, CLINIC, FOLLOW_UP = "surgical pathology report", "clinic note", "follow-up note"
REFERRAL, RADIOLOGY, OPERATION = "referral letter", "radiology report", "operation note"
BOARD, RADIOTHERAPY, CHEMOTHERAPY = "tumor board note", "radiotherapy summary", "chemotherapy summary"
FIRST_DAY, DAYS = datetime.date(2012, 1, 1), 3600
EARLY_DIFFERS = {"histology": 0.12, "grade": 0.3, "t": 0.35, "n": 0.3, "site": 0.08, "her2": 0.2}  # how often the first impression was another


def draw(random, weights: dict):
    """One key, drawn by its weight."""
    point = random() * sum(weights.values())
    for name, weight in weights.items():
        point -= weight
        if point < 0:
            return name
    return name


def pick(random, options):
    return options[int(random() * len(options))]


def between(random, low: int, high: int) -> int:
    return low + int(random() * (high - low + 1))


def make_patient(rng: Random, patient_id: str) -> dict:
    """One patient: who, where, `truth` and `early` (field -> value as finally known, and before treatment), and everything that notes may tell."""
    random = rng.random
    code = draw(random, {code: cancer["weight"] for code, cancer in CANCERS.items()})
    cancer = CANCERS[code]
    institution = draw(random, {name: hospital["share"] for name, hospital in HOSPITALS.items()})
    organ = draw(random, cancer["organs"])
    histology = draw(random, {name: entry["weight"] for name, entry in cancer["histologies"].items()})
    kind = cancer["histologies"][histology]
    low, high = kind.get("age", cancer["age"])
    patient = {
        "patient_id": patient_id,
        "institution": institution,
        "site": pick(random, HOSPITALS[institution]["sites"]),
        "cancer_type": code,
        "organ": organ,
        "sites": cancer["sites"].get(organ, cancer["sites"]) if "sites" in cancer else {},
        "presentation": pick(random, cancer["presentation"]),
        "sex": draw(random, cancer["sexes"]),
        "age": round(rng.triangular(low, high, low + 0.62 * (high - low))),
        "surgery": FIRST_DAY + datetime.timedelta(int(random() * DAYS)),
        "m": "M1" if random() < cancer["m1"] else "M0",
    }
    draw_health(random, patient, cancer)
    tumor = draw_tumor(rng, patient, cancer, histology)
    early = first_impression(rng, patient, cancer, tumor)
    unoperated = 1 - cancer.get("m1_operated", 0) if patient["m"] == "M1" else cancer["unoperated"] * (1.8 if patient["ecog"] >= 2 else 0.9)
    patient["operated"] = random() >= unoperated
    if not patient["operated"]:
        tumor = early = early | {"receptors": tumor.get("receptors", early.get("receptors"))}
    procedures = cancer["procedures"]
    patient["procedure"] = pick(random, procedures[organ] if isinstance(procedures, dict) else procedures) if patient["operated"] else None
    patient |= {"tumor": tumor, "early_tumor": early}
    draw_treatment(random, patient, tumor)
    patient["truth"] = values_of(patient, tumor, patient["plan"], patient["course"])
    patient["early"] = values_of(patient, early, patient["usual_plan"], None)
    patient["visits"] = draw_visits(random, patient)
    return patient


# ---------------------------------------------------------------- health


def draw_health(random, patient: dict, cancer: dict) -> None:
    """Performance status, kidney function, other illnesses, smoking, and the flags that may change a plan."""
    age, sex = patient["age"], patient["sex"]
    frailty = max(0.0, (age - 50) / 40)
    patient["ecog"] = draw(random, {0: 42 - 25 * frailty, 1: 38, 2: 8 + 14 * frailty, 3: 3 + 9 * frailty})
    low_clearance = random() < 0.1 + 0.16 * frailty
    patient["crcl"] = between(random, 31, 44) if low_clearance else between(random, 62, 118 - max(0, age - 40) // 2)
    weight = between(random, 54, 98) if sex == "M" else between(random, 47, 88)
    # Cockcroft and Gault 1976, solved for creatinine, so that the note's numbers agree with each other
    patient["creatinine"] = max(0.4, (140 - age) * weight / (72 * patient["crcl"]) * (0.85 if sex == "F" else 1.0))
    patient["weight"] = weight
    low_lvef = random() < 0.05 + 0.06 * frailty
    patient["lvef"] = between(random, 34, 46) if low_lvef else between(random, 55, 68)
    patient["smoking"] = draw(
        random, {"never": 1 - cancer.get("smokers", 0.4), "former": cancer.get("smokers", 0.4) * 0.65, "current": cancer.get("smokers", 0.4) * 0.35}
    )
    patient["pack_years"] = between(random, 8, 55)
    illnesses = LANGUAGE["illnesses"]
    patient["illnesses"] = [name for name in illnesses if random() < illnesses[name]["chance"] * (0.3 + 1.4 * frailty)][:3]
    flags = {"poor_performance"} if patient["ecog"] >= 3 else set()
    flags |= ({"low_clearance"} if low_clearance else set()) | ({"low_ejection_fraction"} if low_lvef else set())
    for flag, chance in MEDICINE["flags"].items():
        if random() < chance and (flag != "osteoporosis" or sex == "F"):
            flags.add(flag)
    if age >= 76 and random() < 0.5:
        flags.add("frail")
    if patient["cancer_type"] in ("LGG", "GBM"):
        flags.discard("prior_radiation")
    if "liver_failure" in flags and patient["cancer_type"] != "LIHC":
        flags.discard("liver_failure")
    patient["flags"] = flags


# ---------------------------------------------------------------- tumor


def draw_tumor(rng: Random, patient: dict, cancer: dict, histology: str) -> dict:
    """The tumor as the operation shows it: histology, grade, patterns, t, n, cm, site, side, receptors; only what applies to this cancer."""
    random, kind = rng.random, cancer["histologies"][histology]
    tumor = {"histology": histology}
    if "grade" in cancer:
        tumor["grade"] = draw(random, kind.get("grade", cancer["grade"]["weights"]))
        tumor["patterns"] = pick(random, MEDICINE["gleason_patterns"].get(tumor["grade"], [[0, 0]]))
    t_stage = "any"
    if "T" in cancer:
        t_stage = draw(random, kind.get("T", cancer["T"]))
        # The more advanced the primary tumor, the rarer are free nodes.
        free = cancer["N"]["N0"] * {"T1": 1.6, "T2": 1.0, "T3": 0.7, "T4": 0.5}[t_stage] * kind.get("free", 1)
        tumor |= {"t": t_stage, "n": draw(random, cancer["N"] | {"N0": free})}
    tumor["cm"] = round(rng.triangular(*cancer["size"][t_stage]), 1)
    if patient["sites"]:
        tumor["site"] = pick(random, kind.get("sites") or list(patient["sites"]))
    if "sides" in cancer and tumor.get("site") not in cancer.get("no_side_sites", []):
        tumor["side"] = draw(random, cancer["sides"])
    if "receptors" in cancer:
        tumor["receptors"] = draw_receptors(random, cancer["receptors"], tumor)
    return tumor


def draw_receptors(random, tested: list[str], tumor: dict) -> dict:
    """Results of the receptors that this cancer is tested for; PR follows ER, both are rarer and HER2 commoner in high-grade tumors."""
    histology, high = tumor["histology"], tumor.get("grade") == "G3"
    if histology in ("metaplastic carcinoma", "medullary carcinoma") and "PR" in tested:
        er, her2 = random() < 0.08, {"positive": 5, "negative": 95}
    elif histology in ("invasive lobular carcinoma", "mucinous carcinoma", "tubular carcinoma"):
        er, her2 = random() < 0.95, {"positive": 6, "equivocal": 10, "negative": 84}
    else:
        er, her2 = random() < (0.55 if high else 0.88), {"positive": 30 if high else 14, "equivocal": 12, "negative": 65}
    results = {"ER": "positive" if er else "negative", "PR": "positive" if er and random() < 0.8 else "negative", "HER2": draw(random, her2)}
    return {name: results[name] for name in tested}


def first_impression(rng: Random, patient: dict, cancer: dict, tumor: dict) -> dict:
    """The tumor as biopsy and imaging show it: mostly the same, with another grade, category, size or type where first impressions err."""
    random, early = rng.random, dict(tumor)
    if random() < EARLY_DIFFERS["histology"]:
        fitting = [name for name, kind in cancer["histologies"].items() if tumor.get("site") in kind.get("sites", [tumor.get("site")])]
        early["histology"] = pick(random, fitting)
    if "grade" in tumor:
        allowed = list(cancer["histologies"][early["histology"]].get("grade", cancer["grade"]["weights"]))
        if tumor["grade"] not in allowed or random() < EARLY_DIFFERS["grade"]:
            order = list(cancer["grade"]["weights"])
            near = [grade for grade in allowed if abs(order.index(grade) - order.index(tumor["grade"])) <= 1]
            early["grade"] = pick(random, near or allowed)
            early["patterns"] = pick(random, MEDICINE["gleason_patterns"].get(early["grade"], [[0, 0]]))
    if "t" in tumor:
        stages = list(cancer["T"])
        if random() < EARLY_DIFFERS["t"]:
            at = stages.index(tumor["t"]) + (1 if random() < 0.4 else -1)
            early["t"] = stages[min(max(at, 0), len(stages) - 1)]
        if random() < EARLY_DIFFERS["n"]:  # occult nodes are missed more often than free ones are suspected
            early["n"] = "N0" if tumor["n"] != "N0" else "N1" if random() < 0.4 else "N0"
    low, high = cancer["size"][early.get("t", "any")]
    early["cm"] = round(min(max(tumor["cm"] * rng.uniform(0.75, 1.3), low), high), 1)
    if "site" in tumor and random() < EARLY_DIFFERS["site"]:
        early["site"] = pick(random, cancer["histologies"][early["histology"]].get("sites") or list(patient["sites"]))
        if ("side" in early) != (early["site"] not in cancer.get("no_side_sites", [])):
            early["site"] = tumor["site"]
    if "HER2" in tumor.get("receptors", {}) and random() < EARLY_DIFFERS["her2"]:
        early["receptors"] = tumor["receptors"] | {"HER2": "equivocal"}
    return early


def values_of(patient: dict, tumor: dict, plan: dict, course: dict | None) -> dict:
    """Field -> answer, for the fields that apply."""
    icd10 = CANCERS[patient["cancer_type"]]["icd10"]
    values = {
        "tumor_size": f"{tumor['cm']:.1f} cm",
        "tumor_site": tumor.get("site"),
        "grade": tumor.get("grade"),
        "histology": tumor["histology"],
        "laterality": tumor.get("side"),
        "stage": f"{tumor['t']} {tumor['n']}" if "t" in tumor else None,
        "diagnosis": f"{tumor['histology']} of the {patient['organ']}",
        "icd10": icd10 if isinstance(icd10, str) else icd10.get(patient["tumor"]["site"], icd10[patient["organ"]]),
        "treatment_plan": answer_of(plan),
        "radiotherapy": course["answer"] if course else None,
    }
    if tumor.get("receptors"):
        positive = [name for name, result in tumor["receptors"].items() if result == "positive"]
        values["receptor_type"] = " ".join(positive) or "none"
        values["receptor_status"] = " ".join(f"{name} {result}" for name, result in tumor["receptors"].items())
    return {field: values[field] for field in MEDICINE["fields"] if values.get(field)}


# ---------------------------------------------------------------- treatment and visits


def draw_treatment(random, patient: dict, tumor: dict) -> None:
    """Sets usual_plan, plan, reasons (flags that changed it), course, and why the patient was not operated on."""
    receptors = tumor.get("receptors") or {}
    facts = {
        "t": tumor.get("t"), "n": tumor.get("n"), "m": patient["m"], "grade": tumor.get("grade"), "histology": tumor["histology"], "organ": patient["organ"],
        "site": tumor.get("site"), "sex": patient["sex"], "age": patient["age"], "ecog": patient["ecog"], "year": patient["surgery"].year,
        "operated": patient["operated"], "er": receptors.get("ER"), "her2": receptors.get("HER2"),
        "braf": "mutated" if random() < 0.45 else "wild type", "conserving": patient["procedure"] in ("partial mastectomy", "lumpectomy", "wide local excision"),
    }  # fmt: skip
    if patient["operated"] and patient["cancer_type"] == "BRCA" and "prior_radiation" in patient["flags"] and facts["conserving"]:
        patient["procedure"], facts["conserving"] = "simple mastectomy", False  # no second course of radiotherapy to the breast
    usual = usual_plan(patient["cancer_type"], facts)
    usual["watchful"] = patient["cancer_type"] in ("PRAD", "LGG")
    plan, patient["reasons"] = depart(usual, patient["flags"])
    plan["watchful"] = usual["watchful"] and not patient["reasons"]
    patient |= {"usual_plan": usual, "plan": plan, "course": draw_course(random, plan["course"]) if plan["course"] else None, "facts": facts}
    if not patient["operated"]:
        locally = {"HNSC": "organ_preservation", "PRAD": "preference", "BLCA": "organ_preservation", "LUAD": "lung_function", "LUSC": "lung_function", "PAAD": "unresectable",
                   "LGG": "eloquent", "GBM": "eloquent", "LIHC": "liver_reserve"}.get(patient["cancer_type"], "declines_surgery")  # fmt: skip
        patient["unoperated"] = "metastatic" if patient["m"] == "M1" else pick(random, [locally, locally, "declines_surgery"])


def draw_visits(random, patient: dict) -> list[tuple]:
    """(suffix of the note id, note type, day) in the order of time; day 0 is the operation, or the decision where there is none."""
    operated, modalities = patient["operated"], modalities_of(patient["plan"])
    medicine = [drug for drug in patient["plan"]["drugs"] if DRUGS[drug]["kind"] != "hormone therapy"]
    clinic = between(random, 16, 40)
    plan = [
        (0.78, "REF", REFERRAL, -between(random, 26, 50)),
        (0.72, "RAD", RADIOLOGY, -between(random, 8, 24)),
        (0.75 if operated else 0, "OP", OPERATION, 0),
        (0.96, "PATH", PATHOLOGY, between(random, 2, 7) if operated else -between(random, 52, 60)),
        (0.68, "TB", BOARD, between(random, 8, 15)),
        (0.97, "CLINIC", CLINIC, clinic),
        (0.75 if patient["course"] else 0, "RT", RADIOTHERAPY, clinic + between(random, 55, 90)),
        (0.75 if medicine else 0, "CHEMO", CHEMOTHERAPY, clinic + between(random, 100, 170)),
        (0.85, "FU1", FOLLOW_UP, clinic + between(random, 175, 230)),
        (0.4 if "best supportive care" not in modalities else 0.1, "FU2", FOLLOW_UP, clinic + between(random, 330, 430)),
    ]
    chosen = [(suffix, kind, day) for chance, suffix, kind, day in plan if random() < chance]
    return sorted(chosen, key=lambda visit: visit[2])
