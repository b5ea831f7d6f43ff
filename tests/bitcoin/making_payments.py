"""Makes payments in the store; run as a process, one of several that race for the same payments."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from formats import uuid7
from formats.bitcoin.network import Network
from formats.bitcoin.transaction import Input, Output, parse_transaction, serialize
from mesh.data.database import open_database
from mesh.data.idempotency import IdempotencyKey
from mesh.security.trust import Bounds
from services.bitcoin.coin_selection import select_coins
from services.bitcoin.descriptor import Seed, script_at
from services.bitcoin.payment import Payment, PaymentRequest
from services.bitcoin.store import SCHEMA
from services.bitcoin.store.payment import (
    PaymentSnapshot,
    PaymentStore,
    SignedPayment,
    StaleSnapshotError,
)
from services.bitcoin.store.wallet import WalletStore
from services.bitcoin.wallet import Keychain, NewWallet, OwnAddress

if TYPE_CHECKING:
    from mesh.data.database import Database

FINAL_DEPTH = 3
RECIPIENT = b"\x00\x14" + b"r" * 20
SENDER = "did:example:sender"
SEED = Seed(bytes(32))
DESCRIPTORS = SEED.descriptors(Network.REGTEST)
WALLET = NewWallet("wallet-1", b"sealed", DESCRIPTORS)

BOUNDS = Bounds(
    boundary="orchestrator -> bitcoin",
    max_amount_sat=None,
    daily_amount_sat=1_000_000,
    required_attestations=frozenset(),
    condition=None,
    digest="policy",
)


def derive(descriptor: str, index: int) -> bytes:
    return script_at(descriptor, Network.REGTEST, index)


SCRIPT = derive(DESCRIPTORS[Keychain.EXTERNAL], 0)


def request_key(request_id: str, body: bytes = b"") -> IdempotencyKey:
    return IdempotencyKey("tests", "Make", request_id, hashlib.sha256(body).digest())


def payment_id(number: int) -> str:
    return uuid7.from_parts(0, number.to_bytes(uuid7.RANDOM_BYTES))


def payment_request(
    number: int, *, amount_sat: int = 10_000, sender: str = SENDER
) -> PaymentRequest:
    return PaymentRequest(
        payment_id=payment_id(number),
        sender_did=sender,
        from_address="ours",
        from_script=SCRIPT,
        to_address="theirs",
        to_script=RECIPIENT,
        amount_sat=amount_sat,
        max_fee_sat=0,
        metadata=b"",
        digest=b"d" * 32,
    )


def signed(
    request: PaymentRequest, snapshot: PaymentSnapshot, bounds: Bounds = BOUNDS
) -> SignedPayment:
    """Signs as the wallet does, with a placeholder that only the store accepts."""
    coins = sorted(snapshot.coins, key=lambda coin: coin.prevout)
    selection = select_coins(
        coins, request.amount_sat, request.to_script, feerate=1_000, max_fee_sat=request.amount_sat
    )
    change = OwnAddress(
        snapshot.own.wallet_id,
        Keychain.INTERNAL,
        snapshot.change_index,
        derive(snapshot.change_descriptor, snapshot.change_index),
    )
    outputs = [Output(request.amount_sat, request.to_script)]
    if selection.change_sat:
        outputs.append(Output(selection.change_sat, change.script_pubkey))
    inputs = [Input(coin.prevout, witness=(b"signature",)) for coin in selection.coins]
    return SignedPayment(
        request=request,
        bounds=bounds,
        valid_until=datetime.now(UTC) + timedelta(minutes=1),
        selection=selection,
        change=change,
        transaction=parse_transaction(serialize(version=2, inputs=inputs, outputs=outputs)),
    )


def reply(payment: Payment) -> bytes:
    return payment.payment_id.encode()


async def make(store: PaymentStore, request: PaymentRequest, bounds: Bounds = BOUNDS) -> bool:
    """Makes a payment as the actor does, without chain and proofs; True if it was first."""
    key = request_key(request.payment_id)
    while snapshot := await store.snapshot(key, request, bounds):
        try:
            return await store.commit(key, signed(request, snapshot, bounds), reply)
        except StaleSnapshotError:
            continue
    return False


async def create_wallet(database: Database) -> WalletStore:
    """Creates a wallet with one address, SCRIPT."""
    store = WalletStore(database)
    await store.create(request_key("create"), WALLET, "payer", reply=lambda wallet: b"")
    await store.reveal(request_key("reveal"), WALLET.id, derive=derive, reply=lambda own: b"")
    return store


async def main(location: str, numbers: list[int]) -> None:
    async with open_database(location, schema=SCHEMA) as database:
        store = PaymentStore(database, final_depth=FINAL_DEPTH)
        print("ready", flush=True)
        sys.stdin.readline()
        for number in numbers:
            if await make(store, payment_request(number), replace(BOUNDS, daily_amount_sat=None)):
                print(number, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [int(number) for number in sys.argv[2:]]))
