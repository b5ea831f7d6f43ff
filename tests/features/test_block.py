"""A raw block by itself: totals, and the features of its transactions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from features.block import inspect, inspect_transactions
from formats.bitcoin.transaction import Input, Outpoint, Output, parse_transaction, serialize

SCRIPT = b"\x00\x14" + b"s" * 20
COINBASE = parse_transaction(
    serialize(
        version=2,
        inputs=[Input(Outpoint(bytes(32) + b"\xff" * 4), b"\x01\x05")],
        outputs=[Output(5_000, SCRIPT)],
    )
)


def test_only_prevouts_in_the_block_are_known() -> None:
    parent = parse_transaction(
        serialize(
            version=2,
            inputs=[Input(Outpoint(b"p" * 32 + bytes(4)), witness=(b"signature", b"key"))],
            outputs=[Output(5_000, SCRIPT)],
        )
    )
    child = parse_transaction(
        serialize(
            version=2,
            inputs=[Input(Outpoint(parent.txid + bytes(4)))],
            outputs=[Output(4_000, SCRIPT)],
        )
    )

    inspection = inspect_transactions([COINBASE, parent, child])

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
def test_main_network_block_has_its_published_totals() -> None:
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
