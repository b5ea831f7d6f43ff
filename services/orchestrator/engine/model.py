"""The state of a run: nothing but what its records say.

It lives as long as somebody drives the run, and each record is folded into it where it stands. Who
cannot tell whether a record was stored drops the state, and folds what the journal has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from services.orchestrator.definition.workflow import Effect

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


READ, PIVOT = Effect.READ.name, Effect.PIVOT.name  # the effect of a step

RECOVERED = "recovered"  # the cause of an attempt that follows a crash
REDRIVEN = "redriven"  # and of one by a run that had ended


class RunStatus(StrEnum):
    RUNNING = "RUNNING"
    CIRCUIT_OPEN = "CIRCUIT_OPEN"
    WAITING = "WAITING"
    SUCCEEDED = "SUCCEEDED"
    REFUSED = "REFUSED"
    FAILED = "FAILED"
    COMPENSATED = "COMPENSATED"
    COMPENSATION_FAILED = "COMPENSATION_FAILED"
    CANCELLED = "CANCELLED"
    NEEDS_ATTENTION = "NEEDS_ATTENTION"


class StepStatus(StrEnum):
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"
    UNCERTAIN = "UNCERTAIN"


class Phase(StrEnum):
    """What a step is at, which decides what to do next."""

    CALL = "CALL"  # an attempt is owed, or on its way
    BACKOFF = "BACKOFF"  # until the next attempt
    TIMER = "TIMER"  # time: that is all it is there for
    AWAITING_EVENT = "AWAITING_EVENT"  # for signals, until some time
    CIRCUIT_OPEN = "CIRCUIT_OPEN"  # until the breaker of its target lets a probe through
    CANCELLING = "CANCELLING"  # a cancel is owed, from some time on, or on its way
    CHILDREN = "CHILDREN"  # the steps inside it run
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True)
class StepError:
    """How an attempt ended, when it did not end well."""

    code: str  # gRPC's name
    reason: str
    message: str
    retry_after: float = 0.0  # seconds, if the other side named a time

    def to_payload(self) -> dict[str, str]:
        return {"code": self.code, "reason": self.reason, "message": self.message}

    @classmethod
    def from_payload(cls, payload: Mapping[str, str]) -> StepError:
        return cls(payload["code"], payload["reason"], payload["message"])

    def __str__(self) -> str:
        return f"{self.reason or self.code}: {self.message}"


@dataclass(slots=True)
class StepState:
    path: str
    operation: str
    protocol: str
    effect: str
    status: StepStatus
    phase: Phase
    attempt: int  # the current or last one
    started_us: int
    retry_started_us: int  # since when it has been trying, without what it spent parked or dead
    input: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    reply: dict[str, Any] | None = None
    condition: dict[str, Any] | None = None
    skip_reason: str = ""
    error: StepError | None = None
    method: str = ""  # empty for a step with inner steps
    service: str = ""
    key: str = ""
    request: bytes = b""
    timeout_us: int = 0  # of all attempts together, if the definition says; 0: the engine's
    until_us: int = 0  # nothing is to be done before
    finished_us: int = 0
    uncertain: bool = False  # an attempt may have had its effect
    cancel_method: str = ""
    cancel_request: bytes = b""
    cancel_attempt: int = 0
    cancel_cause: StepError | None = None
    cancelled: bool = False  # later attempts are refused, or answered with what was there
    failure_scope: str = ""  # what becomes of its failure, see Caught; empty: it ends the run
    failed_step: str = ""  # the step inside it that failed, if it is not the one itself
    first_sequence: int = 0  # sequence of its first record
    last_sequence: int = 0  # sequence of the record that ended it
    payment: str = ""  # id of the one that it belongs to, if the run's input names several
    cancels_payment: bool = False  # it has a payment of the cancelled run refused for ever
    subscribed_from: int = 0  # in the order of the store's events: it wants none up to here
    received_events: dict[str, ReceivedSignal] = field(
        default_factory=dict
    )  # events it waits for, by their type
    decisions: dict[str, ApprovalDecision] = field(
        default_factory=dict
    )  # of its approvers, by their DID
    abandoned_phase: str = (
        ""  # the phase in which it was given up because the run ended; empty: it was not
    )
    handled_error: StepError | None = None  # what its on_error is about
    prior_attempts: int = 0  # attempts before the run was last redriven


class FailureScope(StrEnum):
    """Who goes on after a failure."""

    CONTINUE = "continue"  # the next step
    HANDLE = "handle"  # first the steps of its on_error
    OUTER = "outer"  # what is around it fails with it, and something around that goes on


@dataclass(frozen=True, slots=True)
class ReceivedSignal:
    """What was sent to the run, or emitted by one, and has not been waited for yet."""

    sequence: int
    name: str
    payload: dict[str, Any]
    correlation: str


class StoredAttestation(NamedTuple):
    payment: str  # of the step that was told so
    kind: str
    jws: str


@dataclass(frozen=True, slots=True)
class ProvenPayment:
    """One of the payments that the input of a run names."""

    intent: bytes
    presentation: str


@dataclass(frozen=True, slots=True)
class ApprovalDecision:
    """What an approver signed."""

    approved: bool
    jws: str  # the evidence
    at_us: int


@dataclass(frozen=True, slots=True)
class Redrive:
    """The run had ended, and somebody had it go on."""

    requester: str  # SPIFFE ID
    reason: str
    at_us: int
    previous_status: RunStatus


@dataclass(frozen=True, slots=True)
class PendingEnd:
    """The run is about to end like this: nothing new begins."""

    status: RunStatus
    reason: str


@dataclass(slots=True)
class ItemsProgress:
    """How far a for_each has come."""

    started: int = 0  # the first so many
    in_flight: set[int] = field(default_factory=set)  # of these, what is under way
    dirty: set[int] = field(default_factory=set)  # something in them changed since they were seen

    def next(self, count: int, room: int) -> Iterator[int]:
        """Those to go on with, then those to begin while no more than ``room`` are open."""
        yield from sorted(self.dirty & self.in_flight)
        while self.started < count and len(self.in_flight) < room:
            self.started += 1
            yield self.started - 1

    def mark(self, index: int, *, in_flight: bool) -> None:
        self.dirty.discard(index)
        (self.in_flight.add if in_flight else self.in_flight.discard)(index)


@dataclass(slots=True)
class RunState:
    run_id: str
    sequence: int = 0
    workflow_id: str = ""
    definition_hash: str = ""
    sub_workflow_hashes: dict[str, str] = field(default_factory=dict)
    status: RunStatus = RunStatus.RUNNING
    reason: str = ""
    input: dict[str, Any] = field(default_factory=dict)
    intent: bytes = b""
    presentation: str = ""
    started_by: str = ""  # SPIFFE ID of who started it
    allowed_privileges: frozenset[str] | None = None  # privileges that its calls may use; None: all
    created_us: int = 0
    updated_us: int = 0
    deadline_us: int = 0
    run_timeout_us: int = 0  # from its start, and from each redrive
    finished_us: int = 0
    erased_us: int = 0  # when what is about people was taken out; 0: it was not
    recoveries: int = 0
    redrives: list[Redrive] = field(default_factory=list)
    retired_keys: dict[str, int] = field(
        default_factory=dict
    )  # path -> redrive that took its key away
    steps: dict[str, StepState] = field(default_factory=dict)  # in the order they began
    payments: dict[str, ProvenPayment] = field(
        default_factory=dict
    )  # that its input names, by their ids
    attestations: list[StoredAttestation] = field(default_factory=list)  # as they came
    active: dict[str, StepState] = field(default_factory=dict)  # the steps in flight, by path
    irreversible_steps: dict[str, StepState] = field(
        default_factory=dict
    )  # those that cannot be taken back
    pending_end: PendingEnd | None = None
    signals: list[ReceivedSignal] = field(default_factory=list)  # in the order they came
    inbox_position: int = 0  # position of the last of what was sent to it
    cancellation: str = ""  # why and by whom it is to be cancelled; empty: it is not
    # The first step inside another that failed and brings it down, by the path of the other.
    failed_children: dict[str, str] = field(default_factory=dict)
    # What a turn need not look at again. It can be told from the steps at any time, and is never
    # stored: how many steps of a list are over, by the path of its first; items, by their for_each.
    completed_prefix: dict[str, int] = field(default_factory=dict, compare=False, repr=False)
    items: dict[str, ItemsProgress] = field(default_factory=dict, compare=False, repr=False)

    @property
    def finished(self) -> bool:
        return self.finished_us > 0

    @property
    def in_flight(self) -> list[StepState]:
        """The steps that have something to do or to wait for."""
        return list(self.active.values())
