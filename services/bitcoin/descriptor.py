"""Descriptors, addresses and keys of a wallet (BIP 32, 39, 84, 380), through bdk."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from functools import lru_cache

import bdkpython as bdk

from formats.bitcoin.network import Network
from services.bitcoin.wallet import Keychain

MAX_CACHED_DESCRIPTORS = 4096  # public ones
SEED_BYTES = 32  # of entropy, as in a mnemonic of 24 words (BIP 39)

NETWORKS = {
    Network.MAIN: bdk.Network.BITCOIN,
    Network.TESTNET4: bdk.Network.TESTNET4,
    Network.SIGNET: bdk.Network.SIGNET,
    Network.REGTEST: bdk.Network.REGTEST,
}
KEYCHAINS = {
    Keychain.EXTERNAL: bdk.KeychainKind.EXTERNAL,
    Keychain.INTERNAL: bdk.KeychainKind.INTERNAL,
}
COIN_TYPES = {Network.MAIN: 0}  # SLIP 44; the test networks share 1


@dataclass(frozen=True, slots=True)
class Seed:
    """The entropy from which all keys of a wallet are derived. It does not print."""

    entropy: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> Seed:
        return cls(secrets.token_bytes(SEED_BYTES))

    def descriptors(self, network: Network) -> dict[Keychain, str]:
        """Returns the public descriptors of BIP 84, with checksum."""
        root = self._root(network)
        return {
            keychain: str(bdk.Descriptor.new_bip84(root, kind, _kind(network)).as_public())
            for keychain, kind in KEYCHAINS.items()
        }

    def private_key(self, network: Network, keychain: Keychain, index: int) -> bytes:
        """Returns the private key of one address, 32 bytes."""
        key: bytes = self._derive(network, keychain, index).secret_bytes()
        return key

    def signing_text(self, network: Network, keychain: Keychain, index: int) -> str:
        """Returns the descriptor of one address with its private key: a secret."""
        return f"wpkh({self._derive(network, keychain, index)})"

    def _derive(self, network: Network, keychain: Keychain, index: int) -> bdk.DescriptorSecretKey:
        path = f"m/84h/{COIN_TYPES.get(network, 1)}h/0h/{keychain:d}/{index}"
        return self._root(network).derive(bdk.DerivationPath(path))

    def _root(self, network: Network) -> bdk.DescriptorSecretKey:
        mnemonic = bdk.Mnemonic.from_entropy(self.entropy)
        return bdk.DescriptorSecretKey(_kind(network), mnemonic, None)


def signing_descriptor(text: str, network: Network) -> bdk.Descriptor:
    """Returns the descriptor that signs for one address; ``text`` is its ``Seed.signing_text``."""
    return bdk.Descriptor(text, _kind(network))


def script_at(descriptor: str, network: Network, index: int) -> bytes:
    """Returns the script of a keychain's address at ``index``."""
    derived = _parsed(descriptor, network).derive_address(index, NETWORKS[network])
    script: bytes = derived.script_pubkey().to_bytes()
    return script


@lru_cache(MAX_CACHED_DESCRIPTORS)
def _parsed(descriptor: str, network: Network) -> bdk.Descriptor:
    return bdk.Descriptor(descriptor, _kind(network))


def _kind(network: Network) -> bdk.NetworkKind:
    return bdk.NetworkKind.MAIN if network is Network.MAIN else bdk.NetworkKind.TEST
