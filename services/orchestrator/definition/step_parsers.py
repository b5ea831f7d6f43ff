"""Builds the action of a step from its fields: one function for each kind of step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from services.orchestrator.definition.ast import (
    ApprovalNode,
    BlockNode,
    CallNode,
    EmitNode,
    EndNode,
    ForEachNode,
    ParallelNode,
    SetNode,
    SubWorkflowNode,
    SwitchNode,
    WaitForNode,
    WaitNode,
)
from services.orchestrator.definition.grammar import MAX_APPROVERS, MAX_CONCURRENCY
from services.orchestrator.definition.workflow import DEFAULT_RETRY, EventPattern, Retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.orchestrator.definition.ast import ActionNode
    from services.orchestrator.definition.source import Pointer, Problems

Fields: TypeAlias = "dict[str, Any]"
Parsed: TypeAlias = "tuple[ActionNode, tuple[BlockNode, ...]]"  # an action, and the steps inside


def parse_call(pointer: Pointer, step: Fields) -> CallNode:
    """Builds a call from the fields of its step."""
    undo = step["compensate"]
    undo_at = (*pointer, "compensate")
    return CallNode(
        pointer,
        protocol=step["protocol"],
        operation=step["operation"],
        input_mapping=step["input_mapping"],
        output_mapping=step["output_mapping"],
        retry=_retry(step["retry"]),
        timeout_us=step["timeout"],
        compensate=None if undo is None else _compensate(undo_at, undo),
        payment=step["payment"],
    )


def parse_sub_workflow(step: Fields) -> SubWorkflowNode:
    """Builds the run of another workflow from the fields of its step."""
    return SubWorkflowNode(
        step["workflow"], step["input_mapping"], step["output_mapping"], step["payment"]
    )


def _compensate(pointer: Pointer, call: Fields) -> CallNode:
    return CallNode(
        pointer,
        protocol=call["protocol"],
        operation=call["operation"],
        input_mapping=call["input_mapping"],
        output_mapping={},
        retry=_retry(call["retry"]),
        timeout_us=call["timeout"],
    )


def _retry(given: Fields | None) -> Retry:
    if given is None:
        return DEFAULT_RETRY
    jitter = given["jitter"]
    return Retry(
        max_attempts=given["max_attempts"],
        backoff_us=given["backoff"],
        max_delay_us=given["max_delay"],
        jitter=None if jitter is None else float(jitter),
        max_duration_us=given["max_duration"],
        errors=given["errors"],
    )


def _set(pointer: Pointer, values: Fields, problems: Problems) -> Parsed:
    return SetNode(values), ()


def _switch(pointer: Pointer, cases: list[Fields], problems: Problems) -> Parsed:
    blocks = (
        BlockNode((*pointer, at), str(at), case["when"], case["steps"])
        for at, case in enumerate(cases)
    )
    return SwitchNode(), tuple(blocks)


def _wait(pointer: Pointer, given: Fields, problems: Problems) -> Parsed:
    return WaitNode(given["duration"], given["until"]), ()


def _wait_for(pointer: Pointer, given: Fields, problems: Problems) -> Parsed:
    patterns: tuple[EventPattern, ...] = given["any"] or given["all"]
    if given["signal"] is not None:
        patterns = (EventPattern(given["signal"]),)
    elif given["event"] is not None:
        patterns = (EventPattern(given["event"], is_event=True),)
    node = WaitForNode(
        patterns,
        all=bool(given["all"]),
        correlation=given["correlation"],
        timeout_us=given["timeout"],
        continues_on_timeout=given["on_timeout"] == "continue",
    )
    return node, ()


def _emit(pointer: Pointer, given: Fields, problems: Problems) -> Parsed:
    return EmitNode(given["type"], given["subject"], given["data"]), ()


def _approval(pointer: Pointer, given: Fields, problems: Problems) -> Parsed:
    approvers, quorum = given["approvers"], given["quorum"] or 1
    if isinstance(approvers, list):
        different = len(set(map(str, approvers))) == len(approvers)
        if not different or not quorum <= len(approvers) <= MAX_APPROVERS:
            message = f"must be {quorum} to {MAX_APPROVERS} different DIDs"
            problems.add((*pointer, "approvers"), message)
    node = ApprovalNode(approvers, quorum, given["text"], given["values"], given["timeout"])
    return node, ()


def _parallel(pointer: Pointer, given: Fields, problems: Problems) -> Parsed:
    blocks = (
        BlockNode((*pointer, "branches", name), name, None, steps)
        for name, steps in given["branches"].items()
    )
    node = ParallelNode(given["wait_for"] == "first", given["max_concurrency"] or MAX_CONCURRENCY)
    return node, tuple(blocks)


def _for_each(pointer: Pointer, given: Fields, problems: Problems) -> Parsed:
    node = ForEachNode(
        given["items"],
        given["collect"],
        given["max_concurrency"] or MAX_CONCURRENCY,
        continues_on_error=given["on_item_error"] == "continue",
    )
    return node, (BlockNode(pointer, "items", None, given["steps"]),)


def _end(pointer: Pointer, given: Fields, problems: Problems) -> Parsed:
    return EndNode(given["outcome"], given["reason"] or ""), ()


# By the key that makes a step one of the kind. Each takes the pointer and the value of that key.
ACTION_PARSERS: dict[str, Callable[[Pointer, Any, Problems], Parsed]] = {
    "set": _set,
    "switch": _switch,
    "wait": _wait,
    "wait_for": _wait_for,
    "emit": _emit,
    "approval": _approval,
    "parallel": _parallel,
    "for_each": _for_each,
    "end": _end,
}
