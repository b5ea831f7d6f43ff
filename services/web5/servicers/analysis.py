"""AnalysisService: attests the address links of a payment's sender and recipient."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from anya.mesh.v1.features_pb2 import AddressLink, AddressLinks
from anya.web5.v1 import analysis_pb2 as pb
from anya.web5.v1.analysis_pb2_grpc import AnalysisServiceServicer
from mesh.errors import FailedPrecondition, Reason
from mesh.security.payment_intent import parse_intent
from services.web5 import did as dids

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from mesh.security.attestation import Attestor
    from services.web5.link import Link
    from services.web5.store.link import LinkStore


class AnalysisServicer(AnalysisServiceServicer):
    def __init__(self, links: LinkStore, attestor: Attestor, network: str) -> None:
        self._network = network
        self._links = links
        self._attestor = attestor

    async def ExtractIdentityFeatures(
        self,
        request: pb.ExtractIdentityFeaturesRequest,
        context: ServicerContext[
            pb.ExtractIdentityFeaturesRequest, pb.ExtractIdentityFeaturesResponse
        ],
    ) -> pb.ExtractIdentityFeaturesResponse:
        intent = request.context.intent
        digest = parse_intent(intent, self._network, field="context.intent")
        did = dids.resolve(request.did).did
        # The attestation is about the payment, so the links must be those of its own parties.
        if did != intent.sender_did:
            raise _of_another_payment("did", "sender_did")
        if request.recipient_address != intent.recipient_address:
            raise _of_another_payment("recipient_address", "recipient_address")
        sender = await self._links.of_did(did, intent.network)
        recipient = await self._links.public(intent.recipient_address, intent.network)
        links = AddressLinks(sender=[_format(link) for link in sender])
        if recipient is not None:
            links.recipient.CopyFrom(_format(recipient))
        sha256 = hashlib.sha256(links.SerializeToString(deterministic=True)).hexdigest()
        attestation = self._attestor.attest("identity_features", digest, values={"sha256": sha256})
        return pb.ExtractIdentityFeaturesResponse(links=links, attestations=[attestation])


def _format(link: Link) -> AddressLink:
    return AddressLink(address=link.address, linked_height=link.linked_height)


def _of_another_payment(field: str, name: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{field} must equal {name} of the payment intent",
        reason=Reason.PROOF_INVALID,
        field=field,
    )
