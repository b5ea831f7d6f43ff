"""Nothing is lost if the store cannot be written: full disk, locked or read-only database."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import pytest

from mesh.data.database import POSTGRES_SCHEMES, postgres, sqlite
from mesh.errors import FailedPrecondition, Reason, Unavailable
from mesh.testing import eventually, reason
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.registry import WorkflowRegistry
from services.orchestrator.store.open import open_store
from tests.orchestrator.conftest import connect
from tests.orchestrator.payment_requests import finished, payment, status
from tests.orchestrator.process_succession import Succession
from tests.orchestrator.signals import AWAITS_SIGNAL, await_status, signal_request, start_run
from tests.orchestrator.store.run_stores import begin, fails

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from pathlib import Path

    from mesh.data.database import Transaction
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices

FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END$$;
CREATE TRIGGER full_disk BEFORE INSERT ON journal EXECUTE FUNCTION full_disk()
"""


@asynccontextmanager
async def full_disk(location: str, pid: int) -> AsyncIterator[None]:
    """Makes writes fail during the block: no file grows, or the server refuses them."""
    if not location.startswith(POSTGRES_SCHEMES):
        smallest = os.stat(location + "-wal").st_size
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (smallest, resource.RLIM_INFINITY))
        yield
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        return
    connection = await asyncpg.connect(location)
    await connection.execute(FULL)
    yield
    await connection.execute("DROP FUNCTION full_disk CASCADE")
    await connection.close()


