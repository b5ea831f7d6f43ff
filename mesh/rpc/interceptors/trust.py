"""Whether the caller may cross this boundary; the policy decides."""

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
    """Refuse on caller and method only; the bounds are handed to the servicer."""
    rules = call.rules
    policy = rules.policy.current
    decision = policy.decide(call.caller, rules.service, call.method)
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes({"anya.caller": call.caller, "anya.policy.digest": policy.digest})
    if decision.grant is None:
        raise PermissionDenied(decision.explanation, reason=Reason.PERMISSION_NOT_GRANTED)
    call.grant = decision.grant
    _bounds.set(decision.grant.bounds)  # the call's own task: nothing to reset
    _caller.set(call.caller)
    yield


def current_bounds() -> Bounds:
    """What the boundary allows to the call being served. LookupError outside of one."""
    return _bounds.get()


def current_caller() -> str:
    """SPIFFE ID of who makes the call being served. LookupError outside of one."""
    return _caller.get()
