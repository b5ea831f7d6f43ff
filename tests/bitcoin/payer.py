"""A key of the test, and the transactions that it signs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formats.bitcoin import p2wpkh
from formats.bitcoin.network import Network
from formats.bitcoin.transaction import Output, outpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from formats.bitcoin.transaction import Outpoint, Transaction

FEE_SAT = 1_000
REPLACEABLE = 0xFFFFFFFD


class Payer:
    """A P2WPKH key that pays."""

    def __init__(self, secret: bytes = b"\x01") -> None:
        self._key = p2wpkh.Key.from_secret(secret.rjust(32, b"\x01"))
        self.script = self._key.script_pubkey
        self.address = self._key.address(Network.REGTEST)

    def coin(self, transaction: Transaction) -> tuple[Outpoint, int]:
        """Returns the first output that the transaction pays to this key, and its amount."""
        vout = [output.script_pubkey for output in transaction.outputs].index(self.script)
        return outpoint(transaction.txid, vout), transaction.outputs[vout].amount_sat

    def pay(
        self,
        coins: Sequence[tuple[Outpoint, int]],
        outputs: Sequence[Output],
        *,
        sequence: int = REPLACEABLE,
        **options: int,
    ) -> Transaction:
        """Spends coins (prevout, amount) of this key; the outputs leave the rest as the fee."""
        own = [p2wpkh.Coin(prevout, amount_sat, self._key) for prevout, amount_sat in coins]
        return p2wpkh.spend(own, outputs, sequence=sequence, **options)

    def sweep(self, transaction: Transaction, script: bytes, **options: int) -> Transaction:
        """Pays an output of the transaction to this key on to ``script``, less a fee."""
        prevout, amount_sat = self.coin(transaction)
        return self.pay([(prevout, amount_sat)], [Output(amount_sat - FEE_SAT, script)], **options)
