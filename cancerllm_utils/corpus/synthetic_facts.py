"""What a synthetic note may say: every slot of the grammar for one patient, and the bits of the slots that this patient has."""

from random import Random

from cancerllm_utils.corpus.synthetic_grammar import BITS
from cancerllm_utils.corpus.synthetic_patient import between, pick
from cancerllm_utils.corpus.synthetic_treatment import COURSES, DRUGS, slot_of, words_of_plan
from cancerllm_utils.corpus.synthetic_yaml import CANCERS, LANGUAGE, MEDICINE, SPELLINGS, STAGE_GROUPS

GRADE_WORDS, SIDES = MEDICINE["grade_words"], MEDICINE["sides"]


def patient_slots(rng: Random, patient: dict) -> dict:
    """The slots that are the same in every note of a patient; numbers that may differ from note to note are (lowest, highest, decimals)."""
    random, cancer, sex = rng.random, CANCERS[patient["cancer_type"]], patient["sex"]
    marker_name, low, high, unit = cancer["marker"]
    year = patient["surgery"].year
    ecog = patient["ecog"]
    slots = {
        **LANGUAGE["words"],
        **DRUGS,
        "organ": patient["organ"],
        "organ_adj": LANGUAGE["organ_tumor"].get(patient["organ"], patient["organ"]),
        "presentation": patient["presentation"],
        "imaging": cancer["imaging"],
        "scan": [name for name in cancer["imaging"] if not name.endswith("scopy") or name == "MR spectroscopy"],
        "biopsy": cancer["biopsy"],
        "denies": cancer["denies"],
        "tumor_note": cancer["notes"],
        "marker_name": marker_name,
        "marker_value": (low, high, 0 if high > 100 else 1),
        "marker_unit": unit,
        "age": str(patient["age"]),
        "sex": ["woman", "female"] if sex == "F" else ["man", "male"],
        "he": "she" if sex == "F" else "he",
        "his": "her" if sex == "F" else "his",
        "mr": "Mrs" if sex == "F" else "Mr",
        "ecog": str(ecog),
        "ecog_words": LANGUAGE["performance"][ecog],
        "doing": LANGUAGE["doing"][min(ecog, 3)],
        "crcl": str(patient["crcl"]),
        "crcl_fine": str(patient["crcl"]),
        "lvef_fine": str(patient["lvef"]),
        "creat": f"{patient['creatinine']:.2f}",
        "lvef": str(patient["lvef"]),
        "weight": str(patient["weight"]),
        "pack_years": str(patient["pack_years"]),
        "smoking": LANGUAGE["smoking"][patient["smoking"]],
        "illness": patient["illnesses"] or ["no chronic illness"],
        "illnesses": " and ".join(patient["illnesses"]) or "none of note",
        "drug": [LANGUAGE["illnesses"][name]["drug"] for name in patient["illnesses"]] or ["vitamin D"],
        "other_histology": [name for name in LANGUAGE["other_histology"] if name.split()[0] not in patient["truth"]["histology"]],
        "long_ago": str(year - between(random, 16, 30)),
        "m": patient["m"],
        "braf": "detected" if patient["facts"]["braf"] == "mutated" else "not detected",
    } | past_of(random, patient)
    with_contrast = [name for name in cancer["imaging"] if name.endswith(("CT", "MRI"))]
    slots |= {"contrast_scan": with_contrast} if with_contrast else {}
    if patient["operated"]:
        slots |= {"procedure": patient["procedure"], "exam": cancer["exam"]}
    else:
        slots |= {"untreated": cancer["untreated"]}
    if patient["course"]:
        course = patient["course"]
        slots |= {
            "gy": course["gy"],
            "fractions": str(course["fractions"]),
            "target": course["target"],
            "course_type": LANGUAGE["course_types"][course["type"]],
        }
        slots |= {"gy_each": f"{float(course['gy']) / course['fractions']:.2f}".rstrip("0").rstrip("."), "cgy": f"{float(course['gy']) * 100:.0f}",
                  "machine": LANGUAGE["machines"][course.get("machine", course["type"])]}  # fmt: skip
        others = [pair for pair in COURSES[patient["plan"]["course"]]["schedules"] if f"{pair[0]:g}" != course["gy"]]
        if others:
            gy, fractions = pick(random, others)
            slots |= {"other_gy": f"{gy:g}", "other_fx": str(fractions)}
    medicine = [drug for drug in patient["plan"]["drugs"] if DRUGS[drug]["kind"] != "hormone therapy"]
    if medicine:
        doses = []
        for drug in medicine:
            amount, unit = pick(random, DRUGS[drug]["dose"]), DRUGS[drug]["published"][2]
            doses.append(slot_of(drug) + " " + (f"AUC {amount}" if unit == "AUC" else f"{amount} {unit}"))
        slots |= {"drugs": " and ".join(slot_of(drug) for drug in medicine), "doses": ", ".join(doses), "cycles": pick(random, ["3", "4", "4", "6", "6"])}
    return slots


