"""Histories of addresses, read from the index in the words of the feature library.

Everything is found through the script's own outputs, so the cost is that of its history.
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

KEPT_RECEIPTS = 200_000  # in memory, of the histories that were asked for last
MAX_RECEIPTS = 100_000  # a script with more has no history here: reading it would stall the rest


@dataclass(frozen=True, slots=True)
class Histories:
    """What was confirmed about some scripts when ``tip`` was the tip, at ``height``."""

    height: int
    tip: HeaderRef
    addresses: tuple[AddressHistory | None, ...]  # as asked; None: too long to be read


@dataclass(frozen=True, slots=True)
class _Known:
    """A history as it was read at a block; only what came since is to be read."""

    height: int
    hash: BlockHash
    history: AddressHistory | None


class HistoryStore:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: OrderedDict[bytes, _Known] = OrderedDict()  # by script, the last used last
        self._receipts = 0  # of all that are known
        self._lock = Lock()  # readers are threads

    async def read(self, scripts: Sequence[bytes], *, height: int | None = None) -> Histories:
        """The histories of the scripts as of ``height``, or of the tip, all at one moment.

        As of the tip, the same history is the same object. ValueError if the index does not reach
        that height.
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
            known = self._known.get(script)
        if known is not None and known.hash == hash:
            return known.history
        if known is not None and await _is_active(tx, known):
            history = known.history and await _extend(tx, known.history, known.height, height)
        else:
            history = await _read(tx, script, height)
        with self._lock:
            self._keep(script, _Known(height, hash, history))
        return history

    def _keep(self, script: bytes, known: _Known) -> None:
        earlier = self._known.pop(script, None)
        self._receipts += _size(known) - (_size(earlier) if earlier else 0)
        self._known[script] = known
        while self._receipts > KEPT_RECEIPTS:
            _, oldest = self._known.popitem(last=False)
            self._receipts -= _size(oldest)


def _size(known: _Known) -> int:
    return 1 + (len(known.history.receipts) if known.history else 0)


async def _is_active(tx: Transaction, known: _Known) -> bool:
    row = await tx.fetch_one("SELECT hash FROM block WHERE height = ?", known.height)
    return row is not None and row[0] == known.hash


async def _read(tx: Transaction, script: bytes, height: int) -> AddressHistory | None:
    return await _extend(tx, AddressHistory(script), -1, height)


async def _extend(
    tx: Transaction, known: AddressHistory, since: int, height: int
) -> AddressHistory | None:
    """The history with what was confirmed above ``since`` and up to ``height``."""
    script = known.script
    rows = await tx.fetch(
        "SELECT txid, vout, height, amount_sat FROM txo"
        " WHERE script_hash = ? AND height > ? AND height <= ?"
        " ORDER BY height, position, vout LIMIT ?",
        script_hash(script),
        since,
        height,
        MAX_RECEIPTS + 1,
    )
    if len(known.receipts) + len(rows) > MAX_RECEIPTS:
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
    receipts = known.receipts + came
    if spends := await _spends(tx, script, since, height):
        receipts = tuple(
            replace(receipt, spend=spends[receipt.txid, receipt.vout])
            if (receipt.txid, receipt.vout) in spends
            else receipt
            for receipt in receipts
        )
    return AddressHistory(script, receipts) if came or spends else known


async def _funders(
    tx: Transaction, script: bytes, since: int, height: int
) -> dict[bytes, set[bytes]]:
    """By transaction that pays the script: the scripts of the outputs it spends."""
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
    """By outpoint of the script: the transaction that spends it, and whom that pays."""
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
    # A transaction may leave nothing that anybody can spend.
    spends = {txid: Spend(txid, at, tuple(outputs.get(txid, ()))) for _, _, txid, at in rows}
    return {(own, vout): spends[txid] for own, vout, txid, _ in rows}
