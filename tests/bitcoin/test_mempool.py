"""The mempool's rules one by one, and its changes by blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from formats.bitcoin.dust import dust_threshold
from formats.bitcoin.hashes import BlockHash
from formats.bitcoin.transaction import (
    NULL_PREVOUT,
    Input,
    Outpoint,
    Output,
    Transaction,
    outpoint,
    parse_transaction,
    serialize,
)
from formats.money import MAX_SAT
from services.bitcoin import mempool
from services.bitcoin.chain import COINBASE_MATURITY_BLOCKS, Chain, Coin, HeaderRef
from services.bitcoin.mempool import (
    Mempool,
    MempoolRule,
    MempoolTx,
    TransactionRejectedError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPT = b"\x00\x14" + b"s" * 20
HEIGHT = 200
COIN_SAT = 100_000
COIN = Outpoint(b"c" * 32 + bytes(4))
OTHER_COIN = Outpoint(b"d" * 32 + bytes(4))
# One block each ten minutes; the median of the last eleven lies five blocks back.
CHAIN = Chain(HeaderRef(BlockHash(bytes([n]) * 32), 600 * n) for n in range(HEIGHT + 1))
MEDIAN_TIME = 600 * (HEIGHT - 5)


def spend(
    *prevouts: Outpoint,
    outputs: Sequence[Output] = (Output(90_000, SCRIPT),),
    version: int = 2,
    sequence: int = 0xFFFFFFFD,
    lock_time: int = 0,
) -> Transaction:
    inputs = [Input(prevout, sequence=sequence) for prevout in prevouts or (COIN,)]
    return parse_transaction(
        serialize(version=version, inputs=inputs, outputs=outputs, lock_time=lock_time)
    )


def confirmed(
    *prevouts: Outpoint, height: int = 50, is_coinbase: bool = False
) -> dict[Outpoint, Coin]:
    coin = Coin(Output(COIN_SAT, SCRIPT), height, is_coinbase)
    return dict.fromkeys(prevouts or (COIN, OTHER_COIN), coin)


def judge(
    transaction: Transaction,
    coins: dict[Outpoint, Coin] | None = None,
    waiting: Mempool | None = None,
) -> MempoolTx:
    known = confirmed() if coins is None else coins
    return (waiting or Mempool()).check(transaction, known, CHAIN)


def test_valid_payment_is_accepted_with_its_fee() -> None:
    transaction = spend()

    acceptance = judge(transaction).acceptance

    assert acceptance.fee_sat == 10_000
    assert (acceptance.txid, acceptance.vsize) == (transaction.txid, transaction.vsize)


BROKEN = {
    MempoolRule.COINBASE: spend(NULL_PREVOUT),
    MempoolRule.VERSION: spend(version=4),
    MempoolRule.TOO_LARGE: spend(outputs=[Output(9, b"\x6a" + b"x" * 9_000)] * 12),
    MempoolRule.TOO_SMALL: spend(outputs=[Output(0, b"\x6a")]),
    MempoolRule.DUPLICATE_INPUTS: spend(COIN, COIN),
    MempoolRule.DUST: spend(outputs=[Output(293, SCRIPT)]),
    MempoolRule.INPUTS_MISSING: spend(Outpoint(b"?" * 36)),
    MempoolRule.OUT_ABOVE_IN: spend(outputs=[Output(COIN_SAT + 1, SCRIPT)]),
    MempoolRule.OUT_TOO_LARGE: spend(outputs=[Output(MAX_SAT, SCRIPT)] * 2),
    MempoolRule.FEE_TOO_LOW: spend(outputs=[Output(COIN_SAT - 8, SCRIPT)]),
    MempoolRule.NOT_FINAL: spend(lock_time=HEIGHT + 1),
}


@pytest.mark.parametrize(("rule", "transaction"), BROKEN.items(), ids=[r.name for r in BROKEN])
def test_broken_rule_is_named(rule: MempoolRule, transaction: Transaction) -> None:
    with pytest.raises(TransactionRejectedError) as rejection:
        judge(transaction)

    assert rejection.value.rule is rule


def rejected(rule: MempoolRule, transaction: Transaction, coins: dict[Outpoint, Coin]) -> bool:
    try:
        judge(transaction, coins)
    except TransactionRejectedError as rejection:
        return rejection.rule is rule
    return False


@pytest.mark.parametrize(
    ("height", "is_young"),
    [(HEIGHT + 1 - COINBASE_MATURITY_BLOCKS, False), (HEIGHT + 2 - COINBASE_MATURITY_BLOCKS, True)],
)
def test_coinbase_may_be_spent_in_the_hundredth_block_after_it(height: int, is_young: bool) -> None:
    coins = confirmed(COIN, height=height, is_coinbase=True)

    assert rejected(MempoolRule.IMMATURE, spend(), coins) is is_young


@pytest.mark.parametrize(
    ("lock_time", "is_locked"),
    [
        (HEIGHT, False),
        (HEIGHT + 1, True),
        (500_000_000, True),  # a time, long after the median of this chain
    ],
)
def test_lock_time_holds_until_the_next_block_exceeds_it(lock_time: int, is_locked: bool) -> None:
    assert rejected(MempoolRule.NOT_FINAL, spend(lock_time=lock_time), confirmed()) is is_locked


def test_lock_time_does_not_bind_final_inputs() -> None:
    assert judge(spend(lock_time=HEIGHT + 9, sequence=0xFFFFFFFF)).fee_sat


TIMED = 1 << 22


@pytest.mark.parametrize(
    ("sequence", "version", "is_locked"),
    [
        pytest.param(HEIGHT + 1 - 50, 2, False, id="enough blocks"),
        pytest.param(HEIGHT + 2 - 50, 2, True, id="one block early"),
        pytest.param(HEIGHT + 2 - 50, 1, False, id="version 1 knows no BIP 68"),
        pytest.param(1 << 31 | 0xFFFF, 2, False, id="disabled"),
        pytest.param(TIMED | (MEDIAN_TIME - 600 * 44) // 512, 2, False, id="enough time"),
        pytest.param(TIMED | (MEDIAN_TIME - 600 * 44) // 512 + 1, 2, True, id="512 seconds early"),
    ],
)
def test_relative_lock_time_counts_from_the_coin(
    sequence: int, version: int, is_locked: bool
) -> None:
    transaction = spend(sequence=sequence, version=version)

    assert rejected(MempoolRule.NOT_FINAL_RELATIVE, transaction, confirmed(height=50)) is is_locked


@pytest.mark.parametrize(
    ("script", "least"),
    [
        (b"\x00\x14" + bytes(20), 294),
        (b"\x51\x20" + bytes(32), 330),
        (b"\x76\xa9\x14" + bytes(20) + b"\x88\xac", 546),
        (b"\xa9\x14" + bytes(20) + b"\x87", 540),
        (b"\x6a\x04data", 0),
    ],
    ids=["p2wpkh", "p2tr", "p2pkh", "p2sh", "op_return"],
)
def test_dust_is_what_bitcoin_core_calls_dust(script: bytes, least: int) -> None:
    assert dust_threshold(script) == least


def filled(*transactions: Transaction) -> Mempool:
    waiting = Mempool()
    for transaction in transactions:
        waiting.add(judge(transaction, waiting=waiting))
    return waiting


def child_of(parent: Transaction, amount_sat: int) -> Transaction:
    return spend(outpoint(parent.txid, 0), outputs=[Output(amount_sat, SCRIPT)])


def test_coin_spent_in_the_mempool_is_a_conflict() -> None:
    first = spend()
    waiting = filled(first)

    with pytest.raises(
        TransactionRejectedError, match=r"txn-mempool-conflict.*is spent by"
    ) as refusal:
        judge(spend(outputs=[Output(80_000, SCRIPT)]), waiting=waiting)

    assert refusal.value.rule is MempoolRule.CONFLICT


def test_chain_of_unconfirmed_transactions_is_limited() -> None:
    waiting = Mempool()
    last = spend()
    for n in range(25):
        waiting.add(judge(last, waiting=waiting))
        last = child_of(last, 89_000 - 1_000 * n)

    with pytest.raises(TransactionRejectedError) as refusal:
        judge(last, waiting=waiting)

    assert refusal.value.rule is MempoolRule.TOO_LONG_CHAIN


def test_full_mempool_rejects_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = filled(spend())
    monkeypatch.setattr(mempool, "MAX_VSIZE", spend().vsize)

    with pytest.raises(TransactionRejectedError) as refusal:
        judge(spend(OTHER_COIN), waiting=waiting)

    assert refusal.value.rule is MempoolRule.FULL


def test_connected_block_removes_its_transactions_and_keeps_their_children() -> None:
    parent = spend()
    child = child_of(parent, 80_000)
    waiting = filled(parent, child)

    waiting.confirm([parent])

    assert [candidate.transaction for candidate in waiting] == [child]
    assert not waiting.spends(COIN)
    assert len(waiting) == 1


def test_block_with_a_conflicting_spend_removes_all_descendants() -> None:
    parent = spend()
    waiting = filled(parent, child_of(parent, 80_000), spend(OTHER_COIN))
    rival = spend(outputs=[Output(70_000, SCRIPT)])

    waiting.confirm([rival])

    assert [candidate.transaction for candidate in waiting] == [spend(OTHER_COIN)]


def test_removed_transactions_free_their_vbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mempool, "MAX_VSIZE", spend().vsize)
    waiting = filled(spend())

    waiting.confirm([spend()])
    waiting.add(judge(spend(OTHER_COIN), waiting=waiting))

    assert len(waiting.clear()) == 1
    assert len(waiting) == 0


def test_outputs_of_waiting_transactions_are_coins_until_they_are_spent() -> None:
    parent = spend(outputs=[Output(50_000, SCRIPT), Output(40_000, SCRIPT)])
    waiting = filled(parent, child_of(parent, 30_000))

    utxos = list(waiting.utxos(SCRIPT))

    assert [utxo.amount_sat for utxo in utxos] == [40_000, 30_000]
    assert [utxo.amount_sat for utxo in waiting.utxos(SCRIPT, after=utxos[0].position)] == [30_000]
