"""The payment store on both databases: each payment once, no coin twice, no budget exceeded."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from formats.bitcoin.transaction import Output
from mesh.data.database import open_database
from mesh.errors import AlreadyExists, FailedPrecondition, NotFound, Reason, ResourceExhausted
from services.bitcoin.coin_selection import MAX_COINS
from services.bitcoin.payment import Payment, PaymentState
from services.bitcoin.store import SCHEMA
from services.bitcoin.store.payment import PaymentStore, StaleSnapshotError
from tests.bitcoin.making_payments import (
    BOUNDS,
    FINAL_DEPTH,
    SCRIPT,
    make,
    payment_id,
    payment_request,
    reply,
    request_key,
    signed,
)
from tests.bitcoin.payment_bank import COIN_SAT, Bank, open_bank

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


CHILD = [sys.executable, str(Path(__file__).with_name("making_payments.py"))]


@pytest.fixture
async def bank(location: str) -> AsyncIterator[Bank]:
    async with open_bank(location, COIN_SAT, COIN_SAT, COIN_SAT) as bank:
        yield bank


async def test_payment_is_made_once_per_key(bank: Bank) -> None:
    firsts = [await make(bank.payments, payment_request(1)) for _ in range(3)]

    assert firsts == [True, False, False]
    assert await bank.events() == ["prepared"]
    assert await bank.reserved() == COIN_SAT


async def test_attempts_that_race_make_one_payment(bank: Bank) -> None:
    firsts = await asyncio.gather(*(make(bank.payments, payment_request(1)) for _ in range(10)))

    assert sum(firsts) == 1
    assert await bank.events() == ["prepared"]


async def test_payment_survives_a_reopened_store(location: str) -> None:
    async with open_bank(location, COIN_SAT) as bank:
        await make(bank.payments, payment_request(1))
        before = await bank.payments.open()

    async with open_database(location, schema=SCHEMA) as database:
        payments = PaymentStore(database, final_depth=FINAL_DEPTH)
        assert await payments.open() == before
        assert await payments.exists(request_key(payment_id(1)), payment_request(1))


async def test_same_key_with_another_body_is_refused(bank: Bank) -> None:
    await make(bank.payments, payment_request(1))

    with pytest.raises(AlreadyExists) as refusal:
        await bank.payments.exists(request_key(payment_id(1), b"another"), payment_request(1))

    assert refusal.value.reason is Reason.REQUEST_ID_REUSED


async def test_payment_id_of_another_caller_is_refused(bank: Bank) -> None:
    await make(bank.payments, payment_request(1))
    stranger = replace(request_key(payment_id(1)), caller="stranger")

    with pytest.raises(AlreadyExists):
        await bank.payments.exists(stranger, payment_request(1))


async def test_payment_exists_after_its_inbox_row_is_deleted(bank: Bank) -> None:
    snapshot = await bank.snapshot(request_key("a"), payment_request(1), BOUNDS)
    await make(bank.payments, payment_request(1))
    await bank.database.write(lambda tx: tx.execute("DELETE FROM idempotency_key"))

    is_first = await bank.payments.commit(
        request_key(payment_id(1)), signed(payment_request(1), snapshot), reply
    )

    assert not is_first
    assert await bank.events() == ["prepared"]


async def test_two_payments_of_one_coin_commit_once(bank: Bank) -> None:
    keys = [request_key(payment_id(number)) for number in (1, 2)]
    drafts = [
        signed(payment_request(number), await bank.snapshot(key, payment_request(number), BOUNDS))
        for number, key in enumerate(keys, start=1)
    ]
    await bank.payments.commit(keys[0], drafts[0], reply)

    with pytest.raises(StaleSnapshotError):
        await bank.payments.commit(keys[1], drafts[1], reply)

    assert [owed.payment.payment_id for owed in await bank.payments.open()] == [payment_id(1)]
    assert await bank.events() == ["prepared"]


async def test_two_payments_do_not_share_a_change_address(bank: Bank) -> None:
    first, second = payment_request(1), payment_request(2)
    snapshot = await bank.snapshot(request_key("a"), first, BOUNDS)
    others = replace(snapshot, coins=snapshot.coins[1:])
    coin = min(snapshot.coins, key=lambda coin: coin.prevout)
    snapshot = replace(snapshot, coins=(coin,))
    others = replace(snapshot, coins=tuple(set(others.coins) - {coin}))
    await bank.payments.commit(request_key(first.payment_id), signed(first, snapshot), reply)

    with pytest.raises(StaleSnapshotError):
        await bank.payments.commit(request_key(second.payment_id), signed(second, others), reply)


async def test_coin_spent_after_the_snapshot_is_not_reserved(bank: Bank) -> None:
    snapshot = await bank.snapshot(request_key("a"), payment_request(1), BOUNDS)
    await bank.ledger.spend([coin.prevout for coin in snapshot.coins], Output(1, b"\x51"))

    with pytest.raises(StaleSnapshotError):
        await bank.payments.commit(
            request_key(payment_id(1)), signed(payment_request(1), snapshot), reply
        )


async def test_snapshot_has_spendable_coins_only(bank: Bank) -> None:
    await make(bank.payments, payment_request(1))
    await bank.ledger.confirm(to=SCRIPT)  # an immature coinbase

    snapshot = await bank.snapshot(request_key("a"), payment_request(2), BOUNDS)

    assert [coin.amount_sat for coin in snapshot.coins] == [COIN_SAT, COIN_SAT]


async def test_snapshot_has_a_limited_number_of_coins(bank: Bank) -> None:
    await bank.ledger.pay(SCRIPT, *range(1_000, 1_000 + MAX_COINS))

    snapshot = await bank.snapshot(request_key("a"), payment_request(1), BOUNDS)

    amounts = [coin.amount_sat for coin in snapshot.coins]
    assert len(amounts) == MAX_COINS
    assert amounts == sorted(amounts, reverse=True)
    assert amounts[:3] == [COIN_SAT] * 3


async def test_address_outside_managed_wallets_is_refused(bank: Bank) -> None:
    with pytest.raises(FailedPrecondition) as refusal:
        await bank.snapshot(
            request_key("a"), replace(payment_request(1), from_script=b"\x51"), BOUNDS
        )

    assert refusal.value.reason is Reason.SENDER_NOT_MANAGED


async def test_cancelled_payment_is_refused_for_ever(bank: Bank) -> None:
    snapshot = await bank.snapshot(request_key("a"), payment_request(1), BOUNDS)
    cancelled = await bank.payments.cancel(payment_id(1))

    with pytest.raises(FailedPrecondition) as late:
        await bank.payments.commit(
            request_key(payment_id(1)), signed(payment_request(1), snapshot), reply
        )
    with pytest.raises(FailedPrecondition) as again:
        await make(bank.payments, payment_request(1))

    assert cancelled.state is PaymentState.CANCELLED
    assert late.value.reason is again.value.reason is Reason.PAYMENT_CANCELLED
    assert (await bank.payments.get(payment_id(1))).state is PaymentState.CANCELLED
    assert await bank.events() == ["cancelled"]
    assert await bank.reserved() == 0


async def test_payment_that_exists_is_not_cancelled(bank: Bank) -> None:
    await make(bank.payments, payment_request(1))

    found = await bank.payments.cancel(payment_id(1))

    assert found.state is PaymentState.PREPARED
    assert await bank.events() == ["prepared"]


async def test_racing_cancel_and_attempt_have_one_winner(location: str) -> None:
    numbers = range(1, 17)
    async with open_bank(location, *[COIN_SAT] * len(numbers)) as bank:
        ends = await asyncio.gather(
            *(make(bank.payments, payment_request(number, amount_sat=1000)) for number in numbers),
            *(bank.payments.cancel(payment_id(number)) for number in numbers),
            return_exceptions=True,
        )
        states = [(await bank.payments.get(payment_id(number))).state for number in numbers]
        owed = {open.payment.payment_id for open in await bank.payments.open()}

    attempts, cancels = ends[: len(numbers)], ends[len(numbers) :]
    for number, attempt, cancel, state in zip(numbers, attempts, cancels, states, strict=True):
        made = attempt is True
        assert made or (
            isinstance(attempt, FailedPrecondition) and attempt.reason is Reason.PAYMENT_CANCELLED
        )
        assert state is (PaymentState.PREPARED if made else PaymentState.CANCELLED)
        assert isinstance(cancel, Payment)
        assert cancel.state is state
        assert (payment_id(number) in owed) is made


async def test_unknown_payment_is_not_found(bank: Bank) -> None:
    with pytest.raises(NotFound):
        await bank.payments.get(payment_id(1))


async def test_attestation_that_expired_while_signing_makes_no_payment(bank: Bank) -> None:
    snapshot = await bank.snapshot(request_key("a"), payment_request(1), BOUNDS)
    late = replace(
        signed(payment_request(1), snapshot), valid_until=datetime.now(UTC) - timedelta(seconds=1)
    )

    with pytest.raises(FailedPrecondition) as refusal:
        await bank.payments.commit(request_key(payment_id(1)), late, reply)

    assert refusal.value.reason is Reason.PROOF_EXPIRED
    assert await bank.payments.open() == []


async def test_day_has_one_budget_per_sender(bank: Bank) -> None:
    bounds = replace(BOUNDS, daily_amount_sat=25_000)
    await make(bank.payments, payment_request(1), bounds)
    await make(bank.payments, payment_request(2), bounds)

    with pytest.raises(ResourceExhausted) as refusal:
        await make(bank.payments, payment_request(3), bounds)
    of_another = await make(bank.payments, payment_request(3, sender="did:example:other"), bounds)

    assert refusal.value.reason is Reason.BUDGET_EXCEEDED
    assert of_another


async def test_budget_is_enforced_at_commit(
    bank: Bank,
) -> None:
    bounds = replace(BOUNDS, daily_amount_sat=15_000)
    snapshot = await bank.snapshot(request_key("a"), payment_request(1), bounds)
    first = min(snapshot.coins, key=lambda coin: coin.prevout)
    rest = replace(snapshot, coins=tuple(set(snapshot.coins) - {first}))
    await bank.payments.commit(
        request_key(payment_id(1)), signed(payment_request(1), snapshot, bounds), reply
    )

    with pytest.raises(ResourceExhausted):
        await bank.payments.commit(
            request_key(payment_id(2)), signed(payment_request(2), rest, bounds), reply
        )

    assert await bank.reserved() == COIN_SAT


async def test_replay_does_not_charge(bank: Bank) -> None:
    bounds = replace(BOUNDS, daily_amount_sat=10_000)
    await make(bank.payments, payment_request(1), bounds)

    assert not await make(bank.payments, payment_request(1), bounds)


async def test_processes_that_race_make_each_payment_once_and_share_no_coin(
    new_postgres_database: str,
) -> None:
    count = 30
    numbers = [str(number) for number in range(count)]
    async with open_bank(new_postgres_database, *[COIN_SAT] * count) as bank:
        racers = [
            subprocess.Popen(  # noqa: ASYNC220  (threads wait for the processes)
                [*CHILD, new_postgres_database, *request],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for request in (numbers, reversed(numbers))
        ]
        for racer in racers:
            assert racer.stdout
            assert await asyncio.to_thread(racer.stdout.readline) == "ready\n"

        outputs = await asyncio.gather(
            *(asyncio.to_thread(racer.communicate, "go\n", 60) for racer in racers)
        )

        made = [int(line) for out, _ in outputs for line in out.split()]
        payments = await bank.payments.open()
        assert sorted(made) == list(range(count))
        assert len(payments) == count
        assert await bank.reserved() == count * COIN_SAT
        assert await bank.events() == ["prepared"] * count


async def test_snapshot_has_only_the_smallest_sufficient_coin(
    bank: Bank,
) -> None:
    await bank.ledger.pay(SCRIPT, COIN_SAT // 2, COIN_SAT // 4)
    key = request_key("a")

    one = await bank.snapshot(key, payment_request(1), BOUNDS, single_coin_sat=COIN_SAT // 3)
    several = await bank.snapshot(key, payment_request(1), BOUNDS, single_coin_sat=COIN_SAT * 9)

    assert [coin.amount_sat for coin in one.coins] == [COIN_SAT // 2]
    assert {coin.amount_sat for coin in several.coins} == {COIN_SAT, COIN_SAT // 2, COIN_SAT // 4}
