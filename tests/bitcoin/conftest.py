"""Fixtures: a running bitcoin service, and channels to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry.trace import NoOpTracer

from mesh.breaker import Breakers
from mesh.clock import SystemClock
from mesh.config import MeshConfig
from mesh.rpc.client import open_channel
from mesh.rpc.interceptors import ClientRules
from services.bitcoin.__main__ import Bitcoin, bitcoin
from services.bitcoin.config import BitcoinConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import grpc

    from mesh.config import Identity
    from mesh.testing import Authority


@pytest.fixture
def config(authority: Authority, tmp_path: Path) -> BitcoinConfig:
    identity = authority.issue_service("bitcoin")
    return BitcoinConfig(mesh=MeshConfig(service="bitcoin", identity=identity, home=tmp_path))


@pytest.fixture
async def service(config: BitcoinConfig) -> AsyncIterator[Bitcoin]:
    async with bitcoin(config) as service:
        yield service


@pytest.fixture
async def operator(authority: Authority, service: Bitcoin) -> AsyncIterator[grpc.aio.Channel]:
    """A channel with the operator's certificate."""
    identity = authority.issue("spiffe://anya.internal/client/operator")
    async with channel_to(service.port, identity) as operator:
        yield operator


@pytest.fixture
async def orchestrator(authority: Authority, service: Bitcoin) -> AsyncIterator[grpc.aio.Channel]:
    async with channel_to(service.port, authority.issue_service("orchestrator")) as orchestrator:
        yield orchestrator


def channel_to(port: int, identity: Identity) -> grpc.aio.Channel:
    rules = ClientRules(
        target="bitcoin", tracer=NoOpTracer(), breakers=Breakers(SystemClock()), timeout=30.0
    )
    return open_channel(f"127.0.0.1:{port}", rules, identity)
