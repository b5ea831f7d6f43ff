"""The values of a payment: each is refused by its field if it cannot be paid."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anya.mesh.v1.attestation_pb2 import PaymentIntent
from formats.money import MAX_SAT
from mesh.errors import FailedPrecondition, InvalidArgument, MeshError, Reason
from mesh.security.attestation import payment_digest
from mesh.security.payment_intent import parse_intent

PAID: dict[str, Any] = {
    "network": "regtest",
    "payment_id": "0192f0c1-7d5e-7cc3-98c4-dc0c0c07398f",
    "sender_did": "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
    "sender_address": "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080",
    "recipient_address": "bcrt1q6rz28mcfaxtmd6v789l9rrlrusdprr9pz3cppk",
    "amount_sat": 294,
}
TEXTS = [name for name, value in PAID.items() if isinstance(value, str)]


def test_payable_intent_gives_its_digest() -> None:
    intent = PaymentIntent(**PAID)

    assert parse_intent(intent, "regtest") == payment_digest(intent)


def test_payment_to_the_sender_itself_is_allowed() -> None:
    """It consolidates coins, and its fee is charged."""
    intent = PaymentIntent(**PAID | {"recipient_address": PAID["sender_address"]})

    assert parse_intent(intent, "regtest")


@pytest.mark.parametrize("network", ["main", "signet", "testnet4"])
def test_intent_of_another_network_than_the_mesh_is_refused(network: str) -> None:
    with pytest.raises(InvalidArgument, match=f"must be {network}") as refusal:
        parse_intent(PaymentIntent(**PAID), network)

    assert (refusal.value.reason, refusal.value.field) == (Reason.INTENT_INVALID, "intent.network")


def test_missing_intent_is_refused() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        parse_intent(PaymentIntent(), "regtest", field="payments[3].intent")

    assert refusal.value.reason is Reason.INTENT_INVALID
    assert refusal.value.field == "payments[3].intent"


def test_did_whose_key_is_elsewhere_is_refused() -> None:
    with pytest.raises(FailedPrecondition) as refusal:
        parse_intent(PaymentIntent(**PAID | {"sender_did": "did:web:example.com"}), "regtest")

    assert refusal.value.reason is Reason.DID_METHOD_UNSUPPORTED
    assert refusal.value.field == "intent.sender_did"


@given(amount=st.integers(-(1 << 63), 293) | st.integers(MAX_SAT + 1, (1 << 63) - 1))
def test_amount_that_no_node_relays_is_refused(amount: int) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        parse_intent(PaymentIntent(**PAID | {"amount_sat": amount}), "regtest")

    assert refusal.value.reason is Reason.AMOUNT_INVALID
    assert refusal.value.field == "intent.amount_sat"


@given(
    field=st.sampled_from(TEXTS),
    text=st.text() | st.sampled_from(TEXTS).map(PAID.__getitem__) | st.from_regex("did:(key|jwk):"),
)
def test_any_text_in_any_field_is_payable_or_refused_by_that_field(field: str, text: str) -> None:
    named = f"intent.{field}"
    try:
        assert len(parse_intent(PaymentIntent(**PAID | {field: text}), "regtest")) == 32
    except MeshError as error:
        named = error.field or ""

    assert named == f"intent.{field}"
