"""A payment's transaction, built as it was planned and signed with the key that owns its coins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import coincurve

from mesh.errors import Internal
from services.bitcoin.hashes import hash160
from services.bitcoin.sighash import SIGHASH_ALL, sighashes
from services.bitcoin.transaction import (
    SEQUENCE_NO_REPLACEMENT,
    Input,
    Output,
    parse_transaction,
    serialize,
)

if TYPE_CHECKING:
    from services.bitcoin.spending import Spend
    from services.bitcoin.transaction import Transaction

VERSION = 2
SEQUENCE = SEQUENCE_NO_REPLACEMENT - 1  # replaceable (BIP 125), so that a fee can be raised


def sign(
    spend: Spend, secret: bytes, *, pay: Output, own_script: bytes, change_script: bytes
) -> Transaction:
    """The signed transaction that spends exactly ``spend``, inputs and outputs as BIP 69 orders.

    ``secret`` is the 32-byte key of ``own_script``, the P2WPKH script of all of its coins;
    Internal if it is another's.
    """
    key = coincurve.PrivateKey(secret)
    public_key = key.public_key.format()
    if own_script != b"\x00\x14" + hash160(public_key):
        raise Internal("the wallet's key is not that of the coins; nothing was signed")
    coins = sorted(spend.coins, key=lambda coin: _by_txid(coin.prevout))
    outputs = [pay]
    if spend.change_sat:
        outputs.append(Output(spend.change_sat, change_script))
    outputs.sort()
    bare = [Input(coin.prevout, sequence=SEQUENCE) for coin in coins]
    hashes = sighashes(
        version=VERSION,
        inputs=bare,
        spent=[Output(coin.amount_sat, own_script) for coin in coins],
        outputs=outputs,
    )
    inputs = [
        one._replace(witness=(key.sign(hash, hasher=None) + SIGHASH_ALL, public_key))
        for one, hash in zip(bare, hashes, strict=True)
    ]
    transaction = parse_transaction(serialize(version=VERSION, inputs=inputs, outputs=outputs))
    _check_fee(transaction, spend)
    return transaction


def _by_txid(prevout: bytes) -> tuple[bytes, int]:
    """As people write a txid, which is how BIP 69 compares it."""
    return prevout[31::-1], int.from_bytes(prevout[32:], "little")


def _check_fee(transaction: Transaction, spend: Spend) -> None:
    """What coins hold and outputs do not is gone for ever: it must be what was planned."""
    held = sum(coin.amount_sat for coin in spend.coins)
    if held - sum(output.amount_sat for output in transaction.outputs) != spend.fee_sat:
        raise Internal("the signed transaction is not the planned one; nothing was sent")
