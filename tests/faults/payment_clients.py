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
from tests.faults.fault_schedule import Cancel, Way

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from cli.connection import Channels
    from cli.payment_client import Outcome, Proposal
    from tests.faults.fault_schedule import Planned
    from tests.faults.funded_mesh import Town

R = TypeVar("R")

PATIENCE = 60.0  # seconds that a client goes on asking a service that is down
ASK_AGAIN = 0.1
WAIT = 10  # seconds, of a call that waits for the end
REDRIVE_AFTER = 0.5  # seconds from an end to the next attempt
MAX_REDRIVES = 60
LOST = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
TOO_LATE = {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND}
REDRIVABLE = {
    pb.RUN_STATUS_FAILED,
    pb.RUN_STATUS_NEEDS_ATTENTION,
    pb.RUN_STATUS_COMPENSATION_FAILED,
}

HASTY = "hasty_payment"
ROOT = Path(__file__).parents[2]
SEED = ROOT / "services" / "orchestrator" / "workflows" / "verified_payment.json"


@dataclass(frozen=True, slots=True)
class Followed:
    """A payment and what its client saw of it."""

    planned: Planned
    proposal: Proposal
    outcome: Outcome
    told: str = ""  # the payment's state, where its client cancelled it and was answered so
    redrives: int = 0


async def register_hasty(channels: Channels) -> None:
    """The verified payment, but a call of its first steps that goes unheard once is given up."""
    document = json.loads(SEED.read_text())
    document.update(id=HASTY, name=HASTY)
    document["steps"][0]["retry"] = {"max_attempts": 1}
    await runs.register(channels, json.dumps(document))


class Clients:
    """Who pay in one town, by way of any of its orchestrators."""

    def __init__(self, doors: Sequence[Channels], town: Town) -> None:
        self._doors = doors
        self._town = town

    async def pay(self, planned: Planned) -> Followed:
        """Propose, start, perhaps cancel, and follow it to its end."""
        payer = self._town.payers[planned.payer]
        thief = replace(self._town.stranger, addresses=payer.addresses)
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
        return Followed(
            planned, proposal, payment_client.outcome(run), cancelling.result(), redrives
        )

    async def _finish(self, planned: Planned, proposal: Proposal) -> pb.Run:
        """Have it made in its way; its run when that has ended."""
        payment_id = proposal.intent.payment_id
        match planned.way:
            case Way.SEND:
                await self._ask(planned, lambda channels: payment_client.send(channels, proposal))
                await self._ask(planned, lambda channels: payment_client.end(channels, payment_id))
            case Way.WAIT:
                reply = await self._ask(planned, lambda channels: _start(channels, proposal))
                if reply.run.status in runs.ENDED:
                    return reply.run
            case Way.RUN | Way.HASTY:
                name = HASTY if planned.way is Way.HASTY else payment_client.WORKFLOW
                await self._ask(
                    planned,
                    lambda channels: payment_client.start(channels, proposal, workflow_id=name),
                )
        return await self._ask(planned, lambda channels: runs.finish(channels, payment_id))

    async def _redrive(self, planned: Planned, run: pb.Run) -> tuple[pb.Run, int]:
        """What stopped it passes: have it go on until it ends as a payment may."""
        for count in itertools.count():
            if run.status not in REDRIVABLE or count == MAX_REDRIVES:
                return run, count
            await asyncio.sleep(REDRIVE_AFTER)
            run = await self._redriven(planned, run.run_id, f"{run.run_id}/redrive/{count}")
        raise AssertionError

    async def _redriven(self, planned: Planned, run_id: str, request_id: str) -> pb.Run:
        await self._ask(
            planned, lambda channels: runs.redrive(channels, run_id, request_id=request_id)
        )
        return await self._ask(planned, lambda channels: runs.finish(channels, run_id))

    async def _cancel(self, planned: Planned, payment_id: str) -> str:
        """Where it is meant to be: the state of the payment that the client is told, if any."""
        if planned.cancel is None:
            return ""
        await asyncio.sleep(planned.cancel_after)
        try:
            if planned.cancel is Cancel.RUN:
                await self._ask(planned, lambda channels: runs.cancel(channels, payment_id))
                return ""
            told = await self._ask(
                planned, lambda channels: payment_client.cancel(channels, payment_id)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() not in TOO_LATE:
                raise
            return ""
        return state_word(told.state)

    async def _ask(self, planned: Planned, work: Callable[[Channels], Awaitable[R]]) -> R:
        """At the client's own door first, then at the next."""
        doors = itertools.cycle(self._doors)
        turns = itertools.islice(doors, planned.door % len(self._doors), None)
        return await persist(lambda: work(next(turns)))


async def persist(ask: Callable[[], Awaitable[R]]) -> R:
    """Ask until there is an answer."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await ask()
        except grpc.aio.AioRpcError as error:
            if error.code() not in LOST or time.monotonic() > deadline:
                raise
        await asyncio.sleep(ASK_AGAIN)


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
