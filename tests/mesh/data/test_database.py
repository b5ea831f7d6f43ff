"""The databases: writes are atomic, isolated from each other and durable, on either store."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

from mesh.data import idempotency, outbox
from mesh.data.database import UniqueViolationError, open_database
from mesh.data.idempotency import IdempotencyKey
from mesh.errors import AlreadyExists, FailedPrecondition, InvalidArgument, Reason, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mesh.data.database import Database, Transaction

SCHEMA = (
    idempotency.SCHEMA
    + outbox.SCHEMA
    + "CREATE TABLE IF NOT EXISTS number (n INTEGER PRIMARY KEY, raw BLOB) STRICT;"
)
STUCK_S = 40.0  # longer than COMMAND_TIMEOUT_S
KEY = IdempotencyKey("spiffe://anya.internal/client/operator", "Numbers/Add", "r-1", b"body")


@pytest.fixture
async def database(location: str) -> AsyncIterator[Database]:
    async with open_database(location, schema=SCHEMA) as database:
        yield database


async def numbers(database: Database) -> list[int]:
    async def work(tx: Transaction) -> list[int]:
        return [n for (n,) in await tx.fetch("SELECT n FROM number ORDER BY n")]

    return await database.read(work)


async def execute(tx: Transaction, sql: str) -> None:
    await tx.execute(sql)


async def insert(tx: Transaction, n: int, *, fail: bool = False) -> None:
    await tx.execute("INSERT INTO number VALUES (?, ?)", n, b"\x00?")
    if fail:
        raise ValueError(n)


async def test_open_waits_for_another_process_that_creates_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        asyncio.get_running_loop().call_later(0.1, other.execute, "COMMIT")

        async with open_database(str(path), schema=SCHEMA) as database:
            assert await numbers(database) == []


async def test_text_that_cannot_be_stored_is_an_invalid_argument_of_its_write_only(
    database: Database,
) -> None:
    async def find(tx: Transaction) -> object:
        return await tx.fetch_one("SELECT 1 FROM outbox WHERE key = ?", "a\0b")

    outcomes = await asyncio.gather(
        database.read(find),
        database.write(find),
        database.write(partial(insert, n=1)),
        return_exceptions=True,
    )

    assert {type(outcome) for outcome in outcomes[:2]} <= {InvalidArgument, type(None)}
    assert await numbers(database) == [1]


async def test_failed_write_does_not_undo_others_of_its_commit(
    database: Database,
) -> None:
    writes = [database.write(partial(insert, n=n, fail=n % 2 == 1)) for n in range(20)]

    outcomes = await asyncio.gather(*writes, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [type(None), ValueError] * 10
    assert await numbers(database) == list(range(0, 20, 2))


async def test_accepted_write_is_committed_although_its_caller_was_cancelled(
    database: Database,
) -> None:
    cancelled = asyncio.create_task(database.write(partial(insert, n=2)))
    await asyncio.sleep(0)

    cancelled.cancel()
    await database.write(partial(insert, n=4))

    assert cancelled.cancelled()
    assert await numbers(database) == [2, 4]


async def test_duplicate_key_is_a_unique_violation_on_both_stores(
    database: Database,
) -> None:
    await database.write(partial(insert, n=1))

    with pytest.raises(UniqueViolationError):
        await database.write(partial(insert, n=1))


async def test_changed_rows_are_counted_and_bytes_are_read_back_unchanged(
    database: Database,
) -> None:
    await database.write(partial(insert, n=1))

    async def work(tx: Transaction) -> tuple[int, object]:
        changed = await tx.execute("UPDATE number SET n = n + ? WHERE raw = ?", 1, b"\x00?")
        return changed, await tx.fetch_one("SELECT n, raw, '?' FROM number")

    assert await database.write(work) == (1, (2, b"\x00?", "?"))


async def test_read_cannot_write(database: Database) -> None:
    with pytest.raises(Exception, match=r"(?i)read-?only"):
        await database.read(partial(insert, n=1))


async def test_concurrent_attempts_have_one_effect_and_one_reply(database: Database) -> None:
    async def attempt(tx: Transaction, n: int) -> bytes:
        async def effect() -> bytes:
            await insert(tx, n)
            await outbox.append(tx, type="number.added", key=str(n))
            return str(n).encode()

        return await idempotency.run_once(tx, KEY, effect)

    replies = await asyncio.gather(*(database.write(partial(attempt, n=n)) for n in range(20)))

    assert set(replies) == {replies[0]}
    assert await numbers(database) == [int(replies[0])]


async def test_request_id_with_another_body_is_refused(database: Database) -> None:
    async def attempt(tx: Transaction, key: IdempotencyKey) -> bytes:
        async def effect() -> bytes:
            return b"done"

        return await idempotency.run_once(tx, key, effect)

    await database.write(partial(attempt, key=KEY))

    other = IdempotencyKey(KEY.caller, KEY.method, KEY.request_id, b"another body")
    with pytest.raises(AlreadyExists) as refusal:
        await database.write(partial(attempt, key=other))

    assert refusal.value.reason is Reason.REQUEST_ID_REUSED


async def test_events_are_read_in_commit_order_with_unique_sequences(database: Database) -> None:
    async def announce(tx: Transaction, n: int, *, fail: bool) -> None:
        await outbox.append(tx, type="number.added", key=str(n), data=b"{}")
        if fail:
            raise ValueError

    writes = [database.write(partial(announce, n=n, fail=n == 3)) for n in range(8)]
    await asyncio.gather(*writes, return_exceptions=True)

    async def work(tx: Transaction) -> list[outbox.OutboxEvent]:
        return await outbox.read(tx, after=2, limit=3)

    page = await database.read(work)

    assert [event.sequence for event in page] == [3, 4, 5]
    assert [event.key for event in page] == ["2", "4", "5"]
    assert len({event.id for event in page}) == 3


async def test_committed_rows_are_there_after_reopening(location: str) -> None:
    async with open_database(location, schema=SCHEMA) as database:
        await database.write(partial(insert, n=7))

    async with open_database(location, schema=SCHEMA) as database:
        assert await numbers(database) == [7]


@pytest.mark.parametrize(
    ("older", "named"),
    [
        ("CREATE TABLE number (n INTEGER PRIMARY KEY)", "number lacks raw"),
        ("CREATE TABLE number (n INTEGER PRIMARY KEY, raw BLOB, note TEXT)", "number has note"),
    ],
)
async def test_store_of_another_version_is_refused_and_left_unchanged(
    location: str, older: str, named: str
) -> None:
    async with open_database(location, schema=f"{older} STRICT;") as database:
        await database.write(partial(execute, sql="INSERT INTO number (n) VALUES (7)"))

    with pytest.raises(FailedPrecondition, match=named) as refusal:
        async with open_database(location, schema=SCHEMA):
            pass

    assert refusal.value.reason is Reason.STORE_INCOMPATIBLE
    async with open_database(location, schema="") as database:
        assert await numbers(database) == [7]
        with pytest.raises(Exception, match="idempotency_key"):
            await database.read(partial(execute, sql="SELECT * FROM idempotency_key"))


async def test_writers_of_two_processes_are_serialized(location: str) -> None:
    async def add_one(tx: Transaction) -> None:
        row = await tx.fetch_one("SELECT COALESCE(MAX(n), 0) FROM number")
        assert row
        await insert(tx, row[0] + 1)

    async with (
        open_database(location, schema=SCHEMA) as one,
        open_database(location, schema=SCHEMA) as other,
    ):
        await asyncio.gather(*(store.write(add_one) for store in (one, other) * 20))

        assert await numbers(one) == list(range(1, 41))


async def test_work_that_awaits_other_than_the_transaction_is_refused(tmp_path: object) -> None:
    async def work(tx: Transaction) -> None:
        await asyncio.sleep(0)

    async with open_database(f"{tmp_path}/store.db", schema="") as database:
        with pytest.raises(RuntimeError, match="nothing but the transaction"):
            await database.write(work)


async def test_text_is_compared_by_bytes_under_any_locale_of_the_server(
    new_postgres_database: str,
) -> None:
    async def collations(tx: Transaction) -> set[str | None]:
        rows = await tx.fetch(
            "SELECT DISTINCT collation_name FROM information_schema.columns"
            " WHERE table_name IN ('idempotency_key', 'outbox', 'store') AND data_type = 'text'"
        )
        return {collation for (collation,) in rows}

    async with open_database(new_postgres_database, schema=SCHEMA) as database:
        assert await database.read(collations) == {"C"}


async def test_server_without_free_connections_is_unavailable(
    new_postgres_database: str,
) -> None:
    server = await asyncpg.connect(new_postgres_database)
    await server.execute("CREATE ROLE lonely LOGIN CONNECTION LIMIT 1")
    await server.execute("GRANT ALL ON SCHEMA public TO lonely")
    await server.close()
    url = urlsplit(new_postgres_database)
    lonely = url._replace(netloc=url.netloc.replace("postgres", "lonely", 1)).geturl()
    async with open_database(lonely, schema=SCHEMA) as database:
        await database.write(partial(insert, n=1))  # has the only connection

        with pytest.raises(Unavailable):
            await numbers(database)


async def test_server_that_ends_connections_at_any_moment_is_unavailable(
    new_postgres_database: str,
) -> None:
    server = await asyncpg.connect(new_postgres_database)
    errors: set[type[BaseException]] = set()
    async with open_database(new_postgres_database, schema=SCHEMA) as database:
        for n in range(40):
            ended = asyncio.create_task(
                server.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
            while not ended.done():
                work = (database.write(partial(insert, n=n)), numbers(database))
                async with asyncio.timeout(STUCK_S):
                    ends = await asyncio.gather(*work, return_exceptions=True)
                errors |= {type(end) for end in ends if isinstance(end, BaseException)}
    await server.close()

    assert errors <= {Unavailable, UniqueViolationError}


async def test_server_that_has_become_read_only_is_unavailable(
    new_postgres_database: str,
) -> None:
    server = await asyncpg.connect(new_postgres_database)
    async with open_database(new_postgres_database, schema=SCHEMA) as database:
        name = urlsplit(new_postgres_database).path.lstrip("/")
        await server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        with pytest.raises(Unavailable):
            await database.write(partial(insert, n=1))
        await server.execute("SET default_transaction_read_only = off")
        await server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")

        await database.write(partial(insert, n=2))

        assert await numbers(database) == [2]
    await server.close()
