"""Lists of runs on the command line: times, filters and the summary."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from cli.errors import CommandError
from cli.run_list import Found, read_time, summary, wanted

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T10:00:00Z", datetime(2026, 11, 1, 10, tzinfo=UTC)),
        ("2026-11-01T10:00:00+02:00", datetime(2026, 11, 1, 8, tzinfo=UTC)),
    ],
)
def test_time_is_a_day_a_moment_or_an_age(text: str, meant: datetime) -> None:
    assert read_time(text, NOW) == meant


@pytest.mark.parametrize("text", ["yesterday", "7", "-2h", "2026-13-01"])
def test_malformed_time_is_a_usage_error(text: str) -> None:
    with pytest.raises(CommandError, match="is no time: write"):
        read_time(text, NOW)


def test_options_become_the_filters_of_the_request() -> None:
    request = wanted(
        statuses=["failed", "refused"],
        creator="spiffe://one",
        needs_attention=True,
        times={"create_time_from": "2026-11-01", "create_time_before": "", "end_time_from": ""},
    )

    assert list(request.statuses) == [pb.RUN_STATUS_FAILED, pb.RUN_STATUS_REFUSED]
    assert request.create_time_from.ToDatetime(UTC) == datetime(2026, 11, 1, tzinfo=UTC)
    assert not request.HasField("create_time_before")
    assert not request.HasField("end_time_from")
    assert (request.creator, request.needs_attention) == ("spiffe://one", True)


def test_summary_counts_by_status_and_mentions_further_runs() -> None:
    runs = [
        pb.Run(status=status)
        for status in (pb.RUN_STATUS_FAILED, pb.RUN_STATUS_SUCCEEDED, pb.RUN_STATUS_SUCCEEDED)
    ]

    assert summary(Found(runs, more=False)) == "3 runs: 2 succeeded, 1 failed"
    assert summary(Found(runs[:1], more=True)) == (
        "1 run: 1 failed; there are more behind them: --limit"
    )
    assert summary(Found([], more=False)) == "0 runs"
