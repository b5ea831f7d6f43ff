"""Fixtures: the running service, its callers, and the other services' attestors."""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.web5.v1 import identity_pb2 as pb
from anya.web5.v1.analysis_pb2_grpc import AnalysisServiceStub
from anya.web5.v1.did_pb2_grpc import DidServiceStub
from anya.web5.v1.identity_pb2_grpc import IdentityServiceStub
from anya.web5.v1.record_pb2_grpc import RecordServiceStub
from mesh.config import MeshConfig
from mesh.security.attestation import Attestor, Verifier
from services.web5.__main__ import web5
from services.web5.config import Web5Config
from tests.web5.holder import Payer, signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anya.mesh.v1.attestation_pb2 import PaymentIntent
    from anya.web5.v1.analysis_pb2_grpc import AnalysisServiceAsyncStub
    from anya.web5.v1.did_pb2_grpc import DidServiceAsyncStub
    from anya.web5.v1.identity_pb2_grpc import IdentityServiceAsyncStub
    from anya.web5.v1.record_pb2_grpc import RecordServiceAsyncStub
    from mesh.config import Identity
    from mesh.testing import Authority

CLIENT = "spiffe://anya.internal/client/operator"

POLICY = """\
version: 1
classes:
  biometric:
    credential_types: [BiometricCredential]
    issuers: ["{issuer}"]
    confidence: 0.95
    assurance: substantial
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A started service with stubs for its callers."""

    did: str
    client: grpc.aio.Channel
    orchestrator: grpc.aio.Channel

    async def begin(self, paid: PaymentIntent) -> pb.BeginVerificationResponse:
        request = pb.BeginVerificationRequest(request_id=str(uuid.uuid4()), intent=paid)
        return await self.identity.BeginVerification(request, timeout=5)

    async def verify(self, request: pb.VerifyIdentityRequest) -> pb.VerifyIdentityResponse:
        return await self.engine.VerifyIdentity(request, timeout=5)

    @property
    def identity(self) -> IdentityServiceAsyncStub:
        return IdentityServiceStub(self.client)

    @property
    def engine(self) -> IdentityServiceAsyncStub:
        return IdentityServiceStub(self.orchestrator)

    @property
    def dids(self) -> DidServiceAsyncStub:
        return DidServiceStub(self.client)

    @property
    def records(self) -> RecordServiceAsyncStub:
        return RecordServiceStub(self.client)

    @property
    def bookkeeping(self) -> RecordServiceAsyncStub:
        return RecordServiceStub(self.orchestrator)

    @property
    def analysis(self) -> AnalysisServiceAsyncStub:
        return AnalysisServiceStub(self.orchestrator)


@pytest.fixture
def payer() -> Payer:
    return Payer(holder=signer(), issuer=signer())


@pytest.fixture
def config(authority: Authority, tmp_path: Path, payer: Payer) -> Web5Config:
    """A home whose policy trusts the payer's issuer."""
    mesh = MeshConfig(
        service="web5", identity=authority.issue_service("web5"), home=tmp_path / "home"
    )
    made = Web5Config.at_home(mesh)
    made.identity_policy.parent.mkdir(mode=0o700, parents=True)
    made.identity_policy.write_text(POLICY.format(issuer=payer.issuer.did))
    return made


@asynccontextmanager
async def start(config: Web5Config, authority: Authority) -> AsyncIterator[Running]:
    async with (
        web5(config) as service,
        channel(service.port, authority.issue(CLIENT)) as client,
        channel(service.port, authority.issue_service("orchestrator")) as orchestrator,
    ):
        yield Running(service.did, client, orchestrator)


@pytest.fixture
async def running(config: Web5Config, authority: Authority) -> AsyncIterator[Running]:
    async with start(config, authority) as service:
        yield service


@pytest.fixture
def bitcoin(authority: Authority) -> Attestor:
    """The attestor of the bitcoin service."""
    return Attestor(authority.issue_service("bitcoin"))


@pytest.fixture
def verifier(config: Web5Config) -> Verifier:
    """A verifier of web5's attestations, as in bitcoin and ml."""
    return Verifier(config.mesh.identity.ca, config.mesh.trust_domain)


def channel(port: int, identity: Identity) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(
        identity.ca.read_bytes(), identity.key.read_bytes(), identity.certificate.read_bytes()
    )
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials)
