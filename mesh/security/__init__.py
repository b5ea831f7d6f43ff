"""Identity of callers, trust policy, signed proofs, secrets at rest and the audit log."""
