"""Addresses: the published vectors, and the networks of each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.bitcoin.address import format_address, parse_address
from formats.bitcoin.errors import AddressError, OtherNetworkError
from formats.bitcoin.network import Network
from formats.bitcoin.script import ScriptType, is_unspendable, script_type

# From BIP 173, BIP 350 and, for base58, from the main chain.
VALID = [
    (
        "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4",
        "main",
        "0014751e76e8199196d454941c45d1b3a323f1433bd6",
    ),
    (
        "tb1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3q0sl5k7",
        "testnet4",
        "00201863143c14c5166804bd19203356da136c985678cd4d27a1b8c6329604903262",
    ),
    (
        "bc1pw508d6qejxtdg4y5r3zarvary0c5xw7kw508d6qejxtdg4y5r3zarvary0c5xw7kt5nd6y",
        "main",
        "5128751e76e8199196d454941c45d1b3a323f1433bd6751e76e8199196d454941c45d1b3a323f1433bd6",
    ),
    ("BC1SW50QGDZ25J", "main", "6002751e"),
    (
        "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0",
        "main",
        "512079be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
    ),
    (
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
        "main",
        "76a91462e907b15cbf27d5425399ebf6f0fb50ebb88f1888ac",
    ),
    (
        "3P14159f73E4gFr7JterCCQh9QjiTjiZrG",
        "main",
        "a914e9c3dd0c07aac76179ebc76a6c78d4d67c6c160a87",
    ),
]

INVALID = {
    "bech32 where bech32m is due": "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqh2y7hd",
    "bech32m where bech32 is due": "tb1q0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vq24jc47",
    "mixed case": "tb1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vq47Zagq",
    "version 17": "BC130XLXVLHEMJA6C4DQV22UAPCTQUPFHLXM9H8Z3K2E72Q4K9HCZ7VQ7ZWS8R",
    "program of 1 byte": "bc1pw5dgrnzv",
    "41 bytes": "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7v8n0nx0muaewav253zgeav",
    "version 0 of 16 bytes": "BC1QR508D6QEJXTDG4Y5R3ZARVARYV98GJ9P",
    "padding of 5 bits": "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7v07qwwzcrf",
    "padding that is not zero": "tb1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vpggkg4j",
    "nothing behind the prefix": "bc1gmk9yu",
    "another chain": "ltc1qw508d6qejxtdg4y5r3zarvary0c5xw7kgmn4n9",
    "base58 checksum": "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb",
    "base58 character": "1A1zP1eP5QGefi2DMPTfTL5SLmv7Divf0l",
    "base58 version": "LVuDpNCSSj6pQ7t9Pv6d6sUkLKoqDEVUnJ",
    "empty": "",
    "not ASCII": "bcrt1qé",
    "very long": "1" * 10_000,
}


@pytest.mark.parametrize(("address", "network", "script"), VALID, ids=[v[0][:8] for v in VALID])
def test_published_addresses_stand_for_their_scripts(
    address: str, network: str, script: str
) -> None:
    assert parse_address(address, Network(network)).hex() == script
    shown = format_address(bytes.fromhex(script), Network(network))
    assert shown in (address, address.lower())


@pytest.mark.parametrize("address", INVALID.values(), ids=INVALID)
@pytest.mark.parametrize("network", [Network.MAIN, Network.TESTNET4])
def test_malformed_addresses_are_refused(address: str, network: Network) -> None:
    with pytest.raises(AddressError):
        parse_address(address, network)


@pytest.mark.parametrize(
    ("address", "belongs"),
    [
        ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "main"),
        ("tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx", "testnet4 or signet"),
        ("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "main"),
    ],
)
def test_address_of_another_network_is_refused_by_its_name(address: str, belongs: str) -> None:
    with pytest.raises(
        OtherNetworkError, match=f"an address of {belongs}; this network is regtest"
    ):
        parse_address(address, Network.REGTEST)


PROGRAMS = st.one_of(
    st.binary(min_size=20, max_size=20).map(lambda hash: b"\x00\x14" + hash),
    st.binary(min_size=32, max_size=32).map(lambda hash: b"\x00\x20" + hash),
    st.binary(min_size=32, max_size=32).map(lambda key: b"\x51\x20" + key),
    st.binary(min_size=20, max_size=20).map(lambda hash: b"\x76\xa9\x14" + hash + b"\x88\xac"),
    st.binary(min_size=20, max_size=20).map(lambda hash: b"\xa9\x14" + hash + b"\x87"),
)


@given(PROGRAMS, st.sampled_from(list(Network)))
def test_every_script_with_an_address_comes_back_from_it(script: bytes, network: Network) -> None:
    address = format_address(script, network)

    assert address is not None
    assert parse_address(address, network) == script


@given(PROGRAMS, st.data())
def test_mistyped_character_is_refused(script: bytes, data: st.DataObject) -> None:
    address = format_address(script, Network.REGTEST)
    assert address is not None
    at = data.draw(st.integers(0, len(address) - 1))
    typo = data.draw(st.sampled_from("023456789acdefghjklmnpqrstuvwxyz"))
    wrong = address[:at] + typo + address[at + 1 :]

    if wrong != address:
        with pytest.raises(AddressError):
            parse_address(wrong, Network.REGTEST)


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("21" + "02" * 33 + "ac", ScriptType.P2PK),
        ("4104" + "11" * 64 + "ac", ScriptType.P2PK),
        ("6a", ScriptType.OP_RETURN),
        ("5210" + "00" * 16, ScriptType.WITNESS_UNKNOWN),
        ("", ScriptType.OTHER),
        ("51", ScriptType.OTHER),
        ("0015" + "00" * 20, ScriptType.OTHER),
    ],
)
def test_scripts_without_an_address_have_their_own_types(script: str, kind: ScriptType) -> None:
    assert script_type(bytes.fromhex(script)) is kind


def test_unspendable_scripts_are_recognised() -> None:
    assert is_unspendable(b"\x6a\x04data")
    assert is_unspendable(b"\x51" * 10_001)
    assert not is_unspendable(b"\x51" * 10_000)
    assert format_address(b"\x6a", Network.MAIN) is None
