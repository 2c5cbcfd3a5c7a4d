"""Has a model read these reports before? Public base models were trained on texts that nobody lists, and an evaluation on texts that they know is worth little.

Three probes, each a number per report. **Completion**: from its first tokens, how much of the rest does the model write down word for word
(Carlini et al. 2023, https://arxiv.org/abs/2202.07646)? Control: the same continuation held against another patient's report. **Rewording**: is the
report likelier than copies of it in other words (in the spirit of Mattern et al. 2023, https://aclanthology.org/2023.findings-acl.719, with rules in
place of their masked model)? **Min-k**: how unlikely are its least likely tokens (Shi et al. 2024, https://arxiv.org/abs/2310.16789)?

The last two depend on how the text is written, so by themselves they prove nothing (Duan et al. 2024, https://arxiv.org/abs/2402.07841): they are
compared between reports that differ only in whether they were read, which here are rings of randomly divided patients, or planted reports.
"""

import re
import shutil
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy import optimize
from scipy import stats as scipy_stats

from cancerllm_utils.errors import UserError
from cancerllm_utils.evaluation import stats
from cancerllm_utils.modeling import generation, models, training, training_data
from cancerllm_utils.modeling.decoding import greedy_tokens
from cancerllm_utils.modeling.perplexity import token_losses

MAX_WORDS = 160  # of a report that are probed: enough for a beginning and what follows it
LONG_RUN = 20  # tokens in one run: beyond the phrases that reports share
# measure: the column of `scores`, larger where a report is likelier to have been read
MEASURES = {"completion": "own_run", "rewording": "gap", "min-k": "min_k"}
COLUMNS = ["model", "stage", "group", "against", "measure", "value", "low", "high", "p", "n"]


# ---- reports and their copies in other words ---------------------------------------------------------------------------------------


def probe_notes(run_dir, splits: list[str], n_notes: int, least_words: int, seed: int = 0) -> pd.DataFrame:
    """At most `n_notes` reports of each ring, one per patient, of at least `least_words` words, cut to MAX_WORDS: group (the ring), patient_id, cancer_type, text.

    The choice does not depend on a tokenizer, so every model is asked about the same reports. UserError where a ring has fewer than two.
    """
    notes, rows = training_data.read_notes(Path(run_dir)), []
    for split in splits:
        ring, seen = training_data.of_split(notes, split), set()
        for i in np.random.default_rng(seed).permutation(len(ring)).tolist():
            note = ring[i]
            words = re.findall(r"\S+\s*", note["text"])
            if note["patient_id"] not in seen and len(words) >= least_words:
                seen.add(note["patient_id"])
                rows.append({"group": split, "patient_id": note["patient_id"], "cancer_type": note["cancer_type"], "text": "".join(words[:MAX_WORDS]).strip()})
            if len(seen) == n_notes:
                break
        if len(seen) < 2:
            raise UserError(f"splits {split}: fewer than two patients there have a report of {least_words} words. Leave it out, or lower prefix_tokens and new_tokens.")
    return pd.DataFrame(rows)


@cache
def _rules() -> tuple[re.Pattern, dict[str, str]]:
    """(pattern of every phrase and number that can be exchanged, {phrase: the other one}), from contamination.yaml."""
    raw = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    other = {a: b for pair in raw["synonyms"] for a, b in (pair, pair[::-1])} | {str(i): word for i, word in enumerate(raw["numbers"])}
    phrases = "|".join(re.escape(phrase) for phrase in sorted(other, key=len, reverse=True))
    return re.compile(rf"(?<![\w.,/+-])(?<!x )({phrases})(?![\w/+%-]|[.,:]\d| x )", re.IGNORECASE), other


def reworded(text: str, rng: np.random.Generator) -> str:
    """The text with each exchangeable phrase or number replaced at even odds and its sentences in another order; a capital letter stays one."""
    pattern, other = _rules()

    def exchange(match: re.Match) -> str:
        word = other[match[0].lower()]
        word = word[0].upper() + word[1:] if match[0][0].isupper() else word
        return word if rng.random() < 0.5 else match[0]

    pieces = re.split(r"((?<=[.;:?!])\s+|\n+)", text)
    sentences, gaps = pieces[::2], [*pieces[1::2], ""]
    order = rng.permutation(len(sentences))
    return "".join(pattern.sub(exchange, sentences[i]) + gap for i, gap in zip(order, gaps, strict=True)).strip()


