"""The result of a scene: a document for programs, and a few lines for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cli.payment_client import Outcome
    from cli.spans.span import Trace

# How each scene has to end.
EXPECTED = {
    "verified_payment": "SUCCEEDED",
    "risky_payment": "REFUSED",
    "unproven_sender": "REFUSED",
    "unguarded_workflow": "REFUSED",
    "crash_recovery": "SUCCEEDED",
}
TOP_FACTORS = 5  # shown to people


@dataclass(frozen=True, slots=True)
class Scene:
    document: dict[str, Any]
    lines: list[str]
    claims: dict[str, bool]  # what has to be true beside the status, and whether it is
    trace: Trace | None = None

    @property
    def name(self) -> str:
        return str(self.document["name"])

    @property
    def failures(self) -> list[str]:
        """The deviations from the expected result; empty if the scene ended as it must."""
        found = [claim for claim, holds in self.claims.items() if not holds]
        status = self.document["status"]
        if status != EXPECTED[self.name]:
            found.insert(0, f"the status is {status}, not {EXPECTED[self.name]}")
        return found


def factors(outcome: Outcome) -> list[dict[str, Any]]:
    """Returns the risk factors of a payment for the demo's document."""
    return [
        {
            "name": factor["name"],
            "kind": factor["kind"].upper(),
            "value": factor["value"],
            "status": factor["status"].upper(),
            "contribution": factor["contribution"],
        }
        for factor in outcome.risk_factors
    ]


def factor_lines(outcome: Outcome) -> list[str]:
    """Returns lines of the factors that moved the score most, with their sign."""
    lines = []
    for factor in factors(outcome)[:TOP_FACTORS]:
        value = factor["status"].lower() if factor["value"] is None else f"{factor['value']:.4g}"
        lines.append(f"    {factor['contribution']:+.2f}  {factor['name']} = {value}")
    return lines
