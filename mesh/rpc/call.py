"""The call being served: one object in one context variable, for all that serves the call.

Tasks that a servicer starts inherit the object and may outlive the call. So it has nothing that is
large: neither the request nor gRPC's context.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from mesh.data.idempotency import IdempotencyKey
    from mesh.security.peer_certificate import PeerCertificate
    from mesh.security.trust import Grant


@dataclass(slots=True)
class ServingCall:
    """The call being served, as far as the interceptors know it."""

    method: str  # "anya.bitcoin.v1.ChainService/GetTransaction"
    parent: Span | None  # the caller's; None if it sent no valid one
    deadline: float | None = None  # monotonic seconds; set by deadline
    caller: str = ""  # SPIFFE ID; set by identity
    certificate: PeerCertificate | None = None  # the caller's; set by identity
    grant: Grant | None = None  # set by trust
    request_key: IdempotencyKey | None = None  # of a mutation; set by request_key


# Each call has its own task, so no interceptor resets it.
current: ContextVar[ServingCall] = ContextVar("serving_call")


def serving() -> ServingCall:
    """Returns the call being served. Raises LookupError outside of one."""
    return current.get()


def serving_or_none() -> ServingCall | None:
    """Returns the call being served, or None outside of one."""
    return current.get(None)
