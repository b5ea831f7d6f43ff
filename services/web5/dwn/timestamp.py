"""Points in time as the profile writes them: UTC with six decimals, comparable as text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from services.web5.dwn.errors import Code, DwnError

MAX_AHEAD = timedelta(minutes=5)  # of our clock: a message from the future would win for that long

FORM = re.compile(
    r"[0-9]{4}-[01][0-9]-[0-3][0-9]T(?:[0-2][0-9]:[0-5][0-9]:[0-5][0-9]|23:59:60)\.[0-9]{6}Z"
)


def write(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def read(text: str) -> datetime:
    """DwnError for another form, and for a day or hour that no calendar has."""
    if not FORM.fullmatch(text):
        raise _invalid(text)
    is_leap_second = text[17:19] == "60"
    try:
        moment = datetime.fromisoformat(text.replace(":60.", ":59.") if is_leap_second else text)
    except ValueError:
        raise _invalid(text) from None
    return moment + timedelta(seconds=is_leap_second)


def check_message(text: str, now: datetime) -> None:
    """Refuse a message timestamp that is none, or more than MAX_AHEAD of ``now``."""
    if read(text) > now + MAX_AHEAD:
        raise DwnError(
            Code.MESSAGE_TIMESTAMP_IN_FUTURE,
            f"messageTimestamp {text} is more than 5 minutes ahead of this node's clock",
        )


def _invalid(text: str) -> DwnError:
    return DwnError(Code.TIMESTAMP_INVALID, f"Invalid timestamp: {text[:40]}")
