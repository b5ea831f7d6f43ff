"""Turns errors into gRPC statuses. No other module does; mesh/rpc/status.py reads them."""

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
from mesh.rpc import status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from mesh.rpc.interceptors import ServerCall

DOMAIN = "anya.mesh"
# gRPC clients may drop trailers above 8 KiB.
MAX_TEXT_BYTES = 1600
MAX_DESCRIPTION_BYTES = 400

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
    """Returns the gRPC code of the error's class, or of the nearest base class that has one."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


@contextmanager
def report(call: ServerCall) -> Iterator[None]:
    """Answers with the status of an error; of an unexpected one the caller gets only a log id."""
    try:
        yield
    except errors.MeshError as error:
        _answer(call, error)
    except Exception:
        error_id = uuid.uuid4().hex
        log.exception("error %s in %s", error_id, call.method)
        _answer(call, errors.Internal(f"internal error {error_id}"))


def to_rpc_error(error: errors.MeshError) -> grpc.aio.AioRpcError:
    """Returns the error as a client receives it, so that callers catch a single class."""
    wire = to_status(_status(error))
    trailing = grpc.aio.Metadata(*wire.trailing_metadata)
    return grpc.aio.AioRpcError(wire.code, grpc.aio.Metadata(), trailing, wire.details)


def reason_of(error: errors.MeshError | grpc.aio.AioRpcError) -> str:
    """Returns the reason of an error, raised here or received; empty if it has none."""
    return error.reason or "" if isinstance(error, errors.MeshError) else status.reason_of(error)


def _answer(call: ServerCall, error: errors.MeshError) -> None:
    if error.reason is not None:
        trace.get_current_span().set_attribute("anya.reason", error.reason)
    # Not context.abort: it raises an exception that every outer interceptor would have to know.
    answer = to_status(_status(error))
    call.context.set_code(answer.code)
    call.context.set_details(answer.details)
    call.context.set_trailing_metadata(answer.trailing_metadata)


def _status(error: errors.MeshError) -> Status:
    code = code_of(error)
    packed = Status(code=code.value[0], message=_shortened(str(error), MAX_TEXT_BYTES))
    packed.details.extend(_pack(detail) for detail in _details(error))
    return packed


def _shortened(text: str, max_bytes: int) -> str:
    encoded = text.encode()
    return (
        text if len(encoded) <= max_bytes else encoded[:max_bytes].decode(errors="ignore") + "..."
    )


def _details(error: errors.MeshError) -> Iterator[Message]:
    if error.reason is not None:
        yield details.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if error.field is not None:
        text = _shortened(str(error), MAX_DESCRIPTION_BYTES)
        violation = details.BadRequest.FieldViolation(field=error.field, description=text)
        yield details.BadRequest(field_violations=[violation])
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(int(error.retry_after * 1000))
        yield details.RetryInfo(retry_delay=delay)


def _pack(detail: Message) -> Any:
    packed = Any()
    packed.Pack(detail)
    return packed
