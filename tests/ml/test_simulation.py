"""Simulated worlds: their plans are valid on a chain, and features use earlier blocks only."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from random import Random

import pytest

from features.payment_risk import PAYMENT_RISK, RecipientLink, extract
from services.ml.simulation.demonstration import at_tip, illicit_recipient, licit_recipient
from services.ml.simulation.index import proposals, script
from services.ml.simulation.parameters import draw
from services.ml.simulation.plan import DUST_SAT, FUNDING_SLOT, MATURITY_BLOCKS, Coin, Plan
from services.ml.simulation.population import demo_world, training_world
from services.ml.simulation.truth import ILLICIT, LOOKALIKES, ActorKind, World

SEED = 31_415  # in no split of a released model


@cache
def training() -> World:
    return training_world(SEED)


@cache
def demo() -> World:
    return demo_world()


@pytest.fixture(params=["training", "demo"])
def world(request: pytest.FixtureRequest) -> World:
    return training() if request.param == "training" else demo()


def test_seed_determines_the_world() -> None:
    assert demo_world() == demo()
    assert demo_world(8) != demo()


def test_blocks_are_consecutive_and_contain_each_transaction_once(world: World) -> None:
    plan = world.plan

    assert [block.height for block in plan.blocks] == list(range(1, plan.tip + 1))
    assert [i for block in plan.blocks for i in block.transactions] == list(
        range(len(plan.transactions))
    )
    for block in plan.blocks:
        coinbase, *others = (plan.transactions[i] for i in block.transactions)
        assert coinbase.inputs == ()
        assert [output.slot for output in coinbase.outputs] == [FUNDING_SLOT]
        assert all(other.inputs and other.height == block.height for other in others)


def test_every_input_is_an_unspent_output_of_an_earlier_block(world: World) -> None:
    spent: set[Coin] = set()
    for planned in world.plan.transactions:
        for coin in planned.inputs:
            origin = world.plan.transactions[coin.transaction]
            assert coin not in spent
            assert origin.height < planned.height
            assert coin.vout < len(origin.outputs)
            spent.add(coin)


def test_only_mature_coinbases_without_fees_are_spent(world: World) -> None:
    size = {block.height: len(block.transactions) for block in world.plan.blocks}
    for planned in world.plan.transactions:
        for coin in planned.inputs:
            origin = world.plan.transactions[coin.transaction]
            if not origin.inputs:
                assert size[origin.height] == 1
                assert planned.height - origin.height >= MATURITY_BLOCKS


def test_every_transaction_pays_a_fee_and_has_no_dust(world: World) -> None:
    for planned in world.plan.transactions:
        if planned.inputs:
            paid = sum(output.amount_sat for output in planned.outputs)
            virtual_bytes = 11 + 68 * len(planned.inputs) + 31 * len(planned.outputs)
            fee = value(world.plan, planned.inputs) - paid
            assert 2 * virtual_bytes <= fee <= 200 * virtual_bytes + DUST_SAT
        assert all(output.amount_sat >= DUST_SAT for output in planned.outputs)


def test_index_has_exactly_the_unspent_coins_of_the_plan(world: World) -> None:
    index = at_tip(world)
    spent = {coin for planned in world.plan.transactions for coin in planned.inputs}
    left = Counter[int]()
    for number, planned in enumerate(world.plan.transactions):
        for vout, output in enumerate(planned.outputs):
            if Coin(number, vout) not in spent:
                left[output.slot] += output.amount_sat

    held = {
        slot: sum(r.amount_sat for r in index.history(slot).receipts if r.spend is None)
        for slot in range(world.plan.slots)
    }

    assert held == {slot: left[slot] for slot in range(world.plan.slots)}


def test_features_of_a_payment_use_only_earlier_blocks(world: World) -> None:
    late = at_tip(world)
    sample = set(Random(0).sample(range(len(world.truth.payments)), 150))  # noqa: S311

    for number, (payment, index) in enumerate(proposals(world)):
        if number in sample:
            facts = replace(late.facts(payment), height=payment.height - 1)
            assert index.height == payment.height - 1
            assert extract(facts) == extract(index.facts(payment))


def test_payment_is_made_as_proposed(world: World) -> None:
    for payment in world.truth.payments:
        planned = world.plan.transactions[payment.transaction]
        origins = {
            world.plan.transactions[coin.transaction].outputs[coin.vout].slot
            for coin in planned.inputs
        }
        assert planned.outputs[0] == (payment.recipient_slot, payment.amount_sat)
        assert planned.height == payment.height
        assert origins <= set(payment.sender_slots)


def test_label_depends_on_the_recipient_and_not_on_the_pattern() -> None:
    world = training()

    assert {p.recipient for p in world.truth.payments} >= LOOKALIKES - {ActorKind.EMPLOYER}
    for payment in world.truth.payments:
        owner = world.truth.owners[payment.recipient_slot]
        sender = world.truth.owners[payment.sender_slots[0]]
        assert payment.fraud == (owner in ILLICIT or payment.stolen)
        assert sender not in ILLICIT


def test_parameters_of_worlds_are_within_their_bounds() -> None:
    drawn = [draw(Random(seed)) for seed in range(300)]  # noqa: S311

    assert all(0.05 <= habits.reuse <= 0.8 for habits in drawn)
    assert all(0.005 <= habits.illicit_share <= 0.10 for habits in drawn)
    assert min(habits.reuse for habits in drawn) < 0.1 < 0.7 < max(h.reuse for h in drawn)
    assert max(h.illicit_share for h in drawn) > 10 * min(h.illicit_share for h in drawn)


def test_demonstration_fits_on_a_fresh_regtest_chain() -> None:
    plan = demo().plan
    made = [planned for planned in plan.transactions if planned.inputs]

    assert plan.tip == pytest.approx(300, abs=10)
    assert len(made) == pytest.approx(1_200, abs=200)
    assert max(len(planned.inputs) for planned in made) <= 100


def test_no_planned_transaction_spends_an_output_of_the_payers_wallet() -> None:
    plan = demo().plan
    by_payer = {i for i, planned in enumerate(plan.transactions) if planned.by_payer}

    needed = {coin.transaction for planned in plan.transactions for coin in planned.inputs}

    assert 2 <= len(by_payer) <= 4
    assert not by_payer & needed


def test_payer_has_enough_coins_for_the_scenes() -> None:
    world = demo()
    assert world.plan.payer_slot is not None

    receipts = at_tip(world).history(world.plan.payer_slot).receipts

    assert len(receipts) >= 5
    assert sum(r.amount_sat for r in receipts if r.spend is None) >= 200_000_000


def test_scenes_have_a_popular_shop_and_a_scam_with_receipts() -> None:
    world = demo()
    shop, scam = licit_recipient(world), illicit_recipient(world)
    index = at_tip(world)

    assert world.truth.owners[shop] is ActorKind.MERCHANT
    assert world.truth.owners[scam] is ActorKind.SCAM
    assert len(index.history(shop).receipts) >= 20
    assert len(index.history(scam).receipts) >= 5
    assert not world.truth.links


def test_swapped_proposal_changes_only_the_recipient() -> None:
    world = training()
    payment, index = next((p, i) for p, i in proposals(world) if p.height > 200)
    scam = world.truth.owners.index(ActorKind.SCAM)

    facts = index.facts(payment, recipient_slot=scam, link=7)

    own = index.facts(payment)
    assert facts == replace(own, recipient=index.history(scam), recipient_link=RecipientLink(7))
    assert facts.recipient
    assert facts.recipient.script == script(scam)


def test_senders_addresses_are_those_linked_before_the_payment() -> None:
    for payment in training().truth.payments:
        assert len(payment.sender_slots) == len(payment.sender_link_heights)
        assert max(payment.sender_link_heights) <= payment.height


def test_vectors_have_all_required_features() -> None:
    for payment, index in proposals(demo()):
        features = extract(index.facts(payment))
        assert PAYMENT_RISK.unmet(features) == ()


def value(plan: Plan, coins: tuple[Coin, ...]) -> int:
    return sum(plan.transactions[coin.transaction].outputs[coin.vout].amount_sat for coin in coins)
