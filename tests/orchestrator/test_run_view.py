"""Views of a run: full, or without its input and steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from tests.orchestrator.payment_requests import pay, payment, status

if TYPE_CHECKING:
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from tests.orchestrator.fake_services import FakeServices

UNKNOWN = 77


def seen(request: pb.StartRunRequest, asked: int) -> pb.StartRunRequest:
    """Returns the request with a wait and with a view of the run at its end."""
    other = pb.StartRunRequest()
    other.CopyFrom(request)
    other.wait.FromSeconds(20)
    other.view = asked  # type: ignore[assignment]
    return other


def basic(run: pb.Run) -> pb.Run:
    """Returns the run without its input and steps."""
    left = pb.Run()
    left.CopyFrom(run)
    left.ClearField("input")
    left.ClearField("steps")
    return left


async def test_basic_view_omits_only_the_input_and_the_steps(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.risk_score = 0.9  # the run is refused, so that it has a reason
    request = payment()
    whole = await pay(workflows, request)
    asked = pb.GetRunRequest(run_id=request.request_id, view=pb.RUN_VIEW_BASIC)

    shown = (await workflows.GetRun(asked, timeout=5)).run

    assert shown == basic(whole)
    assert shown.public_reason
    assert whole.steps
    assert whole.input.fields


async def test_default_view_is_the_full_one(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    whole = await pay(workflows, request := payment())
    asked = pb.GetRunRequest(run_id=request.request_id, view=pb.RUN_VIEW_FULL)

    full = await workflows.GetRun(asked, timeout=5)

    assert full.run == whole
    assert full == await workflows.GetRun(pb.GetRunRequest(run_id=whole.run_id), timeout=5)


async def test_each_retry_of_a_start_chooses_its_view(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    request = payment()

    first = await workflows.StartRun(seen(request, pb.RUN_VIEW_BASIC), timeout=30)
    again = await workflows.StartRun(seen(request, pb.RUN_VIEW_FULL), timeout=30)
    silent = await workflows.StartRun(seen(request, pb.RUN_VIEW_UNSPECIFIED), timeout=30)

    assert status(first.run) == "SUCCEEDED"
    assert first.run == basic(again.run)
    assert again.run.steps
    assert silent == again
    assert fakes.effects["SendPayment"] == 1


async def test_watch_of_the_basic_view_sends_it_after_each_record(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    await pay(workflows, request := payment())

    async def watch(asked: pb.RunView.ValueType) -> list[pb.WatchRunResponse]:
        wanted = pb.WatchRunRequest(run_id=request.request_id, view=asked)
        return [update async for update in workflows.WatchRun(wanted, timeout=5)]

    short, whole = await watch(pb.RUN_VIEW_BASIC), await watch(pb.RUN_VIEW_FULL)

    assert [update.run for update in short] == [basic(update.run) for update in whole]
    assert [update.sequence for update in short] == [update.sequence for update in whole]


async def test_unknown_view_is_refused_before_a_run_is_started(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    request = payment()
    run_id = request.request_id

    with pytest.raises(grpc.aio.AioRpcError, match="no run view 77") as started:
        await workflows.StartRun(seen(request, UNKNOWN), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError, match=f"no run {run_id!r}"):
        await workflows.GetRun(pb.GetRunRequest(run_id=run_id), timeout=5)
    await pay(workflows, request)
    with pytest.raises(grpc.aio.AioRpcError, match="no run view 77") as shown:
        await workflows.GetRun(
            pb.GetRunRequest(run_id=run_id, view=UNKNOWN),  # type: ignore[arg-type]
            timeout=5,
        )
    with pytest.raises(grpc.aio.AioRpcError, match="no run view 77") as watched:
        await anext(
            aiter(
                workflows.WatchRun(
                    pb.WatchRunRequest(run_id=run_id, view=UNKNOWN),  # type: ignore[arg-type]
                    timeout=5,
                )
            )
        )

    for refused in (started, shown, watched):
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
