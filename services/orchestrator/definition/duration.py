"""Durations as users write them: ``500ms``, ``30s``, ``5m``, ``2h``, ``7d``."""

from __future__ import annotations

import re

MAX_DURATION_US = 366 * 24 * 3600 * 1_000_000
EXPECTED = "a duration such as 500ms, 30s, 5m, 2h or 7d, at most 366d"

_UNITS_US = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


def _up_to(most: int) -> str:
    """Returns a pattern of the numbers from 1 to ``most``, without leading zeros."""
    digits = str(most)
    ways = [f"[1-9][0-9]{{0,{len(digits) - 2}}}"] if len(digits) > 1 else []
    for at, digit in enumerate(digits):
        least, below = int(at == 0), int(digit) - 1
        if below >= least:
            ways.append(f"{digits[:at]}[{least}-{below}][0-9]{{{len(digits) - at - 1}}}")
    return f"({'|'.join([*ways, digits])})"


# Matches durations and nothing else: the JSON Schema of definitions uses it, too.
PATTERN = f"({'|'.join(_up_to(MAX_DURATION_US // us) + unit for unit, us in _UNITS_US.items())})"
_DURATION = re.compile(PATTERN)
_PARTS = re.compile(r"(?P<number>[0-9]+)(?P<unit>[a-z]+)")


def parse_duration(text: object) -> int | None:
    """Returns microseconds, or None if the value is no duration."""
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        return None
    found = _PARTS.fullmatch(text)
    assert found is not None  # noqa: S101  (it matches PATTERN)
    return int(found["number"]) * _UNITS_US[found["unit"]]
