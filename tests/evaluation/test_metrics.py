"""Both metric families against vectors worked by hand or obtained from the released evaluator (design facts, section "Metric, exactly")."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import sentence_bleu

from cancerllm_utils.evaluation import metrics
from cancerllm_utils.evaluation.metrics import AVERAGED, clinical_scores, clinical_words, paper_scores, paper_words, score_pairs, value_scores
from cancerllm_utils.evaluation.sensitivity import disagreements, metrics_sensitivity, order_of_systems
from tests.evaluation import plain_metrics

# gold -> prediction: F1 of exact match, BLEU-2, ROUGE-L under the paper's evaluator, 4 decimals.
GOLDEN = [
    (["right"], "right", (1.0, 0.001, 1.0)),
    (["lung cancer"], "lung cancer", (1.0, 1.0, 1.0)),
    (["lung cancer"], "cancer of the lung", (0.0, 0.0, 0.3547)),
    (["lung cancer"], "lung carcinoma", (0.0, 0.0, 0.5)),
    (["2.5"], "25", (1.0, 0.001, 1.0)),
    (["2.5"], "2.5 cm", (0.0, 0.0, 0.7093)),
    (["ductal carcinoma in situ"], "invasive ductal carcinoma in situ", (0.0, 0.7746, 0.9071)),
    (["invasive ductal carcinoma", "right breast"], "right breast,ductal carcinoma", (0.5, 0.8033, 0.8861)),
    (["malignant neoplasm of prostate"], "malignant neoplasm of prostates", (1.0, 1.0, 1.0)),
]


@pytest.mark.parametrize("answers, prediction, expected", GOLDEN)
def test_golden_vectors(answers, prediction, expected):
    scores = paper_scores(answers, prediction)
    assert [round(scores[m][2], 4) for m in ("exact_match", "bleu2", "rougeL")] == list(expected)
    assert scores["average"][2] == pytest.approx(sum(scores[m][2] for m in ("exact_match", "bleu2", "rougeL")) / 3)


def test_golden_vector_with_precision_and_recall():
    scores = paper_scores(["a", "b"], "a")
    assert [round(x, 4) for x in scores["exact_match"]] == [1, 0.5, 0.6667]
    assert [round(x, 4) for x in scores["bleu2"]] == [0.001, 0.0005, 0.0007]
    assert [round(x, 4) for x in scores["rougeL"]] == [1, 0.5, 0.6667]


@pytest.mark.parametrize("scorer", [paper_scores, clinical_scores])
@pytest.mark.parametrize("answers, prediction, expected", [([], "", (1, 1, 1)), ([], "a", (0, 1, 0)), (["a"], "", (1, 0, 0)), (["a"], " \t", (1, 0, 0))])
def test_empty_lists(scorer, answers, prediction, expected):
    assert all(score == expected for score in scorer(answers, prediction).values())


def test_bleu_constants_of_coco_caption():
    # one word right of one: sqrt((1 + 1e-15) / (1 + 1e-9) * 1e-15 / 1e-9), and a brevity penalty just below 1
    expected = math.sqrt((1 + 1e-15) / (1 + 1e-9) * 1e-6) * math.exp(1 - (1 + 1e-9) / (1 + 1e-15))
    assert paper_scores(["left"], "left")["bleu2"][2] == pytest.approx(expected, rel=1e-12)
    # two of four words: 1 x 1, brevity penalty exp(1 - 4/2)
    assert paper_scores(["grade two ductal carcinoma"], "grade two")["bleu2"][2] == pytest.approx(math.exp(-1), abs=1e-8)


def test_commas_leave_empty_pieces_and_duplicates_count_once():
    assert paper_scores(["left"], "left,")["exact_match"] == (0.5, 1, pytest.approx(2 / 3))  # "left" and ""
    assert paper_scores(["left"], "left, left ,left")["exact_match"] == (1, 1, 1)
    assert paper_scores(["left"], "left, Left")["exact_match"] == (1, 1, 1)  # two items, both right
    assert paper_scores(["left"], "right, Right")["exact_match"][0] == 0
    assert paper_scores(["left"], ",")["exact_match"] == (0, 0, 0)  # one empty item, not an empty list


def test_punctuation_only_counts_as_empty():
    assert paper_scores(["..."], "?!")["rougeL"] == (1, 1, 1)
    assert paper_scores(["..."], "left")["bleu2"] == (0, 0, 0)
    assert paper_scores(["left"], "--")["exact_match"] == (0, 0, 0)


def test_articles_stay_unicode_survives_and_space_stop_is_deleted_in_the_first_answer_only():
    assert paper_words("The lungs") == ("the", "lung")
    assert paper_scores(["the lung"], "lung")["exact_match"][2] == 0
    assert paper_words("NAÏVE  Größe\u00a0“x”") == ("naïv", "größe", "“x”")  # only ASCII punctuation is deleted
    assert paper_scores(["grade 2 .5"], "grade 25")["exact_match"][2] == 1
    assert paper_scores(["left", "grade 2 .5"], "grade 25")["exact_match"][1] == 0


def test_stemmer_is_nltks_extended_porter():
    assert paper_words("dying flies skies") == ("die", "fli", "sky")  # original Porter: dy, fli, ski


@pytest.mark.parametrize(
    "gold, wrong",
    [("2.5", "25"), ("2.5 cm", "2.5 mm"), ("ER+", "ER-"), ("ER +", "ER -"), ("ER(+)", "ER(-)"), ("stage IIIA", "stage IIIB"), ("II", "III"),
     ("3+4", "4+3"), ("-2", "2"), ("3/15", "315"), ("<1 cm", ">1 cm"), ("T1", "T1a")],
)  # fmt: skip
def test_clinical_family_keeps_apart(gold, wrong):
    assert clinical_scores([gold], wrong)["exact_match"][2] == 0
    assert clinical_scores([gold], wrong)["rougeL"][2] < 1
    assert clinical_scores([gold], gold)["average"] == (1, 1, 1)


@pytest.mark.parametrize(
    "one, other",
    [("2.5cm", "2.5 CM"), (".5 cm", "0.5 cm"), ("ER +", "er+."), ("ER -ve", "ER-"), ("3 + 4", "3+4"), ("non-small cell", "Non small  cell"),
     ("1,200 mL", "1200 ml"), ("- left", "left"), ("T1–2", "T1-2"), ("pT2.", "pT2"), ("3 x 2.5", "3x2.5"), ("Crohn's", "Crohns"), ("2 / 9", "2/9")],
)  # fmt: skip
def test_clinical_family_holds_spellings_together(one, other):
    assert clinical_words(one) == clinical_words(other)


def test_clinical_words_are_stable():
    for text in ["ER +, PR -", "10 x 2.5 cm.", "non-small", "30%", "(i-)", "> 2 cm", "a - b"]:
        words = clinical_words(text)
        assert clinical_words(" ".join(words)) == words


def test_clinical_bleu_has_the_order_of_a_short_answer_and_agrees_with_nltk():
    assert clinical_scores(["Lung"], "lung")["bleu2"][2] == 1
    assert clinical_scores(["lung"], "lung cancer")["bleu2"][2] == pytest.approx(0.5)
    assert clinical_scores(["lung cancer"], "lung")["bleu2"][2] == 0
    for gold, predicted in [("a b c d", "a b c d"), ("a b c d", "a b"), ("a b c d", "b c d e f g"), ("a a b", "a a a b b"), ("x y", "y x")]:
        by_nltk = sentence_bleu([gold.split()], predicted.split(), weights=(0.5, 0.5)) if set(zip(gold.split(), gold.split()[1:])) & set(
            zip(predicted.split(), predicted.split()[1:])
        ) else 0.0  # nltk warns and returns 1e-155 where no bigram is shared
        assert clinical_scores([gold], predicted)["bleu2"][2] == pytest.approx(by_nltk, abs=1e-12)


def test_clinical_lists_split_like_the_papers_except_inside_numbers():
    assert metrics.split_clinical("left, 1,200 ml,x,") == ["left", "1,200 ml", "x", ""]
    assert metrics.split_paper("left, 1,200 ml") == ["left", "1", "200 ml"]


def test_scores_lie_in_the_unit_interval_and_match_themselves():
    texts = ["left", "pT2 N0", "invasive ductal carcinoma", "2.5 cm", "a, b", ".", "ER+, PR-"]
    for gold in texts:
        for predicted in texts:
            for scorer in (paper_scores, clinical_scores):
                for p, r, f1 in scorer([gold], predicted).values():
                    assert 0 <= p <= 1 and 0 <= r <= 1 and min(p, r) - 1e-12 <= f1 <= max(p, r) + 1e-12
        assert clinical_scores(gold.split(", "), gold)["exact_match"] == (1, 1, 1)


def test_value_scores():
    assert value_scores(["T2"], "t2") == {"value_accuracy": 1, "false_answer": None, "miss": 0}
    assert value_scores(["T2"], "T3") == {"value_accuracy": 0, "false_answer": None, "miss": 0}
    assert value_scores(["T2"], "not stated") == {"value_accuracy": 0, "false_answer": None, "miss": 1}
    assert value_scores(["T2"], "unparsed") == {"value_accuracy": 0, "false_answer": None, "miss": 1}
    assert value_scores(["not stated"], "not stated") == {"value_accuracy": 1, "false_answer": 0, "miss": None}
    assert value_scores(["not stated"], "T2") == {"value_accuracy": 0, "false_answer": 1, "miss": None}
    assert value_scores(["not stated"], "unparsed") == {"value_accuracy": 0, "false_answer": 0, "miss": None}
    assert value_scores(["ER", "PR"], "PR, ER")["value_accuracy"] == 1
    assert value_scores(["ER", "PR"], "PR")["value_accuracy"] == 0
    assert value_scores(["carcinoma, mixed, of the breast"], "Carcinoma, mixed, of the breast")["value_accuracy"] == 1


def test_caches_are_bounded():
    for cached in (metrics._similarities, metrics._flat, metrics._stem, metrics.paper_words, metrics.clinical_words):
        assert cached.cache_info().maxsize == metrics.CACHE_SIZE


# ---- against the same evaluator, written plainly -----------------------------------------------------------------------------

# Words that tell the choices apart: articles, plurals and suffixes for the stemmer, signs, decimals, units, punctuation alone, other scripts.
PIECES = ["the", "a", "an", "carcinoma", "carcinomas", "Lung", "lungs", "metastases", "dying", "skies", "grading", "differentiated", "2.5", "25", "2,5", "cm",
          "2.5cm", "T2", "t2a", "pT2", "IIIA", "ER+", "ER-", "(+)", "ER", "-ve", "3 + 4", "3+4", "<1", "> 1", "non-small", "...", "--", "?!", ".", " .", ",", ", ", ",,",
          "", " ", "\t", "\u00a0", "Größe", "NAÏVE", "ΑΣ", "İ", "ß", "“x”", "肿瘤", "\U0001f600", "e\u0301", "2\u00d73", "\u22122", "1/15", "50%", "_", "x"]
phrases = st.lists(st.sampled_from(PIECES), max_size=8).map(" ".join) | st.text(max_size=25)


def same(ours: dict, plain: dict) -> None:
    for name in (*AVERAGED, "average"):
        assert ours[name] == pytest.approx(plain[name], abs=1e-9, rel=0), name


@settings(max_examples=300, deadline=None)
@given(st.lists(phrases, max_size=4), phrases | st.lists(phrases, max_size=4).map(",".join))
def test_paper_family_equals_the_plain_evaluator(answers, prediction):
    same(paper_scores(answers, prediction), plain_metrics.plain_scores(answers, prediction))


@settings(max_examples=200, deadline=None)
@given(st.lists(phrases, max_size=3), phrases | st.lists(phrases, max_size=3).map(",".join))
def test_clinical_family_equals_its_rules_written_plainly(answers, prediction):
    def words(text):
        return plain_metrics.clinical_words(text, metrics.SETTINGS["clinical_rewrites"])

    same(clinical_scores(answers, prediction), plain_metrics.plain_clinical_scores(answers, prediction, words))


def random_pairs(n, seed):
    """Answers of random words, a third of them repeated many times over, with predictions that are copies, shuffles or others."""
    rng = np.random.default_rng(seed)
    letters = list("abcdefgilmnorst")
    words = ["".join(rng.choice(letters, size=rng.integers(1, 9))) + str(rng.choice(["", "s", "es", "ing", "ed", "ly", "ational", "+", ".5", "'s"])) for _ in range(60)]
    for _ in range(n):
        answers = [" ".join(rng.choice(words, size=rng.integers(0, 6)).tolist() * int(rng.choice([1, 1, 12]))) for _ in range(rng.integers(0, 4))]
        own = " ".join(rng.permutation(answers[0].split())) if answers else ""
        yield answers, ",".join([*rng.permutation(answers)[: rng.integers(0, 3)].tolist(), own, " ".join(rng.choice(words, size=3))][rng.integers(0, 3) :])


def test_random_words_and_long_repeats_equal_the_plain_evaluator():
    for answers, prediction in random_pairs(150, seed=3):
        same(paper_scores(answers, prediction), plain_metrics.plain_scores(answers, prediction))


def test_words_without_a_final_letter_need_no_stemmer():
    for word in ["2a", "t2", "running2", "25", "größe", "glioblastomé", "x\u0301", "plan9"]:
        assert metrics._stem(word) == metrics.STEMMER.stem(word)


def test_score_pairs_is_the_scorers_in_one_array():
    pairs = [(["lung cancer"], "lung carcinoma"), ([], ""), (["a", "b"], "a"), (["lung cancer"], "lung carcinoma")]
    wanted = (("paper", "bleu2"), ("clinical", "average"), ("clinical", "rouge1"))
    table = score_pairs(iter(pairs), wanted)
    assert table.shape == (4, 3, 3)
    for row, (answers, prediction) in zip(table, pairs):
        assert row.tolist() == [list(metrics.SCORERS[family](answers, prediction)[metric]) for family, metric in wanted]
    assert score_pairs([], wanted).shape == (0, 3, 3)


def test_rouge_1_by_hand():
    assert clinical_scores(["a b c d"], "d b x")["rouge1"][2] == pytest.approx(4 / 7)  # 2 of 4 and 2 of 3, in any order
    assert clinical_scores(["a a b"], "a a a")["rouge1"][2] == pytest.approx(2 / 3)  # the third a has no partner
    assert paper_scores(["tumours"], "tumour")["rouge1"][2] == 1


def test_ordered_fields_hold_the_values_of_the_tasks():
    from cancerllm_utils.tasks.task import load_task, task_names

    fields = {field for task in task_names() for field in load_task(task)["fields"]}
    for field, values in metrics.ORDERED_FIELDS.items():
        assert len(set(values)) == len(values) > 1
        assert field in fields


# ---- what the choices do -------------------------------------------------------------------------------------------------------


def points(pairs):
    return metrics_sensitivity(pairs).set_index(["metric", "choice"])["points"].round(2)


def test_bleu_of_a_right_one_word_answer_depends_on_who_computes_it():
    bleu = points([(["lung"], "lung")])["bleu2"]
    assert bleu["paper: coco-caption, not smoothed"] == 0.1 and bleu["nltk, not smoothed"] == 0
    assert bleu["nltk method 1 (sacrebleu floor 0.1)"] == pytest.approx(31.62) and bleu["nltk method 3 (sacrebleu exp)"] == pytest.approx(70.71)
    assert bleu["clinical: order of the answer's length"] == bleu["sacrebleu effective order"] == 100


def test_signs_decimals_articles_and_stems_by_choice():
    found = points([(["ER+"], "ER-")])
    assert found["exact_match"].to_dict() == {"paper: no punctuation, stems": 100, "clinical: points, signs and units count": 0, "no punctuation, no stems": 100,
                                              "SQuAD: no punctuation, no articles": 100, "the very string": 0}
    assert found["rougeL"]["rouge_score: a-z and 0-9 only"] == 100 and found["rougeL"]["clinical: beta 1.2, points and signs count"] == 0
    assert points([(["2.5"], "2 5")])["rougeL"]["rouge_score: a-z and 0-9 only"] == 100
    assert points([(["the lungs"], "lungs")])["exact_match"]["SQuAD: no punctuation, no articles"] == 100
    assert points([(["lungs"], "lung")])["exact_match"]["no punctuation, no stems"] == 0


def test_sensitivity_holds_both_families_own_numbers_and_the_headline():
    pairs = [(["lung cancer"], "lung carcinoma"), (["2.5 cm"], "2.5 cm"), ([], ""), (["a", "b"], "a"), (["lung cancer"], "lung carcinoma")]
    table = metrics_sensitivity(pairs).set_index(["metric", "choice"])
    paper = {m: 100 * np.mean([paper_scores(a, p)[m][2] for a, p in pairs]) for m in (*AVERAGED, "average", "rouge1")}
    clinical = {m: 100 * np.mean([clinical_scores(a, p)[m][2] for a, p in pairs]) for m in AVERAGED}
    for metric in AVERAGED:
        of_paper, of_clinical = (table.loc[metric].filter(like=family, axis=0).iloc[0] for family in ("paper:", "clinical:"))
        assert of_paper["points"] == pytest.approx(paper[metric]) and of_clinical["points"] == pytest.approx(clinical[metric])
        assert of_paper["average with it"] == pytest.approx(paper["average"]) and of_paper["minus paper"] == 0
    assert table.loc["rouge1"]["points"].iloc[0] == pytest.approx(paper["rouge1"]) and table.loc["rouge1"]["average with it"].isna().all()
    assert metrics_sensitivity([]).empty


def test_the_choice_can_change_who_is_ahead():
    # one system gives right one-word answers, the other wrong ones of two words that share one with the gold
    table = order_of_systems({"exact": [(["left"], "left")] * 3 + [(["lung cancer"], "x")] * 2, "wordy": [(["left"], "x")] * 2 + [(["lung cancer"], "lung cancer")] * 3})
    assert len(set(table["order"])) == 2 and list(table.columns) == ["metric", "choice", "exact", "wordy", "order"]


def test_disagreements_show_the_lost_decimal_and_the_lost_sign():
    table = disagreements().set_index(["gold", "prediction"])
    assert table.loc[("2.5", "25"), "paper"] > 60 and table.loc[("2.5", "25"), "clinical"] == 0
    assert table.loc[("ER+", "ER-"), "clinical"] == 0 and table.loc[("left", "left"), "clinical"] == 100
    assert (table["why"] != "").all() and len(table) == len(metrics.SETTINGS["disagreements"])
    own = disagreements([(["ER+"], "ER-"), (["ER+"], "ER-"), (["lung cancer"], "lung cancer")])
    assert own[["gold", "prediction", "times"]].values.tolist() == [["ER+", "ER-", 2]]
