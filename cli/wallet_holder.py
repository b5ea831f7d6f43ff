"""DIDs whose keys stay with the person: what a holder signs, and what the demo's issuer signs.

The formats are those of services/web5: presentation.py, credential.py, link.py and dwn/.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import libipld

from formats import jose
from formats.did import did_jwk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONTEXT = "https://www.w3.org/2018/credentials/v1"
APPROVAL = "anya-approval+jwt"
PRESENTATION_LIFETIME_S = 120
DAG_CBOR_SHA256 = b"\x01\x71\x12\x20"  # CIDv1, dag-cbor, SHA-256 of 32 bytes


@dataclass(frozen=True, slots=True)
class Holder:
    """A did:jwk with its private key, which does not print."""

    key: jose.Ed25519Key | jose.Secp256k1Key

    @classmethod
    def generate(cls) -> Holder:
        return cls(jose.Ed25519Key.generate())

    @classmethod
    def from_secret(cls, curve: str, secret: bytes) -> Holder:
        """Returns the holder of a key on "Ed25519" or "secp256k1". Raises ValueError otherwise."""
        if curve == "Ed25519":
            return cls(jose.Ed25519Key.from_secret(secret))
        if curve == "secp256k1":
            return cls(jose.Secp256k1Key.from_secret(secret))
        raise ValueError(f"no holder has a key on {curve}")

    @property
    def curve(self) -> str:
        return self.key.jwk["crv"]

    @property
    def did(self) -> str:
        return did_jwk.encode(self.key)

    @property
    def kid(self) -> str:
        return f"{self.did}#0"

    def present(
        self, credentials: Sequence[str], *, nonce: str, audience: str, digest: bytes
    ) -> str:
        """Returns a VP-JWT over the nonce that was issued for the payment of this digest."""
        now = int(time.time())
        return self._sign(
            {
                "iss": self.did,
                "aud": audience,
                "nonce": nonce,
                "iat": now,
                "exp": now + PRESENTATION_LIFETIME_S,
                "payment_digest": digest.hex(),
                "vp": {
                    "@context": [CONTEXT],
                    "type": ["VerifiablePresentation"],
                    "verifiableCredential": list(credentials),
                },
            }
        )

    def prove_link(
        self, *, nonce: str, address: str, challenge_id: str, public: bool = False
    ) -> str:
        """Returns the DID's half of an address link: a JWS over the challenge's nonce.

        ``public`` as in BeginAddressLink: only the holder's signature makes a link public.
        """
        claims = {
            "nonce": nonce,
            "address": address,
            "did": self.did,
            "challenge_id": challenge_id,
        }
        return self._sign({**claims, "public": True} if public else claims)

    def approve(self, *, run_id: str, step: str, digest: bytes, approved: bool) -> str:
        """Signs the decision on an approval step; ApproveRunRequest describes the format."""
        claims = {
            "iss": self.did,
            "run_id": run_id,
            "step": step,
            "digest": digest.hex(),
            "decision": "approve" if approved else "reject",
            "iat": int(time.time()),
        }
        return self._sign(claims, typ=APPROVAL)

    def issue(self, kind: str, subject: str, claims: Mapping[str, Any], *, lifetime: int) -> str:
        """Issues a VC-JWT about ``subject``, of type ``kind``, valid for ``lifetime`` seconds."""
        now = int(time.time())
        return self._sign(
            {
                "iss": self.did,
                "sub": subject,
                "nbf": now,
                "exp": now + lifetime,
                "vc": {
                    "@context": [CONTEXT],
                    "type": ["VerifiableCredential", kind],
                    "issuer": self.did,
                    "issuanceDate": _moment(now),
                    "expirationDate": _moment(now + lifetime),
                    "credentialSubject": {"id": subject, **claims},
                },
            }
        )

    def read_record(self, record_id: str) -> bytes:
        """Returns a signed RecordsRead message (DWN profile tbd-0.5) for one record."""
        descriptor = {
            "interface": "Records",
            "method": "Read",
            "filter": {"recordId": record_id},
            "messageTimestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
        }
        digest = hashlib.sha256(libipld.encode_dag_cbor(descriptor)).digest()
        cid = libipld.encode_multibase("b", DAG_CBOR_SHA256 + digest)
        payload = jose.encode(_json({"descriptorCid": cid}))
        protected = jose.encode(_json({"kid": self.kid, "alg": self.key.algorithm}))
        signature = jose.encode(self.key.sign(f"{protected}.{payload}".encode()))
        signatures = [{"protected": protected, "signature": signature}]
        authorization = {"signature": {"payload": payload, "signatures": signatures}}
        return _json({"descriptor": descriptor, "authorization": authorization})

    def _sign(self, claims: Mapping[str, Any], *, typ: str = "JWT") -> str:
        return jose.sign(_json(claims), self.key, {"kid": self.kid, "typ": typ})


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
