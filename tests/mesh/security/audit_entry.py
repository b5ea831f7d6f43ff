"""An entry of the audit log."""

from __future__ import annotations

from mesh.security.audit import AuditEntry

ENTRY = AuditEntry(
    time="2026-11-23T12:00:00.000+00:00",
    trace_id="0" * 32,
    caller="spiffe://anya.internal/alice",
    method="anya.bitcoin.v1.WalletService/SendPayment",
    decision="allow",
    rule="orchestrator -> bitcoin grants 'spend'",
    policy="0" * 64,
    status="OK",
)
