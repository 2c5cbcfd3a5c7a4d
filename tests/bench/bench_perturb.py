"""How fast notes are misspelt and corrected: `python tests/bench/bench_perturb.py`, processor seconds of one core on notes of the synthetic cohort."""

import time

from cancerllm_utils.corpus import synthetic
from cancerllm_utils.evaluation import perturb, spelling

notes = synthetic.generate(150, 42)["notes"]
texts, ids = notes["text"].tolist(), notes["note_id"].tolist()
words = sum(len(text.split()) for text in texts)
damaged = {}
for testbed in perturb.PERTURBATIONS:
    perturb.text(texts[0], testbed, 0.2, 1, ids[0])  # reads the word lists
    began = time.process_time()
    damaged[testbed] = [perturb.text(text, testbed, 0.2, 1, note)[0] for text, note in zip(texts, ids, strict=True)]
    seconds = time.process_time() - began
    print(f"{testbed}: {len(texts) / seconds:,.0f} notes of {words / len(texts):.0f} words per second")
known = spelling.vocabulary(texts)
began = time.process_time()
found = spelling.effect(texts, damaged["misspell"], spelling.respell(damaged["misspell"], known))
print(f"respell: {len(texts) / (time.process_time() - began):,.0f} notes per second; {100 * found['restored']:.0f} % of {found['damaged']:,} damaged words given back, "
      f"{100 * found['changed']:.1f} % of the others changed (known words taken from the same notes)")
