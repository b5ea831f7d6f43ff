"""The transitions of one run in memory, by a clock of its own."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from services.orchestrator.actors.failpoints import reach_failpoints
from services.orchestrator.engine.activations import Continued
from services.orchestrator.engine.transition import Transition

if TYPE_CHECKING:
    from mesh.data.lease import Lease
    from services.orchestrator.definition.workflow import Workflow
    from services.orchestrator.engine.activations import Activation
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.engine.records import Record
    from services.orchestrator.engine.retry_policy import RetryPolicy


class RunTransitions:
    """Makes the records that activations lead to, and folds them into the run's state."""

    __slots__ = ("_lease", "_policy", "_transition", "_workflow", "clock_offset_us")

    def __init__(
        self, workflow: Workflow, state: RunState, policy: RetryPolicy, lease: Lease
    ) -> None:
        self._workflow = workflow
        self._policy = policy
        self._lease = lease
        # Added to the store's clock: the time of a run never goes back.
        self.clock_offset_us = max(0, state.updated_us - lease.now_us())
        self._transition = self._from(state)

    def resume_from(self, state: RunState) -> None:
        """Takes the stored state: what was lost may have been a slice of a turn."""
        self._transition = self._from(state)
        self._transition.is_unfinished = True

    @property
    def is_unfinished(self) -> bool:
        """True if steps can begin that the last slice had no time for."""
        return self._transition.is_unfinished

    def _from(self, state: RunState) -> Transition:
        at_us = state.updated_us
        return Transition(
            self._workflow, state, self._policy, at_us, jitter=0.0, clock=time.monotonic
        )

    def make(
        self,
        activation: Activation,
        event_position: int | None,
        *,
        proceeds: bool = True,
    ) -> list[Record]:
        """Returns the records to commit: none if the step that it concerns has ended."""
        transition = self._transition
        jitter = random.random()  # noqa: S311  (spreads retries, guards nothing)
        now_us = self.now_us()
        continues = isinstance(activation, Continued)
        transition.begin(now_us, jitter, event_position=event_position, continues=continues)
        transition.apply(activation, proceeds=proceeds)
        reach_failpoints("before", transition.state.run_id, transition.records)
        return transition.records

    def settle(self) -> list[Record]:
        """Returns the record that ends the turn after a repeated recovery."""
        self._transition.begin(self.now_us(), jitter=0.0)
        self._transition.settle()
        return self._transition.records

    def now_us(self) -> int:
        """Returns the time of the run, in Unix microseconds: it never goes back."""
        return self._lease.now_us() + self.clock_offset_us
