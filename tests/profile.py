"""The profile of one run of the suite: `make test` is short, `make test-faults` is full.

Both state the same behaviours. The short profile draws fewer examples, and kills at fewer points.
"""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

FULL = os.environ.get("ANYA_TEST_PROFILE") == "full"
SHARE = 4  # of the examples and points of the full profile, one in so many is in the short one
FEWEST = 25


def examples(count: int) -> int:
    """Returns how many examples Hypothesis draws where the full profile draws ``count``."""
    return count if FULL else min(count, max(FEWEST, count // SHARE))


def full_or_short(full: T, *, short: T) -> T:
    """Returns the value for the profile of this run."""
    return full if FULL else short
