"""Keys and signatures, against BIP vectors and Bitcoin Core's own script check."""

from __future__ import annotations

import coincurve
from bitcoin.core import CTransaction
from hypothesis import given
from hypothesis import strategies as st

from formats.bitcoin.network import Network
from formats.bitcoin.p2wpkh import Coin, Key, spend
from formats.bitcoin.transaction import Output, outpoint
from services.bitcoin.kernel import find_invalid_input

ALICE = Key.from_secret(bytes.fromhex("01".rjust(64, "0")))
BOB = Key.from_secret(bytes([7]) * 32)
KEYS = st.sampled_from([ALICE, BOB])
COINS = [
    Coin(outpoint(bytes([n]) * 32, n), 100_000 + n, key)
    for n, key in enumerate((ALICE, BOB, ALICE))
]
OUTPUTS = [Output(250_000, BOB.script_pubkey), Output(40_000, ALICE.script_pubkey)]

# The second input of the example "Native P2WPKH" of BIP 143.
BIP143_KEY = "619c335025c7f4012e556c2a58b2506e30b8511b53ade95ea316fd8c3286feb9"
BIP143_UNSIGNED = (
    "0100000002fff7f7881a8099afa6940d42d1e7f6362bec38171ea3edf433541db4e4ad969f0000000000eeffffffef"
    "51e1b804cc89d182d279655c3aa89e815b1b309fe287d9b2b55d57b90ec68a0100000000ffffffff02202cb206000000"
    "001976a9148280b37df378db99f66f85c95a783a76ac7a6d5988ac9093510d000000001976a9143bde42dbee7e4dbe6a"
    "21b2d50ce2f0167faa815988ac11000000"
)
BIP143_DIGEST = "c37af31116d1b27caf68aae9e3ac82f1477929014d5b917657d0eb49478cb670"


def test_address_is_that_of_bip_173() -> None:
    assert ALICE.address(Network.MAIN) == "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"


def test_signature_covers_the_digest_of_bip_143() -> None:
    key = Key.from_secret(bytes.fromhex(BIP143_KEY))
    unsigned = CTransaction.deserialize(bytes.fromhex(BIP143_UNSIGNED))

    signature, public_key = key.witness(unsigned, 1, 600_000_000)

    digest = bytes.fromhex(BIP143_DIGEST)
    assert public_key.hex() == "025476c2e83188368da1ff3e292e7acafcdb3566bb0ad253f62fc70f07aeee6357"
    assert signature[-1] == 1
    assert coincurve.PublicKey(public_key).verify(signature[:-1], digest, hasher=None)


@given(
    st.lists(st.tuples(KEYS, st.integers(1, 2**40)), min_size=1, max_size=4),
    st.lists(st.builds(Output, st.integers(0, 2**40), st.binary(max_size=40)), min_size=1),
    st.integers(1, 2),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 2**31 - 1),
)
def test_signatures_satisfy_the_kernel(
    owned: list[tuple[Key, int]],
    outputs: list[Output],
    version: int,
    sequence: int,
    lock_time: int,
) -> None:
    coins = [
        Coin(outpoint(bytes([n]) * 32, n), amount, key) for n, (key, amount) in enumerate(owned)
    ]

    signed = spend(coins, outputs, version=version, sequence=sequence, lock_time=lock_time)

    spent = [Output(coin.amount_sat, coin.key.script_pubkey) for coin in coins]
    assert find_invalid_input(signed.raw, spent) is None
    assert list(signed.prevouts) == [coin.prevout for coin in coins]
    assert list(signed.outputs) == outputs
    assert (signed.version, signed.lock_time) == (version, lock_time)


def test_coin_signed_for_another_amount_does_not_satisfy_the_kernel() -> None:
    spent = [Output(coin.amount_sat + 1, coin.key.script_pubkey) for coin in COINS]

    assert find_invalid_input(spend(COINS, OUTPUTS).raw, spent) == 0


def test_equal_coins_and_outputs_give_equal_bytes() -> None:
    assert spend(COINS, OUTPUTS) == spend(COINS, OUTPUTS)


def test_outputs_beyond_one_byte_of_count_come_back() -> None:
    assert len(spend(COINS[:1], [Output(1_000, BOB.script_pubkey)] * 300).outputs) == 300


def test_private_key_does_not_print() -> None:
    assert BOB.secret.to_hex() not in repr(BOB)
    assert "PrivateKey" not in repr(BOB)
