"""dateTime of XML Schema: instants are exact, all other forms of ISO 8601 are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats import date_time

NEW_YEAR_2026_US = 1_767_225_600_000_000


@pytest.mark.parametrize(
    ("text", "after_us"),
    [
        ("2026-01-01T00:00:00Z", 0),
        ("2026-01-01T00:00:00.0Z", 0),
        ("2026-01-01T00:00:00.262Z", 262_000),
        ("2026-01-01T00:00:00.000001Z", 1),
        ("2026-01-01T00:00:00.000001999Z", 1),
        ("2026-01-01T00:00:00.25+00:00", 250_000),
        ("2026-01-01T01:00:00+01:00", 0),
        ("2025-12-31T20:30:00-03:30", 0),
        ("2026-01-01T14:00:00+14:00", 0),
        ("2025-12-31T24:00:00Z", 0),
        ("2025-12-31T24:00:00.00Z", 0),
    ],
)
def test_date_time_is_an_instant(text: str, after_us: int) -> None:
    assert date_time.parse(text) == NEW_YEAR_2026_US + after_us


@given(
    st.datetimes(
        min_value=datetime(1, 1, 3),
        max_value=datetime(9999, 12, 29),
        timezones=st.integers(-14 * 60, 14 * 60).map(
            lambda minutes: timezone(timedelta(minutes=minutes))
        ),
    )
)
def test_every_moment_of_python_is_read_exactly(moment: datetime) -> None:
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)

    assert date_time.parse(moment.isoformat()) == since // timedelta(microseconds=1)


@pytest.mark.parametrize(
    "text",
    [
        "2026-W01-4T00:00:00Z",
        "2026-W01T00:00:00Z",
        "2026W014T000000Z",
        "2026-001T00:00:00Z",
        "20260101T000000Z",
        "2026-01-01",
        "2026-01-01T00:00Z",
        "2026-01-01T00Z",
        "2026-01-01 00:00:00Z",
        "2026-01-01t00:00:00z",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00,5Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00+0100",
        "2026-01-01T00:00:00+01",
        "2026-01-01T00:00:00+01:00:01",
        "2026-01-01T00:00:00+14:01",
        "2026-01-01T00:00:00+01:60",
        "2026-01-01T00:00:60Z",
        "2026-01-01T00:60:00Z",
        "2026-01-01T25:00:00Z",
        "2026-01-01T24:00:01Z",
        "2026-01-01T24:00:00.1Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "-0001-01-01T00:00:00Z",
        "12026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z ",
        "2026-01-01T00:00:00Z\n",
        "٢٠٢٦-01-01T00:00:00Z",
        "",
    ],
)
def test_other_forms_of_a_date_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        date_time.parse(text)
