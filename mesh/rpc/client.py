"""A gRPC channel with every step around every call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from mesh.errors import MeshError
from mesh.rpc.interceptors import ClientCall, ClientRules, breaker, data_policy, deadline, tracing
from mesh.rpc.interceptors.errors import to_rpc_error
from mesh.rpc.interceptors.stack import InterceptorStack, unwrap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mesh.config import Identity
    from mesh.rpc.interceptors import ClientStep

# From the stub to the wire.
INTERCEPTORS: tuple[ClientStep, ...] = (
    tracing.send,
    deadline.shrink,
    data_policy.check,
    breaker.guard,
)
_BARE = unwrap(INTERCEPTORS)

# Who is back is found soon: gRPC's own 1 s to 2 min outlast what a step of a payment may take.
FIRST_RECONNECT_MS = 100
LAST_RECONNECT_MS = 1000


def open_channel(target: str, rules: ClientRules, identity: Identity) -> grpc.aio.Channel:
    """Close it before the loop ends. Failed calls raise AioRpcError, whoever refused them.

    The other end must have a certificate for the name ``rules.target``, wherever it listens.
    """
    shapes = (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)
    return grpc.aio.secure_channel(
        target,
        grpc.ssl_channel_credentials(
            identity.ca.read_bytes(), identity.key.read_bytes(), identity.certificate.read_bytes()
        ),
        options=[
            ("grpc.ssl_target_name_override", rules.target),
            ("grpc.lb_policy_name", "round_robin"),  # over the replicas that a name resolves to
            ("grpc.initial_reconnect_backoff_ms", FIRST_RECONNECT_MS),
            ("grpc.max_reconnect_backoff_ms", LAST_RECONNECT_MS),
        ],
        interceptors=[shape(rules) for shape in shapes],
    )


class _Steps:
    """The only code on this side that knows that calls have four shapes."""

    def __init__(self, rules: ClientRules) -> None:
        self._rules = rules
        self._streams: set[asyncio.Task[None]] = set()

    async def _reply(self, proceed: Callable[..., Awaitable[Any]], details: Any, sent: Any) -> Any:
        """One reply: the steps end with it."""
        try:
            with InterceptorStack() as steps:
                wire = await proceed(*self._enter(steps, details, sent))
                await wire  # raises here, where the steps can see it
                return wire
        except MeshError as error:
            raise to_rpc_error(error) from None

    async def _replies(
        self, proceed: Callable[..., Awaitable[Any]], details: Any, sent: Any
    ) -> Any:
        """Many replies: the steps end with the call, even if nobody reads it to the end."""
        try:
            with InterceptorStack() as steps:
                wire = await proceed(*self._enter(steps, details, sent))
                task = asyncio.create_task(_settle(wire, steps.pop_all()), name="stream steps")
        except MeshError as error:
            raise to_rpc_error(error) from None
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)
        return wire

    def _enter(
        self, steps: InterceptorStack, details: Any, sent: Any
    ) -> tuple[grpc.aio.ClientCallDetails, Any]:
        method = details.method.decode().lstrip("/")
        call = ClientCall(method, sent, details.timeout, self._rules)
        steps.enter(_BARE, call)
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *call.metadata.items())
        onward = grpc.aio.ClientCallDetails(
            details.method, call.timeout, metadata, details.credentials, details.wait_for_ready
        )
        return onward, call.request


async def _settle(wire: Any, steps: InterceptorStack) -> None:
    try:
        with steps:
            code = await wire.code()
            if code is not grpc.StatusCode.OK:
                trailing = await wire.trailing_metadata()
                raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing)
    except grpc.aio.AioRpcError:
        pass  # the reader of the stream gets its own


# grpc registers an interceptor under the first base it recognises: four shapes, four classes. The
# assignments are untyped because grpc's generic signatures admit no common implementation.
class _UnaryUnary(_Steps, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary: Any = _Steps._reply


class _UnaryStream(_Steps, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream: Any = _Steps._replies


class _StreamUnary(_Steps, grpc.aio.StreamUnaryClientInterceptor):
    intercept_stream_unary: Any = _Steps._reply


class _StreamStream(_Steps, grpc.aio.StreamStreamClientInterceptor):
    intercept_stream_stream: Any = _Steps._replies
