"""What happens to a run from outside, and what it wants done in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from services.orchestrator.engine.model import StepError


@dataclass(frozen=True, slots=True)
class Started:
    """There is room for the run."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A process took up a run that another one left."""


@dataclass(frozen=True, slots=True)
class Replied:
    path: str
    reply: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    path: str
    error: StepError


@dataclass(frozen=True, slots=True)
class Due:
    """The time that a step waited for has come."""

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
    correlation: str  # empty: it concerns no one thing in particular
    position: int = 0  # in what was sent to the run, from 1


@dataclass(frozen=True, slots=True)
class EventReceived:
    """A run of this store emitted an event of a type that this one waits for."""

    type: str
    subject: str
    data: dict[str, Any]
    position: int  # in the order of all events of the store
    run_id: str  # of who emitted it
    emitted_sequence: int  # sequence of the record that says so


@dataclass(frozen=True, slots=True)
class DecisionReceived:
    """An approver has decided, and the signature was verified."""

    step: str  # path
    approver: str  # DID
    approved: bool
    digest: str  # of what was asked, hex
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
    """Send these bytes. The attempt is what distinguishes it from earlier ones, not the bytes."""

    path: str
    attempt: int
    service: str
    method: str
    request: bytes
    timeout: float  # seconds


class CancelCommand(NamedTuple):
    """Have later attempts of the step's key refused, not before ``at_us``."""

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
