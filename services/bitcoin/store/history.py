"""Histories of addresses, read from the index in the types of the feature library.

Every query starts at the script's own outputs, so its cost is proportional to the history.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING

from features.history import AddressHistory, Output, Receipt, Spend
from formats.bitcoin.hashes import BlockHash
from services.bitcoin.chain import HeaderRef
from services.bitcoin.store.chain import script_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh.data.database import Database, Transaction

MAX_CACHED_RECEIPTS = 200_000  # in memory, of the histories that were read last
MAX_RECEIPTS = 100_000  # a script with more has no history: its read would block others


@dataclass(frozen=True, slots=True)
class Histories:
    """The confirmed histories of some scripts as of the block ``tip`` at ``height``."""

    height: int
    tip: HeaderRef
    addresses: tuple[
        AddressHistory | None, ...
    ]  # in the order of the request; None: longer than MAX_RECEIPTS


@dataclass(frozen=True, slots=True)
class _Cached:
    """A history as of a block; the next read adds later blocks only."""

    height: int
    hash: BlockHash
    history: AddressHistory | None


class HistoryStore:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: OrderedDict[bytes, _Cached] = OrderedDict()  # by script, the last read last
        self._receipts = 0  # of all cached histories
        self._lock = Lock()  # readers are threads

    async def read(self, scripts: Sequence[bytes], *, height: int | None = None) -> Histories:
        """Returns the histories of the scripts as of ``height``, or of the tip, in one snapshot.

        As of the tip, an unchanged history is the same object again. Raises ValueError if the
        index does not reach ``height``.
        """

        async def work(tx: Transaction) -> Histories:
            row = await tx.fetch_one(
                "SELECT height, hash, time FROM block WHERE height <= ?"
                " ORDER BY height DESC LIMIT 1",
                height if height is not None else 2**62,
            )
            if row is None or (height is not None and row[0] != height):
                raise ValueError(f"the index does not reach height {height}")
            found, tip = row[0], HeaderRef(BlockHash(row[1]), row[2])
            if height is None:
                addresses = [await self._at_tip(tx, script, found, tip.hash) for script in scripts]
            else:
                addresses = [await _read(tx, script, found) for script in scripts]
            return Histories(found, tip, tuple(addresses))

        return await self._database.read(work)

    async def _at_tip(
        self, tx: Transaction, script: bytes, height: int, hash: BlockHash
    ) -> AddressHistory | None:
        with self._lock:
            cached = self._cache.get(script)
        if cached is not None and cached.hash == hash:
            return cached.history
        if cached is not None and await _is_active(tx, cached):
            history = cached.history and await _extend(tx, cached.history, cached.height, height)
        else:
            history = await _read(tx, script, height)
        with self._lock:
            self._keep(script, _Cached(height, hash, history))
        return history

    def _keep(self, script: bytes, cached: _Cached) -> None:
        earlier = self._cache.pop(script, None)
        self._receipts += _size(cached) - (_size(earlier) if earlier else 0)
        self._cache[script] = cached
        while self._receipts > MAX_CACHED_RECEIPTS:
            _, oldest = self._cache.popitem(last=False)
            self._receipts -= _size(oldest)


def _size(cached: _Cached) -> int:
    return 1 + (len(cached.history.receipts) if cached.history else 0)


async def _is_active(tx: Transaction, cached: _Cached) -> bool:
    row = await tx.fetch_one("SELECT hash FROM block WHERE height = ?", cached.height)
    return row is not None and row[0] == cached.hash


async def _read(tx: Transaction, script: bytes, height: int) -> AddressHistory | None:
    return await _extend(tx, AddressHistory(script), -1, height)


async def _extend(
    tx: Transaction, cached: AddressHistory, since: int, height: int
) -> AddressHistory | None:
    """Returns the history extended by the blocks above ``since`` and up to ``height``."""
    script = cached.script
    rows = await tx.fetch(
        "SELECT txid, vout, height, amount_sat FROM txo"
        " WHERE script_hash = ? AND height > ? AND height <= ?"
        " ORDER BY height, position, vout LIMIT ?",
        script_hash(script),
        since,
        height,
        MAX_RECEIPTS + 1,
    )
    if len(cached.receipts) + len(rows) > MAX_RECEIPTS:
        return None
    funders = await _funders(tx, script, since, height) if rows else {}
    came = tuple(
        Receipt(
            txid=txid,
            vout=vout,
            height=received,
            amount_sat=amount_sat,
            funders=frozenset(funders.get(txid, ())),
        )
        for txid, vout, received, amount_sat in rows
    )
    receipts = cached.receipts + came
    if spends := await _spends(tx, script, since, height):
        receipts = tuple(
            replace(receipt, spend=spends[receipt.txid, receipt.vout])
            if (receipt.txid, receipt.vout) in spends
            else receipt
            for receipt in receipts
        )
    return AddressHistory(script, receipts) if came or spends else cached


async def _funders(
    tx: Transaction, script: bytes, since: int, height: int
) -> dict[bytes, set[bytes]]:
    """Returns the scripts that each transaction which pays the script spends, by its txid."""
    rows = await tx.fetch(
        "SELECT DISTINCT paying.txid, funding.script_pubkey FROM (SELECT DISTINCT txid FROM txo"
        " WHERE script_hash = ? AND height > ? AND height <= ?) AS paying"
        " JOIN txo AS funding ON funding.spent_txid = paying.txid",
        script_hash(script),
        since,
        height,
    )
    funders: dict[bytes, set[bytes]] = defaultdict(set)
    for txid, funder in rows:
        funders[txid].add(funder)
    return funders


async def _spends(
    tx: Transaction, script: bytes, since: int, height: int
) -> dict[tuple[bytes, int], Spend]:
    """Returns the transaction that spends each output of the script, by outpoint."""
    rows = await tx.fetch(
        "SELECT own.txid, own.vout, own.spent_txid, own.spent_height FROM txo AS own"
        " WHERE script_hash = ? AND spent_height > ? AND spent_height <= ?",
        script_hash(script),
        since,
        height,
    )
    if not rows:
        return {}
    paid = await tx.fetch(
        "SELECT paid.txid, paid.script_pubkey, paid.amount_sat"
        " FROM (SELECT DISTINCT spent_txid AS txid FROM txo"
        " WHERE script_hash = ? AND spent_height > ? AND spent_height <= ?) AS spending"
        " JOIN txo AS paid ON paid.txid = spending.txid ORDER BY paid.txid, paid.vout",
        script_hash(script),
        since,
        height,
    )
    outputs: dict[bytes, list[Output]] = defaultdict(list)
    for txid, target, amount_sat in paid:
        outputs[txid].append(Output(target, amount_sat))
    # All outputs of a transaction may be unspendable.
    spends = {txid: Spend(txid, at, tuple(outputs.get(txid, ()))) for _, _, txid, at in rows}
    return {(own, vout): spends[txid] for own, vout, txid, _ in rows}
