"""The shape of steps that wait for the world around a run, or tell it something."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.ast import ApprovalNode, EmitNode, WaitForNode, WaitNode
from services.orchestrator.definition.shape import MAX_BRANCHES, Shape, is_id, not_an_id
from services.orchestrator.definition.workflow import EventPattern

if TYPE_CHECKING:
    from services.orchestrator.definition.source import Pointer

SIGNALS = ("signal", "event", "any", "all")
MAX_EVENT = 100  # characters
EVENT = r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*"
RESERVED = "orchestrator."  # what the types of the engine's own events begin with
MAX_APPROVERS = 32
DID = r"did:[a-z0-9]+:[A-Za-z0-9._:%-]{1,2000}"


class Asking(Shape):
    def wait(self, pointer: Pointer, step: dict[str, Any]) -> WaitNode:
        given = self.member(pointer, step)
        self.keys(pointer, given, optional=("duration", "until"))
        if isinstance(step["wait"], dict) and len(given.keys() & {"duration", "until"}) != 1:
            self.problem(pointer, "needs duration or until, one of them")
        until = self.text((*pointer, "until"), given) if "until" in given else None
        return WaitNode(self.duration((*pointer, "duration"), given), until)

    def wait_for(self, pointer: Pointer, step: dict[str, Any]) -> WaitForNode:
        given = self.member(pointer, step)
        self.keys(pointer, given, optional=(*SIGNALS, "correlation", "timeout", "on_timeout"))
        kinds = [kind for kind in SIGNALS if kind in given]
        if isinstance(step["wait_for"], dict) and len(kinds) != 1:
            self.problem(pointer, f"needs one of {', '.join(SIGNALS)}")
        where = (*pointer, "on_timeout")
        continues_on_timeout = self.word(where, given, ("fail", "continue"), "fail") == "continue"
        if continues_on_timeout and "timeout" not in given:
            self.problem(where, "needs a timeout")
        correlation = (*pointer, "correlation")
        return WaitForNode(
            self._awaited(pointer, given, kinds),
            "all" in given,
            self.text(correlation, given) if "correlation" in given else None,
            self.duration((*pointer, "timeout"), given),
            continues_on_timeout,
        )

    def _awaited(
        self, pointer: Pointer, given: dict[str, Any], kinds: list[str]
    ) -> tuple[EventPattern, ...]:
        if "signal" in given:
            return (EventPattern(self.id((*pointer, "signal"), given)),)
        if "event" in given:
            return (EventPattern(self._event((*pointer, "event"), given["event"]), is_event=True),)
        if not kinds:
            return ()
        where, listed = (*pointer, kinds[0]), given[kinds[0]]
        if not isinstance(listed, list) or not 2 <= len(listed) <= MAX_BRANCHES:
            self.problem(where, f"must be a list of 2 to {MAX_BRANCHES} different names")
            return ()
        awaited = tuple(self._one_of((*where, at), item) for at, item in enumerate(listed))
        if len({one.key for one in awaited}) < len(awaited):
            self.problem(where, f"must be a list of 2 to {MAX_BRANCHES} different names")
        return awaited

    def _one_of(self, pointer: Pointer, value: Any) -> EventPattern:
        """The name of a signal, or an object that names an event."""
        if isinstance(value, dict):
            self.keys(pointer, value, required=("event",))
            if "event" in value:
                return EventPattern(self._event((*pointer, "event"), value["event"]), is_event=True)
        elif not isinstance(value, str) or not is_id(value):
            self.problem(pointer, not_an_id(str(value)))
        return EventPattern(str(value))

    def _event(self, pointer: Pointer, value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(EVENT, value) or len(value) > MAX_EVENT:
            expected = "words of a-z, 0-9 and _, each beginning with a letter, parted by dots"
            self.problem(pointer, f"must be {expected}, at most {MAX_EVENT} characters")
        return str(value)

    def emit(self, pointer: Pointer, step: dict[str, Any]) -> EmitNode:
        given = self.member(pointer, step)
        self.keys(pointer, given, required=("type",), optional=("subject", "data"))
        where = (*pointer, "type")
        type = self._event(where, given["type"]) if "type" in given else ""
        if type.startswith(RESERVED):
            self.problem(where, f"types that begin with {RESERVED} are the engine's")
        subject = self.text((*pointer, "subject"), given) if "subject" in given else None
        return EmitNode(type, subject, self.member((*pointer, "data"), given))

    def approval(self, pointer: Pointer, step: dict[str, Any]) -> ApprovalNode:
        given = self.member(pointer, step)
        required = ("approvers", "quorum", "text")
        self.keys(pointer, given, required=required, optional=("values", "timeout"))
        quorum = self.integer((*pointer, "quorum"), given, 1, MAX_APPROVERS) or 1
        listed = given.get("approvers")
        where = (*pointer, "approvers")
        if isinstance(listed, list):
            if not quorum <= len(set(map(str, listed))) == len(listed) <= MAX_APPROVERS:
                self.problem(where, f"must be {quorum} to {MAX_APPROVERS} different DIDs")
        elif "approvers" in given and not isinstance(listed, str):
            self.problem(where, "must be a list of DIDs, or a path to one")
        values = self.member((*pointer, "values"), given)
        self.names((*pointer, "values"), values)
        text = self.text((*pointer, "text"), given)
        timeout = self.duration((*pointer, "timeout"), given)
        return ApprovalNode(listed, quorum, text, values, timeout)
