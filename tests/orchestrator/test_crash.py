"""SIGKILL during a run: the run ends as without it, and its trace is whole."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceStub
from anya.orchestrator.v1.workflow_pb2 import CancelRunRequest
from cli.spans import store
from mesh.testing import eventually
from tests.orchestrator.conftest import connect, dial, start_traced, traces_to
from tests.orchestrator.fake_services import serve_peers
from tests.orchestrator.payment_client import order, watch
from tests.orchestrator.payment_client import status as shown_status
from tests.orchestrator.payment_requests import finished, payment, status, statuses
from tests.orchestrator.processes import environment_of, process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anya.orchestrator.v1 import payment_pb2 as pb
    from mesh.testing import Authority
    from tests.orchestrator.fake_services import FakeServices

BOUNDARIES = [
    "engine.after_start/{run}",
    "engine.before_step_done/{run}/fraud_assessment/payment",
    "engine.before_step_done/{run}/execute_payment",
]
EFFECTS = {
    "VerifyIdentity": 1,
    "AssessFraudRisk": 1,
    "SendPayment": 1,
    "StoreTransactionRecord": 1,
}


@pytest.fixture
async def environment(
    authority: Authority, tmp_path: Path, fakes: FakeServices, collector: str
) -> AsyncIterator[dict[str, str]]:
    """Environment of an orchestrator: a home, a certificate, peers and a collector."""
    async with serve_peers(authority, tmp_path, fakes, traces=traces_to(collector)) as peers:
        known = environment_of(authority, tmp_path, peers)
        yield known | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, "OTEL_BSP_SCHEDULE_DELAY": "100"}


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_run_survives_a_kill(
    boundary: str,
    environment: dict[str, str],
    authority: Authority,
    collector: str,
    fakes: FakeServices,
    tmp_path: Path,
) -> None:
    request = payment()
    run_id = request.request_id
    failpoint = {"ANYA_FAILPOINTS": f"{boundary.format(run=run_id)}=kill"}

    async with process(environment | failpoint) as (child, port):
        starting = start_traced(authority, port, collector, request)
        if "after_start" in boundary:
            with pytest.raises(Exception, match="UNAVAILABLE"):
                await starting
        else:
            await starting
        assert await child.wait() == -signal.SIGKILL
    async with process(environment) as (_, port), connect(authority, port) as workflows:
        run = await finished(workflows, run_id)

    assert status(run) == "SUCCEEDED"
    assert run.recoveries == 1
    assert set(statuses(run).values()) == {"SUCCEEDED"}
    assert fakes.effects == EFFECTS
    for method in EFFECTS:
        first, *others = fakes.requests(method)
        assert all(other == first for other in others)
    await eventually(lambda: store.load(tmp_path / "traces.db", run.trace_id).is_whole, within=10)


async def test_trace_of_an_untraced_caller_is_whole_after_a_kill(
    environment: dict[str, str], authority: Authority, tmp_path: Path
) -> None:
    request = payment()
    point = f"engine.before_step_done/{request.request_id}/verify_sender=kill"

    async with (
        process(environment | {"ANYA_FAILPOINTS": point}) as (child, port),
        connect(authority, port) as workflows,
    ):
        await workflows.StartRun(request, timeout=5)
        await child.wait()
    async with process(environment) as (_, port), connect(authority, port) as workflows:
        run = await finished(workflows, request.request_id)

    traces = tmp_path / "traces.db"
    await eventually(lambda: store.load(traces, run.trace_id).is_whole, within=10)
    assert store.load(traces, run.trace_id).roots[0].name == "run verified_payment"


async def test_run_survives_a_restart(
    environment: dict[str, str], authority: Authority, fakes: FakeServices
) -> None:
    async with process(environment) as (_, port), connect(authority, port) as workflows:
        await workflows.StartRun(request := payment(), timeout=5)
    async with process(environment) as (_, port), connect(authority, port) as workflows:
        run = await finished(workflows, request.request_id)

    assert status(run) == "SUCCEEDED"
    assert fakes.effects["SendPayment"] == 1


async def test_payment_continues_under_a_resumed_watch_after_a_kill(
    environment: dict[str, str], authority: Authority, fakes: FakeServices
) -> None:
    request = order()
    point = f"engine.before_step_done/{request.request_id}/execute_payment=kill"

    async with (
        process(environment | {"ANYA_FAILPOINTS": point}) as (child, port),
        dial(authority, port) as channel,
    ):
        payments = PaymentServiceStub(channel)
        sent = await payments.SendVerifiedPayment(request, timeout=5)
        seen = await until_cut(watch(payments, request.request_id))
        assert await child.wait() == -signal.SIGKILL
    async with process(environment) as (_, port), dial(authority, port) as channel:
        payments = PaymentServiceStub(channel)
        again = await payments.SendVerifiedPayment(request, timeout=5)
        after = seen[-1].sequence
        resumed = [one async for one in watch(payments, request.request_id, after=after)]

    assert again == sent
    assert all(update.sequence > after for update in resumed)
    assert (shown_status(resumed[-1].payment), resumed[-1].payment.recoveries) == ("SUCCEEDED", 1)
    assert fakes.effects["SendPayment"] == fakes.effects["StoreTransactionRecord"] == 1


async def until_cut(
    updates: AsyncIterator[pb.WatchPaymentResponse],
) -> list[pb.WatchPaymentResponse]:
    """Returns the updates that arrive before the server is killed."""
    seen: list[pb.WatchPaymentResponse] = []
    with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
        await collect(updates, seen)
    return seen


async def collect(
    updates: AsyncIterator[pb.WatchPaymentResponse], seen: list[pb.WatchPaymentResponse]
) -> None:
    async for update in updates:
        seen.append(update)  # noqa: PERF401  (updates before an error are kept)


async def test_run_killed_while_its_payment_is_cancelled_ends_cancelled(
    environment: dict[str, str],
    authority: Authority,
    collector: str,
    fakes: FakeServices,
    tmp_path: Path,
) -> None:
    fakes.paused["VerifyIdentity"] = asyncio.Event()
    request = payment()
    run_id = request.request_id
    failpoint = {"ANYA_FAILPOINTS": f"engine.before_step_done/{run_id}/execute_payment/cancel=kill"}

    async with (
        process(environment | failpoint) as (child, port),
        connect(authority, port) as workflows,
    ):
        await start_traced(authority, port, collector, request)
        await workflows.CancelRun(CancelRunRequest(request_id="c", run_id=run_id), timeout=5)
        fakes.paused["VerifyIdentity"].set()
        assert await child.wait() == -signal.SIGKILL
    async with process(environment) as (_, port), connect(authority, port) as workflows:
        run = await finished(workflows, run_id)

    assert status(run) == "CANCELLED"
    assert fakes.cancelled == {run_id}
    assert len(fakes.requests("CancelPayment")) == 2
    assert fakes.effects["SendPayment"] == 0
    await eventually(lambda: store.load(tmp_path / "traces.db", run.trace_id).is_whole, within=10)
