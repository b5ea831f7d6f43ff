"""Fixtures: the running service, the demonstration world, and the attestations of payments."""

from __future__ import annotations

import hashlib
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.mesh.v1 import features_pb2
from anya.mesh.v1.attestation_pb2 import PaymentIntent, RunContext
from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceStub
from anya.ml.v1 import risk_pb2 as pb
from anya.ml.v1.risk_pb2_grpc import RiskServiceStub
from anya.standard.inference.v2.inference_pb2_grpc import GRPCInferenceServiceStub
from features.payment_risk import PAYMENT_RISK, PaymentFacts, RecipientLink, extract
from mesh.config import MeshConfig
from mesh.security.attestation import Attestor, payment_digest
from services.ml.__main__ import ml
from services.ml.config import MlConfig
from services.ml.servicers.risk import STATUS_NUMBERS
from services.ml.simulation.demonstration import at_tip, illicit_recipient, licit_recipient
from services.ml.simulation.population import demo_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceAsyncStub
    from anya.ml.v1.risk_pb2_grpc import RiskServiceAsyncStub
    from anya.standard.inference.v2.inference_pb2_grpc import GRPCInferenceServiceAsyncStub
    from features.feature import Feature
    from mesh.config import Identity
    from mesh.testing import Authority
    from services.ml.simulation.index import AddressIndex
    from services.ml.simulation.truth import World

CLIENT = "spiffe://anya.internal/client/operator"
AMOUNT_SAT = 25_000_000


@dataclass(frozen=True, slots=True)
class Running:
    """A started service with stubs for its callers."""

    client: grpc.aio.Channel
    orchestrator: grpc.aio.Channel

    @property
    def inference(self) -> GRPCInferenceServiceAsyncStub:
        return GRPCInferenceServiceStub(self.client)

    @property
    def risk(self) -> RiskServiceAsyncStub:
        return RiskServiceStub(self.orchestrator)

    @property
    def outbox(self) -> OutboxServiceAsyncStub:
        return OutboxServiceStub(self.orchestrator)

    async def assess(self, request: pb.AssessFraudRiskRequest) -> pb.AssessFraudRiskResponse:
        return await self.risk.AssessFraudRisk(request, timeout=5)


@pytest.fixture
def config(authority: Authority, tmp_path: Path) -> MlConfig:
    mesh = MeshConfig(service="ml", identity=authority.issue_service("ml"), home=tmp_path / "home")
    return MlConfig(mesh, database=str(tmp_path / "ml.db"))


@asynccontextmanager
async def start(config: MlConfig, authority: Authority) -> AsyncIterator[Running]:
    async with (
        ml(config) as service,
        channel(service.port, authority.issue(CLIENT)) as client,
        channel(service.port, authority.issue_service("orchestrator")) as orchestrator,
    ):
        yield Running(client, orchestrator)


@pytest.fixture
async def running(config: MlConfig, authority: Authority) -> AsyncIterator[Running]:
    async with start(config, authority) as service:
        yield service


@dataclass(frozen=True, slots=True)
class PaymentAttestors:
    """The attestors whose attestations ml accepts, each for its own kinds."""

    bitcoin: Attestor
    web5: Attestor

    def request(
        self,
        features: tuple[Feature, ...],
        *,
        recipient: str = "bcrt1shop",
        confidence: float = 0.95,
        index_at_tip: bool = True,
    ) -> pb.AssessFraudRiskRequest:
        """Returns a request with all its attestations."""
        intent = PaymentIntent(
            network="regtest",
            payment_id=str(uuid.uuid4()),
            sender_did="did:key:payer",
            sender_address="bcrt1payer",
            recipient_address=recipient,
            amount_sat=AMOUNT_SAT,
        )
        vector = features_pb2.FeatureVector(
            feature_set=PAYMENT_RISK.name,
            feature_set_hash=bytes.fromhex(PAYMENT_RISK.hash),
            features=[
                features_pb2.Feature(
                    name=feature.name, value=feature.value, status=STATUS_NUMBERS[feature.status]
                )
                for feature in features
            ],
            as_of_block_hash=bytes(32),
            as_of_height=300,
            index_at_tip=index_at_tip,
        )
        request = pb.AssessFraudRiskRequest(
            request_id=intent.payment_id,
            sender_did=intent.sender_did,
            recipient_address=recipient,
            amount_sat=AMOUNT_SAT,
            sender_verification_score=1.0,
            features=vector,
            context=RunContext(intent=intent),
        )
        return self.attest(request, confidence=confidence)

    def attest(
        self, request: pb.AssessFraudRiskRequest, *, confidence: float = 0.95
    ) -> pb.AssessFraudRiskRequest:
        """Replaces the attestations of a request by those of its current content."""
        digest = payment_digest(request.context.intent)
        sha256 = hashlib.sha256(request.features.SerializeToString(deterministic=True)).hexdigest()
        del request.context.attestations[:]
        request.context.attestations.extend(
            (
                self.bitcoin.attest("payment_features", digest, values={"sha256": sha256}),
                self.web5.attest("identity", digest, values={"confidence": confidence}),
            )
        )
        return request


@pytest.fixture
def attestors(authority: Authority) -> PaymentAttestors:
    return PaymentAttestors(
        Attestor(authority.issue_service("bitcoin")), Attestor(authority.issue_service("web5"))
    )


@cache
def demo() -> tuple[World, AddressIndex]:
    world = demo_world()
    return world, at_tip(world)


def facts(slot: int, *, amount_sat: int = AMOUNT_SAT, linked_for: int = 30) -> PaymentFacts:
    """Returns the facts of a payment by the demonstration's payer to a slot."""
    world, index = demo()
    assert world.plan.payer_slot is not None
    return PaymentFacts(
        height=index.height,
        amount_sat=amount_sat,
        recipient=index.history(slot),
        sender=(index.history(world.plan.payer_slot),),
        sender_link_heights=(index.height - linked_for,),
        recipient_link=RecipientLink(None),
    )


def to_the_shop() -> tuple[Feature, ...]:
    return extract(facts(licit_recipient(demo()[0])))


def to_the_scam() -> tuple[Feature, ...]:
    return extract(facts(illicit_recipient(demo()[0])))


def channel(port: int, identity: Identity) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(
        identity.ca.read_bytes(), identity.key.read_bytes(), identity.certificate.read_bytes()
    )
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials)
