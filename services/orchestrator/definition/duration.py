"""Durations as people write them: ``500ms``, ``30s``, ``5m``, ``2h``, ``7d``."""

from __future__ import annotations

import re

PATTERN = r"[1-9][0-9]{0,8}(ms|s|m|h|d)"
MOST_US = 366 * 24 * 3600 * 1_000_000
EXPECTED = "a duration such as 500ms, 30s, 5m, 2h or 7d, at most 366d"

_UNITS_US = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_DURATION = re.compile(rf"(?P<number>[0-9]+)(?P<unit>{'|'.join(_UNITS_US)})")


def parse_duration(text: object) -> int | None:
    """Microseconds, or None if the value is no duration."""
    if not isinstance(text, str) or not re.fullmatch(PATTERN, text):
        return None
    found = _DURATION.fullmatch(text)
    assert found is not None  # noqa: S101  (what PATTERN takes)
    us = int(found["number"]) * _UNITS_US[found["unit"]]
    return us if us <= MOST_US else None
