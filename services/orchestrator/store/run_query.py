"""Lists runs. The cost of a page depends neither on the number of runs nor on how many match.

Status, workflow and end time have an index. Every other condition is evaluated during a scan of one
of these indexes, over a bounded number of runs for each page. The caller that started a run has no
index: few callers start most runs, so that the scan finds them, and an index would cost every run
for a rare query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from services.orchestrator.engine.model import RunStatus

if TYPE_CHECKING:
    from mesh.data.database import Database, Row, Transaction, Value

COLUMNS = (
    "id, workflow_id, definition_hash, traceparent, status, reason, epoch, created_us, updated_us,"
    " started_by, finished_us"
)
MAX_SCANNED = 2000  # runs that are examined for one page
END_OF_TIME_US = 2**62

# Runs that ended so need an operator.
NEED_ATTENTION = (RunStatus.COMPENSATION_FAILED, RunStatus.NEEDS_ATTENTION)

Position: TypeAlias = "tuple[int, str]"  # the end of a page: a time in microseconds, and an id


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
    started_by: str
    finished_us: int | None


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The times from ``start_us`` on and before ``end_us``, in Unix microseconds."""

    start_us: int = 0
    end_us: int = END_OF_TIME_US


ALWAYS = TimeRange()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """The conditions that a listed run meets; an empty field is no condition."""

    statuses: tuple[str, ...] = ()
    workflow_id: str = ""
    started_by: str = ""
    created: TimeRange = ALWAYS
    finished: TimeRange | None = None  # if given, runs are listed by their end time


@dataclass(frozen=True, slots=True)
class RunPage:
    """A page of a list of runs."""

    rows: tuple[RunRow, ...]
    end: Position | None  # the next page begins after it; None: this page is the last


class RunQuery:
    """Lists the runs of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, wanted: RunFilter, *, limit: int, after: Position | None = None
    ) -> RunPage:
        """Returns at most ``limit`` runs after ``after``, latest start (or end) first."""
        scan = _Scan.of(wanted, after, limit)

        async def work(tx: Transaction) -> RunPage:
            found = await tx.fetch(scan.select(COLUMNS, scan.examined), *scan.values, limit + 1)
            rows = tuple(RunRow(*row) for row in found[:limit])
            if len(found) > limit:
                return RunPage(rows, scan.position(rows[-1]))
            return RunPage(rows, await self._end(tx, scan) if scan.examined else None)

        return await self._database.read(work)

    async def count_unfinished(self, started_by: str, most: int) -> int:
        """Returns how many runs of a client have not ended, ``most`` if there are more."""

        async def work(tx: Transaction) -> int:
            row = await tx.fetch_one(
                "SELECT count(*) FROM (SELECT 1 FROM run"
                " WHERE started_by = ? AND finished_us IS NULL LIMIT ?) AS unfinished",
                started_by,
                most,
            )
            return 0 if row is None else int(row[0])

        return await self._database.read(work)

    @staticmethod
    async def _end(tx: Transaction, scan: _Scan) -> Position | None:
        """Returns the last run that a full scan examined, or None if no run is left."""
        last = f"LIMIT 1 OFFSET {scan.size - 1}"
        row = await tx.fetch_one(scan.select(f"{scan.order}, id", "", last), *scan.bounds)
        return None if row is None else (int(row[0]), str(row[1]))


@dataclass(frozen=True, slots=True)
class _Scan:
    """A bounded scan of an index, in one or several ranges, and the conditions it evaluates."""

    order: str
    branches: tuple[tuple[str, str], ...]  # the leading column of the index, and its values
    span: TimeRange
    after: Position
    size: int  # runs at most
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
        if wanted.started_by:
            conditions.append(("started_by = ?", (wanted.started_by,)))
        if by_end and wanted.created != ALWAYS:
            bounds = wanted.created.start_us, wanted.created.end_us
            conditions.append(("created_us >= ? AND created_us < ?", bounds))
        span = wanted.finished or wanted.created
        return cls(
            order="finished_us" if by_end else "created_us",
            branches=branches,
            span=span,
            after=after or (span.end_us, ""),
            size=MAX_SCANNED if conditions else limit + 1,
            conditions=tuple(conditions),
        )

    @property
    def examined(self) -> str:
        """The WHERE clause of the conditions; empty without any."""
        conditions = " AND ".join(condition for condition, _ in self.conditions)
        return f"WHERE {conditions}" if conditions else ""

    @property
    def bounds(self) -> list[Value]:
        """The arguments that bound the scan."""
        bounds: list[Value] = [self.span.start_us, *self.after, self.size]
        values = [value for _, equal in self.branches for value in (equal, *bounds)]
        return [*(values or bounds), *([self.size] if len(self.branches) > 1 else [])]

    @property
    def values(self) -> list[Value]:
        """The arguments of the scan and of its conditions."""
        return [*self.bounds, *(value for _, values in self.conditions for value in values)]

    def select(self, columns: str, where_clause: str, limit: str = "LIMIT ?") -> str:
        """Returns the query for ``columns`` of the scanned runs that meet ``where_clause``."""
        down = f"ORDER BY {self.order} DESC, id DESC"
        where = f"{self.order} >= ? AND ({self.order}, id) < (?, ?) {down} LIMIT ?"
        ranges = [
            f"SELECT {COLUMNS} FROM run WHERE {column} = ? AND {where}"  # noqa: S608
            for column, _ in self.branches
        ] or [f"SELECT {COLUMNS} FROM run WHERE {where}"]  # noqa: S608
        scanned = ranges[0]
        if len(ranges) > 1:
            parts = [f"SELECT * FROM ({one}) AS part{at}" for at, one in enumerate(ranges)]  # noqa: S608
            scanned = f"{' UNION ALL '.join(parts)} {down} LIMIT ?"
        return f"SELECT {columns} FROM ({scanned}) AS scanned {where_clause} {down} {limit}"  # noqa: S608

    def position(self, row: RunRow) -> Position:
        """Returns the position of a run in the order of this scan."""
        return (row.created_us if self.order == "created_us" else row.finished_us or 0), row.id


async def ended_long_ago(tx: Transaction, days: float, *, after: Position, limit: int) -> list[Row]:
    """Returns id, end time, status and sequence of runs that ended more than ``days`` ago.

    Only runs after ``after`` are returned, earliest end first.
    """
    until_us = await tx.now_ms() * 1000 - int(days * 86_400_000_000)
    return await tx.fetch(
        "SELECT id, finished_us, status, sequence FROM run WHERE finished_us >= ?"
        " AND (finished_us, id) > (?, ?) AND finished_us < ? ORDER BY finished_us, id LIMIT ?",
        after[0],
        *after,
        until_us,
        limit,
    )
