"""The payment-risk features, against small histories computed by hand and against random ones."""

from __future__ import annotations

from dataclasses import replace
from math import log, log1p
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.feature import Feature, Status
from features.history import AddressHistory, Output, Receipt, Spend
from features.payment_risk import PAYMENT_RISK, MeasureCache, PaymentFacts, RecipientLink, extract
from formats.money import MAX_SAT
from formats.money import SAT_PER_BTC as BTC

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

SHOP, PAYER, OTHER, CHANGE = b"shop", b"payer", b"other", b"change"

RENT = Spend(b"t3", 160, (Output(OTHER, 60), Output(SHOP, 30)))
SHOP_HISTORY = AddressHistory(
    SHOP,
    (
        Receipt(b"t1", 0, 100, 2_000_000, frozenset({OTHER, CHANGE}), spend=RENT),
        Receipt(b"t2", 1, 150, 3_500_000, frozenset({PAYER})),
        Receipt(b"t3", 1, 160, 500_000, frozenset({SHOP})),
    ),
)
PAID = Spend(b"t2", 150, (Output(PAYER, 1_000_000), Output(SHOP, 3_500_000)))
PAYER_HISTORY = AddressHistory(
    PAYER,
    (
        Receipt(b"t0", 0, 20, 5_000_000, frozenset(), spend=PAID),
        Receipt(b"t2", 0, 150, 1_000_000, frozenset({PAYER})),
        Receipt(b"t4", 0, 199, 3_000_000, frozenset({OTHER})),
    ),
)


def test_every_feature_of_a_small_world_is_what_one_counts_by_hand() -> None:
    facts = PaymentFacts(
        height=200,
        amount_sat=1_000_000,
        recipient=SHOP_HISTORY,
        sender=(PAYER_HISTORY,),
        sender_link_heights=(10, 60),
        recipient_link=RecipientLink(height=120),
    )

    values = {feature.name: feature.value for feature in extract(facts)}

    assert values == pytest.approx(
        {
            "recipient_seen": 1,
            "recipient_age_blocks": 100,
            "recipient_receipts": 3,
            "recipient_transactions": 3,
            "recipient_funders": 3,
            "recipient_funders_per_receipt": 1,
            "recipient_received_log_btc": log1p(0.06),
            "recipient_held_share": 4 / 6,
            "recipient_dwell_blocks": 50,
            "recipient_round_share": 1 / 3,
            "recipient_receipts_144": 3,
            "recipient_idle_blocks": 40,
            "recipient_destinations": 1,
            "amount_to_recipient_mean_log": log(1 / 2),
            "sender_age_blocks": 180,
            "sender_payments": 1,
            "sender_payments_144": 1,
            "amount_to_sender_balance": 1 / 4,
            "amount_to_sender_median_log": log(1 / 3.5),
            "sender_fresh_share": 1,
            "sender_link_age_blocks": 140,
            "pair_payments": 1,
            "pair_idle_blocks": 50,
            "recipient_linked": 1,
            "recipient_link_age_blocks": 80,
            "amount_log_btc": log1p(0.01),
            "amount_round": 1,
        }
    )


def test_unpaid_address_has_no_history() -> None:
    facts = PaymentFacts(
        height=9,
        amount_sat=1,
        recipient=AddressHistory(SHOP),
        sender=(AddressHistory(PAYER),),
        sender_link_heights=(),
        recipient_link=RecipientLink(height=None),
    )

    features = by_name(facts)

    assert PAYMENT_RISK.unmet(list(features.values())) == ()
    assert features["recipient_seen"].value == 0
    assert features["recipient_age_blocks"].status is Status.NO_HISTORY
    assert features["sender_link_age_blocks"].status is Status.NO_HISTORY
    assert features["recipient_linked"].value == 0
    assert features["recipient_link_age_blocks"].status is Status.NO_HISTORY


