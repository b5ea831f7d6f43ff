"""Payments: each at most once, with its coins, its budget and its bytes, all in one transaction."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from formats.bitcoin.hashes import Txid, display
from mesh.data import idempotency, outbox
from mesh.errors import AlreadyExists, FailedPrecondition, NotFound, Reason
from services.bitcoin.payment import Payment, Sighting, State, advance
from services.bitcoin.store.budget import Account, charge, check_budget, give_back
from services.bitcoin.store.reservation import candidates, conflict_depth, release, reserve
from services.bitcoin.store.wallet import find_own, next_address, reveal, sealed_seed
from services.bitcoin.wallet import Keychain, OwnAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from formats.bitcoin.transaction import Transaction
    from mesh.data.database import Database, Row
    from mesh.data.database import Transaction as Tx
    from mesh.data.idempotency import IdempotencyKey
    from mesh.security.trust import Bounds
    from services.bitcoin.coin_selection import Spend, SpendableCoin
    from services.bitcoin.payment import PaymentRequest

SCHEMA = """
CREATE TABLE IF NOT EXISTS payment (  -- never pruned
    payment_id   TEXT PRIMARY KEY,
    state        TEXT NOT NULL,
    is_over      INTEGER NOT NULL,
    txid         BLOB,  -- this and all below: NULL if it was cancelled before it existed
    raw          BLOB,  -- signed
    caller       TEXT,
    boundary     TEXT,
    day          INTEGER,  -- of the budget it was charged to
    sender_did   TEXT,
    from_address TEXT,
    to_address   TEXT,
    amount_sat   INTEGER,
    fee_sat      INTEGER,
    digest       BLOB,
    policy       TEXT,  -- digest of the policy that let it through
    metadata     BLOB,
    traceparent  TEXT,  -- of the call that made it, for its events
    created_ms   INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS payment_open ON payment (created_ms) WHERE is_over = 0;
"""

_SELECT = """
SELECT payment_id, state, is_over, payment.txid, from_address, to_address, amount_sat, fee_sat,
    created_ms, (SELECT MAX(height) FROM block) - tx.height + 1, raw
FROM payment LEFT JOIN tx ON tx.txid = payment.txid"""

# Behind the columns of _SELECT: confirmations of what spent a coin of the payment's and is not it.
_SELECT_OPEN = _SELECT.replace(
    ", raw",
    """, (SELECT (SELECT MAX(height) FROM block) - MAX(spent_height) + 1
     FROM reservation JOIN txo ON txo.txid = reservation.txid AND txo.vout = reservation.vout
     WHERE reservation.payment_id = payment.payment_id AND spent_txid <> payment.txid), raw""",
)


class StaleBasisError(Exception):
    """What the payment was built on has changed; build it anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a payment is built on."""

    own: OwnAddress
    sealed_seed: bytes
    candidates: tuple[SpendableCoin, ...]
    change_descriptor: str
    change_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A payment whose bytes exist, and what may not have changed until it commits."""

    order: PaymentRequest
    bounds: Bounds
    proven_until: datetime | None
    spend: Spend
    change: OwnAddress
    transaction: Transaction


@dataclass(frozen=True, slots=True)
class Open:
    """A payment that is not over, as the chain has it. ``is_waiting`` is not known here."""

    payment: Payment
    raw: bytes
    sighting: Sighting


class PaymentStore:
    def __init__(self, database: Database, *, final_depth: int) -> None:
        self._database = database
        self._final_depth = final_depth

    async def is_made(self, key: IdempotencyKey, order: PaymentRequest) -> bool:
        """Whether the payment exists: then nothing about it is judged again.

        AlreadyExists (REQUEST_ID_REUSED) if its id names another payment, FailedPrecondition
        (PAYMENT_CANCELLED) if it was cancelled.
        """
        return await self._database.read(lambda tx: _is_made(tx, key, order))

    async def basis(
        self,
        key: IdempotencyKey,
        order: PaymentRequest,
        bounds: Bounds,
        *,
        alone_sat: int | None = None,
    ) -> Basis | None:
        """What the order can be built on now; one consistent view, nothing is promised by it.

        If a coin has ``alone_sat`` it is the only candidate. None if the payment exists by now.
        The errors of ``is_made``, FailedPrecondition (SENDER_NOT_MANAGED) if the sender's address
        is not of a managed wallet, ResourceExhausted (BUDGET_EXCEEDED).
        """

        async def work(tx: Tx) -> Basis | None:
            if await _is_made(tx, key, order):
                return None
            await check_budget(tx, _account(key, order, bounds), order.amount_sat)
            own = await find_own(tx, order.from_script)
            if own is None:
                raise FailedPrecondition(
                    f"{order.from_address} is not an address of a managed wallet",
                    reason=Reason.SENDER_NOT_MANAGED,
                )
            descriptor, index = await next_address(tx, own.wallet_id, Keychain.INTERNAL)
            return Basis(
                own=own,
                sealed_seed=await sealed_seed(tx, own.wallet_id),
                candidates=await candidates(tx, order.from_script, alone_sat=alone_sat),
                change_descriptor=descriptor,
                change_index=index,
            )

        return await self._database.read(work)

    async def commit(
        self, key: IdempotencyKey, signed: Signed, reply: Callable[[Payment], bytes]
    ) -> bool:
        """Make the payment exist: inbox, budget, coins, change, bytes and event, or none of it.

        False if another attempt was first. StaleBasisError if a coin or the change index went to
        another payment meanwhile. The errors of ``is_made`` and ``basis``, and FailedPrecondition
        (PROOF_EXPIRED), as of this moment by the database's clock.
        """

        async def work(tx: Tx) -> bool:
            if await _is_made(tx, key, signed.order):
                return False
            await idempotency.run_once(tx, key, lambda: _insert(tx, key, signed, reply))
            return True

        return await self._database.write(work)

    async def get(self, payment_id: str) -> Payment:
        """The payment as it stands; NotFound if it neither exists nor was cancelled."""

        async def work(tx: Tx) -> Payment:
            return await self._as_seen(tx, await _get(tx, payment_id))

        return await self._database.read(work)

    async def cancel(self, payment_id: str) -> Payment:
        """Refuse every attempt from now on; if the payment exists already, give it as it is."""

        async def work(tx: Tx) -> Payment:
            tombstone = await tx.execute(
                "INSERT INTO payment (payment_id, state, is_over, created_ms)"
                " VALUES (?, ?, 1, ?) ON CONFLICT DO NOTHING",
                payment_id,
                State.CANCELLED,
                await tx.now_ms(),
            )
            if tombstone:
                await _announce(tx, payment_id, State.CANCELLED, None)
            return await self._as_seen(tx, await _get(tx, payment_id))

        return await self._database.write(work)

    async def _as_seen(self, tx: Tx, payment: Payment) -> Payment:
        """As the chain has it by now: the next sweep moves what a block, or its end, changed."""
        if payment.confirmations:
            moved = payment.state in (State.PREPARED, State.BROADCAST)
        else:
            moved = payment.state is State.CONFIRMED
        if not moved:
            return payment
        state, _ = advance(payment.state, await _sight(tx, payment), final_depth=self._final_depth)
        return replace(payment, state=state)

    async def open(self, payment_id: str | None = None) -> list[Open]:
        """The payments that are not over, oldest first; only the one with this id, if given."""

        async def work(tx: Tx) -> list[Open]:
            if payment_id is None:
                rows = await tx.fetch(f"{_SELECT_OPEN} WHERE is_over = 0 ORDER BY created_ms")
            else:
                rows = await tx.fetch(
                    f"{_SELECT_OPEN} WHERE is_over = 0 AND payment_id = ?", payment_id
                )
            return [_open(row) for row in rows]

        return await self._database.read(work)

    async def observe(self, payment_id: str, *, is_waiting: bool) -> Payment:
        """Move a payment to the state that the chain, and the mempool as told, put it in."""

        async def work(tx: Tx) -> Payment:
            await self._observe(tx, payment_id, is_waiting=is_waiting)
            return await _get(tx, payment_id)

        return await self._database.write(work)

    async def observe_all(self, seen: Sequence[tuple[str, bool]]) -> None:
        """``observe`` for several payments, in one commit: their ids, and whether they wait."""

        async def work(tx: Tx) -> None:
            for payment_id, is_waiting in seen:
                await self._observe(tx, payment_id, is_waiting=is_waiting)

        await self._database.write(work)

    async def _observe(self, tx: Tx, payment_id: str, *, is_waiting: bool) -> None:
        payment = await _get(tx, payment_id)
        if not payment.is_over:
            sighting = await _sight(tx, payment, is_waiting=is_waiting)
            state, is_over = advance(payment.state, sighting, final_depth=self._final_depth)
            await _move(tx, payment, state, is_over=is_over)

    async def reject(self, payment_id: str) -> Payment:
        """End a payment that was refused at its only send: its coins and its budget are free.

        What was seen meanwhile, or is over, stays as it is.
        """

        async def work(tx: Tx) -> Payment:
            payment = await _get(tx, payment_id)
            is_unseen = (await _sight(tx, payment)).is_unseen
            if payment.state is State.PREPARED and is_unseen:
                await _move(tx, payment, State.REJECTED, is_over=True)
                await give_back(tx, payment_id, payment.amount_sat)
            return await _get(tx, payment_id)

        return await self._database.write(work)


async def _insert(
    tx: Tx, key: IdempotencyKey, signed: Signed, reply: Callable[[Payment], bytes]
) -> bytes:
    order, bounds = signed.order, signed.bounds
    now = await tx.now_ms()
    if signed.proven_until is not None and signed.proven_until.timestamp() * 1000 <= now:
        raise FailedPrecondition(
            "an attestation expired before the payment was signed; start the payment anew",
            reason=Reason.PROOF_EXPIRED,
        )
    account = _account(key, order, bounds)
    day = await charge(tx, account, order.amount_sat)
    if not await reserve(tx, order.payment_id, signed.spend.coins):
        raise StaleBasisError
    if signed.spend.change_sat and not await reveal(tx, signed.change):
        raise StaleBasisError
    await tx.execute(
        "INSERT INTO payment VALUES (?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        order.payment_id,
        State.PREPARED,
        signed.transaction.txid,
        signed.transaction.raw,
        key.caller,
        bounds.boundary,
        day,
        order.sender_did,
        order.from_address,
        order.to_address,
        order.amount_sat,
        signed.spend.fee_sat,
        order.digest,
        bounds.digest,
        order.metadata,
        order.traceparent,
        now,
    )
    await _announce(tx, order.payment_id, State.PREPARED, signed.transaction.txid)
    return reply(await _get(tx, order.payment_id))


async def _is_made(tx: Tx, key: IdempotencyKey, order: PaymentRequest) -> bool:
    if await idempotency.find_reply(tx, key) is not None:
        return True
    row = await tx.fetch_one(
        "SELECT state, caller, digest FROM payment WHERE payment_id = ?", order.payment_id
    )
    if row is None:
        return False
    state, caller, digest = row
    if state == State.CANCELLED:
        raise FailedPrecondition(
            f"payment {order.payment_id} was cancelled; choose a new id",
            reason=Reason.PAYMENT_CANCELLED,
        )
    if (caller, digest) != (key.caller, order.digest):
        raise AlreadyExists(
            f"{order.payment_id} names another payment; choose a new id",
            reason=Reason.REQUEST_ID_REUSED,
            field="request_id",
        )
    return True


async def _sight(tx: Tx, payment: Payment, *, is_waiting: bool = False) -> Sighting:
    """What the active chain says about a payment's transaction and its coins."""
    assert payment.txid is not None  # noqa: S101  (a payment that is not over has its bytes)
    return Sighting(
        confirmations=payment.confirmations,
        conflict_depth=await conflict_depth(tx, payment.payment_id, payment.txid),
        is_waiting=is_waiting,
    )


async def _move(tx: Tx, payment: Payment, state: State, *, is_over: bool) -> None:
    if (state, is_over) == (payment.state, payment.is_over):
        return
    await tx.execute(
        "UPDATE payment SET state = ?, is_over = ? WHERE payment_id = ?",
        state,
        int(is_over),
        payment.payment_id,
    )
    if is_over:
        await release(tx, payment.payment_id)
    if state is not payment.state:
        await _announce(tx, payment.payment_id, state, payment.txid, was=payment.state)


async def _announce(
    tx: Tx, payment_id: str, state: State, txid: Txid | None, *, was: State | None = None
) -> None:
    """Each state has its event; ``was`` is the state that it retracts or goes on from."""
    told = {"payment_id": payment_id, "txid": txid and display(txid), "was": was}
    data = {name: value for name, value in told.items() if value is not None}
    row = await tx.fetch_one("SELECT traceparent FROM payment WHERE payment_id = ?", payment_id)
    await outbox.append(
        tx,
        type=f"bitcoin.payment.{state}",
        key=payment_id,
        data=json.dumps(data).encode(),
        traceparent=(row and row[0]) or "",
    )


async def _get(tx: Tx, payment_id: str) -> Payment:
    row = await tx.fetch_one(f"{_SELECT} WHERE payment_id = ?", payment_id)
    if row is None:
        raise NotFound(f"there is no payment {payment_id}")
    return _payment(row)


def _payment(row: Row) -> Payment:
    payment_id, state, is_over, txid, source, target, amount, fee, created, confirmations, _ = row
    return Payment(
        payment_id=payment_id,
        state=State(state),
        is_over=bool(is_over),
        txid=Txid(txid) if txid is not None else None,
        from_address=source or "",
        to_address=target or "",
        amount_sat=amount or 0,
        fee_sat=fee or 0,
        confirmations=confirmations or 0,
        created=datetime.fromtimestamp(created / 1000, UTC),
    )


def _open(row: Row) -> Open:
    *columns, conflict_depth, raw = row
    payment = _payment((*columns, raw))
    sighting = Sighting(confirmations=payment.confirmations, conflict_depth=conflict_depth or 0)
    return Open(payment, bytes(raw), sighting)


def _account(key: IdempotencyKey, order: PaymentRequest, bounds: Bounds) -> Account:
    return Account(bounds.boundary, key.caller, order.sender_did, bounds.daily_amount_sat)
