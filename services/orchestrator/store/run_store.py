"""Runs and their records: what both journals keep alike, and what each does in its own way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mesh.data import idempotency, outbox
from mesh.data.database.sql import in_list
from mesh.errors import (
    AlreadyExists,
    FailedPrecondition,
    MeshError,
    Reason,
    Unavailable,
)
from services.orchestrator.engine.fold import fold
from services.orchestrator.engine.model import RunStatus
from services.orchestrator.engine.records import Record, decode
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
from services.orchestrator.store.suspension import Suspensions
from services.orchestrator.worker.run_spans import traceparent_of_run

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from mesh.data.database import Database, Row, Transaction
    from mesh.data.idempotency import IdempotencyKey
    from mesh.data.lease import Lease
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.store.definitions import StoredDefinition
    from services.orchestrator.store.group_commit import GroupCommit
    from services.orchestrator.store.messages import Message

MAX_CACHED_DEFINITIONS = 1024  # known by heart
MAX_START_ATTEMPTS = 10  # that may be registered while one run starts
RECORD = "sequence, kind, path, attempt, at_us, payload"
RECENT_US = 2_000_000  # microseconds: longer than spans take to leave a process


class FencedError(Exception):
    """Another process took the run over: this one must leave it alone."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    row: RunRow
    records: tuple[Record, ...]
    was_suspended: bool = False  # it was let go of with nothing under way

    @property
    def state(self) -> RunState:
        """As the records leave it; one that was set aside has ended, which only its row knows."""
        state, row = fold(self.row.id, self.records), self.row
        if row.finished_us is not None and not state.finished:
            state.status, state.reason = RunStatus(row.status), row.reason
            state.finished_us = row.finished_us
        return state


@dataclass(frozen=True, slots=True)
class StartResult:
    reply: bytes  # the first one to this key
    created: bool  # it was this call that started the run


class WorkerCallbacks(Protocol):
    """Who drives runs, as the journal sees it."""

    def notify_claimable(self) -> None:
        """A run may wait for somebody."""
        ...

    def notify_events(self) -> None:
        """Some run emitted an event."""
        ...

    def notify_message(self, run_id: str, message: Message | None = None) -> None:
        """The run was sent something through another process, this if it is known."""
        ...

    def drop_all_runs(self) -> None:
        """Our lease was taken: leave every run that we have."""
        ...

    def re_export_spans(self, ended: Sequence[StoredRun]) -> None:
        """Who ended these may not have lived to tell."""
        ...


class RunStore(ABC):
    """The journal of a process. Each turn of the engine is one commit, or part of a greater one."""

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
        """Insert what ``prepare`` makes of the newest definition, once per ``key``.

        NotFound for an unknown workflow; AlreadyExists if another caller has a run of this id, or
        this one sent another body; and whatever ``prepare`` refuses. It may be called again.
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
                self._newest.pop(workflow_id, None)  # a newer one may not refuse it
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
        """Store the records that lead to ``state``. Safe to repeat. Fenced if the run has moved."""
        if await self._commits.commit(AppendCommit(state, epoch, records)):
            return

        async def work(tx: Transaction) -> None:
            await require_current(tx, state, epoch)

        await self._database.read(work)

    async def deliver(
        self, state: RunState, epoch: int, records: Sequence[Record], envelope: Envelope
    ) -> bool:
        """Store a message together with the records of the turn that it led to. Safe to repeat.

        False if neither was stored, as something else was sent to the run or under its key, or too
        much: ``Messages.send`` tells what. Fenced if the run has moved.
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

    @abstractmethod
    async def claim(self, limit: int) -> list[StoredRun]:
        """Take up to ``limit`` runs that wait, oldest first, with their records.

        One that cannot be read is set aside, for somebody to look at, and holds up no other.
        """

    @abstractmethod
    async def release_lost(self, held: Collection[str]) -> None:
        """Let go of what we have in the store but not in our hands.

        A commit whose answer was lost leaves such runs behind.
        """

    async def load(self, run_id: str) -> StoredRun:
        """NotFound if there is no such run, FailedPrecondition if its records are damaged."""

        async def work(tx: Transaction) -> StoredRun:
            return await load_run(tx, run_id)

        return await self._database.read(work)

    async def load_after(self, run_id: str, *, sequence: int) -> StoredRun:
        """The run as its row has it, with the records behind the sequence ``after``."""

        async def work(tx: Transaction) -> StoredRun:
            return await load_run(tx, run_id, after=sequence)

        return await self._database.read(work)

    async def has_ended(self, run_id: str) -> bool:
        """NotFound if there is no such run."""

        async def work(tx: Transaction) -> bool:
            row = await tx.fetch_one("SELECT finished_us FROM run WHERE id = ?", run_id)
            if row is None:
                raise await not_found(tx, run_id)
            return row[0] is not None

        return await self._database.read(work)

    async def _newest_of(self, workflow_id: str) -> StoredDefinition:
        """As far as we know: the commit knows better."""
        known = self._newest.get(workflow_id)
        if known is None:

            async def work(tx: Transaction) -> StoredDefinition:
                return await find_definition(tx, workflow_id)

            known = await self._database.read(work)
            if known.inner:
                return known  # the commit knows of newer ones of itself, not of those inside it
            self._newest[workflow_id] = known
            if len(self._newest) > MAX_CACHED_DEFINITIONS:
                self._newest.popitem(last=False)
        return known

    async def _first_reply(self, key: IdempotencyKey) -> bytes | None:
        async def work(tx: Transaction) -> bytes | None:
            return await idempotency.find_reply(tx, key)

        return await self._database.read(work)

    async def _read_back(self, key: IdempotencyKey, new: NewRun) -> StartResult | None:
        """Why it was not inserted; None because of its definition alone."""
        run_id = new.state.run_id

        async def work(tx: Transaction) -> StartResult | None:
            row = await tx.fetch_one(
                "SELECT owner, epoch, sequence, created_us FROM run WHERE id = ?", run_id
            )
            gone = await tx.fetch_one("SELECT 1 FROM deleted_run WHERE id = ?", run_id)
            taken = await payments.claimed_payment(tx, run_id, new.state.payments)
            first = await idempotency.find_reply(tx, key)
            if first is not None:
                # The answer to a commit was lost, and it had landed, if the row is as we wrote it;
                # one that we have claimed meanwhile may be alike but for the time.
                state = new.state
                ours = (self.lease.replica_id, 0, state.sequence, state.created_us)
                return StartResult(first, created=new.owned and row == ours)
            if row is not None or gone is not None:
                raise AlreadyExists(
                    f"run {run_id} exists, or did; choose a new request_id",
                    reason=Reason.REQUEST_ID_REUSED,
                    field="request_id",
                )
            if taken:
                raise payments.already_claimed(taken)
            return None

        return await self._database.read(work)


