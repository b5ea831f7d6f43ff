"""Definitions, each under the hash of its canonical form, the newest of an id first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.errors import NotFound

if TYPE_CHECKING:
    from mesh.database import Database, Transaction
    from services.orchestrator.definition.workflow import Workflow

COLUMNS = "hash, workflow_id, name, body, registered_us, version"


@dataclass(frozen=True, slots=True)
class StoredDefinition:
    hash: str
    workflow_id: str
    name: str
    body: str  # as registered
    registered_us: int
    version: int  # of its workflow_id, from 1


class Definitions:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(self, workflow: Workflow, body: str) -> StoredDefinition:
        """Store a definition that was checked; the same again changes nothing."""

        async def work(tx: Transaction) -> StoredDefinition:
            known = await _by_hash(tx, workflow.hash)
            if known is not None:
                return known
            row = await tx.fetch_one(
                "SELECT COALESCE(MAX(version), 0) + 1 FROM definition WHERE workflow_id = ?",
                workflow.id,
            )
            assert row is not None  # noqa: S101  (an aggregate has one row)
            now = await tx.now_ms() * 1000
            new = StoredDefinition(workflow.hash, workflow.id, workflow.name, body, now, row[0])
            await tx.execute(
                f"INSERT INTO definition ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
                new.hash,
                new.workflow_id,
                new.name,
                new.body,
                new.registered_us,
                new.version,
            )
            return new

        return await self._database.write(work)

    async def find(self, workflow_id: str, hash: str = "") -> StoredDefinition:
        """The newest of an id, or the one of a hash. NotFound."""

        async def work(tx: Transaction) -> StoredDefinition:
            return await find_definition(tx, workflow_id, hash)

        return await self._database.read(work)

    async def page(self, *, after: str, limit: int) -> list[StoredDefinition]:
        """The newest of every id, by id, from behind ``after``."""

        async def work(tx: Transaction) -> list[StoredDefinition]:
            rows = await tx.fetch(
                f"SELECT {COLUMNS} FROM definition AS newest WHERE workflow_id > ?"  # noqa: S608
                " AND version = (SELECT MAX(version) FROM definition"
                " WHERE workflow_id = newest.workflow_id) ORDER BY workflow_id LIMIT ?",
                after,
                limit,
            )
            return [StoredDefinition(*row) for row in rows]

        return await self._database.read(work)


async def find_definition(tx: Transaction, workflow_id: str, hash: str = "") -> StoredDefinition:
    if hash:
        found = await _by_hash(tx, hash)
        if found is None or workflow_id not in ("", found.workflow_id):
            raise NotFound(f"no definition {hash} of workflow {workflow_id!r}")
        return found
    row = await tx.fetch_one(
        f"SELECT {COLUMNS} FROM definition WHERE workflow_id = ?"  # noqa: S608
        " ORDER BY version DESC LIMIT 1",
        workflow_id,
    )
    if row is None:
        raise NotFound(f"no workflow {workflow_id!r} is registered", field="workflow_id")
    return StoredDefinition(*row)


async def _by_hash(tx: Transaction, hash: str) -> StoredDefinition | None:
    row = await tx.fetch_one(f"SELECT {COLUMNS} FROM definition WHERE hash = ?", hash)  # noqa: S608
    return None if row is None else StoredDefinition(*row)
