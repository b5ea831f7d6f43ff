"""A gRPC server with every server interceptor around every call."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from mesh.errors import InvalidArgument, Reason
from mesh.rpc.interceptors import (
    ServerCall,
    ServerRules,
    audit,
    data_policy,
    deadline,
    errors,
    identity,
    limit,
    request_key,
    tracing,
    trust,
)
from mesh.rpc.interceptors.stack import InterceptorStack, unwrap
from mesh.settings import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

    from mesh.config import Identity
    from mesh.rpc.interceptors import ServerInterceptor

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

MALFORMED = (
    "the request is not a message of the type that the method takes,"
    " or is nested deeper than 100 messages"
)

# The limit precedes all costly work. errors.report encloses every interceptor that may refuse, and
# is within tracing, so that the span has the final status.
_ADMIT: tuple[ServerInterceptor, ...] = (
    tracing.receive,
    errors.report,
    deadline.require,
    limit.admit,
)
_AUTHORIZE: tuple[ServerInterceptor, ...] = (
    identity.identify,
    trust.authorize,
    request_key.bind,
    data_policy.redact,
)

# In the order in which they act. The servicer runs before the last two.
INTERCEPTORS = (*_ADMIT, *_AUTHORIZE, audit.record)
# In the order in which they are entered: audit acts last, and sees the refusals of the others.
_NESTED = unwrap((*_ADMIT, audit.record, *_AUTHORIZE))

RPC_KINDS: dict[tuple[bool, bool], Callable[..., Handler]] = {
    # request streams, response streams
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def build_server(rules: ServerRules, *, max_message: int = 4 << 20) -> grpc.aio.Server:
    """Returns a server that refuses requests above ``max_message`` bytes (RESOURCE_EXHAUSTED)."""
    options = [
        # Off, because with it a second process would share the port without an error.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message),
    ]
    return grpc.aio.server(interceptors=[ServerAdapter(rules)], options=options)


def credentials(identity: Identity) -> grpc.ServerCredentials:
    """Returns mTLS credentials: the handshake refuses clients without a certificate of our CA.

    Reads the files again when they change, so that a renewed certificate needs no restart.
    Raises ConfigError if they cannot be read now.
    """
    try:
        first, seen = _certificates(identity), _changed_at(identity)
    except OSError as error:
        raise ConfigError(f"the certificate cannot be read: {error}") from None

    def renewed() -> Any:  # None means unchanged, which the types forbid
        nonlocal seen
        try:
            if (now := _changed_at(identity)) == seen:
                return None
            certificates, seen = _certificates(identity), now
        except OSError:
            return None  # in the middle of a renewal: the next handshake reads again
        return certificates

    return grpc.dynamic_ssl_server_credentials(first, renewed, require_client_authentication=True)


def _certificates(identity: Identity) -> grpc.ServerCertificateConfiguration:
    pair = identity.key.read_bytes(), identity.certificate.read_bytes()
    return grpc.ssl_server_certificate_configuration([pair], identity.ca.read_bytes())


def _changed_at(identity: Identity) -> tuple[int, ...]:
    paths = identity.certificate, identity.key, identity.ca
    return tuple(path.stat().st_mtime_ns for path in paths)


class ServerAdapter(grpc.aio.ServerInterceptor):
    """Runs the interceptors around the four kinds of calls that gRPC has."""

    def __init__(self, rules: ServerRules) -> None:
        self._rules = rules
        self._wrapped: dict[str, Handler] = {}  # bounded: only existing methods get in

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None  # UNIMPLEMENTED
            self._wrapped[method] = wrap(handler, method.lstrip("/"), self._rules)
        return self._wrapped[method]


def wrap(handler: Any, method: str, rules: ServerRules) -> Handler:
    """Returns the same handler with INTERCEPTORS around it.

    Streams are written through the context, so that one coroutine spans the life of any call.
    """
    behaviour = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )

    async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        call = ServerCall(method, None if handler.request_streaming else request, context, rules)
        with InterceptorStack() as stack:
            stack.enter(_NESTED, call)
            if request is None:
                raise InvalidArgument(MALFORMED, reason=Reason.MESSAGE_MALFORMED)
            if not handler.response_streaming:
                return call.outgoing(await behaviour(request, context))
            async with aclosing(behaviour(request, context)) as replies:
                async for reply in replies:
                    await context.write(call.outgoing(reply))
        return None  # the end of a stream, or a status that errors.report has set

    return RPC_KINDS[handler.request_streaming, handler.response_streaming](
        serve, _lenient(handler.request_deserializer), handler.response_serializer
    )


def _lenient(parse: Callable[[bytes], Message]) -> Callable[[bytes], Message | None]:
    """Returns a parser that gives None for malformed bytes.

    gRPC itself would answer UNKNOWN before any interceptor runs.
    """

    def parsed(raw: bytes) -> Message | None:
        try:
            return parse(raw)
        except DecodeError:
            return None

    return parsed
