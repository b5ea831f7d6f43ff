"""A program that verifies each presentation from stdin and prints which ones were verified."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from mesh.data.database import open_database
from mesh.data.idempotency import IdempotencyKey
from mesh.security.assurance import Assurance
from services.web5 import did as dids
from services.web5.identity import IdentityClaim, IdentityVerdict, IdentityVerifier
from services.web5.policy import EvidenceClass, IdentityPolicy
from services.web5.store import SCHEMA
from services.web5.store.identity import IdentityStore


def policy(issuer: str) -> IdentityPolicy:
    biometric = EvidenceClass(
        frozenset({"BiometricCredential"}), frozenset({issuer}), 0.9, Assurance.HIGH
    )
    return IdentityPolicy({"biometric": biometric}, "1-test")


def judge(
    holder: str, issuer: str, audience: str, digest: bytes, presentation: str
) -> IdentityVerifier:
    claim = IdentityClaim(
        did=dids.parse(holder),
        method="biometric",
        sender_did=holder,
        sender_address="bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080",
        network="regtest",
        digest=digest,
        presentation=presentation,
    )
    return IdentityVerifier(claim, policy(issuer), audience=dids.parse(audience))


def verdict_reply(verdict: IdentityVerdict, linked: bool) -> bytes:
    return json.dumps({"verified": verdict.verified, "reasons": verdict.reasons}).encode()


async def spend(job: dict[str, Any]) -> list[bool]:
    async with open_database(job["location"], schema=SCHEMA) as database:
        store = IdentityStore(database)
        digest = bytes.fromhex(job["digest"])

        async def verify(number: int, presentation: str) -> bool:
            key = IdempotencyKey(job["caller"], "VerifyIdentity", f"r-{number}", b"")
            judged = judge(job["holder"], job["issuer"], job["audience"], digest, presentation)
            reply = await store.verify(key, judged, verdict_reply)
            return bool(json.loads(reply)["verified"])

        return await asyncio.gather(
            *(verify(number, token) for number, token in enumerate(job["presentations"]))
        )


if __name__ == "__main__":
    print(json.dumps(asyncio.run(spend(json.load(sys.stdin)))))
