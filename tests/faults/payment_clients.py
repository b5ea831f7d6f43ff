"""Clients of a mesh that is being struck: careful ones, who ask again under the same id."""

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

RETRY_WITHIN_S = 60.0  # seconds that a client goes on asking a service that is down
RETRY_INTERVAL_S = 0.1
WAIT = 10  # seconds, of a call that waits for the end
REDRIVE_DELAY_S = 0.5  # seconds from an end to the next attempt
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

SINGLE_ATTEMPT = "hasty_payment"
ROOT = Path(__file__).parents[2]
SEED = ROOT / "services" / "orchestrator" / "workflows" / "verified_payment.json"


@dataclass(frozen=True, slots=True)
class ObservedPayment:
    """A payment and what its client saw of it."""

    planned: PlannedPayment
    proposal: Proposal
    outcome: Outcome
    told: str = ""  # the payment's state, where its client cancelled it and was answered so
    redrives: int = 0


async def register_single_attempt(channels: Channels) -> None:
    """The verified payment, but a call of its first steps that goes unheard once is given up."""
    document = json.loads(SEED.read_text())
    document.update(id=SINGLE_ATTEMPT, name=SINGLE_ATTEMPT)
    document["steps"][0]["retry"] = {"max_attempts": 1}
    await runs.register(channels, json.dumps(document))


class PaymentClients:
    """Who pay in one town, by way of any of its orchestrators."""

    def __init__(self, routes: Sequence[Channels], funded: FundedMesh) -> None:
        self._doors = routes
        self._town = funded

    async def pay(self, planned: PlannedPayment) -> ObservedPayment:
        """Propose, start, perhaps cancel, and follow it to its end."""
        payer = self._town.payers[planned.payer]
        thief = replace(self._town.unlinked, addresses=payer.addresses)
        shop = self._town.shops[planned.recipient]
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
        """Have it made in its way; its run when that has ended."""
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
        """What stopped it passes: have it go on until it ends as a payment may."""
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
        """Where it is meant to be: the state of the payment that the client is told, if any."""
        if planned.cancel is None:
            return ""
        await asyncio.sleep(planned.cancel_after)
        try:
            if planned.cancel is CancelMethod.RUN:
                await self._ask(planned, lambda channels: runs.cancel(channels, payment_id))
                return ""
            told = await self._ask(
                planned, lambda channels: payment_client.cancel(channels, payment_id)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() not in TOO_LATE_CODES:
                raise
            return ""
        return state_word(told.state)

    async def _ask(self, planned: PlannedPayment, work: Callable[[Channels], Awaitable[R]]) -> R:
        """At the client's own door first, then at the next."""
        routes = itertools.cycle(self._doors)
        turns = itertools.islice(routes, planned.route % len(self._doors), None)
        return await retry_until_answered(lambda: work(next(turns)))


async def retry_until_answered(ask: Callable[[], Awaitable[R]]) -> R:
    """Ask until there is an answer."""
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
    """The run as it ended, if that comes in time."""
    request = pb.StartRunRequest(
        request_id=proposal.intent.payment_id,
        workflow_id=payment_client.WORKFLOW,
        intent=proposal.intent,
        presentation=proposal.presentation,
    )
    request.input.update(payment_client.values_of(proposal.intent))
    request.wait.FromSeconds(WAIT)
    return await WorkflowServiceStub(channels["orchestrator"]).StartRun(request)
