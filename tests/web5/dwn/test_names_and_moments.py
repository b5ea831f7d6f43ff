"""The normal forms of URLs and timestamps, which nodes compare as text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.web5.dwn import timestamp, url
from services.web5.dwn.errors import DwnError


@pytest.mark.parametrize(
    "text",
    [
        "http://a.example",
        "https://a.example/Path/%7e",
        "https://a.example:8443/p",
        "http://192.0.2.1/p",
        "http://a_b.example//p",
        "urn:example:p",
        "did:web:a.example",
    ],
)
def test_normalized_url_is_accepted(text: str) -> None:
    assert url.is_normalized(text)


@pytest.mark.parametrize(
    "text",
    [
        "a.example/p",
        "HTTP://a.example",
        "http://A.example",
        "http://a.example/",
        "http://a.example/p/",
        "http://a.example/p?q",
        "http://a.example/p#f",
        "http://a.example:80/p",
        "https://a.example:443",
        "http://a.example:080",
        "http://a.example:99999",
        "http://a.example/a/../b",
        "http://a.example/%2E%2e/b",
        "http://a.example/.",
        "http://a.example/a b",
        "http://a.example/é",
        "http://é.example",
        "http://a.example/a\\b",
        "http://user@a.example",
        "http://1.2.3",
        "http://0x7f.1",
        "http:a",
        "http://a.example\n",
        "",
    ],
)
def test_url_that_is_not_normalized_is_refused(text: str) -> None:
    assert not url.is_normalized(text)


def test_timestamp_has_six_decimals_and_is_read_back() -> None:
    moment = datetime(2026, 1, 31, 12, 0, 0, 7, tzinfo=UTC)

    text = timestamp.write(moment)

    assert text == "2026-01-31T12:00:00.000007Z"
    assert timestamp.read(text) == moment


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T12:00:00Z",
        "2026-01-31T12:00:00.000Z",
        "2026-01-31T12:00:00.0000000Z",
        "2026-01-31T12:00:00.000000+00:00",
        "2026-01-31T12:00:00.000000Z\n",
        "2026-02-30T12:00:00.000000Z",
        "2026-13-01T12:00:00.000000Z",
        "2026-01-31T24:00:00.000000Z",
        "2026-02-30T23:59:60.000000Z",
        "٢026-01-31T12:00:00.000000Z",
    ],
)
def test_invalid_timestamp_is_refused(text: str) -> None:
    with pytest.raises(DwnError, match="Invalid timestamp"):
        timestamp.read(text)


def test_leap_second_is_the_start_of_the_next_minute() -> None:
    assert timestamp.read("2016-12-31T23:59:60.500000Z") == datetime(
        2017, 1, 1, microsecond=500_000, tzinfo=UTC
    )


def test_message_timestamp_may_be_at_most_five_minutes_ahead() -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)

    timestamp.check_message(timestamp.write(now + timedelta(minutes=5)), now)
    with pytest.raises(DwnError) as refusal:
        timestamp.check_message(timestamp.write(now + timedelta(minutes=5, microseconds=1)), now)

    assert refusal.value.detail.startswith("MessageTimestampInFuture: ")
