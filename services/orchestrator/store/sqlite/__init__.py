"""The run store of a single orchestrator process: a SQLite file."""
