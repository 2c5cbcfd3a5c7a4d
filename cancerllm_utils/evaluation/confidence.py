"""How far a system's own confidence can be trusted: calibration, what answering only the surest questions gains, and when to ask a human.

What is judged is the probability that a system gives its whole answer (answers.read_answers, `probability`). The mean per token, which prediction files
also hold, is close to 1 for any fluent answer and says little. Right means the right value. Everything that is chosen (the temperature of Guo et al.
2017, https://proceedings.mlr.press/v70/guo17a.html, here of the answer's probability, and the threshold below which a human is asked) is chosen on development patients and
reported on the others. Ties in confidence are never broken by the order of the rows: equally sure answers share their mean.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import answers as answer_tables
from cancerllm_utils.evaluation import score, stats
from cancerllm_utils.results import model_name, ring_name, task_name

EDGE = 1e-6  # probabilities are kept so far from 0 and 1, whose logit is infinite
LEAST_DEV = 20  # development answers below which nothing is chosen
CURVE = list(range(5, 101, 5))  # coverage in %
MOST_STEPS = 200  # steps of the risk-coverage curve behind the interval of its area
COLUMNS = [*answer_tables.KEYS, "n", "patients", "right", "confidence", "ece", "ece_low", "ece_high", "ece_if_perfect", "ece_per_token", "brier", "dev_items", "temperature",
           "ece_scaled", "ece_scaled_low", "ece_scaled_high", "brier_scaled", "aurc", "aurc_low", "aurc_high", "aurc_best", "threshold", "sent", "right_kept",
           "right_kept_low", "right_kept_high", "errors_left", "errors_caught"]  # fmt: skip
CURVE_COLUMNS = [*answer_tables.KEYS, "coverage", "n", "right", "low", "high"]
BIN_COLUMNS = [*answer_tables.KEYS, "scaled", "bin", "n", "confidence", "right", "low", "high"]


# ---- calibration -----------------------------------------------------------------------------------------------------------------


def bins(sure: np.ndarray, n_bins: int) -> np.ndarray:
    """Number of the bin of each answer, bins of about equal size; equal values share a bin, so there may be fewer."""
    edges = np.unique(np.quantile(sure, np.linspace(0, 1, n_bins + 1)))
    return np.clip(np.searchsorted(edges, sure, side="right") - 1, 0, max(len(edges) - 2, 0))


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """100 * part / whole as a column; NaN of nothing, as where the only cluster is left out."""
    return 100 * np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)[:, None]


def calibration_error(sure, right, clusters=None, n_bins: int = 5, n_draws: int = 1000, seed: int = 0) -> dict:
    """Expected calibration error in points: {ece, low, high, if_perfect}.

    The mean over answers of |share right - mean probability| of their bin (Naeini et al. 2015, doi 10.1609/aaai.v29i1.9602), bins of equal size. The error of
    a finite sample is above 0 also for a perfect system: if_perfect is its mean where every answer is right with the probability given for it. For the
    same reason resampling, which adds noise to noise, gives limits above the truth (in simulated systems with a small error 18 % of them held it, of these
    90 %): the limits are t limits of a jackknife over clusters.
    """
    sure, right = np.asarray(sure, dtype=float), np.asarray(right, dtype=float)
    codes, clusters = bins(sure, n_bins), np.arange(len(sure)) if clusters is None else clusters
    k = int(codes.max()) + 1
    member = np.eye(k)[codes]
    owner, count = stats.cluster_codes(clusters)
    sums = np.zeros((count, k + 1))
    np.add.at(sums, owner, np.column_stack([member * (right - sure)[:, None], np.ones(len(sure))]))

    def statistic(sums):
        return share(np.abs(sums[:, :k]).sum(axis=1), sums[:, k])

    low, high = stats.limits_of_sums(sums, sums[:, k], statistic, "t", 0, seed)
    order = np.argsort(sure, kind="stable")  # so that the draws do not depend on the order of the rows
    drawn = np.random.default_rng(seed).random((n_draws, len(sure))) < sure[order]
    perfect = 100 * np.abs((drawn - sure[order]) @ member[order]).sum(axis=1).mean() / len(sure)
    return {"ece": float(statistic(sums.sum(axis=0, keepdims=True))[0, 0]), "low": max(float(low[0]), 0.0), "high": min(float(high[0]), 100.0), "if_perfect": float(perfect)}


def reliability(sure, right, rows: pd.DataFrame, split: str, n_bins: int = 5, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """One row per bin: bin, n, confidence (mean probability), right, low, high (%)."""
    table, found = rows.assign(sure=np.asarray(sure, dtype=float), hit=np.asarray(right, dtype=float)), []
    for number, part in table.groupby(bins(table["sure"].to_numpy(), n_bins)):
        low, high = answer_tables.share_interval(part["hit"], part, split, n_resamples, seed)
        found.append({"bin": int(number), "n": len(part), "confidence": 100 * part["sure"].mean(), "right": 100 * part["hit"].mean(), "low": low, "high": high})
    return pd.DataFrame(found)


def fit_temperature(sure, right) -> float:
    """The temperature T for which expit(logit(p) / T) predicts best (log loss) which answers are right; NaN where too few or all alike were asked."""
    sure, right = np.asarray(sure, dtype=float), np.asarray(right, dtype=bool)
    if len(sure) < LEAST_DEV or right.all() or not right.any():
        return float("nan")
    odds = logit(np.clip(sure, EDGE, 1 - EDGE))
    loss = minimize_scalar(lambda log_t: np.logaddexp(0, np.where(right, -odds, odds) / np.exp(log_t)).mean(), bounds=(-4, 4), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(loss.x))


def scaled(sure, temperature: float) -> np.ndarray:
    """Probabilities at a temperature: expit(logit(p) / T)."""
    return expit(logit(np.clip(np.asarray(sure, dtype=float), EDGE, 1 - EDGE)) / temperature)


# ---- answering the surest ----------------------------------------------------------------------------------------------------------


def surest_first(sure, right) -> tuple[np.ndarray, np.ndarray]:
    """(order of the answers from the surest on, right (0 to 1) in that order, answers that are equally sure sharing their mean)."""
    sure = np.asarray(sure, dtype=float)
    shared = pd.Series(np.asarray(right, dtype=float)).groupby(sure).transform("mean").to_numpy()
    order = np.argsort(-sure, kind="stable")
    return order, shared[order]


def area_under_risk(sure, right) -> float:
    """Area under the risk-coverage curve in points: the mean over k of the share of wrong among the k surest (Geifman and El-Yaniv 2017,
    https://arxiv.org/abs/1705.08500). The overall error share is what a confidence without information gives."""
    hits = surest_first(sure, right)[1]
    return float(100 * (1 - np.cumsum(hits) / np.arange(1, len(hits) + 1)).mean())


def area_interval(sure, right, clusters, method: str, n_resamples: int, seed: int) -> tuple[float, float]:
    """95 % interval of area_under_risk over clusters, from the curve in at most MOST_STEPS steps."""
    order, hits = surest_first(sure, right)
    step = np.arange(len(hits)) * min(MOST_STEPS, len(hits)) // len(hits)
    owner, count = stats.cluster_codes(np.asarray(clusters)[order])
    k = int(step.max()) + 1
    sums = np.zeros((count, 2 * k))
    np.add.at(sums, (owner, step), 1 - hits)
    np.add.at(sums, (owner, k + step), 1)

    def statistic(sums):
        wrong, seen = np.cumsum(sums[:, :k], axis=1), np.cumsum(sums[:, k:], axis=1)
        weight = sums[:, k:]
        risk = np.divide(wrong, seen, out=np.zeros_like(wrong), where=seen > 0)
        return share((risk * weight).sum(axis=1), weight.sum(axis=1))

    low, high = stats.limits_of_sums(sums, sums[:, k:].sum(axis=1), statistic, method, n_resamples, seed)
    return max(float(low[0]), 0.0), min(float(high[0]), 100.0)


def curve(sure, right, rows: pd.DataFrame, split: str, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """What answering only the surest gives: coverage (% answered, CURVE), n, right, low, high (% of the answered)."""
    order, hits = surest_first(sure, right)
    ordered, found = rows.iloc[order], []
    for coverage in CURVE:
        n = max(1, round(len(hits) * coverage / 100))
        low, high = answer_tables.share_interval(hits[:n], ordered.iloc[:n], split, n_resamples, seed)
        found.append({"coverage": coverage, "n": n, "right": 100 * hits[:n].mean(), "low": low, "high": high})
    return pd.DataFrame(found)


def threshold(sure, right, review_share: float, target_error: float = 0.0) -> float:
    """The probability below which an answer is sent to a human, from development answers.

    target_error 0: so that `review_share` of the answers are sent. Else the lowest one at which at most that share of the answers that are kept is wrong
    (infinite where even the surest are not so good). NaN where there are fewer than LEAST_DEV answers.
    """
    sure = np.asarray(sure, dtype=float)
    if len(sure) < LEAST_DEV:
        return float("nan")
    if not target_error:
        return float(np.quantile(sure, review_share))
    hits = surest_first(sure, right)[1]
    cut, wrong = np.sort(sure)[::-1], 1 - np.cumsum(hits) / np.arange(1, len(hits) + 1)
    whole = np.append(cut[1:] < cut[:-1], True)  # a threshold keeps all answers that are equally sure, or none
    good = np.flatnonzero(whole & (wrong <= target_error + 1e-12))
    return float(cut[good[-1]]) if len(good) else float("inf")


def review(sure, right, rows: pd.DataFrame, split: str, cut: float, n_resamples: int = 1000, seed: int = 0) -> dict:
    """What a threshold does in a test set: sent (% of the answers that a human reads), right_kept with low and high (% of the others), errors_left (wrong answers
    that nobody reads, per 100 questions), errors_caught (% of the wrong answers that are sent)."""
    sure, right = np.asarray(sure, dtype=float), np.asarray(right, dtype=bool)
    if np.isnan(cut):
        return {}
    kept = sure >= cut
    found = {"sent": 100 * (~kept).mean(), "errors_left": 100 * (kept & ~right).mean(), "errors_caught": 100 * (~kept & ~right).sum() / (~right).sum() if not right.all() else np.nan}
    if kept.any():
        low, high = answer_tables.share_interval(right[kept], rows[kept], split, n_resamples, seed)
        found |= {"right_kept": 100 * right[kept].mean(), "right_kept_low": low, "right_kept_high": high}
    return found


# ---- a run -----------------------------------------------------------------------------------------------------------------------


def check(review_share: float, target_error: float, n_bins: int) -> None:
    """UserError for parameters that make no sense, before anything is computed."""
    if not 0 < review_share < 1:
        raise UserError(f"review_share: {review_share}. It is the share of the answers that a human reads: set a number between 0 and 1, such as 0.2.")
    if not 0 <= target_error < 1:
        raise UserError(f"target_error: {target_error}. It is the share of wrong answers that may remain: set a number from 0 (not used) to below 1.")
    if n_bins < 2:
        raise UserError(f"n_bins: {n_bins}. A reliability diagram takes 2 bins or more: set 5.")


def run(run_dir: str | Path, answers: pd.DataFrame, review_share: float = 0.2, target_error: float = 0.0, n_bins: int = 5, n_resamples: int = 1000,
        seed: int = 0) -> dict[str, pd.DataFrame]:
    """Judge every system that gives probabilities, per task and test set; writes and returns results/calibration.csv (COLUMNS), risk_coverage.csv
    (CURVE_COLUMNS) and reliability.csv (BIN_COLUMNS; `scaled` at the temperature of the development patients) as {"calibration", "curve", "bins"}.

    answers: answers.read_answers; in extraction the headline items count. Shares are in %. In the rows of dev itself what was chosen there flatters.
    """
    check(review_share, target_error, n_bins)
    known = answer_tables.counted(answers)
    known = known[known["probability"].notna()]
    rows, curves, bin_tables = [], [], []
    for (model, stage, task), system in known.groupby(["model", "stage", "task"], sort=False):
        dev = system[system["split"] == "dev"]
        temperature = fit_temperature(dev["probability"], dev["right"])
        cut = threshold(dev["probability"], dev["right"], review_share, target_error)
        for split, part in system.groupby("split", sort=False):
            key = {"model": model, "stage": stage, "task": task, "split": split}
            rows.append(key | judged(part, split, temperature, cut, n_bins, n_resamples, seed) | {"dev_items": len(dev), "temperature": temperature, "threshold": cut})
            curves.append(curve(part["probability"], part["right"], part, split, n_resamples, seed).assign(**key))
            for is_scaled in [False, True] if temperature == temperature else [False]:
                sure = scaled(part["probability"], temperature) if is_scaled else part["probability"]
                bin_tables.append(reliability(sure, part["right"], part, split, n_bins, n_resamples, seed).assign(**key, scaled=is_scaled))
    found = {"calibration": (pd.DataFrame(rows), COLUMNS, "calibration.csv"), "curve": (pd.concat(curves) if curves else pd.DataFrame(), CURVE_COLUMNS, "risk_coverage.csv"),
             "bins": (pd.concat(bin_tables) if bin_tables else pd.DataFrame(), BIN_COLUMNS, "reliability.csv")}
    results = Path(run_dir) / "results"
    results.mkdir(parents=True, exist_ok=True)
    tables = {}
    for name, (table, columns, file_name) in found.items():
        tables[name] = table.reindex(columns=columns).reset_index(drop=True)
        score.write_whole(results / file_name, lambda file, table=tables[name]: table.to_csv(file, index=False, float_format="%.6f"))
    return tables


def judged(part: pd.DataFrame, split: str, temperature: float, cut: float, n_bins: int, n_resamples: int, seed: int) -> dict:
    """The numbers of one system, task and test set: all of COLUMNS that the caller does not know."""
    sure, right = part["probability"].to_numpy(dtype=float), part["right"].to_numpy(dtype=bool)
    clusters, method = score.ring_clusters(part, split)
    error = calibration_error(sure, right, clusters, n_bins, n_resamples, seed)
    low, high = area_interval(sure, right, clusters, method, n_resamples, seed)
    found = {"n": len(part), "patients": part["patient_id"].nunique(), "right": 100 * right.mean(), "confidence": 100 * sure.mean(), "ece": error["ece"], "ece_low": error["low"],
             "ece_high": error["high"], "ece_if_perfect": error["if_perfect"], "brier": float(((sure - right) ** 2).mean()),
             "ece_per_token": calibration_error(part["confidence"], right, n_bins=n_bins, n_draws=1)["ece"], "aurc": area_under_risk(sure, right), "aurc_low": low,
             "aurc_high": high, "aurc_best": area_under_risk(right, right)}
    if temperature == temperature:
        again = scaled(sure, temperature)
        error = calibration_error(again, right, clusters, n_bins, n_resamples, seed)
        found |= {"ece_scaled": error["ece"], "ece_scaled_low": error["low"], "ece_scaled_high": error["high"], "brier_scaled": float(((again - right) ** 2).mean())}
    return found | review(sure, right, part, split, cut, n_resamples, seed)


def sentences(tables: dict[str, pd.DataFrame], systems: list[tuple[str, str]], split: str, coverage: int) -> list[str]:
    """For a reader, per system and task of one test set: is it as sure as it is right, and what do the surest `coverage` % (the nearest of CURVE) and the threshold give?"""
    found = []
    for row in tables["calibration"].query("split == @split").itertuples():
        if (row.model, row.stage) not in systems:
            continue
        head = f"{model_name(row.model, row.stage)}, {task_name(row.task)}, {ring_name(split)} (n = {row.n} of {row.patients} patients): "
        off = row.confidence - row.right
        how = "about as sure as it is right" if abs(off) < 5 else "surer than it is right" if off > 0 else "less sure than it is right"
        text = f"{head}{how} (mean probability {row.confidence:.1f} %, right {row.right:.1f} %); calibration error {row.ece:.1f} points ({row.ece_low:.1f} to {row.ece_high:.1f})"
        text += f", {row.ece_scaled:.1f} at the temperature {row.temperature:.2f} of the development patients" if row.temperature == row.temperature else ""
        text += f"; a perfect system would show {row.ece_if_perfect:.1f}. "
        of_row = tables["curve"].query("model == @row.model and stage == @row.stage and task == @row.task and split == @split")
        curve_row = of_row.loc[(of_row["coverage"] - coverage).abs().idxmin()]
        text += f"Of its surest {curve_row['coverage']} % of answers {curve_row['right']:.1f} % are right ({curve_row['low']:.1f} to {curve_row['high']:.1f}), of all {row.right:.1f} %. "
        if row.threshold == row.threshold and row.right_kept == row.right_kept:
            text += (f"The threshold of the development patients sends {row.sent:.0f} of 100 answers to a human, catches {row.errors_caught:.0f} % of the wrong ones, and leaves "
                     f"{row.errors_left:.0f} wrong answers per 100 questions unread; of the answers kept {row.right_kept:.1f} % are right ({row.right_kept_low:.1f} to {row.right_kept_high:.1f}).")
        elif row.threshold == row.threshold:
            text += "The threshold of the development patients sends every answer to a human: even the surest are wrong too often."
        else:
            text += "Too few development answers to choose a threshold."
        found.append(text)
    return found or ["No system of this run gives probabilities."]
