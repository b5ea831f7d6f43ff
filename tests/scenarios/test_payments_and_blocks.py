"""Payments of a whole mesh whose transaction leaves the mempool or whose block is reorganized."""

from __future__ import annotations

import os
import signal
import uuid
from itertools import count
from typing import TYPE_CHECKING

import pytest

from anya.bitcoin.v1 import regtest_pb2
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub
from cli import payment_client, runs
from cli.connection import connect, traced
from cli.home import SERVICES
from cli.spans import store
from mesh.testing import eventually
from tests.faults.payment_clients import retry_until_answered, state_word
from tests.scenarios.kill_points import ScenarioMesh, mempool, mine, scenario_mesh

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anya.orchestrator.v1 import payment_pb2
    from cli.connection import Channels

AMOUNTS = count(400_000)  # each payment is identified by its amount
STATE_WITHIN_S = 30.0


@pytest.fixture(scope="module")
def mesh(
    databases: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScenarioMesh]:
    with scenario_mesh(tmp_path_factory.mktemp("blocks") / "home", databases) as mesh:
        yield mesh


async def pay(mesh: ScenarioMesh, channels: Channels, amount_sat: int) -> payment_pb2.Payment:
    """Makes a payment that is not in a block yet."""
    with traced("pay"):
        proposal = await retry_until_answered(lambda: mesh.propose(channels, amount_sat))
        return await payment_client.pay(channels, proposal)


async def until(channels: Channels, payment_id: str, state: str) -> payment_pb2.Payment:
    """Returns the payment as shown, after bitcoin has it in this state."""
    shown: list[payment_pb2.Payment] = []

    async def is_so() -> bool:
        shown[:] = [await retry_until_answered(lambda: payment_client.get(channels, payment_id))]
        return shown[0].HasField("state") and state_word(shown[0].state) == state

    await eventually(is_so, within=STATE_WITHIN_S)
    return shown[0]


async def test_payment_lost_from_the_mempool_is_broadcast_again(mesh: ScenarioMesh) -> None:
    amount_sat = next(AMOUNTS)

    async with connect(mesh.home) as channels:
        paid = await pay(mesh, channels, amount_sat)
        txid = paid.txid[::-1].hex()
        before = await mempool(channels)
        os.kill(await mesh.pid("bitcoin"), signal.SIGKILL)  # the mempool is in memory only

        async def waits_again() -> bool:
            return await retry_until_answered(lambda: mempool(channels)) == [txid]

        await eventually(waits_again, within=STATE_WITHIN_S)
        await mine(channels)
        confirmed = await until(channels, paid.payment_id, "CONFIRMED")

        assert before == [txid]
        assert confirmed.confirmations == 1
        assert await mesh.received(channels, amount_sat) == [txid]


async def test_payment_survives_a_reorganization_of_its_block(mesh: ScenarioMesh) -> None:
    """The shown state goes back and forward again; run, record and trace do not change."""
    amount_sat = next(AMOUNTS)

    async with connect(mesh.home) as channels:
        paid = await pay(mesh, channels, amount_sat)
        txid = paid.txid[::-1].hex()
        await mine(channels)
        first = await until(channels, paid.payment_id, "CONFIRMED")
        await RegtestServiceStub(channels["bitcoin"]).ReorganizeChain(
            regtest_pb2.ReorganizeChainRequest(request_id=str(uuid.uuid4()), depth=1)
        )
        dropped = await until(channels, paid.payment_id, "BROADCAST")
        waiting = await mempool(channels)
        await mine(channels)
        again = await until(channels, paid.payment_id, "CONFIRMED")
        run = await runs.get(channels, paid.payment_id)
        outcome = payment_client.outcome(run)

        assert (first.confirmations, dropped.confirmations, again.confirmations) == (1, 0, 1)
        assert waiting == [txid]
        assert first.txid == dropped.txid == again.txid == paid.txid
        assert await mesh.received(channels, amount_sat) == [txid]
        assert await mesh.records(channels, outcome.record_tenant, paid.payment_id) == 1
        assert outcome.status == "SUCCEEDED"

    def is_whole() -> bool:
        trace = store.load(mesh.home.traces, paid.trace_id)
        return trace.is_whole and trace.services == sorted([*SERVICES, "client"])

    await eventually(is_whole, within=STATE_WITHIN_S)
