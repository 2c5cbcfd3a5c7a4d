"""The writer of the synthetic notes: nine kinds of note, composed sentence by sentence from synthetic_notes.yaml and synthetic_language.yaml.

Chosen independently of each other: which facts a note states, which sentence states each one, the words of that sentence, the spelling of the value, the
order, the look-alikes, and what stands in place of a fact that is not stated. Headings, layout, dates and love of abbreviations are fixed per hospital.
What these functions write is frozen by synthetic.GENERATOR_VERSION.
"""

import datetime
import functools
from random import Random

from cancerllm_utils.corpus.synthetic_facts import bits_of, first_impressions, tumor_slots
from cancerllm_utils.corpus.synthetic_grammar import BITS, GOLD, GOLD_BITS, KEEP, KEPT, add_noise, expand, finish, parse, strip_marks, tidy
from cancerllm_utils.corpus.synthetic_hard import hard_statements
from cancerllm_utils.corpus.synthetic_patient import CLINIC, PATHOLOGY, RADIOLOGY, between, pick
from cancerllm_utils.corpus.synthetic_yaml import LANGUAGE, NOTES

FINDINGS_SHARE = 0.25  # of the clinic notes describe the histology without naming it
REPEAT_SHARE = 0.25  # chance that a fact which stands in the note already is stated once more
WAS_UNSAID_SHARE = 0.14  # chance of the same words beside a fact that it does state
UNSAID_SHARE = 0.6  # chance that a note names the field of a fact that it does not state
SHORTER = {CLINIC: 0.15, PATHOLOGY: 0.0}  # clinicians abbreviate more than pathologists; 0.1 elsewhere
SIDE_SITE, BOTH = BITS["side_site"], BITS["side"] | BITS["site"]
SIX = LANGUAGE["headings"]["six"]


# ---------------------------------------------------------------- the grammar of each kind, prepared once


def with_bits(patterns: list[str]) -> list[tuple]:
    """(pattern, bits of its gold and optional slots) of each pattern."""
    return [(pattern, parse(pattern)[1]) for pattern in patterns]


@functools.cache
def grammar_of(kind: str) -> dict:
    """The sections of a kind of note with the bits of every pattern, its fact sentences by slot, and its look-alikes by section."""
    note = NOTES[kind]
    sections, facts = {}, {name: [] for name in GOLD}
    for name, section in note["sections"].items():
        sections[name] = {
            "titles": section.get("titles"),
            "always": [with_bits(group) for group in section.get("always", [])],
            "filler": with_bits(section.get("filler", [])),
            "take": section.get("take", [0, 0]),
            "summary": with_bits(section.get("summary", [])),
            "bare": with_bits(section.get("bare", [])),
            "with_stage": [with_bits(group) for group in section.get("with_stage", [])],
        }
        for pattern, bits in with_bits(section.get("facts", [])):
            for slot in GOLD:
                if bits & BITS[slot]:
                    facts[slot].append((name, pattern, bits))
    looks = []
    for entry in LANGUAGE["distractors"]:
        if entry["kind"] in note["distract"]:
            about = sum(BITS[slot] for slot in entry["about"])
            looks += [(note["distract"][entry["kind"]], entry["text"], parse(entry["text"])[1], about, entry["kind"])] * (3 if entry["kind"] == "first" else 1)
    return {"sections": sections, "facts": facts, "looks": looks}


PHRASES = {slot: with_bits(patterns) for slot, patterns in LANGUAGE["phrases"].items()}
UNSAID = {slot: {group: with_bits(patterns) for group, patterns in groups.items()} for slot, groups in LANGUAGE["unsaid"].items()}
WAS_UNSAID = {slot: with_bits(patterns) for slot, patterns in LANGUAGE["was_unsaid"].items()}
SYNOPTIC_FILLER = with_bits(LANGUAGE["synoptic_filler"])


