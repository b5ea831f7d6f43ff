"""Parties outside of the service: holders, issuers, and the bitcoin service's attestations."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anya.mesh.v1.attestation_pb2 import Attestation, PaymentIntent, RunContext
from anya.web5.v1 import identity_pb2 as pb
from formats import jose, uuid7
from services.web5 import did as dids
from services.web5.credential import CONTEXT
from services.web5.did import Method
from services.web5.proof import Signer

if TYPE_CHECKING:
    from mesh.security.attestation import Attestor

SENDER_ADDRESS = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
RECIPIENT_ADDRESS = "bcrt1q6rz28mcfaxtmd6v789l9rrlrusdprr9pz3cppk"

ADDRESS_SIGNATURE = "smp-as-the-wallet-gave-it"


def signer(key: jose.SigningKey | None = None, method: Method = Method.KEY) -> Signer:
    """Returns a DID with its key, of a holder or an issuer."""
    key = key or jose.Ed25519Key.generate()
    document = dids.create(method, jose.from_jwk(key.jwk))
    return Signer(document.did, document.methods[0].id, key)


def intent(sender: Signer, **changes: Any) -> PaymentIntent:
    fields: dict[str, Any] = {
        "network": "regtest",
        "payment_id": uuid7.from_parts(time.time_ns() // 1_000_000, os.urandom(uuid7.RANDOM_BYTES)),
        "sender_did": sender.did,
        "sender_address": SENDER_ADDRESS,
        "recipient_address": RECIPIENT_ADDRESS,
        "amount_sat": 50_000,
    }
    return PaymentIntent(**(fields | changes))


def credential_claims(issuer: Signer, subject: str, /, **changes: Any) -> dict[str, Any]:
    """Returns the payload of a biometric credential that is valid for an hour."""
    issued_at = int(time.time()) - 60
    claims: dict[str, Any] = {
        "iss": issuer.did,
        "sub": subject,
        "jti": "urn:uuid:0b6f2f0e-2a64-4a3e-9c39-1f6a1f1f2a11",
        "nbf": issued_at,
        "exp": issued_at + 3600,
        "vc": {
            "@context": [CONTEXT],
            "id": "urn:uuid:0b6f2f0e-2a64-4a3e-9c39-1f6a1f1f2a11",
            "type": ["VerifiableCredential", "BiometricCredential"],
            "issuer": issuer.did,
            "issuanceDate": iso(issued_at),
            "expirationDate": iso(issued_at + 3600),
            "credentialSubject": {"id": subject},
        },
    }
    vc = claims["vc"] | changes.pop("vc", {})
    return claims | changes | {"vc": vc}


def presentation_claims(
    holder: Signer, begun: pb.BeginVerificationResponse, *credentials: str, **changes: Any
) -> dict[str, Any]:
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": holder.did,
        "aud": begun.audience,
        "nonce": begun.nonce,
        "iat": now,
        "exp": now + 120,
        "payment_digest": begun.digest.hex(),
        "vp": {
            "@context": [CONTEXT],
            "type": ["VerifiablePresentation"],
            "verifiableCredential": list(credentials),
        },
    }
    return claims | changes


def iso(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@dataclass(frozen=True, slots=True)
class Payer:
    """A holder with a credential of a trusted issuer."""

    holder: Signer
    issuer: Signer

    def credential(self, **changes: Any) -> str:
        return self.issuer.sign(credential_claims(self.issuer, self.holder.did, **changes))

    def present(self, begun: pb.BeginVerificationResponse, **changes: Any) -> str:
        return self.holder.sign(
            presentation_claims(self.holder, begun, self.credential(), **changes)
        )


def verification(
    paid: PaymentIntent, presentation: str, *, request_id: str | None = None, **changes: Any
) -> pb.VerifyIdentityRequest:
    fields: dict[str, Any] = {
        "request_id": request_id or str(uuid.uuid4()),
        "did": paid.sender_did,
        "verification_method": "biometric",
        "context": RunContext(intent=paid, presentation=presentation),
    }
    return pb.VerifyIdentityRequest(**(fields | changes))


def did_proof(
    holder: Signer, begun: pb.BeginAddressLinkResponse, *, address: str, **changes: Any
) -> str:
    claims: dict[str, Any] = {
        "nonce": begun.nonce,
        "address": address,
        "did": holder.did,
        "challenge_id": begun.challenge_id,
    }
    return holder.sign(claims | changes)


def ownership(bitcoin: Attestor, message: str, **values: Any) -> Attestation:
    """Returns the bitcoin service's attestation of a valid address signature over the message."""
    sha256 = hashlib.sha256(ADDRESS_SIGNATURE.encode()).hexdigest()
    values = {"address": SENDER_ADDRESS, "height": 210, "signature_sha256": sha256} | values
    digest = hashlib.sha256(message.encode()).digest()
    return bitcoin.attest("ownership", digest, values=values)
