"""Calls of ScheduleService, and the text that shows a schedule."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from anya.orchestrator.v1 import schedule_pb2 as pb
from anya.orchestrator.v1.schedule_pb2_grpc import ScheduleServiceStub
from cli.errors import usage
from cli.paging import pages
from services.orchestrator.definition import values
from services.orchestrator.definition.duration import EXPECTED, parse_duration

if TYPE_CHECKING:
    from anya.orchestrator.v1.schedule_pb2_grpc import ScheduleServiceAsyncStub
    from cli.connection import Channels


def timing(every: str, cron: str, zone: str) -> dict[str, Any]:
    """Returns the fields of CreateSchedule for an interval or a cron expression.

    Raises the usage error if both or neither are given, or the interval cannot be parsed.
    """
    if bool(every) == bool(cron):
        raise usage("give either --every or --cron")
    if cron:
        return {"cron": {"expression": cron, "zone": zone}}
    if zone:
        raise usage("--zone goes with --cron: an interval has no time zone")
    interval_us = parse_duration(every)
    if interval_us is None:
        raise usage(f"--every must be {EXPECTED}")
    return {"interval": f"{interval_us / 1_000_000:f}s"}


async def create(channels: Channels, given: dict[str, Any], request_id: str = "") -> pb.Schedule:
    """Creates a schedule. Repeating ``request_id`` returns the same schedule."""
    request = pb.CreateScheduleRequest(request_id=request_id or str(uuid.uuid4()))
    try:
        values.fill(request, given)
    except values.MismatchError as error:
        raise usage(str(error)) from None
    return (await _stub(channels).CreateSchedule(request)).schedule


async def get(channels: Channels, schedule_id: str) -> pb.Schedule:
    request = pb.GetScheduleRequest(schedule_id=schedule_id)
    return (await _stub(channels).GetSchedule(request)).schedule


async def list_all(channels: Channels) -> list[pb.Schedule]:
    """Returns all schedules in order of id, without their input."""
    replies = pages(_stub(channels).ListSchedules, pb.ListSchedulesRequest())
    return [schedule async for reply in replies for schedule in reply.schedules]


async def pause(channels: Channels, schedule_id: str) -> pb.Schedule:
    request = pb.PauseScheduleRequest(request_id=str(uuid.uuid4()), schedule_id=schedule_id)
    return (await _stub(channels).PauseSchedule(request)).schedule


async def resume(channels: Channels, schedule_id: str) -> pb.Schedule:
    request = pb.ResumeScheduleRequest(request_id=str(uuid.uuid4()), schedule_id=schedule_id)
    return (await _stub(channels).ResumeSchedule(request)).schedule


async def delete(channels: Channels, schedule_id: str) -> None:
    request = pb.DeleteScheduleRequest(request_id=str(uuid.uuid4()), schedule_id=schedule_id)
    await _stub(channels).DeleteSchedule(request)


def lines(schedule: pb.Schedule) -> list[str]:
    """Returns the text that shows a schedule: its timing, its next due time and its counts."""
    if schedule.HasField("cron"):
        when = f"cron {schedule.cron.expression!r} in {schedule.cron.zone}"
    else:
        when = f"every {schedule.interval.ToTimedelta().total_seconds():g} s"
    if schedule.paused:
        state = "paused"
    elif schedule.HasField("next_due_time"):
        state = f"next at {schedule.next_due_time.ToJsonString()}"
    else:
        state = "ended"
    found = [f"{schedule.schedule_id}  {schedule.workflow_id}  {when}  {state}"]
    counts = f"{schedule.started_count} started"
    if schedule.skipped_count:
        counts += f", {schedule.skipped_count} skipped"
    if schedule.refused_count:
        counts += f", {schedule.refused_count} refused"
    found.append(
        f"  {counts}" + (f", last {schedule.last_run_id}" if schedule.started_count else "")
    )
    if schedule.last_error:
        due = schedule.last_error_due_time.ToJsonString()
        found.append(f"  refused at {due}: {schedule.last_error}")
    return found


def _stub(channels: Channels) -> ScheduleServiceAsyncStub:
    return ScheduleServiceStub(channels["orchestrator"])
