"""Redriven runs: over gRPC, over a restart, and in the trace."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from cli.spans import store
from mesh.errors import InvalidArgument, NotFound
from mesh.testing import eventually, reason
from services.orchestrator.__main__ import orchestrator
from tests.orchestrator.conftest import connect, start_traced, traces_to
from tests.orchestrator.engine.definitions import STORE, call, steps
from tests.orchestrator.fake_services import serve_peers
from tests.orchestrator.payment_requests import finished, pay, payment, status, statuses
from tests.orchestrator.signals import await_status, start_run

if TYPE_CHECKING:
    from pathlib import Path

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices

PATIENT = "    timeout: 20s\n"
KEEPS_TWICE = steps(call("one", STORE, PATIENT), call("two", STORE, PATIENT))


def again(run_id: str, request_id: str = "r1", why: str = "mended") -> pb.RedriveRunRequest:
    return pb.RedriveRunRequest(request_id=request_id, run_id=run_id, reason=why)


@pytest.fixture
def refusing(fakes: FakeServices) -> FakeServices:
    """Services that refuse the first attempt to store a record."""
    fakes.errors_before["StoreTransactionRecord"].append(InvalidArgument("no"))
    return fakes


async def test_redriven_run_continues_and_shows_its_requester(
    workflows: WorkflowServiceAsyncStub, refusing: FakeServices
) -> None:
    run_id = await start_run(workflows, KEEPS_TWICE, did="d")
    failed = await finished(workflows, run_id)
    seen = [message async for message in workflows.WatchRun(watch(run_id), timeout=5)][-1].sequence

    redriven = (await workflows.RedriveRun(again(run_id), timeout=5)).run
    later = [m.run async for m in workflows.WatchRun(watch(run_id, seen), timeout=10)]

    assert status(failed) == "FAILED"
    assert status(later[0]) == "RUNNING"
    assert status(later[-1]) == "SUCCEEDED"
    (redrive,) = later[-1].redrives
    assert (redriven.run_id, list(redriven.redrives)) == (run_id, [redrive])
    assert (redrive.requester, redrive.reason, redrive.previous_status) == (
        "spiffe://anya.internal/client/operator",
        "mended",
        pb.RUN_STATUS_FAILED,
    )
    assert later[-1].recoveries == 0
    assert refusing.effects["StoreTransactionRecord"] == 2
    listed = await workflows.ListRuns(pb.ListRunsRequest(), timeout=5)
    assert [status(run) for run in listed.runs] == ["SUCCEEDED"]


async def test_repeated_redrive_counts_once_and_another_is_refused(
    workflows: WorkflowServiceAsyncStub, refusing: FakeServices
) -> None:
    run_id = await start_run(workflows, KEEPS_TWICE, did="d")
    await finished(workflows, run_id)

    await asyncio.gather(*(workflows.RedriveRun(again(run_id), timeout=5) for _ in range(5)))
    run = await finished(workflows, run_id)
    await workflows.RedriveRun(again(run_id), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await workflows.RedriveRun(again(run_id, "r2"), timeout=5)

    assert status(run) == "SUCCEEDED"
    assert len(run.redrives) == 1
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(caught.value) == "RUN_NOT_REDRIVABLE"


async def test_running_and_unknown_runs_are_not_redriven(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    run_id = await start_run(workflows, steps("answer\n    wait_for: {signal: approved}"))
    await await_status(workflows, run_id, "WAITING")

    codes = []
    for name in (run_id, "unknown"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await workflows.RedriveRun(again(name), timeout=5)
        codes.append(caught.value.code().name)

    assert codes == ["FAILED_PRECONDITION", "NOT_FOUND"]


async def test_refused_payment_cannot_be_redriven(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.risk_score = 0.93
    request = payment()
    await pay(workflows, request)
    fakes.risk_score = 0.1

    with pytest.raises(grpc.aio.AioRpcError, match="a refusal is final") as caught:
        await workflows.RedriveRun(again(request.request_id), timeout=5)

    assert reason(caught.value) == "RUN_NOT_REDRIVABLE"
    assert fakes.effects["SendPayment"] == 0


async def test_redrive_stores_the_missing_record_and_does_not_pay_again(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.errors_before["StoreTransactionRecord"].append(NotFound("no tenant"))
    request = payment()
    alarming = await pay(workflows, request)

    await workflows.RedriveRun(again(request.request_id), timeout=5)
    run = await finished(workflows, request.request_id)

    assert status(alarming) == "NEEDS_ATTENTION"
    assert status(run) == "SUCCEEDED"
    assert len(fakes.requests("SendPayment")) == 1
    assert fakes.effects["StoreTransactionRecord"] == 1


async def test_redriven_run_continues_after_a_restart_in_its_step(
    config: OrchestratorConfig, authority: Authority, refusing: FakeServices
) -> None:
    fakes = refusing
    async with orchestrator(config) as first, connect(authority, first.port) as workflows:
        run_id = await start_run(workflows, KEEPS_TWICE, did="d")
        await finished(workflows, run_id)
        fakes.paused["StoreTransactionRecord"] = asyncio.Event()
        await workflows.RedriveRun(again(run_id), timeout=5)
        await eventually(lambda: len(fakes.requests("StoreTransactionRecord")) == 2)
    fakes.paused.pop("StoreTransactionRecord").set()

    async with orchestrator(config) as second, connect(authority, second.port) as workflows:
        run = await finished(workflows, run_id)

    assert status(run) == "SUCCEEDED"
    assert len(run.redrives) == 1
    assert set(statuses(run).values()) == {"SUCCEEDED"}
    assert fakes.effects["StoreTransactionRecord"] == 2


async def test_spans_of_a_redriven_run_are_below_the_redrive(
    authority: Authority,
    config: OrchestratorConfig,
    collector: str,
    tmp_path: Path,
    fakes: FakeServices,
) -> None:
    fakes.errors_before["StoreTransactionRecord"].append(NotFound("no tenant"))
    request = payment()
    home = tmp_path / "traced"
    async with serve_peers(authority, home, fakes, traces=traces_to(collector)) as peers:
        mesh = replace(config.mesh, peers=peers, traces=traces_to(collector))
        async with (
            orchestrator(replace(config, mesh=mesh)) as service,
            connect(authority, service.port) as workflows,
        ):
            await start_traced(authority, service.port, collector, request)
            await finished(workflows, request.request_id)
            await workflows.RedriveRun(again(request.request_id), timeout=5)
            run = await finished(workflows, request.request_id)

    traced = store.load(tmp_path / "traces.db", run.trace_id)
    spans = {span.span_id: span for span in traced.spans}
    tries = [span for span in traced.spans if span.name == "record_transaction"]
    assert status(run) == "SUCCEEDED"
    assert traced.is_whole
    assert sorted(spans[span.parent_id].name for span in tries) == [
        "redrive 1",
        "run verified_payment",
    ]
    (redrive,) = (span for span in traced.spans if span.name == "redrive 1")
    assert spans[redrive.parent_id].name == "run verified_payment"
    assert redrive.attributes["run.status"] == "SUCCEEDED"
    served = [span for span in traced.spans if span.service == "web5" and "Store" in span.name]
    assert {spans[spans[span.parent_id].parent_id].span_id for span in served} == {
        span.span_id for span in tries
    }


def watch(run_id: str, after: int = 0) -> pb.WatchRunRequest:
    return pb.WatchRunRequest(run_id=run_id, after_sequence=after)
