"""A stored payment follows the chain, on both databases."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from formats.bitcoin.transaction import Output, Transaction, outpoint, parse_transaction
from services.bitcoin.payment import PaymentState
from tests.bitcoin.making_payments import (
    BOUNDS,
    FINAL_DEPTH,
    SCRIPT,
    make,
    payment_id,
    payment_request,
    request_key,
)
from tests.bitcoin.payment_bank import COIN_SAT, Bank, open_bank

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


FOREIGN = b"\x51"  # a script of no wallet


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


async def test_payment_that_neither_chain_nor_mempool_has_any_more_is_missing(bank: Bank) -> None:
    await make(bank.payments, payment_request(1))
    sent = await owed(bank)
    await bank.update(in_mempool=True)

    missing = await bank.update()
    await bank.ledger.confirm(sent)
    unread = await bank.payments.get(payment_id(1))
    confirmed = await bank.update()

    assert (missing.state, missing.is_final) == (PaymentState.UNCONFIRMED_MISSING, False)
    assert await bank.reserved() == 0  # the chain has spent the coin
    assert unread.state is confirmed.state is PaymentState.CONFIRMED
    assert await bank.events() == ["prepared", "broadcast", "unconfirmed_missing", "confirmed"]


@pytest.mark.parametrize("generations", [1, 2, 3])
async def test_payment_whose_ancestor_was_spent_elsewhere_is_conflicted(
    location: str, generations: int
) -> None:
    async with open_bank(location) as bank:
        funding = await bank.ledger.pay(FOREIGN, COIN_SAT)
        coin = outpoint(funding.txid, 0)
        for _ in range(generations - 1):
            coin = outpoint((await bank.ledger.spend([coin], Output(COIN_SAT, FOREIGN))).txid, 0)
        await bank.ledger.spend([coin], Output(COIN_SAT, SCRIPT))
        await make(bank.payments, payment_request(1))
        await bank.update(in_mempool=True)
        await bank.ledger.disconnect(generations)
        lost = await bank.update()
        await bank.ledger.spend([outpoint(funding.txid, 0)], Output(1_000, FOREIGN))
        conflicted = await bank.update()
        (listed,) = await bank.payments.open()
        await bank.ledger.grow(FINAL_DEPTH - 1)

        final = await bank.update()

    assert lost.state is PaymentState.UNCONFIRMED_MISSING
    assert (conflicted.state, conflicted.is_final) == (PaymentState.CONFLICTED, False)
    assert listed.status.conflict_depth == 1
    assert (final.state, final.is_final) == (PaymentState.CONFLICTED, True)


async def test_ancestor_that_returns_to_the_chain_is_no_conflict(location: str) -> None:
    async with open_bank(location) as bank:
        funding = await bank.ledger.pay(FOREIGN, COIN_SAT)
        deposit = await bank.ledger.spend([outpoint(funding.txid, 0)], Output(COIN_SAT, SCRIPT))
        await make(bank.payments, payment_request(1))
        sent = await owed(bank)
        await bank.ledger.disconnect(1)
        await bank.ledger.spend([outpoint(funding.txid, 0)], Output(1_000, FOREIGN))
        conflicted = await bank.update()
        await bank.ledger.disconnect(1)
        await bank.ledger.confirm(deposit)

        returned = await bank.update(in_mempool=True)
        await bank.ledger.confirm(sent)

        assert conflicted.state is PaymentState.CONFLICTED
        assert returned.state is PaymentState.BROADCAST
        assert (await bank.update()).state is PaymentState.CONFIRMED


async def test_payment_of_the_change_of_a_conflicted_payment_is_conflicted_too(
    location: str,
) -> None:
    async with open_bank(location, COIN_SAT) as bank:
        await make(bank.payments, payment_request(1))
        first = await owed(bank)
        await bank.ledger.confirm(first)
        await bank.ledger.spend(
            [outpoint(first.txid, vout) for vout in range(len(first.outputs))],
            Output(COIN_SAT // 2, SCRIPT),
        )
        await make(bank.payments, payment_request(2))
        await bank.ledger.disconnect(2)
        await bank.ledger.spend(list(first.prevouts), Output(1_000, FOREIGN))

        states = [(await bank.update(number)).state for number in (1, 2)]

    assert states == [PaymentState.CONFLICTED, PaymentState.CONFLICTED]


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
