"""What is confirmed about an address, in the words both a real and a simulated index speak."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a confirmed transaction: whom it pays, and how much."""

    script: bytes  # scriptPubKey; only its equality is used
    amount_sat: int


@dataclass(frozen=True, slots=True)
class Spend:
    """The transaction that spends a receipt. Receipts spent together share an equal Spend."""

    txid: bytes
    height: int
    outputs: tuple[Output, ...]  # all of them, change included; unspendable ones left out


@dataclass(frozen=True, slots=True)
class Receipt:
    """One output paid to an address, and what became of it."""

    txid: bytes
    vout: int
    height: int
    amount_sat: int
    funders: frozenset[bytes]  # scripts of all prevouts of the paying transaction; coinbase: empty
    spend: Spend | None = None  # None while unspent

    def at(self, height: int) -> Receipt:
        """The receipt as it stood when ``height`` was the tip."""
        if self.spend and self.spend.height > height:
            return replace(self, spend=None)
        return self


@dataclass(frozen=True, slots=True)
class AddressHistory:
    """Everything confirmed about one script. The order of the receipts carries no meaning."""

    script: bytes
    receipts: tuple[Receipt, ...] = ()

    def at(self, height: int) -> AddressHistory:
        """The history as it stood when ``height`` was the tip."""
        receipts = (receipt.at(height) for receipt in self.receipts if receipt.height <= height)
        return replace(self, receipts=tuple(receipts))
