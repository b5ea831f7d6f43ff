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

    from mesh.rpc.call import ServingCall
    from mesh.rpc.interceptors import ServerCall, ServerRules

REFUSALS = (PermissionDenied, Unauthenticated)

OK = "OK"
UNEXPECTED = "INTERNAL"  # the caller's status for an unexpected error


@contextmanager
def record(call: ServerCall) -> Iterator[None]:
    """Records refusals, and calls whose grant says ``audit: always``."""
    status = UNEXPECTED
    refusal: MeshError | None = None
    try:
        yield
        status = OK
    except (MeshError, asyncio.CancelledError) as error:
        status, refusal = outcome_of(error)
        raise
    finally:
        record_end(call.serving, call.rules, status, refusal)


def outcome_of(error: MeshError | asyncio.CancelledError) -> tuple[str, MeshError | None]:
    """Returns the status of a call that ended with ``error``, and the error if it is a refusal."""
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED", None
    return code_of(error).name, error if isinstance(error, REFUSALS) else None


def record_end(
    serving: ServingCall, rules: ServerRules, status: str, refusal: MeshError | None
) -> None:
    """Records the end of a call if it is to be audited.

    Raises Unavailable if the audit log takes no more entries: then the caller gets no reply.
    """
    if refusal is not None or (serving.grant is not None and serving.grant.always_audited):
        rules.audit.record(_entry(serving, rules, status, refusal))


def _entry(
    serving: ServingCall, rules: ServerRules, status: str, refusal: MeshError | None
) -> AuditEntry:
    if serving.grant is None:
        rule, digest = str(refusal), rules.policy.current.digest
    else:
        digest = serving.grant.bounds.digest
        rule = serving.grant.title
        if refusal is not None:  # by the servicer: its text may quote the request
            rule += f"; refused for {refusal.reason or status}"
    return AuditEntry(
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        trace_id=trace.format_trace_id(trace.get_current_span().get_span_context().trace_id),
        caller=serving.caller,
        method=serving.method,
        decision="deny" if refusal is not None else "allow",
        rule=rule,
        policy=digest,
        status=status,
    )
