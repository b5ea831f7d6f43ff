"""One payment of a whole mesh at two orchestrators, each of which is killed amid it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from cli import payment_client, runs
from tests.faults import evidence, funded_mesh
from tests.faults.deployment import REPLICA, Store, standing
from tests.faults.fault_schedule import LEAST_SAT, Planned
from tests.faults.payment_clients import Followed, persist
from tests.scenarios.kill_points import frozen

if TYPE_CHECKING:
    from pathlib import Path

    from cli.connection import Channels


async def test_a_payment_that_is_sent_at_both_is_made_once_whoever_dies(tmp_path: Path) -> None:
    planned = Planned(number=0, payer=0, recipient=0, amount_sat=LEAST_SAT)

    async with standing(tmp_path / "home", Store.POSTGRES) as ground:
        channels, _ = ground.doors
        place = await funded_mesh.settle(ground.home, channels, payers=1, shops=1, coins=9)
        proposal = await payment_client.propose(
            channels, place.payers[0], place.shops[0], planned.amount_sat
        )
        payment_id = proposal.intent.payment_id

        async def send(door: Channels) -> None:
            await persist(lambda: payment_client.send(door, proposal))

        with frozen(await ground.pid("bitcoin")):  # so that the payment is under way
            await asyncio.gather(*(send(door) for door in ground.doors * 8))
            for service in ("orchestrator", REPLICA):
                os.kill(await ground.pid(service), signal.SIGKILL)
        ends = await asyncio.gather(*(runs.finish(door, payment_id) for door in ground.doors))
        followed = [Followed(planned, proposal, payment_client.outcome(ends[0]))]
        gathered = await evidence.gather(channels, place, followed)

        assert evidence.contradictions(gathered, followed) == []
        assert ends[0] == ends[1]
        assert ends[0].recoveries > 0
