"""The states of a payment follow from its status, in every order of events."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from mesh.security.payment_intent import parse_payment_id
from services.bitcoin.payment import PaymentState, TxStatus, advance

DEPTH = 6
LIVE = [
    PaymentState.PREPARED,
    PaymentState.BROADCAST,
    PaymentState.UNCONFIRMED_MISSING,
    PaymentState.CONFIRMED,
    PaymentState.CONFLICTED,
]
PAYMENT_ID = "0192f0c1-7d5e-7cc3-98c4-dc0c0c07398f"


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param(
            TxStatus(in_mempool=True), (PaymentState.BROADCAST, False), id="in the mempool"
        ),
        pytest.param(TxStatus(confirmations=1), (PaymentState.CONFIRMED, False), id="in the tip"),
        pytest.param(
            TxStatus(confirmations=5), (PaymentState.CONFIRMED, False), id="one above final"
        ),
        pytest.param(TxStatus(confirmations=6), (PaymentState.SETTLED, True), id="final"),
        pytest.param(
            TxStatus(conflict_depth=1), (PaymentState.CONFLICTED, False), id="spent elsewhere"
        ),
        pytest.param(TxStatus(conflict_depth=6), (PaymentState.CONFLICTED, True), id="for ever"),
    ],
)
def test_status_decides_the_next_state(
    state: PaymentState, status: TxStatus, expected: tuple[PaymentState, bool]
) -> None:
    assert advance(state, status, final_depth=DEPTH) == expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (PaymentState.PREPARED, PaymentState.PREPARED),
        (PaymentState.BROADCAST, PaymentState.UNCONFIRMED_MISSING),
        (PaymentState.UNCONFIRMED_MISSING, PaymentState.UNCONFIRMED_MISSING),
        (PaymentState.CONFIRMED, PaymentState.UNCONFIRMED_MISSING),
        (PaymentState.CONFLICTED, PaymentState.UNCONFIRMED_MISSING),
    ],
)
def test_payment_that_was_seen_and_is_not_now_is_missing(
    state: PaymentState, expected: PaymentState
) -> None:
    assert advance(state, TxStatus(), final_depth=DEPTH) == (expected, False)


@given(st.sampled_from(LIVE), st.integers(0, 20), st.integers(0, 20), st.booleans())
def test_payment_becomes_final_only_at_the_final_depth(
    state: PaymentState, confirmations: int, conflict_depth: int, in_mempool: bool
) -> None:
    status = TxStatus(
        confirmations=confirmations, conflict_depth=conflict_depth, in_mempool=in_mempool
    )

    _, is_final = advance(state, status, final_depth=DEPTH)

    assert is_final == (confirmations >= DEPTH or (not confirmations and conflict_depth >= DEPTH))


def test_payment_id_is_a_canonical_uuid7() -> None:
    assert parse_payment_id(PAYMENT_ID, field="request_id") == PAYMENT_ID


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("payment-1", id="no UUID"),
        pytest.param(str(uuid.UUID(int=0)), id="nil"),
        pytest.param("0192f0c1-7d5e-4cc3-98c4-dc0c0c07398f", id="version 4"),
        pytest.param(PAYMENT_ID.upper(), id="upper case"),
        pytest.param(PAYMENT_ID.replace("-", ""), id="without dashes"),
        pytest.param("{" + PAYMENT_ID + "}", id="in braces"),
    ],
)
def test_any_other_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        parse_payment_id(text, field="payment_id")

    assert refusal.value.field == "payment_id"
