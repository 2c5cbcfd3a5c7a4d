"""What a public text says about its cancer, in the project's answers: TCGA code of a cancer name, and silver labels of the clinic letters.

Silver, not gold: the letters' structured output was written by a language model, and its recall is incomplete. The patterns (public.yaml) are
not those of the label rules, so that the two can be compared.
"""

import re
from functools import cache
from pathlib import Path

import yaml

from cancerllm_utils.corpus import drugs
from cancerllm_utils.corpus.labels import FIELD_VALUES, fields_for
from cancerllm_utils.corpus.tcga import settings as registry_settings


@cache
def settings() -> dict:
    """public.yaml."""
    return yaml.safe_load(Path(__file__).with_name("public.yaml").read_text(encoding="utf-8"))


def cancer_type(name: str) -> str:
    """TCGA code of a cancer's name (or "site | histology"); empty where it names none, or one that several studies share."""
    name = name.lower()
    for entry in settings()["cancer_types"]:
        excluded = entry.get("unless", "(?!)"), "(?!)" if entry.get("rare") else settings()["unless_any"]  # (?!) never fits
        if re.search(entry["says"], name) and not any(re.search(pattern, name) for pattern in excluded):
            return entry["code"]
    return ""


def first_drugs(timeline: list[dict], text: str) -> str:
    """Drugs of the first start of systemic treatment that names any, "cisplatin + gemcitabine", where the letter's text names each of them; else empty.

    timeline: the `cancer_timeline` of the letter's output, {type, value} in order of time. Names are read by drugs.find_in.
    """
    starts = [drugs.plan_set(drugs.find_in(item["value"])) for item in timeline if item["type"] == settings()["systemic_type"]]
    chosen = next((found for found in starts if found), [])
    return " + ".join(chosen) if set(chosen) <= set(drugs.find_in(text)) else ""


def letter_labels(cancer: str, primary: dict, updates: list[dict]) -> dict[str, str]:
    """Silver labels of one letter: field -> value.

    Args: cancer, TCGA code or ""; primary, the `primary_cancer` of the letter's output with text values (empty where it says nothing) and
    cancer_timeline, a list of {type, value}; updates, its `status_updates`, likewise.
    Fields: pT, pN, stage_ajcc, stage_figo, laterality, gleason, grade_*, er, pr, her2, histology, diagnosis (values as in labels.yaml and
    registry.yaml), tumor_site and treatment_plan (the letter's own words), radiotherapy_regimen ("60 Gy in 30 fractions").
    """
    said = {name: value.lower() for name, value in primary.items() if isinstance(value, str)}
    found: dict[str, set[str]] = {}
    for rule in settings()["silver"]:
        if cancer and cancer in rule.get("cancers", [cancer]):
            values = {as_answer(rule, match) for match in re.finditer(rule["match"], said[rule["from"]])}
            found.setdefault(rule["field"], set()).update({rule["both"]} if len(values) > 1 and "both" in rule else values)
    found["gleason"] = {str(int(one) + int(two)) for one, two in re.findall(settings()["gleason"], said["histopathology_status"])}
    found |= receptors(said["biomarker_status"])
    found["histology"] = {histology(said["histopathology_status"], cancer)} - {""}
    organ = registry_settings()["organ_by_cancer"].get(cancer)
    found["diagnosis"] = {f"{value} of the {organ}" for value in found["histology"] if organ}
    recorded = set(fields_for(cancer)) | {rule["field"] for rule in settings()["silver"] if "cancers" in rule}
    labels = {field: values.pop() for field, values in found.items() if len(values) == 1 and cancer and field in recorded}
    labels |= {"tumor_site": primary["site"]} if primary["site"] else {}
    plan = [item["value"] for item in updates if item["type"] == settings()["plan_type"] and item["value"]]
    labels |= {"treatment_plan": "; ".join(plan)} if plan else {}
    given = " ; ".join(item["value"] for item in primary["cancer_timeline"] if item["type"] == settings()["radiotherapy_type"]).lower()
    doses = re.findall(settings()["radiotherapy"], given)
    regimens = {f"{dose} Gy in 1 fraction" if n in ("1", "single") else f"{dose} Gy in {n} fractions" for dose, n in doses}
    return labels | ({"radiotherapy_regimen": regimens.pop()} if len(regimens) == 1 else {})


def as_answer(rule: dict, match: re.Match) -> str:
    said = next(group for group in match.groups() if group)
    return rule["values"][said] if "values" in rule else rule["value"].format(said)


def receptors(said: str) -> dict[str, set[str]]:
    """Values of er, pr and her2 in a list such as "er/pr positive, her2 2+ (fish negative)"; empty sets where it is silent.

    A list that tells the two breasts apart says nothing.
    """
    names = settings()["receptor_names"]
    found = {name: set() for name in names}
    if re.search(r"\b(?:right|left):", said):
        return found
    for triple in re.findall(settings()["triple"], said):
        found = {name: values | {triple.capitalize()} for name, values in found.items()}
    one = "|".join(names.values())
    # the names joined by slashes, then all up to a comma or the next name
    for group, value in re.findall(rf"\b((?:{one})(?:/(?:{one}))*)\b([^,;]*?)(?=[,;/ ]+(?:{one})\b|[,;]|$)", said):
        for name, pattern in names.items():
            if re.search(rf"\b(?:{pattern})\b", group):
                answers = [answer for wanted, answer in settings()["receptor_values"][name] if re.search(wanted, value)]
                found[name].update(answers[:1])
    return found


def histology(said: str, cancer: str) -> str:
    """Histology group whose name the statement is, without grade and the like; empty for mixed, rare and vague ones."""
    head = re.split(r",|;|\(| with | in ", said)[0]
    name = " ".join(re.sub(settings()["histology_without"], " ", head).split())
    name = settings()["histology_also"].get(name, name)
    return name if name in FIELD_VALUES["histology"] and cancer not in settings()["histology_not_plain"].get(name, []) else ""
