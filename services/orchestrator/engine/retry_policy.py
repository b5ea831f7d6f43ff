"""How long the engine tries, and what an attempt's end says about its effect."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from mesh.errors import Reason
from services.orchestrator.definition.workflow import DEFAULT_RETRY

if TYPE_CHECKING:
    from services.orchestrator.definition.workflow import Retry
    from services.orchestrator.engine.model import StepError

SECOND_US = 1_000_000  # microseconds

# The answer was lost, or never given: the effect may be there.
UNKNOWN_OUTCOME = frozenset(
    {"DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS"}
)
# Nothing was done, and it may be done later.
NOT_DONE_YET = frozenset({"ABORTED", "RESOURCE_EXHAUSTED"})
# What looks like it, but asks for something else than patience.
NOT_A_MATTER_OF_TIME = frozenset({"BUDGET_EXCEEDED", Reason.TOO_MANY_CHALLENGES})

# Answers of a service that mean: not this payment.
REFUSALS = frozenset({"FAILED_PRECONDITION", "PERMISSION_DENIED"})
REFUSALS_OF_THE_PAYMENT = REFUSALS | {"INVALID_ARGUMENT", "NOT_FOUND", "UNAUTHENTICATED"}


class Outcome(Enum):
    """What the end of an attempt leaves to do."""

    CIRCUIT_OPEN = "nothing was sent: wait for the breaker"
    RETRY = "nothing was done: try again"
    UNCERTAIN = "nobody knows: try again under the same key"
    DEFINITE = "it was judged, and will be judged the same again"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Attempt < step < run, in seconds."""

    attempt_timeout_s: float = 5.0  # deadline of one call
    step_timeout_s: float = 30.0  # of trying, without what is spent parked
    run_timeout_s: float = 3600.0  # from the start, for everything before the payment
    initial_backoff_s: float = 0.1  # before the second attempt; doubles
    max_backoff_s: float = 5.0
    jitter: float = 0.5  # the part of a delay that is chance
    max_backoff_after_pivot_s: float = 30.0  # the most, where there is no way back
    circuit_open_wait_s: float = 5.0  # where a breaker does not say how long it stays open

    def retry_us(
        self,
        attempt: int,
        error: StepError,
        jitter: float,
        *,
        after_pivot: bool,
        override: Retry = DEFAULT_RETRY,
    ) -> int:
        """How long to wait after this attempt; ``jitter`` from 0 to 1.

        ``override``: what the definition asks for.
        """
        first = override.backoff_us or self.initial_backoff_s * SECOND_US
        most = override.max_delay_us or max(self.max_backoff_s * SECOND_US, first)
        if after_pivot:
            most = self.max_backoff_after_pivot_s * SECOND_US
        wait = min(first * 2 ** min(attempt - 1, 16), most)
        spread = self.jitter if override.jitter is None else override.jitter
        return int(max(wait * (1 - spread * (1 - jitter)), error.retry_after * SECOND_US))

    def circuit_open_us(self, error: StepError, jitter: float) -> int:
        """Until the breaker may let a probe through, spread so that not all come at once."""
        return int((error.retry_after or self.circuit_open_wait_s) * (1 + jitter / 2) * SECOND_US)


def judge(error: StepError, *, mutating: bool) -> Outcome:
    if error.reason == Reason.CIRCUIT_OPEN:
        return Outcome.CIRCUIT_OPEN
    if error.reason in (Reason.OVERLOADED, Reason.MAILBOX_FULL):
        return Outcome.RETRY
    if error.code in NOT_DONE_YET and error.reason not in NOT_A_MATTER_OF_TIME:
        return Outcome.RETRY
    if error.code in UNKNOWN_OUTCOME:
        return Outcome.UNCERTAIN if mutating else Outcome.RETRY
    return Outcome.DEFINITE