# ---- one number per report and probe -----------------------------------------------------------------------------------------------


def completions(network, tokenizer, texts: list[str], partners: list[int], prefix_tokens: int = 32, new_tokens: int = 50, batch_size: int = 16) -> pd.DataFrame:
    """What greedy decoding makes of the first `prefix_tokens` tokens of each text, against the `new_tokens` that follow there.

    Columns: own_run (tokens of the longest run that stands in both), exact (all of it, token for token), other_run (the same continuation against the
    text with the number in `partners`).
    """
    ids = tokenizer(texts)["input_ids"]
    room = [min(new_tokens, len(row) - prefix_tokens) for row in ids]
    assert min(room) > 0, "a text shorter than its beginning"
    following = [row[prefix_tokens : prefix_tokens + new_tokens] for row in ids]
    written = []
    for start in range(0, len(ids), batch_size):
        written += greedy_tokens(network, tokenizer, [row[:prefix_tokens] for row in ids[start : start + batch_size]], new_tokens)
    return pd.DataFrame({"own_run": [longest_run(a, b) for a, b in zip(written, following, strict=True)],
                         "exact": [float(a[: len(b)] == b) for a, b in zip(written, following, strict=True)],
                         "other_run": [longest_run(a, following[i]) for a, i in zip(written, partners, strict=True)]})


def longest_run(a: list, b: list) -> int:
    """Length of the longest run of neighbours that stands in both lists."""
    return SequenceMatcher(None, a, b, autojunk=False).find_longest_match().size


def partners_of(table: pd.DataFrame) -> list[int]:
    """For each report the number of another patient's in its group, of the same cancer type where there is one: what it may share with reports of its kind."""
    found = []
    for i, row in enumerate(table.itertuples()):
        others = [(j - i) % len(table) for j in range(len(table)) if j != i and table["group"].iat[j] == row.group]
        alike = [step for step in others if table["cancer_type"].iat[(i + step) % len(table)] == row.cancer_type]
        found.append((i + min(alike or others)) % len(table))
    return found


def scores(network, tokenizer, table: pd.DataFrame, prefix_tokens: int = 32, new_tokens: int = 50, copies: int = 4, min_k: float = 0.2, batch_size: int = 16,
           seed: int = 0) -> pd.DataFrame:
    """The probes of one model on the reports of `probe_notes`: its columns without the text, and own_run, other_run (tokens), exact (0 or 1), loss (nats
    per token), gap (by how much `copies` rewordings are less likely, nats per token), min_k (mean log-probability of that share of tokens, the least
    likely ones).
    """
    texts, rng = table["text"].tolist(), np.random.default_rng(seed)
    rewordings = [reworded(text, rng) for text in texts for _ in range(copies)]
    nats = token_losses(network, tokenizer, texts + rewordings, max_length=network.config.max_position_embeddings)
    means = np.array([row.mean() for row in nats])
    own, other = means[: len(texts)], means[len(texts) :].reshape(len(texts), copies)
    least = [-np.sort(row)[-max(1, round(min_k * len(row))) :].mean() for row in nats[: len(texts)]]
    found = completions(network, tokenizer, texts, partners_of(table), prefix_tokens, new_tokens, batch_size)
    return pd.concat([table.drop(columns="text").reset_index(drop=True), found], axis=1).assign(loss=own, gap=other.mean(axis=1) - own, min_k=least)


# ---- what the numbers say ----------------------------------------------------------------------------------------------------------


