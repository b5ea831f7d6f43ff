"""Steps that wait for the world around a run, or tell it something."""

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
    MAX_SUBJECT,
)
from services.orchestrator.definition.templates import resolve
from services.orchestrator.engine import outcome
from services.orchestrator.engine.calls import Calls
from services.orchestrator.engine.model import Phase, StepError
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.engine.retry_policy import SECOND_US

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from services.orchestrator.definition.workflow import (
        Approval,
        Emit,
        EventPattern,
        Wait,
        WaitFor,
    )
    from services.orchestrator.engine.activations import EventReceived
    from services.orchestrator.engine.model import ReceivedSignal, RunState, StepState


@dataclass(slots=True)
class Waits(Calls):
    event_position: int | None = (
        None  # the store's last event when the turn began, if anybody asked
    )

    # Waiting for a time.

    def wait(self, wait: Wait, path: str, seen: dict[str, Any], payload: dict[str, Any]) -> None:
        until = self._until(wait, seen)
        capped = until if outcome.pivot_made(self.state) else self._cap(until)
        more = {"input": {"until_us": until}, "until_us": capped}
        self.add(RecordKind.STEP_INTENT, path, {**payload, **more}, attempt=1)

    def _until(self, wait: Wait, seen: dict[str, Any]) -> int:
        if wait.until is None:
            return self.at_us + (wait.duration_us or 0)
        text = resolve(wait.until, seen)
        try:
            time = datetime.fromisoformat(text)
        except (TypeError, ValueError):
            raise values.MismatchError(("until",), "an RFC 3339 time") from None
        if time.tzinfo is None:
            raise values.MismatchError(("until",), "a time with its offset from UTC")
        return int(time.timestamp() * SECOND_US)

    def _cap(self, until_us: int) -> int:
        return min(until_us, self.state.deadline_us)

    # Waiting for somebody.

    def listen_from_now_on(
        self, wait: WaitFor, path: str, seen: dict[str, Any], payload: dict[str, Any]
    ) -> None:
        correlation = resolve(wait.correlation, seen)
        if wait.correlation is not None:
            _must_be_short(correlation, "correlation")
        asked: dict[str, Any] = {"correlation": correlation, "may_end": wait.continues_on_timeout}
        if wait.events:
            assert self.event_position is not None, "nobody looked"  # noqa: S101
            asked |= {"events": list(wait.events), "subscribed_from": self.event_position}
        self._listen(path, payload, asked, wait.timeout_us)

    def _listen(
        self, path: str, payload: dict[str, Any], asked: dict[str, Any], timeout_us: int | None
    ) -> None:
        until = self.state.deadline_us if timeout_us is None else self.at_us + timeout_us
        if not outcome.pivot_made(self.state):
            until = self._cap(until)
        more = {"input": asked, "awaits_event": True, "until_us": until}
        self.add(RecordKind.STEP_INTENT, path, {**payload, **more}, attempt=1)

    def hear(self, heard: EventReceived) -> None:
        """An event goes to every step that waits for it since before it was emitted."""
        paths = [step.path for step in self.state.in_flight if self._wants(step, heard)]
        if paths:
            payload = {
                "type": heard.type,
                "subject": heard.subject,
                "data": heard.data,
                "position": heard.position,
                "paths": paths,
            }
            self.add(RecordKind.EVENT, "", payload)

    def _wants(self, step: StepState, heard: EventReceived) -> bool:
        if step.phase is not Phase.AWAITING_EVENT or heard.position <= step.subscribed_from:
            return False
        if heard.type not in step.input.get("events", ()) or heard.type in step.received_events:
            return False
        if heard.run_id == self.state.run_id and heard.emitted_sequence < step.first_sequence:
            return False  # by an earlier step of this very run
        return step.input["correlation"] in (None, heard.subject)

    def take_what_came(self, wait: WaitFor, path: str, known: StepState) -> None:
        """Done, if what the step waits for has come."""
        came = {
            one: found for one in wait.patterns if (found := self._find(one, known)) is not None
        }
        if not came or (wait.all and len(came) < len(wait.patterns)):
            return
        first = min(came.values(), key=lambda signal: signal.sequence)
        taken = list(came.values()) if wait.all else [first]
        payload: Any = first.payload
        if wait.all:
            payload = {one.key: signal.payload for one, signal in came.items()}
        consumed = [signal.sequence for signal in taken if signal in self.state.signals]
        done = {"signal": first.name, "payload": payload}
        more = {"reply": None, "output": done, "attestations": [], "consumed": consumed}
        self.add(RecordKind.STEP_DONE, path, more)

    def _find(self, awaited: EventPattern, known: StepState) -> ReceivedSignal | None:
        if awaited.is_event:
            return known.received_events.get(awaited.name)
        asked = known.input["correlation"]
        for signal in self.state.signals:
            if signal.name == awaited.name and asked in (None, signal.correlation):
                return signal
        return None

    def stop_listening(self, step: StepState) -> None:
        """Its time is over."""
        may_end = step.input.get("may_end", False)
        if may_end and self.at_us < self.state.deadline_us:
            self.finish_own(step.path, {"signal": None, "payload": None})
            return
        what = "nothing came that it waits for"
        if self.at_us >= self.state.deadline_us:
            what = "the run's deadline passed while the step waited"
        elif "asked" in step.input:
            approved = sum(said.approved for said in step.decisions.values())
            what = f"{approved} of {step.input['asked']['quorum']} approved in time"
        self.end_call(step.path, StepError("DEADLINE_EXCEEDED", "", what))

    # Approvals.

    def ask(
        self, asked: Approval, path: str, seen: dict[str, Any], payload: dict[str, Any]
    ) -> None:
        now = datetime.fromtimestamp(self.at_us / SECOND_US, UTC)
        text = resolve(asked.text, seen)
        if not isinstance(text, str):
            raise values.MismatchError(("text",), "a text")
        document = {
            "run_id": self.state.run_id,
            "step": path,
            "text": text,
            "values": resolve(asked.values, seen),
            "approvers": _approvers(resolve(asked.approvers, seen), asked.quorum),
            "quorum": asked.quorum,
            "asked": values.format_time(now),
        }
        digest = _digest(document)
        self._listen(path, payload, {"asked": document, "digest": digest}, asked.timeout_us)

    def count(self, asked: Approval, path: str, known: StepState) -> None:
        """Done at the quorum; failed as soon as it cannot be reached any more."""
        approved = [did for did, said in known.decisions.items() if said.approved]
        rejected = len(known.decisions) - len(approved)
        approvers = len(known.input["asked"]["approvers"])
        if len(approved) >= asked.quorum:
            output = {"approved_by": approved, "digest": known.input["digest"]}
            self.finish_own(path, output)
        elif approvers - rejected < asked.quorum:
            message = f"{rejected} of {approvers} rejected it: {asked.quorum} had to approve"
            self.end_call(path, StepError("FAILED_PRECONDITION", Reason.APPROVAL_REJECTED, message))

    # Telling others.

    def emit(self, emit: Emit, path: str, seen: dict[str, Any], payload: dict[str, Any]) -> None:
        subject = resolve(emit.subject, seen) if emit.subject is not None else self.state.run_id
        _must_be_short(subject, "subject", least=1)
        data = resolve(emit.data, seen)
        if len(json.dumps(data).encode()) > MAX_EVENT_BYTES:
            raise values.MismatchError(("data",), f"at most {MAX_EVENT_BYTES} bytes of JSON")
        self.complete_now(path, payload, {"type": emit.type, "subject": subject, "data": data}, {})

    def complete_now(
        self, path: str, payload: dict[str, Any], input: dict[str, Any], output: dict[str, Any]
    ) -> None:
        done: dict[str, Any] = {"input": input, "reply": None, "output": output, "attestations": []}
        self.add(RecordKind.STEP_DONE, path, {**payload, **done}, attempt=1)


