"""The record of a payment, stored in the service's own decentralized web node for the payer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rfc8785

from formats import canonical_json
from mesh.errors import InvalidArgument
from services.web5.dwn import values
from services.web5.dwn.records_write import MAX_INLINE_BYTES

if TYPE_CHECKING:
    from services.web5.dwn.values import Value

PROTOCOL = "https://anya.internal/protocols/payment"
PATH = "payment"
SCHEMA = "https://anya.internal/schemas/payment"
DATA_FORMAT = "application/json"

# Without $actions only the tenant writes. A record's recipient, the payer, may always read it.
DEFINITION: Value = {
    "protocol": PROTOCOL,
    "published": True,
    "types": {PATH: {"schema": SCHEMA, "dataFormats": [DATA_FORMAT]}},
    "structure": {
        PATH: {
            "$size": {"max": MAX_INLINE_BYTES},
            "$tags": {
                "$requiredTags": ["requestId"],
                "requestId": {"type": "string"},
                "paymentId": {"type": "string"},
            },
        }
    },
}


def document(transaction: Value) -> bytes:
    """Returns the record's data, RFC 8785 JSON in which integral numbers are integers.

    Raises InvalidArgument if it exceeds 30,000 bytes or contains a number that is not finite.
    """
    try:
        data = canonical_json.dumps(values.normal(transaction))
    except (values.MalformedError, rfc8785.CanonicalizationError) as error:
        raise InvalidArgument(f"transaction_data: {error}", field="transaction_data") from None
    if len(data) > MAX_INLINE_BYTES:
        raise InvalidArgument(
            f"transaction_data must be at most {MAX_INLINE_BYTES} bytes of JSON, not {len(data)}",
            field="transaction_data",
        )
    return data


def tags(request_id: str, payment_id: str) -> Value:
    """Returns the tags of a record, which make it unique even if its data is not.

    ``payment_id`` may be empty.
    """
    return {"requestId": request_id} | ({"paymentId": payment_id} if payment_id else {})
