"""ScheduleService over gRPC: parses requests and formats replies. No rules live here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anya.orchestrator.v1 import schedule_pb2 as pb
from anya.orchestrator.v1.schedule_pb2_grpc import ScheduleServiceServicer
from mesh.errors import InvalidArgument
from mesh.rpc import paging
from mesh.rpc.interceptors import request_key, trust
from services.orchestrator.definition import values
from services.orchestrator.schedules.cron import Cron, cron
from services.orchestrator.schedules.schedule import (
    END_OF_TIME_MS,
    MAX_CATCH_UP,
    CatchUp,
    Interval,
    Overlap,
    Schedule,
    Timing,
)
from services.orchestrator.servicers import views

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp
    from grpc.aio import ServicerContext

    from services.orchestrator.schedules.scheduler import Scheduler
    from services.orchestrator.store.schedules import ScheduleStore, StoredSchedule

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 500
UTC = "UTC"
NANOS_PER_MS = 1_000_000

OVERLAPS = {
    pb.OVERLAP_POLICY_UNSPECIFIED: Overlap.SKIP,
    pb.OVERLAP_POLICY_SKIP: Overlap.SKIP,
    pb.OVERLAP_POLICY_ALLOW: Overlap.ALLOW,
}
CATCH_UPS = {
    pb.CATCH_UP_POLICY_UNSPECIFIED: CatchUp.LATEST,
    pb.CATCH_UP_POLICY_NONE: CatchUp.NONE,
    pb.CATCH_UP_POLICY_LATEST: CatchUp.LATEST,
    pb.CATCH_UP_POLICY_ALL: CatchUp.ALL,
}


class ScheduleServicer(ScheduleServiceServicer):
    """Serves the schedules of the store."""

    def __init__(self, schedules: ScheduleStore, scheduler: Scheduler) -> None:
        self._schedules = schedules
        self._scheduler = scheduler

    async def CreateSchedule(
        self,
        request: pb.CreateScheduleRequest,
        context: ServicerContext[pb.CreateScheduleRequest, pb.CreateScheduleResponse],
    ) -> pb.CreateScheduleResponse:
        timing = _timing(request)
        created = await self._scheduler.create(
            request_key.current(),
            lambda now_ms: _parse(request, timing, now_ms),
            request.workflow_id,
            lambda stored: pb.CreateScheduleResponse(
                schedule=format_schedule(stored)
            ).SerializeToString(),
            allowed_privileges=trust.current_bounds().run_privileges,
        )
        return pb.CreateScheduleResponse.FromString(created)

    async def GetSchedule(
        self,
        request: pb.GetScheduleRequest,
        context: ServicerContext[pb.GetScheduleRequest, pb.GetScheduleResponse],
    ) -> pb.GetScheduleResponse:
        stored = await self._schedules.find(request.schedule_id)
        schedule = format_schedule(stored)
        values.fill_struct(schedule.input, stored.schedule.input)
        return pb.GetScheduleResponse(schedule=schedule)

    async def ListSchedules(
        self,
        request: pb.ListSchedulesRequest,
        context: ServicerContext[pb.ListSchedulesRequest, pb.ListSchedulesResponse],
    ) -> pb.ListSchedulesResponse:
        limit = paging.page_size(
            request.page_size, default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE
        )
        position = paging.read_token(request.page_token, "schedules", str)
        found = await self._schedules.page(after=position[0] if position else "", limit=limit + 1)
        shown, token = paging.cut(found, limit, "schedules", lambda stored: stored.schedule.id)
        return pb.ListSchedulesResponse(
            schedules=[format_schedule(stored) for stored in shown], next_page_token=token
        )

    async def PauseSchedule(
        self,
        request: pb.PauseScheduleRequest,
        context: ServicerContext[pb.PauseScheduleRequest, pb.PauseScheduleResponse],
    ) -> pb.PauseScheduleResponse:
        first = await self._schedules.pause(
            request_key.current(),
            request.schedule_id,
            paused=True,
            reply=lambda stored: pb.PauseScheduleResponse(
                schedule=format_schedule(stored)
            ).SerializeToString(),
        )
        return pb.PauseScheduleResponse.FromString(first)

    async def ResumeSchedule(
        self,
        request: pb.ResumeScheduleRequest,
        context: ServicerContext[pb.ResumeScheduleRequest, pb.ResumeScheduleResponse],
    ) -> pb.ResumeScheduleResponse:
        first = await self._schedules.pause(
            request_key.current(),
            request.schedule_id,
            paused=False,
            reply=lambda stored: pb.ResumeScheduleResponse(
                schedule=format_schedule(stored)
            ).SerializeToString(),
        )
        self._scheduler.notify_changed()
        return pb.ResumeScheduleResponse.FromString(first)

    async def DeleteSchedule(
        self,
        request: pb.DeleteScheduleRequest,
        context: ServicerContext[pb.DeleteScheduleRequest, pb.DeleteScheduleResponse],
    ) -> pb.DeleteScheduleResponse:
        await self._schedules.delete(request_key.current(), request.schedule_id)
        return pb.DeleteScheduleResponse()


def _parse(request: pb.CreateScheduleRequest, timing: Timing, now_ms: int) -> Schedule:
    if request.overlap not in OVERLAPS:
        raise InvalidArgument(f"unknown overlap policy {request.overlap}", field="overlap")
    if request.catch_up not in CATCH_UPS:
        raise InvalidArgument(f"unknown catch-up policy {request.catch_up}", field="catch_up")
    start = request.start_time if request.HasField("start_time") else None
    end = request.end_time if request.HasField("end_time") else None
    return Schedule(
        id=request.schedule_id,
        workflow_id=request.workflow_id,
        input=values.from_given(request.input, "input"),
        timing=timing,
        start_ms=now_ms if start is None else _milliseconds(start, "start_time"),
        end_ms=END_OF_TIME_MS if end is None else _milliseconds(end, "end_time"),
        overlap=OVERLAPS[request.overlap],
        catch_up=CATCH_UPS[request.catch_up],
        catch_up_limit=request.catch_up_limit or MAX_CATCH_UP,
    )


def _timing(request: pb.CreateScheduleRequest) -> Timing:
    match request.WhichOneof("timing"):
        case "interval":
            return Interval(_interval_ms(request.interval))
        case "cron":
            return cron(request.cron.expression, request.cron.zone or UTC)
        case _:
            raise InvalidArgument("either interval or cron must be given", field="interval")


def _interval_ms(interval: Duration) -> int:
    if interval.nanos % NANOS_PER_MS:
        raise InvalidArgument("interval must be whole milliseconds", field="interval")
    return interval.seconds * 1000 + interval.nanos // NANOS_PER_MS


def _milliseconds(time: Timestamp, field: str) -> int:
    try:
        return time.ToMilliseconds()
    except ValueError:
        raise InvalidArgument(f"{field} is not a valid time", field=field) from None


def format_schedule(stored: StoredSchedule) -> pb.Schedule:
    """Returns the message of a schedule, without its input."""
    given, progress = stored.schedule, stored.progress
    schedule = pb.Schedule(
        schedule_id=given.id,
        workflow_id=given.workflow_id,
        start_time=views.time_of_ms(given.start_ms),
        end_time=views.time_of_ms(given.end_ms) if given.end_ms < END_OF_TIME_MS else None,
        overlap=pb.OverlapPolicy.Value(f"OVERLAP_POLICY_{given.overlap}"),
        catch_up=pb.CatchUpPolicy.Value(f"CATCH_UP_POLICY_{given.catch_up}"),
        catch_up_limit=given.catch_up_limit,
        creator=progress.creator,
        create_time=views.time_of_ms(progress.created_ms),
        paused=progress.paused,
        next_due_time=views.time_of_ms(progress.next_due_ms),
        last_run_id=progress.last_run_id,
        last_due_time=views.time_of_ms(progress.last_due_ms),
        started_count=progress.started,
        skipped_count=progress.skipped,
        refused_count=progress.refused,
        last_error=progress.last_error,
        last_error_due_time=views.time_of_ms(progress.last_error_due_ms),
    )
    match given.timing:
        case Interval(ms):
            schedule.interval.FromMilliseconds(ms)
        case Cron(expression, zone):
            schedule.cron.expression, schedule.cron.zone = expression, zone
    return schedule
