"""Content identifiers (CIDv1 with SHA-256) of JSON values, the ids of messages and records."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import libipld

if TYPE_CHECKING:
    from services.web5.dwn.values import Value

RAW = b"\x01\x55\x12\x20"  # version 1, codec, SHA-256, 32 bytes: see multiformats/multicodec
DAG_PB = b"\x01\x70\x12\x20"
DAG_CBOR = b"\x01\x71\x12\x20"


def of_value(value: Value) -> str:
    """Returns the CID of the value's dag-cbor form; its numbers must be ``values.normal``."""
    return text(DAG_CBOR + hashlib.sha256(libipld.encode_dag_cbor(value)).digest())


def of_message(message: dict[str, Value]) -> str:
    """Returns the CID of a message; ``encodedData``, the attached data, is not part of it."""
    if "encodedData" in message:
        message = {name: item for name, item in message.items() if name != "encodedData"}
    return of_value(message)


def text(binary: bytes) -> str:
    """Returns a binary CID as lower-case base32 with the multibase prefix ``b``."""
    encoded: str = libipld.encode_multibase("b", binary)
    return encoded
