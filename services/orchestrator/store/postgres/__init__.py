"""The run store of several orchestrator replicas: a PostgreSQL database."""
