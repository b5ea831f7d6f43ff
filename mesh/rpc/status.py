"""The details of a ``google.rpc.Status`` that a failed call carries, unpacked in one place."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

if TYPE_CHECKING:
    import grpc

D = TypeVar("D", bound=Message)

DETAILS_KEY = "grpc-status-details-bin"


def find_detail(error: grpc.aio.AioRpcError, kind: type[D]) -> D | None:
    """Returns the first detail of this kind in the error's status, or None if it has none."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            found = kind()
            with suppress(DecodeError):  # from a peer that is not ours: as without details
                if any(packed.Unpack(found) for packed in Status.FromString(value).details):
                    return found
    return None


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Returns the ``ErrorInfo.reason`` of the error, or an empty text if it has none."""
    info = find_detail(error, ErrorInfo)
    return info.reason if info is not None else ""


def retry_after_s(error: grpc.aio.AioRpcError) -> float:
    """Returns the seconds that the server asks the caller to wait, or 0 if it asks for none."""
    info = find_detail(error, RetryInfo)
    return info.retry_delay.ToTimedelta().total_seconds() if info is not None else 0.0
