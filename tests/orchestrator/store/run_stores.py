"""Run stores that no worker uses, and the runs that tests start in them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from mesh.data.idempotency import IdempotencyKey
from services.orchestrator.engine.activations import Failed, Started
from services.orchestrator.engine.model import StepError
from services.orchestrator.engine.retry_policy import RetryPolicy
from services.orchestrator.engine.start import StartRun, start
from services.orchestrator.engine.transition import Transition
from services.orchestrator.notifications import RunNotifier
from services.orchestrator.registry import WorkflowRegistry
from services.orchestrator.store.commits import NewRun
from services.orchestrator.store.erasure import Erasure
from services.orchestrator.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from services.orchestrator.store.definitions import StoredDefinition
    from services.orchestrator.store.open import OrchestratorStore
    from services.orchestrator.store.run_store import RunStore, StartResult
    from services.orchestrator.store.stored_run import StoredRun

CALLER = "spiffe://caller"
POLICY = RetryPolicy()
GIVEN = {
    "sender_did": "d",
    "recipient_address": "r",
    "amount": 5,
    "sender_verification_score": 0.5,
}


@asynccontextmanager
async def opened_store(location: str) -> AsyncIterator[tuple[OrchestratorStore, WorkflowRegistry]]:
    async with open_store(location) as store:
        registry = WorkflowRegistry(store.definitions)
        await registry.register_built_in()
        async with store.own(IdleWorker(), RunNotifier()):
            yield store, registry


@asynccontextmanager
async def opened_runs(location: str) -> AsyncIterator[tuple[RunStore, WorkflowRegistry]]:
    async with opened_store(location) as (store, registry):
        yield store.runs, registry


class IdleWorker:
    """A worker that executes no run."""

    def notify_events(self) -> None: ...

    def notify_claimable(self) -> None: ...

    def notify_message(self, run_id: str, message: Any = None) -> None: ...

    def drop_all_runs(self) -> None: ...

    def re_export_spans(self, ended: Sequence[StoredRun]) -> None: ...


async def begin(
    runs: RunStore, registry: WorkflowRegistry, run_id: str = "run", **more: Any
) -> Transition:
    """Starts a run and returns its first transition."""
    transition, _ = await ask_to_start(runs, registry, run_id, **more)
    return transition


async def ask_to_start(
    runs: RunStore,
    registry: WorkflowRegistry,
    run_id: str = "run",
    *,
    owned: bool = True,
    caller: str = CALLER,
    at_us: int = 1_000_000,
    workflow_id: str = "assess_fraud_risk",
) -> tuple[Transition, StartResult]:
    """Starts a run; returns its first transition and the result, or raises the error."""
    transitions: list[Transition] = []

    def prepare(stored: StoredDefinition) -> NewRun:
        given = GIVEN if workflow_id == "assess_fraud_risk" else {}
        request = StartRun(run_id, given, None, "", caller)
        workflow = registry.newest(stored)
        transition = start(workflow, request, POLICY, network="regtest", at_us=at_us, jitter=0)
        if owned:
            transition.apply(Started())
        transitions.append(transition)
        return NewRun(transition.state, tuple(transition.records), caller, "", owned)

    key = IdempotencyKey(caller, "StartRun", run_id, b"body")
    started = await runs.start(key, workflow_id, prepare, lambda new: new.state.run_id.encode())
    return transitions[0], started


def fails(transition: Transition, code: str = "INVALID_ARGUMENT") -> Transition:
    """Returns the next transition, in which the first call fails; ``transition`` stays as it is."""
    following = Transition(
        transition.workflow, deepcopy(transition.state), POLICY, transition.at_us + 1, 0
    )
    following.apply(Failed("identity", StepError(code, "", "said the service")))
    return following


def mutation_key(request_id: str = "erase") -> IdempotencyKey:
    return IdempotencyKey(CALLER, "EraseRun", request_id, request_id.encode())


async def erase_run(
    store: OrchestratorStore, run_id: str = "run", request_id: str = "erase"
) -> int:
    """Erases the run; returns the time of the erasure, Unix microseconds."""
    reply = await Erasure(store.database).erase(
        mutation_key(request_id), run_id, lambda at_us: str(at_us).encode()
    )
    return int(reply)
