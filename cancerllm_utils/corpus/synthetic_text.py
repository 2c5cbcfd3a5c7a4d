"""The writer of the synthetic notes: what a patient's note may say, and the three kinds of note that say it.

Chosen independently of each other: which fields a note states, which sentence states each one, the words of that sentence, the spelling of the value,
the order and the distractors. Headings, layout and love of abbreviations are fixed per hospital. Facts: synthetic_cancers.yaml; language:
synthetic_language.yaml. What these functions write is frozen by synthetic.GENERATOR_VERSION.
"""

import functools
import random
import textwrap

import yaml

from cancerllm_utils.corpus.synthetic_grammar import GOLD, MARK, expand, finish, gold_in, said_by, slots_in, strip_marks
from cancerllm_utils.paths import PACKAGE

NOT_STATED_SHARE = 0.26  # of the applicable fields of a note; receptor type and status go together, as one gives the other away
FINDINGS_SHARE = 0.25  # of the clinic notes describe the histology without naming it
REPEAT_SHARE = 0.3  # chance that a fact which stands in the note already is stated once more
CLINIC_SHORTER = 0.15  # clinicians abbreviate more than pathologists
PATHOLOGY, CLINIC, FOLLOW_UP = "surgical pathology report", "clinic note", "follow-up note"


