"""What worked examples are worth: scores, paired tests against none and against examples drawn by lot, an upper bound, copying, and how good retrieval is by itself.

Reads what retrieval.py left in retrieval/<model>/<stage>/ of a run. All numbers are points or percent with 95 % intervals over patients (over
institutions in the rings of unseen places); p values are adjusted by Holm over all tests of a model.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from cancerllm_utils.evaluation import groups, retrieval, score, stats
from cancerllm_utils.evaluation.retrieval_index import NAMES, NONE, ORACLE, RANDOM
from cancerllm_utils.results import SCORE_COLUMNS, p_text, signed, task_name
from cancerllm_utils.tasks.task import read_jsonl, write_jsonl

COLUMNS = [*SCORE_COLUMNS, "retriever", "k"]
TEST_COLUMNS = ["model", "stage", "task", "split", "family", "metric", "retriever", "k", "against", "difference", "low", "high", "n", "clusters", "p", "p_holm", "smallest_detectable"]
COPY_COLUMNS = ["model", "stage", "task", "split", "retriever", "k", "retrieved", "n", "patients", "right_without", "right_with", "difference", "low", "high", "p", "p_holm", "copied",
                "agreed_without"]  # fmt: skip
QUALITY_COLUMNS = ["model", "stage", "task", "split", "retriever", "metric", "value", "low", "high", "n", "patients"]
AVERAGE = groups.ALL_METRICS.index(("paper", "average"))
SUBGROUP = {"phenotype_extraction": "headline"}  # the questions asked are those of the headline


# ---- scores ------------------------------------------------------------------------------------------------------------------------


def read_condition(run_dir: Path, one: dict, retriever: str, k: int) -> tuple[pd.DataFrame, dict]:
    """One condition's answers, in the order of example_id: (score.scored_examples' frame with nearest and used, its arrays with cluster and right)."""
    path = one["folder"] / "predictions" / f"{one['task']}.{one['split']}+{retriever}_k{k}.jsonl"
    frame, arrays = score.scored_examples(path, score.read_dataset(run_dir, one["task"], one["split"]))
    rows = pd.DataFrame(read_jsonl(path)).set_index("example_id").loc[frame["example_id"]]
    frame = frame.assign(nearest=rows["nearest"].to_numpy(), used=rows["used"].to_numpy())
    clusters, method = score.ring_clusters(frame, one["split"])
    arrays |= {"cluster": pd.factorize(clusters, sort=True)[0], "right": (arrays["gold"] == arrays["predicted"]).astype(float)}
    order = np.argsort(frame["example_id"].to_numpy(), kind="stable")
    return frame.iloc[order].reset_index(drop=True).assign(method=method), {name: array[order] for name, array in arrays.items()}


def write_oracle(one: dict, read: dict) -> None:
    """The predictions of the upper bound: for each question the best-scoring of the answers that any retriever's examples led to (not none, not random)."""
    tried = [key for key in read if key[0] not in (NONE, RANDOM, ORACLE)]
    if not tried:
        return
    worth = np.stack([read[key][1]["numbers"][:, AVERAGE, 2] for key in tried])
    names = read[tried[0]][0]["example_id"].tolist()
    rows = {key: {row["example_id"]: row for row in read_jsonl(one["folder"] / "predictions" / f"{one['task']}.{one['split']}+{key[0]}_k{key[1]}.jsonl")} for key in tried}
    chosen = [rows[tried[best]][name] for name, best in zip(names, worth.argmax(axis=0).tolist(), strict=True)]
    write_jsonl(one["folder"] / "predictions" / f"{one['task']}.{one['split']}+{ORACLE}_k0.jsonl", chosen)


def read_all(run_dir: str | Path, one: dict) -> dict[tuple, tuple]:
    """{(retriever, k): read_condition} of one task and test set, the oracle last."""
    run_dir = Path(run_dir)
    read = {key: read_condition(run_dir, one, *key) for key in retrieval.conditions(list(one["ranked"]), one["ks"])}
    write_oracle(one, read)
    if any(key[0] not in (NONE, RANDOM) for key in read):
        read[ORACLE, 0] = read_condition(run_dir, one, ORACLE, 0)
    return read


