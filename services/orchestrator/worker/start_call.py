"""A call that starts a run, and the run's first transition."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.orchestrator.engine import start as rules
from services.orchestrator.engine.activations import Continued, Started

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from mesh.data.idempotency import IdempotencyKey
    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.definition.workflow import Workflow
    from services.orchestrator.engine.activations import Activation
    from services.orchestrator.engine.transition import Transition
    from services.orchestrator.store.commits import NewRun


@dataclass(frozen=True, slots=True)
class StartCall:
    """A call that starts a run."""

    key: IdempotencyKey
    workflow_id: str
    request: rules.StartRun
    traceparent: str
    reply: Callable[[NewRun], bytes]
    started: asyncio.Future[bytes]  # its reply

    def first_transition(
        self, workflow: Workflow, config: OrchestratorConfig, *, at_us: int, owned: bool
    ) -> Transition:
        """Returns the records to begin the run with: its first turn too if it is ``owned`` here.

        Raises InvalidArgument if the request does not fit the workflow.
        """
        transition = rules.start(
            workflow,
            self.request,
            config.policy,
            network=config.mesh.network,
            at_us=at_us,
            jitter=random.random(),  # noqa: S311  (spreads retries, guards nothing)
            clock=time.monotonic,
        )
        if owned and not workflow.awaits_events:
            transition.apply(Started())
        return transition


def first_activation(transition: Transition) -> Activation | None:
    """Returns what follows the first transition, or None if nothing does."""
    if transition.workflow.awaits_events:
        return Started()
    return Continued() if transition.is_unfinished else None
