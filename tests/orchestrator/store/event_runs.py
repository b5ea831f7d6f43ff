"""Runs that emit events and wait for them, in a store that no worker uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.data.idempotency import IdempotencyKey
from services.orchestrator.engine.activations import Started
from services.orchestrator.engine.start import StartRun, start
from services.orchestrator.store.commits import NewRun
from tests.orchestrator.payment_requests import uuid7
from tests.orchestrator.store.run_stores import CALLER, POLICY

if TYPE_CHECKING:
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.engine.transition import Transition
    from services.orchestrator.registry import WorkflowRegistry
    from services.orchestrator.store.definitions import StoredDefinition
    from services.orchestrator.store.run_store import RunStore


async def begin(
    runs: RunStore, registry: WorkflowRegistry, workflow_id: str, order: str
) -> RunState:
    """Starts a run with its first transition, which emits the event of an emitter."""
    run_id = uuid7()
    started: list[Transition] = []
    given = {"order": order} if workflow_id == "listen" else {"order": order, "by": "Ada"}
    event_position = await runs.events.latest_position()

    def prepare(stored: StoredDefinition) -> NewRun:
        request = StartRun(run_id, given, None, "", CALLER)
        workflow = registry.newest(stored)
        transition = start(
            workflow,
            request,
            POLICY,
            network="regtest",
            at_us=1,
            jitter=0,
            event_position=event_position,
        )
        transition.apply(Started())
        started.append(transition)
        return NewRun(transition.state, tuple(transition.records), CALLER, "", True)

    key = IdempotencyKey(CALLER, "StartRun", run_id, b"body")
    await runs.start(key, workflow_id, prepare, lambda _: b"")
    return started[-1].state
