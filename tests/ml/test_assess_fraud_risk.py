"""Risk assessments over gRPC: scores, attestations, rules and retries."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import BadRequest

from anya.mesh.v1 import features_pb2, outbox_pb2
from anya.ml.v1 import risk_pb2 as pb
from features.payment_risk import extract
from mesh.errors import FailedPrecondition, Reason
from mesh.security.attestation import Verifier, payment_digest
from mesh.testing import detail, reason
from services.ml.policy import RiskPolicy
from services.ml.simulation.demonstration import licit_recipient
from tests.ml.conftest import demo, facts, start, to_the_scam, to_the_shop

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.testing import Authority
    from services.ml.config import MlConfig
    from tests.ml.conftest import PaymentAttestors, Running


def codes(reply: pb.AssessFraudRiskResponse) -> list[pb.RiskReasonCode.ValueType]:
    return [reason.code for reason in reply.reasons]


@pytest.fixture
def verifier(config: MlConfig) -> Verifier:
    """A verifier of ml's attestations, as in bitcoin."""
    return Verifier(config.mesh.identity.ca, config.mesh.trust_domain)


async def test_payment_to_a_known_shop_is_accepted(
    running: Running, attestors: PaymentAttestors, verifier: Verifier
) -> None:
    request = attestors.request(to_the_shop())

    reply = await running.assess(request)

    digest = payment_digest(request.context.intent)
    attested = verifier.require(reply.attestations, ["risk"], digest)["risk"]
    assert reply.risk_score < 0.3
    assert reply.decision == pb.RISK_DECISION_ACCEPT
    assert not reply.reasons
    assert attested.values == {
        "score": reply.risk_score,
        "decision": "accept",
        "model": "payment-risk",
        "model_version": reply.model_version,
    }


async def test_same_payment_to_a_scam_is_refused_in_reply_and_attestation(
    running: Running, attestors: PaymentAttestors, verifier: Verifier
) -> None:
    request = attestors.request(to_the_scam(), recipient="bcrt1scam")

    reply = await running.assess(request)

    assert reply.risk_score >= 0.7
    assert reply.decision == pb.RISK_DECISION_REFUSE
    assert pb.RISK_REASON_CODE_SCORE_OVER_THRESHOLD in codes(reply)
    with pytest.raises(FailedPrecondition, match="decision = refuse") as refusal:
        verifier.require(reply.attestations, ["risk"], payment_digest(request.context.intent))
    assert refusal.value.reason is Reason.RISK_TOO_HIGH


async def test_factors_are_ordered_by_size_and_add_up_to_the_score(
    running: Running, attestors: PaymentAttestors
) -> None:
    reply = await running.assess(attestors.request(to_the_scam()))

    model = [f for f in reply.risk_factors if f.kind == pb.RISK_FACTOR_KIND_MODEL]
    sizes = [abs(factor.contribution) for factor in model]
    logit = reply.baseline + sum(factor.contribution for factor in model)
    assert len(model) == 27
    assert sizes == sorted(sizes, reverse=True)
    assert 1 / (1 + np.exp(-logit)) == pytest.approx(reply.risk_score, abs=1e-5)


async def test_missing_required_feature_leads_to_review_without_a_score(
    running: Running, attestors: PaymentAttestors
) -> None:
    unknown = replace(facts(licit_recipient(demo()[0])), recipient=None)

    reply = await running.assess(attestors.request(extract(unknown)))

    assert not reply.HasField("risk_score")
    assert reply.decision == pb.RISK_DECISION_REVIEW
    assert (
        pb.RiskReason(code=pb.RISK_REASON_CODE_FEATURE_UNAVAILABLE, detail="recipient_receipts")
        in reply.reasons
    )
    assert not reply.attestations


async def test_unknown_link_of_the_recipient_does_not_prevent_a_score(
    running: Running, attestors: PaymentAttestors
) -> None:
    unlinked = replace(facts(licit_recipient(demo()[0])), recipient_link=None)

    reply = await running.assess(attestors.request(extract(unlinked)))

    assert reply.HasField("risk_score")


async def test_index_behind_the_tip_prevents_a_score(
    running: Running, attestors: PaymentAttestors
) -> None:
    reply = await running.assess(attestors.request(to_the_shop(), index_at_tip=False))

    assert not reply.HasField("risk_score")
    assert reply.decision == pb.RISK_DECISION_REVIEW
    assert pb.RISK_REASON_CODE_INDEX_BEHIND in codes(reply)


def rename_set(vector: features_pb2.FeatureVector) -> None:
    vector.feature_set = "payment-risk-2"


def change_hash(vector: features_pb2.FeatureVector) -> None:
    vector.feature_set_hash = bytes(32)


def reverse_order(vector: features_pb2.FeatureVector) -> None:
    swapped = list(vector.features)[::-1]
    del vector.features[:]
    vector.features.extend(swapped)


def drop_one(vector: features_pb2.FeatureVector) -> None:
    del vector.features[-1]


@pytest.mark.parametrize("change", [rename_set, change_hash, reverse_order, drop_one])
async def test_attested_features_of_another_set_prevent_a_score(
    running: Running,
    attestors: PaymentAttestors,
    change: Callable[[features_pb2.FeatureVector], None],
) -> None:
    request = attestors.request(to_the_shop())
    change(request.features)

    reply = await running.assess(attestors.attest(request))

    assert not reply.HasField("risk_score")
    assert reply.decision == pb.RISK_DECISION_REVIEW
    assert pb.RISK_REASON_CODE_FEATURE_SET_MISMATCH in codes(reply)


