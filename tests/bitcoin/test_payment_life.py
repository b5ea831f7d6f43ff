"""A stored payment follows the chain, on both databases."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from formats.bitcoin.transaction import Output, Transaction, parse_transaction
from services.bitcoin.payment import PaymentState
from tests.bitcoin.making_payments import (
    BOUNDS,
    FINAL_DEPTH,
    make,
    payment_id,
    payment_request,
    request_key,
)
from tests.bitcoin.payment_bank import COIN_SAT, Bank, open_bank

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def owed(bank: Bank) -> Transaction:
    """Returns the transaction of the only open payment."""
    (payment,) = await bank.payments.open()
    return parse_transaction(payment.raw)


@pytest.fixture
async def bank(location: str) -> AsyncIterator[Bank]:
    async with open_bank(location, COIN_SAT, COIN_SAT, COIN_SAT) as bank:
        yield bank


async def test_rejected_payment_releases_coins_and_budget(bank: Bank) -> None:
    bounds = replace(BOUNDS, daily_amount_sat=10_000)
    await make(bank.payments, payment_request(1), bounds)

    rejected = await bank.payments.reject(payment_id(1))

    assert (rejected.state, rejected.is_final) == (PaymentState.REJECTED, True)
    assert await bank.reserved() == 0
    assert await make(bank.payments, payment_request(2), bounds)
    assert await bank.events() == ["prepared", "rejected", "prepared"]


async def test_payment_in_the_chain_is_not_rejected(bank: Bank) -> None:
    await make(bank.payments, payment_request(1))
    await bank.update(in_mempool=True)

    kept = await bank.payments.reject(payment_id(1))

    assert (kept.state, await bank.reserved()) == (PaymentState.BROADCAST, COIN_SAT)


async def test_payment_settles_at_its_final_depth_and_releases_its_coins(bank: Bank) -> None:
    await make(bank.payments, payment_request(1))
    await bank.ledger.confirm(await owed(bank))
    confirmed = await bank.update()
    await bank.ledger.grow(FINAL_DEPTH - 1)

    settled = await bank.update()

    assert (confirmed.state, confirmed.confirmations) == (PaymentState.CONFIRMED, 1)
    assert (settled.state, settled.is_final) == (PaymentState.SETTLED, True)
    assert settled.confirmations == FINAL_DEPTH
    assert await bank.reserved() == 0
    assert await bank.payments.open() == []
    assert await bank.events() == ["prepared", "confirmed", "settled"]


async def test_payment_dropped_by_a_reorganisation_is_sent_again(bank: Bank) -> None:
    await make(bank.payments, payment_request(1))
    await bank.ledger.confirm(await owed(bank))
    await bank.update()
    await bank.ledger.disconnect(1)

    found = await bank.update(in_mempool=True)

    (payment,) = await bank.payments.open()
    assert (found.state, found.confirmations) == (PaymentState.BROADCAST, 0)
    assert payment.status.needs_broadcast
    assert await bank.reserved() == COIN_SAT
    assert await bank.events() == ["prepared", "confirmed", "broadcast"]


async def test_conflicting_spend_frees_the_coins_only_at_final_depth(bank: Bank) -> None:
    await make(bank.payments, payment_request(1, amount_sat=150_000))
    await bank.ledger.spend([(await owed(bank)).prevouts[0]], Output(1_000, b"\x51"))
    conflicted = await bank.update()
    held = await bank.reserved()
    await bank.ledger.grow(FINAL_DEPTH - 1)

    final = await bank.update()

    assert (conflicted.state, conflicted.is_final) == (PaymentState.CONFLICTED, False)
    assert held == COIN_SAT  # the second of two coins; the first is spent
    assert (final.state, final.is_final) == (PaymentState.CONFLICTED, True)
    assert await bank.spendable() == 2 * COIN_SAT


async def test_conflict_that_a_reorganisation_drops_is_undone(bank: Bank) -> None:
    await make(bank.payments, payment_request(1))
    await bank.ledger.spend([(await owed(bank)).prevouts[0]], Output(1_000, b"\x51"))
    await bank.update()
    await bank.ledger.disconnect(1)

    found = await bank.update(in_mempool=True)

    assert found.state is PaymentState.BROADCAST
    assert await bank.events() == ["prepared", "conflicted", "broadcast"]


async def test_disconnected_payment_reads_as_unconfirmed_before_the_next_poll(
    bank: Bank,
) -> None:
    await make(bank.payments, payment_request(1))
    await bank.ledger.confirm(await owed(bank))
    confirmed = await bank.update()

    await bank.ledger.disconnect(1)
    found = await bank.payments.get(payment_id(1))

    assert (confirmed.state, confirmed.confirmations) == (PaymentState.CONFIRMED, 1)
    assert (found.state, found.confirmations) == (PaymentState.BROADCAST, 0)
    assert await bank.events() == ["prepared", "confirmed"]  # a read changes nothing


async def test_payments_that_move_together_each_have_their_event(bank: Bank) -> None:
    await make(bank.payments, payment_request(1))
    await make(bank.payments, payment_request(2))
    first, _ = await bank.payments.open()
    await bank.ledger.confirm(parse_transaction(first.raw))

    await bank.payments.update_all([(payment_id(1), False), (payment_id(2), True)])

    states = [one.payment.state for one in await bank.payments.open()]
    assert states == [PaymentState.CONFIRMED, PaymentState.BROADCAST]
    assert await bank.events() == ["prepared", "prepared", "confirmed", "broadcast"]


async def test_open_payments_are_listed_with_their_conflicts(bank: Bank) -> None:
    await make(bank.payments, payment_request(1))
    await make(bank.payments, payment_request(2))
    first, _ = await bank.payments.open()
    await bank.ledger.spend([parse_transaction(first.raw).prevouts[0]], Output(1_000, b"\x51"))
    await bank.ledger.grow(1)

    listed = await bank.payments.open()

    assert [one.status.conflict_depth for one in listed] == [2, 0]


async def test_payment_that_exists_is_not_built_again(bank: Bank) -> None:
    await make(bank.payments, payment_request(1))

    assert (
        await bank.payments.snapshot(request_key(payment_id(1)), payment_request(1), BOUNDS) is None
    )


async def test_confirmed_payment_reads_as_confirmed_before_the_next_poll(bank: Bank) -> None:
    await make(bank.payments, payment_request(1))
    await bank.ledger.confirm(await owed(bank))

    found = await bank.payments.get(payment_id(1))

    assert (found.state, found.confirmations) == (PaymentState.CONFIRMED, 1)
    assert await bank.events() == ["prepared"]  # a read changes nothing
