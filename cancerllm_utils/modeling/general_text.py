"""Held-out general text, on which forgetting is measured: does a model that has read notes, or learnt to answer, still know other English?

Two sources, both without a download. `python`: the prose of Python's own language reference, which ships with every Python (module
`pydoc_data.topics`, Python Software Foundation licence). The embedded models never read it; large models have surely read it in their
pre-training, which does not matter here: the question is what tuning takes away from whatever a model knew. `articles`: open articles of
the data folder (literature/) that were held out when the embedded base was trained.
"""

import re
from pathlib import Path
from pydoc_data import topics

import pandas as pd

from cancerllm_utils import paths
from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import tiny_base

SOURCES = {"python": "general", "articles": "general articles"}  # source -> name of its row in results/cpt.csv
NAMES = {"general": "general text (Python's language reference)", "general articles": "general text (held-out articles)"}
TEXT_LENGTH = 800  # characters of one text, about: enough texts for an interval, each long enough to read


def general_texts(sources: list[str], data_dir: str = "") -> dict[str, pd.DataFrame]:
    """{row name: table (text, group)} of each source; `group` is the chapter or article, which is what an interval resamples.

    Articles are left out, with a line that says so, where the data folder does not hold them. Raises UserError for an unknown source.
    """
    unknown = sorted(set(sources) - set(SOURCES))
    if unknown:
        raise UserError(f"general_text {', '.join(unknown)}: unknown. Use some of {', '.join(SOURCES)}.")
    found = {}
    for source in sources:
        table = python_texts() if source == "python" else held_out_articles(paths.data_dir(data_dir))
        if len(table):
            found[SOURCES[source]] = table
        print(f"{NAMES[SOURCES[source]]}: " + (f"{len(table):,} texts" if len(table) else f"not in {paths.data_dir(data_dir)}, left out"))
    return found


def python_texts() -> pd.DataFrame:
    """The prose paragraphs of Python's language reference, gathered to texts of about TEXT_LENGTH characters; group: the chapter.

    Code, grammar and lists are left out, and so is the mark-up of what is left. A paragraph that stands in several chapters counts once.
    """
    rows, seen = [], set()
    for topic in sorted(topics.topics):
        kept = []
        for paragraph in topics.topics[topic].split("\n\n"):
            text = plain(paragraph)
            if is_prose(paragraph, text) and text not in seen:
                seen.add(text)
                kept.append(text)
        rows += [{"text": text, "group": topic} for text in gather(kept)]
    return pd.DataFrame(rows, columns=["text", "group"])


def plain(paragraph: str) -> str:
    """One line of words: without line breaks, emphasis, quotation marks around code, footnotes."""
    return re.sub(r"\s+", " ", re.sub(r"\[\d+\]|[*\"`]", "", paragraph)).strip()


def is_prose(paragraph: str, text: str) -> bool:
    """True for a paragraph of sentences: not indented, not short, ended by a full stop, and made of words."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return not paragraph.startswith(" ") and len(text) >= 120 and text.endswith(".") and letters >= 0.93 * len(text)


def gather(paragraphs: list[str]) -> list[str]:
    """Neighbouring paragraphs joined until a text has TEXT_LENGTH characters; what is left at the end is a text of its own."""
    texts, open_text = [], ""
    for paragraph in paragraphs:
        open_text = f"{open_text}\n{paragraph}".strip()
        if len(open_text) >= TEXT_LENGTH:
            texts.append(open_text)
            open_text = ""
    return texts + ([open_text] if open_text else [])


def held_out_articles(data_dir: Path) -> pd.DataFrame:
    """The articles and answers that the embedded base was not trained on (tiny_base.split_texts), their first TEXT_LENGTH characters or so.

    Empty where the data folder holds no literature/. group: the text itself, since each is another article.
    """
    if not (Path(data_dir) / "literature").is_dir():
        return pd.DataFrame(columns=["text", "group"])
    _, held_out = tiny_base.split_texts(tiny_base.read_texts(Path(data_dir)))
    texts = [cut(text) for text in held_out]
    return pd.DataFrame({"text": texts, "group": [str(number) for number in range(len(texts))]})


def cut(text: str) -> str:
    """The beginning of a text, up to the first line or sentence that ends after TEXT_LENGTH characters."""
    end = re.compile(r"(?<=[.?!])\s|\n").search(text, TEXT_LENGTH)
    return text[: end.start()] if end else text
