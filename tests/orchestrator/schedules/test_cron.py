"""Cron in time zones: the table of the document, and every minute of days with a clock change."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from services.orchestrator.schedules.cron import Cron, cron
from tests.profile import examples

DOCUMENT = (Path(__file__).parents[3] / "docs" / "schedules.md").read_text()
ROWS = re.findall(r"^\| `(.+?)` \| ([\d:, ]+?) \| ([\d:, ]+?) \|$", DOCUMENT, re.MULTILINE)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)

# Midnights in UTC shortly before a zone changes its offset: by an hour, half an hour, a whole day.
CHANGES = [
    ("Europe/Berlin", "2026-03-28"),
    ("Europe/Berlin", "2026-10-24"),
    ("America/New_York", "2026-03-07"),
    ("America/New_York", "2026-10-31"),
    ("Australia/Lord_Howe", "2026-04-03"),
    ("Australia/Lord_Howe", "2026-10-02"),
    ("Africa/Cairo", "2026-04-22"),
    ("Africa/Cairo", "2026-10-28"),
    ("Africa/Casablanca", "2026-02-14"),
    ("Pacific/Apia", "2011-12-29"),
    ("Asia/Kathmandu", "2026-03-28"),
    ("UTC", "2026-03-28"),
]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def due(expression: str, zone: str, since: datetime, until: datetime) -> list[datetime]:
    """Returns all due times from ``since`` on and before ``until``."""
    timing = cron(expression, zone)
    found = []
    at = timing.next_due(int(since.timestamp()) * 1000 - 1)
    while at is not None and at < until.timestamp() * 1000:
        found.append(datetime.fromtimestamp(at / 1000, UTC))
        at = timing.next_due(at)
    return found


@pytest.mark.parametrize(("expression", "spring", "autumn"), ROWS)
def test_due_times_of_the_document_are_true(expression: str, spring: str, autumn: str) -> None:
    def on(day: str) -> str:
        zone = ZoneInfo("Europe/Berlin")
        midnight = datetime.fromisoformat(day).replace(tzinfo=zone)
        found = due(expression, zone.key, midnight.astimezone(UTC), _next_day(midnight))
        return ", ".join(f"{at:%H:%M}" for at in found)

    assert (on("2026-03-29"), on("2026-10-25")) == (spring, autumn)


def _next_day(midnight: datetime) -> datetime:
    return (midnight + DAY).astimezone(UTC)  # in local time


def test_document_has_all_rows() -> None:
    assert len(ROWS) == 5


FIELD = st.one_of(st.just("*"), st.integers(1, 40).map(lambda step: f"*/{step}"))
MINUTES = st.one_of(FIELD, st.lists(st.integers(0, 59), min_size=1, max_size=3).map(repr))
HOURS = st.one_of(FIELD, st.lists(st.integers(0, 23), min_size=1, max_size=4).map(repr))


@settings(max_examples=examples(60), deadline=None)
@given(st.sampled_from(CHANGES), MINUTES, HOURS)
def test_due_times_of_three_days_follow_the_rules(
    change: tuple[str, str], minutes: str, hours: str
) -> None:
    zone, day = change
    minute, hour = (re.sub(r"[\[\] ]", "", field) for field in (minutes, hours))
    expression = f"{minute} {hour} * * *"
    since, until = moment(day), moment(day) + 3 * DAY

    assert due(expression, zone, since, until) == by_rule(expression, zone, since, until)


def by_rule(expression: str, zone: str, since: datetime, until: datetime) -> list[datetime]:
    """Returns the same due times, found minute by minute by the rules of the document."""
    parsed = CronSim(expression, datetime(2000, 1, 1))
    every_hour = len(parsed.hours) == 24
    found: set[datetime] = set()
    at = since - 2 * DAY
    last_shown: datetime | None = None  # the latest local time so far
    while at < until:
        shown = at.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        named = [shown]
        if not every_hour and last_shown is not None:
            # Skipped local times are due now; a local time that occurred before is not.
            skipped = (shown - last_shown) // MINUTE
            named = [last_shown + MINUTE * number for number in range(1, skipped + 1)]
        if any(one.hour in parsed.hours and one.minute in parsed.minutes for one in named):
            found.add(at)
        last_shown = shown if last_shown is None else max(shown, last_shown)
        at += MINUTE
    return sorted(at for at in found if at >= since)


def test_repeated_hour_is_due_twice_only_if_every_hour_matches() -> None:
    since, until = moment("2026-10-24T23:59"), moment("2026-10-25T02:01")

    assert len(due("30 * * * *", "Europe/Berlin", since, until)) == 2
    assert len(due("30 2 * * *", "Europe/Berlin", since, until)) == 1


def test_next_leap_day_on_a_saturday_is_found() -> None:
    timing = cron("0 0 29 2 */6", "UTC")

    next_due = timing.next_due(int(moment("2026-01-01").timestamp()) * 1000)

    assert next_due == int(moment("2032-02-29").timestamp()) * 1000


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "must be minute, hour"),
        ("* * * *", "must be minute, hour"),
        ("0 * * * * *", "must be minute, hour"),
        ("@daily", "must be minute, hour"),
        ("60 * * * *", "Bad minute"),
        ("* 24 * * *", "Bad hour"),
        ("* * 0 * *", "Bad day-of-month"),
        ("* * * 13 *", "Bad month"),
        ("* * * * 8", "Bad day-of-week"),
        ("*/0 * * * *", "Bad minute"),
        ("5-1 * * * *", "Bad minute"),
        ("a * * * *", "Bad minute"),
        ("٣ * * * *", "Bad minute"),
        ("0 0 30 2 *", "Bad day-of-month"),
        ("* * */20 * 1L", "no day"),
        (",".join(["1"] * 60) + " * * * *", "at most 100"),
    ],
)
def test_invalid_expression_is_refused(expression: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        cron(expression, "UTC")

    assert caught.value.field == "cron.expression"


@pytest.mark.parametrize(
    "zone", ["", "Berlin", "europe/berlin", "../../etc/passwd", "localtime", "Europe", "UTC\0"]
)
def test_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        cron("* * * * *", zone)

    assert caught.value.field == "cron.zone"


@given(st.text(alphabet="0123456789*/-,#L W?MONJAN", max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        timing = cron(text, "Europe/Berlin")
    except InvalidArgument:
        return

    next_due = timing.next_due(1_767_225_600_000)

    assert isinstance(timing, Cron)
    assert next_due is None or next_due > 1_767_225_600_000
