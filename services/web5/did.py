"""Decentralized identifiers and their documents (W3C DID Core 1.0), for did:key and did:jwk.

Both methods are pure: the identifier contains the key, so a document never changes and resolving
it needs no network. A signature key has the relationships authentication, assertionMethod,
capabilityInvocation and capabilityDelegation, never keyAgreement.
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

MAX_LENGTH_CHARS = 4096
MAX_CACHED_DOCUMENTS = 4096
SYNTAX = re.compile(r"did:[a-z0-9]+:[A-Za-z0-9._:%-]*[A-Za-z0-9._-]")
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


def parse(text: str, *, field: str = "did") -> Did:
    """Returns the text as a DID if it is one without path, query or fragment.

    Raises InvalidArgument (DID_INVALID), naming the request's ``field``, otherwise.
    """
    if len(text) > MAX_LENGTH_CHARS or not SYNTAX.fullmatch(text):
        raise InvalidArgument(
            f"{field} must be a DID of at most {MAX_LENGTH_CHARS} characters, like did:key:z6Mk...",
            reason=Reason.DID_INVALID,
            field=field,
        )
    return Did(text)


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
    did = parse(text, field=field)
    try:
        if document := _resolve(did):
            return document
    except ValueError as error:
        raise InvalidArgument(
            f"{field} does not encode a supported key: {error}",
            reason=Reason.DID_INVALID,
            field=field,
        ) from None
    raise FailedPrecondition(
        f"did:{did.split(':')[1]} is not supported; use did:key or did:jwk",
        reason=Reason.DID_METHOD_UNSUPPORTED,
        field=field,
    )


@lru_cache(maxsize=MAX_CACHED_DOCUMENTS)
def _resolve(did: Did) -> Document | None:
    """Returns None for another method. Raises ValueError if the DID does not encode a key."""
    if did.startswith(did_key.PREFIX):
        key = did_key.decode(did)
        method = VerificationMethod(f"{did}#{did_key.multibase(key)}", key, key.jwk)
        return Document(did, (method,))
    if did.startswith(did_jwk.PREFIX):
        key, jwk = did_jwk.decode(did)
        return Document(did, (VerificationMethod(f"{did}#0", key, jwk),))
    return None
