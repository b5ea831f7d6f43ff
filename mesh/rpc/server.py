"""A gRPC server with every server interceptor around every call."""

from __future__ import annotations

from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from mesh.rpc.call import ServingCall, current
from mesh.rpc.interceptors import (
    ServerCall,
    ServerRules,
    audit,
    authority,
    data_policy,
    deadline,
    errors,
    identity,
    limit,
    request_key,
    tracing,
    trust,
)
from mesh.rpc.interceptors.tracing import read_parent
from mesh.rpc.unary_server import unary_path
from mesh.security.file_state import state_of
from mesh.security.svid import read_svid
from mesh.settings import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from google.protobuf.message import Message

    from mesh.config import Identity
    from mesh.rpc.interceptors import ServerInterceptor

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Path: TypeAlias = "Callable[[Any, str, ServerRules], Callable[..., Any]]"

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
    authority.hold,
    request_key.bind,
    data_policy.redact,
)

# In the order in which they act. The servicer runs before the last two.
INTERCEPTORS = (*_ADMIT, *_AUTHORIZE, audit.record)
# In the order in which they are entered: audit acts last, and sees the refusals of the others.
_NESTED = (*_ADMIT, audit.record, *_AUTHORIZE)

RPC_KINDS: dict[tuple[bool, bool], Callable[..., Handler]] = {
    # request streams, response streams
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def build_server(rules: ServerRules, *, max_message: int = 4 << 20) -> GuardedServer:
    """Returns a server that refuses requests above ``max_message`` bytes (RESOURCE_EXHAUSTED)."""
    options = [
        # Off, because with it a second process would share the port without an error.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message),
    ]
    return GuardedServer(grpc.aio.server(options=options), rules)


class GuardedServer(grpc.aio.Server):
    """A gRPC server whose every method runs within the interceptors, however it was added."""

    def __init__(
        self, server: grpc.aio.Server, rules: ServerRules, unary: Path = unary_path
    ) -> None:
        """Runs ``unary`` around unary calls, and ``intercepted`` around all others."""
        self._server = server
        self._rules = rules
        self._unary = unary
        self.service_names: list[str] = []  # in the order in which they were added

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]
    ) -> None:
        for added in generic_rpc_handlers:
            if isinstance(added, grpc.ServiceRpcHandler):
                self.service_names.append(added.service_name())
            self._server.add_generic_rpc_handlers([_GuardedMethods(added, self._guard)])

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Handler]
    ) -> None:
        """Adds the methods as generic ones, unless it has them: generated code adds both.

        gRPC looks a registered method up without us, but each call begins at the look-up.
        """
        if service_name not in self.service_names:
            handlers = grpc.method_handlers_generic_handler(service_name, dict(method_handlers))
            self.add_generic_rpc_handlers([handlers])

    def _guard(self, handler: Any, method: str) -> Handler:
        """Returns the same handler with every step of the server around it."""
        streams = handler.request_streaming or handler.response_streaming
        path = intercepted if streams else self._unary
        return RPC_KINDS[handler.request_streaming, handler.response_streaming](
            path(handler, method, self._rules),
            _lenient(handler.request_deserializer),
            handler.response_serializer,
        )

    def add_insecure_port(self, address: str) -> int:
        """Raises ConfigError: without mTLS no caller has an identity."""
        raise ConfigError(f"{address}: a service listens with mTLS only")

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        return self._server.add_secure_port(address, server_credentials)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace: float | None) -> None:
        await self._server.stop(grace)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        return await self._server.wait_for_termination(timeout)


class _GuardedMethods(grpc.GenericRpcHandler):
    """Finds the same methods as another handler, each within the interceptors."""

    def __init__(
        self, handlers: grpc.GenericRpcHandler, guard: Callable[[Handler, str], Handler]
    ) -> None:
        self._handlers = handlers
        self._guard = guard
        # By path; bounded: only existing methods get in.
        self._guarded: dict[str, tuple[str, Handler]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        path = handler_call_details.method
        known = self._guarded.get(path)
        if known is None:
            handler = self._handlers.service(handler_call_details)
            if handler is None:
                return None  # UNIMPLEMENTED, unless another handler has the method
            method = path.lstrip("/")
            known = self._guarded[path] = method, self._guard(handler, method)
        method, guarded = known
        # gRPC looks a method up in the task of the call: the servicer has this object, too. Later,
        # gRPC would have to convert the metadata a second time.
        current.set(ServingCall(method, read_parent(handler_call_details.invocation_metadata)))
        return guarded


def credentials(identity: Identity) -> grpc.ServerCredentials:
    """Returns mTLS credentials: the handshake refuses clients without a certificate of our CA.

    Reads the files again when they change, so that a renewed certificate needs no restart.
    Raises ConfigError if they cannot be read now.
    """
    try:
        first, seen = _certificates(identity), _state_of(identity)
    except OSError as error:
        raise ConfigError(f"the certificate cannot be read: {error}") from None

    def renewed() -> Any:  # None means unchanged, which the types forbid
        nonlocal seen
        now = _state_of(identity)
        if now is None or now == seen:
            return None
        try:
            read_svid(identity)  # of a renewal that is half written, key and certificate differ
            certificates, seen = _certificates(identity), now
        except (OSError, ConfigError):
            return None  # the next handshake reads again
        return certificates

    return grpc.dynamic_ssl_server_credentials(first, renewed, require_client_authentication=True)


def _certificates(identity: Identity) -> grpc.ServerCertificateConfiguration:
    pair = identity.key.read_bytes(), identity.certificate.read_bytes()
    return grpc.ssl_server_certificate_configuration([pair], identity.ca.read_bytes())


def _state_of(identity: Identity) -> object:
    return state_of(identity.certificate, identity.key, identity.ca)


def intercepted(handler: Any, method: str, rules: ServerRules) -> Callable[..., Any]:
    """Returns the servicer's method, of any kind, with INTERCEPTORS around it.

    Streams are written through the context, so that one coroutine spans the life of any call.
    """
    behaviour = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )

    async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        serving = current.get()
        call = ServerCall(None if handler.request_streaming else request, context, rules, serving)
        with ExitStack() as stack:
            for interceptor in _NESTED:
                stack.enter_context(interceptor(call))
            if request is None:
                raise errors.malformed_request()
            if not handler.response_streaming:
                return call.outgoing(await behaviour(request, context))
            async with aclosing(behaviour(request, context)) as replies:
                async for reply in replies:
                    await context.write(call.outgoing(reply))
        return None  # the end of a stream, or a status that errors.report has set

    return serve


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
