"""Writes allowed and refused calls to the audit log, with the status of each."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from opentelemetry import trace

from mesh.errors import MeshError, PermissionDenied, Unauthenticated
from mesh.rpc.interceptors.errors import code_of
from mesh.security.audit import AuditEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.rpc.interceptors import ServerCall

REFUSALS = (PermissionDenied, Unauthenticated)


@contextmanager
def record(call: ServerCall) -> Iterator[None]:
    """Records refusals, and calls whose grant says ``audit: always``."""
    status = "INTERNAL"  # the caller's status for an unexpected error
    refusal: MeshError | None = None
    try:
        yield
        status = "OK"
    except MeshError as error:
        status = code_of(error).name
        refusal = error if isinstance(error, REFUSALS) else None
        raise
    except asyncio.CancelledError:
        status = "CANCELLED"
        raise
    finally:
        if refusal is not None or (call.grant is not None and call.grant.always_audited):
            call.rules.audit.record(_entry(call, status, refusal))


def _entry(call: ServerCall, status: str, refusal: MeshError | None) -> AuditEntry:
    if call.grant is None:
        rule, digest = str(refusal), call.rules.policy.current.digest
    else:
        digest = call.grant.bounds.digest
        rule = call.grant.title
        if refusal is not None:  # by the servicer: its text may quote the request
            rule += f"; refused for {refusal.reason or status}"
    return AuditEntry(
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        trace_id=trace.format_trace_id(trace.get_current_span().get_span_context().trace_id),
        caller=call.caller,
        method=call.method,
        decision="deny" if refusal is not None else "allow",
        rule=rule,
        policy=digest,
        status=status,
    )