def yaml_of(name: str) -> dict:
    """One of the YAML files of the cohort: cancers, language, hospitals."""
    return yaml.load((PACKAGE / "corpus" / f"synthetic_{name}.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)


MEDICINE, LANGUAGE = yaml_of("cancers"), yaml_of("language")
CANCERS, SPELLINGS = MEDICINE["cancers"], LANGUAGE["spellings"]


# ---------------------------------------------------------------- what a note may say


def slots_of(rng: random.Random, patient: dict) -> dict:
    """Everything that a pattern may name, for one note: the patient's facts with their spellings, decoys that differ from them, everyday words."""
    cancer, truth, cm = CANCERS[patient["cancer_type"]], patient["truth"], patient["cm"]
    histology = cancer["histologies"][truth["histology"]]
    marker_name, low, high, unit = cancer["marker"]
    # Decoy lengths never equal the tumor's: a size that is to stay unsaid is nowhere in the note.
    other_cm = next(x for x in (round(rng.uniform(0.5, 6.5), 1) for _ in range(99)) if x != cm)
    slots = LANGUAGE["words"] | {
        "organ": patient["organ"],
        "procedure": patient["procedure"],
        "presentation": patient["presentation"],
        "imaging": cancer["imaging"],
        "exam": cancer["exam"],
        "denies": cancer["denies"],
        "marker_name": marker_name,
        "marker_value": f"{rng.uniform(low, high):.{0 if high > 100 else 1}f}",
        "marker_unit": unit,
        "age": str(patient["age"]),
        "sex": ["woman", "female"] if patient["sex"] == "F" else ["man", "male"],
        "he": "she" if patient["sex"] == "F" else "he",
        "histology": histology,
        "findings": histology["findings"],
        "size": SPELLINGS["size"],
        "cm": f"{cm:.1f}",
        "mm": f"{cm * 10:.0f}",
        "b": f"{patient['second_cm']:.1f}",
        "c": f"{patient['third_cm']:.1f}",
        "small": [f"{x} cm" for x in (0.2, 0.3, 0.4, 0.6, 0.7, 0.9, 1.1) if x != cm],
        "other_size": [f"{other_cm:.1f} cm", f"{other_cm * 10:.0f} mm"],
        "specimen_size": " x ".join(f"{cm + rng.uniform(1.2, 9.0):.1f}" for _ in "123") + " cm",
        "other_cancer": LANGUAGE["other_cancer"],
        "earlier_cancer": [name for name in LANGUAGE["earlier_cancer"][patient["sex"]] if patient["organ"] not in name],
        "other_histology": [name for name in LANGUAGE["other_histology"] if name.split()[0] not in truth["histology"]],
        "skin_place": LANGUAGE["skin_place"],
        "other_age": str(rng.randint(38, 79)),
        "year": str(patient["surgery"].year - rng.randint(3, 15)),
        "lvi": rng.choice([["absent", "not identified"], ["present", "identified"]]),
        "necrosis": rng.choice([["absent", "not seen"], ["focal", "present"]]),
        "grams": str(rng.randint(40, 900)),
        "cassettes": str(rng.randint(3, 18)),
        "percent": str(rng.randint(2, 60)),
        "bp": f"{rng.randint(104, 152)}/{rng.randint(60, 92)}",
        "pulse": str(rng.randint(56, 98)),
        "weight": str(rng.randint(48, 104)),
        "hgb": f"{rng.uniform(9.5, 15.5):.1f}",
        "wbc": f"{rng.uniform(3.6, 10.8):.1f}",
        "plt": str(rng.randint(140, 410)),
        "creat": f"{rng.uniform(0.6, 1.4):.1f}",
        "sodium": str(rng.randint(134, 145)),
        "ecog": str(rng.choice([0, 0, 1, 1, 2])),
        "months": str(rng.choice([3, 4, 6])),
    }
    if "grade" in truth:
        grades = cancer["grade"]["weights"]
        other = rng.choice([grade for grade in grades if grade != truth["grade"]])
        slots["grade"] = grade_words(cancer["grade"]["scheme"], truth["grade"], patient["patterns"])
        slots["other_grade"] = grade_words(cancer["grade"]["scheme"], other, MEDICINE["gleason_patterns"].get(other, [[0, 0]])[0])
    if "stage" in truth:
        other = rng.choice([pair for pair in ("T1 N0", "T2 N0", "T3 N0", "T2 N1", "T4 N1") if pair != truth["stage"]]).split()
        slots |= {"stage": SPELLINGS["stage"], "t": patient["t"], "n": patient["n"]}
        slots |= {name: spell_other(SPELLINGS[name], other) for name in ("other_stage", "other_clinical_stage")}
        slots |= {"nodes_positive": str(patient["nodes_positive"]), "nodes_examined": str(patient["nodes_examined"])}
        slots["nodes_found"] = slots["nodes_examined"]
        if "invasion" in cancer:
            slots["invasion"] = cancer["invasion"][truth["stage"].split()[0]]
    else:
        slots |= {name: spell_other(SPELLINGS[name], ["T1", "N0"]) for name in ("other_stage", "other_clinical_stage")}
    if "tumor_site" in truth:
        slots["site"] = patient["sites"][truth["tumor_site"]]
        slots["other_site"] = patient["sites"][rng.choice([site for site in patient["sites"] if site != truth["tumor_site"]])]
    side = truth.get("laterality")
    slots["other_side"] = MEDICINE["sides"][{"Right": "Left", "Left": "Right"}.get(side) or rng.choice(["Left", "Right"])]
    if side:
        slots["side"] = MEDICINE["sides"][side]
        if "side_site" in cancer:
            slots["side_site"] = cancer["side_site"][truth["tumor_site"]][side]
    if "receptors" in patient:
        slots["receptors"] = receptor_words(rng, patient["receptors"])
        turned = {"ER": "negative", "PR": "negative", "HER2": "negative"}
        turned["ER"] = turned["PR"] = "negative" if patient["receptors"]["ER"] == "positive" else "positive"
        slots["other_receptors"] = receptor_words(rng, turned)
    return slots


def grade_words(scheme: str, grade: str, patterns: list[int]) -> dict:
    """Spellings of a grade; Gleason with its two patterns."""
    numbers = {"{p}": patterns[0], "{s}": patterns[1], "{sum}": sum(patterns)}
    words = MEDICINE["grade_words"][scheme][grade]
    return {kind: [replace_all(text, numbers) for text in words[kind]] for kind in words}


def spell_other(spellings: dict, pair: list[str]) -> dict:
    """Spellings of a T and N pair that is not the patient's."""
    categories = {"{t}": pair[0], "{n}": pair[1]}
    return {kind: [replace_all(text, categories) for text in spellings[kind]] for kind in spellings}


def replace_all(text: str, values: dict) -> str:
    for name, value in values.items():
        text = text.replace(name, str(value))
    return text


def receptor_words(rng: random.Random, results: dict) -> dict:
    """Spellings of ER, PR and HER2 results, with short-cuts where ER and PR agree or all are negative."""
    lexicon = MEDICINE["receptors"]
    kinds = ["usual"] + ["together"] * (results["ER"] == results["PR"]) + ["triple"] * (set(results.values()) == {"negative"})
    sign = {"positive": "+", "negative": "-"}
    values = {
        "er": rng.choice(lexicon["estrogen"][results["ER"]]),
        "pr": rng.choice(lexicon["progesterone"][results["PR"]]),
        "her2": rng.choice(lexicon["her2"][results["HER2"]]),
        "er_sign": sign[results["ER"]],
        "pr_sign": sign[results["PR"]],
    }
    return {size: [pattern.format(**values) for kind in kinds for pattern in lexicon[kind][size]] for size in ("long", "short")}


def choose_sayable(rng: random.Random, patient: dict, note_type: str, slots: dict) -> set[str]:
    """The gold slots that this note states; each of the others stays unsaid and leaves no trace."""
    sayable = {slot for slot in GOLD if slot in slots and slot not in ("findings", "side_site") and rng.random() >= NOT_STATED_SHARE}
    if note_type == CLINIC:  # the diagnosis can always be told from a clinic note
        sayable = sayable - {"histology"} | {"findings" if rng.random() < FINDINGS_SHARE else "histology"}
    if {"side", "site"} <= sayable and "side_site" in slots:
        sayable.add("side_site")
    return sayable


# ---------------------------------------------------------------- the three kinds of note


@functools.cache
def house_style(institution: str) -> dict:
    """How one hospital writes, whatever the seed of the cohort. Read only."""
    rng = random.Random(f"house|{institution}")
    run_on = rng.random() < 0.2  # line breaks lost, as after text recognition
    return {
        "short": rng.uniform(0.1, 0.7),
        "heading": rng.randrange(4),
        "capitals": rng.random() < 0.4,
        "heading_end": rng.choice([": ", " - "] if run_on else [": ", ":\n", " - ", "\n"]),
        "format": rng.choice(["prose", "synoptic", "mixed"]),
        "order": rng.choice([["history", "specimen", "gross", "micro", "diagnosis"], ["specimen", "diagnosis", "history", "gross", "micro"]]),
        "diagnosis_upper": rng.random() < 0.35,
        "bullets": not run_on and rng.random() < 0.35,
        "between": " " if run_on else rng.choice(["\n", "\n\n"]),
        "british": rng.random() < 0.25,
        "width": rng.choice([None, None, 66, 80]),
        "number": rng.choice(["{}) ", "{}. ", "({}) "]),
    }


def write_note(rng: random.Random, patient: dict, note_type: str) -> tuple[dict, dict]:
    """One note of a patient: the row (without note_id and date), and slot -> span for everything it states."""
    house = house_style(patient["institution"])
    slots = slots_of(rng, patient)
    sayable = choose_sayable(rng, patient, note_type, slots)
    compose = {PATHOLOGY: pathology_report, CLINIC: clinic_note, FOLLOW_UP: follow_up_note}[note_type]
    marked = compose(rng, patient, slots, sayable, house)
    if house["british"]:
        marked = marked.replace("tumor", "tumour").replace("Tumor", "Tumour").replace("TUMOR", "TUMOUR")
    text, spans = strip_marks(marked)
    if house["width"]:  # a space becomes a line break, so that spans stay right
        text = "\n".join(wrap(line, house["width"]) for line in text.split("\n"))
    columns = {name: patient[name] for name in ("patient_id", "site", "institution", "cancer_type")}
    return columns | {"note_type": note_type, "text": text, "source": "synthetic"}, spans


def wrap(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    return "\n".join(textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False))


def pathology_report(rng: random.Random, patient: dict, slots: dict, sayable: set, house: dict) -> str:
    grammar, cancer = LANGUAGE["pathology"], CANCERS[patient["cancer_type"]]
    say = functools.partial(say_pattern, rng, slots, house["short"])
    specimen = pick(rng, grammar["specimen"]["facts"], sayable)
    sections = {name: [] for name in house["order"]} | {"specimen": [say(specimen)], "synoptic": []}
    said = said_by(specimen)

    checklist = {"prose": 0.0, "mixed": 0.5, "synoptic": 1.0}[house["format"]]
    listed = [slot for slot in LANGUAGE["synoptic"] if slot in sayable and rng.random() < checklist]
    sections["synoptic"] += [say(rng.choice(LANGUAGE["synoptic"][slot])) for slot in listed]
    if listed:
        sections["synoptic"] += [say(line) for line in rng.sample(LANGUAGE["synoptic"]["filler"], 2)]
    said |= set(listed)

    pool = [(name, pattern) for name in ("gross", "micro", "diagnosis") for pattern in grammar[name]["facts"]]
    for name, pattern in choose_facts(rng, pool, sayable, said):
        sections[name].append(say(pattern))

    sections["history"].append(say(rng.choice(grammar["history"]["filler"])))
    sections["gross"] += [say(line) for line in rng.sample(grammar["gross"]["filler"], 3)]
    sections["micro"] += [say(line) for line in rng.sample(grammar["micro"]["filler"], 3) + [rng.choice(cancer["notes"])]]
    sections["diagnosis"].append(say(rng.choice(grammar["diagnosis"]["filler"])))
    if "stage" in slots and rng.random() < 0.4:
        sections["gross"].append(say(rng.choice(grammar["gross"]["nodes"])))
    if "stage" in sayable:  # depth and nodes give T and N away
        if rng.random() < 0.7:
            sections["micro"].append(say(rng.choice(grammar["micro"]["node_detail" if patient["nodes_positive"] else "node_free"])))
        if "invasion" in slots and rng.random() < 0.5:
            sections["micro"].append(say(rng.choice(grammar["micro"]["stage_detail"])))
    traps = [{"section": "micro", "about": ["grade"], "text": text} for text in cancer.get("grade_traps", [])]
    for name, text in distract(rng, LANGUAGE["distractors"]["pathology"] + traps, patient, slots, sayable):
        sections[name].append(say(text))

    blocks = []
    for name in [*house["order"], "synoptic"]:
        lines = sections[name] if name in ("specimen", "synoptic") else rng.sample(sections[name], len(sections[name]))
        if lines:
            as_list = house["bullets"] or (name in ("diagnosis", "synoptic") and house["between"] != " ")
            block = body(lines, as_list)
            if name == "diagnosis" and house["diagnosis_upper"]:
                block = block.upper()
            blocks.append(heading(name, house, as_list) + block)
    return house["between"].join(blocks)


def clinic_note(rng: random.Random, patient: dict, slots: dict, sayable: set, house: dict) -> str:
    """The six numbered sections of the paper's diagnosis prompt."""
    grammar = LANGUAGE["clinic"]
    short = house["short"] + CLINIC_SHORTER
    say = functools.partial(say_pattern, rng, slots, short)
    site = pick(rng, grammar["site"]["facts"], sayable)
    sections = {
        "reason": [say(rng.choice(grammar["reason"]["facts"]))],
        "site": [say(site)],
        "subjective": [say(line) for line in rng.sample(grammar["subjective"]["filler"], 3)],
        "ros": [say(line) for line in rng.sample(grammar["ros"]["filler"], 4)],
        "objective": [say(line) for line in rng.sample(grammar["objective"]["filler"], 2)],
        "laboratory": [say(line) for line in rng.sample(grammar["laboratory"]["filler"], rng.choice([2, 3]))],
    }
    said = said_by(site)
    if "receptors" in sayable and rng.random() < 0.5:
        sections["laboratory"].append(say(rng.choice(LANGUAGE["synoptic"]["receptors"])))
        said.add("receptors")
    facts = list_facts(rng, slots, sayable, said, short)
    if facts:
        sections["objective"].append(say(rng.choice(grammar["objective"]["summary"]).replace("{facts}", facts)))
    for name, text in distract(rng, LANGUAGE["distractors"]["clinic"], patient, slots, sayable):
        sections[name].append(say(text))
    blocks = []
    for number, (name, title) in enumerate(zip(sections, LANGUAGE["headings"]["six"], strict=True), start=1):
        title = house["number"].format(number) + (title.upper() if house["capitals"] else title)
        blocks.append(title + house["heading_end"] + body(sections[name], as_list=False))
    return house["between"].join(blocks)


def follow_up_note(rng: random.Random, patient: dict, slots: dict, sayable: set, house: dict) -> str:
    grammar = LANGUAGE["follow_up"]
    short = house["short"] + CLINIC_SHORTER
    say = functools.partial(say_pattern, rng, slots, short)
    facts = list_facts(rng, slots, sayable, set(), short)
    summary = rng.choice(grammar["onc"]["summary"]).replace("{facts}", facts) if facts else rng.choice(grammar["onc"]["bare"])
    sections = {"onc": [say(summary)], "interval": [say(line) for line in rng.sample(grammar["interval"]["filler"], 4)]}
    sections |= {name: [say(line) for line in rng.sample(grammar[name]["filler"], 3)] for name in ("exam", "plan")}
    for name, text in distract(rng, LANGUAGE["distractors"]["follow_up"], patient, slots, sayable):
        sections[name].append(say(text))
    as_list = house["bullets"]
    return house["between"].join(heading(name, house, as_list) + body(lines, as_list) for name, lines in sections.items())


def say_pattern(rng: random.Random, slots: dict, short: float, pattern: str) -> str:
    return finish(expand(pattern, slots, short, rng))


def pick(rng: random.Random, patterns: list[str], sayable: set) -> str:
    """A pattern that states nothing but what may be said."""
    return rng.choice([pattern for pattern in patterns if gold_in(pattern) <= sayable])


def choose_facts(rng: random.Random, pool: list[tuple], sayable: set, said: set) -> list[tuple]:
    """(section, pattern) pairs that together state every sayable slot, some of them twice; `said` stands elsewhere in the note."""
    chosen, said = [], set(said)
    for slot in rng.sample(sorted(sayable - {"side_site"}), len(sayable - {"side_site"})):
        if slot in said and rng.random() >= REPEAT_SHARE:
            continue
        options = [pair for pair in pool if slot in gold_in(pair[1]) and gold_in(pair[1]) <= sayable and pair not in chosen]
        if options:
            chosen.append(rng.choice(options))
            said |= said_by(chosen[-1][1])
    return chosen


def list_facts(rng: random.Random, slots: dict, sayable: set, said: set, short: float) -> str:
    """The facts not said yet, and some of the others, as one list "IDC, G2, 2.5 cm"; empty if there is nothing to say."""
    names = [slot for slot in LANGUAGE["phrases"] if slot in sayable and (slot not in said or rng.random() < REPEAT_SHARE)]
    if rng.random() < 0.6:
        names = rng.sample(names, len(names))
    return rng.choice([", ", ", ", "; "]).join(expand(rng.choice(LANGUAGE["phrases"][name]), slots, short, rng) for name in names)


def distract(rng: random.Random, distractors: list[dict], patient: dict, slots: dict, sayable: set) -> list[tuple]:
    """Up to three (section, pattern) that look like an answer; none about a fact that is to stay unsaid."""
    unsaid = {slot for slot in GOLD if slot in slots} - sayable
    paired = patient["truth"].get("laterality") in ("Right", "Left")
    fitting = [
        distractor
        for distractor in distractors
        if not unsaid & set(distractor["about"]) and slots_in(distractor["text"]) <= slots.keys() and (paired or not distractor.get("paired"))
    ]
    chosen = rng.sample(fitting, min(len(fitting), rng.choice([0, 1, 2, 2, 3])))
    return [(distractor["section"], distractor["text"]) for distractor in chosen]


def heading(name: str, house: dict, as_list: bool) -> str:
    title = LANGUAGE["headings"][name][house["heading"]]
    return (title.upper() if house["capitals"] else title) + (":\n" if as_list else house["heading_end"])


def body(lines: list[str], as_list: bool) -> str:
    """Sentences as running text, or as a numbered list without full stops."""
    if as_list:
        return "\n".join(f"{number}) {line.rstrip('.')}" for number, line in enumerate(lines, start=1))
    return " ".join(line if MARK.sub("", line).endswith(".") else line + "." for line in lines)