@asynccontextmanager
async def locked_store(location: str) -> AsyncIterator[None]:
    """Locks the store by an open transaction of another process."""
    if not location.startswith(POSTGRES_SCHEMES):
        with closing(sqlite3.connect(location, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
        return
    connection = await asyncpg.connect(location)
    async with connection.transaction():
        await connection.execute("LOCK TABLE journal, run IN SHARE MODE")
        yield
    await connection.close()


async def test_runs_continue_once_a_full_disk_has_room_again(
    location: str, authority: Authority, tmp_path: Path, peers: dict[str, str], fakes: FakeServices
) -> None:
    orchestrators = Succession.on(location, authority, tmp_path, peers)
    fakes.paused["SendPayment"] = asyncio.Event()
    in_flight, refused = payment(), payment()

    async with orchestrators.next() as (child, workflows):
        await workflows.StartRun(in_flight, timeout=10)
        await eventually(lambda: len(fakes.requests("SendPayment")) == 1)
        async with full_disk(location, child.pid):
            fakes.paused["SendPayment"].set()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await workflows.StartRun(refused, timeout=4)
            stored = fakes.effects["StoreTransactionRecord"]
        run = await finished(workflows, in_flight.request_id)
        await workflows.StartRun(refused, timeout=10)
        again = await finished(workflows, refused.request_id)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason(caught.value) == "STORE_UNAVAILABLE"
    assert stored == 0
    assert status(run) == status(again) == "SUCCEEDED"
    assert (run.recoveries, len(fakes.requests("SendPayment"))) == (0, 2)
    assert fakes.effects["SendPayment"] == fakes.effects["StoreTransactionRecord"] == 2


async def test_runs_wait_while_another_process_locks_the_store(
    location: str,
    config: OrchestratorConfig,
    authority: Authority,
    fakes: FakeServices,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.2)
    fakes.paused["SendPayment"] = asyncio.Event()
    in_flight, refused = payment(), payment()

    async with (
        orchestrator(replace(config, database=location, lease_seconds=2.0)) as service,
        connect(authority, service.port) as workflows,
    ):
        await workflows.StartRun(in_flight, timeout=10)
        await eventually(lambda: len(fakes.requests("SendPayment")) == 1)
        async with locked_store(location):
            fakes.paused["SendPayment"].set()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await workflows.StartRun(refused, timeout=4)
            stored = len(fakes.requests("StoreTransactionRecord"))
        run = await finished(workflows, in_flight.request_id)
        await workflows.StartRun(refused, timeout=10)
        again = await finished(workflows, refused.request_id)

    assert reason(caught.value) == "STORE_UNAVAILABLE"
    assert stored == 0
    assert status(run) == status(again) == "SUCCEEDED"
    assert fakes.effects["SendPayment"] == 2


async def test_full_file_refuses_writes_until_it_has_room(
    tmp_path: Path,
) -> None:
    async with open_store(str(tmp_path / "store.db")) as store:
        registry = WorkflowRegistry(store.definitions)
        await registry.register_built_in()
        ended = fails(await begin(store.runs, registry))

        async def bound(tx: Transaction, pages: int) -> None:
            await tx.execute(f"PRAGMA max_page_count = {pages}")

        await store.database.write(lambda tx: bound(tx, 1))  # no page more than there is
        before = [await outcome_of(begin(store.runs, registry, f"r{n}")) for n in range(200)]
        together = await asyncio.gather(
            *(outcome_of(begin(store.runs, registry, f"t{n}")) for n in range(20))
        )
        await store.database.write(lambda tx: bound(tx, 1 << 30))
        after = await outcome_of(begin(store.runs, registry, "later"))
        await store.runs.append(ended.state, 0, ended.records)

        assert (await store.runs.load("run")).state == ended.state
        assert "refused" in before
        assert set(before) | set(together) <= {"stored", "refused"}
        assert after == "stored"


async def outcome_of(work: Awaitable[Any]) -> str:
    try:
        await work
    except Unavailable:
        return "refused"
    return "stored"


async def test_commits_wait_for_a_read_only_server(
    new_postgres_database: str,
    config: OrchestratorConfig,
    authority: Authority,
    fakes: FakeServices,
) -> None:
    url = new_postgres_database
    fakes.paused["SendPayment"] = asyncio.Event()
    in_flight, refused = payment(), payment()

    async with (
        orchestrator(replace(config, database=url, lease_seconds=2.0)) as service,
        connect(authority, service.port) as workflows,
    ):
        waiting = await start_run(workflows, AWAITS_SIGNAL)
        await workflows.StartRun(in_flight, timeout=10)
        await eventually(lambda: len(fakes.requests("SendPayment")) == 1)
        await fail_over(url, to="on")
        fakes.paused["SendPayment"].set()
        with pytest.raises(grpc.aio.AioRpcError) as of_start:
            await workflows.StartRun(refused, timeout=4)
        with pytest.raises(grpc.aio.AioRpcError) as of_signal:
            await workflows.SignalRun(signal_request(waiting), timeout=4)
        await fail_over(url, to="off")
        await eventually(lambda: fakes.effects["StoreTransactionRecord"] == 1, within=15)
        await workflows.StartRun(refused, timeout=10)
        await workflows.SignalRun(signal_request(waiting), timeout=10)
        ids = (in_flight.request_id, refused.request_id, waiting)
        runs = [await finished(workflows, run_id) for run_id in ids]

    assert reason(of_start.value) == reason(of_signal.value) == "STORE_UNAVAILABLE"
    assert {status(run) for run in runs} == {"SUCCEEDED"}
    assert fakes.effects["SendPayment"] == 2


async def fail_over(url: str, *, to: str) -> None:
    """Ends all connections; new ones may only read (``on``), or write again (``off``)."""
    connection = await asyncpg.connect(url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute("SET default_transaction_read_only = off")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {to}")
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()


@pytest.mark.parametrize("table", ["definition", "message"])
async def test_read_that_gets_no_answer_is_retried(
    table: str,
    new_postgres_database: str,
    config: OrchestratorConfig,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(postgres, "COMMAND_TIMEOUT_S", 1.0)
    here = replace(config, database=new_postgres_database)
    there = replace(here, mesh=replace(config.mesh, home=tmp_path / "other"))

    async with orchestrator(there) as second, connect(authority, second.port) as workflows:
        async with orchestrator(here) as first, connect(authority, first.port) as others:
            run_id = await start_run(others, AWAITS_SIGNAL)
            await await_status(others, run_id, "WAITING")
            locked = await lock(table, new_postgres_database)
        await eventually(lambda: f"run {run_id} waits for the store" in caplog.text, within=15)
        await locked.close()
        await workflows.SignalRun(signal_request(run_id), timeout=10)
        run = await finished(workflows, run_id)

    assert (status(run), run.recoveries) == ("SUCCEEDED", 1)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def lock(table: str, url: str) -> asyncpg.Connection:
    """Locks the table against reads until the returned connection ends."""
    connection = await asyncpg.connect(url)
    await connection.execute("BEGIN")
    await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
    return connection


@pytest.mark.parametrize("name", ["store.db", "link.db", "elsewhere/store.db"])
async def test_second_process_cannot_open_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "link.db").symlink_to("store.db")
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    async with open_store(str(tmp_path / "store.db")):
        with pytest.raises(FailedPrecondition) as caught:
            async with open_store(str(tmp_path / name)):
                pass

    assert caught.value.reason == Reason.STORE_LOCKED
