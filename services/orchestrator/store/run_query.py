"""Lists of runs. A page costs the same however many runs there are, and however few of them match.

Three things to list by have an index: status, workflow, and the end. What else is asked of a run is
judged on the way along one of these, a bounded stretch for each page. Who started it has none: few
start many, so that the stretch finds them, and an index would cost every run for a rare question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from services.orchestrator.engine.model import RunStatus

if TYPE_CHECKING:
    from mesh.data.database import Database, Row, Transaction, Value

COLUMNS = (
    "id, workflow_id, definition_hash, traceparent, status, reason, epoch, created_us, updated_us,"
    " starter, finished_us"
)
MAX_SCANNED = 2000  # runs that are judged for one page
END_OF_TIME = 2**62  # microseconds

# Ends that somebody has to look at.
NEED_ATTENTION = (RunStatus.COMPENSATION_FAILED, RunStatus.NEEDS_ATTENTION)

Position: TypeAlias = "tuple[int, str]"  # where a page ended: a time in microseconds, and an id


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run without its records."""

    id: str
    workflow_id: str
    definition_hash: str
    traceparent: str
    status: str
    reason: str
    epoch: int
    created_us: int
    updated_us: int
    starter: str
    finished_us: int | None


@dataclass(frozen=True, slots=True)
class TimeRange:
    """From a time on until before another, in Unix microseconds."""

    start_us: int = 0
    end_us: int = END_OF_TIME


ALWAYS = TimeRange()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs to list; what is empty asks for nothing."""

    statuses: tuple[str, ...] = ()
    workflow_id: str = ""
    starter: str = ""
    created: TimeRange = ALWAYS
    finished: TimeRange | None = None  # one lists by the end of runs, not by their beginning


@dataclass(frozen=True, slots=True)
class RunPage:
    rows: tuple[RunRow, ...]
    end: Position | None  # where the next one goes on; None if there is nothing behind


class RunQuery:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, wanted: RunFilter, *, limit: int, after: Position | None = None
    ) -> RunPage:
        """At most ``limit`` runs from behind ``after``: the newest, or those that ended last."""
        walk = _Scan.of(wanted, after, limit)

        async def work(tx: Transaction) -> RunPage:
            found = await tx.fetch(walk.select(COLUMNS, walk.judged), *walk.values, limit + 1)
            rows = tuple(RunRow(*row) for row in found[:limit])
            if len(found) > limit:
                return RunPage(rows, walk.position(rows[-1]))
            return RunPage(rows, await self._end(tx, walk) if walk.judged else None)

        return await self._database.read(work)

    @staticmethod
    async def _end(tx: Transaction, walk: _Scan) -> Position | None:
        """Of a stretch with something behind it."""
        last = f"LIMIT 1 OFFSET {walk.stretch - 1}"
        row = await tx.fetch_one(walk.select(f"{walk.order}, id", "", last), *walk.along)
        return None if row is None else (int(row[0]), str(row[1]))


@dataclass(frozen=True, slots=True)
class _Scan:
    """Along an index, or the same one in several places, and what is judged on the way."""

    order: str
    branches: tuple[tuple[str, str], ...]  # column and value that an index begins with
    span: TimeRange
    after: Position
    stretch: int
    conditions: tuple[tuple[str, tuple[Value, ...]], ...]

    @classmethod
    def of(cls, wanted: RunFilter, after: Position | None, limit: int) -> _Scan:
        by_end = wanted.finished is not None
        conditions: list[tuple[str, tuple[Value, ...]]] = []
        branches: tuple[tuple[str, str], ...] = ()
        if wanted.statuses and not by_end:
            branches = tuple(("status", status) for status in wanted.statuses)
        elif wanted.statuses:
            marks = ", ".join("?" * len(wanted.statuses))
            conditions.append((f"status IN ({marks})", wanted.statuses))
        if wanted.workflow_id and not by_end and not branches:
            branches = (("workflow_id", wanted.workflow_id),)
        elif wanted.workflow_id:
            conditions.append(("workflow_id = ?", (wanted.workflow_id,)))
        if wanted.starter:
            conditions.append(("starter = ?", (wanted.starter,)))
        if by_end and wanted.created != ALWAYS:
            bounds = wanted.created.start_us, wanted.created.end_us
            conditions.append(("created_us >= ? AND created_us < ?", bounds))
        span = wanted.finished or wanted.created
        return cls(
            order="finished_us" if by_end else "created_us",
            branches=branches,
            span=span,
            after=after or (span.end_us, ""),
            stretch=MAX_SCANNED if conditions else limit + 1,
            conditions=tuple(conditions),
        )

    @property
    def judged(self) -> str:
        told = " AND ".join(condition for condition, _ in self.conditions)
        return f"WHERE {told}" if told else ""

    @property
    def along(self) -> list[Value]:
        """The values of the stretch."""
        bounds: list[Value] = [self.span.start_us, *self.after, self.stretch]
        values = [value for _, equal in self.branches for value in (equal, *bounds)]
        return [*(values or bounds), *([self.stretch] if len(self.branches) > 1 else [])]

    @property
    def values(self) -> list[Value]:
        return [*self.along, *(value for _, values in self.conditions for value in values)]

    def select(self, columns: str, judged: str, limit: str = "LIMIT ?") -> str:
        down = f"ORDER BY {self.order} DESC, id DESC"
        where = f"{self.order} >= ? AND ({self.order}, id) < (?, ?) {down} LIMIT ?"
        stretches = [
            f"SELECT {COLUMNS} FROM run WHERE {column} = ? AND {where}"  # noqa: S608
            for column, _ in self.branches
        ] or [f"SELECT {COLUMNS} FROM run WHERE {where}"]  # noqa: S608
        stretch = stretches[0]
        if len(stretches) > 1:
            parts = [f"SELECT * FROM ({one}) AS part{at}" for at, one in enumerate(stretches)]  # noqa: S608
            stretch = f"{' UNION ALL '.join(parts)} {down} LIMIT ?"
        return f"SELECT {columns} FROM ({stretch}) AS stretch {judged} {down} {limit}"  # noqa: S608

    def position(self, row: RunRow) -> Position:
        return (row.created_us if self.order == "created_us" else row.finished_us or 0), row.id


async def ended_long_ago(tx: Transaction, days: float, *, after: Position, limit: int) -> list[Row]:
    """Id, end, status and length of runs that ended so long ago, from behind ``after``."""
    until_us = await tx.now_ms() * 1000 - int(days * 86_400_000_000)
    return await tx.fetch(
        "SELECT id, finished_us, status, sequence FROM run WHERE finished_us >= ?"
        " AND (finished_us, id) > (?, ?) AND finished_us < ? ORDER BY finished_us, id LIMIT ?",
        after[0],
        *after,
        until_us,
        limit,
    )
