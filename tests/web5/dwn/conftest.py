"""Three people, and the node of the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mesh import inbox, jose, outbox
from mesh.clock import ManualClock
from mesh.database import open_database
from services.web5 import did
from services.web5.records import Records
from services.web5.store import records as store
from tests.web5.dwn.nodes import START, Node, Person, person

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(scope="session")
def alice() -> Person:
    """The owner of the node."""
    return person(did.Method.JWK, jose.Ed25519Key.generate())


@pytest.fixture(scope="session")
def bob() -> Person:
    return person(did.Method.KEY, jose.Secp256k1Key.generate())


@pytest.fixture(scope="session")
def carol() -> Person:
    return person(did.Method.KEY, jose.Ed25519Key.generate())


@pytest.fixture
async def node(location: str, alice: Person) -> AsyncIterator[Node]:
    clock = ManualClock(START.timestamp())
    schema = inbox.SCHEMA + outbox.SCHEMA + store.SCHEMA
    async with open_database(location, schema=schema) as database:
        records = Records(database, alice, clock)
        await records.open()
        yield Node(alice, records, database, clock)
