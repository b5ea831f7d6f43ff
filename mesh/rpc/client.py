"""A gRPC channel with every client interceptor around every call."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import grpc

from mesh.errors import MeshError
from mesh.rpc.interceptors import ClientCall, ClientRules, breaker, data_policy, deadline, tracing
from mesh.rpc.interceptors.errors import to_rpc_error
from mesh.rpc.unary_client import UnaryPath

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import Self

    from mesh.config import Identity
    from mesh.rpc.interceptors import ClientInterceptor

# From the stub to the wire.
INTERCEPTORS: tuple[ClientInterceptor, ...] = (
    tracing.send,
    deadline.shrink,
    data_policy.check,
    breaker.guard,
)

# gRPC's own backoff of 1 s to 2 min is longer than one attempt of a payment may take.
FIRST_RECONNECT_MS = 100
LAST_RECONNECT_MS = 1000


def open_channel(target: str, rules: ClientRules, identity: Identity) -> grpc.aio.Channel:
    """Returns a channel to ``target``; close it before the loop ends.

    The server must have a certificate for the name ``rules.target``, whatever its address. Failed
    calls raise AioRpcError, whether the server or an interceptor refused them.
    """
    adapters = (_UnaryStream, _StreamUnary, _StreamStream)
    channel = grpc.aio.secure_channel(
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
        interceptors=[adapter(rules) for adapter in adapters],
    )
    return _GuardedChannel(channel, rules)


class _GuardedChannel(grpc.aio.Channel):
    """A channel whose streams run the interceptors, and whose unary calls the unary path."""

    def __init__(self, channel: grpc.aio.Channel, rules: ClientRules) -> None:
        self._channel: Any = channel  # no type has the arguments that generated code gives
        self._rules = rules

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> UnaryPath:
        inner = self._channel.unary_unary(method, *arguments, **options)
        return UnaryPath(inner, method.lstrip("/"), self._rules)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        return self._channel.unary_stream(*arguments, **options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        return self._channel.stream_unary(*arguments, **options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        return self._channel.stream_stream(*arguments, **options)

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        state: grpc.ChannelConnectivity = self._channel.get_state(try_to_connect)
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class ClientAdapter:
    """Runs the interceptors around a call of any kind."""

    def __init__(self, rules: ClientRules) -> None:
        self._rules = rules
        self._streams: set[asyncio.Task[None]] = set()

    async def call_unary(
        self, proceed: Callable[..., Awaitable[Any]], details: Any, request: Any
    ) -> Any:
        """Makes a call with one reply; the interceptors end with the reply."""
        try:
            with ExitStack() as stack:
                call = await proceed(*self._enter(stack, details, request))
                await call  # raises here, where the interceptors can see it
                return call
        except MeshError as error:
            raise to_rpc_error(error) from None

    async def call_streaming(
        self, proceed: Callable[..., Awaitable[Any]], details: Any, request: Any
    ) -> Any:
        """Makes a call with many replies; the interceptors end with it, even if it is not read."""
        try:
            with ExitStack() as stack:
                call = await proceed(*self._enter(stack, details, request))
                task = asyncio.create_task(_finish(call, stack.pop_all()), name="stream end")
        except MeshError as error:
            raise to_rpc_error(error) from None
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)
        return call

    def _enter(
        self, stack: ExitStack, details: Any, request: Any
    ) -> tuple[grpc.aio.ClientCallDetails, Any]:
        method = details.method.decode().lstrip("/")
        call = ClientCall(method, request, details.timeout, self._rules)
        for interceptor in INTERCEPTORS:
            stack.enter_context(interceptor(call))
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *call.metadata)
        changed = grpc.aio.ClientCallDetails(
            details.method, call.timeout, metadata, details.credentials, details.wait_for_ready
        )
        return changed, call.request


async def _finish(call: Any, stack: ExitStack) -> None:
    try:
        with stack:
            code = await call.code()
            if code is not grpc.StatusCode.OK:
                trailing = await call.trailing_metadata()
                raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing)
    except grpc.aio.AioRpcError:
        pass  # the reader of the stream gets an error of its own


# grpc registers an interceptor under the first base that it recognises, so each kind of call has
# its class. The assignments are untyped because grpc's generic signatures admit no common
# implementation.
class _UnaryStream(ClientAdapter, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream: Any = ClientAdapter.call_streaming


class _StreamUnary(ClientAdapter, grpc.aio.StreamUnaryClientInterceptor):
    intercept_stream_unary: Any = ClientAdapter.call_unary


class _StreamStream(ClientAdapter, grpc.aio.StreamStreamClientInterceptor):
    intercept_stream_stream: Any = ClientAdapter.call_streaming
