"""Proofs: compact JWS (RFC 7515) with claims, signed with a key of a DID that the kid names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from formats import jose
from mesh.errors import MeshError
from services.web5 import did as dids

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from services.web5.did import Did, Document, Relationship

_Value = TypeVar("_Value")


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


@dataclass(frozen=True, slots=True)
class SignedClaims:
    """The claims of a JWS whose signature is not verified yet; ``authenticate`` verifies it."""

    jws: jose.Jws
    claims: Mapping[str, Any]

    def authenticate(self, kid: str, relationship: Relationship) -> Did:
        """Returns the DID whose key of this id and relationship signed the claims.

        Raises VerificationError (KEY_NOT_ALLOWED or SIGNATURE_INVALID) if no such key did.
        """
        document = resolve(kid.partition("#")[0], field="kid")
        key = document.key(kid, relationship)
        if key is None:
            raise VerificationError(
                VerificationFailure.KEY_NOT_ALLOWED, f"{kid} is no key for {relationship}"
            )
        try:
            self.jws.verify(key)
        except jose.JoseError as error:
            raise VerificationError(VerificationFailure.SIGNATURE_INVALID, str(error)) from None
        return document.did


def read(token: str) -> SignedClaims:
    """Takes a JWS with claims apart. Raises VerificationError (MALFORMED) if it is none."""
    try:
        jws = jose.parse(token)
        claims = jose.load_json(jws.payload)
    except jose.JoseError as error:
        raise VerificationError(VerificationFailure.MALFORMED, str(error)) from None
    if not isinstance(claims, dict):
        raise VerificationError(VerificationFailure.MALFORMED, "the payload must be a JSON object")
    return SignedClaims(jws, claims)


def verify(
    token: str, relationship: Relationship, *, types: Collection[str] = ("JWT",)
) -> ProofStatement:
    """Returns the claims of a JWS that a DID signed with a key of this relationship.

    ``types`` are the accepted values of the header's typ. Raises VerificationError (MALFORMED,
    KEY_NOT_ALLOWED or SIGNATURE_INVALID).
    """
    signed = read(token)
    header = signed.jws.header
    kid = header.get("kid")
    if header.get("typ") not in types or not isinstance(kid, str):
        raise VerificationError(
            VerificationFailure.MALFORMED, f"the header must have kid, and typ {' or '.join(types)}"
        )
    return ProofStatement(signed.authenticate(kid, relationship), signed.claims)


def resolve(text: str, *, field: str) -> Document:
    """Returns the document of a signer. Raises VerificationError (KEY_NOT_ALLOWED) if none is."""
    try:
        return dids.resolve(text, field=field)
    except MeshError as error:
        raise VerificationError(VerificationFailure.KEY_NOT_ALLOWED, str(error)) from None


def text(claims: Mapping[str, Any], name: str) -> str:
    """Returns a claim that must be a text. Raises VerificationError (MALFORMED) otherwise."""
    return _read_claim(jose.claims.text, claims, name)


def seconds(claims: Mapping[str, Any], name: str) -> int:
    """Returns a claim that must be a NumericDate in whole seconds (RFC 7519, section 2).

    Raises VerificationError (MALFORMED) otherwise.
    """
    return _read_claim(jose.claims.whole_seconds, claims, name)


def microseconds(claims: Mapping[str, Any], name: str) -> int:
    """Returns a claim that must be a NumericDate, which may have decimals (RFC 7519, section 2).

    Raises VerificationError (MALFORMED) otherwise.
    """
    return _read_claim(jose.claims.numeric_date_us, claims, name)


def _read_claim(
    read: Callable[[Mapping[str, Any], str], _Value], claims: Mapping[str, Any], name: str
) -> _Value:
    try:
        return read(claims, name)
    except jose.JoseError as error:
        raise VerificationError(VerificationFailure.MALFORMED, str(error)) from None