def past_of(random, patient: dict) -> dict:
    """Slots of the history: relatives, earlier operations and lesions, the same in every note, so that notes do not contradict each other by chance."""
    year, sex = patient["surgery"].year, patient["sex"]
    organ_word = patient["organ"].split()[-1]
    relative = pick(random, list(LANGUAGE["relatives"]))
    impossible = {name for name, sex in LANGUAGE["cancers_of_one_sex"].items() if sex != LANGUAGE["relatives"][relative]}
    earlier = [name for name in LANGUAGE["earlier_cancer"][sex] if organ_word not in name]
    past = {
        "relative": relative,
        "relative_cancer": pick(random, [name for name in LANGUAGE["other_cancer"] if organ_word not in name and name not in impossible]),
        **{name: pick(random, words) for name, words in LANGUAGE["findings"].items()},
        "relative_age": str(between(random, 38, 84)),
        "relative_size": f"{1 + 5 * random():.0f} cm",
        "joint": pick(random, LANGUAGE["joints"]),
        "joint_side": pick(random, ["left", "right"]),
        "skin_place": pick(random, LANGUAGE["skin_places"]),
        "benign": pick(random, LANGUAGE["benign"]),
        "benign_side": pick(random, ["left", "right"]),
        "benign_size": f"{0.6 + 4 * random():.1f} cm",
        "earlier_cancer": pick(random, earlier),
        "earlier_side": pick(random, ["left", "right"]),
        "earlier_size": f"{0.8 + 4 * random():.1f} cm",
        "relative_tn": pick(random, ["pT2 pN1", "pT1 pN0", "T3 N1", "stage T2N0", "pT3 N2"]),
        "earlier_tn": pick(random, ["pT1 pN0", "T2 N0", "pT1bN0", "T2N1"]),
        "year": str(year - between(random, 3, 9)),
        "year_2": str(year - between(random, 2, 14)),
    }
    family = random() < 0.55
    flags = {
        "if_family": family,
        "if_no_family": not family,
        "if_skin": random() < 0.25,
        "if_benign": random() < 0.3,
        "if_polyp": random() < 0.25,
        "if_second": random() < 0.16,
    }
    patient["past_flags"] = flags
    return past


