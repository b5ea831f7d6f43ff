"""A raw block, and the features of its transactions without any other source."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from features.feature import Feature, Status
from features.transaction import (
    TRANSACTION,
    SpentOutput,
    TransactionFacts,
    TypedOutput,
    extract,
)
from formats.bitcoin.block import check_commitments, parse_block
from formats.bitcoin.hashes import display
from formats.bitcoin.script import is_unspendable, script_type
from formats.bitcoin.transaction import outpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from formats.bitcoin.transaction import Outpoint, Output, Transaction


@dataclass(frozen=True, slots=True)
class Inspection:
    transactions: Sequence[Transaction]
    inputs: int  # the coinbase's one included
    inputs_known: int  # inputs that spend an output of an earlier transaction in the block
    features: tuple[tuple[Feature, ...], ...]  # one row of TRANSACTION for each transaction

    def document(self) -> dict[str, Any]:
        """Returns totals, a summary of each feature, and every transaction's features, as JSON."""
        return {
            "transactions": len(self.transactions),
            "inputs": self.inputs,
            "inputs_known": self.inputs_known,
            "outputs": sum(len(tx.outputs) for tx in self.transactions),
            "output_total_sat": sum(
                output.amount_sat for tx in self.transactions for output in tx.outputs
            ),
            "feature_set": TRANSACTION.name,
            "feature_set_hash": TRANSACTION.hash,
            "summary": self.summary(),
            "features": [
                {"txid": display(tx.txid), "features": [_show(feature) for feature in features]}
                for tx, features in zip(self.transactions, self.features, strict=True)
            ],
        }

    def summary(self) -> dict[str, dict[str, Any]]:
        """Returns the count of each status and the range of the values, by feature."""
        return {
            name: _summarize(column)
            for name, column in zip(
                TRANSACTION.names, zip(*self.features, strict=True), strict=True
            )
        }


def inspect(raw: bytes) -> dict[str, Any]:
    """Returns a raw block and its features as JSON.

    Raises MalformedError if ``raw`` is no block, or was altered.
    """
    block = parse_block(raw)
    check_commitments(block)
    return {
        "block_hash": display(block.hash),
        "height": block.height,
        "time": block.header.time,
        "version": block.header.version,
        "size": len(block.raw),
        "weight": block.weight,
        **inspect_transactions(block.transactions).document(),
    }


def inspect_transactions(transactions: Sequence[Transaction]) -> Inspection:
    """Returns the features of every transaction; only prevouts among the transactions are known."""
    made: dict[Outpoint, SpentOutput] = {}
    rows = []
    known = 0
    for transaction in transactions:
        spent = tuple(made.get(prevout) for prevout in transaction.prevouts)
        known += sum(output is not None for output in spent)
        outputs = tuple(_typed(output) for output in transaction.outputs)
        rows.append(extract(_facts(transaction, spent, outputs)))
        for vout, output in enumerate(outputs):
            made[outpoint(transaction.txid, vout)] = SpentOutput(output, 0)
    inputs = sum(len(tx.prevouts) for tx in transactions)
    return Inspection(transactions, inputs, known, tuple(rows))


def _facts(
    transaction: Transaction,
    spent: tuple[SpentOutput | None, ...],
    outputs: tuple[TypedOutput, ...],
) -> TransactionFacts:
    return TransactionFacts(
        version=transaction.version,
        lock_time=transaction.lock_time,
        size=len(transaction.raw),
        weight=transaction.weight,
        has_witness=transaction.has_witness,
        signals_replacement=transaction.signals_replacement,
        is_coinbase=transaction.is_coinbase,
        spent=spent,
        outputs=outputs,
    )


def _typed(output: Output) -> TypedOutput:
    script = output.script_pubkey
    is_spendable = not is_unspendable(script)
    return TypedOutput(script, script_type(script), output.amount_sat, is_spendable)


def _show(feature: Feature) -> dict[str, Any]:
    return {"name": feature.name, "value": feature.value, "status": feature.status.name}


def _summarize(column: tuple[Feature, ...]) -> dict[str, Any]:
    values = [feature.value for feature in column if feature.value is not None]
    statuses = Counter(feature.status.name for feature in column)
    summary: dict[str, Any] = {"statuses": dict(statuses)}
    if statuses[Status.PRESENT.name]:
        summary |= {"min": min(values), "median": median(values), "max": max(values)}
    return summary
