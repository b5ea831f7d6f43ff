"""The store of runs and their records: the part that SQLite and PostgreSQL share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mesh.data import idempotency, outbox
from mesh.errors import AlreadyExists, MeshError, Reason, Unavailable
from services.orchestrator.engine.model import RunStatus
from services.orchestrator.store import payments
from services.orchestrator.store.commits import (
    FINISHED,
    AppendCommit,
    Envelope,
    NewRun,
    StartCommit,
)
from services.orchestrator.store.definitions import find_definition
from services.orchestrator.store.deletion import not_found
from services.orchestrator.store.events import Events
from services.orchestrator.store.messages import Messages
from services.orchestrator.store.payments import Payments
from services.orchestrator.store.run_query import COLUMNS, RunQuery, RunRow
from services.orchestrator.store.stored_run import RunRecords, StoredRun, load_records, load_run
from services.orchestrator.store.suspension import Suspensions
from services.orchestrator.worker.run_spans import traceparent_of_run

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from mesh.data.database import Database, Transaction
    from mesh.data.idempotency import IdempotencyKey
    from mesh.data.lease import Lease
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.engine.records import Record
    from services.orchestrator.store.definitions import StoredDefinition
    from services.orchestrator.store.group_commit import GroupCommit

MAX_CACHED_DEFINITIONS = 1024
MAX_START_ATTEMPTS = 10  # each fails only if a newer definition was registered during it


class FencedError(Exception):
    """Another process owns the run, or it has changed: this process must drop it."""


@dataclass(frozen=True, slots=True)
class StartResult:
    """The outcome of a start."""

    reply: bytes  # of the first call with this key
    created: bool  # by this call


class RunStore(ABC):
    """The runs of one process. Each transition of a run is one commit, or part of a batch."""

    def __init__(self, database: Database, lease: Lease, writer: GroupCommit) -> None:
        self._database = database
        self.lease = lease
        self.messages = Messages(database)
        self.events = Events(database)
        self.query = RunQuery(database)
        self.suspensions = Suspensions(database)
        self.payments = Payments(database)
        self._commits = writer
        self._newest: OrderedDict[str, StoredDefinition] = OrderedDict()

    async def start(
        self,
        key: IdempotencyKey,
        workflow_id: str,
        prepare: Callable[[StoredDefinition], NewRun],
        reply: Callable[[NewRun], bytes],
    ) -> StartResult:
        """Inserts the run that ``prepare`` makes of the newest definition, once per ``key``.

        Raises NotFound if the workflow is unknown, AlreadyExists if the run id is used by another
        caller or with another body, and the errors of ``prepare``, which may be called again.
        """
        for _ in range(MAX_START_ATTEMPTS):
            cached = workflow_id in self._newest
            try:
                stored = await self._newest_of(workflow_id)
                new = prepare(stored)
                if new.state.payments:
                    await self.payments.require_unclaimed(new.state.payments)
            except MeshError:
                first = await self._first_reply(key)
                if first is not None:
                    return StartResult(first, created=False)
                if not cached:
                    raise
                self._newest.pop(workflow_id, None)  # a newer definition may not raise it
                continue
            answer = reply(new)
            if await self._commits.commit(StartCommit(new, key, answer, stored.version)):
                return StartResult(answer, created=True)
            if (started := await self._read_back(key, new)) is not None:
                return started
            self._newest.pop(workflow_id, None)
        raise Unavailable(
            f"workflow {workflow_id} is being registered again and again; retry later",
            reason=Reason.OVERLOADED,
        )

    async def append(self, state: RunState, epoch: int, records: Sequence[Record]) -> None:
        """Appends the records that lead to ``state``. Idempotent.

        Raises FencedError if the run is owned by another process or was changed.
        """
        if await self._commits.commit(AppendCommit(state, epoch, records)):
            return

        async def work(tx: Transaction) -> None:
            await require_current(tx, state, epoch)

        await self._database.read(work)

    async def deliver(
        self, state: RunState, epoch: int, records: Sequence[Record], envelope: Envelope
    ) -> bool:
        """Stores a message together with the records of the transition it caused. Idempotent.

        Returns False if neither was stored: the run has another message at this position or too
        many, or the key was used. ``Messages.send`` then raises the reason. Raises FencedError if
        the run is owned by another process or was changed.
        """
        if await self._commits.commit(AppendCommit(state, epoch, records, envelope)):
            return True

        async def work(tx: Transaction) -> bool:
            row = await tx.fetch_one("SELECT epoch, sequence FROM run WHERE id = ?", state.run_id)
            if row == (epoch, records[0].sequence - 1):
                return False
            await require_current(tx, state, epoch)
            return True

        return await self._database.read(work)

    async def suspend(
        self, state: RunState, epoch: int, wake_us: int, *, event_cursor: int = 0
    ) -> bool:
        """Releases the run until its next cause, see ``Suspensions.suspend``; returns if it is.

        It is so, too, if another process owns it, or the answer to a suspension before was lost.
        """
        if await self.suspensions.suspend(state, epoch, wake_us, event_cursor=event_cursor):
            return True
        try:
            await self._database.read(partial(require_current, state=state, epoch=epoch))
        except FencedError:
            return True
        return False

    @abstractmethod
    async def claim(self, limit: int) -> list[StoredRun]:
        """Takes ownership of up to ``limit`` claimable runs, oldest first, with their records.

        A run that cannot be read is set aside for an operator and does not block the others.
        """

    @abstractmethod
    async def release_lost(self, held: Callable[[], Collection[str]]) -> None:
        """Releases runs that this process owns in the store but that are not among ``held()``.

        A commit whose answer was lost leaves such runs behind. ``held`` is called once the runs
        that the store names can no longer change: a run that starts at the same time is kept.
        """

    async def load(self, run_id: str) -> StoredRun:
        """Returns the run with all records.

        Raises NotFound if it is unknown, FailedPrecondition (STORE_DAMAGED) if it is damaged.
        """

        async def work(tx: Transaction) -> StoredRun:
            return await load_run(tx, run_id)

        return await self._database.read(work)

    async def row(self, run_id: str) -> RunRow:
        """Returns the run without its records. Raises NotFound if it is unknown."""

        async def work(tx: Transaction) -> RunRow:
            found = await tx.fetch_one(f"SELECT {COLUMNS} FROM run WHERE id = ?", run_id)  # noqa: S608
            if found is None:
                raise await not_found(tx, run_id)
            return RunRow(*found)

        return await self._database.read(work)

    async def load_after(self, run_id: str, *, sequence: int) -> RunRecords:
        """Returns the run with the records after ``sequence``. Raises as ``load``."""

        async def work(tx: Transaction) -> RunRecords:
            return await load_records(tx, run_id, after=sequence)

        return await self._database.read(work)

    async def has_ended(self, run_id: str) -> bool:
        """Reports whether the run has ended. Raises NotFound if it is unknown."""

        async def work(tx: Transaction) -> bool:
            row = await tx.fetch_one("SELECT finished_us FROM run WHERE id = ?", run_id)
            if row is None:
                raise await not_found(tx, run_id)
            return row[0] is not None

        return await self._database.read(work)

    async def _newest_of(self, workflow_id: str) -> StoredDefinition:
        """Returns the newest definition, perhaps outdated: the commit checks its version."""
        known = self._newest.get(workflow_id)
        if known is None:

            async def work(tx: Transaction) -> StoredDefinition:
                return await find_definition(tx, workflow_id)

            known = await self._database.read(work)
            if known.inner:
                return known  # not cached: the commit does not check versions of sub-workflows
            self._newest[workflow_id] = known
            if len(self._newest) > MAX_CACHED_DEFINITIONS:
                self._newest.popitem(last=False)
        return known

    async def _first_reply(self, key: IdempotencyKey) -> bytes | None:
        async def work(tx: Transaction) -> bytes | None:
            return await idempotency.find_reply(tx, key)

        return await self._database.read(work)

    async def _read_back(self, key: IdempotencyKey, new: NewRun) -> StartResult | None:
        """Returns the result or raises the reason of a start that inserted no run.

        Returns None if the only reason is that its definition is not the newest.
        """
        run_id = new.state.run_id

        async def work(tx: Transaction) -> StartResult | None:
            row = await tx.fetch_one(
                "SELECT owner, epoch, sequence, created_us FROM run WHERE id = ?", run_id
            )
            gone = await tx.fetch_one("SELECT 1 FROM deleted_run WHERE id = ?", run_id)
            claimed = await payments.claimed_payment(tx, run_id, new.state.payments)
            first = await idempotency.find_reply(tx, key)
            if first is not None:
                # If the row is as this start wrote it, the commit was applied and its answer lost.
                # A run that this process has claimed since differs at least in the time.
                state = new.state
                written = (self.lease.replica_id, 0, state.sequence, state.created_us)
                return StartResult(first, created=new.owned and row == written)
            if row is not None or gone is not None:
                raise AlreadyExists(
                    f"run {run_id} exists, or did; choose a new request_id",
                    reason=Reason.REQUEST_ID_REUSED,
                    field="request_id",
                )
            if claimed:
                raise payments.already_claimed(claimed)
            return None

        return await self._database.read(work)


async def add_record(tx: Transaction, run_id: str, record: Record) -> None:
    """Inserts a record in this transaction. Transitions are commits of the writer instead."""
    await tx.execute(
        "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?)",
        run_id,
        record.sequence,
        record.kind,
        record.path,
        record.attempt,
        record.at_us,
        record.encoded,
    )


async def set_aside(tx: Transaction, run_id: str, epoch: int, reason: str) -> None:
    """Ends a run that cannot be read as NEEDS_ATTENTION; its records stay."""
    changed = await tx.execute(
        "UPDATE run SET status = ?, reason = ?, finished_us = updated_us"
        " WHERE id = ? AND epoch = ? AND finished_us IS NULL",
        RunStatus.NEEDS_ATTENTION,
        reason,
        run_id,
        epoch,
    )
    if changed:
        await announce(tx, FINISHED, run_id, await parent_of(tx, run_id))


async def announce(tx: Transaction, type: str, run_id: str, parent: str) -> None:
    """Inserts an event about the run into the outbox; ``parent`` is the run's traceparent."""
    traceparent = traceparent_of_run(run_id, parent)
    await outbox.append(tx, type=type, key=run_id, traceparent=traceparent)


async def parent_of(tx: Transaction, run_id: str) -> str:
    """Returns the traceparent that the run was started with; empty if it is unknown."""
    row = await tx.fetch_one("SELECT traceparent FROM run WHERE id = ?", run_id)
    return str(row[0]) if row else ""


async def require_current(tx: Transaction, state: RunState, epoch: int) -> None:
    """Raises FencedError unless the run is stored as ``state`` in ``epoch``."""
    row = await tx.fetch_one("SELECT epoch, sequence FROM run WHERE id = ?", state.run_id)
    if row != (epoch, state.sequence):
        raise FencedError(state.run_id)
