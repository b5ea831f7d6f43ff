"""The store of one orchestrator process: a SQLite file."""
