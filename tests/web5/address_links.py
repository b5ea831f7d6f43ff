"""Helpers that begin and complete address links over gRPC."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from anya.mesh.v1.attestation_pb2 import Attestation, RunContext
from anya.web5.v1 import identity_pb2 as pb
from tests.web5.holder import ADDRESS_SIGNATURE, SENDER_ADDRESS, did_proof, ownership

if TYPE_CHECKING:
    from mesh.security.attestation import Attestor
    from services.web5.proof import Signer
    from tests.web5.conftest import Running


async def begin(
    running: Running, holder: Signer, address: str = SENDER_ADDRESS, **fields: Any
) -> pb.BeginAddressLinkResponse:
    request = pb.BeginAddressLinkRequest(
        request_id=str(uuid.uuid4()),
        did=holder.did,
        address=address,
        **({"network": "regtest"} | fields),
    )
    return await running.identity.BeginAddressLink(request, timeout=5)


def completion(
    begun: pb.BeginAddressLinkResponse, proof: str, *attestations: Attestation
) -> pb.CompleteAddressLinkRequest:
    return pb.CompleteAddressLinkRequest(
        request_id=str(uuid.uuid4()),
        challenge_id=begun.challenge_id,
        did_proof=proof,
        address_signature=ADDRESS_SIGNATURE,
        context=RunContext(attestations=attestations),
    )


async def complete(
    running: Running, request: pb.CompleteAddressLinkRequest
) -> pb.CompleteAddressLinkResponse:
    return await running.engine.CompleteAddressLink(request, timeout=5)


async def link(
    running: Running,
    bitcoin: Attestor,
    holder: Signer,
    address: str = SENDER_ADDRESS,
    *,
    height: int = 210,
    public: bool = False,
) -> pb.CompleteAddressLinkResponse:
    begun = await begin(running, holder, address, public=public)
    consent = {"public": True} if public else {}
    proof = did_proof(holder, begun, address=address, **consent)
    owned = ownership(bitcoin, begun.message, address=address, height=height)
    return await complete(running, completion(begun, proof, owned))
