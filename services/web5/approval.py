"""Approvals: the signed decision of a DID's holder on the question of a run's step.

An approval is a compact JWS (RFC 7515) by a key that the DID lists under assertionMethod:

    header   {"alg": "EdDSA" (Ed25519) or "ES256K" (secp256k1),
              "kid": "<approver>#<fragment>",
              "typ": "anya-approval+jwt"}
    payload  {"iss": the approver's DID,
              "run_id": the run that waits for the approval,
              "step": the path of its step,
              "digest": SHA-256 of the RFC 8785 form of the question, 64 hex digits,
              "decision": "approve" or "reject",
              "iat": time of signing, in whole Unix seconds}

and no other member. The typ separates approvals from all other JWS that a DID signs for this mesh.
The question contains its run, its step and the time of asking, so an approval is valid for that
question only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.web5 import proof
from services.web5.did import Relationship
from services.web5.proof import VerificationError, VerificationFailure

if TYPE_CHECKING:
    from services.web5.did import Did

TYPE = "anya-approval+jwt"
MEMBERS = frozenset({"iss", "run_id", "step", "digest", "decision", "iat"})
DECISIONS = {"approve": True, "reject": False}
LEEWAY_S = 60  # an approver's clock may be ahead by this much
MAX_LENGTH_CHARS = 8192


@dataclass(frozen=True, slots=True)
class Approval:
    approver: Did
    approved: bool  # else it rejects


def verify(token: str, *, run_id: str, step: str, digest: bytes, now: int) -> Approval:
    """Returns the decision of an approval of this question. ``now``: Unix seconds.

    Raises VerificationError (MALFORMED, KEY_NOT_ALLOWED, SIGNATURE_INVALID, WRONG_HOLDER,
    WRONG_SUBJECT or NOT_YET_VALID) if the token does not prove a decision on it.
    """
    if len(token) > MAX_LENGTH_CHARS:
        raise VerificationError(
            VerificationFailure.MALFORMED, f"longer than {MAX_LENGTH_CHARS} characters"
        )
    verified = proof.verify(token, Relationship.ASSERTION, types=(TYPE,))
    claims = verified.claims
    if claims.keys() != MEMBERS:
        raise VerificationError(
            VerificationFailure.MALFORMED, f"the payload must have {', '.join(sorted(MEMBERS))}"
        )
    if claims["iss"] != verified.signer:
        raise VerificationError(VerificationFailure.WRONG_HOLDER, "iss must be the signer")
    for name, expected in (("run_id", run_id), ("step", step), ("digest", digest.hex())):
        if proof.text(claims, name) != expected:
            raise VerificationError(
                VerificationFailure.WRONG_SUBJECT, f"{name} is not that of this step"
            )
    approved = DECISIONS.get(proof.text(claims, "decision"))
    if approved is None:
        raise VerificationError(
            VerificationFailure.MALFORMED, f"decision must be {' or '.join(DECISIONS)}"
        )
    if proof.seconds(claims, "iat") > now + LEEWAY_S:
        raise VerificationError(
            VerificationFailure.NOT_YET_VALID, "iat is ahead of this service's clock"
        )
    return Approval(verified.signer, approved)
