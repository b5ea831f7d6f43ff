"""ScheduleService through gRPC: creating, refusing, showing and listing schedules."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from opentelemetry.trace import NoOpTracer

from anya.orchestrator.v1 import schedule_pb2 as pb
from anya.orchestrator.v1 import workflow_pb2
from anya.orchestrator.v1.schedule_pb2_grpc import ScheduleServiceStub
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from mesh.breaker import Breakers
from mesh.clock import SystemClock
from mesh.config import TRUST_FILE
from mesh.rpc.client import open_channel
from mesh.rpc.interceptors import ClientRules
from mesh.testing import eventually, reason
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.definition import values
from tests.orchestrator.conftest import dial
from tests.orchestrator.engine.definitions import STORE, call, steps
from tests.orchestrator.payment_requests import finished, status
from tests.orchestrator.schedules.schedule_replica import OPERATOR, REPORT

if TYPE_CHECKING:
    from pathlib import Path

    from anya.orchestrator.v1.schedule_pb2_grpc import ScheduleServiceAsyncStub
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig

R = TypeVar("R", bound=Message)


@pytest.fixture
async def schedules(channel: grpc.aio.Channel) -> ScheduleServiceAsyncStub:
    """Returns the client of an orchestrator with the workflow ``report``."""
    registered = workflow_pb2.RegisterWorkflowRequest(definition=REPORT)
    await WorkflowServiceStub(channel).RegisterWorkflow(registered, timeout=5)
    return ScheduleServiceStub(channel)


def asked(id: str = "often", **changes: Any) -> pb.CreateScheduleRequest:
    """Returns a valid request with ``changes``."""
    request = pb.CreateScheduleRequest(request_id=id)
    given = {"schedule_id": id, "workflow_id": "report", "input": {"to": "Ada"}}
    timing = {} if "cron" in changes else {"interval": "3600s"}
    values.fill(request, given | timing | changes)
    return request


async def create(schedules: ScheduleServiceAsyncStub, request: pb.CreateScheduleRequest) -> Any:
    return (await schedules.CreateSchedule(request, timeout=5)).schedule


async def get(schedules: ScheduleServiceAsyncStub, id: str) -> pb.Schedule:
    request = pb.GetScheduleRequest(schedule_id=id)
    return (await schedules.GetSchedule(request, timeout=5)).schedule


async def test_schedule_starts_its_runs(
    schedules: ScheduleServiceAsyncStub, workflows: WorkflowServiceAsyncStub
) -> None:
    await create(schedules, asked(interval="1s"))

    async def has_started() -> bool:
        return (await get(schedules, "often")).started_count >= 1

    await eventually(has_started, within=10)
    run = await finished(workflows, (await get(schedules, "often")).last_run_id)

    assert status(run) == "SUCCEEDED"
    assert run.steps[-1].output["greeting"] == "to Ada"


async def test_schedule_is_shown_as_created(schedules: ScheduleServiceAsyncStub) -> None:
    created = await create(
        schedules,
        asked(
            cron={"expression": "0  9 * * MON", "zone": "Europe/Berlin"},
            start_time="2126-01-01T00:00:00Z",
            end_time="2127-01-01T00:00:00Z",
            overlap="allow",
            catch_up="all",
            catch_up_limit=7,
        ),
    )
    shown = await get(schedules, "often")

    assert values.from_struct(shown.input) == {"to": "Ada"}
    shown.ClearField("input")
    assert shown == created
    found = values.to_json(shown)
    assert found["cron"] == {"expression": "0 9 * * MON", "zone": "Europe/Berlin"}
    assert found["next_due_time"] == "2126-01-07T08:00:00Z"
    assert found["end_time"] == "2127-01-01T00:00:00Z"
    assert (found["overlap"], found["catch_up"], found["catch_up_limit"]) == ("allow", "all", 7)
    assert found["creator"] == OPERATOR


async def test_omitted_fields_have_defaults(schedules: ScheduleServiceAsyncStub) -> None:
    created = await create(schedules, asked(cron={"expression": "0 0 * * *"}))

    assert created.cron.zone == "UTC"
    assert created.start_time == created.create_time
    assert not created.HasField("end_time")
    assert (created.overlap, created.catch_up) == (
        pb.OVERLAP_POLICY_SKIP,
        pb.CATCH_UP_POLICY_LATEST,
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schedule_id": "No"}, "schedule_id must be"),
        ({"workflow_id": "verified_payment"}, "pays"),
        ({"input": {"to": "Ada", "for": "Bob"}}, "input of report: for"),
        ({"input": {}}, "input of report: to"),
        ({"input": {"to": "x" * 65_536}}, "at most 65536 bytes"),
        ({"interval": "0.999s"}, "one second"),
        ({"interval": "315576000000s"}, "366 days"),
        ({"interval": "1.0005s"}, "whole milliseconds"),
        ({"interval": None}, "either interval or cron must be given"),
        ({"cron": {"expression": "* * *"}}, "must be minute"),
        ({"cron": {"expression": "* * * * *", "zone": "Mars"}}, "cron.zone 'Mars'"),
        ({"start_time": "1960-01-01T00:00:00Z"}, "start_time must be"),
        ({"start_time": "9999-01-01T00:00:00Z"}, "start_time must be"),
        ({"end_time": "2020-01-01T00:00:00Z"}, "end_time must be"),
        ({"end_time": "9999-01-01T00:00:00Z"}, "end_time must be"),
        (
            {"start_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-01T00:30:00Z"},
            "nothing is due",
        ),
        ({"catch_up_limit": 101}, "catch_up_limit must be"),
        ({"catch_up_limit": -1}, "catch_up_limit must be"),
    ],
)
async def test_invalid_request_is_refused_and_stores_nothing(
    schedules: ScheduleServiceAsyncStub, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=said) as caught:
        await create(schedules, asked(**changes))

    listed = await schedules.ListSchedules(pb.ListSchedulesRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not listed.schedules


@pytest.mark.parametrize("field", ["overlap", "catch_up"])
async def test_unknown_policy_is_refused(schedules: ScheduleServiceAsyncStub, field: str) -> None:
    request = asked()
    setattr(request, field, 9)

    with pytest.raises(grpc.aio.AioRpcError, match="policy 9"):
        await create(schedules, request)


async def test_input_with_an_invalid_number_is_refused(schedules: ScheduleServiceAsyncStub) -> None:
    request = asked()
    request.input.fields["to"].number_value = float("nan")

    with pytest.raises(grpc.aio.AioRpcError, match="finite") as caught:
        await create(schedules, request)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_repeated_request_creates_one_schedule(
    schedules: ScheduleServiceAsyncStub,
) -> None:
    created = await create(schedules, asked())
    again = await create(schedules, asked())
    other = asked(interval="5s")

    with pytest.raises(grpc.aio.AioRpcError) as reused:
        await create(schedules, other)
    other.request_id = "another"
    with pytest.raises(grpc.aio.AioRpcError, match="schedule often exists") as taken:
        await create(schedules, other)

    assert again == created
    assert reason(reused.value) == "REQUEST_ID_REUSED"
    assert taken.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_schedules_are_listed_by_id_without_input(
    schedules: ScheduleServiceAsyncStub,
) -> None:
    for id in ("c", "a", "b"):
        await create(schedules, asked(id))

    first = await schedules.ListSchedules(pb.ListSchedulesRequest(page_size=2), timeout=5)
    rest = pb.ListSchedulesRequest(page_size=2, page_token=first.next_page_token)
    second = await schedules.ListSchedules(rest, timeout=5)

    assert [found.schedule_id for found in first.schedules] == ["a", "b"]
    assert [found.schedule_id for found in second.schedules] == ["c"]
    assert not second.next_page_token
    assert not first.schedules[0].input.fields
    rest.page_token += "nonsense"
    with pytest.raises(grpc.aio.AioRpcError, match="page_token is not of this list"):
        await schedules.ListSchedules(rest, timeout=5)
    with pytest.raises(grpc.aio.AioRpcError, match="page_size must not be negative"):
        await schedules.ListSchedules(pb.ListSchedulesRequest(page_size=-1), timeout=5)


async def test_schedule_is_paused_resumed_and_deleted(
    schedules: ScheduleServiceAsyncStub,
) -> None:
    await create(schedules, asked())

    pause = pb.PauseScheduleRequest(request_id="p", schedule_id="often")
    paused = (await schedules.PauseSchedule(pause, timeout=5)).schedule
    resume = pb.ResumeScheduleRequest(request_id="r", schedule_id="often")
    resumed = (await schedules.ResumeSchedule(resume, timeout=5)).schedule
    delete = pb.DeleteScheduleRequest(request_id="d", schedule_id="often")
    await schedules.DeleteSchedule(delete, timeout=5)

    assert (paused.paused, paused.HasField("next_due_time")) == (True, False)
    assert (resumed.paused, resumed.HasField("next_due_time")) == (False, True)
    for answer in (
        schedules.GetSchedule(pb.GetScheduleRequest(schedule_id="often"), timeout=5),
        schedules.PauseSchedule(_again(pause), timeout=5),
        schedules.ResumeSchedule(_again(resume), timeout=5),
        schedules.DeleteSchedule(_again(delete), timeout=5),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="no schedule 'often'") as caught:
            await answer
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def _again(request: R) -> R:
    """Returns a copy with another request_id."""
    again = type(request)()
    again.CopyFrom(request)
    setattr(again, "request_id", "again")  # noqa: B010  (no static type has the field)
    return again


async def test_caller_without_the_privilege_cannot_schedule(
    authority: Authority, config: OrchestratorConfig
) -> None:
    rules = ClientRules(
        target="orchestrator", tracer=NoOpTracer(), breakers=Breakers(SystemClock())
    )
    stranger = authority.issue_service("ml")

    async with (
        orchestrator(config) as service,
        open_channel(f"127.0.0.1:{service.port}", rules, stranger) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(ScheduleServiceStub(channel), asked())

    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_runs_use_only_privileges_of_the_schedules_creator(
    authority: Authority, config: OrchestratorConfig, tmp_path: Path
) -> None:
    grant = "ScheduleService/CreateSchedule: {"
    shipped = TRUST_FILE.read_text()
    trust = tmp_path / "trust.yaml"
    trust.write_text(shipped.replace(grant, f"{grant}run_privileges: [read_identity], "))
    bounded = replace(config, mesh=replace(config.mesh, trust_file=trust))
    keeps = workflow_pb2.RegisterWorkflowRequest(definition=steps(call("keep", STORE)))

    async with orchestrator(bounded) as service, dial(authority, service.port) as channel:
        workflows, schedules = WorkflowServiceStub(channel), ScheduleServiceStub(channel)
        await workflows.RegisterWorkflow(keeps, timeout=5)
        given: dict[str, Any] = {
            "workflow_id": "example",
            "input": {"did": "d"},
            "interval": "1s",
        }
        await create(schedules, asked(**given))

        async def has_started() -> bool:
            return (await get(schedules, "often")).started_count >= 1

        await eventually(has_started, within=10)
        run = await finished(workflows, (await get(schedules, "often")).last_run_id)

    assert grant in shipped
    assert status(run) == "FAILED"
    assert run.steps[-1].error.reason == "PERMISSION_NOT_GRANTED"