def _approvers(given: Any, quorum: int) -> list[str]:
    dids = given if isinstance(given, list) else []
    if not all(isinstance(did, str) and re.fullmatch(DID, did) for did in dids):
        raise values.MismatchError(("approvers",), "a list of DIDs")
    if not quorum <= len(set(dids)) == len(dids) <= MAX_APPROVERS:
        raise values.MismatchError(("approvers",), f"{quorum} to {MAX_APPROVERS} different DIDs")
    return dids


def _must_be_short(given: Any, name: str, *, least: int = 0) -> None:
    """What events are about is a key of the store: it can hold neither more nor U+0000."""
    if not isinstance(given, str) or not least <= len(given) <= MAX_SUBJECT or "\0" in given:
        expected = f"a text of {least} to {MAX_SUBJECT} characters without U+0000"
        raise values.MismatchError((name,), expected)


def _digest(document: dict[str, Any]) -> str:
    """SHA-256 of the RFC 8785 form, hex: what an approver signs."""
    try:
        return hashlib.sha256(rfc8785.dumps(document)).hexdigest()
    except rfc8785.CanonicalizationError:
        raise values.MismatchError(("values",), "what JSON can hold") from None


ANY = ""  # in place of a subject: no event has this one


@dataclass(frozen=True, slots=True)
class Subscription:
    wanted: Mapping[str, Collection[str]]  # subjects by type, ANY among them for all of its events
    since: int  # position in the store's events behind which it wants them

    def wants(self, type: str, subject: str) -> bool:
        subjects = self.wanted.get(type, ())
        return subject in subjects or ANY in subjects


def subscription(state: RunState, heard: int = 0) -> Subscription | None:
    """None if it listens to nothing. ``heard``: position up to which it has looked already."""
    steps = [step for step in state.in_flight if step.input.get("events")]
    if not steps:
        return None
    wanted: defaultdict[str, set[str]] = defaultdict(set)
    for step in steps:
        for type in step.input["events"]:
            wanted[type].add(step.input["correlation"] or ANY)
    return Subscription(wanted, max(heard, min(step.subscribed_from for step in steps)))
