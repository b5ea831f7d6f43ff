"""SQLite: one writer thread that commits many requests at once, and reader threads."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
import uuid
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mesh.data.database import UniqueViolationError, schema_check
from mesh.data.database.request import MAX_WAITING_WRITES, READERS, Request, take_batch
from mesh.errors import FailedPrecondition, MeshError, Reason, ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from mesh.data.database import Row, Transaction, Value

T = TypeVar("T")

DAMAGED = {"SQLITE_CORRUPT", "SQLITE_NOTADB"}
UNAVAILABLE = {
    *("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_LOCKED"),
    "SQLITE_READONLY",  # the file system is read-only
}
CACHE_KIB = 16_384  # pages cached by the writer
MAX_CACHED_STATEMENTS = 256  # for each connection
BUSY_TIMEOUT_S = 5.0  # a write waits so long for another process
BUSY_RETRY_DELAY_S = 0.01  # between attempts where SQLite itself does not wait

# unixepoch('subsec') is NULL before SQLite 3.42.
NOW_MS = "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


class SqliteTransaction:
    """The statements of one request on a connection. No method suspends."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str, *args: Value) -> int:
        return self._connection.execute(sql, args).rowcount

    async def execute_many(self, sql: str, rows: Iterable[tuple[Value, ...]]) -> None:
        self._connection.executemany(sql, rows)

    async def fetch(self, sql: str, *args: Value) -> list[Row]:
        return self._connection.execute(sql, args).fetchall()

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        row: Row | None = self._connection.execute(sql, args).fetchone()
        return row

    async def now_ms(self) -> int:
        row = self._connection.execute(NOW_MS).fetchone()
        return int(row[0])


class SqliteDatabase:
    """The store in one file."""

    def __init__(self, path: Path, *, schema: str) -> None:
        self._path = path
        self._waiting: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        with closing(_connect(path)) as connection:
            schema_check.check(schema_check.tables_of(connection), schema, name=str(path))
            connection.executescript(schema)
            connection.execute(
                "INSERT INTO store VALUES (1, ?, 0) ON CONFLICT DO NOTHING", (uuid.uuid4().hex,)
            )
        self._reads: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=self._read_forever, name=f"read {path.name}")
            for _ in range(READERS)
        ]
        self._writer = threading.Thread(target=self._write_forever, name=f"write {path.name}")
        for thread in (*self._readers, self._writer):
            thread.start()

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        if self._waiting.qsize() >= MAX_WAITING_WRITES:
            raise ResourceExhausted(
                "too many writes are waiting; retry later", reason=Reason.OVERLOADED
            )
        request = Request(work, asyncio.get_running_loop().create_future())
        self._waiting.put(request)
        result: T = await request.result
        return result

    async def read(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        request = Request(work, asyncio.get_running_loop().create_future())
        self._reads.put(request)
        result: T = await request.result
        return result

    def close(self) -> None:
        """Commits accepted writes, answers reads, then closes. Blocks."""
        for _ in self._readers:
            self._reads.put(None)
        for thread in self._readers:
            thread.join()
        # The writer closes last: SQLite deletes its log with the last connection.
        self._waiting.put(None)
        self._writer.join()

    def _read_forever(self) -> None:
        with closing(_connect(self._path)) as connection:
            connection.execute("PRAGMA query_only = ON")
            while (request := self._reads.get()) is not None:
                if not request.result.cancelled():
                    _read(connection, request)
                    _answer([request])

    def _write_forever(self) -> None:
        with closing(_connect(self._path)) as connection:
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            while (first := self._waiting.get()) is not None:
                batch, closed = take_batch(first, self._waiting)
                _commit(connection, batch)
                _answer(batch)
                if closed:
                    return


@asynccontextmanager
async def open_sqlite(location: str | Path, *, schema: str) -> AsyncIterator[SqliteDatabase]:
    """Opens the store at ``location``, makes its folder, and creates the tables of ``schema``."""
    path = Path(location)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        database = await asyncio.to_thread(SqliteDatabase, path, schema=schema)
    except sqlite3.Error as error:
        raise _start_error(path, error) from error
    try:
        yield database
    finally:
        await asyncio.shield(asyncio.to_thread(database.close))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=MAX_CACHED_STATEMENTS,
    )
    try:
        _enable_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")  # what is erased is not left in free pages
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _enable_wal(connection: sqlite3.Connection) -> None:
    """Enables WAL, and retries while another process does so: SQLite itself does not wait here."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _primary_code(error) != "SQLITE_BUSY" or time.monotonic() >= deadline:
                raise
        time.sleep(BUSY_RETRY_DELAY_S)


def _run(work: Callable[[Transaction], Awaitable[T]], connection: sqlite3.Connection) -> T:
    """Runs a coroutine that awaits only the transaction: it never suspends."""
    awaiting = work(SqliteTransaction(connection)).__await__()
    try:
        next(awaiting)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("the work of a transaction may await nothing but the transaction")


def _commit(connection: sqlite3.Connection, batch: list[Request]) -> None:
    """Runs the batch in one transaction, each of several requests in a savepoint."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        if len(batch) == 1:
            _apply(connection, batch[0], undo="ROLLBACK")
        else:
            for request in batch:
                connection.execute("SAVEPOINT request")
                _apply(connection, request, undo="ROLLBACK TO request")
                connection.execute("RELEASE request")
        if connection.in_transaction:
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        for request in batch:
            request.error = _translated(error)


