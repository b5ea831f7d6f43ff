"""The reader of transactions: exact on canonical bytes, and in agreement with python-bitcoinlib."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from bitcoin.core import CTransaction
from hypothesis import given
from hypothesis import strategies as st

from formats.bitcoin.block import parse_block
from formats.bitcoin.errors import MalformedError
from formats.bitcoin.transaction import (
    Input,
    Outpoint,
    Output,
    Transaction,
    compact_size,
    parse_transaction,
    serialize,
)
from formats.money import MAX_SAT


def outputs() -> st.SearchStrategy[Output]:
    return st.builds(Output, st.integers(0, MAX_SAT), st.binary(max_size=300))


def inputs() -> st.SearchStrategy[Input]:
    return st.builds(
        Input,
        st.binary(min_size=36, max_size=36).map(Outpoint),
        st.binary(max_size=300),
        st.integers(0, 0xFFFFFFFF),
        st.lists(st.binary(max_size=300), max_size=3).map(tuple),
    )


@st.composite
def transactions(draw: st.DrawFn) -> bytes:
    return serialize(
        version=draw(st.integers(-(2**31), 2**31 - 1)),
        inputs=draw(st.lists(inputs(), min_size=1, max_size=4)),
        outputs=draw(st.lists(outputs(), min_size=1, max_size=4)),
        lock_time=draw(st.integers(0, 0xFFFFFFFF)),
    )


def written(transaction: Transaction) -> bytes:
    return serialize(
        version=transaction.version,
        inputs=transaction.inputs(),
        outputs=transaction.outputs,
        lock_time=transaction.lock_time,
    )


@given(transactions())
def test_transaction_is_written_as_it_was_read(raw: bytes) -> None:
    transaction = parse_transaction(raw)

    assert written(transaction) == raw
    assert [input.prevout for input in transaction.inputs()] == list(transaction.prevouts)


@given(transactions())
def test_transaction_reads_as_python_bitcoinlib_reads_it(raw: bytes) -> None:
    assert_agrees(parse_transaction(raw), CTransaction.deserialize(raw))


@pytest.mark.skipif(not os.environ.get("ANYA_TEST_DATA"), reason="ANYA_TEST_DATA is not set")
def test_main_network_block_reads_as_python_bitcoinlib_reads_it() -> None:
    raw = Path(os.environ["ANYA_TEST_DATA"], "mainnet-block-413567.raw").read_bytes()

    for transaction in parse_block(raw).transactions:
        assert written(transaction) == transaction.raw
        assert_agrees(transaction, CTransaction.deserialize(transaction.raw))


def assert_agrees(ours: Transaction, oracle: CTransaction) -> None:
    assert (ours.txid, ours.wtxid) == (oracle.GetTxid(), oracle.GetHash())
    assert (ours.version, ours.lock_time) == (oracle.nVersion, oracle.nLockTime)
    assert ours.weight == oracle.calc_weight()
    assert ours.is_coinbase == oracle.is_coinbase()
    assert [tuple(output) for output in ours.outputs] == [
        (output.nValue, bytes(output.scriptPubKey)) for output in oracle.vout
    ]
    # The oracle has no witnesses if all are empty.
    stacks = [tuple(witness.scriptWitness.stack) for witness in oracle.wit.vtxinwit]
    assert [tuple(input) for input in ours.inputs()] == [
        (input.prevout.serialize(), bytes(input.scriptSig), input.nSequence, stack)
        for input, stack in zip(oracle.vin, stacks or [()] * len(oracle.vin), strict=True)
    ]


@given(transactions(), st.data())
def test_transaction_cut_anywhere_is_refused(raw: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(raw) - 1))

    with pytest.raises(MalformedError):
        parse_transaction(raw[:cut])


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader(junk: bytes) -> None:
    for parse in (parse_transaction, parse_block):
        with suppress(MalformedError):
            parse(junk)


@given(transactions(), st.data())
def test_every_accepted_text_is_the_one_that_would_be_written(
    raw: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(raw) - 1))
    altered = raw[:at] + data.draw(st.binary(min_size=1, max_size=1)) + raw[at + 1 :]

    try:
        transaction = parse_transaction(altered)
    except MalformedError:
        return
    assert written(transaction) == altered


PREVOUT = b"p" * 36
IN = b"\x01" + PREVOUT + b"\x00" + b"\xff" * 4
OUT = b"\x01" + bytes(8) + b"\x00"
MALFORMED = {
    "unknown flag": (b"\x00\x02" + IN + OUT, "flag 2, at offset 4"),
    "no inputs": (b"\x00\x01\x00" + OUT, "no inputs at offset 6"),
    "no outputs": (IN + b"\x00", "no outputs at offset 46"),
    "count not minimal": (b"\xfd\x01\x00" + IN[1:] + OUT, "1 is not minimal at offset 4"),
    "length not minimal": (b"\x01" + PREVOUT + b"\xfd\x01\x00", "not minimal at offset 41"),
    "count beyond the end": (b"\xff" + b"\xff" * 8 + IN[1:] + OUT, "announced at offset 4"),
    "length beyond the end": (b"\x01" + PREVOUT + b"\xfe\xff\xff\xff\x7f", "at offset 41"),
    "outputs beyond the end": (IN + b"\xfe\xff\xff\xff\x7f" + bytes(9), "announced at offset 46"),
    "too much money": (IN + b"\x01" + b"\xff" * 8 + b"\x00", "21 million BTC at offset 47"),
    "empty witness": (b"\x00\x01" + IN + OUT + b"\x00", "witness without content at offset 58"),
}


@pytest.mark.parametrize(("body", "complaint"), MALFORMED.values(), ids=MALFORMED)
def test_bytes_that_are_not_canonical_are_refused_with_their_offset(
    body: bytes, complaint: str
) -> None:
    raw = b"\x02\x00\x00\x00" + body + bytes(4)

    with pytest.raises(MalformedError, match=complaint):
        parse_transaction(raw)


@pytest.mark.parametrize(
    ("value", "size"), [(0xFC, 1), (0xFD, 3), (0xFFFF, 3), (0x10000, 5), (1 << 32, 9)]
)
def test_compact_size_has_the_shortest_form(value: int, size: int) -> None:
    assert len(compact_size(value)) == size