@functools.cache
def house_style(institution: str) -> dict:
    """How one hospital writes, whatever the seed of the cohort. Read only."""
    rng = Random(f"house|{institution}")
    run_on = rng.random() < 0.2  # line breaks lost, as after text recognition
    return {
        "short": rng.uniform(0.1, 0.7),
        "heading": rng.randrange(4),
        "capitals": rng.random() < 0.4,
        "heading_end": rng.choice([": ", " - "] if run_on else [": ", ":\n", " - ", "\n"]),
        "format": rng.choice(["prose", "synoptic", "mixed"]),
        "order": rng.randrange(3),
        "diagnosis_upper": rng.random() < 0.35,
        "bullets": not run_on and rng.random() < 0.35,
        "between": " " if run_on else rng.choice(["\n", "\n\n"]),
        "british": rng.random() < 0.25,
        "width": rng.choice([None, None, 66, 80]),
        "number": rng.choice(["{}) ", "{}. ", "({}) "]),
        "item": rng.choice(["{}) ", "- ", "* ", "{}. "]),
        "date": rng.choice(["%d %b %Y", "%m/%d/%Y", "%d.%m.%Y", "%B %d, %Y", "%Y-%m-%d", "%b %Y"]),
        "first_line": rng.choice(["", "", "title", "title and date", "date"]),
        "facts_as": rng.choice(["summary", "sentences", "either"]),
    }


BRITISH = {
    "tumor": "tumour",
    "leukemia": "leukaemia",
    "hemoglobin": "haemoglobin",
    "edema": "oedema",
    "ischemic": "ischaemic",
    "anesthe": "anaesthe",
    "hemostasis": "haemostasis",
}


def view_of(rng: Random, patient: dict, base: dict, early: bool) -> tuple[dict, int]:
    """Slots and bits of one view of a patient, the same for all notes that speak from before treatment, or from after it."""
    tumor = patient["early_tumor" if early else "tumor"]
    slots = base | tumor_slots(rng, patient, tumor, early)
    if not early:
        slots |= first_impressions(rng.random, patient)
    date = house_style(patient["institution"])["date"]
    slots |= {"surgery_date": patient["surgery"].strftime(date), "biopsy_date": (patient["surgery"] - datetime.timedelta(62)).strftime(date)}
    return slots, bits_of(patient, slots, early) & ~GOLD_BITS


def write_note(rng: Random, patient: dict, kind: str, day: int, view: tuple[dict, int], noise: float, noise_rng: Random) -> tuple[str, dict]:
    """One note of a patient: the text, and slot -> (start, end) of the first mention of everything it states."""
    house, (slots, allowed) = house_style(patient["institution"]), view
    slots["imaging_date"] = (patient["surgery"] + datetime.timedelta(min(day, -9))).strftime(house["date"]) if kind == RADIOLOGY else ""
    truth = patient["early" if is_early(kind) else "truth"]
    sayable = choose_sayable(rng.random, kind, slots, truth, patient["operated"])
    tumor = patient["early_tumor" if is_early(kind) else "tumor"]
    hard = hard_statements(rng, patient, tumor, slots, sayable, allowed, is_early(kind))
    short = house["short"] + SHORTER.get(kind, 0.1)
    marked = tidy(lay_out(kind, compose(rng, kind, slots, sayable, allowed, house, short, patient, hard), house, patient, day))
    if house["british"]:
        for american, british in BRITISH.items():
            if american in marked.lower():
                marked = marked.replace(american, british).replace(american.capitalize(), british.capitalize()).replace(american.upper(), british.upper())
    text, spans = strip_marks(marked)
    if noise:
        text, spans = add_noise(text, spans, noise, noise_rng)
    if house["width"]:  # a space becomes a line break, so that spans stay right
        text = "\n".join(wrap(line, house["width"]) for line in text.split("\n"))
    first = {}
    for slot, start, end in spans:
        if slot and (slot not in first or start < first[slot][0]):
            first[slot] = (start, end)
    return text, first


def is_early(kind: str) -> bool:
    """Whether a kind of note speaks from before treatment."""
    return NOTES[kind]["view"] == "early"


