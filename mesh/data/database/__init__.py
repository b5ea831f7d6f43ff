"""A store on SQLite or PostgreSQL, with the same SQL and the same guarantees.

A write returns once it is durable, and is committed as a whole or not at all. The writes of one
store are serialized, also across processes, so store code needs no locks of its own: SQLite has one
writer thread, PostgreSQL locks the ``store`` row first. SQL is written once: ``?`` for parameters,
SQLite's type names, and only syntax that both databases have.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from mesh.settings import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from pathlib import Path

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]
Value: TypeAlias = str | int | float | bytes | None

POSTGRES_SCHEMES = ("postgresql://", "postgres://")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")

# Every store has an id and counts its events. The row is also the lock of its writers.
STORE_SCHEMA = """
CREATE TABLE IF NOT EXISTS store (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    id       TEXT NOT NULL,
    sequence INTEGER NOT NULL
) STRICT;
"""


class UniqueViolationError(Exception):
    """A row with this key exists. The work is rolled back; use ON CONFLICT to avoid it."""


class Transaction(Protocol):
    """The statements of one read or write. Its work may await nothing else."""

    async def execute(self, sql: str, *args: Value) -> int:
        """Runs one statement and returns the number of rows that it changed."""
        ...

    async def execute_many(self, sql: str, rows: Iterable[tuple[Value, ...]]) -> None:
        """Runs one statement for each row of parameters."""
        ...

    async def fetch(self, sql: str, *args: Value) -> list[Row]:
        """Returns all rows."""
        ...

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        """Returns the first row, or None if there is none."""
        ...

    async def now_ms(self) -> int:
        """Returns Unix time in milliseconds by the database's clock."""
        ...


class Database(Protocol):
    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs ``work`` in the next commit, as a whole or not at all, and returns its result.

        Accepted work is run even if the caller is cancelled. Raises ResourceExhausted (OVERLOADED)
        if too many writes wait, and Unavailable if the database does not answer: then the outcome
        is unknown, so retry with the same idempotency key.
        """
        ...

    async def read(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs ``work`` on one snapshot of the committed data, and returns its result."""
        ...


def is_server(location: str) -> bool:
    """Tells a PostgreSQL URL from a path. Raises ConfigError for a URL of another scheme."""
    if location.startswith(POSTGRES_SCHEMES):
        return True
    if scheme := _URL.match(location):  # only the scheme: the rest may hold a password
        raise ConfigError(
            f"ANYA_DATABASE begins with {scheme[0]!r}: set it to a path or a postgresql:// URL"
        )
    return False


@asynccontextmanager
async def open_database(location: str | Path, *, schema: str) -> AsyncIterator[Database]:
    """Opens the store at a path (SQLite) or a ``postgresql://`` URL, and creates its tables.

    Leaving the block commits the accepted writes, then closes. Raises ConfigError if the URL is
    unusable, Unavailable if PostgreSQL is, and FailedPrecondition if the store is damaged or of
    another version.
    """
    if is_server(str(location)):
        from mesh.data.database.postgres import open_postgres

        async with open_postgres(str(location), schema=STORE_SCHEMA + schema) as server:
            yield server
    else:
        from mesh.data.database.sqlite import open_sqlite

        async with open_sqlite(location, schema=STORE_SCHEMA + schema) as file:
            yield file
