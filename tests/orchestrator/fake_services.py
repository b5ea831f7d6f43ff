"""Fakes of the other services, on the contracts' servicers, that the engine calls in tests.

They store the first reply of each mutation, as every service does, count effects, and fail as a
test requests.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, defaultdict, deque
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

from anya.bitcoin.v1 import analysis_pb2 as bitcoin_analysis
from anya.bitcoin.v1 import ownership_pb2, wallet_pb2
from anya.bitcoin.v1.analysis_pb2_grpc import AnalysisServiceServicer as BitcoinAnalysisServicer
from anya.bitcoin.v1.analysis_pb2_grpc import (
    add_AnalysisServiceServicer_to_server as add_bitcoin_analysis,
)
from anya.bitcoin.v1.ownership_pb2_grpc import (
    OwnershipServiceServicer,
    add_OwnershipServiceServicer_to_server,
)
from anya.bitcoin.v1.wallet_pb2_grpc import (
    WalletServiceServicer,
    add_WalletServiceServicer_to_server,
)
from anya.mesh.v1.attestation_pb2 import Attestation
from anya.mesh.v1.features_pb2 import AddressLinks, FeatureVector
from anya.ml.v1 import risk_pb2
from anya.ml.v1.risk_pb2_grpc import RiskServiceServicer, add_RiskServiceServicer_to_server
from anya.web5.v1 import analysis_pb2 as web5_analysis
from anya.web5.v1 import did_pb2, identity_pb2, record_pb2
from anya.web5.v1.analysis_pb2_grpc import AnalysisServiceServicer as Web5AnalysisServicer
from anya.web5.v1.analysis_pb2_grpc import (
    add_AnalysisServiceServicer_to_server as add_web5_analysis,
)
from anya.web5.v1.did_pb2_grpc import DidServiceServicer, add_DidServiceServicer_to_server
from anya.web5.v1.identity_pb2_grpc import (
    IdentityServiceServicer,
    add_IdentityServiceServicer_to_server,
)
from anya.web5.v1.record_pb2_grpc import RecordServiceServicer, add_RecordServiceServicer_to_server
from mesh.config import MeshConfig
from mesh.errors import AlreadyExists, FailedPrecondition, MeshError, NotFound, Reason
from mesh.observability.config import TraceConfig
from mesh.runtime import open_runtime
from services.web5 import approval
from services.web5.proof import VerificationError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mesh.testing import Authority

R = TypeVar("R", bound=Message)


@dataclass(slots=True)
class FakeServices:
    """Calls and effects of the fake services, and the failures that tests request."""

    effects: Counter[str] = field(default_factory=Counter)  # by method
    calls: list[tuple[str, Message]] = field(default_factory=list)  # in order of arrival
    errors_before: defaultdict[str, deque[MeshError]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    errors_after: defaultdict[str, deque[MeshError]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    paused: dict[str, asyncio.Event] = field(
        default_factory=dict
    )  # by method: its calls wait for this
    verified: bool = True
    risk_score: float | None = 0.1
    _inbox: dict[tuple[str, str], tuple[bytes, bytes]] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)
    state: wallet_pb2.PaymentState.ValueType = wallet_pb2.PAYMENT_STATE_BROADCAST
    confirmations: int = 0

    async def serve(self, method: str, request: Message, effect: Callable[[], R]) -> R:
        """Serves one call: ``errors_before`` prevent its effect, ``errors_after`` its reply."""
        self.calls.append((method, request))
        if method in self.paused:
            await self.paused[method].wait()
        if self.errors_before[method]:
            raise self.errors_before[method].popleft()
        reply = self._once(method, request, effect)
        if self.errors_after[method]:
            raise self.errors_after[method].popleft()
        return reply

    def requests(self, method: str) -> list[Message]:
        return [request for called, request in self.calls if called == method]

    def _once(self, method: str, request: Message, effect: Callable[[], R]) -> R:
        request_id = getattr(request, "request_id", None)
        if request_id is None:
            return effect()
        body = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        known = self._inbox.get((method, request_id))
        if known is None:
            reply = effect()
            self.effects[method] += 1
            self._inbox[method, request_id] = (body, reply.SerializeToString())
            return reply
        if known[0] != body:
            raise AlreadyExists("another body", reason=Reason.REQUEST_ID_REUSED)
        reply = effect()
        reply.ParseFromString(known[1])
        return reply


def attest(kind: str) -> list[Attestation]:
    return [Attestation(kind=kind, jws=f"jws of {kind}")]


class Identity(IdentityServiceServicer):
    def __init__(self, fakes: FakeServices) -> None:
        self._fakes = fakes

    async def VerifyApproval(
        self, request: identity_pb2.VerifyApprovalRequest, context: Any
    ) -> identity_pb2.VerifyApprovalResponse:
        def judge() -> identity_pb2.VerifyApprovalResponse:
            try:
                found = approval.verify(
                    request.approval,
                    run_id=request.run_id,
                    step=request.step,
                    digest=request.digest,
                    now=int(time.time()),
                )
            except VerificationError as error:
                raise FailedPrecondition(str(error), reason=Reason.PROOF_INVALID) from None
            return identity_pb2.VerifyApprovalResponse(
                approver=found.approver, approved=found.approved
            )

        return await self._fakes.serve("VerifyApproval", request, judge)

    async def VerifyIdentity(
        self, request: identity_pb2.VerifyIdentityRequest, context: Any
    ) -> identity_pb2.VerifyIdentityResponse:
        def effect() -> identity_pb2.VerifyIdentityResponse:
            return identity_pb2.VerifyIdentityResponse(
                verified=self._fakes.verified,
                confidence=0.95 if self._fakes.verified else 0.0,
                failures=[]
                if self._fakes.verified
                else [identity_pb2.VERIFICATION_FAILURE_WRONG_HOLDER],
                attestations=attest("identity") if self._fakes.verified else [],
            )

        return await self._fakes.serve("VerifyIdentity", request, effect)

    async def CompleteAddressLink(
        self, request: identity_pb2.CompleteAddressLinkRequest, context: Any
    ) -> identity_pb2.CompleteAddressLinkResponse:
        def effect() -> identity_pb2.CompleteAddressLinkResponse:
            return identity_pb2.CompleteAddressLinkResponse(link_id="link", linked_height=7)

        return await self._fakes.serve("CompleteAddressLink", request, effect)


class Web5Analysis(Web5AnalysisServicer):
    def __init__(self, fakes: FakeServices) -> None:
        self._fakes = fakes

    async def ExtractIdentityFeatures(
        self, request: web5_analysis.ExtractIdentityFeaturesRequest, context: Any
    ) -> web5_analysis.ExtractIdentityFeaturesResponse:
        def effect() -> web5_analysis.ExtractIdentityFeaturesResponse:
            links = AddressLinks()
            links.sender.add(address="bcrt1sender", linked_height=3)
            return web5_analysis.ExtractIdentityFeaturesResponse(
                links=links, attestations=attest("identity_features")
            )

        return await self._fakes.serve("ExtractIdentityFeatures", request, effect)


class Dids(DidServiceServicer):
    def __init__(self, fakes: FakeServices) -> None:
        self._fakes = fakes

    async def ResolveDid(
        self, request: did_pb2.ResolveDidRequest, context: Any
    ) -> did_pb2.ResolveDidResponse:
        def effect() -> did_pb2.ResolveDidResponse:
            reply = did_pb2.ResolveDidResponse()
            reply.document.update({"id": request.did})
            return reply

        return await self._fakes.serve("ResolveDid", request, effect)


class Dwn(RecordServiceServicer):
    def __init__(self, fakes: FakeServices) -> None:
        self._fakes = fakes

    async def StoreTransactionRecord(
        self, request: record_pb2.StoreTransactionRecordRequest, context: Any
    ) -> record_pb2.StoreTransactionRecordResponse:
        def effect() -> record_pb2.StoreTransactionRecordResponse:
            return record_pb2.StoreTransactionRecordResponse(record_id="bafyrecord")

        return await self._fakes.serve("StoreTransactionRecord", request, effect)


class BitcoinAnalysis(BitcoinAnalysisServicer):
    def __init__(self, fakes: FakeServices) -> None:
        self._fakes = fakes

    async def ExtractPaymentFeatures(
        self, request: bitcoin_analysis.ExtractPaymentFeaturesRequest, context: Any
    ) -> bitcoin_analysis.ExtractPaymentFeaturesResponse:
        def effect() -> bitcoin_analysis.ExtractPaymentFeaturesResponse:
            features = FeatureVector(feature_set="payment-risk", as_of_block_hash=bytes(32))
            features.features.add(name="amount", value=0.1 + 0.2)
            return bitcoin_analysis.ExtractPaymentFeaturesResponse(
                features=features, attestations=attest("payment_features")
            )

        return await self._fakes.serve("ExtractPaymentFeatures", request, effect)


class Ownership(OwnershipServiceServicer):
    def __init__(self, fakes: FakeServices) -> None:
        self._fakes = fakes

    async def VerifyOwnership(
        self, request: ownership_pb2.VerifyOwnershipRequest, context: Any
    ) -> ownership_pb2.VerifyOwnershipResponse:
        def effect() -> ownership_pb2.VerifyOwnershipResponse:
            return ownership_pb2.VerifyOwnershipResponse(
                verified=request.signature == "good", attestations=attest("ownership")
            )

        return await self._fakes.serve("VerifyOwnership", request, effect)


class Wallet(WalletServiceServicer):
    """Makes a payment once per id, only with proof, and never after its cancel."""

    def __init__(self, fakes: FakeServices) -> None:
        self._fakes = fakes

    async def SendPayment(
        self, request: wallet_pb2.SendPaymentRequest, context: Any
    ) -> wallet_pb2.SendPaymentResponse:
        def effect() -> wallet_pb2.SendPaymentResponse:
            if request.request_id in self._fakes.cancelled:
                raise FailedPrecondition("it was cancelled", reason=Reason.PAYMENT_CANCELLED)
            if "risk" not in {proof.kind for proof in request.context.attestations}:
                raise FailedPrecondition("no risk attestation", reason=Reason.PROOF_MISSING)
            self._fakes.sent.add(request.request_id)
            return wallet_pb2.SendPaymentResponse(
                payment_id=request.request_id,
                txid=txid_of(request.request_id),
                status=wallet_pb2.SEND_OUTCOME_SUCCESS,
                fee_sat=150,
            )

        return await self._fakes.serve("SendPayment", request, effect)

    async def CancelPayment(
        self, request: wallet_pb2.CancelPaymentRequest, context: Any
    ) -> wallet_pb2.CancelPaymentResponse:
        def effect() -> wallet_pb2.CancelPaymentResponse:
            if request.payment_id not in self._fakes.sent:
                self._fakes.cancelled.add(request.payment_id)
            return wallet_pb2.CancelPaymentResponse(payment=self._find(request.payment_id))

        return await self._fakes.serve("CancelPayment", request, effect)

    async def GetPayment(
        self, request: wallet_pb2.GetPaymentRequest, context: Any
    ) -> wallet_pb2.GetPaymentResponse:
        def effect() -> wallet_pb2.GetPaymentResponse:
            return wallet_pb2.GetPaymentResponse(payment=self._find(request.payment_id))

        return await self._fakes.serve("GetPayment", request, effect)

    def _find(self, payment_id: str) -> wallet_pb2.Payment:
        if payment_id in self._fakes.cancelled:
            return wallet_pb2.Payment(
                payment_id=payment_id, state=wallet_pb2.PAYMENT_STATE_CANCELLED
            )
        if payment_id not in self._fakes.sent:
            raise NotFound(f"no payment {payment_id}")
        return wallet_pb2.Payment(
            payment_id=payment_id,
            state=self._fakes.state,
            txid=txid_of(payment_id),
            fee_sat=150,
            confirmations=self._fakes.confirmations,
        )


def txid_of(payment_id: str) -> bytes:
    return hashlib.sha256(payment_id.encode()).digest()


class Risk(RiskServiceServicer):
    def __init__(self, fakes: FakeServices) -> None:
        self._fakes = fakes

    async def AssessFraudRisk(
        self, request: risk_pb2.AssessFraudRiskRequest, context: Any
    ) -> risk_pb2.AssessFraudRiskResponse:
        def effect() -> risk_pb2.AssessFraudRiskResponse:
            return risk_pb2.AssessFraudRiskResponse(
                risk_score=self._fakes.risk_score,
                decision=risk_pb2.RISK_DECISION_ACCEPT,
                reasons=[
                    risk_pb2.RiskReason(code=risk_pb2.RISK_REASON_CODE_INDEX_BEHIND, detail="wait")
                ]
                if self._fakes.risk_score is None
                else [],
                risk_factors=[
                    risk_pb2.RiskFactor(
                        name="age", kind=risk_pb2.RISK_FACTOR_KIND_MODEL, contribution=-0.5
                    )
                ],
                attestations=attest("risk"),
            )

        return await self._fakes.serve("AssessFraudRisk", request, effect)


@asynccontextmanager
async def serve_peers(
    authority: Authority, home: Path, fakes: FakeServices, traces: TraceConfig | None = None
) -> AsyncIterator[dict[str, str]]:
    """Serves the three services under the mesh's policy; yields their addresses by name."""
    services = {
        "bitcoin": (
            partial(add_bitcoin_analysis, BitcoinAnalysis(fakes)),
            partial(add_OwnershipServiceServicer_to_server, Ownership(fakes)),  # type: ignore[abstract]
            partial(add_WalletServiceServicer_to_server, Wallet(fakes)),  # type: ignore[abstract]
        ),
        "ml": (partial(add_RiskServiceServicer_to_server, Risk(fakes)),),
        "web5": (
            partial(add_IdentityServiceServicer_to_server, Identity(fakes)),  # type: ignore[abstract]
            partial(add_web5_analysis, Web5Analysis(fakes)),
            partial(add_DidServiceServicer_to_server, Dids(fakes)),  # type: ignore[abstract]
            partial(add_RecordServiceServicer_to_server, Dwn(fakes)),  # type: ignore[abstract]
        ),
    }
    async with AsyncExitStack() as stack:
        addresses = {}
        for name, adders in services.items():
            config = MeshConfig(
                service=name,
                identity=authority.issue_service(name),
                home=home,
                traces=traces or TraceConfig(),
            )
            runtime = await stack.enter_async_context(open_runtime(config))
            ports = await stack.enter_async_context(runtime.serve(*adders))
            addresses[name] = f"127.0.0.1:{ports.port}"
        yield addresses