def wrap(line: str, width: int) -> str:
    """The line with some spaces turned into line breaks; the standard library's textwrap does the same eight times slower."""
    pieces, start = [], 0
    while len(line) - start > width:
        cut = line.rfind(" ", start, start + width + 1)
        if cut < 0:
            cut = line.find(" ", start)
        if cut < 0:
            break
        pieces.append(line[start:cut])
        start = cut + 1
    return "\n".join([*pieces, line[start:]])


def choose_sayable(random, kind: str, slots: dict, truth: dict, operated: bool) -> int:
    """The bits of the gold slots that this note states; each of the others stays unsaid."""
    note, sayable = NOTES[kind], 0
    states = note["states"] if operated else note.get("states_biopsy", note["states"])
    for slot, share in states.items():
        if random() < share and slot in slots and GOLD[slot][0] in truth:
            sayable |= BITS[slot]
    if kind == CLINIC:  # the diagnosis can always be told from a clinic note
        sayable |= BITS["findings"] if random() < FINDINGS_SHARE else BITS["histology"]
    if sayable & BOTH == BOTH and "side_site" in slots:
        sayable |= SIDE_SITE
    return sayable


# ---------------------------------------------------------------- sentences


def compose(rng: Random, kind: str, slots: dict, sayable: int, allowed: int, house: dict, short: float, patient: dict, hard: dict) -> dict:
    """Section -> list of marked sentences; "synoptic" is a check-list of its own. What is stated the hard way has no plain statement beside it."""
    for slot in hard:
        sayable &= ~(BITS[slot] | (SIDE_SITE if slot in ("side", "site") else 0))
    random, grammar = rng.random, grammar_of(kind)
    note, usable = NOTES[kind], ~(sayable | allowed)
    texts, written = {name: [] for name in grammar["sections"]}, set()
    said = hidden = sum(BITS[slot] for slot in hard)

    def say(pattern):
        return finish(expand(pattern, slots, short, random))

    for name, section in grammar["sections"].items():
        for group in section["always"]:
            options = [entry for entry in group if not entry[1] & usable]
            if options:
                pattern, bits = pick(random, options)
                texts[name].append(say(pattern))
                said |= covered(bits)

    texts["synoptic"] = []
    if note.get("synoptic"):
        listed = {"prose": 0.0, "mixed": 0.5, "synoptic": 1.0}[house["format"]]
        for slot, patterns in LANGUAGE["synoptic"].items():
            if random() >= listed or slot not in slots:
                continue
            if sayable & BITS[slot]:
                texts["synoptic"].append(say(pick(random, patterns)))
                said |= BITS[slot]
            elif random() < 0.5 and patient["operated"] and not hidden & BITS[slot]:
                texts["synoptic"].append(say(pick(random, LANGUAGE["synoptic_empty"][slot])))
        if texts["synoptic"]:
            texts["synoptic"] += [say(pattern) for pattern in some(rng, SYNOPTIC_FILLER, 2, usable)]

    # reasons first, so that no plan stands before its reason
    if "reasons" in note:
        texts[note["reasons"]] += [say(pattern) for pattern in reasons(rng, patient, kind)]

    as_list = note["facts_as"] == "summary" or (
        note["facts_as"] == "either" and (house["facts_as"] == "summary" or (house["facts_as"] == "either" and random() < 0.5))
    )
    if not as_list or any(sayable & ~said & BITS[slot] for slot in ("plan", "course")):
        for name, pattern, bits in choose_facts(rng, grammar["facts"], sayable, said, usable, only=("plan", "course") if as_list else tuple(GOLD)):
            texts[name].append(say(pattern))
            said |= covered(bits)
    for slot, (pattern, filled) in hard.items():
        places = [entry[0] for entry in grammar["facts"][slot]] or [note["unsaid"]]
        texts[pick(random, places)].append(finish(expand(pattern, filled, short, random)))
    for name, section in grammar["sections"].items():
        if not section["summary"]:
            continue
        facts = list_facts(rng, slots, sayable, said, short, as_list)
        patterns = section["summary"] if facts else section["bare"]
        options = [entry for entry in patterns if not entry[1] & usable]
        if options:
            texts[name].append(finish(expand(pick(random, options)[0], slots | {"facts": facts}, short, random)))
        if facts:
            said |= sum(BITS[slot] for slot in PHRASES) & sayable
    for name, section in grammar["sections"].items():
        if section["filler"]:
            texts[name] += [say(pattern) for pattern in some(rng, section["filler"], between(random, *section["take"]), usable)]
        for group in section["with_stage"] if sayable & BITS["stage"] else []:
            if random() < 0.6:
                texts[name] += [say(pattern) for pattern in some(rng, group, 1, usable)]

    unsaid(rng, texts, note, slots, sayable, said, usable, say)
    open_to = ~(said | absent(slots))
    # a hard statement may tell of an earlier reading; a second one with another value would contradict it
    looks = [look for look in grammar["looks"] if not look[2] & usable and not look[3] & (open_to | (hidden if look[4] == "first" else 0))]
    for name, pattern, _, _, sort in rng.sample(looks, min(pick(random, (0, 1, 1, 2, 2, 3)), len(looks))):
        if not {pattern, sort if sort == "family" else ""} & written:  # a first impression is listed three times, as it is the hardest look-alike
            texts[name].append(say(pattern))
            written |= {pattern, sort}
    return texts


