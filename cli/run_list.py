"""Runs found by what is known of them, page after page, and what they come to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from cli.errors import usage
from cli.runs import status_word
from services.orchestrator.definition.duration import EXPECTED, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.timestamp_pb2 import Timestamp

    from cli.connection import Channels

MAX_PAGE_SIZE = 500


@dataclass(frozen=True, slots=True)
class Found:
    runs: list[pb.Run]
    more: bool  # behind the last of them


def wanted(
    *,
    statuses: list[str],
    workflow_id: str = "",
    creator: str = "",
    needs_attention: bool = False,
    times: dict[str, str],
) -> pb.ListRunsRequest:
    """Returns the request; ``times`` are texts for create_time_from and its like, or ""."""
    request = pb.ListRunsRequest(
        statuses=[pb.RunStatus.Value(f"RUN_STATUS_{status.upper()}") for status in statuses],
        workflow_id=workflow_id,
        creator=creator,
        needs_attention=needs_attention,
    )
    now = datetime.now(UTC)
    for name, text in times.items():
        if text:
            moment: Timestamp = getattr(request, name)
            moment.FromDatetime(read_time(text, now))
    return request


async def find(
    channels: Channels,
    request: pb.ListRunsRequest,
    *,
    limit: int,
    say: Callable[[str], None],
) -> Found:
    """Returns at most ``limit`` runs; ``say`` gets the progress of a search over several pages."""
    stub = WorkflowServiceStub(channels["orchestrator"])
    runs: list[pb.Run] = []
    while True:
        request.page_size = min(limit - len(runs), MAX_PAGE_SIZE)
        reply = await stub.ListRuns(request)
        runs += reply.runs
        if len(runs) >= limit or not reply.next_page_token:
            return Found(runs, more=bool(reply.next_page_token))
        request.page_token = reply.next_page_token
        say(f"{len(runs)} of {limit} found; looking further back")


def summary(found: Found) -> str:
    """Returns a summary: ``"3 runs: 2 succeeded, 1 failed; more behind them: --limit"``."""
    count = len(found.runs)
    words = Counter(status_word(run.status).lower() for run in found.runs)
    counts = ", ".join(f"{number} {word}" for word, number in words.most_common())
    line = f"{count} run{'' if count == 1 else 's'}" + (f": {counts}" if counts else "")
    return f"{line}; there are more behind them: --limit" if found.more else line


def read_time(text: str, now: datetime) -> datetime:
    """Parses a time: RFC 3339, a day, or an age (``2h``, ``7d``). Raises CommandError otherwise."""
    if (ago := parse_duration(text)) is not None:
        return now - timedelta(microseconds=ago)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise usage(
            f"{text!r} is no time: write 2026-11-23, 2026-11-23T10:00:00Z, or how long ago as"
            f" {EXPECTED}"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
