"""Deadlines: the server requires one, and outgoing calls get no more than what is left of it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mesh.errors import DeadlineExceeded, InvalidArgument, Reason
from mesh.rpc.call import serving_or_none

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

    from mesh.rpc.interceptors import ClientCall, ServerCall


@contextmanager
def require(call: ServerCall) -> Iterator[None]:
    """Refuses a call without a deadline. gRPC itself cancels a call that is late."""
    call.serving.deadline = deadline_of(call.context)
    yield


def deadline_of(context: grpc.aio.ServicerContext[Any, Any]) -> float:
    """Returns the deadline in monotonic seconds, which no change of the wall clock moves.

    Raises InvalidArgument (DEADLINE_MISSING) if the call has none.
    """
    remaining: float | None = context.time_remaining()
    if remaining is None:
        raise InvalidArgument("set a deadline on this call", reason=Reason.DEADLINE_MISSING)
    return time.monotonic() + remaining


def remaining(*, share: float = 1.0) -> float | None:
    """Returns the seconds left to the call being served, times ``share``; None outside of one."""
    serving = serving_or_none()
    if serving is None or serving.deadline is None:
        return None
    return (serving.deadline - time.monotonic()) * share


@contextmanager
def shrink(call: ClientCall) -> Iterator[None]:
    """Limits the timeout to the time left to the call being served."""
    call.timeout = timeout_of(call.method, call.timeout, call.rules.timeout)
    yield


def timeout_of(method: str, timeout: float | None, default: float) -> float:
    """Returns the seconds that a call may take: no more than is left to the call being served.

    Raises DeadlineExceeded if none are left.
    """
    seconds = timeout if timeout is not None else default
    serving = serving_or_none()
    if serving is not None and serving.deadline is not None:
        seconds = min(seconds, serving.deadline - time.monotonic())
    if seconds <= 0:
        raise DeadlineExceeded(f"no time left to call {method}")
    return seconds
