"""Suspended runs are in the store, not in memory, until they are resumed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.data.database import open_database
from mesh.data.idempotency import IdempotencyKey
from mesh.testing import eventually
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.actors import run
from services.orchestrator.engine.activations import SignalReceived
from services.orchestrator.store import SCHEMA
from services.orchestrator.worker import worker
from tests.orchestrator.conftest import connect
from tests.orchestrator.engine.definitions import steps
from tests.orchestrator.payment_requests import finished, status, uuid7
from tests.orchestrator.signals import AWAITS_SIGNAL, signal_request, start_run
from tests.orchestrator.store.run_stores import begin, opened_runs

if TYPE_CHECKING:
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.store.run_store import RunStore

KEY = IdempotencyKey("spiffe://caller", "SignalRun", "s", b"body")
TIMERS = 200


def in_seconds(seconds: float) -> int:
    return int((time.time() + seconds) * 1_000_000)


async def claimed(runs: RunStore) -> list[tuple[str, bool]]:
    return [(stored.row.id, stored.was_suspended) for stored in await runs.claim(10)]


async def test_suspended_run_has_no_owner_until_due(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        late, early = [await begin(runs, registry, name) for name in ("late", "early")]

        assert await runs.suspensions.suspend(late.state, 0, in_seconds(3600))
        assert await runs.suspensions.suspend(early.state, 0, in_seconds(-2))
        before = await claimed(runs)
        due_in = await runs.suspensions.seconds_until_due()
        resumed = await runs.suspensions.resume_due(10)

        assert before == []
        assert due_in is not None
        assert due_in < 0
        assert resumed == 1
        assert await claimed(runs) == [("early", True)]
        assert await runs.suspensions.resume_due(10) == 0


async def test_run_stays_suspended_after_a_restart(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        transition = await begin(runs, registry)
        await runs.suspensions.suspend(transition.state, 0, in_seconds(3600))

    async with opened_runs(location) as (runs, _):
        assert await claimed(runs) == []
        assert await runs.suspensions.seconds_until_due() == pytest.approx(3600, abs=60)


async def test_message_resumes_a_run_and_prevents_suspension(location: str) -> None:
    message = SignalReceived("approved", {}, "")
    async with opened_runs(location) as (runs, registry):
        suspended, active = [await begin(runs, registry, name) for name in ("suspended", "active")]
        await runs.suspensions.suspend(suspended.state, 0, in_seconds(3600))

        for run_id in ("suspended", "active"):
            await runs.messages.send(replace(KEY, request_id=run_id), run_id, message)

        assert not await runs.suspensions.suspend(active.state, 0, in_seconds(3600))
        assert await claimed(runs) == [("suspended", True)]


async def test_former_owner_cannot_suspend(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        transition = await begin(runs, registry)

    async with opened_runs(location) as (runs, _):
        (taken,) = await runs.claim(1)

        assert not await runs.suspensions.suspend(transition.state, 0, in_seconds(-1))
        assert await runs.suspensions.suspend(taken.state, taken.row.epoch, in_seconds(-1))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SUSPEND_THRESHOLD_S", 0.0)
    monkeypatch.setattr(worker, "IDLE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(worker, "IDLE_TIMEOUT_AT_CAPACITY_S", 0.0)


@pytest.mark.usefixtures("impatient")
async def test_many_timers_need_few_slots_and_none_is_lost(
    location: str, config: OrchestratorConfig, authority: Authority
) -> None:
    small = replace(config, database=location, max_runs=4)
    definition = steps("rest\n    wait: {duration: 2s}", "then\n    set: {a: 1}")
    ids = [uuid7() for _ in range(TIMERS)]

    async with orchestrator(small) as service, connect(authority, service.port) as workflows:
        await workflows.RegisterWorkflow(
            pb.RegisterWorkflowRequest(definition=definition), timeout=5
        )
        for run_id in ids:
            request = pb.StartRunRequest(request_id=run_id, workflow_id="example")
            await workflows.StartRun(request, timeout=10)
        runs = await asyncio.gather(*(finished(workflows, run_id) for run_id in ids))

    assert {status(run) for run in runs} == {"SUCCEEDED"}
    assert {run.recoveries for run in runs} == {0}


@pytest.mark.usefixtures("impatient")
async def test_signal_resumes_a_run_at_once(
    location: str, config: OrchestratorConfig, authority: Authority
) -> None:
    async def is_suspended() -> bool:
        async with open_database(location, schema=SCHEMA) as database:
            return bool(await database.read(lambda tx: tx.fetch("SELECT run FROM suspended_run")))

    shared = replace(config, database=location)
    async with orchestrator(shared) as service, connect(authority, service.port) as workflows:
        run_id = await start_run(workflows, AWAITS_SIGNAL)
        await eventually(is_suspended)

        await workflows.SignalRun(signal_request(run_id), timeout=5)
        run = await finished(workflows, run_id)

    assert status(run) == "SUCCEEDED"
    assert run.recoveries == 0
