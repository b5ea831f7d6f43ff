"""The result of a benchmark: a ratio to a named peer, its goal, and if it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Ours over theirs, or a figure of ours alone; the worst of the rounds."""

    value: float | None  # None: not measured, for the reason given
    goal: float
    unit: str
    peer: str  # "name version"
    reason: str = ""
    at_most: bool = False  # the goal is a limit: less is better

    @property
    def holds(self) -> bool:
        if self.value is None:
            return False
        return self.value <= self.goal if self.at_most else self.value >= self.goal


Measure: TypeAlias = "Callable[[int], Ratio]"


def summary(ratio: Ratio) -> dict[str, object]:
    value = None if ratio.value is None else round(ratio.value, 3)
    fields: dict[str, object] = {
        "value": value,
        "goal": ratio.goal,
        "holds": ratio.holds,
        "unit": ratio.unit,
        "peer": ratio.peer,
    }
    return fields if ratio.value is not None else {**fields, "reason": ratio.reason}
