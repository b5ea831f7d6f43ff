"""Runs that this process owns in the store but no longer executes: they are claimed again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from mesh.data.idempotency import IdempotencyKey
from mesh.errors import FailedPrecondition, Reason, Unavailable
from mesh.testing import eventually
from services.orchestrator.actors import run
from services.orchestrator.engine.model import RunStatus
from services.orchestrator.engine.start import StartRun
from services.orchestrator.engine.transition import Transition
from services.orchestrator.registry import WorkflowRegistry
from services.orchestrator.store.postgres.run_store import PostgresRunStore
from services.orchestrator.store.sqlite.run_store import SqliteRunStore
from services.orchestrator.worker import worker
from services.orchestrator.worker.store_retry import STORE_RETRY_DELAY_S
from tests.orchestrator.engine.definitions import steps
from tests.orchestrator.schedules.schedule_replica import replica
from tests.orchestrator.worker.deliveries import CALLER, signal_key, signal_named

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.store.run_store import RunStore
    from services.orchestrator.store.stored_run import StoredRun
    from tests.orchestrator.schedules.schedule_replica import Replica

ASKS = steps("answer\n    wait_for: {signal: approved}")


async def start(here: Replica) -> None:
    await here.registry.register(ASKS)
    key = IdempotencyKey(CALLER, "StartRun", "run", b"")
    request = StartRun("run", {}, None, "", CALLER)
    await here.worker.start(key, "example", request, "", lambda _: b"")


async def send(here: Replica) -> bytes:
    return await here.worker.inbox.send(signal_key("a"), "run", signal_named("approved"), b"reply")


async def test_run_that_fails_while_lost_runs_are_released_is_claimed_again(
    location: str, config: OrchestratorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "STORE_RETRY_DELAY_S", 0.0)
    may_release, released, may_return = asyncio.Event(), asyncio.Event(), asyncio.Event()
    for kind in (SqliteRunStore, PostgresRunStore):

        async def release_slowly(
            runs: RunStore,
            held: Callable[[], Collection[str]],
            release: Any = kind.release_lost,
        ) -> None:
            await may_release.wait()
            await release(runs, held)
            released.set()
            await may_return.wait()

        monkeypatch.setattr(kind, "release_lost", release_slowly)

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    async def damaged(_: str) -> StoredRun:
        raise FailedPrecondition("damaged", reason=Reason.STORE_DAMAGED)

    async with replica(config, location) as here:
        await start(here)
        may_release.set()
        await released.wait()
        with monkeypatch.context() as defect:
            defect.setattr(Transition, "apply", fail)
            defect.setattr(here.store.runs, "load", damaged)
            with pytest.raises(Unavailable):
                await send(here)
        await eventually(lambda: not here.worker.drives("run"))
        may_return.set()

        assert await send(here) == b"reply"
        await eventually(lambda: here.store.runs.has_ended("run"))
        state = (await here.store.runs.load("run")).state

    assert state.status is RunStatus.SUCCEEDED


async def test_run_that_fails_at_each_claim_is_claimed_only_after_a_delay(
    location: str, config: OrchestratorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(config, location) as earlier:
        await start(earlier)
    claimed_at: list[float] = []

    async def fail(_: WorkflowRegistry, __: RunState) -> None:
        claimed_at.append(asyncio.get_running_loop().time())
        raise ZeroDivisionError

    monkeypatch.setattr(WorkflowRegistry, "pinned", fail)
    async with replica(config, location):
        await eventually(lambda: len(claimed_at) >= 3)

    assert claimed_at[2] - claimed_at[0] >= 2 * STORE_RETRY_DELAY_S * 0.9


async def test_run_whose_suspension_got_no_answer_leaves_memory(
    location: str, config: OrchestratorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SUSPEND_THRESHOLD_S", 0.0)
    monkeypatch.setattr(worker, "IDLE_TIMEOUT_S", 0.0)
    async with replica(config, location) as here:
        suspensions, calls = here.store.runs.suspensions, 0
        suspend = suspensions.suspend

        async def lose_first_answer(*given: Any, **named: Any) -> bool:
            nonlocal calls
            calls += 1
            suspended = await suspend(*given, **named)
            if calls == 1:
                raise Unavailable("no answer", reason=Reason.STORE_UNAVAILABLE)
            return suspended

        monkeypatch.setattr(suspensions, "suspend", lose_first_answer)
        await start(here)

        await eventually(lambda: calls > 1 and not here.worker.drives("run"))
        assert await send(here) == b"reply"
        await eventually(lambda: here.store.runs.has_ended("run"))
