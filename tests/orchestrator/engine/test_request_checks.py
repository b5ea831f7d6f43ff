"""A run of several payments starts only if each is named, proven, and made once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mesh.errors import InvalidArgument
from services.orchestrator import definition
from services.orchestrator.engine.model import RunState
from services.orchestrator.engine.request_checks import ProvenRequest
from tests.orchestrator.engine.engine_run import EngineRun, paying_several
from tests.orchestrator.multi_payment import BATCH, PAIR, batch_of, intent, pair_of

if TYPE_CHECKING:
    from anya.mesh.v1.attestation_pb2 import PaymentIntent


def starts(given: dict[str, Any], *intents: PaymentIntent, text: str = PAIR) -> RunState:
    return paying_several(text, given, *intents).state


def test_a_payment_that_two_steps_would_make_is_refused_at_the_start() -> None:
    one = intent()

    with pytest.raises(InvalidArgument, match="would be paid by pay1 and again by pay2"):
        starts(pair_of(one, one), one)
    with pytest.raises(InvalidArgument, match=r"each\[0\]/pay and again by each\[1\]/pay"):
        starts(batch_of(one, one), one, text=BATCH)


def test_an_unknown_payment_is_refused_before_payments_are_compared() -> None:
    unknown = {"payment_id": "unknown"}

    with pytest.raises(InvalidArgument, match=r"each\[0\]/verify belongs to payment unknown"):
        starts({"payments": [unknown, unknown]}, intent(), text=BATCH)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"amount_sat": 1}, "payments[1].intent.amount_sat"),
        ({"recipient_address": "other"}, "payments[1].intent.recipient_address"),
        ({"network": "main"}, "payments[1].intent.network"),
        ({"sender_did": ""}, "payments[1].intent.sender_did"),
        ({"payment_id": "5f0c4a8e-9f5b-4c7e-8d57-0d3a7f6f2c11"}, "payments[1].intent.payment_id"),
    ],
    ids=str,
)
def test_an_intent_of_several_that_differs_from_the_input_is_refused(
    change: dict[str, str | int], field: str
) -> None:
    first, second = intent(), intent()
    given = pair_of(first, second)
    for name, value in change.items():
        setattr(second, name, value)

    with pytest.raises(InvalidArgument) as caught:
        starts(given, first, second)

    assert caught.value.field == field


def test_exactly_the_payments_that_the_input_names_must_be_proven() -> None:
    first, second, third = intent(), intent(), intent()
    given = pair_of(first, second)

    for intents in ((), (first,), (first, second, second), (first, second, third)):
        with pytest.raises(InvalidArgument) as caught:
            starts(given, *intents)

        assert (caught.value.field or "").startswith("payments")


def test_a_payment_without_an_id_in_the_input_is_refused() -> None:
    first, second = intent(), intent()
    for id in (7, None, ["x"]):
        given = pair_of(first, second)
        given["second"]["payment_id"] = id

        with pytest.raises(InvalidArgument):
            starts(given, first, second)


def test_a_run_of_several_payments_cannot_have_the_id_of_one() -> None:
    first, second = intent(), intent()
    run = EngineRun(
        definition.load(PAIR),
        pair_of(first, second),
        state=RunState(first.payment_id),
        proven=(ProvenRequest(first, "vp"), ProvenRequest(second, "vp")),
    )

    with pytest.raises(InvalidArgument) as caught:
        run.start()

    assert caught.value.field == "request_id"
