"""What must survive: one store, on SQLite or PostgreSQL, with the same SQL and the same promises.

A write returns once it is durable, and lands whole or not at all. All writers of one store come one
after the other, also across processes, so that store code never races: SQLite has one writer
thread, PostgreSQL locks the ``store`` row first. SQL is written once: ``?`` for parameters,
SQLite's type names, and only what both databases understand.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from mesh.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from pathlib import Path

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]
Value: TypeAlias = str | int | float | bytes | None

POSTGRES_SCHEMES = ("postgresql://", "postgres://")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")

# Every store has a name and counts its events. The row is also the lock of its writers.
STORE_SCHEMA = """
CREATE TABLE IF NOT EXISTS store (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    id       TEXT NOT NULL,
    sequence INTEGER NOT NULL
) STRICT;
"""


class UniqueViolationError(Exception):
    """A row with this key exists. It ends the work; where both may happen, use ON CONFLICT."""


class Transaction(Protocol):
    """What the work of a read or a write may await, and nothing else."""

    async def execute(self, sql: str, *args: Value) -> int:
        """Run one statement and tell how many rows it touched."""
        ...

    async def execute_many(self, sql: str, rows: Iterable[tuple[Value, ...]]) -> None:
        """Run one statement for each row."""
        ...

    async def fetch(self, sql: str, *args: Value) -> list[Row]: ...

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        """The first row, or None."""
        ...

    async def now_ms(self) -> int:
        """Unix time in milliseconds by the database's clock."""
        ...


class Database(Protocol):
    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run ``work`` in the next commit; all of it lands, or none.

        Once accepted it happens even if the caller is cancelled: an effect is never half known.
        ResourceExhausted (OVERLOADED) if too many writes wait; Unavailable if the database does
        not answer, and then nobody knows whether the work landed: retry under the same key.
        """
        ...

    async def read(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run ``work`` on one consistent view of what is committed."""
        ...


def is_server(location: str) -> bool:
    """Is it the URL of a PostgreSQL database, and not a path? ConfigError for any other URL."""
    if location.startswith(POSTGRES_SCHEMES):
        return True
    if scheme := _URL.match(location):  # no more of it: it may hold a password
        raise ConfigError(
            f"ANYA_DATABASE must be a path or begin with postgresql://, not with {scheme[0]!r}"
        )
    return False


@asynccontextmanager
async def open_database(location: str | Path, *, schema: str) -> AsyncIterator[Database]:
    """The store at a path (SQLite) or a ``postgresql://`` URL, with the tables of ``schema``.

    Leaving the block commits what was accepted, then closes. ConfigError if it is no such thing.
    """
    if is_server(str(location)):
        from mesh.data.database.postgres import open_postgres

        async with open_postgres(str(location), schema=STORE_SCHEMA + schema) as server:
            yield server
    else:
        from mesh.data.database.sqlite import open_sqlite

        async with open_sqlite(location, schema=STORE_SCHEMA + schema) as file:
            yield file
