"""A funded mesh whose services are killed or stopped at failpoints of a payment."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anya.bitcoin.v1 import chain_pb2, regtest_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub
from cli import payment_client
from cli.connection import connect
from cli.home import SERVICES, Home
from cli.supervisor import control
from mesh.testing import eventually
from tests.faults import evidence, funded_mesh
from tests.faults.payment_clients import retry_until_answered
from tests.scenarios.meshes import up

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cli.connection import Channels
    from cli.payment_client import Proposal
    from tests.faults.funded_mesh import FundedMesh

COINS = 20  # of the payer; each payment spends one
STOPS_WITHIN_S = 30.0
SEND = "anya.bitcoin.v1.WalletService/SendPayment"


@dataclass(frozen=True, slots=True)
class ScenarioMesh:
    home: Home
    funded_mesh: FundedMesh
    supervisor: int  # its process id

    @property
    def shop(self) -> str:
        return self.funded_mesh.shops[0]

    async def propose(self, channels: Channels, amount_sat: int, id: str = "") -> Proposal:
        payer = self.funded_mesh.payers[0]
        return await payment_client.propose(channels, payer, self.shop, amount_sat, payment_id=id)

    async def received(self, channels: Channels, amount_sat: int) -> list[str]:
        """Returns the transactions in chain and mempool that pay the shop this amount."""
        request = chain_pb2.ListUtxosRequest(address=self.shop, page_size=1000)
        chain = ChainServiceStub(channels["bitcoin"])
        page = await retry_until_answered(lambda: chain.ListUtxos(request))
        return [one.txid[::-1].hex() for one in page.utxos if one.amount_sat == amount_sat]

    async def records(self, channels: Channels, tenant: str, payment_id: str) -> int:
        """Returns the number of records of this payment that the payer can read."""
        payer = self.funded_mesh.payers[0]
        entries = await evidence.query(channels, tenant, payer)
        return sum(one["descriptor"]["tags"]["paymentId"] == payment_id for one in entries)

    async def restarts(self) -> dict[str, int]:
        """Returns the number of restarts of each service after crashes."""
        services = (await control.request(self.home, "status"))["services"]
        return {name: int(services[name]["restarts"]) for name in SERVICES}

    async def pid(self, service: str) -> int:
        found: list[int] = []

        async def serves() -> bool:
            status = await control.request(self.home, "status")
            found[:] = filter(None, [status["services"][service]["pid"]])
            return bool(found)

        await eventually(serves, within=STOPS_WITHIN_S)
        return found[0]


@contextmanager
def scenario_mesh(folder: Path, extra: Mapping[str, str] | None = None) -> Iterator[ScenarioMesh]:
    """Runs a funded mesh for the block; blocks are mined on request only."""
    with up(folder, "--mine", "manual", extra=extra) as mesh:
        home = Home(folder)
        yield ScenarioMesh(home, asyncio.run(_fund(home)), mesh.process.pid)


async def _fund(home: Home) -> FundedMesh:
    async with connect(home) as channels:
        return await funded_mesh.fund(home, channels, payers=1, shops=1, coins=COINS)


async def arm_failpoints(home: Home, points: Mapping[str, str]) -> None:
    """Restarts services with a failpoint, which their next process alone has."""
    await asyncio.gather(
        *(
            control.request(home, "restart", service=service, failpoints=point)
            for service, point in points.items()
        )
    )


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Suspends a process for the block, so that it exists but does not answer."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def until_stopped(pid: int) -> None:
    """Waits until a process has reached a failpoint that stops it."""

    def stands_still() -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T")

    await eventually(stands_still, within=STOPS_WITHIN_S)


async def mine(channels: Channels) -> None:
    request = regtest_pb2.MineBlocksRequest(request_id=str(uuid.uuid4()), count=1)
    await RegtestServiceStub(channels["bitcoin"]).MineBlocks(request)


async def mempool(channels: Channels) -> list[str]:
    """Returns the txids in the mempool."""
    stub = ChainServiceStub(channels["bitcoin"])
    reply = await stub.GetMempool(chain_pb2.GetMempoolRequest())
    return [entry.txid[::-1].hex() for entry in reply.entries]
