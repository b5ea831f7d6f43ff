"""Workflows as the engine runs them: checked, typed, with every operation found."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition import values
from services.orchestrator.definition.path import Path, PathMissing
from services.orchestrator.definition.types import ANY, Kind, Type

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.message import Message

    from services.orchestrator.definition.condition import Condition


class Effect(Enum):
    """What a call leaves behind."""

    READ = 1
    REVERSIBLE = 2
    PIVOT = 3


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC that a step calls."""

    path: str  # "/anya.bitcoin.v1.WalletService/SendPayment"
    service: str  # "bitcoin": the peer that serves it
    request: type[Message]
    reply: type[Message]
    effect: Effect
    # Refuses every later attempt of one request_id; None where the contract names none.
    cancel: Method | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """What a step names: an RPC, or a workflow of several."""

    name: str
    protocol: str
    request: Type
    reply: Type
    runs: Method | Workflow

    @property
    def pivots(self) -> int:
        """How many of its calls cannot be taken back."""
        if isinstance(self.runs, Workflow):
            return sum(step.operation.pivots for step in self.runs.steps)
        return int(self.runs.effect is Effect.PIVOT)


@dataclass(frozen=True, slots=True)
class Step:
    id: str
    operation: Operation
    condition: Condition | None
    input_mapping: dict[str, Any]
    output_mapping: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a workflow reads of its input, with the type of the field it is first mapped to."""

    declared: Mapping[Path, Type]
    takes_all: bool = False  # the input is used as a whole: any member may be there

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(str(path.parts[0]) for path in self.declared))

    def check(self, given: dict[str, Any]) -> None:
        """Mismatch naming the member that is missing, not declared or of the wrong type."""
        if not self.takes_all and (strangers := given.keys() - set(self.names)):
            raise values.Mismatch(
                (min(strangers),), f"left out: the inputs are {', '.join(self.names) or 'none'}"
            )
        for path, type in self.declared.items():
            try:
                value = path.read({"input": given})
            except PathMissing:
                raise values.Mismatch(path.parts, "given") from None
            values.conform(value, type, path.parts)

    def as_type(self) -> Type:
        """The inputs as the request of an operation."""
        direct = {
            str(path.parts[0]): type for path, type in self.declared.items() if len(path.parts) == 1
        }
        return Type(Kind.OBJECT, members={name: direct.get(name, ANY) for name in self.names})


@dataclass(frozen=True, slots=True)
class Workflow:
    id: str
    name: str
    hash: str  # SHA-256 of the RFC 8785 form, hex
    steps: tuple[Step, ...]
    inputs: Inputs
    _by_id: dict[str, Step] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {step.id: step for step in self.steps})

    def step(self, id: str) -> Step:
        return self._by_id[id]

    @property
    def pivots(self) -> int:
        return sum(step.operation.pivots for step in self.steps)

    def composites(self) -> dict[str, str]:
        """Name and hash of every workflow that runs inside this one: a run is pinned to them."""
        return dict(_composites(self))


def _composites(workflow: Workflow) -> Iterator[tuple[str, str]]:
    for step in workflow.steps:
        if isinstance(step.operation.runs, Workflow):
            yield step.operation.name, step.operation.runs.hash
            yield from _composites(step.operation.runs)
