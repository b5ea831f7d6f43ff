"""The check that a request matches the payment intent in its run context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.errors import FailedPrecondition, Reason
from mesh.security.attestation import payment_digest

if TYPE_CHECKING:
    from anya.mesh.v1 import attestation_pb2


def agreed_digest(context: attestation_pb2.RunContext, **fields: str | int) -> bytes:
    """Returns the digest of the run's payment intent, whose fields must equal ``fields``.

    Raises FailedPrecondition if there is no intent (PROOF_MISSING) or a field differs
    (PROOF_INVALID).
    """
    if not context.HasField("intent"):
        raise FailedPrecondition(
            "the request carries no payment intent: nothing proves it", reason=Reason.PROOF_MISSING
        )
    intent = context.intent
    differing = [name for name, value in fields.items() if getattr(intent, name) != value]
    if differing:
        raise FailedPrecondition(
            f"the proofs are about another payment: {', '.join(differing)} of the request and of "
            "the intent differ",
            reason=Reason.PROOF_INVALID,
        )
    return payment_digest(intent)
