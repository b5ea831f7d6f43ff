"""Authorizes the caller: the trust policy decides."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry import trace

from mesh.errors import PermissionDenied, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.rpc.interceptors import ServerCall
    from mesh.security.trust import Bounds

_bounds: ContextVar[Bounds] = ContextVar("bounds")
_caller: ContextVar[str] = ContextVar("caller")


@contextmanager
def authorize(call: ServerCall) -> Iterator[None]:
    """Refuses by caller and method. The servicer enforces the bounds of the grant."""
    rules = call.rules
    policy = rules.policy.current
    decision = policy.decide(call.caller, rules.service, call.method)
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes({"anya.caller": call.caller, "anya.policy.digest": policy.digest})
    if decision.grant is None:
        raise PermissionDenied(decision.explanation, reason=Reason.PERMISSION_NOT_GRANTED)
    call.grant = decision.grant
    _bounds.set(decision.grant.bounds)  # the call has its own task: no reset needed
    _caller.set(call.caller)
    yield


def current_bounds() -> Bounds:
    """Returns the bounds granted to the call being served. Raises LookupError outside of one."""
    return _bounds.get()


def current_caller() -> str:
    """Returns the SPIFFE ID of the caller being served. Raises LookupError outside of a call."""
    return _caller.get()
