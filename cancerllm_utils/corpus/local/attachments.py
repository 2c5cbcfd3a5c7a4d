"""The text of FHIR attachments: base64 of plain text or HTML."""

import base64
import binascii
import re
from html.parser import HTMLParser

from cancerllm_utils.corpus.local import files

FORMS = {"text/plain": "text/plain", "text/html": "text/html", "application/xhtml+xml": "text/html"}


def text_of(attachments: list) -> tuple[str, str]:
    """(text, "") of the first attachment that is plain text, else of the first HTML; or ("", reason). They are forms of one document.

    attachments: FHIR Attachments (contentType, data, url), see fhir.Attachment; without a content type they count as plain text.
    """
    reasons = []
    for wanted in ("text/plain", "text/html"):
        for part in attachments:
            mime, _, parameters = part.contentType.lower().partition(";")
            if FORMS.get(mime.strip() or "text/plain") != wanted:
                continue
            text, reason = decoded(part, parameters)
            if not reason:
                return (strip_html(text) if wanted == "text/html" else text), ""
            reasons.append(reason)
    if not reasons:
        reasons = ["the attachment is no text/plain or text/html" if attachments else "there is no attachment"]
    return "", reasons[0]


def decoded(part, parameters: str) -> tuple[str, str]:
    """(text, "") of one attachment's base64 data, or ("", reason)."""
    if not part.data:
        return "", "the attachment is a URL, not data" if part.url else "the attachment is empty"
    try:
        content = base64.b64decode("".join(part.data.split()), validate=True)
    except (binascii.Error, ValueError):
        return "", "the attachment is no base64"
    charset = re.search(r"charset=\"?([\w.:-]+)", parameters)
    return files.decode(content, charset.group(1) if charset else "")[0], ""


BLOCKS = {"p", "div", "br", "tr", "li", "table", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "section", "hr"}


class TextOnly(HTMLParser):
    """Collects the text of an HTML page; block elements end a line, cells are parted by a tab, scripts, styles and the title are left out."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts, self.hidden = [], 0

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("script", "style", "title")
        self.parts.append("\n" if tag in BLOCKS else "\t" if tag in ("td", "th") else "")

    def handle_endtag(self, tag):
        self.hidden = max(0, self.hidden - (tag in ("script", "style", "title")))
        self.parts.append("\n" if tag in BLOCKS else "")

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(re.sub(r"\s+", " ", data))


def strip_html(page: str) -> str:
    """The page's text, a line per block, without empty lines."""
    reader = TextOnly()
    reader.feed(page)
    reader.close()
    lines = (line.strip(" \t") for line in "".join(reader.parts).split("\n"))
    return "\n".join(line for line in lines if line)