def tumor_slots(rng: Random, patient: dict, tumor: dict, early: bool) -> dict:
    """The slots of one view of the tumor, with decoys that differ from it: of other patients, other organs, and (in late notes) of the first impression."""
    random, cancer = rng.random, CANCERS[patient["cancer_type"]]
    histology, cm = cancer["histologies"][tumor["histology"]], tumor["cm"]
    clinical = early or not patient["operated"]
    other_cm = next(x for x in (round(0.5 + random() * 6, 1) for _ in range(99)) if x not in (cm, patient["tumor"]["cm"]))
    slots = {
        "histology": histology,
        "findings": histology["findings"],
        "size": SPELLINGS["size_clinical" if clinical else "size"],
        "cm": f"{cm:.1f}",
        "mm": f"{cm * 10:.0f}",
        "b": f"{cm * (0.6 + 0.3 * random()):.1f}",
        "c": f"{cm * (0.35 + 0.25 * random()):.1f}",
        "small": [f"{x} cm" for x in (0.2, 0.3, 0.4, 0.6, 0.7, 0.9, 1.1) if x != cm],
        "node_cm": f"{pick(random, [x for x in (0.8, 0.9, 1.1, 1.2, 1.4, 1.6) if x != cm])} cm",
        "deposit": [f"{x} mm" for x in (3, 4, 6, 7) if x != round(cm * 10)],
        "other_size": [f"{other_cm:.1f} cm", f"{other_cm * 10:.0f} mm"],
        "specimen_size": " x ".join(f"{cm + 1.2 + 7 * random():.1f}" for _ in "123") + " cm",
        "plan": plan_words(patient, early),
    }
    if "grade" in tumor:
        scheme, grades = cancer["grade"]["scheme"], cancer["grade"]["weights"]
        other = pick(random, [grade for grade in grades if grade != tumor["grade"]])
        slots["grade"] = grade_words(scheme, tumor["grade"], tumor["patterns"])
        slots["other_grade"] = grade_words(scheme, other, MEDICINE["gleason_patterns"].get(other, [[0, 0]])[0])
    other_pair = pick(random, [pair for pair in ("T1 N0", "T2 N0", "T3 N0", "T2 N1", "T4 N1") if pair.split() != [tumor.get("t"), tumor.get("n")]])
    if not early and patient["operated"]:  # the marker falls when the tumor is out
        name, low, high, _ = cancer["marker"]
        slots["marker_value"] = (0.02, 0.4, 2) if name == "PSA" else (low, low + 0.15 * (high - low), 0 if high > 100 else 1)
    slots["other_stage"] = stage_words("other_stage", other_pair.split())
    if "t" in tumor:
        subs = [spell_category(random, cancer, "sub_t", tumor["t"]), spell_category(random, cancer, "sub_n", tumor["n"])]
        slots |= {"stage": SPELLINGS["clinical_stage" if clinical else "stage"], "t": subs[0], "n": subs[1]}
        group = STAGE_GROUPS.get(patient["cancer_type"], {}).get(f"{tumor['t']} {tumor['n']}") if patient["cancer_type"] != "STAD" or not clinical else None
        if patient["m"] == "M1" or group:
            slots["stage_group"] = "IV" if patient["m"] == "M1" else group
        slots["m_words"] = LANGUAGE["metastasis" if patient["m"] == "M1" else "no_metastasis"]
        slots["nodes_imaged"] = LANGUAGE["nodes_imaged"][tumor["n"] != "N0"]
        if not clinical:
            low, high = cancer.get("nodes_positive", {"N1": [1, 3], "N2": [4, 9], "N3": [10, 18]}).get(tumor["n"], [0, 0])
            positive = between(random, low, high)
            examined = positive + between(random, *cancer["nodes"])
            slots |= {"nodes_examined": str(examined), "nodes_found": str(examined)}
            slots |= {"nodes_positive": str(positive)} if positive else {}
            if "invasion" in cancer:
                slots["invasion"] = cancer["invasion"][tumor["t"]]
    else:
        slots |= {"m_words": LANGUAGE["no_metastasis"], "nodes_imaged": LANGUAGE["nodes_imaged"][0]}
    if "site" in tumor:
        slots["site"] = patient["sites"][tumor["site"]]
        others = [site for site in patient["sites"] if site not in (tumor["site"], patient["tumor"]["site"])]
        if others:
            slots["other_site"] = patient["sites"][pick(random, others)]
    side = tumor.get("side")
    slots["other_side"] = SIDES[{"Right": "Left", "Left": "Right"}.get(side) or pick(random, ["Left", "Right"])]
    slots["any_side"] = SIDES[pick(random, ["Left", "Right"])]
    if side:
        slots["side"] = SIDES[side]
        if "side_site" in cancer:
            slots["side_site"] = cancer["side_site"][tumor["site"]][side]
    if tumor.get("receptors"):
        slots["receptors"] = receptor_words(random, tumor["receptors"])
        turned = {name: "negative" if result == "positive" else "positive" for name, result in tumor["receptors"].items()}
        if "PR" in turned and turned["ER"] == "negative":
            turned["PR"] = "negative"
        slots["other_receptors"] = receptor_words(random, turned)
    return slots


def plan_words(patient: dict, early: bool) -> dict:
    """The plan as the note knows it: before treatment the usual one, without the name of the operation."""
    if not early:
        return words_of_plan(patient["plan"], patient["course"], patient["procedure"])
    name = patient["usual_plan"]["course"]
    return words_of_plan(patient["usual_plan"], COURSES[name] if name else None, None)