def test_without_an_index_of_the_recipient_its_features_are_unavailable() -> None:
    features = by_name(replace(FACTS, recipient=None))

    assert features["recipient_receipts"].status is Status.UNAVAILABLE
    assert features["pair_payments"].status is Status.UNAVAILABLE
    assert features["sender_payments"].status is Status.PRESENT


def test_without_sender_addresses_sender_and_pair_are_unavailable() -> None:
    features = by_name(replace(FACTS, sender=None, sender_link_heights=None))

    assert features["sender_payments"].status is Status.UNAVAILABLE
    assert features["sender_link_age_blocks"].status is Status.UNAVAILABLE
    assert features["pair_payments"].status is Status.UNAVAILABLE
    assert features["recipient_receipts"].status is Status.PRESENT


def test_old_links_age_out_and_other_features_stay() -> None:
    features = by_name(replace(FACTS, links_height=FACTS.height - 145))

    assert features["sender_link_age_blocks"].status is Status.OUTSIDE_MAX_AGE
    assert features["recipient_receipts"].status is Status.PRESENT


def test_coinjoin_payment_is_at_most_the_senders_input() -> None:
    mix = Spend(b"mix", 5, (Output(OTHER, 10 * BTC), Output(CHANGE, 10 * BTC)))
    payer = AddressHistory(PAYER, (Receipt(b"t0", 0, 1, BTC, frozenset(), spend=mix),))
    facts = replace(FACTS, sender=(payer,), amount_sat=BTC)

    assert by_name(facts)["amount_to_sender_median_log"].value == 0


def test_inputs_spent_together_are_one_payment() -> None:
    spend = Spend(b"t9", 8, (Output(OTHER, 3 * BTC),))
    receipts = tuple(
        Receipt(b"t0", vout, 1, 2 * BTC, frozenset(), spend=spend) for vout in range(2)
    )
    facts = replace(FACTS, sender=(AddressHistory(PAYER, receipts),), amount_sat=3 * BTC)

    features = by_name(facts)

    assert features["sender_payments"].value == 1
    assert features["amount_to_sender_median_log"].value == 0


