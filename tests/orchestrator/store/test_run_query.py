"""Lists of runs on both databases: every filter, every page, and the cost of a page."""

from __future__ import annotations

import sqlite3
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from mesh.data.database import open_database
from services.orchestrator.store import SCHEMA, run_query
from services.orchestrator.store.run_query import RunFilter, RunQuery, RunRow, TimeRange

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.data.database import Database, Transaction

STATUSES = ("SUCCEEDED", "FAILED", "RUNNING")
WORKFLOWS = ("pay", "look")
CREATORS = ("spiffe://one", "spiffe://other")
RUNS = 60


def stored() -> list[tuple[Any, ...]]:
    """Returns rows of runs of every status, workflow and creator; several share their times."""
    found = []
    for n in range(RUNS):
        status = STATUSES[n % 3]
        created = 1000 + n // 2
        ended = None if status == "RUNNING" else 2000 + (n * 7) % RUNS
        run = (f"run-{n:03}", WORKFLOWS[n % 2], "hash", CREATORS[n // 7 % 2], "", status, "", 1)
        found.append((*run, "", 0, 0, created, created, ended))
    return found


async def fill(database: Database) -> None:
    async def work(tx: Transaction) -> None:
        await tx.execute("INSERT INTO definition VALUES ('hash', 'pay', 'Pay', '{}', 1, 1, '')")
        await tx.execute_many(
            "INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", stored()
        )

    await database.write(work)


def expected(wanted: RunFilter) -> list[str]:
    def matches(run: tuple[Any, ...]) -> bool:
        _, workflow_id, _, started_by, _, status, *_, created, _, ended = run
        spans = [(wanted.created, created)]
        if wanted.finished is not None:
            spans.append((wanted.finished, -1 if ended is None else ended))
        return (
            (not wanted.statuses or status in wanted.statuses)
            and wanted.workflow_id in ("", workflow_id)
            and wanted.started_by in ("", started_by)
            and all(span.start_us <= at < span.end_us for span, at in spans)
        )

    key = 13 if wanted.finished is not None else 11
    found = sorted((run for run in stored() if matches(run)), key=lambda r: (r[key], r[0]))
    return [run[0] for run in reversed(found)]


async def every_page(lists: RunQuery, wanted: RunFilter, limit: int) -> list[RunRow]:
    found: list[RunRow] = []
    after = None
    for _ in range(10 * RUNS):
        page = await lists.page(wanted, limit=limit, after=after)
        assert len(page.rows) <= limit
        found += page.rows
        if page.end is None:
            return found
        after = page.end
    raise AssertionError("the pages have no end")


FILTERS = [
    RunFilter(
        statuses=statuses,
        workflow_id=workflow,
        started_by=started_by,
        created=created,
        finished=ended,
    )
    for statuses, workflow, started_by, created, ended in product(
        [(), ("FAILED",), ("FAILED", "SUCCEEDED"), ("CANCELLED",)],
        ["", "pay"],
        ["", "spiffe://other"],
        [run_query.ALWAYS, TimeRange(1005, 1017)],
        [None, TimeRange(2000, 2031)],
    )
]


@pytest.mark.parametrize("scanned", [3, 2000])
@pytest.mark.parametrize("limit", [1, 7, 500])
async def test_pages_hold_each_matching_run_once_in_order(
    location: str, limit: int, scanned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_query, "MAX_SCANNED", scanned)
    async with open_database(location, schema=SCHEMA) as database:
        await fill(database)
        lists = RunQuery(database)

        for wanted in FILTERS:
            found = await every_page(lists, wanted, limit)

            assert [row.id for row in found] == expected(wanted), wanted


async def test_page_without_a_match_says_where_its_scan_ended(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_query, "MAX_SCANNED", 10)
    async with open_database(location, schema=SCHEMA) as database:
        await fill(database)

        page = await RunQuery(database).page(RunFilter(started_by="spiffe://unknown"), limit=5)

    assert page.rows == ()
    assert page.end == (1025, "run-050")


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
async def test_page_scans_an_index_and_sorts_no_more_than_its_limit(
    tmp_path: Path, wanted: RunFilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, tuple[Any, ...]]] = []
    async with open_database(tmp_path / "runs.db", schema=SCHEMA) as database:
        await fill(database)
        read = database.read

        async def note(work: Any) -> Any:
            async def noted(tx: Transaction) -> Any:
                fetch = tx.fetch

                async def see(sql: str, *args: Any) -> Any:
                    asked.append((sql, args))
                    return await fetch(sql, *args)

                monkeypatch.setattr(tx, "fetch", see)
                return await work(tx)

            return await read(noted)

        monkeypatch.setattr(database, "read", note)
        await RunQuery(database).page(wanted, limit=5)

    ((sql, args),) = asked
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        plan = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", args)]
    looks = [step for step in plan if " run " in f"{step} "]
    assert looks
    assert all("USING INDEX run_by_" in step and step.startswith("SEARCH") for step in looks), plan
