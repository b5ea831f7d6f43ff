"""Decentralized identifiers of a request: read strictly, resolved without a network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NewType

from formats.did import did_jwk, did_key
from mesh.errors import FailedPrecondition, InvalidArgument, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from formats import jose

Did = NewType("Did", str)

MAX_LENGTH_CHARS = 4096
MAX_CACHED_KEYS = 4096
SYNTAX = re.compile(r"did:[a-z0-9]+:[A-Za-z0-9._:%-]*[A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class DidKey:
    """A DID of the methods did:key and did:jwk, and the one key that it encodes."""

    did: Did
    fragment: str  # of the id of its verification method
    key: jose.Key
    jwk: Mapping[str, Any]  # as encoded in the DID


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


def decode(text: str, *, field: str = "did") -> DidKey:
    """Returns the key of a DID.

    Raises InvalidArgument (DID_INVALID) if the DID is malformed, and FailedPrecondition
    (DID_METHOD_UNSUPPORTED) if its method is not did:key or did:jwk.
    """
    did = parse(text, field=field)
    try:
        if found := _decode(did):
            return found
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


@lru_cache(maxsize=MAX_CACHED_KEYS)
def _decode(did: Did) -> DidKey | None:
    """Returns None for another method. Raises ValueError if the DID does not encode a key."""
    if did.startswith(did_key.PREFIX):
        key = did_key.decode(did)
        return DidKey(did, did_key.multibase(key), key, key.jwk)
    if did.startswith(did_jwk.PREFIX):
        key, jwk = did_jwk.decode(did)
        return DidKey(did, "0", key, jwk)
    return None
