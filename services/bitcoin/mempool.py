"""The mempool: valid transactions for the next blocks, each checked against those before it.

Smaller than Bitcoin Core's policy: no replacement, no eviction by fee. Its rules have the names
that Bitcoin Core reports.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from formats.bitcoin.dust import dust_threshold
from formats.bitcoin.hashes import Txid, display
from formats.bitcoin.transaction import (
    MAX_SEQUENCE,
    NULL_PREVOUT,
    Outpoint,
    Output,
    outpoint,
    split_outpoint,
)
from formats.money import MAX_SAT
from mesh.errors import FailedPrecondition, Reason
from services.bitcoin.chain import COINBASE_MATURITY_BLOCKS, Coin, TxPosition, Utxo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from formats.bitcoin.transaction import Transaction
    from services.bitcoin.chain import Chain

MAX_VERSION = 3
MAX_WEIGHT = 400_000  # weight units (BIP 141)
MIN_STRIPPED_BYTES = 65  # at 64 a transaction may pass for an inner node of a merkle tree
MIN_FEERATE_SAT_PER_KVB = 100
MAX_RELATIVES = 25  # ancestors or descendants of one transaction, itself included
MAX_VSIZE = 20_000_000  # vbytes of all transactions together

_LOCK_TIME_THRESHOLD = 500_000_000  # below: a height, from there on: Unix seconds
_SEQUENCE_DISABLED = 1 << 31  # BIP 68
_SEQUENCE_IS_TIME = 1 << 22
_SEQUENCE_MASK = 0xFFFF
_SEQUENCE_TIME_SHIFT = 9  # units of 512 seconds


class MempoolRule(StrEnum):
    """The rules that a transaction can break. Never renamed."""

    CONFLICT = "txn-mempool-conflict"
    COINBASE = "coinbase"
    DUPLICATE_INPUTS = "bad-txns-inputs-duplicate"
    DUST = "dust"
    FEE_TOO_LOW = "min relay fee not met"
    FULL = "mempool full"
    IMMATURE = "bad-txns-premature-spend-of-coinbase"
    INPUTS_MISSING = "bad-txns-inputs-missingorspent"
    NOT_FINAL = "non-final"
    NOT_FINAL_RELATIVE = "non-BIP68-final"
    OUT_ABOVE_IN = "bad-txns-in-belowout"
    OUT_TOO_LARGE = "bad-txns-txouttotal-toolarge"
    SCRIPT = "mandatory-script-verify-flag-failed"
    TOO_LARGE = "tx-size"
    TOO_LONG_CHAIN = "too-long-mempool-chain"
    TOO_SMALL = "tx-size-small"
    VERSION = "version"


class TransactionRejectedError(FailedPrecondition):
    """The mempool rejects a transaction (TRANSACTION_REJECTED), by the rule that it breaks."""

    def __init__(self, txid: Txid, rule: MempoolRule, detail: str) -> None:
        super().__init__(
            f"transaction {display(txid)} is rejected: {rule} ({detail})",
            reason=Reason.TRANSACTION_REJECTED,
        )
        self.txid = txid
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The fee and size of a transaction that the mempool accepts."""

    txid: Txid
    fee_sat: int
    vsize: int  # vbytes


@dataclass(frozen=True, slots=True, eq=False)
class MempoolTx:
    """A transaction that keeps every rule of ``Mempool.check``; its scripts are checked apart."""

    transaction: Transaction
    spent: tuple[Output, ...]  # one for each input, in order
    fee_sat: int

    @property
    def acceptance(self) -> Acceptance:
        return Acceptance(self.transaction.txid, self.fee_sat, self.transaction.vsize)


@dataclass(slots=True, eq=False)
class _Entry:
    tx: MempoolTx
    arrival: int  # increases, also across blocks
    parents: frozenset[Txid]
    children: set[Txid] = field(default_factory=set)


