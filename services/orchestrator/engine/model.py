"""The state of a run, which is what its records say and nothing else.

A worker keeps it as long as it drives the run, and folds each new record into it in place. If the
worker cannot tell whether a record was stored, it drops the state and folds the stored records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from services.orchestrator.definition.workflow import Effect

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


READ, PIVOT = Effect.READ.name, Effect.PIVOT.name  # the effect of a step

RECOVERED = "recovered"  # the cause of an attempt after a crash
REDRIVEN = "redriven"  # the cause of the first attempt after a redrive


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
    """The activity of a step, which decides what to do next."""

    CALL = "CALL"  # an attempt is due, or in flight
    BACKOFF = "BACKOFF"  # waits until the next attempt
    TIMER = "TIMER"  # waits for a time
    AWAITING_EVENT = "AWAITING_EVENT"  # waits for signals, events or approvals, up to a time
    CIRCUIT_OPEN = "CIRCUIT_OPEN"  # waits for the circuit breaker of its service
    CANCELLING = "CANCELLING"  # a cancel of its call is due, or in flight
    CHILDREN = "CHILDREN"  # the steps inside it are running
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True)
class StepError:
    """The error of an attempt, or of a step."""

    code: str  # the name of a gRPC status code
    reason: str
    message: str
    retry_after_s: float = 0.0  # as the service asks; 0: it does not

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
    attempt: int  # number of the current or last attempt
    started_us: int
    # Start of its retry window. A wait for a circuit breaker, a recovery, a redrive and a cancel
    # restart it.
    retry_started_us: int
    input: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    reply: dict[str, Any] | None = None
    condition: dict[str, Any] | None = None
    skip_reason: str = ""
    error: StepError | None = None
    method: str = ""  # empty for a step with steps inside it
    service: str = ""
    key: str = ""
    request: bytes = b""
    timeout_us: int = 0  # of all attempts together; 0: the definition sets none
    until_us: int = 0  # the step has nothing to do before
    finished_us: int = 0
    uncertain: bool = False  # an attempt may have taken effect
    cancel_method: str = ""
    cancel_request: bytes = b""
    cancel_attempt: int = 0
    cancel_cause: StepError | None = None
    cancelled: bool = False  # the service confirmed a cancel: later attempts have no new effect
    failure_scope: str = ""  # a FailureScope; empty: nothing catches its failure
    failed_step: str = ""  # path of the step inside it that failed; empty: it failed itself
    first_sequence: int = 0  # of its first record
    last_sequence: int = 0  # of the record that ended it; 0: it has not ended
    payment: str = ""  # id of the payment that it belongs to, if the run's input names payments
    cancels_payment: bool = False  # that the cancelled run did not make
    subscribed_from: int = 0  # position in the store's events: it receives later ones
    received_events: dict[str, ReceivedSignal] = field(default_factory=dict)  # by type
    decisions: dict[str, ApprovalDecision] = field(default_factory=dict)  # by the approver's DID
    abandoned_phase: str = ""  # its phase when the end of the run skipped it
    handled_error: StepError | None = None  # the error that its on_error handles
    prior_attempts: int = 0  # before the last redrive of the run

    @property
    def abandoned_while_handling(self) -> bool:
        """True if the run ended while the steps of its on_error ran."""
        return bool(self.abandoned_phase) and self.failure_scope == FailureScope.HANDLE


class FailureScope(StrEnum):
    """The part of the workflow that continues after a failure."""

    CONTINUE = "continue"  # the next step
    HANDLE = "handle"  # the steps of its on_error, then the next step
    OUTER = "outer"  # a step around it: those in between fail too


@dataclass(frozen=True, slots=True)
class ReceivedSignal:
    """A signal to the run, or an event that a run emitted, before a step has used it."""

    sequence: int
    name: str
    payload: dict[str, Any]
    correlation: str


class StoredAttestation(NamedTuple):
    payment: str  # id of the payment that it is about; empty: the only one of the run
    kind: str
    jws: str


@dataclass(frozen=True, slots=True)
class ProvenPayment:
    """A payment that the input of a run names, with its payer's proof."""

    intent: bytes
    presentation: str


