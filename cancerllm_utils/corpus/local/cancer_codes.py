"""What an institution writes for a cancer (a TCGA code, ICD-10, ICD-O-3, SNOMED CT, a name) as the project's code; the lists are in cancer_codes.yaml."""

import re
from functools import lru_cache
from pathlib import Path

import yaml

CODES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
BY_ICD10 = {category: code for code, categories in CODES["icd10"].items() for category in categories}
BY_NAME = {name: code for code, names in CODES["names"].items() for name in names}
OWN = set(CODES["icd10"]) | set(CODES["names"]) | set(CODES["other_codes"])
ICD10 = re.compile(r"(?:ICD-?10\S*[: |]\s*)?([CD]\d\d)\.?(\d)?[\dA-Z]{0,3}(?![\w.])")
MORPHOLOGY = re.compile(r"(\d{4})/[36]\s*-\s*")


@lru_cache(maxsize=65_536)
def cancer_of(value: str) -> tuple[str, bool]:
    """(project code or "" where it is not known, whether the value leaves the histology open so that the commonest code was taken)."""
    value = value.strip()
    if value.upper() in OWN:
        return value.upper(), False
    if value in CODES["snomed"]:
        return CODES["snomed"][value], value in CODES["snomed_undecided"]
    morphology = MORPHOLOGY.match(value)
    code = ICD10.match(value[morphology.end() :].upper() if morphology else value.upper())
    if code:
        category = code.group(1)
        if morphology and morphology.group(1) in CODES["morphology"].get(category, {}):
            return CODES["morphology"][category][morphology.group(1)], False
        found = BY_ICD10.get(category + (code.group(2) or "")) or BY_ICD10.get(category, "")
        return found, bool(found) and category in CODES["undecided"] and not morphology
    words = [word for word in re.findall(r"[\w&'-]+", value.lower()) if word not in CODES["names_without"]]
    name = " ".join(words)
    return BY_NAME.get(name, ""), name in CODES["names_undecided"]
