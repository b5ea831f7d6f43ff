"""Histories of addresses, read from the index in the words of the feature library.

Everything is found through the script's own outputs, so the cost is that of its history.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from features.history import AddressHistory, Output, Receipt, Spend
from services.bitcoin.chain import Link
from services.bitcoin.hashes import BlockHash
from services.bitcoin.store.chain import script_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh.database import Database, Transaction

MAX_RECEIPTS = 100_000  # a script with more has no history here: reading it would stall the rest


@dataclass(frozen=True, slots=True)
class Histories:
    """What was confirmed about some scripts when ``tip`` was the tip, at ``height``."""

    height: int
    tip: Link
    addresses: tuple[AddressHistory | None, ...]  # as asked; None: too long to be read


class HistoryStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, scripts: Sequence[bytes], *, height: int | None = None) -> Histories:
        """The histories of the scripts as of ``height``, or of the tip, all at one moment.

        ValueError if the index does not reach that height.
        """

        async def work(tx: Transaction) -> Histories:
            row = await tx.fetch_one(
                "SELECT height, hash, time FROM block WHERE height <= ?"
                " ORDER BY height DESC LIMIT 1",
                height if height is not None else 2**62,
            )
            if row is None or (height is not None and row[0] != height):
                raise ValueError(f"the index does not reach height {height}")
            found, hash, time = row
            addresses = [await _read(tx, script, found) for script in scripts]
            return Histories(found, Link(BlockHash(hash), time), tuple(addresses))

        return await self._database.read(work)


async def _read(tx: Transaction, script: bytes, height: int) -> AddressHistory | None:
    rows = await tx.fetch(
        "SELECT txid, vout, height, amount_sat, spent_txid FROM txo"
        " WHERE script_hash = ? AND height <= ? ORDER BY height, position, vout LIMIT ?",
        script_hash(script),
        height,
        MAX_RECEIPTS + 1,
    )
    if len(rows) > MAX_RECEIPTS:
        return None
    funders = await _funders(tx, script, height)
    spends = await _spends(tx, script, height)
    receipts = tuple(
        Receipt(
            txid=txid,
            vout=vout,
            height=received,
            amount_sat=amount_sat,
            funders=frozenset(funders.get(txid, ())),
            spend=spends.get(spent_txid) if spent_txid else None,
        )
        for txid, vout, received, amount_sat, spent_txid in rows
    )
    return AddressHistory(script, receipts)


async def _funders(tx: Transaction, script: bytes, height: int) -> dict[bytes, set[bytes]]:
    """By transaction that pays the script: the scripts of the outputs it spends."""
    rows = await tx.fetch(
        "SELECT DISTINCT paying.txid, funding.script_pubkey"
        " FROM (SELECT DISTINCT txid FROM txo WHERE script_hash = ? AND height <= ?) AS paying"
        " JOIN txo AS funding ON funding.spent_txid = paying.txid",
        script_hash(script),
        height,
    )
    funders: dict[bytes, set[bytes]] = defaultdict(set)
    for txid, funder in rows:
        funders[txid].add(funder)
    return funders


async def _spends(tx: Transaction, script: bytes, height: int) -> dict[bytes, Spend]:
    """By txid: the transactions up to ``height`` that spend from the script, and whom they pay."""
    rows = await tx.fetch(
        "SELECT spending.txid, spending.height, paid.script_pubkey, paid.amount_sat"
        " FROM (SELECT DISTINCT spent_txid AS txid, spent_height AS height FROM txo"
        " WHERE script_hash = ? AND height <= ? AND spent_height <= ?) AS spending"
        " LEFT JOIN txo AS paid ON paid.txid = spending.txid"
        " ORDER BY spending.height, spending.txid, paid.vout",
        script_hash(script),
        height,
        height,
    )
    outputs: dict[tuple[bytes, int], list[Output]] = defaultdict(list)
    for txid, spent, paid, amount_sat in rows:
        known = outputs[txid, spent]
        if paid is not None:  # a transaction may leave nothing that anybody can spend
            known.append(Output(paid, amount_sat))
    return {txid: Spend(txid, spent, tuple(known)) for (txid, spent), known in outputs.items()}
