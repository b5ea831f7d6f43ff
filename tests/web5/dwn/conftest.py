"""Fixtures: three DIDs, and the node of the first one."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import asyncpg
import pytest

from formats import jose
from mesh.clock import ManualClock
from mesh.data import idempotency, outbox
from mesh.data.database import open_database
from services.web5.did import Method
from services.web5.store.dwn import messages as store
from services.web5.store.dwn.node import Dwn
from tests.web5.dwn.nodes import START, Node
from tests.web5.holder import signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.web5.proof import Signer

NUMBERS = itertools.count()


@pytest.fixture
def alice() -> Signer:
    """The owner of the node, another one in each test, so that tests can share a database."""
    return signer(method=Method.JWK)


@pytest.fixture(scope="session")
def bob() -> Signer:
    return signer(jose.Secp256k1Key.generate())


@pytest.fixture(scope="session")
def carol() -> Signer:
    return signer()


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def shared_location(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """One database of each kind for all tests of nodes."""
    if request.param == "sqlite":
        return str(tmp_path_factory.mktemp("nodes") / "store.db")
    url: str = request.getfixturevalue("postgres_url")
    name = f"nodes_{next(NUMBERS)}"  # pytest may come back to PostgreSQL after SQLite
    asyncio.run(_create_database(url, name))
    return url.replace("/postgres?", f"/{name}?")


@pytest.fixture
async def node(shared_location: str, alice: Signer) -> AsyncIterator[Node]:
    clock = ManualClock(START.timestamp())
    schema = idempotency.SCHEMA + outbox.SCHEMA + store.SCHEMA
    async with open_database(shared_location, schema=schema) as database:
        records = Dwn(database, alice, clock)
        await records.open()
        yield Node(alice, records, database, clock)


async def _create_database(url: str, name: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
