"""Checks steps that wait for messages, emit events or ask for approval, and all timeouts."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.check.scope import RACE, step_key
from services.orchestrator.definition.grammar import DID, MAX_EVENT_BYTES, MAX_SUBJECT_CHARS
from services.orchestrator.definition.problems import shown
from services.orchestrator.definition.types import STRING, TIME, TypeKind, ValueType
from services.orchestrator.definition.workflow import Approval, Emit, Wait, WaitFor

if TYPE_CHECKING:
    from services.orchestrator.definition.ast import (
        ApprovalNode,
        EmitNode,
        StepNode,
        WaitForNode,
        WaitNode,
    )
    from services.orchestrator.definition.check.mappings import Mappings
    from services.orchestrator.definition.check.scope import Scope
    from services.orchestrator.definition.source import Pointer, Problems

PAYLOAD = ValueType(TypeKind.STRUCT, showable=False)
STRINGS = ValueType(TypeKind.LIST, element=STRING)
OBJECT = ValueType(TypeKind.STRUCT)


class WaitChecks:
    """Needs the deadline of the workflow, in microseconds: every timeout is shorter."""

    def __init__(
        self, problems: Problems, scope: Scope, mappings: Mappings, deadline_us: int | None
    ) -> None:
        self._problems = problems
        self._scope = scope
        self._mappings = mappings
        self._deadline_us = deadline_us

    def timeout(self, timeout_us: int | None, pointer: Pointer) -> None:
        """Adds a problem if the timeout is not shorter than the deadline."""
        deadline = self._deadline_us
        if timeout_us is not None and deadline is not None and timeout_us >= deadline:
            self._problems.add(pointer, "must be shorter than the deadline of the run")

    def wait(self, step: StepNode, wait: WaitNode) -> Wait:
        """Checks a wait for a duration or a time."""
        where = (*step.pointer, "wait")
        if wait.until is not None:
            self._mappings.check(wait.until, TIME, (*where, "until"))
        if RACE not in self._scope.blocks:  # there another branch may end first
            self.timeout(wait.duration_us, (*where, "duration"))
        return Wait(wait.duration_us, wait.until)

    def wait_for(self, step: StepNode, wait: WaitForNode) -> tuple[WaitFor, dict[str, ValueType]]:
        """Checks a wait for messages. Returns it with the types of its outputs."""
        where = (*step.pointer, "wait_for")
        if wait.correlation is not None:
            self._mappings.check(wait.correlation, STRING, (*where, "correlation"))
        self.timeout(wait.timeout_us, (*where, "timeout"))
        types = {"signal": STRING, "payload": PAYLOAD}
        if wait.continues_on_timeout:
            null = frozenset([step_key(step.id)])
            types = {name: type.or_null(null) for name, type in types.items()}
        found = WaitFor(
            wait.patterns, wait.all, wait.correlation, wait.timeout_us, wait.continues_on_timeout
        )
        return found, types

    def emit(self, step: StepNode, emit: EmitNode) -> Emit:
        """Checks an event."""
        where = (*step.pointer, "emit")
        if RACE in self._scope.blocks:
            message = "an event cannot be taken back: not in a race for the first"
            self._problems.add(where, message)
        if emit.subject is not None:
            self._mappings.check(emit.subject, STRING, (*where, "subject"))
        self._mappings.check(emit.data, OBJECT, (*where, "data"))
        if not _has_template(emit.data) and len(json.dumps(emit.data).encode()) > MAX_EVENT_BYTES:
            message = f"must be at most {MAX_EVENT_BYTES // 1024} KiB of JSON"
            self._problems.add((*where, "data"), message)
        if not _has_template(emit.subject) and len(emit.subject or "") > MAX_SUBJECT_CHARS:
            self._problems.add(
                (*where, "subject"), f"must be at most {MAX_SUBJECT_CHARS} characters"
            )
        return Emit(emit.type, emit.subject, emit.data)

    def approval(
        self, step: StepNode, asked: ApprovalNode
    ) -> tuple[Approval, dict[str, ValueType]]:
        """Checks a request for approval. Returns it with the types of its outputs."""
        where = (*step.pointer, "approval")
        self._approvers(asked.approvers, (*where, "approvers"))
        self._mappings.check(asked.text, STRING, (*where, "text"))
        self._mappings.check(asked.values, OBJECT, (*where, "values"))
        self.timeout(asked.timeout_us, (*where, "timeout"))
        found = Approval(asked.approvers, asked.quorum, asked.text, asked.values, asked.timeout_us)
        return found, {"approved_by": STRINGS, "digest": STRING}

    def _approvers(self, given: Any, pointer: Pointer) -> None:
        self._mappings.check(given, STRINGS, pointer)
        for at, did in enumerate(given if isinstance(given, list) else []):
            if isinstance(did, str) and "{{" not in did and not re.fullmatch(DID, did):
                self._problems.add((*pointer, at), f"{shown(did)} is no DID")


def _has_template(value: Any) -> bool:
    match value:
        case str():
            return "{{" in value
        case dict():
            return any(map(_has_template, value.values()))
        case list():
            return any(map(_has_template, value))
        case _:
            return False
