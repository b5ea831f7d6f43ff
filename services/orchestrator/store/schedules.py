"""The store of schedules: it decides which due times start a run, each once.

A due time takes two commits: the first decides about it and moves the schedule on to the next due
time; the second records the outcome. Between them the run is started under an id that depends on
the schedule and the due time alone, so that a replica that finds the second commit missing starts
the same run again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from mesh.data import idempotency
from mesh.errors import AlreadyExists, MeshError, NotFound
from services.orchestrator.schedules.cron import Cron
from services.orchestrator.schedules.schedule import CatchUp, Interval, Overlap, Schedule, run_id
from services.orchestrator.store.definitions import find_definition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mesh.data.database import Database, Row, Transaction
    from mesh.data.idempotency import IdempotencyKey
    from services.orchestrator.store.definitions import StoredDefinition

CLAIM_BATCH_SIZE = 64  # schedules that one commit decides about
RETRY_DELAY_MS = 2_000  # until another replica starts a run whose start has no outcome
MAX_ERROR_CHARS = 500

SCHEDULE_COLUMNS = (
    "id, workflow_id, input, interval_ms, cron, zone, start_ms, end_ms, overlap, catch_up,"
    " catch_up_limit"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleProgress:
    """The changing part of a schedule. Times are Unix milliseconds."""

    creator: str  # SPIFFE ID
    allowed_privileges: frozenset[str] | None = None  # that its runs may use; None: all
    created_ms: int
    paused: bool = False
    next_due_ms: int | None = None
    firing_ms: int | None = None
    retry_ms: int | None = None
    last_run_id: str = ""
    last_due_ms: int | None = None
    started: int = 0
    skipped: int = 0
    refused: int = 0
    last_error: str = ""
    last_error_due_ms: int | None = None

    @property
    def action_ms(self) -> int | None:
        """The time at which the scheduler has to act next; None: never."""
        return self.next_due_ms if self.firing_ms is None else self.retry_ms


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule and its progress."""

    schedule: Schedule
    progress: ScheduleProgress


@dataclass(frozen=True, slots=True)
class ScheduleFiring:
    """A due time that a run is to be started for."""

    schedule: Schedule
    creator: str
    allowed_privileges: frozenset[str] | None
    due_ms: int

    @property
    def run_id(self) -> str:
        return run_id(self.schedule.id, self.due_ms)


PROGRESS = tuple(field.name for field in fields(ScheduleProgress))
COLUMNS = f"{SCHEDULE_COLUMNS}, {', '.join(PROGRESS)}"


async def database_clock(tx: Transaction) -> int:
    """Returns the database's time, Unix milliseconds."""
    return await tx.now_ms()


