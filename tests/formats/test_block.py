"""The parser of blocks and transactions: exact on what is canonical, clear about all else."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.bitcoin.block import (
    Block,
    Header,
    check_commitments,
    height_push,
    inspect,
    merkle_root,
    parse_block,
    serialize_block,
)
from formats.bitcoin.hashes import BlockHash, display
from formats.bitcoin.transaction import (
    MAX_MONEY_SAT,
    Input,
    Outpoint,
    Output,
    Transaction,
    compact_size,
    parse_transaction,
    serialize,
)
from mesh.errors import InvalidArgument
from services.bitcoin import miner
from services.bitcoin.inspection import inspect_transactions
from services.bitcoin.mempool import MempoolTx
from services.bitcoin.store.block_log import verify

SCRIPT = b"\x00\x14" + b"s" * 20


def outputs() -> st.SearchStrategy[Output]:
    return st.builds(Output, st.integers(0, MAX_MONEY_SAT), st.binary(max_size=300))


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
        candidates=[MempoolTx(transaction, (), 0) for transaction in waiting],
    )


@given(transactions())
def test_a_transaction_comes_back_byte_for_byte(raw: bytes) -> None:
    transaction = parse_transaction(raw)

    again = serialize(
        version=transaction.version,
        inputs=transaction.inputs(),
        outputs=transaction.outputs,
        lock_time=transaction.lock_time,
    )
    assert again == raw
    assert [input.prevout for input in transaction.inputs()] == list(transaction.prevouts)


@given(transactions(), st.data())
def test_a_transaction_cut_anywhere_is_refused(raw: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(raw) - 1))

    with pytest.raises(InvalidArgument):
        parse_transaction(raw[:cut])


@given(st.binary(max_size=400))
def test_no_bytes_break_the_parser(junk: bytes) -> None:
    for parse in (parse_transaction, parse_block):
        with suppress(InvalidArgument):
            parse(junk)


@given(transactions(), st.data())
def test_what_is_read_is_what_would_be_written(raw: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(raw) - 1))
    altered = raw[:at] + data.draw(st.binary(min_size=1, max_size=1)) + raw[at + 1 :]

    try:
        transaction = parse_transaction(altered)
    except InvalidArgument:
        return
    again = serialize(
        version=transaction.version,
        inputs=transaction.inputs(),
        outputs=transaction.outputs,
        lock_time=transaction.lock_time,
    )
    assert again == altered


def test_a_block_cut_at_any_offset_is_refused() -> None:
    raw = block(payment(), payment(())).raw

    for cut in range(len(raw)):
        with pytest.raises(InvalidArgument, match=r"truncated|more than the bytes that follow"):
            parse_block(raw[:cut])


def test_a_block_with_junk_behind_it_is_refused_with_the_offset() -> None:
    raw = block().raw

    with pytest.raises(InvalidArgument, match=f"4 bytes follow the block.* offset {len(raw)}"):
        parse_block(raw + b"junk")


def test_every_altered_byte_of_a_block_is_noticed() -> None:
    whole = block(payment())

    for at, byte in enumerate(whole.raw):
        altered = whole.raw[:at] + bytes([byte ^ 1]) + whole.raw[at + 1 :]
        assert verify(altered, whole.hash) is None
    assert verify(whole.raw, whole.hash) == whole


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
def test_what_is_not_canonical_is_refused_with_its_offset(body: bytes, complaint: str) -> None:
    raw = b"\x02\x00\x00\x00" + body + bytes(4)

    with pytest.raises(InvalidArgument, match=complaint):
        parse_transaction(raw)


def test_a_block_has_one_coinbase_and_it_is_the_first() -> None:
    coinbase, spend = block(payment()).transactions
    header = block().header

    for order in ((spend,), (coinbase, coinbase), (spend, coinbase)):
        with pytest.raises(
            InvalidArgument, match="the first transaction must be the only coinbase"
        ):
            parse_block(serialize_block(header, order))


def test_a_block_without_transactions_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no transactions at offset 80"):
        parse_block(block().raw[:80] + b"\x00")


def test_a_repeated_transaction_does_not_pass_for_the_same_block() -> None:
    whole = block(payment(), payment(()))  # three transactions: the last is paired with itself
    mutated = parse_block(
        serialize_block(whole.header, (*whole.transactions, whole.transactions[-1]))
    )

    assert merkle_root([tx.txid for tx in mutated.transactions]) == whole.header.merkle_root
    with pytest.raises(InvalidArgument, match="do not match its merkle root"):
        check_commitments(mutated)


def test_a_header_without_work_is_noticed() -> None:
    lazy = block()
    header = next(
        header for nonce in range(100) if not (header := replace(lazy.header, nonce=nonce)).has_work
    )

    with pytest.raises(InvalidArgument, match="does not meet its own target"):
        inspect(serialize_block(header, lazy.transactions))


@pytest.mark.parametrize("bits", [0x01003456, 0x04923456, 0xFF123456, 0x00000000])
def test_a_target_that_is_nonsense_is_met_by_nothing(bits: int) -> None:
    assert not replace(block().header, bits=bits).has_work


@pytest.mark.parametrize("height", [0, 1, 16, 17, 127, 128, 255, 256, 32_767, 32_768, 840_000])
def test_the_height_in_a_coinbase_reads_back(height: int) -> None:
    assert block(height=height).height == height


def test_a_height_that_is_not_pushed_minimally_is_none() -> None:
    script = b"\x02\x05\x00"
    assert script != height_push(5)
    spent = Input(Outpoint(bytes(32) + b"\xff" * 4), script)
    coinbase = parse_transaction(serialize(version=1, inputs=[spent], outputs=[Output(1, SCRIPT)]))

    assert replace(block(), transactions=(coinbase,)).height is None


@pytest.mark.parametrize(
    ("value", "size"), [(0xFC, 1), (0xFD, 3), (0xFFFF, 3), (0x10000, 5), (1 << 32, 9)]
)
def test_a_compact_size_takes_the_least_room(value: int, size: int) -> None:
    assert len(compact_size(value)) == size


def test_a_header_reads_back() -> None:
    header = block().header

    assert Header.read(header.serialize()) == header


def test_a_block_inspected_knows_the_prevouts_it_holds_and_no_others() -> None:
    parent = payment()
    child = parse_transaction(
        serialize(
            version=2,
            inputs=[Input(Outpoint(parent.txid + bytes(4)))],
            outputs=[Output(4_000, SCRIPT)],
        )
    )

    inspection = inspect_transactions(block(parent, child).transactions)

    features = [{feature.name: feature for feature in row} for row in inspection.features]
    assert (inspection.inputs, inspection.inputs_known) == (3, 1)
    assert [row["fee_sat"].status.name for row in features] == [
        "NO_HISTORY",
        "UNAVAILABLE",
        "PRESENT",
    ]
    assert features[1]["fee_sat"].value is None
    assert features[2]["fee_sat"].value == 1_000
    assert features[2]["reuses_script"].value == 1


@pytest.mark.skipif(not os.environ.get("ANYA_TEST_DATA"), reason="ANYA_TEST_DATA is not set")
def test_a_block_of_the_main_network_reads_as_it_is_known() -> None:
    raw = Path(os.environ["ANYA_TEST_DATA"], "mainnet-block-413567.raw").read_bytes()

    document = inspect(raw)

    known = {
        "block_hash": "0000000000000000025aff8be8a55df8f89c77296db6198f272d6577325d4069",
        "height": 413_567,
        "size": 999_887,
        "transactions": 1_557,
        "inputs": 4_887,
        "inputs_known": 287,
        "outputs": 3_581,
    }
    assert document.items() >= known.items()
    fees = document["summary"]["fee_sat"]["statuses"]
    assert fees == {"NO_HISTORY": 1, "UNAVAILABLE": 1_301, "PRESENT": 255}
    assert display(parse_block(raw).hash) == document["block_hash"]
