"""Wallets, their descriptors and addresses; the only place that assigns address indexes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mesh.data import idempotency, outbox
from mesh.errors import AlreadyExists, InvalidArgument, NotFound, Reason
from services.bitcoin.store.chain import script_hash
from services.bitcoin.store.reservation import last_mature_height
from services.bitcoin.wallet import Balance, Keychain, OwnAddress, Wallet

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.data.database import Database, Transaction
    from mesh.data.idempotency import IdempotencyKey
    from services.bitcoin.wallet import NewWallet

SCHEMA = """
CREATE TABLE IF NOT EXISTS wallet (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    sealed_seed BLOB NOT NULL,  -- by the keystore, under the wallet's id
    created_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS descriptor (
    wallet_id  TEXT NOT NULL REFERENCES wallet (id),
    keychain   INTEGER NOT NULL,  -- 0 external, 1 internal
    descriptor TEXT NOT NULL,  -- public
    next_index INTEGER NOT NULL,  -- all lower ones are revealed
    PRIMARY KEY (wallet_id, keychain)
) STRICT;

CREATE TABLE IF NOT EXISTS address (
    script_hash   BLOB PRIMARY KEY,
    script_pubkey BLOB NOT NULL,
    wallet_id     TEXT NOT NULL,
    keychain      INTEGER NOT NULL,
    child         INTEGER NOT NULL,  -- index in the keychain
    UNIQUE (wallet_id, keychain, child)
) STRICT;
"""


class WalletStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, key: IdempotencyKey, new: NewWallet, name: str, *, reply: Callable[[Wallet], bytes]
    ) -> bytes:
        """Creates the wallet, once for each ``key``, and returns the stored reply.

        Raises AlreadyExists (WALLET_EXISTS) if another wallet has the name.
        """

        async def work(tx: Transaction) -> bytes:
            async def effect() -> bytes:
                now = await tx.now_ms()
                inserted = await tx.execute(
                    "INSERT INTO wallet VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    new.id,
                    name,
                    new.sealed_seed,
                    now,
                )
                if not inserted:
                    raise AlreadyExists(
                        f"there is a wallet named {name}; choose another name",
                        reason=Reason.WALLET_EXISTS,
                        field="name",
                    )
                await tx.execute_many(
                    "INSERT INTO descriptor VALUES (?, ?, ?, 0)",
                    [(new.id, int(keychain), text) for keychain, text in new.descriptors.items()],
                )
                await outbox.append(tx, type="bitcoin.wallet.created", key=new.id)
                descriptor = new.descriptors[Keychain.EXTERNAL]
                return reply(Wallet(new.id, name, descriptor, _time(now)))

            return await idempotency.run_once(tx, key, effect)

        return await self._database.write(work)

    async def list(self, *, after: str, limit: int) -> list[Wallet]:
        """Returns at most ``limit`` wallets after the wallet with id ``after``, oldest first."""

        async def work(tx: Transaction) -> list[Wallet]:
            last = await tx.fetch_one("SELECT created_ms FROM wallet WHERE id = ?", after)
            if after and last is None:
                raise InvalidArgument("page_token is of another list", field="page_token")
            rows = await tx.fetch(
                "SELECT id, name, descriptor, created_ms FROM wallet"
                " JOIN descriptor ON wallet_id = id AND keychain = 0"
                " WHERE created_ms > ? OR (created_ms = ? AND id > ?)"
                " ORDER BY created_ms, id LIMIT ?",
                *(last or (-1,)) * 2,
                after,
                limit,
            )
            return [Wallet(id, name, text, _time(created)) for id, name, text, created in rows]

        return await self._database.read(work)

    async def reveal(
        self,
        key: IdempotencyKey,
        wallet_id: str,
        *,
        derive: Callable[[str, int], bytes],
        reply: Callable[[OwnAddress], bytes],
    ) -> bytes:
        """Reveals the next external address, once for each ``key``; returns the stored reply.

        ``derive`` returns the script of a descriptor at an index. The address is on disk before it
        leaves the service. Raises NotFound if there is no such wallet.
        """

        async def work(tx: Transaction) -> bytes:
            async def effect() -> bytes:
                descriptor, index = await next_address(tx, wallet_id, Keychain.EXTERNAL)
                own = OwnAddress(wallet_id, Keychain.EXTERNAL, index, derive(descriptor, index))
                await reveal(tx, own)
                return reply(own)

            return await idempotency.run_once(tx, key, effect)

        return await self._database.write(work)

    async def balance(self, wallet_id: str, *, script: bytes | None) -> Balance:
        """Returns the balance of a wallet, or of the one address with ``script``.

        Raises NotFound if there is no such wallet, or it has no such address.
        """

        async def work(tx: Transaction) -> Balance:
            if not await tx.fetch_one("SELECT 1 FROM wallet WHERE id = ?", wallet_id):
                raise _unknown(wallet_id)
            if script is None:
                addresses = "wallet_id = ?"
                row = await tx.fetch_one(_BALANCE + addresses, *await _mature(tx), wallet_id)
            else:
                own = await find_own(tx, script)
                if own is None or own.wallet_id != wallet_id:
                    raise NotFound("the wallet has no such address")
                addresses = "address.script_hash = ?"
                row = await tx.fetch_one(
                    _BALANCE + addresses, *await _mature(tx), script_hash(script)
                )
            confirmed, immature, reserved = row or (0, 0, 0)
            return Balance(
                confirmed_sat=int(confirmed), immature_sat=int(immature), reserved_sat=int(reserved)
            )

        return await self._database.read(work)

    async def find_own(self, script: bytes) -> tuple[OwnAddress, bytes] | None:
        """Returns the managed address with this script and its wallet's sealed seed, or None."""

        async def work(tx: Transaction) -> tuple[OwnAddress, bytes] | None:
            own = await find_own(tx, script)
            return (own, await sealed_seed(tx, own.wallet_id)) if own else None

        return await self._database.read(work)

    async def sealed_seed(self, wallet_id: str) -> bytes:
        async def work(tx: Transaction) -> bytes:
            return await sealed_seed(tx, wallet_id)

        return await self._database.read(work)


# PostgreSQL sums BIGINT to NUMERIC.
_BALANCE = """
SELECT
    COALESCE(SUM(CASE WHEN is_coinbase = 0 OR height <= ? THEN amount_sat ELSE 0 END), 0),
    COALESCE(SUM(CASE WHEN is_coinbase = 1 AND height > ? THEN amount_sat ELSE 0 END), 0),
    COALESCE(SUM(CASE WHEN reservation.payment_id IS NOT NULL THEN amount_sat ELSE 0 END), 0)
FROM address
JOIN txo ON txo.script_hash = address.script_hash AND txo.spent_txid IS NULL
LEFT JOIN reservation ON reservation.txid = txo.txid AND reservation.vout = txo.vout
WHERE """


async def next_address(tx: Transaction, wallet_id: str, keychain: Keychain) -> tuple[str, int]:
    """Returns a keychain's descriptor, and the index of its next address."""
    row = await tx.fetch_one(
        "SELECT descriptor, next_index FROM descriptor WHERE wallet_id = ? AND keychain = ?",
        wallet_id,
        int(keychain),
    )
    if row is None:
        raise _unknown(wallet_id)
    descriptor, index = row
    return descriptor, index


async def reveal(tx: Transaction, own: OwnAddress) -> bool:
    """Stores the address as revealed; returns False if its index is no longer the next one."""
    updated = await tx.execute(
        "UPDATE descriptor SET next_index = next_index + 1"
        " WHERE wallet_id = ? AND keychain = ? AND next_index = ?",
        own.wallet_id,
        int(own.keychain),
        own.index,
    )
    if not updated:
        return False
    await tx.execute(
        "INSERT INTO address VALUES (?, ?, ?, ?, ?)",
        script_hash(own.script_pubkey),
        own.script_pubkey,
        own.wallet_id,
        int(own.keychain),
        own.index,
    )
    return True


async def find_own(tx: Transaction, script: bytes) -> OwnAddress | None:
    row = await tx.fetch_one(
        "SELECT wallet_id, keychain, child FROM address WHERE script_hash = ?", script_hash(script)
    )
    return OwnAddress(row[0], Keychain(row[1]), row[2], script) if row else None


async def sealed_seed(tx: Transaction, wallet_id: str) -> bytes:
    row = await tx.fetch_one("SELECT sealed_seed FROM wallet WHERE id = ?", wallet_id)
    if row is None:
        raise _unknown(wallet_id)
    return bytes(row[0])


async def _mature(tx: Transaction) -> tuple[int, int]:
    height = await last_mature_height(tx)
    return height, height


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _unknown(wallet_id: str) -> NotFound:
    return NotFound(f"there is no wallet {wallet_id}")
