"""The values of a payment, checked before a challenge, a run or a payment begins with them.

Client, web5, orchestrator and bitcoin refuse the same values with the same words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from formats import uuid7
from formats.bitcoin import address as addresses
from formats.bitcoin.dust import dust_threshold
from formats.bitcoin.errors import AddressError, OtherNetworkError
from formats.bitcoin.network import Network
from formats.money import MAX_SAT
from mesh.errors import InvalidArgument, Reason
from mesh.security import did
from mesh.security.attestation import MAX_FIELD_CHARS, payment_digest

if TYPE_CHECKING:
    from anya.mesh.v1.attestation_pb2 import PaymentIntent


def parse_intent(intent: PaymentIntent, network: str, *, field: str = "intent") -> bytes:
    """Returns the digest of an intent of which every value can be paid on this network.

    Raises InvalidArgument, naming the field below ``field``: INTENT_INVALID if the intent is
    missing or of another network, REQUEST_ID_INVALID, DID_INVALID, ADDRESS_INVALID,
    ADDRESS_OF_OTHER_NETWORK or AMOUNT_INVALID. Raises FailedPrecondition (DID_METHOD_UNSUPPORTED)
    if the sender's DID is neither a did:key nor a did:jwk.
    """
    if not intent.ByteSize():
        raise InvalidArgument(
            "there is no payment intent: send the one that BeginVerification is called with",
            reason=Reason.INTENT_INVALID,
            field=field,
        )
    if intent.network != network:
        raise InvalidArgument(
            f"network of the payment intent must be {network}, the network of this mesh",
            reason=Reason.INTENT_INVALID,
            field=f"{field}.network",
        )
    parse_payment_id(intent.payment_id, field=f"{field}.payment_id")
    _check_sender(intent.sender_did, field=f"{field}.sender_did")
    on = Network(network)
    parse_address(intent.sender_address, on, field=f"{field}.sender_address")
    recipient = parse_address(intent.recipient_address, on, field=f"{field}.recipient_address")
    check_amount(intent.amount_sat, recipient, field=f"{field}.amount_sat")
    return payment_digest(intent)


def _check_sender(text: str, *, field: str) -> None:
    did.decode(text, field=field)
    if len(text) > MAX_FIELD_CHARS:
        raise InvalidArgument(
            f"{field} must be at most {MAX_FIELD_CHARS} characters",
            reason=Reason.DID_INVALID,
            field=field,
        )


def parse_payment_id(text: str, *, field: str) -> str:
    """Returns the payment id. Raises InvalidArgument if it is no UUIDv7 in canonical form."""
    if not uuid7.is_canonical(text):
        raise InvalidArgument(
            f"{field} must be a UUIDv7 in lower case, as in 0192f0c1-7d5e-7cc3-98c4-dc0c0c07398f",
            reason=Reason.REQUEST_ID_INVALID,
            field=field,
        )
    return text


def parse_address(address: str, network: Network, *, field: str = "address") -> bytes:
    """Returns the script_pubkey of an address.

    Raises InvalidArgument if the address is malformed (ADDRESS_INVALID) or of another network
    (ADDRESS_OF_OTHER_NETWORK).
    """
    try:
        return addresses.parse_address(address, network)
    except OtherNetworkError as error:
        raise InvalidArgument(
            str(error), reason=Reason.ADDRESS_OF_OTHER_NETWORK, field=field
        ) from None
    except AddressError as error:
        raise InvalidArgument(str(error), reason=Reason.ADDRESS_INVALID, field=field) from None


def check_amount(amount_sat: int, recipient_script: bytes, *, field: str = "amount_sat") -> None:
    """Raises InvalidArgument (AMOUNT_INVALID) if no node relays a payment of this amount."""
    if amount_sat > MAX_SAT:
        raise InvalidArgument(
            f"{field} must be at most {MAX_SAT} (21 million BTC), not {amount_sat}",
            reason=Reason.AMOUNT_INVALID,
            field=field,
        )
    minimum_sat = max(1, dust_threshold(recipient_script))
    if amount_sat < minimum_sat:
        raise InvalidArgument(
            f"{field} must be at least {minimum_sat} for this address, not {amount_sat}: "
            "less is dust, which no node relays",
            reason=Reason.AMOUNT_INVALID,
            field=field,
        )
