"""Managed wallets: two keychains of P2WPKH addresses each, and their balances."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

NAME = re.compile(r"[a-z0-9_-]{1,64}")
MAX_INDEX = 0x7FFFFFFF  # the last child that is not hardened (BIP 32)


class Keychain(IntEnum):
    """The branches of BIP 44; the numbers are those of its derivation path."""

    EXTERNAL = 0  # for payments to the wallet
    INTERNAL = 1  # change


@dataclass(frozen=True, slots=True)
class Wallet:
    id: str
    name: str
    descriptor: str  # public, of the external keychain, with checksum (BIP 380)
    created: datetime


@dataclass(frozen=True, slots=True)
class NewWallet:
    """A wallet that is not stored yet."""

    id: str
    sealed_seed: bytes  # by the keystore
    descriptors: Mapping[Keychain, str]  # public


@dataclass(frozen=True, slots=True)
class OwnAddress:
    """A revealed address of a managed wallet."""

    wallet_id: str
    keychain: Keychain
    index: int
    script_pubkey: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Satoshis in confirmed coins."""

    confirmed_sat: int  # without immature coinbases
    immature_sat: int
    reserved_sat: int  # for open payments; part of confirmed_sat

    @property
    def spendable_sat(self) -> int:
        return self.confirmed_sat - self.reserved_sat


def parse_name(text: str) -> str:
    """Returns the name of a wallet. Raises InvalidArgument if it is malformed."""
    if not NAME.fullmatch(text):
        raise InvalidArgument('name must be 1 to 64 of a-z, 0-9, "-" and "_"', field="name")
    return text
