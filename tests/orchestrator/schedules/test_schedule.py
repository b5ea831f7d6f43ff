"""The due times of a schedule, and which of the past ones start a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mesh.errors import InvalidArgument
from services.orchestrator.engine.request_checks import MAX_RUN_ID_CHARS
from services.orchestrator.schedules.cron import cron
from services.orchestrator.schedules.schedule import (
    END_OF_TIME_MS,
    MAX_ID_CHARS,
    MAX_INTERVAL_MS,
    ON_TIME_MS,
    CatchUp,
    Interval,
    Schedule,
    check,
    run_id,
)

MINUTE, HOUR = 60_000, 3_600_000
NOON_MS = 1_767_268_800_000  # 2026-01-01T12:00:00Z
HOURLY = Schedule(
    id="hourly", workflow_id="report", input={}, timing=Interval(HOUR), start_ms=NOON_MS
)


def catching_up(policy: CatchUp, limit: int = 100) -> Schedule:
    return replace(HOURLY, catch_up=policy, catch_up_limit=limit)


def all_started(schedule: Schedule, first_ms: int, now_ms: int) -> list[float]:
    """Returns all due times that start a run, in hours after noon."""
    found = []
    while (due := schedule.due_to_start(first_ms, now_ms)) is not None:
        found.append((due - NOON_MS) / HOUR)
        next_due = schedule.next_due(due)
        if next_due is None:
            break
        first_ms = next_due
    return found


def test_intervals_begin_at_the_start_and_do_not_drift() -> None:
    assert HOURLY.next_due(NOON_MS - 1) == NOON_MS
    assert HOURLY.next_due(NOON_MS) == NOON_MS + HOUR
    assert HOURLY.next_due(NOON_MS + 1) == NOON_MS + HOUR
    assert HOURLY.next_due(NOON_MS + 10**6 * HOUR + 7) == NOON_MS + (10**6 + 1) * HOUR


def test_no_time_before_the_start_or_after_the_end_is_due() -> None:
    bounded = replace(HOURLY, end_ms=NOON_MS + HOUR)
    by_cron = replace(bounded, timing=cron("0 * * * *", "UTC"))

    for schedule in (bounded, by_cron):
        assert schedule.next_due(0) == NOON_MS
        assert schedule.next_due(NOON_MS) == NOON_MS + HOUR
        assert schedule.next_due(NOON_MS + HOUR) is None


@pytest.mark.parametrize(
    ("policy", "limit", "started"),
    [
        (CatchUp.NONE, 100, []),
        (CatchUp.LATEST, 100, [5]),
        (CatchUp.ALL, 100, [0, 1, 2, 3, 4, 5]),
        (CatchUp.ALL, 2, [4, 5]),
    ],
)
def test_catch_up_policy_decides_after_an_outage(
    policy: CatchUp, limit: int, started: list[float]
) -> None:
    assert (
        all_started(catching_up(policy, limit), NOON_MS, NOON_MS + 5 * HOUR + 30 * MINUTE)
        == started
    )


@pytest.mark.parametrize("policy", CatchUp)
def test_recent_due_times_start_under_every_policy(policy: CatchUp) -> None:
    seconds = replace(catching_up(policy, 1), timing=Interval(1000))

    assert len(all_started(seconds, NOON_MS, NOON_MS + 5_500)) == 6
    assert all_started(seconds, NOON_MS, NOON_MS + 3_600_000)[-1] == 1


def test_future_due_time_starts_no_run() -> None:
    assert HOURLY.due_to_start(NOON_MS, NOON_MS - 1) is None
    assert HOURLY.due_to_start(NOON_MS, NOON_MS) == NOON_MS


def test_years_of_due_times_are_not_listed_one_by_one() -> None:
    seconds = replace(catching_up(CatchUp.ALL, 3), timing=Interval(1000))
    minutes = replace(seconds, timing=cron("* * * * *", "Europe/Berlin"))
    later = NOON_MS + 20 * 365 * 24 * HOUR

    assert seconds.due_to_start(NOON_MS, later) == later - ON_TIME_MS  # besides the newest three
    assert minutes.due_to_start(NOON_MS, later) == later - 2 * MINUTE


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("schedule_id", {"id": ""}),
        ("schedule_id", {"id": "Nightly"}),
        ("schedule_id", {"id": "a-b"}),
        ("schedule_id", {"id": "a\n"}),
        ("schedule_id", {"id": "a" * (MAX_ID_CHARS + 1)}),
        ("input", {"input": {"text": "x" * 65_536}}),
        ("interval", {"timing": Interval(999)}),
        ("interval", {"timing": Interval(0)}),
        ("interval", {"timing": Interval(-1000)}),
        ("interval", {"timing": Interval(MAX_INTERVAL_MS + 1)}),
        ("start_time", {"start_ms": 0}),
        ("start_time", {"start_ms": END_OF_TIME_MS + 1}),
        ("end_time", {"end_ms": NOON_MS - 1}),
        ("end_time", {"end_ms": END_OF_TIME_MS + 1}),
        ("catch_up_limit", {"catch_up_limit": -1}),
        ("catch_up_limit", {"catch_up_limit": 101}),
    ],
)
def test_out_of_bounds_field_is_refused_by_name(field: str, changes: dict[str, Any]) -> None:
    check(HOURLY)

    with pytest.raises(InvalidArgument) as caught:
        check(replace(HOURLY, **changes))

    assert caught.value.field == field


def test_longest_run_id_of_a_schedule_fits() -> None:
    assert run_id("hourly", NOON_MS + 7) == "hourly-20260101T120000.007Z"
    assert len(run_id("a" * MAX_ID_CHARS, END_OF_TIME_MS)) <= MAX_RUN_ID_CHARS
