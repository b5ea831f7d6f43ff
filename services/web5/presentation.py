"""Presentations as VP-JWT (W3C VC Data Model 1.1, section 6.3.1): the proof for one payment.

BeginVerification returns nonce, audience and digest. The holder then signs, with a key that its DID
lists under authentication, exactly this compact JWS:

    header   {"alg": "EdDSA" (Ed25519) or "ES256K" (secp256k1),
              "kid": "<holder>#<fragment>",    did:key: the z... again; did:jwk: 0
              "typ": "JWT" (or "vp+jwt")}
    payload  {"iss": the holder's DID, which is the intent's sender_did,
              "aud": the audience of BeginVerification (a text, or a list with just this text),
              "nonce": its nonce,
              "iat": now, in whole Unix seconds,
              "nbf": not valid before, in Unix seconds (optional),
              "exp": at most 300 seconds after iat, in whole Unix seconds,
              "payment_digest": the digest as 64 hex digits (optional, must match if there),
              "jti": a text (optional),
              "vp": {"@context": ["https://www.w3.org/2018/credentials/v1"],
                     "type": ["VerifiablePresentation"],
                     "verifiableCredential": ["<VC-JWT>", ...]}}        at most 16

type and verifiableCredential are sets: one entry may stand without a list. The header names kid and
typ always, as it separates presentations from all other JWTs of the holder.

Each credential is a VC-JWT as services/web5/credential.py describes, about the holder (sub), with a
type and an issuer that the identity policy trusts for the evidence class. vp.holder may repeat the
DID, vp.id may repeat jti. The JWS has at most 64 Ki characters.

The proof for an address link is smaller. BeginAddressLink returns challenge_id, message and nonce;
did_proof of CompleteAddressLink is a compact JWS with the same header (typ "JWT") and

    payload  {"nonce": nonce, "address": as in the message, "did": the holder's DID,
              "challenge_id": challenge_id, "public": true (only if the link shall be public)}

and no other member. services/web5/link.py checks it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from formats import jose
from formats.date_time import SECOND_US
from services.web5 import credential, proof
from services.web5.did import Relationship
from services.web5.proof import VerificationError, VerificationFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.web5.credential import Credential
    from services.web5.did import Did

TYPE = "VerifiablePresentation"
TYPES = ("JWT", "vp+jwt")
DIGEST = re.compile(r"[0-9a-fA-F]{64}")
NONCE = re.compile(r"[A-Za-z0-9_-]{22,128}")  # base64url, 128 bits or more
MAX_CREDENTIALS = 16
MAX_LIFETIME_S = 300  # from iat to exp
LEEWAY_S = 60  # a holder's clock may be ahead by this much


@dataclass(frozen=True, slots=True, kw_only=True)
class Presentation:
    """A presentation with a valid signature; ``failures`` checks its times and its audience."""

    holder: Did
    audience: str
    nonce: str
    issued_at: int  # Unix seconds
    not_before: int
    expires_at: int
    payment_digest: bytes | None
    credentials: tuple[Credential | VerificationError, ...]  # an error for each invalid one

    def failures(self, *, audience: str, now: int) -> list[VerificationFailure]:
        """Returns what makes it invalid at ``now`` (Unix seconds) for this audience."""
        found = []
        if self.audience != audience:
            found.append(VerificationFailure.WRONG_AUDIENCE)
        if self.expires_at <= now:
            found.append(VerificationFailure.EXPIRED)
        if max(self.issued_at, self.not_before) > now + LEEWAY_S:
            found.append(VerificationFailure.NOT_YET_VALID)
        if self.expires_at - self.issued_at > MAX_LIFETIME_S:
            found.append(VerificationFailure.LIFETIME_TOO_LONG)
        return found


def verify(token: str) -> Presentation:
    """Returns the presentation of a VP-JWT with its credentials, each verified or refused.

    Raises VerificationError (PRESENTATION_MISSING, MALFORMED, KEY_NOT_ALLOWED, SIGNATURE_INVALID or
    WRONG_HOLDER) if the presentation itself is not valid.
    """
    if not token:
        raise VerificationError(
            VerificationFailure.PRESENTATION_MISSING, "the request has no presentation"
        )
    verified = proof.verify(token, Relationship.AUTHENTICATION, types=TYPES)
    claims = verified.claims
    vp = claims.get("vp")
    if not isinstance(vp, dict) or "vc" in claims:
        raise VerificationError(
            VerificationFailure.MALFORMED, "the payload must have vp and must not have vc"
        )
    if claims.get("iss") != verified.signer or vp.get("holder", verified.signer) != claims["iss"]:
        raise VerificationError(
            VerificationFailure.WRONG_HOLDER, "iss and vp.holder must be the signer"
        )
    if "jti" in claims and vp.get("id", claims["jti"]) != proof.text(claims, "jti"):
        raise VerificationError(VerificationFailure.MALFORMED, "jti must equal vp.id")
    issued_at = proof.seconds(claims, "iat")
    return Presentation(
        holder=verified.signer,
        audience=_audience(claims),
        nonce=proof.text(claims, "nonce"),
        issued_at=issued_at,
        not_before=_not_before(claims, issued_at),
        expires_at=proof.seconds(claims, "exp"),
        payment_digest=_digest(claims),
        credentials=tuple(_verify_credential(token) for token in _credentials(vp)),
    )


def claimed_nonce(token: str) -> str | None:
    """Returns the nonce of a presentation that is not verified; None if it has no nonce's form."""
    try:
        claims = jose.load_json(jose.parse(token).payload)
    except jose.JoseError:
        return None
    nonce = claims.get("nonce") if isinstance(claims, dict) else None
    return nonce if isinstance(nonce, str) and NONCE.fullmatch(nonce) else None


