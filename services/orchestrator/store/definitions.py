"""Definitions, each under the hash of its canonical form, the newest of an id first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mesh.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mesh.data.database import Database, Transaction
    from services.orchestrator.definition.workflow import Workflow

COLUMNS = "hash, workflow_id, name, body, registered_us, version, uses"


@dataclass(frozen=True, slots=True)
class StoredDefinition:
    hash: str
    workflow_id: str
    name: str
    body: str  # as registered
    registered_us: int
    version: int  # of its workflow_id, from 1
    uses: str  # ids of the workflows that its steps run, parted by spaces
    # The newest of those and of all inside them, each after what is inside it.
    inner: tuple[StoredDefinition, ...] = ()


class Definitions:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(self, workflow: Workflow, body: str) -> StoredDefinition:
        """Store a definition that was checked; the same again changes nothing."""

        async def work(tx: Transaction) -> StoredDefinition:
            known = await _by_hash(tx, workflow.hash)
            if known is not None:
                return await _with_inner(tx, known)
            row = await tx.fetch_one(
                "SELECT COALESCE(MAX(version), 0) + 1 FROM definition WHERE workflow_id = ?",
                workflow.id,
            )
            assert row is not None  # noqa: S101  (an aggregate has one row)
            now = await tx.now_ms() * 1000
            uses = " ".join(workflow.sub_workflow_ids)
            new = StoredDefinition(
                workflow.hash, workflow.id, workflow.name, body, now, row[0], uses
            )
            await tx.execute(
                f"INSERT INTO definition ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                new.hash,
                new.workflow_id,
                new.name,
                new.body,
                new.registered_us,
                new.version,
                new.uses,
            )
            return await _with_inner(tx, new)

        return await self._database.write(work)

    async def find(self, workflow_id: str, hash: str = "") -> StoredDefinition:
        """The newest of an id, or the one of a hash. NotFound."""

        async def work(tx: Transaction) -> StoredDefinition:
            return await find_definition(tx, workflow_id, hash)

        return await self._database.read(work)

    async def newest(self, ids: Iterable[str]) -> tuple[StoredDefinition, ...]:
        """See newest_of."""

        async def work(tx: Transaction) -> tuple[StoredDefinition, ...]:
            return await newest_of(tx, ids)

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
    return await _with_inner(tx, StoredDefinition(*row))


async def newest_of(tx: Transaction, ids: Iterable[str]) -> tuple[StoredDefinition, ...]:
    """The newest of these and of all inside them, each after what is inside it.

    What is not registered is left out, and what is inside itself comes once.
    """
    found: dict[str, StoredDefinition] = {}
    asked: set[str] = set()

    async def collect(id: str) -> None:
        if id in asked:
            return
        asked.add(id)
        row = await tx.fetch_one(
            f"SELECT {COLUMNS} FROM definition WHERE workflow_id = ?"  # noqa: S608
            " ORDER BY version DESC LIMIT 1",
            id,
        )
        if row is not None:
            stored = StoredDefinition(*row)
            for inner in stored.uses.split():
                await collect(inner)
            found[id] = stored

    for id in ids:
        await collect(id)
    return tuple(found.values())


async def _with_inner(tx: Transaction, stored: StoredDefinition) -> StoredDefinition:
    if not stored.uses:
        return stored
    return replace(stored, inner=await newest_of(tx, stored.uses.split()))


async def _by_hash(tx: Transaction, hash: str) -> StoredDefinition | None:
    row = await tx.fetch_one(f"SELECT {COLUMNS} FROM definition WHERE hash = ?", hash)  # noqa: S608
    return None if row is None else StoredDefinition(*row)
