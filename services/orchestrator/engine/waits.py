"""Steps that wait for a time, a signal, an event or an approval, and steps that emit events."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import rfc8785

from mesh.errors import Reason
from services.orchestrator.definition import values
from services.orchestrator.definition.grammar import (
    DID,
    MAX_APPROVERS,
    MAX_EVENT_BYTES,
    MAX_SUBJECT_CHARS,
)
from services.orchestrator.definition.templates import resolve
from services.orchestrator.definition.workflow import Approval, WaitFor
from services.orchestrator.engine import outcome
from services.orchestrator.engine.model import Phase, StepError
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.engine.retry_policy import SECOND_US

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from services.orchestrator.definition.workflow import Action, Emit, EventPattern, Wait
    from services.orchestrator.engine.activations import EventReceived
    from services.orchestrator.engine.model import ReceivedSignal, RunState, StepState
    from services.orchestrator.engine.record_writer import RecordWriter

MAX_APPROVAL_BYTES = 64 * 1024  # of the document that approvers sign
ANY_SUBJECT = ""  # in place of a subject: no event has this one


class Waits:
    """Begins steps that wait, and completes or fails them by what arrives."""

    __slots__ = ("_writer",)

    def __init__(self, writer: RecordWriter) -> None:
        self._writer = writer

    def _resolve(self, value: Any, scope: dict[str, Any]) -> Any:
        return resolve(value, scope, self._writer.resolved_size())

    # Timers.

    def start_timer(
        self, wait: Wait, path: str, scope: dict[str, Any], metadata: dict[str, Any]
    ) -> None:
        until_us = self._due_us(wait, scope)
        capped_us = until_us if outcome.pivot_made(self._writer.state) else self._cap(until_us)
        payload = {**metadata, "input": {"until_us": until_us}, "until_us": capped_us}
        self._writer.add(RecordKind.STEP_INTENT, path, payload, attempt=1)

    def _due_us(self, wait: Wait, scope: dict[str, Any]) -> int:
        if wait.until is None:
            return self._writer.at_us + (wait.duration_us or 0)
        text = self._resolve(wait.until, scope)
        try:
            time = datetime.fromisoformat(text)
        except (TypeError, ValueError):
            raise values.MismatchError(("until",), "an RFC 3339 time") from None
        if time.tzinfo is None:
            raise values.MismatchError(("until",), "a time with its offset from UTC")
        return int(time.timestamp() * SECOND_US)

    def _cap(self, until_us: int) -> int:
        return min(until_us, self._writer.state.deadline_us)

    def end_timer(self, step: StepState) -> None:
        """Completes the step, or fails it if the run's deadline came before its time."""
        if step.until_us < int(step.input["until_us"]):
            message = "the run's deadline passed while the step waited"
            self._writer.fail(step.path, StepError("DEADLINE_EXCEEDED", "", message))
        else:
            self._writer.complete(step.path, {})

    # Signals and events.

    def start_wait_for(
        self, wait: WaitFor, path: str, scope: dict[str, Any], metadata: dict[str, Any]
    ) -> None:
        correlation = self._resolve(wait.correlation, scope)
        if wait.correlation is not None:
            _check_length(correlation, "correlation")
        input: dict[str, Any] = {
            "correlation": correlation,
            "continues_on_timeout": wait.continues_on_timeout,
        }
        if wait.events:
            assert self._writer.event_position is not None, "no position was read"  # noqa: S101
            input |= {"events": list(wait.events), "subscribed_from": self._writer.event_position}
        self._begin(path, metadata, input, wait.timeout_us)

    def _begin(
        self, path: str, metadata: dict[str, Any], input: dict[str, Any], timeout_us: int | None
    ) -> None:
        state = self._writer.state
        until_us = state.deadline_us if timeout_us is None else self._writer.at_us + timeout_us
        if not outcome.pivot_made(state):
            until_us = self._cap(until_us)
        payload = {**metadata, "input": input, "awaits_event": True, "until_us": until_us}
        self._writer.add(RecordKind.STEP_INTENT, path, payload, attempt=1)

    def receive_event(self, event: EventReceived) -> None:
        """Gives the event to every step that was waiting for it when it was emitted."""
        paths = [step.path for step in self._writer.state.in_flight if self._wants(step, event)]
        if paths:
            payload = {
                "type": event.type,
                "subject": event.subject,
                "data": event.data,
                "position": event.position,
                "paths": paths,
            }
            self._writer.add(RecordKind.EVENT, "", payload)

    def _wants(self, step: StepState, event: EventReceived) -> bool:
        if step.phase is not Phase.AWAITING_EVENT or event.position <= step.subscribed_from:
            return False
        if event.type not in step.input.get("events", ()) or event.type in step.received_events:
            return False
        own = event.run_id == self._writer.state.run_id
        if own and event.emitted_sequence < step.first_sequence:
            return False  # an earlier step of this very run emitted it
        return step.input["correlation"] in (None, event.subject)

    def advance(self, action: Action, path: str, known: StepState) -> None:
        """Completes or fails a step that waits, if what it has received so far decides it."""
        match action:
            case WaitFor() as wait:
                self._match_signals(wait, path, known)
            case Approval() as approval:
                self._count_decisions(approval, path, known)
            case _:
                pass

    def _match_signals(self, wait: WaitFor, path: str, known: StepState) -> None:
        found = {
            pattern: signal
            for pattern in wait.patterns
            if (signal := self._find(pattern, known)) is not None
        }
        if not found or (wait.all and len(found) < len(wait.patterns)):
            return
        first = min(found.values(), key=lambda signal: signal.sequence)
        taken = list(found.values()) if wait.all else [first]
        payload: Any = first.payload
        if wait.all:
            payload = {pattern.key: signal.payload for pattern, signal in found.items()}
        signals = self._writer.state.signals
        consumed = [signal.sequence for signal in taken if signal in signals]
        output = {"signal": first.name, "payload": payload}
        done = {"reply": None, "output": output, "attestations": [], "consumed": consumed}
        self._writer.add(RecordKind.STEP_DONE, path, done)

    def _find(self, pattern: EventPattern, known: StepState) -> ReceivedSignal | None:
        if pattern.is_event:
            return known.received_events.get(pattern.name)
        correlation = known.input["correlation"]
        for signal in self._writer.state.signals:
            if signal.name == pattern.name and correlation in (None, signal.correlation):
                return signal
        return None

    def expire(self, step: StepState) -> None:
        """Ends a wait for signals, events or approvals whose time is over."""
        in_time = self._writer.at_us < self._writer.state.deadline_us
        if step.input.get("continues_on_timeout", False) and in_time:
            self._writer.complete(step.path, {"signal": None, "payload": None})
            return
        message = "no signal or event that it waits for arrived in time"
        if not in_time:
            message = "the run's deadline passed while the step waited"
        elif "asked" in step.input:
            approved = sum(decision.approved for decision in step.decisions.values())
            message = f"{approved} of {step.input['asked']['quorum']} approved in time"
        self._writer.fail(step.path, StepError("DEADLINE_EXCEEDED", "", message))

    # Approvals.

    def ask_approval(
        self, approval: Approval, path: str, scope: dict[str, Any], metadata: dict[str, Any]
    ) -> None:
        """Begins the step with the document that approvers sign, and its digest."""
        now = datetime.fromtimestamp(self._writer.at_us / SECOND_US, UTC)
        text = self._resolve(approval.text, scope)
        if not isinstance(text, str):
            raise values.MismatchError(("text",), "a text")
        document = {
            "run_id": self._writer.state.run_id,
            "step": path,
            "text": text,
            "values": self._resolve(approval.values, scope),
            "approvers": _approvers(self._resolve(approval.approvers, scope), approval.quorum),
            "quorum": approval.quorum,
            "asked": values.format_time(now),
        }
        input = {"asked": document, "digest": _digest(document)}
        self._begin(path, metadata, input, approval.timeout_us)

    def _count_decisions(self, approval: Approval, path: str, known: StepState) -> None:
        """Completes the step at the quorum; fails it as soon as the quorum is out of reach."""
        approved = [did for did, decision in known.decisions.items() if decision.approved]
        rejected = len(known.decisions) - len(approved)
        approvers = len(known.input["asked"]["approvers"])
        if len(approved) >= approval.quorum:
            output = {"approved_by": approved, "digest": known.input["digest"]}
            self._writer.complete(path, output)
        elif approvers - rejected < approval.quorum:
            message = f"{rejected} of {approvers} rejected it: {approval.quorum} had to approve"
            error = StepError("FAILED_PRECONDITION", Reason.APPROVAL_REJECTED, message)
            self._writer.fail(path, error)

    # Events that the run emits.

    def emit(self, emit: Emit, path: str, scope: dict[str, Any], metadata: dict[str, Any]) -> None:
        subject = self._writer.state.run_id
        if emit.subject is not None:
            subject = self._resolve(emit.subject, scope)
        _check_length(subject, "subject", least=1)
        data = self._resolve(emit.data, scope)
        if len(json.dumps(data).encode()) > MAX_EVENT_BYTES:
            raise values.MismatchError(("data",), f"at most {MAX_EVENT_BYTES} bytes of JSON")
        event = {"type": emit.type, "subject": subject, "data": data}
        self._writer.complete_at_once(path, metadata, event, {})