@dataclass(frozen=True, slots=True)
class ApprovalDecision:
    """The signed decision of an approver."""

    approved: bool
    jws: str  # the signature, kept as evidence
    at_us: int


@dataclass(frozen=True, slots=True)
class Redrive:
    """A redrive of the run after it had ended."""

    requester: str  # SPIFFE ID
    reason: str
    at_us: int
    previous_status: RunStatus


@dataclass(frozen=True, slots=True)
class PendingEnd:
    """The end that is decided but waits for steps in flight; nothing new begins."""

    status: RunStatus
    reason: str


@dataclass(slots=True)
class ItemsProgress:
    """The progress of a for_each. Items are known by their index."""

    started: int = 0  # number of items that have started
    in_flight: set[int] = field(default_factory=set)  # started and not ended
    dirty: set[int] = field(default_factory=set)  # changed since they were last walked

    def next(self, count: int, limit: int) -> Iterator[int]:
        """Yields items to walk again, then items to start, up to ``limit`` in flight."""
        yield from sorted(self.dirty & self.in_flight)
        while self.started < count and len(self.in_flight) < limit:
            self.started += 1
            yield self.started - 1

    def mark(self, index: int, *, in_flight: bool) -> None:
        """Notes that the item was walked."""
        self.dirty.discard(index)
        (self.in_flight.add if in_flight else self.in_flight.discard)(index)


@dataclass(slots=True)
class RunState:
    run_id: str
    sequence: int = 0  # of its last record
    workflow_id: str = ""
    definition_hash: str = ""
    sub_workflow_hashes: dict[str, str] = field(default_factory=dict)  # by workflow id
    status: RunStatus = RunStatus.RUNNING
    reason: str = ""
    input: dict[str, Any] = field(default_factory=dict)
    intent: bytes = b""
    presentation: str = ""
    started_by: str = ""  # SPIFFE ID
    allowed_privileges: frozenset[str] | None = None  # that its calls may use; None: all
    created_us: int = 0
    updated_us: int = 0
    deadline_us: int = 0
    run_timeout_us: int = 0  # from its start, and from each redrive
    finished_us: int = 0
    erased_us: int = 0  # when personal data was erased; 0: it was not
    recoveries: int = 0
    redrives: list[Redrive] = field(default_factory=list)
    retired_keys: dict[str, int] = field(default_factory=dict)  # step path -> number of the redrive
    steps: dict[str, StepState] = field(default_factory=dict)  # by path, in the order they began
    payments: dict[str, ProvenPayment] = field(default_factory=dict)  # that its input names, by id
    attestations: list[StoredAttestation] = field(default_factory=list)  # in order of arrival
    active: dict[str, StepState] = field(default_factory=dict)  # the steps in flight, by path
    irreversible_steps: dict[str, StepState] = field(default_factory=dict)  # payments, by path
    pending_end: PendingEnd | None = None
    signals: list[ReceivedSignal] = field(default_factory=list)  # in order of arrival
    inbox_position: int = 0  # of the last message that it has recorded
    work_units: int = field(default=0, compare=False)  # bytes, and units of conditions
    largest_bytes: int = field(default=0, compare=False)  # of a record so far
    cancellation: str = ""  # requester and reason of its cancellation; empty: it is not cancelled
    # The first child step that failed and fails its parent with it, by the path of the parent.
    failed_children: dict[str, str] = field(default_factory=dict)
    # Indexes that follow from the steps and are never stored: how many steps of a list have ended,
    # by the path of its first step, and the progress of each for_each, by its path.
    completed_prefix: dict[str, int] = field(default_factory=dict, compare=False, repr=False)
    items: dict[str, ItemsProgress] = field(default_factory=dict, compare=False, repr=False)

    @property
    def finished(self) -> bool:
        return self.finished_us > 0

    @property
    def in_flight(self) -> list[StepState]:
        """The steps that have something to do or to wait for."""
        return list(self.active.values())
