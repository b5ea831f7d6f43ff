"""PostgreSQL: one store for several processes, one writer at a time, many requests per commit."""

from __future__ import annotations

import asyncio
import re
import uuid
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from mesh.data.database import UniqueViolationError, schema_check
from mesh.data.database.connection import connect, to_invalid_argument, to_start_error
from mesh.data.database.request import MAX_WAITING_WRITES, READERS, Request, take_batch
from mesh.errors import Reason, ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from mesh.data.database import Row, Transaction, Value

T = TypeVar("T")

COMMAND_TIMEOUT_S = 30.0
SCHEMA_LOCK = (
    0x616E7961  # "anya": serializes the creation of tables by processes that start together
)

# One round trip. The lock of the store's row admits one writer at a time.
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 1 FROM store FOR UPDATE"
COLUMNS = """
SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema
"""
NOW_MS = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"

TYPES = {
    "INTEGER": "BIGINT",
    "BLOB": "BYTEA",
    "REAL": "DOUBLE PRECISION",
    "TEXT": 'TEXT COLLATE "C"',  # compares bytes, as SQLite does, not by the server's locale
}
_TYPE = re.compile(rf"\b({'|'.join(TYPES)})\b")
_TABLE_OPTIONS = re.compile(r"\)\s*(?:STRICT|WITHOUT ROWID)(?:\s*,\s*(?:STRICT|WITHOUT ROWID))*")
_QUOTED_OR_MARK = re.compile(r"'[^']*'|\?")

CONNECTION_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server closed the connection between two requests
    asyncpg.OperatorInterventionError,  # the server stops, or has not started yet
    asyncpg.InsufficientResourcesError,  # no connection or disk space left
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,  # it has become the standby of another server
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
        self._waiting: asyncio.Queue[Request | None] = asyncio.Queue(MAX_WAITING_WRITES)
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
        except CONNECTION_ERRORS as error:
            await self._readers.expire_connections()  # the others are broken as well
            raise _unavailable(error) from None
        except asyncpg.CharacterNotInRepertoireError as error:
            raise to_invalid_argument(error) from None

    async def close(self) -> None:
        """Commits the accepted writes, then closes."""
        await self._waiting.put(None)
        await self._writer
        if self._connection is not None:
            await self._connection.close()

    async def _write_forever(self) -> None:
        while (first := await self._waiting.get()) is not None:
            batch, closed = take_batch(first, self._waiting)
            await self._answer(batch)
            if closed:
                return

    async def _answer(self, batch: list[Request]) -> None:
        """Commits the batch, then hands each caller its result."""
        try:
            await self._commit(batch)
        except CONNECTION_ERRORS as error:
            # The answer to a commit may be lost: the caller retries with the same key. The server
            # may have become a standby: the next connection finds the primary.
            self._disconnect()
            for request in batch:
                request.error = _unavailable(error)
        except Exception as error:  # other batches must still be served
            self._disconnect()
            for request in batch:
                request.error = _translated(error)
        for request in batch:
            request.settle()

    async def _commit(self, batch: list[Request]) -> None:
        """Runs the batch in one transaction, with a savepoint for each request."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._url, command_timeout=COMMAND_TIMEOUT_S)
        connection = self._connection
        try:
            await connection.execute(BEGIN)
            for request in batch:
                await self._apply(request, alone=len(batch) == 1)
        except BaseException:
            with suppress(*CONNECTION_ERRORS, asyncpg.PostgresError):
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _apply(self, request: Request, *, alone: bool) -> None:
        """Runs one request. A request that is ``alone`` needs no savepoint."""
        execute = self._connection.execute
        if not alone:
            await execute("SAVEPOINT request")
        try:
            request.outcome = await request.work(PostgresTransaction(self._connection))
        except CONNECTION_ERRORS:
            raise
        except Exception as error:
            request.error = _translated(error)
            await execute("ROLLBACK; BEGIN" if alone else "ROLLBACK TO SAVEPOINT request")
        if not alone:
            await execute("RELEASE SAVEPOINT request")


@asynccontextmanager
async def open_postgres(url: str, *, schema: str) -> AsyncIterator[PostgresDatabase]:
    """Opens the store at ``url`` and creates the missing tables of ``schema``."""
    try:
        connection = await connect(url, command_timeout=COMMAND_TIMEOUT_S)
        try:
            await _create(connection, schema)
        finally:
            await connection.close()
    except (OSError, asyncpg.PostgresError) as error:
        raise to_start_error(error, url) from None
    async with asyncpg.create_pool(
        url,
        min_size=0,
        max_size=READERS,
        command_timeout=COMMAND_TIMEOUT_S,
        connect=connect,
        reset=_keep_state,
    ) as readers:
        database = PostgresDatabase(url, readers)
        try:
            yield database
        finally:
            with suppress(asyncio.CancelledError):
                await asyncio.shield(database.close())


async def _create(connection: Any, schema: str) -> None:
    """Creates the missing tables and indexes, each in a transaction of its own.

    CREATE INDEX IF NOT EXISTS locks its table even if the index exists. In one transaction these
    locks could deadlock with writers that use several tables.
    """
    await connection.execute(
        "SELECT pg_advisory_lock($1)", SCHEMA_LOCK
    )  # until the connection is closed
    columns = [tuple(row) for row in await connection.fetch(COLUMNS)]
    schema_check.check(schema_check.gather(columns), schema, name="the database")
    for statement in filter(str.strip, _ddl(schema).split(";")):
        await connection.execute(statement)
    await connection.execute(
        "INSERT INTO store VALUES (1, $1, 0) ON CONFLICT DO NOTHING", uuid.uuid4().hex
    )


async def _keep_state(connection: Any) -> None:
    """Replaces the default reset, a round trip: reads leave no state in the connection."""


@lru_cache(maxsize=1024)
def translate(sql: str) -> str:
    """Returns the statement with ``$1``, ``$2`` ... for ``?``; quoted text stays as it is."""
    number = 0

    def mark(match: re.Match[str]) -> str:
        nonlocal number
        if match[0] != "?":
            return match[0]
        number += 1
        return f"${number}"

    return _QUOTED_OR_MARK.sub(mark, sql)


def _ddl(schema: str) -> str:
    plain = re.sub(r"--[^\n]*", "", schema)
    return _TABLE_OPTIONS.sub(")", _TYPE.sub(lambda match: TYPES[match[0]], plain))


def _translated(error: Exception) -> Exception:
    if isinstance(error, asyncpg.UniqueViolationError):
        return UniqueViolationError(str(error))
    return to_invalid_argument(error)


def _unavailable(error: BaseException) -> Unavailable:
    name = type(error.__cause__ or error).__name__
    return Unavailable(
        f"the store does not answer ({name}); check PostgreSQL, then retry",
        reason=Reason.STORE_UNAVAILABLE,
    )
