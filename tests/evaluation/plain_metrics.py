"""The published evaluator once more, word for word from its definition and as slowly: what the package's metrics are tested and timed against.

Nothing is imported from the package, nothing is cached and nothing is clever: every comparison normalises both texts anew, as the released code does.
"""

import math
import re
import string
import unicodedata

from nltk.stem.porter import PorterStemmer

STEMMER = PorterStemmer()


def without_punctuation(text):
    text = "".join(character for character in text.strip().lower() if character not in string.punctuation)
    return " ".join(text.split())


def normalised(text):
    stems = [STEMMER.stem(word).strip() for word in without_punctuation(text).split(" ") if word]
    return " ".join(stem for stem in stems if stem)


def exact(gold, predicted):
    return 1.0 if normalised(gold) == normalised(predicted) else 0.0


def ngram_counts(words, n):
    counts = {}
    for start in range(len(words) - n + 1):
        ngram = tuple(words[start : start + n])
        counts[ngram] = counts.get(ngram, 0) + 1
    return counts


def bleu2(gold, predicted):
    gold, predicted = normalised(gold).split(" "), normalised(predicted).split(" ")
    product = 1.0
    for n in (1, 2):
        in_gold, in_predicted = ngram_counts(gold, n), ngram_counts(predicted, n)
        correct = sum(min(count, in_gold.get(ngram, 0)) for ngram, count in in_predicted.items())
        guessed = max(0, len(predicted) - n + 1)
        product *= (correct + 1e-15) / (guessed + 1e-9)
    score = product ** (1 / 2)
    ratio = (len(predicted) + 1e-15) / (len(gold) + 1e-9)
    return score * math.exp(1 - 1 / ratio) if ratio < 1 else score


def longest_common_subsequence(one, other):
    lengths = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            lengths[i][j] = lengths[i - 1][j - 1] + 1 if one[i - 1] == other[j - 1] else max(lengths[i - 1][j], lengths[i][j - 1])
    return lengths[-1][-1]


def rouge_l(gold, predicted):
    gold, predicted = normalised(gold).split(" "), normalised(predicted).split(" ")
    common = longest_common_subsequence(gold, predicted)
    precision, recall = common / len(predicted), common / len(gold)
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


PLAIN = {"exact_match": exact, "bleu2": bleu2, "rougeL": rouge_l}


def similarity(metric, gold, predicted):
    if not without_punctuation(gold) and not without_punctuation(predicted):
        return 1.0
    if not without_punctuation(gold) or not without_punctuation(predicted):
        return 0.0
    return metric(gold, predicted)


def pieces(prediction):
    if not prediction.strip():
        return []
    found = []
    for piece in prediction.split(","):
        if piece.strip() not in found:
            found.append(piece.strip())
    return found


def f1_of_lists(golds, predictions, metric):
    if not golds and not predictions:
        return 1.0, 1.0, 1.0
    if not golds:
        return 0.0, 1.0, 0.0
    if not predictions:
        return 1.0, 0.0, 0.0
    precision = sum(max(similarity(metric, gold, predicted) for gold in golds) for predicted in predictions) / len(predictions)
    recall = sum(max(similarity(metric, gold, predicted) for predicted in predictions) for gold in golds) / len(golds)
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def plain_scores(answers, prediction):
    """metric -> (precision, recall, F1), as paper_scores."""
    golds = [answer.replace(" .", "") if number == 0 else answer for number, answer in enumerate(answers)]
    scores = {name: f1_of_lists(golds, pieces(prediction), metric) for name, metric in PLAIN.items()}
    scores["average"] = tuple(sum(score[i] for score in scores.values()) / 3 for i in range(3))
    return scores


# ---- the same for the clinical family: its rules, applied at every comparison ----------------------------------------------------


def clinical_words(text, rules):
    """Words of a text under the rewriting rules of metrics.yaml, each rule tried on every text."""
    text = unicodedata.normalize("NFC", text).casefold().strip()
    for rule in rules:
        text = re.sub(rule["find"], rule["replace"], text)
    return tuple(text.split())


def plain_clinical_scores(answers, prediction, words):
    """As plain_scores with the words of the clinical family (`words`: a function of the text), BLEU of at most the answer's length."""

    def words_of(gold, predicted):
        return list(words(gold)), list(words(predicted))

    def exact(gold, predicted):
        gold, predicted = words_of(gold, predicted)
        return 1.0 if gold == predicted else 0.0

    def bleu(gold, predicted):
        gold, predicted = words_of(gold, predicted)
        product = 1.0
        order = min(2, len(gold))
        for n in range(1, order + 1):
            in_gold, in_predicted = ngram_counts(gold, n), ngram_counts(predicted, n)
            correct = sum(min(count, in_gold.get(ngram, 0)) for ngram, count in in_predicted.items())
            product *= correct / (len(predicted) - n + 1) if len(predicted) >= n else 0.0
        return product ** (1 / order) * (math.exp(1 - len(gold) / len(predicted)) if len(predicted) < len(gold) else 1.0)

    def rouge(gold, predicted):
        gold, predicted = words_of(gold, predicted)
        common = longest_common_subsequence(gold, predicted)
        precision, recall = common / len(predicted), common / len(gold)
        return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision) if common else 0.0

    def guarded(metric):
        def compare(gold, predicted):
            gold_words, predicted_words = words_of(gold, predicted)
            return metric(gold, predicted) if gold_words and predicted_words else float(gold_words == predicted_words)

        return compare

    cut = list(dict.fromkeys(piece.strip() for piece in re.split(r"(?<!\d),|,(?!\d)", prediction))) if prediction.strip() else []
    scores = {}
    for name, metric in {"exact_match": guarded(exact), "bleu2": guarded(bleu), "rougeL": guarded(rouge)}.items():
        if not answers or not cut:
            scores[name] = (float(not cut), float(not answers), float(not answers and not cut))
            continue
        precision = sum(max(metric(gold, predicted) for gold in answers) for predicted in cut) / len(cut)
        recall = sum(max(metric(gold, predicted) for predicted in cut) for gold in answers) / len(answers)
        scores[name] = (precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    scores["average"] = tuple(sum(score[i] for score in scores.values()) / 3 for i in range(3))
    return scores
