"""Verified payments through a whole mesh: four services, its supervisor, and one client."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli import payment_client, payment_view
from cli.connection import connect, traced
from cli.home import Home
from tests.faults import funded_mesh
from tests.scenarios.meshes import up

if TYPE_CHECKING:
    from cli.connection import Channels
    from tests.faults.funded_mesh import FundedMesh

CONCURRENCY = 16
PAYERS = 40  # one who pays a hundred times a day is out of what the model has seen
SHOPS = 20
PAYMENTS = 160  # in one round


@dataclass(frozen=True, slots=True)
class Measured:
    per_second: float
    p99_ms: float  # from asking for the nonce to the end of the run, record included


async def measure(rounds: int) -> list[Measured]:
    """Measures the rounds after a first one that warms up and does not count."""
    coins = (rounds + 1) * PAYMENTS // PAYERS + 10
    with (
        tempfile.TemporaryDirectory() as folder,
        up(Path(folder), "--mine", "auto", extra={"ANYA_EVENT_LOOP": "asyncio"}),
    ):
        home = Home(Path(folder))
        async with connect(home) as channels:
            funded = await funded_mesh.fund(home, channels, payers=PAYERS, shops=SHOPS, coins=coins)
            return [await _round(channels, funded) for _ in range(rounds + 1)][1:]


async def _round(channels: Channels, funded: FundedMesh) -> Measured:
    durations: list[float] = []
    waiting = iter(range(PAYMENTS))
    network = await payment_client.network(channels)
    start = time.perf_counter()

    async def client() -> None:
        for number in waiting:
            began = time.perf_counter()
            await _pay(channels, funded, number, network)
            durations.append(time.perf_counter() - began)

    await asyncio.gather(*(client() for _ in range(CONCURRENCY)))
    elapsed = time.perf_counter() - start
    return Measured(PAYMENTS / elapsed, sorted(durations)[PAYMENTS * 99 // 100] * 1000)


async def _pay(channels: Channels, funded: FundedMesh, number: int, network: str) -> None:
    payer, shop = funded.payers[number % PAYERS], funded.shops[number % len(funded.shops)]
    with traced("pay"):  # as `anya pay` does
        proposal = await payment_client.propose(channels, payer, shop, 100_000 + number, on=network)
        made = await payment_client.pay(channels, proposal)
    if payment_view.exit_code(made):
        raise AssertionError(f"a payment failed: {payment_view.lines(made)}")
