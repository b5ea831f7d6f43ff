"""Identifies the caller by the one SPIFFE ID of its certificate, never by metadata."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mesh.errors import Reason, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

    from mesh.rpc.interceptors import ServerCall


@contextmanager
def identify(call: ServerCall) -> Iterator[None]:
    """Sets the caller. Raises Unauthenticated unless the certificate has one ID of the domain."""
    call.serving.caller = caller_of(call.context, call.rules.trust_domain)
    yield


def caller_of(context: grpc.aio.ServicerContext[Any, Any], trust_domain: str) -> str:
    """Returns the SPIFFE ID of the caller.

    Raises Unauthenticated (IDENTITY_MISSING) unless it has exactly one, in ``trust_domain``.
    """
    ids = tuple(context.auth_context().get("peer_spiffe_id", ()))
    caller = ids[0].decode() if len(ids) == 1 else ""
    if not caller.startswith(f"spiffe://{trust_domain}/"):
        raise Unauthenticated(
            f"present a certificate with one SPIFFE ID in {trust_domain}",
            reason=Reason.IDENTITY_MISSING,
        )
    return caller
