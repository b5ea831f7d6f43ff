"""Authorizes the caller: the trust policy decides."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace

from mesh.errors import PermissionDenied, Reason, Unauthenticated
from mesh.rpc.call import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.rpc.call import ServingCall
    from mesh.rpc.interceptors import ServerCall, ServerRules
    from mesh.security.trust import Bounds, Grant


@contextmanager
def authorize(call: ServerCall) -> Iterator[None]:
    """Refuses by caller and method. The servicer enforces the bounds of the grant."""
    call.serving.grant = grant_of(call.serving, call.rules, trace.get_current_span())
    yield


def grant_of(serving: ServingCall, rules: ServerRules, span: trace.Span | None) -> Grant:
    """Returns the caller's grant by the policy in force now. Raises PermissionDenied without one,
    and Unauthenticated (CERTIFICATE_REVOKED) if the policy revokes the caller or its certificate.

    No decision is cached: a caller whose grant a reload of the policy has removed is refused.
    """
    policy = rules.policy.current
    if span is not None and span.is_recording():
        span.set_attributes({"anya.caller": serving.caller, "anya.policy.digest": policy.digest})
    if policy.revoked and (name := policy.find_revoked(serving.caller, serving.certificate)):
        raise Unauthenticated(
            f"trust.yaml revokes {name}; present another certificate",
            reason=Reason.CERTIFICATE_REVOKED,
        )
    grant = policy.find_grant(serving.caller, rules.service, serving.method)
    if grant is None:
        decision = policy.decide(serving.caller, rules.service, serving.method)
        raise PermissionDenied(decision.explanation, reason=Reason.PERMISSION_NOT_GRANTED)
    return grant


def current_bounds() -> Bounds:
    """Returns the bounds granted to the call being served. Raises LookupError outside of one."""
    grant = serving().grant
    if grant is None:
        raise LookupError("the call being served is not authorized")
    return grant.bounds


def current_caller() -> str:
    """Returns the SPIFFE ID of the caller being served. Raises LookupError outside of a call."""
    caller = serving().caller
    if not caller:
        raise LookupError("the call being served has no identified caller")
    return caller
