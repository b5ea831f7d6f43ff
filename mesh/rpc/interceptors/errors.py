"""The one place where an error becomes a gRPC status."""

from __future__ import annotations

import logging
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from grpc_status.rpc_status import to_status
from opentelemetry import trace

from mesh import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from mesh.rpc.interceptors import ServerCall

DOMAIN = "anya.mesh"
MAX_TEXT_BYTES, MAX_DESCRIPTION_BYTES = (
    1600,
    400,
)  # bytes: of trailers beyond 8 KiB a client may see nothing

CODES: dict[type[errors.MeshError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Internal: grpc.StatusCode.INTERNAL,
}

log = logging.getLogger(__name__)


def code_of(error: errors.MeshError) -> grpc.StatusCode:
    """The code of its class, or of the one that its class makes more precise."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


@contextmanager
def report(call: ServerCall) -> Iterator[None]:
    """Answer with the error's status. What nobody foresaw stays in the log, under an id."""
    try:
        yield
    except errors.MeshError as error:
        _answer(call, error)
    except Exception:
        error_id = uuid.uuid4().hex
        log.exception("error %s in %s", error_id, call.method)
        _answer(call, errors.Internal(f"internal error {error_id}"))


def to_rpc_error(error: errors.MeshError) -> grpc.aio.AioRpcError:
    """The error as a client sees it off the wire, so that callers catch one kind only."""
    status = to_status(_status(error))
    trailing = grpc.aio.Metadata(*status.trailing_metadata)
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailing, status.details)


def reason_of(error: errors.MeshError | grpc.aio.AioRpcError) -> str:
    """The Reason that an error carries, from either side of the wire; empty if none."""
    if isinstance(error, errors.MeshError):
        return error.reason or ""
    found = details.ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in Status.FromString(value).details:
                if detail.Unpack(found):
                    return str(found.reason)
    return ""


def _answer(call: ServerCall, error: errors.MeshError) -> None:
    if error.reason is not None:
        trace.get_current_span().set_attribute("anya.reason", error.reason)
    # Not context.abort: it raises, and every step outside would have to know that exception.
    status = to_status(_status(error))
    call.context.set_code(status.code)
    call.context.set_details(status.details)
    call.context.set_trailing_metadata(status.trailing_metadata)


def _status(error: errors.MeshError) -> Status:
    code = code_of(error)
    status = Status(code=code.value[0], message=_shortened(str(error), MAX_TEXT_BYTES))
    status.details.extend(_pack(detail) for detail in _details(error))
    return status


def _shortened(text: str, most: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= most else encoded[:most].decode(errors="ignore") + "..."


def _details(error: errors.MeshError) -> Iterator[Message]:
    if error.reason is not None:
        yield details.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if error.field is not None:
        said = _shortened(str(error), MAX_DESCRIPTION_BYTES)
        violation = details.BadRequest.FieldViolation(field=error.field, description=said)
        yield details.BadRequest(field_violations=[violation])
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(int(error.retry_after * 1000))
        yield details.RetryInfo(retry_delay=delay)


def _pack(detail: Message) -> Any:
    packed = Any()
    packed.Pack(detail)
    return packed
