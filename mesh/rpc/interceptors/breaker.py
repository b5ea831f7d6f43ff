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

# Statuses that say that the target is failing; any other proves that it works.
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
    group, _, _ = call.method.partition("/")
    with call.rules.breakers[group].permit() as permit:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            permit.failed = _is_failure(error)
            raise
        permit.failed = False


def _is_failure(error: grpc.aio.AioRpcError) -> bool:
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return reason_of(error) in OVERLOADED
    return error.code() in FAILURES
