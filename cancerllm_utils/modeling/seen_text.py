"""Which of the public texts the embedded tiny base has read: what later work must leave out where it asks for something new."""

import re
from pathlib import Path

from cancerllm_utils.corpus import public
from cancerllm_utils.modeling import tiny_base


def seen_notes(name: str, data_dir: Path) -> set[str]:
    """Note ids of a public text that the embedded base was trained on.

    Articles: those outside oncology, less the 2 % that were held out. CancerGov: its answers were left out of the training, yet 55 of its
    questions are also asked on other pages that stand in it (the same words; case and punctuation aside). Letters and CIViC: none.
    """
    if name not in ("literature", "cancergov"):
        return set()
    trained, _ = tiny_base.split_texts([(key, (key, plain(text.partition("\n")[0]))) for key, text in tiny_base.read_texts(Path(data_dir))])
    known = {article if name == "literature" else question for article, question in trained}
    rows = (row for batch in public.read(name, data_dir)["batches"] for row in batch)
    return {row["note_id"] for row in rows if (row["note_id"] if name == "literature" else plain(row["text"].partition("\n")[0])) in known}


def plain(text: str) -> str:
    """Lower-case words, without punctuation."""
    return " ".join(re.findall(r"\w+", text.lower()))
