"""PostgreSQL: one store for several processes, one writer at a time, many requests a commit."""

from __future__ import annotations

import asyncio
import re
import uuid
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from mesh.data.database import UniqueViolationError, schema_check
from mesh.data.database.connection import connect, unfit, unopened
from mesh.data.database.request import MAX_WAITING, READERS, Request
from mesh.errors import Reason, ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from mesh.data.database import Row, Transaction, Value

T = TypeVar("T")

MAX_BATCH = 64  # writes in one commit
COMMAND_TIMEOUT_S = 30.0  # seconds
SCHEMA_LOCK = 0x616E7961  # "anya": processes that start together create the tables in turn

# One round trip. The row is the store's, and admits one process at a time.
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 1 FROM store FOR UPDATE"
COLUMNS = """
SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema
"""
NOW_MS = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"

TYPES = {
    "INTEGER": "BIGINT",
    "BLOB": "BYTEA",
    "REAL": "DOUBLE PRECISION",
    "TEXT": 'TEXT COLLATE "C"',  # byte by byte, as SQLite compares: not as the server's locale does
}
_TYPE = re.compile(rf"\b({'|'.join(TYPES)})\b")
_TABLE_OPTIONS = re.compile(r"\)\s*(?:STRICT|WITHOUT ROWID)(?:\s*,\s*(?:STRICT|WITHOUT ROWID))*")
_QUOTED_OR_MARK = re.compile(r"'[^']*'|\?")

LOST = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server's farewell came between two questions
    asyncpg.OperatorInterventionError,  # the server stops, or is not up yet
    asyncpg.InsufficientResourcesError,  # no connection left, or no disk
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,  # it has become the standby of another
)


class PostgresTransaction:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute(self, sql: str, *args: Value) -> int:
        tag: str = await self._connection.execute(translate(sql), *args)
        count = tag.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def execute_many(self, sql: str, rows: Iterable[tuple[Value, ...]]) -> None:
        await self._connection.executemany(translate(sql), rows)

    async def fetch(self, sql: str, *args: Value) -> list[Row]:
        return [tuple(row) for row in await self._connection.fetch(translate(sql), *args)]

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        row = await self._connection.fetchrow(translate(sql), *args)
        return None if row is None else tuple(row)

    async def now_ms(self) -> int:
        return int(await self._connection.fetchval(NOW_MS))