def covered(bits: int) -> int:
    """The gold that a pattern states: {side_site} ("RUL") says both side and site."""
    return (bits & GOLD_BITS) | (BOTH if bits & SIDE_SITE else 0)


def absent(slots: dict) -> int:
    """The gold that does not apply to this patient; look-alikes about it mislead nobody."""
    return sum(BITS[slot] for slot in PHRASES if slot not in slots)


def some(rng: Random, patterns: list[tuple], number: int, usable: int) -> list[str]:
    """Up to `number` different patterns that this patient and note allow."""
    fitting = [pattern for pattern, bits in patterns if not bits & usable]
    return rng.sample(fitting, min(number, len(fitting)))


def choose_facts(rng: Random, facts: dict, sayable: int, said: int, usable: int, only: tuple) -> list[tuple]:
    """(section, pattern, bits) that together state every sayable slot of `only`, some of them twice; `said` stands in the note already."""
    random, chosen = rng.random, []
    slots = [slot for slot in only if slot != "side_site" and sayable & BITS[slot]]
    rng.shuffle(slots)
    for slot in slots:
        if said & BITS[slot] and random() >= REPEAT_SHARE:
            continue
        options = [entry for entry in facts[slot] if not entry[2] & usable and entry not in chosen]
        if options:
            chosen.append(pick(random, options))
            said |= covered(chosen[-1][2])
    return chosen


def list_facts(rng: Random, slots: dict, sayable: int, said: int, short: float, repeat: bool) -> str:
    """The facts not said yet, and some of the others, as one list "IDC, G2, 2.5 cm"; empty if there is nothing to say."""
    random = rng.random
    names = [slot for slot in PHRASES if sayable & BITS[slot] and (not said & BITS[slot] or (repeat and random() < REPEAT_SHARE))]
    if random() < 0.6:
        rng.shuffle(names)
    return pick(random, (", ", ", ", "; ", " / ")).join(expand(pick(random, PHRASES[name])[0], slots, short, random) for name in names)


