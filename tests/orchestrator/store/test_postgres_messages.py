"""Concurrent sends, transitions and suspensions of one run by replicas on PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from mesh.data.database import open_database
from mesh.testing import eventually
from services.orchestrator.store import SCHEMA
from services.orchestrator.store.commits import AppendCommit, Envelope, rows_of
from services.orchestrator.store.messages import encode
from services.orchestrator.store.postgres.statements import SEND, arguments, statement
from services.orchestrator.store.postgres.writer import connect
from services.orchestrator.store.suspension import suspend
from tests.orchestrator.store.postgres_replicas import connected, is_blocked, replica
from tests.orchestrator.store.run_stores import begin
from tests.orchestrator.worker.deliveries import applied, deliver, signal_key, signal_named

if TYPE_CHECKING:
    import asyncpg

    from mesh.data.database import Transaction
    from services.orchestrator.store.run_store import RunStore

FAR_US = 2**60  # Unix microseconds


@pytest.fixture
def url(new_postgres_database: str) -> str:
    return new_postgres_database


async def send_as_another(connection: asyncpg.Connection, name: str) -> None:
    kind, payload, most = encode(signal_named(name))
    sender = ("caller", "SignalRun", name, b"", b"")
    await connection.fetchrow(SEND, "run", kind, payload, most, *sender, "another")


async def owner(connection: asyncpg.Connection) -> Any:
    return await connection.fetchval("SELECT owner FROM run WHERE id = 'run'")


async def sent(runs: RunStore) -> list[Any]:
    return await runs.messages.read_after("run", position=0)


async def test_delivery_fails_if_another_message_is_committed_first(url: str) -> None:
    async with replica(url) as (runs, registry), connected(url) as other:
        started = await begin(runs, registry)
        transaction = other.transaction()
        await transaction.start()
        await send_as_another(other, "first")
        late = asyncio.create_task(
            deliver(runs, started, signal_named("late", 1), signal_key("late"))
        )
        await eventually(lambda: is_blocked(url))
        await transaction.commit()

        delivered = await late

        assert not delivered
        assert (await runs.load("run")).state == started.state
        assert await sent(runs) == [signal_named("first", 1)]
        assert await runs.messages.first_reply(signal_key("late")) is None


async def test_message_is_stored_after_an_uncommitted_delivery(url: str) -> None:
    async with replica(url) as (runs, registry), connected(url) as other:
        started = await begin(runs, registry)
        transition = applied(started, signal_named("first", 1))
        envelope = Envelope(signal_named("first", 1), signal_key("first"), b"")
        rows = rows_of(
            [AppendCommit(transition.state, 0, transition.records, envelope)], runs.lease.replica_id
        )
        transaction = other.transaction()
        await transaction.start()
        lease = runs.lease
        await other.fetchrow(statement(rows), lease.replica_id, lease.incarnation, *arguments(rows))
        late = asyncio.create_task(
            runs.messages.send(signal_key("late"), "run", signal_named("late"), b"sent")
        )
        await eventually(lambda: is_blocked(url))
        await transaction.commit()

        answer = await late

        assert answer.reply == b"sent"
        assert await sent(runs) == [signal_named("first", 1), signal_named("late", 2)]


async def test_run_with_an_uncommitted_message_is_not_suspended(url: str) -> None:
    async with replica(url) as (runs, registry), connected(url) as other:
        state = (await begin(runs, registry)).state
        transaction = other.transaction()
        await transaction.start()
        await send_as_another(other, "first")
        suspending = asyncio.create_task(runs.suspensions.suspend(state, 0, FAR_US))
        await eventually(lambda: is_blocked(url))
        await transaction.commit()

        suspended = await suspending

        assert not suspended
        assert await owner(other) == runs.lease.replica_id


async def test_message_sent_during_suspension_resumes_the_run(url: str) -> None:
    suspended, resume_event = asyncio.Event(), asyncio.Event()

    async def suspend_and_pause(tx: Transaction) -> None:
        await suspend(tx, state, 0, FAR_US)
        suspended.set()
        await resume_event.wait()

    async with (
        open_database(url, schema=SCHEMA) as store,
        connected(url) as connection,
        replica(url) as (runs, registry),
    ):
        state = (await begin(runs, registry)).state
        suspending = asyncio.create_task(store.write(suspend_and_pause))
        await suspended.wait()
        late = asyncio.create_task(
            runs.messages.send(signal_key("late"), "run", signal_named("late"))
        )
        await eventually(lambda: is_blocked(url))
        resume_event.set()
        await suspending

        answer = await late

        assert answer.claimable
        assert await owner(connection) == ""
        assert await sent(runs) == [signal_named("late", 1)]


async def test_two_messages_at_once_are_both_stored(url: str) -> None:
    async with replica(url) as (runs, registry), connected(url) as other:
        await begin(runs, registry)
        transaction = other.transaction()
        await transaction.start()
        await send_as_another(other, "first")
        late = asyncio.create_task(
            runs.messages.send(signal_key("late"), "run", signal_named("late"))
        )
        await eventually(lambda: is_blocked(url))
        await transaction.commit()

        await late

        assert await sent(runs) == [signal_named("first", 1), signal_named("late", 2)]


async def test_send_finds_the_run_by_its_primary_key(url: str) -> None:
    async with replica(url) as (runs, _):
        connection = await connect(url, runs.lease)
        await connection.execute(f"PREPARE sent AS {SEND}")
        nothing = ", ".join(["NULL"] * 10)

        lines = await connection.fetch(f"EXPLAIN EXECUTE sent ({nothing})")

        await connection.close()
    plan = "\n".join(line for (line,) in lines)
    assert "Index Scan using run_pkey on run" in plan
    assert "Seq Scan on message" not in plan
