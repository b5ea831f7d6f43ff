"""What a benchmark answers: how much faster than a named peer, and whether that is enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Ours over theirs; the worst of the rounds."""

    value: float | None  # None: not measured, for the reason given
    goal: float
    unit: str
    peer: str  # "name version"
    reason: str = ""

    @property
    def holds(self) -> bool:
        return self.value is not None and self.value >= self.goal


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