def first_impressions(random, patient: dict) -> dict:
    """Slots of what was thought before the operation, where it differs from what this late note states."""
    early, tumor, cancer = patient["early_tumor"], patient["tumor"], CANCERS[patient["cancer_type"]]
    if not patient["operated"]:
        return {"other_plan": plan_words(patient, True)} if patient["reasons"] else {}
    found = {"other_plan": plan_words(patient, True)} if patient["reasons"] else {}
    found |= {"early_size": [f"{early['cm']:.1f} cm", f"{early['cm'] * 10:.0f} mm"]} if early["cm"] != tumor["cm"] else {}
    if early.get("grade") != tumor.get("grade"):
        found["early_grade"] = grade_words(cancer["grade"]["scheme"], early["grade"], early["patterns"])
    if "t" in tumor and (early["t"], early["n"]) != (tumor["t"], tumor["n"]):
        found["early_stage"] = stage_words("early_stage", [early["t"], early["n"]])
    if early["histology"] != tumor["histology"]:
        found["early_histology"] = cancer["histologies"][early["histology"]]
    if early.get("receptors") != tumor.get("receptors"):
        found["early_receptors"] = receptor_words(random, early["receptors"])
    return found


def bits_of(patient: dict, slots: dict, early: bool) -> int:
    """The bits of the optional slots and flags that hold for this note."""
    bits = sum(bit for name, bit in BITS.items() if name in slots)
    flags = {
        "if_operated": patient["operated"],
        "if_unoperated": not patient["operated"],
        "if_curative": not patient["truth"]["treatment_plan"].startswith("palliative"),
        "if_palliative": patient["truth"]["treatment_plan"].startswith("palliative"),
        "if_paired_organ": patient["organ"] in ("breast", "lung", "kidney") and "side" in slots,
        "if_paired": patient["tumor"].get("side") in ("Right", "Left"),
        "if_nodes_free": "nodes_examined" in slots and "nodes_positive" not in slots,
        "if_smoker": patient["smoking"] != "never",
        "if_never_smoked": patient["smoking"] == "never",
        "if_nodes": "nodes_positive" in slots,
        "if_early": early,
        "if_final": not early,
    }
    for name, true in (flags | patient["past_flags"]).items():
        slots[name] = ""
        if true:
            bits |= BITS[name]
        else:
            bits &= ~BITS[name]
    return bits


# ---------------------------------------------------------------- spellings


def spell_category(random, cancer: dict, subs: str, category: str) -> list[str]:
    """A T or N category as a note may write it: bare, and with a sub-letter where the cancer has one."""
    letters = cancer.get(subs, {}).get(category, [])
    return [category, category + pick(random, letters)] if letters else [category]


def grade_words(scheme: str, grade: str, patterns: list[int]) -> dict:
    """Spellings of a grade; Gleason with its two patterns."""
    words = GRADE_WORDS[scheme][grade]
    if scheme != "gleason":
        return words
    p, s = str(patterns[0]), str(patterns[1])
    fill = {"{p}": p, "{s}": s, "{sum}": str(sum(patterns))}
    return {kind: [replace_all(text, fill) for text in words[kind]] for kind in words}


def stage_words(spelling: str, pair: list[str]) -> dict:
    """Spellings of a T and N pair that is not the one of the note."""
    return {kind: [replace_all(text, {"{t}": pair[0], "{n}": pair[1]}) for text in texts] for kind, texts in SPELLINGS[spelling].items()}


def replace_all(text: str, values: dict) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def receptor_words(random, results: dict) -> dict:
    """Spellings of the results, with short-cuts where ER and PR agree or all are negative."""
    lexicon, sign = MEDICINE["receptors"], {"positive": "+", "negative": "-", None: ""}
    if len(results) == 3:
        kinds = ["usual"] + ["together"] * (results["ER"] == results["PR"]) + ["triple"] * (set(results.values()) == {"negative"})
    else:
        kinds = ["HER2 alone" if "HER2" in results else "hormone alone"]
    er, pr, her2 = (results.get(name) for name in ("ER", "PR", "HER2"))

    def spell(pattern):
        words = {"{er}": er and pick(random, lexicon["estrogen"][er]), "{pr}": pr and pick(random, lexicon["progesterone"][pr]),
                 "{her2}": her2 and pick(random, lexicon["her2"][her2]), "{er_sign}": sign.get(er), "{pr_sign}": sign.get(pr)}  # fmt: skip
        return replace_all(pattern, {name: word for name, word in words.items() if word})

    return {size: [spell(pattern) for kind in kinds for pattern in lexicon[kind][size]] for size in ("long", "short")}