def _read(connection: sqlite3.Connection, request: Request) -> None:
    """Runs the reads of one request on one snapshot."""
    try:
        connection.execute("BEGIN")
        try:
            request.outcome = _run(request.work, connection)
        finally:
            connection.execute("ROLLBACK")
    except Exception as error:
        request.error = _translated(error)


def _apply(connection: sqlite3.Connection, request: Request, *, undo: str) -> None:
    try:
        request.outcome = _run(request.work, connection)
    except Exception as error:
        if isinstance(error, sqlite3.Error) and not connection.in_transaction:
            raise  # a full disk rolls back the whole batch
        request.error = _translated(error)
        connection.execute(undo)


def _answer(batch: list[Request]) -> None:
    """Hands the results to their callers, with one wake-up per event loop."""
    for loop in {request.result.get_loop() for request in batch}:
        with suppress(RuntimeError):  # the loop and its callers are gone
            loop.call_soon_threadsafe(_settle, loop, batch)


def _settle(loop: asyncio.AbstractEventLoop, batch: list[Request]) -> None:
    for request in batch:
        if request.result.get_loop() is loop:
            request.settle()


def _translated(error: Exception) -> Exception:
    if isinstance(error, sqlite3.IntegrityError) and "UNIQUE" in str(error):
        return UniqueViolationError(str(error))
    if isinstance(error, sqlite3.DatabaseError) and _primary_code(error) in DAMAGED:
        return FailedPrecondition(
            f"the store is damaged ({error}): restore its file from a backup",
            reason=Reason.STORE_DAMAGED,
        )
    if isinstance(error, sqlite3.OperationalError) and _primary_code(error) in UNAVAILABLE:
        return Unavailable(
            f"the store cannot be written ({error}):"
            " free disk space, or stop the process that locks it",
            reason=Reason.STORE_UNAVAILABLE,
        )
    return error


def _start_error(path: Path, error: sqlite3.Error) -> MeshError:
    """Returns the error with the path, which is for the operator and not for callers."""
    translated = _translated(error)
    if isinstance(translated, MeshError):
        return type(translated)(f"{path}: {translated}", reason=translated.reason)
    return FailedPrecondition(
        f"{path} cannot be opened as a store: {error}", reason=Reason.STORE_UNAVAILABLE
    )


def _primary_code(error: sqlite3.Error) -> str:
    """Returns the primary code: SQLITE_IOERR for SQLITE_IOERR_WRITE. Empty if not of SQLite."""
    return "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
