"""Problems of a definition: what is wrong, and at which position of its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

MAX_PROBLEMS = 200  # reported of one definition
MAX_SHOWN_CHARS = 60  # of a text that a message quotes
MAX_LISTED = 12  # names that a message lists


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    line: int  # from 1
    column: int  # from 1, in characters
    message: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.message}"


class DefinitionInvalidError(ValueError):
    """A definition has problems: at least one, in order of position."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


def shown(text: str) -> str:
    """Returns the text in quotes, cut if it is long."""
    return repr(text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}...")


def listed(names: Collection[str]) -> str:
    """Returns the names as a list; of many the last ones, which stand nearest."""
    last = list(names)[-MAX_LISTED:]
    more = "..., " if len(last) < len(names) else ""
    return more + ", ".join(last) if last else "none"
