"""A key of a test's own, and the transactions it signs."""

from __future__ import annotations

from hashlib import new, sha256
from struct import pack
from typing import TYPE_CHECKING

from coincurve import PrivateKey

from formats.bitcoin.address import format_address
from formats.bitcoin.hashes import sha256d
from formats.bitcoin.network import Network
from formats.bitcoin.transaction import (
    Input,
    Output,
    Transaction,
    outpoint,
    parse_transaction,
    serialize,
    serialize_outputs,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from formats.bitcoin.transaction import Outpoint

SIGHASH_ALL = 1
FEE_SAT = 1_000


class Payer:
    """Holds one P2WPKH key."""

    def __init__(self, secret: bytes = b"\x01") -> None:
        self._key = PrivateKey(secret.rjust(32, b"\x01"))
        self._public = self._key.public_key.format()
        self._hash = new("ripemd160", sha256(self._public).digest()).digest()
        self.script = b"\x00\x14" + self._hash
        self.address = str(format_address(self.script, Network.REGTEST))

    def coin(self, transaction: Transaction) -> tuple[Outpoint, int]:
        """The first output that the transaction pays to this key, and its amount."""
        vout = [output.script_pubkey for output in transaction.outputs].index(self.script)
        return outpoint(transaction.txid, vout), transaction.outputs[vout].amount_sat

    def pay(
        self,
        coins: Sequence[tuple[Outpoint, int]],
        outputs: Sequence[Output],
        *,
        version: int = 2,
        sequence: int = 0xFFFFFFFD,
        lock_time: int = 0,
    ) -> Transaction:
        """Spend ``coins`` (prevout, amount) of this key; what the outputs leave is the fee."""
        inputs = []
        for prevout, amount_sat in coins:
            digest = sha256d(
                pack("<i", version)
                + sha256d(b"".join(prevout for prevout, _ in coins))
                + sha256d(pack("<I", sequence) * len(coins))
                + prevout
                + b"\x19\x76\xa9\x14"
                + self._hash
                + b"\x88\xac"
                + pack("<qI", amount_sat, sequence)
                + sha256d(serialize_outputs(outputs)[1:])
                + pack("<II", lock_time, SIGHASH_ALL)
            )
            signature = self._key.sign(digest, hasher=None) + bytes([SIGHASH_ALL])
            inputs.append(Input(prevout, sequence=sequence, witness=(signature, self._public)))
        raw = serialize(version=version, inputs=inputs, outputs=outputs, lock_time=lock_time)
        return parse_transaction(raw)

    def sweep(self, transaction: Transaction, script: bytes, **options: int) -> Transaction:
        """Pay what the transaction paid to this key on to ``script``, less a fee."""
        prevout, amount_sat = self.coin(transaction)
        return self.pay([(prevout, amount_sat)], [Output(amount_sat - FEE_SAT, script)], **options)
