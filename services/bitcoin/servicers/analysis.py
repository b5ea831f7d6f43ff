"""AnalysisService over gRPC: parses requests, and formats replies. It has no rules of its own."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from anya.bitcoin.v1 import analysis_pb2 as pb
from anya.bitcoin.v1.analysis_pb2_grpc import AnalysisServiceServicer
from anya.mesh.v1 import features_pb2
from features.payment_risk import PAYMENT_RISK, MeasureCache, PaymentFacts, RecipientLink, extract
from mesh.errors import FailedPrecondition, InvalidArgument, Reason
from mesh.security.payment_intent import check_amount, parse_address
from services.bitcoin.actors.chain_messages import GetChainInfo
from services.bitcoin.servicers.intent import agreed_digest

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from features.feature import Feature
    from features.history import AddressHistory
    from formats.bitcoin.network import Network
    from mesh.actor import ActorRef
    from mesh.security.attestation import Attestor, Verifier
    from services.bitcoin.actors.chain_messages import ChainMessage
    from services.bitcoin.store.history import Histories, HistoryStore

MAX_LINKS = 64  # addresses of one sender


class AnalysisServicer(AnalysisServiceServicer):
    def __init__(
        self,
        *,
        histories: HistoryStore,
        chain: ActorRef[ChainMessage],
        attestor: Attestor,
        verifier: Verifier,
        network: Network,
    ) -> None:
        self._histories = histories
        self._chain = chain
        self._attestor = attestor
        self._verifier = verifier
        self._network = network
        self._cache = MeasureCache()

    async def ExtractPaymentFeatures(
        self,
        request: pb.ExtractPaymentFeaturesRequest,
        context: ServicerContext[
            pb.ExtractPaymentFeaturesRequest, pb.ExtractPaymentFeaturesResponse
        ],
    ) -> pb.ExtractPaymentFeaturesResponse:
        recipient = parse_address(
            request.recipient_address, self._network, field="recipient_address"
        )
        check_amount(request.amount_sat, recipient)
        senders = self._parse_senders(request.links)
        digest = self._attested_digest(request)
        # The tip first: the index then has every block that the tip had, or more.
        tip = await self._chain.ask(GetChainInfo())
        seen = await self._histories.read([recipient, *senders])
        at_tip = seen.tip.hash == tip.tip_hash or seen.height > tip.height
        vector = _format(extract(_facts(request, seen), self._cache), seen, index_at_tip=at_tip)
        raw = vector.SerializeToString(deterministic=True)
        values = {"sha256": sha256(raw).hexdigest()}
        attestation = self._attestor.attest("payment_features", digest, values=values)
        return pb.ExtractPaymentFeaturesResponse(features=vector, attestations=[attestation])

    def _parse_senders(self, links: features_pb2.AddressLinks) -> list[bytes]:
        if len(links.sender) > MAX_LINKS:
            raise InvalidArgument(
                f"links.sender has {len(links.sender)} addresses, at most {MAX_LINKS} are read",
                field="links.sender",
            )
        return [
            parse_address(link.address, self._network, field="links.sender.address")
            for link in links.sender
        ]

    def _attested_digest(self, request: pb.ExtractPaymentFeaturesRequest) -> bytes:
        """Returns the payment's digest.

        Raises FailedPrecondition unless web5 has attested these links for the payment.
        """
        digest = agreed_digest(
            request.context,
            network=str(self._network),
            recipient_address=request.recipient_address,
            amount_sat=request.amount_sat,
        )
        kind = "identity_features"
        proof = self._verifier.require(request.context.attestations, [kind], digest)[kind]
        raw = request.links.SerializeToString(deterministic=True)
        if proof.values.get("sha256") != sha256(raw).hexdigest():
            raise FailedPrecondition(
                "the identity_features attestation is about other links",
                reason=Reason.PROOF_INVALID,
            )
        return digest


def _facts(request: pb.ExtractPaymentFeaturesRequest, seen: Histories) -> PaymentFacts:
    recipient, *senders = seen.addresses
    links = request.links
    return PaymentFacts(
        height=seen.height,
        amount_sat=request.amount_sat,
        recipient=recipient,
        sender=_all(senders),
        sender_link_heights=tuple(link.linked_height for link in links.sender),
        recipient_link=RecipientLink(
            links.recipient.linked_height if links.HasField("recipient") else None
        ),
    )


def _all(histories: list[AddressHistory | None]) -> tuple[AddressHistory, ...] | None:
    """Returns the histories, or None if one is missing: a sum without it would be wrong."""
    known = tuple(history for history in histories if history is not None)
    return known if len(known) == len(histories) else None


def _format(
    features: tuple[Feature, ...], seen: Histories, *, index_at_tip: bool
) -> features_pb2.FeatureVector:
    return features_pb2.FeatureVector(
        feature_set=PAYMENT_RISK.name,
        feature_set_hash=bytes.fromhex(PAYMENT_RISK.hash),
        features=[
            features_pb2.Feature(
                name=feature.name,
                value=feature.value,
                status=features_pb2.FeatureStatus.Value(f"FEATURE_STATUS_{feature.status.name}"),
            )
            for feature in features
        ],
        as_of_block_hash=seen.tip.hash,
        as_of_height=seen.height,
        index_at_tip=index_at_tip,
    )
