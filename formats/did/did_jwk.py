"""The did:jwk method: ``did:jwk:`` + base64url(JWK as JSON); its only key is ``<did>#0``.

One key has many such DIDs, one for each way to write its JWK; they are different identities.
Source: the did:jwk method specification (J. Miller).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from formats import canonical_json, jose

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "did:jwk:"
PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}  # members of RFC 7518, section 6


def encode(key: jose.Key) -> str:
    """Returns the DID of a key, over the RFC 8785 form of its public JWK."""
    return PREFIX + jose.encode(canonical_json.dumps(key.jwk))


def decode(did: str) -> tuple[jose.Key, dict[str, Any]]:
    """Returns the key in a DID, and its JWK as the DID has it.

    Raises ValueError unless it is a public key that may verify signatures.
    """
    jwk = jose.load_json(jose.decode(did.removeprefix(PREFIX)))
    if not isinstance(jwk, dict):
        raise jose.JoseError("a JWK is a JSON object")
    canonical_json.dumps(jwk)  # raises ValueError for numbers that readers read differently
    return signature_key(jwk), jwk


def signature_key(jwk: Mapping[str, Any]) -> jose.Key:
    """Returns the public key of a JWK.

    Raises JoseError if the JWK has private members, or a use, key_ops or alg that is not a
    signature key's.
    """
    if PRIVATE & jwk.keys():
        raise jose.JoseError("the JWK holds a private key; give the public one")
    key = jose.from_jwk(jwk)
    if jwk.get("use", "sig") != "sig":
        raise jose.JoseError("use of the JWK is not sig")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise jose.JoseError("key_ops of the JWK does not hold verify")
    if jwk.get("alg", key.algorithm) not in (key.algorithm, key.jwk["crv"]):
        raise jose.JoseError(f"alg of the JWK is not {key.algorithm}")
    return key
