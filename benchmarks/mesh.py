"""Calls through every interceptor, against the same calls through bare grpc.aio.

Client and server share one process and one loop; both sides of the comparison use mTLS, and their
bursts alternate, so that what slows the machine down slows both.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from anya.mesh.v1 import outbox_pb2 as pb
from anya.mesh.v1.outbox_pb2_grpc import (
    OutboxServiceServicer,
    OutboxServiceStub,
    add_OutboxServiceServicer_to_server,
)
from benchmarks.ratio import Measure, Ratio
from mesh.config import MeshConfig
from mesh.rpc.server import credentials
from mesh.runtime import open_runtime
from mesh.testing import Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceAsyncStub

BURST = 0.05  # seconds
BURSTS = 24  # of each side in one round
REQUEST = pb.ReadOutboxRequest(after_sequence=1)


def chain_vs_bare(rounds: int, *, concurrency: int, goal: float) -> Ratio:
    """All interceptors on both sides, tracing unsampled."""
    return Ratio(
        value=min(asyncio.run(_ratios(rounds, concurrency))),
        goal=goal,
        unit=f"unary calls per second at concurrency {concurrency}, ours over theirs",
        peer=f"grpcio {version('grpcio')}",
    )


MEASURES: dict[str, Measure] = {
    "chain_vs_bare": partial(chain_vs_bare, concurrency=16, goal=0.55),
    "chain_vs_bare_c1": partial(chain_vs_bare, concurrency=1, goal=0.65),
}


class _Empty(OutboxServiceServicer):
    """Answers at once: what is left to measure is the way there and back."""

    async def ReadOutbox(  # noqa: N802
        self,
        request: pb.ReadOutboxRequest,
        context: grpc.aio.ServicerContext[pb.ReadOutboxRequest, pb.ReadOutboxResponse],
    ) -> pb.ReadOutboxResponse:
        return pb.ReadOutboxResponse()


async def _ratios(rounds: int, concurrency: int) -> list[float]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        authority = Authority(folder)
        theirs = await stack.enter_async_context(_bare(authority))
        ours = await stack.enter_async_context(_mesh(authority, folder))
        await _burst(theirs, concurrency)
        await _burst(ours, concurrency)
        return [await _round(theirs, ours, concurrency) for _ in range(rounds)]


async def _round(
    theirs: OutboxServiceAsyncStub, ours: OutboxServiceAsyncStub, concurrency: int
) -> float:
    rates = {theirs: 0.0, ours: 0.0}
    for _ in range(BURSTS):
        for stub in rates:
            rates[stub] += await _burst(stub, concurrency)
    return rates[ours] / rates[theirs]


async def _burst(stub: OutboxServiceAsyncStub, concurrency: int) -> float:
    """Calls per second."""
    start = time.perf_counter()

    async def caller() -> int:
        calls = 0
        while time.perf_counter() < start + BURST:
            await stub.ReadOutbox(REQUEST, timeout=5)
            calls += 1
        return calls

    calls = sum(await asyncio.gather(*(caller() for _ in range(concurrency))))
    return calls / (time.perf_counter() - start)


@asynccontextmanager
async def _bare(authority: Authority) -> AsyncIterator[OutboxServiceAsyncStub]:
    identity = authority.issue_service("bitcoin")
    server = grpc.aio.server()
    add_OutboxServiceServicer_to_server(_Empty(), server)
    port = server.add_secure_port("127.0.0.1:0", credentials(identity))
    channel_credentials = grpc.ssl_channel_credentials(
        identity.ca.read_bytes(), identity.key.read_bytes(), identity.certificate.read_bytes()
    )
    await server.start()
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", channel_credentials) as channel:
        yield OutboxServiceStub(channel)
    await server.stop(None)


@asynccontextmanager
async def _mesh(authority: Authority, folder: Path) -> AsyncIterator[OutboxServiceAsyncStub]:
    server = MeshConfig(
        service="bitcoin", identity=authority.issue_service("bitcoin"), home=folder, sample_ratio=0
    )
    client = replace(
        server, service="orchestrator", identity=authority.issue_service("orchestrator")
    )
    add = partial(add_OutboxServiceServicer_to_server, _Empty())
    async with open_runtime(server) as bitcoin, bitcoin.serve(add) as ports:
        client = replace(client, peers={"bitcoin": f"127.0.0.1:{ports.port}"})
        async with open_runtime(client) as orchestrator, orchestrator.channel("bitcoin") as channel:
            yield OutboxServiceStub(channel)
