"""The links of addresses to DIDs, and the challenges for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mesh.data import idempotency, outbox
from mesh.errors import FailedPrecondition, NotFound, Reason, ResourceExhausted
from services.web5 import link as links
from services.web5.did import parse
from services.web5.link import MAX_OPEN_CHALLENGES, Link, LinkChallenge

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.data.database import Database, Row, Transaction
    from mesh.data.idempotency import IdempotencyKey
    from services.web5.link import LinkEvidence, LinkRequest
    from services.web5.proof import Signer

SCHEMA = """
CREATE TABLE IF NOT EXISTS link_challenge (
    id         TEXT PRIMARY KEY,
    caller     TEXT NOT NULL,  -- SPIFFE ID of the client that began the link
    did        TEXT NOT NULL,
    address    TEXT NOT NULL,
    network    TEXT NOT NULL,
    public     INTEGER NOT NULL,
    nonce      TEXT NOT NULL,
    message    TEXT NOT NULL,
    expires_at INTEGER NOT NULL,  -- Unix seconds
    attempts   INTEGER NOT NULL,
    spent      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS link_challenge_did ON link_challenge (caller, did, expires_at);
CREATE INDEX IF NOT EXISTS link_challenge_expires ON link_challenge (expires_at);

CREATE TABLE IF NOT EXISTS address_link (
    did               TEXT NOT NULL,
    address           TEXT NOT NULL,
    network           TEXT NOT NULL,
    id                TEXT NOT NULL UNIQUE,
    public            INTEGER NOT NULL,
    linked_height     INTEGER NOT NULL,
    expires_at        INTEGER NOT NULL,  -- Unix seconds
    credential        TEXT NOT NULL,     -- VC-JWT
    message           TEXT NOT NULL,     -- signed by the address
    address_signature TEXT NOT NULL,
    did_proof         TEXT NOT NULL,
    PRIMARY KEY (did, address, network)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS address_link_address ON address_link (address, network);
"""

CHALLENGE_COLUMNS = "id, did, address, network, public, nonce, message, expires_at, attempts, spent"
LINK_COLUMNS = "id, did, address, network, public, linked_height, expires_at"
KEEP_S = 86_400  # an expired challenge stays distinguishable from an unknown one for this long


class LinkStore:
    def __init__(self, database: Database, signer: Signer) -> None:
        self._database = database
        self._signer = signer

    async def begin(
        self,
        key: IdempotencyKey,
        request: LinkRequest,
        *,
        id: str,
        nonce: str,
        reply: Callable[[LinkChallenge], bytes],
    ) -> bytes:
        """Issues the text to sign once per ``key``, and returns the first reply.

        ResourceExhausted (TOO_MANY_CHALLENGES) if too many of this caller for this DID are open.
        """

        async def effect(tx: Transaction) -> bytes:
            async def first() -> bytes:
                now = await tx.now_ms() // 1000
                await _admit(tx, key.caller, request.did, now)
                challenge = links.write_challenge(
                    request, id=id, nonce=nonce, audience=self._signer.did, now=now
                )
                await _insert_challenge(tx, key.caller, challenge)
                return reply(challenge)

            return await idempotency.run_once(tx, key, first)

        return await self._database.write(effect)

    async def complete(
        self,
        key: IdempotencyKey,
        challenge_id: str,
        *,
        id: str,
        prove: Callable[[LinkChallenge], LinkEvidence],
        reply: Callable[[Link, str], bytes],
    ) -> bytes:
        """Links the challenge's address once per ``key``, and returns the first reply.

        ``prove`` verifies both proofs; ``reply`` takes the link and its credential. Raises NotFound
        if the challenge is unknown, and FailedPrecondition (CHALLENGE_..., PROOF_...) if it is not
        open or a proof is not valid. An invalid proof counts as an attempt.
        """

        async def effect(tx: Transaction) -> bytes:
            async def first() -> bytes:
                now = await tx.now_ms() // 1000
                challenge = await _find_challenge(tx, challenge_id)
                challenge.check_open(now)
                evidence = prove(challenge)
                renewed = await find(
                    tx, challenge.did, challenge.address, challenge.network, now=now
                )
                made = links.link(challenge, evidence, id=id, renewed=renewed, now=now)
                credential = links.issue_credential(
                    made, challenge, evidence, self._signer, now=now
                )
                await _upsert(tx, made, challenge, evidence, credential)
                await tx.execute("UPDATE link_challenge SET spent = 1 WHERE id = ?", challenge.id)
                await _announce(tx, made, renewed=renewed is not None)
                return reply(made, credential)

            return await idempotency.run_once(tx, key, first)

        try:
            return await self._database.write(effect)
        except FailedPrecondition as error:
            if error.reason is Reason.PROOF_INVALID:
                await self._count_attempt(challenge_id)
            raise

    async def of_did(self, did: str, network: str) -> list[Link]:
        """Returns the live links of a DID, in order of address."""

        async def work(tx: Transaction) -> list[Link]:
            rows = await tx.fetch(
                f"SELECT {LINK_COLUMNS} FROM address_link"  # noqa: S608  (a constant)
                " WHERE did = ? AND network = ? AND expires_at > ? ORDER BY address",
                did,
                network,
                await tx.now_ms() // 1000,
            )
            return [_link(row) for row in rows]

        return await self._database.read(work)

    async def public(self, address: str, network: str) -> Link | None:
        """Returns the oldest live public link of an address, or None if there is none."""

        async def work(tx: Transaction) -> Link | None:
            row = await tx.fetch_one(
                f"SELECT {LINK_COLUMNS} FROM address_link"  # noqa: S608  (a constant)
                " WHERE address = ? AND network = ? AND public = 1 AND expires_at > ?"
                " ORDER BY linked_height, did LIMIT 1",
                address,
                network,
                await tx.now_ms() // 1000,
            )
            return _link(row) if row else None

        return await self._database.read(work)

    async def _count_attempt(self, challenge_id: str) -> None:
        """Counts a failed attempt in a separate transaction; that of the proof was rolled back."""

        async def effect(tx: Transaction) -> None:
            await tx.execute(
                "UPDATE link_challenge SET attempts = attempts + 1 WHERE id = ?", challenge_id
            )

        await self._database.write(effect)


async def find(tx: Transaction, did: str, address: str, network: str, *, now: int) -> Link | None:
    """Returns the link of an address to a DID if it is live at ``now`` (Unix seconds)."""
    row = await tx.fetch_one(
        f"SELECT {LINK_COLUMNS} FROM address_link"  # noqa: S608  (a constant)
        " WHERE did = ? AND address = ? AND network = ? AND expires_at > ?",
        did,
        address,
        network,
        now,
    )
    return _link(row) if row else None


async def _admit(tx: Transaction, caller: str, did: str, now: int) -> None:
    await tx.execute("DELETE FROM link_challenge WHERE expires_at < ?", now - KEEP_S)
    row = await tx.fetch_one(
        "SELECT COUNT(*) FROM link_challenge"
        " WHERE caller = ? AND did = ? AND expires_at > ? AND spent = 0",
        caller,
        did,
        now,
    )
    if row and row[0] >= MAX_OPEN_CHALLENGES:
        raise ResourceExhausted(
            f"{MAX_OPEN_CHALLENGES} address links of {did} are open; finish one, or wait until"
            " they expire",
            reason=Reason.TOO_MANY_CHALLENGES,
            retry_after=links.CHALLENGE_LIFETIME_S,
        )


async def _insert_challenge(tx: Transaction, caller: str, challenge: LinkChallenge) -> None:
    await tx.execute(
        "INSERT INTO link_challenge VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0)",
        challenge.id,
        caller,
        challenge.did,
        challenge.address,
        challenge.network,
        int(challenge.public),
        challenge.nonce,
        challenge.message,
        challenge.expires_at,
    )


async def _find_challenge(tx: Transaction, id: str) -> LinkChallenge:
    row = await tx.fetch_one(
        f"SELECT {CHALLENGE_COLUMNS} FROM link_challenge WHERE id = ?",  # noqa: S608  (a constant)
        id,
    )
    if row is None:
        raise NotFound(f"challenge {id} is unknown; call BeginAddressLink for a new one")
    id, did, address, network, public, nonce, message, expires_at, attempts, spent = row
    return LinkChallenge(
        id=id,
        did=parse(did),
        address=address,
        network=network,
        public=bool(public),
        nonce=nonce,
        message=message,
        expires_at=expires_at,
        attempts=attempts,
        spent=bool(spent),
    )


async def _upsert(
    tx: Transaction, made: Link, challenge: LinkChallenge, evidence: LinkEvidence, credential: str
) -> None:
    await tx.execute(
        "INSERT INTO address_link VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (did, address, network) DO UPDATE SET id = excluded.id,"
        " public = excluded.public, linked_height = excluded.linked_height,"
        " expires_at = excluded.expires_at, credential = excluded.credential,"
        " message = excluded.message, address_signature = excluded.address_signature,"
        " did_proof = excluded.did_proof",
        made.did,
        made.address,
        made.network,
        made.id,
        int(made.public),
        made.linked_height,
        made.expires_at,
        credential,
        challenge.message,
        evidence.address_signature,
        evidence.did_proof,
    )


async def _announce(tx: Transaction, made: Link, *, renewed: bool) -> None:
    row = await tx.fetch_one(
        "SELECT COUNT(*) FROM address_link WHERE address = ? AND network = ?",
        made.address,
        made.network,
    )
    data = {
        "link_id": made.id,
        "network": made.network,
        "public": made.public,
        "renewed": renewed,
        "shared": row is not None and row[0] > 1,  # other DIDs proved the same address
    }
    await outbox.append(
        tx, type="web5.address.linked", key=made.did, data=json.dumps(data).encode()
    )


def _link(row: Row) -> Link:
    id, did, address, network, public, linked_height, expires_at = row
    return Link(
        id=id,
        did=did,
        address=address,
        network=network,
        public=bool(public),
        linked_height=linked_height,
        expires_at=expires_at,
    )