class PostgresDatabase:
    """One database of a server."""

    def __init__(self, url: str, readers: Any) -> None:
        self._url = url
        self._readers = readers
        self._connection: Any = None
        self._waiting: asyncio.Queue[Request | None] = asyncio.Queue(MAX_WAITING)
        self._writer = asyncio.create_task(self._write_forever(), name="write postgres")

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        request = Request(work, asyncio.get_running_loop().create_future())
        try:
            self._waiting.put_nowait(request)
        except asyncio.QueueFull:
            raise ResourceExhausted(
                "too many writes are waiting; retry later", reason=Reason.OVERLOADED
            ) from None
        result: T = await asyncio.shield(request.result)
        return result

    async def read(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        try:
            async with (
                self._readers.acquire() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                return await work(PostgresTransaction(connection))
        except LOST as error:
            await self._readers.expire_connections()  # what ended one has ended the others
            raise _unavailable(error) from None
        except asyncpg.CharacterNotInRepertoireError as error:
            raise unfit(error) from None

    async def close(self) -> None:
        """Commit what was accepted, then close."""
        await self._waiting.put(None)
        await self._writer
        if self._connection is not None:
            await self._connection.close()

    async def _write_forever(self) -> None:
        while (first := await self._waiting.get()) is not None:
            batch = [first]
            closed = False
            while len(batch) < MAX_BATCH and not self._waiting.empty():
                request = self._waiting.get_nowait()
                if request is None:
                    closed = True
                    break
                batch.append(request)
            await self._answer(batch)
            if closed:
                return

    async def _answer(self, batch: list[Request]) -> None:
        """Nobody is answered before the commit."""
        try:
            await self._commit(batch)
        except LOST as error:
            # Also a commit whose answer was lost: the caller retries under the same key. And a
            # server that only follows another one by now: the next connection finds that one.
            self._disconnect()
            for request in batch:
                request.error = _unavailable(error)
        except Exception as error:  # whatever it is, others are still to be served
            self._disconnect()
            for request in batch:
                request.error = _named(error)
        for request in batch:
            request.settle()

    async def _commit(self, batch: list[Request]) -> None:
        """One transaction for all, a savepoint for each."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._url, command_timeout=COMMAND_TIMEOUT_S)
        connection = self._connection
        try:
            await connection.execute(BEGIN)
            for request in batch:
                await self._apply(request, alone=len(batch) == 1)
        except BaseException:
            with suppress(*LOST, asyncpg.PostgresError):
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _apply(self, request: Request, *, alone: bool) -> None:
        """What is ``alone`` needs no savepoint: without it nothing is left to commit."""
        execute = self._connection.execute
        if not alone:
            await execute("SAVEPOINT request")
        try:
            request.outcome = await request.work(PostgresTransaction(self._connection))
        except LOST:
            raise
        except Exception as error:
            request.error = _named(error)
            await execute("ROLLBACK; BEGIN" if alone else "ROLLBACK TO SAVEPOINT request")
        if not alone:
            await execute("RELEASE SAVEPOINT request")


@asynccontextmanager
async def open_postgres(url: str, *, schema: str) -> AsyncIterator[PostgresDatabase]:
    try:
        connection = await connect(url, command_timeout=COMMAND_TIMEOUT_S)
        try:
            await _create(connection, schema)
        finally:
            await connection.close()
    except (OSError, asyncpg.PostgresError) as error:
        raise unopened(error) from None
    async with asyncpg.create_pool(
        url,
        min_size=0,
        max_size=READERS,
        command_timeout=COMMAND_TIMEOUT_S,
        connect=connect,
        reset=_leave,
    ) as readers:
        database = PostgresDatabase(url, readers)
        try:
            yield database
        finally:
            with suppress(asyncio.CancelledError):
                await asyncio.shield(database.close())


async def _create(connection: Any, schema: str) -> None:
    """The tables that are not there yet, one after the other.

    An index that is there already locks its table all the same: together with others, that ends in
    a deadlock with those who work on several tables.
    """
    await connection.execute("SELECT pg_advisory_lock($1)", SCHEMA_LOCK)  # until it is closed
    columns = [tuple(row) for row in await connection.fetch(COLUMNS)]
    schema_check.check(schema_check.gather(columns), schema, name="the database")
    for statement in filter(str.strip, _ddl(schema).split(";")):
        await connection.execute(statement)
    await connection.execute(
        "INSERT INTO store VALUES (1, $1, 0) ON CONFLICT DO NOTHING", uuid.uuid4().hex
    )


async def _leave(connection: Any) -> None:
    """As it is: whoever reads leaves nothing behind, and the default asks the server each time."""


@lru_cache(maxsize=1024)
def translate(sql: str) -> str:
    """``?`` as ``$1``, ``$2`` ...; what stands in quotes stays."""
    number = 0

    def mark(found: re.Match[str]) -> str:
        nonlocal number
        if found[0] != "?":
            return found[0]
        number += 1
        return f"${number}"

    return _QUOTED_OR_MARK.sub(mark, sql)


def _ddl(schema: str) -> str:
    plain = re.sub(r"--[^\n]*", "", schema)
    return _TABLE_OPTIONS.sub(")", _TYPE.sub(lambda found: TYPES[found[0]], plain))


def _named(error: Exception) -> Exception:
    if isinstance(error, asyncpg.UniqueViolationError):
        return UniqueViolationError(str(error))
    return unfit(error)


def _unavailable(error: BaseException) -> Unavailable:
    kind = type(error.__cause__ or error).__name__
    return Unavailable(
        f"the store does not answer ({kind}); check PostgreSQL, then retry",
        reason=Reason.STORE_UNAVAILABLE,
    )
