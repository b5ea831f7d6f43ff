"""The store of schedules: who starts a run for which due time is settled here, once.

A due time goes through two commits: one decides about it and moves the schedule on to the next, one
says what became of the run. Between them the run is started under an id that everybody derives
alike, so that whoever finds the second commit missing starts the same run again.
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

AT_ONCE = 64  # schedules that one commit decides about
PATIENCE = 2_000  # ms until others start a run that was to be started
MAX_ERROR = 500  # characters

ASKED = (
    "id, workflow_id, input, interval_ms, cron, zone, start_ms, end_ms, overlap, catch_up,"
    " catch_up_limit"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleProgress:
    """What became of a schedule so far. Times are Unix milliseconds."""

    creator: str  # SPIFFE ID
    ceiling: frozenset[str] | None = None  # privileges that its runs may use; None: all
    created_ms: int
    paused: bool = False
    next_ms: int | None = None
    firing_ms: int | None = None
    retry_ms: int | None = None
    last_run: str = ""
    last_ms: int | None = None
    started: int = 0
    skipped: int = 0
    refused: int = 0
    error: str = ""
    error_ms: int | None = None

    @property
    def wake_ms(self) -> int | None:
        return self.next_ms if self.firing_ms is None else self.retry_ms


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    schedule: Schedule
    progress: ScheduleProgress


@dataclass(frozen=True, slots=True)
class Firing:
    """A due time that a run is to be started for."""

    schedule: Schedule
    creator: str
    ceiling: frozenset[str] | None
    due_ms: int

    @property
    def run_id(self) -> str:
        return run_id(self.schedule.id, self.due_ms)


PROGRESS = tuple(field.name for field in fields(ScheduleProgress))
COLUMNS = f"{ASKED}, {', '.join(PROGRESS)}"


async def database_clock(tx: Transaction) -> int:
    return await tx.now_ms()


class ScheduleStore:
    """``now_ms`` is the clock that due times are judged by: the database's, of all processes."""

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
        ceiling: frozenset[str] | None = None,
    ) -> bytes:
        """Keep what ``make`` makes of the newest definition and the present time, once per ``key``.

        NotFound for an unknown workflow, AlreadyExists if the id is taken, and what ``make``
        refuses.
        """

        async def work(tx: Transaction) -> bytes:
            async def effect() -> bytes:
                now = await self._now_ms(tx)
                schedule = make(await find_definition(tx, workflow_id), now)
                progress = ScheduleProgress(
                    creator=key.caller,
                    ceiling=ceiling,
                    created_ms=now,
                    next_ms=schedule.following(now),
                )
                await _insert(tx, stored := StoredSchedule(schedule, progress))
                return reply(stored)

            return await idempotency.run_once(tx, key, effect)

        return await self._database.write(work)

    async def find(self, schedule_id: str) -> StoredSchedule:
        """NotFound."""

        async def work(tx: Transaction) -> StoredSchedule:
            return await _find(tx, schedule_id)

        return await self._database.read(work)

    async def page(self, *, after: str, limit: int) -> list[StoredSchedule]:
        """By id, from behind ``after``."""

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
        """Pause it, or go on with the first due time from now on. NotFound."""

        async def work(tx: Transaction) -> bytes:
            async def effect() -> bytes:
                found = await _find(tx, schedule_id)
                progress = found.progress
                if progress.paused != paused:
                    now = await self._now_ms(tx)
                    following = None if paused else found.schedule.following(now)
                    progress = replace(progress, paused=paused, next_ms=following)
                    await _save(tx, schedule_id, progress)
                return reply(StoredSchedule(found.schedule, progress))

            return await idempotency.run_once(tx, key, effect)

        return await self._database.write(work)

    async def delete(self, key: IdempotencyKey, schedule_id: str) -> None:
        """NotFound."""

        async def work(tx: Transaction) -> bytes:
            async def effect() -> bytes:
                if not await tx.execute("DELETE FROM schedule WHERE id = ?", schedule_id):
                    raise _unknown(schedule_id)
                return b""

            return await idempotency.run_once(tx, key, effect)

        await self._database.write(work)

    async def due_in(self) -> float:
        """Seconds until there is something to do; infinite if there never will be."""

        async def work(tx: Transaction) -> float:
            row = await tx.fetch_one("SELECT MIN(wake_ms) FROM schedule WHERE wake_ms IS NOT NULL")
            if row is None or row[0] is None:
                return float("inf")
            return (int(row[0]) - await self._now_ms(tx)) / 1000

        return await self._database.read(work)

    async def claim(self) -> list[Firing]:
        """Decide about due times, at most one of each schedule: what is to be started by us now."""

        async def work(tx: Transaction) -> list[Firing]:
            now = await self._now_ms(tx)
            rows = await tx.fetch(
                f"SELECT {COLUMNS} FROM schedule WHERE wake_ms <= ?"  # noqa: S608
                " ORDER BY wake_ms, id LIMIT ?",
                now,
                AT_ONCE,
            )
            firings = []
            for found in map(_stored, rows):
                schedule = found.schedule
                progress = await _decide(tx, found, now)
                await _save(tx, schedule.id, progress)
                if progress.firing_ms is not None:
                    creator, ceiling = progress.creator, progress.ceiling
                    firings.append(Firing(schedule, creator, ceiling, progress.firing_ms))
            return firings

        return await self._database.write(work)

    async def settle(self, firing: Firing, refusal: str = "") -> None:
        """Say that its run was started, or why not; nothing if somebody has said so already."""

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
                    last_run=firing.run_id,
                    last_ms=firing.due_ms,
                    started=progress.started + 1,
                )
            await _save(tx, firing.schedule.id, progress)

        await self._database.write(work)


