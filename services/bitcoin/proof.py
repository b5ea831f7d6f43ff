"""The rules that the attestations of a payment must meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.errors import FailedPrecondition, PermissionDenied, Reason
from mesh.security import assurance

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from mesh.security.attestation import Verified
    from mesh.security.trust import Bounds
    from services.bitcoin.payment import PaymentRequest


def check_amount_limit(request: PaymentRequest, bounds: Bounds) -> None:
    """Raises PermissionDenied (AMOUNT_LIMIT_EXCEEDED) if the amount is above the grant's limit."""
    if bounds.max_amount_sat is not None and request.amount_sat > bounds.max_amount_sat:
        raise PermissionDenied(
            f"{bounds.boundary} grants at most {bounds.max_amount_sat} sat in one payment, "
            f"not {request.amount_sat}",
            reason=Reason.AMOUNT_LIMIT_EXCEEDED,
        )


def check_attestations(proofs: Mapping[str, Verified], bounds: Bounds) -> datetime | None:
    """Returns the moment at which the first of the verified attestations expires, None if never.

    Raises FailedPrecondition if the identity is less assured than the grant demands
    (PROOF_INVALID), or if together they do not meet the grant's condition (RISK_TOO_HIGH).
    """
    least = bounds.minimum_assurance
    if least is not None and not assurance.meets(proofs["identity"].values.get("assurance"), least):
        raise FailedPrecondition(
            f"the identity is not assured enough: {bounds.boundary} demands {least} at least",
            reason=Reason.PROOF_INVALID,
        )
    values = {kind: dict(proof.values) for kind, proof in proofs.items()}
    if bounds.condition is not None and not bounds.condition.holds(values):
        raise FailedPrecondition(
            f"the attestations do not meet {bounds.condition.text!r}; seen: "
            f"{_show(values, bounds.condition.kinds)}",
            reason=Reason.RISK_TOO_HIGH,
        )
    return min((proof.expires_at for proof in proofs.values()), default=None)


def _show(values: Mapping[str, Mapping[str, object]], kinds: frozenset[str]) -> str:
    """Formats the numbers and booleans of the condition's kinds; texts may be personal data."""
    seen = [
        f"{kind}.{name} = {value}"
        for kind in sorted(kinds & values.keys())
        for name, value in sorted(values[kind].items())
        if isinstance(value, bool | int | float)
    ]
    return ", ".join(seen) or "nothing"