class Mempool:
    """Transactions by txid, parents before children."""

    def __init__(self) -> None:
        self._entries: dict[Txid, _Entry] = {}
        self._spenders: dict[Outpoint, Txid] = {}
        self._vsize = 0
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, txid: Txid) -> bool:
        return txid in self._entries

    def __iter__(self) -> Iterator[MempoolTx]:
        """Yields transactions in order of arrival, in which parents precede children."""
        return (entry.tx for entry in self._entries.values())

    def get(self, txid: Txid) -> MempoolTx | None:
        entry = self._entries.get(txid)
        return entry.tx if entry else None

    def spends(self, prevout: Outpoint) -> bool:
        return prevout in self._spenders

    def coin(self, prevout: Outpoint) -> Coin | None:
        """Returns an output of a transaction in the mempool, spent there or not, or None."""
        txid, vout = split_outpoint(prevout)
        entry = self._entries.get(txid)
        if entry is None or vout >= len(entry.tx.transaction.outputs):
            return None
        return Coin(entry.tx.transaction.outputs[vout], None, False)

    def utxos(self, script: bytes, *, after: TxPosition | None = None) -> Iterator[Utxo]:
        """Yields unspent outputs of the mempool to a script, in order of arrival."""
        start = (after.index, after.vout) if after else (-1, -1)
        for entry in self._entries.values():
            transaction = entry.tx.transaction
            for vout, output in enumerate(transaction.outputs):
                if output.script_pubkey != script or (entry.arrival, vout) <= start:
                    continue
                if outpoint(transaction.txid, vout) not in self._spenders:
                    position = TxPosition(None, entry.arrival, vout)
                    yield Utxo(transaction.txid, position, output.amount_sat, False)

    def check(
        self, transaction: Transaction, confirmed: Mapping[Outpoint, Coin], chain: Chain
    ) -> MempoolTx:
        """Checks a transaction against every rule except its scripts.

        ``confirmed`` has the coins that its inputs spend and ``chain`` has unspent. Raises
        TransactionRejectedError with the first broken rule.
        """
        _check_shape(transaction)
        _check_lock_time(transaction, chain)
        coins = [self._find_coin(transaction, at, confirmed) for at in transaction.prevouts]
        _check_maturity(transaction, coins, chain)
        _check_relative_lock_times(transaction, coins, chain)
        fee_sat = _check_amounts(transaction, coins)
        self._check_room(transaction)
        return MempoolTx(transaction, tuple(coin.output for coin in coins), fee_sat)

    def add(self, tx: MempoolTx) -> None:
        """Adds a transaction that ``check`` has just returned and whose scripts hold."""
        transaction = tx.transaction
        parents = self._parents(transaction)
        self._entries[transaction.txid] = _Entry(tx, self._arrivals, parents)
        self._arrivals += 1
        for parent in parents:
            self._entries[parent].children.add(transaction.txid)
        for prevout in transaction.prevouts:
            self._spenders[prevout] = transaction.txid
        self._vsize += transaction.vsize

    def confirm(self, transactions: Iterable[Transaction]) -> None:
        """Removes the transactions of a connected block, and those that conflict with them."""
        for transaction in transactions:
            if transaction.txid in self._entries:
                self._drop(transaction.txid)
                continue
            for prevout in transaction.prevouts:
                if prevout in self._spenders:
                    for txid in self._descendants(self._spenders[prevout]):
                        self._drop(txid)

    def clear(self) -> list[Transaction]:
        """Empties the mempool, and returns its transactions, parents first."""
        transactions = [tx.transaction for tx in self]
        self._entries.clear()
        self._spenders.clear()
        self._vsize = 0
        return transactions

    def _find_coin(
        self, transaction: Transaction, prevout: Outpoint, confirmed: Mapping[Outpoint, Coin]
    ) -> Coin:
        if prevout in self._spenders:
            other = display(self._spenders[prevout])
            raise TransactionRejectedError(
                transaction.txid, MempoolRule.CONFLICT, f"{_show(prevout)} is spent by {other}"
            )
        coin = confirmed.get(prevout) or self.coin(prevout)
        if coin is None:
            raise TransactionRejectedError(
                transaction.txid,
                MempoolRule.INPUTS_MISSING,
                f"{_show(prevout)} is unknown or spent",
            )
        return coin

    def _check_room(self, transaction: Transaction) -> None:
        if self._vsize + transaction.vsize > MAX_VSIZE:
            raise TransactionRejectedError(transaction.txid, MempoolRule.FULL, "wait for a block")
        ancestors = self._ancestors(self._parents(transaction))
        if len(ancestors) >= MAX_RELATIVES or any(
            len(self._descendants(txid)) >= MAX_RELATIVES for txid in ancestors
        ):
            raise TransactionRejectedError(
                transaction.txid, MempoolRule.TOO_LONG_CHAIN, f"more than {MAX_RELATIVES} depend"
            )

    def _parents(self, transaction: Transaction) -> frozenset[Txid]:
        txids = (split_outpoint(prevout)[0] for prevout in transaction.prevouts)
        return frozenset(txid for txid in txids if txid in self._entries)

    def _ancestors(self, start: Iterable[Txid]) -> set[Txid]:
        """Returns ``start`` and all of its ancestors."""
        return _closure(start, lambda txid: self._entries[txid].parents)

    def _descendants(self, txid: Txid) -> set[Txid]:
        """Returns ``txid`` and all of its descendants."""
        return _closure([txid], lambda txid: self._entries[txid].children)

    def _drop(self, txid: Txid) -> None:
        entry = self._entries.pop(txid)
        for parent in entry.parents:
            if parent in self._entries:
                self._entries[parent].children.discard(txid)
        for prevout in entry.tx.transaction.prevouts:
            del self._spenders[prevout]
        self._vsize -= entry.tx.transaction.vsize


