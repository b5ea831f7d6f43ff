"""Keys and signatures of a wallet: bdk builds the selected payment, and consensus accepts it."""

from __future__ import annotations

import coincurve
import pytest

from formats.bitcoin.address import format_address
from formats.bitcoin.network import Network
from formats.bitcoin.transaction import Output, outpoint
from mesh.errors import Internal
from services.bitcoin.coin_selection import SpendableCoin, select_coins
from services.bitcoin.descriptor import Seed, script_at, signing_descriptor
from services.bitcoin.kernel import find_invalid_input
from services.bitcoin.signing import sign
from services.bitcoin.wallet import Keychain

# The test vector of BIP 84: "abandon" eleven times, then "about", is sixteen zero bytes.
VECTOR = Seed(bytes(16))

SEED = Seed(bytes(range(32)))
DESCRIPTORS = SEED.descriptors(Network.REGTEST)
CHANGE = script_at(DESCRIPTORS[Keychain.INTERNAL], Network.REGTEST, 0)
RECIPIENT = b"\x51\x20" + bytes(range(32))


@pytest.mark.parametrize(
    ("keychain", "index", "address"),
    [
        (Keychain.EXTERNAL, 0, "bc1qcr8te4kr609gcawutmrza0j4xv80jy8z306fyu"),
        (Keychain.EXTERNAL, 1, "bc1qnjg0jd8228aq7egyzacy8cys3knf9xvrerkf9g"),
        (Keychain.INTERNAL, 0, "bc1q8c6fshw2dlwun7ekn9qwf37cu2rn755upcp6el"),
    ],
)
def test_addresses_are_those_of_bip_84(keychain: Keychain, index: int, address: str) -> None:
    descriptor = VECTOR.descriptors(Network.MAIN)[keychain]

    assert format_address(script_at(descriptor, Network.MAIN, index), Network.MAIN) == address


def test_private_key_belongs_to_the_address() -> None:
    key = coincurve.PrivateKey(VECTOR.private_key(Network.MAIN, Keychain.EXTERNAL, 0))

    expected = "0330d54fd0dd420a6e5f8d3624f5f3482cae350f79d5f0753bf5beef9c2d91af3c"
    assert key.public_key.format().hex() == expected


def test_descriptors_and_seeds_show_no_secret() -> None:
    assert all("prv" not in descriptor for descriptor in DESCRIPTORS.values())
    assert repr(SEED) == "Seed()"


@pytest.mark.parametrize("coins", [1, 2, 40])
@pytest.mark.parametrize("with_change", [True, False])
def test_signed_payment_matches_its_selection_and_is_valid(coins: int, with_change: bool) -> None:
    own = script_at(DESCRIPTORS[Keychain.EXTERNAL], Network.REGTEST, 3)
    candidates = [SpendableCoin(outpoint(bytes([n]) * 32, n), 100_000) for n in range(coins)]
    amount = 100_000 * coins - 69 * coins - (10_000 if with_change else 200)
    selection = select_coins(candidates, amount, RECIPIENT, feerate=1_000, max_fee_sat=100_000)

    transaction = sign(
        selection,
        signing_descriptor(
            SEED.signing_text(Network.REGTEST, Keychain.EXTERNAL, 3), Network.REGTEST
        ),
        pay=Output(amount, RECIPIENT),
        own_script=own,
        change_script=CHANGE,
        network=Network.REGTEST,
    )

    paid = {output.script_pubkey: output.amount_sat for output in transaction.outputs}
    change = {CHANGE: selection.change_sat} if with_change else {}
    assert paid == {RECIPIENT: amount, **change}
    assert selection.fee_sat >= transaction.vsize
    assert transaction.signals_replacement
    spent = [Output(100_000, own) for _ in transaction.prevouts]
    assert find_invalid_input(transaction.raw, spent) is None


def test_key_of_another_address_signs_nothing() -> None:
    own = script_at(DESCRIPTORS[Keychain.EXTERNAL], Network.REGTEST, 3)
    selection = select_coins(
        [SpendableCoin(outpoint(bytes(32), 0), 100_000)],
        50_000,
        RECIPIENT,
        feerate=1_000,
        max_fee_sat=1_000,
    )

    with pytest.raises(Internal):
        sign(
            selection,
            signing_descriptor(
                SEED.signing_text(Network.REGTEST, Keychain.EXTERNAL, 4), Network.REGTEST
            ),
            pay=Output(50_000, RECIPIENT),
            own_script=own,
            change_script=CHANGE,
            network=Network.REGTEST,
        )