async def _decide(tx: Transaction, found: StoredSchedule, now: int) -> ScheduleProgress:
    """What becomes of the schedule, which has something to do now."""
    schedule, progress = found.schedule, found.progress
    if progress.firing_ms is not None:  # whoever began to start this run has not said what came
        return replace(progress, retry_ms=now + PATIENCE)
    assert progress.next_ms is not None  # noqa: S101  (it woke us)
    try:
        due = schedule.owed(progress.next_ms, now)
        following = schedule.following(now if due is None else due)
    except MeshError as error:  # this machine does not know its zone any more
        refused = _refused(progress, str(error), progress.next_ms)
        return replace(refused, paused=True, next_ms=None)
    progress = replace(progress, next_ms=following)
    if due is None:
        return progress
    if schedule.overlap is Overlap.SKIP and await _is_under_way(tx, progress.last_run):
        return replace(progress, skipped=progress.skipped + 1)
    return replace(progress, firing_ms=due, retry_ms=now + PATIENCE)


def _refused(progress: ScheduleProgress, why: str, due_ms: int) -> ScheduleProgress:
    refused = progress.refused + 1
    return replace(progress, refused=refused, error=why[:MAX_ERROR], error_ms=due_ms)


async def _is_under_way(tx: Transaction, run_id: str) -> bool:
    row = await tx.fetch_one("SELECT 1 FROM run WHERE id = ? AND finished_us IS NULL", run_id)
    return row is not None


async def _find(tx: Transaction, schedule_id: str) -> StoredSchedule:
    row = await tx.fetch_one(
        f"SELECT {COLUMNS} FROM schedule WHERE id = ?",  # noqa: S608
        schedule_id,
    )
    if row is None:
        raise _unknown(schedule_id)
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
        progress.wake_ms,
    )
    marks = ", ".join("?" * len(values))
    inserted = await tx.execute(
        f"INSERT INTO schedule ({COLUMNS}, wake_ms) VALUES ({marks}) ON CONFLICT DO NOTHING",  # noqa: S608
        *values,
    )
    if not inserted:
        raise AlreadyExists(
            f"schedule {schedule.id} exists; choose another id or delete it first",
            field="schedule_id",
        )


async def _save(tx: Transaction, schedule_id: str, progress: ScheduleProgress) -> None:
    await tx.execute(
        f"UPDATE schedule SET {', '.join(f'{name} = ?' for name in PROGRESS)}, wake_ms = ?"  # noqa: S608
        " WHERE id = ?",
        *_columns(progress),
        progress.wake_ms,
        schedule_id,
    )


def _columns(progress: ScheduleProgress) -> tuple[Any, ...]:
    ceiling = None if progress.ceiling is None else sorted(progress.ceiling)
    columns = {name: getattr(progress, name) for name in PROGRESS}
    columns |= {"paused": int(progress.paused), "ceiling": json.dumps(ceiling)}
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
    ceiling = json.loads(columns["ceiling"])
    columns["ceiling"] = None if ceiling is None else frozenset(ceiling)
    columns["paused"] = bool(columns["paused"])
    return StoredSchedule(schedule, ScheduleProgress(**columns))


def _unknown(schedule_id: str) -> NotFound:
    return NotFound(f"no schedule {schedule_id!r}", field="schedule_id")
