"""Identifies the caller by the one SPIFFE ID of its certificate, never by metadata."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mesh.errors import Reason, Unauthenticated
from mesh.security.peer_certificate import read_peer_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

    from mesh.rpc.call import ServingCall
    from mesh.rpc.interceptors import ServerCall, ServerRules
    from mesh.security.peer_certificate import PeerCertificate


@contextmanager
def identify(call: ServerCall) -> Iterator[None]:
    """Sets the caller. Raises Unauthenticated unless the certificate has one ID of the domain."""
    identify_caller(call.serving, call.context, call.rules)
    yield


def identify_caller(
    serving: ServingCall, context: grpc.aio.ServicerContext[Any, Any], rules: ServerRules
) -> None:
    """Sets the SPIFFE ID and the certificate of the caller.

    Raises Unauthenticated: IDENTITY_MISSING unless it has exactly one ID, in the trust domain;
    CERTIFICATE_EXPIRED outside the validity of the certificate.
    """
    peer = context.auth_context()
    ids = tuple(peer.get("peer_spiffe_id", ()))
    caller = ids[0].decode() if len(ids) == 1 else ""
    if not caller.startswith(f"spiffe://{rules.trust_domain}/"):
        raise Unauthenticated(
            f"present a certificate with one SPIFFE ID in {rules.trust_domain}",
            reason=Reason.IDENTITY_MISSING,
        )
    serving.caller = caller
    (pem,) = peer["x509_pem_cert"]
    serving.certificate = read_peer_certificate(pem)
    require_valid(serving, rules)


def require_valid(serving: ServingCall, rules: ServerRules) -> None:
    """Raises Unauthenticated (CERTIFICATE_EXPIRED) outside the validity of the certificate.

    TLS judges it at the handshake alone: a connection and a session ticket outlive it.
    """
    certificate = serving.certificate
    if certificate is None or not certificate.is_valid_at(rules.clock.wall()):
        raise Unauthenticated(
            f"the certificate of {serving.caller} {_outside(certificate)}; renew it and call again",
            reason=Reason.CERTIFICATE_EXPIRED,
        )


def _outside(certificate: PeerCertificate | None) -> str:
    if certificate is None:
        return "is not known"
    start, end = (
        datetime.fromtimestamp(moment, UTC).isoformat()
        for moment in (certificate.not_before, certificate.not_after)
    )
    return f"is valid from {start} to {end} only"
