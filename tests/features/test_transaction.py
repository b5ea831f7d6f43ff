"""The transaction features: from bytes and prevouts, and unavailable without them."""

from __future__ import annotations

from dataclasses import replace
from math import log, log1p

import pytest

from features.feature import Feature, Status
from features.transaction import (
    PREVOUTS,
    TRANSACTION,
    SpentOutput,
    TransactionFacts,
    TypedOutput,
    extract,
)

ALICE, BOB = b"alice", b"bob"
DATA = TypedOutput(b"\x6adata!", "op_return", 0, False)
NAMES = [definition.name for definition in PREVOUTS]


def paid(script: bytes, amount_sat: int, type: str = "p2wpkh") -> TypedOutput:
    return TypedOutput(script, type, amount_sat, True)


FACTS = TransactionFacts(
    version=2,
    lock_time=0,
    size=200,
    weight=401,
    has_witness=True,
    signals_replacement=True,
    is_coinbase=False,
    spent=(SpentOutput(paid(ALICE, 6_000_000), 9), SpentOutput(paid(BOB, 5_000_000, "p2tr"), 4)),
    outputs=(paid(BOB, 3_000_000), paid(ALICE, 7_999_000), paid(b"c", 900, "p2pkh"), DATA),
)


def features(facts: TransactionFacts) -> dict[str, Feature]:
    return {feature.name: feature for feature in extract(facts)}


def values(facts: TransactionFacts) -> dict[str, float | None]:
    return {name: feature.value for name, feature in features(facts).items()}


def test_features_are_those_of_the_set_in_its_order() -> None:
    assert tuple(feature.name for feature in extract(FACTS)) == TRANSACTION.names
    assert len(TRANSACTION.vector(extract(FACTS))) == len(TRANSACTION.names)


def test_form_and_outputs_are_read_from_the_bytes() -> None:
    total = 3_000_000 + 7_999_000 + 900
    shares = [3_000_000 / total, 7_999_000 / total, 900 / total]

    found = values(FACTS)

    expected = {
        "is_coinbase": 0,
        "version": 2,
        "is_locked": 0,
        "signals_replacement": 1,
        "has_witness": 1,
        "size": 200,
        "weight": 401,
        "vsize": 101,
        "inputs": 2,
        "outputs": 4,
        "paid_log_btc": log1p(total / 1e8),
        "largest_output_share": shares[1],
        "output_entropy": pytest.approx(-sum(p * log(p) for p in shares)),
        "equal_outputs": 1,
        "recipients": 3,
        "round_share": pytest.approx(1 / 3),
        "small_outputs": 1,
        "data_bytes": 6,
        "output_types": 2,
        "outputs_p2wpkh": 2,
        "outputs_p2pkh": 1,
        "outputs_op_return": 1,
        "outputs_p2tr": 0,
    }
    assert {name: found[name] for name in expected} == expected


def test_fee_and_funders_are_read_from_the_prevouts() -> None:
    found = values(FACTS)

    fee_sat = 11_000_000 - 10_999_900
    expected = {
        "spent_log_btc": log1p(0.11),
        "fee_sat": fee_sat,
        "feerate": pytest.approx(fee_sat / 101),
        "fee_share": pytest.approx(fee_sat / 11_000_000),
        "funders": 2,
        "input_types": 2,
        "reuses_script": 1,
        "youngest_input_blocks": 4,
        "median_input_blocks": 6.5,
    }
    assert {name: found[name] for name in expected} == expected


def test_one_unknown_prevout_makes_prevout_features_unavailable() -> None:
    found = features(replace(FACTS, spent=(FACTS.spent[0], None)))

    assert {found[name].status for name in NAMES} == {Status.UNAVAILABLE}
    assert {found[name].value for name in NAMES} == {None}
    assert found["inputs"].value == 2


def test_prevouts_without_an_age_make_only_ages_unavailable() -> None:
    spent = SpentOutput(paid(ALICE, 20_000_000), None)

    found = features(replace(FACTS, spent=(spent,)))

    assert found["youngest_input_blocks"].status is Status.UNAVAILABLE
    assert found["fee_sat"].status is Status.PRESENT


def test_coinbase_has_no_prevouts_to_know() -> None:
    found = features(replace(FACTS, is_coinbase=True, spent=(None,)))

    assert {found[name].status for name in NAMES} == {Status.NO_HISTORY}


def test_transaction_that_pays_nothing_has_no_shares() -> None:
    found = features(replace(FACTS, outputs=(DATA,)))

    assert found["largest_output_share"].status is Status.NO_HISTORY
    assert found["output_entropy"].status is Status.NO_HISTORY
    assert found["round_share"].status is Status.NO_HISTORY
    assert found["equal_outputs"].value == 0
