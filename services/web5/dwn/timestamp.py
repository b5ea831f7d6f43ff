"""Timestamps of the profile: UTC with six decimals, whose order as text is the order in time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from services.web5.dwn.errors import Code, DwnError

MAX_AHEAD = timedelta(minutes=5)  # a later timestamp would outrank all messages until then

FORM = re.compile(
    r"[0-9]{4}-[01][0-9]-[0-3][0-9]T(?:[0-2][0-9]:[0-5][0-9]:[0-5][0-9]|23:59:60)\.[0-9]{6}Z"
)


def write(moment: datetime) -> str:
    """Returns the timestamp of a point in time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def read(text: str) -> datetime:
    """Parses a timestamp; a leap second is the second after it.

    Raises DwnError if the form is another one or the date does not exist.
    """
    if not FORM.fullmatch(text):
        raise _invalid(text)
    is_leap_second = text[17:19] == "60"
    try:
        moment = datetime.fromisoformat(text.replace(":60.", ":59.") if is_leap_second else text)
    except ValueError:
        raise _invalid(text) from None
    return moment + timedelta(seconds=is_leap_second)


def check_message(text: str, now: datetime) -> None:
    """Raises DwnError if a message timestamp is not valid or later than ``now`` + MAX_AHEAD."""
    if read(text) > now + MAX_AHEAD:
        raise DwnError(
            Code.MESSAGE_TIMESTAMP_IN_FUTURE,
            f"messageTimestamp {text} is more than 5 minutes ahead of this node's clock",
        )


def _invalid(text: str) -> DwnError:
    return DwnError(Code.TIMESTAMP_INVALID, f"Invalid timestamp: {text[:40]}")
