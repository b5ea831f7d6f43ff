"""Registered workflow definitions, by the hash of their canonical form."""

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
    """A registered definition with the newest definitions of its sub-workflows."""

    hash: str
    workflow_id: str
    name: str
    body: str  # the source text as it was registered
    registered_us: int
    version: int  # counts the definitions of one workflow_id, from 1
    uses: str  # ids of its sub-workflows, separated by spaces
    # The newest definitions of its sub-workflows at every depth, each after its own sub-workflows.
    inner: tuple[StoredDefinition, ...] = ()


class Definitions:
    """The definitions of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(self, workflow: Workflow, body: str) -> StoredDefinition:
        """Stores a checked definition. Registering the same again changes nothing."""

        async def work(tx: Transaction) -> StoredDefinition:
            found = await _by_hash(tx, workflow.hash)
            if found is not None:
                return await _with_inner(tx, found)
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
        """Returns the newest definition of an id, or the one of a hash. Raises NotFound."""

        async def work(tx: Transaction) -> StoredDefinition:
            return await find_definition(tx, workflow_id, hash)

        return await self._database.read(work)

    async def newest(self, ids: Iterable[str]) -> tuple[StoredDefinition, ...]:
        """Returns the newest definitions of these workflows, see ``newest_of``."""

        async def work(tx: Transaction) -> tuple[StoredDefinition, ...]:
            return await newest_of(tx, ids)

        return await self._database.read(work)

    async def page(self, *, after: str, limit: int) -> list[StoredDefinition]:
        """Returns the newest definition of each id after ``after``, in order of id."""

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
    """Returns the newest definition of an id, or the one of a hash. Raises NotFound."""
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
    """Returns the newest definitions of these workflows and of their sub-workflows at every depth.

    Each comes after its own sub-workflows, once. Unregistered ids are left out.
    """
    found: dict[str, StoredDefinition] = {}
    visited: set[str] = set()

    async def collect(id: str) -> None:
        if id in visited:
            return
        visited.add(id)
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
