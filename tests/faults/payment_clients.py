"""Clients of a mesh under faults: they retry every request with the same id."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import grpc

from anya.bitcoin.v1 import wallet_pb2
from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from cli import payment_client, runs
from tests.faults.fault_schedule import CancelMethod, PaymentMethod

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from cli.connection import Channels
    from cli.payment_client import Outcome, Proposal
    from tests.faults.fault_schedule import PlannedPayment
    from tests.faults.funded_mesh import FundedMesh

R = TypeVar("R")

RETRY_WITHIN_S = 60.0
RETRY_INTERVAL_S = 0.1
WAIT_S = 10  # of StartRun, for the end of the run
REDRIVE_DELAY_S = 0.5
MAX_REDRIVES = 60
RETRYABLE_CODES = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
TOO_LATE_CODES = {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND}
REDRIVABLE = {
    pb.RUN_STATUS_FAILED,
    pb.RUN_STATUS_NEEDS_ATTENTION,
    pb.RUN_STATUS_COMPENSATION_FAILED,
}

SINGLE_ATTEMPT = "single_attempt_payment"
ROOT = Path(__file__).parents[2]
SEED = ROOT / "services" / "orchestrator" / "workflows" / "verified_payment.json"


@dataclass(frozen=True, slots=True)
class ObservedPayment:
    """A payment and its outcome as its client observed it."""

    planned: PlannedPayment
    proposal: Proposal
    outcome: Outcome
    cancelled_state: str = ""  # the state in the reply to CancelPayment, if there was one
    redrives: int = 0


async def register_single_attempt(channels: Channels) -> None:
    """Registers the verified payment without a retry of its first step."""
    document = json.loads(SEED.read_text())
    document.update(id=SINGLE_ATTEMPT, name=SINGLE_ATTEMPT)
    document["steps"][0]["retry"] = {"max_attempts": 1}
    await runs.register(channels, json.dumps(document))


class PaymentClients:
    """The payers of one funded mesh, which use any of its orchestrators."""

    def __init__(self, routes: Sequence[Channels], funded: FundedMesh) -> None:
        self._routes = routes
        self._mesh = funded

    async def pay(self, planned: PlannedPayment) -> ObservedPayment:
        """Proposes and starts a payment, cancels it if planned, and waits for its end."""
        payer = self._mesh.payers[planned.payer]
        thief = replace(self._mesh.unlinked, addresses=payer.addresses)
        shop = self._mesh.shops[planned.recipient]
        payment_id = payment_client.new_id()
        proposal = await self._ask(
            planned,
            lambda channels: payment_client.propose(
                channels,
                payer if planned.proved else thief,
                shop,
                planned.amount_sat,
                payment_id=payment_id,
            ),
        )
        async with asyncio.TaskGroup() as group:
            cancelling = group.create_task(self._cancel(planned, payment_id))
            run = await self._finish(planned, proposal)
        run, redrives = await self._redrive(planned, run)
        return ObservedPayment(
            planned, proposal, payment_client.outcome(run), cancelling.result(), redrives
        )

    async def _finish(self, planned: PlannedPayment, proposal: Proposal) -> pb.Run:
        """Makes the payment by its method, and returns its run after the run has ended."""
        payment_id = proposal.intent.payment_id
        match planned.method:
            case PaymentMethod.SEND:
                await self._ask(planned, lambda channels: payment_client.send(channels, proposal))
                await self._ask(planned, lambda channels: payment_client.end(channels, payment_id))
            case PaymentMethod.WAIT:
                reply = await self._ask(planned, lambda channels: _start(channels, proposal))
                if reply.run.status in runs.ENDED:
                    return reply.run
            case PaymentMethod.RUN | PaymentMethod.SINGLE_ATTEMPT:
                name = (
                    SINGLE_ATTEMPT
                    if planned.method is PaymentMethod.SINGLE_ATTEMPT
                    else payment_client.WORKFLOW
                )
                await self._ask(
                    planned,
                    lambda channels: payment_client.start(channels, proposal, workflow_id=name),
                )
        return await self._ask(planned, lambda channels: runs.finish(channels, payment_id))

    async def _redrive(self, planned: PlannedPayment, run: pb.Run) -> tuple[pb.Run, int]:
        """Redrives the run until it ends as planned. Returns the run and the number of redrives."""
        for count in itertools.count():
            if run.status not in REDRIVABLE or count == MAX_REDRIVES:
                return run, count
            await asyncio.sleep(REDRIVE_DELAY_S)
            run = await self._redriven(planned, run.run_id, f"{run.run_id}/redrive/{count}")
        raise AssertionError

    async def _redriven(self, planned: PlannedPayment, run_id: str, request_id: str) -> pb.Run:
        await self._ask(
            planned, lambda channels: runs.redrive(channels, run_id, request_id=request_id)
        )
        return await self._ask(planned, lambda channels: runs.finish(channels, run_id))

    async def _cancel(self, planned: PlannedPayment, payment_id: str) -> str:
        """Cancels the payment if planned. Returns the state in the reply, or an empty text."""
        if planned.cancel is None:
            return ""
        await asyncio.sleep(planned.cancel_after)
        try:
            if planned.cancel is CancelMethod.RUN:
                await self._ask(planned, lambda channels: runs.cancel(channels, payment_id))
                return ""
            reply = await self._ask(
                planned, lambda channels: payment_client.cancel(channels, payment_id)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() not in TOO_LATE_CODES:
                raise
            return ""
        return state_word(reply.state)

    async def _ask(self, planned: PlannedPayment, work: Callable[[Channels], Awaitable[R]]) -> R:
        """Calls the client's own orchestrator, and the next one on each retry."""
        routes = itertools.cycle(self._routes)
        turns = itertools.islice(routes, planned.route % len(self._routes), None)
        return await retry_until_answered(lambda: work(next(turns)))


async def retry_until_answered(ask: Callable[[], Awaitable[R]]) -> R:
    """Retries a call while its error is retryable, for at most RETRY_WITHIN_S."""
    deadline = time.monotonic() + RETRY_WITHIN_S
    while True:
        try:
            return await ask()
        except grpc.aio.AioRpcError as error:
            if error.code() not in RETRYABLE_CODES or time.monotonic() > deadline:
                raise
        await asyncio.sleep(RETRY_INTERVAL_S)


def state_word(state: wallet_pb2.PaymentState.ValueType) -> str:
    """ "CONFIRMED"."""
    word: str = wallet_pb2.PaymentState.Name(state)
    return word.removeprefix("PAYMENT_STATE_")


async def _start(channels: Channels, proposal: Proposal) -> pb.StartRunResponse:
    """Starts the run and waits up to WAIT_S for its end."""
    request = pb.StartRunRequest(
        request_id=proposal.intent.payment_id,
        workflow_id=payment_client.WORKFLOW,
        intent=proposal.intent,
        presentation=proposal.presentation,
    )
    request.input.update(payment_client.values_of(proposal.intent))
    request.wait.FromSeconds(WAIT_S)
    return await WorkflowServiceStub(channels["orchestrator"]).StartRun(request)
