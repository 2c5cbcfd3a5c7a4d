"""Counterfactual labels: only stated answers move, monotone in the rate, the same everywhere; confusable ones are neighbours."""

import copy
import itertools
from collections import Counter

import pytest

from cancerllm_utils.corpus.labels import FIELD_VALUES
from cancerllm_utils.corpus.synthetic import SYNTHETIC_FIELDS
from cancerllm_utils.errors import UserError
from cancerllm_utils.tasks import counterfactual as cf

OPEN = {"tumor_size", "tumor_site", "nodes", "icd10", "systemic_therapy", "radiotherapy", "radiotherapy_regimen", "treatment_plan", "diagnosis"}


def item(number, field="laterality", answer="Right", evidence="stated", cancer="BRCA"):
    return {"example_id": f"phenotype_extraction|N{number}|{field}", "patient_id": f"P{number // 2}", "task": "phenotype_extraction", "field": field, "prompt": f"prompt {number}",
            "completion": answer, "answers": [answer], "evidence": evidence, "cancer_type": cancer}


@pytest.fixture
def rows():
    sides = [item(number, answer=("Right", "Right", "Left", "Bilateral")[number % 4]) for number in range(400)]
    absent = [item(number, "stage", "not stated", "not_stated") for number in range(400, 440)]
    unsure = [item(number, "stage", "T1 N0", "uncertain") for number in range(440, 460)]
    return sides + absent + unsure + [item(number, "stage", f"T{number % 4 + 1} N{number % 3}") for number in range(460, 860)]


@pytest.mark.parametrize("mode", cf.MODES)
def test_the_items_hit_at_a_rate_are_among_those_of_every_higher_one_with_the_same_answer(rows, mode):
    tables = [cf.corrupt(rows, rate, mode)[1].set_index("example_id")["new"] for rate in (0.0, 0.2, 0.4, 0.8, 1.0)]
    for fewer, more in itertools.pairwise(tables):
        assert set(fewer.index) < set(more.index) and (more[fewer.index] == fewer).all()
    assert len(tables[0]) == 0 and len(tables[-1]) == 800, "every stated answer, and none that the text does not state"
    assert 0.35 < len(tables[2]) / 800 < 0.45


@pytest.mark.parametrize("mode", cf.MODES)
def test_only_answers_change_and_only_stated_ones(rows, mode):
    before = copy.deepcopy(rows)
    changed, table = cf.corrupt(rows, 0.6, mode)
    assert rows == before, "the rows that were given stay as they are"
    of_id = table.set_index("example_id")
    for old, new in zip(before, changed, strict=True):
        if old["example_id"] in of_id.index:
            assert old["evidence"] == "stated" and {key for key in old if old[key] != new[key]} == {"answers", "completion"}
            assert of_id.loc[old["example_id"], ["old", "new"]].tolist() == [old["completion"], new["completion"]] and new["answers"] == [new["completion"]]
        else:
            assert new == old
    assert (table["old"] != table["new"]).all()


def test_row_order_and_rows_beside_change_nothing(rows):
    table = cf.corrupt(rows, 0.4)[1].sort_values("example_id", ignore_index=True)
    backwards = cf.corrupt(rows[::-1], 0.4)[1].sort_values("example_id", ignore_index=True)
    part = cf.corrupt(rows[:200], 0.4, known=cf.known_values(rows))[1].sort_values("example_id", ignore_index=True)
    assert table.equals(backwards) and part.equals(table[table["example_id"].isin(part["example_id"])].reset_index(drop=True)) and len(part)
    assert set(cf.corrupt(rows, 0.4, seed=7)[1]["example_id"]) != set(table["example_id"])


def test_random_answers_follow_the_other_values_of_training():
    rows = [item(number, answer="Right") for number in range(3000)] + [item(number, answer="Left") for number in range(3000, 3900)] + [item(number, answer="Bilateral") for number in range(3900, 4000)]
    table = cf.corrupt(rows, 1.0)[1]
    of_right = table.loc[table["old"] == "Right", "new"].value_counts(normalize=True)
    assert of_right.index.tolist() == ["Left", "Bilateral"] and of_right["Left"] == pytest.approx(0.9, abs=0.02)


def test_a_field_with_one_value_keeps_it():
    assert len(cf.corrupt([item(number, "grade_bladder", "High") for number in range(9)], 1.0)[1]) == 0


