"""The private keys of managed wallets: sealed at rest, open only while they sign."""

from __future__ import annotations

import uuid
from functools import lru_cache
from typing import TYPE_CHECKING

from mesh.errors import Internal, InvalidArgument, NotFound
from mesh.security import address_link
from mesh.security.keystore import KeystoreError
from mesh.security.payment_intent import parse_address
from services.bitcoin.descriptor import Seed, signing_descriptor
from services.bitcoin.ownership import sign_p2wpkh
from services.bitcoin.wallet import NewWallet

if TYPE_CHECKING:
    import bdkpython as bdk

    from formats.bitcoin.network import Network
    from mesh.security.keystore import Keystore
    from services.bitcoin.store.wallet import WalletStore
    from services.bitcoin.wallet import OwnAddress


MAX_CACHED_KEYS = 4096  # derived, and sealed again


class Keyring:
    def __init__(self, store: WalletStore, keystore: Keystore, network: Network) -> None:
        self._store = store
        self._keystore = keystore
        self._network = network
        # A derivation takes milliseconds (BIP 39 stretches the seed); the cache holds sealed keys.
        self._sealed_key = lru_cache(maxsize=MAX_CACHED_KEYS)(self._derive_key)

    def new_wallet(self) -> NewWallet:
        """Returns a wallet with a fresh seed, which is lost unless the caller stores it."""
        id = uuid.uuid4().hex
        seed = Seed.generate()
        sealed = self._keystore.seal(_key_id(id), seed.entropy)
        return NewWallet(id, sealed, seed.descriptors(self._network))

    def signing_descriptor(self, own: OwnAddress, sealed_seed: bytes) -> bdk.Descriptor:
        """Returns the descriptor that signs for one managed address only."""
        sealed = self._sealed_key(own, sealed_seed)
        text = self._keystore.open(_derived_id(own), sealed).decode()
        return signing_descriptor(text, self._network)

    async def check(self) -> None:
        """Raises KeystoreError if the master key did not seal the wallets of this store."""
        for wallet in await self._store.list(after="", limit=1):
            self._keystore.open(_key_id(wallet.id), await self._store.sealed_seed(wallet.id))

    async def sign_ownership(self, address: str, message: str) -> str:
        """Signs an address-link text for the managed address that it names (BIP 322).

        Raises InvalidArgument if the text is no address link or names another address or network:
        a caller must not choose what a wallet signs. Raises NotFound if no managed wallet has the
        address.
        """
        script = parse_address(address, self._network)
        link = address_link.parse(message)
        if (link.address, link.network) != (address, self._network):
            raise InvalidArgument(
                f"the message links {link.address} on {link.network}, not {address}",
                field="message",
            )
        found = await self._store.find_own(script)
        if found is None:
            raise NotFound(f"{address} is not an address of a managed wallet")
        own, sealed_seed = found
        seed = self._open(own.wallet_id, sealed_seed)
        key = seed.private_key(self._network, own.keychain, own.index)
        return sign_p2wpkh(key, message.encode())

    def _derive_key(self, own: OwnAddress, sealed_seed: bytes) -> bytes:
        seed = self._open(own.wallet_id, sealed_seed)
        text = seed.signing_text(self._network, own.keychain, own.index)
        return self._keystore.seal(_derived_id(own), text.encode())

    def _open(self, wallet_id: str, sealed_seed: bytes) -> Seed:
        try:
            return Seed(self._keystore.open(_key_id(wallet_id), sealed_seed))
        except KeystoreError as error:
            raise Internal(f"{error}; restore the store and its master key together") from None


def _key_id(wallet_id: str) -> str:
    return f"wallet/{wallet_id}"


def _derived_id(own: OwnAddress) -> str:
    return f"{_key_id(own.wallet_id)}/{own.keychain:d}/{own.index}"
