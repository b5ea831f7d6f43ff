"""What is wrong with a definition, and where in its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    line: int  # from 1
    column: int  # from 1, in characters
    message: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.message}"


class DefinitionInvalid(ValueError):  # noqa: N818  (a state, as in mesh.errors)
    """A definition with faults: at least one, in order of position."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = tuple(faults)