async def load_run(tx: Transaction, run_id: str, *, after: int = 0) -> StoredRun:
    """The run with its records behind the sequence ``after``."""
    row = await tx.fetch_one(
        f"SELECT sequence, {COLUMNS} FROM run WHERE id = ?",  # noqa: S608
        run_id,
    )
    if row is None:
        raise await not_found(tx, run_id)
    records = await tx.fetch(
        f"SELECT {RECORD} FROM journal WHERE run = ? AND sequence > ? ORDER BY sequence",  # noqa: S608
        run_id,
        after,
    )
    return _stored(row, records, after)


async def load_runs(
    tx: Transaction, run_ids: Sequence[str]
) -> list[tuple[str, StoredRun | FailedPrecondition]]:
    """Those of the runs that are there, with all their records, or how they are damaged."""
    loaded: list[tuple[str, StoredRun | FailedPrecondition]] = []
    for listed, given in in_list(run_ids):
        rows = await tx.fetch(
            f"SELECT sequence, {COLUMNS} FROM run WHERE id IN {listed} ORDER BY created_us, id",  # noqa: S608
            *given,
        )
        written: defaultdict[str, list[Row]] = defaultdict(list)
        for run_id, *record in await tx.fetch(
            f"SELECT run, {RECORD} FROM journal WHERE run IN {listed} ORDER BY run, sequence",  # noqa: S608
            *given,
        ):
            written[run_id].append(tuple(record))
        for row in rows:
            run_id = str(row[1])
            try:
                loaded.append((run_id, _stored(row, written[run_id], 0)))
            except FailedPrecondition as damage:
                loaded.append((run_id, damage))
    return loaded


def _stored(row: Row, records: Sequence[Row], after: int) -> StoredRun:
    last, *columns = row
    try:
        if [sequence for sequence, *_ in records] != list(range(after + 1, last + 1)):
            raise ValueError(f"{last} records were written")
        stored = StoredRun(RunRow(*columns), tuple(record_of(record) for record in records))
        if not after:
            fold(stored.row.id, stored.records)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FailedPrecondition(
            f"the records of run {columns[0]} are damaged or not all there: restore the"
            " orchestrator's database from a backup",
            reason=Reason.STORE_CORRUPT,
        ) from None
    return stored


def require_readable(row: RunRow, state: RunState) -> None:
    """FailedPrecondition (STORE_CORRUPT) if the run was set aside: there will be no more records.

    ``state`` is what the records say that were read with the row.
    """
    if row.finished_us is not None and not state.finished:
        raise FailedPrecondition(
            f"{row.reason}; the run was set aside: redrive it once they can be read",
            reason=Reason.STORE_CORRUPT,
        )


async def add_record(tx: Transaction, run_id: str, record: Record) -> None:
    """Journal what was decided in this very transaction; turns are commits of the writer."""
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
    """End a run that cannot be read as one that somebody must look at; its records stay."""
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
    traceparent = traceparent_of_run(run_id, parent)
    await outbox.append(tx, type=type, key=run_id, traceparent=traceparent)


async def parent_of(tx: Transaction, run_id: str) -> str:
    row = await tx.fetch_one("SELECT traceparent FROM run WHERE id = ?", run_id)
    return str(row[0]) if row else ""


async def require_current(tx: Transaction, state: RunState, epoch: int) -> None:
    """Nothing was updated: because it was stored before, or because the run is not ours."""
    row = await tx.fetch_one("SELECT epoch, sequence FROM run WHERE id = ?", state.run_id)
    if row != (epoch, state.sequence):
        raise FencedError(state.run_id)


def record_of(row: Row) -> Record:
    sequence, kind, path, attempt, at_us, payload = row
    return decode(sequence, kind, path, attempt, at_us, bytes(payload))
