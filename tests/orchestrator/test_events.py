"""Events between runs: each reaches every run that waits for it once, on both stores."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from services.orchestrator.__main__ import orchestrator
from services.orchestrator.store.open import open_store
from tests.orchestrator.conftest import connect
from tests.orchestrator.event_workflows import (
    emit_event,
    received_payload,
    register_workflows,
    start_listener,
    start_workflow,
)
from tests.orchestrator.payment_requests import finished, status
from tests.orchestrator.signals import await_status

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.data.database import Row, Transaction
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig


@pytest.fixture(params=["local", "shared"])
def stored(request: pytest.FixtureRequest, config: OrchestratorConfig) -> OrchestratorConfig:
    """Configuration of an orchestrator on SQLite or PostgreSQL."""
    if request.param == "local":
        return config
    return replace(config, database=request.getfixturevalue("new_postgres_database"))


async def test_event_reaches_every_run_that_waits_for_it_and_no_other(
    authority: Authority, stored: OrchestratorConfig
) -> None:
    async with orchestrator(stored) as service, connect(authority, service.port) as workflows:
        await register_workflows(workflows)
        ones = [await start_listener(workflows) for _ in range(3)]
        other = await start_listener(workflows, order="8")
        start = time.monotonic()
        await emit_event(workflows)

        ended = [await finished(workflows, run_id) for run_id in ones]

        assert time.monotonic() - start < 1  # faster than the poll interval
        assert [status(run) for run in ended] == ["SUCCEEDED"] * 3
        assert [received_payload(run) for run in ended] == [{"by": "Ada"}] * 3
        await await_status(workflows, other, "WAITING")


async def test_step_receives_the_first_event_after_its_start(
    authority: Authority, stored: OrchestratorConfig
) -> None:
    async with orchestrator(stored) as service, connect(authority, service.port) as workflows:
        await register_workflows(workflows)
        await emit_event(workflows, by="early")
        run_id = await start_listener(workflows)
        await emit_event(workflows, by="first")
        await emit_event(workflows, by="second")

        assert received_payload(await finished(workflows, run_id)) == {"by": "first"}


async def test_event_emitted_while_no_process_drives_the_run_is_received(
    authority: Authority, stored: OrchestratorConfig
) -> None:
    async with orchestrator(stored) as service, connect(authority, service.port) as workflows:
        await register_workflows(workflows)
        run_id = await start_listener(workflows)
        teller = await start_workflow(workflows, "tell", order="7", by="Ada")

    async with orchestrator(stored) as service, connect(authority, service.port) as workflows:
        await finished(workflows, teller)
        assert received_payload(await finished(workflows, run_id)) == {"by": "Ada"}


async def test_run_receives_the_event_of_another_replica(
    authority: Authority, config: OrchestratorConfig, new_postgres_database: str, tmp_path: Path
) -> None:
    shared = replace(config, database=new_postgres_database)
    elsewhere = replace(shared, mesh=replace(shared.mesh, home=tmp_path / "elsewhere"))
    elsewhere.mesh.home.mkdir()
    async with (
        orchestrator(shared) as one,
        connect(authority, one.port) as listening,
    ):
        await register_workflows(listening)
        run_id = await start_listener(listening)
        async with orchestrator(elsewhere) as other, connect(authority, other.port) as telling:
            await emit_event(telling)
            assert received_payload(await finished(listening, run_id)) == {"by": "Ada"}


async def test_events_of_many_runs_at_once_are_received_once_each(
    authority: Authority, stored: OrchestratorConfig
) -> None:
    async with orchestrator(stored) as service, connect(authority, service.port) as workflows:
        await register_workflows(workflows)
        orders = [str(number) for number in range(20)]
        ids = await asyncio.gather(*(start_listener(workflows, order) for order in orders))
        await asyncio.gather(*(emit_event(workflows, order, by=order) for order in orders))

        ended = await asyncio.gather(*(finished(workflows, run_id) for run_id in ids))

        assert [received_payload(run) for run in ended] == [{"by": order} for order in orders]


async def test_emitted_event_is_in_the_outbox_once_between_start_and_end_of_its_run(
    authority: Authority, stored: OrchestratorConfig
) -> None:
    async with orchestrator(stored) as service, connect(authority, service.port) as workflows:
        await register_workflows(workflows)
        run_id = await emit_event(workflows)

    async with open_store(stored.location) as store:

        async def work(tx: Transaction) -> list[Row]:
            return await tx.fetch("SELECT type, key, data FROM outbox ORDER BY sequence")

        rows = await store.database.read(work)

    assert [(type, key) for type, key, _ in rows] == [
        ("orchestrator.run.started", run_id),
        ("order.paid", "7"),
        ("orchestrator.run.finished", run_id),
    ]
    assert json.loads(bytes(rows[1][2])) == {"by": "Ada"}
