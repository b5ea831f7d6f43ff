"""The reader of blocks: every byte is read, and checked against the header."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from bitcoin.core import CBlock

from formats.bitcoin.block import (
    Block,
    Header,
    check_commitments,
    height_push,
    merkle_root,
    parse_block,
    serialize_block,
)
from formats.bitcoin.errors import MalformedError
from formats.bitcoin.hashes import BlockHash
from formats.bitcoin.transaction import (
    Input,
    Outpoint,
    Output,
    Transaction,
    parse_transaction,
    serialize,
)
from services.bitcoin import miner
from services.bitcoin.mempool import MempoolTx
from services.bitcoin.store.block_log import verify

SCRIPT = b"\x00\x14" + b"s" * 20


def payment(witness: tuple[bytes, ...] = (b"signature", b"key")) -> Transaction:
    spent = Input(Outpoint(b"p" * 32 + bytes(4)), witness=witness)
    raw = serialize(version=2, inputs=[spent], outputs=[Output(5_000, SCRIPT)])
    return parse_transaction(raw)


def block(*waiting: Transaction, height: int = 500) -> Block:
    return miner.mine(
        height=height,
        prev_hash=BlockHash(b"h" * 32),
        time=1_700_000_000,
        script_pubkey=SCRIPT,
        selected=[MempoolTx(transaction, (), 0) for transaction in waiting],
    )


def test_block_cut_at_any_offset_is_refused() -> None:
    raw = block(payment(), payment(())).raw

    for cut in range(len(raw)):
        with pytest.raises(MalformedError, match=r"truncated|more than the bytes that follow"):
            parse_block(raw[:cut])


def test_bytes_after_a_block_are_refused_with_their_offset() -> None:
    raw = block().raw

    with pytest.raises(MalformedError, match=f"4 bytes follow the block.* offset {len(raw)}"):
        parse_block(raw + b"junk")


def test_every_altered_byte_of_a_block_is_detected() -> None:
    whole = block(payment())

    for at, byte in enumerate(whole.raw):
        altered = whole.raw[:at] + bytes([byte ^ 1]) + whole.raw[at + 1 :]
        assert verify(altered, whole.hash) is None
    assert verify(whole.raw, whole.hash) == whole


def test_first_transaction_must_be_the_only_coinbase() -> None:
    coinbase, spend = block(payment()).transactions
    header = block().header

    for order in ((spend,), (coinbase, coinbase), (spend, coinbase)):
        with pytest.raises(MalformedError, match="the first transaction must be the only coinbase"):
            parse_block(serialize_block(header, order))


def test_block_without_transactions_is_refused() -> None:
    with pytest.raises(MalformedError, match="no transactions at offset 80"):
        parse_block(block().raw[:80] + b"\x00")


def test_repeated_transaction_with_the_same_merkle_root_is_refused() -> None:
    whole = block(payment(), payment(()))  # three transactions: the last one pairs with itself
    mutated = parse_block(
        serialize_block(whole.header, (*whole.transactions, whole.transactions[-1]))
    )

    assert merkle_root([tx.txid for tx in mutated.transactions]) == whole.header.merkle_root
    with pytest.raises(MalformedError, match="do not match its merkle root"):
        check_commitments(mutated)


def test_header_without_work_is_refused() -> None:
    lazy = block()
    header = next(
        header for nonce in range(100) if not (header := replace(lazy.header, nonce=nonce)).has_work
    )

    with pytest.raises(MalformedError, match="does not meet its own target"):
        check_commitments(parse_block(serialize_block(header, lazy.transactions)))


@pytest.mark.parametrize("bits", [0x01003456, 0x04923456, 0xFF123456, 0x00000000])
def test_no_hash_meets_an_invalid_target(bits: int) -> None:
    assert not replace(block().header, bits=bits).has_work


@pytest.mark.parametrize("height", [0, 1, 16, 17, 127, 128, 255, 256, 32_767, 32_768, 840_000])
def test_height_in_a_coinbase_reads_back(height: int) -> None:
    assert block(height=height).height == height


def test_height_that_is_not_a_minimal_push_is_none() -> None:
    script = b"\x02\x05\x00"
    assert script != height_push(5)
    spent = Input(Outpoint(bytes(32) + b"\xff" * 4), script)
    coinbase = parse_transaction(serialize(version=1, inputs=[spent], outputs=[Output(1, SCRIPT)]))

    assert replace(block(), transactions=(coinbase,)).height is None


def test_header_reads_back() -> None:
    header = block().header

    assert Header.read(header.serialize()) == header


@pytest.mark.skipif(not os.environ.get("ANYA_TEST_DATA"), reason="ANYA_TEST_DATA is not set")
def test_main_network_block_agrees_with_python_bitcoinlib() -> None:
    raw = Path(os.environ["ANYA_TEST_DATA"], "mainnet-block-413567.raw").read_bytes()

    ours, oracle = parse_block(raw), CBlock.deserialize(raw)

    header = ours.header
    check_commitments(ours)
    assert (ours.hash, header.prev_hash) == (oracle.GetHash(), oracle.hashPrevBlock)
    assert header.merkle_root == oracle.calc_merkle_root()
    assert (header.time, header.bits, header.nonce) == (oracle.nTime, oracle.nBits, oracle.nNonce)
    assert [tx.txid for tx in ours.transactions] == [tx.GetTxid() for tx in oracle.vtx]
    assert serialize_block(header, ours.transactions) == oracle.serialize()
    assert ours.weight == oracle.GetWeight()
