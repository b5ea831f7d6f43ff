"""Decentralized identifiers and their documents (W3C DID Core 1.0), for did:key and did:jwk.

Both methods are pure: the identifier contains the key, so a document never changes and resolving
it needs no network. A signature key has the relationships authentication, assertionMethod,
capabilityInvocation and capabilityDelegation, never keyAgreement.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from formats.did import did_jwk, did_key
from mesh.security import did
from mesh.security.did import Did, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from formats import jose

MAX_CACHED_DOCUMENTS = 4096
# Names of other modules that belong to this one as well.
__all__ = (
    "CONTEXT",
    "Did",
    "Document",
    "Method",
    "Relationship",
    "VerificationMethod",
    "create",
    "parse",
    "resolve",
)

CONTEXT = ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/jwk/v1"]


class Method(StrEnum):
    JWK = "jwk"
    KEY = "key"


class Relationship(StrEnum):
    """A verification relationship (DID Core 1.0, section 5.3)."""

    AUTHENTICATION = "authentication"
    ASSERTION = "assertionMethod"
    INVOCATION = "capabilityInvocation"
    DELEGATION = "capabilityDelegation"


@dataclass(frozen=True, slots=True)
class VerificationMethod:
    id: str  # "<did>#<fragment>", the kid of its signatures
    key: jose.Key
    jwk: Mapping[str, Any]  # as encoded in the DID
    relationships: frozenset[Relationship] = frozenset(Relationship)


@dataclass(frozen=True, slots=True)
class Document:
    did: Did
    methods: tuple[VerificationMethod, ...]

    def key(self, kid: str, relationship: Relationship) -> jose.Key | None:
        """Returns the key with this id if it has the relationship, otherwise None."""
        for method in self.methods:
            if method.id == kid and relationship in method.relationships:
                return method.key
        return None

    def sole_key_id(self, relationship: Relationship) -> str | None:
        """Returns the id of the only key with the relationship, or None if it has not just one."""
        ids = [method.id for method in self.methods if relationship in method.relationships]
        return ids[0] if len(ids) == 1 else None

    def json(self) -> dict[str, Any]:
        """Returns the DID document in JSON form, with JsonWebKey verification methods."""
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


def create(method: Method, key: jose.Key) -> Document:
    """Returns the document of the DID that encodes ``key``."""
    match method:
        case Method.JWK:
            return resolve(did_jwk.encode(key))
        case Method.KEY:
            return resolve(did_key.encode(key))


def resolve(text: str, *, field: str = "did") -> Document:
    """Returns the document of a DID.

    Raises InvalidArgument (DID_INVALID) if the DID is malformed, and FailedPrecondition
    (DID_METHOD_UNSUPPORTED) if its method is not did:key or did:jwk.
    """
    return _document(did.decode(text, field=field).did)


@lru_cache(maxsize=MAX_CACHED_DOCUMENTS)
def _document(text: Did) -> Document:
    found = did.decode(text)
    method = VerificationMethod(f"{text}#{found.fragment}", found.key, found.jwk)
    return Document(text, (method,))
