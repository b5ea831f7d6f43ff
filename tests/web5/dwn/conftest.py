"""Three people, and the node of the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mesh import inbox, jose, outbox
from mesh.clock import ManualClock
from mesh.database import open_database
from services.web5.did import Method
from services.web5.records import Records
from services.web5.store import records as store
from tests.web5.dwn.nodes import START, Node
from tests.web5.holder import signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.web5.proof import Signer


@pytest.fixture(scope="session")
def alice() -> Signer:
    """The owner of the node."""
    return signer(method=Method.JWK)


@pytest.fixture(scope="session")
def bob() -> Signer:
    return signer(jose.Secp256k1Key.generate())


@pytest.fixture(scope="session")
def carol() -> Signer:
    return signer()


@pytest.fixture
async def node(location: str, alice: Signer) -> AsyncIterator[Node]:
    clock = ManualClock(START.timestamp())
    schema = inbox.SCHEMA + outbox.SCHEMA + store.SCHEMA
    async with open_database(location, schema=schema) as database:
        records = Records(database, alice, clock)
        await records.open()
        yield Node(alice, records, database, clock)
