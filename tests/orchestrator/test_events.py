"""Events from run to run: each reaches every run that waits for it, once, on both stores."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.definition import values
from services.orchestrator.store.open import open_store
from tests.orchestrator.conftest import connect
from tests.orchestrator.engine.definitions import steps
from tests.orchestrator.payment_requests import finished, status, uuid7
from tests.orchestrator.test_messages import is_at

if TYPE_CHECKING:
    from pathlib import Path

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.data.database import Row, Transaction
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig

LISTEN = steps(
    'heard\n    wait_for: {event: order.paid, correlation: "{{input.order}}", timeout: 1m}'
).replace("example", "listen")
TELL = steps(
    'tell\n    emit: {type: order.paid, subject: "{{input.order}}", data: {by: "{{input.by}}"}}'
).replace("example", "tell")


@pytest.fixture(params=["local", "shared"])
def stored(request: pytest.FixtureRequest, config: OrchestratorConfig) -> OrchestratorConfig:
    """An orchestrator on a store of its own, of either kind."""
    if request.param == "local":
        return config
    return replace(config, database=request.getfixturevalue("new_postgres_database"))


async def register(workflows: WorkflowServiceAsyncStub) -> None:
    for text in (LISTEN, TELL):
        await workflows.RegisterWorkflow(pb.RegisterWorkflowRequest(definition=text), timeout=5)


async def start(workflows: WorkflowServiceAsyncStub, workflow_id: str, **given: str) -> str:
    request = pb.StartRunRequest(request_id=uuid7(), workflow_id=workflow_id)
    request.input.update(given)
    await workflows.StartRun(request, timeout=5)
    return request.request_id


async def listen(workflows: WorkflowServiceAsyncStub, order: str = "7") -> str:
    run_id = await start(workflows, "listen", order=order)
    await is_at(workflows, run_id, "WAITING")
    return run_id


async def tell(workflows: WorkflowServiceAsyncStub, order: str = "7", by: str = "Ada") -> str:
    run_id = await start(workflows, "tell", order=order, by=by)
    await finished(workflows, run_id)
    return run_id


def payload(run: pb.Run) -> object:
    return values.from_struct(run.steps[0].output)["payload"]


async def test_an_event_reaches_every_run_that_waits_for_it_and_no_other(
    authority: Authority, stored: OrchestratorConfig
) -> None:
    async with orchestrator(stored) as service, connect(authority, service.port) as workflows:
        await register(workflows)
        ones = [await listen(workflows) for _ in range(3)]
        other = await listen(workflows, order="8")
        begun = time.monotonic()
        await tell(workflows)

        ended = [await finished(workflows, run_id) for run_id in ones]

        assert time.monotonic() - begun < 1  # not by looking once a second
        assert [status(run) for run in ended] == ["SUCCEEDED"] * 3
        assert [payload(run) for run in ended] == [{"by": "Ada"}] * 3
        await is_at(workflows, other, "WAITING")


async def test_an_event_from_before_does_not_count_and_the_first_one_after_does(
    authority: Authority, stored: OrchestratorConfig
) -> None:
    async with orchestrator(stored) as service, connect(authority, service.port) as workflows:
        await register(workflows)
        await tell(workflows, by="early")
        run_id = await listen(workflows)
        await tell(workflows, by="first")
        await tell(workflows, by="second")

        assert payload(await finished(workflows, run_id)) == {"by": "first"}


async def test_what_is_emitted_while_nobody_drives_the_run_is_not_missed(
    authority: Authority, stored: OrchestratorConfig
) -> None:
    async with orchestrator(stored) as service, connect(authority, service.port) as workflows:
        await register(workflows)
        run_id = await listen(workflows)
        teller = await start(workflows, "tell", order="7", by="Ada")

    async with orchestrator(stored) as service, connect(authority, service.port) as workflows:
        await finished(workflows, teller)
        assert payload(await finished(workflows, run_id)) == {"by": "Ada"}


async def test_a_run_hears_what_another_replica_emits(
    authority: Authority, config: OrchestratorConfig, new_postgres_database: str, tmp_path: Path
) -> None:
    shared = replace(config, database=new_postgres_database)
    elsewhere = replace(shared, mesh=replace(shared.mesh, home=tmp_path / "elsewhere"))
    elsewhere.mesh.home.mkdir()
    async with (
        orchestrator(shared) as one,
        connect(authority, one.port) as listening,
    ):
        await register(listening)
        run_id = await listen(listening)
        async with orchestrator(elsewhere) as other, connect(authority, other.port) as telling:
            await tell(telling)
            assert payload(await finished(listening, run_id)) == {"by": "Ada"}


async def test_events_of_many_runs_at_once_are_heard_once_each(
    authority: Authority, stored: OrchestratorConfig
) -> None:
    async with orchestrator(stored) as service, connect(authority, service.port) as workflows:
        await register(workflows)
        orders = [str(number) for number in range(20)]
        ids = await asyncio.gather(*(listen(workflows, order) for order in orders))
        await asyncio.gather(*(tell(workflows, order, by=order) for order in orders))

        ended = await asyncio.gather(*(finished(workflows, run_id) for run_id in ids))

        assert [payload(run) for run in ended] == [{"by": order} for order in orders]


async def test_an_emitted_event_is_in_the_outbox_once_between_start_and_end_of_its_run(
    authority: Authority, stored: OrchestratorConfig
) -> None:
    async with orchestrator(stored) as service, connect(authority, service.port) as workflows:
        await register(workflows)
        run_id = await tell(workflows)

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
