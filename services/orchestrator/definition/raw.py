"""A definition as it is written: of the right shape, and nothing about it checked yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from services.orchestrator.definition.workflow import AS_THE_ENGINE_DOES, Awaited, Retry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from services.orchestrator.definition.document import Pointer


@dataclass(frozen=True, slots=True)
class RawCall:
    pointer: Pointer
    protocol: str
    operation: str
    input_mapping: dict[str, Any]
    output_mapping: dict[str, Any]
    retry: Retry = AS_THE_ENGINE_DOES
    timeout_us: int | None = None
    compensate: RawCall | None = None
    payment: str | None = None  # a template of its id


@dataclass(frozen=True, slots=True)
class RawSubWorkflow:
    workflow: str  # its id
    input_mapping: dict[str, Any]
    output_mapping: dict[str, Any]
    payment: str | None = None


@dataclass(frozen=True, slots=True)
class RawSet:
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RawSwitch:
    pass


@dataclass(frozen=True, slots=True)
class RawWait:
    duration_us: int | None
    until: str | None


@dataclass(frozen=True, slots=True)
class RawWaitFor:
    awaited: tuple[Awaited, ...]
    all: bool
    correlation: str | None
    timeout_us: int | None
    may_end: bool


@dataclass(frozen=True, slots=True)
class RawEmit:
    type: str
    subject: str | None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RawApproval:
    approvers: Any  # a list, or a template of one
    quorum: int
    text: str
    values: dict[str, Any]
    timeout_us: int | None


@dataclass(frozen=True, slots=True)
class RawParallel:
    first: bool
    max_concurrency: int


@dataclass(frozen=True, slots=True)
class RawForEach:
    items: Any
    collect: dict[str, Any]
    max_concurrency: int
    tolerates: bool


@dataclass(frozen=True, slots=True)
class RawEnd:
    outcome: str
    reason: str


RawAction: TypeAlias = (
    "RawCall | RawSubWorkflow | RawSet | RawSwitch | RawWait | RawWaitFor | RawEmit | RawApproval"
    " | RawParallel | RawForEach | RawEnd"
)


@dataclass(frozen=True, slots=True)
class RawBlock:
    """Steps inside a step: a case, a branch, or what happens to each item."""

    pointer: Pointer
    name: str
    when: str | None
    steps: tuple[RawStep, ...]


@dataclass(frozen=True, slots=True)
class RawCatch:
    """What a step has as its on_error."""

    pointer: Pointer
    errors: frozenset[str]
    steps: tuple[RawStep, ...]


@dataclass(frozen=True, slots=True)
class RawStep:
    pointer: Pointer
    id: str
    condition: str | None
    action: RawAction
    blocks: tuple[RawBlock, ...] = ()
    on_error: RawCatch | None = None


@dataclass(frozen=True, slots=True)
class RawWorkflow:
    id: str
    name: str
    steps: tuple[RawStep, ...]
    deadline_us: int | None = None


def all_raw(steps: Iterable[RawStep]) -> Iterator[RawStep]:
    """These and all inside them, in the order of the text."""
    for step in steps:
        yield step
        for block in step.blocks:
            yield from all_raw(block.steps)
        if step.on_error is not None:
            yield from all_raw(step.on_error.steps)