@pytest.mark.parametrize(
    ("field", "answer", "known", "near"),
    [
        ("pT", "T2", ["T1", "T2", "T3", "T4"], ["T1", "T3"]),
        ("stage", "T2 N1", ["T1 N1", "T3 N1", "T2 N0", "T2 N2", "T4 N1", "T1 N0"], ["T1 N1", "T2 N0", "T2 N2", "T3 N1"]),
        ("stage", "T1 N0", ["T2 N0", "T3 N0"], ["T2 N0"]),
        ("laterality", "Right", ["Right", "Left", "Bilateral"], ["Left"]),
        ("laterality", "Bilateral", ["Right", "Left", "Bilateral"], ["Left", "Right"]),
        ("grade", "Gleason 7", ["Gleason 6", "Gleason 8", "Gleason 9", "G1"], ["Gleason 6", "Gleason 8"]),
        ("her2", "Equivocal", ["Positive", "Negative"], ["Negative", "Positive"]),
        ("receptor_status", "ER positive PR negative", ["ER positive PR positive", "ER negative PR positive", "ER positive PR equivocal"], ["ER positive PR equivocal", "ER positive PR positive"]),
        ("receptor_type", "ER PR", ["ER", "none", "ER PR HER2", "HER2"], ["ER", "ER PR HER2"]),
        ("histology", "astrocytoma", ["oligodendroglioma", "serous carcinoma"], ["oligodendroglioma"]),
        ("diagnosis", "serous carcinoma of the ovary", ["endometrioid carcinoma of the ovary", "endometrioid carcinoma of the uterus", "urothelial carcinoma of the bladder"], ["endometrioid carcinoma of the ovary"]),
        ("colon_segment", "Sigmoid colon", ["Descending colon", "Cecum"], ["Descending colon"]),
        ("tumor_size", "2.5 cm", ["2.6 cm"], []),
    ],
)
def test_neighbours(field, answer, known, near):
    assert cf.neighbours(field, answer, {value: Counter() for value in [*known, answer]}) == near


def test_a_site_is_mistaken_for_one_of_the_same_cancer():
    known = {"upper lobe": Counter(LUAD=3), "lower lobe": Counter(LUAD=1), "fundus": Counter(STAD=2)}
    assert cf.neighbours("tumor_site", "upper lobe", known, "LUAD") == ["lower lobe"]


def test_every_closed_answer_has_a_neighbour():
    closed = [(field, values) for field, values in FIELD_VALUES.items() if field not in OPEN]
    closed += [(field, spec["values"]) for field, spec in SYNTHETIC_FIELDS.items() if field not in OPEN]
    alone = {(field, value) for field, values in closed for value in values if not cf.neighbours(field, value, {key: Counter() for key in values})}
    assert alone == {("histology", "diffuse large B-cell lymphoma")}


def test_without_a_neighbour_in_training_the_answer_is_any_other_and_says_so():
    rows = [item(number, "pT", ("T1", "T4")[number % 2]) for number in range(40)] + [item(number, "tumor_size", f"{number}.0 cm") for number in range(40, 60)]
    table = cf.corrupt(rows, 1.0, "confusable")[1]
    assert len(table) == 60 and set(table["how"]) == {"random"}


def test_what_is_written_is_read_back_as_text(tmp_path, rows):
    table = cf.corrupt([*rows, *(item(number, "gleason", str(number % 4 + 6)) for number in range(900, 950)), *(item(number, "receptor_type", ("none", "ER")[number % 2]) for number in range(950, 990))], 0.5)[1]
    table.assign(trained=True).to_csv(tmp_path / cf.FILE, index=False)
    back = cf.read_corrupted(tmp_path)
    assert back[cf.COLUMNS].equals(table) and back["trained"].dtype == bool
    assert cf.read_corrupted(tmp_path / "none").empty


def test_names():
    assert [cf.suffix(0.4), cf.suffix(0.8, "confusable"), cf.suffix(0.0), cf.suffix(0.29)] == ["cf40", "cfnear80", "", "cf29"]


@pytest.mark.parametrize(("rate", "mode", "words"), [(1.2, "random", "from 0 to 1"), (-0.1, "random", "from 0 to 1"), (0.2, "near", "random or confusable")])
def test_wrong_settings_are_refused(rows, rate, mode, words):
    with pytest.raises(UserError, match=words):
        cf.corrupt(rows, rate, mode)


def test_the_yaml_names_known_fields_and_histologies_only():
    known = set(FIELD_VALUES) | set(SYNTHETIC_FIELDS)
    assert set(cf._mistaken()) <= known
    names = set(FIELD_VALUES["histology"]) | set(SYNTHETIC_FIELDS["histology"]["values"])
    assert {name for family in cf._mistaken()["histology"]["families"] for name in family} <= names
