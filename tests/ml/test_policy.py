"""The risk policy: its rules review or refuse, and never approve."""

from __future__ import annotations

import pytest

from mesh.settings import ConfigError
from services.ml.assessment import RiskDecision
from services.ml.policy import RiskPolicy, parse

POLICY = parse("""
version: 7
minimum_confidence: 0.6
max_out_of_range: 2
refused_addresses: [bcrt1qlisted]
""")


def strictest(
    policy: RiskPolicy,
    *,
    confidence: float | None = 0.9,
    recipient: str = "bcrt1qother",
    out: int = 0,
) -> RiskDecision:
    factors = policy.judge(confidence=confidence, recipient=recipient, out_of_range=out)
    return max(factor.decision for factor in factors)


def test_payment_without_a_rule_against_it_is_accepted() -> None:
    assert strictest(POLICY) is RiskDecision.ACCEPT


@pytest.mark.parametrize("confidence", [None, 0.59, 0.0])
def test_low_identity_confidence_is_reviewed(confidence: float | None) -> None:
    assert strictest(POLICY, confidence=confidence) is RiskDecision.REVIEW


def test_listed_recipient_is_refused() -> None:
    assert strictest(POLICY, recipient="bcrt1qlisted") is RiskDecision.REFUSE


def test_listed_recipient_is_refused_in_upper_case_too() -> None:
    shouted = parse("{version: 7, refused_addresses: [BCRT1QSHOUTED]}")

    assert strictest(POLICY, recipient="BCRT1QLISTED") is RiskDecision.REFUSE
    assert strictest(shouted, recipient="bcrt1qshouted") is RiskDecision.REFUSE


def test_payment_with_many_features_out_of_range_is_reviewed() -> None:
    assert strictest(POLICY, out=2) is RiskDecision.ACCEPT
    assert strictest(POLICY, out=3) is RiskDecision.REVIEW


def test_every_rule_names_its_policy_version() -> None:
    factors = POLICY.judge(confidence=None, recipient="bcrt1qlisted", out_of_range=9)

    assert all("policy 7" in factor.note for factor in factors)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "version: [",
        "minimum_confidence: 0.5",
        "{version: 1, minimum_confidence: 1.5}",
        "{version: 1, minimum_confidence: true}",
        "{version: 1, max_out_of_range: -1}",
        "{version: 1, refused_addresses: [1]}",
        "{version: 1, unknown: 1}",
    ],
)
def test_service_does_not_start_with_an_invalid_risk_policy(text: str) -> None:
    with pytest.raises(ConfigError, match="risk policy"):
        parse(text)
