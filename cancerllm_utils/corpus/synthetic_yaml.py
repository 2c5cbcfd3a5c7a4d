"""The facts and the language of the synthetic cohort, read once from the YAML files beside the modules. Read only."""

from pathlib import Path

import yaml


def yaml_of(name: str) -> dict:
    """One of the YAML files of the cohort: cancers, treatments, language, notes, hospitals."""
    return yaml.load(Path(__file__).with_name(f"synthetic_{name}.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)


MEDICINE, TREATMENT, LANGUAGE, NOTES, HOSPITALS = (yaml_of(name) for name in ("cancers", "treatments", "language", "notes", "hospitals"))
CANCERS, SPELLINGS = MEDICINE["cancers"], LANGUAGE["spellings"]
# three numbers in a list are a range (lowest, highest, decimals), of which every mention draws its own number
LANGUAGE["words"] = {
    name: tuple(entry) if isinstance(entry, list) and isinstance(entry[0], int | float) else entry for name, entry in LANGUAGE["words"].items()
}
# cancer -> "T2 N1" -> stage group
STAGE_GROUPS = {cancer: {pair: group for group, pairs in groups.items() for pair in pairs} for cancer, groups in MEDICINE["stage_groups"].items()}