class ScheduleStore:
    """The schedules of a store.

    ``now_ms`` is the clock of due times: by default the database's, which all replicas share.
    """

    def __init__(
        self,
        database: Database,
        now_ms: Callable[[Transaction], Awaitable[int]] = database_clock,
    ) -> None:
        self._database = database
        self._now_ms = now_ms

    async def create(
        self,
        key: IdempotencyKey,
        make: Callable[[StoredDefinition, int], Schedule],
        workflow_id: str,
        reply: Callable[[StoredSchedule], bytes],
        *,
        allowed_privileges: frozenset[str] | None = None,
    ) -> bytes:
        """Inserts the schedule that ``make`` returns, once per ``key``, and returns the reply.

        ``make`` gets the workflow's newest definition and the time. Raises NotFound if the workflow
        is unknown, AlreadyExists if the schedule id is used, and the errors of ``make``.
        """

        async def work(tx: Transaction) -> bytes:
            async def effect() -> bytes:
                now_ms = await self._now_ms(tx)
                schedule = make(await find_definition(tx, workflow_id), now_ms)
                progress = ScheduleProgress(
                    creator=key.caller,
                    allowed_privileges=allowed_privileges,
                    created_ms=now_ms,
                    next_due_ms=schedule.next_due(now_ms),
                )
                await _insert(tx, stored := StoredSchedule(schedule, progress))
                return reply(stored)

            return await idempotency.run_once(tx, key, effect)

        return await self._database.write(work)

    async def find(self, schedule_id: str) -> StoredSchedule:
        """Returns the schedule. Raises NotFound."""

        async def work(tx: Transaction) -> StoredSchedule:
            return await _find(tx, schedule_id)

        return await self._database.read(work)

    async def page(self, *, after: str, limit: int) -> list[StoredSchedule]:
        """Returns up to ``limit`` schedules with ids after ``after``, in order of id."""

        async def work(tx: Transaction) -> list[StoredSchedule]:
            rows = await tx.fetch(
                f"SELECT {COLUMNS} FROM schedule WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608
                after,
                limit,
            )
            return [_stored(row) for row in rows]

        return await self._database.read(work)

    async def pause(
        self,
        key: IdempotencyKey,
        schedule_id: str,
        *,
        paused: bool,
        reply: Callable[[StoredSchedule], bytes],
    ) -> bytes:
        """Pauses the schedule, or resumes it at the first due time from now on. Raises NotFound."""

        async def work(tx: Transaction) -> bytes:
            async def effect() -> bytes:
                found = await _find(tx, schedule_id)
                progress = found.progress
                if progress.paused != paused:
                    now_ms = await self._now_ms(tx)
                    next_due_ms = None if paused else found.schedule.next_due(now_ms)
                    progress = replace(progress, paused=paused, next_due_ms=next_due_ms)
                    await _save(tx, schedule_id, progress)
                return reply(StoredSchedule(found.schedule, progress))

            return await idempotency.run_once(tx, key, effect)

        return await self._database.write(work)

    async def delete(self, key: IdempotencyKey, schedule_id: str) -> None:
        """Deletes the schedule; runs that it started stay. Raises NotFound."""

        async def work(tx: Transaction) -> bytes:
            async def effect() -> bytes:
                if not await tx.execute("DELETE FROM schedule WHERE id = ?", schedule_id):
                    raise _not_found(schedule_id)
                return b""

            return await idempotency.run_once(tx, key, effect)

        await self._database.write(work)

    async def seconds_until_action(self) -> float:
        """Returns the seconds until the scheduler has to act; infinity if it never has to."""

        async def work(tx: Transaction) -> float:
            row = await tx.fetch_one(
                "SELECT MIN(action_ms) FROM schedule WHERE action_ms IS NOT NULL"
            )
            if row is None or row[0] is None:
                return float("inf")
            return (int(row[0]) - await self._now_ms(tx)) / 1000

        return await self._database.read(work)

    async def claim(self) -> list[ScheduleFiring]:
        """Decides about due times, one per schedule, and returns those that start a run now."""

        async def work(tx: Transaction) -> list[ScheduleFiring]:
            now_ms = await self._now_ms(tx)
            rows = await tx.fetch(
                f"SELECT {COLUMNS} FROM schedule WHERE action_ms <= ?"  # noqa: S608
                " ORDER BY action_ms, id LIMIT ?",
                now_ms,
                CLAIM_BATCH_SIZE,
            )
            firings = []
            for found in map(_stored, rows):
                schedule = found.schedule
                progress = await _decide(tx, found, now_ms)
                await _save(tx, schedule.id, progress)
                if progress.firing_ms is not None:
                    firings.append(
                        ScheduleFiring(
                            schedule,
                            progress.creator,
                            progress.allowed_privileges,
                            progress.firing_ms,
                        )
                    )
            return firings

        return await self._database.write(work)

    async def record_outcome(self, firing: ScheduleFiring, refusal: str = "") -> None:
        """Records that the run was started, or why it was refused. Later calls do nothing."""

        async def work(tx: Transaction) -> None:
            row = await tx.fetch_one(
                f"SELECT {COLUMNS} FROM schedule WHERE id = ? AND firing_ms = ?",  # noqa: S608
                firing.schedule.id,
                firing.due_ms,
            )
            if row is None:
                return
            progress = replace(_stored(row).progress, firing_ms=None, retry_ms=None)
            if refusal:
                progress = _refused(progress, refusal, firing.due_ms)
            else:
                progress = replace(
                    progress,
                    last_run_id=firing.run_id,
                    last_due_ms=firing.due_ms,
                    started=progress.started + 1,
                )
            await _save(tx, firing.schedule.id, progress)

        await self._database.write(work)


