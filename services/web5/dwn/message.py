"""A DWN message: a descriptor of the request, and its author's signature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.web5.dwn import cid, jws, protocol, schemas, timestamp, values
from services.web5.dwn.errors import Code, DwnError, NotSupportedError, UnauthorizedError

if TYPE_CHECKING:
    from datetime import datetime

    from services.web5.dwn.jws import Signature
    from services.web5.dwn.values import Value
    from services.web5.proof import Signer

MAX_MESSAGE_BYTES = 64 * 1024  # of JSON

# Parts of the profile that this node does not serve.
UNSERVED_METHODS = ("RecordsSubscribe", "MessagesQuery", "MessagesRead", "MessagesSubscribe")
UNSERVED_MEMBERS = ("attestation", "encryption")
UNSERVED_AUTHORIZATION = ("ownerSignature", "authorDelegatedGrant", "ownerDelegatedGrant")
UNSERVED_PAYLOAD = ("permissionGrantId", "delegatedGrantId", "attestationCid", "encryptionCid")


@dataclass(frozen=True, slots=True)
class Message:
    """A message whose form, timestamp and descriptor CID are valid; its signature is unverified."""

    raw: bytes  # as received
    value: dict[str, Value]
    cid: str
    signature: Signature | None

    @property
    def kind(self) -> str:
        """Interface and method: ``"RecordsWrite"``."""
        return f"{self.descriptor['interface']}{self.descriptor['method']}"

    @property
    def descriptor(self) -> dict[str, Any]:
        descriptor: dict[str, Any] = self.value["descriptor"]
        return descriptor

    @property
    def timestamp(self) -> str:
        moment: str = self.descriptor["messageTimestamp"]
        return moment

    @property
    def author(self) -> str | None:
        """The DID named in the signature; ``authenticate`` verifies it."""
        return self.signature.did if self.signature else None

    @property
    def recency(self) -> tuple[str, str]:
        """The order of messages about one record or protocol: the greatest is the newest.

        The CID breaks ties between equal timestamps, so that all nodes agree.
        """
        return (self.timestamp, self.cid)

    def authenticate(self) -> None:
        """Raises UnauthorizedError if the signature is missing or not valid."""
        if self.signature is None:
            raise UnauthorizedError(Code.AUTHENTICATE_JWS_MISSING, "Missing JWS.")
        self.signature.verify()


def parse(raw: bytes, now: datetime) -> Message:
    """Parses and checks a message; ``now`` bounds its timestamp.

    Raises ``values.MalformedError`` if it is not JSON, and DwnError if it is not a valid message of
    a method that this node serves.
    """
    value = values.parse(raw)
    kind = _kind(value)
    _refuse_unserved(value)
    schemas.check_message(kind, value)
    descriptor = value["descriptor"]
    timestamp.check_message(descriptor["messageTimestamp"], now)
    signature = None
    if "authorization" in value:
        signature = jws.parse(value["authorization"]["signature"])
        _check_payload(kind, signature.payload, descriptor)
    return Message(raw, value, cid.of_message(value), signature)


def restore(raw: bytes, message_cid: str) -> Message:
    """Parses a stored message, which was checked before it was stored."""
    value = values.parse(raw)
    signed = "authorization" in value
    signature = jws.parse(value["authorization"]["signature"]) if signed else None
    return Message(raw, value, message_cid, signature)


def create(descriptor: dict[str, Value], signer: Signer | None = None) -> bytes:
    """Returns the JSON of a message with this descriptor, unsigned if ``signer`` is None."""
    message: dict[str, Value] = {"descriptor": descriptor}
    if signer is not None:
        payload = {"descriptorCid": cid.of_value(descriptor)}
        message["authorization"] = {"signature": jws.sign(payload, signer)}
    return values.dump(message)


def _kind(value: Value) -> str:
    descriptor = value.get("descriptor") if isinstance(value, dict) else None
    named = descriptor if isinstance(descriptor, dict) else {}
    interface, method = named.get("interface"), named.get("method")
    if not isinstance(interface, str) or not isinstance(method, str):
        raise DwnError(
            Code.SCHEMA_FAILURE, "Both interface and method must be present in the descriptor"
        )
    kind = interface + method
    if kind in UNSERVED_METHODS:
        raise NotSupportedError(f"{kind} is not served by this node")
    if kind not in schemas.MESSAGES:
        raise DwnError(Code.SCHEMA_NOT_FOUND, f"schema for {kind[:60]} not found.")
    return kind


def _refuse_unserved(message: dict[str, Value]) -> None:
    authorization = message.get("authorization")
    members = [name for name in UNSERVED_MEMBERS if name in message]
    if isinstance(authorization, dict):
        members += [name for name in UNSERVED_AUTHORIZATION if name in authorization]
    if members:
        raise NotSupportedError(f"{' and '.join(members)} not served by this node")
    definition = message["descriptor"].get("definition")
    if isinstance(definition, dict):
        protocol.refuse_unserved(definition.get("structure"))


def _check_payload(kind: str, payload: dict[str, Value], descriptor: dict[str, Value]) -> None:
    schemas.check_payload(kind, payload)
    invoked = [name for name in UNSERVED_PAYLOAD if name in payload]
    if invoked:
        raise NotSupportedError(f"{' and '.join(invoked)} not served by this node")
    expected = cid.of_value(descriptor)
    if payload["descriptorCid"] != expected:
        raise DwnError(
            Code.AUTHENTICATE_DESCRIPTOR_CID_MISMATCH,
            f"provided descriptorCid {payload['descriptorCid']} does not match"
            f" expected CID {expected}",
        )
