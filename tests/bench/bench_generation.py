"""Answers per second: this project's batches against the released loop, which answers one prompt at a time, on the same prompts with the same answers.

`.venv/bin/python tests/bench/bench_generation.py [prompts] [batch size] [of them one by one]` (128, 128, 32). Three ways, interleaved, five times: the loop
(batch 1, transformers' own generate, greedy, 50 new tokens, prompts cut at 1,500 tokens; it answers some of the prompts only, for which its rate is the
same), transformers' generate in batches of 32, and generation.generate. In fp32; that all three give the same answers is asserted. Twice: with answers that never end before 50 tokens, as of a model that was never taught an end token (which the released
training leaves out), and with answers of a few tokens, as of a model that was. Prints medians with their range, by the clock and by processor time, which
neighbours on the machine disturb less.
"""

import statistics
import sys
import time

import pandas as pd
import psutil
import torch
import transformers

from cancerllm_utils import record
from cancerllm_utils.corpus import synthetic
from cancerllm_utils.modeling import generation, models
from cancerllm_utils.tasks.task import build_prompt, load_task

REPEATS, NEW_TOKENS, MAX_TOKENS, GOAL = 5, 50, 1500, 10
CONTEXT_TOKENS = 128  # as in profile quick


def prompts_of(tokenizer, n: int) -> list[str]:
    """Questions about n synthetic notes, each on the note's first CONTEXT_TOKENS tokens."""
    spec, notes = load_task("phenotype_extraction"), synthetic.generate(n, 7)["notes"]["text"].tolist()
    fields = ["laterality", "histology", "stage", "grade"]
    cut = [tokenizer.decode(tokenizer(text)["input_ids"][:CONTEXT_TOKENS], skip_special_tokens=True) for text in notes[: 6 * n : 6][:n]]
    return [build_prompt(spec, fields[i % 4], text) for i, text in enumerate(cut)]


@torch.inference_mode()
def released_loop(model, tokenizer, prompts: list[str]) -> list[str]:
    """One prompt at a time, as the released code answers."""
    answers = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt", truncation=True, max_length=MAX_TOKENS)
        ids = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=NEW_TOKENS, do_sample=False)
        answers.append(tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return answers


@torch.inference_mode()
def plain_batches(model, tokenizer, prompts: list[str], size: int = 32) -> list[str]:
    """transformers' generate on left-padded batches sorted by length."""
    answers = [""] * len(prompts)
    for batch in generation.length_batches(prompts, tokenizer, size):
        inputs = tokenizer([prompts[i] for i in batch], return_tensors="pt", padding=True)
        ids = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=NEW_TOKENS, do_sample=False)
        for i, row in zip(batch, ids[:, inputs["input_ids"].shape[1] :], strict=True):
            answers[i] = tokenizer.decode(row, skip_special_tokens=True).strip()
    return answers


def with_end_token(model, bias: float) -> None:
    """Make the end token likelier by `bias` nats, so that answers end by themselves."""
    head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size)
    head.weight.data, head.bias.data = model.lm_head.weight.data, torch.zeros(model.config.vocab_size)
    head.bias.data[model.config.eos_token_id] = bias
    model.lm_head = head


def measure(model, tokenizer, prompts: list[str], batch_size: int, one_by_one: int) -> pd.DataFrame:
    """One row per way: answers/s by the clock and by processor time, medians with their range, and how many times the loop's."""
    some = prompts[:: max(1, len(prompts) // one_by_one)][:one_by_one]
    ways = {"released loop, one by one": (some, released_loop), "transformers' generate, 32 together": (prompts, plain_batches),
            f"this project, {batch_size} together": (prompts, lambda *given: [found["prediction"] for found in generation.generate(*given, NEW_TOKENS, batch_size)])}
    taken, answers = {name: [] for name in ways}, {}
    for asked, way in ways.values():  # once uncounted: the first call allocates
        way(model, tokenizer, asked[:4])
    for _ in range(REPEATS):
        for name, (asked, way) in ways.items():
            clock, processor = time.perf_counter(), time.process_time()
            answers[name] = dict(zip(asked, way(model, tokenizer, asked), strict=True))
            taken[name].append((len(asked) / (time.perf_counter() - clock), len(asked) / (time.process_time() - processor)))
        loop, plain, ours = answers.values()
        assert plain == ours and all(ours[prompt] == answer for prompt, answer in loop.items()), "the ways gave different answers"
    rows = []
    for name, pairs in taken.items():
        by_clock, by_processor = ([pair[k] for pair in pairs] for k in (0, 1))
        rows.append({"way": name, "answers/s": statistics.median(by_clock), "range": f"{min(by_clock):.1f} to {max(by_clock):.1f}",
                     "answers/s of processor time": statistics.median(by_processor), "range ": f"{min(by_processor):.1f} to {max(by_processor):.1f}"})
    table = pd.DataFrame(rows)
    for column in ("answers/s", "answers/s of processor time"):
        table[f"times, {column}"] = table[column] / table[column].iloc[0]
    return table


def main(n: int, batch_size: int, one_by_one: int) -> None:
    model, tokenizer = models.load_model("tiny_base", "fp32"), models.load_tokenizer("tiny_base")
    prompts = prompts_of(tokenizer, n)
    lengths = [len(ids) for ids in tokenizer(prompts)["input_ids"]]
    print(f"{record.device()}, {torch.get_num_threads()} threads, load {psutil.getloadavg()[0]:.1f}, torch {torch.__version__}, transformers {transformers.__version__}, fp32; "
          f"{n} prompts of {min(lengths)} to {max(lengths)} tokens, {one_by_one} of them one by one, {REPEATS} repeats")
    for title, bias in (("Answers of 50 tokens (no end token learnt)", -100.0), ("Answers that end by themselves", 7.0)):
        with_end_token(model, bias)
        tokens = [answer["new_tokens"] for answer in generation.generate(model, tokenizer, prompts, NEW_TOKENS, batch_size)]
        table = measure(model, tokenizer, prompts, batch_size, one_by_one)
        print(f"\n{title}: {statistics.mean(tokens):.1f} tokens on average, {min(tokens)} to {max(tokens)}\n{table.round(2).to_string(index=False)}")
        reached = table.iloc[-1, -1]
        print(f"Goal {GOAL} times by processor time: {'reached' if reached >= GOAL else 'missed'} ({reached:.1f}). Load at the end: {psutil.getloadavg()[0]:.1f}.", flush=True)


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:] or ["128", "128", "32"]))
