"""What condition and person records say of a patient: one cancer, an age, a row of the patients frame. Used by OMOP and FHIR."""

import pandas as pd

OLDEST = 90  # ages above 89 are written as 90


def note_cancer(seen: dict, person: str, code: str, day: str, undecided: bool) -> None:
    """Count one record of a cancer in `seen`, {person: {code: [times, first date, undecided]}}."""
    entry = seen.setdefault(person, {}).setdefault(code, [0, day, undecided])
    entry[0], entry[1], entry[2] = entry[0] + 1, min(entry[1], day), entry[2] and undecided


def choose_cancers(seen: dict, remarks: list) -> tuple[dict[str, str], dict[str, str]]:
    """({person: code}, {person: date of its first record}): the code recorded most often, of equals the earliest; both kinds of doubt are counted."""
    cancers = {person: min(codes, key=lambda code: (-codes[code][0], codes[code][1], code)) for person, codes in seen.items()}
    firsts = {person: seen[person][code][1] for person, code in cancers.items() if seen[person][code][1] < "9999"}
    several = sum(len(codes) > 1 for codes in seen.values())
    undecided = sum(seen[person][code][2] for person, code in cancers.items())
    if several:
        remarks.append(f"{several:,} patients have codes of more than one cancer: the one recorded most often is taken")
    if undecided:
        remarks.append(f"{undecided:,} patients have a code that leaves the histology open (lung, kidney, brain, uterus): the commonest TCGA type is taken")
    return cancers, firsts


def people_frame(rows: list[tuple]) -> pd.DataFrame:
    """The patients frame of `local.read`."""
    frame = pd.DataFrame(rows, columns=["patient_id", "cancer_type", "age", "gender"])
    return frame.astype({"patient_id": str, "cancer_type": str, "age": "Int64", "gender": str})


def age_at(born: str, day: str) -> int | None:
    """Whole years between two ISO dates, above 89 as 90; None where one is missing or the age is none."""
    if not born or not day:
        return None
    years = int(day[:4]) - int(born[:4]) - (day[5:] < born[5:])
    return min(years, OLDEST) if 0 <= years <= 125 else None
