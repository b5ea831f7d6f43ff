"""Builds and signs a payment's transaction with a temporary bdk wallet that has one key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bdkpython as bdk

from formats.bitcoin.transaction import (
    SEQUENCE_NO_REPLACEMENT,
    Transaction,
    parse_transaction,
    split_outpoint,
)
from mesh.errors import Internal
from services.bitcoin.descriptor import NETWORKS

if TYPE_CHECKING:
    from formats.bitcoin.network import Network
    from formats.bitcoin.transaction import Output
    from services.bitcoin.coin_selection import CoinSelection, SpendableCoin

VERSION = 2
SEQUENCE = SEQUENCE_NO_REPLACEMENT - 1  # replaceable (BIP 125), so that a fee can be raised

BDK_ERRORS = (
    bdk.AddForeignUtxoError,
    bdk.CreateTxError,
    bdk.ExtractTxError,
    bdk.InternalError,
    bdk.SignerError,
)

# The index gives the amounts of the coins, so the signer needs no previous transactions.
OPTIONS = bdk.SignOptions(
    trust_witness_utxo=True,
    assume_height=None,
    allow_all_sighashes=False,
    try_finalize=True,
    sign_with_tap_internal_key=False,
    allow_grinding=True,
)


class _NoPersistence(bdk.Persistence):  # type: ignore[misc]
    """Persistence of a temporary wallet: stores nothing, and creates no database schema."""

    def initialize(self) -> bdk.ChangeSet:
        return bdk.ChangeSet()

    def persist(self, changeset: bdk.ChangeSet) -> None:
        pass


def sign(
    selection: CoinSelection,
    key: bdk.Descriptor,
    *,
    pay: Output,
    own_script: bytes,
    change_script: bytes,
    network: Network,
) -> Transaction:
    """Returns the signed transaction that spends exactly the selected coins, all of ``key``.

    Raises Internal if bdk's transaction differs from the selection.
    """
    persister = bdk.Persister.custom(_NoPersistence())
    wallet = bdk.Wallet.create_single(key, NETWORKS[network], persister)
    builder = (
        bdk.TxBuilder()
        .version(VERSION)
        .manually_selected_only()
        .only_witness_utxo()
        .add_recipient(bdk.Script(pay.script_pubkey), bdk.Amount.from_sat(pay.amount_sat))
        .fee_absolute(bdk.Amount.from_sat(selection.fee_sat))
        .drain_to(bdk.Script(change_script))
    )
    weight = key.max_weight_to_satisfy()
    for coin in selection.coins:
        txid, vout = split_outpoint(coin.prevout)
        prevout = bdk.OutPoint(txid=bdk.Txid.from_bytes(txid), vout=vout)
        builder = builder.add_foreign_utxo_with_sequence(
            prevout, _input(coin, own_script), weight, SEQUENCE
        )
    try:
        psbt = builder.finish(wallet)
        if not wallet.sign(psbt, OPTIONS):
            raise Internal("the wallet's key did not sign all inputs")
        raw = psbt.extract_tx().serialize()
    except BDK_ERRORS as error:
        raise Internal(f"bdk does not build the payment: {error}") from error
    transaction = parse_transaction(raw)
    _check(transaction, selection, pay, change_script)
    return transaction


def _check(
    transaction: Transaction, selection: CoinSelection, pay: Output, change_script: bytes
) -> None:
    """Checks bdk's work: these coins, this payment, this change, and nothing else."""
    expected = [tuple(pay)]
    if selection.change_sat:
        expected.append((selection.change_sat, change_script))
    made = [tuple(output) for output in transaction.outputs]
    coins = sorted(coin.prevout for coin in selection.coins)
    if sorted(made) != sorted(expected) or sorted(transaction.prevouts) != coins:
        raise Internal("the signed transaction differs from the selected coins; nothing was sent")


def _input(coin: SpendableCoin, script: bytes) -> bdk.Input:
    output = bdk.TxOut(value=bdk.Amount.from_sat(coin.amount_sat), script_pubkey=bdk.Script(script))
    return bdk.Input(
        non_witness_utxo=None,
        witness_utxo=output,
        partial_sigs={},
        sighash_type=None,
        redeem_script=None,
        witness_script=None,
        bip32_derivation={},
        final_script_sig=None,
        final_script_witness=None,
        ripemd160_preimages={},
        sha256_preimages={},
        hash160_preimages={},
        hash256_preimages={},
        tap_key_sig=None,
        tap_script_sigs={},
        tap_scripts={},
        tap_key_origins={},
        tap_internal_key=None,
        tap_merkle_root=None,
        proprietary={},
        unknown={},
    )
