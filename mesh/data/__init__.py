"""Durable state: databases, idempotency records, the outbox and leases."""
