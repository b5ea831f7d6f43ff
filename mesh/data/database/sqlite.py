"""SQLite: one writer thread, many requests in one durable commit, readers beside it."""

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
from mesh.data.database.request import MAX_WAITING, READERS, Request
from mesh.errors import FailedPrecondition, MeshError, Reason, ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from mesh.data.database import Row, Transaction, Value

T = TypeVar("T")

MAX_BATCH = 64  # writes in one commit
DAMAGED = {"SQLITE_CORRUPT", "SQLITE_NOTADB"}
AWAY = {
    *("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_LOCKED"),
    "SQLITE_READONLY",  # its file system is
}
CACHE_KIB = 16_384  # KiB of pages that the writer keeps
MAX_CACHED_STATEMENTS = 256  # compiled, for each connection
BUSY_TIMEOUT_S = 5.0  # seconds that a write waits for another process
BUSY_RETRY_DELAY_S = 0.01  # seconds between two attempts where SQLite itself does not wait

# unixepoch('subsec') is NULL before SQLite 3.42.
NOW_MS = "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


class SqliteTransaction:
    """A connection's side of ``Transaction``. Nothing in here ever suspends."""

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
    """One file."""

    def __init__(self, path: Path, *, schema: str) -> None:
        self._path = path
        self._waiting: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        with closing(_connect(path)) as connection:
            schema_check.check(schema_check.shape_of(connection), schema, name=str(path))
            connection.executescript(schema)
            connection.execute(
                "INSERT INTO store VALUES (1, ?, 0) ON CONFLICT DO NOTHING", (uuid.uuid4().hex,)
            )
        self._asked: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=self._read_forever, name=f"read {path.name}")
            for _ in range(READERS)
        ]
        self._writer = threading.Thread(target=self._write_forever, name=f"write {path.name}")
        for thread in (*self._readers, self._writer):
            thread.start()

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        if self._waiting.qsize() >= MAX_WAITING:
            raise ResourceExhausted(
                "too many writes are waiting; retry later", reason=Reason.OVERLOADED
            )
        request = Request(work, asyncio.get_running_loop().create_future())
        self._waiting.put(request)
        result: T = await request.result
        return result

    async def read(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        request = Request(work, asyncio.get_running_loop().create_future())
        self._asked.put(request)
        result: T = await request.result
        return result

    def close(self) -> None:
        """Commit what was accepted, answer what was asked, then close. Blocks."""
        for _ in self._readers:
            self._asked.put(None)
        for thread in self._readers:
            thread.join()
        # The last alone to close: only then does SQLite take its log, and what it holds, away.
        self._waiting.put(None)
        self._writer.join()

    def _read_forever(self) -> None:
        with closing(_connect(self._path)) as connection:
            connection.execute("PRAGMA query_only = ON")
            while (request := self._asked.get()) is not None:
                if not request.result.cancelled():
                    _see(connection, request)
                    _answer([request])

    def _write_forever(self) -> None:
        with closing(_connect(self._path)) as connection:
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            while (first := self._waiting.get()) is not None:
                batch = [first]
                closed = False
                while len(batch) < MAX_BATCH and not self._waiting.empty():
                    request = self._waiting.get_nowait()
                    if request is None:
                        closed = True
                        break
                    batch.append(request)
                _commit(connection, batch)
                _answer(batch)
                if closed:
                    return


@asynccontextmanager
async def open_sqlite(location: str | Path, *, schema: str) -> AsyncIterator[SqliteDatabase]:
    path = Path(location)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        database = await asyncio.to_thread(SqliteDatabase, path, schema=schema)
    except sqlite3.Error as error:
        raise _unopened(path, error) from error
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
        _keep_a_log(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")  # what is erased is not left in free pages
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _keep_a_log(connection: sqlite3.Connection) -> None:
    """SQLite lets nobody wait for this: two that turn one file to WAL would wait for each other."""
    until = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _kind(error) != "SQLITE_BUSY" or time.monotonic() >= until:
                raise
        time.sleep(BUSY_RETRY_DELAY_S)


def _drive(work: Callable[[Transaction], Awaitable[T]], connection: sqlite3.Connection) -> T:
    """Run a coroutine that awaits only the transaction: it never suspends, so one step is all."""
    steps = work(SqliteTransaction(connection)).__await__()
    try:
        next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("the work of a transaction may await nothing but the transaction")


def _commit(connection: sqlite3.Connection, batch: list[Request]) -> None:
    """One transaction for all, and for each of several a savepoint."""
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
            request.error = _named(error)


def _see(connection: sqlite3.Connection, request: Request) -> None:
    """All that one request reads is as of one moment."""
    try:
        connection.execute("BEGIN")
        try:
            request.outcome = _drive(request.work, connection)
        finally:
            connection.execute("ROLLBACK")
    except Exception as error:
        request.error = _named(error)


def _apply(connection: sqlite3.Connection, request: Request, *, undo: str) -> None:
    try:
        request.outcome = _drive(request.work, connection)
    except Exception as error:
        if isinstance(error, sqlite3.Error) and not connection.in_transaction:
            raise  # a full disk rolls back the whole transaction, and with it the batch
        request.error = _named(error)
        connection.execute(undo)


def _answer(batch: list[Request]) -> None:
    """Wake the event loop of who asked, once for all of them."""
    for loop in {request.result.get_loop() for request in batch}:
        with suppress(RuntimeError):  # closed, and who asked with it
            loop.call_soon_threadsafe(_settle, loop, batch)


def _settle(loop: asyncio.AbstractEventLoop, batch: list[Request]) -> None:
    for request in batch:
        if request.result.get_loop() is loop:
            request.settle()


def _named(error: Exception) -> Exception:
    if isinstance(error, sqlite3.IntegrityError) and "UNIQUE" in str(error):
        return UniqueViolationError(str(error))
    if isinstance(error, sqlite3.DatabaseError) and _kind(error) in DAMAGED:
        return FailedPrecondition(
            f"the store is damaged ({error}): restore its file from a backup",
            reason=Reason.STORE_CORRUPT,
        )
    if isinstance(error, sqlite3.OperationalError) and _kind(error) in AWAY:
        return Unavailable(
            f"the store cannot be written ({error}): free the disk, or end who holds it",
            reason=Reason.STORE_UNAVAILABLE,
        )
    return error


def _unopened(path: Path, error: sqlite3.Error) -> MeshError:
    """The same with the file's name, which is for whoever starts the process, not for callers."""
    named = _named(error)
    if isinstance(named, MeshError):
        return type(named)(f"{path}: {named}", reason=named.reason)
    return FailedPrecondition(
        f"{path} cannot be opened as a store: {error}", reason=Reason.STORE_UNAVAILABLE
    )


def _kind(error: sqlite3.Error) -> str:
    """SQLITE_IOERR for SQLITE_IOERR_WRITE as well; empty for what SQLite itself never saw."""
    return "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
