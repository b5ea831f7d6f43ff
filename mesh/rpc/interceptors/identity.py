"""Identifies the caller by the one SPIFFE ID of its certificate, never by metadata."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from mesh.errors import Reason, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.rpc.interceptors import ServerCall


@contextmanager
def identify(call: ServerCall) -> Iterator[None]:
    """Sets the caller. Raises Unauthenticated unless the certificate has one ID of the domain."""
    names = call.context.auth_context().get("peer_spiffe_id", ())
    ids = [name.decode() for name in names]
    if len(ids) != 1 or not ids[0].startswith(f"spiffe://{call.rules.trust_domain}/"):
        raise Unauthenticated(
            f"present a certificate with one SPIFFE ID in {call.rules.trust_domain}",
            reason=Reason.IDENTITY_MISSING,
        )
    call.caller = ids[0]
    yield
