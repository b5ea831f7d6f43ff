"""The client's path of a unary call: what the interceptors do, in their order, without a task.

Each step is the function that its interceptor calls, so that every rule is written once.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import grpc

from mesh.errors import MeshError
from mesh.rpc.interceptors import data_policy, deadline, tracing
from mesh.rpc.interceptors.breaker import group_of, is_failure
from mesh.rpc.interceptors.errors import code_of, to_rpc_error

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from opentelemetry.trace import Span

    from mesh.breaker import Breaker
    from mesh.rpc.interceptors import ClientRules


class UnaryPath(grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    """One method of one channel: each call passes the steps of the client before it is sent."""

    def __init__(
        self, send: grpc.aio.UnaryUnaryMultiCallable[Any, Any], method: str, rules: ClientRules
    ) -> None:
        self._send = send.__call__  # bound: a call of the object itself costs a tuple and a dict
        self._method = method
        self._rules = rules
        self._breaker = rules.breakers[group_of(method)]
        self._attributes = tracing.attributes_of(method, rules.target)
        self._skip = tracing.skips_unsampled(rules.tracer)

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        """Returns the call. A step that refuses it sends nothing: the call has ended already."""
        rules, method = self._rules, self._method
        span, headers = tracing.start_client_span(
            method, rules.tracer, self._attributes, skip=self._skip
        )
        epoch: int | None = None
        call: grpc.aio.UnaryUnaryCall[Any, Any] | None = None
        try:
            seconds = deadline.timeout_of(method, timeout, rules.timeout)
            data_policy.check_request(method, request, rules)
            epoch = self._breaker.acquire()
            call = self._send(
                request,
                timeout=seconds,
                metadata=(*metadata, *headers) if metadata else _Pairs(headers),
                credentials=credentials,
                wait_for_ready=wait_for_ready,
                compression=compression,
            )
            return _SentCall(call, span, self._breaker, epoch)
        except MeshError as error:
            tracing.end_client_span(span, code_of(error), error)
            span = None
            return _RefusedCall(to_rpc_error(error))
        finally:
            if call is None:  # refused, or gRPC took no call (of a closed channel)
                if epoch is not None:
                    self._breaker.release(epoch, failed=None)
                tracing.end_client_span(span, grpc.StatusCode.CANCELLED, None)


class _Pairs(grpc.aio.Metadata):
    """Metadata that gRPC only sends: without the index over it, a tenth of a call's cost."""

    def __init__(self, pairs: tuple[tuple[str, str], ...]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)


class _SentCall(grpc.aio.UnaryUnaryCall[Any, Any]):
    """gRPC's own call, which also counts its outcome and ends its span, once.

    It does so when the caller first sees the end: awaits the reply or the code, or cancels. A done
    callback of gRPC would see it earlier, but makes each call and its messages a reference cycle,
    and mesh/process.py lets the garbage collector run seldom.
    """

    def __init__(
        self,
        call: grpc.aio.UnaryUnaryCall[Any, Any],
        span: Span | None,
        breaker: Breaker,
        epoch: int,
    ) -> None:
        self._is_open = True  # the end is not counted yet
        self._call = call
        self._span = span
        self._breaker = breaker
        self._epoch = epoch

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            reply = yield from self._call.__await__()
            self._end(grpc.StatusCode.OK, failed=False)
        except grpc.aio.AioRpcError as error:
            self._end(error.code(), error, failed=is_failure(error))
            raise
        finally:
            if self._is_open:  # the caller was cancelled
                self._end(grpc.StatusCode.CANCELLED)
        return reply

    async def code(self) -> grpc.StatusCode:
        await self._see_end()
        return await self._call.code()

    async def details(self) -> str:
        await self._see_end()
        return await self._call.details()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        await self._see_end()
        return await self._call.trailing_metadata()

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return await self._call.initial_metadata()

    async def wait_for_connection(self) -> None:
        await self._see_end()  # a unary call is connected when it has its reply
        await self._call.wait_for_connection()

    def cancel(self) -> bool:
        if not self._call.cancel():
            return False
        self._end(grpc.StatusCode.CANCELLED)
        return True

    def cancelled(self) -> bool:
        return self._call.cancelled()

    def done(self) -> bool:
        return self._call.done()

    def time_remaining(self) -> float | None:
        return self._call.time_remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._call.add_done_callback(lambda _: callback(self))

    def __del__(self) -> None:
        """Ends the span of a call that was dropped: gRPC cancels it if it still runs."""
        if self._is_open:
            self._end(grpc.StatusCode.CANCELLED)

    async def _see_end(self) -> None:
        code = await self._call.code()
        if code is grpc.StatusCode.OK:
            self._end(code, failed=False)
        else:
            trailing = await self._call.trailing_metadata()
            error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing)
            self._end(code, error, failed=is_failure(error))

    def _end(
        self,
        code: grpc.StatusCode,
        error: grpc.aio.AioRpcError | None = None,
        *,
        failed: bool | None = None,
    ) -> None:
        """Counts the outcome and ends the span, once. ``failed`` is None if it was cancelled."""
        if self._is_open:
            self._is_open = False
            self._breaker.release(self._epoch, failed=failed)
            if self._span is not None:
                tracing.end_client_span(self._span, code, error)


class _RefusedCall(grpc.aio.UnaryUnaryCall[Any, Any]):
    """A call that ended before it was sent."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    def __await__(self) -> Generator[Any, None, Any]:
        raise self._raised()
        yield  # makes this a generator, which __await__ has to return

    async def code(self) -> grpc.StatusCode:
        return self._error.code()

    async def details(self) -> str:
        return self._error.details() or ""

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return self._error.initial_metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return self._error.trailing_metadata()

    async def wait_for_connection(self) -> None:
        raise self._raised()

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def time_remaining(self) -> float | None:
        return 0.0

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    def _raised(self) -> grpc.aio.AioRpcError:
        """Returns a new error: the traceback of one of its own would keep the call in a cycle."""
        return copy(self._error)
