"""Schedules of real processes: killed between due time and start, and polling at once."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import pytest

from anya.orchestrator.v1 import schedule_pb2 as pb
from anya.orchestrator.v1 import workflow_pb2
from anya.orchestrator.v1.schedule_pb2_grpc import ScheduleServiceStub
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from mesh.testing import eventually
from services.orchestrator.schedules.schedule import run_id
from tests.orchestrator.conftest import dial
from tests.orchestrator.payment_requests import finished, status
from tests.orchestrator.processes import environment_of, process
from tests.orchestrator.schedules.schedule_replica import REPORT

if TYPE_CHECKING:
    from pathlib import Path

    from anya.orchestrator.v1.schedule_pb2_grpc import ScheduleServiceAsyncStub
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority

CALL_TIMEOUT_S = 10
SOON_MS = 2_000  # enough to create a schedule before it is due


async def schedule(
    workflows: WorkflowServiceAsyncStub,
    schedules: ScheduleServiceAsyncStub,
    id: str,
    *,
    interval_ms: int,
    start_ms: int = 0,
    end_ms: int = 0,
) -> None:
    """Creates a schedule of REPORT."""
    registered = workflow_pb2.RegisterWorkflowRequest(definition=REPORT)
    await workflows.RegisterWorkflow(registered, timeout=CALL_TIMEOUT_S)
    request = pb.CreateScheduleRequest(request_id=id, schedule_id=id, workflow_id="report")
    request.interval.FromMilliseconds(interval_ms)
    request.input.update({"to": "Ada"})
    request.overlap = pb.OVERLAP_POLICY_ALLOW
    request.catch_up = pb.CATCH_UP_POLICY_ALL
    if start_ms:
        request.start_time.FromMilliseconds(start_ms)
    if end_ms:
        request.end_time.FromMilliseconds(end_ms)
    await schedules.CreateSchedule(request, timeout=CALL_TIMEOUT_S)


async def get(schedules: ScheduleServiceAsyncStub, id: str) -> pb.Schedule:
    request = pb.GetScheduleRequest(schedule_id=id)
    return (await schedules.GetSchedule(request, timeout=CALL_TIMEOUT_S)).schedule


async def runs(workflows: WorkflowServiceAsyncStub) -> list[str]:
    request = workflow_pb2.ListRunsRequest(workflow_id="report", page_size=500)
    return [run.run_id for run in (await workflows.ListRuns(request, timeout=CALL_TIMEOUT_S)).runs]


@pytest.mark.parametrize("moment", ["before_start", "before_outcome"])
async def test_due_time_starts_one_run_despite_a_kill(
    moment: str, location: str, authority: Authority, tmp_path: Path, peers: dict[str, str]
) -> None:
    home = {"ANYA_DATABASE": location, "ANYA_LEASE_SECONDS": "2"}
    environment = environment_of(authority, tmp_path / "home", peers) | home
    failpoint = {"ANYA_FAILPOINTS": f"schedule.{moment}/once=kill"}
    async with (
        process(environment | failpoint) as (child, port),
        dial(authority, port) as channel,
    ):
        due_ms = time.time_ns() // 1_000_000 + SOON_MS
        await schedule(
            WorkflowServiceStub(channel),
            ScheduleServiceStub(channel),
            "once",
            interval_ms=3_600_000,
            start_ms=due_ms,
            end_ms=due_ms + 1000,  # so that only one time is due
        )
        assert await child.wait() == -signal.SIGKILL
    async with process(environment) as (_, port), dial(authority, port) as channel:
        schedules, workflows = ScheduleServiceStub(channel), WorkflowServiceStub(channel)
        only = run_id("once", due_ms)

        async def is_settled() -> bool:
            return (await get(schedules, "once")).started_count == 1

        await eventually(is_settled, within=15)
        run = await finished(workflows, only)
        found = await get(schedules, "once")

        assert await runs(workflows) == [only]
    assert status(run) == "SUCCEEDED"
    assert (found.last_run_id, found.refused_count, found.last_error) == (only, 0, "")
    assert not found.HasField("next_due_time")


async def test_two_replicas_start_each_due_time_once_though_one_dies(
    authority: Authority, tmp_path: Path, peers: dict[str, str], new_postgres_database: str
) -> None:
    shared = {"ANYA_DATABASE": new_postgres_database, "ANYA_LEASE_SECONDS": "2"}
    one, other = (
        environment_of(authority, tmp_path / name, peers) | shared for name in ("one", "other")
    )
    ids = [f"s{number}" for number in range(6)]

    async with (
        process(one) as (doomed, port),
        process(other) as (_, other_port),
        dial(authority, port) as channel,
        dial(authority, other_port) as other_channel,
    ):
        first = WorkflowServiceStub(channel), ScheduleServiceStub(channel)
        workflows, schedules = (
            WorkflowServiceStub(other_channel),
            ScheduleServiceStub(other_channel),
        )
        for id in ids:
            await schedule(*first, id, interval_ms=1000)

        async def each_started(count: int) -> bool:
            found = await asyncio.gather(*(get(schedules, id) for id in ids))
            return all(one.started_count >= count for one in found)

        await eventually(lambda: each_started(2), within=20)
        doomed.kill()
        before = min([(await get(schedules, id)).started_count for id in ids])
        await eventually(lambda: each_started(before + 4), within=20)
        for id in ids:
            pause = pb.PauseScheduleRequest(request_id=f"pause {id}", schedule_id=id)
            await schedules.PauseSchedule(pause, timeout=CALL_TIMEOUT_S)

        async def has_no_firing() -> bool:
            return len(await runs(workflows)) == await total()

        async def total() -> int:
            return sum([(await get(schedules, id)).started_count for id in ids])

        await eventually(has_no_firing, within=10)
        found = [await get(schedules, id) for id in ids]
        started = set(await runs(workflows))

    assert all(schedule.refused_count == schedule.skipped_count == 0 for schedule in found)
    for each in found:  # no due time between the first and the last is missing
        created, last = each.start_time.ToMilliseconds(), each.last_due_time.ToMilliseconds()
        due = {run_id(each.schedule_id, at) for at in range(created + 1000, last + 1, 1000)}
        assert len(due) == each.started_count
        assert due <= started
