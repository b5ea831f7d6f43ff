"""Coin selection: never above the balance, never a fee above the limit, never dust."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.bitcoin.dust import dust_threshold
from formats.bitcoin.transaction import outpoint
from formats.money import MAX_SAT
from mesh.errors import FailedPrecondition, InvalidArgument, Reason
from mesh.security.payment_intent import check_amount as check
from services.bitcoin.coin_selection import SpendableCoin, select_coins

P2WPKH = b"\x00\x14" + bytes(20)
P2TR = b"\x51\x20" + bytes(32)
P2PKH = b"\x76\xa9\x14" + bytes(20) + b"\x88\xac"


def coins(*amounts: int) -> list[SpendableCoin]:
    return [SpendableCoin(outpoint(bytes(32), vout), amount) for vout, amount in enumerate(amounts)]


@given(
    amounts=st.lists(st.integers(300, 10_000_000), max_size=30),
    amount=st.integers(330, 20_000_000),
    feerate=st.integers(100, 50_000),
    recipient=st.sampled_from([P2WPKH, P2TR, P2PKH]),
)
def test_selection_balances_amount_fee_and_change(
    amounts: list[int], amount: int, feerate: int, recipient: bytes
) -> None:
    try:
        selection = select_coins(
            coins(*amounts), amount, recipient, feerate=feerate, max_fee_sat=10**9
        )
    except FailedPrecondition:
        assert sum(amounts) < amount + 10_000 * feerate
        return

    assert (
        sum(coin.amount_sat for coin in selection.coins)
        == amount + selection.fee_sat + selection.change_sat
    )
    assert len(set(selection.coins)) == len(selection.coins)
    assert selection.change_sat == 0 or selection.change_sat >= dust_threshold(P2WPKH)
    least_vsize = 10 + 68 * len(selection.coins) + 31
    assert selection.fee_sat * 1000 >= least_vsize * feerate


@pytest.mark.parametrize(
    ("amount", "chosen"),
    [
        pytest.param(60_000, [90_000], id="the only one that does it alone"),
        pytest.param(40_000, [50_000], id="the smallest that does it alone"),
        pytest.param(120_000, [90_000, 50_000], id="else the largest first"),
    ],
)
def test_selection_takes_the_fewest_coins(amount: int, chosen: list[int]) -> None:
    selection = select_coins(
        coins(1_000, 90_000, 50_000), amount, P2WPKH, feerate=1_000, max_fee_sat=10_000
    )

    assert [coin.amount_sat for coin in selection.coins] == chosen


def test_change_that_would_be_dust_goes_to_the_fee() -> None:
    selection = select_coins(coins(10_300), 10_000, P2WPKH, feerate=1_000, max_fee_sat=10_000)

    assert (selection.fee_sat, selection.change_sat) == (300, 0)


@pytest.mark.parametrize("amounts", [(), (5_000,), (10_000,), (5_000, 5_000)])
def test_coins_below_amount_and_fee_are_insufficient(amounts: tuple[int, ...]) -> None:
    with pytest.raises(FailedPrecondition) as refusal:
        select_coins(coins(*amounts), 10_000, P2WPKH, feerate=1_000, max_fee_sat=10_000)

    assert refusal.value.reason is Reason.INSUFFICIENT_FUNDS


def test_fee_above_the_limit_is_refused() -> None:
    many = coins(*[1_000] * 30)

    with pytest.raises(FailedPrecondition) as refusal:
        select_coins(many, 20_000, P2WPKH, feerate=1_000, max_fee_sat=1_000)

    assert refusal.value.reason is Reason.FEE_TOO_HIGH


@pytest.mark.parametrize(
    ("amount", "script"),
    [
        pytest.param(0, P2WPKH, id="nothing"),
        pytest.param(-1, P2WPKH, id="less than nothing"),
        pytest.param(293, P2WPKH, id="dust for P2WPKH"),
        pytest.param(329, P2TR, id="dust for P2TR"),
        pytest.param(545, P2PKH, id="dust for P2PKH"),
        pytest.param(MAX_SAT + 1, P2WPKH, id="more than there can be"),
    ],
)
def test_amount_outside_dust_and_money_limit_is_refused(amount: int, script: bytes) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        check(amount, script)

    assert refusal.value.field == "amount_sat"


@pytest.mark.parametrize(
    ("amount", "script"), [(294, P2WPKH), (330, P2TR), (546, P2PKH), (MAX_SAT, P2WPKH)]
)
def test_smallest_and_largest_amounts_are_accepted(amount: int, script: bytes) -> None:
    check(amount, script)
