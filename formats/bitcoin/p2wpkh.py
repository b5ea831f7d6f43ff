"""Keys and signed transactions of pay-to-witness-public-key-hash (BIP 143, BIP 173).

Transactions are built and hashed on python-bitcoinlib's model and signed by libsecp256k1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from bitcoin.core import COutPoint, CTransaction, CTxIn, CTxInWitness, CTxOut, CTxWitness
from bitcoin.core.script import (
    SIGHASH_ALL,
    SIGVERSION_WITNESS_V0,
    CScript,
    CScriptWitness,
    SignatureHash,
)
from coincurve import PrivateKey

from formats.bitcoin.address import format_address
from formats.bitcoin.hashes import hash160
from formats.bitcoin.script import p2pkh_script, witness_script_pubkey
from formats.bitcoin.transaction import MAX_SEQUENCE, parse_transaction, split_outpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from formats.bitcoin.network import Network
    from formats.bitcoin.transaction import Outpoint, Output, Transaction

VERSION = 2


@dataclass(frozen=True, slots=True)
class Key:
    """A private key and the public key of its address; only the public key prints."""

    secret: PrivateKey = field(repr=False)
    public_key: bytes  # 33 bytes, compressed

    @classmethod
    def from_secret(cls, secret: bytes) -> Key:
        """Returns the key of a secret: 32 bytes, big-endian."""
        private = PrivateKey(secret)
        return cls(private, private.public_key.format())

    @property
    def script_pubkey(self) -> bytes:
        return witness_script_pubkey(0, hash160(self.public_key))

    def address(self, network: Network) -> str:
        """Returns the bech32 address of the key."""
        return str(format_address(self.script_pubkey, network))

    def witness(self, transaction: CTransaction, index: int, amount_sat: int) -> list[bytes]:
        """Signs an input with SIGHASH_ALL; returns its witness: signature and public key.

        ``amount_sat`` is the amount that the input spends, which the signature covers (BIP 143).
        """
        digest = SignatureHash(
            CScript(p2pkh_script(hash160(self.public_key))),
            transaction,
            index,
            SIGHASH_ALL,
            amount=amount_sat,
            sigversion=SIGVERSION_WITNESS_V0,
        )
        signature = self.secret.sign(digest, hasher=None) + bytes([SIGHASH_ALL])
        return [signature, self.public_key]


class Coin(NamedTuple):
    """An unspent output of a key."""

    prevout: Outpoint
    amount_sat: int
    key: Key


def spend(
    coins: Sequence[Coin],
    outputs: Sequence[Output],
    *,
    version: int = VERSION,
    sequence: int = MAX_SEQUENCE,
    lock_time: int = 0,
) -> Transaction:
    """Returns the signed transaction that spends all coins; the rest of their amount is its fee.

    The signatures are deterministic (RFC 6979): equal arguments give equal bytes.
    """
    inputs = [CTxIn(COutPoint(*split_outpoint(coin.prevout)), nSequence=sequence) for coin in coins]
    paid = [CTxOut(output.amount_sat, CScript(output.script_pubkey)) for output in outputs]
    unsigned = CTransaction(inputs, paid, lock_time, version)
    witness = CTxWitness(
        [
            CTxInWitness(CScriptWitness(coin.key.witness(unsigned, index, coin.amount_sat)))
            for index, coin in enumerate(coins)
        ]
    )
    signed = CTransaction(inputs, paid, lock_time, version, witness)
    return parse_transaction(signed.serialize())
