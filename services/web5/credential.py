"""Verifiable credentials as VC-JWT (W3C VC Data Model 1.1, section 6.3.1), issued and verified.

    header   {"alg": ..., "kid": "<issuer>#...", "typ": "JWT"}
    payload  {"iss": issuer, "sub": subject, "jti": vc.id, "nbf": vc.issuanceDate, "exp": ...,
              "vc": {"@context": ["https://www.w3.org/2018/credentials/v1", ...], "id": ...,
                     "type": ["VerifiableCredential", ...], "issuer": issuer,
                     "issuanceDate": "2026-01-31T12:00:00Z", "expirationDate": ...,
                     "credentialSubject": {"id": subject, ...}}}

``issue`` writes each of these twice, so that every reader finds it. ``verify`` reads either place:

    iss   issuer, or its id       required       nbf   issuanceDate      required
    sub   credentialSubject.id    required       exp   expirationDate    optional
    jti   id                      optional

Where both stand they must be equal. Dates are instants: a claim in whole seconds equals a dateTime
whose decimals it leaves out. A null member of ``vc`` is absent, as in JSON-LD; a null claim is of
the wrong type. ``type`` is a set: its order means nothing, and one name may stand without a list.

The signing key is one that the issuer lists under assertionMethod. The header may omit typ, unless
the identity policy requires it, and kid if the issuer lists one such key only. A credential with a
credentialStatus is refused, because this service looks up no status.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from formats import date_time
from formats.date_time import SECOND_US
from services.web5 import proof
from services.web5.did import Relationship
from services.web5.proof import VerificationError, VerificationFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.web5.did import Did
    from services.web5.proof import SignedClaims, Signer

CONTEXT = "https://www.w3.org/2018/credentials/v1"
TYPE = "VerifiableCredential"
JWT_TYPE = "JWT"  # typ of the header
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

MAX_CACHED_CREDENTIALS = 4096
MAX_CACHED_CHARS = 8192  # of one cached credential
MAX_TYPES = 16
LEEWAY_S = 60  # an issuer's clock may be ahead by this much

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A credential with a valid signature of its issuer; ``check_time`` checks its validity."""

    issuer: Did
    subject: str
    types: tuple[str, ...]
    claims: Mapping[str, Any]  # credentialSubject
    issued_at: int  # Unix seconds, without their decimals
    expires_at: int | None
    has_typ: bool  # its header has a typ, so that no other kind of JWT can pass for it

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

    def check_typ(self) -> None:
        """Raises VerificationError (CREDENTIAL_INVALID) if the header has no typ."""
        if not self.has_typ:
            raise VerificationError(
                VerificationFailure.CREDENTIAL_INVALID,
                "the header has no typ, which the identity policy requires",
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
        return _read(proof.read(token))
    except VerificationError as error:
        if error.failure in (
            VerificationFailure.MALFORMED,
            VerificationFailure.SIGNATURE_INVALID,
        ):
            raise VerificationError(VerificationFailure.CREDENTIAL_INVALID, str(error)) from None
        raise


# A valid signature stays valid, and a holder presents one credential often. Times are not cached.
_known = lru_cache(maxsize=MAX_CACHED_CREDENTIALS)(_verify)


def _read(signed: SignedClaims) -> Credential:
    header, claims = signed.jws.header, signed.claims
    vc = claims.get("vc")
    if not isinstance(vc, dict) or "vp" in claims:
        raise _malformed("the payload must have vc and must not have vp")
    if header.get("typ", JWT_TYPE) != JWT_TYPE:
        raise _malformed(f"typ of the header must be {JWT_TYPE}")
    issuer = _required(_agreed(claims, "iss", _issuer(vc), "issuer"), "iss or issuer")
    signer = signed.authenticate(_kid(header, issuer), Relationship.ASSERTION)
    if issuer != signer:
        raise _malformed("iss must equal the signer")
    if vc.get("credentialStatus") is not None:
        raise VerificationError(
            VerificationFailure.CREDENTIAL_STATUS_UNSUPPORTED,
            "credentialStatus is not supported; present a credential without it",
        )
    subject = _subject(vc)
    about = _agreed(claims, "sub", _text(subject, "id"), "credentialSubject.id")
    _agreed(claims, "jti", _text(vc, "id"), "id")
    if "iat" in claims:
        proof.microseconds(claims, "iat")
    return Credential(
        issuer=signer,
        subject=_required(about, "sub or credentialSubject.id"),
        types=_types(vc),
        claims=subject,
        issued_at=_required(_instant(claims, "nbf", vc, "issuanceDate"), "nbf or issuanceDate"),
        expires_at=_instant(claims, "exp", vc, "expirationDate"),
        has_typ="typ" in header,
    )


def _kid(header: Mapping[str, Any], issuer: str) -> str:
    """Returns the id of the signing key: the header's, or that of the issuer's only key."""
    if "kid" in header:
        return proof.text(header, "kid")
    sole = proof.resolve(issuer, field="iss").sole_key_id(Relationship.ASSERTION)
    if sole is None:
        raise VerificationError(
            VerificationFailure.KEY_NOT_ALLOWED, f"without kid, {issuer} must list exactly one key"
        )
    return sole


def _issuer(vc: Mapping[str, Any]) -> str | None:
    issuer = vc.get("issuer")
    return _text(issuer if isinstance(issuer, dict) else {"id": issuer}, "id")


def _subject(vc: Mapping[str, Any]) -> Mapping[str, Any]:
    subject = vc.get("credentialSubject")
    if isinstance(subject, list) and len(subject) == 1:
        subject = subject[0]
    if not isinstance(subject, dict):
        raise _malformed("credentialSubject must be one object")
    return subject


def _types(vc: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the credential's own types, without the one that all credentials have."""
    contexts, names = vc.get("@context"), vc.get("type")
    if not isinstance(contexts, list) or not contexts or contexts[0] != CONTEXT:
        raise _malformed(f"the first @context must be {CONTEXT}")
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, list) or len(names) > MAX_TYPES or TYPE not in names:
        raise _malformed(f"type must list {TYPE}, and at most {MAX_TYPES} names")
    if not all(isinstance(name, str) for name in names):
        raise _malformed("type must list names")
    return tuple(dict.fromkeys(name for name in names if name != TYPE))


def _agreed(claims: Mapping[str, Any], name: str, other: str | None, where: str) -> str | None:
    """Returns the text of a claim, or ``other``, the member of ``vc`` with the same meaning.

    Raises VerificationError (MALFORMED) if both stand and differ.
    """
    if name not in claims:
        return other
    stated = proof.text(claims, name)
    if other not in (None, stated):
        raise _malformed(f"{name} must equal {where}")
    return stated


def _instant(
    claims: Mapping[str, Any], name: str, vc: Mapping[str, Any], member: str
) -> int | None:
    """Returns the Unix seconds of a NumericDate, or of the dateTime with the same meaning.

    Raises VerificationError (MALFORMED) if both stand and differ.
    """
    other_us = _parse_time(vc, member)
    if name not in claims:
        return None if other_us is None else other_us // SECOND_US
    stated_us = proof.microseconds(claims, name)
    if other_us is not None and stated_us not in (other_us, other_us // SECOND_US * SECOND_US):
        raise _malformed(f"{name} must equal {member}")
    return stated_us // SECOND_US


def _text(vc: Mapping[str, Any], name: str) -> str | None:
    return None if vc.get(name) is None else proof.text(vc, name)


def _required(value: _Value | None, where: str) -> _Value:
    if value is None:
        raise _malformed(f"the credential must have {where}")
    return value


def _malformed(why: str) -> VerificationError:
    return VerificationError(VerificationFailure.MALFORMED, why)


def _format_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(TIME_FORMAT)


def _parse_time(vc: Mapping[str, Any], name: str) -> int | None:
    """Returns the Unix microseconds of a dateTime, or None if the member is absent."""
    text = _text(vc, name)
    try:
        return None if text is None else date_time.parse(text)
    except ValueError as error:
        raise _malformed(f"{name}: {error}") from None
