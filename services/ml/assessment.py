"""The assessment of one proposed payment: its score, if there is one, and its explanation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from features.feature import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from features.feature import Feature, FeatureSet


class ReasonCode(IntEnum):
    """The reason for which a payment is not accepted, numbered as anya.ml.v1.RiskReasonCode."""

    FEATURE_SET_MISMATCH = 1
    INDEX_BEHIND = 2
    FEATURE_UNAVAILABLE = 3
    FEATURE_OUTSIDE_MAX_AGE = 4
    SCORE_OVER_THRESHOLD = 5
    RULE_REVIEWS = 6
    RULE_REFUSES = 7


@dataclass(frozen=True, slots=True)
class RiskReason:
    """One reason, with a text for people."""

    code: ReasonCode
    detail: str


class RiskDecision(IntEnum):
    """A decision on a payment, ordered by strictness; the strictest of several applies."""

    ACCEPT = 1
    REVIEW = 2
    REFUSE = 3


UNMET = {
    Status.UNAVAILABLE: ReasonCode.FEATURE_UNAVAILABLE,
    Status.OUTSIDE_MAX_AGE: ReasonCode.FEATURE_OUTSIDE_MAX_AGE,
}
RULED = {RiskDecision.REVIEW: ReasonCode.RULE_REVIEWS, RiskDecision.REFUSE: ReasonCode.RULE_REFUSES}


@dataclass(frozen=True, slots=True)
class ModelFactor:
    """The contribution of one feature to the score, in log-odds."""

    feature: Feature
    contribution: float


@dataclass(frozen=True, slots=True)
class RuleFactor:
    """The decision of one rule on one value; the value is None if it is unknown."""

    name: str
    value: float | None
    decision: RiskDecision
    note: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's prediction for one row of features."""

    risk_score: float
    over_threshold: bool  # probability p >= threshold tau of the version
    baseline: float  # log-odds
    contributions: npt.NDArray[np.float64]  # [features], log-odds
    out_of_range: int  # features outside their range in training


@dataclass(frozen=True, slots=True)
class Assessment:
    risk_score: float | None
    decision: RiskDecision
    reasons: tuple[RiskReason, ...]
    model_factors: tuple[ModelFactor, ...]  # largest absolute contribution first
    rule_factors: tuple[RuleFactor, ...]
    baseline: float
    out_of_range: int


def obstacles(
    features: Sequence[Feature],
    feature_set: FeatureSet,
    *,
    name: str,
    hash: bytes,
    index_at_tip: bool,
) -> tuple[RiskReason, ...]:
    """Returns the reasons for which there can be no score, or an empty tuple if there can."""
    if name != feature_set.name or hash.hex() != feature_set.hash:
        detail = f"the model takes {feature_set.name} {feature_set.hash[:12]}"
        return (RiskReason(ReasonCode.FEATURE_SET_MISMATCH, detail),)
    if tuple(feature.name for feature in features) != feature_set.names:
        detail = f"the features are not those of {feature_set.name}, in its order"
        return (RiskReason(ReasonCode.FEATURE_SET_MISMATCH, detail),)
    reasons = [
        RiskReason(UNMET[feature.status], feature.name) for feature in feature_set.unmet(features)
    ]
    if not index_at_tip:
        detail = "the index has not reached the chain's tip"
        reasons.insert(0, RiskReason(ReasonCode.INDEX_BEHIND, detail))
    return tuple(reasons)


def assess(
    features: Sequence[Feature],
    prediction: Prediction | None,
    obstacles: tuple[RiskReason, ...],
    rules: Iterable[RuleFactor],
) -> Assessment:
    """Returns the assessment by model and rules; without a prediction it is REVIEW or REFUSE.

    ``obstacles`` are the reasons for which there is no prediction.
    """
    rule_factors = tuple(rules)
    strictest = max((rule.decision for rule in rule_factors), default=RiskDecision.ACCEPT)
    reasons = [*obstacles]
    reasons += [
        RiskReason(RULED[rule.decision], f"{rule.name} ({rule.note})")
        for rule in rule_factors
        if rule.decision is not RiskDecision.ACCEPT
    ]
    if prediction is None:
        decision = max(strictest, RiskDecision.REVIEW)
        return Assessment(None, decision, tuple(reasons), _unscored(features), rule_factors, 0.0, 0)
    if prediction.over_threshold:
        detail = f"the score {prediction.risk_score:.3f} is over the threshold"
        reasons.append(RiskReason(ReasonCode.SCORE_OVER_THRESHOLD, detail))
    by_model = RiskDecision.REFUSE if prediction.over_threshold else RiskDecision.ACCEPT
    decision = max(strictest, by_model)
    return Assessment(
        prediction.risk_score,
        decision,
        tuple(reasons),
        _ranked(features, prediction.contributions),
        rule_factors,
        prediction.baseline,
        prediction.out_of_range,
    )


def _ranked(
    features: Sequence[Feature], contributions: npt.NDArray[np.float64]
) -> tuple[ModelFactor, ...]:
    order = np.argsort(-np.abs(contributions), kind="stable")
    return tuple(ModelFactor(features[at], float(contributions[at])) for at in order)


def _unscored(features: Sequence[Feature]) -> tuple[ModelFactor, ...]:
    """Returns the features without a value; known features do not explain a missing score."""
    return tuple(
        ModelFactor(feature, 0.0)
        for feature in features
        if feature.status in (Status.UNAVAILABLE, Status.OUTSIDE_MAX_AGE)
    )
