"""The assurance of a verified identity, as policies demand it and attestations state it."""

from __future__ import annotations

from enum import StrEnum


class Assurance(StrEnum):
    """The assurance levels of eIDAS (Regulation (EU) No 910/2014, article 8), the lowest first."""

    LOW = "low"
    SUBSTANTIAL = "substantial"
    HIGH = "high"


LEVELS = tuple(Assurance)


def meets(attested: object, least: Assurance) -> bool:
    """Returns if the attested value is a level, and at least ``least``."""
    return attested in LEVELS[LEVELS.index(least) :]
