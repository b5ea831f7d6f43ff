"""The dateTime of XML Schema 1.1 with a time zone (part 2, section 3.3.7), as an instant.

``2026-01-31T12:00:00Z``, ``2026-01-31T12:00:00.25+01:00``. ISO 8601 has more forms (week dates,
days of the year, no separators, a comma): no dateTime has them.
"""

from __future__ import annotations

import re
from datetime import date

SECOND_US = 1_000_000
DAY_S = 86_400
EPOCH_DAY = date(1970, 1, 1).toordinal()
MAX_OFFSET_MINUTES = 14 * 60

FORM = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:Z|([+-])([0-9]{2}):([0-9]{2}))"
)


def parse(text: str) -> int:
    """Returns the Unix time of a dateTime, in microseconds; more decimals are cut.

    Raises ValueError if the text is no dateTime of the years 1 to 9999, or has no time zone.
    """
    found = FORM.fullmatch(text)
    if found is None:
        raise ValueError("not a dateTime with a time zone, like 2026-01-31T12:00:00Z")
    day, hour, minute, second, decimals, sign, hours, minutes = found.groups()
    fraction_us = int((decimals or "")[:6].ljust(6, "0"))
    of_day_s = int(hour) * 3600 + int(minute) * 60 + int(second)
    is_end_of_day = hour == "24" and of_day_s == DAY_S and not (decimals or "").strip("0")
    if int(minute) > 59 or int(second) > 59 or (int(hour) > 23 and not is_end_of_day):
        raise ValueError("the time of day does not exist")
    offset_minutes = int(hours or 0) * 60 + int(minutes or 0)
    if int(minutes or 0) > 59 or offset_minutes > MAX_OFFSET_MINUTES:
        raise ValueError("the time zone does not exist")
    ahead_s = offset_minutes * (-60 if sign == "-" else 60)
    days = date.fromisoformat(day).toordinal() - EPOCH_DAY
    return (days * DAY_S + of_day_s - ahead_s) * SECOND_US + fraction_us
