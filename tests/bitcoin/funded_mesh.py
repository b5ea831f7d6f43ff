"""A running bitcoin service with a funded wallet, and an attestor for each required proof."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anya.bitcoin.v1 import chain_pb2, regtest_pb2, wallet_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.bitcoin.v1.ownership_pb2_grpc import OwnershipServiceStub
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub
from anya.bitcoin.v1.wallet_pb2_grpc import WalletServiceStub
from anya.mesh.v1 import outbox_pb2
from anya.mesh.v1.attestation_pb2 import Attestation, PaymentIntent, RunContext
from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceStub
from formats import uuid7
from formats.money import MAX_SAT, SAT_PER_BTC
from mesh.breaker import Breakers
from mesh.clock import SystemClock
from mesh.config import MeshConfig
from mesh.observability.config import TraceConfig
from mesh.observability.telemetry import open_traces
from mesh.rpc.client import open_channel
from mesh.rpc.interceptors import ClientRules
from mesh.security.attestation import Attestor, payment_digest
from services.bitcoin.__main__ import bitcoin
from services.bitcoin.config import BitcoinConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import grpc

    from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceAsyncStub
    from anya.bitcoin.v1.ownership_pb2_grpc import OwnershipServiceAsyncStub
    from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceAsyncStub
    from anya.bitcoin.v1.wallet_pb2_grpc import WalletServiceAsyncStub
    from mesh.testing import Authority

RECIPIENT = "bcrt1q6rz28mcfaxtmd6v789l9rrlrusdprr9pz3cppk"
SENDER = "did:jwk:eyJrdHkiOiJPS1AifQ"
COINBASE_SAT = 50 * SAT_PER_BTC
MATURITY_BLOCKS = 100  # on top of a coinbase


def new_payment_id() -> str:
    """Returns a new UUIDv7."""
    return uuid7.from_parts(time.time_ns() // 1_000_000, os.urandom(uuid7.RANDOM_BYTES))


@dataclass
class FundedMesh:
    client: grpc.aio.Channel
    orchestrator: grpc.aio.Channel
    attestors: dict[str, Attestor]
    wallet_id: str = ""
    address: str = ""

    @property
    def chain(self) -> ChainServiceAsyncStub:
        return ChainServiceStub(self.client)

    @property
    def wallet(self) -> WalletServiceAsyncStub:
        return WalletServiceStub(self.client)

    @property
    def spender(self) -> WalletServiceAsyncStub:
        return WalletServiceStub(self.orchestrator)

    @property
    def ownership(self) -> OwnershipServiceAsyncStub:
        return OwnershipServiceStub(self.client)

    @property
    def regtest(self) -> RegtestServiceAsyncStub:
        return RegtestServiceStub(self.client)

    async def mine(self, count: int = 1, address: str = "") -> None:
        request = regtest_pb2.MineBlocksRequest(
            request_id=str(uuid.uuid4()), count=count, address=address
        )
        await self.regtest.MineBlocks(request, timeout=60)

    async def reorganize(self, depth: int) -> None:
        await self.regtest.ReorganizeChain(
            regtest_pb2.ReorganizeChainRequest(request_id=str(uuid.uuid4()), depth=depth)
        )

    async def derive(self) -> str:
        request = wallet_pb2.DeriveAddressRequest(
            request_id=uuid.uuid4().hex, wallet_id=self.wallet_id
        )
        return (await self.wallet.DeriveAddress(request)).address

    async def open_wallet(self, *, coins: int) -> None:
        """Creates a wallet, and mines mature coinbases to one of its addresses."""
        created = await self.wallet.CreateWallet(
            wallet_pb2.CreateWalletRequest(request_id=uuid.uuid4().hex, name="payer")
        )
        self.wallet_id = created.wallet.wallet_id
        self.address = await self.derive()
        await self.mine(coins, self.address)
        await self.mine(MATURITY_BLOCKS)

    def payment_request(self, **changes: Any) -> wallet_pb2.SendPaymentRequest:
        """Returns a payment request with every proof; ``changes`` apply to request and intent."""
        ordered = {
            "payment_id": new_payment_id(),
            "sender_address": self.address,
            "recipient_address": RECIPIENT,
            "amount_sat": 1_000_000,
            **changes,
        }
        intent = PaymentIntent(network="regtest", sender_did=SENDER, **ordered)
        return wallet_pb2.SendPaymentRequest(
            request_id=intent.payment_id,
            from_address=intent.sender_address,
            to_address=intent.recipient_address,
            amount_sat=intent.amount_sat,
            context=RunContext(intent=intent, attestations=self.proofs(intent)),
        )

    def proofs(self, intent: PaymentIntent, *, score: float = 0.1) -> list[Attestation]:
        if not 0 < intent.amount_sat <= MAX_SAT:
            return []
        digest = payment_digest(intent)
        web5, ml = self.attestors["web5"], self.attestors["ml"]
        return [
            web5.attest("identity", digest, values={"confidence": 0.9, "assurance": "substantial"}),
            web5.attest("address_link", digest, values={}),
            ml.attest("risk", digest, values={"score": score, "decision": "accept"}),
        ]

    async def state(self, payment_id: str) -> str:
        request = wallet_pb2.GetPaymentRequest(payment_id=payment_id)
        found = await self.spender.GetPayment(request)
        return wallet_pb2.PaymentState.Name(found.payment.state).removeprefix("PAYMENT_STATE_")

    async def reaches(self, payment_id: str, state: str, *, within: float = 10.0) -> None:
        """Polls the payment over the wire until it is in this state."""
        async with asyncio.timeout(within):
            while await self.state(payment_id) != state:
                pass

    async def waiting(self) -> list[bytes]:
        """Returns the txids in the mempool."""
        mempool = await self.chain.GetMempool(chain_pb2.GetMempoolRequest())
        return [entry.txid for entry in mempool.entries]

    async def events(self, prefix: str) -> list[str]:
        """Returns the types of events with a prefix, without it, in order."""
        outbox = OutboxServiceStub(self.orchestrator)
        page = await outbox.ReadOutbox(outbox_pb2.ReadOutboxRequest(page_size=1000))
        types = [entry.event.type for entry in page.entries]
        return [type.removeprefix(prefix) for type in types if type.startswith(prefix)]


def config(authority: Authority, home: Path, **settings: Any) -> BitcoinConfig:
    identity = authority.issue_service("bitcoin")
    mesh = MeshConfig(service="bitcoin", identity=identity, home=home)
    return BitcoinConfig(mesh=mesh, **{"poll_seconds": 0.2, **settings})


@asynccontextmanager
async def connect(authority: Authority, port: int) -> AsyncIterator[FundedMesh]:
    """Connects a client and an orchestrator to the service at a port."""
    rules = ClientRules(
        target="bitcoin",
        tracer=open_traces("tests", TraceConfig()).tracer,
        breakers=Breakers(SystemClock()),
        timeout=30.0,
    )
    target = f"127.0.0.1:{port}"
    operator = authority.issue("spiffe://anya.internal/client/operator")
    client = open_channel(target, rules, operator)
    orchestrator = open_channel(target, rules, authority.issue_service("orchestrator"))
    attestors = {name: Attestor(authority.issue_service(name)) for name in ("web5", "ml")}
    async with client, orchestrator:
        yield FundedMesh(client, orchestrator, attestors)


@asynccontextmanager
async def running(config: BitcoinConfig, authority: Authority) -> AsyncIterator[FundedMesh]:
    """Runs the service on an existing folder, and connects to it."""
    async with bitcoin(config) as service, connect(authority, service.port) as people:
        yield people


@asynccontextmanager
async def open_funded_mesh(
    config: BitcoinConfig, authority: Authority, coins: int = 1
) -> AsyncIterator[FundedMesh]:
    """Runs a new service; the wallet's address has ``coins`` mature coinbases."""
    async with running(config, authority) as people:
        await people.open_wallet(coins=coins)
        yield people
