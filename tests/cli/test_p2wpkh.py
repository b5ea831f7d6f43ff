"""Addresses, hashes and signatures, against BIP vectors and Bitcoin Core's own script check."""

from __future__ import annotations

import pytest

from cli.p2wpkh import Coin, Key, Output, address, script_of, spend
from formats.bitcoin import transaction
from formats.bitcoin.address import format_address
from formats.bitcoin.network import Network
from services.bitcoin.kernel import find_invalid_input

# BIP 173, and the second key of the native P2WPKH example of BIP 143
PROGRAM = bytes.fromhex("751e76e8199196d454941c45d1b3a323f1433bd6")
SECRET = bytes.fromhex("619c335025c7f4012e556c2a58b2506e30b8511b53ade95ea316fd8c3286feb9")
POINT = "025476c2e83188368da1ff3e292e7acafcdb3566bb0ad253f62fc70f07aeee6357"

ALICE, BOB = Key.of(SECRET), Key.of(bytes([7]) * 32)
COINS = [Coin(bytes([n]) * 32, n, 100_000 + n, key) for n, key in enumerate((ALICE, BOB, ALICE))]
OUTPUTS = [Output(250_000, BOB.script), Output(40_000, ALICE.script)]


def test_the_address_is_that_of_bip_173() -> None:
    assert address(PROGRAM, "bc") == "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"


def test_the_key_is_that_of_bip_143() -> None:
    assert ALICE.point.hex() == POINT


def test_an_address_of_a_key_is_the_services_address_of_its_script() -> None:
    assert ALICE.address == format_address(ALICE.script, Network.REGTEST)


@pytest.mark.parametrize("size", [20, 32], ids=["P2WPKH", "P2WSH"])
def test_an_address_leads_back_to_its_script(size: int) -> None:
    program = bytes(range(size))

    assert script_of(address(program)) == bytes([0, size]) + program


def test_the_signatures_satisfy_the_kernel() -> None:
    txid, raw = spend(COINS, OUTPUTS)

    spent = [transaction.Output(coin.amount_sat, coin.key.script) for coin in COINS]
    read = transaction.parse_transaction(raw)
    assert find_invalid_input(raw, spent) is None
    assert read.txid == txid
    assert [tuple(output) for output in read.outputs] == [tuple(output) for output in OUTPUTS]


def test_a_coin_signed_for_another_amount_does_not_satisfy_the_kernel() -> None:
    _, raw = spend(COINS, OUTPUTS)

    spent = [transaction.Output(coin.amount_sat + 1, coin.key.script) for coin in COINS]

    assert find_invalid_input(raw, spent) == 0


def test_the_same_coins_and_outputs_are_the_same_transaction() -> None:
    assert spend(COINS, OUTPUTS) == spend(COINS, OUTPUTS)


def test_many_outputs_are_counted_as_the_wire_counts() -> None:
    _, raw = spend(COINS[:1], [Output(1_000, BOB.script)] * 300)

    assert len(transaction.parse_transaction(raw).outputs) == 300


def test_a_key_does_not_print() -> None:
    assert SECRET.hex() not in repr(ALICE)
