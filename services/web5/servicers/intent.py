"""The payment intent in the context of a request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mesh.errors import InvalidArgument, Reason
from mesh.security.address_link import CHAINS
from mesh.security.attestation import payment_digest

if TYPE_CHECKING:
    from anya.mesh.v1.attestation_pb2 import PaymentIntent

ADDRESS = re.compile(r"[0-9A-Za-z]{14,90}")


def parse_intent(intent: PaymentIntent) -> bytes:
    """Returns the digest of an intent. Raises InvalidArgument (INTENT_INVALID) if it is invalid."""
    if not intent.ByteSize():
        raise InvalidArgument(
            "the request has no payment intent; this method is for the steps of payments",
            reason=Reason.INTENT_INVALID,
            field="intent",
        )
    if intent.network not in CHAINS:
        raise _invalid("network", f"one of {', '.join(CHAINS)}")
    for field in ("sender_address", "recipient_address"):
        if not ADDRESS.fullmatch(getattr(intent, field)):
            raise _invalid(field, "an address")
    return payment_digest(intent)


def _invalid(field: str, what: str) -> InvalidArgument:
    return InvalidArgument(
        f"{field} of the payment intent must be {what}",
        reason=Reason.INTENT_INVALID,
        field=f"intent.{field}",
    )
