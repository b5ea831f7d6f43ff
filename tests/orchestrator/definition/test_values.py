"""Messages become JSON and come back without loss."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from anya.bitcoin.v1 import analysis_pb2, wallet_pb2
from anya.mesh.v1.attestation_pb2 import Attestation, RunContext
from anya.mesh.v1.features_pb2 import Feature, FeatureVector
from anya.ml.v1 import risk_pb2
from services.orchestrator.definition import values

TXID = bytes(range(32))

FEATURES = st.builds(
    FeatureVector,
    feature_set=st.text(),
    feature_set_hash=st.binary(max_size=40),
    features=st.lists(
        st.builds(
            Feature,
            name=st.text(),
            value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
            status=st.integers(0, 4),
        ),
        max_size=4,
    ),
    as_of_block_hash=st.binary(min_size=32, max_size=32),
    as_of_height=st.integers(0, 2**32 - 1),
    index_at_tip=st.booleans(),
)


@given(FEATURES)
def test_message_survives_round_trip_byte_for_byte(features: FeatureVector) -> None:
    copy = FeatureVector()

    values.fill(copy, values.to_json(features))

    assert copy.SerializeToString(deterministic=True) == features.SerializeToString(
        deterministic=True
    )


def test_reply_has_names_and_words_of_workflows() -> None:
    reply = wallet_pb2.SendPaymentResponse(
        payment_id="p", txid=TXID, status=wallet_pb2.SEND_OUTCOME_SUCCESS, fee_sat=2**60
    )

    assert values.to_json(reply) == {
        "payment_id": "p",
        "txid": TXID[::-1].hex(),
        "status": "success",
        "fee_sat": 2**60,
    }


def test_absent_field_is_null() -> None:
    assessed = values.to_json(risk_pb2.AssessFraudRiskResponse())

    assert assessed["risk_score"] is None
    assert assessed["risk_factors"] == []
    assert assessed["decision"] == "unspecified"


def test_renamed_fields_and_free_objects_are_written() -> None:
    request = wallet_pb2.SendPaymentRequest()

    values.fill(request, {"amount": 7, "metadata": {"a": [1, None, {"b": 0.5}], "n": 2**60}})

    assert request.amount_sat == 7
    assert values.from_struct(request.metadata) == {"a": [1, None, {"b": 0.5}], "n": str(2**60)}


def test_fields_of_the_engine_are_left_out() -> None:
    reply = analysis_pb2.ExtractPaymentFeaturesResponse(attestations=[Attestation(kind="x")])

    assert values.to_json(reply).keys() == {"features"}
    with pytest.raises(values.MismatchError, match="context must be left out"):
        values.fill(wallet_pb2.SendPaymentRequest(context=RunContext()), {"context": {}})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"amount": 7.0}, "amount must be an integer"),
        ({"amount": True}, "amount must be an integer"),
        ({"amount": 2**63}, "amount must be from"),
        ({"amount": None}, "amount must be an integer"),
        ({"from_address": 7}, "from_address must be a string"),
        ({"metadata": "x"}, "metadata must be an object"),
        ({"unknown": 1}, "unknown must be left out"),
        ([], "must be an object"),
    ],
    ids=str,
)
def test_mismatch_names_the_member(value: Any, message: str) -> None:
    with pytest.raises(values.MismatchError, match=message):
        values.fill(wallet_pb2.SendPaymentRequest(), value)


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**53), 2**53)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
            max_leaves=10,
        ),
        max_size=5,
    )
)
def test_free_object_survives_round_trip(value: dict[str, Any]) -> None:
    struct = Struct()

    values.fill_struct(struct, value)

    assert values.from_struct(struct) == value
