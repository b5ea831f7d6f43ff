"""The assessment: the strictest decision applies, and a score needs all required features."""

from __future__ import annotations

import numpy as np
import pytest

from anya.ml.v1 import risk_pb2 as pb
from features.feature import Feature, Status
from features.payment_risk import PAYMENT_RISK
from services.ml.assessment import (
    Assessment,
    Prediction,
    ReasonCode,
    RiskDecision,
    RiskReason,
    RuleFactor,
    assess,
    obstacles,
)

FEATURES = tuple(Feature(name, 1.0, Status.PRESENT) for name in PAYMENT_RISK.names)
COUNT = len(FEATURES)
HASH = bytes.fromhex(PAYMENT_RISK.hash)


def prediction(*, score: float = 0.1, over: bool = False) -> Prediction:
    return Prediction(score, over, -1.0, np.linspace(-1, 0.5, COUNT), 0)


def rule(decision: RiskDecision) -> RuleFactor:
    return RuleFactor("a_rule", 1.0, decision, "because")


def hindered(
    features: tuple[Feature, ...] = FEATURES,
    *,
    name: str = "payment-risk",
    hash: bytes = HASH,
    index_at_tip: bool = True,
) -> tuple[RiskReason, ...]:
    return obstacles(features, PAYMENT_RISK, name=name, hash=hash, index_at_tip=index_at_tip)


def scored(decision: RiskDecision, *, over: bool = False) -> Assessment:
    return assess(FEATURES, prediction(over=over), (), [rule(decision)])


def test_low_score_without_a_rule_against_it_is_accepted() -> None:
    assessment = scored(RiskDecision.ACCEPT)

    assert assessment.decision is RiskDecision.ACCEPT
    assert assessment.risk_score == 0.1


@pytest.mark.parametrize("decision", [RiskDecision.REVIEW, RiskDecision.REFUSE])
def test_rule_decides_without_changing_the_score(decision: RiskDecision) -> None:
    assessment = scored(decision)

    assert assessment.decision is decision
    assert assessment.risk_score == 0.1


def test_score_over_the_threshold_is_refused_and_reported() -> None:
    assessment = scored(RiskDecision.ACCEPT, over=True)

    assert assessment.decision is RiskDecision.REFUSE


def test_missing_prediction_leads_to_review() -> None:
    behind = RiskReason(ReasonCode.INDEX_BEHIND, "...")
    assessment = assess(FEATURES, None, (behind,), [rule(RiskDecision.ACCEPT)])

    assert assessment.risk_score is None
    assert assessment.decision is RiskDecision.REVIEW
    assert assessment.reasons == (behind,)


def test_model_factors_are_ordered_by_size() -> None:
    weights = [abs(factor.contribution) for factor in scored(RiskDecision.ACCEPT).model_factors]

    assert weights == sorted(weights, reverse=True)
    assert len(weights) == COUNT


def test_complete_features_are_no_obstacle() -> None:
    assert hindered() == ()


@pytest.mark.parametrize("status", [Status.UNAVAILABLE, Status.OUTSIDE_MAX_AGE])
def test_unknown_required_feature_is_an_obstacle(status: Status) -> None:
    name = next(entry.name for entry in PAYMENT_RISK.definitions if entry.required)
    features = tuple(
        Feature(name, None, status) if feature.name == name else feature for feature in FEATURES
    )

    assert [reason.detail for reason in hindered(features)] == [name]


def test_feature_with_status_no_history_is_no_obstacle() -> None:
    features = tuple(Feature(name, None, Status.NO_HISTORY) for name in PAYMENT_RISK.names)

    assert hindered(features) == ()


def test_features_of_another_set_are_an_obstacle() -> None:
    assert hindered(name="transaction-risk")
    assert hindered(hash=bytes(32))
    assert hindered(FEATURES[:-1])
    assert hindered(FEATURES[::-1])


def test_index_behind_the_tip_is_an_obstacle() -> None:
    (reason,) = hindered(index_at_tip=False)
    assert reason.code is ReasonCode.INDEX_BEHIND


def test_reason_codes_are_those_of_the_contract() -> None:
    contract = {name: number for name, number in pb.RiskReasonCode.items() if number}

    assert {f"RISK_REASON_CODE_{code.name}": code.value for code in ReasonCode} == contract
