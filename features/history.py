"""The confirmed history of an address, as real and simulated indexes give it."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a confirmed transaction."""

    script: bytes  # script_pubkey; features only compare it
    amount_sat: int


@dataclass(frozen=True, slots=True)
class Spend:
    """The transaction that spends a receipt; receipts that it spends together share it."""

    txid: bytes
    height: int
    outputs: tuple[Output, ...]  # all spendable outputs, change included


@dataclass(frozen=True, slots=True)
class Receipt:
    """An output to an address, and the transaction that spends it."""

    txid: bytes
    vout: int
    height: int
    amount_sat: int
    funders: frozenset[bytes]  # scripts of all prevouts of the paying transaction; coinbase: empty
    spend: Spend | None = None  # None while unspent

    def at(self, height: int) -> Receipt:
        """Returns the receipt as of the tip at ``height``."""
        if self.spend and self.spend.height > height:
            return replace(self, spend=None)
        return self


@dataclass(frozen=True, slots=True)
class AddressHistory:
    """All confirmed receipts of one script, in any order."""

    script: bytes
    receipts: tuple[Receipt, ...] = ()

    def at(self, height: int) -> AddressHistory:
        """Returns the history as of the tip at ``height``."""
        receipts = (receipt.at(height) for receipt in self.receipts if receipt.height <= height)
        return replace(self, receipts=tuple(receipts))
