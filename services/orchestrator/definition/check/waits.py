"""The check of steps that wait for the world around a run, or tell it something."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.check.mappings import MappingChecks
from services.orchestrator.definition.check.scope import key_of
from services.orchestrator.definition.problems import shown
from services.orchestrator.definition.step_parsers import DID
from services.orchestrator.definition.types import STRING, TypeKind, ValueType
from services.orchestrator.definition.workflow import Approval, Emit, WaitFor

if TYPE_CHECKING:
    from services.orchestrator.definition.ast import ApprovalNode, EmitNode, StepNode, WaitForNode
    from services.orchestrator.definition.check.scope import Scope
    from services.orchestrator.definition.source import Pointer, Source

SENT = ValueType(TypeKind.STRUCT, showable=False)
STRINGS = ValueType(TypeKind.LIST, element=STRING)
ANYTHING = ValueType(TypeKind.STRUCT)


MAX_DATA = 64 * 1024  # bytes of JSON that an event carries
MAX_SUBJECT = 200  # characters


class WaitChecks(MappingChecks):
    def __init__(self, source: Source, visible: Scope, deadline_us: int | None) -> None:
        super().__init__(source, visible)
        self.deadline_us = deadline_us

    def ends_in_time(self, timeout_us: int | None, pointer: Pointer) -> None:
        deadline = self.deadline_us
        if timeout_us is not None and deadline is not None and timeout_us >= deadline:
            self.problem(pointer, "must be shorter than the deadline of the run")

    def wait_for(self, raw: StepNode, wait: WaitForNode) -> tuple[WaitFor, dict[str, ValueType]]:
        where = (*raw.pointer, "wait_for")
        if wait.correlation is not None:
            self.fits(wait.correlation, STRING, (*where, "correlation"))
        self.ends_in_time(wait.timeout_us, (*where, "timeout"))
        types = {"signal": STRING, "payload": SENT}
        if wait.continues_on_timeout:
            types = {
                name: type.or_null(frozenset([key_of(raw.id)])) for name, type in types.items()
            }
        found = WaitFor(
            wait.patterns, wait.all, wait.correlation, wait.timeout_us, wait.continues_on_timeout
        )
        return found, types

    def emit(self, where: Pointer, emit: EmitNode) -> Emit:
        if emit.subject is not None:
            self.fits(emit.subject, STRING, (*where, "subject"))
        self.fits(emit.data, ANYTHING, (*where, "data"))
        if not _holds_template(emit.data) and len(json.dumps(emit.data).encode()) > MAX_DATA:
            self.problem((*where, "data"), f"must be at most {MAX_DATA // 1024} KiB of JSON")
        if not _holds_template(emit.subject) and len(emit.subject or "") > MAX_SUBJECT:
            self.problem((*where, "subject"), f"must be at most {MAX_SUBJECT} characters")
        return Emit(emit.type, emit.subject, emit.data)

    def approval(self, raw: StepNode, asked: ApprovalNode) -> tuple[Approval, dict[str, ValueType]]:
        where = (*raw.pointer, "approval")
        self._approvers(asked.approvers, (*where, "approvers"))
        self.fits(asked.text, STRING, (*where, "text"))
        self.fits(asked.values, ANYTHING, (*where, "values"))
        self.ends_in_time(asked.timeout_us, (*where, "timeout"))
        found = Approval(asked.approvers, asked.quorum, asked.text, asked.values, asked.timeout_us)
        return found, {"approved_by": STRINGS, "digest": STRING}

    def _approvers(self, given: Any, pointer: Pointer) -> None:
        self.fits(given, STRINGS, pointer)
        for at, did in enumerate(given if isinstance(given, list) else []):
            if isinstance(did, str) and "{{" not in did and not re.fullmatch(DID, did):
                self.problem((*pointer, at), f"{shown(did)} is no DID")


def _holds_template(value: Any) -> bool:
    match value:
        case str():
            return "{{" in value
        case dict():
            return any(map(_holds_template, value.values()))
        case list():
            return any(map(_holds_template, value))
        case _:
            return False
