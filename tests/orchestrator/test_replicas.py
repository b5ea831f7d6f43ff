"""Orchestrator processes on one PostgreSQL database: they share runs and take them over."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import asyncpg
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.testing import eventually
from tests.orchestrator.conftest import connect
from tests.orchestrator.payment_requests import finished, pay, payment, status, uuid7
from tests.orchestrator.processes import environment_of, process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mesh.testing import Authority
    from tests.orchestrator.fake_services import FakeServices

LEASE_S = 2.0


@pytest.fixture
def replicas(
    authority: Authority, tmp_path: Path, peers: dict[str, str], new_postgres_database: str
) -> Iterator[dict[str, str]]:
    """Returns a function that makes the environment of the next replica, on the shared database."""
    shared = {"ANYA_DATABASE": new_postgres_database, "ANYA_LEASE_SECONDS": f"{LEASE_S:g}"}
    return (
        environment_of(authority, tmp_path / f"replica-{number}", peers) | shared
        for number in range(9)
    )


async def owners(replica: dict[str, str]) -> set[str]:
    connection = await asyncpg.connect(replica["ANYA_DATABASE"])
    try:
        return {row[0] for row in await connection.fetch("SELECT DISTINCT owner FROM run")}
    finally:
        await connection.close()


async def test_run_without_a_slot_at_one_replica_is_driven_by_another(
    replicas: Iterator[dict[str, str]], authority: Authority, fakes: FakeServices
) -> None:
    small = {"ANYA_MAX_RUNS": "4"}
    one, other = next(replicas) | small, next(replicas) | small
    fakes.paused["VerifyIdentity"] = asyncio.Event()
    ids = [uuid7() for _ in range(8)]

    async with process(one) as (_, port), process(other), connect(authority, port) as workflows:
        for run_id in ids:
            await workflows.StartRun(payment(run_id), timeout=5)
        await eventually(lambda: len(fakes.requests("VerifyIdentity")) == 8)
        drivers = await owners(one)
        fakes.paused["VerifyIdentity"].set()
        runs = [await finished(workflows, run_id) for run_id in ids]

    assert len(drivers) == 2
    assert {status(run) for run in runs} == {"SUCCEEDED"}
    assert fakes.effects["SendPayment"] == 8


async def test_replica_takes_over_the_run_of_a_killed_one(
    replicas: Iterator[dict[str, str]], authority: Authority, fakes: FakeServices
) -> None:
    fakes.paused["SendPayment"] = asyncio.Event()
    ids = [uuid7() for _ in range(5)]

    async with (
        process(next(replicas)) as (doomed, port),
        process(next(replicas)) as (_, other_port),
        connect(authority, port) as workflows,
        connect(authority, other_port) as others,
    ):
        for run_id in ids:
            await workflows.StartRun(payment(run_id), timeout=5)
        await eventually(lambda: len(fakes.requests("SendPayment")) == 5)
        doomed.kill()
        killed_at = time.monotonic()
        await eventually(lambda: len(fakes.requests("SendPayment")) == 10, within=LEASE_S + 5)
        took = time.monotonic() - killed_at
        fakes.paused["SendPayment"].set()
        runs = [await finished(others, run_id) for run_id in ids]

    assert took <= LEASE_S + 1
    assert {status(run) for run in runs} == {"SUCCEEDED"}
    assert {run.recoveries for run in runs} == {1}
    assert set(fakes.effects.values()) == {5}


async def test_replica_that_stops_hands_over_its_runs_at_once(
    replicas: Iterator[dict[str, str]], authority: Authority, fakes: FakeServices
) -> None:
    fakes.paused["SendPayment"] = asyncio.Event()
    patient = {"ANYA_LEASE_SECONDS": "60"}

    async with process(next(replicas) | patient) as (_, other_port):
        async with (
            process(next(replicas) | patient) as (_, port),
            connect(authority, port) as workflows,
        ):
            await workflows.StartRun(request := payment(), timeout=5)
            await eventually(lambda: len(fakes.requests("SendPayment")) == 1)
        await eventually(lambda: len(fakes.requests("SendPayment")) == 2, within=3)
        fakes.paused["SendPayment"].set()
        async with connect(authority, other_port) as others:
            run = await finished(others, request.request_id)

    assert status(run) == "SUCCEEDED"
    assert fakes.effects["SendPayment"] == 1


async def test_frozen_replica_cannot_write_to_runs_it_lost(
    replicas: Iterator[dict[str, str]], authority: Authority, fakes: FakeServices
) -> None:
    fakes.paused["SendPayment"] = asyncio.Event()

    async with (
        process(next(replicas)) as (frozen, port),
        process(next(replicas)) as (_, other_port),
        connect(authority, port) as workflows,
        connect(authority, other_port) as others,
    ):
        await workflows.StartRun(request := payment(), timeout=5)
        await eventually(lambda: len(fakes.requests("SendPayment")) == 1)
        frozen.send_signal(signal.SIGSTOP)
        try:
            await eventually(lambda: len(fakes.requests("SendPayment")) == 2, within=LEASE_S + 5)
            fakes.paused["SendPayment"].set()
            run = await finished(others, request.request_id)
        finally:
            frozen.send_signal(signal.SIGCONT)
        # It receives the reply to its own call, fails to store it, and then works again.
        again = await pay(workflows, payment())
        seen = await finished(workflows, request.request_id)

    assert status(run) == status(again) == "SUCCEEDED"
    assert seen == run
    assert run.recoveries == 1
    assert fakes.effects["SendPayment"] == 2


async def test_payment_started_at_two_replicas_is_made_once(
    replicas: Iterator[dict[str, str]], authority: Authority, fakes: FakeServices
) -> None:
    request = payment()

    async with (
        process(next(replicas)) as (_, port),
        process(next(replicas)) as (_, other_port),
        connect(authority, port) as workflows,
        connect(authority, other_port) as others,
    ):
        started = await asyncio.gather(
            *(stub.StartRun(request, timeout=10) for stub in (workflows, others) * 32)
        )
        run = await finished(others, request.request_id)
        runs = await workflows.ListRuns(pb.ListRunsRequest(), timeout=5)

    assert len({reply.SerializeToString() for reply in started}) == 1
    assert len(runs.runs) == 1
    assert status(run) == "SUCCEEDED"
    assert len(fakes.requests("VerifyIdentity")) == fakes.effects["SendPayment"] == 1
