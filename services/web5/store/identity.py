"""The challenges of identity verifications: their nonces, issued and spent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mesh.data import idempotency, outbox
from mesh.errors import Reason, ResourceExhausted
from services.web5.identity import (
    CHALLENGE_LIFETIME_MS,
    MAX_OPEN_CHALLENGES,
    VerificationChallenge,
)
from services.web5.store import link

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.data.database import Database, Transaction
    from mesh.data.idempotency import IdempotencyKey
    from services.web5.identity import IdentityVerdict, IdentityVerifier

SCHEMA = """
CREATE TABLE IF NOT EXISTS verification_challenge (
    nonce      TEXT PRIMARY KEY,
    caller     TEXT NOT NULL,  -- SPIFFE ID of the client that began the verification
    did        TEXT NOT NULL,
    digest     BLOB NOT NULL,  -- of the payment
    expires_ms INTEGER NOT NULL,
    spent_ms   INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS verification_challenge_did
    ON verification_challenge (caller, did, expires_ms);
CREATE INDEX IF NOT EXISTS verification_challenge_expires
    ON verification_challenge (expires_ms);
"""

KEEP_MS = 86_400_000  # an expired nonce stays distinguishable from an unknown one for this long


class IdentityStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(
        self,
        request: IdempotencyKey,
        *,
        nonce: str,
        did: str,
        digest: bytes,
        reply: Callable[[VerificationChallenge], bytes],
    ) -> bytes:
        """Issues ``nonce`` for a payment once per ``request``, and returns the first reply.

        ResourceExhausted (TOO_MANY_CHALLENGES) if too many of this caller for this DID are open.
        """

        async def effect(tx: Transaction) -> bytes:
            async def first() -> bytes:
                now_ms = await tx.now_ms()
                await _admit(tx, request.caller, did, now_ms)
                challenge = VerificationChallenge(
                    nonce=nonce, did=did, digest=digest, expires_ms=now_ms + CHALLENGE_LIFETIME_MS
                )
                await tx.execute(
                    "INSERT INTO verification_challenge VALUES (?, ?, ?, ?, ?, NULL)",
                    nonce,
                    request.caller,
                    did,
                    digest,
                    challenge.expires_ms,
                )
                return reply(challenge)

            return await idempotency.run_once(tx, request, first)

        return await self._database.write(effect)

    async def verify(
        self,
        request: IdempotencyKey,
        verification: IdentityVerifier,
        reply: Callable[[IdentityVerdict, bool], bytes],
    ) -> bytes:
        """Verifies a presentation once per ``request`` and spends its nonce.

        ``reply`` takes the verdict and whether the sender's address is linked to the DID. Returns
        the first reply.
        """

        async def effect(tx: Transaction) -> bytes:
            async def first() -> bytes:
                now_ms = await tx.now_ms()
                verdict = verification.verify(await _find(tx, verification.nonce), now_ms=now_ms)
                await _spend(tx, verification.nonce, now_ms)
                linked = verdict.verified and await _is_linked(tx, verification, now_ms)
                await _announce(tx, verification, verdict)
                return reply(verdict, linked)

            return await idempotency.run_once(tx, request, first)

        return await self._database.write(effect)


async def _admit(tx: Transaction, caller: str, did: str, now_ms: int) -> None:
    await tx.execute("DELETE FROM verification_challenge WHERE expires_ms < ?", now_ms - KEEP_MS)
    row = await tx.fetch_one(
        "SELECT COUNT(*) FROM verification_challenge"
        " WHERE caller = ? AND did = ? AND expires_ms > ? AND spent_ms IS NULL",
        caller,
        did,
        now_ms,
    )
    if row and row[0] >= MAX_OPEN_CHALLENGES:
        raise ResourceExhausted(
            f"{MAX_OPEN_CHALLENGES} verifications of {did} are open; finish one, or wait until"
            " they expire",
            reason=Reason.TOO_MANY_CHALLENGES,
            retry_after=CHALLENGE_LIFETIME_MS / 1000,
        )


async def _find(tx: Transaction, nonce: str | None) -> VerificationChallenge | None:
    row = await tx.fetch_one(
        "SELECT did, digest, expires_ms, spent_ms FROM verification_challenge WHERE nonce = ?",
        nonce,
    )
    if nonce is None or row is None:
        return None
    did, digest, expires_ms, spent_ms = row
    return VerificationChallenge(
        nonce=nonce,
        did=did,
        digest=bytes(digest),
        expires_ms=expires_ms,
        spent=spent_ms is not None,
    )


async def _spend(tx: Transaction, nonce: str | None, now_ms: int) -> None:
    await tx.execute(
        "UPDATE verification_challenge SET spent_ms = ? WHERE nonce = ? AND spent_ms IS NULL",
        now_ms,
        nonce,
    )


async def _is_linked(tx: Transaction, verification: IdentityVerifier, now_ms: int) -> bool:
    claim = verification.claim
    found = await link.find(tx, claim.did, claim.sender_address, claim.network, now=now_ms // 1000)
    return found is not None


async def _announce(
    tx: Transaction, verification: IdentityVerifier, verdict: IdentityVerdict
) -> None:
    data = {
        "verified": verdict.verified,
        "method": verification.claim.method,
        "failures": list(verdict.reasons),
        "payment_digest": verification.claim.digest.hex(),
    }
    await outbox.append(
        tx,
        type="web5.identity.verified" if verdict.verified else "web5.identity.refused",
        key=verification.claim.did,
        data=json.dumps(data).encode(),
    )
