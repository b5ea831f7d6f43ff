"""IdentityService: verifies identities and approvals, and links addresses to DIDs."""

from __future__ import annotations

import re
import secrets
import uuid
from functools import partial
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from anya.web5.v1 import identity_pb2 as pb
from anya.web5.v1.identity_pb2_grpc import IdentityServiceServicer
from mesh.errors import FailedPrecondition, InvalidArgument, Reason
from mesh.rpc.interceptors import request_key
from mesh.security.assurance import Assurance
from mesh.security.payment_intent import parse_intent
from services.web5 import approval, link
from services.web5 import did as dids
from services.web5.identity import IdentityClaim, IdentityVerifier
from services.web5.proof import VerificationError, VerificationFailure

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from mesh.clock import Clock
    from mesh.security.attestation import Attestor, Verifier
    from services.web5.did import Did
    from services.web5.identity import IdentityVerdict, VerificationChallenge
    from services.web5.link import Link, LinkChallenge, LinkEvidence
    from services.web5.policy import IdentityPolicy
    from services.web5.store.identity import IdentityStore
    from services.web5.store.link import LinkStore

ASSURANCES = {
    None: pb.ASSURANCE_NONE,
    Assurance.LOW: pb.ASSURANCE_LOW,
    Assurance.SUBSTANTIAL: pb.ASSURANCE_SUBSTANTIAL,
    Assurance.HIGH: pb.ASSURANCE_HIGH,
}
FAILURES = {
    failure: pb.VerificationFailure.Value(f"VERIFICATION_FAILURE_{failure}")
    for failure in VerificationFailure
}
NONCE_BYTES = 24
CHALLENGE_ID = re.compile(r"[0-9a-f-]{36}")


