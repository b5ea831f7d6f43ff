"""What survives a crash: databases, idempotency records, the outbox and leases."""