async def test_features_altered_after_attestation_are_refused(
    running: Running, attestors: PaymentAttestors
) -> None:
    request = attestors.request(to_the_scam())
    request.features.features[0].value = 0.0

    assert await refusal(running, request) == ("FAILED_PRECONDITION", "PROOF_INVALID")


async def test_features_attested_for_another_payment_are_refused(
    running: Running, attestors: PaymentAttestors
) -> None:
    request, other = attestors.request(to_the_shop()), attestors.request(to_the_shop())
    del request.context.attestations[:]
    request.context.attestations.extend(other.context.attestations)

    assert await refusal(running, request) == ("FAILED_PRECONDITION", "PROOF_INVALID")


async def test_features_attested_by_web5_are_refused(
    running: Running, attestors: PaymentAttestors
) -> None:
    request = replace(attestors, bitcoin=attestors.web5).request(to_the_shop())

    assert await refusal(running, request) == ("FAILED_PRECONDITION", "PROOF_INVALID")


async def test_request_without_attestations_is_refused(
    running: Running, attestors: PaymentAttestors
) -> None:
    request = attestors.request(to_the_shop())
    del request.context.attestations[:]

    assert await refusal(running, request) == ("FAILED_PRECONDITION", "PROOF_MISSING")


@pytest.mark.parametrize(
    ("name", "value"),
    [("amount_sat", 1), ("recipient_address", "bcrt1other"), ("sender_did", "did:key:other")],
)
async def test_request_that_differs_from_its_intent_is_refused(
    running: Running, attestors: PaymentAttestors, name: str, value: Any
) -> None:
    request = attestors.request(to_the_shop())
    setattr(request, name, value)

    assert await refusal(running, request) == ("FAILED_PRECONDITION", "PROOF_INVALID")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
async def test_feature_value_that_is_not_finite_is_refused(
    running: Running, attestors: PaymentAttestors, value: float
) -> None:
    request = attestors.request(to_the_shop())
    request.features.features[1].value = value

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.assess(attestors.attest(request))

    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert detail(refused.value, BadRequest).field_violations[0].field == "features"


async def test_low_identity_confidence_is_reviewed_at_any_score(
    running: Running, attestors: PaymentAttestors, verifier: Verifier
) -> None:
    request = attestors.request(to_the_shop(), confidence=0.2)

    reply = await running.assess(request)

    assert reply.risk_score < 0.3
    assert reply.decision == pb.RISK_DECISION_REVIEW
    digest = payment_digest(request.context.intent)
    with pytest.raises(FailedPrecondition, match="decision = review"):
        verifier.require(reply.attestations, ["risk"], digest)


@pytest.mark.parametrize("confidence", [True, "0.95", None, 10**400], ids=lambda v: str(v)[:5])
async def test_attested_confidence_of_a_wrong_type_is_none(
    running: Running, attestors: PaymentAttestors, confidence: Any
) -> None:
    request = attestors.attest(attestors.request(to_the_shop()), confidence=confidence)

    reply = await running.assess(request)

    assert reply.decision == pb.RISK_DECISION_REVIEW


async def test_address_on_the_operators_list_is_refused_at_any_score(
    config: MlConfig, authority: Authority, attestors: PaymentAttestors
) -> None:
    listed = replace(config, policy=RiskPolicy(refused_addresses=frozenset({"bcrt1listed"})))
    async with start(listed, authority) as running:
        reply = await running.assess(attestors.request(to_the_shop(), recipient="bcrt1listed"))

    assert reply.risk_score < 0.3
    assert reply.decision == pb.RISK_DECISION_REFUSE


async def test_retry_returns_the_first_reply_without_a_second_assessment(
    running: Running, attestors: PaymentAttestors
) -> None:
    request = attestors.request(to_the_shop())

    first, second = await running.assess(request), await running.assess(request)

    events = await running.outbox.ReadOutbox(outbox_pb2.ReadOutboxRequest(), timeout=5)
    assert second == first
    assert len(events.entries) == 1
    event = events.entries[0].event
    assert event.type == "ml.risk.assessed"
    assert json.loads(event.binary_data or event.text_data)["decision"] == "accept"


async def test_reply_to_a_request_survives_a_restart(
    config: MlConfig, authority: Authority, attestors: PaymentAttestors
) -> None:
    request = attestors.request(to_the_shop())
    async with start(config, authority) as running:
        first = await running.assess(request)

    async with start(config, authority) as running:
        again = await running.assess(request)

    assert again == first


async def test_request_id_of_another_payment_is_refused(
    running: Running, attestors: PaymentAttestors
) -> None:
    first, second = attestors.request(to_the_shop()), attestors.request(to_the_scam())
    second.request_id = first.request_id
    await running.assess(first)

    assert (await refusal(running, second))[0] == "ALREADY_EXISTS"


async def test_client_may_not_request_assessments(
    running: Running, attestors: PaymentAttestors
) -> None:
    as_client = replace(running, orchestrator=running.client)
    request = attestors.request(to_the_shop())
    request.request_id = str(uuid.uuid4())

    code, _ = await refusal(as_client, request)

    assert code == "PERMISSION_DENIED"


async def refusal(running: Running, request: pb.AssessFraudRiskRequest) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.assess(request)
    return refused.value.code().name, reason(refused.value)
