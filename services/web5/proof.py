"""What a DID signs: a compact JWS with claims, whose kid names one of its verification methods."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from formats import jose
from mesh.errors import MeshError
from services.web5 import did as dids

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from services.web5.did import Did, Relationship

MAX_NUMERIC_DATE_S = 253_402_300_799  # the last second of the year 9999


class VerificationFailure(StrEnum):
    """Why a proof does not count, in one word that programs may branch on. Never renamed."""

    MALFORMED = "MALFORMED"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    KEY_NOT_ALLOWED = "KEY_NOT_ALLOWED"  # the DID has no such key, or not for this use
    EXPIRED = "EXPIRED"
    NOT_YET_VALID = "NOT_YET_VALID"
    LIFETIME_TOO_LONG = "LIFETIME_TOO_LONG"
    WRONG_AUDIENCE = "WRONG_AUDIENCE"
    WRONG_HOLDER = "WRONG_HOLDER"
    WRONG_PAYMENT = "WRONG_PAYMENT"
    NONCE_UNKNOWN = "NONCE_UNKNOWN"
    NONCE_SPENT = "NONCE_SPENT"
    NONCE_EXPIRED = "NONCE_EXPIRED"
    PRESENTATION_MISSING = "PRESENTATION_MISSING"
    CREDENTIAL_MISSING = "CREDENTIAL_MISSING"
    CREDENTIAL_INVALID = "CREDENTIAL_INVALID"
    CREDENTIAL_EXPIRED = "CREDENTIAL_EXPIRED"
    CREDENTIAL_STATUS_UNSUPPORTED = "CREDENTIAL_STATUS_UNSUPPORTED"
    ISSUER_NOT_TRUSTED = "ISSUER_NOT_TRUSTED"
    WRONG_SUBJECT = "WRONG_SUBJECT"


class VerificationError(Exception):
    """A proof that does not count."""

    def __init__(self, failure: VerificationFailure, why: str) -> None:
        super().__init__(f"{failure}: {why}")
        self.failure = failure


@dataclass(frozen=True, slots=True)
class ProofStatement:
    """Claims that the holder of a DID's key did sign."""

    signer: Did
    claims: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Signer:
    """A DID whose key is at hand."""

    did: Did
    kid: str
    key: jose.SigningKey

    def sign(self, claims: Mapping[str, Any], *, typ: str = "JWT") -> str:
        payload = json.dumps(claims, separators=(",", ":"), ensure_ascii=False).encode()
        return jose.sign(payload, self.key, {"kid": self.kid, "typ": typ})


def verify(
    token: str, relationship: Relationship, *, types: Collection[str] = ("JWT",)
) -> ProofStatement:
    """The statement of a JWS that a DID signed with a key for this use; typ must be in ``types``.

    Refused with MALFORMED, KEY_NOT_ALLOWED or SIGNATURE_INVALID.
    """
    try:
        jws = jose.parse(token)
        claims = jose.load_json(jws.payload)
    except jose.JoseError as error:
        raise VerificationError(VerificationFailure.MALFORMED, str(error)) from None
    kid = jws.header.get("kid")
    if jws.header.get("typ") not in types or not isinstance(kid, str):
        raise VerificationError(
            VerificationFailure.MALFORMED, f"the header must have kid, and typ {' or '.join(types)}"
        )
    if not isinstance(claims, dict):
        raise VerificationError(VerificationFailure.MALFORMED, "the payload must be a JSON object")
    try:
        document = dids.resolve(kid.partition("#")[0], field="kid")
    except MeshError as error:
        raise VerificationError(VerificationFailure.KEY_NOT_ALLOWED, str(error)) from None
    key = document.key(kid, relationship)
    if key is None:
        raise VerificationError(
            VerificationFailure.KEY_NOT_ALLOWED, f"{relationship} has no key {kid}"
        )
    try:
        jws.verify(key)
    except jose.JoseError as error:
        raise VerificationError(VerificationFailure.SIGNATURE_INVALID, str(error)) from None
    return ProofStatement(document.did, claims)


def text(claims: Mapping[str, Any], name: str) -> str:
    """A claim that must be a text. Refused (MALFORMED)."""
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise VerificationError(VerificationFailure.MALFORMED, f"{name} must be a text")
    return value


def seconds(claims: Mapping[str, Any], name: str) -> int:
    """A claim that must be a NumericDate in whole seconds (RFC 7519). Refused (MALFORMED)."""
    value = claims.get(name)
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not 0 <= value <= MAX_NUMERIC_DATE_S
    ):
        raise VerificationError(
            VerificationFailure.MALFORMED, f"{name} must be a time in whole Unix seconds"
        )
    return value
