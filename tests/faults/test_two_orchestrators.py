"""One payment sent to two orchestrators, each of which is killed during the payment."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from cli import payment_client, runs
from tests.faults import evidence, funded_mesh
from tests.faults.deployment import REPLICA, Store, deploy
from tests.faults.fault_schedule import MIN_AMOUNT_SAT, PlannedPayment
from tests.faults.payment_clients import ObservedPayment, retry_until_answered
from tests.scenarios.kill_points import paused

if TYPE_CHECKING:
    from pathlib import Path

    from cli.connection import Channels


async def test_payment_sent_to_both_orchestrators_is_made_once_despite_kills(
    tmp_path: Path,
) -> None:
    planned = PlannedPayment(number=0, payer=0, recipient=0, amount_sat=MIN_AMOUNT_SAT)

    async with deploy(tmp_path / "home", Store.POSTGRES) as deployment:
        channels, _ = deployment.routes
        funded = await funded_mesh.fund(deployment.home, channels, payers=1, shops=1, coins=9)
        proposal = await payment_client.propose(
            channels, funded.payers[0], funded.shops[0], planned.amount_sat
        )
        payment_id = proposal.intent.payment_id

        async def send(route: Channels) -> None:
            await retry_until_answered(lambda: payment_client.send(route, proposal))

        with paused(await deployment.pid("bitcoin")):  # keeps the payment in progress
            await asyncio.gather(*(send(route) for route in deployment.routes * 8))
            for service in ("orchestrator", REPLICA):
                os.kill(await deployment.pid(service), signal.SIGKILL)
        ends = await asyncio.gather(
            *(runs.finish(route, payment_id) for route in deployment.routes)
        )
        observed = [ObservedPayment(planned, proposal, payment_client.outcome(ends[0]))]
        gathered = await evidence.gather(channels, funded, observed)

        assert evidence.contradictions(gathered, observed) == []
        assert ends[0] == ends[1]
        assert ends[0].recoveries > 0
