"""General JWS (RFC 7515 section 7.2.1) with exactly one signature, by a DID's authentication key.

The signature covers ``protected + "." + payload`` as transmitted, both base64url. The kid is the
full id of a verification method, and the algorithm must be that of its key.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from formats import jose
from mesh.errors import MeshError
from services.web5 import did
from services.web5.dwn import schemas, values
from services.web5.dwn.errors import Code, DwnError, UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.web5.did import Document
    from services.web5.dwn.values import Value
    from services.web5.proof import Signer


@dataclass(frozen=True, slots=True)
class Signature:
    """A parsed signature; its author is proved by ``verify`` only."""

    kid: str
    algorithm: str
    payload: dict[str, Value]
    signing_input: bytes
    signature: bytes

    @property
    def did(self) -> str:
        return self.kid.partition("#")[0]

    def verify(self) -> None:
        """Raises UnauthorizedError unless the DID's authentication key with this kid made it."""
        try:
            document = _resolve(self.did)
        except MeshError as error:
            raise UnauthorizedError(Code.SIGNER_NOT_RESOLVED, str(error)) from None
        key = document.key(self.kid, did.Relationship.AUTHENTICATION)
        if key is None:
            raise UnauthorizedError(
                Code.PUBLIC_KEY_NOT_FOUND,
                "public key needed to verify signature not found in DID Document",
            )
        if self.algorithm != key.algorithm or not key.verify(self.signature, self.signing_input):
            raise UnauthorizedError(
                Code.SIGNATURE_INVALID, f"Signature verification failed for {self.did}"
            )


@lru_cache(maxsize=512)
def _resolve(signer: str) -> Document:
    """Resolves a signer. Cached: documents of did:key and did:jwk never change."""
    return did.resolve(signer)


def parse(jws: Mapping[str, Value]) -> Signature:
    """Parses a General JWS of valid form. Raises DwnError unless it has exactly one signature."""
    if len(jws["signatures"]) != 1:
        raise DwnError(
            Code.AUTHENTICATION_MORE_THAN_ONE_SIGNATURE,
            "expected no more than 1 signature for authorization purpose",
        )
    entry = jws["signatures"][0]
    payload = _object(jws["payload"], Code.JWS_PAYLOAD_INVALID, "signed payload")
    header = _object(entry["protected"], Code.JWS_HEADER_INVALID, "protected header")
    kid, algorithm = header.get("kid"), header.get("alg")
    if header.keys() != {"alg", "kid"} or not (
        isinstance(kid, str)
        and 0 <= kid.find("#") <= schemas.MAX_DID_CHARS
        and isinstance(algorithm, str)
    ):
        raise DwnError(
            Code.JWS_HEADER_INVALID,
            "the protected header must hold alg and kid, a DID of at most"
            f" {schemas.MAX_DID_CHARS} characters with a fragment, and nothing else",
        )
    try:
        signature = jose.decode(entry["signature"])
    except jose.JoseError as error:
        raise UnauthorizedError(Code.SIGNATURE_INVALID, f"signature: {error}") from None
    signing_input = f"{entry['protected']}.{jws['payload']}".encode()
    return Signature(kid, algorithm, payload, signing_input, signature)


def sign(payload: dict[str, Value], signer: Signer) -> dict[str, Value]:
    """Returns the General JWS of a payload with the signer's signature."""
    body = jose.encode(values.dump(payload))
    header = {"kid": signer.kid, "alg": signer.key.algorithm}
    protected = jose.encode(values.dump(header))
    signature = jose.encode(signer.key.sign(f"{protected}.{body}".encode()))
    return {"payload": body, "signatures": [{"protected": protected, "signature": signature}]}


def _object(encoded: str, code: Code, what: str) -> dict[str, Value]:
    try:
        value = values.parse(jose.decode(encoded))
    except (jose.JoseError, values.MalformedError) as error:
        raise DwnError(code, f"{what}: {error}") from None
    if not isinstance(value, dict):
        raise DwnError(code, f"{what} must be a plain object")
    return value
