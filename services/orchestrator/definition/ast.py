"""The nodes of a definition, as the parser builds them, before any check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from services.orchestrator.definition.workflow import DEFAULT_RETRY, EventPattern, Retry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from services.orchestrator.definition.source import Pointer


@dataclass(frozen=True, slots=True)
class CallNode:
    pointer: Pointer
    protocol: str
    operation: str
    input_mapping: dict[str, Any]
    output_mapping: dict[str, Any]
    retry: Retry = DEFAULT_RETRY
    timeout_us: int | None = None
    compensate: CallNode | None = None
    payment: str | None = None  # a template of the payment's id


@dataclass(frozen=True, slots=True)
class SubWorkflowNode:
    workflow: str  # its id
    input_mapping: dict[str, Any]
    output_mapping: dict[str, Any]
    payment: str | None = None


@dataclass(frozen=True, slots=True)
class SetNode:
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SwitchNode:
    pass


@dataclass(frozen=True, slots=True)
class WaitNode:
    duration_us: int | None
    until: str | None


@dataclass(frozen=True, slots=True)
class WaitForNode:
    patterns: tuple[EventPattern, ...]
    all: bool
    correlation: str | None
    timeout_us: int | None
    continues_on_timeout: bool


@dataclass(frozen=True, slots=True)
class EmitNode:
    type: str
    subject: str | None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ApprovalNode:
    approvers: Any  # a list, or a template of one
    quorum: int
    text: str
    values: dict[str, Any]
    timeout_us: int | None


@dataclass(frozen=True, slots=True)
class ParallelNode:
    first: bool
    max_concurrency: int


@dataclass(frozen=True, slots=True)
class ForEachNode:
    items: Any
    collect: dict[str, Any]
    max_concurrency: int
    continues_on_error: bool


@dataclass(frozen=True, slots=True)
class EndNode:
    outcome: str
    reason: str


ActionNode: TypeAlias = (
    "CallNode | SubWorkflowNode | SetNode | SwitchNode | WaitNode | WaitForNode | EmitNode"
    " | ApprovalNode | ParallelNode | ForEachNode | EndNode"
)


@dataclass(frozen=True, slots=True)
class BlockNode:
    """Steps inside a step: a case, a branch, or the steps for each item."""

    pointer: Pointer
    name: str
    when: str | None
    steps: tuple[StepNode, ...]


@dataclass(frozen=True, slots=True)
class CatchNode:
    """The ``on_error`` of a step."""

    pointer: Pointer
    errors: frozenset[str]
    steps: tuple[StepNode, ...]


@dataclass(frozen=True, slots=True)
class StepNode:
    pointer: Pointer
    id: str
    condition: str | None
    action: ActionNode
    blocks: tuple[BlockNode, ...] = ()
    on_error: CatchNode | None = None


@dataclass(frozen=True, slots=True)
class WorkflowNode:
    id: str
    name: str
    steps: tuple[StepNode, ...]
    deadline_us: int | None = None


def all_nodes(steps: Iterable[StepNode]) -> Iterator[StepNode]:
    """Yields the steps and all steps inside them, in the order of the text."""
    for step in steps:
        yield step
        for block in step.blocks:
            yield from all_nodes(block.steps)
        if step.on_error is not None:
            yield from all_nodes(step.on_error.steps)
