"""Regtest blocks: built from waiting transactions, and mined in a few attempts."""

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
from services.bitcoin.chain import MAX_FUTURE_SECONDS, HeaderRef, subsidy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from formats.bitcoin.hashes import BlockHash
    from formats.bitcoin.transaction import Transaction
    from services.bitcoin.chain import Chain
    from services.bitcoin.mempool import MempoolTx

VERSION = 0x20000000  # no soft fork signalled (BIP 9)
BITS = 0x207FFFFF  # the regtest target: every second hash meets it
MAX_BLOCKS = 1000  # in one go
MAX_BLOCK_WEIGHT = 4_000_000
RESERVED_WEIGHT = 8_000  # for the header and the coinbase

NOBODY = b"\x6a"  # OP_RETURN: a script that no input can spend


def extend(
    chain: Chain,
    *,
    count: int,
    now: int,
    times: Sequence[int] = (),
    script_pubkey: bytes = NOBODY,
    waiting: Sequence[MempoolTx] = (),
    branch: bytes = b"",
) -> list[Block]:
    """``count`` blocks on the tip, the first ones with what waits; ``chain`` stays as it is.

    Without ``times`` each block takes ``now``, or the first second that BIP 113 allows.
    InvalidArgument for a count outside 1 to 1000, or times that are not one per block, too early,
    or over two hours ahead.
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
        selected = select(waiting)
        waiting = waiting[len(selected) :]
        block = mine(
            height=ahead.height + 1,
            prev_hash=ahead.tip.hash,
            time=time,
            script_pubkey=script_pubkey,
            candidates=selected,
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
    if time > now + MAX_FUTURE_SECONDS:
        raise InvalidArgument(
            f"block time {time} is over two hours ahead of {now}", field="block_times"
        )


def select(waiting: Iterable[MempoolTx]) -> list[MempoolTx]:
    """The first ones, as many as one block holds; parents must come before children."""
    room = MAX_BLOCK_WEIGHT - RESERVED_WEIGHT
    selected = []
    for candidate in waiting:
        room -= candidate.transaction.weight
        if room < 0:
            break
        selected.append(candidate)
    return selected


def mine(
    *,
    height: int,
    prev_hash: BlockHash,
    time: int,
    script_pubkey: bytes,
    candidates: Sequence[MempoolTx] = (),
    branch: bytes = b"",
) -> Block:
    """A block with work; ``branch`` (at most 80 bytes) makes one unlike others at this height."""
    witnessed = [candidate.transaction for candidate in candidates]
    reward = subsidy(height) + sum(candidate.fee_sat for candidate in candidates)
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
    """BIP 34 height, and the witness commitment of BIP 141."""
    mark = bytes([len(branch)]) + branch  # also makes the script the two bytes that consensus asks
    input = Input(NULL_PREVOUT, height_push(height) + mark, witness=(NO_WITNESS_RESERVED,))
    outputs = (Output(reward, script), Output(0, witness_commitment(witnessed)))
    return parse_transaction(serialize(version=2, inputs=(input,), outputs=outputs))
