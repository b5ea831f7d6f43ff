"""The feature set ``transaction``, of one transaction's bytes and its prevouts.

A transaction does not have its prevouts. If the source does not know one, the features that need
prevouts are UNAVAILABLE, never a guess; of a coinbase, which spends none, they are NO_HISTORY.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import log, log1p
from statistics import median
from typing import TYPE_CHECKING

from features.feature import Definition, FeatureSet
from features.payment_risk import ROUND_SAT
from formats.money import SAT_PER_BTC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from features.feature import Feature

SMALL_SAT = 1_000  # hardly worth the fee to spend it
NEVER_BLOCKS = 1 << 31  # the features never age: a transaction does not change
SCRIPT_TYPES = ("p2pk", "p2pkh", "p2sh", "p2wpkh", "p2wsh", "p2tr", "op_return")

# A measure of None stands for NO_HISTORY.
Measures = Iterator[tuple[str, float | None]]


@dataclass(frozen=True, slots=True)
class TypedOutput:
    """An output with the type of its script, as output descriptors name it."""

    script: bytes
    type: str
    amount_sat: int
    is_spendable: bool


@dataclass(frozen=True, slots=True)
class SpentOutput:
    """The output that an input spends."""

    output: TypedOutput
    age_blocks: int | None  # None: the source does not know the block of the output


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionFacts:
    version: int
    lock_time: int
    size: int  # bytes
    weight: int  # units of BIP 141
    has_witness: bool
    signals_replacement: bool
    is_coinbase: bool
    spent: tuple[SpentOutput | None, ...]  # one for each input; None: unknown
    outputs: tuple[TypedOutput, ...]

    @property
    def vsize(self) -> int:
        return -(-self.weight // 4)


def _define(name: str, formula: str, *, required: bool = True) -> Definition:
    return Definition(name=name, formula=formula, max_age_blocks=NEVER_BLOCKS, required=required)


FORM = (
    _define("is_coinbase", "1 if it creates coins, else 0"),
    _define("version", "version"),
    _define("is_locked", "1 if lock_time is not 0, else 0"),
    _define("signals_replacement", "1 if a sequence is below 0xfffffffe (BIP 125), else 0"),
    _define("has_witness", "1 if it has a witness, else 0"),
    _define("size", "bytes as serialised"),
    _define("weight", "weight units (BIP 141)"),
    _define("vsize", "weight / 4, rounded up"),
    _define("inputs", "inputs"),
    _define("outputs", "outputs"),
)
OUTPUTS = (
    _define("paid_log_btc", "ln(1 + BTC of all outputs)"),
    _define("largest_output_share", "largest output / sum of outputs"),
    _define("output_entropy", "-sum of p ln p over outputs, p = output / sum of outputs"),
    _define("equal_outputs", "how many spendable outputs hold the most common amount"),
    _define("recipients", "distinct scripts of spendable outputs"),
    _define("round_share", "share of spendable outputs whose sat amount divides by 10^6"),
    _define("small_outputs", "spendable outputs below 1000 sat"),
    _define("data_bytes", "bytes of unspendable scripts"),
    _define("output_types", "distinct script types of spendable outputs"),
    *(_define(f"outputs_{type}", f"outputs of type {type}") for type in SCRIPT_TYPES),
)
PREVOUTS = (
    _define("spent_log_btc", "ln(1 + BTC of all prevouts)", required=False),
    _define("fee_sat", "sum of prevouts - sum of outputs", required=False),
    _define("feerate", "fee_sat / vsize", required=False),
    _define("fee_share", "fee_sat / sum of prevouts", required=False),
    _define("funders", "distinct scripts of prevouts", required=False),
    _define("input_types", "distinct script types of prevouts", required=False),
    _define("reuses_script", "1 if an output pays a script of a prevout, else 0", required=False),
    _define("youngest_input_blocks", "least age of a prevout in blocks", required=False),
    _define("median_input_blocks", "median age of the prevouts in blocks", required=False),
)
TRANSACTION = FeatureSet("transaction", (*FORM, *OUTPUTS, *PREVOUTS))


def extract(facts: TransactionFacts) -> tuple[Feature, ...]:
    """Returns the features of ``TRANSACTION``, in its order."""
    measures: dict[str, float | None] = dict(_form(facts))
    measures.update(_outputs(facts.outputs))
    measures.update(_prevouts(facts))
    return tuple(definition.feature(measures) for definition in TRANSACTION.definitions)


def _form(facts: TransactionFacts) -> Measures:
    yield "is_coinbase", facts.is_coinbase
    yield "version", facts.version
    yield "is_locked", facts.lock_time != 0
    yield "signals_replacement", facts.signals_replacement
    yield "has_witness", facts.has_witness
    yield "size", facts.size
    yield "weight", facts.weight
    yield "vsize", facts.vsize
    yield "inputs", len(facts.spent)
    yield "outputs", len(facts.outputs)


def _outputs(outputs: Sequence[TypedOutput]) -> Measures:
    spendable = [output for output in outputs if output.is_spendable]
    amounts = [output.amount_sat for output in outputs]
    total = sum(amounts)
    shares = [amount / total for amount in amounts if amount] if total else []
    types = Counter(output.type for output in outputs)
    round_amounts = sum(output.amount_sat % ROUND_SAT == 0 for output in spendable)

    yield "paid_log_btc", log1p(total / SAT_PER_BTC)
    yield "largest_output_share", max(shares, default=None)
    yield "output_entropy", max(0.0, -sum(p * log(p) for p in shares)) if shares else None
    yield "equal_outputs", max(Counter(o.amount_sat for o in spendable).values(), default=0)
    yield "recipients", len({output.script for output in spendable})
    yield "round_share", round_amounts / len(spendable) if spendable else None
    yield "small_outputs", sum(output.amount_sat < SMALL_SAT for output in spendable)
    yield "data_bytes", sum(len(output.script) for output in outputs if not output.is_spendable)
    yield "output_types", len({output.type for output in spendable})
    for type in SCRIPT_TYPES:
        yield f"outputs_{type}", types[type]


def _prevouts(facts: TransactionFacts) -> Measures:
    """Yields measures of prevouts, or none if one is unknown: a partial sum would mislead."""
    if facts.is_coinbase:
        yield from ((definition.name, None) for definition in PREVOUTS)
        return
    known = [spent for spent in facts.spent if spent is not None]
    if len(known) < len(facts.spent):
        return
    scripts = {spent.output.script for spent in known}
    total = sum(spent.output.amount_sat for spent in known)
    fee_sat = total - sum(output.amount_sat for output in facts.outputs)

    yield "spent_log_btc", log1p(total / SAT_PER_BTC)
    yield "fee_sat", fee_sat
    yield "feerate", fee_sat / facts.vsize
    yield "fee_share", fee_sat / total if total else None
    yield "funders", len(scripts)
    yield "input_types", len({spent.output.type for spent in known})
    yield "reuses_script", any(output.script in scripts for output in facts.outputs)
    ages = [spent.age_blocks for spent in known if spent.age_blocks is not None]
    if len(ages) == len(known):
        yield "youngest_input_blocks", min(ages)
        yield "median_input_blocks", median(ages)
