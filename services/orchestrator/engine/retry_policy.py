"""Retry policy: how long the engine retries, and what an error says about the effect of a call."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from mesh.errors import Reason
from services.orchestrator.definition.workflow import DEFAULT_RETRY

if TYPE_CHECKING:
    from services.orchestrator.definition.workflow import Retry
    from services.orchestrator.engine.model import StepError

SECOND_US = 1_000_000
MAX_DOUBLINGS = 16  # of the backoff

# The answer was lost or never sent: the call may have taken effect.
UNKNOWN_OUTCOME = frozenset(
    {"DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS"}
)
# The call had no effect, and a later attempt may succeed.
NOT_DONE_YET = frozenset({"ABORTED", "RESOURCE_EXHAUSTED"})
# Reasons with such a code that no later attempt changes.
PERMANENT_REASONS = frozenset({"BUDGET_EXCEEDED", Reason.TOO_MANY_CHALLENGES})

# Codes with which a service refuses a payment.
REFUSALS = frozenset({"FAILED_PRECONDITION", "PERMISSION_DENIED"})
PAYMENT_REFUSALS = REFUSALS | {"INVALID_ARGUMENT", "NOT_FOUND", "UNAUTHENTICATED"}


class Outcome(Enum):
    """The outcome of a failed attempt."""

    CIRCUIT_OPEN = "nothing was sent: wait for the circuit breaker"
    RETRY = "no effect: try again"
    UNCERTAIN = "outcome unknown: retry with the same key"
    DEFINITE = "refused: another attempt gets the same answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Timeouts and backoff in seconds: attempt < step < run."""

    attempt_timeout_s: float = 5.0  # deadline of one call
    step_timeout_s: float = 30.0  # of all attempts, without waits for a circuit breaker
    run_timeout_s: float = 3600.0  # from the start, for everything before the payment
    initial_backoff_s: float = 0.1  # before the second attempt; doubles
    max_backoff_s: float = 5.0
    jitter: float = 0.5  # the random part of a backoff, 0 to 1
    max_backoff_after_pivot_s: float = 30.0  # while a run that paid must go forward
    circuit_open_wait_s: float = 5.0  # if the breaker does not say how long it stays open

    def retry_us(
        self,
        attempt: int,
        error: StepError,
        jitter: float,
        *,
        after_pivot: bool,
        override: Retry = DEFAULT_RETRY,
    ) -> int:
        """Returns how long to wait after this attempt, in microseconds.

        ``jitter``: a random number from 0 to 1. ``override``: the retry of the definition.
        """
        first_us = override.backoff_us or self.initial_backoff_s * SECOND_US
        max_us = override.max_delay_us or max(self.max_backoff_s * SECOND_US, first_us)
        if after_pivot:
            max_us = self.max_backoff_after_pivot_s * SECOND_US
        wait_us = min(first_us * 2 ** min(attempt - 1, MAX_DOUBLINGS), max_us)
        spread = self.jitter if override.jitter is None else override.jitter
        return int(max(wait_us * (1 - spread * (1 - jitter)), error.retry_after_s * SECOND_US))

    def circuit_open_us(self, error: StepError, jitter: float) -> int:
        """Returns how long to wait for a circuit breaker, spread so that calls do not coincide."""
        wait_s = error.retry_after_s or self.circuit_open_wait_s
        return int(wait_s * (1 + jitter / 2) * SECOND_US)


def classify(error: StepError, *, mutating: bool) -> Outcome:
    """Returns the outcome of an attempt that failed. ``mutating``: its call has an effect."""
    if error.reason == Reason.BREAKER_OPEN:
        return Outcome.CIRCUIT_OPEN
    if error.reason in (Reason.OVERLOADED, Reason.MAILBOX_FULL):
        return Outcome.RETRY
    if error.code in NOT_DONE_YET and error.reason not in PERMANENT_REASONS:
        return Outcome.RETRY
    if error.code in UNKNOWN_OUTCOME:
        return Outcome.UNCERTAIN if mutating else Outcome.RETRY
    return Outcome.DEFINITE
