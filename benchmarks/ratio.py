"""The result of a benchmark: a ratio to a named peer, its goal, and if it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.peer import PeerMissing
from benchmarks.rounds import Plan, compare
from benchmarks.runs.engine import EngineError, Throughput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.runs.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Ours over theirs, or a figure of ours alone; the worst of the rounds."""

    value: float | None  # None: not measured, for the reason given
    goal: float | None  # None: no measurement said
    unit: str
    peer: str  # "name version"
    reason: str = ""
    at_most: bool = False  # the goal is a limit: less is better
    rounds: tuple[float, ...] = ()  # the value of each round
    setup: str = ""  # configuration and client of both sides, and how much CPU the clients took
    curve: tuple[tuple[float, float], ...] = ()  # amount of data, cost relative to the smallest

    @property
    def holds(self) -> bool:
        if self.value is None or self.goal is None:
            return False
        return self.value <= self.goal if self.at_most else self.value >= self.goal


Measure: TypeAlias = "Callable[[int], Ratio]"


@dataclass(frozen=True, slots=True)
class Compared:
    """The ratio of each round, and what each side did and its client took."""

    rounds: tuple[float, ...]
    sides: str = ""


def compare_engines(rounds: int, ours: Engine, theirs: Engine, concurrency: int) -> Compared:
    """Returns how many runs per second two engines make, ours over theirs."""
    our_side, their_side = Throughput(ours, concurrency), Throughput(theirs, concurrency)
    ratios = compare(our_side, their_side, Plan(rounds))
    return Compared(tuple(ratios), f"ours {our_side.describe()}, theirs {their_side.describe()}")


def of_rounds(
    measured: Callable[[], Compared], *, goal: float, unit: str, peer: str, setup: str = ""
) -> Ratio:
    """Returns the result of a comparison: its worst round, or the reason why there is none."""
    try:
        compared = measured()
    except (PeerMissing, EngineError) as error:
        return Ratio(value=None, goal=goal, unit=unit, peer=peer, setup=setup, reason=str(error))
    return Ratio(
        value=min(compared.rounds),
        rounds=compared.rounds,
        goal=goal,
        unit=unit,
        peer=peer,
        setup="; ".join(filter(None, (setup, compared.sides))),
    )


def summary(ratio: Ratio) -> dict[str, object]:
    """Returns the JSON form of a result."""
    fields: dict[str, object] = {
        "value": None if ratio.value is None else round(ratio.value, 3),
        "goal": ratio.goal,
        "holds": ratio.holds,
        "unit": ratio.unit,
        "peer": ratio.peer,
        "rounds": [round(value, 3) for value in ratio.rounds],
        "setup": ratio.setup,
    }
    if ratio.at_most:
        fields["at_most"] = True
    if ratio.curve:
        fields["curve"] = [[amount, round(cost, 3)] for amount, cost in ratio.curve]
    return fields if ratio.value is not None else {**fields, "reason": ratio.reason}


def from_summary(fields: Mapping[str, Any]) -> Ratio:
    """Returns the result whose JSON form is given, with its values as they were rounded."""
    known = {name: value for name, value in fields.items() if name != "holds"}
    rounds, curve = known.pop("rounds", ()), known.pop("curve", ())
    return Ratio(**known, rounds=tuple(rounds), curve=tuple((x, y) for x, y in curve))
