"""What is wrong with a definition, and where in its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

MAX_PROBLEMS = 200  # told of one definition
MAX_SHOWN = 60  # characters of what a definition holds
MAX_NAMED = 12  # of what there is instead


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    line: int  # from 1
    column: int  # from 1, in characters
    message: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.message}"


class DefinitionInvalidError(ValueError):
    """A definition with problems: at least one, in order of position."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


def shown(text: str) -> str:
    """What somebody wrote, in quotes, and not all of it if that is much."""
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


def listed(names: Collection[str]) -> str:
    """What there is, the last if that are many; they are nearer."""
    few = list(names)[-MAX_NAMED:]
    more = "..., " if len(few) < len(names) else ""
    return more + ", ".join(few) if few else "none"
