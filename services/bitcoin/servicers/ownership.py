"""OwnershipService over gRPC: parses requests, and formats replies. It has no rules of its own."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from anya.bitcoin.v1 import ownership_pb2 as pb
from anya.bitcoin.v1.ownership_pb2_grpc import OwnershipServiceServicer
from mesh.security.payment_intent import parse_address
from services.bitcoin.actors.chain_messages import GetChainInfo
from services.bitcoin.kernel import find_invalid_input
from services.bitcoin.ownership import OwnershipVerdict, verify

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from formats.bitcoin.network import Network
    from mesh.actor import ActorRef
    from mesh.security.attestation import Attestor
    from services.bitcoin.actors.chain_messages import ChainMessage
    from services.bitcoin.keyring import Keyring


class OwnershipServicer(OwnershipServiceServicer):
    def __init__(
        self,
        *,
        chain: ActorRef[ChainMessage],
        keyring: Keyring,
        attestor: Attestor,
        network: Network,
    ) -> None:
        self._chain = chain
        self._keyring = keyring
        self._attestor = attestor
        self._network = network

    async def SignOwnership(
        self,
        request: pb.SignOwnershipRequest,
        context: ServicerContext[pb.SignOwnershipRequest, pb.SignOwnershipResponse],
    ) -> pb.SignOwnershipResponse:
        signature = await self._keyring.sign_ownership(request.address, request.message)
        return pb.SignOwnershipResponse(signature=signature)

    async def VerifyOwnership(
        self,
        request: pb.VerifyOwnershipRequest,
        context: ServicerContext[pb.VerifyOwnershipRequest, pb.VerifyOwnershipResponse],
    ) -> pb.VerifyOwnershipResponse:
        script = parse_address(request.address, self._network)
        message = request.message.encode()
        verdict = verify(script, message, request.signature, find_invalid_input)
        info = await self._chain.ask(GetChainInfo())
        if verdict is not OwnershipVerdict.VALID:
            return pb.VerifyOwnershipResponse(reason=verdict, height=info.height)
        attestation = self._attestor.attest(
            "ownership",
            sha256(message).digest(),
            values={
                "address": request.address,
                "height": info.height,
                "signature_sha256": sha256(request.signature.encode()).hexdigest(),
            },
        )
        return pb.VerifyOwnershipResponse(
            verified=True, height=info.height, attestations=[attestation]
        )
