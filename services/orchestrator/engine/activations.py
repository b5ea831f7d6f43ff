"""The inputs of a run (activations), and what it asks its worker to do (commands)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from services.orchestrator.engine.model import StepError


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has started to drive the run."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A worker drives the run after another process stopped driving it."""


@dataclass(frozen=True, slots=True)
class Continued:
    """The run continues where its last slice, or its recovery, left it."""


class Replied(NamedTuple):
    path: str
    reply: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    path: str
    error: StepError


@dataclass(frozen=True, slots=True)
class Due:
    """The time that the step waited for has come."""

    path: str


@dataclass(frozen=True, slots=True)
class CancelReplied:
    path: str


@dataclass(frozen=True, slots=True)
class CancelFailed:
    path: str
    error: StepError


@dataclass(frozen=True, slots=True)
class SignalReceived:
    name: str
    payload: dict[str, Any]
    correlation: str  # empty: none
    position: int = 0  # in the run's inbox, from 1


@dataclass(frozen=True, slots=True)
class EventReceived:
    """A run of the same store emitted an event of a type that this run waits for."""

    type: str
    subject: str
    data: dict[str, Any]
    position: int  # in the store's events
    run_id: str  # of the run that emitted it
    emitted_sequence: int  # of the record of the emitting run


@dataclass(frozen=True, slots=True)
class DecisionReceived:
    """An approver decided, and the signature was verified."""

    step: str  # path
    approver: str  # DID
    approved: bool
    digest: str  # of the approval document, hex
    jws: str
    position: int = 0


@dataclass(frozen=True, slots=True)
class CancelRequested:
    reason: str
    requester: str  # SPIFFE ID
    position: int = 0


Activation: TypeAlias = (
    Started
    | Recovered
    | Continued
    | Replied
    | Failed
    | Due
    | CancelReplied
    | CancelFailed
    | SignalReceived
    | EventReceived
    | DecisionReceived
    | CancelRequested
)


class CallCommand(NamedTuple):
    """Send the request. Only the attempt differs from earlier commands, never the bytes."""

    path: str
    attempt: int
    service: str
    method: str
    request: bytes
    timeout_s: float


class CancelCommand(NamedTuple):
    """Cancel the call, not before ``at_us``: its service refuses later attempts of the same key."""

    path: str
    attempt: int
    service: str
    method: str
    request: bytes
    at_us: int


class WaitCommand(NamedTuple):
    path: str
    until_us: int


Command: TypeAlias = CallCommand | CancelCommand | WaitCommand
