"""Proofs: compact JWS (RFC 7515) with claims, signed with a key of a DID that the kid names."""

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

MAX_NUMERIC_DATE_S = 253_402_300_799  # the last second of the year 9999, Unix time


class VerificationFailure(StrEnum):
    """The reason for which a proof is not valid; a stable code that clients may branch on."""

    MALFORMED = "MALFORMED"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    KEY_NOT_ALLOWED = "KEY_NOT_ALLOWED"  # the DID has no such key with this relationship
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
    """A proof that is not valid."""

    def __init__(self, failure: VerificationFailure, detail: str) -> None:
        super().__init__(f"{failure}: {detail}")
        self.failure = failure


@dataclass(frozen=True, slots=True)
class ProofStatement:
    """Claims that a key of a DID signed."""

    signer: Did
    claims: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Signer:
    """A DID with its private key."""

    did: Did
    kid: str
    key: jose.SigningKey

    def sign(self, claims: Mapping[str, Any], *, typ: str = "JWT") -> str:
        """Returns the claims as a compact JWS."""
        payload = json.dumps(claims, separators=(",", ":"), ensure_ascii=False).encode()
        return jose.sign(payload, self.key, {"kid": self.kid, "typ": typ})


def verify(
    token: str, relationship: Relationship, *, types: Collection[str] = ("JWT",)
) -> ProofStatement:
    """Returns the claims of a JWS that a DID signed with a key of this relationship.

    ``types`` are the accepted values of the header's typ. Raises VerificationError (MALFORMED,
    KEY_NOT_ALLOWED or SIGNATURE_INVALID).
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
            VerificationFailure.KEY_NOT_ALLOWED, f"{kid} is no key for {relationship}"
        )
    try:
        jws.verify(key)
    except jose.JoseError as error:
        raise VerificationError(VerificationFailure.SIGNATURE_INVALID, str(error)) from None
    return ProofStatement(document.did, claims)


def text(claims: Mapping[str, Any], name: str) -> str:
    """Returns a claim that must be a text. Raises VerificationError (MALFORMED) otherwise."""
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise VerificationError(VerificationFailure.MALFORMED, f"{name} must be a text")
    return value


def seconds(claims: Mapping[str, Any], name: str) -> int:
    """Returns a claim that must be a NumericDate in whole seconds (RFC 7519, section 2).

    Raises VerificationError (MALFORMED) otherwise.
    """
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
