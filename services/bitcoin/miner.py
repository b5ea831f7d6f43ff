"""Regtest blocks: built from the mempool's transactions, and mined in a few attempts."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from formats.bitcoin.block import (
    NO_WITNESS_RESERVED,
    Block,
    Header,
    height_push,
    merkle_root,
    serialize_block,
    witness_commitment,
)
from formats.bitcoin.transaction import NULL_PREVOUT, Input, Output, parse_transaction, serialize
from mesh.errors import InvalidArgument
from services.bitcoin.chain import MAX_FUTURE_S, HeaderRef, subsidy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from formats.bitcoin.hashes import BlockHash
    from formats.bitcoin.transaction import Transaction
    from services.bitcoin.chain import Chain
    from services.bitcoin.mempool import MempoolTx

VERSION = 0x20000000  # no soft fork signalled (BIP 9)
BITS = 0x207FFFFF  # the regtest target: every second hash meets it
MAX_BLOCKS = 1000  # of one request
MAX_BLOCK_WEIGHT = 4_000_000  # weight units (BIP 141)
RESERVED_WEIGHT = 8_000  # weight units for the header and the coinbase

UNSPENDABLE_SCRIPT = b"\x6a"  # OP_RETURN


def extend(
    chain: Chain,
    *,
    count: int,
    now: int,
    times: Sequence[int] = (),
    script_pubkey: bytes = UNSPENDABLE_SCRIPT,
    mempool: Sequence[MempoolTx] = (),
    branch: bytes = b"",
) -> list[Block]:
    """Returns ``count`` blocks on the tip, filled from the mempool; ``chain`` stays as it is.

    Without ``times`` each block takes ``now``, or the first second that BIP 113 allows. Raises
    InvalidArgument if the count is outside 1 to 1000, or ``times`` are not one for each block, too
    early, or over two hours ahead of ``now`` (Unix seconds).
    """
    if not 1 <= count <= MAX_BLOCKS:
        raise InvalidArgument(f"count must be 1 to {MAX_BLOCKS}, not {count}", field="count")
    if times and len(times) != count:
        raise InvalidArgument(
            f"{count} blocks need {count} times, not {len(times)}", field="block_times"
        )
    ahead = chain.fork(chain.height)
    blocks = []
    for number in range(count):
        time = times[number] if times else max(now, ahead.median_time_past() + 1)
        _check_time(time, ahead.median_time_past(), now)
        selected = select(mempool)
        mempool = mempool[len(selected) :]
        block = mine(
            height=ahead.height + 1,
            prev_hash=ahead.tip.hash,
            time=time,
            script_pubkey=script_pubkey,
            selected=selected,
            branch=branch,
        )
        ahead.connect(HeaderRef(block.hash, time))
        blocks.append(block)
    return blocks


def _check_time(time: int, median: int, now: int) -> None:
    if time <= median:
        raise InvalidArgument(
            f"block time {time} must be after {median}, the median of the last blocks (BIP 113)",
            field="block_times",
        )
    if time > now + MAX_FUTURE_S:
        raise InvalidArgument(
            f"block time {time} is over two hours ahead of {now}", field="block_times"
        )


def select(mempool: Iterable[MempoolTx]) -> list[MempoolTx]:
    """Returns the first transactions that fit one block; parents must come before children."""
    room = MAX_BLOCK_WEIGHT - RESERVED_WEIGHT
    selected = []
    for entry in mempool:
        room -= entry.transaction.weight
        if room < 0:
            break
        selected.append(entry)
    return selected


def mine(
    *,
    height: int,
    prev_hash: BlockHash,
    time: int,
    script_pubkey: bytes,
    selected: Sequence[MempoolTx] = (),
    branch: bytes = b"",
) -> Block:
    """Returns a block with work; ``branch`` (up to 80 bytes) makes it unique at its height."""
    witnessed = [entry.transaction for entry in selected]
    reward = subsidy(height) + sum(entry.fee_sat for entry in selected)
    coinbase = _coinbase(height, script_pubkey, reward, branch, witnessed)
    transactions = (coinbase, *witnessed)
    draft = Header(
        version=VERSION,
        prev_hash=prev_hash,
        merkle_root=merkle_root([tx.txid for tx in transactions]),
        time=time,
        bits=BITS,
        nonce=0,
    )
    attempts = (replace(draft, nonce=nonce) for nonce in count())
    header = next(attempt for attempt in attempts if attempt.has_work)
    return Block(serialize_block(header, transactions), header, header.hash, transactions)


def _coinbase(
    height: int, script: bytes, reward: int, branch: bytes, witnessed: Sequence[Transaction]
) -> Transaction:
    """Returns the coinbase, with its height (BIP 34) and the witness commitment (BIP 141)."""
    mark = bytes([len(branch)]) + branch  # a coinbase script has at least two bytes (consensus)
    input = Input(NULL_PREVOUT, height_push(height) + mark, witness=(NO_WITNESS_RESERVED,))
    outputs = (Output(reward, script), Output(0, witness_commitment(witnessed)))
    return parse_transaction(serialize(version=2, inputs=(input,), outputs=outputs))