def reasons(rng: Random, patient: dict, kind: str) -> list[str]:
    """Sentences about everything that may change the plan: true findings always, a refusal only where it changed something, and some that are normal."""
    random, found = rng.random, []
    for flag in sorted(patient["flags"]):
        if (flag.startswith("refuses_") and flag not in patient["reasons"]) or (flag == "poor_performance" and kind == CLINIC):
            continue
        found.append(pick(random, LANGUAGE["flags"][flag]))
    if patient["cancer_type"] == "SKCM":
        found.append(pick(random, LANGUAGE["flags"]["braf"]))
    if not patient["operated"]:
        found.append(pick(random, LANGUAGE["unoperated"][patient["unoperated"]]))
    normal = {
        "low_clearance": 0,
        "low_ejection_fraction": 1,
        "hearing_loss": 2,
        "neuropathy": 3,
        "thrombosis": 4,
        "prior_radiation": 5,
        "osteoporosis": 6,
        "autoimmune_disease": 7,
    }
    healthy = [
        LANGUAGE["absent_flags"][number]
        for flag, number in normal.items()
        if flag not in patient["flags"] and not (number == 5 and "prior_anthracycline" in patient["flags"])
    ]
    return found + rng.sample(healthy, min(len(healthy), between(random, 0, 2)))


def unsaid(rng: Random, texts: dict, note: dict, slots: dict, sayable: int, said: int, usable: int, say) -> None:
    """For facts that the note does not state, often a sentence that names the field and no value; for stated ones sometimes the same words in another tense."""
    random, sayable = rng.random, sayable | said
    for slot, groups in UNSAID.items():
        if said & BITS[slot] and note["view"] != "early" and random() < WAS_UNSAID_SHARE:
            texts[note["unsaid"]] += [say(pattern) for pattern in some(rng, WAS_UNSAID[slot], 1, usable)]
        if sayable & BITS[slot] or slot not in slots or (slot == "course" and "gy" not in slots) or (slot == "histology" and sayable & BITS["findings"]):
            continue
        if random() < UNSAID_SHARE * note.get("unsaid_share", {}).get(slot, 1):
            options = [pattern for pattern, bits in groups[note["unsaid_words"]] if not bits & usable]
            if options:
                texts[note["unsaid"]].append(say(pick(random, options)))


# ---------------------------------------------------------------- layout


def lay_out(kind: str, texts: dict, house: dict, patient: dict, day: int) -> str:
    """The note as its hospital prints it, with marks."""
    sections, blocks = grammar_of(kind)["sections"], []
    if kind == CLINIC:
        for number, (name, title) in enumerate(zip(sections, SIX, strict=True), start=1):
            title = house["number"].format(number) + (title.upper() if house["capitals"] else title)
            blocks.append(f"{KEEP}{title}{KEPT}{house['heading_end']}{body(texts[name], None)}")
        return house["between"].join(blocks)
    order = list(sections)
    if "house_order" in NOTES[kind]:
        order = NOTES[kind]["house_order"][house["order"]] + ["synoptic"]
    if house["first_line"]:
        parts = [kind.upper() if house["capitals"] else kind.capitalize()] if "title" in house["first_line"] else []
        if "date" in house["first_line"]:
            parts.append((patient["surgery"] + datetime.timedelta(day)).strftime(house["date"]))
        blocks.append(f"{KEEP}{', '.join(parts)}{KEPT}" + ("." if house["between"] == " " else ""))
    for name in order:
        if not texts[name]:
            continue
        titles = LANGUAGE["headings"]["synoptic"] if name == "synoptic" else sections[name]["titles"]
        as_list = house["bullets"] or (name in ("diagnosis", "synoptic") and kind == PATHOLOGY and house["between"] != " ")
        block = body(texts[name], house["item"] if as_list and titles else None)
        if name == "diagnosis" and kind == PATHOLOGY and house["diagnosis_upper"]:
            block = block.upper()
        blocks.append((heading(titles[house["heading"]], house, as_list) if titles else "") + block)
    return house["between"].join(blocks)


def heading(title: str, house: dict, as_list: bool) -> str:
    return f"{KEEP}{title.upper() if house['capitals'] else title}{KEPT}" + (":\n" if as_list else house["heading_end"])


def body(lines: list[str], item: str | None) -> str:
    """Sentences as running text, or as a list without full stops."""
    if item:
        return "\n".join(f"{item.format(number)}{line.rstrip('.')}" for number, line in enumerate(lines, start=1))
    return " ".join(line if line[-1] in ".?" else line + "." for line in lines)
