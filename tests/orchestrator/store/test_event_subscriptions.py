"""Suspended runs that wait for events are resumed by each of their events."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.data.database import POSTGRES_SCHEMES, open_database
from mesh.testing import eventually
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.actors import run
from services.orchestrator.worker import worker
from tests.orchestrator.conftest import connect
from tests.orchestrator.engine.definitions import steps
from tests.orchestrator.event_workflows import (
    EMITTER,
    LISTENER,
    emit_event,
    received_payload,
    register_workflows,
    start_workflow,
)
from tests.orchestrator.payment_requests import finished, status
from tests.orchestrator.store.event_runs import begin
from tests.orchestrator.store.run_stores import opened_runs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.data.database import Database, Transaction
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.registry import WorkflowRegistry
    from services.orchestrator.store.run_store import RunStore

NEVER_US = 2**53
SUBSCRIBERS, SLOTS = 60, 4
ROUNDS, RUNS_PER_ROUND = 12, 8

# Waits for two events, which two runs emit one after the other.
BOTH = steps(
    "both\n    wait_for: {all: [{event: order.paid}, {event: order.sent}],"
    ' correlation: "{{input.order}}"}'
).replace("example", "both")
SEND = EMITTER.replace("tell", "send").replace("order.paid", "order.sent")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SUSPEND_THRESHOLD_S", 0.0)
    monkeypatch.setattr(worker, "IDLE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(worker, "IDLE_TIMEOUT_AT_CAPACITY_S", 0.0)


async def suspended_count(database: Database) -> int:
    async def work(tx: Transaction) -> int:
        row = await tx.fetch_one("SELECT COUNT(*) FROM run WHERE suspended = 1")
        assert row
        return int(row[0])

    return await database.read(work)


@asynccontextmanager
async def serving(
    config: OrchestratorConfig, location: str, authority: Authority, *, max_runs: int = 64
) -> AsyncIterator[tuple[WorkflowServiceAsyncStub, Database]]:
    """Serves the workflows of a subscriber and an emitter; gives the client and the database."""
    stored = replace(config, database=location, max_runs=max_runs)
    async with (
        orchestrator(stored) as service,
        connect(authority, service.port) as workflows,
        open_database(location, schema="") as database,
    ):
        await register_workflows(workflows)
        yield workflows, database


async def suspend_forever(runs: RunStore, state: RunState) -> bool:
    return await runs.suspensions.suspend(state, 0, NEVER_US)


async def test_event_resumes_only_the_runs_that_wait_for_it(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        for text in (LISTENER, EMITTER):
            await registry.register(text)
        one, other = [await begin(runs, registry, "listen", order) for order in "78"]
        suspended = [await suspend_forever(runs, state) for state in (one, other)]

        await begin(runs, registry, "tell", "7")
        claimed = await runs.claim(10)

        assert suspended == [True, True]
        assert [(stored.row.id, stored.was_suspended) for stored in claimed] == [(one.run_id, True)]
        async with open_database(location, schema="") as database:
            assert await suspended_count(database) == 1


async def test_run_with_an_unread_event_is_not_suspended(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        for text in (LISTENER, EMITTER):
            await registry.register(text)
        one, other = [await begin(runs, registry, "listen", order) for order in "78"]

        await begin(runs, registry, "tell", "7")
        latest = await runs.events.latest_position()

        assert not await suspend_forever(runs, one)
        assert await suspend_forever(runs, other)
        assert await runs.suspensions.suspend(one, 0, NEVER_US, event_cursor=latest)


async def test_event_resumes_a_run_that_was_suspended_before_its_commit(
    new_postgres_database: str,
) -> None:
    async with opened_runs(new_postgres_database) as (runs, registry):
        for text in (LISTENER, EMITTER):
            await registry.register(text)
        state = await begin(runs, registry, "listen", "7")
        holder = await asyncpg.connect(new_postgres_database)
        await holder.execute("BEGIN; SELECT 1 FROM store FOR UPDATE")

        suspending = asyncio.create_task(suspend_forever(runs, state))
        await eventually(lambda: store_has_waiters(holder, 1))
        emitting = asyncio.create_task(begin(runs, registry, "tell", "7"))
        await eventually(lambda: store_has_waiters(holder, 2))
        await holder.execute("COMMIT")
        suspended, _ = await asyncio.gather(suspending, emitting)
        await holder.close()

        assert suspended
        assert [stored.row.id for stored in await runs.claim(10)] == [state.run_id]


async def store_has_waiters(connection: asyncpg.Connection, many: int) -> bool:
    """Reports whether ``many`` other connections wait for a lock."""
    waiting = await connection.fetchval(
        "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()"
    )
    return bool(waiting == many)


async def test_no_event_is_lost_when_suspension_and_emission_coincide(location: str) -> None:
    chance = random.Random(7)  # noqa: S311
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(opened_runs(location))]
        if location.startswith(POSTGRES_SCHEMES):
            replicas.append(await stack.enter_async_context(opened_runs(location)))
        for text in (LISTENER, EMITTER):
            await replicas[0][1].register(text)

        async def after_a_while(steps_at_most: int) -> tuple[RunStore, WorkflowRegistry]:
            for _ in range(chance.randrange(steps_at_most)):
                await asyncio.sleep(0)
            return chance.choice(replicas)

        async def subscribe(order: str, runs: RunStore, registry: WorkflowRegistry) -> str:
            state = await begin(runs, registry, "listen", order)
            emissions.append(asyncio.create_task(emit(order)))
            await after_a_while(1500)
            return state.run_id if await suspend_forever(runs, state) else ""

        async def emit(order: str) -> None:
            runs, registry = await after_a_while(200)
            await begin(runs, registry, "tell", order)

        total_suspended = 0
        for number in range(ROUNDS):
            emissions: list[asyncio.Task[None]] = []
            orders = [f"{number}-{one}" for one in range(RUNS_PER_ROUND)]
            suspended = await asyncio.gather(
                *(subscribe(order, *chance.choice(replicas)) for order in orders)
            )
            await asyncio.gather(*emissions)
            suspended_ids = {run_id for run_id in suspended if run_id}
            total_suspended += len(suspended_ids)
            resumed_ids = {
                stored.row.id for runs, _ in replicas for stored in await runs.claim(100)
            }
            resumed_ids |= {
                stored.row.id for runs, _ in replicas for stored in await runs.claim(100)
            }

            assert resumed_ids == suspended_ids
        assert 0 < total_suspended < ROUNDS * RUNS_PER_ROUND
        async with open_database(location, schema="") as database:
            assert await suspended_count(database) == 0


@pytest.mark.usefixtures("impatient")
async def test_subscribers_take_no_slots_and_receive_every_event(
    location: str, config: OrchestratorConfig, authority: Authority
) -> None:
    orders = [str(number) for number in range(SUBSCRIBERS)]

    async with serving(config, location, authority, max_runs=SLOTS) as (workflows, database):
        ids = [await start_workflow(workflows, "listen", order=order) for order in orders]
        started = time.monotonic()
        await emit_event(workflows, order="unknown")
        took = time.monotonic() - started
        await eventually(lambda: all_suspended(database, SUBSCRIBERS))

        await asyncio.gather(*(emit_event(workflows, order, by=order) for order in orders))
        ended = await asyncio.gather(*(finished(workflows, run_id) for run_id in ids))

    assert took < 5
    assert [received_payload(run) for run in ended] == [{"by": order} for order in orders]
    assert {run.recoveries for run in ended} == {0}


async def all_suspended(database: Database, many: int) -> bool:
    return await suspended_count(database) == many


@pytest.mark.usefixtures("impatient")
async def test_step_that_needs_two_events_is_suspended_between_them(
    location: str, config: OrchestratorConfig, authority: Authority
) -> None:
    async with serving(config, location, authority) as (workflows, database):
        for text in (BOTH, SEND):
            definition = pb.RegisterWorkflowRequest(definition=text)
            await workflows.RegisterWorkflow(definition, timeout=5)
        run_id = await start_workflow(workflows, "both", order="7")
        for workflow_id in ("tell", "tell", "send"):
            await eventually(lambda: all_suspended(database, 1))
            await start_workflow(workflows, workflow_id, order="7", by=workflow_id)
        run = await finished(workflows, run_id)

    assert status(run) == "SUCCEEDED"
    assert received_payload(run) == {"order_paid": {"by": "tell"}, "order_sent": {"by": "send"}}


@pytest.mark.usefixtures("impatient")
async def test_other_events_keep_no_subscriber_in_memory(
    location: str, config: OrchestratorConfig, authority: Authority
) -> None:
    async with serving(config, location, authority) as (workflows, database):

        async def emit_others() -> None:
            while True:
                await start_workflow(workflows, "tell", order="8", by="Ada")

        await emit_event(workflows, order="8")
        others = asyncio.create_task(emit_others())
        await start_workflow(workflows, "listen", order="7")
        await eventually(lambda: all_suspended(database, 1), within=20)
        others.cancel()
        await asyncio.gather(others, return_exceptions=True)