class IdentityServicer(IdentityServiceServicer):
    def __init__(
        self,
        *,
        service_did: Did,
        policy: IdentityPolicy,
        identities: IdentityStore,
        links: LinkStore,
        attestor: Attestor,
        verifier: Verifier,
        clock: Clock,
        network: str,
    ) -> None:
        self._network = network
        self._clock = clock
        self._service_did = service_did
        self._policy = policy
        self._identities = identities
        self._links = links
        self._attestor = attestor
        self._verifier = verifier

    async def BeginVerification(
        self,
        request: pb.BeginVerificationRequest,
        context: ServicerContext[pb.BeginVerificationRequest, pb.BeginVerificationResponse],
    ) -> pb.BeginVerificationResponse:
        digest = parse_intent(request.intent, self._network)
        first = await self._identities.begin(
            request_key.current(),
            nonce=secrets.token_urlsafe(NONCE_BYTES),
            did=request.intent.sender_did,
            digest=digest,
            reply=self._format_challenge,
        )
        return pb.BeginVerificationResponse.FromString(first)

    async def VerifyIdentity(
        self,
        request: pb.VerifyIdentityRequest,
        context: ServicerContext[pb.VerifyIdentityRequest, pb.VerifyIdentityResponse],
    ) -> pb.VerifyIdentityResponse:
        intent = request.context.intent
        claim = IdentityClaim(
            did=dids.parse(request.did),
            method=request.verification_method,
            sender_did=intent.sender_did,
            sender_address=intent.sender_address,
            network=intent.network,
            digest=parse_intent(intent, self._network, field="context.intent"),
            presentation=request.context.presentation,
        )
        verification = IdentityVerifier(claim, self._policy, audience=self._service_did)
        first = await self._identities.verify(
            request_key.current(), verification, reply=partial(self._format_verdict, claim)
        )
        return pb.VerifyIdentityResponse.FromString(first)

    async def VerifyApproval(
        self,
        request: pb.VerifyApprovalRequest,
        context: ServicerContext[pb.VerifyApprovalRequest, pb.VerifyApprovalResponse],
    ) -> pb.VerifyApprovalResponse:
        if not request.approval:
            raise FailedPrecondition("approval is missing", reason=Reason.PROOF_MISSING)
        try:
            found = approval.verify(
                request.approval,
                run_id=request.run_id,
                step=request.step,
                digest=request.digest,
                now=int(self._clock.wall()),
            )
        except VerificationError as error:
            raise FailedPrecondition(f"approval: {error}", reason=Reason.PROOF_INVALID) from None
        return pb.VerifyApprovalResponse(approver=found.approver, approved=found.approved)

    async def BeginAddressLink(
        self,
        request: pb.BeginAddressLinkRequest,
        context: ServicerContext[pb.BeginAddressLinkRequest, pb.BeginAddressLinkResponse],
    ) -> pb.BeginAddressLinkResponse:
        link_request = link.LinkRequest(
            did=dids.resolve(request.did).did,
            address=link.normal_address(request.address, request.network),
            network=request.network,
            public=request.public,
        )
        first = await self._links.begin(
            request_key.current(),
            link_request,
            id=str(uuid.uuid4()),
            nonce=secrets.token_urlsafe(NONCE_BYTES),
            reply=_format_link_challenge,
        )
        return pb.BeginAddressLinkResponse.FromString(first)

    async def CompleteAddressLink(
        self,
        request: pb.CompleteAddressLinkRequest,
        context: ServicerContext[pb.CompleteAddressLinkRequest, pb.CompleteAddressLinkResponse],
    ) -> pb.CompleteAddressLinkResponse:
        if not CHALLENGE_ID.fullmatch(request.challenge_id):
            raise InvalidArgument(
                "challenge_id must be that of a BeginAddressLink response", field="challenge_id"
            )
        if len(request.address_signature) > link.MAX_SIGNATURE_CHARS:
            raise InvalidArgument(
                f"address_signature must have at most {link.MAX_SIGNATURE_CHARS} characters",
                field="address_signature",
            )
        first = await self._links.complete(
            request_key.current(),
            request.challenge_id,
            id=str(uuid.uuid4()),
            prove=partial(self._prove, request),
            reply=_format_link,
        )
        return pb.CompleteAddressLinkResponse.FromString(first)

    def _prove(
        self, request: pb.CompleteAddressLinkRequest, challenge: LinkChallenge
    ) -> LinkEvidence:
        link.check_did_proof(request.did_proof, challenge)
        found = self._verifier.require(
            request.context.attestations, ["ownership"], challenge.digest
        )
        ownership = found["ownership"]
        return link.LinkEvidence(
            address_signature=request.address_signature,
            did_proof=request.did_proof,
            verifier=ownership.issuer,
            height=link.check_ownership(ownership.values, challenge, request.address_signature),
        )

    def _format_challenge(self, challenge: VerificationChallenge) -> bytes:
        return pb.BeginVerificationResponse(
            nonce=challenge.nonce,
            audience=self._service_did,
            expire_time=_timestamp(challenge.expires_ms // 1000),
            digest=challenge.digest,
        ).SerializeToString()

    def _format_verdict(
        self, claim: IdentityClaim, verdict: IdentityVerdict, linked: bool
    ) -> bytes:
        reply = pb.VerifyIdentityResponse(
            verified=verdict.verified,
            confidence=verdict.confidence,
            assurance=ASSURANCES[verdict.assurance],
            evidence=verdict.evidence,
            failures=[FAILURES[failure] for failure in verdict.reasons],
            policy_version=self._policy.version,
            address_linked=linked,
        )
        if verdict.verified:
            values = {
                "did": claim.did,
                "confidence": verdict.confidence,
                "assurance": verdict.assurance,
                "method": claim.method,
            }
            reply.attestations.append(
                self._attestor.attest("identity", claim.digest, values=values)
            )
        if linked:
            values = {"did": claim.did, "address": claim.sender_address}
            reply.attestations.append(
                self._attestor.attest("address_link", claim.digest, values=values)
            )
        return reply.SerializeToString()


def _format_link_challenge(challenge: LinkChallenge) -> bytes:
    return pb.BeginAddressLinkResponse(
        challenge_id=challenge.id,
        message=challenge.message,
        nonce=challenge.nonce,
        expire_time=_timestamp(challenge.expires_at),
    ).SerializeToString()


def _format_link(made: Link, credential: str) -> bytes:
    return pb.CompleteAddressLinkResponse(
        link_id=made.id,
        credential=credential,
        linked_height=made.linked_height,
        expire_time=_timestamp(made.expires_at),
    ).SerializeToString()


def _timestamp(seconds: int) -> Timestamp:
    return Timestamp(seconds=seconds)
