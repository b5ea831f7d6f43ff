"""Payments: each at most once, with its coins, its budget and its bytes, all in one transaction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mesh.data import idempotency
from mesh.errors import AlreadyExists, FailedPrecondition, Reason
from services.bitcoin.payment import Payment, PaymentState, advance
from services.bitcoin.store.budget import BudgetAccount, charge, check_budget, refund
from services.bitcoin.store.payment_row import announce, get, list_open, read_status, set_state
from services.bitcoin.store.reservation import reserve_coins, spendable_coins
from services.bitcoin.store.wallet import find_own, next_address, reveal, sealed_seed
from services.bitcoin.wallet import Keychain, OwnAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from formats.bitcoin.transaction import Transaction
    from mesh.data.database import Database
    from mesh.data.database import Transaction as Tx
    from mesh.data.idempotency import IdempotencyKey
    from mesh.security.trust import Bounds
    from services.bitcoin.coin_selection import CoinSelection, SpendableCoin
    from services.bitcoin.payment import PaymentRequest
    from services.bitcoin.store.payment_row import OpenPayment


class StaleSnapshotError(Exception):
    """The coins or the change index of a snapshot went to another payment: take a new snapshot."""


UNCONFIRMED = (
    PaymentState.PREPARED,
    PaymentState.BROADCAST,
    PaymentState.UNCONFIRMED_MISSING,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentSnapshot:
    """A consistent view of the rows that a payment is built from. It reserves nothing."""

    own: OwnAddress
    sealed_seed: bytes
    coins: tuple[SpendableCoin, ...]
    change_descriptor: str
    change_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPayment:
    """A signed payment, and the conditions that its commit checks again."""

    request: PaymentRequest
    bounds: Bounds
    valid_until: datetime | None  # when its first attestation expires; None: never
    selection: CoinSelection
    change: OwnAddress
    transaction: Transaction


class PaymentStore:
    def __init__(self, database: Database, *, final_depth: int) -> None:
        self._database = database
        self._final_depth = final_depth

    async def exists(self, key: IdempotencyKey, request: PaymentRequest) -> bool:
        """Returns whether the payment exists.

        Raises AlreadyExists (REQUEST_ID_REUSED) if its id names another payment, and
        FailedPrecondition (PAYMENT_CANCELLED) if it was cancelled.
        """
        return await self._database.read(lambda tx: _exists(tx, key, request))

    async def snapshot(
        self,
        key: IdempotencyKey,
        request: PaymentRequest,
        bounds: Bounds,
        *,
        single_coin_sat: int | None = None,
    ) -> PaymentSnapshot | None:
        """Returns a snapshot for the payment, or None if the payment exists by now.

        If one coin has at least ``single_coin_sat``, the snapshot has only the smallest such coin.
        Raises the errors of ``exists``, FailedPrecondition (SENDER_NOT_MANAGED) if no managed
        wallet has the sender's address, and ResourceExhausted (BUDGET_EXCEEDED).
        """

        async def work(tx: Tx) -> PaymentSnapshot | None:
            if await _exists(tx, key, request):
                return None
            await check_budget(tx, _account(key, request, bounds), request.amount_sat)
            own = await find_own(tx, request.from_script)
            if own is None:
                raise FailedPrecondition(
                    f"{request.from_address} is not an address of a managed wallet",
                    reason=Reason.SENDER_NOT_MANAGED,
                )
            descriptor, index = await next_address(tx, own.wallet_id, Keychain.INTERNAL)
            return PaymentSnapshot(
                own=own,
                sealed_seed=await sealed_seed(tx, own.wallet_id),
                coins=await spendable_coins(
                    tx, request.from_script, single_coin_sat=single_coin_sat
                ),
                change_descriptor=descriptor,
                change_index=index,
            )

        return await self._database.read(work)

    async def commit(
        self, key: IdempotencyKey, signed: SignedPayment, reply: Callable[[Payment], bytes]
    ) -> bool:
        """Commits reply, budget, coins, change, bytes and event of the payment, or none of them.

        Returns False if another attempt was first. Raises StaleSnapshotError if a coin or the
        change index went to another payment, the errors of ``exists`` and ``snapshot``, and
        FailedPrecondition (PROOF_EXPIRED) by the database's clock.
        """

        async def work(tx: Tx) -> bool:
            if await _exists(tx, key, signed.request):
                return False
            await idempotency.run_once(tx, key, lambda: _insert(tx, key, signed, reply))
            return True

        return await self._database.write(work)

    async def get(self, payment_id: str) -> Payment:
        """Returns the payment. Raises NotFound if it neither exists nor was cancelled."""

        async def work(tx: Tx) -> Payment:
            return await self._current(tx, await get(tx, payment_id))

        return await self._database.read(work)

    async def cancel(self, payment_id: str) -> Payment:
        """Refuses the payment for ever; if it exists, returns it unchanged. Idempotent."""

        async def work(tx: Tx) -> Payment:
            inserted = await tx.execute(
                "INSERT INTO payment (payment_id, state, is_final, created_ms)"
                " VALUES (?, ?, 1, ?) ON CONFLICT DO NOTHING",
                payment_id,
                PaymentState.CANCELLED,
                await tx.now_ms(),
            )
            if inserted:
                await announce(tx, payment_id, PaymentState.CANCELLED, None)
            return await self._current(tx, await get(tx, payment_id))

        return await self._database.write(work)

    async def _current(self, tx: Tx, payment: Payment) -> Payment:
        """Returns the payment in the state of the chain, which the next poll stores."""
        if payment.confirmations:
            is_stale = payment.state in UNCONFIRMED
        else:
            is_stale = payment.state is PaymentState.CONFIRMED
        if not is_stale:
            return payment
        # A reorganisation returns the transactions of its blocks to the mempool.
        status = await read_status(tx, payment, in_mempool=True)
        state, _ = advance(payment.state, status, final_depth=self._final_depth)
        return replace(payment, state=state)

    async def open(self, payment_id: str | None = None) -> list[OpenPayment]:
        """Returns the payments that are not final, oldest first, or only the one with this id."""
        return await self._database.read(lambda tx: list_open(tx, payment_id))

    async def update(self, payment_id: str, *, in_mempool: bool) -> Payment:
        """Moves a payment to the state that follows from chain and mempool, and returns it."""

        async def work(tx: Tx) -> Payment:
            await self._update(tx, payment_id, in_mempool=in_mempool)
            return await get(tx, payment_id)

        return await self._database.write(work)

    async def update_all(self, seen: Sequence[tuple[str, bool]]) -> None:
        """Updates several payments, each an id and ``in_mempool``, in one commit."""

        async def work(tx: Tx) -> None:
            for payment_id, in_mempool in seen:
                await self._update(tx, payment_id, in_mempool=in_mempool)

        await self._database.write(work)

    async def _update(self, tx: Tx, payment_id: str, *, in_mempool: bool) -> None:
        payment = await get(tx, payment_id)
        if not payment.is_final:
            status = await read_status(tx, payment, in_mempool=in_mempool)
            state, is_final = advance(payment.state, status, final_depth=self._final_depth)
            await set_state(tx, payment, state, is_final=is_final)

    async def reject(self, payment_id: str) -> Payment:
        """Ends a payment whose only send was rejected; releases its coins and its budget.

        A payment that chain or mempool has by now, or that is final, stays as it is.
        """

        async def work(tx: Tx) -> Payment:
            payment = await get(tx, payment_id)
            needs_broadcast = (await read_status(tx, payment)).needs_broadcast
            if payment.state is PaymentState.PREPARED and needs_broadcast:
                await set_state(tx, payment, PaymentState.REJECTED, is_final=True)
                await refund(tx, payment_id, payment.amount_sat)
            return await get(tx, payment_id)

        return await self._database.write(work)


async def _insert(
    tx: Tx, key: IdempotencyKey, signed: SignedPayment, reply: Callable[[Payment], bytes]
) -> bytes:
    request, bounds = signed.request, signed.bounds
    now = await tx.now_ms()
    if signed.valid_until is not None and signed.valid_until.timestamp() * 1000 <= now:
        raise FailedPrecondition(
            "an attestation expired before the payment was signed; start a new payment",
            reason=Reason.PROOF_EXPIRED,
        )
    day = await charge(tx, _account(key, request, bounds), request.amount_sat)
    if not await reserve_coins(tx, request.payment_id, signed.selection.coins):
        raise StaleSnapshotError
    if signed.selection.change_sat and not await reveal(tx, signed.change):
        raise StaleSnapshotError
    await tx.execute(
        "INSERT INTO payment VALUES (?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        request.payment_id,
        PaymentState.PREPARED,
        signed.transaction.txid,
        signed.transaction.raw,
        key.caller,
        bounds.boundary,
        day,
        request.sender_did,
        request.from_address,
        request.to_address,
        request.amount_sat,
        signed.selection.fee_sat,
        request.digest,
        bounds.digest,
        request.metadata,
        request.traceparent,
        now,
    )
    await announce(tx, request.payment_id, PaymentState.PREPARED, signed.transaction.txid)
    return reply(await get(tx, request.payment_id))


async def _exists(tx: Tx, key: IdempotencyKey, request: PaymentRequest) -> bool:
    if await idempotency.find_reply(tx, key) is not None:
        return True
    row = await tx.fetch_one(
        "SELECT state, caller, digest FROM payment WHERE payment_id = ?", request.payment_id
    )
    if row is None:
        return False
    state, caller, digest = row
    if state == PaymentState.CANCELLED:
        raise FailedPrecondition(
            f"payment {request.payment_id} was cancelled; choose a new id",
            reason=Reason.PAYMENT_CANCELLED,
        )
    if (caller, digest) != (key.caller, request.digest):
        raise AlreadyExists(
            f"{request.payment_id} names another payment; choose a new id",
            reason=Reason.REQUEST_ID_REUSED,
            field="request_id",
        )
    return True


def _account(key: IdempotencyKey, request: PaymentRequest, bounds: Bounds) -> BudgetAccount:
    return BudgetAccount(bounds.boundary, key.caller, request.sender_did, bounds.daily_amount_sat)
