"""The store that several orchestrator processes share: a PostgreSQL database."""
