"""A schedule beside the payments: one run for each second, in spite of all faults."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from cli import runs, schedules
from mesh.testing import eventually
from tests.faults.payment_clients import retry_until_answered

if TYPE_CHECKING:
    from cli.connection import Channels

TICK = "tick"
WORKFLOW = '{"id": "tick", "name": "Tick", "steps": [{"id": "one", "set": {"word": "tick"}}]}'
INTERVAL_MS = 1000
DUE = re.compile(rf"{TICK}-(\d{{8}}T\d{{6}}\.\d{{3}})Z")
ENDED_WITHIN_S = 60.0


async def begin(channels: Channels) -> None:
    await retry_until_answered(lambda: runs.register(channels, WORKFLOW))
    asked = {
        "schedule_id": TICK,
        "workflow_id": TICK,
        "interval": f"{INTERVAL_MS / 1000}s",
        "overlap": "allow",
        "catch_up": "all",
    }
    await retry_until_answered(lambda: schedules.create(channels, asked, TICK))


async def end(channels: Channels) -> list[str]:
    """Pauses the schedule. Returns what is wrong with its runs."""
    await retry_until_answered(lambda: schedules.pause(channels, TICK))

    async def settled() -> bool:
        schedule = await retry_until_answered(lambda: schedules.get(channels, TICK))
        ticks = await retry_until_answered(lambda: _ticks(channels))
        return len(ticks) >= schedule.started_count and all(
            one.status in runs.ENDED for one in ticks
        )

    await eventually(settled, within=ENDED_WITHIN_S)
    schedule = await retry_until_answered(lambda: schedules.get(channels, TICK))
    return wrong_with(await retry_until_answered(lambda: _ticks(channels)), schedule.started_count)


def wrong_with(ticks: list[pb.Run], started: int) -> list[str]:
    """Returns what is wrong unless each due time has one run, which succeeded."""
    found = []
    if len(ticks) != started:
        found.append(f"the schedule started {started} runs, and {len(ticks)} are there")
    if bad := [one.run_id for one in ticks if one.status != pb.RUN_STATUS_SUCCEEDED]:
        found.append(f"these runs of the schedule did not succeed: {bad}")
    due = sorted(_due(one.run_id) for one in ticks)
    if gaps := [one for one, next_ in pairwise(due) if next_ - one != timedelta(seconds=1)]:
        found.append(f"after these times a run is missing or duplicate: {gaps}")
    return found


def _due(run_id: str) -> datetime:
    match = DUE.fullmatch(run_id)
    assert match, run_id
    return datetime.strptime(match[1], "%Y%m%dT%H%M%S.%f")


async def _ticks(channels: Channels) -> list[pb.Run]:
    request = pb.ListRunsRequest(workflow_id=TICK, page_size=500)
    found: list[pb.Run] = []
    while True:
        reply = await WorkflowServiceStub(channels["orchestrator"]).ListRuns(request)
        found += reply.runs
        if not reply.next_page_token:
            return found
        request.page_token = reply.next_page_token