def score_table(one: dict, read: dict, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Every metric of every condition of one task and test set: COLUMNS. k is 0 without examples and for the oracle."""
    rows = []
    for (retriever, k), (frame, arrays) in read.items():
        shared = {name: one[name] for name in ("model", "stage", "task", "split")}
        shared |= {"variant": "all", "field": "all", "subgroup": SUBGROUP.get(one["task"], "all"), "retriever": retriever, "k": k, "seed": seed}
        rows += [shared | row for row in groups.group_rows(arrays, "all", frame["method"].iat[0], n_resamples, seed)]
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def paired(a: np.ndarray, b: np.ndarray, clusters: np.ndarray, method: str, n_resamples: int, seed: int) -> dict:
    """a - b over the same questions: difference, low, high, n, clusters, p (permutation over clusters), smallest_detectable."""
    error, _ = stats.standard_error(a - b, clusters)
    count = len(set(clusters.tolist()))
    return stats.paired_difference(a, b, clusters, n_resamples, seed, method) | {
        "clusters": count, "p": stats.permutation_test(a, b, clusters), "smallest_detectable": stats.smallest_detectable(error * np.sqrt(count), count)}


def test_table(one: dict, read: dict, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Average F1 of each retriever and k against no example, and against as many random ones: TEST_COLUMNS without p_holm. The oracle is not tested."""
    rows = []
    for (retriever, k), (frame, arrays) in read.items():
        for against in (NONE, RANDOM):
            key = (against, 0 if against == NONE else k)
            if retriever in (NONE, ORACLE, against) or key not in read:
                continue
            sides = [side["numbers"][:, AVERAGE, 2] for side in (arrays, read[key][1])]
            found = paired(*sides, arrays["cluster"], frame["method"].iat[0], n_resamples, seed)
            rows.append({name: one[name] for name in ("model", "stage", "task", "split")} | {"family": "paper", "metric": "average", "retriever": retriever, "k": k, "against": against} | found)
    return pd.DataFrame(rows).reindex(columns=TEST_COLUMNS)


def copy_table(one: dict, read: dict, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Copying, apart for questions whose nearest example has the right answer and those where it has a wrong one: COPY_COLUMNS without p_holm.

    right_without, right_with: share of right answers without examples and with them. copied: answers equal to the nearest example's answer;
    agreed_without: the same without having seen it, so that what exceeds it is copying. All in percent.
    """
    rows, (_, without) = [], read[NONE, 0]
    for (retriever, k), (frame, arrays) in read.items():
        if retriever in (NONE, ORACLE):
            continue
        nearest = frame["nearest"].map(plain).to_numpy()
        gold = frame["answers"].map(lambda answers: plain(answers[0])).to_numpy()
        with_it, before = (pd.Series(side["parsed"]).map(plain).to_numpy() == nearest for side in (arrays, without))
        for retrieved, mask in (("right", nearest == gold), ("wrong", (nearest != gold) & (nearest != ""))):
            if not mask.any():
                continue
            a, b, clusters = 100 * arrays["right"][mask], 100 * without["right"][mask], arrays["cluster"][mask]
            found = paired(a, b, clusters, frame["method"].iat[0], n_resamples, seed)
            rows.append({name: one[name] for name in ("model", "stage", "task", "split")} | {"retriever": retriever, "k": k, "retrieved": retrieved, "right_without": b.mean(), "right_with": a.mean(),
                        "copied": 100 * with_it[mask].mean(), "agreed_without": 100 * before[mask].mean(), "patients": frame["patient_id"][mask].nunique()} | found)  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=COPY_COLUMNS)


def plain(answer: str) -> str:
    """An answer as it is compared with another one: lower case, single spaces."""
    return " ".join(answer.lower().split())


# ---- how good the retrieval is, whatever the model does with it ----------------------------------------------------------------------


def label_codes(run_dir: str | Path, notes: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """What is known of each note's patient: (table note_id x fields of numbers, one per value, -1 where unknown; the fields). The registry's value, else the stated one."""
    labels = pd.read_parquet(Path(run_dir) / "corpus" / "labels.parquet", columns=["note_id", "field", "stated_value", "registry_value"])
    labels = labels[labels["note_id"].isin(set(notes))]
    labels = labels.assign(value=labels["registry_value"].where(labels["registry_value"].notna(), labels["stated_value"])).dropna(subset="value")
    wide = labels.drop_duplicates(["note_id", "field"]).pivot(index="note_id", columns="field", values="value").reindex(list(dict.fromkeys(notes)))
    return wide.apply(lambda column: pd.Series(pd.factorize(column)[0], index=column.index)), list(wide.columns)


def shared_labels(question: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Share (0-1) of the question's known labels that each candidate has too, (n,); 0 where nothing is known. Arrays of label_codes."""
    known = question >= 0
    return (candidates[:, known] == question[known]).mean(axis=1) if known.any() else np.zeros(len(candidates))


def ndcg(gains: np.ndarray, best: np.ndarray) -> float:
    """Normalised discounted cumulative gain of what was found (its gains in that order, DEPTH at most), 0-1; best: the gains of all that could be found.

    What was not found adds nothing (scikit-learn's ndcg_score would fill a short list with the mean of the rest).
    """
    discounts = 1 / np.log2(np.arange(2, retrieval.DEPTH + 2))
    ideal = np.sort(best)[::-1][: retrieval.DEPTH]
    return float(gains @ discounts[: len(gains)] / (ideal @ discounts[: len(ideal)]))


def share_limits(values: np.ndarray, clusters: np.ndarray, method: str, n_resamples: int, seed: int) -> tuple[float, float]:
    """95 % limits of the mean of `values` (0-1) in percent; where all are 0, or all 1, no resampling could move them: Wilson's, of as many patients."""
    if len(set(values.tolist())) == 1 and values[0] in (0, 1):
        count = len(set(clusters.tolist()))
        low, high = binomtest(count * int(values[0]), count).proportion_ci(method="wilson")
    else:
        low, high = stats.cluster_interval(values, clusters, method, n_resamples, seed)
    return 100 * max(low, 0), 100 * min(high, 1)


def quality_table(run_dir: str | Path, one: dict, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """How like the questions what was retrieved is, per retriever: QUALITY_COLUMNS, in percent unless the metric's name says otherwise.

    same_histology_1, _3: questions (of known histology) whose nearest example, or the share of the nearest three, is of a patient with the same
    histology. ndcg_10: normalised discounted cumulative gain of the first ten, gain being the share of the patient's known labels that the candidate
    shares, against the best order of all allowed candidates. same_answer_1, _3: the nearest example, or one of three, has the question's answer.
    guarded: questions whose first candidate was shut out, by reason. milliseconds: to find a question's examples. index_megabytes: on disk.
    """
    store, questions = one["store"], one["questions"]
    codes, fields = label_codes(run_dir, [*store["note_id"], *questions["note_id"]])
    table = codes.to_numpy()
    place = {note: number for number, note in enumerate(codes.index)}
    of_store, of_questions = (table[[place[note] for note in part["note_id"]]] for part in (store, questions))
    histology = fields.index("histology") if "histology" in fields else None
    answers, gold = store["answer"].map(plain).to_numpy(), questions["answer"].map(plain).to_numpy()
    clusters, method = score.ring_clusters(questions, one["split"])
    rows = []
    for retriever, lists in one["ranked"].items():
        measures = {name: np.full(len(questions), np.nan) for name in ("same_histology_1", "same_histology_3", "ndcg_10", "same_answer_1", "same_answer_3")}
        for number, places in enumerate(lists):
            if histology is not None and of_questions[number, histology] >= 0:
                same = of_store[places, histology] == of_questions[number, histology]
                measures["same_histology_1"][number], measures["same_histology_3"][number] = same[:1].sum(), same[:3].sum() / 3
            allowed = np.flatnonzero(one["allowed"][number])
            gains = shared_labels(of_questions[number], of_store[allowed])
            if len(allowed) > 1 and gains.max() > 0:
                measures["ndcg_10"][number] = ndcg(shared_labels(of_questions[number], of_store[places]), gains)
            found = answers[places] == gold[number]
            measures["same_answer_1"][number], measures["same_answer_3"][number] = found[:1].any(), found[:3].any()
        shared = {name: one[name] for name in ("model", "stage", "task", "split")} | {"retriever": retriever}
        for guard in retrieval.GUARDS if retriever in one["indexes"] else ():
            measures[f"guarded_{guard}"] = np.array([reason == guard for reason in one["guarded"][retriever]], dtype=float)
        for metric, values in measures.items():
            asked = ~np.isnan(values)
            if asked.any():
                low, high = share_limits(values[asked], clusters[asked], method, n_resamples, seed)
                rows.append(shared | {"metric": metric, "value": 100 * values[asked].mean(), "low": low, "high": high, "n": int(asked.sum()),
                                      "patients": questions["patient_id"][asked].nunique()})  # fmt: skip
        if retriever in one["indexes"]:
            cost = {"milliseconds": 1000 * one["seconds"][retriever], "index_megabytes": one["indexes"][retriever]["bytes"] / 1e6}
            rows += [shared | {"metric": metric, "value": value, "n": len(questions)} for metric, value in cost.items()]
    return pd.DataFrame(rows).reindex(columns=QUALITY_COLUMNS)


# ---- all together ------------------------------------------------------------------------------------------------------------------


def tables(run_dir: str | Path, found: list[dict], n_resamples: int = 1000, seed: int = 0) -> dict[str, pd.DataFrame]:
    """{retrieval, retrieval_tests, retrieval_copies, retrieval_quality} of what retrieval.run_stage returned (of one model, any stages); p_holm filled in."""
    parts = {name: [] for name in ("retrieval", "retrieval_tests", "retrieval_copies", "retrieval_quality")}
    for one in found:
        read = read_all(run_dir, one)
        parts["retrieval"].append(score_table(one, read, n_resamples, seed))
        parts["retrieval_tests"].append(test_table(one, read, n_resamples, seed))
        parts["retrieval_copies"].append(copy_table(one, read, n_resamples, seed))
        parts["retrieval_quality"].append(quality_table(run_dir, one, n_resamples, seed))
    columns = {"retrieval": COLUMNS, "retrieval_tests": TEST_COLUMNS, "retrieval_copies": COPY_COLUMNS, "retrieval_quality": QUALITY_COLUMNS}
    made = {name: pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns[name]) for name, tables in parts.items()}
    for name in ("retrieval_tests", "retrieval_copies"):
        made[name]["p_holm"] = stats.holm(made[name]["p"])
    return made


def shown_scores(scores: pd.DataFrame, metric: str = "average", family: str = "paper") -> pd.DataFrame:
    """One row per task, stage, retriever and k for the eye: the score and its interval in one cell, and how many questions."""
    rows = scores[scores["metric"].eq(metric) & scores["family"].eq(family)]
    return pd.DataFrame({"task": rows["task"].map(task_name), "test set": rows["split"], "stage": rows["stage"], "examples from": rows["retriever"].map(NAMES), "k": rows["k"],
                         "average F1 (95 % interval)": [f"{row.f1:.1f} ({row.f1_low:.1f} to {row.f1_high:.1f})" for row in rows.itertuples()], "questions": rows["n"]}).reset_index(drop=True)


SHOWN_QUALITY = {"same_histology_1": "nearest has the same histology, %", "same_histology_3": "of the nearest three, %", "ndcg_10": "nDCG of ten, %",
                 "same_answer_1": "nearest has the answer, %", "same_answer_3": "one of three has it, %", "milliseconds": "ms a question", "index_megabytes": "index, MB"}  # fmt: skip


def shown_quality(quality: pd.DataFrame) -> pd.DataFrame:
    """One row per task, test set, stage and retriever, in their order, one column per measure of SHOWN_QUALITY, one decimal."""
    keys = ["task", "split", "stage", "retriever"]
    wide = quality.pivot(index=keys, columns="metric", values="value").reindex(pd.MultiIndex.from_frame(quality[keys].drop_duplicates()))
    wide = wide[[name for name in SHOWN_QUALITY if name in wide]].rename(columns=SHOWN_QUALITY).round(1).reset_index().rename_axis(columns=None)
    return wide.assign(task=wide["task"].map(task_name), retriever=wide["retriever"].map(NAMES)).rename(columns={"split": "test set", "retriever": "examples from"})


def guard_sentences(quality: pd.DataFrame) -> list[str]:
    """How often what came first had to be shut out, by reason, over the retrievers that search: one sentence per task, test set and stage."""
    words, said = {"item": "the question's own note", "patient": "its patient", "copy": "a near copy", "institution": "its institution"}, []
    rows = quality[quality["metric"].str.startswith("guarded_")]
    for (task, split, stage), part in rows.groupby(["task", "split", "stage"], sort=False):
        searches = int(part.loc[part["metric"] == "guarded_item", "n"].sum())
        counts = {name: round(float((part["value"] * part["n"])[part["metric"] == f"guarded_{name}"].sum()) / 100) for name in words}
        said.append(f"{task_name(task)}, {split}, {stage}: in {sum(counts.values())} of {searches} searches the first find was shut out ({', '.join(f'{words[name]} {n}' for name, n in counts.items())}).")
    return said


def sentences(tests: pd.DataFrame, alpha: float = 0.05) -> list[str]:
    """What was shown, per task, test set and stage: which retriever and k changed the score against no example and against a random one."""
    said = []
    for (task, split, stage, against), part in tests.groupby(["task", "split", "stage", "against"], sort=False):
        against = "no example" if against == NONE else "as many random examples"
        shown = part[part["p_holm"] <= alpha].sort_values("difference", ascending=False)
        where = f"{task_name(task)}, {split}, {stage}, against {against}"
        if shown.empty:
            best = part.loc[part["difference"].idxmax()]
            found = f"; a true difference of {best['smallest_detectable']:.1f} points would be found in four of five such studies" if best["smallest_detectable"] > 0 else ""
            what = "The largest gain is" if best["difference"] > 0 else "None gained; nearest to it comes"
            said.append(f"{where}: no retriever made a difference that could be shown. {what} {of_row(best)}{found}.")
            continue
        better, worse = shown[shown["difference"] > 0], shown[shown["difference"] < 0]
        for word, rows in (("better", better), ("worse", worse)):
            if len(rows):
                said.append(f"{where}: {word} with {'; '.join(of_row(row) for _, row in rows.iterrows())}.")
    return said


def of_row(row: pd.Series) -> str:
    """One test in words."""
    return (f"{NAMES[row['retriever']]}, k = {row['k']}: {signed(row['difference'])} points (95 % interval {signed(row['low'])} to {signed(row['high'])}, "
            f"p after Holm {p_text(row['p_holm'])}, n = {row['n']})")  # fmt: skip


def copy_sentences(copies: pd.DataFrame) -> list[str]:
    """What a wrong nearest example does: over all retrievers but random, per task, stage and k."""
    said = []
    rows = copies[copies["retriever"].ne(RANDOM)]
    for (task, split, stage, k), part in rows.groupby(["task", "split", "stage", "k"], sort=False):
        words = []
        for retrieved in ("right", "wrong"):
            some = part[part["retrieved"] == retrieved]
            if len(some):
                mean = {name: np.average(some[name], weights=some["n"]) for name in ("copied", "agreed_without", "right_without", "right_with")}
                words.append(f"where the nearest example's answer is {retrieved} ({some['n'].sum()} questions over all retrievers) the model gives that answer in {mean['copied']:.0f} % "
                             f"(unseen in {mean['agreed_without']:.0f} %), and right answers go from {mean['right_without']:.0f} to {mean['right_with']:.0f} %")  # fmt: skip
        said.append(f"{task_name(task)}, {split}, {stage}, k = {k}: {'; '.join(words)}.")
    return said
