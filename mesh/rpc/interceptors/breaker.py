"""Stops calls to a target that keeps failing."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from mesh.errors import Reason
from mesh.rpc.status import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.rpc.interceptors import ClientCall

# Statuses that say that the target is failing; any other but CANCELLED proves that it works.
FAILURES = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)

# Other exhausted resources belong to one caller: one payer's budget must not stop all payments.
OVERLOADED = frozenset({Reason.OVERLOADED, Reason.MAILBOX_FULL})


@contextmanager
def guard(call: ClientCall) -> Iterator[None]:
    """Counts outcomes per RPC service of the target: one may fail while another works."""
    with call.rules.breakers[group_of(call.method)].permit() as permit:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            permit.failed = is_failure(error)
            raise
        permit.failed = False


def group_of(method: str) -> str:
    """Returns the RPC service of a method: its calls share a breaker."""
    return method.partition("/")[0]


def is_failure(error: grpc.aio.AioRpcError) -> bool | None:
    """Tells if the error counts against the target; None if it says nothing about the target."""
    code = error.code()
    if code is grpc.StatusCode.CANCELLED:
        return None
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return reason_of(error) in OVERLOADED
    return code in FAILURES
