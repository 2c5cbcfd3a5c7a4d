"""Dates as institutions write them, as ISO dates; what cannot be read for certain is left empty."""

import re
from collections.abc import Iterator
from datetime import date
from functools import lru_cache

ISO_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?![\d-])")
COMPACT_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)(?!\d)")
GERMAN_DATE = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})\b")
SLASH_DATE = re.compile(r"(\d{1,2})[/-](\d{1,2})[/-](\d{4})\b")


def day_or_month(written: Iterator[str]) -> str | None:
    """Which comes first in dates such as 3/14/2020: "day", "month", or None where the dates do not tell or contradict each other."""
    order = set()
    for match in filter(None, (SLASH_DATE.match(value.strip()) for value in written if "/" in value or "-" in value)):
        one, two = int(match.group(1)), int(match.group(2))
        order |= {"day"} if one > 12 >= two else {"month"} if two > 12 >= one else set()
    return order.pop() if len(order) == 1 else None


@lru_cache(maxsize=65_536)
def iso_date(written: str, order: str | None) -> str:
    """The date as YYYY-MM-DD; "" where it cannot be read for certain (3/4/2020 needs `order`) or lies outside 1900-2100."""
    written = written.strip()
    if match := ISO_DATE.match(written) or COMPACT_DATE.match(written):
        year, month, day = match.groups()
    elif match := GERMAN_DATE.match(written):
        day, month, year = match.groups()
    elif match := SLASH_DATE.match(written):
        one, two, year = match.groups()
        if order is None and one != two and int(one) <= 12 and int(two) <= 12:
            return ""
        day, month = (two, one) if int(two) > 12 or (order == "month" and int(one) <= 12) else (one, two)
    else:
        return ""
    try:
        return date(int(year), int(month), int(day)).isoformat() if 1900 <= int(year) <= 2100 else ""
    except ValueError:
        return ""
