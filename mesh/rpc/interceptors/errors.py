"""Turns errors into gRPC statuses. No other module does; mesh/rpc/status.py reads them."""

from __future__ import annotations

import logging
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import any_pb2
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
# gRPC clients answer metadata above 8 KiB with RESOURCE_EXHAUSTED, in place of the error. The text
# is there twice: percent-encoded (up to 3 bytes for one), and in the details in base64 (4 for 3).
MAX_TEXT_BYTES = 1500
MAX_DESCRIPTION_BYTES = 400
MAX_FIELD_BYTES = 200

MALFORMED = (
    "the request is not a message of the type that the method takes,"
    " or is nested deeper than 100 messages"
)

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
        answer(call.context, error)
    except Exception:
        answer_unexpected(call.context, call.serving.method)


def answer(context: grpc.aio.ServicerContext[Any, Any], error: errors.MeshError) -> None:
    """Sets the status of the call to the error's."""
    if error.reason is not None:
        trace.get_current_span().set_attribute("anya.reason", error.reason)
    # Not context.abort: it raises an exception that every outer interceptor would have to know.
    wire = to_status(_status(error))
    context.set_code(wire.code)
    context.set_details(wire.details)
    context.set_trailing_metadata(wire.trailing_metadata)


def answer_unexpected(context: grpc.aio.ServicerContext[Any, Any], method: str) -> None:
    """Logs the exception being handled under a new id, and answers with INTERNAL and the id."""
    error_id = uuid.uuid4().hex
    log.exception("error %s in %s", error_id, method)
    answer(context, errors.Internal(f"internal error {error_id}"))


def malformed_request() -> errors.InvalidArgument:
    """Returns the error for bytes that are no message of the method's request type."""
    return errors.InvalidArgument(MALFORMED, reason=errors.Reason.MESSAGE_MALFORMED)


def to_rpc_error(error: errors.MeshError) -> grpc.aio.AioRpcError:
    """Returns the error as a client receives it, so that callers catch a single class."""
    wire = to_status(_status(error))
    trailing = grpc.aio.Metadata(*wire.trailing_metadata)
    return grpc.aio.AioRpcError(wire.code, grpc.aio.Metadata(), trailing, wire.details)


def reason_of(error: errors.MeshError | grpc.aio.AioRpcError) -> str:
    """Returns the reason of an error, raised here or received; empty if it has none."""
    return error.reason or "" if isinstance(error, errors.MeshError) else status.reason_of(error)


def _status(error: errors.MeshError) -> Status:
    code = code_of(error)
    packed = Status(code=code.value[0], message=_shortened(str(error), MAX_TEXT_BYTES))
    packed.details.extend(_pack(detail) for detail in _details(error))
    return packed


def _shortened(text: str, max_bytes: int) -> str:
    encoded = text.encode(errors="replace")  # a lone surrogate, which no message can hold, is "?"
    if len(encoded) <= max_bytes:
        return encoded.decode()
    return encoded[: max_bytes - 3].decode(errors="ignore") + "..."


def _details(error: errors.MeshError) -> Iterator[Message]:
    if error.reason is not None:
        yield details.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if error.field is not None:
        text = _shortened(str(error), MAX_DESCRIPTION_BYTES)
        name = _shortened(error.field, MAX_FIELD_BYTES)
        violation = details.BadRequest.FieldViolation(field=name, description=text)
        yield details.BadRequest(field_violations=[violation])
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(int(error.retry_after * 1000))
        yield details.RetryInfo(retry_delay=delay)


def _pack(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