def _verify_credential(token: str) -> Credential | VerificationError:
    try:
        return credential.verify(token)
    except VerificationError as error:
        return error


def _credentials(vp: Mapping[str, Any]) -> list[str]:
    contexts, types = vp.get("@context"), vp.get("type")
    if not isinstance(contexts, list) or credential.CONTEXT not in contexts:
        raise VerificationError(
            VerificationFailure.MALFORMED, f"@context of vp must list {credential.CONTEXT}"
        )
    if TYPE not in (types if isinstance(types, list) else [types]):
        raise VerificationError(VerificationFailure.MALFORMED, f"type of vp must list {TYPE}")
    tokens = vp.get("verifiableCredential", [])
    if isinstance(tokens, str):
        tokens = [tokens]
    if not isinstance(tokens, list) or len(tokens) > MAX_CREDENTIALS:
        raise VerificationError(
            VerificationFailure.MALFORMED,
            f"verifiableCredential must list at most {MAX_CREDENTIALS}",
        )
    if not all(isinstance(token, str) for token in tokens):
        raise VerificationError(
            VerificationFailure.MALFORMED, "verifiableCredential must list VC-JWTs"
        )
    return tokens


def _audience(claims: Mapping[str, Any]) -> str:
    """Returns the one audience. RFC 7519 allows a list; more than one entry is refused."""
    audience = claims.get("aud")
    if isinstance(audience, list) and len(audience) == 1:
        audience = audience[0]
    if not isinstance(audience, str) or not audience:
        raise VerificationError(VerificationFailure.MALFORMED, "aud must be one text")
    return audience


def _digest(claims: Mapping[str, Any]) -> bytes | None:
    if "payment_digest" not in claims:
        return None
    digest = proof.text(claims, "payment_digest")
    if not DIGEST.fullmatch(digest):
        raise VerificationError(
            VerificationFailure.MALFORMED, "payment_digest must be 64 hex digits"
        )
    return bytes.fromhex(digest)


def _not_before(claims: Mapping[str, Any], issued_at: int) -> int:
    return proof.microseconds(claims, "nbf") // SECOND_US if "nbf" in claims else issued_at
