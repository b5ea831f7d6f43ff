"""The DIDs whose private keys the service stores, sealed: its own and the managed ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formats import jose
from mesh.data import idempotency, outbox
from services.web5 import did as dids
from services.web5.did import Method
from services.web5.proof import Signer

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.data.database import Database, Transaction
    from mesh.data.idempotency import IdempotencyKey
    from mesh.security.keystore import Keystore
    from services.web5.did import Document

SCHEMA = """
CREATE TABLE IF NOT EXISTS did (
    did        TEXT PRIMARY KEY,
    owner      TEXT NOT NULL,  -- SPIFFE ID of the caller that created it; empty: the service's own
    crv        TEXT NOT NULL,  -- of the key, as in a JWK (RFC 7517)
    sealed     BLOB NOT NULL,  -- the private key; its id in the keystore is the DID
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS service_did (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    did TEXT NOT NULL REFERENCES did
) STRICT;
"""


class DidStore:
    def __init__(self, database: Database, keystore: Keystore) -> None:
        self._database = database
        self._keystore = keystore

    async def service_signer(self) -> Signer:
        """Returns the service's own DID with its key; creates both on the first call.

        Raises KeystoreError if the key was sealed with another master key.
        """
        fresh = jose.Ed25519Key.generate()
        document = dids.create(Method.KEY, fresh)

        async def effect(tx: Transaction) -> tuple[str, bytes]:
            row = await tx.fetch_one(
                "SELECT did.did, sealed FROM service_did JOIN did ON did.did = service_did.did"
            )
            if row is not None:
                return row[0], bytes(row[1])
            sealed = await self._keep(tx, document, fresh, owner="")
            await tx.execute("INSERT INTO service_did VALUES (1, ?)", document.did)
            return document.did, sealed

        did, sealed = await self._database.write(effect)
        key = jose.Ed25519Key.from_secret(self._keystore.open(did, sealed))
        return Signer(dids.parse(did), dids.resolve(did).methods[0].id, key)

    async def create(
        self,
        request: IdempotencyKey,
        document: Document,
        key: jose.SigningKey | None,
        reply: Callable[[Document], bytes],
    ) -> bytes:
        """Publishes the event of a new DID once per ``request``, and stores its key if given.

        Returns the first reply.
        """

        async def effect(tx: Transaction) -> bytes:
            async def first() -> bytes:
                if key is not None:
                    await self._keep(tx, document, key, owner=request.caller)
                await outbox.append(tx, type="web5.did.created", key=document.did)
                return reply(document)

            return await idempotency.run_once(tx, request, first)

        return await self._database.write(effect)

    async def _keep(
        self, tx: Transaction, document: Document, key: jose.SigningKey, *, owner: str
    ) -> bytes:
        sealed = self._keystore.seal(document.did, key.secret)
        await tx.execute(
            "INSERT INTO did VALUES (?, ?, ?, ?, ?)",
            document.did,
            owner,
            key.jwk["crv"],
            sealed,
            await tx.now_ms(),
        )
        return sealed