def _closure(start: Iterable[Txid], next: Callable[[Txid], Iterable[Txid]]) -> set[Txid]:
    found: set[Txid] = set()
    pending = list(start)
    while pending:
        txid = pending.pop()
        if txid not in found:
            found.add(txid)
            pending.extend(next(txid))
    return found


def _check_shape(transaction: Transaction) -> None:
    txid = transaction.txid
    if any(prevout == NULL_PREVOUT for prevout in transaction.prevouts):
        raise TransactionRejectedError(txid, MempoolRule.COINBASE, "only a block may hold one")
    if not 1 <= transaction.version <= MAX_VERSION:
        raise TransactionRejectedError(txid, MempoolRule.VERSION, f"version {transaction.version}")
    if transaction.weight > MAX_WEIGHT:
        raise TransactionRejectedError(
            txid, MempoolRule.TOO_LARGE, f"{transaction.weight} weight units"
        )
    if transaction.stripped_size < MIN_STRIPPED_BYTES:
        raise TransactionRejectedError(
            txid, MempoolRule.TOO_SMALL, f"{transaction.stripped_size} bytes"
        )
    if len(set(transaction.prevouts)) != len(transaction.prevouts):
        raise TransactionRejectedError(
            txid, MempoolRule.DUPLICATE_INPUTS, "an output is spent twice"
        )
    for vout, output in enumerate(transaction.outputs):
        if output.amount_sat < dust_threshold(output.script_pubkey):
            raise TransactionRejectedError(
                txid, MempoolRule.DUST, f"output {vout} holds {output.amount_sat} sat"
            )


def _check_lock_time(transaction: Transaction, chain: Chain) -> None:
    """Checks the lock time; a time against the median of the last blocks (BIP 113)."""
    lock_time = transaction.lock_time
    reached = chain.height + 1 if lock_time < _LOCK_TIME_THRESHOLD else chain.median_time_past()
    if lock_time < reached or all(input.sequence == MAX_SEQUENCE for input in transaction.inputs()):
        return
    raise TransactionRejectedError(
        transaction.txid, MempoolRule.NOT_FINAL, f"locked until {lock_time}, now is {reached}"
    )


def _check_maturity(transaction: Transaction, coins: Iterable[Coin], chain: Chain) -> None:
    for coin in coins:
        if coin.is_coinbase and coin.height is not None:
            depth = chain.height + 1 - coin.height
            if depth < COINBASE_MATURITY_BLOCKS:
                raise TransactionRejectedError(
                    transaction.txid, MempoolRule.IMMATURE, f"a coinbase at depth {depth}"
                )


def _check_relative_lock_times(
    transaction: Transaction, coins: Iterable[Coin], chain: Chain
) -> None:
    """Checks BIP 68; an output in the mempool counts as confirmed by the next block."""
    if transaction.version < 2:
        return
    for input, coin in zip(transaction.inputs(), coins, strict=True):
        if input.sequence & _SEQUENCE_DISABLED:
            continue
        height = chain.height + 1 if coin.height is None else coin.height
        wait = input.sequence & _SEQUENCE_MASK
        if input.sequence & _SEQUENCE_IS_TIME:
            since = chain.median_time_past(max(height - 1, 0))
            is_final = since + (wait << _SEQUENCE_TIME_SHIFT) <= chain.median_time_past()
        else:
            is_final = height + wait <= chain.height + 1
        if not is_final:
            raise TransactionRejectedError(
                transaction.txid,
                MempoolRule.NOT_FINAL_RELATIVE,
                f"{_show(input.prevout)} is too young",
            )


def _check_amounts(transaction: Transaction, coins: Iterable[Coin]) -> int:
    """Returns the fee, in sat. Raises TransactionRejectedError if it is too low, or amounts are."""
    spent = sum(coin.output.amount_sat for coin in coins)
    paid = sum(output.amount_sat for output in transaction.outputs)
    if paid > MAX_SAT:
        raise TransactionRejectedError(transaction.txid, MempoolRule.OUT_TOO_LARGE, f"{paid} sat")
    if paid > spent:
        raise TransactionRejectedError(
            transaction.txid, MempoolRule.OUT_ABOVE_IN, f"it pays {paid} sat out of {spent}"
        )
    fee_sat = spent - paid
    least = -(-transaction.vsize * MIN_FEERATE_SAT_PER_KVB // 1000)
    if fee_sat < least:
        raise TransactionRejectedError(
            transaction.txid, MempoolRule.FEE_TOO_LOW, f"{fee_sat} sat, the minimum is {least}"
        )
    return fee_sat


def _show(prevout: Outpoint) -> str:
    txid, vout = split_outpoint(prevout)
    return f"{display(txid)}:{vout}"
