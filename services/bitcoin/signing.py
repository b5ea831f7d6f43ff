"""A payment's transaction, built and signed by a throw-away bdk wallet that knows one key."""

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
    from services.bitcoin.coin_selection import Spend, SpendableCoin

VERSION = 2
SEQUENCE = SEQUENCE_NO_REPLACEMENT - 1  # replaceable (BIP 125), so that a fee can be raised

REFUSALS = (
    bdk.AddForeignUtxoError,
    bdk.CreateTxError,
    bdk.ExtractTxError,
    bdk.InternalError,
    bdk.SignerError,
)

# Our own index says what the coins hold, so a witness UTXO is as good as the whole transaction.
OPTIONS = bdk.SignOptions(
    trust_witness_utxo=True,
    assume_height=None,
    allow_all_sighashes=False,
    try_finalize=True,
    sign_with_tap_internal_key=False,
    allow_grinding=True,
)


class _Nowhere(bdk.Persistence):  # type: ignore[misc]
    """The store of a wallet that is thrown away; one in memory costs a database's schema."""

    def initialize(self) -> bdk.ChangeSet:
        return bdk.ChangeSet()

    def persist(self, changeset: bdk.ChangeSet) -> None:
        pass


def sign(
    spend: Spend,
    key: bdk.Descriptor,
    *,
    pay: Output,
    own_script: bytes,
    change_script: bytes,
    network: Network,
) -> Transaction:
    """The signed transaction that spends exactly ``spend``; ``key`` owns all of its coins.

    Internal if what bdk made is not what was planned.
    """
    nowhere = bdk.Persister.custom(_Nowhere())
    wallet = bdk.Wallet.create_single(key, NETWORKS[network], nowhere)
    builder = (
        bdk.TxBuilder()
        .version(VERSION)
        .manually_selected_only()
        .only_witness_utxo()
        .add_recipient(bdk.Script(pay.script_pubkey), bdk.Amount.from_sat(pay.amount_sat))
        .fee_absolute(bdk.Amount.from_sat(spend.fee_sat))
        .drain_to(bdk.Script(change_script))
    )
    weight = key.max_weight_to_satisfy()
    for coin in spend.coins:
        txid, vout = split_outpoint(coin.prevout)
        place = bdk.OutPoint(txid=bdk.Txid.from_bytes(txid), vout=vout)
        builder = builder.add_foreign_utxo_with_sequence(
            place, _input(coin, own_script), weight, SEQUENCE
        )
    try:
        psbt = builder.finish(wallet)
        if not wallet.sign(psbt, OPTIONS):
            raise Internal("the wallet's key did not sign all inputs")
        raw = psbt.extract_tx().serialize()
    except REFUSALS as error:
        raise Internal(f"bdk does not build the payment: {error}") from error
    transaction = parse_transaction(raw)
    _check(transaction, spend, pay, change_script)
    return transaction


def _check(transaction: Transaction, spend: Spend, pay: Output, change_script: bytes) -> None:
    """Trust no builder with money: these coins, this payment, this change, and nothing else."""
    expected = [tuple(pay)]
    if spend.change_sat:
        expected.append((spend.change_sat, change_script))
    made = [tuple(output) for output in transaction.outputs]
    coins = sorted(coin.prevout for coin in spend.coins)
    if sorted(made) != sorted(expected) or sorted(transaction.prevouts) != coins:
        raise Internal("the signed transaction is not the planned one; nothing was sent")


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