def summary(scored: pd.DataFrame, against: str = "", n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Rows (COLUMNS from `group` on) of each group of `scores`: means with 95 % intervals over patients, one-sided p of the paired tests.

    run_own, run_other (tokens), run_gain (own less other, permutation test), reproduced, reproduced_other, exact (percent of reports; a run of LONG_RUN
    tokens or more), loss, gap (nats per token, Wilcoxon's test). With `against`, a group that was not read: auc rows, the chance that a report of the other
    group scores higher under each of MEASURES.
    """
    rows = []
    for group, part in scored.groupby("group", sort=False):
        patients = part["patient_id"].tolist()
        gain, zero = (part["own_run"] - part["other_run"]).tolist(), np.zeros(len(part))
        numbers = {"run_own": part["own_run"], "run_other": part["other_run"], "run_gain": gain, "reproduced": 100 * (part["own_run"] >= LONG_RUN),
                   "reproduced_other": 100 * (part["other_run"] >= LONG_RUN), "exact": 100 * part["exact"], "loss": part["loss"], "gap": part["gap"]}
        p = {"run_gain": stats.permutation_test(gain, zero, patients, alternative="greater"), "gap": stats.wilcoxon_test(part["gap"], zero, patients)["p"]}
        for measure, values in numbers.items():
            low, high = stats.cluster_bootstrap(np.asarray(values, dtype=float), patients, n_resamples, seed)
            rows.append({"group": group, "against": "", "measure": measure, "value": float(np.mean(values)), "low": low, "high": high, "p": p.get(measure), "n": len(part)})
    unread = scored[scored["group"] == against]
    for group, part in scored.groupby("group", sort=False) if len(unread) else ():
        if group != against:
            rows += [{"group": group, "against": against, "measure": f"auc {name}", **auc(part[column], unread[column])} for name, column in MEASURES.items()]
    return pd.DataFrame(rows, columns=COLUMNS[2:])


def auc(read, unread) -> dict:
    """The chance that a report of `read` scores higher than one of `unread` (ties half): {value, low, high, p (one-sided, Mann and Whitney), n (both)}.

    The limits solve |AUC - limit| = 1.96 standard errors at the limit, after Hanley and McNeil (Newcombe 2006, method 5, doi 10.1002/sim.2324): they
    also hold where the groups do not overlap. One report per patient, so reports are independent.
    """
    read, unread = np.asarray(read, dtype=float), np.asarray(unread, dtype=float)
    test = scipy_stats.mannwhitneyu(read, unread, alternative="greater")
    found, mean_size = float(test.statistic / (len(read) * len(unread))), (len(read) + len(unread)) / 2 - 1

    def distance(limit: float) -> float:
        variance = limit * (1 - limit) * (1 + mean_size * ((1 - limit) / (2 - limit) + limit / (1 + limit))) / (len(read) * len(unread))
        return (found - limit) ** 2 - scipy_stats.norm.ppf(0.975) ** 2 * variance

    # at 0 and 1 the variance is 0, so the search begins a little beside an AUC of 0 or 1
    low = optimize.brentq(distance, 0.0, found * (1 - 1e-9)) if found > 0 else 0.0
    high = optimize.brentq(distance, found + (1 - found) * 1e-9, 1.0) if found < 1 else 1.0
    return {"value": found, "low": float(low), "high": float(high), "p": float(test.pvalue), "n": len(read) + len(unread)}


def probe_stage(run_dir, model: str, stage: str, table: pd.DataFrame, against: str = "", prefix_tokens: int = 32, new_tokens: int = 50, copies: int = 4, min_k: float = 0.2,
                batch_size: int = 16, precision: str = "auto", load_in_4bit: bool = False, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """`summary` of one stage (`base` or a trained one) on the reports of `probe_notes`, with COLUMNS."""
    network, tokenizer, _ = generation.load_network(run_dir, model, stage, precision, load_in_4bit=load_in_4bit)
    scored = scores(network, tokenizer, table, prefix_tokens, new_tokens, copies, min_k, batch_size, seed)
    found = summary(scored, against, n_resamples, seed).assign(model=models.model_entry(model)["name"], stage=stage)[COLUMNS]
    print(f"{model} {stage}: {len(table)} reports probed", flush=True)
    return found


# ---- planted reports: does the probe find what was read? -----------------------------------------------------------------------------


def plant(run_dir, model: str, table: pd.DataFrame, background: pd.DataFrame, repeats: list[int], tuning: str = "full", learning_rate: float = 1e-3, precision: str = "auto",
          seed: int = 0, **probe) -> pd.DataFrame:
    """The probes on a model that was made to read half of some reports: one row per number of repeats (0: as it was) and probe.

    The patients of `table` (of probe_notes, held-out reports) are divided at random; the planted half is read `repeats` times each, mixed among the
    reports of `background`, in a continued pre-training of the base (training.continue_pretraining); then both halves are probed (`scores`, arguments
    `probe`). An AUC near 1 for many repeats says that the probe works on this model, one near 0.5 for none that it sees nothing where there is nothing.
    Columns: model, stage (planted), repeats, measure, value, low, high, p, n. What it trains lies in the run's cache and is deleted.
    """
    halves = np.random.default_rng(seed).permutation(len(table)) % 2
    reports = table.assign(group=np.where(halves == 0, "planted", "not planted")).reset_index(drop=True)
    name, rows = models.model_entry(model)["name"], []
    for times in dict.fromkeys([0, *repeats]):
        folder = Path(run_dir) / "cache" / f"planted-{name}-{times}"
        try:
            if times:
                write_planted(folder, reports[reports["group"] == "planted"], background, times)
                training.continue_pretraining(folder, model, "planted", tuning, learning_rate=learning_rate, max_length=256, per_device_train_batch_size=1, eval_splits=[],
                                              save_steps=1.0, precision=precision, seed=seed)  # small steps, many of them: that is how a model learns by heart
            network, tokenizer, _ = generation.load_network(folder, model, "planted" if times else "base", precision)
            found = summary(scores(network, tokenizer, reports, seed=seed, **probe), "not planted", seed=seed)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        found = found[found["measure"].str.startswith("auc ")]
        rows.append(found.assign(model=name, stage="planted", repeats=times, measure=found["measure"].str.removeprefix("auc ")))
    return pd.concat(rows, ignore_index=True)[["model", "stage", "repeats", "measure", "value", "low", "high", "p", "n"]]


def planted_sample(reports: pd.DataFrame, splits: list[str], n_notes: int, n_background: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """From the reports of `probe_notes`: (at most `n_notes` of the last ring, to be divided; at most `n_background` of the other rings)."""
    last = reports["group"] == splits[-1]
    return reports[last].head(n_notes).reset_index(drop=True), reports[~last].head(n_background).reset_index(drop=True)


def write_planted(folder: Path, planted: pd.DataFrame, background: pd.DataFrame, times: int) -> None:
    """A corpus of a training ring alone: the background reports, and the planted ones `times` each."""
    corpus = pd.concat([background, *[planted] * times], ignore_index=True)
    corpus = corpus.assign(note_id=[f"n{i}" for i in range(len(corpus))])
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "corpus").mkdir(parents=True)
    corpus[["patient_id", "note_id", "cancer_type", "text"]].to_parquet(folder / "corpus" / "notes.parquet", index=False)
    pd.DataFrame({"patient_id": sorted(set(corpus["patient_id"])), "split": "train"}).to_parquet(folder / "corpus" / "splits.parquet", index=False)


# ---- sentences ------------------------------------------------------------------------------------------------------------------------


def sentences(table: pd.DataFrame) -> list[str]:
    """What each stage's rows of results/contamination.csv say of each group of reports, with their limits."""
    out = []
    for (model, stage, group), part in table.groupby(["model", "stage", "group"], sort=False):
        row = part.set_index("measure")
        gain = row.loc["run_gain"]
        known = "more than another patient's" if gain["low"] > 0 else "no more than another patient's"
        out.append(f"{model}, {stage}, {group} (n = {int(gain['n'])} reports): the continuation shares a longest run of {row.loc['run_own', 'value']:.1f} tokens with the report, "
                   f"{known} ({row.loc['run_other', 'value']:.1f}; difference {gain['value']:+.1f}, 95 % interval {gain['low']:+.1f} to {gain['high']:+.1f}); "
                   f"{row.loc['reproduced', 'value']:.1f} % of the reports come back in a run of {LONG_RUN} tokens or more (another patient's: {row.loc['reproduced_other', 'value']:.1f} %).")
        for measure in [name for name in row.index if name.startswith("auc ")]:
            found = row.loc[measure]
            verdict = "the model knows them" if found["low"] > 0.5 else "no sign that it knows them better"
            out.append(f"{model}, {stage}: {group} against {found['against']} by {measure.removeprefix('auc ')}: AUC {found['value']:.2f} "
                       f"(95 % interval {found['low']:.2f} to {found['high']:.2f}), {verdict}.")
    return out


def planted_sentences(table: pd.DataFrame) -> list[str]:
    """Which probe finds planted reports, and after how many repeats."""
    out = []
    for (model, measure), part in table.groupby(["model", "measure"], sort=False):
        shown = ", ".join(f"{row.value:.2f} ({row.low:.2f} to {row.high:.2f}) after {row.repeats}" for row in part.itertuples())
        finds = part.loc[(part["low"] > 0.5) & (part["repeats"] > 0), "repeats"]
        verdict = f"finds them from {finds.min()} repeats on" if len(finds) else "does not find them in this sample"
        out.append(f"{model}, {measure}: AUC of planted against other reports {shown} repeats (n = {int(part['n'].iloc[0])} reports); the probe {verdict}.")
    return out or ["No reports were planted."]
