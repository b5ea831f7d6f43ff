"""Verifiable credentials as VC-JWT (W3C VC Data Model 1.1, section 6.3.1), issued and verified.

    header   {"alg": ..., "kid": "<issuer>#...", "typ": "JWT"}
    payload  {"iss": issuer, "sub": subject, "jti": vc.id, "nbf": vc.issuanceDate, "exp": ...,
              "vc": {"@context": ["https://www.w3.org/2018/credentials/v1", ...], "id": ...,
                     "type": ["VerifiableCredential", ...], "issuer": issuer,
                     "issuanceDate": "2026-01-31T12:00:00Z", "expirationDate": ...,
                     "credentialSubject": {"id": subject, ...}}}

The registered claims and the members of ``vc`` that say the same must be equal: nbf is
issuanceDate to the second, exp is expirationDate. jti and id, exp and expirationDate are present
or absent together. The signing key is one that the issuer lists under assertionMethod. A credential
with a credentialStatus is refused, because this service looks up no status.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from services.web5 import proof
from services.web5.did import Relationship
from services.web5.proof import VerificationError, VerificationFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.web5.did import Did
    from services.web5.proof import Signer

CONTEXT = "https://www.w3.org/2018/credentials/v1"
TYPE = "VerifiableCredential"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

MAX_CACHED_CREDENTIALS = 4096
MAX_CACHED_CHARS = 8192  # of one cached credential
MAX_TYPES = 16
LEEWAY_S = 60  # an issuer's clock may be ahead by this much


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A credential with a valid signature of its issuer; ``check_time`` checks its validity."""

    issuer: Did
    subject: str
    types: tuple[str, ...]
    claims: Mapping[str, Any]  # credentialSubject
    issued_at: int  # Unix seconds
    expires_at: int | None

    def check_time(self, now: int) -> None:
        """Raises VerificationError (CREDENTIAL_EXPIRED, NOT_YET_VALID) if invalid at ``now``."""
        if self.expires_at is not None and self.expires_at <= now:
            raise VerificationError(
                VerificationFailure.CREDENTIAL_EXPIRED, "the credential has expired"
            )
        if self.issued_at > now + LEEWAY_S:
            raise VerificationError(
                VerificationFailure.NOT_YET_VALID, "the credential is not valid yet"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialDraft:
    """The content of a credential that is not signed yet."""

    id: str  # a URI
    type: str
    subject: str
    claims: Mapping[str, Any]  # about the subject, without its id
    evidence: Mapping[str, Any]
    issued_at: int  # Unix seconds
    expires_at: int


def issue(draft: CredentialDraft, issuer: Signer) -> str:
    """Returns the draft as a VC-JWT that ``issuer`` signed."""
    vc = {
        "@context": [CONTEXT],
        "id": draft.id,
        "type": [TYPE, draft.type],
        "issuer": issuer.did,
        "issuanceDate": _format_time(draft.issued_at),
        "expirationDate": _format_time(draft.expires_at),
        "credentialSubject": {"id": draft.subject, **draft.claims},
        "evidence": [dict(draft.evidence)],
    }
    return issuer.sign(
        {
            "iss": issuer.did,
            "sub": draft.subject,
            "jti": draft.id,
            "nbf": draft.issued_at,
            "exp": draft.expires_at,
            "vc": vc,
        }
    )


def verify(token: str) -> Credential:
    """Returns the credential of a VC-JWT.

    Raises VerificationError (CREDENTIAL_INVALID, CREDENTIAL_STATUS_UNSUPPORTED, KEY_NOT_ALLOWED) if
    its form or its signature is not valid.
    """
    return _known(token) if len(token) <= MAX_CACHED_CHARS else _verify(token)


def _verify(token: str) -> Credential:
    try:
        verified = proof.verify(token, Relationship.ASSERTION)
        return _read(verified.signer, verified.claims)
    except VerificationError as error:
        if error.failure in (
            VerificationFailure.MALFORMED,
            VerificationFailure.SIGNATURE_INVALID,
        ):
            raise VerificationError(VerificationFailure.CREDENTIAL_INVALID, str(error)) from None
        raise


# A valid signature stays valid, and a holder presents one credential often. Times are not cached.
_known = lru_cache(maxsize=MAX_CACHED_CREDENTIALS)(_verify)


def _read(issuer: Did, claims: Mapping[str, Any]) -> Credential:
    vc = claims.get("vc")
    if not isinstance(vc, dict) or "vp" in claims:
        raise VerificationError(
            VerificationFailure.MALFORMED, "the payload must have vc and must not have vp"
        )
    subject = vc.get("credentialSubject")
    if not isinstance(subject, dict):
        raise VerificationError(
            VerificationFailure.MALFORMED, "credentialSubject must be one object"
        )
    if "credentialStatus" in vc:
        raise VerificationError(
            VerificationFailure.CREDENTIAL_STATUS_UNSUPPORTED,
            "credentialStatus is not supported; present a credential without it",
        )
    named = vc.get("issuer")
    named = named.get("id") if isinstance(named, dict) else named
    _equal("iss", claims.get("iss"), issuer, "the signer")
    _equal("iss", claims.get("iss"), named, "issuer")
    _equal("sub", claims.get("sub"), subject.get("id"), "credentialSubject.id")
    _equal("jti", claims.get("jti"), vc.get("id"), "id")
    issued_at = proof.seconds(claims, "nbf")
    _equal("nbf", issued_at, _parse_time(vc, "issuanceDate"), "issuanceDate")
    return Credential(
        issuer=issuer,
        subject=proof.text(claims, "sub"),
        types=_types(vc),
        claims=subject,
        issued_at=issued_at,
        expires_at=_expiry(claims, vc),
    )


def _types(vc: Mapping[str, Any]) -> tuple[str, ...]:
    contexts, types = vc.get("@context"), vc.get("type")
    if not isinstance(contexts, list) or not contexts or contexts[0] != CONTEXT:
        raise VerificationError(
            VerificationFailure.MALFORMED, f"the first @context must be {CONTEXT}"
        )
    if not isinstance(types, list) or not 2 <= len(types) <= MAX_TYPES:
        raise VerificationError(
            VerificationFailure.MALFORMED, f"type must list 2 to {MAX_TYPES} names"
        )
    if types[0] != TYPE or not all(isinstance(name, str) for name in types):
        raise VerificationError(
            VerificationFailure.MALFORMED, f"type must list names, {TYPE} first"
        )
    return tuple(types[1:])


def _expiry(claims: Mapping[str, Any], vc: Mapping[str, Any]) -> int | None:
    if "exp" not in claims and "expirationDate" not in vc:
        return None
    expires_at = proof.seconds(claims, "exp")
    _equal("exp", expires_at, _parse_time(vc, "expirationDate"), "expirationDate")
    return expires_at


def _equal(name: str, value: object, other: object, where: str) -> None:
    if value != other:
        raise VerificationError(VerificationFailure.MALFORMED, f"{name} must equal {where}")


def _format_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(TIME_FORMAT)


def _parse_time(vc: Mapping[str, Any], name: str) -> float:
    """Returns the Unix seconds of an XML Schema dateTime with a time zone."""
    try:
        moment = datetime.fromisoformat(proof.text(vc, name))
    except ValueError:
        raise VerificationError(
            VerificationFailure.MALFORMED, f"{name} must be a dateTime"
        ) from None
    if moment.tzinfo is None:
        raise VerificationError(VerificationFailure.MALFORMED, f"{name} must have a time zone")
    return moment.timestamp()