async def _decide(tx: Transaction, found: StoredSchedule, now_ms: int) -> ScheduleProgress:
    """Returns the progress after the decision about the present due time of the schedule."""
    schedule, progress = found.schedule, found.progress
    if progress.firing_ms is not None:  # the replica that was to start this run has not said so
        return replace(progress, retry_ms=now_ms + RETRY_DELAY_MS)
    assert progress.next_due_ms is not None  # noqa: S101  (the query has selected it)
    try:
        due_ms = schedule.due_to_start(progress.next_due_ms, now_ms)
        next_due_ms = schedule.next_due(now_ms if due_ms is None else due_ms)
    except MeshError as error:  # this machine no longer knows the time zone
        refused = _refused(progress, str(error), progress.next_due_ms)
        return replace(refused, paused=True, next_due_ms=None)
    progress = replace(progress, next_due_ms=next_due_ms)
    if due_ms is None:
        return progress
    if schedule.overlap is Overlap.SKIP and await _has_not_ended(tx, progress.last_run_id):
        return replace(progress, skipped=progress.skipped + 1)
    return replace(progress, firing_ms=due_ms, retry_ms=now_ms + RETRY_DELAY_MS)


def _refused(progress: ScheduleProgress, error: str, due_ms: int) -> ScheduleProgress:
    return replace(
        progress,
        refused=progress.refused + 1,
        last_error=error[:MAX_ERROR_CHARS],
        last_error_due_ms=due_ms,
    )


async def _has_not_ended(tx: Transaction, run_id: str) -> bool:
    row = await tx.fetch_one("SELECT 1 FROM run WHERE id = ? AND finished_us IS NULL", run_id)
    return row is not None


async def _find(tx: Transaction, schedule_id: str) -> StoredSchedule:
    row = await tx.fetch_one(
        f"SELECT {COLUMNS} FROM schedule WHERE id = ?",  # noqa: S608
        schedule_id,
    )
    if row is None:
        raise _not_found(schedule_id)
    return _stored(row)


async def _insert(tx: Transaction, stored: StoredSchedule) -> None:
    schedule, progress = stored.schedule, stored.progress
    match schedule.timing:
        case Interval(ms):
            timing: tuple[int, str, str] = (ms, "", "")
        case Cron(expression, zone):
            timing = (0, expression, zone)
    values = (
        schedule.id,
        schedule.workflow_id,
        json.dumps(schedule.input).encode(),
        *timing,
        schedule.start_ms,
        schedule.end_ms,
        schedule.overlap,
        schedule.catch_up,
        schedule.catch_up_limit,
        *_columns(progress),
        progress.action_ms,
    )
    marks = ", ".join("?" * len(values))
    inserted = await tx.execute(
        f"INSERT INTO schedule ({COLUMNS}, action_ms) VALUES ({marks}) ON CONFLICT DO NOTHING",  # noqa: S608
        *values,
    )
    if not inserted:
        raise AlreadyExists(
            f"schedule {schedule.id} exists; choose another id or delete it first",
            field="schedule_id",
        )


async def _save(tx: Transaction, schedule_id: str, progress: ScheduleProgress) -> None:
    await tx.execute(
        f"UPDATE schedule SET {', '.join(f'{name} = ?' for name in PROGRESS)}, action_ms = ?"  # noqa: S608
        " WHERE id = ?",
        *_columns(progress),
        progress.action_ms,
        schedule_id,
    )


def _columns(progress: ScheduleProgress) -> tuple[Any, ...]:
    allowed = progress.allowed_privileges
    columns = {name: getattr(progress, name) for name in PROGRESS}
    columns |= {
        "paused": int(progress.paused),
        "allowed_privileges": json.dumps(None if allowed is None else sorted(allowed)),
    }
    return tuple(columns.values())


def _stored(row: Row) -> StoredSchedule:
    id, workflow_id, given, interval_ms, expression, zone, start_ms, end_ms, *others = row
    overlap, catch_up, catch_up_limit, *progress = others
    schedule = Schedule(
        id=id,
        workflow_id=workflow_id,
        input=json.loads(bytes(given)),
        timing=Interval(interval_ms) if interval_ms else Cron(expression, zone),
        start_ms=start_ms,
        end_ms=end_ms,
        overlap=Overlap(overlap),
        catch_up=CatchUp(catch_up),
        catch_up_limit=catch_up_limit,
    )
    columns = dict(zip(PROGRESS, progress, strict=True))
    allowed = json.loads(columns["allowed_privileges"])
    columns["allowed_privileges"] = None if allowed is None else frozenset(allowed)
    columns["paused"] = bool(columns["paused"])
    return StoredSchedule(schedule, ScheduleProgress(**columns))


def _not_found(schedule_id: str) -> NotFound:
    return NotFound(f"no schedule {schedule_id!r}", field="schedule_id")
