"""The identifier gate's speed and, per kind, its precision and recall on planted identifiers; beside it presidio's recognisers that work offline.

`python tests/bench/bench_identifiers.py` takes about a minute. Times are processor seconds of one core, so that other work on the machine does not
count. All parts shown are ones that the rules were tuned on; a held-out part that no rule was tuned on is not shown.
"""

import os
import time

os.environ["TLDEXTRACT_CACHE"] = "/nonexistent"

from cancerllm_utils.corpus import identifiers, synthetic
from cancerllm_utils.corpus.identifiers_planted import planted

PER_KIND = 200
TUNED_ON = ("dev", "round1", "round2", "round3", "round4", "test", "final", "final3")
PRESIDIO = {
    "DATE_TIME": "date",
    "EMAIL_ADDRESS": "email",
    "URL": "url",
    "IP_ADDRESS": "url",
    "PHONE_NUMBER": "phone",
    "US_SSN": "record_number",
    "US_MBI": "record_number",
}


def speed(name: str, texts: list[str]) -> None:
    characters = sum(map(len, texts))
    began = time.process_time()
    for text in texts:
        identifiers.find(text)
    seconds = time.process_time() - began
    print(f"{name}: {len(texts):,} notes of {characters / len(texts):,.0f} characters, {characters / 2000 / seconds:,.0f} notes of 2 kB per second")


def presidio() -> None:
    """Recall and speed of presidio's pattern recognisers; no language model, and no fetching of the list of domains."""
    import tldextract

    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    began = time.process_time()
    from presidio_analyzer.predefined_recognizers import (
        DateRecognizer,
        EmailRecognizer,
        IpRecognizer,
        PhoneRecognizer,
        UrlRecognizer,
        UsMbiRecognizer,
        UsSsnRecognizer,
    )

    recognizers = [DateRecognizer(), EmailRecognizer(), IpRecognizer(), PhoneRecognizer(), UrlRecognizer(), UsMbiRecognizer(), UsSsnRecognizer()]
    print(f"presidio: {time.process_time() - began:.1f} s to import")
    notes = planted(PER_KIND, 0, "test")
    counts = {}
    began = time.process_time()
    for note in notes:
        hits = [
            (PRESIDIO[hit.entity_type], hit.start, hit.end)
            for recognizer in recognizers
            for hit in recognizer.analyze(note["text"], recognizer.supported_entities, None) or []
            if hit.entity_type in PRESIDIO
        ]
        for kind, start, end in note["spans"]:
            count = counts.setdefault(kind, [0, 0])
            count[0] += any(kind == of and low <= start and end <= high for of, low, high in hits)
            count[1] += 1
    seconds = time.process_time() - began
    print(
        f"presidio: {sum(len(note['text']) for note in notes) / 2000 / seconds:,.0f} notes of 2 kB per second; recall by kind: "
        + ", ".join(f"{kind} {hit / n:.3f}" for kind, (hit, n) in counts.items())
    )


if __name__ == "__main__":
    began = time.process_time()
    identifiers.find("warm up")
    print(f"rules loaded in {time.process_time() - began:.2f} s")
    texts = synthetic.generate(300, 1)["notes"]["text"].tolist()
    speed("synthetic notes", texts)
    speed("notes with five planted lines each", [note["text"] for note in planted(PER_KIND, 0, "test")])
    print(f"\nfound in {len(texts):,} synthetic notes as they are: " + identifiers.scan(texts).set_index("kind")["found"].to_string().replace("\n", ", "))
    for half in TUNED_ON:
        print(f"\n{half}\n{identifiers.evaluate(PER_KIND, 0, half).round(3).to_string(index=False)}")
    print(identifiers.REMARK)
    presidio()
