"""Coin selection: the coins that a payment spends, its fee and its change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from formats.bitcoin.dust import dust_threshold
from formats.bitcoin.transaction import WITNESS_SCALE, compact_size
from mesh.errors import FailedPrecondition, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from formats.bitcoin.transaction import Outpoint

MAX_COINS = 200  # from which one payment selects

# Weight units (BIP 141), with the longest signature that low S allows.
_OVERHEAD_WEIGHT = (
    4 + 1 + 1 + 4
) * WITNESS_SCALE + 2  # version, counts, lock time; marker and flag
_INPUT_WEIGHT = (36 + 1 + 4) * WITNESS_SCALE + (1 + 1 + 72 + 1 + 33)
_CHANGE_SCRIPT = b"\x00\x14" + bytes(20)  # any P2WPKH script


@dataclass(frozen=True, slots=True)
class SpendableCoin:
    """A confirmed coin that no payment has reserved."""

    prevout: Outpoint
    amount_sat: int


@dataclass(frozen=True, slots=True)
class CoinSelection:
    """The coins that a payment spends, its fee and its change."""

    coins: tuple[SpendableCoin, ...]
    fee_sat: int
    change_sat: int  # 0: no change output


def single_coin_sat(amount_sat: int, recipient_script: bytes, *, feerate: int) -> int:
    """Returns the smallest amount, in sat, of one coin that pays for the payment and its fee."""
    return amount_sat + _fee(1, [recipient_script], feerate)


def select_coins(
    available: Sequence[SpendableCoin],
    amount_sat: int,
    recipient_script: bytes,
    *,
    feerate: int,
    max_fee_sat: int,
) -> CoinSelection:
    """Selects as few coins as pay for the amount and the fee.

    Takes the smallest coin that suffices alone, so that large coins remain; otherwise the largest
    coins first. ``feerate`` is in sat per 1000 vbytes. Change below the dust threshold goes to the
    fee. Raises FailedPrecondition if the coins do not suffice (INSUFFICIENT_FUNDS), or need a fee
    above ``max_fee_sat`` (FEE_TOO_HIGH).
    """
    largest_first = sorted(available, key=lambda coin: (-coin.amount_sat, coin.prevout))
    single_sat = single_coin_sat(amount_sat, recipient_script, feerate=feerate)
    enough = [coin for coin in largest_first if coin.amount_sat >= single_sat]
    coins: list[SpendableCoin] = []
    total = 0
    for coin in enough[-1:] or largest_first:
        coins.append(coin)
        total += coin.amount_sat
        fee_sat = _fee(len(coins), [recipient_script], feerate)
        if total >= amount_sat + fee_sat:
            return _split(tuple(coins), total - amount_sat, recipient_script, feerate, max_fee_sat)
    needed = amount_sat + _fee(max(1, len(coins)), [recipient_script], feerate)
    raise FailedPrecondition(
        f"the address has {total} sat to spend in {len(coins)} coins; "
        f"the payment takes {needed} sat with its fee",
        reason=Reason.INSUFFICIENT_FUNDS,
    )


def _split(
    coins: tuple[SpendableCoin, ...],
    excess_sat: int,
    recipient_script: bytes,
    feerate: int,
    max_fee_sat: int,
) -> CoinSelection:
    """Splits the amount above the payment into fee and change."""
    fee_sat = _fee(len(coins), [recipient_script, _CHANGE_SCRIPT], feerate)
    change_sat = excess_sat - fee_sat
    if change_sat < dust_threshold(_CHANGE_SCRIPT):
        fee_sat, change_sat = excess_sat, 0
    if fee_sat > max_fee_sat:
        raise FailedPrecondition(
            f"the fee would be {fee_sat} sat, the limit is {max_fee_sat} sat; "
            "raise max_fee_sat or consolidate the address's coins",
            reason=Reason.FEE_TOO_HIGH,
        )
    return CoinSelection(coins, fee_sat, change_sat)


def _fee(inputs: int, scripts: Sequence[bytes], feerate: int) -> int:
    """Returns the fee, in sat, of a transaction with P2WPKH inputs that pays these scripts."""
    outputs = sum(8 + len(compact_size(len(script))) + len(script) for script in scripts)
    vsize = -(
        -(_OVERHEAD_WEIGHT + inputs * _INPUT_WEIGHT + outputs * WITNESS_SCALE) // WITNESS_SCALE
    )
    return -(-vsize * feerate // 1000)
