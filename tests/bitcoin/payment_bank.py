"""A payment store with a wallet, and a chain that the test moves block by block."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.data import outbox
from mesh.data.database import Database, open_database
from services.bitcoin.store import SCHEMA
from services.bitcoin.store.payment import PaymentStore
from tests.bitcoin.ledger import Ledger
from tests.bitcoin.making_payments import FINAL_DEPTH, SCRIPT, create_wallet, payment_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mesh.data.idempotency import IdempotencyKey
    from mesh.security.trust import Bounds
    from services.bitcoin.payment import Payment, PaymentRequest
    from services.bitcoin.store.payment import PaymentSnapshot
    from services.bitcoin.store.wallet import WalletStore

COIN_SAT = 100_000


@dataclass
class Bank:
    """A store with a wallet of three coins, and their chain."""

    database: Database
    payments: PaymentStore
    wallets: WalletStore
    ledger: Ledger

    async def events(self, prefix: str = "bitcoin.payment.") -> list[str]:
        recorded = await self.database.read(lambda tx: outbox.read(tx, after=0, limit=1000))
        types = [event.type for event in recorded]
        return [type.removeprefix(prefix) for type in types if type.startswith(prefix)]

    async def spendable(self) -> int:
        return (await self.wallets.balance("wallet-1", script=None)).spendable_sat

    async def reserved(self) -> int:
        return (await self.wallets.balance("wallet-1", script=None)).reserved_sat

    async def snapshot(
        self,
        key: IdempotencyKey,
        request: PaymentRequest,
        bounds: Bounds,
        *,
        single_coin_sat: int | None = None,
    ) -> PaymentSnapshot:
        snapshot = await self.payments.snapshot(
            key, request, bounds, single_coin_sat=single_coin_sat
        )
        assert snapshot, "it is made already"
        return snapshot

    async def update(self, number: int = 1, *, in_mempool: bool = False) -> Payment:
        return await self.payments.update(payment_id(number), in_mempool=in_mempool)


@asynccontextmanager
async def open_bank(location: str, *coins: int) -> AsyncIterator[Bank]:
    async with open_database(location, schema=SCHEMA) as database:
        ledger = Ledger(database)
        await ledger.grow(1)
        wallets = await create_wallet(database)
        for amount in coins:
            await ledger.pay(SCRIPT, amount)
        payments = PaymentStore(database, final_depth=FINAL_DEPTH)
        yield Bank(database, payments, wallets, ledger)
