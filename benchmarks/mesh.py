"""Calls through every interceptor, against the same calls through bare grpc.aio.

Client and server share one process and one loop. Both sides of a comparison use mTLS, and their
bursts alternate, so that other load on the machine slows both alike.
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
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from anya.mesh.v1 import outbox_pb2 as pb
from anya.mesh.v1.outbox_pb2_grpc import (
    OutboxServiceServicer,
    OutboxServiceStub,
    add_OutboxServiceServicer_to_server,
)
from benchmarks.ratio import Measure, Ratio
from benchmarks.rounds import SHORT, Sample, ratio, turns
from mesh.config import MeshConfig
from mesh.observability.config import TraceConfig, collector_config
from mesh.rpc.server import credentials
from mesh.runtime import open_runtime
from mesh.testing import Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceAsyncStub

    Open = Callable[[Authority, Path], AbstractAsyncContextManager[OutboxServiceAsyncStub]]

BURST_S = 0.05
PAIRS = 4 if SHORT else 96  # of bursts in one round
REQUEST = pb.ReadOutboxRequest(after_sequence=1)
EXPORT = f"{trace_service_pb2.DESCRIPTOR.package}.TraceService"


def chain_vs_bare(rounds: int, *, concurrency: int, goal: float) -> Ratio:
    """Measures all interceptors on both sides, with no trace sampled."""
    return _ratio(rounds, open_mesh, _bare, concurrency, goal, f"grpcio {version('grpcio')}")


def chain_all_spans_vs_bare(rounds: int) -> Ratio:
    """Measures all interceptors on both sides; both spans of every call are exported over OTLP."""
    return _ratio(rounds, _sampled_mesh, _bare, 16, 0.47, f"grpcio {version('grpcio')}")


MEASURES: dict[str, Measure] = {
    "chain_vs_bare": partial(chain_vs_bare, concurrency=16, goal=0.80),
    "chain_vs_bare_c1": partial(chain_vs_bare, concurrency=1, goal=0.87),
    "chain_all_spans_vs_bare": chain_all_spans_vs_bare,
}


class _Empty(OutboxServiceServicer):
    """Answers at once, so that the call itself is all that is measured."""

    async def ReadOutbox(  # noqa: N802
        self,
        request: pb.ReadOutboxRequest,
        context: grpc.aio.ServicerContext[pb.ReadOutboxRequest, pb.ReadOutboxResponse],
    ) -> pb.ReadOutboxResponse:
        return pb.ReadOutboxResponse()


def _ratio(
    rounds: int, ours: Open, theirs: Open, concurrency: int, goal: float, peer: str
) -> Ratio:
    ratios = asyncio.run(_measure(rounds, ours, theirs, concurrency))
    return Ratio(
        value=min(ratios),
        rounds=tuple(ratios),
        goal=goal,
        unit=f"unary calls per second at concurrency {concurrency}, ours over theirs",
        peer=peer,
        setup="client and server of both sides in one process and on one asyncio loop, mTLS",
    )


async def _measure(
    rounds: int, open_ours: Open, open_theirs: Open, concurrency: int
) -> list[float]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        authority = Authority(folder)
        theirs = await stack.enter_async_context(open_theirs(authority, folder / "theirs"))
        ours = await stack.enter_async_context(open_ours(authority, folder / "ours"))
        await _burst(theirs, concurrency)
        await _burst(ours, concurrency)
        return [await _round(ours, theirs, concurrency) for _ in range(rounds)]


async def _round(
    ours: OutboxServiceAsyncStub, theirs: OutboxServiceAsyncStub, concurrency: int
) -> float:
    sides = (ours, theirs)
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    for turn in turns(PAIRS):
        samples[turn].append(await _burst(sides[turn], concurrency))
    return ratio(*samples)


async def _burst(stub: OutboxServiceAsyncStub, concurrency: int) -> Sample:
    """Returns the calls made, and the seconds that they took."""
    start = time.perf_counter()

    async def caller() -> int:
        calls = 0
        while time.perf_counter() < start + BURST_S:
            await stub.ReadOutbox(REQUEST, timeout=5)
            calls += 1
        return calls

    calls = sum(await asyncio.gather(*(caller() for _ in range(concurrency))))
    return Sample(calls, time.perf_counter() - start)


@asynccontextmanager
async def _bare(authority: Authority, folder: Path) -> AsyncIterator[OutboxServiceAsyncStub]:
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
async def open_mesh(
    authority: Authority,
    folder: Path,
    *,
    collector: str | None = None,
) -> AsyncIterator[OutboxServiceAsyncStub]:
    """Samples all traces if there is a ``collector``."""
    server = MeshConfig(
        service="bitcoin",
        identity=authority.issue_service("bitcoin"),
        home=folder,
        traces=collector_config(collector) if collector else TraceConfig(sampler="always_off"),
    )
    client = replace(
        server, service="orchestrator", identity=authority.issue_service("orchestrator")
    )
    add = partial(add_OutboxServiceServicer_to_server, _Empty())
    async with AsyncExitStack() as stack:
        bitcoin = await stack.enter_async_context(open_runtime(server))
        ports = await stack.enter_async_context(bitcoin.serve(add))
        client = replace(client, peers={"bitcoin": f"127.0.0.1:{ports.port}"})
        orchestrator = await stack.enter_async_context(open_runtime(client))
        yield OutboxServiceStub(await stack.enter_async_context(orchestrator.channel("bitcoin")))


@asynccontextmanager
async def _sampled_mesh(
    authority: Authority, folder: Path
) -> AsyncIterator[OutboxServiceAsyncStub]:
    async with _collector() as collector, open_mesh(authority, folder, collector=collector) as stub:
        yield stub


@asynccontextmanager
async def _collector() -> AsyncIterator[str]:
    """Serves a collector that drops spans unread, which costs the measured process little."""

    async def export(request: bytes, context: Any) -> bytes:
        return b""

    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Export": grpc.unary_unary_rpc_method_handler(export)
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(EXPORT, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop(None)
