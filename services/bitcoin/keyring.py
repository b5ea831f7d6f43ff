"""The private keys of managed wallets: sealed at rest, open only while they sign."""

from __future__ import annotations

import uuid
from functools import lru_cache
from typing import TYPE_CHECKING

from mesh.errors import Internal, InvalidArgument, NotFound
from mesh.security import address_link
from mesh.security.keystore import KeystoreError
from services.bitcoin.arguments import parse_address
from services.bitcoin.descriptor import Seed, signing_descriptor
from services.bitcoin.ownership import sign_p2wpkh
from services.bitcoin.wallet import NewWallet

if TYPE_CHECKING:
    import bdkpython as bdk

    from formats.bitcoin.network import Network
    from mesh.security.keystore import Keystore
    from services.bitcoin.store.wallet import WalletStore
    from services.bitcoin.wallet import OwnAddress


KEYS = 4096  # derived and kept, sealed


class Keyring:
    def __init__(self, store: WalletStore, keystore: Keystore, network: Network) -> None:
        self._store = store
        self._keystore = keystore
        self._network = network
        # From seed to key takes milliseconds (BIP 39 stretches it); what came of it is sealed, too.
        self._sealed_key = lru_cache(maxsize=KEYS)(self._derive_key)

    def new_wallet(self) -> NewWallet:
        """Keys that nobody has used; they are lost unless they are stored."""
        id = uuid.uuid4().hex
        seed = Seed.generate()
        sealed = self._keystore.seal(_key_id(id), seed.entropy)
        return NewWallet(id, sealed, seed.descriptors(self._network))

    def signing_descriptor(self, own: OwnAddress, sealed_seed: bytes) -> bdk.Descriptor:
        """What signs for one address of ours and for nothing else."""
        sealed = self._sealed_key(own, sealed_seed)
        text = self._keystore.open(_derived_id(own), sealed).decode()
        return signing_descriptor(text, self._network)

    async def check(self) -> None:
        """KeystoreError if the master key is not the one that sealed the wallets of this store."""
        for wallet in await self._store.list(after="", limit=1):
            self._keystore.open(_key_id(wallet.id), await self._store.sealed_seed(wallet.id))

    async def sign_ownership(self, address: str, message: str) -> str:
        """The proof that this address, which is ours, stands behind an address-link text.

        InvalidArgument for any other text, and for one that names another address or network: a
        free choice of text would let the caller sign anything. NotFound if the address is not ours.
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
