"""Decentralized identifiers and their documents (W3C DID Core 1.0), for did:key and did:jwk.

Both methods are pure: the identifier holds the key, so a document never changes and resolving asks
nobody. A signature key may authenticate, assert, and invoke and delegate capabilities; it is never
for key agreement.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NewType

from formats.did import did_jwk, did_key
from mesh.errors import FailedPrecondition, InvalidArgument, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from formats import jose

Did = NewType("Did", str)

MAX_LENGTH_CHARS = 4096  # characters
MAX_CACHED_DOCUMENTS = 4096  # documents that are kept: they never change
SYNTAX = re.compile(r"did:[a-z0-9]+:[A-Za-z0-9._:%-]*[A-Za-z0-9._-]")
CONTEXT = ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/jwk/v1"]


class Method(StrEnum):
    JWK = "jwk"
    KEY = "key"


class Relationship(StrEnum):
    """What a DID may use a key for."""

    AUTHENTICATION = "authentication"
    ASSERTION = "assertionMethod"
    INVOCATION = "capabilityInvocation"
    DELEGATION = "capabilityDelegation"


@dataclass(frozen=True, slots=True)
class VerificationMethod:
    id: str  # "<did>#<fragment>": what a kid names
    key: jose.Key
    jwk: Mapping[str, Any]  # as the DID gives it
    relationships: frozenset[Relationship] = frozenset(Relationship)


@dataclass(frozen=True, slots=True)
class Document:
    did: Did
    methods: tuple[VerificationMethod, ...]

    def key(self, kid: str, relationship: Relationship) -> jose.Key | None:
        """The key of exactly this id, if the DID may use it so."""
        for method in self.methods:
            if method.id == kid and relationship in method.relationships:
                return method.key
        return None

    def json(self) -> dict[str, Any]:
        """As a DID document with JsonWebKey verification methods."""
        methods = [
            {
                "id": method.id,
                "type": "JsonWebKey",
                "controller": self.did,
                "publicKeyJwk": dict(method.jwk),
            }
            for method in self.methods
        ]
        uses = {
            relationship.value: [
                method.id for method in self.methods if relationship in method.relationships
            ]
            for relationship in Relationship
        }
        return {"@context": CONTEXT, "id": self.did, "verificationMethod": methods, **uses}


def parse(text: str, *, field: str = "did") -> Did:
    """A DID by its syntax, without path, query or fragment. InvalidArgument (DID_INVALID)."""
    if len(text) > MAX_LENGTH_CHARS or not SYNTAX.fullmatch(text):
        raise InvalidArgument(
            f"{field} must be a DID of at most {MAX_LENGTH_CHARS} characters, like did:key:z6Mk...",
            reason=Reason.DID_INVALID,
            field=field,
        )
    return Did(text)


def create(method: Method, key: jose.Key) -> Document:
    match method:
        case Method.JWK:
            return resolve(did_jwk.encode(key))
        case Method.KEY:
            return resolve(did_key.encode(key))


def resolve(text: str, *, field: str = "did") -> Document:
    """The document of a DID.

    InvalidArgument (DID_INVALID) if it is malformed, FailedPrecondition (DID_METHOD_UNSUPPORTED)
    for another method.
    """
    did = parse(text, field=field)
    try:
        if document := _resolve(did):
            return document
    except ValueError as error:
        raise InvalidArgument(
            f"{field} is not the DID of a key: {error}", reason=Reason.DID_INVALID, field=field
        ) from None
    raise FailedPrecondition(
        f"did:{did.split(':')[1]} is not resolved here; use did:key or did:jwk",
        reason=Reason.DID_METHOD_UNSUPPORTED,
        field=field,
    )


@lru_cache(maxsize=MAX_CACHED_DOCUMENTS)
def _resolve(did: Did) -> Document | None:
    """None for another method. ValueError if it is not the DID of a key."""
    if did.startswith(did_key.PREFIX):
        key = did_key.decode(did)
        method = VerificationMethod(f"{did}#{did_key.multibase(key)}", key, key.jwk)
        return Document(did, (method,))
    if did.startswith(did_jwk.PREFIX):
        key, jwk = did_jwk.decode(did)
        return Document(did, (VerificationMethod(f"{did}#0", key, jwk),))
    return None