def _approvers(given: Any, quorum: int) -> list[str]:
    dids = given if isinstance(given, list) else []
    if not all(isinstance(did, str) and re.fullmatch(DID, did) for did in dids):
        raise values.MismatchError(("approvers",), "a list of DIDs")
    if not quorum <= len(set(dids)) == len(dids) <= MAX_APPROVERS:
        raise values.MismatchError(("approvers",), f"{quorum} to {MAX_APPROVERS} different DIDs")
    return dids


def _check_length(given: Any, name: str, *, least: int = 0) -> None:
    """Raises MismatchError for a text that the store cannot hold as the subject of an event."""
    if not isinstance(given, str) or not least <= len(given) <= MAX_SUBJECT_CHARS or "\0" in given:
        expected = f"a text of {least} to {MAX_SUBJECT_CHARS} characters without U+0000"
        raise values.MismatchError((name,), expected)


def _digest(document: dict[str, Any]) -> str:
    """Returns what an approver signs: SHA-256 of the document's RFC 8785 form, in hex."""
    if len(json.dumps(document)) > MAX_APPROVAL_BYTES:
        raise values.MismatchError(("values",), f"at most {MAX_APPROVAL_BYTES} bytes of JSON")
    try:
        return hashlib.sha256(rfc8785.dumps(document)).hexdigest()
    except rfc8785.CanonicalizationError:
        raise values.MismatchError(("values",), "what JSON can hold") from None


@dataclass(frozen=True, slots=True)
class Subscription:
    """The events that the steps of a run wait for."""

    subjects: Mapping[str, Collection[str]]  # by event type; ANY_SUBJECT for all events of the type
    after: int  # position in the store's events

    def matches(self, type: str, subject: str) -> bool:
        subjects = self.subjects.get(type, ())
        return subject in subjects or ANY_SUBJECT in subjects


def subscription(state: RunState, position: int = 0) -> Subscription | None:
    """Returns what the run waits for behind ``position``, or None if it waits for no events."""
    steps = [step for step in state.in_flight if step.input.get("events")]
    if not steps:
        return None
    subjects: defaultdict[str, set[str]] = defaultdict(set)
    for step in steps:
        for type in step.input["events"]:
            subjects[type].add(step.input["correlation"] or ANY_SUBJECT)
    return Subscription(subjects, max(position, min(step.subscribed_from for step in steps)))
