"""ListRuns: reads the filter of a request and formats the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.errors import InvalidArgument
from mesh.rpc import paging
from services.orchestrator.servicers import views
from services.orchestrator.store.run_query import (
    ALWAYS,
    END_OF_TIME_US,
    NEED_ATTENTION,
    RunFilter,
    TimeRange,
)

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from services.orchestrator.store.run_query import RunQuery

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 500
MAX_TIME_S = 253_402_300_800  # Unix time of the year 10000


async def list_runs(runs: RunQuery, request: pb.ListRunsRequest) -> pb.ListRunsResponse:
    """Returns one page of runs. Raises InvalidArgument, with the field, for an invalid request."""
    limit = paging.page_size(request.page_size, default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
    run_filter = _filter(request)
    query = f"runs {run_filter!r}"
    position = paging.read_token(request.page_token, query, int, str)
    after = (position[0], position[1]) if position else None
    page = await runs.page(run_filter, limit=limit, after=after)
    return pb.ListRunsResponse(
        runs=[views.format_row(row) for row in page.rows],
        next_page_token=paging.make_token(query, *page.end) if page.end else "",
    )


def _filter(request: pb.ListRunsRequest) -> RunFilter:
    if unknown := set(request.statuses) - set(pb.RunStatus.values()[1:]):
        raise InvalidArgument(f"no run status {min(unknown)}", field="statuses")
    statuses = {views.status_name(status) for status in request.statuses}
    if request.needs_attention:
        attention = {status.value for status in NEED_ATTENTION}
        statuses = statuses & attention if statuses else attention
        if not statuses:
            raise InvalidArgument(
                "none of these statuses needs attention: leave statuses or needs_attention out",
                field="needs_attention",
            )
    return RunFilter(
        statuses=tuple(sorted(statuses)),
        workflow_id=request.workflow_id,
        started_by=request.creator,
        created=_span(request, "create_time") or ALWAYS,
        finished=_span(request, "end_time"),
    )


def _span(
    request: pb.ListRunsRequest, what: Literal["create_time", "end_time"]
) -> TimeRange | None:
    given = {field.name: value for field, value in request.ListFields()}
    start, end = f"{what}_from", f"{what}_before"
    if start not in given and end not in given:
        return None
    span = TimeRange(
        _time(given[start], start) if start in given else 0,
        _time(given[end], end) if end in given else END_OF_TIME_US,
    )
    if span.start_us >= span.end_us:
        raise InvalidArgument(f"{end} must be later than {start}", field=end)
    return span


def _time(given: Timestamp, name: str) -> int:
    if not 0 <= given.seconds < MAX_TIME_S:
        raise InvalidArgument(f"{name} must be a time from 1970 to 9999", field=name)
    return given.seconds * 1_000_000 + given.nanos // 1000
