"""Replicas on one PostgreSQL database, and a look at what the database waits for."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from services.orchestrator.registry import WorkflowRegistry
from services.orchestrator.store.open import open_store
from services.orchestrator.store.postgres.run_store import PostgresRunStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LEASE_S = 2.0


@asynccontextmanager
async def replica(url: str) -> AsyncIterator[tuple[PostgresRunStore, WorkflowRegistry]]:
    """A replica that renews its lease only when the test calls ``renew``."""
    async with open_store(url, lease_seconds=LEASE_S) as store:
        registry = WorkflowRegistry(store.definitions)
        await registry.register_built_in()
        assert isinstance(store.runs, PostgresRunStore)
        yield store.runs, registry


async def expire(connection: asyncpg.Connection, runs: PostgresRunStore) -> None:
    """Ends the lease as if its time had passed."""
    await connection.execute(
        "UPDATE replica SET lease_until = now() - interval '1 ms' WHERE id = $1",
        runs.lease.replica_id,
    )


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def is_blocked(url: str) -> bool:
    async with connected(url) as connection:
        return bool(
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )
