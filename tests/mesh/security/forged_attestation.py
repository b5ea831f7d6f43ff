"""Attestations that a compromised service signs: their verdict contradicts their values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from anya.mesh.v1.attestation_pb2 import Attestation
from formats import jose
from mesh.security.attestation import Attestor
from mesh.security.svid import read_svid

if TYPE_CHECKING:
    from mesh.config import Identity


def forge(
    identity: Identity, kind: str, digest: bytes, *, values: dict[str, Any], verdict: bool
) -> Attestation:
    """Signs an attestation with the service's own key and certificate, and with this verdict."""
    honest = jose.parse(Attestor(identity).attest(kind, digest, values=values).jws)
    claims = json.loads(honest.payload) | {"verdict": verdict}
    secret = read_svid(identity).key.private_numbers().private_value.to_bytes(32)
    header = {name: value for name, value in honest.header.items() if name != "alg"}
    key = jose.P256Key.from_secret(secret)
    return Attestation(kind=kind, jws=jose.sign(json.dumps(claims).encode(), key, header))
