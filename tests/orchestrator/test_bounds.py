"""Bounds on payloads, conditions, definitions and timers, on both stores."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from mesh.data.database import Transaction, open_database
from mesh.testing import eventually, reason
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.engine.records import MAX_PAYLOAD_BYTES
from services.orchestrator.registry import WorkflowRegistry
from services.orchestrator.store import suspension
from services.orchestrator.store.open import open_store
from tests.orchestrator.conftest import connect, serve_at
from tests.orchestrator.engine.definitions import STORE, call, steps
from tests.orchestrator.payment_requests import finished, status, statuses, uuid7
from tests.orchestrator.signals import await_status, start_run
from tests.orchestrator.store.run_stores import begin as begin_in
from tests.profile import full_or_short

if TYPE_CHECKING:
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.engine.model import RunState
    from tests.orchestrator.fake_services import FakeServices

DUE, ROOM = full_or_short(10_000, short=1_000), 64
AT_ONCE = 500
LISTS = "".join(f"[1,2,3,4,5,6,7,8,9,0].all(x{at}, " for at in range(5))
BOMB = f"{LISTS}true{')' * 5} && {{{{input.said}}}} == 'x'"


async def start(workflows: WorkflowServiceAsyncStub, said: str) -> str:
    request = pb.StartRunRequest(request_id=uuid7(), workflow_id="example")
    request.input.update({"said": said})
    await workflows.StartRun(request, timeout=20)
    return request.request_id


async def test_largest_payload_is_stored_and_one_byte_more_is_refused(
    location: str, config: OrchestratorConfig, authority: Authority
) -> None:
    says = steps('word\n    set: {word: "{{input.said}}"}')

    async with (
        orchestrator(replace(config, database=location)) as service,
        connect(authority, service.port) as workflows,
    ):
        small = await start_run(workflows, says, said="")
        async with open_database(location, schema="") as database:
            overhead = await database.read(lambda tx: size_of_start(tx, small))
        longest = MAX_PAYLOAD_BYTES - overhead
        largest = await start(workflows, "x" * longest)
        with pytest.raises(grpc.aio.AioRpcError, match="exceed 1048576 bytes") as caught:
            await start(workflows, "x" * (longest + 1))
        run = await finished(workflows, largest)
        runs = await workflows.ListRuns(pb.ListRunsRequest(), timeout=10)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert status(run) == "SUCCEEDED"
    assert run.steps[0].output["word"] == "x" * longest
    assert len(runs.runs) == 2


async def size_of_start(tx: Transaction, run_id: str) -> int:
    row = await tx.fetch_one("SELECT payload FROM journal WHERE run = ? AND sequence = 1", run_id)
    assert row
    return len(row[0])


async def test_condition_that_costs_too_much_fails_its_step_and_delays_no_other_run(
    location: str, config: OrchestratorConfig, authority: Authority, fakes: FakeServices
) -> None:
    guarded = steps(call("keep", STORE, f'    condition: "{BOMB}"\n'))

    async with (
        orchestrator(replace(config, database=location)) as service,
        connect(authority, service.port) as workflows,
    ):
        run_id = await start_run(workflows, guarded, said="x", did="d")
        run = await finished(workflows, run_id)

    assert status(run) == "FAILED"
    assert run.reason.endswith("condition of keep cannot be judged")
    assert statuses(run) == {"keep": "FAILED"}
    assert not fakes.requests("StoreTransactionRecord")


async def test_condition_that_is_too_long_is_not_registered(
    location: str, config: OrchestratorConfig, authority: Authority
) -> None:
    endless = steps(call("keep", STORE, f'    condition: "{"true && " * 1000}true"\n'))

    async with (
        orchestrator(replace(config, database=location)) as service,
        connect(authority, service.port) as workflows,
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="at most 4096") as caught:
            await start_run(workflows, endless)

    assert reason(caught.value) == "DEFINITION_INVALID"


async def test_run_with_a_definition_of_a_newer_version_stops_until_such_a_replica_redrives_it(
    location: str, config: OrchestratorConfig, authority: Authority
) -> None:
    text = steps("answer\n    wait_for: {signal: approved}")
    newer = text.replace("wait_for", "wait_as_later_versions_do")
    shared = replace(config, database=location)

    async with orchestrator(shared) as service, connect(authority, service.port) as workflows:
        run_id = await start_run(workflows, text)
        await await_status(workflows, run_id, "WAITING")
    await change(location, newer)
    async with orchestrator(shared) as service, connect(authority, service.port) as workflows:
        stopped = await finished(workflows, run_id)
    await change(location, text)
    async with orchestrator(shared) as service, connect(authority, service.port) as workflows:
        again = pb.RedriveRunRequest(request_id="r", run_id=run_id, reason="upgraded")
        await workflows.RedriveRun(again, timeout=10)
        await await_status(workflows, run_id, "WAITING")

    assert status(stopped) == "NEEDS_ATTENTION"
    assert "this version cannot drive its definition" in stopped.reason


async def change(location: str, body: str) -> None:
    """Changes the stored definition to one that only another version understands."""

    async def work(tx: Transaction) -> int:
        return await tx.execute(
            "UPDATE definition SET body = ? WHERE workflow_id = 'example'", body
        )

    async with open_database(location, schema="") as database:
        assert await database.write(work) == 1


async def test_timers_due_at_once_are_resumed_only_as_capacity_allows(
    location: str, config: OrchestratorConfig, authority: Authority
) -> None:
    async with open_store(location) as store:
        registry = WorkflowRegistry(store.definitions)
        await registry.register_built_in()
        await registry.register(steps("pause\n    wait: {duration: 1s}"))

        async def start_one(number: int) -> RunState:
            transition = await begin_in(
                store.runs,
                registry,
                f"run-{number}",
                workflow_id="example",
                at_us=store.runs.lease.now_us(),
            )
            return transition.state

        async def suspend(tx: Transaction, states: list[RunState]) -> None:
            for number, state in enumerate(states):
                assert await suspension.suspend(tx, state, 0, wake_us=number)

        for first in range(0, DUE, AT_ONCE):
            started = await asyncio.gather(*map(start_one, range(first, first + AT_ONCE)))
            await store.database.write(partial(suspend, states=started))

    small = replace(config, database=location, max_runs=ROOM)
    held: list[int] = []
    async with orchestrator(small), open_database(location, schema="") as database:

        async def all_ended() -> bool:
            left, in_memory = await database.read(count)
            held.append(in_memory)
            return left == 0

        await eventually(all_ended, within=120)

    assert 0 < max(held) <= ROOM


async def count(tx: Transaction) -> tuple[int, int]:
    """Returns how many runs have not ended, and how many of them have an owner."""
    row = await tx.fetch_one(
        "SELECT COUNT(*), COUNT(CASE WHEN owner <> '' THEN 1 END) FROM run"
        " WHERE finished_us IS NULL"
    )
    assert row
    return int(row[0]), int(row[1])


async def test_run_ends_although_no_column_can_hold_its_reason(
    location: str, config: OrchestratorConfig, authority: Authority
) -> None:
    ends = steps('stop\n    end: {outcome: failed, reason: "{{input.said}}"}')

    async with serve_at(location, config, authority) as channel:
        workflows = WorkflowServiceStub(channel)
        run = await finished(workflows, await start_run(workflows, ends, said="a\0b"))
        listed = (await workflows.ListRuns(pb.ListRunsRequest(), timeout=10)).runs[0]

    assert (status(run), run.reason) == ("FAILED", "a\0b")
    assert listed.reason == "a\ufffdb"