@pytest.mark.parametrize("amount_sat", [0, -1])
def test_amount_must_be_positive(amount_sat: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        extract(replace(FACTS, amount_sat=amount_sat))


FACTS = PaymentFacts(
    height=10,
    amount_sat=BTC,
    recipient=AddressHistory(SHOP),
    sender=(AddressHistory(PAYER, (Receipt(b"t0", 0, 1, BTC, frozenset()),)),),
    sender_link_heights=(1,),
    recipient_link=RecipientLink(height=None),
)

scripts = st.sampled_from([SHOP, PAYER, OTHER, CHANGE])
heights = st.integers(0, 400)
amounts = st.integers(1, MAX_SAT // 1_000)
spends = st.builds(
    Spend,
    txid=st.binary(min_size=1, max_size=1),
    height=heights,
    outputs=st.lists(st.builds(Output, scripts, amounts), max_size=3).map(tuple),
)
# Txids repeat, as they do when one transaction pays an address twice; spends of one txid agree.
receipts = st.builds(
    Receipt,
    txid=st.binary(min_size=1, max_size=1),
    vout=st.integers(0, 3),
    height=heights,
    amount_sat=amounts,
    funders=st.frozensets(scripts, max_size=3),
    spend=st.none() | spends.map(lambda spend: replace(spend, txid=spend.txid * 2)),
)


def agreeing(*histories: list[Receipt]) -> list[tuple[Receipt, ...]]:
    """Makes receipts consistent: each output once, equal spends and funders for equal txids."""
    spends: dict[bytes, Spend] = {}
    origins: dict[bytes, Receipt] = {}
    outpoints: set[tuple[bytes, int]] = set()

    def agree(receipts: list[Receipt]) -> Iterator[Receipt]:
        for receipt in receipts:
            if (receipt.txid, receipt.vout) in outpoints:
                continue
            outpoints.add((receipt.txid, receipt.vout))
            origin = origins.setdefault(receipt.txid, receipt)
            spend = receipt.spend and spends.setdefault(receipt.spend.txid, receipt.spend)
            yield replace(receipt, funders=origin.funders, height=origin.height, spend=spend)

    return [tuple(agree(receipts)) for receipts in histories]


received = st.lists(receipts, max_size=8)
histories = received.map(lambda receipts: agreeing(receipts)[0])


@st.composite
def payments(draw: st.DrawFn) -> PaymentFacts:
    recipient, payer, change = agreeing(draw(received), draw(received), draw(received))
    return PaymentFacts(
        height=draw(heights),
        amount_sat=draw(amounts),
        recipient=AddressHistory(SHOP, recipient),
        sender=(AddressHistory(PAYER, payer), AddressHistory(CHANGE, change)),
        sender_link_heights=draw(st.lists(heights, max_size=3).map(tuple)),
        recipient_link=draw(st.none() | st.builds(RecipientLink, st.none() | heights)),
    )


@settings(deadline=None)  # a busy machine is slow
@given(payments(), histories)
def test_later_blocks_do_not_change_the_vector(
    facts: PaymentFacts, later: tuple[Receipt, ...]
) -> None:
    assert facts.recipient
    assert facts.sender
    past = replace(
        facts,
        recipient=facts.recipient.at(facts.height),
        sender=tuple(history.at(facts.height) for history in facts.sender),
        sender_link_heights=tuple(h for h in facts.sender_link_heights or () if h <= facts.height),
    )
    after = tuple(replace(r, height=r.height + facts.height + 1) for r in later)
    future = replace(
        facts,
        recipient=replace(facts.recipient, receipts=facts.recipient.receipts + after),
        sender=tuple(replace(own, receipts=own.receipts + after) for own in facts.sender),
        sender_link_heights=(*(facts.sender_link_heights or ()), facts.height + 1),
    )

    assert extract(past) == extract(facts) == extract(future)


@settings(deadline=None)  # a busy machine is slow
@given(payments(), st.randoms(use_true_random=False))
def test_order_of_receipts_and_addresses_changes_nothing(
    facts: PaymentFacts, random: Random
) -> None:
    assert facts.recipient
    assert facts.sender

    def shuffled(history: AddressHistory) -> AddressHistory:
        receipts = list(history.receipts)
        random.shuffle(receipts)
        return replace(history, receipts=tuple(receipts))

    other = replace(
        facts,
        recipient=shuffled(facts.recipient),
        sender=tuple(shuffled(own) for own in reversed(facts.sender)),
    )

    assert extract(other) == extract(facts)


@settings(deadline=None)  # a busy machine is slow
@given(payments(), amounts, heights)
def test_cached_measures_give_the_same_features(
    facts: PaymentFacts, amount_sat: int, height: int
) -> None:
    cache = MeasureCache()
    extract(facts, cache)
    assert facts.recipient
    assert facts.sender
    others = [
        replace(facts, amount_sat=amount_sat),
        replace(facts, height=height),
        replace(facts, sender=facts.sender[:1]),
        replace(facts, recipient=AddressHistory(SHOP, facts.recipient.receipts[1:])),
    ]

    assert [extract(other, cache) for other in others] == [extract(other) for other in others]


def test_cache_keeps_the_last_measures_only() -> None:
    cache = MeasureCache(max_size=2)
    calls: list[AddressHistory] = []
    histories = [AddressHistory(bytes([n])) for n in range(3)]

    for history in [*histories, histories[2], histories[0]]:
        cache.get(calls.append, history)

    assert calls == [*histories, histories[0]]


@settings(deadline=None)  # a busy machine is slow
@given(payments())
def test_every_vector_is_finite_or_without_history(facts: PaymentFacts) -> None:
    features = extract(facts)

    assert PAYMENT_RISK.vector(features).shape == (27,)
    assert PAYMENT_RISK.unmet(features) == ()


def by_name(facts: PaymentFacts) -> dict[str, Feature]:
    return {feature.name: feature for feature in extract(facts)}
