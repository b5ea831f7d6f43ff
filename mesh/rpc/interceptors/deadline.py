"""Deadlines: the server requires one, and outgoing calls get no more than what is left of it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from mesh.errors import DeadlineExceeded, InvalidArgument, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.rpc.interceptors import ClientCall, ServerCall

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)  # monotonic seconds


@contextmanager
def require(call: ServerCall) -> Iterator[None]:
    """Refuses a call without a deadline. gRPC itself cancels a call that is late."""
    remaining = call.context.time_remaining()
    if remaining is None:
        raise InvalidArgument("set a deadline on this call", reason=Reason.DEADLINE_MISSING)
    _deadline.set(time.monotonic() + remaining)  # the call has its own task: no reset needed
    yield


def remaining(*, share: float = 1.0) -> float | None:
    """Returns the seconds left to the call being served, times ``share``; None outside of one."""
    outer = _deadline.get()
    return None if outer is None else (outer - time.monotonic()) * share


@contextmanager
def shrink(call: ClientCall) -> Iterator[None]:
    """Limits the timeout to the time left to the call being served."""
    timeout = call.timeout if call.timeout is not None else call.rules.timeout
    outer = _deadline.get()
    if outer is not None:
        timeout = min(timeout, outer - time.monotonic())
    if timeout <= 0:
        raise DeadlineExceeded(f"no time left to call {call.method}")
    call.timeout = timeout
    yield
